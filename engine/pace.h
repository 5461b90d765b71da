/*
 * pace: how many rows of prompts a step may have beside sequences that
 * decode, so that it does not take longer than wanted.
 *
 * A step's time is taken as that of one without prompts, and so much for each
 * row of a prompt; both are means of what was seen.  Pure: times are
 * arguments.
 */

#ifndef MOE_PACE_H
#define MOE_PACE_H


#include <stdint.h>


/* rows in any case, so that prompts go on: a page's */
#define MOE_PACE_LEAST    16

/* while nothing is known of the model's speed */
#define MOE_PACE_FIRST    32


/* zeroed: nothing is known; in microseconds */
typedef struct {
    double      step;          /* without rows of prompts */
    double      row;           /* each of them */
} moe_pace_t;


/* rows for a step of at most us; UINT32_MAX where us is 0 */
uint32_t moe_pace_rows(const moe_pace_t *p, uint64_t us);

/* A step with so many rows of prompts took us; theirs too whom it waited
 * for. */
void moe_pace_seen(moe_pace_t *p, uint32_t rows, uint64_t us);


#endif /* MOE_PACE_H */
