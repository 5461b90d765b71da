
/*
 * Copyright (C) the ngx_moe authors
 */


/*
 * The jobs in a lane.  A slot is a job's place in it; it is free again after
 * the job's END, whoever still listens, and a job that is given up keeps its
 * slot until then.
 */


#include "ngx_http_moe.h"


#define NGX_HTTP_MOE_SLOTS_MIN  64


static ngx_int_t ngx_http_moe_slot_get(ngx_http_moe_lane_t *lane,
    ngx_http_moe_job_t *job);
static void ngx_http_moe_slot_send(ngx_http_moe_lane_t *lane, uint32_t i);


ngx_int_t
ngx_http_moe_lane_submit(ngx_http_moe_lane_t *lane, ngx_http_moe_job_t *job,
    void *record, size_t len)
{
    int  rc;

    if (lane->state != NGX_HTTP_MOE_LANE_UP || lane->failed) {
        return NGX_ERROR;
    }

    if (len > lane->hello.max_job
        || len > lane->lane.own_size / 2 - sizeof(moe_frame_t) - 8)
    {
        return NGX_DECLINED;
    }

    rc = ngx_http_moe_slot_get(lane, job);

    if (rc != NGX_OK) {
        return rc;
    }

    rc = moe_lane_put(&lane->lane, MOE_FRAME_JOB, job->slot,
                      lane->slots[job->slot].gen, record, len, NULL, 0);

    if (rc != MOE_JOBQ_OK) {
        ngx_http_moe_slot_put(lane, job->slot);

        if (rc == MOE_JOBQ_AGAIN) {
            return NGX_BUSY;
        }

        ngx_http_moe_lane_fail(lane, lane->lane.why);
        return NGX_ERROR;
    }

    job->lane = lane;
    job->live = 1;

    ngx_post_event(&lane->turn, &ngx_posted_events);

    return NGX_OK;
}


void
ngx_http_moe_lane_cancel(ngx_http_moe_job_t *job)
{
    if (!job->live) {
        return;
    }

    job->lane->slots[job->slot].cancel = 1;
    ngx_http_moe_slot_send(job->lane, job->slot);
}


void
ngx_http_moe_lane_credit(ngx_http_moe_job_t *job, size_t bytes,
    size_t threshold)
{
    ngx_http_moe_slot_t  *slot;

    if (!job->live) {
        return;
    }

    slot = &job->lane->slots[job->slot];
    slot->credit += bytes;

    if (slot->credit && slot->credit >= threshold) {
        ngx_http_moe_slot_send(job->lane, job->slot);
    }
}


void
ngx_http_moe_lane_detach(ngx_http_moe_job_t *job)
{
    if (job->waiting) {
        ngx_queue_remove(&job->queue);
        job->waiting = 0;
        job->patient = 0;
    }

    if (job->live) {
        job->lane->slots[job->slot].job = NULL;
        job->live = 0;
    }

    if (job->is_dirty) {
        ngx_queue_remove(&job->dirty);
        job->is_dirty = 0;
    }

    job->lane = NULL;
}


/* what a slot has to say; for want of room it is said later */

static void
ngx_http_moe_slot_send(ngx_http_moe_lane_t *lane, uint32_t i)
{
    int                   rc;
    ngx_http_moe_slot_t  *slot;

    slot = &lane->slots[i];
    rc = MOE_JOBQ_OK;

    if (slot->cancel) {
        rc = moe_put_cancel(&lane->lane, i, slot->gen);

        if (rc == MOE_JOBQ_OK) {
            slot->cancel = 0;
            slot->credit = 0;
        }

    } else if (slot->credit) {
        rc = moe_put_credit(&lane->lane, i, slot->gen, slot->credit);

        if (rc == MOE_JOBQ_OK) {
            slot->credit = 0;
        }
    }

    if (rc == MOE_JOBQ_AGAIN) {
        lane->retry = 1;

    } else if (rc == MOE_JOBQ_ERROR) {
        ngx_http_moe_lane_fail(lane, lane->lane.why);
        return;
    }

    ngx_post_event(&lane->turn, &ngx_posted_events);
}


void
ngx_http_moe_slots_again(ngx_http_moe_lane_t *lane)
{
    uint32_t              i;
    ngx_http_moe_slot_t  *slot;

    lane->retry = 0;

    for (i = 0; i < lane->nslots && !lane->retry && !lane->failed; i++) {
        slot = &lane->slots[i];

        if (slot->used && (slot->cancel || slot->credit)) {
            ngx_http_moe_slot_send(lane, i);
        }
    }
}


static ngx_int_t
ngx_http_moe_slot_get(ngx_http_moe_lane_t *lane, ngx_http_moe_job_t *job)
{
    uint32_t              i, n, max;
    ngx_http_moe_slot_t  *slot;

    if (lane->free == (uint32_t) -1) {

        max = ngx_min(lane->hello.slots, MOE_SLOTS);
        n = lane->nslots ? lane->nslots * 2 : NGX_HTTP_MOE_SLOTS_MIN;

        if (n > max) {
            n = max;
        }

        if (n <= lane->nslots) {
            return NGX_BUSY;
        }

        slot = ngx_alloc(n * sizeof(ngx_http_moe_slot_t), ngx_cycle->log);
        if (slot == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(slot, n * sizeof(ngx_http_moe_slot_t));

        if (lane->nslots) {
            ngx_memcpy(slot, lane->slots,
                       lane->nslots * sizeof(ngx_http_moe_slot_t));
            ngx_free(lane->slots);
        }

        for (i = lane->nslots; i < n; i++) {
            slot[i].next = (i + 1 < n) ? i + 1 : (uint32_t) -1;
        }

        lane->free = lane->nslots;
        lane->slots = slot;
        lane->nslots = n;
    }

    i = lane->free;
    slot = &lane->slots[i];

    lane->free = slot->next;
    lane->njobs++;

    slot->job = job;
    slot->gen++;
    slot->credit = 0;
    slot->cancel = 0;
    slot->used = 1;

    job->slot = i;

    return NGX_OK;
}


void
ngx_http_moe_slot_put(ngx_http_moe_lane_t *lane, uint32_t i)
{
    lane->slots[i].job = NULL;
    lane->slots[i].used = 0;
    lane->slots[i].cancel = 0;
    lane->slots[i].credit = 0;
    lane->slots[i].next = lane->free;

    lane->free = i;
    lane->njobs--;
}
