/*
 * shm: the exchange of ranks that are processes of one host.
 *
 * One segment of shared memory an engine, made before the ranks are forked.
 * For each pair of ranks it has a slot for rows on their way and one for
 * results on their way back, two of each, used in turn; a sender writes
 * straight into the receiver's slot.  A slot's tag, stored last, says whose
 * turn it is: the epoch and the number of the exchange.  Who waits spins for
 * some microseconds and then sleeps on a futex.
 *
 * Every step the ranks agree in begin on their numbers of rows, on the
 * placement, and on one of two forms, which give equal bits:
 *
 *   counted         always good; rows packed, one copy for each rank that has
 *                   experts of it; a list says which experts
 *   fixed capacity  a place for every (expert, row), as many a expert as the
 *                   largest rank has rows; taken where all ranks want it
 *
 * Membership is an epoch that the front publishes.  Where a rank is lost, by
 * the front's word or because it did not answer in time, everyone's wait ends
 * with MOE_EXCHANGE_LATE and the same set, and so does every later one until
 * the next epoch is published.
 */

#ifndef MOE_SHM_H
#define MOE_SHM_H


#include <stdint.h>

#include "base/err.h"
#include "ep/carrier.h"
#include "ep/exchange.h"
#include "ep/parcels.h"
#include "ep/spread.h"


enum {
    MOE_SHM_RANKS = 16
};


typedef struct moe_shm_s  moe_shm_t;

typedef struct {
    uint32_t              rank;
    moe_replica_e         replica;
    uint32_t              fixed_rows;   /* steps in which no rank has more
                                         * rows are of fixed capacity, up to
                                         * MOE_PARCEL_FIXED_ROWS; 0: none */
    moe_ep_placement_t   *placement;    /* NULL: plain, over all ranks; else
                                         * the exchange's once it is there */
    const moe_rows_memory_t
                         *memory;       /* where dispatch's rows are; only
                                         * NULL, the process's, is carried */
} moe_shm_options_t;


/*
 * A segment for nranks ranks, 1 to MOE_SHM_RANKS, all of them members of
 * epoch 1.  Memory is taken from the system as it is used.  NULL and a line
 * in err on failure.
 */
moe_shm_t *moe_shm_create(const moe_exchange_shape_t *shape, uint32_t nranks,
    moe_err_t *err);

/* in every process that has it */
void moe_shm_free(moe_shm_t *shm);

/* The next epoch, with these members; what was under way in the last one ends
 * late.  The front's. */
void moe_shm_publish(moe_shm_t *shm, uint32_t members);

/* Descriptors that every rank has to keep over fork(): fds[nranks]. */
uint32_t moe_shm_fds(const moe_shm_t *shm, int fds[MOE_SHM_RANKS]);

/* Rank is dead or does not answer: nobody waits for it any more. */
void moe_shm_lost(moe_shm_t *shm, uint32_t rank);

/* The ranks lost in this epoch. */
uint32_t moe_shm_missing(const moe_shm_t *shm);

/*
 * A rank's end.  The shape must be the segment's.  begin joins the epoch that
 * is published then.
 */
moe_exchange_t *moe_exchange_shm(moe_shm_t *shm,
    const moe_exchange_shape_t *shape, const moe_shm_options_t *o,
    moe_err_t *err);

/*
 * Another placement, the exchange's from now on, for the steps that begin
 * once all ranks have one of its version.  Versions ascend.  -1 where it does
 * not fit, or one is pending already; then it stays the caller's.
 */
int moe_exchange_shm_place(moe_exchange_t *x, moe_ep_placement_t *p,
    moe_err_t *err);

/* The version that steps run with. */
uint32_t moe_exchange_shm_placed(const moe_exchange_t *x);

/*
 * Until another epoch is published than the one of the last step: 1; 0 when
 * fd hangs up before, -1 after ms milliseconds.
 */
int moe_exchange_shm_moved(moe_exchange_t *x, int fd, uint64_t ms);


#endif /* MOE_SHM_H */
