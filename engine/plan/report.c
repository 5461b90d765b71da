#include <math.h>
#include <stdio.h>

#include <jansson.h>

#include "plan/calibrate.h"
#include "plan/report.h"


enum { SKEW_TRIALS = 200 };

static const double  batches[] = { 1, 2, 4, 8, 16, 32, 64, 128, 256 };

#define BATCHES  (sizeof(batches) / sizeof(batches[0]))


static json_t *fleets(const moe_plan_report_t *r);
static void add_fleet(const moe_plan_report_t *r, const moe_plan_t *p,
    const char *way, double *base, json_t *to);
static json_t *steps(const moe_plan_report_t *r);
static json_t *calibration(void);
static json_t *skews(moe_err_t *err);


int
moe_plan_skew_fleet(size_t i, uint32_t *ranks, uint32_t *spare)
{
    static const uint32_t  known[][2] = {
        { 32, 32 }, { 72, 32 }, { 144, 32 }, { 288, 32 }
    };

    if (i >= sizeof(known) / sizeof(known[0])) {
        return -1;
    }

    *ranks = known[i][0];
    *spare = known[i][1];

    return 0;
}


int
moe_plan_report(const moe_plan_report_t *r, moe_err_t *err)
{
    int      rc;
    json_t  *root, *skew;

    skew = skews(err);
    if (skew == NULL) {
        return -1;
    }

    root = json_pack("{s:s,s:s,s:b,s:f,s:f,s:f,s:o,s:o,s:o,s:o}",
                     "model", r->model ? r->model : "DeepSeek-V3",
                     "hardware", r->plan->hw.name,
                     "calibrated", r->plan->hw.calibrated,
                     "context", r->plan->context, "tpot", r->tpot,
                     "baseline", r->baseline,
                     "fleets", fleets(r),
                     "steps", steps(r),
                     "calibration", calibration(),
                     "skews", skew);

    if (root == NULL) {
        return moe_err(err, "no memory for the output");
    }

    rc = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    printf("\n");

    return rc == 0 ? 0 : moe_err(err, "the output cannot be written");
}


static json_t *
fleets(const moe_plan_report_t *r)
{
    double       base;
    json_t      *to;
    uint32_t     i;
    moe_plan_t   p;

    to = json_array();
    p = *r->plan;
    p.devices = r->baseline;
    base = 0;

    if (r->baseline > 0) {
        p.way = MOE_PLAN_TENSOR;
        add_fleet(r, &p, "tensor", &base, to);
    }

    if (r->baseline > 1) {
        p.way = MOE_PLAN_HYBRID;
        add_fleet(r, &p, "hybrid", &base, to);
    }

    p.way = MOE_PLAN_EXPERT;

    for (i = 0; i < r->nsizes; i++) {
        p.devices = r->sizes[i];
        p.spare = r->spare >= 0 ? r->spare
                                : moe_plan_spare(p.model.experts, p.devices);
        add_fleet(r, &p, "expert", &base, to);
    }

    return to;
}


/* one that does not fit, or is too slow, has a rate of 0 */
static void
add_fleet(const moe_plan_report_t *r, const moe_plan_t *p, const char *way,
    double *base, json_t *to)
{
    json_t            *f;
    moe_plan_money_t   money;
    moe_plan_point_t   at;

    moe_plan_solve(p, r->tpot, &at);
    *base = *base > 0 ? *base : at.rate;

    f = json_pack("{s:s,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}",
                  "way", way, "devices", p->devices, "spare", p->spare,
                  "kv", at.kv, "fit", at.fit, "batch", at.batch,
                  "step", at.step, "rate", at.rate, "user", at.user,
                  "times", *base > 0 ? at.rate / *base : 0);

    if (f != NULL && at.rate > 0 && r->market->rent > 0) {
        moe_plan_money(r->market, at.rate,
                       moe_plan_prefill(p, r->prompt_len), &money);
        json_object_set_new(f, "cost", json_real(money.cost));

        if (isfinite(money.fill)) {
            json_object_set_new(f, "fill", json_real(money.fill));
        }
    }

    json_array_append_new(to, f);
}


/* a step and its layers' parts, of the largest fleet */
static json_t *
steps(const moe_plan_report_t *r)
{
    size_t            i;
    json_t           *to;
    moe_plan_t        p;
    moe_plan_layer_t  l;

    to = json_array();
    p = *r->plan;
    p.way = MOE_PLAN_EXPERT;
    p.devices = r->sizes[r->nsizes - 1];
    p.spare = r->spare >= 0 ? r->spare
                            : moe_plan_spare(p.model.experts, p.devices);

    for (i = 0; i < BATCHES; i++) {
        moe_plan_layer(&p, batches[i], &l);
        json_array_append_new(to,
            json_pack("{s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f,s:f}",
                      "devices", p.devices, "batch", batches[i],
                      "step", moe_plan_step(&p, batches[i]),
                      "attention", l.attention,
                      "projections", l.projections, "experts", l.experts,
                      "shared", l.shared, "rest", l.rest,
                      "exchange", l.exchange));
    }

    return to;
}


static json_t *
calibration(void)
{
    size_t          i;
    json_t         *to;
    moe_plan_row_t  row;

    to = json_array();

    for (i = 0; moe_plan_calibration(i, &row) == 0; i++) {
        json_array_append_new(to,
            json_pack("{s:s,s:s,s:f,s:f,s:f,s:f}",
                      "what", row.what, "source", row.source,
                      "step", row.step, "model", row.model,
                      "published", row.published,
                      "error", row.model / row.published - 1));
    }

    return to;
}


static json_t *
skews(moe_err_t *err)
{
    size_t            i;
    json_t           *to;
    uint32_t          ranks, spare;
    moe_plan_skew_t   s;

    to = json_array();

    for (i = 0; moe_plan_skew_fleet(i, &ranks, &spare) == 0; i++) {
        if (moe_plan_skew(256, spare, ranks, 0.8, SKEW_TRIALS, &s, err) != 0)
        {
            json_decref(to);
            return NULL;
        }

        json_array_append_new(to,
            json_pack("{s:i,s:i,s:f,s:f}", "ranks", (int) ranks,
                      "spare", (int) spare, "plain", s.plain,
                      "placed", s.placed));
    }

    return to;
}
