
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * $moe_*: what is known of a request's job.  Not cacheable, so that a "map"
 * or a log line has what is true when it is made.
 */


#include "ngx_http_moe.h"


#define NGX_HTTP_MOE_VAR_MODEL       0
#define NGX_HTTP_MOE_VAR_STREAM      1
#define NGX_HTTP_MOE_VAR_REQUEST_ID  2
#define NGX_HTTP_MOE_VAR_ENGINE      3
#define NGX_HTTP_MOE_VAR_FINISH      4

#define NGX_HTTP_MOE_VAR_PROMPT      0
#define NGX_HTTP_MOE_VAR_CACHED      1
#define NGX_HTTP_MOE_VAR_COMPLETION  2

#define NGX_HTTP_MOE_VAR_QUEUE       0
#define NGX_HTTP_MOE_VAR_TTFT        1
#define NGX_HTTP_MOE_VAR_TPOT        2


static ngx_int_t ngx_http_moe_text_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_moe_count_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_moe_time_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


static ngx_http_variable_t  ngx_http_moe_vars[] = {

    { ngx_string("moe_model"), NULL, ngx_http_moe_text_variable,
      NGX_HTTP_MOE_VAR_MODEL, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_stream"), NULL, ngx_http_moe_text_variable,
      NGX_HTTP_MOE_VAR_STREAM, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_request_id"), NULL, ngx_http_moe_text_variable,
      NGX_HTTP_MOE_VAR_REQUEST_ID, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_engine"), NULL, ngx_http_moe_text_variable,
      NGX_HTTP_MOE_VAR_ENGINE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_finish_reason"), NULL, ngx_http_moe_text_variable,
      NGX_HTTP_MOE_VAR_FINISH, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_prompt_tokens"), NULL, ngx_http_moe_count_variable,
      NGX_HTTP_MOE_VAR_PROMPT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_cached_tokens"), NULL, ngx_http_moe_count_variable,
      NGX_HTTP_MOE_VAR_CACHED, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_completion_tokens"), NULL, ngx_http_moe_count_variable,
      NGX_HTTP_MOE_VAR_COMPLETION, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_queue_time"), NULL, ngx_http_moe_time_variable,
      NGX_HTTP_MOE_VAR_QUEUE, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_ttft"), NULL, ngx_http_moe_time_variable,
      NGX_HTTP_MOE_VAR_TTFT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("moe_tpot"), NULL, ngx_http_moe_time_variable,
      NGX_HTTP_MOE_VAR_TPOT, NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_str_t  ngx_http_moe_finish_reasons[] = {
    ngx_null_string,
    ngx_string("stop"),
    ngx_string("length"),
    ngx_string("cancelled"),
    ngx_string("error")
};


ngx_int_t
ngx_http_moe_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_moe_vars; v->name.len; v++) {
        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_text_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t            text;
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_moe_get_ctx(r);
    ngx_str_null(&text);

    if (ctx) {
        switch (data) {

        case NGX_HTTP_MOE_VAR_MODEL:
            text = ctx->api.model;
            break;

        case NGX_HTTP_MOE_VAR_STREAM:
            if (ctx->parsed) {
                text.data = (u_char *) (ctx->api.stream ? "1" : "0");
                text.len = 1;
            }

            break;

        case NGX_HTTP_MOE_VAR_REQUEST_ID:
            text = ctx->api.request_id;
            break;

        case NGX_HTTP_MOE_VAR_ENGINE:
            if (ctx->engine) {
                text = *ctx->engine;
            }

            break;

        default: /* NGX_HTTP_MOE_VAR_FINISH */
            if (ctx->finish <= MOE_FINISH_ERROR) {
                text = ngx_http_moe_finish_reasons[ctx->finish];
            }
        }
    }

    if (text.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = text.len;
    v->data = text.data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_count_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    uint32_t             n;
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_moe_get_ctx(r);

    if (ctx == NULL || ctx->submitted == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    switch (data) {

    case NGX_HTTP_MOE_VAR_PROMPT:
        n = ctx->prompt_tokens;
        break;

    case NGX_HTTP_MOE_VAR_CACHED:
        n = ctx->cached_tokens;
        break;

    default: /* NGX_HTTP_MOE_VAR_COMPLETION */
        n = ctx->completion_tokens;
    }

    v->data = ngx_pnalloc(r->pool, NGX_INT32_LEN);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    v->len = ngx_sprintf(v->data, "%uD", n) - v->data;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}


/* seconds; a token's share of the time has microseconds */

static ngx_int_t
ngx_http_moe_time_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    uint64_t             us;
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_moe_get_ctx(r);

    if (ctx == NULL
        || (data == NGX_HTTP_MOE_VAR_QUEUE && ctx->started == 0)
        || (data == NGX_HTTP_MOE_VAR_TTFT && !ctx->has_first)
        || (data == NGX_HTTP_MOE_VAR_TPOT && ctx->completion_tokens < 2))
    {
        v->not_found = 1;
        return NGX_OK;
    }

    v->data = ngx_pnalloc(r->pool, NGX_INT64_LEN + 8);
    if (v->data == NULL) {
        return NGX_ERROR;
    }

    switch (data) {

    case NGX_HTTP_MOE_VAR_QUEUE:
        us = (uint64_t) (ctx->started - ctx->submitted) * 1000;
        break;

    case NGX_HTTP_MOE_VAR_TTFT:
        us = (uint64_t) (ctx->first - ctx->begin) * 1000;
        break;

    default: /* NGX_HTTP_MOE_VAR_TPOT */
        us = (uint64_t) (ctx->last - ctx->first) * 1000
             / (ctx->completion_tokens - 1);
    }

    if (data == NGX_HTTP_MOE_VAR_TPOT) {
        v->len = ngx_sprintf(v->data, "%uL.%06uL", us / 1000000,
                             us % 1000000)
                 - v->data;

    } else {
        v->len = ngx_sprintf(v->data, "%uL.%03uL", us / 1000000,
                             us / 1000 % 1000)
                 - v->data;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    return NGX_OK;
}
