/*
 * mpi_place: from one placement of experts to the next.
 *
 * Ranks that have all experts mapped run steps with the next placement as soon
 * as all of them have it.  A rank with a device has places there for some of a
 * layer's experts, and goes to the next placement a layer at a time: what it
 * lacks of the layer is brought to the device beside the steps; then it says
 * so, and with the step in which all say it the layer is changed and the next
 * one's turn.  All ranks pass the same layers, those in which anything is
 * different, so the way needs no other words than the placement itself.
 */

#include <stdlib.h>

#include "ep/mpi_parts.h"


typedef moe_mpi_exchange_t  mpi_t;


int
moe_mpi_places(mpi_t *x, const moe_mpi_options_t *o, moe_err_t *err)
{
    uint32_t  plain;

    plain = (x->shape.n_experts + x->mpi->nranks - 1) / x->mpi->nranks;
    x->places = o->places ? o->places
                : o->balance.period_us
                ? moe_mpi_balance_slots(&x->shape, x->mpi->nranks,
                                        &o->balance)
                : plain;

    x->moves = o->places != 0
               || (o->balance.period_us != 0 && x->mpi->nranks > 1);

    /* a carrier has room for that many of every rank at once */
    if (x->places > 2 * plain) {
        x->fixed_rows = 0;
    }

    if ((o->placement ? o->placement->n_local : plain) > x->places) {
        return moe_err(err, "exchange: a rank's %u experts of a layer have "
                       "%u places", o->placement ? o->placement->n_local
                                                 : plain, x->places);
    }

    return 0;
}


static uint32_t
expert_at(const moe_ep_placement_t *p, uint32_t layer, uint32_t rank,
    uint32_t slot)
{
    return slot < p->n_local
           ? p->expert[((size_t) layer * p->n_ranks + rank) * p->n_local
                       + slot]
           : MOE_SPREAD_NONE;
}


static uint32_t
most_local(const mpi_t *x)
{
    return x->goal->n_local > x->placement->n_local
           ? x->goal->n_local : x->placement->n_local;
}


/* the first of these layers in which the goal is not reached, or n_layers */
static uint32_t
next_layer(const mpi_t *x, uint32_t layer)
{
    uint32_t  i, r, n;

    n = most_local(x);

    for ( ; layer < x->shape.n_layers; layer++) {
        for (r = 0; r < x->mpi->nranks; r++) {
            for (i = 0; i < n; i++) {
                if (expert_at(x->goal, layer, r, i)
                    != expert_at(x->placement, layer, r, i))
                {
                    return layer;
                }
            }
        }
    }

    return layer;
}


/* layers as far as this one as in the goal, those behind it as they are */
static moe_ep_placement_t *
on_the_way(const mpi_t *x, moe_err_t *err)
{
    size_t               at;
    uint32_t             i, l, n, r, *expert;
    moe_ep_placement_t  *p;

    at = 0;
    n = most_local(x);
    expert = malloc((size_t) x->shape.n_layers * x->mpi->nranks * n
                    * sizeof(uint32_t));

    if (expert == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    for (l = 0; l < x->shape.n_layers; l++) {
        for (r = 0; r < x->mpi->nranks; r++) {
            for (i = 0; i < n; i++) {
                expert[at++] = expert_at(l <= x->layer ? x->goal
                                                       : x->placement,
                                         l, r, i);
            }
        }
    }

    p = moe_ep_placement(x->placement->version, x->shape.n_layers,
                         x->shape.n_experts, x->mpi->nranks, n, expert, err);
    free(expert);

    return p;
}


/* next, once what this rank lacks of it is here */
static int
approach(mpi_t *x, moe_err_t *err)
{
    int        rc;
    uint32_t  *experts;

    if (!x->bringing) {
        x->layer = next_layer(x, x->moved);
    }

    if (x->layer < x->shape.n_layers && !x->bringing) {
        experts = x->goal->expert
                  + ((size_t) x->layer * x->mpi->nranks + x->mpi->rank)
                    * x->goal->n_local;

        if (x->experts->bring(x->experts->ctx, x->layer, experts,
                              x->goal->n_local, err)
            != 0)
        {
            return -1;
        }

        x->bringing = 1;
    }

    rc = x->bringing ? x->experts->brought(x->experts->ctx, err) : 1;

    if (rc <= 0) {
        return rc;
    }

    if (next_layer(x, x->layer + 1) < x->shape.n_layers) {
        x->next = on_the_way(x, err);
        return x->next ? 0 : -1;
    }

    x->next = x->goal;
    x->goal = NULL;

    return 0;
}


/* of a rank with places; p is the exchange's, or on an error the caller's */
static int
set_goal(mpi_t *x, moe_ep_placement_t *p, moe_err_t *err)
{
    if (x->next != NULL) {
        return moe_err(err, "exchange: placement %u is not in use yet",
                       x->next->version);
    }

    if (!x->moves) {
        return moe_err(err, "exchange: placement %u: experts stay in place",
                       p->version);
    }

    if (p->n_local > x->places) {
        return moe_err(err, "exchange: placement %u has %u slots a rank, "
                       "which has %u places", p->version, p->n_local,
                       x->places);
    }

    return moe_parcels_place(&x->halves[0].parcels, &x->goal, p, err);
}


/* what was pending before was an older one, which not all may have had; where
 * it is taken up by layers rank 0 waits for its end */
static int
take(mpi_t *x, moe_ep_placement_t *p, moe_err_t *err)
{
    if (x->places == 0) {
        moe_ep_placement_free(x->next);
        x->next = p;
        return 0;
    }

    if (set_goal(x, p, err) != 0) {
        moe_ep_placement_free(p);
        return -1;
    }

    return 0;
}


int
moe_mpi_look_for_placement(mpi_t *x, moe_err_t *err)
{
    moe_ep_placement_t  *p;

    p = NULL;

    if (x->balance != NULL
        && moe_mpi_balance_turn(x->balance, x->leaves,
                                x->places != 0 && (x->goal || x->next), &p,
                                err)
           != 0)
    {
        return -1;
    }

    if (p != NULL && take(x, p, err) != 0) {
        return -1;
    }

    return x->goal != NULL && x->next == NULL ? approach(x, err) : 0;
}


uint32_t
moe_mpi_next(const mpi_t *x)
{
    return x->next == NULL ? 0 : x->goal ? x->goal->version
                                         : x->next->version;
}


void
moe_mpi_take_next(mpi_t *x)
{
    moe_ep_placement_free(x->placement);
    x->placement = x->next;
    x->next = NULL;

    if (x->bringing) {
        x->experts->take(x->experts->ctx);
        x->bringing = 0;
    }

    x->moved = x->goal ? x->layer + 1 : 0;
}


int
moe_exchange_mpi_place(moe_exchange_t *base, moe_ep_placement_t *p,
    moe_err_t *err)
{
    mpi_t  *x = (mpi_t *) base;

    return x->places ? set_goal(x, p, err)
                     : moe_parcels_place(&x->halves[0].parcels, &x->next, p,
                                         err);
}


uint32_t
moe_exchange_mpi_placed(const moe_exchange_t *base)
{
    return ((const mpi_t *) base)->placement->version;
}
