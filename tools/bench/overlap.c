/*
 * What steps in two halves bring between ranks over MPI: the same batch in
 * whole steps and in halves, in turns.
 *
 *     mpirun -np N ... build/bench-overlap DIR [REPEATS [BATCH...]]
 *
 * DIR is a packed model (moe-engine quantize), BATCH are sequences of all
 * ranks together, which decode.  Each rank has one thread.  The exchange's
 * time a layer is what the calls of an exchange take, with the wait for the
 * other ranks: in halves, what of it is left beside the computing.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "batch.h"
#include "ep/mpi.h"


enum { BATCHES = 16, REPEATS = 9, MODES = 2 };

/* of a rank in one batch */
typedef struct {
    double    rate;             /* tokens a second */
    double    layer_us;
    double    share;            /* of the time, the exchange's */
    uint64_t  halved;           /* steps */
} result_t;

typedef struct {
    const char       *dir;
    const moe_mpi_t  *mpi;
    moe_overlap_e     mode;
    moe_exchange_t   *exchange;
    batch_t           batch;
} run_t;


/* the exchange's own calls, with a clock beside them */
static struct {
    const moe_exchange_ops_t  *real;
    moe_exchange_ops_t         ops;
    double                     us;
    uint64_t                   layers;
} meter;


static void
fail(const moe_mpi_t *mpi, const moe_err_t *err)
{
    fprintf(stderr, "bench-overlap: %s\n", err->text);

    if (mpi->link != NULL) {
        mpi->link->abort(1);
    }

    _exit(1);
}


static int
timed(double begun, int rc)
{
    meter.us += now_us() - begun;

    return rc;
}


static int
timed_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    return timed(begun, meter.real->dispatch(x, layer, nrows, rows, experts,
                                             deadline, work, late, err));
}


static int
timed_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    meter.layers++;

    return timed(begun, meter.real->combine(x, layer, deadline, result, late,
                                            err));
}


static int
timed_dispatch_send(moe_exchange_t *x, uint32_t half, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    return timed(begun, meter.real->dispatch_send(x, half, layer, nrows, rows,
                                                  experts, deadline, late,
                                                  err));
}


static int
timed_dispatch_wait(moe_exchange_t *x, uint32_t half, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    return timed(begun, meter.real->dispatch_wait(x, half, deadline, work,
                                                  late, err));
}


static int
timed_combine_send(moe_exchange_t *x, uint32_t half, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    meter.layers += half;

    return timed(begun, meter.real->combine_send(x, half, deadline, late,
                                                 err));
}


static int
timed_combine_wait(moe_exchange_t *x, uint32_t half, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    double  begun = now_us();

    return timed(begun, meter.real->combine_wait(x, half, deadline, result,
                                                 late, err));
}


static moe_exchange_t *
open_exchange(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    run_t              *r = ctx;
    moe_mpi_options_t   o;

    memset(&o, 0, sizeof(o));
    o.overlap = r->mode;
    r->exchange = moe_exchange_mpi(r->mpi, shape, &o, err);

    if (r->exchange == NULL) {
        return NULL;
    }

    meter.real = r->exchange->ops;
    meter.ops = *meter.real;
    meter.ops.dispatch = timed_dispatch;
    meter.ops.combine = timed_combine;
    meter.ops.dispatch_send = timed_dispatch_send;
    meter.ops.dispatch_wait = timed_dispatch_wait;
    meter.ops.combine_send = timed_combine_send;
    meter.ops.combine_wait = timed_combine_wait;
    r->exchange->ops = &meter.ops;

    return r->exchange;
}


/* all ranks have come so far */
static int
meet(const run_t *r, moe_err_t *err)
{
    uint32_t  mine, all[MOE_LINK_RANKS];

    mine = 0;

    return moe_mpi_gather(r->mpi, &mine, all, sizeof(mine), err);
}


/* n sequences of this rank */
static int
run_batch(run_t *r, uint32_t n, uint32_t tokens, result_t *result,
    moe_err_t *err)
{
    double                 us;
    uint64_t               sampled, halved;
    moe_overlap_figures_t  f;

    if (batch_begin(&r->batch, n, tokens, err) != 0 || meet(r, err) != 0) {
        return -1;
    }

    moe_exchange_mpi_overlap(r->exchange, &f);
    halved = f.halved;
    meter.us = 0;
    meter.layers = 0;
    sampled = r->batch.sampled;
    us = now_us();

    if (batch_finish(&r->batch, n, err) != 0) {
        return -1;
    }

    us = now_us() - us;
    moe_exchange_mpi_overlap(r->exchange, &f);

    result->rate = (double) (r->batch.sampled - sampled) * 1e6 / us;
    result->layer_us = meter.us / (double) meter.layers;
    result->share = meter.us / us;
    result->halved = f.halved - halved;

    return meet(r, err);
}


/* of all ranks together, in each batch */
static int
run_mode(run_t *r, const uint32_t *batches, uint32_t n, result_t *sums,
    moe_err_t *err)
{
    uint32_t             i, k, most, ranks;
    result_t             mine, all[MOE_LINK_RANKS];
    moe_model_options_t  mo;

    ranks = r->mpi->nranks;
    most = batches[n - 1] / ranks;

    memset(&mo, 0, sizeof(mo));
    mo.threads = 1;
    mo.exchange = open_exchange;
    mo.exchange_ctx = r;

    memset(&r->batch, 0, sizeof(batch_t));
    r->batch.random = r->mpi->rank + 1;

    if (batch_open(&r->batch, r->dir, &mo, most, err) != 0
        || run_batch(r, most, 2, &mine, err) != 0)
    {
        return -1;
    }

    for (i = 0; i < n; i++) {
        if (run_batch(r, batches[i] / ranks, batch_tokens(batches[i]), &mine,
                      err) != 0
            || moe_mpi_gather(r->mpi, &mine, all, sizeof(mine), err) != 0)
        {
            return -1;
        }

        if ((mine.halved != 0) != (r->mode == MOE_OVERLAP_ON)) {
            return moe_err(err, "%llu steps were in halves",
                           (unsigned long long) mine.halved);
        }

        memset(&sums[i], 0, sizeof(result_t));

        for (k = 0; k < ranks; k++) {
            sums[i].rate += all[k].rate;
            sums[i].layer_us += all[k].layer_us / ranks;
            sums[i].share += all[k].share / ranks;
        }
    }

    moe_gen_destroy(r->batch.gen);
    moe_model_close(r->batch.model);

    return 0;
}


static result_t
middle(result_t results[REPEATS][MODES][BATCHES], uint32_t repeats, int mode,
    uint32_t batch)
{
    double    rate[REPEATS], us[REPEATS], share[REPEATS];
    uint32_t  i;

    for (i = 0; i < repeats; i++) {
        rate[i] = results[i][mode][batch].rate;
        us[i] = results[i][mode][batch].layer_us;
        share[i] = results[i][mode][batch].share;
    }

    return (result_t) {
        .rate = median(rate, repeats),
        .layer_us = median(us, repeats),
        .share = median(share, repeats)
    };
}


static void
report(result_t results[REPEATS][MODES][BATCHES], uint32_t repeats,
    const uint32_t *batches, uint32_t n)
{
    uint32_t  i, k;
    double    ratio, least, greatest;
    result_t  whole, halves;

    printf("\n| batch | whole steps, tok/s | in halves, tok/s | halves over "
           "whole | least - greatest | exchange, us a layer: whole | in "
           "halves | of the time: whole | in halves |\n"
           "|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n");

    for (i = 0; i < n; i++) {
        whole = middle(results, repeats, 0, i);
        halves = middle(results, repeats, 1, i);
        least = 1e9;
        greatest = 0;

        for (k = 0; k < repeats; k++) {
            ratio = results[k][1][i].rate / results[k][0][i].rate;
            least = ratio < least ? ratio : least;
            greatest = ratio > greatest ? ratio : greatest;
        }

        printf("| %u | %.2f | %.2f | %.2f | %.2f - %.2f | %.0f | %.0f "
               "| %.0f %% | %.0f %% |\n", batches[i], whole.rate, halves.rate,
               halves.rate / whole.rate, least, greatest, whole.layer_us,
               halves.layer_us, whole.share * 100, halves.share * 100);
    }
}


int
main(int argc, char **argv)
{
    int        i, mode;
    run_t      r;
    uint32_t   k, n, repeats;
    moe_err_t  err;
    moe_mpi_t  mpi;

    static result_t  results[REPEATS][MODES][BATCHES];
    static uint32_t  batches[BATCHES] = { 8, 16, 32, 64 };

    memset(&r, 0, sizeof(r));
    r.dir = argc > 1 ? argv[1] : NULL;
    r.mpi = &mpi;
    repeats = argc > 2 ? (uint32_t) atoi(argv[2]) : 3;
    n = argc > 3 ? 0 : 4;

    for (i = 3; i < argc && n < BATCHES; i++) {
        batches[n++] = (uint32_t) atoi(argv[i]);
    }

    if (r.dir == NULL || repeats < 1 || repeats > REPEATS) {
        fputs("usage: mpirun ... bench-overlap DIR [REPEATS [BATCH...]], "
              "batches ascending\n", stderr);
        return 2;
    }

    if (moe_mpi_open(&mpi, NULL, &err) != 0) {
        fail(&mpi, &err);
    }

    for (k = 0; k < repeats; k++) {
        for (i = 0; i < MODES; i++) {
            mode = k % 2 ? MODES - 1 - i : i;
            r.mode = mode ? MOE_OVERLAP_ON : MOE_OVERLAP_OFF;

            if (run_mode(&r, batches, n, results[k][mode], &err) != 0) {
                fail(&mpi, &err);
            }
        }
    }

    if (mpi.rank == 0) {
        report(results, repeats, batches, n);
    }

    mpi.link->close();

    return 0;
}
