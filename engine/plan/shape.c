#include <string.h>

#include "plan/shape.h"


static void shape_mla(const moe_config_t *cfg, moe_plan_shape_t *s);
static void shape_gqa(const moe_config_t *cfg, moe_plan_shape_t *s);
static void shape_sums(moe_plan_shape_t *s);


void
moe_plan_shape(const moe_config_t *cfg, moe_plan_shape_t *s)
{
    memset(s, 0, sizeof(moe_plan_shape_t));

    s->layers = cfg->n_layers;
    s->moe_layers = cfg->n_moe_layers;
    s->hidden = cfg->hidden;
    s->vocab = cfg->vocab;
    s->heads = cfg->n_heads;
    s->experts = cfg->n_experts;
    s->top_k = cfg->top_k;
    s->groups = cfg->n_group > 0 ? cfg->n_group : 1;
    s->expert_ffn = cfg->moe_ffn;
    s->w_expert = 3.0 * cfg->hidden * cfg->moe_ffn;
    s->w_shared = 3.0 * cfg->hidden * cfg->shared_ffn;
    s->w_dense = 3.0 * cfg->hidden * cfg->dense_ffn;

    if (cfg->attn == MOE_ATTN_MLA) {
        shape_mla(cfg, s);

    } else {
        shape_gqa(cfg, s);
    }

    shape_sums(s);
}


static void
shape_mla(const moe_config_t *cfg, moe_plan_shape_t *s)
{
    double  q, qk, h, heads;

    h = cfg->hidden;
    heads = cfg->n_heads;
    qk = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim;
    q = cfg->q_lora_rank;

    s->kv_heads = 1;
    s->kv_width = cfg->kv_lora_rank + cfg->qk_rope_head_dim;

    /* absorbed: a key is the latent and its rotated part, its value the
     * latent once more */
    s->attn_ops = s->kv_width + cfg->kv_lora_rank;

    s->w_attn = (q > 0 ? h * q + q * heads * qk : h * heads * qk)
                + h * s->kv_width
                + cfg->kv_lora_rank * heads
                  * (double) (cfg->qk_nope_head_dim + cfg->v_head_dim)
                + heads * cfg->v_head_dim * h;
}


static void
shape_gqa(const moe_config_t *cfg, moe_plan_shape_t *s)
{
    double  h, d;

    h = cfg->hidden;
    d = cfg->head_dim;

    s->kv_heads = cfg->n_kv_heads;
    s->kv_width = 2 * s->kv_heads * d;
    s->attn_ops = 2 * d;
    s->w_attn = 2 * h * cfg->n_heads * d + 2 * h * s->kv_heads * d;
}


static void
shape_sums(moe_plan_shape_t *s)
{
    double  dense, fixed;

    dense = s->layers - s->moe_layers;
    fixed = s->layers * s->w_attn + dense * s->w_dense
            + s->moe_layers * s->w_shared + s->vocab * s->hidden;

    s->w_total = fixed + s->vocab * s->hidden
                 + s->moe_layers * s->experts * s->w_expert;
    s->w_active = fixed + s->moe_layers * s->top_k * s->w_expert;
}


void
moe_plan_shape_v3(moe_plan_shape_t *s)
{
    moe_config_t  cfg;

    memset(&cfg, 0, sizeof(moe_config_t));

    cfg.attn = MOE_ATTN_MLA;
    cfg.n_layers = 61;
    cfg.n_moe_layers = 58;
    cfg.hidden = 7168;
    cfg.vocab = 129280;
    cfg.n_heads = 128;
    cfg.q_lora_rank = 1536;
    cfg.kv_lora_rank = 512;
    cfg.qk_nope_head_dim = 128;
    cfg.qk_rope_head_dim = 64;
    cfg.v_head_dim = 128;
    cfg.dense_ffn = 18432;
    cfg.moe_ffn = 2048;
    cfg.shared_ffn = 2048;
    cfg.n_experts = 256;
    cfg.top_k = 8;
    cfg.n_group = 8;

    moe_plan_shape(&cfg, s);
}
