/*
 * jinja_eval: the value of an expression.
 */

#include <string.h>

#include "text/jinja.h"


/* --- names ------------------------------------------------------------ */

/* The variable in the innermost scope that has it, or NULL. */
jv_t *
j_scope_find(jx_t *x, uint32_t id)
{
    size_t     i;
    jscope_t  *s;

    for (s = x->scope; s != NULL; s = s->up) {
        for (i = 0; i < s->n; i++) {
            if (s->v[i].id == id) {
                return &s->v[i].val;
            }
        }
    }

    return j_given(x->root[id]) ? &x->root[id] : NULL;
}


void
j_scope_set(jx_t *x, uint32_t id, jv_t v)
{
    size_t     i;
    jscope_t  *s;

    s = x->scope;
    if (s == NULL) {
        x->root[id] = v;
        return;
    }

    for (i = 0; i < s->n; i++) {
        if (s->v[i].id == id) {
            s->v[i].val = v;
            return;
        }
    }

    s->v = j_grow(x, s->v, s->n, &s->cap, sizeof(jvar_t));
    s->v[s->n].id = id;
    s->v[s->n].val = v;
    s->n++;
}


/* --- attributes and items --------------------------------------------- */

static jv_t
loop_attr(jloop_t *l, jstr_t *name)
{
    size_t  i, n;

    i = l->index0;
    n = l->items->n;

    if (js_eq(name, "index")) {
        return j_int((int64_t) i + 1);
    }
    if (js_eq(name, "index0")) {
        return j_int((int64_t) i);
    }
    if (js_eq(name, "first")) {
        return j_bool(i == 0);
    }
    if (js_eq(name, "last")) {
        return j_bool(i + 1 >= n);
    }
    if (js_eq(name, "length")) {
        return j_int((int64_t) n);
    }
    if (js_eq(name, "revindex")) {
        return j_int((int64_t) n - (int64_t) i);
    }
    if (js_eq(name, "revindex0")) {
        return j_int((int64_t) n - (int64_t) i - 1);
    }
    if (js_eq(name, "previtem")) {
        return i > 0 && i <= n ? l->items->v[i - 1] : j_undef(name, J_ATTR);
    }
    if (js_eq(name, "nextitem")) {
        return i + 1 < n ? l->items->v[i + 1] : j_undef(name, J_ATTR);
    }
    if (js_eq(name, "depth")) {
        return j_int(1);
    }
    if (js_eq(name, "depth0")) {
        return j_int(0);
    }

    return j_undef(name, J_ATTR);
}


/* What Python's getattr finds: methods, and what objects of ours have;
 * J_MISSING: nothing. */
static jv_t
get_attr(jx_t *x, jv_t v, jstr_t *name)
{
    jv_t          *found, r;
    const jdef_t  *def;

    r.type = J_MISSING;
    r.flags = 0;

    j_undefined(x, v);

    if (v.type == J_SPACE) {
        found = j_dict_find(x, v.u.d, j_str(name));
        return found != NULL ? *found : r;
    }

    def = j_find_method(v, name);

    if (def != NULL) {
        r.type = J_METHOD;
        r.u.method = j_alloc(x, sizeof(jmethod_t));
        r.u.method->self = v;
        r.u.method->def = def;
        return r;
    }

    if (v.type == J_LOOP) {
        return loop_attr(v.u.loop, name);
    }

    if (v.type == J_TUPLE && (v.flags & J_GROUP) && v.u.l->n == 2) {
        if (js_eq(name, "grouper")) {
            return v.u.l->v[0];
        }
        if (js_eq(name, "list")) {
            return v.u.l->v[1];
        }
    }

    return r;
}


/* v.name: an attribute, else an item */
jv_t
j_attr(jx_t *x, jv_t v, jstr_t *name)
{
    jv_t  *found, r;

    r = get_attr(x, v, name);
    if (j_given(r)) {
        return r;
    }

    if (v.type == J_DICT) {
        found = j_dict_find(x, v.u.d, j_str(name));
        if (found != NULL) {
            return *found;
        }
    }

    return j_undef(name, J_ATTR);
}


static jv_t
range_item(jrange_t *r, int64_t i)
{
    return j_int((int64_t) ((uint64_t) r->start
                            + (uint64_t) i * (uint64_t) r->step));
}


/* The item at a place, negative ones from the end; J_MISSING: none. */
static jv_t
item_at(jx_t *x, jv_t v, int64_t i)
{
    jv_t     r;
    int64_t  n;

    r.type = J_MISSING;
    r.flags = 0;
    n = j_length(v);

    if (i < 0) {
        i += n;
    }

    if (i < 0 || i >= n) {
        return r;
    }

    switch (v.type) {

    case J_LIST:
    case J_TUPLE:
        return v.u.l->v[i];

    case J_RANGE:
        return range_item(v.u.r, i);

    case J_STR:
        j_step(x, v.u.s->len);
        r = j_str(js_slice(x, v.u.s, i, 1, 1));
        r.flags = v.flags & J_SAFE;
        return r;

    default:
        return r;
    }
}


/* v[key]: an item, else, if key is a string, an attribute */
jv_t
j_subscript(jx_t *x, jv_t v, jv_t key)
{
    jv_t  *found, r;

    j_undefined(x, v);

    if (v.type == J_DICT) {
        found = j_hashable(key) ? j_dict_find(x, v.u.d, key) : NULL;
        if (found != NULL) {
            return *found;
        }

    } else if (j_is_int(key)) {
        r = item_at(x, v, key.u.i);
        if (j_given(r)) {
            return r;
        }
    }

    if (key.type == J_STR) {
        r = get_attr(x, v, key.u.s);
        if (j_given(r)) {
            return r;
        }
    }

    return j_undef(key.type == J_STR || j_is_int(key)
                   ? j_to_str(x, key) : NULL,
                   J_ATTR);
}


/* One bound of a slice of n items as Python clamps it. */
static int64_t
clamp(jx_t *x, jv_t v, int64_t n, int64_t none, bool back)
{
    int64_t  i;

    if (!j_given(v) || v.type == J_NONE) {
        return none;
    }

    if (!j_is_int(v)) {
        j_undefined(x, v);
        j_fail(x, "slice indices must be integers or None");
    }

    i = v.u.i;
    if (i < 0) {
        i += n;
        return i < 0 ? (back ? -1 : 0) : i;
    }

    return i >= n ? (back ? n - 1 : n) : i;
}


/* bound: start, stop, step; J_MISSING where left out */
static jv_t
slice(jx_t *x, jv_t v, const jv_t bound[3])
{
    jv_t      r;
    int64_t   n, start, stop, step, count, i;
    jlist_t  *l;

    j_undefined(x, v);
    n = j_length(v);

    if (v.type != J_STR && v.type != J_LIST && v.type != J_TUPLE
        && v.type != J_RANGE)
    {
        j_fail(x, "'%s' object cannot be sliced", j_type_name(v));
    }

    step = 1;
    if (j_given(bound[2]) && bound[2].type != J_NONE) {
        j_undefined(x, bound[2]);
        step = j_arg_int(x, bound[2]);
    }

    if (step == 0) {
        j_fail(x, "slice step cannot be zero");
    }
    if (step < -n - 1) {
        step = -n - 1;
    } else if (step > n + 1) {
        step = n + 1;
    }

    start = clamp(x, bound[0], n, step < 0 ? n - 1 : 0, step < 0);
    stop = clamp(x, bound[1], n, step < 0 ? -1 : n, step < 0);

    count = step > 0 ? (stop - start + step - 1) / step
                     : (start - stop - step - 1) / -step;
    count = (step > 0 ? stop > start : start > stop) ? count : 0;

    j_step(x, (size_t) (v.type == J_STR ? n : count));

    if (v.type == J_STR) {
        r = j_str(js_slice(x, v.u.s, start, step, (size_t) count));
        r.flags = v.flags & J_SAFE;
        return r;
    }

    l = j_list_new(x, (size_t) count);
    for (i = 0; i < count; i++) {
        j_list_add(x, l, item_at(x, v, start + i * step));
    }

    r = v.type == J_TUPLE ? j_tuple(l) : j_list(l);
    r.flags = v.flags & J_TAINT;

    return r;
}


/* --- calls ------------------------------------------------------------ */

jcall_t
j_call_args(jx_t *x, const jargs_t *args)
{
    size_t    i, n;
    jv_t      v;
    jcall_t   call = { 0 };
    jlist_t  *star;

    if (args == NULL) {
        return call;
    }

    n = args->pos.n;
    star = NULL;

    if (args->star != NULL) {
        v = j_eval(x, args->star);
        j_undefined(x, v);
        star = j_items(x, v);
        n += star->n;
    }

    call.pos = j_array(x, n, sizeof(jv_t));
    for (i = 0; i < args->pos.n; i++) {
        call.pos[call.npos++] = j_eval(x, args->pos.v[i]);
    }
    for (i = 0; star != NULL && call.npos < n && i < star->n; i++) {
        call.pos[call.npos++] = star->v[i];
    }

    n = args->nkw;
    v = j_none();

    if (args->star2 != NULL) {
        v = j_eval(x, args->star2);
        if (v.type != J_DICT) {
            j_fail(x, "argument after ** must be a mapping");
        }
        n += v.u.d->n;
    }

    call.kw = j_array(x, n, sizeof(jkw_t));
    for (i = 0; i < args->nkw; i++) {
        call.kw[call.nkw].name = args->kw[i].name;
        call.kw[call.nkw++].val = j_eval(x, args->kw[i].val);
    }
    for (i = 0; v.type == J_DICT && call.nkw < n && i < v.u.d->n; i++) {
        if (v.u.d->e[i].key.type != J_STR) {
            j_fail(x, "keywords must be strings");
        }
        call.kw[call.nkw].name = v.u.d->e[i].key.u.s;
        call.kw[call.nkw++].val = v.u.d->e[i].val;
    }

    return call;
}


/* The place of a name among params ("a b c"), -1: it is not there. */
static int
param_index(const char *params, const jstr_t *name)
{
    int          i;
    size_t       n;
    const char  *p;

    for (i = 0, p = params; *p != '\0'; i++) {
        n = strcspn(p, " ");
        if (n == name->len && memcmp(p, name->p, n) == 0) {
            return i;
        }
        p += n + (p[n] == ' ');
    }

    return -1;
}


static int
param_count(const char *params)
{
    int  n;

    if (*params == '\0') {
        return 0;
    }

    for (n = 1; *params != '\0'; params++) {
        n += *params == ' ';
    }

    return n;
}


jv_t
j_call_def(jx_t *x, const jdef_t *def, jv_t self, const jcall_t *call)
{
    int     k;
    jv_t    arg[J_MAXARGS];
    size_t  i;

    j_step(x, 0);

    for (i = 0; i < J_MAXARGS; i++) {
        arg[i].type = J_MISSING;
        arg[i].flags = 0;
    }

    if (def->params == NULL) {
        if (call->npos < (size_t) def->need) {
            j_fail(x, "%s() takes more arguments", def->name);
        }
        return def->fn(x, self, arg, call);
    }

    if (call->npos > (size_t) param_count(def->params)) {
        j_fail(x, "%s() takes fewer arguments", def->name);
    }

    for (i = 0; i < call->npos; i++) {
        arg[i] = call->pos[i];
    }

    for (i = 0; i < call->nkw; i++) {
        k = param_index(def->params, call->kw[i].name);
        if (k < 0 || j_given(arg[k])) {
            j_fail(x, "%s() got an unexpected keyword argument", def->name);
        }
        arg[k] = call->kw[i].val;
    }

    for (k = 0; k < def->need; k++) {
        if (!j_given(arg[k])) {
            j_fail(x, "%s() takes more arguments", def->name);
        }
    }

    return def->fn(x, self, arg, call);
}


jv_t
j_call(jx_t *x, jv_t fn, const jcall_t *call)
{
    j_undefined(x, fn);

    switch (fn.type) {

    case J_METHOD:
        return j_call_def(x, fn.u.method->def, fn.u.method->self, call);

    case J_FUNC:
        return j_call_def(x, j_global(fn.u.i), j_none(), call);

    case J_MACRO:
        return j_call_macro(x, fn.u.macro, call);

    default:
        j_fail(x, "'%s' object is not callable", j_type_name(fn));
    }
}


/* --- filters and tests ------------------------------------------------ */

static _Noreturn void
no_such(jx_t *x, const char *what, const jnode_t *n)
{
    j_fail(x, "no %s named '%.*s'", what,
           n->val.u.s->len > 60 ? 60 : (int) n->val.u.s->len, n->val.u.s->p);
}


static jv_t
apply_one(jx_t *x, const jnode_t *n, jv_t v)
{
    jcall_t  call;

    if (n->def == NULL) {
        no_such(x, "filter", n);
    }

    call = j_call_args(x, n->args);
    return j_call_def(x, n->def, v, &call);
}


/* The filters of a block, the innermost first. */
jv_t
j_apply(jx_t *x, const jnode_t *filter, jv_t v)
{
    if (filter->a != NULL) {
        j_enter(x);
        v = j_apply(x, filter->a, v);
        j_leave(x);
    }

    return apply_one(x, filter, v);
}


bool
j_test(jx_t *x, const jdef_t *def, jv_t v, const jcall_t *call)
{
    return j_truth(j_call_def(x, def, v, call));
}


static jv_t
eval_test(jx_t *x, const jnode_t *n)
{
    jv_t     v;
    jcall_t  call;

    if (n->def == NULL) {
        no_such(x, "test", n);
    }

    v = j_eval(x, n->a);
    call = j_call_args(x, n->args);

    return j_bool(j_test(x, n->def, v, &call) != n->neg);
}


/* --- expressions ------------------------------------------------------ */

static jv_t
eval_sign(jx_t *x, const jnode_t *n)
{
    jv_t  v, r;

    v = j_eval(x, n->a);

    if (!j_is_num(v)) {
        j_undefined(x, v);
        j_fail(x, "bad operand type for a sign: '%s'", j_type_name(v));
    }

    r = j_binop(x, n->kind == JN_NEG ? JO_SUB : JO_ADD, j_int(0), v);

    /* 0 - 0.0 would lose the sign */
    if (v.type == J_FLOAT) {
        r.u.f = n->kind == JN_NEG ? -v.u.f : v.u.f;
    }

    return r;
}


static jv_t
eval_list(jx_t *x, const jnode_t *n)
{
    size_t    i;
    jlist_t  *l;

    l = j_list_new(x, n->list.n);
    for (i = 0; i < n->list.n; i++) {
        j_list_add(x, l, j_eval(x, n->list.v[i]));
    }

    return n->kind == JN_LIST ? j_list(l) : j_tuple(l);
}


static jv_t
eval_dict(jx_t *x, const jnode_t *n)
{
    jv_t      key;
    size_t    i;
    jdict_t  *d;

    d = j_dict_new(x, n->list.n / 2);
    for (i = 0; i + 1 < n->list.n; i += 2) {
        key = j_eval(x, n->list.v[i]);
        j_dict_set(x, d, key, j_eval(x, n->list.v[i + 1]));
    }

    return j_dict(d);
}


static jv_t
eval_item(jx_t *x, const jnode_t *n)
{
    int       i;
    jv_t      v, bound[3];
    jnode_t  *part[3];

    v = j_eval(x, n->a);

    if (n->b->kind != JN_SLICE) {
        return j_subscript(x, v, j_eval(x, n->b));
    }

    part[0] = n->b->a;
    part[1] = n->b->b;
    part[2] = n->b->c;

    for (i = 0; i < 3; i++) {
        bound[i].type = J_MISSING;
        bound[i].flags = 0;
        if (part[i] != NULL) {
            bound[i] = j_eval(x, part[i]);
        }
    }

    return slice(x, v, bound);
}


static bool
compare(jx_t *x, j_op_e op, jv_t a, jv_t b)
{
    switch (op) {

    case JO_EQ:
        return j_equal(x, a, b);

    case JO_NE:
        return !j_equal(x, a, b);

    case JO_IN:
        return j_contains(x, a, b);

    case JO_NOTIN:
        return !j_contains(x, a, b);

    default:
        return j_compare(x, op, a, b);
    }
}


/* a < b < c: each operand is evaluated once, and only as far as needed */
static jv_t
eval_compare(jx_t *x, const jnode_t *n)
{
    jv_t    a, b;
    size_t  i;

    a = j_eval(x, n->list.v[0]);

    for (i = 1; i < n->list.n; i++) {
        b = j_eval(x, n->list.v[i]);
        if (!compare(x, n->ops[i - 1], a, b)) {
            return j_bool(false);
        }
        a = b;
    }

    return j_bool(true);
}


static jv_t
eval_chain(jx_t *x, const jnode_t *n)
{
    jv_t     v;
    size_t   i;
    jstr_t  *s;

    v = j_eval(x, n->list.v[0]);

    switch (n->kind) {

    case JN_AND:
    case JN_OR:
        for (i = 1; i < n->list.n; i++) {
            if (j_truth(v) == (n->kind == JN_OR)) {
                break;
            }
            v = j_eval(x, n->list.v[i]);
        }
        return v;

    case JN_CONCAT:
        s = j_to_str(x, v);
        for (i = 1; i < n->list.n; i++) {
            s = js_cat(x, s, j_to_str(x, j_eval(x, n->list.v[i])));
        }
        return j_str(s);

    default:
        for (i = 1; i < n->list.n; i++) {
            v = j_binop(x, n->ops[i - 1], v, j_eval(x, n->list.v[i]));
        }
        return v;
    }
}


static jv_t
eval_node(jx_t *x, const jnode_t *n)
{
    jv_t     *found, v;
    jcall_t   call;

    switch (n->kind) {

    case JN_CONST:
        return n->val;

    case JN_NAME:
        found = j_scope_find(x, n->id);
        return found != NULL ? *found : j_undef(n->val.u.s, 0);

    case JN_TUPLE:
    case JN_LIST:
        return eval_list(x, n);

    case JN_DICT:
        return eval_dict(x, n);

    case JN_ATTR:
        return j_attr(x, j_eval(x, n->a), n->val.u.s);

    case JN_ITEM:
        return eval_item(x, n);

    case JN_CALL:
        v = j_eval(x, n->a);
        call = j_call_args(x, n->args);
        x->line = n->line;
        return j_call(x, v, &call);

    case JN_FILTER:
        return apply_one(x, n, j_eval(x, n->a));

    case JN_TEST:
        return eval_test(x, n);

    case JN_NEG:
    case JN_POS:
        return eval_sign(x, n);

    case JN_NOT:
        return j_bool(!j_truth(j_eval(x, n->a)));

    case JN_COND:
        if (j_truth(j_eval(x, n->a))) {
            return j_eval(x, n->b);
        }
        return n->c != NULL ? j_eval(x, n->c) : j_undef(NULL, 0);

    case JN_CMP:
        return eval_compare(x, n);

    case JN_SLICE:
        j_fail(x, "unhashable type: 'slice'");

    default:
        return eval_chain(x, n);
    }
}


jv_t
j_eval(jx_t *x, const jnode_t *n)
{
    jv_t  v;

    j_step(x, 0);
    j_enter(x);
    x->line = n->line;
    v = eval_node(x, n);
    j_leave(x);

    return v;
}
