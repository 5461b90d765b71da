#include <stdlib.h>
#include <string.h>

#include "front/front.h"


/* frames of one rank in a turn: more than a step of a full batch has */
#define MOE_SLOT_FRAMES  16384

/* ids that say where a prompt's prefix may be cached */
#define MOE_SLOT_HASHED  64


static void
moe_slot_list(moe_proc_t *p, uint32_t slot)
{
    if (!p->slots[slot].listed) {
        p->slots[slot].listed = 1;
        p->todo[p->ntodo++] = slot;
    }
}


void
moe_slot_release(moe_proc_t *p, uint32_t slot)
{
    moe_slot_t  *s;

    s = &p->slots[slot];

    if (s->choice || s->probe) {
        p->running--;
    }

    s->choice = NULL;
    s->probe = NULL;
    s->busy = 0;
    s->cancel = 0;
    s->credit = 0;

    p->busy--;
    p->free[p->nfree++] = slot;
}


static uint32_t
moe_slot_take(moe_proc_t *p)
{
    uint32_t     slot;
    moe_slot_t  *s;

    slot = p->free[--p->nfree];
    s = &p->slots[slot];

    s->gen = ++p->gen;
    s->busy = 1;
    s->cancel = 0;
    s->credit = 0;

    if (p->busy++ == 0) {
        p->sign_us = p->front->now;
    }

    p->running++;

    return slot;
}


/* events in */


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

    moe_worker_wants(c->task);
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

    moe_worker_wants(t);
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

    for (i = 0; i < MOE_SLOT_FRAMES; i++) {

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


void
moe_ranks_read(moe_front_t *f)
{
    uint32_t     i;
    moe_proc_t  *p;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];

        if (p->state >= MOE_PROC_LOADING
            && moe_proc_read(p) == MOE_JOBQ_ERROR)
        {
            moe_proc_died(p, p->lane.why);
        }
    }
}


/* jobs out */


/* FNV-1a is enough: an unlucky hash costs balance, and load bounds that */

static uint32_t
moe_slot_hash(const moe_ids_t *prompt)
{
    size_t    i;
    uint32_t  h;

    h = 2166136261u;

    for (i = 0; i < prompt->n && i < MOE_SLOT_HASHED; i++) {
        h = (h ^ prompt->ids[i]) * 16777619u;
    }

    return h ^ h >> 15;
}


/* whether a job of this priority would be in its batch */

static int
moe_proc_takes(const moe_proc_t *p, int32_t priority)
{
    uint32_t             i, n, max;
    const moe_choice_t  *c;

    max = p->front->options->rank.max_running;

    if (p->state != MOE_PROC_READY || p->nfree == 0 || p->busy >= 2 * max) {
        return 0;
    }

    if (p->busy < max) {
        return 1;
    }

    n = 0;

    for (i = 0; i < p->nslots; i++) {
        c = p->slots[i].choice;
        n += (c && c->task->job.priority >= priority);
    }

    return n < max;
}


moe_proc_t *
moe_ranks_choose(moe_front_t *f, const moe_ids_t *prompt, int32_t priority)
{
    uint32_t     i, h, up, total, bound;
    moe_proc_t  *p, *least;

    up = 0;
    total = 0;
    least = NULL;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];

        if (p->state != MOE_PROC_READY) {
            continue;
        }

        up++;
        total += p->busy;

        if ((least == NULL || p->busy < least->busy)
            && moe_proc_takes(p, priority))
        {
            least = p;
        }
    }

    /* experts are spread over all ranks at first */

    if (least == NULL || (f->shm && !f->ready)) {
        return NULL;
    }

    /* the same beginning goes to the same rank, but for a quarter more than
     * its share of the load at most */

    bound = (total + 1) * 5 / (up * 4) + 1;
    h = moe_slot_hash(prompt);

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[(h + i) % f->nranks];

        if (p->busy < bound && moe_proc_takes(p, priority)) {
            return p;
        }
    }

    return least;
}


static void
moe_slot_job(moe_choice_t *c, moe_job_t *j)
{
    moe_task_t  *t;

    t = c->task;

    *j = t->job;

    j->kind = MOE_JOB_IDS;
    j->n = 1;
    j->choice = c->index;
    j->flags &= MOE_JOB_IGNORE_EOS|MOE_JOB_LOGPROBS|MOE_JOB_PROMPT_LOGPROBS;
    j->max_tokens = moe_choice_max_tokens(c);
    j->credit = MOE_FRONT_AHEAD * MOE_TOKEN_CREDIT;
    j->timeout_ms = 0;

    memset(&j->model, 0, sizeof(moe_str_t));
    memset(&j->messages, 0, sizeof(moe_str_t));
    memset(&j->tools, 0, sizeof(moe_str_t));
    memset(&j->kwargs, 0, sizeof(moe_str_t));

    j->nstops = 0;
    j->stop_ids = t->stop_ids;
    j->nstop_ids = t->nstop_ids;

    j->nprompts = 1;
    j->prompts[0].is_ids = 1;
    j->prompts[0].n = t->prompts[c->prompt].n;
    j->prompts[0].data = t->prompts[c->prompt].ids;

    j->nconts = 0;

    if (c->out.ids.n) {
        j->nconts = 1;
        j->conts[0].choice = c->index;
        j->conts[0].ntext = 0;
        j->conts[0].nids = c->out.ids.n;
        j->conts[0].ids = c->out.ids.ids;
    }
}


int
moe_slot_submit(moe_proc_t *p, moe_choice_t *c)
{
    int          rc;
    size_t       size;
    uint32_t     slot;
    moe_job_t    j;
    moe_task_t  *t;

    t = c->task;

    moe_slot_job(c, &j);

    size = moe_job_size(&j);

    if (size == 0 || size + sizeof(moe_frame_t) > p->lane.own_size / 2) {
        moe_task_fail(t, 400, NULL, NULL, "The request is too large.");
        return -1;
    }

    slot = moe_slot_take(p);

    rc = moe_put_job(&p->lane, slot, p->slots[slot].gen, &j);

    if (rc != MOE_JOBQ_OK) {
        p->running--;
        moe_slot_release(p, slot);

        if (rc == MOE_JOBQ_AGAIN) {
            return 1;
        }

        moe_task_fail(t, 500, NULL, NULL, "%s", p->lane.why);
        return -1;
    }

    p->slots[slot].choice = c;

    c->state = MOE_CHOICE_RUNNING;
    c->rank = p;
    c->slot = slot;
    c->owed = 0;
    c->echo_skip = j.nconts ? 0 : c->echo_seen;

    return 0;
}


/* probes take no place of a sequence's */

void
moe_slot_probe(moe_front_t *f, moe_task_t *t)
{
    uint32_t     i, slot;
    moe_job_t    j;
    moe_proc_t  *p;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[f->probe_turn++ % f->nranks];

        if (p->state == MOE_PROC_READY && p->nfree) {
            break;
        }
    }

    if (i == f->nranks) {
        moe_task_fail(t, 503, "engine_failed", NULL, "No rank is up.");
        return;
    }

    memset(&j, 0, sizeof(moe_job_t));
    j.kind = MOE_JOB_PROBE;
    j.n = 1;
    j.credit = MOE_TOKEN_CREDIT;

    slot = moe_slot_take(p);

    if (moe_put_job(&p->lane, slot, p->slots[slot].gen, &j) != MOE_JOBQ_OK) {
        p->running--;
        moe_slot_release(p, slot);
        moe_task_fail(t, 503, NULL, NULL, "The rank takes no jobs now.");
        return;
    }

    p->slots[slot].probe = t;
    t->probing = 1;
}


void
moe_slot_forget_probe(moe_task_t *t)
{
    uint32_t      i, k;
    moe_proc_t   *p;
    moe_front_t  *f;

    f = t->front;

    for (i = 0; t->probing && i < f->nranks; i++) {
        p = &f->ranks[i];

        for (k = 0; k < p->nslots; k++) {
            if (p->slots[k].probe == t) {
                p->slots[k].probe = NULL;
                p->running--;
                t->probing = 0;
                break;
            }
        }
    }
}


void
moe_slot_cancel(moe_choice_t *c)
{
    if (c->rank && !c->rank->slots[c->slot].cancel) {
        c->rank->slots[c->slot].cancel = 1;
        moe_slot_list(c->rank, c->slot);
    }
}


void
moe_slot_leave(moe_choice_t *c)
{
    moe_proc_t  *p;

    p = c->rank;

    if (p == NULL) {
        return;
    }

    moe_slot_cancel(c);

    p->slots[c->slot].choice = NULL;
    p->running--;
    c->rank = NULL;
}


void
moe_slot_credit(moe_choice_t *c, uint32_t tokens)
{
    moe_slot_t  *s;

    if (c->rank == NULL) {
        return;
    }

    c->owed += tokens;

    if (c->owed >= MOE_FRONT_REFILL) {
        s = &c->rank->slots[c->slot];
        s->credit += c->owed;
        c->owed = 0;
        moe_slot_list(c->rank, c->slot);
    }
}


/* 1: no room for the rest of it */

static int
moe_slot_control(moe_proc_t *p, uint32_t slot)
{
    moe_slot_t  *s;

    s = &p->slots[slot];

    if (s->busy && s->cancel == 1) {
        if (moe_put_cancel(&p->lane, slot, s->gen) != MOE_JOBQ_OK) {
            return 1;
        }

        s->cancel = 2;
    }

    if (s->busy && s->credit) {
        if (moe_put_credit(&p->lane, slot, s->gen,
                           s->credit * MOE_TOKEN_CREDIT)
            != MOE_JOBQ_OK)
        {
            return 1;
        }

        s->credit = 0;
    }

    s->listed = 0;

    return 0;
}


static void
moe_proc_flush(moe_proc_t *p)
{
    uint32_t  i, n;

    for (i = 0; i < p->ntodo; i++) {
        if (moe_slot_control(p, p->todo[i])) {
            break;
        }
    }

    for (n = 0; i < p->ntodo; i++) {
        p->todo[n++] = p->todo[i];
    }

    p->ntodo = n;

    if (moe_lane_flush(&p->lane) != MOE_JOBQ_OK) {
        moe_proc_died(p, p->lane.why);
    }
}


void
moe_ranks_flush(moe_front_t *f)
{
    uint32_t  i;

    for (i = 0; i < f->nranks; i++) {
        if (f->ranks[i].state >= MOE_PROC_LOADING) {
            moe_proc_flush(&f->ranks[i]);
        }
    }
}


int
moe_ranks_sleep(moe_front_t *f)
{
    int       busy;
    uint32_t  i;

    busy = 0;

    for (i = 0; i < f->nranks; i++) {
        if (f->ranks[i].state >= MOE_PROC_LOADING) {
            busy |= moe_lane_sleep(&f->ranks[i].lane);
        }
    }

    return busy;
}
