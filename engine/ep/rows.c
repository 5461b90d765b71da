#include <string.h>
#include <time.h>

#include "ep/exchange.h"


uint64_t
moe_exchange_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


const char *
moe_row_format_name(moe_row_format_e format)
{
    return format == MOE_ROWS_BF16 ? "bf16" : "f32";
}


/* to nearest, ties to even; a NaN stays one */
static uint16_t
round_bf16(float x)
{
    uint32_t  u;

    memcpy(&u, &x, sizeof(u));

    if ((u & 0x7fffffff) > 0x7f800000) {
        u |= 0x400000;
    } else {
        u += 0x7fff + (u >> 16 & 1);
    }

    return (uint16_t) (u >> 16);
}


static float
widen_bf16(uint16_t x)
{
    float     f;
    uint32_t  u;

    u = (uint32_t) x << 16;
    memcpy(&f, &u, sizeof(f));

    return f;
}


void
moe_row_format_apply(moe_row_format_e format, float *to, const float *from,
    uint32_t n)
{
    uint32_t  i;

    if (format == MOE_ROWS_F32) {
        if (to != from) {
            memcpy(to, from, (size_t) n * sizeof(float));
        }
        return;
    }

    for (i = 0; i < n; i++) {
        to[i] = widen_bf16(round_bf16(from[i]));
    }
}


size_t
moe_row_format_bytes(moe_row_format_e format, uint32_t n)
{
    return (size_t) n * (format == MOE_ROWS_BF16 ? sizeof(uint16_t)
                                                 : sizeof(float));
}


void
moe_row_format_pack(moe_row_format_e format, void *to, const float *from,
    uint32_t n)
{
    uint32_t   i;
    uint16_t  *half;

    if (format == MOE_ROWS_F32) {
        memcpy(to, from, (size_t) n * sizeof(float));
        return;
    }

    half = to;

    for (i = 0; i < n; i++) {
        half[i] = round_bf16(from[i]);
    }
}


void
moe_row_format_unpack(moe_row_format_e format, float *to, const void *from,
    uint32_t n)
{
    uint32_t         i;
    const uint16_t  *half;

    if (format == MOE_ROWS_F32) {
        memcpy(to, from, (size_t) n * sizeof(float));
        return;
    }

    half = from;

    for (i = 0; i < n; i++) {
        to[i] = widen_bf16(half[i]);
    }
}
