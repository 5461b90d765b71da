/*
 * decoder: a batch's way through the layers.
 */

#include <string.h>
#include <time.h>

#include "model/decoder.h"
#include "model/rope.h"


static void add_span(moe_model_t *m, uint32_t row, const uint32_t *table,
    int joins);
static void place_rows(moe_model_t *m, const moe_batch_t *b, int joins);
static void send_rows(moe_model_t *m);
static int head(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err);


static void
norm_into(moe_model_t *m, const float *w, float *to)
{
    size_t  hidden;

    hidden = (size_t) m->cfg.hidden;

    m->kernels->rmsnorm(&m->kctx, m->mem.x, hidden, 1, (uint32_t) hidden, w,
                        (float) m->cfg.rms_eps, m->nrows, to, hidden);
}


void
moe_decoder_norm(moe_model_t *m, const float *w)
{
    norm_into(m, w, m->mem.xn);
}


void
moe_decoder_mix(moe_model_t *m, uint32_t l, const moe_batch_t *b)
{
    moe_decoder_norm(m, m->layers[l].attn_norm);
    moe_decoder_attention(m, l, b);
    m->kernels->add(&m->kctx, m->mem.x, m->mem.y,
                    (size_t) m->nrows * (size_t) m->cfg.hidden);
    moe_decoder_norm(m, m->layers[l].ffn_norm);
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
moe_decoder_layers_run(moe_model_t *m, const moe_batch_t *b, moe_err_t *err)
{
    uint32_t  l;

    m->kernels->embed(&m->kctx, &m->embed, m->mem.in.ids, m->nrows,
                      m->mem.x);

    for (l = 0; l < (uint32_t) m->cfg.n_layers; l++) {
        moe_decoder_mix(m, l, b);

        if (moe_decoder_ffn(m, l, err) != 0) {
            return moe_err_prefix(err, "layer %u", l);
        }
    }

    return 0;
}


int
moe_decoder_run(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err)
{
    int  rc;

    m->nhidden = 0;

    if (m->exchange != NULL
        && m->exchange->ops->begin(m->exchange, b->nrows,
                                   moe_decoder_deadline(m), &m->late, err)
           != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    if (moe_decoder_ladder_run(m, b)) {
        return moe_decoder_logits(m, logits, err);
    }

    if (m->exchange != NULL && m->exchange->halves) {
        rc = moe_decoder_halves(m, b, err);

    } else {
        moe_decoder_place(m, b);
        rc = moe_decoder_layers_run(m, b, err);
    }

    return rc == 0 ? head(m, b, logits, err) : -1;
}


/* Where operations find the page table of each sequence. */
static void
send_tables(moe_model_t *m, const moe_batch_t *b)
{
    size_t           at;
    uint32_t         i, n;
    moe_step_mem_t  *mem;

    mem = &m->mem;
    at = 0;

    for (i = 0; i < b->nrows; i++) {

        if (mem->in.tables == NULL) {
            mem->tables[b->seq[i]] = b->tables[b->seq[i]];
            continue;
        }

        if (i + 1 < b->nrows && b->seq[i + 1] == b->seq[i]) {
            continue;
        }

        n = b->pos[i] / MOE_PAGE_SIZE + 1;
        memcpy(mem->host.tables + at, b->tables[b->seq[i]],
               n * sizeof(uint32_t));
        mem->tables[b->seq[i]] = mem->in.tables + at;
        at += n;
    }

    if (at != 0) {
        m->kernels->memory->put(m->kctx.device, mem->in.tables,
                                mem->host.tables, at * sizeof(uint32_t));
    }
}


void
moe_decoder_place(moe_model_t *m, const moe_batch_t *b)
{
    place_rows(m, b, 1);
    send_rows(m);
}


void
moe_decoder_fill(moe_model_t *m, const moe_batch_t *b, uint32_t rows)
{
    uint32_t        i;
    moe_step_in_t  *in;

    in = &m->mem.host;
    place_rows(m, b, 0);

    for (i = b->nrows; i < rows; i++) {
        in->ids[i] = 0;
        in->pos[i] = 0;
        in->slots[i] = MOE_NO_SLOT;
        in->spans[i] = (moe_span_t) { .first = i };
    }

    m->nrows = rows;
    m->nspans = rows;
    send_rows(m);
}


/* joins: rows of a sequence are one span, else each row is one */
static void
place_rows(moe_model_t *m, const moe_batch_t *b, int joins)
{
    uint32_t        i, page;
    moe_step_in_t  *in;

    in = &m->mem.host;
    m->nrows = b->nrows;
    m->nspans = 0;

    send_tables(m, b);

    for (i = 0; i < b->nrows; i++) {
        page = b->tables[b->seq[i]][b->pos[i] / MOE_PAGE_SIZE];
        in->slots[i] = (uint64_t) page * MOE_PAGE_SIZE
                       + b->pos[i] % MOE_PAGE_SIZE;
        in->ids[i] = b->ids[i];
        in->pos[i] = b->pos[i];

        add_span(m, i, m->mem.tables[b->seq[i]],
                 joins && i != 0 && b->seq[i] == b->seq[i - 1]);
    }

    moe_rope_angles(m->freq, (uint32_t) m->cfg.rope.dim / 2,
                    m->cfg.rope.attn_factor, b->pos, b->nrows, in->cos,
                    in->sin);
}


static void
tell(moe_model_t *m, void *to, const void *from, size_t bytes)
{
    if (to != from && bytes != 0) {
        m->kernels->memory->put(m->kctx.device, to, from, bytes);
    }
}


/* what the host has written of the step's rows */
static void
send_rows(moe_model_t *m)
{
    size_t                n, half;
    const moe_step_in_t  *to, *from;

    to = &m->mem.in;
    from = &m->mem.host;
    n = m->nrows;
    half = (size_t) m->cfg.rope.dim / 2;

    tell(m, to->ids, from->ids, n * sizeof(uint32_t));
    tell(m, to->pos, from->pos, n * sizeof(uint32_t));
    tell(m, to->slots, from->slots, n * sizeof(uint64_t));
    tell(m, to->cos, from->cos, n * half * sizeof(float));
    tell(m, to->sin, from->sin, n * half * sizeof(float));
    tell(m, to->spans, from->spans, m->nspans * sizeof(moe_span_t));
}


const uint32_t *
moe_decoder_rows(moe_model_t *m, const uint32_t *rows, uint32_t n)
{
    if (n != 0) {
        memcpy(m->mem.host.rows, rows, n * sizeof(uint32_t));
    }

    tell(m, m->mem.in.rows, m->mem.host.rows, n * sizeof(uint32_t));

    return m->mem.in.rows;
}


/* joins: the row's position follows on the last span's */
static void
add_span(moe_model_t *m, uint32_t row, const uint32_t *table, int joins)
{
    moe_span_t  *span;

    span = &m->mem.host.spans[m->nspans - joins];

    if (!joins || span->nrows == MOE_SPAN_ROWS) {
        span = &m->mem.host.spans[m->nspans++];
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
    size_t                half;
    uint32_t              i, row, hidden;
    moe_step_in_t        *in;
    const uint32_t       *rows;
    const moe_kernels_t  *k;

    k = m->kernels;
    in = &m->mem.host;
    hidden = (uint32_t) m->cfg.hidden;
    half = (size_t) m->cfg.rope.dim / 2;

    rows = moe_decoder_rows(m, b->out, b->nout);
    k->gather(&m->kctx, m->mem.x, rows, b->nout, hidden, m->mem.x);
    k->gather(&m->kctx, m->mem.xn, rows, b->nout, hidden, m->mem.xn);

    m->nrows = b->nout;
    m->nspans = 0;

    for (i = 0; i < b->nout; i++) {
        row = b->out[i];

        memmove(in->cos + i * half, in->cos + row * half,
                half * sizeof(float));
        memmove(in->sin + i * half, in->sin + row * half,
                half * sizeof(float));
        in->pos[i] = b->pos[row];

        add_span(m, i, m->mem.tables[b->seq[row]],
                 i != 0 && row == b->out[i - 1] + 1
                 && b->seq[row] == b->seq[row - 1]);
    }

    send_rows(m);
}


static int
head(moe_model_t *m, const moe_batch_t *b, float *logits, moe_err_t *err)
{
    const uint32_t  *rows;

    if (!m->mtp.on) {
        moe_decoder_norm(m, m->norm);
        return moe_decoder_logits(m, logits, err);
    }

    norm_into(m, m->norm, m->mem.h);

    rows = moe_decoder_rows(m, b->out, b->nout);
    m->kernels->gather(&m->kctx, m->mem.h, rows, b->nout,
                       (uint32_t) m->cfg.hidden, m->mem.xn);
    m->nhidden = m->nrows;
    m->nrows = b->nout;

    return moe_decoder_logits(m, logits, err);
}


/* draws [n] of rows whose logits are in mem.vocab, from row first on; results
 * behind those of the draws before */
static void
sample(moe_model_t *m, uint32_t at, uint32_t n, uint32_t first)
{
    uint32_t            i, base;
    moe_draw_t         *draws;
    moe_sample_t        op;
    const moe_draws_t  *d;

    d = m->draws;
    draws = d->draws + at;
    base = draws[0].first;

    for (i = 0; i < n; i++) {
        draws[i].row -= first;
        draws[i].first -= base;
    }

    m->kernels->memory->put(m->kctx.device, m->mem.draws, draws,
                            n * sizeof(moe_draw_t));
    i = draws[n - 1].first + draws[n - 1].nedits;

    if (i != 0) {
        m->kernels->memory->put(m->kctx.device, m->mem.edits,
                                d->edits + base, i * sizeof(moe_edit_t));
    }

    op = (moe_sample_t) {
        .logits = m->mem.vocab,
        .vocab = m->head.n,
        .n = n,
        .draws = m->mem.draws,
        .edits = m->mem.edits,
        .out = m->mem.drawn + at
    };

    m->kernels->sample(&m->kctx, &op);
}


/* draws of the rows that have logits in mem.vocab, as many at a time as there
 * is memory for edits of */
static void
sample_rows(moe_model_t *m, uint32_t *done, uint32_t first, uint32_t nrows)
{
    uint32_t            at, n;
    uint64_t            edits;
    const moe_draws_t  *d;

    d = m->draws;

    for (at = *done; at < d->n && d->draws[at].row < first + nrows; at += n) {
        edits = 0;

        for (n = 0; at + n < d->n && d->draws[at + n].row < first + nrows;
             n++)
        {
            edits += d->draws[at + n].nedits;
            if (n != 0 && edits > MOE_EDITS * (uint64_t) m->cfg.vocab) {
                break;
            }
        }

        sample(m, at, n, first);
    }

    *done = at;
}


int
moe_decoder_logits(moe_model_t *m, float *logits, moe_err_t *err)
{
    size_t               hidden, vocab;
    uint32_t             r, n, drawn;
    moe_matmul_t         part;
    const moe_memory_t  *memory;

    drawn = 0;
    memory = m->kernels->memory;
    hidden = (size_t) m->cfg.hidden;
    vocab = m->head.n;

    if (memory == NULL) {
        part = moe_part(&m->head, m->mem.xn, 0, m->nrows, logits, 0);
        m->kernels->matmul(&m->kctx, &part, 1);
        return 0;
    }

    for (r = 0; r < m->nrows; r += n) {
        n = m->nrows - r < MOE_HEAD_ROWS ? m->nrows - r : MOE_HEAD_ROWS;

        part = moe_part(&m->head, m->mem.xn + r * hidden, 0, n,
                        m->mem.vocab, 0);
        m->kernels->matmul(&m->kctx, &part, 1);

        if (m->draws != NULL) {
            sample_rows(m, &drawn, r, n);
            continue;
        }

        if (memory->get(m->kctx.device, logits + r * vocab, m->mem.vocab,
                        n * vocab * sizeof(float), err) != 0)
        {
            return -1;
        }
    }

    if (drawn == 0) {
        return 0;
    }

    return memory->get(m->kctx.device, m->draws->out, m->mem.drawn,
                       drawn * sizeof(moe_drawn_t), err);
}
