#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench_drafts.h"
#include "front/text.h"
#include "gen.h"
#include "model/model.h"


enum {
    ROUNDS = 5,
    ANSWERS = 6,        /* of each place in the batch, a round */
    KINDS = 3
};


typedef struct {
    const moe_bench_drafts_t  *o;
    moe_text_t                 text;
    moe_ids_t                  ids;
    moe_model_t               *models[2];      /* without MTP layer, with */
    moe_gen_t                 *gens[KINDS];
    moe_gen_t                 *gen;            /* that is at work */
    uint32_t                   batch;
    uint64_t                   begun;          /* requests; their seeds */
    uint64_t                   asked;          /* of them in this round */
    uint64_t                   ended;
    uint64_t                   failed;
    uint64_t                   sampled;
    uint64_t                   sum;            /* over all answers */
} bench_t;


static const moe_draft_e  kinds[KINDS] = {
    MOE_DRAFT_OFF, MOE_DRAFT_ALWAYS, MOE_DRAFT_AUTO
};


static void
on_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static void
on_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    bench_t   *b;
    uint32_t   i;
    uint64_t   h;

    b = ctx;

    for (i = 0; i < d->nids; i++) {
        h = (tag << 32 | d->ids[i]) * 0x9e3779b97f4a7c15ull
            + (d->completion_tokens + i);
        h ^= h >> 29;
        b->sum += h * 0xbf58476d1ce4e5b9ull;
    }

    b->sampled += d->nids;
}


static void
on_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    bench_t  *b;

    b = ctx;
    b->ended++;
    b->failed += e->status != 200;
}


static int
open_all(bench_t *b, moe_err_t *err)
{
    int                          i;
    uint64_t                     pages;
    moe_gen_options_t            go;
    moe_model_options_t          mo;
    const moe_bench_drafts_t    *o;
    static const moe_gen_sink_t  sink = { on_started, on_delta, on_end };

    o = b->o;

    if (moe_text_load(&b->text, o->dir, NULL, 0, err) != 0
        || moe_text_ask(&b->text, o->text, &b->ids, err) != 0)
    {
        return -1;
    }

    memset(&mo, 0, sizeof(mo));
    mo.threads = o->threads;
    mo.kernels = o->kernels;

    pages = (b->ids.n + o->tokens) / MOE_PAGE_SIZE + 2;
    pages *= o->batch;

    for (i = 0; i < 2; i++) {
        mo.mtp = i;

        b->models[i] = moe_model_open(o->dir, &mo, NULL, NULL, err);

        if (b->models[i] == NULL
            || moe_model_kv_resize(b->models[i], (uint32_t) pages, err) != 0)
        {
            return -1;
        }
    }

    if (!moe_model_has_mtp(b->models[1])) {
        return moe_err(err, "%s: the model has no MTP layer", o->dir);
    }

    memset(&go, 0, sizeof(go));
    go.max_running = o->batch;

    for (i = 0; i < KINDS; i++) {
        go.draft = kinds[i];

        b->gens[i] = moe_gen_create(b->models[i > 0], &go, &sink, b, err);
        if (b->gens[i] == NULL) {
            return -1;
        }
    }

    return 0;
}


static void
submit(bench_t *b)
{
    moe_job_t  job;

    memset(&job, 0, sizeof(job));
    job.kind = MOE_JOB_IDS;
    job.n = 1;
    job.seed = b->begun++;
    job.max_tokens = b->o->tokens;
    job.credit = UINT32_MAX;
    job.temperature = 1.0f;
    job.top_p = 1.0f;
    job.repetition = 1.0f;
    job.nprompts = 1;
    job.prompts[0].is_ids = 1;
    job.prompts[0].n = (uint32_t) b->ids.n;
    job.prompts[0].data = b->ids.ids;
    job.nstop_ids = b->text.neos;
    job.stop_ids = b->text.eos;

    b->asked++;
    (void) moe_gen_submit(b->gen, &job, job.seed);
}


static uint64_t
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


/* the requests of a round, so many at a time as the batch has places */
static int
answer(bench_t *b, int kind, uint64_t first, double *rate, uint64_t *sum,
    moe_err_t *err)
{
    uint64_t  start, n;

    b->gen = b->gens[kind];
    b->begun = first;
    b->asked = 0;
    b->ended = 0;
    b->sampled = 0;
    b->sum = 0;
    n = (uint64_t) b->batch * ANSWERS;

    start = now();

    while (b->ended < n) {
        while (b->asked < n && b->asked - b->ended < b->batch) {
            submit(b);
        }

        if (moe_gen_step(b->gen, err) < 0) {
            return -1;
        }
    }

    *rate = (double) b->sampled * 1e6 / (double) (now() - start + 1);
    *sum = b->sum;

    return b->failed ? moe_err(err, "%llu requests failed",
                               (unsigned long long) b->failed) : 0;
}


static int
compare(const void *a, const void *b)
{
    double  x, y;

    x = *(const double *) a;
    y = *(const double *) b;

    return (x > y) - (x < y);
}


static double
median(double *v)
{
    qsort(v, ROUNDS, sizeof(double), compare);

    return v[ROUNDS / 2];
}


static int
batch(bench_t *b, uint64_t *first, moe_err_t *err)
{
    int          i, r;
    double       rates[KINDS][ROUNDS], off, always, by_itself;
    uint64_t     sums[KINDS];
    moe_stats_t  before, after;

    memset(&before, 0, sizeof(before));
    memset(&after, 0, sizeof(after));
    moe_gen_stats(b->gens[1], &before);

    for (r = 0; r < ROUNDS; r++) {

        for (i = 0; i < KINDS; i++) {
            if (answer(b, i, *first, &rates[i][r], &sums[i], err) != 0) {
                return -1;
            }

            if (sums[i] != sums[0]) {
                return moe_err(err, "with drafts the answers are others");
            }
        }

        *first += (uint64_t) b->batch * ANSWERS;
    }

    moe_gen_stats(b->gens[1], &after);

    off = median(rates[0]);
    always = median(rates[1]);
    by_itself = median(rates[2]);

    printf("| %u | %.0f | %.0f | %.2f | %.0f | %.2f | %.1f %% |\n", b->batch,
           off, always, always / off, by_itself, by_itself / off,
           100.0 * (double) (after.draft_accepted - before.draft_accepted)
           / (double) (after.draft_tokens - before.draft_tokens + 1));
    fflush(stdout);

    return 0;
}


int
moe_bench_drafts(const moe_bench_drafts_t *o, moe_err_t *err)
{
    int       i, rc;
    bench_t   b;
    uint64_t  first;

    memset(&b, 0, sizeof(b));
    b.o = o;
    first = 0;

    rc = open_all(&b, err);

    if (rc == 0) {
        printf("%s: answers of at most %u tokens to \"%s\", temperature 1, "
               "medians of %d rounds\n\n"
               "| batch | without drafts, tokens/s | always, tokens/s "
               "| to without | auto, tokens/s | to without "
               "| drafts right |\n"
               "|---:|---:|---:|---:|---:|---:|---:|\n", o->dir, o->tokens,
               o->text, ROUNDS);
    }

    for (b.batch = 1; rc == 0 && b.batch <= o->batch; b.batch *= 2) {
        rc = batch(&b, &first, err);
    }

    for (i = 0; i < KINDS; i++) {
        moe_gen_destroy(b.gens[i]);
    }

    moe_model_close(b.models[0]);
    moe_model_close(b.models[1]);
    moe_text_free(&b.text);
    moe_ids_free(&b.ids);

    return rc;
}
