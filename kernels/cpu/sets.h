/* sets: the three compilations of kernels/cpu/body*.h, and the GPU's */

#ifndef MOE_SETS_H
#define MOE_SETS_H


#include "kernels/kernels.h"


extern const moe_kernels_t  moe_kernels_plain;
extern const moe_kernels_t  moe_kernels_avx2;
extern const moe_kernels_t  moe_kernels_avx512;

/* NULL where there is no device; see kernels/cuda/backend.cu */
const moe_kernels_t *moe_kernels_cuda(void);
const moe_kernels_t *moe_kernels_cuda_fp8(void);


#endif /* MOE_SETS_H */
