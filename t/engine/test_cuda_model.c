/*
 * Whole models on the GPU backend against the same on the plain set, bit for
 * bit: chunks of prompts and decoding beside each other, pages in disorder,
 * drafts, pages that are kept when there are more of them.
 *
 * Run from the root of the repository.  Where there is no device every test is
 * counted as skipped.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gen.h"
#include "kernels/kernels.h"
#include "model/model.h"


enum { SEQS = 2, LEN = 24, PAGES = 16 };

/* t/cuda/simt.h's; a GPU has none */
extern unsigned  simt_waits __attribute__((weak));
extern unsigned  simt_played __attribute__((weak));


static const char *const  models[] = {
    "t/golden/v3-odd", "t/golden/gpt-oss", "t/golden/qwen3-moe",
    "t/golden/v3-fp8", "t/golden/glm4-moe"
};


static unsigned
played(void)
{
    return &simt_played ? simt_played : 0;
}


static void
need_device(void)
{
    if (moe_kernels_get("cuda") == NULL) {
        skip();
    }
}


static moe_model_t *
open_with(const char *dir, const moe_model_options_t *o)
{
    moe_err_t     err;
    moe_model_t  *m;

    m = moe_model_open(dir, o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s, %s: %s", dir, o->kernels, err.text);
    }

    return m;
}


static moe_model_t *
open_model(const char *dir, const char *kernels, moe_kv_format_e format,
    int mtp)
{
    moe_model_options_t  o = {
        .threads = 1, .max_rows = 32, .kv_pages = PAGES, .kernels = kernels,
        .kv_format = format, .row_format = MOE_ROWS_BF16, .mtp = mtp
    };

    return open_with(dir, &o);
}


/* ids of sequence s */
static uint32_t
id_at(const moe_model_t *m, uint32_t s, uint32_t pos)
{
    return (s * 7919 + pos * 104729 + 17) % moe_model_vocab_size(m);
}


/*
 * Sequence 0 from chunk to chunk, sequence 1 beside it one id a step; logits
 * of the last row of each, of all steps, to out.
 */
static void
run(moe_model_t *m, uint32_t chunk, float *out)
{
    uint8_t          role[32];
    uint32_t         i, n, done, step, ids[32], pos[32], seq[32], rows[2];
    uint32_t         table[SEQS][2] = { { 5, 2 }, { 0, 9 } };
    moe_err_t        err;
    const uint32_t  *tables[SEQS] = { table[0], table[1] };
    moe_batch_t      b = { .ids = ids, .pos = pos, .seq = seq, .role = role,
                           .nseqs = SEQS, .tables = tables, .nout = 2,
                           .out = rows };

    memset(role, MOE_ROLE_PROMPT, sizeof(role));

    for (done = 0, step = 0; done < LEN; done += n, step++) {
        n = LEN - done < chunk ? LEN - done : chunk;

        for (i = 0; i < n; i++) {
            ids[i] = id_at(m, 0, done + i);
            pos[i] = done + i;
            seq[i] = 0;
        }

        ids[n] = id_at(m, 1, step);
        pos[n] = step;
        seq[n] = 1;
        rows[0] = n - 1;
        rows[1] = n;
        b.nrows = n + 1;

        if (moe_model_step(m, &b, out, &err) != 0) {
            fail_msg("%s", err.text);
        }

        out += 2 * (size_t) moe_model_vocab_size(m);
    }
}


static void
compare(const char *dir, const char *plain, const char *cuda,
    moe_kv_format_e format, uint32_t chunk)
{
    float        *want, *is;
    size_t        i, n;
    moe_model_t  *cpu, *gpu;

    cpu = open_model(dir, plain, format, 0);
    gpu = open_model(dir, cuda, format, 0);

    n = (size_t) (LEN + chunk - 1) / chunk * 2 * moe_model_vocab_size(cpu);
    want = calloc(n, sizeof(float));
    is = calloc(n, sizeof(float));

    run(cpu, chunk, want);
    run(gpu, chunk, is);

    for (i = 0; i < n; i++) {
        if (memcmp(&is[i], &want[i], 4) != 0) {
            fail_msg("%s, chunks of %u: logit %zu: %.9g is not %.9g", dir,
                     chunk, i, (double) is[i], (double) want[i]);
        }
    }

    free(want);
    free(is);
    moe_model_close(cpu);
    moe_model_close(gpu);
}


static void
test_models(void **state)
{
    size_t  i;

    need_device();

    for (i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        compare(models[i], "plain", "cuda", (moe_kv_format_e) (i % 3),
                i % 2 ? 5 : 13);
        print_message("  %s\n", models[i]);
    }

    compare("t/golden/v3-fp8", "plain-fp8", "cuda-fp8", MOE_KV_BF16, 7);
}


/* what a step gives after its pages have moved to a larger memory */
static void
test_more_pages(void **state)
{
    float        *before, *after;
    size_t        n;
    uint32_t      id, pos, seq, row;
    uint8_t       role;
    moe_err_t     err;
    moe_model_t  *m;

    need_device();

    m = open_model("t/golden/v3-odd", "cuda", MOE_KV_F32, 0);
    n = moe_model_vocab_size(m);
    before = calloc(n * 2 * LEN, sizeof(float));
    after = calloc(n, sizeof(float));
    run(m, LEN, before);

    assert_int_equal(moe_model_kv_resize(m, 3 * PAGES, &err), 0);

    /* the last row of sequence 0 once more */
    const uint32_t   table[] = { 5, 2 };
    const uint32_t  *tables[] = { table };
    moe_batch_t      b = { .nrows = 1, .ids = &id, .pos = &pos, .seq = &seq,
                           .role = &role, .nseqs = 1, .tables = tables,
                           .nout = 1, .out = &row };

    id = id_at(m, 0, LEN - 1);
    pos = LEN - 1;
    seq = 0;
    row = 0;
    role = MOE_ROLE_PROMPT;

    assert_int_equal(moe_model_step(m, &b, after, &err), 0);
    assert_memory_equal(before, after, n * sizeof(float));

    free(before);
    free(after);
    moe_model_close(m);
}


/* logits of drafts, which nothing checks but that they are the same */
static void
draft(const char *kernels, float *out)
{
    size_t       vocab;
    uint32_t     i, ids[8], pos[8], seq[8], rows[8], next[8], last;
    uint8_t      role[8];
    moe_err_t    err;
    moe_model_t *m;

    const uint32_t   table[] = { 3 };
    const uint32_t  *tables[] = { table };
    moe_batch_t      b = { .nrows = 8, .ids = ids, .pos = pos, .seq = seq,
                           .role = role, .nseqs = 1, .tables = tables,
                           .nout = 1, .out = &last };
    moe_draft_t      d = { .n = 8, .rows = rows, .next = next, .nout = 1,
                           .out = &last };

    m = open_model("models/demo", kernels, MOE_KV_BF16, 1);
    assert_true(moe_model_has_mtp(m));
    vocab = moe_model_vocab_size(m);
    last = 7;

    for (i = 0; i < 8; i++) {
        ids[i] = id_at(m, 0, i);
        next[i] = id_at(m, 0, i + 1);
        pos[i] = i;
        seq[i] = 0;
        rows[i] = i;
        role[i] = MOE_ROLE_PROMPT;
    }

    assert_int_equal(moe_model_step(m, &b, out, &err), 0);
    assert_int_equal(moe_model_draft(m, &b, &d, out + vocab, &err), 0);
    moe_model_close(m);
}


static void
test_drafts(void **state)
{
    float        *want, *is;
    size_t        n;
    moe_model_t  *m;

    need_device();

    m = open_model("models/demo", "plain", MOE_KV_BF16, 0);
    n = 2 * (size_t) moe_model_vocab_size(m);
    moe_model_close(m);

    want = calloc(n, sizeof(float));
    is = calloc(n, sizeof(float));
    draft("plain", want);
    draft("cuda", is);
    assert_memory_equal(want, is, n * sizeof(float));

    free(want);
    free(is);
}


/* all events of a job, one after the other */
typedef struct {
    uint8_t   data[1 << 16];
    size_t    n;
} events_t;


static void
on_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static void
on_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    events_t  *e;

    e = (events_t *) ctx + tag;
    assert_true(e->n + d->nids * 4 + d->lp_size <= sizeof(e->data));
    memcpy(e->data + e->n, d->ids, d->nids * 4);
    memcpy(e->data + e->n + d->nids * 4, d->lp, d->lp_size);
    e->n += d->nids * 4 + d->lp_size;
}


static void
on_end(void *ctx, uint64_t tag, const moe_end_t *end)
{
    events_t  *e;

    e = (events_t *) ctx + tag;
    memcpy(e->data + e->n, &end->status, sizeof(end->status));
    e->n += sizeof(end->status);
}


enum { JOBS = 3 };


/* what several jobs at once are answered, each with other wishes; logits of
 * one set of kernels are sampled by the process, those of the other on the
 * device */
static void
answer(const char *kernels, moe_draft_e draft, events_t *e)
{
    int                          rc;
    uint32_t                     i, ids[20], eos;
    moe_err_t                    err;
    moe_gen_t                   *g;
    moe_job_t                    job;
    moe_bias_t                   bias[2] = { { 70, 4 }, { 70, -1.5f } };
    moe_model_t                 *m;
    moe_gen_options_t            o = { .draft = draft, .step_tokens = 32,
                                       .prefill_chunk = 3 };
    static const moe_gen_sink_t  sink = { on_started, on_delta, on_end };

    memset(e, 0, JOBS * sizeof(events_t));
    m = open_model("models/demo", kernels, MOE_KV_F32, 1);
    g = moe_gen_create(m, &o, &sink, e, &err);
    assert_non_null(g);
    assert_int_equal(moe_model_can_draw(m), strcmp(kernels, "plain") != 0);
    eos = 1;

    for (i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
        ids[i] = id_at(m, 3, i);
    }

    for (i = 0; i < JOBS; i++) {
        memset(&job, 0, sizeof(job));
        job.kind = MOE_JOB_IDS;
        job.n = 1;
        job.seed = 90 + i;
        job.max_tokens = 4 + i;
        job.credit = UINT32_MAX;
        job.temperature = i ? 1.3f : 0.0f;
        job.top_p = i == 1 ? 0.8f : 1.0f;
        job.top_k = i == 2 ? 12 : 0;
        job.min_p = i == 2 ? 0.02f : 0.0f;
        job.repetition = i == 1 ? 1.2f : 1.0f;
        job.frequency = i == 2 ? 0.7f : 0.0f;
        job.flags = i == 0 ? MOE_JOB_LOGPROBS | MOE_JOB_ECHO
                    : i == 1 ? MOE_JOB_LOGPROBS : 0;
        job.top_logprobs = 3;
        job.bias = bias;
        job.nbias = i == 1 ? 2 : 0;
        job.nprompts = 1;
        job.prompts[0].is_ids = 1;
        job.prompts[0].n = 4 + 2 * i;
        job.prompts[0].data = ids + i;
        job.stop_ids = &eos;
        job.nstop_ids = 1;
        job.min_tokens = 3;
        assert_non_null(moe_gen_submit(g, &job, i));
    }

    while ((rc = moe_gen_step(g, &err)) > 0) { /* void */ }

    assert_int_equal(rc, 0);
    moe_gen_destroy(g);
    moe_model_close(m);
}


static void
test_answers(void **state)
{
    unsigned     before;
    uint32_t     i;
    events_t    *want, *is;
    moe_draft_e  d;

    need_device();
    want = malloc(JOBS * sizeof(events_t));
    is = malloc(JOBS * sizeof(events_t));

    answer("plain", MOE_DRAFT_OFF, want);

    for (d = MOE_DRAFT_OFF; d <= MOE_DRAFT_ALWAYS; d++) {
        before = played();
        answer("cuda", d, is);
        assert_true(played() > before || &simt_played == NULL);

        for (i = 0; i < JOBS; i++) {
            assert_true(want[i].n >= 3 * 4);
            assert_int_equal(is[i].n, want[i].n);
            assert_memory_equal(is[i].data, want[i].data, want[i].n);
        }
    }

    free(want);
    free(is);
}


/* what a device cannot have is said, and nothing is lost */
static void
test_too_much(void **state)
{
    moe_err_t    err;
    moe_model_t *m;

    need_device();

    m = open_model("t/golden/v3-odd", "cuda", MOE_KV_F32, 0);
    assert_int_equal(moe_model_kv_resize(m, UINT32_MAX, &err), -1);
    assert_int_equal(moe_model_kv_pages(m), PAGES);
    moe_model_close(m);
}


/* with all experts here, a step is asked for and its draws are waited for:
 * nothing in between, whatever it has of prompts */
static void
count_waits(const char *dir, const char *kernels)
{
    unsigned      before;
    uint32_t      i, step, ids[20], pos[20], seq[20], rows[3];
    uint8_t       role[20];
    moe_err_t     err;
    moe_draw_t    d[3];
    moe_drawn_t   out[3];
    moe_draws_t   draws = { .n = 3, .draws = d, .out = out };
    moe_model_t  *m;

    const uint32_t   table[3][2] = { { 5, 2 }, { 0, 9 }, { 1, 3 } };
    const uint32_t  *tables[3] = { table[0], table[1], table[2] };
    moe_batch_t      b = { .ids = ids, .pos = pos, .seq = seq, .role = role,
                           .nseqs = 3, .tables = tables, .nout = 3,
                           .out = rows };

    m = open_model(dir, kernels, MOE_KV_F32, 0);
    moe_model_set_draws(m, &draws);

    /* prompts of 18, 1 and 1 rows, then an id of each */
    for (step = 0; step < 2; step++) {
        b.nrows = step ? 3 : 20;

        for (i = 0; i < b.nrows; i++) {
            seq[i] = i < b.nrows - 2 ? 0 : i - (b.nrows - 3);
            pos[i] = seq[i] == 0 ? i + step * 18 : step;
            ids[i] = id_at(m, seq[i], pos[i]);
            role[i] = MOE_ROLE_PROMPT;
        }

        memset(d, 0, sizeof(d));

        for (i = 0; i < 3; i++) {
            rows[i] = b.nrows - 3 + i;
            d[i].row = i;
            d[i].given = UINT32_MAX;
        }

        before = simt_waits;
        assert_int_equal(moe_model_step(m, &b, NULL, &err), 0);
        assert_int_equal(simt_waits - before, 1);

        for (i = 0; i < 3; i++) {
            assert_int_equal(out[i].none, 0);
            assert_in_range(out[i].id, 0, moe_model_vocab_size(m) - 1);
        }
    }

    moe_model_close(m);
}


static void
test_waits(void **state)
{
    size_t  i;

    need_device();

    if (&simt_waits == NULL) {
        print_message("only an emulated device counts\n");
        return;
    }

    for (i = 0; i < sizeof(models) / sizeof(models[0]); i++) {
        count_waits(models[i], "cuda");
    }

    count_waits("t/golden/v3-fp8", "cuda-fp8");
}


enum { MANY = 16 };             /* sequences, of a page each */


/* a step of rows [n] of each sequence, from where it is; logits of all rows
 * that are wanted.  Returns how often a recording was played. */
static unsigned
step_of(moe_model_t *m, const uint32_t *n, uint32_t *len, int all,
    float *out)
{
    unsigned         before;
    uint32_t         s, i, ids[32], pos[32], seq[32], rows[32];
    uint32_t         page[MANY];
    uint8_t          role[32];
    moe_err_t        err;
    const uint32_t  *tables[MANY];
    moe_batch_t      b = { .ids = ids, .pos = pos, .seq = seq, .role = role,
                           .nseqs = MANY, .tables = tables, .out = rows };

    memset(role, MOE_ROLE_PROMPT, sizeof(role));

    for (s = 0; s < MANY; s++) {
        page[s] = (s * 5 + 3) % MANY;
        tables[s] = &page[s];

        for (i = 0; i < n[s]; i++) {
            ids[b.nrows] = id_at(m, s, len[s]);
            pos[b.nrows] = len[s]++;
            seq[b.nrows] = s;

            if (all || i + 1 == n[s]) {
                rows[b.nout++] = b.nrows;
            }

            b.nrows++;
        }
    }

    before = played();

    if (moe_model_step(m, &b, out, &err) != 0) {
        fail_msg("%s", err.text);
    }

    return played() - before;
}


/*
 * Steps by recordings beside the same asked for one operation at a time, of
 * rows[nsteps] rows, above 16 of sequences with two; every page is somebody's.
 * Prompts, of which not all logits are wanted, are not played.
 */
static void
compare_ladder(const char *dir, const char *kernels, moe_kv_format_e format,
    const uint32_t *rows, uint32_t nsteps)
{
    float                *want, *is;
    size_t                bytes;
    uint32_t              i, s, n[MANY], len[MANY], len2[MANY];
    moe_model_t          *on, *off;
    moe_model_options_t   o = {
        .threads = 1, .max_rows = 32, .kv_pages = PAGES, .kernels = kernels,
        .kv_format = format, .row_format = MOE_ROWS_BF16
    };

    on = open_with(dir, &o);
    o.unrecorded = 1;
    off = open_with(dir, &o);

    bytes = 32 * (size_t) moe_model_vocab_size(on) * sizeof(float);
    want = malloc(bytes);
    is = malloc(bytes);
    memset(len, 0, sizeof(len));
    memset(len2, 0, sizeof(len2));

    for (s = 0; s < MANY; s++) {
        n[s] = 2;
    }

    assert_int_equal(step_of(on, n, len, 0, is), 0);
    assert_int_equal(step_of(off, n, len2, 0, want), 0);

    for (i = 0; i < nsteps; i++) {
        for (s = 0; s < MANY; s++) {
            n[s] = (s + i) % MANY < rows[i];
            n[s] += (s + i) % MANY + MANY < rows[i];
        }

        memset(want, 0, bytes);
        memset(is, 0, bytes);
        assert_int_equal(step_of(on, n, len, 1, is), &simt_played != NULL);
        assert_int_equal(step_of(off, n, len2, 1, want), 0);

        if (memcmp(is, want, bytes) != 0) {
            fail_msg("%s: a step of %u rows", dir, rows[i]);
        }
    }

    free(want);
    free(is);
    moe_model_close(on);
    moe_model_close(off);
}


/* each rung, full and filled up; of other models two that are filled up */
static void
test_ladder(void **state)
{
    static const uint32_t  rows[] = { 1, 2, 3, 4, 5, 8, 9, 16, 17, 32, 1 };
    static const uint32_t  few[] = { 3, 5 };

    need_device();

    compare_ladder("t/golden/v3-odd", "cuda", MOE_KV_F32, rows, 11);
    compare_ladder("t/golden/gpt-oss", "cuda", MOE_KV_I8, few, 2);
    compare_ladder("t/golden/v3-fp8", "cuda-fp8", MOE_KV_BF16, few, 2);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_more_pages),
        cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_waits),
        cmocka_unit_test(test_ladder),
        cmocka_unit_test(test_too_much)
    };

    return cmocka_run_group_tests_name("cuda, models", tests, NULL, NULL);
}
