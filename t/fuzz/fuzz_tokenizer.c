/*
 * libFuzzer: tokenizer.json, tiktoken.model, patterns, and text with its
 * trust.
 *
 * The first byte chooses: text for one of the tokenizers below; one of them
 * with pieces of JSON written over it, then text; a pattern, then text; ranks
 * with bytes written over them, then text.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/detok.h"
#include "text/tokenizer_load.h"
#include "text/utf8.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


#define VOCAB                                                                 \
    "\"vocab\":{\"<u>\":0,\"a\":1,\"b\":2,\"ab\":3,\"<0xE2>\":4,"             \
    "\"<0x82>\":5,\"<0xAC>\":6,\"\xE2\x96\x81\":7,\"abab\":8,\" \":9,"        \
    "\"\xC3\xA9\":10,\"\xE2\x96\x81""a\":11},\"merges\":[\"a b\","           \
    "\"ab ab\",[\"\xE2\x96\x81\",\"a\"]]"

#define ADDED                                                                 \
    "\"added_tokens\":[{\"id\":20,\"content\":\"<x>\",\"special\":true},"     \
    "{\"id\":21,\"content\":\"<x>ab\",\"normalized\":true},"                  \
    "{\"id\":22,\"content\":\"bb\",\"lstrip\":true,\"rstrip\":true},"         \
    "{\"id\":23,\"content\":\"b\xC3\xA9\",\"normalized\":true,"               \
    "\"single_word\":true}]"


static const char *const  docs[] = {

    /* byte-level; every byte is made by fuzz_vocab() */

    "{\"model\":{\"type\":\"BPE\",\"ignore_merges\":true," "\"vocab\":{},"
    "\"merges\":[\"a b\",\"ab ab\",\"aa aa\",\"a a\"]},"
    "\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":"
    "\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{"
    "\"Regex\":\"\\\\p{N}{1,3}|[^\\\\r\\\\n\\\\p{L}]?\\\\p{L}+|\\\\s+(?!\\\\S)"
    "|\\\\s+\"},\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\","
    "\"use_regex\":false,\"add_prefix_space\":false}]}}",

    "{\"model\":{\"byte_fallback\":true,\"unk_token\":\"<u>\",\"fuse_unk\":"
    "true," VOCAB "}," ADDED ",\"normalizer\":{\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":"
    "\"\xE2\x96\x81\"}]},\"decoder\":{\"type\":\"Sequence\",\"decoders\":["
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]},"
    "\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":["
    "{\"SpecialToken\":{\"id\":\"s\",\"type_id\":0}},{\"Sequence\":{\"id\":"
    "\"A\",\"type_id\":0}}],\"special_tokens\":{\"s\":{\"id\":\"s\",\"ids\":"
    "[0]}}}}",

    "{\"model\":{\"unk_token\":\"<u>\"," VOCAB "}," ADDED ",\"normalizer\":"
    "{\"type\":\"NFC\"},\"decoder\":{\"type\":\"Metaspace\",\"replacement\":"
    "\"\xE2\x96\x81\",\"prepend_scheme\":\"first\"},\"pre_tokenizer\":"
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\"},"
    "{\"type\":\"Punctuation\",\"behavior\":\"MergedWithNext\"},{\"type\":"
    "\"Metaspace\",\"replacement\":\"\xE2\x96\x81\",\"prepend_scheme\":"
    "\"first\"}]}}",

    "{\"model\":{" VOCAB "}," ADDED ",\"normalizer\":{\"type\":\"Sequence\","
    "\"normalizers\":[{\"type\":\"NFKC\"},{\"type\":\"Replace\",\"pattern\":"
    "{\"Regex\":\"\\\\s*|b\"},\"content\":\"ab\"},{\"type\":\"NFD\"}]},"
    "\"decoder\":{\"type\":\"Fuse\"},\"pre_tokenizer\":{\"type\":\"Split\","
    "\"pattern\":{\"Regex\":\"[[a-b]&&[^c]]+\\\\b\"},\"behavior\":"
    "\"Contiguous\",\"invert\":true}}",
};

#define NDOCS  (sizeof(docs) / sizeof(docs[0]))


static const char *const  fragments[] = {
    "{", "}", "[", "]", ",", ":", "null", "true", "0", "-1", "4294967296",
    "\"\"", "\"a\"", "\"type\"", "\"id\":1", "\"ByteLevel\"", "\"Split\"",
    "\"Removed\"", "\"MergedWithPrevious\"", "\"NFD\"", "\"NFKD\"",
    "\"always\"", "\"Sequence\"", "\"Whitespace\"", "\"WhitespaceSplit\"",
    "\"Strip\"", "\"single_word\":true", "1e3", "\\\\w", "\\\\p{Han}",
    "(?i:", "{2,", "&&", "[^", "\"add_prefix_space\"", "\xE2\x96\x81"
};

#define NFRAGMENTS  (sizeof(fragments) / sizeof(fragments[0]))


static void
check(int ok)
{
    if (!ok) {
        abort();
    }
}


/* gives a byte-level vocabulary all bytes and the merges' results */

static void
fuzz_vocab(json_t *root)
{
    int      i;
    char     key[8];
    size_t   k;
    json_t  *vocab;

    static const char *const  more[] = { "ab", "abab", "aa", "aaaa" };

    vocab = json_object_get(json_object_get(root, "model"), "vocab");

    for (i = 0; i < 256; i++) {
        if ((i >= 33 && i <= 126) || (i >= 161 && i <= 172) || i >= 174) {
            k = moe_utf8_put((uint32_t) i, key);

        } else {
            k = moe_utf8_put(256 + (uint32_t) (i <= 32 ? i : i <= 160
                                               ? i - 127 + 33 : 67), key);
        }

        json_object_setn_new(vocab, key, k, json_integer(i));
    }

    for (i = 0; i < 4; i++) {
        json_object_set_new(vocab, more[i], json_integer(256 + i));
    }
}


/* whatever the ids are, the text is valid UTF-8 at every step */

static void
fuzz_decode(const moe_tokenizer_t *t, const moe_ids_t *ids, unsigned flags)
{
    char         out[MOE_DETOK_MAX];
    size_t       i, n;
    moe_detok_t  d;

    moe_detok_init(&d, t, flags);

    for (i = 0; i <= ids->n; i++) {
        n = i < ids->n ? moe_detok_push(&d, ids->ids[i], out)
                       : moe_detok_flush(&d, out);
        check(n <= sizeof(out) && moe_utf8_valid(out, n) == n);
    }
}


static void
fuzz_text(const moe_tokenizer_t *t, const uint8_t *data, size_t size)
{
    size_t       i, len;
    uint8_t     *trust;
    unsigned     flags;
    moe_err_t    err;
    moe_ids_t    ids = { 0 };
    const char  *text;

    if (size < 2) {
        return;
    }

    flags = data[0] & 3;
    trust = data[0] & 4 ? malloc(size) : NULL;
    text = (const char *) data + 2;
    len = size - 2;

    for (i = 0; trust != NULL && i < len; i++) {
        trust[i] = (data[1] >> (i / 3 & 7)) & 1;
    }

    if (moe_tokenizer_encode(t, text, len, trust, flags, &ids, &err) == 0) {

        for (i = 0; i < ids.n; i++) {
            check(ids.ids[i] < moe_tokenizer_vocab_size(t));
        }

        fuzz_decode(t, &ids, 0);

    } else {
        check(ids.n == 0);
    }

    /* and ids that no text gives */

    for (i = 0; i < len && i < ids.n; i++) {
        ids.ids[i] = (uint8_t) text[i];
    }

    fuzz_decode(t, &ids, MOE_DETOK_SKIP_SPECIAL);

    free(trust);
    moe_ids_free(&ids);
}


/* byte-level: the pieces together are the text */

static void
fuzz_bytes(const moe_tokenizer_t *t, const uint8_t *data, size_t size)
{
    size_t       i, k = 0, n;
    moe_err_t    err;
    moe_ids_t    ids = { 0 };
    const char  *s, *text = (const char *) data;

    size = moe_utf8_valid(text, size);
    check(moe_tokenizer_encode(t, text, size, NULL, 0, &ids, &err) == 0);

    for (i = 0; i < ids.n; i++) {
        check(moe_tokenizer_piece(t, ids.ids[i], &s, &n) == 0);
        check(n <= size - k && memcmp(text + k, s, n) == 0);
        k += n;
    }

    check(k == size);
    moe_ids_free(&ids);
}


static moe_tokenizer_t *
fuzz_doc(unsigned i)
{
    json_t                  *root;
    moe_err_t                err;
    static moe_tokenizer_t  *built[NDOCS];

    if (built[i] == NULL) {
        root = json_loads(docs[i], 0, NULL);
        check(root != NULL);

        if (i == 0) {
            fuzz_vocab(root);
        }

        built[i] = moe_tokenizer_build(root, NULL, NULL, &err);
        check(built[i] != NULL);
        json_decref(root);
    }

    return built[i];
}


/* a document with fragments written over it: count, then (place, which) */

static void
fuzz_json(const uint8_t *data, size_t size)
{
    char             *text;
    size_t            i, n, at, len, edits;
    json_t           *root;
    moe_err_t         err;
    const char       *doc, *f;
    moe_tokenizer_t  *t;

    if (size < 2) {
        return;
    }

    doc = docs[data[0] % NDOCS];
    len = strlen(doc);
    edits = data[1] % 8;
    data += 2;
    size -= 2;

    text = malloc(len + 8 * 32 + 1);
    memcpy(text, doc, len + 1);

    for (i = 0; i < edits && size >= 4; i++, data += 4, size -= 4) {
        at = (data[0] | (size_t) data[1] << 8) % (len + 1);
        f = fragments[data[2] % NFRAGMENTS];
        n = data[3] % 32;               /* bytes that give way */
        n = n > len - at ? len - at : n;

        memmove(text + at + strlen(f), text + at + n, len - at - n + 1);
        memcpy(text + at, f, strlen(f));
        len += strlen(f) - n;
    }

    root = json_loadb(text, len, JSON_ALLOW_NUL, NULL);
    free(text);

    if (root == NULL) {
        return;
    }

    t = moe_tokenizer_build(root, NULL, NULL, &err);
    json_decref(root);

    if (t != NULL) {
        fuzz_text(t, data, size);
    }

    moe_tokenizer_free(t);
}


/*
 * A tiktoken.model of all bytes and some more, with bytes written over it:
 * count, then (place, bytes that give way, byte).  The rest is text.
 */
static void
fuzz_ranks(const uint8_t *data, size_t size)
{
    int               i;
    char             *text;
    size_t            at, n, len, edits;
    json_t           *config;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    static const char  more[] =
        "YWI= 256\nYmM= 257\nYWJj 258\nICA= 259\nICAgIA== 260\n5Lit 261\n";
    static const char  digits[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

    if (size < 1) {
        return;
    }

    text = malloc(8192);
    len = 0;

    for (i = 0; i < 256; i++) {
        len += (size_t) sprintf(text + len, "%c%c== %d\n", digits[i >> 2],
                                digits[(i & 3) << 4], i);
    }

    len += (size_t) sprintf(text + len, "%s", more);
    edits = data[0] % 8;
    data++;
    size--;

    for ( ; edits > 0 && size >= 4; edits--, data += 4, size -= 4) {
        at = len - (data[0] | (size_t) data[1] << 8) % len;
        n = data[2] % 8;
        n = n > len - at ? len - at : n;

        memmove(text + at + 1, text + at + n, len - at - n);
        text[at] = (char) data[3];
        len += 1 - n;
    }

    config = json_loads("{\"auto_map\":{\"AutoTokenizer\":"
                        "\"tokenization_kimi.TikTokenTokenizer\"},"
                        "\"added_tokens_decoder\":{\"262\":{\"content\":"
                        "\"<x>\",\"special\":true}}}", 0, NULL);
    check(config != NULL);

    t = moe_tokenizer_build_tiktoken(text, len, config, &err);
    json_decref(config);
    free(text);

    if (t != NULL) {
        fuzz_bytes(t, data, size);
        fuzz_text(t, data, size);
    }

    moe_tokenizer_free(t);
}


static void
fuzz_pattern(const uint8_t *data, size_t size)
{
    size_t              len, start, end, last = 0;
    moe_err_t           err;
    moe_onig_t          re;
    const uint8_t      *text;
    moe_onig_iter_t     it = { 0 };
    moe_onig_scratch_t  scratch = { 0 };

    text = memchr(data, 0, size);
    len = text ? (size_t) (text - data) : size;

    if (moe_onig_compile(&re, (const char *) data, len, 0, &err) == -1) {
        return;
    }

    if (text != NULL) {
        it.re = &re;
        it.scratch = &scratch;
        it.text = (const char *) text + 1;
        it.len = moe_utf8_valid(it.text, size - len - 1);

        while (moe_onig_next(&it, &start, &end, &err) == 1) {
            check(start >= last && end >= start && end <= it.len);
            last = end;
        }
    }

    moe_onig_scratch_free(&scratch);
    moe_onig_free(&re);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) {
        return 0;
    }

    switch (data[0] % 9) {

    case 0:
    case 1:
    case 2:
    case 3:
        fuzz_text(fuzz_doc(data[0] % 9), data + 1, size - 1);
        break;

    case 4:
        fuzz_bytes(fuzz_doc(0), data + 1, size - 1);
        break;

    case 5:
        fuzz_pattern(data + 1, size - 1);
        break;

    case 6:
        fuzz_ranks(data + 1, size - 1);
        break;

    default:
        fuzz_json(data + 1, size - 1);
    }

    return 0;
}
