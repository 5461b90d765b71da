#include <math.h>

#include "plan/economics.h"


void
moe_plan_money(const moe_plan_market_t *m, double decode, double prefill,
    moe_plan_money_t *out)
{
    double  make, read;

    /* device seconds of one token made, and of the prompts that go with it */
    make = 1 / decode;
    read = m->prompt * (1 - m->cached) / prefill;

    out->decode = make / (make + read);
    out->cost = (make + read) * 1e6 * m->rent / 3600;
    out->revenue = m->price_out
                   + m->prompt * ((1 - m->cached) * m->price_in
                                  + m->cached * m->price_cached);
    out->fill = out->revenue > 0 ? out->cost / out->revenue : INFINITY;
}
