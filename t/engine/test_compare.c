/*
 * What quantization costs the demo model, as "moe-engine compare" reports it:
 * a model is like itself, and formats are as near as they were when they were
 * made.  Also the program's edges.
 *
 * Run from the root of the repository.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/file.h"
#include "compare.h"
#include "main.h"
#include "quantize.h"


static char  tmp[64], path[5][96];


static int
setup(void **state)
{
    FILE  *f;
    int    i;

    strcpy(tmp, "/tmp/moe_compare_XXXXXX");
    if (mkdtemp(tmp) == NULL) {
        return -1;
    }

    static const char *const  names[] = { "text", "int8", "int4", "out",
                                          "none" };
    for (i = 0; i < 5; i++) {
        snprintf(path[i], sizeof(path[i]), "%s/%s", tmp, names[i]);
    }

    f = fopen(path[0], "w");
    fputs("Once upon a time there was a little girl named Sara. She lived in "
          "a small house by the market. One day Sara got a green hat. Leo "
          "was a goat. He looked in the house and in the farm, but the pink "
          "whistle was not there. \"I will help you look,\" said Zoe.", f);
    fclose(f);

    return 0;
}


static int
teardown(void **state)
{
    char  cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -rf %s", tmp);

    return system(cmd);
}


/* standard output of fn goes to path[3] */
static int
call(int (*fn)(int argc, char **argv), int argc, char **argv)
{
    int  rc, saved;

    fflush(stdout);
    saved = dup(1);
    assert_non_null(freopen(path[3], "w", stdout));
    rc = fn(argc, argv);
    fflush(stdout);
    dup2(saved, 1);
    close(saved);

    return rc;
}


/* perplexity, same, kl of the row of a model */
static void
row(const char *text, const char *name, double v[3])
{
    char        key[128];
    const char  *p;

    snprintf(key, sizeof(key), "| %s |", name);
    p = strstr(text, key);
    assert_non_null(p);
    assert_int_equal(sscanf(p + strlen(key), " %lf | %lf %% | %lf", &v[0],
                            &v[1], &v[2]), 3);
}


static void
test_demo(void **state)
{
    char      *text;
    size_t     len;
    double     ref[3], i8[3], i4[3];
    moe_err_t  err;

    char  *make8[] = { "quantize", "-q", "-m", "models/demo", "-o", path[1],
                       NULL };
    char  *make4[] = { "quantize", "-q", "-m", "models/demo", "-o", path[2],
                       "--format", "int4", NULL };
    char  *cmp[] = { "compare", "--text", path[0], "--window", "40",
                     "models/demo", path[1], path[2], NULL };

    assert_int_equal(call(moe_quantize_main, 6, make8), 0);
    assert_int_equal(call(moe_quantize_main, 8, make4), 0);
    assert_int_equal(call(moe_compare_main, 8, cmp), 0);

    text = moe_file_read(path[3], 1 << 20, &len, NULL, &err);
    assert_non_null(text);
    row(text, "models/demo", ref);
    row(text, path[1], i8);
    row(text, path[2], i4);

    assert_true(ref[1] == 100 && ref[2] == 0);
    assert_true(i8[1] > 90 && i8[2] > 0 && i8[2] < 0.05);
    assert_true(i4[1] > 80 && i4[2] > 0 && i4[2] < 0.2);
    assert_true(i8[0] < ref[0] * 1.1 && i8[0] > ref[0] * 0.9);
    assert_true(i4[0] < ref[0] * 1.2 && i4[0] > ref[0] * 0.8);
    free(text);
}


static void
test_usage(void **state)
{
    char  *none[] = { "compare", "models/demo", NULL };
    char  *help[] = { "compare", "--help", NULL };
    char  *absent[] = { "compare", "--text", path[4], "models/demo", NULL };
    char  *vocab[] = { "compare", "--text", path[0], "--window", "8",
                       "models/demo", "t/golden/v3", NULL };
    char  *rule[] = { "quantize", "-m", "models/demo", "-o", path[4],
                      "--set", "lm_head.weight=int5", NULL };
    char   pattern[] = "*.expert.*=int4";
    char  *typo[] = { "quantize", "-m", "models/demo", "-o", path[4],
                      "--set", pattern, NULL };
    char  *dir[] = { "quantize", "-m", path[4], "-o", path[4], NULL };
    char  *verify[] = { "quantize", "--verify", path[0], NULL };

    assert_int_equal(call(moe_compare_main, 2, none), MOE_EXIT_USAGE);
    assert_int_equal(call(moe_compare_main, 2, help), 0);
    assert_int_equal(call(moe_compare_main, 4, absent), MOE_EXIT_ERROR);
    assert_int_equal(call(moe_compare_main, 7, vocab), MOE_EXIT_ERROR);
    assert_int_equal(call(moe_quantize_main, 7, rule), MOE_EXIT_USAGE);
    assert_int_equal(call(moe_quantize_main, 7, typo), MOE_EXIT_ERROR);
    assert_int_equal(call(moe_quantize_main, 5, dir), MOE_EXIT_ERROR);
    assert_int_equal(call(moe_quantize_main, 3, verify), MOE_EXIT_ERROR);
    assert_int_not_equal(access(path[4], F_OK), 0);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_usage)
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
