#include <stdlib.h>
#include <string.h>

#include "ep/board.h"
#include "front/front.h"
#include "heat.h"
#include "model/model.h"


static int
moe_experts_memory(moe_front_t *f, moe_err_t *err)
{
    f->experts = calloc(1, sizeof(moe_experts_t));

    return f->experts ? 0 : moe_err(err, "no memory for the experts' page");
}


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

    if (f->options->launched.size) {
        return f->options->rebalance_s ? moe_experts_memory(f, err) : 0;
    }

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

    f->map = malloc(moe_balance_map_bytes(shape.n_layers, shape.n_experts,
                                          o->nranks));

    if (f->map == NULL || moe_experts_memory(f, err) == -1) {
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

    free(f->map);
    f->map = NULL;

    moe_shm_free(f->shm);
    f->shm = NULL;
}


void
moe_experts_first(moe_front_t *f, moe_lane_t *lane)
{
    if (f->experts && f->experts->layers) {
        moe_lane_experts_write(lane, f->experts);
    }
}


static void
moe_experts_show(moe_front_t *f)
{
    uint32_t  i;

    for (i = 0; i < f->nworkers; i++) {
        if (f->workers[i]->state == MOE_WORKER_OPEN) {
            moe_lane_experts_write(&f->workers[i]->lane, f->experts);
        }
    }
}


/* launched ranks have a balance of their own, and all have the page */

static void
moe_experts_ask(moe_front_t *f)
{
    moe_proc_t     *p;
    moe_experts_t   page;

    p = &f->ranks[0];

    if (p->state != MOE_PROC_READY
        || moe_lane_experts_read(&p->lane, &page) != MOE_JOBQ_OK
        || memcmp(&page, f->experts, sizeof(page)) == 0)
    {
        return;
    }

    *f->experts = page;
    moe_experts_show(f);
}


void
moe_experts_tick(moe_front_t *f)
{
    int                     rc;
    moe_err_t               err;
    moe_balance_figures_t   b;

    if (f->options->launched.size && f->experts) {
        moe_experts_ask(f);
        return;
    }

    if (f->balance == NULL || f->members == 0) {
        return;
    }

    rc = moe_balance_turn(f->balance, f->now, &err);
    moe_balance_figures(f->balance, &b);

    f->stats.placements = b.version;
    f->stats.skew_before = (uint64_t) (b.before * 1000 + 0.5);
    f->stats.skew = (uint64_t) (b.after * 1000 + 0.5);

    if (b.looks != f->looks) {
        f->looks = b.looks;
        moe_balance_map(f->balance, f->map);
        moe_heat_page(f->experts, f->map);
        moe_experts_show(f);
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
