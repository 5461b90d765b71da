/*
 * nccl_rows: the carrier of rows between GPUs by NCCL.
 *
 *     counted          once the lists are there, a grouped send and receive
 *                      with every rank that has rows for this one, or this
 *                      one for it; the results go back likewise
 *     fixed capacity   the same with as many places as the step has for
 *                      every rank, which need no list and go at once
 *
 * What a rank has for itself stays where it was written.  One communicator.
 * The messages of a whole step are in the stream of the device's operations,
 * in order with those before and after; those of a step in halves in a stream
 * beside it, so that one half's are on their way while the other is computed,
 * and each waits on the device for what it needs of the other.  The host waits
 * for neither.
 */

#ifndef MOE_NCCL_ROWS_H
#define MOE_NCCL_ROWS_H


#include "ep/carrier.h"
#include "ep/nccl.h"


/*
 * memory is the caller's and outlives it.  n is an open communicator, the
 * carrier's from then on, or closed.  fixed_rows: most of a rank in a step of
 * fixed capacity.  All ranks do so: each sends every other one a row, for the
 * library looks for the way only then.  NULL and err on failure.
 */
moe_carrier_t *moe_nccl_carrier(const moe_nccl_t *n,
    const moe_rows_memory_t *memory, const moe_exchange_shape_t *shape,
    uint32_t nranks, uint32_t rank, uint32_t fixed_rows, uint64_t deadline,
    moe_err_t *err);

/* Rows of a step up to which places for all of them, which is what a step of
 * fixed capacity moves, are few bytes; 0: none are. */
uint32_t moe_nccl_fixed_rows(const moe_exchange_shape_t *shape,
    uint32_t nranks);


#endif /* MOE_NCCL_ROWS_H */
