#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dmath.h"


/* ln 2 in two parts: the first has so few bits that k * it is exact */
#define LN2_HI   0x1.62e42fee00000p-1
#define LN2_LO   0x1.a39ef35793c76p-33
#define LOG2_E   0x1.71547652b82fep+0

/* adding it leaves the nearest integer in the low bits */
#define ROUNDER  0x1.8p52

#define FOUR(x)  { x, x, x, x }


typedef double   v4d __attribute__((vector_size(32)));
typedef int64_t  v4i __attribute__((vector_size(32)));


static inline double
dexp(double x)
{
    double    k, p, r, y;
    uint64_t  u;

    y = x < -708 ? -708 : x;
    y = y > 709 ? 709 : y;

    k = y * LOG2_E + ROUNDER;
    memcpy(&u, &k, sizeof(u));
    k -= ROUNDER;

    r = y - k * LN2_HI;
    r -= k * LN2_LO;

    /* |r| <= 0.35: what the series leaves out is below 1e-17 */
    p = 1.0 / 6227020800.0;
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

    u = (u + 1023) << 52;
    memcpy(&k, &u, sizeof(k));

    return x < -708 ? 0 : p * k;
}


double
moe_dexp(double x)
{
    return dexp(x);
}


/* dexp() of four */
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

    k = y * LOG2_E + ROUNDER;
    low = ~low & (((v4i) k + 1023) << 52);
    k -= ROUNDER;

    r = y - k * LN2_HI;
    r -= k * LN2_LO;

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
        out[i] = dexp(x[i]);
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
    int       i;
    double    e, m, s, z, p;
    int64_t   k;
    uint64_t  u;

    if (!(x > 0) || x > 0x1.fffffffffffffp+1023) {
        return NAN;
    }

    memcpy(&u, &x, sizeof(u));
    k = (int64_t) (u >> 52) - 1023;
    u = (u & 0xfffffffffffffull) | 0x3ff0000000000000ull;
    memcpy(&m, &u, sizeof(m));

    /* m in sqrt(1/2) .. sqrt(2), so that near 1 nothing cancels */
    if (m > 0x1.6a09e667f3bcdp+0) {
        m *= 0.5;
        k++;
    }

    e = (double) k;

    /* log m = 2 atanh s = 2 (s + s^3/3 + s^5/5 ...), |s| < 0.172 */
    s = (m - 1) / (m + 1);
    z = s * s;
    p = 0;

    for (i = 25; i >= 3; i -= 2) {
        p = (p + 1.0 / i) * z;
    }

    return e * LN2_HI + (2 * s + (2 * s * p + e * LN2_LO));
}
