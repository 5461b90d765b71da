/* fp8: the plain set with inputs in FP8, see kernels/fp8.h */

#ifndef MOE_CPU_FP8_H
#define MOE_CPU_FP8_H


#include "kernels/kernels.h"


/* "plain-fp8" */
const moe_kernels_t *moe_fp8_plain(void);


#endif /* MOE_CPU_FP8_H */
