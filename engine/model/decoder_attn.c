/*
 * decoder_attn: latent (MLA) and grouped attention of one layer.
 *
 * MLA runs in the absorbed form for every role of a row: a head's query is
 * taken into the latent space by the key half of kv_b, attends to the latents
 * as they are stored, and what comes out is taken back by the value half.
 */

#include "model/decoder.h"


static void mla_keys(moe_model_t *m, uint32_t l);
static void mla(moe_model_t *m, uint32_t l);
static void gqa_keys(moe_model_t *m, uint32_t l);
static void gqa(moe_model_t *m, uint32_t l);


moe_matmul_t
moe_part(const moe_matrix_t *w, const float *x, size_t ldx, uint32_t nrows,
    float *out, size_t ldo)
{
    return (moe_matmul_t) {
        .w = *w,
        .x = x,
        .ldx = ldx ? ldx : w->k,
        .nrows = nrows,
        .out = out,
        .ldo = ldo ? ldo : w->n
    };
}


void
moe_decoder_attention(moe_model_t *m, uint32_t l, const moe_batch_t *b)
{
    moe_matmul_t     part;
    moe_step_mem_t  *mem;

    mem = &m->mem;

    if (m->cfg.attn == MOE_ATTN_MLA) {
        mla_keys(m, l);
    } else {
        gqa_keys(m, l);
    }

    if (!m->filled && l + 1 == (uint32_t) (m->cfg.n_layers + m->mtp.on)) {
        moe_decoder_narrow(m, b);
    }

    if (m->cfg.attn == MOE_ATTN_MLA) {
        mla(m, l);
    } else {
        gqa(m, l);
    }

    part = moe_part(&m->layers[l].o, mem->o, 0, m->nrows, mem->y, 0);
    part.bias = m->layers[l].o_bias;
    m->kernels->matmul(&m->kctx, &part, 1);
}


static void
rope(moe_model_t *m, float *x, size_t ldx, uint32_t heads, size_t head_ld,
    uint32_t first)
{
    moe_rope_op_t  op = {
        .x = x,
        .ldx = ldx,
        .head_ld = head_ld,
        .nrows = m->nrows,
        .heads = heads,
        .first = first,
        .dim = (uint32_t) m->cfg.rope.dim,
        .interleave = m->cfg.rope.interleave,
        .cos = m->mem.in.cos,
        .sin = m->mem.in.sin
    };

    m->kernels->rope(&m->kctx, &op);
}


static void
attend(moe_model_t *m, uint32_t l, const moe_kv_t *kv, const float *q,
    float *out)
{
    moe_attention_t  a = {
        .kv = *kv,
        .n_heads = (uint32_t) m->cfg.n_heads,
        .scale = (float) m->cfg.attn_scale,
        .q = q,
        .out = out,
        .ldq = (size_t) m->cfg.n_heads * kv->k_dim,
        .ldo = (size_t) m->cfg.n_heads * kv->v_dim,
        .pos = m->mem.in.pos,
        .window = l < MOE_MAX_LAYERS && m->cfg.sliding[l]
                  ? (uint32_t) m->cfg.window : 0,
        .sinks = m->layers[l].sinks,
        .spans = m->mem.in.spans,
        .nspans = m->nspans
    };

    m->kernels->attention(&m->kctx, &a);
}


/* rows first .. first + n - 1 of a head's share of kv_b */
static moe_matrix_t
kv_b_rows(const moe_layer_t *layer, uint32_t first, uint32_t n)
{
    size_t        size;
    moe_matrix_t  w;

    w = layer->kv_b;
    size = w.type == MOE_W_F32 ? 4 : w.type == MOE_W_F8_E4M3 ? 1 : 2;

    w.data = (const char *) w.data + (size_t) first * w.k * size;
    w.n = n;
    w.row0 = first;

    return w;
}


/* q[r][h][nope] into q_lat[r][h][latent], by the key half of kv_b */
static void
mla_absorb(moe_model_t *m, const moe_layer_t *layer)
{
    uint32_t             h, r, n, nope, heads, nrows, parts;
    size_t               k_dim, head_dim;
    moe_matrix_t         w;
    moe_step_mem_t      *mem;
    const moe_config_t  *c;

    c = &m->cfg;
    mem = &m->mem;
    heads = (uint32_t) c->n_heads;
    nope = (uint32_t) c->qk_nope_head_dim;
    head_dim = (size_t) c->head_dim;
    k_dim = m->kv.shape.k_dim;
    nrows = m->nrows;
    parts = 0;

    for (h = 0; h < heads; h++) {
        w = kv_b_rows(layer, h * (nope + (uint32_t) c->v_head_dim), nope);

        for (r = 0; r < nrows; r += n) {
            n = nrows - r < MOE_ABSORB_ROWS ? nrows - r : MOE_ABSORB_ROWS;

            mem->parts[parts++] = moe_part(&w,
                mem->q + r * heads * head_dim + h * head_dim,
                heads * head_dim, n,
                mem->q_lat + r * heads * k_dim + h * k_dim, heads * k_dim);
        }
    }

    m->kernels->matmul_t(&m->kctx, mem->parts, parts);
}


/* o_lat[r][h][latent] into o[r][h][v], by the value half of kv_b */
static void
mla_expand(moe_model_t *m, const moe_layer_t *layer)
{
    size_t               latent, v_dim;
    uint32_t             h, nope, heads;
    moe_matrix_t         w;
    moe_step_mem_t      *mem;
    const moe_config_t  *c;

    c = &m->cfg;
    mem = &m->mem;
    heads = (uint32_t) c->n_heads;
    nope = (uint32_t) c->qk_nope_head_dim;
    latent = (size_t) c->kv_lora_rank;
    v_dim = (size_t) c->v_head_dim;

    for (h = 0; h < heads; h++) {
        w = kv_b_rows(layer, h * (nope + (uint32_t) v_dim) + nope,
                      (uint32_t) v_dim);

        mem->parts[h] = moe_part(&w, mem->o_lat + h * latent, heads * latent,
                                 m->nrows, mem->o + h * v_dim,
                                 heads * v_dim);
        mem->parts[h].keep_x = 1;
    }

    m->kernels->matmul(&m->kctx, mem->parts, heads);
}


/* the rotated part of every query behind its latent one */
static void
mla_append_rope(moe_model_t *m)
{
    size_t               k_dim;
    const moe_config_t  *c;

    c = &m->cfg;
    k_dim = m->kv.shape.k_dim;

    m->kernels->copy(&m->kctx, m->mem.q + c->qk_nope_head_dim,
                     (size_t) c->head_dim, m->nrows * (uint32_t) c->n_heads,
                     (uint32_t) c->qk_rope_head_dim,
                     m->mem.q_lat + c->kv_lora_rank, k_dim);
}


/* latents and their rotated parts, into the pages */
static void
mla_keys(moe_model_t *m, uint32_t l)
{
    size_t                k_dim;
    uint32_t              latent;
    moe_kv_t              kv;
    moe_matmul_t          part;
    moe_step_mem_t       *mem;
    const moe_layer_t    *layer;
    const moe_kernels_t  *k;

    k = m->kernels;
    mem = &m->mem;
    layer = &m->layers[l];
    kv = moe_kv_layer(&m->kv, l);
    k_dim = kv.k_dim;
    latent = (uint32_t) m->cfg.kv_lora_rank;

    part = moe_part(&layer->kv_a, mem->xn, 0, m->nrows, mem->k, 0);
    k->matmul(&m->kctx, &part, 1);

    k->rmsnorm(&m->kctx, mem->k, k_dim, 1, latent, layer->kv_a_norm,
               (float) m->cfg.lora_rms_eps, m->nrows, mem->k, k_dim);
    rope(m, mem->k, k_dim, 1, k_dim, latent);
    k->kv_store(&m->kctx, &kv, mem->in.slots, m->nrows, mem->k, k_dim, NULL, 0);
}


static void
mla(moe_model_t *m, uint32_t l)
{
    size_t                head_dim;
    uint32_t              heads;
    moe_kv_t              kv;
    moe_matmul_t          part;
    moe_step_mem_t       *mem;
    const moe_layer_t    *layer;
    const moe_kernels_t  *k;

    k = m->kernels;
    mem = &m->mem;
    layer = &m->layers[l];
    kv = moe_kv_layer(&m->kv, l);
    heads = (uint32_t) m->cfg.n_heads;
    head_dim = (size_t) m->cfg.head_dim;

    if (layer->q_a.data != NULL) {
        part = moe_part(&layer->q_a, mem->xn, 0, m->nrows, mem->q_a, 0);
        k->matmul(&m->kctx, &part, 1);

        k->rmsnorm(&m->kctx, mem->q_a, layer->q_a.n, 1, layer->q_a.n,
                   layer->q_a_norm, (float) m->cfg.lora_rms_eps, m->nrows,
                   mem->q_a, layer->q_a.n);
        part = moe_part(&layer->q_b, mem->q_a, 0, m->nrows, mem->q, 0);

    } else {
        part = moe_part(&layer->q, mem->xn, 0, m->nrows, mem->q, 0);
    }

    k->matmul(&m->kctx, &part, 1);

    rope(m, mem->q, heads * head_dim, heads, head_dim,
         (uint32_t) m->cfg.qk_nope_head_dim);
    mla_absorb(m, layer);
    mla_append_rope(m);

    attend(m, l, &kv, mem->q_lat, mem->o_lat);
    mla_expand(m, layer);
}


static void
qk_norm(moe_model_t *m, float *x, uint32_t heads, const float *w)
{
    uint32_t  dim, width;

    if (w == NULL) {
        return;
    }

    dim = (uint32_t) m->cfg.head_dim;
    width = heads * dim;

    if (m->cfg.qk_norm == MOE_QK_NORM_FULL) {
        heads = 1;
        dim = width;
    }

    m->kernels->rmsnorm(&m->kctx, x, width, heads, dim, w,
                        (float) m->cfg.rms_eps, m->nrows, x, width);
}


static void
clip(moe_model_t *m, float *x, size_t width)
{
    if (m->cfg.clip_qkv > 0) {
        m->kernels->clamp(&m->kctx, x, width, m->nrows, (uint32_t) width,
                          (float) m->cfg.clip_qkv);
    }
}


static void
gqa_keys(moe_model_t *m, uint32_t l)
{
    size_t              width;
    uint32_t            heads;
    moe_kv_t            kv;
    moe_matmul_t        parts[2];
    moe_step_mem_t     *mem;
    const moe_layer_t  *layer;

    mem = &m->mem;
    layer = &m->layers[l];
    kv = moe_kv_layer(&m->kv, l);
    heads = (uint32_t) m->cfg.n_kv_heads;
    width = heads * (size_t) m->cfg.head_dim;

    parts[0] = moe_part(&layer->k, mem->xn, 0, m->nrows, mem->k, 0);
    parts[1] = moe_part(&layer->v, mem->xn, 0, m->nrows, mem->v, 0);
    parts[0].bias = layer->k_bias;
    parts[1].bias = layer->v_bias;
    m->kernels->matmul(&m->kctx, parts, 2);

    qk_norm(m, mem->k, heads, layer->k_norm);
    clip(m, mem->k, width);
    clip(m, mem->v, width);

    rope(m, mem->k, width, heads, (size_t) m->cfg.head_dim, 0);
    m->kernels->kv_store(&m->kctx, &kv, mem->in.slots, m->nrows, mem->k, width,
                         mem->v, width);
}


static void
gqa(moe_model_t *m, uint32_t l)
{
    size_t              width;
    uint32_t            heads;
    moe_kv_t            kv;
    moe_matmul_t        part;
    moe_step_mem_t     *mem;
    const moe_layer_t  *layer;

    mem = &m->mem;
    layer = &m->layers[l];
    kv = moe_kv_layer(&m->kv, l);
    heads = (uint32_t) m->cfg.n_heads;
    width = heads * (size_t) m->cfg.head_dim;

    part = moe_part(&layer->q, mem->xn, 0, m->nrows, mem->q, 0);
    part.bias = layer->q_bias;
    m->kernels->matmul(&m->kctx, &part, 1);

    qk_norm(m, mem->q, heads, layer->q_norm);
    clip(m, mem->q, width);
    rope(m, mem->q, width, heads, (size_t) m->cfg.head_dim, 0);

    attend(m, l, &kv, mem->q, mem->o);
}
