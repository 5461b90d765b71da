#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "front/text.h"


#define MODEL  "models/demo"


static char        dir[64];
static moe_text_t  text;


static void
copy(const char *name)
{
    char  cmd[256];

    snprintf(cmd, sizeof(cmd), "cp " MODEL "/%s %s/", name, dir);
    assert_int_equal(system(cmd), 0);
}


static void
write_file(const char *name, const char *data)
{
    char   path[128];
    FILE  *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    fputs(data, f);
    fclose(f);
}


static int
load(const char *template, uint32_t context, moe_err_t *err)
{
    memset(&text, 0, sizeof(text));

    return moe_text_load(&text, dir, template, context, err);
}


static void
assert_renders(const char *expected)
{
    json_t          *vars;
    moe_err_t        err;
    moe_rendered_t   out;

    assert_non_null(text.template);

    vars = json_copy(text.tokens);
    json_object_set_new(vars, "messages", json_array());

    assert_int_equal(moe_template_render(text.template, vars, NULL, &out,
                                         &err), 0);
    assert_string_equal(out.text, expected);

    moe_rendered_free(&out);
    json_decref(vars);
}


static void
test_model(void **unused)
{
    uint32_t    i, seen;
    moe_err_t   err;
    moe_str_t   name;

    memset(&text, 0, sizeof(text));
    assert_int_equal(moe_text_load(&text, MODEL, NULL, 0, &err), 0);

    assert_int_equal(text.nnames, 1);
    assert_string_equal(text.names[0], "demo");
    assert_true(text.created > 1000000000);
    assert_int_equal(text.context, text.config.max_positions);
    assert_non_null(text.template);
    assert_true(json_is_string(json_object_get(text.tokens, "bos_token")));

    for (i = 0, seen = 0; i < text.neos; i++) {
        seen += text.eos[i] == moe_tokenizer_eos(text.tokenizer);
    }

    assert_int_equal(seen, 1);

    name.data = NULL;
    name.len = 0;
    assert_int_equal(moe_text_name(&text, &name), 0);

    name.data = "demonstration";
    name.len = 4;
    assert_int_equal(moe_text_name(&text, &name), 0);
    name.len = 5;
    assert_int_equal(moe_text_name(&text, &name), -1);

    moe_text_free(&text);
}


/* what tokenizer_config.json may look like */

static void
test_templates(void **unused)
{
    moe_err_t  err;

    copy("config.json");
    copy("tokenizer.json");

    /* none at all */

    assert_int_equal(load(NULL, 100, &err), 0);
    assert_null(text.template);
    assert_int_equal(text.context, 100);
    moe_text_free(&text);

    write_file("tokenizer_config.json",
               "{\"model_max_length\": 1000000000000000019884624838656, "
               "\"bos_token\": {\"content\": \"<B>\"}, \"eos_token\": "
               "\"<E>\", \"pad_token\": null, \"chat_template\": "
               "\"{{ bos_token }}|{{ eos_token }}|"
               "{{ pad_token is defined }}\"}");
    assert_int_equal(load(NULL, 0, &err), 0);
    assert_renders("<B>|<E>|False");
    moe_text_free(&text);

    write_file("tokenizer_config.json",
               "{\"chat_template\": [{\"name\": \"tool_use\", \"template\": "
               "\"no\"}, {\"name\": \"default\", \"template\": \"yes\"}]}");
    write_file("special_tokens_map.json",
               "{\"additional_special_tokens\": [\"<x>\", "
               "{\"content\": \"<y>\"}]}");
    assert_int_equal(load(NULL, 0, &err), 0);
    assert_renders("yes");
    assert_int_equal(json_array_size(
                         json_object_get(text.tokens,
                                         "additional_special_tokens")), 2);
    moe_text_free(&text);

    /* a file of its own comes before, one that was named before that */

    write_file("chat_template.jinja", "own");
    assert_int_equal(load(NULL, 0, &err), 0);
    assert_renders("own");
    moe_text_free(&text);

    write_file("other.jinja", "other");
    {
        char  path[128];

        snprintf(path, sizeof(path), "%s/other.jinja", dir);
        assert_int_equal(load(path, 0, &err), 0);
        assert_renders("other");
        moe_text_free(&text);
    }
}


/* every file that has a say in an answer is in the fingerprint */

static void
test_fingerprint(void **unused)
{
    size_t     i, j;
    uint8_t    prints[9][2][32], model[32] = { 1 };
    char       path[128];
    moe_err_t  err;

    static const struct {
        const char  *file;
        const char  *data;
        uint32_t     context;
        int          given;
    } steps[] = {
        { NULL, NULL, 0, 0 },
        { NULL, NULL, 100, 0 },
        { "generation_config.json", "{\"temperature\": 0.5}", 0, 0 },
        { "generation_config.json", "{\"temperature\": 0.6}", 0, 0 },
        { "tokenizer_config.json", "{\"bos_token\": \"<B>\"}", 0, 0 },
        { "special_tokens_map.json", "{\"eos_token\": \"<E>\"}", 0, 0 },
        { "chat_template.jinja", "own", 0, 0 },
        { "other.jinja", "other", 0, 1 },
        { "other.jinja", "others", 0, 1 }
    };

    copy("config.json");
    copy("tokenizer.json");
    snprintf(path, sizeof(path), "%s/other.jinja", dir);

    for (i = 0; i < 9; i++) {

        if (steps[i].file) {
            write_file(steps[i].file, steps[i].data);
        }

        for (j = 0; j < 2; j++) {
            assert_int_equal(load(steps[i].given ? path : NULL,
                                  steps[i].context, &err), 0);
            moe_text_fingerprint(&text, model, prints[i][j]);
            moe_text_free(&text);
        }

        assert_memory_equal(prints[i][0], prints[i][1], 32);

        for (j = 0; j < i; j++) {
            assert_memory_not_equal(prints[i][0], prints[j][0], 32);
        }
    }

    model[0] = 2;
    assert_int_equal(load(path, 0, &err), 0);
    moe_text_fingerprint(&text, model, prints[0][0]);
    moe_text_free(&text);
    assert_memory_not_equal(prints[0][0], prints[8][0], 32);
}


/* a directory as Kimi-K2's: ranks, and what is about them */

static void
test_ranks(void **unused)
{
    int        i, n;
    char       ranks[4096], path[128];
    uint8_t    byte, prints[2][32], model[32] = { 1 };
    moe_err_t  err;
    moe_ids_t  ids = { 0 };

    for (i = 0, n = 0; i < 256; i++) {
        byte = (uint8_t) i;
        n += EVP_EncodeBlock((uint8_t *) ranks + n, &byte, 1);
        n += sprintf(ranks + n, " %d\n", i);
    }

    copy("config.json");
    write_file("tiktoken.model", ranks);
    write_file("tokenizer_config.json",
               "{\"auto_map\": {\"AutoTokenizer\": "
               "[\"tokenization_kimi.TikTokenTokenizer\", null]}, "
               "\"added_tokens_decoder\": {\"258\": {\"content\": "
               "\"[EOS]\", \"special\": true}}, \"eos_token\": \"[EOS]\", "
               "\"chat_template\": \"{{ eos_token }}\"}");

    assert_int_equal(load(NULL, 0, &err), 0);
    assert_renders("[EOS]");
    assert_int_equal(moe_tokenizer_eos(text.tokenizer), 258);
    assert_int_equal(moe_tokenizer_encode(text.tokenizer, "a[EOS]", 6, NULL,
                                          MOE_TOK_SPECIAL, &ids, &err), 0);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], 'a');
    assert_int_equal(ids.ids[1], 258);
    moe_ids_free(&ids);
    moe_text_fingerprint(&text, model, prints[0]);
    moe_text_free(&text);

    sprintf(ranks + n, "YWE= 256\n");
    write_file("tiktoken.model", ranks);
    assert_int_equal(load(NULL, 0, &err), 0);
    moe_text_fingerprint(&text, model, prints[1]);
    moe_text_free(&text);
    assert_memory_not_equal(prints[0], prints[1], 32);

    /* who looks for the vocabulary is told of the name that most have */

    snprintf(path, sizeof(path), "%s/tiktoken.model", dir);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(load(NULL, 0, &err), -1);
    assert_non_null(strstr(err.text, "tokenizer.json: No such file"));
}


static void
assert_fails(const char *template, const char *part)
{
    moe_err_t  err;

    memset(&err, 0, sizeof(err));
    assert_int_equal(load(template, 0, &err), -1);

    if (strstr(err.text, part) == NULL) {
        fail_msg("\"%s\" has no \"%s\"", err.text, part);
    }
}


static void
test_errors(void **unused)
{
    copy("config.json");
    copy("tokenizer.json");
    write_file("tokenizer_config.json", "{}");
    write_file("special_tokens_map.json", "{}");
    write_file("chat_template.jinja", "{% if %}");

    assert_fails(NULL, "chat_template.jinja");
    assert_fails("/nonexistent.jinja", "/nonexistent.jinja: no such file");

    write_file("chat_template.jinja", "fine");
    write_file("special_tokens_map.json", "[]");
    assert_fails(NULL, "special_tokens_map.json");

    write_file("tokenizer_config.json", "{\"bos_token\": ");
    assert_fails(NULL, "tokenizer_config.json");

    write_file("config.json", "{}");
    assert_fails(NULL, "config.json");
}


static int
setup(void **unused)
{
    snprintf(dir, sizeof(dir), "/tmp/moe-test-text-XXXXXX");

    return mkdtemp(dir) ? 0 : -1;
}


static int
teardown(void **unused)
{
    char  cmd[128];

    snprintf(cmd, sizeof(cmd), "rm -r %s", dir);

    return system(cmd);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_model),
        cmocka_unit_test_setup_teardown(test_templates, setup, teardown),
        cmocka_unit_test_setup_teardown(test_fingerprint, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ranks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
