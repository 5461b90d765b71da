
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * What an engine says of a stream's job.  It is checked and taken in here;
 * the rest is done at the wake-up, when the ring has been read.
 */


#include "ngx_http_moe.h"


static void ngx_http_moe_event_unstarted(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_event_started(ngx_http_moe_ctx_t *ctx,
    moe_started_t *started);
static void ngx_http_moe_event_name(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_event_delta(ngx_http_moe_ctx_t *ctx,
    moe_delta_t *delta, size_t size, const char **why);
static void ngx_http_moe_event_tokens(ngx_http_moe_ctx_t *ctx,
    uint32_t total);
static ngx_int_t ngx_http_moe_event_end(ngx_http_moe_ctx_t *ctx,
    moe_end_t *end);


ngx_int_t
ngx_http_moe_event(ngx_http_moe_job_t *job, moe_frame_t *f,
    void *payload, const char **why)
{
    int                  rc;
    size_t               len;
    moe_end_t            end;
    moe_delta_t          delta;
    moe_started_t        started;
    ngx_http_moe_ctx_t  *ctx;

    ctx = (ngx_http_moe_ctx_t *)
              ((u_char *) job - offsetof(ngx_http_moe_ctx_t, job));

    len = f->size - sizeof(moe_frame_t);

    switch (f->type) {

    case MOE_FRAME_STARTED:
        rc = moe_started_read(&started, payload, len, why);

        if (rc == MOE_JOBQ_OK && ctx->state == NGX_HTTP_MOE_QUEUED) {
            ngx_http_moe_event_started(ctx, &started);
            return NGX_OK;
        }

        *why = rc == MOE_JOBQ_OK ? "STARTED came twice" : *why;
        return NGX_DECLINED;

    case MOE_FRAME_DELTA:
        rc = moe_delta_read(&delta, payload, len, why);

        ngx_http_moe_event_unstarted(ctx);

        if (rc == MOE_JOBQ_OK && ctx->state == NGX_HTTP_MOE_STARTED) {
            return ngx_http_moe_event_delta(ctx, &delta, f->size, why);
        }

        *why = rc == MOE_JOBQ_OK ? "DELTA came before STARTED" : *why;
        return NGX_DECLINED;

    default: /* MOE_FRAME_END */
        if (moe_end_read(&end, payload, len, why) != MOE_JOBQ_OK) {
            return NGX_DECLINED;
        }

        if (end.status == NGX_HTTP_OK) {
            ngx_http_moe_event_unstarted(ctx);
        }

        if (end.status == NGX_HTTP_OK && ctx->state != NGX_HTTP_MOE_STARTED)
        {
            *why = "END came before STARTED";
            return NGX_DECLINED;
        }

        return ngx_http_moe_event_end(ctx, &end);
    }
}


/* tokens are counted without a prefill, so that nothing starts */

static void
ngx_http_moe_event_unstarted(ngx_http_moe_ctx_t *ctx)
{
    moe_started_t  started;

    if (ctx->state == NGX_HTTP_MOE_QUEUED
        && (ctx->api.endpoint == NGX_HTTP_MOE_API_TOKENIZE
            || ctx->api.endpoint == NGX_HTTP_MOE_API_DETOKENIZE))
    {
        ngx_memzero(&started, sizeof(moe_started_t));
        ngx_http_moe_event_started(ctx, &started);
    }
}


static void
ngx_http_moe_event_started(ngx_http_moe_ctx_t *ctx, moe_started_t *started)
{
    ctx->state = NGX_HTTP_MOE_STARTED;
    ctx->started = ngx_current_msec;
    ctx->sent = ngx_current_msec;
    ctx->usage = *started;
    ctx->prompt_tokens = started->prompt_tokens;
    ctx->cached_tokens = started->cached_tokens;
    ctx->armed = 0;

    if (ctx->api.model.len == 0) {
        ngx_http_moe_event_name(ctx);
    }
}


/* the first model that is served is meant where none is named */

static void
ngx_http_moe_event_name(ngx_http_moe_ctx_t *ctx)
{
    char    *name;
    u_char  *p;
    size_t   len;

    name = ctx->job.lane->hello.models[0].name;
    len = ngx_strlen(name);

    p = ngx_pnalloc(ctx->request->pool, len);
    if (p == NULL) {
        ctx->nomem = 1;
        return;
    }

    ngx_memcpy(p, name, len);

    ctx->api.model.data = p;
    ctx->api.model.len = len;
}


ngx_int_t
ngx_http_moe_stream_begin(ngx_http_moe_ctx_t *ctx)
{
    if (ctx->begun) {
        return NGX_OK;
    }

    ctx->begun = 1;

    return ngx_http_moe_api_started(&ctx->api, &ctx->api.model,
                                    ctx->fingerprint, &ctx->usage);
}


static ngx_int_t
ngx_http_moe_event_delta(ngx_http_moe_ctx_t *ctx, moe_delta_t *delta,
    size_t size, const char **why)
{
    size_t                    held;
    ngx_int_t                 rc;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;

    ctx->response += size;

    if (delta->total_tokens > ctx->completion_tokens) {
        ngx_http_moe_event_tokens(ctx, delta->total_tokens);
    }

    ctx->last = ngx_current_msec;

    if (delta->finish) {
        ctx->finish = delta->finish;
    }

    /* what will not be sent is not kept */

    if (ctx->background || ctx->discard || ctx->cancelling || ctx->aborted
        || ctx->nomem
        || (!ctx->api.stream && ctx->response > mlcf->max_response))
    {
        ngx_http_moe_lane_credit(&ctx->job, size, mlcf->buffer_size / 4);
        return NGX_OK;
    }

    if (ngx_http_moe_stream_begin(ctx) != NGX_OK) {
        ctx->nomem = 1;
        return NGX_OK;
    }

    rc = ngx_http_moe_api_delta(&ctx->api, delta);

    if (rc == NGX_DECLINED) {
        *why = "DELTA is not possible for its job";
        return NGX_DECLINED;
    }

    if (rc == NGX_ERROR) {
        ctx->nomem = 1;
    }

    if (!ctx->api.stream) {
        ngx_http_moe_lane_credit(&ctx->job, size, mlcf->buffer_size / 4);
        return NGX_OK;
    }

    ctx->owed += size;

    if (ctx->owed + ctx->flying > mlcf->buffer_size + MOE_EVENT_MAX) {
        *why = "DELTA beyond the stream's credit";
        return NGX_DECLINED;
    }

    /* credit that is kept back until there is more of it is spent too */

    held = ctx->job.live ? ctx->job.lane->slots[ctx->job.slot].credit : 0;

    if (ctx->owed + ctx->flying + held >= mlcf->buffer_size
        && !ctx->is_parked)
    {
        ctx->is_parked = 1;
        ctx->parked = ngx_current_msec;
        ctx->armed = 0;
    }

    return NGX_OK;
}


static void
ngx_http_moe_event_tokens(ngx_http_moe_ctx_t *ctx, uint32_t total)
{
    ngx_msec_t  ms;

    if (!ctx->has_first) {
        ctx->has_first = 1;
        ctx->first = ngx_current_msec;

        ms = ctx->first - ctx->begin;

        /* once a request, also when another engine begins anew */

        if (!ctx->timed) {
            ctx->timed = 1;
            ngx_http_moe_count(ttft.count[ngx_http_moe_bucket(ms)], 1);
            ngx_http_moe_count(ttft.sum_ms, ms);
        }

    } else {
        ms = ngx_current_msec - ctx->last;

        ngx_http_moe_tally.itl[ngx_http_moe_bucket(ms)]++;
        ngx_http_moe_tally.itl_ms += ms;
    }

    ngx_http_moe_tally.tokens += total - ctx->completion_tokens;
    ctx->completion_tokens = total;
}


static ngx_int_t
ngx_http_moe_event_end(ngx_http_moe_ctx_t *ctx, moe_end_t *end)
{
    ngx_http_request_t   *r;

    r = ctx->request;

    ctx->state = NGX_HTTP_MOE_ENDED;

    if (end->prompt_tokens) {
        ctx->prompt_tokens = end->prompt_tokens;
        ctx->cached_tokens = end->cached_tokens;
    }

    if (end->completion_tokens > ctx->completion_tokens) {
        ngx_http_moe_tally.tokens += end->completion_tokens
                                     - ctx->completion_tokens;
        ctx->completion_tokens = end->completion_tokens;
    }

    if (end->status == 499) {
        ctx->finish = MOE_FINISH_CANCELLED;

    } else if (end->status != NGX_HTTP_OK) {
        ctx->finish = MOE_FINISH_ERROR;

        if (ctx->error == NULL) {
            ctx->error = ngx_pcalloc(r->pool, sizeof(ngx_http_moe_error_t));

            if (ctx->error
                && ngx_http_moe_api_end_error(r->pool, end, ctx->error)
                   != NGX_OK)
            {
                ctx->error = NULL;
            }

            ctx->engines = 1;
        }
    }

    ctx->end = *end;
    ngx_memzero(&ctx->end.code, 3 * sizeof(moe_str_t));

    return NGX_OK;
}
