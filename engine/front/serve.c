#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "front/front.h"


#define MOE_FRONT_EVENTS   64
#define MOE_FRONT_TICK_US  (MOE_SECOND / 10)

/* after the drain's time, how long ranks have for their ENDs, then workers */
#define MOE_FRONT_LAST_US  (MOE_SECOND / 2)

/* without any worker, how long a model may take to load */
#define MOE_FRONT_LOAD_US  (600 * MOE_SECOND)


/* signals */


static void
moe_front_drain(moe_front_t *f)
{
    if (f->drain_us) {
        moe_log(MOE_LOG_NOTICE, "told to stop again: leaving at once");
        f->quit = 1;
        return;
    }

    f->drain_us = f->now + f->options->drain_s * MOE_SECOND;
    f->dirty = 1;

    moe_front_unwatch(f, &f->listen_watch);
    moe_listen_close(f);

    moe_log(MOE_LOG_NOTICE, "draining jobs=%u timeout_s=%u", f->ntasks,
            f->options->drain_s);
}


static void
moe_front_signal(moe_front_t *f, moe_watch_t *w, uint32_t events)
{
    struct signalfd_siginfo  si;

    while (read(w->fd, &si, sizeof(si)) == sizeof(si)) {

        if (si.ssi_signo == SIGTERM || si.ssi_signo == SIGINT) {
            moe_front_drain(f);
        }
    }
}


static int
moe_front_signals(moe_front_t *f, moe_err_t *err)
{
    sigset_t  set;

    signal(SIGPIPE, SIG_IGN);

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);

    if (sigprocmask(SIG_BLOCK, &set, NULL) == -1) {
        return moe_err(err, "sigprocmask() failed: %s", strerror(errno));
    }

    f->signals = signalfd(-1, &set, SFD_NONBLOCK|SFD_CLOEXEC);

    if (f->signals == -1) {
        return moe_err(err, "signalfd() failed: %s", strerror(errno));
    }

    f->signal_watch.fd = f->signals;
    f->signal_watch.handler = moe_front_signal;

    if (moe_front_watch(f, &f->signal_watch, EPOLLIN) == -1) {
        return moe_err(err, "epoll_ctl() failed: %s", strerror(errno));
    }

    return 0;
}


/* the loop */


static void
moe_front_end_all(moe_front_t *f)
{
    moe_task_t  *t, *next;

    for (t = f->tasks; t; t = next) {
        next = t->next;
        moe_slot_forget_probe(t);
        moe_task_fail(t, 503, "engine_draining", NULL,
                      "The engine has shut down.");
    }
}


/* a rank that gets no processor keeps no END back: what it gave is counted */

static void
moe_front_leave_ranks(moe_front_t *f)
{
    uint32_t       i;
    moe_task_t    *t;
    moe_choice_t  *c;

    for (t = f->tasks; t; t = t->next) {
        for (i = 0; i < t->nchoices; i++) {
            c = &t->choices[i];
            moe_slot_leave(c);
            moe_choice_done(c, c->out.ids.n);
        }
    }
}


/* a rank that a launcher has started is gone, and with it the engine: who
 * waits for anything is told */

static void
moe_front_lost(moe_front_t *f)
{
    moe_task_t  *t, *next;

    if (f->status == MOE_EXIT_ERROR) {
        return;
    }

    f->status = MOE_EXIT_ERROR;

    for (t = f->tasks; t; t = next) {
        next = t->next;
        moe_slot_forget_probe(t);
        moe_task_fail(t, 503, "engine_lost", NULL,
                      "A process of the engine has died, and the engine "
                      "with it.");
    }

    moe_front_leave_ranks(f);

    if (f->drain_us == 0) {
        moe_front_unwatch(f, &f->listen_watch);
        moe_listen_close(f);
    }

    f->drain_us = f->now;
    f->tick_us = 0;
    f->dirty = 1;

    moe_log(MOE_LOG_ERROR, "ranks do not go on without each other: leaving "
            "jobs=%u", f->ntasks);
}


static void
moe_front_tick_drain(moe_front_t *f)
{
    if (f->ntasks == 0) {
        f->quit = 1;

    } else if (f->now >= f->drain_us + 2 * MOE_FRONT_LAST_US) {
        f->quit = 1;

    } else if (f->now >= f->drain_us + MOE_FRONT_LAST_US) {
        moe_front_leave_ranks(f);

    } else if (f->now >= f->drain_us) {
        moe_front_end_all(f);
    }
}


static void
moe_front_tick(moe_front_t *f)
{
    uint64_t  idle_us;

    f->tick_us = f->now;

    moe_ranks_tick(f);
    moe_experts_tick(f);
    moe_workers_tick(f);
    moe_tasks_tick(f);

    if (f->drain_us) {
        moe_front_tick_drain(f);
    }

    /* a model that takes long to load is not given up before its first use */

    idle_us = f->options->idle_s * MOE_SECOND;

    if (!f->ready && idle_us < MOE_FRONT_LOAD_US) {
        idle_us = MOE_FRONT_LOAD_US;
    }

    if (f->nworkers || f->options->idle_s == 0) {
        f->alone_us = f->now;

    } else if (f->now - f->alone_us > idle_us) {
        moe_log(MOE_LOG_NOTICE, "no worker for %u s: leaving",
                f->options->idle_s);
        f->status = MOE_EXIT_IDLE;
        f->quit = 1;
    }
}


/* nothing to do is slept through but for one look a second */

static int
moe_front_timeout(moe_front_t *f)
{
    if (f->again) {
        return 0;
    }

    if (f->ntasks || f->dirty || f->drain_us || !f->ready
        || f->stats.ranks_up < f->nranks
        || (f->nworkers == 0 && f->options->idle_s))
    {
        return MOE_FRONT_TICK_US / 1000;
    }

    return 1000;
}


static void
moe_front_turn(moe_front_t *f)
{
    f->again = 0;

    moe_ranks_read(f);
    moe_workers_read(f);

    if (f->lost) {
        moe_front_lost(f);
    }

    if (f->now - f->tick_us >= MOE_FRONT_TICK_US) {
        moe_front_tick(f);
    }

    moe_tasks_dispatch(f);
    moe_workers_write(f);
    moe_tasks_reap(f);

    moe_front_stats(f);

    moe_ranks_flush(f);
    moe_workers_flush(f);

    f->again |= moe_ranks_sleep(f);
    f->again |= moe_workers_sleep(f);
}


static int
moe_front_loop(moe_front_t *f, moe_err_t *err)
{
    int                  i, n;
    moe_watch_t         *w;
    struct epoll_event   events[MOE_FRONT_EVENTS];

    while (!f->quit) {

        n = epoll_wait(f->epoll, events, MOE_FRONT_EVENTS,
                       moe_front_timeout(f));

        if (n == -1 && errno != EINTR) {
            return moe_err(err, "epoll_wait() failed: %s", strerror(errno));
        }

        f->now = moe_front_clock();

        for (i = 0; i < n; i++) {
            w = events[i].data.ptr;
            w->handler(f, w, events[i].events);
        }

        moe_front_turn(f);
    }

    return 0;
}


/* beginning and end */


static int
moe_front_open(moe_front_t *f, const moe_serve_options_t *o, moe_err_t *err)
{
    uint32_t  i;

    f->options = o;
    f->now = moe_front_clock();
    f->alone_us = f->now;
    f->stats.started = (uint64_t) time(NULL);

    for (i = 0; i < o->nnames; i++) {
        snprintf(f->text.names[i], MOE_MODEL_NAME_MAX, "%s", o->names[i]);
        f->text.nnames++;
    }

    f->scratch = malloc(MOE_EVENT_MAX);
    f->epoll = epoll_create1(EPOLL_CLOEXEC);

    if (f->scratch == NULL || f->epoll == -1) {
        return moe_err(err, "epoll_create1() failed: %s", strerror(errno));
    }

    if (moe_text_load(&f->text, o->rank.model_dir, o->template,
                      o->rank.max_context, err)
        == -1)
    {
        return -1;
    }

    if (moe_listen(f, o, err) == -1 || moe_front_signals(f, err) == -1) {
        return -1;
    }

    f->listen_watch.fd = f->listener;
    f->listen_watch.handler = moe_workers_accept;

    if (moe_front_watch(f, &f->listen_watch, EPOLLIN) == -1) {
        return moe_err(err, "epoll_ctl() failed: %s", strerror(errno));
    }

    moe_log(MOE_LOG_NOTICE, "listening socket=%s model=%s dir=%s", o->socket,
            f->text.names[0], o->rank.model_dir);

    if (moe_ranks_start(f, err) == -1
        || moe_arrivals_open(f, err) == -1)
    {
        return -1;
    }

    return moe_prepare_start(f, moe_task_prepared, err);
}


static void
moe_front_close(moe_front_t *f)
{
    uint32_t  i;

    moe_arrivals_close(f);
    moe_listen_close(f);
    moe_prepare_stop(f);

    /* workers see the hang-up at once, and ranks stop for nobody */

    for (i = 0; i < f->nworkers; i++) {
        moe_worker_close(f->workers[i], "the engine stops", 0);
    }

    moe_workers_flush(f);
    moe_ranks_stop(f);

    while (f->tasks) {
        moe_task_free(f->tasks);
    }

    moe_fair_free(&f->fair);
    moe_text_free(&f->text);

    if (f->signals != -1) {
        close(f->signals);
    }

    if (f->epoll != -1) {
        close(f->epoll);
    }

    free(f->scratch);
}


int
moe_front_run(const moe_serve_options_t *o)
{
    int           rc;
    moe_err_t     err;
    moe_front_t  *f;

    f = calloc(1, sizeof(moe_front_t));
    if (f == NULL) {
        return MOE_EXIT_ERROR;
    }

    f->epoll = -1;
    f->listener = -1;
    f->signals = -1;
    f->prepare.watch.fd = -1;

    rc = moe_front_open(f, o, &err);

    if (rc == 0) {
        rc = moe_front_loop(f, &err);
    }

    if (rc == -1) {
        moe_log(MOE_LOG_ERROR, "%s", err.text);
        f->status = MOE_EXIT_ERROR;
    }

    rc = f->status;
    f->quit = 1;

    moe_front_close(f);
    moe_log(MOE_LOG_NOTICE, "stopped code=%d", rc);
    free(f);

    return rc;
}
