/*
 * serve with experts spread over GPUs, started as torchrun starts it: the
 * answers that one rank gives, also while experts move by their loads, and one
 * error for every client when a rank dies.  The device is the emulated one and
 * NCCL a stub (test_ep_nccl.c).
 *
 * The test starts this program with "serve" as its first argument.
 */

#include "worker.h"
#include "run.h"
#include "nccl_test.h"


enum {
    RANKS = 2,
    JOBS = 2,
    TOKENS = 3,
    ROUNDS = 60,

    /* words of a prompt; some rounds are enough for a look at loads */
    MANY = 12,
    FEW = 4
};

/* it is noticed at once, but the machine may have other things to do */
#define DEATH_MS  30000


static char   self[PATH_MAX];
static pid_t  pids[RANKS];


/* where rank r writes its log to, if it is to be read */
static void
log_to(const char *path)
{
    int  fd;

    if (path != NULL) {
        fd = open(path, O_WRONLY|O_CREAT|O_TRUNC, 0600);

    } else if (getenv("TEST_VERBOSE") == NULL) {
        fd = open("/dev/null", O_WRONLY);

    } else {
        return;
    }

    dup2(fd, STDERR_FILENO);
}


/* ranks behind one socket, or each on a host and behind one of its own; log:
 * rank 0's */
static void
start_ranks(const char *const *sockets, uint32_t hosts, const char *rebalance,
    const char *log)
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

        if (hosts > 1) {
            set_number("LOCAL_RANK", 0);
            set_number("LOCAL_WORLD_SIZE", 1);
        }

        log_to(r == 0 ? log : NULL);

        execl(self, self, "serve", "-m", TEST_MODEL, "--kv-memory", "16m",
              "--threads", "1", "--kernels", "cuda", "--transport", "nccl",
              "--drafts", "off", "--step-time", "0", "--exchange-timeout",
              "120", "--rebalance", rebalance, "--replicas", "6", "--socket",
              sockets[hosts > 1 ? r : 0], (char *) NULL);
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
    const char *const  sockets[] = { path2 };
    static const char *const  args[] = { "--kernels", "cuda", "--drafts",
                                         "off", NULL };

    socket_name(path1, sizeof(path1), "one");
    socket_name(path2, sizeof(path2), "nccl");
    pid = engine_start(path1, args);
    start_ranks(sockets, 1, "0", NULL);
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


/* a prompt of rank r in round k: one word and no other, which has experts of
 * its own, so that loads are others from round to round */
static void
make_round(moe_job_t *job, char *text, size_t size, int k, uint32_t nwords,
    uint32_t r)
{
    uint32_t     i;
    size_t       n;
    const char  *word;

    static const char *const  words[] = { " dog", " the", "!", " moon", " 7",
                                          " ran", "a", " happy", " and" };

    word = words[((uint32_t) k * RANKS + r)
                 % (sizeof(words) / sizeof(words[0]))];
    n = (size_t) snprintf(text, size, "%d", k);

    for (i = 0; i < nwords; i++) {
        n += (size_t) snprintf(text + n, size - n, "%s", word);
    }

    job_text(job, text);
    job->flags = MOE_JOB_IGNORE_EOS;
    job->seed = (uint64_t) k + 1;
    job->max_tokens = TOKENS;
}


/* each host's client asks, and hears what one rank says */
static void
ask_round(worker_t *v, worker_t *one, int k, uint32_t nwords)
{
    int        a, b[RANKS];
    char       text[RANKS][400];
    uint32_t   r;
    moe_job_t  job;

    for (r = 0; r < RANKS; r++) {
        make_round(&job, text[r], sizeof(text[r]), k, nwords, r);
        b[r] = worker_submit(&v[r], &job);
    }

    for (r = 0; r < RANKS; r++) {
        make_round(&job, text[r], sizeof(text[r]), k, nwords, r);
        worker_ask(one, &job, &a);
        worker_wait(&v[r], b[r]);
        assert_sound(&v[r].jobs[b[r]], 200);
        assert_same(&one->jobs[a].choices[0], &v[r].jobs[b[r]].choices[0]);
        worker_forget(one, a);
        worker_forget(&v[r], b[r]);
    }
}


/* the page of all ranks' loads: as full on every host, the means are one */
static void
check_map(worker_t *w)
{
    uint32_t       i, l, sum, n;
    moe_experts_t  e;

    while (moe_lane_experts_read(&w->lane, &e) != MOE_JOBQ_OK) { /* void */ }

    assert_in_range(e.version, 1, ROUNDS);
    assert_int_equal(e.layers, 3);
    assert_int_equal(e.ranks, RANKS);
    n = e.experts + e.ranks;

    for (l = 0; l < e.layers; l++) {
        for (i = 0, sum = 0; i < e.ranks; i++) {
            sum += e.cells[l * n + e.experts + i];
        }

        assert_in_range(sum, RANKS * 995, RANKS * 1005);
    }
}


static uint32_t
count_lines(const char *path, const char *what)
{
    char       line[400];
    FILE      *f;
    uint32_t   n;

    n = 0;
    f = fopen(path, "r");
    assert_non_null(f);

    while (fgets(line, sizeof(line), f) != NULL) {
        n += strstr(line, what) != NULL;
    }

    fclose(f);

    return n;
}


/* two hosts with a GPU each: experts are placed anew again and again, groups
 * of them on a host, and no answer is another for it */
static void
test_placed(void **state)
{
    int          k;
    char         paths[RANKS + 1][64], log[80];
    pid_t        pid;
    uint32_t     r, placements;
    worker_t     one, v[RANKS];
    moe_stats_t  s;

    const char *const         sockets[] = { paths[0], paths[1] };
    static const char *const  args[] = { "--drafts", "off", NULL };

    socket_name(paths[0], sizeof(paths[0]), "a");
    socket_name(paths[1], sizeof(paths[1]), "b");
    socket_name(paths[2], sizeof(paths[2]), "one");
    snprintf(log, sizeof(log), "%s.log", paths[0]);
    pid = engine_start(paths[2], args);
    start_ranks(sockets, 2, "1", log);
    worker_ready(&one, paths[2]);
    worker_ready(&v[0], paths[0]);
    worker_ready(&v[1], paths[1]);
    s.placements = 0;

    placements = getenv("MOE_MATRIX") ? 3 : 1;

    for (k = 0; k < ROUNDS && s.placements < placements; k++) {
        ask_round(v, &one, k, MANY);
        worker_stats(&v[0], &s);
    }

    assert_in_range(s.placements, placements, ROUNDS);

    /* while layers change, and after it */
    ask_round(v, &one, k, FEW);
    ask_round(v, &one, k + 1, FEW);

    for (r = 0; r < RANKS; r++) {
        worker_stats(&v[r], &s);
        assert_in_range(s.placements, 1, ROUNDS);
        assert_true(s.skew_before >= 1000 && s.skew >= 1000);
        check_map(&v[r]);
    }

    assert_true(count_lines(log, "experts placed ") >= placements);
    assert_int_equal(count_lines(log, "experts placed "),
                     count_lines(log, " nodes=2 "));

    /* each host is told to stop, and both leave together */
    for (r = 0; r < RANKS; r++) {
        kill(pids[r], SIGUSR1);
    }

    for (r = 0; r < RANKS; r++) {
        assert_int_equal(engine_wait(pids[r]), 0);
        worker_close(&v[r]);
    }

    unlink(log);
    worker_close(&one);
    assert_int_equal(engine_stop(pid), 0);
}


static void
test_death(void **state)
{
    int        i, b[JOBS];
    char       path[64];
    uint64_t   until;
    worker_t   v;

    const char *const  sockets[] = { path };

    socket_name(path, sizeof(path), "dies");
    start_ranks(sockets, 1, "10", NULL);
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
        cmocka_unit_test(test_placed),
        cmocka_unit_test(test_death)
    };

    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return moe_serve_main(argc - 1, argv + 1);
    }

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';

    return cmocka_run_group_tests_name("serve over NCCL", tests, NULL, NULL);
}
