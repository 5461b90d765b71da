#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/front.h"


int
moe_task_over(const moe_task_t *t)
{
    return t->ndone == t->nchoices
           && (t->status || t->started) && !t->probing && !t->preparing;
}


uint32_t
moe_tasks_sampled(const moe_task_t *t)
{
    uint32_t             i, n;
    const moe_choice_t  *c;

    n = 0;

    for (i = 0; i < t->nchoices; i++) {
        c = &t->choices[i];
        n += c->state == MOE_CHOICE_DONE ? c->sampled : c->out.ids.n;
    }

    return n;
}


void
moe_task_end(const moe_task_t *t, moe_end_t *e)
{
    uint32_t  i;

    memset(e, 0, sizeof(moe_end_t));

    e->status = t->status ? t->status : 200;
    e->retry_after = t->retry_after;
    e->prompt_tokens = t->prompt_tokens;
    e->completion_tokens = moe_tasks_sampled(t);

    for (i = 0; i < t->nprompts; i++) {
        e->cached_tokens += t->cached[i];
    }

    if (t->code) {
        e->code.data = t->code;
        e->code.len = strlen(t->code);
    }

    if (t->param) {
        e->param.data = t->param;
        e->param.len = strlen(t->param);
    }

    e->message.data = t->message;
    e->message.len = strlen(t->message);
}


static void
moe_task_log(const moe_task_t *t, const moe_end_t *e)
{
    int              i;
    char             id[33];
    uint64_t         now;
    moe_log_level_e  level;

    level = e->status >= 500 && e->status != 503 ? MOE_LOG_WARN
                                                 : MOE_LOG_DEBUG;

    for (i = 0; i < 16; i++) {
        snprintf(id + 2 * i, 3, "%02x", t->job.request_id[i]);
    }

    now = t->front->now;

    moe_log(level, "job %s status=%u prompt=%u cached=%u completion=%u "
            "queue_ms=%llu total_ms=%llu%s%s", id, e->status,
            e->prompt_tokens, e->cached_tokens, e->completion_tokens,
            (unsigned long long)
            ((t->started ? t->started_us : now) - t->arrived_us) / 1000,
            (unsigned long long) (now - t->arrived_us) / 1000,
            t->message[0] ? ": " : "", t->message);
}


static void
moe_task_count(moe_task_t *t)
{
    moe_end_t     e;
    moe_stats_t  *s;

    s = &t->front->stats;
    moe_task_end(t, &e);
    moe_task_log(t, &e);

    if (!t->accepted) {
        s->refused += (e.status != 200 && e.status != 499);
        return;
    }

    s->finished += (e.status == 200);
    s->cancelled += (e.status == 499);
    s->failed += (e.status != 200 && e.status != 499);

    s->prompt_tokens += e.prompt_tokens;
    s->cached_tokens += e.cached_tokens;
    s->completion_tokens += e.completion_tokens;
}


void
moe_task_free(moe_task_t *t)
{
    uint32_t      i;
    moe_front_t  *f;

    f = t->front;

    moe_task_count(t);
    moe_fair_leave(&f->fair, &t->wait);

    if (t->next) {
        t->next->prev = t->prev;
    }

    if (t->prev) {
        t->prev->next = t->next;

    } else {
        f->tasks = t->next;
    }

    f->ntasks--;
    f->bytes -= t->size;
    f->dirty = 1;

    for (i = 0; i < t->nchoices; i++) {
        moe_stream_free(&t->choices[i].out);
    }

    for (i = 0; i < t->nprompts; i++) {
        moe_ids_free(&t->prompts[i]);
    }

    moe_stops_free(&t->stops);

    free(t->stop_ids);
    free(t->choices);
    free(t->prompts);
    free(t->cached);
    free(t->record);
    free(t);
}


void
moe_task_wants(moe_task_t *t)
{
    moe_worker_t  *w;

    w = t->worker;

    if (w == NULL || t->in_out) {
        return;
    }

    t->in_out = 1;
    t->out_next = NULL;

    if (w->out_tail) {
        w->out_tail->out_next = t;

    } else {
        w->out_head = t;
    }

    w->out_tail = t;
}


/* nobody waits for its END any more: it goes at the turn's end */

void
moe_task_check(moe_task_t *t)
{
    if (!moe_task_over(t)) {
        return;
    }

    if (t->worker) {
        moe_task_wants(t);

    } else {
        t->front->orphans = 1;
    }
}


void
moe_choice_done(moe_choice_t *c, uint32_t sampled)
{
    if (c->state == MOE_CHOICE_DONE) {
        return;
    }

    c->state = MOE_CHOICE_DONE;
    c->sampled = sampled;
    c->task->ndone++;

    moe_task_check(c->task);
}


/* all that runs is told to stop, what waits does so at once */

static void
moe_task_stop(moe_task_t *t)
{
    uint32_t       i;
    moe_choice_t  *c;

    moe_fair_remove(&t->front->fair, &t->wait);

    t->cancel_us = t->front->now;
    t->parked_us = 0;

    for (i = 0; i < t->nchoices; i++) {
        c = &t->choices[i];

        moe_stream_drop(&c->out);

        if (c->state == MOE_CHOICE_WAITING) {
            moe_choice_done(c, c->out.ids.n);

        } else if (c->state == MOE_CHOICE_RUNNING) {
            moe_slot_cancel(c);
        }
    }

    moe_task_check(t);
}


void
moe_task_fail(moe_task_t *t, uint32_t status, const char *code,
    const char *param, const char *fmt, ...)
{
    va_list  args;

    if (t->status) {
        return;
    }

    t->status = status;
    t->code = code;
    t->param = param;

    if (t->retry_after == 0) {
        t->retry_after = status == 503 || status == 429;
    }

    va_start(args, fmt);
    vsnprintf(t->message, sizeof(t->message), fmt, args);
    va_end(args);

    moe_task_stop(t);
}


void
moe_task_cancel(moe_task_t *t)
{
    moe_slot_forget_probe(t);
    moe_task_fail(t, 499, NULL, NULL, "cancelled");
    moe_task_check(t);
}


void
moe_task_wait(moe_task_t *t)
{
    if (t->status || t->wait.waits) {
        return;
    }

    if (moe_fair_push(&t->front->fair, &t->wait, 1) == -1) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
    }
}


void
moe_task_started(moe_task_t *t)
{
    if (t->started) {
        return;
    }

    t->started = 1;
    t->started_us = t->front->now;

    if (t->accepted) {
        moe_histogram_add(&t->front->stats.queue,
                          t->started_us - t->arrived_us);
    }

    moe_task_wants(t);
}


uint32_t
moe_choice_max_tokens(const moe_choice_t *c)
{
    uint32_t           room;
    const moe_task_t  *t;

    t = c->task;
    room = t->front->text.context - t->prompts[c->prompt].n;

    return t->job.max_tokens < room ? t->job.max_tokens : room;
}


void
moe_tasks_reap(moe_front_t *f)
{
    moe_task_t  *t, *next;

    if (!f->orphans) {
        return;
    }

    f->orphans = 0;

    for (t = f->tasks; t; t = next) {
        next = t->next;

        if (t->worker == NULL && moe_task_over(t)) {
            moe_task_free(t);
        }
    }
}
