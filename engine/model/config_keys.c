/*
 * config_keys: single values of a JSON file.
 */

#include <stdarg.h>
#include <stdio.h>

#include "model/config_parts.h"


int
moe_config_keys(moe_reader_t *r, const moe_int_key_t *k)
{
    int  *out;

    for ( /* void */ ; k->key != NULL; k++) {
        out = (int *) ((char *) r->cfg + k->offset);

        if (moe_key_need(r, k->key, k->min, k->max, out) != 0) {
            return -1;
        }
    }

    return 0;
}


int
moe_key_int(moe_reader_t *r, json_t *obj, const char *key, int min, int max,
    int *out)
{
    json_t      *val;
    json_int_t   n;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return MOE_KEY_ABSENT;
    }

    if (!json_is_integer(val)) {
        return moe_err(r->err, "%s: %s is not an integer", r->file, key);
    }

    n = json_integer_value(val);

    if (n < min || n > max) {
        return moe_err(r->err, "%s: %s %lld is not in %d..%d", r->file, key,
                       (long long) n, min, max);
    }

    *out = (int) n;

    return MOE_KEY_OK;
}


int
moe_key_need(moe_reader_t *r, const char *key, int min, int max, int *out)
{
    int  rc;

    rc = moe_key_int(r, r->root, key, min, max, out);

    if (rc == MOE_KEY_ABSENT) {
        return moe_err(r->err, "%s: %s is missing", r->file, key);
    }

    return rc;
}


int
moe_key_double(moe_reader_t *r, json_t *obj, const char *key, double min,
    double max, double *out)
{
    double   d;
    json_t  *val;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return MOE_KEY_ABSENT;
    }

    if (!json_is_number(val)) {
        return moe_err(r->err, "%s: %s is not a number", r->file, key);
    }

    d = json_number_value(val);

    if (!(d >= min && d <= max)) {
        return moe_err(r->err, "%s: %s %g is not in %g..%g", r->file, key, d,
                       min, max);
    }

    *out = d;

    return MOE_KEY_OK;
}


int
moe_key_bool(moe_reader_t *r, const char *key, int *out)
{
    json_t  *val;

    val = json_object_get(r->root, key);

    if (val == NULL || json_is_null(val)) {
        return MOE_KEY_ABSENT;
    }

    if (!json_is_boolean(val)) {
        return moe_err(r->err, "%s: %s is not true or false", r->file, key);
    }

    *out = json_is_true(val);

    return MOE_KEY_OK;
}


int
moe_key_string(moe_reader_t *r, json_t *obj, const char *key, const char **out)
{
    json_t  *val;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return MOE_KEY_ABSENT;
    }

    if (!json_is_string(val)) {
        return moe_err(r->err, "%s: %s is not a string", r->file, key);
    }

    *out = json_string_value(val);

    return MOE_KEY_OK;
}


/* those that do not fit are as good as said by those that do */
void
moe_unsupported(moe_config_t *cfg, const char *fmt, ...)
{
    va_list  args;

    if (cfg->n_unsupported == MOE_MAX_UNSUPPORTED) {
        return;
    }

    va_start(args, fmt);
    vsnprintf(cfg->unsupported[cfg->n_unsupported],
              sizeof(cfg->unsupported[0]), fmt, args);
    va_end(args);

    cfg->n_unsupported++;
}
