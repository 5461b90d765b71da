/*
 * decoder_device: weights and vectors copied to the memory of a device, one
 * allocation for all of them.
 */

#include "kernels/cpu/packed.h"
#include "model/decoder.h"


enum { ALIGN = 256 };


/* a pass over all matrices; with base NULL bytes are only counted */
typedef struct {
    moe_model_t   *m;
    char          *base;
    size_t         at;
    size_t         bytes;           /* of all, of the second pass */
    uint32_t       percent;
    int          (*progress)(void *ctx, uint32_t percent);
    void          *ctx;
    moe_err_t     *err;
} copy_t;


static int copy_all(copy_t *c);


static size_t
matrix_bytes(const moe_matrix_t *w)
{
    size_t  each;

    if (moe_is_packed(w->type)) {
        return moe_packed_size(w->type, w->n, w->k);
    }

    each = w->type == MOE_W_F32 ? 4 : w->type == MOE_W_F8_E4M3 ? 1 : 2;

    return (size_t) w->n * w->k * each;
}


/* where from's bytes are on the device */
static void *
copy_bytes(copy_t *c, const void *from, size_t bytes)
{
    char  *to;

    to = c->base ? c->base + c->at : NULL;
    c->at += (bytes + ALIGN - 1) / ALIGN * ALIGN;

    if (to != NULL) {
        c->m->kernels->memory->put(c->m->kctx.device, to, from, bytes);
    }

    return to;
}


static int
copy_matrix(copy_t *c, moe_matrix_t *w)
{
    void      *data;
    float     *scale;
    size_t     scales;
    uint32_t   percent;

    if (w->data == NULL) {
        return 0;
    }

    data = copy_bytes(c, w->data, matrix_bytes(w));
    scale = NULL;

    if (w->type == MOE_W_F8_E4M3) {
        scales = ((size_t) w->n + 127) / 128 * w->scale_cols;
        scale = copy_bytes(c, w->scale, scales * sizeof(float));
    }

    if (c->base == NULL) {
        return 0;
    }

    w->data = data;
    w->scale = scale;
    percent = (uint32_t) ((double) c->at / (double) c->bytes * 100);

    if (percent != c->percent && c->progress != NULL
        && c->progress(c->ctx, percent) != 0)
    {
        return moe_err(c->err, "model: opening was given up");
    }

    c->percent = percent;

    return 0;
}


static int
copy_ffn(copy_t *c, moe_ffn_mats_t *f)
{
    if (copy_matrix(c, &f->gate) != 0 || copy_matrix(c, &f->up) != 0
        || copy_matrix(c, &f->down) != 0)
    {
        return -1;
    }

    return 0;
}


/* what is elsewhere has no place here */
static int
copy_expert(copy_t *c, uint32_t layer, uint32_t e)
{
    moe_ffn_mats_t  *f;
    moe_exchange_t  *x;

    x = c->m->exchange;
    f = &c->m->layers[layer].experts[e];

    if (layer >= (uint32_t) c->m->cfg.n_layers || x->ops->holds == NULL
        || x->ops->holds(x, layer, e))
    {
        return copy_ffn(c, f);
    }

    if (c->base != NULL) {
        f->gate.data = NULL;
        f->up.data = NULL;
        f->down.data = NULL;
    }

    return 0;
}


static int
copy_layer(copy_t *c, uint32_t layer)
{
    uint32_t       e;
    size_t         i;
    moe_layer_t   *l = &c->m->layers[layer];
    moe_matrix_t  *all[] = {
        &l->q_a, &l->q_b, &l->q, &l->kv_a, &l->kv_b, &l->k, &l->v, &l->o,
        &l->router, &l->shared_gate
    };

    for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        if (copy_matrix(c, all[i]) != 0) {
            return -1;
        }
    }

    for (e = 0; l->experts != NULL && e < (uint32_t) c->m->cfg.n_experts;
         e++)
    {
        if (copy_expert(c, layer, e) != 0) {
            return -1;
        }
    }

    return copy_ffn(c, &l->ffn);
}


/* many models have one matrix for both ends */
static int
copy_ends(copy_t *c)
{
    int           tied;
    moe_model_t  *m;

    m = c->m;
    tied = m->head.data == m->embed.data;

    if (copy_matrix(c, &m->embed) != 0) {
        return -1;
    }

    if (tied) {
        m->head = m->embed;
        return 0;
    }

    return copy_matrix(c, &m->head);
}


static int
copy_all(copy_t *c)
{
    uint32_t      i;
    moe_model_t  *m;

    m = c->m;

    for (i = 0; i < moe_decoder_layers(m); i++) {
        if (copy_layer(c, i) != 0) {
            return -1;
        }
    }

    if (copy_ends(c) != 0 || copy_matrix(c, &m->mtp.eh_proj) != 0) {
        return -1;
    }

    moe_decoder_bind_vectors(m, copy_bytes(c, m->vectors,
                                           m->nvectors * sizeof(float)));

    return 0;
}


int
moe_decoder_to_device(moe_model_t *m,
    int (*progress)(void *ctx, uint32_t percent), void *ctx, moe_err_t *err)
{
    char    last;
    copy_t  c = { .m = m, .progress = progress, .ctx = ctx, .err = err };

    (void) copy_all(&c);

    m->device_weights = m->kernels->memory->take(m->kctx.device, c.at, err);
    if (m->device_weights == NULL) {
        return moe_err_prefix(err, "weights");
    }

    c.base = m->device_weights;
    c.bytes = c.at;
    c.at = 0;

    if (copy_all(&c) != 0) {
        return -1;
    }

    /* waits for all copies, and says whether they failed */
    return m->kernels->memory->get(m->kctx.device, &last, c.base, 1, err);
}
