/*
 * admission: whether a request may wait, decided from queue and rate alone.
 *
 * It may not where the queue has no place for it, and where by the measured
 * rate it would wait for most of the time that it may or longer: it is worse
 * to have waited in vain than to be told at once.
 *
 * No clock, thread or I/O.
 */

#ifndef MOE_ADMISSION_H
#define MOE_ADMISSION_H


#include "front/fair.h"


typedef enum {
    MOE_ADMIT_YES = 0,
    MOE_ADMIT_SHARE,        /* no: its key has its share of the places */
    MOE_ADMIT_SHARE_LATE,   /* no: too late, and its key has that */
    MOE_ADMIT_LATE,         /* no: it would wait too long */
    MOE_ADMIT_FULL          /* no: others have all places */
} moe_admit_e;


/*
 * For a node that has entered the queue, which has so many places; may_us:
 * how long it may wait, 0: as long as it takes.  YES: *victim, where it is
 * not NULL, is a node that waits and is to leave first.
 */
moe_admit_e moe_admission(moe_fair_t *q, const moe_rate_t *rate,
    const moe_fair_node_t *node, uint32_t places, uint64_t may_us,
    moe_fair_node_t **victim);

/* Microseconds until it would be begun; 0: it is not known. */
uint64_t moe_admission_wait(const moe_fair_t *q, const moe_rate_t *rate,
    const moe_fair_node_t *node);

/* Of what it may wait, what a request is let in with. */
uint64_t moe_admission_may(uint64_t may_us);


#endif /* MOE_ADMISSION_H */
