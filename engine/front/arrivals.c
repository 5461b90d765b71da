#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "front/arrive.h"
#include "front/front.h"


/* connected, and has not said yet who it is */
typedef struct {
    moe_watch_t   watch;
    struct ucred  peer;
} moe_arriving_t;


static void
moe_arriving_said(moe_front_t *f, moe_watch_t *w, uint32_t events)
{
    int              fd;
    pid_t            pid;
    moe_proc_t      *p;
    moe_arrival_t    a, mine;
    moe_arriving_t  *x;

    x = w->data;
    fd = w->fd;
    pid = x->peer.pid;

    moe_front_unwatch(f, w);
    free(x);

    moe_arrival_fill(&mine, &f->options->launched);

    if (recv(fd, &a, sizeof(a), MSG_DONTWAIT) != sizeof(a)
        || a.local >= f->nranks)
    {
        close(fd);
        return;
    }

    mine.local = a.local;
    p = &f->ranks[a.local];

    if (memcmp(&a, &mine, sizeof(a)) != 0 || p->state != MOE_PROC_DOWN
        || f->lost)
    {
        moe_log(MOE_LOG_WARN, "pid %d is no rank of this job", (int) pid);
        close(fd);
        return;
    }

    if (send(fd, &mine, sizeof(mine), MSG_NOSIGNAL|MSG_DONTWAIT)
        != sizeof(mine)
        || moe_proc_attach(p, fd) == -1)
    {
        close(fd);
        f->lost = 1;
        return;
    }

    moe_log(MOE_LOG_INFO, "rank %u of this host has come pid=%d", p->index,
            (int) pid);
}


static void
moe_arrivals_accept(moe_front_t *f, moe_watch_t *w, uint32_t events)
{
    int              fd;
    socklen_t        len;
    moe_arriving_t  *x;

    fd = accept4(w->fd, NULL, NULL, SOCK_CLOEXEC|SOCK_NONBLOCK);

    if (fd == -1) {
        return;
    }

    x = calloc(1, sizeof(moe_arriving_t));
    len = sizeof(struct ucred);

    if (x == NULL
        || getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &x->peer, &len) == -1
        || x->peer.uid != geteuid())
    {
        free(x);
        close(fd);
        return;
    }

    x->watch.fd = fd;
    x->watch.data = x;
    x->watch.handler = moe_arriving_said;

    if (moe_front_watch(f, &x->watch, EPOLLIN) == -1) {
        free(x);
        close(fd);
    }
}


/* the first rank of the host, whose child this process is, holds the other
 * end */

static void
moe_arrivals_leash(moe_front_t *f, moe_watch_t *w, uint32_t events)
{
    moe_log(MOE_LOG_ERROR, "the rank that started this front is gone");
    moe_front_unwatch(f, w);
    f->lost = 1;
}


/* nobody else has the socket beside it, so what is there was left behind */

int
moe_arrivals_open(moe_front_t *f, moe_err_t *err)
{
    int                 fd, rc;
    mode_t              mask;
    struct sockaddr_un  sun;

    if (f->options->launched.size == 0) {
        return 0;
    }

    if (moe_arrival_address(f->options->socket, &sun, err) == -1) {
        return -1;
    }

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return moe_err(err, "socket() failed: %s", strerror(errno));
    }

    f->arrivals.fd = fd;
    f->arrivals.handler = moe_arrivals_accept;
    f->leash.fd = f->options->leash;
    f->leash.handler = moe_arrivals_leash;

    (void) unlink(sun.sun_path);

    mask = umask(0177);
    rc = bind(fd, (struct sockaddr *) &sun, sizeof(sun));
    umask(mask);

    if (rc == -1 || listen(fd, MOE_RANKS_MAX) == -1
        || moe_front_watch(f, &f->arrivals, EPOLLIN) == -1
        || moe_front_watch(f, &f->leash, EPOLLIN) == -1)
    {
        return moe_err(err, "%s: %s", sun.sun_path, strerror(errno));
    }

    return 0;
}


void
moe_arrivals_close(moe_front_t *f)
{
    moe_err_t           err;
    struct sockaddr_un  sun;

    if (f->options->launched.size == 0 || f->arrivals.fd <= 0) {
        return;
    }

    close(f->arrivals.fd);

    if (moe_arrival_address(f->options->socket, &sun, &err) == 0) {
        (void) unlink(sun.sun_path);
    }
}
