/*
 * What quantization costs the demo model, as "moe-engine compare" reports it:
 * a model is like itself, and formats are as near as they were when they were
 * made.  Also another program's file of log-probabilities, and the program's
 * edges.
 *
 * Run from the root of the repository.
 */

#include <math.h>
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
#include "model/model.h"
#include "quantize.h"


enum { VOCAB = 4096 };            /* of the demo model */


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


/* what quantize wrote under the names that files have next */
static void
clear_dirs(void)
{
    char  cmd[256];

    snprintf(cmd, sizeof(cmd), "rm -rf %s %s", path[1], path[2]);
    assert_int_equal(system(cmd), 0);
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


/* a file as llama-perplexity writes it: one window of 16, here of what the
 * demo model itself says; off: what the log-probability of the least likely
 * token is to be, beside the likeliest's */
static void
write_base(const char *path, float off)
{
    FILE         *f;
    float         logits[7 * VOCAB], scale, least, *l;
    double        sum;
    uint32_t      i, j, ids[16], pages[1] = { 0 }, pos[16], want[7], best,
                  worst;
    uint16_t      row[VOCAB];
    moe_err_t     err;
    moe_batch_t   b;
    moe_model_t  *m;

    uint32_t             seq[16] = { 0 };
    uint8_t              role[16] = { 0 };
    const uint32_t      *tables[1] = { pages };
    const uint32_t       head[3] = { 16, VOCAB, 1 };
    moe_model_options_t  o = { .threads = 1, .max_rows = 16, .kv_pages = 1 };

    m = moe_model_open("models/demo", &o, NULL, NULL, &err);
    assert_non_null(m);

    for (i = 0; i < 16; i++) {
        ids[i] = i == 0 ? 0 : 300 + i;
        pos[i] = i;
    }

    for (i = 0; i < 7; i++) {
        want[i] = 8 + i;
    }

    b = (moe_batch_t) { 16, ids, pos, seq, role, 1, tables, 7, want };
    assert_int_equal(moe_model_step(m, &b, logits, &err), 0);
    moe_model_close(m);

    ids[0] = 299;               /* the reader puts the beginning there */
    f = fopen(path, "wb");
    fwrite("_logits_", 1, 8, f);
    fwrite(head, 4, 3, f);
    fwrite(ids, 4, 16, f);

    for (i = 0; i < 7; i++) {
        l = logits + i * VOCAB;
        sum = 0;
        best = 0;
        worst = 0;

        for (j = 0; j < VOCAB; j++) {
            best = l[j] > l[best] ? j : best;
            worst = l[j] < l[worst] ? j : worst;
        }

        l[worst] = l[best] + off;

        for (j = 0; j < VOCAB; j++) {
            sum += exp(l[j] - l[best]);
        }

        sum = log(sum) + l[best];
        scale = 22.0f / 65535;
        least = (float) (l[best] - sum) - 19;

        for (j = 0; j < VOCAB; j++) {
            row[j] = l[j] - sum < least ? 0
                     : (uint16_t) lrint((l[j] - sum - least) / scale);
        }

        fwrite(&scale, 4, 1, f);
        fwrite(&least, 4, 1, f);
        fwrite(row, 2, VOCAB, f);
    }

    fclose(f);
}


/* the numbers of the line of compare --base */
static void
base_row(double v[7])
{
    char        *text;
    size_t       len;
    moe_err_t    err;
    const char  *p;

    text = moe_file_read(path[3], 1 << 20, &len, NULL, &err);
    assert_non_null(text);
    p = strstr(text, "| models/demo |");
    assert_non_null(p);
    assert_int_equal(sscanf(p + 15, " %lf | %lf | %lf %% | %lf | %lf | %lf "
                            "%% | %lf", &v[0], &v[1], &v[2], &v[3], &v[4],
                            &v[5], &v[6]), 7);
    free(text);
}


static void
test_base(void **state)
{
    FILE    *f;
    double   v[7];

    char  *cmp[] = { "compare", "--base", path[1], "--noise", path[2],
                     "--threads", "1", "models/demo", NULL };
    char  *other[] = { "compare", "--base", path[0], "models/demo", NULL };

    clear_dirs();

    /* one token is far less likely: nearly the model itself */
    write_base(path[1], -15);
    write_base(path[2], -15);
    assert_int_equal(call(moe_compare_main, 8, cmp), 0);
    base_row(v);
    assert_true(v[0] < 1e-4 && v[2] == 100 && v[3] == 0 && v[4] == 0);
    assert_true(v[5] == 100 && v[6] == 0);

    /* another token is the likeliest in every row, and that is no noise */
    write_base(path[1], 2);
    write_base(path[2], 2);
    assert_int_equal(call(moe_compare_main, 8, cmp), 0);
    base_row(v);
    assert_true(v[0] > 0.1 && v[2] == 0 && v[5] == 100 && v[6] == 7);

    /* now it is */
    write_base(path[2], -2);
    assert_int_equal(call(moe_compare_main, 8, cmp), 0);
    base_row(v);
    assert_true(v[2] == 0 && v[3] > 0.1 && v[4] > 2 && v[5] == 0
                && v[6] == 0);

    /* not such a file; one that is cut; other tokens */
    assert_int_equal(call(moe_compare_main, 4, other), MOE_EXIT_ERROR);
    assert_int_equal(truncate(path[2], 1000), 0);
    assert_int_equal(call(moe_compare_main, 8, cmp), MOE_EXIT_ERROR);
    write_base(path[2], 0);
    f = fopen(path[2], "r+b");
    fseek(f, 24, SEEK_SET);
    fputc(7, f);
    fclose(f);
    assert_int_equal(call(moe_compare_main, 8, cmp), MOE_EXIT_ERROR);
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
        cmocka_unit_test(test_base),
        cmocka_unit_test(test_usage)
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
