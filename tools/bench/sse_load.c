/*
 * sse_load PORT STREAMS SECONDS PID SAMPLE|- PROMPT
 *
 * Opens STREAMS chat streams on 127.0.0.1:PORT, waits until each has had its
 * first event, then counts events for SECONDS and reads the processor time
 * and memory that process PID took.  The bytes of one event as they came
 * over the socket go into the file SAMPLE.  Prints one line:
 *
 *     streams events/s us/event bytes/event KB/stream
 *
 * Streams that say nothing but their role are idle: their memory counts.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "proc.h"


typedef struct {
    int         fd;
    uint64_t    events;
    unsigned    matched;        /* bytes of "data: {" seen at the end */
} stream_t;


static const char  mark[] = "data: {";
static const char  body[] =
    "{\"stream\":true,\"messages\":[{\"role\":\"user\",\"content\":\"%s\"}]}";


static uint64_t
now_ns(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000u + (uint64_t) ts.tv_nsec;
}


/* time on a processor, from the scheduler's own account */

static uint64_t
cpu_ns(const char *pid)
{
    char                 path[64];
    FILE                *f;
    unsigned long long   ns;

    snprintf(path, sizeof(path), "/proc/%s/schedstat", pid);

    f = fopen(path, "r");
    if (f == NULL || fscanf(f, "%llu", &ns) != 1) {
        fprintf(stderr, "sse_load: no processor time of %s\n", pid);
        exit(1);
    }

    fclose(f);

    return ns;
}


static int
stream_open(int port, const char *prompt)
{
    int                 fd, n;
    char                req[1024], text[512];
    struct sockaddr_in  sin;

    fd = socket(AF_INET, SOCK_STREAM, 0);

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((uint16_t) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (fd == -1
        || connect(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1)
    {
        perror("sse_load: connect");
        exit(1);
    }

    n = snprintf(text, sizeof(text), body, prompt);
    n = snprintf(req, sizeof(req),
                 "POST /v1/chat/completions HTTP/1.1\r\n"
                 "Host: localhost\r\nContent-Type: application/json\r\n"
                 "Content-Length: %d\r\n\r\n%s", n, text);

    if (write(fd, req, (size_t) n) != n) {
        perror("sse_load: write");
        exit(1);
    }

    if (fcntl(fd, F_SETFL, O_NONBLOCK) == -1) {
        perror("sse_load: fcntl");
        exit(1);
    }

    return fd;
}


/* the mark has no proper prefix that is also its suffix, so that a mismatch
 * can start anew at its first byte */

static unsigned
stream_count(stream_t *s, const char *p, size_t n)
{
    size_t    i;
    unsigned  found;

    found = 0;

    for (i = 0; i < n; i++) {

        if (p[i] != mark[s->matched]) {
            s->matched = (p[i] == mark[0]);
            continue;
        }

        if (++s->matched == sizeof(mark) - 1) {
            s->matched = 0;
            found++;
        }
    }

    s->events += found;

    return found;
}


static void
sample_write(const char *path, const char *p, size_t n)
{
    FILE  *f;

    f = fopen(path, "w");

    if (f == NULL || fwrite(p, 1, n, f) != n || fclose(f) != 0) {
        perror("sse_load: sample");
        exit(1);
    }
}


int
main(int argc, char **argv)
{
    int                  ep, i, n, nstreams, begun;
    char                 buf[65536];
    long                 kb;
    ssize_t              got;
    uint64_t             start, end, cpu, events, bytes;
    stream_t            *streams, *s;
    const char          *sample;
    struct rlimit        lim;
    struct epoll_event   ev, evs[512];

    if (argc != 7) {
        fprintf(stderr, "usage: sse_load PORT STREAMS SECONDS PID SAMPLE|- "
                "PROMPT\n");
        return 2;
    }

    nstreams = atoi(argv[2]);
    sample = strcmp(argv[5], "-") != 0 ? argv[5] : NULL;
    kb = proc_anon_kb(argv[4]);

    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);

    streams = calloc((size_t) nstreams, sizeof(stream_t));
    ep = epoll_create1(0);

    for (i = 0; i < nstreams; i++) {
        streams[i].fd = stream_open(atoi(argv[1]), argv[6]);
        ev.events = EPOLLIN;
        ev.data.ptr = &streams[i];
        epoll_ctl(ep, EPOLL_CTL_ADD, streams[i].fd, &ev);
    }

    begun = 0;
    start = end = cpu = events = bytes = 0;

    for ( ;; ) {

        if (start == 0 && begun == nstreams) {
            start = now_ns();
            end = start + strtoull(argv[3], NULL, 10) * 1000000000u;
            cpu = cpu_ns(argv[4]);
            events = bytes = 0;
        }

        if (start && now_ns() >= end) {
            break;
        }

        n = epoll_wait(ep, evs, 512, start ? 10 : 10000);

        if (n == 0 && start == 0) {
            fprintf(stderr, "sse_load: only %d of %d streams began\n", begun,
                    nstreams);
            return 1;
        }

        for (i = 0; i < n; i++) {
            s = evs[i].data.ptr;
            got = read(s->fd, buf, sizeof(buf));

            if (got == -1 && errno == EAGAIN) {
                continue;
            }

            if (got <= 0) {
                fprintf(stderr, "sse_load: a stream ended: %s\n",
                        got ? strerror(errno) : "closed");
                return 1;
            }

            begun += (s->events == 0);
            events += stream_count(s, buf, (size_t) got);
            begun -= (s->events == 0);
            bytes += (uint64_t) got;

            /* one event in one read: what a tick brings */

            if (sample && start && got < 1024) {
                sample_write(sample, buf, (size_t) got);
                sample = NULL;
            }
        }
    }

    cpu = cpu_ns(argv[4]) - cpu;

    printf("%d %.0f %.3f %.0f %.2f\n", nstreams,
           (double) events * 1e9 / (double) (now_ns() - start),
           events ? (double) cpu / 1e3 / (double) events : 0,
           events ? (double) bytes / (double) events : 0,
           (double) (proc_anon_kb(argv[4]) - kb) / nstreams);

    return 0;
}
