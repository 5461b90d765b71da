/*
 * dispatch: which rank gets which choice, and what does not wait any longer.
 */

#include <string.h>

#include "front/choose.h"
#include "front/front.h"


/* how long a rank may take to confirm that a choice has stopped */
#define MOE_DISPATCH_CANCEL_US  (30 * MOE_SECOND)


/* whether a job of this priority would be in its batch */

static int
moe_proc_takes(const moe_proc_t *p, int32_t priority)
{
    uint32_t             i, n, max;
    const moe_choice_t  *c;

    max = p->front->options->rank.max_running;
    n = 0;

    if (p->state != MOE_PROC_READY || p->nfree == 0) {
        return 0;
    }

    for (i = 0; i < p->nslots && p->busy >= max; i++) {
        c = p->slots[i].choice;
        n += (c && c->task->job.priority >= priority);
    }

    return moe_choose_takes(p->busy, n, max);
}


/* A rank that takes one more with this prompt, or NULL. */

static moe_proc_t *
moe_ranks_choose(moe_front_t *f, const moe_ids_t *prompt, int32_t priority)
{
    uint32_t      i;
    moe_choose_t  ranks[MOE_RANKS_MAX];

    /* experts are spread over all ranks at first */

    if (f->shm && !f->ready) {
        return NULL;
    }

    for (i = 0; i < f->nranks; i++) {
        ranks[i].up = f->ranks[i].state == MOE_PROC_READY;
        ranks[i].busy = f->ranks[i].busy;
        ranks[i].takes = moe_proc_takes(&f->ranks[i], priority);
    }

    i = moe_choose(ranks, f->nranks, moe_choose_hash(prompt->ids, prompt->n));

    return i < f->nranks ? &f->ranks[i] : NULL;
}


static void
moe_slot_job(moe_choice_t *c, moe_job_t *j)
{
    moe_task_t  *t;

    t = c->task;

    *j = t->job;

    j->kind = MOE_JOB_IDS;
    j->n = 1;
    j->choice = c->index;
    j->flags &= MOE_JOB_IGNORE_EOS|MOE_JOB_LOGPROBS|MOE_JOB_PROMPT_LOGPROBS;
    j->max_tokens = moe_choice_max_tokens(c);
    j->credit = MOE_FRONT_AHEAD * MOE_TOKEN_CREDIT;
    j->timeout_ms = 0;

    memset(&j->model, 0, sizeof(moe_str_t));
    memset(&j->messages, 0, sizeof(moe_str_t));
    memset(&j->tools, 0, sizeof(moe_str_t));
    memset(&j->kwargs, 0, sizeof(moe_str_t));

    j->nstops = 0;
    j->stop_ids = t->stop_ids;
    j->nstop_ids = t->nstop_ids;

    j->nprompts = 1;
    j->prompts[0].is_ids = 1;
    j->prompts[0].n = t->prompts[c->prompt].n;
    j->prompts[0].data = t->prompts[c->prompt].ids;

    j->nconts = 0;

    if (c->out.ids.n) {
        j->nconts = 1;
        j->conts[0].choice = c->index;
        j->conts[0].ntext = 0;
        j->conts[0].nids = c->out.ids.n;
        j->conts[0].ids = c->out.ids.ids;
    }
}


/* 0: it runs, 1: no room now, -1: it cannot (the task has failed) */

static int
moe_slot_submit(moe_proc_t *p, moe_choice_t *c)
{
    int          rc;
    size_t       size;
    uint32_t     slot;
    moe_job_t    j;
    moe_task_t  *t;

    t = c->task;

    moe_slot_job(c, &j);

    size = moe_job_size(&j);

    if (size == 0 || size + sizeof(moe_frame_t) > p->lane.own_size / 2) {
        moe_task_fail(t, 400, NULL, NULL, "The request is too large.");
        return -1;
    }

    slot = moe_slot_take(p);

    rc = moe_put_job(&p->lane, slot, p->slots[slot].gen, &j);

    if (rc != MOE_JOBQ_OK) {
        p->running--;
        moe_slot_release(p, slot);

        if (rc == MOE_JOBQ_AGAIN) {
            return 1;
        }

        moe_task_fail(t, 500, NULL, NULL, "%s", p->lane.why);
        return -1;
    }

    p->slots[slot].choice = c;

    c->state = MOE_CHOICE_RUNNING;
    c->rank = p;
    c->slot = slot;
    c->owed = 0;
    c->echo_skip = j.nconts ? 0 : c->echo_seen;

    return 0;
}


/* probes take no place of a sequence's */

void
moe_slot_probe(moe_front_t *f, moe_task_t *t)
{
    uint32_t     i, slot;
    moe_job_t    j;
    moe_proc_t  *p;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[f->probe_turn++ % f->nranks];

        if (p->state == MOE_PROC_READY && p->nfree) {
            break;
        }
    }

    if (i == f->nranks) {
        moe_task_fail(t, 503, "engine_failed", NULL, "No rank is up.");
        return;
    }

    memset(&j, 0, sizeof(moe_job_t));
    j.kind = MOE_JOB_PROBE;
    j.n = 1;
    j.credit = MOE_TOKEN_CREDIT;

    slot = moe_slot_take(p);

    if (moe_put_job(&p->lane, slot, p->slots[slot].gen, &j) != MOE_JOBQ_OK) {
        p->running--;
        moe_slot_release(p, slot);
        moe_task_fail(t, 503, NULL, NULL, "The rank takes no jobs now.");
        return;
    }

    p->slots[slot].probe = t;
    t->probing = 1;
}


static moe_choice_t *
moe_task_waiting(moe_task_t *t)
{
    uint32_t  i;

    for (i = 0; i < t->nchoices; i++) {
        if (t->choices[i].state == MOE_CHOICE_WAITING) {
            return &t->choices[i];
        }
    }

    return NULL;
}


/* one more choice goes to a rank; 1: none takes it now */

static int
moe_task_dispatch(moe_task_t *t, moe_choice_t *c)
{
    int           rc;
    moe_ids_t    *prompt;
    moe_proc_t   *p;
    moe_front_t  *f;

    f = t->front;
    prompt = &t->prompts[c->prompt];

    p = moe_ranks_choose(f, prompt, t->job.priority);

    if (p == NULL) {
        return 1;
    }

    rc = moe_slot_submit(p, c);

    if (rc == 1) {
        return 1;
    }

    f->dirty = 1;

    /* what a rank's death costs is not the key's to pay */

    if (rc == 0 && c->tries == 0) {
        moe_fair_charge(&f->fair, &t->wait,
                        (int64_t) prompt->n * MOE_FAIR_INPUT);
    }

    return 0;
}


void
moe_tasks_dispatch(moe_front_t *f)
{
    uint32_t          begun;
    moe_task_t       *t;
    moe_choice_t     *c;
    moe_fair_node_t  *node;

    begun = 0;

    while ((node = moe_fair_first(&f->fair)) != NULL) {

        t = moe_task_of(node);
        c = moe_task_waiting(t);

        if (c && moe_task_dispatch(t, c)) {
            break;
        }

        if (t->wait.waits && moe_task_waiting(t) == NULL) {
            moe_fair_remove(&f->fair, &t->wait);
            begun++;
        }
    }

    moe_rate_turn(&f->rate, f->now, begun, f->fair.n != 0);
}


static void
moe_task_give_up(moe_task_t *t)
{
    uint32_t       i;
    moe_choice_t  *c;

    for (i = 0; i < t->nchoices; i++) {
        c = &t->choices[i];

        if (c->state == MOE_CHOICE_RUNNING) {
            moe_slot_leave(c);
            moe_choice_done(c, c->out.ids.n);
        }
    }
}


void
moe_tasks_tick(moe_front_t *f)
{
    moe_task_t  *t, *next;

    f->stats.parked = 0;

    for (t = f->tasks; t; t = next) {
        next = t->next;

        if (t->deadline_us && !t->started && !t->status
            && f->now > t->deadline_us)
        {
            moe_slot_forget_probe(t);
            moe_admit_timeout(t);
        }

        if (t->cancel_us && f->now - t->cancel_us > MOE_DISPATCH_CANCEL_US) {
            moe_task_give_up(t);
        }

        if (t->parked_us) {
            f->stats.parked++;

            if (f->now - t->parked_us > f->options->park_s * MOE_SECOND) {
                moe_task_cancel(t);
            }
        }
    }
}
