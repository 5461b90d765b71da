/*
 * simulate: the options and the output of moe-engine plan --simulate.
 */

#ifndef MOE_PLAN_SIMULATE_H
#define MOE_PLAN_SIMULATE_H


#include <getopt.h>

#include "plan/fleet.h"


/* getopt_long()'s values of its options begin here */
#define MOE_SIMULATE_OPTION  512


typedef struct {
    int                  asked;         /* --simulate */
    moe_fleet_options_t  fleet;
    moe_load_options_t   load;
    const char          *path;          /* of a recorded load */
    double               context;       /* that was given; 0: by the load */
    double               running;       /* 0: what the closed form runs */
    int                  rate;          /* was given */
    int                  think;
} moe_simulate_t;


/* its options, up to one without a name; and their help */
extern const struct option  moe_simulate_longs[];
extern const char           moe_simulate_help[];

void moe_simulate_defaults(moe_simulate_t *s);

/* One of them.  -1 and a line in err. */
int moe_simulate_option(moe_simulate_t *s, int c, const char *name,
    const char *arg, moe_err_t *err);

/*
 * Simulates plan, whose devices are the ranks: tpot is the time a token that
 * batches are made for.  Prints a table, or JSON.  -1 and a line in err.
 */
int moe_simulate(moe_simulate_t *s, const moe_plan_t *plan, double tpot,
    double prompt, int json, moe_err_t *err);


#endif /* MOE_PLAN_SIMULATE_H */
