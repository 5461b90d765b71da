/*
 * jinja_format: Python's two ways to fill in a string, "%" and .format, and
 * strftime.
 */

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "text/jinja.h"


#define MAX_WIDTH      10000
#define MAX_PRECISION  100
#define NUMBER         512      /* the longest double, and separators */


typedef struct {
    char     fill[5];
    char     align;             /* < > = ^, 0: by type */
    char     sign;              /* + or space */
    char     group;             /* , or _ */
    char     type;
    bool     alt;
    int64_t  width;
    int64_t  precision;         /* -1: not given */
} spec_t;


/* --- numbers ---------------------------------------------------------- */

static int
put_integer(jx_t *x, const spec_t *s, int64_t v, char *out)
{
    int       n, base;
    char      digits[72];
    uint64_t  u;

    u = v < 0 ? 0 - (uint64_t) v : (uint64_t) v;
    base = s->type == 'x' || s->type == 'X' ? 16 : s->type == 'o' ? 8
           : s->type == 'b' ? 2 : 10;

    n = (int) sizeof(digits) - 1;
    digits[n] = '\0';

    do {
        digits[--n] = "0123456789abcdef"[u % (unsigned) base];
        if (s->type == 'X' && digits[n] >= 'a') {
            digits[n] -= 'a' - 'A';
        }
        u /= (unsigned) base;
    } while (u > 0);

    if (s->alt && base != 10) {
        digits[--n] = s->type;
        digits[--n] = '0';
    }

    return sprintf(out, "%s", digits + n);
}


static int
put_float(jx_t *x, const spec_t *s, double f, char *out)
{
    int   n, precision;
    char  fmt[8], buf[32];

    f = fabs(f);
    precision = s->precision < 0 ? 6 : (int) s->precision;

    if (s->type == 0 && s->precision < 0) {
        j_float_repr(f, buf);
        return sprintf(out, "%s", buf);
    }

    snprintf(fmt, sizeof(fmt), "%%.*%c", s->type == 0 ? 'g'
             : s->type == '%' ? 'f' : s->type);
    n = snprintf(out, NUMBER - 8, fmt, precision,
                 s->type == '%' ? f * 100 : f);

    if (s->type == 0 && isfinite(f) && strpbrk(out, ".e") == NULL) {
        n += sprintf(out + n, ".0");
    }
    if (s->type == '%') {
        n += sprintf(out + n, "%%");
    }

    return n;
}


/* Puts the separator between thousands. */
static int
group(char *text, int n, char sep)
{
    int   digits, i, k;
    char  buf[NUMBER * 2];

    digits = (int) strspn(text, "0123456789");

    for (i = 0, k = 0; i < n; i++) {
        if (i > 0 && i < digits && (digits - i) % 3 == 0) {
            buf[k++] = sep;
        }
        buf[k++] = text[i];
    }

    memcpy(text, buf, (size_t) k);
    text[k] = '\0';

    return k;
}


/* Fills up to the width; sign: what a "=" fill goes behind. */
static void
pad(jx_t *x, jbuf_t *b, const spec_t *s, char align, jstr_t *sign,
    jstr_t *text)
{
    int64_t   n, left, i;
    int       trust;
    size_t    len;

    n = s->width - (int64_t) js_chars(text)
        - (sign != NULL ? (int64_t) js_chars(sign) : 0);
    n = n < 0 ? 0 : n;

    align = s->align != 0 ? s->align : align;
    left = align == '<' ? 0 : align == '^' ? n / 2 : n;
    trust = J_TEMPLATE;
    len = strlen(s->fill);

    if (align == '=' && sign != NULL) {
        jb_str(x, b, sign);
    }
    for (i = 0; i < left; i++) {
        jb_bytes(x, b, s->fill, len, trust);
    }
    if (align != '=' && sign != NULL) {
        jb_str(x, b, sign);
    }
    jb_str(x, b, text);
    for (i = left; i < n; i++) {
        jb_bytes(x, b, s->fill, len, trust);
    }
}


static void
put_number(jx_t *x, jbuf_t *b, const spec_t *s, jv_t v)
{
    int      n, trust;
    char     text[NUMBER * 2], sign[2];
    bool     is_float, neg;
    jstr_t  *t, *p;

    is_float = v.type == J_FLOAT
               || (s->type != 0 && strchr("eEfFgG%", s->type) != NULL);

    if (s->precision > MAX_PRECISION) {
        j_fail(x, "precision too large in a format");
    }

    if (is_float) {
        if (s->type != 0 && strchr("eEfFgG%", s->type) == NULL) {
            j_fail(x, "unknown format code '%c' for a float", s->type);
        }
        neg = signbit(j_num(v));
        n = put_float(x, s, j_num(v), text);
    } else {
        neg = v.u.i < 0;
        n = put_integer(x, s, v.u.i, text);
    }

    if (s->group != 0) {
        n = group(text, n, s->group);
    }

    trust = v.flags & J_TAINT ? J_REQUEST : J_TEMPLATE;
    sign[0] = neg ? '-' : s->sign;
    sign[1] = '\0';

    p = js_new(x, strcpy(j_alloc(x, 2), sign), sign[0] != 0, trust);
    t = js_new(x, strcpy(j_alloc(x, (size_t) n + 1), text), (size_t) n,
               trust);
    pad(x, b, s, '>', p, t);
}


static void
put_text(jx_t *x, jbuf_t *b, const spec_t *s, jstr_t *text)
{
    size_t  n;

    if (s->precision >= 0 && s->precision < (int64_t) js_chars(text)) {
        n = js_offset(text, (size_t) s->precision);
        text = js_sub(x, text, 0, n);
    }

    pad(x, b, s, '<', NULL, text);
}


static int64_t
digits(jx_t *x, const char **p, const char *end)
{
    int64_t  v;

    for (v = 0; *p < end && **p >= '0' && **p <= '9'; (*p)++) {
        v = v * 10 + (**p - '0');
        if (v > MAX_WIDTH) {
            j_fail(x, "width or precision too large in a format");
        }
    }

    return v;
}


/* --- "%" -------------------------------------------------------------- */

typedef struct {
    jv_t    arg;
    size_t  next;
    bool    named;
} percent_t;


static jv_t
next_arg(jx_t *x, percent_t *a)
{
    if (a->arg.type == J_TUPLE) {
        if (a->next >= a->arg.u.l->n) {
            j_fail(x, "not enough arguments for format string");
        }
        return a->arg.u.l->v[a->next++];
    }

    if (a->next++ > 0) {
        j_fail(x, "not enough arguments for format string");
    }

    return a->arg;
}


/* "%(name)s": its value */
static jv_t
named_arg(jx_t *x, percent_t *a, const char **p, const char *end)
{
    jv_t        *v;
    const char  *from;

    from = *p;
    while (*p < end && **p != ')') {
        (*p)++;
    }

    if (*p == end) {
        j_fail(x, "incomplete format key");
    }
    if (a->arg.type != J_DICT) {
        j_fail(x, "format requires a mapping");
    }

    v = j_dict_get(x, a->arg.u.d, from, (size_t) (*p - from));
    if (v == NULL) {
        j_fail(x, "key of a format string not found");
    }

    (*p)++;
    a->named = true;

    return *v;
}


static void
percent_flags(spec_t *s, const char **p, const char *end)
{
    bool  left, zero;

    for (left = false, zero = false; *p < end; (*p)++) {
        if (**p == '-') {
            left = true;
        } else if (**p == '0') {
            zero = true;
        } else if (**p == '+') {
            s->sign = '+';
        } else if (**p == ' ') {
            s->sign = s->sign == '+' ? '+' : ' ';
        } else if (**p == '#') {
            s->alt = true;
        } else {
            break;
        }
    }

    s->align = left ? '<' : zero ? '=' : '>';
    s->fill[0] = zero && !left ? '0' : ' ';
}


static void
percent_put(jx_t *x, jbuf_t *b, spec_t *s, jv_t v)
{
    char    *c;
    jstr_t  *t;

    switch (s->type) {

    case 's':
    case 'r':
    case 'a':
        s->fill[0] = ' ';
        s->align = s->align == '=' ? '>' : s->align;
        t = s->type == 's' ? j_to_str(x, v) : j_repr_str(x, v);
        put_text(x, b, s, t);
        return;

    case 'c':
        if (v.type == J_STR && js_chars(v.u.s) == 1) {
            t = v.u.s;
        } else {
            if (v.type != J_INT || v.u.i < 0 || v.u.i > 0x10ffff
                || (v.u.i >= 0xd800 && v.u.i < 0xe000))
            {
                j_fail(x, "%%c requires int or char");
            }
            c = j_alloc(x, 4);
            t = js_new(x, c, js_encode((uint32_t) v.u.i, c),
                       v.flags & J_TAINT ? J_REQUEST : J_TEMPLATE);
        }
        s->precision = -1;
        put_text(x, b, s, t);
        return;

    default:
        break;
    }

    if (!j_is_num(v)) {
        j_undefined(x, v);
        j_fail(x, "%%%c format: a number is required, not %s", s->type,
               j_type_name(v));
    }

    if (strchr("diu", s->type) != NULL) {
        if (v.type == J_FLOAT) {
            if (!(fabs(v.u.f) < 9e18)) {
                j_fail(x, "integer overflow");
            }
            v = j_int((int64_t) v.u.f);
        }
        s->type = 'd';

    } else if (strchr("xXo", s->type) != NULL) {
        if (v.type == J_FLOAT) {
            j_fail(x, "%%%c format: an integer is required", s->type);
        }

    } else if (strchr("eEfFgG", s->type) == NULL) {
        j_fail(x, "unsupported format character");
    }

    put_number(x, b, s, v);
}


static const char *
percent_one(jx_t *x, jbuf_t *b, percent_t *a, const char *p, const char *end)
{
    jv_t    v;
    bool    named;
    spec_t  s = { .fill = " ", .precision = -1 };

    v = j_none();
    named = false;

    if (p < end && *p == '(') {
        p++;
        v = named_arg(x, a, &p, end);
        named = true;
    }

    percent_flags(&s, &p, end);

    if (p < end && *p == '*') {
        p++;
        s.width = j_arg_int(x, next_arg(x, a));
        if (s.width > MAX_WIDTH || s.width < -MAX_WIDTH) {
            j_fail(x, "width or precision too large in a format");
        }
        if (s.width < 0) {
            s.width = -s.width;
            s.align = '<';
        }
    } else {
        s.width = digits(x, &p, end);
    }

    if (p < end && *p == '.') {
        p++;
        s.precision = digits(x, &p, end);
    }

    if (p == end) {
        j_fail(x, "incomplete format");
    }

    s.type = *p++;

    if (s.type == '%') {
        jb_bytes(x, b, "%", 1, J_TEMPLATE);
        return p;
    }

    percent_put(x, b, &s, named ? v : next_arg(x, a));
    return p;
}


jstr_t *
j_percent(jx_t *x, jstr_t *fmt, jv_t arg)
{
    jbuf_t      *b;
    percent_t    a = { .arg = arg };
    const char  *p, *end, *from;

    b = jb_new(x);
    end = fmt->p + fmt->len;

    for (p = from = fmt->p; p < end; ) {
        if (*p != '%') {
            p++;
            continue;
        }
        jb_add(x, b, fmt, (size_t) (from - fmt->p), (size_t) (p - from));
        p = percent_one(x, b, &a, p + 1, end);
        from = p;
    }

    jb_add(x, b, fmt, (size_t) (from - fmt->p), (size_t) (p - from));

    /* what has items may be left over, as a mapping may */
    if (arg.type == J_TUPLE ? !a.named && a.next < arg.u.l->n
                            : a.next == 0 && arg.type != J_DICT
                              && arg.type != J_LIST && arg.type != J_RANGE
                              && arg.type != J_UNDEF)
    {
        j_fail(x, "not all arguments converted during string formatting");
    }

    return jb_done(x, b);
}


/* --- .format ---------------------------------------------------------- */

typedef struct {
    const jcall_t  *call;
    size_t          next;
    int             depth;
} fields_t;


/* Python's format spec mini-language. */
static spec_t
parse_spec(jx_t *x, jstr_t *text)
{
    size_t       n;
    spec_t       s = { .fill = " ", .precision = -1 };
    const char  *p, *end;

    p = text->p;
    end = p + text->len;

    if (p < end) {
        js_decode(p, text->len, &n);
        if (p + n < end && strchr("<>=^", p[n]) != NULL) {
            memcpy(s.fill, p, n);
            s.fill[n] = '\0';
            s.align = p[n];
            p += n + 1;
        } else if (strchr("<>=^", *p) != NULL) {
            s.align = *p++;
        }
    }

    if (p < end && strchr("+- ", *p) != NULL) {
        s.sign = *p == '-' ? 0 : *p;
        p++;
    }
    if (p < end && *p == '#') {
        s.alt = true;
        p++;
    }
    if (p < end && *p == '0') {
        if (s.align == 0) {
            s.align = '=';
            s.fill[0] = '0';
        }
        p++;
    }

    s.width = digits(x, &p, end);

    if (p < end && (*p == ',' || *p == '_')) {
        s.group = *p++;
    }
    if (p < end && *p == '.') {
        p++;
        s.precision = digits(x, &p, end);
    }
    if (p < end) {
        s.type = *p++;
    }
    if (p < end || s.fill[0] == '\0') {
        j_fail(x, "invalid format specifier");
    }

    return s;
}


static void
put_field(jx_t *x, jbuf_t *b, jv_t v, jstr_t *text)
{
    spec_t  s;

    if (text->len == 0) {
        jb_str(x, b, j_to_str(x, v));
        return;
    }

    s = parse_spec(x, text);

    if (v.type == J_STR) {
        if ((s.type != 0 && s.type != 's') || s.align == '=') {
            j_fail(x, "invalid format specifier for a string");
        }
        put_text(x, b, &s, v.u.s);
        return;
    }

    if (!j_is_num(v)) {
        j_fail(x, "unsupported format string passed to %s.__format__",
               j_type_name(v));
    }

    if (s.type != 0 && strchr("bdxXoeEfFgG%", s.type) == NULL) {
        j_fail(x, "unknown format code '%c'", s.type);
    }

    if (v.type != J_FLOAT && s.precision >= 0
        && (s.type == 0 || strchr("bdxXo", s.type) != NULL))
    {
        j_fail(x, "precision not allowed in integer format specifier");
    }

    put_number(x, b, &s, v);
}


/* "0", "name" or nothing, then ".attr" and "[item]" */
static jv_t
field_value(jx_t *x, fields_t *f, jstr_t *name)
{
    jv_t     v, key;
    size_t   i, n, from;
    jstr_t  *part;

    for (n = 0; n < name->len && name->p[n] != '.' && name->p[n] != '[';
         n++)
    {
        /* void */
    }

    v.type = J_MISSING;
    v.flags = 0;

    if (n == 0 || (name->p[0] >= '0' && name->p[0] <= '9')) {
        for (i = n == 0 ? f->next++ : 0, from = 0; from < n; from++) {
            if (name->p[from] < '0' || name->p[from] > '9' || i > 1000) {
                j_fail(x, "invalid field in a format string");
            }
            i = i * 10 + (size_t) (name->p[from] - '0');
        }
        if (i < f->call->npos) {
            v = f->call->pos[i];
        }
    } else {
        for (i = 0; i < f->call->nkw; i++) {
            if (f->call->kw[i].name->len == n
                && memcmp(f->call->kw[i].name->p, name->p, n) == 0)
            {
                v = f->call->kw[i].val;
            }
        }
    }

    if (!j_given(v)) {
        j_fail(x, "a field of a format string has no argument");
    }

    while (n < name->len) {
        from = n + 1;
        if (name->p[n] == '.') {
            for (n++; n < name->len && name->p[n] != '.'
                 && name->p[n] != '['; n++)
            {
                /* void */
            }
            v = j_attr(x, v, js_sub(x, name, from, n - from));
            continue;
        }

        for (n++; n < name->len && name->p[n] != ']'; n++) { /* void */ }
        part = js_sub(x, name, from, n - from);
        key = j_str(part);
        if (part->len > 0 && part->len < 10
            && strspn(part->p, "0123456789") >= part->len)
        {
            key = j_int(strtol(part->p, NULL, 10));
        }
        v = j_subscript(x, v, key);
        n++;
    }

    return v;
}


static jstr_t  *format_text(jx_t *x, jstr_t *fmt, fields_t *f);


/* One "{...}", p behind its brace; the place behind the closing one. */
static size_t
format_field(jx_t *x, jbuf_t *b, jstr_t *fmt, size_t at, fields_t *f)
{
    jv_t     v;
    char     conv;
    size_t   i, name, depth, spec;
    jstr_t  *text;

    for (name = at; name < fmt->len && strchr("!:{}", fmt->p[name]) == NULL;
         name++)
    {
        if (fmt->p[name] == '[') {
            while (name < fmt->len && fmt->p[name] != ']') {
                name++;
            }
            if (name == fmt->len) {
                break;
            }
        }
    }

    for (i = name, depth = 1; i < fmt->len; i++) {
        depth += fmt->p[i] == '{';
        depth -= fmt->p[i] == '}';
        if (depth == 0) {
            break;
        }
    }

    if (i >= fmt->len || fmt->p[name] == '{') {
        j_fail(x, "expected '}' in a format string");
    }

    v = field_value(x, f, js_sub(x, fmt, at, name - at));
    spec = name;
    conv = 0;

    if (fmt->p[spec] == '!') {
        conv = fmt->p[spec + 1];
        spec += 2;
        if (strchr("rsa", conv) == NULL
            || (spec < i && fmt->p[spec] != ':'))
        {
            j_fail(x, "unknown conversion in a format string");
        }
    }

    text = js_cstr(x, "");
    if (spec < i) {
        text = js_sub(x, fmt, spec + 1, i - spec - 1);
        text = format_text(x, text, f);
    }

    if (conv != 0) {
        v = j_str(conv == 's' ? j_to_str(x, v) : j_repr_str(x, v));
    }

    put_field(x, b, v, text);
    return i + 1;
}


static jstr_t *
format_text(jx_t *x, jstr_t *fmt, fields_t *f)
{
    char     c;
    size_t   i, from;
    jbuf_t  *b;

    if (++f->depth > 2 && memchr(fmt->p, '{', fmt->len) != NULL) {
        j_fail(x, "format string nested too deep");
    }

    b = jb_new(x);

    for (i = from = 0; i < fmt->len; ) {
        c = fmt->p[i];

        if (c != '{' && c != '}') {
            i++;
            continue;
        }

        jb_add(x, b, fmt, from, i - from);

        if (i + 1 < fmt->len && fmt->p[i + 1] == c) {
            jb_add(x, b, fmt, i, 1);
            i += 2;
        } else if (c == '}') {
            j_fail(x, "single '}' encountered in format string");
        } else {
            i = format_field(x, b, fmt, i + 1, f);
        }

        from = i;
    }

    jb_add(x, b, fmt, from, i - from);
    f->depth--;

    return jb_done(x, b);
}


jstr_t *
j_format(jx_t *x, jstr_t *fmt, const jcall_t *call)
{
    fields_t  f = { .call = call };

    return format_text(x, fmt, &f);
}


/* --- strftime --------------------------------------------------------- */

jstr_t *
j_strftime(jx_t *x, jstr_t *fmt)
{
    int         trust;
    char        one[8], text[128];
    size_t      i, n, from;
    jbuf_t     *b;
    time_t      now;
    struct tm   tm;

    now = (time_t) x->now;
    if (gmtime_r(&now, &tm) == NULL) {
        j_fail(x, "the time is out of range");
    }

    b = jb_new(x);
    trust = fmt->trust == J_MIXED ? J_REQUEST : fmt->trust;

    for (i = from = 0; i < fmt->len; i++) {
        if (fmt->p[i] != '%' || i + 1 == fmt->len) {
            continue;
        }

        n = 1;
        n += (strchr("-_0^#", fmt->p[i + 1]) != NULL && fmt->p[i + 1] != 0
              && i + 2 < fmt->len);

        jb_add(x, b, fmt, from, i - from);
        memcpy(one, fmt->p + i, n + 1);
        one[n + 1] = '\0';

        if (strcmp(one, "%f") == 0) {
            strcpy(text, "000000");
        } else if (strcmp(one, "%z") == 0 || strcmp(one, "%Z") == 0) {
            text[0] = '\0';         /* Python's time has no zone */
        } else if (strftime(text, sizeof(text), one, &tm) == 0) {
            text[0] = '\0';
        }

        jb_bytes(x, b, text, strlen(text), trust);
        i += n;
        from = i + 1;
    }

    jb_add(x, b, fmt, from, fmt->len - from);
    return jb_done(x, b);
}
