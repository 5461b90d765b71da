/*
 * exchange: the boundary between a row's home rank and its experts.
 *
 * Once a step:   begin
 * Once a layer:  dispatch, the caller computes the experts, combine
 *
 * begin says how many rows this rank has, dispatch how many of them are left
 * in this layer (the last one needs only those whose logits are wanted).
 * dispatch takes the rows [nrows][hidden] with the experts chosen for each
 * [nrows][top_k] and gives the rows of all ranks that this rank's experts have
 * to compute, sorted by expert.  combine returns what was computed and gives
 * one result row for each (row, slot) of this rank; the caller weights and
 * adds them in order of slot.  The row format is applied to every row that
 * crosses the boundary, in both directions, also where home and expert are
 * one process; so the number of ranks changes no answer.
 *
 * A transport that carries rows while the caller computes may have a step in
 * two halves, which is the same for all ranks and said by begin.  The first
 * half has (n + 1) / 2 of a rank's n rows, the second the rest.  Each goes
 * through a layer by itself, and both may be under way at once:
 *
 *     dispatch_send, dispatch_wait, the caller computes the experts,
 *     combine_send, combine_wait
 *
 * All ranks make these calls in the same order.  dispatch and combine are the
 * two calls for half 0 in one; a step in halves has none of them.
 *
 * Each call has a deadline (milliseconds of CLOCK_MONOTONIC) and returns
 * MOE_EXCHANGE_LATE with the set of ranks that did not answer.
 *
 * Ranks step together.  One that has nothing to compute dozes until it is
 * asked, and then joins the others' step with no rows.
 */

#ifndef MOE_EXCHANGE_H
#define MOE_EXCHANGE_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


enum {
    MOE_EXCHANGE_OK = 0,
    MOE_EXCHANGE_ERROR = -1,
    MOE_EXCHANGE_LATE = -2
};

typedef enum {
    MOE_ROWS_F32,
    MOE_ROWS_BF16
} moe_row_format_e;


/* rows first .. first + nrows - 1 are for one expert */
typedef struct {
    uint32_t  expert;
    uint32_t  first;
    uint32_t  nrows;
} moe_expert_rows_t;

/* memory of the exchange, good until combine of the same half */
typedef struct {
    uint32_t                  nrows;
    const float              *rows;     /* [nrows][hidden] */
    float                    *out;      /* [nrows][hidden], to be filled in */
    uint32_t                  nexperts;
    const moe_expert_rows_t  *experts;  /* [nexperts] with rows; first
                                         * ascends, an expert with two
                                         * replicas here is in it twice */

    /* where rows are in a device's memory and it alone knows whose they are:
     * that, as kernels have it (moe_sort_t), and none are listed; else NULL */
    const uint32_t           *first;
    const uint32_t           *tiles;
} moe_expert_work_t;

/* memory of the exchange, good until the next dispatch of the same half */
typedef struct {
    const float     *y;                 /* rows of hidden */
    const uint32_t  *at;                /* [nrows][top_k]: row of y */
} moe_expert_result_t;


/*
 * Weights in a device's memory, of a rank that has places there for some
 * experts of each layer alone.  What others are to be there instead is brought
 * beside the steps, of one layer at a time.  Calls come from the thread that
 * computes, and do not wait.  -1 and err: the device has failed.
 */
typedef struct {
    void  *ctx;

    /* Begins to bring those of experts[n] that the layer's places lack; NONE
     * (ep/spread.h) and one that comes twice are passed over. */
    int (*bring)(void *ctx, uint32_t layer, const uint32_t *experts,
                 uint32_t n, moe_err_t *err);

    /* 1: they are there; 0: not yet */
    int (*brought)(void *ctx, moe_err_t *err);

    /* Between steps, once they are: from now on those of bring are the
     * layer's, and no others. */
    void (*take)(void *ctx);
} moe_expert_memory_t;


typedef struct moe_exchange_s  moe_exchange_t;

typedef struct {
    int (*begin)(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
                 uint64_t *late, moe_err_t *err);
    int (*dispatch)(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
                    const float *rows, const uint32_t *experts,
                    uint64_t deadline, moe_expert_work_t *work,
                    uint64_t *late, moe_err_t *err);
    int (*combine)(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
                   moe_expert_result_t *result, uint64_t *late,
                   moe_err_t *err);
    void (*close)(moe_exchange_t *x);

    /* All NULL where a rank may be asked for any expert.  How many of a layer
     * it has at a time, at most; whether the expert is one of them now; whether
     * that changes, and then who brings others: memory is the caller's, there
     * before the first step, and outlives the last one. */
    uint32_t (*places)(const moe_exchange_t *x);
    int (*holds)(const moe_exchange_t *x, uint32_t layer, uint32_t expert);
    int (*moves)(const moe_exchange_t *x);
    void (*remember)(moe_exchange_t *x, const moe_expert_memory_t *memory);

    /* for steps in halves; all NULL where a transport has none.  half is 0 or
     * 1, and everything else as above */
    int (*dispatch_send)(moe_exchange_t *x, uint32_t half, uint32_t layer,
                         uint32_t nrows, const float *rows,
                         const uint32_t *experts, uint64_t deadline,
                         uint64_t *late, moe_err_t *err);
    int (*dispatch_wait)(moe_exchange_t *x, uint32_t half, uint64_t deadline,
                         moe_expert_work_t *work, uint64_t *late,
                         moe_err_t *err);
    int (*combine_send)(moe_exchange_t *x, uint32_t half, uint64_t deadline,
                        uint64_t *late, moe_err_t *err);
    int (*combine_wait)(moe_exchange_t *x, uint32_t half, uint64_t deadline,
                        moe_expert_result_t *result, uint64_t *late,
                        moe_err_t *err);

    /* moves on what is under way: now and then while the caller computes;
     * what goes wrong there is said by the next wait */
    void (*move)(moe_exchange_t *x);

    /* both NULL where there is no other rank */

    /* whether another rank has begun a step that this one is to join */
    int (*asked)(moe_exchange_t *x);

    /* sleep of a rank without work, until it is asked or fd is readable or
     * hangs up: 0, or -1 after timeout ms (-1: none) */
    int (*doze)(moe_exchange_t *x, int fd, int timeout);
} moe_exchange_ops_t;

/* a transport's own structure begins with this */
struct moe_exchange_s {
    const moe_exchange_ops_t  *ops;
    moe_row_format_e           format;
    uint32_t                   nranks;  /* most that rows may come from */
    uint32_t                   most_rows;   /* of a rank, in the step that
                                             * has begun */
    unsigned                   halves:1;    /* that step is in two halves */
};

typedef struct {
    uint32_t          max_rows;     /* of this rank in a step */
    uint32_t          hidden;
    uint32_t          n_layers;     /* dense ones are counted too */
    uint32_t          n_experts;
    uint32_t          top_k;
    moe_row_format_e  format;
    uint32_t          n_groups;     /* of experts, that a router chooses
                                     * first; 0 or 1: none */
} moe_exchange_shape_t;


/* One rank that has all experts: no transport.  NULL on failure. */
moe_exchange_t *moe_exchange_local(const moe_exchange_shape_t *shape,
    moe_err_t *err);

/* what deadlines are compared with */
uint64_t moe_exchange_now(void);

/* "f32", "bf16": part of the fingerprint */
const char *moe_row_format_name(moe_row_format_e format);

/* values as the format keeps them: to[n] = from[n] */
void moe_row_format_apply(moe_row_format_e format, float *to,
    const float *from, uint32_t n);

/* bytes of n values as they cross the boundary; packing and unpacking them is
 * what applying the format gives */
size_t moe_row_format_bytes(moe_row_format_e format, uint32_t n);
void moe_row_format_pack(moe_row_format_e format, void *to,
    const float *from, uint32_t n);
void moe_row_format_unpack(moe_row_format_e format, float *to,
    const void *from, uint32_t n);


#endif /* MOE_EXCHANGE_H */
