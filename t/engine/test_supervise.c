#include "worker.h"

#include <sys/file.h>


/* supervise runs this program again as "serve", see main() */


static char      path[64];
static worker_t  w;


static pid_t
supervise_start(int lock, const char *grace)
{
    int          n;
    char         fd[16];
    pid_t        pid;
    const char  *argv[16];

    snprintf(fd, sizeof(fd), "%d", lock);

    n = 0;
    argv[n++] = "supervise";
    argv[n++] = "--lock-fd";
    argv[n++] = fd;
    argv[n++] = "--socket";
    argv[n++] = path;
    argv[n++] = "--grace";
    argv[n++] = grace;
    argv[n++] = "--";
    argv[n++] = "-m";
    argv[n++] = TEST_MODEL;
    argv[n++] = "--kv-memory";
    argv[n++] = "64m";
    argv[n++] = "--log-level";
    argv[n++] = "error";
    argv[n] = NULL;

    pid = fork();
    assert_int_not_equal(pid, -1);

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);

        if (getenv("TEST_VERBOSE") == NULL) {
            assert_non_null(freopen("/dev/null", "w", stderr));
        }

        _exit(moe_supervise_main(n, (char **) (uintptr_t) argv));
    }

    return pid;
}


static int
lock_open(void)
{
    char  name[80];

    snprintf(name, sizeof(name), "%s.lock", path);

    return open(name, O_RDWR|O_CREAT|O_CLOEXEC, 0600);
}


/* the lock is held by whoever supervises, and by nobody else */

static int
lock_held(void)
{
    int  fd, rc;

    fd = lock_open();
    assert_int_not_equal(fd, -1);
    rc = flock(fd, LOCK_EX|LOCK_NB);
    close(fd);

    return rc == -1;
}


static pid_t
start(const char *grace)
{
    int    lock;
    pid_t  pid;

    lock = lock_open();
    assert_int_not_equal(lock, -1);
    assert_int_equal(flock(lock, LOCK_EX|LOCK_NB), 0);

    pid = supervise_start(lock, grace);
    close(lock);

    return pid;
}


static void
test_again(void **unused)
{
    pid_t       pid, serve;
    uint64_t    until;
    moe_job_t   job;
    int         slot;

    pid = start("60");
    worker_ready(&w, path);
    assert_true(lock_held());

    serve = engine_rank(pid);
    assert_int_not_equal(serve, 0);
    kill(serve, SIGKILL);

    until = test_ms() + TEST_PATIENCE;

    while (!w.closed && test_ms() < until) {
        worker_pump(&w, 50);
    }

    assert_true(w.closed);
    worker_close(&w);

    worker_ready(&w, path);
    assert_int_not_equal(engine_rank(pid), serve);

    job_text(&job, "Once");
    assert_int_equal(worker_ask(&w, &job, &slot)->end.status, 200);
    worker_close(&w);

    assert_int_equal(engine_stop(pid), 0);
    assert_false(lock_held());
    assert_int_equal(worker_try(&w, path), -1);
}


static void
test_grace(void **unused)
{
    pid_t     pid;
    uint64_t  begun;

    pid = start("1");
    worker_ready(&w, path);
    test_sleep(1500);
    assert_true(lock_held());

    begun = test_ms();
    worker_close(&w);

    assert_int_equal(engine_wait(pid), 0);
    assert_true(test_ms() - begun >= 900);
    assert_false(lock_held());
}


/* a supervisor that is killed takes its serve along */

static void
test_killed(void **unused)
{
    int       i;
    pid_t     pid;

    pid = start("60");
    worker_ready(&w, path);
    worker_close(&w);

    kill(pid, SIGKILL);
    assert_int_equal(engine_wait(pid), 128 + SIGKILL);
    assert_false(lock_held());

    for (i = 0; i < 500 && worker_try(&w, path) == 0; i++) {
        worker_close(&w);
        test_sleep(20);
    }

    assert_true(i < 500);
}


static void
test_usage(void **unused)
{
    pid_t  pid;

    /* a descriptor that is not open */
    pid = supervise_start(999, "10");
    assert_int_equal(engine_wait(pid), MOE_EXIT_USAGE);
}


static int
teardown(void **unused)
{
    char  name[80];

    snprintf(name, sizeof(name), "%s.lock", path);
    unlink(name);
    unlink(path);

    return 0;
}


int
main(int argc, char **argv)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_grace),
        cmocka_unit_test(test_killed),
        cmocka_unit_test(test_usage),
    };

    if (argc > 1 && strcmp(argv[1], "serve") == 0) {
        return moe_serve_main(argc - 1, argv + 1);
    }

    snprintf(path, sizeof(path), "/tmp/moe-test-%d.sup", (int) getpid());

    return cmocka_run_group_tests(tests, NULL, teardown);
}
