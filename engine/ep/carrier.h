/*
 * carrier: what carries rows and results that lie in a device's memory.
 *
 * The ranks' agreement on a step, and which row is for which expert, are
 * messages between processes as always (ep/mpi.h over ep/link.h); rows and
 * results go another way, from device to device.  Where it is one, an
 * exchange calls
 *
 *     begin     a step of one part (half 0), or of two halves
 *     chosen    the experts that dispatch was given, in the process's memory
 *     send      after moe_parcels_plan(): rows to their parcels; with fixed
 *               capacity they are on their way from here
 *     come      after moe_parcels_sort(): counted rows are on their way from
 *               here
 *     fetch     the others' rows into the work
 *     back      results are on their way
 *     result    they are there
 *
 * All of these may have asked the device for something that it has not done
 * yet; waiting for it is what its memory's get() does, here or later.  Each
 * returns 0, or -1 and a line in err, after which nothing goes on.
 *
 * What is on its way is so in one order on all ranks: in each layer rows of
 * half 0, rows of half 1, results of half 0, results of half 1.
 */

#ifndef MOE_CARRIER_H
#define MOE_CARRIER_H


#include "ep/exchange.h"
#include "ep/parcels.h"


/* memory of a device: copies and operations happen in the order in which they
 * were asked for, and only get() waits */
typedef struct {
    void   *ctx;

    /* zeroed; NULL and err */
    void *(*take)(void *ctx, size_t bytes, moe_err_t *err);
    void (*give)(void *ctx, void *p);
    void (*put)(void *ctx, void *to, const void *from, size_t bytes);
    int (*get)(void *ctx, void *to, const void *from, size_t bytes,
               moe_err_t *err);

    /* out[i] = x[from[i]] in the row format, rows of width and n of them,
     * each stride bytes; MOE_PARCEL_NONE: out[i] is left alone */
    void (*pack)(void *ctx, moe_row_format_e format, const float *x,
                 const uint32_t *from, uint32_t n, uint32_t width, void *out,
                 size_t stride);

    /* out[i] = x[from[i]], which is in the row format */
    void (*unpack)(void *ctx, moe_row_format_e format, const void *x,
                   size_t stride, const uint32_t *from, uint32_t n,
                   uint32_t width, float *out);

    /* what a library of the device's maker knows the order by, and one beside
     * it, as in kernels/device.h; marks are one a half */
    void *(*stream)(void *ctx);
    void *(*messages)(void *ctx);
    void (*depart)(void *ctx);
    void (*mark)(void *ctx, uint32_t half);
    void (*await)(void *ctx, uint32_t half);
    void (*clock)(void *ctx, int ends);
    uint64_t (*took)(void *ctx);

    /* While get() waits for what was asked for before, it calls alive now and
     * then with how long it has waited; -1 and err: it need not wait any
     * longer, and get() fails so.  NULL: it just waits. */
    void (*watch)(void *ctx,
                  int (*alive)(void *data, uint64_t waited_us,
                               moe_err_t *err),
                  void *data);
} moe_rows_memory_t;


typedef struct moe_carrier_s  moe_carrier_t;

typedef struct {
    void (*begin)(moe_carrier_t *c, int halves);
    int (*chosen)(moe_carrier_t *c, const uint32_t *experts, uint32_t n,
                  uint64_t deadline, const uint32_t **list, moe_err_t *err);
    int (*send)(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
                const float *rows, uint64_t deadline, moe_err_t *err);
    int (*come)(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
                uint64_t deadline, moe_err_t *err);
    int (*fetch)(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
                 uint64_t deadline, moe_expert_work_t *work, moe_err_t *err);
    int (*back)(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
                uint64_t deadline, moe_err_t *err);
    int (*result)(moe_carrier_t *c, uint32_t half, const moe_parcels_t *p,
                  uint64_t deadline, moe_expert_result_t *result,
                  moe_err_t *err);

    /* us that the device has taken from begin of the last step to its last
     * results; 0: it is not known, for they are not there yet */
    uint64_t (*took)(moe_carrier_t *c);

    /* ends what is under way */
    void (*abort)(moe_carrier_t *c);
    void (*close)(moe_carrier_t *c);
} moe_carrier_ops_t;

/* a carrier's own structure begins with this */
struct moe_carrier_s {
    const moe_carrier_ops_t  *ops;
};


#endif /* MOE_CARRIER_H */
