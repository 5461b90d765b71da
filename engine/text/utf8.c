#include <string.h>

#include "text/utf8.h"


int
moe_utf8_next(const char *s, size_t len, uint32_t *cp, size_t *n)
{
    size_t          i, need;
    uint8_t         lo, hi;
    uint32_t        c;
    const uint8_t  *p = (const uint8_t *) s;

    c = p[0];
    *n = 1;

    if (c < 0x80) {
        *cp = c;
        return MOE_UTF8_VALID;
    }

    if (c < 0xC2 || c > 0xF4) {
        return MOE_UTF8_INVALID;
    }

    /* the second byte alone rules out overlong forms and surrogates */

    lo = 0x80;
    hi = 0xBF;

    if (c < 0xE0) {
        need = 2;
        c &= 0x1F;

    } else if (c < 0xF0) {
        need = 3;
        lo = c == 0xE0 ? 0xA0 : lo;
        hi = c == 0xED ? 0x9F : hi;
        c &= 0x0F;

    } else {
        need = 4;
        lo = c == 0xF0 ? 0x90 : lo;
        hi = c == 0xF4 ? 0x8F : hi;
        c &= 0x07;
    }

    for (i = 1; i < need; i++) {
        if (i == len) {
            *n = i;
            return MOE_UTF8_CUT;
        }

        if (p[i] < lo || p[i] > hi) {
            *n = i;
            return MOE_UTF8_INVALID;
        }

        c = c << 6 | (p[i] & 0x3F);
        lo = 0x80;
        hi = 0xBF;
    }

    *cp = c;
    *n = need;

    return MOE_UTF8_VALID;
}


size_t
moe_utf8_put(uint32_t cp, char *out)
{
    if (cp < 0x80) {
        out[0] = (char) cp;
        return 1;
    }

    if (cp < 0x800) {
        out[0] = (char) (0xC0 | cp >> 6);
        out[1] = (char) (0x80 | (cp & 0x3F));
        return 2;
    }

    if (cp < 0x10000) {
        out[0] = (char) (0xE0 | cp >> 12);
        out[1] = (char) (0x80 | (cp >> 6 & 0x3F));
        out[2] = (char) (0x80 | (cp & 0x3F));
        return 3;
    }

    out[0] = (char) (0xF0 | cp >> 18);
    out[1] = (char) (0x80 | (cp >> 12 & 0x3F));
    out[2] = (char) (0x80 | (cp >> 6 & 0x3F));
    out[3] = (char) (0x80 | (cp & 0x3F));

    return 4;
}


size_t
moe_utf8_valid(const char *s, size_t len)
{
    size_t    i, n;
    uint32_t  cp;
    uint64_t  w;

    for (i = 0; i < len; i += n) {

        if (len - i >= 8) {
            memcpy(&w, s + i, 8);

            if ((w & 0x8080808080808080u) == 0) {
                n = 8;
                continue;
            }
        }

        if (moe_utf8_next(s + i, len - i, &cp, &n) != MOE_UTF8_VALID) {
            break;
        }
    }

    return i;
}
