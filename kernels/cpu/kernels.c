#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "kernels/device.h"
#include "kernels/kernels.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/sets.h"


static int has_avx2(void);
static int has_avx512(void);
static int has_bf16(void);


const moe_kernels_t *
moe_kernels_get(const char *name)
{
    if ((name == NULL || strcmp(name, "avx512") == 0) && has_avx512()) {
        return &moe_kernels_avx512;
    }

    if ((name == NULL || strcmp(name, "avx2") == 0) && has_avx2()) {
        return &moe_kernels_avx2;
    }

    if (name == NULL || strcmp(name, "plain") == 0) {
        return &moe_kernels_plain;
    }

#if defined(MOE_CUDA)
    if (strcmp(name, "cuda") == 0) {
        return moe_kernels_cuda();
    }

    if (strcmp(name, "cuda-fp8") == 0) {
        return moe_kernels_cuda_fp8();
    }
#endif

    if (strcmp(name, "avx512-bf16") == 0 && has_bf16()) {
        return moe_bf16_avx512();
    }

    if (strcmp(name, "plain-bf16") == 0) {
        return moe_bf16_plain();
    }

    if (strcmp(name, "plain-fp8") == 0) {
        return moe_fp8_plain();
    }

    return NULL;
}


const moe_device_ops_t *
moe_kernels_device(const moe_kernels_t *k)
{
#if defined(MOE_CUDA)
    return k->memory ? moe_device_cuda() : NULL;
#else
    return NULL;
#endif
}


/* every flag that the Makefile compiles *_avx2.c and *_avx512.c with */

static int
has_avx2(void)
{
#if defined(__x86_64__)
    unsigned  a, b, c, d;

    /* F16C, for which not every compiler has a name: leaf 1, ECX bit 29 */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
           && __get_cpuid(1, &a, &b, &c, &d) && (c & 1u << 29);
#else
    return 0;
#endif
}


static int
has_avx512(void)
{
#if defined(__x86_64__)
    unsigned  a, b, c, d;

    /* not every compiler has a name for the last, AVX512_VNNI in leaf 7.0 */
    return has_avx2() && __builtin_cpu_supports("avx512f")
           && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq")
           && __builtin_cpu_supports("avx512vl")
           && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & 1u << 11);
#else
    return 0;
#endif
}


/* leaf 7.1, EAX bit 5; and that it adds as it is said to */
static int
has_bf16(void)
{
#if defined(__x86_64__)
    unsigned  a, b, c, d;

    return has_avx512() && __get_cpuid_count(7, 1, &a, &b, &c, &d)
           && (a & 1u << 5) && moe_bf16_agrees(moe_bf16_tile_avx512);
#else
    return 0;
#endif
}
