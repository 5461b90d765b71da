#define VL  16

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/vec.h"


/* 32 inputs, and 32 weights, of which n are there; zeros behind them */

INLINE __m512bh
inputs(const float *x, uint32_t n)
{
    float  part[32];

    if (n < 32) {
        memset(part, 0, sizeof(part));
        memcpy(part, x, n * 4);
        x = part;
    }

    return _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
}


INLINE __m512bh
weights(const uint8_t *w, uint32_t n)
{
    uint8_t  part[64];

    if (n < 32) {
        memset(part, 0, sizeof(part));
        memcpy(part, w, n * 2);
        w = part;
    }

    return (__m512bh) _mm512_loadu_si512(w);
}


INLINE void
add(const moe_bf16_tile_t *t, int rows, uint32_t at, uint32_t n,
    __m512 acc[][MOE_BF16_COLS])
{
    int       i, j;
    __m512bh  x[MOE_BF16_ROWS], w;

    UNROLL
    for (i = 0; i < rows; i++) {
        x[i] = inputs(t->x[i] + at, n);
    }

    UNROLL
    for (j = 0; j < MOE_BF16_COLS; j++) {
        w = weights(t->w[j] + (size_t) at * 2, n);

        UNROLL
        for (i = 0; i < rows; i++) {
            acc[i][j] = _mm512_dpbf16_ps(acc[i][j], x[i], w);
        }
    }
}


INLINE void
tile(const moe_bf16_tile_t *t, int rows, float dots[][MOE_BF16_COLS])
{
    int       i, j;
    float     lanes[4][MOE_LANES];
    __m512    acc[MOE_BF16_ROWS][MOE_BF16_COLS];
    uint32_t  at;

    UNROLL
    for (i = 0; i < rows; i++) {
        UNROLL
        for (j = 0; j < MOE_BF16_COLS; j++) {
            acc[i][j] = _mm512_setzero_ps();
        }
    }

    for (at = 0; t->k - at >= 32; at += 32) {
        add(t, rows, at, 32, acc);
    }

    if (at < t->k) {
        add(t, rows, at, t->k - at, acc);
    }

    UNROLL
    for (i = 0; i < rows; i++) {
        UNROLL
        for (j = 0; j < MOE_BF16_COLS; j++) {
            _mm512_storeu_ps(lanes[j % 4], acc[i][j]);

            if (j % 4 == 3) {
                *(v4_mem *) &dots[i][j - 3] = lanes_sum4(lanes[0], MOE_LANES);
            }
        }
    }
}


void
moe_bf16_tile_avx512(const moe_bf16_tile_t *t, float dots[][MOE_BF16_COLS])
{
    switch (t->rows) {
    case 1:
        tile(t, 1, dots);
        break;
    case 2:
        tile(t, 2, dots);
        break;
    default:
        tile(t, 3, dots);
    }
}
