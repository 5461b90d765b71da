/* sets: the three compilations of kernels/cpu/body*.h */

#ifndef MOE_SETS_H
#define MOE_SETS_H


#include "kernels/kernels.h"


extern const moe_kernels_t  moe_kernels_plain;
extern const moe_kernels_t  moe_kernels_avx2;
extern const moe_kernels_t  moe_kernels_avx512;


#endif /* MOE_SETS_H */
