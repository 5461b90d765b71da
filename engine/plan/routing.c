#include <math.h>
#include <stdlib.h>

#include "plan/random.h"
#include "plan/routing.h"


/* how often it changes */
#define EVERY   1.0

/* rounds in which what no expert can have goes to the others */
#define ROUNDS  8


struct moe_routing_s {
    moe_routing_options_t   o;
    uint64_t                seed;
    double                  at;
    double                 *x;          /* [layers][experts], logarithms */
    double                 *p;          /* the same: of a row */
};


static void set(moe_routing_t *r, uint32_t layer);
static void drift_lognormal(moe_routing_t *r);
static void drift_zipf(moe_routing_t *r);
static void swap(moe_routing_t *r, double *x);


moe_routing_t *
moe_routing_create(const moe_routing_options_t *o, moe_err_t *err)
{
    size_t          i, k, n;
    double         *x;
    moe_routing_t  *r;

    n = (size_t) o->layers * o->experts;
    r = calloc(1, sizeof(moe_routing_t));

    if (r != NULL) {
        r->x = calloc(n, sizeof(double));
        r->p = calloc(n, sizeof(double));
    }

    if (r == NULL || r->x == NULL || r->p == NULL) {
        moe_routing_free(r);
        moe_err(err, "routing: out of memory");
        return NULL;
    }

    r->o = *o;
    r->seed = moe_plan_mix(o->seed + 2);

    for (i = 0; i < o->layers; i++) {
        x = r->x + i * o->experts;

        for (k = 0; k < o->experts; k++) {
            x[k] = o->kind == MOE_ROUTING_ZIPF
                   ? -o->skew * log((double) k + 1)
                   : o->kind == MOE_ROUTING_LOGNORMAL
                   ? o->skew * moe_plan_normal(&r->seed) : 0;
        }

        for (k = 0; k < 4 * o->experts && o->kind == MOE_ROUTING_ZIPF; k++) {
            swap(r, x);
        }

        set(r, (uint32_t) i);
    }

    return r;
}


void
moe_routing_free(moe_routing_t *r)
{
    if (r != NULL) {
        free(r->x);
        free(r->p);
        free(r);
    }
}


void
moe_routing_drift(moe_routing_t *r, double at)
{
    uint32_t  l;

    if (r->o.drift <= 0 || r->o.kind == MOE_ROUTING_EVEN
        || at < r->at + EVERY)
    {
        return;
    }

    while (at >= r->at + EVERY) {
        r->at += EVERY;

        if (r->o.kind == MOE_ROUTING_LOGNORMAL) {
            drift_lognormal(r);

        } else {
            drift_zipf(r);
        }
    }

    for (l = 0; l < r->o.layers; l++) {
        set(r, l);
    }
}


void
moe_routing_draw(moe_routing_t *r, uint32_t layer, uint32_t rows,
    uint32_t *count)
{
    uint32_t       e;
    const double  *p;

    p = r->p + (size_t) layer * r->o.experts;

    for (e = 0; e < r->o.experts; e++) {
        count[e] = moe_plan_binomial(&r->seed, rows, p[e]);
    }
}


/* Probabilities from logarithms: top_k in all, none above 1. */
static void
set(moe_routing_t *r, uint32_t layer)
{
    int        i;
    double     sum, full, *p;
    uint32_t   e;
    const double  *x;

    x = r->x + (size_t) layer * r->o.experts;
    p = r->p + (size_t) layer * r->o.experts;

    for (e = 0; e < r->o.experts; e++) {
        p[e] = exp(x[e]);
    }

    for (i = 0; i < ROUNDS; i++) {
        sum = 0;
        full = 0;

        for (e = 0; e < r->o.experts; e++) {
            if (i > 0 && p[e] >= 1) {
                full++;

            } else {
                sum += p[e];
            }
        }

        for (e = 0; e < r->o.experts; e++) {
            if (i == 0 || p[e] < 1) {
                p[e] = fmin(1, p[e] * (r->o.top_k - full) / sum);
            }
        }

        if (full == r->o.experts) {
            return;
        }
    }
}


/* a process of Ornstein and Uhlenbeck: as spread at all times */
static void
drift_lognormal(moe_routing_t *r)
{
    double  keep, new;
    size_t  i, n;

    keep = exp(-EVERY / r->o.drift);
    new = r->o.skew * sqrt(1 - keep * keep);
    n = (size_t) r->o.layers * r->o.experts;

    for (i = 0; i < n; i++) {
        r->x[i] = r->x[i] * keep + new * moe_plan_normal(&r->seed);
    }
}


/* in the time of a drift half as many swaps as experts: most have moved */
static void
drift_zipf(moe_routing_t *r)
{
    double    n;
    uint32_t  l;

    for (l = 0; l < r->o.layers; l++) {
        n = r->o.experts / 2.0 * EVERY / r->o.drift;

        for (n += moe_plan_uniform(&r->seed); n >= 1; n--) {
            swap(r, r->x + (size_t) l * r->o.experts);
        }
    }
}


static void
swap(moe_routing_t *r, double *x)
{
    double    t;
    uint32_t  a, b;

    a = (uint32_t) (moe_plan_uniform(&r->seed) * r->o.experts);
    b = (uint32_t) (moe_plan_uniform(&r->seed) * r->o.experts);
    t = x[a];
    x[a] = x[b];
    x[b] = t;
}
