/*
 * balance: placement of experts by the loads that they have.
 *
 * Looked at every so often: counts since the last look are averaged with what
 * was known before, every layer is placed anew by the published algorithm
 * (ep/placement.h), and where that is better by enough the new placement goes
 * on the board.  A look is done a few layers at a time, so that its caller,
 * which has other things to do, never stays long.
 *
 * Deterministic but for the counts: the caller says the time.
 */

#ifndef MOE_BALANCE_H
#define MOE_BALANCE_H


#include "ep/shm.h"


typedef struct moe_balance_s  moe_balance_t;

/* means over the layers with experts of the largest load of a rank over the
 * mean; 1 is even */
typedef struct {
    uint32_t  version;      /* of the last placement, 0: none yet */
    double    before;       /* loads of the last look as they were placed */
    double    after;        /* as they would be; as they are, if it was put */
    uint64_t  rows;         /* that chose experts since the look before */
    uint64_t  looks;        /* that have ended */
} moe_balance_figures_t;


/*
 * spare: replicas beyond one of each expert, rounded up so that all ranks
 * have as many slots; period_us: from look to look.  NULL and a line in err
 * without memory, or where so many do not fit.
 */
moe_balance_t *moe_balance_create(moe_shm_t *shm, uint32_t spare,
    uint64_t period_us, moe_err_t *err);

void moe_balance_free(moe_balance_t *b);

/* Goes on.  1: a look has ended with a new placement on the board; 0: it has
 * not; -1 and a line in err: something is wrong with this one. */
int moe_balance_turn(moe_balance_t *b, uint64_t now_us, moe_err_t *err);

void moe_balance_figures(const moe_balance_t *b,
    moe_balance_figures_t *figures);

/* What is known of a layer's loads, [n_experts], in parts of their sum; all
 * zero where there was none. */
void moe_balance_loads(const moe_balance_t *b, uint32_t layer, double *load);

/* What a layer's load is of each rank, [nranks], over the mean of the
 * members. */
void moe_balance_ranks(const moe_balance_t *b, uint32_t layer, double *rank);


#endif /* MOE_BALANCE_H */
