/*
 * routing: which experts the rows of a simulated fleet choose.
 *
 * Each layer has a popularity of its own: even, lognormal, or Zipf's with the
 * experts in a random order.  It drifts: a lognormal one forgets what it was
 * within a time, of Zipf's experts change places so fast.  A row chooses
 * expert e of a layer with probability p[e], the sum of which is top_k; rows
 * choose apart from each other.
 *
 * Deterministic; seconds.
 */

#ifndef MOE_PLAN_ROUTING_H
#define MOE_PLAN_ROUTING_H


#include <stdint.h>

#include "base/err.h"


typedef enum {
    MOE_ROUTING_EVEN,
    MOE_ROUTING_LOGNORMAL,
    MOE_ROUTING_ZIPF
} moe_routing_e;

typedef struct {
    moe_routing_e  kind;
    double         skew;        /* sigma, or Zipf's exponent */
    double         drift;       /* seconds in which it changes; 0: never */
    uint32_t       layers;
    uint32_t       experts;
    uint32_t       top_k;
    uint64_t       seed;
} moe_routing_options_t;


typedef struct moe_routing_s  moe_routing_t;


/* NULL and a line in err without memory. */
moe_routing_t *moe_routing_create(const moe_routing_options_t *o,
    moe_err_t *err);

void moe_routing_free(moe_routing_t *r);

/* Time goes on to at. */
void moe_routing_drift(moe_routing_t *r, double at);

/* Of so many rows, how many choose each expert of a layer: count[experts]. */
void moe_routing_draw(moe_routing_t *r, uint32_t layer, uint32_t rows,
    uint32_t *count);


#endif /* MOE_PLAN_ROUTING_H */
