
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * What the client gets.  What was rendered of a stream's events since the
 * last time is sent as a whole, and until it is gone nothing more is
 * rendered, so that a slow client gets fewer and larger frames.
 *
 * Rendering is done in one buffer for all streams of the worker; most often
 * the kernel takes it at once.  A stream whose client does not takes the
 * buffer with it.
 */


#include "ngx_http_moe.h"


static void ngx_http_moe_output_whole(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_output_header(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_output_render(ngx_http_moe_ctx_t *ctx,
    ngx_uint_t *last);
static void ngx_http_moe_output_send(ngx_http_moe_ctx_t *ctx,
    ngx_uint_t last);
static ngx_int_t ngx_http_moe_output_sent(ngx_http_moe_ctx_t *ctx,
    ngx_int_t rc);
static void ngx_http_moe_output_failed(ngx_http_moe_ctx_t *ctx);


static ngx_http_moe_out_t  ngx_http_moe_output_buf;


void
ngx_http_moe_output(ngx_http_moe_ctx_t *ctx)
{
    ngx_uint_t  last, header;

    if (ctx->background || ctx->discard) {

        if (ctx->state == NGX_HTTP_MOE_ENDED) {
            ctx->request->headers_out.status = NGX_HTTP_OK;
            ngx_http_moe_stream_finalize(ctx, ctx->background ? NGX_OK
                                                              : NGX_ERROR);
        }

        return;
    }

    if (!ctx->api.stream) {
        ngx_http_moe_output_whole(ctx);
        return;
    }

    header = !ctx->header_sent;

    if (header && ngx_http_moe_output_header(ctx) != NGX_OK) {
        return;
    }

    if (ctx->busy || ctx->closing) {
        return;
    }

    ngx_http_moe_output_buf.len = 0;

    if (ngx_http_moe_output_render(ctx, &last) != NGX_OK) {
        ngx_http_moe_output_failed(ctx);
        return;
    }

    /* nginx keeps a header back until something is flushed after it */

    if (ngx_http_moe_output_buf.len || last || header) {
        ngx_http_moe_output_send(ctx, last);
    }
}


/* the worker ends */

void
ngx_http_moe_output_exit(void)
{
    ngx_http_moe_out_free(&ngx_http_moe_output_buf);
}


/* one JSON object, when all is known */

static void
ngx_http_moe_output_whole(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t             rc;
    ngx_http_request_t   *r;
    ngx_http_moe_out_t    out;

    if (ctx->state != NGX_HTTP_MOE_ENDED) {
        return;
    }

    r = ctx->request;
    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));

    ngx_http_moe_stream_commit(ctx);

    if (ngx_http_moe_stream_begin(ctx) != NGX_OK
        || ngx_http_moe_api_finish(&ctx->api, &ctx->end, ctx->context, &out)
           != NGX_OK)
    {
        ngx_http_moe_out_free(&out);
        ngx_http_moe_stream_finalize(ctx, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    rc = ngx_http_moe_send_reply(r, NGX_HTTP_OK, "application/json", &out);

    ngx_http_moe_stream_finalize(ctx, rc);
}


static ngx_int_t
ngx_http_moe_output_header(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t  rc;

    ngx_http_moe_stream_commit(ctx);

    ctx->header_sent = 1;
    ctx->sent = ngx_current_msec;
    ctx->request->connection->log->action = "streaming to client";

    rc = ngx_http_moe_stream_begin(ctx);

    if (rc == NGX_OK) {
        rc = ngx_http_moe_send_sse_header(ctx->request);
    }

    if (rc == NGX_ERROR || rc > NGX_OK || ctx->request->header_only) {
        ngx_http_moe_output_failed(ctx);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_output_render(ngx_http_moe_ctx_t *ctx, ngx_uint_t *last)
{
    ngx_http_moe_out_t  *out;

    out = &ngx_http_moe_output_buf;
    *last = 0;

    if (ctx->state != NGX_HTTP_MOE_ENDED) {
        return ngx_http_moe_api_flush(&ctx->api, out);
    }

    *last = 1;

    if (ctx->error == NULL) {
        return ngx_http_moe_api_finish(&ctx->api, &ctx->end, ctx->context,
                                       out);
    }

    /* what was made before the failure, and then that it failed */

    ctx->closing = 1;

    if (ngx_http_moe_api_flush(&ctx->api, out) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_moe_api_error_frame(ctx->error, out);
}


void
ngx_http_moe_output_comment(ngx_http_moe_ctx_t *ctx)
{
    if (!ctx->header_sent || ctx->busy || ctx->background || ctx->discard) {
        return;
    }

    ngx_http_moe_output_buf.len = 0;

    if (ngx_http_moe_out_add(&ngx_http_moe_output_buf, ": keep-alive\n\n",
                             sizeof(": keep-alive\n\n") - 1)
        != NGX_OK)
    {
        ngx_http_moe_output_failed(ctx);
        return;
    }

    ngx_http_moe_output_send(ctx, 0);
}


static void
ngx_http_moe_output_send(ngx_http_moe_ctx_t *ctx, ngx_uint_t last)
{
    ngx_int_t            rc;
    ngx_buf_t           *b;
    ngx_chain_t          cl;
    ngx_http_request_t  *r;
    ngx_http_moe_out_t  *out;

    r = ctx->request;
    b = &ctx->buf;
    out = &ngx_http_moe_output_buf;

    ngx_memzero(b, sizeof(ngx_buf_t));

    b->start = out->data;
    b->pos = out->data;
    b->last = out->data + out->len;
    b->end = b->last;
    b->memory = (out->len != 0);
    b->tag = (ngx_buf_tag_t) &ngx_http_moe_module;
    b->flush = 1;

    if (last && !ctx->closing) {
        b->last_buf = 1;
        b->last_in_chain = 1;
    }

    cl.buf = b;
    cl.next = NULL;

    ctx->flying += ctx->owed;
    ctx->owed = 0;
    ctx->busy = 1;
    ctx->sent = ngx_current_msec;

    rc = ngx_http_output_filter(r, &cl);

    if (b->pos < b->last) {
        ngx_http_moe_out_free(&ctx->out);
        ctx->out = *out;
        ngx_memzero(out, sizeof(ngx_http_moe_out_t));
    }

    if (last && !ctx->closing && rc != NGX_ERROR) {

        /* the rest is nginx's own to write */

        ngx_http_moe_stream_finalize(ctx, rc);
        return;
    }

    (void) ngx_http_moe_output_sent(ctx, rc);
}


/*
 * After a call of the filters: is the buffer gone, is there to wait?  NGX_DONE
 * where the request was ended.
 */

static ngx_int_t
ngx_http_moe_output_sent(ngx_http_moe_ctx_t *ctx, ngx_int_t rc)
{
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_request_t        *r;
    ngx_http_moe_loc_conf_t   *mlcf;
    ngx_http_core_loc_conf_t  *clcf;

    if (rc == NGX_ERROR) {
        ngx_http_moe_output_failed(ctx);
        return NGX_DONE;
    }

    r = ctx->request;
    c = r->connection;
    wev = c->write;

    if (ctx->buf.pos == ctx->buf.last) {
        ctx->busy = 0;
        ngx_http_moe_output_credit(ctx);

        if (ctx->closing) {
            ngx_http_moe_stream_finalize(ctx, NGX_ERROR);
            return NGX_DONE;
        }
    }

    if (!ctx->busy && !r->buffered && !c->buffered) {

        if (wev->timer_set && !wev->delayed) {
            ngx_del_timer(wev);
        }

        return NGX_OK;
    }

    mlcf = ctx->conf;
    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    if (!wev->delayed) {
        ngx_add_timer(wev, mlcf->send_timeout);
    }

    if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
        ngx_http_moe_stream_finalize(ctx, NGX_ERROR);
        return NGX_DONE;
    }

    return NGX_OK;
}


/* the buffer has gone to the client: the engine may send as much again */

void
ngx_http_moe_output_credit(ngx_http_moe_ctx_t *ctx)
{
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;

    ngx_http_moe_lane_credit(&ctx->job, ctx->flying,
                             ctx->is_parked ? 1 : mlcf->buffer_size / 4);

    if (ctx->is_parked) {
        ctx->is_parked = 0;
        ctx->last = ngx_current_msec;
    }

    ctx->flying = 0;

    if (ctx->out.data) {
        ngx_http_moe_out_free(&ctx->out);
    }
}


/* nothing more can be written; the job may go on where it should */

static void
ngx_http_moe_output_failed(ngx_http_moe_ctx_t *ctx)
{
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;

    if (!mlcf->ignore_client_abort || !ctx->job.live) {
        ngx_http_moe_stream_finalize(ctx, NGX_ERROR);
        return;
    }

    ctx->discard = 1;
    ctx->request->write_event_handler = ngx_http_request_empty_handler;

    ngx_http_moe_lane_credit(&ctx->job, ctx->owed + ctx->flying, 1);

    ctx->owed = 0;
    ctx->flying = 0;
    ctx->is_parked = 0;
}


/* the client's socket can be written to again */

void
ngx_http_moe_output_handler(ngx_http_request_t *r)
{
    ngx_int_t                  rc;
    ngx_event_t               *wev;
    ngx_connection_t          *c;
    ngx_http_moe_ctx_t        *ctx;
    ngx_http_core_loc_conf_t  *clcf;

    c = r->connection;
    wev = c->write;
    ctx = ngx_http_moe_get_ctx(r);

    if (wev->timedout) {
        ngx_log_error(NGX_LOG_INFO, c->log, NGX_ETIMEDOUT,
                      "client timed out");
        c->timedout = 1;
        ngx_http_moe_stream_finalize(ctx, NGX_HTTP_REQUEST_TIME_OUT);
        return;
    }

    if (wev->delayed) {
        clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

        if (ngx_handle_write_event(wev, clcf->send_lowat) != NGX_OK) {
            ngx_http_moe_stream_finalize(ctx, NGX_ERROR);
        }

        return;
    }

    if (!ctx->header_sent || ctx->aborted) {
        return;
    }

    if (ctx->busy || r->buffered || c->buffered) {
        rc = ngx_http_output_filter(r, NULL);

        if (ngx_http_moe_output_sent(ctx, rc) != NGX_OK) {
            return;
        }
    }

    ngx_http_moe_output(ctx);
}
