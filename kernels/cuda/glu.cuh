/*
 * glu: what the two kinds of weights that the feed-forward of experts is fused
 * for, packed and FP8, have in common: a list of parts, and in two launches
 * gate, up, silu and the rounding for down, then down.
 */

#ifndef MOE_GLU_CUH
#define MOE_GLU_CUH


#include "kernels/cuda/device.cuh"
#include "kernels/cuda/experts.cuh"
#include "kernels/cuda/tiles.h"


/* moe_glu_t as a kernel takes it */
typedef struct {
    moe_matrix_t    gate;
    moe_matrix_t    up;
    moe_matrix_t    down;
    const float    *gate_bias;
    const float    *up_bias;
    const float    *down_bias;
    float          *out;
    const uint8_t  *q;          /* x quantized */
    uint8_t        *h;          /* what down takes, quantized */
    moe_clamped_t   clamped;    /* limit 0: silu */
    uint32_t        nrows;
} glu_part_t;

typedef struct {
    moe_tiles_t  tiles;
    glu_part_t   parts[MOE_TILE_PARTS];
} glu_work_t;

/* one kind's; in and out cut the list into tiles of their own */
typedef struct {
    void (*quantize)(const moe_kctx_t *c, const float *x, size_t ldx,
                     uint32_t k, uint32_t nrows, uint8_t *q);
    void (*in)(const moe_kctx_t *c, glu_work_t *w);
    void (*out)(const moe_kctx_t *c, glu_work_t *w);
} glu_kind_t;


extern const glu_kind_t  glu_packed;
extern const glu_kind_t  glu_fp8;


/* column i of h, from what gate and up gave without their biases */
__device__ static inline float
glu_value(const glu_part_t &p, uint32_t i, float g, float u)
{
    g = p.gate_bias ? g + p.gate_bias[i] : g;
    u = p.up_bias ? u + p.up_bias[i] : u;

    return p.clamped.limit != 0
           ? clamped_mul(g, u, p.clamped.alpha, p.clamped.limit)
           : silu_mul(g, u);
}


/* this block's tile of rows sorted by expert as a part; 0: it has none */
__device__ static inline int
glu_sorted(const sorted_t &s, glu_part_t *p)
{
    uint32_t  e, row;

    if (!sorted_rows(s, &e, &row, &p->nrows)) {
        return 0;
    }

    const moe_expert_t  &x = s.experts[e];

    p->gate = x.gate;
    p->up = x.up;
    p->down = x.down;
    p->gate_bias = x.gate_bias;
    p->up_bias = x.up_bias;
    p->down_bias = x.down_bias;
    p->out = s.out + (size_t) row * x.down.n;
    p->q = s.q + row * s.q_row;
    p->h = s.h + row * s.h_row;
    p->clamped = s.clamped;

    return 1;
}


/* tiles of each part's rows by columns of down or else of gate */
static inline void
glu_tiles(glu_work_t *w, int down, uint32_t rows, uint32_t cols)
{
    uint32_t  i, n;

    n = w->tiles.nparts;
    w->tiles.nparts = 0;

    for (i = 0; i < n; i++) {
        moe_tiles_add(&w->tiles, w->parts[i].nrows,
                      down ? w->parts[i].down.n : w->parts[i].gate.n, rows,
                      cols);
    }
}


#endif /* MOE_GLU_CUH */
