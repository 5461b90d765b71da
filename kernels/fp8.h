/*
 * fp8: inputs of products in FP8, beside weights that have it.
 *
 * Other sets take FP8 weights (E4M3, a scale for each 128 x 128) times their
 * scales and leave inputs as they are.  Sets with "fp8" in their name quantize
 * inputs too, as DeepSeek's models were trained: each row on its own, 128
 * inputs at a time, scale = amax / 448, q = x * (448 / amax) to the nearest
 * E4M3, ties to even.  A group of 128 gives
 *
 *     acc = fma((float) sum of q(w) * q(x), scale(w) * scale(x), acc)
 *
 * groups in ascending order.  The sum is exact and then rounded once: all
 * products are multiples of 2^-18 below 2^18, 128 of them fit in a double.  So
 * its order is of no account, and nothing hangs on the number of rows.
 *
 * They are the sets that they are made of but for matmul with weights of type
 * F8_E4M3, and have fingerprints of their own.  Inputs are left as they are
 * where a product says so (keep_x) and by matmul_t, as the halves of MLA's
 * kv_b do.
 */

#ifndef MOE_FP8_H
#define MOE_FP8_H


#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "kernels/cuda/host.h"


enum {
    MOE_FP8_GROUP = 128         /* inputs that share a scale */
};

/* magnitudes below are taken for 0, so that 448 / amax is finite */
#define MOE_FP8_AMAX_MIN  0x1p-100f


/* A row of k inputs: k codes, then from a multiple of four on the groups'
 * scales; never more than moe_quant_row(k). */
MOE_HOST_DEVICE static inline size_t
moe_fp8_scales(uint32_t k)
{
    return ((size_t) k + 3) / 4 * 4;
}


MOE_HOST_DEVICE static inline uint32_t
moe_fp8_groups(uint32_t k)
{
    return k / MOE_FP8_GROUP + (k % MOE_FP8_GROUP != 0);
}


/* rows are so many bytes apart */
MOE_HOST_DEVICE static inline size_t
moe_fp8_row(uint32_t k)
{
    return moe_fp8_scales(k) + (size_t) moe_fp8_groups(k) * sizeof(float);
}


MOE_HOST_DEVICE static inline float
moe_fp8_value(uint8_t code)
{
    float     f;
    uint32_t  u;

    /* the only codes that are no number */
    if ((code & 0x7f) == 0x7f) {
        u = 0x7fc00000;
        memcpy(&f, &u, 4);
        return f;
    }

    /* E4M3's bias is 7, float32's 127 */
    u = (uint32_t) (code & 0x7f) << 20;
    memcpy(&f, &u, 4);
    f = f * 0x1p120f;

    return code & 0x80 ? -f : f;
}


/* the nearest, ties to even; what is larger than 448 is 448; no NaN */
MOE_HOST_DEVICE static inline uint8_t
moe_fp8_code(float x)
{
    float     a;
    uint32_t  u, sign;

    memcpy(&u, &x, 4);
    sign = u >> 24 & 0x80;
    u &= 0x7fffffff;
    memcpy(&a, &u, 4);

    if (a >= 448.0f) {
        return (uint8_t) (sign | 0x7e);
    }

    /* multiples of 2^-9, the low bits of 1.5 * 2^23 + n */
    if (a < 0x1p-6f) {
        a = a * 0x1p9f + 0x1.8p23f;
        memcpy(&u, &a, 4);
        return (uint8_t) (sign | (u - 0x4b400000));
    }

    u = (u + 0x7ffff + (u >> 20 & 1)) >> 20;

    return (uint8_t) (sign | (u - ((127 - 7) << 3)));
}


/* of a group whose largest magnitude has these bits: what codes are made of x
 * times, and the scale, which is no number where amax is none */
MOE_HOST_DEVICE static inline float
moe_fp8_scale(uint32_t bits, float *scale)
{
    float  amax;

    memcpy(&amax, &bits, 4);

    if (bits >= 0x7f800000) {
        bits = 0x7fc00000;
        memcpy(scale, &bits, 4);
        return 0.0f;
    }

    if (amax < MOE_FP8_AMAX_MIN) {
        *scale = 0.0f;
        return 0.0f;
    }

    *scale = amax / 448.0f;

    return 448.0f / amax;
}


#endif /* MOE_FP8_H */
