#define VL  4

#include "kernels/cpu/packed_body.h"


/* quant [i][j] of a block */
static int
weight(moe_wtype_e type, const uint8_t *block, int i, int j)
{
    if (type == MOE_W_I8_G32) {
        return block[j / 4 * 128 + i * 4 + j % 4];
    }

    return block[j / 8 * 128 + i * 4 + j % 4] >> j / 4 % 2 * 4 & 15;
}


/* one row of x and one row of the strip */
static float
dot(moe_wtype_e type, const moe_strip_t *s, const uint8_t *x, int i)
{
    int             j;
    float           acc, scale;
    size_t          size;
    int32_t         sum;
    uint16_t        half;
    uint32_t        g;
    const int8_t   *q;
    const uint8_t  *block;

    size = type == MOE_W_I8_G32 ? MOE_I8_BLOCK : MOE_I4_BLOCK;
    acc = 0.0f;

    for (g = 0; g < s->groups; g++) {
        block = s->w + g * size;
        q = (const int8_t *) x + g * MOE_GROUP;
        sum = moe_row_sums(x, s->groups, type)[g];

        for (j = 0; j < MOE_GROUP; j++) {
            sum += weight(type, block, i, j) * q[j];
        }

        memcpy(&half, block + size - 64 + i * 2, 2);
        scale = f16_to_f32(half) * moe_row_scales(x, s->groups)[g];
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


static uint64_t
probe_int8(uint64_t rounds)
{
    return 0;
}


const moe_packed_ops_t  moe_packed_plain = {
    .strip_i8 = strip_i8,
    .strip_i4 = strip_i4,
    .quantize = op_quantize,
    .probe_int8 = probe_int8,
    .probe_read = op_probe_read,
    .glu = op_glu
};
