/*
 * pool: a few threads that share the tasks of one operation.
 *
 * The caller works along and takes every task that no helper has taken, so a
 * helper that the system does not run costs nothing but its help.  Helpers
 * spin for some microseconds after a run, then sleep on a futex.  While other
 * processes keep taking the helpers' processors from them, the caller works
 * alone.
 */

#ifndef MOE_POOL_H
#define MOE_POOL_H


#include <stdint.h>

#include "base/err.h"


typedef struct moe_pool_s  moe_pool_t;

/* task: 0 .. ntasks - 1, in no order; thread: 0 .. threads - 1, 0 is the
 * caller */
typedef void (*moe_task_pt)(void *ctx, uint32_t task, uint32_t thread);


/* threads counts the caller; helpers start now.  NULL on failure. */
moe_pool_t *moe_pool_create(uint32_t threads, moe_err_t *err);

void moe_pool_destroy(moe_pool_t *pool);

uint32_t moe_pool_threads(const moe_pool_t *pool);

/*
 * Runs fn for every task and returns when all are done.  One run at a time,
 * from one thread.
 */
void moe_pool_run(moe_pool_t *pool, uint32_t ntasks, moe_task_pt fn,
    void *ctx);

/* From now on the caller calls fn after each of its tasks; NULL: nothing. */
void moe_pool_between(moe_pool_t *pool, void (*fn)(void *ctx), void *ctx);


#endif /* MOE_POOL_H */
