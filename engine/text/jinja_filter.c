/*
 * jinja_filter: filters of single values.
 */

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"


/* --- helpers ---------------------------------------------------------- */

/* A string stays what it is, Markup included. */
static jv_t
soft(jx_t *x, jv_t v)
{
    return v.type == J_STR ? v : j_str(j_to_str(x, v));
}


static jv_t
like(jv_t old, jstr_t *s)
{
    jv_t  v;

    v = j_str(s);
    if (old.type == J_STR) {
        v.flags = old.flags & J_SAFE;
    }

    return v;
}


static bool
flag(jv_t v)
{
    return j_given(v) && j_truth(v);
}


/* --- text ------------------------------------------------------------- */

static jv_t
f_upper(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, js_case(x, soft(x, self).u.s, 'u'));
}


static jv_t
f_lower(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, js_case(x, soft(x, self).u.s, 'l'));
}


static jv_t
f_capitalize(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, js_case(x, soft(x, self).u.s, 'c'));
}


/* Unlike the method: words begin after white space and some brackets. */
static jv_t
f_title(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    bool      first;
    size_t    i, n, end, k;
    jbuf_t   *b;
    jstr_t   *s, *word;
    uint32_t  cp;

    s = soft(x, self).u.s;
    b = jb_new(x);

    for (i = 0, first = true; i < s->len; ) {
        cp = js_decode(s->p + i, s->len - i, &n);

        if (js_space(cp) || (cp < 0x80 && strchr("-({[<", (int) cp))) {
            jb_add(x, b, s, i, n);
            i += n;
            first = true;
            continue;
        }

        for (end = i + n; end < s->len && !first; end += k) {
            cp = js_decode(s->p + end, s->len - end, &k);
            if (js_space(cp) || (cp < 0x80 && strchr("-({[<", (int) cp))) {
                break;
            }
        }

        word = js_sub(x, s, i, end - i);
        jb_str(x, b, js_case(x, word, first ? 'u' : 'l'));
        first = false;
        i = end;
    }

    return j_str(jb_done(x, b));
}


static jv_t
f_trim(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jstr_t  *set;

    set = !j_given(arg[0]) || arg[0].type == J_NONE
          ? NULL : j_arg_str(x, arg[0]);

    return like(self, js_strip(x, soft(x, self).u.s, set, 3));
}


static jv_t
f_replace(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    int64_t  max;

    max = j_given(arg[2]) && arg[2].type != J_NONE
          ? j_arg_int(x, arg[2]) : -1;

    return j_str(js_replace(x, j_to_str(x, self), j_to_str(x, arg[0]),
                            j_to_str(x, arg[1]), max));
}


static jv_t
f_string(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return soft(x, self);
}


static jv_t
f_safe(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = soft(x, self);
    v.flags |= J_SAFE;

    return v;
}


static jv_t
f_escape(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = soft(x, self);
    if (!(v.flags & J_SAFE)) {
        v = j_str(js_escape(x, v.u.s));
        v.flags = J_SAFE;
    }

    return v;
}


static jv_t
f_forceescape(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = j_str(js_escape(x, j_to_str(x, self)));
    v.flags = J_SAFE;

    return v;
}


static jv_t
f_center(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return like(self, js_pad(x, soft(x, self).u.s, j_given(arg[0])
                             ? j_arg_int(x, arg[0]) : 80, 'c',
                             js_cstr(x, " ")));
}


static jv_t
f_format(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    size_t    i;
    jlist_t  *l;

    if (call->npos > 0 && call->nkw > 0) {
        j_fail(x, "format: positional and keyword arguments together");
    }

    if (call->nkw > 0) {
        v = j_dict(j_dict_new(x, call->nkw));
        for (i = 0; i < call->nkw; i++) {
            j_dict_set(x, v.u.d, j_str(call->kw[i].name), call->kw[i].val);
        }
    } else {
        l = j_list_new(x, call->npos);
        for (i = 0; i < call->npos; i++) {
            j_list_add(x, l, call->pos[i]);
        }
        v = j_tuple(l);
    }

    return like(self, j_percent(x, soft(x, self).u.s, v));
}


/* Lines but the first get the indention, blank ones only if asked. */
static jv_t
f_indent(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    jstr_t   *ind, *line;
    jbuf_t   *b;
    jlist_t  *l;

    if (!j_given(arg[0])) {
        ind = js_cstr(x, "    ");
    } else if (arg[0].type == J_STR) {
        ind = arg[0].u.s;
    } else {
        ind = js_repeat(x, js_cstr(x, " "), j_arg_int(x, arg[0]));
    }

    b = jb_new(x);
    l = js_lines(x, js_cat(x, j_arg_str(x, self), js_cstr(x, "\n")), false);

    for (i = 0; i < l->n; i++) {
        line = l->v[i].u.s;
        if (i > 0) {
            jb_bytes(x, b, "\n", 1, J_TEMPLATE);
        }
        if (i == 0 ? flag(arg[1]) : flag(arg[2]) || line->len > 0) {
            jb_str(x, b, ind);
        }
        jb_str(x, b, line);
    }

    return like(self, jb_done(x, b));
}


static jv_t
f_truncate(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t      n;
    jstr_t     *s, *end;
    int64_t     length, leeway;
    ptrdiff_t   at;

    length = j_given(arg[0]) ? j_arg_int(x, arg[0]) : 255;
    end = j_given(arg[2]) ? j_arg_str(x, arg[2]) : js_cstr(x, "...");
    leeway = j_given(arg[3]) && arg[3].type != J_NONE
             ? j_arg_int(x, arg[3]) : 5;

    if (length < (int64_t) js_chars(end) || leeway < 0) {
        j_fail(x, "truncate: the length is too small");
    }

    /* what is short enough need not be a string */
    n = (size_t) (j_length(self) < 0 ? 0 : j_length(self));
    if (j_length(self) >= 0 && ((int64_t) n <= length
                                || (int64_t) n - length <= leeway))
    {
        return self;
    }

    s = j_arg_str(x, self);
    n = js_offset(s, (size_t) length - js_chars(end));
    s = js_sub(x, s, 0, n);

    if (!flag(arg[1])) {
        at = js_rfind(x, s, js_cstr(x, " "), 0);
        s = at < 0 ? s : js_sub(x, s, 0, (size_t) at);
    }

    return j_str(js_cat(x, s, end));
}


static jv_t
f_wordcount(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    bool                  in, word;
    size_t                i, n;
    jstr_t               *s;
    int64_t               words;
    uint32_t              cp;
    utf8proc_category_t   c;

    s = soft(x, self).u.s;
    j_step(x, s->len);

    for (i = 0, words = 0, in = false; i < s->len; i += n) {
        cp = js_decode(s->p + i, s->len - i, &n);
        c = utf8proc_category((utf8proc_int32_t) cp);
        word = cp == '_' || (c >= UTF8PROC_CATEGORY_LU
                             && c <= UTF8PROC_CATEGORY_LO)
               || (c >= UTF8PROC_CATEGORY_ND && c <= UTF8PROC_CATEGORY_NO);
        words += word && !in;
        in = word;
    }

    return j_int(words);
}


static jv_t
f_urlencode(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    char     hex[4];
    size_t   i;
    jstr_t  *s;
    jbuf_t  *b;

    if (self.type == J_DICT || self.type == J_LIST || self.type == J_TUPLE) {
        j_fail(x, "urlencode takes a string here");
    }

    s = j_to_str(x, self);
    b = jb_new(x);

    for (i = 0; i < s->len; i++) {
        if (isalnum((unsigned char) s->p[i])
            || (s->p[i] != '\0' && strchr("_.-~/", s->p[i]) != NULL))
        {
            jb_add(x, b, s, i, 1);
        } else {
            snprintf(hex, sizeof(hex), "%%%02X", (unsigned char) s->p[i]);
            jb_bytes(x, b, hex, 3,
                     s->trust == J_MIXED ? s->map[i] : s->trust);
        }
    }

    return j_str(jb_done(x, b));
}


/* --- numbers ---------------------------------------------------------- */

/* A Python number literal in a string; base 0: a float. */
static bool
parse_number(jx_t *x, jstr_t *s, int base, jv_t *v)
{
    char     *buf, *end;
    size_t    i, n;
    int64_t   num;
    jstr_t   *t;

    t = js_strip(x, s, NULL, 3);
    buf = j_alloc(x, t->len + 1);

    for (i = 0, n = 0; i < t->len; i++) {
        if (t->p[i] == '_' && i > 0 && i + 1 < t->len
            && isalnum((unsigned char) t->p[i - 1])
            && isalnum((unsigned char) t->p[i + 1]))
        {
            continue;
        }
        if (t->p[i] == '\0' || isspace((unsigned char) t->p[i])) {
            return false;
        }
        buf[n++] = t->p[i];
    }

    if (n == 0) {
        return false;
    }

    if (base == 0) {
        if (strpbrk(buf, "xXpP(") != NULL) {
            return false;
        }
        *v = j_float(strtod(buf, &end));
        return *end == '\0';
    }

    i = buf[0] == '-' || buf[0] == '+';
    if (base == 2 || base == 8) {
        if (buf[i] == '0' && (buf[i + 1] | 0x20) == (base == 2 ? 'b' : 'o')) {
            memmove(buf + i, buf + i + 2, n - i - 1);
        }
    }
    if (!isalnum((unsigned char) buf[i])
        || (base != 16 && (buf[i + 1] | 0x20) == 'x' && buf[i] == '0'))
    {
        return false;
    }

    num = strtoll(buf, &end, base);
    if (*end != '\0') {
        return false;
    }
    if (num == INT64_MAX || num == INT64_MIN) {
        j_fail(x, "integer overflow");
    }

    *v = j_int(num);
    return true;
}


static jv_t
whole(jx_t *x, double f)
{
    if (!(fabs(f) < 9.2e18)) {
        j_fail(x, "cannot convert float to integer");
    }

    return j_int((int64_t) f);
}


static jv_t
f_int(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t     v, or;
    int64_t  base;

    j_undefined(x, self);
    or = j_given(arg[0]) ? arg[0] : j_int(0);
    base = j_given(arg[1]) ? j_arg_int(x, arg[1]) : 10;

    if (self.type == J_STR) {
        if (base >= 2 && base <= 36
            && parse_number(x, self.u.s, (int) base, &v))
        {
            return v;
        }
        if (parse_number(x, self.u.s, 0, &v) && isfinite(v.u.f)) {
            return whole(x, v.u.f);
        }
        return or;
    }

    if (self.type == J_FLOAT) {
        return isnan(self.u.f) ? or : whole(x, self.u.f);
    }

    return j_is_num(self) ? j_int(self.u.i) : or;
}


static jv_t
f_float(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    j_undefined(x, self);

    if (j_is_num(self)) {
        return j_float(j_num(self));
    }

    if (self.type == J_STR && parse_number(x, self.u.s, 0, &v)) {
        return v;
    }

    return j_given(arg[0]) ? arg[0] : j_float(0);
}


static jv_t
f_abs(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    j_undefined(x, self);

    if (self.type == J_FLOAT) {
        return j_float(fabs(self.u.f));
    }

    if (!j_is_num(self)) {
        j_fail(x, "bad operand type for abs(): '%s'", j_type_name(self));
    }

    return self.u.i < 0 ? j_binop(x, JO_SUB, j_int(0), self)
                        : j_int(self.u.i);
}


static jv_t
f_round(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    char      buf[512];
    double    f, scale;
    jstr_t   *how;
    int64_t   p;

    j_undefined(x, self);
    p = j_given(arg[0]) ? j_arg_int(x, arg[0]) : 0;
    how = j_given(arg[1]) ? j_arg_str(x, arg[1]) : js_cstr(x, "common");

    if (!j_is_num(self) || p > 100 || p < -100) {
        j_fail(x, "round: a number is expected");
    }

    f = j_num(self);
    scale = pow(10, (double) p);

    if (js_eq(how, "ceil") || js_eq(how, "floor")) {
        f = js_eq(how, "ceil") ? ceil(f * scale) : floor(f * scale);
        return j_float(f / scale);
    }

    if (!js_eq(how, "common")) {
        j_fail(x, "round: method must be common, ceil or floor");
    }

    if (self.type != J_FLOAT && p >= 0) {
        return j_int(self.u.i);
    }

    if (p >= 0) {
        snprintf(buf, sizeof(buf), "%.*f", (int) p, f);
        return j_float(strtod(buf, NULL));
    }

    scale = pow(10, (double) -p);
    f = nearbyint(f / scale) * scale;

    return self.type == J_FLOAT ? j_float(f) : whole(x, f);
}


/* --- anything --------------------------------------------------------- */

static jv_t
f_default(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    if (self.type == J_UNDEF || (flag(arg[1]) && !j_truth(self))) {
        return j_given(arg[0]) ? arg[0] : j_str(js_cstr(x, ""));
    }

    return self;
}


static jv_t
f_length(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    ptrdiff_t  n;

    n = j_length(self);
    if (n < 0) {
        j_fail(x, "object of type '%s' has no len()", j_type_name(self));
    }

    return j_int(n);
}


/* An attribute, and never an item. */
static jv_t
f_attr(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jstr_t  *name;

    name = j_arg_str(x, arg[0]);
    j_undefined(x, self);

    if (self.type == J_DICT && j_find_method(self, name) == NULL) {
        return j_undef(name, J_ATTR);
    }

    return j_attr(x, self, name);
}


static jv_t
f_tojson(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jbuf_t   *b;
    jlist_t  *sep;
    jdump_t   how = { 0 };

    how.ascii = flag(arg[0]);
    how.sort = flag(arg[3]);

    if (j_given(arg[1]) && arg[1].type != J_NONE) {
        how.indent = arg[1].type == J_STR ? arg[1].u.s
                     : js_repeat(x, js_cstr(x, " "), j_arg_int(x, arg[1]));
    }

    how.item_sep = js_cstr(x, how.indent != NULL ? "," : ", ");
    how.key_sep = js_cstr(x, ": ");

    if (j_given(arg[2]) && arg[2].type != J_NONE) {
        sep = j_items(x, arg[2]);
        if (sep->n != 2) {
            j_fail(x, "tojson: two separators are expected");
        }
        how.item_sep = j_arg_str(x, sep->v[0]);
        how.key_sep = j_arg_str(x, sep->v[1]);
    }

    b = jb_new(x);
    j_dump(x, b, self, &how);

    return j_str(jb_done(x, b));
}


/* Not Jinja2's own: DeepSeek-V3.2's template has it. */
static jv_t
f_from_json(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jstr_t        *s;
    json_t        *json;
    json_error_t   error;

    s = j_arg_str(x, self);
    j_step(x, s->len * 16);
    j_charge(x, s->len * 16);       /* what jansson takes at most, about */

    x->parsed = j_grow(x, x->parsed, x->nparsed, &x->cap_parsed,
                       sizeof(x->parsed[0]));
    json = json_loadb(s->p, s->len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &error);
    if (json == NULL) {
        j_fail(x, "from_json: %s", error.text);
    }

    x->parsed[x->nparsed++] = json;
    return j_from_json(x, json, s->trust == J_TEMPLATE ? J_TEMPLATE
                                                       : J_REQUEST);
}


static const jdef_t  filters[] = {
    { "abs", f_abs, "", 0 },
    { "attr", f_attr, "name", 1 },
    { "capitalize", f_capitalize, "", 0 },
    { "center", f_center, "width", 0 },
    { "count", f_length, "", 0 },
    { "d", f_default, "default_value boolean", 0 },
    { "default", f_default, "default_value boolean", 0 },
    { "e", f_escape, "", 0 },
    { "escape", f_escape, "", 0 },
    { "float", f_float, "default", 0 },
    { "forceescape", f_forceescape, "", 0 },
    { "format", f_format, NULL, 0 },
    { "from_json", f_from_json, "", 0 },
    { "indent", f_indent, "width first blank", 0 },
    { "int", f_int, "default base", 0 },
    { "length", f_length, "", 0 },
    { "lower", f_lower, "", 0 },
    { "replace", f_replace, "old new count", 2 },
    { "round", f_round, "precision method", 0 },
    { "safe", f_safe, "", 0 },
    { "string", f_string, "", 0 },
    { "title", f_title, "", 0 },
    { "tojson", f_tojson, "ensure_ascii indent separators sort_keys", 0 },
    { "trim", f_trim, "chars", 0 },
    { "truncate", f_truncate, "length killwords end leeway", 0 },
    { "upper", f_upper, "", 0 },
    { "urlencode", f_urlencode, "", 0 },
    { "wordcount", f_wordcount, "", 0 },
    { NULL, NULL, NULL, 0 }
};


const jdef_t *
j_find_filter(const jstr_t *name)
{
    const jdef_t  *def;

    def = j_find_def(filters, name);
    return def != NULL ? def : j_find_def(j_seq_filters, name);
}
