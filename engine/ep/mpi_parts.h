/*
 * mpi_parts: what begin and end of a step (mpi.c) and the exchange in a layer
 * (mpi_layer.c) share.  For files of ep/ alone.
 */

#ifndef MOE_MPI_PARTS_H
#define MOE_MPI_PARTS_H


#include <stddef.h>
#include <stdint.h>

#include "ep/mpi.h"
#include "ep/parcels.h"


enum { MOE_MPI_HALVES = 2 };


/* what a rank says of a step */
typedef struct {
    uint32_t  number;           /* of the step */
    uint32_t  rows;
    uint32_t  fixed_rows;
    uint32_t  placed;
    uint32_t  next;             /* placement, 0: none */
    uint32_t  moved;            /* layers of next that are in use before it
                                 * is as a whole */
    uint32_t  leaves;
    uint32_t  halves;           /* at which sizes: rank 0's counts */
} moe_mpi_step_t;

/* before a parcel of rows, which the list follows */
typedef struct {
    _Alignas(MOE_PARCEL_LINE) uint32_t  number;     /* of the exchange */
    uint32_t                            layer;
    uint32_t                            capacity;
    uint32_t                            nrows;
    uint32_t                            n;
} moe_mpi_head_t;

/* what a rank says to another, and hears */
typedef struct {
    moe_mpi_step_t  say;
    moe_mpi_step_t  said;
} moe_mpi_peer_t;

/* one other rank's parcels */
typedef struct {
    uint8_t  *rows_out;         /* head, rows, list */
    uint8_t  *rows_in;
    uint8_t  *results_out;
    uint8_t  *results_in;
    uint8_t  *list;             /* while it is written */
} moe_mpi_box_t;

/* of a step; the first one is all of it where it has no halves */
typedef struct {
    uint32_t           number;      /* of the exchange */
    moe_mpi_box_t      boxes[MOE_LINK_RANKS];
    moe_parcels_t      parcels;
    moe_expert_work_t  work;        /* without rows, once lists have come */
    unsigned           came:1;
} moe_mpi_half_t;

typedef struct {
    moe_exchange_t        base;
    const moe_mpi_t      *mpi;
    const moe_link_t     *link;
    uint64_t              others;       /* ranks */
    uint32_t              fixed_rows;

    moe_ep_placement_t   *placement;
    moe_ep_placement_t   *next;         /* once all have it */

    /* where a rank has but some of the experts, see mpi_place.c */
    uint32_t              places;       /* of a layer; 0: it has all */
    const moe_expert_memory_t
                         *experts;
    moe_ep_placement_t   *goal;         /* next leads there; NULL: it is the
                                         * goal, or there is none */
    uint32_t              moved;        /* layers of it */
    uint32_t              layer;        /* that is brought */
    unsigned              moves:1;      /* there may be a goal */
    unsigned              bringing:1;

    moe_mpi_balance_t    *balance;      /* NULL: they stay in place */
    moe_carrier_t        *carrier;      /* of rows; NULL: messages have them */
    size_t                row_bytes;    /* of a row in a message */

    moe_overlap_t         overlap;
    uint64_t              began_us;     /* the step, once all were there */
    uint64_t              ended_us;     /* its last layer so far; 0: none */

    uint32_t              steps;
    uint32_t              number;       /* of the exchange */
    unsigned              leaves:1;
    unsigned              over:1;
    unsigned              broken:1;
    uint64_t              lost;         /* ranks */

    moe_exchange_shape_t  shape;
    size_t                rows_bytes;   /* most of a parcel of rows */
    size_t                results_bytes;
    moe_mpi_peer_t        peers[MOE_LINK_RANKS];
    moe_mpi_half_t        halves[MOE_MPI_HALVES];

    void                 *mem;          /* one mapping */
    size_t                bytes;
} moe_mpi_exchange_t;


/* mpi.c */


/* Nothing goes on from here: MOE_EXCHANGE_ERROR. */
int moe_mpi_give_up(moe_mpi_exchange_t *x);

/* likewise, with what the link says */
int moe_mpi_link_error(moe_mpi_exchange_t *x, moe_err_t *err);

/* what was wrong before is wrong now */
int moe_mpi_broken(const moe_mpi_exchange_t *x, uint64_t *late,
    moe_err_t *err);

/* Until ours of this kind have gone, and theirs are here. */
int moe_mpi_await(moe_mpi_exchange_t *x, moe_link_kind_e kind,
    const char *what, uint64_t deadline, uint64_t *late, moe_err_t *err);


/* mpi_place.c */


/* How many places this rank has for experts, on a device. */
int moe_mpi_places(moe_mpi_exchange_t *x, const moe_mpi_options_t *o,
    moe_err_t *err);

/* Between steps, before this rank speaks of the next one: what is to be next,
 * if it is here. */
int moe_mpi_look_for_placement(moe_mpi_exchange_t *x, moe_err_t *err);

/* The version that next is, or leads to; 0: it is not here. */
uint32_t moe_mpi_next(const moe_mpi_exchange_t *x);

/* All ranks have next. */
void moe_mpi_take_next(moe_mpi_exchange_t *x);


/* mpi_layer.c: the calls of moe_exchange_ops_t; begin has filled in what
 * parcels know of the step */


/* The next rows of every other rank are expected. */
int moe_mpi_post_rows(moe_mpi_exchange_t *x, uint32_t half, moe_err_t *err);

int moe_mpi_dispatch_send(moe_mpi_exchange_t *x, uint32_t half,
    uint32_t layer, uint32_t nrows, const float *rows,
    const uint32_t *experts, uint64_t deadline, uint64_t *late,
    moe_err_t *err);
int moe_mpi_dispatch_wait(moe_mpi_exchange_t *x, uint32_t half,
    uint64_t deadline, moe_expert_work_t *work, uint64_t *late,
    moe_err_t *err);
int moe_mpi_combine_send(moe_mpi_exchange_t *x, uint32_t half,
    uint64_t deadline, uint64_t *late, moe_err_t *err);
int moe_mpi_combine_wait(moe_mpi_exchange_t *x, uint32_t half,
    uint64_t deadline, moe_expert_result_t *result, uint64_t *late,
    moe_err_t *err);


#endif /* MOE_MPI_PARTS_H */
