/*
 * vpmaddubsw adds two products in 16 bits.  With |q(w)| <= 128 as its unsigned
 * factor and the sign of w moved to x they are at most 2 * 128 * 127, which
 * fits; so do the sums of eight for nibbles, 8 * 2 * 15 * 127.
 */

#define VL  8

#include "kernels/cpu/packed_body.h"


enum { ROWS = 4 };              /* of a tile, 16 columns at a time */


/* 8 columns' sums over a group of int8, for rt rows */
INLINE void
group_i8(const uint8_t *w, int rt, const uint8_t *x, size_t ldx,
    __m256i q[][2])
{
    int      i, k, h;
    __m256i  b, a, v, one;

    one = _mm256_set1_epi16(1);

    UNROLL
    for (i = 0; i < rt; i++) {
        q[i][0] = q[i][1] = _mm256_setzero_si256();
    }

    for (k = 0; k < 8; k++) {
        UNROLL
        for (h = 0; h < 2; h++) {
            b = _mm256_loadu_si256((const void *) (w + k * 128 + h * 32));
            b = _mm256_xor_si256(b, _mm256_set1_epi8(-128));
            a = _mm256_abs_epi8(b);

            UNROLL
            for (i = 0; i < rt; i++) {
                v = _mm256_set1_epi32(*(const int32_t *)
                                      (x + i * ldx + k * 4));
                v = _mm256_maddubs_epi16(a, _mm256_sign_epi8(v, b));
                q[i][h] = _mm256_add_epi32(q[i][h],
                                           _mm256_madd_epi16(v, one));
            }
        }
    }
}


INLINE void
group_i4(const uint8_t *w, int rt, const uint8_t *x, size_t ldx,
    const int32_t *sums, __m256i q[][2])
{
    int      i, k, h;
    __m256i  b, lo, hi, v, low;

    low = _mm256_set1_epi8(15);

    UNROLL
    for (i = 0; i < rt; i++) {
        q[i][0] = q[i][1] = _mm256_setzero_si256();
    }

    for (k = 0; k < 4; k++) {
        UNROLL
        for (h = 0; h < 2; h++) {
            b = _mm256_loadu_si256((const void *) (w + k * 128 + h * 32));
            lo = _mm256_and_si256(b, low);
            hi = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);

            UNROLL
            for (i = 0; i < rt; i++) {
                v = _mm256_set1_epi32(*(const int32_t *)
                                      (x + i * ldx + k * 8));
                q[i][h] = _mm256_add_epi16(q[i][h],
                                           _mm256_maddubs_epi16(lo, v));
                v = _mm256_set1_epi32(*(const int32_t *)
                                      (x + i * ldx + k * 8 + 4));
                q[i][h] = _mm256_add_epi16(q[i][h],
                                           _mm256_maddubs_epi16(hi, v));
            }
        }
    }

    UNROLL
    for (i = 0; i < rt; i++) {
        v = _mm256_set1_epi32(sums[i * ldx / 4]);

        UNROLL
        for (h = 0; h < 2; h++) {
            q[i][h] = _mm256_madd_epi16(q[i][h], _mm256_set1_epi16(1));
            q[i][h] = _mm256_add_epi32(q[i][h], v);
        }
    }
}


/* rt rows against a half strip, columns 16 * half .. + 16 */
INLINE void
tile(const moe_strip_t *s, moe_wtype_e type, int rt, int half,
    const uint8_t *x, size_t ldx, float *out)
{
    int             i, h;
    size_t          size;
    __m256          f[ROWS][2], d, scale[2];
    __m256i         q[ROWS][2];
    uint32_t        g;
    const float    *scales;
    const int32_t  *sums;
    const uint8_t  *w;

    size = type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK;
    scales = moe_row_scales(x, s->groups);
    sums = moe_row_sums(x, s->groups, type);
    w = s->w;

    UNROLL
    for (i = 0; i < rt; i++) {
        f[i][0] = f[i][1] = _mm256_setzero_ps();
    }

    for (g = 0; g < s->groups; g++, w += size) {

        if (type == MOE_W_I8_G32) {
            group_i8(w + half * 64, rt, x + g * 32, ldx, q);
        } else {
            group_i4(w + half * 64, rt, x + g * 32, ldx, sums + g, q);
        }

        UNROLL
        for (h = 0; h < 2; h++) {
            scale[h] = _mm256_cvtph_ps(_mm_loadu_si128((const void *)
                           (w + size - 64 + half * 32 + h * 16)));
        }

        UNROLL
        for (i = 0; i < rt; i++) {
            d = _mm256_set1_ps(scales[i * ldx / 4 + g]);

            UNROLL
            for (h = 0; h < 2; h++) {
                f[i][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(q[i][h]),
                                          _mm256_mul_ps(scale[h], d),
                                          f[i][h]);
            }
        }
    }

    UNROLL
    for (i = 0; i < rt; i++) {
        _mm256_storeu_ps(out + i * MOE_STRIP + half * 16, f[i][0]);
        _mm256_storeu_ps(out + i * MOE_STRIP + half * 16 + 8, f[i][1]);
    }
}


INLINE void
strip(const moe_strip_t *s, moe_wtype_e type)
{
    int             half;
    float          *out;
    size_t          ldx;
    uint32_t        r, n;
    const uint8_t  *x;

    ldx = moe_packed_row(s->groups);

    for (r = 0; r < s->nrows; r += n) {
        n = tile_of(s->nrows - r, ROWS);
        x = s->x + r * ldx;
        out = s->out + r * MOE_STRIP;

        for (half = 0; half < 2; half++) {
            switch (n) {
            case 1:
                tile(s, type, 1, half, x, ldx, out);
                break;
            case 2:
                tile(s, type, 2, half, x, ldx, out);
                break;
            case 3:
                tile(s, type, 3, half, x, ldx, out);
                break;
            default:
                tile(s, type, 4, half, x, ldx, out);
            }
        }
    }
}


static void
strip_i8(const moe_strip_t *s)
{
    strip(s, MOE_W_I8_G32);
}


static void
strip_i4(const moe_strip_t *s)
{
    strip(s, MOE_W_I4_G32);
}


/* vpmaddubsw, vpmaddwd and an addition for 32 products */
static uint64_t
probe_int8(uint64_t rounds)
{
    int       j;
    __m256i   sum[8], a, b, one;
    uint64_t  i;

    a = _mm256_set1_epi8(3);
    b = _mm256_set1_epi8((char) rounds);
    one = _mm256_set1_epi16(1);

    UNROLL
    for (j = 0; j < 8; j++) {
        sum[j] = a;
    }

    for (i = 0; i < rounds; i++) {
        UNROLL
        for (j = 0; j < 8; j++) {
            /* hides from the compiler that nothing changes */
            __asm__ volatile("" : "+x" (b));
            sum[j] = _mm256_add_epi32(sum[j], _mm256_madd_epi16(
                         _mm256_maddubs_epi16(a, b), one));
        }
    }

    for (j = 1; j < 8; j++) {
        sum[0] = _mm256_add_epi32(sum[0], sum[j]);
    }

    __asm__ volatile("" : : "x" (sum[0]));

    return rounds * 8 * 32 * 2;
}


const moe_packed_ops_t  moe_packed_avx2 = {
    .strip_i8 = strip_i8,
    .strip_i4 = strip_i4,
    .quantize = op_quantize,
    .probe_int8 = probe_int8,
    .probe_read = op_probe_read,
    .glu = op_glu
};
