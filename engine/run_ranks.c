#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/launched.h"
#include "ep/nccl_join.h"
#include "ep/nccl_rows.h"
#include "run_ranks.h"


/* those that rank 0 has forked; for the signal handler */
static struct {
    moe_shm_t  *shm;
    pid_t       pids[MOE_SHM_RANKS];
    uint32_t    n;
} children;


/* the others' waits end with the rank that has gone */
static void
child_died(int signo)
{
    int       saved, status;
    uint32_t  r;

    saved = errno;

    for (r = 1; r < children.n; r++) {
        if (children.pids[r] > 0
            && waitpid(children.pids[r], &status, WNOHANG)
               == children.pids[r])
        {
            children.pids[r] = 0;
            moe_shm_lost(children.shm, r);
        }
    }

    errno = saved;
}


static int
start_children(moe_run_ranks_t *r, moe_err_t *err)
{
    int               fds[2];
    uint32_t          i;
    struct sigaction  sa;

    if (pipe(fds) == -1) {
        return moe_err(err, "pipe() failed: %s", strerror(errno));
    }

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = child_died;
    sa.sa_flags = SA_RESTART|SA_NOCLDSTOP;
    sigaction(SIGCHLD, &sa, NULL);

    children.shm = r->shm;

    for (i = 1; i < r->nranks; i++) {
        children.n = i + 1;
        children.pids[i] = fork();

        if (children.pids[i] == -1) {
            return moe_err(err, "fork() failed: %s", strerror(errno));
        }

        if (children.pids[i] == 0) {
            prctl(PR_SET_PDEATHSIG, SIGKILL);
            signal(SIGCHLD, SIG_DFL);
            close(fds[1]);
            r->parent = fds[0];
            r->rank = i;
            return 1;
        }
    }

    close(fds[0]);
    r->parent = fds[1];

    return 0;
}


static moe_exchange_t *
make_exchange(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    moe_run_ranks_t    *r = ctx;
    moe_shm_options_t   so = { .rank = r->rank, .memory = memory };
    moe_mpi_options_t   mo = { .memory = memory };

    if (r->mpi.nccl != NULL) {
        mo.fixed_rows = moe_nccl_fixed_rows(shape, r->nranks);
    }

    r->exchange = r->shm ? moe_exchange_shm(r->shm, shape, &so, err)
                         : moe_exchange_mpi(&r->mpi, shape, &mo, err);

    return r->exchange;
}


static int
join_launched(moe_run_ranks_t *r, const moe_launched_t *l, uint32_t nranks,
    int by_env, int nccl, moe_err_t *err)
{
    if (nranks != 0 && nranks != l->size) {
        return moe_err(err, "%u ranks where %u were launched", nranks,
                       l->size);
    }

    if (moe_mpi_join(&r->mpi, by_env, nccl, err) != 0) {
        return -1;
    }

    r->rank = r->mpi.rank;
    r->nranks = r->mpi.nranks;

    return r->rank != 0;
}


int
moe_run_ranks_start(moe_run_ranks_t *r, uint32_t nranks, const char *dir,
    moe_model_options_t *o, moe_err_t *err)
{
    int                   rc, launched, by_env, nccl;
    moe_launched_t        l;
    moe_exchange_shape_t  shape;

    r->parent = -1;
    r->nranks = nranks ? nranks : 1;

    /* rows that are in GPUs go from one to the other */
    nccl = o->kernels != NULL && strncmp(o->kernels, "cuda", 4) == 0;
    by_env = nccl && moe_launched_env(&l, NULL);
    launched = by_env || moe_launched(&l);

    if (launched) {
        o->device = l.local_rank;
        o->threads = o->threads ? o->threads
                                : moe_launched_threads(l.local_size, 1);
        rc = join_launched(r, &l, nranks, by_env, nccl, err);

    } else if (r->nranks > 1) {
        o->threads = o->threads ? o->threads
                                : moe_launched_threads(r->nranks, 0);

        if (moe_model_exchange_shape(dir, o, &shape, err) != 0) {
            return -1;
        }

        r->shm = moe_shm_create(&shape, r->nranks, err);
        rc = r->shm ? start_children(r, err) : -1;

    } else {
        return 0;
    }

    if (rc >= 0) {
        o->exchange = make_exchange;
        o->exchange_ctx = r;
    }

    /* drafts are rank 0's own */
    if (rc == 1) {
        o->mtp = 0;
    }

    return rc;
}


/* rank 0 has gone, and with it the pipe's other end */
static int
is_alone(const moe_run_ranks_t *r)
{
    struct pollfd  pfd = { .fd = r->parent, .events = POLLIN };

    return r->shm != NULL && poll(&pfd, 1, 0) > 0;
}


static int
follow(moe_run_ranks_t *r, moe_model_t *m, moe_err_t *err)
{
    moe_batch_t      none;
    moe_exchange_t  *x;

    memset(&none, 0, sizeof(none));
    x = r->exchange;

    if (x == NULL) {
        return moe_err(err, "the model has no experts to be spread over "
                       "ranks");
    }

    if (r->shm == NULL) {
        moe_exchange_mpi_leave(x);
    }

    for ( ;; ) {
        (void) x->ops->doze(x, r->parent, -1);

        if (x->ops->asked(x) && moe_model_step(m, &none, NULL, err) != 0) {
            return is_alone(r) ? 0 : -1;
        }

        if (r->shm ? is_alone(r) : moe_exchange_mpi_over(x)) {
            return 0;
        }
    }
}


int
moe_run_ranks_follow(moe_run_ranks_t *r, const char *dir,
    moe_model_options_t *o, moe_err_t *err)
{
    int           rc;
    moe_model_t  *m;

    m = moe_model_open(dir, o, NULL, NULL, err);
    if (m == NULL) {
        return -1;
    }

    rc = follow(r, m, err);
    moe_model_close(m);

    return rc;
}


int
moe_run_ranks_leave(moe_run_ranks_t *r, moe_model_t *m, moe_err_t *err)
{
    moe_batch_t  none;

    if (r->mpi.link == NULL || r->exchange == NULL) {
        return 0;
    }

    memset(&none, 0, sizeof(none));
    moe_exchange_mpi_leave(r->exchange);

    return moe_model_step(m, &none, NULL, err);
}


int
moe_run_ranks_stop(moe_run_ranks_t *r, int rc)
{
    uint32_t  i;

    if (r->mpi.link != NULL) {
        if (rc != 0) {
            r->mpi.link->abort(rc);
        }

        r->mpi.link->close();
    }

    if (r->shm != NULL && r->rank == 0) {
        signal(SIGCHLD, SIG_DFL);
        close(r->parent);

        for (i = 1; i < children.n; i++) {
            if (children.pids[i] > 0) {
                waitpid(children.pids[i], NULL, 0);
            }
        }
    }

    moe_shm_free(r->shm);

    return rc;
}
