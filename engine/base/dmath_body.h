/*
 * dmath_body: exp and log of dmath.h for host and device alike; nothing in
 * them may be contracted.
 */

#ifndef MOE_DMATH_BODY_H
#define MOE_DMATH_BODY_H


#include <stdint.h>
#include <string.h>


#if defined(__CUDACC__)
#define MOE_DMATH  __host__ __device__ static inline
#else
#define MOE_DMATH  static inline
#endif

/* ln 2 in two parts: the first has so few bits that k * it is exact */
#define MOE_LN2_HI   0x1.62e42fee00000p-1
#define MOE_LN2_LO   0x1.a39ef35793c76p-33
#define MOE_LOG2_E   0x1.71547652b82fep+0

/* adding it leaves the nearest integer in the low bits */
#define MOE_ROUNDER  0x1.8p52


MOE_DMATH double
moe_dexp_body(double x)
{
    double    k, p, r, y;
    uint64_t  u;

    y = x < -708 ? -708 : x;
    y = y > 709 ? 709 : y;

    k = y * MOE_LOG2_E + MOE_ROUNDER;
    memcpy(&u, &k, sizeof(u));
    k -= MOE_ROUNDER;

    r = y - k * MOE_LN2_HI;
    r -= k * MOE_LN2_LO;

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


/* of a normal number above zero */
MOE_DMATH double
moe_dlog_body(double x)
{
    int       i;
    double    e, m, s, z, p;
    int64_t   k;
    uint64_t  u;

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

    return e * MOE_LN2_HI + (2 * s + (2 * s * p + e * MOE_LN2_LO));
}


#endif /* MOE_DMATH_BODY_H */
