#include <stdlib.h>
#include <string.h>

#include "front/front.h"
#include "model/model.h"


int
moe_experts_start(moe_front_t *f, moe_err_t *err)
{
    uint32_t                   replicas;
    moe_model_options_t        mo;
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

    f->balance = moe_balance_create(f->shm, replicas,
                                    f->options->rebalance_s * MOE_SECOND,
                                    err);

    return f->balance ? 0 : -1;
}


void
moe_experts_stop(moe_front_t *f)
{
    moe_balance_free(f->balance);
    f->balance = NULL;

    moe_shm_free(f->shm);
    f->shm = NULL;
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

    if (rc < 0) {
        moe_log(MOE_LOG_WARN, "experts stay where they are: %s", err.text);

    } else if (rc == 1) {
        f->dirty = 1;
        moe_log(MOE_LOG_NOTICE, "experts placed version=%u rows=%llu "
                "skew_before=%.3f skew=%.3f", b.version,
                (unsigned long long) b.rows, b.before, b.after);
    }
}
