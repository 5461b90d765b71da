/*
 * Tokenizers in GGUF metadata against the tokenizer.json that they are made
 * of here, as llama.cpp's converter does, on the lines of t/golden/tokenizer.
 * The vocabularies are looked for in $MOE_TOKENIZERS, or build/tokenizers.
 */

#include <jansson.h>
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
#include "front/text.h"
#include "model/gguf_text.h"


/* a GGUF file that is being written */
typedef struct {
    uint8_t  *data;
    size_t    n;
    size_t    cap;
    uint64_t  keys;
} out_t;

/* the texts of a vocabulary by id, borrowed from its JSON */
typedef struct {
    const char  **text;
    int32_t      *kind;
    float        *score;
    uint64_t      n;
} tokens_t;


static void
put(out_t *o, const void *p, size_t n)
{
    if (o->n + n > o->cap) {
        o->cap = (o->n + n) * 2;
        o->data = realloc(o->data, o->cap);
        assert_non_null(o->data);
    }

    memcpy(o->data + o->n, p, n);
    o->n += n;
}


static void
put_u32(out_t *o, uint32_t v)
{
    put(o, &v, sizeof(v));
}


static void
put_u64(out_t *o, uint64_t v)
{
    put(o, &v, sizeof(v));
}


static void
put_string(out_t *o, const char *s)
{
    put_u64(o, strlen(s));
    put(o, s, strlen(s));
}


static void
put_key(out_t *o, const char *key, uint32_t type)
{
    put_string(o, key);
    put_u32(o, type);
    o->keys++;
}


static void
put_array(out_t *o, const char *key, uint32_t type, uint64_t n)
{
    put_key(o, key, MOE_GGUF_ARRAY);
    put_u32(o, type);
    put_u64(o, n);
}


static void
put_text(out_t *o, const char *key, const char *s)
{
    put_key(o, key, MOE_GGUF_STRING);
    put_string(o, s);
}


static void
begin(out_t *o)
{
    memset(o, 0, sizeof(*o));
    put(o, "GGUF", 4);
    put_u32(o, 3);
    put_u64(o, 0);
    put_u64(o, 0);
}


/* the file's bytes are the caller's as long as it is open */
static moe_gguf_t *
end(out_t *o)
{
    moe_err_t    err;
    moe_gguf_t  *g;

    memcpy(o->data + 16, &o->keys, 8);

    g = moe_gguf_open_memory(o->data, o->n, "file", &err);
    if (g == NULL) {
        fail_msg("%s", err.text);
    }

    return g;
}


static void
set_token(tokens_t *t, json_int_t id, const char *text, int32_t kind)
{
    assert_true(id >= 0 && (uint64_t) id < t->n);
    t->text[id] = text;
    t->kind[id] = kind;
}


/* a piece's score from the place of its merges, which were made of scores */
static void
score_merges(tokens_t *t, json_t *model)
{
    size_t       i, n;
    char         text[9000];
    json_t      *v, *vocab;
    const char  *s;

    vocab = json_object_get(model, "vocab");

    json_array_foreach(json_object_get(model, "merges"), i, v) {
        s = json_string_value(v);
        n = strcspn(s, " ");
        snprintf(text, sizeof(text), "%.*s%s", (int) n, s, s + n + 1);

        v = json_object_get(vocab, text);
        assert_non_null(v);

        if (t->score[json_integer_value(v)] == 0) {
            t->score[json_integer_value(v)] = -1 - (float) i;
        }
    }

    for (i = 0; i < t->n; i++) {
        t->score[i] = t->score[i] == 0 ? -1e9f : t->score[i];
    }
}


static void
tokens_of(tokens_t *t, json_t *root, int pieces)
{
    size_t       i;
    json_t      *vocab, *added, *v;
    const char  *key;

    vocab = json_object_get(json_object_get(root, "model"), "vocab");
    added = json_object_get(root, "added_tokens");

    t->n = json_object_size(vocab) + json_array_size(added) + 1;
    t->text = calloc(t->n, sizeof(char *));
    t->kind = calloc(t->n, sizeof(int32_t));
    t->score = calloc(t->n, sizeof(float));

    for (i = 0; i < t->n; i++) {
        t->text[i] = "[PAD]";
        t->kind[i] = 5;
    }

    json_object_foreach(vocab, key, v) {
        set_token(t, json_integer_value(v), key,
                  pieces && strlen(key) == 6 && memcmp(key, "<0x", 3) == 0
                  ? 6 : 1);
    }

    json_array_foreach(added, i, v) {
        key = json_string_value(json_object_get(v, "content"));
        set_token(t, json_integer_value(json_object_get(v, "id")), key,
                  strcmp(key, "<unk>") == 0 ? 2
                  : json_is_true(json_object_get(v, "special")) ? 3 : 4);
    }

    if (pieces) {
        score_merges(t, json_object_get(root, "model"));
    }
}


static void
tokens_free(tokens_t *t)
{
    free(t->text);
    free(t->kind);
    free(t->score);
}


static void
put_merges(out_t *o, json_t *merges)
{
    size_t       i;
    char         text[9000];
    json_t      *v;
    const char  *s;

    put_array(o, "tokenizer.ggml.merges", MOE_GGUF_STRING,
              json_array_size(merges));

    json_array_foreach(merges, i, v) {
        s = json_string_value(v);

        if (s == NULL) {
            snprintf(text, sizeof(text), "%s %s",
                     json_string_value(json_array_get(v, 0)),
                     json_string_value(json_array_get(v, 1)));
            s = text;
        }

        put_string(o, s);
    }
}


/* pre NULL: scores in place of merges */
static moe_tokenizer_t *
of_metadata(json_t *root, const char *pre)
{
    out_t             o;
    uint64_t          i;
    tokens_t          t;
    moe_err_t         err;
    moe_gguf_t       *g;
    moe_tokenizer_t  *tok;

    tokens_of(&t, root, pre == NULL);
    begin(&o);

    put_text(&o, "tokenizer.ggml.model", pre ? "gpt2" : "llama");
    put_text(&o, "tokenizer.ggml.pre", pre ? pre : "default");
    put_array(&o, "tokenizer.ggml.tokens", MOE_GGUF_STRING, t.n);

    for (i = 0; i < t.n; i++) {
        put_string(&o, t.text[i]);
    }

    put_array(&o, "tokenizer.ggml.token_type", MOE_GGUF_I32, t.n);
    put(&o, t.kind, t.n * sizeof(int32_t));

    if (pre == NULL) {
        put_array(&o, "tokenizer.ggml.scores", MOE_GGUF_F32, t.n);
        put(&o, t.score, t.n * sizeof(float));

    } else {
        put_merges(&o, json_object_get(json_object_get(root, "model"),
                                       "merges"));
    }

    put_key(&o, "tokenizer.ggml.bos_token_id", MOE_GGUF_U32);
    put_u32(&o, 1);
    g = end(&o);

    tok = moe_gguf_tokenizer(g, &err);
    if (tok == NULL) {
        fail_msg("%s", err.text);
    }

    moe_gguf_close(g);
    free(o.data);
    tokens_free(&t);

    return tok;
}


static uint32_t
next_number(const char *data, size_t *at)
{
    int       shift;
    uint8_t   b;
    uint32_t  n;

    n = 0;

    for (shift = 0; shift < 32; shift += 7) {
        b = (uint8_t) data[(*at)++];
        n |= (uint32_t) (b & 127) << shift;

        if (b < 128) {
            break;
        }
    }

    return n;
}


static void
same_pieces(const char *name, const moe_tokenizer_t *a,
    const moe_tokenizer_t *b)
{
    int          ra, rb;
    size_t       na, nb;
    uint32_t     id;
    const char  *pa, *pb;

    assert_int_equal(moe_tokenizer_vocab_size(a), moe_tokenizer_vocab_size(b));

    for (id = 0; id < moe_tokenizer_vocab_size(a); id++) {
        ra = moe_tokenizer_piece(a, id, &pa, &na);
        rb = moe_tokenizer_piece(b, id, &pb, &nb);

        if (ra != rb || (ra == 0 && (na != nb || memcmp(pa, pb, na) != 0))
            || moe_tokenizer_is_special(a, id)
               != moe_tokenizer_is_special(b, id))
        {
            fail_msg("%s: token %u is another", name, id);
        }
    }
}


static void
compare(const char *name, const char *dir, const char *pre)
{
    char             *lines, path[512];
    size_t            len, at;
    json_t           *root;
    uint32_t          n;
    moe_err_t         err;
    moe_ids_t         x = { 0 }, y = { 0 };
    moe_tokenizer_t  *a, *b;

    lines = moe_file_read("t/golden/tokenizer/lines.bin", 1 << 24, &len, NULL,
                          &err);
    assert_non_null(lines);

    a = moe_tokenizer_load(dir, &err);
    if (a == NULL) {
        fail_msg("%s", err.text);
    }

    snprintf(path, sizeof(path), "%s/tokenizer.json", dir);
    root = json_load_file(path, JSON_ALLOW_NUL, NULL);
    assert_non_null(root);

    b = of_metadata(root, pre);
    same_pieces(name, a, b);

    for (at = 0; at < len; at += n) {
        n = next_number(lines, &at);
        x.n = 0;
        y.n = 0;

        assert_int_equal(moe_tokenizer_encode(a, lines + at, n, NULL,
                                              MOE_TOK_SPECIAL, &x, &err), 0);
        assert_int_equal(moe_tokenizer_encode(b, lines + at, n, NULL,
                                              MOE_TOK_SPECIAL, &y, &err), 0);

        if (x.n != y.n
            || (x.n > 0
                && memcmp(x.ids, y.ids, x.n * sizeof(uint32_t)) != 0))
        {
            fail_msg("%s: other ids of: %.*s", name, (int) n, lines + at);
        }
    }

    moe_ids_free(&x);
    moe_ids_free(&y);
    moe_tokenizer_free(a);
    moe_tokenizer_free(b);
    json_decref(root);
    free(lines);
}


static void
compare_fetched(const char *name, const char *pre)
{
    char         path[512];
    const char  *dir;

    dir = getenv("MOE_TOKENIZERS");
    snprintf(path, sizeof(path), "%s/%s", dir ? dir : "build/tokenizers",
             name);
    compare(name, path, pre);
}


static void
test_demo(void **state)
{
    (void) state;

    compare("demo", "models/demo", "deepseek-v3");
}


static void
test_deepseek_v3(void **state)
{
    (void) state;

    compare_fetched("deepseek_v3", "deepseek-v3");
}


static void
test_qwen3(void **state)
{
    (void) state;

    compare_fetched("qwen3", "qwen2");
}


static void
test_gpt_oss(void **state)
{
    (void) state;

    compare_fetched("gpt_oss", "gpt-4o");
}


static void
test_mixtral(void **state)
{
    (void) state;

    compare_fetched("mixtral", NULL);
}


/* SentencePiece by hand: the highest score first, the leftmost of equals,
 * bytes where there is no piece, no merge into a control token */
static void
test_scores(void **state)
{
    out_t             o;
    size_t            i;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_gguf_t       *g;
    moe_tokenizer_t  *t;

    static const struct {
        const char  *text;
        int32_t      kind;
        float        score;
    } tokens[] = {
        { "<unk>", 2, 0 }, { "<s>", 3, 0 }, { "</s>", 3, 0 },
        { "<0xC3>", 6, 0 }, { "<0xA9>", 6, 0 }, { "▁", 1, -9 },
        { "a", 1, -9 }, { "b", 1, -9 }, { "<", 1, -9 }, { "s", 1, -9 },
        { ">", 1, -9 }, { "aa", 1, -1 }, { "ab", 1, 2 }, { "aab", 1, 1 },
        { "<s", 1, 0 }, { "▁a", 1, -1 }, { "bb", 5, 9 }, { "[X]", 4, 0 }
    };

    static const struct {
        const char  *text;
        uint32_t     ids[8];
    } cases[] = {
        { "aaa", { 15, 11 } },              /* ▁a before aa: leftmost */
        { "aab", { 5, 13 } },               /* ab, then aab before ▁a */
        { "ab aa", { 5, 12, 15, 6 } },
        { "baab", { 5, 7, 13 } },           /* ab first, then aab */
        { "baaa", { 5, 7, 11, 6 } },
        { "bb", { 5, 7, 7 } },
        { "b<s>", { 5, 7, 1 } },
        { "bé", { 5, 7, 3, 4 } },
        { "b[X]a", { 5, 7, 17, 15 } },
        { "bx", { 5, 7, 0 } }
    };

    (void) state;

    begin(&o);
    put_text(&o, "tokenizer.ggml.model", "llama");
    put_array(&o, "tokenizer.ggml.tokens", MOE_GGUF_STRING,
              sizeof(tokens) / sizeof(tokens[0]));

    for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        put_string(&o, tokens[i].text);
    }

    put_array(&o, "tokenizer.ggml.token_type", MOE_GGUF_I32,
              sizeof(tokens) / sizeof(tokens[0]));

    for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        put(&o, &tokens[i].kind, 4);
    }

    put_array(&o, "tokenizer.ggml.scores", MOE_GGUF_F32,
              sizeof(tokens) / sizeof(tokens[0]));

    for (i = 0; i < sizeof(tokens) / sizeof(tokens[0]); i++) {
        put(&o, &tokens[i].score, 4);
    }

    put_key(&o, "tokenizer.ggml.bos_token_id", MOE_GGUF_U32);
    put_u32(&o, 1);
    g = end(&o);

    t = moe_gguf_tokenizer(g, &err);
    if (t == NULL) {
        fail_msg("%s", err.text);
    }

    assert_true(moe_tokenizer_adds_bos(t));
    assert_true(moe_tokenizer_is_special(t, 1));
    assert_false(moe_tokenizer_is_special(t, 17));

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        ids.n = 0;
        assert_int_equal(moe_tokenizer_encode(t, cases[i].text,
                                              strlen(cases[i].text), NULL,
                                              MOE_TOK_SPECIAL, &ids, &err),
                         0);

        if (ids.n > 8 || (ids.n < 8 && cases[i].ids[ids.n] != 0
                          && cases[i].ids[ids.n - 1] != 0)
            || memcmp(ids.ids, cases[i].ids, ids.n * 4) != 0)
        {
            fail_msg("%s: %zu ids: %u %u %u %u", cases[i].text, ids.n,
                     ids.ids[0], ids.n > 1 ? ids.ids[1] : 0,
                     ids.n > 2 ? ids.ids[2] : 0, ids.n > 3 ? ids.ids[3] : 0);
        }
    }

    moe_ids_free(&ids);
    moe_tokenizer_free(t);
    moe_gguf_close(g);
    free(o.data);
}


/* every way of cutting that is known by name can be built, and cuts all
 * lines */
static void
test_names(void **state)
{
    char             *lines;
    size_t            i, len, at;
    json_t           *root;
    uint32_t          n;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_tokenizer_t  *t;

    static const char *const  names[] = {
        "deepseek-v3", "deepseek-coder", "deepseek-llm", "qwen2", "llama-bpe",
        "dbrx", "smaug-bpe", "gpt-4o", "olmo", "gpt-2", "mpt"
    };

    (void) state;

    lines = moe_file_read("t/golden/tokenizer/lines.bin", 1 << 24, &len, NULL,
                          &err);
    root = json_load_file("models/demo/tokenizer.json", 0, NULL);
    assert_non_null(lines);
    assert_non_null(root);

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        t = of_metadata(root, names[i]);

        for (at = 0; at < len; at += n) {
            n = next_number(lines, &at);
            ids.n = 0;
            assert_int_equal(moe_tokenizer_encode(t, lines + at, n, NULL, 0,
                                                  &ids, &err), 0);
        }

        moe_tokenizer_free(t);
    }

    moe_ids_free(&ids);
    json_decref(root);
    free(lines);
}


static void
put_number(out_t *o, const char *key, uint32_t v)
{
    put_key(o, key, MOE_GGUF_U32);
    put_u32(o, v);
}


/* what the front makes of a file: name, ends, template, defaults */
static void
test_front(void **state)
{
    int               fd, i;
    char              path[] = "/tmp/moe-test-XXXXXX.gguf";
    out_t             o;
    moe_err_t         err;
    moe_text_t        t;

    static const char *const  tokens[] = {
        "<s>", "a", "b", "ab", "<|im_end|>", "<|endoftext|>", "</s>", "!"
    };

    static const int32_t  kinds[] = { 3, 1, 1, 1, 3, 4, 3, 1 };

    (void) state;

    begin(&o);
    put_text(&o, "general.architecture", "olmoe");
    put_number(&o, "olmoe.block_count", 1);
    put_number(&o, "olmoe.embedding_length", 16);
    put_number(&o, "olmoe.attention.head_count", 2);
    put_number(&o, "olmoe.attention.head_count_kv", 2);
    put_number(&o, "olmoe.context_length", 128);
    put_number(&o, "olmoe.expert_count", 4);
    put_number(&o, "olmoe.expert_used_count", 2);
    put_number(&o, "olmoe.feed_forward_length", 8);
    put_key(&o, "olmoe.attention.layer_norm_rms_epsilon", MOE_GGUF_F32);
    put(&o, &(float) { 1e-5f }, 4);
    put_text(&o, "tokenizer.ggml.model", "gpt2");
    put_text(&o, "tokenizer.ggml.pre", "olmo");
    put_array(&o, "tokenizer.ggml.tokens", MOE_GGUF_STRING, 8);

    for (i = 0; i < 8; i++) {
        put_string(&o, tokens[i]);
    }

    put_array(&o, "tokenizer.ggml.token_type", MOE_GGUF_I32, 8);
    put(&o, kinds, sizeof(kinds));
    put_array(&o, "tokenizer.ggml.merges", MOE_GGUF_STRING, 1);
    put_string(&o, "a b");
    put_number(&o, "tokenizer.ggml.bos_token_id", 0);
    put_number(&o, "tokenizer.ggml.eos_token_id", 6);
    put_key(&o, "tokenizer.ggml.add_bos_token", MOE_GGUF_BOOL);
    put(&o, "\1", 1);
    put_text(&o, "tokenizer.chat_template", "{{ bos_token }}ab");

    memcpy(o.data + 8, &(uint64_t) { 1 }, 8);
    memcpy(o.data + 16, &o.keys, 8);
    put_string(&o, "token_embd.weight");
    put_u32(&o, 2);
    put_u64(&o, 16);
    put_u64(&o, 8);
    put_u32(&o, MOE_GGML_F32);
    put_u64(&o, 0);
    put(&o, (char[32]) { 0 }, (32 - o.n % 32) % 32);

    for (i = 0; i < 16; i++) {
        put(&o, (char[32]) { 0 }, 32);
    }

    fd = mkstemps(path, 5);
    assert_true(fd != -1);
    assert_int_equal(write(fd, o.data, o.n), o.n);
    close(fd);

    memset(&t, 0, sizeof(t));

    if (moe_text_load(&t, path, NULL, 0, &err) != 0) {
        fail_msg("%s", err.text);
    }

    /* the file's name is the model's, without what says that it is GGUF */
    assert_int_equal(strlen(t.names[0]), strlen(path) - 5 - 5);
    assert_memory_equal(t.names[0], path + 5, strlen(t.names[0]));

    /* of the known ends only the control token */
    assert_int_equal(t.neos, 2);
    assert_int_equal(t.eos[0], 6);
    assert_int_equal(t.eos[1], 4);
    assert_int_equal(t.bos, 0);
    assert_int_equal(t.context, 128);
    assert_int_equal(t.config.family, MOE_FAMILY_OLMOE);
    assert_non_null(t.template);
    assert_true(moe_tokenizer_adds_bos(t.tokenizer));
    assert_string_equal(json_string_value(json_object_get(t.tokens,
                                                          "eos_token")),
                        "</s>");
    assert_true(t.created > 0);

    moe_text_free(&t);
    unlink(path);
    free(o.data);
}


static void
refused(out_t *o, const char *what)
{
    moe_err_t    err;
    moe_gguf_t  *g;

    g = end(o);
    err.text[0] = '\0';
    assert_null(moe_gguf_tokenizer(g, &err));

    if (strstr(err.text, what) == NULL) {
        fail_msg("\"%s\" is not in \"%s\"", what, err.text);
    }

    moe_gguf_close(g);
    free(o->data);
}


static void
put_tokens(out_t *o, const char *model, const char *first)
{
    begin(o);
    put_text(o, "tokenizer.ggml.model", model);
    put_array(o, "tokenizer.ggml.tokens", MOE_GGUF_STRING, 2);
    put_string(o, first);
    put_string(o, "b");
}


static void
test_refused(void **state)
{
    out_t  o;

    (void) state;

    begin(&o);
    refused(&o, "tokenizer.ggml.tokens is missing");

    put_tokens(&o, "b\x1b[1m", "a");
    refused(&o, "tokenizer.ggml.model \"b?[1m\" is not supported");

    put_tokens(&o, "gpt2", "a");
    refused(&o, "tokenizer.ggml.pre is missing");

    put_tokens(&o, "gpt2", "a");
    put_text(&o, "tokenizer.ggml.pre", "martian");
    refused(&o, "tokenizer.ggml.pre \"martian\" is not supported");

    put_tokens(&o, "gpt2", "a");
    put_text(&o, "tokenizer.ggml.pre", "qwen2");
    refused(&o, "tokenizer.ggml.merges is missing");

    put_tokens(&o, "llama", "a");
    refused(&o, "tokenizer.ggml.scores is missing");

    put_tokens(&o, "llama", "a");
    put_array(&o, "tokenizer.ggml.scores", MOE_GGUF_F32, 1);
    put_u32(&o, 0);
    refused(&o, "tokenizer.ggml.scores");

    put_tokens(&o, "llama", "\xff\xfe");
    refused(&o, "tokenizer.ggml.tokens: string 0 at offset");

    put_tokens(&o, "llama", "a");
    put_key(&o, "tokenizer.ggml.bos_token_id", MOE_GGUF_U32);
    put_u32(&o, 2);
    refused(&o, "tokenizer.ggml.bos_token_id 2 is no token");
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_deepseek_v3),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_gpt_oss),
        cmocka_unit_test(test_mixtral),
        cmocka_unit_test(test_scores),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_front),
        cmocka_unit_test(test_refused)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
