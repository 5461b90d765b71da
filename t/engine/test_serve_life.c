#include "worker.h"

#include <dirent.h>


/* engines that come and go */


static worker_t  spare;


static void
test_socket(void **unused)
{
    int          fd;
    char         path[64];
    pid_t        pid;
    worker_t    *v;
    struct stat  st;

    const char *const  args[] = { "--socket-mode", "0600", NULL };

    socket_name(path, sizeof(path), "stale");
    pid = engine_start(path, NULL);
    v = &spare;
    worker_ready(v, path);

    /* a living engine is not disturbed */

    assert_int_equal(engine_wait(engine_start(path, NULL)), 1);

    /* a dead one's socket is replaced */

    kill(pid, SIGKILL);
    assert_int_equal(engine_wait(pid), 128 + SIGKILL);
    assert_int_equal(stat(path, &st), 0);
    worker_close(v);

    pid = engine_start(path, args);
    worker_ready(v, path);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    worker_close(v);

    assert_int_equal(engine_stop(pid), 0);
    assert_int_equal(stat(path, &st), -1);

    /* what is no socket is left alone */

    fd = open(path, O_CREAT|O_WRONLY, 0600);
    assert_int_not_equal(fd, -1);
    close(fd);
    pid = engine_start(path, NULL);
    assert_int_equal(engine_wait(pid), 1);
    assert_int_equal(unlink(path), 0);
}


static void
test_drain(void **unused)
{
    int          slot, late;
    char         path[64];
    pid_t        pid;
    reply_t     *r;
    worker_t    *v;
    moe_job_t    job;

    const char *const  args[] = { "--drain-timeout", "60", NULL };
    const char *const  brief[] = { "--drain-timeout", "0", NULL };

    socket_name(path, sizeof(path), "drain");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = 400;

    slot = worker_submit(v, &job);
    r = &v->jobs[slot];

    while (r->choices[0].nids == 0) {
        worker_pump(v, 100);
    }

    kill(pid, SIGTERM);
    test_sleep(50);

    late = worker_submit(v, &job);
    worker_wait(v, late);
    assert_sound(&v->jobs[late], 503);
    assert_int_equal(v->jobs[late].end.retry_after, 1);

    worker_wait(v, slot);
    assert_sound(r, 200);
    assert_int_equal(r->choices[0].nids, 400);

    assert_int_equal(engine_wait(pid), 0);
    worker_close(v);

    /* where there is no time, it is said */

    pid = engine_start(path, brief);
    worker_ready(v, path);
    job.max_tokens = MOE_UNLIMITED;
    slot = worker_submit(v, &job);
    r = &v->jobs[slot];

    while (r->choices[0].nids == 0) {
        worker_pump(v, 100);
    }

    kill(pid, SIGTERM);
    worker_wait(v, slot);
    assert_sound(r, 503);
    assert_int_equal(engine_wait(pid), 0);
    worker_close(v);
}


/* a rank that answers no more does not keep the last END back */

static void
test_drain_stuck(void **unused)
{
    int          slot;
    char         path[64];
    pid_t        pid;
    reply_t     *r;
    worker_t    *v;
    moe_job_t    job;

    const char *const  args[] = { "--drain-timeout", "0", NULL };

    socket_name(path, sizeof(path), "drain-stuck");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = MOE_UNLIMITED;
    slot = worker_submit(v, &job);
    r = &v->jobs[slot];

    while (r->choices[0].nids < 3) {
        worker_pump(v, 100);
    }

    signal_rank(pid, SIGSTOP);
    kill(pid, SIGTERM);

    worker_wait(v, slot);
    assert_sound(r, 503);
    assert_true(r->end.completion_tokens >= 3);

    assert_int_equal(engine_wait(pid), 0);
    worker_close(v);
}


static void
test_idle(void **unused)
{
    char       path[64];
    pid_t      pid;
    worker_t  *v;

    const char *const  args[] = { "--idle-exit", "1", NULL };

    socket_name(path, sizeof(path), "idle");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);
    test_sleep(1500);
    assert_int_equal(waitpid(pid, NULL, WNOHANG), 0);
    worker_close(v);

    assert_int_equal(engine_wait(pid), MOE_EXIT_IDLE);
}


static void
test_queue(void **unused)
{
    int          i, slots[4];
    char         path[64];
    pid_t        pid;
    worker_t    *v;
    moe_job_t    job;
    moe_stats_t  s;

    const char *const  args[] = { "--max-running", "1", "--queue", "2",
                                  NULL };

    socket_name(path, sizeof(path), "queue");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = MOE_UNLIMITED;
    job.credit = 1;                 /* it will never end by itself */

    slots[0] = worker_submit(v, &job);

    while (!v->jobs[slots[0]].started) {
        worker_pump(v, 100);
    }

    job_text(&job, PROMPT);
    job.timeout_ms = 400;
    slots[1] = worker_submit(v, &job);
    job.timeout_ms = 0;
    slots[2] = worker_submit(v, &job);
    slots[3] = worker_submit(v, &job);

    worker_wait(v, slots[3]);
    assert_sound(&v->jobs[slots[3]], 503);
    assert_string_equal(v->jobs[slots[3]].code, "queue_full");
    assert_int_equal(v->jobs[slots[3]].end.retry_after, 1);

    worker_wait(v, slots[1]);
    assert_sound(&v->jobs[slots[1]], 503);
    assert_string_equal(v->jobs[slots[1]].code, "queue_timeout");

    test_sleep(150);
    worker_stats(v, &s);
    assert_int_equal(s.waiting, 1);
    assert_int_equal(s.running, 1);

    worker_cancel(v, slots[0]);
    worker_wait(v, slots[0]);
    assert_sound(&v->jobs[slots[0]], 499);

    worker_wait(v, slots[2]);
    assert_sound(&v->jobs[slots[2]], 200);

    for (i = 0; i < 4; i++) {
        worker_forget(v, slots[i]);
    }

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


static int
submit_as(worker_t *v, moe_job_t *job, int key, int32_t priority)
{
    memset(job->key, key, sizeof(job->key));
    job->priority = priority;

    return worker_submit(v, job);
}


static void
refused(worker_t *v, int slot, uint32_t status, const char *code)
{
    worker_wait(v, slot);
    assert_sound(&v->jobs[slot], status);
    assert_string_equal(v->jobs[slot].code, code);
    assert_true(v->jobs[slot].end.retry_after >= 1);
    assert_int_equal(v->jobs[slot].end.prompt_tokens, 0);
    worker_forget(v, slot);
}


/* a full queue: who has how many places, and whom they are taken from */

static void
test_shares(void **unused)
{
    int          i, block, hog[4], other, high, low;
    char         path[64];
    pid_t        pid;
    worker_t    *v;
    moe_job_t    job;
    moe_stats_t  s;

    const char *const  args[] = { "--max-running", "1", "--queue", "4",
                                  NULL };

    socket_name(path, sizeof(path), "shares");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = MOE_UNLIMITED;
    job.credit = 1;                 /* it will never end by itself */
    block = submit_as(v, &job, 9, 0);

    while (!v->jobs[block].started) {
        worker_pump(v, 100);
    }

    /* one key may have the whole queue */

    job_text(&job, PROMPT);
    job.max_tokens = 3;

    for (i = 0; i < 4; i++) {
        hog[i] = submit_as(v, &job, 1, 0);
    }

    refused(v, submit_as(v, &job, 1, 0), 503, "queue_full");
    refused(v, submit_as(v, &job, 1, -5), 503, "queue_full");

    /* but gives way to another */

    other = submit_as(v, &job, 2, 0);
    worker_wait(v, hog[3]);
    assert_int_equal(v->jobs[hog[3]].end.status, 429);
    assert_string_equal(v->jobs[hog[3]].code, "rate_limit_exceeded");
    refused(v, submit_as(v, &job, 1, 0), 429, "rate_limit_exceeded");

    /* a higher class takes a place, and runs beside what is running */

    high = submit_as(v, &job, 3, 10);
    worker_wait(v, high);
    assert_sound(&v->jobs[high], 200);
    worker_wait(v, hog[2]);
    assert_int_equal(v->jobs[hog[2]].end.status, 503);
    assert_string_equal(v->jobs[hog[2]].code, "queue_full");
    assert_int_equal(v->jobs[block].end.status, 0);

    test_sleep(150);
    worker_stats(v, &s);
    assert_int_equal(s.waiting, 3);
    assert_int_equal(s.displaced, 2);
    assert_int_equal(s.refused, 3);
    assert_int_equal(s.refused_share, 1);
    assert_int_equal(s.refused_full, 2);

    /* a lower one is the last that is begun */

    low = submit_as(v, &job, 4, -10);
    worker_cancel(v, block);
    worker_wait(v, low);
    assert_sound(&v->jobs[low], 200);
    assert_int_equal(v->jobs[hog[0]].end.status, 200);
    assert_int_equal(v->jobs[hog[1]].end.status, 200);
    assert_int_equal(v->jobs[other].end.status, 200);

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


static void
same_answer(const reply_t *a, const reply_t *b)
{
    int  i;

    for (i = 0; i < TEST_CHOICES; i++) {
        assert_same(&a->choices[i], &b->choices[i]);
    }
}


/* the others take over what one of the ranks had */

static void
test_ranks(void **unused)
{
    int          i, slots[8];
    char         path[64];
    pid_t        pid;
    reply_t     *first;
    worker_t    *v;
    moe_job_t    job;
    moe_stats_t  s;

    const char *const  args[] = { "--ranks", "3", "--threads", "1", NULL };

    socket_name(path, sizeof(path), "ranks");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = 200;
    job.n = 3;

    worker_ask(v, &job, &slots[0]);
    first = &v->jobs[slots[0]];
    assert_sound(first, 200);

    for (i = 1; i < 8; i++) {
        slots[i] = worker_submit(v, &job);
    }

    while (v->jobs[slots[7]].choices[2].nids == 0) {
        worker_pump(v, 100);
    }

    worker_stats(v, &s);
    assert_int_equal(s.ranks, 3);
    assert_int_equal(s.ranks_up, 3);

    signal_rank(pid, SIGKILL);

    for (i = 1; i < 8; i++) {
        worker_wait(v, slots[i]);
        assert_sound(&v->jobs[slots[i]], 200);
        assert_int_equal(v->jobs[slots[i]].end.completion_tokens, 600);
        same_answer(first, &v->jobs[slots[i]]);
    }

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


/* a rank that no longer moves is as good as dead */

static void
test_stuck(void **unused)
{
    int          a, b;
    char         path[64];
    pid_t        pid;
    worker_t    *v;
    moe_job_t    job;

    const char *const  args[] = { "--rank-timeout", "1", NULL };

    socket_name(path, sizeof(path), "stuck");
    v = &spare;

    pid = engine_start(path, args);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = 300;
    worker_ask(v, &job, &a);

    b = worker_submit(v, &job);

    while (v->jobs[b].choices[0].nids < 20) {
        worker_pump(v, 100);
    }

    signal_rank(pid, SIGSTOP);

    worker_wait(v, b);
    assert_sound(&v->jobs[b], 200);
    same_answer(&v->jobs[a], &v->jobs[b]);

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


/* a rank that dies whenever it computes is not fed for ever */

static void
test_hopeless(void **unused)
{
    int          slot;
    char         path[64];
    pid_t        pid, rank, last;
    worker_t    *v;
    uint32_t     seen;
    moe_job_t    job;

    socket_name(path, sizeof(path), "hopeless");
    v = &spare;

    pid = engine_start(path, NULL);
    worker_ready(v, path);

    job_text(&job, PROMPT);
    job.flags = MOE_JOB_IGNORE_EOS;
    job.max_tokens = MOE_UNLIMITED;

    slot = worker_submit(v, &job);
    last = 0;
    seen = 0;

    while (!v->jobs[slot].ended) {
        worker_pump(v, 20);
        rank = engine_rank(pid);

        if (rank != last) {
            last = rank;
            seen = v->jobs[slot].choices[0].nids;
        }

        if (rank && v->jobs[slot].choices[0].nids > seen) {
            seen = MOE_UNLIMITED;
            kill(rank, SIGKILL);
        }
    }

    assert_sound(&v->jobs[slot], 500);
    assert_string_equal(v->jobs[slot].code, "engine_lost");
    assert_true(v->jobs[slot].end.completion_tokens
                >= v->jobs[slot].choices[0].nids);

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


/* everything at once, and in the end nothing is left */

static void
soak_submit(worker_t *v)
{
    moe_job_t  job;

    switch (rand() % 8) {

    case 0:
        job_chat(&job, "[{\"role\":\"user\",\"content\":\"Say it.\"}]");
        break;

    case 1:
        job_init(&job, MOE_JOB_PROBE);
        break;

    case 2:
        job_text(&job, PROMPT);
        job.kind = MOE_JOB_TOKENIZE;
        break;

    default:
        job_text(&job, PROMPT);
        job.flags = MOE_JOB_IGNORE_EOS;

        if (rand() % 2) {
            job.flags |= MOE_JOB_ECHO|MOE_JOB_LOGPROBS
                         |MOE_JOB_PROMPT_LOGPROBS;
            job.top_logprobs = rand() % 21;
        }
    }

    job.n = 1 + rand() % 3;
    job.seed = rand();
    job.max_tokens = 1 + rand() % 60;
    job.credit = rand() % 3 ? TEST_CREDIT : (uint32_t) rand() % 200;
    job.timeout_ms = rand() % 3 ? 0 : 1 + rand() % 50;
    memset(job.key, rand() % 3, sizeof(job.key));

    if (rand() % 2) {
        job_stop(&job, "e ");
        job_stop(&job, "the");
    }

    (void) worker_submit(v, &job);
}


static void
soak_turn(worker_t *v, pid_t pid)
{
    int    slot, free_slots;
    pid_t  rank;

    for (slot = 0, free_slots = 0; slot < TEST_JOBS; slot++) {

        if (!v->jobs[slot].live) {
            free_slots++;

        } else if (v->jobs[slot].ended) {
            worker_forget(v, slot);

        } else if (rand() % 20 == 0) {
            worker_credit(v, slot, rand() % 5000);

        } else if (rand() % 60 == 0) {
            worker_cancel(v, slot);
        }
    }

    if (free_slots > 20) {
        soak_submit(v);
    }

    rank = rand() % 300 ? 0 : engine_rank(pid);

    if (rank) {
        kill(rank, SIGKILL);
    }

    worker_pump(v, 2);
    assert_false(v->closed);
}


static int
open_files(pid_t pid)
{
    int    n;
    DIR   *d;
    char   name[64];

    snprintf(name, sizeof(name), "/proc/%d/fd", (int) pid);
    d = opendir(name);
    assert_non_null(d);

    for (n = 0; readdir(d); n++) { /* void */ }

    closedir(d);

    return n;
}


static void
test_soak(void **unused)
{
    int          slot, files;
    char         path[64];
    pid_t        pid;
    uint64_t     until;
    worker_t    *v;
    moe_stats_t  s;

    static worker_t    second;
    const char *const  args[] = { "--ranks", "2", "--max-running", "6",
                                  "--threads", "1", NULL };

    socket_name(path, sizeof(path), "soak");
    v = &spare;
    srand(1);

    pid = engine_start(path, args);
    worker_ready(v, path);
    test_sleep(200);
    files = open_files(pid);
    assert_int_equal(worker_try(&second, path), 0);

    for (until = test_ms() + 5000; test_ms() < until; /* void */) {
        soak_turn(v, pid);
        soak_turn(&second, pid);

        if (rand() % 100 == 0) {
            worker_close(&second);
            assert_int_equal(worker_try(&second, path), 0);
        }
    }

    worker_close(&second);

    for (slot = 0; slot < TEST_JOBS; slot++) {
        if (v->jobs[slot].live && !v->jobs[slot].ended) {
            worker_credit(v, slot, TEST_CREDIT);
            worker_wait(v, slot);
        }
    }

    do {
        test_sleep(300);
        worker_stats(v, &s);
    } while (s.ranks_up < 2);

    assert_int_equal(open_files(pid), files);
    assert_true(s.accepted > 50);
    assert_true(s.finished > 10 && s.cancelled > 10);
    assert_int_equal(s.accepted, s.finished + s.cancelled + s.failed);
    assert_int_equal(s.running, 0);
    assert_int_equal(s.waiting, 0);
    assert_int_equal(s.parked, 0);
    assert_int_equal(s.lanes_broken, 0);
    assert_int_equal(s.kv_pages_used, 0);

    worker_close(v);
    assert_int_equal(engine_stop(pid), 0);
}


/* a model that cannot be served is said so, once */

static void
test_model(void **unused)
{
    char   path[64], dir[64], cmd[256];
    pid_t  pid;

    const char *const  none[] = { "-m", "/nonexistent", NULL };
    const char *const  cut[] = { "-m", dir, NULL };

    socket_name(path, sizeof(path), "model");

    pid = engine_start(path, none);
    assert_int_equal(engine_wait(pid), 1);

    socket_name(dir, sizeof(dir), "cut");
    snprintf(cmd, sizeof(cmd), "cp -r " TEST_MODEL " %s && for f in "
             "%s/*.safetensors; do truncate -s 1000 $f; done", dir, dir);
    assert_int_equal(system(cmd), 0);

    pid = engine_start(path, cut);
    assert_int_equal(engine_wait(pid), 1);

    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
    assert_int_equal(system(cmd), 0);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_socket),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_drain_stuck),
        cmocka_unit_test(test_idle),
        cmocka_unit_test(test_queue),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_stuck),
        cmocka_unit_test(test_hopeless),
        cmocka_unit_test(test_soak),
        cmocka_unit_test(test_model),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
