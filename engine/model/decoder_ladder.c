/*
 * decoder_ladder: steps of those who decode, as one request to a device.
 *
 * What a device is asked for in a step in which every row's logits are wanted
 * hangs on the number of rows alone: which sequences they are of, and how long
 * these are, it reads from what it is told.  So it is recorded, for a ladder
 * of numbers of rows, and a step is filled up to the next one with rows that
 * are nobody's: they are stored nowhere, attend to nothing and go to no
 * expert.  As every row is computed by itself, no other row's bits change.
 *
 *     1, 2, 4, 8, 16, 32, 64, 96, 128 ..
 */

#include "kernels/device.h"
#include "model/decoder.h"


enum { EVEN = 32 };             /* from here on as far apart */


static int record(moe_model_t *m, const moe_device_ops_t *d, uint32_t rows,
    moe_err_t *err);


void
moe_decoder_ladder_free(moe_model_t *m)
{
    uint32_t                 i;
    moe_ladder_t            *l;
    const moe_device_ops_t  *d;

    l = &m->ladder;

    if (l->n == 0) {
        return;
    }

    d = moe_kernels_device(m->kernels);

    for (i = 0; i < l->n; i++) {
        d->forget(m->kctx.device, l->steps[i]);
    }

    l->n = 0;
}


/* the rung after this one */
static uint32_t
next(uint32_t rows, uint32_t most)
{
    rows += rows < EVEN ? rows : EVEN;

    return rows < most ? rows : most;
}


int
moe_decoder_ladder(moe_model_t *m, moe_err_t *err)
{
    char                     c;
    uint32_t                 rows, most;
    const moe_device_ops_t  *d;

    moe_decoder_ladder_free(m);

    if (!m->records || m->kv.pages == 0) {
        return 0;
    }

    d = moe_kernels_device(m->kernels);
    most = m->max_rows < MOE_LADDER_ROWS ? m->max_rows : MOE_LADDER_ROWS;

    for (rows = 1; ; rows = next(rows, most)) {
        if (record(m, d, rows, err) != 0) {
            moe_decoder_ladder_free(m);
            return moe_err_prefix(err, "decoder: steps of %u rows", rows);
        }

        if (rows == most) {
            break;
        }
    }

    /* whether anything went wrong on the way */
    return m->kernels->memory->get(m->kctx.device, &c, m->mem.base, 1, err);
}


/* layers and what comes before the head, of rows that a step will say */
static int
compute(moe_model_t *m, uint32_t rows, moe_err_t *err)
{
    m->nrows = rows;
    m->nspans = rows;

    if (m->exchange != NULL
        && m->exchange->ops->begin(m->exchange, rows, UINT64_MAX, &m->late,
                                   err)
           != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    if (moe_decoder_layers_run(m, NULL, err) != 0) {
        return -1;
    }

    moe_decoder_norm(m, m->norm);

    /* what the MTP layer would have of them, in case it is asked */
    if (m->mem.h != NULL) {
        m->kernels->copy(&m->kctx, m->mem.xn, (size_t) m->cfg.hidden, rows,
                         (uint32_t) m->cfg.hidden, m->mem.h,
                         (size_t) m->cfg.hidden);
    }

    return 0;
}


static int
record(moe_model_t *m, const moe_device_ops_t *d, uint32_t rows,
    moe_err_t *err)
{
    int               rc;
    moe_ladder_t     *l;
    moe_recording_t  *step;

    if (d->record(m->kctx.device, err) != 0) {
        return -1;
    }

    m->filled = 1;
    rc = compute(m, rows, err);
    m->filled = 0;

    step = d->recorded(m->kctx.device, err);

    if (step == NULL) {
        return -1;
    }

    l = &m->ladder;
    l->rows[l->n] = rows;
    l->steps[l->n++] = step;

    return rc;
}


/* the first rung that has room for a batch; NULL: it is not for the ladder */
static moe_recording_t *
rung_of(const moe_model_t *m, const moe_batch_t *b, uint32_t *rows)
{
    uint32_t             i;
    const moe_ladder_t  *l;

    l = &m->ladder;

    for (i = 0; b->nrows != 0 && b->nout == b->nrows && i < l->n; i++) {
        if (l->rows[i] >= b->nrows) {
            *rows = l->rows[i];
            return l->steps[i];
        }
    }

    return NULL;
}


int
moe_decoder_ladder_run(moe_model_t *m, const moe_batch_t *b)
{
    uint32_t          rows;
    moe_recording_t  *step;

    step = rung_of(m, b, &rows);

    if (step == NULL) {
        return 0;
    }

    moe_decoder_fill(m, b, rows);
    moe_kernels_device(m->kernels)->play(m->kctx.device, step);

    m->nrows = b->nrows;
    m->nhidden = m->mtp.on ? b->nrows : 0;

    return 1;
}
