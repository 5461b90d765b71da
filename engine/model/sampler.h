/*
 * sampler: logits in, one token id out.
 *
 * Pure functions: the result depends on the arguments alone, to the last bit,
 * on every machine.  The order is
 *
 *     min_tokens, logit_bias,
 *     repetition, then frequency and presence penalty,
 *     temperature, min_p, top_k, top_p, draw.
 *
 * Every tie is broken by the lower id.  A NaN logit counts as -inf (never
 * drawn), a +inf one as the largest finite float.  Weights and their sums are
 * whole numbers (kernels/sampling.h).
 */

#ifndef MOE_SAMPLER_H
#define MOE_SAMPLER_H


#include <stdint.h>

#include "kernels/sampling.h"


typedef struct {
    uint32_t                  id;
    float                     bias;     /* finite; added to the logit */
} moe_logit_bias_t;

/* What a request asks for.  moe_sampling_init() asks for nothing. */
typedef struct {
    double                    temperature;         /* 0: greedy */
    double                    top_p;               /* 0 .. 1; 1: all; never
                                                    * fewer than one token */
    double                    min_p;               /* 0 .. 1; 0: all */
    int                       top_k;               /* <= 0: all */

    double                    repetition_penalty;  /* > 0; 1: none */
    double                    frequency_penalty;
    double                    presence_penalty;

    uint32_t                  min_tokens;
    const uint32_t           *stop_ids;   /* eos and stop ids: not drawn before
                                           * min_tokens were generated */
    uint32_t                  n_stop_ids;
    uint32_t                  n_bias;
    const moe_logit_bias_t   *bias;       /* those of one id add up; ids past
                                           * the vocabulary are ignored */
    uint64_t                  seed;
} moe_sampling_t;

/* Ids so far.  Repetition looks at both, frequency, presence and min_tokens
 * at generated. */
typedef struct {
    const uint32_t           *prompt;
    const uint32_t           *generated;
    uint32_t                  n_prompt;
    uint32_t                  n_generated;
} moe_history_t;

typedef struct {
    float                     logprob;  /* of the token itself */
    uint32_t                  n_top;
    moe_logprob_t             top[MOE_MAX_TOP_LOGPROBS];  /* best first */
} moe_logprobs_t;

/* Scratch memory for one vocabulary; one thread at a time. */
typedef struct moe_sampler_s  moe_sampler_t;


/* About 20 bytes a token of the vocabulary, at most 2^22; NULL: no memory. */
moe_sampler_t *moe_sampler_new(uint32_t vocab);
void moe_sampler_free(moe_sampler_t *s);

/* temperature 1, everything else off */
void moe_sampling_init(moe_sampling_t *p);

/*
 * Draws a token from logits[vocab] with the random number of (seed, position,
 * choice): position counts the tokens of the sequence, choice the n answers
 * of a request.  Returns -1 where no token can be drawn (all barred or NaN, or
 * no memory).
 */
int moe_sample(moe_sampler_t *s, const float *logits,
    const moe_sampling_t *p, const moe_history_t *h, uint64_t position,
    uint32_t choice, uint32_t *id);

/*
 * Log-softmax of the raw logits, before bias, penalties and temperature: of
 * id and of the n_top (at most MOE_MAX_TOP_LOGPROBS) best; out->n_top is less
 * only where the vocabulary is.
 */
void moe_logprobs(moe_sampler_t *s, const float *logits, uint32_t id,
    uint32_t n_top, moe_logprobs_t *out);

/* The largest logit's id. */
uint32_t moe_argmax(const float *logits, uint32_t vocab);

/*
 * What a request and its ids so far change in the logits: at most
 * moe_sampler_edits() records into edits, at most MOE_EDITS of an id; returns
 * how many.
 */
uint32_t moe_sampler_edits(const moe_sampling_t *p, const moe_history_t *h);
uint32_t moe_sampler_edit(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h, moe_edit_t *edits);

/*
 * What a device needs to draw what moe_sample() would: edits as above, the
 * draw but for its row, its first edit and log-probabilities.
 */
void moe_sampler_draw(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h, uint64_t position, uint32_t choice,
    moe_edit_t *edits, moe_draw_t *d);

/* 53 bits of the generator below. */
uint64_t moe_random(uint64_t seed, uint64_t position, uint32_t choice);

/* Philox4x32-10 (Salmon et al., 2011): a counter-based generator. */
void moe_philox(const uint32_t counter[4], const uint32_t key[2],
    uint32_t out[4]);


#endif /* MOE_SAMPLER_H */
