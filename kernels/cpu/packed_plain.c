#define VL  4

#include "kernels/cpu/packed_body.h"


/* quant [i][j] of a block */
static int
weight(moe_wtype_e type, const uint8_t *block, int i, int j)
{
    int  q;

    if (type == MOE_W_I8_G32) {
        return block[j / 4 * 128 + i * 4 + j % 4] - 128;
    }

    q = block[j / 8 * 128 + i * 4 + j % 4] >> j / 4 % 2 * 4 & 15;

    return type == MOE_W_I4_G32 ? q - 8 : moe_e2m1[q];
}


/* the scale of row i of a block */
static float
weight_scale(moe_wtype_e type, const uint8_t *block, int i)
{
    uint16_t  half;

    block += moe_packed_quants(type);

    if (type == MOE_W_MX4_G32) {
        return moe_e8m0(block[i]);
    }

    memcpy(&half, block + i * 2, 2);

    return f16_to_f32(half);
}


/* one row of x and one row of the strip */
static float
dot(moe_wtype_e type, const moe_strip_t *s, const uint8_t *x, int i)
{
    int             j;
    float           acc, scale;
    size_t          size;
    int32_t         sum;
    uint32_t        g;
    const int8_t   *q;
    const uint8_t  *block;

    size = moe_packed_block(type);
    acc = 0.0f;

    for (g = 0; g < s->groups; g++) {
        block = s->w + g * size;
        q = (const int8_t *) x + g * MOE_GROUP;
        sum = 0;

        for (j = 0; j < MOE_GROUP; j++) {
            sum += weight(type, block, i, j) * q[j];
        }

        scale = weight_scale(type, block, i)
                * moe_row_scales(x, s->groups)[g];
        acc = fmaf((float) sum, scale, acc);
    }

    return acc;
}


static void
strip(moe_wtype_e type, const moe_strip_t *s)
{
    int             i;
    size_t          size;
    uint32_t        r;

    size = moe_packed_row(s->groups);

    for (r = 0; r < s->nrows; r++) {
        for (i = 0; i < MOE_STRIP; i++) {
            s->out[r * MOE_STRIP + i] = dot(type, s, s->x + r * size, i);
        }
    }
}


static void
strip_i8(const moe_strip_t *s)
{
    strip(MOE_W_I8_G32, s);
}


static void
strip_i4(const moe_strip_t *s)
{
    strip(MOE_W_I4_G32, s);
}


static void
strip_mx4(const moe_strip_t *s)
{
    strip(MOE_W_MX4_G32, s);
}


static uint64_t
probe_int8(uint64_t rounds)
{
    return 0;
}


const moe_packed_ops_t  moe_packed_plain = {
    .strip_i8 = strip_i8,
    .strip_i4 = strip_i4,
    .strip_mx4 = strip_mx4,
    .quantize = op_quantize,
    .probe_int8 = probe_int8,
    .probe_read = op_probe_read,
    .glu = op_glu
};
