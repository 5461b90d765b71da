/*
 * board: what ranks and front tell each other of experts, in the segment.
 *
 * A rank counts which experts its rows chose, the front reads the counts and
 * writes a placement; every rank takes it before a step, and the steps run
 * with it once all have (moe_exchange_shm_place()).  Each word has one writer.
 */

#ifndef MOE_BOARD_H
#define MOE_BOARD_H


#include "ep/balance.h"
#include "ep/shm.h"


/* Rows of this rank chose experts[n], each below the shape's n_experts. */
void moe_board_count(const moe_shm_t *shm, uint32_t rank, uint32_t layer,
    const uint32_t *experts, uint32_t n);

/* How often each expert of a layer was chosen so far, by all ranks:
 * sum[n_experts].  Counts wrap around with their 64 bits. */
void moe_board_loads(const moe_shm_t *shm, uint32_t layer, uint64_t *sum);

/* The most slots that a rank can have in a placement here. */
uint32_t moe_board_slots(const moe_shm_t *shm);

const moe_exchange_shape_t *moe_board_shape(const moe_shm_t *shm,
    uint32_t *nranks);

/* The epoch that is published, and its members as a set. */
uint32_t moe_board_epoch(const moe_shm_t *shm, uint32_t *members);

/*
 * The front's: expert[n_layers][nranks * n_local], logical experts or
 * MOE_SPREAD_NONE, for the steps of epoch.  n_local is at most
 * moe_board_slots().
 */
void moe_board_put(const moe_shm_t *shm, uint32_t epoch, uint32_t version,
    uint32_t n_local, const uint32_t *expert);

/* Changes with every placement that was put. */
uint32_t moe_board_seq(const moe_shm_t *shm);

/*
 * The placement that is there, for this epoch, and in seq what
 * moe_board_seq() said of it.  NULL where there is none, it is being written,
 * or it is no placement of this model's (err says why, else it is empty).
 */
moe_ep_placement_t *moe_board_get(const moe_shm_t *shm, uint32_t epoch,
    uint32_t *seq, moe_err_t *err);


/* What a balance needs of the segment, which must outlive it; its nodes are 1
 * and the caller's to change. */
void moe_board_balance(moe_shm_t *shm, moe_balance_shape_t *shape,
    moe_balance_board_t *board);


#endif /* MOE_BOARD_H */
