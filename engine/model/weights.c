#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/packed.h"
#include "model/family.h"
#include "model/fused.h"
#include "model/gguf_model.h"
#include "model/weights.h"


#define NAME_SIZE  256

/* names in messages are cut, so that the rest of the line is still there */
#define NAME       "\"%.160s\""


/* sizes of a configuration that shapes are made of */
typedef enum {
    D_ONE,
    D_HIDDEN,
    D_HIDDEN_2,
    D_VOCAB,
    D_Q,                        /* all heads of q */
    D_KV,                       /* all heads of k or v */
    D_O,                        /* all heads' outputs */
    D_HEAD,
    D_Q_LORA,
    D_KV_LORA,
    D_KV_A,
    D_KV_B,
    D_DENSE,
    D_SHARED,
    D_FFN,
    D_EXPERTS,
    D_SINKS,
    D_COUNT
} dim_e;

/* what must be true of a layer for a tensor to be there; all bits */
enum {
    W_ALWAYS = 0,
    W_MLA = 1 << 0,
    W_GQA = 1 << 1,
    W_Q_LORA = 1 << 2,
    W_Q_DIRECT = 1 << 3,
    W_BIAS = 1 << 4,
    W_NORM_HEAD = 1 << 5,
    W_NORM_FULL = 1 << 6,
    W_DENSE = 1 << 7,
    W_MOE = 1 << 8,
    W_ROUTER_BIAS = 1 << 9,
    W_SHARED = 1 << 10,
    W_SHARED_GATE = 1 << 11,
    W_O_BIAS = 1 << 12,
    W_SINKS = 1 << 13,
    W_LOGIT_BIAS = 1 << 14,
    W_FFN_BIAS = 1 << 15,

    /* not of the layer: the engine computes with it as FP8 or packed ... */
    W_FP8 = 1 << 16,

    /* ... but takes some of its rows at a time, so not packed */
    W_ROWS = 1 << 17
};

/*
 * One tensor.  In the name {n} stands for the number of an expert, the other
 * words in braces for the family's own.  A vector has
 * rows D_ONE and ndim 1.
 */
typedef struct {
    const char  *name;
    size_t       slot;          /* offset of its moe_tensor_t */
    dim_e        rows;
    dim_e        cols;
    unsigned     when;
    int          ndim;
} spec_t;

typedef struct walk_s  walk_t;

struct walk_s {
    const moe_config_t  *cfg;
    const moe_family_t  *fam;
    moe_weights_t       *w;     /* NULL: only counting */
    moe_params_t        *params;
    moe_err_t           *err;
    char                 name[NAME_SIZE];
    size_t               base;  /* of name: what comes before the spec's */
    uint64_t             dims[D_COUNT];
    int                  wide;  /* what MXFP4 becomes, see fused.h */
};


static moe_weights_t *weights_new(moe_st_t *st, const moe_config_t *cfg);
static void weights_count_unused(moe_weights_t *w, const moe_config_t *cfg);
static int walk(walk_t *k);
static int walk_layer(walk_t *k, int layer, int is_moe);
static int walk_mtp(walk_t *k);
static int walk_specs(walk_t *k, const spec_t *s, size_t n, void *into,
    unsigned flags, int expert);
static void walk_dims(walk_t *k);
static unsigned layer_flags(const moe_config_t *cfg, int is_moe);
static int spec_name(walk_t *k, const char *tmpl, int expert);
static void spec_count(walk_t *k, const spec_t *s, int expert);
static int spec_bind(walk_t *k, const spec_t *s, moe_tensor_t *t);
static int spec_takes(const walk_t *k, const spec_t *s, moe_dtype_e dtype);
static int spec_bind_part(walk_t *k, const moe_st_tensor_t *f,
    moe_tensor_t *t);
static int spec_bind_scale(walk_t *k, moe_tensor_t *t);
static const float *scale_data(walk_t *k, const moe_st_tensor_t *f, int rows,
    int cols);
static int shape_is(walk_t *k, const moe_st_tensor_t *f, int ndim,
    uint64_t rows, uint64_t cols);
static const void *tensor_data(walk_t *k, const moe_st_tensor_t *f,
    size_t align);
static void *tensor_copy(walk_t *k, const moe_st_tensor_t *f, size_t size);
static float f16_to_f32(uint16_t h);
static float e4m3_to_f32(uint8_t b);


#define TOP(member)    offsetof(moe_weights_t, member)
#define LAYER(member)  offsetof(moe_layer_weights_t, member)
#define FFN(member)    offsetof(moe_ffn_t, member)
#define MTP(member)    offsetof(moe_mtp_weights_t, member)


static const spec_t  top_specs[] = {
    { "model.embed_tokens.weight", TOP(embed), D_VOCAB, D_HIDDEN, W_ALWAYS,
      2 },
    { "model.norm.weight", TOP(norm), D_ONE, D_HIDDEN, W_ALWAYS, 1 },
};

static const spec_t  head_specs[] = {
    { "lm_head.weight", TOP(head), D_VOCAB, D_HIDDEN, W_FP8, 2 },
};

static const spec_t  layer_specs[] = {
    { "input_layernorm.weight", LAYER(attn_norm), D_ONE, D_HIDDEN,
      W_ALWAYS, 1 },
    { "post_attention_layernorm.weight", LAYER(ffn_norm), D_ONE, D_HIDDEN,
      W_ALWAYS, 1 },

    { "self_attn.q_a_proj.weight", LAYER(q_a), D_Q_LORA, D_HIDDEN,
      W_MLA | W_Q_LORA | W_FP8, 2 },
    { "self_attn.q_a_layernorm.weight", LAYER(q_a_norm), D_ONE, D_Q_LORA,
      W_MLA | W_Q_LORA, 1 },
    { "self_attn.q_b_proj.weight", LAYER(q_b), D_Q, D_Q_LORA,
      W_MLA | W_Q_LORA | W_FP8, 2 },
    { "self_attn.kv_a_proj_with_mqa.weight", LAYER(kv_a), D_KV_A, D_HIDDEN,
      W_MLA | W_FP8, 2 },
    { "self_attn.kv_a_layernorm.weight", LAYER(kv_a_norm), D_ONE, D_KV_LORA,
      W_MLA, 1 },
    { "self_attn.kv_b_proj.weight", LAYER(kv_b), D_KV_B, D_KV_LORA,
      W_MLA | W_FP8 | W_ROWS, 2 },

    { "self_attn.q_proj.weight", LAYER(q), D_Q, D_HIDDEN,
      W_Q_DIRECT | W_FP8, 2 },
    { "self_attn.k_proj.weight", LAYER(k), D_KV, D_HIDDEN, W_GQA | W_FP8, 2 },
    { "self_attn.v_proj.weight", LAYER(v), D_KV, D_HIDDEN, W_GQA | W_FP8, 2 },
    { "self_attn.q_proj.bias", LAYER(q_bias), D_ONE, D_Q, W_BIAS, 1 },
    { "self_attn.k_proj.bias", LAYER(k_bias), D_ONE, D_KV, W_BIAS, 1 },
    { "self_attn.v_proj.bias", LAYER(v_bias), D_ONE, D_KV, W_BIAS, 1 },
    { "self_attn.q_norm.weight", LAYER(q_norm), D_ONE, D_HEAD,
      W_NORM_HEAD, 1 },
    { "self_attn.k_norm.weight", LAYER(k_norm), D_ONE, D_HEAD,
      W_NORM_HEAD, 1 },
    { "self_attn.q_norm.weight", LAYER(q_norm), D_ONE, D_Q, W_NORM_FULL, 1 },
    { "self_attn.k_norm.weight", LAYER(k_norm), D_ONE, D_KV, W_NORM_FULL, 1 },

    { "self_attn.o_proj.weight", LAYER(o), D_HIDDEN, D_O, W_FP8, 2 },
    { "self_attn.o_proj.bias", LAYER(o_bias), D_ONE, D_HIDDEN, W_O_BIAS, 1 },
    { "self_attn.sinks", LAYER(sinks), D_ONE, D_SINKS, W_SINKS, 1 },

    { "mlp.gate_proj.weight", LAYER(dense.gate), D_DENSE, D_HIDDEN,
      W_DENSE | W_FP8, 2 },
    { "mlp.up_proj.weight", LAYER(dense.up), D_DENSE, D_HIDDEN,
      W_DENSE | W_FP8, 2 },
    { "mlp.down_proj.weight", LAYER(dense.down), D_HIDDEN, D_DENSE,
      W_DENSE | W_FP8, 2 },

    { "{moe}.{router}.weight", LAYER(router), D_EXPERTS, D_HIDDEN, W_MOE,
      2 },
    { "{moe}.{router}.bias", LAYER(logit_bias), D_ONE, D_EXPERTS,
      W_MOE | W_LOGIT_BIAS, 1 },
    { "{moe}.{router_bias}", LAYER(router_bias), D_ONE,
      D_EXPERTS, W_MOE | W_ROUTER_BIAS, 1 },
    { "{moe}.{shared}.{gate}.weight", LAYER(shared.gate), D_SHARED, D_HIDDEN,
      W_MOE | W_SHARED | W_FP8, 2 },
    { "{moe}.{shared}.{up}.weight", LAYER(shared.up), D_SHARED, D_HIDDEN,
      W_MOE | W_SHARED | W_FP8, 2 },
    { "{moe}.{shared}.{down}.weight", LAYER(shared.down), D_HIDDEN, D_SHARED,
      W_MOE | W_SHARED | W_FP8, 2 },
    { "{moe}.{shared}_gate.weight", LAYER(shared_gate), D_ONE, D_HIDDEN,
      W_MOE | W_SHARED_GATE, 2 },
};

static const spec_t  expert_specs[] = {
    { "{moe}.experts.{n}.{gate}.weight", FFN(gate), D_FFN, D_HIDDEN,
      W_FP8, 2 },
    { "{moe}.experts.{n}.{up}.weight", FFN(up), D_FFN, D_HIDDEN, W_FP8, 2 },
    { "{moe}.experts.{n}.{down}.weight", FFN(down), D_HIDDEN, D_FFN,
      W_FP8, 2 },
    { "{moe}.experts.{n}.{gate}.bias", FFN(gate_bias), D_ONE, D_FFN,
      W_FFN_BIAS, 1 },
    { "{moe}.experts.{n}.{up}.bias", FFN(up_bias), D_ONE, D_FFN,
      W_FFN_BIAS, 1 },
    { "{moe}.experts.{n}.{down}.bias", FFN(down_bias), D_ONE, D_HIDDEN,
      W_FFN_BIAS, 1 },
};

static const spec_t  mtp_specs[] = {
    { "enorm.weight", MTP(enorm), D_ONE, D_HIDDEN, W_ALWAYS, 1 },
    { "hnorm.weight", MTP(hnorm), D_ONE, D_HIDDEN, W_ALWAYS, 1 },
    { "eh_proj.weight", MTP(eh_proj), D_HIDDEN, D_HIDDEN_2, W_FP8, 2 },
    { "shared_head.norm.weight", MTP(norm), D_ONE, D_HIDDEN, W_ALWAYS, 1 },
};

#define COUNT(specs)  (sizeof(specs) / sizeof(specs[0]))


moe_weights_t *
moe_weights_load(const char *dir, const moe_config_t *cfg, moe_err_t *err)
{
    moe_st_t  *st;

    st = moe_gguf_is(dir) ? moe_gguf_tensors_open(dir, cfg, err)
                          : moe_st_open(dir, err);
    if (st == NULL) {
        return NULL;
    }

    if (!moe_gguf_is(dir) && moe_fused_split(st, cfg, err) != 0) {
        moe_st_close(st);
        return NULL;
    }

    return moe_weights_bind(st, cfg, err);
}


/* whether all MXFP4 elements are few */
static int
is_wide(const moe_st_t *st)
{
    size_t                  i;
    uint64_t                n;
    const moe_st_tensor_t  *f;

    n = 0;

    for (i = 0; (f = moe_st_at(st, i)) != NULL; i++) {
        n += f->dtype == MOE_DTYPE_MXFP4 ? f->dims[0] * f->dims[1] : 0;
    }

    return n <= MOE_FUSED_WIDE;
}


moe_weights_t *
moe_weights_bind(moe_st_t *st, const moe_config_t *cfg, moe_err_t *err)
{
    walk_t          k;
    moe_weights_t  *w;

    w = weights_new(st, cfg);
    if (w == NULL) {
        moe_err(err, "weights: no memory");
        moe_st_close(st);
        return NULL;
    }

    memset(&k, 0, sizeof(walk_t));
    k.cfg = cfg;
    k.w = w;
    k.err = err;
    k.wide = is_wide(st);

    if (walk(&k) != 0 || walk_mtp(&k) != 0) {
        moe_weights_free(w);
        return NULL;
    }

    weights_count_unused(w, cfg);

    return w;
}


void
moe_weights_free(moe_weights_t *w)
{
    int     i;
    size_t  j;

    if (w == NULL) {
        return;
    }

    for (i = 0; w->layers != NULL && i <= w->n_layers; i++) {
        free(w->layers[i].experts);
    }

    for (j = 0; j < w->n_copies; j++) {
        free(w->copies[j]);
    }

    free(w->copies);
    free(w->layers);
    moe_st_close(w->st);
    free(w);
}


void
moe_params(const moe_config_t *cfg, moe_params_t *p)
{
    walk_t    k;
    uint64_t  n;

    memset(&k, 0, sizeof(walk_t));
    memset(p, 0, sizeof(moe_params_t));
    k.cfg = cfg;
    k.params = p;

    (void) walk(&k);

    n = p->experts / (uint64_t) cfg->n_experts
        * (uint64_t) (cfg->n_experts - cfg->top_k);

    p->active = p->total - n;
    p->embed = (uint64_t) cfg->vocab * (uint64_t) cfg->hidden
               * (cfg->tie_embeddings ? 1 : 2);
}


static moe_weights_t *
weights_new(moe_st_t *st, const moe_config_t *cfg)
{
    int             i;
    moe_weights_t  *w;

    w = calloc(1, sizeof(moe_weights_t));
    if (w == NULL) {
        return NULL;
    }

    w->n_layers = cfg->n_layers;
    w->layers = calloc((size_t) cfg->n_layers + 1,
                       sizeof(moe_layer_weights_t));

    for (i = 0; w->layers != NULL && i <= cfg->n_layers; i++) {
        if (i < cfg->n_layers ? !cfg->is_moe[i] : cfg->n_moe_layers == 0) {
            continue;
        }

        w->layers[i].experts = calloc((size_t) cfg->n_experts,
                                      sizeof(moe_ffn_t));
        if (w->layers[i].experts == NULL) {
            break;
        }
    }

    if (w->layers == NULL || i <= cfg->n_layers) {
        moe_weights_free(w);
        return NULL;
    }

    /* only now, so that a failure above leaves st to the caller */
    w->st = st;

    return w;
}


static void
weights_count_unused(moe_weights_t *w, const moe_config_t *cfg)
{
    int                     n, layer;
    size_t                  i;
    const moe_st_tensor_t  *t;

    for (i = 0; (t = moe_st_at(w->st, i)) != NULL; i++) {
        n = 0;

        if (sscanf(t->name, "model.layers.%5d.%n", &layer, &n) == 1 && n > 0
            && layer >= cfg->n_layers && layer - cfg->n_layers < cfg->n_mtp)
        {
            w->n_mtp++;
        }
    }

    w->n_unused = i - w->n_used - w->n_mtp;
}


/* a packed file has a head of its own also where the source has none */
static int
has_packed_head(const walk_t *k)
{
    const moe_st_tensor_t  *t;

    t = k->w != NULL ? moe_st_find(k->w->st, head_specs[0].name) : NULL;

    return t != NULL && moe_dtype_is_packed(t->dtype);
}


static int
walk(walk_t *k)
{
    int  i;

    k->fam = moe_family(k->cfg->family);
    walk_dims(k);

    if (walk_specs(k, top_specs, COUNT(top_specs), k->w, W_FP8, -1) != 0) {
        return -1;
    }

    if (!k->cfg->tie_embeddings || has_packed_head(k)) {
        if (walk_specs(k, head_specs, COUNT(head_specs), k->w, W_FP8, -1) != 0)
        {
            return -1;
        }

    } else if (k->w != NULL) {
        k->w->head = k->w->embed;
    }

    for (i = 0; i < k->cfg->n_layers; i++) {
        if (walk_layer(k, i, k->cfg->is_moe[i]) != 0) {
            return -1;
        }
    }

    return 0;
}


/*
 * The first MTP layer, where the configuration knows of one and the files
 * have it: many that are made of others leave it out.
 */
static int
walk_mtp(walk_t *k)
{
    int             n, layer;
    size_t          used;
    uint64_t        bytes;
    moe_weights_t  *w;

    w = k->w;
    layer = k->cfg->n_layers;
    used = w->n_used;
    bytes = w->bytes;

    n = snprintf(k->name, sizeof(k->name), "model.layers.%d.", layer);
    k->base = (size_t) n;
    snprintf(k->name + n, sizeof(k->name) - (size_t) n, "eh_proj.weight");

    if (k->cfg->n_mtp == 0 || moe_st_find(w->st, k->name) == NULL) {
        return 0;
    }

    if (walk_specs(k, mtp_specs, COUNT(mtp_specs), &w->mtp, W_FP8, -1) != 0
        || walk_layer(k, layer, k->cfg->n_moe_layers > 0) != 0)
    {
        return -1;
    }

    w->n_used = used;
    w->bytes = bytes;

    return 0;
}


static int
walk_layer(walk_t *k, int layer, int is_moe)
{
    int                   e, n;
    unsigned              flags;
    moe_layer_weights_t  *l;

    n = snprintf(k->name, sizeof(k->name), "model.layers.%d.", layer);

    k->base = (size_t) n;
    l = k->w != NULL ? &k->w->layers[layer] : NULL;
    flags = layer_flags(k->cfg, is_moe);

    if (walk_specs(k, layer_specs, COUNT(layer_specs), l, flags, -1) != 0) {
        return -1;
    }

    for (e = 0; is_moe && e < k->cfg->n_experts; e++) {
        if (walk_specs(k, expert_specs, COUNT(expert_specs),
                       l != NULL ? &l->experts[e] : NULL, flags, e) != 0)
        {
            return -1;
        }
    }

    return 0;
}


/* into: the struct that the specs' slots are offsets in, NULL: counting */
static int
walk_specs(walk_t *k, const spec_t *s, size_t n, void *into, unsigned flags,
    int expert)
{
    size_t         i;
    moe_tensor_t  *t;

    for (i = 0; i < n; i++) {

        if (s[i].when & ~flags) {
            continue;
        }

        if (into == NULL) {
            spec_count(k, &s[i], expert);
            continue;
        }

        if (spec_name(k, s[i].name, expert) != 0) {
            return moe_err(k->err, "weights: name " NAME " is too long",
                           k->name);
        }

        t = (moe_tensor_t *) ((char *) into + s[i].slot);

        if (spec_bind(k, &s[i], t) != 0) {
            return -1;
        }
    }

    return 0;
}


static void
walk_dims(walk_t *k)
{
    uint64_t            *d, heads;
    const moe_config_t  *c;

    d = k->dims;
    c = k->cfg;
    heads = (uint64_t) c->n_heads;

    d[D_ONE] = 1;
    d[D_HIDDEN] = (uint64_t) c->hidden;
    d[D_HIDDEN_2] = (uint64_t) c->hidden * 2;
    d[D_VOCAB] = (uint64_t) c->vocab;
    d[D_Q] = heads * (uint64_t) c->head_dim;
    d[D_KV] = (uint64_t) c->n_kv_heads * (uint64_t) c->head_dim;
    d[D_O] = heads * (uint64_t) c->v_head_dim;
    d[D_HEAD] = (uint64_t) c->head_dim;
    d[D_Q_LORA] = (uint64_t) c->q_lora_rank;
    d[D_KV_LORA] = (uint64_t) c->kv_lora_rank;
    d[D_KV_A] = (uint64_t) (c->kv_lora_rank + c->qk_rope_head_dim);
    d[D_KV_B] = heads * (uint64_t) (c->qk_nope_head_dim + c->v_head_dim);
    d[D_DENSE] = (uint64_t) c->dense_ffn;
    d[D_SHARED] = (uint64_t) c->shared_ffn;
    d[D_FFN] = (uint64_t) c->moe_ffn;
    d[D_EXPERTS] = (uint64_t) c->n_experts;
    d[D_SINKS] = heads;
}


static unsigned
layer_flags(const moe_config_t *cfg, int is_moe)
{
    unsigned  f;

    f = W_FP8 | W_ROWS;

    if (cfg->attn == MOE_ATTN_MLA) {
        f |= W_MLA | (cfg->q_lora_rank > 0 ? W_Q_LORA : W_Q_DIRECT);

    } else {
        f |= W_GQA | W_Q_DIRECT;
    }

    f |= cfg->qkv_bias ? W_BIAS : 0;
    f |= cfg->o_bias ? W_O_BIAS : 0;
    f |= cfg->sinks ? W_SINKS : 0;
    f |= cfg->qk_norm == MOE_QK_NORM_HEAD ? W_NORM_HEAD : 0;
    f |= cfg->qk_norm == MOE_QK_NORM_FULL ? W_NORM_FULL : 0;

    if (!is_moe) {
        return f | W_DENSE;
    }

    f |= W_MOE;
    f |= cfg->router_bias ? W_ROUTER_BIAS : 0;
    f |= cfg->logit_bias ? W_LOGIT_BIAS : 0;
    f |= cfg->ffn_bias ? W_FFN_BIAS : 0;
    f |= cfg->shared_ffn > 0 ? W_SHARED : 0;
    f |= cfg->shared_gate ? W_SHARED_GATE : 0;

    return f;
}


/* writes the name behind k->base; -1: does not fit */
static int
spec_name(walk_t *k, const char *tmpl, int expert)
{
    char         number[16];
    size_t       i, n, len;
    const char  *word;

    const struct {
        const char  *key;
        const char  *word;
    } words[] = {
        { "{moe}", k->fam->moe_prefix },
        { "{router}", k->fam->router ? k->fam->router : "gate" },
        { "{gate}", k->fam->gate },
        { "{up}", k->fam->up },
        { "{down}", k->fam->down },
        { "{shared}", k->fam->shared },
        { "{router_bias}", k->fam->router_bias },
        { "{n}", number },
    };

    snprintf(number, sizeof(number), "%d", expert);
    n = k->base;

    while (*tmpl != '\0') {
        word = tmpl;
        len = 1;

        for (i = 0; *tmpl == '{' && i < COUNT(words); i++) {
            if (strncmp(tmpl, words[i].key, strlen(words[i].key)) == 0) {
                word = words[i].word;
                len = strlen(word);
                tmpl += strlen(words[i].key) - 1;
                break;
            }
        }

        if (n + len >= sizeof(k->name)) {
            return -1;
        }

        memcpy(k->name + n, word, len);
        n += len;
        tmpl++;
    }

    k->name[n] = '\0';

    return 0;
}


static void
spec_count(walk_t *k, const spec_t *s, int expert)
{
    uint64_t  n;

    n = k->dims[s->rows] * k->dims[s->cols];

    k->params->total += n;
    k->params->experts += expert >= 0 ? n : 0;
}


static int
spec_bind(walk_t *k, const spec_t *s, moe_tensor_t *t)
{
    uint64_t                rows, cols;
    const moe_st_tensor_t  *f;

    rows = k->dims[s->rows];
    cols = k->dims[s->cols];

    f = moe_st_find(k->w->st, k->name);
    if (f == NULL) {
        return moe_err(k->err, "tensor " NAME " is missing", k->name);
    }

    if (shape_is(k, f, s->ndim, rows, cols) != 0) {
        return -1;
    }

    if (!spec_takes(k, s, f->dtype)) {
        return moe_err(k->err, "%s: tensor " NAME " at offset %llu: type %s "
                       "cannot be used%s", f->file, f->name,
                       (unsigned long long) f->offset, f->dtype_name,
                       f->dtype != MOE_DTYPE_F8_E4M3 || !(s->when & W_FP8)
                       ? " here" : " without FP8 quantization_config");
    }

    t->dtype = f->dtype;
    t->rows = (int) rows;
    t->cols = (int) cols;

    if (moe_is_part(f)) {
        return spec_bind_part(k, f, t);
    }

    t->data = tensor_data(k, f, moe_dtype_size(f->dtype));

    if (t->data == NULL) {
        return -1;
    }

    return f->dtype == MOE_DTYPE_F8_E4M3 ? spec_bind_scale(k, t) : 0;
}


static int
spec_takes(const walk_t *k, const spec_t *s, moe_dtype_e dtype)
{
    switch (dtype) {

    case MOE_DTYPE_F8_E4M3:
        return (s->when & W_FP8) && k->cfg->quant == MOE_QUANT_FP8_BLOCK;

    case MOE_DTYPE_I8_G32:
    case MOE_DTYPE_I4_G32:
    case MOE_DTYPE_MX4_G32:
    case MOE_DTYPE_MXFP4:
        return (s->when & W_FP8) && !(s->when & W_ROWS);

    default:
        return dtype != MOE_DTYPE_OTHER;
    }
}


/* a matrix of its own, in memory */
static int
spec_bind_part(walk_t *k, const moe_st_tensor_t *f, moe_tensor_t *t)
{
    void      *p;
    uint64_t   size;

    t->dtype = moe_part_type(f, k->wide, &size);
    p = tensor_copy(k, f, size);

    if (p == NULL) {
        return -1;
    }

    if (moe_part_fill(f, t->dtype, p) != 0) {
        return moe_err(k->err, "%s: tensor " NAME " at offset %llu: a scale "
                       "is too large, or no memory", f->file, f->name,
                       (unsigned long long) f->offset);
    }

    t->data = p;
    k->w->n_used++;
    k->w->bytes += size;

    return 0;
}


static int
spec_bind_scale(walk_t *k, moe_tensor_t *t)
{
    char                    name[NAME_SIZE + 16];
    uint64_t                rows, cols;
    const moe_st_tensor_t  *f;

    snprintf(name, sizeof(name), "%s_scale_inv", k->name);

    rows = ((uint64_t) t->rows + MOE_FP8_BLOCK - 1) / MOE_FP8_BLOCK;
    cols = ((uint64_t) t->cols + MOE_FP8_BLOCK - 1) / MOE_FP8_BLOCK;

    f = moe_st_find(k->w->st, name);
    if (f == NULL) {
        return moe_err(k->err, "tensor " NAME " is missing", name);
    }

    if (shape_is(k, f, 2, rows, cols) != 0) {
        return -1;
    }

    if (moe_dtype_size(f->dtype) < 2) {
        return moe_err(k->err, "%s: tensor " NAME " at offset %llu: scales "
                       "of type %s cannot be used", f->file, f->name,
                       (unsigned long long) f->offset, f->dtype_name);
    }

    t->scale_cols = (int) cols;
    t->scale_inv = scale_data(k, f, (int) rows, (int) cols);

    return t->scale_inv != NULL ? 0 : -1;
}


/* float32 where it lies; Qwen's bf16 scales are widened */
static const float *
scale_data(walk_t *k, const moe_st_tensor_t *f, int rows, int cols)
{
    float         *p;
    moe_tensor_t   t;

    memset(&t, 0, sizeof(moe_tensor_t));
    t.dtype = f->dtype;
    t.rows = rows;
    t.cols = cols;
    t.data = tensor_data(k, f, moe_dtype_size(f->dtype));

    if (t.data == NULL || f->dtype == MOE_DTYPE_F32) {
        return t.data;
    }

    p = tensor_copy(k, f, (size_t) rows * (size_t) cols * sizeof(float));

    if (p != NULL) {
        moe_tensor_to_f32(&t, 0, rows, p);
    }

    return p;
}


static int
shape_is(walk_t *k, const moe_st_tensor_t *f, int ndim, uint64_t rows,
    uint64_t cols)
{
    int     i, n;
    char    have[128], want[64];

    if (f->ndim == ndim && f->dims[ndim - 1] == cols
        && (ndim == 1 || f->dims[0] == rows))
    {
        return 0;
    }

    n = 0;
    have[0] = '\0';

    for (i = 0; i < f->ndim && n < (int) sizeof(have); i++) {
        n += snprintf(have + n, sizeof(have) - (size_t) n, "%s%llu",
                      i == 0 ? "" : ", ", (unsigned long long) f->dims[i]);
    }

    if (ndim == 1) {
        snprintf(want, sizeof(want), "%llu", (unsigned long long) cols);

    } else {
        snprintf(want, sizeof(want), "%llu, %llu", (unsigned long long) rows,
                 (unsigned long long) cols);
    }

    return moe_err(k->err, "%s: tensor " NAME " at offset %llu: shape [%s], "
                   "but config.json makes it [%s]", f->file, f->name,
                   (unsigned long long) f->offset, have, want);
}


static const void *
tensor_data(walk_t *k, const moe_st_tensor_t *f, size_t align)
{
    void  *p;

    k->w->n_used++;
    k->w->bytes += f->size;

    /* packed ones may be anywhere, align is 0 */
    if (align == 0 || (uintptr_t) f->data % align == 0) {
        return f->data;
    }

    p = tensor_copy(k, f, f->size);

    if (p != NULL) {
        memcpy(p, f->data, f->size);
    }

    return p;
}


/* memory in a tensor's stead that lives as long as the weights */
static void *
tensor_copy(walk_t *k, const moe_st_tensor_t *f, size_t size)
{
    void           *p, **list;
    moe_weights_t  *w;

    w = k->w;
    p = aligned_alloc(64, (size + 63) / 64 * 64);
    list = realloc(w->copies, (w->n_copies + 1) * sizeof(void *));

    if (list != NULL) {
        w->copies = list;
    }

    if (p == NULL || list == NULL) {
        free(p);
        moe_err(k->err, "%s: tensor " NAME ": no memory for %zu bytes",
                f->file, f->name, size);
        return NULL;
    }

    w->copies[w->n_copies++] = p;

    return p;
}


static void
mxfp4_row(const moe_tensor_t *t, size_t row, float *out)
{
    int             i;
    float           scale;
    size_t          g, at, groups;
    const uint8_t  *in;

    groups = (size_t) t->cols / MOE_GROUP;
    at = row * t->row_step * groups;

    for (g = 0; g < groups; g++, at++) {
        in = (const uint8_t *) t->data + at * (MOE_GROUP / 2);
        scale = moe_e8m0(t->scales[at]);

        for (i = 0; i < MOE_GROUP / 2; i++) {
            *out++ = moe_e2m1[in[i] & 15] * scale;
            *out++ = moe_e2m1[in[i] >> 4] * scale;
        }
    }
}


/* a part's rows, of numbers at any alignment */
static void
part_to_f32(const moe_tensor_t *t, int first, int n, float *out)
{
    int             r, c;
    size_t          size;
    uint32_t        u;
    uint16_t        half;
    const uint8_t  *in;

    size = moe_dtype_size(t->dtype);

    for (r = first; r < first + n; r++) {

        if (t->dtype == MOE_DTYPE_MXFP4) {
            mxfp4_row(t, (size_t) r, out);
            out += t->cols;
            continue;
        }

        in = (const uint8_t *) t->data + (size_t) r * t->row_step * size;

        for (c = 0; c < t->cols; c++, in += t->col_step * size) {

            if (t->dtype == MOE_DTYPE_F32) {
                memcpy(out++, in, sizeof(float));
                continue;
            }

            memcpy(&half, in, sizeof(half));

            if (t->dtype == MOE_DTYPE_F16) {
                *out++ = f16_to_f32(half);
            } else {
                u = (uint32_t) half << 16;
                memcpy(out++, &u, sizeof(u));
            }
        }
    }
}


void
moe_tensor_to_f32(const moe_tensor_t *t, int first, int n, float *out)
{
    int              r, c;
    size_t           i;
    uint32_t         u;
    const float     *f32, *scale;
    const uint8_t   *f8;
    const uint16_t  *f16;
    moe_matrix_t     w;

    if (t->row_step != 0) {
        part_to_f32(t, first, n, out);
        return;
    }

    if (moe_dtype_is_packed(t->dtype)) {
        w = (moe_matrix_t) {
            .data = t->data,
            .type = moe_dtype_packed(t->dtype),
            .n = (uint32_t) t->rows,
            .k = (uint32_t) t->cols
        };

        for (r = 0; r < n; r++) {
            moe_unpack_row(&w, (uint32_t) (first + r),
                           out + (size_t) r * w.k);
        }
        return;
    }

    i = (size_t) first * (size_t) t->cols;
    f32 = t->data;
    f16 = t->data;
    f8 = t->data;

    for (r = first; r < first + n; r++) {

        scale = t->scale_inv == NULL ? NULL
                : t->scale_inv + (size_t) (r / MOE_FP8_BLOCK)
                                 * (size_t) t->scale_cols;

        for (c = 0; c < t->cols; c++, i++) {

            switch (t->dtype) {

            case MOE_DTYPE_F32:
                *out++ = f32[i];
                break;

            case MOE_DTYPE_F16:
                *out++ = f16_to_f32(f16[i]);
                break;

            case MOE_DTYPE_BF16:
                u = (uint32_t) f16[i] << 16;
                memcpy(out++, &u, sizeof(u));
                break;

            default: /* MOE_DTYPE_F8_E4M3 */
                *out++ = e4m3_to_f32(f8[i]) * scale[c / MOE_FP8_BLOCK];
                break;
            }
        }
    }
}


static float
f16_to_f32(uint16_t h)
{
    float     f;
    uint32_t  u, exp, man;

    exp = h >> 10 & 0x1f;
    man = h & 0x3ff;

    if (exp == 0) {
        f = (float) man * 0x1p-24f;
        return h & 0x8000 ? -f : f;
    }

    exp = exp == 31 ? 255 : exp + 112;
    u = (uint32_t) (h & 0x8000) << 16 | exp << 23 | man << 13;
    memcpy(&f, &u, sizeof(f));

    return f;
}


/* no infinities; all bits set is not a number */
static float
e4m3_to_f32(uint8_t b)
{
    float     f;
    uint32_t  u, exp, man;

    exp = b >> 3 & 0xf;
    man = b & 7;

    if (exp == 0) {
        f = (float) man * 0x1p-9f;
        return b & 0x80 ? -f : f;
    }

    exp = exp == 15 && man == 7 ? 255 : exp + 120;
    u = (uint32_t) (b & 0x80) << 24 | exp << 23 | man << 20;
    memcpy(&f, &u, sizeof(f));

    return f;
}
