
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * moe_status, "experts" and "heat": the loads of spread experts and of their
 * ranks, layer by layer, as JSON, and as a page for people.  They are read in
 * the engines' memory, without asking.
 */


#include "ngx_http_moe.h"


/* by load over the mean, in thousandths, below these */

static ngx_uint_t  ngx_http_moe_heat_bounds[] = {
    250, 500, 750, 1000, 1250, 1500, 2000, 3000, 0
};

static const char  ngx_http_moe_heat_head[] =
    "<!doctype html>\n"
    "<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
    "<meta http-equiv=\"refresh\" content=\"10\"><title>Experts</title>\n"
    "<style>\n"
    "body{font:14px sans-serif;margin:1.5em;color:#222;background:#fff}\n"
    "table{border-collapse:separate;border-spacing:1px;margin:1em 0}\n"
    "th{font-weight:normal;color:#666;text-align:right;padding:0 .5em}\n"
    "td{width:7px;height:12px;padding:0}\n"
    ".r td{width:auto;padding:0 .4em;text-align:right}\n"
    ".h0{background:#f4f1ec}.h1{background:#f9e3c5}.h2{background:#fbd09a}\n"
    ".h3{background:#fbb96c}.h4{background:#f89b45}.h5{background:#ee7a2a}\n"
    ".h6{background:#d9571a}.h7{background:#b53a12;color:#fff}\n"
    ".h8{background:#7d2010;color:#fff}\n"
    "</style></head><body>\n";


static moe_experts_t *ngx_http_moe_experts_read(ngx_http_moe_asked_t *a);
static ngx_int_t ngx_http_moe_experts_list(ngx_http_moe_out_t *out,
    const char *name, moe_experts_t *e, ngx_uint_t first, ngx_uint_t n);
static ngx_int_t ngx_http_moe_heat_engine(ngx_http_moe_asked_t *a,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_heat_name(ngx_http_moe_asked_t *a,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_heat_map(moe_experts_t *e,
    ngx_http_moe_out_t *out);
static ngx_int_t ngx_http_moe_heat_ranks(moe_experts_t *e,
    ngx_http_moe_out_t *out);
static ngx_uint_t ngx_http_moe_heat(ngx_uint_t load);


ngx_int_t
ngx_http_moe_experts_json(ngx_http_moe_survey_t *s, ngx_http_moe_out_t *out)
{
    ngx_int_t              rc;
    ngx_uint_t             i;
    moe_experts_t         *e;
    ngx_http_moe_asked_t  *a;

    a = s->engines.elts;
    rc = ngx_http_moe_out_printf(out, "{\"engines\":[");

    for (i = 0; i < s->engines.nelts; i++) {

        rc |= ngx_http_moe_out_printf(out, "%s{\"engine\":\"", i ? "," : "");
        rc |= ngx_http_moe_out_json(out, a[i].lane->name.data,
                                    a[i].lane->name.len);
        rc |= ngx_http_moe_out_printf(out, "\",\"up\":%s",
                                      a[i].up ? "true" : "false");

        e = ngx_http_moe_experts_read(&a[i]);

        if (e) {
            rc |= ngx_http_moe_out_printf(out, ",\"placement\":%uD,"
                                          "\"rows\":%uL,\"layers\":%uD,"
                                          "\"experts\":%uD,\"ranks\":%uD",
                                          e->version, e->rows, e->layers,
                                          e->experts, e->ranks);
            rc |= ngx_http_moe_experts_list(out, "expert_load", e, 0,
                                            e->experts);
            rc |= ngx_http_moe_experts_list(out, "rank_load", e, e->experts,
                                            e->ranks);
        }

        rc |= ngx_http_moe_out_add(out, "}", 1);
    }

    rc |= ngx_http_moe_out_add(out, "]}", 2);

    return rc ? NGX_ERROR : NGX_OK;
}


/* NULL where nothing is known; of the request's pool */

static moe_experts_t *
ngx_http_moe_experts_read(ngx_http_moe_asked_t *a)
{
    moe_experts_t  *e;

    if (!a->up) {
        return NULL;
    }

    e = ngx_palloc(a->survey->request->pool, sizeof(moe_experts_t));

    if (e == NULL
        || moe_lane_experts_read(&a->lane->lane, e) != MOE_JOBQ_OK
        || e->layers == 0)
    {
        return NULL;
    }

    return e;
}


/* thousandths of the mean, a list a layer */

static ngx_int_t
ngx_http_moe_experts_list(ngx_http_moe_out_t *out, const char *name,
    moe_experts_t *e, ngx_uint_t first, ngx_uint_t n)
{
    uint16_t    *cells;
    ngx_int_t    rc;
    ngx_uint_t   l, i;

    rc = ngx_http_moe_out_printf(out, ",\"%s\":[", name);

    for (l = 0; l < e->layers; l++) {
        cells = e->cells + l * (e->experts + e->ranks) + first;
        rc |= ngx_http_moe_out_add(out, l ? ",[" : "[", l ? 2 : 1);

        for (i = 0; i < n; i++) {
            rc |= ngx_http_moe_out_printf(out, i ? ",%ui" : "%ui",
                                          (ngx_uint_t) cells[i]);
        }

        rc |= ngx_http_moe_out_add(out, "]", 1);
    }

    rc |= ngx_http_moe_out_add(out, "]", 1);

    return rc ? NGX_ERROR : NGX_OK;
}


ngx_int_t
ngx_http_moe_experts_heat(ngx_http_moe_survey_t *s, ngx_http_moe_out_t *out)
{
    ngx_int_t              rc;
    ngx_uint_t             i;
    ngx_http_moe_asked_t  *a;

    a = s->engines.elts;
    rc = ngx_http_moe_out_add(out, ngx_http_moe_heat_head,
                              sizeof(ngx_http_moe_heat_head) - 1);

    for (i = 0; i < s->engines.nelts; i++) {
        rc |= ngx_http_moe_heat_engine(&a[i], out);
    }

    rc |= ngx_http_moe_out_printf(out, "</body></html>\n");

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_moe_heat_engine(ngx_http_moe_asked_t *a, ngx_http_moe_out_t *out)
{
    ngx_int_t       rc;
    moe_experts_t  *e;

    rc = ngx_http_moe_heat_name(a, out);
    e = ngx_http_moe_experts_read(a);

    if (e == NULL) {
        rc |= ngx_http_moe_out_printf(out, "<p>%s</p>\n", a->up
                  ? "Its experts are not spread over ranks, or have had too "
                    "few rows for a look."
                  : "The engine does not answer.");

        return rc ? NGX_ERROR : NGX_OK;
    }

    rc |= ngx_http_moe_out_printf(out, "<p>Placement %uD; the last look "
                                  "counted %uL rows. A line is a layer, a "
                                  "column an expert; the darker the more rows "
                                  "it had.</p>\n", e->version, e->rows);
    rc |= ngx_http_moe_heat_map(e, out);
    rc |= ngx_http_moe_out_printf(out, "<p>Load of each rank over the mean, "
                                  "as experts are placed now.</p>\n");
    rc |= ngx_http_moe_heat_ranks(e, out);

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_moe_heat_name(ngx_http_moe_asked_t *a, ngx_http_moe_out_t *out)
{
    u_char      *p;
    size_t       len;
    ngx_str_t   *name;
    ngx_int_t    rc;

    name = &a->lane->name;
    len = name->len + ngx_escape_html(NULL, name->data, name->len);

    p = ngx_pnalloc(a->survey->request->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    (void) ngx_escape_html(p, name->data, name->len);

    rc = ngx_http_moe_out_printf(out, "<h1>");
    rc |= ngx_http_moe_out_add(out, p, len);
    rc |= ngx_http_moe_out_printf(out, "</h1>\n");

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_moe_heat_map(moe_experts_t *e, ngx_http_moe_out_t *out)
{
    uint16_t    *cells;
    ngx_int_t    rc;
    ngx_uint_t   l, i;

    rc = ngx_http_moe_out_printf(out, "<table>\n");

    for (l = 0; l < e->layers; l++) {
        cells = e->cells + l * (e->experts + e->ranks);
        rc |= ngx_http_moe_out_printf(out, "<tr><th>%ui", l + 1);

        for (i = 0; i < e->experts; i++) {
            rc |= ngx_http_moe_out_printf(out, "<td class=h%ui>",
                                          ngx_http_moe_heat(cells[i]));
        }

        rc |= ngx_http_moe_out_add(out, "\n", 1);
    }

    rc |= ngx_http_moe_out_printf(out, "</table>\n");

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_int_t
ngx_http_moe_heat_ranks(moe_experts_t *e, ngx_http_moe_out_t *out)
{
    uint16_t    *cells;
    ngx_int_t    rc;
    ngx_uint_t   l, i;

    rc = ngx_http_moe_out_printf(out, "<table class=r>\n<tr><th>");

    for (i = 0; i < e->ranks; i++) {
        rc |= ngx_http_moe_out_printf(out, "<th>rank %ui", i);
    }

    rc |= ngx_http_moe_out_add(out, "\n", 1);

    for (l = 0; l < e->layers; l++) {
        cells = e->cells + l * (e->experts + e->ranks) + e->experts;
        rc |= ngx_http_moe_out_printf(out, "<tr><th>%ui", l + 1);

        for (i = 0; i < e->ranks; i++) {
            rc |= ngx_http_moe_out_printf(out, "<td class=h%ui>%ui.%02ui",
                                          ngx_http_moe_heat(cells[i]),
                                          (ngx_uint_t) cells[i] / 1000,
                                          (ngx_uint_t) cells[i] % 1000 / 10);
        }

        rc |= ngx_http_moe_out_add(out, "\n", 1);
    }

    rc |= ngx_http_moe_out_printf(out, "</table>\n");

    return rc ? NGX_ERROR : NGX_OK;
}


static ngx_uint_t
ngx_http_moe_heat(ngx_uint_t load)
{
    ngx_uint_t  i;

    for (i = 0; ngx_http_moe_heat_bounds[i]; i++) {
        if (load < ngx_http_moe_heat_bounds[i]) {
            break;
        }
    }

    return i;
}
