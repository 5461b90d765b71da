/*
 * jinja_func: global functions, and the methods of lists, dicts and loops.
 *
 * Lists and dicts can be changed, as in Jinja2's plain sandbox: Kimi-K2's
 * template appends.  All are the render's own copies.
 */

#include <string.h>

#include "text/jinja.h"


#define MAX_RANGE  100000


/* --- arguments -------------------------------------------------------- */

int64_t
j_arg_int(jx_t *x, jv_t v)
{
    if (v.type != J_INT && v.type != J_BOOL) {
        j_undefined(x, v);
        j_fail(x, "'%s' object cannot be interpreted as an integer",
               j_type_name(v));
    }

    return v.u.i;
}


jstr_t *
j_arg_str(jx_t *x, jv_t v)
{
    if (v.type != J_STR) {
        j_undefined(x, v);
        j_fail(x, "a string is expected, not '%s'", j_type_name(v));
    }

    return v.u.s;
}


/* --- globals ---------------------------------------------------------- */

static jv_t
fn_range(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t       v;
    int64_t    start, stop, step;
    uint64_t   span, n;

    start = j_given(arg[1]) ? j_arg_int(x, arg[0]) : 0;
    stop = j_arg_int(x, j_given(arg[1]) ? arg[1] : arg[0]);
    step = j_given(arg[2]) ? j_arg_int(x, arg[2]) : 1;

    if (step == 0) {
        j_fail(x, "range() arg 3 must not be zero");
    }

    if (step > 0) {
        span = start < stop ? (uint64_t) stop - (uint64_t) start : 0;
        n = span == 0 ? 0 : (span - 1) / (uint64_t) step + 1;
    } else {
        span = start > stop ? (uint64_t) start - (uint64_t) stop : 0;
        n = span == 0 ? 0 : (span - 1) / (0 - (uint64_t) step) + 1;
    }

    if (n > MAX_RANGE) {
        j_fail(x, "range of more than %d items", MAX_RANGE);
    }

    v.type = J_RANGE;
    v.flags = 0;
    v.u.r = j_alloc(x, sizeof(jrange_t));
    v.u.r->start = start;
    v.u.r->step = step;
    v.u.r->n = (size_t) n;

    return v;
}


/* Adds the entries of a mapping, or of a list of pairs. */
static void
dict_merge(jx_t *x, jdict_t *d, jv_t from)
{
    size_t    i;
    jlist_t  *l, *pair;

    j_undefined(x, from);

    if (from.type == J_DICT || from.type == J_SPACE) {
        for (i = 0; i < from.u.d->n; i++) {
            j_dict_set(x, d, from.u.d->e[i].key, from.u.d->e[i].val);
        }
        return;
    }

    l = j_items(x, from);
    for (i = 0; i < l->n; i++) {
        pair = j_items(x, l->v[i]);
        if (pair->n != 2) {
            j_fail(x, "a pair is expected, not %zu items", pair->n);
        }
        j_dict_set(x, d, pair->v[0], pair->v[1]);
    }
}


static jdict_t *
dict_of(jx_t *x, const jcall_t *call)
{
    size_t    i;
    jdict_t  *d;

    d = j_dict_new(x, 0);

    if (call->npos > 1) {
        j_fail(x, "dict() takes fewer arguments");
    }
    if (call->npos == 1) {
        dict_merge(x, d, call->pos[0]);
    }

    for (i = 0; i < call->nkw; i++) {
        j_dict_set(x, d, j_str(call->kw[i].name), call->kw[i].val);
    }

    return d;
}


static jv_t
fn_dict(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_dict(dict_of(x, call));
}


static jv_t
fn_namespace(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t    v;
    size_t  i;

    v = j_dict(dict_of(x, call));
    v.type = J_SPACE;

    for (i = 0; i < v.u.d->n; i++) {
        if (v.u.d->e[i].key.type == J_STR
            && v.u.d->e[i].key.u.s->len > 0
            && v.u.d->e[i].key.u.s->p[0] == '_')
        {
            j_fail(x, "a namespace has no names that begin with '_'");
        }
    }

    return v;
}


static jv_t
fn_raise(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    j_raise(x, j_to_str(x, arg[0]));
}


static jv_t
fn_strftime(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_str(j_strftime(x, j_arg_str(x, arg[0])));
}


static const jdef_t  globals[] = {
    { "range", fn_range, "start stop step", 1 },
    { "dict", fn_dict, NULL, 0 },
    { "namespace", fn_namespace, NULL, 0 },
    { "raise_exception", fn_raise, "message", 1 },
    { "strftime_now", fn_strftime, "format", 1 },
    { NULL, NULL, NULL, 0 }
};


/* --- methods of lists ------------------------------------------------- */

static jv_t
list_append(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    j_list_add(x, self.u.l, arg[0]);
    return j_none();
}


static jv_t
list_extend(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i, n;
    jlist_t  *l;

    j_undefined(x, arg[0]);
    l = j_items(x, arg[0]);

    for (i = 0, n = l->n; i < n; i++) {
        j_list_add(x, self.u.l, l->v[i]);
    }

    return j_none();
}


static jv_t
list_insert(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    int64_t   i, n;
    jlist_t  *l;

    l = self.u.l;
    n = (int64_t) l->n;
    i = j_arg_int(x, arg[0]);
    i = i < 0 ? (i + n < 0 ? 0 : i + n) : i > n ? n : i;

    j_list_add(x, l, arg[1]);
    j_step(x, (size_t) (n - i) * sizeof(jv_t));
    memmove(&l->v[i + 1], &l->v[i], (size_t) (n - i) * sizeof(jv_t));
    l->v[i] = arg[1];

    return j_none();
}


static void
list_drop(jx_t *x, jlist_t *l, size_t i)
{
    j_step(x, (l->n - i) * sizeof(jv_t));
    memmove(&l->v[i], &l->v[i + 1], (l->n - i - 1) * sizeof(jv_t));
    l->n--;
}


static jv_t
list_pop(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    int64_t   i, n;
    jlist_t  *l;

    l = self.u.l;
    n = (int64_t) l->n;
    i = j_given(arg[0]) ? j_arg_int(x, arg[0]) : -1;
    i += i < 0 ? n : 0;

    if (i < 0 || i >= n) {
        j_fail(x, "pop index out of range");
    }

    v = l->v[i];
    list_drop(x, l, (size_t) i);

    return v;
}


static jv_t
list_clear(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    self.u.l->n = 0;
    return j_none();
}


static jv_t
list_reverse(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    size_t    i;
    jlist_t  *l;

    l = self.u.l;
    j_step(x, l->n * sizeof(jv_t));

    for (i = 0; i < l->n / 2; i++) {
        v = l->v[i];
        l->v[i] = l->v[l->n - 1 - i];
        l->v[l->n - 1 - i] = v;
    }

    return j_none();
}


static jv_t
list_copy(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      v;
    size_t    i;
    jlist_t  *l;

    l = j_list_new(x, self.u.l->n);
    for (i = 0; i < self.u.l->n; i++) {
        j_list_add(x, l, self.u.l->v[i]);
    }

    v = j_list(l);
    v.flags = self.flags;

    return v;
}


static int64_t
list_place(jx_t *x, jlist_t *l, jv_t item)
{
    size_t  i;

    for (i = 0; i < l->n; i++) {
        j_step(x, 0);
        if (j_equal(x, l->v[i], item)) {
            return (int64_t) i;
        }
    }

    j_fail(x, "the value is not in the list");
}


static jv_t
list_index(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return j_int(list_place(x, self.u.l, arg[0]));
}


static jv_t
list_remove(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    list_drop(x, self.u.l, (size_t) list_place(x, self.u.l, arg[0]));
    return j_none();
}


static jv_t
list_count(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    int64_t   n;
    jlist_t  *l;

    for (i = 0, n = 0, l = self.u.l; i < l->n; i++) {
        j_step(x, 0);
        n += j_equal(x, l->v[i], arg[0]);
    }

    return j_int(n);
}


static const jdef_t  list_methods[] = {
    { "append", list_append, "object", 1 },
    { "clear", list_clear, "", 0 },
    { "copy", list_copy, "", 0 },
    { "count", list_count, "value", 1 },
    { "extend", list_extend, "iterable", 1 },
    { "index", list_index, "value", 1 },
    { "insert", list_insert, "index object", 2 },
    { "pop", list_pop, "index", 0 },
    { "remove", list_remove, "value", 1 },
    { "reverse", list_reverse, "", 0 },
    { NULL, NULL, NULL, 0 }
};


static const jdef_t  tuple_methods[] = {
    { "count", list_count, "value", 1 },
    { "index", list_index, "value", 1 },
    { NULL, NULL, NULL, 0 }
};


/* --- methods of dicts ------------------------------------------------- */

static jv_t
view(jx_t *x, jv_t self, uint8_t kind)
{
    jv_t       v, t;
    size_t     i;
    jlist_t   *l, *pair;
    jpair_t   *e;

    l = j_list_new(x, self.u.d->n);

    for (i = 0; i < self.u.d->n; i++) {
        e = &self.u.d->e[i];
        if (kind != 'i') {
            j_list_add(x, l, kind == 'k' ? e->key : e->val);
            continue;
        }
        pair = j_list_new(x, 2);
        j_list_add(x, pair, e->key);
        j_list_add(x, pair, e->val);
        t = j_tuple(pair);
        t.flags = self.flags & J_TAINT;
        j_list_add(x, l, t);
    }

    v = j_iter(x, l);
    v.type = J_VIEW;
    v.flags = self.flags & J_TAINT;
    v.u.it->kind = kind;

    return v;
}


static jv_t
dict_items(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return view(x, self, 'i');
}


static jv_t
dict_keys(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return view(x, self, 'k');
}


static jv_t
dict_values(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return view(x, self, 'v');
}


static jv_t *
lookup(jx_t *x, jv_t self, jv_t key)
{
    if (!j_hashable(key)) {
        j_fail(x, "unhashable type: '%s'", j_type_name(key));
    }

    return j_dict_find(x, self.u.d, key);
}


static jv_t
dict_get(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  *v;

    v = lookup(x, self, arg[0]);
    return v != NULL ? *v : j_given(arg[1]) ? arg[1] : j_none();
}


static jv_t
dict_copy(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = j_dict(j_dict_new(x, self.u.d->n));
    dict_merge(x, v.u.d, self);
    v.flags = self.flags;

    return v;
}


static jv_t
dict_update(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  v;

    v = j_dict(dict_of(x, call));
    dict_merge(x, self.u.d, v);

    return j_none();
}


static jv_t
dict_pop(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  *v, r;

    v = lookup(x, self, arg[0]);

    if (v != NULL) {
        r = *v;
        j_step(x, self.u.d->n * sizeof(jpair_t));
        j_dict_remove(self.u.d, v);
        return r;
    }

    if (!j_given(arg[1])) {
        j_fail(x, "the key to pop is not in the dict");
    }

    return arg[1];
}


static jv_t
dict_popitem(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jpair_t  *e;
    jlist_t  *l;

    if (self.u.d->n == 0) {
        j_fail(x, "popitem(): dictionary is empty");
    }

    l = j_list_new(x, 2);
    e = &self.u.d->e[self.u.d->n - 1];
    j_list_add(x, l, e->key);
    j_list_add(x, l, e->val);
    j_dict_remove(self.u.d, &e->val);

    return j_tuple(l);
}


static jv_t
dict_setdefault(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t  *v, r;

    v = lookup(x, self, arg[0]);
    if (v != NULL) {
        return *v;
    }

    r = j_given(arg[1]) ? arg[1] : j_none();
    j_dict_set(x, self.u.d, arg[0], r);

    return r;
}


static jv_t
dict_clear(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    self.u.d->n = 0;
    self.u.d->nidx = 0;
    self.u.d->odd = false;

    return j_none();
}


static jv_t
dict_fromkeys(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    size_t    i;
    jdict_t  *d;
    jlist_t  *l;

    d = j_dict_new(x, 0);
    l = j_items(x, arg[0]);

    for (i = 0; i < l->n; i++) {
        j_dict_set(x, d, l->v[i], j_given(arg[1]) ? arg[1] : j_none());
    }

    return j_dict(d);
}


static const jdef_t  dict_methods[] = {
    { "clear", dict_clear, "", 0 },
    { "copy", dict_copy, "", 0 },
    { "fromkeys", dict_fromkeys, "iterable value", 1 },
    { "get", dict_get, "key default", 1 },
    { "items", dict_items, "", 0 },
    { "keys", dict_keys, "", 0 },
    { "pop", dict_pop, "key default", 1 },
    { "popitem", dict_popitem, "", 0 },
    { "setdefault", dict_setdefault, "key default", 1 },
    { "update", dict_update, NULL, 0 },
    { "values", dict_values, "", 0 },
    { NULL, NULL, NULL, 0 }
};


/* --- methods of loops ------------------------------------------------- */

static jv_t
loop_cycle(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    return call->pos[self.u.loop->index0 % call->npos];
}


static jv_t
loop_changed(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call)
{
    jv_t      now;
    jlist_t  *l;
    size_t    i;

    l = j_list_new(x, call->npos);
    for (i = 0; i < call->npos; i++) {
        j_list_add(x, l, call->pos[i]);
    }
    now = j_tuple(l);

    if (j_given(self.u.loop->changed)
        && j_equal(x, self.u.loop->changed, now))
    {
        return j_bool(false);
    }

    self.u.loop->changed = now;
    return j_bool(true);
}


static const jdef_t  loop_methods[] = {
    { "cycle", loop_cycle, NULL, 1 },
    { "changed", loop_changed, NULL, 0 },
    { NULL, NULL, NULL, 0 }
};


/* --- look-up ---------------------------------------------------------- */

const jdef_t *
j_find_def(const jdef_t *defs, const jstr_t *name)
{
    for ( /* void */ ; defs->name != NULL; defs++) {
        if (js_eq(name, defs->name)) {
            return defs;
        }
    }

    return NULL;
}


const jdef_t *
j_find_method(jv_t v, const jstr_t *name)
{
    switch (v.type) {

    case J_STR:
        return j_find_def(j_str_methods, name);

    case J_LIST:
        return j_find_def(list_methods, name);

    case J_TUPLE:
        return j_find_def(tuple_methods, name);

    case J_DICT:
        return j_find_def(dict_methods, name);

    case J_LOOP:
        return j_find_def(loop_methods, name);

    default:
        return NULL;
    }
}


const jdef_t *
j_global(int64_t id)
{
    return &globals[id];
}


int64_t
j_find_global(const jstr_t *name)
{
    const jdef_t  *def;

    def = j_find_def(globals, name);
    return def != NULL ? def - globals : -1;
}
