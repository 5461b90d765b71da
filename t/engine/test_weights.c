#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/file.h"
#include "model/fused.h"
#include "model/weights.h"


#define GOLDEN  "t/golden/"


static moe_err_t     err;
static moe_config_t  cfg;


static moe_weights_t *
load(const char *name)
{
    char            dir[256];
    moe_weights_t  *w;

    snprintf(dir, sizeof(dir), GOLDEN "%s", name);

    if (moe_config_load(dir, &cfg, &err) != 0
        || (w = moe_weights_load(dir, &cfg, &err)) == NULL)
    {
        fail_msg("%s: %s", name, err.text);
        return NULL;
    }

    return w;
}


static void
has(const moe_tensor_t *t, int rows, int cols)
{
    assert_non_null(t->data);
    assert_int_equal(t->rows, rows);
    assert_int_equal(t->cols, cols);
    assert_int_equal((uintptr_t) t->data % moe_dtype_size(t->dtype), 0);
}


static void
test_families(void **state)
{
    size_t          i;
    uint64_t        n;
    moe_params_t    p;
    moe_weights_t  *w;

    static const char *const  names[] = {
        "v2", "v2-lite", "v3", "v3-bf16", "v3-noshared", "v3-odd", "v3-yarn",
        "qwen3-moe", "qwen3-moe-yarn", "qwen2-moe", "mixtral", "olmoe",
        "gpt-oss", "gpt-oss-mxfp4"
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        w = load(names[i]);
        moe_params(&cfg, &p);
        n = (uint64_t) cfg.vocab * (uint64_t) cfg.hidden;

        has(&w->embed, cfg.vocab, cfg.hidden);
        has(&w->head, cfg.vocab, cfg.hidden);
        has(&w->norm, 1, cfg.hidden);
        assert_int_equal(cfg.tie_embeddings, w->head.data == w->embed.data);
        assert_int_equal(p.embed, cfg.tie_embeddings ? n : 2 * n);
        assert_int_equal(w->n_unused, 0);

        /* what is counted without files is what is in them */
        if (w->embed.dtype == MOE_DTYPE_F32) {
            assert_int_equal(w->bytes, p.total * 4);
        }

        assert_int_equal(w->n_used + w->n_mtp, moe_st_count(w->st));
        moe_weights_free(w);
    }
}


/* a part in memory as it is in the file, also packed: bits are the same but
 * for the order of rounding, of which there is none */
static void
same_part(const moe_st_tensor_t *f, moe_dtype_e type, uint64_t size)
{
    int            r;
    void          *mem;
    float         *want, *got;
    moe_tensor_t   from, to;

    from = moe_part_tensor(f);
    mem = aligned_alloc(64, (size_t) (size + 63) / 64 * 64);
    want = malloc((size_t) from.cols * sizeof(float));
    got = malloc((size_t) from.cols * sizeof(float));

    assert_int_equal(moe_part_fill(f, type, mem), 0);
    to = (moe_tensor_t) { .data = mem, .dtype = type, .rows = from.rows,
                          .cols = from.cols };

    for (r = 0; r < from.rows; r++) {
        moe_tensor_to_f32(&from, r, 1, want);
        moe_tensor_to_f32(&to, r, 1, got);
        assert_memory_equal(want, got, (size_t) from.cols * sizeof(float));
    }

    free(mem);
    free(want);
    free(got);
}


/* every part of both ways to keep experts */
static void
test_parts(void **state)
{
    int                     d, parts;
    char                    dir[256];
    size_t                  i;
    uint64_t                size;
    moe_st_t               *st;
    moe_dtype_e             type;
    const moe_st_tensor_t  *f;

    static const char *const  dirs[] = { "gpt-oss", "gpt-oss-mxfp4" };

    for (d = 0; d < 2; d++) {
        snprintf(dir, sizeof(dir), GOLDEN "%s", dirs[d]);
        assert_int_equal(moe_config_load(dir, &cfg, &err), 0);
        st = moe_st_open(dir, &err);
        assert_non_null(st);
        assert_int_equal(moe_fused_split(st, &cfg, &err), 0);
        parts = 0;

        for (i = 0; (f = moe_st_at(st, i)) != NULL; i++) {
            if (!moe_is_part(f)) {
                assert_null(strstr(f->name, ".experts."));
                continue;
            }

            parts++;
            type = moe_part_type(f, 1, &size);
            same_part(f, type, size);

            if (f->dtype == MOE_DTYPE_MXFP4) {
                assert_int_equal(type, MOE_DTYPE_BF16);
                assert_int_equal(moe_part_type(f, 0, &size),
                                 MOE_DTYPE_MX4_G32);
                same_part(f, MOE_DTYPE_MX4_G32, size);
            }
        }

        assert_int_equal(parts, 6 * cfg.n_layers * cfg.n_experts);
        moe_st_close(st);
    }
}


/* tensors of other shapes than the configuration's */
static void
test_parts_refuse(void **state)
{
    size_t     i;
    char       dir[256];
    moe_st_t  *st;

    static const struct {
        const char  *dir;
        int          experts;
        int          ffn;
        int          hidden;
        const char  *what;
    } cases[] = {
        { "gpt-oss", 1, 0, 0, "not the shape of all experts' " },
        { "gpt-oss", 0, 1, 0, "not the shape of all experts' " },
        { "gpt-oss-mxfp4", 1, 0, 0, "not the shape of all experts' " },
        { "gpt-oss-mxfp4", 0, 32, 0, "not the shape of all experts' " },
        { "gpt-oss-mxfp4", 0, 0, 1, "not the shape of all experts' " }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(dir, sizeof(dir), GOLDEN "%s", cases[i].dir);
        assert_int_equal(moe_config_load(dir, &cfg, &err), 0);
        cfg.n_experts += cases[i].experts;
        cfg.moe_ffn += cases[i].ffn;
        cfg.hidden += cases[i].hidden;

        st = moe_st_open(dir, &err);
        assert_non_null(st);
        assert_int_equal(moe_fused_split(st, &cfg, &err), -1);
        assert_non_null(strstr(err.text, cases[i].what));
        assert_non_null(strstr(err.text, ".experts."));
        moe_st_close(st);
    }
}


static void
test_tensors_of_mla(void **state)
{
    int                         heads;
    moe_weights_t              *w;
    const moe_layer_weights_t  *l;

    w = load("v3");
    heads = cfg.n_heads;
    l = &w->layers[cfg.n_layers - 1];

    assert_true(cfg.is_moe[cfg.n_layers - 1]);
    has(&l->attn_norm, 1, cfg.hidden);
    has(&l->ffn_norm, 1, cfg.hidden);
    has(&l->q_a, cfg.q_lora_rank, cfg.hidden);
    has(&l->q_a_norm, 1, cfg.q_lora_rank);
    has(&l->q_b, heads * cfg.head_dim, cfg.q_lora_rank);
    has(&l->kv_a, cfg.kv_lora_rank + cfg.qk_rope_head_dim, cfg.hidden);
    has(&l->kv_a_norm, 1, cfg.kv_lora_rank);
    has(&l->kv_b, heads * (cfg.qk_nope_head_dim + cfg.v_head_dim),
        cfg.kv_lora_rank);
    has(&l->o, cfg.hidden, heads * cfg.v_head_dim);
    has(&l->router, cfg.n_experts, cfg.hidden);
    has(&l->router_bias, 1, cfg.n_experts);
    has(&l->experts[cfg.n_experts - 1].gate, cfg.moe_ffn, cfg.hidden);
    has(&l->experts[0].up, cfg.moe_ffn, cfg.hidden);
    has(&l->experts[0].down, cfg.hidden, cfg.moe_ffn);
    has(&l->shared.down, cfg.hidden, cfg.shared_ffn);

    assert_null(l->q.data);
    assert_null(l->k.data);
    assert_null(l->q_norm.data);
    assert_null(l->dense.gate.data);
    assert_null(l->shared_gate.data);

    assert_false(cfg.is_moe[0]);
    has(&w->layers[0].dense.gate, cfg.dense_ffn, cfg.hidden);
    assert_null(w->layers[0].experts);
    assert_null(w->layers[0].router.data);
    moe_weights_free(w);

    w = load("v2-lite");
    has(&w->layers[0].q, cfg.n_heads * cfg.head_dim, cfg.hidden);
    assert_null(w->layers[0].q_a.data);
    assert_int_equal(moe_st_files(w->st), 2);
    moe_weights_free(w);
}


static void
test_tensors_of_gqa(void **state)
{
    int                         q, kv;
    moe_weights_t              *w;
    const moe_layer_weights_t  *l;

    w = load("qwen2-moe");
    q = cfg.n_heads * cfg.head_dim;
    kv = cfg.n_kv_heads * cfg.head_dim;
    l = &w->layers[cfg.n_layers - 1];

    has(&l->q, q, cfg.hidden);
    has(&l->k, kv, cfg.hidden);
    has(&l->v, kv, cfg.hidden);
    has(&l->q_bias, 1, q);
    has(&l->k_bias, 1, kv);
    has(&l->v_bias, 1, kv);
    has(&l->o, cfg.hidden, q);
    has(&l->shared.gate, cfg.shared_ffn, cfg.hidden);
    has(&l->shared_gate, 1, cfg.hidden);
    assert_null(l->q_norm.data);
    assert_null(l->router_bias.data);
    moe_weights_free(w);

    w = load("qwen3-moe");
    l = &w->layers[0];
    has(&l->q_norm, 1, cfg.head_dim);
    has(&l->k_norm, 1, cfg.head_dim);
    assert_null(l->q_bias.data);
    moe_weights_free(w);

    w = load("olmoe");
    l = &w->layers[0];
    has(&l->q_norm, 1, cfg.n_heads * cfg.head_dim);
    has(&l->k_norm, 1, cfg.n_kv_heads * cfg.head_dim);
    assert_null(l->shared.gate.data);
    moe_weights_free(w);
}


static void
test_fp8(void **state)
{
    int             c, r;
    float          *row;
    moe_tensor_t   *t;
    moe_weights_t  *w;

    w = load("v3-fp8");
    t = &w->layers[0].q_a;
    assert_int_equal(cfg.quant, MOE_QUANT_FP8_BLOCK);
    assert_int_equal(t->dtype, MOE_DTYPE_F8_E4M3);
    assert_int_equal(t->scale_cols, (t->cols + 127) / 128);
    assert_non_null(t->scale_inv);
    assert_int_equal((uintptr_t) t->scale_inv % 4, 0);

    row = malloc((size_t) t->cols * 2 * sizeof(float));
    assert_non_null(row);
    r = t->rows - 2;
    moe_tensor_to_f32(t, r, 2, row);

    for (c = 0; c < t->cols; c++) {
        assert_true(isfinite(row[c]));
        assert_true(fabsf(row[c])
                    <= 448 * t->scale_inv[r / 128 * t->scale_cols + c / 128]);
    }

    free(row);
    moe_weights_free(w);
}


/* all values of the small types, by their definitions */
static void
test_conversions(void **state)
{
    int            i, exp, man;
    float          out, scale[2] = { 1, 0.5f };
    double         want;
    uint8_t        b, many[300];
    uint16_t       h;
    float          wide[300];
    moe_tensor_t   t;

    memset(&t, 0, sizeof(t));
    t.rows = 1;
    t.cols = 1;
    t.dtype = MOE_DTYPE_F16;
    t.data = &h;

    for (i = 0; i < 65536; i++) {
        h = (uint16_t) i;
        exp = i >> 10 & 31;
        man = i & 1023;
        want = exp == 31 ? (man ? NAN : INFINITY)
               : exp == 0 ? ldexp(man, -24) : ldexp(1024 + man, exp - 25);
        want = i & 0x8000 ? -want : want;
        moe_tensor_to_f32(&t, 0, 1, &out);
        assert_true(isnan(want) ? isnan(out) : (double) out == want);
        assert_true(isnan(want) || !signbit(out) == !signbit(want));
    }

    t.dtype = MOE_DTYPE_BF16;
    h = 0xc0a0;
    moe_tensor_to_f32(&t, 0, 1, &out);
    assert_true(out == -5);

    t.dtype = MOE_DTYPE_F32;
    t.data = scale;
    t.rows = 2;
    moe_tensor_to_f32(&t, 1, 1, &out);
    assert_true(out == 0.5f);

    t.dtype = MOE_DTYPE_F8_E4M3;
    t.data = &b;
    t.scale_inv = scale;
    t.scale_cols = 1;

    for (i = 0; i < 256; i++) {
        b = (uint8_t) i;
        exp = i >> 3 & 15;
        man = i & 7;
        want = exp == 15 && man == 7 ? NAN
               : exp == 0 ? ldexp(man, -9) : ldexp(8 + man, exp - 10);
        want = i & 0x80 ? -want : want;
        moe_tensor_to_f32(&t, 0, 1, &out);
        assert_true(isnan(want) ? isnan(out) : (double) out == want);
    }

    /* 150 columns: the second block is another scale's */
    memset(many, 0x38, sizeof(many));       /* 1.0 */
    t.data = many;
    t.rows = 2;
    t.cols = 150;
    t.scale_cols = 2;
    moe_tensor_to_f32(&t, 0, 2, wide);
    assert_true(wide[127] == 1 && wide[128] == 0.5f);
    assert_true(wide[150] == 1 && wide[299] == 0.5f);
}


/* --- the golden file, with its header changed in place --- */

static char   *file;
static size_t  file_size;


static int
read_golden(void **state)
{
    assert_int_equal(moe_config_load(GOLDEN "v3-fp8", &cfg, &err), 0);
    file = moe_file_read(GOLDEN "v3-fp8/model.safetensors", 1 << 26,
                         &file_size, NULL, &err);

    return file != NULL ? 0 : -1;
}


static int
free_golden(void **state)
{
    free(file);

    return 0;
}


/* replaces each a by b, which are equally long */
static void
change(const char *a, const char *b)
{
    int     n;
    char   *p, *end;
    size_t  len;

    assert_int_equal(strlen(a), strlen(b));
    len = strlen(a);
    n = 0;
    end = file + 8 + *(uint32_t *) (void *) file - len;

    for (p = file + 8; p <= end; p++) {
        if (memcmp(p, a, len) == 0) {
            memcpy(p, b, len);
            n++;
        }
    }

    if (n == 0) {
        fail_msg("the golden header has no \"%s\"", a);
    }
}


static moe_weights_t *
bind(const void *data)
{
    moe_st_t  *st;

    st = moe_st_open_memory(data, file_size, "golden", &err);

    if (st == NULL) {
        fail_msg("%s", err.text);
    }

    return moe_weights_bind(st, &cfg, &err);
}


static void
refuses(const char *message)
{
    moe_weights_t  *w;

    w = bind(file);

    if (w != NULL) {
        fail_msg("accepted, not \"%s\"", message);
    }

    if (strstr(err.text, message) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, message);
    }
}


static void
test_missing(void **state)
{
    change("\"model.layers.1.self_attn.q_a_proj.weight\"",
           "\"model.layers.1.self_attn.q_a_proj.weighT\"");
    refuses("tensor \"model.layers.1.self_attn.q_a_proj.weight\" is missing");
}


static void
test_missing_scale(void **state)
{
    change("experts.0.up_proj.weight_scale_inv",
           "experts.0.up_proj.weight_scale_inV");
    refuses("experts.0.up_proj.weight_scale_inv\" is missing");
}


static void
test_missing_bias(void **state)
{
    change("e_score_correction_bias", "e_score_correction_biaS");
    refuses("e_score_correction_bias\" is missing");
}


static void
test_wrong_shape(void **state)
{
    cfg.moe_ffn++;
    refuses("experts.0.gate_proj.weight\" at offset");
    assert_non_null(strstr(err.text, "golden: tensor"));
    assert_non_null(strstr(err.text, "but config.json makes it ["));
    cfg.moe_ffn--;

    cfg.vocab++;
    refuses("model.embed_tokens.weight");
    cfg.vocab--;

    cfg.n_experts++;
    refuses("gate.weight");
    cfg.n_experts--;
}


static void
test_wrong_type(void **state)
{
    cfg.quant = MOE_QUANT_NONE;
    refuses("without FP8 quantization_config");
    cfg.quant = MOE_QUANT_FP8_BLOCK;

    change("\"F8_E4M3\"", "\"F8_E5M2\"");
    refuses("type F8_E5M2 cannot be used");
}


/* the golden's scales are cut to bf16 where they lie in memory */
static void
test_bf16_scales(void **state)
{
    size_t            i, j, n;
    float             first;
    moe_st_t         *st;
    moe_weights_t    *w;
    moe_st_tensor_t  *t;

    st = moe_st_open_memory((uint8_t *) file, file_size, "golden", &err);
    assert_non_null(st);
    w = moe_weights_bind(st, &cfg, &err);
    assert_non_null(w);
    first = w->layers[0].q_a.scale_inv[0];

    for (i = 0; (t = (moe_st_tensor_t *) moe_st_at(st, i)) != NULL; i++) {
        if (strstr(t->name, "weight_scale_inv") == NULL) {
            continue;
        }

        n = t->size / 4;

        for (j = 0; j < n; j++) {
            memcpy((char *) t->data + 2 * j, t->data + 4 * j + 2, 2);
        }

        t->dtype = MOE_DTYPE_BF16;
        t->size = n * 2;
    }

    w->st = NULL;
    moe_weights_free(w);

    w = moe_weights_bind(st, &cfg, &err);
    assert_non_null(w);
    assert_true(w->n_copies > 0);
    assert_true(first != 0);
    assert_float_equal(w->layers[0].q_a.scale_inv[0], first,
                       fabsf(first) / 128);
    moe_weights_free(w);
}


static void
test_unused(void **state)
{
    moe_weights_t  *w;

    w = bind(file);
    assert_non_null(w);
    assert_int_equal(w->n_unused, 0);
    assert_int_equal(w->n_copies, 0);
    moe_weights_free(w);

    /* the last layer becomes the MTP layer */
    cfg.n_layers--;
    cfg.n_moe_layers--;
    w = bind(file);
    assert_non_null(w);
    assert_true(w->n_unused > 0);
    assert_int_equal(w->n_mtp, 0);
    moe_weights_free(w);

    cfg.n_mtp = 1;
    w = bind(file);
    assert_non_null(w);
    assert_int_equal(w->n_unused, 0);
    assert_true(w->n_mtp > 0);
    moe_weights_free(w);
}


/* a file whose data is not aligned is as good */
static void
test_unaligned(void **state)
{
    char           *shifted;
    float          *a, *b;
    moe_weights_t  *w, *v;

    a = calloc((size_t) cfg.hidden * 2, sizeof(float));
    assert_non_null(a);
    b = a + cfg.hidden;

    shifted = malloc(file_size + 1);
    assert_non_null(shifted);
    memcpy(shifted + 1, file, file_size);

    w = bind(file);
    v = bind(shifted + 1);
    assert_non_null(w);
    assert_non_null(v);
    assert_true(v->n_copies > 0);

    has(&v->norm, 1, cfg.hidden);
    assert_int_equal((uintptr_t) v->layers[0].q_a.scale_inv % 4, 0);

    moe_tensor_to_f32(&w->norm, 0, 1, a);
    moe_tensor_to_f32(&v->norm, 0, 1, b);
    assert_memory_equal(a, b, sizeof(float) * (size_t) cfg.hidden);
    assert_memory_equal(w->layers[0].q_a.scale_inv,
                        v->layers[0].q_a.scale_inv, 4);

    moe_weights_free(w);
    moe_weights_free(v);
    free(shifted);
    free(a);
}


#define on_golden(f)                                                          \
    cmocka_unit_test_setup_teardown(f, read_golden, free_golden)


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_parts_refuse),
        cmocka_unit_test(test_tensors_of_mla),
        cmocka_unit_test(test_tensors_of_gqa),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_conversions),
        on_golden(test_missing),
        on_golden(test_missing_scale),
        on_golden(test_missing_bias),
        on_golden(test_wrong_shape),
        on_golden(test_wrong_type),
        on_golden(test_bf16_scales),
        on_golden(test_unused),
        on_golden(test_unaligned),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
