#include <stdlib.h>
#include <string.h>

#include "front/stream.h"


/* header of a delta, as moe_put_delta() writes it, is less than this */
#define MOE_STREAM_HEAD    64


static int
moe_buf_add(moe_buf_t *b, const void *data, size_t n)
{
    size_t    cap;
    uint8_t  *p;

    if (b->head && b->head + b->n + n > b->cap) {
        memmove(b->data, b->data + b->head, b->n);
        b->head = 0;
    }

    if (b->n + n > b->cap) {

        for (cap = b->cap ? b->cap : 64; cap < b->n + n; cap *= 2) {
            /* void */
        }

        p = realloc(b->data, cap);
        if (p == NULL) {
            return -1;
        }

        b->data = p;
        b->cap = cap;
    }

    if (n) {
        memcpy(b->data + b->head + b->n, data, n);
        b->n += n;
    }

    return 0;
}


static void
moe_buf_take(moe_buf_t *b, size_t n)
{
    b->head += n;
    b->n -= n;

    if (b->n == 0) {
        b->head = 0;
    }
}


static const uint8_t *
moe_buf_head(const moe_buf_t *b)
{
    return b->data ? b->data + b->head : (const uint8_t *) "";
}


size_t
moe_utf8_cut(const char *text, size_t n)
{
    size_t   i;
    uint8_t  c;

    for (i = 1; i <= 4 && i <= n; i++) {
        c = (uint8_t) text[n - i];

        if (c < 0x80) {
            return n;
        }

        if (c >= 0xc0) {
            return i == (c >= 0xf0 ? 4u : c >= 0xe0 ? 3u : 2u) ? n : n - i;
        }
    }

    return n;
}


void
moe_stream_init(moe_stream_t *s, const moe_tokenizer_t *t,
    const moe_stops_t *stops, uint32_t min_tokens, unsigned flags)
{
    memset(s, 0, sizeof(moe_stream_t));

    s->tokenizer = t;
    s->stops = stops && stops->n ? stops : NULL;
    s->min_tokens = min_tokens;

    moe_detok_init(&s->detok, t, flags);
}


void
moe_stream_free(moe_stream_t *s)
{
    moe_ids_free(&s->ids);
    free(s->held.data);
    free(s->text.data);
    free(s->lp.data);
    free(s->pieces.data);
}


/* text leaves the hold, less what a client had before */

static int
moe_stream_release(moe_stream_t *s, const char *text, size_t n)
{
    size_t  skip;

    skip = s->skip < n ? (size_t) s->skip : n;
    s->skip -= skip;
    n -= skip;

    if (moe_buf_add(&s->text, text + skip, n) == -1) {
        return -1;
    }

    s->cut += n;

    return 0;
}


/* 1: a stop string is complete */

static int
moe_stream_feed(moe_stream_t *s, const char *text, size_t n, int watch)
{
    int     rc;
    size_t  end, len, keep;

    if (s->stops == NULL || (!watch && s->held.n == 0)) {
        return moe_stream_release(s, text, n);
    }

    len = 0;
    end = moe_stops_feed(s->stops, &s->state, text, n, &len);

    if (moe_buf_add(&s->held, text, end ? end : n) == -1) {
        return -1;
    }

    /* the held bytes are the end of the text, so they cover the string */
    keep = end ? len : moe_stops_held(s->stops, &s->state);

    rc = moe_stream_release(s, (const char *) moe_buf_head(&s->held),
                            s->held.n - keep);

    moe_buf_take(&s->held, end ? s->held.n : s->held.n - keep);

    if (end) {
        s->stopped = 1;
        s->finish = MOE_FINISH_STOP;
    }

    return rc == -1 ? -1 : end != 0;
}


/* the text that was released becomes pieces, the first has id and record */

static int
moe_stream_piece(moe_stream_t *s, moe_piece_t *piece)
{
    size_t       n, at;
    const char  *text;

    at = s->text.n - s->cut;

    do {
        text = (const char *) moe_buf_head(&s->text) + at;
        n = s->cut;

        if (n > MOE_STREAM_PIECE) {
            n = moe_utf8_cut(text, MOE_STREAM_PIECE);
        }

        piece->ntext = n;

        if (moe_buf_add(&s->pieces, piece, sizeof(moe_piece_t)) == -1) {
            return -1;
        }

        at += n;
        s->cut -= n;

        piece->has_id = 0;
        piece->nlp = 0;
        piece->lp_size = 0;

    } while (s->cut);

    return 0;
}


/* a rank's records have no bytes, the client's have */

static int
moe_stream_lp(moe_stream_t *s, moe_piece_t *piece, const void *lp,
    size_t lp_size)
{
    void        *end;
    size_t       len;
    uint32_t     i, n;
    uint64_t     out[(sizeof(moe_lp_t) + MOE_STREAM_LP_BYTES) / 8 + 1];
    moe_lp_t     rec;
    const void  *p, *last;

    if (lp_size == 0) {
        return 0;
    }

    p = lp;
    last = (const uint8_t *) lp + lp_size;
    n = 1;

    for (i = 0; i < n; i++) {

        if (moe_lp_read(&rec, &p, last) != MOE_JOBQ_OK
            || rec.ntop > MOE_TOP_LOGPROBS || (i && rec.ntop))
        {
            return -1;
        }

        if (i == 0) {
            n += rec.ntop;
        }

        len = 0;
        rec.bytes = "";

        (void) moe_tokenizer_piece(s->tokenizer, rec.id, &rec.bytes, &len);

        rec.len = len < MOE_STREAM_LP_BYTES ? len : MOE_STREAM_LP_BYTES;

        end = moe_lp_write(&rec, out);
        len = (uint8_t *) end - (uint8_t *) out;

        if (moe_buf_add(&s->lp, out, len) == -1) {
            return -1;
        }

        piece->lp_size += len;
    }

    piece->nlp = 1;

    return 0;
}


static int
moe_stream_keep_id(moe_stream_t *s, uint32_t id)
{
    size_t     cap;
    uint32_t  *p;

    if (s->ids.n == s->ids.cap) {
        cap = s->ids.cap ? s->ids.cap * 2 : 64;

        p = realloc(s->ids.ids, cap * sizeof(uint32_t));
        if (p == NULL) {
            return -1;
        }

        s->ids.ids = p;
        s->ids.cap = cap;
    }

    s->ids.ids[s->ids.n++] = id;

    return 0;
}


/* keeps the id and feeds its text; the piece is the caller's */

static int
moe_stream_take(moe_stream_t *s, uint32_t id)
{
    char    text[MOE_DETOK_MAX];
    size_t  n;

    if (moe_stream_keep_id(s, id) == -1) {
        return -1;
    }

    n = moe_detok_push(&s->detok, id, text);

    return moe_stream_feed(s, text, n, s->ids.n > s->min_tokens);
}


void
moe_stream_replay(moe_stream_t *s, const uint32_t *ids, uint32_t n,
    uint64_t ntext)
{
    int          rc;
    uint32_t     i;
    moe_piece_t  piece;

    s->skip = ntext;
    rc = 0;

    for (i = 0; i < n && rc == 0; i++) {
        rc = moe_stream_take(s, ids[i]);
    }

    s->sent = s->ids.n;

    /* released then, but not delivered */

    if (s->cut) {
        memset(&piece, 0, sizeof(moe_piece_t));

        if (moe_stream_piece(s, &piece) == -1) {
            rc = -1;
        }
    }

    s->failed = (rc == -1);
}


int
moe_stream_push(moe_stream_t *s, uint32_t id, const void *lp, size_t lp_size)
{
    int          rc;
    moe_piece_t  piece;

    memset(&piece, 0, sizeof(moe_piece_t));

    piece.id = id;
    piece.has_id = 1;

    rc = moe_stream_take(s, id);

    if (rc == -1 || moe_stream_lp(s, &piece, lp, lp_size) == -1
        || moe_stream_piece(s, &piece) == -1)
    {
        s->failed = 1;
        return -1;
    }

    return rc;
}


int
moe_stream_finish(moe_stream_t *s, moe_finish_e why)
{
    char         text[MOE_DETOK_MAX];
    size_t       n;
    moe_piece_t  piece;

    if (s->stopped) {
        return 0;
    }

    n = moe_detok_flush(&s->detok, text);

    if (n && moe_stream_feed(s, text, n, s->ids.n > s->min_tokens) == -1) {
        goto failed;
    }

    if (!s->stopped) {
        s->finish = why;

        if (moe_stream_release(s, (const char *) moe_buf_head(&s->held),
                               s->held.n)
            == -1)
        {
            goto failed;
        }

        moe_buf_take(&s->held, s->held.n);
    }

    if (s->cut) {
        memset(&piece, 0, sizeof(moe_piece_t));

        if (moe_stream_piece(s, &piece) == -1) {
            goto failed;
        }
    }

    return 0;

failed:

    s->failed = 1;
    return -1;
}


int
moe_stream_text(moe_stream_t *s, const char *text, size_t len, int echo)
{
    moe_piece_t  piece;

    if (len == 0) {
        return 0;
    }

    memset(&piece, 0, sizeof(moe_piece_t));
    piece.echo = echo;

    if (moe_buf_add(&s->text, text, len) == -1) {
        return -1;
    }

    s->cut += len;

    return moe_stream_piece(s, &piece);
}


int
moe_stream_id(moe_stream_t *s, uint32_t id, const void *lp, size_t lp_size,
    int echo)
{
    moe_piece_t  piece;

    memset(&piece, 0, sizeof(moe_piece_t));

    piece.id = id;
    piece.has_id = 1;
    piece.echo = echo;

    if (moe_stream_lp(s, &piece, lp, lp_size) == -1) {
        return -1;
    }

    return moe_stream_piece(s, &piece);
}


int
moe_stream_ready(const moe_stream_t *s)
{
    return s->pieces.n || (s->finish && !s->finish_sent);
}


void
moe_stream_delta(moe_stream_t *s, moe_delta_t *d, uint32_t *ids)
{
    int                 echo;
    size_t              i, n, size;
    const moe_piece_t  *p;

    memset(d, 0, sizeof(moe_delta_t));
    memset(&s->taken, 0, sizeof(s->taken));

    p = (const moe_piece_t *) (const void *) moe_buf_head(&s->pieces);
    n = s->pieces.n / sizeof(moe_piece_t);
    size = MOE_STREAM_HEAD;
    echo = n ? p[0].echo : 0;

    for (i = 0; i < n && p[i].echo == echo; i++) {

        size += p[i].ntext + p[i].lp_size + sizeof(uint32_t);

        if (i && (size > MOE_STREAM_DELTA || d->nids == MOE_STREAM_IDS)) {
            break;
        }

        if (p[i].has_id) {
            ids[d->nids++] = p[i].id;
        }

        d->ntext += p[i].ntext;
        d->nlp += p[i].nlp;
        d->lp_size += p[i].lp_size;
    }

    d->flags = echo ? MOE_DELTA_ECHO : 0;
    d->ids = ids;
    d->text = (const char *) moe_buf_head(&s->text);
    d->lp = moe_buf_head(&s->lp);

    s->taken.pieces = i * sizeof(moe_piece_t);
    s->taken.text = d->ntext;
    s->taken.lp = d->lp_size;
    s->taken.ids = echo ? 0 : d->nids;

    d->completion_tokens = s->sent + s->taken.ids;

    if (i == n) {
        d->finish = s->finish;
    }
}


uint32_t
moe_stream_taken(moe_stream_t *s)
{
    moe_buf_take(&s->pieces, s->taken.pieces);
    moe_buf_take(&s->text, s->taken.text);
    moe_buf_take(&s->lp, s->taken.lp);

    s->sent += s->taken.ids;

    if (s->pieces.n == 0 && s->finish) {
        s->finish_sent = 1;
    }

    return s->taken.ids;
}


void
moe_stream_drop(moe_stream_t *s)
{
    moe_buf_take(&s->pieces, s->pieces.n);
    moe_buf_take(&s->text, s->text.n);
    moe_buf_take(&s->lp, s->lp.n);

    s->finish_sent = 1;
}
