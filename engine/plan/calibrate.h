/*
 * calibrate: the model beside what others measured and published.
 *
 * Two numbers, the overlap and the skew, were chosen on the first and fourth
 * row, so the fit is partly to its own sample.  What the model does badly is
 * in the table too.
 */

#ifndef MOE_PLAN_CALIBRATE_H
#define MOE_PLAN_CALIBRATE_H


#include <stddef.h>

#include "plan/capacity.h"


typedef struct {
    const char  *what;
    const char  *source;
    double       step;          /* seconds; 0: a prompt's rate */
    double       model;         /* tokens a second and device */
    double       published;
} moe_plan_row_t;


/* Row i, or -1 behind the last. */
int moe_plan_calibration(size_t i, moe_plan_row_t *row);


/* The largest load of a rank over the mean, experts' popularity lognormal
 * with this sigma: one expert after the other, and placed with replicas. */
typedef struct {
    double       plain;
    double       placed;
} moe_plan_skew_t;

/* -1 and a line in err where experts and spare do not divide by ranks. */
int moe_plan_skew(uint32_t experts, uint32_t spare, uint32_t ranks,
    double sigma, uint32_t trials, moe_plan_skew_t *out, moe_err_t *err);


#endif /* MOE_PLAN_CALIBRATE_H */
