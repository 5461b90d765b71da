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

#include "kernels/kernels.h"
#include "model/model.h"


enum { SEQS = 2, LEN = 24, PAGES = 16 };


static const char *const  models[] = {
    "t/golden/v3-odd", "t/golden/gpt-oss", "t/golden/qwen3-moe",
    "t/golden/v3-fp8", "t/golden/glm4-moe"
};


static void
need_device(void)
{
    if (moe_kernels_get("cuda") == NULL) {
        skip();
    }
}


static moe_model_t *
open_model(const char *dir, const char *kernels, moe_kv_format_e format,
    int mtp)
{
    moe_err_t            err;
    moe_model_t         *m;
    moe_model_options_t  o = {
        .threads = 1, .max_rows = 32, .kv_pages = PAGES, .kernels = kernels,
        .kv_format = format, .row_format = MOE_ROWS_BF16, .mtp = mtp
    };

    m = moe_model_open(dir, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s, %s: %s", dir, kernels, err.text);
    }

    return m;
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


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_more_pages),
        cmocka_unit_test(test_drafts),
        cmocka_unit_test(test_too_much)
    };

    return cmocka_run_group_tests_name("cuda, models", tests, NULL, NULL);
}
