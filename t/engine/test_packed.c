/*
 * Packed models: what quantize writes is what the source has, within the
 * format's error; it opens as a model, answers within what the rounding of
 * inputs allows, and each row gives the same bits in any batch, set and
 * number of threads; files that are damaged are refused.
 *
 * Run from the root of the repository.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "kernels/kernels.h"
#include "model/gguf_model.h"
#include "model/model.h"
#include "model/packed.h"
#include "model/quantize.h"
#include "model/weights.h"


enum { ROWS = 40 };


static char       out[64];
static moe_err_t  err;

static const char *const  dirs[] = {
    "t/golden/v3", "t/golden/v3-fp8", "t/golden/v3-odd", "t/golden/v2-lite",
    "t/golden/mixtral", "t/golden/qwen2-moe", "t/golden/qwen3-moe",
    "t/golden/olmoe", "t/golden/glm4-moe", "t/golden/minimax-m2",
    "t/golden/kimi-k2", "t/golden/gpt-oss", "t/golden/gpt-oss-mxfp4",
    "models/demo"
};

#define NDIRS  (sizeof(dirs) / sizeof(dirs[0]))


static int
setup(void **state)
{
    strcpy(out, "/tmp/moe_packed_XXXXXX");

    return mkdtemp(out) == NULL ? -1 : 0;
}


static void
clear(void)
{
    char  cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -rf %s", out);
    if (system(cmd) != 0) {
        fail_msg("%s", cmd);
    }
}


static int
teardown(void **state)
{
    clear();

    return 0;
}


static void
quantize(const char *dir, moe_format_e format, const moe_format_rule_t *rules,
    size_t nrules)
{
    moe_quantize_t    q = { format, rules, nrules, 2 };
    moe_quantized_t   done;

    clear();

    if (moe_quantize(dir, out, &q, NULL, NULL, &done, &err) != 0) {
        fail_msg("%s: %s", dir, err.text);
    }
}


/* the share of the norm that differs */
static double
difference(const moe_tensor_t *a, const moe_tensor_t *b)
{
    float   *x, *y;
    size_t   i, n;
    double   d, sum;

    assert_int_equal(a->rows, b->rows);
    assert_int_equal(a->cols, b->cols);

    n = (size_t) a->rows * (size_t) a->cols;
    x = malloc(n * sizeof(float));
    y = malloc(n * sizeof(float));
    moe_tensor_to_f32(a, 0, a->rows, x);
    moe_tensor_to_f32(b, 0, b->rows, y);
    d = sum = 0;

    for (i = 0; i < n; i++) {
        d += ((double) x[i] - y[i]) * ((double) x[i] - y[i]);
        sum += (double) x[i] * x[i];
    }

    free(x);
    free(y);

    return sqrt(d / (sum + 1e-30));
}


static void
check_ffn(const moe_ffn_t *a, const moe_ffn_t *b, double bound)
{
    if (a->gate.data != NULL) {
        assert_true(difference(&a->gate, &b->gate) < bound);
        assert_true(difference(&a->up, &b->up) < bound);
        assert_true(difference(&a->down, &b->down) < bound);
        assert_true(moe_dtype_is_packed(b->down.dtype));
    }
}


static void
test_weights(void **state)
{
    int                   e, f, l, mxfp4;
    size_t                i;
    double                bound;
    moe_config_t          cfg;
    moe_weights_t        *a, *b;
    moe_layer_weights_t  *x, *y;

    for (i = 0; i < NDIRS * 2; i++) {
        f = i % 2 ? MOE_FORMAT_INT8 : MOE_FORMAT_INT4;
        bound = f == MOE_FORMAT_INT8 ? 0.008 : 0.12;

        /* value for value */
        mxfp4 = strstr(dirs[i / 2], "mxfp4") != NULL;
        bound = mxfp4 ? 0x1p-149 : bound;
        quantize(dirs[i / 2], (moe_format_e) f, NULL, 0);

        assert_int_equal(moe_config_load(out, &cfg, &err), 0);
        a = moe_weights_load(dirs[i / 2], &cfg, &err);
        b = moe_weights_load(out, &cfg, &err);
        if (a == NULL || b == NULL) {
            fail_msg("%s: %s", dirs[i / 2], err.text);
            return;
        }

        assert_int_equal(a->n_mtp != 0, b->n_mtp != 0);
        assert_int_equal(b->n_unused, 0);
        assert_true(difference(&a->embed, &b->embed) == 0);
        assert_true(difference(&a->head, &b->head) < 0.008);
        assert_true(moe_dtype_is_packed(b->head.dtype));

        for (l = 0; l < cfg.n_layers; l++) {
            x = &a->layers[l];
            y = &b->layers[l];

            assert_true(difference(&x->attn_norm, &y->attn_norm) == 0);
            assert_true(difference(&x->o, &y->o) < 0.008);
            assert_true(moe_dtype_is_packed(y->o.dtype));

            if (cfg.attn == MOE_ATTN_MLA) {
                /* kept; bf16 of FP8 */
                assert_true(difference(&x->kv_b, &y->kv_b) < 0.004);
            }

            check_ffn(&x->dense, &y->dense, 0.008);
            check_ffn(&x->shared, &y->shared, 0.008);

            if (cfg.is_moe[l]) {
                assert_true(difference(&x->router, &y->router) == 0);
            }

            for (e = 0; cfg.is_moe[l] && e < cfg.n_experts; e++) {
                check_ffn(&x->experts[e], &y->experts[e], bound);
                assert_int_equal(y->experts[e].up.dtype == MOE_DTYPE_MX4_G32,
                                 mxfp4);
            }
        }

        moe_weights_free(a);
        moe_weights_free(b);
    }
}


static moe_model_t *
open_model(const char *dir, const char *kernels, uint32_t threads)
{
    moe_model_t          *m;
    moe_model_options_t   o = { .threads = threads, .max_rows = 64,
                                .kv_pages = 8, .kernels = kernels };

    m = moe_model_open(dir, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s: %s", dir, err.text);
    }

    return m;
}


/* logits of ROWS positions, each rows at a time */
static float *
run(moe_model_t *m, uint32_t each)
{
    float           *logits;
    uint8_t          role[ROWS] = { 0 };
    uint32_t         i, n, ids[ROWS], pos[ROWS], at[ROWS], vocab;
    uint32_t         seq[ROWS] = { 0 }, table[8] = { 5, 1, 2, 0, 3, 4, 6, 7 };
    moe_batch_t      b;
    const uint32_t  *tables[1] = { table };

    vocab = moe_model_vocab_size(m);
    logits = malloc((size_t) ROWS * vocab * sizeof(float));

    for (i = 0; i < ROWS; i++) {
        ids[i] = (i * 37 + 11) % vocab;
        pos[i] = i;
        at[i] = i;
    }

    for (i = 0; i < ROWS; i += n) {
        n = ROWS - i < each ? ROWS - i : each;
        b = (moe_batch_t) { n, ids + i, pos + i, seq, role, 1, tables, n,
                            at };
        if (moe_model_step(m, &b, logits + (size_t) i * vocab, &err) != 0) {
            fail_msg("%s", err.text);
        }
    }

    return logits;
}


static void
test_model(void **state)
{
    float        *want, *got;
    size_t        i, j, bytes, n;
    double        d, sum;
    moe_model_t  *m;

    static const struct {
        const char  *kernels;
        uint32_t     threads;
        uint32_t     each;
    } ways[] = {
        { "plain", 1, 1 }, { "plain", 1, ROWS }, { "avx2", 2, 7 },
        { "avx2", 1, ROWS }, { "avx512", 1, 1 }, { "avx512", 3, 13 },
        { "avx512", 2, ROWS }
    };

    for (i = 0; i < NDIRS; i++) {
        quantize(dirs[i], i % 2 ? MOE_FORMAT_INT4 : MOE_FORMAT_INT8, NULL, 0);

        m = open_model(out, "plain", 1);
        n = (size_t) ROWS * moe_model_vocab_size(m);
        bytes = n * sizeof(float);
        want = run(m, 3);
        moe_model_close(m);

        for (j = 0; j < sizeof(ways) / sizeof(ways[0]); j++) {
            if (moe_kernels_get(ways[j].kernels) == NULL) {
                continue;
            }
            m = open_model(out, ways[j].kernels, ways[j].threads);
            got = run(m, ways[j].each);
            assert_memory_equal(got, want, bytes);
            moe_model_close(m);
            free(got);
        }

        m = open_model(dirs[i], NULL, 1);
        got = run(m, ROWS);
        moe_model_close(m);
        d = sum = 0;

        for (j = 0; j < n; j++) {
            d += ((double) got[j] - want[j]) * ((double) got[j] - want[j]);
            sum += (double) got[j] * got[j];
        }

        /* random weights route close to even, so a little may choose others;
         * wrong ones would give about 1.4 */
        print_message("%s: logits differ by %.4f\n", dirs[i], sqrt(d / sum));
        assert_true(sqrt(d / sum) < (i % 2 ? 0.6 : 0.25));

        free(got);
        free(want);
    }
}


static void
test_fingerprint(void **state)
{
    int           i;
    uint8_t       f[4][32];
    moe_model_t  *m;

    static const moe_format_rule_t  rule = { "*.o_proj.*",
                                             MOE_FORMAT_BF16 };

    m = open_model("t/golden/v3", NULL, 1);
    moe_model_fingerprint(m, f[0]);
    moe_model_close(m);

    for (i = 1; i < 4; i++) {
        quantize("t/golden/v3", i == 2 ? MOE_FORMAT_INT8 : MOE_FORMAT_INT4,
                 &rule, i == 3);
        m = open_model(out, NULL, 1);
        moe_model_fingerprint(m, f[i]);
        moe_model_close(m);
    }

    for (i = 0; i < 12; i++) {
        assert_true(i % 4 == i / 4
                    || memcmp(f[i % 4], f[i / 4], 32) != 0);
    }
}


static void
test_rules(void **state)
{
    moe_model_t      *m;
    moe_config_t      cfg;
    moe_weights_t    *w;
    moe_quantize_t    q = { 0 };
    moe_quantized_t   done;

    static const moe_format_rule_t  rules[] = {
        { "*.experts.[0-2].*", MOE_FORMAT_INT8 },
        { "*.experts.1.*", MOE_FORMAT_KEEP },
        { "*.experts.2.down_proj.*", MOE_FORMAT_F32 },
        { "lm_head.weight", MOE_FORMAT_BF16 }
    };

    static const moe_format_rule_t  bad[] = {
        { "model.embed_tokens.weight", MOE_FORMAT_INT8 },
        { "*.kv_b_proj.weight", MOE_FORMAT_INT8 },
        { "*.gate.weight", MOE_FORMAT_INT4 },
        { "model.norm.weight", MOE_FORMAT_INT8 }
    };

    quantize("t/golden/v3-bf16", MOE_FORMAT_INT4, rules, 4);
    assert_int_equal(moe_config_load(out, &cfg, &err), 0);
    w = moe_weights_load(out, &cfg, &err);
    assert_non_null(w);

    assert_int_equal(w->head.dtype, MOE_DTYPE_BF16);
    assert_int_equal(w->layers[1].experts[0].gate.dtype, MOE_DTYPE_I8_G32);
    assert_int_equal(w->layers[1].experts[1].gate.dtype, MOE_DTYPE_BF16);
    assert_int_equal(w->layers[1].experts[2].down.dtype, MOE_DTYPE_F32);
    assert_int_equal(w->layers[1].experts[2].up.dtype, MOE_DTYPE_I8_G32);
    assert_int_equal(w->layers[1].experts[3].up.dtype, MOE_DTYPE_I4_G32);
    assert_int_equal(w->layers[1].shared.up.dtype, MOE_DTYPE_I8_G32);
    moe_weights_free(w);

    /* layers of several kinds run */
    m = open_model(out, NULL, 1);
    free(run(m, ROWS));
    moe_model_close(m);

    q.format = MOE_FORMAT_INT8;
    q.nrules = 1;

    for (q.rules = bad; q.rules < bad + 4; q.rules++) {
        assert_int_equal(moe_quantize("t/golden/v3", out, &q, NULL, NULL,
                                      &done, &err), -1);
        assert_non_null(strstr(err.text, "cannot be"));
    }

    q.nrules = 0;
    assert_int_equal(moe_quantize("t/golden/v3", "t/golden/../golden/v3", &q,
                                  NULL, NULL, &done, &err), -1);
    assert_non_null(strstr(err.text, "the source itself"));

    /* what is packed is not packed again, and stays whole */
    assert_int_equal(moe_quantize(out, out, &q, NULL, NULL, &done, &err), -1);
    assert_non_null(strstr(err.text, "packed already"));
    w = moe_weights_load(out, &cfg, &err);
    assert_non_null(w);
    moe_weights_free(w);
}


/* a GGUF file's blocks are as a model opened from it has them */
static void
test_gguf(void **state)
{
    size_t                  i, packed;
    moe_st_t               *a, *b;
    moe_gguf_t             *g;
    moe_config_t            cfg;
    moe_quantize_t          q = { MOE_FORMAT_INT8, NULL, 1, 2 };
    moe_quantized_t         done;
    const moe_st_tensor_t  *s, *t;

    static const char              file[] = "t/golden/gguf/mixed.gguf";
    static const moe_format_rule_t  rule = { "*.experts.0.up_proj.weight",
                                             MOE_FORMAT_BF16 };

    quantize(file, MOE_FORMAT_INT4, NULL, 0);

    assert_int_equal(moe_config_load(file, &cfg, &err), 0);
    g = moe_gguf_open(file, &err);
    assert_non_null(g);
    a = moe_gguf_tensors(g, &cfg, 0, &err);
    assert_int_equal(moe_config_load(out, &cfg, &err), 0);
    b = moe_st_open(out, &err);
    assert_non_null(a);
    assert_non_null(b);
    assert_int_equal(moe_st_count(a), moe_st_count(b));
    packed = 0;

    for (i = 0; (s = moe_st_at(a, i)) != NULL; i++) {
        t = moe_st_at(b, i);
        assert_string_equal(s->name, t->name);
        assert_int_equal(s->dtype, t->dtype);
        assert_int_equal(s->size, t->size);
        assert_memory_equal(s->data, t->data, s->size);
        packed += (size_t) moe_dtype_is_packed(t->dtype);
    }

    assert_int_equal(packed, 11);
    moe_st_close(a);
    moe_st_close(b);

    q.rules = &rule;
    assert_int_equal(moe_quantize(file, out, &q, NULL, NULL, &done, &err),
                     -1);
    assert_non_null(strstr(err.text, "packed as it comes"));
}


static void
test_damage(void **state)
{
    char      path[128], *file;
    size_t    i, at, len, head;
    moe_st_t  *st;

    quantize("t/golden/v3", MOE_FORMAT_INT8, NULL, 0);
    snprintf(path, sizeof(path), "%s/" MOE_PACKED_FILE, out);
    file = moe_file_read(path, 1 << 28, &len, NULL, &err);
    assert_non_null(file);
    assert_int_equal(moe_packed_verify((uint8_t *) file, len, "f", &err), 0);

    head = MOE_PACKED_PREAMBLE + 8 + (uint8_t) file[MOE_PACKED_PREAMBLE]
           + ((size_t) (uint8_t) file[MOE_PACKED_PREAMBLE + 1] << 8)
           + ((size_t) (uint8_t) file[MOE_PACKED_PREAMBLE + 2] << 16);
    assert_int_equal(head % 64, 0);

    /* any byte up to the data */
    for (i = 0; i < 400; i++) {
        at = i < MOE_PACKED_SUM + 32 ? i : (i * 7919) % head;
        if (at >= MOE_PACKED_SUM + 32 && at < MOE_PACKED_PREAMBLE) {
            continue;
        }

        file[at] ^= 0x20;
        st = moe_st_open_memory((uint8_t *) file, len, "f", &err);
        assert_null(st);
        file[at] ^= 0x20;
    }

    for (i = 0; i < len; i = i * 2 + 1) {
        assert_null(moe_st_open_memory((uint8_t *) file, i, "f", &err));
    }

    /* a byte of the data: opens, but does not verify */
    file[len - 5] ^= 1;
    st = moe_st_open_memory((uint8_t *) file, len, "f", &err);
    assert_non_null(st);
    moe_st_close(st);
    assert_int_equal(moe_packed_verify((uint8_t *) file, len, "f", &err), -1);

    /* packed types in a file that is not ours */
    st = moe_st_open_memory((uint8_t *) file + MOE_PACKED_PREAMBLE,
                            len - MOE_PACKED_PREAMBLE, "f", &err);
    assert_null(st);
    assert_non_null(strstr(err.text, "unknown dtype"));

    free(file);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_weights),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_gguf),
        cmocka_unit_test(test_damage)
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
