#include <string.h>

#include "model/mxfp4.h"


const int8_t  moe_mxfp4_values[16] = {
    0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12
};


int
moe_mxfp4_scale(uint8_t e, uint16_t *scale)
{
    int  exp;

    exp = (int) e - 128;

    if (exp > 15) {
        return -1;
    }

    *scale = exp >= -14 ? (uint16_t) ((exp + 15) << 10)
             : exp >= -24 ? (uint16_t) (1 << (exp + 24)) : 0;

    return 0;
}


float
moe_mxfp4_scale_f32(uint8_t e)
{
    float     f;
    uint32_t  u;

    /* 2^-127 and 2^-128 have no exponent of their own */
    u = e == 255 ? 0x7fc00000
        : e > 1 ? (uint32_t) (e - 1) << 23 : UINT32_C(0x200000) << e;

    memcpy(&f, &u, sizeof(f));

    return f;
}
