/*
 * nap: how long who waits for another process sleeps between two looks.  For
 * some tens of microseconds it only gives the processor away, then naps become
 * as long as a 16th of the wait, and no longer than 5 ms, which is what the
 * first step after a long silence may take longer.
 */

#ifndef MOE_NAP_H
#define MOE_NAP_H


#include <stdint.h>


/* microseconds of CLOCK_MONOTONIC */
uint64_t moe_now_us(void);

/* after so long a wait */
uint64_t moe_nap_us(uint64_t waited);

/* 0: only gives the processor away */
void moe_nap(uint64_t us);


#endif /* MOE_NAP_H */
