/*
 * shm: begin, dispatch, combine.
 *
 * Every number read from the segment is copied once and then checked.
 */

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

#include "ep/board.h"
#include "ep/shm_parts.h"


typedef struct {
    moe_exchange_t        base;
    moe_shm_t            *shm;
    uint32_t              rank;
    uint32_t              fixed_rows;

    moe_ep_placement_t   *placement;
    moe_ep_placement_t   *next;         /* once all have it */
    uint32_t              board;        /* what was looked at there */

    uint32_t              epoch;
    uint32_t              members;
    uint32_t              number;       /* of the exchange in this epoch */

    moe_parcels_t         parcels;
} shm_t;


static int shm_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int shm_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err);
static int shm_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err);
static void shm_close(moe_exchange_t *x);
static int shm_asked(moe_exchange_t *x);
static int shm_doze(moe_exchange_t *x, int fd, int timeout);


static const moe_exchange_ops_t  shm_ops = {
    .begin = shm_begin,
    .dispatch = shm_dispatch,
    .combine = shm_combine,
    .close = shm_close,
    .asked = shm_asked,
    .doze = shm_doze
};


static int
set_up(shm_t *x, const moe_exchange_shape_t *shape,
    const moe_shm_options_t *o, moe_err_t *err)
{
    if (o->memory != NULL) {
        return moe_err(err, "exchange: shared memory does not carry rows "
                       "between GPUs");
    }

    if (o->rank >= x->shm->nranks
        || memcmp(shape, &x->shm->shape, sizeof(*shape)) != 0)
    {
        return moe_err(err, "exchange: rank %u of %u, or its model, does not "
                       "fit the segment", o->rank, x->shm->nranks);
    }

    if (moe_parcels_init(&x->parcels, shape, x->shm->nranks, o->rank,
                         o->replica, err) != 0
        || (o->placement != NULL
            && moe_parcels_check(&x->parcels, o->placement, err) != 0))
    {
        return -1;
    }

    x->placement = o->placement;

    return 0;
}


moe_exchange_t *
moe_exchange_shm(moe_shm_t *shm, const moe_exchange_shape_t *shape,
    const moe_shm_options_t *o, moe_err_t *err)
{
    shm_t  *x;

    x = calloc(1, sizeof(shm_t));
    if (x == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    x->base.ops = &shm_ops;
    x->base.format = shape->format;
    x->base.nranks = shm->nranks;
    x->shm = shm;
    x->rank = o->rank;
    x->fixed_rows = o->fixed_rows < MOE_PARCEL_FIXED_ROWS
                    ? o->fixed_rows : MOE_PARCEL_FIXED_ROWS;

    if (set_up(x, shape, o, err) != 0) {
        shm_close(&x->base);
        return NULL;
    }

    return &x->base;
}


static void
shm_close(moe_exchange_t *base)
{
    shm_t  *x = (shm_t *) base;

    moe_parcels_free(&x->parcels);
    moe_ep_placement_free(x->placement);
    moe_ep_placement_free(x->next);
    free(x);
}


int
moe_exchange_shm_place(moe_exchange_t *base, moe_ep_placement_t *p,
    moe_err_t *err)
{
    shm_t  *x = (shm_t *) base;

    return moe_parcels_place(&x->parcels, &x->next, p, err);
}


uint32_t
moe_exchange_shm_placed(const moe_exchange_t *base)
{
    const shm_t  *x = (const shm_t *) base;

    return x->placement ? x->placement->version : 0;
}


static uint64_t
tag(const shm_t *x)
{
    return (uint64_t) x->epoch << 32 | x->number;
}


static int
shm_asked(moe_exchange_t *base)
{
    uint32_t      r, turn;
    uint64_t      state, next;
    const shm_t  *x = (const shm_t *) base;

    state = atomic_load(&moe_shm_head(x->shm)->state);

    if (!(moe_shm_members(state) >> x->rank & 1)) {
        return 0;
    }

    next = moe_shm_epoch(state) == x->epoch
           ? tag(x) + 1 : (state >> 32 << 32) + 1;
    turn = next % MOE_SHM_TURNS;

    for (r = 0; r < x->shm->nranks; r++) {
        if (r != x->rank
            && atomic_load(&moe_shm_step(x->shm, r, turn)->tag) == next)
        {
            return 1;
        }
    }

    return 0;
}


/* the descriptor becomes readable when another rank begins a step while this
 * one has said that it sleeps */
static void
sleeps(shm_t *x, int asleep)
{
    eventfd_t  n;

    atomic_store(&moe_shm_bell(x->shm, x->rank)->sleeps, asleep);

    if (!asleep) {
        eventfd_read(x->shm->fds[x->rank], &n);
    }
}


static int
shm_doze(moe_exchange_t *base, int fd, int timeout)
{
    int             n;
    shm_t          *x = (shm_t *) base;
    struct pollfd   pfds[2];

    pfds[0].fd = fd;
    pfds[0].events = POLLIN;
    pfds[1].fd = x->shm->fds[x->rank];
    pfds[1].events = POLLIN;

    sleeps(x, 1);
    n = 1;

    if (!shm_asked(base)) {
        do {
            n = poll(pfds, 2, timeout);
        } while (n == -1 && errno == EINTR);
    }

    sleeps(x, 0);

    return n > 0 ? 0 : -1;
}


static int
has_moved(const shm_t *x)
{
    return moe_shm_epoch(atomic_load(&moe_shm_head(x->shm)->state))
           != x->epoch;
}


int
moe_exchange_shm_moved(moe_exchange_t *base, int fd, uint64_t ms)
{
    shm_t          *x = (shm_t *) base;
    uint64_t        now, deadline;
    struct pollfd   pfds[2];

    pfds[0].fd = fd;
    pfds[0].events = 0;
    pfds[1].fd = x->shm->fds[x->rank];
    pfds[1].events = POLLIN;

    now = moe_exchange_now();
    deadline = now + ms;

    while (!has_moved(x)) {

        if (now >= deadline) {
            return -1;
        }

        if (poll(pfds, 2, (int) (deadline - now)) > 0 && pfds[0].revents) {
            return 0;
        }

        /* takes what the descriptor has */
        sleeps(x, 0);
        now = moe_exchange_now();
    }

    return 1;
}


/* an exchange that cannot go on: nobody waits for this rank */
static int
give_up(shm_t *x)
{
    if (!has_moved(x)) {
        moe_shm_lost(x->shm, x->rank);
    }

    return MOE_EXCHANGE_ERROR;
}


/* joins the epoch that is published: from its second on with a plain
 * placement over its members, which is what a new rank can know */
static int
join(shm_t *x, uint64_t state, moe_err_t *err)
{
    uint32_t             epoch, members;
    moe_ep_placement_t  *p;

    epoch = moe_shm_epoch(state);
    members = moe_shm_members(state);

    if (!(members >> x->rank & 1)) {
        return moe_err(err, "exchange: rank %u is no member of epoch %u",
                       x->rank, epoch);
    }

    if (epoch != 1 || x->placement == NULL) {
        p = moe_ep_placement_plain(0x80000000u | epoch,
                                   x->shm->shape.n_layers,
                                   x->shm->shape.n_experts, x->shm->nranks,
                                   members, err);
        if (p == NULL) {
            return -1;
        }

        moe_ep_placement_free(x->placement);
        moe_ep_placement_free(x->next);
        x->placement = p;
        x->next = NULL;
    }

    x->epoch = epoch;
    x->members = members;
    x->number = 0;

    return 0;
}


/* the front's placement, if there is another one; what is pending then was
 * an older one, which not all ranks may have seen */
static void
look_at_board(shm_t *x)
{
    uint32_t             seq;
    moe_err_t            err;
    moe_ep_placement_t  *p;

    if (moe_board_seq(x->shm) == x->board) {
        return;
    }

    p = moe_board_get(x->shm, x->epoch, &seq, &err);

    if (p != NULL) {
        moe_ep_placement_free(x->next);
        x->next = p;
        x->board = seq;
    }
}


static uint32_t
load(_Atomic uint32_t *word)
{
    return atomic_load_explicit(word, memory_order_relaxed);
}


/* what the ranks said: rows of each, form and placement.  One that is in
 * another epoch already says something else */
static int
agree(shm_t *x, uint32_t turn, uint64_t *late, moe_err_t *err)
{
    uint32_t         r, max, placed, next, fixed, mine, wish, theirs;
    moe_parcels_t   *p;
    moe_shm_step_t  *s;

    p = &x->parcels;
    max = 0;
    fixed = x->fixed_rows;
    mine = x->next ? x->next->version : 0;
    next = mine;

    for (r = 0; r < x->shm->nranks; r++) {
        p->rows[r] = 0;

        if (!(x->members >> r & 1)) {
            continue;
        }

        s = moe_shm_step(x->shm, r, turn);
        p->rows[r] = load(&s->rows);
        placed = load(&s->placed);
        wish = load(&s->fixed_rows);
        theirs = load(&s->next);

        atomic_thread_fence(memory_order_acquire);

        if (atomic_load(&s->tag) != tag(x)) {
            *late = 1ull << r;
            moe_parcels_late(*late, "step", err);
            return MOE_EXCHANGE_LATE;
        }

        fixed = wish < fixed ? wish : fixed;
        next = theirs == mine ? next : 0;

        if (p->rows[r] > x->shm->shape.max_rows
            || placed != x->placement->version)
        {
            moe_err(err, "exchange: rank %u has %u rows, at most %u, and "
                    "placement %u where it is %u", r, p->rows[r],
                    x->shm->shape.max_rows, placed, x->placement->version);
            return give_up(x);
        }

        max = p->rows[r] > max ? p->rows[r] : max;
    }

    if (next != 0) {
        moe_ep_placement_free(x->placement);
        x->placement = x->next;
        x->next = NULL;
    }

    p->placement = x->placement;
    p->capacity = moe_parcels_capacity(p, max, fixed);
    x->base.most_rows = max;

    return 0;
}


/* Another rank may still read what was said in the last epoch: the tag goes
 * first and comes last. */
static void
say(moe_shm_step_t *s, uint32_t nrows, const shm_t *x)
{
    atomic_store_explicit(&s->tag, 0, memory_order_relaxed);
    atomic_thread_fence(memory_order_release);

    atomic_store_explicit(&s->rows, nrows, memory_order_relaxed);
    atomic_store_explicit(&s->fixed_rows, x->fixed_rows,
                          memory_order_relaxed);
    atomic_store_explicit(&s->placed, x->placement->version,
                          memory_order_relaxed);
    atomic_store_explicit(&s->next, x->next ? x->next->version : 0,
                          memory_order_relaxed);
    atomic_store(&s->tag, tag(x));
}


static int
shm_begin(moe_exchange_t *base, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int              rc;
    uint32_t         r, turn;
    uint64_t         state;
    shm_t           *x = (shm_t *) base;
    moe_shm_step_t  *s;

    *late = 0;

    if (nrows > x->shm->shape.max_rows) {
        return moe_err(err, "exchange: %u rows in a step, at most %u", nrows,
                       x->shm->shape.max_rows);
    }

    state = atomic_load(&moe_shm_head(x->shm)->state);

    if (moe_shm_epoch(state) != x->epoch && join(x, state, err) != 0) {
        return MOE_EXCHANGE_ERROR;
    }

    look_at_board(x);

    x->number++;
    turn = x->number % MOE_SHM_TURNS;

    s = moe_shm_step(x->shm, x->rank, turn);
    say(s, nrows, x);

    for (r = 0; r < x->shm->nranks; r++) {
        if (r == x->rank || !(x->members >> r & 1)) {
            continue;
        }

        moe_shm_ring(x->shm, r);

        if (atomic_load(&moe_shm_bell(x->shm, r)->sleeps)) {
            eventfd_write(x->shm->fds[r], 1);
        }
    }

    rc = moe_shm_wait(x->shm, MOE_SHM_BEGIN, x->rank, x->members, tag(x),
                      deadline, late);

    if (rc != MOE_EXCHANGE_OK) {
        moe_parcels_late(*late, "step", err);
        return rc;
    }

    return agree(x, turn, late, err);
}


/* a parcel for each rank, to be written */
static void
open_parcels(shm_t *x, uint32_t turn)
{
    uint32_t       r;
    moe_parcel_t  *to;

    moe_parcels_open(&x->parcels);

    for (r = 0; r < x->shm->nranks; r++) {
        if (x->members >> r & 1) {
            to = &x->parcels.to[r];
            to->list = moe_shm_payload(x->shm, MOE_SHM_ROWS, x->rank, r,
                                       turn);
            to->rows = to->list + x->shm->size.list_bytes;
        }
    }
}


static void
send_parcels(shm_t *x, moe_shm_stage_e stage, uint32_t turn)
{
    uint32_t         r;
    moe_shm_slot_t  *slot;

    for (r = 0; r < x->shm->nranks; r++) {
        if (!(x->members >> r & 1)) {
            continue;
        }

        slot = moe_shm_slot(x->shm, stage, x->rank, r, turn);
        slot->layer = x->parcels.layer;

        if (stage == MOE_SHM_ROWS) {
            slot->nrows = x->parcels.to[r].nrows;
            slot->n = x->parcels.to[r].n;
        }

        atomic_store(&slot->tag, tag(x));

        if (r != x->rank) {
            moe_shm_ring(x->shm, r);
        }
    }
}


static int
read_parcels(shm_t *x, uint32_t turn, moe_err_t *err)
{
    uint32_t         r, layer, nrows, n;
    moe_shm_slot_t  *slot;

    moe_parcels_begin(&x->parcels);

    for (r = 0; r < x->shm->nranks; r++) {
        if (!(x->members >> r & 1)) {
            continue;
        }

        slot = moe_shm_slot(x->shm, MOE_SHM_ROWS, r, x->rank, turn);
        layer = slot->layer;
        nrows = slot->nrows;
        n = slot->n;

        if (moe_parcels_read(&x->parcels, r, layer, nrows, n,
                             moe_shm_payload(x->shm, MOE_SHM_ROWS, r, x->rank,
                                             turn), err)
            != 0)
        {
            return -1;
        }
    }

    return 0;
}


static int
shm_dispatch(moe_exchange_t *base, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int             rc;
    uint32_t        r, turn;
    shm_t          *x = (shm_t *) base;
    moe_parcels_t  *p;

    p = &x->parcels;
    *late = 0;

    if (nrows > p->rows[x->rank] || layer >= x->shm->shape.n_layers) {
        moe_err(err, "exchange: %u rows where the step has %u, layer %u",
                nrows, p->rows[x->rank], layer);
        return give_up(x);
    }

    p->layer = layer;
    p->nrows = nrows;
    x->number++;
    turn = x->number % MOE_SHM_TURNS;

    open_parcels(x, turn);

    if (moe_parcels_pack(p, rows, experts, err) != 0) {
        return give_up(x);
    }

    send_parcels(x, MOE_SHM_ROWS, turn);

    /* while the others' rows are on their way */
    moe_board_count(x->shm, x->rank, layer, experts,
                    nrows * x->shm->shape.top_k);

    rc = moe_shm_wait(x->shm, MOE_SHM_ROWS, x->rank, x->members, tag(x),
                      deadline, late);

    if (rc != MOE_EXCHANGE_OK) {
        moe_parcels_late(*late, "rows", err);
        return rc;
    }

    if (read_parcels(x, turn, err) != 0
        || moe_parcels_sort(p, work, err) != 0)
    {
        return give_up(x);
    }

    for (r = 0; r < x->shm->nranks; r++) {
        moe_parcels_fetch(p, r, moe_shm_payload(x->shm, MOE_SHM_ROWS, r,
                                                x->rank, turn)
                                + x->shm->size.list_bytes);
    }

    return MOE_EXCHANGE_OK;
}


static int
shm_combine(moe_exchange_t *base, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int             rc;
    uint32_t        r, turn;
    shm_t          *x = (shm_t *) base;
    const uint8_t  *results[MOE_SHM_RANKS];

    *late = 0;
    turn = x->number % MOE_SHM_TURNS;

    for (r = 0; r < x->shm->nranks; r++) {
        moe_parcels_return(&x->parcels, r,
                           moe_shm_payload(x->shm, MOE_SHM_RESULTS, x->rank,
                                           r, turn));
        results[r] = moe_shm_payload(x->shm, MOE_SHM_RESULTS, r, x->rank,
                                     turn);
    }

    send_parcels(x, MOE_SHM_RESULTS, turn);

    rc = moe_shm_wait(x->shm, MOE_SHM_RESULTS, x->rank, x->members, tag(x),
                      deadline, late);

    if (rc != MOE_EXCHANGE_OK) {
        moe_parcels_late(*late, "results", err);
        return rc;
    }

    moe_parcels_result(&x->parcels, results, result);

    return MOE_EXCHANGE_OK;
}
