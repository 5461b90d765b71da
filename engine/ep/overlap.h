/*
 * overlap: whether a step is run in two halves, one of which is computed
 * while the other's rows travel, by what that was seen to bring.
 *
 * Halves hide the way to other ranks; but each of them reads the experts'
 * weights, and rows that are computed together take less time.  What that
 * comes to hangs on model, machine and network, so it is measured, apart for
 * 2 to 3 rows of the rank that has most, 4 to 7, 8 to 15, and so on.
 *
 * A look is some pairs of steps of a size, one whole, one in halves, in turns
 * first; its result is the median of what the pairs' times say.  Then steps of
 * that size are of the kind that is faster, until the next look.
 *
 * All ranks must do the same, so one of them measures, and says in every step
 * at which sizes it wishes for halves.  Pure: times are arguments.
 */

#ifndef MOE_OVERLAP_H
#define MOE_OVERLAP_H


#include <stdint.h>


enum {
    MOE_OVERLAP_SIZES = 16,
    MOE_OVERLAP_PAIRS = 15      /* of a look */
};

typedef enum {
    MOE_OVERLAP_AUTO = 0,
    MOE_OVERLAP_OFF,
    MOE_OVERLAP_ON
} moe_overlap_e;

typedef struct {
    uint64_t  us[2];            /* of a pair, whole and in halves; 0: not
                                 * yet */
    double    gains[MOE_OVERLAP_PAIRS];
    uint32_t  npairs;           /* of this look */
    uint32_t  rest;             /* steps until the next one */
    int       on;
} moe_overlap_size_t;

/* what it came to */
typedef struct {
    uint64_t  halved;           /* steps so far; the caller's */
    uint32_t  sizes;            /* at which steps are in halves, as a set: bit
                                 * i is 2^i to 2^(i + 1) - 1 rows */
    uint32_t  looks;            /* that are done */
    uint32_t  rows;             /* the last one's size: rows to 2 * rows - 1 */
    double    gain;             /* its result: time whole over time in
                                 * halves; 0: none yet */
} moe_overlap_figures_t;

/* zeroed: nothing is known */
typedef struct {
    moe_overlap_e          mode;
    moe_overlap_size_t     sizes[MOE_OVERLAP_SIZES];
    moe_overlap_figures_t  figures;
} moe_overlap_t;


/* sizes, as a set, at which the next step is to be in halves */
uint32_t moe_overlap_wish(const moe_overlap_t *o);

/* What is known now; its halved is what the caller has made of it. */
moe_overlap_figures_t moe_overlap_figures(const moe_overlap_t *o);

/* Whether a step of this wish whose largest rank has most rows is in halves. */
int moe_overlap_halves(uint32_t wish, uint32_t most);

/* A step whose largest rank had most rows took us, from when all had agreed to
 * begin it to its last rows. */
void moe_overlap_seen(moe_overlap_t *o, uint32_t most, int halves,
    uint64_t us);


#endif /* MOE_OVERLAP_H */
