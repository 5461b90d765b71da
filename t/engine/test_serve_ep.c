/*
 * serve with its experts spread over ranks answers as one rank does, while
 * experts move, ranks die and ranks hang.
 */

#include "spread_test.h"


enum { TOKENS = 90, RANKS = 4 };


static worker_t  v;


static void
test_spread(void **unused)
{
    char         path[64];
    pid_t        pid;
    moe_stats_t  s;

    const char *const  args[] = { "--ranks", "3", "--threads", "1",
                                  "--experts", "spread", NULL };

    learn(NULL, TOKENS);
    pid = start_engine(&v, path, sizeof(path), "spread", args);

    worker_stats(&v, &s);
    assert_int_equal(s.ranks, 3);
    assert_memory_equal(want.fingerprint, v.hello.fingerprint, 32);

    ask_singly(&v, 3);
    ask_and_compare(&v);
    assert_sleeps(engine_rank(pid), 5);

    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


/* experts are placed anew by their loads while jobs run, and no answer
 * changes */

static void
rebalance(const char *const *args, uint32_t ranks)
{
    char   path[64];
    pid_t  pid;

    learn(NULL, TOKENS);
    pid = start_engine(&v, path, sizeof(path), "spread", args);
    await_placement(&v);
    await_map(&v, ranks);

    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


static void
test_rebalance(void **unused)
{
    const char *const  args[] = { "--ranks", "3", "--threads", "1",
                                  "--experts", "spread", "--replicas", "6",
                                  "--rebalance", "1", NULL };

    rebalance(args, 3);
}


/* the demo's eight groups over two nodes */

static void
test_nodes(void **unused)
{
    const char *const  args[] = { "--ranks", "4", "--threads", "1",
                                  "--experts", "spread", "--replicas", "4",
                                  "--nodes", "2", "--rebalance", "1", NULL };

    rebalance(args, 4);
}


/*
 * Ranks die, each in its turn, at any moment, also while another has not come
 * back: the others go on with its experts and its jobs, and it joins again.
 */


static void
all_up(void)
{
    uint64_t     until;
    moe_stats_t  s;

    until = test_ms() + TEST_PATIENCE;

    do {
        assert_true(test_ms() < until);
        worker_pump(&v, 20);
        worker_stats(&v, &s);
    } while (s.ranks_up < RANKS);
}


/* the one that has been there longest, which takes each in its turn; how long
 * until there is another token, if some are to come */
static void
end_one(pid_t engine, int signo, const int *slots, times_t *t)
{
    int       n, ended;
    pid_t     ranks[RANKS];
    uint64_t  ids, at;

    n = engine_ranks(engine, ranks, RANKS);
    assert_true(n > 0);

    worker_pump(&v, 0);
    ids = progress(&v, slots, &ended);

    kill(ranks[0], signo);
    at = test_ms();

    do {
        worker_pump(&v, 5);
        assert_true(test_ms() - at < TEST_PATIENCE);

    } while (progress(&v, slots, &ended) == ids && !ended);

    if (!ended) {
        times_add(t, test_ms() - at);
    }
}


static void
test_kills(void **unused)
{
    int       k, n, slots[JOBS];
    char      path[64];
    pid_t     pid;
    times_t   next, joined;
    uint64_t  at;

    const char *const  args[] = { "--ranks", "4", "--threads", "1",
                                  "--experts", "spread", "--rebalance", "1",
                                  NULL };

    n = kills(6);
    memset(&next, 0, sizeof(next));
    memset(&joined, 0, sizeof(joined));

    learn(NULL, TOKENS);
    pid = start_engine(&v, path, sizeof(path), "spread", args);

    for (k = 0; k < n; k++) {
        ask_all(&v, slots);
        worker_pump(&v, 50);
        test_sleep(draw(60));

        end_one(pid, SIGKILL, slots, &next);
        at = test_ms();

        /* every third time one more, while the first is not back */
        if (k % 3 == 2) {
            end_one(pid, SIGKILL, slots, &next);
        }

        if (k % 2 == 0) {
            all_up();
            times_add(&joined, test_ms() - at);
        }

        compare_all(&v, slots);
    }

    printf("%d kills of %d ranks\n", n, RANKS);
    times_print(&next, "until the next token");
    times_print(&joined, "until all ranks were there again");

    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


/* a rank that hangs is as one that has died, once the others have waited for
 * it as long as they may: not before, and long before they would by default */

static void
test_stopped(void **unused)
{
    int          slots[JOBS];
    char         path[64];
    pid_t        pid, rank;
    uint64_t     at;
    moe_stats_t  s;

    const char *const  args[] = { "--ranks", "4", "--threads", "1",
                                  "--experts", "spread",
                                  "--exchange-timeout", "2", NULL };

    learn(NULL, TOKENS);
    pid = start_engine(&v, path, sizeof(path), "spread", args);

    ask_all(&v, slots);
    worker_pump(&v, 50);
    rank = engine_rank(pid);
    assert_true(rank > 0);
    kill(rank, SIGSTOP);
    at = test_ms();

    do {
        worker_pump(&v, 20);
        worker_stats(&v, &s);
    } while (s.rank_restarts == 0 && test_ms() - at < TEST_PATIENCE);

    at = test_ms() - at;
    assert_in_range(at, 1900, 9000);
    printf("a stopped rank was dropped after %llu ms of 2000\n",
           (unsigned long long) at);

    compare_all(&v, slots);
    all_up();

    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


/* another row format is another model, to its fingerprint too */

static void
test_format(void **unused)
{
    int    slots[JOBS];
    char   path[64];
    pid_t  pid;

    static const char *const  one_args[] = { "--row-format", "bf16", NULL };

    const char *const  args[] = { "--ranks", "2", "--threads", "1",
                                  "--experts", "spread", "--row-format",
                                  "bf16", NULL };

    learn(one_args, TOKENS / 3);
    pid = start_engine(&v, path, sizeof(path), "spread", args);

    assert_memory_equal(want.fingerprint, v.hello.fingerprint, 32);
    ask_and_compare(&v);

    /* and it stops at once while it runs */

    ask_all(&v, slots);
    test_sleep(50);
    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


static int
end_all(void **unused)
{
    forget_want();

    return 0;
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_rebalance),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_format)
    };

    return cmocka_run_group_tests(tests, NULL, end_all);
}
