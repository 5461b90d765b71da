/*
 * backend: the table of operations on one GPU, and its memory.
 */

#include <stdlib.h>

#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/cpu/sets.h"
}


static int
fail(moe_err_t *err, cudaError_t rc, const char *what)
{
    return moe_err(err, "cuda: %s: %s", what, cudaGetErrorString(rc));
}


/* the first device that the process sees; CUDA_VISIBLE_DEVICES chooses */
static moe_device_t *
device_open(moe_err_t *err)
{
    cudaError_t    rc;
    moe_device_t  *d;

    d = (moe_device_t *) calloc(1, sizeof(moe_device_t));
    if (d == NULL) {
        moe_err(err, "cuda: out of memory");
        return NULL;
    }

    d->failed = cudaSuccess;

    rc = cudaSetDevice(d->index);
    if (rc == cudaSuccess) {
        rc = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    }

    if (rc != cudaSuccess) {
        fail(err, rc, "cannot use the device");
        free(d);
        return NULL;
    }

    return d;
}


static void
device_close(moe_device_t *d)
{
    cudaStreamDestroy(d->stream);
    free(d);
}


static void *
device_take(moe_device_t *d, size_t bytes, moe_err_t *err)
{
    void         *p;
    cudaError_t   rc;

    p = NULL;

    rc = cudaMalloc(&p, bytes ? bytes : 1);
    if (rc != cudaSuccess) {
        moe_err(err, "cuda: cannot have %zu bytes: %s", bytes,
                cudaGetErrorString(rc));
        (void) cudaGetLastError();
        return NULL;
    }

    device_note(d, cudaMemsetAsync(p, 0, bytes, d->stream), "clear");

    return p;
}


static void
device_give(moe_device_t *d, void *p)
{
    device_note(d, cudaStreamSynchronize(d->stream), "give");
    device_note(d, cudaFree(p), "give");
}


/* a copy from memory that is not pinned returns once it has been read */
static void
device_put(moe_device_t *d, void *to, const void *from, size_t bytes)
{
    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                                   d->stream), "put");
}


static void
device_move(moe_device_t *d, void *to, const void *from, size_t bytes)
{
    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                   d->stream), "move");
}


static int
device_get(moe_device_t *d, void *to, const void *from, size_t bytes,
    moe_err_t *err)
{
    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost,
                                   d->stream), "get");
    device_note(d, cudaStreamSynchronize(d->stream), "an operation");

    if (d->failed != cudaSuccess) {
        return fail(err, d->failed, d->where);
    }

    return 0;
}


static size_t
cuda_attention_scratch(uint32_t k_dim, uint32_t v_dim)
{
    return MOE_LANES;
}


static const moe_memory_t  memory = {
    .open = device_open,
    .close = device_close,
    .take = device_take,
    .give = device_give,
    .put = device_put,
    .move = device_move,
    .get = device_get
};

static constexpr moe_kernels_t  table = {
    .name = "cuda",
    .set = "lanes16-fma-cuda",
    .memory = &memory,
    .glu_fp8 = 0,

    .embed = cuda_embed,
    .rmsnorm = cuda_rmsnorm,
    .matmul = cuda_matmul,
    .glu = cuda_glu,
    .matmul_t = cuda_matmul_t,
    .rope = cuda_rope,
    .clamp = cuda_clamp,
    .kv_store = cuda_kv_store,
    .attention = cuda_attention,
    .attention_scratch = cuda_attention_scratch,
    .route = cuda_route,
    .silu_mul = cuda_silu_mul,
    .clamped_mul = cuda_clamped_mul,
    .permute = cuda_permute,
    .round_bf16 = cuda_round_bf16,
    .combine = cuda_combine,
    .copy = cuda_copy,
    .gather = cuda_gather,
    .add = cuda_add,
    .probe_int8 = NULL,
    .probe_read = NULL,
    .argmax = cuda_argmax,
    .sample = cuda_sample
};


static int
has_device(void)
{
    int  n;

    n = 0;

    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void) cudaGetLastError();
        return 0;
    }

    return n > 0;
}


extern "C" const moe_kernels_t *
moe_kernels_cuda(void)
{
    return has_device() ? &table : NULL;
}


static constexpr moe_kernels_t
fp8_table(void)
{
    moe_kernels_t  k = table;

    k.name = "cuda-fp8";
    k.set = "lanes16-fma-cuda-fp8";
    k.glu_fp8 = 1;
    k.matmul = cuda_matmul_fp8;

    return k;
}


/* the same but for products with FP8 weights, see kernels/fp8.h */
static constexpr moe_kernels_t  fp8 = fp8_table();


extern "C" const moe_kernels_t *
moe_kernels_cuda_fp8(void)
{
    return has_device() ? &fp8 : NULL;
}
