/* the lanes of body*.h, 4 to a register */

#define MOE_SET      moe_kernels_plain
#define MOE_SET_NAME "plain"
#define MOE_PACKED   moe_packed_plain
#define VL           4
#define ROW_TILE     3

#include "kernels/cpu/body.h"
