#include <stdlib.h>
#include <string.h>

#include "ep/balance.h"
#include "ep/placement.h"
#include "ep/spread.h"


enum {
    LAYERS_A_TURN = 8,

    /* rows an expert, on average, before a look means anything */
    ROWS_EXPERT = 16
};

/* how much of what was known stays at a look */
#define KEEP       0.5

/* what a new placement must gain */
#define GAIN       1.03


struct moe_balance_s {
    moe_balance_shape_t          shape;
    moe_balance_board_t          board;
    uint32_t                     nranks;
    uint32_t                     spare;
    uint32_t                     n_local;   /* over the members */
    uint64_t                     period_us;
    uint64_t                     next_us;

    uint32_t                     epoch;
    uint32_t                     members;   /* number of */
    uint8_t                     *up;        /* [nranks]: is a member */
    uint8_t                     *seen;      /* the same, as just looked at */
    uint32_t                     nodes;     /* that groups are kept on */
    moe_ep_placement_t          *placed;    /* that steps run with */

    /* of the look under way; layer n_layers: none is */
    uint32_t                     layer;
    uint32_t                     nlayers;   /* with rows */
    double                       before;
    double                       after;
    uint32_t                    *expert;    /* [n_layers][nranks * n_local] */

    uint64_t                    *last;      /* [n_layers][n_experts] */
    double                      *load;      /* the same */
    uint64_t                    *counts;    /* of this look, the same */
    uint32_t                    *phy;       /* [nranks * n_local] */
    uint32_t                    *replica;
    uint32_t                    *count;     /* [n_experts] */
    double                      *rank;      /* [nranks] */

    moe_balance_figures_t        figures;
};


static int begin(moe_balance_t *b, uint64_t now_us, moe_err_t *err);
static uint64_t take(moe_balance_t *b);
static int join(moe_balance_t *b, uint32_t epoch, moe_err_t *err);
static int place(moe_balance_t *b, uint32_t layer, moe_err_t *err);
static int end(moe_balance_t *b, moe_err_t *err);
static double skew(const moe_balance_t *b, const uint32_t *expert,
    uint32_t n_local, const double *load);
static void rank_loads(const moe_balance_t *b, const uint32_t *expert,
    uint32_t n_local, const double *load, double *rank);
static uint32_t nodes(const moe_balance_t *b);


moe_balance_t *
moe_balance_create(const moe_balance_shape_t *shape,
    const moe_balance_board_t *board, uint32_t spare, uint64_t period_us,
    moe_err_t *err)
{
    size_t          all, slots;
    moe_balance_t  *b;

    if (shape->n_nodes > 1 && shape->n_ranks % shape->n_nodes) {
        moe_err(err, "balance: %u ranks do not divide over %u nodes",
                shape->n_ranks, shape->n_nodes);
        return NULL;
    }

    if (spare > (shape->n_ranks - 1) * shape->n_experts) {
        moe_err(err, "balance: %u replicas of %u experts on %u ranks: more "
                "than one of each on every rank", spare, shape->n_experts,
                shape->n_ranks);
        return NULL;
    }

    b = calloc(1, sizeof(moe_balance_t));
    if (b == NULL) {
        moe_err(err, "balance: out of memory");
        return NULL;
    }

    b->shape = *shape;
    b->board = *board;
    b->nranks = shape->n_ranks;
    b->period_us = period_us;
    b->spare = spare;

    all = (size_t) b->shape.n_layers * b->shape.n_experts;
    slots = (size_t) b->nranks * shape->slots;

    b->expert = calloc(b->shape.n_layers * slots, sizeof(uint32_t));
    b->last = calloc(all, sizeof(uint64_t));
    b->load = calloc(all, sizeof(double));
    b->counts = calloc(all, sizeof(uint64_t));
    b->phy = calloc(slots, sizeof(uint32_t));
    b->replica = calloc(slots, sizeof(uint32_t));
    b->count = calloc(b->shape.n_experts, sizeof(uint32_t));
    b->rank = calloc(b->nranks, sizeof(double));
    b->up = calloc(b->nranks, 1);
    b->seen = calloc(b->nranks, 1);

    if (b->expert == NULL || b->last == NULL || b->load == NULL
        || b->counts == NULL || b->phy == NULL || b->replica == NULL
        || b->count == NULL
        || b->rank == NULL || b->up == NULL || b->seen == NULL)
    {
        moe_err(err, "balance: out of memory");
        moe_balance_free(b);
        return NULL;
    }

    b->layer = b->shape.n_layers;
    b->figures.before = 1;
    b->figures.after = 1;
    b->figures.nodes = 1;

    if (join(b, b->board.epoch(b->board.data, b->seen), err) != 0) {
        moe_balance_free(b);
        return NULL;
    }

    return b;
}


void
moe_balance_free(moe_balance_t *b)
{
    if (b == NULL) {
        return;
    }

    moe_ep_placement_free(b->placed);
    free(b->expert);
    free(b->last);
    free(b->load);
    free(b->counts);
    free(b->phy);
    free(b->replica);
    free(b->count);
    free(b->rank);
    free(b->up);
    free(b->seen);
    free(b);
}


int
moe_balance_turn(moe_balance_t *b, uint64_t now_us, moe_err_t *err)
{
    uint32_t  i;

    if (b->layer == b->shape.n_layers) {

        if (b->next_us == 0) {
            b->next_us = now_us + b->period_us;
        }

        if (now_us < b->next_us) {
            return 0;
        }

        return begin(b, now_us, err);
    }

    for (i = 0; i < LAYERS_A_TURN && b->layer < b->shape.n_layers; i++) {
        if (place(b, b->layer, err) != 0) {
            b->layer = b->shape.n_layers;
            return -1;
        }

        b->layer++;
    }

    return b->layer == b->shape.n_layers ? end(b, err) : 0;
}


/* a look, where there were rows enough to say something */
static int
begin(moe_balance_t *b, uint64_t now_us, moe_err_t *err)
{
    uint32_t  epoch;

    b->next_us = now_us + b->period_us;
    epoch = b->board.epoch(b->board.data, b->seen);

    if (epoch != b->epoch && join(b, epoch, err) != 0) {
        return -1;
    }

    if (take(b) == 0) {
        return 0;
    }

    b->layer = 0;
    b->nlayers = 0;
    b->before = 0;
    b->after = 0;

    return 0;
}


/* Averages the counts in; 0 where they wait for more. */
static uint64_t
take(moe_balance_t *b)
{
    size_t    i, n;
    uint32_t  e, l;
    uint64_t  rows, all, most, *count;

    all = 0;
    most = 0;
    n = b->shape.n_experts;

    for (l = 0; l < b->shape.n_layers; l++) {
        count = b->counts + l * n;
        b->board.loads(b->board.data, l, count);
        rows = 0;

        for (e = 0; e < n; e++) {
            rows += count[e] - b->last[l * n + e];
        }

        all += rows;
        most = rows > most ? rows : most;
    }

    if (most < ROWS_EXPERT * n) {
        return 0;
    }

    for (i = 0; i < b->shape.n_layers * n; i++) {
        b->load[i] = KEEP * b->load[i] + (double) (b->counts[i] - b->last[i]);
        b->last[i] = b->counts[i];
    }

    b->figures.rows = all / b->shape.top_k;

    return all;
}


/* an epoch begins with a plain placement over its members, as at the ranks */
static int
join(moe_balance_t *b, uint32_t epoch, moe_err_t *err)
{
    uint32_t             n, r;
    moe_ep_placement_t  *p;

    p = moe_ep_placement_even(0x80000000u | epoch, b->shape.n_layers,
                              b->shape.n_experts, b->nranks, b->seen, err);
    if (p == NULL) {
        return -1;
    }

    moe_ep_placement_free(b->placed);
    b->placed = p;
    b->epoch = epoch;
    b->members = 0;

    for (r = 0; r < b->nranks; r++) {
        b->up[r] = b->seen[r];
        b->members += b->up[r];
    }

    n = b->members;
    b->nodes = nodes(b);
    b->n_local = (b->shape.n_experts + b->spare + n - 1) / n;

    if (b->n_local > b->shape.slots) {
        b->n_local = b->shape.slots;
    }

    return 0;
}


/* those that have members, where all of these have as many, and groups divide
 * over them; else 1 */
static uint32_t
nodes(const moe_balance_t *b)
{
    uint32_t  i, k, n, each, up, size;

    if (b->shape.n_nodes < 2 || b->shape.n_groups < 2) {
        return 1;
    }

    n = 0;
    each = 0;
    size = b->nranks / b->shape.n_nodes;

    for (i = 0; i < b->shape.n_nodes; i++) {
        up = 0;

        for (k = 0; k < size; k++) {
            up += b->up[i * size + k];
        }

        if (up > 0 && each > 0 && up != each) {
            return 1;
        }

        if (up > 0) {
            each = up;
            n++;
        }
    }

    return b->shape.n_groups % n == 0 ? n : 1;
}


static int
place(moe_balance_t *b, uint32_t layer, moe_err_t *err)
{
    double                 *load, sum;
    uint32_t                i, r, n, e, *to;
    const uint32_t         *now;
    moe_placement_shape_t   s;

    load = b->load + (size_t) layer * b->shape.n_experts;
    to = b->expert + (size_t) layer * b->nranks * b->n_local;
    now = b->placed->expert
          + (size_t) layer * b->nranks * b->placed->n_local;
    n = b->members;
    sum = 0;

    for (e = 0; e < b->shape.n_experts; e++) {
        sum += load[e];
    }

    s.n_logical = b->shape.n_experts;
    s.n_physical = n * b->n_local;
    s.n_groups = b->nodes > 1 ? b->shape.n_groups : 1;
    s.n_nodes = b->nodes;
    s.n_ranks = n;

    if (moe_placement_balance(&s, load, b->phy, b->replica, b->count, err)
        != 0)
    {
        return -1;
    }

    for (r = 0, n = 0; r < b->nranks; r++) {
        for (i = 0; i < b->n_local; i++) {
            to[r * b->n_local + i] = MOE_SPREAD_NONE;

            if (b->up[r]) {
                to[r * b->n_local + i] = b->phy[n * b->n_local + i];
            }
        }

        n += b->up[r];
    }

    if (sum > 0) {
        b->before += skew(b, now, b->placed->n_local, load);
        b->after += skew(b, to, b->n_local, load);
        b->nlayers++;
    }

    return 0;
}


static int
end(moe_balance_t *b, moe_err_t *err)
{
    moe_ep_placement_t  *p;

    if (b->board.epoch(b->board.data, b->seen) != b->epoch
        || b->nlayers == 0)
    {
        return 0;
    }

    b->figures.looks++;
    b->figures.before = b->before / b->nlayers;
    b->figures.after = b->after / b->nlayers;

    if (b->figures.before < GAIN * b->figures.after) {
        b->figures.after = b->figures.before;
        return 0;
    }

    p = moe_ep_placement(b->figures.version + 1, b->shape.n_layers,
                         b->shape.n_experts, b->nranks, b->n_local,
                         b->expert, err);
    if (p == NULL) {
        return -1;
    }

    moe_ep_placement_free(b->placed);
    b->placed = p;
    b->figures.version++;
    b->figures.nodes = b->nodes;

    b->board.put(b->board.data, b->epoch, b->figures.version, b->n_local,
                 b->expert);

    return 1;
}


static double
skew(const moe_balance_t *b, const uint32_t *expert, uint32_t n_local,
    const double *load)
{
    double    most;
    uint32_t  r;

    rank_loads(b, expert, n_local, load, b->rank);
    most = 0;

    for (r = 0; r < b->nranks; r++) {
        most = b->rank[r] > most ? b->rank[r] : most;
    }

    return most;
}


/* replicas of an expert have equal parts of its load */
static void
rank_loads(const moe_balance_t *b, const uint32_t *expert, uint32_t n_local,
    const double *load, double *rank)
{
    double    mean;
    uint32_t  i, n;

    n = b->nranks * n_local;
    mean = 0;
    memset(b->count, 0, b->shape.n_experts * sizeof(uint32_t));
    memset(rank, 0, b->nranks * sizeof(double));

    for (i = 0; i < n; i++) {
        if (expert[i] != MOE_SPREAD_NONE) {
            b->count[expert[i]]++;
        }
    }

    for (i = 0; i < n; i++) {
        if (expert[i] != MOE_SPREAD_NONE) {
            rank[i / n_local] += load[expert[i]] / b->count[expert[i]];
            mean += load[expert[i]] / b->count[expert[i]];
        }
    }

    mean /= b->members;

    for (i = 0; i < b->nranks && mean > 0; i++) {
        rank[i] /= mean;
    }
}


void
moe_balance_figures(const moe_balance_t *b, moe_balance_figures_t *figures)
{
    *figures = b->figures;
}


size_t
moe_balance_map_bytes(uint32_t layers, uint32_t n_experts, uint32_t n_ranks)
{
    return sizeof(moe_balance_map_t)
           + (size_t) layers * (n_experts + n_ranks) * sizeof(uint16_t);
}


/* a rank's load over the mean is 1 to as many as there are ranks, but for
 * rounding */
static int
is_skew(double skew, uint32_t ranks)
{
    return skew >= 0.999 && skew <= ranks + 0.001;
}


int
moe_balance_map_check(const moe_balance_map_t *map, size_t bytes,
    uint32_t layers, uint32_t experts, uint32_t ranks, moe_err_t *err)
{
    const moe_balance_figures_t  *f;

    if (bytes < sizeof(*map)) {
        return moe_err(err, "a map of %zu bytes, whose beginning has %zu",
                       bytes, sizeof(*map));
    }

    if (map->layers > layers || map->experts != experts
        || map->ranks != ranks)
    {
        return moe_err(err, "a map of %u layers, %u experts and %u ranks "
                       "where there are %u, %u and %u", map->layers,
                       map->experts, map->ranks, layers, experts, ranks);
    }

    if (bytes != moe_balance_map_bytes(map->layers, experts, ranks)) {
        return moe_err(err, "a map of %zu bytes that says it has %zu", bytes,
                       moe_balance_map_bytes(map->layers, experts, ranks));
    }

    f = &map->figures;

    if (!is_skew(f->before, ranks) || !is_skew(f->after, ranks)
        || f->nodes == 0 || f->nodes > ranks)
    {
        return moe_err(err, "a map with skews of %g and %g on %u nodes, "
                       "which %u ranks cannot have", f->before, f->after,
                       f->nodes, ranks);
    }

    return 0;
}


/* of something whose mean is one */
static uint16_t
cell(double load)
{
    load = load * 1000 + 0.5;

    return load < UINT16_MAX ? (uint16_t) load : UINT16_MAX;
}


void
moe_balance_map(const moe_balance_t *b, moe_balance_map_t *map)
{
    double           sum;
    uint16_t        *to;
    uint32_t         l, e, r;
    const double    *load;
    const uint32_t  *expert;

    map->figures = b->figures;
    map->layers = 0;
    map->experts = b->shape.n_experts;
    map->ranks = b->nranks;
    to = map->cells;

    for (l = 0; l < b->shape.n_layers; l++) {
        load = b->load + (size_t) l * b->shape.n_experts;
        expert = b->placed->expert
                 + (size_t) l * b->nranks * b->placed->n_local;
        sum = 0;

        for (e = 0; e < b->shape.n_experts; e++) {
            sum += load[e];
        }

        if (sum == 0) {
            continue;
        }

        for (e = 0; e < b->shape.n_experts; e++) {
            *to++ = cell(load[e] / sum * b->shape.n_experts);
        }

        rank_loads(b, expert, b->placed->n_local, load, b->rank);

        for (r = 0; r < b->nranks; r++) {
            *to++ = cell(b->rank[r]);
        }

        map->layers++;
    }
}
