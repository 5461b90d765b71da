/*
 * compare_base: the same model in another program.
 */

#ifndef MOE_COMPARE_BASE_H
#define MOE_COMPARE_BASE_H


#include <stdint.h>

#include "base/err.h"


typedef struct {
    const char         *base;       /* llama-perplexity
                                     * --kl-divergence-base FILE */
    const char         *noise;      /* another of the same tokens, or NULL */
    const char         *kernels;
    uint32_t            threads;
    uint32_t            n;
    const char *const  *models;
} moe_compare_base_t;


/* Prints a table, a line a model. */
int moe_compare_base(const moe_compare_base_t *o, moe_err_t *err);


#endif /* MOE_COMPARE_BASE_H */
