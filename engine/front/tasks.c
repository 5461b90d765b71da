#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/front.h"


/* how long a rank may take to confirm that a choice has stopped */
#define MOE_TASK_CANCEL_US   (30 * MOE_SECOND)

#define moe_task_of(node)                                                     \
    ((moe_task_t *) (void *) ((char *) (node) - offsetof(moe_task_t, wait)))


static int  moe_task_generate(moe_task_t *t);
static void  moe_task_tokenize(moe_task_t *t);
static void  moe_task_detokenize(moe_task_t *t);


int
moe_task_over(const moe_task_t *t)
{
    return t->ndone == t->nchoices
           && (t->status || t->started) && t->probing == 0;
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
moe_task_count(moe_task_t *t)
{
    moe_end_t     e;
    moe_stats_t  *s;

    s = &t->front->stats;
    moe_task_end(t, &e);

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
    moe_fair_remove(&f->fair, &t->wait);

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


/* nobody waits for its END any more: it goes at the turn's end */

static void
moe_task_over_check(moe_task_t *t)
{
    if (!moe_task_over(t)) {
        return;
    }

    if (t->worker) {
        moe_worker_wants(t);

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

    moe_task_over_check(c->task);
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

    moe_task_over_check(t);
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
    t->retry_after = status == 503 || status == 429;

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
    moe_task_over_check(t);
}


void
moe_task_wait(moe_task_t *t)
{
    if (t->status || t->wait.key) {
        return;
    }

    if (moe_fair_push(&t->front->fair, t->job.key, &t->wait, 1) == -1) {
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

    moe_worker_wants(t);
}


/* beginning */


static moe_task_t *
moe_task_create(moe_worker_t *w, uint32_t slot, uint32_t gen, void *record,
    size_t size)
{
    moe_task_t   *t;
    moe_front_t  *f;

    t = calloc(1, sizeof(moe_task_t));
    if (t == NULL) {
        return NULL;
    }

    f = w->front;

    t->front = f;
    t->worker = w;
    t->slot = slot;
    t->gen = gen;
    t->record = record;
    t->size = record ? size : 0;
    t->arrived_us = f->now;

    t->next = f->tasks;

    if (f->tasks) {
        f->tasks->prev = t;
    }

    f->tasks = t;
    f->ntasks++;
    f->bytes += t->size;
    f->dirty = 1;

    w->slots[slot] = t;
    w->live++;

    return t;
}


static int
moe_task_serving(moe_task_t *t)
{
    moe_front_t  *f;

    f = t->front;

    if (f->drain_us) {
        moe_task_fail(t, 503, "engine_draining", NULL,
                      "The engine is shutting down.");

    } else if (f->failed) {
        moe_task_fail(t, 503, "engine_failed", NULL,
                      "The engine's ranks do not stay up.");

    } else if (!f->ready) {
        moe_task_fail(t, 503, "model_loading", NULL,
                      "The model is loading (%u%%).",
                      (unsigned) (f->stats.progress / 10));

    } else {
        return 0;
    }

    return -1;
}


static int
moe_task_named(moe_task_t *t)
{
    if (moe_text_name(&t->front->text, &t->job.model) != -1) {
        return 0;
    }

    moe_task_fail(t, 404, "model_not_found", "model",
                  "The model `%.*s` does not exist.",
                  t->job.model.len < 200 ? (int) t->job.model.len : 200,
                  t->job.model.data);
    return -1;
}


void
moe_task_begin(moe_worker_t *w, uint32_t slot, uint32_t gen, void *record,
    size_t size)
{
    moe_task_t  *t;
    const char  *why;

    t = moe_task_create(w, slot, gen, record, size);

    if (t == NULL) {
        free(record);
        moe_worker_close(w, "out of memory", 0);
        return;
    }

    if (record == NULL) {
        moe_task_fail(t, 503, "engine_overloaded", NULL,
                      "The engine has no room for the request.");
        return;
    }

    if (moe_job_read(&t->job, record, size, &why) != MOE_JOBQ_OK) {
        moe_worker_close(w, why, 1);
        return;
    }

    t->credit = t->job.credit;

    if (t->job.timeout_ms) {
        t->deadline_us = t->arrived_us + t->job.timeout_ms * 1000ull;
    }

    switch (t->job.kind) {

    case MOE_JOB_PROBE:
        if (moe_task_serving(t) == 0) {
            moe_slot_probe(w->front, t);
        }

        return;

    case MOE_JOB_TOKENIZE:
        moe_task_tokenize(t);
        return;

    case MOE_JOB_DETOKENIZE:
        moe_task_detokenize(t);
        return;

    case MOE_JOB_CHAT:
    case MOE_JOB_COMPLETION:
        (void) moe_task_generate(t);
        return;

    default:
        moe_task_fail(t, 400, NULL, NULL, "Jobs of this kind are not taken.");
    }
}


/* request, then generation_config.json, then what OpenAI documents */

static int
moe_task_sampling(moe_task_t *t)
{
    moe_job_t               *j;
    const moe_generation_t  *g;

    j = &t->job;
    g = &t->front->text.config.gen;

    if (!(j->set & MOE_SET_TEMPERATURE)) {
        j->temperature = g->has_do_sample && !g->do_sample ? 0
                         : g->has_temperature ? (float) g->temperature : 1;
    }

    if (!(j->set & MOE_SET_TOP_P)) {
        j->top_p = g->has_top_p ? (float) g->top_p : 1;
    }

    if (!(j->set & MOE_SET_TOP_K)) {
        j->top_k = g->has_top_k ? g->top_k : 0;
    }

    if (!(j->set & MOE_SET_MIN_P)) {
        j->min_p = g->has_min_p ? (float) g->min_p : 0;
    }

    if (!(j->set & MOE_SET_PRESENCE)) {
        j->presence = 0;
    }

    if (!(j->set & MOE_SET_FREQUENCY)) {
        j->frequency = 0;
    }

    if (!(j->set & MOE_SET_REPETITION)) {
        j->repetition = g->has_repetition_penalty
                        ? (float) g->repetition_penalty : 1;
    }

    j->set = MOE_SET_TEMPERATURE|MOE_SET_TOP_P|MOE_SET_TOP_K|MOE_SET_MIN_P
             |MOE_SET_PRESENCE|MOE_SET_FREQUENCY|MOE_SET_REPETITION;

    /* the worker has checked ranges; what is left is not to be a number */

    if (!isfinite(j->temperature) || j->temperature < 0
        || !isfinite(j->top_p) || !isfinite(j->min_p)
        || !isfinite(j->presence) || !isfinite(j->frequency)
        || !isfinite(j->repetition) || j->repetition <= 0
        || j->top_logprobs > MOE_TOP_LOGPROBS)
    {
        moe_task_fail(t, 400, NULL, NULL,
                      "A sampling parameter is out of range.");
        return -1;
    }

    return 0;
}


static int
moe_task_ids(moe_task_t *t)
{
    uint32_t           i, vocab;
    const moe_text_t  *text;

    text = &t->front->text;
    vocab = (uint32_t) text->config.vocab;

    for (i = 0; i < t->job.nbias; i++) {
        if (t->job.bias[i].id >= vocab || isnan(t->job.bias[i].bias)) {
            moe_task_fail(t, 400, NULL, "logit_bias",
                          "logit_bias: there is no token %u.",
                          t->job.bias[i].id);
            return -1;
        }
    }

    t->stop_ids = malloc((text->neos + t->job.nstop_ids + 1)
                         * sizeof(uint32_t));

    if (t->stop_ids == NULL) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return -1;
    }

    for (i = 0; i < text->neos; i++) {
        t->stop_ids[t->nstop_ids++] = text->eos[i];
    }

    for (i = 0; i < t->job.nstop_ids; i++) {
        if (t->job.stop_ids[i] < vocab) {
            t->stop_ids[t->nstop_ids++] = t->job.stop_ids[i];
        }
    }

    return 0;
}


static int
moe_task_lengths(moe_task_t *t)
{
    int          chat;
    uint32_t     i, n, context;
    const char  *param;

    chat = t->job.kind == MOE_JOB_CHAT;
    param = chat ? "messages" : "prompt";
    context = t->front->text.context;

    for (i = 0; i < t->nprompts; i++) {
        n = t->prompts[i].n;

        if (n > context || (n == context && t->job.max_tokens)) {
            moe_task_fail(t, 400, "context_length_exceeded", param,
                          "This model's maximum context length is %u tokens. "
                          "However, your %s resulted in %u tokens. Please "
                          "reduce the length of the %s.", context,
                          chat ? "messages" : "prompt", n, param);
            return -1;
        }

        if (n > t->job.max_prompt) {
            moe_task_fail(t, 400, "context_length_exceeded", param,
                          "Prompts of at most %u tokens are accepted here. "
                          "However, your %s resulted in %u tokens.",
                          t->job.max_prompt,
                          chat ? "messages" : "prompt", n);
            return -1;
        }

        t->prompt_tokens += n;
    }

    return 0;
}


/* the prompt as the client wrote it, or as its ids read */

static int
moe_choice_echo(moe_choice_t *c)
{
    int                  rc;
    char                 text[MOE_DETOK_MAX];
    size_t               i;
    moe_task_t          *t;
    moe_detok_t          d;
    const moe_ids_t     *ids;
    const moe_prompt_t  *p;

    t = c->task;
    p = &t->job.prompts[c->prompt];

    if (!p->is_ids) {
        return moe_stream_text(&c->out, p->data, p->n, 1);
    }

    ids = &t->prompts[c->prompt];
    moe_detok_init(&d, t->front->text.tokenizer, 0);

    for (i = 0, rc = 0; i < ids->n && rc == 0; i++) {
        rc = moe_stream_text(&c->out, text,
                             moe_detok_push(&d, ids->ids[i], text), 1);
    }

    return rc == 0 ? moe_stream_text(&c->out, text,
                                     moe_detok_flush(&d, text), 1) : rc;
}


/* what has nothing left to compute does not need a rank */

static void
moe_choice_complete(moe_choice_t *c)
{
    uint32_t         i, n;
    moe_task_t      *t;
    const uint32_t  *ids;

    t = c->task;
    ids = c->out.ids.ids;
    n = c->out.ids.n;

    if (!c->out.stopped && n && !(t->job.flags & MOE_JOB_IGNORE_EOS)) {

        for (i = 0; i < t->nstop_ids; i++) {
            if (t->stop_ids[i] == ids[n - 1]) {
                (void) moe_stream_finish(&c->out, MOE_FINISH_STOP);
            }
        }
    }

    if (!c->out.finish && n >= moe_choice_max_tokens(c)
        && (n || !(t->job.flags & MOE_JOB_PROMPT_LOGPROBS)))
    {
        (void) moe_stream_finish(&c->out, MOE_FINISH_LENGTH);
    }

    if (c->out.finish) {
        moe_choice_done(c, n);
    }
}


static int
moe_choice_init(moe_task_t *t, uint32_t index)
{
    uint32_t           i;
    moe_choice_t      *c;
    const moe_cont_t  *cont;

    c = &t->choices[index];

    c->task = t;
    c->index = index;
    c->prompt = index / t->job.n;

    moe_stream_init(&c->out, t->front->text.tokenizer, &t->stops,
                    t->job.min_tokens, MOE_DETOK_SKIP_SPECIAL);

    cont = NULL;

    for (i = 0; i < t->job.nconts; i++) {
        if (t->job.conts[i].choice == index) {
            cont = &t->job.conts[i];
        }
    }

    if (cont) {
        for (i = 0; i < cont->nids; i++) {
            if (cont->ids[i] >= (uint32_t) t->front->text.config.vocab) {
                moe_task_fail(t, 400, NULL, NULL,
                              "A continuation has an id that does not "
                              "exist.");
                return -1;
            }
        }

        moe_stream_replay(&c->out, cont->ids, cont->nids, cont->ntext);

    } else if ((t->job.flags & MOE_JOB_ECHO) && moe_choice_echo(c) == -1) {
        c->out.failed = 1;
    }

    if (c->out.failed) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return -1;
    }

    return 0;
}


static int
moe_task_choices(moe_task_t *t)
{
    uint32_t  i, n;

    if (t->job.n == 0 || t->job.n > MOE_CHOICES_MAX
        || (n = t->nprompts * t->job.n) > MOE_CHOICES_MAX)
    {
        moe_task_fail(t, 400, NULL, "n",
                      "At most %u choices are given to a request.",
                      MOE_CHOICES_MAX);
        return -1;
    }

    t->choices = calloc(n, sizeof(moe_choice_t));

    if (t->choices == NULL
        || moe_stops_init(&t->stops, t->job.stops, t->job.nstops) == -1)
    {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return -1;
    }

    for (i = 0; i < n; i++) {
        t->nchoices++;

        if (moe_choice_init(t, i) == -1) {
            return -1;
        }
    }

    return 0;
}


static int
moe_task_generate(moe_task_t *t)
{
    uint32_t      i;
    moe_front_t  *f;

    f = t->front;

    if (moe_task_named(t) == -1 || moe_task_serving(t) == -1) {
        return -1;
    }

    if (f->fair.n >= f->options->queue) {
        moe_task_fail(t, 503, "queue_full", NULL,
                      "The engine's queue is full.");
        return -1;
    }

    if (moe_task_sampling(t) == -1 || moe_task_ids(t) == -1
        || moe_prompt_make(t) == -1 || moe_task_lengths(t) == -1
        || moe_task_choices(t) == -1)
    {
        return -1;
    }

    t->accepted = 1;
    f->stats.accepted++;

    for (i = 0; i < t->nchoices; i++) {
        moe_choice_complete(&t->choices[i]);
    }

    if (t->ndone == t->nchoices) {
        moe_task_started(t);
        return 0;
    }

    if (moe_fair_push(&f->fair, t->job.key, &t->wait, 0) == -1) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return -1;
    }

    return 0;
}


/* one choice whose stream takes the answer of a text-only job */

static moe_stream_t *
moe_task_plain(moe_task_t *t)
{
    t->choices = calloc(1, sizeof(moe_choice_t));

    if (t->choices == NULL) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return NULL;
    }

    t->choices[0].task = t;
    t->nchoices = 1;

    moe_stream_init(&t->choices[0].out, t->front->text.tokenizer, NULL, 0, 0);

    return &t->choices[0].out;
}


static void
moe_task_plain_end(moe_task_t *t, int rc)
{
    if (rc == -1 || moe_stream_finish(&t->choices[0].out, MOE_FINISH_STOP)) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return;
    }

    moe_choice_done(&t->choices[0], 0);
    moe_task_started(t);
}


static void
moe_task_tokenize(moe_task_t *t)
{
    int               rc;
    size_t            i;
    moe_stream_t     *s;
    const moe_ids_t  *ids;

    if (moe_task_named(t) == -1 || moe_prompt_make(t) == -1) {
        return;
    }

    s = moe_task_plain(t);

    if (s == NULL) {
        return;
    }

    ids = &t->prompts[0];
    t->prompt_tokens = ids->n;

    for (i = 0, rc = 0; i < ids->n && rc == 0; i++) {
        rc = moe_stream_id(s, ids->ids[i], NULL, 0, 0);
    }

    moe_task_plain_end(t, rc);
}


static void
moe_task_detokenize(moe_task_t *t)
{
    int               rc;
    char              text[MOE_DETOK_MAX];
    size_t            i;
    moe_detok_t       d;
    moe_stream_t     *s;
    const moe_ids_t  *ids;

    if (moe_task_named(t) == -1 || moe_prompt_make(t) == -1) {
        return;
    }

    s = moe_task_plain(t);

    if (s == NULL) {
        return;
    }

    ids = &t->prompts[0];
    t->prompt_tokens = ids->n;
    moe_detok_init(&d, t->front->text.tokenizer, 0);

    for (i = 0, rc = 0; i < ids->n && rc == 0; i++) {
        rc = moe_stream_text(s, text,
                             moe_detok_push(&d, ids->ids[i], text), 0);
    }

    if (rc == 0) {
        rc = moe_stream_text(s, text, moe_detok_flush(&d, text), 0);
    }

    moe_task_plain_end(t, rc);
}


/* waiting */


uint32_t
moe_choice_max_tokens(const moe_choice_t *c)
{
    uint32_t           room;
    const moe_task_t  *t;

    t = c->task;
    room = t->front->text.context - t->prompts[c->prompt].n;

    return t->job.max_tokens < room ? t->job.max_tokens : room;
}


static moe_choice_t *
moe_task_waiting(moe_task_t *t)
{
    uint32_t  i;

    for (i = 0; i < t->nchoices; i++) {
        if (t->choices[i].state == MOE_CHOICE_WAITING) {
            return &t->choices[i];
        }
    }

    return NULL;
}


void
moe_tasks_dispatch(moe_front_t *f)
{
    int               rc;
    moe_proc_t       *p;
    moe_task_t       *t;
    moe_choice_t     *c;
    moe_fair_node_t  *node;

    while ((node = moe_fair_first(&f->fair)) != NULL) {

        t = moe_task_of(node);
        c = moe_task_waiting(t);

        if (c) {
            p = moe_ranks_choose(f, &t->prompts[c->prompt]);

            if (p == NULL) {
                return;
            }

            rc = moe_slot_submit(p, c);

            if (rc == 1) {
                return;
            }

            f->dirty = 1;

            if (rc == -1) {
                continue;
            }
        }

        /* the turn first: the key may go with its last job */
        moe_fair_turn(&f->fair);

        if (moe_task_waiting(t) == NULL) {
            moe_fair_remove(&f->fair, &t->wait);
        }
    }
}


static void
moe_task_give_up(moe_task_t *t)
{
    uint32_t       i;
    moe_choice_t  *c;

    for (i = 0; i < t->nchoices; i++) {
        c = &t->choices[i];

        if (c->state == MOE_CHOICE_RUNNING) {
            moe_slot_leave(c);
            moe_choice_done(c, c->out.ids.n);
        }
    }
}


void
moe_tasks_tick(moe_front_t *f)
{
    moe_task_t  *t, *next;

    f->stats.parked = 0;

    for (t = f->tasks; t; t = next) {
        next = t->next;

        if (t->deadline_us && !t->started && !t->status
            && f->now > t->deadline_us)
        {
            moe_slot_forget_probe(t);
            moe_task_fail(t, 503, "queue_timeout", NULL,
                          "The request waited too long in the queue.");
        }

        if (t->cancel_us && f->now - t->cancel_us > MOE_TASK_CANCEL_US) {
            moe_task_give_up(t);
        }

        if (t->parked_us) {
            f->stats.parked++;

            if (f->now - t->parked_us > f->options->park_s * MOE_SECOND) {
                moe_task_cancel(t);
            }
        }
    }
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
