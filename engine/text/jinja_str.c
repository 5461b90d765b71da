/*
 * jinja_str: strings as Python has them, counted in code points, with the
 * origin of every byte kept through all that is done to them.
 */

#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"
#include "text/jinja_case.h"


/* --- code points ------------------------------------------------------ */

/* Strings are valid UTF-8: the source is checked, and jansson checks. */
uint32_t
js_decode(const char *p, size_t len, size_t *n)
{
    utf8proc_int32_t    cp;
    utf8proc_ssize_t    k;

    if (!((unsigned char) *p & 0x80)) {
        *n = 1;
        return (unsigned char) *p;
    }

    k = utf8proc_iterate((const utf8proc_uint8_t *) p,
                         (utf8proc_ssize_t) len, &cp);
    if (k <= 0) {
        *n = 1;
        return 0xfffd;
    }

    *n = (size_t) k;
    return (uint32_t) cp;
}


size_t
js_encode(uint32_t cp, char *p)
{
    return (size_t) utf8proc_encode_char((utf8proc_int32_t) cp,
                                         (utf8proc_uint8_t *) p);
}


size_t
js_chars(jstr_t *s)
{
    size_t  i, n;

    if (s->chars == J_UNKNOWN) {
        for (i = 0, n = 0; i < s->len; i++) {
            n += ((unsigned char) s->p[i] & 0xc0) != 0x80;
        }
        s->chars = n;
    }

    return s->chars;
}


/* The byte at which a code point begins. */
size_t
js_offset(jstr_t *s, size_t chars)
{
    size_t  i;

    if (js_chars(s) == s->len || chars == 0) {
        return chars < s->len ? chars : s->len;
    }

    for (i = 0; i < s->len; i++) {
        if (((unsigned char) s->p[i] & 0xc0) != 0x80 && chars-- == 0) {
            break;
        }
    }

    return i;
}


bool
js_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85
           || cp == 0xa0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200a)
           || cp == 0x2028 || cp == 0x2029 || cp == 0x202f || cp == 0x205f
           || cp == 0x3000;
}


/* --- strings ---------------------------------------------------------- */

jstr_t *
js_new(jx_t *x, const char *p, size_t len, int trust)
{
    jstr_t  *s;

    s = j_alloc(x, sizeof(*s));
    s->p = p;
    s->len = len;
    s->chars = J_UNKNOWN;
    s->trust = (uint8_t) trust;

    return s;
}


/* A string of the interpreter's own: as good as the template's. */
jstr_t *
js_cstr(jx_t *x, const char *p)
{
    return js_new(x, p, strlen(p), J_TEMPLATE);
}


jstr_t *
js_sub(jx_t *x, jstr_t *s, size_t off, size_t len)
{
    jstr_t  *t;

    if (off == 0 && len == s->len) {
        return s;
    }

    t = js_new(x, s->p + off, len, s->trust);
    if (s->trust == J_MIXED) {
        t->map = s->map + off;
    }

    return t;
}


bool
js_eq(const jstr_t *s, const char *p)
{
    return s->len == strlen(p) && memcmp(s->p, p, s->len) == 0;
}


int
js_cmp(const jstr_t *a, const jstr_t *b)
{
    int     c;
    size_t  n;

    n = a->len < b->len ? a->len : b->len;
    c = n == 0 ? 0 : memcmp(a->p, b->p, n);

    return c != 0 ? c : (a->len > b->len) - (a->len < b->len);
}


ptrdiff_t
js_find(const jstr_t *a, const jstr_t *b, size_t off)
{
    const char  *p;

    if (off > a->len || b->len > a->len - off) {
        return -1;
    }

    p = b->len == 0 ? a->p + off
                    : memmem(a->p + off, a->len - off, b->p, b->len);

    return p == NULL ? -1 : p - a->p;
}


ptrdiff_t
js_rfind(jx_t *x, const jstr_t *a, const jstr_t *b, size_t off)
{
    size_t  i;

    if (off > a->len || b->len > a->len - off) {
        return -1;
    }

    /* unlike memmem, this may compare all of b everywhere */
    j_step(x, (a->len - off - b->len) * (b->len / 16 + 1));

    for (i = a->len - b->len + 1; i-- > off; ) {
        if (b->len == 0 || memcmp(a->p + i, b->p, b->len) == 0) {
            return (ptrdiff_t) i;
        }
    }

    return -1;
}


/* --- buffers ---------------------------------------------------------- */

jbuf_t *
jb_new(jx_t *x)
{
    return j_alloc(x, sizeof(jbuf_t));
}


static void
buf_room(jx_t *x, jbuf_t *b, size_t len)
{
    char     *p;
    size_t    cap;
    uint8_t  *map;

    if (len <= b->cap - b->len) {
        return;
    }

    if (len > SIZE_MAX / 4 - b->len) {
        j_limit(x, "memory");
    }

    cap = b->len + len;
    cap = b->len == 0 ? cap : cap * 2;

    p = j_array(x, cap, 1);
    if (b->len > 0) {
        memcpy(p, b->p, b->len);
    }

    if (b->map != NULL) {
        map = j_array(x, cap, 1);
        memcpy(map, b->map, b->len);
        b->map = map;
    }

    b->p = p;
    b->cap = cap;
}


/* Makes the map, if bytes of another origin are about to follow. */
static void
buf_map(jx_t *x, jbuf_t *b, int trust)
{
    if (b->len == 0 && b->map == NULL && trust != J_MIXED) {
        b->trust = (uint8_t) trust;
        return;
    }

    if (b->map == NULL && trust != b->trust) {
        b->map = j_array(x, b->cap, 1);
        memset(b->map, b->trust, b->len);
    }
}


static void
buf_append(jx_t *x, jbuf_t *b, const char *p, size_t len, int trust,
    const uint8_t *map)
{
    if (len == 0) {
        return;
    }

    if (b == x->out && len > x->max_output - b->len) {
        j_limit(x, "output");
    }

    j_step(x, len);
    buf_room(x, b, len);
    buf_map(x, b, trust);

    memcpy(b->p + b->len, p, len);

    if (b->map != NULL) {
        if (trust == J_MIXED) {
            memcpy(b->map + b->len, map, len);
        } else {
            memset(b->map + b->len, trust, len);
        }
    }

    b->len += len;
}


void
jb_bytes(jx_t *x, jbuf_t *b, const char *p, size_t len, int trust)
{
    buf_append(x, b, p, len, trust, NULL);
}


void
jb_add(jx_t *x, jbuf_t *b, const jstr_t *s, size_t off, size_t len)
{
    buf_append(x, b, s->p + off, len, s->trust,
               s->trust == J_MIXED ? s->map + off : NULL);
}


void
jb_str(jx_t *x, jbuf_t *b, const jstr_t *s)
{
    jb_add(x, b, s, 0, s->len);
}


jstr_t *
jb_done(jx_t *x, jbuf_t *b)
{
    jstr_t  *s;

    s = js_new(x, b->len == 0 ? "" : b->p, b->len,
               b->map != NULL ? J_MIXED : b->trust);
    s->map = b->map;
    s->own = b;

    return s;
}


jstr_t *
js_cat(jx_t *x, jstr_t *a, jstr_t *b)
{
    jbuf_t  *buf;

    if (b->len == 0) {
        return a;
    }
    if (a->len == 0) {
        return b;
    }

    buf = a->own;

    if (buf == NULL || buf->p != a->p || buf->len != a->len) {
        buf = jb_new(x);
        jb_str(x, buf, a);
    }

    jb_str(x, buf, b);
    return jb_done(x, buf);
}


/* n code points from start, step apart; the caller has checked them. */
jstr_t *
js_slice(jx_t *x, jstr_t *s, ptrdiff_t start, ptrdiff_t step, size_t n)
{
    size_t     a, b, i, k;
    size_t    *at;
    jbuf_t    *buf;

    if (n == 0) {
        return js_cstr(x, "");
    }

    if (step == 1) {
        a = js_offset(s, (size_t) start);
        b = js_offset(s, (size_t) start + n);
        return js_sub(x, s, a, b - a);
    }

    at = j_array(x, js_chars(s) + 1, sizeof(size_t));
    for (i = 0, k = 0; i < s->len; i++) {
        if (((unsigned char) s->p[i] & 0xc0) != 0x80) {
            at[k++] = i;
        }
    }
    at[k] = s->len;

    buf = jb_new(x);
    for (i = 0; i < n; i++, start += step) {
        jb_add(x, buf, s, at[start], at[start + 1] - at[start]);
    }

    return jb_done(x, buf);
}


/* --- what Python's methods do ----------------------------------------- */

static bool
in_set(jx_t *x, const jstr_t *set, const char *p, size_t n, uint32_t cp)
{
    size_t  i, k;

    if (set == NULL) {
        return js_space(cp);
    }

    j_step(x, set->len * 8);

    for (i = 0; i < set->len; i += k) {
        js_decode(set->p + i, set->len - i, &k);
        if (k == n && memcmp(set->p + i, p, n) == 0) {
            return true;
        }
    }

    return false;
}


/* ends: 1 left, 2 right, 3 both; set: NULL for white space */
jstr_t *
js_strip(jx_t *x, jstr_t *s, const jstr_t *set, int ends)
{
    size_t    a, b, i, n;
    uint32_t  cp;

    a = 0;
    b = s->len;

    while ((ends & 1) && a < b) {
        cp = js_decode(s->p + a, b - a, &n);
        if (!in_set(x, set, s->p + a, n, cp)) {
            break;
        }
        a += n;
    }

    while ((ends & 2) && b > a) {
        for (i = b - 1; i > a && (s->p[i] & 0xc0) == 0x80; i--) { /* void */ }
        cp = js_decode(s->p + i, b - i, &n);
        if (!in_set(x, set, s->p + i, n, cp)) {
            break;
        }
        b = i;
    }

    j_step(x, s->len - (b - a));
    return js_sub(x, s, a, b - a);
}


/* Python puts b before every character and at the end. */
static jstr_t *
replace_empty(jx_t *x, jstr_t *s, jstr_t *b, int64_t max)
{
    size_t    i, n;
    jbuf_t   *buf;

    buf = jb_new(x);

    for (i = 0; max != 0; i += n, max--) {
        jb_str(x, buf, b);
        if (i == s->len) {
            break;
        }
        js_decode(s->p + i, s->len - i, &n);
        jb_add(x, buf, s, i, n);
    }

    jb_add(x, buf, s, i, s->len - i);
    return jb_done(x, buf);
}


jstr_t *
js_replace(jx_t *x, jstr_t *s, jstr_t *a, jstr_t *b, int64_t max)
{
    size_t      off;
    jbuf_t     *buf;
    ptrdiff_t   at;

    j_step(x, s->len);

    if (a->len == 0) {
        return replace_empty(x, s, b, max);
    }

    buf = NULL;

    for (off = 0; max != 0; max--) {
        at = js_find(s, a, off);
        if (at < 0) {
            break;
        }
        if (buf == NULL) {
            buf = jb_new(x);
        }
        jb_add(x, buf, s, off, (size_t) at - off);
        jb_str(x, buf, b);
        off = (size_t) at + a->len;
    }

    if (buf == NULL) {
        return s;
    }

    jb_add(x, buf, s, off, s->len - off);
    return jb_done(x, buf);
}


static void
split_at(jx_t *x, jlist_t *l, jstr_t *s, jstr_t *sep, int64_t max)
{
    size_t     off;
    ptrdiff_t  at;

    for (off = 0; max != 0; max--) {
        at = js_find(s, sep, off);
        if (at < 0) {
            break;
        }
        j_list_add(x, l, j_str(js_sub(x, s, off, (size_t) at - off)));
        off = (size_t) at + sep->len;
    }

    j_list_add(x, l, j_str(js_sub(x, s, off, s->len - off)));
}


static void
split_space(jx_t *x, jlist_t *l, jstr_t *s, int64_t max)
{
    size_t    i, n, from;
    jstr_t   *rest;

    for (i = 0; i < s->len; ) {
        if (js_space(js_decode(s->p + i, s->len - i, &n))) {
            i += n;
            continue;
        }

        if (max-- == 0) {
            rest = js_sub(x, s, i, s->len - i);
            j_list_add(x, l, j_str(js_strip(x, rest, NULL, 2)));
            return;
        }

        for (from = i; i < s->len; i += n) {
            if (js_space(js_decode(s->p + i, s->len - i, &n))) {
                break;
            }
        }

        j_list_add(x, l, j_str(js_sub(x, s, from, i - from)));
    }
}


static void
reverse(jlist_t *l)
{
    jv_t    v;
    size_t  i;

    for (i = 0; i < l->n / 2; i++) {
        v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }
}


static void
rsplit_at(jx_t *x, jlist_t *l, jstr_t *s, jstr_t *sep, int64_t max)
{
    ptrdiff_t  at;

    for ( /* void */ ; max != 0; max--) {
        at = js_rfind(x, s, sep, 0);
        if (at < 0) {
            break;
        }
        j_list_add(x, l, j_str(js_sub(x, s, (size_t) at + sep->len,
                               s->len - (size_t) at - sep->len)));
        s = js_sub(x, s, 0, (size_t) at);
    }

    j_list_add(x, l, j_str(s));
    reverse(l);
}


static void
rsplit_space(jx_t *x, jlist_t *l, jstr_t *s, int64_t max)
{
    size_t   i, k, n;
    jstr_t  *t;

    for ( ;; ) {
        s = js_strip(x, s, NULL, 2);
        if (s->len == 0) {
            break;
        }

        if (max-- == 0) {
            j_list_add(x, l, j_str(js_strip(x, s, NULL, 1)));
            break;
        }

        for (i = s->len; i > 0; i = k) {
            for (k = i - 1; k > 0 && (s->p[k] & 0xc0) == 0x80; k--) {
                /* void */
            }
            if (js_space(js_decode(s->p + k, i - k, &n))) {
                break;
            }
        }

        t = js_sub(x, s, i, s->len - i);
        j_list_add(x, l, j_str(t));
        s = js_sub(x, s, 0, i);
    }

    reverse(l);
}


/* sep: NULL for runs of white space; max: -1 for no bound */
jlist_t *
js_split(jx_t *x, jstr_t *s, jstr_t *sep, int64_t max, bool right)
{
    jlist_t  *l;

    j_step(x, s->len);
    l = j_list_new(x, 4);

    if (sep != NULL && sep->len == 0) {
        j_fail(x, "empty separator");
    }

    if (right && max >= 0) {
        if (sep == NULL) {
            rsplit_space(x, l, s, max);
        } else {
            rsplit_at(x, l, s, sep, max);
        }

    } else if (sep == NULL) {
        split_space(x, l, s, max);

    } else {
        split_at(x, l, s, sep, max);
    }

    return l;
}


static bool
line_end(uint32_t cp)
{
    return (cp >= 10 && cp <= 13) || (cp >= 0x1c && cp <= 0x1e)
           || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
}


jlist_t *
js_lines(jx_t *x, jstr_t *s, bool keep)
{
    size_t     i, n, from, end;
    jlist_t   *l;
    uint32_t   cp;

    j_step(x, s->len);
    l = j_list_new(x, 4);

    for (i = 0, from = 0; i < s->len; ) {
        cp = js_decode(s->p + i, s->len - i, &n);
        end = i;
        i += n;

        if (!line_end(cp)) {
            continue;
        }
        if (cp == '\r' && i < s->len && s->p[i] == '\n') {
            i++;
        }

        end = keep ? i : end;
        j_list_add(x, l, j_str(js_sub(x, s, from, end - from)));
        from = i;
    }

    if (from < s->len) {
        j_list_add(x, l, j_str(js_sub(x, s, from, s->len - from)));
    }

    return l;
}


/* --- case ------------------------------------------------------------- */

static bool
cased(uint32_t cp)
{
    return utf8proc_islower((utf8proc_int32_t) cp)
           || utf8proc_isupper((utf8proc_int32_t) cp)
           || utf8proc_category((utf8proc_int32_t) cp)
              == UTF8PROC_CATEGORY_LT;
}


static bool
case_ignorable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t) cp)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
        return true;
    default:
        return cp == '\'' || cp == '.' || cp == ':' || cp == 0xb7
               || cp == 0x2019;
    }
}


/* A capital sigma at i is small and final at the end of a word. */
static bool
final_sigma(const jstr_t *s, size_t i)
{
    size_t    k, n;
    uint32_t  cp;

    for (k = i; ; ) {
        if (k == 0) {
            return false;
        }
        for (k--; k > 0 && (s->p[k] & 0xc0) == 0x80; k--) { /* void */ }
        cp = js_decode(s->p + k, s->len - k, &n);
        if (!case_ignorable(cp)) {
            if (!cased(cp)) {
                return false;
            }
            break;
        }
    }

    for (k = i + 2; k < s->len; k += n) {
        cp = js_decode(s->p + k, s->len - k, &n);
        if (!case_ignorable(cp)) {
            return !cased(cp);
        }
    }

    return true;
}


static const char *
special(uint32_t cp, bool title)
{
    size_t  lo, hi, mid;

    for (lo = 0, hi = sizeof(jcase_table) / sizeof(jcase_table[0]);
         lo < hi; )
    {
        mid = (lo + hi) / 2;
        if (jcase_table[mid].cp == cp) {
            return title ? jcase_table[mid].title : jcase_table[mid].upper;
        }
        if (jcase_table[mid].cp < cp) {
            lo = mid + 1;
        } else {
            hi = mid;
        }
    }

    return NULL;
}


static size_t
map_char(const jstr_t *s, size_t i, uint32_t cp, char how, char out[32])
{
    size_t               k, n;
    const char          *sp;
    utf8proc_int32_t     fold[8];
    utf8proc_ssize_t     m;

    switch (how) {

    case 'l':
        if (cp == 0x3a3) {
            return js_encode(final_sigma(s, i) ? 0x3c2 : 0x3c3, out);
        }
        if (cp == 0x130) {
            memcpy(out, "i\xcc\x87", 3);
            return 3;
        }
        return js_encode((uint32_t) utf8proc_tolower((int32_t) cp), out);

    case 'f':
        m = utf8proc_decompose_char((int32_t) cp, fold, 8,
                                    UTF8PROC_CASEFOLD, NULL);
        for (k = 0, n = 0; m > 0 && k < (size_t) m && k < 8; k++) {
            n += js_encode((uint32_t) fold[k], out + n);
        }
        return n;

    default:
        sp = special(cp, how == 't');
        if (sp != NULL) {
            n = strlen(sp);
            memcpy(out, sp, n);
            return n;
        }
        cp = (uint32_t) (how == 't' ? utf8proc_totitle((int32_t) cp)
                                    : utf8proc_toupper((int32_t) cp));
        return js_encode(cp, out);
    }
}


/* how: u upper, l lower, t title, c capitalize, s swap, f fold */
jstr_t *
js_case(jx_t *x, jstr_t *s, char how)
{
    bool      word;
    char      h, out[32];
    size_t    i, k, n;
    jbuf_t   *buf;
    uint32_t  cp;

    buf = jb_new(x);
    word = false;

    for (i = 0; i < s->len; i += n) {
        cp = js_decode(s->p + i, s->len - i, &n);

        switch (how) {
        case 't':
            h = word ? 'l' : 't';
            word = cased(cp);
            break;
        case 'c':
            h = i == 0 ? 't' : 'l';
            break;
        case 's':
            h = utf8proc_isupper((int32_t) cp) ? 'l'
                : utf8proc_islower((int32_t) cp) ? 'u' : 0;
            break;
        default:
            h = how;
        }

        k = h == 0 ? js_encode(cp, out) : map_char(s, i, cp, h, out);
        jb_bytes(x, buf, out, k, s->trust == J_MIXED ? s->map[i] : s->trust);
    }

    return jb_done(x, buf);
}


/* --- the rest --------------------------------------------------------- */

jstr_t *
js_escape(jx_t *x, jstr_t *s)
{
    size_t       i, from;
    jbuf_t      *buf;
    const char  *esc;

    buf = jb_new(x);

    for (i = 0, from = 0; i < s->len; i++) {
        switch (s->p[i]) {
        case '&':
            esc = "&amp;";
            break;
        case '<':
            esc = "&lt;";
            break;
        case '>':
            esc = "&gt;";
            break;
        case '"':
            esc = "&#34;";
            break;
        case '\'':
            esc = "&#39;";
            break;
        default:
            continue;
        }

        jb_add(x, buf, s, from, i - from);
        jb_bytes(x, buf, esc, strlen(esc),
                 s->trust == J_MIXED ? s->map[i] : s->trust);
        from = i + 1;
    }

    jb_add(x, buf, s, from, s->len - from);
    return jb_done(x, buf);
}


jstr_t *
js_repeat(jx_t *x, jstr_t *s, int64_t n)
{
    jbuf_t  *buf;

    if (n <= 0 || s->len == 0) {
        return js_cstr(x, "");
    }

    for (buf = jb_new(x); n > 0; n--) {
        jb_str(x, buf, s);
    }

    return jb_done(x, buf);
}


/* how: l, r or c(enter), by code points */
jstr_t *
js_pad(jx_t *x, jstr_t *s, int64_t width, char how, jstr_t *fill)
{
    int64_t   n, left;
    jbuf_t   *buf;

    if (js_chars(fill) != 1) {
        j_fail(x, "the fill character must be exactly one character long");
    }

    if (width <= (int64_t) js_chars(s)) {
        return s;
    }

    n = width - (int64_t) js_chars(s);
    left = how == 'l' ? 0 : how == 'r' ? n : n / 2 + (n & width & 1);

    buf = jb_new(x);
    jb_str(x, buf, js_repeat(x, fill, left));
    jb_str(x, buf, s);
    jb_str(x, buf, js_repeat(x, fill, n - left));

    return jb_done(x, buf);
}
