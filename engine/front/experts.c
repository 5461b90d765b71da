#include <stdlib.h>
#include <string.h>

#include "ep/board.h"
#include "front/front.h"
#include "model/model.h"


int
moe_experts_start(moe_front_t *f, moe_err_t *err)
{
    uint32_t                   replicas;
    moe_model_options_t        mo;
    moe_balance_board_t        board;
    moe_balance_shape_t        of;
    moe_exchange_shape_t       shape;
    const moe_rank_options_t  *o;

    o = &f->options->rank;

    memset(&mo, 0, sizeof(moe_model_options_t));
    mo.max_rows = o->step_tokens;
    mo.row_format = o->row_format;

    if (moe_model_exchange_shape(o->model_dir, &mo, &shape, err) != 0) {
        return -1;
    }

    f->shm = moe_shm_create(&shape, o->nranks, err);

    if (f->shm == NULL) {
        return -1;
    }

    f->members = (1u << o->nranks) - 1;

    if (f->options->rebalance_s == 0 || o->nranks == 1) {
        return 0;
    }

    replicas = f->options->replicas;

    if (replicas == UINT32_MAX) {
        replicas = shape.n_experts / 8;
    }

    f->experts = calloc(1, sizeof(moe_experts_t));
    if (f->experts == NULL) {
        return moe_err(err, "no memory for the experts' page");
    }

    moe_board_balance(f->shm, &of, &board);
    of.n_nodes = f->options->nodes;

    f->balance = moe_balance_create(&of, &board, replicas,
                                    f->options->rebalance_s * MOE_SECOND,
                                    err);

    return f->balance ? 0 : -1;
}


void
moe_experts_stop(moe_front_t *f)
{
    moe_balance_free(f->balance);
    f->balance = NULL;

    free(f->experts);
    f->experts = NULL;

    moe_shm_free(f->shm);
    f->shm = NULL;
}


static uint16_t
moe_experts_cell(double load)
{
    load = load * 1000 + 0.5;

    return load < UINT16_MAX ? (uint16_t) load : UINT16_MAX;
}


/* layers with experts, in order, as many as the page has room for */

static void
moe_experts_page(moe_front_t *f, const moe_balance_figures_t *b)
{
    double                       *load, sum;
    uint32_t                      l, e, n;
    moe_experts_t                *x;
    const moe_exchange_shape_t   *shape;

    x = f->experts;
    shape = moe_board_shape(f->shm, &n);
    load = malloc((shape->n_experts + n) * sizeof(double));

    if (load == NULL) {
        return;
    }

    x->layers = 0;
    x->experts = shape->n_experts;
    x->ranks = n;
    x->version = b->version;
    x->rows = b->rows;
    n += shape->n_experts;

    for (l = 0; l < shape->n_layers && (x->layers + 1) * n
                                       <= MOE_EXPERTS_CELLS; l++)
    {
        moe_balance_loads(f->balance, l, load);
        moe_balance_ranks(f->balance, l, load + shape->n_experts);
        sum = 0;

        for (e = 0; e < shape->n_experts; e++) {
            sum += load[e];
            load[e] *= shape->n_experts;
        }

        if (sum == 0) {
            continue;
        }

        for (e = 0; e < n; e++) {
            x->cells[x->layers * n + e] = moe_experts_cell(load[e]);
        }

        x->layers++;
    }

    free(load);
}


void
moe_experts_first(moe_front_t *f, moe_lane_t *lane)
{
    if (f->looks) {
        moe_lane_experts_write(lane, f->experts);
    }
}


static void
moe_experts_show(moe_front_t *f, const moe_balance_figures_t *b)
{
    uint32_t  i;

    f->looks = b->looks;
    moe_experts_page(f, b);

    for (i = 0; i < f->nworkers; i++) {
        if (f->workers[i]->state == MOE_WORKER_OPEN) {
            moe_lane_experts_write(&f->workers[i]->lane, f->experts);
        }
    }
}


void
moe_experts_tick(moe_front_t *f)
{
    int                     rc;
    moe_err_t               err;
    moe_balance_figures_t   b;

    if (f->balance == NULL || f->members == 0) {
        return;
    }

    rc = moe_balance_turn(f->balance, f->now, &err);
    moe_balance_figures(f->balance, &b);

    f->stats.placements = b.version;
    f->stats.skew_before = (uint64_t) (b.before * 1000 + 0.5);
    f->stats.skew = (uint64_t) (b.after * 1000 + 0.5);

    if (b.looks != f->looks) {
        moe_experts_show(f, &b);
    }

    if (rc < 0) {
        moe_log(MOE_LOG_WARN, "experts stay where they are: %s", err.text);

    } else if (rc == 1) {
        f->dirty = 1;
        moe_log(MOE_LOG_NOTICE, "experts placed version=%u nodes=%u "
                "rows=%llu skew_before=%.3f skew=%.3f", b.version, b.nodes,
                (unsigned long long) b.rows, b.before, b.after);
    }
}
