/*
 * decoder: a batch's way through the layers.
 */

#include <string.h>

#include "model/decoder.h"
#include "model/rope.h"


static void place_rows(moe_model_t *m, const moe_batch_t *b);
static void head(moe_model_t *m, const moe_batch_t *b, float *logits);


static void
norm(moe_model_t *m, const float *w, uint32_t nrows)
{
    size_t  hidden;

    hidden = (size_t) m->cfg.hidden;

    m->kernels->rmsnorm(&m->kctx, m->mem.x, hidden, 1, (uint32_t) hidden, w,
                        (float) m->cfg.rms_eps, nrows, m->mem.xn, hidden);
}


int
moe_decoder_run(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err)
{
    uint32_t         l;
    uint64_t         late;
    moe_step_mem_t  *mem;

    mem = &m->mem;

    place_rows(m, b);

    if (m->exchange != NULL
        && m->exchange->ops->begin(m->exchange, b->nrows, UINT64_MAX, &late,
                                   err)
           != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    m->kernels->embed(&m->kctx, &m->embed, b->ids, b->nrows, mem->x);

    for (l = 0; l < (uint32_t) m->cfg.n_layers; l++) {

        norm(m, m->layers[l].attn_norm, b->nrows);
        moe_decoder_attention(m, l, b);
        m->kernels->add(&m->kctx, mem->x, mem->y,
                        (size_t) b->nrows * (size_t) m->cfg.hidden);

        norm(m, m->layers[l].ffn_norm, b->nrows);
        if (moe_decoder_ffn(m, l, b->nrows, err) != 0) {
            return moe_err_prefix(err, "layer %u", l);
        }
    }

    head(m, b, logits);

    return 0;
}


/* where each row's keys go, its angles, and the runs of rows of a sequence */
static void
place_rows(moe_model_t *m, const moe_batch_t *b)
{
    uint32_t         i, page;
    moe_span_t      *span;
    moe_step_mem_t  *mem;

    mem = &m->mem;
    span = NULL;
    m->nspans = 0;

    for (i = 0; i < b->nrows; i++) {
        page = b->tables[b->seq[i]][b->pos[i] / MOE_PAGE_SIZE];
        mem->slots[i] = (uint64_t) page * MOE_PAGE_SIZE
                        + b->pos[i] % MOE_PAGE_SIZE;
        mem->pos[i] = b->pos[i];

        if (i == 0 || b->seq[i] != b->seq[i - 1]
            || span->nrows == MOE_SPAN_ROWS)
        {
            span = &mem->spans[m->nspans++];
            span->first = i;
            span->nrows = 0;
            span->table = b->tables[b->seq[i]];
        }

        span->nrows++;
    }

    moe_rope_angles(m->freq, (uint32_t) m->cfg.rope.dim / 2,
                    m->cfg.rope.attn_factor, b->pos, b->nrows, mem->cos,
                    mem->sin);
}


static void
head(moe_model_t *m, const moe_batch_t *b, float *logits)
{
    size_t        hidden;
    uint32_t      i;
    moe_matmul_t  part;

    if (b->nout == 0) {
        return;
    }

    hidden = (size_t) m->cfg.hidden;

    /* out ascends, so no row is overwritten before it has moved */
    for (i = 0; i < b->nout; i++) {
        memmove(m->mem.x + i * hidden, m->mem.x + b->out[i] * hidden,
                hidden * sizeof(float));
    }

    norm(m, m->norm, b->nout);

    part = moe_part(&m->head, m->mem.xn, 0, b->nout, logits, 0);
    m->kernels->matmul(&m->kctx, &part, 1);
}
