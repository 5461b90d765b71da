/*
 * An open model's edges: batches that do not fit are refused and write
 * nothing, pages keep what they hold, the fingerprint tells apart what gives
 * other bits; and the tables and boundaries that it is made of.
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
#include <unistd.h>
#include <cmocka.h>

#include "ep/exchange.h"
#include "model/fingerprint.h"
#include "model/model.h"
#include "model/rope.h"


#define DIR_V3   "t/golden/v3"
#define DIR_QWEN "t/golden/qwen3-moe"
#define EXPERT   "model.layers.1.mlp.experts.7.up_proj.weight"

enum { MAX_VOCAB = 512 };


static moe_model_t *
open_model(const char *dir, uint32_t pages, moe_kv_format_e format)
{
    moe_err_t            err;
    moe_model_t         *m;
    moe_model_options_t  o = { .threads = 1, .max_rows = 32,
                               .kv_pages = pages, .kv_format = format };

    m = moe_model_open(dir, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s", err.text);
    }

    assert_true(moe_model_vocab_size(m) <= MAX_VOCAB);

    return m;
}


typedef struct {
    uint32_t         ids[40], pos[40], seq[40], out[40];
    uint8_t          role[40];
    uint32_t         table[2][8];
    const uint32_t  *tables[2];
    moe_batch_t      b;
} batch_t;


/* n rows from position from on of one sequence in pages 0, 1, ...; logits of
 * the last */
static void
make_batch(batch_t *t, uint32_t from, uint32_t n)
{
    uint32_t  i;

    memset(t, 0, sizeof(*t));

    for (i = 0; i < n; i++) {
        t->ids[i] = (from + i) * 7 % 31;
        t->pos[i] = from + i;
    }

    for (i = 0; i < 8; i++) {
        t->table[0][i] = i;
        t->table[1][i] = i;
    }

    t->tables[0] = t->table[0];
    t->tables[1] = t->table[1];
    t->out[0] = n - 1;
    t->b = (moe_batch_t) { n, t->ids, t->pos, t->seq, t->role, 1, t->tables,
                           1, t->out };
}


static void
step(moe_model_t *m, const moe_batch_t *b, float *logits)
{
    moe_err_t  err;

    if (moe_model_step(m, b, logits, &err) != 0) {
        fail_msg("%s", err.text);
    }
}


static void
refuse(moe_model_t *m, const moe_batch_t *b, const char *word)
{
    float      logits[40 * MAX_VOCAB];
    moe_err_t  err;

    err.text[0] = '\0';
    assert_int_equal(moe_model_step(m, b, logits, &err), -1);

    if (strstr(err.text, word) == NULL) {
        fail_msg("\"%s\" has no \"%s\"", err.text, word);
    }
}


static void
test_bad_batches(void **state)
{
    float         before[MAX_VOCAB], after[MAX_VOCAB];
    size_t        bytes;
    batch_t       t;
    moe_model_t  *m;

    m = open_model(DIR_V3, 4, MOE_KV_F32);
    bytes = moe_model_vocab_size(m) * sizeof(float);

    make_batch(&t, 0, 20);
    step(m, &t.b, before);
    make_batch(&t, 20, 1);
    step(m, &t.b, before);

    make_batch(&t, 0, 20);
    t.ids[3] = moe_model_vocab_size(m);
    refuse(m, &t.b, "token");

    make_batch(&t, 0, 20);
    t.pos[19] = 30;
    refuse(m, &t.b, "position");

    make_batch(&t, 0, 2);
    t.pos[0] = UINT32_MAX;
    t.pos[1] = 0;
    refuse(m, &t.b, "position");

    make_batch(&t, 0, 1);
    t.pos[0] = moe_model_max_position(m);
    refuse(m, &t.b, "position");

    make_batch(&t, 0, 20);
    t.seq[19] = 1;
    refuse(m, &t.b, "sequence");

    make_batch(&t, 0, 20);
    t.b.nseqs = 2;
    t.seq[5] = 1;
    t.pos[5] = 70;
    t.pos[6] = 6;
    refuse(m, &t.b, "again");

    make_batch(&t, 0, 20);
    t.table[0][1] = 4;
    refuse(m, &t.b, "page");

    make_batch(&t, 0, 20);
    t.role[7] = 9;
    refuse(m, &t.b, "role");

    make_batch(&t, 0, 20);
    t.out[0] = 20;
    refuse(m, &t.b, "logits");

    make_batch(&t, 0, 20);
    t.b.nout = 2;
    t.out[0] = 5;
    t.out[1] = 5;
    refuse(m, &t.b, "logits");

    make_batch(&t, 0, 33);
    refuse(m, &t.b, "rows");

    make_batch(&t, 0, 1);
    t.b.nseqs = 33;
    refuse(m, &t.b, "sequences");

    make_batch(&t, 0, 0);
    t.b.nout = 0;
    step(m, &t.b, NULL);

    /* and none of it has written anything */
    make_batch(&t, 20, 1);
    step(m, &t.b, after);
    assert_memory_equal(before, after, bytes);

    moe_model_close(m);
}


static void
test_pages_stay_through_resize(void **state)
{
    int           f;
    float         before[MAX_VOCAB], after[MAX_VOCAB];
    size_t        bytes;
    batch_t       t;
    moe_err_t     err;
    moe_model_t  *m;

    for (f = 0; f < 4; f++) {
        m = open_model(f % 2 ? DIR_QWEN : DIR_V3, 0,
                       f == 0 ? MOE_KV_F32 : f == 1 ? MOE_KV_BF16
                                                    : MOE_KV_I8);
        bytes = moe_model_vocab_size(m) * sizeof(float);
        assert_int_equal(moe_model_kv_pages(m), 0);

        make_batch(&t, 0, 20);
        refuse(m, &t.b, "page");

        assert_int_equal(moe_model_kv_resize(m, 2, &err), 0);
        step(m, &t.b, before);
        make_batch(&t, 20, 1);
        step(m, &t.b, before);

        assert_int_equal(moe_model_kv_resize(m, 5000, &err), 0);
        assert_int_equal(moe_model_kv_pages(m), 5000);
        step(m, &t.b, after);
        assert_memory_equal(before, after, bytes);

        assert_int_equal(moe_model_kv_resize(m, 2, &err), 0);
        step(m, &t.b, after);
        assert_memory_equal(before, after, bytes);

        assert_int_equal(moe_model_kv_resize(m, 0, &err), 0);
        assert_int_equal(moe_model_kv_pages(m), 0);

        moe_model_close(m);
    }
}


/* logits of chosen rows are those of all rows */
static void
test_rows_asked_for(void **state)
{
    float         all[20 * MAX_VOCAB], some[3 * MAX_VOCAB];
    size_t        v, bytes;
    batch_t       t;
    uint32_t      i;
    moe_model_t  *m;

    m = open_model(DIR_QWEN, 4, MOE_KV_F32);
    v = moe_model_vocab_size(m);
    bytes = v * sizeof(float);

    make_batch(&t, 0, 20);
    for (i = 0; i < 20; i++) {
        t.out[i] = i;
    }
    t.b.nout = 20;
    step(m, &t.b, all);

    t.out[0] = 0;
    t.out[1] = 13;
    t.out[2] = 19;
    t.b.nout = 3;
    step(m, &t.b, some);
    assert_memory_equal(some, all, bytes);
    assert_memory_equal(some + v, all + 13 * v, bytes);
    assert_memory_equal(some + 2 * v, all + 19 * v, bytes);

    moe_model_close(m);
}


static void
test_threads(void **state)
{
    float         one[MAX_VOCAB], more[MAX_VOCAB];
    size_t        bytes;
    batch_t       t;
    uint32_t      n;
    moe_err_t     err;
    moe_model_t  *m;

    m = open_model(DIR_V3, 4, MOE_KV_F32);
    bytes = moe_model_vocab_size(m) * sizeof(float);
    make_batch(&t, 0, 30);
    step(m, &t.b, one);

    for (n = 0; n < 6; n++) {
        assert_int_equal(moe_model_set_threads(m, n, &err), 0);
        step(m, &t.b, more);
        assert_memory_equal(one, more, bytes);
    }

    assert_int_equal(moe_model_set_threads(m, 100000, &err), -1);
    step(m, &t.b, more);
    assert_memory_equal(one, more, bytes);

    moe_model_close(m);
}


static void
fingerprint(const char *dir, const char *kernels, moe_kv_format_e format,
    uint8_t out[32])
{
    moe_model_t          *m;
    moe_model_options_t   o = { .threads = 1, .kernels = kernels,
                                .kv_format = format };

    m = moe_model_open(dir, &o, NULL, NULL, NULL);
    assert_non_null(m);
    moe_model_fingerprint(m, out);
    moe_model_close(m);
}


static void
write_file(const char *path, const void *data, size_t size)
{
    FILE  *f;

    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
}


/* flip: 0, or the offset of a byte of which a bit changes on the way */
static void
copy_file(const char *from, const char *to, uint64_t flip)
{
    long     n;
    FILE    *f;
    char    *buf;

    f = fopen(from, "rb");
    assert_non_null(f);
    assert_int_equal(fseek(f, 0, SEEK_END), 0);
    n = ftell(f);
    rewind(f);
    buf = malloc((size_t) n);
    assert_int_equal(fread(buf, 1, (size_t) n, f), n);
    fclose(f);

    if (flip) {
        buf[flip] ^= 1;
    }

    write_file(to, buf, (size_t) n);
    free(buf);
}


/* where the third byte of DIR_V3's tensor is in its file */
static uint64_t
offset_of(const char *name)
{
    uint64_t                at;
    moe_st_t               *st;
    const moe_st_tensor_t  *t;

    st = moe_st_open(DIR_V3, NULL);
    assert_non_null(st);
    t = moe_st_find(st, name);
    assert_non_null(t);
    at = t->offset + 2;
    moe_st_close(st);

    return at;
}


static void
test_fingerprint(void **state)
{
    char     dir[] = "/tmp/moe_test_model.XXXXXX", config[64], weights[64];
    uint8_t  a[32], b[32];

    fingerprint(DIR_V3, NULL, MOE_KV_F32, a);
    fingerprint(DIR_V3, "plain", MOE_KV_F32, b);
    assert_memory_equal(a, b, 32);

    fingerprint(DIR_V3, NULL, MOE_KV_BF16, b);
    assert_memory_not_equal(a, b, 32);
    fingerprint(DIR_QWEN, NULL, MOE_KV_F32, b);
    assert_memory_not_equal(a, b, 32);

    assert_non_null(mkdtemp(dir));
    snprintf(config, sizeof(config), "%s/config.json", dir);
    snprintf(weights, sizeof(weights), "%s/model.safetensors", dir);

    copy_file(DIR_V3 "/config.json", config, 0);
    copy_file(DIR_V3 "/model.safetensors", weights, 0);
    fingerprint(dir, NULL, MOE_KV_F32, b);
    assert_memory_equal(a, b, 32);

    /* any bit of a model of this size; this one is an expert's */
    copy_file(DIR_V3 "/model.safetensors", weights, offset_of(EXPERT));
    fingerprint(dir, NULL, MOE_KV_F32, b);
    assert_memory_not_equal(a, b, 32);

    unlink(config);
    unlink(weights);
    rmdir(dir);
}


/* of the weights alone, read in blocks or whole */
static void
weights_print(const char *dir, uint64_t limit, uint8_t out[32])
{
    moe_err_t   err;
    moe_st_t   *st;

    st = moe_st_open(dir, &err);
    assert_non_null(st);
    assert_int_equal(moe_fingerprint_weights(st, limit, out, &err), 0);
    moe_st_close(st);
}


/*
 * A model too large to be read whole: every tensor's content counts, experts'
 * too, and of a long tensor what lies in its blocks.  Files of one size.
 */
static void
test_fingerprint_blocks(void **state)
{
    size_t    i;
    char      dir[] = "/tmp/moe_test_model.XXXXXX", path[64];
    uint8_t  *file, a[32], b[32];

    static const char  header[] =
        "{\"a.experts.0.up\":{\"dtype\":\"F32\",\"shape\":[5242880],"
        "\"data_offsets\":[0,20971520]},"
        "\"b.norm\":{\"dtype\":\"F32\",\"shape\":[4],"
        "\"data_offsets\":[20971520,20971536]},"
        "\"c.proj\":{\"dtype\":\"F32\",\"shape\":[524288],"
        "\"data_offsets\":[20971536,23068688]}}";

    enum { SIZE = 23068688, HEADER = 8 + sizeof(header) - 1 };

    static const struct {
        size_t  at;
        int     seen;
    } cases[] = {
        { (8 << 20) - 2048, 1 },            /* expert: 16 MiB, then 4 */
        { (8 << 20) + 2047, 1 },
        { (8 << 20) + 2048, 0 },
        { (18 << 20) + 1, 1 },
        { 0, 0 },
        { 20971520, 1 },                    /* norm: all of it */
        { 20971535, 1 },
        { 20971536 + (512 << 10), 1 },      /* every MiB of a matrix */
        { 20971536 + (1536 << 10), 1 },
        { SIZE - 1, 0 },
    };

    file = calloc(1, HEADER + SIZE);
    assert_non_null(file);
    file[0] = (uint8_t) (HEADER - 8);
    file[1] = (uint8_t) ((HEADER - 8) >> 8);
    memcpy(file + 8, header, HEADER - 8);

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/model.safetensors", dir);

    write_file(path, file, HEADER + SIZE);
    weights_print(dir, 0, a);
    weights_print(dir, HEADER + SIZE - 1, b);
    assert_memory_equal(a, b, 32);
    weights_print(dir, HEADER + SIZE, b);
    assert_memory_not_equal(a, b, 32);

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        file[HEADER + cases[i].at] ^= 1;
        write_file(path, file, HEADER + SIZE);
        file[HEADER + cases[i].at] ^= 1;

        weights_print(dir, 0, b);

        if ((memcmp(a, b, 32) != 0) != cases[i].seen) {
            fail_msg("byte %zu: %s", cases[i].at,
                     cases[i].seen ? "not seen" : "seen");
        }
    }

    free(file);
    unlink(path);
    rmdir(dir);
}


static int
give_up(void *ctx, const char *what, uint32_t percent)
{
    uint32_t  *calls = ctx;

    assert_non_null(what);
    assert_true(percent <= 100);

    return (*calls)-- == 0;
}


static void
test_opening(void **state)
{
    uint32_t             i, calls;
    moe_err_t            err;
    moe_model_t         *m;
    moe_model_options_t  o = { .threads = 1 };

    /* given up at each report, until it is not */
    for (i = 0; i < 50; i++) {
        calls = i;
        m = moe_model_open(DIR_V3, &o, give_up, &calls, &err);
        if (m != NULL) {
            break;
        }
        assert_non_null(strstr(err.text, "given up"));
    }

    assert_non_null(m);
    assert_true(i > 2);
    moe_model_close(m);

    assert_null(moe_model_open("t/golden/none", &o, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "config.json"));

    o.kernels = "abacus";
    assert_null(moe_model_open(DIR_V3, &o, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "abacus"));

    o = (moe_model_options_t) { .max_rows = 1 << 20 };
    assert_null(moe_model_open(DIR_V3, &o, NULL, NULL, &err));

    moe_model_close(NULL);
}


static void
test_rope_angles(void **state)
{
    int         i, j;
    float       freq[32], cos_[32], sin_[32];
    double      want, angle;
    uint32_t    pos;
    moe_rope_t  rope = { .type = MOE_ROPE_DEFAULT, .dim = 64, .theta = 1e6,
                         .attn_factor = 1 };

    moe_rope_frequencies(&rope, freq);

    for (i = 0; i < 32; i++) {
        want = pow(1e6, -2.0 * i / 64);
        assert_true(fabs((double) freq[i] - want) < want * 1e-7);
    }

    for (j = 0; j < 2000; j++) {
        pos = j < 1000 ? (uint32_t) j
                       : (uint32_t) j * 7919u % MOE_MAX_POSITIONS;
        moe_rope_angles(freq, 32, 1, &pos, 1, cos_, sin_);

        for (i = 0; i < 32; i++) {
            angle = (double) ((float) pos * freq[i]);
            assert_true(fabs((double) cos_[i] - cos(angle)) < 6e-8);
            assert_true(fabs((double) sin_[i] - sin(angle)) < 6e-8);
        }
    }
}


/* between the two ends of YaRN's ramp frequencies fall from their own to
 * their own divided by the factor */
static void
test_rope_yarn(void **state)
{
    int         i;
    float       plain[32], yarn[32];
    moe_rope_t  rope = {
        .type = MOE_ROPE_DEFAULT, .dim = 64, .theta = 10000, .factor = 40,
        .beta_fast = 32, .beta_slow = 1, .original_max_positions = 4096,
        .truncate = 1, .attn_factor = 1
    };

    moe_rope_frequencies(&rope, plain);
    rope.type = MOE_ROPE_YARN;
    moe_rope_frequencies(&rope, yarn);

    for (i = 0; i < 32; i++) {
        /* 4096 positions turn 32 times at dimension 10.47, once at 22.5 */
        if (i <= 10) {
            assert_true(yarn[i] == plain[i]);
        } else if (i >= 23) {
            assert_true(fabsf(yarn[i] * 40 / plain[i] - 1) < 1e-6f);
        } else {
            assert_true(yarn[i] < plain[i] && yarn[i] * 40 > plain[i]);
        }
    }
}


static void
exchange_once(moe_row_format_e format)
{
    float                 rows[4][3], *out;
    uint32_t              i, j, s, e;
    uint64_t              late;
    moe_err_t             err;
    moe_exchange_t       *x;
    moe_expert_work_t     work;
    moe_expert_result_t   result;
    moe_exchange_shape_t  shape = { .max_rows = 4, .hidden = 3,
                                    .n_experts = 6, .top_k = 2,
                                    .format = format };
    static const uint32_t chosen[8] = { 5, 0, 2, 5, 0, 2, 5, 4 };

    x = moe_exchange_local(&shape, &err);
    assert_non_null(x);

    for (i = 0; i < 12; i++) {
        rows[i / 3][i % 3] = (float) i + 0x1.01p-8f;
    }

    assert_int_equal(x->ops->begin(x, 5, 0, &late, &err),
                     MOE_EXCHANGE_ERROR);
    assert_int_equal(x->ops->begin(x, 4, 0, &late, &err), MOE_EXCHANGE_OK);
    assert_int_equal(x->ops->dispatch(x, 0, 4, rows[0], chosen, 0, &work,
                                      &late, &err), MOE_EXCHANGE_OK);

    assert_int_equal(work.nrows, 8);
    assert_int_equal(work.nexperts, 4);

    for (e = 0, s = 0; e < work.nexperts; e++) {
        assert_int_equal(work.experts[e].first, s);
        s += work.experts[e].nrows;

        for (i = work.experts[e].first; i < s; i++) {
            for (j = 0; j < 3; j++) {
                work.out[i * 3 + j] = work.rows[i * 3 + j]
                    + (float) work.experts[e].expert * 100
                    + 0x1.01p-8f;
            }
        }
    }

    assert_int_equal(s, 8);
    assert_int_equal(x->ops->combine(x, 0, 0, &result, &late, &err),
                     MOE_EXCHANGE_OK);

    for (i = 0; i < 8; i++) {
        out = (float *) result.y + result.at[i] * 3;
        for (j = 0; j < 3; j++) {
            float  want = rows[i / 2][j];

            moe_row_format_apply(format, &want, &want, 1);
            want = want + (float) chosen[i] * 100 + 0x1.01p-8f;
            moe_row_format_apply(format, &want, &want, 1);
            assert_true(out[j] == want);
        }
    }

    assert_int_equal(x->ops->dispatch(x, 0, 2, rows[0],
                                      (uint32_t[4]) { 0, 1, 6 }, 0, &work,
                                      &late, &err), MOE_EXCHANGE_ERROR);
    assert_int_equal(x->ops->dispatch(x, 0, 5, rows[0], chosen, 0, &work,
                                      &late, &err), MOE_EXCHANGE_ERROR);
    assert_int_equal(x->ops->dispatch(x, 0, 0, rows[0], chosen, 0, &work,
                                      &late, &err), MOE_EXCHANGE_OK);
    assert_int_equal(work.nexperts, 0);
    x->ops->close(x);
}


static void
test_exchange(void **state)
{
    float  x = 1 + 0x1p-8f, y = NAN;

    exchange_once(MOE_ROWS_F32);
    exchange_once(MOE_ROWS_BF16);

    moe_row_format_apply(MOE_ROWS_BF16, &x, &x, 1);
    assert_true(x == 1);
    x = 1 + 0x1.8p-7f;
    moe_row_format_apply(MOE_ROWS_BF16, &x, &x, 1);
    assert_true(x == 1 + 0x1p-6f);
    moe_row_format_apply(MOE_ROWS_BF16, &y, &y, 1);
    assert_true(isnan(y));
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_opening),
        cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_pages_stay_through_resize),
        cmocka_unit_test(test_rows_asked_for),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_fingerprint_blocks),
        cmocka_unit_test(test_rope_angles),
        cmocka_unit_test(test_rope_yarn),
        cmocka_unit_test(test_exchange)
    };

    return cmocka_run_group_tests_name("model", tests, NULL, NULL);
}
