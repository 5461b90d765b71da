/*
 * serve as mpirun starts it: the same answers as one rank gives, on one host
 * and on two; all sleep when none has work; a death ends the engine, and
 * every client is told once.
 *
 * mpirun starts this program with "serve" as its first argument.
 */

#include "worker.h"
#include "mpi_test.h"
#include "run.h"


enum { JOBS = 5, MOST_RANKS = 8 };

/* how long a death may take to be everywhere: the ranks' deadline and what a
 * launcher takes */
#define DEATH_MS  20000


static worker_t  one;
static char      self[PATH_MAX];
static char      texts[JOBS][64];


static void
make_job(moe_job_t *job, int i)
{
    snprintf(texts[i], sizeof(texts[i]), "%.*s", 9 + i * 3, PROMPT);
    job_text(job, texts[i]);
    job->flags = MOE_JOB_IGNORE_EOS;
    job->seed = (uint64_t) i + 1;
    job->max_tokens = 24 + (uint32_t) i * 4;
    job->n = 1 + (uint32_t) i % 2;
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
compare_all(worker_t *v, const int *a, const int *b)
{
    int       i;
    uint32_t  k;

    for (i = 0; i < JOBS; i++) {
        worker_wait(&one, a[i]);
        worker_wait(v, b[i]);
        assert_sound(&one.jobs[a[i]], 200);
        assert_sound(&v->jobs[b[i]], 200);

        for (k = 0; k < 2; k++) {
            assert_same(&one.jobs[a[i]].choices[k],
                        &v->jobs[b[i]].choices[k]);
        }

        worker_forget(&one, a[i]);
        worker_forget(v, b[i]);
    }
}


static pid_t
start_one(char *path, size_t size)
{
    pid_t  pid;

    socket_name(path, size, "one");
    pid = engine_start(path, NULL);
    worker_ready(&one, path);

    return pid;
}


static pid_t
spawn(const char *const *argv)
{
    pid_t  pid;

    fflush(stdout);
    pid = fork();
    assert_int_not_equal(pid, -1);

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGTERM);

        if (getenv("TEST_VERBOSE") == NULL) {
            dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        }

        execvp(argv[0], (char *const *) (uintptr_t) argv);
        _exit(127);
    }

    return pid;
}


/* arguments of a serve of n ranks behind this socket, appended to argv */
static int
add_serve(const char **argv, int at, const char *n, const char *socket)
{
    argv[at++] = "-np";
    argv[at++] = n;
    argv[at++] = self;
    argv[at++] = "serve";
    argv[at++] = "-m";
    argv[at++] = TEST_MODEL;
    argv[at++] = "--kv-memory";
    argv[at++] = "64m";
    argv[at++] = "--threads";
    argv[at++] = "1";
    argv[at++] = "--drain-timeout";
    argv[at++] = "60";
    argv[at++] = "--rebalance";
    argv[at++] = "1";
    argv[at++] = "--replicas";
    argv[at++] = "6";
    argv[at++] = "--socket";
    argv[at++] = socket;
    argv[at] = NULL;

    return at;
}


static pid_t
start_mpi(worker_t *v, char *path, size_t size, const char *n)
{
    pid_t        pid;
    const char  *argv[40] = { "mpirun" };

    socket_name(path, size, "mpi");
    add_serve(argv, 1, n, path);
    pid = spawn(argv);
    worker_ready(v, path);

    return pid;
}


static int
is_there(pid_t pid)
{
    return kill(pid, 0) == 0 || errno != ESRCH;
}


static void
assert_gone(const pid_t *pids, int n)
{
    int       i;
    uint64_t  until;

    until = test_ms() + DEATH_MS;

    for (i = 0; i < n; ) {
        if (!is_there(pids[i])) {
            i++;

        } else {
            assert_true(test_ms() < until);
            test_sleep(10);
        }
    }
}


static void
test_answers(void **state)
{
    int            i, n, a[JOBS], b[JOBS];
    char           path1[64], path2[64], beside_path[80];
    pid_t          pid1, pid2, ranks[MOST_RANKS];
    worker_t       v;
    moe_job_t      job;
    moe_stats_t    s;
    unsigned long  before;

    if (!mpi_is_here()) {
        skip();
    }

    pid1 = start_one(path1, sizeof(path1));
    pid2 = start_mpi(&v, path2, sizeof(path2), "3");

    worker_stats(&v, &s);
    assert_int_equal(s.ranks, 3);
    assert_int_equal(s.ranks_up, 3);
    assert_memory_equal(one.hello.fingerprint, v.hello.fingerprint, 32);

    /* one at a time: the other ranks have nothing */

    for (i = 0; i < 3; i++) {
        make_job(&job, i);
        worker_ask(&one, &job, &a[0]);
        worker_ask(&v, &job, &b[0]);
        assert_sound(&v.jobs[b[0]], 200);
        assert_same(&one.jobs[a[0]].choices[0], &v.jobs[b[0]].choices[0]);
        worker_forget(&one, a[0]);
        worker_forget(&v, b[0]);
    }

    /* all at once, until experts were placed anew, and once more then */

    for (i = 0; i < 60 && s.placements == 0; i++) {
        ask_all(&one, a);
        ask_all(&v, b);
        compare_all(&v, a, b);
        worker_stats(&v, &s);
    }

    assert_in_range(s.placements, 1, 60);
    assert_true(s.skew_before >= 1000 && s.skew >= 1000);

    ask_all(&one, a);
    ask_all(&v, b);
    compare_all(&v, a, b);

    /* all sleep together */

    n = engine_ranks(pid2, ranks, MOST_RANKS);
    assert_int_equal(n, 3);
    test_sleep(500);
    before = process_ticks(ranks[1]);
    test_sleep(1000);
    assert_in_range(process_ticks(ranks[1]) - before, 0, 8);

    /* told to stop, it finishes what runs */

    ask_all(&one, a);
    ask_all(&v, b);

    while (v.jobs[b[2]].choices[0].nids < 5) {
        worker_pump(&v, 100);
    }

    kill(pid2, SIGUSR1);
    compare_all(&v, a, b);

    assert_int_equal(engine_wait(pid2), 0);
    assert_gone(ranks, n);
    assert_int_equal(access(path2, F_OK), -1);
    snprintf(beside_path, sizeof(beside_path), "%s.ranks", path2);
    assert_int_equal(access(beside_path, F_OK), -1);

    worker_close(&one);
    worker_close(&v);
    assert_int_equal(engine_stop(pid1), 0);
}


/* every job ends once, and those that were not done with one error */
static int
count_ends(worker_t *v, const int *slots, const char *code)
{
    int       i, lost;
    reply_t  *r;
    uint64_t  until;

    lost = 0;
    until = test_ms() + DEATH_MS;

    while (!v->closed) {
        assert_true(test_ms() < until);
        worker_pump(v, 100);
    }

    for (i = 0; i < JOBS; i++) {
        r = &v->jobs[slots[i]];
        assert_true(r->ended);

        if (r->end.status != 200) {
            assert_int_equal(r->end.status, 503);
            assert_string_equal(r->code, code);
            lost++;
        }
    }

    return lost;
}


/* who: a rank's number, or -1 for the front */
static void
kill_one(int who)
{
    int       n, k, b[JOBS];
    char      path[64];
    pid_t     pid, ranks[MOST_RANKS], front;
    worker_t  v;

    pid = start_mpi(&v, path, sizeof(path), "3");
    n = engine_ranks(pid, ranks, MOST_RANKS);
    assert_int_equal(n, 3);

    for (k = 0, front = 0; k < n && front == 0; k++) {
        front = engine_rank(ranks[k]);
    }

    assert_int_not_equal(front, 0);
    ask_all(&v, b);

    while (v.jobs[b[2]].choices[0].nids < 5) {
        worker_pump(&v, 100);
    }

    kill(who < 0 ? front : ranks[who], SIGKILL);

    if (who >= 0) {
        assert_true(count_ends(&v, b, "engine_lost") > 0);
    }

    assert_int_not_equal(engine_wait(pid), 0);
    assert_gone(ranks, n);
    assert_gone(&front, 1);
    worker_close(&v);
}


static void
test_deaths(void **state)
{
    int  i;

    if (!mpi_is_here()) {
        skip();
    }

    for (i = -1; i < 3; i++) {
        kill_one(i);
    }
}


/* in which network the process is */
static void
network(pid_t pid, char *name, size_t size)
{
    char     path[64];
    ssize_t  n;

    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int) pid);
    n = readlink(path, name, size - 1);
    assert_true(n > 0);
    name[n] = '\0';
}


/* the process that listens there, as it says to who connects */
static pid_t
listener(const char *path)
{
    int           fd;
    socklen_t     len;
    struct ucred  cred;

    fd = worker_connect(path);
    assert_int_not_equal(fd, -1);
    len = sizeof(cred);
    assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len), 0);
    close(fd);

    return cred.pid;
}


static void
test_hosts(void **state)
{
    int          at, i, a[JOBS], b[JOBS], c[JOBS];
    char         path1[64], path2[64], path3[64], name[32], command[128];
    char         script[PATH_MAX + 32], nets[2][64];
    pid_t        pid1, pid2, fronts[2];
    worker_t     v, w;
    moe_stats_t  s;
    const char  *argv[60];

    snprintf(script, sizeof(script), "%s/t/tools/two-hosts.sh",
             getcwd(nets[0], sizeof(nets[0])));
    snprintf(command, sizeof(command), "t/tools/two-hosts.sh check");

    if (!mpi_is_here() || system(command) != 0) {
        printf("two hosts are not permitted here: skipped\n");
        skip();
    }

    snprintf(name, sizeof(name), "moe-%d", (int) getpid());
    socket_name(path2, sizeof(path2), "a");
    socket_name(path3, sizeof(path3), "b");
    pid1 = start_one(path1, sizeof(path1));

    at = 0;
    argv[at++] = script;
    argv[at++] = "run";
    argv[at++] = name;
    argv[at++] = "-host";
    argv[at++] = "10.77.77.1:2";
    at = add_serve(argv, at, "2", path2);
    argv[at++] = ":";
    argv[at++] = "-host";
    argv[at++] = "10.77.77.2:2";
    (void) add_serve(argv, at, "2", path3);

    pid2 = spawn(argv);
    worker_ready(&v, path2);
    worker_ready(&w, path3);

    fronts[0] = listener(path2);
    fronts[1] = listener(path3);
    network(fronts[0], nets[0], sizeof(nets[0]));
    network(fronts[1], nets[1], sizeof(nets[1]));
    assert_string_not_equal(nets[0], nets[1]);

    /* each host's own clients, and the other's experts */

    ask_all(&one, a);
    ask_all(&v, b);
    compare_all(&v, a, b);

    ask_all(&one, a);
    ask_all(&v, b);
    ask_all(&w, c);
    compare_all(&v, a, b);
    ask_all(&one, a);
    compare_all(&w, a, c);

    /* experts are placed anew meanwhile, groups on their hosts */

    memset(&s, 0, sizeof(s));

    for (i = 0; i < 100 && s.placements == 0; i++) {
        ask_all(&one, a);
        ask_all(&v, b);
        compare_all(&v, a, b);
        worker_stats(&v, &s);
    }

    assert_true(s.placements > 0);

    /* the wire between them is cut */

    ask_all(&v, b);
    ask_all(&w, c);

    while (v.jobs[b[2]].choices[0].nids < 3
           || w.jobs[c[2]].choices[0].nids < 3)
    {
        worker_pump(&v, 10);
        worker_pump(&w, 10);
    }

    snprintf(command, sizeof(command), "t/tools/two-hosts.sh cut %s", name);
    assert_int_equal(system(command), 0);

    i = count_ends(&v, b, "engine_lost");
    assert_true(i > 0);
    i = count_ends(&w, c, "engine_lost");
    assert_true(i > 0);

    assert_gone(fronts, 2);
    assert_int_not_equal(engine_wait(pid2), 0);

    worker_close(&one);
    worker_close(&v);
    worker_close(&w);
    assert_int_equal(engine_stop(pid1), 0);
}


int
main(int argc, char **argv)
{
    char                     plugin[PATH_MAX], here[PATH_MAX + 32];
    ssize_t                  n;
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_hosts)
    };

    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return moe_serve_main(argc - 1, argv + 1);
    }

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';

    /* where the program looks for it: beside itself */
    beside(plugin, sizeof(plugin), "moe_mpi.so");
    snprintf(here, sizeof(here), "%.*s/moe_mpi.so",
             (int) (strrchr(self, '/') - self), self);
    (void) unlink(here);
    (void) symlink(plugin, here);

    mpi_environment();

    /* how soon mpirun misses a host */
    setenv("OMPI_MCA_oob_tcp_keepalive_time", "5", 1);
    setenv("OMPI_MCA_oob_tcp_keepalive_intvl", "1", 1);
    setenv("OMPI_MCA_oob_tcp_keepalive_probes", "3", 1);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
