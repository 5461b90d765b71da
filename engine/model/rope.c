#include "base/dmath.h"
#include "model/rope.h"


#define PI  3.141592653589793


/* floor and ceil of what fits an int */

static double
round_down(double x)
{
    double  t;

    t = (double) (int64_t) x;

    return t > x ? t - 1 : t;
}


static double
round_up(double x)
{
    return -round_down(-x);
}


/* the dimension whose wave turns this often in the original context; far
 * beyond all dimensions is as good as further */
static double
yarn_dimension(const moe_rope_t *rope, double turns)
{
    double  d;

    d = rope->dim * moe_dlog(rope->original_max_positions / (turns * 2 * PI))
        / (2 * moe_dlog(rope->theta));

    return d > 1e6 ? 1e6 : d > -1e6 ? d : -1e6;
}


void
moe_rope_frequencies(const moe_rope_t *rope, float *freq)
{
    int     i;
    double  f, low, high, ramp;

    low = 0;
    high = 0;

    if (rope->type == MOE_ROPE_YARN) {
        low = yarn_dimension(rope, rope->beta_fast);
        high = yarn_dimension(rope, rope->beta_slow);

        if (rope->truncate) {
            low = round_down(low);
            high = round_up(high);
        }

        low = low < 0 ? 0 : low;
        high = high > rope->dim - 1 ? rope->dim - 1 : high;
        high = high == low ? high + 0.001 : high;
    }

    for (i = 0; i < rope->dim / 2; i++) {
        f = moe_dexp(-2.0 * i / rope->dim * moe_dlog(rope->theta));

        if (rope->type == MOE_ROPE_YARN) {
            ramp = (i - low) / (high - low);
            ramp = ramp < 0 ? 0 : ramp > 1 ? 1 : ramp;
            f = f / rope->factor * ramp + f * (1 - ramp);
        }

        freq[i] = (float) f;
    }
}


/*
 * x is not negative and below 2^24 quarter turns: each product of k and a
 * part of pi / 2 but the last is exact.
 */
static void
sine_cosine(double x, double *sine, double *cosine)
{
    double    r, r2, s, c;
    uint32_t  k;

    k = (uint32_t) (x * (2 / PI) + 0.5);

    r = x - k * 0x1.921fb54p+0;
    r = r - k * 0x1.10b461p-30;
    r = r - k * 0x1.4c4c6628b80dcp-59;
    r2 = r * r;

    s = r * (1 + r2 * (-1.0 / 6 + r2 * (1.0 / 120 + r2 * (-1.0 / 5040
        + r2 * (1.0 / 362880 + r2 * (-1.0 / 39916800
        + r2 * (1.0 / 6227020800.0)))))));

    c = 1 + r2 * (-1.0 / 2 + r2 * (1.0 / 24 + r2 * (-1.0 / 720
        + r2 * (1.0 / 40320 + r2 * (-1.0 / 3628800
        + r2 * (1.0 / 479001600.0 + r2 * (-1.0 / 87178291200.0)))))));

    switch (k % 4) {
    case 0:
        *sine = s;
        *cosine = c;
        break;
    case 1:
        *sine = c;
        *cosine = -s;
        break;
    case 2:
        *sine = -s;
        *cosine = -c;
        break;
    default:
        *sine = -c;
        *cosine = s;
    }
}


void
moe_rope_angles(const float *freq, uint32_t n, double factor,
    const uint32_t *pos, uint32_t nrows, float *cos, float *sin)
{
    float     angle;
    double    s, c;
    uint32_t  r, i;

    for (r = 0; r < nrows; r++) {
        for (i = 0; i < n; i++) {
            angle = (float) pos[r] * freq[i];
            sine_cosine(angle, &s, &c);

            *cos++ = (float) c * (float) factor;
            *sin++ = (float) s * (float) factor;
        }
    }
}
