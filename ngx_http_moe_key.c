
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * Whom a job counts for, its class and its weight: moe_key, moe_priority and
 * moe_weight.  The engine shares itself among keys by what this says.
 */


#include "ngx_http_moe.h"


#include <openssl/evp.h>


#define NGX_HTTP_MOE_PRIORITY_LOW   (-10)
#define NGX_HTTP_MOE_PRIORITY_HIGH  10


static ngx_int_t ngx_http_moe_key_hash(ngx_http_request_t *r, uint8_t *key);
static ngx_int_t ngx_http_moe_key_number(ngx_http_request_t *r,
    ngx_http_complex_value_t *cv, const char *name,
    ngx_int_t (*parse)(ngx_str_t *value, ngx_int_t *n), ngx_int_t *n);
static ngx_int_t ngx_http_moe_parse_priority(ngx_str_t *value, ngx_int_t *n);
static ngx_int_t ngx_http_moe_parse_weight(ngx_str_t *value, ngx_int_t *n);


ngx_int_t
ngx_http_moe_key(ngx_http_request_t *r, moe_job_t *job)
{
    ngx_int_t                 n;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    n = 0;

    if (ngx_http_moe_key_number(r, mlcf->priority, "moe_priority",
                                ngx_http_moe_parse_priority, &n)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    job->priority = (int32_t) n;

    n = 1;

    if (ngx_http_moe_key_number(r, mlcf->weight, "moe_weight",
                                ngx_http_moe_parse_weight, &n)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    job->weight = (uint32_t) n;

    return ngx_http_moe_key_hash(r, job->key);
}


/* a key leaves the worker as a hash only; without moe_key it is what
 * $binary_remote_addr is */

static ngx_int_t
ngx_http_moe_key_hash(ngx_http_request_t *r, uint8_t *key)
{
    ngx_str_t                 value;
    struct sockaddr          *sa;
#if (NGX_HAVE_INET6)
    struct sockaddr_in6      *sin6;
#endif
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    if (mlcf->key) {

        if (ngx_http_complex_value(r, mlcf->key, &value) != NGX_OK) {
            return NGX_ERROR;
        }

        goto hash;
    }

    sa = r->connection->sockaddr;

    switch (sa->sa_family) {

#if (NGX_HAVE_INET6)
    case AF_INET6:
        sin6 = (struct sockaddr_in6 *) sa;
        value.data = (u_char *) &sin6->sin6_addr;
        value.len = sizeof(struct in6_addr);
        break;
#endif

    case AF_INET:
        value.data = (u_char *) &((struct sockaddr_in *) sa)->sin_addr;
        value.len = sizeof(in_addr_t);
        break;

    default:
        value = r->connection->addr_text;
    }

hash:

    return (EVP_Digest(value.data, value.len, key, NULL, EVP_sha256(), NULL)
            == 1) ? NGX_OK : NGX_ERROR;
}


/* what is wrong is logged and leaves *n as it is, as does an empty value */

static ngx_int_t
ngx_http_moe_key_number(ngx_http_request_t *r, ngx_http_complex_value_t *cv,
    const char *name, ngx_int_t (*parse)(ngx_str_t *value, ngx_int_t *n),
    ngx_int_t *n)
{
    ngx_str_t  value;

    if (cv == NULL) {
        return NGX_OK;
    }

    if (ngx_http_complex_value(r, cv, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len && parse(&value, n) != NGX_OK) {
        ngx_log_error(NGX_LOG_WARN, r->connection->log, 0,
                      "\"%s\" has the wrong value \"%V\", the default is "
                      "used", name, &value);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_parse_priority(ngx_str_t *value, ngx_int_t *n)
{
    ngx_int_t   v;
    ngx_str_t   digits;
    ngx_uint_t  i, minus;

    static struct {
        ngx_str_t  name;
        ngx_int_t  priority;
    } names[] = {
        { ngx_string("low"), NGX_HTTP_MOE_PRIORITY_LOW },
        { ngx_string("normal"), 0 },
        { ngx_string("high"), NGX_HTTP_MOE_PRIORITY_HIGH }
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (value->len == names[i].name.len
            && ngx_strncmp(value->data, names[i].name.data, value->len) == 0)
        {
            *n = names[i].priority;
            return NGX_OK;
        }
    }

    minus = (value->len && value->data[0] == '-');
    digits.data = value->data + minus;
    digits.len = value->len - minus;

    v = ngx_atoi(digits.data, digits.len);

    if (v == NGX_ERROR || v > MOE_PRIORITY_MAX) {
        return NGX_ERROR;
    }

    *n = minus ? -v : v;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_parse_weight(ngx_str_t *value, ngx_int_t *n)
{
    ngx_int_t  v;

    v = ngx_atoi(value->data, value->len);

    if (v < 1 || v > MOE_WEIGHT_MAX) {
        return NGX_ERROR;
    }

    *n = v;

    return NGX_OK;
}


/* a value without variables is known when the configuration is read */

static char *
ngx_http_moe_key_slot(ngx_conf_t *cf, ngx_command_t *cmd, void *conf,
    ngx_int_t (*parse)(ngx_str_t *value, ngx_int_t *n), const char *must)
{
    char                       *rv;
    ngx_int_t                   n;
    ngx_http_complex_value_t  **cv;

    rv = ngx_http_set_complex_value_slot(cf, cmd, conf);

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    cv = (ngx_http_complex_value_t **) ((char *) conf + cmd->offset);

    if ((*cv)->lengths == NULL && parse(&(*cv)->value, &n) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V %V\": the value must be %s", &cmd->name,
                           &(*cv)->value, must);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_moe_priority(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return ngx_http_moe_key_slot(cf, cmd, conf, ngx_http_moe_parse_priority,
                                 "\"low\", \"normal\", \"high\" or a number "
                                 "from -100 to 100");
}


char *
ngx_http_moe_weight(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    return ngx_http_moe_key_slot(cf, cmd, conf, ngx_http_moe_parse_weight,
                                 "a number from 1 to 1000");
}
