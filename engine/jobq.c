#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "jobq.h"


#define MOE_HALF_MAGIC_AT    0
#define MOE_HALF_VERSION_AT  4
#define MOE_HALF_SIDE_AT     8
#define MOE_HALF_SIZE_AT     12
#define MOE_HALF_HEAD_AT     64
#define MOE_HALF_TAIL_AT     128
#define MOE_HALF_WAKE_AT     192
#define MOE_HALF_STARVED_AT  256
#define MOE_HALF_SEQ_AT      4096
#define MOE_HALF_STATS_AT    4104
#define MOE_HALF_EXPERTS_SEQ_AT  8192
#define MOE_HALF_EXPERTS_AT      8200

#define MOE_KICK             'k'
#define MOE_DRAIN_MAX        64
#define MOE_STATS_TRIES      100

#define MOE_SEALS            (F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_SEAL         \
                              |MOE_SEAL_FUTURE_WRITE)

/* Linux 5.1; not in every libc's header under every feature macro */
#define MOE_SEAL_FUTURE_WRITE  0x0010



_Static_assert(sizeof(moe_frame_t) == 16, "frame header");
_Static_assert(sizeof(moe_stats_t) % 8 == 0, "statistics in words");
_Static_assert(sizeof(moe_experts_t) % 8 == 0, "experts in words");
_Static_assert(MOE_HALF_STATS_AT + sizeof(moe_stats_t)
               <= MOE_HALF_EXPERTS_SEQ_AT, "statistics below the experts");
_Static_assert(MOE_HALF_EXPERTS_AT + sizeof(moe_experts_t) <= MOE_RING_OFFSET,
               "statistics page");
_Static_assert(sizeof(moe_hello_t) <= 8192, "hello in one datagram");


const uint64_t  moe_stats_bounds_us[MOE_STATS_BUCKETS - 1] = {
    1000, 2500, 5000, 10000, 15000, 20000, 30000, 50000, 75000, 100000,
    150000, 250000, 500000, 1000000, 2500000, 5000000, 10000000, 30000000,
    60000000
};


static inline _Atomic uint32_t *
moe_own_word(moe_lane_t *l, size_t at)
{
    return (_Atomic uint32_t *) (void *) (l->own + at);
}


static inline uint32_t
moe_peer_word(const moe_lane_t *l, size_t at, memory_order order)
{
    return atomic_load_explicit((const _Atomic uint32_t *)
                                (const void *) (l->peer + at), order);
}


static int
moe_lane_broken(moe_lane_t *l, const char *why)
{
    l->why = why;
    errno = EPROTO;
    return MOE_JOBQ_ERROR;
}


void
moe_histogram_add(moe_histogram_t *h, uint64_t us)
{
    unsigned  i;

    for (i = 0; i < MOE_STATS_BUCKETS - 1; i++) {
        if (us <= moe_stats_bounds_us[i]) {
            break;
        }
    }

    h->count[i]++;
    h->sum_us += us;
}


/* halves */


int
moe_lane_create(moe_lane_t *l, int fd, moe_side_e side, size_t size)
{
    int        memfd, saved;
    void      *p;
    uint32_t   ring, *half;

    memset(l, 0, sizeof(moe_lane_t));

    l->fd = fd;
    l->side = side;
    l->memfd = -1;

    if (size > MOE_RING_MAX) {
        size = MOE_RING_MAX;
    }

    for (ring = MOE_RING_MIN; ring < size; ring <<= 1) { /* void */ }

    memfd = memfd_create("moe-lane", MFD_CLOEXEC|MFD_ALLOW_SEALING);
    if (memfd == -1) {
        l->why = "memfd_create() failed";
        return MOE_JOBQ_ERROR;
    }

    if (ftruncate(memfd, (off_t) MOE_RING_OFFSET + ring) == -1) {
        l->why = "ftruncate() of a lane failed";
        goto failed;
    }

    p = mmap(NULL, (size_t) MOE_RING_OFFSET + ring, PROT_READ|PROT_WRITE,
             MAP_SHARED, memfd, 0);
    if (p == MAP_FAILED) {
        l->why = "mmap() of a lane failed";
        goto failed;
    }

    l->own = p;
    l->own_size = ring;

    half = p;
    half[MOE_HALF_MAGIC_AT / 4] = MOE_HALF_MAGIC;
    half[MOE_HALF_VERSION_AT / 4] = MOE_JOBQ_VERSION;
    half[MOE_HALF_SIDE_AT / 4] = side;
    half[MOE_HALF_SIZE_AT / 4] = ring;

    if (fcntl(memfd, F_ADD_SEALS, MOE_SEALS) == -1) {
        l->why = "sealing a lane failed";
        goto failed;
    }

    l->memfd = memfd;
    return MOE_JOBQ_OK;

failed:

    saved = errno;
    moe_lane_destroy(l);
    close(memfd);
    errno = saved;

    return MOE_JOBQ_ERROR;
}


void
moe_lane_destroy(moe_lane_t *l)
{
    if (l->own) {
        munmap(l->own, (size_t) MOE_RING_OFFSET + l->own_size);
        l->own = NULL;
    }

    if (l->peer) {
        munmap((void *) (uintptr_t) l->peer,
               (size_t) MOE_RING_OFFSET + l->peer_size);
        l->peer = NULL;
    }

    if (l->memfd != -1) {
        close(l->memfd);
        l->memfd = -1;
    }
}


/* hello */


static int
moe_hello_send(int fd, const moe_hello_t *hello, int memfd)
{
    ssize_t         n;
    struct iovec    iov;
    struct msghdr   msg;

    union {
        struct cmsghdr  hdr;
        char            buf[CMSG_SPACE(sizeof(int))];
    } ctl;

    memset(&msg, 0, sizeof(msg));
    memset(&ctl, 0, sizeof(ctl));

    iov.iov_base = (void *) (uintptr_t) hello;
    iov.iov_len = sizeof(moe_hello_t);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;

    if (memfd != -1) {
        msg.msg_control = ctl.buf;
        msg.msg_controllen = sizeof(ctl.buf);
        ctl.hdr.cmsg_level = SOL_SOCKET;
        ctl.hdr.cmsg_type = SCM_RIGHTS;
        ctl.hdr.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&ctl.hdr), &memfd, sizeof(int));
    }

    do {
        n = sendmsg(fd, &msg, MSG_DONTWAIT|MSG_NOSIGNAL);
    } while (n == -1 && errno == EINTR);

    if (n == -1) {
        return errno == EAGAIN ? MOE_JOBQ_AGAIN : MOE_JOBQ_ERROR;
    }

    return MOE_JOBQ_OK;
}


int
moe_lane_hello(moe_lane_t *l, moe_hello_t *hello)
{
    int  rc;

    hello->magic = MOE_HELLO_MAGIC;
    hello->version = MOE_JOBQ_VERSION;
    hello->side = l->side;
    hello->ring_size = l->own_size;
    hello->slots = MOE_SLOTS;
    hello->max_job = (l->peer ? l->peer_size : l->own_size) / 2
                     - sizeof(moe_frame_t);

    rc = moe_hello_send(l->fd, hello, l->memfd);

    if (rc == MOE_JOBQ_OK) {
        close(l->memfd);
        l->memfd = -1;

    } else if (rc == MOE_JOBQ_ERROR) {
        l->why = "sending hello failed";
    }

    return rc;
}


void
moe_hello_refuse(int fd, uint32_t status, const char *text)
{
    moe_hello_t  hello;

    memset(&hello, 0, sizeof(moe_hello_t));

    hello.magic = MOE_HELLO_MAGIC;
    hello.version = MOE_JOBQ_VERSION;
    hello.side = MOE_SIDE_ENGINE;
    hello.status = status;
    strncpy(hello.text, text, sizeof(hello.text) - 1);

    (void) moe_hello_send(fd, &hello, -1);
}


/* receives one datagram; *memfd is the only descriptor that came, or -1 */

static ssize_t
moe_hello_recv(int fd, moe_hello_t *hello, int *memfd)
{
    int              got[8];
    size_t           i, n;
    ssize_t          size;
    struct iovec     iov;
    struct msghdr    msg;
    struct cmsghdr  *c;

    union {
        struct cmsghdr  hdr;
        char            buf[CMSG_SPACE(8 * sizeof(int))];
    } ctl;

    memset(&msg, 0, sizeof(msg));
    memset(hello, 0, sizeof(moe_hello_t));

    iov.iov_base = hello;
    iov.iov_len = sizeof(moe_hello_t);
    msg.msg_iov = &iov;
    msg.msg_iovlen = 1;
    msg.msg_control = ctl.buf;
    msg.msg_controllen = sizeof(ctl.buf);

    *memfd = -1;

    do {
        size = recvmsg(fd, &msg, MSG_DONTWAIT|MSG_CMSG_CLOEXEC);
    } while (size == -1 && errno == EINTR);

    if (size == -1) {
        return -1;
    }

    for (c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
            continue;
        }

        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        memcpy(got, CMSG_DATA(c), n * sizeof(int));

        for (i = 0; i < n; i++) {
            if (*memfd == -1) {
                *memfd = got[i];

            } else {
                close(got[i]);
            }
        }
    }

    return size;
}


/* seals and size first, then the map, then what the maker wrote into it */

static int
moe_half_map(moe_lane_t *l, int memfd, uint32_t ring)
{
    int              seals;
    void            *p;
    size_t           size;
    moe_side_e       side;
    struct stat      st;
    const uint32_t  *half;

    if (ring < MOE_RING_MIN || ring > MOE_RING_MAX || (ring & (ring - 1))) {
        return moe_lane_broken(l, "peer's ring has an impossible size");
    }

    seals = fcntl(memfd, F_GET_SEALS);

    if (seals == -1 || (seals & MOE_SEALS) != MOE_SEALS) {
        return moe_lane_broken(l, "peer's memory is not sealed");
    }

    size = (size_t) MOE_RING_OFFSET + ring;

    if (fstat(memfd, &st) == -1 || st.st_size != (off_t) size) {
        return moe_lane_broken(l, "peer's memory has another size");
    }

    p = mmap(NULL, size, PROT_READ, MAP_SHARED, memfd, 0);
    if (p == MAP_FAILED) {
        l->why = "mmap() of the peer's half failed";
        return MOE_JOBQ_ERROR;
    }

    half = p;
    side = l->side == MOE_SIDE_ENGINE ? MOE_SIDE_SUBMITTER : MOE_SIDE_ENGINE;

    if (half[MOE_HALF_MAGIC_AT / 4] != MOE_HALF_MAGIC
        || half[MOE_HALF_VERSION_AT / 4] != MOE_JOBQ_VERSION
        || half[MOE_HALF_SIDE_AT / 4] != side
        || half[MOE_HALF_SIZE_AT / 4] != ring)
    {
        munmap(p, size);
        return moe_lane_broken(l, "peer's memory is not a lane's half");
    }

    l->peer = p;
    l->peer_size = ring;
    l->max_frame = l->side == MOE_SIDE_ENGINE
                   ? ring / 2 : MOE_EVENT_MAX;

    return MOE_JOBQ_OK;
}


int
moe_lane_accept(moe_lane_t *l, moe_hello_t *hello)
{
    int         rc, memfd;
    size_t      i;
    ssize_t     n;
    moe_side_e  side;

    n = moe_hello_recv(l->fd, hello, &memfd);

    if (n == -1) {
        if (errno == EAGAIN) {
            return MOE_JOBQ_AGAIN;
        }

        l->why = "receiving hello failed";
        return MOE_JOBQ_ERROR;
    }

    side = l->side == MOE_SIDE_ENGINE ? MOE_SIDE_SUBMITTER : MOE_SIDE_ENGINE;

    hello->text[sizeof(hello->text) - 1] = '\0';

    if (n == 0) {
        rc = moe_lane_broken(l, "peer closed before its hello");

    } else if (n != sizeof(moe_hello_t) || hello->magic != MOE_HELLO_MAGIC) {
        rc = moe_lane_broken(l, "peer's hello is not one");

    } else if (hello->version != MOE_JOBQ_VERSION) {
        rc = moe_lane_broken(l, "peer speaks another version");

    } else if (hello->side != side) {
        rc = moe_lane_broken(l, "peer is of the same side");

    } else if (side == MOE_SIDE_ENGINE && hello->status != 200) {
        rc = moe_lane_broken(l, "engine refused");

    } else if (memfd == -1) {
        rc = moe_lane_broken(l, "peer's hello brought no memory");

    } else if (hello->nmodels > MOE_MODELS_MAX) {
        rc = moe_lane_broken(l, "peer's hello names too many models");

    } else {
        rc = moe_half_map(l, memfd, hello->ring_size);
    }

    for (i = 0; i < MOE_MODELS_MAX; i++) {
        hello->models[i].name[MOE_MODEL_NAME_MAX - 1] = '\0';
    }

    if (memfd != -1) {
        close(memfd);
    }

    return rc;
}


/* rings */


static void
moe_ring_write(moe_lane_t *l, uint32_t at, const void *src, size_t n)
{
    size_t    first;
    uint8_t  *ring;

    ring = l->own + MOE_RING_OFFSET;
    at &= l->own_size - 1;
    first = l->own_size - at;

    if (first > n) {
        first = n;
    }

    memcpy(ring + at, src, first);
    memcpy(ring, (const uint8_t *) src + first, n - first);
}


static void
moe_ring_read(const moe_lane_t *l, uint32_t at, void *dst, size_t n)
{
    size_t          first;
    const uint8_t  *ring;

    ring = l->peer + MOE_RING_OFFSET;
    at &= l->peer_size - 1;
    first = l->peer_size - at;

    if (first > n) {
        first = n;
    }

    memcpy(dst, ring + at, first);
    memcpy((uint8_t *) dst + first, ring, n - first);
}


/* free bytes of the own ring, or -1 when the peer's tail is impossible */

static int64_t
moe_ring_free(moe_lane_t *l)
{
    uint32_t  used;

    used = l->head - moe_peer_word(l, MOE_HALF_TAIL_AT, memory_order_acquire);

    if (used > l->own_size) {
        (void) moe_lane_broken(l, "peer took more than there was");
        return -1;
    }

    return l->own_size - used;
}


static void
moe_starved(moe_lane_t *l, uint32_t value)
{
    if (atomic_load_explicit(moe_own_word(l, MOE_HALF_STARVED_AT),
                             memory_order_relaxed) != value)
    {
        atomic_store_explicit(moe_own_word(l, MOE_HALF_STARVED_AT), value,
                              memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
    }
}


size_t
moe_lane_room(moe_lane_t *l)
{
    int64_t  n;

    n = moe_ring_free(l) - (int64_t) sizeof(moe_frame_t);

    return n > 0 ? (size_t) n : 0;
}


int
moe_lane_put(moe_lane_t *l, unsigned type, uint32_t slot, uint32_t gen,
    const void *a, size_t na, const void *b, size_t nb)
{
    size_t       max;
    int64_t      room;
    moe_frame_t  f;

    max = l->side == MOE_SIDE_ENGINE ? MOE_EVENT_MAX : l->own_size / 2;

    if (na > max || nb > max
        || sizeof(moe_frame_t) + moe_align8(na + nb) > max)
    {
        return moe_lane_broken(l, "frame is too large");
    }

    memset(&f, 0, sizeof(moe_frame_t));
    f.size = sizeof(moe_frame_t) + moe_align8(na + nb);
    f.type = type;
    f.slot = slot;
    f.gen = gen;

    room = moe_ring_free(l);

    if (room >= 0 && room < f.size) {

        /* say so, then look again: the peer may have taken meanwhile */
        moe_starved(l, 1);
        room = moe_ring_free(l);
    }

    if (room < 0) {
        return MOE_JOBQ_ERROR;
    }

    if (room < f.size) {
        return MOE_JOBQ_AGAIN;
    }

    moe_starved(l, 0);

    moe_ring_write(l, l->head, &f, sizeof(moe_frame_t));

    if (na) {
        moe_ring_write(l, l->head + sizeof(moe_frame_t), a, na);
    }

    if (nb) {
        moe_ring_write(l, l->head + sizeof(moe_frame_t) + na, b, nb);
    }

    l->head += f.size;

    return MOE_JOBQ_OK;
}


/* the peer sleeps if the index it waits for lies in what is new to it */

static int
moe_lane_publish(moe_lane_t *l)
{
    uint32_t  old, wake;

    if (l->head == l->published) {
        return 0;
    }

    old = l->published;
    l->published = l->head;

    atomic_store_explicit(moe_own_word(l, MOE_HALF_HEAD_AT), l->head,
                          memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);

    wake = moe_peer_word(l, MOE_HALF_WAKE_AT, memory_order_relaxed);

    return l->head - wake - 1 < l->head - old;
}


static int
moe_lane_release(moe_lane_t *l)
{
    if (l->tail == l->released) {
        return 0;
    }

    l->released = l->tail;

    atomic_store_explicit(moe_own_word(l, MOE_HALF_TAIL_AT), l->tail,
                          memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);

    return moe_peer_word(l, MOE_HALF_STARVED_AT, memory_order_relaxed) == 1;
}


int
moe_lane_flush(moe_lane_t *l)
{
    int      kick;
    char     k;
    ssize_t  n;

    kick = moe_lane_publish(l);
    kick |= moe_lane_release(l);

    if (!kick) {
        return MOE_JOBQ_OK;
    }

    k = MOE_KICK;

    do {
        n = send(l->fd, &k, 1, MSG_DONTWAIT|MSG_NOSIGNAL);
    } while (n == -1 && errno == EINTR);

    if (n == -1 && errno != EAGAIN) {
        l->why = "peer is gone";
        return MOE_JOBQ_ERROR;
    }

    return MOE_JOBQ_OK;
}


int
moe_lane_next(moe_lane_t *l, moe_frame_t *f)
{
    uint32_t  avail;

    if (l->seen == l->tail) {
        l->seen = moe_peer_word(l, MOE_HALF_HEAD_AT, memory_order_acquire);
    }

    avail = l->seen - l->tail;

    if (avail == 0) {
        return MOE_JOBQ_AGAIN;
    }

    if (avail > l->peer_size || avail < sizeof(moe_frame_t)
        || (avail & 7))
    {
        return moe_lane_broken(l, "peer's head is impossible");
    }

    moe_ring_read(l, l->tail, &l->next, sizeof(moe_frame_t));

    if (l->next.size < sizeof(moe_frame_t) || (l->next.size & 7)
        || l->next.size > avail || l->next.size > l->max_frame)
    {
        l->next.size = 0;
        return moe_lane_broken(l, "frame has an impossible size");
    }

    *f = l->next;

    return MOE_JOBQ_OK;
}


void
moe_lane_take(moe_lane_t *l, void *buf)
{
    if (buf && l->next.size > sizeof(moe_frame_t)) {
        moe_ring_read(l, l->tail + sizeof(moe_frame_t), buf,
                      l->next.size - sizeof(moe_frame_t));
    }

    l->tail += l->next.size;
    l->next.size = 0;
}


int
moe_lane_sleep(moe_lane_t *l)
{
    atomic_store_explicit(moe_own_word(l, MOE_HALF_WAKE_AT), l->tail,
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_seq_cst);

    return moe_peer_word(l, MOE_HALF_HEAD_AT, memory_order_acquire)
           != l->tail;
}


int
moe_lane_drain(moe_lane_t *l)
{
    int      i;
    char     buf[8];
    ssize_t  n;

    for (i = 0; i < MOE_DRAIN_MAX; i++) {

        n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT|MSG_TRUNC);

        if (n == 1 && buf[0] == MOE_KICK) {
            continue;
        }

        if (n == -1 && errno == EINTR) {
            continue;
        }

        if (n == -1 && errno == EAGAIN) {
            return MOE_JOBQ_OK;
        }

        if (n == -1) {
            l->why = "peer is gone";
            return MOE_JOBQ_ERROR;
        }

        if (n) {
            return moe_lane_broken(l, "peer sent what is no kick");
        }

        /* its end, in order or not: no violation */
        l->why = "peer closed";
        errno = ECONNRESET;
        return MOE_JOBQ_ERROR;
    }

    return MOE_JOBQ_AGAIN;
}


/* statistics */


static void
moe_page_write(moe_lane_t *l, size_t seq_at, size_t at, const void *data,
    size_t size)
{
    size_t             i;
    uint32_t           seq;
    uint64_t           word;
    const char        *from;
    _Atomic uint64_t  *page;

    from = data;
    page = (_Atomic uint64_t *) (void *) (l->own + at);
    seq = atomic_load_explicit(moe_own_word(l, seq_at), memory_order_relaxed);

    atomic_store_explicit(moe_own_word(l, seq_at), seq | 1,
                          memory_order_relaxed);
    atomic_thread_fence(memory_order_release);

    for (i = 0; i < size / 8; i++) {
        memcpy(&word, from + i * 8, 8);
        atomic_store_explicit(&page[i], word, memory_order_relaxed);
    }

    atomic_store_explicit(moe_own_word(l, seq_at), (seq | 1) + 1,
                          memory_order_release);
}


static int
moe_page_read(const moe_lane_t *l, size_t seq_at, size_t at, void *data,
    size_t size)
{
    int                      try;
    char                    *to;
    size_t                   i;
    uint32_t                 seq;
    uint64_t                 word;
    const _Atomic uint64_t  *page;

    to = data;
    page = (const _Atomic uint64_t *) (const void *) (l->peer + at);

    for (try = 0; try < MOE_STATS_TRIES; try++) {

        seq = moe_peer_word(l, seq_at, memory_order_acquire);

        if (seq & 1) {
            continue;
        }

        for (i = 0; i < size / 8; i++) {
            word = atomic_load_explicit(&page[i], memory_order_relaxed);
            memcpy(to + i * 8, &word, 8);
        }

        atomic_thread_fence(memory_order_acquire);

        if (moe_peer_word(l, seq_at, memory_order_relaxed) == seq) {
            return MOE_JOBQ_OK;
        }
    }

    return MOE_JOBQ_AGAIN;
}


void
moe_lane_stats_write(moe_lane_t *l, const moe_stats_t *s)
{
    moe_page_write(l, MOE_HALF_SEQ_AT, MOE_HALF_STATS_AT, s, sizeof(*s));
}


int
moe_lane_stats_read(const moe_lane_t *l, moe_stats_t *s)
{
    return moe_page_read(l, MOE_HALF_SEQ_AT, MOE_HALF_STATS_AT, s,
                         sizeof(*s));
}


void
moe_lane_experts_write(moe_lane_t *l, const moe_experts_t *e)
{
    moe_page_write(l, MOE_HALF_EXPERTS_SEQ_AT, MOE_HALF_EXPERTS_AT, e,
                   sizeof(*e));
}


int
moe_lane_experts_read(const moe_lane_t *l, moe_experts_t *e)
{
    int  rc;

    rc = moe_page_read(l, MOE_HALF_EXPERTS_SEQ_AT, MOE_HALF_EXPERTS_AT, e,
                       sizeof(*e));

    /* whatever it says lies within its cells */

    if (rc == MOE_JOBQ_OK
        && (e->experts > MOE_EXPERTS_CELLS || e->ranks > MOE_EXPERTS_CELLS
            || (uint64_t) e->layers * (e->experts + e->ranks)
               > MOE_EXPERTS_CELLS))
    {
        e->layers = 0;
    }

    return rc;
}
