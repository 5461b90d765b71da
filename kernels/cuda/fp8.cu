/*
 * fp8: products of FP8 weights with inputs in FP8, see kernels/fp8.h, whose
 * sums these are.  Half a warp has one column of up to eight rows and reads it
 * once, eight of a group's 128 codes a thread; sums of a group are exact in
 * double, so that who adds what is of no account.
 */

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/glu.cuh"
#include "kernels/fp8.h"


enum {
    THREADS = 256,
    HALVES = THREADS / HALF,    /* of a block */
    ROWS = THREADS / WARP,      /* most that half a warp has */
    EACH = 8,                   /* codes of a thread, of a group's 128 */
    H = 8 * 128                 /* values of gate and up of a block */
};


/* scale of group g of a quantized row of k */
__device__ static inline float
row_scale(const uint8_t *row, uint32_t k, uint32_t g)
{
    return ((const float *) (row + moe_fp8_scales(k)))[g];
}


/* a warp's four values a thread, into group g of a row of k */
__device__ static inline void
quantize(const float *x, uint8_t *row, uint32_t k, uint32_t g)
{
    int       i;
    float     by, scale;
    uint32_t  at, bits, other, lane;

    lane = threadIdx.x % WARP;
    bits = 0;

    for (i = 0; i < 4; i++) {
        other = as_bits(x[i]) & 0x7fffffff;
        bits = other > bits ? other : bits;
    }

    for (i = WARP / 2; i > 0; i /= 2) {
        other = __shfl_xor_sync(0xffffffff, bits, i);
        bits = other > bits ? other : bits;
    }

    by = moe_fp8_scale(bits, &scale);
    at = g * MOE_FP8_GROUP + lane;

    for (i = 0; i < 4; i++, at += WARP) {
        if (at < k) {
            row[at] = by != 0 ? moe_fp8_code(x[i] * by) : (uint8_t) 0;
        }
    }

    if (lane == 0) {
        ((float *) (row + moe_fp8_scales(k)))[g] = scale;
    }
}


/* a warp has group g of a row */
__global__ void
fp8_quantize_kernel(const float *x, size_t ldx, uint32_t k, uint32_t nrows,
    uint8_t *q)
{
    float     v[4];
    size_t    i;
    uint32_t  j, row, g, at, groups;

    groups = moe_fp8_groups(k);
    i = (size_t) blockIdx.x * ROWS + threadIdx.x / WARP;

    if (i >= (size_t) nrows * groups) {
        return;
    }

    row = (uint32_t) (i / groups);
    g = (uint32_t) (i % groups);
    at = g * MOE_FP8_GROUP + threadIdx.x % WARP;

    for (j = 0; j < 4; j++, at += WARP) {
        v[j] = at < k ? x[row * ldx + at] : 0.0f;
    }

    quantize(v, q + row * moe_fp8_row(k), k, g);
}


static void
quantize_rows(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t k,
    uint32_t nrows, uint8_t *q)
{
    launch(c, "quantize, fp8", fp8_quantize_kernel,
           blocks_for((size_t) nrows * moe_fp8_groups(k), ROWS), THREADS, 0,
           x, ldx, k, nrows, q);
}


/* this thread's codes of a group, zeros where there are none */
__device__ static inline void
load_codes(const uint8_t *p, uint32_t at, uint32_t k, double *v)
{
    uint32_t  i;

    for (i = 0; i < EACH; i++) {
        v[i] = at + i < k ? (double) moe_fp8_value(p[at + i]) : 0.0;
    }
}


/* dot[i] = row i of q by a column of w, the same in all of half a warp; a
 * column that w does not have gives anything */
__device__ static inline void
column(const moe_matrix_t &w, uint32_t col, const uint8_t *q, uint32_t nrows,
    float *dot)
{
    int             i, j;
    float           scale;
    double          wv[EACH], xv[EACH], sum;
    uint32_t        g, at, k;
    const float    *scales;
    const uint8_t  *row, *data;

    k = w.k;
    col = col < w.n ? col : w.n - 1;
    data = (const uint8_t *) w.data + (size_t) col * k;
    scales = w.scale + (size_t) (col + w.row0) / 128 * w.scale_cols;

    for (i = 0; i < ROWS; i++) {
        dot[i] = 0.0f;
    }

    for (g = 0; g < moe_fp8_groups(k); g++) {
        at = g * MOE_FP8_GROUP + threadIdx.x % HALF * EACH;
        load_codes(data, at, k, wv);

        #pragma unroll
        for (i = 0; i < ROWS; i++) {
            if (i >= (int) nrows) {
                break;
            }

            row = q + i * moe_fp8_row(k);
            load_codes(row, at, k, xv);
            sum = 0.0;

            for (j = 0; j < EACH; j++) {
                sum += wv[j] * xv[j];
            }

            for (j = HALF / 2; j > 0; j /= 2) {
                sum += __shfl_xor_sync(0xffffffff, sum, j);
            }

            scale = scales[g] * row_scale(row, k, g);
            dot[i] = fmaf((float) sum, scale, dot[i]);
        }
    }
}


/* a half's column of up to eight rows, from row on, into out */
__device__ static inline void
product(const moe_matrix_t &w, const uint8_t *q, const float *bias,
    float *out, size_t ldo, uint32_t nrows, uint32_t row, uint32_t col)
{
    int    i;
    float  dot[ROWS];

    column(w, col, q + row * moe_fp8_row(w.k), nrows - row, dot);

    for (i = 0; i < ROWS && i < (int) (nrows - row); i++) {
        if (threadIdx.x % HALF == 0 && col < w.n) {
            out[(row + i) * ldo + col] = bias ? dot[i] + bias[col] : dot[i];
        }
    }
}


__global__ void
fp8_product_kernel(moe_matmul_t p)
{
    uint32_t  cols;

    cols = p.w.n / HALVES + (p.w.n % HALVES != 0);

    product(p.w, p.q, p.bias, p.out, p.ldo, p.nrows,
            blockIdx.x / cols * ROWS,
            blockIdx.x % cols * HALVES + threadIdx.x / HALF);
}


/* as many rows at a time as there is memory for */
static void
matmul_part(const moe_kctx_t *c, const moe_matmul_t *part)
{
    uint32_t      row, most;
    moe_matmul_t  p;

    most = (uint32_t) (c->quant_size / moe_quant_row(part->w.k));

    for (row = 0; row < part->nrows && most != 0; row += p.nrows) {
        p = *part;
        p.nrows = part->nrows - row < most ? part->nrows - row : most;
        p.x += row * p.ldx;
        p.out += row * p.ldo;
        p.q = c->quant;

        quantize_rows(c, p.x, p.ldx, p.w.k, p.nrows, c->quant);
        launch(c, "matmul, fp8", fp8_product_kernel,
               blocks_for(p.nrows, ROWS) * blocks_for(p.w.n, HALVES),
               THREADS, 0, p);
    }
}


void
cuda_matmul_fp8(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    int       mine;
    uint32_t  i, n;

    for (i = 0; i < nparts; i += n) {
        n = 0;

        do {
            mine = parts[i + n].w.type == MOE_W_F8_E4M3
                   && !parts[i + n].keep_x;
        } while (!mine && i + ++n < nparts);

        if (n != 0) {
            cuda_matmul(c, parts + i, n);
            continue;
        }

        matmul_part(c, &parts[i]);
        n = 1;
    }
}


/* gate, up, silu and the rounding for down: 128 columns of up to eight rows */
__device__ static inline void
glu_in(const glu_part_t &p, uint32_t row, uint32_t group, float *h)
{
    int             i;
    float           g[ROWS], u[ROWS], v[4];
    uint32_t        c, col, nrows, warp;
    const uint8_t  *q;

    q = p.q + row * moe_fp8_row(p.gate.k);
    nrows = p.nrows - row;

    for (c = threadIdx.x / HALF; c < MOE_FP8_GROUP; c += HALVES) {
        col = group * MOE_FP8_GROUP + c;

        column(p.gate, col, q, nrows, g);
        column(p.up, col, q, nrows, u);

        for (i = 0; i < ROWS && i < (int) nrows; i++) {
            if (threadIdx.x % HALF == 0) {
                h[i * MOE_FP8_GROUP + c]
                    = col < p.gate.n ? glu_value(p, col, g[i], u[i]) : 0.0f;
            }
        }
    }

    __syncthreads();

    warp = threadIdx.x / WARP;

    if (warp < nrows) {
        for (i = 0; i < 4; i++) {
            v[i] = h[warp * MOE_FP8_GROUP + i * WARP + threadIdx.x % WARP];
        }

        quantize(v, p.h + (row + warp) * moe_fp8_row(p.gate.n), p.gate.n,
                 group);
    }
}


__global__ void
fp8_glu_in_kernel(const __grid_constant__ glu_work_t work)
{
    moe_tile_t  t;

    __shared__ float  h[H];

    t = moe_tiles_find(&work.tiles, blockIdx.x);
    glu_in(work.parts[t.part], t.row * ROWS, t.col, h);
}


__global__ void
fp8_glu_out_kernel(const __grid_constant__ glu_work_t work)
{
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);

    const glu_part_t  &p = work.parts[t.part];

    product(p.down, p.h, p.down_bias, p.out, p.down.n, p.nrows, t.row * ROWS,
               t.col * HALVES + threadIdx.x / HALF);
}


/* gate and up of rows sorted by expert, or down */
__global__ void
fp8_sorted_kernel(const sorted_t s, int down)
{
    uint32_t    col;
    glu_part_t  p;

    __shared__ float  h[H];

    if (!glu_sorted(s, &p)) {
        return;
    }

    col = blockIdx.x % s.cols;

    if (down) {
        product(p.down, p.h, p.down_bias, p.out, p.down.n, p.nrows, 0,
                col * HALVES + threadIdx.x / HALF);
    } else {
        glu_in(p, 0, col, h);
    }
}


void
cuda_experts_in_fp8(const moe_kctx_t *c, const moe_experts_op_t *op)
{
    sorted_t             s;
    const moe_matrix_t  *gate;

    static_assert((int) ROWS == (int) MOE_TILE_FEW, "half a warp, eight rows");

    gate = &op->like->gate;

    s = sorted_of(op, MOE_TILE_FEW);
    s.q_row = moe_fp8_row(gate->k);
    s.h_row = moe_fp8_row(gate->n);
    s.q = c->quant;
    s.h = c->quant + op->slots * moe_quant_row(gate->k);

    quantize_rows(c, op->x, gate->k, gate->k, op->slots, s.q);

    s.cols = moe_fp8_groups(gate->n);
    launch(c, "experts, fp8, gate and up", fp8_sorted_kernel,
           sorted_blocks(op, s), THREADS, 0, s, 0);

    s.cols = (uint32_t) blocks_for(op->like->down.n, HALVES);
    launch(c, "experts, fp8, down", fp8_sorted_kernel, sorted_blocks(op, s),
           THREADS, 0, s, 1);
}


static void
glu_fp8_in(const moe_kctx_t *c, glu_work_t *w)
{
    glu_tiles(w, 0, ROWS, MOE_FP8_GROUP);
    launch(c, "glu, fp8, gate and up", fp8_glu_in_kernel,
           moe_tiles_count(&w->tiles), THREADS, 0, *w);
}


static void
glu_fp8_out(const moe_kctx_t *c, glu_work_t *w)
{
    glu_tiles(w, 1, ROWS, HALVES);
    launch(c, "glu, fp8, down", fp8_glu_out_kernel,
           moe_tiles_count(&w->tiles), THREADS, 0, *w);
}


const glu_kind_t  glu_fp8 = {
    .quantize = quantize_rows,
    .in = glu_fp8_in,
    .out = glu_fp8_out
};
