#include "worker.h"


/* serve with its experts spread over ranks answers as one rank does */


enum { JOBS = 9 };


static worker_t  one, spread;
static char      texts[JOBS][64];


static void
make_job(moe_job_t *job, int i)
{
    snprintf(texts[i], sizeof(texts[i]), "%.*s", 9 + i * 3, PROMPT);
    job_text(job, texts[i]);
    job->flags = MOE_JOB_IGNORE_EOS;
    job->seed = (uint64_t) i + 1;
    job->max_tokens = 90 + (uint32_t) i * 10;
    job->n = 1 + (uint32_t) i % 2;
}


static pid_t
start(worker_t *v, char *path, size_t size, const char *name,
    const char *const *args)
{
    pid_t  pid;

    socket_name(path, size, name);
    pid = engine_start(path, args);
    worker_ready(v, path);

    return pid;
}


static void
ask_all(worker_t *v, int *slots)
{
    int        i;
    moe_job_t  job;

    for (i = 0; i < JOBS; i++) {
        make_job(&job, i);
        slots[i] = worker_submit(v, &job);
    }
}


static void
compare_all(const int *a, const int *b)
{
    int       i;
    uint32_t  k;

    for (i = 0; i < JOBS; i++) {
        worker_wait(&one, a[i]);
        worker_wait(&spread, b[i]);
        assert_sound(&one.jobs[a[i]], 200);
        assert_sound(&spread.jobs[b[i]], 200);

        for (k = 0; k < 2; k++) {
            assert_same(&one.jobs[a[i]].choices[k],
                        &spread.jobs[b[i]].choices[k]);
        }

        worker_forget(&one, a[i]);
        worker_forget(&spread, b[i]);
    }
}


static void
test_spread(void **unused)
{
    int            i, a[JOBS], b[JOBS];
    char           path1[64], path2[64];
    pid_t          pid1, pid2, rank;
    moe_job_t      job;
    moe_stats_t    s;
    unsigned long  before;

    const char *const  args[] = { "--ranks", "3", "--threads", "1",
                                  "--experts", "spread", NULL };

    pid1 = start(&one, path1, sizeof(path1), "one", NULL);
    pid2 = start(&spread, path2, sizeof(path2), "spread", args);

    worker_stats(&spread, &s);
    assert_int_equal(s.ranks, 3);

    /* one at a time: the other ranks have nothing */

    for (i = 0; i < 3; i++) {
        make_job(&job, i);
        worker_ask(&one, &job, &a[0]);
        worker_ask(&spread, &job, &b[0]);
        assert_sound(&spread.jobs[b[0]], 200);
        assert_same(&one.jobs[a[0]].choices[0],
                    &spread.jobs[b[0]].choices[0]);
        worker_forget(&one, a[0]);
        worker_forget(&spread, b[0]);
    }

    /* all at once */

    ask_all(&one, a);
    ask_all(&spread, b);
    compare_all(a, b);

    /* all sleep together */

    test_sleep(300);
    rank = engine_rank(pid2);
    before = process_ticks(rank);
    test_sleep(1000);
    assert_in_range(process_ticks(rank) - before, 0, 5);

    /* one that dies, and no client sees it */

    ask_all(&one, a);
    ask_all(&spread, b);

    while (spread.jobs[b[2]].choices[0].nids < 20) {
        worker_pump(&spread, 100);
    }

    kill(engine_rank(pid2), SIGKILL);
    compare_all(a, b);

    worker_close(&one);
    worker_close(&spread);
    assert_int_equal(engine_stop(pid1), 0);
    assert_int_equal(engine_stop(pid2), 0);
}


/* experts are placed anew by their loads while jobs run, and no answer
 * changes */

static void
rebalance(const char *const *args)
{
    int          i, a[JOBS], b[JOBS];
    char         path1[64], path2[64];
    pid_t        pid1, pid2;
    moe_stats_t  s;

    pid1 = start(&one, path1, sizeof(path1), "one", NULL);
    pid2 = start(&spread, path2, sizeof(path2), "spread", args);

    memset(&s, 0, sizeof(s));

    /* and once more with the new placement */

    for (i = 0; i < 30 && s.placements == 0; i++) {
        ask_all(&one, a);
        ask_all(&spread, b);
        compare_all(a, b);
        worker_stats(&spread, &s);
    }

    assert_in_range(s.placements, 1, 30);
    assert_true(s.skew_before >= 1000 && s.skew >= 1000);

    ask_all(&one, a);
    ask_all(&spread, b);
    compare_all(a, b);

    worker_close(&one);
    worker_close(&spread);
    assert_int_equal(engine_stop(pid1), 0);
    assert_int_equal(engine_stop(pid2), 0);
}


static void
test_rebalance(void **unused)
{
    const char *const  args[] = { "--ranks", "3", "--threads", "1",
                                  "--experts", "spread", "--replicas", "6",
                                  "--rebalance", "1", NULL };

    rebalance(args);
}


/* the demo's four groups over two nodes */

static void
test_nodes(void **unused)
{
    const char *const  args[] = { "--ranks", "4", "--threads", "1",
                                  "--experts", "spread", "--replicas", "4",
                                  "--nodes", "2", "--rebalance", "1", NULL };

    rebalance(args);
}


/*
 * Ranks die, any of them, at any moment, also while another has not come
 * back: the others go on with its experts and its jobs, and it joins again.
 * MOE_KILLS says how often (in make test a few times).
 */

enum { RANKS = 4 };


/* how many ids there are of all jobs; 1 where all have ended */
static int
progress(const int *b, uint64_t *ids)
{
    int       i, ended;
    uint32_t  k;

    ended = 1;
    *ids = 0;

    for (i = 0; i < JOBS; i++) {
        ended &= spread.jobs[b[i]].ended;

        for (k = 0; k < 2; k++) {
            *ids += spread.jobs[b[i]].choices[k].nids;
        }
    }

    return ended;
}


/* milliseconds until there are more ids than before, 0 where all had ended */
static uint64_t
kill_one(pid_t engine, const int *b)
{
    int       n;
    pid_t     ranks[RANKS];
    uint64_t  ids, now, at;

    n = engine_ranks(engine, ranks, RANKS);
    assert_true(n > 0);

    worker_pump(&spread, 0);
    (void) progress(b, &ids);

    kill(ranks[rand() % n], SIGKILL);
    at = test_ms();

    do {
        worker_pump(&spread, 5);

        if (progress(b, &now)) {
            return 0;
        }

        assert_true(test_ms() - at < TEST_PATIENCE);

    } while (now == ids);

    return test_ms() - at;
}


static void
all_up(void)
{
    uint64_t     until;
    moe_stats_t  s;

    until = test_ms() + TEST_PATIENCE;

    do {
        assert_true(test_ms() < until);
        test_sleep(20);
        worker_stats(&spread, &s);
    } while (s.ranks_up < RANKS);
}


static void
test_kills(void **unused)
{
    int          k, n, a[JOBS], b[JOBS];
    char         path1[64], path2[64];
    pid_t        pid1, pid2;
    uint64_t     ms, most, sum;
    const char  *kills;

    const char *const  args[] = { "--ranks", "4", "--threads", "1",
                                  "--experts", "spread", "--rebalance", "1",
                                  NULL };

    kills = getenv("MOE_KILLS");
    n = kills ? atoi(kills) : 6;

    pid1 = start(&one, path1, sizeof(path1), "one", NULL);
    pid2 = start(&spread, path2, sizeof(path2), "spread", args);

    srand(1);
    most = 0;
    sum = 0;

    for (k = 0; k < n; k++) {
        ask_all(&one, a);
        ask_all(&spread, b);

        worker_pump(&spread, 50);
        test_sleep(rand() % 60);

        ms = kill_one(pid2, b);
        sum += ms;
        most = ms > most ? ms : most;

        /* every third time one more, while the first is not back */
        if (k % 3 == 2) {
            (void) kill_one(pid2, b);
        }

        compare_all(a, b);

        if (k % 2 == 0) {
            all_up();
        }
    }

    printf("%d kills: the next token after %llu ms on average, %llu at most\n",
           n, (unsigned long long) sum / (unsigned) n,
           (unsigned long long) most);

    worker_close(&one);
    worker_close(&spread);
    assert_int_equal(engine_stop(pid1), 0);
    assert_int_equal(engine_stop(pid2), 0);
}


/* another row format is another model, to its fingerprint too */

static void
test_format(void **unused)
{
    int        a[JOBS], b[JOBS];
    char       path1[64], path2[64];
    pid_t      pid1, pid2;

    const char *const  one_args[] = { "--row-format", "bf16", NULL };
    const char *const  args[] = { "--ranks", "2", "--threads", "1",
                                  "--experts", "spread", "--row-format",
                                  "bf16", NULL };

    pid1 = start(&one, path1, sizeof(path1), "one", one_args);
    pid2 = start(&spread, path2, sizeof(path2), "spread", args);

    assert_memory_equal(one.hello.fingerprint, spread.hello.fingerprint, 32);

    ask_all(&one, a);
    ask_all(&spread, b);
    compare_all(a, b);

    /* and it stops at once while it runs */

    ask_all(&spread, b);
    test_sleep(50);
    worker_close(&one);
    worker_close(&spread);
    assert_int_equal(engine_stop(pid1), 0);
    assert_int_equal(engine_stop(pid2), 0);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_rebalance),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_format)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
