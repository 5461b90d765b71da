/*
 * jinja_json: the variables of a request as values.
 */

#include "text/jinja.h"


static jv_t
json_dict(jx_t *x, const json_t *json, int trust)
{
    void     *it;
    json_t   *obj;
    jdict_t  *d;
    jpair_t  *e;

    obj = (json_t *) json;      /* jansson iterates over what is not const */
    d = j_dict_new(x, json_object_size(obj));

    for (it = json_object_iter(obj); it && d->n < d->cap;
         it = json_object_iter_next(obj, it))
    {
        e = &d->e[d->n];
        e->key = j_str(js_new(x, json_object_iter_key(it),
                              json_object_iter_key_len(it), trust));
        e->val = j_from_json(x, json_object_iter_value(it), trust);
        d->n++;
    }

    return j_dict(d);
}


static jv_t
json_list(jx_t *x, const json_t *json, int trust)
{
    size_t    i, n;
    jlist_t  *l;

    n = json_array_size(json);
    l = j_list_new(x, n);

    for (i = 0; i < n; i++) {
        j_list_add(x, l, j_from_json(x, json_array_get(json, i), trust));
    }

    return j_list(l);
}


/* Strings point into the JSON. */
jv_t
j_from_json(jx_t *x, const json_t *json, int trust)
{
    jv_t  v;

    j_step(x, 0);
    j_enter(x);

    switch (json_typeof(json)) {

    case JSON_OBJECT:
        v = json_dict(x, json, trust);
        break;

    case JSON_ARRAY:
        v = json_list(x, json, trust);
        break;

    case JSON_STRING:
        v = j_str(js_new(x, json_string_value(json),
                         json_string_length(json), trust));
        break;

    case JSON_INTEGER:
        v = j_int(json_integer_value(json));
        break;

    case JSON_REAL:
        v = j_float(json_real_value(json));
        break;

    case JSON_TRUE:
    case JSON_FALSE:
        v = j_bool(json_is_true(json));
        break;

    default:
        v = j_none();
    }

    j_leave(x);

    if (trust == J_REQUEST && v.type != J_STR) {
        v.flags |= J_TAINT;
    }

    return v;
}
