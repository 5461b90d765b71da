/*
 * mpi_balance: experts placed by their loads where ranks are on several hosts.
 *
 * Every rank counts which experts its rows chose and sends its counts to rank
 * 0 now and then; rank 0 looks at them as a front does at those of its own
 * host (ep/balance.h) and sends a placement to all, and what a look has seen,
 * which every host shows.  Nobody waits for any of it: messages are looked
 * after between steps, and steps run with a placement once all ranks have it.
 */

#ifndef MOE_MPI_BALANCE_H
#define MOE_MPI_BALANCE_H


#include <stdint.h>

#include "base/err.h"
#include "ep/balance.h"
#include "ep/exchange.h"
#include "ep/link.h"
#include "ep/spread.h"


typedef struct moe_mpi_balance_s  moe_mpi_balance_t;

typedef struct {
    uint64_t  period_us;        /* from look to look; 0: never */
    uint32_t  spare;            /* replicas; UINT32_MAX: some */
    uint32_t  nodes;            /* as in moe_balance_shape_t */
} moe_mpi_balance_options_t;


/* Slots that a rank has in a layer, at most, of any placement to come. */
uint32_t moe_mpi_balance_slots(const moe_exchange_shape_t *shape,
    uint32_t nranks, const moe_mpi_balance_options_t *o);

/* Before any message of the others can come.  NULL and err. */
moe_mpi_balance_t *moe_mpi_balance_create(const moe_link_t *link,
    uint32_t rank, uint32_t nranks, const moe_exchange_shape_t *shape,
    const moe_mpi_balance_options_t *o, moe_err_t *err);

/* After the link has cancelled what it was to receive. */
void moe_mpi_balance_free(moe_mpi_balance_t *b);

/* Rows of this rank chose experts[n], each below the shape's n_experts. */
void moe_mpi_balance_count(moe_mpi_balance_t *b, uint32_t layer,
    const uint32_t *experts, uint32_t n);

/*
 * Between steps.  next: a placement that every rank gets, the caller's; NULL:
 * none.  leaves: nothing is sent any more.  moves: the last placement is not in
 * use yet; rank 0 looks again once it is.  -1 and err where another rank sends
 * what is none, or messages fail.
 */
int moe_mpi_balance_turn(moe_mpi_balance_t *b, int leaves, int moves,
    moe_ep_placement_t **next, moe_err_t *err);

/* Of the last look, as rank 0 or what has come of it here; good until the
 * next turn.  Without looks so far its figures are zero. */
const moe_balance_map_t *moe_mpi_balance_map(const moe_mpi_balance_t *b);


#endif /* MOE_MPI_BALANCE_H */
