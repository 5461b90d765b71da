/*
 * jinja_exec: statements, and the scopes that they open.
 *
 * A loop, macro, "with" and every block that catches its output has a scope
 * of its own; "if" has none.  What is set in a scope is gone at its end, and
 * at the end of each turn of a loop.
 */

#include <string.h>

#include "text/jinja.h"


/* --- scopes ----------------------------------------------------------- */

static jscope_t *
scope_new(jx_t *x, jscope_t *up)
{
    jscope_t  *s;

    s = j_alloc(x, sizeof(*s));
    s->up = up;

    return s;
}


/* A macro will look into these scopes after their end. */
static void
scope_keep(jscope_t *s)
{
    for ( /* void */ ; s != NULL && !s->kept; s = s->up) {
        s->kept = true;
    }
}


static int
exec_scoped(jx_t *x, const jnodes_t *body, jscope_t *s)
{
    int        jump;
    jscope_t  *up;

    up = x->scope;
    x->scope = s;
    jump = j_exec(x, body);
    x->scope = up;

    return jump;
}


/* The body's output as a string instead. */
static jstr_t *
capture(jx_t *x, const jnodes_t *body, jscope_t *s, int *jump)
{
    jbuf_t  *out, *b;

    out = x->out;
    b = x->out = jb_new(x);
    *jump = exec_scoped(x, body, s);
    x->out = out;

    return jb_done(x, b);
}


/* --- assignment ------------------------------------------------------- */

static void  assign(jx_t *x, const jnode_t *target, jv_t v);


static void
unpack(jx_t *x, const jnode_t *target, jv_t v)
{
    size_t    i;
    jlist_t  *l;

    j_undefined(x, v);
    l = j_items(x, v);

    if (l->n != target->list.n) {
        j_fail(x, "%s values to unpack, expected %zu",
               l->n < target->list.n ? "not enough" : "too many",
               target->list.n);
    }

    for (i = 0; i < target->list.n && i < l->n; i++) {
        assign(x, target->list.v[i], l->v[i]);
    }
}


static void
assign(jx_t *x, const jnode_t *target, jv_t v)
{
    jv_t  *space;

    switch (target->kind) {

    case JN_NAME:
        j_scope_set(x, target->id, v);
        break;

    case JN_NSREF:
        space = j_scope_find(x, target->id);
        if (space == NULL || space->type != J_SPACE) {
            j_fail(x, "cannot assign attribute on non-namespace object");
        }
        if (target->val.u.s->p[0] == '_') {
            j_fail(x, "a namespace has no names that begin with '_'");
        }
        j_dict_set(x, space->u.d, target->val, v);
        break;

    default:
        unpack(x, target, v);
    }
}


/* --- for -------------------------------------------------------------- */

/* The items for which "if" holds. */
static jlist_t *
filtered(jx_t *x, const jnode_t *n, jlist_t *items)
{
    size_t     i;
    jlist_t   *l;
    jscope_t  *up;

    l = j_list_new(x, 0);
    up = x->scope;

    for (i = 0; i < items->n; i++) {
        x->scope = scope_new(x, up);
        assign(x, n->a, items->v[i]);
        if (j_truth(j_eval(x, n->c))) {
            j_list_add(x, l, items->v[i]);
        }
    }

    x->scope = up;
    return l;
}


static int
exec_for(jx_t *x, const jnode_t *n)
{
    int        jump;
    jv_t       v;
    bool       ran;
    jlist_t   *items;
    jscope_t  *s, *up;

    items = j_items(x, j_eval(x, n->b));
    if (n->c != NULL) {
        items = filtered(x, n, items);
    }

    v.type = J_LOOP;
    v.flags = 0;
    v.u.loop = j_alloc(x, sizeof(jloop_t));
    v.u.loop->items = items;
    v.u.loop->changed.type = J_MISSING;

    up = x->scope;
    s = NULL;
    ran = false;

    for (jump = 0; v.u.loop->index0 < items->n; v.u.loop->index0++) {
        if (s == NULL || s->kept) {
            s = scope_new(x, up);
        }
        s->n = 0;

        x->scope = s;
        j_scope_set(x, x->tree->id_loop, v);
        assign(x, n->a, items->v[v.u.loop->index0]);
        jump = j_exec(x, &n->list);
        x->scope = up;

        if (jump == JN_BREAK) {
            break;
        }

        /* Jinja2 notes that the loop ran only at the end of a whole turn */
        ran = ran || jump == 0;
    }

    return ran ? 0 : exec_scoped(x, &n->other, scope_new(x, up));
}


/* --- macros ----------------------------------------------------------- */

static jv_t
macro_new(jx_t *x, const jnode_t *n)
{
    jv_t  v;

    scope_keep(x->scope);

    v.type = J_MACRO;
    v.flags = 0;
    v.u.macro = j_alloc(x, sizeof(jmacro_t));
    v.u.macro->sig = n->sig;
    v.u.macro->body = (jnodes_t *) &n->list;
    v.u.macro->scope = x->scope;

    return v;
}


static jkw_t *
keyword(const jcall_t *call, const jstr_t *name)
{
    size_t  i;

    for (i = 0; i < call->nkw; i++) {
        if (js_cmp(call->kw[i].name, name) == 0) {
            return &call->kw[i];
        }
    }

    return NULL;
}


static bool
is_param(const jsig_t *sig, const jstr_t *name, size_t from)
{
    size_t  i;

    for (i = from; i < sig->nparams; i++) {
        if (js_cmp(sig->names[i], name) == 0) {
            return true;
        }
    }

    return false;
}


/* What is left over goes to varargs, kwargs and caller, or is an error. */
static void
bind_rest(jx_t *x, const jsig_t *sig, const jcall_t *call)
{
    jkw_t    *kw;
    size_t    i, filled;
    jdict_t  *d;
    jlist_t  *l;

    filled = call->npos < sig->nparams ? call->npos : sig->nparams;
    l = j_list_new(x, 0);
    d = j_dict_new(x, 0);

    for (i = sig->nparams; i < call->npos; i++) {
        j_list_add(x, l, call->pos[i]);
    }

    for (i = 0; i < call->nkw; i++) {
        kw = &call->kw[i];
        if (is_param(sig, kw->name, filled)
            || (sig->caller && js_eq(kw->name, "caller")))
        {
            continue;
        }
        if (!sig->kwargs) {
            j_fail(x, "macro '%.*s' takes no keyword argument '%.*s'",
                   (int) sig->name->len, sig->name->p,
                   kw->name->len > 60 ? 60 : (int) kw->name->len,
                   kw->name->p);
        }
        j_dict_set(x, d, j_str(kw->name), kw->val);
    }

    if (l->n > 0 && !sig->varargs) {
        j_fail(x, "macro '%.*s' takes not more than %zu arguments",
               (int) sig->name->len, sig->name->p, sig->nparams);
    }

    if (sig->varargs) {
        j_scope_set(x, x->tree->id_varargs, j_tuple(l));
    }
    if (sig->kwargs) {
        j_scope_set(x, x->tree->id_kwargs, j_dict(d));
    }
}


static void
bind(jx_t *x, const jsig_t *sig, const jcall_t *call)
{
    jv_t    v;
    jkw_t  *kw;
    size_t  i;

    bind_rest(x, sig, call);

    if (sig->caller) {
        kw = keyword(call, x->tree->names[x->tree->id_caller]);
        j_scope_set(x, x->tree->id_caller, kw != NULL ? kw->val
                    : j_undef(x->tree->names[x->tree->id_caller], 0));
    }

    for (i = 0; i < sig->nparams; i++) {
        kw = NULL;
        if (i >= call->npos) {
            kw = keyword(call, sig->names[i]);
        }

        if (i < call->npos) {
            v = call->pos[i];
        } else if (kw != NULL) {
            v = kw->val;
        } else if (sig->defaults[i] != NULL) {
            v = j_eval(x, sig->defaults[i]);
        } else {
            v = j_undef(sig->names[i], 0);
        }

        j_scope_set(x, sig->params[i], v);
    }
}


jv_t
j_call_macro(jx_t *x, jmacro_t *m, const jcall_t *call)
{
    int        jump;
    jstr_t    *s;
    jscope_t  *up;

    j_step(x, 0);
    j_enter(x);

    up = x->scope;
    x->scope = scope_new(x, m->scope);
    bind(x, m->sig, call);
    s = capture(x, m->body, x->scope, &jump);
    x->scope = up;

    j_leave(x);
    return j_str(s);
}


static void
exec_call(jx_t *x, const jnode_t *n)
{
    jv_t      fn, v;
    jkw_t    *kw;
    jcall_t   call;

    fn = j_eval(x, n->a->a);
    call = j_call_args(x, n->a->args);

    kw = j_array(x, call.nkw + 1, sizeof(jkw_t));
    if (call.nkw > 0) {
        memcpy(kw, call.kw, call.nkw * sizeof(jkw_t));
    }
    kw[call.nkw].name = x->tree->names[x->tree->id_caller];
    kw[call.nkw].val = macro_new(x, n);
    call.kw = kw;
    call.nkw++;

    v = j_call(x, fn, &call);
    jb_str(x, x->out, j_to_str(x, v));
}


/* --- statements ------------------------------------------------------- */

static int
exec_if(jx_t *x, const jnode_t *n)
{
    for ( ;; ) {
        x->line = n->line;
        if (j_truth(j_eval(x, n->a))) {
            return j_exec(x, &n->list);
        }
        if (n->c == NULL) {
            return j_exec(x, &n->other);
        }
        n = n->c;
    }
}


static int
exec_with(jx_t *x, const jnode_t *n)
{
    int        jump;
    jv_t      *v;
    size_t     i;
    jscope_t  *up;

    v = j_array(x, n->other.n, sizeof(jv_t));
    for (i = 0; i < n->other.n; i++) {
        v[i] = j_eval(x, n->other.v[i]);
    }

    up = x->scope;
    x->scope = scope_new(x, up);
    for (i = 0; i < n->other.n; i++) {
        assign(x, n->a->list.v[i], v[i]);
    }
    jump = j_exec(x, &n->list);
    x->scope = up;

    return jump;
}


static int
exec_captured(jx_t *x, const jnode_t *n)
{
    int   jump;
    jv_t  v;

    v = j_str(capture(x, &n->list, scope_new(x, x->scope), &jump));
    if (jump != 0) {
        return jump;
    }

    if (n->b != NULL) {
        v = j_apply(x, n->b, v);
    }

    if (n->kind == JN_SETBLOCK) {
        assign(x, n->a, v);
    } else {
        jb_str(x, x->out, j_to_str(x, v));
    }

    return 0;
}


static int
exec_statement(jx_t *x, const jnode_t *n)
{
    switch (n->kind) {

    case JN_DATA:
        jb_str(x, x->out, n->val.u.s);
        return 0;

    case JN_OUT:
        jb_str(x, x->out, j_to_str(x, j_eval(x, n->a)));
        return 0;

    case JN_IF:
        return exec_if(x, n);

    case JN_FOR:
        return exec_for(x, n);

    case JN_SET:
        assign(x, n->a, j_eval(x, n->b));
        return 0;

    case JN_SETBLOCK:
    case JN_FILTERBLOCK:
        return exec_captured(x, n);

    case JN_MACRO:
        j_scope_set(x, n->id, macro_new(x, n));
        return 0;

    case JN_CALLBLOCK:
        exec_call(x, n);
        return 0;

    case JN_WITH:
        return exec_with(x, n);

    case JN_SCOPE:
        return exec_scoped(x, &n->list, scope_new(x, x->scope));

    default:
        return n->kind;
    }
}


int
j_exec(jx_t *x, const jnodes_t *body)
{
    int     jump;
    size_t  i;

    j_enter(x);

    for (i = 0, jump = 0; i < body->n && jump == 0; i++) {
        j_step(x, 0);
        x->line = body->v[i]->line;
        jump = exec_statement(x, body->v[i]);
    }

    j_leave(x);
    return jump;
}
