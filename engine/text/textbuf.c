#include <stdlib.h>
#include <string.h>

#include "text/textbuf.h"


static int
textbuf_grow(moe_textbuf_t *b, size_t n)
{
    char     *data;
    size_t    cap;
    uint8_t  *trust;

    if (n > SIZE_MAX / 4 - b->len) {
        return -1;
    }

    cap = b->cap < 256 ? 256 : b->cap;

    while (cap < b->len + n) {
        cap *= 2;
    }

    data = realloc(b->data, cap);
    if (data == NULL) {
        return -1;
    }

    b->data = data;

    if (b->keep_trust) {
        trust = realloc(b->trust, cap);
        if (trust == NULL) {
            return -1;
        }

        b->trust = trust;
    }

    b->cap = cap;

    return 0;
}


int
moe_textbuf_add(moe_textbuf_t *b, const char *s, size_t n,
    const uint8_t *trust, uint8_t fill)
{
    if (n > b->cap - b->len && textbuf_grow(b, n) == -1) {
        return -1;
    }

    if (n == 0) {
        return 0;
    }

    memcpy(b->data + b->len, s, n);

    if (b->keep_trust) {
        if (trust != NULL) {
            memcpy(b->trust + b->len, trust, n);

        } else {
            memset(b->trust + b->len, fill, n);
        }
    }

    b->len += n;

    return 0;
}


void
moe_textbuf_free(moe_textbuf_t *b)
{
    free(b->data);
    free(b->trust);
    memset(b, 0, sizeof(*b));
}


uint8_t
moe_trust_all(const uint8_t *trust, size_t n)
{
    return trust == NULL || n == 0 || memchr(trust, 0, n) == NULL;
}
