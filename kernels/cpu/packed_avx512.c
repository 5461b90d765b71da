#define VL  16

#include "kernels/cpu/packed_body.h"


enum {
    ROWS = 6,                   /* of a tile: 24 accumulators */
    AHEAD = 6,                  /* blocks to prefetch, for few rows */
    FAR = 16384                 /* bytes; a line there, so that its page is
                                 * known by the time */
};


/* the double of e2m1 + 12 by code, for each 16 bytes of a register */
static const uint8_t  mx4_table[64] = {
#define MX4_16  12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0
    MX4_16, MX4_16, MX4_16, MX4_16
#undef MX4_16
};


/* 16 scales of a block */
INLINE __m512
scales_of(moe_wtype_e type, const uint8_t *at, int right)
{
    __m512i  e;

    if (type != MOE_W_MX4_G32) {
        return _mm512_cvtph_ps(_mm256_loadu_si256((const void *)
                                                  (at + right * 32)));
    }

    /* half of 2^(e - 127); 2^-127 has no exponent of its own */
    e = _mm512_slli_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128(
                              (const void *) (at + right * 16))), 23);
    e = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(e),
                                          _mm512_set1_ps(0.5f)));

    return _mm512_castsi512_ps(_mm512_max_epi32(e,
                                                _mm512_set1_epi32(1 << 21)));
}


/*
 * rt rows against a strip; q are sums of a group, f those of groups.  Few
 * rows wait for memory, so what they will need is called soon before; many
 * rows call some lines a block, from .. to, of the strip that comes next.
 */
INLINE void
tile(const moe_strip_t *s, moe_wtype_e type, int rt, const uint8_t *x,
    size_t ldx, float *out, size_t from, size_t to)
{
    int             i, k;
    size_t          size, strip, line;
    __m512          f[ROWS][2], d, s0, s1;
    __m512i         q[ROWS][2], w0, w1, v, n0, n1, table;
    uint32_t        g;
    const float    *scales;
    const int32_t  *sums;
    const uint8_t  *w;

    size = moe_packed_block(type);
    scales = moe_row_scales(x, s->groups);
    sums = moe_row_sums(x, s->groups, type);
    w = s->w;
    strip = s->groups * size;
    n0 = n1 = _mm512_setzero_si512();
    table = _mm512_loadu_si512(mx4_table);

    UNROLL
    for (i = 0; i < rt; i++) {
        f[i][0] = f[i][1] = _mm512_setzero_ps();
    }

    for (g = 0; g < s->groups; g++, w += size) {

        if (rt < 3) {
            _mm_prefetch((const char *) w + FAR, _MM_HINT_T1);
            for (line = 0; line < size; line += 64) {
                _mm_prefetch((const char *) w + AHEAD * size + line,
                             _MM_HINT_T0);
            }

        } else {
            for (line = from; line < to; line += 64) {
                _mm_prefetch((const char *) w + strip + line, _MM_HINT_T1);
            }
        }

        UNROLL
        for (i = 0; i < rt; i++) {
            q[i][0] = q[i][1] = _mm512_set1_epi32(sums[i * ldx / 4 + g]);
        }

        UNROLL
        for (k = 0; k < 8; k++) {

            if (type == MOE_W_I8_G32) {
                w0 = _mm512_loadu_si512(w + k * 128);
                w1 = _mm512_loadu_si512(w + k * 128 + 64);

            } else if (k % 2 == 0) {
                n0 = _mm512_loadu_si512(w + k * 64);
                n1 = _mm512_loadu_si512(w + k * 64 + 64);
                w0 = _mm512_and_si512(n0, _mm512_set1_epi8(15));
                w1 = _mm512_and_si512(n1, _mm512_set1_epi8(15));

            } else {
                w0 = _mm512_and_si512(_mm512_srli_epi16(n0, 4),
                                      _mm512_set1_epi8(15));
                w1 = _mm512_and_si512(_mm512_srli_epi16(n1, 4),
                                      _mm512_set1_epi8(15));
            }

            if (type == MOE_W_MX4_G32) {
                w0 = _mm512_shuffle_epi8(table, w0);
                w1 = _mm512_shuffle_epi8(table, w1);
            }

            UNROLL
            for (i = 0; i < rt; i++) {
                v = _mm512_set1_epi32(*(const int32_t *)
                                      (x + i * ldx + g * 32 + k * 4));
                q[i][0] = _mm512_dpbusd_epi32(q[i][0], w0, v);
                q[i][1] = _mm512_dpbusd_epi32(q[i][1], w1, v);
            }
        }

        s0 = scales_of(type, w + moe_packed_quants(type), 0);
        s1 = scales_of(type, w + moe_packed_quants(type), 1);

        UNROLL
        for (i = 0; i < rt; i++) {
            d = _mm512_set1_ps(scales[i * ldx / 4 + g]);
            f[i][0] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q[i][0]),
                                      _mm512_mul_ps(s0, d), f[i][0]);
            f[i][1] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(q[i][1]),
                                      _mm512_mul_ps(s1, d), f[i][1]);
        }
    }

    UNROLL
    for (i = 0; i < rt; i++) {
        _mm512_storeu_ps(out + i * MOE_STRIP, f[i][0]);
        _mm512_storeu_ps(out + i * MOE_STRIP + 16, f[i][1]);
    }
}


INLINE void
strip(const moe_strip_t *s, moe_wtype_e type)
{
    float          *out;
    size_t          ldx, lines, from, to;
    uint32_t        r, n;
    const uint8_t  *x;

    ldx = moe_packed_row(s->groups);
    lines = (moe_packed_block(type) + 63) / 64;
    to = 0;

    for (r = 0; r < s->nrows; r += n) {
        n = tile_of(s->nrows - r, ROWS);
        x = s->x + r * ldx;
        out = s->out + r * MOE_STRIP;
        from = to;
        to = lines * (r + n) / s->nrows * 64;

        switch (n) {
        case 1:
            tile(s, type, 1, x, ldx, out, from, to);
            break;
        case 2:
            tile(s, type, 2, x, ldx, out, from, to);
            break;
        case 3:
            tile(s, type, 3, x, ldx, out, from, to);
            break;
        case 4:
            tile(s, type, 4, x, ldx, out, from, to);
            break;
        case 5:
            tile(s, type, 5, x, ldx, out, from, to);
            break;
        default:
            tile(s, type, 6, x, ldx, out, from, to);
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


static void
strip_mx4(const moe_strip_t *s)
{
    strip(s, MOE_W_MX4_G32);
}


static uint64_t
probe_int8(uint64_t rounds)
{
    int       j;
    __m512i   sum[12], a, b;
    uint64_t  i;

    a = _mm512_set1_epi8(3);
    b = _mm512_set1_epi8((char) rounds);

    UNROLL
    for (j = 0; j < 12; j++) {
        sum[j] = a;
    }

    for (i = 0; i < rounds; i++) {
        UNROLL
        for (j = 0; j < 12; j++) {
            sum[j] = _mm512_dpbusd_epi32(sum[j], a, b);
        }
    }

    for (j = 1; j < 12; j++) {
        sum[0] = _mm512_add_epi32(sum[0], sum[j]);
    }

    __asm__ volatile("" : : "m" (sum[0]));

    return rounds * 12 * 64 * 2;
}


const moe_packed_ops_t  moe_packed_avx512 = {
    .strip_i8 = strip_i8,
    .strip_i4 = strip_i4,
    .strip_mx4 = strip_mx4,
    .quantize = op_quantize,
    .probe_int8 = probe_int8,
    .probe_read = op_probe_read,
    .glu = op_glu
};
