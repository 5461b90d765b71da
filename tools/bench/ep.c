/*
 * What expert parallelism gives on one machine: the same batch in all, served
 * by two replicas of one thread each, by two expert-parallel ranks of one
 * thread each, and by one engine with two threads.
 *
 *     build/bench-ep DIR [REPEATS [BATCH...]]
 *
 * DIR is a packed model (moe-engine quantize).  Decode of short sequences:
 * tokens a second of all together, bytes of routed experts' weights that they
 * read a token, counted where rows go to experts, the exchange's time a layer
 * (with the wait for the other rank), and memory.  "Theory" is from the
 * experts that so many rows touch when each chooses its own at random: what
 * two replicas read over what spread experts do.
 */

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "batch.h"
#include "ep/shm.h"
#include "model/weights.h"
#include "proc.h"


enum {
    PROCS = 2,
    WAYS = 3,
    BATCHES = 16,
    REPEATS = 9,
    SAMPLES = 1 << 16
};

typedef enum { REPLICAS, SPREAD, ONE } way_e;

static const struct {
    const char  *name;
    uint32_t     procs;
    uint32_t     threads;
} ways[WAYS] = {
    { "two replicas", 2, 1 }, { "two EP ranks", 2, 1 },
    { "one engine, two threads", 1, 2 }
};


/* of one process in one batch, between its first and its last tokens */
typedef struct {
    uint64_t           sampled;
    uint64_t           us;
    uint64_t           experts;         /* whose weights were read */
    uint64_t           steps;
    double             layer_us;        /* dispatch and combine, median */
    double             exchange_s;
} result_t;

/* of a way in one batch, all processes together */
typedef struct {
    double             rate;
    double             experts;         /* a step */
    double             layer_us;
    double             exchange;        /* part of the time */
    long               pss_kb;
    long               rss_kb;          /* of the largest process */
} point_t;

typedef struct {
    pthread_barrier_t  barrier;
    result_t           results[PROCS];
} shared_t;

/* an exchange that counts what goes through another one */
typedef struct {
    moe_exchange_t     base;
    moe_exchange_t    *inner;
    double             begun;
    double             sum_us;
    uint64_t           experts;
    uint64_t           steps;
    uint32_t           n;
    double            *us;              /* [SAMPLES] */
} meter_t;

typedef struct {
    const char        *dir;
    way_e              way;
    uint32_t           rank;
    moe_shm_t         *shm;             /* of spread experts */
    meter_t            meter;
    batch_t            batch;
} engine_t;


static shared_t  *shared;


static void
fail(const char *what, const moe_err_t *err)
{
    fprintf(stderr, "bench-ep: %s: %s\n", what,
            err ? err->text : strerror(errno));
    _exit(1);
}


static void
gone(int signo)
{
    static const char  line[] = "bench-ep: a process is gone\n";

    (void) !write(STDERR_FILENO, line, sizeof(line) - 1);
    _exit(1);
}


/* the counting exchange */


static int
meter_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    meter_t  *m;

    m = (meter_t *) x;
    m->steps++;

    return m->inner->ops->begin(m->inner, nrows, deadline, late, err);
}


static int
meter_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    int       rc;
    meter_t  *m;

    m = (meter_t *) x;
    m->begun = now_us();

    rc = m->inner->ops->dispatch(m->inner, layer, nrows, rows, experts,
                                 deadline, work, late, err);

    m->begun = now_us() - m->begun;
    m->experts += rc == MOE_EXCHANGE_OK ? work->nexperts : 0;

    return rc;
}


static int
meter_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    int       rc;
    double    begun;
    meter_t  *m;

    m = (meter_t *) x;
    begun = now_us();
    rc = m->inner->ops->combine(m->inner, layer, deadline, result, late, err);
    begun = now_us() - begun + m->begun;

    m->sum_us += begun;

    if (m->n < SAMPLES) {
        m->us[m->n++] = begun;
    }

    return rc;
}


static void
meter_close(moe_exchange_t *x)
{
    meter_t  *m;

    m = (meter_t *) x;
    m->inner->ops->close(m->inner);
}


static moe_exchange_t *
meter_open(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    meter_t            *m;
    engine_t           *e;
    moe_shm_options_t   o;

    static const moe_exchange_ops_t  ops = {
        .begin = meter_begin,
        .dispatch = meter_dispatch,
        .combine = meter_combine,
        .close = meter_close
    };

    e = ctx;
    m = &e->meter;
    memset(&o, 0, sizeof(o));
    o.rank = e->rank;

    m->inner = e->way == SPREAD ? moe_exchange_shm(e->shm, shape, &o, err)
                                : moe_exchange_local(shape, err);
    if (m->inner == NULL) {
        return NULL;
    }

    m->base = *m->inner;
    m->base.ops = &ops;

    return &m->base;
}


static void
meter_reset(meter_t *m)
{
    m->experts = 0;
    m->steps = 0;
    m->sum_us = 0;
    m->n = 0;
}


/* an engine */


static void
open_engine(engine_t *e, uint32_t most)
{
    moe_err_t            err;
    moe_model_options_t  mo;

    memset(&mo, 0, sizeof(mo));
    mo.threads = ways[e->way].threads;
    mo.exchange = meter_open;
    mo.exchange_ctx = e;

    e->meter.us = calloc(SAMPLES, sizeof(double));

    if (e->meter.us == NULL
        || batch_open(&e->batch, e->dir, &mo, most, &err) != 0)
    {
        fail("engine", &err);
    }
}


/* so many of this process's sequences */
static void
run_batch(engine_t *e, uint32_t batch, uint32_t tokens, result_t *r)
{
    double     begun;
    uint64_t   sampled;
    moe_err_t  err;

    if (batch_begin(&e->batch, batch, tokens, &err) != 0) {
        fail("step", &err);
    }

    pthread_barrier_wait(&shared->barrier);

    meter_reset(&e->meter);
    sampled = e->batch.sampled;
    begun = now_us();

    if (batch_finish(&e->batch, batch, &err) != 0) {
        fail("step", &err);
    }

    r->us = (uint64_t) (now_us() - begun);
    r->sampled = e->batch.sampled - sampled;
    r->experts = e->meter.experts;
    r->steps = e->meter.steps;
    r->layer_us = median(e->meter.us, e->meter.n);
    r->exchange_s = e->meter.sum_us * 1e-6;
}


static void
process(engine_t *e, const uint32_t *batches, uint32_t n)
{
    uint32_t  i, procs;

    (void) prctl(PR_SET_PDEATHSIG, SIGKILL);

    procs = ways[e->way].procs;
    e->batch.random = e->rank + 1;
    open_engine(e, batches[n - 1] / procs);

    /* once for nothing, with all: it finds the weights' pages */
    for (i = 0; i <= n; i++) {
        pthread_barrier_wait(&shared->barrier);
        run_batch(e, batches[i ? i - 1 : n - 1] / procs,
                  i ? batch_tokens(batches[i - 1]) : 2,
                  &shared->results[e->rank]);
        pthread_barrier_wait(&shared->barrier);
    }

    /* the parent looks at memory */
    pthread_barrier_wait(&shared->barrier);
    _exit(0);
}


static void
collect(point_t *p, uint32_t procs)
{
    uint32_t         i;
    const result_t  *r;

    memset(p, 0, sizeof(point_t));

    for (i = 0; i < procs; i++) {
        r = &shared->results[i];
        p->rate += (double) r->sampled * 1e6 / (double) r->us;
        p->experts += (double) r->experts / (double) r->steps;
        p->layer_us += r->layer_us / procs;
        p->exchange += r->exchange_s * 1e6 / (double) r->us / procs;
    }
}


static void
run_way(const char *dir, way_e way, const uint32_t *batches, uint32_t n,
    point_t *points)
{
    long                  kb;
    pid_t                 pids[PROCS];
    char                  pid[16];
    uint32_t              i, r, procs;
    moe_err_t             err;
    engine_t              e;
    moe_model_options_t   mo;
    moe_exchange_shape_t  shape;
    pthread_barrierattr_t attr;

    procs = ways[way].procs;
    memset(&e, 0, sizeof(e));
    e.dir = dir;
    e.way = way;

    pthread_barrierattr_init(&attr);
    pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &attr, procs + 1);

    if (way == SPREAD) {
        memset(&mo, 0, sizeof(mo));
        mo.max_rows = 512;

        if (moe_model_exchange_shape(dir, &mo, &shape, &err) != 0
            || (e.shm = moe_shm_create(&shape, procs, &err)) == NULL)
        {
            fail(dir, &err);
        }
    }

    fflush(stdout);
    signal(SIGCHLD, gone);

    for (r = 0; r < procs; r++) {
        pids[r] = fork();

        if (pids[r] == 0) {
            signal(SIGCHLD, SIG_DFL);
            e.rank = r;
            process(&e, batches, n);
        }
    }

    for (i = 0; i <= n; i++) {
        pthread_barrier_wait(&shared->barrier);
        pthread_barrier_wait(&shared->barrier);
        pthread_barrier_wait(&shared->barrier);

        if (i > 0) {
            collect(&points[i - 1], procs);
        }
    }

    for (r = 0; r < procs; r++) {
        snprintf(pid, sizeof(pid), "%d", (int) pids[r]);
        points[n - 1].pss_kb += proc_rollup_kb(pid, "Pss");
        kb = proc_rollup_kb(pid, "Rss");
        points[n - 1].rss_kb = kb > points[n - 1].rss_kb
                               ? kb : points[n - 1].rss_kb;
    }

    signal(SIGCHLD, SIG_DFL);
    pthread_barrier_wait(&shared->barrier);

    while (wait(NULL) > 0 || errno == EINTR) {
        /* void */
    }

    moe_shm_free(e.shm);
    pthread_barrier_destroy(&shared->barrier);
}


/* bytes of one routed expert of a layer, as the file has them */
static double
expert_bytes(const char *dir, moe_config_t *cfg)
{
    size_t                  i;
    double                  sum;
    moe_err_t               err;
    moe_weights_t          *w;
    const moe_st_tensor_t  *t;

    if (moe_config_load(dir, cfg, &err) != 0
        || (w = moe_weights_load(dir, cfg, &err)) == NULL)
    {
        fail(dir, &err);
    }

    sum = 0;

    for (i = 0; i < moe_st_count(w->st); i++) {
        t = moe_st_at(w->st, i);

        if (strstr(t->name, ".experts.") != NULL) {
            sum += (double) t->size;
        }
    }

    moe_weights_free(w);

    return sum / cfg->n_moe_layers / cfg->n_experts;
}


/* of so many rows that go to all experts of a layer */
static double
touched(const moe_config_t *cfg, uint32_t rows)
{
    return cfg->n_experts * (1 - pow(1 - (double) cfg->top_k / cfg->n_experts,
                                     rows));
}


static point_t
middle(point_t points[REPEATS][WAYS][BATCHES], uint32_t repeats, int way,
    uint32_t b)
{
    point_t   p;
    double    rate[REPEATS], experts[REPEATS], us[REPEATS], part[REPEATS];
    uint32_t  i;

    for (i = 0; i < repeats; i++) {
        rate[i] = points[i][way][b].rate;
        experts[i] = points[i][way][b].experts;
        us[i] = points[i][way][b].layer_us;
        part[i] = points[i][way][b].exchange;
    }

    p = points[repeats - 1][way][b];
    p.rate = median(rate, repeats);
    p.experts = median(experts, repeats);
    p.layer_us = median(us, repeats);
    p.exchange = median(part, repeats);

    return p;
}


static void
report(point_t points[REPEATS][WAYS][BATCHES], uint32_t repeats,
    const uint32_t *batches, uint32_t n, const moe_config_t *cfg, double mb)
{
    point_t   p[WAYS];
    uint32_t  b, w;

    printf("\n| batch | replicas, tok/s | EP, tok/s | one engine, tok/s "
           "| EP over replicas | MB of experts a token: replicas | EP "
           "| one engine | counted | theory "
           "| exchange, us a layer | of EP's time | without ranks, us |\n"
           "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:"
           "|---:|\n");

    for (b = 0; b < n; b++) {
        for (w = 0; w < WAYS; w++) {
            p[w] = middle(points, repeats, (int) w, b);
        }

        printf("| %u | %.2f | %.2f | %.2f | %.2f | %.1f | %.1f | %.1f | %.2f "
               "| %.2f | %.0f | %.0f %% | %.1f |\n", batches[b], p[0].rate,
               p[1].rate, p[2].rate, p[1].rate / p[0].rate,
               p[0].experts * mb / batches[b], p[1].experts * mb / batches[b],
               p[2].experts * mb / batches[b], p[0].experts / p[1].experts,
               2 * touched(cfg, batches[b] / 2) / touched(cfg, batches[b]),
               p[1].layer_us, p[1].exchange * 100, p[2].layer_us);
    }

    printf("\n| | memory of all (PSS), MB | largest process (RSS), MB |\n"
           "|---|---:|---:|\n");

    for (w = 0; w < WAYS; w++) {
        printf("| %s | %.0f | %.0f |\n", ways[w].name,
               (double) p[w].pss_kb / 1024, (double) p[w].rss_kb / 1024);
    }
}


/* each run is printed too: medians hide how much they differ */
static void
print_runs(const point_t points[BATCHES], uint32_t repeat, int way,
    const uint32_t *batches, uint32_t n)
{
    uint32_t  b;

    printf("run %u, %s:", repeat + 1, ways[way].name);

    for (b = 0; b < n; b++) {
        printf(" %u: %.2f", batches[b], points[b].rate);
    }

    printf(" tok/s\n");
    fflush(stdout);
}


int
main(int argc, char **argv)
{
    int            i, w;
    double         mb;
    uint32_t       n, repeats, r;
    moe_config_t   cfg;

    static point_t   points[REPEATS][WAYS][BATCHES];
    static uint32_t  batches[BATCHES] = { 2, 4, 8, 16, 32, 64 };

    if (argc < 2) {
        fputs("usage: bench-ep DIR [REPEATS [BATCH...]]\n", stderr);
        return 2;
    }

    repeats = argc > 2 ? (uint32_t) atoi(argv[2]) : 3;
    n = argc > 3 ? 0 : 6;

    for (i = 3; i < argc && n < BATCHES; i++) {
        batches[n++] = (uint32_t) atoi(argv[i]);
    }

    for (r = 0; r < n; r++) {
        if (batches[r] < 2 || batches[r] % 2 || batches[r] > 128
            || (r > 0 && batches[r] <= batches[r - 1]))
        {
            fputs("bench-ep: batches are even, ascending, to 128\n", stderr);
            return 2;
        }
    }

    if (repeats < 1 || repeats > REPEATS) {
        fputs("bench-ep: 1 to 9 repeats\n", stderr);
        return 2;
    }

    shared = mmap(NULL, sizeof(shared_t), PROT_READ|PROT_WRITE,
                  MAP_SHARED|MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) {
        fail("mmap", NULL);
    }

    mb = expert_bytes(argv[1], &cfg) * 1e-6;

    printf("%s: %d layers with %d experts, %d a token, %.2f MB each\n\n",
           argv[1], cfg.n_moe_layers, cfg.n_experts, cfg.top_k, mb);

    for (r = 0; r < repeats; r++) {
        for (w = 0; w < WAYS; w++) {
            run_way(argv[1], (way_e) w, batches, n, points[r][w]);
            print_runs(points[r][w], r, w, batches, n);
        }
    }

    report(points, repeats, batches, n, &cfg, mb);

    return 0;
}
