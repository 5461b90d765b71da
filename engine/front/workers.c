#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "front/front.h"


/* frames that one worker may have taken in a turn, and how long their
 * prompts may keep the others waiting */
#define MOE_WORKER_FRAMES   256
#define MOE_WORKER_TURN_US  5000

#define MOE_WORKER_HELLO_US (5 * MOE_SECOND)


static void
moe_worker_detach(moe_worker_t *w)
{
    uint32_t     i;
    moe_task_t  *t;

    for (i = 0; w->live && i < MOE_SLOTS; i++) {
        t = w->slots[i];

        if (t) {
            w->slots[i] = NULL;
            w->live--;
            t->worker = NULL;
            t->in_out = 0;
            moe_task_cancel(t);
        }
    }

    w->out_head = NULL;
    w->out_tail = NULL;
}


void
moe_worker_close(moe_worker_t *w, const char *why, int broken)
{
    moe_front_t  *f;

    if (w->state == MOE_WORKER_CLOSED) {
        return;
    }

    f = w->front;

    if (broken) {
        f->stats.lanes_broken++;
        moe_log(MOE_LOG_WARN, "worker broke the protocol pid=%d jobs=%u: %s",
                (int) w->pid, w->live, why);

    } else {
        moe_log(MOE_LOG_INFO, "worker left pid=%d jobs=%u: %s",
                (int) w->pid, w->live, why);
    }

    w->state = MOE_WORKER_CLOSED;

    moe_worker_detach(w);

    moe_front_unwatch(f, &w->watch);
    moe_lane_destroy(&w->lane);
    close(w->watch.fd);

    f->dirty = 1;
}


/* errno says whether the peer or the machine is at fault */

static void
moe_worker_error(moe_worker_t *w)
{
    moe_worker_close(w, w->lane.why ? w->lane.why : strerror(errno),
                     errno == EPROTO);
}


static void
moe_worker_hello(moe_worker_t *w)
{
    int           rc;
    uint32_t      i;
    moe_front_t  *f;
    moe_hello_t   hello;

    f = w->front;
    rc = moe_lane_accept(&w->lane, &hello);

    if (rc == MOE_JOBQ_AGAIN) {
        return;
    }

    if (rc != MOE_JOBQ_OK) {
        moe_hello_refuse(w->watch.fd,
                         hello.magic == MOE_HELLO_MAGIC
                         && hello.version != MOE_JOBQ_VERSION ? 505 : 400,
                         w->lane.why);
        moe_worker_error(w);
        return;
    }

    memset(&hello, 0, sizeof(moe_hello_t));

    hello.status = 200;
    hello.nmodels = f->text.nnames;
    memcpy(hello.fingerprint, f->answers, sizeof(hello.fingerprint));

    for (i = 0; i < f->text.nnames; i++) {
        memcpy(hello.models[i].name, f->text.names[i], MOE_MODEL_NAME_MAX);
        hello.models[i].created = f->text.created;
        hello.models[i].context = f->text.context;
    }

    moe_front_stats_first(f, &w->lane);

    if (moe_lane_hello(&w->lane, &hello) != MOE_JOBQ_OK) {
        moe_worker_close(w, "hello could not be sent", 0);
        return;
    }

    w->state = MOE_WORKER_OPEN;
    w->unnamed = !f->named;
    f->dirty = 1;

    moe_log(MOE_LOG_INFO, "worker joined pid=%d ring=%u", (int) w->pid,
            w->lane.peer_size);
}


static void
moe_worker_event(moe_front_t *f, moe_watch_t *watch, uint32_t events)
{
    moe_worker_t  *w;

    w = watch->data;

    if (w->state == MOE_WORKER_CLOSED) {
        return;
    }

    if (w->state == MOE_WORKER_HELLO) {
        moe_worker_hello(w);
        return;
    }

    if (moe_lane_drain(&w->lane) == MOE_JOBQ_ERROR) {
        moe_worker_error(w);
    }
}


static moe_worker_t *
moe_worker_create(moe_front_t *f, int fd)
{
    moe_worker_t  *w;

    w = calloc(1, sizeof(moe_worker_t));
    if (w == NULL) {
        return NULL;
    }

    w->slots = calloc(MOE_SLOTS, sizeof(moe_task_t *));

    if (w->slots == NULL
        || moe_lane_create(&w->lane, fd, MOE_SIDE_ENGINE, MOE_FRONT_RING)
           != MOE_JOBQ_OK)
    {
        free(w->slots);
        free(w);
        return NULL;
    }

    w->front = f;
    w->since_us = f->now;
    w->watch.fd = fd;
    w->watch.data = w;
    w->watch.handler = moe_worker_event;

    if (moe_front_watch(f, &w->watch, EPOLLIN) == -1) {
        moe_lane_destroy(&w->lane);
        free(w->slots);
        free(w);
        return NULL;
    }

    return w;
}


void
moe_workers_accept(moe_front_t *f, moe_watch_t *watch, uint32_t events)
{
    int            fd;
    socklen_t      len;
    moe_worker_t  *w;
    struct ucred   cred;

    for ( ;; ) {
        fd = accept4(watch->fd, NULL, NULL, SOCK_NONBLOCK|SOCK_CLOEXEC);

        if (fd == -1) {
            if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
                moe_log(MOE_LOG_ERROR, "accept4() failed: %s",
                        strerror(errno));
            }

            return;
        }

        len = sizeof(cred);
        memset(&cred, 0, sizeof(cred));

        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1) {
            moe_log(MOE_LOG_WARN, "SO_PEERCRED failed: %s", strerror(errno));
        }

        w = f->nworkers < MOE_WORKERS_MAX ? moe_worker_create(f, fd) : NULL;

        if (w == NULL) {
            moe_hello_refuse(fd, 503, "the engine takes no more workers");
            moe_log(MOE_LOG_WARN, "worker refused pid=%d uid=%d workers=%u",
                    (int) cred.pid, (int) cred.uid, f->nworkers);
            close(fd);
            continue;
        }

        w->pid = cred.pid;
        f->workers[f->nworkers++] = w;

        moe_log(MOE_LOG_INFO, "worker connected pid=%d uid=%d gid=%d",
                (int) cred.pid, (int) cred.uid, (int) cred.gid);
    }
}


/* frames in */


static void
moe_worker_violation(moe_worker_t *w, const char *why)
{
    moe_worker_close(w, why, 1);
}


static void
moe_worker_job(moe_worker_t *w, const moe_frame_t *frame)
{
    int          rc;
    void        *record;
    size_t       size;
    const char  *why;

    size = frame->size - sizeof(moe_frame_t);

    if (frame->slot >= MOE_SLOTS || w->slots[frame->slot]) {
        moe_worker_violation(w, "a job for a slot that is in use");
        return;
    }

    record = NULL;

    if (w->front->bytes + size <= MOE_FRONT_BYTES) {
        record = malloc(size ? size : 1);
    }

    moe_lane_take(&w->lane, record);

    rc = moe_task_begin(w, frame->slot, frame->gen, record, size, &why);

    if (rc) {
        moe_worker_close(w, why, rc == 1);
    }
}


static void
moe_worker_control(moe_worker_t *w, const moe_frame_t *frame)
{
    size_t       size;
    uint32_t     bytes;
    uint64_t     buf[2];
    moe_task_t  *t;
    const char  *why;

    size = frame->size - sizeof(moe_frame_t);

    if (frame->slot >= MOE_SLOTS || size > sizeof(buf)) {
        moe_worker_violation(w, "a control frame that is impossible");
        return;
    }

    moe_lane_take(&w->lane, buf);

    t = w->slots[frame->slot];

    if (frame->type == MOE_FRAME_CANCEL) {
        if (t && t->gen == frame->gen) {
            moe_task_cancel(t);
        }

        return;
    }

    if (moe_credit_read(&bytes, buf, size, &why) != MOE_JOBQ_OK) {
        moe_worker_violation(w, why);
        return;
    }

    if (t && t->gen == frame->gen) {
        t->credit += bytes;

        if (t->credit > INT32_MAX) {
            t->credit = INT32_MAX;
        }

        if (t->credit > 0) {
            t->parked_us = 0;
            moe_task_wants(t);
        }
    }
}


static void
moe_worker_read(moe_worker_t *w)
{
    int          rc, frames;
    uint64_t     begun;
    moe_frame_t  frame;

    begun = moe_front_clock();

    for (frames = 0; frames < MOE_WORKER_FRAMES; frames++) {

        rc = moe_lane_next(&w->lane, &frame);

        if (rc == MOE_JOBQ_AGAIN) {
            return;
        }

        if (rc == MOE_JOBQ_ERROR) {
            moe_worker_error(w);
            return;
        }

        switch (frame.type) {

        case MOE_FRAME_JOB:
            moe_worker_job(w, &frame);

            if (moe_front_clock() - begun > MOE_WORKER_TURN_US) {
                w->front->again = 1;
                return;
            }

            break;

        case MOE_FRAME_CANCEL:
        case MOE_FRAME_CREDIT:
            moe_worker_control(w, &frame);
            break;

        default:
            moe_worker_violation(w, "a frame of an unknown type");
        }

        if (w->state != MOE_WORKER_OPEN) {
            return;
        }
    }

    w->front->again = 1;
}


void
moe_workers_read(moe_front_t *f)
{
    uint32_t  i;

    for (i = 0; i < f->nworkers; i++) {
        if (f->workers[i]->state == MOE_WORKER_OPEN) {
            moe_worker_read(f->workers[i]);
        }
    }
}


/* events out */


static int
moe_worker_put_started(moe_worker_t *w, moe_task_t *t)
{
    int            rc;
    uint32_t       i;
    moe_started_t  s;

    memset(&s, 0, sizeof(moe_started_t));

    s.prompt_tokens = t->prompt_tokens;
    s.queue_us = t->started_us - t->arrived_us;

    for (i = 0; i < t->nprompts; i++) {
        s.cached_tokens += t->cached[i];
    }

    rc = moe_put_started(&w->lane, t->slot, t->gen, &s);

    if (rc == MOE_JOBQ_OK) {
        t->started_sent = 1;
    }

    return rc;
}


static moe_choice_t *
moe_worker_next_choice(moe_task_t *t)
{
    uint32_t       i;
    moe_choice_t  *c;

    for (i = 0; i < t->nchoices; i++) {
        c = &t->choices[(t->turn + i) % t->nchoices];

        if (moe_stream_ready(&c->out)) {
            return c;
        }
    }

    return NULL;
}


static int
moe_worker_put_delta(moe_worker_t *w, moe_task_t *t, moe_choice_t *c)
{
    int          rc;
    uint32_t     head, n, ids[MOE_STREAM_IDS];
    moe_delta_t  d;

    moe_stream_delta(&c->out, &d, ids);

    d.choice = c->index;
    d.total_tokens = moe_tasks_sampled(t);

    head = w->lane.head;

    rc = moe_put_delta(&w->lane, t->slot, t->gen, &d);

    if (rc != MOE_JOBQ_OK) {
        return rc;
    }

    t->credit -= w->lane.head - head;
    t->turn = (c->index + 1) % t->nchoices;

    n = moe_stream_taken(&c->out);

    if (n) {
        moe_slot_credit(c, n);
    }

    return MOE_JOBQ_OK;
}


static int
moe_worker_put_end(moe_worker_t *w, moe_task_t *t)
{
    int        rc;
    moe_end_t  e;

    moe_task_end(t, &e);

    rc = moe_put_end(&w->lane, t->slot, t->gen, &e);

    if (rc == MOE_JOBQ_OK) {
        w->slots[t->slot] = NULL;
        w->live--;
        t->worker = NULL;
        moe_task_free(t);
    }

    return rc;
}


/* OK: all that can be written is; AGAIN: the ring is full */

static int
moe_worker_put(moe_worker_t *w, moe_task_t *t)
{
    int            rc;
    moe_choice_t  *c;

    /* an echo is there before anything is scheduled */

    if (t->status == 0 && !t->started) {
        return MOE_JOBQ_OK;
    }

    if (t->status == 0 && !t->started_sent) {
        rc = moe_worker_put_started(w, t);

        if (rc != MOE_JOBQ_OK) {
            return rc;
        }
    }

    while ((c = moe_worker_next_choice(t)) != NULL) {

        if (t->credit <= 0) {
            if (t->parked_us == 0) {
                t->parked_us = t->front->now;
            }

            return MOE_JOBQ_OK;
        }

        rc = moe_worker_put_delta(w, t, c);

        if (rc != MOE_JOBQ_OK) {
            return rc;
        }
    }

    return moe_task_over(t) ? moe_worker_put_end(w, t) : MOE_JOBQ_OK;
}


static void
moe_worker_write(moe_worker_t *w)
{
    int          rc;
    moe_task_t  *t;

    while ((t = w->out_head) != NULL) {

        /* off the list first: its END frees it */

        w->out_head = t->out_next;

        if (w->out_head == NULL) {
            w->out_tail = NULL;
        }

        t->in_out = 0;

        rc = moe_worker_put(w, t);

        if (rc == MOE_JOBQ_AGAIN) {
            t->in_out = 1;
            t->out_next = w->out_head;
            w->out_head = t;

            if (w->out_tail == NULL) {
                w->out_tail = t;
            }

            return;
        }

        if (rc == MOE_JOBQ_ERROR) {
            moe_worker_error(w);
            return;
        }
    }
}


void
moe_workers_write(moe_front_t *f)
{
    uint32_t  i;

    for (i = 0; i < f->nworkers; i++) {
        if (f->workers[i]->state == MOE_WORKER_OPEN) {
            moe_worker_write(f->workers[i]);
        }
    }
}


/* also frees the workers that were closed in this turn */

void
moe_workers_flush(moe_front_t *f)
{
    uint32_t       i, n;
    moe_worker_t  *w;

    n = 0;

    for (i = 0; i < f->nworkers; i++) {
        w = f->workers[i];

        if (w->state == MOE_WORKER_OPEN
            && moe_lane_flush(&w->lane) != MOE_JOBQ_OK)
        {
            moe_worker_error(w);
        }

        if (w->state == MOE_WORKER_CLOSED) {
            free(w->slots);
            free(w);
            continue;
        }

        f->workers[n++] = w;
    }

    f->nworkers = n;
}


int
moe_workers_sleep(moe_front_t *f)
{
    int       busy;
    uint32_t  i;

    busy = 0;

    for (i = 0; i < f->nworkers; i++) {
        if (f->workers[i]->state == MOE_WORKER_OPEN) {
            busy |= moe_lane_sleep(&f->workers[i]->lane);
        }
    }

    return busy;
}


void
moe_workers_tick(moe_front_t *f)
{
    uint32_t       i;
    moe_worker_t  *w;

    for (i = 0; i < f->nworkers; i++) {
        w = f->workers[i];

        if (w->state == MOE_WORKER_HELLO
            && f->now - w->since_us > MOE_WORKER_HELLO_US)
        {
            moe_worker_close(w, "no hello came in time", 1);

        } else if (w->state == MOE_WORKER_OPEN && w->unnamed && f->named
                   && w->live == 0)
        {
            moe_worker_close(w, "the model is known now, it may come again",
                             0);
        }
    }
}
