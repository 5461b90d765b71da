
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * /v1/models, /v1/models/{id} and /health: what the engines' hellos and
 * statistics say.
 */


#include "ngx_http_moe.h"


static ngx_array_t *ngx_http_moe_models_upstreams(ngx_http_request_t *r);
static ngx_int_t ngx_http_moe_models_reply(ngx_http_request_t *r,
    ngx_http_moe_survey_t *s);
static ngx_int_t ngx_http_moe_models_add(ngx_http_request_t *r,
    ngx_array_t *models, ngx_str_t *name, moe_hello_model_t *model);
static ngx_int_t ngx_http_moe_models_collect(ngx_http_request_t *r,
    ngx_http_moe_survey_t *s, ngx_array_t *models);
static ngx_int_t ngx_http_moe_models_render(ngx_array_t *models,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_health_reply(ngx_http_request_t *r,
    ngx_http_moe_survey_t *s);
static ngx_int_t ngx_http_moe_health_engine(ngx_http_moe_out_t *out,
    ngx_http_moe_asked_t *a);
static ngx_int_t ngx_http_moe_health_halves(ngx_http_moe_out_t *out,
    moe_stats_t *stats);
static const char *ngx_http_moe_health_state(ngx_http_moe_asked_t *a);


typedef struct {
    ngx_str_t           name;           /* ends with a zero */
    moe_hello_model_t  *model;
} ngx_http_moe_model_t;


ngx_int_t
ngx_http_moe_models_handler(ngx_http_request_t *r)
{
    ngx_array_t  *upstreams;

    upstreams = ngx_http_moe_models_upstreams(r);
    if (upstreams == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_moe_survey(r, upstreams, NGX_HTTP_MOE_ASK_HELLO,
                               ngx_http_moe_models_reply);
}


/* moe_models, or the one of moe_pass, or none where that is a variable */

static ngx_array_t *
ngx_http_moe_models_upstreams(ngx_http_request_t *r)
{
    ngx_array_t                    *a;
    ngx_http_moe_loc_conf_t        *mlcf;
    ngx_http_upstream_srv_conf_t  **uscfp;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    if (mlcf->models) {
        return mlcf->models;
    }

    a = ngx_array_create(r->pool, 1,
                         sizeof(ngx_http_upstream_srv_conf_t *));
    if (a == NULL || mlcf->upstream == NULL) {
        return a;
    }

    uscfp = ngx_array_push(a);
    if (uscfp == NULL) {
        return NULL;
    }

    *uscfp = mlcf->upstream;

    return a;
}


static ngx_int_t
ngx_http_moe_models_reply(ngx_http_request_t *r, ngx_http_moe_survey_t *s)
{
    size_t                 prefix;
    ngx_int_t              rc;
    ngx_str_t              name;
    ngx_uint_t             i, up;
    ngx_array_t           *models;
    ngx_http_moe_out_t     out;
    ngx_http_moe_asked_t  *a;
    ngx_http_moe_error_t  *err;
    ngx_http_moe_model_t  *m;

    a = s->engines.elts;
    up = 0;

    for (i = 0; i < s->engines.nelts; i++) {
        up += a[i].up;
    }

    if (up == 0 && s->engines.nelts) {
        return ngx_http_moe_send_error(r,
                   ngx_http_moe_error(r, NGX_HTTP_BAD_GATEWAY,
                                      "engine_unavailable",
                                      "No engine is available now."),
                   1);
    }

    models = ngx_array_create(r->pool, 4, sizeof(ngx_http_moe_model_t));

    if (models == NULL
        || ngx_http_moe_models_collect(r, s, models) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));
    prefix = sizeof("/v1/models/") - 1;

    if (r->uri.len < prefix) {
        rc = ngx_http_moe_models_render(models, &out);
        goto done;
    }

    name.len = r->uri.len - prefix;
    name.data = r->uri.data + prefix;
    m = models->elts;

    for (i = 0; i < models->nelts; i++) {

        if (m[i].name.len == name.len
            && ngx_memcmp(m[i].name.data, name.data, name.len) == 0)
        {
            rc = ngx_http_moe_api_model(&out, (char *) m[i].name.data,
                                        m[i].model->created,
                                        m[i].model->context);
            goto done;
        }
    }

    err = ngx_http_moe_error(r, NGX_HTTP_NOT_FOUND, "model_not_found",
                             "The model does not exist.");
    if (err) {
        ngx_str_set(&err->param, "model");
    }

    return ngx_http_moe_send_error(r, err, 0);

done:

    if (rc != NGX_OK) {
        ngx_http_moe_out_free(&out);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_moe_send_reply(r, NGX_HTTP_OK, "application/json", &out);
}


/* every name once, an alias where what it stands for is served */

static ngx_int_t
ngx_http_moe_models_collect(ngx_http_request_t *r, ngx_http_moe_survey_t *s,
    ngx_array_t *models)
{
    uint32_t                  j;
    ngx_str_t                 name;
    ngx_uint_t                i, k;
    ngx_keyval_t             *alias;
    moe_hello_model_t        *model;
    ngx_http_moe_asked_t     *a;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);
    alias = mlcf->api.aliases ? mlcf->api.aliases->elts : NULL;
    a = s->engines.elts;

    for (i = 0; i < s->engines.nelts; i++) {

        for (j = 0; a[i].up && j < a[i].lane->hello.nmodels; j++) {

            model = &a[i].lane->hello.models[j];
            name.data = (u_char *) model->name;
            name.len = ngx_strlen(name.data);

            if (ngx_http_moe_models_add(r, models, &name, model) != NGX_OK) {
                return NGX_ERROR;
            }

            for (k = 0; alias && k < mlcf->api.aliases->nelts; k++) {

                if (alias[k].value.len == name.len
                    && ngx_memcmp(alias[k].value.data, name.data, name.len)
                       == 0
                    && ngx_http_moe_models_add(r, models, &alias[k].key,
                                               model)
                       != NGX_OK)
                {
                    return NGX_ERROR;
                }
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_models_add(ngx_http_request_t *r, ngx_array_t *models,
    ngx_str_t *name, moe_hello_model_t *model)
{
    ngx_uint_t             i;
    ngx_http_moe_model_t  *m;

    m = models->elts;

    for (i = 0; i < models->nelts; i++) {
        if (m[i].name.len == name->len
            && ngx_memcmp(m[i].name.data, name->data, name->len) == 0)
        {
            return NGX_OK;
        }
    }

    m = ngx_array_push(models);
    if (m == NULL) {
        return NGX_ERROR;
    }

    m->model = model;
    m->name.len = name->len;
    m->name.data = ngx_pnalloc(r->pool, name->len + 1);
    if (m->name.data == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_cpystrn(m->name.data, name->data, name->len + 1);

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_models_render(ngx_array_t *models, ngx_http_moe_out_t *out)
{
    ngx_uint_t             i;
    ngx_http_moe_model_t  *m;

    if (ngx_http_moe_out_printf(out, "{\"object\":\"list\",\"data\":[")
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    m = models->elts;

    for (i = 0; i < models->nelts; i++) {

        if ((i && ngx_http_moe_out_add(out, ",", 1) != NGX_OK)
            || ngx_http_moe_api_model(out, (char *) m[i].name.data,
                                      m[i].model->created,
                                      m[i].model->context)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_add(out, "]}", 2);
}


/* health */


ngx_int_t
ngx_http_moe_health_handler(ngx_http_request_t *r)
{
    ngx_array_t  *upstreams;

    upstreams = ngx_http_moe_models_upstreams(r);
    if (upstreams == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_moe_survey(r, upstreams, NGX_HTTP_MOE_ASK_HEALTH,
                               ngx_http_moe_health_reply);
}


static ngx_int_t
ngx_http_moe_health_reply(ngx_http_request_t *r, ngx_http_moe_survey_t *s)
{
    ngx_uint_t             i, ok, loading;
    ngx_http_moe_out_t     out;
    ngx_http_moe_asked_t  *a;

    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));

    a = s->engines.elts;
    ok = 0;
    loading = 0;

    for (i = 0; i < s->engines.nelts; i++) {
        ok |= a[i].healthy;
        loading |= (a[i].up && a[i].stats
                    && a[i].stats->state == MOE_STATE_LOADING);
    }

    if (ngx_http_moe_out_printf(&out, "{\"status\":\"%s\",\"engines\":[",
                                ok ? "ok" : loading ? "loading"
                                                    : "unavailable")
        != NGX_OK)
    {
        goto failed;
    }

    for (i = 0; i < s->engines.nelts; i++) {

        if ((i && ngx_http_moe_out_add(&out, ",", 1) != NGX_OK)
            || ngx_http_moe_health_engine(&out, &a[i]) != NGX_OK)
        {
            goto failed;
        }
    }

    if (ngx_http_moe_out_add(&out, "]}", 2) != NGX_OK) {
        goto failed;
    }

    return ngx_http_moe_send_reply(r, ok ? NGX_HTTP_OK
                                         : NGX_HTTP_SERVICE_UNAVAILABLE,
                                   "application/json", &out);

failed:

    ngx_http_moe_out_free(&out);

    return NGX_HTTP_INTERNAL_SERVER_ERROR;
}


static ngx_int_t
ngx_http_moe_health_engine(ngx_http_moe_out_t *out, ngx_http_moe_asked_t *a)
{
    if (ngx_http_moe_out_printf(out, "{\"engine\":\"") != NGX_OK
        || ngx_http_moe_out_json(out, a->lane->name.data, a->lane->name.len)
           != NGX_OK
        || ngx_http_moe_out_printf(out, "\",\"status\":\"%s\"",
                                   ngx_http_moe_health_state(a))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (a->up && a->stats
        && ngx_http_moe_out_printf(out, ",\"progress\":%ui.%03ui,"
                                   "\"ranks\":%uL,\"ranks_up\":%uL,"
                                   "\"waiting\":%uL,\"running\":%uL",
                                   (ngx_uint_t)
                                   ngx_min(a->stats->progress, 1000) / 1000,
                                   (ngx_uint_t)
                                   ngx_min(a->stats->progress, 1000) % 1000,
                                   a->stats->ranks, a->stats->ranks_up,
                                   a->stats->waiting, a->stats->running)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (a->up && a->stats
        && ngx_http_moe_health_halves(out, a->stats) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (a->why
        && ngx_http_moe_out_printf(out, ",\"reason\":\"%s\"", a->why)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_moe_out_add(out, "}", 1);
}


/* steps in two halves: whether some are now, how many of all there were, and
 * what halves were last measured to bring; nothing where there were none */

static ngx_int_t
ngx_http_moe_health_halves(ngx_http_moe_out_t *out, moe_stats_t *stats)
{
    uint64_t  share;

    if (stats->halved == 0 && stats->halves_sizes == 0) {
        return NGX_OK;
    }

    share = stats->halved < stats->steps
            ? (uint64_t) ((double) stats->halved / (double) stats->steps
                          * 1000)
            : 1000;

    return ngx_http_moe_out_printf(out, ",\"halves\":{\"now\":%s,"
                                   "\"share\":%uL.%03uL,"
                                   "\"gain\":%uL.%03uL}",
                                   stats->halves_sizes ? "true" : "false",
                                   share / 1000, share % 1000,
                                   stats->halves_gain / 1000,
                                   stats->halves_gain % 1000);
}


static const char *
ngx_http_moe_health_state(ngx_http_moe_asked_t *a)
{
    if (a->healthy) {
        return "ok";
    }

    if (!a->up || a->stats == NULL) {
        return "unreachable";
    }

    switch (a->stats->state) {

    case MOE_STATE_LOADING:
        return "loading";

    case MOE_STATE_DRAINING:
        return "draining";

    case MOE_STATE_READY:
        return "stuck";

    default:
        return "failed";
    }
}
