/*
 * jinja_method: the methods of strings.
 */

#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"


static jv_t
like(jv_t self, jstr_t *s)
{
    jv_t  v;

    v = j_str(s);
    v.flags = self.flags & J_SAFE;

    return v;
}


static jv_t
strings(jv_t self, jlist_t *l)
{
    size_t  i;

    for (i = 0; i < l->n; i++) {
        l->v[i].flags = self.flags & J_SAFE;
    }

    return j_list(l);
}


/* None stands for white space, and for "not given". */
static jstr_t *
optional(jx_t *x, jv_t v)
{
    return !j_given(v) || v.type == J_NONE ? NULL : j_arg_str(x, v);
}


static int64_t
count(jx_t *x, jv_t v)
{
    return j_given(v) ? j_arg_int(x, v) : -1;
}


/* --- case and white space --------------------------------------------- */

#define CASE_METHOD(name, how)                                               \
    static jv_t                                                              \
    name(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)                 \
    {                                                                        \
        return like(self, js_case(x, self.u.s, how));                        \
    }

CASE_METHOD(m_upper, 'u')
CASE_METHOD(m_lower, 'l')
CASE_METHOD(m_title, 't')
CASE_METHOD(m_capitalize, 'c')
CASE_METHOD(m_swapcase, 's')
CASE_METHOD(m_casefold, 'f')


#define STRIP_METHOD(name, ends)                                             \
    static jv_t                                                              \
    name(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)                 \
    {                                                                        \
        return like(self, js_strip(x, self.u.s, optional(x, arg[0]), ends)); \
    }

STRIP_METHOD(m_lstrip, 1)
STRIP_METHOD(m_rstrip, 2)
STRIP_METHOD(m_strip, 3)


#define PAD_METHOD(name, how)                                                \
    static jv_t                                                              \
    name(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)                 \
    {                                                                        \
        jstr_t  *fill;                                                       \
                                                                             \
        fill = j_given(arg[1]) ? j_arg_str(x, arg[1]) : js_cstr(x, " ");     \
        return like(self, js_pad(x, self.u.s, j_arg_int(x, arg[0]), how,     \
                                 fill));                                     \
    }

PAD_METHOD(m_ljust, 'l')
PAD_METHOD(m_rjust, 'r')
PAD_METHOD(m_center, 'c')


static jv_t
m_zfill(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    bool      sign;
    jstr_t   *s, *rest;
    int64_t   width;

    s = self.u.s;
    width = j_arg_int(x, arg[0]);
    sign = s->len > 0 && (s->p[0] == '-' || s->p[0] == '+');
    rest = js_sub(x, s, sign, s->len - sign);
    rest = js_pad(x, rest, width - sign, 'r', js_cstr(x, "0"));

    return like(self, js_cat(x, js_sub(x, s, 0, sign), rest));
}


/* --- finding ---------------------------------------------------------- */

/* start and end as slices take them, to bytes; false: an empty range that
 * not even an empty string lies in */
static bool
window(jx_t *x, jstr_t *s, jv_t *arg, size_t *from, size_t *to)
{
    int64_t  n, a, b;

    n = (int64_t) js_chars(s);
    a = j_given(arg[0]) && arg[0].type != J_NONE ? j_arg_int(x, arg[0]) : 0;
    b = j_given(arg[1]) && arg[1].type != J_NONE ? j_arg_int(x, arg[1]) : n;

    a = a < 0 ? (a + n < 0 ? 0 : a + n) : a;
    b = b < 0 ? (b + n < 0 ? 0 : b + n) : b > n ? n : b;

    if (a > n || a > b) {
        return false;
    }

    j_step(x, s->len);
    *from = js_offset(s, (size_t) a);
    *to = js_offset(s, (size_t) b);

    return true;
}


/* In code points, -1: not there. */
static int64_t
find(jx_t *x, jv_t self, jv_t *arg, int dir)
{
    size_t      from, to;
    jstr_t     *s, *sub, *head;
    ptrdiff_t   at;

    s = self.u.s;

    if (!window(x, s, arg + 1, &from, &to)) {
        return -1;
    }

    s = js_sub(x, s, 0, to);
    sub = j_arg_str(x, arg[0]);
    at = dir > 0 ? js_find(s, sub, from) : js_rfind(x, s, sub, from);
    if (at < 0) {
        return -1;
    }

    head = js_sub(x, s, 0, (size_t) at);
    return (int64_t) js_chars(head);
}


static jv_t
m_find(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_int(find(x, self, arg, 1));
}


static jv_t
m_rfind(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_int(find(x, self, arg, -1));
}


static jv_t
found(jx_t *x, int64_t at)
{
    if (at < 0) {
        j_fail(x, "substring not found");
    }

    return j_int(at);
}


static jv_t
m_index(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return found(x, find(x, self, arg, 1));
}


static jv_t
m_rindex(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return found(x, find(x, self, arg, -1));
}


static jv_t
m_count(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t      from, to;
    jstr_t     *s, *sub;
    int64_t     n;
    ptrdiff_t   at;

    sub = j_arg_str(x, arg[0]);

    if (!window(x, self.u.s, arg + 1, &from, &to)) {
        return j_int(0);
    }

    s = js_sub(x, self.u.s, from, to - from);
    if (sub->len == 0) {
        return j_int((int64_t) js_chars(s) + 1);
    }

    for (n = 0, from = 0; ; n++) {
        at = js_find(s, sub, from);
        if (at < 0) {
            return j_int(n);
        }
        from = (size_t) at + sub->len;
    }
}


/* end: of the string, else its beginning */
static bool
has_affix(const jstr_t *s, const jstr_t *affix, bool end)
{
    return affix->len <= s->len
           && memcmp(s->p + (end ? s->len - affix->len : 0), affix->p,
                     affix->len) == 0;
}


static jv_t
affix(jx_t *x, jv_t self, jv_t *arg, bool end)
{
    size_t   i, from, to;
    jstr_t  *s;

    if (!window(x, self.u.s, arg + 1, &from, &to)) {
        return j_bool(false);
    }

    s = js_sub(x, self.u.s, from, to - from);

    if (arg[0].type != J_TUPLE) {
        return j_bool(has_affix(s, j_arg_str(x, arg[0]), end));
    }

    for (i = 0; i < arg[0].u.l->n; i++) {
        if (has_affix(s, j_arg_str(x, arg[0].u.l->v[i]), end)) {
            return j_bool(true);
        }
    }

    return j_bool(false);
}


static jv_t
m_startswith(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return affix(x, self, arg, false);
}


static jv_t
m_endswith(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return affix(x, self, arg, true);
}


static jv_t
m_removeprefix(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jstr_t  *s, *a;

    s = self.u.s;
    a = j_arg_str(x, arg[0]);

    return like(self, has_affix(s, a, false)
                      ? js_sub(x, s, a->len, s->len - a->len) : s);
}


static jv_t
m_removesuffix(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jstr_t  *s, *a;

    s = self.u.s;
    a = j_arg_str(x, arg[0]);

    return like(self, has_affix(s, a, true)
                      ? js_sub(x, s, 0, s->len - a->len) : s);
}


/* --- taking apart and putting together -------------------------------- */

static jv_t
m_replace(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, js_replace(x, self.u.s, j_arg_str(x, arg[0]),
                                 j_arg_str(x, arg[1]), count(x, arg[2])));
}


static jv_t
m_split(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return strings(self, js_split(x, self.u.s, optional(x, arg[0]),
                                  count(x, arg[1]), false));
}


static jv_t
m_rsplit(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return strings(self, js_split(x, self.u.s, optional(x, arg[0]),
                                  count(x, arg[1]), true));
}


static jv_t
m_splitlines(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return strings(self, js_lines(x, self.u.s,
                                  j_given(arg[0]) && j_truth(arg[0])));
}


/* Three parts around the first or last place of a separator. */
static jv_t
partition(jx_t *x, jv_t self, jv_t *arg, int dir)
{
    size_t      n;
    jstr_t     *s, *sep, *part[3];
    jlist_t    *l;
    ptrdiff_t   at;

    s = self.u.s;
    sep = j_arg_str(x, arg[0]);

    if (sep->len == 0) {
        j_fail(x, "empty separator");
    }

    j_step(x, s->len);
    at = dir > 0 ? js_find(s, sep, 0) : js_rfind(x, s, sep, 0);

    if (at < 0) {
        part[0] = dir > 0 ? s : js_cstr(x, "");
        part[1] = js_cstr(x, "");
        part[2] = dir > 0 ? js_cstr(x, "") : s;
    } else {
        n = (size_t) at + sep->len;
        part[0] = js_sub(x, s, 0, (size_t) at);
        part[1] = js_sub(x, s, (size_t) at, sep->len);
        part[2] = js_sub(x, s, n, s->len - n);
    }

    l = j_list_new(x, 3);
    for (n = 0; n < 3; n++) {
        j_list_add(x, l, like(self, part[n]));
    }

    return j_tuple(l);
}


static jv_t
m_partition(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return partition(x, self, arg, 1);
}


static jv_t
m_rpartition(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return partition(x, self, arg, -1);
}


static jv_t
m_join(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    jbuf_t   *b;
    jlist_t  *l;

    j_undefined(x, arg[0]);
    l = j_items(x, arg[0]);
    b = jb_new(x);

    for (i = 0; i < l->n; i++) {
        if (i > 0) {
            jb_str(x, b, self.u.s);
        }
        jb_str(x, b, j_arg_str(x, l->v[i]));
    }

    return like(self, jb_done(x, b));
}


static jv_t
m_format(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, j_format(x, self.u.s, call));
}


/* --- what a string is made of ----------------------------------------- */

typedef bool (*class_t)(uint32_t cp);


static jv_t
all(jv_t self, class_t is)
{
    size_t   i, n;
    jstr_t  *s;

    for (i = 0, s = self.u.s; i < s->len; i += n) {
        if (!is(js_decode(s->p + i, s->len - i, &n))) {
            return j_bool(false);
        }
    }

    return j_bool(s->len > 0);
}


static bool
is_alpha(uint32_t cp)
{
    utf8proc_category_t  c;

    c = utf8proc_category((utf8proc_int32_t) cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}


static bool
is_decimal(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t) cp) == UTF8PROC_CATEGORY_ND;
}


static bool
is_digit(uint32_t cp)
{
    return is_decimal(cp) || cp == 0xb2 || cp == 0xb3 || cp == 0xb9
           || (cp >= 0x2070 && cp <= 0x2079 && cp != 0x2071)
           || (cp >= 0x2080 && cp <= 0x2089);
}


static bool
is_numeric(uint32_t cp)
{
    utf8proc_category_t  c;

    c = utf8proc_category((utf8proc_int32_t) cp);
    return c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO;
}


static bool
is_alnum(uint32_t cp)
{
    return is_alpha(cp) || is_numeric(cp);
}


#define CLASS_METHOD(name, is)                                               \
    static jv_t                                                              \
    name(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)                 \
    {                                                                        \
        j_step(x, self.u.s->len);                                            \
        return all(self, is);                                                \
    }

CLASS_METHOD(m_isalpha, is_alpha)
CLASS_METHOD(m_isdecimal, is_decimal)
CLASS_METHOD(m_isdigit, is_digit)
CLASS_METHOD(m_isnumeric, is_numeric)
CLASS_METHOD(m_isalnum, is_alnum)
CLASS_METHOD(m_isspace, js_space)


static jv_t
m_isascii(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_bool(js_chars(self.u.s) == self.u.s->len);
}


/* At least one letter has a case, and all that have one have this. */
static jv_t
one_case(jstr_t *s, bool upper)
{
    bool      any, up, low;
    size_t    i, n;
    int32_t   cp;

    for (i = 0, any = false; i < s->len; i += n) {
        cp = (int32_t) js_decode(s->p + i, s->len - i, &n);
        up = utf8proc_isupper(cp);
        low = utf8proc_islower(cp);
        if ((upper ? low : up)
            || utf8proc_category(cp) == UTF8PROC_CATEGORY_LT)
        {
            return j_bool(false);
        }
        any = any || up || low;
    }

    return j_bool(any);
}


static jv_t
m_isupper(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    j_step(x, self.u.s->len);
    return one_case(self.u.s, true);
}


static jv_t
m_islower(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    j_step(x, self.u.s->len);
    return one_case(self.u.s, false);
}


const jdef_t  j_str_methods[] = {
    { "capitalize", m_capitalize, "", 0 },
    { "casefold", m_casefold, "", 0 },
    { "center", m_center, "width fillchar", 1 },
    { "count", m_count, "sub start end", 1 },
    { "endswith", m_endswith, "suffix start end", 1 },
    { "find", m_find, "sub start end", 1 },
    { "format", m_format, NULL, 0 },
    { "index", m_index, "sub start end", 1 },
    { "isalnum", m_isalnum, "", 0 },
    { "isalpha", m_isalpha, "", 0 },
    { "isascii", m_isascii, "", 0 },
    { "isdecimal", m_isdecimal, "", 0 },
    { "isdigit", m_isdigit, "", 0 },
    { "islower", m_islower, "", 0 },
    { "isnumeric", m_isnumeric, "", 0 },
    { "isspace", m_isspace, "", 0 },
    { "isupper", m_isupper, "", 0 },
    { "join", m_join, "iterable", 1 },
    { "ljust", m_ljust, "width fillchar", 1 },
    { "lower", m_lower, "", 0 },
    { "lstrip", m_lstrip, "chars", 0 },
    { "partition", m_partition, "sep", 1 },
    { "removeprefix", m_removeprefix, "prefix", 1 },
    { "removesuffix", m_removesuffix, "suffix", 1 },
    { "replace", m_replace, "old new count", 2 },
    { "rfind", m_rfind, "sub start end", 1 },
    { "rindex", m_rindex, "sub start end", 1 },
    { "rjust", m_rjust, "width fillchar", 1 },
    { "rpartition", m_rpartition, "sep", 1 },
    { "rsplit", m_rsplit, "sep maxsplit", 0 },
    { "rstrip", m_rstrip, "chars", 0 },
    { "split", m_split, "sep maxsplit", 0 },
    { "splitlines", m_splitlines, "keepends", 0 },
    { "startswith", m_startswith, "prefix start end", 1 },
    { "strip", m_strip, "chars", 0 },
    { "swapcase", m_swapcase, "", 0 },
    { "title", m_title, "", 0 },
    { "upper", m_upper, "", 0 },
    { "zfill", m_zfill, "width", 1 },
    { NULL, NULL, NULL, 0 }
};
