/*
 * shm_parts: the segment's layout, and waiting.  For files of ep/ alone.
 */

#ifndef MOE_SHM_PARTS_H
#define MOE_SHM_PARTS_H


#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "ep/parcels.h"
#include "ep/shm.h"


enum {
    MOE_SHM_LINE = 64,
    MOE_SHM_TURNS = 2
};

/* what is waited for */
typedef enum {
    MOE_SHM_BEGIN,
    MOE_SHM_ROWS,
    MOE_SHM_RESULTS
} moe_shm_stage_e;


/* epoch << 32 | members << 16 | lost */
#define moe_shm_epoch(state)    ((uint32_t) ((state) >> 32))
#define moe_shm_members(state)  ((uint32_t) ((state) >> 16) & 0xffff)
#define moe_shm_gone(state)     ((uint32_t) (state) & 0xffff)


typedef struct {
    _Alignas(64) _Atomic uint64_t  state;
} moe_shm_head_t;

/* written by its rank, but for the bell, which others ring */
typedef struct {
    _Alignas(64) _Atomic uint32_t  bell;
    _Atomic uint32_t               waits;       /* for these ranks */
    _Atomic uint32_t               dozes;       /* on the bell */
    _Atomic uint32_t               sleeps;      /* on its descriptor */
} moe_shm_bell_t;

/* what a rank says of a step */
typedef struct {
    _Alignas(64) _Atomic uint64_t  tag;
    _Atomic uint32_t               rows;
    _Atomic uint32_t               fixed_rows;
    _Atomic uint32_t               placed;
    _Atomic uint32_t               next;        /* placement, 0: none */
} moe_shm_step_t;

/* of the rows, or of the results, that one rank has for another */
typedef struct {
    _Alignas(64) _Atomic uint64_t  tag;
    uint32_t                       layer;
    uint32_t                       nrows;
    uint32_t                       n;           /* entries */
} moe_shm_slot_t;

/* the placement that the front wants; expert[n_layers][nranks * n_local]
 * follows */
typedef struct {
    _Alignas(64) _Atomic uint32_t  seq;         /* odd while it is written */
    _Atomic uint32_t               epoch;
    _Atomic uint32_t               version;
    _Atomic uint32_t               n_local;
} moe_shm_board_t;


struct moe_shm_s {
    moe_exchange_shape_t  shape;
    uint32_t              nranks;
    int                   fds[MOE_SHM_RANKS];

    uint8_t              *base;
    size_t                bytes;

    moe_parcel_size_t     size;         /* of what is in a slot */
    uint32_t              n_local_cap;  /* slots of a rank in a placement */

    size_t                bells;        /* offsets */
    size_t                steps;
    size_t                slots;
    size_t                board;
    size_t                loads;
    size_t                payload;
    size_t                pair_bytes;
};


moe_shm_head_t *moe_shm_head(const moe_shm_t *shm);
moe_shm_bell_t *moe_shm_bell(const moe_shm_t *shm, uint32_t rank);
moe_shm_step_t *moe_shm_step(const moe_shm_t *shm, uint32_t rank,
    uint32_t turn);

/* stage is ROWS or RESULTS */
moe_shm_slot_t *moe_shm_slot(const moe_shm_t *shm, moe_shm_stage_e stage,
    uint32_t from, uint32_t to, uint32_t turn);

/* list_bytes (ROWS alone), then rows of row_bytes */
uint8_t *moe_shm_payload(const moe_shm_t *shm, moe_shm_stage_e stage,
    uint32_t from, uint32_t to, uint32_t turn);

/* after a tag was stored: wakes the rank if it waits */
void moe_shm_ring(const moe_shm_t *shm, uint32_t rank);

/*
 * Until every rank in ranks has stored tag, in what it has for rank.  tag's
 * epoch is the caller's.  MOE_EXCHANGE_OK, or MOE_EXCHANGE_LATE with the set.
 */
int moe_shm_wait(const moe_shm_t *shm, moe_shm_stage_e stage, uint32_t rank,
    uint32_t ranks, uint64_t tag, uint64_t deadline, uint64_t *late);


#endif /* MOE_SHM_PARTS_H */
