/*
 * What the exchange of rows between ranks costs a layer, with experts that
 * compute nothing: microseconds of dispatch and combine, median and 90th
 * percentile over the layers of many steps, as rank 0 sees them.
 *
 *     build/bench-exchange [RANKS [HIDDEN [EXPERTS [TOP_K]]]]
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ep/shm.h"


enum { LAYERS = 26, STEPS = 60, MAX_ROWS = 512 };


static double
now_us(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec * 1e6 + (double) ts.tv_nsec / 1e3;
}


static int
by_size(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


/* distinct experts for every row */
static void
choose(const moe_exchange_shape_t *s, uint32_t *experts, uint32_t nrows,
    uint32_t *random)
{
    uint32_t  i, k;

    for (i = 0; i < nrows; i++) {
        *random = *random * 1664525 + 1013904223;

        for (k = 0; k < s->top_k; k++) {
            experts[i * s->top_k + k] = ((*random >> 8) + k * 7)
                                        % s->n_experts;
        }
    }
}


static void
fail(const moe_err_t *err)
{
    fprintf(stderr, "bench-exchange: %s\n", err->text);
    _exit(1);
}


static void
measure(moe_exchange_t *x, const moe_exchange_shape_t *s, uint32_t rank,
    uint32_t nrows, const char *form)
{
    float                *rows;
    double               *times, begun;
    uint32_t              t, l, n, random, *experts;
    uint64_t              late;
    moe_err_t             err;
    moe_expert_work_t     work;
    moe_expert_result_t   result;

    rows = calloc((size_t) nrows * s->hidden, sizeof(float));
    experts = calloc((size_t) nrows * s->top_k, sizeof(uint32_t));
    times = calloc(STEPS * LAYERS, sizeof(double));
    random = rank + 1;
    n = 0;

    for (t = 0; t < STEPS; t++) {
        if (x->ops->begin(x, nrows, UINT64_MAX, &late, &err) != 0) {
            fail(&err);
        }

        for (l = 0; l < LAYERS; l++) {
            choose(s, experts, nrows, &random);
            begun = now_us();

            if (x->ops->dispatch(x, l, nrows, rows, experts, UINT64_MAX,
                                 &work, &late, &err) != 0
                || x->ops->combine(x, l, UINT64_MAX, &result, &late, &err)
                   != 0)
            {
                fail(&err);
            }

            times[n++] = now_us() - begun;
        }
    }

    if (rank == 0) {
        qsort(times, n, sizeof(double), by_size);
        printf("| %u | %s | %s | %u | %.1f | %.1f |\n", x->nranks,
               moe_row_format_name(s->format), form, nrows, times[n / 2],
               times[n * 9 / 10]);
        fflush(stdout);
    }

    free(rows);
    free(experts);
    free(times);
}


static void
spread(const moe_exchange_shape_t *s, uint32_t nranks, uint32_t nrows,
    uint32_t fixed)
{
    pid_t              pid;
    uint32_t           r;
    moe_shm_t         *shm;
    moe_err_t          err;
    moe_exchange_t    *x;
    moe_shm_options_t  o = { .fixed_rows = fixed };

    shm = moe_shm_create(s, nranks, &err);
    if (shm == NULL) {
        fail(&err);
    }

    for (r = 0; r < nranks; r++) {
        pid = fork();

        if (pid == 0) {
            o.rank = r;
            x = moe_exchange_shm(shm, s, &o, &err);
            if (x == NULL) {
                fail(&err);
            }
            measure(x, s, r, nrows, fixed ? "fixed" : "counted");
            _exit(0);
        }
    }

    while (wait(NULL) > 0) {
        /* void */
    }

    moe_shm_free(shm);
}


int
main(int argc, char **argv)
{
    static const uint32_t  rows[] = { 1, 4, 16, 32, 128 };

    size_t                i;
    uint32_t              f, nranks;
    moe_err_t             err;
    moe_exchange_t       *x;
    moe_exchange_shape_t  s = {
        .max_rows = MAX_ROWS,
        .n_layers = LAYERS
    };

    nranks = argc > 1 ? (uint32_t) atoi(argv[1]) : 2;
    s.hidden = argc > 2 ? (uint32_t) atoi(argv[2]) : 2048;
    s.n_experts = argc > 3 ? (uint32_t) atoi(argv[3]) : 64;
    s.top_k = argc > 4 ? (uint32_t) atoi(argv[4]) : 6;

    printf("| ranks | rows | form | rows of a rank | median us | p90 us |\n"
           "|---|---|---|---|---|---|\n");

    for (f = MOE_ROWS_F32; f <= MOE_ROWS_BF16; f++) {
        s.format = (moe_row_format_e) f;

        for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
            x = moe_exchange_local(&s, &err);
            if (x == NULL) {
                fail(&err);
            }
            measure(x, &s, 0, rows[i], "local");
            x->ops->close(x);

            spread(&s, nranks, rows[i], 0);

            if (rows[i] <= MOE_PARCEL_FIXED_ROWS) {
                spread(&s, nranks, rows[i], MOE_PARCEL_FIXED_ROWS);
            }
        }
    }

    return 0;
}
