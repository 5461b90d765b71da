#include <stddef.h>

#include "draft.h"


/* steps of a run, and of one that is only to see */
#define MOE_DRAFT_RUN    32
#define MOE_DRAFT_LOOK   8

/* of so many runs one is to see */
#define MOE_DRAFT_EVERY  8

/* lost looks before a rest, and before another one */
#define MOE_DRAFT_LOST   4
#define MOE_DRAFT_AGAIN  2

#define MOE_DRAFT_REST   8192


static moe_draft_bucket_t *
moe_draft_bucket(moe_draft_policy_t *p, uint32_t n)
{
    uint32_t  i, most;

    for (i = 0, most = 1; i < MOE_DRAFT_BUCKETS; i++, most *= 2) {
        if (n <= most) {
            return &p->buckets[i];
        }
    }

    return NULL;
}


int
moe_draft_rests(moe_draft_policy_t *p)
{
    if (p->rest > 0) {
        p->rest--;

    } else if (p->lost >= MOE_DRAFT_LOST) {
        p->lost = MOE_DRAFT_LOST - MOE_DRAFT_AGAIN;
        p->rest = MOE_DRAFT_REST;
    }

    return p->rest > 0;
}


static void
moe_draft_run(moe_draft_bucket_t *b)
{
    int  on;

    b->steps = MOE_DRAFT_LOOK;

    if (b->us[1] == 0) {
        on = 1;

    } else if (b->us[0] == 0) {
        on = 0;

    } else {
        on = b->us[1] < b->us[0];

        if (++b->runs % MOE_DRAFT_EVERY == 0) {
            on = !on;

        } else {
            b->steps = MOE_DRAFT_RUN;
        }
    }

    b->skip = (on != b->on);
    b->on = on;
    b->sum_us = 0;
    b->ids = 0;
}


int
moe_draft_wanted(moe_draft_policy_t *p, uint32_t n)
{
    moe_draft_bucket_t  *b;

    b = moe_draft_bucket(p, n);

    if (b == NULL || n == 0) {
        return 0;
    }

    if (b->steps == 0) {
        moe_draft_run(b);
    }

    return b->on;
}


void
moe_draft_seen(moe_draft_policy_t *p, uint32_t n, uint64_t us, uint32_t ids)
{
    double               us_id, *mean;
    moe_draft_bucket_t  *b;

    b = moe_draft_bucket(p, n);

    if (b == NULL || b->steps == 0) {
        return;
    }

    if (b->skip) {
        b->skip = 0;
        return;
    }

    b->sum_us += (double) us;
    b->ids += ids;

    if (--b->steps > 0 || b->ids == 0) {
        return;
    }

    us_id = b->sum_us / (double) b->ids;
    mean = &b->us[b->on];
    *mean = *mean == 0 ? us_id : *mean + (us_id - *mean) / 4;

    if (b->on && b->us[0] != 0) {
        p->lost = b->us[1] < b->us[0] ? 0 : p->lost + 1;
    }
}
