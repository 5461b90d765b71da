
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * What the rooms of the module share.  From the ground: lane and slots (jobs
 * in, events out, one link per worker and engine), peer (choice of an engine),
 * reply (headers and error bodies), key (whom a job counts for), stream, event
 * and output (the life of one job and its answer), survey (questions to all
 * engines) with models and status, handler and module on top.
 */

#ifndef _NGX_HTTP_MOE_H_INCLUDED_
#define _NGX_HTTP_MOE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "engine/jobq.h"
#include "ngx_http_moe_dialect.h"


#define NGX_HTTP_MOE_FT_ERROR       0x0002
#define NGX_HTTP_MOE_FT_TIMEOUT     0x0004
#define NGX_HTTP_MOE_FT_OVERLOADED  0x0008
#define NGX_HTTP_MOE_FT_OFF         0x0010

/* a cancelled job is waited for this long, to have its last counts */

#define NGX_HTTP_MOE_HOLD           1000


typedef struct ngx_http_moe_lane_s  ngx_http_moe_lane_t;
typedef struct ngx_http_moe_job_s   ngx_http_moe_job_t;
typedef struct ngx_http_moe_ctx_s   ngx_http_moe_ctx_t;


/* counters in shared memory, each a plain atomic, kept across reload */

typedef struct {
    ngx_atomic_t                 count[MOE_STATS_BUCKETS];
    ngx_atomic_t                 sum_ms;
} ngx_http_moe_times_t;

/* what a process has now: it goes with the process, however that ends */

typedef struct {
    ngx_atomic_t                 pid;
    ngx_atomic_t                 active;
    ngx_atomic_t                 lanes;
} ngx_http_moe_gauges_t;

typedef struct {
    ngx_atomic_t                 requests;
    ngx_atomic_t                 active;
    ngx_atomic_t                 finished;
    ngx_atomic_t                 cancelled;
    ngx_atomic_t                 failed;
    ngx_atomic_t                 refused;
    ngx_atomic_t                 retries;
    ngx_atomic_t                 prompt_tokens;
    ngx_atomic_t                 cached_tokens;
    ngx_atomic_t                 completion_tokens;
    ngx_atomic_t                 events;
    ngx_atomic_t                 bytes;
    ngx_atomic_t                 lanes;
    ngx_atomic_t                 lanes_lost;
    ngx_atomic_t                 violations;
    ngx_http_moe_times_t         ttft;
    ngx_http_moe_times_t         itl;

    /* the sums of these are in "active" and "lanes" after a survey */

    ngx_http_moe_gauges_t        process[NGX_MAX_PROCESSES];
} ngx_http_moe_counters_t;


typedef struct {
    ngx_http_upstream_srv_conf_t  *upstream;
    u_char                        *file;
    ngx_uint_t                     line;
} ngx_http_moe_pass_t;


/* a moe_engine block: what a worker needs to start the supervisor */

typedef struct {
    ngx_str_t                    program;
    ngx_str_t                    model;
    ngx_str_t                    log;
    ngx_addr_t                   addr;
    ngx_msec_t                   grace;
    ngx_array_t                 *options;       /* ngx_str_t */
    ngx_http_moe_lane_t         *lane;
    ngx_event_t                  timer;
} ngx_http_moe_engine_t;


typedef struct {
    size_t                       lane_size;
    ngx_array_t                  passes;        /* ngx_http_moe_pass_t */
    ngx_array_t                  engines;       /* ngx_http_moe_engine_t */
    ngx_shm_zone_t              *zone;
    ngx_uint_t                   used;          /* unsigned  used:1; */
} ngx_http_moe_main_conf_t;


typedef struct {
    ngx_http_upstream_srv_conf_t  *upstream;    /* moe_pass NAME */
    ngx_http_complex_value_t      *pass;        /* moe_pass $variable */
    ngx_array_t                   *models;      /* of upstreams */

    ngx_uint_t                     next_upstream;
    ngx_uint_t                     next_upstream_tries;
    ngx_msec_t                     next_upstream_timeout;

    ngx_msec_t                     connect_timeout;
    ngx_msec_t                     queue_timeout;
    ngx_msec_t                     first_token_timeout;
    ngx_msec_t                     token_timeout;
    ngx_msec_t                     send_timeout;
    ngx_msec_t                     park_timeout;
    ngx_msec_t                     keepalive_interval;

    size_t                         buffer_size;
    size_t                         max_response;

    ngx_flag_t                     ignore_client_abort;
    ngx_flag_t                     early_body;

    ngx_uint_t                     max_tokens;
    ngx_uint_t                     max_prompt_tokens;
    ngx_http_moe_api_conf_t        api;

    ngx_http_complex_value_t      *key;
    ngx_http_complex_value_t      *priority;
    ngx_http_complex_value_t      *weight;

    ngx_uint_t                     status_format;
} ngx_http_moe_loc_conf_t;


/*
 * A job as the lane sees it: embedded in whoever waits for its events.
 */

typedef struct {
    /* there is no lane, or it is lost and the job with it; why is static */
    void                       (*down)(ngx_http_moe_job_t *job,
                                    const char *why);

    /* one frame with its payload, that lives until the return; NGX_DECLINED:
     * the engine may not say this now (*why) and the lane is closed */
    ngx_int_t                  (*event)(ngx_http_moe_job_t *job,
                                    moe_frame_t *f, void *payload,
                                    const char **why);

    /* all events of this wake-up were given, or the lane stands now */
    void                       (*wakeup)(ngx_http_moe_job_t *job);

    /* wakeup comes soon: 1, when what the job's owner points to is wanted,
     * then 0, for what that points to */
    void                       (*prefetch)(ngx_http_moe_job_t *job,
                                    ngx_uint_t far);
} ngx_http_moe_job_ops_t;


struct ngx_http_moe_job_s {
    ngx_queue_t                  queue;         /* waiting for the lane */
    ngx_queue_t                  dirty;         /* waiting for its wake-up */
    ngx_http_moe_lane_t         *lane;
    ngx_http_moe_job_ops_t      *ops;
    uint32_t                     slot;
    unsigned                     waiting:1;
    unsigned                     patient:1;     /* also while it is down */
    unsigned                     live:1;
    unsigned                     is_dirty:1;
};


typedef enum {
    NGX_HTTP_MOE_LANE_DOWN = 0,
    NGX_HTTP_MOE_LANE_CONNECTING,
    NGX_HTTP_MOE_LANE_HELLO,
    NGX_HTTP_MOE_LANE_UP
} ngx_http_moe_lane_state_e;


typedef struct {
    ngx_http_moe_job_t          *job;           /* NULL: nobody listens */
    uint32_t                     gen;
    uint32_t                     next;          /* free list */
    uint32_t                     credit;        /* to be returned */
    unsigned                     used:1;
    unsigned                     cancel:1;      /* to be sent */
} ngx_http_moe_slot_t;


struct ngx_http_moe_lane_s {
    ngx_queue_t                  queue;
    ngx_str_t                    name;          /* "unix:/path" */
    ngx_sockaddr_t               sockaddr;
    socklen_t                    socklen;

    ngx_connection_t            *connection;
    moe_lane_t                   lane;
    moe_hello_t                  hello;         /* the engine's, while UP */
    ngx_http_moe_lane_state_e    state;

    ngx_event_t                  timer;         /* handshake, reconnect */
    ngx_event_t                  turn;          /* posted: flush, failure */
    ngx_queue_t                  waiting;
    const char                  *failed;        /* to be closed, and why */
    ngx_msec_t                   connect_timeout;
    ngx_msec_t                   deadline;
    ngx_msec_t                   backoff;
    ngx_msec_t                   hold_until;    /* no connect before */
    ngx_msec_t                   used_at;

    ngx_http_moe_slot_t         *slots;
    uint32_t                     nslots;
    uint32_t                     free;
    uint32_t                     njobs;

    unsigned                     keep:1;        /* always connected */
    unsigned                     broken:1;      /* failed: a violation */
    unsigned                     held:1;        /* hold_until counts */
    unsigned                     quiet:1;       /* nobody waits for it */
    unsigned                     retry:1;       /* cancels or credit wait */
};


typedef enum {
    NGX_HTTP_MOE_INIT = 0,
    NGX_HTTP_MOE_CONNECTING,            /* waits for a lane */
    NGX_HTTP_MOE_QUEUED,                /* submitted */
    NGX_HTTP_MOE_STARTED,
    NGX_HTTP_MOE_ENDED                  /* no job any more */
} ngx_http_moe_state_e;


/* the answer to one request of POST; it outlives the cleanup handlers */

struct ngx_http_moe_ctx_s {

    /* what every event touches comes first, to lie together */

    ngx_http_moe_job_t           job;
    ngx_http_request_t          *request;
    ngx_http_moe_loc_conf_t     *conf;          /* of the first location */

    ngx_http_moe_state_e         state;
    uint32_t                     completion_tokens;
    uint32_t                     prompt_tokens;
    uint32_t                     cached_tokens;
    ngx_msec_t                   last;          /* token */
    ngx_msec_t                   sent;          /* bytes */
    size_t                       owed;          /* credit: still here */
    size_t                       flying;        /* credit: in out */
    size_t                       response;      /* bytes of events */

    uint8_t                      finish;        /* moe_finish_e */
    uint8_t                      armed;         /* for which deadline */

    unsigned                     parsed:1;
    unsigned                     early:1;       /* body was read */
    unsigned                     background:1;
    unsigned                     cancelling:1;
    unsigned                     aborted:1;     /* r was terminated */
    unsigned                     blocked:1;     /* we hold r */
    unsigned                     header_sent:1;
    unsigned                     busy:1;        /* buf is not sent yet */
    unsigned                     closing:1;     /* after buf: NGX_ERROR */
    unsigned                     has_first:1;
    unsigned                     is_parked:1;
    unsigned                     counted:1;
    unsigned                     timed:1;       /* its first token was */
    unsigned                     returned:1;    /* to the same engine */
    unsigned                     begun:1;       /* the answer has its form */
    unsigned                     nomem:1;
    unsigned                     discard:1;     /* nobody listens */
    unsigned                     engines:1;     /* error is the engine's */

    ngx_http_moe_api_t           api;
    ngx_buf_t                    buf;
    ngx_http_moe_out_t           out;           /* while busy */
    ngx_event_t                  timer;

    ngx_http_upstream_t         *upstream;
    ngx_http_moe_error_t        *error;
    ngx_str_t                    record;        /* while a retry can be */
    ngx_str_t                    model;         /* asked for, or empty */

    ngx_msec_t                   begin;         /* the body was parsed */
    ngx_msec_t                   connect;       /* deadline for a lane */
    ngx_msec_t                   submitted;
    ngx_msec_t                   started;
    ngx_msec_t                   first;         /* token */
    ngx_msec_t                   parked;

    moe_started_t                usage;
    moe_end_t                    end;           /* numbers only */
    u_char                       fingerprint[32];
    uint32_t                     context;       /* of the model */
    ngx_str_t                   *engine;        /* name of the peer */
    const char                  *lost;
};


/* nginx's versions */

#if (nginx_version >= 1023000)

#define ngx_http_moe_header_last(h)  (h)->next = NULL

#define ngx_http_moe_cache_control(r, h)                                     \
    ((r)->headers_out.cache_control = (h), NGX_OK)

#else

#define ngx_http_moe_header_last(h)

static ngx_inline ngx_int_t
ngx_http_moe_cache_control(ngx_http_request_t *r, ngx_table_elt_t *h)
{
    ngx_table_elt_t  **cc;

    if (r->headers_out.cache_control.elts == NULL
        && ngx_array_init(&r->headers_out.cache_control, r->pool, 1,
                          sizeof(ngx_table_elt_t *))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    cc = ngx_array_push(&r->headers_out.cache_control);
    if (cc == NULL) {
        return NGX_ERROR;
    }

    *cc = h;

    return NGX_OK;
}

#endif


/*
 * A turn goes over the memory of a thousand streams, which no cache holds:
 * what the next ones will need is called for while the first is written.
 */

#if (__GNUC__)
#define ngx_http_moe_prefetch(p)  __builtin_prefetch(p)
#else
#define ngx_http_moe_prefetch(p)
#endif

#define NGX_HTTP_MOE_LINE  64

static ngx_inline void
ngx_http_moe_prefetch_area(void *p, size_t size)
{
    u_char  *line, *end;

    line = p;
    end = line + size;

    for ( /* void */ ; line < end; line += NGX_HTTP_MOE_LINE) {
        ngx_http_moe_prefetch(line);
    }
}


/* module */

extern ngx_module_t               ngx_http_moe_module;
extern ngx_http_moe_counters_t   *ngx_http_moe_counters;

#define ngx_http_moe_count(name, n)                                          \
    if (ngx_http_moe_counters) {                                             \
        (void) ngx_atomic_fetch_add(&ngx_http_moe_counters->name, n);        \
    }

#define ngx_http_moe_gauge(name, n)                                          \
    ngx_http_moe_count(process[ngx_process_slot].name, n)

void ngx_http_moe_gauges_sum(void);

/* what every event counts is added up in the worker, once a turn */

typedef struct {
    ngx_uint_t                   events;
    ngx_uint_t                   tokens;
    ngx_uint_t                   itl[MOE_STATS_BUCKETS];
    ngx_msec_t                   itl_ms;
} ngx_http_moe_tally_t;

extern ngx_http_moe_tally_t       ngx_http_moe_tally;

ngx_uint_t ngx_http_moe_bucket(ngx_msec_t ms);
void ngx_http_moe_tally_add(void);


/* handler */

ngx_int_t ngx_http_moe_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_moe_early_handler(ngx_http_request_t *r);

/* the request's context, also after an internal redirect; NULL if none */
ngx_http_moe_ctx_t *ngx_http_moe_get_ctx(ngx_http_request_t *r);

/* the same, made where the location has moe_pass */
ngx_http_moe_ctx_t *ngx_http_moe_need_ctx(ngx_http_request_t *r);


/* reply */

/* a header field that is not there yet; value lives as long as r->pool */
ngx_int_t ngx_http_moe_add_header(ngx_http_request_t *r, char *name,
    ngx_str_t *value);

/*
 * A whole reply of out, which is given back to the heap with the request.
 * The result is for ngx_http_finalize_request().
 */
ngx_int_t ngx_http_moe_send_reply(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_http_moe_out_t *out);

/* OpenAI's error object, or the status alone where error_page takes it */
ngx_int_t ngx_http_moe_send_error(ngx_http_request_t *r,
    ngx_http_moe_error_t *err, ngx_uint_t own);

/* an error with a static message */
ngx_http_moe_error_t *ngx_http_moe_error(ngx_http_request_t *r,
    ngx_uint_t status, const char *code, const char *message);

ngx_int_t ngx_http_moe_send_sse_header(ngx_http_request_t *r);
ngx_int_t ngx_http_moe_header_filter_init(ngx_conf_t *cf);


/* key: whom a job counts for; fills in its key, priority and weight */

ngx_int_t ngx_http_moe_key(ngx_http_request_t *r, moe_job_t *job);
char *ngx_http_moe_priority(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
char *ngx_http_moe_weight(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);


/* stream: the job of a POST from its engine's choice to its end */

extern ngx_http_moe_job_ops_t  ngx_http_moe_stream_ops;

void ngx_http_moe_stream_start(ngx_http_moe_ctx_t *ctx);

/* The answer takes its form: to be called before anything is rendered.
 * NGX_OK or NGX_ERROR. */
ngx_int_t ngx_http_moe_stream_begin(ngx_http_moe_ctx_t *ctx);

/* something is about to go to the client: no other engine can be asked */
void ngx_http_moe_stream_commit(ngx_http_moe_ctx_t *ctx);

/* ends the request with err, after the job's end if there is one */
void ngx_http_moe_stream_fail(ngx_http_moe_ctx_t *ctx,
    ngx_http_moe_error_t *err);

/* the next of the stream's deadlines that counts now */
void ngx_http_moe_stream_arm(ngx_http_moe_ctx_t *ctx);

/* r and all that belongs to it may be gone after the return */
void ngx_http_moe_stream_finalize(ngx_http_moe_ctx_t *ctx, ngx_int_t rc);


/* event: what the engine says of it; the op of ngx_http_moe_job_ops_t */

ngx_int_t ngx_http_moe_event(ngx_http_moe_job_t *job, moe_frame_t *f,
    void *payload, const char **why);


/* output: what the client gets */

void ngx_http_moe_output(ngx_http_moe_ctx_t *ctx);
void ngx_http_moe_output_comment(ngx_http_moe_ctx_t *ctx);
void ngx_http_moe_output_handler(ngx_http_request_t *r);
void ngx_http_moe_output_credit(ngx_http_moe_ctx_t *ctx);
void ngx_http_moe_output_exit(void);


/* peer */

/* Prepares the choice for a request; NGX_OK, NGX_DECLINED (there is no such
 * upstream) or NGX_ERROR. */
ngx_int_t ngx_http_moe_peer_init(ngx_http_moe_ctx_t *ctx);

/* Chooses: NGX_OK and ctx->upstream->peer, NGX_BUSY or NGX_ERROR. */
ngx_int_t ngx_http_moe_peer_get(ngx_http_moe_ctx_t *ctx);

/* Gives the peer back; state: 0, NGX_PEER_FAILED or NGX_PEER_NEXT; status:
 * for $upstream_status. */
void ngx_http_moe_peer_free(ngx_http_moe_ctx_t *ctx, ngx_uint_t state,
    ngx_uint_t status);


/* lane */

/* The lane to a Unix socket, made on first use; NULL: no memory. */
ngx_http_moe_lane_t *ngx_http_moe_lane_get(struct sockaddr *sockaddr,
    socklen_t socklen, ngx_str_t *name, ngx_msec_t connect_timeout);

/*
 * NGX_OK: the lane stands.  NGX_AGAIN: wakeup, perhaps after down, is
 * called later.
 * NGX_DECLINED: there is none now.
 */
ngx_int_t ngx_http_moe_lane_attach(ngx_http_moe_lane_t *lane,
    ngx_http_moe_job_t *job);

/* For a lane that is down: wakeup is called when it stands again; the job's
 * owner keeps the time. */
void ngx_http_moe_lane_wait(ngx_http_moe_lane_t *lane,
    ngx_http_moe_job_t *job);

/*
 * Submits a job record to a lane that stands: NGX_OK, NGX_BUSY (no slot or no
 * room now), NGX_DECLINED (too large for this lane), NGX_ERROR.
 */
ngx_int_t ngx_http_moe_lane_submit(ngx_http_moe_lane_t *lane,
    ngx_http_moe_job_t *job, void *record, size_t len);

void ngx_http_moe_lane_cancel(ngx_http_moe_job_t *job);
void ngx_http_moe_lane_credit(ngx_http_moe_job_t *job, size_t bytes,
    size_t threshold);

/* Nobody listens to the job any more; its slot is free after its END. */
void ngx_http_moe_lane_detach(ngx_http_moe_job_t *job);

void ngx_http_moe_lane_connect(ngx_http_moe_lane_t *lane);
void ngx_http_moe_lane_dirty(ngx_http_moe_job_t *job);
void ngx_http_moe_lanes_close(void);

/* from within a job's call: the lane is closed when the turn is over */
void ngx_http_moe_lane_fail(ngx_http_moe_lane_t *lane, const char *why);

void ngx_http_moe_slot_put(ngx_http_moe_lane_t *lane, uint32_t i);
void ngx_http_moe_slots_again(ngx_http_moe_lane_t *lane);
ngx_queue_t *ngx_http_moe_lanes(void);


/* survey: asks several engines at once */

typedef enum {
    NGX_HTTP_MOE_ASK_HELLO = 0,         /* is there a lane? */
    NGX_HTTP_MOE_ASK_HEALTH             /* and does it make tokens? */
} ngx_http_moe_ask_e;

typedef struct ngx_http_moe_survey_s  ngx_http_moe_survey_t;

typedef struct {
    ngx_http_moe_job_t           job;
    ngx_http_moe_survey_t       *survey;
    ngx_http_moe_lane_t         *lane;
    const char                  *why;
    moe_stats_t                 *stats;         /* NULL: none was read */
    unsigned                     done:1;
    unsigned                     up:1;
    unsigned                     healthy:1;
} ngx_http_moe_asked_t;

typedef ngx_int_t (*ngx_http_moe_survey_pt)(ngx_http_request_t *r,
    ngx_http_moe_survey_t *survey);

struct ngx_http_moe_survey_s {
    ngx_http_request_t          *request;
    ngx_http_moe_survey_pt       handler;       /* answers when all is known */
    ngx_http_moe_ask_e           ask;
    ngx_array_t                  engines;       /* ngx_http_moe_asked_t */
    ngx_uint_t                   left;
    ngx_event_t                  timer;
    unsigned                     waits:1;
};

/* upstreams: of ngx_http_upstream_srv_conf_t *; the result is a content
 * handler's */
ngx_int_t ngx_http_moe_survey(ngx_http_request_t *r, ngx_array_t *upstreams,
    ngx_http_moe_ask_e ask, ngx_http_moe_survey_pt handler);


/* models: what the engines serve and how they are */

ngx_int_t ngx_http_moe_models_handler(ngx_http_request_t *r);
ngx_int_t ngx_http_moe_health_handler(ngx_http_request_t *r);


/* status, variables, engine */

/* on the survey's engines, to out */
ngx_int_t ngx_http_moe_experts_json(ngx_http_moe_survey_t *s,
    ngx_http_moe_out_t *out);
ngx_int_t ngx_http_moe_experts_heat(ngx_http_moe_survey_t *s,
    ngx_http_moe_out_t *out);

char *ngx_http_moe_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf);
ngx_int_t ngx_http_moe_add_variables(ngx_conf_t *cf);
char *ngx_http_moe_engine_block(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
void ngx_http_moe_engines_start(ngx_cycle_t *cycle);


#endif /* _NGX_HTTP_MOE_H_INCLUDED_ */
