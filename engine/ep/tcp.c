#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/launched.h"
#include "base/nap.h"
#include "ep/tcp.h"


#define MAGIC       0x31504554

/* how long ranks may take to come, and one connection to say who it is */
#define COME_S      300
#define SAY_MS      5000
#define AGAIN_MS    50

/* most of a message that comes before it is asked for */
#define EARLY_MAX   (64u << 20)

/* how long others may take to leave too */
#define CLOSE_S     5

/* one more kind than the caller has: what gather sends */
enum { GATHER = MOE_LINK_KINDS, KINDS };


typedef struct {
    uint32_t  magic;
    uint32_t  rank;
    uint32_t  size;
    uint16_t  port;             /* where it listens; network order */
    uint16_t  zero;
    char      job[128];
} hello_t;

/* of every rank, as rank 0 saw it come */
typedef struct {
    struct sockaddr_storage  at;
    uint32_t                 len;
    uint32_t                 zero;
} place_t;

/* before a message */
typedef struct {
    uint32_t  kind;
    uint32_t  zero;
    uint64_t  bytes;
} head_t;

typedef struct {
    const void  *buf;
    size_t       bytes;
    head_t       head;
    int          pending;
} out_t;

typedef struct {
    void    *buf;
    size_t   room;
    size_t   got;               /* of the last message */
    void    *early;             /* one that was not asked for yet, whole */
    size_t   early_bytes;
    int      pending;           /* asked for, and not there yet */
    int      has_early;
} in_t;

typedef struct {
    int       fd;               /* -1: itself, or it has gone */
    out_t     out[KINDS];
    in_t      in[KINDS];

    /* what is being written: kinds in order, the first one's bytes so far */
    uint32_t  queue[KINDS];
    uint32_t  nqueue;
    size_t    written;

    /* what is being read */
    head_t    head;
    size_t    nread;            /* of the head, then of the bytes */
    uint8_t  *into;             /* NULL: the head is not whole yet */
} peer_t;


static struct {
    uint32_t   rank;
    uint32_t   nranks;
    peer_t     peers[MOE_LINK_RANKS];
    char       line[256];

} tcp;


static int
wrong(const char *fmt, ...)
{
    va_list  args;

    va_start(args, fmt);
    vsnprintf(tcp.line, sizeof(tcp.line), fmt, args);
    va_end(args);

    return -1;
}


/* all of it, before a moment in microseconds */
static int
exchange(int fd, void *buf, size_t bytes, int in, uint64_t until)
{
    char           *p;
    uint64_t        now;
    ssize_t         n;
    struct pollfd   pfd = { .fd = fd, .events = in ? POLLIN : POLLOUT };

    for (p = buf; bytes != 0; ) {
        n = in ? recv(fd, p, bytes, MSG_DONTWAIT)
               : send(fd, p, bytes, MSG_DONTWAIT|MSG_NOSIGNAL);

        if (n > 0) {
            p += n;
            bytes -= (size_t) n;
            continue;
        }

        now = moe_now_us();

        if (n == 0 || (errno != EAGAIN && errno != EINTR) || now >= until) {
            return -1;
        }

        (void) poll(&pfd, 1, (int) ((until - now) / 1000) + 1);
    }

    return 0;
}


static void
say_hello(hello_t *h, const moe_launched_t *l, uint32_t port)
{
    memset(h, 0, sizeof(*h));
    h->magic = MAGIC;
    h->rank = tcp.rank;
    h->size = tcp.nranks;
    h->port = htons((uint16_t) port);
    memcpy(h->job, l->job, sizeof(h->job));
}


/* of this job, from a rank between the two that has not come yet */
static int
is_ours(const hello_t *h, const moe_launched_t *l, uint32_t from,
    uint32_t to)
{
    return h->magic == MAGIC && h->size == tcp.nranks && h->zero == 0
           && memcmp(h->job, l->job, sizeof(h->job)) == 0
           && h->rank >= from && h->rank < to
           && tcp.peers[h->rank].fd == -1;
}


static int
settle(int fd)
{
    int  one;

    one = 1;
    (void) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    (void) setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));

    return fcntl(fd, F_SETFL, O_NONBLOCK);
}


/* at a port, or at one that is free; all addresses */
static int
listen_at(uint32_t *port)
{
    int                  fd, one, zero;
    socklen_t            len;
    struct sockaddr_in6  sin;

    one = 1;
    zero = 0;
    memset(&sin, 0, sizeof(sin));
    sin.sin6_family = AF_INET6;
    sin.sin6_addr = in6addr_any;
    sin.sin6_port = htons((uint16_t) *port);
    len = sizeof(sin);

    fd = socket(AF_INET6, SOCK_STREAM|SOCK_CLOEXEC, 0);

    if (fd != -1) {
        (void) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));

    } else {
        /* a host without IPv6 */
        fd = socket(AF_INET, SOCK_STREAM|SOCK_CLOEXEC, 0);
        ((struct sockaddr_in *) (void *) &sin)->sin_family = AF_INET;
        memset(&((struct sockaddr_in *) (void *) &sin)->sin_addr, 0, 4);
        len = sizeof(struct sockaddr_in);
    }

    if (fd == -1) {
        return wrong("socket(): %s", strerror(errno));
    }

    (void) setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));

    if (bind(fd, (struct sockaddr *) &sin, len) != 0
        || listen(fd, MOE_LINK_RANKS) != 0
        || getsockname(fd, (struct sockaddr *) &sin, &len) != 0)
    {
        wrong("rank %u cannot listen at port %u: %s", tcp.rank, *port,
              strerror(errno));
        close(fd);
        return -1;
    }

    /* at the same place in both */
    *port = ntohs(sin.sin6_port);

    return fd;
}


/* where it listens, as one without IPv6 understands it too */
static void
tidy(place_t *p, uint16_t port)
{
    struct sockaddr_in    sin;
    struct sockaddr_in6   sin6;

    memcpy(&sin6, &p->at, sizeof(sin6));

    if (p->at.ss_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&sin6.sin6_addr))
    {
        memset(&sin, 0, sizeof(sin));
        sin.sin_family = AF_INET;
        memcpy(&sin.sin_addr, (char *) &sin6.sin6_addr + 12, 4);
        memset(&p->at, 0, sizeof(p->at));
        memcpy(&p->at, &sin, sizeof(sin));
        p->len = sizeof(sin);
    }

    /* at the same place in both */
    ((struct sockaddr_in *) (void *) &p->at)->sin_port = port;
}


static int
is_loopback(const place_t *p)
{
    struct sockaddr_in    sin;
    struct sockaddr_in6   sin6;

    memcpy(&sin, &p->at, sizeof(sin));
    memcpy(&sin6, &p->at, sizeof(sin6));

    return p->at.ss_family == AF_INET
           ? ntohl(sin.sin_addr.s_addr) >> 24 == 127
           : IN6_IS_ADDR_LOOPBACK(&sin6.sin6_addr);
}


/* the port of a rank on rank 0's host, to which it came from there */
static int
beside_master(place_t *p)
{
    uint16_t   port;
    socklen_t  len;

    port = ((struct sockaddr_in *) (void *) &p->at)->sin_port;
    len = sizeof(p->at);

    if (getpeername(tcp.peers[0].fd, (struct sockaddr *) &p->at, &len) != 0) {
        return -1;
    }

    p->len = len;
    tidy(p, port);

    return 0;
}


/* ranks from .. nranks - 1 come; at: where they listen */
static int
accept_ranks(int listener, const moe_launched_t *l, uint32_t from,
    place_t *at, uint64_t until)
{
    int             fd;
    hello_t         h;
    place_t         p;
    uint32_t        r, missing;
    uint64_t        now;
    socklen_t       len;
    struct pollfd   pfd = { .fd = listener, .events = POLLIN };

    for ( ;; ) {
        missing = 0;

        for (r = tcp.nranks; r > from; r--) {
            missing = tcp.peers[r - 1].fd == -1 ? r : missing;
        }

        if (missing == 0) {
            return 0;
        }

        now = moe_now_us();

        if (now >= until) {
            return wrong("rank %u has not come within %d s", missing - 1,
                         COME_S);
        }

        if (poll(&pfd, 1, (int) ((until - now) / 1000) + 1) <= 0) {
            continue;
        }

        memset(&p, 0, sizeof(p));
        len = sizeof(p.at);
        fd = accept4(listener, (struct sockaddr *) &p.at, &len,
                     SOCK_CLOEXEC);

        if (fd == -1) {
            continue;
        }

        if (exchange(fd, &h, sizeof(h), 1, moe_now_us() + SAY_MS * 1000)
            != 0
            || !is_ours(&h, l, from, tcp.nranks) || settle(fd) != 0)
        {
            close(fd);
            continue;
        }

        tcp.peers[h.rank].fd = fd;

        if (at != NULL) {
            p.len = len;
            tidy(&p, h.port);
            at[h.rank] = p;
        }
    }
}


/* to a rank, which may not be there yet */
static int
connect_to(uint32_t rank, const struct sockaddr *at, socklen_t len,
    const moe_launched_t *l, uint32_t port)
{
    int      fd;
    hello_t  h;

    fd = socket(at->sa_family, SOCK_STREAM|SOCK_CLOEXEC, 0);

    if (fd == -1) {
        return -1;
    }

    say_hello(&h, l, port);

    if (connect(fd, at, len) != 0
        || exchange(fd, &h, sizeof(h), 0, moe_now_us() + SAY_MS * 1000) != 0
        || settle(fd) != 0)
    {
        close(fd);
        return -1;
    }

    tcp.peers[rank].fd = fd;

    return 0;
}


static int
find_master(const moe_rendezvous_t *v, const moe_launched_t *l,
    uint32_t port, uint64_t until)
{
    int               rc;
    char              name[16];
    struct addrinfo   hints, *list, *a;

    memset(&hints, 0, sizeof(hints));
    hints.ai_socktype = SOCK_STREAM;
    snprintf(name, sizeof(name), "%u", v->port);

    for ( ;; ) {
        rc = getaddrinfo(v->host, name, &hints, &list);

        if (rc == 0) {
            for (a = list; a != NULL && tcp.peers[0].fd == -1;
                 a = a->ai_next)
            {
                (void) connect_to(0, a->ai_addr, a->ai_addrlen, l, port);
            }

            freeaddrinfo(list);
        }

        if (tcp.peers[0].fd != -1) {
            return 0;
        }

        if (moe_now_us() >= until) {
            return wrong("no rank 0 at %s port %u within %d s: %s", v->host,
                         v->port, COME_S,
                         rc ? gai_strerror(rc) : strerror(errno));
        }

        moe_nap(AGAIN_MS * 1000);
    }
}


/* rank 0 tells all where all are */
static int
tell_places(place_t *at, uint64_t until)
{
    uint32_t  r;

    for (r = 1; r < tcp.nranks; r++) {
        if (exchange(tcp.peers[r].fd, at, tcp.nranks * sizeof(place_t), 0,
                     until)
            != 0)
        {
            return wrong("rank %u has gone", r);
        }
    }

    return 0;
}


static int
join(const moe_rendezvous_t *v, const moe_launched_t *l, int listener,
    uint32_t port)
{
    uint32_t  r;
    uint64_t  until;
    place_t   at[MOE_LINK_RANKS];

    memset(at, 0, sizeof(at));
    until = moe_now_us() + COME_S * 1000000ull;

    if (tcp.rank == 0) {
        return accept_ranks(listener, l, 1, at, until) == 0
               ? tell_places(at, until) : -1;
    }

    if (find_master(v, l, port, until) != 0) {
        return -1;
    }

    if (exchange(tcp.peers[0].fd, at, tcp.nranks * sizeof(place_t), 1, until)
        != 0)
    {
        return wrong("rank 0 has gone, or is of another job");
    }

    for (r = 1; r < tcp.rank; r++) {
        if (at[r].len > sizeof(at[r].at)
            || (is_loopback(&at[r]) && beside_master(&at[r]) != 0)
            || connect_to(r, (struct sockaddr *) &at[r].at, at[r].len, l,
                          port)
               != 0)
        {
            return wrong("rank %u cannot be reached: %s", r,
                         strerror(errno));
        }
    }

    return accept_ranks(listener, l, tcp.rank + 1, NULL, until);
}


static int
tcp_open(uint32_t *rank, uint32_t *nranks, char *what, size_t size)
{
    int               rc, listener;
    uint32_t          r, port;
    moe_launched_t    l;
    moe_rendezvous_t  v;

    if (!moe_launched_env(&l, &v)) {
        return wrong("RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, "
                     "MASTER_ADDR and MASTER_PORT are not set");
    }

    if (v.size > MOE_LINK_RANKS) {
        return wrong("%u ranks, at most %d", v.size, MOE_LINK_RANKS);
    }

    memset(&tcp, 0, sizeof(tcp));
    tcp.rank = v.rank;
    tcp.nranks = v.size;

    for (r = 0; r < MOE_LINK_RANKS; r++) {
        tcp.peers[r].fd = -1;
    }

    /* rank 0 is known by its port, the others are asked for theirs */
    port = tcp.rank == 0 ? v.port : 0;
    listener = listen_at(&port);

    if (listener == -1) {
        return -1;
    }

    rc = join(&v, &l, listener, port);
    close(listener);

    snprintf(what, size, "TCP, rank 0 at %.90s port %u", v.host, v.port);
    *rank = tcp.rank;
    *nranks = tcp.nranks;

    return rc;
}


/* it is not coming back; what was to come from it never will */
static void
lose(peer_t *p)
{
    close(p->fd);
    p->fd = -1;
}


static void
write_on(peer_t *p)
{
    out_t         *o;
    ssize_t        n;
    struct iovec   v[2];
    struct msghdr  m;

    while (p->nqueue != 0) {
        o = &p->out[p->queue[0]];
        memset(&m, 0, sizeof(m));
        m.msg_iov = v;
        m.msg_iovlen = 2;

        if (p->written < sizeof(head_t)) {
            v[0].iov_base = (char *) &o->head + p->written;
            v[0].iov_len = sizeof(head_t) - p->written;
            v[1].iov_base = (void *) (uintptr_t) o->buf;
            v[1].iov_len = o->bytes;

        } else {
            v[0].iov_base = (char *) (uintptr_t) o->buf + p->written
                            - sizeof(head_t);
            v[0].iov_len = o->bytes + sizeof(head_t) - p->written;
            m.msg_iovlen = 1;
        }

        n = sendmsg(p->fd, &m, MSG_DONTWAIT|MSG_NOSIGNAL);

        if (n < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                lose(p);
            }
            return;
        }

        p->written += (size_t) n;

        if (p->written == o->bytes + sizeof(head_t)) {
            o->pending = 0;
            p->written = 0;
            p->nqueue--;
            memmove(p->queue, p->queue + 1, p->nqueue * sizeof(uint32_t));
        }
    }
}


/* where the message that begins goes: 1; 0: it has to wait; -1: it is none */
static int
make_room(peer_t *p)
{
    in_t  *in;

    if (p->head.kind >= KINDS || p->head.zero != 0) {
        return -1;
    }

    in = &p->in[p->head.kind];

    if (in->pending) {
        p->into = in->buf;
        return p->head.bytes <= in->room ? 1 : -1;
    }

    if (in->has_early) {
        return 0;
    }

    if (p->head.bytes > EARLY_MAX) {
        return -1;
    }

    in->early = malloc(p->head.bytes + 1);
    p->into = in->early;

    return in->early ? 1 : -1;
}


/* one that came before it was asked for; -1: it is too long */
static int
take_early(in_t *in, void *buf, size_t room)
{
    if (in->early_bytes > room) {
        return wrong("a message of %zu bytes, at most %zu", in->early_bytes,
                     room);
    }

    memcpy(buf, in->early, in->early_bytes);
    in->got = in->early_bytes;
    in->has_early = 0;
    in->pending = 0;
    free(in->early);
    in->early = NULL;

    return 0;
}


static int
take_message(peer_t *p)
{
    in_t  *in;

    in = &p->in[p->head.kind];

    if (p->into == in->early) {
        in->has_early = 1;
        in->early_bytes = p->head.bytes;

    } else {
        in->pending = 0;
        in->got = p->head.bytes;
    }

    p->into = NULL;
    p->nread = 0;

    return in->has_early && in->pending ? take_early(in, in->buf, in->room)
                                        : 0;
}


static void
read_on(peer_t *p)
{
    int      rc;
    char    *to;
    size_t   left;
    ssize_t  n;

    while (p->fd != -1) {
        if (p->into == NULL && p->nread == sizeof(head_t)) {
            rc = make_room(p);

            if (rc <= 0) {
                if (rc < 0) {
                    lose(p);
                }
                return;
            }

            p->nread = 0;
        }

        to = p->into ? (char *) p->into : (char *) &p->head;
        left = (p->into ? p->head.bytes : sizeof(head_t)) - p->nread;

        if (left != 0) {
            n = recv(p->fd, to + p->nread, left, MSG_DONTWAIT);

            if (n <= 0) {
                if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
                    lose(p);
                }
                return;
            }

            p->nread += (size_t) n;
            left -= (size_t) n;
        }

        if (left == 0 && p->into != NULL && take_message(p) != 0) {
            lose(p);
        }
    }
}


static void
move_on(void)
{
    uint32_t  r;

    for (r = 0; r < tcp.nranks; r++) {
        if (tcp.peers[r].fd != -1) {
            write_on(&tcp.peers[r]);
        }

        if (tcp.peers[r].fd != -1) {
            read_on(&tcp.peers[r]);
        }
    }
}


static int
start_recv(uint32_t kind, uint32_t from, void *buf, size_t bytes)
{
    in_t  *in;

    in = &tcp.peers[from].in[kind];

    if (in->pending) {
        return wrong("a message of this kind is under way");
    }

    if (in->has_early) {
        return take_early(in, buf, bytes);
    }

    in->buf = buf;
    in->room = bytes;
    in->pending = 1;

    return 0;
}


static int
start_send(uint32_t kind, uint32_t to, const void *buf, size_t bytes)
{
    out_t   *o;
    peer_t  *p;

    p = &tcp.peers[to];
    o = &p->out[kind];

    if (o->pending) {
        return wrong("a message of this kind is under way");
    }

    o->buf = buf;
    o->bytes = bytes;
    o->head = (head_t) { kind, 0, bytes };
    o->pending = 1;
    p->queue[p->nqueue++] = kind;

    if (p->fd != -1) {
        write_on(p);
    }

    return 0;
}


static int
still(int in, uint32_t kind, uint64_t *ranks)
{
    uint32_t       r;
    const peer_t  *p;

    move_on();
    *ranks = 0;

    for (r = 0; r < tcp.nranks; r++) {
        p = &tcp.peers[r];

        if (in ? p->in[kind].pending : p->out[kind].pending) {
            if (p->fd == -1) {
                return wrong("rank %u has hung up", r);
            }

            *ranks |= 1ull << r;
        }
    }

    return 0;
}


static int
tcp_recv(moe_link_kind_e kind, uint32_t from, void *buf, size_t bytes)
{
    return start_recv(kind, from, buf, bytes);
}


static int
tcp_send(moe_link_kind_e kind, uint32_t to, const void *buf, size_t bytes)
{
    return start_send(kind, to, buf, bytes);
}


static int
tcp_pending(moe_link_way_e way, moe_link_kind_e kind, uint64_t *ranks)
{
    return still(way == MOE_LINK_IN, kind, ranks);
}


static size_t
tcp_got(moe_link_kind_e kind, uint32_t from)
{
    return tcp.peers[from].in[kind].got;
}


static int
tcp_gather(const void *mine, void *all, size_t bytes)
{
    uint32_t  r;

    memcpy((char *) all + tcp.rank * bytes, mine, bytes);

    for (r = 0; r < tcp.nranks; r++) {
        if (r != tcp.rank
            && (start_recv(GATHER, r, (char *) all + r * bytes, bytes) != 0
                || start_send(GATHER, r, mine, bytes) != 0))
        {
            return -1;
        }
    }

    return 0;
}


static int
tcp_gathered(void)
{
    uint64_t  in, out;

    if (still(1, GATHER, &in) != 0 || still(0, GATHER, &out) != 0) {
        return -1;
    }

    return in == 0 && out == 0;
}


static const char *
tcp_why(void)
{
    return tcp.line;
}


/* the others see this one hang up */
static void
tcp_abort(int code)
{
    _exit(code);
}


static void
tcp_cancel(void)
{
    uint32_t  kind, r;
    peer_t   *p;

    for (r = 0; r < tcp.nranks; r++) {
        p = &tcp.peers[r];

        for (kind = 0; kind < KINDS; kind++) {
            p->in[kind].pending = 0;
        }

        /* the rest of one that is coming has nowhere to go */
        if (p->into != NULL && p->into != p->in[p->head.kind].early
            && p->fd != -1)
        {
            lose(p);
        }
    }
}


/* what is unread when a connection is closed would take with it what is on
 * its way to the other side */
static void
tcp_close(void)
{
    char             skipped[4096];
    uint32_t         kind, r;
    uint64_t         until;
    peer_t          *p;
    struct pollfd    pfd = { .events = POLLIN };

    until = moe_now_us() + CLOSE_S * 1000000ull;

    for (r = 0; r < tcp.nranks; r++) {
        if (tcp.peers[r].fd != -1) {
            (void) shutdown(tcp.peers[r].fd, SHUT_WR);
        }
    }

    for (r = 0; r < tcp.nranks; r++) {
        p = &tcp.peers[r];
        pfd.fd = p->fd;

        while (p->fd != -1 && moe_now_us() < until) {
            if (poll(&pfd, 1, 100) == 1
                && recv(p->fd, skipped, sizeof(skipped), MSG_DONTWAIT) <= 0)
            {
                break;
            }
        }

        if (p->fd != -1) {
            lose(p);
        }

        for (kind = 0; kind < KINDS; kind++) {
            free(p->in[kind].early);
        }
    }
}


static const moe_link_t  tcp_link = {
    .version = MOE_LINK_VERSION,
    .open = tcp_open,
    .recv = tcp_recv,
    .send = tcp_send,
    .pending = tcp_pending,
    .got = tcp_got,
    .gather = tcp_gather,
    .gathered = tcp_gathered,
    .why = tcp_why,
    .abort = tcp_abort,
    .cancel = tcp_cancel,
    .close = tcp_close
};


const moe_link_t *
moe_link_tcp(void)
{
    return &tcp_link;
}
