/*
 * permute: where rows go when they are sorted by expert, and the tiles that
 * those of an expert are cut into.  Pure, for host and device.
 */

#ifndef MOE_PERMUTE_H
#define MOE_PERMUTE_H


#include <stdint.h>
#include <string.h>

#include "kernels/cuda/host.h"
#include "kernels/kernels.h"


/* heights of tiles: of few rows an expert, and of many */
enum {
    MOE_TILE_FEW = 8,
    MOE_TILE_MANY = 32
};


MOE_HOST_DEVICE static inline uint32_t
moe_tiles_of(uint32_t rows, uint32_t height)
{
    return rows / height + (rows % height != 0);
}


/*
 * Places of the slots [n] among the rows sorted by expert, those of one expert
 * in order of slot: at[i] is slot i's, first[e] .. first[e + 1] - 1 are expert
 * e's.  first has n_experts + 1 places.  Where there is no such expert, at[i]
 * is MOE_NO_ROW.  Returns how many slots have a place.
 */
static inline uint32_t
moe_permutation(const uint32_t *experts, uint32_t n, uint32_t n_experts,
    uint32_t *first, uint32_t *at)
{
    uint32_t  i, e, sum, rows;

    memset(first, 0, ((size_t) n_experts + 1) * sizeof(uint32_t));

    for (i = 0; i < n; i++) {
        if (experts[i] < n_experts) {
            first[experts[i]]++;
        }
    }

    sum = 0;

    for (e = 0; e < n_experts; e++) {
        rows = first[e];
        first[e] = sum;
        sum += rows;
    }

    /* first[e] runs on to where the next expert begins ... */
    for (i = 0; i < n; i++) {
        at[i] = experts[i] < n_experts ? first[experts[i]]++ : MOE_NO_ROW;
    }

    /* ... and so each is one expert late */
    for (e = n_experts; e > 0; e--) {
        first[e] = first[e - 1];
    }

    first[0] = 0;

    return sum;
}


/* tiles [n_experts + 1]: how many of a height there are before each expert's,
 * and in all */
static inline void
moe_tiles_before(const uint32_t *first, uint32_t n_experts, uint32_t height,
    uint32_t *tiles)
{
    uint32_t  e;

    tiles[0] = 0;

    for (e = 0; e < n_experts; e++) {
        tiles[e + 1] = tiles[e] + moe_tiles_of(first[e + 1] - first[e],
                                               height);
    }
}


/* how many of e[0 .. i - 1] are e[i] */
MOE_HOST_DEVICE static inline uint32_t
moe_equal_before(const uint32_t *e, uint32_t i)
{
    uint32_t  j, n;

    n = 0;

    for (j = 0; j < i; j++) {
        n += e[j] == e[i];
    }

    return n;
}


/* whether experts have many rows each, of so many in all */
MOE_HOST_DEVICE static inline int
moe_rows_are_many(uint32_t slots, uint32_t n_experts)
{
    return slots / n_experts >= (uint32_t) MOE_TILE_FEW;
}


/* the most tiles that so many rows have, however they are shared out */
MOE_HOST_DEVICE static inline uint32_t
moe_tiles_most(uint32_t slots, uint32_t n_experts, uint32_t height)
{
    return slots / height + (slots < n_experts ? slots : n_experts);
}


/* of rows sorted by expert, *row .. *row + *nrows - 1 are tile t's, all of
 * expert *e; 0: there are not so many tiles */
MOE_HOST_DEVICE static inline int
moe_tile_rows(const uint32_t *first, const uint32_t *tiles,
    uint32_t n_experts, uint32_t height, uint32_t t, uint32_t *e,
    uint32_t *row, uint32_t *nrows)
{
    uint32_t  lo, hi, mid, left;

    if (t >= tiles[n_experts]) {
        return 0;
    }

    /* the last whose tiles begin at t or before */
    lo = 0;
    hi = n_experts - 1;

    while (lo < hi) {
        mid = (lo + hi + 1) / 2;
        if (tiles[mid] <= t) {
            lo = mid;
        } else {
            hi = mid - 1;
        }
    }

    *e = lo;
    *row = first[lo] + (t - tiles[lo]) * height;
    left = first[lo + 1] - *row;
    *nrows = left < height ? left : height;

    return 1;
}


#endif /* MOE_PERMUTE_H */
