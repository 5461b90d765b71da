/*
 * detok: token ids to text, a token at a time.
 *
 * The bytes that come out, put together, are the reference's
 * decode(ids, skip_special_tokens=..., clean_up_tokenization_spaces=False),
 * never half a UTF-8 character at a time, and always valid UTF-8.  With
 * byte-level tokens that holds for every sequence: invalid bytes become one
 * U+FFFD for each maximal invalid part.  With byte fallback ("<0xE2>") the
 * reference turns a whole run of byte tokens into U+FFFDs if any of them is
 * invalid; here a character of the run that is already complete has gone out
 * and stays, and only the invalid bytes after it become one U+FFFD each.
 *
 * A moe_detok_t is plain memory: it owns nothing, needs no end, and may be
 * copied to try a continuation.
 */

#ifndef MOE_TEXT_DETOK_H
#define MOE_TEXT_DETOK_H


#include <stddef.h>
#include <stdint.h>

#include "text/tokenizer.h"


/* special tokens give no text */
#define MOE_DETOK_SKIP_SPECIAL  1

/* the most bytes that one push or flush can release */
#define MOE_DETOK_MAX           (3 * MOE_TOK_MAX_PIECE + 16)


typedef struct {
    const moe_tokenizer_t  *tokenizer;
    unsigned                flags;
    uint8_t                 held[4];    /* bytes of an unfinished character */
    uint8_t                 nheld;
    uint8_t                 begun;      /* a token has given its text */
    uint8_t                 strip;      /* leading spaces still to drop */
    uint8_t                 run;        /* held bytes are byte tokens */
} moe_detok_t;


/* Begins a text.  flags: MOE_DETOK_*. */
void moe_detok_init(moe_detok_t *d, const moe_tokenizer_t *t, unsigned flags);

/*
 * Takes one id, writes what it releases to out (MOE_DETOK_MAX bytes) and
 * returns how many bytes that is, often 0.  An id without a token gives none.
 */
size_t moe_detok_push(moe_detok_t *d, uint32_t id, char *out);

/* Releases what is held: the end of the text.  Then d is as after init. */
size_t moe_detok_flush(moe_detok_t *d, char *out);


#endif /* MOE_TEXT_DETOK_H */
