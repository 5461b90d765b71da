/*
 * textbuf: a growing run of bytes with, where asked, one trust byte for each.
 *
 * The stages that change a text before it is cut (invalid UTF-8, normalizers,
 * prefixes) write into one and say for every byte whether all that it was made
 * from is trusted.
 */

#ifndef MOE_TEXT_TEXTBUF_H
#define MOE_TEXT_TEXTBUF_H


#include <stddef.h>
#include <stdint.h>


typedef struct {
    char     *data;
    uint8_t  *trust;            /* NULL: trust is not kept */
    size_t    len;
    size_t    cap;
    int       keep_trust;       /* set once, before the first byte */
} moe_textbuf_t;


/*
 * Appends n bytes.  trust: one byte per byte of s, or NULL for all of them
 * equal to fill.  Returns 0, or -1 without memory.
 */
int moe_textbuf_add(moe_textbuf_t *b, const char *s, size_t n,
    const uint8_t *trust, uint8_t fill);

/* Frees the memory and makes b all zeros. */
void moe_textbuf_free(moe_textbuf_t *b);

/* Whether all of n trust bytes are set; NULL is all trusted. */
uint8_t moe_trust_all(const uint8_t *trust, size_t n);


#endif /* MOE_TEXT_TEXTBUF_H */
