/*
 * jinja_test: what may follow "is".
 */

#include "text/jinja.h"


#define TYPE_TEST(name, condition)                                           \
    static jv_t                                                              \
    name(jx_t *x, jv_t v, jv_t *arg, const jcall_t *call)                    \
    {                                                                        \
        return j_bool(condition);                                            \
    }

TYPE_TEST(t_defined, v.type != J_UNDEF)
TYPE_TEST(t_undefined, v.type == J_UNDEF)
TYPE_TEST(t_none, v.type == J_NONE)
TYPE_TEST(t_boolean, v.type == J_BOOL)
TYPE_TEST(t_true, v.type == J_BOOL && v.u.i)
TYPE_TEST(t_false, v.type == J_BOOL && !v.u.i)
TYPE_TEST(t_integer, v.type == J_INT)
TYPE_TEST(t_float, v.type == J_FLOAT)
TYPE_TEST(t_number, j_is_num(v))
TYPE_TEST(t_string, v.type == J_STR)
TYPE_TEST(t_mapping, v.type == J_DICT)
TYPE_TEST(t_iterable, j_iterable(v))
TYPE_TEST(t_sequence, j_length(v) >= 0 && v.type != J_VIEW
                      && v.type != J_LOOP)
TYPE_TEST(t_callable, v.type == J_METHOD || v.type == J_FUNC
                      || v.type == J_MACRO || v.type == J_UNDEF
                      || v.type == J_LOOP)
TYPE_TEST(t_escaped, v.type == J_STR && (v.flags & J_SAFE))
TYPE_TEST(t_in, j_contains(x, v, arg[0]))
TYPE_TEST(t_eq, j_equal(x, v, arg[0]))
TYPE_TEST(t_ne, !j_equal(x, v, arg[0]))
TYPE_TEST(t_lt, j_compare(x, JO_LT, v, arg[0]))
TYPE_TEST(t_le, j_compare(x, JO_LE, v, arg[0]))
TYPE_TEST(t_gt, j_compare(x, JO_GT, v, arg[0]))
TYPE_TEST(t_ge, j_compare(x, JO_GE, v, arg[0]))
TYPE_TEST(t_filter, j_find_filter(j_arg_str(x, v)) != NULL)
TYPE_TEST(t_test, j_find_test(j_arg_str(x, v)) != NULL)
TYPE_TEST(t_odd, j_equal(x, j_binop(x, JO_MOD, v, j_int(2)), j_int(1)))
TYPE_TEST(t_even, j_equal(x, j_binop(x, JO_MOD, v, j_int(2)), j_int(0)))
TYPE_TEST(t_divisibleby, j_equal(x, j_binop(x, JO_MOD, v, arg[0]),
                                 j_int(0)))


/* The same object; what has no identity of its own is compared. */
static jv_t
t_sameas(jx_t *x, jv_t v, jv_t *arg, const jcall_t *call)
{
    if (v.type != arg[0].type) {
        return j_bool(false);
    }

    switch (v.type) {

    case J_NONE:
    case J_BOOL:
    case J_INT:
    case J_STR:
        return j_bool(j_equal(x, v, arg[0]));

    case J_UNDEF:
    case J_FLOAT:
        return j_bool(false);

    default:
        return j_bool(v.u.l == arg[0].u.l);
    }
}


/* One of the methods of strings, on the text of any value. */
static jv_t
ask(jx_t *x, jv_t v, const char *method)
{
    jcall_t        none = { 0 };
    const jdef_t  *def;

    v = j_str(j_to_str(x, v));
    def = j_find_method(v, js_cstr(x, method));

    return j_call_def(x, def, v, &none);
}


static jv_t
t_lower(jx_t *x, jv_t v, jv_t *arg, const jcall_t *call)
{
    return ask(x, v, "islower");
}


static jv_t
t_upper(jx_t *x, jv_t v, jv_t *arg, const jcall_t *call)
{
    return ask(x, v, "isupper");
}


static const jdef_t  tests[] = {
    { "!=", t_ne, "other", 1 },
    { "<", t_lt, "other", 1 },
    { "<=", t_le, "other", 1 },
    { "==", t_eq, "other", 1 },
    { ">", t_gt, "other", 1 },
    { ">=", t_ge, "other", 1 },
    { "boolean", t_boolean, "", 0 },
    { "callable", t_callable, "", 0 },
    { "defined", t_defined, "", 0 },
    { "divisibleby", t_divisibleby, "num", 1 },
    { "eq", t_eq, "other", 1 },
    { "equalto", t_eq, "other", 1 },
    { "escaped", t_escaped, "", 0 },
    { "even", t_even, "", 0 },
    { "false", t_false, "", 0 },
    { "filter", t_filter, "", 0 },
    { "float", t_float, "", 0 },
    { "ge", t_ge, "other", 1 },
    { "greaterthan", t_gt, "other", 1 },
    { "gt", t_gt, "other", 1 },
    { "in", t_in, "seq", 1 },
    { "integer", t_integer, "", 0 },
    { "iterable", t_iterable, "", 0 },
    { "le", t_le, "other", 1 },
    { "lessthan", t_lt, "other", 1 },
    { "lower", t_lower, "", 0 },
    { "lt", t_lt, "other", 1 },
    { "mapping", t_mapping, "", 0 },
    { "ne", t_ne, "other", 1 },
    { "none", t_none, "", 0 },
    { "number", t_number, "", 0 },
    { "odd", t_odd, "", 0 },
    { "sameas", t_sameas, "other", 1 },
    { "sequence", t_sequence, "", 0 },
    { "string", t_string, "", 0 },
    { "test", t_test, "", 0 },
    { "true", t_true, "", 0 },
    { "undefined", t_undefined, "", 0 },
    { "upper", t_upper, "", 0 },
    { NULL, NULL, NULL, 0 }
};


const jdef_t *
j_find_test(const jstr_t *name)
{
    return j_find_def(tests, name);
}
