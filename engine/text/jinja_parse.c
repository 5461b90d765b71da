/*
 * jinja_parse: tokens to statements.
 */

#include <stdarg.h>
#include <string.h>

#include "text/jinja.h"


#define MAX_DEPTH  160          /* of statements and expressions together */


/* --- tokens ----------------------------------------------------------- */

const jtok_t *
jp_tok(jparse_t *p)
{
    return &p->tok[p->at];
}


/* The token that was current; the last one, JT_EOF, stays. */
const jtok_t *
jp_next(jparse_t *p)
{
    const jtok_t  *t;

    t = &p->tok[p->at];
    if (p->at + 1 < p->ntok) {
        p->at++;
    }

    return t;
}


bool
jp_is(jparse_t *p, jtok_e type)
{
    return p->tok[p->at].type == type;
}


bool
jp_skip(jparse_t *p, jtok_e type)
{
    if (!jp_is(p, type)) {
        return false;
    }

    jp_next(p);
    return true;
}


bool
jp_name(jparse_t *p, const char *name)
{
    return jp_is(p, JT_NAME) && js_eq(p->tok[p->at].val.u.s, name);
}


bool
jp_skip_name(jparse_t *p, const char *name)
{
    if (!jp_name(p, name)) {
        return false;
    }

    jp_next(p);
    return true;
}


void
jp_unexpected(jparse_t *p)
{
    const jtok_t  *t;

    t = jp_tok(p);
    p->x->line = t->line;

    switch (t->type) {

    case JT_EOF:
        j_fail(p->x, "unexpected end of the template");

    case JT_NAME:
        j_fail(p->x, "unexpected '%.*s'",
               t->val.u.s->len > 60 ? 60 : (int) t->val.u.s->len,
               t->val.u.s->p);

    case JT_BLOCK_END:
    case JT_VAR_END:
        j_fail(p->x, "unexpected end of a tag");

    default:
        j_fail(p->x, "syntax error");
    }
}


const jtok_t *
jp_expect(jparse_t *p, jtok_e type)
{
    if (!jp_is(p, type)) {
        jp_unexpected(p);
    }

    return jp_next(p);
}


jstr_t *
jp_ident(jparse_t *p)
{
    return jp_expect(p, JT_NAME)->val.u.s;
}


/* --- nodes ------------------------------------------------------------ */

void
jp_enter(jparse_t *p)
{
    if (p->depth++ >= MAX_DEPTH) {
        p->x->line = jp_tok(p)->line;
        j_fail(p->x, "nested too deep");
    }
}


void
jp_leave(jparse_t *p)
{
    p->depth--;
}


jnode_t *
jp_node(jparse_t *p, jn_kind_e kind, uint32_t line)
{
    jnode_t  *n;

    j_step(p->x, 0);
    n = j_alloc(p->x, sizeof(*n));
    n->kind = (uint8_t) kind;
    n->line = line;

    return n;
}


void
jp_push(jparse_t *p, jnodes_t *l, jnode_t *n)
{
    l->v = j_grow(p->x, l->v, l->n, &l->cap, sizeof(l->v[0]));
    l->v[l->n++] = n;
}


uint32_t
jp_intern(jparse_t *p, jstr_t *name)
{
    size_t    i;
    jtree_t  *t;

    t = p->tree;
    j_step(p->x, t->nnames * 8);

    for (i = 0; i < t->nnames; i++) {
        if (js_cmp(t->names[i], name) == 0) {
            return (uint32_t) i;
        }
    }

    t->names = j_grow(p->x, t->names, t->nnames, &p->cap_names,
                      sizeof(t->names[0]));
    t->names[t->nnames] = name;

    return (uint32_t) t->nnames++;
}


/* --- statements ------------------------------------------------------- */

static void  statement(jparse_t *p, jnodes_t *out);


/* Statements up to the end of the template or a tag named in ends, which
 * stays current. */
static void
subparse(jparse_t *p, jnodes_t *out, const char *const *ends)
{
    jnode_t  *n;
    size_t    i;

    while (!jp_is(p, JT_EOF)) {

        if (jp_is(p, JT_DATA)) {
            n = jp_node(p, JN_DATA, jp_tok(p)->line);
            n->val = jp_next(p)->val;
            jp_push(p, out, n);
            continue;
        }

        if (jp_is(p, JT_VAR_BEGIN)) {
            n = jp_node(p, JN_OUT, jp_next(p)->line);
            n->a = jp_tuple(p, true, NULL);
            jp_expect(p, JT_VAR_END);
            jp_push(p, out, n);
            continue;
        }

        jp_expect(p, JT_BLOCK_BEGIN);

        for (i = 0; ends != NULL && ends[i] != NULL; i++) {
            if (jp_name(p, ends[i])) {
                return;
            }
        }

        statement(p, out);
        jp_expect(p, JT_BLOCK_END);
    }
}


/* The rest of an opening tag, then the body up to one of the names given,
 * which is consumed and returned. */
static const char *
body(jparse_t *p, jnodes_t *out, ...)
{
    size_t       i, n;
    va_list      ap;
    const char  *ends[5];

    va_start(ap, out);
    for (n = 0; n < 4; n++) {
        ends[n] = va_arg(ap, const char *);
        if (ends[n] == NULL) {
            break;
        }
    }
    va_end(ap);
    ends[n] = NULL;

    jp_skip(p, JT_COLON);
    jp_expect(p, JT_BLOCK_END);

    jp_enter(p);
    subparse(p, out, ends);
    jp_leave(p);

    for (i = 0; i < n; i++) {
        if (jp_skip_name(p, ends[i])) {
            return ends[i];
        }
    }

    p->x->line = jp_tok(p)->line;
    j_fail(p->x, "unexpected end of the template, '%s' is missing",
           ends[n - 1]);
}


static jnode_t *
parse_if(jparse_t *p, uint32_t line)
{
    jnode_t     *first, *n;
    const char  *end;

    first = n = jp_node(p, JN_IF, line);

    for ( ;; ) {
        n->a = jp_tuple(p, false, NULL);
        end = body(p, &n->list, "elif", "else", "endif", NULL);

        if (strcmp(end, "elif") == 0) {
            n->c = jp_node(p, JN_IF, jp_tok(p)->line);
            n = n->c;
            continue;
        }

        if (strcmp(end, "else") == 0) {
            body(p, &n->other, "endif", NULL);
        }

        return first;
    }
}


static jnode_t *
parse_for(jparse_t *p, uint32_t line)
{
    jnode_t     *n;
    const char  *end;

    n = jp_node(p, JN_FOR, line);
    n->a = jp_target(p, false, "in");

    if (!jp_skip_name(p, "in")) {
        jp_unexpected(p);
    }

    n->b = jp_tuple(p, false, "recursive");

    if (jp_skip_name(p, "if")) {
        n->c = jp_expr(p, true);
    }

    if (jp_name(p, "recursive")) {
        p->x->line = line;
        j_fail(p->x, "recursive loops are not supported");
    }

    p->loops++;
    end = body(p, &n->list, "endfor", "else", NULL);
    p->loops--;

    if (strcmp(end, "else") == 0) {
        body(p, &n->other, "endfor", NULL);
    }

    return n;
}


static jnode_t *
parse_set(jparse_t *p, uint32_t line)
{
    jnode_t  *n;

    n = jp_node(p, JN_SET, line);
    n->a = jp_target(p, true, NULL);

    if (jp_skip(p, JT_ASSIGN)) {
        n->b = jp_tuple(p, true, NULL);
        return n;
    }

    n->kind = JN_SETBLOCK;
    while (jp_skip(p, JT_PIPE)) {
        n->b = jp_filter(p, n->b);
    }
    body(p, &n->list, "endset", NULL);

    return n;
}


/* "(a, b=1)" */
static void
signature(jparse_t *p, jsig_t *sig)
{
    size_t    cap, cap2, cap3;
    jstr_t   *name;
    jnode_t  *def;

    cap = cap2 = cap3 = 0;
    jp_expect(p, JT_LPAREN);

    while (!jp_is(p, JT_RPAREN)) {
        if (sig->nparams > 0) {
            jp_expect(p, JT_COMMA);
        }

        name = jp_ident(p);
        def = jp_skip(p, JT_ASSIGN) ? jp_expr(p, true) : NULL;

        if (def == NULL && sig->nparams > 0
            && sig->defaults[sig->nparams - 1] != NULL)
        {
            p->x->line = jp_tok(p)->line;
            j_fail(p->x, "non-default argument follows default argument");
        }

        sig->params = j_grow(p->x, sig->params, sig->nparams, &cap,
                             sizeof(sig->params[0]));
        sig->names = j_grow(p->x, sig->names, sig->nparams, &cap2,
                            sizeof(sig->names[0]));
        sig->defaults = j_grow(p->x, sig->defaults, sig->nparams, &cap3,
                               sizeof(sig->defaults[0]));

        sig->params[sig->nparams] = jp_intern(p, name);
        sig->names[sig->nparams] = name;
        sig->defaults[sig->nparams] = def;
        sig->nparams++;
    }

    jp_expect(p, JT_RPAREN);
}


/* The body of a macro: a function of its own, also for break. */
static void
macro_body(jparse_t *p, jnode_t *n, const char *end)
{
    size_t  loops;

    p->sigs = j_grow(p->x, p->sigs, p->nsigs, &p->cap_sigs,
                     sizeof(p->sigs[0]));
    p->sigs[p->nsigs++] = n->sig;

    loops = p->loops;
    p->loops = 0;

    body(p, &n->list, end, NULL);

    p->loops = loops;
    p->nsigs--;
}


static jnode_t *
parse_macro(jparse_t *p, uint32_t line)
{
    jnode_t  *n;

    n = jp_node(p, JN_MACRO, line);
    n->sig = j_alloc(p->x, sizeof(jsig_t));
    n->sig->name = jp_ident(p);
    n->id = jp_intern(p, n->sig->name);
    signature(p, n->sig);
    macro_body(p, n, "endmacro");

    return n;
}


static jnode_t *
parse_call(jparse_t *p, uint32_t line)
{
    jnode_t  *n;

    n = jp_node(p, JN_CALLBLOCK, line);
    n->sig = j_alloc(p->x, sizeof(jsig_t));
    n->sig->name = js_cstr(p->x, "caller");

    if (jp_is(p, JT_LPAREN)) {
        signature(p, n->sig);
    }

    n->a = jp_expr(p, true);
    if (n->a->kind != JN_CALL) {
        p->x->line = line;
        j_fail(p->x, "expected a call");
    }

    macro_body(p, n, "endcall");
    return n;
}


static jnode_t *
parse_with(jparse_t *p, uint32_t line)
{
    jnode_t  *n, *names;

    n = jp_node(p, JN_WITH, line);
    names = n->a = jp_node(p, JN_TUPLE, line);

    while (!jp_is(p, JT_BLOCK_END)) {
        if (names->list.n > 0) {
            jp_expect(p, JT_COMMA);
        }
        jp_push(p, &names->list, jp_target(p, false, NULL));
        jp_expect(p, JT_ASSIGN);
        jp_push(p, &n->other, jp_expr(p, true));
    }

    body(p, &n->list, "endwith", NULL);
    return n;
}


static jnode_t *
parse_filter_block(jparse_t *p, uint32_t line)
{
    jnode_t  *n;

    n = jp_node(p, JN_FILTERBLOCK, line);
    n->b = jp_filter(p, NULL);
    while (jp_skip(p, JT_PIPE)) {
        n->b = jp_filter(p, n->b);
    }

    body(p, &n->list, "endfilter", NULL);
    return n;
}


/* A block with a scope of its own and nothing else: the body of a
 * generation tag is what a model wrote. */
static jnode_t *
parse_scope(jparse_t *p, uint32_t line, bool block)
{
    jnode_t  *n;
    jstr_t   *name;

    n = jp_node(p, JN_SCOPE, line);

    if (!block) {
        n->sig = j_alloc(p->x, sizeof(jsig_t));
        macro_body(p, n, "endgeneration");
        return n;
    }

    name = jp_ident(p);
    jp_skip_name(p, "scoped");
    jp_skip_name(p, "required");
    n->sig = j_alloc(p->x, sizeof(jsig_t));
    macro_body(p, n, "endblock");

    if (jp_is(p, JT_NAME) && js_cmp(jp_tok(p)->val.u.s, name) == 0) {
        jp_next(p);
    }

    return n;
}


static void
parse_print(jparse_t *p, jnodes_t *out, uint32_t line)
{
    jnode_t  *n;
    size_t    i;

    for (i = 0; !jp_is(p, JT_BLOCK_END); i++) {
        if (i > 0) {
            jp_expect(p, JT_COMMA);
        }
        n = jp_node(p, JN_OUT, line);
        n->a = jp_expr(p, true);
        jp_push(p, out, n);
    }
}


static jnode_t *
parse_jump(jparse_t *p, jn_kind_e kind, uint32_t line)
{
    if (p->loops == 0) {
        p->x->line = line;
        j_fail(p->x, "break or continue outside of a loop");
    }

    return jp_node(p, kind, line);
}


static void
statement(jparse_t *p, jnodes_t *out)
{
    jnode_t   *n;
    uint32_t   line;

    line = jp_tok(p)->line;

    if (jp_skip_name(p, "if")) {
        n = parse_if(p, line);
    } else if (jp_skip_name(p, "for")) {
        n = parse_for(p, line);
    } else if (jp_skip_name(p, "set")) {
        n = parse_set(p, line);
    } else if (jp_skip_name(p, "macro")) {
        n = parse_macro(p, line);
    } else if (jp_skip_name(p, "call")) {
        n = parse_call(p, line);
    } else if (jp_skip_name(p, "filter")) {
        n = parse_filter_block(p, line);
    } else if (jp_skip_name(p, "with")) {
        n = parse_with(p, line);
    } else if (jp_skip_name(p, "generation")) {
        n = parse_scope(p, line, false);
    } else if (jp_skip_name(p, "block")) {
        n = parse_scope(p, line, true);
    } else if (jp_skip_name(p, "break")) {
        n = parse_jump(p, JN_BREAK, line);
    } else if (jp_skip_name(p, "continue")) {
        n = parse_jump(p, JN_CONTINUE, line);
    } else if (jp_skip_name(p, "print")) {
        parse_print(p, out, line);
        return;
    } else {
        jp_unexpected(p);
    }

    jp_push(p, out, n);
}


void
j_parse(jparse_t *p)
{
    jtree_t  *t;

    t = p->tree;
    t->id_loop = jp_intern(p, js_cstr(p->x, "loop"));
    t->id_caller = jp_intern(p, js_cstr(p->x, "caller"));
    t->id_varargs = jp_intern(p, js_cstr(p->x, "varargs"));
    t->id_kwargs = jp_intern(p, js_cstr(p->x, "kwargs"));

    subparse(p, &t->body, NULL);
}
