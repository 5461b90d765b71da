#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dmath.h"
#include "base/dmath_body.h"


#define FOUR(x)  { x, x, x, x }


typedef double   v4d __attribute__((vector_size(32)));
typedef int64_t  v4i __attribute__((vector_size(32)));


double
moe_dexp(double x)
{
    return moe_dexp_body(x);
}


/* moe_dexp_body() of four */
static inline __attribute__((always_inline)) void
dexp4(const double *x, double *out)
{
    v4d  y, k, p, r, v;
    v4i  low, high;

    memcpy(&v, x, sizeof(v));

    low = v < -708.0;
    high = v > 709.0;
    y = (v4d) ((low & (v4i) (v4d) FOUR(-708.0))
               | (high & (v4i) (v4d) FOUR(709.0)) | (~(low | high) & (v4i) v));

    k = y * MOE_LOG2_E + MOE_ROUNDER;
    low = ~low & (((v4i) k + 1023) << 52);
    k -= MOE_ROUNDER;

    r = y - k * MOE_LN2_HI;
    r -= k * MOE_LN2_LO;

    p = (v4d) FOUR(1.0 / 6227020800.0);
    p = p * r + 1.0 / 479001600.0;
    p = p * r + 1.0 / 39916800.0;
    p = p * r + 1.0 / 3628800.0;
    p = p * r + 1.0 / 362880.0;
    p = p * r + 1.0 / 40320.0;
    p = p * r + 1.0 / 5040.0;
    p = p * r + 1.0 / 720.0;
    p = p * r + 1.0 / 120.0;
    p = p * r + 1.0 / 24.0;
    p = p * r + 1.0 / 6.0;
    p = p * r + 1.0 / 2.0;
    p = p * r + 1.0;
    p = p * r + 1.0;

    v = p * (v4d) low;
    memcpy(out, &v, sizeof(v));
}


static inline __attribute__((always_inline)) void
dexp_run(const double *x, double *out, int n)
{
    int  i;

    for (i = 0; i + 4 <= n; i += 4) {
        dexp4(x + i, out + i);
    }

    for (; i < n; i++) {
        out[i] = moe_dexp_body(x[i]);
    }
}


#if defined(__x86_64__)

static __attribute__((target("avx2"))) void
dexp_avx2(const double *x, double *out, int n)
{
    dexp_run(x, out, n);
}

#endif


void
moe_dexp_array(const double *x, double *out, int n)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2")) {
        dexp_avx2(x, out, n);
        return;
    }
#endif

    dexp_run(x, out, n);
}


double
moe_dlog(double x)
{
    if (!(x > 0) || x > 0x1.fffffffffffffp+1023) {
        return NAN;
    }

    return moe_dlog_body(x);
}
