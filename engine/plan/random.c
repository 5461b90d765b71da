#include <math.h>

#include "plan/random.h"


/* beyond this mean, and as far from n, the normal distribution is as good */
#define NORMAL_FROM  60.0


uint64_t
moe_plan_mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;

    return x ^ x >> 31;
}


double
moe_plan_uniform(uint64_t *seed)
{
    *seed += 0x9e3779b97f4a7c15ull;

    return ((double) (moe_plan_mix(*seed) >> 12) + 0.5) / 4503599627370496.0;
}


/* Box and Muller's */
double
moe_plan_normal(uint64_t *seed)
{
    double  r, a;

    r = sqrt(-2 * log(moe_plan_uniform(seed)));
    a = 6.283185307179586 * moe_plan_uniform(seed);

    return r * cos(a);
}


double
moe_plan_exponential(uint64_t *seed, double mean)
{
    return -mean * log(moe_plan_uniform(seed));
}


double
moe_plan_lognormal(uint64_t *seed, double mean, double sigma)
{
    return mean * exp(sigma * moe_plan_normal(seed) - sigma * sigma / 2);
}


/* Few: the gaps between those that happen are geometric. */
uint32_t
moe_plan_binomial(uint64_t *seed, uint32_t n, double p)
{
    double    mean, v, gap;
    uint32_t  k;

    if (p <= 0 || n == 0) {
        return 0;
    }

    if (p >= 1) {
        return n;
    }

    mean = n * p;

    if (mean > NORMAL_FROM && n - mean > NORMAL_FROM) {
        v = floor(mean + sqrt(mean * (1 - p)) * moe_plan_normal(seed) + 0.5);

        return v < 0 ? 0 : v > n ? n : (uint32_t) v;
    }

    if (p > 0.5) {
        return n - moe_plan_binomial(seed, n, 1 - p);
    }

    gap = 0;

    for (k = 0; ; k++) {
        gap += floor(log(moe_plan_uniform(seed)) / log1p(-p)) + 1;

        if (gap > n) {
            return k;
        }
    }
}
