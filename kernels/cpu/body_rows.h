/* body_rows: what is done to each row on its own, one body for all VL */

enum {
    ROWS_TASK = 16384           /* elements worth a task */
};


typedef void (*row_pt)(const void *op, uint32_t row);

typedef struct {
    const void  *op;
    row_pt       fn;
    uint32_t     nrows;
    uint32_t     each;
} rows_ctx_t;


static void
rows_task(void *ctx, uint32_t task, uint32_t thread)
{
    uint32_t     r, end;
    rows_ctx_t  *c = ctx;

    r = task * c->each;
    end = c->nrows - r < c->each ? c->nrows : r + c->each;

    for (; r < end; r++) {
        c->fn(c->op, r);
    }
}


/* fn for every row, some rows a task; width is the work in elements a row */
static void
rows_run(const moe_kctx_t *k, uint32_t nrows, size_t width, row_pt fn,
    const void *op)
{
    rows_ctx_t  c = { op, fn, nrows, 0 };

    if (nrows == 0) {
        return;
    }

    c.each = width < ROWS_TASK ? (uint32_t) (ROWS_TASK / (width + 1)) + 1 : 1;

    moe_pool_run(k->pool, (nrows + c.each - 1) / c.each, rows_task, &c);
}


typedef struct {
    const moe_matrix_t  *w;
    const uint32_t      *ids;
    float               *out;
} embed_t;


static void
embed_row(const void *op, uint32_t row)
{
    vf              x;
    size_t          k, n, at;
    uint32_t        id;
    const embed_t  *e = op;
    const uint8_t  *data;

    id = e->ids[row];
    n = e->w->k;
    at = (size_t) id * n * type_size(e->w->type);
    data = (const uint8_t *) e->w->data + at;

    for (k = 0; k < n; k += VL) {
        at = k * type_size(e->w->type);

        x = n - k >= VL ? load_as_f32(e->w->type, data + at)
                        : load_part_as_f32(e->w->type, data + at, n - k);

        if (e->w->type == MOE_W_F8_E4M3) {
            x = x * e->w->scale[(size_t) (id + e->w->row0) / 128
                                * e->w->scale_cols + k / 128];
        }

        memcpy(e->out + row * n + k, &x, (n - k < VL ? n - k : VL) * 4);
    }
}


static void
op_embed(const moe_kctx_t *c, const moe_matrix_t *w, const uint32_t *ids,
    uint32_t nrows, float *out)
{
    embed_t  e = { w, ids, out };

    rows_run(c, nrows, w->k, embed_row, &e);
}


typedef struct {
    const float  *x;
    const float  *w;
    float        *out;
    size_t        ldx;
    size_t        ldo;
    uint32_t      groups;
    uint32_t      n;
    float         eps;
} norm_t;


static float
sum_of_squares(const float *x, size_t n)
{
    int     v;
    vf      t, acc[NV];
    float   lanes[MOE_LANES];
    size_t  k, rest;

    for (v = 0; v < NV; v++) {
        acc[v] = vf_set(0.0f);
    }

    for (k = 0; k + MOE_LANES <= n; k += MOE_LANES) {
        UNROLL
        for (v = 0; v < NV; v++) {
            t = vf_load(x + k + v * VL);
            acc[v] = acc[v] + t * t;
        }
    }

    for (v = 0; v < NV && k + (size_t) v * VL < n; v++) {
        rest = n - k - (size_t) v * VL;
        t = load_part_as_f32(MOE_W_F32, (const uint8_t *) (x + k + v * VL),
                             rest < VL ? rest : VL);
        acc[v] = acc[v] + t * t;
    }

    for (v = 0; v < NV; v++) {
        vf_store(lanes + v * VL, acc[v]);
    }

    return lanes_sum(lanes);
}


static void
norm_row(const void *op, uint32_t row)
{
    float          r, *out;
    uint32_t       g, i;
    const float   *x;
    const norm_t  *p = op;

    x = p->x + row * p->ldx;
    out = p->out + row * p->ldo;

    for (g = 0; g < p->groups; g++) {
        r = 1.0f / __builtin_sqrtf(sum_of_squares(x, p->n) / (float) p->n
                                   + p->eps);

        for (i = 0; i < p->n; i++) {
            out[i] = x[i] * r * p->w[i];
        }

        x += p->n;
        out += p->n;
    }
}


static void
op_rmsnorm(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t groups,
    uint32_t n, const float *w, float eps, uint32_t nrows, float *out,
    size_t ldo)
{
    norm_t  p = { x, w, out, ldx, ldo, groups, n, eps };

    rows_run(c, nrows, (size_t) groups * n, norm_row, &p);
}


static void
rope_row(const void *op, uint32_t row)
{
    float                 a, b, *x;
    uint32_t              h, i, half, ia, ib;
    const float          *cos, *sin;
    const moe_rope_op_t  *p = op;

    half = p->dim / 2;
    cos = p->cos + (size_t) row * half;
    sin = p->sin + (size_t) row * half;

    for (h = 0; h < p->heads; h++) {
        x = p->x + row * p->ldx + h * p->head_ld + p->first;

        for (i = 0; i < half; i++) {
            ia = p->interleave ? 2 * i : i;
            ib = p->interleave ? 2 * i + 1 : i + half;

            a = x[ia];
            b = x[ib];
            x[ia] = a * cos[i] - b * sin[i];
            x[ib] = b * cos[i] + a * sin[i];
        }
    }
}


static void
op_rope(const moe_kctx_t *c, const moe_rope_op_t *op)
{
    rows_run(c, op->nrows, (size_t) op->heads * op->dim, rope_row, op);
}


static void
op_clamp(const moe_kctx_t *c, float *x, size_t ldx, uint32_t nrows,
    uint32_t n, float limit)
{
    float     v;
    uint32_t  r, i;

    for (r = 0; r < nrows; r++) {
        for (i = 0; i < n; i++) {
            v = x[r * ldx + i];
            v = v > limit ? limit : v;
            x[r * ldx + i] = v < -limit ? -limit : v;
        }
    }
}


typedef struct {
    float                *gate;
    const float          *up;
    size_t                n;
    const moe_clamped_t  *clamped;      /* or NULL: silu */
} silu_t;


enum { SILU_RUN = 1024 };


static void
silu_run(const void *op, uint32_t run)
{
    vf             g, u;
    size_t         i, n, end;
    const silu_t  *p = op;

    i = (size_t) run * SILU_RUN;
    end = p->n - i < SILU_RUN ? p->n : i + SILU_RUN;

    for (; i < end; i += VL) {
        n = end - i < VL ? end - i : VL;

        if (n == VL) {
            g = vf_load(p->gate + i);
            u = vf_load(p->up + i);
        } else {
            g = load_part_as_f32(MOE_W_F32, (uint8_t *) (p->gate + i), n);
            u = load_part_as_f32(MOE_W_F32, (uint8_t *) (p->up + i), n);
        }

        g = p->clamped == NULL
            ? g / (vf_exp(-g) + 1.0f) * u
            : vf_clamped_mul(g, u, p->clamped->alpha, p->clamped->limit);

        memcpy(p->gate + i, &g, n * 4);
    }
}


static void
op_silu_mul(const moe_kctx_t *c, float *gate, const float *up, size_t n)
{
    silu_t  p = { gate, up, n, NULL };

    rows_run(c, (uint32_t) ((n + SILU_RUN - 1) / SILU_RUN), SILU_RUN,
             silu_run, &p);
}


static void
op_clamped_mul(const moe_kctx_t *c, const moe_clamped_t *clamped, float *gate,
    const float *up, size_t n)
{
    silu_t  p = { gate, up, n, clamped };

    rows_run(c, (uint32_t) ((n + SILU_RUN - 1) / SILU_RUN), SILU_RUN,
             silu_run, &p);
}


static void
combine_row(const void *op, uint32_t row)
{
    vf                    t, y;
    float                 g, *x;
    size_t                i, n;
    uint32_t              s, at;
    const moe_combine_t  *p = op;

    x = p->x + (size_t) row * p->n;
    g = p->gate ? 1.0f / (f32_exp(-p->gate[row]) + 1.0f) : 1.0f;

#define PART(ptr)                                                             \
    (n == VL ? vf_load(ptr)                                                   \
             : load_part_as_f32(MOE_W_F32, (const uint8_t *) (ptr), n))

    for (i = 0; i < p->n; i += VL) {
        n = p->n - i < VL ? p->n - i : VL;
        t = vf_set(0.0f);

        for (s = 0; s < p->top_k; s++) {
            at = row * p->top_k + s;
            if (p->at[at] == MOE_NO_ROW) {
                continue;
            }

            y = PART(p->y + (size_t) p->at[at] * p->n + i);
            t = vf_fma(y, vf_set(p->weight[at]), t);
        }

        if (p->shared != NULL) {
            t = t + PART(p->shared + (size_t) row * p->n + i) * g;
        }

        t = PART(x + i) + t;
        memcpy(x + i, &t, n * 4);
    }

#undef PART
}


static void
op_combine(const moe_kctx_t *c, const moe_combine_t *op)
{
    rows_run(c, op->nrows, (size_t) op->n * (op->top_k + 1), combine_row, op);
}


static float
round_bf16(float x)
{
    uint32_t  u;

    u = (uint32_t) f32_to_bf16(x) << 16;
    memcpy(&x, &u, 4);

    return x;
}


static void
permute_row(const void *op, uint32_t row)
{
    float                *to;
    uint32_t              i;
    const float          *from;
    const moe_permute_t  *p = op;

    if (p->at[row] == MOE_NO_ROW) {
        return;
    }

    from = p->x + (size_t) (row / p->per) * p->width;
    to = p->out + (size_t) p->at[row] * p->width;

    for (i = 0; i < p->width; i++) {
        to[i] = p->bf16 ? round_bf16(from[i]) : from[i];
    }
}


static void
op_permute(const moe_kctx_t *c, const moe_permute_t *op)
{
    rows_run(c, op->n, op->width, permute_row, op);
}


static void
op_round_bf16(const moe_kctx_t *c, float *x, size_t n)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        x[i] = round_bf16(x[i]);
    }
}


static void
op_copy(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t nrows,
    uint32_t n, float *out, size_t ldo)
{
    uint32_t  r;

    for (r = 0; r < nrows; r++) {
        memcpy(out + r * ldo, x + r * ldx, (size_t) n * 4);
    }
}


/* one after the other, so that nothing is overwritten before it has moved */
static void
op_gather(const moe_kctx_t *c, const float *x, const uint32_t *at,
    uint32_t nrows, uint32_t n, float *out)
{
    uint32_t  r;

    for (r = 0; r < nrows; r++) {
        memmove(out + (size_t) r * n, x + (size_t) at[r] * n, (size_t) n * 4);
    }
}


typedef struct {
    float        *x;
    const float  *y;
    size_t        n;
} add_t;


enum { ADD_RUN = 4096 };


static void
add_run(const void *op, uint32_t run)
{
    size_t        i, end;
    const add_t  *p = op;

    i = (size_t) run * ADD_RUN;
    end = p->n - i < ADD_RUN ? p->n : i + ADD_RUN;

    for (; i + VL <= end; i += VL) {
        vf_store(p->x + i, vf_load(p->x + i) + vf_load(p->y + i));
    }

    for (; i < end; i++) {
        p->x[i] = p->x[i] + p->y[i];
    }
}


static void
op_add(const moe_kctx_t *c, float *x, const float *y, size_t n)
{
    add_t  p = { x, y, n };

    rows_run(c, (uint32_t) ((n + ADD_RUN - 1) / ADD_RUN), ADD_RUN, add_run,
             &p);
}


typedef struct {
    const moe_kv_t  *kv;
    const uint64_t  *slots;
    const float     *k;
    const float     *v;
    size_t           ldk;
    size_t           ldv;
} store_t;


/* what has no largest magnitude becomes a scale that is no number */
static void
kv_put_i8(uint8_t *to, const float *x, uint32_t n)
{
    float     amax, scale, r;
    int32_t   q;
    uint32_t  i, g, end, groups, bits, most;

    groups = (n + 31) / 32;
    memset(to, 0, groups * 36);

    for (g = 0; g < groups; g++) {
        end = n - g * 32 < 32 ? n : g * 32 + 32;
        most = 0;

        for (i = g * 32; i < end; i++) {
            memcpy(&bits, x + i, 4);
            bits &= 0x7fffffff;
            most = bits > most ? bits : most;
        }

        memcpy(&amax, &most, 4);
        scale = most >= 0x7f800000 ? __builtin_nanf("") : amax / 127.0f;

        /* so that 127 / amax is finite */
        if (most >= 0x7f800000 || amax < 0x1p-100f) {
            scale = most >= 0x7f800000 ? scale : 0.0f;
            memcpy(to + groups * 32 + g * 4, &scale, 4);
            continue;
        }

        for (i = g * 32; i < end; i++) {
            /* the low bits of 1.5 * 2^23 + r are r, to the nearest, ties to
             * even */
            r = x[i] * (127.0f / amax) + 0x1.8p23f;
            memcpy(&q, &r, 4);
            to[i] = (uint8_t) (q - 0x4b400000);
        }

        memcpy(to + groups * 32 + g * 4, &scale, 4);
    }
}


static void
kv_put(moe_wtype_e type, uint8_t *to, const float *x, uint32_t n)
{
    uint32_t  i;
    uint16_t  h;

    if (type == MOE_W_F32) {
        memcpy(to, x, (size_t) n * 4);
        return;
    }

    if (type == MOE_W_I8_KV) {
        kv_put_i8(to, x, n);
        return;
    }

    for (i = 0; i < n; i++) {
        h = f32_to_bf16(x[i]);
        memcpy(to + i * 2, &h, 2);
    }
}


static void
store_row(const void *op, uint32_t row)
{
    size_t              k_row, v_row;
    uint8_t            *page;
    uint32_t            h, i;
    const store_t  *c = op;
    const moe_kv_t     *kv;

    if (c->slots[row] == MOE_NO_SLOT) {
        return;
    }

    kv = c->kv;
    k_row = moe_kv_row(kv->type, kv->k_dim);
    v_row = moe_kv_row(kv->type, kv->v_dim);
    page = kv->base + c->slots[row] / MOE_KV_PAGE * kv->stride;
    i = c->slots[row] % MOE_KV_PAGE;

    for (h = 0; h < kv->heads; h++) {
        kv_put(kv->type, page + ((size_t) h * MOE_KV_PAGE + i) * k_row,
               c->k + row * c->ldk + (size_t) h * kv->k_dim, kv->k_dim);
    }

    if (kv->latent) {
        return;
    }

    page += kv->heads * MOE_KV_PAGE * k_row;

    for (h = 0; h < kv->heads; h++) {
        kv_put(kv->type, page + ((size_t) h * MOE_KV_PAGE + i) * v_row,
               c->v + row * c->ldv + (size_t) h * kv->v_dim, kv->v_dim);
    }
}


static void
op_kv_store(const moe_kctx_t *c, const moe_kv_t *kv, const uint64_t *slots,
    uint32_t nrows, const float *k, size_t ldk, const float *v, size_t ldv)
{
    store_t  s = { kv, slots, k, v, ldk, ldv };

    rows_run(c, nrows, (size_t) kv->heads * (kv->k_dim + kv->v_dim),
             store_row, &s);
}


static void
op_argmax(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t nrows,
    uint32_t n, uint32_t *out)
{
    uint32_t  r, i, best;

    for (r = 0; r < nrows; r++, x += ldx) {
        best = 0;

        for (i = 1; i < n; i++) {
            if (x[i] > x[best]) {
                best = i;
            }
        }

        out[r] = best;
    }
}
