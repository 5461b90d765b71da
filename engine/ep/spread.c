#include <stdlib.h>
#include <string.h>

#include "ep/spread.h"


enum {
    MAX_RANKS = 4096,
    SET_RANKS = 64          /* that a set of members is for */
};


static int fill_layer(moe_ep_placement_t *p, uint32_t layer, uint32_t *next,
    moe_err_t *err);


static moe_ep_placement_t *
create(uint32_t version, uint32_t n_layers, uint32_t n_experts,
    uint32_t n_ranks, uint32_t n_local, moe_err_t *err)
{
    size_t               slots;
    moe_ep_placement_t  *p;

    if (n_ranks == 0 || n_ranks > MAX_RANKS || n_local == 0
        || n_local > n_experts || n_layers == 0)
    {
        moe_err(err, "placement: %u slots on each of %u ranks for %u experts "
                "of %u layers", n_local, n_ranks, n_experts, n_layers);
        return NULL;
    }

    p = calloc(1, sizeof(moe_ep_placement_t));
    if (p == NULL) {
        moe_err(err, "placement: out of memory");
        return NULL;
    }

    p->version = version;
    p->n_layers = n_layers;
    p->n_experts = n_experts;
    p->n_ranks = n_ranks;
    p->n_local = n_local;

    slots = (size_t) n_layers * n_ranks * n_local;

    p->expert = calloc(slots, sizeof(uint32_t));
    p->slots = calloc(slots, sizeof(uint32_t));
    p->first = calloc((size_t) n_layers * (n_experts + 1), sizeof(uint32_t));

    if (p->expert == NULL || p->slots == NULL || p->first == NULL) {
        moe_ep_placement_free(p);
        moe_err(err, "placement: out of memory");
        return NULL;
    }

    return p;
}


/* first and slots from expert; frees p on failure */
static moe_ep_placement_t *
fill(moe_ep_placement_t *p, moe_err_t *err)
{
    uint32_t  l, *next;

    next = calloc(p->n_experts, sizeof(uint32_t));
    if (next == NULL) {
        moe_ep_placement_free(p);
        moe_err(err, "placement: out of memory");
        return NULL;
    }

    for (l = 0; l < p->n_layers; l++) {
        if (fill_layer(p, l, next, err) != 0) {
            free(next);
            moe_ep_placement_free(p);
            return NULL;
        }
    }

    free(next);

    return p;
}


static int
fill_layer(moe_ep_placement_t *p, uint32_t layer, uint32_t *next,
    moe_err_t *err)
{
    uint32_t  e, i, n, *slots, *first, *expert;

    n = p->n_ranks * p->n_local;
    expert = p->expert + (size_t) layer * n;
    slots = p->slots + (size_t) layer * n;
    first = p->first + (size_t) layer * (p->n_experts + 1);

    memset(next, 0, p->n_experts * sizeof(uint32_t));

    for (i = 0; i < n; i++) {
        if (expert[i] == MOE_SPREAD_NONE) {
            continue;
        }

        if (expert[i] >= p->n_experts) {
            return moe_err(err, "placement: layer %u, slot %u: no expert %u",
                           layer, i, expert[i]);
        }

        next[expert[i]]++;
    }

    first[0] = 0;

    for (e = 0; e < p->n_experts; e++) {
        if (next[e] == 0) {
            return moe_err(err, "placement: layer %u: expert %u is nowhere",
                           layer, e);
        }

        first[e + 1] = first[e] + next[e];
        next[e] = first[e];
    }

    for (i = 0; i < n; i++) {
        if (expert[i] != MOE_SPREAD_NONE) {
            slots[next[expert[i]]++] = i;
        }
    }

    return 0;
}


moe_ep_placement_t *
moe_ep_placement(uint32_t version, uint32_t n_layers, uint32_t n_experts,
    uint32_t n_ranks, uint32_t n_local, const uint32_t *expert,
    moe_err_t *err)
{
    moe_ep_placement_t  *p;

    p = create(version, n_layers, n_experts, n_ranks, n_local, err);
    if (p == NULL) {
        return NULL;
    }

    memcpy(p->expert, expert, (size_t) n_layers * n_ranks * n_local
                              * sizeof(uint32_t));

    return fill(p, err);
}


moe_ep_placement_t *
moe_ep_placement_plain(uint32_t version, uint32_t n_layers,
    uint32_t n_experts, uint32_t n_ranks, uint64_t members, moe_err_t *err)
{
    uint8_t   up[SET_RANKS];
    uint32_t  r;

    if (n_ranks > SET_RANKS) {
        moe_err(err, "placement: %u ranks, at most %d", n_ranks, SET_RANKS);
        return NULL;
    }

    for (r = 0; r < n_ranks; r++) {
        up[r] = members >> r & 1;
    }

    return moe_ep_placement_even(version, n_layers, n_experts, n_ranks, up,
                                 err);
}


moe_ep_placement_t *
moe_ep_placement_even(uint32_t version, uint32_t n_layers,
    uint32_t n_experts, uint32_t n_ranks, const uint8_t *up, moe_err_t *err)
{
    uint32_t             i, l, r, n, at, n_local, *expert;
    moe_ep_placement_t  *p;

    n = 0;

    for (r = 0; r < n_ranks; r++) {
        n += up[r];
    }

    if (n == 0 || n_experts == 0) {
        moe_err(err, "placement: %u ranks for %u experts", n, n_experts);
        return NULL;
    }

    n_local = (n_experts + n - 1) / n;

    p = create(version, n_layers, n_experts, n_ranks, n_local, err);
    if (p == NULL) {
        return NULL;
    }

    for (l = 0; l < n_layers; l++) {
        expert = p->expert + (size_t) l * n_ranks * n_local;
        at = 0;

        for (r = 0; r < n_ranks; r++) {
            for (i = 0; i < n_local; i++) {
                expert[r * n_local + i] = up[r] ? at++ % n_experts
                                                : MOE_SPREAD_NONE;
            }
        }
    }

    return fill(p, err);
}


void
moe_ep_placement_free(moe_ep_placement_t *p)
{
    if (p != NULL) {
        free(p->expert);
        free(p->slots);
        free(p->first);
        free(p);
    }
}


int
moe_ep_placement_holds(const moe_ep_placement_t *p, uint32_t layer,
    uint32_t expert, uint32_t rank)
{
    uint32_t         i;
    const uint32_t  *slots;

    slots = p->expert + ((size_t) layer * p->n_ranks + rank) * p->n_local;

    for (i = 0; i < p->n_local; i++) {
        if (slots[i] == expert) {
            return 1;
        }
    }

    return 0;
}


uint32_t
moe_ep_placement_slot(const moe_ep_placement_t *p, uint32_t layer,
    uint32_t expert, uint32_t rank, uint32_t row, moe_replica_e choice)
{
    uint32_t         i, n, h;
    const uint32_t  *slots, *first;

    first = p->first + (size_t) layer * (p->n_experts + 1);
    n = first[expert + 1] - first[expert];
    slots = p->slots + (size_t) layer * p->n_ranks * p->n_local
            + first[expert];

    if (n == 1) {
        return slots[0];
    }

    if (choice == MOE_REPLICA_NEAREST) {
        for (i = 0; i < n; i++) {
            if (slots[i] / p->n_local == rank) {
                return slots[i];
            }
        }
    }

    h = (row * 64 + rank) * 2654435761u;
    h ^= h >> 16;

    return slots[(uint64_t) h * n >> 32];
}
