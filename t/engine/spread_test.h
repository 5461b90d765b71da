/*
 * spread_test: jobs that an engine of several ranks is asked, and whose
 * answers are compared with what one rank has answered.
 */

#ifndef MOE_SPREAD_TEST_H
#define MOE_SPREAD_TEST_H


#include "worker.h"


enum { JOBS = 9 };

/* what one rank answers, asked once for all tests that compare with it */
static struct {
    uint32_t            tokens;         /* of the shortest answer; 0: none */
    const char *const  *args;
    uint8_t             fingerprint[32];
    char                texts[JOBS][64];
    reply_t             jobs[JOBS];
} want;


/* lengths, seeds and choices of all kinds */
static inline void
make_job(moe_job_t *job, int i)
{
    snprintf(want.texts[i], sizeof(want.texts[i]), "%.*s", 9 + i * 3, PROMPT);
    job_text(job, want.texts[i]);
    job->flags = MOE_JOB_IGNORE_EOS;
    job->seed = (uint64_t) i + 1;
    job->max_tokens = want.tokens + (uint32_t) i * (want.tokens / JOBS);
    job->n = 1 + (uint32_t) i % 2;
}


static inline void
ask_all(worker_t *v, int *slots)
{
    int        i;
    moe_job_t  job;

    for (i = 0; i < JOBS; i++) {
        make_job(&job, i);
        slots[i] = worker_submit(v, &job);
    }
}


static inline pid_t
start_engine(worker_t *v, char *path, size_t size, const char *name,
    const char *const *args)
{
    pid_t  pid;

    socket_name(path, size, name);
    pid = engine_start(path, args);
    worker_ready(v, path);

    return pid;
}


static inline void
forget_want(void)
{
    int  i;

    for (i = 0; i < JOBS; i++) {
        reply_free(&want.jobs[i]);
    }
}


/* one rank with these options answers all jobs */
static inline void
learn(const char *const *args, uint32_t tokens)
{
    int       i, slots[JOBS];
    char      path[64];
    pid_t     pid;
    worker_t  one;

    if (want.tokens == tokens && want.args == args) {
        return;
    }

    forget_want();
    want.tokens = tokens;
    want.args = args;

    pid = start_engine(&one, path, sizeof(path), "one", args);
    memcpy(want.fingerprint, one.hello.fingerprint, 32);
    ask_all(&one, slots);

    for (i = 0; i < JOBS; i++) {
        worker_wait(&one, slots[i]);
        assert_sound(&one.jobs[slots[i]], 200);

        want.jobs[i] = one.jobs[slots[i]];
        memset(&one.jobs[slots[i]], 0, sizeof(reply_t));
    }

    worker_close(&one);
    assert_int_equal(engine_stop(pid), 0);
}


static inline void
compare_one(worker_t *v, int slot, int i)
{
    uint32_t  k;

    worker_wait(v, slot);
    assert_sound(&v->jobs[slot], 200);

    for (k = 0; k < 2; k++) {
        assert_same(&want.jobs[i].choices[k], &v->jobs[slot].choices[k]);
    }

    worker_forget(v, slot);
}


static inline void
compare_all(worker_t *v, const int *slots)
{
    int  i;

    for (i = 0; i < JOBS; i++) {
        compare_one(v, slots[i], i);
    }
}


static inline void
ask_and_compare(worker_t *v)
{
    int  slots[JOBS];

    ask_all(v, slots);
    compare_all(v, slots);
}


/* one at a time: most ranks have nothing */
static inline void
ask_singly(worker_t *v, int n)
{
    int        i, slot;
    moe_job_t  job;

    for (i = 0; i < n; i++) {
        make_job(&job, i);
        worker_ask(v, &job, &slot);
        compare_one(v, slot, i);
    }
}


/* what has come until now is how the whole answer begins */
static inline void
assert_begins(const answer_t *whole, const answer_t *a)
{
    assert_in_range(a->nids, 0, whole->nids);
    assert_memory_equal(whole->ids, a->ids, a->nids * 4);
    assert_in_range(a->ntext, 0, whole->ntext);
    assert_memory_equal(whole->text, a->text, a->ntext);
}


/* until experts were placed by their loads, which changes no answer, and once
 * more then */
static inline void
await_placement(worker_t *v)
{
    int          i;
    moe_stats_t  s;

    worker_stats(v, &s);

    for (i = 0; i < 100 && s.placements == 0; i++) {
        ask_and_compare(v);
        worker_stats(v, &s);
    }

    assert_in_range(s.placements, 1, 100);
    assert_true(s.skew_before >= 1000 && s.skew >= 1000);

    ask_and_compare(v);
}


/* the page of the demo's experts' loads and all ranks', once experts were
 * placed; the means are one */
static inline void
await_map(worker_t *v, uint32_t ranks)
{
    uint32_t       i, l, sum;
    uint64_t       until;
    uint16_t      *cells;
    moe_experts_t  e;

    until = test_ms() + TEST_PATIENCE;

    do {
        assert_true(test_ms() < until);
        test_sleep(10);
    } while (moe_lane_experts_read(&v->lane, &e) != MOE_JOBQ_OK
             || e.version == 0);

    assert_int_equal(e.layers, 3);
    assert_int_equal(e.experts, 32);
    assert_int_equal(e.ranks, ranks);
    assert_true(e.rows > 0);

    for (l = 0; l < e.layers; l++) {
        cells = e.cells + l * (e.experts + ranks);

        for (i = 0, sum = 0; i < e.experts; i++) {
            sum += cells[i];
        }

        assert_in_range(sum, e.experts * 995, e.experts * 1005);

        for (i = 0, sum = 0; i < ranks; i++) {
            sum += cells[e.experts + i];
        }

        assert_in_range(sum, ranks * 995, ranks * 1005);
    }
}


/* a rank without work takes no processor */
static inline void
assert_sleeps(pid_t rank, unsigned long most)
{
    unsigned long  before;

    test_sleep(300);
    before = process_ticks(rank);
    test_sleep(1000);
    assert_in_range(process_ticks(rank) - before, 0, most);
}


/* how many ids have come of all jobs; all: whether all have ended */
static inline uint64_t
progress(const worker_t *v, const int *slots, int *all)
{
    int        i;
    uint32_t   k;
    uint64_t   ids;

    *all = 1;
    ids = 0;

    for (i = 0; i < JOBS; i++) {
        *all &= v->jobs[slots[i]].ended;

        for (k = 0; k < 2; k++) {
            ids += v->jobs[slots[i]].choices[k].nids;
        }
    }

    return ids;
}


/* 0 to n - 1, from a seed, so that a failure can be had again */
static inline uint32_t
draw(uint32_t n)
{
    static uint32_t  seed = 1;

    seed = seed * 1664525 + 1013904223;

    return (seed >> 8) % n;
}


/* how many times something is killed */
static inline int
kills(int cheap)
{
    const char  *n;

    n = getenv("MOE_KILLS");

    return n ? atoi(n) : cheap;
}


/* times that are reported */
typedef struct {
    uint64_t  sum;
    uint64_t  most;
    uint32_t  n;
} times_t;


static inline void
times_add(times_t *t, uint64_t ms)
{
    t->sum += ms;
    t->most = ms > t->most ? ms : t->most;
    t->n++;
}


static inline void
times_print(const times_t *t, const char *what)
{
    printf("  %s: %llu ms on average, %llu at most\n", what,
           (unsigned long long) (t->n ? t->sum / t->n : 0),
           (unsigned long long) t->most);
}


#endif /* MOE_SPREAD_TEST_H */
