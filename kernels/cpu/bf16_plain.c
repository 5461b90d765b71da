#include <math.h>

#define VL  4

#include "kernels/cpu/bf16.h"
#include "kernels/cpu/vec.h"


/* what is smaller than the least normal number is zero */
static float
flushed(float x)
{
    return fabsf(x) < 0x1p-126f ? copysignf(0.0f, x) : x;
}


static float
bf16_to_f32(uint16_t h)
{
    float     f;
    uint32_t  u;

    u = (uint32_t) h << 16;
    memcpy(&f, &u, 4);

    return f;
}


/*
 * a * b + sum, a and b bfloat16 numbers.  What is less than 2^-126 by a
 * quarter of its last digit or more, and so would be rounded to something
 * less if exponents went on, is zero; fmaf() rounds up from half a digit.
 * There the sum in double is exact: a * b has 16 digits.
 */
static float
dot_add(float a, float b, float sum)
{
    float  r;

    a = flushed(a);
    b = flushed(b);
    sum = flushed(sum);
    r = fmaf(a, b, sum);

    if (fabsf(r) <= 0x1p-126f
        && fabs((double) a * (double) b + (double) sum)
           < 0x1p-126 - 0x1p-151)
    {
        return copysignf(0.0f, r);
    }

    return r;
}


static float
dot(const float *x, const uint8_t *w, uint32_t k)
{
    float     lanes[MOE_LANES] = { 0 }, a[2], b[2];
    uint16_t  h;
    uint32_t  i, j;

    for (i = 0; i < k; i += 2) {
        for (j = 0; j < 2; j++) {
            a[j] = b[j] = 0.0f;

            if (i + j < k) {
                memcpy(&h, w + (size_t) (i + j) * 2, 2);
                a[j] = bf16_to_f32(f32_to_bf16(flushed(x[i + j])));
                b[j] = bf16_to_f32(h);
            }
        }

        j = i / 2 % MOE_LANES;
        lanes[j] = dot_add(a[1], b[1], lanes[j]);
        lanes[j] = dot_add(a[0], b[0], lanes[j]);
    }

    return lanes_sum(lanes);
}


void
moe_bf16_tile_plain(const moe_bf16_tile_t *t, float dots[][MOE_BF16_COLS])
{
    uint32_t  i, j;

    for (i = 0; i < t->rows; i++) {
        for (j = 0; j < MOE_BF16_COLS; j++) {
            dots[i][j] = dot(t->x[i], t->w[j], t->k);
        }
    }
}
