/*
 * admit: who may wait, before any work is done for it.
 *
 * What front/admission.h decides, said to the client: 429 where it is its own
 * key that has the places, 503 where others do or it would wait too long.
 * Retry-After is when those that would be before it will have been begun.
 */

#include "front/admission.h"
#include "front/front.h"


#define MOE_ADMIT_RETRY_MAX  3600


/* seconds, at least one */

static uint32_t
moe_admit_seconds(uint64_t us)
{
    uint64_t  s;

    s = (us + MOE_SECOND - 1) / MOE_SECOND;

    return s == 0 ? 1
           : s > MOE_ADMIT_RETRY_MAX ? MOE_ADMIT_RETRY_MAX : (uint32_t) s;
}


/* until it would be begun; 0: it is not known */

static uint64_t
moe_admit_wait(const moe_task_t *t)
{
    const moe_front_t  *f;

    f = t->front;

    return moe_admission_wait(&f->fair, &f->rate, &t->wait);
}


static void
moe_admit_share(moe_task_t *t, uint32_t retry_after)
{
    t->retry_after = retry_after;

    moe_task_fail(t, 429, "rate_limit_exceeded", NULL,
                  "Your requests have their share of the engine's queue; "
                  "more are taken in about %u s.", retry_after);
}


static void
moe_admit_full(moe_task_t *t, uint32_t retry_after)
{
    t->retry_after = retry_after;

    moe_task_fail(t, 503, "queue_full", NULL,
                  "The engine's queue is full; try again in about %u s.",
                  retry_after);
}


/* gives way to a higher class, or to a key that has less */

static void
moe_admit_displace(moe_task_t *t, const moe_task_t *by)
{
    uint32_t  retry_after;

    t->front->stats.displaced++;
    retry_after = moe_admit_seconds(moe_admit_wait(t));

    if (t->wait.key->class == by->wait.key->class) {
        moe_admit_share(t, retry_after);

    } else {
        moe_admit_full(t, retry_after);
    }
}


static void
moe_admit_late(moe_task_t *t, uint64_t may)
{
    uint64_t  wait;

    wait = moe_admit_wait(t);
    t->retry_after = moe_admit_seconds(wait - may);

    moe_task_fail(t, 503, "queue_timeout", NULL,
                  "The request would wait about %u s, which is too near "
                  "to what it may.", moe_admit_seconds(wait));
}


int
moe_admit(moe_task_t *t)
{
    uint64_t          may;
    moe_front_t      *f;
    moe_fair_node_t  *victim;

    f = t->front;

    if (moe_fair_enter(&f->fair, &t->wait, t->job.key, t->job.priority,
                       t->job.weight)
        == -1)
    {
        moe_task_fail(t, 500, NULL, NULL, "the engine is out of memory");
        return -1;
    }

    /* a rank has it too */
    t->job.priority = t->wait.key->class->priority;

    may = t->job.timeout_ms * 1000ull;

    switch (moe_admission(&f->fair, &f->rate, &t->wait, f->options->queue,
                          may, &victim))
    {
    case MOE_ADMIT_YES:
        break;

    case MOE_ADMIT_SHARE:
        f->stats.refused_share++;
        moe_admit_share(t, moe_admit_seconds(moe_admit_wait(t)));
        return -1;

    case MOE_ADMIT_SHARE_LATE:
        f->stats.refused_share++;
        moe_admit_share(t, moe_admit_seconds(moe_admit_wait(t)
                                             - moe_admission_may(may)));
        return -1;

    case MOE_ADMIT_LATE:
        f->stats.refused_late++;
        moe_admit_late(t, moe_admission_may(may));
        return -1;

    default:
        f->stats.refused_full++;
        moe_admit_full(t, moe_admit_seconds(moe_admit_wait(t)));
        return -1;
    }

    if (victim) {
        moe_admit_displace(moe_task_of(victim), t);
    }

    moe_fair_place(&f->fair, &t->wait);

    return 0;
}


/* text only: it waits for the thread, in the order of arrival */

int
moe_admit_text(moe_task_t *t)
{
    moe_front_t  *f;

    f = t->front;

    if (f->npreparing < f->options->queue) {
        return 0;
    }

    f->stats.refused_full++;
    moe_admit_full(t, 1);

    return -1;
}


void
moe_admit_memory(moe_task_t *t)
{
    moe_front_t  *f;

    f = t->front;

    if (!t->accepted) {
        f->stats.refused_memory++;
    }

    t->retry_after = moe_admit_seconds(moe_rate_wait(&f->rate,
                                                     f->fair.places));

    moe_task_fail(t, 503, "engine_overloaded", NULL,
                  "The engine has no room for the request.");
}


int
moe_task_grow(moe_task_t *t, uint64_t n)
{
    t->size += n;
    t->front->bytes += n;

    if (t->front->bytes <= MOE_FRONT_BYTES) {
        return 0;
    }

    moe_admit_memory(t);
    return -1;
}


void
moe_admit_timeout(moe_task_t *t)
{
    t->front->stats.queue_timeouts++;

    /* it would be as long again */

    if (t->wait.key) {
        t->retry_after = moe_admit_seconds(moe_admit_wait(t));
    }

    moe_task_fail(t, 503, "queue_timeout", NULL,
                  "The request waited too long in the queue.");
}
