/*
 * watch: descriptors in the loop, and its clock.
 */

#include <string.h>
#include <sys/epoll.h>
#include <time.h>

#include "front/front.h"


uint64_t
moe_front_clock(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * MOE_SECOND + (uint64_t) ts.tv_nsec / 1000;
}


int
moe_front_watch(moe_front_t *f, moe_watch_t *w, uint32_t events)
{
    struct epoll_event  ev;

    memset(&ev, 0, sizeof(ev));
    ev.events = events;
    ev.data.ptr = w;

    return epoll_ctl(f->epoll, EPOLL_CTL_ADD, w->fd, &ev);
}


void
moe_front_unwatch(moe_front_t *f, moe_watch_t *w)
{
    (void) epoll_ctl(f->epoll, EPOLL_CTL_DEL, w->fd, NULL);
}
