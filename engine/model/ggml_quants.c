#include <string.h>

#include "model/ggml_quants.h"


#define QK  256                 /* elements of a K block */


static uint16_t
read_u16(const uint8_t *p)
{
    return (uint16_t) (p[0] | p[1] << 8);
}


static float
float_of(uint32_t bits)
{
    float  f;

    memcpy(&f, &bits, sizeof(f));

    return f;
}


static float
read_f16(const uint8_t *p)
{
    float     f;
    uint32_t  h, exp, man;

    h = read_u16(p);
    exp = h >> 10 & 0x1f;
    man = h & 0x3ff;

    if (exp == 0) {
        f = (float) man * 0x1p-24f;
        return h & 0x8000 ? -f : f;
    }

    exp = exp == 31 ? 255 : exp + 112;

    return float_of((h & 0x8000) << 16 | exp << 23 | man << 13);
}


static void
decode_f32(const uint8_t *in, size_t nblocks, float *out)
{
    memcpy(out, in, nblocks * sizeof(float));
}


static void
decode_f16(const uint8_t *in, size_t nblocks, float *out)
{
    for ( /* void */ ; nblocks > 0; nblocks--, in += 2) {
        *out++ = read_f16(in);
    }
}


static void
decode_bf16(const uint8_t *in, size_t nblocks, float *out)
{
    for ( /* void */ ; nblocks > 0; nblocks--, in += 2) {
        *out++ = float_of((uint32_t) read_u16(in) << 16);
    }
}


/* scale, then 16 bytes: low halves the first 16 elements, high the rest */

static void
decode_q4_0(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 18, out += 32) {
        d = read_f16(in);

        for (i = 0; i < 16; i++) {
            out[i] = d * (float) ((in[2 + i] & 15) - 8);
            out[i + 16] = d * (float) ((in[2 + i] >> 4) - 8);
        }
    }
}


/* scale and minimum */

static void
decode_q4_1(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d, m;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 20, out += 32) {
        d = read_f16(in);
        m = read_f16(in + 2);

        for (i = 0; i < 16; i++) {
            out[i] = d * (float) (in[4 + i] & 15) + m;
            out[i + 16] = d * (float) (in[4 + i] >> 4) + m;
        }
    }
}


/* the fifth bits of all, then as with four */

static int
five_bits(const uint8_t *high, const uint8_t *low, int i)
{
    return (low[i % 16] >> i / 16 * 4 & 15) | (high[i / 8] >> i % 8 & 1) << 4;
}


static void
decode_q5_0(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 22, out += 32) {
        d = read_f16(in);

        for (i = 0; i < 32; i++) {
            out[i] = d * (float) (five_bits(in + 2, in + 6, i) - 16);
        }
    }
}


static void
decode_q5_1(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d, m;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 24, out += 32) {
        d = read_f16(in);
        m = read_f16(in + 2);

        for (i = 0; i < 32; i++) {
            out[i] = d * (float) five_bits(in + 4, in + 8, i) + m;
        }
    }
}


static void
decode_q8_0(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 34, out += 32) {
        d = read_f16(in);

        for (i = 0; i < 32; i++) {
            out[i] = d * (float) (int8_t) in[2 + i];
        }
    }
}


/* six bits each of scale and minimum of group g of 32, packed in 12 bytes */

static void
scale_min(const uint8_t *s, int g, float *scale, float *min)
{
    if (g < 4) {
        *scale = (float) (s[g] & 63);
        *min = (float) (s[g + 4] & 63);
        return;
    }

    *scale = (float) ((s[g + 4] & 15) | (s[g - 4] >> 6) << 4);
    *min = (float) ((s[g + 4] >> 4) | (s[g] >> 6) << 4);
}


/* q4, q5: the low four bits; qh: eight groups' fifth bits, or NULL */

static void
decode_k45(const uint8_t *in, const uint8_t *qh, const uint8_t *q, float *out)
{
    int    g, i, v;
    float  d, dmin, s, m;

    d = read_f16(in);
    dmin = read_f16(in + 2);

    for (g = 0; g < 8; g++, out += 32) {
        scale_min(in + 4, g, &s, &m);
        s = d * s;
        m = dmin * m;

        for (i = 0; i < 32; i++) {
            v = q[g / 2 * 32 + i] >> (g % 2 * 4) & 15;

            if (qh != NULL) {
                v |= (qh[i] >> g & 1) << 4;
            }

            out[i] = s * (float) v - m;
        }
    }
}


static void
decode_q4_k(const uint8_t *in, size_t nblocks, float *out)
{
    for ( /* void */ ; nblocks > 0; nblocks--, in += 144, out += QK) {
        decode_k45(in, NULL, in + 16, out);
    }
}


static void
decode_q5_k(const uint8_t *in, size_t nblocks, float *out)
{
    for ( /* void */ ; nblocks > 0; nblocks--, in += 176, out += QK) {
        decode_k45(in, in + 16, in + 48, out);
    }
}


/* 128 bytes of low halves, 64 of two high bits, 16 signed scales, one F16 */

static void
decode_q6_k(const uint8_t *in, size_t nblocks, float *out)
{
    int             i, low, high;
    float           d, s;
    const uint8_t  *ql, *qh;

    for ( /* void */ ; nblocks > 0; nblocks--, in += 210, out += QK) {
        d = read_f16(in + 208);

        for (i = 0; i < QK; i++) {
            ql = in + i / 128 * 64;
            qh = in + 128 + i / 128 * 32;

            low = ql[i % 64] >> (i % 128 / 64 * 4) & 15;
            high = qh[i % 32] >> (i % 128 / 32 * 2) & 3;

            s = d * (float) (int8_t) in[192 + i / 16];
            out[i] = s * (float) ((low | high << 4) - 32);
        }
    }
}


/* an exponent, then as Q4_0, of E2M1; values are doubled and the power halved,
 * as in the reference, which reaches down to 2^-128 so */

static void
decode_mxfp4(const uint8_t *in, size_t nblocks, float *out)
{
    int    i;
    float  d;

    static const float  values[16] = {
        0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
    };

    for ( /* void */ ; nblocks > 0; nblocks--, in += 17, out += 32) {
        d = float_of(in[0] < 2 ? 0x00200000u << in[0]
                               : (uint32_t) (in[0] - 1) << 23);

        for (i = 0; i < 16; i++) {
            out[i] = d * values[in[1 + i] & 15];
            out[i + 16] = d * values[in[1 + i] >> 4];
        }
    }
}


/* what the format has had in it, by number; those without a decoder are here
 * so that files with them can be listed */

static const moe_ggml_type_t  types[] = {
    [0] = { "F32", 1, 4, decode_f32 },
    [1] = { "F16", 1, 2, decode_f16 },
    [2] = { "Q4_0", 32, 18, decode_q4_0 },
    [3] = { "Q4_1", 32, 20, decode_q4_1 },
    [6] = { "Q5_0", 32, 22, decode_q5_0 },
    [7] = { "Q5_1", 32, 24, decode_q5_1 },
    [8] = { "Q8_0", 32, 34, decode_q8_0 },
    [9] = { "Q8_1", 32, 40, NULL },
    [10] = { "Q2_K", QK, 84, NULL },
    [11] = { "Q3_K", QK, 110, NULL },
    [12] = { "Q4_K", QK, 144, decode_q4_k },
    [13] = { "Q5_K", QK, 176, decode_q5_k },
    [14] = { "Q6_K", QK, 210, decode_q6_k },
    [15] = { "Q8_K", QK, 292, NULL },
    [16] = { "IQ2_XXS", QK, 66, NULL },
    [17] = { "IQ2_XS", QK, 74, NULL },
    [18] = { "IQ3_XXS", QK, 98, NULL },
    [19] = { "IQ1_S", QK, 50, NULL },
    [20] = { "IQ4_NL", 32, 18, NULL },
    [21] = { "IQ3_S", QK, 110, NULL },
    [22] = { "IQ2_S", QK, 82, NULL },
    [23] = { "IQ4_XS", QK, 136, NULL },
    [24] = { "I8", 1, 1, NULL },
    [25] = { "I16", 1, 2, NULL },
    [26] = { "I32", 1, 4, NULL },
    [27] = { "I64", 1, 8, NULL },
    [28] = { "F64", 1, 8, NULL },
    [29] = { "IQ1_M", QK, 56, NULL },
    [30] = { "BF16", 1, 2, decode_bf16 },
    [34] = { "TQ1_0", QK, 54, NULL },
    [35] = { "TQ2_0", QK, 66, NULL },
    [39] = { "MXFP4", 32, 17, decode_mxfp4 }
};


const moe_ggml_type_t *
moe_ggml_type(uint32_t type)
{
    if (type >= sizeof(types) / sizeof(types[0]) || types[type].name == NULL) {
        return NULL;
    }

    return &types[type];
}


uint16_t
moe_bf16_of(float x)
{
    uint32_t  u;

    memcpy(&u, &x, sizeof(u));

    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t) (u >> 16 | 0x40);
    }

    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}
