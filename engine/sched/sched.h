/*
 * sched: which rows make up the next step.
 *
 * A sequence is a list of known ids, the prompt's and then the generated
 * ones, of which the first so many are computed: their K and V are in the
 * sequence's pages.  A step computes more of them: one row of each sequence
 * that lacks only its last id (it decodes), then chunks of those that lack
 * more (they prefill), then new sequences, while the step's rows last.  When
 * the last known id is in a step, the caller samples from its logits and
 * appends the next id.
 *
 * Pages are taken as they are needed.  When there are none left the least
 * important sequence gives up its own: parked ones first, then those that
 * wait, then the youngest that runs.  It is computed again later, each id in
 * the role it had, and nobody can tell from its answer.
 *
 * A sequence may have drafts of what follows its last known id.  Where a
 * step has rows and pages to spare they are computed behind that id's row, as
 * if they were known.  An appended id that equals the draft at its position is
 * computed already; at the first that does not the rest is forgotten, and
 * what was written of it is written anew.
 *
 * Full pages are shared by sequences with the same beginning, also after the
 * one that computed them has gone (sched/pages.h).
 *
 * More important is a higher priority, then who came first.  Of two priorities
 * the higher is strictly preferred: where the batch is full or pages are short
 * its sequences take the place of those that run, and its prompts go first.
 *
 *     add -> { form -> (model's step) -> commit -> { append } } -> remove
 *
 * Deterministic: no clock, thread or I/O; the same calls give the same steps.
 */

#ifndef MOE_SCHED_H
#define MOE_SCHED_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model.h"
#include "sched/pages.h"


enum { MOE_DRAFTS = 4 };        /* of a sequence, at most */


typedef struct moe_sched_s  moe_sched_t;
typedef struct moe_seq_s    moe_seq_t;


typedef struct {
    uint32_t            pages;          /* of KV */
    uint32_t            max_len;        /* ids a sequence; at most what the
                                         * pages hold */
    uint32_t            max_running;    /* sequences in a batch; lowered to
                                         * less than step_tokens */
    uint32_t            step_tokens;    /* rows a step, >= 1 */
    uint32_t            prefill_chunk;  /* rows of one prompt a step, >= 1 */
    uint32_t            max_out;        /* rows of logits a step; raised to
                                         * max_running */
    uint8_t             fingerprint[32];
} moe_sched_options_t;


typedef struct {
    const uint32_t     *ids;            /* copied; prompt, then generated */
    uint32_t            nids;           /* >= 1, <= max_len */
    uint32_t            nprompt;        /* of them the prompt's, >= 1 */
    const void         *salt;           /* of the cache; NULL when nsalt 0 */
    size_t              nsalt;
    int32_t             priority;
    int                 all_logits;     /* of every known id, not of the last
                                         * alone; takes none from the cache */
    void               *data;           /* the caller's */
} moe_sched_request_t;


/* what one sequence has in a step */
typedef struct {
    moe_seq_t          *seq;
    void               *data;
    uint32_t            row;            /* first of its rows */
    uint32_t            nrows;
    uint32_t            ndrafts;        /* of them drafts, the last ones */
    uint32_t            pos;            /* of the first row */
    uint32_t            out;            /* first of its rows of logits */
    uint32_t            nout;           /* they are its last nout rows */
    unsigned            first:1;        /* its first step ever */
    unsigned            last:1;         /* the last known id is in it: its
                                         * logits are the last of nout
                                         * but for those of drafts */
} moe_step_entry_t;

typedef struct {
    moe_batch_t         batch;          /* for moe_model_step() */
    uint32_t            n;
    moe_step_entry_t   *entries;        /* [n] */
} moe_step_t;


typedef struct {
    uint32_t            waiting;
    uint32_t            running;
    uint32_t            parked;
    uint32_t            pages;
    uint32_t            pages_used;
    uint32_t            pages_cached;
    uint64_t            preempted;      /* so far */
} moe_sched_counts_t;


/* NULL and a line in err without memory, or if no id fits the pages. */
moe_sched_t *moe_sched_create(const moe_sched_options_t *o, moe_err_t *err);

/* Removes what sequences there are. */
void moe_sched_destroy(moe_sched_t *s);

uint32_t moe_sched_max_len(const moe_sched_t *s);

/* NULL and a line in err without memory or for counts out of range. */
moe_seq_t *moe_sched_add(moe_sched_t *s, const moe_sched_request_t *r,
    moe_err_t *err);

/* Its pages go back, full ones to the cache.  Not between form and commit. */
void moe_sched_remove(moe_sched_t *s, moe_seq_t *seq);

/*
 * Rows of prompts in a step in which others decode, at least 1; at first as
 * many as a step has.  A step without any that decodes is not bounded by it.
 */
void moe_sched_set_prefill(moe_sched_t *s, uint32_t rows);

/* A parked sequence is in no step and keeps its pages while others need not
 * have them.  Both may be called twice.  Not between form and commit. */
void moe_sched_park(moe_sched_t *s, moe_seq_t *seq);
void moe_sched_unpark(moe_sched_t *s, moe_seq_t *seq);

/*
 * The next step, or NULL where there is nothing to compute.  It stays the
 * scheduler's, and as it is until the next form.  A step that is not
 * committed has not been: the next form may well give the same one.
 */
const moe_step_t *moe_sched_form(moe_sched_t *s);

/* The step last formed was computed. */
void moe_sched_commit(moe_sched_t *s);

/*
 * One more generated id, after the last known one was computed.  -1 where the
 * sequence is at max_len or there is no memory.  1 where the id was drafted
 * and is computed: the logits of the step's next row are its, and the id that
 * they give is to be appended before the next form.  0 otherwise.
 */
int moe_sched_append(moe_sched_t *s, moe_seq_t *seq, uint32_t id);

/* Drafts of the ids after the last known one, in the place of earlier ones;
 * n at most MOE_DRAFTS.  Not between form and commit. */
void moe_sched_draft(moe_sched_t *s, moe_seq_t *seq, const uint32_t *ids,
    uint32_t n);

void moe_sched_counts(const moe_sched_t *s, moe_sched_counts_t *counts);


/* known ids, their number, how many of them are computed, and how many of the
 * prompt's were not when it first ran, because the cache had them */
const uint32_t *moe_seq_ids(const moe_seq_t *seq);
uint32_t moe_seq_len(const moe_seq_t *seq);
uint32_t moe_seq_computed(const moe_seq_t *seq);
uint32_t moe_seq_cached(const moe_seq_t *seq);

/* the pages it has, [*n]; for tests and figures */
const uint32_t *moe_seq_table(const moe_seq_t *seq, uint32_t *n);


#endif /* MOE_SCHED_H */
