/*
 * device: what all kernels here share.
 *
 * They compute what kernels/cpu/body*.h computes, and are written to give the
 * same bits: sixteen threads, half a warp, stand for the sixteen lanes of a
 * sum, thread i has the elements i mod 16, and lanes are added by the same
 * tree.  So they are compiled without contraction of a * b + c, with exact
 * division and square root, and with denormal numbers.
 */

#ifndef MOE_DEVICE_CUH
#define MOE_DEVICE_CUH


#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#define MOE_SHARED(type, name)                                                \
    extern __shared__ __align__(16) unsigned char  moe_shared_memory[];       \
    type  *name = reinterpret_cast<type *>(moe_shared_memory)
#else
#include "t/cuda/simt.h"
#endif

extern "C" {
#include "kernels/device.h"
#include "kernels/kernels.h"
}


enum {
    HALF = MOE_LANES,           /* threads of half a warp */
    WARP = 32
};


struct moe_device_s {
    int           index;
    cudaStream_t  stream;
    cudaStream_t  beside;       /* what bring() copies in */
    void         *passing;      /* pinned, for it */
    char         *stage;        /* pinned: what put() copies from */
    size_t        staged;       /* bytes of it that copies may yet read */
    cudaError_t   failed;       /* the first that did */
    const char   *where;

    /* beside the stream, and what orders the two */
    cudaStream_t  messages;
    cudaEvent_t   ready;
    cudaEvent_t   marks[MOE_DEVICE_MARKS];
    cudaEvent_t   clock[2];     /* beginning and end */

    /* who is asked whether to wait on; or NULL */
    int         (*alive)(void *data, uint64_t waited_us, moe_err_t *err);
    void         *alive_data;
};


static inline void
device_note(moe_device_t *d, cudaError_t rc, const char *where)
{
    if (rc != cudaSuccess && d->failed == cudaSuccess) {
        d->failed = rc;
        d->where = where;
    }
}


/* blocks of threads run kernel; shared: bytes that MOE_SHARED has */
template <typename... P, typename... A>
static inline void
launch(const moe_kctx_t *c, const char *name, void (*kernel)(P...),
    size_t blocks, unsigned threads, size_t shared, A... args)
{
    if (blocks == 0) {
        return;
    }

#if defined(__CUDACC__)
    kernel<<<dim3((unsigned) blocks), threads, shared, c->device->stream>>>(
        static_cast<P>(args)...);
    device_note(c->device, cudaGetLastError(), name);
#else
    simt_launch(c->device->stream, blocks, threads, shared, [=] {
        kernel(static_cast<P>(args)...);
    });
#endif
}


static inline size_t
blocks_for(size_t n, size_t each)
{
    return (n + each - 1) / each;
}


__device__ static inline float
as_float(uint32_t u)
{
    float  f;

    memcpy(&f, &u, 4);

    return f;
}


__device__ static inline uint32_t
as_bits(float f)
{
    uint32_t  u;

    memcpy(&u, &f, 4);

    return u;
}


__device__ static inline float
f16_to_f32(uint16_t h)
{
    uint32_t  u, sign, exp, man;

    sign = (uint32_t) (h & 0x8000) << 16;
    exp = (h >> 10) & 0x1f;
    man = h & 0x3ff;

    if (exp == 0) {
        u = as_bits((float) man * 0x1p-24f) | sign;
    } else if (exp == 31) {
        u = sign | 0x7f800000 | man << 13;
    } else {
        u = sign | (exp + 112) << 23 | man << 13;
    }

    return as_float(u);
}


/* nearest, ties to even; a NaN stays one */
__device__ static inline uint16_t
f32_to_bf16(float x)
{
    uint32_t  u;

    u = as_bits(x);

    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t) (u >> 16 | 0x40);
    }

    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}


__device__ static inline float
round_bf16(float x)
{
    return as_float((uint32_t) f32_to_bf16(x) << 16);
}


/* element i of a stored type; exact, of FP8 without its scale */
template <moe_wtype_e TYPE>
__device__ static inline float
load_as_f32(const void *p, size_t i)
{
    uint32_t  u;

    switch (TYPE) {

    case MOE_W_BF16:
        return as_float((uint32_t) ((const uint16_t *) p)[i] << 16);

    case MOE_W_F16:
        return f16_to_f32(((const uint16_t *) p)[i]);

    case MOE_W_F8_E4M3:
        u = ((const uint8_t *) p)[i];
        return as_float(as_bits(as_float((u & 0x7f) << 20) * 0x1p120f)
                        | (u & 0x80) << 24);

    default:
        return ((const float *) p)[i];
    }
}


/* the tree of lanes_sum() in kernels/cpu/vec.h, over half a warp; every
 * thread has the sum */
__device__ static inline float
lanes_sum(float x)
{
    x = x + __shfl_xor_sync(0xffffffff, x, 8);
    x = x + __shfl_xor_sync(0xffffffff, x, 4);
    x = x + __shfl_xor_sync(0xffffffff, x, 2);

    return x + __shfl_xor_sync(0xffffffff, x, 1);
}


/* vf_exp() of kernels/cpu/vec.h */
__device__ static inline float
lane_exp(float x)
{
    int    low;
    float  n, r, p, t;

    low = x < -87.0f;
    x = low ? -87.0f : x;
    x = x > 88.0f ? 88.0f : x;

    t = x * 0x1.715476p+0f + 0x1.8p23f;
    n = t - 0x1.8p23f;
    r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;

    p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;

    p = as_float(as_bits(p) + (as_bits(t) << 23));

    return low ? 0.0f : p;
}


__device__ static inline float
silu_mul(float g, float u)
{
    return g / (lane_exp(-g) + 1.0f) * u;
}


/* vf_clamped_mul() of kernels/cpu/vec.h */
__device__ static inline float
clamped_mul(float g, float u, float alpha, float limit)
{
    g = g > limit ? limit : g;
    u = u > limit ? limit : u;
    u = u < -limit ? -limit : u;

    return (u + 1.0f) * (g / (lane_exp(g * -alpha) + 1.0f));
}


/* the backend's operations, each in its file */

void cuda_embed(const moe_kctx_t *c, const moe_matrix_t *w,
    const uint32_t *ids, uint32_t nrows, float *out);
void cuda_rmsnorm(const moe_kctx_t *c, const float *x, size_t ldx,
    uint32_t groups, uint32_t n, const float *w, float eps, uint32_t nrows,
    float *out, size_t ldo);
void cuda_matmul(const moe_kctx_t *c, moe_matmul_t *parts, uint32_t nparts);
void cuda_matmul_t(const moe_kctx_t *c, moe_matmul_t *parts,
    uint32_t nparts);
void cuda_matmul_fp8(const moe_kctx_t *c, moe_matmul_t *parts,
    uint32_t nparts);
void cuda_matmul_packed(const moe_kctx_t *c, const moe_matmul_t *part);
void cuda_glu(const moe_kctx_t *c, moe_glu_t *parts, uint32_t nparts);
void cuda_rope(const moe_kctx_t *c, const moe_rope_op_t *op);
void cuda_clamp(const moe_kctx_t *c, float *x, size_t ldx, uint32_t nrows,
    uint32_t n, float limit);
void cuda_kv_store(const moe_kctx_t *c, const moe_kv_t *kv,
    const uint64_t *slots, uint32_t nrows, const float *k, size_t ldk,
    const float *v, size_t ldv);
void cuda_attention(const moe_kctx_t *c, const moe_attention_t *a);
void cuda_route(const moe_kctx_t *c, const moe_route_t *route,
    float *logits, uint32_t nrows, uint32_t *experts, float *weights);
void cuda_silu_mul(const moe_kctx_t *c, float *gate, const float *up,
    size_t n);
void cuda_clamped_mul(const moe_kctx_t *c, const moe_clamped_t *p,
    float *gate, const float *up, size_t n);
void cuda_permute(const moe_kctx_t *c, const moe_permute_t *op);
void cuda_pack(const moe_kctx_t *c, const moe_pack_t *op);
void cuda_unpack(const moe_kctx_t *c, const moe_pack_t *op);
void cuda_round_bf16(const moe_kctx_t *c, float *x, size_t n);
void cuda_combine(const moe_kctx_t *c, const moe_combine_t *op);
void cuda_copy(const moe_kctx_t *c, const float *x, size_t ldx,
    uint32_t nrows, uint32_t n, float *out, size_t ldo);
void cuda_gather(const moe_kctx_t *c, const float *x, const uint32_t *at,
    uint32_t nrows, uint32_t n, float *out);
void cuda_add(const moe_kctx_t *c, float *x, const float *y, size_t n);
void cuda_argmax(const moe_kctx_t *c, const float *x, size_t ldx,
    uint32_t nrows, uint32_t n, uint32_t *out);
void cuda_sort(const moe_kctx_t *c, const moe_sort_t *op);
void cuda_experts(const moe_kctx_t *c, const moe_experts_op_t *op);
void cuda_experts_fp8(const moe_kctx_t *c, const moe_experts_op_t *op);
void cuda_sample(const moe_kctx_t *c, const moe_sample_t *op);


#endif /* MOE_DEVICE_CUH */
