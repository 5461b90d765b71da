/*
 * choose: which rank gets a sequence.
 *
 * Prompts with the same beginning go to the same rank, whose cache may have
 * it, as long as that rank has no more than a quarter above its share of all
 * that runs; then to the next one.
 *
 * No clock, thread or I/O.
 */

#ifndef MOE_CHOOSE_H
#define MOE_CHOOSE_H


#include <stddef.h>
#include <stdint.h>


typedef struct {
    uint32_t  busy;         /* sequences that it has */
    unsigned  up:1;
    unsigned  takes:1;      /* one more of this priority */
} moe_choose_t;


/* Of the first ids of a prompt, ids[n]. */
uint32_t moe_choose_hash(const uint32_t *ids, size_t n);

/*
 * Whether a rank with busy sequences has a place in its batch of max for one
 * more.  Where the batch is full it takes one for each that it runs of a lower
 * priority, and no more in all than twice the batch.  above: of busy, those
 * whose priority is not lower.
 */
int moe_choose_takes(uint32_t busy, uint32_t above, uint32_t max);

/* The rank of ranks[n], or n where none takes it. */
uint32_t moe_choose(const moe_choose_t *ranks, uint32_t n, uint32_t hash);


#endif /* MOE_CHOOSE_H */
