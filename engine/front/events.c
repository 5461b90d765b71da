/*
 * events: what ranks say of the choices that they have.
 */

#include <string.h>

#include "front/front.h"


/* frames of one rank in a turn: more than a step of a full batch has */
#define MOE_EVENTS_FRAMES  16384


/* what the cache had was not computed for its key */

static void
moe_slot_cached(const moe_choice_t *c, uint32_t tokens)
{
    moe_task_t  *t;

    t = c->task;

    if (c->tries == 0 && tokens <= t->prompts[c->prompt].n) {
        moe_fair_charge(&t->front->fair, &t->wait,
                        -(int64_t) tokens * MOE_FAIR_INPUT);
    }
}


static void
moe_slot_started(moe_slot_t *s, const void *buf, size_t len)
{
    moe_task_t     *t;
    const char     *why;
    moe_started_t   e;

    if (s->choice == NULL || moe_started_read(&e, buf, len, &why) != 0) {
        return;
    }

    t = s->choice->task;

    if (!s->choice->begun) {
        s->choice->begun = 1;

        /* other choices find what the first one has just put there */
        if (s->choice->index % t->job.n == 0
            && e.cached_tokens <= t->prompts[s->choice->prompt].n)
        {
            t->cached[s->choice->prompt] = e.cached_tokens;
        }

        moe_slot_cached(s->choice, e.cached_tokens);
    }

    moe_task_started(t);
}


static void
moe_slot_times(moe_choice_t *c)
{
    moe_task_t   *t;
    moe_front_t  *f;

    t = c->task;
    f = t->front;

    if (!t->first) {
        t->first = 1;
        moe_histogram_add(&f->stats.ttft, f->now - t->arrived_us);
    }

    if (c->last_us) {
        moe_histogram_add(&f->stats.itl, f->now - c->last_us);
    }

    c->last_us = f->now;
    f->stats.last_token_us = f->now;
}


/* the bytes of one token's record and its alternatives, -1: it is not one */

static ssize_t
moe_slot_record(const void *lp, const void *end)
{
    uint32_t     n;
    moe_lp_t     rec;
    const void  *p;

    p = lp;

    if (moe_lp_read(&rec, &p, end) != MOE_JOBQ_OK) {
        return -1;
    }

    for (n = rec.ntop; n; n--) {
        if (moe_lp_read(&rec, &p, end) != MOE_JOBQ_OK) {
            return -1;
        }
    }

    return (const uint8_t *) p - (const uint8_t *) lp;
}


static int
moe_slot_echo(moe_choice_t *c, uint32_t id, const void *lp, size_t n)
{
    if (c->echo_skip) {
        c->echo_skip--;
        return 0;
    }

    c->echo_seen++;

    if (moe_task_grow(c->task, sizeof(moe_piece_t) + n) == -1) {
        return -1;
    }

    return moe_stream_id(&c->out, id, lp, n, 1);
}


/* one id after the other; 1: the stream has ended */

static int
moe_slot_ids(moe_choice_t *c, const moe_delta_t *d)
{
    int             rc;
    ssize_t         n;
    uint32_t        i;
    const uint8_t  *lp, *end;

    lp = d->lp;
    end = lp + d->lp_size;

    for (i = 0; i < d->nids; i++) {

        n = lp < end ? moe_slot_record(lp, end) : 0;

        if (n == -1) {
            return -1;
        }

        if (d->flags & MOE_DELTA_ECHO) {
            rc = moe_slot_echo(c, d->ids[i], lp, n);

        } else {
            moe_slot_times(c);
            rc = moe_stream_push(&c->out, d->ids[i], lp, n);
        }

        if (rc) {
            return rc;
        }

        lp += n;
    }

    return 0;
}


static void
moe_slot_delta(moe_slot_t *s, const void *buf, size_t len)
{
    int            rc;
    const char    *why;
    moe_delta_t    d;
    moe_choice_t  *c;

    c = s->choice;

    if (c == NULL || c->task->status) {
        return;
    }

    if (moe_delta_read(&d, buf, len, &why) != MOE_JOBQ_OK) {
        moe_task_fail(c->task, 500, NULL, NULL, "%s", why);
        return;
    }

    moe_task_started(c->task);

    if (!(d.flags & MOE_DELTA_ECHO)) {
        moe_fair_charge(&c->task->front->fair, &c->task->wait,
                        (int64_t) d.nids * MOE_FAIR_OUTPUT);
    }

    rc = moe_slot_ids(c, &d);

    if (rc == 0 && d.finish) {
        rc = moe_stream_finish(&c->out, d.finish);
    }

    if (rc == -1) {
        moe_task_fail(c->task, 500, NULL, NULL,
                      "the rank's tokens could not be taken");
        return;
    }

    if (c->out.stopped && c->state == MOE_CHOICE_RUNNING) {
        moe_slot_leave(c);
        moe_choice_done(c, c->out.ids.n);
    }

    moe_task_wants(c->task);
}


/* a rank's error becomes the task's */

static void
moe_slot_error(moe_task_t *t, const moe_end_t *e)
{
    static const char  too_long[] = "context_length_exceeded";

    const char  *code;

    code = NULL;

    if (e->code.len == sizeof(too_long) - 1
        && memcmp(e->code.data, too_long, e->code.len) == 0)
    {
        code = too_long;
    }

    moe_task_fail(t, e->status >= 400 && e->status != 499 ? e->status : 500,
                  code, NULL, "%.*s",
                  e->message.len ? (int) e->message.len : 26,
                  e->message.len ? e->message.data
                                 : "the rank gave the job back");
}


static void
moe_slot_probed(moe_task_t *t, const moe_end_t *e)
{
    t->probing = 0;

    if (e->status == 200) {
        t->started = 1;
        t->started_sent = 1;

    } else {
        moe_slot_error(t, e);
    }

    moe_task_wants(t);
}


static void
moe_slot_end(moe_proc_t *p, uint32_t slot, const void *buf, size_t len)
{
    moe_end_t      e;
    moe_task_t    *t;
    const char    *why;
    moe_choice_t  *c;

    c = p->slots[slot].choice;
    t = p->slots[slot].probe;

    moe_slot_release(p, slot);

    if (moe_end_read(&e, buf, len, &why) != MOE_JOBQ_OK) {
        memset(&e, 0, sizeof(moe_end_t));
        e.status = 500;
        e.message.data = why;
        e.message.len = strlen(why);
    }

    if (t) {
        moe_slot_probed(t, &e);
        return;
    }

    if (c == NULL) {
        return;
    }

    t = c->task;
    c->rank = NULL;

    if (t->status == 0 && (e.status != 200 || c->out.finish == 0)) {
        c->state = MOE_CHOICE_WAITING;
        moe_slot_error(t, &e);
        return;
    }

    moe_choice_done(c, e.completion_tokens > c->out.ids.n
                       ? e.completion_tokens : c->out.ids.n);
}


static void
moe_slot_event(moe_proc_t *p, const moe_frame_t *frame)
{
    size_t       len;
    moe_slot_t  *s;

    len = frame->size - sizeof(moe_frame_t);
    moe_lane_take(&p->lane, p->front->scratch);

    if (frame->slot >= p->nslots) {
        return;
    }

    s = &p->slots[frame->slot];

    if (!s->busy || s->gen != frame->gen) {
        return;
    }

    switch (frame->type) {

    case MOE_FRAME_STARTED:
        moe_slot_started(s, p->front->scratch, len);
        break;

    case MOE_FRAME_DELTA:
        moe_slot_delta(s, p->front->scratch, len);
        break;

    case MOE_FRAME_END:
        moe_slot_end(p, frame->slot, p->front->scratch, len);
        break;
    }
}


int
moe_proc_read(moe_proc_t *p)
{
    int          i, rc;
    moe_frame_t  frame;

    for (i = 0; i < MOE_EVENTS_FRAMES; i++) {

        rc = moe_lane_next(&p->lane, &frame);

        if (rc != MOE_JOBQ_OK) {
            return rc;
        }

        moe_slot_event(p, &frame);
        p->sign_us = p->front->now;
        p->front->dirty = 1;
    }

    p->front->again = 1;

    return MOE_JOBQ_AGAIN;
}
