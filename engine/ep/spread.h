/*
 * spread: where the experts of each layer are.
 *
 * A rank has n_local slots in every layer, slot i of rank r is physical slot
 * r * n_local + i.  A slot holds one logical expert or none; an expert may be
 * in several slots, its replicas, which have the same weights and so give the
 * same rows.  All ranks that step together have equal tables; version says
 * which.
 */

#ifndef MOE_SPREAD_H
#define MOE_SPREAD_H


#include <stdint.h>

#include "base/err.h"


#define MOE_SPREAD_NONE  UINT32_MAX


typedef enum {
    MOE_REPLICA_HASHED,     /* spread evenly, by rank and row */
    MOE_REPLICA_NEAREST     /* the row's own rank where it has one */
} moe_replica_e;

typedef struct {
    uint32_t   version;
    uint32_t   n_layers;
    uint32_t   n_experts;   /* logical, of a layer */
    uint32_t   n_ranks;
    uint32_t   n_local;     /* slots of a rank, at most n_experts */

    uint32_t  *expert;      /* [n_layers][n_ranks * n_local], or NONE */
    uint32_t  *first;       /* [n_layers][n_experts + 1], into slots */
    uint32_t  *slots;       /* [n_layers][n_ranks * n_local], by expert */
} moe_ep_placement_t;


/*
 * Tables for n_layers layers from expert[n_layers][n_ranks * n_local], which
 * is copied.  NULL where an expert is nowhere or out of range.
 */
moe_ep_placement_t *moe_ep_placement(uint32_t version, uint32_t n_layers,
    uint32_t n_experts, uint32_t n_ranks, uint32_t n_local,
    const uint32_t *expert, moe_err_t *err);

/*
 * The ranks in members (a set; at least one) have an equal run of experts
 * each, in ascending order; slots that are left over hold the first experts
 * once more.  Other ranks have none.
 */
moe_ep_placement_t *moe_ep_placement_plain(uint32_t version,
    uint32_t n_layers, uint32_t n_experts, uint32_t n_ranks,
    uint64_t members, moe_err_t *err);

/* The same where there may be more ranks: up[n_ranks] is 1 for a member. */
moe_ep_placement_t *moe_ep_placement_even(uint32_t version,
    uint32_t n_layers, uint32_t n_experts, uint32_t n_ranks,
    const uint8_t *up, moe_err_t *err);

void moe_ep_placement_free(moe_ep_placement_t *p);

/* Whether rank has a slot with the expert. */
int moe_ep_placement_holds(const moe_ep_placement_t *p, uint32_t layer,
    uint32_t expert, uint32_t rank);

/* The slot that computes row number row of rank. */
uint32_t moe_ep_placement_slot(const moe_ep_placement_t *p, uint32_t layer,
    uint32_t expert, uint32_t rank, uint32_t row, moe_replica_e choice);


#endif /* MOE_SPREAD_H */
