/*
 * avx512: the AVX-512 of kernels/cpu/ on a processor that has AVX2 alone;
 * given to the compiler ahead of their sources (-include).  The intrinsics
 * are SIMDe's; those that Debian 12's release of it lacks are here.
 */

#ifndef MOE_EMULATE_AVX512_H
#define MOE_EMULATE_AVX512_H


#define SIMDE_ENABLE_NATIVE_ALIASES

#include <immintrin.h>
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


#define _mm512_cvtepi32_ps     moe_cvtepi32_ps
#define _mm512_cvtph_ps        moe_cvtph_ps
#define _mm512_cvtepu16_epi32  moe_cvtepu16_epi32
#define _mm512_cvtepu8_epi32   moe_cvtepu8_epi32
#define _mm512_cvtepi8_epi32   moe_cvtepi8_epi32


#endif /* MOE_EMULATE_AVX512_H */
