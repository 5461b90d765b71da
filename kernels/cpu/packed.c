#include <math.h>
#include <string.h>

#include "kernels/cpu/packed.h"


enum {
    QUANT_TASK = 1 << 15,       /* elements to quantize in a task */
    GLU_TASK = 1 << 16,         /* multiplications worth a task */
    GLU_POOL = 8 * GLU_TASK     /* ... worth waking anybody */
};


typedef struct {
    const moe_packed_ops_t  *ops;
    moe_glu_t               *glu;
    uint32_t                 nparts;
} packed_ctx_t;


/* rows to be quantized */
typedef struct {
    const moe_packed_ops_t  *ops;
    const float             *x;
    size_t                   ldx;
    uint8_t                 *q;
    uint32_t                 k;
    uint32_t                 nrows;
    uint32_t                 each;      /* rows of a task */
} rows_t;


size_t
moe_quant_row(uint32_t k)
{
    return moe_packed_row(moe_groups(k));
}


static void
rows_task(void *ctx, uint32_t task, uint32_t thread)
{
    uint8_t       *row;
    uint32_t       r, g, end, groups, at;
    const float   *x;
    const rows_t  *t = ctx;

    groups = moe_groups(t->k);
    r = task * t->each;
    end = t->nrows - r < t->each ? t->nrows : r + t->each;

    for (; r < end; r++) {
        x = t->x + r * t->ldx;
        row = t->q + r * moe_packed_row(groups);

        for (g = 0; g < groups; g++) {
            at = g * MOE_GROUP;
            t->ops->quantize(x + at,
                             t->k - at < MOE_GROUP ? t->k - at : MOE_GROUP,
                             row, groups, g);
        }
    }
}


static void
quantize_rows(const moe_kctx_t *c, const moe_packed_ops_t *ops,
    const float *x, size_t ldx, uint32_t k, uint32_t nrows, uint8_t *q)
{
    rows_t    t = { ops, x, ldx, q, k, nrows, 0 };
    uint32_t  tasks;

    if (nrows == 0) {
        return;
    }

    t.each = QUANT_TASK / (k + 1) + 1;
    tasks = (nrows + t.each - 1) / t.each;

    if (tasks == 1) {
        rows_task(&t, 0, 0);
    } else {
        moe_pool_run(c->pool, tasks, rows_task, &t);
    }
}


uint32_t
moe_packed_rows(const moe_kctx_t *c, const moe_packed_ops_t *ops,
    moe_matmul_t *parts, uint32_t nparts)
{
    size_t               at, size;
    uint32_t             i;
    moe_matmul_t        *p;
    const moe_matmul_t  *last;

    at = 0;
    last = NULL;

    for (i = 0; i < nparts; i++) {
        p = &parts[i];

        if (!moe_is_packed(p->w.type)) {
            continue;
        }

        if (last != NULL && last->x == p->x && last->ldx == p->ldx
            && last->w.k == p->w.k && last->nrows == p->nrows)
        {
            p->q = last->q;
            continue;
        }

        size = p->nrows * moe_quant_row(p->w.k);
        if (size > c->quant_size - at) {
            return i;
        }

        p->q = c->quant + at;
        quantize_rows(c, ops, p->x, p->ldx, p->w.k, p->nrows,
                      c->quant + at);
        at += size;
        last = p;
    }

    return nparts;
}


static void
strip_run(const moe_packed_ops_t *ops, const moe_matrix_t *w, uint32_t col,
    const uint8_t *x, uint32_t nrows, float *out)
{
    moe_strip_t  s;

    s.w = (const uint8_t *) w->data
          + col / MOE_STRIP * moe_packed_strip(w->type, w->k);
    s.x = x;
    s.groups = moe_groups(w->k);
    s.nrows = nrows;
    s.out = out;

    switch (w->type) {
    case MOE_W_I8_G32:
        ops->strip_i8(&s);
        break;
    case MOE_W_I4_G32:
        ops->strip_i4(&s);
        break;
    default:
        ops->strip_mx4(&s);
    }
}


void
moe_packed_columns(const moe_packed_ops_t *ops, const moe_matmul_t *p,
    uint32_t begin, uint32_t end)
{
    float           dots[MOE_STRIP_ROWS * MOE_STRIP], *out;
    size_t          size;
    uint32_t        i, row, rows, col, n, c;
    const float    *d;

    size = moe_quant_row(p->w.k);

    for (col = begin; col < end; col += MOE_STRIP) {
        n = end - col < MOE_STRIP ? end - col : MOE_STRIP;

        for (row = 0; row < p->nrows; row += rows) {
            rows = p->nrows - row < MOE_STRIP_ROWS ? p->nrows - row
                                                   : MOE_STRIP_ROWS;

            strip_run(ops, &p->w, col, p->q + row * size, rows, dots);

            for (i = 0; i < rows; i++) {
                d = dots + i * MOE_STRIP;
                out = p->out + (row + i) * p->ldo + col;

                for (c = 0; c < n; c++) {
                    out[c] = p->bias ? d[c] + p->bias[col + c] : d[c];
                }
            }
        }
    }
}


/* to rows of 32 columns, of which n are there */
static void
add_bias(float *x, uint32_t nrows, const float *bias, uint32_t n)
{
    uint32_t  i, c;

    for (i = 0; bias != NULL && i < nrows; i++) {
        for (c = 0; c < n; c++) {
            x[i * MOE_STRIP + c] = x[i * MOE_STRIP + c] + bias[c];
        }
    }
}


/* strips of gate and up, silu and product, quantized for down */
static void
glu_in(const moe_packed_ops_t *ops, const moe_glu_t *p, uint32_t begin,
    uint32_t end)
{
    float     gate[MOE_STRIP_ROWS * MOE_STRIP];
    float     up[MOE_STRIP_ROWS * MOE_STRIP];
    size_t    x_size, h_size;
    uint32_t  i, s, col, n, row, rows, groups;

    groups = moe_groups(p->gate.n);
    x_size = moe_quant_row(p->gate.k);
    h_size = moe_packed_row(groups);

    for (s = begin; s < end; s++) {
        col = s * MOE_STRIP;
        n = p->gate.n - col < MOE_STRIP ? p->gate.n - col : MOE_STRIP;

        for (row = 0; row < p->nrows; row += rows) {
            rows = p->nrows - row < MOE_STRIP_ROWS ? p->nrows - row
                                                   : MOE_STRIP_ROWS;

            strip_run(ops, &p->gate, col, p->q + row * x_size, rows, gate);
            strip_run(ops, &p->up, col, p->q + row * x_size, rows, up);

            add_bias(gate, rows, p->gate_bias ? p->gate_bias + col : NULL, n);
            add_bias(up, rows, p->up_bias ? p->up_bias + col : NULL, n);

            for (i = 0; i < rows; i++) {
                ops->glu(p->clamped, gate + i * MOE_STRIP,
                         up + i * MOE_STRIP, p->h + (row + i) * h_size,
                         groups, s);
            }
        }
    }
}


static void
glu_out(const moe_packed_ops_t *ops, const moe_glu_t *p, uint32_t begin,
    uint32_t end)
{
    moe_matmul_t  m = {
        .w = p->down,
        .bias = p->down_bias,
        .out = p->out,
        .ldo = p->down.n,
        .nrows = p->nrows,
        .q = p->h
    };

    begin *= MOE_STRIP;
    end *= MOE_STRIP;

    moe_packed_columns(ops, &m, begin, end < m.w.n ? end : m.w.n);
}


static const moe_glu_t *
glu_part(const packed_ctx_t *c, uint32_t *task)
{
    uint32_t  lo, hi, mid;

    lo = 0;
    hi = c->nparts - 1;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (*task < c->glu[mid].task_end) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }

    *task -= lo ? c->glu[lo - 1].task_end : 0;

    return &c->glu[lo];
}


static void
glu_in_task(void *ctx, uint32_t task, uint32_t thread)
{
    uint32_t          begin, strips;
    packed_ctx_t     *c = ctx;
    const moe_glu_t  *p;

    p = glu_part(c, &task);
    strips = moe_groups(p->gate.n);
    begin = task * p->strips;

    glu_in(c->ops, p, begin,
           strips - begin < p->strips ? strips : begin + p->strips);
}


static void
glu_out_task(void *ctx, uint32_t task, uint32_t thread)
{
    uint32_t          begin, strips;
    packed_ctx_t     *c = ctx;
    const moe_glu_t  *p;

    p = glu_part(c, &task);
    strips = moe_groups(p->down.n);
    begin = task * p->strips;

    glu_out(c->ops, p, begin,
            strips - begin < p->strips ? strips : begin + p->strips);
}


/* down: cuts its strips, else gate's and up's together */
static void
glu_run(const moe_kctx_t *k, packed_ctx_t *c, int down)
{
    double        work, each, strip;
    uint32_t      i, tasks, strips, threads;
    moe_glu_t    *p;
    moe_task_pt   fn;

    work = 0;
    for (i = 0; i < c->nparts; i++) {
        p = &c->glu[i];
        work += (double) p->nrows * p->down.k * p->down.n * (down ? 1 : 2);
    }

    threads = moe_pool_threads(k->pool);
    each = work / (threads * 8);
    each = each < GLU_TASK ? GLU_TASK : each;
    tasks = 0;

    for (i = 0; i < c->nparts; i++) {
        p = &c->glu[i];
        strips = moe_groups(down ? p->down.n : p->gate.n);
        strip = (double) p->nrows * MOE_STRIP
                * (down ? (double) p->down.k : 2.0 * p->gate.k);

        p->strips = strip * strips > each ? (uint32_t) (each / strip) + 1
                                          : strips;
        if (p->nrows != 0) {
            tasks += (strips + p->strips - 1) / p->strips;
        }
        p->task_end = tasks;
    }

    fn = down ? glu_out_task : glu_in_task;

    if (work >= GLU_POOL && tasks > 1) {
        moe_pool_run(k->pool, tasks, fn, c);
        return;
    }

    for (i = 0; i < tasks; i++) {
        fn(c, i, 0);
    }
}


static size_t
glu_row(const moe_glu_t *p)
{
    return moe_quant_row(p->gate.k) + moe_quant_row(p->gate.n);
}


/* as many parts as there is room for; 0: not even for the first */
static uint32_t
glu_turn(const moe_kctx_t *c, const moe_packed_ops_t *ops, moe_glu_t *parts,
    uint32_t nparts)
{
    size_t         at;
    uint32_t       i;
    moe_glu_t     *p;
    packed_ctx_t   ctx = { ops, parts, 0 };

    at = 0;

    for (i = 0; i < nparts; i++) {
        p = &parts[i];

        if (p->nrows * glu_row(p) > c->quant_size - at) {
            break;
        }

        p->q = c->quant + at;
        quantize_rows(c, ops, p->x, p->gate.k, p->gate.k, p->nrows,
                      c->quant + at);
        at += p->nrows * moe_quant_row(p->gate.k);

        p->h = c->quant + at;
        at += p->nrows * moe_quant_row(p->gate.n);
    }

    ctx.nparts = i;

    if (i != 0) {
        glu_run(c, &ctx, 0);
        glu_run(c, &ctx, 1);
    }

    return i;
}


void
moe_packed_glu(const moe_kctx_t *c, const moe_packed_ops_t *ops,
    moe_glu_t *parts, uint32_t nparts)
{
    uint32_t   n;
    moe_glu_t  some;

    while (nparts != 0) {

        n = glu_turn(c, ops, parts, nparts);

        if (n == 0) {
            some = parts[0];
            some.nrows = (uint32_t) (c->quant_size / glu_row(&some));
            if (glu_turn(c, ops, &some, 1) == 0 || some.nrows == 0) {
                return;
            }

            parts[0].x += (size_t) some.nrows * some.gate.k;
            parts[0].out += (size_t) some.nrows * some.down.n;
            parts[0].nrows -= some.nrows;
        }

        parts += n;
        nparts -= n;
    }
}
