#include <stdlib.h>
#include <string.h>

#include "ep/nccl_rows.h"


/* What a parcel of fixed capacity may have of bytes: about what a message
 * takes to begin with.  A guess; no GPU has measured it. */
#define FIXED_BYTES  (256u << 10)


/* rows of a format for every rank and from every rank, in one run: those for
 * rank r begin at out[r], and those from it at in[r] */
typedef struct {
    uint8_t   *rows;
    uint32_t   most_out;
    uint32_t   most_in;
    uint32_t   out[MOE_PARCEL_RANKS];
    uint32_t   in[MOE_PARCEL_RANKS];
    uint32_t   nout[MOE_PARCEL_RANKS];
    uint32_t   nin[MOE_PARCEL_RANKS];
} side_t;

/* of a whole step, or of one half; the device's memory but for the sides */
typedef struct {
    side_t      there;          /* rows */
    side_t      again;          /* results */
    float      *work;           /* [most_work][hidden] */
    float      *done;           /* [most_work][hidden] */
    float      *y;              /* [most_slots][hidden] */
    uint32_t   *from;           /* [most_from] */

    uint32_t    most_slots;     /* (row, slot)s of this rank */
    uint32_t    most_work;
    uint32_t    most_from;
    uint32_t    nback;          /* places in replies */
} part_t;

enum { HALVES = 2, PARTS = 1 + HALVES };

typedef struct {
    moe_carrier_t              base;
    moe_nccl_t                 nccl;
    const moe_rows_memory_t   *memory;
    moe_exchange_shape_t       shape;
    uint32_t                   nranks;
    uint32_t                   rank;
    size_t                     row_bytes;
    uint64_t                   wait_us;     /* most of a get() */

    /* of the step */
    int                        halves;
    int                        timed;       /* its end was reached */

    part_t                     parts[PARTS];    /* the whole step, halves: in
                                                 * the same memory */
    uint8_t                   *mem;
    uint32_t                  *at;          /* [most_slots] 0, 1, ... */

    /* the process's */
    uint32_t                  *host_from;   /* what any part is told */
    uint32_t                  *experts;     /* [most_slots] */
} rows_t;


static void rows_begin(moe_carrier_t *c, int halves);
static int rows_chosen(moe_carrier_t *c, const uint32_t *experts, uint32_t n,
    uint64_t deadline, const uint32_t **list, moe_err_t *err);
static int rows_send(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
    const float *rows, uint64_t deadline, moe_err_t *err);
static int rows_come(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_err_t *err);
static int rows_fetch(moe_carrier_t *c, uint32_t half,
    const moe_parcels_t *p, uint64_t deadline, moe_expert_work_t *work,
    moe_err_t *err);
static int rows_back(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_err_t *err);
static int rows_result(moe_carrier_t *c, uint32_t half,
    const moe_parcels_t *p, uint64_t deadline, moe_expert_result_t *result,
    moe_err_t *err);
static uint64_t rows_took(moe_carrier_t *c);
static void rows_abort(moe_carrier_t *c);
static void rows_close(moe_carrier_t *c);
static int rows_alive(void *data, uint64_t waited_us, moe_err_t *err);


static const moe_carrier_ops_t  rows_ops = {
    .begin = rows_begin,
    .chosen = rows_chosen,
    .send = rows_send,
    .come = rows_come,
    .fetch = rows_fetch,
    .back = rows_back,
    .result = rows_result,
    .took = rows_took,
    .abort = rows_abort,
    .close = rows_close
};


static uint32_t
least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}


static uint32_t
most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}


/* slots that a rank may have in a layer, twice those of a plain placement, as
 * in moe_parcel_size() */
static uint32_t
most_local(const moe_exchange_shape_t *s, uint32_t nranks)
{
    return least(2 * ((s->n_experts + nranks - 1) / nranks), s->n_experts);
}


uint32_t
moe_nccl_fixed_rows(const moe_exchange_shape_t *shape, uint32_t nranks)
{
    size_t             a_row, rows;
    moe_parcel_size_t  size;

    moe_parcel_size(&size, shape, nranks);
    a_row = size.row_bytes * ((shape->n_experts + nranks - 1) / nranks);

    rows = FIXED_BYTES / a_row;

    return rows < MOE_PARCEL_FIXED_ROWS ? (uint32_t) rows
                                        : MOE_PARCEL_FIXED_ROWS;
}


/* the most rows that there can be of each kind, of max_rows of each rank */
static void
set_bounds(const rows_t *c, part_t *a, uint32_t max_rows,
    uint32_t fixed_rows)
{
    uint32_t                     fixed, here;
    const moe_exchange_shape_t  *s;

    s = &c->shape;
    fixed = c->nranks * most_local(s, c->nranks)
            * least(max_rows, fixed_rows);
    here = least(s->top_k, s->n_experts);

    a->most_slots = max_rows * s->top_k;
    a->most_work = c->nranks * max_rows * here;

    /* a row for every rank when they meet */
    fixed = most(fixed, c->nranks);

    a->there.most_out = most(max_rows * least(here, c->nranks), fixed);
    a->there.most_in = most(max_rows * c->nranks, fixed);
    a->again.most_out = most(a->most_work, fixed);
    a->again.most_in = most(a->most_slots, fixed);

    a->most_from = most(a->there.most_out,
                        a->most_work + a->again.most_out + a->most_slots);
}


static void *
carve(const rows_t *c, size_t *at, size_t n, size_t each)
{
    void  *p;

    p = c->mem ? c->mem + *at : NULL;
    *at += (n * each + 255) / 256 * 256;

    return p;
}


static void
lay_out_part(const rows_t *c, part_t *a, size_t *at)
{
    size_t  row;

    row = c->shape.hidden * sizeof(float);

    a->there.rows = carve(c, at, (size_t) a->there.most_out
                                 + a->there.most_in, c->row_bytes);
    a->again.rows = carve(c, at, (size_t) a->again.most_out
                                 + a->again.most_in, c->row_bytes);
    a->work = carve(c, at, a->most_work, row);
    a->done = carve(c, at, a->most_work, row);
    a->y = carve(c, at, a->most_slots, row);
    a->from = carve(c, at, a->most_from, sizeof(uint32_t));
}


/* a step is whole or in halves: both begin where the other does */
static size_t
lay_out(rows_t *c)
{
    size_t    at, first, whole;
    uint32_t  i;

    at = 0;
    c->at = carve(c, &at, c->parts[0].most_slots, sizeof(uint32_t));
    first = at;

    lay_out_part(c, &c->parts[0], &at);
    whole = at;
    at = first;

    for (i = 1; i < PARTS; i++) {
        lay_out_part(c, &c->parts[i], &at);
    }

    return at > whole ? at : whole;
}


static int
take_memory(rows_t *c, moe_err_t *err)
{
    size_t    bytes;
    uint32_t  i, n, slots;

    bytes = lay_out(c);
    slots = c->parts[0].most_slots;
    n = slots;

    for (i = 0; i < PARTS; i++) {
        n = most(n, c->parts[i].most_from);
    }

    c->host_from = calloc(n, sizeof(uint32_t));
    c->experts = calloc(slots, sizeof(uint32_t));

    if (c->host_from == NULL || c->experts == NULL) {
        return moe_err(err, "exchange: out of memory");
    }

    c->mem = c->memory->take(c->memory->ctx, bytes, err);

    if (c->mem == NULL) {
        return moe_err_prefix(err, "exchange: %u rows of %u ranks",
                              c->shape.max_rows, c->nranks);
    }

    lay_out(c);

    for (i = 0; i < slots; i++) {
        c->host_from[i] = i;
    }

    c->memory->put(c->memory->ctx, c->at, c->host_from,
                   slots * sizeof(uint32_t));

    return 0;
}


static part_t *
part_of(rows_t *c, uint32_t half)
{
    return &c->parts[c->halves ? 1 + half : 0];
}


/* how long the device may take from now on for what it was asked for */
static void
set_patience(rows_t *c, uint64_t deadline)
{
    uint64_t  now;

    now = moe_exchange_now();
    c->wait_us = deadline == UINT64_MAX ? UINT64_MAX
                 : deadline > now ? (deadline - now) * 1000 : 0;
}


/* a message that does not come is work that the device never finishes */
static int
rows_alive(void *data, uint64_t waited_us, moe_err_t *err)
{
    rows_t  *c = data;

    if (moe_nccl_check(&c->nccl, err) != 0) {
        return moe_err_prefix(err, "exchange");
    }

    if (waited_us >= c->wait_us) {
        moe_nccl_abort(&c->nccl);
        return moe_err(err, "exchange: NCCL: rows have not come by their "
                       "deadline: another rank does not answer");
    }

    return 0;
}


static int
rows_chosen(moe_carrier_t *base, const uint32_t *experts, uint32_t n,
    uint64_t deadline, const uint32_t **list, moe_err_t *err)
{
    rows_t  *c = (rows_t *) base;

    set_patience(c, deadline);
    *list = c->experts;

    return c->memory->get(c->memory->ctx, c->experts, experts,
                          n * sizeof(uint32_t), err);
}


/* one rank's after the other's, and what came behind what goes; a rank's own
 * are in one place */
static int
place(const rows_t *c, side_t *s, moe_err_t *err)
{
    uint32_t  r, out, in;

    out = 0;
    in = 0;

    for (r = 0; r < c->nranks; r++) {
        s->out[r] = out;
        out += s->nout[r];
    }

    if (out > s->most_out) {
        return moe_err(err, "exchange: %u rows to carry, at most %u", out,
                       s->most_out);
    }

    for (r = 0; r < c->nranks; r++) {
        s->in[r] = r == c->rank ? s->out[r] : s->most_out + in;
        in += r == c->rank ? 0 : s->nin[r];
    }

    return in <= s->most_in ? 0
                            : moe_err(err, "exchange: %u rows come, at most "
                                      "%u", in, s->most_in);
}


/* what has been packed goes out, and theirs comes in */
static int
carry(rows_t *c, uint32_t half, const side_t *s, uint64_t deadline,
    moe_err_t *err)
{
    int        rc;
    void      *stream;
    uint32_t   r;

    stream = c->halves ? c->memory->messages(c->memory->ctx)
                       : c->memory->stream(c->memory->ctx);
    rc = moe_nccl_begin(&c->nccl, err);

    for (r = 0; rc == 0 && r < c->nranks; r++) {
        if (r != c->rank && s->nout[r] != 0) {
            rc = moe_nccl_send(&c->nccl, s->rows + s->out[r] * c->row_bytes,
                               s->nout[r] * c->row_bytes, r, stream, err);
        }

        if (rc == 0 && r != c->rank && s->nin[r] != 0) {
            rc = moe_nccl_recv(&c->nccl, s->rows + s->in[r] * c->row_bytes,
                               s->nin[r] * c->row_bytes, r, stream, err);
        }
    }

    if (rc == 0) {
        rc = moe_nccl_end(&c->nccl, deadline, err);
    }

    if (c->halves) {
        c->memory->mark(c->memory->ctx, half);
    }

    return rc == 0 ? 0 : moe_err_prefix(err, "exchange");
}


/* messages from here on have what was packed so far */
static void
depart(rows_t *c)
{
    if (c->halves) {
        c->memory->depart(c->memory->ctx);
    }
}


/* operations from here on have what was carried last of this half */
static void
arrive(rows_t *c, uint32_t half)
{
    if (c->halves) {
        c->memory->await(c->memory->ctx, half);
    }
}


/* a row to and from every other rank, before there is a step to wait */
static int
meet(rows_t *c, uint64_t deadline, moe_err_t *err)
{
    uint32_t   r;
    side_t    *s = &c->parts[0].there;

    c->memory->watch(c->memory->ctx, rows_alive, c);
    set_patience(c, deadline);

    for (r = 0; r < c->nranks; r++) {
        s->nout[r] = 1;
        s->nin[r] = 1;
    }

    if (place(c, s, err) != 0 || carry(c, 0, s, deadline, err) != 0) {
        return -1;
    }

    return c->memory->get(c->memory->ctx, c->experts, c->at,
                          sizeof(uint32_t), err);
}


moe_carrier_t *
moe_nccl_carrier(const moe_nccl_t *n, const moe_rows_memory_t *memory,
    const moe_exchange_shape_t *shape, uint32_t nranks, uint32_t rank,
    uint32_t fixed_rows, uint64_t deadline, moe_err_t *err)
{
    rows_t             *c;
    moe_parcel_size_t   size;

    c = calloc(1, sizeof(rows_t));
    if (c == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    c->base.ops = &rows_ops;
    c->nccl = *n;
    c->memory = memory;
    c->shape = *shape;
    c->nranks = nranks;
    c->rank = rank;
    c->wait_us = UINT64_MAX;

    moe_parcel_size(&size, shape, nranks);
    c->row_bytes = size.row_bytes;

    set_bounds(c, &c->parts[0], shape->max_rows, fixed_rows);
    set_bounds(c, &c->parts[1], (shape->max_rows + 1) / 2, fixed_rows);
    set_bounds(c, &c->parts[2], shape->max_rows / 2, fixed_rows);

    if (take_memory(c, err) != 0 || meet(c, deadline, err) != 0) {
        rows_close(&c->base);
        return NULL;
    }

    return &c->base;
}


static void
rows_begin(moe_carrier_t *base, int halves)
{
    rows_t  *c = (rows_t *) base;

    c->halves = halves;
    c->timed = 0;
    c->memory->clock(c->memory->ctx, 0);
}


static uint64_t
rows_took(moe_carrier_t *base)
{
    rows_t  *c = (rows_t *) base;

    return c->timed ? c->memory->took(c->memory->ctx) : 0;
}


static int
rows_send(moe_carrier_t *base, uint32_t half, const moe_parcels_t *p,
    const float *rows, uint64_t deadline, moe_err_t *err)
{
    uint32_t   i, r, n;
    rows_t    *c = (rows_t *) base;
    part_t    *a = part_of(c, half);
    side_t    *s = &a->there;

    n = 0;

    for (r = 0; r < c->nranks; r++) {
        s->nout[r] = p->capacity ? p->capacity * p->placement->n_local
                                 : p->to[r].nrows;
        s->nin[r] = p->capacity ? s->nout[r] : 0;
        n += s->nout[r];
    }

    if (place(c, s, err) != 0) {
        return -1;
    }

    for (i = 0; i < n; i++) {
        c->host_from[i] = MOE_PARCEL_NONE;
    }

    moe_parcels_pack_from(p, s->out, c->host_from);
    c->memory->put(c->memory->ctx, a->from, c->host_from,
                   n * sizeof(uint32_t));
    c->memory->pack(c->memory->ctx, c->shape.format, rows, a->from, n,
                    c->shape.hidden, s->rows, c->row_bytes);
    depart(c);

    return p->capacity ? carry(c, half, s, deadline, err) : 0;
}


static int
rows_come(moe_carrier_t *base, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_err_t *err)
{
    uint32_t   r;
    rows_t    *c = (rows_t *) base;
    side_t    *s = &part_of(c, half)->there;

    if (p->capacity != 0) {
        return 0;
    }

    for (r = 0; r < c->nranks; r++) {
        s->nin[r] = p->came[r];
    }

    return place(c, s, err) == 0 ? carry(c, half, s, deadline, err) : -1;
}


/* what goes where from here on: into the work, into replies, out of them */
static int
plan_back(rows_t *c, part_t *a, const moe_parcels_t *p, moe_err_t *err)
{
    uint32_t   i, r, n;
    side_t    *s = &a->again;

    n = 0;

    for (r = 0; r < c->nranks; r++) {
        s->nout[r] = moe_parcels_owed(p, r);
        s->nin[r] = moe_parcels_due(p, r);
        n += s->nout[r];
    }

    if (place(c, s, err) != 0) {
        return -1;
    }

    a->nback = n;

    for (i = 0; i < n; i++) {
        c->host_from[p->nwork + i] = MOE_PARCEL_NONE;
    }

    for (r = 0; r < c->nranks; r++) {
        moe_parcels_fetch_from(p, r, a->there.in[r], c->host_from);
        moe_parcels_return_from(p, r, s->out[r], c->host_from + p->nwork);
    }

    moe_parcels_result_from(p, s->in, c->host_from + p->nwork + n);
    n += p->nwork + p->nrows * p->shape.top_k;
    c->memory->put(c->memory->ctx, a->from, c->host_from,
                   n * sizeof(uint32_t));

    return 0;
}


static int
rows_fetch(moe_carrier_t *base, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_expert_work_t *work, moe_err_t *err)
{
    rows_t  *c = (rows_t *) base;
    part_t  *a = part_of(c, half);

    set_patience(c, deadline);

    if (plan_back(c, a, p, err) != 0) {
        return -1;
    }

    arrive(c, half);
    c->memory->unpack(c->memory->ctx, c->shape.format, a->there.rows,
                      c->row_bytes, a->from, p->nwork, c->shape.hidden,
                      a->work);
    work->rows = a->work;
    work->out = a->done;

    return 0;
}


static int
rows_back(moe_carrier_t *base, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_err_t *err)
{
    rows_t  *c = (rows_t *) base;
    part_t  *a = part_of(c, half);

    c->memory->pack(c->memory->ctx, c->shape.format, a->done,
                    a->from + p->nwork, a->nback, c->shape.hidden,
                    a->again.rows, c->row_bytes);
    depart(c);

    return carry(c, half, &a->again, deadline, err);
}


static int
rows_result(moe_carrier_t *base, uint32_t half, const moe_parcels_t *p,
    uint64_t deadline, moe_expert_result_t *result, moe_err_t *err)
{
    rows_t  *c = (rows_t *) base;
    part_t  *a = part_of(c, half);

    set_patience(c, deadline);

    arrive(c, half);
    c->memory->unpack(c->memory->ctx, c->shape.format, a->again.rows,
                      c->row_bytes, a->from + p->nwork + a->nback,
                      p->nrows * p->shape.top_k, c->shape.hidden, a->y);
    result->y = a->y;
    result->at = c->at;

    if (!c->halves || half == HALVES - 1) {
        c->memory->clock(c->memory->ctx, 1);
        c->timed = 1;
    }

    return 0;
}


static void
rows_abort(moe_carrier_t *base)
{
    moe_nccl_abort(&((rows_t *) base)->nccl);
}


static void
rows_close(moe_carrier_t *base)
{
    rows_t  *c = (rows_t *) base;

    moe_nccl_close(&c->nccl);
    c->memory->watch(c->memory->ctx, NULL, NULL);

    if (c->mem != NULL) {
        c->memory->give(c->memory->ctx, c->mem);
    }

    free(c->host_from);
    free(c->experts);
    free(c);
}
