/*
 * load: the requests that a simulated fleet is asked, made up or recorded.
 *
 * Made up, they are conversations of clients (keys).  With a rate, new
 * conversations come by Poisson's law, in bursts many times as many; with
 * users, each of them has one request under way at a time.  A turn's prompt is
 * the client's system prompt, all that was said before and something new;
 * lengths are lognormal.
 *
 * Recorded, they are a file of JSON lines in order of time:
 *
 *     {"at": 1.25, "key": "team-a", "prompt": 812, "output": 190,
 *      "prefix": "chat-7", "shared": 640}
 *
 * at in seconds, counted from the first one's; prompt and output in tokens;
 * the first "shared" tokens of the prompt are those that all of the same
 * "prefix" begin with.  A prompt
 * that is all shared is continued by its answer: the next turn's prefix.
 * prefix and shared may be left out.
 *
 * Deterministic; seconds.
 */

#ifndef MOE_PLAN_LOAD_H
#define MOE_PLAN_LOAD_H


#include <stdint.h>

#include "base/err.h"


enum { MOE_LOAD_SURGES = 8 };


typedef struct {
    double    from;
    double    seconds;
    double    times;        /* the rate */
} moe_load_surge_t;

typedef struct {
    double            rate;         /* requests a second; where users is 0 */
    uint32_t          users;        /* that always ask */
    double            turns;        /* mean of a conversation */
    double            think;        /* mean seconds between turns */
    uint32_t          keys;         /* of clients; the n-th has 1/n of the
                                     * first one's conversations */
    double            system;       /* tokens of a client's system prompt */
    double            prompt;       /* mean new tokens of a turn */
    double            output;       /* mean */
    double            spread;       /* sigma of their logarithms; 0: all the
                                     * same */
    uint32_t          most;         /* tokens of prompt and output */
    moe_load_surge_t  surges[MOE_LOAD_SURGES];
    uint32_t          nsurges;
    uint64_t          seed;
} moe_load_options_t;

typedef struct {
    double    at;
    uint64_t  key;
    uint64_t  prefix;       /* the first shared tokens are of this stream */
    uint64_t  own;          /* the others, and the answer, of this one */
    uint64_t  chat;         /* which conversation it is of */
    uint32_t  shared;
    uint32_t  prompt;
    uint32_t  output;
    uint32_t  turns;        /* that follow */
} moe_load_job_t;


typedef struct moe_load_s  moe_load_t;


/* NULL and a line in err without memory. */
moe_load_t *moe_load_create(const moe_load_options_t *o, moe_err_t *err);

/* A recorded one; what has more than most tokens is an error, as is all that
 * is not as above: err names the line. */
moe_load_t *moe_load_open(const char *path, uint32_t most, moe_err_t *err);

void moe_load_free(moe_load_t *l);

/* When the next request comes; INFINITY: none does before another ends. */
double moe_load_at(const moe_load_t *l);

/* That request.  -1 and a line in err without memory. */
int moe_load_take(moe_load_t *l, moe_load_job_t *job, moe_err_t *err);

/* It has ended; served: with an answer, after which a next turn may come.
 * -1 and a line in err without memory. */
int moe_load_ended(moe_load_t *l, const moe_load_job_t *job, double at,
    int served, moe_err_t *err);

/* The token at a position of prompt and answer, below 2^31. */
uint32_t moe_load_id(const moe_load_job_t *job, uint32_t position);


#endif /* MOE_PLAN_LOAD_H */
