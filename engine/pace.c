#include "pace.h"


static void
moe_pace_mean(double *mean, double us)
{
    *mean = *mean == 0 ? us : *mean + (us - *mean) / 8;
}


uint32_t
moe_pace_rows(const moe_pace_t *p, uint64_t us)
{
    double  rows;

    if (us == 0) {
        return UINT32_MAX;
    }

    if (p->row == 0) {
        return MOE_PACE_FIRST;
    }

    rows = ((double) us - p->step) / p->row;

    return rows < MOE_PACE_LEAST ? MOE_PACE_LEAST
           : rows < UINT32_MAX ? (uint32_t) rows : UINT32_MAX;
}


void
moe_pace_seen(moe_pace_t *p, uint32_t rows, uint64_t us)
{
    double  rest;

    if (rows == 0) {
        moe_pace_mean(&p->step, (double) us);
        return;
    }

    /* a few rows say little: most of their step is not theirs */
    if (rows < MOE_PACE_LEAST) {
        return;
    }

    rest = (double) us > 2 * p->step ? (double) us - p->step
                                     : (double) us / 2;
    moe_pace_mean(&p->row, rest / rows);
}
