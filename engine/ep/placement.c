#include <stdlib.h>
#include <string.h>

#include "ep/placement.h"


/* one call's scratch memory, all of it of n_physical entries */

typedef struct {
    uint32_t  *order;
    uint32_t  *pack;        /* of an item */
    uint32_t  *place;       /* of an item within its pack */
    uint32_t  *items;       /* of a pack */
    double    *sum;         /* of a pack */
    double    *weight;
    uint32_t  *groups;      /* groups by node */
    uint32_t  *experts;     /* of one node, logical */
    uint32_t  *slots;       /* of one node: index into experts */
    uint32_t  *replica;
    uint32_t  *count;
} moe_placement_work_t;


static int
moe_placement_check(const moe_placement_shape_t *s, const double *load,
    moe_err_t *err)
{
    uint32_t  i;

    if (s->n_logical == 0 || s->n_ranks == 0 || s->n_nodes == 0
        || s->n_groups == 0)
    {
        return moe_err(err, "placement of nothing");
    }

    if (s->n_physical < s->n_logical || s->n_physical % s->n_ranks) {
        return moe_err(err, "%u expert slots do not hold %u experts on %u "
                       "ranks evenly", s->n_physical, s->n_logical,
                       s->n_ranks);
    }

    if (s->n_logical % s->n_groups || s->n_ranks % s->n_nodes) {
        return moe_err(err, "%u experts in %u groups, %u ranks on %u nodes "
                       "do not divide", s->n_logical, s->n_groups,
                       s->n_ranks, s->n_nodes);
    }

    for (i = 0; i < s->n_logical; i++) {
        if (!(load[i] >= 0 && load[i] <= 1e300)) {
            return moe_err(err, "load of expert %u is no number", i);
        }
    }

    return 0;
}


static int
moe_placement_alloc(moe_placement_work_t *w, uint32_t n)
{
    size_t     i;
    uint32_t **parts[] = { &w->order, &w->pack, &w->place, &w->items,
                           &w->groups, &w->experts, &w->slots, &w->replica,
                           &w->count };

    memset(w, 0, sizeof(moe_placement_work_t));

    for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        *parts[i] = calloc(n, sizeof(uint32_t));

        if (*parts[i] == NULL) {
            return -1;
        }
    }

    w->sum = calloc(n, sizeof(double));
    w->weight = calloc(n, sizeof(double));

    return w->sum && w->weight ? 0 : -1;
}


static void
moe_placement_free(moe_placement_work_t *w)
{
    free(w->order);
    free(w->pack);
    free(w->place);
    free(w->items);
    free(w->groups);
    free(w->experts);
    free(w->slots);
    free(w->replica);
    free(w->count);
    free(w->sum);
    free(w->weight);
}


/* order: indices by descending weight; insertion keeps equal ones as they
 * stand, and there are some hundred of them */

static void
moe_placement_sort(uint32_t *order, const double *weight, uint32_t n)
{
    uint32_t  i, k;

    for (i = 0; i < n; i++) {
        for (k = i; k > 0 && weight[order[k - 1]] < weight[i]; k--) {
            order[k] = order[k - 1];
        }

        order[k] = i;
    }
}


/* n items into packs of n / npacks: w->pack and w->place of each */

static void
moe_placement_pack(moe_placement_work_t *w, const double *weight, uint32_t n,
    uint32_t npacks)
{
    uint32_t  i, k, p, item;

    moe_placement_sort(w->order, weight, n);

    memset(w->items, 0, npacks * sizeof(uint32_t));
    memset(w->sum, 0, npacks * sizeof(double));

    for (i = 0; i < n; i++) {
        item = w->order[i];
        p = npacks;

        for (k = 0; k < npacks; k++) {
            if (w->items[k] < n / npacks
                && (p == npacks || w->sum[k] < w->sum[p]))
            {
                p = k;
            }
        }

        w->pack[item] = p;
        w->place[item] = w->items[p]++;
        w->sum[p] += weight[item];
    }
}


/* w->experts[nlog] become nphy slots: w->slots, w->replica, w->count */

static void
moe_placement_replicate(moe_placement_work_t *w, const double *load,
    uint32_t nlog, uint32_t nphy)
{
    uint32_t  i, k, best;

    for (i = 0; i < nlog; i++) {
        w->slots[i] = i;
        w->replica[i] = 0;
        w->count[i] = 1;
    }

    for (i = nlog; i < nphy; i++) {
        best = 0;

        for (k = 1; k < nlog; k++) {
            if (load[w->experts[k]] / w->count[k]
                > load[w->experts[best]] / w->count[best])
            {
                best = k;
            }
        }

        w->slots[i] = best;
        w->replica[i] = w->count[best]++;
    }
}


/* the experts in w->experts go to one node, which is ranks [first, first+n) */

static void
moe_placement_node(moe_placement_work_t *w, const moe_placement_shape_t *s,
    const double *load, uint32_t node, uint32_t nlog, uint32_t nnodes,
    uint32_t *phy2log, uint32_t *replica, uint32_t *count)
{
    uint32_t  i, at, nphy, nranks, each;

    nphy = s->n_physical / nnodes;
    nranks = s->n_ranks / nnodes;
    each = nphy / nranks;

    moe_placement_replicate(w, load, nlog, nphy);

    for (i = 0; i < nphy; i++) {
        w->weight[i] = load[w->experts[w->slots[i]]] / w->count[w->slots[i]];
    }

    moe_placement_pack(w, w->weight, nphy, nranks);

    for (i = 0; i < nphy; i++) {
        at = node * nphy + w->pack[i] * each + w->place[i];
        phy2log[at] = w->experts[w->slots[i]];
        replica[at] = w->replica[i];
    }

    for (i = 0; i < nlog; i++) {
        count[w->experts[i]] = w->count[i];
    }
}


int
moe_placement_balance(const moe_placement_shape_t *s, const double *load,
    uint32_t *phy2log, uint32_t *replica, uint32_t *count, moe_err_t *err)
{
    uint32_t               g, i, n, node, ngroups, nnodes, size;
    moe_placement_work_t   w;

    if (moe_placement_check(s, load, err) != 0) {
        return -1;
    }

    ngroups = s->n_groups;
    nnodes = s->n_nodes;

    if (ngroups % nnodes) {
        ngroups = 1;
        nnodes = 1;
    }

    if (moe_placement_alloc(&w, s->n_physical) != 0) {
        moe_placement_free(&w);
        return moe_err(err, "no memory for a placement");
    }

    size = s->n_logical / ngroups;

    for (g = 0; g < ngroups; g++) {
        w.weight[g] = 0;

        for (i = 0; i < size; i++) {
            w.weight[g] += load[g * size + i];
        }
    }

    moe_placement_pack(&w, w.weight, ngroups, nnodes);

    for (g = 0; g < ngroups; g++) {
        w.groups[w.pack[g] * (ngroups / nnodes) + w.place[g]] = g;
    }

    for (node = 0; node < nnodes; node++) {
        n = 0;

        for (g = 0; g < ngroups / nnodes; g++) {
            for (i = 0; i < size; i++) {
                w.experts[n++] = w.groups[node * (ngroups / nnodes) + g] * size
                                 + i;
            }
        }

        moe_placement_node(&w, s, load, node, n, nnodes, phy2log, replica,
                           count);
    }

    moe_placement_free(&w);

    return 0;
}


double
moe_placement_skew(const moe_placement_shape_t *s, const double *load,
    const uint32_t *phy2log, const uint32_t *count)
{
    double    sum, max, all;
    uint32_t  r, i, each;

    each = s->n_physical / s->n_ranks;
    max = 0;
    all = 0;

    for (r = 0; r < s->n_ranks; r++) {
        sum = 0;

        for (i = r * each; i < (r + 1) * each; i++) {
            sum += load[phy2log[i]] / count[phy2log[i]];
        }

        all += sum;
        max = sum > max ? sum : max;
    }

    return all > 0 ? max / (all / s->n_ranks) : 1;
}
