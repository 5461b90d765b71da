/*
 * matmul: products with weights.
 *
 * Element k of every sum belongs to lane k mod 16 and is added by a fused
 * multiply-add, whatever the number of rows: half a warp has some columns of
 * some rows, each of its threads one lane of all of them.  K is never cut.
 *
 *   few     at most 8 rows: half a warp has one column and all rows, and
 *           reads the column once
 *   tiled   32 rows by 32 columns a block, through shared memory, 8 by 8 of
 *           them half a warp
 */

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/tiles.h"
#include "kernels/cpu/packed.h"


enum {
    THREADS = 256,
    HALVES = THREADS / HALF,    /* of a block */
    FEW = MOE_TILE_FEW,         /* rows */
    SIDE = 8,                   /* rows, and columns, of half a warp */
    TILE = MOE_TILE_MANY,       /* rows, and columns, of a block */
    DEPTH = 64,                 /* elements of k at a time */
    PITCH = DEPTH + 2           /* both halves of a warp at different banks */
};


typedef struct {
    moe_tiles_t   tiles;
    moe_matmul_t  parts[MOE_TILE_PARTS];
} work_t;


/* element [col][k] as it enters the sum */
template <moe_wtype_e TYPE>
__device__ static inline float
weight(const moe_matrix_t &w, uint32_t col, uint32_t k)
{
    float  x;

    x = load_as_f32<TYPE>(w.data, (size_t) col * w.k + k);

    if (TYPE == MOE_W_F8_E4M3) {
        x = x * w.scale[(size_t) (col + w.row0) / 128 * w.scale_cols
                        + k / 128];
    }

    return x;
}


__device__ static inline void
store(const moe_matmul_t &p, uint32_t row, uint32_t col, float dot)
{
    p.out[row * p.ldo + col] = p.bias ? dot + p.bias[col] : dot;
}


template <moe_wtype_e TYPE, int ROWS>
__device__ static inline void
few(const moe_matmul_t &p, uint32_t col)
{
    int       i;
    float     w, acc[ROWS];
    uint32_t  k, lane;

    lane = threadIdx.x % HALF;

    for (i = 0; i < ROWS; i++) {
        acc[i] = 0.0f;
    }

    for (k = lane; col < p.w.n && k < p.w.k; k += HALF) {
        w = weight<TYPE>(p.w, col, k);

        for (i = 0; i < ROWS; i++) {
            if (i < (int) p.nrows) {
                acc[i] = fmaf(p.x[i * p.ldx + k], w, acc[i]);
            }
        }
    }

    for (i = 0; i < ROWS; i++) {
        acc[i] = lanes_sum(acc[i]);

        if (lane == 0 && col < p.w.n && i < (int) p.nrows) {
            store(p, (uint32_t) i, col, acc[i]);
        }
    }
}


/* columns of block col */
template <int ROWS>
__device__ static inline void
few_of(const moe_matmul_t &p, uint32_t col)
{
    col = col * HALVES + threadIdx.x / HALF;

    switch (p.w.type) {
    case MOE_W_F32:
        few<MOE_W_F32, ROWS>(p, col);
        break;
    case MOE_W_F16:
        few<MOE_W_F16, ROWS>(p, col);
        break;
    case MOE_W_BF16:
        few<MOE_W_BF16, ROWS>(p, col);
        break;
    default:
        few<MOE_W_F8_E4M3, ROWS>(p, col);
    }
}


template <int ROWS>
__global__ void
few_kernel(const __grid_constant__ work_t work)
{
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);
    few_of<ROWS>(work.parts[t.part], t.col);
}


/* rows first .. first + 31 of x, and columns of w, DEPTH elements from k on;
 * zeros where there is nothing */
template <moe_wtype_e TYPE>
__device__ static inline void
stage(const moe_matmul_t &p, uint32_t row, uint32_t col, uint32_t k,
    float *x, float *w)
{
    uint32_t  i, r, at;

    for (i = threadIdx.x; i < TILE * DEPTH; i += THREADS) {
        r = i / DEPTH;
        at = i % DEPTH;

        x[r * PITCH + at] = row + r < p.nrows && k + at < p.w.k
                            ? p.x[(row + r) * p.ldx + k + at] : 0.0f;
        w[r * PITCH + at] = col + r < p.w.n && k + at < p.w.k
                            ? weight<TYPE>(p.w, col + r, k + at) : 0.0f;
    }
}


template <moe_wtype_e TYPE>
__device__ static inline void
tiled(const moe_matmul_t &p, uint32_t row, uint32_t col, float *x, float *w)
{
    int           i, j;
    float         a[SIDE], b[SIDE], acc[SIDE][SIDE];
    uint32_t      k, d, lane, half;
    const float  *xs, *ws;

    lane = threadIdx.x % HALF;
    half = threadIdx.x / HALF;
    xs = x + half / (TILE / SIDE) * SIDE * PITCH + lane;
    ws = w + half % (TILE / SIDE) * SIDE * PITCH + lane;

    #pragma unroll
    for (i = 0; i < SIDE; i++) {
        #pragma unroll
        for (j = 0; j < SIDE; j++) {
            acc[i][j] = 0.0f;
        }
    }

    for (k = 0; k < p.w.k; k += DEPTH) {
        stage<TYPE>(p, row, col, k, x, w);
        __syncthreads();

        for (d = 0; d < DEPTH; d += HALF) {

            #pragma unroll
            for (i = 0; i < SIDE; i++) {
                a[i] = xs[i * PITCH + d];
                b[i] = ws[i * PITCH + d];
            }

            #pragma unroll
            for (i = 0; i < SIDE; i++) {
                #pragma unroll
                for (j = 0; j < SIDE; j++) {
                    acc[i][j] = fmaf(a[i], b[j], acc[i][j]);
                }
            }
        }

        __syncthreads();
    }

    row += half / (TILE / SIDE) * SIDE;
    col += half % (TILE / SIDE) * SIDE;

    #pragma unroll
    for (i = 0; i < SIDE; i++) {
        #pragma unroll
        for (j = 0; j < SIDE; j++) {
            acc[i][j] = lanes_sum(acc[i][j]);

            if (lane == (uint32_t) (i * SIDE + j) % HALF
                && row + i < p.nrows && col + j < p.w.n)
            {
                store(p, row + i, col + j, acc[i][j]);
            }
        }
    }
}


/* the tile in this row and column of tiles */
__device__ static inline void
tiled_of(const moe_matmul_t &p, uint32_t row, uint32_t col)
{
    __shared__ float  x[TILE * PITCH];
    __shared__ float  w[TILE * PITCH];

    switch (p.w.type) {
    case MOE_W_F32:
        tiled<MOE_W_F32>(p, row * TILE, col * TILE, x, w);
        break;
    case MOE_W_F16:
        tiled<MOE_W_F16>(p, row * TILE, col * TILE, x, w);
        break;
    case MOE_W_BF16:
        tiled<MOE_W_BF16>(p, row * TILE, col * TILE, x, w);
        break;
    default:
        tiled<MOE_W_F8_E4M3>(p, row * TILE, col * TILE, x, w);
    }
}


__global__ void
tiled_kernel(const __grid_constant__ work_t work)
{
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);
    tiled_of(work.parts[t.part], t.row, t.col);
}


/* at most MOE_TILE_PARTS parts, none of them packed */
static void
run(const moe_kctx_t *c, const moe_matmul_t *parts, uint32_t nparts)
{
    work_t     work;
    uint32_t   i, most, rows, cols;
    void     (*kernel)(const work_t);

    most = 0;
    for (i = 0; i < nparts; i++) {
        most = parts[i].nrows > most ? parts[i].nrows : most;
    }

    kernel = most > FEW ? tiled_kernel : most > 4 ? few_kernel<8>
             : most > 2 ? few_kernel<4> : most > 1 ? few_kernel<2>
             : few_kernel<1>;
    rows = most > FEW ? TILE : FEW;
    cols = most > FEW ? TILE : HALVES;

    work.tiles.nparts = 0;

    for (i = 0; i < nparts; i++) {
        work.parts[i] = parts[i];
        moe_tiles_add(&work.tiles, parts[i].nrows, parts[i].w.n, rows, cols);
    }

    launch(c, "matmul", kernel, moe_tiles_count(&work.tiles), THREADS, 0,
           work);
}


void
cuda_matmul(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    uint32_t  i, n;

    for (i = 0; i < nparts; i += n) {
        n = 1;

        if (moe_is_packed(parts[i].w.type)) {
            cuda_matmul_packed(c, &parts[i]);
            continue;
        }

        while (i + n < nparts && n < MOE_TILE_PARTS
               && !moe_is_packed(parts[i + n].w.type))
        {
            n++;
        }

        run(c, parts + i, n);
    }
}


/* this block's tile of rows sorted by expert: of gate and up, one behind the
 * other, or of down.  0: it has none */
__device__ static inline int
sorted_part(const sorted_t &s, int down, moe_matmul_t *p, uint32_t *col)
{
    uint32_t  e, row;

    if (!sorted_rows(s, &e, &row, &p->nrows)) {
        return 0;
    }

    const moe_expert_t  &x = s.experts[e];

    *col = blockIdx.x % s.cols;

    if (down) {
        p->w = x.down;
        p->bias = x.down_bias;
        p->x = s.gate + (size_t) row * x.down.k;
        p->out = s.out + (size_t) row * x.down.n;

    } else {
        p->w = *col < s.cols / 2 ? x.gate : x.up;
        p->bias = *col < s.cols / 2 ? x.gate_bias : x.up_bias;
        p->x = s.x + (size_t) row * x.gate.k;
        p->out = (*col < s.cols / 2 ? s.gate : s.up)
                 + (size_t) row * x.gate.n;
        *col %= s.cols / 2;
    }

    p->ldx = p->w.k;
    p->ldo = p->w.n;

    return 1;
}


__global__ void
sorted_few_kernel(const sorted_t s, int down)
{
    uint32_t      col;
    moe_matmul_t  p;

    if (sorted_part(s, down, &p, &col)) {
        few_of<FEW>(p, col);
    }
}


__global__ void
sorted_tiled_kernel(const sorted_t s, int down)
{
    uint32_t      col;
    moe_matmul_t  p;

    if (sorted_part(s, down, &p, &col)) {
        tiled_of(p, 0, col);
    }
}


void
cuda_experts_plain(const moe_kctx_t *c, const moe_experts_op_t *op)
{
    int         many;
    size_t      n;
    uint32_t    wide;
    sorted_t    s;
    void      (*kernel)(const sorted_t, int);

    many = moe_rows_are_many(op->slots, op->n_experts);
    kernel = many ? sorted_tiled_kernel : sorted_few_kernel;
    wide = many ? TILE : HALVES;
    n = (size_t) op->slots * op->like->gate.n;

    s = sorted_of(op, many ? TILE : FEW);
    s.cols = 2 * (uint32_t) blocks_for(op->like->gate.n, wide);
    launch(c, "experts, gate and up", kernel, sorted_blocks(op, s), THREADS,
           0, s, 0);

    if (op->clamped != NULL) {
        cuda_clamped_mul(c, op->clamped, op->gate, op->up, n);
    } else {
        cuda_silu_mul(c, op->gate, op->up, n);
    }

    s.cols = (uint32_t) blocks_for(op->like->down.n, wide);
    launch(c, "experts, down", kernel, sorted_blocks(op, s), THREADS, 0, s,
           1);
}


/* a thread has one output, and adds its rows of w in ascending order */
template <moe_wtype_e TYPE>
__device__ static inline void
transposed(const moe_matmul_t &p, uint32_t row, uint32_t col)
{
    float     acc;
    uint32_t  i;

    acc = 0.0f;

    for (i = 0; i < p.w.n; i++) {
        acc = fmaf(weight<TYPE>(p.w, i, col), p.x[row * p.ldx + i], acc);
    }

    p.out[row * p.ldo + col] = acc;
}


__global__ void
transposed_kernel(const __grid_constant__ work_t work)
{
    uint32_t    col;
    moe_tile_t  t;

    t = moe_tiles_find(&work.tiles, blockIdx.x);
    col = t.col * THREADS + threadIdx.x;

    const moe_matmul_t  &p = work.parts[t.part];

    if (col >= p.w.k) {
        return;
    }

    switch (p.w.type) {
    case MOE_W_F32:
        transposed<MOE_W_F32>(p, t.row, col);
        break;
    case MOE_W_F16:
        transposed<MOE_W_F16>(p, t.row, col);
        break;
    case MOE_W_BF16:
        transposed<MOE_W_BF16>(p, t.row, col);
        break;
    default:
        transposed<MOE_W_F8_E4M3>(p, t.row, col);
    }
}


void
cuda_matmul_t(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts)
{
    work_t    work;
    uint32_t  i, j;

    for (i = 0; i < nparts; i += MOE_TILE_PARTS) {
        work.tiles.nparts = 0;

        for (j = i; j < nparts && j < i + MOE_TILE_PARTS; j++) {
            work.parts[j - i] = parts[j];
            moe_tiles_add(&work.tiles, parts[j].nrows, parts[j].w.k, 1,
                          THREADS);
        }

        launch(c, "matmul_t", transposed_kernel,
               moe_tiles_count(&work.tiles), THREADS, 0, work);
    }
}
