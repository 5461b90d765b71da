
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * OpenAI's request in: every field that is known is checked, and the first
 * that is wrong is named.  Null means absent.  Names that are not known are
 * ignored, as are fields that ask for nothing; what asks for something that
 * does not exist is refused, never dropped.
 */


#include "ngx_http_moe_dialect_parse.h"


#include <openssl/rand.h>


#define NGX_HTTP_MOE_CHAT     (1u << NGX_HTTP_MOE_API_CHAT)
#define NGX_HTTP_MOE_COMPL    (1u << NGX_HTTP_MOE_API_COMPLETION)
#define NGX_HTTP_MOE_TOK      (1u << NGX_HTTP_MOE_API_TOKENIZE)
#define NGX_HTTP_MOE_DETOK    (1u << NGX_HTTP_MOE_API_DETOKENIZE)
#define NGX_HTTP_MOE_GEN      (NGX_HTTP_MOE_CHAT|NGX_HTTP_MOE_COMPL)
#define NGX_HTTP_MOE_ANY      (NGX_HTTP_MOE_GEN|NGX_HTTP_MOE_TOK             \
                               |NGX_HTTP_MOE_DETOK)

#define NGX_HTTP_MOE_N_MAX         16
#define NGX_HTTP_MOE_BIAS_MAX      1024
#define NGX_HTTP_MOE_COMPL_TOKENS  16      /* OpenAI's default */


static ngx_int_t ngx_http_moe_field_number(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_integer(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_flag(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_unflag(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_string(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_model(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_seed(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_stop(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_bias(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_stream_options(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_logprobs(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_empty(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_choice(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_format(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_modalities(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_field_best_of(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
static ngx_int_t ngx_http_moe_parse_body(ngx_http_moe_parse_t *ps,
    ngx_str_t *body);
static ngx_int_t ngx_http_moe_parse_fields(ngx_http_moe_parse_t *ps);
static void ngx_http_moe_parse_defaults(ngx_http_moe_parse_t *ps);
static ngx_int_t ngx_http_moe_parse_whole(ngx_http_moe_parse_t *ps);


#define ngx_http_moe_job_field(name)  offsetof(moe_job_t, name)


/* in the order in which errors are reported */

static ngx_http_moe_field_t  ngx_http_moe_fields[] = {

    { "model", NGX_HTTP_MOE_ANY, ngx_http_moe_field_model, 0, 0, 0, 0 },

    { "messages", NGX_HTTP_MOE_CHAT|NGX_HTTP_MOE_TOK,
      ngx_http_moe_field_messages, 0, 0, 0, 0 },

    { "prompt", NGX_HTTP_MOE_COMPL|NGX_HTTP_MOE_TOK,
      ngx_http_moe_field_prompt, 0, 0, 0, 0 },

    { "tokens", NGX_HTTP_MOE_DETOK, ngx_http_moe_field_prompt, 0, 0, 0, 0 },

    { "stream", NGX_HTTP_MOE_GEN, ngx_http_moe_field_flag, 0, 0, 0,
      MOE_JOB_STREAM },

    { "stream_options", NGX_HTTP_MOE_GEN, ngx_http_moe_field_stream_options,
      0, 0, 0, 0 },

    { "max_tokens", NGX_HTTP_MOE_GEN, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(max_tokens), 0, 2147483647, 0 },

    { "max_completion_tokens", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(max_tokens), 0, 2147483647, 0 },

    { "min_tokens", NGX_HTTP_MOE_GEN, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(min_tokens), 0, 2147483647, 0 },

    { "n", NGX_HTTP_MOE_GEN, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(n), 1, NGX_HTTP_MOE_N_MAX, 0 },

    { "best_of", NGX_HTTP_MOE_COMPL, ngx_http_moe_field_best_of, 0, 0, 0, 0 },

    { "temperature", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(temperature), 0, 2, MOE_SET_TEMPERATURE },

    { "top_p", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(top_p), 0, 1, MOE_SET_TOP_P },

    { "top_k", NGX_HTTP_MOE_GEN, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(top_k), -1, 2147483647, MOE_SET_TOP_K },

    { "min_p", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(min_p), 0, 1, MOE_SET_MIN_P },

    { "presence_penalty", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(presence), -2, 2, MOE_SET_PRESENCE },

    { "frequency_penalty", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(frequency), -2, 2, MOE_SET_FREQUENCY },

    { "repetition_penalty", NGX_HTTP_MOE_GEN, ngx_http_moe_field_number,
      ngx_http_moe_job_field(repetition), 0.01, 10, MOE_SET_REPETITION },

    { "seed", NGX_HTTP_MOE_GEN, ngx_http_moe_field_seed, 0, 0, 0, 0 },

    { "stop", NGX_HTTP_MOE_GEN, ngx_http_moe_field_stop, 0, 0, 0, 0 },

    { "logit_bias", NGX_HTTP_MOE_GEN, ngx_http_moe_field_bias, 0, 0, 0, 0 },

    { "logprobs", NGX_HTTP_MOE_GEN, ngx_http_moe_field_logprobs,
      ngx_http_moe_job_field(top_logprobs), 0, MOE_TOP_LOGPROBS, 0 },

    { "top_logprobs", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_integer,
      ngx_http_moe_job_field(top_logprobs), 0, MOE_TOP_LOGPROBS, 0 },

    { "ignore_eos", NGX_HTTP_MOE_GEN, ngx_http_moe_field_flag, 0, 0, 0,
      MOE_JOB_IGNORE_EOS },

    { "echo", NGX_HTTP_MOE_COMPL, ngx_http_moe_field_flag, 0, 0, 0,
      MOE_JOB_ECHO },

    { "user", NGX_HTTP_MOE_GEN, ngx_http_moe_field_string, 0, 0, 0, 0 },

    { "cache_salt", NGX_HTTP_MOE_GEN, ngx_http_moe_field_string,
      ngx_http_moe_job_field(salt), 0, 0, 0 },

    { "chat_template_kwargs", NGX_HTTP_MOE_CHAT|NGX_HTTP_MOE_TOK,
      ngx_http_moe_field_kwargs, 0, 0, 0, 0 },

    { "add_generation_prompt", NGX_HTTP_MOE_TOK, ngx_http_moe_field_unflag,
      0, 0, 0, MOE_JOB_NO_GEN_PROMPT },

    { "add_special_tokens", NGX_HTTP_MOE_TOK, ngx_http_moe_field_unflag,
      0, 0, 0, MOE_JOB_NO_SPECIAL },

    { "tools", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_empty, 0, 0, 0, 0 },

    { "functions", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_empty, 0, 0, 0, 0 },

    { "tool_choice", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_choice,
      0, 0, 0, 0 },

    { "function_call", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_choice,
      0, 0, 0, 0 },

    { "response_format", NGX_HTTP_MOE_GEN, ngx_http_moe_field_format,
      0, 0, 0, 0 },

    { "modalities", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_modalities,
      0, 0, 0, 0 },

    { "audio", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_empty, 0, 0, 0, 0 },

    { "web_search_options", NGX_HTTP_MOE_CHAT, ngx_http_moe_field_empty,
      0, 0, 0, 0 },

    { "suffix", NGX_HTTP_MOE_COMPL, ngx_http_moe_field_empty, 0, 0, 0, 0 },

    { NULL, 0, NULL, 0, 0, 0, 0 }
};


ngx_int_t
ngx_http_moe_api_parse(ngx_http_moe_api_t *api,
    ngx_http_moe_api_conf_t *conf, ngx_str_t *body,
    ngx_http_moe_error_t *err)
{
    ngx_int_t              rc;
    ngx_http_moe_parse_t   ps;

    static const uint32_t  kinds[] = {
        MOE_JOB_CHAT, MOE_JOB_COMPLETION, MOE_JOB_TOKENIZE,
        MOE_JOB_DETOKENIZE
    };

    ngx_memzero(err, sizeof(ngx_http_moe_error_t));

    ps.api = api;
    ps.conf = conf;
    ps.err = err;

    ps.job = ngx_calloc(sizeof(moe_job_t), api->pool->log);
    if (ps.job == NULL) {
        return NGX_ERROR;
    }

    api->job = ps.job;
    ps.job->kind = kinds[api->endpoint];

    rc = ngx_http_moe_parse_body(&ps, body);
    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_moe_parse_defaults(&ps);

    if (RAND_bytes((u_char *) &ps.job->seed, sizeof(ps.job->seed)) != 1
        || RAND_bytes(ps.job->request_id, sizeof(ps.job->request_id)) != 1)
    {
        return NGX_ERROR;
    }

    rc = ngx_http_moe_parse_fields(&ps);
    if (rc != NGX_OK) {
        return rc;
    }

    return ngx_http_moe_parse_whole(&ps);
}


ngx_int_t
ngx_http_moe_refuse(ngx_http_moe_parse_t *ps, ngx_uint_t status,
    const char *param, const char *code, const char *fmt, ...)
{
    u_char      *p, buf[NGX_MAX_ERROR_STR];
    va_list      args;
    ngx_str_t   *message;

    va_start(args, fmt);
    p = ngx_vslprintf(buf, buf + sizeof(buf), fmt, args);
    va_end(args);

    ps->err->status = status;

    message = &ps->err->message;
    message->len = p - buf;
    message->data = ngx_pnalloc(ps->api->pool, message->len);
    if (message->data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(message->data, buf, message->len);

    if (param) {
        ps->err->param.len = ngx_strlen(param);
        ps->err->param.data = ngx_pnalloc(ps->api->pool, ps->err->param.len);
        if (ps->err->param.data == NULL) {
            return NGX_ERROR;
        }

        ngx_memcpy(ps->err->param.data, param, ps->err->param.len);
    }

    if (code) {
        ps->err->code.data = (u_char *) code;
        ps->err->code.len = ngx_strlen(code);
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_moe_parse_body(ngx_http_moe_parse_t *ps, ngx_str_t *body)
{
    json_error_t  error;

    ps->root = json_loadb((char *) body->data, body->len, JSON_ALLOW_NUL,
                          &error);

    if (ps->root == NULL) {

        if (json_error_code(&error) == json_error_out_of_memory) {
            return NGX_ERROR;
        }

        return ngx_http_moe_refuse(ps, 400, NULL, "invalid_json",
                                   "The body of the request is not valid "
                                   "JSON: %s at line %d, column %d.",
                                   error.text, error.line, error.column);
    }

    ps->api->root = ps->root;

    if (!json_is_object(ps->root)) {
        return ngx_http_moe_refuse(ps, 400, NULL, "invalid_json",
                                   "The body of the request must be a JSON "
                                   "object.");
    }

    return NGX_OK;
}


static void
ngx_http_moe_parse_defaults(ngx_http_moe_parse_t *ps)
{
    moe_job_t                *job;
    ngx_http_moe_api_conf_t  *conf;

    job = ps->job;
    conf = ps->conf;

    job->n = 1;
    job->max_tokens = MOE_UNLIMITED;
    job->max_prompt = conf->max_prompt ? conf->max_prompt : MOE_UNLIMITED;
    job->set = conf->set;
    job->temperature = conf->temperature;
    job->top_p = conf->top_p;
    job->top_k = conf->top_k;
    job->min_p = conf->min_p;
    job->presence = conf->presence;
    job->frequency = conf->frequency;
    job->repetition = conf->repetition;

    if (conf->default_max_tokens) {
        job->max_tokens = conf->default_max_tokens;

    } else if (ps->api->endpoint == NGX_HTTP_MOE_API_COMPLETION) {
        job->max_tokens = NGX_HTTP_MOE_COMPL_TOKENS;
    }
}


static ngx_int_t
ngx_http_moe_parse_fields(ngx_http_moe_parse_t *ps)
{
    json_t                *value;
    ngx_int_t              rc;
    ngx_http_moe_field_t  *f;

    for (f = ngx_http_moe_fields; f->name; f++) {

        if (!(f->where & (1u << ps->api->endpoint))) {
            continue;
        }

        value = json_object_get(ps->root, f->name);

        if (value == NULL || json_is_null(value)) {
            continue;
        }

        rc = f->handler(ps, f, value);
        if (rc != NGX_OK) {
            return rc;
        }
    }

    return NGX_OK;
}


/* what only shows when all fields are known */

static ngx_int_t
ngx_http_moe_parse_whole(ngx_http_moe_parse_t *ps)
{
    json_t      *value;
    moe_job_t   *job;
    ngx_uint_t   echo;

    job = ps->job;

    if (job->messages.len == 0 && job->nprompts == 0) {

        static const char  *names[] = {
            "messages", "prompt", "prompt", "tokens"
        };

        return ngx_http_moe_refuse(ps, 400, names[ps->api->endpoint],
                                   "missing_required_parameter",
                                   "Missing required parameter: '%s'.",
                                   names[ps->api->endpoint]);
    }

    if (job->messages.len && job->nprompts) {
        return ngx_http_moe_refuse(ps, 400, "prompt", NULL,
                                   "Give either 'messages' or 'prompt', not "
                                   "both.");
    }

    echo = job->flags & MOE_JOB_ECHO;

    if (job->max_tokens == 0 && !echo) {
        return ngx_http_moe_refuse(ps, 400, "max_tokens", NULL,
                                   "'max_tokens' must be at least 1.");
    }

    if (ps->conf->max_tokens && job->max_tokens > ps->conf->max_tokens) {
        job->max_tokens = ps->conf->max_tokens;
    }

    if (job->min_tokens > job->max_tokens) {
        return ngx_http_moe_refuse(ps, 400, "min_tokens", NULL,
                                   "'min_tokens' must not be above the "
                                   "number of tokens asked for.");
    }

    value = json_object_get(ps->root, "stream_options");

    if (json_is_object(value) && !(job->flags & MOE_JOB_STREAM)) {
        return ngx_http_moe_refuse(ps, 400, "stream_options", NULL,
                                   "'stream_options' is only allowed when "
                                   "'stream' is true.");
    }

    if (job->top_logprobs && !(job->flags & MOE_JOB_LOGPROBS)) {
        return ngx_http_moe_refuse(ps, 400, "top_logprobs", NULL,
                                   "'top_logprobs' is only allowed when "
                                   "'logprobs' is true.");
    }

    if (echo && (job->flags & MOE_JOB_LOGPROBS)) {
        job->flags |= MOE_JOB_PROMPT_LOGPROBS;
    }

    if (job->nprompts * job->n > MOE_CHOICES_MAX) {
        return ngx_http_moe_refuse(ps, 400, "prompt", NULL,
                                   "The number of prompts times 'n' must "
                                   "not be above %d.", MOE_CHOICES_MAX);
    }

    ps->api->nchoices = (job->nprompts ? job->nprompts : 1) * job->n;
    ps->api->stream = (job->flags & MOE_JOB_STREAM) ? 1 : 0;
    ps->api->logprobs = (job->flags & MOE_JOB_LOGPROBS) ? 1 : 0;

    return NGX_OK;
}


ngx_int_t
ngx_http_moe_wrong_type(ngx_http_moe_parse_t *ps, const char *param,
    const char *expected)
{
    return ngx_http_moe_refuse(ps, 400, param, "invalid_type",
                               "Invalid type for '%s': expected %s.",
                               param, expected);
}


static ngx_int_t
ngx_http_moe_out_of_range(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f)
{
    /* nginx's formats know no shortest number */

    char  range[64];

    (void) snprintf(range, sizeof(range), "%g and %.10g", f->min, f->max);

    return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                               "Invalid value for '%s': expected a number "
                               "between %s.", f->name, range);
}


static ngx_int_t
ngx_http_moe_not_yet(ngx_http_moe_parse_t *ps, const char *param)
{
    return ngx_http_moe_refuse(ps, 400, param, "unsupported_parameter",
                               "'%s' asks for something that this server "
                               "does not support.", param);
}


static ngx_int_t
ngx_http_moe_field_number(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    double  number;

    if (!json_is_number(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a number");
    }

    number = json_number_value(value);

    if (!(number >= f->min && number <= f->max)) {
        return ngx_http_moe_out_of_range(ps, f);
    }

    *(float *) ((u_char *) ps->job + f->offset) = (float) number;
    ps->job->set |= f->bit;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_integer(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    json_int_t  number;

    if (!json_is_integer(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an integer");
    }

    number = json_integer_value(value);

    if (number < (json_int_t) f->min || number > (json_int_t) f->max) {
        return ngx_http_moe_out_of_range(ps, f);
    }

    *(int32_t *) ((u_char *) ps->job + f->offset) = (int32_t) number;
    ps->job->set |= f->bit;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_flag(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_boolean(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a boolean");
    }

    if (json_is_true(value)) {
        ps->job->flags |= f->bit;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_unflag(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_boolean(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a boolean");
    }

    if (json_is_false(value)) {
        ps->job->flags |= f->bit;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_string(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    moe_str_t  *s;

    if (!json_is_string(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a string");
    }

    if (f->offset) {
        s = (moe_str_t *) ((u_char *) ps->job + f->offset);
        s->data = json_string_value(value);
        s->len = json_string_length(value);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_model(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    size_t         len;
    u_char        *data;
    ngx_str_t     *to;
    ngx_uint_t     i;
    ngx_keyval_t  *alias;

    if (!json_is_string(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a string");
    }

    len = json_string_length(value);

    if (len == 0 || len >= MOE_MODEL_NAME_MAX) {
        return ngx_http_moe_refuse(ps, 404, f->name, "model_not_found",
                                   "The model that was asked for does not "
                                   "exist.");
    }

    data = ngx_pnalloc(ps->api->pool, len);
    if (data == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(data, json_string_value(value), len);

    ps->api->model.len = len;
    ps->api->model.data = data;

    to = &ps->api->model;

    if (ps->conf->aliases) {
        alias = ps->conf->aliases->elts;

        for (i = 0; i < ps->conf->aliases->nelts; i++) {
            if (alias[i].key.len == len
                && ngx_strncmp(alias[i].key.data, data, len) == 0)
            {
                to = &alias[i].value;
                break;
            }
        }
    }

    ps->job->model.data = (char *) to->data;
    ps->job->model.len = to->len;

    return NGX_OK;
}


/* any integer that JSON can carry; the same number is the same seed */

static ngx_int_t
ngx_http_moe_field_seed(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_integer(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an integer");
    }

    ps->job->seed = (uint64_t) json_integer_value(value);

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_stop(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    size_t      i, n;
    json_t     *item;
    moe_str_t  *stop;

    n = json_is_array(value) ? json_array_size(value) : 1;

    if (n > MOE_STOPS_MAX) {
        return ngx_http_moe_refuse(ps, 400, f->name, "array_above_max_length",
                                   "'stop' may have at most %d strings.",
                                   MOE_STOPS_MAX);
    }

    for (i = 0; i < n; i++) {
        item = json_is_array(value) ? json_array_get(value, i) : value;

        if (!json_is_string(item)) {
            return ngx_http_moe_wrong_type(ps, f->name, "a string or an "
                                           "array of strings");
        }

        if (json_string_length(item) == 0) {
            return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                                       "A stop string must not be empty.");
        }

        stop = &ps->job->stops[ps->job->nstops++];
        stop->data = json_string_value(item);
        stop->len = json_string_length(item);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_bias(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    size_t       n;
    double       number;
    json_t      *item;
    ngx_int_t    id;
    moe_bias_t  *bias;
    const char  *key;

    if (!json_is_object(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an object");
    }

    n = json_object_size(value);

    if (n == 0) {
        return NGX_OK;
    }

    if (n > NGX_HTTP_MOE_BIAS_MAX) {
        return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                                   "'logit_bias' may have at most %d "
                                   "entries.", NGX_HTTP_MOE_BIAS_MAX);
    }

    bias = ngx_palloc(ps->api->pool, n * sizeof(moe_bias_t));
    if (bias == NULL) {
        return NGX_ERROR;
    }

    ps->job->bias = bias;

    json_object_foreach(value, key, item) {

        id = ngx_atoi((u_char *) key, ngx_strlen(key));

        if (id == NGX_ERROR || id > 0x7fffffff) {
            return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                                       "'logit_bias' has a key that is no "
                                       "token id.");
        }

        number = json_number_value(item);

        if (!json_is_number(item) || !(number >= -100 && number <= 100)) {
            return ngx_http_moe_refuse(ps, 400, f->name, "invalid_value",
                                       "'logit_bias' of token %i must be a "
                                       "number between -100 and 100.", id);
        }

        bias[ps->job->nbias].id = (uint32_t) id;
        bias[ps->job->nbias++].bias = (float) number;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_stream_options(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value)
{
    json_t  *usage;

    if (!json_is_object(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an object");
    }

    usage = json_object_get(value, "include_usage");

    if (usage == NULL || json_is_null(usage)) {
        return NGX_OK;
    }

    if (!json_is_boolean(usage)) {
        return ngx_http_moe_wrong_type(ps, "stream_options.include_usage",
                                       "a boolean");
    }

    ps->api->include_usage = json_is_true(usage) ? 1 : 0;

    return NGX_OK;
}


/* a boolean for chat, the number of alternatives for completions */

static ngx_int_t
ngx_http_moe_field_logprobs(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value)
{
    if (ps->api->endpoint == NGX_HTTP_MOE_API_CHAT) {

        if (!json_is_boolean(value)) {
            return ngx_http_moe_wrong_type(ps, f->name, "a boolean");
        }

        if (json_is_true(value)) {
            ps->job->flags |= MOE_JOB_LOGPROBS;
        }

        return NGX_OK;
    }

    ps->job->flags |= MOE_JOB_LOGPROBS;

    return ngx_http_moe_field_integer(ps, f, value);
}


/* what does not exist here is accepted while it asks for nothing */

static ngx_int_t
ngx_http_moe_field_empty(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if ((json_is_array(value) && json_array_size(value) == 0)
        || (json_is_string(value) && json_string_length(value) == 0))
    {
        return NGX_OK;
    }

    return ngx_http_moe_not_yet(ps, f->name);
}


static ngx_int_t
ngx_http_moe_field_choice(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_string(value) && !json_is_object(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "a string or an object");
    }

    /* without tools there is nothing that "auto" could choose */

    if (ngx_http_moe_json_is(value, "none")
        || ngx_http_moe_json_is(value, "auto"))
    {
        return NGX_OK;
    }

    return ngx_http_moe_not_yet(ps, f->name);
}


static ngx_int_t
ngx_http_moe_field_format(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    json_t  *type;

    if (!json_is_object(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an object");
    }

    type = json_object_get(value, "type");

    if (!json_is_string(type)) {
        return ngx_http_moe_wrong_type(ps, "response_format.type",
                                       "a string");
    }

    if (ngx_http_moe_json_is(type, "text")) {
        return NGX_OK;
    }

    return ngx_http_moe_not_yet(ps, f->name);
}


static ngx_int_t
ngx_http_moe_field_modalities(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value)
{
    size_t   i;
    json_t  *item;

    if (!json_is_array(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an array of strings");
    }

    json_array_foreach(value, i, item) {
        if (!ngx_http_moe_json_is(item, "text")) {
            return ngx_http_moe_not_yet(ps, f->name);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_field_best_of(ngx_http_moe_parse_t *ps, ngx_http_moe_field_t *f,
    json_t *value)
{
    if (!json_is_integer(value)) {
        return ngx_http_moe_wrong_type(ps, f->name, "an integer");
    }

    if (json_integer_value(value) != (json_int_t) ps->job->n) {
        return ngx_http_moe_refuse(ps, 400, f->name, "unsupported_parameter",
                                   "'best_of' must be equal to 'n'.");
    }

    return NGX_OK;
}
