#include <stdatomic.h>

#include "front/front.h"


#define MOE_STATS_EVERY_US  (MOE_SECOND / 10)


static void
moe_front_sum(moe_front_t *f)
{
    uint32_t            i, said, progress;
    moe_stats_t        *s;
    const moe_proc_t   *p;
    const moe_stats_t  *r;

    s = &f->stats;

    s->ranks = f->nranks;
    s->ranks_up = 0;
    s->running = 0;
    s->steps = f->lost_steps;
    s->draft_tokens = f->lost_drafts;
    s->draft_accepted = f->lost_accepted;
    s->halved = 0;
    s->halves_sizes = 0;
    s->kv_pages = 0;
    s->kv_pages_used = 0;
    s->kv_pages_cached = 0;
    progress = 1000;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];
        r = &p->stats;

        s->ranks_up += (p->state == MOE_PROC_READY);
        s->running += p->running;
        s->steps += r->steps;
        s->draft_tokens += r->draft_tokens;
        s->draft_accepted += r->draft_accepted;
        s->kv_pages += r->kv_pages;
        s->kv_pages_used += r->kv_pages_used;
        s->kv_pages_cached += r->kv_pages_cached;

        s->halved += r->halved;
        s->halves_sizes |= r->halves_sizes;

        if (r->halves_gain) {
            s->halves_rows = r->halves_rows;
            s->halves_gain = r->halves_gain;
        }

        /* launched ranks have a balance of their own, in the first */
        if (r->placements) {
            s->placements = r->placements;
            s->skew_before = r->skew_before;
            s->skew = r->skew;
        }

        if (p->state != MOE_PROC_READY) {
            said = atomic_load_explicit(p->progress, memory_order_relaxed);
            progress = said < progress ? said : progress;
        }
    }

    s->progress = f->ready ? 1000 : progress;
    s->waiting = f->fair.n;
    s->lanes = f->nworkers;
    s->updated_us = f->now;

    s->state = f->drain_us ? MOE_STATE_DRAINING
               : f->failed ? MOE_STATE_FAILED
               : f->ready ? MOE_STATE_READY : MOE_STATE_LOADING;
}


void
moe_front_stats_first(moe_front_t *f, moe_lane_t *lane)
{
    moe_front_sum(f);
    moe_lane_stats_write(lane, &f->stats);
    moe_experts_first(f, lane);
}


/* at most ten times a second where something changed, else once: a reader
 * sees by the time that the engine lives */

void
moe_front_stats(moe_front_t *f)
{
    uint32_t       i;
    uint64_t       age;
    moe_worker_t  *w;

    age = f->now - f->stats_us;

    if (age < (f->dirty ? MOE_STATS_EVERY_US : MOE_SECOND)) {
        return;
    }

    moe_front_sum(f);

    for (i = 0; i < f->nworkers; i++) {
        w = f->workers[i];

        if (w->state == MOE_WORKER_OPEN) {
            moe_lane_stats_write(&w->lane, &f->stats);
        }
    }

    f->stats_us = f->now;
    f->dirty = 0;
}
