/*
 * Experts spread over ranks: every bit as on one rank with the same row
 * format, whatever the ranks, the form of exchange and the replicas; ranks
 * that die or say nonsense.
 *
 * Ranks are processes, under the thread sanitizer threads.  Run from the root
 * of the repository.
 */

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "ep/shm_parts.h"
#include "ep_test.h"


#if defined(__SANITIZE_THREAD__)
#define THREADS  1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS  1
#endif
#endif

#ifndef THREADS
#define THREADS  0
#endif


/* of a rank, in memory that all share */
typedef struct {
    int        done;
    uint32_t   again;       /* steps that were late */
    uint64_t   late;
    uint64_t   late_ms;
    char       error[300];
} report_t;

typedef struct {
    setup_t     s;
    uint32_t    vocab;
    moe_shm_t  *shm;
    float      *logits;     /* [SEQS][GREEDY][vocab] */
    report_t    reports[MAX_RANKS];
} shared_t;

typedef struct {
    shared_t   *sh;
    uint32_t    rank;
} rank_arg_t;


static void
die(void)
{
    raise(SIGKILL);
}


/* models */


static moe_exchange_t *
make_exchange(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    rank_arg_t         *a = ctx;
    const setup_t      *s = &a->sh->s;
    moe_shm_options_t   o = {
        .rank = a->rank,
        .replica = s->choice,
        .fixed_rows = s->counted ? 0 : MOE_PARCEL_FIXED_ROWS
    };

    if (s->replicas) {
        o.placement = scattered(shape, s, 7, s->replicas, err);
        if (o.placement == NULL) {
            return NULL;
        }
    }

    return moe_exchange_shm(a->sh->shm, shape, &o, err);
}


/* the others go on without those that are lost */
static int
after_late(shared_t *sh, report_t *r, moe_model_t *m, uint64_t begun)
{
    uint64_t  end;

    r->late = moe_model_late(m);
    r->late_ms = now_ms() - begun;
    end = now_ms() + 20000;

    if (r->late == 0 || r->again++ == 3) {
        return -1;
    }

    while (moe_shm_missing(sh->shm) != 0) {
        if (now_ms() > end) {
            return -1;
        }
        usleep(1000);
    }

    return 0;
}


static int
run_steps(rank_arg_t *a, moe_model_t *m, seq_t *q, report_t *r,
    moe_err_t *err)
{
    int                   rc;
    uint64_t              begun;
    uint32_t              t, n, list[SEQS];
    const setup_t        *s = &a->sh->s;
    moe_ep_placement_t   *p;

    for (t = 0; t < nsteps(); t++) {

        n = active(s, a->rank, t, q, list);

        if (s->kill_rank == a->rank + 1 && s->kill_step == t) {
            arm(moe_model_exchange(m), s->kill_stage, die);
        }

        rc = placement_at(s, a->rank, t, &p, err);

        if (rc < 0
            || (rc > 0
                && moe_exchange_shm_place(moe_model_exchange(m), p, err) != 0))
        {
            return -1;
        }

        for ( ;; ) {
            begun = now_ms();

            if (step(m, q, list, n, a->sh->logits, a->sh->vocab, err) == 0) {
                break;
            }

            if (after_late(a->sh, r, m, begun) != 0) {
                return -1;
            }
        }
    }

    if (last_placement(s)
        && moe_exchange_shm_placed(moe_model_exchange(m))
           != last_placement(s))
    {
        return moe_err(err, "the placement was not changed");
    }

    return 0;
}


/*
 * A rank that hears of a death in the midst of a step does it again while
 * another may have ended it, and from then on is a step behind.  So those that
 * are through go on without rows until it is, too.
 */
static void
run_idle(shared_t *sh, moe_model_t *m, seq_t *q)
{
    uint32_t   i, none[1];
    moe_err_t  err;

    for (i = 0; sh->s.kill_rank && i < 3; i++) {
        if (step(m, q, none, 0, sh->logits, sh->vocab, &err) != 0) {
            return;
        }
    }
}


static void *
run_rank(void *arg)
{
    seq_t                *q;
    uint32_t              i;
    report_t             *r;
    moe_err_t             err = { "" };
    rank_arg_t           *a = arg;
    moe_model_t          *m;
    moe_model_options_t   o;

    r = &a->sh->reports[a->rank];
    o = options(&a->sh->s);
    o.exchange = make_exchange;
    o.exchange_ctx = a;

    m = moe_model_open(a->sh->s.dir, &o, NULL, NULL, &err);
    q = calloc(SEQS, sizeof(seq_t));

    for (i = 0; i < SEQS; i++) {
        seq_init(&q[i], i, a->sh->vocab);
    }

    if (m != NULL && run_steps(a, m, q, r, &err) == 0) {
        r->done = 1;
        run_idle(a->sh, m, q);
    }

    snprintf(r->error, sizeof(r->error), "%s", err.text);
    free(q);
    moe_model_close(m);

    return NULL;
}


/* until all but the dead rank have heard of it, however slow they are */
static void
wait_heard(shared_t *sh, uint32_t dead)
{
    uint32_t            r;
    uint64_t            end;
    volatile report_t  *v;

    end = now_ms() + 60000;

    for (r = 0; r < sh->s.nranks; r++) {
        v = &sh->reports[r];

        while (r != dead && v->again == 0) {
            assert_true(now_ms() < end);
            usleep(1000);
        }
    }
}


static void
run_processes(shared_t *sh, rank_arg_t *args)
{
    int       status;
    pid_t     pid, pids[MAX_RANKS];
    uint32_t  i, n;

    for (i = 0; i < sh->s.nranks; i++) {
        pids[i] = fork();
        assert_true(pids[i] != -1);

        if (pids[i] == 0) {
            alarm(300);
            run_rank(&args[i]);
            _exit(0);
        }
    }

    for (n = 0; n < sh->s.nranks; n++) {
        pid = waitpid(-1, &status, 0);
        assert_true(pid != -1);

        for (i = 0; i < sh->s.nranks; i++) {

            /* one that is through keeps nobody waiting */
            if (pids[i] == pid && status == 0 && sh->s.kill_rank) {
                moe_shm_lost(sh->shm, i);
            }

            if (pids[i] == pid && status != 0) {
                assert_int_equal(i + 1, sh->s.kill_rank);

                /* the front's part: a deadline in the ranks, or its word */
                if (sh->s.wait_ms) {
                    while (moe_shm_missing(sh->shm) == 0) {
                        usleep(1000);
                    }

                } else {
                    moe_shm_lost(sh->shm, i);
                }

                wait_heard(sh, i);
                moe_shm_publish(sh->shm, ((1u << sh->s.nranks) - 1)
                                         & ~(1u << i));
            }
        }
    }
}


static void
run_threads(shared_t *sh, rank_arg_t *args)
{
    uint32_t   i;
    pthread_t  threads[MAX_RANKS];

    for (i = 0; i < sh->s.nranks; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, run_rank,
                                        &args[i]), 0);
    }

    for (i = 0; i < sh->s.nranks; i++) {
        pthread_join(threads[i], NULL);
    }
}


static void
compare(const shared_t *sh, const float *want)
{
    uint32_t       r;
    const setup_t *u = &sh->s;

    for (r = 0; r < u->nranks; r++) {
        if (r + 1 != u->kill_rank && !sh->reports[r].done) {
            fail_msg("%s: rank %u of %u: %s", u->dir, r, u->nranks,
                     sh->reports[r].error);
        }
    }

    compare_logits(u, sh->vocab, sh->logits, want);
}


/* reports go to out, where it is not NULL */
static void
run(const setup_t *s, const float *want, uint32_t vocab, report_t *out)
{
    size_t                 bytes;
    uint32_t               i;
    shared_t              *sh;
    moe_err_t              err;
    rank_arg_t             args[MAX_RANKS];
    moe_model_options_t    o;
    moe_exchange_shape_t   shape;

    bytes = sizeof(shared_t)
            + (size_t) SEQS * GREEDY * vocab * sizeof(float);
    sh = mmap(NULL, bytes, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_ANONYMOUS, -1,
              0);
    assert_true(sh != MAP_FAILED);

    sh->s = *s;
    sh->vocab = vocab;
    sh->logits = (float *) (sh + 1);
    o = options(s);

    if (moe_model_exchange_shape(s->dir, &o, &shape, &err) != 0
        || (sh->shm = moe_shm_create(&shape, s->nranks, &err)) == NULL)
    {
        fail_msg("%s", err.text);
    }

    for (i = 0; i < s->nranks; i++) {
        args[i].sh = sh;
        args[i].rank = i;
    }

    if (THREADS) {
        run_threads(sh, args);
    } else {
        run_processes(sh, args);
    }

    compare(sh, want);

    if (out != NULL) {
        memcpy(out, sh->reports, sizeof(sh->reports));
    }

    moe_shm_free(sh->shm);
    munmap(sh, bytes);
}


/* answers */


/* setups with the same format lie together */
static void
check_setups(const char *dir, const setup_t *setups, size_t n)
{
    float     *want;
    size_t     i;
    uint32_t   vocab;
    setup_t    s;

    want = NULL;

    for (i = 0; i < n; i++) {
        s = setups[i];
        s.dir = dir;

        if (i == 0 || s.format != setups[i - 1].format) {
            free(want);
            want = reference(&s, &vocab);
        }

        run(&s, want, vocab, NULL);
    }

    free(want);
}


static void
check_family(const char *dir, uint32_t family)
{
    size_t    n;
    setup_t   setups[CELLS];
    uint32_t  i;

    for (i = 0, n = 0; i < CELLS; i++) {
        n += cell(i, family, &setups[n]) != 0;
    }

    check_setups(dir, setups, n);
}


static void
test_families(void **state)
{
    if (THREADS) {
        skip();
    }

    each_family(check_family);
}


/* what the families' setups do not have */
static void
test_setups(void **state)
{
    const setup_t  setups[] = {
        { .nranks = 2, .counted = 1, .replicas = 1, .replace = 30 },
        { .nranks = 3, .replicas = 2, .choice = MOE_REPLICA_NEAREST },
        { .nranks = 4, .threads = 2 },
        { .nranks = 4, .format = MOE_ROWS_BF16, .replicas = 1,
          .replace = 20 },
        { .nranks = 2, .format = MOE_ROWS_BF16, .turns = 1, .threads = 2 }
    };

    check_setups("t/golden/v3", setups, sizeof(setups) / sizeof(setups[0]));
}


/* the two row formats are not the same answer */
static void
test_formats(void **state)
{
    float     *a, *b;
    uint32_t   vocab;
    setup_t    s = { .dir = "t/golden/v3" };

    a = reference(&s, &vocab);
    s.format = MOE_ROWS_BF16;
    b = reference(&s, &vocab);

    assert_memory_not_equal(a, b, (size_t) GREEDY * vocab * sizeof(float));

    free(a);
    free(b);
}


/* deaths */


static void
kill_one(uint32_t rank, uint32_t at, uint32_t stage, uint32_t wait_ms)
{
    float     *want;
    uint32_t   vocab, r;
    report_t   reports[MAX_RANKS];
    setup_t    s = {
        .dir = "t/golden/v3",
        .nranks = 4,
        .kill_rank = rank + 1,
        .kill_step = at,
        .kill_stage = stage,
        .wait_ms = wait_ms
    };

    want = reference(&s, &vocab);
    run(&s, want, vocab, reports);
    free(want);

    for (r = 0; r < s.nranks; r++) {
        if (r == rank) {
            assert_int_equal(reports[r].done, 0);
            continue;
        }

        assert_int_equal(reports[r].again, 1);
        assert_int_equal(reports[r].late, 1u << rank);

        if (wait_ms) {
            assert_true(reports[r].late_ms >= wait_ms - 1);
            assert_true(reports[r].late_ms < wait_ms + 2000);

        } else {
            assert_true(reports[r].late_ms < 5000);
        }
    }
}


static void
test_killed(void **state)
{
    uint32_t  i;

    if (THREADS) {
        skip();
    }

    for (i = 0; i < 6; i++) {
        kill_one(i % 4, 5 + i * 8, i % 3, 0);
    }
}


static void
test_silent(void **state)
{
    if (THREADS) {
        skip();
    }

    kill_one(1, 7, 0, 1500);
    kill_one(3, 40, 1, 1500);
}


/* a peer that writes anything */


static void
scribble(moe_shm_t *shm, uint32_t *r, uint32_t turn, uint32_t number,
    int wild)
{
    size_t           i;
    uint32_t        *list;
    moe_shm_slot_t  *slot;
    moe_shm_step_t  *st;

#define DRAW(n)  ((*r = *r * 1664525 + 1013904223) >> 8) % (n)

    st = moe_shm_step(shm, 1, turn);
    st->rows = DRAW(wild ? 40 : 9);
    st->fixed_rows = DRAW(2) ? 0 : DRAW(99);
    st->placed = 0x80000001;
    st->next = DRAW(2) ? 0 : DRAW(9);
    atomic_store(&st->tag, (uint64_t) 1 << 32 | number);

    number++;
    turn = number % MOE_SHM_TURNS;
    slot = moe_shm_slot(shm, MOE_SHM_ROWS, 1, 0, turn);
    slot->layer = 0;
    slot->nrows = DRAW(wild ? 40 : 9);
    slot->n = DRAW(wild ? 200 : 18);
    list = (uint32_t *) moe_shm_payload(shm, MOE_SHM_ROWS, 1, 0, turn);

    for (i = 0; i < shm->size.list_bytes / sizeof(uint32_t); i++) {
        list[i] = DRAW(64) ? DRAW(4) : DRAW(1u << 24);
    }

    atomic_store(&slot->tag, (uint64_t) 1 << 32 | number);
    slot = moe_shm_slot(shm, MOE_SHM_RESULTS, 1, 0, turn);
    atomic_store(&slot->tag, (uint64_t) 1 << 32 | number);
}


static void
test_hostile(void **state)
{
    int                   rc, ok, bad;
    float                 rows[8 * 5];
    uint64_t              late;
    uint32_t              i, k, r, experts[8 * 2];
    moe_shm_t            *shm;
    moe_err_t             err;
    moe_exchange_t       *x;
    moe_expert_work_t     work;
    moe_shm_options_t     o = { .rank = 0, .fixed_rows = 32 };
    moe_expert_result_t   result;
    moe_exchange_shape_t  shape = {
        .max_rows = 8,
        .hidden = 5,
        .n_layers = 1,
        .n_experts = 6,
        .top_k = 2
    };

    memset(rows, 0, sizeof(rows));
    r = 1;
    ok = 0;
    bad = 0;

    for (i = 0; i < 2000; i++) {
        shm = moe_shm_create(&shape, 2, &err);
        assert_non_null(shm);
        x = moe_exchange_shm(shm, &shape, &o, &err);
        assert_non_null(x);

        for (k = 0; k < 16; k++) {
            experts[k] = (k / 2 + k % 2 * 3 + i) % 6;
        }

        scribble(shm, &r, 1, 1, i % 3 == 0);
        rc = x->ops->begin(x, 8, now_ms() + 1000, &late, &err);

        if (rc == MOE_EXCHANGE_OK) {
            rc = x->ops->dispatch(x, 0, 8, rows, experts, now_ms() + 1000,
                                  &work, &late, &err);
        }

        if (rc == MOE_EXCHANGE_OK) {
            assert_true(work.nrows >= 8 && work.nrows <= 2 * 8 * 2);

            for (k = 0; k < work.nexperts; k++) {
                assert_true(work.experts[k].expert < 6);
                assert_true(work.experts[k].first + work.experts[k].nrows
                            <= work.nrows);
            }

            memset(work.out, 0, work.nrows * 5 * sizeof(float));
            rc = x->ops->combine(x, 0, now_ms() + 1000, &result, &late,
                                 &err);
        }

        assert_int_not_equal(rc, MOE_EXCHANGE_LATE);
        ok += rc == MOE_EXCHANGE_OK;
        bad += rc == MOE_EXCHANGE_ERROR;

        /* the peer would not wait for us */
        if (rc == MOE_EXCHANGE_ERROR) {
            assert_int_equal(moe_shm_missing(shm), 1);
        }

        x->ops->close(x);
        moe_shm_free(shm);
    }

    assert_true(ok > 10);
    assert_true(bad > 10);
}


/* what an earlier epoch has left is not taken */
static void
test_stale(void **state)
{
    uint64_t              late;
    uint32_t              r;
    moe_shm_t            *shm;
    moe_err_t             err;
    moe_exchange_t       *x;
    moe_shm_options_t     o = { .rank = 0 };
    moe_exchange_shape_t  shape = {
        .max_rows = 8,
        .hidden = 5,
        .n_layers = 1,
        .n_experts = 6,
        .top_k = 2
    };

    shm = moe_shm_create(&shape, 2, &err);
    x = moe_exchange_shm(shm, &shape, &o, &err);
    r = 1;
    scribble(shm, &r, 1, 1, 0);
    moe_shm_publish(shm, 3);

    assert_int_equal(x->ops->begin(x, 8, now_ms() + 100, &late, &err),
                     MOE_EXCHANGE_LATE);
    assert_int_equal(late, 2);
    assert_string_equal(err.text, "exchange: no step from rank 1");

    /* late for one, late for all until the next epoch */
    assert_int_equal(x->ops->begin(x, 8, UINT64_MAX, &late, &err),
                     MOE_EXCHANGE_LATE);
    assert_int_equal(late, 2);

    /* alone */
    moe_shm_publish(shm, 1);
    assert_int_equal(x->ops->begin(x, 8, UINT64_MAX, &late, &err),
                     MOE_EXCHANGE_OK);

    /* not without us */
    moe_shm_publish(shm, 2);
    assert_int_equal(x->ops->begin(x, 8, UINT64_MAX, &late, &err),
                     MOE_EXCHANGE_ERROR);

    x->ops->close(x);
    moe_shm_free(shm);
}


/* placements */


static void
test_plain(void **state)
{
    uint32_t             e, n, r, i, on[64], hits[3];
    moe_err_t            err;
    moe_ep_placement_t  *p;

    /* a contiguous split */
    p = moe_ep_placement_plain(1, 2, 12, 4, 15, &err);
    assert_non_null(p);
    assert_int_equal(p->n_local, 3);

    for (e = 0; e < 12; e++) {
        assert_int_equal(moe_ep_placement_slot(p, 1, e, 2, e * 5,
                                               MOE_REPLICA_HASHED), e);
    }
    moe_ep_placement_free(p);

    /* what is left over, and a rank that is missing */
    p = moe_ep_placement_plain(1, 1, 8, 4, 13, &err);
    assert_non_null(p);
    assert_int_equal(p->n_local, 3);
    memset(on, 0, sizeof(on));

    for (e = 0; e < 8; e++) {
        for (n = 0; n < 50; n++) {
            r = moe_ep_placement_slot(p, 0, e, n % 4, n, MOE_REPLICA_HASHED);
            assert_true(r < 12);
            assert_int_not_equal(r / 3, 1);
            assert_int_equal(p->expert[r], e);
            on[r / 3]++;
        }
    }

    assert_true(on[0] > 100 && on[2] > 100 && on[3] > 100);
    moe_ep_placement_free(p);

    /* replicas share evenly; the nearest is one's own */
    for (i = 0; i < 12; i++) {
        on[i] = i % 4;
    }

    p = moe_ep_placement(9, 1, 4, 3, 4, on, &err);
    assert_non_null(p);
    memset(hits, 0, sizeof(hits));

    for (n = 0; n < 3000; n++) {
        r = moe_ep_placement_slot(p, 0, 2, n % 3, n / 3, MOE_REPLICA_HASHED);
        hits[r / 4]++;
        r = moe_ep_placement_slot(p, 0, 2, n % 3, n / 3,
                                  MOE_REPLICA_NEAREST);
        assert_int_equal(r, n % 3 * 4 + 2);
    }

    for (r = 0; r < 3; r++) {
        assert_in_range(hits[r], 900, 1100);
    }
    moe_ep_placement_free(p);

    on[11] = 4;
    assert_null(moe_ep_placement(9, 1, 4, 3, 4, on, &err));
    assert_null(moe_ep_placement(9, 1, 5, 2, 2, on, &err));
    assert_null(moe_ep_placement_plain(1, 1, 4, 4, 0, &err));
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_stale),
        cmocka_unit_test(test_formats),
        cmocka_unit_test(test_setups),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_silent)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
