#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "draft.h"
#include "gen.h"
#include "model/config.h"
#include "gen_draws.h"
#include "model/sampler.h"
#include "pace.h"
#include "sched/sched.h"


#define MOE_GEN_RUNNING   64
#define MOE_GEN_ROWS      512
#define MOE_GEN_CHUNK     256

/* rows of a prompt's logits a step, above one for every sequence */
#define MOE_GEN_OUT       32

/* records of a prompt's log-probabilities in one event: they fit its limit
 * with all alternatives */
#define MOE_GEN_ECHO      64


struct moe_gen_job_s {
    LIST_ENTRY(moe_gen_job_s)    link;
    uint64_t                     tag;
    moe_seq_t                   *seq;
    moe_sampling_t               sampling;
    uint32_t                     flags;
    uint32_t                     choice;
    uint32_t                     top;
    uint32_t                     nprompt;
    uint32_t                     ngen;
    uint32_t                     max_tokens;
    uint32_t                     echoed;     /* ids of the prompt */
    uint64_t                     credit;
    uint64_t                     arrived;    /* us */
    uint64_t                     last;       /* token, us; 0: none */
    unsigned                     started:1;
    unsigned                     echo:1;
};


/* a row of a step whose next id is wanted: its logits, or what a device has
 * drawn from them */
typedef struct {
    const float                 *logits;
    const moe_drawn_t           *drawn;
} moe_gen_row_t;


struct moe_gen_s {
    moe_model_t                 *model;
    moe_sched_t                 *sched;
    moe_sampler_t               *sampler;
    uint32_t                     vocab;
    float                       *logits;         /* NULL: drawn */
    moe_gen_draws_t              draws;
    moe_gen_sink_t               sink;
    void                        *ctx;
    LIST_HEAD(, moe_gen_job_s)   jobs;
    moe_stats_t                  stats;

    uint64_t                     step_us;        /* 0: no end */
    moe_pace_t                   pace;

    moe_draft_e                  draft;
    int                          drafting;       /* in this step */
    moe_draft_policy_t           policy;
    float                       *draft_logits;   /* NULL: no drafts */
    uint32_t                    *draft_rows;     /* [step_tokens] */
    uint32_t                    *draft_next;
    uint8_t                     *lives;          /* [max_running] */

    moe_logprobs_t               logprobs;
    uint8_t                      lp[MOE_EVENT_MAX];
};


static const char *moe_gen_check(moe_gen_t *g, const moe_job_t *job,
    const char **code);
static moe_gen_job_t *moe_gen_job_create(moe_gen_t *g, const moe_job_t *job,
    uint64_t tag);
static int moe_gen_job_sequence(moe_gen_t *g, moe_gen_job_t *j,
    const moe_job_t *job, uint32_t nids);
static void moe_gen_job_free(moe_gen_job_t *j);
static moe_finish_e moe_gen_finished(moe_gen_t *g, moe_gen_job_t *j,
    uint32_t id);
static void moe_gen_started(moe_gen_t *g, moe_gen_job_t *j);
static int moe_gen_entry(moe_gen_t *g, const moe_step_entry_t *e);
static void moe_gen_echo(moe_gen_t *g, moe_gen_job_t *j,
    const moe_step_entry_t *e);
static moe_gen_row_t moe_gen_row(const moe_gen_t *g, const float *logits,
    uint32_t i);
static int moe_gen_sample(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row,
    uint32_t pos, uint32_t *id);
static int moe_gen_draws_memory(moe_gen_t *g, uint32_t max_out);
static int moe_gen_draws(moe_gen_t *g, const moe_step_t *step,
    moe_err_t *err);
static int moe_gen_token(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row,
    uint32_t pos);
static uint32_t moe_gen_others(const moe_gen_t *g, const moe_step_t *step);
static int moe_gen_draft_memory(moe_gen_t *g, const moe_sched_options_t *so);
static int moe_gen_drafts(moe_gen_t *g, const moe_step_t *step,
    uint64_t began, uint64_t sampled, moe_err_t *err);
static int moe_gen_draft_fits(moe_gen_t *g, const moe_gen_job_t *j);
static void moe_gen_draft(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row);
static void moe_gen_token_event(moe_gen_t *g, moe_gen_job_t *j,
    moe_gen_row_t row, uint32_t id, moe_finish_e finish);
static void moe_gen_last_event(moe_gen_t *g, moe_gen_job_t *j,
    moe_finish_e finish);
static uint8_t *moe_gen_record(moe_gen_t *g, uint8_t *p, moe_gen_row_t row,
    uint32_t id, uint32_t top);
static void moe_gen_credit_check(moe_gen_t *g, moe_gen_job_t *j);
static void moe_gen_end(moe_gen_t *g, moe_gen_job_t *j, uint32_t status,
    const char *message);
static void moe_gen_refuse(moe_gen_t *g, uint64_t tag, uint32_t status,
    const char *code, const char *message);


static uint64_t
moe_gen_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


static moe_str_t
moe_gen_str(const char *s)
{
    moe_str_t  str;

    str.data = s;
    str.len = (uint32_t) strlen(s);

    return str;
}


moe_gen_t *
moe_gen_create(moe_model_t *m, const moe_gen_options_t *o,
    const moe_gen_sink_t *sink, void *ctx, moe_err_t *err)
{
    moe_gen_t            *g;
    moe_sched_options_t   so;

    memset(&so, 0, sizeof(so));

    so.pages = moe_model_kv_pages(m);
    so.max_len = moe_model_max_position(m);
    so.max_running = o->max_running ? o->max_running : MOE_GEN_RUNNING;
    so.step_tokens = o->step_tokens ? o->step_tokens : MOE_GEN_ROWS;
    so.prefill_chunk = o->prefill_chunk ? o->prefill_chunk : MOE_GEN_CHUNK;
    so.max_out = so.max_running + MOE_DRAFT_BATCH + MOE_GEN_OUT;

    if (o->max_context && o->max_context < so.max_len) {
        so.max_len = o->max_context;
    }

    if (so.step_tokens > moe_model_max_rows(m)) {
        so.step_tokens = moe_model_max_rows(m);
    }

    moe_model_fingerprint(m, so.fingerprint);

    g = calloc(1, sizeof(moe_gen_t));
    if (g == NULL) {
        moe_err(err, "no memory for the generator");
        return NULL;
    }

    LIST_INIT(&g->jobs);
    g->model = m;
    g->vocab = moe_model_vocab_size(m);
    g->sink = *sink;
    g->ctx = ctx;

    g->sched = moe_sched_create(&so, err);
    if (g->sched == NULL) {
        moe_gen_destroy(g);
        return NULL;
    }

    g->sampler = moe_sampler_new(g->vocab);
    g->step_us = (uint64_t) o->step_ms * 1000;
    g->draft = moe_model_has_mtp(m) ? o->draft : MOE_DRAFT_OFF;

    if (g->sampler == NULL || moe_gen_draws_memory(g, so.max_out) != 0
        || moe_gen_draft_memory(g, &so) != 0)
    {
        moe_gen_destroy(g);
        moe_err(err, "no memory for %u rows of %u logits", so.max_out,
                moe_model_vocab_size(m));
        return NULL;
    }

    return g;
}


void
moe_gen_destroy(moe_gen_t *g)
{
    moe_gen_job_t  *j;

    if (g == NULL) {
        return;
    }

    while ((j = LIST_FIRST(&g->jobs)) != NULL) {
        LIST_REMOVE(j, link);
        moe_gen_job_free(j);
    }

    moe_sched_destroy(g->sched);
    moe_sampler_free(g->sampler);
    free(g->logits);
    moe_gen_draws_free(&g->draws);
    free(g->draft_logits);
    free(g->draft_rows);
    free(g->draft_next);
    free(g->lives);
    free(g);
}


/* for draws on the device, or for logits */
static int
moe_gen_draws_memory(moe_gen_t *g, uint32_t max_out)
{
    if (!moe_model_can_draw(g->model)) {
        g->logits = malloc((size_t) max_out * g->vocab * sizeof(float));

        return g->logits != NULL ? 0 : -1;
    }

    return moe_gen_draws_init(&g->draws, max_out, moe_gen_context(g));
}


static int
moe_gen_draft_memory(moe_gen_t *g, const moe_sched_options_t *so)
{
    g->lives = malloc(so->max_running);

    if (g->draft == MOE_DRAFT_OFF) {
        return g->lives != NULL ? 0 : -1;
    }

    if (g->logits != NULL) {
        g->draft_logits = malloc((size_t) MOE_DRAFT_BATCH * g->vocab
                                 * sizeof(float));
    }

    g->draft_rows = malloc((size_t) so->step_tokens * sizeof(uint32_t));
    g->draft_next = malloc((size_t) so->step_tokens * sizeof(uint32_t));

    return g->lives != NULL
           && (g->draft_logits != NULL || g->logits == NULL)
           && g->draft_rows != NULL && g->draft_next != NULL ? 0 : -1;
}


uint32_t
moe_gen_context(const moe_gen_t *g)
{
    return moe_sched_max_len(g->sched);
}


moe_gen_job_t *
moe_gen_submit(moe_gen_t *g, const moe_job_t *job, uint64_t tag)
{
    uint32_t        nids, last;
    const char     *why, *code;
    moe_finish_e    finish;
    moe_gen_job_t  *j;

    code = "";
    why = moe_gen_check(g, job, &code);

    if (why != NULL) {
        moe_gen_refuse(g, tag, 400, code, why);
        return NULL;
    }

    j = moe_gen_job_create(g, job, tag);
    nids = job->prompts[0].n + (job->nconts ? job->conts[0].nids : 0);

    if (j == NULL || moe_gen_job_sequence(g, j, job, nids) != 0) {
        moe_gen_job_free(j);
        moe_gen_refuse(g, tag, 503, "", "the engine has no memory for this");
        return NULL;
    }

    LIST_INSERT_HEAD(&g->jobs, j, link);
    g->stats.accepted++;

    last = moe_seq_ids(j->seq)[nids - 1];
    finish = MOE_FINISH_NONE;

    if (j->ngen > 0) {
        finish = moe_gen_finished(g, j, last);

    } else if (j->max_tokens == 0 && !j->echo) {
        finish = MOE_FINISH_LENGTH;
    }

    if (finish != MOE_FINISH_NONE) {
        moe_gen_started(g, j);
        moe_gen_last_event(g, j, finish);
        return NULL;
    }

    moe_gen_credit_check(g, j);

    return j;
}


/* NULL, or why the job is refused */
static const char *
moe_gen_check(moe_gen_t *g, const moe_job_t *job, const char **code)
{
    uint32_t         i, n, ncont, room;
    const uint32_t  *ids;

    if (job->kind != MOE_JOB_IDS || job->nprompts != 1
        || !job->prompts[0].is_ids || job->n != 1 || job->nconts > 1
        || job->top_logprobs > MOE_TOP_LOGPROBS)
    {
        return "a rank takes one prompt of ids and one choice";
    }

    n = job->prompts[0].n;
    ids = job->prompts[0].data;

    if (n == 0) {
        return "the prompt has no tokens";
    }

    for (i = 0; i < n; i++) {
        if (ids[i] >= g->vocab) {
            return "the prompt has a token that is not in the vocabulary";
        }
    }

    ncont = job->nconts ? job->conts[0].nids : 0;

    for (i = 0; i < ncont; i++) {
        if (job->conts[0].ids[i] >= g->vocab) {
            return "the continuation has a token that is not in the "
                   "vocabulary";
        }
    }

    room = moe_gen_context(g);

    if (n > room || (n == room && job->max_tokens > 0) || ncont > room - n) {
        *code = "context_length_exceeded";
        return "the prompt is longer than the model's context";
    }

    if (!(job->temperature >= 0.0f && job->temperature <= 100.0f)
        || !(job->top_p >= 0.0f && job->top_p <= 1.0f)
        || !(job->min_p >= 0.0f && job->min_p <= 1.0f)
        || !(job->repetition > 0.0f && isfinite(job->repetition))
        || !isfinite(job->presence) || !isfinite(job->frequency))
    {
        return "a sampling parameter is out of range";
    }

    for (i = 0; i < job->nbias; i++) {
        if (!isfinite(job->bias[i].bias)) {
            return "a logit bias is out of range";
        }
    }

    return NULL;
}


static moe_gen_job_t *
moe_gen_job_create(moe_gen_t *g, const moe_job_t *job, uint64_t tag)
{
    uint32_t           i, *stops;
    moe_gen_job_t     *j;
    moe_logit_bias_t  *bias;

    j = calloc(1, sizeof(moe_gen_job_t));
    stops = malloc((size_t) job->nstop_ids * sizeof(uint32_t) + 1);
    bias = malloc((size_t) job->nbias * sizeof(moe_logit_bias_t) + 1);

    if (j == NULL || stops == NULL || bias == NULL) {
        free(j);
        free(stops);
        free(bias);
        return NULL;
    }

    for (i = 0; i < job->nstop_ids; i++) {
        stops[i] = job->stop_ids[i];
    }

    for (i = 0; i < job->nbias; i++) {
        bias[i].id = job->bias[i].id;
        bias[i].bias = job->bias[i].bias;
    }

    moe_sampling_init(&j->sampling);
    j->sampling.temperature = job->temperature;
    j->sampling.top_p = job->top_p;
    j->sampling.min_p = job->min_p;
    j->sampling.top_k = job->top_k;
    j->sampling.repetition_penalty = job->repetition;
    j->sampling.frequency_penalty = job->frequency;
    j->sampling.presence_penalty = job->presence;
    j->sampling.min_tokens = job->min_tokens;
    j->sampling.stop_ids = stops;
    j->sampling.n_stop_ids = job->flags & MOE_JOB_IGNORE_EOS
                             ? 0 : job->nstop_ids;
    j->sampling.bias = bias;
    j->sampling.n_bias = job->nbias;
    j->sampling.seed = job->seed;

    j->tag = tag;
    j->flags = job->flags;
    j->choice = job->choice;
    j->top = job->top_logprobs;
    j->nprompt = job->prompts[0].n;
    j->ngen = job->nconts ? job->conts[0].nids : 0;
    j->max_tokens = job->max_tokens;
    j->credit = job->credit;
    j->arrived = moe_gen_now();
    j->echo = (job->flags & MOE_JOB_PROMPT_LOGPROBS) && j->ngen == 0;

    return j;
}


static int
moe_gen_job_sequence(moe_gen_t *g, moe_gen_job_t *j, const moe_job_t *job,
    uint32_t nids)
{
    uint32_t             *ids;
    moe_sched_request_t   r;

    ids = malloc((size_t) nids * sizeof(uint32_t));
    if (ids == NULL) {
        return -1;
    }

    memcpy(ids, job->prompts[0].data, (size_t) j->nprompt * sizeof(uint32_t));

    if (j->ngen > 0) {
        memcpy(ids + j->nprompt, job->conts[0].ids,
               (size_t) j->ngen * sizeof(uint32_t));
    }

    memset(&r, 0, sizeof(r));
    r.ids = ids;
    r.nids = nids;
    r.nprompt = j->nprompt;
    r.salt = job->salt.data;
    r.nsalt = job->salt.len;
    r.priority = job->priority;
    r.all_logits = j->echo;
    r.data = j;

    j->seq = moe_sched_add(g->sched, &r, NULL);
    free(ids);

    return j->seq != NULL ? 0 : -1;
}


static void
moe_gen_job_free(moe_gen_job_t *j)
{
    if (j != NULL) {
        free((void *) (uintptr_t) j->sampling.stop_ids);
        free((void *) (uintptr_t) j->sampling.bias);
        free(j);
    }
}


void
moe_gen_cancel(moe_gen_t *g, moe_gen_job_t *j)
{
    moe_gen_end(g, j, 499, "");
}


void
moe_gen_credit(moe_gen_t *g, moe_gen_job_t *j, uint32_t bytes)
{
    j->credit += bytes;
    moe_gen_credit_check(g, j);
}


int
moe_gen_step(moe_gen_t *g, moe_err_t *err)
{
    uint32_t           i, n, prompts;
    uint64_t           began, sampled;
    const moe_step_t  *step;

    began = moe_gen_now();
    sampled = g->stats.completion_tokens;
    prompts = 0;

    g->drafting = g->draft == MOE_DRAFT_ALWAYS
                  || (g->draft == MOE_DRAFT_AUTO
                      && !moe_draft_rests(&g->policy));

    moe_model_set_draft(g->model, g->drafting);
    moe_sched_set_prefill(g->sched, moe_pace_rows(&g->pace, g->step_us));
    step = moe_sched_form(g->sched);

    if (step == NULL) {
        return 0;
    }

    for (i = 0; i < step->n; i++) {
        moe_gen_started(g, step->entries[i].data);
    }

    if (g->logits == NULL && moe_gen_draws(g, step, err) != 0) {
        return -1;
    }

    if (moe_model_step(g->model, &step->batch, g->logits, err) != 0) {
        return -1;
    }

    moe_sched_commit(g->sched);
    g->stats.steps++;

    for (i = 0; i < step->n; i++) {
        n = step->entries[i].nrows - step->entries[i].ndrafts;
        prompts += n > 1 ? n : 0;

        g->stats.draft_tokens += step->entries[i].ndrafts;
        g->lives[i] = (uint8_t) moe_gen_entry(g, &step->entries[i]);
    }

    if (g->drafting && moe_gen_drafts(g, step, began, sampled, err) != 0)
    {
        return -1;
    }

    moe_pace_seen(&g->pace, prompts + moe_gen_others(g, step),
                  moe_gen_now() - began);

    return 1;
}


/* Ranks that step together wait for the one with most rows: those that it has
 * more than this one are rows of its prompts. */
static uint32_t
moe_gen_others(const moe_gen_t *g, const moe_step_t *step)
{
    const moe_exchange_t  *x;

    x = moe_model_exchange(g->model);

    return x && x->most_rows > step->batch.nrows
           ? x->most_rows - step->batch.nrows : 0;
}


void
moe_gen_stats(const moe_gen_t *g, moe_stats_t *stats)
{
    moe_sched_counts_t  c;

    moe_sched_counts(g->sched, &c);

    stats->waiting = c.waiting;
    stats->running = c.running;
    stats->parked = c.parked;
    stats->kv_pages = c.pages;
    stats->kv_pages_used = c.pages_used;
    stats->kv_pages_cached = c.pages_cached;

    stats->last_token_us = g->stats.last_token_us;
    stats->accepted = g->stats.accepted;
    stats->finished = g->stats.finished;
    stats->cancelled = g->stats.cancelled;
    stats->failed = g->stats.failed;
    stats->refused = g->stats.refused;
    stats->prompt_tokens = g->stats.prompt_tokens;
    stats->cached_tokens = g->stats.cached_tokens;
    stats->completion_tokens = g->stats.completion_tokens;
    stats->draft_tokens = g->stats.draft_tokens;
    stats->draft_accepted = g->stats.draft_accepted;
    stats->steps = g->stats.steps;
    stats->queue = g->stats.queue;
    stats->ttft = g->stats.ttft;
    stats->itl = g->stats.itl;
}


uint64_t
moe_gen_preempted(const moe_gen_t *g)
{
    moe_sched_counts_t  c;

    moe_sched_counts(g->sched, &c);

    return c.preempted;
}


static moe_finish_e
moe_gen_finished(moe_gen_t *g, moe_gen_job_t *j, uint32_t id)
{
    uint32_t  i;

    for (i = 0; i < j->sampling.n_stop_ids; i++) {
        if (j->sampling.stop_ids[i] == id) {
            return MOE_FINISH_STOP;
        }
    }

    if (j->ngen >= j->max_tokens
        || moe_seq_len(j->seq) >= moe_gen_context(g))
    {
        return MOE_FINISH_LENGTH;
    }

    return MOE_FINISH_NONE;
}


static void
moe_gen_started(moe_gen_t *g, moe_gen_job_t *j)
{
    moe_started_t  s;

    if (j->started) {
        return;
    }

    s.prompt_tokens = j->nprompt;
    s.cached_tokens = moe_seq_cached(j->seq);
    s.queue_us = moe_gen_now() - j->arrived;

    j->started = 1;
    g->stats.prompt_tokens += s.prompt_tokens;
    g->stats.cached_tokens += s.cached_tokens;
    moe_histogram_add(&g->stats.queue, s.queue_us);

    g->sink.started(g->ctx, j->tag, &s);
}


static moe_gen_row_t
moe_gen_row(const moe_gen_t *g, const float *logits, uint32_t i)
{
    if (g->logits == NULL) {
        return (moe_gen_row_t) { NULL, &g->draws.draws.out[i] };
    }

    return (moe_gen_row_t) { logits + (size_t) i * g->vocab, NULL };
}


static moe_history_t
moe_gen_history(const moe_gen_job_t *j)
{
    const uint32_t  *ids;

    ids = moe_seq_ids(j->seq);

    return (moe_history_t) { .prompt = ids, .n_prompt = j->nprompt,
                             .generated = ids + j->nprompt,
                             .n_generated = j->ngen };
}


/* what moe_gen_entry() will ask for, before it is there */
static int
moe_gen_draws(moe_gen_t *g, const moe_step_t *step, moe_err_t *err)
{
    uint32_t                 i, k, n, to, first;
    moe_history_t            h;
    moe_gen_job_t           *j;
    const uint32_t          *ids, *drafts;
    const moe_step_entry_t  *e;

    moe_gen_draws_begin(&g->draws, step->batch.nout);

    for (i = 0; i < step->n; i++) {
        e = &step->entries[i];
        j = e->data;
        ids = moe_seq_ids(j->seq);
        n = e->pos + e->nrows;
        first = n - e->nout;

        for (to = j->echoed > 0 ? j->echoed : 1;
             j->echo && to < j->nprompt && to <= n; to++)
        {
            moe_gen_draws_given(&g->draws, e->out + to - 1 - first, ids[to],
                                j->top);
        }

        if (!e->last || j->max_tokens == 0) {
            continue;
        }

        drafts = step->batch.ids + e->row + e->nrows - e->ndrafts;

        h = moe_gen_history(j);

        for (k = 0; k <= e->ndrafts; k++) {
            if (moe_gen_draws_add(&g->draws,
                                  e->out + e->nout - e->ndrafts - 1 + k,
                                  g->sampler, &j->sampling, &h, drafts, k,
                                  n - e->ndrafts + k, j->choice,
                                  j->flags & MOE_JOB_LOGPROBS ? (int) j->top
                                                              : -1, err)
                != 0)
            {
                return -1;
            }
        }
    }

    moe_gen_draws_end(&g->draws, g->model);

    return 0;
}


/* whether the job goes on */
static int
moe_gen_entry(moe_gen_t *g, const moe_step_entry_t *e)
{
    int             rc;
    uint32_t        pos, row;
    moe_gen_job_t  *j;

    j = e->data;

    if (j->echoed < j->nprompt && j->echo) {
        moe_gen_echo(g, j, e);
    }

    if (!e->last) {
        return 1;
    }

    if (j->max_tokens == 0) {
        moe_gen_last_event(g, j, MOE_FINISH_LENGTH);
        return 0;
    }

    row = e->out + e->nout - e->ndrafts - 1;
    pos = e->pos + e->nrows - e->ndrafts;

    /* a draft that is right has logits too */
    while ((rc = moe_gen_token(g, j, moe_gen_row(g, g->logits, row), pos))
           > 0)
    {
        g->stats.draft_accepted++;
        row++;
        pos++;
    }

    return rc == 0;
}


/* the row at a position has the log-probabilities of the next one's id */
static void
moe_gen_echo(moe_gen_t *g, moe_gen_job_t *j, const moe_step_entry_t *e)
{
    uint8_t         *p;
    uint32_t         first, end, from, to;
    moe_lp_t         lp;
    moe_delta_t      d;
    const uint32_t  *ids;

    first = e->pos + e->nrows - e->nout;
    end = e->pos + e->nrows + 1;

    if (end > j->nprompt) {
        end = j->nprompt;
    }

    ids = moe_seq_ids(j->seq);

    for (from = j->echoed; from < end; from = to) {
        p = g->lp;

        for (to = from; to < end && to - from < MOE_GEN_ECHO; to++) {

            if (to > 0) {
                p = moe_gen_record(g, p,
                                   moe_gen_row(g, g->logits,
                                               e->out + to - 1 - first),
                                   ids[to], j->top);
                continue;
            }

            memset(&lp, 0, sizeof(lp));
            lp.id = ids[0];
            lp.logprob = NAN;
            p = moe_lp_write(&lp, p);
        }

        memset(&d, 0, sizeof(d));
        d.choice = (uint16_t) j->choice;
        d.flags = MOE_DELTA_ECHO;
        d.nids = to - from;
        d.ids = ids + from;
        d.nlp = to - from;
        d.lp = g->lp;
        d.lp_size = (uint32_t) (p - g->lp);

        j->echoed = to;
        g->sink.delta(g->ctx, j->tag, &d);
    }
}


/* -1: no token can be drawn */
static int
moe_gen_sample(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row,
    uint32_t pos, uint32_t *id)
{
    moe_history_t  h;

    if (row.drawn != NULL) {
        *id = row.drawn->id;
        return row.drawn->none ? -1 : 0;
    }

    h = moe_gen_history(j);

    return moe_sample(g->sampler, row.logits, &j->sampling, &h, pos,
                      j->choice, id);
}


/*
 * Samples the id at position pos: 1 where it was drafted, so that the next
 * row's logits are its, 0 where it is to be computed, -1 at the job's end.
 */
static int
moe_gen_token(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row,
    uint32_t pos)
{
    int           rc;
    uint32_t      id;
    uint64_t      now;
    moe_finish_e  finish;

    if (moe_gen_sample(g, j, row, pos, &id) != 0) {
        moe_gen_end(g, j, 500, "no token can be drawn");
        return -1;
    }

    rc = moe_sched_append(g->sched, j->seq, id);

    if (rc == -1) {
        moe_gen_end(g, j, 503, "the engine has no memory for this");
        return -1;
    }

    j->ngen++;
    j->credit -= MOE_TOKEN_CREDIT;

    now = moe_gen_now();
    moe_histogram_add(j->last ? &g->stats.itl : &g->stats.ttft,
                      now - (j->last ? j->last : j->arrived));
    j->last = now;
    g->stats.last_token_us = now;
    g->stats.completion_tokens++;

    finish = moe_gen_finished(g, j, id);
    moe_gen_token_event(g, j, row, id, finish);

    if (finish != MOE_FINISH_NONE) {
        moe_gen_end(g, j, 200, "");
        return -1;
    }

    moe_gen_credit_check(g, j);

    return rc;
}


/* drafts are of the ids that follow on what is known */
static int
moe_gen_draft_draws(moe_gen_t *g, moe_gen_job_t **jobs, uint32_t n,
    moe_err_t *err)
{
    uint32_t       i;
    moe_history_t  h;

    moe_gen_draws_begin(&g->draws, n);

    for (i = 0; i < n; i++) {
        h = moe_gen_history(jobs[i]);

        if (moe_gen_draws_add(&g->draws, i, g->sampler, &jobs[i]->sampling,
                              &h, NULL, 0, moe_seq_len(jobs[i]->seq),
                              jobs[i]->choice, -1, err)
            != 0)
        {
            return -1;
        }
    }

    moe_gen_draws_end(&g->draws, g->model);

    return 0;
}


/*
 * After a step: the MTP layer sees all rows whose next ids are known now, and
 * gives drafts to sequences that decode.
 */
static int
moe_gen_drafts(moe_gen_t *g, const moe_step_t *step, uint64_t began,
    uint64_t sampled, moe_err_t *err)
{
    int                      wanted, prefill;
    uint32_t                 i, k, pos, live, wants[MOE_DRAFT_BATCH];
    moe_draft_t              d;
    moe_gen_job_t           *jobs[MOE_DRAFT_BATCH];
    const uint32_t          *ids;
    const moe_step_entry_t  *e;

    memset(&d, 0, sizeof(d));
    d.rows = g->draft_rows;
    d.next = g->draft_next;
    d.out = wants;

    live = 0;
    prefill = 0;

    for (i = 0; i < step->n; i++) {
        e = &step->entries[i];
        live += g->lives[i] && e->last;
        prefill |= e->nrows - e->ndrafts > 1;
    }

    wanted = g->draft == MOE_DRAFT_ALWAYS
             || moe_draft_wanted(&g->policy, live);

    for (i = 0; i < step->n; i++) {

        if (!g->lives[i]) {
            continue;
        }

        e = &step->entries[i];
        ids = moe_seq_ids(e->seq);

        /* but for drafts that were wrong */
        for (k = 0, pos = e->pos; pos < moe_seq_computed(e->seq)
             && k < e->nrows; k++, pos++)
        {
            g->draft_rows[d.n] = e->row + k;
            g->draft_next[d.n++] = ids[pos + 1];
        }

        if (wanted && e->last && d.nout < MOE_DRAFT_BATCH
            && moe_gen_draft_fits(g, e->data))
        {
            jobs[d.nout] = e->data;
            wants[d.nout++] = d.n - 1;
        }
    }

    if (g->logits == NULL && moe_gen_draft_draws(g, jobs, d.nout, err) != 0) {
        return -1;
    }

    if (moe_model_draft(g->model, &step->batch, &d, g->draft_logits, err)
        != 0)
    {
        return -1;
    }

    for (i = 0; i < d.nout; i++) {
        moe_gen_draft(g, jobs[i], moe_gen_row(g, g->draft_logits, i));
    }

    if (!prefill) {
        moe_draft_seen(&g->policy, live, moe_gen_now() - began,
                       (uint32_t) (g->stats.completion_tokens - sampled));
    }

    return 0;
}


/* whether there would be a use for the logits of a draft */
static int
moe_gen_draft_fits(moe_gen_t *g, const moe_gen_job_t *j)
{
    return j->max_tokens - j->ngen > 1
           && j->credit >= 2 * MOE_TOKEN_CREDIT
           && moe_seq_len(j->seq) + 1 < moe_gen_context(g);
}


/*
 * The draft is drawn as the id itself will be, with the same random number:
 * where both distributions are alike, so are the two ids.
 */
static void
moe_gen_draft(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row)
{
    uint32_t  i, id;

    if (moe_gen_sample(g, j, row, moe_seq_len(j->seq), &id) != 0) {
        return;
    }

    for (i = 0; i < j->sampling.n_stop_ids; i++) {
        if (j->sampling.stop_ids[i] == id) {
            return;
        }
    }

    moe_sched_draft(g->sched, j->seq, &id, 1);
}


static void
moe_gen_token_event(moe_gen_t *g, moe_gen_job_t *j, moe_gen_row_t row,
    uint32_t id, moe_finish_e finish)
{
    uint8_t      *p;
    moe_delta_t   d;

    memset(&d, 0, sizeof(d));
    d.choice = (uint16_t) j->choice;
    d.finish = (uint8_t) finish;
    d.completion_tokens = j->ngen;
    d.total_tokens = j->ngen;
    d.nids = 1;
    d.ids = &id;

    if (j->flags & MOE_JOB_LOGPROBS) {
        p = moe_gen_record(g, g->lp, row, id, j->top);
        d.nlp = 1;
        d.lp = g->lp;
        d.lp_size = (uint32_t) (p - g->lp);
    }

    g->sink.delta(g->ctx, j->tag, &d);
}


/* the end of a choice that no token of this job brought */
static void
moe_gen_last_event(moe_gen_t *g, moe_gen_job_t *j, moe_finish_e finish)
{
    moe_delta_t  d;

    memset(&d, 0, sizeof(d));
    d.choice = (uint16_t) j->choice;
    d.finish = (uint8_t) finish;
    d.completion_tokens = j->ngen;
    d.total_tokens = j->ngen;

    g->sink.delta(g->ctx, j->tag, &d);

    moe_gen_end(g, j, 200, "");
}


static uint8_t *
moe_gen_record(moe_gen_t *g, uint8_t *p, moe_gen_row_t row, uint32_t id,
    uint32_t top)
{
    uint32_t  i;
    moe_lp_t  lp;

    if (row.drawn != NULL) {
        g->logprobs.logprob = row.drawn->logprob;
        g->logprobs.n_top = row.drawn->ntop;
        memcpy(g->logprobs.top, row.drawn->top, sizeof(row.drawn->top));

    } else {
        moe_logprobs(g->sampler, row.logits, id, top, &g->logprobs);
    }

    memset(&lp, 0, sizeof(lp));
    lp.id = id;
    lp.logprob = g->logprobs.logprob;
    lp.ntop = (uint16_t) g->logprobs.n_top;
    p = moe_lp_write(&lp, p);

    for (i = 0; i < g->logprobs.n_top; i++) {
        memset(&lp, 0, sizeof(lp));
        lp.id = g->logprobs.top[i].id;
        lp.logprob = g->logprobs.top[i].logprob;
        p = moe_lp_write(&lp, p);
    }

    return p;
}


static void
moe_gen_credit_check(moe_gen_t *g, moe_gen_job_t *j)
{
    if (j->credit < MOE_TOKEN_CREDIT) {
        moe_sched_park(g->sched, j->seq);

    } else {
        moe_sched_unpark(g->sched, j->seq);
    }
}


static void
moe_gen_end(moe_gen_t *g, moe_gen_job_t *j, uint32_t status,
    const char *message)
{
    moe_end_t  e;

    memset(&e, 0, sizeof(e));
    e.status = status;
    e.prompt_tokens = j->nprompt;
    e.cached_tokens = moe_seq_cached(j->seq);
    e.completion_tokens = j->ngen;
    e.code = moe_gen_str("");
    e.param = moe_gen_str("");
    e.message = moe_gen_str(message);

    if (status == 200) {
        g->stats.finished++;

    } else if (status == 499) {
        g->stats.cancelled++;

    } else {
        g->stats.failed++;
    }

    LIST_REMOVE(j, link);
    moe_sched_remove(g->sched, j->seq);
    g->sink.end(g->ctx, j->tag, &e);
    moe_gen_job_free(j);
}


static void
moe_gen_refuse(moe_gen_t *g, uint64_t tag, uint32_t status, const char *code,
    const char *message)
{
    moe_end_t  e;

    memset(&e, 0, sizeof(e));
    e.status = status;
    e.code = moe_gen_str(code);
    e.param = moe_gen_str("");
    e.message = moe_gen_str(message);

    g->stats.refused++;
    g->sink.end(g->ctx, tag, &e);
}
