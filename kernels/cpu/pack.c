/*
 * pack: matrices into the layout of packed.h and back, once ahead.
 */

#include <math.h>
#include <string.h>

#include "kernels/cpu/packed.h"


/* scales that are tried for a group of four bits */
enum { I4_TRIES = 9 };


size_t
moe_packed_strip(moe_wtype_e type, uint32_t k)
{
    return (size_t) moe_groups(k)
           * (type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK);
}


uint64_t
moe_packed_size(moe_wtype_e type, uint64_t n, uint64_t k)
{
    return (n / MOE_STRIP + (n % MOE_STRIP != 0))
           * (k / MOE_GROUP + (k % MOE_GROUP != 0))
           * (type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK);
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


static int
group_pack(moe_wtype_e type, const float *w, uint16_t *scale, int8_t *q)
{
    int       i;
    float     m, e, best;
    int8_t    tried[MOE_GROUP];
    uint16_t  h;

    *scale = 0;

    if (group_extreme(w, &m) != 0 || fabsf(m) >= 65504.0f * 7.0f) {
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
    uint32_t  j;

    to += i * 4;

    if (type == MOE_W_I8_G32) {

        for (j = 0; j < MOE_GROUP; j++) {
            to[j / 4 * 128 + j % 4] = (uint8_t) (q[j] + 128);
        }

        return;
    }

    for (j = 0; j < MOE_GROUP / 2; j++) {
        to[j / 4 * 128 + j % 4] = (uint8_t)
            ((q[j / 4 * 8 + j % 4] + 8)
             | (q[j / 4 * 8 + 4 + j % 4] + 8) << 4);
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

    block = type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK;

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
            memcpy(to + block - 64 + i * 2, &scale, 2);
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

    block = type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK;
    groups = moe_groups(k);

    for (i = 0; i < MOE_STRIP; i++) {
        for (g = 0; g < groups; g++) {
            to = out + g * block;

            if (i < nrows) {
                place_row(type, q, i, to);
                memcpy(to + block - 64 + i * 2, scales++, 2);
                q += MOE_GROUP;

            } else {
                place_row(type, zeros, i, to);
                memset(to + block - 64 + i * 2, 0, 2);
            }
        }
    }
}


void
moe_unpack_row(const moe_matrix_t *w, uint32_t i, float *out)
{
    int             q;
    size_t          block;
    uint16_t        scale;
    uint32_t        j, at;
    const uint8_t  *from;

    block = w->type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK;
    from = (const uint8_t *) w->data
           + i / MOE_STRIP * moe_packed_strip(w->type, w->k);
    i %= MOE_STRIP;

    for (j = 0; j < w->k; j++) {
        at = j % MOE_GROUP;
        q = from[j / MOE_GROUP * block + place(w->type, i, at)];
        q = w->type == MOE_W_I8_G32 ? q - 128 : (q >> at / 4 % 2 * 4 & 15) - 8;

        memcpy(&scale, from + j / MOE_GROUP * block + block - 64 + i * 2, 2);
        out[j] = (float) q * half_to_float(scale);
    }
}
