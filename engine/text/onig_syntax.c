/*
 * The translation of Oniguruma's syntax: one pass over the pattern that copies
 * what both read alike, and knows where the last atom began, for quantifiers.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/onig.h"
#include "text/textbuf.h"
#include "text/utf8.h"


#define ONIG_MAX_DEPTH  32

/* what the classes contain, as items of a set */
#define ONIG_SPACE  "\\t-\\r\\x{85}\\p{Z}"
#define ONIG_WORD   "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"
#define ONIG_HEX    "0-9A-Fa-f"

/* outside sets Latin-1 has a table of its own, and its numbers are in it */
#define ONIG_WORDS                                                            \
    ONIG_WORD "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"


typedef struct {
    const char     *p;
    const char     *end;
    moe_textbuf_t   out;
    size_t          atom;               /* where the last atom begins */
    int             has_atom;
    int             caseless[ONIG_MAX_DEPTH];
    size_t          group[ONIG_MAX_DEPTH];
    int             depth;
    char            letter;             /* the caseless letter before p */
    moe_err_t      *err;
} onig_syntax_t;


static int onig_set(onig_syntax_t *s, moe_textbuf_t *out, int depth);


static int
onig_add(onig_syntax_t *s, moe_textbuf_t *out, const char *text, size_t len)
{
    if (moe_textbuf_add(out, text, len, NULL, 1) == -1) {
        return moe_err(s->err, "out of memory");
    }

    return 0;
}


static int
onig_puts(onig_syntax_t *s, moe_textbuf_t *out, const char *text)
{
    return onig_add(s, out, text, strlen(text));
}


/*
 * \p{Name}.  PCRE2 reads the name of a script as its extensions; whether a
 * name is a script's is asked of PCRE2 itself.
 */

static int
onig_property(onig_syntax_t *s, moe_textbuf_t *out)
{
    int          n, code;
    char         name[64], test[80];
    size_t       len;
    PCRE2_SIZE   at;
    pcre2_code  *re;
    const char  *close, *body;

    body = s->p + 1;
    close = body < s->end ? memchr(body, '}', s->end - body) : NULL;

    if (close == NULL || *body != '{') {
        return moe_err(s->err, "pattern: \\%c without braces", *s->p);
    }

    body++;
    len = close - body;

    if (len == 0 || len >= sizeof(name)) {
        return moe_err(s->err, "pattern: bad property name");
    }

    memcpy(name, body, len);
    name[len] = '\0';

    if (len > 2 && name[0] != '^') {
        n = snprintf(test, sizeof(test), "\\%c{sc:%s}", *s->p, name);
        re = pcre2_compile((PCRE2_SPTR) test, n, PCRE2_UTF, &code, &at, NULL);

        if (re != NULL) {
            pcre2_code_free(re);
            s->p = close + 1;
            return onig_add(s, out, test, n);
        }
    }

    n = snprintf(test, sizeof(test), "\\%c{%s}", *s->p, name);
    s->p = close + 1;

    return onig_add(s, out, test, n);
}


static int
onig_hex(onig_syntax_t *s, moe_textbuf_t *out)
{
    int           i, n;
    char          text[16];
    unsigned long cp;

    if (s->end - s->p < 5) {
        return moe_err(s->err, "pattern: \\u without four digits");
    }

    for (i = 1; i <= 4; i++) {
        if (strchr("0123456789abcdefABCDEF", s->p[i]) == NULL
            || s->p[i] == '\0')
        {
            return moe_err(s->err, "pattern: \\u without four digits");
        }
    }

    memcpy(text, s->p + 1, 4);
    text[4] = '\0';
    cp = strtoul(text, NULL, 16);
    n = snprintf(text, sizeof(text), "\\x{%lx}", cp);
    s->p += 5;

    return onig_add(s, out, text, n);
}


static int
onig_code(onig_syntax_t *s, moe_textbuf_t *out)
{
    const char  *p, *close;

    close = memchr(s->p, '}', s->end - s->p);

    if (close == NULL || s->p[1] != '{') {
        return moe_err(s->err, "pattern: \\x without braces is a byte");
    }

    p = s->p - 1;
    s->p = close + 1;

    return onig_add(s, out, p, s->p - p);
}


/* an escape that means the same in a set and outside; s->p is behind "\" */

static int
onig_escape(onig_syntax_t *s, moe_textbuf_t *out)
{
    char    c = *s->p;
    char    text[2] = { '\\', c };
    size_t  n;

    switch (c) {

    case 'p':
    case 'P':
        return onig_property(s, out);

    case 'u':
        return onig_hex(s, out);

    case 'v':
        s->p++;
        return onig_puts(s, out, "\\x0b");

    case 'x':
        return onig_code(s, out);

    case 'a':
    case 'b':
    case 'd':
    case 'D':
    case 'e':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        break;

    default:
        if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
            || (c >= '0' && c <= '9'))
        {
            return moe_err(s->err, "pattern: \\%c is not supported", c);
        }
    }

    n = moe_utf8_len(c);

    if (n > 1) {
        if (onig_add(s, out, s->p, n) == -1) {
            return -1;
        }

    } else if (onig_add(s, out, text, 2) == -1) {
        return -1;
    }

    s->p += n;

    return 0;
}


/* an escape outside a set */

static int
onig_atom_escape(onig_syntax_t *s)
{
    char            c;
    moe_textbuf_t  *out = &s->out;

    s->p++;

    if (s->p == s->end) {
        return moe_err(s->err, "pattern: it ends in a backslash");
    }

    c = *s->p;
    s->atom = out->len;
    s->has_atom = 1;
    s->letter = 0;

    switch (c) {

    case 's':
        s->p++;
        return onig_puts(s, out, "[" ONIG_SPACE "]");

    case 'S':
        s->p++;
        return onig_puts(s, out, "[^" ONIG_SPACE "]");

    case 'w':
        s->p++;
        return onig_puts(s, out, "[" ONIG_WORDS "]");

    case 'W':
        s->p++;
        return onig_puts(s, out, "[^" ONIG_WORDS "]");

    case 'h':
        s->p++;
        return onig_puts(s, out, "[" ONIG_HEX "]");

    case 'H':
        s->p++;
        return onig_puts(s, out, "[^" ONIG_HEX "]");

    case 'b':
        s->p++;
        return onig_puts(s, out, "(?:(?<=[" ONIG_WORDS "])"
                         "(?![" ONIG_WORDS "])|(?<![" ONIG_WORDS "])"
                         "(?=[" ONIG_WORDS "]))");

    case 'B':
        s->p++;
        return onig_puts(s, out, "(?:(?<=[" ONIG_WORDS "])"
                         "(?=[" ONIG_WORDS "])|(?<![" ONIG_WORDS "])"
                         "(?![" ONIG_WORDS "]))");

    case 'A':
    case 'z':
    case 'Z':
        s->p++;
        return onig_add(s, out, s->p - 2, 2);

    default:
        return onig_escape(s, out);
    }
}


/* an escape inside a set; complements become alternatives beside it */

static int
onig_set_escape(onig_syntax_t *s, moe_textbuf_t *items, moe_textbuf_t *others)
{
    s->p++;

    if (s->p == s->end) {
        return moe_err(s->err, "pattern: it ends in a backslash");
    }

    switch (*s->p) {

    case 's':
        s->p++;
        return onig_puts(s, items, ONIG_SPACE);

    case 'S':
        s->p++;
        return onig_puts(s, others, "|[^" ONIG_SPACE "]");

    case 'w':
        s->p++;
        return onig_puts(s, items, ONIG_WORD);

    case 'W':
        s->p++;
        return onig_puts(s, others, "|[^" ONIG_WORD "]");

    case 'h':
        s->p++;
        return onig_puts(s, items, ONIG_HEX);

    case 'H':
        s->p++;
        return onig_puts(s, others, "|[^" ONIG_HEX "]");

    default:
        return onig_escape(s, items);
    }
}


/* one side of an intersection, as an atom: a plain set, or alternatives */

static int
onig_operand(onig_syntax_t *s, moe_textbuf_t *out, moe_textbuf_t *items,
    moe_textbuf_t *others, int negated)
{
    int  rc = 0;

    if (items->len == 0 && others->len == 0) {
        return moe_err(s->err, "pattern: empty set");
    }

    if (others->len == 0) {
        rc |= onig_puts(s, out, negated ? "[^" : "[");
        rc |= onig_add(s, out, items->data, items->len);
        rc |= onig_puts(s, out, "]");

    } else if (items->len == 0) {
        rc |= onig_puts(s, out, "(?:");
        rc |= onig_add(s, out, others->data + 1, others->len - 1);
        rc |= onig_puts(s, out, ")");

    } else {
        rc |= onig_puts(s, out, "(?:[");
        rc |= onig_add(s, out, items->data, items->len);
        rc |= onig_puts(s, out, "]");
        rc |= onig_add(s, out, others->data, others->len);
        rc |= onig_puts(s, out, ")");
    }

    items->len = 0;
    others->len = 0;

    return rc;
}


static int
onig_set_items(onig_syntax_t *s, moe_textbuf_t *items, moe_textbuf_t *others,
    moe_textbuf_t *ands, int depth)
{
    size_t  n;

    while (s->p < s->end && *s->p != ']') {

        n = moe_utf8_len(*s->p);

        if (*s->p == '\\') {
            if (onig_set_escape(s, items, others) == -1) {
                return -1;
            }

        } else if (*s->p == '[') {
            if (s->end - s->p > 1 && s->p[1] == ':') {
                return moe_err(s->err, "pattern: [:name:] is not supported");
            }

            if (onig_puts(s, others, "|") == -1
                || onig_set(s, others, depth + 1) == -1)
            {
                return -1;
            }

        } else if (*s->p == '&' && s->end - s->p > 1 && s->p[1] == '&') {
            s->p += 2;

            if (onig_puts(s, ands, "(?=") == -1
                || onig_operand(s, ands, items, others, 0) == -1
                || onig_puts(s, ands, ")") == -1)
            {
                return -1;
            }

        } else {
            if (onig_add(s, items, s->p, n) == -1) {
                return -1;
            }

            s->p += n;
        }
    }

    if (s->p == s->end) {
        return moe_err(s->err, "pattern: a set has no end");
    }

    s->p++;

    return 0;
}


/* a set, from its "[" on, as one atom in out */

static int
onig_set(onig_syntax_t *s, moe_textbuf_t *out, int depth)
{
    int            rc, negated;
    moe_textbuf_t  items = { 0 }, others = { 0 }, ands = { 0 };

    if (depth > 8) {
        return moe_err(s->err, "pattern: sets nest too deep");
    }

    s->p++;
    negated = s->p < s->end && *s->p == '^';
    s->p += negated;

    if (s->p < s->end && *s->p == ']') {
        return moe_err(s->err, "pattern: empty set");
    }

    rc = onig_set_items(s, &items, &others, &ands, depth);

    if (rc == 0 && ands.len == 0 && others.len == 0) {
        rc = onig_operand(s, out, &items, &others, negated);

    } else if (rc == 0) {
        rc |= onig_puts(s, out, negated ? "(?:(?!" : "(?:");
        rc |= onig_add(s, out, ands.data, ands.len);
        rc |= onig_operand(s, out, &items, &others, 0);
        rc |= onig_puts(s, out, negated ? ")(?s:.))" : ")");
    }

    moe_textbuf_free(&items);
    moe_textbuf_free(&others);
    moe_textbuf_free(&ands);

    return rc;
}


/* "(?i-m:" or "(?i)": only i and m are known; s->p is at the first letter */

static int
onig_options(onig_syntax_t *s)
{
    int    on = 1, caseless;
    char   c;
    char   text[16];
    size_t n = 0;

    caseless = s->depth > 0 ? s->caseless[s->depth - 1] : 0;

    for ( ; s->p < s->end && *s->p != ':' && *s->p != ')'; s->p++) {
        c = *s->p;

        if ((c != 'i' && c != 'm' && c != '-') || n > 8) {
            return moe_err(s->err, "pattern: group \"(?%c\" is not supported",
                           c < ' ' || c > '~' ? '.' : c);
        }

        on = c == '-' ? 0 : on;
        caseless = c == 'i' ? on : caseless;
        text[n++] = c == 'm' ? 's' : c;
    }

    if (s->p == s->end) {
        return moe_err(s->err, "pattern: a group has no end");
    }

    text[n++] = *s->p++;

    if (text[n - 1] == ':') {
        s->caseless[s->depth] = caseless;
        s->depth++;

    } else if (s->has_atom || s->depth == 0) {

        /* elsewhere the two disagree about the branches after it */

        return moe_err(s->err, "pattern: options in the middle of a group "
                       "are not supported");

    } else {
        s->caseless[s->depth - 1] = caseless;
    }

    return onig_add(s, &s->out, text, n);
}


/* from "(" to where the group's content begins */

static int
onig_group(onig_syntax_t *s)
{
    int          caseless;
    size_t       i, n;
    const char  *kinds[] = { "?:", "?=", "?!", "?>", "?<=", "?<!" };

    if (s->depth >= ONIG_MAX_DEPTH - 1) {
        return moe_err(s->err, "pattern: groups nest too deep");
    }

    s->letter = 0;
    s->group[s->depth] = s->out.len;
    caseless = s->depth > 0 ? s->caseless[s->depth - 1] : 0;
    s->p++;

    if (onig_puts(s, &s->out, "(") == -1) {
        return -1;
    }

    if (s->p == s->end || *s->p == '*') {
        return moe_err(s->err, "pattern: a group has no end");
    }

    if (*s->p != '?') {
        s->caseless[s->depth++] = caseless;
        s->has_atom = 0;
        return 0;
    }

    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        n = strlen(kinds[i]);

        if ((size_t) (s->end - s->p) >= n && memcmp(s->p, kinds[i], n) == 0) {
            s->caseless[s->depth++] = caseless;
            s->has_atom = 0;
            s->p += n;
            return onig_add(s, &s->out, kinds[i], n);
        }
    }

    if (onig_puts(s, &s->out, "?") == -1) {
        return -1;
    }

    s->p++;

    if (onig_options(s) == -1) {
        return -1;
    }

    s->has_atom = 0;

    return 0;
}


/* "{n}", "{n,}", "{,m}", "{n,m}": their length in the pattern, or 0 */

static size_t
onig_interval(const char *p, const char *end, long *lo, long *hi)
{
    int          digits = 0;
    long        *n = lo;
    const char  *q;

    *lo = -1;
    *hi = -2;

    for (q = p + 1; q < end && *q != '}'; q++) {
        if (*q == ',' && n == lo) {
            n = hi;
            *n = -1;

        } else if (*q >= '0' && *q <= '9' && *n < 100000) {
            *n = (*n < 0 ? 0 : *n) * 10 + (*q - '0');
            digits++;

        } else {
            return 0;
        }
    }

    return q < end && digits > 0 ? (size_t) (q + 1 - p) : 0;
}


/* puts text before the last atom */

static int
onig_wrap(onig_syntax_t *s)
{
    if (onig_puts(s, &s->out, "(?:") == -1) {
        return -1;
    }

    memmove(s->out.data + s->atom + 3, s->out.data + s->atom,
            s->out.len - 3 - s->atom);
    memcpy(s->out.data + s->atom, "(?:", 3);

    return 0;
}


static int
onig_braces(onig_syntax_t *s)
{
    int     n, wrap;
    long    lo, hi;
    char    next, text[64];
    size_t  len;

    len = onig_interval(s->p, s->end, &lo, &hi);

    if (len == 0) {
        s->p++;
        s->atom = s->out.len;
        s->has_atom = 1;
        return onig_puts(s, &s->out, "\\{");
    }

    if (!s->has_atom) {
        return moe_err(s->err, "pattern: nothing to repeat");
    }

    s->p += len;
    next = s->p < s->end ? *s->p : 0;
    wrap = next == '+' || (next == '?' && hi == -2);

    if (wrap && onig_wrap(s) == -1) {
        return -1;
    }

    if (hi == -2) {
        n = snprintf(text, sizeof(text), "{%ld}", lo);

    } else if (hi == -1) {
        n = snprintf(text, sizeof(text), "{%ld,}", lo);

    } else {
        n = snprintf(text, sizeof(text), "{%ld,%ld}", lo < 0 ? 0 : lo, hi);
    }

    if (onig_add(s, &s->out, text, n) == -1) {
        return -1;
    }

    return wrap ? onig_puts(s, &s->out, ")") : 0;
}


/*
 * Oniguruma folds some pairs of letters to one character when case does not
 * matter ("ss" and U+00DF), PCRE2 never: such a pattern is refused.
 */

static int
onig_literal(onig_syntax_t *s)
{
    char    c = *s->p | 0x20;
    size_t  n = moe_utf8_len(*s->p);

    if (s->depth > 0 && s->caseless[s->depth - 1]) {
        if (n > 1 || (s->letter == 's' && (c == 's' || c == 't'))
            || (s->letter == 'f' && (c == 'f' || c == 'i' || c == 'l')))
        {
            return moe_err(s->err, "pattern: this caseless text is not "
                           "supported");
        }

        s->letter = c;
    }

    s->atom = s->out.len;
    s->has_atom = 1;

    if (onig_add(s, &s->out, s->p, n) == -1) {
        return -1;
    }

    s->p += n;

    return 0;
}


static int
onig_one(onig_syntax_t *s)
{
    switch (*s->p) {

    case '\\':
        return onig_atom_escape(s);

    case '[':
        s->atom = s->out.len;
        s->has_atom = 1;
        s->letter = 0;
        return onig_set(s, &s->out, 0);

    case '(':
        return onig_group(s);

    case ')':
        if (s->depth <= 1) {
            return moe_err(s->err, "pattern: a \")\" too many");
        }

        s->depth--;
        s->atom = s->group[s->depth];
        s->has_atom = 1;
        s->letter = 0;
        s->p++;
        return onig_puts(s, &s->out, ")");

    case '{':
        s->letter = 0;
        return onig_braces(s);

    case '|':
        s->has_atom = 0;
        /* fall through */

    case '*':
    case '+':
    case '?':
    case '^':
    case '$':
    case '.':
        if (*s->p == '.') {
            s->atom = s->out.len;
            s->has_atom = 1;
        }

        s->letter = 0;
        s->p++;
        return onig_add(s, &s->out, s->p - 1, 1);

    default:
        return onig_literal(s);
    }
}


int
moe_onig_translate(const char *pattern, size_t len, char *out, size_t size,
    moe_err_t *err)
{
    int            rc = 0;
    onig_syntax_t  s = { 0 };

    s.p = pattern;
    s.end = pattern + len;
    s.err = err;
    s.depth = 1;                        /* the pattern itself */

    while (rc == 0 && s.p < s.end) {
        rc = onig_one(&s);
    }

    if (rc == 0 && s.depth != 1) {
        rc = moe_err(err, "pattern: a group has no end");
    }

    if (rc == 0 && (s.out.len >= size
                    || memchr(pattern, '\0', len) != NULL))
    {
        rc = moe_err(err, "pattern is too long or has a NUL");
    }

    if (rc == 0) {
        memcpy(out, s.out.len ? s.out.data : "", s.out.len);
        out[s.out.len] = '\0';
    }

    moe_textbuf_free(&s.out);

    return rc;
}
