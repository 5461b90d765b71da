/*
 * sse_ceiling PORT STREAMS TICK_US SAMPLE
 *
 * The bare ceiling: accepts STREAMS connections, reads each one's request,
 * answers with a header, and from then on writes SAMPLE's bytes to every
 * socket once a tick, one write(2) each.  No server can send an event a
 * stream a tick for less than these system calls.
 */

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>


static const char  head[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    "Transfer-Encoding: chunked\r\n\r\n";


static int
listener(int port)
{
    int                 fd, one;
    struct sockaddr_in  sin;

    one = 1;
    fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((uint16_t) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);

    if (bind(fd, (struct sockaddr *) &sin, sizeof(sin)) == -1
        || listen(fd, 1024) == -1)
    {
        perror("sse_ceiling: listen");
        exit(1);
    }

    return fd;
}


static void
next_tick(struct timespec *t, long tick_us)
{
    t->tv_nsec += tick_us * 1000;

    while (t->tv_nsec >= 1000000000) {
        t->tv_nsec -= 1000000000;
        t->tv_sec++;
    }

    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, t, NULL);
}


int
main(int argc, char **argv)
{
    int               i, one, lfd, *fds, n;
    char              buf[4096], event[4096];
    FILE             *f;
    size_t            size;
    struct rlimit     lim;
    struct timespec   t;

    if (argc != 5) {
        fprintf(stderr, "usage: sse_ceiling PORT STREAMS TICK_US SAMPLE\n");
        return 2;
    }

    f = fopen(argv[4], "r");
    if (f == NULL) {
        perror("sse_ceiling: sample");
        return 1;
    }

    size = fread(event, 1, sizeof(event), f);
    fclose(f);

    signal(SIGPIPE, SIG_IGN);
    getrlimit(RLIMIT_NOFILE, &lim);
    lim.rlim_cur = lim.rlim_max;
    setrlimit(RLIMIT_NOFILE, &lim);

    n = atoi(argv[2]);
    fds = calloc((size_t) n, sizeof(int));
    lfd = listener(atoi(argv[1]));
    one = 1;

    for (i = 0; i < n; i++) {
        fds[i] = accept(lfd, NULL, NULL);

        if (fds[i] == -1 || read(fds[i], buf, sizeof(buf)) <= 0
            || write(fds[i], head, sizeof(head) - 1) == -1)
        {
            perror("sse_ceiling: accept");
            return 1;
        }

        setsockopt(fds[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    }

    clock_gettime(CLOCK_MONOTONIC, &t);

    for ( ;; ) {
        for (i = 0; i < n; i++) {
            if (write(fds[i], event, size) == -1) {
                return 0;
            }
        }

        next_tick(&t, atol(argv[3]));
    }
}
