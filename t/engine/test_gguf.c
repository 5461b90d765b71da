/*
 * GGUF: blocks against gguf.quants, files against the directories they were
 * made of (tools/goldens/make_gguf.py), and files that are not what they say.
 *
 * Run from the root of the repository.
 */

#include <jansson.h>
#include <math.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/file.h"
#include "kernels/cpu/packed.h"
#include "model/gguf_model.h"
#include "model/gguf_pack.h"
#include "model/model.h"
#include "model/weights.h"


#define GOLDEN  "t/golden/gguf/"

enum {
    ROWS = 48,
    PAGES = ROWS / MOE_PAGE_SIZE
};


/* a GGUF file that is being written */
typedef struct {
    uint8_t  data[4096];
    size_t   n;
} out_t;


static void
test_blocks(void **state)
{
    char                   *file;
    float                  *want, *got;
    size_t                  len, at;
    uint32_t                h[4], i, n;
    moe_err_t               err;
    const moe_ggml_type_t  *type;

    (void) state;

    file = moe_file_read(GOLDEN "blocks.bin", 1 << 20, &len, NULL, &err);
    assert_non_null(file);

    n = 0;

    for (at = 0; at < len; n++) {
        memcpy(h, file + at, sizeof(h));
        at += sizeof(h);

        type = moe_ggml_type(h[0]);
        assert_non_null(type);
        assert_non_null(type->decode);
        assert_int_equal(type->elems, h[2]);
        assert_int_equal(type->bytes, h[3]);

        want = malloc((size_t) h[1] * h[2] * sizeof(float));
        got = malloc((size_t) h[1] * h[2] * sizeof(float));
        memcpy(want, file + at + h[1] * h[3], h[1] * h[2] * sizeof(float));

        type->decode((uint8_t *) file + at, h[1], got);

        for (i = 0; i < h[1] * h[2]; i++) {
            if (memcmp(&want[i], &got[i], sizeof(float)) != 0
                && !(isnan(want[i]) && isnan(got[i])))
            {
                fail_msg("%s: element %u: %.9g, not %.9g", type->name, i,
                         (double) got[i], (double) want[i]);
            }
        }

        at += h[1] * h[3] + h[1] * h[2] * sizeof(float);
        free(want);
        free(got);
    }

    assert_int_equal(n, 12);
    free(file);
}


static void
test_bf16(void **state)
{
    (void) state;

    assert_int_equal(moe_bf16_of(1), 0x3f80);
    assert_int_equal(moe_bf16_of(1 + 0x1p-8f), 0x3f80);
    assert_int_equal(moe_bf16_of(1 + 0x1.8p-7f), 0x3f82);
    assert_int_equal(moe_bf16_of(-0x1.ffp-3f), 0xbe80);
    assert_int_equal(moe_bf16_of(INFINITY), 0x7f80);
    assert_true(moe_bf16_of(NAN) > 0x7f80);
}


static float *
logits_of(const char *path)
{
    float                *out;
    uint8_t               role[ROWS];
    uint32_t              i, ids[ROWS], pos[ROWS], seq[ROWS], table[PAGES];
    moe_err_t             err;
    moe_model_t          *m;
    const uint32_t       *tables[1] = { table };
    moe_batch_t           b = { ROWS, ids, pos, seq, role, 1, tables, ROWS,
                                pos };
    moe_model_options_t   o = { .threads = 2, .kv_pages = PAGES };

    m = moe_model_open(path, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s", err.text);
    }

    for (i = 0; i < ROWS; i++) {
        ids[i] = (i * 37 + 11) % 32;
        pos[i] = i;
        seq[i] = 0;
        role[i] = MOE_ROLE_PROMPT;
    }

    for (i = 0; i < PAGES; i++) {
        table[i] = i;
    }

    out = malloc(ROWS * moe_model_vocab_size(m) * sizeof(float));

    if (moe_model_step(m, &b, out, &err) != 0) {
        fail_msg("%s: %s", path, err.text);
    }

    moe_model_close(m);

    return out;
}


static void
same_config(const char *name, const moe_config_t *a, const moe_config_t *b)
{
    size_t  i;

#define SAME(member)                                                         \
    if (a->member != b->member) {                                            \
        fail_msg("%s: " #member " is %g, not %g", name, (double) a->member,  \
                 (double) b->member);                                        \
    }

    SAME(family) SAME(attn) SAME(n_layers) SAME(hidden) SAME(vocab)
    SAME(max_positions) SAME(n_heads) SAME(n_kv_heads) SAME(head_dim)
    SAME(qkv_bias) SAME(qk_norm) SAME(clip_qkv) SAME(q_lora_rank)
    SAME(kv_lora_rank) SAME(qk_nope_head_dim) SAME(qk_rope_head_dim)
    SAME(v_head_dim) SAME(attn_scale) SAME(rope.type) SAME(rope.interleave)
    SAME(rope.dim) SAME(rope.theta) SAME(rope.factor) SAME(rope.beta_fast)
    SAME(rope.beta_slow) SAME(rope.original_max_positions)
    SAME(rope.truncate) SAME(rope.attn_factor) SAME(moe_ffn) SAME(n_experts)
    SAME(top_k) SAME(shared_ffn) SAME(shared_gate) SAME(score) SAME(topk)
    SAME(n_group) SAME(topk_group) SAME(norm_topk) SAME(topk_eps)
    SAME(routed_scale) SAME(router_bias) SAME(rms_eps) SAME(tie_embeddings)
    SAME(o_bias) SAME(sinks) SAME(window) SAME(logit_bias) SAME(ffn_bias)
    SAME(swiglu_limit) SAME(swiglu_alpha)
    SAME(bos) SAME(n_eos) SAME(eos[0]) SAME(n_moe_layers)

    for (i = 0; i < MOE_MAX_LAYERS; i++) {
        SAME(is_moe[i]) SAME(sliding[i])
    }
}


/* a file is its directory: configuration, and the bits of all logits */
static void
test_models(void **state)
{
    char          dir[128], path[128];
    float        *a, *b;
    size_t        i;
    moe_err_t     err;
    moe_config_t  ca, cb;

    static const char *const  names[][2] = {
        { "v3", "v3" }, { "v2", "v2" }, { "v2-lite", "v2-lite" },
        { "v2-lite", "v2-lite-old" }, { "qwen3moe", "qwen3moe" },
        { "qwen2moe", "qwen2moe" }, { "mixtral", "mixtral" },
        { "olmoe", "olmoe" }, { "mixtral", "mixtral-apart" },
        { "qwen3moe", "qwen3moe-joined" }, { "gpt-oss", "gpt-oss" }
    };

    (void) state;

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        snprintf(dir, sizeof(dir), GOLDEN "%s", names[i][0]);
        snprintf(path, sizeof(path), GOLDEN "%s.gguf", names[i][1]);

        if (moe_config_load(dir, &ca, &err) != 0
            || moe_config_load(path, &cb, &err) != 0
            || moe_config_check(&cb, &err) != 0)
        {
            fail_msg("%s", err.text);
        }

        same_config(names[i][1], &cb, &ca);

        a = logits_of(dir);
        b = logits_of(path);

        if (memcmp(a, b, (size_t) ROWS * (size_t) ca.vocab * sizeof(float))
            != 0)
        {
            fail_msg("%s: other logits than the directory's", path);
        }

        free(a);
        free(b);
    }
}


static void
same_sum(const char *name, const moe_tensor_t *t, size_t n, const json_t *sums)
{
    char           hex[65];
    float         *values;
    size_t         i, each;
    uint8_t        sum[32];
    const char    *want;

    each = (size_t) t->rows * (size_t) t->cols;
    values = malloc(n * each * sizeof(float));

    /* experts lie one moe_ffn_t apart */
    for (i = 0; i < n; i++) {
        moe_tensor_to_f32((const moe_tensor_t *) ((const char *) t
                                                  + i * sizeof(moe_ffn_t)),
                          0, t->rows, values + i * each);
    }

    EVP_Digest(values, n * each * sizeof(float), sum, NULL, EVP_sha256(),
               NULL);

    for (i = 0; i < 32; i++) {
        snprintf(hex + 2 * i, 3, "%02x", sum[i]);
    }

    want = json_string_value(json_object_get(sums, name));
    assert_non_null(want);

    if (strcmp(hex, want) != 0) {
        fail_msg("mixed.gguf: %s has other values", name);
    }

    free(values);
}


/* all types in one model */
static void
test_mixed(void **state)
{
    float                *out;
    json_t               *sums;
    uint32_t              i;
    moe_err_t             err;
    moe_config_t          cfg;
    moe_weights_t        *w = NULL;
    moe_layer_weights_t  *l;

    (void) state;

    w = NULL;
    sums = json_load_file(GOLDEN "mixed.json", 0, NULL);
    assert_non_null(sums);

    if (moe_config_load(GOLDEN "mixed.gguf", &cfg, &err) != 0
        || (w = moe_weights_load(GOLDEN "mixed.gguf", &cfg, &err)) == NULL)
    {
        fail_msg("%s", err.text);
    }

    l = w->layers;
    assert_int_equal(w->n_unused, 0);

    same_sum("token_embd.weight", &w->embed, 1, sums);
    same_sum("output.weight", &w->head, 1, sums);
    same_sum("output_norm.weight", &w->norm, 1, sums);
    same_sum("blk.0.attn_norm.weight", &l->attn_norm, 1, sums);
    same_sum("blk.0.attn_q.weight", &l->q, 1, sums);
    same_sum("blk.0.attn_k.weight", &l->k, 1, sums);
    same_sum("blk.0.attn_v.weight", &l->v, 1, sums);
    same_sum("blk.0.attn_output.weight", &l->o, 1, sums);
    same_sum("blk.0.ffn_gate_inp.weight", &l->router, 1, sums);
    same_sum("blk.0.ffn_gate_exps.weight", &l->experts[0].gate, 2, sums);
    same_sum("blk.0.ffn_up_exps.weight", &l->experts[0].up, 2, sums);
    same_sum("blk.0.ffn_down_exps.weight", &l->experts[0].down, 2, sums);

    moe_weights_free(w);
    json_decref(sums);

    out = logits_of(GOLDEN "mixed.gguf");

    for (i = 0; i < ROWS * 32; i++) {
        assert_true(isfinite(out[i]) && fabsf(out[i]) < 1000);
    }

    free(out);
}


/* a matrix of blocks of the goldens, packed, against its values; the rows of
 * heads of eight come back from neighbours */
static void
check_packed(uint32_t ggml, const uint8_t *blocks, moe_pool_t *pool)
{
    float                  want[1024], got[1024], most, e;
    uint8_t               *out;
    uint64_t               size;
    uint32_t               m, i, j, g, at, cols, rows;
    moe_err_t              err;
    moe_matrix_t           w;
    moe_gguf_tensor_t      s;

    memset(&s, 0, sizeof(s));
    s.name = "x";
    s.type = moe_ggml_type(ggml);
    s.ggml = ggml;
    s.data = blocks;

    /* two matrices */
    cols = s.type->elems == 256 ? 256 : 32;
    rows = 1024 / cols / 2;
    s.dims[0] = cols;

    size = moe_gguf_packed_size(&s, rows, cols);
    out = aligned_alloc(64, (size_t) size * 2);
    memset(out, 0xaa, (size_t) size * 2);

    if (moe_gguf_pack(&s, 2, rows, rows % 8 == 0 ? 8 : 0, pool, out, &err)
        != 0)
    {
        fail_msg("%s: %s", s.type->name, err.text);
    }

    s.type->decode(blocks, 1024 / s.type->elems, want);

    for (m = 0; m < 2; m++) {
        w = (moe_matrix_t) {
            .data = out + m * size,
            .type = moe_dtype_packed(moe_gguf_packed_type(&s)),
            .n = rows,
            .k = cols
        };

        for (i = 0; i < rows; i++) {
            moe_unpack_row(&w, i, got);
            at = rows % 8 == 0 ? i / 8 * 8 + i % 4 * 2 + i % 8 / 4 : i;
            at = (m * rows + at) * cols;

            for (g = 0; g < cols; g += 32) {
                most = 0;

                for (j = g; j < g + 32; j++) {
                    most = fmaxf(most, fabsf(want[at + j]));
                }

                for (j = g; j < g + 32; j++) {
                    e = fabsf(got[j] - want[at + j]);

                    if (ggml == MOE_GGML_Q4_0 || ggml == MOE_GGML_Q8_0
                        || ggml == MOE_GGML_MXFP4
                        ? e != 0 : e > most / 127 * 0.57f + 4e-6f)
                    {
                        fail_msg("%s: matrix %u [%u, %u]: %g, not %g",
                                 s.type->name, m, i, j, (double) got[j],
                                 (double) want[at + j]);
                    }
                }
            }
        }
    }

    free(out);
}


static void
test_packed(void **state)
{
    char        *file;
    size_t       len, at, i, j;
    uint8_t     *blocks;
    uint32_t     h[4];
    moe_err_t    err;
    moe_pool_t  *pool;

    (void) state;

    pool = moe_pool_create(2, &err);
    file = moe_file_read(GOLDEN "blocks.bin", 1 << 20, &len, NULL, &err);
    assert_non_null(pool);
    assert_non_null(file);

    for (at = 0; at < len; at += h[1] * h[2] * sizeof(float)) {
        memcpy(h, file + at, sizeof(h));
        at += sizeof(h);
        blocks = (uint8_t *) file + at;
        at += h[1] * h[3];

        if (h[2] == 1) {
            continue;
        }

        for (i = 0; i < h[1]; i++) {
            if (h[0] == MOE_GGML_MXFP4) {
                blocks[i * h[3]] = (uint8_t) (i % 2 ? 252 - i : i);
            }

            /* random scales are as large as float16 goes */
            for (j = 0; (h[2] == 256 || h[0] == MOE_GGML_Q4_1
                         || h[0] == MOE_GGML_Q5_0 || h[0] == MOE_GGML_Q5_1)
                        && j < 2; j++)
            {
                blocks[i * h[3] + (h[0] == MOE_GGML_Q6_K ? 209 : j * 2 + 1)]
                    &= 0x3f;
            }
        }

        check_packed(h[0], blocks, pool);
    }

    free(file);
    moe_pool_destroy(pool);
}


/* a scale that is not a number */
static void
test_packed_range(void **state)
{
    uint8_t             *out, blocks[33 * 17] = { 0 };
    moe_err_t            err;
    moe_pool_t          *pool;
    moe_gguf_tensor_t    s = {
        .name = "x",
        .type = moe_ggml_type(MOE_GGML_MXFP4),
        .ggml = MOE_GGML_MXFP4,
        .data = blocks,
        .dims = { 32 }
    };

    (void) state;

    pool = moe_pool_create(1, &err);
    assert_non_null(pool);

    out = aligned_alloc(64, 1088);
    assert_int_equal(moe_gguf_packed_size(&s, 33, 32), 1088);
    assert_int_equal(moe_gguf_pack(&s, 1, 33, 0, pool, out, &err), 0);

    blocks[32 * 17] = 254;
    assert_int_equal(moe_gguf_pack(&s, 1, 33, 0, pool, out, &err), 0);

    blocks[32 * 17] = 255;
    assert_int_equal(moe_gguf_pack(&s, 1, 33, 0, pool, out, &err), -1);
    assert_non_null(strstr(err.text, "a value is too large"));

    free(out);
    moe_pool_destroy(pool);
}


/* the tensors of a large model are packed where they are whole matrices */
static void
test_mixed_packed(void **state)
{
    json_t               *sums;
    moe_st_t             *st = NULL;
    moe_err_t             err;
    moe_gguf_t           *g;
    moe_config_t          cfg;
    moe_weights_t        *w = NULL;
    moe_layer_weights_t  *l;

    (void) state;

    sums = json_load_file(GOLDEN "mixed.json", 0, NULL);
    g = moe_gguf_open(GOLDEN "mixed.gguf", &err);

    if (g == NULL || moe_gguf_config(g, &cfg, &err) != 0
        || (st = moe_gguf_tensors(g, &cfg, 0, &err)) == NULL
        || (w = moe_weights_bind(st, &cfg, &err)) == NULL)
    {
        fail_msg("%s", err.text);
    }

    l = w->layers;

    assert_int_equal(w->embed.dtype, MOE_DTYPE_BF16);
    assert_int_equal(w->norm.dtype, MOE_DTYPE_F32);
    assert_int_equal(l->router.dtype, MOE_DTYPE_F32);
    assert_int_equal(w->head.dtype, MOE_DTYPE_I8_G32);
    assert_int_equal(l->q.dtype, MOE_DTYPE_I8_G32);
    assert_int_equal(l->experts[1].gate.dtype, MOE_DTYPE_I8_G32);
    assert_int_equal(l->o.dtype, MOE_DTYPE_I4_G32);

    same_sum("blk.0.attn_v.weight", &l->v, 1, sums);
    same_sum("blk.0.attn_output.weight", &l->o, 1, sums);
    same_sum("blk.0.ffn_up_exps.weight", &l->experts[0].up, 2, sums);
    same_sum("blk.0.ffn_down_exps.weight", &l->experts[0].down, 2, sums);

    moe_weights_free(w);
    json_decref(sums);
}


static void
put(out_t *o, const void *p, size_t n)
{
    assert_true(n <= sizeof(o->data) - o->n);
    memcpy(o->data + o->n, p, n);
    o->n += n;
}


static void
put_u32(out_t *o, uint32_t v)
{
    put(o, &v, sizeof(v));
}


static void
put_u64(out_t *o, uint64_t v)
{
    put(o, &v, sizeof(v));
}


static void
put_string(out_t *o, const char *s)
{
    put_u64(o, strlen(s));
    put(o, s, strlen(s));
}


static void
put_head(out_t *o, uint64_t tensors, uint64_t keys)
{
    o->n = 0;
    put(o, "GGUF", 4);
    put_u32(o, 3);
    put_u64(o, tensors);
    put_u64(o, keys);
}


static void
put_tensor(out_t *o, const char *name, uint64_t rows, uint64_t cols,
    uint32_t type, uint64_t offset)
{
    put_string(o, name);
    put_u32(o, 2);
    put_u64(o, cols);
    put_u64(o, rows);
    put_u32(o, type);
    put_u64(o, offset);
}


static void
pad(out_t *o, size_t data)
{
    static const uint8_t  zeros[512];

    put(o, zeros, (32 - o->n % 32) % 32 + data);
}


/* what the reader says of the bytes; NULL where it takes them */
static const char *
says(const out_t *o)
{
    uint8_t           *copy;
    moe_gguf_t        *g;
    static moe_err_t   err;

    /* of its own, so that a sanitizer sees what lies behind */
    copy = malloc(o->n ? o->n : 1);
    memcpy(copy, o->data, o->n);
    err.text[0] = '\0';

    g = moe_gguf_open_memory(copy, o->n, "file", &err);
    moe_gguf_close(g);
    free(copy);

    return g != NULL ? NULL : err.text;
}


static void
refused(const out_t *o, const char *what)
{
    const char  *text;

    text = says(o);

    if (text == NULL || strstr(text, what) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", what, text ? text : "(taken)");
    }
}


static void
put_good(out_t *o)
{
    put_head(o, 2, 3);
    put_string(o, "a.name");
    put_u32(o, MOE_GGUF_STRING);
    put_string(o, "value");
    put_string(o, "a.list");
    put_u32(o, MOE_GGUF_ARRAY);
    put_u32(o, MOE_GGUF_STRING);
    put_u64(o, 2);
    put_string(o, "one");
    put_string(o, "");
    put_string(o, "a.number");
    put_u32(o, MOE_GGUF_F32);
    put(o, &(float) { 0.1f }, 4);
    put_tensor(o, "x", 2, 32, MOE_GGML_Q8_0, 0);
    put_tensor(o, "y", 1, 4, MOE_GGML_F32, 96);
    pad(o, 96 + 16);
}


static void
test_values(void **state)
{
    out_t                     o;
    double                    d;
    size_t                    len;
    uint32_t                  u;
    uint64_t                  at;
    moe_err_t                 err;
    moe_gguf_t               *g;
    const char               *s;
    const moe_gguf_kv_t      *kv;
    const moe_gguf_tensor_t  *t;

    (void) state;

    put_good(&o);
    g = moe_gguf_open_memory(o.data, o.n, "file", &err);
    assert_non_null(g);

    assert_int_equal(moe_gguf_string(g, "a.name", &s, &len, &err), 0);
    assert_int_equal(len, 5);
    assert_memory_equal(s, "value", 5);

    assert_int_equal(moe_gguf_double(g, "a.number", &d, &err), 0);
    assert_true(d == 0.1);
    assert_int_equal(moe_gguf_double(g, "a.other", &d, &err), 1);
    assert_int_equal(moe_gguf_u32(g, "a.number", &u, &err), -1);
    assert_non_null(strstr(err.text, "a.number at offset"));
    assert_int_equal(moe_gguf_string(g, "a.list", &s, &len, &err), -1);

    assert_int_equal(moe_gguf_array(g, "a.list", &kv, &err), 0);
    assert_int_equal(kv->count, 2);
    at = 0;
    s = moe_gguf_next(kv, &at, &len);
    assert_int_equal(len, 3);
    assert_memory_equal(s, "one", 3);
    (void) moe_gguf_next(kv, &at, &len);
    assert_int_equal(len, 0);

    t = moe_gguf_tensor(g, "y");
    assert_non_null(t);
    assert_int_equal(t->size, 16);
    assert_ptr_equal(t->data + 16, o.data + o.n);
    assert_null(moe_gguf_tensor(g, "z"));

    moe_gguf_close(g);
}


/* no beginning of a file is one, and no byte turned over breaks anything */
static void
test_broken(void **state)
{
    out_t     o, cut;
    size_t    i, n;
    unsigned  bit;

    (void) state;

    put_good(&o);
    assert_null(says(&o));
    n = o.n;

    for (i = 0; i < n; i++) {
        cut = o;
        cut.n = i;
        assert_non_null(says(&cut));
    }

    for (i = 0; i < n; i++) {
        for (bit = 0; bit < 8; bit++) {
            cut = o;
            cut.data[i] ^= (uint8_t) (1u << bit);
            (void) says(&cut);
        }
    }
}


static void
test_refused(void **state)
{
    out_t  o;

    (void) state;

    o.n = 0;
    put(&o, "GGUX\3\0\0\0", 8);
    refused(&o, "not a GGUF file");

    o.n = 0;
    put(&o, "GGUF\0\0\0\3", 8);
    refused(&o, "big-endian");

    put_head(&o, 1ull << 60, 0);
    refused(&o, "tensors in a file of");

    put_head(&o, 0, 1ull << 40);
    refused(&o, "keys in a file of");

    put_head(&o, 0, 1);
    put_u64(&o, UINT64_MAX);
    pad(&o, 64);
    refused(&o, "a key at offset 24 has");

    put_head(&o, 0, 1);
    put_string(&o, "a");
    put_u32(&o, MOE_GGUF_STRING);
    put_u64(&o, UINT64_MAX - 4);
    refused(&o, "a at offset 45 is beyond the end");

    put_head(&o, 0, 1);
    put_string(&o, "a");
    put_u32(&o, 13);
    pad(&o, 0);
    refused(&o, "a: type 13 at offset 33");

    put_head(&o, 0, 1);
    put_string(&o, "a");
    put_u32(&o, MOE_GGUF_ARRAY);
    put_u32(&o, MOE_GGUF_ARRAY);
    pad(&o, 64);
    refused(&o, "a: an array of type 9");

    put_head(&o, 0, 1);
    put_string(&o, "a");
    put_u32(&o, MOE_GGUF_ARRAY);
    put_u32(&o, MOE_GGUF_U64);
    put_u64(&o, 1ull << 61);
    pad(&o, 64);
    refused(&o, "a: an array of 2305843009213693952");

    put_head(&o, 0, 1);
    put_string(&o, "a b");
    put_u32(&o, MOE_GGUF_U32);
    pad(&o, 64);
    refused(&o, "has a byte 32 in it");

    put_head(&o, 0, 2);
    put_string(&o, "a");
    put_u32(&o, MOE_GGUF_U32);
    put_u32(&o, 1);
    put_string(&o, "a");
    put_u32(&o, MOE_GGUF_U32);
    put_u32(&o, 2);
    refused(&o, "key a is there twice");

    put_head(&o, 0, 1);
    put_string(&o, "general.alignment");
    put_u32(&o, MOE_GGUF_U32);
    put_u32(&o, 24);
    refused(&o, "general.alignment is 24");

    put_head(&o, 2, 0);
    put_tensor(&o, "x", 1, 8, MOE_GGML_F32, 0);
    put_tensor(&o, "x", 1, 8, MOE_GGML_F32, 32);
    pad(&o, 64);
    refused(&o, "tensor x is there twice");

    put_head(&o, 2, 0);
    put_tensor(&o, "x", 1, 16, MOE_GGML_F32, 0);
    put_tensor(&o, "y", 1, 8, MOE_GGML_F32, 32);
    pad(&o, 64);
    refused(&o, "tensor y at offset 32 of the data lies in tensor x");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 1, 8, MOE_GGML_F32, 8);
    pad(&o, 64);
    refused(&o, "tensor x: 32 bytes at offset 8");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 1, 8, MOE_GGML_F32, UINT64_MAX - 31);
    pad(&o, 64);
    refused(&o, "tensor x: 32 bytes at offset");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 1ull << 32, 1ull << 32, MOE_GGML_F32, 0);
    pad(&o, 64);
    refused(&o, "tensor x: dimension 1");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 0, 32, MOE_GGML_F32, 0);
    pad(&o, 64);
    refused(&o, "tensor x: dimension 1");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 1, 48, MOE_GGML_Q8_0, 0);
    pad(&o, 64);
    refused(&o, "rows of 48 are no blocks of Q8_0");

    put_head(&o, 1, 0);
    put_tensor(&o, "x", 1, 32, 99, 0);
    pad(&o, 64);
    refused(&o, "type 99");
}


static void
test_architecture(void **state)
{
    out_t         o;
    moe_err_t     err;
    moe_gguf_t   *g;
    moe_config_t  cfg;

    (void) state;

    put_head(&o, 0, 1);
    put_string(&o, "general.architecture");
    put_u32(&o, MOE_GGUF_STRING);
    put_string(&o, "mamba");

    g = moe_gguf_open_memory(o.data, o.n, "file", &err);
    assert_non_null(g);
    assert_int_equal(moe_gguf_config(g, &cfg, &err), -1);
    assert_string_equal(err.text, "file: architecture \"mamba\" is not "
                        "supported");
    moe_gguf_close(g);

    put_head(&o, 0, 1);
    put_string(&o, "general.architecture");
    put_u32(&o, MOE_GGUF_STRING);
    put_string(&o, "olmoe");

    g = moe_gguf_open_memory(o.data, o.n, "file", &err);
    assert_non_null(g);
    assert_int_equal(moe_gguf_config(g, &cfg, &err), -1);
    assert_string_equal(err.text, "file: olmoe.block_count is missing");
    moe_gguf_close(g);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_bf16),
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_mixed),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_packed_range),
        cmocka_unit_test(test_mixed_packed),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_architecture)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
