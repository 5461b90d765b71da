/*
 * attention: queries over paged keys and values, latent and grouped, and
 * what is stored in pages.
 *
 * A block has one head of one row.  It takes pages in ascending order, 16
 * keys at a time: half a warp for each key's score, then in every warp the
 * same running maximum and sum, then each thread some columns of the value,
 * keys in ascending order.  Nothing hangs on other rows, on how rows are cut
 * into spans, or on the number of blocks.
 */

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/pages.h"


enum {
    THREADS = 128,
    HALVES = THREADS / HALF,    /* of a block */
    STORE_WARPS = THREADS / WARP
};


/* element i of n of a position in a page */
__device__ static inline float
page_load(moe_wtype_e type, const uint8_t *row, uint32_t n, uint32_t i)
{
    const float  *scales;

    switch (type) {
    case MOE_W_F32:
        return ((const float *) row)[i];
    case MOE_W_BF16:
        return load_as_f32<MOE_W_BF16>(row, i);
    default:
        scales = (const float *) (row + (size_t) (n + 31) / 32 * 32);
        return (float) ((const int8_t *) row)[i] * scales[i / 32];
    }
}


/* of a page's keys; what is not a key of this row does not matter */
__device__ static inline void
page_scores(const moe_kv_t &kv, uint32_t page, uint32_t head,
    const float *query, uint32_t from, uint32_t end, float *scores)
{
    float           acc;
    uint32_t        key, k, lane;
    const uint8_t  *row;

    lane = threadIdx.x % HALF;

    for (key = threadIdx.x / HALF; key < MOE_KV_PAGE; key += HALVES) {
        row = kv.base + moe_page_key(&kv, page, head, key);
        acc = 0.0f;

        if (key >= from && key < end) {
            for (k = lane; k < kv.k_dim; k += HALF) {
                acc = fmaf(query[k], page_load(kv.type, row, kv.k_dim, k),
                           acc);
            }
        }

        acc = lanes_sum(acc);

        if (lane == 0) {
            scores[key] = acc;
        }
    }
}


typedef struct {
    float  max;
    float  sum;
} running_t;


/* the lane's key's probability, relative to the running maximum; *was: what
 * earlier sums are to be multiplied by */
__device__ static inline float
page_softmax(running_t *r, float score, int seen, float scale, float *was)
{
    int    i;
    float  s, max, other;

    s = seen ? score * scale : -INFINITY;
    max = s;

    for (i = HALF / 2; i > 0; i /= 2) {
        other = __shfl_xor_sync(0xffffffff, max, i);
        max = other > max ? other : max;
    }

    max = max > r->max ? max : r->max;
    s = lane_exp(s - max);

    /* e^0 is exactly 1 */
    *was = max == r->max ? 1.0f : lane_exp(r->max - max);

    r->sum = r->sum * *was + lanes_sum(s);
    r->max = max;

    return s;
}


/* acc = acc * was + sum over keys, ascending, of p * value; p: a lane's */
__device__ static inline void
page_values(const moe_kv_t &kv, uint32_t page, uint32_t head, uint32_t from,
    uint32_t end, float was, const float *p, float *acc)
{
    float     a;
    uint32_t  d, key, n;

    n = kv.latent ? kv.k_dim : kv.v_dim;

    for (d = threadIdx.x; d < kv.v_dim; d += THREADS) {
        a = acc[d] * was;

        for (key = from; key < end; key++) {
            a = fmaf(page_load(kv.type,
                               kv.base + moe_page_value(&kv, page, head, key),
                               n, d),
                     p[key], a);
        }

        acc[d] = a;
    }
}


/* shared memory: the query, then the sums of values */
__global__ void
attention_kernel(moe_attention_t a)
{
    float        p, was, *out;
    uint32_t     t, i, row, pos, head, kv_head, from, end, tid;
    moe_span_t   span;
    running_t    r;

    __shared__ float  scores[MOE_KV_PAGE];
    __shared__ float  probs[MOE_KV_PAGE];

    MOE_SHARED(float, query);
    float  *acc = query + a.kv.k_dim;

    tid = threadIdx.x;
    head = blockIdx.x % a.n_heads;
    span = a.spans[blockIdx.x / a.n_heads / MOE_SPAN_ROWS];
    i = blockIdx.x / a.n_heads % MOE_SPAN_ROWS;

    if (i >= span.nrows) {
        return;
    }

    row = span.first + i;
    pos = a.pos[row];
    kv_head = head / (a.n_heads / a.kv.heads);

    /* a sink is the first of all keys, and its value is zero */
    r.max = a.sinks ? a.sinks[head] : -INFINITY;
    r.sum = a.sinks ? 1.0f : 0.0f;

    for (i = tid; i < a.kv.k_dim; i += THREADS) {
        query[i] = a.q[row * a.ldq + (size_t) head * a.kv.k_dim + i];
    }

    for (i = tid; i < a.kv.v_dim; i += THREADS) {
        acc[i] = 0.0f;
    }

    t = moe_page_first_key(pos, a.window) / MOE_KV_PAGE;

    for ( /* void */ ; moe_page_sees(pos, a.window, t, &from, &end); t++) {
        __syncthreads();
        page_scores(a.kv, span.table[t], kv_head, query, from, end, scores);
        __syncthreads();

        i = tid % HALF;
        p = page_softmax(&r, scores[i], i >= from && i < end, a.scale, &was);

        if (tid < HALF) {
            probs[i] = p;
        }

        __syncthreads();
        page_values(a.kv, span.table[t], kv_head, from, end, was, probs, acc);
    }

    out = a.out + row * a.ldo + (size_t) head * a.kv.v_dim;

    for (i = tid; i < a.kv.v_dim; i += THREADS) {
        out[i] = acc[i] / r.sum;
    }
}


void
cuda_attention(const moe_kctx_t *c, const moe_attention_t *a)
{
    launch(c, "attention", attention_kernel,
           (size_t) a->nspans * MOE_SPAN_ROWS * a->n_heads, THREADS,
           ((size_t) a->kv.k_dim + a->kv.v_dim) * sizeof(float), *a);
}


/* a warp's 32 values into group g of a position's n in I8_KV; what has no
 * largest magnitude becomes a scale that is no number */
__device__ static inline void
store_i8(uint8_t *to, const float *x, uint32_t n, uint32_t g)
{
    int       i;
    float     v, amax;
    int32_t   q;
    uint32_t  at, lane, bits, other;

    lane = threadIdx.x % WARP;
    at = g * 32 + lane;
    v = at < n ? x[at] : 0.0f;
    bits = as_bits(v) & 0x7fffffff;

    for (i = WARP / 2; i > 0; i /= 2) {
        other = __shfl_xor_sync(0xffffffff, bits, i);
        bits = other > bits ? other : bits;
    }

    amax = as_float(bits);
    q = 0;

    /* so that 127 / amax is finite */
    if (bits < 0x7f800000 && amax >= 0x1p-100f) {
        q = (int32_t) (as_bits(v * (127.0f / amax) + 0x1.8p23f)
                       - 0x4b400000);
    }

    to[at] = (uint8_t) q;

    if (lane == 0) {
        ((float *) (to + (size_t) (n + 31) / 32 * 32))[g]
            = bits >= 0x7f800000 ? as_float(0x7fc00000)
              : amax < 0x1p-100f ? 0.0f : amax / 127.0f;
    }
}


/* a warp has 32 values of one head of one row */
__device__ static inline void
store(moe_wtype_e type, uint8_t *to, const float *x, uint32_t n, uint32_t g)
{
    uint32_t  i;

    if (type == MOE_W_I8_KV) {
        store_i8(to, x, n, g);
        return;
    }

    i = g * 32 + threadIdx.x % WARP;

    if (i < n && type == MOE_W_F32) {
        ((float *) to)[i] = x[i];
    } else if (i < n) {
        ((uint16_t *) to)[i] = f32_to_bf16(x[i]);
    }
}


/* values: of each head, after the keys */
__global__ void
store_kernel(moe_kv_t kv, const uint64_t *slots, uint32_t nrows,
    const float *x, size_t ldx, uint32_t n, int values)
{
    size_t    i, at;
    uint32_t  g, head, row, place, groups;
    uint64_t  page;

    groups = (n + 31) / 32;
    i = (size_t) blockIdx.x * STORE_WARPS + threadIdx.x / WARP;

    if (i >= (size_t) nrows * kv.heads * groups) {
        return;
    }

    g = (uint32_t) (i % groups);
    head = (uint32_t) (i / groups % kv.heads);
    row = (uint32_t) (i / groups / kv.heads);

    if (slots[row] == MOE_NO_SLOT) {
        return;
    }

    page = slots[row] / MOE_KV_PAGE;
    place = (uint32_t) (slots[row] % MOE_KV_PAGE);

    at = values ? moe_page_value(&kv, page, head, place)
                : moe_page_key(&kv, page, head, place);

    store(kv.type, kv.base + at, x + row * ldx + (size_t) head * n, n, g);
}


void
cuda_kv_store(const moe_kctx_t *c, const moe_kv_t *kv, const uint64_t *slots,
    uint32_t nrows, const float *k, size_t ldk, const float *v, size_t ldv)
{
    size_t  warps;

    warps = (size_t) nrows * kv->heads * ((kv->k_dim + 31) / 32);
    launch(c, "kv_store", store_kernel, blocks_for(warps, STORE_WARPS),
           THREADS, 0, *kv, slots, nrows, k, ldk, kv->k_dim, 0);

    if (kv->latent) {
        return;
    }

    warps = (size_t) nrows * kv->heads * ((kv->v_dim + 31) / 32);
    launch(c, "kv_store", store_kernel, blocks_for(warps, STORE_WARPS),
           THREADS, 0, *kv, slots, nrows, v, ldv, kv->v_dim, 1);
}
