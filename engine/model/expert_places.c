#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "ep/spread.h"
#include "model/expert_places.h"


typedef enum {
    IDLE,
    COMES,                  /* the thread's */
    IS_HERE,
    FAILED
} state_e;

typedef struct {
    char      *mem;         /* NULL: no experts, or not known yet */
    size_t     each;        /* bytes of a place */
    uint32_t  *expert;      /* [nplaces], or NONE */
} layer_t;

struct moe_expert_places_s {
    moe_expert_memory_t      base;
    moe_model_t             *m;
    const moe_device_ops_t  *d;
    uint32_t                 nplaces;   /* of a layer */
    int                      moves;
    layer_t                 *layers;    /* [n_layers] */
    uint32_t                *expert;    /* [n_layers][nplaces] */
    moe_ffn_mats_t          *mapped;    /* [n_layers][n_experts], in the
                                         * process's memory */
    char                    *aside;     /* [nplaces] of aside_each bytes */
    size_t                   aside_each;
    int                      moved;     /* from aside, maybe not yet done */

    /* what comes, in aside in this order; the thread's while state is COMES */
    uint32_t                 layer;
    uint32_t                 n;
    uint32_t                *coming;    /* [nplaces] */
    uint8_t                 *wanted;    /* [n_experts] */
    moe_err_t                err;

    int                      started;
    pthread_t                tid;
    pthread_mutex_t          mutex;
    pthread_cond_t           cond;
    state_e                  state;     /* what follows: under the mutex */
    int                      ends;
};


static int bring(void *ctx, uint32_t layer, const uint32_t *experts,
    uint32_t n, moe_err_t *err);
static int brought(void *ctx, moe_err_t *err);
static void take(void *ctx);
static void *thread_main(void *arg);


static moe_ffn_mats_t *
mapped_of(const moe_expert_places_t *p, uint32_t layer, uint32_t expert)
{
    return p->mapped + (size_t) layer * (size_t) p->m->cfg.n_experts + expert;
}


static void
measure(moe_expert_places_t *p, uint32_t layer)
{
    size_t     bytes;
    uint32_t   e;
    layer_t   *l = &p->layers[layer];

    l->expert = p->expert + (size_t) layer * p->nplaces;

    for (e = 0; e < p->nplaces; e++) {
        l->expert[e] = MOE_SPREAD_NONE;
    }

    if (p->m->layers[layer].experts == NULL) {
        return;
    }

    for (e = 0; e < (uint32_t) p->m->cfg.n_experts; e++) {
        bytes = moe_decoder_ffn_bytes(mapped_of(p, layer, e));
        l->each = bytes > l->each ? bytes : l->each;
    }

    p->aside_each = l->each > p->aside_each ? l->each : p->aside_each;
}


static int
set_up(moe_expert_places_t *p, moe_err_t *err)
{
    size_t    n;
    uint32_t  l, nlayers, nexperts;

    nlayers = (uint32_t) p->m->cfg.n_layers;
    nexperts = (uint32_t) p->m->cfg.n_experts;
    n = (size_t) nlayers * nexperts;

    p->layers = calloc(nlayers, sizeof(layer_t));
    p->expert = calloc((size_t) nlayers * p->nplaces, sizeof(uint32_t));
    p->mapped = calloc(n, sizeof(moe_ffn_mats_t));
    p->coming = calloc(p->nplaces, sizeof(uint32_t));
    p->wanted = calloc(nexperts, 1);

    if (p->layers == NULL || p->expert == NULL || p->mapped == NULL
        || p->coming == NULL || p->wanted == NULL)
    {
        return moe_err(err, "model: out of memory");
    }

    memcpy(p->mapped, p->m->experts, n * sizeof(moe_ffn_mats_t));

    for (l = 0; l < nlayers; l++) {
        measure(p, l);
    }

    return 0;
}


moe_expert_places_t *
moe_expert_places_create(moe_model_t *m, moe_err_t *err)
{
    moe_exchange_t       *x;
    moe_expert_places_t  *p;

    p = calloc(1, sizeof(moe_expert_places_t));
    if (p == NULL) {
        moe_err(err, "model: out of memory");
        return NULL;
    }

    x = m->exchange;
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->cond, NULL);

    p->base = (moe_expert_memory_t) {
        .ctx = p,
        .bring = bring,
        .brought = brought,
        .take = take
    };
    p->m = m;
    p->d = moe_kernels_device(m->kernels);
    p->nplaces = x->ops->places(x);
    p->moves = x->ops->moves(x);

    if (set_up(p, err) != 0) {
        moe_expert_places_free(p);
        return NULL;
    }

    return p;
}


void
moe_expert_places_free(moe_expert_places_t *p)
{
    if (p == NULL) {
        return;
    }

    if (p->started) {
        pthread_mutex_lock(&p->mutex);
        p->ends = 1;
        pthread_cond_signal(&p->cond);
        pthread_mutex_unlock(&p->mutex);
        pthread_join(p->tid, NULL);
    }

    pthread_mutex_destroy(&p->mutex);
    pthread_cond_destroy(&p->cond);
    free(p->layers);
    free(p->expert);
    free(p->mapped);
    free(p->coming);
    free(p->wanted);
    free(p);
}


size_t
moe_expert_places_bytes(const moe_expert_places_t *p, uint32_t layer)
{
    return p->nplaces * p->layers[layer].each;
}


size_t
moe_expert_places_aside(const moe_expert_places_t *p)
{
    return p->moves ? p->nplaces * p->aside_each : 0;
}


/* takes a place, of which there is one, for the expert */
static size_t
take_place(layer_t *l, uint32_t expert)
{
    uint32_t  i;

    for (i = 0; l->expert[i] != MOE_SPREAD_NONE; i++) {
        /* void */
    }

    l->expert[i] = expert;

    return i * l->each;
}


size_t
moe_expert_places_add(moe_expert_places_t *p, uint32_t layer, uint32_t expert)
{
    return take_place(&p->layers[layer], expert);
}


void
moe_expert_places_are(moe_expert_places_t *p, uint32_t layer, void *mem)
{
    p->layers[layer].mem = mem;
}


void
moe_expert_places_aside_is(moe_expert_places_t *p, void *mem)
{
    p->aside = mem;
}


int
moe_expert_places_start(moe_expert_places_t *p, moe_err_t *err)
{
    if (!p->moves) {
        return 0;
    }

    if (pthread_create(&p->tid, NULL, thread_main, p) != 0) {
        return moe_err(err, "model: no thread to bring experts");
    }

    p->started = 1;
    p->m->exchange->ops->remember(p->m->exchange, &p->base);

    return 0;
}


/* the thread's */


static int
bring_matrix(moe_expert_places_t *p, char **to, const moe_matrix_t *w)
{
    size_t         i, bytes[2];
    moe_device_t  *device;
    const void    *from[2] = { w->data, w->scale };

    device = p->m->kctx.device;
    bytes[0] = moe_decoder_matrix_bytes(w);
    bytes[1] = moe_decoder_scale_bytes(w);

    for (i = 0; i < 2; i++) {
        if (bytes[i] != 0
            && p->d->bring(device, *to, from[i], bytes[i], &p->err) != 0)
        {
            return -1;
        }

        *to += moe_decoder_aligned(bytes[i]);
    }

    return 0;
}


static int
bring_expert(moe_expert_places_t *p, char *to, uint32_t expert)
{
    const moe_ffn_mats_t  *f;

    f = mapped_of(p, p->layer, expert);

    return bring_matrix(p, &to, &f->gate) != 0
           || bring_matrix(p, &to, &f->up) != 0
           || bring_matrix(p, &to, &f->down) != 0 ? -1 : 0;
}


static state_e
bring_all(moe_expert_places_t *p)
{
    int       ends;
    uint32_t  i;

    for (i = 0; i < p->n; i++) {
        pthread_mutex_lock(&p->mutex);
        ends = p->ends;
        pthread_mutex_unlock(&p->mutex);

        if (ends) {
            break;
        }

        if (bring_expert(p, p->aside + i * p->aside_each, p->coming[i]) != 0)
        {
            return FAILED;
        }
    }

    return IS_HERE;
}


static void *
thread_main(void *arg)
{
    state_e               state;
    moe_expert_places_t  *p = arg;

    pthread_mutex_lock(&p->mutex);

    for ( ;; ) {
        while (p->state != COMES && !p->ends) {
            pthread_cond_wait(&p->cond, &p->mutex);
        }

        if (p->ends) {
            break;
        }

        pthread_mutex_unlock(&p->mutex);
        state = bring_all(p);
        pthread_mutex_lock(&p->mutex);

        p->state = state;
    }

    pthread_mutex_unlock(&p->mutex);

    return NULL;
}


/* the thread's that computes */


static int
bring(void *ctx, uint32_t layer, const uint32_t *experts, uint32_t n,
    moe_err_t *err)
{
    char                  last;
    uint32_t              i;
    layer_t              *l;
    moe_expert_places_t  *p = ctx;

    l = &p->layers[layer];
    p->layer = layer;
    p->n = 0;
    memset(p->wanted, 0, (size_t) p->m->cfg.n_experts);

    /* 1: lacking */
    for (i = 0; i < n; i++) {
        if (experts[i] != MOE_SPREAD_NONE) {
            p->wanted[experts[i]] = 1;
        }
    }

    for (i = 0; i < p->nplaces; i++) {
        if (l->expert[i] != MOE_SPREAD_NONE && p->wanted[l->expert[i]]) {
            p->wanted[l->expert[i]] = 2;
        }
    }

    for (i = 0; i < (uint32_t) p->m->cfg.n_experts && l->mem != NULL; i++) {
        if (p->wanted[i] == 1) {
            p->coming[p->n++] = i;
        }
    }

    /* of the layer before, asked for a step ago: all but surely done */
    if (p->moved
        && p->m->kernels->memory->get(p->m->kctx.device, &last, p->aside, 1,
                                      err)
           != 0)
    {
        return -1;
    }

    p->moved = 0;

    pthread_mutex_lock(&p->mutex);
    p->state = COMES;
    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mutex);

    return 0;
}


static int
brought(void *ctx, moe_err_t *err)
{
    state_e               state;
    moe_expert_places_t  *p = ctx;

    pthread_mutex_lock(&p->mutex);
    state = p->state;
    pthread_mutex_unlock(&p->mutex);

    if (state == FAILED) {
        *err = p->err;
        return moe_err_prefix(err, "experts of layer %u", p->layer);
    }

    return state == IS_HERE;
}


static void
point_matrix(moe_matrix_t *w, const moe_matrix_t *mapped, char **at)
{
    size_t  scales;

    scales = moe_decoder_scale_bytes(mapped);
    w->data = *at;
    *at += moe_decoder_aligned(moe_decoder_matrix_bytes(mapped));
    w->scale = scales ? (const float *) (const void *) *at : NULL;
    *at += moe_decoder_aligned(scales);
}


/* mem NULL: it is elsewhere */
static void
point_expert(moe_expert_places_t *p, uint32_t expert, char *mem)
{
    moe_ffn_mats_t        *f;
    const moe_ffn_mats_t  *mapped;

    f = &p->m->layers[p->layer].experts[expert];

    if (mem == NULL) {
        f->gate.data = NULL;
        f->up.data = NULL;
        f->down.data = NULL;
        return;
    }

    mapped = mapped_of(p, p->layer, expert);
    point_matrix(&f->gate, &mapped->gate, &mem);
    point_matrix(&f->up, &mapped->up, &mem);
    point_matrix(&f->down, &mapped->down, &mem);
}


static void
take(void *ctx)
{
    char                 *to;
    uint32_t              i;
    layer_t              *l;
    moe_expert_places_t  *p = ctx;

    l = &p->layers[p->layer];

    for (i = 0; i < p->nplaces; i++) {
        if (l->expert[i] != MOE_SPREAD_NONE && !p->wanted[l->expert[i]]) {
            point_expert(p, l->expert[i], NULL);
            l->expert[i] = MOE_SPREAD_NONE;
        }
    }

    for (i = 0; i < p->n; i++) {
        to = l->mem + take_place(l, p->coming[i]);
        p->m->kernels->memory->move(p->m->kctx.device, to,
                                    p->aside + i * p->aside_each, l->each);
        point_expert(p, p->coming[i], to);
    }

    p->moved = p->n != 0;
}
