/*
 * jinja_arith: the binary operators on numbers, strings and lists.
 *
 * Integers have 64 bits; where Python's would grow, rendering fails.
 */

#include <math.h>

#include "text/jinja.h"


/* --- arithmetic ------------------------------------------------------- */

static _Noreturn void
bad_operands(jx_t *x, const char *op, jv_t a, jv_t b)
{
    j_undefined(x, a);
    j_undefined(x, b);
    j_fail(x, "unsupported operand types for %s: '%s' and '%s'", op,
           j_type_name(a), j_type_name(b));
}


static jv_t
checked(jx_t *x, bool overflow, int64_t v)
{
    if (overflow) {
        j_fail(x, "integer overflow");
    }

    return j_int(v);
}


static jv_t
int_power(jx_t *x, int64_t base, int64_t n)
{
    bool     bad;
    int64_t  v;

    if (n < 0) {
        if (base == 0) {
            j_fail(x, "0.0 cannot be raised to a negative power");
        }
        return j_float(pow((double) base, (double) n));
    }

    if (base == 0 || base == 1 || base == -1) {
        return j_int(n == 0 ? 1 : base == -1 && n % 2 == 0 ? 1 : base);
    }

    for (v = 1, bad = false; n > 0 && !bad; n--) {
        bad = __builtin_mul_overflow(v, base, &v);
    }

    return checked(x, bad, v);
}


static jv_t
int_op(jx_t *x, j_op_e op, int64_t a, int64_t b)
{
    bool     bad;
    int64_t  v;

    switch (op) {

    case JO_ADD:
        bad = __builtin_add_overflow(a, b, &v);
        return checked(x, bad, v);

    case JO_SUB:
        bad = __builtin_sub_overflow(a, b, &v);
        return checked(x, bad, v);

    case JO_MUL:
        bad = __builtin_mul_overflow(a, b, &v);
        return checked(x, bad, v);

    case JO_POW:
        return int_power(x, a, b);

    default:
        break;
    }

    if (b == 0) {
        j_fail(x, "division by zero");
    }

    if (op == JO_DIV) {
        return j_float((double) a / (double) b);
    }

    if (b == -1) {
        if (op == JO_MOD) {
            return j_int(0);
        }
        bad = __builtin_sub_overflow(0, a, &v);
        return checked(x, bad, v);
    }

    /* towards minus infinity, the remainder with the sign of b */
    v = a % b;
    if (v != 0 && (v < 0) != (b < 0)) {
        v += b;
    }

    return j_int(op == JO_MOD ? v : (a - v) / b);
}


static jv_t
float_op(jx_t *x, j_op_e op, double a, double b)
{
    double  div, mod, v;

    switch (op) {

    case JO_ADD:
        return j_float(a + b);

    case JO_SUB:
        return j_float(a - b);

    case JO_MUL:
        return j_float(a * b);

    case JO_POW:
        if ((a == 0 && b < 0) || (a < 0 && isfinite(a) && isfinite(b)
                                  && b != floor(b)))
        {
            j_fail(x, "power of these numbers is not real");
        }
        v = pow(a, b);
        if (isinf(v) && isfinite(a) && isfinite(b)) {
            j_fail(x, "numerical result out of range");
        }
        return j_float(v);

    default:
        break;
    }

    if (b == 0) {
        j_fail(x, "division by zero");
    }

    if (op == JO_DIV) {
        return j_float(a / b);
    }

    mod = fmod(a, b);
    div = (a - mod) / b;

    if (mod != 0) {
        if ((b < 0) != (mod < 0)) {
            mod += b;
            div -= 1;
        }
    } else {
        mod = copysign(0, b);
    }

    if (op == JO_MOD) {
        return j_float(mod);
    }

    if (div == 0) {
        return j_float(copysign(0, a / b));
    }

    v = floor(div);
    return j_float(div - v > 0.5 ? v + 1 : v);
}


/* --- operators on strings and lists ----------------------------------- */

static jv_t
add_strings(jx_t *x, jv_t a, jv_t b)
{
    jv_t     v;
    jstr_t  *sa, *sb;

    sa = a.u.s;
    sb = b.u.s;

    /* Markup escapes what it is joined with */
    if ((a.flags & J_SAFE) && !(b.flags & J_SAFE)) {
        sb = js_escape(x, sb);
    } else if ((b.flags & J_SAFE) && !(a.flags & J_SAFE)) {
        sa = js_escape(x, sa);
    }

    v = j_str(js_cat(x, sa, sb));
    v.flags = (a.flags | b.flags) & J_SAFE;

    return v;
}


static jv_t
add_lists(jx_t *x, jv_t a, jv_t b)
{
    size_t    i;
    jlist_t  *l;

    l = j_list_new(x, a.u.l->n + b.u.l->n);

    for (i = 0; i < a.u.l->n; i++) {
        j_list_add(x, l, a.u.l->v[i]);
    }
    for (i = 0; i < b.u.l->n; i++) {
        j_list_add(x, l, b.u.l->v[i]);
    }

    return a.type == J_LIST ? j_list(l) : j_tuple(l);
}


static jv_t
repeat(jx_t *x, jv_t a, int64_t n)
{
    jv_t      v;
    size_t    i;
    jlist_t  *l;

    if (a.type == J_STR) {
        v = j_str(js_repeat(x, a.u.s, n));
        v.flags = a.flags & J_SAFE;
        return v;
    }

    l = j_list_new(x, 0);

    for ( /* void */ ; n > 0 && a.u.l->n > 0; n--) {
        for (i = 0; i < a.u.l->n; i++) {
            j_list_add(x, l, a.u.l->v[i]);
        }
    }

    return a.type == J_LIST ? j_list(l) : j_tuple(l);
}


static bool
repeats(jv_t v)
{
    return v.type == J_STR || v.type == J_LIST || v.type == J_TUPLE;
}


jv_t
j_binop(jx_t *x, j_op_e op, jv_t a, jv_t b)
{
    jv_t  v;

    static const char *const  names[] = {
        "+", "-", "*", "/", "//", "%", "**"
    };

    j_step(x, 0);

    if (j_is_num(a) && j_is_num(b)) {
        v = j_is_int(a) && j_is_int(b) ? int_op(x, op, a.u.i, b.u.i)
                                   : float_op(x, op, j_num(a), j_num(b));
        v.flags |= (a.flags | b.flags) & J_TAINT;
        return v;
    }

    if (op == JO_ADD && a.type == b.type) {
        if (a.type == J_STR) {
            return add_strings(x, a, b);
        }
        if (a.type == J_LIST || a.type == J_TUPLE) {
            v = add_lists(x, a, b);
            v.flags |= (a.flags | b.flags) & J_TAINT;
            return v;
        }
    }

    if (op == JO_MUL && repeats(a) && j_is_int(b)) {
        return repeat(x, a, b.u.i);
    }

    if (op == JO_MUL && j_is_int(a) && repeats(b)) {
        return repeat(x, b, a.u.i);
    }

    if (op == JO_MOD && a.type == J_STR) {
        return j_str(j_percent(x, a.u.s, b));
    }

    bad_operands(x, names[op], a, b);
}
