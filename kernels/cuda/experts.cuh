/*
 * experts: the feed-forward of rows sorted by expert, by numbers that are on
 * the device: a block of threads finds its expert and rows by itself, and
 * blocks that there is no tile for have nothing to do.
 */

#ifndef MOE_EXPERTS_CUH
#define MOE_EXPERTS_CUH


#include "kernels/cuda/device.cuh"
#include "kernels/cuda/permute.h"


/* moe_experts_op_t as a kernel takes it */
typedef struct {
    const moe_expert_t  *experts;
    const uint32_t      *first;
    const uint32_t      *tiles;     /* of this height */
    const float         *x;
    float               *out;
    float               *gate;
    float               *up;
    uint8_t             *q;         /* x quantized */
    uint8_t             *h;         /* what down takes, quantized */
    size_t               q_row;     /* bytes from row to row */
    size_t               h_row;
    moe_clamped_t        clamped;   /* limit 0: silu */
    uint32_t             n_experts;
    uint32_t             height;
    uint32_t             cols;      /* blocks a tile of rows */
} sorted_t;


/* all but what is quantized, and cols */
static inline sorted_t
sorted_of(const moe_experts_op_t *op, uint32_t height)
{
    sorted_t  s = {};

    s.experts = op->experts;
    s.first = op->first;
    s.tiles = op->tiles + (height == MOE_TILE_FEW ? 0 : op->n_experts + 1);
    s.x = op->x;
    s.out = op->out;
    s.gate = op->gate;
    s.up = op->up;
    s.clamped.alpha = op->clamped ? op->clamped->alpha : 0;
    s.clamped.limit = op->clamped ? op->clamped->limit : 0;
    s.n_experts = op->n_experts;
    s.height = height;

    return s;
}


static inline size_t
sorted_blocks(const moe_experts_op_t *op, const sorted_t &s)
{
    return (size_t) moe_tiles_most(op->slots, op->n_experts, s.height)
           * s.cols;
}


/* this block's rows; 0: it has none */
__device__ static inline int
sorted_rows(const sorted_t &s, uint32_t *e, uint32_t *row, uint32_t *nrows)
{
    return moe_tile_rows(s.first, s.tiles, s.n_experts, s.height,
                         blockIdx.x / s.cols, e, row, nrows);
}


/* by kind of weights */
void cuda_experts_plain(const moe_kctx_t *c, const moe_experts_op_t *op);
void cuda_experts_packed(const moe_kctx_t *c, const moe_experts_op_t *op);
void cuda_experts_in_fp8(const moe_kctx_t *c, const moe_experts_op_t *op);


#endif /* MOE_EXPERTS_CUH */
