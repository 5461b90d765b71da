/*
 * decoder: a batch's way through the layers.
 */

#include <string.h>
#include <time.h>

#include "model/decoder.h"
#include "model/rope.h"


static void add_span(moe_model_t *m, uint32_t row, const uint32_t *table,
    int joins);
static void head(moe_model_t *m, const moe_batch_t *b, float *logits);


static void
norm_into(moe_model_t *m, const float *w, float *to)
{
    size_t  hidden;

    hidden = (size_t) m->cfg.hidden;

    m->kernels->rmsnorm(&m->kctx, m->mem.x, hidden, 1, (uint32_t) hidden, w,
                        (float) m->cfg.rms_eps, m->nrows, to, hidden);
}


static void
norm(moe_model_t *m, const float *w)
{
    norm_into(m, w, m->mem.xn);
}


uint32_t
moe_decoder_layers(const moe_model_t *m)
{
    return (uint32_t) m->cfg.n_layers + (m->mtp.eh_proj.data != NULL);
}


uint64_t
moe_decoder_deadline(const moe_model_t *m)
{
    struct timespec  ts;

    if (m->exchange_ms == 0) {
        return UINT64_MAX;
    }

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000
           + m->exchange_ms;
}


int
moe_decoder_run(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err)
{
    uint32_t         l;
    moe_step_mem_t  *mem;

    mem = &m->mem;

    moe_decoder_place(m, b);
    m->nhidden = 0;

    if (m->exchange != NULL
        && m->exchange->ops->begin(m->exchange, b->nrows,
                                   moe_decoder_deadline(m), &m->late, err)
           != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    m->kernels->embed(&m->kctx, &m->embed, b->ids, b->nrows, mem->x);

    for (l = 0; l < (uint32_t) m->cfg.n_layers; l++) {

        norm(m, m->layers[l].attn_norm);
        moe_decoder_attention(m, l, b);
        m->kernels->add(&m->kctx, mem->x, mem->y,
                        (size_t) m->nrows * (size_t) m->cfg.hidden);

        norm(m, m->layers[l].ffn_norm);
        if (moe_decoder_ffn(m, l, err) != 0) {
            return moe_err_prefix(err, "layer %u", l);
        }
    }

    head(m, b, logits);

    return 0;
}


void
moe_decoder_place(moe_model_t *m, const moe_batch_t *b)
{
    uint32_t         i, page;
    moe_step_mem_t  *mem;

    mem = &m->mem;
    m->nrows = b->nrows;
    m->nspans = 0;

    for (i = 0; i < b->nrows; i++) {
        page = b->tables[b->seq[i]][b->pos[i] / MOE_PAGE_SIZE];
        mem->slots[i] = (uint64_t) page * MOE_PAGE_SIZE
                        + b->pos[i] % MOE_PAGE_SIZE;
        mem->pos[i] = b->pos[i];

        add_span(m, i, b->tables[b->seq[i]],
                 i != 0 && b->seq[i] == b->seq[i - 1]);
    }

    moe_rope_angles(m->freq, (uint32_t) m->cfg.rope.dim / 2,
                    m->cfg.rope.attn_factor, b->pos, b->nrows, mem->cos,
                    mem->sin);
}


/* joins: the row's position follows on the last span's */
static void
add_span(moe_model_t *m, uint32_t row, const uint32_t *table, int joins)
{
    moe_span_t  *span;

    span = &m->mem.spans[m->nspans - joins];

    if (!joins || span->nrows == MOE_SPAN_ROWS) {
        span = &m->mem.spans[m->nspans++];
        span->first = row;
        span->nrows = 0;
        span->table = table;
    }

    span->nrows++;
}


/* b->out ascends, so nothing is overwritten before it has moved */
void
moe_decoder_narrow(moe_model_t *m, const moe_batch_t *b)
{
    size_t           hidden, half;
    uint32_t         i, row;
    moe_step_mem_t  *mem;

    mem = &m->mem;
    hidden = (size_t) m->cfg.hidden;
    half = (size_t) m->cfg.rope.dim / 2;

    m->nrows = b->nout;
    m->nspans = 0;

    for (i = 0; i < b->nout; i++) {
        row = b->out[i];

        memmove(mem->x + i * hidden, mem->x + row * hidden,
                hidden * sizeof(float));
        memmove(mem->xn + i * hidden, mem->xn + row * hidden,
                hidden * sizeof(float));
        memmove(mem->cos + i * half, mem->cos + row * half,
                half * sizeof(float));
        memmove(mem->sin + i * half, mem->sin + row * half,
                half * sizeof(float));
        mem->pos[i] = b->pos[row];

        add_span(m, i, b->tables[b->seq[row]],
                 i != 0 && row == b->out[i - 1] + 1
                 && b->seq[row] == b->seq[row - 1]);
    }
}


static void
head(moe_model_t *m, const moe_batch_t *b, float *logits)
{
    size_t        hidden;
    uint32_t      i;
    moe_matmul_t  part;

    if (!m->mtp.on) {
        norm(m, m->norm);

    } else {
        norm_into(m, m->norm, m->mem.h);
        hidden = (size_t) m->cfg.hidden;

        for (i = 0; i < b->nout; i++) {
            memcpy(m->mem.xn + i * hidden, m->mem.h + b->out[i] * hidden,
                   hidden * sizeof(float));
        }

        m->nhidden = m->nrows;
        m->nrows = b->nout;
    }

    part = moe_part(&m->head, m->mem.xn, 0, m->nrows, logits, 0);
    m->kernels->matmul(&m->kctx, &part, 1);
}
