/*
 * jinja_seq: filters of sequences.
 */

#include "text/jinja.h"


static bool
flag(jv_t v)
{
    return j_given(v) && j_truth(v);
}


static bool
wanted(jv_t v)
{
    return j_given(v) && v.type != J_NONE;
}




/* --- attributes ------------------------------------------------------- */

/* "a.b.0", or a number, looked up in v; other: instead of undefined, unless
 * it is not given. */
static jv_t
get_path(jx_t *x, jv_t v, jv_t path, jv_t other)
{
    jv_t      key;
    size_t    i, k;
    jstr_t   *s;
    jlist_t  *parts;
    int64_t   n;

    if (!wanted(path)) {
        return v;
    }

    if (path.type != J_STR) {
        v = j_subscript(x, v, path);
        return v.type == J_UNDEF && wanted(other) ? other : v;
    }

    parts = js_split(x, path.u.s, js_cstr(x, "."), -1, false);

    for (i = 0; i < parts->n; i++) {
        key = parts->v[i];
        s = key.u.s;

        for (k = 0, n = 0; k < s->len && s->p[k] >= '0' && s->p[k] <= '9'
             && n < 1000000; k++)
        {
            n = n * 10 + (s->p[k] - '0');
        }
        if (k > 0 && k == s->len) {
            key = j_int(n);
        }

        v = j_subscript(x, v, key);
        if (v.type == J_UNDEF && wanted(other)) {
            v = other;
        }
    }

    return v;
}


static jv_t
missing(void)
{
    return (jv_t) { .type = J_MISSING };
}


static jv_t
ignore_case(jx_t *x, jv_t v, jv_t case_sensitive)
{
    if (v.type == J_STR && !flag(case_sensitive)) {
        return j_str(js_case(x, v.u.s, 'l'));
    }

    return v;
}


/* --- sorting ---------------------------------------------------------- */

/* A list of the values at the paths of "a,b". */
static jv_t
sort_key(jx_t *x, jv_t v, jv_t attribute, jv_t case_sensitive)
{
    size_t    i;
    jlist_t  *l, *paths;

    l = j_list_new(x, 1);

    if (attribute.type != J_STR) {
        v = get_path(x, v, attribute, missing());
        j_list_add(x, l, ignore_case(x, v, case_sensitive));
        return j_list(l);
    }

    paths = js_split(x, attribute.u.s, js_cstr(x, ","), -1, false);
    for (i = 0; i < paths->n; i++) {
        j_list_add(x, l, ignore_case(x, get_path(x, v, paths->v[i],
                                                 missing()),
                                     case_sensitive));
    }

    return j_list(l);
}


static jlist_t *
copy_list(jx_t *x, jlist_t *from)
{
    size_t    i;
    jlist_t  *l;

    l = j_list_new(x, from->n);
    for (i = 0; i < from->n; i++) {
        j_list_add(x, l, from->v[i]);
    }

    return l;
}


static jv_t
f_sort(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t     *key;
    size_t    i;
    jlist_t  *l;

    l = copy_list(x, j_items(x, self));
    key = j_array(x, l->n, sizeof(jv_t));

    for (i = 0; i < l->n; i++) {
        key[i] = sort_key(x, l->v[i], arg[2], arg[1]);
    }

    j_sort(x, l->v, key, l->n, flag(arg[0]));
    return j_list(l);
}


static jv_t
f_dictsort(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t     *key, v;
    size_t    i;
    bool      by_value;
    jlist_t  *l, *pair;

    j_undefined(x, self);
    if (self.type != J_DICT) {
        j_fail(x, "'%s' object has no attribute 'items'", j_type_name(self));
    }

    by_value = false;
    if (j_given(arg[1])) {
        by_value = js_eq(j_arg_str(x, arg[1]), "value");
        if (!by_value && !js_eq(arg[1].u.s, "key")) {
            j_fail(x, "you can only sort by either \"key\" or \"value\"");
        }
    }

    l = j_list_new(x, self.u.d->n);
    key = j_array(x, self.u.d->n, sizeof(jv_t));

    for (i = 0; i < self.u.d->n; i++) {
        pair = j_list_new(x, 2);
        j_list_add(x, pair, self.u.d->e[i].key);
        j_list_add(x, pair, self.u.d->e[i].val);
        key[i] = ignore_case(x, pair->v[by_value], arg[0]);
        v = j_tuple(pair);
        v.flags = self.flags & J_TAINT;
        j_list_add(x, l, v);
    }

    j_sort(x, l->v, key, l->n, flag(arg[2]));
    return j_list(l);
}


/* The first that no other comes before, or (max) after. */
static jv_t
extreme(jx_t *x, jv_t self, jv_t *arg, j_op_e op)
{
    jv_t      best, v;
    size_t    i, k;
    jlist_t  *l;

    l = j_items(x, self);
    if (l->n == 0) {
        return j_undef(NULL, 0);
    }

    best = missing();

    for (i = 0, k = 0; i < l->n; i++) {
        v = ignore_case(x, get_path(x, l->v[i], arg[1], missing()), arg[0]);
        if (i == 0 || j_compare(x, op, v, best)) {
            best = v;
            k = i;
        }
    }

    return l->v[k];
}


static jv_t
f_min(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return extreme(x, self, arg, JO_LT);
}


static jv_t
f_max(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return extreme(x, self, arg, JO_GT);
}


static jv_t
f_unique(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      key;
    size_t    i;
    jdict_t  *seen;
    jlist_t  *from, *l;

    from = j_items(x, self);
    l = j_list_new(x, 0);
    seen = j_dict_new(x, 0);

    for (i = 0; i < from->n; i++) {
        key = ignore_case(x, get_path(x, from->v[i], arg[1], missing()),
                          arg[0]);
        if (!j_hashable(key)) {
            j_fail(x, "unhashable type: '%s'", j_type_name(key));
        }
        if (j_dict_find(x, seen, key) == NULL) {
            j_dict_set(x, seen, key, j_none());
            j_list_add(x, l, from->v[i]);
        }
    }

    return j_iter(x, l);
}


static jv_t
f_groupby(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t     *key, v;
    size_t    i;
    jlist_t  *l, *out, *group, *pair;

    l = copy_list(x, j_items(x, self));
    key = j_array(x, l->n, sizeof(jv_t));

    for (i = 0; i < l->n; i++) {
        key[i] = ignore_case(x, get_path(x, l->v[i], arg[0], arg[1]),
                             arg[2]);
    }

    j_sort(x, l->v, key, l->n, false);
    out = j_list_new(x, 0);
    group = NULL;

    for (i = 0; i < l->n; i++) {
        if (i == 0 || !j_equal(x, key[i], key[i - 1])) {
            group = j_list_new(x, 0);
            pair = j_list_new(x, 2);
            j_list_add(x, pair, get_path(x, l->v[i], arg[0], arg[1]));
            j_list_add(x, pair, j_list(group));
            v = j_tuple(pair);
            v.flags = J_GROUP;
            j_list_add(x, out, v);
        }
        j_list_add(x, group, l->v[i]);
    }

    return j_list(out);
}


/* --- choosing --------------------------------------------------------- */

/* The call with its first n arguments taken off. */
static jcall_t
rest(const jcall_t *call, size_t n)
{
    jcall_t  c;

    c = *call;
    n = n < c.npos ? n : c.npos;
    c.pos = n == c.npos ? NULL : c.pos + n;
    c.npos -= n;

    return c;
}


/* keep: what a test must say; attr: it is asked of an attribute */
static jv_t
choose(jx_t *x, jv_t self, const jcall_t *call, bool attr, bool keep)
{
    jv_t           v;
    bool           is;
    size_t         i;
    jlist_t       *from, *l;
    jcall_t        more;
    const jdef_t  *def;

    l = j_list_new(x, 0);

    if (!j_truth(self)) {
        return j_iter(x, l);
    }

    def = NULL;
    if (call->npos > attr) {
        def = j_find_test(j_arg_str(x, call->pos[attr]));
        if (def == NULL) {
            j_fail(x, "no test of that name");
        }
    }

    more = rest(call, 1 + (size_t) attr);
    from = j_items(x, self);

    for (i = 0; i < from->n; i++) {
        v = from->v[i];
        if (attr) {
            v = get_path(x, v, call->pos[0], missing());
        }
        is = def != NULL ? j_test(x, def, v, &more) : j_truth(v);
        if (is == keep) {
            j_list_add(x, l, from->v[i]);
        }
    }

    return j_iter(x, l);
}


static jv_t
f_select(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return choose(x, self, call, false, true);
}


static jv_t
f_reject(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return choose(x, self, call, false, false);
}


static jv_t
f_selectattr(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return choose(x, self, call, true, true);
}


static jv_t
f_rejectattr(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return choose(x, self, call, true, false);
}


/* --- mapping ---------------------------------------------------------- */

static jv_t
map_attribute(jx_t *x, jlist_t *from, const jcall_t *call)
{
    jv_t      attribute, other;
    size_t    i;
    jlist_t  *l;

    attribute = other = missing();

    for (i = 0; i < call->nkw; i++) {
        if (js_eq(call->kw[i].name, "attribute")) {
            attribute = call->kw[i].val;
        } else if (js_eq(call->kw[i].name, "default")) {
            other = call->kw[i].val;
        } else {
            j_fail(x, "map: unexpected keyword argument");
        }
    }

    if (!j_given(attribute)) {
        j_fail(x, "map requires a filter argument");
    }

    l = j_list_new(x, from->n);
    for (i = 0; i < from->n; i++) {
        j_list_add(x, l, get_path(x, from->v[i], attribute, other));
    }

    return j_iter(x, l);
}


static jv_t
f_map(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t         i;
    jlist_t       *from, *l;
    jcall_t        more;
    const jdef_t  *def;

    if (!j_truth(self)) {
        return j_iter(x, j_list_new(x, 0));
    }

    from = j_items(x, self);
    if (call->npos == 0) {
        return map_attribute(x, from, call);
    }

    def = j_find_filter(j_arg_str(x, call->pos[0]));
    if (def == NULL) {
        j_fail(x, "no filter of that name");
    }

    more = rest(call, 1);
    l = j_list_new(x, from->n);

    j_enter(x);
    for (i = 0; i < from->n; i++) {
        j_list_add(x, l, j_call_def(x, def, from->v[i], &more));
    }
    j_leave(x);

    return j_iter(x, l);
}


static jv_t
f_join(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    jstr_t   *sep;
    jbuf_t   *b;
    jlist_t  *l;

    l = j_items(x, self);
    sep = j_given(arg[0]) ? j_to_str(x, arg[0]) : js_cstr(x, "");
    b = jb_new(x);

    for (i = 0; i < l->n; i++) {
        if (i > 0) {
            jb_str(x, b, sep);
        }
        jb_str(x, b, j_to_str(x, get_path(x, l->v[i], arg[1], missing())));
    }

    return j_str(jb_done(x, b));
}


static jv_t
f_sum(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    size_t    i;
    jlist_t  *l;

    l = j_items(x, self);
    v = j_given(arg[1]) ? arg[1] : j_int(0);

    if (v.type == J_STR) {
        j_fail(x, "sum() can't sum strings");
    }

    for (i = 0; i < l->n; i++) {
        v = j_binop(x, JO_ADD, v, get_path(x, l->v[i], arg[0], missing()));
    }

    return v;
}


/* --- taking apart ----------------------------------------------------- */

static jv_t
f_list(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = j_list(copy_list(x, j_items(x, self)));
    v.flags = self.type == J_STR ? 0 : self.flags & J_TAINT;

    return v;
}


static jv_t
f_items(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      t;
    size_t    i;
    jlist_t  *l, *pair;

    l = j_list_new(x, 0);

    if (self.type == J_UNDEF) {
        return j_iter(x, l);
    }

    if (self.type != J_DICT) {
        j_fail(x, "can only get item pairs from a mapping");
    }

    for (i = 0; i < self.u.d->n; i++) {
        pair = j_list_new(x, 2);
        j_list_add(x, pair, self.u.d->e[i].key);
        j_list_add(x, pair, self.u.d->e[i].val);
        t = j_tuple(pair);
        t.flags = self.flags & J_TAINT;
        j_list_add(x, l, t);
    }

    return j_iter(x, l);
}


static jv_t
f_first(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jlist_t  *l;

    /* a generator loses only its first item */
    if (self.type == J_ITER) {
        l = self.u.it->list;
        return self.u.it->pos < l->n ? l->v[self.u.it->pos++]
                                     : j_undef(NULL, 0);
    }

    l = j_items(x, self);
    return l->n > 0 ? l->v[0] : j_undef(NULL, 0);
}


static jv_t
f_last(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jlist_t  *l;

    if (self.type == J_ITER) {
        j_fail(x, "'generator' object is not reversible");
    }

    l = j_items(x, self);
    return l->n > 0 ? l->v[l->n - 1] : j_undef(NULL, 0);
}


static jv_t
f_reverse(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    size_t    i;
    jlist_t  *from, *l;

    if (self.type == J_STR) {
        v = j_str(js_slice(x, self.u.s, j_length(self) - 1, -1,
                           (size_t) j_length(self)));
        v.flags = self.flags & J_SAFE;
        return v;
    }

    from = j_items(x, self);
    l = j_list_new(x, from->n);
    for (i = from->n; i-- > 0; ) {
        j_list_add(x, l, from->v[i]);
    }

    return self.type == J_ITER ? j_list(l) : j_iter(x, l);
}


static jv_t
f_batch(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    int64_t   n;
    jlist_t  *from, *out, *row;

    n = j_arg_int(x, arg[0]);
    from = j_items(x, self);
    out = j_list_new(x, 0);
    row = NULL;

    for (i = 0; i < from->n; i++) {
        if (row == NULL || (int64_t) row->n == n) {
            row = j_list_new(x, 0);
            j_list_add(x, out, j_list(row));
        }
        j_list_add(x, row, from->v[i]);
    }

    while (row != NULL && wanted(arg[1]) && (int64_t) row->n < n) {
        j_list_add(x, row, arg[1]);
    }

    return j_iter(x, out);
}


static jv_t
f_slice(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i, k, size, extra, at, end;
    int64_t   n;
    jlist_t  *from, *out, *part;

    n = j_arg_int(x, arg[0]);
    from = j_items(x, self);
    out = j_list_new(x, 0);

    if (n == 0) {
        j_fail(x, "integer division or modulo by zero");
    }
    if (n < 0) {
        return j_iter(x, out);
    }

    size = from->n / (size_t) n;
    extra = from->n % (size_t) n;

    for (i = 0, at = 0; i < (size_t) n; i++) {
        part = j_list_new(x, 0);
        end = at + size + (i < extra);
        for (k = at; k < end; k++) {
            j_list_add(x, part, from->v[k]);
        }
        if (wanted(arg[1]) && i >= extra) {
            j_list_add(x, part, arg[1]);
        }
        j_list_add(x, out, j_list(part));
        at = end;
    }

    return j_iter(x, out);
}


const jdef_t  j_seq_filters[] = {
    { "batch", f_batch, "linecount fill_with", 1 },
    { "dictsort", f_dictsort, "case_sensitive by reverse", 0 },
    { "first", f_first, "", 0 },
    { "groupby", f_groupby, "attribute default case_sensitive", 1 },
    { "items", f_items, "", 0 },
    { "join", f_join, "d attribute", 0 },
    { "last", f_last, "", 0 },
    { "list", f_list, "", 0 },
    { "map", f_map, NULL, 0 },
    { "max", f_max, "case_sensitive attribute", 0 },
    { "min", f_min, "case_sensitive attribute", 0 },
    { "reject", f_reject, NULL, 0 },
    { "rejectattr", f_rejectattr, NULL, 1 },
    { "reverse", f_reverse, "", 0 },
    { "select", f_select, NULL, 0 },
    { "selectattr", f_selectattr, NULL, 1 },
    { "slice", f_slice, "slices fill_with", 1 },
    { "sort", f_sort, "reverse case_sensitive attribute", 0 },
    { "sum", f_sum, "attribute start", 0 },
    { "unique", f_unique, "case_sensitive attribute", 0 },
    { NULL, NULL, NULL, 0 }
};
