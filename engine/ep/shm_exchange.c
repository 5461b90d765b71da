/*
 * shm: begin, dispatch, combine.
 *
 * Every number read from the segment is copied once and then checked.
 */

#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include "ep/board.h"
#include "ep/shm_parts.h"


/* a row that another rank (or this one) has here */
typedef struct {
    uint32_t  expert;       /* slot of this rank */
    uint32_t  row;          /* where it is in the message */
    uint32_t  back;         /* where its result goes in the reply */
    uint32_t  at;           /* row of the work */
} item_t;

/* where the result of a (row, slot) of this rank will be */
typedef struct {
    uint32_t  rank;
    uint32_t  back;
} sent_t;

/* one message being written */
typedef struct {
    uint8_t   *payload;
    uint8_t   *rows;
    uint32_t   n;
    uint32_t   nrows;
    uint32_t   last;        /* row sent last, + 1 */
} to_t;

typedef struct {
    moe_exchange_t        base;
    moe_shm_t            *shm;
    uint32_t              rank;
    moe_replica_e         replica;
    uint32_t              fixed_rows;

    moe_ep_placement_t   *placement;
    moe_ep_placement_t   *next;         /* once all have it */
    uint32_t              board;        /* what was looked at there */

    uint32_t              epoch;
    uint32_t              members;
    uint32_t              number;       /* of the exchange in this epoch */

    /* of the step */
    uint32_t              rows[MOE_SHM_RANKS];
    uint32_t              capacity;     /* rows an expert; 0: counted */

    /* of the layer */
    uint32_t              layer;
    uint32_t              nrows;
    uint32_t              nwork;
    to_t                  to[MOE_SHM_RANKS];
    uint32_t              nitems[MOE_SHM_RANKS];

    item_t               *items[MOE_SHM_RANKS];     /* [max_rows * top_k] */
    sent_t               *sent;         /* [max_rows * top_k] */
    uint32_t             *at;           /* [max_rows * top_k] 0, 1, ... */
    uint32_t             *count;        /* [nranks * n_experts] */
    moe_expert_rows_t    *experts;      /* [n_experts] */
    float                *work;         /* [nranks * max_rows * top_k]
                                         * [hidden] */
    float                *out;
    float                *y;            /* [max_rows * top_k][hidden] */

    void                 *base_mem;     /* one mapping */
    size_t                bytes;
} shm_t;


static int shm_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int shm_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err);
static int shm_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err);
static void shm_close(moe_exchange_t *x);


static const moe_exchange_ops_t  shm_ops = {
    .begin = shm_begin,
    .dispatch = shm_dispatch,
    .combine = shm_combine,
    .close = shm_close
};


static void *
carve(shm_t *x, size_t *at, size_t n, size_t each)
{
    void  *p;

    p = x->base_mem ? (char *) x->base_mem + *at : NULL;
    *at += (n * each + 63) / 64 * 64;

    return p;
}


static size_t
lay_out(shm_t *x)
{
    size_t                       at, slots, row;
    uint32_t                     r;
    const moe_exchange_shape_t  *s;

    s = &x->shm->shape;
    at = 0;
    slots = (size_t) s->max_rows * s->top_k;
    row = s->hidden * sizeof(float);

    for (r = 0; r < x->shm->nranks; r++) {
        x->items[r] = carve(x, &at, slots, sizeof(item_t));
    }

    x->sent = carve(x, &at, slots, sizeof(sent_t));
    x->at = carve(x, &at, slots, sizeof(uint32_t));
    x->count = carve(x, &at, (size_t) x->shm->nranks * s->n_experts,
                     sizeof(uint32_t));
    x->experts = carve(x, &at, s->n_experts, sizeof(moe_expert_rows_t));
    x->work = carve(x, &at, x->shm->nranks * slots, row);
    x->out = carve(x, &at, x->shm->nranks * slots, row);
    x->y = carve(x, &at, slots, row);

    return at;
}


static int
check_placement(const shm_t *x, const moe_ep_placement_t *p, moe_err_t *err)
{
    const moe_exchange_shape_t  *s;

    s = &x->shm->shape;

    if (p->version == 0 || p->n_ranks != x->shm->nranks
        || p->n_experts != s->n_experts || p->n_layers != s->n_layers)
    {
        return moe_err(err, "exchange: placement %u of %u experts, %u layers "
                       "on %u ranks is not this model's", p->version,
                       p->n_experts, p->n_layers, p->n_ranks);
    }

    return 0;
}


static int
set_up(shm_t *x, const moe_exchange_shape_t *shape,
    const moe_shm_options_t *o, moe_err_t *err)
{
    uint32_t  i;

    if (o->rank >= x->shm->nranks
        || memcmp(shape, &x->shm->shape, sizeof(*shape)) != 0)
    {
        return moe_err(err, "exchange: rank %u of %u, or its model, does not "
                       "fit the segment", o->rank, x->shm->nranks);
    }

    if (o->placement != NULL && check_placement(x, o->placement, err) != 0) {
        return -1;
    }

    x->bytes = lay_out(x);
    x->base_mem = mmap(NULL, x->bytes, PROT_READ|PROT_WRITE,
                       MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    if (x->base_mem == MAP_FAILED) {
        x->base_mem = NULL;
        return moe_err(err, "exchange: out of memory for %u rows",
                       shape->max_rows);
    }

    lay_out(x);

    for (i = 0; i < shape->max_rows * shape->top_k; i++) {
        x->at[i] = i;
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
    x->replica = o->replica;
    x->fixed_rows = o->fixed_rows < MOE_SHM_FIXED_ROWS ? o->fixed_rows
                                                       : MOE_SHM_FIXED_ROWS;

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

    if (x->base_mem != NULL) {
        munmap(x->base_mem, x->bytes);
    }

    moe_ep_placement_free(x->placement);
    moe_ep_placement_free(x->next);
    free(x);
}


int
moe_exchange_shm_place(moe_exchange_t *base, moe_ep_placement_t *p,
    moe_err_t *err)
{
    shm_t  *x = (shm_t *) base;

    if (x->next != NULL) {
        return moe_err(err, "exchange: placement %u is not in use yet",
                       x->next->version);
    }

    if (check_placement(x, p, err) != 0) {
        return -1;
    }

    x->next = p;

    return 0;
}


uint32_t
moe_exchange_shm_placed(const moe_exchange_t *base)
{
    const shm_t  *x = (const shm_t *) base;

    return x->placement ? x->placement->version : 0;
}


int
moe_exchange_shm_fd(const moe_exchange_t *base)
{
    const shm_t  *x = (const shm_t *) base;

    return x->shm->fds[x->rank];
}


void
moe_exchange_shm_sleep(moe_exchange_t *base, int asleep)
{
    shm_t      *x = (shm_t *) base;
    eventfd_t   n;

    atomic_store(&moe_shm_bell(x->shm, x->rank)->sleeps, asleep != 0);

    if (!asleep) {
        eventfd_read(x->shm->fds[x->rank], &n);
    }
}


int
moe_exchange_shm_moved(const moe_exchange_t *base)
{
    const shm_t  *x = (const shm_t *) base;

    return moe_shm_epoch(atomic_load(&moe_shm_head(x->shm)->state))
           != x->epoch;
}


static uint64_t
tag(const shm_t *x)
{
    return (uint64_t) x->epoch << 32 | x->number;
}


int
moe_exchange_shm_asked(const moe_exchange_t *base)
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


/* an exchange that cannot go on: nobody waits for this rank */
static int
give_up(shm_t *x)
{
    if (moe_shm_epoch(atomic_load(&moe_shm_head(x->shm)->state)) == x->epoch)
    {
        moe_shm_lost(x->shm, x->rank);
    }

    return MOE_EXCHANGE_ERROR;
}


static void
name_late(const shm_t *x, uint64_t late, const char *what, moe_err_t *err)
{
    char      list[MOE_SHM_RANKS * 4];
    size_t    n;
    uint32_t  r;

    list[0] = '\0';
    n = 0;

    for (r = 0; r < x->shm->nranks; r++) {
        if (late >> r & 1) {
            list[n++] = ' ';
            if (r > 9) {
                list[n++] = (char) ('0' + r / 10);
            }
            list[n++] = (char) ('0' + r % 10);
            list[n] = '\0';
        }
    }

    moe_err(err, "exchange: no %s from rank%s", what, list);
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
    moe_shm_step_t  *s;

    max = 0;
    fixed = x->fixed_rows;
    mine = x->next ? x->next->version : 0;
    next = mine;

    for (r = 0; r < x->shm->nranks; r++) {
        x->rows[r] = 0;

        if (!(x->members >> r & 1)) {
            continue;
        }

        s = moe_shm_step(x->shm, r, turn);
        x->rows[r] = load(&s->rows);
        placed = load(&s->placed);
        wish = load(&s->fixed_rows);
        theirs = load(&s->next);

        atomic_thread_fence(memory_order_acquire);

        if (atomic_load(&s->tag) != tag(x)) {
            *late = 1ull << r;
            name_late(x, *late, "step", err);
            return MOE_EXCHANGE_LATE;
        }

        fixed = wish < fixed ? wish : fixed;
        next = theirs == mine ? next : 0;

        if (x->rows[r] > x->shm->shape.max_rows
            || placed != x->placement->version)
        {
            moe_err(err, "exchange: rank %u has %u rows, at most %u, and "
                    "placement %u where it is %u", r, x->rows[r],
                    x->shm->shape.max_rows, placed, x->placement->version);
            return give_up(x);
        }

        max = x->rows[r] > max ? x->rows[r] : max;
    }

    if (next != 0) {
        moe_ep_placement_free(x->placement);
        x->placement = x->next;
        x->next = NULL;
    }

    x->capacity = 0;

    if (max <= fixed
        && (uint64_t) max * x->placement->n_local <= x->shm->rows_cap
        && (uint64_t) max * x->placement->n_local <= x->shm->results_cap)
    {
        x->capacity = max;
    }

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
        name_late(x, *late, "step", err);
        return rc;
    }

    return agree(x, turn, late, err);
}


/* a message for each rank, to be written */
static void
open_messages(shm_t *x, uint32_t turn)
{
    uint32_t  r;

    memset(x->to, 0, sizeof(x->to));

    for (r = 0; r < x->shm->nranks; r++) {
        if (x->members >> r & 1) {
            x->to[r].payload = moe_shm_payload(x->shm, MOE_SHM_ROWS, x->rank,
                                               r, turn);
            x->to[r].rows = x->to[r].payload + x->shm->list_bytes;
        }
    }

    memset(x->count, 0, (size_t) x->shm->nranks * x->placement->n_local
                        * sizeof(uint32_t));
}


/* row i goes to slot p: where its result will be in the reply */
static int
put_row(shm_t *x, uint32_t i, const float *row, uint32_t p, uint32_t *back,
    moe_err_t *err)
{
    to_t             *to;
    uint32_t          local, place;
    moe_shm_entry_t  *list;

    to = &x->to[p / x->placement->n_local];
    local = p % x->placement->n_local;

    if (to->payload == NULL) {
        return moe_err(err, "exchange: slot %u is on no member", p);
    }

    if (x->capacity) {
        if (x->count[p] == x->capacity) {
            return moe_err(err, "exchange: more than %u rows for slot %u",
                           x->capacity, p);
        }

        place = local * x->capacity + x->count[p]++;
        *back = place;
        to->n++;

    } else {
        place = to->last == i + 1 ? to->nrows - 1 : to->nrows++;
        list = (moe_shm_entry_t *) to->payload;
        list[to->n] = (moe_shm_entry_t) { place, local };
        *back = to->n++;

        if (to->last == i + 1) {
            return 0;
        }

        to->last = i + 1;
    }

    moe_row_format_pack(x->base.format, to->rows + place * x->shm->row_bytes,
                        row, x->shm->shape.hidden);

    return 0;
}


static int
pack(shm_t *x, const float *rows, const uint32_t *experts, moe_err_t *err)
{
    size_t    hidden;
    uint32_t  i, k, p, top_k;

    hidden = x->shm->shape.hidden;
    top_k = x->shm->shape.top_k;

    for (i = 0; i < x->nrows; i++) {
        for (k = i * top_k; k < (i + 1) * top_k; k++) {

            if (experts[k] >= x->shm->shape.n_experts) {
                return moe_err(err, "exchange: no expert %u", experts[k]);
            }

            p = moe_ep_placement_slot(x->placement, x->layer, experts[k],
                                      x->rank, i, x->replica);
            x->sent[k].rank = p / x->placement->n_local;

            if (put_row(x, i, rows + i * hidden, p, &x->sent[k].back, err)
                != 0)
            {
                return -1;
            }
        }
    }

    return 0;
}


static void
send_messages(shm_t *x, moe_shm_stage_e stage, uint32_t turn)
{
    size_t           counts;
    uint32_t         r, n;
    moe_shm_slot_t  *slot;

    n = x->placement->n_local;
    counts = n * sizeof(uint32_t);

    for (r = 0; r < x->shm->nranks; r++) {
        if (!(x->members >> r & 1)) {
            continue;
        }

        slot = moe_shm_slot(x->shm, stage, x->rank, r, turn);
        slot->layer = x->layer;

        if (stage == MOE_SHM_ROWS) {
            slot->nrows = x->to[r].nrows;
            slot->n = x->to[r].n;

            if (x->capacity) {
                memcpy(x->to[r].payload, x->count + (size_t) r * n, counts);
            }
        }

        atomic_store(&slot->tag, tag(x));

        if (r != x->rank) {
            moe_shm_ring(x->shm, r);
        }
    }
}


/* the rows that rank has for us, as a list of x->items[rank] */
static int
read_counted(shm_t *x, uint32_t rank, uint32_t nrows, uint32_t n,
    const uint8_t *payload, moe_err_t *err)
{
    item_t                 *item;
    uint32_t                i;
    moe_shm_entry_t         e;
    const moe_shm_entry_t  *list;

    list = (const moe_shm_entry_t *) payload;

    if (nrows > x->rows[rank] || n > nrows * x->shm->shape.top_k) {
        return moe_err(err, "exchange: rank %u sends %u rows, %u entries of "
                       "a step of %u", rank, nrows, n, x->rows[rank]);
    }

    for (i = 0; i < n; i++) {
        memcpy(&e, &list[i], sizeof(e));

        if (e.row >= nrows || e.expert >= x->placement->n_local) {
            return moe_err(err, "exchange: rank %u sends row %u of %u for "
                           "slot %u", rank, e.row, nrows, e.expert);
        }

        item = &x->items[rank][i];
        item->expert = e.expert;
        item->row = e.row;
        item->back = i;
    }

    x->nitems[rank] = n;

    return 0;
}


static int
read_fixed(shm_t *x, uint32_t rank, const uint8_t *payload, moe_err_t *err)
{
    item_t    *item;
    uint32_t   e, i, n, total;

    total = 0;

    for (e = 0; e < x->placement->n_local; e++) {
        memcpy(&n, payload + e * sizeof(uint32_t), sizeof(n));

        if (n > x->rows[rank]
            || total + n > x->rows[rank] * x->shm->shape.top_k)
        {
            return moe_err(err, "exchange: rank %u sends %u rows for slot "
                           "%u, its step has %u", rank, n, e, x->rows[rank]);
        }

        for (i = 0; i < n; i++) {
            item = &x->items[rank][total++];
            item->expert = e;
            item->row = e * x->capacity + i;
            item->back = item->row;
        }
    }

    x->nitems[rank] = total;

    return 0;
}


static int
read_messages(shm_t *x, uint32_t turn, moe_err_t *err)
{
    int              rc;
    uint32_t         r, layer, nrows, n;
    const uint8_t   *payload;
    moe_shm_slot_t  *slot;

    for (r = 0; r < x->shm->nranks; r++) {
        x->nitems[r] = 0;

        if (!(x->members >> r & 1)) {
            continue;
        }

        slot = moe_shm_slot(x->shm, MOE_SHM_ROWS, r, x->rank, turn);
        payload = moe_shm_payload(x->shm, MOE_SHM_ROWS, r, x->rank, turn);
        layer = slot->layer;
        nrows = slot->nrows;
        n = slot->n;

        if (layer != x->layer) {
            return moe_err(err, "exchange: rank %u is in layer %u", r, layer);
        }

        rc = x->capacity ? read_fixed(x, r, payload, err)
                         : read_counted(x, r, nrows, n, payload, err);
        if (rc != 0) {
            return -1;
        }
    }

    return 0;
}


/* sorts the items by expert, then rank; returns how many experts have rows */
static uint32_t
place_items(shm_t *x)
{
    item_t          *item;
    uint32_t         e, i, r, n, first, *next;
    const uint32_t  *logical;

    next = x->count;
    memset(next, 0, x->placement->n_local * sizeof(uint32_t));

    for (r = 0; r < x->shm->nranks; r++) {
        for (i = 0; i < x->nitems[r]; i++) {
            next[x->items[r][i].expert]++;
        }
    }

    logical = x->placement->expert
              + ((size_t) x->layer * x->shm->nranks + x->rank)
                * x->placement->n_local;
    first = 0;
    n = 0;

    for (e = 0; e < x->placement->n_local; e++) {
        i = next[e];
        next[e] = first;

        if (i != 0) {
            x->experts[n++] = (moe_expert_rows_t) { logical[e], first, i };
        }

        first += i;
    }

    for (r = 0; r < x->shm->nranks; r++) {
        for (i = 0; i < x->nitems[r]; i++) {
            item = &x->items[r][i];
            item->at = next[item->expert]++;
        }
    }

    x->nwork = first;

    return n;
}


static void
fetch_rows(shm_t *x, uint32_t turn)
{
    size_t          hidden;
    uint32_t        i, r;
    const item_t   *item;
    const uint8_t  *rows;

    hidden = x->shm->shape.hidden;

    for (r = 0; r < x->shm->nranks; r++) {
        rows = moe_shm_payload(x->shm, MOE_SHM_ROWS, r, x->rank, turn)
               + x->shm->list_bytes;

        for (i = 0; i < x->nitems[r]; i++) {
            item = &x->items[r][i];
            moe_row_format_unpack(x->base.format, x->work + item->at * hidden,
                                  rows + item->row * x->shm->row_bytes,
                                  (uint32_t) hidden);
        }
    }
}


static int
shm_dispatch(moe_exchange_t *base, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int        rc;
    uint32_t   i, turn;
    shm_t     *x = (shm_t *) base;

    *late = 0;

    if (nrows > x->rows[x->rank] || layer >= x->shm->shape.n_layers) {
        moe_err(err, "exchange: %u rows where the step has %u, layer %u",
                nrows, x->rows[x->rank], layer);
        return give_up(x);
    }

    x->layer = layer;
    x->nrows = nrows;
    x->number++;
    turn = x->number % MOE_SHM_TURNS;

    open_messages(x, turn);

    if (pack(x, rows, experts, err) != 0) {
        return give_up(x);
    }

    send_messages(x, MOE_SHM_ROWS, turn);

    /* while the others' rows are on their way */
    moe_board_count(x->shm, x->rank, layer, experts,
                    nrows * x->shm->shape.top_k);

    rc = moe_shm_wait(x->shm, MOE_SHM_ROWS, x->rank, x->members, tag(x),
                      deadline, late);

    if (rc != MOE_EXCHANGE_OK) {
        name_late(x, *late, "rows", err);
        return rc;
    }

    if (read_messages(x, turn, err) != 0) {
        return give_up(x);
    }

    work->nexperts = place_items(x);

    for (i = 0; i < work->nexperts; i++) {
        if (x->experts[i].expert >= x->shm->shape.n_experts) {
            moe_err(err, "exchange: rows for a slot without an expert");
            return give_up(x);
        }
    }

    fetch_rows(x, turn);

    work->nrows = x->nwork;
    work->rows = x->work;
    work->out = x->out;
    work->experts = x->experts;

    return MOE_EXCHANGE_OK;
}


static void
return_rows(shm_t *x, uint32_t turn)
{
    size_t         hidden;
    uint8_t       *to;
    uint32_t       i, r;
    const item_t  *item;

    hidden = x->shm->shape.hidden;

    for (r = 0; r < x->shm->nranks; r++) {
        to = moe_shm_payload(x->shm, MOE_SHM_RESULTS, x->rank, r, turn);

        for (i = 0; i < x->nitems[r]; i++) {
            item = &x->items[r][i];
            moe_row_format_pack(x->base.format,
                                to + item->back * x->shm->row_bytes,
                                x->out + item->at * hidden,
                                (uint32_t) hidden);
        }
    }
}


static int
shm_combine(moe_exchange_t *base, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int             rc;
    size_t          hidden;
    uint32_t        k, turn;
    shm_t          *x = (shm_t *) base;
    const uint8_t  *from;

    *late = 0;
    hidden = x->shm->shape.hidden;
    turn = x->number % MOE_SHM_TURNS;

    return_rows(x, turn);
    send_messages(x, MOE_SHM_RESULTS, turn);

    rc = moe_shm_wait(x->shm, MOE_SHM_RESULTS, x->rank, x->members, tag(x),
                      deadline, late);

    if (rc != MOE_EXCHANGE_OK) {
        name_late(x, *late, "results", err);
        return rc;
    }

    for (k = 0; k < x->nrows * x->shm->shape.top_k; k++) {
        from = moe_shm_payload(x->shm, MOE_SHM_RESULTS, x->sent[k].rank,
                               x->rank, turn);
        moe_row_format_unpack(x->base.format, x->y + k * hidden,
                              from + x->sent[k].back * x->shm->row_bytes,
                              (uint32_t) hidden);
    }

    result->y = x->y;
    result->at = x->at;

    return MOE_EXCHANGE_OK;
}
