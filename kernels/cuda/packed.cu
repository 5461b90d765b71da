/*
 * packed: products with weights in groups of 32, see kernels/cpu/packed.h,
 * whose layout and whose sums these are.  A warp has a strip's 32 columns of
 * one row: of each four inputs a thread reads one word, and the warp 128
 * bytes in a run.
 */

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/glu.cuh"

extern "C" {
#include "kernels/cpu/packed.h"
}


enum {
    THREADS = 256,
    ROWS = THREADS / WARP       /* of a block: a tile of few */
};

/* magnitudes below are taken for 0, as packed_body.h does */
#define AMAX_MIN  0x1p-100f


/* a row's quants, then its scales; never more than moe_quant_row() */
MOE_HOST_DEVICE static inline size_t
row_size(uint32_t groups)
{
    return ((size_t) groups * (MOE_GROUP + 4) + 63) / 64 * 64;
}


__device__ static inline float *
row_scales(const uint8_t *row, uint32_t groups)
{
    return (float *) (row + (size_t) groups * MOE_GROUP);
}


/* a warp's 32 values into group g of a row; what has no largest magnitude
 * becomes a NaN */
__device__ static inline void
quantize(float x, uint8_t *row, uint32_t groups, uint32_t g)
{
    int       i;
    float     amax;
    int32_t   q;
    uint32_t  bits, other, lane;

    lane = threadIdx.x % WARP;
    bits = as_bits(x) & 0x7fffffff;

    for (i = WARP / 2; i > 0; i /= 2) {
        other = __shfl_xor_sync(0xffffffff, bits, i);
        bits = other > bits ? other : bits;
    }

    amax = as_float(bits);
    q = 0;

    if (bits < 0x7f800000 && amax >= AMAX_MIN) {
        /* the low bits of 1.5 * 2^23 + r are r, to the nearest, ties to
         * even */
        q = (int32_t) (as_bits(x * (127.0f / amax) + 0x1.8p23f)
                       - 0x4b400000);
    }

    ((int8_t *) row)[g * MOE_GROUP + lane] = (int8_t) q;

    if (lane == 0) {
        row_scales(row, groups)[g] = bits >= 0x7f800000
                                     ? as_float(0x7fc00000)
                                     : amax < AMAX_MIN ? 0.0f
                                     : amax / 127.0f;
    }
}


/* the double of the number e2m1 with this code */
__device__ static inline int32_t
e2m1(uint32_t code)
{
    int32_t   v;
    uint32_t  m;

    m = code & 7;
    v = m < 2 ? (int32_t) m : (int32_t) ((2 + (m & 1)) << (m / 2 - 1));

    return code & 8 ? -v : v;
}


/* moe_e8m0() */
__device__ static inline float
e8m0(uint32_t e)
{
    return as_float(e == 255 ? 0x7fc00000
                    : e > 1 ? (e - 1) << 23 : (uint32_t) 0x200000 << e);
}


/* the sum of a group's products of one column; w: the words of that column,
 * 32 apart */

__device__ static inline int32_t
dot_i8(const uint32_t *w, const int32_t *x)
{
    int      j;
    int32_t  sum;

    sum = 0;

    for (j = 0; j < MOE_GROUP / 4; j++) {
        sum = __dp4a((int32_t) (w[j * WARP] ^ 0x80808080), x[j], sum);
    }

    return sum;
}


/* q + 8 in four bits becomes q in eight */
__device__ static inline int32_t
widen_i4(uint32_t q)
{
    return (int32_t) (((q & 0x0f0f0f0f) + 0x78787878) ^ 0x80808080);
}


__device__ static inline int32_t
dot_i4(const uint32_t *w, const int32_t *x)
{
    int      j;
    int32_t  sum;

    sum = 0;

    for (j = 0; j < MOE_GROUP / 8; j++) {
        sum = __dp4a(widen_i4(w[j * WARP]), x[2 * j], sum);
        sum = __dp4a(widen_i4(w[j * WARP] >> 4), x[2 * j + 1], sum);
    }

    return sum;
}


__device__ static inline int32_t
dot_mx4(const uint32_t *w, const int32_t *x)
{
    int      i, j;
    int32_t  sum;

    sum = 0;

    for (j = 0; j < MOE_GROUP / 8; j++) {
        for (i = 0; i < 32; i += 8) {
            sum += e2m1(w[j * WARP] >> i)
                   * (int8_t) ((uint32_t) x[2 * j] >> i);
            sum += e2m1(w[j * WARP] >> (i + 4))
                   * (int8_t) ((uint32_t) x[2 * j + 1] >> i);
        }
    }

    return sum;
}


/* strip s of w by one quantized row: this thread's column */
__device__ static inline float
column(const moe_matrix_t &w, uint32_t s, const uint8_t *row)
{
    float            acc, scale;
    size_t           size;
    int32_t          sum;
    uint32_t         g, lane, groups;
    const int32_t   *x;
    const uint8_t   *block;
    const uint32_t  *quants;

    lane = threadIdx.x % WARP;
    groups = w.k / MOE_GROUP + (w.k % MOE_GROUP != 0);
    size = w.type == MOE_W_I8_G32 ? MOE_I8_BLOCK
           : w.type == MOE_W_I4_G32 ? MOE_I4_BLOCK : MOE_MX4_BLOCK;
    block = (const uint8_t *) w.data + s * groups * size;
    acc = 0.0f;

    for (g = 0; g < groups; g++, block += size) {
        quants = (const uint32_t *) block + lane;
        x = (const int32_t *) row + g * (MOE_GROUP / 4);

        switch (w.type) {
        case MOE_W_I8_G32:
            sum = dot_i8(quants, x);
            scale = f16_to_f32(((const uint16_t *) (block + 1024))[lane]);
            break;
        case MOE_W_I4_G32:
            sum = dot_i4(quants, x);
            scale = f16_to_f32(((const uint16_t *) (block + 512))[lane]);
            break;
        default:
            sum = dot_mx4(quants, x);
            scale = e8m0(block[512 + lane]);
        }

        acc = fmaf((float) sum, scale * row_scales(row, groups)[g], acc);
    }

    return acc;
}


/* a warp has group g of a row */
__global__ void
quantize_kernel(const float *x, size_t ldx, uint32_t k, uint32_t nrows,
    uint8_t *q)
{
    size_t    i;
    uint32_t  row, g, at, groups;

    groups = k / MOE_GROUP + (k % MOE_GROUP != 0);
    i = (size_t) blockIdx.x * ROWS + threadIdx.x / WARP;

    if (i >= (size_t) nrows * groups) {
        return;
    }

    row = (uint32_t) (i / groups);
    g = (uint32_t) (i % groups);
    at = g * MOE_GROUP + threadIdx.x % WARP;

    quantize(at < k ? x[row * ldx + at] : 0.0f, q + row * row_size(groups),
             groups, g);
}


static void
quantize_rows(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t k,
    uint32_t nrows, uint8_t *q)
{
    launch(c, "quantize", quantize_kernel,
           blocks_for((size_t) nrows * moe_groups(k), ROWS), THREADS, 0, x,
           ldx, k, nrows, q);
}


/* out = x w^T + bias, x quantized: a strip of one row */
__device__ static inline void
product(const moe_matrix_t &w, const uint8_t *q, const float *bias,
    float *out, size_t ldo, uint32_t nrows, uint32_t row, uint32_t s)
{
    float     dot;
    uint32_t  col, groups;

    if (row >= nrows) {
        return;
    }

    groups = w.k / MOE_GROUP + (w.k % MOE_GROUP != 0);
    dot = column(w, s, q + row * row_size(groups));
    col = s * MOE_STRIP + threadIdx.x % WARP;

    if (col < w.n) {
        out[row * ldo + col] = bias ? dot + bias[col] : dot;
    }
}


__global__ void
product_kernel(moe_matmul_t p)
{
    uint32_t  strips;

    strips = p.w.n / MOE_STRIP + (p.w.n % MOE_STRIP != 0);

    product(p.w, p.q, p.bias, p.out, p.ldo, p.nrows,
            blockIdx.x / strips * ROWS + threadIdx.x / WARP,
            blockIdx.x % strips);
}


/* as many rows at a time as there is memory for */
void
cuda_matmul_packed(const moe_kctx_t *c, const moe_matmul_t *part)
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
        launch(c, "matmul, packed", product_kernel,
               blocks_for(p.nrows, ROWS) * moe_groups(p.w.n), THREADS, 0, p);
    }
}


/* gate, up, silu and the rounding for down: a warp has a strip of one row */
__device__ static inline void
glu_in(const glu_part_t &p, uint32_t row, uint32_t strip)
{
    float           g, u;
    uint32_t        col, groups;
    const uint8_t  *q;

    if (row >= p.nrows) {
        return;
    }

    groups = p.gate.k / MOE_GROUP + (p.gate.k % MOE_GROUP != 0);
    q = p.q + row * row_size(groups);
    col = strip * MOE_STRIP + threadIdx.x % WARP;

    g = column(p.gate, strip, q);
    u = column(p.up, strip, q);

    /* padding gives zeros, and has no bias */
    g = glu_value(p, col < p.gate.n ? col : 0, g, u);
    groups = p.gate.n / MOE_GROUP + (p.gate.n % MOE_GROUP != 0);

    quantize(col < p.gate.n ? g : 0.0f, p.h + row * row_size(groups), groups,
             strip);
}


__global__ void
glu_in_kernel(const __grid_constant__ glu_work_t work)
{
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);
    glu_in(work.parts[t.part], t.row * ROWS + threadIdx.x / WARP, t.col);
}


__global__ void
glu_out_kernel(const __grid_constant__ glu_work_t work)
{
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);

    const glu_part_t  &p = work.parts[t.part];

    product(p.down, p.h, p.down_bias, p.out, p.down.n, p.nrows,
            t.row * ROWS + threadIdx.x / WARP, t.col);
}


/* gate and up of rows sorted by expert, or down */
__global__ void
packed_sorted_kernel(const sorted_t s, int down)
{
    uint32_t    row, col;
    glu_part_t  p;

    if (!glu_sorted(s, &p)) {
        return;
    }

    row = threadIdx.x / WARP;
    col = blockIdx.x % s.cols;

    if (down) {
        product(p.down, p.h, p.down_bias, p.out, p.down.n, p.nrows, row, col);
    } else {
        glu_in(p, row, col);
    }
}


void
cuda_experts_packed(const moe_kctx_t *c, const moe_experts_op_t *op)
{
    sorted_t             s;
    const moe_matrix_t  *gate;

    static_assert((int) ROWS == (int) MOE_TILE_FEW, "a warp a row");

    gate = &op->like->gate;

    s = sorted_of(op, MOE_TILE_FEW);
    s.q_row = row_size(moe_groups(gate->k));
    s.h_row = row_size(moe_groups(gate->n));
    s.q = c->quant;
    s.h = c->quant + op->slots * moe_quant_row(gate->k);

    quantize_rows(c, op->x, gate->k, gate->k, op->slots, s.q);

    s.cols = moe_groups(gate->n);
    launch(c, "experts, packed, gate and up", packed_sorted_kernel,
           sorted_blocks(op, s), THREADS, 0, s, 0);

    s.cols = moe_groups(op->like->down.n);
    launch(c, "experts, packed, down", packed_sorted_kernel,
           sorted_blocks(op, s), THREADS, 0, s, 1);
}


static void
glu_packed_in(const moe_kctx_t *c, glu_work_t *w)
{
    glu_tiles(w, 0, ROWS, MOE_STRIP);
    launch(c, "glu, gate and up", glu_in_kernel, moe_tiles_count(&w->tiles),
           THREADS, 0, *w);
}


static void
glu_packed_out(const moe_kctx_t *c, glu_work_t *w)
{
    glu_tiles(w, 1, ROWS, MOE_STRIP);
    launch(c, "glu, down", glu_out_kernel, moe_tiles_count(&w->tiles),
           THREADS, 0, *w);
}


const glu_kind_t  glu_packed = {
    .quantize = quantize_rows,
    .in = glu_packed_in,
    .out = glu_packed_out
};
