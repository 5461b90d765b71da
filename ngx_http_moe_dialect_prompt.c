
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * What the model is to read: messages, prompts, ids.  Their shape is checked
 * here, so that an error names the very message or part; what they say goes
 * to the engine as it is.
 */


#include "ngx_http_moe_dialect_parse.h"


ngx_uint_t
ngx_http_moe_json_is(json_t *value, const char *text)
{
    size_t  len;

    len = ngx_strlen(text);

    return json_is_string(value)
           && json_string_length(value) == len
           && ngx_memcmp(json_string_value(value), text, len) == 0;
}


/* passed on as it is, as text */

static ngx_int_t
ngx_http_moe_job_json(moe_str_t *s, char **text, json_t *value)
{
    *text = json_dumps(value, JSON_COMPACT);
    if (*text == NULL) {
        return NGX_ERROR;
    }

    s->data = *text;
    s->len = ngx_strlen(*text);

    return NGX_OK;
}


ngx_int_t
ngx_http_moe_field_kwargs(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_object(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an object");
    }

    return ngx_http_moe_job_json(&ps->job->kwargs, &ps->api->kwargs, value);
}


static ngx_int_t
ngx_http_moe_content_part(ngx_http_moe_parse_t *ps, size_t i, size_t j,
    json_t *part)
{
    char         param[64];
    json_t      *type;
    const char  *name;

    (void) snprintf(param, sizeof(param), "messages[%zu].content[%zu]", i, j);

    if (!json_is_object(part)) {
        return ngx_http_moe_wrong_type(ps, param, "an object");
    }

    type = json_object_get(part, "type");
    name = json_string_value(type);

    if (name == NULL) {
        return ngx_http_moe_refuse(ps, 400, param,
                                   "missing_required_parameter",
                                   "'%s' has no 'type'.", param);
    }

    if (!ngx_http_moe_json_is(type, "text")) {
        return ngx_http_moe_refuse(ps, 400, param, "unsupported_content",
                                   "'%s' is of type '%s'; this server takes "
                                   "text only.", param, name);
    }

    if (!json_is_string(json_object_get(part, "text"))) {
        return ngx_http_moe_refuse(ps, 400, param,
                                   "missing_required_parameter",
                                   "'%s' has no string 'text'.", param);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_message(ngx_http_moe_parse_t *ps, size_t i, json_t *message)
{
    char         param[64];
    size_t       j;
    json_t      *content, *part, *role;
    ngx_int_t    rc;

    (void) snprintf(param, sizeof(param), "messages[%zu]", i);

    if (!json_is_object(message)) {
        return ngx_http_moe_wrong_type(ps, param, "an object");
    }

    role = json_object_get(message, "role");

    (void) snprintf(param, sizeof(param), "messages[%zu].role", i);

    if (!json_is_string(role)) {
        return ngx_http_moe_refuse(ps, 400, param,
                                   "missing_required_parameter",
                                   "Missing required parameter: '%s'.",
                                   param);
    }

    if (!ngx_http_moe_json_is(role, "system")
        && !ngx_http_moe_json_is(role, "developer")
        && !ngx_http_moe_json_is(role, "user")
        && !ngx_http_moe_json_is(role, "assistant")
        && !ngx_http_moe_json_is(role, "tool"))
    {
        return ngx_http_moe_refuse(ps, 400, param, "invalid_value",
                                   "Invalid value for '%s': expected one of "
                                   "system, developer, user, assistant, "
                                   "tool.", param);
    }

    (void) snprintf(param, sizeof(param), "messages[%zu].content", i);

    content = json_object_get(message, "content");

    if (content == NULL || json_is_null(content)) {

        if (ngx_http_moe_json_is(role, "assistant")) {
            return NGX_OK;
        }

        return ngx_http_moe_refuse(ps, 400, param,
                                   "missing_required_parameter",
                                   "Missing required parameter: '%s'.",
                                   param);
    }

    if (json_is_string(content)) {
        return NGX_OK;
    }

    if (!json_is_array(content)) {
        return ngx_http_moe_wrong_type(ps, param, "a string or an array of "
                                       "text parts");
    }

    json_array_foreach(content, j, part) {
        rc = ngx_http_moe_content_part(ps, i, j, part);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_moe_field_messages(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value)
{
    size_t      i;
    json_t     *message;
    ngx_int_t   rc;

    if (!json_is_array(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an array");
    }

    if (json_array_size(value) == 0) {
        return ngx_http_moe_refuse(ps, 400, f->name, "empty_array",
                                   "'messages' must not be empty.");
    }

    json_array_foreach(value, i, message) {
        rc = ngx_http_moe_message(ps, i, message);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return ngx_http_moe_job_json(&ps->job->messages, &ps->api->messages,
                                 value);
}


static ngx_int_t
ngx_http_moe_prompt_ids(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    size_t         i, n;
    json_t        *item;
    uint32_t      *ids;
    json_int_t     id;
    moe_prompt_t  *prompt;

    n = json_array_size(value);

    ids = ngx_palloc(ps->api->pool, n * sizeof(uint32_t) + 1);
    if (ids == NULL) {
        return NGX_ERROR;
    }

    json_array_foreach(value, i, item) {

        id = json_integer_value(item);

        if (!json_is_integer(item) || id < 0 || id > 0x7fffffff) {
            return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                                       "'%s' has an item that is no token "
                                       "id, at %uz.", f->name, i);
        }

        ids[i] = (uint32_t) id;
    }

    prompt = &ps->job->prompts[ps->job->nprompts++];
    prompt->is_ids = 1;
    prompt->n = n;
    prompt->data = ids;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_prompt_item(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    moe_prompt_t  *prompt;

    if (json_is_array(value)) {
        return ngx_http_moe_prompt_ids(ps, f, value);
    }

    if (!json_is_string(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a string, an array of "
                                       "token ids, or an array of these");
    }

    prompt = &ps->job->prompts[ps->job->nprompts++];
    prompt->is_ids = 0;
    prompt->n = json_string_length(value);
    prompt->data = json_string_value(value);

    return NGX_OK;
}


/* a string, ids, a list of strings, a list of lists of ids; /tokenize takes
 * a string, /detokenize ids */

ngx_int_t
ngx_http_moe_field_prompt(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    size_t      i;
    json_t     *item;
    ngx_int_t   rc;

    switch (ps->api->endpoint) {

    case NGX_HTTP_MOE_API_TOKENIZE:
        if (!json_is_string(value)) {
            return ngx_http_moe_wrong_type(ps, f->name, "a string");
        }

        break;

    case NGX_HTTP_MOE_API_DETOKENIZE:
        if (!json_is_array(value)) {
            return ngx_http_moe_wrong_type(ps, f->name, "an array of token "
                                           "ids");
        }

        return ngx_http_moe_prompt_ids(ps, f, value);

    default:
        break;
    }

    if (!json_is_array(value)) {
        return ngx_http_moe_prompt_item(ps, f, value);
    }

    if (json_array_size(value) == 0) {
        return ngx_http_moe_refuse(ps, 400, f->name, "empty_array",
                                   "'%s' must not be empty.", f->name);
    }

    if (json_is_integer(json_array_get(value, 0))) {
        return ngx_http_moe_prompt_ids(ps, f, value);
    }

    if (json_array_size(value) > MOE_CHOICES_MAX) {
        return ngx_http_moe_refuse(ps, 400, f->name,
                                   "array_above_max_length",
                                   "'%s' may have at most %d prompts.",
                                   f->name, MOE_CHOICES_MAX);
    }

    json_array_foreach(value, i, item) {
        rc = ngx_http_moe_prompt_item(ps, f, item);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}
