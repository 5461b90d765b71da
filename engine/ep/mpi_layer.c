/*
 * mpi: the exchange in a layer, of a step or of one of its halves.
 *
 * Where a carrier has the rows, its messages are in one order on all ranks
 * (ep/carrier.h).  Counted rows of one half go once the others' lists are
 * there, which is looked at where messages of the other half would come next,
 * or where the rows are needed: in both places the device has something to
 * compute meanwhile.
 */

#include <string.h>

#include "ep/mpi_parts.h"


typedef moe_mpi_exchange_t  mpi_t;
typedef moe_mpi_half_t      half_t;
typedef moe_mpi_box_t       box_t;
typedef moe_mpi_head_t      head_t;


int
moe_mpi_post_rows(mpi_t *x, uint32_t half, moe_err_t *err)
{
    uint32_t  r;

    for (r = 0; r < x->mpi->nranks; r++) {
        if (r != x->mpi->rank
            && x->link->recv(MOE_LINK_ROWS + half, r,
                             x->halves[half].boxes[r].rows_in, x->rows_bytes)
               != 0)
        {
            return moe_err(err, "exchange: rank %u: %s", r, x->link->why());
        }
    }

    return 0;
}


/* the list goes behind the rows */
static int
send_rows(mpi_t *x, uint32_t half, moe_err_t *err)
{
    size_t          rows, list;
    box_t          *to;
    head_t         *head;
    half_t         *h;
    uint32_t        r, n_local;
    moe_parcels_t  *p;

    h = &x->halves[half];
    p = &h->parcels;
    n_local = x->placement->n_local;

    for (r = 0; r < x->mpi->nranks; r++) {
        to = &h->boxes[r];
        head = (head_t *) (void *) to->rows_out;
        head->number = h->number;
        head->layer = p->layer;
        head->capacity = p->capacity;
        head->nrows = p->capacity ? p->capacity * n_local : p->to[r].nrows;
        head->n = p->to[r].n;

        rows = sizeof(head_t) + head->nrows * x->row_bytes;
        list = p->capacity ? n_local * sizeof(uint32_t)
                           : head->n * sizeof(moe_parcel_entry_t);
        memcpy(to->rows_out + rows, to->list, list);

        if (r != x->mpi->rank
            && x->link->send(MOE_LINK_ROWS + half, r, to->rows_out,
                             rows + list)
               != 0)
        {
            return moe_mpi_link_error(x, err);
        }
    }

    return 0;
}


/* results are expected before the rows are out that ask for them */
static int
post_results(mpi_t *x, uint32_t half, moe_err_t *err)
{
    size_t    bytes;
    half_t   *h;
    uint32_t  r;

    h = &x->halves[half];

    for (r = 0; r < x->mpi->nranks; r++) {
        bytes = moe_parcels_due(&h->parcels, r) * x->row_bytes;

        if (r != x->mpi->rank && bytes != 0
            && x->link->recv(MOE_LINK_RESULTS + half, r,
                             h->boxes[r].results_in, bytes)
               != 0)
        {
            return moe_mpi_link_error(x, err);
        }
    }

    return 0;
}


/* a message that is as long as its head says */
static int
check_head(const mpi_t *x, uint32_t half, uint32_t r, const head_t *head,
    moe_err_t *err)
{
    size_t                list, got;
    uint32_t              number;
    const moe_parcels_t  *p;

    p = &x->halves[half].parcels;
    number = x->halves[half].number;
    got = r == x->mpi->rank ? 0 : x->link->got(MOE_LINK_ROWS + half, r);

    if (r != x->mpi->rank && got < sizeof(head_t)) {
        return moe_err(err, "exchange: rank %u sends %zu bytes", r, got);
    }

    list = p->capacity ? x->placement->n_local * sizeof(uint32_t)
                       : head->n * sizeof(moe_parcel_entry_t);

    if (head->number != number || head->capacity != p->capacity
        || (p->capacity
            && head->nrows != p->capacity * x->placement->n_local)
        || (r != x->mpi->rank
            && got != sizeof(head_t) + head->nrows * x->row_bytes + list))
    {
        return moe_err(err, "exchange: rank %u sends %zu bytes of %u rows "
                       "and %u entries, exchange %u of %u, capacity %u of %u",
                       r, got, head->nrows, head->n, head->number, number,
                       head->capacity, p->capacity);
    }

    return 0;
}


/* what every rank's parcel is, and where its rows go in the work */
static int
read_lists(mpi_t *x, uint32_t half, moe_err_t *err)
{
    half_t         *h;
    uint32_t        r;
    const head_t   *head;
    const uint8_t  *in;
    moe_parcels_t  *p;

    h = &x->halves[half];
    p = &h->parcels;
    moe_parcels_begin(p);

    for (r = 0; r < x->mpi->nranks; r++) {
        in = h->boxes[r].rows_in;
        head = (const head_t *) (const void *) in;

        if (check_head(x, half, r, head, err) != 0
            || moe_parcels_read(p, r, head->layer, head->nrows, head->n,
                                in + sizeof(head_t)
                                + head->nrows * x->row_bytes, err)
               != 0)
        {
            return -1;
        }
    }

    return moe_parcels_sort(p, &h->work, err);
}


/* the lists, once they are there; a carrier's rows are on their way then */
static int
come(mpi_t *x, uint32_t half, uint64_t deadline, uint64_t *late,
    moe_err_t *err)
{
    int      rc;
    half_t  *h;

    h = &x->halves[half];

    if (h->came) {
        return MOE_EXCHANGE_OK;
    }

    rc = moe_mpi_await(x, MOE_LINK_ROWS + half, "rows", deadline, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    if (read_lists(x, half, err) != 0
        || (x->carrier != NULL
            && x->carrier->ops->come(x->carrier, half, &h->parcels, deadline,
                                     err)
               != 0))
    {
        return moe_mpi_give_up(x);
    }

    h->came = 1;

    return MOE_EXCHANGE_OK;
}


/* before the carrier has anything else of a step in halves to send: counted
 * rows of this half, which go first on all ranks */
static int
come_before(mpi_t *x, uint32_t half, uint64_t deadline, uint64_t *late,
    moe_err_t *err)
{
    return x->carrier != NULL && x->base.halves
           && x->halves[half].parcels.capacity == 0
           ? come(x, half, deadline, late, err) : MOE_EXCHANGE_OK;
}


static int
fetch_rows(mpi_t *x, uint32_t half, uint64_t deadline,
    moe_expert_work_t *work, moe_err_t *err)
{
    half_t    *h;
    uint32_t   r;

    h = &x->halves[half];
    *work = h->work;

    if (x->carrier != NULL) {
        return x->carrier->ops->fetch(x->carrier, half, &h->parcels, deadline,
                                      work, err);
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        moe_parcels_fetch(&h->parcels, r,
                          h->boxes[r].rows_in + sizeof(head_t));
    }

    return 0;
}


/* into the parcels; then experts are where the process can read them */
static int
pack_rows(mpi_t *x, uint32_t half, const float *rows,
    const uint32_t **experts, uint64_t deadline, moe_err_t *err)
{
    moe_carrier_t  *c;
    moe_parcels_t  *p;

    c = x->carrier;
    p = &x->halves[half].parcels;

    if (c == NULL) {
        return moe_parcels_pack(p, rows, *experts, err);
    }

    if (c->ops->chosen(c, *experts, p->nrows * p->shape.top_k, deadline,
                       experts, err)
        != 0
        || moe_parcels_plan(p, *experts, err) != 0)
    {
        return -1;
    }

    return c->ops->send(c, half, p, rows, deadline, err);
}


int
moe_mpi_dispatch_send(mpi_t *x, uint32_t half, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    int             rc;
    half_t         *h;
    uint32_t        r;
    moe_parcels_t  *p;

    h = &x->halves[half];
    p = &h->parcels;
    rc = moe_mpi_broken(x, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    if (nrows > p->rows[x->mpi->rank] || layer >= p->shape.n_layers) {
        moe_err(err, "exchange: %u rows where the step has %u, layer %u",
                nrows, p->rows[x->mpi->rank], layer);
        return moe_mpi_give_up(x);
    }

    if (half != 0) {
        rc = come_before(x, 0, deadline, late, err);

        if (rc != MOE_EXCHANGE_OK) {
            return rc;
        }
    }

    p->layer = layer;
    p->nrows = nrows;
    h->number = ++x->number;
    h->came = 0;

    moe_parcels_open(p);

    for (r = 0; r < x->mpi->nranks; r++) {
        p->to[r].rows = h->boxes[r].rows_out + sizeof(head_t);
        p->to[r].list = h->boxes[r].list;
    }

    if (pack_rows(x, half, rows, &experts, deadline, err) != 0) {
        return moe_mpi_give_up(x);
    }

    if (post_results(x, half, err) != 0 || send_rows(x, half, err) != 0) {
        return MOE_EXCHANGE_ERROR;
    }

    /* while the others' rows are on their way */
    if (x->balance != NULL) {
        moe_mpi_balance_count(x->balance, layer, experts,
                              nrows * p->shape.top_k);
    }

    return MOE_EXCHANGE_OK;
}


int
moe_mpi_dispatch_wait(mpi_t *x, uint32_t half, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = moe_mpi_broken(x, late, err);

    if (rc == MOE_EXCHANGE_OK) {
        rc = come(x, half, deadline, late, err);
    }

    if (rc == MOE_EXCHANGE_OK
        && (fetch_rows(x, half, deadline, work, err) != 0
            || moe_mpi_post_rows(x, half, err) != 0))
    {
        rc = moe_mpi_give_up(x);
    }

    return rc;
}


/* results, by a carrier */
static int
carry_back(mpi_t *x, uint32_t half, uint64_t deadline, uint64_t *late,
    moe_err_t *err)
{
    int  rc;

    rc = half == 0 ? come_before(x, 1, deadline, late, err)
                   : MOE_EXCHANGE_OK;

    if (rc == MOE_EXCHANGE_OK
        && x->carrier->ops->back(x->carrier, half, &x->halves[half].parcels,
                                 deadline, err)
           != 0)
    {
        rc = moe_mpi_give_up(x);
    }

    return rc;
}


int
moe_mpi_combine_send(mpi_t *x, uint32_t half, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int             rc;
    size_t          bytes;
    box_t          *to;
    uint32_t        r;
    moe_parcels_t  *p;

    p = &x->halves[half].parcels;
    rc = moe_mpi_broken(x, late, err);

    if (rc == MOE_EXCHANGE_OK && x->carrier != NULL) {
        return carry_back(x, half, deadline, late, err);
    }

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        to = &x->halves[half].boxes[r];
        bytes = moe_parcels_owed(p, r) * p->size.row_bytes;

        moe_parcels_return(p, r, to->results_out);

        if (r != x->mpi->rank && bytes != 0
            && x->link->send(MOE_LINK_RESULTS + half, r, to->results_out,
                             bytes)
               != 0)
        {
            return moe_mpi_link_error(x, err);
        }
    }

    return MOE_EXCHANGE_OK;
}


int
moe_mpi_combine_wait(mpi_t *x, uint32_t half, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int              rc;
    size_t           bytes, got;
    uint32_t         r;
    moe_parcels_t   *p;
    moe_link_kind_e  kind;
    const uint8_t   *results[MOE_LINK_RANKS];

    p = &x->halves[half].parcels;
    kind = MOE_LINK_RESULTS + half;
    rc = moe_mpi_broken(x, late, err);

    if (rc == MOE_EXCHANGE_OK && x->carrier != NULL) {
        return x->carrier->ops->result(x->carrier, half, p, deadline, result,
                                       err)
               == 0 ? MOE_EXCHANGE_OK : moe_mpi_give_up(x);
    }

    if (rc == MOE_EXCHANGE_OK) {
        rc = moe_mpi_await(x, kind, "results", deadline, late, err);
    }

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        results[r] = x->halves[half].boxes[r].results_in;
        bytes = moe_parcels_due(p, r) * p->size.row_bytes;
        got = r != x->mpi->rank && bytes != 0 ? x->link->got(kind, r) : bytes;

        if (got != bytes) {
            moe_err(err, "exchange: rank %u returns %zu bytes, not %zu", r,
                    got, bytes);
            return moe_mpi_give_up(x);
        }
    }

    moe_parcels_result(p, results, result);

    return MOE_EXCHANGE_OK;
}
