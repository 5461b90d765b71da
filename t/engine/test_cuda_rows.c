/*
 * What the GPU backend does to rows that is no product, attention and sampling
 * included, against the plain C twins, bit for bit, on fresh random inputs and
 * odd sizes.
 */

#include "cuda_test.h"

#include "ep/exchange.h"
#include "kernels/cuda/permute.h"
#include "kernels/device.h"
#include "model/exchange_device.h"
#include "model/sampler.h"


static void
test_embed(void **state)
{
    float     *want, *out;
    both_t     w;
    uint32_t   i, n, rows, k, ids[64];

    need_device();

    for (n = 0; n < 8 * rounds; n++) {
        k = 1 + below(300);
        rows = 1 + below(64);
        w = random_both((moe_wtype_e) (n % 4), 50, k);

        for (i = 0; i < rows; i++) {
            ids[i] = below(50);
        }

        want = zeros((size_t) rows * k);
        out = take((size_t) rows * k * 4);
        cpu->embed(&ctx1, &w.host, ids, rows, want);
        gpu->embed(&device, &w.device, up(ids, rows * 4), rows, out);
        assert_device(want, out, (size_t) rows * k, "embed");

        free(want);
        free_both(&w);
        end();
    }
}


static void
norm_once(uint32_t rows, uint32_t groups, uint32_t n)
{
    float   *x, *w, *want, *dx, *out;
    size_t   ld, len;

    ld = (size_t) groups * n + below(4);
    len = rows * ld;
    x = random_rows(rows, ld, ld);
    w = random_rows(1, n, n);
    want = zeros(len);
    dx = up(x, len * 4);
    out = take(len * 4);

    cpu->rmsnorm(&ctx1, x, ld, groups, n, w, 1e-6f, rows, want, ld);
    gpu->rmsnorm(&device, dx, ld, groups, n, up(w, n * 4), 1e-6f, rows, out,
                 ld);
    assert_device(want, out, len, "rmsnorm");

    cpu->rmsnorm(&ctx1, x, ld, groups, n, w, 1e-5f, rows, x, ld);
    gpu->rmsnorm(&device, dx, ld, groups, n, up(w, n * 4), 1e-5f, rows, dx,
                 ld);
    assert_device(x, dx, len, "rmsnorm in place");

    free(x);
    free(w);
    free(want);
    end();
}


static void
test_rmsnorm(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 8 * rounds; i++) {
        norm_once(1 + below(9), 1 + below(4), 1 + below(300));
    }

    norm_once(2, 1, 5000 + below(3000));
}


static void
test_rope(void **state)
{
    float          *x, *cos, *sin, *dx;
    size_t          len;
    uint32_t        i, half;
    moe_rope_op_t   op;

    need_device();

    for (i = 0; i < 8 * rounds; i++) {
        half = 1 + below(40);
        op = (moe_rope_op_t) { .nrows = 1 + below(9), .heads = 1 + below(5),
                               .first = below(20), .dim = half * 2,
                               .interleave = i % 2 };
        op.head_ld = op.first + op.dim + below(5);
        op.ldx = op.heads * op.head_ld + below(5);
        len = op.nrows * op.ldx;

        x = random_rows(op.nrows, op.ldx, op.ldx);
        cos = random_rows(op.nrows, half, half);
        sin = random_rows(op.nrows, half, half);
        dx = up(x, len * 4);

        op.x = x;
        op.cos = cos;
        op.sin = sin;
        cpu->rope(&ctx1, &op);

        op.x = dx;
        op.cos = up(cos, (size_t) op.nrows * half * 4);
        op.sin = up(sin, (size_t) op.nrows * half * 4);
        gpu->rope(&device, &op);
        assert_device(x, dx, len, "rope");

        free(x);
        free(cos);
        free(sin);
        end();
    }
}


static void
test_elements(void **state)
{
    float          *a, *b, *da, *db;
    size_t          n, i;
    moe_clamped_t   c = { 1.702f, 3.0f };

    need_device();

    n = 5000 + below(1000);
    a = random_rows(1, n, n);
    b = random_rows(1, n, n);

    for (i = 0; i < n; i++) {
        a[i] *= i % 7 ? 9.0f : 120.0f;
    }

    da = up(a, n * 4);
    db = up(b, n * 4);

    cpu->silu_mul(&ctx1, a, b, n);
    gpu->silu_mul(&device, da, db, n);
    assert_device(a, da, n, "silu_mul");

    cpu->clamped_mul(&ctx1, &c, a, b, n);
    gpu->clamped_mul(&device, &c, da, db, n);
    assert_device(a, da, n, "clamped_mul");

    cpu->add(&ctx1, a, b, n);
    gpu->add(&device, da, db, n);
    assert_device(a, da, n, "add");

    cpu->clamp(&ctx1, a, 100, 40, 90, 0.3f);
    gpu->clamp(&device, da, 100, 40, 90, 0.3f);
    assert_device(a, da, n, "clamp");

    cpu->round_bf16(&ctx1, a, n);
    gpu->round_bf16(&device, da, n);
    assert_device(a, da, n, "round_bf16");

    cpu->copy(&ctx1, a + 3, 50, 60, 21, b + 5, 70);
    gpu->copy(&device, da + 3, 50, 60, 21, db + 5, 70);
    assert_device(b, db, n, "copy");

    free(a);
    free(b);
    end();
}


/* 19 rows on their way, some places left alone, and back */
static void
compare_packed(const float *x, uint32_t n)
{
    char                    *want, *out;
    float                   *back;
    size_t                   stride;
    uint32_t                 i, from[31];
    moe_pack_t               p;
    moe_row_format_e         format;
    const moe_device_ops_t  *d;

    d = moe_kernels_device(gpu);
    format = n % 2 ? MOE_ROWS_BF16 : MOE_ROWS_F32;
    stride = ((size_t) n * 4 + 63) / 64 * 64;
    want = calloc(31, stride);
    back = zeros((size_t) 31 * n);

    for (i = 0; i < 31; i++) {
        from[i] = i % 4 == 2 ? MOE_NO_ROW : (i * 11 + n) % 19;

        if (from[i] != MOE_NO_ROW) {
            moe_row_format_pack(format, want + i * stride, x + from[i] * n,
                                n);
        }
    }

    p = (moe_pack_t) { .x = up(x, (size_t) 19 * n * 4),
                       .out = out = take(31 * stride),
                       .from = up(from, sizeof(from)), .stride = stride,
                       .n = 31, .width = n, .bf16 = format == MOE_ROWS_BF16 };
    d->pack(&device, &p);
    assert_device((float *) (void *) want, (float *) (void *) out,
                  31 * stride / 4, "pack");

    for (i = 0; i < 31; i++) {
        from[i] = (i * 7 + 1) % 31;
        moe_row_format_unpack(format, back + i * n, want + from[i] * stride,
                              n);
    }

    p.x = out;
    p.out = take((size_t) 31 * n * 4);
    p.from = up(from, sizeof(from));
    d->unpack(&device, &p);
    assert_device(back, p.out, (size_t) 31 * n, "unpack");

    free(want);
    free(back);
}


static void
test_rows(void **state)
{
    float          *x, *want, *dx, *out;
    uint32_t        i, n, rows, at[40], *dat;
    moe_permute_t   p;

    need_device();

    for (n = 1; n < 400; n = n * 2 + below(9)) {
        rows = 1 + below(19);
        x = random_rows(rows, n, n);
        want = zeros((size_t) rows * n);
        dx = up(x, (size_t) rows * n * 4);
        out = take((size_t) rows * n * 4);

        for (i = 0; i < rows; i++) {
            at[i] = (i * 7 + 3) % rows;
        }

        cpu->gather(&ctx1, x, at, rows, n, want);
        gpu->gather(&device, dx, up(at, rows * 4), rows, n, out);
        assert_device(want, out, (size_t) rows * n, "gather");

        /* 38 and 7 have no common factor, so this is a permutation, but for
         * one that goes nowhere */
        for (i = 0; i < 38; i++) {
            at[i] = (i * 7 + 3) % 38;
        }

        at[below(38)] = MOE_NO_ROW;

        free(x);
        free(want);
        x = random_rows(19, n, n);
        want = zeros((size_t) 38 * n);
        dat = up(at, sizeof(at));

        p = (moe_permute_t) { .x = x, .out = want, .at = at, .n = 38,
                              .per = 2, .width = n, .bf16 = (int) n % 2 };
        cpu->permute(&ctx1, &p);
        p.x = up(x, (size_t) 19 * n * 4);
        p.out = take((size_t) 38 * n * 4);
        p.at = dat;
        gpu->permute(&device, &p);
        assert_device(want, p.out, (size_t) 38 * n, "permute");

        compare_packed(x, n);

        /* up, in place */
        for (i = 0; i < 6; i++) {
            at[i] = i * 3 + (i > 2);
        }

        dx = up(x, (size_t) 19 * n * 4);
        cpu->gather(&ctx1, x, at, 6, n, x);
        gpu->gather(&device, dx, up(at, 24), 6, n, dx);
        assert_device(x, dx, (size_t) 6 * n, "gather in place");

        free(x);
        free(want);
        end();
    }
}


static void
test_combine(void **state)
{
    float          *x, *y, *shared, *gate, *weight;
    uint32_t        i, j, at[9 * 5];
    moe_combine_t   op;

    need_device();

    for (i = 0; i < 6 * rounds; i++) {
        op = (moe_combine_t) { .nrows = 1 + below(9), .n = 1 + below(300),
                               .top_k = 1 + below(5) };

        for (j = 0; j < op.nrows * op.top_k; j++) {
            at[j] = below(9) ? below(20) : MOE_NO_ROW;
        }

        x = random_rows(op.nrows, op.n, op.n);
        y = random_rows(20, op.n, op.n);
        weight = random_rows(op.nrows, op.top_k, op.top_k);
        shared = i % 3 ? random_rows(op.nrows, op.n, op.n) : NULL;
        gate = i % 3 == 2 ? random_rows(op.nrows, 1, 1) : NULL;
        op.x = up(x, (size_t) op.nrows * op.n * 4);
        op.y = up(y, (size_t) 20 * op.n * 4);
        op.at = up(at, sizeof(at));
        op.weight = up(weight, (size_t) op.nrows * op.top_k * 4);
        op.shared = up(shared, (size_t) op.nrows * op.n * 4);
        op.gate = up(gate, op.nrows * 4);
        gpu->combine(&device, &op);

        moe_combine_t  host = op;

        host.x = x;
        host.y = y;
        host.at = at;
        host.weight = weight;
        host.shared = shared;
        host.gate = gate;
        cpu->combine(&ctx1, &host);
        assert_device(x, op.x, (size_t) op.nrows * op.n, "combine");

        free(x);
        free(y);
        free(weight);
        free(shared);
        free(gate);
        end();
    }
}


static void
route_once(uint32_t round)
{
    float        *x, *w, *bias;
    uint32_t      i, rows, *e, *de;
    float        *dw;
    uint64_t      slots[9];
    moe_route_t   r, dr;

    rows = 1 + below(9);
    r = (moe_route_t) { .score = (moe_route_score_e) (round % 3),
                        .group = (moe_route_group_e) below(3),
                        .norm = (int) below(2), .eps = 1e-20f,
                        .scale = 0.5f + fabsf(random_float()) };
    r.n_group = 1u << below(4);
    r.topk_group = 1 + below(r.n_group);
    r.n_experts = r.n_group * (1 + below(large ? 128 : 20));
    r.top_k = 1 + below(r.n_experts < 12 ? r.n_experts : 12);

    x = random_rows(rows, r.n_experts, r.n_experts);
    bias = below(2) && r.score != MOE_ROUTE_CHOSEN
           ? random_rows(1, r.n_experts, r.n_experts) : NULL;
    e = malloc((size_t) rows * r.top_k * 4);
    w = zeros((size_t) rows * r.top_k);

    /* ties */
    for (i = 0; i < rows * r.n_experts; i++) {
        x[i] = below(3) ? x[i] * 5 : (float) below(4);
    }

    /* some rows are nobody's */
    for (i = 0; i < rows; i++) {
        slots[i] = below(3) ? i : MOE_NO_SLOT;
    }

    r.slots = round % 4 ? NULL : slots;
    dr = r;
    dr.slots = up(r.slots, sizeof(slots));
    r.bias = bias;
    dr.bias = up(bias, r.n_experts * 4);
    de = take((size_t) rows * r.top_k * 4);
    dw = take((size_t) rows * r.top_k * 4);

    gpu->route(&device, &dr, up(x, (size_t) rows * r.n_experts * 4), rows,
               de, dw);
    cpu->route(&ctx1, &r, x, rows, e, w);
    assert_device_u32(e, de, (size_t) rows * r.top_k, "experts");
    assert_device(w, dw, (size_t) rows * r.top_k, "their weights");

    free(x);
    free(w);
    free(e);
    free(bias);
    end();
}


static void
test_route(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 40 * rounds; i++) {
        route_once(i);
    }
}


/* slots to places, and what a device finds out with them, beside plain C */
static void
sort_once(uint32_t n, uint32_t n_experts)
{
    uint32_t     i, *experts, *at, *first, *tiles;
    moe_sort_t   op;

    experts = malloc(n * 4);
    at = malloc(n * 4);
    first = malloc((n_experts + 1) * 4);
    tiles = malloc(2 * (n_experts + 1) * 4);

    for (i = 0; i < n; i++) {
        experts[i] = below(20) ? below(n_experts) : n_experts + below(2);
        experts[i] = below(3) ? experts[i] : n_experts / 2;
    }

    moe_permutation(experts, n, n_experts, first, at);
    moe_tiles_before(first, n_experts, MOE_TILE_FEW, tiles);
    moe_tiles_before(first, n_experts, MOE_TILE_MANY, tiles + n_experts + 1);

    op = (moe_sort_t) { .experts = up(experts, n * 4), .n = n,
                        .n_experts = n_experts, .at = take(n * 4),
                        .first = take((n_experts + 1) * 4),
                        .tiles = take(2 * (n_experts + 1) * 4) };
    gpu->sort(&device, &op);
    assert_device_u32(at, op.at, n, "places");
    assert_device_u32(first, op.first, n_experts + 1, "first rows");
    assert_device_u32(tiles, op.tiles, 2 * (n_experts + 1), "tiles");

    free(experts);
    free(at);
    free(first);
    free(tiles);
    end();
}


static void
test_sort(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 10 * rounds; i++) {
        sort_once(1 + below(i % 2 ? 1500 : 40), 1 + below(i % 3 ? 9 : 600));
    }

    sort_once(256, 256);
    sort_once(257, 1);

    if (large) {
        sort_once(65536, 256);
    }
}


/* what a layer's rows become on their way to experts and back, which here give
 * what they are given; sorts: whether the device finds out whose they are */
static void
exchange_once(const moe_exchange_shape_t *s, uint32_t nrows, int sorts)
{
    float                *x;
    uint32_t              i, e, n, *chosen, *first, *there;
    uint64_t              late;
    moe_err_t             err;
    moe_exchange_t       *host, *dev;
    moe_expert_work_t     want, is;
    moe_expert_result_t   back, y;

    n = nrows * s->top_k;
    x = random_rows(nrows, s->hidden, s->hidden);
    chosen = malloc(n * 4);
    first = malloc((s->n_experts + 1) * 4);

    for (i = 0; i < n; i++) {
        chosen[i] = below(s->n_experts);
    }

    host = moe_exchange_local(s, &err);
    dev = moe_exchange_device(s, gpu, &device, sorts, &err);
    host->ops->begin(host, nrows, UINT64_MAX, &late, &err);
    dev->ops->begin(dev, nrows, UINT64_MAX, &late, &err);

    memset(&is, 0, sizeof(is));
    there = up(chosen, n * 4);
    assert_int_equal(host->ops->dispatch(host, 0, nrows, x, chosen,
                                         UINT64_MAX, &want, &late, &err), 0);
    assert_int_equal(dev->ops->dispatch(dev, 0, nrows,
                                        up(x, (size_t) nrows * s->hidden * 4),
                                        there, UINT64_MAX, &is, &late, &err),
                     0);
    assert_int_equal(is.nrows, n);
    assert_device(want.rows, is.rows, (size_t) n * s->hidden, "dispatch");

    if (sorts) {
        down(first, is.first, (s->n_experts + 1) * 4);

        for (i = e = 0; e < s->n_experts; e++) {
            if (first[e + 1] != first[e]) {
                assert_int_equal(want.experts[i].expert, e);
                assert_int_equal(want.experts[i].first, first[e]);
                assert_int_equal(want.experts[i].nrows,
                                 first[e + 1] - first[e]);
                i++;
            }
        }

        assert_int_equal(i, want.nexperts);

    } else {
        assert_null(is.first);
        assert_int_equal(is.nexperts, want.nexperts);
        assert_memory_equal(is.experts, want.experts,
                            want.nexperts * sizeof(moe_expert_rows_t));
    }

    memcpy(want.out, want.rows, (size_t) n * s->hidden * 4);
    gpu->memory->move(device.device, is.out, is.rows,
                      (size_t) n * s->hidden * 4);
    host->ops->combine(host, 0, UINT64_MAX, &back, &late, &err);
    dev->ops->combine(dev, 0, UINT64_MAX, &y, &late, &err);
    assert_device(back.y, y.y, (size_t) n * s->hidden, "combine");
    assert_device_u32(back.at, y.at, n, "places of results");

    host->ops->close(host);
    dev->ops->close(dev);
    free(x);
    free(chosen);
    free(first);
    end();
}


static void
test_exchange(void **state)
{
    uint32_t              i;
    moe_exchange_shape_t  s;

    need_device();

    for (i = 0; i < 8 * rounds; i++) {
        s = (moe_exchange_shape_t) { .max_rows = 40,
                                     .hidden = 1 + below(90),
                                     .n_layers = 1,
                                     .n_experts = 1 + below(40),
                                     .format = (moe_row_format_e) (i % 2) };
        s.top_k = 1 + below(s.n_experts < 8 ? s.n_experts : 8);
        exchange_once(&s, 1 + below(40), i / 2 % 2);
    }
}


static void
test_argmax(void **state)
{
    float     *x;
    uint32_t   i, n, rows, want[9], *out;

    need_device();

    for (n = 1; n < 3000; n = n * 2 + below(9)) {
        rows = 1 + below(9);
        x = random_rows(rows, n, n + 2);

        for (i = 0; i < (rows - 1) * (n + 2) + n; i++) {
            x[i] = (float) (int) (x[i] * 5);
        }

        out = take(rows * 4);
        cpu->argmax(&ctx1, x, n + 2, rows, n, want);
        gpu->argmax(&device, up(x, ((rows - 1) * (n + 2) + n) * 4), n + 2,
                    rows, n, out);
        assert_device_u32(want, out, rows, "argmax");

        free(x);
        end();
    }
}


/* a few values only at times, so that ties are common; some are no numbers */
static float *
random_logits(uint32_t n)
{
    float     *x;
    uint32_t   i, kind;

    x = malloc(n * sizeof(float));
    kind = below(4);

    for (i = 0; i < n; i++) {
        x[i] = kind == 0 ? (float) below(7) - 3
               : kind == 1 ? 0.1f * random_float() : 12 * random_float();
    }

    for (i = 0; i < below(6); i++) {
        x[below(n)] = i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : -0.0f;
    }

    if (below(20) == 0) {
        x[below(n)] = INFINITY;
        x[below(n)] = 3e38f;
    }

    return x;
}


typedef struct {
    moe_sampling_t     p;
    moe_history_t      h;
    moe_logit_bias_t   bias[6];
    uint32_t           stops[3];
    uint32_t           prompt[50];
    uint32_t           generated[50];
} request_t;


static void
random_request(request_t *r, uint32_t vocab, const float *logits)
{
    uint32_t  i;

    memset(r, 0, sizeof(*r));
    moe_sampling_init(&r->p);
    r->p.seed = (uint64_t) random_u32() << 32 | random_u32();
    r->p.temperature = below(8) == 0 ? 0 : 0.05 + below(300) / 100.0;
    r->p.top_p = below(2) ? below(101) / 100.0 : 1;
    r->p.top_k = below(2) ? (int) below(70) - 1 : 0;
    r->p.min_p = below(3) == 0 ? 0.0001 + below(1000) / 1000.0 : 0;

    if (below(2)) {
        r->p.repetition_penalty = 0.5 + below(20) / 10.0;
        r->p.frequency_penalty = below(41) / 10.0 - 2;
        r->p.presence_penalty = below(41) / 10.0 - 2;
    }

    for (i = 0; i < 50; i++) {
        r->prompt[i] = below(vocab + 3);
        r->generated[i] = below(vocab < 30 ? vocab : 30);
    }

    for (i = 0; i < 6; i++) {
        r->bias[i].id = below(below(2) ? vocab + 2 : 8);
        r->bias[i].bias = (float) below(201) - 100;
    }

    r->stops[0] = moe_argmax(logits, vocab);
    r->stops[1] = r->stops[0];
    r->stops[2] = below(vocab + 5);

    r->p.bias = r->bias;
    r->p.n_bias = below(3) ? 0 : 6;
    r->p.stop_ids = r->stops;
    r->p.n_stop_ids = 3;
    r->p.min_tokens = below(30);
    r->h = (moe_history_t) { r->prompt, r->generated, below(50), below(50) };
}


/* draws of some rows, and the device's */
static void
sample_once(uint32_t vocab, uint32_t n)
{
    float           *x[8], *rows, *back;
    uint32_t         i, j, id, nedits, ok;
    request_t        r[8];
    moe_draw_t       draws[8];
    moe_edit_t      *edits;
    moe_drawn_t      out[8];
    moe_sampler_t   *s;
    moe_logprobs_t   lp;
    moe_sample_t     op;

    s = moe_sampler_new(vocab);
    edits = malloc(8 * 120 * sizeof(moe_edit_t));
    rows = malloc((size_t) n * vocab * sizeof(float));
    back = malloc((size_t) n * vocab * sizeof(float));
    nedits = 0;

    for (i = 0; i < n; i++) {
        x[i] = random_logits(vocab);
        memcpy(rows + (size_t) (n - 1 - i) * vocab, x[i], vocab * 4);
        random_request(&r[i], vocab, x[i]);
        moe_sampler_draw(s, &r[i].p, &r[i].h, 77 + i, i, edits + nedits,
                         &draws[i]);
        draws[i].row = n - 1 - i;
        draws[i].first = nedits;
        draws[i].logprobs = below(4) != 0;
        draws[i].ntop = below(21);
        draws[i].given = below(6) ? UINT32_MAX : below(vocab);
        nedits += draws[i].nedits;
    }

    op = (moe_sample_t) { .logits = up(rows, (size_t) n * vocab * 4),
                          .vocab = vocab, .n = n,
                          .draws = up(draws, n * sizeof(moe_draw_t)),
                          .edits = up(edits, (nedits + 1)
                                             * sizeof(moe_edit_t)),
                          .out = take(n * sizeof(moe_drawn_t)) };
    gpu->sample(&device, &op);
    down(out, op.out, n * sizeof(moe_drawn_t));
    down(back, op.logits, (size_t) n * vocab * 4);
    assert_memory_equal(rows, back, (size_t) n * vocab * 4);

    for (i = 0; i < n; i++) {
        ok = draws[i].given != UINT32_MAX
             || moe_sample(s, x[i], &r[i].p, &r[i].h, 77 + i, i, &id) == 0;
        id = draws[i].given != UINT32_MAX ? draws[i].given : id;
        assert_int_equal(out[i].none, !ok);

        if (ok && out[i].id != id) {
            fail_msg("sample: %u of %u, not %u; top_k %d, top_p %g, min_p %g",
                     out[i].id, vocab, id, r[i].p.top_k, r[i].p.top_p,
                     r[i].p.min_p);
        }

        if (ok && draws[i].logprobs) {
            moe_logprobs(s, x[i], id, draws[i].ntop, &lp);
            assert_memory_equal(&lp.logprob, &out[i].logprob, 4);
            assert_int_equal(lp.n_top, out[i].ntop);

            for (j = 0; j < lp.n_top; j++) {
                assert_int_equal(lp.top[j].id, out[i].top[j].id);
                assert_memory_equal(&lp.top[j].logprob,
                                    &out[i].top[j].logprob, 4);
            }
        }

        free(x[i]);
    }

    free(edits);
    free(rows);
    free(back);
    moe_sampler_free(s);
    end();
}


static void
test_sample(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 40 * rounds; i++) {
        sample_once(1 + below(i % 2 ? 40 : 3000), 1 + below(8));
    }

    for (i = 0; i < (large ? 20u : 2u); i++) {
        sample_once(100000 + below(31073), large ? 8 : 2);
    }
}


typedef struct {
    moe_kv_t      host;
    moe_kv_t      device;
    uint8_t      *mem;
    size_t        bytes;
    uint32_t      table[64];
    uint32_t     *dtable;
} pages_t;


enum { PAGES = 64 };


/* len positions stored, in pages in disorder, by both; same bytes */
static void
fill_pages(pages_t *p, uint32_t len)
{
    float     *k, *v;
    size_t     nk, nv;
    uint8_t   *is;
    uint32_t   i, n;
    uint64_t   slots[PAGES * MOE_KV_PAGE + 1];
    moe_kv_t  *kv;

    kv = &p->host;
    kv->stride = (kv->heads * 16 * (moe_kv_row(kv->type, kv->k_dim)
                  + (kv->latent ? 0 : moe_kv_row(kv->type, kv->v_dim)))
                  + 3) / 4 * 4 + 32;
    p->bytes = PAGES * kv->stride + 64;
    p->mem = calloc(p->bytes, 1);

    for (i = 0; i < PAGES; i++) {
        p->table[i] = (i * 29 + 11) % PAGES;
    }

    /* and one row that is nobody's */
    for (i = 0; i < len; i++) {
        slots[i] = p->table[i / 16] * 16 + i % 16;
    }

    slots[len] = MOE_NO_SLOT;

    nk = (size_t) kv->heads * kv->k_dim;
    nv = (size_t) kv->heads * kv->v_dim;
    n = len + 1;
    k = random_rows(n, nk, nk + 2);
    v = random_rows(n, nv, nv + 1);

    p->device = *kv;
    kv->base = p->mem;
    p->device.base = take(p->bytes);
    p->dtable = up(p->table, sizeof(p->table));

    cpu->kv_store(&ctx1, kv, slots, n, k, nk + 2, kv->latent ? NULL : v,
                  nv + 1);
    gpu->kv_store(&device, &p->device, up(slots, n * 8), n,
                  up(k, ((n - 1) * (nk + 2) + nk) * 4), nk + 2,
                  kv->latent ? NULL : up(v, ((n - 1) * (nv + 1) + nv) * 4),
                  nv + 1);

    is = malloc(p->bytes);
    down(is, p->device.base, p->bytes);
    assert_memory_equal(is, p->mem, p->bytes);

    free(is);
    free(k);
    free(v);
}


static void
attention_once(moe_wtype_e type, int latent, int real)
{
    float            *q, *want, sinks[512];
    size_t            ldq, ldo;
    pages_t           p;
    uint32_t          i, n, len, heads, nrows, pos[64];
    moe_span_t        spans[64], dspans[64];
    moe_attention_t   a, d;

    memset(&p, 0, sizeof(p));
    p.host.type = type;
    p.host.latent = latent;
    p.host.heads = latent ? 1 : 1 + below(3);
    p.host.v_dim = real ? (latent ? 512 : 128) : 1 + below(70);
    p.host.k_dim = real ? (latent ? 576 : 128)
                   : latent ? p.host.v_dim + 2 + below(20) : 1 + below(90);
    heads = p.host.heads * (1 + below(real ? 128 : 8));
    len = 1 + below(real ? 1000 : 200);
    nrows = 1 + below(len < 40 ? len : 40);
    ldq = (size_t) heads * p.host.k_dim + 3;
    ldo = (size_t) heads * p.host.v_dim;

    fill_pages(&p, len);
    q = random_rows(nrows, ldq, ldq);
    want = zeros(nrows * ldo);

    for (i = 0; i < nrows; i++) {
        pos[i] = len - nrows + i;
    }

    for (i = 0; i < heads; i++) {
        sinks[i] = random_float() * 6;
    }

    n = 0;
    for (i = 0; i < nrows; i += spans[n++].nrows) {
        spans[n].first = i;
        spans[n].nrows = 1 + below(MOE_SPAN_ROWS);
        spans[n].nrows = nrows - i < spans[n].nrows ? nrows - i
                                                    : spans[n].nrows;
        spans[n].table = p.table;
        dspans[n] = spans[n];
        dspans[n].table = p.dtable;
    }

    a = (moe_attention_t) {
        .kv = p.host, .n_heads = heads, .scale = 0.4f, .q = q, .out = want,
        .ldq = ldq, .ldo = ldo, .pos = pos, .spans = spans, .nspans = n,
        .window = below(2) ? 1 + below(40) : 0,
        .sinks = below(2) ? sinks : NULL
    };

    d = a;
    d.kv = p.device;
    d.q = up(q, nrows * ldq * 4);
    d.out = take(nrows * ldo * 4);
    d.pos = up(pos, nrows * 4);
    d.spans = up(dspans, n * sizeof(moe_span_t));
    d.sinks = up(a.sinks, heads * 4);

    cpu->attention(&ctx3, &a);
    gpu->attention(&device, &d);
    assert_device(want, d.out, nrows * ldo, "attention");

    free(p.mem);
    free(q);
    free(want);
    end();
}


static void
test_attention(void **state)
{
    uint32_t  i;

    static const moe_wtype_e  types[] = {
        MOE_W_F32, MOE_W_BF16, MOE_W_I8_KV
    };

    need_device();

    for (i = 0; i < 18 * rounds; i++) {
        attention_once(types[i % 3], (int) (i / 3 % 2), 0);
    }

    for (i = 0; i < 6 * (uint32_t) large; i++) {
        attention_once(types[i % 3], (int) (i / 3 % 2), 1);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_combine),
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_sort),
        cmocka_unit_test(test_exchange),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_sample),
        cmocka_unit_test(test_attention)
    };

    return cmocka_run_group_tests_name("cuda, rows", tests, cuda_setup,
                                       cuda_teardown);
}
