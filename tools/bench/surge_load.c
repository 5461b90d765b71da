/*
 * surge_load PORT SECONDS TIMES MAY FRONT RANK WORKER
 *
 * Offers load to nginx on 127.0.0.1:PORT and prints what becomes of it:
 *
 *     capacity  so many requests are always under way, for ten seconds: what
 *               the engine finishes a second is the rate of what follows
 *     before    0.5 times the rate
 *     full      1 time the rate
 *     surge     TIMES the rate, for SECONDS
 *     after     0.5 times the rate, when what the surge left has ended
 *
 * Requests arrive by chance (Poisson), whether others have ended or not; at
 * most 4,000 are under way, what would be more is counted as not offered.
 * Half of them count for one key, the others for three; every half second,
 * in all phases alike, one comes of a key of the high class.  MAY: seconds
 * that a request may wait until it is begun.  FRONT, RANK and WORKER are the
 * processes whose memory is looked at.
 *
 * Exit code 1: a refusal that was not clean, or any other error.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proc.h"


#define CONNECTIONS  4000
#define SAMPLES      1000000
#define TOKENS       128
#define HIGH_EVERY   0.5


typedef struct {
    double     *at;
    size_t      n;
} samples_t;


typedef struct {
    uint64_t    offered;
    uint64_t    over;           /* not offered: too many under way */
    uint64_t    finished;
    uint64_t    shares;         /* 429 */
    uint64_t    full;           /* 503 */
    uint64_t    bad;
    uint64_t    high;
    uint64_t    high_refused;
    int         retry_least;
    int         retry_most;
    double      seconds;
    double      cpu[4];         /* seconds: front, rank, worker, this */
    samples_t   ttft;
    samples_t   itl;
    samples_t   high_ttft;
    samples_t   high_itl;
    samples_t   refusal;        /* how long it took */
} phase_t;


/* one connection, kept alive between requests */
typedef struct {
    phase_t    *phase;          /* in which its request was begun */
    int         fd;
    int         busy;
    int         high;
    int         status;         /* 0: the header is not here yet */
    int         retry;          /* Retry-After */
    int         error;          /* an error object was seen */
    int         whole;          /* 1: its reason came, 2: [DONE] too */
    long        left;           /* of the body; -1: chunked */
    double      begun;
    double      first;
    double      last;
    size_t      n;
    char        buf[8192];
} conn_t;




static conn_t   *conns;
static int       idle[CONNECTIONS], nidle, nbusy;
static int       port, ep;
static char     *pids[4];
static uint64_t  serial;
static phase_t  *now_phase;


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec * 1e-9;
}


static void
sample(samples_t *s, double at)
{
    if (s->at == NULL) {
        s->at = malloc(SAMPLES * sizeof(double));
    }

    if (s->at && s->n < SAMPLES) {
        s->at[s->n++] = at;
    }
}


static int
less(const void *a, const void *b)
{
    double  x, y;

    x = *(const double *) a;
    y = *(const double *) b;

    return (x > y) - (x < y);
}


/* in milliseconds; of a hundred */

static double
percentile(samples_t *s, unsigned p)
{
    if (s->n == 0) {
        return 0;
    }

    qsort(s->at, s->n, sizeof(double), less);

    return s->at[(s->n - 1) * p / 100] * 1e3;
}


/* seconds on a processor, from the scheduler's own account */

static double
cpu_seconds(const char *pid)
{
    char                 path[64];
    FILE                *f;
    unsigned long long   ns;

    snprintf(path, sizeof(path), "/proc/%s/schedstat", pid);
    ns = 0;

    f = fopen(path, "r");
    if (f == NULL || fscanf(f, "%llu", &ns) != 1) {
        fprintf(stderr, "surge_load: no processor time of %s\n", pid);
        exit(1);
    }

    fclose(f);

    return (double) ns * 1e-9;
}


static void
conn_close(conn_t *c)
{
    close(c->fd);
    c->fd = -1;
}


static void
conn_done(conn_t *c)
{
    c->busy = 0;
    nbusy--;
    idle[nidle++] = (int) (c - conns);
}


static void
conn_bad(conn_t *c, const char *why)
{
    if (c->phase->bad++ < 3) {
        fprintf(stderr, "surge_load: %s: status %d: %.*s\n", why, c->status,
                (int) (c->n < 400 ? c->n : 400), c->buf);
    }

    conn_close(c);
    conn_done(c);
}


static void
conn_ended(conn_t *c)
{
    double    t;
    phase_t  *p;

    p = c->phase;
    t = now();

    if (c->status == 200) {
        if (c->whole != 2) {
            conn_bad(c, "a stream that is cut");
            return;
        }

        p->finished++;
        sample(c->high ? &p->high_ttft : &p->ttft, c->first - c->begun);
        sample(c->high ? &p->high_itl : &p->itl,
               (c->last - c->first) / (TOKENS - 1));

    } else if ((c->status == 429 || c->status == 503) && c->retry > 0
               && c->error)
    {
        p->high_refused += c->high != 0;
        p->shares += c->status == 429;
        p->full += c->status == 503;
        p->retry_least = p->retry_least && p->retry_least < c->retry
                         ? p->retry_least : c->retry;
        p->retry_most = p->retry_most > c->retry ? p->retry_most : c->retry;
        sample(&p->refusal, t - c->begun);

    } else {
        conn_bad(c, "a refusal that is not clean");
        return;
    }

    conn_done(c);
}


/* the header, once it is whole; 0: more is needed */

static int
conn_header(conn_t *c)
{
    char  *end, *p;

    end = strstr(c->buf, "\r\n\r\n");
    if (end == NULL) {
        return 0;
    }

    *end = '\0';
    c->status = atoi(c->buf + 9);
    c->left = -1;

    p = strcasestr(c->buf, "\r\nContent-Length: ");
    if (p) {
        c->left = atol(p + 18);
    }

    p = strcasestr(c->buf, "\r\nRetry-After: ");
    if (p) {
        c->retry = atoi(p + 15);
    }

    end += 4;
    c->n -= (size_t) (end - c->buf);
    memmove(c->buf, end, c->n + 1);

    return 1;
}


/* whole lines of a stream; 1: it has ended */

static int
conn_stream(conn_t *c)
{
    char  *p, *line;

    line = c->buf;

    while ((p = strstr(line, "\n")) != NULL) {

        if (strncmp(line, "data: {", 7) == 0) {
            c->last = now();

            if (c->first == 0) {
                c->first = c->last;
            }

            if (strstr(line, "\"finish_reason\":\"length\"") != NULL) {
                c->whole = 1;
            }

        } else if (strncmp(line, "data: [DONE]", 12) == 0) {
            c->whole += (c->whole == 1);

        } else if (strncmp(line, "0\r", 2) == 0) {
            return 1;
        }

        line = p + 1;
    }

    c->n -= (size_t) (line - c->buf);
    memmove(c->buf, line, c->n + 1);

    return 0;
}


static void
conn_read(conn_t *c)
{
    ssize_t  n;

    for ( ;; ) {
        n = recv(c->fd, c->buf + c->n, sizeof(c->buf) - 1 - c->n,
                 MSG_DONTWAIT);

        if (n == -1 && errno == EAGAIN) {
            return;
        }

        if (n <= 0) {
            if (c->busy) {
                conn_bad(c, "a connection that is closed");

            } else {
                conn_close(c);
            }

            return;
        }

        c->n += (size_t) n;
        c->buf[c->n] = '\0';

        if (!c->busy) {
            conn_close(c);
            return;
        }

        if (c->status == 0 && !conn_header(c)) {
            continue;
        }

        if (c->left >= 0) {
            if ((long) c->n >= c->left) {
                c->error = strstr(c->buf, "{\"error\":{\"message\":\"") != NULL
                           && strstr(c->buf, "\"code\":\"") != NULL;
                conn_ended(c);
                return;
            }

        } else if (conn_stream(c)) {
            conn_ended(c);
            return;
        }

        if (c->n == sizeof(c->buf) - 1) {
            conn_bad(c, "a line that is too long");
            return;
        }
    }
}


static int
conn_open(conn_t *c)
{
    int                 one;
    struct sockaddr_in  sin;
    struct epoll_event  ev;

    c->fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((uint16_t) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (c->fd == -1
        || connect(c->fd, (struct sockaddr *) &sin, sizeof(sin)) == -1)
    {
        fprintf(stderr, "surge_load: connect: %s\n", strerror(errno));
        exit(1);
    }

    one = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));

    memset(&ev, 0, sizeof(ev));
    ev.events = EPOLLIN;
    ev.data.ptr = c;

    return epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &ev);
}


static void
offer(int high)
{
    int         n, key;
    char        req[1024], body[256];
    conn_t     *c;

    now_phase->offered++;

    if (nidle == 0) {
        now_phase->over++;
        return;
    }

    c = &conns[idle[--nidle]];

    if (c->fd == -1 && conn_open(c) == -1) {
        exit(1);
    }

    key = rand() % 6;

    n = snprintf(body, sizeof(body), "{\"stream\":true,\"ignore_eos\":true,"
                 "\"temperature\":0,\"max_tokens\":%d,\"prompt\":\"Once upon "
                 "a time number %llu went out to see\"}", TOKENS,
                 (unsigned long long) serial++);

    n = snprintf(req, sizeof(req), "POST /v1/completions HTTP/1.1\r\n"
                 "Host: surge\r\nX-Key: %s%d\r\nX-Class: %s\r\n"
                 "Content-Length: %d\r\n\r\n%s", high ? "high" : "key",
                 high ? 0 : key < 3 ? 0 : key - 2, high ? "high" : "normal",
                 n, body);

    c->phase = now_phase;
    c->busy = 1;
    c->high = high;
    c->status = 0;
    c->retry = 0;
    c->error = 0;
    c->whole = 0;
    c->first = 0;
    c->n = 0;
    c->buf[0] = '\0';
    c->begun = now();
    nbusy++;

    if (send(c->fd, req, (size_t) n, MSG_NOSIGNAL) != n) {
        conn_bad(c, "a request that could not be sent");
    }
}


static void
wait_events(double until)
{
    int                 i, n, ms;
    double              left;
    struct epoll_event  events[256];

    left = until - now();
    ms = left <= 0 ? 0 : (int) (left * 1e3);
    n = epoll_wait(ep, events, 256, ms);

    for (i = 0; i < n; i++) {
        conn_read(events[i].data.ptr);
    }
}


/* rate 0: as many as there are slots for, always */

static void
run_phase(phase_t *p, double rate, double seconds, int slots)
{
    int     i;
    double  begin, end, next, high;

    memset(p, 0, sizeof(phase_t));
    now_phase = p;

    for (i = 0; i < 4; i++) {
        p->cpu[i] = -cpu_seconds(pids[i]);
    }

    begin = now();
    end = begin + seconds;
    next = begin;
    high = begin + HIGH_EVERY;

    while (now() < end) {

        if (rate > 0) {
            while (next <= now()) {
                offer(0);
                next -= log(1 - drand48()) / rate;
            }

            while (high <= now()) {
                p->high++;
                offer(1);
                high += HIGH_EVERY;
            }

            wait_events(next < end ? next : end);

        } else {
            while (nbusy < slots) {
                offer(0);
            }

            wait_events(end);
        }
    }

    p->seconds = now() - begin;

    for (i = 0; i < 4; i++) {
        p->cpu[i] += cpu_seconds(pids[i]);
    }
}


/* what is under way ends, and is its phase's */

static double
drain(double seconds)
{
    double  begin, end;

    begin = now();
    end = begin + seconds;

    while (nbusy && now() < end) {
        wait_events(now() + 0.1);
    }

    if (nbusy) {
        fprintf(stderr, "surge_load: %d requests did not end\n", nbusy);
        exit(1);
    }

    return now() - begin;
}


static void
print_phase(const char *name, phase_t *p)
{
    printf("| %-6s | %8.1f | %6.1f | %6llu | %6llu | %3d-%-3d | %5.0f / "
           "%5.0f | %5.0f / %5.0f | %4.1f | %5.0f / %5.0f | %4.1f | %5.1f "
           "| %4.1f, %4.1f, %4.1f |\n", name,
           (double) (p->offered - p->over) / p->seconds,
           (double) p->finished / p->seconds, (unsigned long long) p->shares,
           (unsigned long long) p->full, p->retry_least, p->retry_most,
           percentile(&p->refusal, 50), percentile(&p->refusal, 99),
           percentile(&p->ttft, 50), percentile(&p->ttft, 100),
           percentile(&p->itl, 50), percentile(&p->high_ttft, 50),
           percentile(&p->high_ttft, 95), percentile(&p->high_itl, 50),
           percentile(&p->high_itl, 95),
           (double) proc_anon_kb(pids[0]) / 1024,
           (double) proc_anon_kb(pids[1]) / 1024,
           (double) proc_anon_kb(pids[2]) / 1024);
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    int       i, failed;
    double    rate, seconds, times, may, left;
    phase_t   p[5];

    if (argc != 8) {
        fprintf(stderr, "usage: surge_load PORT SECONDS TIMES MAY FRONT RANK "
                "WORKER\n");
        return 2;
    }

    pids[0] = argv[5];
    pids[1] = argv[6];
    pids[2] = argv[7];
    pids[3] = "self";

    port = atoi(argv[1]);
    seconds = atof(argv[2]);
    times = atof(argv[3]);
    may = atof(argv[4]);

    ep = epoll_create1(0);
    conns = calloc(CONNECTIONS, sizeof(conn_t));

    if (ep == -1 || conns == NULL) {
        return 1;
    }

    for (i = 0; i < CONNECTIONS; i++) {
        conns[i].fd = -1;
        idle[nidle++] = CONNECTIONS - 1 - i;
    }

    srand(1);
    srand48(1);

    run_phase(&p[0], 0, 10, 24);
    drain(60);
    rate = (double) p[0].finished / p[0].seconds;

    printf("Capacity: %.1f requests a second of %d tokens.\n\n", rate,
           TOKENS);
    printf("|        | offered/s | ended/s | 429 | 503 | Retry-After s | "
           "refusal ms, p50 / p99 | TTFT ms, p50 / most | ITL ms | high: "
           "TTFT ms, p50 / p95 | ITL ms, p50 | p95 | MiB: front, rank, "
           "worker |\n");
    printf("|---|---|---|---|---|---|---|---|---|---|---|---|---|\n");

    run_phase(&p[1], rate * 0.5, 15, 0);
    drain(60);
    print_phase("before", &p[1]);

    run_phase(&p[2], rate, 15, 0);
    drain(60);
    print_phase("full", &p[2]);

    run_phase(&p[3], rate * times, seconds, 0);
    left = drain(60);
    print_phase("surge", &p[3]);

    run_phase(&p[4], rate * 0.5, 15, 0);
    drain(60);
    print_phase("after", &p[4]);

    failed = 0;

    for (i = 0; i < 5; i++) {
        failed |= p[i].bad != 0;
    }

    printf("\nOf %llu high requests in the surge %llu were refused. Not offered "
           "for want of connections: %llu. The last of the surge's requests "
           "ended %.1f s after it.\n", (unsigned long long) p[3].high,
           (unsigned long long) p[3].high_refused,
           (unsigned long long) p[3].over, left);

    for (i = 2; i < 4; i++) {
        printf("Processor time a second, %s: rank %.2f s, front %.2f s, nginx "
               "%.2f s, the client %.2f s.\n", i == 2 ? "full" : "surge",
               p[i].cpu[1] / p[i].seconds, p[i].cpu[0] / p[i].seconds,
               p[i].cpu[2] / p[i].seconds, p[i].cpu[3] / p[i].seconds);
    }

    if (percentile(&p[3].ttft, 100) > may * 1e3 + 1000) {
        printf("An admitted request waited longer than %.0f s.\n", may);
        failed = 1;
    }

    return failed;
}
