/*
 * placement: which physical expert slots hold which logical experts.
 *
 * The published EPLB algorithm, one layer at a time.  With groups that divide
 * evenly over nodes it is hierarchical: groups are packed to nodes, experts
 * get replicas within their node, replicas are packed to the node's ranks.
 * Otherwise the same is done with one group and one node.  A replica always
 * goes to the expert with the largest load per replica; packing takes items
 * by descending load, each to the least loaded pack that still has room.
 * Ties break by the lower index.
 */

#ifndef MOE_PLACEMENT_H
#define MOE_PLACEMENT_H


#include <stdint.h>

#include "base/err.h"


typedef struct {
    uint32_t  n_logical;    /* experts of a layer */
    uint32_t  n_physical;   /* slots over all ranks, >= n_logical */
    uint32_t  n_groups;     /* of experts; divides n_logical */
    uint32_t  n_nodes;      /* divides n_ranks */
    uint32_t  n_ranks;      /* divides n_physical */
} moe_placement_shape_t;


/*
 * load: [n_logical], tokens or any measure of them, finite and not negative.
 * phy2log: [n_physical], rank r holds slots r * n_physical / n_ranks and on.
 * replica: [n_physical], which replica of its expert a slot is, from 0.
 * count: [n_logical], replicas of an expert, at least 1.
 * -1 for a shape that does not divide, a load that is none, or no memory.
 */
int moe_placement_balance(const moe_placement_shape_t *shape,
    const double *load, uint32_t *phy2log, uint32_t *replica,
    uint32_t *count, moe_err_t *err);

/*
 * Balance that a placement gives under a load whose experts are spread evenly
 * over their replicas: the largest load of a rank over the mean, 1 is even;
 * 1 also where there is no load.
 */
double moe_placement_skew(const moe_placement_shape_t *shape,
    const double *load, const uint32_t *phy2log, const uint32_t *count);


#endif /* MOE_PLACEMENT_H */
