#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "plan/fleet_parts.h"


/* sums over the steps of a time */
typedef struct {
    uint64_t                    steps;
    double                      seconds;
    double                      tokens;
    double                      running;
    double                      context;
    double                      waiting;
    double                      skew;
    double                      waited;
    uint32_t                    ranks;
} sums_t;

struct moe_fleet_stats_s {
    const moe_fleet_options_t  *o;
    moe_fleet_record_t         *records;
    size_t                      n;
    size_t                      size;
    sums_t                      all;
    sums_t                     *rows;       /* [o->rows] */
};


static void add_step(sums_t *s, const moe_fleet_time_t *t, double tokens,
    double running, double context, double waiting, uint32_t ranks);
static void row(const moe_fleet_stats_t *s, const sums_t *of, double from,
    double to, double *scratch, moe_fleet_row_t *out);
static double quantile(double *v, size_t n, double q);
static void closed_form(const moe_fleet_stats_t *s, moe_fleet_result_t *out);


moe_fleet_stats_t *
moe_fleet_stats_create(const moe_fleet_options_t *o, moe_err_t *err)
{
    moe_fleet_stats_t  *s;

    s = calloc(1, sizeof(moe_fleet_stats_t));

    if (s != NULL) {
        s->o = o;
        s->rows = calloc(o->rows, sizeof(sums_t));
    }

    if (s == NULL || s->rows == NULL) {
        free(s);
        moe_err(err, "fleet: out of memory");
        return NULL;
    }

    return s;
}


void
moe_fleet_stats_free(moe_fleet_stats_t *s)
{
    if (s != NULL) {
        free(s->records);
        free(s->rows);
        free(s);
    }
}


int
moe_fleet_stats_add(moe_fleet_stats_t *s, const moe_fleet_record_t *r,
    moe_err_t *err)
{
    size_t               size;
    moe_fleet_record_t  *records;

    if (s->n == s->size) {
        size = s->size > 0 ? 2 * s->size : 1024;
        records = realloc(s->records, size * sizeof(moe_fleet_record_t));

        if (records == NULL) {
            return moe_err(err, "fleet: no memory for %zu records", size);
        }

        s->records = records;
        s->size = size;
    }

    s->records[s->n++] = *r;

    return 0;
}


void
moe_fleet_stats_step(moe_fleet_stats_t *s, double now,
    const moe_fleet_time_t *t, double tokens, double running, double context,
    double waiting, uint32_t ranks)
{
    size_t  i;

    i = (size_t) (now / s->o->seconds * s->o->rows);

    if (i < s->o->rows) {
        add_step(&s->rows[i], t, tokens, running, context, waiting, ranks);
    }

    if (now >= s->o->warm && now <= s->o->seconds) {
        add_step(&s->all, t, tokens, running, context, waiting, ranks);
    }
}


static void
add_step(sums_t *s, const moe_fleet_time_t *t, double tokens, double running,
    double context, double waiting, uint32_t ranks)
{
    s->steps++;
    s->seconds += t->seconds;
    s->tokens += tokens;
    s->running += running;
    s->context += context;
    s->waiting += waiting;
    s->skew += t->skew;
    s->waited += t->waited;
    s->ranks = ranks;
}


int
moe_fleet_stats_result(const moe_fleet_stats_t *s, moe_fleet_result_t *out,
    moe_err_t *err)
{
    double    *scratch, each;
    uint32_t   i;

    scratch = malloc((s->n + 1) * sizeof(double));
    out->rows = calloc(s->o->rows, sizeof(moe_fleet_row_t));

    if (scratch == NULL || out->rows == NULL) {
        free(scratch);
        return moe_err(err, "fleet: out of memory");
    }

    out->nrows = s->o->rows;
    each = s->o->seconds / s->o->rows;

    for (i = 0; i < out->nrows; i++) {
        row(s, &s->rows[i], i * each, (i + 1) * each, scratch, &out->rows[i]);
    }

    row(s, &s->all, s->o->warm, s->o->seconds, scratch, &out->all);
    free(scratch);

    if (s->all.steps > 0) {
        out->straggling = s->all.waited / s->all.seconds;
        out->context = s->all.running > 0 ? s->all.context / s->all.running
                                          : 0;
        closed_form(s, out);
    }

    return 0;
}


static void
row(const moe_fleet_stats_t *s, const sums_t *of, double from, double to,
    double *scratch, moe_fleet_row_t *out)
{
    size_t                     i, n;
    const moe_fleet_record_t  *r;

    memset(out, 0, sizeof(moe_fleet_row_t));
    out->from = from;
    out->to = to;

    for (i = 0, n = 0; i < s->n; i++) {
        r = &s->records[i];

        if (r->at < from || r->at >= to) {
            continue;
        }

        out->asked++;
        out->refused += r->end == MOE_FLEET_REFUSED;
        out->late += r->end == MOE_FLEET_LATE;
        out->failed += r->end == MOE_FLEET_FAILED;

        if (r->first >= 0) {
            scratch[n++] = r->first - r->at;
        }
    }

    out->began = n;
    out->first50 = quantile(scratch, n, 0.5);
    out->first99 = quantile(scratch, n, 0.99);

    for (i = 0, n = 0; i < s->n; i++) {
        r = &s->records[i];

        if (r->at >= from && r->at < to && r->first >= 0 && r->made > 1) {
            scratch[n++] = (r->last - r->first) / (r->made - 1);
        }
    }

    out->token50 = quantile(scratch, n, 0.5);
    out->token99 = quantile(scratch, n, 0.99);

    out->steps = of->steps;
    out->ranks = of->ranks;

    if (of->steps > 0) {
        out->step = of->seconds / (double) of->steps;
        out->running = of->running / (double) of->steps
                       / s->o->plan.devices;
        out->waiting = of->waiting / (double) of->steps;
        out->skew = of->skew / (double) of->steps;
    }

    out->rate = of->tokens / (to - from) / s->o->plan.devices;
}


static int
by_size(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


/* sorts v */
static double
quantile(double *v, size_t n, double q)
{
    size_t  i;

    if (n == 0) {
        return 0;
    }

    qsort(v, n, sizeof(double), by_size);
    i = (size_t) ceil(q * (double) n);

    return v[i > 0 ? i - 1 : 0];
}


static void
closed_form(const moe_fleet_stats_t *s, moe_fleet_result_t *out)
{
    moe_plan_t  p;

    p = s->o->plan;
    p.context = out->context;
    p.skew = out->all.skew;

    if (out->all.running > 0) {
        out->model_step = moe_plan_step(&p, out->all.running);
        out->model_rate = out->all.running / out->model_step;
    }
}
