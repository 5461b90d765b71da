#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_text.h"
#include "text/tokenizer_load.h"


/* tokenizer.ggml.token_type */
enum {
    KIND_NORMAL = 1,
    KIND_UNKNOWN,
    KIND_CONTROL,
    KIND_USER,
    KIND_UNUSED,
    KIND_BYTE
};

#define TOKENS     "tokenizer.ggml.tokens"
#define MAX_SPLIT  6

/* a way of cutting text; no patterns: GPT-2's, which the loader knows */
typedef struct {
    const char  *names[4];
    const char  *split[MAX_SPLIT + 1];
    int          nfc;
    int          ignore_merges;
    int          adds_bos;          /* where no key says otherwise */
} pre_t;

typedef struct {
    const moe_gguf_t     *g;
    const moe_gguf_kv_t  *tokens;
    const moe_gguf_kv_t  *kinds;    /* NULL: all are normal */
    const pre_t          *pre;      /* NULL: "llama" */
    moe_err_t            *err;
    float                *scores;   /* "llama": by id, NaN: merges nothing */
} text_t;


#define TAIL  "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
#define ENDS  "(?i:'s|'t|'re|'ve|'m|'ll|'d)"

#define UPPER  "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER  "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define FRONT  "[^\\r\\n\\p{L}\\p{N}]?"


/* as the tokenizers of DeepSeek LLM and V2 write out cased letters */
#define CASED  \
    "[A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf"      \
    "\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d"       \
    "\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5"              \
    "\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5"      \
    "\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"      \
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d"      \
    "\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"              \
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3"             \
    "\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"       \
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d"        \
    "\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184"        \
    "\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d"       \
    "\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf"      \
    "\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"                   \
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb"        \
    "\U00010c80-\U00010cb2\U00010cc0-\U00010cf2\U000118a0-\U000118df"        \
    "\U0001e900-\U0001e943]+"

#define CJK  "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"


static const pre_t  pres[] = {

    {
        .names = { "deepseek-v3" },
        .split = {
            "\\p{N}{1,3}",
            "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
            "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" TAIL
        }
    },

    {
        .names = { "deepseek-coder" },
        .split = {
            "[\\r\\n]",
            "\\s?\\p{L}+",
            "\\s?\\p{P}+",
            CJK,
            "\\p{N}"
        }
    },

    {
        .names = { "deepseek-llm" },
        .split = {
            "[\\r\\n]",
            "\\s?" CASED,
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f"
            "\u3000-\u3002]+",
            "\\s+$",
            CJK,
            "\\p{N}"
        }
    },

    {
        .names = { "qwen2" },
        .split = {
            ENDS "|" FRONT "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|"
            TAIL
        },
        .nfc = 1
    },

    {
        .names = { "llama-bpe", "llama-v3", "llama3" },
        .split = {
            ENDS "|" FRONT "\\p{L}+|\\p{N}{1,3}"
            "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL
        },
        .ignore_merges = 1,
        .adds_bos = 1
    },

    {
        .names = { "dbrx", "smaug-bpe" },
        .split = {
            ENDS "|" FRONT "\\p{L}+|\\p{N}{1,3}"
            "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" TAIL
        }
    },

    {
        .names = { "gpt-4o" },
        .split = {
            FRONT UPPER "*" LOWER "+" ENDS "?|" FRONT UPPER "+" LOWER "*" ENDS
            "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" TAIL
        },
        .ignore_merges = 1
    },

    { .names = { "olmo" }, .nfc = 1 },
    { .names = { "gpt-2", "mpt" } }
};


static int open_text(text_t *x, const moe_gguf_t *g, moe_err_t *err);


static int
is(const char *s, size_t len, const char *want)
{
    return strlen(want) == len && memcmp(s, want, len) == 0;
}


static int
find_pre(text_t *x)
{
    char         show[MOE_GGUF_SHOW];
    size_t       i, j, len;
    const char  *s;

    if (moe_gguf_string(x->g, "tokenizer.ggml.pre", &s, &len, x->err) != 0) {
        return moe_err(x->err, "%s: tokenizer.ggml.pre is missing or not a "
                       "string", moe_gguf_path(x->g));
    }

    for (i = 0; i < sizeof(pres) / sizeof(pres[0]); i++) {
        for (j = 0; j < 4 && pres[i].names[j] != NULL; j++) {
            if (is(s, len, pres[i].names[j])) {
                x->pre = &pres[i];
                return 0;
            }
        }
    }

    return moe_err(x->err, "%s: tokenizer.ggml.pre \"%s\" is not supported",
                   moe_gguf_path(x->g), moe_gguf_show(s, len, show));
}


/* an array of a kind with as many elements as there are tokens */
static int
token_array(text_t *x, const char *key, const moe_gguf_kv_t **out)
{
    int  rc;

    *out = NULL;
    rc = moe_gguf_array(x->g, key, out, x->err);

    if (rc == 0 && (*out)->count != x->tokens->count) {
        return moe_err(x->err, "%s: %s has %llu elements for %llu tokens",
                       moe_gguf_path(x->g), key,
                       (unsigned long long) (*out)->count,
                       (unsigned long long) x->tokens->count);
    }

    return rc;
}


static int
open_text(text_t *x, const moe_gguf_t *g, moe_err_t *err)
{
    char         show[MOE_GGUF_SHOW];
    size_t       len;
    int64_t      v;
    const char  *s;

    *x = (text_t) { .g = g, .err = err };

    if (moe_gguf_array(g, TOKENS, &x->tokens, err) != 0
        || x->tokens->elem != MOE_GGUF_STRING
        || x->tokens->count > MOE_VOCAB_MAX_IDS)
    {
        return moe_err(err, "%s: " TOKENS " is missing, or no array of at "
                       "most %u strings", moe_gguf_path(g), MOE_VOCAB_MAX_IDS);
    }

    if (token_array(x, "tokenizer.ggml.token_type", &x->kinds) < 0) {
        return -1;
    }

    if (x->kinds != NULL && x->kinds->count > 0
        && moe_gguf_int_at(x->kinds, 0, &v) != 0)
    {
        return moe_err(err, "%s: tokenizer.ggml.token_type is no array of "
                       "integers", moe_gguf_path(g));
    }

    if (moe_gguf_string(g, "tokenizer.ggml.model", &s, &len, err) != 0) {
        return moe_err(err, "%s: tokenizer.ggml.model is missing or not a "
                       "string", moe_gguf_path(g));
    }

    if (is(s, len, "llama")) {
        return 0;
    }

    if (is(s, len, "gpt2")) {
        return find_pre(x);
    }

    return moe_err(err, "%s: tokenizer.ggml.model \"%s\" is not supported",
                   moe_gguf_path(g), moe_gguf_show(s, len, show));
}


static int64_t
kind_of(const text_t *x, uint64_t id)
{
    int64_t  kind;

    kind = KIND_NORMAL;

    if (x->kinds != NULL) {
        (void) moe_gguf_int_at(x->kinds, id, &kind);
    }

    return kind;
}


static int
bad_token(const text_t *x, uint64_t id, uint64_t at)
{
    return moe_err(x->err, "%s: " TOKENS ": string %llu at offset %llu is no "
                   "text", moe_gguf_path(x->g), (unsigned long long) id,
                   (unsigned long long) (x->tokens->offset + at));
}


static json_t *
added_token(json_t *text, uint64_t id, int special)
{
    return json_pack("{s:I, s:o, s:b, s:b}", "id", (json_int_t) id, "content",
                     text, "special", special, "normalized", 0);
}


/* the tokens, each as what it is; unused ones are none */
static int
add_tokens(text_t *x, json_t *vocab, json_t *added, json_t *model)
{
    size_t       len;
    int64_t      kind;
    json_t      *text;
    uint64_t     id, at, was;
    const char  *s;

    at = 0;

    for (id = 0; id < x->tokens->count; id++) {
        was = at;
        s = moe_gguf_next(x->tokens, &at, &len);
        kind = kind_of(x, id);

        if (kind == KIND_UNUSED || len == 0) {
            continue;
        }

        text = json_stringn(s, len);
        if (text == NULL) {
            return bad_token(x, id, was);
        }

        if (kind == KIND_CONTROL || kind == KIND_USER || kind == KIND_UNKNOWN)
        {
            json_array_append_new(added, added_token(json_incref(text), id,
                                                     kind != KIND_USER));
        }

        if (kind == KIND_UNKNOWN && x->pre == NULL) {
            json_object_set(model, "unk_token", text);
        }

        if (kind != KIND_CONTROL && kind != KIND_USER) {
            json_object_setn_new(vocab, s, len, json_integer((json_int_t) id));
        }

        json_decref(text);
    }

    return 0;
}


static int
add_merges(text_t *x, json_t *model)
{
    size_t                len;
    json_t               *list, *text;
    uint64_t              i, at, was;
    const char           *s;
    const moe_gguf_kv_t  *kv;

    if (moe_gguf_array(x->g, "tokenizer.ggml.merges", &kv, x->err) != 0
        || kv->elem != MOE_GGUF_STRING)
    {
        return moe_err(x->err, "%s: tokenizer.ggml.merges is missing, or no "
                       "array of strings", moe_gguf_path(x->g));
    }

    list = json_array();
    json_object_set_new(model, "merges", list);
    at = 0;

    for (i = 0; i < kv->count; i++) {
        was = at;
        s = moe_gguf_next(kv, &at, &len);
        text = json_stringn(s, len);

        if (text == NULL) {
            return moe_err(x->err, "%s: tokenizer.ggml.merges: string %llu at "
                           "offset %llu is no text", moe_gguf_path(x->g),
                           (unsigned long long) i,
                           (unsigned long long) (kv->offset + was));
        }

        json_array_append_new(list, text);
    }

    return 0;
}


/* only what text itself may become merges */
static int
read_scores(text_t *x)
{
    uint64_t              id;
    const moe_gguf_kv_t  *kv;

    if (token_array(x, "tokenizer.ggml.scores", &kv) != 0
        || kv->elem != MOE_GGUF_F32)
    {
        return moe_err(x->err, "%s: tokenizer.ggml.scores is missing, or not "
                       "a float32 for each token", moe_gguf_path(x->g));
    }

    x->scores = malloc(((size_t) kv->count + 1) * sizeof(float));
    if (x->scores == NULL) {
        return moe_err(x->err, "%s: no memory", moe_gguf_path(x->g));
    }

    for (id = 0; id < kv->count; id++) {
        x->scores[id] = kind_of(x, id) == KIND_NORMAL
                        ? moe_gguf_float_at(kv, id) : NAN;
    }

    return 0;
}


static void
set_byte_level(const pre_t *pre, json_t *root)
{
    size_t   i;
    json_t  *list;

    list = json_array();

    for (i = 0; i <= MAX_SPLIT && pre->split[i] != NULL; i++) {
        json_array_append_new(list,
            json_pack("{s:s, s:{s:s}, s:s, s:b}", "type", "Split", "pattern",
                      "Regex", pre->split[i], "behavior", "Isolated",
                      "invert", 0));
    }

    json_array_append_new(list,
        json_pack("{s:s, s:b, s:b}", "type", "ByteLevel", "add_prefix_space",
                  0, "use_regex", i == 0));

    json_object_set_new(root, "pre_tokenizer",
        json_pack("{s:s, s:o}", "type", "Sequence", "pretokenizers", list));
    json_object_set_new(root, "decoder",
                        json_pack("{s:s}", "type", "ByteLevel"));

    if (pre->nfc) {
        json_object_set_new(root, "normalizer",
                            json_pack("{s:s}", "type", "NFC"));
    }
}


/* spaces are marks, one more in front */
static int
set_pieces(text_t *x, json_t *root)
{
    int      prefix;
    json_t  *normal, *decode;

    prefix = 1;

    if (moe_gguf_bool(x->g, "tokenizer.ggml.add_space_prefix", &prefix,
                      x->err) < 0)
    {
        return -1;
    }

    normal = json_array();
    decode = json_pack("[{s:s, s:{s:s}, s:s}, {s:s}, {s:s}]", "type",
                       "Replace", "pattern", "String", "▁", "content", " ",
                       "type", "ByteFallback", "type", "Fuse");

    if (prefix) {
        json_array_append_new(normal, json_pack("{s:s, s:s}", "type",
                                                "Prepend", "prepend", "▁"));
        json_array_append_new(decode, json_pack("{s:s, s:s, s:i, s:i}", "type",
                                                "Strip", "content", " ",
                                                "start", 1, "stop", 0));
    }

    json_array_append_new(normal,
        json_pack("{s:s, s:{s:s}, s:s}", "type", "Replace", "pattern",
                  "String", " ", "content", "▁"));

    json_object_set_new(root, "normalizer",
        json_pack("{s:s, s:o}", "type", "Sequence", "normalizers", normal));
    json_object_set_new(root, "decoder",
        json_pack("{s:s, s:o}", "type", "Sequence", "decoders", decode));

    return 0;
}


/* tokenizer.json, but for what scores say in place of merges */
static json_t *
tokenizer_json(text_t *x)
{
    int      rc;
    json_t  *root, *model, *vocab, *added;

    vocab = json_object();
    added = json_array();
    model = json_pack("{s:s, s:o, s:b, s:b, s:b}", "type", "BPE", "vocab",
                      vocab, "byte_fallback", x->pre == NULL, "fuse_unk",
                      x->pre == NULL, "ignore_merges",
                      x->pre != NULL && x->pre->ignore_merges);
    root = json_pack("{s:o, s:o}", "model", model, "added_tokens", added);

    if (root == NULL) {
        moe_err(x->err, "%s: no memory", moe_gguf_path(x->g));
        return NULL;
    }

    rc = add_tokens(x, vocab, added, model);

    if (rc == 0 && x->pre != NULL) {
        set_byte_level(x->pre, root);
        rc = add_merges(x, model);

    } else if (rc == 0) {
        rc = set_pieces(x, root) != 0 || read_scores(x) != 0 ? -1 : 0;
    }

    if (rc != 0) {
        json_decref(root);
        return NULL;
    }

    return root;
}


/* the text of the token whose id stands under a key */
static int
add_token(text_t *x, json_t *config, const char *key, const char *to)
{
    int          rc;
    size_t       len;
    json_t      *text;
    uint32_t     id;
    uint64_t     i, at, was;
    const char  *s;

    rc = moe_gguf_u32(x->g, key, &id, x->err);

    if (rc != 0) {
        return rc < 0 ? -1 : 0;
    }

    if (id >= x->tokens->count) {
        return moe_err(x->err, "%s: %s %u is no token", moe_gguf_path(x->g),
                       key, id);
    }

    at = 0;
    was = 0;
    s = NULL;
    len = 0;

    for (i = 0; i <= id; i++) {
        was = at;
        s = moe_gguf_next(x->tokens, &at, &len);
    }

    text = json_stringn(s, len);
    if (text == NULL) {
        return bad_token(x, id, was);
    }

    json_object_set_new(config, to, text);

    return 0;
}


static int
add_flag(text_t *x, json_t *config, const char *key, const char *to,
    int otherwise)
{
    int  v;

    v = otherwise;

    if (moe_gguf_bool(x->g, key, &v, x->err) < 0) {
        return -1;
    }

    /* there may be nothing to add */
    if (v && json_object_get(config, strcmp(to, "add_bos_token") == 0
                                     ? "bos_token" : "eos_token") == NULL)
    {
        v = 0;
    }

    json_object_set_new(config, to, json_boolean(v));

    return 0;
}


static int
add_template(text_t *x, json_t *config)
{
    int          rc;
    size_t       len;
    json_t      *text;
    const char  *s;

    rc = moe_gguf_string(x->g, "tokenizer.chat_template", &s, &len, x->err);

    if (rc != 0) {
        return rc < 0 ? -1 : 0;
    }

    text = json_stringn(s, len);
    if (text == NULL) {
        return moe_err(x->err, "%s: tokenizer.chat_template is no text",
                       moe_gguf_path(x->g));
    }

    json_object_set_new(config, "chat_template", text);

    return 0;
}


static json_t *
config_json(text_t *x)
{
    json_t  *config;

    config = json_object();

    if (add_token(x, config, "tokenizer.ggml.bos_token_id", "bos_token") != 0
        || add_token(x, config, "tokenizer.ggml.eos_token_id", "eos_token")
           != 0
        || add_token(x, config, "tokenizer.ggml.unknown_token_id",
                     "unk_token") != 0
        || add_token(x, config, "tokenizer.ggml.padding_token_id",
                     "pad_token") != 0
        || add_flag(x, config, "tokenizer.ggml.add_bos_token",
                    "add_bos_token", x->pre == NULL || x->pre->adds_bos) != 0
        || add_flag(x, config, "tokenizer.ggml.add_eos_token",
                    "add_eos_token", 0) != 0
        || add_template(x, config) != 0)
    {
        json_decref(config);
        return NULL;
    }

    return config;
}


json_t *
moe_gguf_tokenizer_config(const moe_gguf_t *g, moe_err_t *err)
{
    text_t  x;

    return open_text(&x, g, err) == 0 ? config_json(&x) : NULL;
}


json_t *
moe_gguf_tokenizer_json(const moe_gguf_t *g, moe_err_t *err)
{
    text_t   x;
    json_t  *root;

    if (open_text(&x, g, err) != 0) {
        return NULL;
    }

    root = tokenizer_json(&x);

    if (x.scores != NULL) {
        moe_err(err, "%s: a vocabulary with scores has no tokenizer.json; "
                "only the file itself can be used", moe_gguf_path(g));
        json_decref(root);
        root = NULL;
    }

    free(x.scores);

    return root;
}


moe_tokenizer_t *
moe_gguf_tokenizer(const moe_gguf_t *g, moe_err_t *err)
{
    text_t            x;
    json_t           *root, *config;
    moe_tokenizer_t  *t;

    if (open_text(&x, g, err) != 0) {
        return NULL;
    }

    t = NULL;
    config = config_json(&x);
    root = config != NULL ? tokenizer_json(&x) : NULL;

    if (root != NULL) {
        t = x.scores == NULL
            ? moe_tokenizer_build(root, config, NULL, err)
            : moe_tokenizer_build_scored(root, config, x.scores,
                                         (size_t) x.tokens->count, err);

        if (t == NULL) {
            moe_err_prefix(err, "%s, as", moe_gguf_path(g));
        }
    }

    json_decref(root);
    json_decref(config);
    free(x.scores);

    return t;
}
