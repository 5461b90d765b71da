/*
 * jinja_repr: values as text, the way Python's str, repr and json.dumps
 * write them.
 *
 * The text of a number, and the punctuation of a container, has the origin
 * of the value; a string keeps its own.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"


static int
origin(jv_t v)
{
    return v.flags & J_TAINT ? J_REQUEST : J_TEMPLATE;
}


static void
put(jx_t *x, jbuf_t *b, jv_t v, const char *text)
{
    jb_bytes(x, b, text, strlen(text), origin(v));
}


/* The shortest digits that read back as f, as Python sets them out. */
size_t
j_float_repr(double f, char buf[32])
{
    int   i, n, exp;
    char  digits[24], sci[40], *e, *out;

    if (isnan(f) || isinf(f)) {
        return (size_t) sprintf(buf, "%s", isnan(f) ? "nan"
                                           : f > 0 ? "inf" : "-inf");
    }

    for (i = 0; i < 17; i++) {
        snprintf(sci, sizeof(sci), "%.*e", i, f);
        if (strtod(sci, NULL) == f) {
            break;
        }
    }

    e = strchr(sci, 'e');
    exp = atoi(e + 1);

    for (n = 0, i = 0; sci + i < e; i++) {
        if (sci[i] >= '0' && sci[i] <= '9') {
            digits[n++] = sci[i];
        }
    }

    out = buf;
    if (signbit(f)) {
        *out++ = '-';
    }

    if (exp < -4 || exp >= 16) {
        *out++ = digits[0];
        if (n > 1) {
            *out++ = '.';
            memcpy(out, digits + 1, (size_t) n - 1);
            out += n - 1;
        }
        return (size_t) (out - buf)
               + (size_t) sprintf(out, "e%c%02d", exp < 0 ? '-' : '+',
                                  abs(exp));
    }

    if (exp < 0) {
        *out++ = '0';
        *out++ = '.';
        for (i = exp + 1; i < 0; i++) {
            *out++ = '0';
        }
        memcpy(out, digits, (size_t) n);
        out += n;

    } else {
        for (i = 0; i < n || i <= exp; i++) {
            if (i == exp + 1) {
                *out++ = '.';
            }
            *out++ = i < n ? digits[i] : '0';
        }
        if (n <= exp + 1) {
            *out++ = '.';
            *out++ = '0';
        }
    }

    *out = '\0';
    return (size_t) (out - buf);
}


/* --- repr ------------------------------------------------------------- */

static bool
printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t) cp)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    case UTF8PROC_CATEGORY_ZS:
        return cp == ' ';
    default:
        return true;
    }
}


static const char *
repr_escape(uint32_t cp, char quote, char buf[16])
{
    if (cp == (uint32_t) quote || cp == '\\') {
        sprintf(buf, "\\%c", (char) cp);
    } else if (cp == '\n') {
        return "\\n";
    } else if (cp == '\r') {
        return "\\r";
    } else if (cp == '\t') {
        return "\\t";
    } else if (cp >= 32 && cp < 127) {
        return NULL;
    } else if (cp < 32 || cp == 127 || !printable(cp)) {
        sprintf(buf, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x"
                     : "\\U%08x", cp);
    } else {
        return NULL;
    }

    return buf;
}


static void
repr_str(jx_t *x, jbuf_t *b, const jstr_t *s)
{
    char         quote, buf[16];
    int          trust;
    size_t       i, n, from;
    const char  *esc;

    quote = s->len > 0 && memchr(s->p, '\'', s->len)
            && !memchr(s->p, '"', s->len) ? '"' : '\'';
    trust = s->trust == J_MIXED ? J_REQUEST : s->trust;

    jb_bytes(x, b, &quote, 1, trust);

    for (i = 0, from = 0; i < s->len; i += n) {
        esc = repr_escape(js_decode(s->p + i, s->len - i, &n), quote, buf);
        if (esc != NULL) {
            jb_add(x, b, s, from, i - from);
            jb_bytes(x, b, esc, strlen(esc), trust);
            from = i + n;
        }
    }

    jb_add(x, b, s, from, s->len - from);
    jb_bytes(x, b, &quote, 1, trust);
}


static void  repr(jx_t *x, jbuf_t *b, jv_t v);


static void
repr_list(jx_t *x, jbuf_t *b, jv_t v, const jlist_t *l, const char *open,
    const char *close)
{
    size_t  i;

    put(x, b, v, open);

    for (i = 0; i < l->n; i++) {
        if (i > 0) {
            put(x, b, v, ", ");
        }
        repr(x, b, l->v[i]);
    }

    put(x, b, v, close);
}


static void
repr_dict(jx_t *x, jbuf_t *b, jv_t v)
{
    size_t  i;

    put(x, b, v, "{");

    for (i = 0; i < v.u.d->n; i++) {
        if (i > 0) {
            put(x, b, v, ", ");
        }
        repr(x, b, v.u.d->e[i].key);
        put(x, b, v, ": ");
        repr(x, b, v.u.d->e[i].val);
    }

    put(x, b, v, "}");
}


static void
repr_range(jx_t *x, jbuf_t *b, jv_t v)
{
    char      buf[96];
    int64_t   stop;

    stop = (int64_t) ((uint64_t) v.u.r->start
                      + v.u.r->n * (uint64_t) v.u.r->step);

    if (v.u.r->step == 1) {
        snprintf(buf, sizeof(buf), "range(%" PRId64 ", %" PRId64 ")",
                 v.u.r->start, stop);
    } else {
        snprintf(buf, sizeof(buf),
                 "range(%" PRId64 ", %" PRId64 ", %" PRId64 ")",
                 v.u.r->start, stop, v.u.r->step);
    }

    put(x, b, v, buf);
}


/* The objects that no template prints on purpose. */
static void
repr_object(jx_t *x, jbuf_t *b, jv_t v)
{
    char  buf[96];

    switch (v.type) {

    case J_LOOP:
        snprintf(buf, sizeof(buf), "<LoopContext %zu/%zu>",
                 v.u.loop->index0 + 1, v.u.loop->items->n);
        put(x, b, v, buf);
        break;

    case J_MACRO:
        put(x, b, v, "<Macro ");
        repr_str(x, b, v.u.macro->sig->name);
        put(x, b, v, ">");
        break;

    case J_METHOD:
        snprintf(buf, sizeof(buf), "<built-in method %s of %s object>",
                 v.u.method->def->name, j_type_name(v.u.method->self));
        put(x, b, v, buf);
        break;

    default:
        snprintf(buf, sizeof(buf), "<%s object>", j_type_name(v));
        put(x, b, v, buf);
    }
}


static void
repr_container(jx_t *x, jbuf_t *b, jv_t v)
{
    j_enter(x);
    j_step(x, 0);

    switch (v.type) {

    case J_LIST:
        repr_list(x, b, v, v.u.l, "[", "]");
        break;

    case J_TUPLE:
        repr_list(x, b, v, v.u.l, "(", v.u.l->n == 1 ? ",)" : ")");
        break;

    case J_DICT:
        repr_dict(x, b, v);
        break;

    case J_SPACE:
        put(x, b, v, "<Namespace ");
        repr_dict(x, b, v);
        put(x, b, v, ">");
        break;

    default:
        put(x, b, v, j_type_name(v));
        repr_list(x, b, v, v.u.it->list, "([", "])");
    }

    j_leave(x);
}


static void
repr(jx_t *x, jbuf_t *b, jv_t v)
{
    char  buf[32];

    switch (v.type) {

    case J_UNDEF:
        put(x, b, v, "Undefined");
        break;

    case J_NONE:
        put(x, b, v, "None");
        break;

    case J_BOOL:
        put(x, b, v, v.u.i ? "True" : "False");
        break;

    case J_INT:
        snprintf(buf, sizeof(buf), "%" PRId64, v.u.i);
        put(x, b, v, buf);
        break;

    case J_FLOAT:
        j_float_repr(v.u.f, buf);
        put(x, b, v, buf);
        break;

    case J_STR:
        if (v.flags & J_SAFE) {
            put(x, b, v, "Markup(");
            repr_str(x, b, v.u.s);
            put(x, b, v, ")");
        } else {
            repr_str(x, b, v.u.s);
        }
        break;

    case J_RANGE:
        repr_range(x, b, v);
        break;

    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_SPACE:
    case J_VIEW:
        repr_container(x, b, v);
        break;

    default:
        repr_object(x, b, v);
    }
}


jstr_t *
j_repr_str(jx_t *x, jv_t v)
{
    jbuf_t  *b;

    b = jb_new(x);
    repr(x, b, v);
    return jb_done(x, b);
}


jstr_t *
j_to_str(jx_t *x, jv_t v)
{
    if (v.type == J_STR) {
        return v.u.s;
    }

    if (v.type == J_UNDEF) {
        return js_cstr(x, "");
    }

    return j_repr_str(x, v);
}


/* --- tojson ----------------------------------------------------------- */

static const char *
json_escape(uint32_t cp, bool ascii, char buf[16])
{
    switch (cp) {
    case '"':
        return "\\\"";
    case '\\':
        return "\\\\";
    case '\n':
        return "\\n";
    case '\r':
        return "\\r";
    case '\t':
        return "\\t";
    case '\f':
        return "\\f";
    case '\b':
        return "\\b";
    default:
        break;
    }

    if (cp >= 32 && (cp < 127 || !ascii)) {
        return NULL;
    }

    if (cp < 0x10000) {
        sprintf(buf, "\\u%04x", cp);

    } else {
        cp -= 0x10000;
        sprintf(buf, "\\u%04x\\u%04x", 0xd800 + (cp >> 10),
                0xdc00 + (cp & 0x3ff));
    }

    return buf;
}


static void
dump_str(jx_t *x, jbuf_t *b, const jstr_t *s, bool ascii)
{
    int          trust;
    char         buf[16];
    size_t       i, n, from;
    const char  *esc;

    trust = s->trust == J_MIXED ? J_REQUEST : s->trust;
    jb_bytes(x, b, "\"", 1, trust);

    for (i = 0, from = 0; i < s->len; i += n) {
        esc = json_escape(js_decode(s->p + i, s->len - i, &n), ascii, buf);
        if (esc != NULL) {
            jb_add(x, b, s, from, i - from);
            jb_bytes(x, b, esc, strlen(esc), trust);
            from = i + n;
        }
    }

    jb_add(x, b, s, from, s->len - from);
    jb_bytes(x, b, "\"", 1, trust);
}


static void
dump_scalar(jx_t *x, jbuf_t *b, jv_t v)
{
    switch (v.type) {

    case J_NONE:
        put(x, b, v, "null");
        break;

    case J_BOOL:
        put(x, b, v, v.u.i ? "true" : "false");
        break;

    case J_FLOAT:
        if (isnan(v.u.f) || isinf(v.u.f)) {
            put(x, b, v, isnan(v.u.f) ? "NaN" : v.u.f > 0 ? "Infinity"
                         : "-Infinity");
            break;
        }
        /* fall through */

    case J_INT:
        repr(x, b, v);
        break;

    default:
        j_undefined(x, v);
        j_fail(x, "Object of type %s is not JSON serializable",
               j_type_name(v));
    }
}


/* Separators, like brackets, have the origin of the container. */
static void
dump_sep(jx_t *x, jbuf_t *b, jv_t v, const jstr_t *sep)
{
    jb_bytes(x, b, sep->p, sep->len, origin(v));
}


static void
dump_line(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how, size_t level)
{
    if (how->indent != NULL) {
        put(x, b, v, "\n");
        while (level-- > 0) {
            dump_sep(x, b, v, how->indent);
        }
    }
}


static void  dump_value(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how,
    size_t level);


static void
dump_list(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how, size_t level)
{
    size_t    i;
    jlist_t  *l;

    l = v.u.l;

    if (l->n == 0) {
        put(x, b, v, "[]");
        return;
    }

    put(x, b, v, "[");

    for (i = 0; i < l->n; i++) {
        if (i > 0) {
            dump_sep(x, b, v, how->item_sep);
        }
        dump_line(x, b, v, how, level + 1);
        dump_value(x, b, l->v[i], how, level + 1);
    }

    dump_line(x, b, v, how, level);
    put(x, b, v, "]");
}


static void
dump_key(jx_t *x, jbuf_t *b, jv_t key, const jdump_t *how)
{
    if (key.type == J_STR) {
        dump_str(x, b, key.u.s, how->ascii);
        return;
    }

    if (key.type != J_NONE && !j_is_num(key)) {
        j_fail(x, "keys must be str, int, float, bool or None, not %s",
               j_type_name(key));
    }

    put(x, b, key, "\"");
    dump_scalar(x, b, key);
    put(x, b, key, "\"");
}


static void
dump_dict(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how, size_t level)
{
    jv_t      *key, *val;
    size_t     i;
    jdict_t   *d;

    d = v.u.d;

    if (d->n == 0) {
        put(x, b, v, "{}");
        return;
    }

    key = j_array(x, d->n, sizeof(jv_t));
    val = j_array(x, d->n, sizeof(jv_t));
    for (i = 0; i < d->n; i++) {
        key[i] = d->e[i].key;
        val[i] = d->e[i].val;
    }

    if (how->sort) {
        j_sort(x, val, key, d->n, false);
    }

    put(x, b, v, "{");

    for (i = 0; i < d->n; i++) {
        if (i > 0) {
            dump_sep(x, b, v, how->item_sep);
        }
        dump_line(x, b, v, how, level + 1);
        dump_key(x, b, key[i], how);
        dump_sep(x, b, v, how->key_sep);
        dump_value(x, b, val[i], how, level + 1);
    }

    dump_line(x, b, v, how, level);
    put(x, b, v, "}");
}


static void
dump_value(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how, size_t level)
{
    j_step(x, 0);

    switch (v.type) {

    case J_STR:
        dump_str(x, b, v.u.s, how->ascii);
        break;

    case J_LIST:
    case J_TUPLE:
        j_enter(x);
        dump_list(x, b, v, how, level);
        j_leave(x);
        break;

    case J_DICT:
        j_enter(x);
        dump_dict(x, b, v, how, level);
        j_leave(x);
        break;

    default:
        dump_scalar(x, b, v);
    }
}


void
j_dump(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how)
{
    dump_value(x, b, v, how, 0);
}
