/* body_attention: queries over paged keys and values, one body for all VL */

enum {
    QUERIES = 64,               /* (row, head) pairs of a task */
    QUERY_TILE = 4,
    FEW_QUERIES = 16            /* wait for memory more than they compute */
};


/* one (row, head) on its way through the pages */
typedef struct {
    const float  *q;
    float        *out;
    float        *acc;          /* [v_dim to a multiple of 16] */
    uint32_t      first;        /* the first key that is seen */
    uint32_t      keys;         /* pos + 1 */
    float         max;
    float         sum;
} query_t;

typedef struct {
    const uint8_t  *keys;       /* [16][ld_k] elements */
    const uint8_t  *values;     /* [16][ld_v] elements */
    size_t          ld_k;
    size_t          ld_v;
    uint32_t        k_dim;
    uint32_t        v_dim;
    moe_wtype_e     type;
    float           scale;
} page_t;

typedef struct {
    const moe_kctx_t       *k;
    const moe_attention_t  *a;
    uint32_t                block;      /* heads of a task */
    uint32_t                blocks;     /* such blocks a KV head */
} attn_ctx_t;


INLINE size_t
pad16(size_t n)
{
    return (n + MOE_LANES - 1) / MOE_LANES * MOE_LANES;
}


/* elements of a row in whole groups of I8_KV */
INLINE size_t
pad32(uint32_t n)
{
    return ((size_t) n + 31) / 32 * 32;
}


static size_t
op_attention_scratch(uint32_t k_dim, uint32_t v_dim)
{
    /* and a page of I8_KV as float32 */
    return QUERIES * pad16(v_dim)
           + MOE_KV_PAGE * (pad32(k_dim) + pad32(v_dim));
}


/* scores of n queries against the first valid keys of the page */
static void
attn_scores(query_t *q, int n, const page_t *pg, uint32_t valid,
    float s[][MOE_LANES])
{
    int       i, j, nt, rt, row;
    float     dots[ROW_TILE > 4 ? ROW_TILE : 4][8];
    tile_t    t;
    tile_pt   fn;
    uint32_t  key, at;

    fn = tile_for(pg->type);

    for (row = 0; row < n; row += rt) {
        rt = n - row < ROW_TILE ? n - row : ROW_TILE;
        nt = rt == 1 ? 8 : COLS;
        t.ahead = (size_t) nt * pg->ld_k * type_size(pg->type);

        for (i = 0; i < rt; i++) {
            t.x[i] = q[row + i].q;
        }

        for (key = 0; key < valid; key += nt) {

            for (j = 0; j < nt; j++) {
                at = key + j < valid ? key + j : valid - 1;
                t.w[j] = pg->keys + at * pg->ld_k * type_size(pg->type);
            }

            fn(&t, rt, pg->k_dim, dots);

            for (i = 0; i < rt; i++) {
                memcpy(&s[row + i][key], dots[i], (size_t) nt * 4);
            }
        }
    }
}


INLINE v4
v4_max(v4 a, v4 b)
{
    return (v4) (((vi4) a & (a > b)) | ((vi4) b & ~(a > b)));
}


/* of 16 */
INLINE float
lanes_max(const float *s)
{
    v4     t;
    float  a, b;

    t = v4_max(v4_max(*(const v4_mem *) s, *(const v4_mem *) (s + 4)),
               v4_max(*(const v4_mem *) (s + 8), *(const v4_mem *) (s + 12)));

    a = t[0] > t[1] ? t[0] : t[1];
    b = t[2] > t[3] ? t[2] : t[3];

    return a > b ? a : b;
}


/* scores of keys from .. valid - 1 become probabilities relative to the
 * running maximum; returns what earlier sums are to be multiplied by */
INLINE float
attn_softmax(query_t *q, float scale, uint32_t from, uint32_t valid, float *s)
{
    int       v;
    float     max, was;
    uint32_t  j;

    for (v = 0; v < MOE_LANES; v += VL) {
        vf_store(s + v, vf_load(s + v) * scale);
    }

    for (j = 0; j < from; j++) {
        s[j] = -__builtin_inff();
    }

    for (j = valid; j < MOE_LANES; j++) {
        s[j] = -__builtin_inff();
    }

    max = lanes_max(s);
    max = max > q->max ? max : q->max;

    for (v = 0; v < MOE_LANES; v += VL) {
        vf_store(s + v, vf_exp(vf_load(s + v) - max));
    }

    /* e^0 is exactly 1 */
    was = max == q->max ? 1.0f : f32_exp(q->max - max);

    q->sum = q->sum * was + lanes_sum(s);
    q->max = max;

    return was;
}


/* acc = acc * was + sum over keys, ascending, of p * value */
INLINE void
attn_values(query_t *q, moe_wtype_e type, int n, int nv, const page_t *pg,
    uint32_t from, uint32_t valid, const float *was, float s[][MOE_LANES],
    uint32_t col)
{
    int             i, v;
    vf              acc[QUERY_TILE][2], w;
    size_t          size;
    uint32_t        j, part;
    const uint8_t  *data;

    size = type_size(type);
    data = pg->values + (from * pg->ld_v + col) * size;

    /* unrolled all through, or the sums would lie in memory */
    UNROLL
    for (i = 0; i < n; i++) {
        UNROLL
        for (v = 0; v < nv; v++) {
            acc[i][v] = vf_load(q[i].acc + col + v * VL) * was[i];
        }
    }

    part = pg->v_dim - (col + (nv - 1) * VL);

    for (j = from; j < valid; j++, data += pg->ld_v * size) {

        UNROLL
        for (v = 0; v < nv; v++) {
            w = v + 1 < nv || part >= VL
                ? load_as_f32(type, data + v * VL * size)
                : load_part_as_f32(type, data + v * VL * size, part);

            UNROLL
            for (i = 0; i < n; i++) {
                acc[i][v] = vf_fma(w, vf_set(s[i][j]), acc[i][v]);
            }
        }
    }

    UNROLL
    for (i = 0; i < n; i++) {
        UNROLL
        for (v = 0; v < nv; v++) {
            vf_store(q[i].acc + col + v * VL, acc[i][v]);
        }
    }
}


INLINE void
attn_values_all(query_t *q, moe_wtype_e type, int n, const page_t *pg,
    uint32_t from, uint32_t valid, const float *was, float s[][MOE_LANES])
{
    uint32_t  col;

    for (col = 0; col + VL < pg->v_dim; col += 2 * VL) {
        attn_values(q, type, n, 2, pg, from, valid, was, s, col);
    }

    if (col < pg->v_dim) {
        attn_values(q, type, n, 1, pg, from, valid, was, s, col);
    }
}


/* n queries that see the same keys, from .. valid - 1, of this page */
static void
attn_page(query_t *q, int n, const page_t *pg, uint32_t from, uint32_t valid)
{
    int    i, rt;
    float  was[QUERY_TILE];
    float  all[QUERIES][MOE_LANES], (*s)[MOE_LANES];

    attn_scores(q, n, pg, valid, all);

    for (s = all; n > 0; s += rt, q += rt, n -= rt) {
        rt = n < QUERY_TILE ? 1 : QUERY_TILE;

        for (i = 0; i < rt; i++) {
            was[i] = attn_softmax(&q[i], pg->scale, from, valid, s[i]);
        }

        if (pg->type == MOE_W_F32) {
            if (rt == 1) {
                attn_values_all(q, MOE_W_F32, 1, pg, from, valid, was, s);
            } else {
                attn_values_all(q, MOE_W_F32, QUERY_TILE, pg, from, valid,
                                was, s);
            }

        } else if (rt == 1) {
            attn_values_all(q, MOE_W_BF16, 1, pg, from, valid, was, s);

        } else {
            attn_values_all(q, MOE_W_BF16, QUERY_TILE, pg, from, valid, was,
                            s);
        }
    }
}


static void
attn_find_page(const attn_ctx_t *c, const moe_span_t *span, uint32_t head,
    uint32_t t, page_t *pg)
{
    size_t           k_row, v_row;
    const uint8_t   *base;
    const moe_kv_t  *kv;

    kv = &c->a->kv;
    k_row = moe_kv_row(kv->type, kv->k_dim);
    v_row = moe_kv_row(kv->type, kv->v_dim);
    base = kv->base + (size_t) span->table[t] * kv->stride;

    pg->type = kv->type;
    pg->k_dim = kv->k_dim;
    pg->v_dim = kv->v_dim;
    pg->scale = c->a->scale;
    pg->ld_k = kv->k_dim;

    if (kv->latent) {
        pg->ld_v = kv->k_dim;
        pg->keys = base;
        pg->values = base;
        return;
    }

    pg->ld_v = kv->v_dim;
    pg->keys = base + head * MOE_KV_PAGE * k_row;
    pg->values = base + (kv->heads * k_row + head * v_row) * MOE_KV_PAGE;
}


/* calls for what a task will read of a page, which no processor foresees */
static void
attn_prefetch(const page_t *pg, const moe_kv_t *kv)
{
    size_t  at, keys, values;

    keys = MOE_KV_PAGE * moe_kv_row(kv->type, kv->k_dim);
    values = kv->latent ? 0 : MOE_KV_PAGE * moe_kv_row(kv->type, kv->v_dim);

    for (at = 0; at < keys; at += 64) {
        __builtin_prefetch(pg->keys + at, 0, 2);
    }

    for (at = 0; at < values; at += 64) {
        __builtin_prefetch(pg->values + at, 0, 2);
    }
}


/* a page's rows of n elements from I8_KV to float32, ld floats apart */
static void
attn_widen_rows(const uint8_t *from, uint32_t n, float *to, size_t ld)
{
    int             v;
    float           scale;
    size_t          row, groups;
    uint32_t        i, g;

    row = moe_kv_row(MOE_W_I8_KV, n);
    groups = ld / 32;

    for (i = 0; i < MOE_KV_PAGE; i++, from += row, to += ld) {
        for (g = 0; g < groups; g++) {
            memcpy(&scale, from + groups * 32 + g * 4, 4);

            UNROLL
            for (v = 0; v < 32; v += VL) {
                vf_store(to + g * 32 + v, __builtin_convertvector(
                             load_i8(from + g * 32 + v), vf) * scale);
            }
        }
    }
}


/* a page of I8_KV as one of float32 at to */
static void
attn_widen(page_t *pg, float *to)
{
    size_t  k_pad, v_pad;

    k_pad = pad32(pg->k_dim);
    v_pad = pad32(pg->v_dim);

    attn_widen_rows(pg->keys, pg->k_dim, to, k_pad);

    if (pg->values == pg->keys) {
        v_pad = k_pad;
        pg->values = (const uint8_t *) to;

    } else {
        attn_widen_rows(pg->values, pg->v_dim, to + MOE_KV_PAGE * k_pad,
                        v_pad);
        pg->values = (const uint8_t *) (to + MOE_KV_PAGE * k_pad);
    }

    pg->type = MOE_W_F32;
    pg->keys = (const uint8_t *) to;
    pg->ld_k = k_pad;
    pg->ld_v = v_pad;
}


/* the first key that a row sees */
static uint32_t
attn_first(const moe_attention_t *a, uint32_t row)
{
    uint32_t  keys;

    keys = a->pos[row] + 1;

    return a->window != 0 && keys > a->window ? keys - a->window : 0;
}


/* the queries of rows of a span times some heads of one KV head, in order of
 * row; returns their number */
static int
attn_begin(const attn_ctx_t *c, const moe_span_t *span, uint32_t first_head,
    uint32_t heads, float *acc, query_t *q)
{
    int                     n;
    size_t                  pad;
    uint32_t                r, h, row;
    const moe_attention_t  *a;

    a = c->a;
    n = 0;
    pad = pad16(a->kv.v_dim);

    for (r = 0; r < span->nrows; r++) {
        row = span->first + r;

        for (h = first_head; h < first_head + heads; h++) {
            q[n].q = a->q + row * a->ldq + (size_t) h * a->kv.k_dim;
            q[n].out = a->out + row * a->ldo + (size_t) h * a->kv.v_dim;
            q[n].acc = acc + n * pad;
            q[n].keys = a->pos[row] + 1;
            q[n].first = attn_first(a, row);

            /* a sink is the first of all keys, and its value is zero */
            q[n].max = a->sinks ? a->sinks[h] : -__builtin_inff();
            q[n].sum = a->sinks ? 1 : 0;

            memset(q[n].acc, 0, pad * sizeof(float));
            n++;
        }
    }

    return n;
}


/* what a query sees of page t: keys *from .. *valid - 1; 0: nothing */
static int
attn_sees(const query_t *q, uint32_t t, uint32_t *from, uint32_t *valid)
{
    uint32_t  at;

    at = t * MOE_KV_PAGE;

    if (q->keys <= at || q->first >= at + MOE_KV_PAGE) {
        return 0;
    }

    *from = q->first > at ? q->first - at : 0;
    *valid = q->keys - at < MOE_KV_PAGE ? q->keys - at : MOE_KV_PAGE;

    return 1;
}


static void
attn_task(void *ctx, uint32_t task, uint32_t thread)
{
    int                n, i, same;
    float             *scratch;
    page_t             pg, next;
    query_t            q[QUERIES];
    uint32_t           t, d, head, group, first, heads, pages;
    uint32_t           from, valid, next_from, next_valid;
    attn_ctx_t        *c = ctx;
    const moe_span_t  *span;

    group = c->a->n_heads / c->a->kv.heads;

    first = task % c->blocks * c->block;
    head = task / c->blocks % c->a->kv.heads;
    span = &c->a->spans[task / c->blocks / c->a->kv.heads];
    heads = group - first < c->block ? group - first : c->block;

    scratch = c->k->scratch + thread * c->k->scratch_each;
    n = attn_begin(c, span, head * group + first, heads, scratch, q);

    pages = (q[n - 1].keys + MOE_KV_PAGE - 1) / MOE_KV_PAGE;

    t = attn_first(c->a, span->first) / MOE_KV_PAGE;

    for ( /* void */ ; t < pages; t++) {
        attn_find_page(c, span, head, t, &pg);

        if (n <= FEW_QUERIES && t + 1 < pages) {
            attn_find_page(c, span, head, t + 1, &next);
            attn_prefetch(&next, &c->a->kv);
        }

        if (pg.type == MOE_W_I8_KV) {
            attn_widen(&pg, scratch + QUERIES * pad16(c->a->kv.v_dim));
        }

        for (i = 0; i < n; i += same) {
            same = 1;

            if (!attn_sees(&q[i], t, &from, &valid)) {
                continue;
            }

            while (i + same < n
                   && attn_sees(&q[i + same], t, &next_from, &next_valid)
                   && next_from == from && next_valid == valid)
            {
                same++;
            }

            attn_page(&q[i], same, &pg, from, valid);
        }
    }

    for (i = 0; i < n; i++) {
        for (d = 0; d < c->a->kv.v_dim; d++) {
            q[i].out[d] = q[i].acc[d] / q[i].sum;
        }
    }
}


static void
op_attention(const moe_kctx_t *k, const moe_attention_t *a)
{
    double             work;
    uint32_t           i, tasks, most, group, threads, keys;
    attn_ctx_t         c = { k, a, 0, 0 };
    const moe_span_t  *span;

    most = 1;
    work = 0;
    for (i = 0; i < a->nspans; i++) {
        span = &a->spans[i];
        most = span->nrows > most ? span->nrows : most;
        keys = a->pos[span->first] + 1;
        keys = a->window && a->window < keys ? a->window : keys;
        work += (double) span->nrows * keys;
    }

    work *= (double) a->n_heads * (a->kv.k_dim + a->kv.v_dim);

    group = a->n_heads / a->kv.heads;
    threads = moe_pool_threads(k->pool);

    c.block = QUERIES / most < group ? QUERIES / most : group;

    /* with few rows, heads are what can be divided */
    while (threads > 1 && c.block > QUERY_TILE
           && a->nspans * a->kv.heads * ((group + c.block - 1) / c.block)
              < threads)
    {
        c.block = (c.block + 1) / 2;
    }

    c.blocks = (group + c.block - 1) / c.block;
    tasks = a->nspans * a->kv.heads * c.blocks;

    if (work >= POOL_MIN) {
        moe_pool_run(k->pool, tasks, attn_task, &c);
        return;
    }

    for (i = 0; i < tasks; i++) {
        attn_task(&c, i, 0);
    }
}
