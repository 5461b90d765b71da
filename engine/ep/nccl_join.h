/*
 * nccl_join: ranks that know each other by messages between processes
 * (ep/mpi.h) join as NCCL's too.
 */

#ifndef MOE_NCCL_JOIN_H
#define MOE_NCCL_JOIN_H


#include "ep/carrier.h"
#include "ep/mpi.h"


/*
 * Joins the others that a launcher has started, as moe_mpi_open() does;
 * by_env: by what moe_launched_env() reads, over TCP.  nccl: with NCCL loaded,
 * which then is in mpi and in its library's name.
 */
int moe_mpi_join(moe_mpi_t *mpi, int by_env, int nccl, moe_err_t *err);

/*
 * All ranks do so, with equal shapes.  mpi->nccl is loaded; memory is the
 * caller's and outlives the carrier.  Steps of fixed capacity have up to
 * fixed_rows of a rank.  NULL and err on failure.
 */
moe_carrier_t *moe_nccl_join(const moe_mpi_t *mpi,
    const moe_rows_memory_t *memory, const moe_exchange_shape_t *shape,
    uint32_t fixed_rows, moe_err_t *err);


#endif /* MOE_NCCL_JOIN_H */
