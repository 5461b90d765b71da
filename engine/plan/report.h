/*
 * report: what moe-engine plan says, as JSON for other programs.
 */

#ifndef MOE_PLAN_REPORT_H
#define MOE_PLAN_REPORT_H


#include "base/err.h"
#include "plan/capacity.h"
#include "plan/economics.h"


typedef struct {
    const char               *model;        /* NULL: DeepSeek-V3 */
    const moe_plan_t         *plan;
    const moe_plan_market_t  *market;       /* no rent: not asked for */
    double                    tpot;         /* seconds */
    double                    prompt_len;
    double                    baseline;     /* devices; 0: none */
    const double             *sizes;        /* of expert parallelism */
    uint32_t                  nsizes;
    double                    spare;        /* below 0: as is usual */
} moe_plan_report_t;


/* Prints it: fleets, a step's parts, calibration and skews.  -1 and a line
 * in err. */
int moe_plan_report(const moe_plan_report_t *r, moe_err_t *err);

/* The fleets whose skew calibration shows: -1 behind the last. */
int moe_plan_skew_fleet(size_t i, uint32_t *ranks, uint32_t *spare);


#endif /* MOE_PLAN_REPORT_H */
