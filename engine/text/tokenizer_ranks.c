/*
 * tiktoken.model: a vocabulary of byte strings by rank, and what goes with it
 * in the models that ship one (Kimi-K2).
 *
 * The file has a line for each token, its bytes in base64 and its rank, which
 * is its id.  Two neighbours merge where their bytes together are a token, the
 * lowest rank first: so every cut of a token into two others is a merge.  How
 * text is cut is in the model's own tokenizer class; that this class is meant
 * is read off tokenizer_config.json, as are the tokens behind the ranks.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_load.h"
#include "text/utf8.h"


/* the longest token of the known vocabularies has 128 bytes; looking for the
 * cuts of one takes the square of this */
#define RANKS_MAX_TOKEN  1024

#define RANKS_CLASS      "tokenization_kimi.TikTokenTokenizer"

/* so many ids behind the ranks have names, given or not */
#define RANKS_RESERVED   (256 + 2)

#define RANKS_UPPER      "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}"
#define RANKS_LOWER      "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}"
#define RANKS_NO_HAN(s)  "[" s "&&[^\\p{Han}]]"
#define RANKS_SUFFIX     "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

#define RANKS_PATTERN                                                         \
    "[\\p{Han}]+"                                                             \
    "|[^\\r\\n\\p{L}\\p{N}]?" RANKS_NO_HAN(RANKS_UPPER) "*"                   \
    RANKS_NO_HAN(RANKS_LOWER) "+" RANKS_SUFFIX                                \
    "|[^\\r\\n\\p{L}\\p{N}]?" RANKS_NO_HAN(RANKS_UPPER) "+"                   \
    RANKS_NO_HAN(RANKS_LOWER) "*" RANKS_SUFFIX                                \
    "|\\p{N}{1,3}"                                                            \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*"                                         \
    "|\\s*[\\r\\n]+"                                                          \
    "|\\s+(?!\\S)"                                                            \
    "|\\s+"


typedef struct {
    json_t     *vocab;
    uint8_t    *seen;           /* by rank */
    size_t      n;              /* lines that are not empty */
    size_t      line;
    moe_err_t  *err;
} ranks_t;


static int ranks_error(const ranks_t *r, const char *what);


static int
ranks_digit(char c)
{
    return c >= 'A' && c <= 'Z' ? c - 'A'
           : c >= 'a' && c <= 'z' ? c - 'a' + 26
           : c >= '0' && c <= '9' ? c - '0' + 52
           : c == '+' ? 62
           : c == '/' ? 63 : -1;
}


/* bytes of base64 with its padding; -1: it is none, or too long */

static int
ranks_base64(const char *s, size_t len, uint8_t *out, size_t *n)
{
    int       digit;
    size_t    i, pad;
    uint32_t  bits = 0;

    *n = 0;

    if (len == 0 || len % 4 != 0 || len / 4 * 3 > RANKS_MAX_TOKEN + 2) {
        return -1;
    }

    pad = s[len - 1] == '=' ? 1 + (s[len - 2] == '=') : 0;

    for (i = 0; i < len; i++) {
        digit = i < len - pad ? ranks_digit(s[i]) : 0;

        if (digit == -1) {
            return -1;
        }

        bits = bits << 6 | (uint32_t) digit;

        if (i % 4 == 3) {
            out[(*n)++] = (uint8_t) (bits >> 16);
            out[(*n)++] = (uint8_t) (bits >> 8);
            out[(*n)++] = (uint8_t) bits;
        }
    }

    *n -= pad;

    /* what the padding cuts off is zero, so that bytes have one spelling */
    return (pad > 0 && out[*n] != 0) || *n > RANKS_MAX_TOKEN ? -1 : 0;
}


/* the token's bytes as tokenizer.json writes them */

static size_t
ranks_name(const uint8_t *bytes, size_t len, char *out)
{
    size_t    i, n = 0;
    uint32_t  b;

    for (i = 0; i < len; i++) {
        b = bytes[i];

        if (b <= 32) {
            b += 256;

        } else if (b >= 127 && b <= 160) {
            b += 256 + 33 - 127;

        } else if (b == 173) {
            b = 256 + 67;
        }

        n += moe_utf8_put(b, out + n);
    }

    return n;
}


/* "4pWQ 1234" */

static int
ranks_line(ranks_t *r, const char *s, size_t len)
{
    char         name[2 * (RANKS_MAX_TOKEN + 3)];
    size_t       i, n, rank;
    uint8_t      bytes[RANKS_MAX_TOKEN + 3];
    const char  *space;

    space = memchr(s, ' ', len);

    if (space == NULL || ranks_base64(s, (size_t) (space - s), bytes, &n) == -1
        || n == 0)
    {
        return ranks_error(r, "does not begin with the base64 of a token");
    }

    i = (size_t) (space - s) + 1;
    rank = 0;

    if (i == len) {
        return ranks_error(r, "has no rank");
    }

    for ( ; i < len; i++) {
        if (s[i] < '0' || s[i] > '9') {
            return ranks_error(r, "does not end in a rank");
        }

        rank = rank * 10 + (size_t) (s[i] - '0');

        if (rank >= r->n) {
            return ranks_error(r, "has a rank beyond the number of tokens");
        }
    }

    if (r->seen[rank]) {
        return ranks_error(r, "has the rank of an earlier one");
    }

    r->seen[rank] = 1;
    n = ranks_name(bytes, n, name);

    if (json_object_getn(r->vocab, name, n) != NULL) {
        return ranks_error(r, "has the token of an earlier one");
    }

    if (json_object_setn_new_nocheck(r->vocab, name, n,
                                     json_integer((json_int_t) rank)) != 0)
    {
        return moe_err(r->err, "tiktoken.model: out of memory");
    }

    return 0;
}


static int
ranks_error(const ranks_t *r, const char *what)
{
    return moe_err(r->err, "tiktoken.model: line %zu %s", r->line, what);
}


/* every line by ranks_line(), or with r->seen NULL only counted */

static int
ranks_lines(ranks_t *r, const char *text, size_t len)
{
    size_t       n;
    const char  *p, *end;

    end = text + len;

    for (p = text, r->line = 1; p < end; p += n + 1, r->line++) {
        n = (size_t) (end - p);
        n = memchr(p, '\n', n) ? (size_t) ((char *) memchr(p, '\n', n) - p)
                               : n;

        if (n == 0) {
            continue;
        }

        if (r->seen == NULL) {
            r->n++;

        } else if (ranks_line(r, p, n) == -1) {
            return -1;
        }
    }

    return 0;
}


/* the vocabulary; all ranks of 0 .. *n - 1 are in it once */

static json_t *
ranks_vocab(const char *text, size_t len, size_t *n, moe_err_t *err)
{
    int      rc;
    ranks_t  r = { .err = err };

    (void) ranks_lines(&r, text, len);

    if (r.n == 0 || r.n > MOE_VOCAB_MAX_IDS - RANKS_RESERVED) {
        moe_err(err, "tiktoken.model: %zu tokens", r.n);
        return NULL;
    }

    r.seen = calloc(r.n, 1);
    r.vocab = json_object();

    if (r.seen == NULL || r.vocab == NULL) {
        rc = moe_err(err, "tiktoken.model: out of memory");

    } else {
        rc = ranks_lines(&r, text, len);
    }

    free(r.seen);
    *n = r.n;

    if (rc == -1) {
        json_decref(r.vocab);
        return NULL;
    }

    return r.vocab;
}


/* 0 where tokenizer_config.json names the class whose pattern is above */

static int
ranks_class(json_t *config, moe_err_t *err)
{
    json_t      *v;
    const char  *name;

    v = moe_tok_get(moe_tok_get(config, "auto_map"), "AutoTokenizer");
    v = json_is_array(v) ? json_array_get(v, 0) : v;
    name = json_string_value(v);

    if (name == NULL) {
        return moe_err(err, "tiktoken.model: how text is cut for it is not "
                       "known: tokenizer_config.json has no "
                       "auto_map.AutoTokenizer");
    }

    /* "repository--module.class" where it was saved away from its own */
    name = strstr(name, "--") ? strstr(name, "--") + 2 : name;

    if (strcmp(name, RANKS_CLASS) != 0) {
        return moe_err(err, "tokenizer_config.json: auto_map.AutoTokenizer "
                       "\"%.60s\" is not \"" RANKS_CLASS "\", the one that "
                       "is supported with tiktoken.model", name);
    }

    return 0;
}


/* a token of added_tokens_decoder with its id, as added_tokens has them */

static int
ranks_added_one(json_t *list, const char *key, json_t *from, size_t n,
    moe_err_t *err)
{
    char          *end;
    json_t        *v;
    unsigned long  id;

    id = strtoul(key, &end, 10);

    if (key[0] < '0' || key[0] > '9' || *end != '\0'
        || id >= MOE_VOCAB_MAX_IDS || id < n || !json_is_object(from))
    {
        return moe_err(err, "tokenizer_config.json: added_tokens_decoder: "
                       "\"%.20s\" is not a token with an id behind the %zu of "
                       "tiktoken.model", key, n);
    }

    v = json_copy(from);

    if (v == NULL
        || json_object_set_new(v, "id", json_integer((json_int_t) id)) != 0
        || json_array_append_new(list, v) != 0)
    {
        return moe_err(err, "tokenizer_config.json: out of memory");
    }

    return 0;
}


static json_t *
ranks_added(json_t *config, size_t n, moe_err_t *err)
{
    char         name[40];
    void        *it;
    size_t       i;
    json_t      *list, *given;

    list = json_array();
    given = moe_tok_get(config, "added_tokens_decoder");

    for (it = json_object_iter(given); it != NULL;
         it = json_object_iter_next(given, it))
    {
        if (ranks_added_one(list, json_object_iter_key(it),
                            json_object_iter_value(it), n, err) == -1)
        {
            json_decref(list);
            return NULL;
        }
    }

    /* the others of the reserve, which the config does not call special */

    for (i = n; i < n + RANKS_RESERVED; i++) {
        snprintf(name, sizeof(name), "%zu", i);

        if (json_object_get(given, name) != NULL) {
            continue;
        }

        snprintf(name, sizeof(name), "<|reserved_token_%zu|>", i);

        if (json_array_append_new(list, json_pack("{s:I, s:s}", "id",
                                                  (json_int_t) i, "content",
                                                  name)) != 0)
        {
            moe_err(err, "tiktoken.model: out of memory");
            json_decref(list);
            return NULL;
        }
    }

    return list;
}


moe_tokenizer_t *
moe_tokenizer_build_tiktoken(const char *text, size_t len, json_t *config,
    moe_err_t *err)
{
    size_t            n;
    json_t           *root, *vocab, *added;
    moe_tokenizer_t  *t;

    if (ranks_class(config, err) == -1) {
        moe_tok_clean(err);
        return NULL;
    }

    vocab = ranks_vocab(text, len, &n, err);
    added = vocab ? ranks_added(config, n, err) : NULL;

    if (added == NULL) {
        json_decref(vocab);
        moe_tok_clean(err);
        return NULL;
    }

    root = json_pack("{s:{s:b, s:o}, s:o, s:{s:s}, s:{s:s, s:[{s:s, s:{s:s},"
                     " s:s}, {s:s, s:b, s:b}]}}",
                     "model", "ignore_merges", 1, "vocab", vocab,
                     "added_tokens", added,
                     "decoder", "type", "ByteLevel",
                     "pre_tokenizer", "type", "Sequence", "pretokenizers",
                     "type", "Split", "pattern", "Regex", RANKS_PATTERN,
                     "behavior", "Isolated",
                     "type", "ByteLevel", "use_regex", 0, "add_prefix_space",
                     0);

    if (root == NULL) {
        moe_err(err, "tiktoken.model: out of memory");
        return NULL;
    }

    t = moe_tokenizer_build_ranked(root, config, err);
    json_decref(root);

    return t;
}


/* every cut of a token into two tokens is a merge of its rank */

int
moe_tok_load_ranks(moe_tok_load_t *l)
{
    int          byte, missing = 0;
    char         c;
    size_t       i, len;
    uint32_t     id, left, right;
    moe_bpe_t   *b = &l->t->bpe;
    const char  *s;

    for (byte = 0; byte < 256; byte++) {
        c = (char) byte;
        missing += moe_vocab_find(&b->vocab, &c, 1) == MOE_VOCAB_NONE;
    }

    if (missing > 0) {
        return moe_err(l->err, "tiktoken.model: it lacks %d bytes", missing);
    }

    for (id = 0; id < b->vocab.nids; id++) {
        s = moe_vocab_get(&b->vocab, id, &len);

        for (i = 1; i < len; i++) {
            left = moe_vocab_find(&b->vocab, s, i);
            right = left == MOE_VOCAB_NONE ? left
                    : moe_vocab_find(&b->vocab, s + i, len - i);

            if (right == MOE_VOCAB_NONE) {
                continue;
            }

            if (moe_bpe_add_merge(b, left, right, id, id) == -1) {
                return moe_err(l->err, "%s: out of memory", l->file);
            }
        }
    }

    return 0;
}
