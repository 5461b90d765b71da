#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "ep/parcels.h"


/* a row that another rank (or this one) has here */
struct moe_parcel_item_s {
    uint32_t  expert;       /* slot of this rank */
    uint32_t  row;          /* where it is in the parcel */
    uint32_t  back;         /* where its result goes in the reply */
    uint32_t  at;           /* row of the work */
};

/* a (row, slot) of this rank */
struct moe_parcel_sent_s {
    uint32_t  rank;
    uint32_t  place;        /* where the row is in the parcel; NONE: it is
                             * there for another slot already */
    uint32_t  back;         /* where the result will be in the reply */
};


static size_t
lines(size_t bytes)
{
    return (bytes + MOE_PARCEL_LINE - 1) / MOE_PARCEL_LINE * MOE_PARCEL_LINE;
}


void
moe_parcel_size(moe_parcel_size_t *size, const moe_exchange_shape_t *s,
    uint32_t nranks)
{
    size_t    list, counts;
    uint32_t  fixed;

    /* twice the slots of a plain placement: replicas */
    fixed = 2 * ((s->n_experts + nranks - 1) / nranks)
            * (s->max_rows < MOE_PARCEL_FIXED_ROWS ? s->max_rows
                                                   : MOE_PARCEL_FIXED_ROWS);

    size->row_bytes = lines(moe_row_format_bytes(s->format, s->hidden));
    size->rows_cap = s->max_rows > fixed ? s->max_rows : fixed;
    size->results_cap = s->max_rows * s->top_k > fixed
                        ? s->max_rows * s->top_k : fixed;

    list = (size_t) s->max_rows * s->top_k * sizeof(moe_parcel_entry_t);
    counts = (size_t) s->n_experts * sizeof(uint32_t);
    size->list_bytes = lines(list > counts ? list : counts);
}


static void *
carve(moe_parcels_t *p, size_t *at, size_t n, size_t each)
{
    void  *to;

    to = p->mem ? (char *) p->mem + *at : NULL;
    *at += (n * each + 63) / 64 * 64;

    return to;
}


static size_t
lay_out(moe_parcels_t *p)
{
    size_t                       at, slots, row;
    uint32_t                     r;
    const moe_exchange_shape_t  *s;

    s = &p->shape;
    at = 0;
    slots = (size_t) s->max_rows * s->top_k;
    row = s->hidden * sizeof(float);

    for (r = 0; r < p->nranks; r++) {
        p->items[r] = carve(p, &at, slots, sizeof(moe_parcel_item_t));
    }

    p->sent = carve(p, &at, slots, sizeof(moe_parcel_sent_t));
    p->at = carve(p, &at, slots, sizeof(uint32_t));
    p->count = carve(p, &at, (size_t) p->nranks * s->n_experts,
                     sizeof(uint32_t));
    p->experts = carve(p, &at, s->n_experts, sizeof(moe_expert_rows_t));
    p->work = carve(p, &at, p->nranks * slots, row);
    p->out = carve(p, &at, p->nranks * slots, row);
    p->y = carve(p, &at, slots, row);

    return at;
}


int
moe_parcels_init(moe_parcels_t *p, const moe_exchange_shape_t *shape,
    uint32_t nranks, uint32_t rank, moe_replica_e replica, moe_err_t *err)
{
    uint32_t  i;

    p->shape = *shape;
    p->nranks = nranks;
    p->rank = rank;
    p->replica = replica;
    moe_parcel_size(&p->size, shape, nranks);

    p->bytes = lay_out(p);
    p->mem = mmap(NULL, p->bytes, PROT_READ|PROT_WRITE,
                  MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    if (p->mem == MAP_FAILED) {
        p->mem = NULL;
        return moe_err(err, "exchange: out of memory for %u rows",
                       shape->max_rows);
    }

    lay_out(p);

    for (i = 0; i < shape->max_rows * shape->top_k; i++) {
        p->at[i] = i;
    }

    return 0;
}


void
moe_parcels_free(moe_parcels_t *p)
{
    if (p->mem != NULL) {
        munmap(p->mem, p->bytes);
        p->mem = NULL;
    }
}


int
moe_parcels_check(const moe_parcels_t *p, const moe_ep_placement_t *placement,
    moe_err_t *err)
{
    if (placement->version == 0 || placement->n_ranks != p->nranks
        || placement->n_experts != p->shape.n_experts
        || placement->n_layers != p->shape.n_layers)
    {
        return moe_err(err, "exchange: placement %u of %u experts, %u layers "
                       "on %u ranks is not this model's", placement->version,
                       placement->n_experts, placement->n_layers,
                       placement->n_ranks);
    }

    return 0;
}


int
moe_parcels_place(const moe_parcels_t *p, moe_ep_placement_t **next,
    moe_ep_placement_t *placement, moe_err_t *err)
{
    if (*next != NULL) {
        return moe_err(err, "exchange: placement %u is not in use yet",
                       (*next)->version);
    }

    if (moe_parcels_check(p, placement, err) != 0) {
        return -1;
    }

    *next = placement;

    return 0;
}


uint32_t
moe_parcels_capacity(const moe_parcels_t *p, uint32_t rows, uint32_t fixed)
{
    uint64_t  places;

    places = (uint64_t) rows * p->placement->n_local;

    return rows <= fixed && places <= p->size.rows_cap
           && places <= p->size.results_cap
           ? rows : 0;
}


void
moe_parcels_open(moe_parcels_t *p)
{
    memset(p->to, 0, sizeof(p->to));
    memset(p->count, 0, (size_t) p->nranks * p->placement->n_local
                        * sizeof(uint32_t));
}


/* row i goes to slot s */
static int
plan_row(moe_parcels_t *p, uint32_t i, uint32_t s, moe_parcel_sent_t *sent,
    moe_err_t *err)
{
    uint32_t             local;
    moe_parcel_t        *to;
    moe_parcel_entry_t  *list;

    sent->rank = s / p->placement->n_local;
    to = &p->to[sent->rank];
    local = s % p->placement->n_local;

    if (to->list == NULL) {
        return moe_err(err, "exchange: slot %u is on no member", s);
    }

    if (p->capacity) {
        if (p->count[s] == p->capacity) {
            return moe_err(err, "exchange: more than %u rows for slot %u",
                           p->capacity, s);
        }

        sent->place = local * p->capacity + p->count[s]++;
        sent->back = sent->place;
        to->n++;

        return 0;
    }

    sent->place = to->last == i + 1 ? MOE_PARCEL_NONE : to->nrows++;
    list = (moe_parcel_entry_t *) (void *) to->list;
    list[to->n] = (moe_parcel_entry_t) { to->nrows - 1, local };
    sent->back = to->n++;
    to->last = i + 1;

    return 0;
}


int
moe_parcels_plan(moe_parcels_t *p, const uint32_t *experts, moe_err_t *err)
{
    uint32_t  k, r, s, n, top_k;

    top_k = p->shape.top_k;
    n = p->placement->n_local;

    for (k = 0; k < p->nrows * top_k; k++) {

        if (experts[k] >= p->shape.n_experts) {
            return moe_err(err, "exchange: no expert %u", experts[k]);
        }

        s = moe_ep_placement_slot(p->placement, p->layer, experts[k],
                                  p->rank, k / top_k, p->replica);

        if (plan_row(p, k / top_k, s, &p->sent[k], err) != 0) {
            return -1;
        }
    }

    for (r = 0; r < p->nranks && p->capacity; r++) {
        if (p->to[r].list != NULL) {
            memcpy(p->to[r].list, p->count + (size_t) r * n,
                   n * sizeof(uint32_t));
        }
    }

    return 0;
}


int
moe_parcels_pack(moe_parcels_t *p, const float *rows, const uint32_t *experts,
    moe_err_t *err)
{
    size_t                    hidden;
    uint32_t                  k;
    const moe_parcel_sent_t  *sent;

    if (moe_parcels_plan(p, experts, err) != 0) {
        return -1;
    }

    hidden = p->shape.hidden;

    for (k = 0; k < p->nrows * p->shape.top_k; k++) {
        sent = &p->sent[k];

        if (sent->place != MOE_PARCEL_NONE) {
            moe_row_format_pack(p->shape.format,
                                p->to[sent->rank].rows
                                + sent->place * p->size.row_bytes,
                                rows + k / p->shape.top_k * hidden,
                                (uint32_t) hidden);
        }
    }

    return 0;
}


void
moe_parcels_begin(moe_parcels_t *p)
{
    memset(p->nitems, 0, p->nranks * sizeof(uint32_t));
}


/* the experts in this rank's slots; NONE in one that has none */
static const uint32_t *
own_experts(const moe_parcels_t *p)
{
    return p->placement->expert
           + ((size_t) p->layer * p->nranks + p->rank) * p->placement->n_local;
}


/* the rows that rank has for us, as a list of p->items[rank] */
static int
read_counted(moe_parcels_t *p, uint32_t rank, uint32_t nrows, uint32_t n,
    const uint8_t *list, moe_err_t *err)
{
    uint32_t             i;
    const uint32_t      *own;
    moe_parcel_item_t   *item;
    moe_parcel_entry_t   e;

    own = own_experts(p);

    if (nrows > p->rows[rank] || n > nrows * p->shape.top_k) {
        return moe_err(err, "exchange: rank %u sends %u rows, %u entries of "
                       "a step of %u", rank, nrows, n, p->rows[rank]);
    }

    for (i = 0; i < n; i++) {
        memcpy(&e, list + i * sizeof(e), sizeof(e));

        if (e.row >= nrows || e.expert >= p->placement->n_local
            || own[e.expert] == MOE_SPREAD_NONE)
        {
            return moe_err(err, "exchange: rank %u sends row %u of %u for "
                           "slot %u", rank, e.row, nrows, e.expert);
        }

        item = &p->items[rank][i];
        item->expert = e.expert;
        item->row = e.row;
        item->back = i;
    }

    p->nitems[rank] = n;

    return 0;
}


static int
read_fixed(moe_parcels_t *p, uint32_t rank, const uint8_t *list,
    moe_err_t *err)
{
    uint32_t            e, i, n, total;
    const uint32_t     *own;
    moe_parcel_item_t  *item;

    total = 0;
    own = own_experts(p);

    for (e = 0; e < p->placement->n_local; e++) {
        memcpy(&n, list + e * sizeof(uint32_t), sizeof(n));

        if (n > p->rows[rank]
            || total + n > p->rows[rank] * p->shape.top_k
            || (n != 0 && own[e] == MOE_SPREAD_NONE))
        {
            return moe_err(err, "exchange: rank %u sends %u rows for slot "
                           "%u, its step has %u", rank, n, e, p->rows[rank]);
        }

        for (i = 0; i < n; i++) {
            item = &p->items[rank][total++];
            item->expert = e;
            item->row = e * p->capacity + i;
            item->back = item->row;
        }
    }

    p->nitems[rank] = total;

    return 0;
}


int
moe_parcels_read(moe_parcels_t *p, uint32_t rank, uint32_t layer,
    uint32_t nrows, uint32_t n, const uint8_t *list, moe_err_t *err)
{
    if (layer != p->layer) {
        return moe_err(err, "exchange: rank %u is in layer %u", rank, layer);
    }

    p->came[rank] = p->capacity ? p->capacity * p->placement->n_local : nrows;

    return p->capacity ? read_fixed(p, rank, list, err)
                       : read_counted(p, rank, nrows, n, list, err);
}


/* where the rows of each expert begin; returns how many have rows */
static uint32_t
place_experts(moe_parcels_t *p, uint32_t *next)
{
    uint32_t         e, i, r, n, first;
    const uint32_t  *logical;

    memset(next, 0, p->placement->n_local * sizeof(uint32_t));

    for (r = 0; r < p->nranks; r++) {
        for (i = 0; i < p->nitems[r]; i++) {
            next[p->items[r][i].expert]++;
        }
    }

    logical = own_experts(p);
    first = 0;
    n = 0;

    for (e = 0; e < p->placement->n_local; e++) {
        i = next[e];
        next[e] = first;

        if (i != 0) {
            p->experts[n++] = (moe_expert_rows_t) { logical[e], first, i };
        }

        first += i;
    }

    p->nwork = first;

    return n;
}


int
moe_parcels_sort(moe_parcels_t *p, moe_expert_work_t *work, moe_err_t *err)
{
    uint32_t            i, r, n, *next;
    moe_parcel_item_t  *item;

    next = p->count;
    n = place_experts(p, next);

    for (r = 0; r < p->nranks; r++) {
        for (i = 0; i < p->nitems[r]; i++) {
            item = &p->items[r][i];
            item->at = next[item->expert]++;
        }
    }

    for (i = 0; i < n; i++) {
        if (p->experts[i].expert >= p->shape.n_experts) {
            return moe_err(err, "exchange: rows for a slot without an "
                           "expert");
        }
    }

    work->nrows = p->nwork;
    work->rows = p->work;
    work->out = p->out;
    work->nexperts = n;
    work->experts = p->experts;

    return 0;
}


void
moe_parcels_fetch(moe_parcels_t *p, uint32_t rank, const uint8_t *rows)
{
    size_t                    hidden;
    uint32_t                  i;
    const moe_parcel_item_t  *item;

    hidden = p->shape.hidden;

    for (i = 0; i < p->nitems[rank]; i++) {
        item = &p->items[rank][i];
        moe_row_format_unpack(p->shape.format, p->work + item->at * hidden,
                              rows + item->row * p->size.row_bytes,
                              (uint32_t) hidden);
    }
}


void
moe_parcels_return(moe_parcels_t *p, uint32_t rank, uint8_t *results)
{
    size_t                    hidden;
    uint32_t                  i;
    const moe_parcel_item_t  *item;

    hidden = p->shape.hidden;

    for (i = 0; i < p->nitems[rank]; i++) {
        item = &p->items[rank][i];
        moe_row_format_pack(p->shape.format,
                            results + item->back * p->size.row_bytes,
                            p->out + item->at * hidden, (uint32_t) hidden);
    }
}


uint32_t
moe_parcels_due(const moe_parcels_t *p, uint32_t rank)
{
    return p->capacity ? p->capacity * p->placement->n_local
                       : p->to[rank].n;
}


uint32_t
moe_parcels_owed(const moe_parcels_t *p, uint32_t rank)
{
    return p->capacity ? p->capacity * p->placement->n_local
                       : p->nitems[rank];
}


void
moe_parcels_result(moe_parcels_t *p, const uint8_t *const *results,
    moe_expert_result_t *result)
{
    size_t                    hidden;
    uint32_t                  k;
    const moe_parcel_sent_t  *sent;

    hidden = p->shape.hidden;

    for (k = 0; k < p->nrows * p->shape.top_k; k++) {
        sent = &p->sent[k];
        moe_row_format_unpack(p->shape.format, p->y + k * hidden,
                              results[sent->rank]
                              + sent->back * p->size.row_bytes,
                              (uint32_t) hidden);
    }

    result->y = p->y;
    result->at = p->at;
}


/* the same without rows: which one goes where */


void
moe_parcels_pack_from(const moe_parcels_t *p, const uint32_t *first,
    uint32_t *from)
{
    uint32_t                  k;
    const moe_parcel_sent_t  *sent;

    for (k = 0; k < p->nrows * p->shape.top_k; k++) {
        sent = &p->sent[k];

        if (sent->place != MOE_PARCEL_NONE) {
            from[first[sent->rank] + sent->place] = k / p->shape.top_k;
        }
    }
}


void
moe_parcels_fetch_from(const moe_parcels_t *p, uint32_t rank, uint32_t first,
    uint32_t *from)
{
    uint32_t                  i;
    const moe_parcel_item_t  *item;

    for (i = 0; i < p->nitems[rank]; i++) {
        item = &p->items[rank][i];
        from[item->at] = first + item->row;
    }
}


void
moe_parcels_return_from(const moe_parcels_t *p, uint32_t rank, uint32_t first,
    uint32_t *from)
{
    uint32_t                  i;
    const moe_parcel_item_t  *item;

    for (i = 0; i < p->nitems[rank]; i++) {
        item = &p->items[rank][i];
        from[first + item->back] = item->at;
    }
}


void
moe_parcels_result_from(const moe_parcels_t *p, const uint32_t *first,
    uint32_t *from)
{
    uint32_t                  k;
    const moe_parcel_sent_t  *sent;

    for (k = 0; k < p->nrows * p->shape.top_k; k++) {
        sent = &p->sent[k];
        from[k] = first[sent->rank] + sent->back;
    }
}


void
moe_parcels_late(uint64_t late, const char *what, moe_err_t *err)
{
    char      list[MOE_PARCEL_RANKS * 4];
    size_t    n;
    uint32_t  r;

    n = 0;
    list[0] = '\0';

    for (r = 0; r < MOE_PARCEL_RANKS; r++) {
        if (late >> r & 1) {
            n += (size_t) snprintf(list + n, sizeof(list) - n, " %u", r);
        }
    }

    moe_err(err, "exchange: no %s from rank%s", what, list);
}
