/*
 * The run command: text on standard output, the reference's answers.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "run.h"


static char  out[65536];
static char  err[65536];


static void
slurp(FILE *f, char *buf)
{
    size_t  n;

    rewind(f);
    n = fread(buf, 1, 65535, f);
    buf[n] = '\0';
    fclose(f);
}


/* runs the command as its own process; the exit code */
static int
run(const char *input, const char *const *args)
{
    int    argc, status;
    char  *argv[20];
    FILE  *files[3];
    pid_t  pid;

    argv[0] = "run";

    for (argc = 1; args[argc - 1]; argc++) {
        argv[argc] = (char *) (uintptr_t) args[argc - 1];
    }

    argv[argc] = NULL;

    files[0] = tmpfile();
    files[1] = tmpfile();
    files[2] = tmpfile();
    assert_true(files[0] && files[1] && files[2]);

    fputs(input, files[0]);
    fflush(files[0]);
    rewind(files[0]);
    fflush(stdout);

    pid = fork();
    assert_true(pid >= 0);

    if (pid == 0) {
        dup2(fileno(files[0]), 0);
        dup2(fileno(files[1]), 1);
        dup2(fileno(files[2]), 2);
        status = moe_run_main(argc, argv);
        fflush(stdout);
        _exit(status);
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));

    fclose(files[0]);
    slurp(files[1], out);
    slurp(files[2], err);

    return WEXITSTATUS(status);
}


#define RUN(input, ...)  run(input, (const char *const []) { __VA_ARGS__, NULL })


static void
test_reference(void **state)
{
    char           want[4096], n[16];
    size_t         i;
    json_t        *golden, *p;
    json_error_t   je;

    golden = json_load_file("t/golden/demo/golden.json", 0, &je);
    assert_non_null(golden);

    json_array_foreach(json_object_get(golden, "prompts"), i, p) {
        snprintf(n, sizeof(n), "%zu",
                 json_array_size(json_object_get(p, "greedy")));
        snprintf(want, sizeof(want), "%s\n",
                 json_string_value(json_object_get(p, "answer")));

        assert_int_equal(RUN("", "-m", "models/demo", "--chat", "--temp", "0",
                             "-n", n, "-p",
                             json_string_value(json_object_get(p, "user"))),
                         0);
        assert_string_equal(out, want);
    }

    assert_true(i > 0);
    json_decref(golden);
}


static void
test_seed(void **state)
{
    char  first[65536];

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "Once upon a time",
                         "--seed", "7", "-n", "40", "--threads", "1"), 0);
    assert_true(strlen(out) > 40);
    strcpy(first, out);

    assert_non_null(strstr(err, "seed 7]"));
    assert_non_null(strstr(err, " 40 sampled"));

    /* the prompt from standard input, two threads, plain kernels */
    assert_int_equal(RUN("Once upon a time", "-m", "models/demo", "-p", "-",
                         "--seed", "7", "-n", "40", "--threads", "2",
                         "--kernels", "plain"), 0);
    assert_string_equal(out, first);

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "Once upon a time",
                         "--seed", "8", "-n", "40"), 0);
    assert_string_not_equal(out, first);
}


/* however many processes have the experts */
static void
test_ranks(void **state)
{
    char  first[65536];

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "Once upon a time",
                         "--seed", "7", "-n", "40"), 0);
    strcpy(first, out);

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "Once upon a time",
                         "--seed", "7", "-n", "40", "--ranks", "2"), 0);
    assert_string_equal(out, first);

    assert_int_equal(RUN("Once upon a time", "-m", "models/demo", "-p", "-",
                         "--seed", "7", "-n", "40", "--ranks", "4",
                         "--threads", "1"), 0);
    assert_string_equal(out, first);

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "x", "--ranks",
                         "17"), 1);
    assert_non_null(strstr(err, "at most 16"));

    assert_int_equal(RUN("", "-m", "t/golden/nothing", "-p", "x", "--ranks",
                         "2"), 1);
}


static void
test_usage(void **state)
{
    assert_int_equal(RUN("", "-m", "models/demo"), 2);
    assert_non_null(strstr(err, "usage"));
    assert_string_equal(out, "");

    assert_int_equal(RUN("", "--help"), 0);
    assert_non_null(strstr(out, "usage"));

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "x", "--temp", "nan"),
                     2);
    assert_int_equal(RUN("", "-m", "models/demo", "-p", "x", "-n", "-1"), 2);
    assert_int_equal(RUN("", "-m", "models/demo", "-p", "x", "--seed", ""),
                     2);

    assert_int_equal(RUN("", "-m", "t/golden/nothing", "-p", "x"), 1);
    assert_non_null(strstr(err, "t/golden/nothing/config.json"));
    assert_string_equal(out, "");

    assert_int_equal(RUN("", "-m", "models/demo", "-p", "x", "--chat",
                         "--kernels", "none"), 1);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reference),
        cmocka_unit_test(test_seed),
        cmocka_unit_test(test_ranks),
        cmocka_unit_test(test_usage)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
