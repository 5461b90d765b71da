/*
 * moe_mpi.so: ep/link.h over MPI.
 *
 * Built by mpicc for the MPI that is to run it; the engine itself knows none.
 */

#include <limits.h>
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ep/link.h"


/* how long the launcher may take to end all of us, and ranks to leave */
#define ABORT_S  5
#define CLOSE_S  30


static MPI_Comm     comm;
static int          nranks;
static MPI_Request  requests[2][MOE_LINK_KINDS][MOE_LINK_RANKS];
static int          got[MOE_LINK_KINDS][MOE_LINK_RANKS];
static MPI_Request  gathering;
static char         line[MPI_MAX_ERROR_STRING + 64];

const moe_link_t *moe_link_plugin(void) __attribute__((visibility("default")));


/* -1 and a line, where rc is an error */
static int
check(const char *what, int rc)
{
    int   n;
    char  text[MPI_MAX_ERROR_STRING];

    if (rc == MPI_SUCCESS) {
        return 0;
    }

    n = 0;
    text[0] = '\0';
    (void) MPI_Error_string(rc, text, &n);
    snprintf(line, sizeof(line), "%s: %s", what, text);

    return -1;
}


static int
plugin_open(uint32_t *rank, uint32_t *n, char *what, size_t size)
{
    int   i, k, r, mine, given, len;
    char  version[MPI_MAX_LIBRARY_VERSION_STRING], *end;

    if (check("MPI_Init_thread", MPI_Init_thread(NULL, NULL,
                                                 MPI_THREAD_FUNNELED, &given))
        != 0
        || check("MPI_Comm_dup", MPI_Comm_dup(MPI_COMM_WORLD, &comm)) != 0)
    {
        return -1;
    }

    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &mine);
    MPI_Comm_size(comm, &nranks);
    MPI_Get_library_version(version, &len);

    end = strpbrk(version, ",\n");
    if (end != NULL) {
        *end = '\0';
    }

    snprintf(what, size, "%s", version);

    if (nranks > MOE_LINK_RANKS) {
        snprintf(line, sizeof(line), "%d ranks, at most %d", nranks,
                 MOE_LINK_RANKS);
        return -1;
    }

    for (i = 0; i < 2; i++) {
        for (k = 0; k < MOE_LINK_KINDS; k++) {
            for (r = 0; r < MOE_LINK_RANKS; r++) {
                requests[i][k][r] = MPI_REQUEST_NULL;
            }
        }
    }

    gathering = MPI_REQUEST_NULL;
    *rank = (uint32_t) mine;
    *n = (uint32_t) nranks;

    return 0;
}


static int
fits(const MPI_Request *request, size_t bytes)
{
    if (*request != MPI_REQUEST_NULL) {
        snprintf(line, sizeof(line), "a message of this kind is under way");
        return -1;
    }

    if (bytes > INT_MAX) {
        snprintf(line, sizeof(line), "a message of %zu bytes", bytes);
        return -1;
    }

    return 0;
}


static int
plugin_recv(moe_link_kind_e kind, uint32_t from, void *buf, size_t bytes)
{
    MPI_Request  *request;

    request = &requests[MOE_LINK_IN][kind][from];

    if (fits(request, bytes) != 0) {
        return -1;
    }

    return check("MPI_Irecv", MPI_Irecv(buf, (int) bytes, MPI_BYTE,
                                        (int) from, (int) kind, comm,
                                        request));
}


static int
plugin_send(moe_link_kind_e kind, uint32_t to, const void *buf, size_t bytes)
{
    MPI_Request  *request;

    request = &requests[MOE_LINK_OUT][kind][to];

    if (fits(request, bytes) != 0) {
        return -1;
    }

    return check("MPI_Isend", MPI_Isend(buf, (int) bytes, MPI_BYTE, (int) to,
                                        (int) kind, comm, request));
}


static int
plugin_pending(moe_link_way_e way, moe_link_kind_e kind, uint64_t *ranks)
{
    int           i, r, n, rc, done[MOE_LINK_RANKS];
    MPI_Status    statuses[MOE_LINK_RANKS];
    MPI_Request  *list;

    list = requests[way][kind];
    *ranks = 0;

    rc = MPI_Testsome(nranks, list, &n, done, statuses);

    for (i = 0; rc == MPI_ERR_IN_STATUS && i < n; i++) {
        if (statuses[i].MPI_ERROR != MPI_SUCCESS) {
            rc = statuses[i].MPI_ERROR;
        }
    }

    if (check(way == MOE_LINK_IN ? "MPI_Irecv" : "MPI_Isend", rc) != 0) {
        return -1;
    }

    for (i = 0; n != MPI_UNDEFINED && way == MOE_LINK_IN && i < n; i++) {
        MPI_Get_count(&statuses[i], MPI_BYTE, &got[kind][done[i]]);
    }

    for (r = 0; r < nranks; r++) {
        if (list[r] != MPI_REQUEST_NULL) {
            *ranks |= 1ull << r;
        }
    }

    return 0;
}


static size_t
plugin_got(moe_link_kind_e kind, uint32_t from)
{
    return got[kind][from] < 0 ? 0 : (size_t) got[kind][from];
}


static int
plugin_gather(const void *mine, void *all, size_t bytes)
{
    if (fits(&gathering, bytes) != 0) {
        return -1;
    }

    return check("MPI_Iallgather",
                 MPI_Iallgather(mine, (int) bytes, MPI_BYTE, all, (int) bytes,
                                MPI_BYTE, comm, &gathering));
}


static int
plugin_gathered(void)
{
    int  done;

    done = 0;

    if (check("MPI_Iallgather", MPI_Test(&gathering, &done,
                                         MPI_STATUS_IGNORE)) != 0)
    {
        return -1;
    }

    return done != 0;
}


static const char *
plugin_why(void)
{
    return line;
}


/* the launcher may be as dead as the rank that we miss */
static void
plugin_abort(int code)
{
    int  started;

    signal(SIGALRM, SIG_DFL);
    alarm(ABORT_S);

    if (MPI_Initialized(&started) == MPI_SUCCESS && started) {
        MPI_Abort(MPI_COMM_WORLD, code);
    }

    _exit(code);
}


static void
plugin_cancel(void)
{
    int           k, r;
    MPI_Request  *request;

    for (k = 0; k < MOE_LINK_KINDS; k++) {
        for (r = 0; r < nranks; r++) {
            request = &requests[MOE_LINK_IN][k][r];

            if (*request != MPI_REQUEST_NULL) {
                MPI_Cancel(request);
                MPI_Wait(request, MPI_STATUS_IGNORE);
            }
        }
    }
}


static void
plugin_close(void)
{
    signal(SIGALRM, SIG_DFL);
    alarm(CLOSE_S);
    MPI_Finalize();
    alarm(0);
}


static const moe_link_t  plugin = {
    .version = MOE_LINK_VERSION,
    .open = plugin_open,
    .recv = plugin_recv,
    .send = plugin_send,
    .pending = plugin_pending,
    .got = plugin_got,
    .gather = plugin_gather,
    .gathered = plugin_gathered,
    .why = plugin_why,
    .abort = plugin_abort,
    .cancel = plugin_cancel,
    .close = plugin_close
};


const moe_link_t *
moe_link_plugin(void)
{
    return &plugin;
}
