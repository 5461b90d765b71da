/*
 * pack: matrices into the layout of packed.h and back, once ahead.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/packed.h"


/* scales that are tried for a group of four bits */
enum { I4_TRIES = 9 };


const int8_t  moe_e2m1[16] = {
    0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
};


size_t
moe_packed_strip(moe_wtype_e type, uint32_t k)
{
    return (size_t) moe_groups(k)
           * moe_packed_block(type);
}


uint64_t
moe_packed_size(moe_wtype_e type, uint64_t n, uint64_t k)
{
    return (n / MOE_STRIP + (n % MOE_STRIP != 0))
           * (k / MOE_GROUP + (k % MOE_GROUP != 0))
           * moe_packed_block(type);
}


float
moe_e8m0(uint8_t e)
{
    float     f;
    uint32_t  u;

    /* 2^-127 and 2^-128 have no exponent of their own */
    u = e == 255 ? 0x7fc00000
        : e > 1 ? (uint32_t) (e - 1) << 23 : UINT32_C(0x200000) << e;

    memcpy(&f, &u, sizeof(f));

    return f;
}


/* where quant [i][j] of a block is */
static size_t
place(moe_wtype_e type, uint32_t i, uint32_t j)
{
    uint32_t  quad;

    quad = type == MOE_W_I8_G32 ? j / 4 : j / 8;

    return (size_t) quad * 128 + i * 4 + j % 4;
}


static float
half_to_float(uint16_t h)
{
    float     f;
    uint32_t  u, exp, man;

    exp = h >> 10 & 0x1f;
    man = h & 0x3ff;

    if (exp == 0) {
        f = (float) man * 0x1p-24f;
        return h & 0x8000 ? -f : f;
    }

    u = (uint32_t) (h & 0x8000) << 16 | (exp == 31 ? 255 : exp + 112) << 23
        | man << 13;
    memcpy(&f, &u, 4);

    return f;
}


/* nearest, ties to even; |x| below 65520, so none becomes infinite */
static uint16_t
float_to_half(float x)
{
    float     a;
    uint32_t  u, sign, man;

    memcpy(&u, &x, 4);
    sign = u >> 16 & 0x8000;
    u &= 0x7fffffff;

    if (u < 113u << 23) {
        memcpy(&a, &u, 4);
        a = a * 0x1p24f + 0x1p23f;
        memcpy(&man, &a, 4);
        return (uint16_t) (sign | (man - (150u << 23)));
    }

    u += 0xfff + (u >> 13 & 1);

    return (uint16_t) (sign | ((u >> 13) - (112u << 10)));
}


static int
quant(float x, int lo, int hi)
{
    float  r;

    /* to the nearest integer, ties to even */
    x = x < (float) lo ? (float) lo : x;
    x = x > (float) hi ? (float) hi : x;
    r = (x + 0x1.8p23f) - 0x1.8p23f;

    return (int) r;
}


/* quants of a group for a scale; returns the sum of squared errors */
static float
group_quants(const float *w, float scale, int lo, int hi, int8_t *q)
{
    int    j;
    float  e, sum, inverse;

    inverse = scale != 0.0f ? 1.0f / scale : 0.0f;
    inverse = isinf(inverse) ? 0.0f : inverse;
    sum = 0.0f;

    for (j = 0; j < MOE_GROUP; j++) {
        q[j] = (int8_t) quant(w[j] * inverse, lo, hi);
        e = w[j] - (float) q[j] * scale;
        sum += e * e;
    }

    return sum;
}


/* the value of the largest magnitude, and whether all are finite */
static int
group_extreme(const float *w, float *extreme)
{
    int    j;
    float  m;

    m = 0.0f;

    for (j = 0; j < MOE_GROUP; j++) {
        if (!isfinite(w[j])) {
            return -1;
        }
        if (fabsf(w[j]) > fabsf(m)) {
            m = w[j];
        }
    }

    *extreme = m;

    return 0;
}


/* the code nearest to x, of neighbours as near the even one */
static int8_t
e2m1_code(float x)
{
    int    c;
    float  a, middle;

    a = fabsf(x);

    for (c = 0; c < 7; c++) {
        middle = (float) (moe_e2m1[c] + moe_e2m1[c + 1]) / 2;

        if (a < middle || (a == middle && c % 2 == 0)) {
            break;
        }
    }

    return (int8_t) (c != 0 && x < 0 ? c + 8 : c);
}


/* codes of a group; returns the sum of squared errors over the scale's */
static float
group_codes(const float *w, uint8_t e, int8_t *q)
{
    int    j;
    float  x, sum;

    sum = 0.0f;

    for (j = 0; j < MOE_GROUP; j++) {
        x = w[j] / moe_e8m0(e);
        q[j] = e2m1_code(x);
        x = x - (float) moe_e2m1[q[j]];
        sum += x * x;
    }

    return sum;
}


/* 2^e as OCP has it, by which the largest magnitude is from 4 to 8, though 6
 * is the largest code's; or twice that, where it errs less */
static void
group_pack_mx4(const float *w, float m, uint16_t *scale, int8_t *q)
{
    int     e;
    int8_t  tried[MOE_GROUP];

    if (m == 0.0f) {
        *scale = 0;
        memset(q, 0, MOE_GROUP);
        return;
    }

    (void) frexpf(m, &e);
    e += 127 - 3;
    e = e < 0 ? 0 : e;

    *scale = (uint16_t) e;

    if (group_codes(w, (uint8_t) e, q)
        > 4 * group_codes(w, (uint8_t) (e + 1), tried))
    {
        *scale = (uint16_t) (e + 1);
        memcpy(q, tried, sizeof(tried));
    }
}


static int
group_pack(moe_wtype_e type, const float *w, uint16_t *scale, int8_t *q)
{
    int       i;
    float     m, e, best;
    int8_t    tried[MOE_GROUP];
    uint16_t  h;

    *scale = 0;

    if (group_extreme(w, &m) != 0) {
        return -1;
    }

    if (type == MOE_W_MX4_G32) {
        group_pack_mx4(w, m, scale, q);
        return 0;
    }

    if (fabsf(m) >= 65504.0f * 7.0f) {
        return -1;
    }

    if (type == MOE_W_I8_G32) {
        *scale = float_to_half(fabsf(m) / 127.0f);
        group_quants(w, half_to_float(*scale), -127, 127, q);
        return 0;
    }

    best = INFINITY;

    for (i = 0; i < I4_TRIES; i++) {
        h = float_to_half(m / (-8.8f + 0.2f * (float) i));
        e = group_quants(w, half_to_float(h), -8, 7, tried);

        if (e < best) {
            best = e;
            *scale = h;
            memcpy(q, tried, sizeof(tried));
        }
    }

    return 0;
}


/* a row of a block, four quants at a time */
static void
place_row(moe_wtype_e type, const int8_t *q, uint32_t i, uint8_t *to)
{
    int       offset;
    uint32_t  j;

    to += i * 4;

    if (type == MOE_W_I8_G32) {

        for (j = 0; j < MOE_GROUP; j++) {
            to[j / 4 * 128 + j % 4] = (uint8_t) (q[j] + 128);
        }

        return;
    }

    offset = type == MOE_W_I4_G32 ? 8 : 0;

    for (j = 0; j < MOE_GROUP / 2; j++) {
        to[j / 4 * 128 + j % 4] = (uint8_t)
            ((q[j / 4 * 8 + j % 4] + offset)
             | (q[j / 4 * 8 + 4 + j % 4] + offset) << 4);
    }
}


/* scale of row i of a block */
static void
place_scale(moe_wtype_e type, uint16_t scale, uint32_t i, uint8_t *block)
{
    block += moe_packed_quants(type);

    if (type == MOE_W_MX4_G32) {
        block[i] = (uint8_t) scale;
    } else {
        memcpy(block + i * 2, &scale, 2);
    }
}


int
moe_pack_strip(moe_wtype_e type, const float *w, uint32_t nrows, uint32_t k,
    uint8_t *out)
{
    float      group[MOE_GROUP];
    size_t     block;
    int8_t     q[MOE_GROUP];
    uint8_t   *to;
    uint16_t   scale;
    uint32_t   g, i, n;

    block = moe_packed_block(type);

    for (i = 0; i < MOE_STRIP; i++) {
        for (g = 0; g < moe_groups(k); g++) {
            n = i >= nrows ? 0 : k - g * MOE_GROUP;
            n = n > MOE_GROUP ? MOE_GROUP : n;
            to = out + g * block;

            memset(group, 0, sizeof(group));
            if (n != 0) {
                memcpy(group, w + (size_t) i * k + g * MOE_GROUP, n * 4);
            }

            if (group_pack(type, group, &scale, q) != 0) {
                return -1;
            }

            place_row(type, q, i, to);
            place_scale(type, scale, i, to);
        }
    }

    return 0;
}


void
moe_pack_quants(moe_wtype_e type, const int8_t *q, const uint16_t *scales,
    uint32_t nrows, uint32_t k, uint8_t *out)
{
    size_t     block;
    uint8_t   *to;
    uint32_t   g, i, groups;

    static const int8_t  zeros[MOE_GROUP];

    block = moe_packed_block(type);
    groups = moe_groups(k);

    for (i = 0; i < MOE_STRIP; i++) {
        for (g = 0; g < groups; g++) {
            to = out + g * block;

            if (i < nrows) {
                place_row(type, q, i, to);
                place_scale(type, *scales++, i, to);
                q += MOE_GROUP;

            } else {
                place_row(type, zeros, i, to);
                place_scale(type, 0, i, to);
            }
        }
    }
}


void
moe_unpack_row(const moe_matrix_t *w, uint32_t i, float *out)
{
    int             q;
    size_t          size;
    uint16_t        half;
    uint32_t        j, at;
    const uint8_t  *block, *scale;

    size = moe_packed_block(w->type);
    block = (const uint8_t *) w->data
            + i / MOE_STRIP * moe_packed_strip(w->type, w->k);
    i %= MOE_STRIP;

    for (j = 0; j < w->k; j++) {
        at = j % MOE_GROUP;
        block += j != 0 && at == 0 ? size : 0;
        scale = block + moe_packed_quants(w->type);
        q = block[place(w->type, i, at)];

        if (w->type == MOE_W_I8_G32) {
            q = q - 128;
        } else {
            q = q >> at / 4 % 2 * 4 & 15;
        }

        if (w->type == MOE_W_MX4_G32) {
            out[j] = (float) moe_e2m1[q] * moe_e8m0(scale[i]);
            continue;
        }

        q = w->type == MOE_W_I4_G32 ? q - 8 : q;
        memcpy(&half, scale + i * 2, 2);
        out[j] = (float) q * half_to_float(half);
    }
}
