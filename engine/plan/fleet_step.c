#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ep/balance.h"
#include "ep/spread.h"
#include "plan/fleet_parts.h"
#include "plan/random.h"


/* of a rank and a layer */
typedef struct {
    double                     rows;    /* that its experts compute */
    double                     touched; /* experts with rows */
    double                     half;    /* the same, of half the rows */
} load_t;

struct moe_fleet_step_s {
    const moe_fleet_options_t  *o;
    uint32_t                    ranks;
    uint32_t                    up;
    uint32_t                    experts;
    uint64_t                    seed;
    moe_routing_t              *routing;
    moe_balance_t              *balance;    /* NULL: they stay */
    moe_balance_figures_t       first;      /* of the first look */
    moe_ep_placement_t         *placed;
    uint32_t                    epoch;
    uint8_t                    *members;    /* [ranks] */
    int                         short_of;   /* memory, in a put */
    uint32_t                   *count;      /* [experts] */
    uint64_t                   *counts;     /* [layers][experts] */
    load_t                     *loads;      /* [ranks] */
};


static uint32_t board_epoch(void *data, uint8_t *up);
static void board_loads(void *data, uint32_t layer, uint64_t *sum);
static void board_put(void *data, uint32_t epoch, uint32_t version,
    uint32_t n_local, const uint32_t *expert);
static void route(moe_fleet_step_t *s, uint32_t layer, uint32_t rows);
static double layer_time(const moe_fleet_step_t *s,
    const moe_fleet_part_t *parts, double rows, moe_fleet_time_t *time);
static void attend(const moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    double part, double *most, double *mean);
static double expert(const moe_fleet_step_t *s, const moe_fleet_part_t *part,
    const load_t *l, double of);


moe_fleet_step_t *
moe_fleet_step_create(const moe_fleet_options_t *o, moe_err_t *err)
{
    uint32_t               spare;
    moe_fleet_step_t      *s;
    moe_balance_board_t    board;
    moe_balance_shape_t    of;
    moe_routing_options_t  routing;

    s = calloc(1, sizeof(moe_fleet_step_t));
    if (s == NULL) {
        moe_err(err, "fleet: out of memory");
        return NULL;
    }

    s->o = o;
    s->ranks = (uint32_t) o->plan.devices;
    s->experts = (uint32_t) o->plan.model.experts;
    s->seed = moe_plan_mix(o->routing.seed + 3);

    routing = o->routing;
    routing.layers = o->layers;
    routing.experts = s->experts;
    routing.top_k = (uint32_t) o->plan.model.top_k;
    s->routing = moe_routing_create(&routing, err);

    s->members = calloc(s->ranks, 1);
    s->count = calloc(s->experts, sizeof(uint32_t));
    s->counts = calloc((size_t) o->layers * s->experts, sizeof(uint64_t));
    s->loads = calloc(s->ranks, sizeof(load_t));

    if (s->routing == NULL || s->members == NULL || s->count == NULL
        || s->counts == NULL || s->loads == NULL)
    {
        moe_err(err, "fleet: out of memory");
        goto failed;
    }

    memset(s->members, 1, s->ranks);
    s->first.before = 0;

    if (o->rebalance <= 0 || s->ranks == 1) {
        return s;
    }

    spare = (uint32_t) o->plan.spare;

    of = (moe_balance_shape_t) {
        .n_layers = o->layers,
        .n_experts = s->experts,
        .top_k = routing.top_k,
        .n_groups = (uint32_t) o->plan.model.groups,
        .n_ranks = s->ranks,
        .n_nodes = o->nodes,
        .slots = s->experts
    };

    board = (moe_balance_board_t) { s, board_epoch, board_loads, board_put };

    s->balance = moe_balance_create(&of, &board, spare,
                                    (uint64_t) (o->rebalance * 1e6), err);
    if (s->balance != NULL) {
        return s;
    }

failed:

    moe_fleet_step_free(s);

    return NULL;
}


void
moe_fleet_step_free(moe_fleet_step_t *s)
{
    if (s == NULL) {
        return;
    }

    moe_balance_free(s->balance);
    moe_routing_free(s->routing);
    moe_ep_placement_free(s->placed);
    free(s->members);
    free(s->count);
    free(s->counts);
    free(s->loads);
    free(s);
}


/* what is between the ranks and the balance */


static uint32_t
board_epoch(void *data, uint8_t *up)
{
    moe_fleet_step_t  *s;

    s = data;
    memcpy(up, s->members, s->ranks);

    return s->epoch;
}


static void
board_loads(void *data, uint32_t layer, uint64_t *sum)
{
    moe_fleet_step_t  *s;

    s = data;
    memcpy(sum, s->counts + (size_t) layer * s->experts,
           s->experts * sizeof(uint64_t));
}


static void
board_put(void *data, uint32_t epoch, uint32_t version, uint32_t n_local,
    const uint32_t *expert)
{
    moe_err_t            err;
    moe_fleet_step_t    *s;
    moe_ep_placement_t  *p;

    s = data;
    p = moe_ep_placement(version, s->o->layers, s->experts, s->ranks, n_local,
                         expert, &err);
    if (p == NULL) {
        s->short_of = 1;
        return;
    }

    moe_ep_placement_free(s->placed);
    s->placed = p;
}


int
moe_fleet_step_members(moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    moe_err_t *err)
{
    uint32_t             r;
    moe_ep_placement_t  *p;

    s->up = 0;

    for (r = 0; r < s->ranks; r++) {
        s->members[r] = (uint8_t) parts[r].up;
        s->up += s->members[r];
    }

    s->epoch++;

    if (s->up == 0) {
        return 0;
    }

    p = moe_ep_placement_even(s->epoch, s->o->layers, s->experts, s->ranks,
                              s->members, err);
    if (p == NULL) {
        return -1;
    }

    moe_ep_placement_free(s->placed);
    s->placed = p;

    return 0;
}


int
moe_fleet_step_turn(moe_fleet_step_t *s, double now, moe_err_t *err)
{
    moe_balance_figures_t  f;

    moe_routing_drift(s->routing, now);

    if (s->balance == NULL || s->up == 0) {
        return 0;
    }

    if (moe_balance_turn(s->balance, (uint64_t) (now * 1e6), err) < 0) {
        return -1;
    }

    if (s->short_of) {
        return moe_err(err, "fleet: no memory for a placement");
    }

    moe_balance_figures(s->balance, &f);

    if (s->first.before == 0 && f.version > 0) {
        s->first = f;
    }

    return 0;
}


void
moe_fleet_step_figures(const moe_fleet_step_t *s, moe_fleet_result_t *out)
{
    moe_balance_figures_t  f;

    if (s->balance == NULL) {
        out->nodes = 1;
        return;
    }

    moe_balance_figures(s->balance, &f);
    out->before = s->first.before;
    out->after = s->first.after;
    out->placements = f.version;
    out->nodes = f.nodes;
}


void
moe_fleet_step_time(moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    double now, moe_fleet_time_t *time)
{
    double             outside, mean, t, scale;
    uint32_t           l, r;
    uint64_t           rows;
    const moe_plan_t  *p;

    p = &s->o->plan;
    memset(time, 0, sizeof(moe_fleet_time_t));
    rows = 0;
    outside = 0;
    mean = 0;

    for (r = 0; r < s->ranks; r++) {
        if (parts[r].up) {
            rows += (uint64_t) parts[r].rows.rows;
            t = parts[r].slow * moe_plan_outside(p, &parts[r].rows,
                                                 parts[r].logits);
            outside = fmax(outside, t);
            mean += t / s->up;
        }
    }

    scale = p->model.moe_layers / s->o->layers;

    for (l = 0; l < s->o->layers; l++) {
        route(s, l, (uint32_t) rows);
        time->seconds += scale * layer_time(s, parts, (double) rows, time);
    }

    time->seconds += outside;
    time->waited = time->waited * scale + outside - mean;
    time->skew /= s->o->layers;
}


/* how many rows each rank's experts have; replicas share them at random */
static void
route(moe_fleet_step_t *s, uint32_t layer, uint32_t rows)
{
    load_t                    *to;
    uint32_t                   e, i, n, left, part, slot;
    const uint32_t            *first, *slots;
    const moe_ep_placement_t  *p;

    p = s->placed;
    first = p->first + (size_t) layer * (p->n_experts + 1);
    slots = p->slots + (size_t) layer * p->n_ranks * p->n_local;

    memset(s->loads, 0, s->ranks * sizeof(load_t));
    moe_routing_draw(s->routing, layer, rows, s->count);

    for (e = 0; e < s->experts; e++) {
        left = s->count[e];
        n = first[e + 1] - first[e];
        s->counts[(size_t) layer * s->experts + e] += left;

        for (i = 0; i < n && left > 0; i++) {
            part = moe_plan_binomial(&s->seed, left, 1.0 / (n - i));
            slot = slots[first[e] + i];
            to = &s->loads[slot / p->n_local];
            left -= part;

            if (part > 0) {
                to->rows += part;
                to->touched++;
                to->half += 1 - ldexp(1, part < 1000 ? -(int) part : -1000);
            }
        }
    }
}


static double
layer_time(const moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    double rows, moe_fleet_time_t *time)
{
    double             att, att_half, att_mean, exp, exp_half, exp_mean, t,
                       most, sum, sent, none;
    uint32_t           r;
    const moe_plan_t  *p;

    p = &s->o->plan;
    exp = 0;
    exp_half = 0;
    exp_mean = 0;
    most = 0;
    sum = 0;
    sent = 0;

    for (r = 0; r < s->ranks; r++) {
        if (!parts[r].up) {
            continue;
        }

        t = expert(s, &parts[r], &s->loads[r], 1);
        exp = fmax(exp, t);
        exp_mean += t / s->up;
        exp_half = fmax(exp_half, expert(s, &parts[r], &s->loads[r], 0.5));

        most = fmax(most, s->loads[r].rows);
        sum += s->loads[r].rows;
        sent = fmax(sent, parts[r].rows.rows);
    }

    attend(s, parts, 1, &att, &att_mean);
    attend(s, parts, 0.5, &att_half, &none);

    sent = fmax(sent, most / p->model.top_k);
    time->skew += sum > 0 ? most * s->up / sum : 1;
    time->waited += att + exp - att_mean - exp_mean;

    if (rows < 2 * s->up) {
        return att + exp + moe_plan_exchange(p, sent);
    }

    return moe_plan_overlapped(p, att + exp, moe_plan_exchange(p, sent),
                               att_half + exp_half,
                               moe_plan_exchange(p, sent / 2));
}


/* the slowest rank's attention, of a part of its rows */
static void
attend(const moe_fleet_step_t *s, const moe_fleet_part_t *parts, double part,
    double *most, double *mean)
{
    double           t;
    uint32_t         r;
    moe_plan_rows_t  rows;

    *most = 0;
    *mean = 0;

    for (r = 0; r < s->ranks; r++) {
        if (!parts[r].up) {
            continue;
        }

        rows = parts[r].rows;
        rows.rows *= part;
        rows.keys *= part;
        rows.pairs *= part;
        rows.prompts *= part;

        t = parts[r].slow * moe_plan_attend(&s->o->plan, &rows);
        *most = fmax(*most, t);
        *mean += t / s->up;
    }
}


static double
expert(const moe_fleet_step_t *s, const moe_fleet_part_t *part,
    const load_t *l, double of)
{
    moe_plan_experts_t  e;

    e.rows = l->rows * of;
    e.touched = of < 1 ? l->half : l->touched;
    e.each = e.rows / s->placed->n_local;

    return part->slow * (moe_plan_expert(&s->o->plan, &e)
                         + moe_plan_shared(&s->o->plan,
                                           part->rows.rows * of));
}
