/*
 * bench_drafts: what drafts by the model's MTP layer bring.
 */

#ifndef MOE_BENCH_DRAFTS_H
#define MOE_BENCH_DRAFTS_H


#include <stdint.h>

#include "base/err.h"


typedef struct {
    const char    *dir;
    const char    *kernels;        /* NULL: the fastest */
    const char    *text;           /* what every request asks */
    uint32_t       threads;        /* 0: all cores */
    uint32_t       batch;          /* the largest */
    uint32_t       tokens;         /* of an answer, at most */
} moe_bench_drafts_t;


/*
 * Prints a table to standard output: for batches of 1, 2, 4 and so on, tokens
 * a second without drafts, with them always, and where they were seen to pay.
 * The same requests are answered in turns, several times; figures are
 * medians.  Answers that are not equal are an error.
 */
int moe_bench_drafts(const moe_bench_drafts_t *o, moe_err_t *err);


#endif /* MOE_BENCH_DRAFTS_H */
