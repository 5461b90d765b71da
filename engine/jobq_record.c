/*
 * jobq_record: the records that a lane carries: jobs and events, written and
 * parsed.
 *
 * A job record is moe_job_wire_t and then sections, each a moe_section_t
 * and its bytes padded to eight.  Everything parsed is untrusted: a length is
 * checked against what is left before it is used, and a pointer is left only
 * to bytes inside the record.
 */

#include <stdlib.h>
#include <string.h>

#include "jobq.h"


#define moe_align4(n)        (((size_t) (n) + 3) & ~(size_t) 3)


typedef struct {
    uint8_t    request_id[16];
    uint8_t    key[32];
    uint64_t   seed;
    uint32_t   kind;
    uint32_t   flags;
    uint32_t   set;
    uint32_t   n;
    uint32_t   choice;
    uint32_t   max_tokens;
    uint32_t   min_tokens;
    uint32_t   max_prompt;
    uint32_t   top_logprobs;
    uint32_t   credit;
    uint32_t   timeout_ms;
    int32_t    priority;
    int32_t    top_k;
    float      temperature;
    float      top_p;
    float      min_p;
    float      presence;
    float      frequency;
    float      repetition;
    uint32_t   weight;
} moe_job_wire_t;


typedef struct {
    uint32_t   tag;
    uint32_t   len;
} moe_section_t;


typedef enum {
    MOE_SECTION_MODEL = 1,
    MOE_SECTION_MESSAGES,
    MOE_SECTION_TOOLS,
    MOE_SECTION_KWARGS,
    MOE_SECTION_SALT,
    MOE_SECTION_TEXT,
    MOE_SECTION_IDS,
    MOE_SECTION_STOP,
    MOE_SECTION_STOP_IDS,
    MOE_SECTION_BIAS,
    MOE_SECTION_CONT
} moe_section_e;


typedef struct {
    uint32_t   choice;
    uint32_t   ntext;
} moe_cont_wire_t;


_Static_assert(sizeof(moe_job_wire_t) == 136, "job record");
_Static_assert(sizeof(moe_bias_t) == 8, "bias record");


static const char  moe_job_short[] = "job record is cut short";


/* writes a section made of two pieces */

static uint8_t *
moe_section(uint8_t *p, uint32_t tag, const void *a, size_t na,
    const void *b, size_t nb)
{
    moe_section_t  s;

    s.tag = tag;
    s.len = na + nb;

    memcpy(p, &s, sizeof(moe_section_t));
    p += sizeof(moe_section_t);

    if (na) {
        memcpy(p, a, na);
    }

    if (nb) {
        memcpy(p + na, b, nb);
    }

    memset(p + na + nb, 0, moe_align8(na + nb) - na - nb);

    return p + moe_align8(na + nb);
}


static uint8_t *
moe_section_str(uint8_t *p, uint32_t tag, const moe_str_t *s)
{
    return s->len ? moe_section(p, tag, s->data, s->len, NULL, 0) : p;
}


static size_t
moe_section_size(size_t n)
{
    return sizeof(moe_section_t) + moe_align8(n);
}


size_t
moe_job_size(const moe_job_t *job)
{
    size_t    i, size;
    unsigned  k;

    const moe_str_t  *str[] = { &job->model, &job->messages, &job->tools,
                                &job->kwargs, &job->salt };

    if (job->nprompts > MOE_CHOICES_MAX || job->nstops > MOE_STOPS_MAX
        || job->nconts > MOE_CHOICES_MAX)
    {
        return 0;
    }

    size = sizeof(moe_job_wire_t);

    for (k = 0; k < sizeof(str) / sizeof(str[0]); k++) {
        size += str[k]->len ? moe_section_size(str[k]->len) : 0;
    }

    for (i = 0; i < job->nprompts; i++) {
        size += moe_section_size((size_t) job->prompts[i].n
                                 * (job->prompts[i].is_ids ? 4 : 1));
    }

    for (i = 0; i < job->nstops; i++) {
        size += moe_section_size(job->stops[i].len);
    }

    if (job->nstop_ids) {
        size += moe_section_size((size_t) job->nstop_ids * 4);
    }

    if (job->nbias) {
        size += moe_section_size((size_t) job->nbias * sizeof(moe_bias_t));
    }

    for (i = 0; i < job->nconts; i++) {
        size += moe_section_size(sizeof(moe_cont_wire_t)
                                 + (size_t) job->conts[i].nids * 4);
    }

    return size;
}


void
moe_job_write(const moe_job_t *job, void *buf)
{
    size_t           i;
    uint8_t         *p;
    moe_job_wire_t   w;
    moe_cont_wire_t  c;

    memset(&w, 0, sizeof(moe_job_wire_t));

    memcpy(w.request_id, job->request_id, sizeof(w.request_id));
    memcpy(w.key, job->key, sizeof(w.key));
    w.seed = job->seed;
    w.kind = job->kind;
    w.flags = job->flags;
    w.set = job->set;
    w.n = job->n;
    w.choice = job->choice;
    w.max_tokens = job->max_tokens;
    w.min_tokens = job->min_tokens;
    w.max_prompt = job->max_prompt;
    w.top_logprobs = job->top_logprobs;
    w.credit = job->credit;
    w.timeout_ms = job->timeout_ms;
    w.priority = job->priority;
    w.top_k = job->top_k;
    w.temperature = job->temperature;
    w.top_p = job->top_p;
    w.min_p = job->min_p;
    w.presence = job->presence;
    w.frequency = job->frequency;
    w.repetition = job->repetition;
    w.weight = job->weight;

    p = buf;
    memcpy(p, &w, sizeof(moe_job_wire_t));
    p += sizeof(moe_job_wire_t);

    p = moe_section_str(p, MOE_SECTION_MODEL, &job->model);
    p = moe_section_str(p, MOE_SECTION_MESSAGES, &job->messages);
    p = moe_section_str(p, MOE_SECTION_TOOLS, &job->tools);
    p = moe_section_str(p, MOE_SECTION_KWARGS, &job->kwargs);
    p = moe_section_str(p, MOE_SECTION_SALT, &job->salt);

    for (i = 0; i < job->nprompts; i++) {
        if (job->prompts[i].is_ids) {
            p = moe_section(p, MOE_SECTION_IDS, job->prompts[i].data,
                            (size_t) job->prompts[i].n * 4, NULL, 0);

        } else {
            p = moe_section(p, MOE_SECTION_TEXT, job->prompts[i].data,
                            job->prompts[i].n, NULL, 0);
        }
    }

    for (i = 0; i < job->nstops; i++) {
        p = moe_section(p, MOE_SECTION_STOP, job->stops[i].data,
                        job->stops[i].len, NULL, 0);
    }

    if (job->nstop_ids) {
        p = moe_section(p, MOE_SECTION_STOP_IDS, job->stop_ids,
                        (size_t) job->nstop_ids * 4, NULL, 0);
    }

    if (job->nbias) {
        p = moe_section(p, MOE_SECTION_BIAS, job->bias,
                        (size_t) job->nbias * sizeof(moe_bias_t), NULL, 0);
    }

    for (i = 0; i < job->nconts; i++) {
        c.choice = job->conts[i].choice;
        c.ntext = job->conts[i].ntext;

        p = moe_section(p, MOE_SECTION_CONT, &c, sizeof(moe_cont_wire_t),
                        job->conts[i].ids, (size_t) job->conts[i].nids * 4);
    }
}


static int
moe_job_once(moe_str_t *s, const void *data, uint32_t len, const char **why)
{
    if (s->data) {
        *why = "job record has a section twice";
        return MOE_JOBQ_ERROR;
    }

    s->data = data;
    s->len = len;

    return MOE_JOBQ_OK;
}


static int
moe_job_prompt(moe_job_t *job, int is_ids, const void *data, uint32_t len,
    const char **why)
{
    moe_prompt_t  *prompt;

    if (job->nprompts == MOE_CHOICES_MAX || (is_ids && len % 4)) {
        *why = "job record has too many prompts or half an id";
        return MOE_JOBQ_ERROR;
    }

    prompt = &job->prompts[job->nprompts++];
    prompt->is_ids = is_ids;
    prompt->n = is_ids ? len / 4 : len;
    prompt->data = data;

    return MOE_JOBQ_OK;
}


static int
moe_job_cont(moe_job_t *job, const uint8_t *data, uint32_t len,
    const char **why)
{
    moe_cont_t       *cont;
    moe_cont_wire_t   w;

    if (job->nconts == MOE_CHOICES_MAX || len < sizeof(moe_cont_wire_t)
        || len % 4)
    {
        *why = "job record has a broken continuation";
        return MOE_JOBQ_ERROR;
    }

    memcpy(&w, data, sizeof(moe_cont_wire_t));

    cont = &job->conts[job->nconts++];
    cont->choice = w.choice;
    cont->ntext = w.ntext;
    cont->nids = (len - sizeof(moe_cont_wire_t)) / 4;
    cont->ids = (const uint32_t *) (const void *)
                (data + sizeof(moe_cont_wire_t));

    return MOE_JOBQ_OK;
}


static int
moe_job_section(moe_job_t *job, uint32_t tag, const uint8_t *data,
    uint32_t len, const char **why)
{
    switch (tag) {

    case MOE_SECTION_MODEL:
        return moe_job_once(&job->model, data, len, why);

    case MOE_SECTION_MESSAGES:
        return moe_job_once(&job->messages, data, len, why);

    case MOE_SECTION_TOOLS:
        return moe_job_once(&job->tools, data, len, why);

    case MOE_SECTION_KWARGS:
        return moe_job_once(&job->kwargs, data, len, why);

    case MOE_SECTION_SALT:
        return moe_job_once(&job->salt, data, len, why);

    case MOE_SECTION_TEXT:
        return moe_job_prompt(job, 0, data, len, why);

    case MOE_SECTION_IDS:
        return moe_job_prompt(job, 1, data, len, why);

    case MOE_SECTION_STOP:
        if (job->nstops == MOE_STOPS_MAX || len == 0) {
            *why = "job record has too many or empty stop strings";
            return MOE_JOBQ_ERROR;
        }

        job->stops[job->nstops].data = (const char *) data;
        job->stops[job->nstops++].len = len;
        return MOE_JOBQ_OK;

    case MOE_SECTION_STOP_IDS:
        if (job->stop_ids || len % 4) {
            *why = "job record has broken stop ids";
            return MOE_JOBQ_ERROR;
        }

        job->stop_ids = (const uint32_t *) (const void *) data;
        job->nstop_ids = len / 4;
        return MOE_JOBQ_OK;

    case MOE_SECTION_BIAS:
        if (job->bias || len % sizeof(moe_bias_t)) {
            *why = "job record has a broken logit bias";
            return MOE_JOBQ_ERROR;
        }

        job->bias = (const moe_bias_t *) (const void *) data;
        job->nbias = len / sizeof(moe_bias_t);
        return MOE_JOBQ_OK;

    case MOE_SECTION_CONT:
        return moe_job_cont(job, data, len, why);
    }

    *why = "job record has an unknown section";
    return MOE_JOBQ_ERROR;
}


static void
moe_job_fixed(moe_job_t *job, const moe_job_wire_t *w)
{
    memcpy(job->request_id, w->request_id, sizeof(w->request_id));
    memcpy(job->key, w->key, sizeof(w->key));
    job->seed = w->seed;
    job->kind = w->kind;
    job->flags = w->flags;
    job->set = w->set;
    job->n = w->n;
    job->choice = w->choice;
    job->max_tokens = w->max_tokens;
    job->min_tokens = w->min_tokens;
    job->max_prompt = w->max_prompt;
    job->top_logprobs = w->top_logprobs;
    job->credit = w->credit;
    job->timeout_ms = w->timeout_ms;
    job->priority = w->priority;
    job->top_k = w->top_k;
    job->temperature = w->temperature;
    job->top_p = w->top_p;
    job->min_p = w->min_p;
    job->presence = w->presence;
    job->frequency = w->frequency;
    job->repetition = w->repetition;
    job->weight = w->weight;
}


static int
moe_job_check(const moe_job_t *job, const char **why)
{
    if (job->kind < MOE_JOB_CHAT || job->kind > MOE_JOB_IDS) {
        *why = "job record is of an unknown kind";
        return MOE_JOBQ_ERROR;
    }

    if (job->n == 0 || job->n > MOE_CHOICES_MAX
        || (job->nprompts ? job->nprompts : 1) * job->n > MOE_CHOICES_MAX)
    {
        *why = "job record asks for too many choices";
        return MOE_JOBQ_ERROR;
    }

    if (job->top_logprobs > MOE_TOP_LOGPROBS) {
        *why = "job record asks for too many log-probabilities";
        return MOE_JOBQ_ERROR;
    }

    return MOE_JOBQ_OK;
}


int
moe_job_read(moe_job_t *job, const void *buf, size_t len, const char **why)
{
    moe_section_t    s;
    const uint8_t   *p, *end;
    moe_job_wire_t   w;

    memset(job, 0, sizeof(moe_job_t));

    if (len < sizeof(moe_job_wire_t)) {
        *why = moe_job_short;
        return MOE_JOBQ_ERROR;
    }

    memcpy(&w, buf, sizeof(moe_job_wire_t));
    moe_job_fixed(job, &w);

    p = (const uint8_t *) buf + sizeof(moe_job_wire_t);
    end = (const uint8_t *) buf + len;

    while (p != end) {

        if ((size_t) (end - p) < sizeof(moe_section_t)) {
            *why = moe_job_short;
            return MOE_JOBQ_ERROR;
        }

        memcpy(&s, p, sizeof(moe_section_t));
        p += sizeof(moe_section_t);

        if (moe_align8(s.len) > (size_t) (end - p)) {
            *why = moe_job_short;
            return MOE_JOBQ_ERROR;
        }

        if (moe_job_section(job, s.tag, p, s.len, why) != MOE_JOBQ_OK) {
            return MOE_JOBQ_ERROR;
        }

        p += moe_align8(s.len);
    }

    return moe_job_check(job, why);
}


/* events */


typedef struct {
    uint16_t   choice;
    uint8_t    finish;
    uint8_t    flags;
    uint32_t   completion_tokens;
    uint32_t   total_tokens;
    uint32_t   nids;
    uint32_t   ntext;
    uint32_t   nlp;
    uint32_t   lp_size;
} moe_delta_wire_t;


typedef struct {
    uint32_t   status;
    uint32_t   retry_after;
    uint32_t   prompt_tokens;
    uint32_t   cached_tokens;
    uint32_t   completion_tokens;
    uint32_t   reserved;
    uint32_t   ncode;
    uint32_t   nparam;
    uint32_t   nmessage;
} moe_end_wire_t;


_Static_assert(sizeof(moe_delta_wire_t) == 28, "delta record");
_Static_assert(sizeof(moe_end_wire_t) == 36, "end record");


int
moe_put_started(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_started_t *s)
{
    return moe_lane_put(l, MOE_FRAME_STARTED, slot, gen, s,
                        sizeof(moe_started_t), NULL, 0);
}


/* ids, then log-probabilities, both of whole words; text is the last */

int
moe_put_delta(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_delta_t *d)
{
    size_t             nids;
    uint8_t            buf[MOE_EVENT_MAX];
    moe_delta_wire_t   w;

    nids = (size_t) d->nids * 4;

    if (nids > MOE_EVENT_MAX || d->lp_size > MOE_EVENT_MAX
        || sizeof(moe_delta_wire_t) + nids + d->lp_size > MOE_EVENT_MAX)
    {
        l->why = "event is too large";
        return MOE_JOBQ_ERROR;
    }

    w.choice = d->choice;
    w.finish = d->finish;
    w.flags = d->flags;
    w.completion_tokens = d->completion_tokens;
    w.total_tokens = d->total_tokens;
    w.nids = d->nids;
    w.ntext = d->ntext;
    w.nlp = d->nlp;
    w.lp_size = d->lp_size;

    memcpy(buf, &w, sizeof(moe_delta_wire_t));

    if (nids) {
        memcpy(buf + sizeof(moe_delta_wire_t), d->ids, nids);
    }

    if (d->lp_size) {
        memcpy(buf + sizeof(moe_delta_wire_t) + nids, d->lp, d->lp_size);
    }

    return moe_lane_put(l, MOE_FRAME_DELTA, slot, gen, buf,
                        sizeof(moe_delta_wire_t) + nids + d->lp_size,
                        d->text, d->ntext);
}


int
moe_put_end(moe_lane_t *l, uint32_t slot, uint32_t gen, const moe_end_t *e)
{
    size_t           n;
    uint8_t          buf[sizeof(moe_end_wire_t) + 1024];
    moe_end_wire_t   w;

    memset(&w, 0, sizeof(moe_end_wire_t));

    w.status = e->status;
    w.retry_after = e->retry_after;
    w.prompt_tokens = e->prompt_tokens;
    w.cached_tokens = e->cached_tokens;
    w.completion_tokens = e->completion_tokens;
    w.ncode = e->code.len < 128 ? e->code.len : 128;
    w.nparam = e->param.len < 128 ? e->param.len : 128;
    w.nmessage = e->message.len < 768 ? e->message.len : 768;

    memcpy(buf, &w, sizeof(moe_end_wire_t));
    n = sizeof(moe_end_wire_t);

    if (w.ncode) {
        memcpy(buf + n, e->code.data, w.ncode);
        n += w.ncode;
    }

    if (w.nparam) {
        memcpy(buf + n, e->param.data, w.nparam);
        n += w.nparam;
    }

    if (w.nmessage) {
        memcpy(buf + n, e->message.data, w.nmessage);
        n += w.nmessage;
    }

    return moe_lane_put(l, MOE_FRAME_END, slot, gen, buf, n, NULL, 0);
}


int
moe_put_job(moe_lane_t *l, uint32_t slot, uint32_t gen, const moe_job_t *job)
{
    int      rc;
    void    *buf;
    size_t   size;

    size = moe_job_size(job);

    if (size == 0) {
        l->why = "job is over a limit";
        return MOE_JOBQ_ERROR;
    }

    buf = malloc(size);

    if (buf == NULL) {
        l->why = "no memory for a job";
        return MOE_JOBQ_ERROR;
    }

    moe_job_write(job, buf);
    rc = moe_lane_put(l, MOE_FRAME_JOB, slot, gen, buf, size, NULL, 0);

    free(buf);

    return rc;
}


int
moe_put_cancel(moe_lane_t *l, uint32_t slot, uint32_t gen)
{
    return moe_lane_put(l, MOE_FRAME_CANCEL, slot, gen, NULL, 0, NULL, 0);
}


int
moe_put_credit(moe_lane_t *l, uint32_t slot, uint32_t gen, uint32_t bytes)
{
    uint32_t  w[2];

    w[0] = bytes;
    w[1] = 0;

    return moe_lane_put(l, MOE_FRAME_CREDIT, slot, gen, w, sizeof(w), NULL,
                        0);
}


int
moe_started_read(moe_started_t *s, const void *buf, size_t len,
    const char **why)
{
    if (len != sizeof(moe_started_t)) {
        *why = "STARTED event has an impossible size";
        return MOE_JOBQ_ERROR;
    }

    memcpy(s, buf, sizeof(moe_started_t));

    return MOE_JOBQ_OK;
}


int
moe_delta_read(moe_delta_t *d, const void *buf, size_t len, const char **why)
{
    size_t             need;
    const uint8_t     *p;
    moe_delta_wire_t   w;

    *why = "DELTA event has an impossible size";

    if (len < sizeof(moe_delta_wire_t)) {
        return MOE_JOBQ_ERROR;
    }

    memcpy(&w, buf, sizeof(moe_delta_wire_t));

    if (w.nids > MOE_EVENT_MAX || w.ntext > MOE_EVENT_MAX
        || w.lp_size > MOE_EVENT_MAX || w.lp_size % 4)
    {
        return MOE_JOBQ_ERROR;
    }

    need = sizeof(moe_delta_wire_t) + (size_t) w.nids * 4 + w.lp_size
           + w.ntext;

    if (moe_align8(need) != len) {
        return MOE_JOBQ_ERROR;
    }

    p = (const uint8_t *) buf + sizeof(moe_delta_wire_t);

    d->choice = w.choice;
    d->finish = w.finish;
    d->flags = w.flags;
    d->completion_tokens = w.completion_tokens;
    d->total_tokens = w.total_tokens;
    d->nids = w.nids;
    d->ntext = w.ntext;
    d->nlp = w.nlp;
    d->lp_size = w.lp_size;
    d->ids = (const uint32_t *) (const void *) p;
    d->lp = p + (size_t) w.nids * 4;
    d->text = (const char *) d->lp + w.lp_size;

    if (w.finish > MOE_FINISH_ERROR) {
        *why = "DELTA event has an unknown finish";
        return MOE_JOBQ_ERROR;
    }

    return MOE_JOBQ_OK;
}


int
moe_end_read(moe_end_t *e, const void *buf, size_t len, const char **why)
{
    const char      *p;
    moe_end_wire_t   w;

    *why = "END event has an impossible size";

    if (len < sizeof(moe_end_wire_t)) {
        return MOE_JOBQ_ERROR;
    }

    memcpy(&w, buf, sizeof(moe_end_wire_t));

    if (w.ncode > len || w.nparam > len || w.nmessage > len
        || moe_align8(sizeof(moe_end_wire_t) + (size_t) w.ncode + w.nparam
                      + w.nmessage) != len)
    {
        return MOE_JOBQ_ERROR;
    }

    if (w.status < 200 || w.status > 599) {
        *why = "END event has an impossible status";
        return MOE_JOBQ_ERROR;
    }

    p = (const char *) buf + sizeof(moe_end_wire_t);

    e->status = w.status;
    e->retry_after = w.retry_after;
    e->prompt_tokens = w.prompt_tokens;
    e->cached_tokens = w.cached_tokens;
    e->completion_tokens = w.completion_tokens;
    e->reserved = 0;
    e->code.len = w.ncode;
    e->code.data = p;
    e->param.len = w.nparam;
    e->param.data = p + w.ncode;
    e->message.len = w.nmessage;
    e->message.data = p + w.ncode + w.nparam;

    return MOE_JOBQ_OK;
}


int
moe_credit_read(uint32_t *bytes, const void *buf, size_t len,
    const char **why)
{
    if (len != 8) {
        *why = "CREDIT frame has an impossible size";
        return MOE_JOBQ_ERROR;
    }

    memcpy(bytes, buf, 4);

    return MOE_JOBQ_OK;
}


/* log-probabilities */


typedef struct {
    uint32_t   id;
    float      logprob;
    uint16_t   ntop;
    uint16_t   len;
} moe_lp_wire_t;


_Static_assert(sizeof(moe_lp_wire_t) == 12, "log-probability record");


size_t
moe_lp_size(const moe_lp_t *lp)
{
    return sizeof(moe_lp_wire_t) + moe_align4(lp->len);
}


void *
moe_lp_write(const moe_lp_t *lp, void *p)
{
    uint8_t        *end;
    moe_lp_wire_t   w;

    w.id = lp->id;
    w.logprob = lp->logprob;
    w.ntop = lp->ntop;
    w.len = lp->len;

    memcpy(p, &w, sizeof(moe_lp_wire_t));
    end = (uint8_t *) p + sizeof(moe_lp_wire_t);

    if (lp->len) {
        memset(end, 0, moe_align4(lp->len));
        memcpy(end, lp->bytes, lp->len);
    }

    return end + moe_align4(lp->len);
}


int
moe_lp_read(moe_lp_t *lp, const void **p, const void *end)
{
    size_t           left;
    const uint8_t   *at;
    moe_lp_wire_t    w;

    at = *p;
    left = (const uint8_t *) end - at;

    if (left < sizeof(moe_lp_wire_t)) {
        return MOE_JOBQ_ERROR;
    }

    memcpy(&w, at, sizeof(moe_lp_wire_t));

    if (moe_align4(w.len) > left - sizeof(moe_lp_wire_t)
        || w.ntop > MOE_TOP_LOGPROBS)
    {
        return MOE_JOBQ_ERROR;
    }

    lp->id = w.id;
    lp->logprob = w.logprob;
    lp->ntop = w.ntop;
    lp->len = w.len;
    lp->bytes = (const char *) at + sizeof(moe_lp_wire_t);

    *p = at + sizeof(moe_lp_wire_t) + moe_align4(w.len);

    return MOE_JOBQ_OK;
}
