/*
 * exchange_memory: a device's memory as an exchange between ranks wants it
 * (ep/carrier.h).
 */

#ifndef MOE_EXCHANGE_MEMORY_H
#define MOE_EXCHANGE_MEMORY_H


#include "ep/carrier.h"
#include "kernels/device.h"
#include "kernels/kernels.h"


typedef struct {
    moe_rows_memory_t        base;
    const moe_kernels_t     *k;
    const moe_device_ops_t  *d;
    const moe_kctx_t        *c;
} moe_exchange_memory_t;


/* k, which has memory, and c are the caller's and outlive it */
void moe_exchange_memory(moe_exchange_memory_t *m, const moe_kernels_t *k,
    const moe_kctx_t *c);


#endif /* MOE_EXCHANGE_MEMORY_H */
