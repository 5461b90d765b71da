
/*
 * Copyright (C) the ngx_moe authors
 */


#include "ngx_http_moe_dialect.h"


#include <openssl/rand.h>


#define NGX_HTTP_MOE_OUT_MIN  512


typedef struct {
    ngx_uint_t    status;
    ngx_str_t     type;
} ngx_http_moe_error_type_t;


static void ngx_http_moe_api_free_job(ngx_http_moe_api_t *api);
static void ngx_http_moe_api_cleanup(void *data);
static ngx_int_t ngx_http_moe_error_field(ngx_http_moe_out_t *out,
    const char *name, ngx_str_t *value);


static ngx_str_t  ngx_http_moe_api_ids[] = {
    ngx_string("chatcmpl-"),
    ngx_string("cmpl-"),
    ngx_string("tok-"),
    ngx_string("detok-")
};


/* a status that is not here goes by its class */

static ngx_http_moe_error_type_t  ngx_http_moe_error_types[] = {
    { 401, ngx_string("authentication_error") },
    { 403, ngx_string("permission_error") },
    { 429, ngx_string("rate_limit_error") },
    { 400, ngx_string("invalid_request_error") },
    { 500, ngx_string("server_error") }
};


ngx_int_t
ngx_http_moe_api_init(ngx_http_moe_api_t *api, ngx_pool_t *pool,
    ngx_http_moe_api_e endpoint)
{
    u_char              *p, bytes[16];
    ngx_pool_cleanup_t  *cln;

    ngx_memzero(api, sizeof(ngx_http_moe_api_t));

    api->pool = pool;
    api->endpoint = endpoint;
    api->created = ngx_time();

    if (RAND_bytes(bytes, sizeof(bytes)) != 1) {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_moe_api_cleanup;
    cln->data = api;

    api->id.len = ngx_http_moe_api_ids[endpoint].len + 2 * sizeof(bytes);
    api->id.data = ngx_pnalloc(pool, api->id.len);
    if (api->id.data == NULL) {
        return NGX_ERROR;
    }

    p = ngx_cpymem(api->id.data, ngx_http_moe_api_ids[endpoint].data,
                   ngx_http_moe_api_ids[endpoint].len);

    api->request_id.len = 2 * sizeof(bytes);
    api->request_id.data = p;

    ngx_hex_dump(p, bytes, sizeof(bytes));

    return NGX_OK;
}


static void
ngx_http_moe_api_free_job(ngx_http_moe_api_t *api)
{
    ngx_free(api->job);
    api->job = NULL;

    json_decref(api->root);
    api->root = NULL;

    free(api->messages);
    api->messages = NULL;

    free(api->kwargs);
    api->kwargs = NULL;
}


static void
ngx_http_moe_api_cleanup(void *data)
{
    ngx_http_moe_api_t *api = data;

    ngx_uint_t              i;
    ngx_http_moe_choice_t  *ch;

    ngx_http_moe_api_free_job(api);

    for (i = 0; api->choices && i < api->nchoices; i++) {
        ch = &api->choices[i];

        ngx_http_moe_out_free(&ch->text);
        ngx_http_moe_out_free(&ch->logprobs);
        ngx_http_moe_out_free(&ch->tops);
        ngx_http_moe_out_free(&ch->values);
        ngx_http_moe_out_free(&ch->offsets);
    }

    api->choices = NULL;
}


ngx_int_t
ngx_http_moe_api_encode(ngx_http_moe_api_t *api, ngx_str_t *record)
{
    record->len = moe_job_size(api->job);

    if (record->len == 0) {
        return NGX_ERROR;
    }

    record->data = ngx_alloc(record->len, api->pool->log);
    if (record->data == NULL) {
        return NGX_ERROR;
    }

    moe_job_write(api->job, record->data);

    ngx_http_moe_api_free_job(api);

    return NGX_OK;
}


char *
ngx_http_moe_api_default(ngx_http_moe_api_conf_t *conf, ngx_str_t *name,
    ngx_str_t *value)
{
    char        *end;
    double       number;
    u_char       text[32];
    ngx_uint_t   i;

    static struct {
        ngx_str_t     name;
        ngx_uint_t    set;
        size_t        offset;
        double        min;
        double        max;
    } numbers[] = {
        { ngx_string("temperature"), MOE_SET_TEMPERATURE,
          offsetof(ngx_http_moe_api_conf_t, temperature), 0, 2 },
        { ngx_string("top_p"), MOE_SET_TOP_P,
          offsetof(ngx_http_moe_api_conf_t, top_p), 0, 1 },
        { ngx_string("min_p"), MOE_SET_MIN_P,
          offsetof(ngx_http_moe_api_conf_t, min_p), 0, 1 },
        { ngx_string("presence_penalty"), MOE_SET_PRESENCE,
          offsetof(ngx_http_moe_api_conf_t, presence), -2, 2 },
        { ngx_string("frequency_penalty"), MOE_SET_FREQUENCY,
          offsetof(ngx_http_moe_api_conf_t, frequency), -2, 2 },
        { ngx_string("repetition_penalty"), MOE_SET_REPETITION,
          offsetof(ngx_http_moe_api_conf_t, repetition), 0.01, 10 }
    };

    if (value->len == 0 || value->len >= sizeof(text)) {
        return "is not a number";
    }

    ngx_memcpy(text, value->data, value->len);
    text[value->len] = '\0';

    number = strtod((char *) text, &end);

    if (*end != '\0' || number != number) {
        return "is not a number";
    }

    for (i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {

        if (numbers[i].name.len != name->len
            || ngx_strncmp(numbers[i].name.data, name->data, name->len) != 0)
        {
            continue;
        }

        if (number < numbers[i].min || number > numbers[i].max) {
            return "is out of range";
        }

        *(double *) ((u_char *) conf + numbers[i].offset) = number;
        conf->set |= numbers[i].set;

        return NULL;
    }

    if (number != (double) (int32_t) number) {
        return "is not an integer";
    }

    if (name->len == 5 && ngx_strncmp(name->data, "top_k", 5) == 0) {

        if (number < -1) {
            return "is out of range";
        }

        conf->top_k = (ngx_int_t) number;
        conf->set |= MOE_SET_TOP_K;

        return NULL;
    }

    if (name->len == 10 && ngx_strncmp(name->data, "max_tokens", 10) == 0) {

        if (number < 1) {
            return "is out of range";
        }

        conf->default_max_tokens = (ngx_uint_t) number;

        return NULL;
    }

    return "is of no known parameter";
}


/* errors */


ngx_int_t
ngx_http_moe_api_end_error(ngx_pool_t *pool, const moe_end_t *end,
    ngx_http_moe_error_t *err)
{
    size_t             i;
    const moe_str_t   *from[3];
    ngx_str_t         *to[3];

    ngx_memzero(err, sizeof(ngx_http_moe_error_t));

    err->status = (end->status >= 400 && end->status != 499)
                  ? end->status : 500;
    err->retry_after = ngx_min(end->retry_after, 86400);

    from[0] = &end->message;
    to[0] = &err->message;
    from[1] = &end->param;
    to[1] = &err->param;
    from[2] = &end->code;
    to[2] = &err->code;

    for (i = 0; i < 3; i++) {
        to[i]->len = from[i]->len;
        to[i]->data = ngx_pnalloc(pool, from[i]->len + 1);
        if (to[i]->data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(to[i]->data, from[i]->data, from[i]->len);
    }

    if (err->message.len == 0) {
        ngx_str_set(&err->message, "The engine failed to answer.");
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_error_field(ngx_http_moe_out_t *out, const char *name,
    ngx_str_t *value)
{
    if (ngx_http_moe_out_printf(out, ",\"%s\":", name) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value->len == 0) {
        return ngx_http_moe_out_add(out, "null", 4);
    }

    if (ngx_http_moe_out_add(out, "\"", 1) != NGX_OK
        || ngx_http_moe_out_json(out, value->data, value->len) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_add(out, "\"", 1);
}


ngx_int_t
ngx_http_moe_api_error_body(ngx_http_moe_error_t *err,
    ngx_http_moe_out_t *out)
{
    ngx_str_t                  *type;
    ngx_http_moe_error_type_t  *t;

    type = &err->type;

    if (type->len == 0) {
        t = ngx_http_moe_error_types;

        while (t->status != err->status && t->status != 400) {
            t++;
        }

        if (t->status == 400 && err->status >= 500) {
            t++;
        }

        type = &t->type;
    }

    if (ngx_http_moe_out_printf(out, "{\"error\":{\"message\":\"") != NGX_OK
        || ngx_http_moe_out_json(out, err->message.data, err->message.len)
           != NGX_OK
        || ngx_http_moe_out_printf(out, "\",\"type\":\"%V\"", type) != NGX_OK
        || ngx_http_moe_error_field(out, "param", &err->param) != NGX_OK
        || ngx_http_moe_error_field(out, "code", &err->code) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_add(out, "}}", 2);
}


ngx_int_t
ngx_http_moe_api_error_frame(ngx_http_moe_error_t *err,
    ngx_http_moe_out_t *out)
{
    if (ngx_http_moe_out_add(out, "data: ", 6) != NGX_OK
        || ngx_http_moe_api_error_body(err, out) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_add(out, "\n\n", 2);
}


ngx_int_t
ngx_http_moe_api_model(ngx_http_moe_out_t *out, const char *name,
    uint64_t created, ngx_uint_t context)
{
    if (ngx_http_moe_out_printf(out, "{\"id\":\"") != NGX_OK
        || ngx_http_moe_out_json(out, name, ngx_strlen(name)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_printf(out, "\",\"object\":\"model\","
                                   "\"created\":%uL,\"owned_by\":\"ngx_moe\","
                                   "\"max_model_len\":%ui}",
                                   created, context);
}


/* growable output */


static ngx_int_t
ngx_http_moe_out_reserve(ngx_http_moe_out_t *out, size_t len)
{
    u_char  *data;
    size_t   size;

    if (len <= out->size - out->len) {
        return NGX_OK;
    }

    size = out->size ? out->size * 2 : NGX_HTTP_MOE_OUT_MIN;

    while (size - out->len < len) {
        size *= 2;
    }

    data = realloc(out->data, size);
    if (data == NULL) {
        return NGX_ERROR;
    }

    out->data = data;
    out->size = size;

    return NGX_OK;
}


void
ngx_http_moe_out_free(ngx_http_moe_out_t *out)
{
    free(out->data);
    ngx_memzero(out, sizeof(ngx_http_moe_out_t));
}


ngx_int_t
ngx_http_moe_out_add(ngx_http_moe_out_t *out, const void *data, size_t len)
{
    if (ngx_http_moe_out_reserve(out, len) != NGX_OK) {
        return NGX_ERROR;
    }

    if (len) {
        ngx_memcpy(out->data + out->len, data, len);
        out->len += len;
    }

    return NGX_OK;
}


/* a formatted piece is short or a prefix that was measured when it was made */

ngx_int_t
ngx_http_moe_out_printf(ngx_http_moe_out_t *out, const char *fmt, ...)
{
    u_char   *p;
    size_t    room;
    va_list   args;

    room = 256;

    for ( ;; ) {
        if (ngx_http_moe_out_reserve(out, room) != NGX_OK) {
            return NGX_ERROR;
        }

        room = out->size - out->len;

        va_start(args, fmt);
        p = ngx_vslprintf(out->data + out->len, out->data + out->size, fmt,
                          args);
        va_end(args);

        if (p < out->data + out->size) {
            out->len = p - out->data;
            return NGX_OK;
        }

        room *= 2;
    }
}


/*
 * Length of the well-formed UTF-8 sequence at p (Unicode 15, table 3-7), or
 * zero, and then *bad is the length of the part that one U+FFFD replaces.
 */

static size_t
ngx_http_moe_utf8(const u_char *p, size_t len, size_t *bad)
{
    u_char  lo, hi;
    size_t  i, n;

    lo = 0x80;
    hi = 0xbf;

    if (p[0] >= 0xc2 && p[0] <= 0xdf) {
        n = 2;

    } else if (p[0] >= 0xe0 && p[0] <= 0xef) {
        n = 3;
        lo = (p[0] == 0xe0) ? 0xa0 : 0x80;
        hi = (p[0] == 0xed) ? 0x9f : 0xbf;

    } else if (p[0] >= 0xf0 && p[0] <= 0xf4) {
        n = 4;
        lo = (p[0] == 0xf0) ? 0x90 : 0x80;
        hi = (p[0] == 0xf4) ? 0x8f : 0xbf;

    } else {
        *bad = 1;
        return 0;
    }

    for (i = 1; i < n; i++) {
        if (i == len || p[i] < lo || p[i] > hi) {
            *bad = i;
            return 0;
        }

        lo = 0x80;
        hi = 0xbf;
    }

    return n;
}


static u_char *
ngx_http_moe_escape(u_char *dst, u_char ch)
{
    static u_char  hex[] = "0123456789abcdef";

    *dst++ = '\\';

    switch (ch) {

    case '"':
    case '\\':
        *dst++ = ch;
        break;

    case '\n':
        *dst++ = 'n';
        break;

    case '\r':
        *dst++ = 'r';
        break;

    case '\t':
        *dst++ = 't';
        break;

    default:
        *dst++ = 'u';
        *dst++ = '0';
        *dst++ = '0';
        *dst++ = hex[ch >> 4];
        *dst++ = hex[ch & 15];
    }

    return dst;
}


ngx_int_t
ngx_http_moe_out_json(ngx_http_moe_out_t *out, const void *data, size_t len)
{
    size_t         n, bad;
    u_char        *dst;
    const u_char  *p, *end;

    /* the longest that a byte becomes is an escape of six */

    if (ngx_http_moe_out_reserve(out, len * 6) != NGX_OK) {
        return NGX_ERROR;
    }

    dst = out->data + out->len;
    p = data;
    end = p + len;

    while (p < end) {

        if (*p < 0x80) {
            if (*p < 0x20 || *p == '"' || *p == '\\') {
                dst = ngx_http_moe_escape(dst, *p++);

            } else {
                *dst++ = *p++;
            }

            continue;
        }

        n = ngx_http_moe_utf8(p, end - p, &bad);

        if (n) {
            dst = ngx_cpymem(dst, p, n);
            p += n;

        } else {
            dst = ngx_cpymem(dst, "\xef\xbf\xbd", 3);
            p += bad;
        }
    }

    out->len = dst - out->data;

    return NGX_OK;
}
