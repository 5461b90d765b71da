/*
 * shm: the segment, and waiting.
 */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ep/shm_parts.h"


enum {
    SPINS = 2000,           /* some tens of microseconds */
    DOZE_MS = 200           /* then everything is looked at again */
};


static int map(moe_shm_t *shm, moe_err_t *err);
static void lay_out(moe_shm_t *shm);


static void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}


moe_shm_t *
moe_shm_create(const moe_exchange_shape_t *shape, uint32_t nranks,
    moe_err_t *err)
{
    uint32_t    r;
    moe_shm_t  *shm;

    if (nranks == 0 || nranks > MOE_SHM_RANKS || shape->max_rows == 0
        || shape->hidden == 0 || shape->n_experts == 0 || shape->top_k == 0
        || shape->top_k > shape->n_experts)
    {
        moe_err(err, "shm: %u ranks, at most %d, for %u of %u experts",
                nranks, MOE_SHM_RANKS, shape->top_k, shape->n_experts);
        return NULL;
    }

    shm = calloc(1, sizeof(moe_shm_t));
    if (shm == NULL) {
        moe_err(err, "shm: out of memory");
        return NULL;
    }

    shm->shape = *shape;
    shm->nranks = nranks;

    for (r = 0; r < MOE_SHM_RANKS; r++) {
        shm->fds[r] = -1;
    }

    for (r = 0; r < nranks; r++) {
        shm->fds[r] = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

        if (shm->fds[r] == -1) {
            moe_err(err, "shm: %s", strerror(errno));
            moe_shm_free(shm);
            return NULL;
        }
    }

    lay_out(shm);

    if (map(shm, err) != 0) {
        moe_shm_free(shm);
        return NULL;
    }

    moe_shm_publish(shm, (1u << nranks) - 1);

    return shm;
}


static size_t
lines(size_t bytes)
{
    return (bytes + MOE_SHM_LINE - 1) / MOE_SHM_LINE * MOE_SHM_LINE;
}


static void
lay_out(moe_shm_t *shm)
{
    size_t                       page;
    uint32_t                     n;
    const moe_exchange_shape_t  *s;

    s = &shm->shape;
    n = shm->nranks;
    page = 4096;

    /* one rank may be all that is left */
    shm->n_local_cap = s->n_experts;

    moe_parcel_size(&shm->size, s, n);

    shm->bells = sizeof(moe_shm_head_t);
    shm->steps = shm->bells + n * sizeof(moe_shm_bell_t);
    shm->slots = shm->steps + n * MOE_SHM_TURNS * sizeof(moe_shm_step_t);
    shm->board = shm->slots
                 + 2 * n * n * MOE_SHM_TURNS * sizeof(moe_shm_slot_t);
    shm->loads = shm->board
                 + lines(sizeof(moe_shm_board_t)
                         + (size_t) s->n_layers * n * shm->n_local_cap
                           * sizeof(uint32_t));
    shm->payload = shm->loads
                   + n * lines((size_t) s->n_layers * s->n_experts
                               * sizeof(uint64_t));
    shm->payload = (shm->payload + page - 1) / page * page;

    shm->pair_bytes = shm->size.list_bytes
                      + ((size_t) shm->size.rows_cap + shm->size.results_cap)
                        * shm->size.row_bytes;
    shm->pair_bytes = (shm->pair_bytes + page - 1) / page * page;

    shm->bytes = shm->payload + n * n * MOE_SHM_TURNS * shm->pair_bytes;
}


static int
map(moe_shm_t *shm, moe_err_t *err)
{
    int    fd;
    void  *p;

    fd = memfd_create("moe-exchange", MFD_CLOEXEC|MFD_ALLOW_SEALING);

    if (fd == -1 || ftruncate(fd, (off_t) shm->bytes) != 0
        || fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK|F_SEAL_GROW|F_SEAL_SEAL) != 0)
    {
        moe_err(err, "shm: %zu bytes: %s", shm->bytes, strerror(errno));

        if (fd != -1) {
            close(fd);
        }
        return -1;
    }

    p = mmap(NULL, shm->bytes, PROT_READ|PROT_WRITE,
             MAP_SHARED|MAP_NORESERVE, fd, 0);
    close(fd);

    if (p == MAP_FAILED) {
        return moe_err(err, "shm: cannot map %zu bytes: %s", shm->bytes,
                       strerror(errno));
    }

    shm->base = p;

    return 0;
}


void
moe_shm_free(moe_shm_t *shm)
{
    uint32_t  r;

    if (shm == NULL) {
        return;
    }

    if (shm->base != NULL) {
        munmap(shm->base, shm->bytes);
    }

    for (r = 0; r < MOE_SHM_RANKS; r++) {
        if (shm->fds[r] != -1) {
            close(shm->fds[r]);
        }
    }

    free(shm);
}


uint32_t
moe_shm_fds(const moe_shm_t *shm, int fds[MOE_SHM_RANKS])
{
    memcpy(fds, shm->fds, shm->nranks * sizeof(int));

    return shm->nranks;
}


moe_shm_head_t *
moe_shm_head(const moe_shm_t *shm)
{
    return (moe_shm_head_t *) shm->base;
}


moe_shm_bell_t *
moe_shm_bell(const moe_shm_t *shm, uint32_t rank)
{
    return (moe_shm_bell_t *) (shm->base + shm->bells) + rank;
}


moe_shm_step_t *
moe_shm_step(const moe_shm_t *shm, uint32_t rank, uint32_t turn)
{
    return (moe_shm_step_t *) (shm->base + shm->steps)
           + rank * MOE_SHM_TURNS + turn;
}


static size_t
pair(const moe_shm_t *shm, uint32_t from, uint32_t to, uint32_t turn)
{
    return ((size_t) from * shm->nranks + to) * MOE_SHM_TURNS + turn;
}


moe_shm_slot_t *
moe_shm_slot(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t from,
    uint32_t to, uint32_t turn)
{
    return (moe_shm_slot_t *) (shm->base + shm->slots)
           + pair(shm, from, to, turn) * 2 + (stage == MOE_SHM_RESULTS);
}


uint8_t *
moe_shm_payload(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t from,
    uint32_t to, uint32_t turn)
{
    uint8_t  *p;

    p = shm->base + shm->payload + pair(shm, from, to, turn)
                                   * shm->pair_bytes;

    return stage == MOE_SHM_ROWS
           ? p : p + shm->size.list_bytes
                 + shm->size.rows_cap * shm->size.row_bytes;
}


static void
futex_wake(_Atomic uint32_t *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}


static void
futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t ms)
{
    struct timespec  ts;

    ts.tv_sec = (time_t) (ms / 1000);
    ts.tv_nsec = (long) (ms % 1000) * 1000000;

    syscall(SYS_futex, word, FUTEX_WAIT, value, &ts, NULL, 0);
}


void
moe_shm_ring(const moe_shm_t *shm, uint32_t rank)
{
    moe_shm_bell_t  *b;

    b = moe_shm_bell(shm, rank);

    atomic_fetch_add(&b->bell, 1);

    if (atomic_load(&b->dozes)) {
        futex_wake(&b->bell);
    }
}


static void
ring_all(const moe_shm_t *shm)
{
    uint32_t  r;

    for (r = 0; r < shm->nranks; r++) {
        moe_shm_ring(shm, r);
        eventfd_write(shm->fds[r], 1);
    }
}


void
moe_shm_publish(moe_shm_t *shm, uint32_t members)
{
    uint64_t         epoch;
    moe_shm_head_t  *h;

    h = moe_shm_head(shm);
    epoch = moe_shm_epoch(atomic_load(&h->state)) + 1;

    members &= (1u << shm->nranks) - 1;
    atomic_store(&h->state, epoch << 32 | (uint64_t) members << 16);
    ring_all(shm);
}


/* of this epoch, or nothing is done */
static void
lose(const moe_shm_t *shm, uint32_t epoch, uint32_t ranks)
{
    uint64_t         state;
    moe_shm_head_t  *h;

    h = moe_shm_head(shm);
    state = atomic_load(&h->state);

    do {
        if (moe_shm_epoch(state) != epoch) {
            return;
        }
    } while (!atomic_compare_exchange_weak(&h->state, &state,
                                           state | (ranks & 0xffff)));

    ring_all(shm);
}


void
moe_shm_lost(moe_shm_t *shm, uint32_t rank)
{
    lose(shm, moe_shm_epoch(atomic_load(&moe_shm_head(shm)->state)),
         1u << rank);
}


uint32_t
moe_shm_missing(const moe_shm_t *shm)
{
    return moe_shm_gone(atomic_load(&moe_shm_head(shm)->state));
}


static uint64_t
tag_of(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t from,
    uint32_t to, uint64_t tag)
{
    uint32_t  turn;

    turn = tag % MOE_SHM_TURNS;

    if (stage == MOE_SHM_BEGIN) {
        return atomic_load(&moe_shm_step(shm, from, turn)->tag);
    }

    return atomic_load(&moe_shm_slot(shm, stage, from, to, turn)->tag);
}


/* those of ranks that have not stored it */
static uint32_t
pending(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t rank,
    uint32_t ranks, uint64_t tag)
{
    uint32_t  r, left;

    left = ranks;

    for (r = 0; r < shm->nranks; r++) {
        if (ranks >> r & 1 && tag_of(shm, stage, r, rank, tag) == tag) {
            left &= ~(1u << r);
        }
    }

    return left;
}


/* of ranks that do not answer: who keeps the others waiting */
static uint32_t
guilty(const moe_shm_t *shm, uint32_t rank, uint32_t ranks)
{
    uint32_t  r, q, found, waits;

    found = 0;

    for (r = 0; r < shm->nranks; r++) {
        if (!(ranks >> r & 1)) {
            continue;
        }

        waits = atomic_load(&moe_shm_bell(shm, r)->waits);

        if (waits == 0) {
            found |= 1u << r;
            continue;
        }

        for (q = 0; q < shm->nranks; q++) {
            if (q != rank && waits >> q & 1
                && atomic_load(&moe_shm_bell(shm, q)->waits) == 0)
            {
                found |= 1u << q;
            }
        }
    }

    return found ? found : ranks;
}


/* 1: late has who is missing, nothing will come any more */
static int
is_over(const moe_shm_t *shm, uint32_t rank, uint32_t left, uint64_t tag,
    uint64_t deadline, uint64_t *late)
{
    uint64_t  state;

    state = atomic_load(&moe_shm_head(shm)->state);

    if (moe_shm_epoch(state) == moe_shm_epoch(tag) && !moe_shm_gone(state)
        && deadline != UINT64_MAX && moe_exchange_now() >= deadline)
    {
        lose(shm, moe_shm_epoch(tag), guilty(shm, rank, left));
        state = atomic_load(&moe_shm_head(shm)->state);
    }

    if (moe_shm_epoch(state) != moe_shm_epoch(tag)) {
        *late = left;
        return 1;
    }

    *late = moe_shm_gone(state);

    return *late != 0;
}


static uint64_t
doze_ms(uint64_t deadline)
{
    uint64_t  now;

    now = moe_exchange_now();

    if (deadline <= now) {
        return 1;
    }

    return deadline - now < DOZE_MS ? deadline - now : DOZE_MS;
}


static uint32_t
spin(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t rank,
    uint32_t left, uint64_t tag)
{
    uint32_t  i;

    for (i = 0; left != 0 && i < SPINS; i++) {
        left = pending(shm, stage, rank, left, tag);
        relax();
    }

    return left;
}


int
moe_shm_wait(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t rank,
    uint32_t ranks, uint64_t tag, uint64_t deadline, uint64_t *late)
{
    int              rc;
    uint32_t         left, value;
    moe_shm_bell_t  *b;

    *late = 0;
    left = spin(shm, stage, rank, ranks & ~(1u << rank), tag);

    if (left == 0) {
        return MOE_EXCHANGE_OK;
    }

    b = moe_shm_bell(shm, rank);
    rc = MOE_EXCHANGE_OK;

    while (left != 0) {
        value = atomic_load(&b->bell);
        atomic_store(&b->waits, left);
        atomic_store(&b->dozes, 1);

        left = pending(shm, stage, rank, left, tag);

        if (left == 0) {
            break;
        }

        if (is_over(shm, rank, left, tag, deadline, late)) {
            rc = MOE_EXCHANGE_LATE;
            break;
        }

        futex_wait(&b->bell, value, doze_ms(deadline));
    }

    atomic_store(&b->dozes, 0);
    atomic_store(&b->waits, 0);

    return rc;
}
