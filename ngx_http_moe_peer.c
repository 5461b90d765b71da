
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * Choice of an engine by nginx's own balancers, without a connection: the
 * upstream's peer.init, get and free are called as ngx_http_upstream does,
 * and its states kept, so that "upstream {}" and $upstream_* mean what they
 * always do.
 */


#include "ngx_http_moe.h"


static ngx_http_upstream_srv_conf_t *ngx_http_moe_peer_find(
    ngx_http_request_t *r, ngx_str_t *name);
static ngx_int_t ngx_http_moe_peer_socket(ngx_http_moe_ctx_t *ctx,
    ngx_str_t *name);


ngx_int_t
ngx_http_moe_peer_init(ngx_http_moe_ctx_t *ctx)
{
    ngx_str_t                      name;
    ngx_http_request_t            *r;
    ngx_http_upstream_t           *u;
    ngx_http_moe_loc_conf_t       *mlcf;
    ngx_http_upstream_state_t     *state;
    ngx_http_upstream_srv_conf_t  *uscf;

    r = ctx->request;
    mlcf = ctx->conf;

    if (ngx_http_upstream_create(r) != NGX_OK) {
        return NGX_ERROR;
    }

    u = r->upstream;
    u->peer.start_time = ngx_current_msec;
    ctx->upstream = u;

    /* after an internal redirect: " : " in $upstream_* */

    if (r->upstream_states) {
        state = ngx_array_push(r->upstream_states);
        if (state == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(state, sizeof(ngx_http_upstream_state_t));
    }

    uscf = mlcf->upstream;

    if (uscf == NULL) {

        if (ngx_http_complex_value(r, mlcf->pass, &name) != NGX_OK) {
            return NGX_ERROR;
        }

        if (name.len > 5 && ngx_strncmp(name.data, "unix:", 5) == 0) {
            return ngx_http_moe_peer_socket(ctx, &name);
        }

        uscf = ngx_http_moe_peer_find(r, &name);

        if (uscf == NULL) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "moe_pass: no upstream \"%V\"", &name);
            return NGX_DECLINED;
        }
    }

    u->upstream = uscf;

    if (uscf->peer.init(r, uscf) != NGX_OK) {
        return NGX_ERROR;
    }

    if (mlcf->next_upstream_tries
        && u->peer.tries > mlcf->next_upstream_tries)
    {
        u->peer.tries = mlcf->next_upstream_tries;
    }

    return NGX_OK;
}


static ngx_http_upstream_srv_conf_t *
ngx_http_moe_peer_find(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t                      i;
    ngx_http_upstream_srv_conf_t  **uscfp;
    ngx_http_upstream_main_conf_t  *umcf;

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);
    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->servers && uscfp[i]->host.len == name->len
            && ngx_strncasecmp(uscfp[i]->host.data, name->data, name->len)
               == 0)
        {
            return uscfp[i];
        }
    }

    return NULL;
}


/* a socket that a variable names */

static ngx_int_t
ngx_http_moe_peer_socket(ngx_http_moe_ctx_t *ctx, ngx_str_t *name)
{
    ngx_url_t                      url;
    ngx_http_request_t            *r;
    ngx_http_upstream_resolved_t  *ur;

    r = ctx->request;

    ngx_memzero(&url, sizeof(ngx_url_t));

    url.url = *name;
    url.no_resolve = 1;

    if (ngx_parse_url(r->pool, &url) != NGX_OK || url.naddrs != 1) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "moe_pass: %s in \"%V\"",
                      url.err ? url.err : "no address", name);
        return NGX_DECLINED;
    }

    ur = ngx_pcalloc(r->pool, sizeof(ngx_http_upstream_resolved_t));
    if (ur == NULL) {
        return NGX_ERROR;
    }

    ur->sockaddr = url.addrs[0].sockaddr;
    ur->socklen = url.addrs[0].socklen;
    ur->name = url.addrs[0].name;
    ur->host = url.url;
    ur->naddrs = 1;

    return ngx_http_upstream_create_round_robin_peer(r, ur);
}


ngx_int_t
ngx_http_moe_peer_get(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t                   rc;
    ngx_http_request_t         *r;
    ngx_http_upstream_t        *u;
    ngx_http_upstream_state_t  *state;

    r = ctx->request;
    u = ctx->upstream;

    if (r->upstream_states == NULL) {
        r->upstream_states = ngx_array_create(r->pool, 1,
                                           sizeof(ngx_http_upstream_state_t));
        if (r->upstream_states == NULL) {
            return NGX_ERROR;
        }
    }

    state = ngx_array_push(r->upstream_states);
    if (state == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(state, sizeof(ngx_http_upstream_state_t));

    u->state = state;
    u->start_time = ngx_current_msec;

    state->response_time = (ngx_msec_t) -1;
    state->connect_time = (ngx_msec_t) -1;
    state->header_time = (ngx_msec_t) -1;

    rc = u->peer.get(&u->peer, u->peer.data);

    state->peer = u->peer.name;

    if (rc == NGX_BUSY || rc == NGX_ERROR) {
        state->status = NGX_HTTP_BAD_GATEWAY;
        state->response_time = 0;
        u->peer.sockaddr = NULL;

        if (rc == NGX_BUSY) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                          "no live engines for \"%V\"", &r->uri);
        }

        return rc;
    }

    ctx->engine = u->peer.name;

    if (u->peer.sockaddr->sa_family != AF_UNIX) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "moe_pass: \"%V\" is not a \"unix:\" server",
                      u->peer.name);
        return NGX_DECLINED;
    }

    return NGX_OK;
}


void
ngx_http_moe_peer_free(ngx_http_moe_ctx_t *ctx, ngx_uint_t state,
    ngx_uint_t status)
{
    ngx_http_upstream_t  *u;

    u = ctx->upstream;

    if (u == NULL || u->peer.sockaddr == NULL) {
        return;
    }

    if (u->state) {
        u->state->status = status;
        u->state->response_time = ngx_current_msec - u->start_time;
        u->state->bytes_received = ctx->response;
        u->state->response_length = ctx->response;

        if (u->state->header_time == (ngx_msec_t) -1
            && ctx->state >= NGX_HTTP_MOE_STARTED && ctx->started)
        {
            u->state->header_time = ctx->started - u->start_time;
        }
    }

    u->peer.free(&u->peer, u->peer.data, state);
    u->peer.sockaddr = NULL;
}
