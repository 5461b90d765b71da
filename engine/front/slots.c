/*
 * slots: what of a rank's slots is whose, and what is to be said to the rank.
 */

#include "front/front.h"


static void
moe_slot_list(moe_proc_t *p, uint32_t slot)
{
    if (!p->slots[slot].listed) {
        p->slots[slot].listed = 1;
        p->todo[p->ntodo++] = slot;
    }
}


void
moe_slot_release(moe_proc_t *p, uint32_t slot)
{
    moe_slot_t  *s;

    s = &p->slots[slot];

    if (s->choice || s->probe) {
        p->running--;
    }

    s->choice = NULL;
    s->probe = NULL;
    s->busy = 0;
    s->cancel = 0;
    s->credit = 0;

    p->busy--;
    p->free[p->nfree++] = slot;
}


uint32_t
moe_slot_take(moe_proc_t *p)
{
    uint32_t     slot;
    moe_slot_t  *s;

    slot = p->free[--p->nfree];
    s = &p->slots[slot];

    s->gen = ++p->gen;
    s->busy = 1;
    s->cancel = 0;
    s->credit = 0;

    if (p->busy++ == 0) {
        p->sign_us = p->front->now;
    }

    p->running++;

    return slot;
}


void
moe_slot_forget_probe(moe_task_t *t)
{
    uint32_t      i, k;
    moe_proc_t   *p;
    moe_front_t  *f;

    f = t->front;

    for (i = 0; t->probing && i < f->nranks; i++) {
        p = &f->ranks[i];

        for (k = 0; k < p->nslots; k++) {
            if (p->slots[k].probe == t) {
                p->slots[k].probe = NULL;
                p->running--;
                t->probing = 0;
                break;
            }
        }
    }
}


void
moe_slot_cancel(moe_choice_t *c)
{
    if (c->rank && !c->rank->slots[c->slot].cancel) {
        c->rank->slots[c->slot].cancel = 1;
        moe_slot_list(c->rank, c->slot);
    }
}


void
moe_slot_leave(moe_choice_t *c)
{
    moe_proc_t  *p;

    p = c->rank;

    if (p == NULL) {
        return;
    }

    moe_slot_cancel(c);

    p->slots[c->slot].choice = NULL;
    p->running--;
    c->rank = NULL;
}


void
moe_slot_credit(moe_choice_t *c, uint32_t tokens)
{
    moe_slot_t  *s;

    if (c->rank == NULL) {
        return;
    }

    c->owed += tokens;

    if (c->owed >= MOE_FRONT_REFILL) {
        s = &c->rank->slots[c->slot];
        s->credit += c->owed;
        c->owed = 0;
        moe_slot_list(c->rank, c->slot);
    }
}


/* 1: no room for the rest of it */

static int
moe_slot_control(moe_proc_t *p, uint32_t slot)
{
    moe_slot_t  *s;

    s = &p->slots[slot];

    if (s->busy && s->cancel == 1) {
        if (moe_put_cancel(&p->lane, slot, s->gen) != MOE_JOBQ_OK) {
            return 1;
        }

        s->cancel = 2;
    }

    if (s->busy && s->credit) {
        if (moe_put_credit(&p->lane, slot, s->gen,
                           s->credit * MOE_TOKEN_CREDIT)
            != MOE_JOBQ_OK)
        {
            return 1;
        }

        s->credit = 0;
    }

    s->listed = 0;

    return 0;
}


int
moe_slots_flush(moe_proc_t *p)
{
    uint32_t  i, n;

    for (i = 0; i < p->ntodo; i++) {
        if (moe_slot_control(p, p->todo[i])) {
            break;
        }
    }

    for (n = 0; i < p->ntodo; i++) {
        p->todo[n++] = p->todo[i];
    }

    p->ntodo = n;

    return moe_lane_flush(&p->lane);
}
