/*
 * backend: the table of operations on one GPU, and its memory.
 */

#include <stdlib.h>

#include "kernels/cuda/device.cuh"

extern "C" {
#include "base/nap.h"
#include "kernels/cpu/sets.h"
}


enum {
    PASSING = 4 << 20,          /* of bring(): large enough for a bus's speed,
                                 * small beside an expert */
    STAGE = 4 << 20             /* of put(): most of what steps are told
                                 * between waits */
};


static int
fail(moe_err_t *err, cudaError_t rc, const char *what)
{
    return moe_err(err, "cuda: %s: %s", what, cudaGetErrorString(rc));
}


static uint32_t
device_count(void)
{
    int  n;

    n = 0;

    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        (void) cudaGetLastError();
        return 0;
    }

    return (uint32_t) n;
}


/* Messages go first: they take little of the device, and what is computed
 * waits for them sooner or later. */
static cudaError_t
open_messages(moe_device_t *d)
{
    int          i, least, greatest;
    cudaError_t  rc;

    rc = cudaDeviceGetStreamPriorityRange(&least, &greatest);

    if (rc == cudaSuccess) {
        rc = cudaStreamCreateWithPriority(&d->messages, cudaStreamNonBlocking,
                                          greatest);
    }

    if (rc == cudaSuccess) {
        rc = cudaEventCreateWithFlags(&d->ready, cudaEventDisableTiming);
    }

    for (i = 0; rc == cudaSuccess && i < MOE_DEVICE_MARKS; i++) {
        rc = cudaEventCreateWithFlags(&d->marks[i], cudaEventDisableTiming);
    }

    for (i = 0; rc == cudaSuccess && i < 2; i++) {
        rc = cudaEventCreateWithFlags(&d->clock[i], cudaEventDefault);
    }

    return rc;
}


/* CUDA_VISIBLE_DEVICES says which ones there are */
static moe_device_t *
device_open(uint32_t number, moe_err_t *err)
{
    cudaError_t    rc;
    moe_device_t  *d;

    d = (moe_device_t *) calloc(1, sizeof(moe_device_t));
    if (d == NULL) {
        moe_err(err, "cuda: out of memory");
        return NULL;
    }

    d->index = (int) number;
    d->failed = cudaSuccess;

    rc = cudaSetDevice(d->index);
    if (rc == cudaSuccess) {
        rc = cudaStreamCreateWithFlags(&d->stream, cudaStreamNonBlocking);
    }

    if (rc == cudaSuccess) {
        rc = cudaStreamCreateWithFlags(&d->beside, cudaStreamNonBlocking);
    }

    if (rc == cudaSuccess) {
        rc = cudaHostAlloc(&d->passing, PASSING, cudaHostAllocDefault);
    }

    if (rc == cudaSuccess) {
        rc = cudaHostAlloc((void **) &d->stage, STAGE, cudaHostAllocDefault);
    }

    if (rc == cudaSuccess) {
        rc = open_messages(d);
    }

    if (rc != cudaSuccess) {
        moe_err(err, "cuda: cannot use device %u of %u: %s", number,
                device_count(), cudaGetErrorString(rc));
        free(d);
        return NULL;
    }

    return d;
}


static moe_device_t *
device_first(moe_err_t *err)
{
    return device_open(0, err);
}


static void
device_close(moe_device_t *d)
{
    int  i;

    cudaStreamSynchronize(d->stream);
    cudaFreeHost(d->stage);
    cudaFreeHost(d->passing);
    cudaStreamDestroy(d->beside);

    for (i = 0; i < 2; i++) {
        cudaEventDestroy(d->clock[i]);
    }

    for (i = 0; i < MOE_DEVICE_MARKS; i++) {
        cudaEventDestroy(d->marks[i]);
    }

    cudaEventDestroy(d->ready);
    cudaStreamDestroy(d->messages);
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
    device_note(d, cudaStreamSynchronize(d->messages), "give");
    device_note(d, cudaStreamSynchronize(d->stream), "give");
    device_note(d, cudaFree(p), "give");
}


static void
device_move(moe_device_t *d, void *to, const void *from, size_t bytes)
{
    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice,
                                   d->stream), "move");
}


static void
device_watch(moe_device_t *d,
    int (*alive)(void *data, uint64_t waited_us, moe_err_t *err), void *data)
{
    d->alive = alive;
    d->alive_data = data;
}


static void *
device_stream(moe_device_t *d)
{
    return (void *) (uintptr_t) d->stream;
}


static void *
device_messages(moe_device_t *d)
{
    return (void *) (uintptr_t) d->messages;
}


static void
device_depart(moe_device_t *d)
{
    device_note(d, cudaEventRecord(d->ready, d->stream), "depart");
    device_note(d, cudaStreamWaitEvent(d->messages, d->ready, 0), "depart");
}


static void
device_mark(moe_device_t *d, uint32_t i)
{
    device_note(d, cudaEventRecord(d->marks[i], d->messages), "mark");
}


static void
device_await(moe_device_t *d, uint32_t i)
{
    device_note(d, cudaStreamWaitEvent(d->stream, d->marks[i], 0), "await");
}


static void
device_clock(moe_device_t *d, int ends)
{
    device_note(d, cudaEventRecord(d->clock[ends], d->stream), "clock");
}


/* no time is no failure */
static uint64_t
device_took(moe_device_t *d)
{
    float  ms;

    if (cudaEventElapsedTime(&ms, d->clock[0], d->clock[1]) != cudaSuccess) {
        (void) cudaGetLastError();
        return 0;
    }

    return ms > 0 ? (uint64_t) ((double) ms * 1000) : 0;
}


/* until all is done, or need not be waited for: then what still runs has been
 * told to end.  A copy to memory that is not pinned would wait by itself, and
 * ask nobody. */
static int
wait_alive(moe_device_t *d, moe_err_t *err)
{
    int          rc;
    uint64_t     began, waited;
    cudaError_t  state;

    began = moe_now_us();

    for ( ;; ) {
        state = cudaStreamQuery(d->stream);

        if (state != cudaErrorNotReady) {
            device_note(d, state, "an operation");
            return 0;
        }

        waited = moe_now_us() - began;
        rc = d->alive(d->alive_data, waited, err);

        if (rc != 0) {
            device_note(d, cudaStreamSynchronize(d->stream), "an operation");
            return rc;
        }

        moe_nap(moe_nap_us(waited));
    }
}


/* until all that was asked for is done; -1: alive() does not want to */
static int
wait_all(moe_device_t *d, moe_err_t *err)
{
    int  rc;

    rc = d->alive != NULL ? wait_alive(d, err) : 0;
    device_note(d, cudaStreamSynchronize(d->stream), "an operation");
    d->staged = 0;

    return rc;
}


/* By way of pinned memory: a copy from any other may wait for what was asked
 * for before.  Weights, which are larger, are copied as they are; that returns
 * once they have been read. */
static void
device_put(moe_device_t *d, void *to, const void *from, size_t bytes)
{
    moe_err_t  err;

    if (bytes <= STAGE) {

        /* who does not want to wait will say so at get() */
        if (bytes > STAGE - d->staged) {
            (void) wait_all(d, &err);
        }

        from = memcpy(d->stage + d->staged, from, bytes);
        d->staged += (bytes + 63) / 64 * 64;
    }

    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice,
                                   d->stream), "put");
}


static int
device_get(moe_device_t *d, void *to, const void *from, size_t bytes,
    moe_err_t *err)
{
    if (d->alive != NULL && wait_alive(d, err) != 0) {
        return -1;
    }

    device_note(d, cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost,
                                   d->stream), "get");
    device_note(d, cudaStreamSynchronize(d->stream), "an operation");
    d->staged = 0;

    if (d->failed != cudaSuccess) {
        return fail(err, d->failed, d->where);
    }

    return 0;
}


/* by way of pinned memory, so that what is mapped is read here and not by the
 * driver, which others wait for */
static int
device_bring(moe_device_t *d, void *to, const void *from, size_t bytes,
    moe_err_t *err)
{
    size_t       at, n;
    cudaError_t  rc;

    rc = cudaSetDevice(d->index);

    for (at = 0; rc == cudaSuccess && at < bytes; at += n) {
        n = bytes - at < PASSING ? bytes - at : (size_t) PASSING;
        memcpy(d->passing, (const char *) from + at, n);
        rc = cudaMemcpyAsync((char *) to + at, d->passing, n,
                             cudaMemcpyHostToDevice, d->beside);

        if (rc == cudaSuccess) {
            rc = cudaStreamSynchronize(d->beside);
        }
    }

    return rc == cudaSuccess ? 0 : fail(err, rc, "bring");
}


/* others' threads may take memory meanwhile */
static int
device_record(moe_device_t *d, moe_err_t *err)
{
    cudaError_t  rc;

    rc = cudaStreamBeginCapture(d->stream, cudaStreamCaptureModeThreadLocal);

    return rc == cudaSuccess ? 0 : fail(err, rc, "record");
}


/* sent to the device at once, so that no step has to */
static moe_recording_t *
device_recorded(moe_device_t *d, moe_err_t *err)
{
    cudaError_t      rc;
    cudaGraph_t      graph;
    cudaGraphExec_t  exec;

    rc = cudaStreamEndCapture(d->stream, &graph);

    if (rc == cudaSuccess) {
        rc = cudaGraphInstantiate(&exec, graph, 0);
        device_note(d, cudaGraphDestroy(graph), "record");
    }

    if (rc != cudaSuccess) {
        fail(err, rc, "record");
        return NULL;
    }

    device_note(d, cudaGraphUpload(exec, d->stream), "record");

    return reinterpret_cast<moe_recording_t *>(exec);
}


static void
device_play(moe_device_t *d, moe_recording_t *r)
{
    device_note(d, cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(r),
                                   d->stream), "play");
}


static void
device_forget(moe_device_t *d, moe_recording_t *r)
{
    device_note(d, cudaStreamSynchronize(d->stream), "forget");
    device_note(d, cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(r)),
                "forget");
}


static size_t
cuda_attention_scratch(uint32_t k_dim, uint32_t v_dim)
{
    return MOE_LANES;
}


static const moe_memory_t  memory = {
    .open = device_first,
    .close = device_close,
    .take = device_take,
    .give = device_give,
    .put = device_put,
    .move = device_move,
    .get = device_get
};

static const moe_device_ops_t  device_ops = {
    .count = device_count,
    .open = device_open,
    .watch = device_watch,
    .stream = device_stream,
    .messages = device_messages,
    .depart = device_depart,
    .mark = device_mark,
    .await = device_await,
    .clock = device_clock,
    .took = device_took,
    .bring = device_bring,
    .record = device_record,
    .recorded = device_recorded,
    .play = device_play,
    .forget = device_forget,
    .pack = cuda_pack,
    .unpack = cuda_unpack
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
    .sort = cuda_sort,
    .experts = cuda_experts,
    .sample = cuda_sample
};


extern "C" const moe_device_ops_t *
moe_device_cuda(void)
{
    return &device_ops;
}


extern "C" const moe_kernels_t *
moe_kernels_cuda(void)
{
    return device_count() > 0 ? &table : NULL;
}


static constexpr moe_kernels_t
fp8_table(void)
{
    moe_kernels_t  k = table;

    k.name = "cuda-fp8";
    k.set = "lanes16-fma-cuda-fp8";
    k.glu_fp8 = 1;
    k.matmul = cuda_matmul_fp8;
    k.experts = cuda_experts_fp8;

    return k;
}


/* the same but for products with FP8 weights, see kernels/fp8.h */
static constexpr moe_kernels_t  fp8 = fp8_table();


extern "C" const moe_kernels_t *
moe_kernels_cuda_fp8(void)
{
    return device_count() > 0 ? &fp8 : NULL;
}
