/*
 * fleet_parts: what the parts of a simulated fleet know of each other.
 *
 *     fleet.c        hosts, ranks and jobs; virtual time
 *     fleet_step.c   where experts are, and what a step takes
 *     fleet_stats.c  figures
 */

#ifndef MOE_PLAN_FLEET_PARTS_H
#define MOE_PLAN_FLEET_PARTS_H


#include "plan/fleet.h"


/* fleet_step.c */


typedef struct moe_fleet_step_s  moe_fleet_step_t;

/* what one rank has in a step */
typedef struct {
    moe_plan_rows_t  rows;
    double           logits;
    double           slow;          /* times */
    int              up;
} moe_fleet_part_t;

typedef struct {
    double           seconds;
    double           waited;        /* of them, for the slowest rank */
    double           skew;          /* mean of layers: most rows of a rank's
                                     * experts over the mean */
} moe_fleet_time_t;

moe_fleet_step_t *moe_fleet_step_create(const moe_fleet_options_t *o,
    moe_err_t *err);
void moe_fleet_step_free(moe_fleet_step_t *s);

/* Another membership, parts[ranks]: experts are placed plainly over those
 * that are up.  -1 and a line in err without memory. */
int moe_fleet_step_members(moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    moe_err_t *err);

/* Between steps: the next look at the balance goes on. */
int moe_fleet_step_turn(moe_fleet_step_t *s, double now, moe_err_t *err);

/* Rows choose experts, and the step takes so long. */
void moe_fleet_step_time(moe_fleet_step_t *s, const moe_fleet_part_t *parts,
    double now, moe_fleet_time_t *time);

/* before, after, placements, nodes */
void moe_fleet_step_figures(const moe_fleet_step_t *s,
    moe_fleet_result_t *out);


/* fleet_stats.c */


typedef enum {
    MOE_FLEET_SERVED,
    MOE_FLEET_REFUSED,
    MOE_FLEET_LATE,
    MOE_FLEET_FAILED
} moe_fleet_end_e;

typedef struct {
    double           at;            /* arrival */
    double           first;         /* when its first token came; below 0:
                                     * it did not */
    double           last;
    uint32_t         made;
    moe_fleet_end_e  end;
} moe_fleet_record_t;

typedef struct moe_fleet_stats_s  moe_fleet_stats_t;

moe_fleet_stats_t *moe_fleet_stats_create(const moe_fleet_options_t *o,
    moe_err_t *err);
void moe_fleet_stats_free(moe_fleet_stats_t *s);

/* A request that has ended, or is under way at the end of all. */
int moe_fleet_stats_add(moe_fleet_stats_t *s, const moe_fleet_record_t *r,
    moe_err_t *err);

/* A step that ended at now: tokens that it made, sequences that ran in all
 * ranks, with so many tokens of context, requests that waited. */
void moe_fleet_stats_step(moe_fleet_stats_t *s, double now,
    const moe_fleet_time_t *t, double tokens, double running, double context,
    double waiting, uint32_t ranks);

/* Fills in rows, all, straggling, context and the closed form's figures. */
int moe_fleet_stats_result(const moe_fleet_stats_t *s,
    moe_fleet_result_t *out, moe_err_t *err);


#endif /* MOE_PLAN_FLEET_PARTS_H */
