
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * The life of one job: an engine is chosen, the job waits in its queue,
 * starts, makes tokens, ends.
 *
 * A job that was accepted is always waited for, for a second at most, before
 * its request may go: then its counts are exact.  Where nginx ends a request
 * itself (the client has gone), r->main->blocked keeps the request, as it
 * does for file aio; where we end it, we wait first.
 */


#include "ngx_http_moe.h"


static ngx_int_t ngx_http_moe_stream_job(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_stream_watch(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_connect(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_stream_submit(ngx_http_moe_ctx_t *ctx,
    ngx_http_moe_lane_t *lane);
static ngx_uint_t ngx_http_moe_stream_serves(ngx_http_moe_ctx_t *ctx,
    ngx_http_moe_lane_t *lane);
static ngx_int_t ngx_http_moe_stream_next(ngx_http_moe_ctx_t *ctx,
    ngx_uint_t ft, ngx_uint_t status);
static ngx_int_t ngx_http_moe_stream_refused(ngx_http_moe_ctx_t *ctx);
static ngx_uint_t ngx_http_moe_stream_more(ngx_http_moe_ctx_t *ctx,
    ngx_uint_t ft, ngx_uint_t tries);
static void ngx_http_moe_stream_again(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_stream_retry(ngx_http_moe_ctx_t *ctx,
    ngx_uint_t ft, ngx_uint_t status);
static void ngx_http_moe_stream_down(ngx_http_moe_job_t *job,
    const char *why);
static void ngx_http_moe_stream_wakeup(ngx_http_moe_job_t *job);
static void ngx_http_moe_stream_prefetch(ngx_http_moe_job_t *job,
    ngx_uint_t far);
static void ngx_http_moe_stream_process(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_ended(ngx_http_moe_ctx_t *ctx);
static ngx_int_t ngx_http_moe_stream_return(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_release(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_account(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_cancel(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_timer(ngx_event_t *ev);
static void ngx_http_moe_stream_deadline(ngx_http_moe_ctx_t *ctx);
static void ngx_http_moe_stream_set_timer(ngx_http_moe_ctx_t *ctx,
    ngx_msec_t ms);
static void ngx_http_moe_stream_cleanup(void *data);


ngx_http_moe_job_ops_t  ngx_http_moe_stream_ops = {
    ngx_http_moe_stream_down,
    ngx_http_moe_event,
    ngx_http_moe_stream_wakeup,
    ngx_http_moe_stream_prefetch
};


void
ngx_http_moe_stream_start(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t            rc;
    ngx_http_cleanup_t  *cln;
    ngx_http_request_t  *r;

    r = ctx->request;

    ngx_http_moe_count(requests, 1);
    ngx_http_moe_gauge(active, 1);
    ctx->counted = 1;

    r->connection->log->action = "waiting for engine";

    ctx->conf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);
    ctx->begin = ngx_current_msec;
    ctx->job.ops = &ngx_http_moe_stream_ops;

    ctx->timer.handler = ngx_http_moe_stream_timer;
    ctx->timer.data = ctx;
    ctx->timer.log = r->connection->log;

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        ngx_http_moe_stream_fail(ctx, NULL);
        return;
    }

    cln->handler = ngx_http_moe_stream_cleanup;
    cln->data = ctx;

    ctx->state = NGX_HTTP_MOE_CONNECTING;

    if (ngx_http_moe_stream_job(ctx) != NGX_OK
        || ngx_http_moe_stream_watch(ctx) != NGX_OK)
    {
        ngx_http_moe_stream_fail(ctx, NULL);
        return;
    }

    rc = ngx_http_moe_peer_init(ctx);

    if (rc != NGX_OK) {
        ngx_http_moe_stream_fail(ctx, rc == NGX_ERROR ? NULL
                   : ngx_http_moe_error(r, NGX_HTTP_BAD_GATEWAY,
                                        "no_engine",
                                        "No engine serves this request."));
        return;
    }

    ngx_http_moe_stream_connect(ctx);
}


/* what the dialect does not know of the job; from here on it is a record */

static ngx_int_t
ngx_http_moe_stream_job(ngx_http_moe_ctx_t *ctx)
{
    moe_job_t                *job;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;

    job = ctx->api.job;
    job->credit = mlcf->buffer_size;
    job->timeout_ms = mlcf->queue_timeout;

    if (ngx_http_moe_key(ctx->request, job) != NGX_OK) {
        return NGX_ERROR;
    }

    ctx->model.len = job->model.len;
    ctx->model.data = (u_char *) job->model.data;

    return ngx_http_moe_api_encode(&ctx->api, &ctx->record);
}


/*
 * The client's going is watched; a close that came with the request leaves
 * no event behind under edge-triggered polling, so that one is posted.
 */

static ngx_int_t
ngx_http_moe_stream_watch(ngx_http_moe_ctx_t *ctx)
{
    ngx_event_t              *rev;
    ngx_http_request_t       *r;
    ngx_http_moe_loc_conf_t  *mlcf;

    r = ctx->request;

    if (ctx->background) {
        r->write_event_handler = ngx_http_request_empty_handler;
        return NGX_OK;
    }

    r->write_event_handler = ngx_http_moe_output_handler;

    mlcf = ctx->conf;

    if (mlcf->ignore_client_abort || r->post_action) {
        r->read_event_handler = ngx_http_block_reading;
        return NGX_OK;
    }

    r->read_event_handler = ngx_http_test_reading;

    rev = r->connection->read;

    if (rev->ready) {
        ngx_post_event(rev, &ngx_posted_events);
        return NGX_OK;
    }

    return ngx_handle_read_event(rev, 0);
}


/* the choice of an engine, until one has the job or none is left */

static void
ngx_http_moe_stream_connect(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_peer_connection_t    *pc;
    ngx_http_moe_lane_t      *lane;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;

    do {
        ctx->state = NGX_HTTP_MOE_CONNECTING;

        rc = ngx_http_moe_peer_get(ctx);

        if (rc != NGX_OK) {
            ngx_http_moe_stream_fail(ctx, rc == NGX_ERROR ? NULL
                  : ngx_http_moe_error(ctx->request, NGX_HTTP_BAD_GATEWAY,
                                       "no_engine",
                                       "No engine is available now."));
            return;
        }

        ctx->connect = ngx_current_msec + mlcf->connect_timeout;

        pc = &ctx->upstream->peer;

        lane = ngx_http_moe_lane_get(pc->sockaddr, pc->socklen, pc->name,
                                     mlcf->connect_timeout);
        if (lane == NULL) {
            ngx_http_moe_stream_fail(ctx, NULL);
            return;
        }

        rc = ngx_http_moe_lane_attach(lane, &ctx->job);

        if (rc == NGX_AGAIN) {
            ngx_http_moe_stream_set_timer(ctx, mlcf->connect_timeout);
            return;
        }

        if (rc == NGX_OK) {
            rc = ngx_http_moe_stream_submit(ctx, lane);

        } else {
            rc = ngx_http_moe_stream_refused(ctx);
        }

    } while (rc == NGX_AGAIN);
}


/*
 * The engine does not listen, or has refused us: the next one may have the
 * job.  Where there is none it is waited for, as it may be about to start
 * again.  NGX_AGAIN: try the next engine; otherwise it is decided.
 */

static ngx_int_t
ngx_http_moe_stream_refused(ngx_http_moe_ctx_t *ctx)
{
    ngx_msec_int_t            left;
    ngx_http_upstream_t      *u;
    ngx_http_moe_lane_t      *lane;
    ngx_http_moe_loc_conf_t  *mlcf;

    u = ctx->upstream;
    mlcf = ctx->conf;
    left = (ngx_msec_int_t) (ctx->connect - ngx_current_msec);

    if (left <= 0) {
        return ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_TIMEOUT,
                                        NGX_HTTP_GATEWAY_TIME_OUT);
    }

    if (!ngx_http_moe_stream_more(ctx, NGX_HTTP_MOE_FT_ERROR,
                                  u->peer.tries - 1))
    {
        lane = ngx_http_moe_lane_get(u->peer.sockaddr, u->peer.socklen,
                                     u->peer.name, mlcf->connect_timeout);

        if (lane) {
            ctx->lost = NULL;
            ngx_http_moe_lane_wait(lane, &ctx->job);
            ngx_http_moe_stream_set_timer(ctx, (ngx_msec_t) left);
            return NGX_DONE;
        }
    }

    return ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_ERROR,
                                    NGX_HTTP_BAD_GATEWAY);
}


/* NGX_AGAIN: try the next engine; otherwise it is decided */

static ngx_int_t
ngx_http_moe_stream_submit(ngx_http_moe_ctx_t *ctx,
    ngx_http_moe_lane_t *lane)
{
    ngx_int_t                 rc;
    ngx_http_request_t       *r;
    ngx_http_moe_error_t     *err;
    ngx_http_moe_loc_conf_t  *mlcf;

    r = ctx->request;

    if (!ngx_http_moe_stream_serves(ctx, lane)) {

        err = ngx_http_moe_error(r, NGX_HTTP_NOT_FOUND, "model_not_found",
                                 "The model does not exist.");
        if (err) {
            ngx_str_set(&err->param, "model");
        }

        ngx_http_moe_stream_fail(ctx, err);
        return NGX_DONE;
    }

    rc = ngx_http_moe_lane_submit(lane, &ctx->job, ctx->record.data,
                                  ctx->record.len);

    switch (rc) {

    case NGX_OK:
        break;

    case NGX_BUSY:
        return ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_OVERLOADED,
                                        NGX_HTTP_SERVICE_UNAVAILABLE);

    case NGX_DECLINED:
        ngx_http_moe_stream_fail(ctx,
                   ngx_http_moe_error(r, NGX_HTTP_REQUEST_ENTITY_TOO_LARGE,
                                      "request_too_large",
                                      "The request is too large for the "
                                      "engine's queue."));
        return NGX_DONE;

    default:
        return ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_ERROR,
                                        NGX_HTTP_BAD_GATEWAY);
    }

    mlcf = ctx->conf;

    ngx_memcpy(ctx->fingerprint, lane->hello.fingerprint,
               sizeof(ctx->fingerprint));

    ctx->state = NGX_HTTP_MOE_QUEUED;
    ctx->submitted = ngx_current_msec;
    ctx->upstream->state->connect_time = ngx_current_msec
                                         - ctx->upstream->start_time;

    if (!ctx->blocked) {
        ctx->blocked = 1;
        r->main->blocked++;
    }

    /* the engine says it itself, and when to come again */

    ngx_http_moe_stream_set_timer(ctx, mlcf->queue_timeout
                                       + NGX_HTTP_MOE_HOLD);

    return NGX_OK;
}


/* the engine's names are in its hello; an alias was resolved by the dialect */

static ngx_uint_t
ngx_http_moe_stream_serves(ngx_http_moe_ctx_t *ctx, ngx_http_moe_lane_t *lane)
{
    uint32_t     i;
    const char  *name;

    if (ctx->model.len == 0) {
        ctx->context = lane->hello.models[0].context;
        return 1;
    }

    for (i = 0; i < lane->hello.nmodels; i++) {
        name = lane->hello.models[i].name;

        if (ngx_strlen(name) == ctx->model.len
            && ngx_memcmp(name, ctx->model.data, ctx->model.len) == 0)
        {
            ctx->context = lane->hello.models[i].context;
            return 1;
        }
    }

    return 0;
}


/* before any byte to the client: NGX_AGAIN, or the request has failed */

static ngx_int_t
ngx_http_moe_stream_next(ngx_http_moe_ctx_t *ctx, ngx_uint_t ft,
    ngx_uint_t status)
{
    ngx_http_moe_error_t  *err;

    if (ngx_http_moe_stream_retry(ctx, ft, status) == NGX_OK) {
        return NGX_AGAIN;
    }

    switch (status) {

    case NGX_HTTP_SERVICE_UNAVAILABLE:
        err = ngx_http_moe_error(ctx->request, status, "overloaded",
                                 "The engine has no room for this request "
                                 "now.");
        if (err) {
            err->retry_after = 1;
        }

        break;

    case NGX_HTTP_GATEWAY_TIME_OUT:
        err = ngx_http_moe_error(ctx->request, status, "engine_timeout",
                                 "The engine did not answer in time.");
        break;

    default:
        err = ngx_http_moe_error(ctx->request, status, "engine_unavailable",
                                 "The engine is not available.");
    }

    ngx_http_moe_stream_fail(ctx, err);

    return NGX_DONE;
}


/* whether a job that failed so may go to another engine */

static ngx_uint_t
ngx_http_moe_stream_more(ngx_http_moe_ctx_t *ctx, ngx_uint_t ft,
    ngx_uint_t tries)
{
    ngx_msec_t                timeout;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ctx->conf;
    timeout = mlcf->next_upstream_timeout;

    return (mlcf->next_upstream & ft)
           && tries
           && (timeout == 0 || ngx_current_msec - ctx->begin < timeout);
}


/* gives the peer back; NGX_OK where another one may be asked */

static ngx_int_t
ngx_http_moe_stream_retry(ngx_http_moe_ctx_t *ctx, ngx_uint_t ft,
    ngx_uint_t status)
{
    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    if (ft == NGX_HTTP_MOE_FT_OVERLOADED) {
        ngx_http_moe_peer_free(ctx, NGX_PEER_NEXT, status);

    } else {
        ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                      "moe: \"%V\" failed: %s", ctx->engine,
                      ctx->lost ? ctx->lost : "the engine does not answer");

        ngx_http_moe_peer_free(ctx, NGX_PEER_FAILED, status);
    }

    if (!ngx_http_moe_stream_more(ctx, ft, ctx->upstream->peer.tries)) {
        return NGX_DECLINED;
    }

    ngx_http_moe_count(retries, 1);

    ngx_http_moe_stream_again(ctx);

    return NGX_OK;
}


/* nothing of what the last engine said is left, and nothing was sent */

static void
ngx_http_moe_stream_again(ngx_http_moe_ctx_t *ctx)
{
    ngx_http_moe_count(bytes, ctx->response);
    ctx->response = 0;

    ctx->lost = NULL;
    ctx->error = NULL;
    ctx->engines = 0;
    ctx->finish = MOE_FINISH_NONE;

    ctx->begun = 0;
    ctx->has_first = 0;
    ctx->is_parked = 0;
    ctx->owed = 0;
    ctx->started = 0;
    ctx->prompt_tokens = 0;
    ctx->cached_tokens = 0;
    ctx->completion_tokens = 0;

    if (ctx->model.len == 0) {
        ngx_str_null(&ctx->api.model);
    }

    ngx_http_moe_api_again(&ctx->api);
}


void
ngx_http_moe_stream_commit(ngx_http_moe_ctx_t *ctx)
{
    if (ctx->record.data) {
        ngx_free(ctx->record.data);
        ctx->record.data = NULL;
    }
}


static void
ngx_http_moe_stream_down(ngx_http_moe_job_t *job, const char *why)
{
    ngx_http_moe_ctx_t  *ctx;

    ctx = (ngx_http_moe_ctx_t *)
              ((u_char *) job - offsetof(ngx_http_moe_ctx_t, job));

    ctx->lost = why;

    if (ctx->state != NGX_HTTP_MOE_CONNECTING) {
        ctx->state = NGX_HTTP_MOE_ENDED;
        ctx->finish = ctx->aborted ? MOE_FINISH_CANCELLED : MOE_FINISH_ERROR;
    }
}


static void
ngx_http_moe_stream_prefetch(ngx_http_moe_job_t *job, ngx_uint_t far)
{
    ngx_http_moe_ctx_t  *ctx;
    ngx_http_request_t  *r;

    ctx = (ngx_http_moe_ctx_t *)
              ((u_char *) job - offsetof(ngx_http_moe_ctx_t, job));
    r = ctx->request;

    if (far) {
        ngx_http_moe_prefetch_area(r, sizeof(ngx_http_request_t));

        if (ctx->api.choices) {
            ngx_http_moe_prefetch_area(ctx->api.choices,
                                       sizeof(ngx_http_moe_choice_t));
        }

        return;
    }

    ngx_http_moe_prefetch_area(r->connection, sizeof(ngx_connection_t));
    ngx_http_moe_prefetch_area(r->ctx, ngx_http_max_module * sizeof(void *));
    ngx_http_moe_prefetch(r->pool);

    if (ctx->api.choices) {
        ngx_http_moe_prefetch(ctx->api.choices->text.data);
    }
}


/* what the events of a turn come to */

static void
ngx_http_moe_stream_wakeup(ngx_http_moe_job_t *job)
{
    ngx_connection_t    *c;
    ngx_http_moe_ctx_t  *ctx;

    ctx = (ngx_http_moe_ctx_t *)
              ((u_char *) job - offsetof(ngx_http_moe_ctx_t, job));

    c = ctx->request->connection;

    ngx_http_moe_stream_process(ctx);
    ngx_http_run_posted_requests(c);
}


static void
ngx_http_moe_stream_process(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t                 rc;
    ngx_http_moe_loc_conf_t  *mlcf;

    switch (ctx->state) {

    case NGX_HTTP_MOE_CONNECTING:

        if (ctx->timer.timer_set) {
            ngx_del_timer(&ctx->timer);
        }

        if (ctx->lost) {
            rc = ngx_http_moe_stream_refused(ctx);

        } else {
            rc = ngx_http_moe_stream_submit(ctx, ctx->job.lane);
        }

        if (rc == NGX_AGAIN) {
            ngx_http_moe_stream_connect(ctx);
        }

        return;

    case NGX_HTTP_MOE_STARTED:

        if (ctx->aborted || ctx->cancelling) {
            return;
        }

        mlcf = ctx->conf;

        if (ctx->nomem) {
            ngx_http_moe_stream_fail(ctx, NULL);
            return;
        }

        if (!ctx->api.stream && !ctx->background
            && ctx->response > mlcf->max_response)
        {
            ngx_log_error(NGX_LOG_ERR, ctx->request->connection->log, 0,
                          "reply is larger than \"moe_max_response\"");
            ngx_http_moe_stream_fail(ctx,
                       ngx_http_moe_error(ctx->request,
                                          NGX_HTTP_INTERNAL_SERVER_ERROR,
                                          "response_too_large",
                                          "The reply is too large."));
            return;
        }

        ngx_http_moe_stream_arm(ctx);
        ngx_http_moe_output(ctx);

        return;

    case NGX_HTTP_MOE_ENDED:
        ngx_http_moe_stream_ended(ctx);
        return;

    default:
        return;
    }
}


static void
ngx_http_moe_stream_ended(ngx_http_moe_ctx_t *ctx)
{
    ngx_uint_t           ft;
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ngx_http_moe_stream_release(ctx);

    if (ctx->aborted) {
        ngx_http_moe_stream_account(ctx);
        ngx_http_moe_peer_free(ctx, 0, NGX_HTTP_CLIENT_CLOSED_REQUEST);

        /* ngx_http_terminate_request() left its way on here */

        c = r->connection;
        r = c->data;
        r->write_event_handler(r);

        return;
    }

    if (ctx->lost && ngx_http_moe_stream_return(ctx) == NGX_OK) {
        return;
    }

    if (!ctx->cancelling && !ctx->nomem && ctx->record.data) {

        /* nothing of it has gone out: another engine may have it */

        ft = 0;

        if (ctx->lost) {
            ft = NGX_HTTP_MOE_FT_ERROR;

        } else if (ctx->end.status == NGX_HTTP_SERVICE_UNAVAILABLE
                   || ctx->end.status == 429)
        {
            ft = NGX_HTTP_MOE_FT_OVERLOADED;
        }

        if (ft && ngx_http_moe_stream_retry(ctx, ft, ctx->lost
                                            ? NGX_HTTP_BAD_GATEWAY
                                            : ctx->end.status)
                  == NGX_OK)
        {
            ngx_http_moe_stream_connect(ctx);
            return;
        }
    }

    if (ctx->lost && ctx->error == NULL) {
        ctx->error = ngx_http_moe_error(r, NGX_HTTP_BAD_GATEWAY,
                                        "engine_lost",
                                        "The engine has gone.");
    }

    if (ctx->error || ctx->cancelling || ctx->nomem
        || ctx->end.status != NGX_HTTP_OK)
    {
        ngx_http_moe_stream_fail(ctx, ctx->error);
        return;
    }

    ngx_http_moe_stream_account(ctx);
    ngx_http_moe_peer_free(ctx, 0, NGX_HTTP_OK);

    ngx_http_moe_output(ctx);
}


/*
 * A lane's end may be known only after a job was given to it: a job that the
 * engine has said nothing of is given to it again, once, where no other one
 * can have it.  NGX_DECLINED: it is not such a job.
 */

static ngx_int_t
ngx_http_moe_stream_return(ngx_http_moe_ctx_t *ctx)
{
    ngx_int_t  rc;

    if (ctx->cancelling || ctx->started || ctx->returned
        || (ngx_msec_int_t) (ctx->connect - ngx_current_msec) <= 0
        || ngx_http_moe_stream_more(ctx, NGX_HTTP_MOE_FT_ERROR,
                                    ctx->upstream->peer.tries - 1))
    {
        return NGX_DECLINED;
    }

    ctx->returned = 1;
    ctx->finish = MOE_FINISH_NONE;
    ctx->state = NGX_HTTP_MOE_CONNECTING;

    rc = ngx_http_moe_stream_refused(ctx);
    if (rc == NGX_AGAIN) {
        ngx_http_moe_stream_connect(ctx);
    }

    return NGX_OK;
}


/* the request is ours to hold no longer */

static void
ngx_http_moe_stream_release(ngx_http_moe_ctx_t *ctx)
{
    if (ctx->blocked) {
        ctx->blocked = 0;
        ctx->request->main->blocked--;
    }
}


static void
ngx_http_moe_stream_account(ngx_http_moe_ctx_t *ctx)
{
    if (!ctx->counted) {
        return;
    }

    ctx->counted = 0;

    ngx_http_moe_gauge(active, -1);
    ngx_http_moe_count(prompt_tokens, ctx->prompt_tokens);
    ngx_http_moe_count(cached_tokens, ctx->cached_tokens);
    ngx_http_moe_count(bytes, ctx->response);

    switch (ctx->finish) {

    case MOE_FINISH_ERROR:
        ngx_http_moe_count(failed, 1);
        break;

    case MOE_FINISH_STOP:
    case MOE_FINISH_LENGTH:
        ngx_http_moe_count(finished, 1);
        break;

    default:
        if (ctx->end.status == NGX_HTTP_OK) {
            ngx_http_moe_count(finished, 1);

        } else {
            ngx_http_moe_count(cancelled, 1);
        }
    }
}


/* NULL: out of memory, or nothing better to say */

void
ngx_http_moe_stream_fail(ngx_http_moe_ctx_t *ctx, ngx_http_moe_error_t *err)
{
    ngx_uint_t           own;
    ngx_http_request_t  *r;

    r = ctx->request;

    if (err == NULL) {
        err = ngx_http_moe_error(r, NGX_HTTP_INTERNAL_SERVER_ERROR,
                                 "internal_error", "Internal error.");
    }

    ctx->error = err;

    if (ctx->job.live) {
        ngx_http_moe_stream_cancel(ctx);
        return;
    }

    own = !ctx->engines;

    ngx_http_moe_lane_detach(&ctx->job);

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ctx->state = NGX_HTTP_MOE_ENDED;

    if (ctx->finish != MOE_FINISH_CANCELLED) {
        ctx->finish = MOE_FINISH_ERROR;
    }

    ngx_http_moe_stream_release(ctx);
    ngx_http_moe_stream_account(ctx);

    ngx_http_moe_peer_free(ctx, (ctx->lost || (err && err->status == 504))
                                ? NGX_PEER_FAILED : 0,
                           err ? err->status
                               : NGX_HTTP_INTERNAL_SERVER_ERROR);

    if (ctx->header_sent) {
        ngx_http_moe_output(ctx);
        return;
    }

    ngx_http_moe_stream_finalize(ctx, ctx->discard ? NGX_ERROR
                                  : ngx_http_moe_send_error(r, err, own));
}


/* the job goes; its END, or a second, is waited for */

static void
ngx_http_moe_stream_cancel(ngx_http_moe_ctx_t *ctx)
{
    ctx->cancelling = 1;

    ngx_http_moe_lane_cancel(&ctx->job);
    ngx_http_moe_stream_set_timer(ctx, NGX_HTTP_MOE_HOLD);
}


void
ngx_http_moe_stream_finalize(ngx_http_moe_ctx_t *ctx, ngx_int_t rc)
{
    if (ctx->timer.timer_set && !ctx->job.live) {
        ngx_del_timer(&ctx->timer);
    }

    ngx_http_finalize_request(ctx->request, rc);
}


/* deadlines */


static void
ngx_http_moe_stream_timer(ngx_event_t *ev)
{
    ngx_int_t              rc;
    ngx_uint_t             down;
    ngx_connection_t      *c;
    ngx_http_request_t    *r;
    ngx_http_moe_ctx_t    *ctx;
    ngx_http_moe_error_t  *err;

    ctx = ev->data;
    r = ctx->request;
    c = r->connection;

    if (ctx->cancelling || ctx->aborted) {
        ngx_log_error(NGX_LOG_WARN, c->log, 0,
                      "moe: \"%V\" did not end a cancelled job in time",
                      ctx->engine);

        /* its last counts are those that are known */

        ngx_http_moe_lane_detach(&ctx->job);
        ctx->state = NGX_HTTP_MOE_ENDED;
        ctx->finish = MOE_FINISH_NONE;
        ngx_http_moe_stream_process(ctx);

    } else if (ctx->state == NGX_HTTP_MOE_CONNECTING) {

        /* it did not come back, or it does not answer */

        down = (ctx->job.lane == NULL
                || ctx->job.lane->state == NGX_HTTP_MOE_LANE_DOWN);

        ngx_http_moe_lane_detach(&ctx->job);

        rc = down ? ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_ERROR,
                                             NGX_HTTP_BAD_GATEWAY)
                  : ngx_http_moe_stream_next(ctx, NGX_HTTP_MOE_FT_TIMEOUT,
                                             NGX_HTTP_GATEWAY_TIME_OUT);
        if (rc == NGX_AGAIN) {
            ngx_http_moe_stream_connect(ctx);
        }

    } else if (ctx->state == NGX_HTTP_MOE_QUEUED) {

        err = ngx_http_moe_error(r, NGX_HTTP_SERVICE_UNAVAILABLE,
                                 "queue_timeout",
                                 "The request waited too long.");
        if (err) {
            err->retry_after = 1;
        }

        ngx_http_moe_stream_fail(ctx, err);

    } else if (ctx->state == NGX_HTTP_MOE_STARTED) {
        ngx_http_moe_stream_deadline(ctx);
    }

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_moe_stream_deadline(ngx_http_moe_ctx_t *ctx)
{
    ngx_msec_t                now, since, timeout;
    ngx_http_request_t       *r;
    ngx_http_moe_loc_conf_t  *mlcf;

    r = ctx->request;
    mlcf = ctx->conf;
    now = ngx_current_msec;

    if (ctx->is_parked) {

        if (now - ctx->parked >= mlcf->park_timeout) {
            ngx_log_error(NGX_LOG_INFO, r->connection->log, NGX_ETIMEDOUT,
                          "client is too slow for its stream");
            r->connection->timedout = 1;
            ngx_http_moe_stream_finalize(ctx, NGX_HTTP_REQUEST_TIME_OUT);
            return;
        }

    } else {
        since = ctx->has_first ? ctx->last : ctx->started;
        timeout = ctx->has_first ? mlcf->token_timeout
                                 : mlcf->first_token_timeout;

        if (now - since >= timeout) {
            ngx_log_error(NGX_LOG_ERR, r->connection->log, NGX_ETIMEDOUT,
                          "moe: \"%V\" made no token in time", ctx->engine);
            ngx_http_moe_stream_fail(ctx,
                       ngx_http_moe_error(r, NGX_HTTP_GATEWAY_TIME_OUT,
                                          "engine_timeout",
                                          "The engine made no token in "
                                          "time."));
            return;
        }
    }

    if (ctx->api.stream && !ctx->busy && mlcf->keepalive_interval
        && now - ctx->sent >= mlcf->keepalive_interval)
    {
        ctx->sent = now;
        ngx_http_moe_stream_arm(ctx);
        ngx_http_moe_output_comment(ctx);
        return;
    }

    ngx_http_moe_stream_arm(ctx);
}


/*
 * One timer a stream, not cancelable, so that a worker that exits waits for
 * the stream.  Deadlines move with every token, the timer does not: it looks
 * again when it fires.
 */

void
ngx_http_moe_stream_arm(ngx_http_moe_ctx_t *ctx)
{
    ngx_msec_t                at, comment;
    ngx_msec_int_t            left;
    ngx_http_moe_loc_conf_t  *mlcf;

    if (ctx->timer.timer_set && ctx->armed == ctx->has_first + 1u) {
        return;
    }

    mlcf = ctx->conf;

    ctx->armed = ctx->has_first + 1;

    if (ctx->is_parked) {
        at = ctx->parked + mlcf->park_timeout;

    } else if (ctx->has_first) {
        at = ctx->last + mlcf->token_timeout;

    } else {
        at = ctx->started + mlcf->first_token_timeout;
    }

    if (ctx->api.stream && mlcf->keepalive_interval) {
        comment = (ctx->busy ? ngx_current_msec : ctx->sent)
                  + mlcf->keepalive_interval;

        if ((ngx_msec_int_t) (comment - at) < 0) {
            at = comment;
        }
    }

    left = (ngx_msec_int_t) (at - ngx_current_msec);

    ngx_http_moe_stream_set_timer(ctx, left > 0 ? (ngx_msec_t) left : 1);
}


/* exactly: nginx leaves a timer alone that would move by less than 300 ms */

static void
ngx_http_moe_stream_set_timer(ngx_http_moe_ctx_t *ctx, ngx_msec_t ms)
{
    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ngx_add_timer(&ctx->timer, ms);
}


/* nginx ends the request, or has ended it */

static void
ngx_http_moe_stream_cleanup(void *data)
{
    ngx_http_moe_ctx_t *ctx = data;

    ngx_http_request_t  *r;

    r = ctx->request;

    /* a QUIC connection that closes ends its requests without a status */

    if (ctx->state != NGX_HTTP_MOE_ENDED && r == r->main
        && r->headers_out.status == 0)
    {
        r->headers_out.status = NGX_HTTP_CLIENT_CLOSED_REQUEST;
    }

    if (ctx->blocked) {
        ctx->aborted = 1;
        r->read_event_handler = ngx_http_block_reading;

        if (ctx->job.live && !ctx->cancelling) {
            ngx_http_moe_stream_cancel(ctx);
        }

        return;
    }

    if (ctx->timer.timer_set) {
        ngx_del_timer(&ctx->timer);
    }

    ngx_http_moe_lane_detach(&ctx->job);

    if (ctx->state != NGX_HTTP_MOE_ENDED) {
        ctx->state = NGX_HTTP_MOE_ENDED;
        ctx->finish = MOE_FINISH_CANCELLED;
    }

    ngx_http_moe_stream_account(ctx);
    ngx_http_moe_peer_free(ctx, 0, NGX_HTTP_CLIENT_CLOSED_REQUEST);
}
