/*
 * decoder_ffn: the feed-forward part of one layer, dense or experts.
 */

#include "kernels/cpu/packed.h"
#include "model/decoder.h"


static int is_fused(const moe_model_t *m, const moe_ffn_mats_t *f);
static void dense(moe_model_t *m, const moe_layer_t *layer);
static void compute(moe_model_t *m, const moe_layer_t *layer,
    const moe_expert_work_t *work);
static int experts(moe_model_t *m, uint32_t l, moe_err_t *err);


int
moe_decoder_ffn(moe_model_t *m, uint32_t l, moe_err_t *err)
{
    if (m->layers[l].experts != NULL) {
        return experts(m, l, err);
    }

    dense(m, &m->layers[l]);

    return 0;
}


/* whether glu takes them */
static int
is_fused(const moe_model_t *m, const moe_ffn_mats_t *f)
{
    return (moe_is_packed(f->gate.type) && moe_is_packed(f->up.type)
            && moe_is_packed(f->down.type))
           || (m->kernels->glu_fp8 && f->gate.type == MOE_W_F8_E4M3
               && f->up.type == MOE_W_F8_E4M3
               && f->down.type == MOE_W_F8_E4M3);
}


/* multiplied by weights as they are, nothing quantized */
static int
is_plain(const moe_model_t *m, const moe_matrix_t *w)
{
    return !moe_is_packed(w->type)
           && !(m->kernels->glu_fp8 && w->type == MOE_W_F8_E4M3);
}


/* one operation takes all experts of a layer: glu would take each, or nothing
 * of any is quantized */
static int
is_sortable(const moe_model_t *m, const moe_layer_t *layer)
{
    int                    e, fused;
    const moe_ffn_mats_t  *f;

    fused = is_fused(m, &layer->experts[0]);

    for (e = 0; e < m->cfg.n_experts; e++) {
        f = &layer->experts[e];

        if (is_fused(m, f) != fused
            || (!fused && (!is_plain(m, &f->gate) || !is_plain(m, &f->up)
                           || !is_plain(m, &f->down))))
        {
            return 0;
        }
    }

    return 1;
}


int
moe_decoder_sorts(const moe_model_t *m)
{
    uint32_t  l;

    if (m->kernels->sort == NULL) {
        return 0;
    }

    for (l = 0; l < moe_decoder_layers(m); l++) {
        if (m->layers[l].experts != NULL && !is_sortable(m, &m->layers[l])) {
            return 0;
        }
    }

    return 1;
}


/* NULL: silu */
static const moe_clamped_t *
clamped_of(const moe_model_t *m)
{
    return m->clamped.limit != 0 ? &m->clamped : NULL;
}


static moe_glu_t
glu_of(const moe_ffn_mats_t *f, const float *x, uint32_t nrows, float *out)
{
    return (moe_glu_t) {
        .gate = f->gate,
        .up = f->up,
        .down = f->down,
        .gate_bias = f->gate_bias,
        .up_bias = f->up_bias,
        .down_bias = f->down_bias,
        .x = x,
        .out = out,
        .nrows = nrows
    };
}


static void
dense(moe_model_t *m, const moe_layer_t *layer)
{
    uint32_t              nrows;
    moe_matmul_t          parts[2];
    moe_step_mem_t       *mem;
    const moe_kernels_t  *k;

    k = m->kernels;
    mem = &m->mem;
    nrows = m->nrows;

    if (is_fused(m, &layer->ffn)) {
        mem->glu[0] = glu_of(&layer->ffn, mem->xn, nrows, mem->y);
        k->glu(&m->kctx, mem->glu, 1);
        k->add(&m->kctx, mem->x, mem->y,
               (size_t) nrows * (size_t) m->cfg.hidden);
        return;
    }

    parts[0] = moe_part(&layer->ffn.gate, mem->xn, 0, nrows, mem->ffn_gate,
                        0);
    parts[1] = moe_part(&layer->ffn.up, mem->xn, 0, nrows, mem->ffn_up, 0);
    k->matmul(&m->kctx, parts, 2);

    k->silu_mul(&m->kctx, mem->ffn_gate, mem->ffn_up,
                (size_t) nrows * layer->ffn.gate.n);

    parts[0] = moe_part(&layer->ffn.down, mem->ffn_gate, 0, nrows, mem->y, 0);
    k->matmul(&m->kctx, parts, 1);

    k->add(&m->kctx, mem->x, mem->y, (size_t) nrows * (size_t) m->cfg.hidden);
}


static void
route(moe_model_t *m, const moe_layer_t *layer)
{
    moe_matmul_t         part;
    moe_route_t          r;
    const moe_config_t  *c;

    c = &m->cfg;

    r = (moe_route_t) {
        .score = c->score == MOE_SCORE_SIGMOID ? MOE_ROUTE_SIGMOID
                 : c->score == MOE_SCORE_CHOSEN ? MOE_ROUTE_CHOSEN
                 : MOE_ROUTE_SOFTMAX,
        .group = c->topk == MOE_TOPK_NOAUX_TC ? MOE_ROUTE_GROUP_TOP2
                 : c->topk == MOE_TOPK_GROUP_LIMITED ? MOE_ROUTE_GROUP_MAX
                 : MOE_ROUTE_PLAIN,
        .n_experts = (uint32_t) c->n_experts,
        .top_k = (uint32_t) c->top_k,
        .n_group = (uint32_t) c->n_group,
        .topk_group = (uint32_t) c->topk_group,
        .bias = layer->router_bias,
        .norm = c->norm_topk,
        .eps = (float) c->topk_eps,
        .scale = (float) c->routed_scale,
        .slots = m->filled ? m->mem.in.slots : NULL
    };

    part = moe_part(&layer->router, m->mem.xn, 0, m->nrows,
                    m->mem.logits, 0);
    part.bias = layer->logit_bias;
    m->kernels->matmul(&m->kctx, &part, 1);

    m->kernels->route(&m->kctx, &r, m->mem.logits, m->nrows, m->mem.chosen,
                      m->mem.weights);
}


/* compute() where glu takes all matrices, with equal bits; 0: it does not */
static int
compute_fused(moe_model_t *m, const moe_layer_t *layer,
    const moe_expert_work_t *work)
{
    size_t                    hidden;
    uint32_t                  i, n;
    moe_matmul_t              part;
    moe_step_mem_t           *mem;
    const moe_expert_rows_t  *x;

    mem = &m->mem;
    hidden = (size_t) m->cfg.hidden;
    n = 0;

    if (layer->ffn.gate.data != NULL) {
        if (!is_fused(m, &layer->ffn)) {
            return 0;
        }
        mem->glu[n++] = glu_of(&layer->ffn, mem->xn, m->nrows, mem->y);
    }

    for (i = 0; i < work->nexperts; i++) {
        x = &work->experts[i];

        if (!is_fused(m, &layer->experts[x->expert])) {
            return 0;
        }
        mem->glu[n] = glu_of(&layer->experts[x->expert],
                             work->rows + x->first * hidden, x->nrows,
                             work->out + x->first * hidden);
        mem->glu[n++].clamped = clamped_of(m);
    }

    if (layer->ffn.gate.data != NULL && layer->shared_gate.data != NULL) {
        part = moe_part(&layer->shared_gate, mem->xn, 0, m->nrows,
                        mem->shared_scale, 0);
        m->kernels->matmul(&m->kctx, &part, 1);
    }

    m->kernels->glu(&m->kctx, mem->glu, n);

    return 1;
}


/* compute() of rows that the device has sorted */
static void
compute_sorted(moe_model_t *m, const moe_layer_t *layer,
    const moe_expert_work_t *work)
{
    moe_experts_op_t         op;
    const moe_expert_work_t  none = { 0 };

    if (layer->ffn.gate.data != NULL) {
        compute(m, layer, &none);
    }

    op = (moe_experts_op_t) {
        .experts = m->device_experts + (layer->experts - m->experts),
        .like = layer->experts,
        .first = work->first,
        .tiles = work->tiles,
        .n_experts = (uint32_t) m->cfg.n_experts,
        .slots = work->nrows,
        .x = work->rows,
        .out = work->out,
        .gate = m->mem.gate,
        .up = m->mem.up,
        .clamped = clamped_of(m)
    };

    m->kernels->experts(&m->kctx, &op);
}


/* the experts of this rank on the rows they were given, and beside them the
 * shared expert on all rows of this rank */
static void
compute(moe_model_t *m, const moe_layer_t *layer,
    const moe_expert_work_t *work)
{
    size_t                    width, hidden;
    uint32_t                  i, n, nrows;
    moe_matmul_t             *parts;
    moe_step_mem_t           *mem;
    const moe_kernels_t      *k;
    const moe_ffn_mats_t     *e;
    const moe_expert_rows_t  *x;

    k = m->kernels;
    mem = &m->mem;
    parts = mem->parts;
    hidden = (size_t) m->cfg.hidden;
    width = (size_t) m->cfg.moe_ffn;
    nrows = m->nrows;
    n = 0;

    if (work->first != NULL) {
        compute_sorted(m, layer, work);
        return;
    }

    if (compute_fused(m, layer, work)) {
        return;
    }

    if (layer->ffn.gate.data != NULL) {
        parts[n++] = moe_part(&layer->ffn.gate, mem->xn, 0, nrows,
                              mem->ffn_gate, 0);
        parts[n++] = moe_part(&layer->ffn.up, mem->xn, 0, nrows, mem->ffn_up,
                              0);
        if (layer->shared_gate.data != NULL) {
            parts[n++] = moe_part(&layer->shared_gate, mem->xn, 0, nrows,
                                  mem->shared_scale, 0);
        }
    }

    for (i = 0; i < work->nexperts; i++) {
        x = &work->experts[i];
        e = &layer->experts[x->expert];

        parts[n++] = moe_part(&e->gate, work->rows + x->first * hidden, 0,
                              x->nrows, mem->gate + x->first * width, 0);
        parts[n - 1].bias = e->gate_bias;
        parts[n++] = moe_part(&e->up, work->rows + x->first * hidden, 0,
                              x->nrows, mem->up + x->first * width, 0);
        parts[n - 1].bias = e->up_bias;
    }

    k->matmul(&m->kctx, parts, n);

    if (clamped_of(m) != NULL) {
        k->clamped_mul(&m->kctx, clamped_of(m), mem->gate, mem->up,
                       work->nrows * width);
    } else {
        k->silu_mul(&m->kctx, mem->gate, mem->up, work->nrows * width);
    }

    n = 0;

    if (layer->ffn.gate.data != NULL) {
        k->silu_mul(&m->kctx, mem->ffn_gate, mem->ffn_up,
                    (size_t) nrows * layer->ffn.gate.n);
        parts[n++] = moe_part(&layer->ffn.down, mem->ffn_gate, 0, nrows,
                              mem->y, 0);
    }

    for (i = 0; i < work->nexperts; i++) {
        x = &work->experts[i];
        e = &layer->experts[x->expert];

        parts[n++] = moe_part(&e->down, mem->gate + x->first * width, 0,
                              x->nrows, work->out + x->first * hidden, 0);
        parts[n - 1].bias = e->down_bias;
    }

    k->matmul(&m->kctx, parts, n);
}


/* what came back is weighted and added in order of slot */
static void
add(moe_model_t *m, const moe_layer_t *layer,
    const moe_expert_result_t *result)
{
    moe_combine_t  c = {
        .x = m->mem.x,
        .y = result->y,
        .at = result->at,
        .weight = m->mem.weights,
        .shared = layer->ffn.gate.data ? m->mem.y : NULL,
        .gate = layer->ffn.gate.data && layer->shared_gate.data
                ? m->mem.shared_scale : NULL,
        .nrows = m->nrows,
        .n = (uint32_t) m->cfg.hidden,
        .top_k = (uint32_t) m->cfg.top_k
    };

    m->kernels->combine(&m->kctx, &c);
}


static int
experts(moe_model_t *m, uint32_t l, moe_err_t *err)
{
    moe_exchange_t       *ex;
    moe_expert_work_t     work = { 0 };
    const moe_layer_t    *layer;
    moe_expert_result_t   result;

    ex = l < (uint32_t) m->cfg.n_layers ? m->exchange : m->mtp.exchange;
    layer = &m->layers[l];

    route(m, layer);

    if (ex->ops->dispatch(ex, l, m->nrows, m->mem.xn, m->mem.chosen,
                          moe_decoder_deadline(m), &work, &m->late, err)
        != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    compute(m, layer, &work);

    if (ex->ops->combine(ex, l, moe_decoder_deadline(m), &result, &m->late,
                         err)
        != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    add(m, layer, &result);

    return 0;
}


int
moe_decoder_ffn_out(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err)
{
    moe_exchange_t  *ex;

    ex = m->exchange;
    route(m, &m->layers[l]);

    return ex->ops->dispatch_send(ex, half, l, m->nrows, m->mem.xn,
                                  m->mem.chosen, moe_decoder_deadline(m),
                                  &m->late, err)
           == MOE_EXCHANGE_OK ? 0 : -1;
}


int
moe_decoder_ffn_experts(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err)
{
    moe_exchange_t     *ex;
    moe_expert_work_t   work = { 0 };

    ex = m->exchange;

    if (ex->ops->dispatch_wait(ex, half, moe_decoder_deadline(m), &work,
                               &m->late, err)
        != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    compute(m, &m->layers[l], &work);

    return ex->ops->combine_send(ex, half, moe_decoder_deadline(m), &m->late,
                                 err)
           == MOE_EXCHANGE_OK ? 0 : -1;
}


int
moe_decoder_ffn_back(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err)
{
    moe_exchange_t       *ex;
    moe_expert_result_t   result;

    ex = m->exchange;

    if (ex->ops->combine_wait(ex, half, moe_decoder_deadline(m), &result,
                              &m->late, err)
        != MOE_EXCHANGE_OK)
    {
        return -1;
    }

    add(m, &m->layers[l], &result);

    return 0;
}
