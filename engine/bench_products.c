#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "bench_products.h"
#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"


/* DeepSeek-V2-Lite's experts, some of a layer's */
enum {
    FFN = 1408,
    HIDDEN = 2048,
    EXPERTS = 24,
    MAX_ROWS = 96,
    TIMES = 7,
    ROUNDS = 1000 * 1000,       /* of the int8 probe, a thread */
    SLICE = 1 << 20             /* bytes of a task of the read probe */
};


typedef struct {
    const moe_kernels_t  *k;
    moe_kctx_t            c;
    uint8_t              *weights;
    size_t                bytes;        /* of weights, all experts */
    float                *x;
    float                *out;
    moe_glu_t             parts[EXPERTS];
    _Atomic uint64_t      ops;
} products_t;


static double
now(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}


static void *
map(size_t n)
{
    void  *p;

    p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0);

    if (p == MAP_FAILED) {
        return NULL;
    }

    (void) madvise(p, n, MADV_HUGEPAGE);

    return p;
}


static size_t
expert_bytes(moe_wtype_e type)
{
    return 2 * moe_packed_size(type, FFN, HIDDEN)
           + moe_packed_size(type, HIDDEN, FFN);
}


/* any quants, scales about 2^-7 */
static void
fill(products_t *p, moe_wtype_e type)
{
    size_t     i, j, block, quants;
    uint16_t   half;
    uint64_t   r, *w;

    block = moe_packed_block(type);
    quants = moe_packed_quants(type);
    r = 1;
    w = (uint64_t *) p->weights;

    for (i = 0; i < p->bytes / 8; i++) {
        r = r * 6364136223846793005u + 1442695040888963407u;
        w[i] = r ^ r >> 32;
    }

    for (i = 0; i < p->bytes; i += block) {
        if (type == MOE_W_MX4_G32) {
            memset(p->weights + i + quants, 120, block - quants);
            continue;
        }

        for (j = quants; j < block; j += 2) {
            half = (uint16_t) (0x2000 + (j & 0xff));
            memcpy(p->weights + i + j, &half, 2);
        }
    }
}


static void
set_parts(products_t *p, moe_wtype_e type, uint32_t rows)
{
    size_t      one;
    uint32_t    e;
    uint8_t    *w;

    one = moe_packed_size(type, FFN, HIDDEN);

    for (e = 0; e < EXPERTS; e++) {
        w = p->weights + e * expert_bytes(type);
        p->parts[e] = (moe_glu_t) {
            .gate = { w, NULL, type, FFN, HIDDEN, 0, 0 },
            .up = { w + one, NULL, type, FFN, HIDDEN, 0, 0 },
            .down = { w + 2 * one, NULL, type, HIDDEN, FFN, 0, 0 },
            .x = p->x + (size_t) e * rows * HIDDEN,
            .out = p->out + (size_t) e * rows * HIDDEN,
            .nrows = rows
        };
    }
}


static void
read_task(void *ctx, uint32_t task, uint32_t thread)
{
    products_t  *p = ctx;

    atomic_fetch_add(&p->ops, p->k->probe_read(p->weights
                                               + (size_t) task * SLICE,
                                               SLICE) & 1);
}


static void
int8_task(void *ctx, uint32_t task, uint32_t thread)
{
    products_t  *p = ctx;

    atomic_fetch_add(&p->ops, p->k->probe_int8(ROUNDS));
}


static int
by_value(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


/* one line: product and both probes in turn, medians of each */
static void
measure(products_t *p, moe_wtype_e type, uint32_t rows)
{
    int       i;
    double    t, ops, read[TIMES], peak[TIMES], run[TIMES];
    uint32_t  threads;

    threads = moe_pool_threads(p->c.pool);
    set_parts(p, type, rows);
    p->k->glu(&p->c, p->parts, EXPERTS);

    for (i = 0; i < TIMES; i++) {
        t = now();
        moe_pool_run(p->c.pool, (uint32_t) (p->bytes / SLICE), read_task, p);
        read[i] = (double) (p->bytes / SLICE * SLICE) / (now() - t) / 1e9;

        set_parts(p, type, rows);
        t = now();
        p->k->glu(&p->c, p->parts, EXPERTS);
        run[i] = now() - t;

        atomic_store(&p->ops, 0);
        t = now();
        moe_pool_run(p->c.pool, threads * 2, int8_task, p);
        peak[i] = (double) atomic_load(&p->ops) / (now() - t) / 1e9;
    }

    qsort(read, TIMES, sizeof(double), by_value);
    qsort(peak, TIMES, sizeof(double), by_value);
    qsort(run, TIMES, sizeof(double), by_value);

    t = run[TIMES / 2];
    ops = 6.0 * rows * EXPERTS * FFN * HIDDEN / t / 1e9;

    printf("| %s | %u | %.2f | %.1f | %.0f %% | %.0f | %.0f %% |\n",
           type == MOE_W_I8_G32 ? "int8"
           : type == MOE_W_I4_G32 ? "int4" : "mxfp4", rows,
           t / EXPERTS * 1e3, (double) p->bytes / t / 1e9,
           (double) p->bytes / t / 1e7 / read[TIMES / 2], ops,
           peak[TIMES / 2] > 0 ? 100 * ops / peak[TIMES / 2] : 0.0);
    fflush(stdout);

    if (rows == MAX_ROWS) {
        printf("| probes | | | %.1f | 100 %% | %.0f | 100 %% |\n",
               read[TIMES / 2], peak[TIMES / 2]);
    }
}


static int
prepare(products_t *p, uint32_t threads, const char *kernels, moe_err_t *err)
{
    size_t     i, n;
    cpu_set_t  set;

    p->k = moe_kernels_get(kernels);
    if (p->k == NULL) {
        return moe_err(err, "this machine has no kernels \"%s\"", kernels);
    }

    if (p->k->memory != NULL) {
        return moe_err(err, "kernels \"%s\" compute in no memory of this "
                       "process", kernels);
    }

    if (threads == 0) {
        threads = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? (uint32_t) CPU_COUNT(&set) : 1;
    }

    n = (size_t) EXPERTS * MAX_ROWS * HIDDEN;
    p->c.pool = moe_pool_create(threads, err);
    p->c.quant_size = (size_t) EXPERTS * MAX_ROWS
                      * (moe_quant_row(HIDDEN) + moe_quant_row(FFN));
    p->c.quant = map(p->c.quant_size);
    p->weights = map(expert_bytes(MOE_W_I8_G32) * EXPERTS);
    p->x = map(n * sizeof(float));
    p->out = map(n * sizeof(float));

    if (p->c.pool == NULL || p->c.quant == NULL || p->weights == NULL
        || p->x == NULL || p->out == NULL)
    {
        return moe_err(err, "out of memory");
    }

    for (i = 0; i < n; i++) {
        p->x[i] = (float) (i * 2654435761u % 2001) / 1000 - 1;
    }

    return 0;
}


int
moe_bench_products(uint32_t threads, const char *kernels, moe_err_t *err)
{
    int                        rc;
    size_t                     i, j;
    products_t                *p;
    static const moe_wtype_e   types[] = {
        MOE_W_I8_G32, MOE_W_I4_G32, MOE_W_MX4_G32
    };
    static const uint32_t      rows[] = { 1, 2, 3, 4, 12, 48, MAX_ROWS };

    p = calloc(1, sizeof(products_t));
    if (p == NULL) {
        return moe_err(err, "out of memory");
    }

    rc = prepare(p, threads, kernels, err);

    if (rc == 0) {
        printf("%d experts of %d x %d, kernels %s, %u threads, medians of "
               "%d\n\n"
               "| format | rows | ms an expert | GB/s | of what is read | "
               "GOP/s | of the peak |\n"
               "|---|---:|---:|---:|---:|---:|---:|\n", EXPERTS, FFN, HIDDEN,
               p->k->name, moe_pool_threads(p->c.pool), TIMES);
    }

    for (i = 0; rc == 0 && i < 3; i++) {
        p->bytes = expert_bytes(types[i]) * EXPERTS;
        fill(p, types[i]);

        for (j = 0; j < sizeof(rows) / sizeof(rows[0]); j++) {
            measure(p, types[i], rows[j]);
        }
    }

    /* what could not be mapped is NULL, which munmap refuses */
    munmap(p->c.quant, p->c.quant_size);
    munmap(p->weights, expert_bytes(MOE_W_I8_G32) * EXPERTS);
    munmap(p->x, (size_t) EXPERTS * MAX_ROWS * HIDDEN * sizeof(float));
    munmap(p->out, (size_t) EXPERTS * MAX_ROWS * HIDDEN * sizeof(float));
    moe_pool_destroy(p->c.pool);
    free(p);

    return rc;
}
