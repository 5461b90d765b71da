/*
 * decoder_halves: a step in two halves, one of which is computed while the
 * other's rows are on their way to experts or back.
 *
 *     for each layer    attention of A while B's results come back
 *                       attention of B while A's rows go out
 *                       experts of A while B's rows go out
 *                       experts of B while A's results come back
 *
 * A is the first half of a rank's rows, B the rest.  Every row is computed as
 * in a step that is one, and a sequence may be in both: in each layer A's keys
 * are stored before B's rows look at them.
 */

#include <string.h>
#include <time.h>

#include "kernels/cpu/pool.h"
#include "model/decoder.h"


/* how often messages are moved on while rows are computed: less often where it
 * takes long, so that it has no more than a 16th of the time (a library that
 * gives the processor away, where others want it, may take milliseconds) */
#define MOVE_NS     200000
#define MOVE_SHARE  16

enum { HALVES = 2 };


typedef struct {
    uint32_t        first;          /* row */
    uint32_t        nrows;          /* left of it */
    uint32_t        nspans;
    moe_batch_t     batch;
    moe_step_mem_t  mem;
} half_t;

typedef struct {
    moe_model_t    *m;
    uint64_t        next;           /* when */
} meanwhile_t;


static uint64_t
now_ns(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000000 + (uint64_t) ts.tv_nsec;
}


static void
meanwhile(void *ctx)
{
    uint64_t      now, took;
    meanwhile_t  *w = ctx;

    now = now_ns();

    if (now >= w->next) {
        w->m->exchange->ops->move(w->m->exchange);
        took = (now_ns() - now) * MOVE_SHARE;
        w->next = now + (took > MOVE_NS ? took : MOVE_NS);
    }
}


/* what the model has of a step's rows is this half's, until leave() */
static void
enter(moe_model_t *m, const half_t *h)
{
    m->mem = h->mem;
    m->nrows = h->nrows;
    m->nspans = h->nspans;
}


static void
leave(moe_model_t *m, half_t *h)
{
    h->nrows = m->nrows;
    h->nspans = m->nspans;
}


/* rows first .. first + n - 1 of b as a batch */
static void
cut(moe_model_t *m, half_t *h, const moe_batch_t *b, uint32_t first,
    uint32_t n)
{
    uint32_t      i, nout;
    moe_batch_t  *part;

    moe_decoder_memory_from(m, first);

    part = &h->batch;
    *part = *b;
    part->nrows = n;
    part->ids += first;
    part->pos += first;
    part->seq += first;
    part->role += first;
    part->out = m->mem.out;

    nout = 0;

    for (i = 0; i < b->nout; i++) {
        if (b->out[i] >= first && b->out[i] - first < n) {
            m->mem.out[nout++] = b->out[i] - first;
        }
    }

    part->nout = nout;
    h->first = first;
    h->mem = m->mem;

    moe_decoder_place(m, part);
    m->kernels->embed(&m->kctx, &m->embed, m->mem.in.ids, n, m->mem.x);
    leave(m, h);
}


/* up to where its rows go out to experts, or past a layer that has none */
static int
mix(moe_model_t *m, half_t *h, uint32_t l, uint32_t half, moe_err_t *err)
{
    int  rc;

    enter(m, h);

    rc = l != 0 && m->layers[l - 1].experts != NULL
         ? moe_decoder_ffn_back(m, l - 1, half, err) : 0;

    if (rc == 0) {
        moe_decoder_mix(m, l, &h->batch);
        rc = m->layers[l].experts != NULL
             ? moe_decoder_ffn_out(m, l, half, err)
             : moe_decoder_ffn(m, l, err);
    }

    leave(m, h);

    return rc;
}


static int
layers(moe_model_t *m, half_t *halves, moe_err_t *err)
{
    int       rc;
    uint32_t  l, h, n;

    rc = 0;
    n = (uint32_t) m->cfg.n_layers;

    for (l = 0; rc == 0 && l < n; l++) {

        for (h = 0; rc == 0 && h < HALVES; h++) {
            rc = mix(m, &halves[h], l, h, err);
        }

        for (h = 0; rc == 0 && h < HALVES
                    && m->layers[l].experts != NULL; h++)
        {
            enter(m, &halves[h]);
            rc = moe_decoder_ffn_experts(m, l, h, err);
        }
    }

    for (h = 0; rc == 0 && h < HALVES && m->layers[n - 1].experts != NULL;
         h++)
    {
        enter(m, &halves[h]);
        rc = moe_decoder_ffn_back(m, n - 1, h, err);
    }

    return rc == 0 ? 0 : moe_err_prefix(err, "layer %u", l - 1);
}


/* What is left of both: the rows that are wanted, where only those went
 * through the last layer.  They move to the front. */
static void
join(moe_model_t *m, const half_t *halves)
{
    uint32_t         i, h, n;
    uint32_t        *at;
    const uint32_t  *rows;

    moe_decoder_memory_from(m, 0);
    at = m->mem.out;
    n = 0;

    for (h = 0; h < HALVES; h++) {
        for (i = 0; i < halves[h].nrows; i++) {
            at[n++] = halves[h].first + i;
        }
    }

    m->nrows = n;

    if (halves[0].nrows != halves[1].first) {
        rows = moe_decoder_rows(m, at, n);
        m->kernels->gather(&m->kctx, m->mem.x, rows, n,
                           (uint32_t) m->cfg.hidden, m->mem.x);
    }
}


int
moe_decoder_halves(moe_model_t *m, const moe_batch_t *b, moe_err_t *err)
{
    int          rc;
    uint32_t     n;
    half_t       halves[HALVES];
    meanwhile_t  w = { m, 0 };

    n = (b->nrows + 1) / 2;

    cut(m, &halves[0], b, 0, n);
    cut(m, &halves[1], b, n, b->nrows - n);

    moe_pool_between(m->kctx.pool, meanwhile, &w);
    rc = layers(m, halves, err);
    moe_pool_between(m->kctx.pool, NULL, NULL);

    join(m, halves);

    return rc;
}
