#include <string.h>

#include "text/detok.h"
#include "text/tokenizer_parts.h"
#include "text/utf8.h"


void
moe_detok_init(moe_detok_t *d, const moe_tokenizer_t *t, unsigned flags)
{
    memset(d, 0, sizeof(*d));

    d->tokenizer = t;
    d->flags = flags;
    d->strip = t->decoder.nstrip;
}


/* writes one character, unless it is still to be stripped */

static size_t
detok_char(moe_detok_t *d, const char *s, size_t n, char *out)
{
    const char  *strip = d->tokenizer->decoder.strip;

    if (d->strip > 0) {
        if (strlen(strip) == n && memcmp(strip, s, n) == 0) {
            d->strip--;
            return 0;
        }

        d->strip = 0;
    }

    memcpy(out, s, n);

    return n;
}


/* writes U+FFFD for n invalid bytes at the beginning of held, drops them */

static size_t
detok_invalid(moe_detok_t *d, size_t n, char *out)
{
    size_t  i, times, len = 0;

    times = d->run ? n : 1;

    for (i = 0; i < times; i++) {
        len += detok_char(d, MOE_UTF8_REPLACEMENT, MOE_UTF8_REPLACEMENT_LEN,
                          out + len);
    }

    d->nheld -= n;
    memmove(d->held, d->held + n, d->nheld);

    return len;
}


/* one more byte; what it completes or breaks goes out */

static size_t
detok_byte(moe_detok_t *d, char byte, char *out)
{
    int       rc;
    size_t    n, len = 0;
    uint32_t  cp;

    d->held[d->nheld++] = (uint8_t) byte;

    while (d->nheld > 0) {
        rc = moe_utf8_next((char *) d->held, d->nheld, &cp, &n);

        if (rc == MOE_UTF8_CUT) {
            break;
        }

        if (rc == MOE_UTF8_VALID) {
            len += detok_char(d, (char *) d->held, n, out + len);
            d->nheld -= n;
            memmove(d->held, d->held + n, d->nheld);
            continue;
        }

        len += detok_invalid(d, n, out + len);
    }

    return len;
}


/* what is held can no longer become a character */

static size_t
detok_close(moe_detok_t *d, char *out)
{
    return d->nheld > 0 ? detok_invalid(d, d->nheld, out) : 0;
}


/* a token that is text: whole characters */

static size_t
detok_text(moe_detok_t *d, uint32_t id, const char *s, size_t len, char *out)
{
    size_t                    i, n, mark, total = 0;
    const moe_tok_decoder_t  *dec = &d->tokenizer->decoder;

    mark = 0;

    if (dec->drop_marks && !d->begun) {
        s = moe_vocab_get(&d->tokenizer->names, id, &len);
        mark = strlen(dec->mark);
    }

    for (i = 0; i < len; i += n) {
        n = moe_utf8_len(s[i]);

        if (mark == 0 || n != mark || memcmp(s + i, dec->mark, n) != 0) {
            total += detok_char(d, s + i, n, out + total);
        }
    }

    return total;
}


size_t
moe_detok_push(moe_detok_t *d, uint32_t id, char *out)
{
    size_t                    i, len, total = 0;
    uint8_t                   kind;
    const char               *s;
    const moe_tok_decoder_t  *dec = &d->tokenizer->decoder;

    if (moe_tokenizer_piece(d->tokenizer, id, &s, &len) == -1) {
        return 0;
    }

    kind = d->tokenizer->kind[id];

    if ((kind & MOE_TOKEN_SPECIAL) && (d->flags & MOE_DETOK_SKIP_SPECIAL)) {
        return 0;
    }

    if (dec->byte_level || (kind & MOE_TOKEN_BYTE)) {
        d->run = !dec->byte_level;

        for (i = 0; i < len; i++) {
            total += detok_byte(d, s[i], out + total);
        }

    } else {
        total = detok_close(d, out);
        total += detok_text(d, id, s, len, out + total);
    }

    d->begun = 1;

    return total;
}


size_t
moe_detok_flush(moe_detok_t *d, char *out)
{
    size_t  n;

    n = detok_close(d, out);
    moe_detok_init(d, d->tokenizer, d->flags);

    return n;
}
