#include <math.h>
#include <stdlib.h>

#include "ep/placement.h"
#include "plan/calibrate.h"
#include "plan/random.h"


typedef struct {
    const char  *what;
    const char  *source;
    double       devices;
    double       batch;
    double       context;       /* or a prompt's length */
    double       drafts;
    double       accepted;
    double       skew;
    double       published;
    int          way;
    int          prefill;
} known_t;


static const known_t  known[] = {
    { "DeepSeek EP144, 88 sequences",
      "open-infra-index day 6: 14.8k tokens/s a node, 20 to 22 a user",
      144, 88, 4989, 1, 1.0, 1.2, 1850, MOE_PLAN_EXPERT, 0 },
    { "DeepSeek EP128 profile, 128 sequences, even",
      "profile-data; without drafts",
      128, 128, 4096, 1, 1.0, 1.0, 2325, MOE_PLAN_EXPERT, 0 },
    { "  the same, read as 2 tokens a step, 1.6 out",
      "profile-data; with drafts",
      128, 128, 4096, 2, 1.6, 1.0, 2325, MOE_PLAN_EXPERT, 0 },
    { "SGLang EP72, 256 sequences",
      "lmsys 2025-05-05: 22,282 tokens/s a node",
      72, 256, 2000, 1, 1.0, 1.2, 22282.0 / 8, MOE_PLAN_EXPERT, 0 },
    { "SGLang EP72, drafts simulated, 128 sequences",
      "lmsys 2025-05-05: 17,373 tokens/s a node",
      72, 128, 4000, 2, 1.6, 1.2, 17373.0 / 8, MOE_PLAN_EXPERT, 0 },
    { "SGLang TP16 with data-parallel attention",
      "lmsys 2025-05-05: EP72 is 5.2 times as fast; ideal kernels here",
      16, 64, 2000, 1, 1.0, 1.2, 22282.0 / 8 / 5.2, MOE_PLAN_HYBRID, 0 },
    { "SGLang EP32 prompts of 2,000",
      "lmsys 2025-05-05: 52.3k tokens/s a node",
      32, 0, 2000, 1, 1.0, 1.2, 52300.0 / 8, MOE_PLAN_EXPERT, 1 },
    { "DeepSeek EP32 prompts, not cached",
      "open-infra-index day 6: 43.7 % of 73.7k tokens/s a node",
      32, 0, 4000, 1, 1.0, 1.2, 73700.0 * 0.437 / 8, MOE_PLAN_EXPERT, 1 }
};

#define KNOWN  (sizeof(known) / sizeof(known[0]))


static double largest(const double *load, uint32_t experts, uint32_t ranks);


int
moe_plan_calibration(size_t i, moe_plan_row_t *row)
{
    moe_err_t       err;
    moe_plan_t      p;
    const known_t  *k;

    if (i >= KNOWN) {
        return -1;
    }

    k = &known[i];
    moe_plan_defaults(&p);
    moe_plan_shape_v3(&p.model);

    if (moe_plan_hardware("h800", &p.hw, &err) != 0) {
        return -1;
    }

    p.way = (moe_plan_way_e) k->way;
    p.devices = k->devices;
    p.spare = k->way == MOE_PLAN_EXPERT ? 32 : 0;
    p.context = k->context;
    p.drafts = k->drafts;
    p.accepted = k->accepted;
    p.skew = k->skew;

    row->what = k->what;
    row->source = k->source;
    row->published = k->published;

    if (k->prefill) {
        row->step = 0;
        row->model = moe_plan_prefill(&p, k->context);

    } else {
        row->step = moe_plan_step(&p, k->batch);
        row->model = k->batch * k->accepted / row->step;
    }

    return 0;
}


int
moe_plan_skew(uint32_t experts, uint32_t spare, uint32_t ranks, double sigma,
    uint32_t trials, moe_plan_skew_t *out, moe_err_t *err)
{
    int                    rc;
    double                *load;
    uint32_t               i, t, *phy, *rep, *cnt;
    uint64_t               seed;
    moe_placement_shape_t  s = { experts, experts + spare, 1, 1, ranks };

    load = calloc(experts, sizeof(double));
    phy = calloc((size_t) experts + spare, sizeof(uint32_t));
    rep = calloc((size_t) experts + spare, sizeof(uint32_t));
    cnt = calloc(experts, sizeof(uint32_t));

    if (load == NULL || phy == NULL || rep == NULL || cnt == NULL) {
        rc = moe_err(err, "no memory for %u experts", experts);
        goto done;
    }

    rc = 0;
    seed = 1;
    out->plain = 0;
    out->placed = 0;

    for (t = 0; t < trials; t++) {
        for (i = 0; i < experts; i++) {
            load[i] = exp(sigma * moe_plan_normal(&seed));
        }

        rc = moe_placement_balance(&s, load, phy, rep, cnt, err);
        if (rc != 0) {
            break;
        }

        out->plain += largest(load, experts, ranks) / trials;
        out->placed += moe_placement_skew(&s, load, phy, cnt) / trials;
    }

done:

    free(load);
    free(phy);
    free(rep);
    free(cnt);

    return rc;
}


/* without replicas: runs of experts, or dealt in turn where that is uneven */
static double
largest(const double *load, uint32_t experts, uint32_t ranks)
{
    double    sum, part, most;
    uint32_t  i, r, n;

    sum = 0;
    most = 0;
    n = experts % ranks == 0 ? experts / ranks : 0;

    for (r = 0; r < ranks; r++) {
        part = 0;

        for (i = 0; i < experts; i++) {
            if ((n > 0 ? i / n : i % ranks) == r) {
                part += load[i];
            }
        }

        sum += part;
        most = fmax(most, part);
    }

    return most * ranks / sum;
}
