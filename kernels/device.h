/*
 * device: what a backend with a device of its own has beside moe_kernels_t:
 * for models whose experts are on several of them, and operations that are
 * recorded.
 *
 * Everything here but bring() is in order with the operations of the table;
 * what other devices send and are sent may be beside them, and then depart()
 * and await() say what comes first.
 */

#ifndef MOE_KERNELS_DEVICE_H
#define MOE_KERNELS_DEVICE_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/kernels.h"


enum { MOE_DEVICE_MARKS = 2 };


/*
 * n rows of width that travel: float32 on one side; on the other, packed, that
 * or bfloat16 where bf16 is set, stride bytes from row to row.  out[i] =
 * x[from[i]].
 */
typedef struct {
    const void      *x;
    void            *out;
    const uint32_t  *from;          /* [n]; pack: MOE_NO_ROW leaves out[i]
                                     * as it is */
    size_t           stride;
    uint32_t         n;
    uint32_t         width;
    int              bf16;
} moe_pack_t;

typedef struct moe_recording_s  moe_recording_t;

typedef struct {
    /* how many devices this process sees; and one of them by its number, as
     * moe_memory_t's open gives the first */
    uint32_t (*count)(void);
    moe_device_t *(*open)(uint32_t number, moe_err_t *err);

    /* From now on get() of moe_memory_t calls alive while it waits, with how
     * long it has: -1 and a line, and it fails so, once the device has nothing
     * left to do.  NULL: no longer. */
    void (*watch)(moe_device_t *d,
                  int (*alive)(void *data, uint64_t waited_us,
                               moe_err_t *err),
                  void *data);

    /* what the maker's libraries know the order of operations by, and that of
     * messages beside them */
    void *(*stream)(moe_device_t *d);
    void *(*messages)(moe_device_t *d);

    /* Messages from now on begin after all operations so far. */
    void (*depart)(moe_device_t *d);

    /* Mark i is all messages so far; operations from now on begin after what
     * it was last. */
    void (*mark)(moe_device_t *d, uint32_t i);
    void (*await)(moe_device_t *d, uint32_t i);

    /* Takes the time when all operations so far are done: of a beginning, or
     * of an end; and what lay between, in us; 0 where it is not known yet. */
    void (*clock)(moe_device_t *d, int ends);
    uint64_t (*took)(moe_device_t *d);

    /* As put() of moe_memory_t, but at once, for operations that were asked for
     * before and do not touch it go on meanwhile; waits until it is there.  One
     * thread at a time calls it, any one. */
    int (*bring)(moe_device_t *d, void *to, const void *from, size_t bytes,
                 moe_err_t *err);

    /*
     * Operations of the table that are asked for between record() and
     * recorded() are not done but kept, with their arguments: memory must
     * stay where it is.  play() asks for all of them at once, as often as is
     * wanted, and takes no memory.  Nothing else is asked for between the two.  -1 or
     * NULL, and a line in err, where it cannot be done.
     */
    int (*record)(moe_device_t *d, moe_err_t *err);
    moe_recording_t *(*recorded)(moe_device_t *d, moe_err_t *err);
    void (*play)(moe_device_t *d, moe_recording_t *r);
    void (*forget)(moe_device_t *d, moe_recording_t *r);

    /* as moe_row_format_pack() and moe_row_format_unpack() do it */
    void (*pack)(const moe_kctx_t *c, const moe_pack_t *op);
    void (*unpack)(const moe_kctx_t *c, const moe_pack_t *op);
} moe_device_ops_t;


/* NULL where k computes in the process's memory */
const moe_device_ops_t *moe_kernels_device(const moe_kernels_t *k);

/* the backends', where they were built */
const moe_device_ops_t *moe_device_cuda(void);


#endif /* MOE_KERNELS_DEVICE_H */
