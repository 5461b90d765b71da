
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * The link of this worker to one engine: connecting, hello, the two rings,
 * the jobs in them.  All of it belongs to one process and to no cycle, so a
 * lane outlives a reload where the process does.
 */


#include "ngx_http_moe.h"


#define NGX_HTTP_MOE_LANES_MAX    256
#define NGX_HTTP_MOE_FRAMES_MAX   16384     /* a turn of the event loop */
#define NGX_HTTP_MOE_BACKOFF_MIN  100
#define NGX_HTTP_MOE_BACKOFF_MAX  5000
#define NGX_HTTP_MOE_IDLE         60000     /* no reconnect after that */
#define NGX_HTTP_MOE_BACKLOG      20        /* wait when it is full */

/* of a job and its owner: what an event touches */

#define NGX_HTTP_MOE_NEAR         576


static ngx_uint_t ngx_http_moe_lane_wanted(ngx_http_moe_lane_t *lane);
static void ngx_http_moe_lane_retry(ngx_http_moe_lane_t *lane);
static void ngx_http_moe_lane_open(ngx_http_moe_lane_t *lane);
static ngx_int_t ngx_http_moe_lane_try(ngx_http_moe_lane_t *lane);
static ngx_int_t ngx_http_moe_lane_trusted(ngx_http_moe_lane_t *lane,
    ngx_socket_t s);
static ngx_int_t ngx_http_moe_lane_greet(ngx_http_moe_lane_t *lane,
    ngx_socket_t s);
static void ngx_http_moe_lane_read(ngx_event_t *rev);
static void ngx_http_moe_lane_write(ngx_event_t *wev);
static void ngx_http_moe_lane_accept(ngx_http_moe_lane_t *lane);
static void ngx_http_moe_lane_events(ngx_http_moe_lane_t *lane);
static ngx_int_t ngx_http_moe_lane_frame(ngx_http_moe_lane_t *lane,
    moe_frame_t *f, void *payload);
static void ngx_http_moe_lane_turn(ngx_event_t *ev);
static void ngx_http_moe_lane_timer(ngx_event_t *ev);
static void ngx_http_moe_lane_close(ngx_http_moe_lane_t *lane,
    ngx_uint_t level, const char *why);
static void ngx_http_moe_lane_down(ngx_http_moe_lane_t *lane,
    const char *why);
static void ngx_http_moe_lane_prefetch(ngx_queue_t *q);
static void ngx_http_moe_lane_wakeups(void);


static ngx_queue_t  ngx_http_moe_lane_queue = {
    &ngx_http_moe_lane_queue, &ngx_http_moe_lane_queue
};

static ngx_queue_t  ngx_http_moe_lane_dirty_queue = {
    &ngx_http_moe_lane_dirty_queue, &ngx_http_moe_lane_dirty_queue
};

static ngx_uint_t  ngx_http_moe_nlanes;


ngx_queue_t *
ngx_http_moe_lanes(void)
{
    return &ngx_http_moe_lane_queue;
}


ngx_http_moe_lane_t *
ngx_http_moe_lane_get(struct sockaddr *sockaddr, socklen_t socklen,
    ngx_str_t *name, ngx_msec_t connect_timeout)
{
    ngx_queue_t          *q;
    ngx_http_moe_lane_t  *lane;

    for (q = ngx_queue_head(&ngx_http_moe_lane_queue);
         q != ngx_queue_sentinel(&ngx_http_moe_lane_queue);
         q = ngx_queue_next(q))
    {
        lane = ngx_queue_data(q, ngx_http_moe_lane_t, queue);

        if (lane->socklen == socklen
            && ngx_memcmp(&lane->sockaddr, sockaddr, socklen) == 0)
        {
            lane->connect_timeout = connect_timeout;
            lane->timer.log = ngx_cycle->log;
            lane->turn.log = ngx_cycle->log;
            return lane;
        }
    }

    if (socklen > sizeof(ngx_sockaddr_t)
        || ngx_http_moe_nlanes == NGX_HTTP_MOE_LANES_MAX)
    {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "moe: too many engines, \"%V\" is not asked", name);
        return NULL;
    }

    lane = ngx_calloc(sizeof(ngx_http_moe_lane_t) + name->len,
                      ngx_cycle->log);
    if (lane == NULL) {
        return NULL;
    }

    ngx_memcpy(&lane->sockaddr, sockaddr, socklen);
    lane->socklen = socklen;
    lane->connect_timeout = connect_timeout;

    lane->name.len = name->len;
    lane->name.data = (u_char *) lane + sizeof(ngx_http_moe_lane_t);
    ngx_memcpy(lane->name.data, name->data, name->len);

    lane->timer.handler = ngx_http_moe_lane_timer;
    lane->timer.data = lane;
    lane->timer.log = ngx_cycle->log;
    lane->timer.cancelable = 1;

    lane->turn.handler = ngx_http_moe_lane_turn;
    lane->turn.data = lane;
    lane->turn.log = ngx_cycle->log;

    lane->free = (uint32_t) -1;
    ngx_queue_init(&lane->waiting);

    ngx_queue_insert_tail(&ngx_http_moe_lane_queue, &lane->queue);
    ngx_http_moe_nlanes++;

    return lane;
}


/* connecting */


ngx_int_t
ngx_http_moe_lane_attach(ngx_http_moe_lane_t *lane, ngx_http_moe_job_t *job)
{
    job->lane = lane;
    lane->used_at = ngx_current_msec;
    lane->quiet = 0;

    ngx_http_moe_lane_connect(lane);

    if (lane->state == NGX_HTTP_MOE_LANE_DOWN || lane->failed) {
        job->lane = NULL;
        return NGX_DECLINED;
    }

    if (lane->state == NGX_HTTP_MOE_LANE_UP) {
        return NGX_OK;
    }

    job->waiting = 1;
    ngx_queue_insert_tail(&lane->waiting, &job->queue);

    return NGX_AGAIN;
}


void
ngx_http_moe_lane_wait(ngx_http_moe_lane_t *lane, ngx_http_moe_job_t *job)
{
    job->lane = lane;
    job->waiting = 1;
    job->patient = 1;
    ngx_queue_insert_tail(&lane->waiting, &job->queue);

    ngx_http_moe_lane_retry(lane);
}


/* a worker that leaves connects for those who wait only */

static ngx_uint_t
ngx_http_moe_lane_wanted(ngx_http_moe_lane_t *lane)
{
    if (!ngx_queue_empty(&lane->waiting)) {
        return 1;
    }

    return !ngx_exiting && !ngx_quit
           && (lane->keep
               || ngx_current_msec - lane->used_at < NGX_HTTP_MOE_IDLE);
}


/* who waits has little time, so that the back-off grows without them only */

static void
ngx_http_moe_lane_retry(ngx_http_moe_lane_t *lane)
{
    ngx_msec_t  delay;

    if (!ngx_http_moe_lane_wanted(lane)) {
        return;
    }

    delay = lane->backoff;

    if (!lane->held && !ngx_queue_empty(&lane->waiting)) {
        delay = NGX_HTTP_MOE_BACKOFF_MIN;
    }

    if (lane->timer.timer_set) {

        if ((ngx_msec_int_t) (lane->timer.timer.key - ngx_current_msec)
            <= (ngx_msec_int_t) delay)
        {
            return;
        }

        ngx_del_timer(&lane->timer);
    }

    ngx_add_timer(&lane->timer, delay);
}


/* a lane that is down, unless it was told to wait */

void
ngx_http_moe_lane_connect(ngx_http_moe_lane_t *lane)
{
    if (lane->state != NGX_HTTP_MOE_LANE_DOWN || ngx_terminate) {
        return;
    }

    if (lane->held
        && (ngx_msec_int_t) (lane->hold_until - ngx_current_msec) > 0)
    {
        return;
    }

    lane->held = 0;
    lane->state = NGX_HTTP_MOE_LANE_CONNECTING;
    lane->deadline = ngx_current_msec + lane->connect_timeout;

    if (lane->timer.timer_set) {
        ngx_del_timer(&lane->timer);
    }

    ngx_http_moe_lane_open(lane);
}


static void
ngx_http_moe_lane_open(ngx_http_moe_lane_t *lane)
{
    ngx_int_t       rc;
    ngx_msec_int_t  left;

    rc = ngx_http_moe_lane_try(lane);

    if (rc == NGX_ERROR) {
        ngx_http_moe_lane_down(lane, "the engine does not answer");
        return;
    }

    left = (ngx_msec_int_t) (lane->deadline - ngx_current_msec);

    if (left <= 0) {
        left = 1;
    }

    if (rc == NGX_AGAIN && left > NGX_HTTP_MOE_BACKLOG) {
        left = NGX_HTTP_MOE_BACKLOG;
    }

    ngx_add_timer(&lane->timer, (ngx_msec_t) left);
}


/* NGX_OK: hello is out; NGX_AGAIN: the engine's backlog is full */

static ngx_int_t
ngx_http_moe_lane_try(ngx_http_moe_lane_t *lane)
{
    ngx_err_t     err;
    ngx_uint_t    level;
    ngx_socket_t  s;

    s = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_NONBLOCK|SOCK_CLOEXEC, 0);

    if (s == (ngx_socket_t) -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_socket_errno,
                      "moe: " ngx_socket_n " failed");
        return NGX_ERROR;
    }

    if (connect(s, &lane->sockaddr.sockaddr, lane->socklen) == -1) {
        err = ngx_socket_errno;
        (void) ngx_close_socket(s);

        if (err == NGX_EAGAIN) {
            return NGX_AGAIN;
        }

        level = lane->quiet ? NGX_LOG_INFO : NGX_LOG_ERR;

        ngx_log_error(level, ngx_cycle->log, err,
                      "moe: connect() to \"%V\" failed", &lane->name);
        return NGX_ERROR;
    }

    if (ngx_http_moe_lane_trusted(lane, s) != NGX_OK) {
        (void) ngx_close_socket(s);
        return NGX_ERROR;
    }

    return ngx_http_moe_lane_greet(lane, s);
}


/* who listens must be who owns the socket's file, ourselves, or root */

static ngx_int_t
ngx_http_moe_lane_trusted(ngx_http_moe_lane_t *lane, ngx_socket_t s)
{
    socklen_t        len;
    struct ucred     cred;
    ngx_file_info_t  fi;

    len = sizeof(struct ucred);

    if (getsockopt(s, SOL_SOCKET, SO_PEERCRED, &cred, &len) == -1) {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_socket_errno,
                      "moe: getsockopt(SO_PEERCRED) failed");
        return NGX_ERROR;
    }

    if (cred.uid == 0 || cred.uid == geteuid()) {
        return NGX_OK;
    }

    if (ngx_file_info(lane->sockaddr.sockaddr_un.sun_path, &fi)
        != NGX_FILE_ERROR
        && fi.st_uid == cred.uid)
    {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                  "moe: \"%V\" is served by user %ud, who does not own it",
                  &lane->name, (ngx_uint_t) cred.uid);

    return NGX_ERROR;
}


/* the socket is the lane's from here on, also when it fails */

static ngx_int_t
ngx_http_moe_lane_greet(ngx_http_moe_lane_t *lane, ngx_socket_t s)
{
    moe_hello_t                hello;
    ngx_connection_t          *c;
    ngx_http_moe_main_conf_t  *mmcf;

    mmcf = ngx_http_cycle_get_module_main_conf(ngx_cycle,
                                               ngx_http_moe_module);

    if (moe_lane_create(&lane->lane, s, MOE_SIDE_SUBMITTER, mmcf->lane_size)
        != MOE_JOBQ_OK)
    {
        ngx_log_error(NGX_LOG_ALERT, ngx_cycle->log, ngx_errno,
                      "moe: %s", lane->lane.why);
        (void) ngx_close_socket(s);
        return NGX_ERROR;
    }

    ngx_memzero(&lane->hello, sizeof(moe_hello_t));
    ngx_memzero(&hello, sizeof(moe_hello_t));
    hello.status = 200;

    if (moe_lane_hello(&lane->lane, &hello) != MOE_JOBQ_OK) {
        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, ngx_errno,
                      "moe: hello to \"%V\" failed", &lane->name);
        goto failed;
    }

    c = ngx_get_connection(s, ngx_cycle->log);
    if (c == NULL) {
        goto failed;
    }

    c->data = lane;
    c->log = ngx_cycle->log;
    c->read->log = c->log;
    c->write->log = c->log;
    c->read->handler = ngx_http_moe_lane_read;
    c->write->handler = ngx_http_moe_lane_write;

    if (ngx_handle_read_event(c->read, 0) != NGX_OK) {
        ngx_close_connection(c);
        moe_lane_destroy(&lane->lane);
        return NGX_ERROR;
    }

    lane->connection = c;
    lane->state = NGX_HTTP_MOE_LANE_HELLO;

    return NGX_OK;

failed:

    moe_lane_destroy(&lane->lane);
    (void) ngx_close_socket(s);

    return NGX_ERROR;
}


static void
ngx_http_moe_lane_accept(ngx_http_moe_lane_t *lane)
{
    ngx_queue_t         *q;
    ngx_http_moe_job_t  *job;

    switch (moe_lane_accept(&lane->lane, &lane->hello)) {

    case MOE_JOBQ_OK:
        break;

    case MOE_JOBQ_AGAIN:
        return;

    default:
        ngx_http_moe_lane_close(lane, NGX_LOG_ERR, lane->lane.why);
        return;
    }

    ngx_log_error(NGX_LOG_INFO, ngx_cycle->log, 0,
                  "moe: lane to \"%V\" is up", &lane->name);

    ngx_http_moe_gauge(lanes, 1);

    lane->state = NGX_HTTP_MOE_LANE_UP;
    lane->backoff = 0;

    ngx_del_timer(&lane->timer);

    while (!ngx_queue_empty(&lane->waiting)) {
        q = ngx_queue_head(&lane->waiting);
        job = ngx_queue_data(q, ngx_http_moe_job_t, queue);

        ngx_queue_remove(q);
        job->waiting = 0;
        job->patient = 0;

        ngx_http_moe_lane_dirty(job);
    }
}


/* events */


static void
ngx_http_moe_lane_write(ngx_event_t *wev)
{
    /* kicks do not wait: nothing is to be written later */
}


static void
ngx_http_moe_lane_read(ngx_event_t *rev)
{
    ngx_connection_t     *c;
    ngx_http_moe_lane_t  *lane;

    c = rev->data;
    lane = c->data;

    /*
     * worker_shutdown_timeout closes all connections, this one perhaps before
     * those of its streams, whose jobs are yet to be cancelled in it
     */

    if (c->close) {
        c->close = 0;
        return;
    }

    if (lane->state == NGX_HTTP_MOE_LANE_HELLO) {
        ngx_http_moe_lane_accept(lane);
    }

    if (lane->state == NGX_HTTP_MOE_LANE_UP) {
        ngx_http_moe_lane_events(lane);
    }

    ngx_http_moe_lane_wakeups();

    if (lane->state == NGX_HTTP_MOE_LANE_UP) {
        ngx_http_moe_lane_turn(&lane->turn);
    }
}


/*
 * The ring is emptied before a hang-up counts: an engine that ends says so
 * first.  A job's events are only taken in here; what follows from them, even
 * the end of a request, waits until the ring has been read.
 */

static void
ngx_http_moe_lane_events(ngx_http_moe_lane_t *lane)
{
    int            drained, rc;
    ngx_err_t      err;
    uint64_t       payload[MOE_EVENT_MAX / 8];
    ngx_uint_t     n;
    moe_frame_t    f;
    ngx_event_t   *rev;

    rev = lane->connection->read;
    drained = moe_lane_drain(&lane->lane);
    err = ngx_errno;
    n = 0;

    for ( ;; ) {
        rc = moe_lane_next(&lane->lane, &f);

        if (rc == MOE_JOBQ_AGAIN && moe_lane_sleep(&lane->lane)) {
            continue;
        }

        if (rc != MOE_JOBQ_OK || n++ == NGX_HTTP_MOE_FRAMES_MAX) {
            break;
        }

        moe_lane_take(&lane->lane, payload);

        if (ngx_http_moe_lane_frame(lane, &f, payload) != NGX_OK) {
            rc = MOE_JOBQ_ERROR;
            break;
        }
    }

    ngx_http_moe_tally.events += n;
    ngx_http_moe_tally_add();

    if (rc == MOE_JOBQ_ERROR) {
        ngx_http_moe_lane_close(lane, NGX_LOG_ALERT, lane->lane.why);
        return;
    }

    if (drained == MOE_JOBQ_ERROR) {
        ngx_http_moe_lane_close(lane, err == EPROTO ? NGX_LOG_ALERT
                                                    : NGX_LOG_ERR,
                                lane->lane.why);
        return;
    }

    if (rc == MOE_JOBQ_OK || drained == MOE_JOBQ_AGAIN) {
        ngx_post_event(rev, &ngx_posted_events);
        return;
    }

    rev->ready = 0;

    if (ngx_handle_read_event(rev, 0) != NGX_OK) {
        ngx_http_moe_lane_close(lane, NGX_LOG_ALERT,
                                "watching the lane failed");
        return;
    }

    if (lane->retry) {
        ngx_http_moe_slots_again(lane);
    }
}


static ngx_int_t
ngx_http_moe_lane_frame(ngx_http_moe_lane_t *lane, moe_frame_t *f,
    void *payload)
{
    ngx_int_t             rc;
    ngx_http_moe_job_t   *job;
    ngx_http_moe_slot_t  *slot;

    if (f->type < MOE_FRAME_STARTED || f->type > MOE_FRAME_END) {
        lane->lane.why = "event of no known type";
        return NGX_DECLINED;
    }

    if (f->slot >= lane->nslots) {
        lane->lane.why = "event for a slot that never was";
        return NGX_DECLINED;
    }

    slot = &lane->slots[f->slot];

    if (!slot->used || slot->gen != f->gen) {
        return NGX_OK;
    }

    job = slot->job;
    rc = NGX_OK;

    /* an engine goes over its jobs in some order, most often in this */

    if (f->slot + 2 < lane->nslots && lane->slots[f->slot + 2].job) {
        ngx_http_moe_prefetch_area(lane->slots[f->slot + 2].job,
                                   NGX_HTTP_MOE_NEAR);
    }

    if (f->type == MOE_FRAME_END) {
        if (job) {
            job->live = 0;
        }

        ngx_http_moe_slot_put(lane, f->slot);
    }

    if (job) {
        rc = job->ops->event(job, f, payload, &lane->lane.why);

        if (rc == NGX_OK) {
            ngx_http_moe_lane_dirty(job);

        } else if (f->type == MOE_FRAME_END) {

            /* its slot is free: the lane's end will not find it */
            job->ops->down(job, lane->lane.why);
            ngx_http_moe_lane_dirty(job);
        }
    }

    return rc;
}


void
ngx_http_moe_lane_dirty(ngx_http_moe_job_t *job)
{
    if (!job->is_dirty) {
        job->is_dirty = 1;
        ngx_queue_insert_tail(&ngx_http_moe_lane_dirty_queue, &job->dirty);
    }
}


/* of the jobs that come after q */

static void
ngx_http_moe_lane_prefetch(ngx_queue_t *q)
{
    ngx_uint_t           i;
    ngx_http_moe_job_t  *job;

    for (i = 0; i < 3; i++) {
        q = ngx_queue_next(q);

        if (q == ngx_queue_sentinel(&ngx_http_moe_lane_dirty_queue)) {
            return;
        }

        job = ngx_queue_data(q, ngx_http_moe_job_t, dirty);

        if (i == 2) {
            ngx_http_moe_prefetch_area(job, NGX_HTTP_MOE_NEAR);

        } else if (job->ops->prefetch) {
            job->ops->prefetch(job, i);
        }
    }
}


/* a wake-up may end requests and so take other jobs out of the queue */

static void
ngx_http_moe_lane_wakeups(void)
{
    ngx_queue_t         *q;
    ngx_http_moe_job_t  *job;

    while (!ngx_queue_empty(&ngx_http_moe_lane_dirty_queue)) {
        q = ngx_queue_head(&ngx_http_moe_lane_dirty_queue);
        job = ngx_queue_data(q, ngx_http_moe_job_t, dirty);

        ngx_http_moe_lane_prefetch(q);

        ngx_queue_remove(q);
        job->is_dirty = 0;

        job->ops->wakeup(job);
    }
}


/* once a turn: what was put and taken is published, a failure acted on */

static void
ngx_http_moe_lane_turn(ngx_event_t *ev)
{
    ngx_http_moe_lane_t  *lane;

    lane = ev->data;

    if (lane->state != NGX_HTTP_MOE_LANE_UP) {
        return;
    }

    if (lane->failed == NULL
        && moe_lane_flush(&lane->lane) != MOE_JOBQ_OK)
    {
        lane->broken = (ngx_errno == EPROTO);
        lane->failed = lane->lane.why;
    }

    if (lane->failed) {
        ngx_http_moe_lane_close(lane, lane->broken ? NGX_LOG_ALERT
                                                   : NGX_LOG_ERR,
                                lane->failed);
        ngx_http_moe_lane_wakeups();
    }
}


static void
ngx_http_moe_lane_timer(ngx_event_t *ev)
{
    ngx_msec_int_t        left;
    ngx_http_moe_lane_t  *lane;

    lane = ev->data;
    left = (ngx_msec_int_t) (lane->deadline - ngx_current_msec);

    switch (lane->state) {

    case NGX_HTTP_MOE_LANE_DOWN:
        if (ngx_http_moe_lane_wanted(lane)) {
            lane->held = 0;
            lane->quiet = 1;
            ngx_http_moe_lane_connect(lane);
        }

        break;

    case NGX_HTTP_MOE_LANE_CONNECTING:
        if (left > 0) {
            ngx_http_moe_lane_open(lane);

        } else {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, NGX_ETIMEDOUT,
                          "moe: connect() to \"%V\" timed out", &lane->name);
            ngx_http_moe_lane_down(lane, "the engine does not answer");
        }

        break;

    case NGX_HTTP_MOE_LANE_HELLO:
        ngx_http_moe_lane_close(lane, NGX_LOG_ERR, "hello timed out");
        break;

    case NGX_HTTP_MOE_LANE_UP:
        break;
    }

    ngx_http_moe_lane_wakeups();
}


/* closing */


void
ngx_http_moe_lane_fail(ngx_http_moe_lane_t *lane, const char *why)
{
    lane->broken = (ngx_errno == EPROTO);
    lane->failed = why;

    ngx_post_event(&lane->turn, &ngx_posted_events);
}


static void
ngx_http_moe_lane_close(ngx_http_moe_lane_t *lane, ngx_uint_t level,
    const char *why)
{
    uint32_t             i;
    ngx_http_moe_job_t  *job;

    if (lane->hello.text[0]
        && lane->state == NGX_HTTP_MOE_LANE_HELLO)
    {
        ngx_log_error(level, ngx_cycle->log, 0,
                      "moe: lane to \"%V\" closed: %s: %ud %*s", &lane->name,
                      why, lane->hello.status,
                      ngx_strlen(lane->hello.text), lane->hello.text);

    } else {
        ngx_log_error(level, ngx_cycle->log, 0,
                      "moe: lane to \"%V\" closed with %ud jobs: %s",
                      &lane->name, lane->njobs, why);
    }

    if (lane->state == NGX_HTTP_MOE_LANE_UP) {
        ngx_http_moe_gauge(lanes, -1);
        ngx_http_moe_count(lanes_lost, 1);
    }

    if (level == NGX_LOG_ALERT) {
        ngx_http_moe_count(violations, 1);
    }

    if (lane->turn.posted) {
        ngx_delete_posted_event(&lane->turn);
    }

    moe_lane_destroy(&lane->lane);
    ngx_close_connection(lane->connection);

    lane->connection = NULL;
    lane->failed = NULL;
    lane->retry = 0;

    for (i = 0; i < lane->nslots; i++) {

        if (!lane->slots[i].used) {
            continue;
        }

        job = lane->slots[i].job;
        ngx_http_moe_slot_put(lane, i);

        if (job) {
            job->live = 0;
            job->lane = NULL;
            job->ops->down(job, why);
            ngx_http_moe_lane_dirty(job);
        }
    }

    /* one that misbehaves or refuses is left alone for a while */

    lane->held = (level == NGX_LOG_ALERT
                  || lane->state == NGX_HTTP_MOE_LANE_HELLO);

    ngx_http_moe_lane_down(lane, why);
}


static void
ngx_http_moe_lane_down(ngx_http_moe_lane_t *lane, const char *why)
{
    ngx_queue_t         *q, *next;
    ngx_http_moe_job_t  *job;

    lane->state = NGX_HTTP_MOE_LANE_DOWN;

    lane->backoff = lane->backoff ? lane->backoff * 2
                                  : NGX_HTTP_MOE_BACKOFF_MIN;

    if (lane->backoff > NGX_HTTP_MOE_BACKOFF_MAX) {
        lane->backoff = NGX_HTTP_MOE_BACKOFF_MAX;
    }

    lane->hold_until = ngx_current_msec + lane->backoff;

    if (lane->timer.timer_set) {
        ngx_del_timer(&lane->timer);
    }

    for (q = ngx_queue_head(&lane->waiting);
         q != ngx_queue_sentinel(&lane->waiting);
         q = next)
    {
        next = ngx_queue_next(q);
        job = ngx_queue_data(q, ngx_http_moe_job_t, queue);

        if (job->patient) {
            continue;
        }

        ngx_queue_remove(q);
        job->waiting = 0;
        job->lane = NULL;

        job->ops->down(job, why);
        ngx_http_moe_lane_dirty(job);
    }

    ngx_http_moe_lane_retry(lane);
}


void
ngx_http_moe_lanes_close(void)
{
    ngx_queue_t          *q;
    ngx_http_moe_lane_t  *lane;

    while (!ngx_queue_empty(&ngx_http_moe_lane_queue)) {
        q = ngx_queue_head(&ngx_http_moe_lane_queue);
        lane = ngx_queue_data(q, ngx_http_moe_lane_t, queue);

        ngx_queue_remove(q);

        if (lane->connection) {

            if (lane->state == NGX_HTTP_MOE_LANE_UP) {
                ngx_http_moe_gauge(lanes, -1);
                (void) moe_lane_flush(&lane->lane);
            }

            moe_lane_destroy(&lane->lane);
            ngx_close_connection(lane->connection);
        }

        if (lane->timer.timer_set) {
            ngx_del_timer(&lane->timer);
        }

        if (lane->turn.posted) {
            ngx_delete_posted_event(&lane->turn);
        }

        ngx_free(lane->slots);
        ngx_free(lane);
    }

    ngx_http_moe_nlanes = 0;
}
