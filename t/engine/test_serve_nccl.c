/*
 * serve with experts spread over GPUs, started as torchrun starts it: the
 * answers that one rank gives, and one error for every client when a rank
 * dies.  The device is the emulated one and NCCL a stub (test_ep_nccl.c).
 *
 * The test starts this program with "serve" as its first argument.
 */

#include "worker.h"
#include "run.h"
#include "nccl_test.h"


enum { RANKS = 2, JOBS = 2, TOKENS = 3 };

/* it is noticed at once, but the machine may have other things to do */
#define DEATH_MS  30000


static char   self[PATH_MAX];
static pid_t  pids[RANKS];


/* ranks behind this socket */
static void
start_ranks(const char *socket)
{
    uint32_t  r, port;

    port = free_port();

    for (r = 0; r < RANKS; r++) {
        fflush(stdout);
        pids[r] = fork();
        assert_int_not_equal(pids[r], -1);

        if (pids[r] != 0) {
            continue;
        }

        prctl(PR_SET_PDEATHSIG, SIGTERM);
        rank_environment(r, RANKS, port, self, "good");

        if (getenv("TEST_VERBOSE") == NULL) {
            dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        }

        execl(self, self, "serve", "-m", TEST_MODEL, "--kv-memory", "16m",
              "--threads", "1", "--kernels", "cuda", "--transport", "nccl",
              "--drafts", "off", "--step-time", "0", "--exchange-timeout",
              "120", "--socket", socket, (char *) NULL);
        _exit(127);
    }
}


static void
make_job(moe_job_t *job, int i)
{
    job_text(job, i ? "Once there" : "The cat");
    job->flags = MOE_JOB_IGNORE_EOS;
    job->seed = (uint64_t) i + 1;
    job->max_tokens = TOKENS;
}


static void
ask_all(worker_t *v, int *slots, uint32_t tokens)
{
    int        i;
    moe_job_t  job;

    for (i = 0; i < JOBS; i++) {
        make_job(&job, i);
        job.max_tokens = tokens;
        slots[i] = worker_submit(v, &job);
    }
}


static void
test_answers(void **state)
{
    int                i, a[JOBS], b[JOBS];
    char               path1[64], path2[64];
    pid_t              pid;
    worker_t           one, v;
    static const char *const  args[] = { "--kernels", "cuda", "--drafts",
                                         "off", NULL };

    socket_name(path1, sizeof(path1), "one");
    socket_name(path2, sizeof(path2), "nccl");
    pid = engine_start(path1, args);
    start_ranks(path2);
    worker_ready(&one, path1);
    worker_ready(&v, path2);
    assert_memory_equal(one.hello.fingerprint, v.hello.fingerprint, 32);

    ask_all(&one, a, TOKENS);
    ask_all(&v, b, TOKENS);

    for (i = 0; i < JOBS; i++) {
        worker_wait(&one, a[i]);
        worker_wait(&v, b[i]);
        assert_sound(&v.jobs[b[i]], 200);
        assert_same(&one.jobs[a[i]].choices[0], &v.jobs[b[i]].choices[0]);
    }

    /* told to stop, all leave together */
    kill(pids[0], SIGUSR1);

    for (i = 0; i < RANKS; i++) {
        assert_int_equal(engine_wait(pids[i]), 0);
    }

    worker_close(&one);
    worker_close(&v);
    assert_int_equal(engine_stop(pid), 0);
}


static void
test_death(void **state)
{
    int        i, b[JOBS];
    char       path[64];
    uint64_t   until;
    worker_t   v;

    socket_name(path, sizeof(path), "dies");
    start_ranks(path);
    worker_ready(&v, path);
    ask_all(&v, b, 200);

    while (v.jobs[b[0]].choices[0].nids < 1) {
        worker_pump(&v, 100);
    }

    kill(pids[1], SIGKILL);
    until = test_ms() + DEATH_MS;

    while (!v.closed) {
        assert_true(test_ms() < until);
        worker_pump(&v, 100);
    }

    for (i = 0; i < JOBS; i++) {
        assert_true(v.jobs[b[i]].ended);
        assert_int_equal(v.jobs[b[i]].end.status, 503);
        assert_string_equal(v.jobs[b[i]].code, "engine_lost");
    }

    assert_int_equal(engine_wait(pids[0]), 1);
    assert_true(test_ms() < until);
    assert_int_not_equal(engine_wait(pids[1]), 0);
    worker_close(&v);
}


int
main(int argc, char **argv)
{
    ssize_t                  n;
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_death)
    };

    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return moe_serve_main(argc - 1, argv + 1);
    }

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';

    return cmocka_run_group_tests_name("serve over NCCL", tests, NULL, NULL);
}
