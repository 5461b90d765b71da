#include <stdlib.h>

#include "model/decoder.h"


static int
bind_matrix(const moe_tensor_t *t, moe_matrix_t *w, moe_err_t *err)
{
    *w = (moe_matrix_t) { .data = t->data };

    if (t->data == NULL) {
        return 0;
    }

    w->n = (uint32_t) t->rows;
    w->k = (uint32_t) t->cols;

    switch (t->dtype) {

    case MOE_DTYPE_F32:
        w->type = MOE_W_F32;
        break;

    case MOE_DTYPE_F16:
        w->type = MOE_W_F16;
        break;

    case MOE_DTYPE_BF16:
        w->type = MOE_W_BF16;
        break;

    case MOE_DTYPE_F8_E4M3:
        w->type = MOE_W_F8_E4M3;
        w->scale = t->scale_inv;
        w->scale_cols = (uint32_t) t->scale_cols;
        if (w->scale == NULL) {
            return moe_err(err, "decoder: FP8 weights without scales");
        }
        break;

    case MOE_DTYPE_I8_G32:
    case MOE_DTYPE_I4_G32:
    case MOE_DTYPE_MX4_G32:
        w->type = moe_dtype_packed(t->dtype);
        break;

    default:
        return moe_err(err, "decoder: weights of a type that has no kernel");
    }

    return 0;
}


typedef struct {
    const float  *base;         /* what pointers are set to; may be NULL */
    float        *fill;         /* NULL: values are there already */
    size_t        at;
} vectors_t;


static const float *
bind_vector(const moe_tensor_t *t, vectors_t *v)
{
    size_t  at;

    if (t->data == NULL) {
        return NULL;
    }

    at = v->at;
    v->at += (size_t) t->rows * (size_t) t->cols;

    if (v->fill != NULL) {
        moe_tensor_to_f32(t, 0, t->rows, v->fill + at);
    }

    return v->base ? v->base + at : NULL;
}


static void
bind_expert_vectors(moe_model_t *m, int layer, vectors_t *v)
{
    int              e;
    moe_ffn_mats_t  *to;
    const moe_ffn_t *from;

    from = m->weights->layers[layer].experts;
    to = m->experts + (size_t) layer * (size_t) m->cfg.n_experts;

    for (e = 0; from != NULL && e < m->cfg.n_experts; e++) {
        to[e].gate_bias = bind_vector(&from[e].gate_bias, v);
        to[e].up_bias = bind_vector(&from[e].up_bias, v);
        to[e].down_bias = bind_vector(&from[e].down_bias, v);
    }
}


/* all vectors in one order */
static void
bind_vectors(moe_model_t *m, vectors_t *v)
{
    int                         i;
    moe_layer_t                *l;
    const moe_layer_weights_t  *w;

    m->norm = bind_vector(&m->weights->norm, v);

    m->mtp.enorm = bind_vector(&m->weights->mtp.enorm, v);
    m->mtp.hnorm = bind_vector(&m->weights->mtp.hnorm, v);
    m->mtp.norm = bind_vector(&m->weights->mtp.norm, v);

    for (i = 0; i < (int) moe_decoder_layers(m); i++) {
        l = &m->layers[i];
        w = &m->weights->layers[i];

        l->attn_norm = bind_vector(&w->attn_norm, v);
        l->ffn_norm = bind_vector(&w->ffn_norm, v);
        l->q_a_norm = bind_vector(&w->q_a_norm, v);
        l->kv_a_norm = bind_vector(&w->kv_a_norm, v);
        l->q_norm = bind_vector(&w->q_norm, v);
        l->k_norm = bind_vector(&w->k_norm, v);
        l->q_bias = bind_vector(&w->q_bias, v);
        l->k_bias = bind_vector(&w->k_bias, v);
        l->v_bias = bind_vector(&w->v_bias, v);
        l->o_bias = bind_vector(&w->o_bias, v);
        l->sinks = bind_vector(&w->sinks, v);
        l->router_bias = bind_vector(&w->router_bias, v);
        l->logit_bias = bind_vector(&w->logit_bias, v);
        bind_expert_vectors(m, i, v);
    }
}


void
moe_decoder_bind_vectors(moe_model_t *m, const float *base)
{
    vectors_t  v = { base, NULL, 0 };

    bind_vectors(m, &v);
}


static int
bind_ffn(const moe_ffn_t *f, moe_ffn_mats_t *to, moe_err_t *err)
{
    if (bind_matrix(&f->gate, &to->gate, err) != 0
        || bind_matrix(&f->up, &to->up, err) != 0
        || bind_matrix(&f->down, &to->down, err) != 0)
    {
        return -1;
    }

    return 0;
}


static int
bind_layer(moe_model_t *m, int i, moe_err_t *err)
{
    int                         e;
    moe_layer_t                *l;
    const moe_layer_weights_t  *w;

    l = &m->layers[i];
    w = &m->weights->layers[i];

    if (bind_matrix(&w->q_a, &l->q_a, err) != 0
        || bind_matrix(&w->q_b, &l->q_b, err) != 0
        || bind_matrix(&w->q, &l->q, err) != 0
        || bind_matrix(&w->kv_a, &l->kv_a, err) != 0
        || bind_matrix(&w->kv_b, &l->kv_b, err) != 0
        || bind_matrix(&w->k, &l->k, err) != 0
        || bind_matrix(&w->v, &l->v, err) != 0
        || bind_matrix(&w->o, &l->o, err) != 0)
    {
        return -1;
    }

    if (w->experts == NULL) {
        return bind_ffn(&w->dense, &l->ffn, err);
    }

    l->experts = m->experts + (size_t) i * (size_t) m->cfg.n_experts;

    for (e = 0; e < m->cfg.n_experts; e++) {
        if (bind_ffn(&w->experts[e], &l->experts[e], err) != 0) {
            return -1;
        }
    }

    if (bind_matrix(&w->router, &l->router, err) != 0
        || bind_matrix(&w->shared_gate, &l->shared_gate, err) != 0)
    {
        return -1;
    }

    return bind_ffn(&w->shared, &l->ffn, err);
}


int
moe_decoder_bind(moe_model_t *m, int mtp, moe_err_t *err)
{
    int        i;
    size_t     n;
    vectors_t  v = { 0 };

    if (mtp && bind_matrix(&m->weights->mtp.eh_proj, &m->mtp.eh_proj, err)
               != 0)
    {
        return -1;
    }

    m->mtp.on = m->mtp.eh_proj.data != NULL;
    n = moe_decoder_layers(m);
    m->clamped = (moe_clamped_t) { (float) m->cfg.swiglu_alpha,
                                   (float) m->cfg.swiglu_limit };

    m->layers = calloc(n, sizeof(moe_layer_t));
    m->experts = calloc(n * (size_t) m->cfg.n_experts + 1,
                        sizeof(moe_ffn_mats_t));

    if (m->layers == NULL || m->experts == NULL) {
        return moe_err(err, "decoder: out of memory");
    }

    bind_vectors(m, &v);
    m->nvectors = v.at;

    m->vectors = malloc(m->nvectors * sizeof(float));
    if (m->vectors == NULL) {
        return moe_err(err, "decoder: out of memory");
    }

    v = (vectors_t) { m->vectors, m->vectors, 0 };
    bind_vectors(m, &v);

    if (bind_matrix(&m->weights->embed, &m->embed, err) != 0
        || bind_matrix(&m->weights->head, &m->head, err) != 0)
    {
        return -1;
    }

    for (i = 0; i < (int) n; i++) {
        if (bind_layer(m, i, err) != 0) {
            return moe_err_prefix(err, "layer %d", i);
        }
    }

    return 0;
}
