/*
 * local: the exchange of one rank with itself.  Rows are sorted by expert,
 * for an expert in order of row, and pass through the row format.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "ep/exchange.h"


typedef struct {
    moe_exchange_t         base;
    moe_exchange_shape_t   shape;
    uint32_t               nrows;       /* of this step */
    uint32_t               nout;        /* rows given out to be computed */

    float                 *rows;        /* [max_rows * top_k][hidden] */
    float                 *out;
    size_t                 bytes;       /* of each of the two */

    uint32_t              *at;          /* [max_rows * top_k] */
    uint32_t              *next;        /* [n_experts] */
    moe_expert_rows_t     *experts;     /* [n_experts] */
} local_t;


static int local_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int local_dispatch(moe_exchange_t *x, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, moe_expert_work_t *work, uint64_t *late,
    moe_err_t *err);
static int local_combine(moe_exchange_t *x, uint32_t layer,
    uint64_t deadline, moe_expert_result_t *result, uint64_t *late,
    moe_err_t *err);
static void local_close(moe_exchange_t *x);


static const moe_exchange_ops_t  local_ops = {
    .begin = local_begin,
    .dispatch = local_dispatch,
    .combine = local_combine,
    .close = local_close
};


static float *
map_rows(size_t bytes)
{
    void  *p;

    p = mmap(NULL, bytes, PROT_READ|PROT_WRITE,
             MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}


moe_exchange_t *
moe_exchange_local(const moe_exchange_shape_t *shape, moe_err_t *err)
{
    size_t    slots;
    local_t  *l;

    l = calloc(1, sizeof(local_t));
    if (l == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    slots = (size_t) shape->max_rows * shape->top_k;

    l->base.ops = &local_ops;
    l->base.format = shape->format;
    l->base.nranks = 1;
    l->shape = *shape;
    l->bytes = slots * shape->hidden * sizeof(float);

    l->rows = map_rows(l->bytes);
    l->out = map_rows(l->bytes);
    l->at = calloc(slots, sizeof(uint32_t));
    l->next = calloc(shape->n_experts, sizeof(uint32_t));
    l->experts = calloc(shape->n_experts, sizeof(moe_expert_rows_t));

    if (l->rows == NULL || l->out == NULL || l->at == NULL
        || l->next == NULL || l->experts == NULL)
    {
        local_close(&l->base);
        moe_err(err, "exchange: out of memory for %u rows",
                shape->max_rows);
        return NULL;
    }

    return &l->base;
}


static int
local_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    local_t  *l = (local_t *) x;

    if (nrows > l->shape.max_rows) {
        return moe_err(err, "exchange: %u rows in a step, at most %u", nrows,
                       l->shape.max_rows);
    }

    l->nrows = nrows;
    x->most_rows = nrows;

    return MOE_EXCHANGE_OK;
}


/* where each expert's rows begin; returns the number of experts with rows */
static uint32_t
local_count(local_t *l, const uint32_t *experts)
{
    uint32_t  e, i, n, first;

    memset(l->next, 0, l->shape.n_experts * sizeof(uint32_t));

    for (i = 0; i < l->nout; i++) {
        l->next[experts[i]]++;
    }

    n = 0;
    first = 0;

    for (e = 0; e < l->shape.n_experts; e++) {
        if (l->next[e] == 0) {
            continue;
        }

        l->experts[n].expert = e;
        l->experts[n].first = first;
        l->experts[n].nrows = l->next[e];
        n++;

        i = l->next[e];
        l->next[e] = first;
        first += i;
    }

    return n;
}


static int
local_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    uint32_t  i, at, hidden, top_k;
    local_t  *l = (local_t *) x;

    hidden = l->shape.hidden;
    top_k = l->shape.top_k;

    if (nrows > l->nrows) {
        return moe_err(err, "exchange: %u rows where the step has %u", nrows,
                       l->nrows);
    }

    l->nout = nrows * top_k;

    for (i = 0; i < l->nout; i++) {
        if (experts[i] >= l->shape.n_experts) {
            return moe_err(err, "exchange: no expert %u", experts[i]);
        }
    }

    work->nexperts = local_count(l, experts);

    for (i = 0; i < l->nout; i++) {
        at = l->next[experts[i]]++;
        l->at[i] = at;
        moe_row_format_apply(x->format, l->rows + (size_t) at * hidden,
                             rows + (size_t) (i / top_k) * hidden, hidden);
    }

    work->nrows = l->nout;
    work->rows = l->rows;
    work->out = l->out;
    work->experts = l->experts;

    return MOE_EXCHANGE_OK;
}


static int
local_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    uint32_t  i;
    local_t  *l = (local_t *) x;

    if (x->format != MOE_ROWS_F32) {
        for (i = 0; i < l->nout; i++) {
            moe_row_format_apply(x->format,
                                 l->out + (size_t) i * l->shape.hidden,
                                 l->out + (size_t) i * l->shape.hidden,
                                 l->shape.hidden);
        }
    }

    result->y = l->out;
    result->at = l->at;

    return MOE_EXCHANGE_OK;
}


static void
local_close(moe_exchange_t *x)
{
    local_t  *l = (local_t *) x;

    if (l->rows != NULL) {
        munmap(l->rows, l->bytes);
    }

    if (l->out != NULL) {
        munmap(l->out, l->bytes);
    }

    free(l->at);
    free(l->next);
    free(l->experts);
    free(l);
}
