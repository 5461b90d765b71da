/* the lanes of body*.h, 16 to a register */

#define MOE_SET      moe_kernels_avx512
#define MOE_SET_NAME "avx512"
#define MOE_PACKED   moe_packed_avx512
#define VL           16
#define ROW_TILE     6

#include "kernels/cpu/body.h"
