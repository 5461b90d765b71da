/*
 * jinja_lex: source to tokens, with Jinja2's white space rules for
 * trim_blocks and lstrip_blocks: the newline after a tag goes, and so does
 * white space before one that stands first on its line; "-" inside a tag
 * takes all white space on its side, "+" keeps it.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"


#define MAX_NESTING  256        /* brackets within one tag */


typedef struct {
    jx_t        *x;
    const char  *src;
    size_t       len;
    size_t       at;
    uint32_t     line;
    bool         line_start;    /* what was read last ended a line */
    jtok_t      *tok;
    size_t       n;
    size_t       cap;
} jlex_t;


static jtok_t *
token(jlex_t *l, jtok_e type)
{
    jtok_t  *t;

    l->tok = j_grow(l->x, l->tok, l->n, &l->cap, sizeof(jtok_t));
    t = &l->tok[l->n++];
    t->type = (uint8_t) type;
    t->line = l->line;

    return t;
}


static _Noreturn void
lex_fail(jlex_t *l, const char *what)
{
    l->x->line = l->line;
    j_fail(l->x, "%s", what);
}


static bool
looking_at(const jlex_t *l, size_t at, const char *text)
{
    size_t  n;

    n = strlen(text);
    return at <= l->len && n <= l->len - at
           && memcmp(l->src + at, text, n) == 0;
}


static size_t
skip_space(const jlex_t *l, size_t at)
{
    size_t  n;

    while (at < l->len && js_space(js_decode(l->src + at, l->len - at, &n))) {
        at += n;
    }

    return at;
}


/* Goes on to a place further on and counts lines. */
static void
advance(jlex_t *l, size_t to)
{
    l->line_start = to > l->at && l->src[to - 1] == '\n';

    while (l->at < to) {
        l->line += l->src[l->at++] == '\n';
    }
}


/* --- ends of tags ----------------------------------------------------- */

/*
 * The end of a tag at a place, "%}", "}}" or "#}", with its sign and the
 * white space it takes; 0: there is none.
 */
static size_t
tag_end(const jlex_t *l, size_t at, const char *end)
{
    bool  block;

    block = end[0] != '}';

    if (looking_at(l, at, "-") && looking_at(l, at + 1, end)) {
        return skip_space(l, at + 3);
    }

    if (block && looking_at(l, at, "+") && looking_at(l, at + 1, end)) {
        return at + 3;
    }

    if (looking_at(l, at, end)) {
        at += 2;
        return block && looking_at(l, at, "\n") ? at + 1 : at;
    }

    return 0;
}


/* --- text between tags ------------------------------------------------ */

/* from, to: the text; sign and kind: of the tag that follows it */
static void
data(jlex_t *l, size_t from, size_t to, char sign, char kind)
{
    size_t   i, n, end, line;
    jtok_t  *t;

    end = to;

    if (sign == '-') {
        for (i = from, end = from; i < to; ) {
            if (js_space(js_decode(l->src + i, to - i, &n))) {
                i += n;
            } else {
                i += n;
                end = i;
            }
        }

    } else if (sign != '+' && kind != '{' && kind != 0) {
        for (line = to; line > from && l->src[line - 1] != '\n'; line--) {
            /* void */
        }
        if (line > from || l->line_start) {
            if (line < to && skip_space(l, line) >= to) {
                end = line;
            }
        }
    }

    if (end > from) {
        t = token(l, JT_DATA);
        t->val = j_str(js_new(l->x, l->src + from, end - from, J_TEMPLATE));
        js_chars(t->val.u.s);
    }
}


static char
sign_at(const jlex_t *l, size_t at)
{
    return at < l->len && (l->src[at] == '-' || l->src[at] == '+')
           ? l->src[at] : 0;
}


/* The end of "{% raw %}" at a place, 0: it is another tag. */
static size_t
raw_begin(const jlex_t *l, size_t at)
{
    at += 2;
    at += sign_at(l, at) != 0;
    at = skip_space(l, at);

    if (!looking_at(l, at, "raw")) {
        return 0;
    }

    at = skip_space(l, at + 3);

    if (looking_at(l, at, "-%}")) {
        return skip_space(l, at + 3);
    }

    return looking_at(l, at, "%}") ? at + 2 : 0;
}


static void
raw_block(jlex_t *l, size_t at)
{
    size_t  i, end;

    advance(l, at);

    for (i = at; i < l->len; i++) {
        if (!looking_at(l, i, "{%")) {
            continue;
        }
        end = skip_space(l, i + 2 + (sign_at(l, i + 2) != 0));
        if (!looking_at(l, end, "endraw")) {
            continue;
        }
        end = tag_end(l, skip_space(l, end + 6), "%}");
        if (end != 0) {
            data(l, at, i, sign_at(l, i + 2), '%');
            advance(l, end);
            return;
        }
    }

    if (at < l->len) {
        lex_fail(l, "Missing end of raw directive");
    }
}


static void
comment(jlex_t *l, size_t at)
{
    size_t  i, end;

    for (i = at; i < l->len; i++) {
        end = tag_end(l, i, "#}");
        if (end != 0) {
            advance(l, end);
            return;
        }
    }

    /* Jinja2 does not mind one that begins at the very end */
    if (at < l->len) {
        lex_fail(l, "Missing end of comment tag");
    }

    advance(l, l->len);
}


/* --- inside a tag ----------------------------------------------------- */

static int
digit(char c)
{
    return c >= '0' && c <= '9' ? c - '0'
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
           : c >= 'A' && c <= 'F' ? c - 'A' + 10 : 99;
}


/* Digits of a base with single underscores between them; the place after. */
static size_t
digits(const jlex_t *l, size_t at, int base)
{
    size_t  i;

    for (i = at; i < l->len; i++) {
        if (digit(l->src[i]) < base) {
            continue;
        }
        if (l->src[i] != '_' || i == at || i + 1 >= l->len
            || digit(l->src[i + 1]) >= base)
        {
            break;
        }
    }

    return i;
}


/* The end of a float at a place, 0: it is none. */
static size_t
float_end(const jlex_t *l, size_t at)
{
    size_t  i, k, m;

    if (at > 0 && l->src[at - 1] == '.') {
        return 0;
    }

    i = digits(l, at, 10);
    k = i;

    if (i < l->len && l->src[i] == '.') {
        k = digits(l, i + 1, 10);
        k = k > i + 1 ? k : i;
    }

    if (k < l->len && (l->src[k] == 'e' || l->src[k] == 'E')) {
        m = k + 1;
        m += m < l->len && (l->src[m] == '+' || l->src[m] == '-');
        if (digits(l, m, 10) > m) {
            return digits(l, m, 10);
        }
    }

    return k > i ? k : 0;
}


static void
number(jlex_t *l)
{
    int       base, d;
    char      c, *text;
    size_t    i, n, from, end;
    jtok_t   *t;
    int64_t   v;

    from = l->at;
    end = float_end(l, from);

    if (end != 0) {
        text = j_alloc(l->x, end - from + 1);
        for (i = from, n = 0; i < end; i++) {
            if (l->src[i] != '_') {
                text[n++] = l->src[i];
            }
        }
        t = token(l, JT_FLOAT);
        t->val = j_float(strtod(text, NULL));
        advance(l, end);
        return;
    }

    base = 10;

    if (l->src[from] == '0' && from + 1 < l->len) {
        c = (char) (l->src[from + 1] | 0x20);
        base = c == 'x' ? 16 : c == 'o' ? 8 : c == 'b' ? 2 : 10;
        i = from + 2 + (looking_at(l, from + 2, "_") ? 1 : 0);
        if (base != 10 && digits(l, i, base) > i) {
            from = i;
        } else {
            base = 10;
        }
    }

    /* of decimals, only zero begins with a zero */
    end = digits(l, from, base == 10 && l->src[from] == '0' ? 1 : base);

    for (v = 0, i = from; i < end; i++) {
        d = digit(l->src[i]);
        if (d < base && (__builtin_mul_overflow(v, base, &v)
                         || __builtin_add_overflow(v, d, &v)))
        {
            lex_fail(l, "integer too large");
        }
    }

    t = token(l, JT_INT);
    t->val = j_int(v);
    advance(l, end);
}


/* A letter, digit or mark of any script, or "_". */
static bool
name_char(uint32_t cp)
{
    if (cp < 0x80) {
        return digit((char) cp) < 10 || cp == '_'
               || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z');
    }

    switch (utf8proc_category((utf8proc_int32_t) cp)) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}


static bool
name(jlex_t *l)
{
    size_t   i, n;
    jtok_t  *t;

    for (i = l->at; i < l->len; i += n) {
        if (!name_char(js_decode(l->src + i, l->len - i, &n))) {
            break;
        }
    }

    if (i == l->at) {
        return false;
    }

    t = token(l, JT_NAME);
    t->val = j_str(js_new(l->x, l->src + l->at, i - l->at, J_TEMPLATE));
    js_chars(t->val.u.s);
    advance(l, i);

    return true;
}


/* A number of exactly n digits at p, or -1. */
static int64_t
code(const char *p, const char *end, int n, int base)
{
    int64_t  v;

    for (v = 0; n > 0; n--, p++) {
        if (p >= end || digit(*p) >= base) {
            return -1;
        }
        v = v * base + digit(*p);
    }

    return v;
}


/*
 * One escape, p behind its backslash; what it stands for goes to out, the
 * bytes it took are returned.
 */
static size_t
escape(jlex_t *l, const char *p, const char *end, char *out, size_t *nout)
{
    int          n;
    size_t       k;
    int64_t      cp;
    const char  *hit;

    static const char  from[] = "\\'\"abfnrtv";
    static const char  to[] = "\\'\"\a\b\f\n\r\t\v";

    *nout = 0;

    if (*p == '\n') {
        return 1;
    }

    hit = *p != '\0' ? strchr(from, *p) : NULL;
    if (hit != NULL) {
        out[(*nout)++] = to[hit - from];
        return 1;
    }

    if (*p >= '0' && *p <= '7') {
        for (n = 0, cp = 0; n < 3 && p + n < end && p[n] >= '0'
             && p[n] <= '7'; n++)
        {
            cp = cp * 8 + p[n] - '0';
        }
        *nout = js_encode((uint32_t) cp, out);
        return (size_t) n;
    }

    if (*p == 'N') {
        lex_fail(l, "character names in strings are not supported");
    }

    n = *p == 'x' ? 2 : *p == 'u' ? 4 : *p == 'U' ? 8 : 0;

    if (n > 0) {
        cp = code(p + 1, end, n, 16);
        if (cp < 0 || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) {
            lex_fail(l, "invalid escape in a string");
        }
        *nout = js_encode((uint32_t) cp, out);
        return (size_t) n + 1;
    }

    /* any other character keeps its backslash, but Jinja2 spells it out
     * where it is not ASCII */
    out[(*nout)++] = '\\';

    if (*p & 0x80) {
        cp = js_decode(p, (size_t) (end - p), &k);
        *nout += (size_t) sprintf(out + *nout, cp < 0x100 ? "x%02x"
                                  : cp < 0x10000 ? "u%04x" : "U%08x",
                                  (unsigned) cp);
        return k;
    }

    out[(*nout)++] = *p;
    return 1;
}


static void
string(jlex_t *l)
{
    char         quote, *out;
    size_t       i, n, k, end;
    jtok_t      *t;

    quote = l->src[l->at];

    for (end = l->at + 1; end < l->len && l->src[end] != quote; end++) {
        end += l->src[end] == '\\';
    }

    if (end >= l->len) {
        lex_fail(l, "unterminated string");
    }

    /* "\<U+10ffff>" becomes ten bytes, of five */
    out = j_alloc(l->x, (end - l->at) * 4 + 16);

    for (i = l->at + 1, n = 0; i < end; ) {
        if (l->src[i] == '\\' && i + 1 < end) {
            i += 1 + escape(l, l->src + i + 1, l->src + end, out + n, &k);
            n += k;
        } else {
            out[n++] = l->src[i++];
        }
    }

    t = token(l, JT_STRING);
    t->val = j_str(js_new(l->x, out, n, J_TEMPLATE));
    js_chars(t->val.u.s);
    advance(l, end + 1);
}


static const struct {
    char     text[3];
    uint8_t  type;
} operators[] = {
    { "//", JT_FLOORDIV }, { "**", JT_POW }, { "==", JT_EQ }, { "!=", JT_NE },
    { ">=", JT_GE }, { "<=", JT_LE }, { "+", JT_ADD }, { "-", JT_SUB },
    { "/", JT_DIV }, { "*", JT_MUL }, { "%", JT_MOD }, { "~", JT_TILDE },
    { "[", JT_LBRACKET }, { "]", JT_RBRACKET }, { "(", JT_LPAREN },
    { ")", JT_RPAREN }, { "{", JT_LBRACE }, { "}", JT_RBRACE },
    { ">", JT_GT }, { "<", JT_LT }, { "=", JT_ASSIGN }, { ".", JT_DOT },
    { ":", JT_COLON }, { "|", JT_PIPE }, { ",", JT_COMMA },
    { ";", JT_SEMICOLON }
};


static void
operator(jlex_t *l, char *nest, size_t *depth)
{
    char    c;
    size_t  i;

    for (i = 0; i < sizeof(operators) / sizeof(operators[0]); i++) {
        if (looking_at(l, l->at, operators[i].text)) {
            break;
        }
    }

    if (i == sizeof(operators) / sizeof(operators[0])) {
        lex_fail(l, "unexpected character in a tag");
    }

    c = operators[i].text[0];

    if (c == '(' || c == '[' || c == '{') {
        if (*depth == MAX_NESTING) {
            lex_fail(l, "brackets nested too deep");
        }
        nest[(*depth)++] = c == '(' ? ')' : c == '[' ? ']' : '}';

    } else if (c == ')' || c == ']' || c == '}') {
        if (*depth == 0 || nest[--*depth] != c) {
            lex_fail(l, "unexpected closing bracket");
        }
    }

    token(l, operators[i].type);
    advance(l, l->at + strlen(operators[i].text));
}


/* A "{{" or "{%" tag to its end. */
static void
tag(jlex_t *l, bool block)
{
    char    c, nest[MAX_NESTING];
    size_t  end, depth;

    token(l, block ? JT_BLOCK_BEGIN : JT_VAR_BEGIN);
    advance(l, l->at + 2 + (sign_at(l, l->at + 2) != 0));

    for (depth = 0; l->at < l->len; ) {

        /* a "}}" inside brackets closes two dicts */
        end = depth > 0 ? 0 : tag_end(l, l->at, block ? "%}" : "}}");
        if (end != 0) {
            token(l, block ? JT_BLOCK_END : JT_VAR_END);
            advance(l, end);
            return;
        }

        c = l->src[l->at];

        if (skip_space(l, l->at) > l->at) {
            advance(l, skip_space(l, l->at));
        } else if (c >= '0' && c <= '9') {
            number(l);
        } else if (c == '\'' || c == '"') {
            string(l);
        } else if (!name(l)) {
            operator(l, nest, &depth);
        }
    }
}


/* --- the whole -------------------------------------------------------- */

/* One kind of newline, and none at the very end. */
static void
normalize(jlex_t *l, const char *src, size_t len)
{
    char    *p;
    size_t   i;

    p = j_alloc(l->x, len + 1);
    l->src = p;

    for (i = 0; i < len; i++) {
        if (src[i] == '\r') {
            i += i + 1 < len && src[i + 1] == '\n';
            p[l->len++] = '\n';
        } else {
            p[l->len++] = src[i];
        }
    }

    if (l->len > 0 && p[l->len - 1] == '\n') {
        l->len--;
    }
}


jtok_t *
j_lex(jx_t *x, const char *src, size_t len, size_t *n)
{
    char         kind;
    size_t       at, raw;
    const char  *p;
    jlex_t       l = { .x = x, .line = 1, .line_start = true };

    normalize(&l, src, len);

    for (at = l.at; at < l.len; ) {
        p = memchr(l.src + at, '{', l.len - at);
        at = p == NULL ? l.len : (size_t) (p - l.src);
        kind = at + 1 < l.len ? l.src[at + 1] : 0;

        if (p != NULL && kind != '{' && kind != '%' && kind != '#') {
            at++;
            continue;
        }

        if (p == NULL) {
            data(&l, l.at, l.len, 0, 0);
            advance(&l, l.len);
            break;
        }

        raw = kind == '%' ? raw_begin(&l, at) : 0;
        data(&l, l.at, at, sign_at(&l, at + 2), kind);
        advance(&l, at);

        if (raw != 0) {
            raw_block(&l, raw);
        } else if (kind == '#') {
            comment(&l, at + 2 + (sign_at(&l, at + 2) != 0));
        } else {
            tag(&l, kind == '%');
        }

        at = l.at;
    }

    if (l.at < l.len) {
        data(&l, l.at, l.len, 0, 0);
    }

    token(&l, JT_EOF);
    *n = l.n;

    return l.tok;
}
