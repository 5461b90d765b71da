/*
 * config_attn: attention and positions.
 */

#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/dmath.h"
#include "model/config_parts.h"


static int config_gqa(moe_reader_t *r);
static int config_mla(moe_reader_t *r);
static int config_rotated(moe_reader_t *r, json_t *obj);
static int config_rope_type(moe_reader_t *r, json_t *obj);
static int config_yarn(moe_reader_t *r, json_t *obj);
static double config_mscale(double factor, double mscale);
static int config_sliding(moe_reader_t *r);


static const moe_int_key_t  mla_keys[] = {
    { "kv_lora_rank", offsetof(moe_config_t, kv_lora_rank), 1,
      MOE_MAX_LORA_RANK },
    { "qk_nope_head_dim", offsetof(moe_config_t, qk_nope_head_dim), 1,
      MOE_MAX_HEAD_DIM },
    { "qk_rope_head_dim", offsetof(moe_config_t, qk_rope_head_dim), 2,
      MOE_MAX_HEAD_DIM },
    { "v_head_dim", offsetof(moe_config_t, v_head_dim), 1,
      MOE_MAX_HEAD_DIM },
    { NULL, 0, 0, 0 }
};


int
moe_config_attention(moe_reader_t *r)
{
    int          bias;
    const char  *key;

    bias = 0;
    key = r->fam->key_qkv_bias;

    if (moe_key_bool(r, "attention_bias", &bias) < 0) {
        return -1;
    }

    if (bias && (key == NULL || strcmp(key, "attention_bias") != 0)) {
        moe_unsupported(r->cfg, "attention_bias true");
    }

    return r->cfg->attn == MOE_ATTN_MLA ? config_mla(r) : config_gqa(r);
}


static int
config_gqa(moe_reader_t *r)
{
    int            rc, norm;
    moe_config_t  *cfg;

    cfg = r->cfg;

    cfg->n_kv_heads = cfg->n_heads;
    cfg->qk_norm = r->fam->qk_norm;
    cfg->qkv_bias = r->fam->qkv_bias;

    if (moe_key_int(r, r->root, "num_key_value_heads", 1, MOE_MAX_HEADS,
                    &cfg->n_kv_heads) < 0)
    {
        return -1;
    }

    if (cfg->n_heads % cfg->n_kv_heads != 0) {
        return moe_err(r->err, "%s: num_key_value_heads %d does not divide "
                       "num_attention_heads %d", r->file, cfg->n_kv_heads,
                       cfg->n_heads);
    }

    rc = moe_key_int(r, r->root, "head_dim", 2, MOE_MAX_HEAD_DIM,
                     &cfg->head_dim);
    if (rc < 0) {
        return -1;
    }

    if (rc == MOE_KEY_ABSENT) {
        if (cfg->hidden % cfg->n_heads != 0
            || cfg->hidden / cfg->n_heads > MOE_MAX_HEAD_DIM)
        {
            return moe_err(r->err, "%s: no head_dim, and hidden_size %d over "
                           "num_attention_heads %d is none", r->file,
                           cfg->hidden, cfg->n_heads);
        }

        cfg->head_dim = cfg->hidden / cfg->n_heads;
    }

    cfg->v_head_dim = cfg->head_dim;
    cfg->rope.dim = cfg->head_dim;

    norm = cfg->qk_norm != MOE_QK_NORM_NONE;

    if ((r->fam->key_qkv_bias != NULL
         && moe_key_bool(r, r->fam->key_qkv_bias, &cfg->qkv_bias) < 0)
        || (r->fam->key_qk_norm != NULL
            && moe_key_bool(r, r->fam->key_qk_norm, &norm) < 0))
    {
        return -1;
    }

    cfg->o_bias = r->fam->biases && cfg->qkv_bias;
    cfg->sinks = r->fam->sinks;

    if (r->fam->key_qk_norm != NULL) {
        cfg->qk_norm = norm ? MOE_QK_NORM_HEAD : MOE_QK_NORM_NONE;
    }

    if (cfg->family == MOE_FAMILY_OLMOE
        && moe_key_double(r, r->root, "clip_qkv", 1e-6, 1e9,
                          &cfg->clip_qkv) < 0)
    {
        return -1;
    }

    return 0;
}


static int
config_mla(moe_reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    /* null: q has no low rank, as in V2-Lite */
    if (moe_config_keys(r, mla_keys) != 0
        || moe_key_int(r, r->root, "q_lora_rank", 1, MOE_MAX_LORA_RANK,
                       &cfg->q_lora_rank) < 0)
    {
        return -1;
    }

    cfg->n_kv_heads = cfg->n_heads;
    cfg->head_dim = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim;
    cfg->rope.dim = cfg->qk_rope_head_dim;

    return 0;
}


int
moe_config_rope(moe_reader_t *r)
{
    double         m;
    json_t        *obj, *scaling;
    moe_rope_t    *rope;
    moe_config_t  *cfg;

    cfg = r->cfg;
    rope = &cfg->rope;

    rope->interleave = r->fam->rope_interleave;
    rope->theta = r->fam->rope_theta;
    rope->attn_factor = 1;

    /* the older key wins where both are there, as in transformers */
    obj = json_object_get(r->root, "rope_parameters");
    scaling = json_object_get(r->root, "rope_scaling");

    if ((obj && !json_is_object(obj) && !json_is_null(obj))
        || (scaling && !json_is_object(scaling) && !json_is_null(scaling)))
    {
        return moe_err(r->err, "%s: rope_parameters or rope_scaling is not "
                       "an object", r->file);
    }

    if (json_object_size(scaling) != 0) {
        obj = scaling;
    }

    if (config_rotated(r, obj) != 0
        || moe_key_double(r, r->root, "rope_theta", 1.001, 1e15,
                          &rope->theta) < 0
        || moe_key_double(r, obj, "rope_theta", 1.001, 1e15, &rope->theta) < 0
        || (rope->interleave
            && moe_key_bool(r, "rope_interleave", &rope->interleave) < 0)
        || config_rope_type(r, obj) != 0)
    {
        return -1;
    }

    cfg->attn_scale = 1 / sqrt((double) cfg->head_dim);

    if (cfg->attn == MOE_ATTN_MLA && rope->type == MOE_ROPE_YARN
        && rope->mscale_all_dim != 0)
    {
        m = config_mscale(rope->factor, rope->mscale_all_dim);
        cfg->attn_scale *= m * m;
    }

    return 0;
}


/* how much of a head is rotated: a share of it, or its first dimensions */
static int
config_rotated(moe_reader_t *r, json_t *obj)
{
    int            at_root, in_obj, dim;
    double         partial;
    moe_rope_t    *rope;
    moe_config_t  *cfg;

    cfg = r->cfg;
    rope = &cfg->rope;
    partial = r->fam->partial_rotary != 0 ? r->fam->partial_rotary : 1;
    dim = 0;

    at_root = moe_key_double(r, r->root, "partial_rotary_factor", 0, 1,
                             &partial);
    in_obj = moe_key_double(r, obj, "partial_rotary_factor", 0, 1, &partial);

    if (at_root < 0 || in_obj < 0
        || moe_key_int(r, r->root, "rotary_dim", 1, MOE_MAX_HEAD_DIM,
                       &dim) < 0)
    {
        return -1;
    }

    if (r->fam->partial_rotary == 0) {

        if (partial != 1) {
            moe_unsupported(cfg, "partial_rotary_factor %g with %s", partial,
                            r->fam->name);
        }

    } else if (dim != 0 && at_root == MOE_KEY_ABSENT
               && in_obj == MOE_KEY_ABSENT)
    {
        if (dim > cfg->head_dim) {
            return moe_err(r->err, "%s: rotary_dim %d of head_dim %d",
                           r->file, dim, cfg->head_dim);
        }

        rope->dim = dim;

    } else {
        rope->dim = (int) (cfg->head_dim * partial);
    }

    if (rope->dim < 2 || rope->dim % 2 != 0) {
        return moe_err(r->err, "%s: %d rotated dimensions of a head are %s",
                       r->file, rope->dim,
                       rope->dim < 2 ? "too few" : "odd");
    }

    return 0;
}


static int
config_rope_type(moe_reader_t *r, json_t *obj)
{
    const char  *type;

    type = "default";

    if (moe_key_string(r, obj, "type", &type) < 0
        || moe_key_string(r, obj, "rope_type", &type) < 0)
    {
        return -1;
    }

    if (strcmp(type, "default") == 0) {
        return 0;
    }

    if (strcmp(type, "yarn") == 0) {
        return config_yarn(r, obj);
    }

    moe_unsupported(r->cfg, "rope type \"%.40s\"", type);

    return 0;
}


static int
config_yarn(moe_reader_t *r, json_t *obj)
{
    int          rc, trunc;
    json_t      *val;
    moe_rope_t  *rope;

    rope = &r->cfg->rope;

    rope->type = MOE_ROPE_YARN;
    rope->original_max_positions = r->cfg->max_positions;

    if (moe_key_int(r, obj, "original_max_position_embeddings", 1,
                    MOE_MAX_POSITIONS, &rope->original_max_positions) < 0
        || moe_key_int(r, r->root, "original_max_position_embeddings", 1,
                       MOE_MAX_POSITIONS, &rope->original_max_positions) < 0
        || moe_key_double(r, obj, "beta_fast", 0, 1e6, &rope->beta_fast) < 0
        || moe_key_double(r, obj, "beta_slow", 0, 1e6, &rope->beta_slow) < 0
        || moe_key_double(r, obj, "mscale", 0, 1e3, &rope->mscale) < 0
        || moe_key_double(r, obj, "mscale_all_dim", 0, 1e3,
                          &rope->mscale_all_dim) < 0)
    {
        return -1;
    }

    rope->factor = (double) r->cfg->max_positions
                   / rope->original_max_positions;

    if (moe_key_double(r, obj, "factor", 1, 1e6, &rope->factor) < 0) {
        return -1;
    }

    /* zero stands for the default in transformers too */
    rope->beta_fast = rope->beta_fast != 0 ? rope->beta_fast : 32;
    rope->beta_slow = rope->beta_slow != 0 ? rope->beta_slow : 1;

    if (rope->beta_fast < rope->beta_slow) {
        return moe_err(r->err, "%s: yarn: beta_fast %g is below beta_slow %g",
                       r->file, rope->beta_fast, rope->beta_slow);
    }

    val = json_object_get(obj, "truncate");
    trunc = val == NULL || json_is_null(val) || json_is_true(val);

    if (!trunc && !json_is_false(val)) {
        return moe_err(r->err, "%s: yarn: truncate is not a boolean",
                       r->file);
    }

    rope->truncate = trunc;

    rc = moe_key_double(r, obj, "attention_factor", 0, 1e3,
                        &rope->attn_factor);

    if (rc == MOE_KEY_ABSENT) {
        rope->attn_factor = config_mscale(rope->factor, 1);

        if (rope->mscale != 0 && rope->mscale_all_dim != 0) {
            rope->attn_factor =
                config_mscale(rope->factor, rope->mscale)
                / config_mscale(rope->factor, rope->mscale_all_dim);
        }
    }

    return rc < 0 ? -1 : 0;
}


static double
config_mscale(double factor, double mscale)
{
    return factor <= 1 ? 1.0 : 0.1 * mscale * moe_dlog(factor) + 1.0;
}


int
moe_config_window(moe_reader_t *r)
{
    int         use, window;
    size_t      i;
    json_t     *list, *val;

    if (r->fam->window != 0) {
        return config_sliding(r);
    }

    use = 1;
    window = 0;

    if (moe_key_bool(r, "use_sliding_window", &use) < 0
        || moe_key_int(r, r->root, "sliding_window", 0, 1 << 30, &window) < 0)
    {
        return -1;
    }

    /* a window that reaches over all positions hides nothing */
    if (use && window > 0 && window < r->cfg->max_positions) {
        moe_unsupported(r->cfg, "sliding_window %d", window);
        return 0;
    }

    list = json_object_get(r->root, "layer_types");

    json_array_foreach(list, i, val) {
        if (json_is_string(val)
            && strcmp(json_string_value(val), "full_attention") != 0)
        {
            moe_unsupported(r->cfg, "layer_types \"%.40s\"",
                            json_string_value(val));
            break;
        }
    }

    /* MiniMax's numbers for them: 0 is lightning attention */
    list = json_object_get(r->root, "attn_type_list");

    json_array_foreach(list, i, val) {
        if (json_integer_value(val) != 1) {
            moe_unsupported(r->cfg, "attn_type_list[%zu] is not 1", i);
            break;
        }
    }

    return 0;
}


/* layer_types; where it is absent every other layer slides, from the first */
static int
config_sliding(moe_reader_t *r)
{
    int            i, any, window;
    json_t        *list, *val;
    const char    *s;
    moe_config_t  *cfg;

    cfg = r->cfg;
    any = 0;
    window = r->fam->window;
    list = json_object_get(r->root, "layer_types");

    if (moe_key_int(r, r->root, "sliding_window", 1, 1 << 30, &window) < 0) {
        return -1;
    }

    if (list != NULL && !json_is_null(list)
        && json_array_size(list) != (size_t) cfg->n_layers)
    {
        return moe_err(r->err, "%s: layer_types is not a list of %d",
                       r->file, cfg->n_layers);
    }

    for (i = 0; i < cfg->n_layers; i++) {
        val = json_array_get(list, (size_t) i);
        s = val ? json_string_value(val) : i % 2 ? "full_attention"
                                                 : "sliding_attention";

        if (s != NULL && strcmp(s, "sliding_attention") == 0) {
            cfg->sliding[i] = 1;
            any = 1;

        } else if (s == NULL || strcmp(s, "full_attention") != 0) {
            moe_unsupported(cfg, "layer_types[%d] \"%.40s\"", i,
                            s ? s : "");
        }
    }

    cfg->window = any ? window : 0;

    return 0;
}
