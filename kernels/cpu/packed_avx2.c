/*
 * vpmaddubsw adds two products in 16 bits.  Nibbles fit, and so do the sums of
 * sixteen products, 16 * 15 * 127, or of eight where they are codes of e2m1,
 * 8 * 24 * 127.  Of int8 either the sign of w is moved to
 * x, so that a sum is at most 2 * 128 * 127; or both are widened to 16 bits
 * for vpmaddwd, of each four the first and third in one register, the second
 * and fourth in another.
 *
 * One or two rows read a strip once from front to end and widen; more go by
 * half strips, a few groups at a time, so that their sums fit the registers,
 * and move signs.
 */

#define VL  8

#include "kernels/cpu/packed_body.h"


enum {
    FEW = 2,                    /* rows that read a strip once */
    ROWS = 4,                   /* of a tile, 16 columns at a time */
    NEAR = 4,                   /* groups, for more rows */
    AHEAD = 1024                /* bytes to prefetch, for few rows */
};


INLINE __m256i
load(const void *p)
{
    return _mm256_loadu_si256(p);
}


INLINE __m256i
word(const void *p)
{
    int32_t  v;

    memcpy(&v, p, 4);

    return _mm256_set1_epi32(v);
}


INLINE void
prefetch(const uint8_t *w, size_t size)
{
    size_t  line;

    for (line = 0; line < size; line += 64) {
        _mm_prefetch((const char *) w + line, _MM_HINT_T0);
    }
}


/* quants with their offset, 0 to 15, or 0 to 24 of codes */
INLINE void
nibbles(moe_wtype_e type, __m256i b, __m256i *lo, __m256i *hi)
{
    __m256i  low, table;

    low = _mm256_set1_epi8(15);
    *lo = _mm256_and_si256(b, low);
    *hi = _mm256_and_si256(_mm256_srli_epi16(b, 4), low);

    if (type == MOE_W_MX4_G32) {
        table = _mm256_broadcastsi128_si256(_mm_setr_epi8(
                    12, 13, 14, 15, 16, 18, 20, 24,
                    12, 11, 10, 9, 8, 6, 4, 0));
        *lo = _mm256_shuffle_epi8(table, *lo);
        *hi = _mm256_shuffle_epi8(table, *hi);
    }
}


/* eight scales of a block, which begin at */
INLINE __m256
scales_of(moe_wtype_e type, const uint8_t *at, int h)
{
    __m256i  e;

    if (type != MOE_W_MX4_G32) {
        return _mm256_cvtph_ps(_mm_loadu_si128((const void *) (at + h * 16)));
    }

    /* half of 2^(e - 127); 2^-127 has no exponent of its own */
    e = _mm256_slli_epi32(_mm256_cvtepu8_epi32(_mm_loadl_epi64(
                              (const void *) (at + h * 8))), 23);
    e = _mm256_castps_si256(_mm256_mul_ps(_mm256_castsi256_ps(e),
                                          _mm256_set1_ps(0.5f)));

    return _mm256_castsi256_ps(_mm256_max_epi32(e,
                                                _mm256_set1_epi32(1 << 21)));
}


/* first and third, second and fourth of four quants with their offset */
INLINE void
widen_weights(__m256i b, __m256i *even, __m256i *odd)
{
    *even = _mm256_and_si256(b, _mm256_set1_epi16(255));
    *odd = _mm256_srli_epi16(b, 8);
}


/* the same of inputs, which have a sign */
INLINE void
widen_inputs(__m256i b, __m256i *even, __m256i *odd)
{
    *even = _mm256_srai_epi16(_mm256_slli_epi16(b, 8), 8);
    *odd = _mm256_srai_epi16(b, 8);
}


/*
 * Sums are kept in their registers one by one: free to choose, compilers
 * multiply ahead, run out of registers and carry sums through memory.
 */
INLINE __m256i
kept(__m256i sum)
{
    __asm__ volatile("" : "+x" (sum));

    return sum;
}


INLINE __m256i
dot_add(__m256i sum, __m256i a, __m256i b)
{
    return kept(_mm256_add_epi32(sum, _mm256_madd_epi16(a, b)));
}


INLINE __m256i
dot_add8(__m256i sum, __m256i a, __m256i b)
{
    return kept(_mm256_add_epi16(sum, _mm256_maddubs_epi16(a, b)));
}


/* out += (float) q * (scale * d); sums over groups stay in memory, for the
 * registers are all taken within a group */
INLINE void
scaled_add(float *out, __m256i q, __m256 scale, __m256 d)
{
    _mm256_storeu_ps(out, _mm256_fmadd_ps(_mm256_cvtepi32_ps(q),
                                          _mm256_mul_ps(scale, d),
                                          _mm256_loadu_ps(out)));
}


/* 32 columns' sums over a group of int8, for rt rows */
INLINE void
few_i8(const uint8_t *w, int rt, const uint8_t *x, size_t ldx,
    __m256i q[][4])
{
    int      i, k, h;
    __m256i  even, odd, xe[FEW], xo[FEW];

    UNROLL
    for (k = 0; k < 8; k++) {
        UNROLL
        for (i = 0; i < rt; i++) {
            widen_inputs(word(x + i * ldx + k * 4), &xe[i], &xo[i]);
        }

        UNROLL
        for (h = 0; h < 4; h++) {
            widen_weights(load(w + k * 128 + h * 32), &even, &odd);

            UNROLL
            for (i = 0; i < rt; i++) {
                q[i][h] = dot_add(q[i][h], even, xe[i]);
                q[i][h] = dot_add(q[i][h], odd, xo[i]);
            }
        }
    }
}


/* 32 bits of 16-bit sums, which begin anew */
INLINE void
few_carry(int rt, __m256i s[][4], __m256i q[][4])
{
    int  i, h;

    UNROLL
    for (i = 0; i < rt; i++) {
        UNROLL
        for (h = 0; h < 4; h++) {
            q[i][h] = dot_add(q[i][h], s[i][h], _mm256_set1_epi16(1));
            s[i][h] = _mm256_setzero_si256();
        }
    }
}


INLINE void
few_i4(moe_wtype_e type, const uint8_t *w, int rt, const uint8_t *x,
    size_t ldx, __m256i q[][4])
{
    int      i, k, h;
    __m256i  lo, hi, xl[FEW], xh[FEW], s[FEW][4];

    UNROLL
    for (i = 0; i < rt; i++) {
        UNROLL
        for (h = 0; h < 4; h++) {
            s[i][h] = _mm256_setzero_si256();
        }
    }

    UNROLL
    for (k = 0; k < 4; k++) {
        if (type == MOE_W_MX4_G32 && k == 2) {
            few_carry(rt, s, q);
        }

        UNROLL
        for (i = 0; i < rt; i++) {
            xl[i] = word(x + i * ldx + k * 8);
            xh[i] = word(x + i * ldx + k * 8 + 4);
        }

        UNROLL
        for (h = 0; h < 4; h++) {
            nibbles(type, load(w + k * 128 + h * 32), &lo, &hi);

            UNROLL
            for (i = 0; i < rt; i++) {
                s[i][h] = dot_add8(s[i][h], lo, xl[i]);
                s[i][h] = dot_add8(s[i][h], hi, xh[i]);
            }
        }
    }

    few_carry(rt, s, q);
}


/* all groups and columns of a strip for rt rows */
INLINE void
few(const moe_strip_t *s, moe_wtype_e type, int rt)
{
    int             i, h;
    float          *out;
    size_t          ldx, size;
    __m256          scale;
    __m256i         q[FEW][4];
    uint32_t        g;
    const float    *scales;
    const int32_t  *sums;
    const uint8_t  *w;

    size = moe_packed_block(type);
    ldx = moe_packed_row(s->groups);
    scales = moe_row_scales(s->x, s->groups);
    sums = moe_row_sums(s->x, s->groups, type);
    w = s->w;
    out = s->out;

    for (g = 0; g < s->groups; g++, w += size) {

        prefetch(w + AHEAD, size);

        UNROLL
        for (i = 0; i < rt; i++) {
            UNROLL
            for (h = 0; h < 4; h++) {
                q[i][h] = _mm256_set1_epi32(sums[i * ldx / 4 + g]);
            }
        }

        if (type == MOE_W_I8_G32) {
            few_i8(w, rt, s->x + g * 32, ldx, q);
        } else {
            few_i4(type, w, rt, s->x + g * 32, ldx, q);
        }

        UNROLL
        for (h = 0; h < 4; h++) {
            scale = scales_of(type, w + moe_packed_quants(type), h);

            UNROLL
            for (i = 0; i < rt; i++) {
                scaled_add(out + i * MOE_STRIP + h * 8, q[i][h], scale,
                           _mm256_set1_ps(scales[i * ldx / 4 + g]));
            }
        }
    }
}


/* 16 columns' sums over a group of int8 */
INLINE void
half_i8(const uint8_t *w, int rt, const uint8_t *x, size_t ldx,
    __m256i q[][2])
{
    int      i, k, h;
    __m256i  b, a, v;

    UNROLL
    for (k = 0; k < 8; k++) {
        UNROLL
        for (h = 0; h < 2; h++) {
            b = _mm256_xor_si256(load(w + k * 128 + h * 32),
                                 _mm256_set1_epi8(-128));
            a = _mm256_abs_epi8(b);

            UNROLL
            for (i = 0; i < rt; i++) {
                v = _mm256_sign_epi8(word(x + i * ldx + k * 4), b);
                q[i][h] = dot_add(q[i][h], _mm256_maddubs_epi16(a, v),
                                  _mm256_set1_epi16(1));
            }
        }
    }
}


INLINE void
half_carry(int rt, __m256i s[][2], __m256i q[][2])
{
    int  i, h;

    UNROLL
    for (i = 0; i < rt; i++) {
        UNROLL
        for (h = 0; h < 2; h++) {
            q[i][h] = dot_add(q[i][h], s[i][h], _mm256_set1_epi16(1));
            s[i][h] = _mm256_setzero_si256();
        }
    }
}


INLINE void
half_i4(moe_wtype_e type, const uint8_t *w, int rt, const uint8_t *x,
    size_t ldx, __m256i q[][2])
{
    int      i, k, h;
    __m256i  lo, hi, s[ROWS][2];

    UNROLL
    for (i = 0; i < rt; i++) {
        s[i][0] = s[i][1] = _mm256_setzero_si256();
    }

    UNROLL
    for (k = 0; k < 4; k++) {
        if (type == MOE_W_MX4_G32 && k == 2) {
            half_carry(rt, s, q);
        }

        UNROLL
        for (h = 0; h < 2; h++) {
            nibbles(type, load(w + k * 128 + h * 32), &lo, &hi);

            UNROLL
            for (i = 0; i < rt; i++) {
                s[i][h] = dot_add8(s[i][h], lo, word(x + i * ldx + k * 8));
                s[i][h] = dot_add8(s[i][h], hi,
                                   word(x + i * ldx + k * 8 + 4));
            }
        }
    }

    half_carry(rt, s, q);
}


/* half a block, group g's, for rt rows from r on */
INLINE void
half(const moe_strip_t *s, moe_wtype_e type, uint32_t g, int rt, uint32_t r,
    int right)
{
    int             i, h;
    float          *out;
    size_t          ldx, size;
    __m256          scale;
    __m256i         q[ROWS][2];
    const float    *scales;
    const int32_t  *sums;
    const uint8_t  *w, *x;

    size = moe_packed_block(type);
    ldx = moe_packed_row(s->groups);
    x = s->x + r * ldx;
    scales = moe_row_scales(x, s->groups) + g;
    sums = moe_row_sums(x, s->groups, type) + g;
    w = s->w + g * size;
    out = s->out + r * MOE_STRIP + right * 16;

    UNROLL
    for (i = 0; i < rt; i++) {
        q[i][0] = q[i][1] = type == MOE_W_I8_G32 ? _mm256_setzero_si256()
                                                 : word(sums + i * ldx / 4);
    }

    if (type == MOE_W_I8_G32) {
        half_i8(w + right * 64, rt, x + g * 32, ldx, q);
    } else {
        half_i4(type, w + right * 64, rt, x + g * 32, ldx, q);
    }

    UNROLL
    for (h = 0; h < 2; h++) {
        scale = scales_of(type, w + moe_packed_quants(type), right * 2 + h);

        UNROLL
        for (i = 0; i < rt; i++) {
            scaled_add(out + i * MOE_STRIP + h * 8, q[i][h], scale,
                       _mm256_set1_ps(scales[i * ldx / 4]));
        }
    }
}


/* rt rows from r on against groups [begin, end); the first rows of a strip
 * fetch what is next */
INLINE void
tile(const moe_strip_t *s, moe_wtype_e type, uint32_t begin, uint32_t end,
    int rt, uint32_t r)
{
    size_t    size;
    uint32_t  g;

    size = moe_packed_block(type);

    for (g = begin; g < end; g++) {
        if (r == 0) {
            prefetch(s->w + (g + NEAR) * size, size);
        }

        half(s, type, g, rt, r, 0);
    }

    for (g = begin; g < end; g++) {
        half(s, type, g, rt, r, 1);
    }
}


/* all rows take some groups while those are in the nearest cache */
INLINE void
many(const moe_strip_t *s, moe_wtype_e type)
{
    uint32_t  g, end, r, rt;

    for (g = 0; g < s->groups; g = end) {
        end = s->groups - g < NEAR ? s->groups : g + NEAR;

        for (r = 0; r < s->nrows; r += rt) {
            rt = tile_of(s->nrows - r, type == MOE_W_I8_G32 ? ROWS : 3);

            switch (rt) {
            case 2:
                tile(s, type, g, end, 2, r);
                break;
            case 3:
                tile(s, type, g, end, 3, r);
                break;
            default:
                tile(s, type, g, end, 4, r);
            }
        }
    }
}


INLINE void
strip(const moe_strip_t *s, moe_wtype_e type)
{
    memset(s->out, 0, (size_t) s->nrows * MOE_STRIP * sizeof(float));

    switch (s->nrows) {
    case 1:
        few(s, type, 1);
        break;
    case 2:
        few(s, type, 2);
        break;
    default:
        many(s, type);
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


static void
strip_mx4(const moe_strip_t *s)
{
    strip(s, MOE_W_MX4_G32);
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
    .strip_mx4 = strip_mx4,
    .quantize = op_quantize,
    .probe_int8 = probe_int8,
    .probe_read = op_probe_read,
    .glu = op_glu
};
