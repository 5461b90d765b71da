/*
 * vec: sixteen lanes as MOE_LANES / VL registers of VL floats, in the vector
 * extension that gcc and clang share.  Element by element the operations are
 * IEEE single, so that every VL gives equal bits.  Sums of products are fused
 * multiply-adds where they are written so, and nowhere else.
 */

#ifndef MOE_VEC_H
#define MOE_VEC_H


#include <stdint.h>
#include <stddef.h>
#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include "kernels/kernels.h"


#define NV      (MOE_LANES / VL)
#define INLINE  static inline __attribute__((always_inline, unused))

/* what a sanitizer adds to every access makes unrolled loops take minutes to
 * compile */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define UNROLL
#endif
#endif

#if defined(UNROLL)
#elif defined(__clang__)
#define UNROLL  _Pragma("clang loop unroll(full)")
#else
#define UNROLL  _Pragma("GCC unroll 16")
#endif


typedef float     vf __attribute__((vector_size(VL * 4)));
typedef int32_t   vi __attribute__((vector_size(VL * 4)));
typedef uint32_t  vu __attribute__((vector_size(VL * 4)));
typedef uint16_t  vh __attribute__((vector_size(VL * 2)));
typedef uint8_t   vb __attribute__((vector_size(VL)));
typedef float     v4 __attribute__((vector_size(16)));
typedef int32_t   vi4 __attribute__((vector_size(16)));

/* the same in memory, at any address */
typedef vf  vf_mem __attribute__((aligned(1), may_alias));
typedef vu  vu_mem __attribute__((aligned(1), may_alias));
typedef vh  vh_mem __attribute__((aligned(1), may_alias));
typedef vb  vb_mem __attribute__((aligned(1), may_alias));
typedef v4  v4_mem __attribute__((aligned(1), may_alias));


INLINE vf
vf_load(const void *p)
{
    return *(const vf_mem *) p;
}


INLINE void
vf_store(float *p, vf v)
{
    *(vf_mem *) p = v;
}


INLINE vf
vf_set(float x)
{
#if defined(__AVX512F__) && VL == 16
    return (vf) _mm512_set1_ps(x);
#elif defined(__AVX2__) && VL == 8
    return (vf) _mm256_set1_ps(x);
#else
    return (vf) { x, x, x, x };
#endif
}


/* a * b + c, rounded once */
INLINE vf
vf_fma(vf a, vf b, vf c)
{
#if defined(__AVX512F__) && VL == 16
    return (vf) _mm512_fmadd_ps((__m512) a, (__m512) b, (__m512) c);
#elif defined(__FMA__) && VL == 8
    return (vf) _mm256_fmadd_ps((__m256) a, (__m256) b, (__m256) c);
#else
    int  i;

    for (i = 0; i < VL; i++) {
        c[i] = __builtin_fmaf(a[i], b[i], c[i]);
    }

    return c;
#endif
}


INLINE vf
vf_select(vi mask, vf a, vf b)
{
    return (vf) ((mask & (vi) a) | (~mask & (vi) b));
}


INLINE size_t
type_size(moe_wtype_e type)
{
    return type == MOE_W_F32 ? 4 : type == MOE_W_F8_E4M3 ? 1 : 2;
}


INLINE float
f16_to_f32(uint16_t h)
{
    float     f;
    uint32_t  u, sign, exp, man;

    sign = (uint32_t) (h & 0x8000) << 16;
    exp = (h >> 10) & 0x1f;
    man = h & 0x3ff;

    if (exp == 0) {
        f = (float) man * 0x1p-24f;
        memcpy(&u, &f, 4);
        u |= sign;

    } else if (exp == 31) {
        u = sign | 0x7f800000 | man << 13;

    } else {
        u = sign | (exp + 112) << 23 | man << 13;
    }

    memcpy(&f, &u, 4);

    return f;
}


/* widening loads; compilers make little of the general form in old releases
 */

INLINE vu
load_u16(const uint8_t *p)
{
#if defined(__AVX512F__) && VL == 16
    return (vu) _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *) p));
#elif defined(__AVX2__) && VL == 8
    return (vu) _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *) p));
#else
    return __builtin_convertvector(*(const vh_mem *) p, vu);
#endif
}


INLINE vu
load_u8(const uint8_t *p)
{
#if defined(__AVX512F__) && VL == 16
    return (vu) _mm512_cvtepu8_epi32(_mm_loadu_si128((const void *) p));
#elif defined(__AVX2__) && VL == 8
    return (vu) _mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *) p));
#else
    return __builtin_convertvector(*(const vb_mem *) p, vu);
#endif
}


INLINE vi
load_i8(const uint8_t *p)
{
#if defined(__AVX512F__) && VL == 16
    return (vi) _mm512_cvtepi8_epi32(_mm_loadu_si128((const void *) p));
#elif defined(__AVX2__) && VL == 8
    return (vi) _mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *) p));
#else
    typedef int8_t  vc __attribute__((vector_size(VL)));
    typedef vc      vc_mem __attribute__((aligned(1), may_alias));

    return __builtin_convertvector(*(const vc_mem *) p, vi);
#endif
}


/* VL elements of a stored type as float32; exact */
INLINE vf
load_as_f32(moe_wtype_e type, const uint8_t *p)
{
    vu  u;

    switch (type) {

    case MOE_W_BF16:
        return (vf) (load_u16(p) << 16);

    case MOE_W_F8_E4M3:
        u = load_u8(p);
        return (vf) ((vu) ((vf) ((u & 0x7f) << 20) * 0x1p120f)
                     | (u & 0x80) << 24);

    case MOE_W_F16:
#if defined(__F16C__) && VL == 16
        return (vf) _mm512_cvtph_ps(_mm256_loadu_si256((const void *) p));
#elif defined(__F16C__) && VL == 8
        return (vf) _mm256_cvtph_ps(_mm_loadu_si128((const void *) p));
#else
        {
            int       i;
            float     f[VL];
            uint16_t  h[VL];

            memcpy(h, p, sizeof(h));
            for (i = 0; i < VL; i++) {
                f[i] = f16_to_f32(h[i]);
            }
            return vf_load(f);
        }
#endif

    default:
        return vf_load(p);
    }
}


/* n < VL elements, zeros behind them */
INLINE vf
load_part_as_f32(moe_wtype_e type, const uint8_t *p, size_t n)
{
    uint8_t  buf[VL * 4];

    memset(buf, 0, sizeof(buf));
    memcpy(buf, p, n * type_size(type));

    return load_as_f32(type, buf);
}


/* nearest, ties to even; a NaN stays one */
INLINE uint16_t
f32_to_bf16(float x)
{
    uint32_t  u;

    memcpy(&u, &x, 4);

    if ((u & 0x7fffffff) > 0x7f800000) {
        return (uint16_t) (u >> 16 | 0x40);
    }

    return (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
}


/* sum of 16 lanes: halves, quarters, eighths, the last two */
INLINE float
lanes_sum(const float *a)
{
    v4  t;

    t = (*(const v4_mem *) a + *(const v4_mem *) (a + 8))
        + (*(const v4_mem *) (a + 4) + *(const v4_mem *) (a + 12));

    return (t[0] + t[2]) + (t[1] + t[3]);
}


/* the same for four times 16 lanes, a[0], a[ld], ... */
INLINE v4
lanes_sum4(const float *a, size_t ld)
{
    int  i;
    v4   t[4], lo01, lo23, hi01, hi23;

    for (i = 0; i < 4; i++, a += ld) {
        t[i] = (*(const v4_mem *) a + *(const v4_mem *) (a + 8))
               + (*(const v4_mem *) (a + 4) + *(const v4_mem *) (a + 12));
    }

    lo01 = __builtin_shufflevector(t[0], t[1], 0, 1, 4, 5);
    hi01 = __builtin_shufflevector(t[0], t[1], 2, 3, 6, 7);
    lo23 = __builtin_shufflevector(t[2], t[3], 0, 1, 4, 5);
    hi23 = __builtin_shufflevector(t[2], t[3], 2, 3, 6, 7);

    lo01 = lo01 + hi01;
    lo23 = lo23 + hi23;

    return __builtin_shufflevector(lo01, lo23, 0, 2, 4, 6)
           + __builtin_shufflevector(lo01, lo23, 1, 3, 5, 7);
}


/*
 * e^x within two units in the last place; 0 below -87, as at 88 above it.
 * x = n ln 2 + r; n is had by adding 1.5 * 2^23, whose low bits are then n.
 */
INLINE vf
vf_exp(vf x)
{
    vf  n, r, p, t;
    vi  low, high;

    low = x < vf_set(-87.0f);
    high = x > vf_set(88.0f);

    x = vf_select(low, vf_set(-87.0f), x);
    x = vf_select(high, vf_set(88.0f), x);

    t = x * 0x1.715476p+0f + 0x1.8p23f;
    n = t - 0x1.8p23f;
    r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;

    p = vf_set(1.0f / 5040);
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;

    p = (vf) ((vu) p + ((vu) t << 23));

    return vf_select(low, vf_set(0.0f), p);
}


/* see moe_clamped_t; what is no number stays none */
INLINE vf
vf_clamped_mul(vf g, vf u, float alpha, float limit)
{
    vf  top, low;

    top = vf_set(limit);
    low = vf_set(-limit);

    g = vf_select(g > top, top, g);
    u = vf_select(u > top, top, u);
    u = vf_select(u < low, low, u);

    return (u + 1.0f) * (g / (vf_exp(g * -alpha) + 1.0f));
}


INLINE float
f32_exp(float x)
{
    return vf_exp(vf_set(x))[0];
}


#endif /* MOE_VEC_H */
