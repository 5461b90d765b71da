/* the lanes of body*.h, 8 to a register */

#define MOE_SET      moe_kernels_avx2
#define MOE_SET_NAME "avx2"
#define MOE_PACKED   moe_packed_avx2
#define VL           8
#define ROW_TILE     3

#include "kernels/cpu/body.h"
