/*
 * jinja_expr: tokens to expressions, by Jinja2's precedence: inline if, or,
 * and, not, comparison, "+ -", "~", "* / // %", "**", sign, and last what
 * follows a primary: ".", "[]", "()", filters, tests.
 */

#include "text/jinja.h"


static jnode_t  *unary(jparse_t *p, bool filters);
static jnode_t  *primary(jparse_t *p);


/* --- chains of operators ---------------------------------------------- */

typedef jnode_t *(*parse_t)(jparse_t *p);


/* The operator of one level at the current token, -1: none. */
typedef int (*op_t)(jparse_t *p);


/* One node for a chain of one level, however long it is. */
static jnode_t *
chain(jparse_t *p, jn_kind_e kind, op_t op, parse_t sub)
{
    int       o;
    size_t    cap;
    jnode_t  *n, *first;

    first = sub(p);
    n = NULL;

    for (cap = 0; (o = op(p)) >= 0; ) {
        if (n == NULL) {
            n = jp_node(p, kind, first->line);
            jp_push(p, &n->list, first);
        }
        n->ops = j_grow(p->x, n->ops, n->list.n - 1, &cap, 1);
        n->ops[n->list.n - 1] = (uint8_t) o;
        jp_push(p, &n->list, sub(p));
    }

    return n != NULL ? n : first;
}


static int
op_pow(jparse_t *p)
{
    return jp_skip(p, JT_POW) ? JO_POW : -1;
}


static int
op_mul(jparse_t *p)
{
    return jp_skip(p, JT_MUL) ? JO_MUL
           : jp_skip(p, JT_DIV) ? JO_DIV
           : jp_skip(p, JT_FLOORDIV) ? JO_FLOORDIV
           : jp_skip(p, JT_MOD) ? JO_MOD : -1;
}


static int
op_concat(jparse_t *p)
{
    return jp_skip(p, JT_TILDE) ? 0 : -1;
}


static int
op_add(jparse_t *p)
{
    return jp_skip(p, JT_ADD) ? JO_ADD : jp_skip(p, JT_SUB) ? JO_SUB : -1;
}


static int
op_compare(jparse_t *p)
{
    size_t  at;

    at = p->at;

    if (jp_skip_name(p, "not")) {
        if (jp_skip_name(p, "in")) {
            return JO_NOTIN;
        }
        p->at = at;
        return -1;
    }

    return jp_skip(p, JT_EQ) ? JO_EQ : jp_skip(p, JT_NE) ? JO_NE
           : jp_skip(p, JT_LT) ? JO_LT : jp_skip(p, JT_LE) ? JO_LE
           : jp_skip(p, JT_GT) ? JO_GT : jp_skip(p, JT_GE) ? JO_GE
           : jp_skip_name(p, "in") ? JO_IN : -1;
}


static int
op_and(jparse_t *p)
{
    return jp_skip_name(p, "and") ? 0 : -1;
}


static int
op_or(jparse_t *p)
{
    return jp_skip_name(p, "or") ? 0 : -1;
}


static jnode_t *
parse_unary(jparse_t *p)
{
    return unary(p, true);
}


static jnode_t *
parse_pow(jparse_t *p)
{
    return chain(p, JN_BIN, op_pow, parse_unary);
}


static jnode_t *
parse_mul(jparse_t *p)
{
    return chain(p, JN_BIN, op_mul, parse_pow);
}


static jnode_t *
parse_concat(jparse_t *p)
{
    return chain(p, JN_CONCAT, op_concat, parse_mul);
}


static jnode_t *
parse_add(jparse_t *p)
{
    return chain(p, JN_BIN, op_add, parse_concat);
}


static jnode_t *
parse_compare(jparse_t *p)
{
    return chain(p, JN_CMP, op_compare, parse_add);
}


static jnode_t *
parse_not(jparse_t *p)
{
    jnode_t   *n;
    uint32_t   line;

    line = jp_tok(p)->line;

    if (!jp_skip_name(p, "not")) {
        return parse_compare(p);
    }

    jp_enter(p);
    n = jp_node(p, JN_NOT, line);
    n->a = parse_not(p);
    jp_leave(p);

    return n;
}


static jnode_t *
parse_and(jparse_t *p)
{
    return chain(p, JN_AND, op_and, parse_not);
}


static jnode_t *
parse_or(jparse_t *p)
{
    return chain(p, JN_OR, op_or, parse_and);
}


/* cond: "a if b else c" is allowed here */
jnode_t *
jp_expr(jparse_t *p, bool cond)
{
    jnode_t   *n, *expr;
    uint32_t   line;

    jp_enter(p);
    line = jp_tok(p)->line;
    expr = parse_or(p);

    while (cond && jp_skip_name(p, "if")) {
        n = jp_node(p, JN_COND, line);
        n->b = expr;
        n->a = parse_or(p);
        n->c = jp_skip_name(p, "else") ? jp_expr(p, true) : NULL;
        expr = n;
    }

    jp_leave(p);
    return expr;
}


/* --- tuples and targets ----------------------------------------------- */

static bool
tuple_end(jparse_t *p, const char *until)
{
    return jp_is(p, JT_VAR_END) || jp_is(p, JT_BLOCK_END)
           || jp_is(p, JT_RPAREN) || (until != NULL && jp_name(p, until));
}


jnode_t *
jp_tuple(jparse_t *p, bool cond, const char *until)
{
    jnode_t   *n, *first;
    uint32_t   line;

    line = jp_tok(p)->line;

    if (tuple_end(p, until)) {
        if (!jp_is(p, JT_RPAREN)) {
            jp_unexpected(p);
        }
        return jp_node(p, JN_TUPLE, line);
    }

    first = jp_expr(p, cond);
    if (!jp_is(p, JT_COMMA)) {
        return first;
    }

    n = jp_node(p, JN_TUPLE, line);
    jp_push(p, &n->list, first);

    while (jp_skip(p, JT_COMMA)) {
        if (tuple_end(p, until)) {
            break;
        }
        jp_push(p, &n->list, jp_expr(p, cond));
    }

    return n;
}


/* space: "ns.name" is allowed */
static jnode_t *
target_item(jparse_t *p, bool space)
{
    jnode_t  *n, *ref;

    n = primary(p);

    if (space && n->kind == JN_NAME && jp_skip(p, JT_DOT)) {
        ref = jp_node(p, JN_NSREF, n->line);
        ref->id = n->id;
        ref->val = j_str(jp_ident(p));
        return ref;
    }

    return n;
}


static void
check_target(jparse_t *p, const jnode_t *n)
{
    size_t  i;

    if (n->kind == JN_TUPLE) {
        for (i = 0; i < n->list.n; i++) {
            check_target(p, n->list.v[i]);
        }
        return;
    }

    if (n->kind != JN_NAME && n->kind != JN_NSREF) {
        p->x->line = n->line;
        j_fail(p->x, "cannot assign to this expression");
    }
}


/* What a loop or "set" assigns to. */
jnode_t *
jp_target(jparse_t *p, bool space, const char *until)
{
    jnode_t  *n, *t;

    n = target_item(p, space);

    if (jp_is(p, JT_COMMA)) {
        t = jp_node(p, JN_TUPLE, n->line);
        jp_push(p, &t->list, n);
        while (jp_skip(p, JT_COMMA)) {
            if (tuple_end(p, until)) {
                break;
            }
            jp_push(p, &t->list, target_item(p, space));
        }
        n = t;
    }

    check_target(p, n);
    return n;
}


/* --- primaries -------------------------------------------------------- */

static jnode_t *
name(jparse_t *p)
{
    size_t         i;
    jnode_t       *n;
    const jstr_t  *s;
    const jtok_t  *t;

    t = jp_next(p);
    s = t->val.u.s;
    n = jp_node(p, JN_CONST, t->line);

    if (js_eq(s, "true") || js_eq(s, "True")) {
        n->val = j_bool(true);

    } else if (js_eq(s, "false") || js_eq(s, "False")) {
        n->val = j_bool(false);

    } else if (js_eq(s, "none") || js_eq(s, "None")) {
        n->val = j_none();

    } else {
        n->kind = JN_NAME;
        n->val = t->val;
        n->id = jp_intern(p, t->val.u.s);

        for (i = 0; i < p->nsigs; i++) {
            p->sigs[i]->caller |= n->id == p->tree->id_caller;
            p->sigs[i]->varargs |= n->id == p->tree->id_varargs;
            p->sigs[i]->kwargs |= n->id == p->tree->id_kwargs;
        }
    }

    return n;
}


/* Strings side by side are one. */
static jnode_t *
string(jparse_t *p)
{
    jnode_t       *n;
    jstr_t        *s;
    const jtok_t  *t;

    t = jp_next(p);
    n = jp_node(p, JN_CONST, t->line);
    s = t->val.u.s;

    while (jp_is(p, JT_STRING)) {
        s = js_cat(p->x, s, jp_next(p)->val.u.s);
    }

    /* constants are read by many threads: nothing is left to be filled in */
    s->own = NULL;
    js_chars(s);
    n->val = j_str(s);

    return n;
}


static jnode_t *
list(jparse_t *p)
{
    jnode_t  *n;

    n = jp_node(p, JN_LIST, jp_next(p)->line);

    while (!jp_is(p, JT_RBRACKET)) {
        if (n->list.n > 0) {
            jp_expect(p, JT_COMMA);
            if (jp_is(p, JT_RBRACKET)) {
                break;
            }
        }
        jp_push(p, &n->list, jp_expr(p, true));
    }

    jp_expect(p, JT_RBRACKET);
    return n;
}


static jnode_t *
dict(jparse_t *p)
{
    jnode_t  *n;

    n = jp_node(p, JN_DICT, jp_next(p)->line);

    while (!jp_is(p, JT_RBRACE)) {
        if (n->list.n > 0) {
            jp_expect(p, JT_COMMA);
            if (jp_is(p, JT_RBRACE)) {
                break;
            }
        }
        jp_push(p, &n->list, jp_expr(p, true));
        jp_expect(p, JT_COLON);
        jp_push(p, &n->list, jp_expr(p, true));
    }

    jp_expect(p, JT_RBRACE);
    return n;
}


static jnode_t *
primary(jparse_t *p)
{
    jnode_t  *n;

    switch (jp_tok(p)->type) {

    case JT_NAME:
        return name(p);

    case JT_STRING:
        return string(p);

    case JT_INT:
    case JT_FLOAT:
        n = jp_node(p, JN_CONST, jp_tok(p)->line);
        n->val = jp_next(p)->val;
        return n;

    case JT_LPAREN:
        jp_next(p);
        n = jp_tuple(p, true, NULL);
        jp_expect(p, JT_RPAREN);
        return n;

    case JT_LBRACKET:
        return list(p);

    case JT_LBRACE:
        return dict(p);

    default:
        jp_unexpected(p);
    }
}


/* --- what follows a primary ------------------------------------------- */

/* One bound of a slice, NULL if it is left out. */
static jnode_t *
bound(jparse_t *p)
{
    if (jp_is(p, JT_COLON) || jp_is(p, JT_RBRACKET) || jp_is(p, JT_COMMA)) {
        return NULL;
    }

    return jp_expr(p, true);
}


static jnode_t *
subscribed(jparse_t *p)
{
    jnode_t   *n, *start;
    uint32_t   line;

    line = jp_tok(p)->line;
    start = jp_is(p, JT_COLON) ? NULL : jp_expr(p, true);

    if (!jp_skip(p, JT_COLON)) {
        return start;
    }

    n = jp_node(p, JN_SLICE, line);
    n->a = start;
    n->b = bound(p);
    if (jp_skip(p, JT_COLON)) {
        n->c = bound(p);
    }

    return n;
}


static jnode_t *
subscript(jparse_t *p, jnode_t *obj)
{
    jnode_t       *n, *key, *tuple;
    const jtok_t  *t;

    t = jp_next(p);
    n = jp_node(p, JN_ITEM, t->line);
    n->a = obj;

    if (t->type == JT_DOT) {
        if (jp_is(p, JT_NAME)) {
            n->kind = JN_ATTR;
            n->val = jp_next(p)->val;
            return n;
        }
        key = jp_node(p, JN_CONST, t->line);
        key->val = jp_expect(p, JT_INT)->val;
        n->b = key;
        return n;
    }

    if (jp_skip(p, JT_RBRACKET)) {
        n->b = jp_node(p, JN_TUPLE, t->line);
        return n;
    }

    n->b = subscribed(p);

    if (jp_is(p, JT_COMMA)) {
        tuple = jp_node(p, JN_TUPLE, t->line);
        jp_push(p, &tuple->list, n->b);
        while (jp_skip(p, JT_COMMA)) {
            jp_push(p, &tuple->list, subscribed(p));
        }
        n->b = tuple;
    }

    jp_expect(p, JT_RBRACKET);
    return n;
}


static void
argument(jparse_t *p, jargs_t *a, size_t *cap)
{
    bool  bad;

    if (jp_skip(p, JT_MUL)) {
        bad = a->star != NULL || a->star2 != NULL;
        a->star = jp_expr(p, true);

    } else if (jp_skip(p, JT_POW)) {
        bad = a->star2 != NULL;
        a->star2 = jp_expr(p, true);

    } else if (jp_is(p, JT_NAME) && p->tok[p->at + 1].type == JT_ASSIGN) {
        bad = a->star2 != NULL;
        a->kw = j_grow(p->x, a->kw, a->nkw, cap, sizeof(a->kw[0]));
        a->kw[a->nkw].name = jp_ident(p);
        jp_next(p);
        a->kw[a->nkw].val = jp_expr(p, true);
        a->nkw++;

    } else {
        bad = a->star != NULL || a->star2 != NULL || a->nkw > 0;
        jp_push(p, &a->pos, jp_expr(p, true));
    }

    if (bad) {
        p->x->line = jp_tok(p)->line;
        j_fail(p->x, "invalid syntax for function call expression");
    }
}


static jargs_t *
arguments(jparse_t *p)
{
    bool      first;
    size_t    cap;
    jargs_t  *a;

    a = j_alloc(p->x, sizeof(*a));
    jp_expect(p, JT_LPAREN);

    for (first = true, cap = 0; !jp_is(p, JT_RPAREN); first = false) {
        if (!first) {
            jp_expect(p, JT_COMMA);
            if (jp_is(p, JT_RPAREN)) {
                break;
            }
        }
        argument(p, a, &cap);
    }

    jp_expect(p, JT_RPAREN);
    return a;
}


static jnode_t *
call(jparse_t *p, jnode_t *fn)
{
    jnode_t  *n;

    n = jp_node(p, JN_CALL, jp_tok(p)->line);
    n->a = fn;
    n->args = arguments(p);

    return n;
}


static jstr_t *
dotted(jparse_t *p)
{
    jstr_t  *s;

    for (s = jp_ident(p); jp_skip(p, JT_DOT); ) {
        s = js_cat(p->x, s, js_cstr(p->x, "."));
        s = js_cat(p->x, s, jp_ident(p));
    }

    return s;
}


/* A filter behind its "|"; node: what it is applied to, NULL in a block. */
jnode_t *
jp_filter(jparse_t *p, jnode_t *node)
{
    jstr_t   *s;
    jnode_t  *n;

    n = jp_node(p, JN_FILTER, jp_tok(p)->line);
    n->a = node;
    s = dotted(p);
    n->val = j_str(s);
    n->def = j_find_filter(s);

    if (jp_is(p, JT_LPAREN)) {
        n->args = arguments(p);
    }

    return n;
}


static jnode_t *
postfix(jparse_t *p, jnode_t *n)
{
    for ( ;; ) {
        if (jp_is(p, JT_DOT) || jp_is(p, JT_LBRACKET)) {
            n = subscript(p, n);
        } else if (jp_is(p, JT_LPAREN)) {
            n = call(p, n);
        } else {
            return n;
        }
    }
}


/* Does an argument without brackets follow: "is divisibleby 3"? */
static bool
bare_argument(jparse_t *p)
{
    switch (jp_tok(p)->type) {
    case JT_STRING:
    case JT_INT:
    case JT_FLOAT:
    case JT_LBRACKET:
    case JT_LBRACE:
        return true;
    case JT_NAME:
        return !jp_name(p, "else") && !jp_name(p, "or") && !jp_name(p, "and");
    default:
        return false;
    }
}


static jnode_t *
test(jparse_t *p, jnode_t *node)
{
    jstr_t   *s;
    jnode_t  *n;

    n = jp_node(p, JN_TEST, jp_next(p)->line);
    n->a = node;
    n->neg = jp_skip_name(p, "not");
    s = dotted(p);
    n->val = j_str(s);
    n->def = j_find_test(s);

    if (jp_is(p, JT_LPAREN)) {
        n->args = arguments(p);

    } else if (bare_argument(p)) {
        if (jp_name(p, "is")) {
            p->x->line = n->line;
            j_fail(p->x, "you cannot chain multiple tests with is");
        }
        n->args = j_alloc(p->x, sizeof(jargs_t));
        jp_push(p, &n->args->pos, postfix(p, primary(p)));
    }

    return n;
}


static jnode_t *
unary(jparse_t *p, bool filters)
{
    jnode_t   *n;
    uint32_t   line;

    jp_enter(p);
    line = jp_tok(p)->line;

    if (jp_skip(p, JT_SUB)) {
        n = jp_node(p, JN_NEG, line);
        n->a = unary(p, false);
    } else if (jp_skip(p, JT_ADD)) {
        n = jp_node(p, JN_POS, line);
        n->a = unary(p, false);
    } else {
        n = primary(p);
    }

    n = postfix(p, n);

    while (filters) {
        if (jp_skip(p, JT_PIPE)) {
            n = jp_filter(p, n);
        } else if (jp_name(p, "is")) {
            n = test(p, n);
        } else if (jp_is(p, JT_LPAREN)) {
            n = call(p, n);
        } else {
            break;
        }
    }

    jp_leave(p);
    return n;
}
