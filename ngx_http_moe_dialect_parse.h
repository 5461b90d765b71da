
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * What the files that parse a request share: one parse, one field of the
 * table, and how a request is refused.
 */

#ifndef _NGX_HTTP_MOE_DIALECT_PARSE_H_INCLUDED_
#define _NGX_HTTP_MOE_DIALECT_PARSE_H_INCLUDED_


#include "ngx_http_moe_dialect.h"


typedef struct {
    ngx_http_moe_api_t        *api;
    ngx_http_moe_api_conf_t   *conf;
    ngx_http_moe_error_t      *err;
    moe_job_t                 *job;
    json_t                    *root;
} ngx_http_moe_parse_t;

typedef struct ngx_http_moe_field_s  ngx_http_moe_field_t;

typedef ngx_int_t (*ngx_http_moe_field_pt)(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);

struct ngx_http_moe_field_s {
    const char                *name;
    ngx_uint_t                 where;
    ngx_http_moe_field_pt      handler;
    size_t                     offset;      /* in moe_job_t */
    double                     min;
    double                     max;
    ngx_uint_t                 bit;         /* MOE_SET_* or MOE_JOB_* */
};


/* Writes the error and returns NGX_DECLINED, or NGX_ERROR: no memory.  param
 * and code may be NULL; code is static. */
ngx_int_t ngx_http_moe_refuse(ngx_http_moe_parse_t *ps, ngx_uint_t status,
    const char *param, const char *code, const char *fmt, ...);

ngx_int_t ngx_http_moe_wrong_type(ngx_http_moe_parse_t *ps,
    const char *param, const char *expected);

/* whether value is this string, and no longer one with a zero in it */
ngx_uint_t ngx_http_moe_json_is(json_t *value, const char *text);

ngx_int_t ngx_http_moe_field_messages(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
ngx_int_t ngx_http_moe_field_prompt(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);
ngx_int_t ngx_http_moe_field_kwargs(ngx_http_moe_parse_t *ps,
    ngx_http_moe_field_t *f, json_t *value);


#endif /* _NGX_HTTP_MOE_DIALECT_PARSE_H_INCLUDED_ */
