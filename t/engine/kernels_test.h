/*
 * kernels_test: what the tests of kernels share: the sets that this machine
 * runs, contexts of one and three threads, random inputs, comparisons.
 */

#ifndef MOE_KERNELS_TEST_H
#define MOE_KERNELS_TEST_H


#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "kernels/kernels.h"


static const moe_kernels_t  *sets[3];
static int                   nsets;
static moe_kctx_t            ctx1, ctx3;
static uint64_t              rng;


static inline uint32_t
random_u32(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;

    return (uint32_t) (rng >> 33) * 2 + (uint32_t) (rng >> 63);
}


static inline uint32_t
below(uint32_t n)
{
    return (uint32_t) ((uint64_t) random_u32() * n >> 32);
}


static inline float
random_float(void)
{
    return (float) (int32_t) random_u32() * 0x1p-31f;
}


/* rows of ld elements, the last one exactly as long as is allowed to be
 * read, so that a sanitizer sees reads beyond it */
static inline float *
random_rows(size_t rows, size_t n, size_t ld)
{
    float   *x;
    size_t   i, len;

    len = (rows - 1) * ld + n;
    x = malloc(len * sizeof(float));

    for (i = 0; i < len; i++) {
        x[i] = random_float();
    }

    return x;
}


static inline void
assert_near(double is, double want, double size, const char *what)
{
    if (!(fabs(is - want) <= 2e-6 * (size + 1e-3))) {
        fail_msg("%s: %.9g is not %.9g (size %g)", what, is, want, size);
    }
}


static inline void
assert_same(const float *a, const float *b, size_t n, const char *what)
{
    size_t  i;

    for (i = 0; i < n; i++) {
        if (memcmp(&a[i], &b[i], 4) != 0) {
            fail_msg("%s: element %zu: %.9g and %.9g", what, i,
                     (double) a[i], (double) b[i]);
        }
    }
}


static inline void
start_ctx(moe_kctx_t *c, uint32_t threads)
{
    moe_err_t  err;

    c->pool = moe_pool_create(threads, &err);
    c->scratch_each = 1 << 16;
    c->scratch = malloc(threads * c->scratch_each * sizeof(float));
}


static inline int
setup(void **state)
{
    size_t              i;
    static const char  *names[] = { "plain", "avx2", "avx512" };

    rng = (uint64_t) time(NULL);
    print_message("seed %llu\n", (unsigned long long) rng);

    for (i = 0; i < 3; i++) {
        sets[nsets] = moe_kernels_get(names[i]);

        if (sets[nsets] != NULL) {
            print_message("%s\n", names[i]);
            nsets++;
        }
    }

    assert_null(moe_kernels_get("abacus"));
    start_ctx(&ctx1, 1);
    start_ctx(&ctx3, 3);

    return 0;
}


static inline int
teardown(void **state)
{
    moe_pool_destroy(ctx1.pool);
    moe_pool_destroy(ctx3.pool);
    free(ctx1.scratch);
    free(ctx3.scratch);

    return 0;
}


#endif /* MOE_KERNELS_TEST_H */
