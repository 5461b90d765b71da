/*
 * tokenizer.json's "added_tokens", and what all tokens decode to.
 */

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_load.h"


/* what all tokens together may decode to */
#define LOAD_MAX_BYTES   ((size_t) 1 << 30)
#define LOAD_MAX_NORMAL  ((size_t) 1 << 30)


/* one added token, with its id from elsewhere where v has none */

static int
load_added_name(moe_tok_load_t *l, json_t *v, uint32_t id)
{
    size_t       len;
    uint32_t     known;
    const char  *s;

    if (moe_tok_string(l, v, "added_tokens", "content", &s, &len) == -1) {
        return -1;
    }

    if (len == 0 || len > MOE_TOK_MAX_PIECE) {
        return moe_err(l->err, "%s: added_tokens: content of %u has %zu bytes",
                       l->file, id, len);
    }

    known = moe_vocab_find(&l->t->names, s, len);

    if (known == MOE_VOCAB_NONE) {
        return moe_tok_name(l, "added_tokens", id, s, len);
    }

    if (known != id) {
        return moe_err(l->err, "%s: added_tokens: \"%.60s\" has id %u, in the "
                       "vocabulary %u", l->file, s, id, known);
    }

    return 0;
}


/*
 * To the reference a token that is looked for in normalized text is called
 * what normalizing makes of it, and is no longer a special one if that is
 * something else.
 */

static int
load_normal(moe_tok_load_t *l, uint32_t id, const char *s, size_t len,
    const moe_textbuf_t *out)
{
    if (out->len == len && memcmp(out->data, s, len) == 0) {
        return 0;
    }

    if (out->len > MOE_TOK_MAX_PIECE || l->normal.len > LOAD_MAX_NORMAL
        || moe_textbuf_add(&l->normal, out->data, out->len, NULL, 1) == -1)
    {
        return -1;
    }

    l->normal_at[id] = (uint32_t) l->normal.len + 1;
    l->normal_len[id] = (uint16_t) out->len;

    return 0;
}


/* in which text, raw or normalized, a token is looked for, and as what */

static int
load_added_find(moe_tok_load_t *l, json_t *v, uint32_t id)
{
    int              rc, normalized, lstrip, rstrip, single;
    size_t           len;
    unsigned         flags;
    const char      *s;
    moe_textbuf_t    out = { 0 }, other = { 0 };
    moe_onig_scratch_t  scratch = { 0 };

    if (moe_tok_string(l, v, "added_tokens", "content", &s, &len) == -1
        || moe_tok_bool(l, v, "added_tokens", "normalized", 0, &normalized)
           == -1
        || moe_tok_bool(l, v, "added_tokens", "lstrip", 0, &lstrip) == -1
        || moe_tok_bool(l, v, "added_tokens", "rstrip", 0, &rstrip) == -1
        || moe_tok_bool(l, v, "added_tokens", "single_word", 0, &single)
           == -1)
    {
        return -1;
    }

    flags = (single ? MOE_ADDED_SINGLE_WORD : 0)
            | (lstrip ? MOE_ADDED_LSTRIP : 0)
            | (rstrip ? MOE_ADDED_RSTRIP : 0);

    if (!normalized) {
        rc = moe_added_add(&l->t->raw, s, len, id, flags);

    } else {
        rc = moe_normal_run(&l->t->normal, &scratch, s, len, NULL, &out,
                            &other, l->err);

        if (rc == 0 && out.len > 0) {
            rc = moe_added_add(&l->t->normalized, out.data, out.len, id,
                               flags);
        }

        if (rc == 0) {
            rc = load_normal(l, id, s, len, &out);
        }

        moe_textbuf_free(&out);
        moe_textbuf_free(&other);
        moe_onig_scratch_free(&scratch);
    }

    return rc == 0 ? 0 : moe_err(l->err, "%s: added_tokens: no memory for "
                                 "\"%.60s\"", l->file, s);
}


static int
load_kinds(moe_tok_load_t *l)
{
    moe_tokenizer_t  *t = l->t;

    t->kind = calloc(t->names.nids + 1, 1);
    t->at = calloc(t->names.nids + 1, sizeof(size_t));

    l->normal_at = calloc(t->names.nids + 1, sizeof(uint32_t));
    l->normal_len = calloc(t->names.nids + 1, sizeof(uint16_t));

    if (t->kind == NULL || t->at == NULL || l->normal_at == NULL
        || l->normal_len == NULL)
    {
        return moe_err(l->err, "%s: out of memory", l->file);
    }

    return 0;
}


/*
 * The list of added tokens: their names first, since the tables by id need the
 * highest; then their kinds.  Special ones are looked for first, which
 * decides where two are the same text.
 */

int
moe_tok_load_added(moe_tok_load_t *l, json_t *list)
{
    int       pass, special;
    size_t    i, n;
    json_t   *v;
    uint32_t  id = 0;

    n = json_array_size(list);

    if (list != NULL && !json_is_array(list)) {
        return moe_err(l->err, "%s: added_tokens is not an array", l->file);
    }

    for (i = 0; i < n; i++) {
        v = json_array_get(list, i);

        if (moe_tok_id(l, moe_tok_get(v, "id"), "added_tokens", "a token", &id)
            == -1
            || load_added_name(l, v, id) == -1)
        {
            return -1;
        }
    }

    if (load_kinds(l) == -1) {
        return -1;
    }

    for (pass = 0; pass < 2; pass++) {

        for (i = 0; i < n; i++) {
            v = json_array_get(list, i);
            id = (uint32_t) json_integer_value(moe_tok_get(v, "id"));

            if (moe_tok_bool(l, v, "added_tokens", "special", 0, &special)
                == -1)
            {
                return -1;
            }

            if (special == (pass == 1)) {
                continue;
            }

            if (load_added_find(l, v, id) == -1) {
                return -1;
            }

            special &= l->normal_at[id] == 0;
            l->t->kind[id] |= MOE_TOKEN_ADDED
                              | (special ? MOE_TOKEN_SPECIAL : 0);
        }
    }

    return 0;
}


static int
load_replace(moe_tok_replace_t *r, moe_textbuf_t *from, moe_textbuf_t *to)
{
    int          rc = 0;
    const char  *p, *q, *end;

    to->len = 0;
    p = from->data;
    end = p + from->len;

    while (rc == 0 && p < end) {
        q = memmem(p, end - p, r->from, r->from_len);

        if (q == NULL) {
            return moe_textbuf_add(to, p, end - p, NULL, 1);
        }

        rc |= moe_textbuf_add(to, p, q - p, NULL, 1);
        rc |= moe_textbuf_add(to, r->to, r->to_len, NULL, 1);
        p = q + r->from_len;

        if (to->len > MOE_TOK_MAX_PIECE) {
            return -1;
        }
    }

    return rc;
}


/* a token's text through the decoder's literal steps, appended to all */

static int
load_text(moe_tok_load_t *l, const char *s, size_t len, moe_textbuf_t *all)
{
    int                rc;
    unsigned           i;
    moe_textbuf_t      a = { 0 }, b = { 0 }, swap;
    moe_tok_replace_t  r;

    rc = moe_textbuf_add(&a, s, len, NULL, 1);

    for (i = 0; rc == 0 && i < l->nreplaces; i++) {
        rc = load_replace(&l->replaces[i], &a, &b);
        swap = a;
        a = b;
        b = swap;
    }

    if (rc == 0 && l->t->decoder.mark[0] != '\0') {
        r.from = l->t->decoder.mark;
        r.from_len = strlen(r.from);
        r.to = " ";
        r.to_len = 1;
        rc = load_replace(&r, &a, &b);
        swap = a;
        a = b;
        b = swap;
    }

    if (rc == 0 && a.len > MOE_TOK_MAX_PIECE) {
        rc = -1;
    }

    if (rc == 0) {
        rc = moe_textbuf_add(all, a.data, a.len, NULL, 1);
    }

    moe_textbuf_free(&a);
    moe_textbuf_free(&b);

    return rc;
}


/* "<0xE2>", or -1 */

static int
load_byte_name(const char *s, size_t len)
{
    char  hex[3];

    if (len != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>'
        || !isxdigit((uint8_t) s[3]) || !isxdigit((uint8_t) s[4]))
    {
        return -1;
    }

    memcpy(hex, s + 3, 2);
    hex[2] = '\0';

    return (int) strtol(hex, NULL, 16);
}


static int
load_decoded(moe_tok_load_t *l, uint32_t id, moe_textbuf_t *all)
{
    int               byte;
    char              bytes[2 * MOE_TOK_MAX_PIECE];
    size_t            len, n;
    const char       *s;
    moe_tokenizer_t  *t = l->t;

    s = moe_vocab_get(&t->names, id, &len);

    if (s != NULL && l->normal_at[id] != 0) {
        len = l->normal_len[id];
        s = l->normal.data + l->normal_at[id] - 1 - len;
    }

    if (s == NULL || len == 0) {
        return 0;
    }

    if (t->decoder.byte_level) {
        if (moe_tok_bytes(s, len, bytes, &n)) {
            s = bytes;
            len = n;
        }

        if (len > MOE_TOK_MAX_PIECE) {
            return -1;
        }

        return moe_textbuf_add(all, s, len, NULL, 1);
    }

    byte = t->decoder.byte_fallback ? load_byte_name(s, len) : -1;

    if (byte != -1) {
        bytes[0] = (char) byte;
        t->kind[id] |= MOE_TOKEN_BYTE;
        return moe_textbuf_add(all, bytes, 1, NULL, 1);
    }

    return load_text(l, s, len, all);
}


int
moe_tok_load_pieces(moe_tok_load_t *l)
{
    uint32_t          id;
    moe_textbuf_t     all = { 0 };
    moe_tokenizer_t  *t = l->t;

    for (id = 0; id < t->names.nids; id++) {
        t->at[id] = all.len;

        if (all.len > LOAD_MAX_BYTES || load_decoded(l, id, &all) == -1) {
            moe_textbuf_free(&all);
            return moe_err(l->err, "%s: token %u decodes to more than %d "
                           "bytes, or memory is short", l->file, id,
                           MOE_TOK_MAX_PIECE);
        }
    }

    t->at[id] = all.len;
    t->bytes = all.data;

    if (t->bytes == NULL) {
        t->bytes = calloc(1, 1);
    }

    return t->bytes == NULL ? moe_err(l->err, "%s: out of memory", l->file)
                            : 0;
}
