/*
 * rows: what is done to each row, or each element, on its own.
 */

#include "kernels/cuda/device.cuh"


enum { THREADS = 256 };

/* elements of a row at a time */
static const uint32_t  NORM_BLOCK = 2048;


/* this thread's element of all */
__device__ static inline size_t
my_element(void)
{
    return (size_t) blockIdx.x * THREADS + threadIdx.x;
}


template <moe_wtype_e TYPE>
__global__ void
embed_kernel(moe_matrix_t w, const uint32_t *ids, uint32_t nrows, float *out)
{
    float     x;
    size_t    i;
    uint32_t  id, k;

    i = my_element();

    if (i >= (size_t) nrows * w.k) {
        return;
    }

    id = ids[i / w.k];
    k = (uint32_t) (i % w.k);
    x = load_as_f32<TYPE>(w.data, (size_t) id * w.k + k);

    if (TYPE == MOE_W_F8_E4M3) {
        x = x * w.scale[(size_t) (id + w.row0) / 128 * w.scale_cols
                        + k / 128];
    }

    out[i] = x;
}


void
cuda_embed(const moe_kctx_t *c, const moe_matrix_t *w, const uint32_t *ids,
    uint32_t nrows, float *out)
{
    size_t   blocks;
    void   (*kernel)(moe_matrix_t, const uint32_t *, uint32_t, float *);

    blocks = blocks_for((size_t) nrows * w->k, THREADS);

    kernel = w->type == MOE_W_F32 ? embed_kernel<MOE_W_F32>
             : w->type == MOE_W_F16 ? embed_kernel<MOE_W_F16>
             : w->type == MOE_W_BF16 ? embed_kernel<MOE_W_BF16>
             : embed_kernel<MOE_W_F8_E4M3>;

    launch(c, "embed", kernel, blocks, THREADS, 0, *w, ids, nrows, out);
}


/* a block has one group of one row; half a warp adds up what all have read */
__global__ void
rmsnorm_kernel(const float *x, size_t ldx, uint32_t groups, uint32_t n,
    const float *w, float eps, float *out, size_t ldo)
{
    float     acc, t;
    size_t    row;
    uint32_t  g, i, from, part, tid;

    __shared__ float  block[NORM_BLOCK];
    __shared__ float  scale;

    tid = threadIdx.x;
    row = blockIdx.x / groups;
    g = blockIdx.x % groups;
    x += row * ldx + (size_t) g * n;
    out += row * ldo + (size_t) g * n;
    acc = 0.0f;

    for (from = 0; from < n; from += NORM_BLOCK) {
        part = n - from < NORM_BLOCK ? n - from : NORM_BLOCK;

        for (i = tid; i < part; i += THREADS) {
            block[i] = x[from + i];
        }

        __syncthreads();

        if (tid < HALF) {
            for (i = tid; i < part; i += HALF) {
                t = block[i];
                acc = acc + t * t;
            }
        }

        __syncthreads();
    }

    if (tid < WARP) {
        acc = lanes_sum(acc);
    }

    if (tid == 0) {
        scale = 1.0f / sqrtf(acc / (float) n + eps);
    }

    __syncthreads();

    for (i = tid; i < n; i += THREADS) {
        out[i] = x[i] * scale * w[i];
    }
}


void
cuda_rmsnorm(const moe_kctx_t *c, const float *x, size_t ldx,
    uint32_t groups, uint32_t n, const float *w, float eps, uint32_t nrows,
    float *out, size_t ldo)
{
    launch(c, "rmsnorm", rmsnorm_kernel, (size_t) nrows * groups, THREADS, 0,
           x, ldx, groups, n, w, eps, out, ldo);
}


__global__ void
rope_kernel(moe_rope_op_t p)
{
    float         a, b, cos, sin, *x;
    size_t        at, row;
    uint32_t      i, ia, ib, half;

    half = p.dim / 2;
    at = my_element();

    if (at >= (size_t) p.nrows * p.heads * half) {
        return;
    }

    i = (uint32_t) (at % half);
    row = at / half / p.heads;
    x = p.x + row * p.ldx + at / half % p.heads * p.head_ld + p.first;

    cos = p.cos[row * half + i];
    sin = p.sin[row * half + i];
    ia = p.interleave ? 2 * i : i;
    ib = p.interleave ? 2 * i + 1 : i + half;

    a = x[ia];
    b = x[ib];
    x[ia] = a * cos - b * sin;
    x[ib] = b * cos + a * sin;
}


void
cuda_rope(const moe_kctx_t *c, const moe_rope_op_t *op)
{
    launch(c, "rope", rope_kernel,
           blocks_for((size_t) op->nrows * op->heads * (op->dim / 2),
                      THREADS),
           THREADS, 0, *op);
}


__global__ void
clamp_kernel(float *x, size_t ldx, uint32_t nrows, uint32_t n, float limit)
{
    float   v;
    size_t  i;

    i = my_element();

    if (i < (size_t) nrows * n) {
        x += i / n * ldx + i % n;
        v = *x;
        v = v > limit ? limit : v;
        *x = v < -limit ? -limit : v;
    }
}


void
cuda_clamp(const moe_kctx_t *c, float *x, size_t ldx, uint32_t nrows,
    uint32_t n, float limit)
{
    launch(c, "clamp", clamp_kernel, blocks_for((size_t) nrows * n, THREADS),
           THREADS, 0, x, ldx, nrows, n, limit);
}


__global__ void
silu_mul_kernel(float *gate, const float *up, size_t n)
{
    size_t  i;

    i = my_element();

    if (i < n) {
        gate[i] = silu_mul(gate[i], up[i]);
    }
}


void
cuda_silu_mul(const moe_kctx_t *c, float *gate, const float *up, size_t n)
{
    launch(c, "silu_mul", silu_mul_kernel, blocks_for(n, THREADS), THREADS,
           0, gate, up, n);
}


__global__ void
clamped_mul_kernel(moe_clamped_t p, float *gate, const float *up, size_t n)
{
    size_t  i;

    i = my_element();

    if (i < n) {
        gate[i] = clamped_mul(gate[i], up[i], p.alpha, p.limit);
    }
}


void
cuda_clamped_mul(const moe_kctx_t *c, const moe_clamped_t *p, float *gate,
    const float *up, size_t n)
{
    launch(c, "clamped_mul", clamped_mul_kernel, blocks_for(n, THREADS),
           THREADS, 0, *p, gate, up, n);
}


__global__ void
permute_kernel(moe_permute_t p)
{
    float     x;
    size_t    i;
    uint32_t  row;

    i = my_element();

    if (i >= (size_t) p.n * p.width) {
        return;
    }

    row = (uint32_t) (i / p.width);

    if (p.at[row] == MOE_NO_ROW) {
        return;
    }

    x = p.x[(size_t) (row / p.per) * p.width + i % p.width];

    p.out[(size_t) p.at[row] * p.width + i % p.width]
        = p.bf16 ? round_bf16(x) : x;
}


void
cuda_permute(const moe_kctx_t *c, const moe_permute_t *op)
{
    launch(c, "permute", permute_kernel,
           blocks_for((size_t) op->n * op->width, THREADS), THREADS, 0, *op);
}


__global__ void
pack_kernel(moe_pack_t p)
{
    char      *to;
    float      x;
    size_t     i, col;
    uint32_t   row;

    i = my_element();
    row = (uint32_t) (i / p.width);
    col = i % p.width;

    if (row >= p.n || p.from[row] == MOE_NO_ROW) {
        return;
    }

    x = ((const float *) p.x)[(size_t) p.from[row] * p.width + col];
    to = (char *) p.out + row * p.stride;

    if (p.bf16) {
        ((uint16_t *) to)[col] = f32_to_bf16(x);
    } else {
        ((float *) to)[col] = x;
    }
}


void
cuda_pack(const moe_kctx_t *c, const moe_pack_t *op)
{
    launch(c, "pack", pack_kernel,
           blocks_for((size_t) op->n * op->width, THREADS), THREADS, 0, *op);
}


__global__ void
unpack_kernel(moe_pack_t p)
{
    size_t       i, col;
    uint32_t     row;
    const char  *from;

    i = my_element();
    row = (uint32_t) (i / p.width);
    col = i % p.width;

    if (row >= p.n) {
        return;
    }

    from = (const char *) p.x + p.from[row] * p.stride;

    ((float *) p.out)[i] = p.bf16 ? load_as_f32<MOE_W_BF16>(from, col)
                                  : load_as_f32<MOE_W_F32>(from, col);
}


void
cuda_unpack(const moe_kctx_t *c, const moe_pack_t *op)
{
    launch(c, "unpack", unpack_kernel,
           blocks_for((size_t) op->n * op->width, THREADS), THREADS, 0, *op);
}


__global__ void
round_kernel(float *x, size_t n)
{
    size_t  i;

    i = my_element();

    if (i < n) {
        x[i] = round_bf16(x[i]);
    }
}


void
cuda_round_bf16(const moe_kctx_t *c, float *x, size_t n)
{
    launch(c, "round_bf16", round_kernel, blocks_for(n, THREADS), THREADS, 0,
           x, n);
}


__global__ void
combine_kernel(moe_combine_t p)
{
    float     t, g;
    size_t    at, col;
    uint32_t  s, row;

    at = my_element();

    if (at >= (size_t) p.nrows * p.n) {
        return;
    }

    row = (uint32_t) (at / p.n);
    col = at % p.n;
    t = 0.0f;

    for (s = row * p.top_k; s < (row + 1) * p.top_k; s++) {
        if (p.at[s] != MOE_NO_ROW) {
            t = fmaf(p.y[(size_t) p.at[s] * p.n + col], p.weight[s], t);
        }
    }

    if (p.shared != NULL) {
        g = p.gate ? 1.0f / (lane_exp(-p.gate[row]) + 1.0f) : 1.0f;
        t = t + p.shared[at] * g;
    }

    p.x[at] = p.x[at] + t;
}


void
cuda_combine(const moe_kctx_t *c, const moe_combine_t *op)
{
    launch(c, "combine", combine_kernel,
           blocks_for((size_t) op->nrows * op->n, THREADS), THREADS, 0, *op);
}


__global__ void
copy_kernel(const float *x, size_t ldx, uint32_t nrows, uint32_t n,
    float *out, size_t ldo)
{
    size_t  i;

    i = my_element();

    if (i < (size_t) nrows * n) {
        out[i / n * ldo + i % n] = x[i / n * ldx + i % n];
    }
}


void
cuda_copy(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t nrows,
    uint32_t n, float *out, size_t ldo)
{
    launch(c, "copy", copy_kernel, blocks_for((size_t) nrows * n, THREADS),
           THREADS, 0, x, ldx, nrows, n, out, ldo);
}


/* a thread has a column and takes its rows one after the other, so that they
 * can move up in place */
__global__ void
gather_kernel(const float *x, const uint32_t *at, uint32_t nrows, uint32_t n,
    float *out)
{
    size_t    i;
    uint32_t  r;

    i = my_element();

    for (r = 0; i < n && r < nrows; r++) {
        out[(size_t) r * n + i] = x[(size_t) at[r] * n + i];
    }
}


void
cuda_gather(const moe_kctx_t *c, const float *x, const uint32_t *at,
    uint32_t nrows, uint32_t n, float *out)
{
    launch(c, "gather", gather_kernel, blocks_for(n, THREADS), THREADS, 0, x,
           at, nrows, n, out);
}


__global__ void
add_kernel(float *x, const float *y, size_t n)
{
    size_t  i;

    i = my_element();

    if (i < n) {
        x[i] = x[i] + y[i];
    }
}


void
cuda_add(const moe_kctx_t *c, float *x, const float *y, size_t n)
{
    launch(c, "add", add_kernel, blocks_for(n, THREADS), THREADS, 0, x, y,
           n);
}


__global__ void
argmax_kernel(const float *x, size_t ldx, uint32_t n, uint32_t *out)
{
    uint32_t  i, j, step, tid;

    __shared__ float     value[THREADS];
    __shared__ uint32_t  index[THREADS];

    tid = threadIdx.x;
    x += blockIdx.x * ldx;

    j = tid < n ? tid : 0;
    for (i = tid + THREADS; i < n; i += THREADS) {
        j = x[i] > x[j] ? i : j;
    }

    value[tid] = x[j];
    index[tid] = j;
    __syncthreads();

    for (step = THREADS / 2; step > 0; step /= 2) {

        if (tid < step
            && (value[tid + step] > value[tid]
                || (value[tid + step] == value[tid]
                    && index[tid + step] < index[tid])))
        {
            value[tid] = value[tid + step];
            index[tid] = index[tid + step];
        }

        __syncthreads();
    }

    if (tid == 0) {
        out[blockIdx.x] = index[0];
    }
}


void
cuda_argmax(const moe_kctx_t *c, const float *x, size_t ldx, uint32_t nrows,
    uint32_t n, uint32_t *out)
{
    launch(c, "argmax", argmax_kernel, nrows, THREADS, 0, x, ldx, n, out);
}
