/*
 * A rank in a process of its own, spoken to through its lane as a front does.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/log.h"
#include "jobq.h"
#include "rank.h"


#define MODEL      "t/golden/v3"
#define MAX_SLOTS  300


/* what came of a slot */
typedef struct {
    uint32_t     gen;
    uint32_t     started;
    uint32_t     ended;
    uint32_t     nids;
    uint32_t     ids[600];
    uint32_t     finish;
    moe_end_t    end;
    char         code[64];
} slot_t;

static pid_t        child;
static int          front;
static moe_lane_t   lane;
static moe_hello_t  hello;
static slot_t       slots[MAX_SLOTS];
static uint32_t     prompt[64];


static int64_t
now_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


static void
wait_kick(int64_t deadline)
{
    struct pollfd  pfd = { front, POLLIN, 0 };

    assert_true(now_ms() < deadline);
    assert_true(poll(&pfd, 1, (int) (deadline - now_ms())) > 0);
}


static void
start(const moe_rank_options_t *o)
{
    int  fds[2];

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_NONBLOCK, 0,
                                fds), 0);

    child = fork();
    assert_true(child >= 0);

    if (child == 0) {
        close(fds[0]);
        moe_log_init("rank", MOE_LOG_ERROR);
        _exit(moe_rank_main(o, fds[1]));
    }

    close(fds[1]);
    front = fds[0];
    memset(slots, 0, sizeof(slots));

    assert_int_equal(moe_lane_create(&lane, front, MOE_SIDE_SUBMITTER,
                                     1 << 20), MOE_JOBQ_OK);
    memset(&hello, 0, sizeof(hello));
    hello.status = 200;
    assert_int_equal(moe_lane_hello(&lane, &hello), MOE_JOBQ_OK);
}


/* the result of the rank's hello */
static int
joined(void)
{
    int      rc;
    int64_t  deadline;

    deadline = now_ms() + 60000;

    while ((rc = moe_lane_accept(&lane, &hello)) == MOE_JOBQ_AGAIN) {
        wait_kick(deadline);
    }

    return rc;
}


static int
exit_code(void)
{
    int  status;

    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));

    return WEXITSTATUS(status);
}


static void
stop(void)
{
    moe_lane_destroy(&lane);
    close(front);
    assert_int_equal(exit_code(), 0);
}


static void
begin(const moe_rank_options_t *o)
{
    start(o);
    assert_int_equal(joined(), MOE_JOBQ_OK);
}


static void
make_job(moe_job_t *job, uint32_t seed)
{
    uint32_t  i;

    memset(job, 0, sizeof(*job));

    for (i = 0; i < 64; i++) {
        prompt[i] = (seed * 31 + i * i) % 70;
    }

    job->kind = MOE_JOB_IDS;
    job->flags = MOE_JOB_STREAM;
    job->n = 1;
    job->seed = seed;
    job->max_tokens = 20;
    job->credit = 1 << 20;
    job->temperature = 1.0f;
    job->top_p = 1.0f;
    job->repetition = 1.0f;
    job->nprompts = 1;
    job->prompts[0].is_ids = 1;
    job->prompts[0].n = 10 + seed % 50;
    job->prompts[0].data = prompt;
}


static void
submit(uint32_t slot, uint32_t gen, const moe_job_t *job)
{
    memset(&slots[slot], 0, sizeof(slot_t));
    slots[slot].gen = gen;
    assert_int_equal(moe_put_job(&lane, slot, gen, job), MOE_JOBQ_OK);
}


static void
take(const moe_frame_t *f)
{
    slot_t         *s;
    uint32_t        buf[MOE_EVENT_MAX / 4];
    size_t          len;
    const char     *why;
    moe_delta_t     d;
    moe_started_t   st;

    len = f->size - sizeof(moe_frame_t);
    moe_lane_take(&lane, buf);

    assert_true(f->slot < MAX_SLOTS);
    s = &slots[f->slot];
    assert_int_equal(f->gen, s->gen);
    assert_int_equal(s->ended, 0);

    switch (f->type) {
    case MOE_FRAME_STARTED:
        assert_int_equal(s->started++, 0);
        assert_int_equal(moe_started_read(&st, buf, len, &why), MOE_JOBQ_OK);
        break;

    case MOE_FRAME_DELTA:
        assert_int_equal(s->started, 1);
        assert_int_equal(s->finish, MOE_FINISH_NONE);
        assert_int_equal(moe_delta_read(&d, buf, len, &why), MOE_JOBQ_OK);
        assert_true(s->nids + d.nids <= 600);
        memcpy(s->ids + s->nids, d.ids, d.nids * 4);
        s->nids += d.nids;
        s->finish = d.finish;
        assert_int_equal(d.completion_tokens, s->nids);
        break;

    case MOE_FRAME_END:
        assert_int_equal(moe_end_read(&s->end, buf, len, &why), MOE_JOBQ_OK);
        assert_true(s->end.code.len < sizeof(s->code));
        memcpy(s->code, s->end.code.data, s->end.code.len);
        s->ended = 1;
        break;

    default:
        fail_msg("a frame of type %u", f->type);
    }
}


/* takes events until the slot has as many ids (or has ended) */
static void
take_until(uint32_t slot, uint32_t nids)
{
    int          rc;
    int64_t      deadline;
    moe_frame_t  f;

    deadline = now_ms() + 60000;
    assert_int_equal(moe_lane_flush(&lane), MOE_JOBQ_OK);

    while (!slots[slot].ended && slots[slot].nids < nids) {
        rc = moe_lane_next(&lane, &f);

        if (rc == MOE_JOBQ_OK) {
            take(&f);
            continue;
        }

        assert_int_equal(rc, MOE_JOBQ_AGAIN);
        assert_int_equal(moe_lane_flush(&lane), MOE_JOBQ_OK);

        if (moe_lane_sleep(&lane) == 0) {
            wait_kick(deadline);
        }

        assert_int_equal(moe_lane_drain(&lane), MOE_JOBQ_OK);
    }
}


static void
take_end(uint32_t slot)
{
    take_until(slot, UINT32_MAX);
}


static void
test_hello(void **state)
{
    moe_err_t           err;
    moe_job_t           job;
    uint8_t             print[32];
    moe_stats_t         stats;
    moe_model_t        *m;
    moe_rank_options_t  o = { .model_dir = MODEL "/", .nranks = 1 };

    o.threads = 1;
    begin(&o);

    m = moe_model_open(MODEL, NULL, NULL, NULL, &err);
    assert_non_null(m);
    moe_model_fingerprint(m, print);
    moe_model_close(m);

    assert_memory_equal(hello.fingerprint, print, sizeof(print));
    assert_int_equal(hello.nmodels, 1);
    assert_string_equal(hello.models[0].name, "v3");
    assert_int_equal(hello.models[0].context, 512);

    assert_int_equal(moe_lane_stats_read(&lane, &stats), MOE_JOBQ_OK);
    assert_int_equal(stats.state, MOE_STATE_READY);
    assert_int_equal(stats.progress, 1000);
    assert_true(stats.kv_pages > 0);

    /* a probe goes through, also beside a job */
    memset(&job, 0, sizeof(job));
    job.kind = MOE_JOB_PROBE;
    job.n = 1;
    submit(7, 1, &job);
    take_end(7);
    assert_int_equal(slots[7].end.status, 200);

    make_job(&job, 1);
    submit(3, 9, &job);
    take_end(3);
    assert_int_equal(slots[3].end.status, 200);
    assert_int_equal(slots[3].nids, 20);
    assert_int_equal(slots[3].finish, MOE_FINISH_LENGTH);
    assert_int_equal(slots[3].end.prompt_tokens, 11);
    assert_int_equal(slots[3].end.completion_tokens, 20);

    assert_int_equal(moe_lane_stats_read(&lane, &stats), MOE_JOBQ_OK);
    assert_int_equal(stats.finished, 1);
    assert_int_equal(stats.completion_tokens, 20);

    stop();
}


static void
test_refuses_hello(void **state)
{
    moe_rank_options_t  o = { .model_dir = "t/golden/nothing", .nranks = 1 };

    start(&o);
    assert_int_equal(joined(), MOE_JOBQ_ERROR);
    assert_int_equal(hello.status, 500);
    assert_non_null(strstr(hello.text, "t/golden/nothing"));
    moe_lane_destroy(&lane);
    close(front);
    assert_int_equal(exit_code(), 1);
}


/* all at once, with few pages and a small ring that we leave full a while;
 * then one by one: the same ids */
static void
test_many(void **state)
{
    uint32_t             i;
    moe_job_t            job;
    static slot_t        want[MAX_SLOTS];
    struct timespec      ts = { 0, 300 * 1000000 };
    moe_rank_options_t   o = {
        .model_dir = MODEL, .nranks = 1, .threads = 2, .max_running = 40,
        .kv_bytes = 600 * 1024, .lane_size = MOE_RING_MIN
    };

    begin(&o);

    for (i = 0; i < MAX_SLOTS; i++) {
        make_job(&job, i);
        submit(i, i + 1, &job);
    }

    assert_int_equal(moe_lane_flush(&lane), MOE_JOBQ_OK);
    nanosleep(&ts, NULL);

    for (i = 0; i < MAX_SLOTS; i++) {
        take_end(i);
        assert_int_equal(slots[i].end.status, 200);
        assert_int_equal(slots[i].nids, 20);
    }

    memcpy(want, slots, sizeof(slots));

    for (i = 0; i < MAX_SLOTS; i += 17) {
        make_job(&job, i);
        submit(i, 1000 + i, &job);
        take_end(i);
        assert_memory_equal(slots[i].ids, want[i].ids, 20 * 4);
    }

    stop();
}


static void
test_cancel_and_credit(void **state)
{
    uint32_t             i;
    moe_job_t            job;
    moe_stats_t          stats;
    moe_rank_options_t   o = { .model_dir = MODEL, .nranks = 1, .threads = 1 };

    begin(&o);

    make_job(&job, 1);
    job.max_tokens = MOE_UNLIMITED;
    submit(0, 1, &job);
    take_until(0, 3);
    assert_int_equal(moe_put_cancel(&lane, 0, 1), MOE_JOBQ_OK);
    take_end(0);
    assert_int_equal(slots[0].end.status, 499);
    assert_int_equal(slots[0].end.completion_tokens, slots[0].nids);
    assert_true(slots[0].nids < 400);

    /* for a job that is over: dropped */
    assert_int_equal(moe_put_cancel(&lane, 0, 1), MOE_JOBQ_OK);
    assert_int_equal(moe_put_credit(&lane, 0, 1, 64), MOE_JOBQ_OK);

    /* three tokens of credit, then two more; another job goes on meanwhile */
    make_job(&job, 2);
    job.credit = 3 * MOE_TOKEN_CREDIT + MOE_TOKEN_CREDIT / 2;
    submit(0, 2, &job);
    take_until(0, 3);

    for (i = 1; i < 5; i++) {
        make_job(&job, i);
        submit(i, 1, &job);
        take_end(i);
        assert_int_equal(slots[i].end.status, 200);
    }

    assert_int_equal(slots[0].nids, 3);
    assert_int_equal(moe_lane_stats_read(&lane, &stats), MOE_JOBQ_OK);
    assert_int_equal(stats.parked, 1);

    assert_int_equal(moe_put_credit(&lane, 0, 2, 2 * MOE_TOKEN_CREDIT),
                     MOE_JOBQ_OK);
    take_until(0, 5);
    assert_int_equal(moe_put_credit(&lane, 0, 2, 1 << 20), MOE_JOBQ_OK);
    take_end(0);
    assert_int_equal(slots[0].nids, 20);
    assert_memory_equal(slots[0].ids, slots[2].ids, 20 * 4);

    stop();
}


static void
test_refusals(void **state)
{
    uint8_t              junk[400];
    moe_job_t            job;
    moe_rank_options_t   o = { .model_dir = MODEL, .nranks = 1, .threads = 1 };

    begin(&o);

    /* not a job record */
    memset(junk, 0xee, sizeof(junk));
    slots[1].gen = 5;
    assert_int_equal(moe_lane_put(&lane, MOE_FRAME_JOB, 1, 5, junk,
                                  sizeof(junk), NULL, 0), MOE_JOBQ_OK);
    take_end(1);
    assert_int_equal(slots[1].end.status, 400);

    /* a job of another kind */
    make_job(&job, 1);
    job.kind = MOE_JOB_COMPLETION;
    submit(1, 6, &job);
    take_end(1);
    assert_int_equal(slots[1].end.status, 400);

    /* longer than the context */
    make_job(&job, 1);
    job.prompts[0].n = 512;
    job.prompts[0].data = calloc(512, 4);
    submit(1, 7, &job);
    take_end(1);
    assert_int_equal(slots[1].end.status, 400);
    assert_string_equal(slots[1].code, "context_length_exceeded");

    /* with one more it fits, and ends after one token */
    job.prompts[0].n = 511;
    submit(1, 8, &job);
    take_end(1);
    assert_int_equal(slots[1].end.status, 200);
    assert_int_equal(slots[1].nids, 1);
    free((void *) (uintptr_t) job.prompts[0].data);

    /* a temperature that is none */
    make_job(&job, 1);
    job.temperature = -1.0f;
    submit(1, 9, &job);
    take_end(1);
    assert_int_equal(slots[1].end.status, 400);

    stop();
}


/* a front that breaks its lane, or dies while much is running */
static void
test_bad_front(void **state)
{
    uint32_t             i;
    moe_job_t            job;
    moe_rank_options_t   o = { .model_dir = MODEL, .nranks = 1, .threads = 1 };

    begin(&o);
    assert_int_equal(moe_lane_put(&lane, MOE_FRAME_CANCEL, MOE_SLOTS, 1,
                                  NULL, 0, NULL, 0), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_flush(&lane), MOE_JOBQ_OK);
    assert_int_equal(exit_code(), 1);
    moe_lane_destroy(&lane);
    close(front);

    begin(&o);

    for (i = 0; i < 50; i++) {
        make_job(&job, i);
        job.max_tokens = MOE_UNLIMITED;
        submit(i, 1, &job);
    }

    take_until(0, 5);
    stop();
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hello),
        cmocka_unit_test(test_refuses_hello),
        cmocka_unit_test(test_many),
        cmocka_unit_test(test_cancel_and_credit),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_bad_front)
    };

    signal(SIGPIPE, SIG_IGN);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
