/*
 * sampling: what the sampler on the host and the one on a device have in
 * common, pure functions and the records that a device is given.
 *
 * Weights are whole numbers: e^((logit - best) / temperature) in 2^-41, to the
 * nearest.  So sums over a vocabulary, of at most 2^22, are below 2^64, exact
 * and have no order, and a token that is 2^-42 as likely as the best one is
 * not drawn at all.  A random number of 53 bits is a place among the sum of
 * all weights.
 */

#ifndef MOE_SAMPLING_H
#define MOE_SAMPLING_H


#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/dmath_body.h"
#include "kernels/cuda/host.h"


/* a log-probability of -inf is given as this, as OpenAI's API does */
#define MOE_LOGPROB_MIN       (-9999.0f)

/* temperatures below this are greedy */
#define MOE_TEMPERATURE_MIN   1e-5

enum {
    MOE_MAX_TOP_LOGPROBS = 20,
    MOE_EDITS = 3               /* of one id, of each kind one */
};


typedef enum {
    MOE_EDIT_BAR,
    MOE_EDIT_BIAS,              /* by value */
    MOE_EDIT_PENALTY            /* count: how often the answer has it; 0: the
                                 * prompt alone */
} moe_edit_e;

/* One change to a logit.  Those of one id are a chain in their order. */
typedef struct {
    uint32_t    id;
    uint32_t    next;           /* of the chain, among those of the draw; 0:
                                 * none, for the first is never a next */
    uint32_t    head;           /* whether the chain begins here */
    moe_edit_e  kind;
    float       value;
    uint32_t    count;
    float       raw;            /* the device's: the logit before */
} moe_edit_t;

/* what a device is told of one row's draw */
typedef struct {
    uint64_t  random;           /* 53 bits */
    double    scale;            /* 1 / temperature; 0: greedy */
    double    least;            /* of (logit - best) * scale: log of min_p */
    double    top_p;
    double    repetition;
    double    frequency;
    double    presence;
    uint32_t  top_k;            /* 0: all */
    uint32_t  row;              /* of the logits */
    uint32_t  first;            /* edit */
    uint32_t  nedits;
    uint32_t  given;            /* the id, where none is drawn; else
                                 * UINT32_MAX */
    uint32_t  logprobs;         /* whether they are wanted */
    uint32_t  ntop;             /* with how many of the best */
} moe_draw_t;

typedef struct {
    uint32_t  id;
    float     logprob;
} moe_logprob_t;

typedef struct {
    uint32_t       id;
    uint32_t       none;        /* 1: no token can be drawn */
    float          logprob;     /* of the id, of raw logits */
    uint32_t       ntop;
    moe_logprob_t  top[MOE_MAX_TOP_LOGPROBS];   /* best first */
} moe_drawn_t;


/* finite or -inf; a logit never compares as unordered after this */
MOE_HOST_DEVICE static inline float
moe_tidy(float x)
{
    x = x > FLT_MAX ? FLT_MAX : x;

    return x == x ? x : -INFINITY;
}


/* ascends with x; adding zero makes -0 and 0 the tie that they are */
MOE_HOST_DEVICE static inline uint32_t
moe_logit_key(float x)
{
    uint32_t  u;

    x += 0.0f;
    memcpy(&u, &x, sizeof(u));

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}


/* lse: log of the sum of e^(logit - best) */
MOE_HOST_DEVICE static inline float
moe_logprob_of(float logit, float best, double lse)
{
    double  x;

    x = (double) logit - (double) best - lse;

    return x > (double) MOE_LOGPROB_MIN ? (float) x : MOE_LOGPROB_MIN;
}


/* of e^x, at most 1: the low bits of 2^11 + it */
MOE_HOST_DEVICE static inline uint64_t
moe_weight_fixed(double e)
{
    uint64_t  u;

    e += 0x1p11;
    memcpy(&u, &e, sizeof(u));

    return u & 0xfffffffffffffull;
}


/* weight of a logit x below the best; zero without more work where it is */
MOE_HOST_DEVICE static inline uint64_t
moe_weight(double x)
{
    return x < -30 ? 0 : moe_weight_fixed(moe_dexp_body(x));
}


/* what top_p of a sum is, at least 1 */
MOE_HOST_DEVICE static inline uint64_t
moe_weight_share(uint64_t sum, double top_p)
{
    double    exact;
    uint64_t  need;

    exact = top_p * (double) sum;
    need = exact < 1 ? 1 : (uint64_t) exact;
    need += (double) need < exact;

    return need < sum ? need : sum;
}


/* the place of a random number among a sum of weights: random * sum / 2^53 */
MOE_HOST_DEVICE static inline uint64_t
moe_weight_place(uint64_t random, uint64_t sum)
{
    uint64_t  a, b, low;

    /* the sum in halves of 32 bits, so that nothing overflows */
    low = (random & 0xffffffff) * (sum & 0xffffffff);
    a = (random >> 32) * (sum & 0xffffffff) + (low >> 32);
    b = (random & 0xffffffff) * (sum >> 32) + (a & 0xffffffff);
    a = (random >> 32) * (sum >> 32) + (a >> 32) + (b >> 32);

    return a << 11 | (b & 0xffffffff) >> 21;
}


/* a logit as a chain of edits makes it; e: those of the draw */
MOE_HOST_DEVICE static inline float
moe_edited(float logit, const moe_edit_t *e, uint32_t i, double repetition,
    double frequency, double presence)
{
    double  x;

    do {
        switch (e[i].kind) {

        case MOE_EDIT_BAR:
            logit = -INFINITY;
            break;

        case MOE_EDIT_BIAS:
            logit = moe_tidy(logit + e[i].value);
            break;

        default:
            x = (double) logit;
            x = x > 0 ? x / repetition : x * repetition;

            if (e[i].count != 0) {
                x -= frequency * e[i].count;
                x -= presence;
            }

            /* the cast of a double past the floats' range is not defined */
            x = x > (double) FLT_MAX ? (double) FLT_MAX : x;
            logit = x < (double) -FLT_MAX ? -INFINITY : moe_tidy((float) x);
        }

        i = e[i].next;

    } while (i != 0);

    return logit;
}


#endif /* MOE_SAMPLING_H */
