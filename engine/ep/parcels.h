/*
 * parcels: what the ranks have for each other in a layer.
 *
 * The part of an exchange that is the same for every transport: which row
 * goes to which rank, packing it, reading what came, sorting it by expert,
 * and the way back.  A transport gives the memory that parcels are written
 * to and read from, and carries it.
 *
 *     rows      counted: nrows rows, one copy of each, and a list of n
 *               entries (row, slot of the receiver)
 *               fixed capacity: a place for every (slot, row); the list is
 *               how many rows each slot has
 *     results   one for each entry, in order of the list, or in the places
 *               that the rows had
 *
 * Nothing that another rank has written is believed: it is copied once, then
 * checked.
 */

#ifndef MOE_PARCELS_H
#define MOE_PARCELS_H


#include <stddef.h>
#include <stdint.h>

#include "ep/exchange.h"
#include "ep/spread.h"


enum {
    MOE_PARCEL_RANKS = 64,
    MOE_PARCEL_LINE = 64,
    MOE_PARCEL_FIXED_ROWS = 32      /* most of a step of fixed capacity */
};

#define MOE_PARCEL_NONE  UINT32_MAX

typedef struct {
    uint32_t  row;
    uint32_t  expert;               /* slot of the receiver */
} moe_parcel_entry_t;

/* how large a parcel for one rank can be */
typedef struct {
    size_t    row_bytes;            /* of a row */
    size_t    list_bytes;
    uint32_t  rows_cap;             /* rows on their way */
    uint32_t  results_cap;
} moe_parcel_size_t;

/* for a rank; list and rows are the transport's memory */
typedef struct {
    uint8_t  *list;                 /* list_bytes; NULL: it is no member */
    uint8_t  *rows;
    uint32_t  n;                    /* entries */
    uint32_t  nrows;
    uint32_t  last;                 /* row put last, + 1 */
} moe_parcel_t;

typedef struct moe_parcel_item_s  moe_parcel_item_t;
typedef struct moe_parcel_sent_s  moe_parcel_sent_t;

typedef struct {
    moe_exchange_shape_t        shape;
    moe_parcel_size_t           size;
    uint32_t                    nranks;
    uint32_t                    rank;       /* this one */
    moe_replica_e               replica;

    /* of the step, the transport's to fill in */
    const moe_ep_placement_t   *placement;
    uint32_t                    rows[MOE_PARCEL_RANKS]; /* of each rank */
    uint32_t                    capacity;   /* rows a slot; 0: counted */

    /* of the layer */
    moe_parcel_t                to[MOE_PARCEL_RANKS];
    uint32_t                    layer;
    uint32_t                    nrows;
    uint32_t                    nwork;
    uint32_t                    nitems[MOE_PARCEL_RANKS];
    uint32_t                    came[MOE_PARCEL_RANKS]; /* rows of a parcel */

    moe_parcel_item_t          *items[MOE_PARCEL_RANKS];
    moe_parcel_sent_t          *sent;       /* [max_rows * top_k] */
    uint32_t                   *at;         /* [max_rows * top_k] 0, 1, ... */
    uint32_t                   *count;      /* [nranks * n_experts] */
    moe_expert_rows_t          *experts;    /* [n_experts] */
    float                      *work;       /* [nranks * max_rows * top_k]
                                             * [hidden] */
    float                      *out;
    float                      *y;          /* [max_rows * top_k][hidden] */

    void                       *mem;        /* one mapping */
    size_t                      bytes;
} moe_parcels_t;


/* Of a shape and a number of ranks, the same on all of them. */
void moe_parcel_size(moe_parcel_size_t *size,
    const moe_exchange_shape_t *shape, uint32_t nranks);

/* In memory that was zeroed.  -1 and err without memory. */
int moe_parcels_init(moe_parcels_t *p, const moe_exchange_shape_t *shape,
    uint32_t nranks, uint32_t rank, moe_replica_e replica, moe_err_t *err);

void moe_parcels_free(moe_parcels_t *p);

/* Whether the placement fits this shape and the ranks. */
int moe_parcels_check(const moe_parcels_t *p,
    const moe_ep_placement_t *placement, moe_err_t *err);

/* The placement to use next, which then is *next's; on an error, and where
 * one is waiting already, it stays the caller's. */
int moe_parcels_place(const moe_parcels_t *p, moe_ep_placement_t **next,
    moe_ep_placement_t *placement, moe_err_t *err);

/* The capacity of a step whose largest rank has rows, where all ranks wish
 * for one up to fixed rows; 0: counted. */
uint32_t moe_parcels_capacity(const moe_parcels_t *p, uint32_t rows,
    uint32_t fixed);

/* Zeroes to[], which then gets its memory. */
void moe_parcels_open(moe_parcels_t *p);

/* What goes where, by experts [nrows][top_k]: to[] but for its rows. */
int moe_parcels_plan(moe_parcels_t *p, const uint32_t *experts,
    moe_err_t *err);

/* The same and the rows [nrows][hidden], into to[]. */
int moe_parcels_pack(moe_parcels_t *p, const float *rows,
    const uint32_t *experts, moe_err_t *err);

/* Nothing came from any rank yet. */
void moe_parcels_begin(moe_parcels_t *p);

/* The parcel of rank: nrows and n where it is counted.  -1 and err where it
 * is none. */
int moe_parcels_read(moe_parcels_t *p, uint32_t rank, uint32_t layer,
    uint32_t nrows, uint32_t n, const uint8_t *list, moe_err_t *err);

/* After all were read: where each row of the work is to be, by expert, then
 * rank.  Fills in work but for what fetch brings. */
int moe_parcels_sort(moe_parcels_t *p, moe_expert_work_t *work,
    moe_err_t *err);

/* The rows of rank's parcel, into the work. */
void moe_parcels_fetch(moe_parcels_t *p, uint32_t rank,
    const uint8_t *rows);

/* What was computed of them, into results. */
void moe_parcels_return(moe_parcels_t *p, uint32_t rank, uint8_t *results);

/* How many results a rank returns for what was packed for it, in rows of its
 * parcel of results. */
uint32_t moe_parcels_due(const moe_parcels_t *p, uint32_t rank);

/* How many results go back to a rank, likewise. */
uint32_t moe_parcels_owed(const moe_parcels_t *p, uint32_t rank);

/* results[rank]: what came back from each rank. */
void moe_parcels_result(moe_parcels_t *p, const uint8_t *const *results,
    moe_expert_result_t *result);

/*
 * For rows that are not in the process's memory, what goes where: from[i] is
 * the row that is put in place i.  Of parcels and of replies, rank r's begins
 * at first[r] in memory that all ranks' are in.
 */

/* After plan: places in the parcels, and rows of this rank.  Others are left
 * alone. */
void moe_parcels_pack_from(const moe_parcels_t *p, const uint32_t *first,
    uint32_t *from);

/* After sort: rows of the work, and places in rank's parcel. */
void moe_parcels_fetch_from(const moe_parcels_t *p, uint32_t rank,
    uint32_t first, uint32_t *from);

/* Places in the reply to rank, and rows of the work.  Others are left
 * alone. */
void moe_parcels_return_from(const moe_parcels_t *p, uint32_t rank,
    uint32_t first, uint32_t *from);

/* [nrows][top_k], and places in the replies. */
void moe_parcels_result_from(const moe_parcels_t *p, const uint32_t *first,
    uint32_t *from);

/* a line that says which ranks did not answer */
void moe_parcels_late(uint64_t late, const char *what, moe_err_t *err);


#endif /* MOE_PARCELS_H */
