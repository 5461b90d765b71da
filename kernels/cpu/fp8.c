#include <math.h>
#include <pthread.h>
#include <string.h>

#include "kernels/cpu/fp8.h"
#include "kernels/cpu/sets.h"
#include "kernels/fp8.h"


enum { COLS = 16 };             /* of a task */


/* rows first .. first + nrows - 1 of a part, quantized */
typedef struct {
    const moe_matmul_t  *part;
    const uint8_t       *q;
    uint32_t             first;
    uint32_t             nrows;
    double               values[256];
} run_t;


static void
quantize_group(const float *x, uint32_t n, uint8_t *codes, float *scale)
{
    float     by;
    uint32_t  i, u, bits;

    bits = 0;

    for (i = 0; i < n; i++) {
        memcpy(&u, &x[i], 4);
        u &= 0x7fffffff;
        bits = u > bits ? u : bits;
    }

    by = moe_fp8_scale(bits, scale);

    for (i = 0; i < n; i++) {
        codes[i] = by != 0 ? moe_fp8_code(x[i] * by) : 0;
    }
}


static void
quantize(const float *x, uint32_t k, uint8_t *row)
{
    float     scale;
    uint32_t  g, at;

    for (g = 0; g < moe_fp8_groups(k); g++) {
        at = g * MOE_FP8_GROUP;
        quantize_group(x + at, k - at < MOE_FP8_GROUP ? k - at
                                                      : MOE_FP8_GROUP,
                       row + at, &scale);
        memcpy(row + moe_fp8_scales(k) + g * sizeof(float), &scale, 4);
    }
}


static float
dot(const run_t *run, uint32_t col, const uint8_t *row)
{
    float                acc, scale;
    double               sum;
    uint32_t             g, i, end, k;
    const float         *scales;
    const uint8_t       *w;
    const moe_matrix_t  *m;

    m = &run->part->w;
    k = m->k;
    w = (const uint8_t *) m->data + (size_t) col * k;
    scales = m->scale + (size_t) (col + m->row0) / 128 * m->scale_cols;
    acc = 0;

    for (g = 0; g < moe_fp8_groups(k); g++) {
        i = g * MOE_FP8_GROUP;
        end = k - i < MOE_FP8_GROUP ? k : i + MOE_FP8_GROUP;
        sum = 0;

        for (/* void */; i < end; i++) {
            sum += run->values[w[i]] * run->values[row[i]];
        }

        memcpy(&scale, row + moe_fp8_scales(k) + g * sizeof(float), 4);
        acc = fmaf((float) sum, scales[g] * scale, acc);
    }

    return acc;
}


static void
task(void *ctx, uint32_t n, uint32_t thread)
{
    float                acc;
    uint32_t             r, col, end;
    const run_t         *run = ctx;
    const moe_matmul_t  *p;

    (void) thread;

    p = run->part;
    end = p->w.n - n * COLS < COLS ? p->w.n : (n + 1) * COLS;

    for (r = 0; r < run->nrows; r++) {
        for (col = n * COLS; col < end; col++) {
            acc = dot(run, col, run->q + r * moe_fp8_row(p->w.k));
            p->out[(run->first + r) * p->ldo + col]
                = p->bias ? acc + p->bias[col] : acc;
        }
    }
}


/* as many rows at a time as there is memory for */
static void
matmul_run(const moe_kctx_t *c, const moe_matmul_t *p)
{
    run_t     run;
    uint32_t  i, r, most;

    run.part = p;
    run.q = c->quant;
    most = (uint32_t) (c->quant_size / moe_quant_row(p->w.k));

    for (i = 0; i < 256; i++) {
        run.values[i] = (double) moe_fp8_value((uint8_t) i);
    }

    for (r = 0; r < p->nrows && most != 0; r += run.nrows) {
        run.first = r;
        run.nrows = p->nrows - r < most ? p->nrows - r : most;

        for (i = 0; i < run.nrows; i++) {
            quantize(p->x + (r + i) * p->ldx, p->w.k,
                     c->quant + i * moe_fp8_row(p->w.k));
        }

        moe_pool_run(c->pool, (p->w.n + COLS - 1) / COLS, task, &run);
    }
}


static void
matmul(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    uint32_t  i;

    for (i = 0; i < nparts; i++) {
        if (parts[i].w.type == MOE_W_F8_E4M3 && !parts[i].keep_x) {
            matmul_run(c, &parts[i]);
        } else {
            moe_kernels_plain.matmul(c, &parts[i], 1);
        }
    }
}


static moe_kernels_t   plain;
static pthread_once_t  once = PTHREAD_ONCE_INIT;


static void
make_set(void)
{
    plain = moe_kernels_plain;
    plain.name = "plain-fp8";
    plain.set = "lanes16-fma-fp8";
    plain.matmul = matmul;
}


const moe_kernels_t *
moe_fp8_plain(void)
{
    (void) pthread_once(&once, make_set);

    return &plain;
}
