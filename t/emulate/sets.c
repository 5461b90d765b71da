/* sets: what is in kernels/cpu/kernels.c, for a program with emulated AVX-512
 * and without a GPU */

#include <string.h>

#include "kernels/device.h"
#include "kernels/cpu/bf16.h"
#include "kernels/cpu/fp8.h"
#include "kernels/cpu/sets.h"


const moe_kernels_t *
moe_kernels_get(const char *name)
{
    size_t  i;

    static const moe_kernels_t *const  sets[] = {
        &moe_kernels_avx512, &moe_kernels_avx2, &moe_kernels_plain
    };

    for (i = __builtin_cpu_supports("avx2") ? 0 : 2; i < 3; i++) {
        if (name == NULL || strcmp(name, sets[i]->name) == 0) {
            return sets[i];
        }
    }

    if (strcmp(name, "avx512-bf16") == 0 && __builtin_cpu_supports("avx2")
        && moe_bf16_agrees(moe_bf16_tile_avx512))
    {
        return moe_bf16_avx512();
    }

    if (strcmp(name, "plain-fp8") == 0) {
        return moe_fp8_plain();
    }

    return strcmp(name, "plain-bf16") == 0 ? moe_bf16_plain() : NULL;
}


const moe_device_ops_t *
moe_kernels_device(const moe_kernels_t *k)
{
    return NULL;
}
