/*
 * utf8: characters in bytes.
 *
 * Invalid input is cut as the Unicode standard, Python and Rust cut it: the
 * longest beginning of a character that cannot go on is one invalid part, and
 * each part stands for one U+FFFD.
 */

#ifndef MOE_TEXT_UTF8_H
#define MOE_TEXT_UTF8_H


#include <stddef.h>
#include <stdint.h>


/* what moe_utf8_next() found */
#define MOE_UTF8_VALID    0
#define MOE_UTF8_INVALID  1       /* a whole invalid part */
#define MOE_UTF8_CUT      2       /* the input ends inside a character */

#define MOE_UTF8_REPLACEMENT      "\xEF\xBF\xBD"
#define MOE_UTF8_REPLACEMENT_LEN  3


/*
 * Looks at the character or invalid part at s[0 .. len), len > 0.  Stores its
 * length in bytes, and for a valid one the code point in *cp.
 */
int moe_utf8_next(const char *s, size_t len, uint32_t *cp, size_t *n);

/* Writes cp (at most 0x10FFFF) to out[4], returns the length. */
size_t moe_utf8_put(uint32_t cp, char *out);

/* How many of the first bytes of s are whole valid characters. */
size_t moe_utf8_valid(const char *s, size_t len);

/* The length of the character whose first byte is c, in valid text. */
static inline size_t
moe_utf8_len(char c)
{
    uint8_t  b = (uint8_t) c;

    return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}


#endif /* MOE_TEXT_UTF8_H */
