/*
 * permute: where rows go when they are sorted by expert.  Pure, for host and
 * device.
 */

#ifndef MOE_PERMUTE_H
#define MOE_PERMUTE_H


#include <stdint.h>
#include <string.h>


/*
 * Places of the slots [n] among the rows sorted by expert, those of one expert
 * in order of slot: at[i] is slot i's, first[e] .. first[e + 1] - 1 are expert
 * e's.  first has n_experts + 1 places.  -1 where there is no such expert:
 * then nothing is to be used.
 */
static inline int
moe_permutation(const uint32_t *experts, uint32_t n, uint32_t n_experts,
    uint32_t *first, uint32_t *at)
{
    uint32_t  i, e, sum, rows;

    memset(first, 0, ((size_t) n_experts + 1) * sizeof(uint32_t));

    for (i = 0; i < n; i++) {
        if (experts[i] >= n_experts) {
            return -1;
        }
        first[experts[i]]++;
    }

    sum = 0;

    for (e = 0; e < n_experts; e++) {
        rows = first[e];
        first[e] = sum;
        sum += rows;
    }

    /* first[e] runs on to where the next expert begins ... */
    for (i = 0; i < n; i++) {
        at[i] = first[experts[i]]++;
    }

    /* ... and so each is one expert late */
    for (e = n_experts; e > 0; e--) {
        first[e] = first[e - 1];
    }

    first[0] = 0;

    return 0;
}


#endif /* MOE_PERMUTE_H */
