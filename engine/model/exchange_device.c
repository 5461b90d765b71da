#include <stdlib.h>

#include "kernels/cuda/permute.h"
#include "model/exchange_device.h"


typedef struct {
    moe_exchange_t         base;
    moe_exchange_shape_t   shape;
    const moe_kernels_t   *k;
    const moe_kctx_t      *c;
    uint32_t               nrows;       /* of this step */
    uint32_t               nout;        /* rows given out to be computed */

    /* the device's */
    char                  *mem;         /* all of it */
    float                 *rows;        /* [max_rows * top_k][hidden] */
    float                 *out;
    uint32_t              *at;          /* [max_rows * top_k] */
    uint32_t              *device_first;    /* [n_experts + 1] */
    uint32_t              *tiles;       /* [2][n_experts + 1] */
    int                    sorts;       /* rows, itself */

    /* the process's, where the device does not */
    uint32_t              *chosen;      /* [max_rows * top_k] */
    uint32_t              *host_at;
    uint32_t              *first;       /* [n_experts + 1] */
    moe_expert_rows_t     *experts;     /* [n_experts] */
} device_t;


static int device_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int device_dispatch(moe_exchange_t *x, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, moe_expert_work_t *work, uint64_t *late,
    moe_err_t *err);
static int device_combine(moe_exchange_t *x, uint32_t layer,
    uint64_t deadline, moe_expert_result_t *result, uint64_t *late,
    moe_err_t *err);
static void device_close(moe_exchange_t *x);


static const moe_exchange_ops_t  device_ops = {
    .begin = device_begin,
    .dispatch = device_dispatch,
    .combine = device_combine,
    .close = device_close
};


static int
take_memory(device_t *d, moe_err_t *err)
{
    size_t  slots, bytes, each;

    slots = (size_t) d->shape.max_rows * d->shape.top_k;
    bytes = (slots * d->shape.hidden * sizeof(float) + 255) / 256 * 256;
    each = (size_t) d->shape.n_experts + 1;

    d->mem = d->k->memory->take(d->c->device,
                                2 * bytes
                                + (slots + 3 * each) * sizeof(uint32_t),
                                err);
    if (d->mem == NULL) {
        return moe_err_prefix(err, "exchange: %u rows", d->shape.max_rows);
    }

    d->rows = (float *) d->mem;
    d->out = (float *) (d->mem + bytes);
    d->at = (uint32_t *) (d->mem + 2 * bytes);
    d->device_first = d->at + slots;
    d->tiles = d->device_first + each;

    if (d->sorts) {
        return 0;
    }

    d->chosen = calloc(slots, sizeof(uint32_t));
    d->host_at = calloc(slots, sizeof(uint32_t));
    d->first = calloc(each, sizeof(uint32_t));
    d->experts = calloc(d->shape.n_experts, sizeof(moe_expert_rows_t));

    if (d->chosen == NULL || d->host_at == NULL || d->first == NULL
        || d->experts == NULL)
    {
        return moe_err(err, "exchange: out of memory");
    }

    return 0;
}


moe_exchange_t *
moe_exchange_device(const moe_exchange_shape_t *shape,
    const moe_kernels_t *k, const moe_kctx_t *c, int sorts, moe_err_t *err)
{
    device_t  *d;

    d = calloc(1, sizeof(device_t));
    if (d == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    d->base.ops = &device_ops;
    d->base.format = shape->format;
    d->base.nranks = 1;
    d->shape = *shape;
    d->k = k;
    d->c = c;
    d->sorts = sorts;

    if (take_memory(d, err) != 0) {
        device_close(&d->base);
        return NULL;
    }

    return &d->base;
}


static int
device_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    device_t  *d = (device_t *) x;

    if (nrows > d->shape.max_rows) {
        return moe_err(err, "exchange: %u rows in a step, at most %u", nrows,
                       d->shape.max_rows);
    }

    d->nrows = nrows;
    x->most_rows = nrows;

    return MOE_EXCHANGE_OK;
}


/* experts with rows, in ascending order; returns their number */
static uint32_t
list_experts(device_t *d)
{
    uint32_t  e, n;

    n = 0;

    for (e = 0; e < d->shape.n_experts; e++) {
        if (d->first[e + 1] != d->first[e]) {
            d->experts[n].expert = e;
            d->experts[n].first = d->first[e];
            d->experts[n].nrows = d->first[e + 1] - d->first[e];
            n++;
        }
    }

    return n;
}


/* the process waits to know which rows are whose, and lists them */
static int
sort_here(device_t *d, const uint32_t *experts, moe_expert_work_t *work,
    moe_err_t *err)
{
    if (d->k->memory->get(d->c->device, d->chosen, experts,
                          d->nout * sizeof(uint32_t), err) != 0)
    {
        return -1;
    }

    if (moe_permutation(d->chosen, d->nout, d->shape.n_experts, d->first,
                        d->host_at) != d->nout)
    {
        return moe_err(err, "exchange: an expert that there is not");
    }

    d->k->memory->put(d->c->device, d->at, d->host_at,
                      d->nout * sizeof(uint32_t));

    work->experts = d->experts;
    work->nexperts = list_experts(d);

    return 0;
}


static void
sort_there(device_t *d, const uint32_t *experts, moe_expert_work_t *work)
{
    moe_sort_t  op = {
        .experts = experts,
        .at = d->at,
        .first = d->device_first,
        .tiles = d->tiles,
        .n = d->nout,
        .n_experts = d->shape.n_experts
    };

    d->k->sort(d->c, &op);

    work->first = d->device_first;
    work->tiles = d->tiles;
}


static int
device_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    device_t       *d = (device_t *) x;
    moe_permute_t   op;

    if (nrows > d->nrows) {
        return moe_err(err, "exchange: %u rows where the step has %u", nrows,
                       d->nrows);
    }

    d->nout = nrows * d->shape.top_k;

    *work = (moe_expert_work_t) {
        .nrows = d->nout,
        .rows = d->rows,
        .out = d->out
    };

    if (d->sorts) {
        sort_there(d, experts, work);
    } else if (sort_here(d, experts, work, err) != 0) {
        return -1;
    }

    op = (moe_permute_t) {
        .x = rows,
        .out = d->rows,
        .at = d->at,
        .n = d->nout,
        .per = d->shape.top_k,
        .width = d->shape.hidden,
        .bf16 = x->format == MOE_ROWS_BF16
    };
    d->k->permute(d->c, &op);

    return MOE_EXCHANGE_OK;
}


static int
device_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    device_t  *d = (device_t *) x;

    if (x->format == MOE_ROWS_BF16) {
        d->k->round_bf16(d->c, d->out, (size_t) d->nout * d->shape.hidden);
    }

    result->y = d->out;
    result->at = d->at;

    return MOE_EXCHANGE_OK;
}


static void
device_close(moe_exchange_t *x)
{
    device_t  *d = (device_t *) x;

    if (d->mem != NULL) {
        d->k->memory->give(d->c->device, d->mem);
    }

    free(d->chosen);
    free(d->host_at);
    free(d->first);
    free(d->experts);
    free(d);
}
