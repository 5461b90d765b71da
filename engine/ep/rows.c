#include <string.h>

#include "ep/exchange.h"


const char *
moe_row_format_name(moe_row_format_e format)
{
    return format == MOE_ROWS_BF16 ? "bf16" : "f32";
}


void
moe_row_format_apply(moe_row_format_e format, float *to, const float *from,
    uint32_t n)
{
    uint32_t  i, u;

    if (format == MOE_ROWS_F32) {
        if (to != from) {
            memcpy(to, from, (size_t) n * sizeof(float));
        }
        return;
    }

    for (i = 0; i < n; i++) {
        memcpy(&u, &from[i], sizeof(u));

        /* to nearest, ties to even; a NaN stays one */
        if ((u & 0x7fffffff) > 0x7f800000) {
            u |= 0x400000;
        } else {
            u += 0x7fff + (u >> 16 & 1);
        }

        u &= 0xffff0000;
        memcpy(&to[i], &u, sizeof(u));
    }
}
