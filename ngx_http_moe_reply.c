
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * Replies: header fields, whole bodies, error objects.
 */


#include "ngx_http_moe.h"


static void ngx_http_moe_reply_cleanup(void *data);
static ngx_uint_t ngx_http_moe_has_error_page(ngx_http_request_t *r,
    ngx_uint_t status);
static ngx_int_t ngx_http_moe_header_filter(ngx_http_request_t *r);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;


static ngx_str_t  ngx_http_moe_no_cache = ngx_string("no-cache");
static ngx_str_t  ngx_http_moe_no = ngx_string("no");


ngx_int_t
ngx_http_moe_add_header(ngx_http_request_t *r, char *name, ngx_str_t *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    ngx_http_moe_header_last(h);
    h->key.len = ngx_strlen(name);
    h->key.data = (u_char *) name;
    h->value = *value;

    return NGX_OK;
}


ngx_int_t
ngx_http_moe_send_reply(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_http_moe_out_t *out)
{
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t          cl;
    ngx_pool_cleanup_t  *cln;

    r->headers_out.status = status;

    if (r != r->main) {
        ngx_http_moe_out_free(out);
        return NGX_OK;
    }

    cln = ngx_pool_cleanup_add(r->pool, sizeof(ngx_http_moe_out_t));
    if (cln == NULL) {
        ngx_http_moe_out_free(out);
        return NGX_ERROR;
    }

    cln->handler = ngx_http_moe_reply_cleanup;
    ngx_memcpy(cln->data, out, sizeof(ngx_http_moe_out_t));

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = out->data;
    b->last = out->data + out->len;
    b->memory = (out->len != 0);
    b->last_buf = 1;
    b->last_in_chain = 1;

    r->headers_out.content_length_n = out->len;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    ngx_memzero(out, sizeof(ngx_http_moe_out_t));

    if (r->headers_out.content_length) {
        r->headers_out.content_length->hash = 0;
        r->headers_out.content_length = NULL;
    }

    ngx_http_clear_accept_ranges(r);
    r->disable_not_modified = 1;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    cl.buf = b;
    cl.next = NULL;

    return ngx_http_output_filter(r, &cl);
}


static void
ngx_http_moe_reply_cleanup(void *data)
{
    ngx_http_moe_out_free(data);
}


ngx_http_moe_error_t *
ngx_http_moe_error(ngx_http_request_t *r, ngx_uint_t status,
    const char *code, const char *message)
{
    ngx_http_moe_error_t  *err;

    err = ngx_pcalloc(r->pool, sizeof(ngx_http_moe_error_t));
    if (err == NULL) {
        return NULL;
    }

    err->status = status;
    err->message.data = (u_char *) message;
    err->message.len = ngx_strlen(message);

    if (code) {
        err->code.data = (u_char *) code;
        err->code.len = ngx_strlen(code);
    }

    return err;
}


ngx_int_t
ngx_http_moe_send_error(ngx_http_request_t *r, ngx_http_moe_error_t *err,
    ngx_uint_t own)
{
    ngx_str_t            retry;
    ngx_http_moe_out_t   out;

    if (err == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (err->retry_after) {
        retry.data = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
        if (retry.data == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        retry.len = ngx_sprintf(retry.data, "%ui", err->retry_after)
                    - retry.data;

        if (ngx_http_moe_add_header(r, "Retry-After", &retry) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    if (own && r == r->main && err->status >= NGX_HTTP_INTERNAL_SERVER_ERROR
        && ngx_http_moe_has_error_page(r, err->status))
    {
        return err->status;
    }

    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));

    if (ngx_http_moe_api_error_body(err, &out) != NGX_OK) {
        ngx_http_moe_out_free(&out);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_moe_send_reply(r, err->status, "application/json", &out);
}


/* what nginx itself says goes by error_page, what an engine says does not:
 * as with proxy_pass */

static ngx_uint_t
ngx_http_moe_has_error_page(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (clcf->error_pages == NULL
        || (r->error_page && !clcf->recursive_error_pages))
    {
        return 0;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {
        if (page[i].status == (ngx_int_t) status) {
            return 1;
        }
    }

    return 0;
}


ngx_int_t
ngx_http_moe_send_sse_header(ngx_http_request_t *r)
{
    ngx_table_elt_t  *cc;

    r->headers_out.status = NGX_HTTP_OK;
    ngx_str_set(&r->headers_out.content_type, "text/event-stream");
    r->headers_out.content_type_len = r->headers_out.content_type.len;
    r->headers_out.content_type_lowcase = NULL;

    ngx_http_clear_content_length(r);
    ngx_http_clear_accept_ranges(r);
    r->disable_not_modified = 1;

    cc = ngx_list_push(&r->headers_out.headers);
    if (cc == NULL) {
        return NGX_ERROR;
    }

    cc->hash = 1;
    ngx_http_moe_header_last(cc);
    ngx_str_set(&cc->key, "Cache-Control");
    cc->value = ngx_http_moe_no_cache;

    if (ngx_http_moe_cache_control(r, cc) != NGX_OK
        || ngx_http_moe_add_header(r, "X-Accel-Buffering", &ngx_http_moe_no)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_send_header(r);
}


/* every reply has X-Request-Id, nginx's own errors too */

static ngx_int_t
ngx_http_moe_header_filter(ngx_http_request_t *r)
{
    ngx_http_moe_ctx_t  *ctx;

    if (r == r->main) {
        ctx = ngx_http_moe_need_ctx(r);

        if (ctx && ngx_http_moe_add_header(r, "X-Request-Id",
                                           &ctx->api.request_id)
                   != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_next_header_filter(r);
}


ngx_int_t
ngx_http_moe_header_filter_init(ngx_conf_t *cf)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_moe_header_filter;

    return NGX_OK;
}
