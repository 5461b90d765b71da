/*
 * draft: whether to draft ids ahead, by what it was seen to bring.
 *
 * A draft that is right saves a step; every draft costs a pass of the MTP
 * layer and a row, and with experts a row reads weights that the others do
 * not need.  What that comes to hangs on model, machine and text, so it is
 * measured, apart for 1, 2, 3 to 4, 5 to 8 and 9 to 16 sequences that decode
 * together.  With more of them nothing is drafted: steps are full of rows
 * without.
 *
 * Steps go in runs with drafts or without.  A run gives the time of one id;
 * the next run is of the kind that is faster so far, and now and then of the
 * other one.  Where drafts were slower at every look, there is a long rest, in
 * which the MTP layer does nothing at all; for what is computed meanwhile it
 * has no keys, so that its drafts are worse for a while after.  No answer hangs
 * on it.
 *
 * Pure: times are arguments.
 */

#ifndef MOE_DRAFT_H
#define MOE_DRAFT_H


#include <stdint.h>


/* sequences that decode together, at most */
#define MOE_DRAFT_BATCH    16

#define MOE_DRAFT_BUCKETS  5


typedef struct {
    double      us[2];         /* an id, without and with drafts; 0: unknown */
    double      sum_us;        /* of this run */
    uint64_t    ids;
    uint32_t    steps;         /* left of it; 0: none begun */
    uint32_t    runs;
    int         on;            /* it is one with drafts */
    int         skip;          /* its first step, which still has the drafts
                                * of the run before, or has none yet */
} moe_draft_bucket_t;

/* zeroed: nothing is known */
typedef struct {
    moe_draft_bucket_t    buckets[MOE_DRAFT_BUCKETS];
    uint32_t              lost;   /* looks in a row that found them slower */
    uint32_t              rest;   /* steps left of it */
} moe_draft_policy_t;


/* Before every step: whether the MTP layer rests in it. */
int moe_draft_rests(moe_draft_policy_t *p);


/* whether n sequences that decode should have drafts for the next step; not
 * asked while it rests */
int moe_draft_wanted(moe_draft_policy_t *p, uint32_t n);

/* A step of n sequences, none of which prefilled, took us and gave ids. */
void moe_draft_seen(moe_draft_policy_t *p, uint32_t n, uint64_t us,
    uint32_t ids);


#endif /* MOE_DRAFT_H */
