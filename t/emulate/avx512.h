/*
 * avx512: the AVX-512 of kernels/cpu/ on a processor that has AVX2 alone;
 * given to the compiler ahead of their sources (-include).  The intrinsics
 * are SIMDe's; those that Debian 12's release of it lacks, or has with other
 * rounding, are here.
 */

#ifndef MOE_EMULATE_AVX512_H
#define MOE_EMULATE_AVX512_H


#define SIMDE_ENABLE_NATIVE_ALIASES

#include <immintrin.h>
#include <string.h>
#include <simde/x86/avx512.h>

/* what the sources ask for, now that SIMDe has seen that it is not there */
#define __AVX512F__  1


typedef union {
    __m512   f;
    __m512i  i;
    __m256   f256[2];
    __m256i  i256[2];
    __m128i  i128[4];
} moe_halves_t;


static inline __m512
moe_cvtepi32_ps(__m512i a)
{
    moe_halves_t  h = { .i = a };

    h.f256[0] = _mm256_cvtepi32_ps(h.i256[0]);
    h.f256[1] = _mm256_cvtepi32_ps(h.i256[1]);

    return h.f;
}


static inline __m512
moe_cvtph_ps(__m256i a)
{
    moe_halves_t  h;

    h.f256[0] = _mm256_cvtph_ps(_mm256_castsi256_si128(a));
    h.f256[1] = _mm256_cvtph_ps(_mm256_extracti128_si256(a, 1));

    return h.f;
}


static inline __m512i
moe_cvtepu16_epi32(__m256i a)
{
    moe_halves_t  h;

    h.i256[0] = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(a));
    h.i256[1] = _mm256_cvtepu16_epi32(_mm256_extracti128_si256(a, 1));

    return h.i;
}


static inline __m512i
moe_cvtepu8_epi32(__m128i a)
{
    moe_halves_t  h;

    h.i256[0] = _mm256_cvtepu8_epi32(a);
    h.i256[1] = _mm256_cvtepu8_epi32(_mm_srli_si128(a, 8));

    return h.i;
}


static inline __m512i
moe_cvtepi8_epi32(__m128i a)
{
    moe_halves_t  h;

    h.i256[0] = _mm256_cvtepi8_epi32(a);
    h.i256[1] = _mm256_cvtepi8_epi32(_mm_srli_si128(a, 8));

    return h.i;
}


/* one half of 16 bfloat16 numbers, of which each is the upper one of a
 * float32 */
static inline __m256
moe_dpbf16_half(__m256 sum, __m256i a, __m256i b)
{
    __m256i   mask;
    uint32_t  flush, old;

    old = _mm_getcsr();
    flush = old | 0x8040;
    mask = _mm256_set1_epi32((int) 0xffff0000);

    /* by the processor's own flushing to zero */
    __asm__ volatile("vldmxcsr %[flush]\n\t"
                     "vfmadd231ps %[ao], %[bo], %[sum]\n\t"
                     "vfmadd231ps %[ae], %[be], %[sum]\n\t"
                     "vldmxcsr %[old]"
                     : [sum] "+x" (sum)
                     : [flush] "m" (flush), [old] "m" (old),
                       [ao] "x" (_mm256_and_si256(a, mask)),
                       [bo] "x" (_mm256_and_si256(b, mask)),
                       [ae] "x" (_mm256_slli_epi32(a, 16)),
                       [be] "x" (_mm256_slli_epi32(b, 16)));

    return sum;
}


static inline __m512
moe_dpbf16_ps(__m512 sum, __m512bh a, __m512bh b)
{
    moe_halves_t  s = { .f = sum }, x = { .f = (__m512) a },
                  y = { .f = (__m512) b };

    s.f256[0] = moe_dpbf16_half(s.f256[0], x.i256[0], y.i256[0]);
    s.f256[1] = moe_dpbf16_half(s.f256[1], x.i256[1], y.i256[1]);

    return s.f;
}


/* as the manual has it */
static inline __m512bh
moe_cvtne2ps_pbh(__m512 high, __m512 low)
{
    int       i;
    uint16_t  out[32];
    uint32_t  u, in[32];
    __m512bh  r;

    memcpy(in, &low, 64);
    memcpy(in + 16, &high, 64);

    for (i = 0; i < 32; i++) {
        u = in[i];

        if ((u & 0x7f800000) == 0) {
            u &= 0x80000000;
        } else if ((u & 0x7f800000) != 0x7f800000) {
            u += 0x7fff + (u >> 16 & 1);
        } else if (u & 0x7fffff) {
            u |= 0x400000;
        }

        out[i] = (uint16_t) (u >> 16);
    }

    memcpy(&r, out, 64);

    return r;
}


#undef _mm512_dpbf16_ps
#undef _mm512_cvtne2ps_pbh

#define _mm512_dpbf16_ps       moe_dpbf16_ps
#define _mm512_cvtne2ps_pbh    moe_cvtne2ps_pbh
#define _mm512_cvtepi32_ps     moe_cvtepi32_ps
#define _mm512_cvtph_ps        moe_cvtph_ps
#define _mm512_cvtepu16_epi32  moe_cvtepu16_epi32
#define _mm512_cvtepu8_epi32   moe_cvtepu8_epi32
#define _mm512_cvtepi8_epi32   moe_cvtepi8_epi32


#endif /* MOE_EMULATE_AVX512_H */
