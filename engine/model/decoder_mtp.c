/*
 * decoder_mtp: the layer for multi-token prediction, which drafts the id
 * after the next one.
 *
 * Its row at a position is made of the final hidden state there and of the
 * embedding of the id that follows; its keys lie behind those of the last
 * layer in the same page, at the same position.  Experts are computed at
 * home: every rank has all of them mapped, so that ranks that step together
 * need not agree on who drafts.
 */

#include <string.h>

#include "model/decoder.h"


static void gather(moe_model_t *m, const moe_batch_t *b, const moe_draft_t *d,
    moe_batch_t *rows);
static void join(moe_model_t *m, const moe_batch_t *rows);


int
moe_decoder_draft(moe_model_t *m, const moe_batch_t *b, const moe_draft_t *d,
    float *logits, moe_err_t *err)
{
    uint32_t     l;
    moe_batch_t  rows;

    l = (uint32_t) m->cfg.n_layers;

    gather(m, b, d, &rows);
    moe_decoder_place(m, &rows);

    if (m->mtp.exchange != NULL
        && m->mtp.exchange->ops->begin(m->mtp.exchange, d->n, UINT64_MAX,
                                       &m->late, err)
           != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    join(m, &rows);

    moe_decoder_norm(m, m->layers[l].attn_norm);
    moe_decoder_attention(m, l, &rows);

    if (d->nout == 0) {
        return 0;
    }

    m->kernels->add(&m->kctx, m->mem.x, m->mem.y,
                    (size_t) m->nrows * (size_t) m->cfg.hidden);

    moe_decoder_norm(m, m->layers[l].ffn_norm);
    if (moe_decoder_ffn(m, l, err) != 0) {
        return moe_err_prefix(err, "layer %u", l);
    }

    moe_decoder_norm(m, m->mtp.norm);

    return moe_decoder_logits(m, logits, err);
}


/* the rows of b that have a next id as a batch of those ids, and their hidden
 * states together in y */
static void
gather(moe_model_t *m, const moe_batch_t *b, const moe_draft_t *d,
    moe_batch_t *rows)
{
    uint32_t         i, row;
    moe_step_mem_t  *mem;

    mem = &m->mem;

    for (i = 0; i < d->n; i++) {
        row = d->rows[i];
        mem->draft_pos[i] = b->pos[row];
        mem->draft_seq[i] = b->seq[row];
    }

    m->kernels->gather(&m->kctx, mem->h, moe_decoder_rows(m, d->rows, d->n),
                       d->n, (uint32_t) m->cfg.hidden, mem->y);

    memset(rows, 0, sizeof(*rows));
    rows->nrows = d->n;
    rows->ids = d->next;
    rows->pos = mem->draft_pos;
    rows->seq = mem->draft_seq;
    rows->nseqs = b->nseqs;
    rows->tables = b->tables;
    rows->nout = d->nout;
    rows->out = d->out;
}


/* x = eh_proj [enorm(embedding), hnorm(hidden state)] */
static void
join(moe_model_t *m, const moe_batch_t *rows)
{
    float                 eps;
    size_t                hidden;
    moe_matmul_t          part;
    moe_step_mem_t       *mem;
    const moe_kernels_t  *k;

    k = m->kernels;
    mem = &m->mem;
    hidden = (size_t) m->cfg.hidden;
    eps = (float) m->cfg.rms_eps;

    k->embed(&m->kctx, &m->embed, mem->in.ids, rows->nrows, mem->x);
    k->rmsnorm(&m->kctx, mem->x, hidden, 1, (uint32_t) hidden, m->mtp.enorm,
               eps, rows->nrows, mem->eh, 2 * hidden);
    k->rmsnorm(&m->kctx, mem->y, hidden, 1, (uint32_t) hidden, m->mtp.hnorm,
               eps, rows->nrows, mem->eh + hidden, 2 * hidden);

    part = moe_part(&m->mtp.eh_proj, mem->eh, 0, rows->nrows, mem->x, 0);
    k->matmul(&m->kctx, &part, 1);
}
