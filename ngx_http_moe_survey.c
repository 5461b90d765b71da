
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * A question to several engines at once: is there a lane, what does its hello
 * say, does a probe come back through the scheduler?  It is answered when all
 * have answered, or have had their time.
 */


#include "ngx_http_moe.h"


#define NGX_HTTP_MOE_PROBE_TIMEOUT  5000

/* an engine that made a token this lately needs no probe */

#define NGX_HTTP_MOE_FRESH_US       5000000


static ngx_int_t ngx_http_moe_survey_engines(ngx_http_moe_survey_t *s,
    ngx_array_t *upstreams);
static ngx_int_t ngx_http_moe_survey_add(ngx_http_moe_survey_t *s,
    ngx_addr_t *addr);
static ngx_int_t ngx_http_moe_survey_wait(ngx_http_moe_survey_t *s);
static void ngx_http_moe_survey_up(ngx_http_moe_asked_t *a);
static void ngx_http_moe_survey_probe(ngx_http_moe_asked_t *a);
static void ngx_http_moe_survey_done(ngx_http_moe_asked_t *a,
    const char *why);
static void ngx_http_moe_survey_finish(ngx_http_moe_survey_t *s);
static ngx_int_t ngx_http_moe_survey_event(ngx_http_moe_job_t *job,
    moe_frame_t *f, void *payload, const char **why);
static void ngx_http_moe_survey_down(ngx_http_moe_job_t *job,
    const char *why);
static void ngx_http_moe_survey_wakeup(ngx_http_moe_job_t *job);
static void ngx_http_moe_survey_timer(ngx_event_t *ev);
static void ngx_http_moe_survey_cleanup(void *data);


static ngx_http_moe_job_ops_t  ngx_http_moe_survey_ops = {
    ngx_http_moe_survey_down,
    ngx_http_moe_survey_event,
    ngx_http_moe_survey_wakeup,
    NULL
};


ngx_int_t
ngx_http_moe_survey(ngx_http_request_t *r, ngx_array_t *upstreams,
    ngx_http_moe_ask_e ask, ngx_http_moe_survey_pt handler)
{
    ngx_int_t                 rc;
    ngx_uint_t                i;
    ngx_http_moe_asked_t     *a;
    ngx_http_moe_survey_t    *s;

    s = ngx_pcalloc(r->pool, sizeof(ngx_http_moe_survey_t));
    if (s == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    s->request = r;
    s->handler = handler;
    s->ask = ask;

    if (ngx_http_moe_survey_engines(s, upstreams) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    a = s->engines.elts;
    s->left = s->engines.nelts;

    for (i = 0; i < s->engines.nelts; i++) {

        rc = ngx_http_moe_lane_attach(a[i].lane, &a[i].job);

        if (rc == NGX_OK) {
            ngx_http_moe_survey_up(&a[i]);

        } else if (rc == NGX_DECLINED) {
            ngx_http_moe_survey_done(&a[i], "the engine does not answer");
        }
    }

    if (s->left == 0) {
        return s->handler(r, s);
    }

    return ngx_http_moe_survey_wait(s);
}


static ngx_int_t
ngx_http_moe_survey_engines(ngx_http_moe_survey_t *s, ngx_array_t *upstreams)
{
    ngx_uint_t                      i, j, k, n;
    ngx_http_upstream_server_t     *server;
    ngx_http_upstream_srv_conf_t  **uscfp;

    uscfp = upstreams->elts;
    n = 1;

    for (i = 0; i < upstreams->nelts; i++) {
        n += uscfp[i]->servers->nelts;
    }

    if (ngx_array_init(&s->engines, s->request->pool, n,
                       sizeof(ngx_http_moe_asked_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < upstreams->nelts; i++) {
        server = uscfp[i]->servers->elts;

        for (j = 0; j < uscfp[i]->servers->nelts; j++) {

            for (k = 0; k < server[j].naddrs && !server[j].down; k++) {

                if (ngx_http_moe_survey_add(s, &server[j].addrs[k])
                    != NGX_OK)
                {
                    return NGX_ERROR;
                }
            }
        }
    }

    return NGX_OK;
}


/* each engine once; a "unix:" server has one address, the array does not
 * grow and its elements stay where they are */

static ngx_int_t
ngx_http_moe_survey_add(ngx_http_moe_survey_t *s, ngx_addr_t *addr)
{
    ngx_uint_t                i;
    ngx_http_moe_lane_t      *lane;
    ngx_http_moe_asked_t     *a;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(s->request, ngx_http_moe_module);

    lane = ngx_http_moe_lane_get(addr->sockaddr, addr->socklen, &addr->name,
                                 mlcf->connect_timeout);
    if (lane == NULL) {
        return NGX_ERROR;
    }

    a = s->engines.elts;

    for (i = 0; i < s->engines.nelts; i++) {
        if (a[i].lane == lane) {
            return NGX_OK;
        }
    }

    if (s->engines.nelts == s->engines.nalloc) {
        return NGX_OK;
    }

    a = ngx_array_push(&s->engines);
    if (a == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(a, sizeof(ngx_http_moe_asked_t));

    a->survey = s;
    a->lane = lane;
    a->job.ops = &ngx_http_moe_survey_ops;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_survey_wait(ngx_http_moe_survey_t *s)
{
    ngx_http_cleanup_t       *cln;
    ngx_http_request_t       *r;
    ngx_http_moe_loc_conf_t  *mlcf;

    r = s->request;
    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    s->waits = 1;
    s->timer.handler = ngx_http_moe_survey_timer;
    s->timer.data = s;
    s->timer.log = r->connection->log;

    ngx_add_timer(&s->timer, mlcf->connect_timeout
                             + (s->ask == NGX_HTTP_MOE_ASK_HEALTH
                                ? NGX_HTTP_MOE_PROBE_TIMEOUT : 0));

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        ngx_http_moe_survey_cleanup(s);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    cln->handler = ngx_http_moe_survey_cleanup;
    cln->data = s;

    r->read_event_handler = ngx_http_test_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    if (r->connection->read->ready) {
        ngx_post_event(r->connection->read, &ngx_posted_events);

    } else if (ngx_handle_read_event(r->connection->read, 0) != NGX_OK) {
        ngx_http_moe_survey_cleanup(s);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    r->main->count++;

    return NGX_DONE;
}


static void
ngx_http_moe_survey_up(ngx_http_moe_asked_t *a)
{
    uint64_t         now;
    moe_stats_t      stats;
    struct timespec  ts;

    a->up = 1;

    if (moe_lane_stats_read(&a->lane->lane, &stats) == MOE_JOBQ_OK) {

        a->stats = ngx_palloc(a->survey->request->pool,
                              sizeof(moe_stats_t));
        if (a->stats) {
            *a->stats = stats;
        }
    }

    if (a->survey->ask == NGX_HTTP_MOE_ASK_HELLO) {
        ngx_http_moe_survey_done(a, NULL);
        return;
    }

    if (a->stats && a->stats->state != MOE_STATE_READY) {
        ngx_http_moe_survey_done(a, NULL);
        return;
    }

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);
    now = (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;

    if (a->stats && a->stats->last_token_us
        && a->stats->last_token_us <= now
        && now - a->stats->last_token_us < NGX_HTTP_MOE_FRESH_US)
    {
        a->healthy = 1;
        ngx_http_moe_survey_done(a, NULL);
        return;
    }

    ngx_http_moe_survey_probe(a);
}


static void
ngx_http_moe_survey_probe(ngx_http_moe_asked_t *a)
{
    size_t      len;
    uint64_t    record[128];
    moe_job_t   job;

    ngx_memzero(&job, sizeof(moe_job_t));

    job.kind = MOE_JOB_PROBE;
    job.n = 1;
    job.max_tokens = 1;
    job.max_prompt = MOE_UNLIMITED;
    job.credit = MOE_EVENT_MAX;
    job.timeout_ms = NGX_HTTP_MOE_PROBE_TIMEOUT;

    len = moe_job_size(&job);

    if (len == 0 || len > sizeof(record)) {
        ngx_http_moe_survey_done(a, "the probe could not be made");
        return;
    }

    moe_job_write(&job, record);

    if (ngx_http_moe_lane_submit(a->lane, &a->job, record, len) != NGX_OK) {
        ngx_http_moe_survey_done(a, "the engine takes no job");
    }
}


static void
ngx_http_moe_survey_done(ngx_http_moe_asked_t *a, const char *why)
{
    if (a->done) {
        return;
    }

    a->done = 1;
    a->why = why;
    a->survey->left--;
}


static ngx_int_t
ngx_http_moe_survey_event(ngx_http_moe_job_t *job, moe_frame_t *f,
    void *payload, const char **why)
{
    moe_end_t              end;
    ngx_http_moe_asked_t  *a;

    a = (ngx_http_moe_asked_t *)
            ((u_char *) job - offsetof(ngx_http_moe_asked_t, job));

    if (f->type != MOE_FRAME_END) {
        return NGX_OK;
    }

    if (moe_end_read(&end, payload, f->size - sizeof(moe_frame_t), why)
        != MOE_JOBQ_OK)
    {
        return NGX_DECLINED;
    }

    a->healthy = (end.status == NGX_HTTP_OK);

    ngx_http_moe_survey_done(a, a->healthy ? NULL
                                           : "the engine failed its probe");

    return NGX_OK;
}


static void
ngx_http_moe_survey_down(ngx_http_moe_job_t *job, const char *why)
{
    ngx_http_moe_asked_t  *a;

    a = (ngx_http_moe_asked_t *)
            ((u_char *) job - offsetof(ngx_http_moe_asked_t, job));

    a->up = 0;
    ngx_http_moe_survey_done(a, why);
}


static void
ngx_http_moe_survey_wakeup(ngx_http_moe_job_t *job)
{
    ngx_connection_t      *c;
    ngx_http_moe_asked_t  *a;

    a = (ngx_http_moe_asked_t *)
            ((u_char *) job - offsetof(ngx_http_moe_asked_t, job));

    c = a->survey->request->connection;

    if (!a->done && !a->up) {
        ngx_http_moe_survey_up(a);
    }

    if (a->survey->left == 0) {
        ngx_http_moe_survey_finish(a->survey);
        ngx_http_run_posted_requests(c);
    }
}


static void
ngx_http_moe_survey_finish(ngx_http_moe_survey_t *s)
{
    ngx_http_moe_survey_cleanup(s);
    ngx_http_finalize_request(s->request, s->handler(s->request, s));
}


static void
ngx_http_moe_survey_timer(ngx_event_t *ev)
{
    ngx_uint_t              i;
    ngx_connection_t       *c;
    ngx_http_moe_asked_t   *a;
    ngx_http_moe_survey_t  *s;

    s = ev->data;
    c = s->request->connection;
    a = s->engines.elts;

    for (i = 0; i < s->engines.nelts; i++) {
        ngx_http_moe_survey_done(&a[i], "the engine did not answer in time");
    }

    ngx_http_moe_survey_finish(s);
    ngx_http_run_posted_requests(c);
}


static void
ngx_http_moe_survey_cleanup(void *data)
{
    ngx_http_moe_survey_t *s = data;

    ngx_uint_t             i;
    ngx_http_moe_asked_t  *a;

    if (s->timer.timer_set) {
        ngx_del_timer(&s->timer);
    }

    a = s->engines.elts;

    for (i = 0; i < s->engines.nelts; i++) {
        ngx_http_moe_lane_cancel(&a[i].job);
        ngx_http_moe_lane_detach(&a[i].job);
    }
}
