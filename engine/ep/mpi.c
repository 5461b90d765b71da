#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "ep/mpi.h"
#include "ep/parcels.h"


/* for so long who waits only gives the processor away, then naps become as
 * long as a 16th of the wait, and no longer than the last figure, which is
 * what the first step after a long silence may take longer */
#define AWAKE_US    50
#define NAP_SHARE   16
#define NAP_MIN_US  20
#define NAP_MAX_US  5000

/* An MPI library that has lost a peer may not come back from a call; so long
 * after its deadline the process ends there. */
#define GRACE_S     4

/* the version of a plain placement that nobody has asked for */
#define FIRST       0x80000001

/* what may be on its way yet when an exchange is closed */
#define DRAIN_US    1000000

/* what a look whether somebody asks may take */
#define LOOK_MS     10000


/* what a rank says of a step */
typedef struct {
    uint32_t  number;           /* of the step */
    uint32_t  rows;
    uint32_t  fixed_rows;
    uint32_t  placed;
    uint32_t  next;             /* placement, 0: none */
    uint32_t  leaves;
} step_t;

/* before a parcel of rows, which the list follows */
typedef struct {
    _Alignas(MOE_PARCEL_LINE) uint32_t  number;     /* of the exchange */
    uint32_t                            layer;
    uint32_t                            capacity;
    uint32_t                            nrows;
    uint32_t                            n;
} head_t;

/* one other rank's messages */
typedef struct {
    step_t    say;
    step_t    said;
    uint8_t  *rows_out;         /* head, rows, list */
    uint8_t  *rows_in;
    uint8_t  *results_out;
    uint8_t  *results_in;
    uint8_t  *list;             /* while it is written */
} peer_t;

typedef struct {
    moe_exchange_t        base;
    const moe_mpi_t      *mpi;
    const moe_link_t     *link;
    uint64_t              others;       /* ranks */
    uint32_t              fixed_rows;

    moe_ep_placement_t   *placement;
    moe_ep_placement_t   *next;         /* once all have it */

    moe_mpi_balance_t    *balance;      /* NULL: they stay in place */

    uint32_t              steps;
    uint32_t              number;       /* of the exchange */
    unsigned              leaves:1;
    unsigned              over:1;
    unsigned              broken:1;
    uint64_t              lost;         /* ranks */

    size_t                rows_bytes;   /* most of a parcel of rows */
    size_t                results_bytes;
    peer_t                peers[MOE_LINK_RANKS];
    moe_parcels_t         parcels;

    void                 *mem;          /* one mapping */
    size_t                bytes;
} mpi_t;


static int mpi_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int mpi_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err);
static int mpi_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err);
static void mpi_close(moe_exchange_t *x);
static int mpi_asked(moe_exchange_t *x);
static int mpi_doze(moe_exchange_t *x, int fd, int timeout);


static const moe_exchange_ops_t  mpi_ops = {
    .begin = mpi_begin,
    .dispatch = mpi_dispatch,
    .combine = mpi_combine,
    .close = mpi_close,
    .asked = mpi_asked,
    .doze = mpi_doze
};


static uint64_t
now_us(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


/* after so long a wait */
static uint64_t
nap_us(uint64_t waited)
{
    uint64_t  us;

    if (waited < AWAKE_US) {
        return 0;
    }

    us = waited / NAP_SHARE;

    return us < NAP_MIN_US ? NAP_MIN_US : us > NAP_MAX_US ? NAP_MAX_US : us;
}


static void
stuck(int signo)
{
    static const char  line[] = "exchange: a call of the MPI library does "
                                "not return\n";

    if (write(STDERR_FILENO, line, sizeof(line) - 1) < 0) {
        /* nobody to tell */
    }

    _exit(1);
}


/* from here to unguard() nothing may take much longer than the deadline */
static void
guard(uint64_t deadline)
{
    uint64_t  now;

    if (deadline == UINT64_MAX) {
        return;
    }

    now = moe_exchange_now();
    alarm((unsigned) ((deadline > now ? deadline - now : 0) / 1000)
          + GRACE_S);
}


static void
unguard(void)
{
    alarm(0);
}


static void
nap(uint64_t us)
{
    struct timespec  ts;

    if (us == 0) {
        sched_yield();
        return;
    }

    ts.tv_sec = 0;
    ts.tv_nsec = (long) us * 1000;
    nanosleep(&ts, NULL);
}


int
moe_mpi_open(moe_mpi_t *mpi, const char *path, moe_err_t *err)
{
    memset(mpi, 0, sizeof(*mpi));

    /* naps that are as short as was meant */
    (void) prctl(PR_SET_TIMERSLACK, 1000);

    mpi->link = moe_link_load(path, err);

    if (mpi->link == NULL) {
        return -1;
    }

    if (mpi->link->open(&mpi->rank, &mpi->nranks, mpi->library,
                        sizeof(mpi->library))
        != 0)
    {
        return moe_err(err, "ranks cannot join: %s", mpi->link->why());
    }

    return 0;
}


int
moe_mpi_gather(const moe_mpi_t *mpi, const void *mine, void *all,
    size_t bytes, moe_err_t *err)
{
    int       rc;
    uint64_t  began;

    rc = mpi->link->gather(mine, all, bytes);
    began = now_us();

    while (rc == 0 && (rc = mpi->link->gathered()) == 0) {
        nap(nap_us(now_us() - began));
    }

    return rc < 0 ? moe_err(err, "exchange: %s", mpi->link->why()) : 0;
}


static void *
carve(mpi_t *x, size_t *at, size_t bytes)
{
    void  *p;

    p = x->mem ? (char *) x->mem + *at : NULL;
    *at += (bytes + 4095) / 4096 * 4096;

    return p;
}


static size_t
lay_out(mpi_t *x)
{
    size_t                    at;
    peer_t                   *p;
    uint32_t                  r;
    const moe_parcel_size_t  *size;

    at = 0;
    size = &x->parcels.size;

    x->rows_bytes = sizeof(head_t) + size->rows_cap * size->row_bytes
                    + size->list_bytes;
    x->results_bytes = size->results_cap * size->row_bytes;

    for (r = 0; r < x->mpi->nranks; r++) {
        p = &x->peers[r];
        p->rows_out = carve(x, &at, x->rows_bytes);
        p->results_out = carve(x, &at, x->results_bytes);
        p->list = carve(x, &at, size->list_bytes);

        /* what a rank has for itself stays where it was written */
        if (r == x->mpi->rank) {
            p->rows_in = p->rows_out;
            p->results_in = p->results_out;

        } else {
            p->rows_in = carve(x, &at, x->rows_bytes);
            p->results_in = carve(x, &at, x->results_bytes);
        }
    }

    return at;
}


/* all have the same model, and room for the same steps */
static int
compare_shapes(const mpi_t *x, const moe_exchange_shape_t *shape,
    moe_err_t *err)
{
    int                    rc;
    uint32_t               r;
    moe_exchange_shape_t  *all;

    all = calloc(x->mpi->nranks, sizeof(*all));
    if (all == NULL) {
        return moe_err(err, "exchange: out of memory");
    }

    rc = moe_mpi_gather(x->mpi, shape, all, sizeof(*all), err);

    for (r = 0; rc == 0 && r < x->mpi->nranks; r++) {
        if (memcmp(&all[r], shape, sizeof(*shape)) != 0) {
            rc = moe_err(err, "exchange: rank %u has another model, or steps "
                         "or rows of another kind, than rank %u", r,
                         x->mpi->rank);
        }
    }

    free(all);

    return rc;
}


static int
post(mpi_t *x, moe_link_kind_e kind, moe_err_t *err)
{
    int       rc;
    peer_t   *p;
    uint32_t  r;

    for (r = 0; r < x->mpi->nranks; r++) {
        p = &x->peers[r];

        if (r == x->mpi->rank) {
            continue;
        }

        rc = kind == MOE_LINK_STEP
             ? x->link->recv(kind, r, &p->said, sizeof(step_t))
             : x->link->recv(kind, r, p->rows_in, x->rows_bytes);

        if (rc != 0) {
            return moe_err(err, "exchange: rank %u: %s", r, x->link->why());
        }
    }

    return 0;
}


static int
set_up(mpi_t *x, const moe_exchange_shape_t *shape,
    const moe_mpi_options_t *o, moe_err_t *err)
{
    if (moe_parcels_init(&x->parcels, shape, x->mpi->nranks, x->mpi->rank,
                         o->replica, err) != 0
        || (o->placement != NULL
            && moe_parcels_check(&x->parcels, o->placement, err) != 0))
    {
        return -1;
    }

    x->bytes = lay_out(x);
    x->mem = mmap(NULL, x->bytes, PROT_READ|PROT_WRITE,
                  MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    if (x->mem == MAP_FAILED) {
        x->mem = NULL;
        return moe_err(err, "exchange: out of memory for %u rows of %u ranks",
                       shape->max_rows, x->mpi->nranks);
    }

    lay_out(x);

    /* nobody sends anything before all have come so far */
    if (compare_shapes(x, shape, err) != 0
        || post(x, MOE_LINK_STEP, err) != 0
        || post(x, MOE_LINK_ROWS, err) != 0)
    {
        return -1;
    }

    if (o->balance.period_us && x->mpi->nranks > 1) {
        x->balance = moe_mpi_balance_create(x->link, x->mpi->rank,
                                            x->mpi->nranks, shape,
                                            &o->balance, err);
        if (x->balance == NULL) {
            return -1;
        }
    }

    x->placement = o->placement
                   ? o->placement
                   : moe_ep_placement_plain(FIRST, shape->n_layers,
                                            shape->n_experts, x->mpi->nranks,
                                            ~0ull >> (64 - x->mpi->nranks),
                                            err);

    return x->placement ? 0 : -1;
}


moe_exchange_t *
moe_exchange_mpi(const moe_mpi_t *mpi, const moe_exchange_shape_t *shape,
    const moe_mpi_options_t *o, moe_err_t *err)
{
    mpi_t  *x;

    x = calloc(1, sizeof(mpi_t));
    if (x == NULL) {
        moe_err(err, "exchange: out of memory");
        return NULL;
    }

    x->base.ops = &mpi_ops;
    x->base.format = shape->format;
    x->base.nranks = mpi->nranks;
    x->mpi = mpi;
    x->link = mpi->link;
    x->others = (~0ull >> (64 - mpi->nranks)) & ~(1ull << mpi->rank);
    x->fixed_rows = o->fixed_rows < MOE_PARCEL_FIXED_ROWS
                    ? o->fixed_rows : MOE_PARCEL_FIXED_ROWS;

    signal(SIGALRM, stuck);

    if (set_up(x, shape, o, err) != 0) {
        mpi_close(&x->base);
        return NULL;
    }

    return &x->base;
}


/* what is still on its way reads memory that is about to go */
static void
drain(mpi_t *x)
{
    int       kind;
    uint64_t  began, ranks;

    began = now_us();

    for (kind = 0; kind < MOE_LINK_KINDS && !x->broken && !x->lost; ) {
        if (x->link->pending(MOE_LINK_OUT, kind, &ranks) != 0
            || now_us() - began > DRAIN_US)
        {
            return;
        }

        kind += ranks == 0;
    }
}


static void
mpi_close(moe_exchange_t *base)
{
    mpi_t  *x = (mpi_t *) base;

    drain(x);
    x->link->cancel();

    if (x->mem != NULL) {
        munmap(x->mem, x->bytes);
    }

    moe_mpi_balance_free(x->balance);
    moe_parcels_free(&x->parcels);
    moe_ep_placement_free(x->placement);
    moe_ep_placement_free(x->next);
    free(x);
}


int
moe_exchange_mpi_place(moe_exchange_t *base, moe_ep_placement_t *p,
    moe_err_t *err)
{
    mpi_t  *x = (mpi_t *) base;

    return moe_parcels_place(&x->parcels, &x->next, p, err);
}


uint32_t
moe_exchange_mpi_placed(const moe_exchange_t *base)
{
    return ((const mpi_t *) base)->placement->version;
}


void
moe_exchange_mpi_figures(const moe_exchange_t *base,
    moe_balance_figures_t *figures)
{
    const mpi_t  *x = (const mpi_t *) base;

    if (x->balance != NULL) {
        moe_mpi_balance_figures(x->balance, figures);

    } else {
        memset(figures, 0, sizeof(*figures));
    }
}


void
moe_exchange_mpi_leave(moe_exchange_t *base)
{
    ((mpi_t *) base)->leaves = 1;
}


int
moe_exchange_mpi_over(const moe_exchange_t *base)
{
    return ((const mpi_t *) base)->over;
}


/* nothing goes on from here */
static int
give_up(mpi_t *x)
{
    x->broken = 1;

    return MOE_EXCHANGE_ERROR;
}


static int
link_error(mpi_t *x, moe_err_t *err)
{
    moe_err(err, "exchange: %s", x->link->why());

    return give_up(x);
}


/* what was wrong before is wrong now */
static int
is_broken(const mpi_t *x, uint64_t *late, moe_err_t *err)
{
    *late = x->lost;

    if (x->lost != 0) {
        moe_parcels_late(x->lost, "answer", err);
        return MOE_EXCHANGE_LATE;
    }

    return x->broken ? moe_err(err, "exchange: it has failed before")
                     : MOE_EXCHANGE_OK;
}


/* until all messages of this kind have come, or gone */
static int
await(mpi_t *x, moe_link_way_e way, moe_link_kind_e kind, const char *what,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    uint64_t  began, ranks;

    began = 0;

    for ( ;; ) {
        if (x->link->pending(way, kind, &ranks) != 0) {
            return link_error(x, err);
        }

        if (ranks == 0) {
            return MOE_EXCHANGE_OK;
        }

        if (deadline != UINT64_MAX && moe_exchange_now() >= deadline) {
            x->lost = ranks;
            *late = ranks;
            moe_parcels_late(ranks, what, err);
            return MOE_EXCHANGE_LATE;
        }

        if (began == 0) {
            began = now_us();
        }

        nap(nap_us(now_us() - began));
    }
}


/* ours have gone, and theirs are here */
static int
await_both(mpi_t *x, moe_link_kind_e kind, const char *what,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = await(x, MOE_LINK_IN, kind, what, deadline, late, err);

    if (rc == MOE_EXCHANGE_OK) {
        rc = await(x, MOE_LINK_OUT, kind, what, deadline, late, err);
    }

    return rc;
}


static int
mpi_asked(moe_exchange_t *base)
{
    int        rc;
    mpi_t     *x = (mpi_t *) base;
    uint64_t   ranks;

    guard(moe_exchange_now() + LOOK_MS);
    rc = x->link->pending(MOE_LINK_IN, MOE_LINK_STEP, &ranks);
    unguard();

    /* what is wrong is said in begin */
    return rc != 0 || ranks != x->others;
}


static int
mpi_doze(moe_exchange_t *base, int fd, int timeout)
{
    int              n;
    uint64_t         began, waited, us;
    struct pollfd    pfd;
    struct timespec  ts;

    pfd.fd = fd;
    pfd.events = POLLIN;
    began = now_us();

    for ( ;; ) {
        if (mpi_asked(base)) {
            return 0;
        }

        waited = now_us() - began;

        if (timeout >= 0 && waited >= (uint64_t) timeout * 1000) {
            return -1;
        }

        us = nap_us(waited);
        ts.tv_sec = 0;
        ts.tv_nsec = (long) us * 1000;
        n = ppoll(&pfd, 1, &ts, NULL);

        if (n > 0 || (n == -1 && errno != EINTR)) {
            return 0;
        }

        if (us == 0) {
            sched_yield();
        }
    }
}


/* what the ranks said: rows of each, form and placement */
static int
agree(mpi_t *x, moe_err_t *err)
{
    uint32_t       r, max, next, fixed, mine, over;
    moe_parcels_t *p;
    const step_t  *s;

    p = &x->parcels;
    max = 0;
    over = 1;
    fixed = x->fixed_rows;
    mine = x->next ? x->next->version : 0;
    next = mine;

    for (r = 0; r < x->mpi->nranks; r++) {
        s = &x->peers[r].said;

        if ((r != x->mpi->rank
             && x->link->got(MOE_LINK_STEP, r) != sizeof(step_t))
            || s->number != x->steps || s->rows > p->shape.max_rows
            || s->placed != x->placement->version)
        {
            moe_err(err, "exchange: rank %u has %u rows, at most %u, "
                    "placement %u where it is %u, and is in step %u of %u",
                    r, s->rows, p->shape.max_rows, s->placed,
                    x->placement->version, s->number, x->steps);
            return give_up(x);
        }

        p->rows[r] = s->rows;
        max = s->rows > max ? s->rows : max;
        fixed = s->fixed_rows < fixed ? s->fixed_rows : fixed;
        next = s->next == mine ? next : 0;
        over &= s->leaves && s->rows == 0;
    }

    if (next != 0) {
        moe_ep_placement_free(x->placement);
        x->placement = x->next;
        x->next = NULL;
    }

    p->placement = x->placement;
    p->capacity = moe_parcels_capacity(p, max, fixed);
    x->base.most_rows = max;
    x->over = over != 0;

    return 0;
}


/* what was pending before was an older one, which not all may have had */
static int
look_for_placement(mpi_t *x, moe_err_t *err)
{
    moe_ep_placement_t  *p;

    if (x->balance == NULL) {
        return 0;
    }

    if (moe_mpi_balance_turn(x->balance, x->leaves, &p, err) != 0) {
        return -1;
    }

    if (p != NULL) {
        moe_ep_placement_free(x->next);
        x->next = p;
    }

    return 0;
}


static int
say(mpi_t *x, uint32_t nrows, moe_err_t *err)
{
    step_t    s;
    uint32_t  r;

    s.number = ++x->steps;
    s.rows = nrows;
    s.fixed_rows = x->fixed_rows;
    s.placed = x->placement->version;
    s.next = x->next ? x->next->version : 0;
    s.leaves = x->leaves;

    for (r = 0; r < x->mpi->nranks; r++) {

        if (r == x->mpi->rank) {
            x->peers[r].said = s;
            continue;
        }

        x->peers[r].say = s;

        if (x->link->send(MOE_LINK_STEP, r, &x->peers[r].say, sizeof(s)) != 0)
        {
            return link_error(x, err);
        }
    }

    return 0;
}


static int
begin(mpi_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = is_broken(x, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    if (nrows > x->parcels.shape.max_rows) {
        return moe_err(err, "exchange: %u rows in a step, at most %u", nrows,
                       x->parcels.shape.max_rows);
    }

    if (look_for_placement(x, err) != 0) {
        return give_up(x);
    }

    if (say(x, nrows, err) != 0) {
        return MOE_EXCHANGE_ERROR;
    }

    rc = await_both(x, MOE_LINK_STEP, "step", deadline, late, err);

    if (rc == MOE_EXCHANGE_OK) {
        rc = agree(x, err);
    }

    if (rc == MOE_EXCHANGE_OK && post(x, MOE_LINK_STEP, err) != 0) {
        rc = give_up(x);
    }

    return rc;
}


/* the list goes behind the rows */
static int
send_rows(mpi_t *x, moe_err_t *err)
{
    size_t          rows, list;
    head_t         *h;
    peer_t         *to;
    uint32_t        r, n_local;
    moe_parcels_t  *p;

    p = &x->parcels;
    n_local = x->placement->n_local;

    for (r = 0; r < x->mpi->nranks; r++) {
        to = &x->peers[r];
        h = (head_t *) (void *) to->rows_out;
        h->number = x->number;
        h->layer = p->layer;
        h->capacity = p->capacity;
        h->nrows = p->capacity ? p->capacity * n_local : p->to[r].nrows;
        h->n = p->to[r].n;

        rows = sizeof(head_t) + h->nrows * p->size.row_bytes;
        list = p->capacity ? n_local * sizeof(uint32_t)
                           : h->n * sizeof(moe_parcel_entry_t);
        memcpy(to->rows_out + rows, to->list, list);

        if (r != x->mpi->rank
            && x->link->send(MOE_LINK_ROWS, r, to->rows_out, rows + list)
               != 0)
        {
            return link_error(x, err);
        }
    }

    return 0;
}


/* results are expected before the rows are out that ask for them */
static int
post_results(mpi_t *x, moe_err_t *err)
{
    size_t    bytes;
    uint32_t  r;

    for (r = 0; r < x->mpi->nranks; r++) {
        bytes = moe_parcels_due(&x->parcels, r) * x->parcels.size.row_bytes;

        if (r != x->mpi->rank && bytes != 0
            && x->link->recv(MOE_LINK_RESULTS, r, x->peers[r].results_in,
                             bytes)
               != 0)
        {
            return link_error(x, err);
        }
    }

    return 0;
}


/* a message that is as long as its head says */
static int
check_head(const mpi_t *x, uint32_t r, const head_t *h, moe_err_t *err)
{
    size_t                list, got;
    const moe_parcels_t  *p;

    p = &x->parcels;
    got = r == x->mpi->rank ? 0 : x->link->got(MOE_LINK_ROWS, r);

    if (r != x->mpi->rank && got < sizeof(head_t)) {
        return moe_err(err, "exchange: rank %u sends %zu bytes", r, got);
    }

    list = p->capacity ? x->placement->n_local * sizeof(uint32_t)
                       : h->n * sizeof(moe_parcel_entry_t);

    if (h->number != x->number || h->capacity != p->capacity
        || (p->capacity && h->nrows != p->capacity * x->placement->n_local)
        || (r != x->mpi->rank
            && got != sizeof(head_t) + h->nrows * p->size.row_bytes + list))
    {
        return moe_err(err, "exchange: rank %u sends %zu bytes of %u rows "
                       "and %u entries, exchange %u of %u, capacity %u of %u",
                       r, got, h->nrows, h->n, h->number, x->number,
                       h->capacity, p->capacity);
    }

    return 0;
}


static int
read_rows(mpi_t *x, moe_expert_work_t *work, moe_err_t *err)
{
    uint32_t        r;
    const head_t   *h;
    const uint8_t  *in;
    moe_parcels_t  *p;

    p = &x->parcels;
    moe_parcels_begin(p);

    for (r = 0; r < x->mpi->nranks; r++) {
        in = x->peers[r].rows_in;
        h = (const head_t *) (const void *) in;

        if (check_head(x, r, h, err) != 0
            || moe_parcels_read(p, r, h->layer, h->nrows, h->n,
                                in + sizeof(head_t)
                                + h->nrows * p->size.row_bytes, err)
               != 0)
        {
            return -1;
        }
    }

    if (moe_parcels_sort(p, work, err) != 0) {
        return -1;
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        moe_parcels_fetch(p, r, x->peers[r].rows_in + sizeof(head_t));
    }

    return 0;
}


static int
dispatch(mpi_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int             rc;
    uint32_t        r;
    moe_parcels_t  *p;

    p = &x->parcels;
    rc = is_broken(x, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    if (nrows > p->rows[x->mpi->rank] || layer >= p->shape.n_layers) {
        moe_err(err, "exchange: %u rows where the step has %u, layer %u",
                nrows, p->rows[x->mpi->rank], layer);
        return give_up(x);
    }

    p->layer = layer;
    p->nrows = nrows;
    x->number++;

    moe_parcels_open(p);

    for (r = 0; r < x->mpi->nranks; r++) {
        p->to[r].rows = x->peers[r].rows_out + sizeof(head_t);
        p->to[r].list = x->peers[r].list;
    }

    if (moe_parcels_pack(p, rows, experts, err) != 0) {
        return give_up(x);
    }

    if (post_results(x, err) != 0 || send_rows(x, err) != 0) {
        return MOE_EXCHANGE_ERROR;
    }

    /* while the others' rows are on their way */
    if (x->balance != NULL) {
        moe_mpi_balance_count(x->balance, layer, experts,
                              nrows * p->shape.top_k);
    }

    rc = await_both(x, MOE_LINK_ROWS, "rows", deadline, late, err);

    if (rc == MOE_EXCHANGE_OK
        && (read_rows(x, work, err) != 0 || post(x, MOE_LINK_ROWS, err) != 0))
    {
        rc = give_up(x);
    }

    return rc;
}


static int
combine(mpi_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int             rc;
    size_t          bytes;
    uint32_t        r;
    moe_parcels_t  *p;
    const uint8_t  *results[MOE_LINK_RANKS];

    p = &x->parcels;
    rc = is_broken(x, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        results[r] = x->peers[r].results_in;
        bytes = moe_parcels_owed(p, r) * p->size.row_bytes;

        moe_parcels_return(p, r, x->peers[r].results_out);

        if (r != x->mpi->rank && bytes != 0
            && x->link->send(MOE_LINK_RESULTS, r, x->peers[r].results_out,
                             bytes)
               != 0)
        {
            return link_error(x, err);
        }
    }

    rc = await_both(x, MOE_LINK_RESULTS, "results", deadline, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    for (r = 0; r < x->mpi->nranks; r++) {
        bytes = moe_parcels_due(p, r) * p->size.row_bytes;

        if (r != x->mpi->rank && bytes != 0
            && x->link->got(MOE_LINK_RESULTS, r) != bytes)
        {
            moe_err(err, "exchange: rank %u returns %zu bytes, not %zu", r,
                    x->link->got(MOE_LINK_RESULTS, r), bytes);
            return give_up(x);
        }
    }

    moe_parcels_result(p, results, result);

    return MOE_EXCHANGE_OK;
}


/* the three that may not take longer than they are given */


static int
mpi_begin(moe_exchange_t *base, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = begin((mpi_t *) base, nrows, deadline, late, err);
    unguard();

    return rc;
}


static int
mpi_dispatch(moe_exchange_t *base, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = dispatch((mpi_t *) base, layer, nrows, rows, experts, deadline, work,
                  late, err);
    unguard();

    return rc;
}


static int
mpi_combine(moe_exchange_t *base, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = combine((mpi_t *) base, layer, deadline, result, late, err);
    unguard();

    return rc;
}
