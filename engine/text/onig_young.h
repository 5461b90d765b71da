/*
 * onig_young: characters that the reference's expressions know and PCRE2's
 * tables may not yet.
 *
 * The reference's Oniguruma has Unicode 16, PCRE2 10.42 has 14.  A text with
 * characters of the years between is matched in a shadow: each of them is
 * replaced by its nearest neighbour of the same category and length, so that
 * every match is at the same place.
 */

#ifndef MOE_TEXT_ONIG_YOUNG_H
#define MOE_TEXT_ONIG_YOUNG_H


#include <stddef.h>

#include "text/textbuf.h"


/* Whether valid UTF-8 has such a character. */
int moe_onig_young(const char *s, size_t len);

/* Writes the shadow of s, as long as s, to out.  Returns 0 or -1. */
int moe_onig_shadow(const char *s, size_t len, moe_textbuf_t *out);


#endif /* MOE_TEXT_ONIG_YOUNG_H */
