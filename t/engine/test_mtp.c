/*
 * The demo model's MTP layer: what it drafts is mostly right, hangs on the
 * sequence alone, and changes neither answer nor fingerprint.
 *
 * Run from the root of the repository.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "gen.h"
#include "model/model.h"


#define DIR      "models/demo"
#define DIR_BARE "t/golden/v3-odd"

enum { ROWS = 40, VOCAB = 4096, MAX_IDS = 400, ANSWERS = 6 };


typedef struct {
    uint32_t     ids[MAX_IDS];
    uint32_t     n;
    uint32_t     ended;
} answer_t;

/* "Tell me a story.", as t/golden/demo has it */
static const uint32_t  story[] = { 0, 3, 682, 327, 262, 440, 18, 4 };


static moe_model_t *
open_model(const char *dir, int mtp)
{
    moe_err_t            err;
    moe_model_t         *m;
    moe_model_options_t  o = { .threads = 1, .kv_pages = 64, .mtp = mtp,
                              .kernels = getenv("MOE_KERNELS") };

    m = moe_model_open(dir, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s", err.text);
    }

    return m;
}


/* rows from .. from + n - 1 of a sequence through the model, then the MTP
 * layer, whose logits of the last row are left in logits */
static void
run_rows(moe_model_t *m, uint32_t from, uint32_t n, float *logits)
{
    uint32_t               i, table[4], last;
    uint32_t               ids[ROWS], pos[ROWS], seq[ROWS], rows[ROWS],
                           next[ROWS];
    uint8_t                role[ROWS];
    moe_err_t              err;
    moe_batch_t            b;
    moe_draft_t            d;
    const uint32_t *const  tables[] = { table };

    for (i = 0; i < n; i++) {
        ids[i] = (from + i) * 7 % 900 + 40;
        pos[i] = from + i;
        seq[i] = 0;
        role[i] = MOE_ROLE_PROMPT;
        rows[i] = i;
        next[i] = (from + i + 1) * 7 % 900 + 40;
    }

    for (i = 0; i < 4; i++) {
        table[i] = 3 - i;
    }

    last = n - 1;
    b = (moe_batch_t) { n, ids, pos, seq, role, 1, tables, 0, NULL };
    d = (moe_draft_t) { n, rows, next, 1, &last };

    if (moe_model_step(m, &b, NULL, &err) != 0
        || moe_model_draft(m, &b, &d, logits, &err) != 0)
    {
        fail_msg("%s", err.text);
    }
}


/* however a sequence was cut into steps, its drafts are the same */
static void
test_rows(void **state)
{
    uint32_t         i, c;
    float           *want, *got;
    moe_model_t     *m;
    const uint32_t   chunks[] = { 1, 7, 16, 39 };

    want = malloc(VOCAB * sizeof(float));
    got = malloc(VOCAB * sizeof(float));
    m = open_model(DIR, 1);
    assert_true(moe_model_has_mtp(m));
    assert_int_equal(moe_model_vocab_size(m), VOCAB);

    run_rows(m, 0, ROWS, want);

    for (c = 0; c < sizeof(chunks) / sizeof(chunks[0]); c++) {
        for (i = 0; i < ROWS; i += chunks[c]) {
            run_rows(m, i, ROWS - i < chunks[c] ? ROWS - i : chunks[c], got);
        }

        assert_memory_equal(got, want, VOCAB * sizeof(float));
    }

    moe_model_close(m);
    free(want);
    free(got);
}


static void
test_refusals(void **state)
{
    float         *logits;
    uint32_t       i, rows[2], next[2], out[2];
    moe_err_t      err;
    moe_batch_t    b;
    moe_draft_t    d;
    moe_model_t   *m;
    struct {
        uint32_t   rows[2], next[2], out[2];
    } bad[] = {
        { { 0, ROWS }, { 1, 1 }, { 0, 1 } },
        { { 1, 1 }, { 1, 1 }, { 0, 1 } },
        { { 0, 1 }, { 1, VOCAB }, { 0, 1 } },
        { { 0, 1 }, { 1, 1 }, { 0, 2 } },
        { { 0, 1 }, { 1, 1 }, { 1, 1 } }
    };

    logits = malloc(2 * VOCAB * sizeof(float));
    m = open_model(DIR, 1);
    run_rows(m, 0, ROWS, logits);
    memset(&b, 0, sizeof(b));
    d = (moe_draft_t) { 2, rows, next, 2, out };

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        memcpy(rows, bad[i].rows, sizeof(rows));
        memcpy(next, bad[i].next, sizeof(next));
        memcpy(out, bad[i].out, sizeof(out));
        assert_int_equal(moe_model_draft(m, &b, &d, logits, &err), -1);
    }

    moe_model_close(m);
    free(logits);
}


/* an answer hangs on neither, so the fingerprint does not either */
static void
test_fingerprint(void **state)
{
    uint8_t       with[32], without[32];
    moe_model_t  *m;

    m = open_model(DIR, 1);
    moe_model_fingerprint(m, with);
    moe_model_close(m);

    m = open_model(DIR, 0);
    assert_false(moe_model_has_mtp(m));
    moe_model_fingerprint(m, without);
    moe_model_close(m);

    assert_memory_equal(with, without, sizeof(with));

    /* and one that has none is as it was */
    m = open_model(DIR_BARE, 1);
    assert_false(moe_model_has_mtp(m));
    moe_model_close(m);
}


static void
on_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static void
on_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    answer_t  *a;

    a = (answer_t *) ctx + tag;
    assert_true(a->n + d->nids <= MAX_IDS);
    memcpy(a->ids + a->n, d->ids, d->nids * sizeof(uint32_t));
    a->n += d->nids;
}


static void
on_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    ((answer_t *) ctx)[tag].ended++;
    assert_int_equal(e->status, 200);
}


/* some answers, one greedy, the others drawn, and what they took */
static void
answer(moe_draft_e draft, answer_t *a, moe_stats_t *stats)
{
    int                          rc;
    uint32_t                     i, eos;
    moe_err_t                    err;
    moe_gen_t                   *g;
    moe_job_t                    job;
    moe_model_t                 *m;
    moe_gen_options_t            o = { .draft = draft };
    static const moe_gen_sink_t  sink = { on_started, on_delta, on_end };

    memset(a, 0, ANSWERS * sizeof(answer_t));
    m = open_model(DIR, 1);
    g = moe_gen_create(m, &o, &sink, a, &err);
    assert_non_null(g);

    eos = 1;

    for (i = 0; i < ANSWERS; i++) {
        memset(&job, 0, sizeof(job));
        job.kind = MOE_JOB_IDS;
        job.n = 1;
        job.seed = i;
        job.max_tokens = 300;
        job.credit = UINT32_MAX;
        job.temperature = i ? 1.0f : 0.0f;
        job.top_p = 1.0f;
        job.repetition = 1.0f;
        job.nprompts = 1;
        job.prompts[0].is_ids = 1;
        job.prompts[0].n = sizeof(story) / sizeof(story[0]);
        job.prompts[0].data = story;
        job.stop_ids = &eos;
        job.nstop_ids = 1;
        assert_non_null(moe_gen_submit(g, &job, i));

        do {
            rc = moe_gen_step(g, &err);
            assert_true(rc >= 0);
        } while (rc > 0);
    }

    memset(stats, 0, sizeof(*stats));
    moe_gen_stats(g, stats);
    moe_gen_destroy(g);
    moe_model_close(m);
}


/* with drafts the same answer takes little more than half the steps */
static void
test_steps(void **state)
{
    answer_t     *with, *without;
    moe_stats_t   some, none;

    with = malloc(ANSWERS * sizeof(answer_t));
    without = malloc(ANSWERS * sizeof(answer_t));

    answer(MOE_DRAFT_OFF, without, &none);
    answer(MOE_DRAFT_ALWAYS, with, &some);

    assert_memory_equal(with, without, ANSWERS * sizeof(answer_t));
    assert_int_equal(none.draft_tokens, 0);
    assert_int_equal(none.steps, none.completion_tokens);
    assert_int_equal(some.steps + some.draft_accepted,
                     some.completion_tokens);
    print_message("%llu of %llu drafts right\n",
                  (unsigned long long) some.draft_accepted,
                  (unsigned long long) some.draft_tokens);
    assert_true(some.draft_accepted * 10 > some.draft_tokens * 8);
    assert_true(some.steps * 10 < none.steps * 6);

    free(with);
    free(without);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_steps)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
