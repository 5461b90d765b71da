/*
 * serve as mpirun starts it: the same answers as one rank gives, on one host
 * and on two; all sleep when none has work; a death ends the engine, and
 * every client is told once.
 *
 * mpirun starts this program with "serve" as its first argument.
 */

#include <dirent.h>

#include "spread_test.h"
#include "mpi_test.h"


enum { TOKENS = 60, MOST_PIDS = 64 };

/* how long a death may take to be everywhere: the ranks' deadline and what a
 * launcher takes */
#define DEATH_MS  20000


static char  self[PATH_MAX];


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


/* the front that a worker has connected to */
static pid_t
front_of(const worker_t *v)
{
    socklen_t     len;
    struct ucred  cred;

    len = sizeof(cred);
    assert_int_equal(getsockopt(v->fd, SOL_SOCKET, SO_PEERCRED, &cred, &len),
                     0);

    return cred.pid;
}


/* every job ends once, with an answer or with one error; where the front has
 * been killed, which cannot say so any more, without either.  How many had no
 * answer; no wrong byte has come of any */
static int
count_lost(worker_t *v, const int *slots, pid_t victim)
{
    int        i, lost, front;
    reply_t   *r;
    uint32_t   k;
    uint64_t   until;

    lost = 0;
    front = front_of(v) == victim;
    until = test_ms() + DEATH_MS;

    while (!v->closed) {
        assert_true(test_ms() < until);
        worker_pump(v, 100);
    }

    for (i = 0; i < JOBS; i++) {
        r = &v->jobs[slots[i]];
        assert_true(r->ended || front);

        if (r->ended && r->end.status != 200) {
            assert_int_equal(r->end.status, 503);
            assert_string_equal(r->code, "engine_lost");
        }

        lost += !r->ended || r->end.status != 200;

        for (k = 0; k < 2; k++) {
            assert_begins(&want.jobs[i].choices[k], &r->choices[k]);
        }
    }

    return lost;
}


/*
 * Processes die, each in its turn, at any moment under load: what launches,
 * the ranks, the fronts.  The engine ends, and a loop, which is what is around
 * mpirun in operation, starts it again.
 */

typedef struct {
    int    n;
    pid_t  pids[MOST_PIDS];
    pid_t  launcher;
} engine_t;


/* arguments of a process, as they lie there; 0: it is gone */
static size_t
arguments(pid_t pid, char *text, size_t size)
{
    char    path[64];
    FILE   *f;
    size_t  len;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int) pid);
    f = fopen(path, "r");

    if (f == NULL) {
        return 0;
    }

    len = fread(text, 1, size - 1, f);
    text[len] = '\0';
    fclose(f);

    return len;
}


static pid_t
parent_of(pid_t pid)
{
    int    parent;
    char   path[64];
    FILE  *f;

    parent = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
    f = fopen(path, "r");

    if (f != NULL) {
        (void) (fscanf(f, "%*d (%*[^)]) %*c %d", &parent) == 1);
        fclose(f);
    }

    return parent;
}


static void
add_pid(engine_t *e, pid_t pid)
{
    int  i;

    for (i = 0; i < e->n; i++) {
        if (e->pids[i] == pid) {
            return;
        }
    }

    assert_in_range(e->n, 0, MOST_PIDS - 1);
    e->pids[e->n++] = pid;
}


/* the processes whose arguments have a socket of these, but for shells, and
 * what mpirun has on other hosts */
static void
find_engine(engine_t *e, const char *sockets)
{
    int             i;
    DIR            *d;
    char            text[8192];
    pid_t           pid;
    size_t          len;
    struct dirent  *entry;

    memset(e, 0, sizeof(*e));
    d = opendir("/proc");
    assert_non_null(d);

    while ((entry = readdir(d)) != NULL) {
        pid = atoi(entry->d_name);
        len = pid > 0 ? arguments(pid, text, sizeof(text)) : 0;

        if (memmem(text, len, sockets, strlen(sockets)) == NULL
            || strcmp(text, "sh") == 0 || strcmp(text, "/bin/sh") == 0)
        {
            continue;
        }

        add_pid(e, pid);

        if (strcmp(text, "mpirun") == 0) {
            e->launcher = pid;
        }
    }

    closedir(d);

    for (i = e->n - 1; i >= 0; i--) {
        pid = parent_of(e->pids[i]);
        (void) arguments(pid, text, sizeof(text));

        if (strstr(text, "orted") != NULL) {
            add_pid(e, pid);
        }
    }

    assert_int_not_equal(e->launcher, 0);
}


/* one that is no front, and no launcher's */
static pid_t
some_rank(const engine_t *e, const worker_t *v)
{
    int  i;

    for (i = 0; e->pids[i] == e->launcher || e->pids[i] == front_of(v); i++) {
        assert_in_range(i, 0, e->n - 2);
    }

    return e->pids[i];
}


static void
test_answers(void **state)
{
    int          slots[JOBS];
    char         path[64], beside_path[80];
    pid_t        pid;
    engine_t     e;
    worker_t     v;
    moe_stats_t  s;

    if (!mpi_is_here()) {
        skip();
    }

    learn(NULL, TOKENS);
    pid = start_mpi(&v, path, sizeof(path), "3");

    worker_stats(&v, &s);
    assert_int_equal(s.ranks, 3);
    assert_int_equal(s.ranks_up, 3);
    assert_memory_equal(want.fingerprint, v.hello.fingerprint, 32);

    ask_singly(&v, 3);
    await_placement(&v);
    await_map(&v, 3);

    /* all sleep together */

    find_engine(&e, path);
    assert_int_equal(e.n, 5);
    assert_sleeps(some_rank(&e, &v), 8);

    /* told to stop, it finishes what runs */

    ask_all(&v, slots);

    while (v.jobs[slots[2]].choices[0].nids < 5) {
        worker_pump(&v, 100);
    }

    kill(pid, SIGUSR1);
    compare_all(&v, slots);

    assert_int_equal(engine_wait(pid), 0);
    assert_gone(e.pids, e.n);
    assert_int_equal(access(path, F_OK), -1);
    snprintf(beside_path, sizeof(beside_path), "%s.ranks", path);
    assert_int_equal(access(beside_path, F_OK), -1);

    worker_close(&v);
}


/* n workers, each with a host's front.  How many jobs had no answer: none
 * where the ranks were through before what launches was missed */
static int
kill_one(const char *sockets, int k, worker_t *v, char (*paths)[64], int n,
    times_t *ended, times_t *back)
{
    int        i, lost, slot, slots[2][JOBS];
    pid_t      victim;
    engine_t   e;
    uint64_t   at;
    moe_job_t  job;

    for (i = 0; i < n; i++) {
        ask_all(&v[i], slots[i]);
    }

    for (i = 0; i < n; i++) {
        while (v[i].jobs[slots[i][2]].choices[0].nids == 0) {
            worker_pump(&v[i], 100);
        }
    }

    find_engine(&e, sockets);
    victim = e.pids[k % e.n];
    test_sleep(draw(80));

    kill(victim, SIGKILL);
    at = test_ms();

    for (i = 0, lost = 0; i < n; i++) {
        lost += count_lost(&v[i], slots[i], victim);
        worker_close(&v[i]);
    }

    assert_gone(e.pids, e.n);
    times_add(ended, test_ms() - at);

    /* the first whole answers after it */

    for (i = 0; i < n; i++) {
        worker_ready(&v[i], paths[i]);
        make_job(&job, 0);
        worker_ask(&v[i], &job, &slot);
        compare_one(&v[i], slot, 0);
    }

    times_add(back, test_ms() - at);

    return lost;
}


/* argv: what the loop starts, behind n sockets that begin with this; all its
 * processes are to be killed at least once */
static void
kill_all(const char *const *argv, const char *sockets, char (*paths)[64],
    int n, int processes, int count)
{
    int          i, k, lost;
    pid_t        loop;
    times_t      ended, back;
    engine_t     e;
    worker_t     v[2];
    const char  *all[80] = { "sh", "-c", "until \"$@\"; do sleep 0.1; done",
                             "sh" };

    memset(&ended, 0, sizeof(ended));
    memset(&back, 0, sizeof(back));

    for (i = 0; argv[i] != NULL; i++) {
        all[4 + i] = argv[i];
    }

    learn(NULL, TOKENS);
    loop = spawn(all);

    for (i = 0; i < n; i++) {
        worker_ready(&v[i], paths[i]);
    }

    find_engine(&e, sockets);
    assert_int_equal(e.n, processes);

    for (k = 0, lost = 0; k < count; k++) {
        lost += kill_one(sockets, k, v, paths, n, &ended, &back);
    }

    assert_true(lost > 0);

    find_engine(&e, sockets);
    kill(e.launcher, SIGUSR1);
    assert_int_equal(engine_wait(loop), 0);

    for (i = 0; i < n; i++) {
        worker_close(&v[i]);
    }

    printf("%d kills of %d processes on %d hosts\n", count, processes, n);
    times_print(&ended, "until every process had ended");
    times_print(&back, "until the next whole answer");
}


/* mpirun, three ranks and their front */
static void
test_kills(void **state)
{
    char         path[1][64];
    const char  *argv[40] = { "mpirun" };

    if (!mpi_is_here()) {
        skip();
    }

    socket_name(path[0], sizeof(path[0]), "kills");
    (void) add_serve(argv, 1, "3", path[0]);
    kill_all(argv, path[0], path, 1, 5, kills(5));
}


/* a rank that hangs ends the engine when the others have waited for it as
 * long as they may, and mpirun ends it too */

static void
test_stopped(void **state)
{
    int          at, slots[JOBS];
    char         path[64];
    pid_t        pid;
    engine_t     e;
    uint64_t     begun;
    worker_t     v;
    const char  *argv[44] = { "mpirun" };

    if (!mpi_is_here()) {
        skip();
    }

    learn(NULL, TOKENS);
    socket_name(path, sizeof(path), "stopped");
    at = add_serve(argv, 1, "3", path);
    argv[at++] = "--exchange-timeout";
    argv[at++] = "2";
    argv[at] = NULL;

    pid = spawn(argv);
    worker_ready(&v, path);
    ask_all(&v, slots);

    while (v.jobs[slots[2]].choices[0].nids == 0) {
        worker_pump(&v, 100);
    }

    find_engine(&e, path);
    kill(some_rank(&e, &v), SIGSTOP);
    begun = test_ms();

    assert_true(count_lost(&v, slots, 0) > 0);
    begun = test_ms() - begun;
    assert_in_range(begun, 1900, 9000);
    printf("clients were told of a stopped rank after %llu ms of 2000\n",
           (unsigned long long) begun);

    assert_int_not_equal(engine_wait(pid), 0);
    assert_gone(e.pids, e.n);
    worker_close(&v);
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


/* mpirun's arguments for two hosts of two ranks; 0: there can be none here */
static int
add_hosts(const char **argv, const char *name, char (*paths)[64])
{
    int          at;
    static char  script[PATH_MAX + 32];

    if (getcwd(script, PATH_MAX) == NULL) {
        return 0;
    }

    strcat(script, "/t/tools/two-hosts.sh");

    if (!mpi_is_here() || system("t/tools/two-hosts.sh check") != 0) {
        printf("two hosts are not permitted here: skipped\n");
        return 0;
    }

    at = 0;
    argv[at++] = script;
    argv[at++] = "run";
    argv[at++] = name;
    argv[at++] = "-host";
    argv[at++] = "10.77.77.1:2";
    at = add_serve(argv, at, "2", paths[0]);
    argv[at++] = ":";
    argv[at++] = "-host";
    argv[at++] = "10.77.77.2:2";

    return add_serve(argv, at, "2", paths[1]);
}


/* mpirun, what it has on the other host, four ranks and two fronts */
static void
test_host_kills(void **state)
{
    char         paths[2][64], sockets[64], name[32];
    const char  *argv[60];

    socket_name(sockets, sizeof(sockets), "host");
    socket_name(paths[0], sizeof(paths[0]), "hosta");
    socket_name(paths[1], sizeof(paths[1]), "hostb");
    snprintf(name, sizeof(name), "moe-%d", (int) getpid());

    if (kills(0) == 0 || add_hosts(argv, name, paths) == 0) {
        skip();
    }

    kill_all(argv, sockets, paths, 2, 8, kills(0));
}


static void
test_hosts(void **state)
{
    int          a[JOBS], b[JOBS];
    char         paths[2][64], name[32], command[128], nets[2][64];
    pid_t        pid, fronts[2];
    worker_t     v, w;
    const char  *argv[60];

    socket_name(paths[0], sizeof(paths[0]), "a");
    socket_name(paths[1], sizeof(paths[1]), "b");
    snprintf(name, sizeof(name), "moe-%d", (int) getpid());

    if (add_hosts(argv, name, paths) == 0) {
        skip();
    }

    learn(NULL, TOKENS);
    pid = spawn(argv);
    worker_ready(&v, paths[0]);
    worker_ready(&w, paths[1]);

    fronts[0] = front_of(&v);
    fronts[1] = front_of(&w);
    network(fronts[0], nets[0], sizeof(nets[0]));
    network(fronts[1], nets[1], sizeof(nets[1]));
    assert_string_not_equal(nets[0], nets[1]);

    /* each host's own clients, and the other's experts */

    ask_and_compare(&v);
    ask_all(&v, a);
    ask_all(&w, b);
    compare_all(&v, a);
    compare_all(&w, b);

    /* experts are placed anew meanwhile, groups on their hosts */

    await_placement(&v);

    /* which each host shows of all ranks */

    ask_and_compare(&w);
    await_map(&v, 4);
    await_map(&w, 4);

    /* the wire between them is cut */

    ask_all(&v, a);
    ask_all(&w, b);

    while (v.jobs[a[2]].choices[0].nids < 3
           || w.jobs[b[2]].choices[0].nids < 3)
    {
        worker_pump(&v, 10);
        worker_pump(&w, 10);
    }

    snprintf(command, sizeof(command), "t/tools/two-hosts.sh cut %s", name);
    assert_int_equal(system(command), 0);

    assert_true(count_lost(&v, a, 0) > 0);
    assert_true(count_lost(&w, b, 0) > 0);

    assert_gone(fronts, 2);
    assert_int_not_equal(engine_wait(pid), 0);

    worker_close(&v);
    worker_close(&w);
}


static int
end_all(void **unused)
{
    forget_want();

    return 0;
}


int
main(int argc, char **argv)
{
    char                     plugin[PATH_MAX], here[PATH_MAX + 32];
    ssize_t                  n;
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_kills),
        cmocka_unit_test(test_stopped),
        cmocka_unit_test(test_host_kills),
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

    return cmocka_run_group_tests(tests, NULL, end_all);
}
