#include <string.h>

#include "model/family.h"


/* what Kimi-K2 has of DeepSeek-V3: all but the name */
#define DEEPSEEK_V3                                                           \
        .architecture = "DeepseekV3ForCausalLM",                              \
        .attn = MOE_ATTN_MLA,                                                 \
        .score = MOE_SCORE_SIGMOID,                                           \
        .topk = MOE_TOPK_NOAUX_TC,                                            \
        .rope_interleave = 1,                                                 \
        .norm_topk = 1,                                                       \
        .norm_topk_key = 1,                                                   \
        .topk_eps = 1e-20,                                                    \
        .routed_scale = 2.5,                                                  \
        .rope_theta = 10000,                                                  \
        .rms_eps = 1e-6,                                                      \
        .key_experts = { "n_routed_experts", "num_local_experts" },           \
        .key_moe_ffn = "moe_intermediate_size",                               \
        .key_dense_ffn = "intermediate_size",                                 \
        .key_n_shared = "n_shared_experts",                                   \
        .groups = 1,                                                          \
        .first_dense = 3,                                                     \
        .dense_first = 1,                                                     \
        .moe_prefix = "mlp",                                                  \
        .gate = "gate_proj",                                                  \
        .up = "up_proj",                                                      \
        .down = "down_proj",                                                  \
        .shared = "shared_experts",                                           \
        .router_bias = "gate.e_score_correction_bias"


static const moe_family_t  families[] = {

    {
        .id = MOE_FAMILY_DEEPSEEK_V2,
        .name = "DeepSeek-V2",
        .architecture = "DeepseekV2ForCausalLM",
        .model_type = "deepseek_v2",
        .attn = MOE_ATTN_MLA,
        .score = MOE_SCORE_SOFTMAX,
        .topk = MOE_TOPK_GREEDY,
        .rope_interleave = 1,
        .routed_scale = 1,
        .rope_theta = 10000,
        .rms_eps = 1e-6,
        .key_experts = { "n_routed_experts", "num_experts" },
        .key_moe_ffn = "moe_intermediate_size",
        .key_dense_ffn = "intermediate_size",
        .key_n_shared = "n_shared_experts",
        .groups = 1,
        .dense_first = 1,
        .moe_prefix = "mlp",
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj",
        .shared = "shared_experts"
    },

    {
        .id = MOE_FAMILY_DEEPSEEK_V3,
        .name = "DeepSeek-V3",
        .model_type = "deepseek_v3",
        DEEPSEEK_V3
    },

    {
        .id = MOE_FAMILY_QWEN3_MOE,
        .name = "Qwen3-MoE",
        .architecture = "Qwen3MoeForCausalLM",
        .model_type = "qwen3_moe",
        .attn = MOE_ATTN_GQA,
        .qk_norm = MOE_QK_NORM_HEAD,
        .score = MOE_SCORE_SOFTMAX,
        .topk = MOE_TOPK_GREEDY,
        .norm_topk_key = 1,
        .rope_theta = 10000,
        .rms_eps = 1e-6,
        .key_experts = { "num_experts", "num_local_experts" },
        .key_moe_ffn = "moe_intermediate_size",
        .key_dense_ffn = "intermediate_size",
        .dense_step = 1,
        .moe_prefix = "mlp",
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj"
    },

    {
        .id = MOE_FAMILY_QWEN2_MOE,
        .name = "Qwen2-MoE",
        .architecture = "Qwen2MoeForCausalLM",
        .model_type = "qwen2_moe",
        .attn = MOE_ATTN_GQA,
        .score = MOE_SCORE_SOFTMAX,
        .topk = MOE_TOPK_GREEDY,
        .qkv_bias = 1,
        .key_qkv_bias = "qkv_bias",
        .shared_gate = 1,
        .norm_topk_key = 1,
        .rope_theta = 10000,
        .rms_eps = 1e-6,
        .key_experts = { "num_experts", "num_local_experts" },
        .key_moe_ffn = "moe_intermediate_size",
        .key_dense_ffn = "intermediate_size",
        .key_shared_ffn = "shared_expert_intermediate_size",
        .dense_step = 1,
        .moe_prefix = "mlp",
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj",
        .shared = "shared_expert"
    },

    {
        .id = MOE_FAMILY_MIXTRAL,
        .name = "Mixtral",
        .architecture = "MixtralForCausalLM",
        .model_type = "mixtral",
        .attn = MOE_ATTN_GQA,
        .score = MOE_SCORE_SOFTMAX,
        .topk = MOE_TOPK_GREEDY,
        .norm_topk = 1,
        .rope_theta = 1000000,
        .rms_eps = 1e-5,
        .key_experts = { "num_local_experts", "num_experts" },
        .key_moe_ffn = "intermediate_size",
        .moe_prefix = "block_sparse_moe",
        .gate = "w1",
        .up = "w3",
        .down = "w2"
    },

    {
        .id = MOE_FAMILY_OLMOE,
        .name = "OLMoE",
        .architecture = "OlmoeForCausalLM",
        .model_type = "olmoe",
        .attn = MOE_ATTN_GQA,
        .qk_norm = MOE_QK_NORM_FULL,
        .score = MOE_SCORE_SOFTMAX,
        .topk = MOE_TOPK_GREEDY,
        .norm_topk_key = 1,
        .rope_theta = 10000,
        .rms_eps = 1e-5,
        .key_experts = { "num_experts", "num_local_experts" },
        .key_moe_ffn = "intermediate_size",
        .moe_prefix = "mlp",
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj"
    },

    {
        .id = MOE_FAMILY_GLM4_MOE,
        .name = "GLM-4-MoE",
        .architecture = "Glm4MoeForCausalLM",
        .model_type = "glm4_moe",
        .attn = MOE_ATTN_GQA,
        .key_qk_norm = "use_qk_norm",
        .score = MOE_SCORE_SIGMOID,
        .topk = MOE_TOPK_NOAUX_TC,
        .key_qkv_bias = "attention_bias",
        .partial_rotary = 0.5,
        .norm_topk = 1,
        .norm_topk_key = 1,
        .topk_eps = 1e-20,
        .routed_scale = 1,
        .rope_theta = 10000,
        .rms_eps = 1e-5,
        .key_experts = { "n_routed_experts", "num_local_experts" },
        .key_moe_ffn = "moe_intermediate_size",
        .key_dense_ffn = "intermediate_size",
        .key_n_shared = "n_shared_experts",
        .groups = 1,
        .first_dense = 1,
        .dense_first = 1,
        .moe_prefix = "mlp",
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj",
        .shared = "shared_experts",
        .router_bias = "gate.e_score_correction_bias"
    },

    {
        .id = MOE_FAMILY_MINIMAX_M2,
        .name = "MiniMax-M2",
        .architecture = "MiniMaxM2ForCausalLM",
        .model_type = "minimax_m2",
        .attn = MOE_ATTN_GQA,
        .qk_norm = MOE_QK_NORM_FULL,
        .score = MOE_SCORE_SIGMOID,
        .topk = MOE_TOPK_NOAUX_TC,
        .partial_rotary = 1,
        .norm_topk = 1,
        .routed_scale = 1,
        .rope_theta = 5000000,
        .rms_eps = 1e-6,
        .key_experts = { "num_local_experts", "num_experts" },
        .key_moe_ffn = "intermediate_size",
        .fixed = {
            { "use_qk_norm", "true" },
            { "qk_norm_type", "\"per_layer\"" },
            { "use_routing_bias", "true" },
            { "shared_intermediate_size", "0" }
        },
        .moe_prefix = "block_sparse_moe",
        .gate = "w1",
        .up = "w3",
        .down = "w2",
        .router_bias = "e_score_correction_bias"
    },

    {
        .id = MOE_FAMILY_KIMI_K2,
        .name = "Kimi-K2",
        .model_type = "kimi_k2",
        DEEPSEEK_V3
    },

    {
        .id = MOE_FAMILY_GPT_OSS,
        .name = "gpt-oss",
        .architecture = "GptOssForCausalLM",
        .model_type = "gpt_oss",
        .attn = MOE_ATTN_GQA,
        .score = MOE_SCORE_CHOSEN,
        .topk = MOE_TOPK_GREEDY,
        .norm_topk = 1,
        .qkv_bias = 1,
        .biases = 1,
        .sinks = 1,
        .window = 128,
        .swiglu_limit = 7,
        .swiglu_alpha = 1.702,
        .rope_theta = 150000,
        .rms_eps = 1e-5,
        .key_qkv_bias = "attention_bias",
        .key_experts = { "num_local_experts", "num_experts" },
        .key_moe_ffn = "intermediate_size",
        .moe_prefix = "mlp",
        .router = "router",
        .fused = 1,
        .gate = "gate_proj",
        .up = "up_proj",
        .down = "down_proj"
    }
};


const moe_family_t *
moe_family(moe_family_e id)
{
    return (unsigned) id < MOE_FAMILY_COUNT ? &families[id] : NULL;
}


const moe_family_t *
moe_family_find(const char *architecture, const char *model_type)
{
    int                  same;
    size_t               i;
    const moe_family_t  *f, *found;

    found = NULL;

    for (i = 0; i < sizeof(families) / sizeof(families[0]); i++) {
        f = &families[i];
        same = model_type != NULL && strcmp(model_type, f->model_type) == 0;

        if (architecture == NULL ? !same
                                 : strcmp(architecture, f->architecture) != 0)
        {
            continue;
        }

        if (same) {
            return f;
        }

        found = found ? found : f;
    }

    return found;
}
