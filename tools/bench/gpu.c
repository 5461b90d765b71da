/*
 * gpu [small]: how fast the GPU backend's operations are, each at shapes of
 * real models, beside the device's own copy in the same run.
 *
 * Prints a JSON array of objects: what, rows, ms (the median of some runs),
 * bytes (that have to be read and written at the least) and operations a run,
 * GB/s and its part of the copy's, TFLOP/s.  A run is enough calls for a
 * millisecond; they are not waited for one by one, but launching them is in
 * the time.  small: sizes for a machine that only emulates a GPU.
 */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"


enum { RUNS = 7, MAX_CALLS = 200 };


typedef struct bench_s  bench_t;

typedef void (*call_pt)(bench_t *b);

struct bench_s {
    const moe_kernels_t  *k;
    moe_kctx_t            c;
    double                copy;         /* bytes a second, both ways counted */
    int                   first;        /* nothing has been printed */
    uint32_t              shrink;       /* sizes are divided by it */

    char                 *a;            /* weights, and what is read */
    char                 *out;
    float                *x;
    size_t                bytes;        /* of each of the three */

    moe_matmul_t          part;
    moe_glu_t             glu[8];
    moe_attention_t       attention;
    moe_route_t           route;
    uint32_t              nrows;
    uint32_t             *ids;
};


static double
now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec * 1e-9;
}


static void
die(const char *what)
{
    fprintf(stderr, "gpu: %s\n", what);
    exit(1);
}


static void *
take(bench_t *b, size_t bytes)
{
    void       *p;
    moe_err_t   err;

    p = b->k->memory->take(b->c.device, bytes, &err);
    if (p == NULL) {
        die(err.text);
    }

    return p;
}


static void
wait(bench_t *b)
{
    char       last;
    moe_err_t  err;

    if (b->k->memory->get(b->c.device, &last, b->out, 1, &err) != 0) {
        die(err.text);
    }
}


static int
by_time(const void *a, const void *b)
{
    return *(const double *) a < *(const double *) b ? -1 : 1;
}


/* seconds a call */
static double
measure(bench_t *b, call_pt call)
{
    int     i, j, calls;
    double  t, times[RUNS];

    call(b);
    wait(b);

    t = now();
    call(b);
    wait(b);
    t = now() - t;

    calls = t > 1e-3 ? 1 : (int) (1e-3 / t) + 1;
    calls = calls > MAX_CALLS ? MAX_CALLS : calls;

    for (i = 0; i < RUNS; i++) {
        t = now();

        for (j = 0; j < calls; j++) {
            call(b);
        }

        wait(b);
        times[i] = (now() - t) / calls;
    }

    qsort(times, RUNS, sizeof(times[0]), by_time);

    return times[RUNS / 2];
}


static void
report(bench_t *b, const char *what, uint32_t rows, call_pt call,
    double bytes, double operations)
{
    double  t;

    t = measure(b, call);

    if (b->copy == 0) {
        b->copy = bytes / t;
    }

    printf("%s\n  {\"what\": \"%s\", \"rows\": %u, \"ms\": %.5f, "
           "\"bytes\": %.0f, \"operations\": %.0f, \"gb_s\": %.1f, "
           "\"of_copy\": %.3f, \"tflop_s\": %.2f}", b->first ? "" : ",", what, rows, t * 1e3,
           bytes, operations, bytes / t * 1e-9, bytes / t / b->copy,
           operations / t * 1e-12);
    fflush(stdout);
    b->first = 0;
}


static void
call_copy(bench_t *b)
{
    b->k->memory->move(b->c.device, b->out, b->a, b->bytes);
}


static void
call_matmul(bench_t *b)
{
    b->k->matmul(&b->c, &b->part, 1);
}


static void
call_glu(bench_t *b)
{
    b->k->glu(&b->c, b->glu, 8);
}


static void
call_attention(bench_t *b)
{
    b->k->attention(&b->c, &b->attention);
}


static void
call_norm(bench_t *b)
{
    b->k->rmsnorm(&b->c, b->x, b->part.w.k, 1, b->part.w.k,
                  (const float *) b->a, 1e-6f, b->nrows, (float *) b->out,
                  b->part.w.k);
}


static void
call_route(bench_t *b)
{
    b->k->route(&b->c, &b->route, b->x, b->nrows, b->ids, (float *) b->out);
}


static void
products(bench_t *b, moe_wtype_e type, const char *what, uint32_t n,
    uint32_t k)
{
    size_t    i;
    double    weights;

    static const uint32_t  rows[] = { 1, 4, 8, 32, 128, 512, 2048 };

    n /= b->shrink;
    k /= b->shrink;
    weights = moe_is_packed(type) ? (double) moe_packed_size(type, n, k)
              : (double) n * k * (type == MOE_W_F32 ? 4
                                  : type == MOE_W_F8_E4M3 ? 1 : 2);

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        b->part = (moe_matmul_t) {
            .w = { .data = b->a, .type = type, .n = n, .k = k,
                   .scale = (const float *) b->x,
                   .scale_cols = (k + 127) / 128 },
            .x = b->x, .ldx = k, .out = (float *) b->out, .ldo = n,
            .nrows = rows[i] / b->shrink + (rows[i] < b->shrink)
        };
        report(b, what, b->part.nrows, call_matmul,
               weights + (double) b->part.nrows * (n + k) * 4,
               2.0 * b->part.nrows * n * k);
    }
}


/* eight experts at once */
static void
experts(bench_t *b, moe_wtype_e type, const char *what)
{
    size_t    i, j, at, up, down;
    uint32_t  f, k;

    static const uint32_t  rows[] = { 1, 16, 128 };

    f = 2048 / b->shrink;
    k = 7168 / b->shrink;
    up = moe_packed_size(type, f, k);
    down = moe_packed_size(type, k, f);

    for (i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        for (j = 0, at = 0; j < 8; j++) {
            b->glu[j] = (moe_glu_t) {
                .gate = { .data = b->a + at, .type = type, .n = f, .k = k },
                .up = { .data = b->a + at + up, .type = type, .n = f,
                        .k = k },
                .down = { .data = b->a + at + 2 * up, .type = type, .n = k,
                          .k = f },
                .x = b->x, .out = (float *) b->out,
                .nrows = rows[i] / b->shrink + (rows[i] < b->shrink)
            };
            at += 2 * up + down;
        }

        report(b, what, b->glu[0].nrows, call_glu,
               8.0 * (double) (2 * up + down)
               + 64.0 * b->glu[0].nrows * k,
               8 * 6.0 * b->glu[0].nrows * f * k);
    }
}


/* rows that decode, each of a sequence of its own, keys positions long */
static void
attend(bench_t *b, const char *what, int latent, uint32_t heads,
    uint32_t kv_heads, uint32_t k_dim, uint32_t v_dim, uint32_t nrows,
    uint32_t keys)
{
    double        bytes;
    uint32_t      i, pages, all, *table, *dtable, *pos, *dpos;
    moe_span_t   *spans, *dspans;
    moe_kv_t      kv;

    nrows = nrows / b->shrink + (nrows < b->shrink);
    keys = keys / b->shrink;
    heads = heads / b->shrink < kv_heads ? kv_heads : heads / b->shrink;
    pages = (keys + MOE_KV_PAGE - 1) / MOE_KV_PAGE;

    kv = (moe_kv_t) { .base = (uint8_t *) b->a, .type = MOE_W_BF16,
                      .heads = kv_heads, .k_dim = k_dim, .v_dim = v_dim,
                      .latent = latent };
    kv.stride = (size_t) kv_heads * MOE_KV_PAGE * 2
                * (k_dim + (latent ? 0 : v_dim));

    all = pages * nrows;

    if ((size_t) all * kv.stride > b->bytes) {
        die("keys that there is no memory for");
    }

    table = malloc(all * 4);
    pos = malloc(nrows * 4);
    spans = malloc(nrows * sizeof(moe_span_t));
    dtable = take(b, all * 4);

    /* the sequences' pages among each other */
    for (i = 0; i < all; i++) {
        table[i] = i % pages * nrows + i / pages;
    }

    for (i = 0; i < nrows; i++) {
        pos[i] = keys - 1;
        spans[i] = (moe_span_t) { i, 1, dtable + (size_t) i * pages };
    }

    dpos = take(b, nrows * 4);
    dspans = take(b, nrows * sizeof(moe_span_t));
    b->k->memory->put(b->c.device, dtable, table, all * 4);
    b->k->memory->put(b->c.device, dpos, pos, nrows * 4);
    b->k->memory->put(b->c.device, dspans, spans,
                      nrows * sizeof(moe_span_t));

    b->attention = (moe_attention_t) {
        .kv = kv, .n_heads = heads, .scale = 0.1f, .q = b->x,
        .out = (float *) b->out, .ldq = (size_t) heads * k_dim,
        .ldo = (size_t) heads * v_dim, .pos = dpos, .spans = dspans,
        .nspans = nrows
    };

    bytes = (double) nrows * keys * kv_heads * 2
            * (k_dim + (latent ? 0 : v_dim));
    report(b, what, nrows, call_attention, bytes,
           2.0 * nrows * heads * keys * (k_dim + v_dim));

    b->k->memory->give(b->c.device, dtable);
    b->k->memory->give(b->c.device, dpos);
    b->k->memory->give(b->c.device, dspans);
    free(table);
    free(pos);
    free(spans);
}


static void
small_ones(bench_t *b)
{
    b->nrows = 512 / b->shrink;
    b->part.w.k = 7168 / b->shrink;
    report(b, "rmsnorm 7168", b->nrows, call_norm,
           (double) b->nrows * b->part.w.k * 8, 0);

    b->route = (moe_route_t) {
        .score = MOE_ROUTE_SIGMOID, .group = MOE_ROUTE_GROUP_TOP2,
        .n_experts = 256, .top_k = 8, .n_group = 8, .topk_group = 4,
        .norm = 1, .eps = 1e-20f, .scale = 2.5f
    };
    report(b, "route, 8 of 256", b->nrows, call_route,
           (double) b->nrows * 256 * 4, 0);
}


/* small numbers of both signs, which are good numbers in every format */
static void
fill(bench_t *b)
{
    size_t    i;
    uint8_t  *p;
    float    *x;

    p = malloc(b->bytes);
    x = malloc(b->bytes);

    if (p == NULL || x == NULL) {
        die("out of memory");
    }

    for (i = 0; i < b->bytes; i++) {
        p[i] = (uint8_t) (i * 2654435761u >> 13) & 0xbb;
    }

    for (i = 0; i < b->bytes / 4; i++) {
        x[i] = (float) (i * 2654435761u % 2001) / 1000 - 1;
    }

    b->k->memory->put(b->c.device, b->a, p, b->bytes);
    b->k->memory->put(b->c.device, b->x, x, b->bytes);
    wait(b);
    free(p);
    free(x);
}


int
main(int argc, char **argv)
{
    bench_t    b;
    moe_err_t  err;

    memset(&b, 0, sizeof(b));
    b.k = moe_kernels_get("cuda");
    if (b.k == NULL) {
        die("there is no GPU, or this program was built without CUDA=1");
    }

    b.c.device = b.k->memory->open(&err);
    if (b.c.device == NULL) {
        die(err.text);
    }

    b.first = 1;
    b.shrink = argc > 1 && strcmp(argv[1], "small") == 0 ? 32 : 1;
    b.bytes = (size_t) (768 << 20) / b.shrink / b.shrink;
    b.a = take(&b, b.bytes);
    b.out = take(&b, b.bytes);
    b.x = take(&b, b.bytes);
    b.c.quant_size = (size_t) (256 << 20) / b.shrink;
    b.c.quant = take(&b, b.c.quant_size);
    b.ids = take(&b, 4096 * 16 * 4);
    fill(&b);

    printf("[");
    report(&b, "copy", 0, call_copy, 2.0 * (double) b.bytes, 0);
    products(&b, MOE_W_BF16, "matmul bf16 7168 x 2048", 7168, 2048);
    products(&b, MOE_W_F8_E4M3, "matmul fp8 7168 x 2048", 7168, 2048);
    products(&b, MOE_W_I8_G32, "matmul int8 7168 x 2048", 7168, 2048);
    products(&b, MOE_W_I4_G32, "matmul int4 7168 x 2048", 7168, 2048);
    products(&b, MOE_W_MX4_G32, "matmul mxfp4 7168 x 2048", 7168, 2048);
    experts(&b, MOE_W_I8_G32, "8 experts int8");
    experts(&b, MOE_W_I4_G32, "8 experts int4");
    experts(&b, MOE_W_MX4_G32, "8 experts mxfp4");
    attend(&b, "MLA decode, 128 heads, 4096 keys", 1, 128, 1, 576, 512, 64,
           4096);
    attend(&b, "GQA decode, 32 heads of 4, 4096 keys", 0, 32, 4, 128, 128,
           64, 4096);
    small_ones(&b);
    printf("\n]\n");

    return 0;
}
