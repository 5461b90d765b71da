
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * moe_status: this nginx's counters and every engine's statistics page, as
 * JSON or as Prometheus text; where experts are, in ngx_http_moe_experts.c.
 */


#include "ngx_http_moe.h"


#define NGX_HTTP_MOE_STATUS_JSON        1
#define NGX_HTTP_MOE_STATUS_PROMETHEUS  2
#define NGX_HTTP_MOE_STATUS_EXPERTS     3
#define NGX_HTTP_MOE_STATUS_HEAT        4


typedef struct {
    const char  *name;
    const char  *help;
    size_t       offset;
    ngx_uint_t   gauge;                 /* unsigned  gauge:1; */
} ngx_http_moe_metric_t;


static ngx_int_t ngx_http_moe_status_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_moe_status_reply(ngx_http_request_t *r,
    ngx_http_moe_survey_t *s);
static ngx_uint_t ngx_http_moe_status_format(ngx_http_request_t *r);
static ngx_uint_t ngx_http_moe_status_named(ngx_str_t *name);
static ngx_int_t ngx_http_moe_status_json(ngx_http_moe_survey_t *s,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_json_engine(ngx_http_moe_asked_t *a,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_json_histogram(ngx_http_moe_out_t *out,
    const char *name, moe_histogram_t *h);
static ngx_int_t ngx_http_moe_status_prometheus(ngx_http_moe_survey_t *s,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_prom_family(ngx_http_moe_out_t *out,
    const char *prefix, ngx_http_moe_metric_t *m, const char *type);
static ngx_int_t ngx_http_moe_prom_histogram(ngx_http_moe_out_t *out,
    const char *name, ngx_str_t *engine, moe_histogram_t *h);
static void ngx_http_moe_own_histogram(ngx_http_moe_times_t *t,
    moe_histogram_t *h);


static ngx_http_moe_metric_t  ngx_http_moe_own_metrics[] = {

    { "requests", "POST requests to the API",
      offsetof(ngx_http_moe_counters_t, requests), 0 },

    { "active", "Requests that wait or stream now",
      offsetof(ngx_http_moe_counters_t, active), 1 },

    { "finished", "Jobs that ended by themselves",
      offsetof(ngx_http_moe_counters_t, finished), 0 },

    { "cancelled", "Jobs that were cancelled",
      offsetof(ngx_http_moe_counters_t, cancelled), 0 },

    { "failed", "Jobs that failed",
      offsetof(ngx_http_moe_counters_t, failed), 0 },

    { "refused", "Requests that were wrong",
      offsetof(ngx_http_moe_counters_t, refused), 0 },

    { "retries", "Jobs that were given to another engine",
      offsetof(ngx_http_moe_counters_t, retries), 0 },

    { "prompt_tokens", "Tokens of prompts",
      offsetof(ngx_http_moe_counters_t, prompt_tokens), 0 },

    { "cached_tokens", "Tokens of prompts that were cached",
      offsetof(ngx_http_moe_counters_t, cached_tokens), 0 },

    { "completion_tokens", "Tokens that were sampled",
      offsetof(ngx_http_moe_counters_t, completion_tokens), 0 },

    { "events", "Events from engines",
      offsetof(ngx_http_moe_counters_t, events), 0 },

    { "event_bytes", "Bytes of events of jobs",
      offsetof(ngx_http_moe_counters_t, bytes), 0 },

    { "lanes", "Lanes that stand now",
      offsetof(ngx_http_moe_counters_t, lanes), 1 },

    { "lanes_lost", "Lanes that were lost",
      offsetof(ngx_http_moe_counters_t, lanes_lost), 0 },

    { "violations", "Lanes closed for what an engine wrote",
      offsetof(ngx_http_moe_counters_t, violations), 0 },

    { NULL, NULL, 0, 0 }
};


static ngx_http_moe_metric_t  ngx_http_moe_engine_metrics[] = {

    { "state", "0 loading, 1 ready, 2 draining, 3 failed",
      offsetof(moe_stats_t, state), 1 },

    { "progress", "Of loading, in thousandths",
      offsetof(moe_stats_t, progress), 1 },

    { "started", "Unix time of the engine's start",
      offsetof(moe_stats_t, started), 1 },

    { "ranks", "Ranks configured", offsetof(moe_stats_t, ranks), 1 },

    { "ranks_up", "Ranks that serve", offsetof(moe_stats_t, ranks_up), 1 },

    { "rank_restarts", "Ranks that were started again",
      offsetof(moe_stats_t, rank_restarts), 0 },

    { "waiting", "Jobs in the queue", offsetof(moe_stats_t, waiting), 1 },

    { "running", "Jobs in a rank", offsetof(moe_stats_t, running), 1 },

    { "parked", "Streams that wait for their client",
      offsetof(moe_stats_t, parked), 1 },

    { "accepted", "Jobs accepted", offsetof(moe_stats_t, accepted), 0 },

    { "finished", "Jobs that ended by themselves",
      offsetof(moe_stats_t, finished), 0 },

    { "cancelled", "Jobs cancelled", offsetof(moe_stats_t, cancelled), 0 },

    { "failed", "Jobs that failed", offsetof(moe_stats_t, failed), 0 },

    { "refused", "Jobs refused", offsetof(moe_stats_t, refused), 0 },

    { "refused_share", "Jobs refused: their key's share was used up",
      offsetof(moe_stats_t, refused_share), 0 },

    { "refused_full", "Jobs refused: the queue was full",
      offsetof(moe_stats_t, refused_full), 0 },

    { "refused_late", "Jobs refused: they would have waited too long",
      offsetof(moe_stats_t, refused_late), 0 },

    { "refused_memory", "Jobs refused: there was no memory for them",
      offsetof(moe_stats_t, refused_memory), 0 },

    { "queue_timeouts", "Jobs that waited too long",
      offsetof(moe_stats_t, queue_timeouts), 0 },

    { "displaced", "Waiting jobs that gave way to another key or class",
      offsetof(moe_stats_t, displaced), 0 },

    { "prompt_tokens", "Tokens of prompts",
      offsetof(moe_stats_t, prompt_tokens), 0 },

    { "cached_tokens", "Tokens of prompts that were cached",
      offsetof(moe_stats_t, cached_tokens), 0 },

    { "completion_tokens", "Tokens that were sampled",
      offsetof(moe_stats_t, completion_tokens), 0 },

    { "draft_tokens", "Tokens that were drafted and computed",
      offsetof(moe_stats_t, draft_tokens), 0 },

    { "draft_accepted", "Drafted tokens that were sampled then",
      offsetof(moe_stats_t, draft_accepted), 0 },

    { "steps", "Forward passes", offsetof(moe_stats_t, steps), 0 },

    { "kv_pages", "Pages of the KV cache",
      offsetof(moe_stats_t, kv_pages), 1 },

    { "kv_pages_used", "Pages that running jobs hold",
      offsetof(moe_stats_t, kv_pages_used), 1 },

    { "kv_pages_cached", "Pages of prefixes that no job holds",
      offsetof(moe_stats_t, kv_pages_cached), 1 },

    { "lanes", "Workers that are connected",
      offsetof(moe_stats_t, lanes), 1 },

    { "lanes_broken", "Lanes closed for what a worker wrote",
      offsetof(moe_stats_t, lanes_broken), 0 },

    { "placements", "Placements of spread experts by their loads",
      offsetof(moe_stats_t, placements), 0 },

    { "skew_before_thousandths",
      "Largest load of a rank over the mean, as experts were placed",
      offsetof(moe_stats_t, skew_before), 1 },

    { "skew_thousandths",
      "Largest load of a rank over the mean, as experts are placed",
      offsetof(moe_stats_t, skew), 1 },

    { "steps_in_halves", "Forward passes in two halves",
      offsetof(moe_stats_t, halved), 0 },

    { "halves_sizes",
      "Sizes of steps that are in two halves now, 2^i of them rows: bit i",
      offsetof(moe_stats_t, halves_sizes), 1 },

    { "halves_rows", "Rows of a step, from this to twice it, last measured",
      offsetof(moe_stats_t, halves_rows), 1 },

    { "halves_gain_thousandths",
      "Time of such a step as a whole over its time in two halves",
      offsetof(moe_stats_t, halves_gain), 1 },

    { NULL, NULL, 0, 0 }
};


static ngx_http_moe_metric_t  ngx_http_moe_engine_histograms[] = {

    { "queue_seconds", "Time in the queue",
      offsetof(moe_stats_t, queue), 0 },

    { "ttft_seconds", "Time to the first token",
      offsetof(moe_stats_t, ttft), 0 },

    { "itl_seconds", "Time between tokens", offsetof(moe_stats_t, itl), 0 },

    { NULL, NULL, 0, 0 }
};


char *
ngx_http_moe_status(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_moe_loc_conf_t *mlcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_moe_main_conf_t  *mmcf;

    if (mlcf->status_format) {
        return "is duplicate";
    }

    value = cf->args->elts;

    mlcf->status_format = NGX_HTTP_MOE_STATUS_JSON;

    if (cf->args->nelts == 2) {
        mlcf->status_format = ngx_http_moe_status_named(&value[1]);

        if (mlcf->status_format == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid format \"%V\", it must be \"json\", "
                               "\"prometheus\", \"experts\" or \"heat\"",
                               &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    mmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_moe_module);
    mmcf->used = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_moe_status_handler;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_moe_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_uint_t                      i;
    ngx_array_t                    *upstreams;
    ngx_http_moe_pass_t            *pass;
    ngx_http_moe_main_conf_t       *mmcf;
    ngx_http_upstream_srv_conf_t  **uscfp;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);
    if (rc != NGX_OK) {
        return rc;
    }

    mmcf = ngx_http_get_module_main_conf(r, ngx_http_moe_module);
    pass = mmcf->passes.elts;

    upstreams = ngx_array_create(r->pool, mmcf->passes.nelts + 1,
                                 sizeof(ngx_http_upstream_srv_conf_t *));
    if (upstreams == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    for (i = 0; i < mmcf->passes.nelts; i++) {
        uscfp = ngx_array_push(upstreams);
        if (uscfp == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        *uscfp = pass[i].upstream;
    }

    return ngx_http_moe_survey(r, upstreams, NGX_HTTP_MOE_ASK_HELLO,
                               ngx_http_moe_status_reply);
}


static ngx_int_t
ngx_http_moe_status_reply(ngx_http_request_t *r, ngx_http_moe_survey_t *s)
{
    ngx_int_t           rc;
    const char         *type;
    ngx_http_moe_out_t  out;

    ngx_memzero(&out, sizeof(ngx_http_moe_out_t));

    switch (ngx_http_moe_status_format(r)) {

    case NGX_HTTP_MOE_STATUS_PROMETHEUS:
        type = "text/plain; version=0.0.4; charset=utf-8";
        rc = ngx_http_moe_status_prometheus(s, &out);
        break;

    case NGX_HTTP_MOE_STATUS_EXPERTS:
        type = "application/json";
        rc = ngx_http_moe_experts_json(s, &out);
        break;

    case NGX_HTTP_MOE_STATUS_HEAT:
        type = "text/html; charset=utf-8";
        rc = ngx_http_moe_experts_heat(s, &out);
        break;

    default:
        type = "application/json";
        rc = ngx_http_moe_status_json(s, &out);
    }

    if (rc != NGX_OK) {
        ngx_http_moe_out_free(&out);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_moe_send_reply(r, NGX_HTTP_OK, type, &out);
}


/* the configured one, unless "?format=" asks for another */

static ngx_uint_t
ngx_http_moe_status_format(ngx_http_request_t *r)
{
    ngx_str_t                 value;
    ngx_uint_t                format;
    ngx_http_moe_loc_conf_t  *mlcf;

    mlcf = ngx_http_get_module_loc_conf(r, ngx_http_moe_module);

    if (ngx_http_arg(r, (u_char *) "format", 6, &value) != NGX_OK) {
        return mlcf->status_format;
    }

    format = ngx_http_moe_status_named(&value);

    return format ? format : NGX_HTTP_MOE_STATUS_JSON;
}


/* 0: there is no such format */

static ngx_uint_t
ngx_http_moe_status_named(ngx_str_t *name)
{
    ngx_uint_t  i;

    static ngx_str_t  names[] = {
        ngx_string("json"),
        ngx_string("prometheus"),
        ngx_string("experts"),
        ngx_string("heat")
    };

    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (name->len == names[i].len
            && ngx_strncmp(name->data, names[i].data, name->len) == 0)
        {
            return i + 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_http_moe_status_json(ngx_http_moe_survey_t *s, ngx_http_moe_out_t *out)
{
    u_char                 *base;
    ngx_uint_t              i;
    moe_histogram_t         h;
    ngx_http_moe_asked_t   *a;
    ngx_http_moe_metric_t  *m;

    ngx_http_moe_gauges_sum();
    base = (u_char *) ngx_http_moe_counters;

    if (ngx_http_moe_out_printf(out, "{\"nginx\":{\"version\":\"%s\","
                                "\"pid\":%P", NGINX_VERSION, ngx_pid)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (m = ngx_http_moe_own_metrics; m->name; m++) {
        if (ngx_http_moe_out_printf(out, ",\"%s\":%uA", m->name,
                                    *(ngx_atomic_t *) (base + m->offset))
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    ngx_http_moe_own_histogram(&ngx_http_moe_counters->ttft, &h);

    if (ngx_http_moe_json_histogram(out, "ttft_seconds", &h) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_moe_own_histogram(&ngx_http_moe_counters->itl, &h);

    if (ngx_http_moe_json_histogram(out, "itl_seconds", &h) != NGX_OK
        || ngx_http_moe_out_printf(out, "},\"engines\":[") != NGX_OK)
    {
        return NGX_ERROR;
    }

    a = s->engines.elts;

    for (i = 0; i < s->engines.nelts; i++) {

        if ((i && ngx_http_moe_out_add(out, ",", 1) != NGX_OK)
            || ngx_http_moe_json_engine(&a[i], out) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_add(out, "]}", 2);
}


static ngx_int_t
ngx_http_moe_json_engine(ngx_http_moe_asked_t *a, ngx_http_moe_out_t *out)
{
    uint32_t                i;
    moe_hello_t            *hello;
    ngx_http_moe_metric_t  *m;

    hello = &a->lane->hello;

    if (ngx_http_moe_out_printf(out, "{\"engine\":\"") != NGX_OK
        || ngx_http_moe_out_json(out, a->lane->name.data, a->lane->name.len)
           != NGX_OK
        || ngx_http_moe_out_printf(out, "\",\"up\":%s",
                                   a->up ? "true" : "false")
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (!a->up || a->stats == NULL) {
        return ngx_http_moe_out_add(out, "}", 1);
    }

    if (ngx_http_moe_out_printf(out, ",\"models\":[") != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; i < hello->nmodels; i++) {
        if (ngx_http_moe_out_printf(out, i ? ",\"" : "\"") != NGX_OK
            || ngx_http_moe_out_json(out, hello->models[i].name,
                                     ngx_strlen(hello->models[i].name))
               != NGX_OK
            || ngx_http_moe_out_add(out, "\"", 1) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    if (ngx_http_moe_out_add(out, "]", 1) != NGX_OK) {
        return NGX_ERROR;
    }

    for (m = ngx_http_moe_engine_metrics; m->name; m++) {
        if (ngx_http_moe_out_printf(out, ",\"%s\":%uL", m->name,
                       *(uint64_t *) ((u_char *) a->stats + m->offset))
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    for (m = ngx_http_moe_engine_histograms; m->name; m++) {
        if (ngx_http_moe_json_histogram(out, m->name,
                (moe_histogram_t *) ((u_char *) a->stats + m->offset))
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_moe_out_add(out, "}", 1);
}


/* buckets are cumulative, as Prometheus has them */

static ngx_int_t
ngx_http_moe_json_histogram(ngx_http_moe_out_t *out, const char *name,
    moe_histogram_t *h)
{
    uint64_t    total;
    ngx_uint_t  i;

    if (ngx_http_moe_out_printf(out, ",\"%s\":{\"buckets\":{", name)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    total = 0;

    for (i = 0; i < MOE_STATS_BUCKETS - 1; i++) {
        total += h->count[i];

        if (ngx_http_moe_out_printf(out, "%s\"%uL.%06uL\":%uL",
                                    i ? "," : "",
                                    moe_stats_bounds_us[i] / 1000000,
                                    moe_stats_bounds_us[i] % 1000000, total)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    total += h->count[i];

    return ngx_http_moe_out_printf(out, "},\"count\":%uL,"
                                   "\"sum\":%uL.%06uL}", total,
                                   h->sum_us / 1000000,
                                   h->sum_us % 1000000);
}


static ngx_int_t
ngx_http_moe_status_prometheus(ngx_http_moe_survey_t *s,
    ngx_http_moe_out_t *out)
{
    u_char                 *base;
    ngx_int_t               rc;
    ngx_str_t              *name;
    ngx_uint_t              i;
    moe_histogram_t         h;
    ngx_http_moe_asked_t   *a;
    ngx_http_moe_metric_t  *m;

    static ngx_http_moe_metric_t  up = {
        "up", "Whether a lane to the engine stands", 0, 1
    };

    static ngx_http_moe_metric_t  ttft = {
        "ttft_seconds", "Time to the first token, as nginx sees it", 0, 0
    };

    static ngx_http_moe_metric_t  itl = {
        "itl_seconds", "Time between tokens, as nginx sees it", 0, 0
    };

    ngx_http_moe_gauges_sum();
    base = (u_char *) ngx_http_moe_counters;
    a = s->engines.elts;
    rc = NGX_OK;

    for (m = ngx_http_moe_own_metrics; m->name; m++) {
        rc |= ngx_http_moe_prom_family(out, "moe_", m,
                                       m->gauge ? "gauge" : "counter");
        rc |= ngx_http_moe_out_printf(out, "moe_%s%s %uA\n", m->name,
                                      m->gauge ? "" : "_total",
                                      *(ngx_atomic_t *) (base + m->offset));
    }

    ngx_http_moe_own_histogram(&ngx_http_moe_counters->ttft, &h);
    rc |= ngx_http_moe_prom_family(out, "moe_", &ttft, "histogram");
    rc |= ngx_http_moe_prom_histogram(out, "moe_ttft_seconds", NULL, &h);

    ngx_http_moe_own_histogram(&ngx_http_moe_counters->itl, &h);
    rc |= ngx_http_moe_prom_family(out, "moe_", &itl, "histogram");
    rc |= ngx_http_moe_prom_histogram(out, "moe_itl_seconds", NULL, &h);

    rc |= ngx_http_moe_prom_family(out, "moe_engine_", &up, "gauge");

    for (i = 0; i < s->engines.nelts; i++) {
        rc |= ngx_http_moe_out_printf(out, "moe_engine_up{engine=\"%V\"} "
                                      "%ui\n", &a[i].lane->name,
                                      (ngx_uint_t) a[i].up);
    }

    for (m = ngx_http_moe_engine_metrics; m->name; m++) {
        rc |= ngx_http_moe_prom_family(out, "moe_engine_", m,
                                       m->gauge ? "gauge" : "counter");

        for (i = 0; i < s->engines.nelts; i++) {

            if (!a[i].up || a[i].stats == NULL) {
                continue;
            }

            rc |= ngx_http_moe_out_printf(out, "moe_engine_%s%s{engine="
                         "\"%V\"} %uL\n", m->name, m->gauge ? "" : "_total",
                         &a[i].lane->name,
                         *(uint64_t *) ((u_char *) a[i].stats + m->offset));
        }
    }

    for (m = ngx_http_moe_engine_histograms; m->name; m++) {
        rc |= ngx_http_moe_prom_family(out, "moe_engine_", m, "histogram");

        for (i = 0; i < s->engines.nelts; i++) {

            if (!a[i].up || a[i].stats == NULL) {
                continue;
            }

            name = &a[i].lane->name;
            h = *(moe_histogram_t *) ((u_char *) a[i].stats + m->offset);

            rc |= ngx_http_moe_prom_histogram(out, m->name, name, &h);
        }
    }

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_moe_prom_family(ngx_http_moe_out_t *out, const char *prefix,
    ngx_http_moe_metric_t *m, const char *type)
{
    const char  *suffix;

    suffix = ngx_strcmp(type, "counter") == 0 ? "_total" : "";

    return ngx_http_moe_out_printf(out, "# HELP %s%s%s %s.\n"
                                   "# TYPE %s%s%s %s\n",
                                   prefix, m->name, suffix, m->help,
                                   prefix, m->name, suffix, type);
}


/* engine: NULL for nginx's own, whose name is whole */

static ngx_int_t
ngx_http_moe_prom_histogram(ngx_http_moe_out_t *out, const char *name,
    ngx_str_t *engine, moe_histogram_t *h)
{
    u_char     *p, label[512], series[128];
    uint64_t    total;
    ngx_int_t   rc;
    ngx_uint_t  i;

    p = ngx_snprintf(series, sizeof(series) - 1, "%s%s",
                     engine ? "moe_engine_" : "", name);
    *p = '\0';

    label[0] = '\0';

    if (engine) {
        p = ngx_snprintf(label, sizeof(label) - 1, "engine=\"%V\"", engine);
        *p = '\0';
    }

    total = 0;
    rc = NGX_OK;

    for (i = 0; i < MOE_STATS_BUCKETS - 1; i++) {
        total += h->count[i];

        rc |= ngx_http_moe_out_printf(out, "%s_bucket{%s%sle="
                                      "\"%uL.%06uL\"} %uL\n", series, label,
                                      engine ? "," : "",
                                      moe_stats_bounds_us[i] / 1000000,
                                      moe_stats_bounds_us[i] % 1000000,
                                      total);
    }

    total += h->count[i];

    rc |= ngx_http_moe_out_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %uL\n",
                                  series, label, engine ? "," : "", total);

    rc |= ngx_http_moe_out_printf(out, "%s_sum%s%s%s %uL.%06uL\n", series,
                                  engine ? "{" : "", label,
                                  engine ? "}" : "",
                                  h->sum_us / 1000000, h->sum_us % 1000000);

    rc |= ngx_http_moe_out_printf(out, "%s_count%s%s%s %uL\n", series,
                                  engine ? "{" : "", label,
                                  engine ? "}" : "", total);

    return rc ? NGX_ERROR : NGX_OK;
}


static void
ngx_http_moe_own_histogram(ngx_http_moe_times_t *t, moe_histogram_t *h)
{
    ngx_uint_t  i;

    for (i = 0; i < MOE_STATS_BUCKETS; i++) {
        h->count[i] = t->count[i];
    }

    h->sum_us = (uint64_t) t->sum_ms * 1000;
}
