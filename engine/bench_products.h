/*
 * bench_products: how near the products with packed weights come to what the
 * machine can read and multiply.
 */

#ifndef MOE_BENCH_PRODUCTS_H
#define MOE_BENCH_PRODUCTS_H


#include <stdint.h>

#include "base/err.h"


/*
 * Prints a table to standard output: for each format and number of rows an
 * expert the time, bytes of weights read and operations done a second, and
 * both as a share of what was probed right before.  threads 0: all cores;
 * kernels NULL: the fastest.
 */
int moe_bench_products(uint32_t threads, const char *kernels,
    moe_err_t *err);


#endif /* MOE_BENCH_PRODUCTS_H */
