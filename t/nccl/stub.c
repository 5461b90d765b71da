/*
 * libnccl.so.2 for tests: the names that engine/ep/nccl.h has, between
 * processes of one host that have no GPU.  A communicator is a segment of
 * shared memory named by its id; for every pair of ranks there is a ring of
 * bytes, with the length of each message before it.
 *
 * It is as hard on its caller as the real one:
 *
 *   memory   is the emulated device's, which the process itself may not touch
 *            (t/cuda/simt.h): it is opened for the copy and closed again, so
 *            memory of the process's own ends the test
 *   calls    nothing is done in a call; ncclCommGetAsyncError moves things on
 *            and says ncclInProgress until they are done
 *   streams  what is sent is what the stream has made of memory so far, and
 *            what has come is put there as late as the stream allows
 *            (t/cuda/stream.h)
 *   sizes    a message that is not as long as who receives it says is an
 *            error, as is a call in the wrong order or on an aborted
 *            communicator
 *
 * MOE_STUB_VERSION says which version it is; with MOE_STUB_SHORT it has no
 * ncclCommAbort.
 */

#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MOE_NCCL_DECLARATIONS
#include "ep/nccl.h"
#include "t/cuda/stream.h"


#ifndef MOE_STUB_VERSION
#define MOE_STUB_VERSION  22809
#endif

enum {
    RANKS = 16,
    RING = 1 << 20,
    MESSAGES = 2 * RANKS,
    PAGE = 4096,

    /* the library's own numbers */
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5
};


/* bytes of one rank for another: written and read so far */
typedef struct {
    _Atomic uint64_t  put;
    _Atomic uint64_t  taken;
    unsigned char     bytes[RING];
} ring_t;

typedef struct {
    _Atomic uint32_t  joined;
    _Atomic uint32_t  left;
    ring_t            rings[RANKS][RANKS];      /* from, to */
} segment_t;

typedef struct {
    int             in;
    uint32_t        peer;
    unsigned char  *buf;
    unsigned char  *came;           /* count bytes, of one that comes in */
    uint64_t        count;
    uint64_t        done;           /* of the length, then of the bytes */
} message_t;

/* what is to be put into device memory */
typedef struct {
    unsigned char  *buf;
    unsigned char  *came;
    uint64_t        count;
} arrival_t;

struct ncclComm {
    segment_t     *segment;
    uint32_t       rank;
    uint32_t       nranks;
    int            failed;
    enum { JOINS, IDLE, BEGINS, MOVES, LEAVES }  state;
    simt_stream_t *stream;          /* of the messages */
    message_t      messages[MESSAGES];
    uint32_t       nmessages;
};


#define EXPORT(type, name, args)                                              \
    type name args __attribute__((visibility("default")));

MOE_NCCL_SYMBOLS(EXPORT)


static char        last[200];
static int         depth;           /* of groups */
static ncclComm_t  grouped;


static ncclResult_t
wrong(int rc, const char *what)
{
    snprintf(last, sizeof(last), "stub: %s", what);

    return (ncclResult_t) rc;
}


ncclResult_t
ncclGetVersion(int *version)
{
    *version = MOE_STUB_VERSION;

    return ncclSuccess;
}


const char *
ncclGetErrorString(ncclResult_t result)
{
    return (int) result == INVALID_ARGUMENT ? "invalid argument"
           : (int) result == INVALID_USAGE ? "invalid usage" : "no error";
}


const char *
ncclGetLastError(ncclComm_t comm)
{
    return last;
}


ncclResult_t
ncclGetUniqueId(ncclUniqueId *id)
{
    static unsigned  n;

    memset(id, 0, sizeof(*id));
    snprintf(id->internal, sizeof(id->internal), "/moe-nccl-stub-%d-%u",
             (int) getpid(), n++);

    return ncclSuccess;
}


static segment_t *
open_segment(const char *name)
{
    int    fd;
    void  *p;

    fd = shm_open(name, O_RDWR|O_CREAT, 0600);

    if (fd == -1 || ftruncate(fd, sizeof(segment_t)) != 0) {
        return NULL;
    }

    p = mmap(NULL, sizeof(segment_t), PROT_READ|PROT_WRITE,
             MAP_SHARED|MAP_NORESERVE, fd, 0);
    close(fd);

    return p == MAP_FAILED ? NULL : p;
}


ncclResult_t
ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id,
    int rank, ncclConfig_t *config)
{
    ncclComm_t  c;

    if (config == NULL || config->size != sizeof(ncclConfig_t)
        || config->magic != (unsigned) NCCL_CONFIG_MAGIC
        || config->blocking != 0)
    {
        return wrong(INVALID_ARGUMENT, "no configuration that does not block");
    }

    if (nranks < 1 || nranks > RANKS || rank < 0 || rank >= nranks
        || strncmp(id.internal, "/moe-nccl-stub-", 15) != 0)
    {
        return wrong(INVALID_ARGUMENT, "no such rank, or no id");
    }

    c = calloc(1, sizeof(*c));
    c->segment = open_segment(id.internal);
    c->rank = (uint32_t) rank;
    c->nranks = (uint32_t) nranks;
    c->state = JOINS;

    if (c->segment == NULL) {
        free(c);
        return wrong(INVALID_ARGUMENT, "no shared memory");
    }

    /* all have it open then */
    if (atomic_fetch_add(&c->segment->joined, 1) + 1 == c->nranks) {
        shm_unlink(id.internal);
    }

    *comm = c;

    return ncclInProgress;
}


/* of device memory, which is out of bounds but for this moment */
static void
copy(void *to, const void *from, size_t n, const void *device)
{
    uintptr_t  begin, end;

    begin = (uintptr_t) device / PAGE * PAGE;
    end = ((uintptr_t) device + n + PAGE - 1) / PAGE * PAGE;

    if (mprotect((void *) begin, end - begin, PROT_READ|PROT_WRITE) != 0) {
        abort();
    }

    memcpy(to, from, n);
    (void) mprotect((void *) begin, end - begin, PROT_NONE);
}


/* with its length, and to the next whole length behind it */
static uint64_t
size(const message_t *m)
{
    return 8 + (m->count + 7) / 8 * 8;
}


/* as much as there is room for, or as has come */
static int
move(ncclComm_t c, message_t *m)
{
    size_t     n, k, at;
    ring_t    *r;
    uint64_t   length, put, taken;

    r = m->in ? &c->segment->rings[m->peer][c->rank]
              : &c->segment->rings[c->rank][m->peer];

    for ( ;; ) {
        put = atomic_load(&r->put);
        taken = atomic_load(&r->taken);
        n = m->in ? put - taken : RING - (put - taken);
        at = (m->in ? taken : put) % RING;
        n = n < RING - at ? n : RING - at;

        if (m->done == 0) {
            if (n < sizeof(length)) {
                return 0;
            }

            n = sizeof(length);

            if (m->in) {
                memcpy(&length, r->bytes + at, n);

                if (length != m->count) {
                    wrong(INVALID_USAGE, "a message of another length");
                    return -1;
                }

            } else {
                memcpy(r->bytes + at, &m->count, n);
            }

        } else {
            n = n < size(m) - m->done ? n : size(m) - m->done;

            if (n == 0) {
                return 0;
            }

            k = m->done - 8 + n > m->count ? m->count + 8 - m->done : n;

            if (m->in) {
                memcpy(m->came + m->done - 8, r->bytes + at, k);
            } else {
                copy(r->bytes + at, m->buf + m->done - 8, k,
                     m->buf + m->done - 8);
            }
        }

        m->done += n;
        atomic_fetch_add(m->in ? &r->taken : &r->put, n);
    }
}


static void
arrive(void *ctx)
{
    arrival_t  *a = ctx;

    copy(a->buf, a->came, a->count, a->buf);
    free(a->came);
    free(a);
}


/* all have come and gone */
static void
bring(ncclComm_t c)
{
    uint32_t    i;
    message_t  *m;
    arrival_t  *a;

    for (i = 0; i < c->nmessages; i++) {
        m = &c->messages[i];

        if (m->in) {
            a = malloc(sizeof(*a));
            *a = (arrival_t) { m->buf, m->came, m->count };
            c->stream->bring(c->stream, arrive, a);
        }
    }

    c->nmessages = 0;
    c->state = IDLE;
}


static void
step(ncclComm_t c)
{
    uint32_t    i, left;
    message_t  *m;

    switch (c->state) {

    case JOINS:
        if (atomic_load(&c->segment->joined) == c->nranks) {
            c->state = IDLE;
        }

        break;

    case BEGINS:
        c->stream->reach(c->stream);
        c->state = MOVES;
        break;

    case MOVES:
        left = 0;

        for (i = 0; i < c->nmessages; i++) {
            m = &c->messages[i];

            if (m->done != size(m) && move(c, m) != 0) {
                c->failed = INVALID_USAGE;
                return;
            }

            left += m->done != size(m);
        }

        if (left == 0) {
            bring(c);
        }

        break;

    case LEAVES:
        if (atomic_load(&c->segment->left) == c->nranks) {
            c->state = IDLE;
        }

        break;

    case IDLE:
        break;
    }
}


ncclResult_t
ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result)
{
    if (!comm->failed) {
        step(comm);
    }

    *result = comm->failed ? (ncclResult_t) comm->failed
              : comm->state == IDLE ? ncclSuccess : ncclInProgress;

    return ncclSuccess;
}


ncclResult_t
ncclGroupStart(void)
{
    depth++;

    return ncclSuccess;
}


ncclResult_t
ncclGroupEnd(void)
{
    ncclComm_t  c;

    if (depth != 1) {
        return wrong(INVALID_USAGE, "a group's end without its beginning");
    }

    depth = 0;
    c = grouped;
    grouped = NULL;

    if (c == NULL) {
        return ncclSuccess;
    }

    c->state = BEGINS;

    return ncclInProgress;
}


static ncclResult_t
add(ncclComm_t c, int in, const void *buf, size_t count, ncclDataType_t type,
    int peer, cudaStream_t stream)
{
    message_t  *m;

    if (depth != 1 || c->state != IDLE || type != NCCL_BYTES
        || stream == NULL || count == 0)
    {
        return wrong(INVALID_USAGE, "a message outside of a group, without a "
                     "stream or bytes, or while another is under way");
    }

    if (peer < 0 || peer >= (int) c->nranks || peer == (int) c->rank
        || c->nmessages == MESSAGES
        || (c->nmessages != 0 && c->stream != stream))
    {
        return wrong(INVALID_ARGUMENT, "no such peer, or two streams in a "
                     "group");
    }

    m = &c->messages[c->nmessages++];
    m->in = in;
    m->peer = (uint32_t) peer;
    m->buf = (unsigned char *) (uintptr_t) buf;
    m->came = in ? malloc(count) : NULL;
    m->count = count;
    m->done = 0;
    c->stream = stream;
    grouped = c;

    return ncclSuccess;
}


ncclResult_t
ncclSend(const void *buf, size_t count, ncclDataType_t type, int peer,
    ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, 0, buf, count, type, peer, stream);
}


ncclResult_t
ncclRecv(void *buf, size_t count, ncclDataType_t type, int peer,
    ncclComm_t comm, cudaStream_t stream)
{
    return add(comm, 1, buf, count, type, peer, stream);
}


ncclResult_t
ncclCommFinalize(ncclComm_t comm)
{
    if (comm->state != IDLE) {
        return wrong(INVALID_USAGE, "an end in the midst of messages");
    }

    atomic_fetch_add(&comm->segment->left, 1);
    comm->state = LEAVES;

    return ncclInProgress;
}


static void
forget(ncclComm_t c)
{
    munmap(c->segment, sizeof(segment_t));
    free(c);
}


ncclResult_t
ncclCommDestroy(ncclComm_t comm)
{
    if (comm->state != IDLE) {
        return wrong(INVALID_USAGE, "destroyed in the midst of messages");
    }

    forget(comm);

    return ncclSuccess;
}


#ifndef MOE_STUB_SHORT

ncclResult_t
ncclCommAbort(ncclComm_t comm)
{
    forget(comm);

    return ncclSuccess;
}

#endif
