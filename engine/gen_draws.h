/*
 * gen_draws: what the rows of a step are to give where a device draws from
 * their logits, gathered before the step.
 *
 *     init -> { begin, { add, given } for some rows, end, a step } -> free
 */

#ifndef MOE_GEN_DRAWS_H
#define MOE_GEN_DRAWS_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "model/model.h"
#include "model/sampler.h"


typedef struct {
    moe_draws_t      draws;
    moe_edit_t      *edits;
    size_t           nedits;
    size_t           max_edits;
    uint32_t        *history;       /* [context] */
} moe_gen_draws_t;


/* of at most max rows, of sequences of at most context ids; -1: no memory */
int moe_gen_draws_init(moe_gen_draws_t *g, uint32_t max, uint32_t context);
void moe_gen_draws_free(moe_gen_draws_t *g);

/* n rows that so far give nothing */
void moe_gen_draws_begin(moe_gen_draws_t *g, uint32_t n);

/* Row i is to give the id at a position; h: what is before it, and then
 * ndrafts more ids.  ntop: -1 for no log-probabilities. */
int moe_gen_draws_add(moe_gen_draws_t *g, uint32_t i, moe_sampler_t *s,
    const moe_sampling_t *p, const moe_history_t *h, const uint32_t *drafts,
    uint32_t ndrafts, uint64_t position, uint32_t choice, int ntop,
    moe_err_t *err);

/* row i is to give the log-probability of an id, and of ntop others */
void moe_gen_draws_given(moe_gen_draws_t *g, uint32_t i, uint32_t id,
    uint32_t ntop);

/* the model's next step or draft makes these draws */
void moe_gen_draws_end(moe_gen_draws_t *g, moe_model_t *m);


#endif /* MOE_GEN_DRAWS_H */
