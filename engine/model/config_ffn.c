/*
 * config_ffn: experts, the router, and which layers have them.
 */

#include <string.h>

#include "model/config_parts.h"


static int config_groups(moe_reader_t *r);
static int config_dense_first(moe_reader_t *r);
static int config_dense_step(moe_reader_t *r);


int
moe_config_experts(moe_reader_t *r)
{
    int            rc;
    const char    *key;
    moe_config_t  *cfg;

    cfg = r->cfg;
    key = r->fam->key_experts[0];

    rc = moe_key_int(r, r->root, key, 1, MOE_MAX_EXPERTS, &cfg->n_experts);

    if (rc == MOE_KEY_ABSENT) {
        rc = moe_key_int(r, r->root, r->fam->key_experts[1], 1,
                         MOE_MAX_EXPERTS, &cfg->n_experts);
    }

    if (rc != MOE_KEY_OK) {
        return rc < 0 ? -1 : moe_err(r->err, "%s: %s is missing", r->file,
                                     key);
    }

    if (cfg->top_k > cfg->n_experts) {
        return moe_err(r->err, "%s: num_experts_per_tok %d of only %d experts",
                       r->file, cfg->top_k, cfg->n_experts);
    }

    return moe_key_need(r, r->fam->key_moe_ffn, 1, MOE_MAX_FFN, &cfg->moe_ffn);
}


int
moe_config_shared(moe_reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (r->fam->key_n_shared != NULL) {

        if (moe_key_int(r, r->root, r->fam->key_n_shared, 0, MOE_MAX_EXPERTS,
                        &cfg->n_shared) < 0)
        {
            return -1;
        }

        if (cfg->n_shared > MOE_MAX_FFN / cfg->moe_ffn) {
            return moe_err(r->err, "%s: %s %d of width %d are too wide",
                           r->file, r->fam->key_n_shared, cfg->n_shared,
                           cfg->moe_ffn);
        }

        cfg->shared_ffn = cfg->n_shared * cfg->moe_ffn;
    }

    if (r->fam->key_shared_ffn != NULL) {

        if (moe_key_need(r, r->fam->key_shared_ffn, 0, MOE_MAX_FFN,
                         &cfg->shared_ffn) != 0)
        {
            return -1;
        }

        cfg->n_shared = cfg->shared_ffn > 0;
    }

    cfg->shared_gate = r->fam->shared_gate && cfg->shared_ffn > 0;

    return 0;
}


int
moe_config_router(moe_reader_t *r)
{
    const char    *s, *want;
    moe_config_t  *cfg;

    cfg = r->cfg;

    cfg->score = r->fam->score;
    cfg->topk = r->fam->topk;
    cfg->norm_topk = r->fam->norm_topk;
    cfg->routed_scale = 1;
    cfg->n_group = 1;
    cfg->topk_group = 1;

    /* V2 writes the key, but its implementations disagree on what it does */
    if (moe_key_bool(r, "norm_topk_prob", &cfg->norm_topk) < 0) {
        return -1;
    }

    if (!r->fam->norm_topk_key) {

        if (cfg->norm_topk && !r->fam->norm_topk) {
            moe_unsupported(cfg, "norm_topk_prob true with %s", r->fam->name);
        }

        cfg->norm_topk = r->fam->norm_topk;
    }

    cfg->topk_eps = r->fam->topk_eps;
    cfg->logit_bias = r->fam->biases;
    cfg->ffn_bias = r->fam->biases;
    cfg->swiglu_limit = r->fam->swiglu_limit;
    cfg->swiglu_alpha = r->fam->swiglu_alpha;

    if (r->fam->swiglu_limit != 0
        && (moe_key_double(r, r->root, "swiglu_limit", 1e-3, 1e6,
                           &cfg->swiglu_limit) < 0
            || moe_key_double(r, r->root, "swiglu_alpha", 1e-3, 1e6,
                              &cfg->swiglu_alpha) < 0))
    {
        return -1;
    }
    cfg->router_bias = r->fam->router_bias != NULL;

    want = cfg->score == MOE_SCORE_SIGMOID ? "sigmoid" : "softmax";
    s = want;

    if (moe_key_string(r, r->root, "scoring_func", &s) < 0) {
        return -1;
    }

    if (strcmp(s, want) != 0) {
        moe_unsupported(cfg, "scoring_func \"%.40s\" with %s", s,
                        r->fam->name);
    }

    if (!r->fam->groups) {
        return 0;
    }

    cfg->routed_scale = r->fam->routed_scale;

    if (moe_key_double(r, r->root, "routed_scaling_factor", 1e-6, 1e6,
                       &cfg->routed_scale) < 0)
    {
        return -1;
    }

    return config_groups(r);
}


static int
config_groups(moe_reader_t *r)
{
    int            size;
    const char    *s;
    moe_config_t  *cfg;

    cfg = r->cfg;
    s = NULL;

    if (moe_key_string(r, r->root, "topk_method", &s) < 0) {
        return -1;
    }

    if (cfg->topk == MOE_TOPK_NOAUX_TC) {

        if (s != NULL && strcmp(s, "noaux_tc") != 0) {
            moe_unsupported(cfg, "topk_method \"%.40s\" with %s", s,
                            r->fam->name);
        }

    } else if (s != NULL && strcmp(s, "group_limited_greedy") == 0) {
        cfg->topk = MOE_TOPK_GROUP_LIMITED;

    } else {

        if (s != NULL && strcmp(s, "greedy") != 0) {
            moe_unsupported(cfg, "topk_method \"%.40s\" with %s", s,
                            r->fam->name);
        }

        /* groups may be written, but plain greedy does not look at them */
        return 0;
    }

    if (moe_key_int(r, r->root, "n_group", 1, MOE_MAX_EXPERTS,
                    &cfg->n_group) < 0)
    {
        return -1;
    }

    cfg->topk_group = cfg->n_group;

    if (moe_key_int(r, r->root, "topk_group", 1, cfg->n_group,
                    &cfg->topk_group) < 0)
    {
        return -1;
    }

    if (cfg->n_experts % cfg->n_group != 0) {
        return moe_err(r->err, "%s: n_group %d does not divide the %d "
                       "experts", r->file, cfg->n_group, cfg->n_experts);
    }

    size = cfg->n_experts / cfg->n_group;

    if (size < 2 && cfg->n_group > 1 && cfg->topk == MOE_TOPK_NOAUX_TC) {
        return moe_err(r->err, "%s: n_group %d leaves groups of one expert",
                       r->file, cfg->n_group);
    }

    if (cfg->top_k > cfg->topk_group * size) {
        return moe_err(r->err, "%s: num_experts_per_tok %d of only %d experts "
                       "in topk_group %d groups", r->file, cfg->top_k,
                       cfg->topk_group * size, cfg->topk_group);
    }

    return 0;
}


int
moe_config_layers(moe_reader_t *r)
{
    int            i;
    moe_config_t  *cfg;

    cfg = r->cfg;

    for (i = 0; i < cfg->n_layers; i++) {
        cfg->is_moe[i] = 1;
    }

    if ((r->fam->dense_first && config_dense_first(r) != 0)
        || (r->fam->dense_step && config_dense_step(r) != 0))
    {
        return -1;
    }

    for (i = 0; i < cfg->n_layers; i++) {
        cfg->n_moe_layers += cfg->is_moe[i];
    }

    if (cfg->n_moe_layers == cfg->n_layers) {
        return 0;
    }

    return moe_key_need(r, r->fam->key_dense_ffn, 1, MOE_MAX_FFN,
                        &cfg->dense_ffn);
}


static int
config_dense_first(moe_reader_t *r)
{
    int            i, first, freq;
    moe_config_t  *cfg;

    cfg = r->cfg;
    first = r->fam->first_dense;
    freq = 1;

    if (moe_key_int(r, r->root, "first_k_dense_replace", 0, MOE_MAX_LAYERS,
                    &first) < 0
        || moe_key_int(r, r->root, "moe_layer_freq", 1, MOE_MAX_LAYERS,
                       &freq) < 0)
    {
        return -1;
    }

    for (i = 0; i < cfg->n_layers; i++) {
        cfg->is_moe[i] = i >= first && i % freq == 0;
    }

    return 0;
}


static int
config_dense_step(moe_reader_t *r)
{
    int            i, step;
    size_t         j;
    json_t        *list, *val;
    json_int_t     n;
    moe_config_t  *cfg;

    cfg = r->cfg;
    step = 1;

    if (moe_key_int(r, r->root, "decoder_sparse_step", 1, MOE_MAX_LAYERS,
                    &step) < 0)
    {
        return -1;
    }

    for (i = 0; i < cfg->n_layers; i++) {
        cfg->is_moe[i] = (i + 1) % step == 0;
    }

    list = json_object_get(r->root, "mlp_only_layers");

    if (list == NULL || json_is_null(list)) {
        return 0;
    }

    if (!json_is_array(list)) {
        return moe_err(r->err, "%s: mlp_only_layers is not a list", r->file);
    }

    json_array_foreach(list, j, val) {
        n = json_integer_value(val);

        if (!json_is_integer(val) || n < 0 || n >= cfg->n_layers) {
            return moe_err(r->err, "%s: mlp_only_layers[%zu] is not a layer",
                           r->file, j);
        }

        cfg->is_moe[n] = 0;
    }

    return 0;
}
