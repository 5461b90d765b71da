#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "inspect.h"


static char  text[16384];      /* what the last run printed, both streams */


static int
inspect(char *a, char *b, char *c, char *d, char *e)
{
    int      rc, out, err;
    FILE    *f;
    char    *argv[] = { "inspect", a, b, c, d, e, NULL };
    int      argc;
    size_t   n;

    for (argc = 1; argv[argc] != NULL; argc++) {
        /* void */
    }

    f = tmpfile();
    assert_non_null(f);

    fflush(stdout);
    fflush(stderr);
    out = dup(STDOUT_FILENO);
    err = dup(STDERR_FILENO);
    dup2(fileno(f), STDOUT_FILENO);
    dup2(fileno(f), STDERR_FILENO);

    rc = moe_inspect_main(argc, argv);

    fflush(stdout);
    fflush(stderr);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);

    rewind(f);
    n = fread(text, 1, sizeof(text) - 1, f);
    text[n] = '\0';
    fclose(f);

    return rc;
}


static void
says(const char *what)
{
    if (strstr(text, what) == NULL) {
        fail_msg("no \"%s\" in:\n%s", what, text);
    }
}


static void
test_good(void **state)
{
    assert_int_equal(inspect("models/demo", "--ctx", "100", "--batch", "8"),
                     0);
    says("family       DeepSeek-V3 (DeepseekV3ForCausalLM)");
    says("attention    MLA: ");
    says("parameters   ");
    says("BF16 ");
    says("8 x 100 tokens: KV ");
    says("tokenizer    4096 tokens, a chat template");
    says("supported    yes");
}


/* what the models of the goldens have: weights, and nothing for text */
static void
test_no_text(void **state)
{
    assert_int_equal(inspect("t/golden/qwen2-moe", NULL, NULL, NULL, NULL),
                     1);
    says("moe-engine inspect: t/golden/qwen2-moe/tokenizer.json: No such");
    says("supported    no");
    says("attention    GQA: ");
    says("biases");
    says(", gated");

    assert_int_equal(inspect("t/golden/v3-fp8", NULL, NULL, NULL, NULL), 1);
    says("F8_E4M3 ");

    assert_int_equal(inspect("t/golden/v3-yarn", "--ctx", "16000000", NULL,
                             NULL), 1);
    says("YaRN by ");
    says("is beyond the model's");

    assert_int_equal(inspect("t/golden/glm4-moe", NULL, NULL, NULL, NULL), 1);
    says("family       GLM-4-MoE (Glm4MoeForCausalLM)");
    says("biases, norm per head");
    says("8 of 16 dimensions rotated");
    says("router       sigmoid with correction bias, normalized");

    assert_int_equal(inspect("t/golden/minimax-m2", NULL, NULL, NULL, NULL),
                     1);
    says("family       MiniMax-M2 (MiniMaxM2ForCausalLM)");
    says("norm over all heads");

    assert_int_equal(inspect("t/golden/gpt-oss-mxfp4", NULL, NULL, NULL,
                             NULL), 1);
    says("family       gpt-oss (GptOssForCausalLM)");
    says("biases, sinks, a window of 20 in 1 layers");
    says("6 of width 32, 2 a token; clamped at 7, biases");
    says("router       softmax over the chosen\n");
    says("MXFP4 ");

    assert_int_equal(inspect("t/golden/kimi-k2", NULL, NULL, NULL, NULL), 1);
    says("family       Kimi-K2 (DeepseekV3ForCausalLM)");
}


static void
test_broken(void **state)
{
    assert_int_equal(inspect("/nonexistent", NULL, NULL, NULL, NULL), 1);
    says("/nonexistent/config.json: no such file");
}


static void
test_unsupported(void **state)
{
    char   dir[] = "/tmp/test_inspect.XXXXXX", path[64];
    FILE  *f;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/config.json", dir);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs("{\"architectures\": [\"MixtralForCausalLM\"], \"hidden_size\": 64,"
          "\"intermediate_size\": 64, \"max_position_embeddings\": 64,"
          "\"num_attention_heads\": 2, \"num_experts_per_tok\": 2,"
          "\"num_hidden_layers\": 2, \"num_local_experts\": 4,"
          "\"vocab_size\": 64, \"sliding_window\": 16}", f);
    fclose(f);

    /* the figures are printed although there are no weights */
    assert_int_equal(inspect(dir, NULL, NULL, NULL, NULL), 1);
    says("not supported: sliding_window 16");
    says("model.safetensors: No such file");
    says("parameters   ");
    says("supported    no");

    unlink(path);
    rmdir(dir);
}


static void
test_usage(void **state)
{
    assert_int_equal(inspect(NULL, NULL, NULL, NULL, NULL), 2);
    says("usage: moe-engine inspect DIR");
    assert_int_equal(inspect("--help", NULL, NULL, NULL, NULL), 0);
    says("usage: moe-engine inspect DIR");
    assert_int_equal(inspect("a", "b", NULL, NULL, NULL), 2);
    says("unexpected \"b\"");
    assert_int_equal(inspect("a", "--what", NULL, NULL, NULL), 2);
    assert_int_equal(inspect("a", "--ctx", NULL, NULL, NULL), 2);
    says("--ctx takes a number");
    assert_int_equal(inspect("a", "--ctx", "0", NULL, NULL), 2);
    assert_int_equal(inspect("a", "--ctx", "9x", NULL, NULL), 2);
    assert_int_equal(inspect("a", "--batch", "99999999999999999999",
                             NULL, NULL), 2);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_good),
        cmocka_unit_test(test_no_text),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_usage),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
