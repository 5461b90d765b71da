/*
 * gen: jobs of token ids in, steps of the model, events out.
 *
 * What a rank does between its lane and its model; also all that "run" and
 * "bench" need.  Jobs and events are those of the queue (jobq.h), what they
 * mean is in rank.h.  A job is known by its tag, the caller's.
 *
 *     create -> { submit, cancel, credit, step -> events } -> destroy
 *
 * Events go to the sink from within submit, cancel and step.  A sink does not
 * call back.  One thread.
 */

#ifndef MOE_GEN_H
#define MOE_GEN_H


#include <stdint.h>

#include "base/err.h"
#include "jobq.h"
#include "model/model.h"


typedef struct moe_gen_s      moe_gen_t;
typedef struct moe_gen_job_s  moe_gen_job_t;


/* what is pointed to lasts for the call */
typedef struct {
    void    (*started)(void *ctx, uint64_t tag, const moe_started_t *started);
    void    (*delta)(void *ctx, uint64_t tag, const moe_delta_t *delta);
    void    (*end)(void *ctx, uint64_t tag, const moe_end_t *end);
} moe_gen_sink_t;


/*
 * Whether ids are drafted by the model's MTP layer, which changes no
 * answer.  AUTO: where steps with drafts were seen to give more ids in less
 * time, see draft.h.
 */
typedef enum {
    MOE_DRAFT_AUTO = 0,
    MOE_DRAFT_OFF,
    MOE_DRAFT_ALWAYS               /* whatever it costs, for tests */
} moe_draft_e;


/* zero is a good default; pages are what the model has */
typedef struct {
    uint32_t    max_context;       /* tokens; 0: the model's */
    uint32_t    max_running;       /* 0: 64 */
    uint32_t    step_tokens;       /* 0: 512; at most the model's max_rows */
    uint32_t    prefill_chunk;     /* 0: 256 */
    uint32_t    step_ms;           /* that a step with prompts should take at
                                    * most while others decode; 0: no end */
    moe_draft_e draft;             /* for a model opened with mtp */
} moe_gen_options_t;


/*
 * The model stays the caller's and outlives it; it must have KV pages.  sink
 * is copied.  NULL and a line in err without memory or pages.
 */
moe_gen_t *moe_gen_create(moe_model_t *m, const moe_gen_options_t *o,
    const moe_gen_sink_t *sink, void *ctx, moe_err_t *err);

/* Jobs that are left end without an event. */
void moe_gen_destroy(moe_gen_t *g);

/* the most tokens, prompt's and generated, that a job can have */
uint32_t moe_gen_context(const moe_gen_t *g);

/*
 * Takes a MOE_JOB_IDS; what it points to is copied.  The job, valid until its
 * end event; or NULL if it has ended already: refused, or nothing was to do.
 */
moe_gen_job_t *moe_gen_submit(moe_gen_t *g, const moe_job_t *job,
    uint64_t tag);

/* Ends it with 499. */
void moe_gen_cancel(moe_gen_t *g, moe_gen_job_t *j);

void moe_gen_credit(moe_gen_t *g, moe_gen_job_t *j, uint32_t bytes);

/*
 * One step of all that can run.  1, 0 when there was nothing to compute, or
 * -1 and a line in err when the model failed: the state is as before, or
 * where it was the MTP layer, as after the step.
 */
int moe_gen_step(moe_gen_t *g, moe_err_t *err);

/* Fills in the figures that it knows: of jobs, tokens, steps and pages, and
 * the histograms. */
void moe_gen_stats(const moe_gen_t *g, moe_stats_t *stats);

/* sequences that had to give up their pages, so far */
uint64_t moe_gen_preempted(const moe_gen_t *g);


#endif /* MOE_GEN_H */
