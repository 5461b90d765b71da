/*
 * begin: a worker's job becomes a task that waits, or is refused.
 */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "front/front.h"


static int  moe_task_admit(moe_task_t *t);
static void  moe_task_make(moe_task_t *t);
static void  moe_task_generate(moe_task_t *t);
static void  moe_task_tokenize(moe_task_t *t);
static void  moe_task_detokenize(moe_task_t *t);


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
    t->size = sizeof(moe_task_t) + (record ? size : 0);
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


int
moe_task_begin(moe_worker_t *w, uint32_t slot, uint32_t gen, void *record,
    size_t size, const char **why)
{
    moe_task_t  *t;

    t = moe_task_create(w, slot, gen, record, size);

    if (t == NULL) {
        free(record);
        *why = "out of memory";
        return -1;
    }

    if (record == NULL) {
        moe_admit_memory(t);
        return 0;
    }

    if (moe_job_read(&t->job, record, size, why) != MOE_JOBQ_OK) {
        return 1;
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

        break;

    case MOE_JOB_TOKENIZE:
    case MOE_JOB_DETOKENIZE:
        if (moe_task_named(t) == 0 && moe_admit_text(t) == 0) {
            moe_task_make(t);
        }

        break;

    case MOE_JOB_CHAT:
    case MOE_JOB_COMPLETION:
        if (moe_task_admit(t) == 0) {
            moe_task_make(t);
        }

        break;

    default:
        moe_task_fail(t, 400, NULL, NULL, "Jobs of this kind are not taken.");
    }

    return 0;
}


static void
moe_task_make(moe_task_t *t)
{
    if (moe_prepare(t)) {
        moe_task_prepared(t);
    }
}


void
moe_task_prepared(moe_task_t *t)
{
    uint32_t  i;
    uint64_t  n;

    if (t->wrong.status) {
        moe_task_fail(t, t->wrong.status, t->wrong.code, t->wrong.param, "%s",
                      t->wrong.message);
    }

    /* it may have been cancelled meanwhile */

    if (t->status) {
        moe_task_check(t);
        return;
    }

    for (i = 0, n = 0; i < t->nprompts; i++) {
        n += t->prompts[i].n;
    }

    if (moe_task_grow(t, n * sizeof(uint32_t)) == -1) {
        return;
    }

    switch (t->job.kind) {

    case MOE_JOB_TOKENIZE:
        moe_task_tokenize(t);
        break;

    case MOE_JOB_DETOKENIZE:
        moe_task_detokenize(t);
        break;

    default:
        moe_task_generate(t);
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

    if (moe_task_grow(t, p->is_ids ? p->n * sizeof(moe_piece_t) : p->n)
        == -1)
    {
        return -1;
    }

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
    uint64_t  size;

    if (t->job.n == 0 || t->job.n > MOE_CHOICES_MAX
        || (n = t->nprompts * t->job.n) > MOE_CHOICES_MAX)
    {
        moe_task_fail(t, 400, NULL, "n",
                      "At most %u choices are given to a request.",
                      MOE_CHOICES_MAX);
        return -1;
    }

    size = n * sizeof(moe_choice_t);

    for (i = 0; i < t->job.nstops; i++) {
        size += t->job.stops[i].len * (1 + sizeof(uint32_t));
    }

    if (moe_task_grow(t, size) == -1) {
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


/* all that can be said before there are ids */

static int
moe_task_admit(moe_task_t *t)
{
    if (moe_task_named(t) == -1 || moe_task_serving(t) == -1
        || moe_task_sampling(t) == -1 || moe_task_ids(t) == -1)
    {
        return -1;
    }

    return moe_admit(t);
}


static void
moe_task_generate(moe_task_t *t)
{
    uint32_t      i;
    moe_front_t  *f;

    f = t->front;

    if (moe_task_lengths(t) == -1 || moe_task_choices(t) == -1) {
        return;
    }

    t->accepted = 1;
    f->stats.accepted++;

    for (i = 0; i < t->nchoices; i++) {
        moe_choice_complete(&t->choices[i]);
    }

    if (t->ndone == t->nchoices) {
        moe_fair_remove(&f->fair, &t->wait);
        moe_task_started(t);
        return;
    }

    if (moe_fair_push(&f->fair, &t->wait, 0) == -1) {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return;
    }
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

    s = moe_task_plain(t);

    if (s == NULL) {
        return;
    }

    ids = &t->prompts[0];
    t->prompt_tokens = ids->n;

    if (moe_task_grow(t, ids->n * sizeof(moe_piece_t)) == -1) {
        return;
    }

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

    s = moe_task_plain(t);

    if (s == NULL) {
        return;
    }

    ids = &t->prompts[0];
    t->prompt_tokens = ids->n;

    if (moe_task_grow(t, ids->n * sizeof(moe_piece_t)) == -1) {
        return;
    }

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
