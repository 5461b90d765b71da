/*
 * tokenizer.json and tiktoken.model are anyone's files: what is wrong in them
 * is said with its key or line, and nothing they hold is believed.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <openssl/evp.h>

#include "text/tokenizer_load.h"


#define GOOD_MODEL                                                            \
    "'type':'BPE','vocab':{'a':0,'b':1,'ab':2,'<u>':3},'merges':['a b']"
#define GOOD_DECODER  "'decoder':{'type':'Fuse'}"


/* JSON with ' for " */

static json_t *
test_json(const char *text)
{
    char          *s, *p;
    json_t        *root;
    json_error_t   e;

    s = strdup(text);
    assert_non_null(s);

    for (p = s; *p; p++) {
        *p = *p == '\'' ? '"' : *p;
    }

    root = json_loads(s, JSON_ALLOW_NUL, &e);
    if (root == NULL) {
        fail_msg("%s: %s", s, e.text);
    }

    free(s);

    return root;
}


static void
test_bad(const char *text, const char *config, const char *why)
{
    json_t           *root, *conf;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    root = test_json(text);
    conf = config ? test_json(config) : NULL;

    t = moe_tokenizer_build(root, conf, NULL, &err);

    if (t != NULL) {
        fail_msg("taken: %s", text);
    }

    if (strstr(err.text, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", text, err.text, why);
    }

    json_decref(root);
    json_decref(conf);
}


static void
test_model(const char *model, const char *why)
{
    char  text[4096];

    snprintf(text, sizeof(text), "{" GOOD_DECODER ",'model':{%s}}", model);
    test_bad(text, NULL, why);
}


static void
test_part(const char *part, const char *why)
{
    char  text[4096];

    snprintf(text, sizeof(text), "{'model':{" GOOD_MODEL "},%s%s}", part,
             strstr(part, "'decoder'") ? "" : "," GOOD_DECODER);
    test_bad(text, NULL, why);
}


static void
test_models(void **state)
{
    test_bad("[]", NULL, "tokenizer.json: not an object");
    test_bad("{}", NULL, "decoder.type");
    test_bad("{" GOOD_DECODER "}", NULL, "model is not an object");
    test_model("'type':'Unigram'", "model.type");
    test_model("'type':5", "model.type");
    test_model("'type':'BPE'", "model.vocab");
    test_model("'vocab':[]", "model.vocab");
    test_model("'vocab':{}", "model.merges");
    test_model("'vocab':{'a':'0'},'merges':[]", "\"a\"");
    test_model("'vocab':{'a':-1},'merges':[]", "\"a\"");
    test_model("'vocab':{'a':1.5},'merges':[]", "\"a\"");
    test_model("'vocab':{'a':4194304},'merges':[]", "below 4194304");
    test_model("'vocab':{'a':9223372036854775807},'merges':[]", "below");
    test_model("'vocab':{'a':0,'b':0},'merges':[]", "another token");
    test_model("'vocab':{'a':0},'merges':{}", "model.merges");
    test_model("'vocab':{'a':0},'merges':[7]", "model.merges[0]");
    test_model("'vocab':{'a':0},'merges':['a']", "not a pair");
    test_model("'vocab':{'a':0},'merges':['a a a']", "not a pair");
    test_model("'vocab':{'a':0},'merges':[['a']]", "not a pair");
    test_model("'vocab':{'a':0},'merges':[['a',1]]", "not a pair");
    test_model("'vocab':{'a':0},'merges':['a b']", "\"b\" is no token");
    test_model("'vocab':{'a':0,'b':1},'merges':['a b']", "what it makes");
    test_model(GOOD_MODEL ",'unk_token':'x'", "unk_token");
    test_model(GOOD_MODEL ",'unk_token':1", "unk_token");
    test_model(GOOD_MODEL ",'dropout':0.1", "dropout");
    test_model(GOOD_MODEL ",'continuing_subword_prefix':'##'", "continuing");
    test_model(GOOD_MODEL ",'end_of_word_suffix':'</w>'", "end_of_word");
    test_model(GOOD_MODEL ",'byte_fallback':1", "byte_fallback");
    test_model(GOOD_MODEL ",'ignore_merges':'yes'", "ignore_merges");
    test_part("'pre_tokenizer':{'type':'ByteLevel'},'model':{" GOOD_MODEL
              ",'byte_fallback':true}", "bytes");
}


static void
test_parts(void **state)
{
    test_part("'added_tokens':{}", "added_tokens");
    test_part("'added_tokens':[1]", "added_tokens");
    test_part("'added_tokens':[{'content':'x'}]", "added_tokens");
    test_part("'added_tokens':[{'id':9}]", "content");
    test_part("'added_tokens':[{'id':9,'content':''}]", "content");
    test_part("'added_tokens':[{'id':2,'content':'x'}]", "another token");
    test_part("'added_tokens':[{'id':9,'content':'a'}]", "has id 9");
    test_part("'added_tokens':[{'id':4294967296,'content':'x'}]", "below");
    test_part("'added_tokens':[{'id':9,'content':'x','special':1}]",
              "special");
    test_part("'added_tokens':[{'id':9,'content':'x','lstrip':'a'}]",
              "lstrip");

    test_part("'normalizer':5", "normalizer.type");
    test_part("'normalizer':{'type':'Lowercase'}", "Lowercase");
    test_part("'normalizer':{'type':'Precompiled'}", "Precompiled");
    test_part("'normalizer':{'type':'Sequence'}", "normalizers");
    test_part("'normalizer':{'type':'Prepend'}", "prepend");
    test_part("'normalizer':{'type':'Replace','content':'x'}", "Regex");
    test_part("'normalizer':{'type':'Replace','pattern':{'String':''},"
              "'content':'x'}", "empty");
    test_part("'normalizer':{'type':'Replace','pattern':{'Regex':'('},"
              "'content':'x'}", "normalizer: pattern");

    test_part("'pre_tokenizer':{'type':'BertPreTokenizer'}", "Bert");
    test_part("'pre_tokenizer':{'type':'Sequence','pretokenizers':[5]}",
              "pre_tokenizer.type");
    test_part("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'['},"
              "'behavior':'Isolated'}", "pre_tokenizer: pattern");
    test_part("'pre_tokenizer':{'type':'Split','pattern':{'Regex':'a'},"
              "'behavior':'Sometimes'}", "Sometimes");
    test_part("'pre_tokenizer':{'type':'Sequence','pretokenizers':["
              "{'type':'ByteLevel'},{'type':'Digits'}]}", "not the last");
    test_part("'pre_tokenizer':{'type':'Metaspace','replacement':'ab'}",
              "one character");
    test_part("'pre_tokenizer':{'type':'Metaspace','replacement':'_',"
              "'prepend_scheme':'often'}", "often");

    test_part("'decoder':{'type':'WordPiece'}", "WordPiece");
    test_part("'decoder':{'type':'Strip','content':' ','start':1,'stop':0}",
              "Strip");
    test_part("'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},"
              "{'type':'Strip','content':' ','start':0,'stop':1}]}", "Strip");
    test_part("'decoder':{'type':'Sequence','decoders':[{'type':'Fuse'},"
              "{'type':'ByteFallback'}]}", "ByteFallback");

    test_part("'post_processor':{'type':'BertProcessing'}", "Bert");
    test_part("'post_processor':{'type':'TemplateProcessing'}", "template");
    test_part("'post_processor':{'type':'TemplateProcessing','single':["
              "{'SpecialToken':{'id':'x'}}]}", "\"x\"");
    test_part("'post_processor':{'type':'TemplateProcessing','single':[],"
              "'special_tokens':{}}", "no text");
    test_part("'post_processor':{'type':'TemplateProcessing','single':["
              "{'SpecialToken':{'id':'x'}}],'special_tokens':{'x':"
              "{'ids':[77]}}}", "bad id");

    test_bad("{'model':{" GOOD_MODEL "}," GOOD_DECODER "}",
             "{'add_bos_token':true,'bos_token':'<none>'}", "add_bos_token");
    test_bad("{'model':{" GOOD_MODEL "}," GOOD_DECODER "}",
             "{'add_eos_token':1}", "add_eos_token");
}


/* steps inside steps inside steps */

static void
test_nesting(void **state)
{
    int         i;
    json_t     *root, *step, *list;
    moe_err_t   err;

    step = test_json("{'type':'NFC'}");

    for (i = 0; i < 1000; i++) {
        list = json_pack("[o]", step);
        step = json_pack("{s:s, s:o}", "type", "Sequence", "normalizers",
                         list);
    }

    root = test_json("{'model':{" GOOD_MODEL "}," GOOD_DECODER "}");
    json_object_set_new(root, "normalizer", step);
    assert_null(moe_tokenizer_build(root, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "nests too deep"));
    json_decref(root);
}


/* no byte of a file breaks the line that an error is */

static void
test_clean_line(void **state)
{
    char        *p;
    json_t      *root;
    moe_err_t    err;

    root = test_json("{" GOOD_DECODER ",'model':{'vocab':"
                     "{'\\n\\u001b[31mx':-1},'merges':[]}}");
    assert_null(moe_tokenizer_build(root, NULL, NULL, &err));

    for (p = err.text; *p; p++) {
        assert_true((uint8_t) *p >= ' ');
    }

    json_decref(root);
}


static void
test_write(const char *dir, const char *name, const char *text)
{
    size_t  len = strlen(text);
    char   path[256];
    FILE  *fp;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fp = fopen(path, "wb");
    assert_non_null(fp);
    assert_int_equal(fwrite(text, 1, len, fp), len);
    fclose(fp);
}


static void
test_dir_bad(const char *dir, const char *why)
{
    moe_err_t  err;

    assert_null(moe_tokenizer_load(dir, &err));
    assert_non_null(strstr(err.text, dir));

    if (strstr(err.text, why) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", err.text, why);
    }
}


static void
test_files(void **state)
{
    char              dir[] = "/tmp/test_tokenizer.XXXXXX", path[256];
    moe_err_t         err;
    moe_tokenizer_t  *t;

    static const char  good[] =
        "{\"decoder\":{\"type\":\"Fuse\"},\"model\":{\"type\":\"BPE\","
        "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}}";

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);

    test_dir_bad(dir, "No such file");
    test_write(dir, "tokenizer.json", "");
    test_dir_bad(dir, "line");
    test_write(dir, "tokenizer.json", good + 1);
    test_dir_bad(dir, "line");
    test_write(dir, "tokenizer.json", "{\"a\":1,\"a\":2}");
    test_dir_bad(dir, "duplicate");
    test_write(dir, "tokenizer.json", "\xFF\xFE{}");
    test_dir_bad(dir, "line");
    test_write(dir, "tokenizer.json", "{\"model\":1e999}");
    test_dir_bad(dir, "overflow");

    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0);
    test_dir_bad(dir, "not a file");
    unlink(path);

    test_write(dir, "tokenizer.json", good);
    t = moe_tokenizer_load(dir, &err);
    assert_non_null(t);
    assert_int_equal(moe_tokenizer_vocab_size(t), 3);
    moe_tokenizer_free(t);

    test_write(dir, "tokenizer_config.json", "[");
    test_dir_bad(dir, "tokenizer_config.json");
    test_write(dir, "tokenizer_config.json", "{\"eos_token\":{\"content\":"
               "\"b\"},\"model_max_length\":1000000000000000019884624838656}");
    t = moe_tokenizer_load(dir, &err);
    assert_non_null(t);
    assert_int_equal(moe_tokenizer_eos(t), 1);
    assert_int_equal(moe_tokenizer_bos(t), MOE_TOK_NONE);
    moe_tokenizer_free(t);

    unlink(path);
    snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
}


#define KIMI_CLASS                                                            \
    "'auto_map':{'AutoTokenizer':['tokenization_kimi.TikTokenTokenizer',null]}"


/* a tiktoken.model of all bytes, then these lines */

static char *
test_ranks_text(const char *more)
{
    int      i, n;
    char    *text, one[8];
    uint8_t  byte;

    text = malloc(65536);
    assert_non_null(text);
    n = 0;

    for (i = 0; i < 256; i++) {
        byte = (uint8_t) i;
        EVP_EncodeBlock((uint8_t *) one, &byte, 1);
        n += sprintf(text + n, "%s %d\n", one, i);
    }

    strcpy(text + n, more);

    return text;
}


static moe_tokenizer_t *
test_ranks_build(const char *text, const char *config, moe_err_t *err)
{
    json_t           *conf;
    moe_tokenizer_t  *t;

    conf = config ? test_json(config) : NULL;
    t = moe_tokenizer_build_tiktoken(text, strlen(text), conf, err);
    json_decref(conf);

    return t;
}


static void
test_ranks_bad(const char *more, const char *config, const char *why)
{
    char             *text;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    text = test_ranks_text(more);
    t = test_ranks_build(text, config ? config : "{" KIMI_CLASS "}", &err);

    if (t != NULL) {
        fail_msg("taken: %s", more);
    }

    if (strstr(err.text, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", more, err.text, why);
    }

    free(text);
}


/* lines as they must not be; "ab" is YWI=, "abc" YWJj */

static void
test_ranks(void **state)
{
    char             *text, *p;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_tokenizer_t  *t;

    test_ranks_bad("YWI=", NULL, "line 257 does not begin");
    test_ranks_bad(" 256", NULL, "line 257 does not begin");
    test_ranks_bad("YWI 256", NULL, "line 257 does not begin");
    test_ranks_bad("YW?= 256", NULL, "line 257 does not begin");
    test_ranks_bad("Y=I= 256", NULL, "line 257 does not begin");
    test_ranks_bad("==== 256", NULL, "line 257 does not begin");
    test_ranks_bad("YWJ= 256", NULL, "line 257 does not begin");
    test_ranks_bad("YWI= ", NULL, "line 257 has no rank");
    test_ranks_bad("YWI= -1", NULL, "line 257 does not end in a rank");
    test_ranks_bad("YWI= 0x100", NULL, "line 257 does not end in a rank");
    test_ranks_bad("YWI= 256 ", NULL, "line 257 does not end in a rank");
    test_ranks_bad("YWI= 256\r\n", NULL, "line 257 does not end in a rank");
    test_ranks_bad("YWI=  256", NULL, "line 257 does not end in a rank");
    test_ranks_bad("YWI= 257", NULL, "beyond the number");
    test_ranks_bad("YWI= 99999999999999999999999999", NULL, "beyond");
    test_ranks_bad("YWI= 18446744073709551872", NULL, "beyond");
    test_ranks_bad("\n\nYWI= 255", NULL, "line 259 has the rank of");
    test_ranks_bad("YWI= 256\nYWI= 257\n", NULL, "line 258 has the token of");
    test_ranks_bad("YWI= 256\nYWJj 258\n", NULL, "line 258 has a rank");

    /* one byte longer than a token may be */

    p = malloc(2048);
    memset(p, 'Y', 1368);
    strcpy(p + 1368, " 256");
    test_ranks_bad(p, NULL, "line 257 does not begin");
    free(p);

    test_ranks_bad("", "{}", "auto_map.AutoTokenizer");
    test_ranks_bad("", "{'auto_map':{'AutoTokenizer':5}}", "auto_map.Auto");
    test_ranks_bad("", "{'auto_map':{'AutoTokenizer':'qwen.\\u001bQwen'}}",
                   "\"qwen.?Qwen\" is not");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'5':"
                   "{'content':'x'}}}", "\"5\" is not a token");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'x':"
                   "{'content':'x'}}}", "\"x\" is not a token");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'4194304':"
                   "{'content':'x'}}}", "is not a token");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'256':7}}",
                   "\"256\" is not a token");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'256':{}}}",
                   "tokenizer_config.json: added_tokens.content");
    test_ranks_bad("", "{" KIMI_CLASS ",'added_tokens_decoder':{'257':"
                   "{'content':'a'}}}", "\"a\" has id 257");

    assert_null(test_ranks_build("", "{" KIMI_CLASS "}", &err));
    assert_non_null(strstr(err.text, "0 tokens"));
    assert_null(test_ranks_build("YQ== 0\n", "{" KIMI_CLASS "}", &err));
    assert_non_null(strstr(err.text, "lacks 255 bytes"));
    assert_null(test_ranks_build("YQ== 0\n", NULL, &err));
    assert_non_null(strstr(err.text, "is not known"));

    /* "bc" comes before "ab", and "abc" is made of "a" and "bc" too */

    text = test_ranks_text("YmM= 256\nYWI= 257\nYWJj 258\n");
    t = test_ranks_build(text, "{" KIMI_CLASS ",'added_tokens_decoder':"
                         "{'259':{'content':'<e>','special':true}},"
                         "'eos_token':'<e>'}", &err);
    assert_non_null(t);
    assert_int_equal(moe_tokenizer_vocab_size(t), 259 + 258);
    assert_int_equal(moe_tokenizer_eos(t), 259);
    assert_int_equal(moe_tokenizer_encode(t, "abcabb<|reserved_token_261|>",
                                          28, NULL, MOE_TOK_SPECIAL, &ids,
                                          &err), 0);
    assert_int_equal(ids.n, 4);
    assert_int_equal(ids.ids[0], 258);
    assert_int_equal(ids.ids[1], 257);
    assert_int_equal(ids.ids[2], 'b');
    assert_int_equal(ids.ids[3], 261);
    moe_tokenizer_free(t);
    moe_ids_free(&ids);
    free(text);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_models),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_nesting),
        cmocka_unit_test(test_clean_line),
        cmocka_unit_test(test_files),
        cmocka_unit_test(test_ranks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
