/*
 * exchange_device: the exchange of one rank with itself where rows are in a
 * device's memory.  What it gives has equal bits with moe_exchange_local().
 */

#ifndef MOE_EXCHANGE_DEVICE_H
#define MOE_EXCHANGE_DEVICE_H


#include "ep/exchange.h"
#include "kernels/kernels.h"


/*
 * rows and experts of dispatch, and all that work and results point to but
 * the list of experts, are memory of the device.  k and c are the caller's and
 * outlive it.  sorts: work is computed by k->experts(), which finds out by
 * itself which rows are whose; else a dispatch waits for the device once, for
 * the experts chosen.  NULL and a line in err on failure.
 */
moe_exchange_t *moe_exchange_device(const moe_exchange_shape_t *shape,
    const moe_kernels_t *k, const moe_kctx_t *c, int sorts,
    moe_err_t *err);


#endif /* MOE_EXCHANGE_DEVICE_H */
