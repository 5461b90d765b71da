/*
 * fleet: a cluster of ranks that serves a load, in virtual time.
 *
 * What decides is the engine's own: each host's fair queue, admission and
 * choice of a rank (front/), each rank's scheduler with its pages and prefix
 * cache (sched/) and pace, the placement of experts and when it is redone
 * (ep/).  What computes is not there: a step takes what the capacity model
 * (plan/capacity.h) says of the rows, keys and experts that each rank has in
 * it.  Ranks step together: a layer takes as long as its slowest rank's
 * attention, the exchange, and its slowest rank's experts.
 *
 * A rank that dies ends the step under way; the others place its experts
 * plainly and go on, its jobs wait first in their host's queue with what they
 * have, and it comes back after a time.
 *
 * Deterministic: the same options give the same figures.
 */

#ifndef MOE_PLAN_FLEET_H
#define MOE_PLAN_FLEET_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "plan/capacity.h"
#include "plan/load.h"
#include "plan/routing.h"


enum { MOE_FLEET_EVENTS = 64 };


typedef struct {
    uint32_t  rank;
    double    times;            /* as slow */
} moe_fleet_slow_t;

typedef struct {
    double    at;
    uint32_t  rank;
    double    down;             /* seconds */
} moe_fleet_death_t;

typedef struct {
    moe_plan_t          plan;           /* its devices are the ranks */
    uint32_t            host;           /* ranks of one; divides them */
    uint32_t            nodes;          /* for the placement, as in serve */
    double              seconds;
    double              warm;           /* not in the totals */

    uint32_t            max_len;        /* tokens of a sequence */
    uint32_t            max_running;    /* of a rank */
    uint32_t            step_tokens;
    uint32_t            prefill_chunk;
    double              step_s;         /* as --step-time; 0: no end */
    int                 apart;          /* prompts are computed elsewhere */
    uint32_t            queue;          /* places, of a host */
    double              may;            /* seconds to wait; 0: for ever */
    double              rebalance;      /* seconds; 0: never */
    double              recover;        /* that all wait when one has died */

    uint32_t            layers;         /* with experts that are drawn; their
                                         * mean stands for the others */
    moe_routing_options_t  routing;     /* not its layers, experts, top_k */

    moe_fleet_slow_t    slow[MOE_FLEET_EVENTS];
    uint32_t            nslow;
    moe_fleet_death_t   deaths[MOE_FLEET_EVENTS];      /* by time */
    uint32_t            ndeaths;
    uint32_t            rows;           /* of the table of time */
} moe_fleet_options_t;


/* requests that came in a time, or all of them after the warming up */
typedef struct {
    double    from;
    double    to;
    uint64_t  asked;
    uint64_t  refused;          /* at once: queue full, share, too late */
    uint64_t  late;             /* waited in vain */
    uint64_t  failed;           /* ranks died under it once too often */
    uint64_t  began;            /* had a first token by the end */
    double    first50;          /* seconds until it, of those */
    double    first99;
    double    token50;          /* seconds a token after it, on average */
    double    token99;

    /* of the steps in that time */
    uint64_t  steps;
    double    step;             /* mean seconds */
    double    rate;             /* tokens a second and device */
    double    running;          /* sequences a rank, mean */
    double    waiting;          /* in all queues, mean */
    double    skew;             /* of experts: largest load over the mean */
    uint32_t  ranks;            /* up at its end */
} moe_fleet_row_t;

typedef struct {
    moe_fleet_row_t   all;
    moe_fleet_row_t  *rows;             /* [nrows] */
    uint32_t          nrows;
    double            before;           /* the first look: as experts were */
    double            after;            /* and as it placed them */
    uint32_t          placements;
    uint32_t          nodes;            /* that the last kept groups on */
    uint64_t          moved;            /* jobs of ranks that died */
    uint64_t          preempted;
    double            cached;           /* part of prompts that was */
    double            straggling;       /* part of the time of steps that the
                                         * slowest rank was waited for, beyond
                                         * a mean rank's */
    double            context;          /* mean of a sequence in a step */

    /* the closed form of as many sequences with as long a context, and with
     * the skew seen */
    double            model_step;
    double            model_rate;
} moe_fleet_result_t;


/* Fills in what is usual; plan, and what is asked, is the caller's. */
void moe_fleet_defaults(moe_fleet_options_t *o);

/*
 * Runs the load to the end of the seconds.  -1 and a line in err where the
 * model does not fit, options do not go together, or memory is short.
 */
int moe_fleet_run(const moe_fleet_options_t *o, moe_load_t *load,
    moe_fleet_result_t *out, moe_err_t *err);

void moe_fleet_free(moe_fleet_result_t *out);


#endif /* MOE_PLAN_FLEET_H */
