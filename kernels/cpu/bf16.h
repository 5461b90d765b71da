/*
 * bf16: products of bfloat16 by bfloat16, as vdpbf16ps (AVX512_BF16) adds
 * them up.
 *
 * Other sets widen bfloat16 weights to float32 and leave inputs as they are.
 * The instruction takes inputs rounded to bfloat16 and does twice as many
 * products at a time, and its sums are others: so sets with it are of a kind
 * of their own ("lanes16-fma-bf16"), which is chosen by name alone.  They are
 * the sets that they are made of but for matmul with weights of type BF16.
 *
 *   x, as it is read: to the nearest bfloat16, ties to even; what is smaller
 *   than 2^-126 is zero.
 *
 *   Pair i of a row, elements 2i and 2i + 1, belongs to lane i mod 16; to its
 *   sum is added first the odd product, then the even one, each by a fused
 *   multiply-add, rounded to the nearest, ties to even.  Inputs and results
 *   smaller than 2^-126 are zero with their sign, a result by what it is
 *   rounded with an exponent of any size.  Lanes are added as everywhere.
 */

#ifndef MOE_BF16_H
#define MOE_BF16_H


#include "kernels/kernels.h"


enum {
    MOE_BF16_ROWS = 3,
    MOE_BF16_COLS = 8
};


/* at most 3 rows of x by 8 of w, whose elements may lie at any address */
typedef struct {
    const float    *x[MOE_BF16_ROWS];
    const uint8_t  *w[MOE_BF16_COLS];
    uint32_t        k;
    uint32_t        rows;
} moe_bf16_tile_t;

typedef void (*moe_bf16_tile_pt)(const moe_bf16_tile_t *t,
    float dots[][MOE_BF16_COLS]);


void moe_bf16_tile_plain(const moe_bf16_tile_t *t,
    float dots[][MOE_BF16_COLS]);
void moe_bf16_tile_avx512(const moe_bf16_tile_t *t,
    float dots[][MOE_BF16_COLS]);

/* whether a tile gives the bits of plain C on many inputs, extreme ones among
 * them: processors are not taken at their manual's word */
int moe_bf16_agrees(moe_bf16_tile_pt tile);

/* "plain-bf16" and "avx512-bf16" */
const moe_kernels_t *moe_bf16_plain(void);
const moe_kernels_t *moe_bf16_avx512(void);


#endif /* MOE_BF16_H */
