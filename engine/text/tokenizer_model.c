/*
 * tokenizer.json's "model": the vocabulary and its merges.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_load.h"
#include "text/utf8.h"


/*
 * Byte-level files write every byte as a printable character: itself where it
 * is one in Latin-1, the rest in order from U+0100 on.  -1: no such character.
 */

static int
load_char_byte(uint32_t cp)
{
    if ((cp >= 33 && cp <= 126) || (cp >= 161 && cp <= 172)
        || (cp >= 174 && cp <= 255))
    {
        return (int) cp;
    }

    if (cp < 256 || cp >= 256 + 68) {
        return -1;
    }

    cp -= 256;

    return (int) (cp <= 32 ? cp : cp <= 32 + 34 ? cp - 33 + 127 : 173);
}


/* the bytes that a token's text stands for; 0 if it is none of bytes */

int
moe_tok_bytes(const char *s, size_t len, char *out, size_t *n)
{
    int       byte;
    size_t    i, k;
    uint32_t  cp;

    *n = 0;

    for (i = 0; i < len; i += k) {
        (void) moe_utf8_next(s + i, len - i, &cp, &k);
        byte = load_char_byte(cp);

        if (byte == -1) {
            return 0;
        }

        out[(*n)++] = (char) byte;
    }

    return 1;
}


int
moe_tok_id(moe_tok_load_t *l, json_t *v, const char *path, const char *name,
    uint32_t *id)
{
    json_int_t  n;

    n = json_integer_value(v);

    if (!json_is_integer(v) || n < 0 || n >= MOE_VOCAB_MAX_IDS) {
        return moe_err(l->err, "%s: %s: the id of \"%.60s\" is not an integer "
                       "below %u", l->file, path, name, MOE_VOCAB_MAX_IDS);
    }

    *id = (uint32_t) n;

    return 0;
}


int
moe_tok_name(moe_tok_load_t *l, const char *path, uint32_t id, const char *s,
    size_t len)
{
    int  rc;

    if (len > 2 * MOE_TOK_MAX_PIECE) {
        return moe_err(l->err, "%s: %s: token %u has %zu bytes", l->file, path,
                       id, len);
    }

    rc = moe_vocab_add(&l->t->names, id, s, len);

    if (rc == 1) {
        return moe_err(l->err, "%s: %s: id %u of \"%.60s\" belongs to another "
                       "token", l->file, path, id, s);
    }

    if (rc == 2) {
        return moe_err(l->err, "%s: %s: \"%.60s\" is there twice", l->file,
                       path, s);
    }

    return rc == 0 ? 0 : moe_err(l->err, "%s: out of memory", l->file);
}


static int
load_vocab(moe_tok_load_t *l, json_t *model)
{
    char         bytes[2 * MOE_TOK_MAX_PIECE];
    json_t      *vocab;
    void        *it;
    size_t       len, n;
    uint32_t     id = 0;
    moe_bpe_t   *b = &l->t->bpe;
    const char  *s, *p;

    vocab = moe_tok_get(model, "vocab");

    if (!json_is_object(vocab)) {
        return moe_err(l->err, "%s: model.vocab is not an object", l->file);
    }

    for (it = json_object_iter(vocab); it != NULL;
         it = json_object_iter_next(vocab, it))
    {
        s = json_object_iter_key(it);
        len = json_object_iter_key_len(it);

        if (moe_tok_id(l, json_object_iter_value(it), "model.vocab", s, &id)
            == -1
            || moe_tok_name(l, "model.vocab", id, s, len) == -1)
        {
            return -1;
        }

        p = s;
        n = len;

        if (b->byte_level) {
            if (!moe_tok_bytes(s, len, bytes, &n)) {
                continue;
            }

            p = bytes;
        }

        if (n > 0 && moe_vocab_add(&b->vocab, id, p, n) != 0) {
            return moe_err(l->err, "%s: out of memory", l->file);
        }
    }

    return 0;
}


/* the symbols of single bytes: byte-level, or "<0xE2>" to fall back to */

static int
load_byte_ids(moe_tok_load_t *l)
{
    int         i, missing = 0;
    char        text[8];
    moe_bpe_t  *b = &l->t->bpe;

    for (i = 0; i < 256; i++) {
        if (b->byte_level) {
            text[0] = (char) i;
            b->byte_id[i] = moe_vocab_find(&b->vocab, text, 1);

        } else {
            snprintf(text, sizeof(text), "<0x%02X>", i);
            b->byte_id[i] = moe_vocab_find(&l->t->names, text, 6);
        }

        missing += b->byte_id[i] == MOE_VOCAB_NONE;
    }

    if (b->byte_level && missing > 0
        && (b->byte_fallback || b->unk != MOE_VOCAB_NONE))
    {
        return moe_err(l->err, "%s: model.vocab lacks %d bytes, and "
                       "unk_token or byte_fallback in their place is not "
                       "supported", l->file, missing);
    }

    return 0;
}


/* one merge, "a b" or ["a", "b"]; 1: a comment */

static int
load_merge_parts(json_t *v, const char **a, size_t *alen, const char **b,
    size_t *blen)
{
    size_t       len;
    json_t      *left, *right;
    const char  *s, *space;

    if (json_is_array(v) && json_array_size(v) == 2) {
        left = json_array_get(v, 0);
        right = json_array_get(v, 1);

        if (!json_is_string(left) || !json_is_string(right)) {
            return -1;
        }

        *a = json_string_value(left);
        *alen = json_string_length(left);
        *b = json_string_value(right);
        *blen = json_string_length(right);

        return 0;
    }

    if (!json_is_string(v)) {
        return -1;
    }

    s = json_string_value(v);
    len = json_string_length(v);

    if (strncmp(s, "#version", 8) == 0) {
        return 1;
    }

    space = memchr(s, ' ', len);

    if (space == NULL || memchr(space + 1, ' ', s + len - space - 1) != NULL) {
        return -1;
    }

    *a = s;
    *alen = space - s;
    *b = space + 1;
    *blen = s + len - space - 1;

    return 0;
}


static int
load_merge(moe_tok_load_t *l, json_t *v, size_t i, uint32_t *rank)
{
    int           rc;
    char          text[4 * MOE_TOK_MAX_PIECE];
    size_t        alen, blen;
    uint32_t      left, right, id;
    const char   *a, *b;
    moe_vocab_t  *names = &l->t->names;

    rc = load_merge_parts(v, &a, &alen, &b, &blen);

    if (rc == -1) {
        return moe_err(l->err, "%s: model.merges[%zu] is not a pair of tokens",
                       l->file, i);
    }

    if (rc == 1) {
        return 0;
    }

    left = moe_vocab_find(names, a, alen);
    right = moe_vocab_find(names, b, blen);

    if (left == MOE_VOCAB_NONE || right == MOE_VOCAB_NONE) {
        return moe_err(l->err, "%s: model.merges[%zu]: \"%.60s\" is no token",
                       l->file, i, left == MOE_VOCAB_NONE ? a : b);
    }

    memcpy(text, a, alen);
    memcpy(text + alen, b, blen);
    id = moe_vocab_find(names, text, alen + blen);

    if (id == MOE_VOCAB_NONE) {
        return moe_err(l->err, "%s: model.merges[%zu]: what it makes of "
                       "\"%.60s\" is no token", l->file, i, a);
    }

    if (moe_bpe_add_merge(&l->t->bpe, left, right, (*rank)++, id) == -1) {
        return moe_err(l->err, "%s: out of memory", l->file);
    }

    return 0;
}


static int
load_merges(moe_tok_load_t *l, json_t *model)
{
    size_t    i, n;
    json_t   *merges;
    uint32_t  rank = 0;

    if (l->scores != NULL) {
        return moe_tok_load_scores(l);
    }

    if (l->ranked) {
        return moe_tok_load_ranks(l);
    }

    merges = moe_tok_get(model, "merges");
    n = json_array_size(merges);

    if (!json_is_array(merges)) {
        return moe_err(l->err, "%s: model.merges is not an array", l->file);
    }

    for (i = 0; i < n; i++) {
        if (load_merge(l, json_array_get(merges, i), i, &rank) == -1) {
            return -1;
        }
    }

    return 0;
}


/* what of a BPE model this program does not have */

static int
load_model_refuse(moe_tok_load_t *l, json_t *model)
{
    size_t   i;
    json_t  *v;

    static const char *const  affixes[] = {
        "continuing_subword_prefix", "end_of_word_suffix"
    };

    if (!json_is_object(model)) {
        return moe_err(l->err, "%s: model is not an object", l->file);
    }

    v = moe_tok_get(model, "type");

    if (v != NULL && (!json_is_string(v)
                      || strcmp(json_string_value(v), "BPE") != 0))
    {
        return moe_err(l->err, "%s: model.type is not \"BPE\"", l->file);
    }

    for (i = 0; i < 2; i++) {
        v = moe_tok_get(model, affixes[i]);

        if (v != NULL && !(json_is_string(v) && json_string_length(v) == 0)) {
            return moe_err(l->err, "%s: model.%s is not supported", l->file,
                           affixes[i]);
        }
    }

    v = moe_tok_get(model, "dropout");

    if (v != NULL && json_number_value(v) != 0.0) {
        return moe_err(l->err, "%s: model.dropout is not supported", l->file);
    }

    return 0;
}


int
moe_tok_load_model(moe_tok_load_t *l, json_t *model)
{
    int          fallback, fuse, ignore;
    size_t       len;
    moe_bpe_t   *b = &l->t->bpe;
    const char  *s;

    if (load_model_refuse(l, model) == -1
        || moe_tok_bool(l, model, "model", "byte_fallback", 0, &fallback)
           == -1
        || moe_tok_bool(l, model, "model", "fuse_unk", 0, &fuse) == -1
        || moe_tok_bool(l, model, "model", "ignore_merges", 0, &ignore) == -1)
    {
        return -1;
    }

    b->byte_fallback = fallback;
    b->fuse_unk = fuse;
    b->ignore_merges = ignore;
    b->unk = MOE_VOCAB_NONE;

    if (load_vocab(l, model) == -1 || load_merges(l, model) == -1) {
        return -1;
    }

    if (moe_tok_get(model, "unk_token") != NULL) {
        if (moe_tok_string(l, model, "model", "unk_token", &s, &len) == -1) {
            return -1;
        }

        b->unk = moe_vocab_find(&l->t->names, s, len);

        if (b->unk == MOE_VOCAB_NONE) {
            return moe_err(l->err, "%s: model.unk_token \"%.60s\" is no token",
                           l->file, s);
        }
    }

    if (load_byte_ids(l) == -1) {
        return -1;
    }

    if (moe_bpe_finish(b) == -1) {
        return moe_err(l->err, "%s: out of memory", l->file);
    }

    return 0;
}
