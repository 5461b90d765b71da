/*
 * experts: which rows are whose, found on the device, and the feed-forward of
 * rows that it alone has counted.
 */

#include "kernels/cuda/experts.cuh"

extern "C" {
#include "kernels/cpu/packed.h"
}


enum {
    THREADS = 256,
    SUMS = 3                    /* rows, and tiles of both heights */
};


/* what an expert adds to each sum */
__device__ static inline void
add_rows(uint32_t *sums, uint32_t rows)
{
    sums[0] += rows;
    sums[1] += moe_tiles_of(rows, MOE_TILE_FEW);
    sums[2] += moe_tiles_of(rows, MOE_TILE_MANY);
}


/* sums of this thread become those of all threads before it */
__device__ static inline void
sums_before(uint32_t *sums)
{
    uint32_t  i, step, tid, was[SUMS];

    __shared__ uint32_t  all[SUMS][THREADS];

    tid = threadIdx.x;

    for (i = 0; i < SUMS; i++) {
        all[i][tid] = sums[i];
    }

    __syncthreads();

    for (step = 1; step < THREADS; step *= 2) {

        for (i = 0; i < SUMS; i++) {
            was[i] = tid >= step ? all[i][tid - step] : 0;
        }

        __syncthreads();

        for (i = 0; i < SUMS; i++) {
            all[i][tid] += was[i];
        }

        __syncthreads();
    }

    for (i = 0; i < SUMS; i++) {
        sums[i] = all[i][tid] - sums[i];
    }
}


__device__ static inline void
say(const moe_sort_t &p, uint32_t e, const uint32_t *sums)
{
    p.first[e] = sums[0];
    p.tiles[e] = sums[1];
    p.tiles[p.n_experts + 1 + e] = sums[2];
}


/* rows of each expert become its first row; the first block says so.  A thread
 * has some experts in a run. */
__device__ static inline void
first_rows(const moe_sort_t &p, uint32_t *rows)
{
    uint32_t  e, n, each, from, to, sums[SUMS] = { 0 };

    each = p.n_experts / THREADS + (p.n_experts % THREADS != 0);
    from = threadIdx.x * each;
    to = from + each < p.n_experts ? from + each : p.n_experts;

    for (e = from; e < to; e++) {
        add_rows(sums, rows[e]);
    }

    sums_before(sums);

    for (e = from; e < to; e++) {
        n = rows[e];
        rows[e] = sums[0];

        if (blockIdx.x == 0) {
            say(p, e, sums);
        }

        add_rows(sums, n);
    }

    if (blockIdx.x == 0 && threadIdx.x == THREADS - 1) {
        say(p, p.n_experts, sums);
    }
}


/* A block finds the places of as many slots as it has threads, and counts by
 * itself what all slots have: so there is nothing to wait for.  Shared memory:
 * rows of each expert, then those of slots of blocks before this one. */
__global__ void
sort_kernel(moe_sort_t p)
{
    uint32_t  i, e, begin, tid;

    __shared__ uint32_t  own[THREADS];

    MOE_SHARED(uint32_t, rows);
    uint32_t  *before = rows + p.n_experts;

    tid = threadIdx.x;
    begin = blockIdx.x * THREADS;

    for (i = tid; i < 2 * p.n_experts; i += THREADS) {
        rows[i] = 0;
    }

    own[tid] = begin + tid < p.n ? p.experts[begin + tid] : MOE_NO_ROW;
    __syncthreads();

    for (i = tid; i < p.n; i += THREADS) {
        e = p.experts[i];

        if (e < p.n_experts) {
            atomicAdd(&rows[e], 1u);
        }

        if (e < p.n_experts && i < begin) {
            atomicAdd(&before[e], 1u);
        }
    }

    __syncthreads();
    first_rows(p, rows);
    __syncthreads();

    e = own[tid];

    if (begin + tid < p.n) {
        p.at[begin + tid] = e < p.n_experts
                            ? rows[e] + before[e] + moe_equal_before(own, tid)
                            : MOE_NO_ROW;
    }
}


void
cuda_sort(const moe_kctx_t *c, const moe_sort_t *op)
{
    launch(c, "sort", sort_kernel, blocks_for(op->n, THREADS), THREADS,
           2 * (size_t) op->n_experts * sizeof(uint32_t), *op);
}


void
cuda_experts(const moe_kctx_t *c, const moe_experts_op_t *op)
{
    if (moe_is_packed(op->like->gate.type)) {
        cuda_experts_packed(c, op);
    } else {
        cuda_experts_plain(c, op);
    }
}


void
cuda_experts_fp8(const moe_kctx_t *c, const moe_experts_op_t *op)
{
    if (op->like->gate.type == MOE_W_F8_E4M3) {
        cuda_experts_in_fp8(c, op);
    } else {
        cuda_experts(c, op);
    }
}
