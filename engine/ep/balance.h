/*
 * balance: placement of experts by the loads that they have.
 *
 * Looked at every so often: counts since the last look are averaged with what
 * was known before, every layer is placed anew by the published algorithm
 * (ep/placement.h), and where that is better by enough the new placement goes
 * on the board.  A look is done a few layers at a time, so that its caller,
 * which has other things to do, never stays long.
 *
 * Where groups of experts divide over nodes, a group stays on one node, so
 * that a row is sent to few of them; a node is an equal run of ranks.  While
 * ranks that are down leave nodes uneven, all are as one node.
 *
 * Deterministic but for the counts: the caller says the time, and gives and
 * takes through a board, be it shared memory's or a planner's.
 */

#ifndef MOE_BALANCE_H
#define MOE_BALANCE_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


typedef struct moe_balance_s  moe_balance_t;

typedef struct {
    uint32_t  n_layers;     /* dense ones are counted too */
    uint32_t  n_experts;
    uint32_t  top_k;
    uint32_t  n_groups;     /* of experts; 0 or 1: none */
    uint32_t  n_ranks;
    uint32_t  n_nodes;      /* that they are on, equal runs; 0 or 1: one */
    uint32_t  slots;        /* the most of a rank */
} moe_balance_shape_t;

/* what is between the ranks and this; data is the first argument of each */
typedef struct {
    void      *data;

    /* the epoch, and in up[n_ranks] who is a member */
    uint32_t (*epoch)(void *data, uint8_t *up);

    /* how often each expert of a layer was chosen so far: sum[n_experts];
     * wraps around */
    void     (*loads)(void *data, uint32_t layer, uint64_t *sum);

    /* expert[n_layers][n_ranks * n_local], or MOE_SPREAD_NONE */
    void     (*put)(void *data, uint32_t epoch, uint32_t version,
                    uint32_t n_local, const uint32_t *expert);
} moe_balance_board_t;

/* means over the layers with experts of the largest load of a rank over the
 * mean; 1 is even */
typedef struct {
    uint32_t  version;      /* of the last placement, 0: none yet */
    uint32_t  nodes;        /* that groups were kept on; 1: none */
    double    before;       /* loads of the last look as they were placed */
    double    after;        /* as they would be; as they are, if it was put */
    uint64_t  rows;         /* that chose experts since the look before */
    uint64_t  looks;        /* that have ended */
} moe_balance_figures_t;


/* all of that for people: for each of layers, those with rows in ascending
 * order, the load of each expert and then of each rank, in thousandths of the
 * mean, at most 65535 */
typedef struct {
    moe_balance_figures_t  figures;
    uint32_t               layers;
    uint32_t               experts;
    uint32_t               ranks;
    uint16_t               cells[];     /* [layers][experts + ranks] */
} moe_balance_map_t;


/*
 * spare: replicas beyond one of each expert, rounded up so that all ranks
 * have as many slots; period_us: from look to look.  NULL and a line in err
 * without memory, where so many do not fit, or nodes do not divide the ranks.
 */
moe_balance_t *moe_balance_create(const moe_balance_shape_t *shape,
    const moe_balance_board_t *board, uint32_t spare, uint64_t period_us,
    moe_err_t *err);

void moe_balance_free(moe_balance_t *b);

/* Goes on.  1: a look has ended with a new placement on the board; 0: it has
 * not; -1 and a line in err: something is wrong with this one. */
int moe_balance_turn(moe_balance_t *b, uint64_t now_us, moe_err_t *err);

void moe_balance_figures(const moe_balance_t *b,
    moe_balance_figures_t *figures);

/* Bytes of a map of so many layers. */
size_t moe_balance_map_bytes(uint32_t layers, uint32_t n_experts,
    uint32_t n_ranks);

/* Loads as they are known, and as experts are placed now; the map has room for
 * all layers of the shape. */
void moe_balance_map(const moe_balance_t *b, moe_balance_map_t *map);

/* Whether these bytes, which another rank has sent, are a map of that many
 * experts and ranks, and of no more layers.  -1 and a line in err. */
int moe_balance_map_check(const moe_balance_map_t *map, size_t bytes,
    uint32_t layers, uint32_t experts, uint32_t ranks, moe_err_t *err);


#endif /* MOE_BALANCE_H */
