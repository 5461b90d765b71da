#include <errno.h>
#include <fenv.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/pool.h"


enum {
    SPIN = 500,                 /* pauses: some tens of microseconds */
    STALL_NS = 50 * 1000,
    ALONE_MIN_NS = 2 * 1000 * 1000,
    ALONE_MAX_NS = 128 * 1000 * 1000
};


typedef struct {
    moe_pool_t  *pool;
    pthread_t    tid;
    uint32_t     index;
} helper_t;


/*
 * work holds the run's number in its high half and the tasks not yet taken in
 * its low half.  A task is taken by exchanging the whole word, so a helper
 * that comes late from one run cannot take a task of the next with the old
 * one's function; and fn, ctx and ntasks stay as they are while a taken task
 * is not done.
 */
struct moe_pool_s {
    _Alignas(64) _Atomic uint64_t  work;
    _Alignas(64) _Atomic uint32_t  left;      /* tasks not yet done */
    _Alignas(64) _Atomic uint32_t  run;       /* futex of the helpers */
    _Atomic uint32_t               sleepers;
    _Atomic uint32_t               waiting;   /* the caller sleeps on left */
    _Atomic uint32_t               quit;

    void                         (*between)(void *ctx);
    void                          *between_ctx;

    moe_task_pt                    fn;
    void                          *ctx;
    uint32_t                       ntasks;

    uint64_t                       alone_until;
    uint64_t                       alone_ns;

    uint32_t                       threads;
    helper_t                      *helpers;   /* threads - 1 */
};


static void *helper_main(void *arg);
static int take_task(moe_pool_t *pool, uint32_t *task);
static void do_task(moe_pool_t *pool, uint32_t task, uint32_t thread);
static void wait_done(moe_pool_t *pool);
static void judge(moe_pool_t *pool, uint64_t begun, uint64_t own);


static uint64_t
now(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (uint64_t) t.tv_sec * 1000000000 + (uint64_t) t.tv_nsec;
}


static void
futex_wait(_Atomic uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}


static void
futex_wake(_Atomic uint32_t *word, int n)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, n, NULL, NULL, 0);
}


static inline void
relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}


moe_pool_t *
moe_pool_create(uint32_t threads, moe_err_t *err)
{
    int          rc;
    uint32_t     i;
    moe_pool_t  *pool;

    if (threads == 0) {
        threads = 1;
    }

    pool = aligned_alloc(64, (sizeof(moe_pool_t) + 63) / 64 * 64);
    if (pool == NULL) {
        moe_err(err, "pool: out of memory");
        return NULL;
    }

    memset(pool, 0, sizeof(moe_pool_t));
    pool->threads = 1;
    pool->helpers = calloc(threads, sizeof(helper_t));

    if (pool->helpers == NULL) {
        free(pool);
        moe_err(err, "pool: out of memory");
        return NULL;
    }

    for (i = 0; i + 1 < threads; i++) {
        pool->helpers[i].pool = pool;
        pool->helpers[i].index = i + 1;

        rc = pthread_create(&pool->helpers[i].tid, NULL, helper_main,
                            &pool->helpers[i]);
        if (rc != 0) {
            moe_err(err, "pool: cannot start thread %u: %s", i + 1,
                    strerror(rc));
            moe_pool_destroy(pool);
            return NULL;
        }

        pool->threads++;
    }

    return pool;
}


void
moe_pool_destroy(moe_pool_t *pool)
{
    uint32_t  i;

    if (pool == NULL) {
        return;
    }

    atomic_store(&pool->quit, 1);
    atomic_fetch_add(&pool->run, 1);
    futex_wake(&pool->run, INT32_MAX);

    for (i = 0; i + 1 < pool->threads; i++) {
        pthread_join(pool->helpers[i].tid, NULL);
    }

    free(pool->helpers);
    free(pool);
}


uint32_t
moe_pool_threads(const moe_pool_t *pool)
{
    return pool->threads;
}


void
moe_pool_between(moe_pool_t *pool, void (*fn)(void *ctx), void *ctx)
{
    pool->between = fn;
    pool->between_ctx = ctx;
}


static inline void
between(const moe_pool_t *pool)
{
    if (pool->between != NULL) {
        pool->between(pool->between_ctx);
    }
}


void
moe_pool_run(moe_pool_t *pool, uint32_t ntasks, moe_task_pt fn, void *ctx)
{
    uint32_t  i, run, task, helpers;
    uint64_t  begun;

    begun = pool->threads > 1 && ntasks > 1 ? now() : 0;

    if (begun <= pool->alone_until) {
        for (i = 0; i < ntasks; i++) {
            fn(ctx, i, 0);
            between(pool);
        }
        return;
    }

    pool->fn = fn;
    pool->ctx = ctx;
    pool->ntasks = ntasks;
    atomic_store_explicit(&pool->left, ntasks, memory_order_relaxed);

    run = atomic_load_explicit(&pool->run, memory_order_relaxed) + 1;
    atomic_store_explicit(&pool->work, (uint64_t) run << 32 | ntasks,
                          memory_order_release);

    /* a helper adds itself to sleepers, then waits for run to change */
    atomic_store(&pool->run, run);

    if (atomic_load(&pool->sleepers) != 0) {
        helpers = pool->threads - 1;
        futex_wake(&pool->run, ntasks - 1 < helpers ? ntasks - 1 : helpers);
    }

    while (take_task(pool, &task)) {
        do_task(pool, task, 0);
        between(pool);
    }

    judge(pool, begun, now());
}


/*
 * Waits for the helpers' last tasks.  Where that takes longer than all that
 * the caller did itself, a helper has lost its processor to somebody else in
 * the midst of a task; on a machine so busy the caller is faster alone, and
 * is for a while, longer each time that it happens again.
 */
static void
judge(moe_pool_t *pool, uint64_t begun, uint64_t own)
{
    uint64_t  done;

    wait_done(pool);

    done = now();

    if (done - own < (own - begun) + STALL_NS) {
        if (done > pool->alone_until + 4 * pool->alone_ns) {
            pool->alone_ns = 0;
        }
        return;
    }

    pool->alone_ns = pool->alone_ns * 2;
    pool->alone_ns = pool->alone_ns < ALONE_MIN_NS ? ALONE_MIN_NS
                     : pool->alone_ns > ALONE_MAX_NS ? ALONE_MAX_NS
                     : pool->alone_ns;
    pool->alone_until = done + pool->alone_ns;
}


static void *
helper_main(void *arg)
{
    uint32_t     run, spin, task;
    helper_t    *self = arg;
    moe_pool_t  *pool = self->pool;

    fesetenv(FE_DFL_ENV);

    spin = 0;

    for ( ;; ) {
        run = atomic_load(&pool->run);

        if (atomic_load(&pool->quit)) {
            return NULL;
        }

        if (take_task(pool, &task)) {
            do_task(pool, task, self->index);
            spin = 0;
            continue;
        }

        if (spin < SPIN) {
            spin++;
            relax();
            continue;
        }

        atomic_fetch_add(&pool->sleepers, 1);
        futex_wait(&pool->run, run);
        atomic_fetch_sub(&pool->sleepers, 1);
        spin = 0;
    }
}


static int
take_task(moe_pool_t *pool, uint32_t *task)
{
    uint32_t  avail;
    uint64_t  work;

    work = atomic_load_explicit(&pool->work, memory_order_acquire);

    do {
        avail = (uint32_t) work;

        if (avail == 0) {
            return 0;
        }

    } while (!atomic_compare_exchange_weak_explicit(&pool->work, &work,
                                                    work - 1,
                                                    memory_order_acq_rel,
                                                    memory_order_acquire));

    *task = pool->ntasks - avail;

    return 1;
}


static void
do_task(moe_pool_t *pool, uint32_t task, uint32_t thread)
{
    pool->fn(pool->ctx, task, thread);

    if (atomic_fetch_sub(&pool->left, 1) == 1
        && atomic_load(&pool->waiting))
    {
        futex_wake(&pool->left, 1);
    }
}


static void
wait_done(moe_pool_t *pool)
{
    uint32_t  left, spin;

    for (spin = 0; spin < SPIN; spin++) {
        if (atomic_load_explicit(&pool->left, memory_order_acquire) == 0) {
            return;
        }
        relax();
    }

    atomic_store(&pool->waiting, 1);

    while ((left = atomic_load(&pool->left)) != 0) {
        futex_wait(&pool->left, left);
    }

    atomic_store(&pool->waiting, 0);
}
