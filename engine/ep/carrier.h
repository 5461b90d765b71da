/*
 * carrier: what carries rows and results that lie in a device's memory.
 *
 * The ranks' agreement on a step, and which row is for which expert, are
 * messages between processes as always (ep/mpi.h over ep/link.h); rows and
 * results go another way, from device to device.  Where it is one, an
 * exchange calls
 *
 *     chosen    the experts that dispatch was given, in the process's memory
 *     send      after moe_parcels_plan(): rows to their parcels; in a step of
 *               fixed capacity they are on their way from here
 *     fetch     after moe_parcels_sort(): the others' rows into the work
 *     back      results, there and back again
 *
 * All of these may have asked the device for something that it has not done
 * yet; waiting for it is what its memory's get() does, here or later.  Each
 * returns 0, or -1 and a line in err, after which nothing goes on.
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

    /* what a library of the device's maker knows the order by */
    void *(*stream)(void *ctx);

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
    int (*chosen)(moe_carrier_t *c, const uint32_t *experts, uint32_t n,
                  uint64_t deadline, const uint32_t **list, moe_err_t *err);
    int (*send)(moe_carrier_t *c, const moe_parcels_t *p, const float *rows,
                uint64_t deadline, moe_err_t *err);
    int (*fetch)(moe_carrier_t *c, const moe_parcels_t *p, uint64_t deadline,
                 moe_expert_work_t *work, moe_err_t *err);
    int (*back)(moe_carrier_t *c, const moe_parcels_t *p, uint64_t deadline,
                moe_expert_result_t *result, moe_err_t *err);

    /* ends what is under way */
    void (*abort)(moe_carrier_t *c);
    void (*close)(moe_carrier_t *c);
} moe_carrier_ops_t;

/* a carrier's own structure begins with this */
struct moe_carrier_s {
    const moe_carrier_ops_t  *ops;
};


#endif /* MOE_CARRIER_H */
