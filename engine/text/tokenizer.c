#include <stdlib.h>
#include <string.h>

#include "text/tokenizer_parts.h"
#include "text/utf8.h"


/* positions are 32 bits wide in places, and no prompt is so long */
#define TOKENIZER_MAX_TEXT  ((size_t) 1 << 30)


typedef struct {
    const moe_tokenizer_t  *tokenizer;
    moe_ids_t              *out;
    moe_pretok_scratch_t    pretok;
    moe_bpe_scratch_t       bpe;
    moe_textbuf_t           valid;      /* text with U+FFFD for bad bytes */
    moe_textbuf_t           normal;
    moe_textbuf_t           other;
    unsigned                flags;
} tokenizer_call_t;


static int
tokenizer_add(tokenizer_call_t *c, uint32_t id, moe_err_t *err)
{
    if (moe_ids_add(c->out, id) == -1) {
        return moe_err(err, "tokenizer: out of memory");
    }

    return 0;
}


static int
tokenizer_piece(void *ctx, const char *s, size_t len, moe_err_t *err)
{
    tokenizer_call_t  *c = ctx;

    if (moe_bpe_encode(&c->tokenizer->bpe, &c->bpe, s, len, c->out) == -1) {
        return moe_err(err, "tokenizer: out of memory");
    }

    return 0;
}


/* a stretch without raw added tokens; first: the text begins with it */

static int
tokenizer_stretch(tokenizer_call_t *c, const char *s, size_t len,
    const uint8_t *trust, int first, moe_err_t *err)
{
    int                     rc;
    moe_added_iter_t        it = { 0 };
    moe_added_part_t        part;
    const moe_tokenizer_t  *t = c->tokenizer;

    if (t->normal.nsteps > 0) {
        c->normal.keep_trust = trust != NULL;

        if (moe_normal_run(&t->normal, &c->pretok.onig, s, len, trust,
                           &c->normal, &c->other, err) == -1)
        {
            return moe_err_prefix(err, "tokenizer");
        }

        s = c->normal.data;
        len = c->normal.len;
        trust = trust != NULL ? c->normal.trust : NULL;
    }

    it.text = s;
    it.len = len;
    it.trust = trust;

    if (!(c->flags & MOE_TOK_SPECIAL)) {
        it.from = len;
    }

    while (moe_added_next(&t->normalized, &it, &part)) {

        if (part.id != MOE_TOK_NONE) {
            rc = tokenizer_add(c, part.id, err);

        } else {
            rc = moe_pretok_run(&t->pretok, &c->pretok, s + part.start,
                                part.end - part.start,
                                first && part.start == 0, tokenizer_piece, c,
                                err);
        }

        if (rc == -1) {
            return -1;
        }
    }

    return 0;
}


/* a copy of the text in which every invalid part is U+FFFD */

static int
tokenizer_repair(tokenizer_call_t *c, const char *s, size_t len,
    const uint8_t *trust, moe_err_t *err)
{
    int       rc = 0;
    size_t    i, n;
    uint32_t  cp;

    c->valid.keep_trust = trust != NULL;

    for (i = 0; rc == 0 && i < len; i += n) {
        n = moe_utf8_valid(s + i, len - i);

        if (n > 0) {
            rc = moe_textbuf_add(&c->valid, s + i, n,
                                 trust ? trust + i : NULL, 1);
            continue;
        }

        (void) moe_utf8_next(s + i, len - i, &cp, &n);

        rc = moe_textbuf_add(&c->valid, MOE_UTF8_REPLACEMENT,
                             MOE_UTF8_REPLACEMENT_LEN, NULL,
                             moe_trust_all(trust ? trust + i : NULL, n));
    }

    return rc == 0 ? 0 : moe_err(err, "tokenizer: out of memory");
}


static int
tokenizer_text(tokenizer_call_t *c, const char *s, size_t len,
    const uint8_t *trust, moe_err_t *err)
{
    int               rc;
    moe_added_iter_t  it = { 0 };
    moe_added_part_t  part;

    if (moe_utf8_valid(s, len) != len) {
        if (tokenizer_repair(c, s, len, trust, err) == -1) {
            return -1;
        }

        s = c->valid.data;
        len = c->valid.len;
        trust = c->valid.trust;
    }

    it.text = s;
    it.len = len;
    it.trust = trust;

    if (!(c->flags & MOE_TOK_SPECIAL)) {
        it.from = len;
    }

    while (moe_added_next(&c->tokenizer->raw, &it, &part)) {

        if (part.id != MOE_TOK_NONE) {
            rc = tokenizer_add(c, part.id, err);

        } else {
            rc = tokenizer_stretch(c, s + part.start, part.end - part.start,
                                   trust ? trust + part.start : NULL,
                                   part.start == 0, err);
        }

        if (rc == -1) {
            return -1;
        }
    }

    return 0;
}


static int
tokenizer_around(tokenizer_call_t *c, const uint32_t *ids, unsigned n,
    moe_err_t *err)
{
    unsigned  i;

    if (!(c->flags & MOE_TOK_ADD_BOS)) {
        return 0;
    }

    for (i = 0; i < n; i++) {
        if (tokenizer_add(c, ids[i], err) == -1) {
            return -1;
        }
    }

    return 0;
}


int
moe_tokenizer_encode(const moe_tokenizer_t *t, const char *text, size_t len,
    const uint8_t *trust, unsigned flags, moe_ids_t *out, moe_err_t *err)
{
    int               rc;
    size_t            n = out->n;
    tokenizer_call_t  c = { 0 };

    if (len > TOKENIZER_MAX_TEXT) {
        return moe_err(err, "tokenizer: text of %zu bytes is too long", len);
    }

    c.tokenizer = t;
    c.out = out;
    c.flags = flags;

    rc = tokenizer_around(&c, t->before, t->nbefore, err);

    if (rc == 0) {
        rc = tokenizer_text(&c, text, len, trust, err);
    }

    if (rc == 0) {
        rc = tokenizer_around(&c, t->after, t->nafter, err);
    }

    if (rc == -1) {
        out->n = n;
    }

    moe_pretok_scratch_free(&c.pretok);
    moe_bpe_scratch_free(&c.bpe);
    moe_textbuf_free(&c.valid);
    moe_textbuf_free(&c.normal);
    moe_textbuf_free(&c.other);

    return rc;
}


int
moe_tokenizer_piece(const moe_tokenizer_t *t, uint32_t id, const char **bytes,
    size_t *len)
{
    if (id >= t->names.nids || t->names.at[id] == 0) {
        return -1;
    }

    *bytes = t->bytes + t->at[id];
    *len = t->at[id + 1] - t->at[id];

    return 0;
}


uint32_t
moe_tokenizer_id(const moe_tokenizer_t *t, const char *text, size_t len)
{
    return moe_vocab_find(&t->names, text, len);
}


uint32_t
moe_tokenizer_vocab_size(const moe_tokenizer_t *t)
{
    return t->names.nids;
}


uint32_t
moe_tokenizer_bos(const moe_tokenizer_t *t)
{
    return t->bos;
}


uint32_t
moe_tokenizer_eos(const moe_tokenizer_t *t)
{
    return t->eos;
}


int
moe_tokenizer_adds_bos(const moe_tokenizer_t *t)
{
    return t->nbefore > 0 && t->before[0] == t->bos;
}


int
moe_tokenizer_is_special(const moe_tokenizer_t *t, uint32_t id)
{
    return id < t->names.nids && (t->kind[id] & MOE_TOKEN_SPECIAL);
}


void
moe_tokenizer_free(moe_tokenizer_t *t)
{
    if (t == NULL) {
        return;
    }

    moe_vocab_free(&t->names);
    moe_bpe_free(&t->bpe);
    moe_pretok_free(&t->pretok);
    moe_normal_free(&t->normal);
    moe_added_free(&t->raw);
    moe_added_free(&t->normalized);
    free(t->bytes);
    free(t->at);
    free(t->kind);
    free(t);
}
