/*
 * mpi: the exchange of ranks that a launcher (mpirun, srun) has started, on
 * one host or many, over messages (ep/link.h).
 *
 *     begin      to every other rank what this one has to say of the step:
 *                rows, placement, form, as over shared memory
 *     dispatch   one parcel of rows to every other rank, empty ones too; it
 *                says itself how much is in it, so counts need no round of
 *                their own
 *     combine    one parcel of results to every rank that has sent rows
 *
 * Steps are of either form (ep/shm.h), and in two halves where rank 0 has seen
 * that to be faster (ep/overlap.h), with equal bits.  Who waits tests for
 * messages, gives the processor away where somebody wants it, and sleeps in
 * ever longer naps where it takes long.
 *
 * Nobody survives another rank's death: a wait that has no answer by its
 * deadline ends with MOE_EXCHANGE_LATE and the ranks that did not answer, and
 * so does everything after it.  The launcher starts all of them again.  A
 * deadline holds also where the MPI library itself no longer returns: the
 * process ends then, by SIGALRM, which is the exchange's from its creation.
 */

#ifndef MOE_MPI_H
#define MOE_MPI_H


#include <stdint.h>

#include "base/err.h"
#include "ep/carrier.h"
#include "ep/exchange.h"
#include "ep/link.h"
#include "ep/mpi_balance.h"
#include "ep/overlap.h"
#include "ep/nccl.h"
#include "ep/spread.h"


/* all ranks, as this one sees them */
typedef struct {
    const moe_link_t  *link;            /* NULL until it is open */
    uint32_t           rank;
    uint32_t           nranks;
    char               library[128];    /* what carries messages */

    const moe_nccl_api_t
                      *nccl;            /* what carries rows of a device's
                                         * memory; NULL: nothing does */
} moe_mpi_t;

typedef struct {
    moe_replica_e        replica;
    uint32_t             fixed_rows;    /* as in moe_shm_options_t */
    const moe_rows_memory_t
                        *memory;        /* where dispatch's rows are, for
                                         * mpi->nccl; NULL: the process's */
    moe_ep_placement_t  *placement;     /* NULL: plain; else the exchange's
                                         * once it is there */
    uint32_t             places;        /* with memory: of experts of a layer
                                         * at a time; 0: as many as balance,
                                         * or without it a plain placement,
                                         * takes */
    moe_overlap_e        overlap;       /* of steps in halves; rank 0's */
    moe_mpi_balance_options_t
                         balance;       /* the same on all ranks */
} moe_mpi_options_t;


/* Joins the others; waits until all are there.  path as in moe_link_load(). */
int moe_mpi_open(moe_mpi_t *mpi, const char *path, moe_err_t *err);

/* The same over messages of another kind. */
int moe_mpi_open_link(moe_mpi_t *mpi, const moe_link_t *link,
    moe_err_t *err);

/* mine[bytes] of all ranks to all[nranks][bytes]; waits until all have called
 * it, however long they take to load. */
int moe_mpi_gather(const moe_mpi_t *mpi, const void *mine, void *all,
    size_t bytes, moe_err_t *err);

/*
 * All ranks do so, with equal shapes; one exchange at a time.  mpi is the
 * caller's and outlives it.
 */
moe_exchange_t *moe_exchange_mpi(const moe_mpi_t *mpi,
    const moe_exchange_shape_t *shape, const moe_mpi_options_t *o,
    moe_err_t *err);

/* As moe_exchange_shm_place() and moe_exchange_shm_placed().  With memory a
 * placement is taken up a layer at a time. */
int moe_exchange_mpi_place(moe_exchange_t *x, moe_ep_placement_t *p,
    moe_err_t *err);
uint32_t moe_exchange_mpi_placed(const moe_exchange_t *x);

/* What the last look at the experts' loads has seen; good until the next step.
 * NULL where experts stay in place. */
const moe_balance_map_t *moe_exchange_mpi_map(const moe_exchange_t *x);

/* Of steps in halves: this rank's steps with rows, and in rank 0 what looks
 * have shown. */
void moe_exchange_mpi_overlap(const moe_exchange_t *x,
    moe_overlap_figures_t *figures);

/*
 * This rank has nothing more to compute of its own: from now on its steps say
 * so.  It goes on with the others' until all have said it in one step, after
 * which moe_exchange_mpi_over() is 1 and none of them begins another.
 */
void moe_exchange_mpi_leave(moe_exchange_t *x);
int moe_exchange_mpi_over(const moe_exchange_t *x);


#endif /* MOE_MPI_H */
