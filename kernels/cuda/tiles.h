/*
 * tiles: the work list of products with many matrices.  Each part is cut into
 * tiles of its rows and columns, parts follow on each other, and a block of
 * threads finds its tile by its number.  Pure, for host and device.
 */

#ifndef MOE_TILES_H
#define MOE_TILES_H


#include <stdint.h>

#include "kernels/cuda/host.h"


enum { MOE_TILE_PARTS = 16 };       /* of one list */

typedef struct {
    uint32_t  nparts;
    uint32_t  end[MOE_TILE_PARTS];  /* tiles of this part and those before */
    uint32_t  cols[MOE_TILE_PARTS]; /* tiles a row of tiles */
} moe_tiles_t;

typedef struct {
    uint32_t  part;
    uint32_t  row;                  /* of the tile, not of the matrix */
    uint32_t  col;
} moe_tile_t;


/* nrows may be 0, then the part has no tiles; at most MOE_TILE_PARTS parts */
static inline void
moe_tiles_add(moe_tiles_t *t, uint32_t nrows, uint32_t n, uint32_t tile_rows,
    uint32_t tile_cols)
{
    uint32_t  rows, cols, before;

    rows = (nrows + tile_rows - 1) / tile_rows;
    cols = (n + tile_cols - 1) / tile_cols;
    before = t->nparts ? t->end[t->nparts - 1] : 0;

    t->cols[t->nparts] = cols;
    t->end[t->nparts++] = before + rows * cols;
}


static inline uint32_t
moe_tiles_count(const moe_tiles_t *t)
{
    return t->nparts ? t->end[t->nparts - 1] : 0;
}


/* tile i of moe_tiles_count(): columns first, so that blocks that run
 * together have rows in common */
MOE_HOST_DEVICE static inline moe_tile_t
moe_tiles_find(const moe_tiles_t *t, uint32_t i)
{
    uint32_t    lo, hi, mid;
    moe_tile_t  at;

    lo = 0;
    hi = t->nparts - 1;

    while (lo < hi) {
        mid = (lo + hi) / 2;
        if (i < t->end[mid]) {
            hi = mid;
        } else {
            lo = mid + 1;
        }
    }

    i -= lo ? t->end[lo - 1] : 0;

    at.part = lo;
    at.row = i / t->cols[lo];
    at.col = i % t->cols[lo];

    return at;
}


#endif /* MOE_TILES_H */
