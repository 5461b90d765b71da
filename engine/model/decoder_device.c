/*
 * decoder_device: weights and vectors copied to the memory of a device, one
 * allocation for all of them.
 */

#include "kernels/cpu/packed.h"
#include "model/decoder.h"
#include "model/expert_places.h"


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


size_t
moe_decoder_matrix_bytes(const moe_matrix_t *w)
{
    size_t  each;

    if (moe_is_packed(w->type)) {
        return moe_packed_size(w->type, w->n, w->k);
    }

    each = w->type == MOE_W_F32 ? 4 : w->type == MOE_W_F8_E4M3 ? 1 : 2;

    return (size_t) w->n * w->k * each;
}


size_t
moe_decoder_scale_bytes(const moe_matrix_t *w)
{
    return w->type == MOE_W_F8_E4M3
           ? ((size_t) w->n + 127) / 128 * w->scale_cols * sizeof(float) : 0;
}


size_t
moe_decoder_aligned(size_t bytes)
{
    return (bytes + ALIGN - 1) / ALIGN * ALIGN;
}


size_t
moe_decoder_ffn_bytes(const moe_ffn_mats_t *f)
{
    size_t               i, bytes;
    const moe_matrix_t  *all[] = { &f->gate, &f->up, &f->down };

    bytes = 0;

    for (i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
        bytes += moe_decoder_aligned(moe_decoder_matrix_bytes(all[i]))
                 + moe_decoder_aligned(moe_decoder_scale_bytes(all[i]));
    }

    return bytes;
}


/* where from's bytes are on the device */
static void *
copy_bytes(copy_t *c, const void *from, size_t bytes)
{
    char  *to;

    to = c->base ? c->base + c->at : NULL;
    c->at += moe_decoder_aligned(bytes);

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
    uint32_t   percent;

    if (w->data == NULL) {
        return 0;
    }

    data = copy_bytes(c, w->data, moe_decoder_matrix_bytes(w));
    scale = NULL;

    if (w->type == MOE_W_F8_E4M3) {
        scale = copy_bytes(c, w->scale, moe_decoder_scale_bytes(w));
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
copy_expert(copy_t *c, uint32_t layer, uint32_t e, size_t at)
{
    moe_ffn_mats_t  *f;
    moe_exchange_t  *x;

    x = c->m->exchange;
    f = &c->m->layers[layer].experts[e];

    if (x->ops->holds(x, layer, e)) {
        c->at = at + moe_expert_places_add(c->m->places, layer, e);
        return copy_ffn(c, f);
    }

    f->gate.data = NULL;
    f->up.data = NULL;
    f->down.data = NULL;

    return 0;
}


/* of a layer whose experts are spread: those of this rank in its places */
static int
copy_spread(copy_t *c, uint32_t layer)
{
    size_t    at, bytes;
    uint32_t  e;

    at = c->at;
    bytes = moe_expert_places_bytes(c->m->places, layer);

    if (c->base != NULL && bytes != 0) {
        moe_expert_places_are(c->m->places, layer, c->base + at);

        for (e = 0; e < (uint32_t) c->m->cfg.n_experts; e++) {
            if (copy_expert(c, layer, e, at) != 0) {
                return -1;
            }
        }
    }

    c->at = at + bytes;

    return 0;
}


static int
copy_experts(copy_t *c, uint32_t layer)
{
    uint32_t      e;
    moe_layer_t  *l = &c->m->layers[layer];

    if (l->experts == NULL) {
        return 0;
    }

    /* an MTP layer's are all here */
    if (c->m->places != NULL && layer < (uint32_t) c->m->cfg.n_layers) {
        return copy_spread(c, layer);
    }

    for (e = 0; e < (uint32_t) c->m->cfg.n_experts; e++) {
        if (copy_ffn(c, &l->experts[e]) != 0) {
            return -1;
        }
    }

    return 0;
}


static int
copy_layer(copy_t *c, uint32_t layer)
{
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

    if (copy_experts(c, layer) != 0) {
        return -1;
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


/* room beside the places, for experts that come */
static void
leave_aside(copy_t *c)
{
    if (c->m->places != NULL && c->base != NULL) {
        moe_expert_places_aside_is(c->m->places, c->base + c->at);
    }

    if (c->m->places != NULL) {
        c->at += moe_expert_places_aside(c->m->places);
    }
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
    leave_aside(c);

    /* last, for it tells where all of them are */
    m->device_experts = copy_bytes(c, m->experts,
                                   moe_decoder_layers(m)
                                   * (size_t) m->cfg.n_experts
                                   * sizeof(moe_expert_t));

    return 0;
}


int
moe_decoder_to_device(moe_model_t *m,
    int (*progress)(void *ctx, uint32_t percent), void *ctx, moe_err_t *err)
{
    char    last;
    copy_t  c = { .m = m, .progress = progress, .ctx = ctx, .err = err };

    if (m->exchange != NULL && m->exchange->ops->places != NULL) {
        m->places = moe_expert_places_create(m, err);

        if (m->places == NULL) {
            return -1;
        }
    }

    (void) copy_all(&c);

    m->device_weights = m->kernels->memory->take(m->kctx.device, c.at, err);
    if (m->device_weights == NULL) {
        return moe_err_prefix(err, "weights");
    }

    c.base = m->device_weights;
    c.bytes = c.at;
    c.at = 0;

    /* waits for all copies, and says whether they failed */
    if (copy_all(&c) != 0
        || m->kernels->memory->get(m->kctx.device, &last, c.base, 1, err)
           != 0)
    {
        return -1;
    }

    return m->places ? moe_expert_places_start(m->places, err) : 0;
}
