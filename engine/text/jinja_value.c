/*
 * jinja_value: values as Python has them: truth, equality, order, lists,
 * insertion-ordered dicts.  Strings have a room of their own.
 */

#include <string.h>

#include "text/jinja.h"


#define INDEX_FROM  16          /* entries before a dict is indexed */


/* --- making values ---------------------------------------------------- */

jv_t
j_none(void)
{
    return (jv_t) { .type = J_NONE };
}


jv_t
j_undef(jstr_t *name, int flags)
{
    return (jv_t) { .type = J_UNDEF, .flags = (uint8_t) flags, .u.s = name };
}


jv_t
j_bool(bool b)
{
    return (jv_t) { .type = J_BOOL, .u.i = b };
}


jv_t
j_int(int64_t i)
{
    return (jv_t) { .type = J_INT, .u.i = i };
}


jv_t
j_float(double f)
{
    return (jv_t) { .type = J_FLOAT, .u.f = f };
}


jv_t
j_str(jstr_t *s)
{
    return (jv_t) { .type = J_STR, .u.s = s };
}


jv_t
j_list(jlist_t *l)
{
    return (jv_t) { .type = J_LIST, .u.l = l };
}


jv_t
j_tuple(jlist_t *l)
{
    return (jv_t) { .type = J_TUPLE, .u.l = l };
}


jv_t
j_dict(jdict_t *d)
{
    return (jv_t) { .type = J_DICT, .u.d = d };
}


jv_t
j_iter(jx_t *x, jlist_t *l)
{
    jiter_t  *it;

    it = j_alloc(x, sizeof(*it));
    it->list = l;

    return (jv_t) { .type = J_ITER, .u.it = it };
}


/* --- lists and dicts -------------------------------------------------- */

jlist_t *
j_list_new(jx_t *x, size_t cap)
{
    jlist_t  *l;

    l = j_alloc(x, sizeof(*l));
    if (cap > 0) {
        l->v = j_array(x, cap, sizeof(jv_t));
        l->cap = cap;
    }

    return l;
}


void
j_list_add(jx_t *x, jlist_t *l, jv_t v)
{
    j_step(x, 0);
    l->v = j_grow(x, l->v, l->n, &l->cap, sizeof(jv_t));
    l->v[l->n++] = v;
}


jdict_t *
j_dict_new(jx_t *x, size_t cap)
{
    jdict_t  *d;

    d = j_alloc(x, sizeof(*d));
    if (cap > 0) {
        d->e = j_array(x, cap, sizeof(jpair_t));
        d->cap = cap;
    }

    return d;
}


/* Sorts by bytes, so that no set of keys can make look-ups slow. */
static void
dict_index(jx_t *x, jdict_t *d)
{
    jv_t    *num, *key;
    size_t   i;

    num = j_array(x, d->n, sizeof(jv_t));
    key = j_array(x, d->n, sizeof(jv_t));

    for (i = 0; i < d->n; i++) {
        num[i] = j_int((int64_t) i);
        key[i] = d->e[i].key;
    }

    j_sort(x, num, key, d->n, false);

    d->idx = j_array(x, d->n, sizeof(size_t));
    for (i = 0; i < d->n; i++) {
        d->idx[i] = (size_t) num[i].u.i;
    }

    d->nidx = d->n;
}


static jv_t *
dict_search(jdict_t *d, const jstr_t *key)
{
    int      c;
    size_t   lo, hi, mid;

    for (lo = 0, hi = d->nidx; lo < hi; ) {
        mid = (lo + hi) / 2;
        c = js_cmp(key, d->e[d->idx[mid]].key.u.s);
        if (c == 0) {
            return &d->e[d->idx[mid]].val;
        }
        if (c < 0) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }

    return NULL;
}


jv_t *
j_dict_find(jx_t *x, jdict_t *d, jv_t key)
{
    jv_t    *v;
    size_t   i;

    i = 0;

    if (key.type == J_STR && !d->odd) {
        if (d->n - d->nidx > INDEX_FROM + d->nidx / 4) {
            dict_index(x, d);
        }
        v = dict_search(d, key.u.s);
        if (v != NULL) {
            return v;
        }
        i = d->nidx;
    }

    j_step(x, (d->n - i) * 16);

    for ( /* void */ ; i < d->n; i++) {
        if (j_equal(x, d->e[i].key, key)) {
            return &d->e[i].val;
        }
    }

    return NULL;
}


jv_t *
j_dict_get(jx_t *x, jdict_t *d, const char *p, size_t len)
{
    jstr_t  s = { .p = p, .len = len, .chars = J_UNKNOWN };

    return j_dict_find(x, d, j_str(&s));
}


void
j_dict_set(jx_t *x, jdict_t *d, jv_t key, jv_t val)
{
    jv_t  *old;

    if (!j_hashable(key)) {
        j_fail(x, "unhashable type: '%s'", j_type_name(key));
    }

    old = j_dict_find(x, d, key);
    if (old != NULL) {
        *old = val;
        return;
    }

    if (key.type != J_STR) {
        d->odd = true;
    }

    d->e = j_grow(x, d->e, d->n, &d->cap, sizeof(jpair_t));
    d->e[d->n].key = key;
    d->e[d->n].val = val;
    d->n++;
}


/* val: as j_dict_find gave it */
void
j_dict_remove(jdict_t *d, jv_t *val)
{
    size_t  i;

    for (i = 0; i < d->n && &d->e[i].val != val; i++) { /* void */ }

    if (i < d->n) {
        memmove(&d->e[i], &d->e[i + 1], (d->n - i - 1) * sizeof(jpair_t));
        d->n--;
        d->nidx = 0;
    }
}


/* --- properties ------------------------------------------------------- */

const char *
j_type_name(jv_t v)
{
    static const char *const  names[] = {
        "Undefined", "NoneType", "bool", "int", "float", "str", "list",
        "tuple", "dict", "range", "generator", "dict_items", "Namespace",
        "LoopContext", "Macro", "function", "builtin_function_or_method",
        "missing"
    };

    if (v.type == J_VIEW) {
        return v.u.it->kind == 'k' ? "dict_keys"
               : v.u.it->kind == 'v' ? "dict_values" : "dict_items";
    }

    return names[v.type];
}


bool
j_truth(jv_t v)
{
    switch (v.type) {

    case J_UNDEF:
    case J_NONE:
    case J_MISSING:
        return false;

    case J_BOOL:
    case J_INT:
        return v.u.i != 0;

    case J_FLOAT:
        return v.u.f != 0;

    case J_STR:
    case J_LIST:
    case J_TUPLE:
    case J_DICT:
    case J_RANGE:
    case J_VIEW:
        return j_length(v) != 0;

    default:
        return true;
    }
}


/* In code points and items, as len() counts. */
ptrdiff_t
j_length(jv_t v)
{
    switch (v.type) {

    case J_UNDEF:
        return 0;

    case J_STR:
        return (ptrdiff_t) js_chars(v.u.s);

    case J_LIST:
    case J_TUPLE:
        return (ptrdiff_t) v.u.l->n;

    case J_DICT:
        return (ptrdiff_t) v.u.d->n;

    case J_RANGE:
        return (ptrdiff_t) v.u.r->n;

    case J_VIEW:
        return (ptrdiff_t) v.u.it->list->n;

    case J_LOOP:
        return (ptrdiff_t) v.u.loop->items->n;

    default:
        return -1;
    }
}


bool
j_is_num(jv_t v)
{
    return v.type == J_BOOL || v.type == J_INT || v.type == J_FLOAT;
}


bool
j_is_int(jv_t v)
{
    return v.type == J_INT || v.type == J_BOOL;
}


double
j_num(jv_t v)
{
    return v.type == J_FLOAT ? v.u.f : (double) v.u.i;
}


bool
j_given(jv_t v)
{
    return v.type != J_MISSING;
}


bool
j_hashable(jv_t v)
{
    size_t  i;

    if (v.type == J_LIST || v.type == J_DICT || v.type == J_VIEW) {
        return false;
    }

    if (v.type == J_TUPLE) {
        for (i = 0; i < v.u.l->n; i++) {
            if (!j_hashable(v.u.l->v[i])) {
                return false;
            }
        }
    }

    return true;
}


void
j_undefined(jx_t *x, jv_t v)
{
    int  n;

    if (v.type != J_UNDEF) {
        return;
    }

    if (v.u.s == NULL) {
        j_fail(x, "value is undefined");
    }

    n = v.u.s->len > 100 ? 100 : (int) v.u.s->len;

    if (v.flags & J_ATTR) {
        j_fail(x, "object has no attribute '%.*s'", n, v.u.s->p);
    }

    j_fail(x, "'%.*s' is undefined", n, v.u.s->p);
}


/* --- comparison ------------------------------------------------------- */

static bool
equal_dicts(jx_t *x, jdict_t *a, jdict_t *b)
{
    jv_t    *v;
    size_t   i;

    if (a->n != b->n) {
        return false;
    }

    for (i = 0; i < a->n; i++) {
        v = j_dict_find(x, b, a->e[i].key);
        if (v == NULL || !j_equal(x, a->e[i].val, *v)) {
            return false;
        }
    }

    return true;
}


static bool
equal_lists(jx_t *x, jlist_t *a, jlist_t *b)
{
    size_t  i;

    if (a->n != b->n) {
        return false;
    }

    for (i = 0; i < a->n && i < b->n; i++) {
        if (!j_equal(x, a->v[i], b->v[i])) {
            return false;
        }
    }

    return true;
}


bool
j_equal(jx_t *x, jv_t a, jv_t b)
{
    bool  eq;

    if (j_is_num(a) && j_is_num(b)) {
        if (a.type == J_FLOAT || b.type == J_FLOAT) {
            return j_num(a) == j_num(b);
        }
        return a.u.i == b.u.i;
    }

    if (a.type != b.type) {
        return false;
    }

    switch (a.type) {

    case J_UNDEF:
    case J_NONE:
        return true;

    case J_STR:
        if (a.u.s->len != b.u.s->len) {
            return false;
        }
        j_step(x, a.u.s->len);
        return js_cmp(a.u.s, b.u.s) == 0;

    case J_LIST:
    case J_TUPLE:
    case J_DICT:
        if (a.u.l == b.u.l) {
            return true;
        }
        j_step(x, 0);
        j_enter(x);
        eq = a.type == J_DICT ? equal_dicts(x, a.u.d, b.u.d)
                              : equal_lists(x, a.u.l, b.u.l);
        j_leave(x);
        return eq;

    case J_RANGE:
        return a.u.r->n == b.u.r->n
               && (a.u.r->n == 0 || a.u.r->start == b.u.r->start)
               && (a.u.r->n <= 1 || a.u.r->step == b.u.r->step);

    case J_FUNC:
        return a.u.i == b.u.i;

    default:
        return a.u.l == b.u.l;
    }
}


static bool
holds(j_op_e op, int c)
{
    switch (op) {
    case JO_LT:
        return c < 0;
    case JO_LE:
        return c <= 0;
    case JO_GT:
        return c > 0;
    default:
        return c >= 0;
    }
}


static bool
compare_floats(j_op_e op, double a, double b)
{
    switch (op) {
    case JO_LT:
        return a < b;
    case JO_LE:
        return a <= b;
    case JO_GT:
        return a > b;
    default:
        return a >= b;
    }
}


bool
j_compare(jx_t *x, j_op_e op, jv_t a, jv_t b)
{
    bool      r;
    size_t    i;
    jlist_t  *la, *lb;

    j_undefined(x, a);
    j_undefined(x, b);

    if (j_is_num(a) && j_is_num(b)) {
        if (a.type == J_FLOAT || b.type == J_FLOAT) {
            return compare_floats(op, j_num(a), j_num(b));
        }
        return holds(op, (a.u.i > b.u.i) - (a.u.i < b.u.i));
    }

    if (a.type == J_STR && b.type == J_STR) {
        j_step(x, a.u.s->len < b.u.s->len ? a.u.s->len : b.u.s->len);
        return holds(op, js_cmp(a.u.s, b.u.s));
    }

    if (a.type != b.type || (a.type != J_LIST && a.type != J_TUPLE)) {
        j_fail(x, "'%s' and '%s' cannot be compared", j_type_name(a),
               j_type_name(b));
    }

    la = a.u.l;
    lb = b.u.l;

    for (i = 0; i < la->n && i < lb->n; i++) {
        if (!j_equal(x, la->v[i], lb->v[i])) {
            j_enter(x);
            r = j_compare(x, op, la->v[i], lb->v[i]);
            j_leave(x);
            return r;
        }
    }

    return holds(op, (la->n > lb->n) - (la->n < lb->n));
}


bool
j_contains(jx_t *x, jv_t item, jv_t in)
{
    size_t    i;
    jlist_t  *l;

    if (in.type == J_STR) {
        if (item.type != J_STR) {
            j_undefined(x, item);
            j_fail(x, "'in <string>' requires string as left operand, not %s",
                   j_type_name(item));
        }
        j_step(x, in.u.s->len);
        return js_find(in.u.s, item.u.s, 0) >= 0;
    }

    if (in.type == J_DICT || (in.type == J_VIEW && in.u.it->kind == 'k')) {
        if (!j_hashable(item)) {
            j_fail(x, "unhashable type: '%s'", j_type_name(item));
        }
    }

    if (in.type == J_DICT) {
        return j_dict_find(x, in.u.d, item) != NULL;
    }

    l = j_items(x, in);

    for (i = 0; i < l->n; i++) {
        j_step(x, 0);
        if (j_equal(x, l->v[i], item)) {
            return true;
        }
    }

    return false;
}


/* --- iteration -------------------------------------------------------- */

static jlist_t *
items_of_str(jx_t *x, jstr_t *s)
{
    size_t    i, n;
    jlist_t  *l;

    l = j_list_new(x, js_chars(s));

    for (i = 0; i < s->len; i += n) {
        js_decode(s->p + i, s->len - i, &n);
        j_list_add(x, l, j_str(js_sub(x, s, i, n)));
    }

    return l;
}


bool
j_iterable(jv_t v)
{
    return v.type == J_ITER || v.type == J_LOOP || j_length(v) >= 0;
}


/* A list or tuple is given itself, so that a loop sees what is appended. */
jlist_t *
j_items(jx_t *x, jv_t v)
{
    size_t    i;
    jlist_t  *l;

    switch (v.type) {

    case J_UNDEF:
        return j_list_new(x, 0);

    case J_LIST:
    case J_TUPLE:
        return v.u.l;

    case J_STR:
        return items_of_str(x, v.u.s);

    case J_VIEW:
        return v.u.it->list;

    case J_DICT:
        l = j_list_new(x, v.u.d->n);
        for (i = 0; i < v.u.d->n; i++) {
            j_list_add(x, l, v.u.d->e[i].key);
        }
        return l;

    case J_RANGE:
        l = j_list_new(x, v.u.r->n);
        for (i = 0; i < v.u.r->n; i++) {
            j_list_add(x, l, j_int((int64_t) ((uint64_t) v.u.r->start
                                   + i * (uint64_t) v.u.r->step)));
        }
        return l;

    case J_ITER:
        l = j_list_new(x, v.u.it->list->n - v.u.it->pos);
        while (v.u.it->pos < v.u.it->list->n) {
            j_list_add(x, l, v.u.it->list->v[v.u.it->pos++]);
        }
        return l;

    default:
        j_fail(x, "'%s' object is not iterable", j_type_name(v));
    }
}


/* Stable, as sorted(); sorts v by key, both of n. */
void
j_sort(jx_t *x, jv_t *v, jv_t *key, size_t n, bool reverse)
{
    bool     right;
    jv_t    *tv, *tk;
    size_t   i, j, k, w, mid, end, lo;

    tv = j_array(x, n, sizeof(jv_t));
    tk = j_array(x, n, sizeof(jv_t));

    for (w = 1; w < n; w *= 2) {
        for (lo = 0; lo < n; lo += 2 * w) {
            mid = lo + w < n ? lo + w : n;
            end = lo + 2 * w < n ? lo + 2 * w : n;

            for (i = lo, j = mid, k = lo; k < end; k++) {
                j_step(x, 0);
                if (i == mid || j == end) {
                    right = (i == mid);
                } else if (reverse) {
                    right = j_compare(x, JO_LT, key[i], key[j]);
                } else {
                    right = j_compare(x, JO_LT, key[j], key[i]);
                }
                tv[k] = right ? v[j] : v[i];
                tk[k] = right ? key[j++] : key[i++];
            }
        }
        memcpy(v, tv, n * sizeof(jv_t));
        memcpy(key, tk, n * sizeof(jv_t));
    }
}
