/*
 * jinja: what the rooms of the template interpreter share.
 *
 * One jx_t is one compile or one render.  All that it makes lies in its
 * arena, so that a failure is one longjmp to the entry in template.c, and
 * nothing is freed singly.  A template keeps the arena of its compile; a
 * render only reads it.
 *
 *   jinja_lex.c     source to tokens, whitespace control
 *   jinja_parse.c   statements          jinja_expr.c    expressions
 *   jinja_arena.c   memory, limits      jinja_json.c    the request
 *   jinja_value.c   lists, dicts, comparison
 *   jinja_str.c     strings and where their bytes come from
 *   jinja_repr.c    str(), repr(), tojson
 *   jinja_format.c  "%" and .format
 *   jinja_eval.c    expressions         jinja_exec.c    statements
 *   jinja_arith.c   operators
 *   jinja_func.c    globals, methods of lists, dicts, loops
 *   jinja_method.c  methods of strings
 *   jinja_filter.c  filters of values   jinja_seq.c     of sequences
 *   jinja_test.c    "is" tests
 */

#ifndef MOE_JINJA_H
#define MOE_JINJA_H


#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "text/template.h"


/* --- values ----------------------------------------------------------- */

typedef enum {
    J_UNDEF,
    J_NONE,
    J_BOOL,
    J_INT,
    J_FLOAT,
    J_STR,
    J_LIST,
    J_TUPLE,
    J_DICT,
    J_RANGE,
    J_ITER,        /* a generator: what map and select return */
    J_VIEW,        /* items(), keys(), values() */
    J_SPACE,       /* namespace() */
    J_LOOP,
    J_MACRO,
    J_FUNC,
    J_METHOD,
    J_MISSING      /* no value: an argument that was not given */
} j_type_e;

/* flags of a value */
#define J_TAINT  1     /* a scalar or container that came with the request */
#define J_SAFE   2     /* a string that is Markup: "+" escapes its partner */
#define J_ATTR   4     /* an undefined that was an attribute */
#define J_GROUP  8     /* a tuple of groupby: has .grouper and .list */

/* where the bytes of a string come from */
#define J_REQUEST   0
#define J_TEMPLATE  1
#define J_MIXED     2

#define J_UNKNOWN   SIZE_MAX

typedef struct jx_s      jx_t;
typedef struct jstr_s    jstr_t;
typedef struct jbuf_s    jbuf_t;
typedef struct jlist_s   jlist_t;
typedef struct jdict_s   jdict_t;
typedef struct jnode_s   jnode_t;
typedef struct jscope_s  jscope_t;

typedef struct {
    int64_t   start;
    int64_t   step;
    size_t    n;
} jrange_t;

typedef struct {
    jlist_t  *list;
    size_t    pos;          /* an iterator is used up once */
    uint8_t   kind;         /* of a view: 'i', 'k' or 'v' */
} jiter_t;

typedef struct jloop_s    jloop_t;
typedef struct jmacro_s   jmacro_t;
typedef struct jmethod_s  jmethod_t;

typedef struct {
    uint8_t   type;
    uint8_t   flags;
    union {
        int64_t     i;      /* J_BOOL, J_INT, J_FUNC */
        double      f;
        jstr_t     *s;      /* J_STR; of J_UNDEF its name, or NULL */
        jlist_t    *l;      /* J_LIST, J_TUPLE */
        jdict_t    *d;      /* J_DICT, J_SPACE */
        jrange_t   *r;
        jiter_t    *it;     /* J_ITER, J_VIEW */
        jloop_t    *loop;
        jmacro_t   *macro;
        jmethod_t  *method;
    } u;
} jv_t;

struct jstr_s {
    const char     *p;
    size_t          len;
    size_t          chars;  /* code points, J_UNKNOWN: not counted yet */
    const uint8_t  *map;    /* if trust is J_MIXED: one byte a byte */
    jbuf_t         *own;    /* the buffer whose beginning this is */
    uint8_t         trust;
};

/*
 * A growing string.  A string that ends where its buffer ends is extended in
 * place by a concatenation, so that "ns.text = ns.text + part" is linear.
 */
struct jbuf_s {
    char           *p;
    uint8_t        *map;
    size_t          len;
    size_t          cap;
    uint8_t         trust;
};

struct jlist_s {
    jv_t     *v;
    size_t    n;
    size_t    cap;
};

typedef struct {
    jv_t      key;
    jv_t      val;
} jpair_t;

/* insertion order; idx sorts the first nidx entries once there are many */
struct jdict_s {
    jpair_t   *e;
    size_t     n;
    size_t     cap;
    size_t    *idx;
    size_t     nidx;
    bool       odd;         /* has keys that are not strings */
};

struct jloop_s {
    jlist_t   *items;
    size_t     index0;
    jv_t       changed;
};

typedef struct {
    jstr_t    *name;
    jv_t       val;
} jkw_t;

typedef struct {
    jv_t      *pos;
    size_t     npos;
    jkw_t     *kw;
    size_t     nkw;
} jcall_t;

typedef jv_t (*jfn_t)(jx_t *x, jv_t self, jv_t *arg, const jcall_t *call);

/* A function: params are its names in order ("a b c"), NULL: it reads the
 * call itself. */
typedef struct {
    const char  *name;
    jfn_t        fn;
    const char  *params;
    int          need;      /* arguments that must be given */
} jdef_t;

#define J_MAXARGS  8

struct jmethod_s {
    jv_t           self;
    const jdef_t  *def;
};


/* --- syntax tree ------------------------------------------------------ */

typedef enum {
    /* expressions */
    JN_CONST, JN_NAME, JN_TUPLE, JN_LIST, JN_DICT, JN_ATTR, JN_ITEM,
    JN_SLICE, JN_CALL, JN_FILTER, JN_TEST, JN_NEG, JN_POS, JN_NOT, JN_AND,
    JN_OR, JN_COND, JN_CMP, JN_BIN, JN_CONCAT, JN_NSREF,
    /* statements */
    JN_DATA, JN_OUT, JN_IF, JN_FOR, JN_SET, JN_SETBLOCK, JN_MACRO,
    JN_CALLBLOCK, JN_FILTERBLOCK, JN_WITH, JN_SCOPE, JN_BREAK, JN_CONTINUE
} jn_kind_e;

typedef enum {
    JO_ADD, JO_SUB, JO_MUL, JO_DIV, JO_FLOORDIV, JO_MOD, JO_POW,
    JO_EQ, JO_NE, JO_LT, JO_LE, JO_GT, JO_GE, JO_IN, JO_NOTIN
} j_op_e;

typedef struct {
    jnode_t  **v;
    size_t     n;
    size_t     cap;
} jnodes_t;

typedef struct {
    jstr_t    *name;
    jnode_t   *val;
} jkwnode_t;

typedef struct {
    jnodes_t    pos;
    jkwnode_t  *kw;
    size_t      nkw;
    jnode_t    *star;
    jnode_t    *star2;
} jargs_t;

/* what a macro, or the body of a call block, looks like */
typedef struct {
    jstr_t     *name;
    uint32_t   *params;     /* name ids */
    jstr_t    **names;
    jnode_t   **defaults;   /* NULL: none */
    size_t      nparams;
    bool        varargs;
    bool        kwargs;
    bool        caller;
} jsig_t;

struct jnode_s {
    uint8_t      kind;
    bool         neg;       /* JN_TEST: is not */
    uint32_t     line;
    uint32_t     id;        /* JN_NAME, JN_NSREF, JN_MACRO: the name */
    jv_t         val;       /* JN_CONST, JN_DATA; else a name as a string */
    jnode_t     *a;
    jnode_t     *b;
    jnode_t     *c;
    jnodes_t     list;      /* items, operands, or the body */
    jnodes_t     other;     /* else body; values of "with" */
    uint8_t     *ops;       /* JN_BIN, JN_CMP: one for each pair of operands */
    jargs_t     *args;
    jsig_t      *sig;
    const jdef_t *def;      /* JN_FILTER, JN_TEST; NULL: not known */
};


/* --- context ---------------------------------------------------------- */

typedef struct jchunk_s  jchunk_t;

typedef struct {
    jchunk_t  *chunks;
    char      *p;
    char      *end;
    size_t     total;
    size_t     limit;
} jarena_t;

typedef struct {
    jarena_t    arena;
    jnodes_t    body;
    jstr_t    **names;      /* every name used, by id */
    size_t      nnames;
    uint32_t    id_loop;
    uint32_t    id_caller;
    uint32_t    id_varargs;
    uint32_t    id_kwargs;
} jtree_t;

typedef struct {
    uint32_t   id;
    jv_t       val;
} jvar_t;

/* The root scope is indexed by id, the others are searched. */
struct jscope_s {
    jscope_t  *up;
    jvar_t    *v;
    size_t     n;
    size_t     cap;
    bool       kept;        /* a macro refers to it */
};

struct jmacro_s {
    jsig_t    *sig;
    jnodes_t  *body;
    jscope_t  *scope;
};

struct jx_s {
    jarena_t                arena;
    jmp_buf                 fail;
    moe_err_t              *err;
    moe_template_status_e   status;
    uint32_t                line;

    /* of a render */
    const jtree_t          *tree;
    jv_t                   *root;      /* by name id; J_MISSING: not set */
    jscope_t               *scope;
    jbuf_t                 *out;
    size_t                  max_output;
    size_t                  steps;
    size_t                  depth;
    size_t                  max_depth;
    int64_t                 now;
    json_t                **parsed;    /* what from_json made */
    size_t                  nparsed;
    size_t                  cap_parsed;
};


/* --- jinja_arena.c ---------------------------------------------------- */

/* Each of these ends the compile or render. */
_Noreturn void j_fail(jx_t *x, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
_Noreturn void j_raise(jx_t *x, const jstr_t *message);
_Noreturn void j_limit(jx_t *x, const char *what);

void j_arena_free(jarena_t *a);
void *j_alloc(jx_t *x, size_t size);
void *j_array(jx_t *x, size_t n, size_t size);
void *j_grow(jx_t *x, void *old, size_t n, size_t *cap, size_t size);

void j_charge(jx_t *x, size_t bytes);      /* memory not of the arena */
void j_step(jx_t *x, size_t bytes);
void j_enter(jx_t *x);
void j_leave(jx_t *x);


/* --- jinja_value.c, jinja_json.c -------------------------------------- */

jv_t j_none(void);
jv_t j_undef(jstr_t *name, int flags);
jv_t j_bool(bool b);
jv_t j_int(int64_t i);
jv_t j_float(double f);
jv_t j_str(jstr_t *s);
jv_t j_list(jlist_t *l);
jv_t j_tuple(jlist_t *l);
jv_t j_dict(jdict_t *d);
jv_t j_iter(jx_t *x, jlist_t *l);

jlist_t *j_list_new(jx_t *x, size_t cap);
void j_list_add(jx_t *x, jlist_t *l, jv_t v);
jdict_t *j_dict_new(jx_t *x, size_t cap);
jv_t *j_dict_find(jx_t *x, jdict_t *d, jv_t key);
jv_t *j_dict_get(jx_t *x, jdict_t *d, const char *p, size_t len);
void j_dict_set(jx_t *x, jdict_t *d, jv_t key, jv_t val);
void j_dict_remove(jdict_t *d, jv_t *val);

const char *j_type_name(jv_t v);
bool j_truth(jv_t v);
bool j_is_num(jv_t v);
bool j_is_int(jv_t v);
double j_num(jv_t v);
bool j_hashable(jv_t v);
bool j_equal(jx_t *x, jv_t a, jv_t b);
bool j_compare(jx_t *x, j_op_e op, jv_t a, jv_t b);    /* < <= > >= */
bool j_contains(jx_t *x, jv_t item, jv_t in);
jlist_t *j_items(jx_t *x, jv_t v);         /* iterates; fails if it cannot */
bool j_iterable(jv_t v);
ptrdiff_t j_length(jv_t v);                /* -1: it has none */
void j_sort(jx_t *x, jv_t *v, jv_t *key, size_t n, bool reverse);
jv_t j_from_json(jx_t *x, const json_t *json, int trust);
void j_undefined(jx_t *x, jv_t v);         /* fails if v is undefined */


/* --- jinja_str.c ------------------------------------------------------ */

/* p is not copied */
jstr_t *js_new(jx_t *x, const char *p, size_t len, int trust);
jstr_t *js_cstr(jx_t *x, const char *p);
jstr_t *js_sub(jx_t *x, jstr_t *s, size_t off, size_t len);
jstr_t *js_cat(jx_t *x, jstr_t *a, jstr_t *b);
jstr_t *js_slice(jx_t *x, jstr_t *s, ptrdiff_t start, ptrdiff_t step,
    size_t n);
bool js_eq(const jstr_t *s, const char *p);
int js_cmp(const jstr_t *a, const jstr_t *b);
size_t js_offset(jstr_t *s, size_t chars);
size_t js_chars(jstr_t *s);
uint32_t js_decode(const char *p, size_t len, size_t *n);
size_t js_encode(uint32_t cp, char *p);
/* the first, or the last, place of b in a from byte off; -1: none */
ptrdiff_t js_find(const jstr_t *a, const jstr_t *b, size_t off);
ptrdiff_t js_rfind(jx_t *x, const jstr_t *a, const jstr_t *b, size_t off);
bool js_space(uint32_t cp);
jstr_t *js_strip(jx_t *x, jstr_t *s, const jstr_t *set, int ends);
jstr_t *js_replace(jx_t *x, jstr_t *s, jstr_t *a, jstr_t *b, int64_t max);
jlist_t *js_split(jx_t *x, jstr_t *s, jstr_t *sep, int64_t max, bool right);
jlist_t *js_lines(jx_t *x, jstr_t *s, bool keep);
jstr_t *js_case(jx_t *x, jstr_t *s, char how);   /* u l t c s f */
jstr_t *js_escape(jx_t *x, jstr_t *s);
jstr_t *js_repeat(jx_t *x, jstr_t *s, int64_t n);
jstr_t *js_pad(jx_t *x, jstr_t *s, int64_t width, char how, jstr_t *fill);

jbuf_t *jb_new(jx_t *x);
void jb_bytes(jx_t *x, jbuf_t *b, const char *p, size_t len, int trust);
void jb_add(jx_t *x, jbuf_t *b, const jstr_t *s, size_t off, size_t len);
void jb_str(jx_t *x, jbuf_t *b, const jstr_t *s);
jstr_t *jb_done(jx_t *x, jbuf_t *b);


/* --- jinja_repr.c ----------------------------------------------------- */

typedef struct {
    jstr_t  *indent;         /* NULL: one line */
    jstr_t  *item_sep;
    jstr_t  *key_sep;
    bool     ascii;
    bool     sort;
} jdump_t;

jstr_t *j_to_str(jx_t *x, jv_t v);
jstr_t *j_repr_str(jx_t *x, jv_t v);
size_t j_float_repr(double f, char buf[32]);
void j_dump(jx_t *x, jbuf_t *b, jv_t v, const jdump_t *how);


/* --- jinja_format.c --------------------------------------------------- */

jstr_t *j_percent(jx_t *x, jstr_t *fmt, jv_t arg);
jstr_t *j_format(jx_t *x, jstr_t *fmt, const jcall_t *call);
jstr_t *j_strftime(jx_t *x, jstr_t *fmt);


/* --- lexer and parser ------------------------------------------------- */

typedef enum {
    JT_EOF, JT_DATA, JT_VAR_BEGIN, JT_VAR_END, JT_BLOCK_BEGIN, JT_BLOCK_END,
    JT_NAME, JT_STRING, JT_INT, JT_FLOAT,
    JT_ADD, JT_SUB, JT_DIV, JT_FLOORDIV, JT_MUL, JT_MOD, JT_POW, JT_TILDE,
    JT_LBRACKET, JT_RBRACKET, JT_LPAREN, JT_RPAREN, JT_LBRACE, JT_RBRACE,
    JT_EQ, JT_NE, JT_GT, JT_GE, JT_LT, JT_LE, JT_ASSIGN, JT_DOT, JT_COLON,
    JT_PIPE, JT_COMMA, JT_SEMICOLON
} jtok_e;

typedef struct {
    uint8_t   type;
    uint32_t  line;
    jv_t      val;          /* data, name, string, number */
} jtok_t;

typedef struct {
    jx_t      *x;
    jtree_t   *tree;
    jtok_t    *tok;
    size_t     ntok;
    size_t     at;
    size_t     cap_names;
    size_t     loops;       /* loops around the statement */
    size_t     depth;
    jsig_t   **sigs;        /* macros around the expression */
    size_t     nsigs;
    size_t     cap_sigs;
} jparse_t;

/* Tokens of UTF-8 source, ended by JT_EOF. */
jtok_t *j_lex(jx_t *x, const char *src, size_t len, size_t *n);

void j_parse(jparse_t *p);
const jtok_t *jp_tok(jparse_t *p);
const jtok_t *jp_next(jparse_t *p);
const jtok_t *jp_expect(jparse_t *p, jtok_e type);
bool jp_is(jparse_t *p, jtok_e type);
bool jp_skip(jparse_t *p, jtok_e type);
bool jp_name(jparse_t *p, const char *name);
bool jp_skip_name(jparse_t *p, const char *name);
_Noreturn void jp_unexpected(jparse_t *p);
uint32_t jp_intern(jparse_t *p, jstr_t *name);
jnode_t *jp_node(jparse_t *p, jn_kind_e kind, uint32_t line);
void jp_push(jparse_t *p, jnodes_t *l, jnode_t *n);
jnode_t *jp_expr(jparse_t *p, bool cond);
/* until: a name that ends the tuple besides the ends of tags, or NULL */
jnode_t *jp_tuple(jparse_t *p, bool cond, const char *until);
jnode_t *jp_target(jparse_t *p, bool space, const char *until);
jnode_t *jp_filter(jparse_t *p, jnode_t *node);
void jp_enter(jparse_t *p);
void jp_leave(jparse_t *p);
jstr_t *jp_ident(jparse_t *p);


/* --- evaluation ------------------------------------------------------- */

jv_t j_eval(jx_t *x, const jnode_t *n);
jv_t j_binop(jx_t *x, j_op_e op, jv_t a, jv_t b);
jv_t j_attr(jx_t *x, jv_t v, jstr_t *name);
jv_t j_subscript(jx_t *x, jv_t v, jv_t key);
jv_t j_call(jx_t *x, jv_t fn, const jcall_t *call);
jv_t j_call_def(jx_t *x, const jdef_t *def, jv_t self, const jcall_t *call);
jv_t j_apply(jx_t *x, const jnode_t *filter, jv_t v);
bool j_test(jx_t *x, const jdef_t *def, jv_t v, const jcall_t *call);
jcall_t j_call_args(jx_t *x, const jargs_t *args);
jv_t *j_scope_find(jx_t *x, uint32_t id);
void j_scope_set(jx_t *x, uint32_t id, jv_t v);

/* 0, or the JN_BREAK or JN_CONTINUE that ended the body early */
int j_exec(jx_t *x, const jnodes_t *body);
jv_t j_call_macro(jx_t *x, jmacro_t *m, const jcall_t *call);

/* the entry of a name, or NULL */
const jdef_t *j_find_def(const jdef_t *defs, const jstr_t *name);
const jdef_t *j_find_filter(const jstr_t *name);
const jdef_t *j_find_test(const jstr_t *name);
const jdef_t *j_find_method(jv_t v, const jstr_t *name);
const jdef_t *j_global(int64_t id);
int64_t j_find_global(const jstr_t *name);       /* -1: none */

extern const jdef_t  j_str_methods[];
extern const jdef_t  j_seq_filters[];

/* arguments */
bool j_given(jv_t v);
int64_t j_arg_int(jx_t *x, jv_t v);
jstr_t *j_arg_str(jx_t *x, jv_t v);


#endif /* MOE_JINJA_H */
