/*
 * batch: sequences of random ids that are decoded together, for benchmarks.
 */

#ifndef MOE_BENCH_BATCH_H
#define MOE_BENCH_BATCH_H


#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "gen.h"


enum { BATCH_PROMPT = 8 };

typedef struct {
    moe_model_t  *model;
    moe_gen_t    *gen;
    uint32_t      begun;        /* sequences */
    uint32_t      ended;
    uint32_t      failed;
    uint64_t      sampled;      /* tokens */
    uint64_t      random;
} batch_t;


static inline double
now_us(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec * 1e6 + (double) ts.tv_nsec / 1e3;
}


static inline int
by_size(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


static inline double
median(double *v, uint32_t n)
{
    qsort(v, n, sizeof(double), by_size);

    return n == 0 ? 0 : n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}


static inline void
batch_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static inline void
batch_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    batch_t  *b;

    b = ctx;
    b->sampled += d->nids;
    b->begun += d->completion_tokens == 1;
}


static inline void
batch_end(void *ctx, uint64_t tag, const moe_end_t *end)
{
    batch_t  *b;

    b = ctx;
    b->ended++;
    b->failed += end->status != 200;
}


/* up to most sequences of up to 64 tokens at once; 0, or -1 and err */
static inline int
batch_open(batch_t *b, const char *dir, moe_model_options_t *mo,
    uint32_t most, moe_err_t *err)
{
    moe_gen_options_t            go;
    static const moe_gen_sink_t  sink = {
        batch_started, batch_delta, batch_end
    };

    mo->max_rows = 512;
    mo->kv_pages = (BATCH_PROMPT + 64) / MOE_PAGE_SIZE * most + most;
    b->model = moe_model_open(dir, mo, NULL, NULL, err);

    if (b->model == NULL) {
        return -1;
    }

    memset(&go, 0, sizeof(go));
    go.max_running = most;
    go.step_tokens = mo->max_rows;
    b->gen = moe_gen_create(b->model, &go, &sink, b, err);

    return b->gen ? 0 : -1;
}


static inline void
batch_submit(batch_t *b, uint64_t tag, uint32_t tokens)
{
    uint32_t   i, ids[BATCH_PROMPT];
    moe_job_t  job;

    for (i = 0; i < BATCH_PROMPT; i++) {
        b->random = b->random * 6364136223846793005ull
                    + 1442695040888963407ull;
        ids[i] = (uint32_t) ((b->random >> 33)
                             % moe_model_vocab_size(b->model));
    }

    memset(&job, 0, sizeof(job));
    job.kind = MOE_JOB_IDS;
    job.n = 1;
    job.max_tokens = tokens;
    job.credit = UINT32_MAX;
    job.flags = MOE_JOB_IGNORE_EOS;
    job.temperature = 1.0f;
    job.top_p = 1.0f;
    job.repetition = 1.0f;
    job.seed = b->random;
    job.nprompts = 1;
    job.prompts[0].is_ids = 1;
    job.prompts[0].n = BATCH_PROMPT;
    job.prompts[0].data = ids;

    (void) moe_gen_submit(b->gen, &job, tag);
}


/* n sequences, until each has its first token */
static inline int
batch_begin(batch_t *b, uint32_t n, uint32_t tokens, moe_err_t *err)
{
    uint32_t  i;

    b->begun = 0;
    b->ended = 0;
    b->sampled = 0;

    for (i = 0; i < n; i++) {
        batch_submit(b, i, tokens);
    }

    while (b->begun < n) {
        if (moe_gen_step(b->gen, err) < 0) {
            return -1;
        }
    }

    return 0;
}


/* and then their last */
static inline int
batch_finish(batch_t *b, uint32_t n, moe_err_t *err)
{
    while (b->ended < n) {
        if (moe_gen_step(b->gen, err) < 0) {
            return -1;
        }
    }

    return b->failed ? moe_err(err, "%u sequences failed", b->failed) : 0;
}


/* of each: enough steps to be measured, few where they are long */
static inline uint32_t
batch_tokens(uint32_t batch)
{
    return batch <= 8 ? 32 : batch <= 16 ? 16 : 8;
}


#endif /* MOE_BENCH_BATCH_H */
