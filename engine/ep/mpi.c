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

#include "base/nap.h"
#include "ep/mpi_parts.h"
#include "ep/nccl_join.h"


/* An MPI library that has lost a peer may not come back from a call; so long
 * after its deadline the process ends there. */
#define GRACE_S     4

/* the version of a plain placement that nobody has asked for */
#define FIRST       0x80000001

/* what may be on its way yet when an exchange is closed */
#define DRAIN_US    1000000

/* what a look whether somebody asks may take */
#define LOOK_MS     10000


typedef moe_mpi_exchange_t  mpi_t;
typedef moe_mpi_step_t      step_t;
typedef moe_mpi_box_t       box_t;


static int mpi_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err);
static int mpi_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err);
static int mpi_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err);
static int mpi_dispatch_send(moe_exchange_t *x, uint32_t half,
    uint32_t layer, uint32_t nrows, const float *rows,
    const uint32_t *experts, uint64_t deadline, uint64_t *late,
    moe_err_t *err);
static int mpi_dispatch_wait(moe_exchange_t *x, uint32_t half,
    uint64_t deadline, moe_expert_work_t *work, uint64_t *late,
    moe_err_t *err);
static int mpi_combine_send(moe_exchange_t *x, uint32_t half,
    uint64_t deadline, uint64_t *late, moe_err_t *err);
static int mpi_combine_wait(moe_exchange_t *x, uint32_t half,
    uint64_t deadline, moe_expert_result_t *result, uint64_t *late,
    moe_err_t *err);
static void mpi_move(moe_exchange_t *x);
static void mpi_close(moe_exchange_t *x);
static uint32_t mpi_places(const moe_exchange_t *x);
static int mpi_holds(const moe_exchange_t *x, uint32_t layer,
    uint32_t expert);
static int mpi_moves(const moe_exchange_t *x);
static void mpi_remember(moe_exchange_t *x,
    const moe_expert_memory_t *memory);
static int mpi_asked(moe_exchange_t *x);
static int mpi_doze(moe_exchange_t *x, int fd, int timeout);


static const moe_exchange_ops_t  mpi_ops = {
    .begin = mpi_begin,
    .dispatch = mpi_dispatch,
    .combine = mpi_combine,
    .dispatch_send = mpi_dispatch_send,
    .dispatch_wait = mpi_dispatch_wait,
    .combine_send = mpi_combine_send,
    .combine_wait = mpi_combine_wait,
    .move = mpi_move,
    .close = mpi_close,
    .asked = mpi_asked,
    .doze = mpi_doze
};

/* the same of rows on devices, which have some of the experts */
static const moe_exchange_ops_t  carried_ops = {
    .begin = mpi_begin,
    .dispatch = mpi_dispatch,
    .combine = mpi_combine,
    .dispatch_send = mpi_dispatch_send,
    .dispatch_wait = mpi_dispatch_wait,
    .combine_send = mpi_combine_send,
    .combine_wait = mpi_combine_wait,
    .move = mpi_move,
    .close = mpi_close,
    .places = mpi_places,
    .holds = mpi_holds,
    .moves = mpi_moves,
    .remember = mpi_remember,
    .asked = mpi_asked,
    .doze = mpi_doze
};


static void
stuck(int signo)
{
    static const char  line[] = "exchange: a call of what carries messages "
                                "does not return\n";

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


int
moe_mpi_open(moe_mpi_t *mpi, const char *path, moe_err_t *err)
{
    const moe_link_t  *link;

    memset(mpi, 0, sizeof(*mpi));
    link = moe_link_load(path, err);

    return link ? moe_mpi_open_link(mpi, link, err) : -1;
}


int
moe_mpi_open_link(moe_mpi_t *mpi, const moe_link_t *link, moe_err_t *err)
{
    memset(mpi, 0, sizeof(*mpi));

    /* naps that are as short as was meant */
    (void) prctl(PR_SET_TIMERSLACK, 1000);

    mpi->link = link;

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
    began = moe_now_us();

    while (rc == 0 && (rc = mpi->link->gathered()) == 0) {
        moe_nap(moe_nap_us(moe_now_us() - began));
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


static void
lay_out_box(mpi_t *x, box_t *b, int own, size_t *at)
{
    b->rows_out = carve(x, at, x->rows_bytes);
    b->results_out = carve(x, at, x->results_bytes);
    b->list = carve(x, at, x->halves[0].parcels.size.list_bytes);

    /* what a rank has for itself stays where it was written */
    b->rows_in = own ? b->rows_out : carve(x, at, x->rows_bytes);
    b->results_in = own ? b->results_out : carve(x, at, x->results_bytes);
}


static size_t
lay_out(mpi_t *x)
{
    size_t                    at;
    uint32_t                  h, r;
    const moe_parcel_size_t  *size;

    at = 0;
    size = &x->halves[0].parcels.size;

    x->rows_bytes = sizeof(moe_mpi_head_t) + size->rows_cap * size->row_bytes
                    + size->list_bytes;
    x->results_bytes = size->results_cap * size->row_bytes;

    for (h = 0; h < MOE_MPI_HALVES; h++) {
        for (r = 0; r < x->mpi->nranks; r++) {
            lay_out_box(x, &x->halves[h].boxes[r], r == x->mpi->rank, &at);
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


/* what every other rank has to say of the next step */
static int
post_steps(mpi_t *x, moe_err_t *err)
{
    uint32_t  r;

    for (r = 0; r < x->mpi->nranks; r++) {
        if (r != x->mpi->rank
            && x->link->recv(MOE_LINK_STEP, r, &x->peers[r].said,
                             sizeof(step_t))
               != 0)
        {
            return moe_err(err, "exchange: rank %u: %s", r, x->link->why());
        }
    }

    return 0;
}


/* rows that are not in this process's memory */
static int
join_nccl(mpi_t *x, const moe_exchange_shape_t *shape,
    const moe_mpi_options_t *o, moe_err_t *err)
{
    x->base.ops = &carried_ops;
    x->carrier = moe_nccl_join(x->mpi, o->memory, shape, x->fixed_rows, err);

    return x->carrier ? 0 : -1;
}


/* who has rows where, and who can carry them */
static int
check_memory(const moe_mpi_t *mpi, const moe_mpi_options_t *o,
    moe_err_t *err)
{
    if (mpi->nccl != NULL && o->memory == NULL) {
        return moe_err(err, "exchange: NCCL carries rows between GPUs, and "
                       "these kernels have them in the process's memory");
    }

    if (mpi->nccl == NULL && o->memory != NULL) {
        return moe_err(err, "exchange: %s does not carry rows between GPUs",
                       mpi->library);
    }

    return 0;
}


static int
set_up(mpi_t *x, const moe_exchange_shape_t *shape,
    const moe_mpi_options_t *o, moe_err_t *err)
{
    uint32_t  h;

    if (check_memory(x->mpi, o, err) != 0) {
        return -1;
    }

    for (h = 0; h < MOE_MPI_HALVES; h++) {
        if (moe_parcels_init(&x->halves[h].parcels, shape, x->mpi->nranks,
                             x->mpi->rank, o->replica, err)
            != 0)
        {
            return -1;
        }
    }

    if ((o->placement != NULL
         && moe_parcels_check(&x->halves[0].parcels, o->placement, err) != 0)
        || (o->memory != NULL && moe_mpi_places(x, o, err) != 0))
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

    x->row_bytes = o->memory ? 0 : x->halves[0].parcels.size.row_bytes;

    /* nobody sends anything before all have come so far */
    if (compare_shapes(x, shape, err) != 0
        || (o->memory && join_nccl(x, shape, o, err) != 0)
        || post_steps(x, err) != 0 || moe_mpi_post_rows(x, 0, err) != 0
        || moe_mpi_post_rows(x, 1, err) != 0)
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
    x->shape = *shape;
    x->overlap.mode = mpi->rank == 0 ? o->overlap : MOE_OVERLAP_OFF;
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

    began = moe_now_us();

    for (kind = 0; kind < MOE_LINK_KINDS && !x->broken && !x->lost; ) {
        if (x->link->pending(MOE_LINK_OUT, kind, &ranks) != 0
            || moe_now_us() - began > DRAIN_US)
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

    if (x->carrier != NULL) {
        if (x->broken || x->lost) {
            x->carrier->ops->abort(x->carrier);
        }

        x->carrier->ops->close(x->carrier);
    }

    if (x->mem != NULL) {
        munmap(x->mem, x->bytes);
    }

    moe_mpi_balance_free(x->balance);
    moe_parcels_free(&x->halves[0].parcels);
    moe_parcels_free(&x->halves[1].parcels);
    moe_ep_placement_free(x->placement);
    moe_ep_placement_free(x->next);
    moe_ep_placement_free(x->goal);
    free(x);
}


static uint32_t
mpi_places(const moe_exchange_t *base)
{
    return ((const mpi_t *) base)->places;
}


static int
mpi_moves(const moe_exchange_t *base)
{
    return ((const mpi_t *) base)->moves;
}


static void
mpi_remember(moe_exchange_t *base, const moe_expert_memory_t *memory)
{
    ((mpi_t *) base)->experts = memory;
}


static int
mpi_holds(const moe_exchange_t *base, uint32_t layer, uint32_t expert)
{
    const mpi_t  *x = (const mpi_t *) base;

    return moe_ep_placement_holds(x->placement, layer, expert, x->mpi->rank);
}


const moe_balance_map_t *
moe_exchange_mpi_map(const moe_exchange_t *base)
{
    const mpi_t  *x = (const mpi_t *) base;

    return x->balance ? moe_mpi_balance_map(x->balance) : NULL;
}


void
moe_exchange_mpi_overlap(const moe_exchange_t *base,
    moe_overlap_figures_t *figures)
{
    *figures = moe_overlap_figures(&((const mpi_t *) base)->overlap);
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


int
moe_mpi_give_up(mpi_t *x)
{
    x->broken = 1;

    return MOE_EXCHANGE_ERROR;
}


int
moe_mpi_link_error(mpi_t *x, moe_err_t *err)
{
    moe_err(err, "exchange: %s", x->link->why());

    return moe_mpi_give_up(x);
}


int
moe_mpi_broken(const mpi_t *x, uint64_t *late, moe_err_t *err)
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
            return moe_mpi_link_error(x, err);
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
            began = moe_now_us();
        }

        moe_nap(moe_nap_us(moe_now_us() - began));
    }
}


int
moe_mpi_await(mpi_t *x, moe_link_kind_e kind, const char *what,
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
    began = moe_now_us();

    for ( ;; ) {
        if (mpi_asked(base)) {
            return 0;
        }

        waited = moe_now_us() - began;

        if (timeout >= 0 && waited >= (uint64_t) timeout * 1000) {
            return -1;
        }

        us = moe_nap_us(waited);
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


/* of a rank that has so many in the step */
static uint32_t
rows_of(const mpi_t *x, uint32_t half, uint32_t rows)
{
    return x->base.halves ? (rows + !half) / 2 : half == 0 ? rows : 0;
}


/* rows of every rank, and of the largest one, in a step or in its halves */
static void
share(mpi_t *x, uint32_t max, uint32_t fixed)
{
    uint32_t        h, r;
    moe_parcels_t  *p;

    for (h = 0; h < MOE_MPI_HALVES; h++) {
        p = &x->halves[h].parcels;

        for (r = 0; r < x->mpi->nranks; r++) {
            p->rows[r] = rows_of(x, h, x->peers[r].said.rows);
        }

        p->placement = x->placement;
        p->capacity = moe_parcels_capacity(p, rows_of(x, h, max), fixed);
    }
}


/* what the ranks said: rows of each, form and placement */
static int
agree(mpi_t *x, moe_err_t *err)
{
    uint32_t       r, max, next, fixed, mine, over;
    const step_t  *s;

    max = 0;
    over = 1;
    fixed = x->fixed_rows;
    mine = moe_mpi_next(x);
    next = mine;

    for (r = 0; r < x->mpi->nranks; r++) {
        s = &x->peers[r].said;

        if ((r != x->mpi->rank
             && x->link->got(MOE_LINK_STEP, r) != sizeof(step_t))
            || s->number != x->steps || s->rows > x->shape.max_rows
            || s->placed != x->placement->version || s->moved != x->moved)
        {
            moe_err(err, "exchange: rank %u has %u rows, at most %u, "
                    "placement %u where it is %u, %u layers of the next where "
                    "there are %u, and is in step %u of %u",
                    r, s->rows, x->shape.max_rows, s->placed,
                    x->placement->version, s->moved, x->moved, s->number,
                    x->steps);
            return moe_mpi_give_up(x);
        }

        max = s->rows > max ? s->rows : max;
        fixed = s->fixed_rows < fixed ? s->fixed_rows : fixed;
        next = s->next == mine ? next : 0;
        over &= s->leaves && s->rows == 0;
    }

    if (next != 0) {
        moe_mpi_take_next(x);
    }

    x->base.most_rows = max;
    x->base.halves = moe_overlap_halves(x->peers[0].said.halves, max) != 0;
    share(x, max, fixed);

    if (x->carrier != NULL) {
        x->carrier->ops->begin(x->carrier, x->base.halves);
    }

    x->over = over != 0;

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
    s.next = moe_mpi_next(x);
    s.moved = x->moved;
    s.leaves = x->leaves;
    s.halves = moe_overlap_wish(&x->overlap);

    for (r = 0; r < x->mpi->nranks; r++) {

        if (r == x->mpi->rank) {
            x->peers[r].said = s;
            continue;
        }

        x->peers[r].say = s;

        if (x->link->send(MOE_LINK_STEP, r, &x->peers[r].say, sizeof(s)) != 0)
        {
            return moe_mpi_link_error(x, err);
        }
    }

    return 0;
}


/* how long the last step took; a device by its own clock, since the process
 * has not waited for it */
static void
look_back(mpi_t *x)
{
    uint64_t  us;

    if (x->ended_us == 0) {
        return;
    }

    x->overlap.figures.halved += x->base.halves
                                 && x->peers[x->mpi->rank].said.rows != 0;
    us = x->carrier ? x->carrier->ops->took(x->carrier)
                    : x->ended_us - x->began_us;

    if (us != 0) {
        moe_overlap_seen(&x->overlap, x->base.most_rows, x->base.halves, us);
    }

    x->ended_us = 0;
}


static int
begin(mpi_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = moe_mpi_broken(x, late, err);

    if (rc != MOE_EXCHANGE_OK) {
        return rc;
    }

    if (nrows > x->shape.max_rows) {
        return moe_err(err, "exchange: %u rows in a step, at most %u", nrows,
                       x->shape.max_rows);
    }

    if (moe_mpi_look_for_placement(x, err) != 0) {
        return moe_mpi_give_up(x);
    }

    look_back(x);

    if (say(x, nrows, err) != 0) {
        return MOE_EXCHANGE_ERROR;
    }

    rc = moe_mpi_await(x, MOE_LINK_STEP, "step", deadline, late, err);

    if (rc == MOE_EXCHANGE_OK) {
        rc = agree(x, err);
    }

    if (rc == MOE_EXCHANGE_OK && post_steps(x, err) != 0) {
        rc = moe_mpi_give_up(x);
    }

    x->began_us = moe_now_us();

    return rc;
}


/* those that may not take longer than they are given */


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
mpi_dispatch_send(moe_exchange_t *base, uint32_t half, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = moe_mpi_dispatch_send((mpi_t *) base, half, layer, nrows, rows,
                               experts, deadline, late, err);
    unguard();

    return rc;
}


static int
mpi_dispatch_wait(moe_exchange_t *base, uint32_t half, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = moe_mpi_dispatch_wait((mpi_t *) base, half, deadline, work, late,
                               err);
    unguard();

    return rc;
}


static int
mpi_combine_send(moe_exchange_t *base, uint32_t half, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = moe_mpi_combine_send((mpi_t *) base, half, deadline, late, err);
    unguard();

    return rc;
}


static int
mpi_combine_wait(moe_exchange_t *base, uint32_t half, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int  rc;

    guard(deadline);
    rc = moe_mpi_combine_wait((mpi_t *) base, half, deadline, result, late,
                              err);
    unguard();
    ((mpi_t *) base)->ended_us = moe_now_us();

    return rc;
}


static int
mpi_dispatch(moe_exchange_t *base, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = mpi_dispatch_send(base, 0, layer, nrows, rows, experts, deadline,
                           late, err);

    return rc == MOE_EXCHANGE_OK
           ? mpi_dispatch_wait(base, 0, deadline, work, late, err) : rc;
}


static int
mpi_combine(moe_exchange_t *base, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int  rc;

    rc = mpi_combine_send(base, 0, deadline, late, err);

    return rc == MOE_EXCHANGE_OK
           ? mpi_combine_wait(base, 0, deadline, result, late, err) : rc;
}


/* any look at messages moves all of them on */
static void
mpi_move(moe_exchange_t *base)
{
    mpi_t     *x = (mpi_t *) base;
    uint64_t   ranks;

    guard(moe_exchange_now() + LOOK_MS);
    x->broken |= x->link->pending(MOE_LINK_IN, MOE_LINK_STEP, &ranks) != 0;
    unguard();
}
