
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * From a request to a job: endpoints and methods, the request's body, its
 * context.
 */


#include "ngx_http_moe.h"


typedef ngx_int_t (*ngx_http_moe_get_pt)(ngx_http_request_t *r);


typedef struct {
    ngx_str_t              uri;
    ngx_str_t              allow;
    ngx_http_moe_get_pt    get;         /* NULL: POST, of the api */
    ngx_http_moe_api_e     api;
    ngx_uint_t             prefix;      /* unsigned  prefix:1; */
} ngx_http_moe_endpoint_t;


static ngx_http_moe_endpoint_t *ngx_http_moe_endpoint(ngx_http_request_t *r);
static ngx_int_t ngx_http_moe_method(ngx_http_request_t *r,
    ngx_http_moe_endpoint_t *ep);
static ngx_http_moe_ctx_t *ngx_http_moe_create_ctx(ngx_http_request_t *r,
    ngx_http_moe_endpoint_t *ep);
static void ngx_http_moe_ctx_cleanup(void *data);
static void ngx_http_moe_body_handler(ngx_http_request_t *r);
static void ngx_http_moe_early_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_moe_parse(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_body(ngx_http_request_t *r, ngx_str_t *body,
    u_char **heap);
static ngx_int_t ngx_http_moe_reject(ngx_http_request_t *r,
    ngx_http_moe_error_t *err);


static ngx_http_moe_endpoint_t  ngx_http_moe_endpoints[] = {

    { ngx_string("/v1/chat/completions"), ngx_string("POST, OPTIONS"),
      NULL, NGX_HTTP_MOE_API_CHAT, 0 },

    { ngx_string("/v1/completions"), ngx_string("POST, OPTIONS"),
      NULL, NGX_HTTP_MOE_API_COMPLETION, 0 },

    { ngx_string("/tokenize"), ngx_string("POST, OPTIONS"),
      NULL, NGX_HTTP_MOE_API_TOKENIZE, 0 },

    { ngx_string("/detokenize"), ngx_string("POST, OPTIONS"),
      NULL, NGX_HTTP_MOE_API_DETOKENIZE, 0 },

    { ngx_string("/v1/models"), ngx_string("GET, HEAD, OPTIONS"),
      ngx_http_moe_models_handler, NGX_HTTP_MOE_API_CHAT, 0 },

    { ngx_string("/v1/models/"), ngx_string("GET, HEAD, OPTIONS"),
      ngx_http_moe_models_handler, NGX_HTTP_MOE_API_CHAT, 1 },

    { ngx_string("/health"), ngx_string("GET, HEAD, OPTIONS"),
      ngx_http_moe_health_handler, NGX_HTTP_MOE_API_CHAT, 0 },

    { ngx_null_string, ngx_null_string, NULL, NGX_HTTP_MOE_API_CHAT, 0 }
};


ngx_int_t
ngx_http_moe_handler(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_moe_ctx_t       *ctx;
    ngx_http_moe_endpoint_t  *ep;

    if (r != r->main && !r->background) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "\"moe_pass\" does not serve subrequests");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ep = ngx_http_moe_endpoint(r);

    ctx = ngx_http_moe_create_ctx(r, ep);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (ep == NULL) {
        return ngx_http_moe_reject(r,
                   ngx_http_moe_error(r, NGX_HTTP_NOT_FOUND,
                                      "unknown_url", "Unknown request URL."));
    }

    rc = ngx_http_moe_method(r, ep);
    if (rc != NGX_DECLINED) {
        return rc;
    }

    if (ep->get) {
        rc = ngx_http_discard_request_body(r);

        return (rc == NGX_OK) ? ep->get(r) : rc;
    }

    ctx->background = (r != r->main);

    rc = ngx_http_read_client_request_body(r, ngx_http_moe_body_handler);

    return (rc >= NGX_HTTP_SPECIAL_RESPONSE) ? rc : NGX_DONE;
}


static ngx_http_moe_endpoint_t *
ngx_http_moe_endpoint(ngx_http_request_t *r)
{
    ngx_http_moe_endpoint_t  *ep;

    for (ep = ngx_http_moe_endpoints; ep->uri.len; ep++) {

        if (r->uri.len == ep->uri.len
            || (ep->prefix && r->uri.len > ep->uri.len))
        {
            if (ngx_memcmp(r->uri.data, ep->uri.data, ep->uri.len) == 0
                && (!ep->prefix || r->uri.len > ep->uri.len))
            {
                return ep;
            }
        }
    }

    return NULL;
}


/* NGX_DECLINED: go on; otherwise the content handler's result */

static ngx_int_t
ngx_http_moe_method(ngx_http_request_t *r, ngx_http_moe_endpoint_t *ep)
{
    ngx_int_t   rc;
    ngx_uint_t  allowed;

    allowed = ep->get ? (NGX_HTTP_GET|NGX_HTTP_HEAD) : NGX_HTTP_POST;

    if (r->method & allowed) {
        return NGX_DECLINED;
    }

    if (ngx_http_moe_add_header(r, "Allow", &ep->allow) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (r->method != NGX_HTTP_OPTIONS) {
        return ngx_http_moe_reject(r,
                   ngx_http_moe_error(r, NGX_HTTP_NOT_ALLOWED,
                                      "method_not_allowed",
                                      "Method not allowed."));
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    r->headers_out.status = NGX_HTTP_NO_CONTENT;
    r->header_only = 1;

    return ngx_http_send_header(r);
}


/* an error before the body was read */

static ngx_int_t
ngx_http_moe_reject(ngx_http_request_t *r, ngx_http_moe_error_t *err)
{
    ngx_int_t  rc;

    rc = ngx_http_discard_request_body(r);

    return (rc == NGX_OK) ? ngx_http_moe_send_error(r, err, 0) : rc;
}


/* contexts */


ngx_http_moe_ctx_t *
ngx_http_moe_need_ctx(ngx_http_request_t *r)
{
    ngx_http_moe_ctx_t       *ctx;
    ngx_http_moe_loc_conf_t  *mlcf;

    ctx = ngx_http_moe_get_ctx(r);

    if (ctx) {
        return ctx;
    }

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    if (mlcf->upstream == NULL && mlcf->pass == NULL) {
        return NULL;
    }

    return ngx_http_moe_create_ctx(r, ngx_http_moe_endpoint(r));
}


static ngx_http_moe_ctx_t *
ngx_http_moe_create_ctx(ngx_http_request_t *r, ngx_http_moe_endpoint_t *ep)
{
    ngx_http_moe_api_e    api;
    ngx_pool_cleanup_t   *cln;
    ngx_http_moe_ctx_t   *ctx, *old;

    old = ngx_http_moe_get_ctx(r);
    api = ep ? ep->api : NGX_HTTP_MOE_API_CHAT;

    /* error_page may lead to another engine: that is a new job */

    if (old && old->api.endpoint == api && old->state == NGX_HTTP_MOE_INIT) {
        return old;
    }

    ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_moe_ctx_t));
    if (ctx == NULL) {
        return NULL;
    }

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NULL;
    }

    ctx->request = r;

    if (ngx_http_moe_api_init(&ctx->api, r->pool, api) != NGX_OK) {
        return NULL;
    }

    if (old) {
        ctx->api.request_id = old->api.request_id;
    }

    cln->handler = ngx_http_moe_ctx_cleanup;
    cln->data = ctx;

    ngx_http_set_ctx(r, ctx, ngx_http_moe_module);

    return ctx;
}


ngx_http_moe_ctx_t *
ngx_http_moe_get_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_moe_module);

    if (ctx || (!r->internal && !r->filter_finalize)) {
        return ctx;
    }

    /* an internal redirect took it away */

    for (cln = r->pool->cleanup; cln; cln = cln->next) {

        if (cln->handler != ngx_http_moe_ctx_cleanup) {
            continue;
        }

        ctx = cln->data;

        if (ctx->request == r) {
            ngx_http_set_ctx(r, ctx, ngx_http_moe_module);
            return ctx;
        }
    }

    return NULL;
}


static void
ngx_http_moe_ctx_cleanup(void *data)
{
    ngx_http_moe_ctx_t *ctx = data;

    ngx_http_moe_out_free(&ctx->out);

    if (ctx->record.data) {
        ngx_free(ctx->record.data);
        ctx->record.data = NULL;
    }
}


/* the body */


static void
ngx_http_moe_body_handler(ngx_http_request_t *r)
{
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_moe_get_ctx(r);

    if (!ctx->parsed && ngx_http_moe_parse(ctx) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    if (ctx->error) {
        ngx_http_moe_count(requests, 1);
        ngx_http_moe_count(refused, 1);
        ngx_http_finalize_request(r,
                                  ngx_http_moe_send_error(r, ctx->error, 0));
        return;
    }

    ngx_http_moe_stream_start(ctx);
}


/*
 * moe_early_body: limits run before the content phase and would not have the
 * body, so that it is read before them.
 */

ngx_int_t
ngx_http_moe_early_handler(ngx_http_request_t *r)
{
    ngx_int_t                 rc;
    ngx_http_moe_ctx_t       *ctx;
    ngx_http_moe_endpoint_t  *ep;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    if (r != r->main
        || (mlcf->upstream == NULL && mlcf->pass == NULL
            && !mlcf->early_body))
    {
        return NGX_DECLINED;
    }

    ep = ngx_http_moe_endpoint(r);

    ctx = ngx_http_moe_create_ctx(r, ep);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    if (!mlcf->early_body || ctx->early || ep == NULL || ep->get
        || r->method != NGX_HTTP_POST)
    {
        return NGX_DECLINED;
    }

    ctx->early = 1;

    rc = ngx_http_read_client_request_body(r, ngx_http_moe_early_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    ngx_http_finalize_request(r, NGX_DONE);
    return NGX_DONE;
}


static void
ngx_http_moe_early_body_handler(ngx_http_request_t *r)
{
    ngx_http_moe_ctx_t  *ctx;

    ctx = ngx_http_moe_get_ctx(r);

    if (ngx_http_moe_parse(ctx) != NGX_OK) {
        ctx->error = ngx_http_moe_error(r, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                        NULL, "Out of memory.");
        ctx->parsed = 1;
    }

    r->preserve_body = 1;

    r->write_event_handler = ngx_http_core_run_phases;
    ngx_http_core_run_phases(r);
}


/* NGX_OK: ctx->error says what is wrong with the request, or it is right */

static ngx_int_t
ngx_http_moe_parse(ngx_http_moe_ctx_t *ctx)
{
    u_char                   *heap;
    ngx_int_t                 rc;
    ngx_str_t                 body;
    ngx_http_moe_error_t      err;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(ctx->request, ngx_http_moe_module);

    if (ngx_http_moe_body(ctx->request, &body, &heap) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_memzero(&err, sizeof(ngx_http_moe_error_t));

    rc = ngx_http_moe_api_parse(&ctx->api, &mlcf->api, &body, &err);

    if (heap) {
        ngx_free(heap);
    }

    if (rc == NGX_ERROR) {
        return NGX_ERROR;
    }

    ctx->parsed = 1;

    if (rc == NGX_DECLINED) {
        ctx->error = ngx_palloc(ctx->request->pool,
                                sizeof(ngx_http_moe_error_t));
        if (ctx->error == NULL) {
            return NGX_ERROR;
        }

        *ctx->error = err;
    }

    return NGX_OK;
}


/*
 * The whole body in one piece: where it lies, if that is one buffer, or on
 * the heap, to be freed by the caller.
 */

static ngx_int_t
ngx_http_moe_body(ngx_http_request_t *r, ngx_str_t *body, u_char **heap)
{
    u_char       *p;
    size_t        size;
    ssize_t       n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    ngx_str_null(body);
    *heap = NULL;

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;

    if (cl->next == NULL && ngx_buf_in_memory(cl->buf)) {
        body->data = cl->buf->pos;
        body->len = cl->buf->last - cl->buf->pos;
        return NGX_OK;
    }

    size = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    if (size == 0) {
        return NGX_OK;
    }

    p = ngx_alloc(size, r->connection->log);
    if (p == NULL) {
        return NGX_ERROR;
    }

    *heap = p;
    body->data = p;
    body->len = size;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
            continue;
        }

        size = (size_t) (b->file_last - b->file_pos);
        n = size ? ngx_read_file(b->file, p, size, b->file_pos) : 0;

        if (n == NGX_ERROR || (size_t) n != size) {
            ngx_free(*heap);
            *heap = NULL;
            return NGX_ERROR;
        }

        p += n;
    }

    return NGX_OK;
}
