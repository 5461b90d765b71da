
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * The dialect: OpenAI's JSON in, a job record out; events in, SSE frames or
 * one JSON object out.  It knows neither requests nor lanes nor timers: the
 * module hands it a body and events, and sends what it renders.
 *
 * A request goes init, parse, (the module fills in what is its own to know:
 * key, credit, time-out), encode; then started, any number of delta and
 * flush, and one finish or error.
 */

#ifndef _NGX_HTTP_MOE_DIALECT_H_INCLUDED_
#define _NGX_HTTP_MOE_DIALECT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <jansson.h>

#include "engine/jobq.h"


typedef enum {
    NGX_HTTP_MOE_API_CHAT = 0,         /* POST /v1/chat/completions */
    NGX_HTTP_MOE_API_COMPLETION,       /* POST /v1/completions */
    NGX_HTTP_MOE_API_TOKENIZE,         /* POST /tokenize */
    NGX_HTTP_MOE_API_DETOKENIZE        /* POST /detokenize */
} ngx_http_moe_api_e;


/* an error as the client sees it; texts live as long as the pool */

typedef struct {
    ngx_uint_t                   status;
    ngx_str_t                    message;
    ngx_str_t                    type;      /* empty: by the status */
    ngx_str_t                    param;     /* empty: null */
    ngx_str_t                    code;      /* empty: null */
    ngx_uint_t                   retry_after;   /* seconds, 0: none */
} ngx_http_moe_error_t;


/* what configuration says of requests; values are used where set has the bit
 * (MOE_SET_*) and the request is silent */

typedef struct {
    ngx_uint_t                   set;
    ngx_uint_t                   default_max_tokens;   /* 0: none */
    ngx_int_t                    top_k;
    double                       temperature;
    double                       top_p;
    double                       min_p;
    double                       presence;
    double                       frequency;
    double                       repetition;
    ngx_uint_t                   max_tokens;    /* cap of a choice, 0: none */
    ngx_uint_t                   max_prompt;    /* tokens, 0: none */
    ngx_array_t                 *aliases;       /* ngx_keyval_t: from, to */
} ngx_http_moe_api_conf_t;


/* a growable piece of heap; data is NULL while empty */

typedef struct {
    u_char                      *data;
    size_t                       len;
    size_t                       size;
} ngx_http_moe_out_t;


/* a choice of the answer: what has come and is not rendered yet */

typedef struct {
    ngx_http_moe_out_t           text;
    ngx_http_moe_out_t           logprobs;      /* rendered JSON items */
    ngx_http_moe_out_t           tops;          /* completions: in columns */
    ngx_http_moe_out_t           values;
    ngx_http_moe_out_t           offsets;
    size_t                       offset;        /* characters so far */
    unsigned                     finish:8;      /* moe_finish_e */
    unsigned                     begun:1;       /* role chunk is out */
    unsigned                     ended:1;       /* finish chunk is out */
    unsigned                     dirty:1;
} ngx_http_moe_choice_t;


typedef struct {
    ngx_http_moe_api_e           endpoint;
    ngx_pool_t                  *pool;

    /* after parse, until encode */
    moe_job_t                   *job;
    json_t                      *root;
    char                        *messages;
    char                        *kwargs;

    ngx_str_t                    model;         /* as the client named it */
    ngx_str_t                    id;            /* "chatcmpl-..." */
    ngx_str_t                    request_id;    /* 32 hex digits */
    ngx_str_t                    prefix;        /* of every object */
    time_t                       created;
    ngx_uint_t                   nchoices;
    ngx_http_moe_choice_t       *choices;

    ngx_uint_t                   nids;          /* tokenize: rendered */

    /* bytes that delta holds and flush has not rendered */
    size_t                       pending;

    moe_started_t                usage;
    ngx_uint_t                   completion_tokens;

    unsigned                     stream:1;
    unsigned                     include_usage:1;
    unsigned                     logprobs:1;
} ngx_http_moe_api_t;


/*
 * Prepares api for a request: ids are drawn here, so that an error has them
 * too.  NGX_OK or NGX_ERROR (no memory, no randomness).  A pool cleanup frees
 * what the heap holds of it.
 */
ngx_int_t ngx_http_moe_api_init(ngx_http_moe_api_t *api, ngx_pool_t *pool,
    ngx_http_moe_api_e endpoint);

/*
 * Parses and checks the body.  NGX_OK: api->job stands and api->model says
 * what the client asked for, empty if nothing; NGX_DECLINED: err says what is
 * wrong, to be answered; NGX_ERROR: no memory.
 */
ngx_int_t ngx_http_moe_api_parse(ngx_http_moe_api_t *api,
    ngx_http_moe_api_conf_t *conf, ngx_str_t *body,
    ngx_http_moe_error_t *err);

/*
 * The job as a record for moe_lane_put(): heap memory that the caller frees
 * with ngx_free().  job and the parsed JSON are freed.
 */
ngx_int_t ngx_http_moe_api_encode(ngx_http_moe_api_t *api,
    ngx_str_t *record);

/*
 * The engine has taken it: model is the name to answer with where the client
 * gave none, fingerprint 32 bytes.  To be called once before flush or finish.
 */
ngx_int_t ngx_http_moe_api_started(ngx_http_moe_api_t *api, ngx_str_t *model,
    u_char *fingerprint, moe_started_t *started);

/* Forgets what events have said: another engine begins the answer anew. */
void ngx_http_moe_api_again(ngx_http_moe_api_t *api);

/*
 * Takes an event in.  NGX_OK, NGX_ERROR (no memory) or NGX_DECLINED: the
 * engine's event is not possible (choice out of range, broken records).
 */
ngx_int_t ngx_http_moe_api_delta(ngx_http_moe_api_t *api,
    const moe_delta_t *delta);

/* Renders what is pending as SSE frames, one a choice, at the end of out;
 * the first one of a choice is the role chunk.  NGX_OK or NGX_ERROR. */
ngx_int_t ngx_http_moe_api_flush(ngx_http_moe_api_t *api,
    ngx_http_moe_out_t *out);

/*
 * The answer is complete: the rest of the frames, usage and [DONE]; or, when
 * it is not streamed, the one JSON object.  context: the model's, for
 * /tokenize.
 */
ngx_int_t ngx_http_moe_api_finish(ngx_http_moe_api_t *api,
    const moe_end_t *end, ngx_uint_t context, ngx_http_moe_out_t *out);

/* An engine's END other than 200 as an error; texts are copied and checked. */
ngx_int_t ngx_http_moe_api_end_error(ngx_pool_t *pool, const moe_end_t *end,
    ngx_http_moe_error_t *err);

/* {"error":{...}} as a body, or as an SSE frame. */
ngx_int_t ngx_http_moe_api_error_body(ngx_http_moe_error_t *err,
    ngx_http_moe_out_t *out);
ngx_int_t ngx_http_moe_api_error_frame(ngx_http_moe_error_t *err,
    ngx_http_moe_out_t *out);

/* One object of /v1/models, without a comma. */
ngx_int_t ngx_http_moe_api_model(ngx_http_moe_out_t *out, const char *name,
    uint64_t created, ngx_uint_t context);

/* moe_default NAME VALUE: NULL, or what is wrong as a static text. */
char *ngx_http_moe_api_default(ngx_http_moe_api_conf_t *conf,
    ngx_str_t *name, ngx_str_t *value);


/* Growable output. */
ngx_int_t ngx_http_moe_out_add(ngx_http_moe_out_t *out, const void *data,
    size_t len);
ngx_int_t ngx_http_moe_out_printf(ngx_http_moe_out_t *out,
    const char *fmt, ...);                      /* nginx's formats */
ngx_int_t ngx_http_moe_out_json(ngx_http_moe_out_t *out, const void *data,
    size_t len);       /* escaped, without quotes; bad UTF-8 as U+FFFD */
void ngx_http_moe_out_free(ngx_http_moe_out_t *out);


#endif /* _NGX_HTTP_MOE_DIALECT_H_INCLUDED_ */
