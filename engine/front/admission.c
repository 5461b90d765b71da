#include <stddef.h>

#include "front/admission.h"


#define MOE_ADMIT_PERCENT  75


uint64_t
moe_admission_may(uint64_t may_us)
{
    return may_us * MOE_ADMIT_PERCENT / 100;
}


uint64_t
moe_admission_wait(const moe_fair_t *q, const moe_rate_t *rate,
    const moe_fair_node_t *node)
{
    return moe_rate_wait(rate, moe_fair_ahead(q, node) + 1ull);
}


static int
moe_admission_late(const moe_fair_t *q, const moe_rate_t *rate,
    const moe_fair_node_t *node, uint64_t may_us)
{
    uint64_t  may;

    may = moe_admission_may(may_us);

    /* what waits for nobody needs no estimate, and most need no exact one */

    return may != 0 && q->n != 0
           && moe_rate_wait(rate, q->places + 1ull) > may
           && moe_admission_wait(q, rate, node) > may;
}


moe_admit_e
moe_admission(moe_fair_t *q, const moe_rate_t *rate,
    const moe_fair_node_t *node, uint32_t places, uint64_t may_us,
    moe_fair_node_t **victim)
{
    *victim = NULL;

    if (moe_admission_late(q, rate, node, may_us)) {
        return moe_fair_over(node) ? MOE_ADMIT_SHARE_LATE : MOE_ADMIT_LATE;
    }

    switch (moe_fair_ask(q, node, places, victim)) {

    case MOE_FAIR_YES:
        *victim = NULL;
        return MOE_ADMIT_YES;

    case MOE_FAIR_TAKE:
        return MOE_ADMIT_YES;

    case MOE_FAIR_SHARE:
        return MOE_ADMIT_SHARE;

    default:
        return MOE_ADMIT_FULL;
    }
}
