#include <string.h>

#include "kernels/kernels.h"
#include "kernels/cpu/sets.h"


static int has_avx2(void);
static int has_avx512(void);


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

    return NULL;
}


/* every flag that the Makefile compiles *_avx2.c and *_avx512.c with */

static int
has_avx2(void)
{
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
           && __builtin_cpu_supports("f16c");
#else
    return 0;
#endif
}


static int
has_avx512(void)
{
#if defined(__x86_64__)
    return has_avx2() && __builtin_cpu_supports("avx512f")
           && __builtin_cpu_supports("avx512bw")
           && __builtin_cpu_supports("avx512dq")
           && __builtin_cpu_supports("avx512vl")
           && __builtin_cpu_supports("avx512vnni")
           && __builtin_cpu_supports("avx512bf16");
#else
    return 0;
#endif
}
