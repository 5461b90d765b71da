
/*
 * Copyright (C) the ngx_moe authors
 */


#include "ngx_http_moe.h"


static char *ngx_http_moe_pass(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_moe_models(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_moe_default(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_moe_model_alias(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_moe_check_buffer(ngx_conf_t *cf, void *post,
    void *data);
static char *ngx_http_moe_check_count(ngx_conf_t *cf, void *post, void *data);
static char *ngx_http_moe_check_lane(ngx_conf_t *cf, void *post, void *data);

static void *ngx_http_moe_create_main_conf(ngx_conf_t *cf);
static char *ngx_http_moe_init_main_conf(ngx_conf_t *cf, void *conf);
static void *ngx_http_moe_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_moe_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static void ngx_http_moe_merge_api(ngx_http_moe_api_conf_t *prev,
    ngx_http_moe_api_conf_t *conf);
static ngx_http_upstream_srv_conf_t *ngx_http_moe_upstream(ngx_conf_t *cf,
    ngx_str_t *name);
static ngx_int_t ngx_http_moe_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_http_moe_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_moe_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_http_moe_init_process(ngx_cycle_t *cycle);
static void ngx_http_moe_exit_process(ngx_cycle_t *cycle);


ngx_http_moe_counters_t  *ngx_http_moe_counters;
ngx_http_moe_tally_t      ngx_http_moe_tally;


static ngx_conf_bitmask_t  ngx_http_moe_next_upstream_masks[] = {
    { ngx_string("error"), NGX_HTTP_MOE_FT_ERROR },
    { ngx_string("timeout"), NGX_HTTP_MOE_FT_TIMEOUT },
    { ngx_string("overloaded"), NGX_HTTP_MOE_FT_OVERLOADED },
    { ngx_string("off"), NGX_HTTP_MOE_FT_OFF },
    { ngx_null_string, 0 }
};


static ngx_conf_post_t  ngx_http_moe_buffer_post = {
    ngx_http_moe_check_buffer
};

static ngx_conf_post_t  ngx_http_moe_count_post = {
    ngx_http_moe_check_count
};

static ngx_conf_post_t  ngx_http_moe_lane_post = {
    ngx_http_moe_check_lane
};


static ngx_command_t  ngx_http_moe_commands[] = {

    { ngx_string("moe_pass"),
      NGX_HTTP_LOC_CONF|NGX_HTTP_LIF_CONF|NGX_CONF_TAKE1,
      ngx_http_moe_pass,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("moe_models"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF
                        |NGX_CONF_1MORE,
      ngx_http_moe_models,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("moe_next_upstream"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF
                        |NGX_CONF_1MORE,
      ngx_conf_set_bitmask_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, next_upstream),
      &ngx_http_moe_next_upstream_masks },

    { ngx_string("moe_next_upstream_tries"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, next_upstream_tries),
      NULL },

    { ngx_string("moe_next_upstream_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, next_upstream_timeout),
      NULL },

    { ngx_string("moe_connect_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, connect_timeout),
      NULL },

    { ngx_string("moe_queue_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, queue_timeout),
      NULL },

    { ngx_string("moe_first_token_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, first_token_timeout),
      NULL },

    { ngx_string("moe_token_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, token_timeout),
      NULL },

    { ngx_string("moe_send_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, send_timeout),
      NULL },

    { ngx_string("moe_park_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, park_timeout),
      NULL },

    { ngx_string("moe_keepalive_interval"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, keepalive_interval),
      NULL },

    { ngx_string("moe_buffer_size"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, buffer_size),
      &ngx_http_moe_buffer_post },

    { ngx_string("moe_max_response"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, max_response),
      NULL },

    { ngx_string("moe_lane_size"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_size_slot,
      NGX_HTTP_MAIN_CONF_OFFSET,
      offsetof(ngx_http_moe_main_conf_t, lane_size),
      &ngx_http_moe_lane_post },

    { ngx_string("moe_max_prompt_tokens"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, max_prompt_tokens),
      &ngx_http_moe_count_post },

    { ngx_string("moe_max_tokens"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_num_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, max_tokens),
      &ngx_http_moe_count_post },

    { ngx_string("moe_default"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_moe_default,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("moe_model_alias"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE2,
      ngx_http_moe_model_alias,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("moe_key"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_set_complex_value_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, key),
      NULL },

    { ngx_string("moe_priority"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_moe_priority,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, priority),
      NULL },

    { ngx_string("moe_weight"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_moe_weight,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, weight),
      NULL },

    { ngx_string("moe_ignore_client_abort"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, ignore_client_abort),
      NULL },

    { ngx_string("moe_early_body"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_moe_loc_conf_t, early_body),
      NULL },

    { ngx_string("moe_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_moe_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("moe_engine"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_BLOCK|NGX_CONF_NOARGS,
      ngx_http_moe_engine_block,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_moe_module_ctx = {
    ngx_http_moe_add_variables,            /* preconfiguration */
    ngx_http_moe_init,                     /* postconfiguration */

    ngx_http_moe_create_main_conf,         /* create main configuration */
    ngx_http_moe_init_main_conf,           /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_moe_create_loc_conf,          /* create location configuration */
    ngx_http_moe_merge_loc_conf            /* merge location configuration */
};


ngx_module_t  ngx_http_moe_module = {
    NGX_MODULE_V1,
    &ngx_http_moe_module_ctx,              /* module context */
    ngx_http_moe_commands,                 /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_moe_init_module,              /* init module */
    ngx_http_moe_init_process,             /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_moe_exit_process,             /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


ngx_uint_t
ngx_http_moe_bucket(ngx_msec_t ms)
{
    ngx_uint_t  i;

    for (i = 0; i < MOE_STATS_BUCKETS - 1; i++) {
        if (ms * 1000 <= moe_stats_bounds_us[i]) {
            break;
        }
    }

    return i;
}


void
ngx_http_moe_tally_add(void)
{
    ngx_uint_t             i;
    ngx_http_moe_tally_t  *t;

    t = &ngx_http_moe_tally;

    ngx_http_moe_count(events, t->events);

    if (t->tokens) {
        ngx_http_moe_count(completion_tokens, t->tokens);
        ngx_http_moe_count(itl.sum_ms, t->itl_ms);

        for (i = 0; i < MOE_STATS_BUCKETS; i++) {
            if (t->itl[i]) {
                ngx_http_moe_count(itl.count[i], t->itl[i]);
            }
        }
    }

    ngx_memzero(t, sizeof(ngx_http_moe_tally_t));
}


static char *
ngx_http_moe_pass(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_loc_conf_t *mlcf = conf;

    ngx_str_t                         *value;
    ngx_http_core_loc_conf_t          *clcf;
    ngx_http_moe_main_conf_t          *mmcf;
    ngx_http_compile_complex_value_t   ccv;

    if (mlcf->upstream || mlcf->pass) {
        return "is duplicate";
    }

    value = cf->args->elts;

    mmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_moe_module);
    mmcf->used = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_moe_handler;

    if (ngx_http_script_variables_count(&value[1])) {

        mlcf->pass = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
        if (mlcf->pass == NULL) {
            return NGX_CONF_ERROR;
        }

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &value[1];
        ccv.complex_value = mlcf->pass;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        return NGX_CONF_OK;
    }

    mlcf->upstream = ngx_http_moe_upstream(cf, &value[1]);

    return mlcf->upstream ? NGX_CONF_OK : NGX_CONF_ERROR;
}


/* an upstream by its name or socket; its servers are checked at the end */

static ngx_http_upstream_srv_conf_t *
ngx_http_moe_upstream(ngx_conf_t *cf, ngx_str_t *name)
{
    ngx_url_t                      u;
    ngx_http_moe_pass_t           *pass;
    ngx_http_moe_main_conf_t      *mmcf;
    ngx_http_upstream_srv_conf_t  *uscf;

    ngx_memzero(&u, sizeof(ngx_url_t));

    u.url = *name;
    u.no_resolve = 1;

    uscf = ngx_http_upstream_add(cf, &u, 0);
    if (uscf == NULL) {
        return NULL;
    }

    mmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_moe_module);

    pass = ngx_array_push(&mmcf->passes);
    if (pass == NULL) {
        return NULL;
    }

    pass->upstream = uscf;
    pass->file = cf->conf_file->file.name.data;
    pass->line = cf->conf_file->line;

    return uscf;
}


static char *
ngx_http_moe_models(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_loc_conf_t *mlcf = conf;

    ngx_str_t                      *value;
    ngx_uint_t                      i;
    ngx_http_upstream_srv_conf_t  **uscfp;

    if (mlcf->models != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    mlcf->models = ngx_array_create(cf->pool, cf->args->nelts - 1,
                                    sizeof(ngx_http_upstream_srv_conf_t *));
    if (mlcf->models == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        uscfp = ngx_array_push(mlcf->models);
        if (uscfp == NULL) {
            return NGX_CONF_ERROR;
        }

        *uscfp = ngx_http_moe_upstream(cf, &value[i]);
        if (*uscfp == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_default(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_loc_conf_t *mlcf = conf;

    char       *rv;
    ngx_str_t  *value;

    value = cf->args->elts;

    rv = ngx_http_moe_api_default(&mlcf->api, &value[1], &value[2]);
    if (rv == NULL) {
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"moe_default %V %V\" %s",
                       &value[1], &value[2], rv);

    return NGX_CONF_ERROR;
}


static char *
ngx_http_moe_model_alias(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_loc_conf_t *mlcf = conf;

    ngx_str_t     *value;
    ngx_uint_t     i;
    ngx_keyval_t  *kv;

    value = cf->args->elts;

    if (value[1].len == 0 || value[2].len == 0
        || value[1].len >= MOE_MODEL_NAME_MAX
        || value[2].len >= MOE_MODEL_NAME_MAX)
    {
        return "has a name that is empty or too long";
    }

    if (mlcf->api.aliases == NULL) {
        mlcf->api.aliases = ngx_array_create(cf->pool, 4,
                                             sizeof(ngx_keyval_t));
        if (mlcf->api.aliases == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    kv = mlcf->api.aliases->elts;

    for (i = 0; i < mlcf->api.aliases->nelts; i++) {
        if (kv[i].key.len == value[1].len
            && ngx_strncmp(kv[i].key.data, value[1].data, value[1].len) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate model alias \"%V\"", &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    kv = ngx_array_push(mlcf->api.aliases);
    if (kv == NULL) {
        return NGX_CONF_ERROR;
    }

    kv->key = value[1];
    kv->value = value[2];

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_check_buffer(ngx_conf_t *cf, void *post, void *data)
{
    size_t *sp = data;

    if (*sp < 4096 || *sp > 1024 * 1024 * 1024) {
        return "must be between 4k and 1g";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_check_count(ngx_conf_t *cf, void *post, void *data)
{
    ngx_int_t *np = data;

    if (*np < 1 || *np > NGX_MAX_INT32_VALUE) {
        return "must be between 1 and 2147483647";
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_moe_check_lane(ngx_conf_t *cf, void *post, void *data)
{
    size_t *sp = data;

    if (*sp < MOE_RING_MIN || *sp > MOE_RING_MAX) {
        return "must be between 64k and 1g";
    }

    return NGX_CONF_OK;
}


static void *
ngx_http_moe_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_moe_main_conf_t  *mmcf;

    mmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_moe_main_conf_t));
    if (mmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&mmcf->passes, cf->pool, 4,
                       sizeof(ngx_http_moe_pass_t))
        != NGX_OK
        || ngx_array_init(&mmcf->engines, cf->pool, 1,
                          sizeof(ngx_http_moe_engine_t))
           != NGX_OK)
    {
        return NULL;
    }

    mmcf->lane_size = NGX_CONF_UNSET_SIZE;

    return mmcf;
}


static char *
ngx_http_moe_init_main_conf(ngx_conf_t *cf, void *conf)
{
    ngx_http_moe_main_conf_t *mmcf = conf;

    ngx_conf_init_size_value(mmcf->lane_size, 8 * 1024 * 1024);

    return NGX_CONF_OK;
}


static void *
ngx_http_moe_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_moe_loc_conf_t));
    if (mlcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     mlcf->upstream = NULL;
     *     mlcf->pass = NULL;
     *     mlcf->next_upstream = 0;
     *     mlcf->api = { 0 };
     *     mlcf->key = NULL;
     *     mlcf->priority = NULL;
     *     mlcf->weight = NULL;
     */

    mlcf->models = NGX_CONF_UNSET_PTR;

    mlcf->next_upstream_tries = NGX_CONF_UNSET_UINT;
    mlcf->next_upstream_timeout = NGX_CONF_UNSET_MSEC;

    mlcf->connect_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->queue_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->first_token_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->token_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->send_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->park_timeout = NGX_CONF_UNSET_MSEC;
    mlcf->keepalive_interval = NGX_CONF_UNSET_MSEC;

    mlcf->buffer_size = NGX_CONF_UNSET_SIZE;
    mlcf->max_response = NGX_CONF_UNSET_SIZE;

    mlcf->ignore_client_abort = NGX_CONF_UNSET;
    mlcf->early_body = NGX_CONF_UNSET;

    mlcf->max_tokens = NGX_CONF_UNSET_UINT;
    mlcf->max_prompt_tokens = NGX_CONF_UNSET_UINT;

    return mlcf;
}


static char *
ngx_http_moe_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_moe_loc_conf_t *prev = parent;
    ngx_http_moe_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname && conf->upstream == NULL && conf->pass == NULL) {
        conf->upstream = prev->upstream;
        conf->pass = prev->pass;
    }

    if (clcf->noname && conf->status_format == 0) {
        conf->status_format = prev->status_format;
    }

    /* as for proxy_pass: "if" and "limit_except" inherit the handler */

    if (clcf->lmt_excpt && clcf->handler == NULL
        && (conf->upstream || conf->pass))
    {
        clcf->handler = ngx_http_moe_handler;
    }

    ngx_conf_merge_ptr_value(conf->models, prev->models, NULL);

    ngx_conf_merge_bitmask_value(conf->next_upstream, prev->next_upstream,
                                 (NGX_CONF_BITMASK_SET
                                  |NGX_HTTP_MOE_FT_ERROR
                                  |NGX_HTTP_MOE_FT_TIMEOUT
                                  |NGX_HTTP_MOE_FT_OVERLOADED));

    if (conf->next_upstream & NGX_HTTP_MOE_FT_OFF) {
        conf->next_upstream = NGX_CONF_BITMASK_SET|NGX_HTTP_MOE_FT_OFF;
    }

    ngx_conf_merge_uint_value(conf->next_upstream_tries,
                              prev->next_upstream_tries, 0);
    ngx_conf_merge_msec_value(conf->next_upstream_timeout,
                              prev->next_upstream_timeout, 0);

    ngx_conf_merge_msec_value(conf->connect_timeout,
                              prev->connect_timeout, 1000);
    ngx_conf_merge_msec_value(conf->queue_timeout,
                              prev->queue_timeout, 30000);
    ngx_conf_merge_msec_value(conf->first_token_timeout,
                              prev->first_token_timeout, 120000);
    ngx_conf_merge_msec_value(conf->token_timeout,
                              prev->token_timeout, 60000);
    ngx_conf_merge_msec_value(conf->send_timeout,
                              prev->send_timeout, 60000);
    ngx_conf_merge_msec_value(conf->park_timeout,
                              prev->park_timeout, 30000);
    ngx_conf_merge_msec_value(conf->keepalive_interval,
                              prev->keepalive_interval, 15000);

    ngx_conf_merge_size_value(conf->buffer_size, prev->buffer_size,
                              64 * 1024);
    ngx_conf_merge_size_value(conf->max_response, prev->max_response,
                              32 * 1024 * 1024);

    ngx_conf_merge_value(conf->ignore_client_abort,
                         prev->ignore_client_abort, 0);
    ngx_conf_merge_value(conf->early_body, prev->early_body, 0);

    ngx_conf_merge_uint_value(conf->max_tokens, prev->max_tokens, 0);
    ngx_conf_merge_uint_value(conf->max_prompt_tokens,
                              prev->max_prompt_tokens, 0);

    if (conf->key == NULL) {
        conf->key = prev->key;
    }

    if (conf->priority == NULL) {
        conf->priority = prev->priority;
    }

    if (conf->weight == NULL) {
        conf->weight = prev->weight;
    }

    ngx_http_moe_merge_api(&prev->api, &conf->api);

    conf->api.max_tokens = conf->max_tokens;
    conf->api.max_prompt = conf->max_prompt_tokens;

    return NGX_CONF_OK;
}


/* each default is inherited on its own */

static void
ngx_http_moe_merge_api(ngx_http_moe_api_conf_t *prev,
    ngx_http_moe_api_conf_t *conf)
{
    ngx_uint_t  more;

    more = prev->set & ~conf->set;

    if (more & MOE_SET_TEMPERATURE) {
        conf->temperature = prev->temperature;
    }

    if (more & MOE_SET_TOP_P) {
        conf->top_p = prev->top_p;
    }

    if (more & MOE_SET_TOP_K) {
        conf->top_k = prev->top_k;
    }

    if (more & MOE_SET_MIN_P) {
        conf->min_p = prev->min_p;
    }

    if (more & MOE_SET_PRESENCE) {
        conf->presence = prev->presence;
    }

    if (more & MOE_SET_FREQUENCY) {
        conf->frequency = prev->frequency;
    }

    if (more & MOE_SET_REPETITION) {
        conf->repetition = prev->repetition;
    }

    conf->set |= more;

    if (conf->default_max_tokens == 0) {
        conf->default_max_tokens = prev->default_max_tokens;
    }

    if (conf->aliases == NULL) {
        conf->aliases = prev->aliases;
    }
}


static ngx_int_t
ngx_http_moe_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_slab_pool_t  *shpool;

    shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (data) {
        shm_zone->data = data;

    } else if (shm_zone->shm.exists) {
        shm_zone->data = shpool->data;

    } else {
        shm_zone->data = ngx_slab_calloc(shpool,
                                         sizeof(ngx_http_moe_counters_t));
        if (shm_zone->data == NULL) {
            return NGX_ERROR;
        }

        shpool->data = shm_zone->data;
    }

    return NGX_OK;
}


/* a job crosses by a Unix socket only */

static ngx_int_t
ngx_http_moe_check_pass(ngx_conf_t *cf, ngx_http_moe_pass_t *pass)
{
    ngx_str_t                   *name;
    ngx_uint_t                   i, k;
    ngx_http_upstream_server_t  *server;

    if (pass->upstream->servers == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no upstream \"%V\" is configured in %s:%ui",
                      &pass->upstream->host, pass->file, pass->line);
        return NGX_ERROR;
    }

    server = pass->upstream->servers->elts;

    for (i = 0; i < pass->upstream->servers->nelts; i++) {

        for (k = 0; k < server[i].naddrs; k++) {
            if (server[i].addrs[k].sockaddr->sa_family != AF_UNIX) {
                break;
            }
        }

        if (server[i].naddrs == 0 || k < server[i].naddrs) {

            /* an address in place of an upstream's name has no name itself */

            name = server[i].name.len ? &server[i].name
                                      : &server[i].addrs[0].name;

            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "server \"%V\" in upstream \"%V\" is not \"unix:\","
                          " which an engine needs, in %s:%ui",
                          name, &pass->upstream->host,
                          pass->file, pass->line);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_init(ngx_conf_t *cf)
{
    ngx_str_t                   name;
    ngx_uint_t                  i;
    ngx_shm_zone_t             *zone;
    ngx_http_handler_pt        *h;
    ngx_http_moe_pass_t        *pass;
    ngx_http_moe_main_conf_t   *mmcf;
    ngx_http_core_main_conf_t  *cmcf;

    mmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_moe_module);

    if (!mmcf->used) {
        return NGX_OK;
    }

    pass = mmcf->passes.elts;

    for (i = 0; i < mmcf->passes.nelts; i++) {
        if (ngx_http_moe_check_pass(cf, &pass[i]) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    ngx_str_set(&name, "ngx_http_moe");

    zone = ngx_shared_memory_add(cf, &name, 16 * ngx_pagesize,
                                 &ngx_http_moe_module);
    if (zone == NULL) {
        return NGX_ERROR;
    }

    zone->init = ngx_http_moe_init_zone;
    mmcf->zone = zone;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    /* the last one that is added is the first that runs: before the limits */

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_moe_early_handler;

    return ngx_http_moe_header_filter_init(cf);
}


/* a process that was killed had no time to take back what it had counted */

void
ngx_http_moe_gauges_sum(void)
{
    ngx_pid_t               pid;
    ngx_uint_t              i;
    ngx_atomic_uint_t       active, lanes;
    ngx_http_moe_gauges_t  *g;

    active = 0;
    lanes = 0;

    for (i = 0; i < NGX_MAX_PROCESSES; i++) {
        g = &ngx_http_moe_counters->process[i];
        pid = (ngx_pid_t) g->pid;

        if (pid == 0 || (kill(pid, 0) == -1 && ngx_errno == NGX_ESRCH)) {
            continue;
        }

        active += g->active;
        lanes += g->lanes;
    }

    ngx_http_moe_counters->active = active;
    ngx_http_moe_counters->lanes = lanes;
}


/* the zone of the configuration that has come into force, if it has one: the
 * last one's may be unmapped after this */

static ngx_int_t
ngx_http_moe_init_module(ngx_cycle_t *cycle)
{
    ngx_http_moe_main_conf_t  *mmcf;

    mmcf = ngx_http_cycle_get_module_main_conf(cycle, ngx_http_moe_module);

    ngx_http_moe_counters = (mmcf && mmcf->zone) ? mmcf->zone->data : NULL;

    return NGX_OK;
}


static ngx_int_t
ngx_http_moe_init_process(ngx_cycle_t *cycle)
{
    ngx_http_moe_gauges_t  *g;

    if (ngx_http_moe_counters) {
        g = &ngx_http_moe_counters->process[ngx_process_slot];

        g->active = 0;
        g->lanes = 0;
        g->pid = ngx_pid;
    }

    ngx_http_moe_engines_start(cycle);

    return NGX_OK;
}


static void
ngx_http_moe_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_moe_lanes_close();
    ngx_http_moe_output_exit();
}
