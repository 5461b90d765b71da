#include <stdlib.h>
#include <string.h>

#include "base/nap.h"
#include "ep/mpi_balance.h"


/* counts are sent so many times from look to look */
#define SENDS_A_LOOK  4


/* expert[n_layers][n_ranks * n_local] follows */
typedef struct {
    uint32_t  version;
    uint32_t  n_local;
} head_t;

struct moe_mpi_balance_s {
    const moe_link_t      *link;
    uint32_t               rank;
    uint32_t               nranks;
    moe_exchange_shape_t   shape;
    uint64_t               period_us;
    uint64_t               send_us;     /* when counts are sent again */
    uint32_t               slots;       /* the most of a rank */

    size_t                 counts_bytes;
    size_t                 most_bytes;  /* of a placement's message */
    uint64_t              *mine;        /* [n_layers][n_experts] */
    uint64_t              *out;         /* on their way to rank 0 */
    uint64_t              *in;          /* [nranks][n_layers][n_experts] */
    uint64_t              *known;       /* likewise, whole */
    head_t                *message;     /* a placement's */
    size_t                 bytes;       /* of it; 0: none was put */
    moe_balance_t         *balance;     /* rank 0's */

    size_t                 map_bytes;   /* the most of a map */
    moe_balance_map_t     *map;         /* of the last look */
    moe_balance_map_t     *passing;     /* on its way */
};


static size_t
cells(const moe_mpi_balance_t *b)
{
    return (size_t) b->shape.n_layers * b->shape.n_experts;
}


/* what rank 0's balance has to do with: all ranks, always */


static uint32_t
board_epoch(void *data, uint8_t *up)
{
    const moe_mpi_balance_t  *b = data;

    memset(up, 1, b->nranks);

    return 1;
}


static void
board_loads(void *data, uint32_t layer, uint64_t *sum)
{
    uint32_t                  e, r, n;
    const uint64_t           *from;
    const moe_mpi_balance_t  *b = data;

    n = b->shape.n_experts;
    memcpy(sum, b->mine + (size_t) layer * n, n * sizeof(uint64_t));

    for (r = 1; r < b->nranks; r++) {
        from = b->known + r * cells(b) + (size_t) layer * n;

        for (e = 0; e < n; e++) {
            sum[e] += from[e];
        }
    }
}


static void
board_put(void *data, uint32_t epoch, uint32_t version, uint32_t n_local,
    const uint32_t *expert)
{
    size_t              n;
    moe_mpi_balance_t  *b = data;

    n = (size_t) b->shape.n_layers * b->nranks * n_local * sizeof(uint32_t);

    b->message->version = version;
    b->message->n_local = n_local;
    memcpy(b->message + 1, expert, n);
    b->bytes = sizeof(head_t) + n;
}


static uint32_t
spare_of(const moe_exchange_shape_t *shape,
    const moe_mpi_balance_options_t *o)
{
    return o->spare == UINT32_MAX ? shape->n_experts / 8 : o->spare;
}


uint32_t
moe_mpi_balance_slots(const moe_exchange_shape_t *shape, uint32_t nranks,
    const moe_mpi_balance_options_t *o)
{
    uint32_t  n;

    n = (shape->n_experts + spare_of(shape, o) + nranks - 1) / nranks;

    return n < shape->n_experts ? n : shape->n_experts;
}


static int
create_balance(moe_mpi_balance_t *b, const moe_mpi_balance_options_t *o,
    moe_err_t *err)
{
    moe_balance_board_t  board = {
        .data = b,
        .epoch = board_epoch,
        .loads = board_loads,
        .put = board_put
    };
    moe_balance_shape_t  shape = {
        .n_layers = b->shape.n_layers,
        .n_experts = b->shape.n_experts,
        .top_k = b->shape.top_k,
        .n_groups = b->shape.n_groups,
        .n_ranks = b->nranks,
        .n_nodes = o->nodes,
        .slots = b->slots
    };

    b->balance = moe_balance_create(&shape, &board, spare_of(&b->shape, o),
                                    b->period_us, err);

    return b->balance ? 0 : -1;
}


/* what others may send, at any time */


static int
expect_map(moe_mpi_balance_t *b, moe_err_t *err)
{
    return b->link->recv(MOE_LINK_MAP, 0, b->passing, b->map_bytes) == 0
           ? 0 : moe_err(err, "exchange: rank 0: %s", b->link->why());
}


static int
expect(moe_mpi_balance_t *b, uint32_t rank, moe_err_t *err)
{
    int  rc;

    rc = b->rank == 0
         ? b->link->recv(MOE_LINK_LOADS, rank, b->in + rank * cells(b),
                         b->counts_bytes)
         : b->link->recv(MOE_LINK_PLACEMENT, 0, b->message, b->most_bytes);

    return rc == 0 ? 0 : moe_err(err, "exchange: rank %u: %s", rank,
                                 b->link->why());
}


static int
set_up(moe_mpi_balance_t *b, const moe_mpi_balance_options_t *o,
    moe_err_t *err)
{
    uint32_t  r, n;

    b->slots = moe_mpi_balance_slots(&b->shape, b->nranks, o);
    b->counts_bytes = cells(b) * sizeof(uint64_t);
    b->most_bytes = sizeof(head_t) + (size_t) b->shape.n_layers * b->nranks
                                     * b->slots * sizeof(uint32_t);

    n = b->rank == 0 ? b->nranks : 0;
    b->mine = calloc(1, b->counts_bytes);
    b->out = calloc(1, b->counts_bytes);
    b->in = calloc(n + 1, b->counts_bytes);
    b->known = calloc(n + 1, b->counts_bytes);
    b->message = calloc(1, b->most_bytes);
    b->map_bytes = moe_balance_map_bytes(b->shape.n_layers,
                                         b->shape.n_experts, b->nranks);
    b->map = calloc(1, b->map_bytes);
    b->passing = calloc(1, b->map_bytes);

    if (b->mine == NULL || b->out == NULL || b->in == NULL
        || b->known == NULL || b->message == NULL || b->map == NULL
        || b->passing == NULL)
    {
        return moe_err(err, "exchange: out of memory");
    }

    if (b->rank != 0) {
        return expect(b, 0, err) != 0 ? -1 : expect_map(b, err);
    }

    for (r = 1; r < b->nranks; r++) {
        if (expect(b, r, err) != 0) {
            return -1;
        }
    }

    return create_balance(b, o, err);
}


moe_mpi_balance_t *
moe_mpi_balance_create(const moe_link_t *link, uint32_t rank, uint32_t nranks,
    const moe_exchange_shape_t *shape, const moe_mpi_balance_options_t *o,
    moe_err_t *err)
{
    moe_mpi_balance_t  *b;

    b = calloc(1, sizeof(moe_mpi_balance_t));
    if (b == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    b->link = link;
    b->rank = rank;
    b->nranks = nranks;
    b->shape = *shape;
    b->period_us = o->period_us;

    if (set_up(b, o, err) != 0) {
        link->cancel();
        moe_mpi_balance_free(b);
        return NULL;
    }

    return b;
}


void
moe_mpi_balance_free(moe_mpi_balance_t *b)
{
    if (b == NULL) {
        return;
    }

    moe_balance_free(b->balance);
    free(b->mine);
    free(b->out);
    free(b->in);
    free(b->known);
    free(b->message);
    free(b->map);
    free(b->passing);
    free(b);
}


void
moe_mpi_balance_count(moe_mpi_balance_t *b, uint32_t layer,
    const uint32_t *experts, uint32_t n)
{
    uint32_t   i;
    uint64_t  *count;

    count = b->mine + (size_t) layer * b->shape.n_experts;

    for (i = 0; i < n; i++) {
        count[experts[i]]++;
    }
}


/* counts to rank 0, if the last ones have left and these are others */
static int
send_counts(moe_mpi_balance_t *b, uint64_t now, moe_err_t *err)
{
    uint64_t  ranks;

    if (now < b->send_us) {
        return 0;
    }

    if (b->link->pending(MOE_LINK_OUT, MOE_LINK_LOADS, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    if (ranks != 0 || memcmp(b->out, b->mine, b->counts_bytes) == 0) {
        return 0;
    }

    b->send_us = now + b->period_us / SENDS_A_LOOK;
    memcpy(b->out, b->mine, b->counts_bytes);

    return b->link->send(MOE_LINK_LOADS, 0, b->out, b->counts_bytes) == 0
           ? 0 : moe_err(err, "exchange: %s", b->link->why());
}


static moe_ep_placement_t *
placement(const moe_mpi_balance_t *b, moe_err_t *err)
{
    const head_t  *h;

    h = b->message;

    return moe_ep_placement(h->version, b->shape.n_layers,
                            b->shape.n_experts, b->nranks, h->n_local,
                            (const uint32_t *) (const void *) (h + 1), err);
}


/* a placement from rank 0, if one has come */
static int
take_placement(moe_mpi_balance_t *b, moe_ep_placement_t **next,
    moe_err_t *err)
{
    size_t    got;
    uint64_t  ranks;

    if (b->link->pending(MOE_LINK_IN, MOE_LINK_PLACEMENT, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    if (ranks != 0) {
        return 0;
    }

    got = b->link->got(MOE_LINK_PLACEMENT, 0);

    if (got < sizeof(head_t) || b->message->version == 0
        || b->message->n_local == 0 || b->message->n_local > b->slots
        || got != sizeof(head_t) + (size_t) b->shape.n_layers * b->nranks
                                   * b->message->n_local * sizeof(uint32_t))
    {
        return moe_err(err, "exchange: rank 0 sends a placement of %zu bytes",
                       got);
    }

    *next = placement(b, err);

    return *next == NULL ? -1 : expect(b, 0, err);
}


/* rank 0: counts that have come */
static int
take_counts(moe_mpi_balance_t *b, moe_err_t *err)
{
    uint32_t  r;
    uint64_t  ranks;

    if (b->link->pending(MOE_LINK_IN, MOE_LINK_LOADS, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    for (r = 1; r < b->nranks; r++) {

        if (ranks >> r & 1) {
            continue;
        }

        if (b->link->got(MOE_LINK_LOADS, r) != b->counts_bytes) {
            return moe_err(err, "exchange: rank %u sends %zu bytes of counts",
                           r, b->link->got(MOE_LINK_LOADS, r));
        }

        memcpy(b->known + r * cells(b), b->in + r * cells(b),
               b->counts_bytes);

        if (expect(b, r, err) != 0) {
            return -1;
        }
    }

    return 0;
}


static size_t
map_bytes(const moe_balance_map_t *map)
{
    return moe_balance_map_bytes(map->layers, map->experts, map->ranks);
}


/* what a look of rank 0's has seen, if it has come */
static int
take_map(moe_mpi_balance_t *b, moe_err_t *err)
{
    size_t    got;
    uint64_t  ranks;

    if (b->link->pending(MOE_LINK_IN, MOE_LINK_MAP, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    if (ranks != 0) {
        return 0;
    }

    got = b->link->got(MOE_LINK_MAP, 0);

    if (moe_balance_map_check(b->passing, got, b->shape.n_layers,
                              b->shape.n_experts, b->nranks, err)
        != 0)
    {
        return moe_err_prefix(err, "exchange: rank 0 sends");
    }

    memcpy(b->map, b->passing, got);

    return expect_map(b, err);
}


/* rank 0: what the last look has seen to all, but while the one before is
 * still on its way */
static int
send_map(moe_mpi_balance_t *b, moe_err_t *err)
{
    uint32_t               r;
    uint64_t               ranks;
    moe_balance_figures_t  figures;

    moe_balance_figures(b->balance, &figures);

    if (figures.looks == b->map->figures.looks) {
        return 0;
    }

    moe_balance_map(b->balance, b->map);

    if (b->link->pending(MOE_LINK_OUT, MOE_LINK_MAP, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    if (ranks != 0) {
        return 0;
    }

    memcpy(b->passing, b->map, map_bytes(b->map));

    for (r = 1; r < b->nranks; r++) {
        if (b->link->send(MOE_LINK_MAP, r, b->passing, map_bytes(b->map))
            != 0)
        {
            return moe_err(err, "exchange: %s", b->link->why());
        }
    }

    return 0;
}


/* rank 0: looks, and sends what comes of it */
static int
look(moe_mpi_balance_t *b, uint64_t now, moe_ep_placement_t **next,
    moe_err_t *err)
{
    uint32_t  r;
    uint64_t  ranks;

    /* the last one is still being sent */
    if (b->link->pending(MOE_LINK_OUT, MOE_LINK_PLACEMENT, &ranks) != 0) {
        return moe_err(err, "exchange: %s", b->link->why());
    }

    if (ranks != 0) {
        return 0;
    }

    b->bytes = 0;

    if (moe_balance_turn(b->balance, now, err) < 0
        || send_map(b, err) != 0)
    {
        return -1;
    }

    if (b->bytes == 0) {
        return 0;
    }

    for (r = 1; r < b->nranks; r++) {
        if (b->link->send(MOE_LINK_PLACEMENT, r, b->message, b->bytes) != 0) {
            return moe_err(err, "exchange: %s", b->link->why());
        }
    }

    *next = placement(b, err);

    return *next == NULL ? -1 : 0;
}


int
moe_mpi_balance_turn(moe_mpi_balance_t *b, int leaves, int moves,
    moe_ep_placement_t **next, moe_err_t *err)
{
    int       rc;
    uint64_t  now;

    *next = NULL;
    now = moe_now_us();

    if (b->rank == 0) {
        rc = take_counts(b, err);

        return rc != 0 || leaves || moves ? rc : look(b, now, next, err);
    }

    rc = leaves ? 0 : send_counts(b, now, err);

    if (rc == 0) {
        rc = take_map(b, err);
    }

    return rc != 0 ? rc : take_placement(b, next, err);
}


const moe_balance_map_t *
moe_mpi_balance_map(const moe_mpi_balance_t *b)
{
    return b->map;
}
