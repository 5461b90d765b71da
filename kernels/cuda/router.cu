/*
 * router: which experts a row goes to.  A block has one row: all threads make
 * the scores, one chooses.
 */

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/router.h"


enum { THREADS = 128 };


/* logits x[n_experts] become scores in place */
__device__ static inline void
scores(const moe_route_t &p, float *x)
{
    float     v, max, lane;
    uint32_t  i, tid;

    __shared__ float  sum;

    tid = threadIdx.x;
    max = x[0];

    if (p.score == MOE_ROUTE_SOFTMAX) {
        for (i = 1; i < p.n_experts; i++) {
            max = x[i] > max ? x[i] : max;
        }
    }

    __syncthreads();

    for (i = tid; i < p.n_experts; i += THREADS) {
        v = x[i];
        x[i] = p.score == MOE_ROUTE_SOFTMAX ? lane_exp(v - max)
                                            : 1.0f / (lane_exp(-v) + 1.0f);
    }

    __syncthreads();

    if (p.score != MOE_ROUTE_SOFTMAX) {
        return;
    }

    if (tid < WARP) {
        lane = 0.0f;
        for (i = tid % HALF; i < p.n_experts; i += HALF) {
            lane = lane + x[i];
        }

        lane = lanes_sum(lane);
        if (tid == 0) {
            sum = lane;
        }
    }

    __syncthreads();

    for (i = tid; i < p.n_experts; i += THREADS) {
        x[i] = x[i] / sum;
    }

    __syncthreads();
}


__device__ static inline void
weigh(const moe_route_t &p, const float *x, const uint32_t *e, float *w)
{
    float     sum, max;
    uint32_t  i;

    for (i = 0; i < p.top_k; i++) {
        w[i] = x[e[i]];
    }

    if (p.score == MOE_ROUTE_CHOSEN) {
        max = w[0];
        for (i = 0; i < p.top_k; i++) {
            w[i] = lane_exp(w[i] - max);
        }
    }

    sum = 0.0f;
    for (i = 0; i < p.top_k; i++) {
        sum = sum + w[i];
    }

    for (i = 0; i < p.top_k; i++) {
        w[i] = (p.norm ? w[i] / (sum + p.eps) : w[i]) * p.scale;
    }
}


/* shared memory: scores, what is chosen by, then of groups their scores and
 * which are kept */
__global__ void
route_kernel(moe_route_t p, float *logits, uint32_t *experts, float *weights)
{
    uint32_t   i, *e;

    MOE_SHARED(float, x);
    float     *choice = x + p.n_experts;
    float     *group = choice + p.n_experts;
    uint32_t  *kept = (uint32_t *) (group + p.n_group);

    logits += (size_t) blockIdx.x * p.n_experts;
    e = experts + (size_t) blockIdx.x * p.top_k;

    if (p.slots != NULL && p.slots[blockIdx.x] == MOE_NO_SLOT) {
        for (i = threadIdx.x; i < p.top_k; i += THREADS) {
            e[i] = MOE_NO_ROW;
            weights[(size_t) blockIdx.x * p.top_k + i] = 0;
        }
        return;
    }

    for (i = threadIdx.x; i < p.n_experts; i += THREADS) {
        x[i] = logits[i];
    }

    __syncthreads();

    if (p.score != MOE_ROUTE_CHOSEN) {
        scores(p, x);
    }

    for (i = threadIdx.x; i < p.n_experts; i += THREADS) {
        choice[i] = p.bias ? x[i] + p.bias[i] : x[i];
    }

    __syncthreads();

    if (threadIdx.x != 0) {
        return;
    }

    if (p.group != MOE_ROUTE_PLAIN && p.topk_group < p.n_group) {
        moe_best_groups(&p, choice, group, kept);
    }

    moe_best_of(choice, p.n_experts, p.top_k, e);
    weigh(p, x, e, weights + (size_t) blockIdx.x * p.top_k);
}


void
cuda_route(const moe_kctx_t *c, const moe_route_t *route, float *logits,
    uint32_t nrows, uint32_t *experts, float *weights)
{
    size_t  floats;

    floats = 2 * (size_t) route->n_experts + 2 * (size_t) route->n_group;

    launch(c, "route", route_kernel, nrows, THREADS, floats * sizeof(float),
           *route, logits, experts, weights);
}
