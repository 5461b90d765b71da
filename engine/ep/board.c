#include <stdlib.h>
#include <string.h>

#include "ep/board.h"
#include "ep/shm_parts.h"


static moe_shm_board_t *
board(const moe_shm_t *shm)
{
    return (moe_shm_board_t *) (shm->base + shm->board);
}


static _Atomic uint32_t *
cells(const moe_shm_t *shm)
{
    return (_Atomic uint32_t *) (board(shm) + 1);
}


/* of a layer, [n_experts] */
static _Atomic uint64_t *
loads(const moe_shm_t *shm, uint32_t rank, uint32_t layer)
{
    size_t  each;

    each = (size_t) shm->shape.n_layers * shm->shape.n_experts
           * sizeof(uint64_t);
    each = (each + MOE_SHM_LINE - 1) / MOE_SHM_LINE * MOE_SHM_LINE;

    return (_Atomic uint64_t *) (shm->base + shm->loads + rank * each)
           + (size_t) layer * shm->shape.n_experts;
}


void
moe_board_count(const moe_shm_t *shm, uint32_t rank, uint32_t layer,
    const uint32_t *experts, uint32_t n)
{
    uint32_t           i;
    _Atomic uint64_t  *load;

    load = loads(shm, rank, layer);

    /* the only writer: no need of an atomic addition */
    for (i = 0; i < n; i++) {
        atomic_store_explicit(&load[experts[i]],
                              atomic_load_explicit(&load[experts[i]],
                                                   memory_order_relaxed) + 1,
                              memory_order_relaxed);
    }
}


void
moe_board_loads(const moe_shm_t *shm, uint32_t layer, uint64_t *sum)
{
    uint32_t           e, r;
    _Atomic uint64_t  *load;

    memset(sum, 0, shm->shape.n_experts * sizeof(uint64_t));

    for (r = 0; r < shm->nranks; r++) {
        load = loads(shm, r, layer);

        for (e = 0; e < shm->shape.n_experts; e++) {
            sum[e] += atomic_load_explicit(&load[e], memory_order_relaxed);
        }
    }
}


uint32_t
moe_board_slots(const moe_shm_t *shm)
{
    return shm->n_local_cap;
}


const moe_exchange_shape_t *
moe_board_shape(const moe_shm_t *shm, uint32_t *nranks)
{
    *nranks = shm->nranks;

    return &shm->shape;
}


uint32_t
moe_board_epoch(const moe_shm_t *shm, uint32_t *members)
{
    uint64_t  state;

    state = atomic_load(&moe_shm_head(shm)->state);
    *members = moe_shm_members(state);

    return moe_shm_epoch(state);
}


void
moe_board_put(const moe_shm_t *shm, uint32_t epoch, uint32_t version,
    uint32_t n_local, const uint32_t *expert)
{
    size_t             i, n;
    uint32_t           seq;
    moe_shm_board_t   *b;
    _Atomic uint32_t  *c;

    b = board(shm);
    c = cells(shm);
    n = (size_t) shm->shape.n_layers * shm->nranks * n_local;
    seq = atomic_load_explicit(&b->seq, memory_order_relaxed);

    atomic_store_explicit(&b->seq, seq + 1, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);

    atomic_store_explicit(&b->epoch, epoch, memory_order_relaxed);
    atomic_store_explicit(&b->version, version, memory_order_relaxed);
    atomic_store_explicit(&b->n_local, n_local, memory_order_relaxed);

    for (i = 0; i < n; i++) {
        atomic_store_explicit(&c[i], expert[i], memory_order_relaxed);
    }

    atomic_store_explicit(&b->seq, seq + 2, memory_order_release);
}


uint32_t
moe_board_seq(const moe_shm_t *shm)
{
    return atomic_load_explicit(&board(shm)->seq, memory_order_relaxed);
}


moe_ep_placement_t *
moe_board_get(const moe_shm_t *shm, uint32_t epoch, uint32_t *seq,
    moe_err_t *err)
{
    size_t               i, n;
    uint32_t             version, n_local, of, *expert;
    moe_shm_board_t     *b;
    _Atomic uint32_t    *c;
    moe_ep_placement_t  *p;

    b = board(shm);
    c = cells(shm);
    err->text[0] = '\0';

    *seq = atomic_load_explicit(&b->seq, memory_order_acquire);
    of = atomic_load_explicit(&b->epoch, memory_order_relaxed);
    version = atomic_load_explicit(&b->version, memory_order_relaxed);
    n_local = atomic_load_explicit(&b->n_local, memory_order_relaxed);

    if (*seq == 0 || *seq & 1 || of != epoch) {
        return NULL;
    }

    if (n_local == 0 || n_local > shm->n_local_cap) {
        moe_err(err, "placement: %u slots a rank, at most %u", n_local,
                shm->n_local_cap);
        return NULL;
    }

    n = (size_t) shm->shape.n_layers * shm->nranks * n_local;
    expert = malloc(n * sizeof(uint32_t));

    if (expert == NULL) {
        moe_err(err, "placement: out of memory");
        return NULL;
    }

    for (i = 0; i < n; i++) {
        expert[i] = atomic_load_explicit(&c[i], memory_order_relaxed);
    }

    atomic_thread_fence(memory_order_acquire);

    p = NULL;

    if (atomic_load_explicit(&b->seq, memory_order_relaxed) == *seq) {
        p = moe_ep_placement(version, shm->shape.n_layers,
                             shm->shape.n_experts, shm->nranks, n_local,
                             expert, err);
    }

    free(expert);

    return p;
}


static uint32_t
balance_epoch(void *data, uint8_t *up)
{
    uint32_t          r, epoch, members;
    const moe_shm_t  *shm;

    shm = data;
    epoch = moe_board_epoch(shm, &members);

    for (r = 0; r < shm->nranks; r++) {
        up[r] = members >> r & 1;
    }

    return epoch;
}


static void
balance_loads(void *data, uint32_t layer, uint64_t *sum)
{
    moe_board_loads(data, layer, sum);
}


static void
balance_put(void *data, uint32_t epoch, uint32_t version, uint32_t n_local,
    const uint32_t *expert)
{
    moe_board_put(data, epoch, version, n_local, expert);
}


void
moe_board_balance(moe_shm_t *shm, moe_balance_shape_t *shape,
    moe_balance_board_t *b)
{
    *shape = (moe_balance_shape_t) {
        .n_layers = shm->shape.n_layers,
        .n_experts = shm->shape.n_experts,
        .top_k = shm->shape.top_k,
        .n_groups = shm->shape.n_groups,
        .n_ranks = shm->nranks,
        .n_nodes = 1,
        .slots = shm->n_local_cap
    };

    *b = (moe_balance_board_t) {
        .data = shm,
        .epoch = balance_epoch,
        .loads = balance_loads,
        .put = balance_put
    };
}
