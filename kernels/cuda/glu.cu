/*
 * glu: the feed-forward of many experts, as many rows at a time as there is
 * memory for what is quantized of them.
 */

#include "kernels/cuda/glu.cuh"

extern "C" {
#include "kernels/cpu/packed.h"
}


static const glu_kind_t *
kind_of(const moe_glu_t *p)
{
    return p->gate.type == MOE_W_F8_E4M3 ? &glu_fp8 : &glu_packed;
}


static void
run(const moe_kctx_t *c, const glu_kind_t *kind, glu_work_t *w)
{
    kind->in(c, w);
    kind->out(c, w);

    w->tiles.nparts = 0;
}


/* rows of a part into the list, their inputs quantized to q */
static void
add(const moe_kctx_t *c, glu_work_t *w, const moe_glu_t *p, uint32_t row,
    uint32_t nrows, uint8_t *q)
{
    glu_part_t  *to;

    to = &w->parts[w->tiles.nparts++];

    to->gate = p->gate;
    to->up = p->up;
    to->down = p->down;
    to->gate_bias = p->gate_bias;
    to->up_bias = p->up_bias;
    to->down_bias = p->down_bias;
    to->out = p->out + (size_t) row * p->down.n;
    to->q = q;
    to->h = q + nrows * moe_quant_row(p->gate.k);
    to->clamped.alpha = p->clamped ? p->clamped->alpha : 0;
    to->clamped.limit = p->clamped ? p->clamped->limit : 0;
    to->nrows = nrows;

    kind_of(p)->quantize(c, p->x + (size_t) row * p->gate.k, p->gate.k,
                         p->gate.k, nrows, q);
}


void
cuda_glu(const moe_kctx_t *c, moe_glu_t *parts, uint32_t nparts)
{
    size_t             at, each;
    uint32_t           i, row, n;
    glu_work_t         w;
    const moe_glu_t   *p;
    const glu_kind_t  *kind;

    at = 0;
    kind = NULL;
    w.tiles.nparts = 0;

    for (i = 0; i < nparts; i++) {
        p = &parts[i];
        each = moe_quant_row(p->gate.k) + moe_quant_row(p->gate.n);

        if (each > c->quant_size) {
            return;
        }

        for (row = 0; row < p->nrows; row += n) {

            if (w.tiles.nparts != 0
                && (c->quant_size - at < each || kind != kind_of(p)
                    || w.tiles.nparts == MOE_TILE_PARTS))
            {
                run(c, kind, &w);
                at = 0;
            }

            n = p->nrows - row;
            if (n > (c->quant_size - at) / each) {
                n = (uint32_t) ((c->quant_size - at) / each);
            }

            kind = kind_of(p);
            add(c, &w, p, row, n, c->quant + at);
            at += n * each;
        }
    }

    if (w.tiles.nparts != 0) {
        run(c, kind, &w);
    }
}
