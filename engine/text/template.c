/*
 * template: compiling and rendering, the two ways into the interpreter.
 */

#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

#include "text/jinja.h"
#include "text/template.h"


#define COMPILE_MEMORY  (256u << 20)
#define COMPILE_STEPS   (200u * 1000 * 1000)


struct moe_template_s {
    jtree_t  tree;
};


static int
check_utf8(const char *src, size_t len, moe_err_t *err)
{
    size_t               i;
    utf8proc_int32_t     cp;
    utf8proc_ssize_t     n;

    if (len > MOE_TEMPLATE_SOURCE) {
        return moe_err(err, "chat template: %zu bytes, at most %u are read",
                       len, MOE_TEMPLATE_SOURCE);
    }

    for (i = 0; i < len; i += (size_t) n) {
        n = utf8proc_iterate((const utf8proc_uint8_t *) src + i,
                             (utf8proc_ssize_t) (len - i), &cp);
        if (n <= 0) {
            return moe_err(err, "chat template: not UTF-8 at byte %zu", i);
        }
    }

    return 0;
}


/* --- compiling -------------------------------------------------------- */

static int
compile(moe_template_t *t, const char *src, size_t len, moe_err_t *err)
{
    int       rc;
    jx_t      x = { .err = err, .steps = COMPILE_STEPS, .line = 1 };
    jparse_t  p = { .x = &x, .tree = &t->tree };

    x.arena.limit = COMPILE_MEMORY;
    x.max_output = SIZE_MAX;

    rc = -1;

    if (setjmp(x.fail) == 0) {
        p.tok = j_lex(&x, src, len, &p.ntok);
        j_parse(&p);
        rc = 0;
    }

    t->tree.arena = x.arena;
    return rc;
}


moe_template_t *
moe_template_compile(const char *src, size_t len, moe_err_t *err)
{
    moe_err_t        unused;
    moe_template_t  *t;

    err = err != NULL ? err : &unused;

    if (check_utf8(src, len, err) != 0) {
        return NULL;
    }

    t = calloc(1, sizeof(*t));
    if (t == NULL) {
        moe_err(err, "chat template: out of memory");
        return NULL;
    }

    if (compile(t, src, len, err) != 0) {
        moe_template_free(t);
        return NULL;
    }

    return t;
}


void
moe_template_free(moe_template_t *t)
{
    if (t != NULL) {
        j_arena_free(&t->tree.arena);
        free(t);
    }
}


/* --- variables -------------------------------------------------------- */

static bool
is_trusted(const moe_template_env_t *env, const char *name)
{
    const char *const  *p;

    for (p = env->trusted; p != NULL && *p != NULL; p++) {
        if (strcmp(*p, name) == 0) {
            return true;
        }
    }

    return false;
}


/* A template may write "<|" + role + "|>": a role of the API's is as good as
 * the template's own word. */
static void
trust_roles(jx_t *x, jv_t messages)
{
    jv_t    *role;
    size_t   i, k;

    static const char *const  roles[] = {
        "system", "developer", "user", "assistant", "tool", "function"
    };

    if (messages.type != J_LIST) {
        return;
    }

    for (i = 0; i < messages.u.l->n; i++) {
        if (messages.u.l->v[i].type != J_DICT) {
            continue;
        }
        role = j_dict_get(x, messages.u.l->v[i].u.d, "role", 4);
        if (role == NULL || role->type != J_STR) {
            continue;
        }
        for (k = 0; k < sizeof(roles) / sizeof(roles[0]); k++) {
            if (js_eq(role->u.s, roles[k])) {
                role->u.s = js_cstr(x, roles[k]);
            }
        }
    }
}


/* Only the variables that the template names are read. */
static void
load(jx_t *x, const json_t *vars, const moe_template_env_t *env)
{
    char     *name;
    size_t    i;
    jstr_t   *s;
    json_t   *json;
    int64_t   g;

    x->root = j_array(x, x->tree->nnames, sizeof(jv_t));

    for (i = 0; i < x->tree->nnames; i++) {
        s = x->tree->names[i];
        name = j_alloc(x, s->len + 1);
        memcpy(name, s->p, s->len);
        x->root[i].type = J_MISSING;

        json = json_object_get(vars, name);
        if (json != NULL) {
            x->root[i] = j_from_json(x, json, is_trusted(env, name)
                                              ? J_TEMPLATE : J_REQUEST);
            if (strcmp(name, "messages") == 0) {
                trust_roles(x, x->root[i]);
            }
            continue;
        }

        g = j_find_global(s);
        if (g >= 0) {
            x->root[i].type = J_FUNC;
            x->root[i].u.i = g;
        }
    }
}


/* --- rendering -------------------------------------------------------- */

static int
take(const jbuf_t *b, moe_rendered_t *out)
{
    out->text = malloc(b->len + 1);
    out->trust = malloc(b->len + 1);

    if (out->text == NULL || out->trust == NULL) {
        return -1;
    }

    if (b->len > 0) {
        memcpy(out->text, b->p, b->len);
        if (b->map != NULL) {
            memcpy(out->trust, b->map, b->len);
        } else {
            memset(out->trust, b->trust, b->len);
        }
    }

    out->text[b->len] = '\0';
    out->trust[b->len] = 0;
    out->len = b->len;

    return 0;
}


static int
render(jx_t *x, const json_t *vars, const moe_template_env_t *env,
    moe_rendered_t *out)
{
    if (setjmp(x->fail) != 0) {
        return -1;
    }

    load(x, vars, env);
    x->out = jb_new(x);
    j_exec(x, &x->tree->body);

    if (take(x->out, out) != 0) {
        j_limit(x, "memory");
    }

    return 0;
}


static size_t
limit(size_t given, size_t normal)
{
    return given != 0 ? given : normal;
}


int
moe_template_render(const moe_template_t *t, const json_t *vars,
    const moe_template_env_t *env, moe_rendered_t *out, moe_err_t *err)
{
    int                 rc;
    size_t              i;
    moe_err_t           unused;
    moe_template_env_t  none = { 0 };
    jx_t                x = { .line = 1 };

    env = env != NULL ? env : &none;

    x.err = err != NULL ? err : &unused;
    x.tree = &t->tree;
    x.now = env->now;
    x.steps = limit(env->max_steps, MOE_TEMPLATE_STEPS);
    x.max_depth = limit(env->max_depth, MOE_TEMPLATE_DEPTH);
    x.max_output = limit(env->max_output, MOE_TEMPLATE_OUTPUT);
    x.arena.limit = limit(env->max_memory, MOE_TEMPLATE_MEMORY);

    memset(out, 0, sizeof(*out));
    rc = render(&x, vars, env, out);

    for (i = 0; i < x.nparsed; i++) {
        json_decref(x.parsed[i]);
    }

    j_arena_free(&x.arena);

    if (rc != 0) {
        moe_rendered_free(out);
        out->status = x.status;
    }

    return rc;
}


void
moe_rendered_free(moe_rendered_t *r)
{
    free(r->text);
    free(r->trust);
    memset(r, 0, sizeof(*r));
}
