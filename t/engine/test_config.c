#include <jansson.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/config.h"
#include "model/weights.h"


/* the configurations of published models, as far as they matter here */

static const char  v3[] =
    "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": "
    "\"deepseek_v3\", \"attention_bias\": false, \"bos_token_id\": 0, "
    "\"eos_token_id\": 1, \"first_k_dense_replace\": 3, \"hidden_act\": "
    "\"silu\", \"hidden_size\": 7168, \"intermediate_size\": 18432, "
    "\"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, "
    "\"moe_intermediate_size\": 2048, \"moe_layer_freq\": 1, \"n_group\": 8, "
    "\"n_routed_experts\": 256, \"n_shared_experts\": 1, "
    "\"norm_topk_prob\": true, \"num_attention_heads\": 128, "
    "\"num_experts_per_tok\": 8, \"num_hidden_layers\": 61, "
    "\"num_key_value_heads\": 128, \"num_nextn_predict_layers\": 1, "
    "\"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "
    "\"qk_rope_head_dim\": 64, \"quantization_config\": {"
    "\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
    "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}, "
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 32, "
    "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 1.0, "
    "\"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096, "
    "\"type\": \"yarn\"}, \"rope_theta\": 10000, "
    "\"routed_scaling_factor\": 2.5, \"scoring_func\": \"sigmoid\", "
    "\"tie_word_embeddings\": false, \"topk_group\": 4, "
    "\"topk_method\": \"noaux_tc\", \"torch_dtype\": \"bfloat16\", "
    "\"v_head_dim\": 128, \"vocab_size\": 129280}";

static const char  v2[] =
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], \"bos_token_id\": "
    "100000, \"eos_token_id\": 100001, \"first_k_dense_replace\": 1, "
    "\"hidden_size\": 5120, \"intermediate_size\": 12288, "
    "\"kv_lora_rank\": 512, \"max_position_embeddings\": 163840, "
    "\"moe_intermediate_size\": 1536, \"moe_layer_freq\": 1, "
    "\"n_group\": 8, \"n_routed_experts\": 160, \"n_shared_experts\": 2, "
    "\"norm_topk_prob\": false, \"num_attention_heads\": 128, "
    "\"num_experts_per_tok\": 6, \"num_hidden_layers\": 60, "
    "\"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "
    "\"qk_rope_head_dim\": 64, \"rope_scaling\": {\"beta_fast\": 32, "
    "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 0.707, "
    "\"mscale_all_dim\": 0.5, \"original_max_position_embeddings\": 4096, "
    "\"type\": \"yarn\"}, \"routed_scaling_factor\": 16.0, "
    "\"scoring_func\": \"softmax\", \"topk_group\": 3, "
    "\"topk_method\": \"group_limited_greedy\", \"v_head_dim\": 128, "
    "\"vocab_size\": 102400}";

static const char  v2_lite[] =
    "{\"architectures\": [\"DeepseekV2ForCausalLM\"], "
    "\"first_k_dense_replace\": 1, \"hidden_size\": 2048, "
    "\"intermediate_size\": 10944, \"kv_lora_rank\": 512, "
    "\"max_position_embeddings\": 163840, \"moe_intermediate_size\": 1408, "
    "\"n_group\": 1, \"n_routed_experts\": 64, \"n_shared_experts\": 2, "
    "\"norm_topk_prob\": false, \"num_attention_heads\": 16, "
    "\"num_experts_per_tok\": 6, \"num_hidden_layers\": 27, "
    "\"q_lora_rank\": null, \"qk_nope_head_dim\": 128, "
    "\"qk_rope_head_dim\": 64, \"rope_scaling\": {\"beta_fast\": 32, "
    "\"beta_slow\": 1, \"factor\": 40, \"mscale\": 0.707, "
    "\"mscale_all_dim\": 0.707, \"original_max_position_embeddings\": 4096, "
    "\"type\": \"yarn\"}, \"routed_scaling_factor\": 1.0, "
    "\"topk_group\": 1, \"topk_method\": \"greedy\", \"v_head_dim\": 128, "
    "\"vocab_size\": 102400}";

static const char  qwen3[] =
    "{\"architectures\": [\"Qwen3MoeForCausalLM\"], \"attention_bias\": "
    "false, \"bos_token_id\": 151643, \"decoder_sparse_step\": 1, "
    "\"eos_token_id\": 151645, \"head_dim\": 128, \"hidden_size\": 2048, "
    "\"intermediate_size\": 6144, \"max_position_embeddings\": 40960, "
    "\"max_window_layers\": 48, \"mlp_only_layers\": [], "
    "\"moe_intermediate_size\": 768, \"norm_topk_prob\": true, "
    "\"num_attention_heads\": 32, \"num_experts\": 128, "
    "\"num_experts_per_tok\": 8, \"num_hidden_layers\": 48, "
    "\"num_key_value_heads\": 4, \"rms_norm_eps\": 1e-06, "
    "\"rope_scaling\": null, \"rope_theta\": 1000000.0, "
    "\"sliding_window\": null, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\", \"use_sliding_window\": false, "
    "\"vocab_size\": 151936}";

static const char  qwen2[] =
    "{\"architectures\": [\"Qwen2MoeForCausalLM\"], "
    "\"decoder_sparse_step\": 1, \"hidden_size\": 2048, "
    "\"intermediate_size\": 5632, \"max_position_embeddings\": 8192, "
    "\"moe_intermediate_size\": 1408, \"norm_topk_prob\": false, "
    "\"num_attention_heads\": 16, \"num_experts\": 60, "
    "\"num_experts_per_tok\": 4, \"num_hidden_layers\": 24, "
    "\"num_key_value_heads\": 16, \"rope_theta\": 1000000.0, "
    "\"shared_expert_intermediate_size\": 5632, \"sliding_window\": 32768, "
    "\"use_sliding_window\": false, \"vocab_size\": 151936}";

static const char  mixtral[] =
    "{\"architectures\": [\"MixtralForCausalLM\"], \"bos_token_id\": 1, "
    "\"eos_token_id\": 2, \"hidden_size\": 4096, "
    "\"intermediate_size\": 14336, \"max_position_embeddings\": 32768, "
    "\"num_attention_heads\": 32, \"num_experts_per_tok\": 2, "
    "\"num_hidden_layers\": 32, \"num_key_value_heads\": 8, "
    "\"num_local_experts\": 8, \"rms_norm_eps\": 1e-05, "
    "\"rope_theta\": 1000000.0, \"sliding_window\": null, "
    "\"vocab_size\": 32000}";

static const char  olmoe[] =
    "{\"architectures\": [\"OlmoeForCausalLM\"], \"clip_qkv\": null, "
    "\"eos_token_id\": 50279, \"hidden_size\": 2048, "
    "\"intermediate_size\": 1024, \"max_position_embeddings\": 4096, "
    "\"norm_topk_prob\": false, \"num_attention_heads\": 16, "
    "\"num_experts\": 64, \"num_experts_per_tok\": 8, "
    "\"num_hidden_layers\": 16, \"num_key_value_heads\": 16, "
    "\"rope_theta\": 10000.0, \"vocab_size\": 50304}";


static const char  gpt_oss[] =
    "{\"architectures\": [\"GptOssForCausalLM\"], \"model_type\": "
    "\"gpt_oss\", \"attention_bias\": true, \"eos_token_id\": 200002, "
    "\"experts_per_token\": 4, \"head_dim\": 64, \"hidden_act\": "
    "\"silu\", \"hidden_size\": 2880, \"initial_context_length\": 4096, "
    "\"intermediate_size\": 2880, \"max_position_embeddings\": 131072, "
    "\"num_attention_heads\": 64, \"num_experts_per_tok\": 4, "
    "\"num_hidden_layers\": 24, \"num_key_value_heads\": 8, "
    "\"num_local_experts\": 32, \"quantization_config\": "
    "{\"quant_method\": \"mxfp4\"}, \"rms_norm_eps\": 1e-05, "
    "\"rope_scaling\": {\"beta_fast\": 32.0, \"beta_slow\": 1.0, "
    "\"factor\": 32.0, \"original_max_position_embeddings\": 4096, "
    "\"rope_type\": \"yarn\", \"truncate\": false}, \"rope_theta\": "
    "150000, \"sliding_window\": 128, \"swiglu_limit\": 7.0, "
    "\"tie_word_embeddings\": false, \"vocab_size\": 201088}";


static const char  glm4[] =
    "{\"architectures\": [\"Glm4MoeForCausalLM\"], \"model_type\": "
    "\"glm4_moe\", \"attention_bias\": true, \"eos_token_id\": [151329, "
    "151336, 151338], \"first_k_dense_replace\": 3, \"head_dim\": 128, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 5120, "
    "\"intermediate_size\": 12288, \"max_position_embeddings\": 202752, "
    "\"moe_intermediate_size\": 1536, \"n_group\": 1, "
    "\"n_routed_experts\": 160, \"n_shared_experts\": 1, "
    "\"norm_topk_prob\": true, \"num_attention_heads\": 96, "
    "\"num_experts_per_tok\": 8, \"num_hidden_layers\": 92, "
    "\"num_key_value_heads\": 8, \"num_nextn_predict_layers\": 1, "
    "\"pad_token_id\": 151329, \"partial_rotary_factor\": 0.5, "
    "\"rms_norm_eps\": 1e-05, \"rope_scaling\": null, "
    "\"rope_theta\": 1000000, \"routed_scaling_factor\": 2.5, "
    "\"tie_word_embeddings\": false, \"topk_group\": 1, "
    "\"use_qk_norm\": true, \"vocab_size\": 151552}";

static const char  minimax[] =
    "{\"architectures\": [\"MiniMaxM2ForCausalLM\"], \"model_type\": "
    "\"minimax\", \"attn_type_list\": [1, 1, 1], \"head_dim\": 128, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 3072, "
    "\"intermediate_size\": 1536, \"max_position_embeddings\": 196608, "
    "\"num_attention_heads\": 48, \"num_experts_per_tok\": 8, "
    "\"num_hidden_layers\": 62, \"num_key_value_heads\": 8, "
    "\"num_local_experts\": 256, \"qk_norm_type\": \"per_layer\", "
    "\"quantization_config\": {\"activation_scheme\": \"dynamic\", "
    "\"fmt\": \"float8_e4m3fn\", \"quant_method\": \"fp8\", "
    "\"weight_block_size\": [128, 128]}, \"rms_norm_eps\": 1e-06, "
    "\"rope_theta\": 5000000, \"rotary_dim\": 64, "
    "\"scoring_func\": \"sigmoid\", \"shared_intermediate_size\": 0, "
    "\"tie_word_embeddings\": false, \"use_qk_norm\": true, "
    "\"use_routing_bias\": true, \"vocab_size\": 200064}";

static const char  kimi[] =
    "{\"architectures\": [\"DeepseekV3ForCausalLM\"], \"model_type\": "
    "\"kimi_k2\", \"attention_bias\": false, \"bos_token_id\": 163584, "
    "\"eos_token_id\": 163585, \"first_k_dense_replace\": 1, "
    "\"hidden_size\": 7168, \"intermediate_size\": 18432, "
    "\"kv_lora_rank\": 512, \"max_position_embeddings\": 131072, "
    "\"moe_intermediate_size\": 2048, \"moe_layer_freq\": 1, "
    "\"n_group\": 1, \"n_routed_experts\": 384, \"n_shared_experts\": 1, "
    "\"norm_topk_prob\": true, \"num_attention_heads\": 64, "
    "\"num_experts_per_tok\": 8, \"num_hidden_layers\": 61, "
    "\"num_key_value_heads\": 64, \"num_nextn_predict_layers\": 0, "
    "\"q_lora_rank\": 1536, \"qk_nope_head_dim\": 128, "
    "\"qk_rope_head_dim\": 64, \"quantization_config\": {"
    "\"activation_scheme\": \"dynamic\", \"fmt\": \"e4m3\", "
    "\"quant_method\": \"fp8\", \"weight_block_size\": [128, 128]}, "
    "\"rms_norm_eps\": 1e-06, \"rope_scaling\": {\"beta_fast\": 1.0, "
    "\"beta_slow\": 1.0, \"factor\": 32.0, \"mscale\": 1.0, "
    "\"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096, "
    "\"type\": \"yarn\"}, \"rope_theta\": 50000.0, "
    "\"routed_scaling_factor\": 2.827, \"scoring_func\": \"sigmoid\", "
    "\"tie_word_embeddings\": false, \"topk_group\": 1, "
    "\"topk_method\": \"noaux_tc\", \"v_head_dim\": 128, "
    "\"vocab_size\": 163840}";


static moe_config_t  cfg;
static moe_err_t     err;


/* text with one key set to a value in JSON, or removed where that is NULL */
static int
parse_with(const char *text, const char *key, const char *value)
{
    int      rc;
    char    *dump;
    json_t  *root;

    root = json_loads(text, 0, NULL);
    assert_non_null(root);

    if (value != NULL) {
        json_object_set_new(root, key,
                            json_loads(value, JSON_DECODE_ANY, NULL));
    } else {
        json_object_del(root, key);
    }

    dump = json_dumps(root, 0);
    rc = moe_config_parse(dump, strlen(dump), NULL, 0, &cfg, &err);

    free(dump);
    json_decref(root);

    return rc;
}


static void
refuses(const char *text, const char *key, const char *value,
    const char *message)
{
    if (parse_with(text, key, value) == 0) {
        fail_msg("%s = %s is accepted", key, value ? value : "(none)");
    }

    if (strstr(err.text, message) == NULL
        || strstr(err.text, "config.json") == NULL)
    {
        fail_msg("%s = %s: \"%s\" does not say \"%s\"", key,
                 value ? value : "(none)", err.text, message);
    }
}


static void
lists_unsupported(const char *text, const char *key, const char *value,
    const char *message)
{
    assert_int_equal(parse_with(text, key, value), 0);
    assert_int_equal(moe_config_check(&cfg, &err), -1);

    if (strstr(err.text, message) == NULL) {
        fail_msg("%s = %s: \"%s\" does not say \"%s\"", key, value, err.text,
                 message);
    }
}


static void
accepts(const char *text)
{
    if (moe_config_parse(text, strlen(text), NULL, 0, &cfg, &err) != 0
        || moe_config_check(&cfg, &err) != 0)
    {
        fail_msg("%s", err.text);
    }
}


static void
test_deepseek_v3(void **state)
{
    double  m;

    accepts(v3);

    assert_int_equal(cfg.family, MOE_FAMILY_DEEPSEEK_V3);
    assert_int_equal(cfg.attn, MOE_ATTN_MLA);
    assert_int_equal(cfg.n_layers, 61);
    assert_int_equal(cfg.hidden, 7168);
    assert_int_equal(cfg.vocab, 129280);
    assert_int_equal(cfg.max_positions, 163840);
    assert_int_equal(cfg.n_heads, 128);
    assert_int_equal(cfg.head_dim, 192);
    assert_int_equal(cfg.q_lora_rank, 1536);
    assert_int_equal(cfg.kv_lora_rank, 512);
    assert_int_equal(cfg.v_head_dim, 128);
    assert_int_equal(cfg.dense_ffn, 18432);
    assert_int_equal(cfg.moe_ffn, 2048);
    assert_int_equal(cfg.n_experts, 256);
    assert_int_equal(cfg.top_k, 8);
    assert_int_equal(cfg.n_shared, 1);
    assert_int_equal(cfg.shared_ffn, 2048);
    assert_int_equal(cfg.shared_gate, 0);
    assert_int_equal(cfg.score, MOE_SCORE_SIGMOID);
    assert_int_equal(cfg.topk, MOE_TOPK_NOAUX_TC);
    assert_int_equal(cfg.n_group, 8);
    assert_int_equal(cfg.topk_group, 4);
    assert_int_equal(cfg.norm_topk, 1);
    assert_int_equal(cfg.router_bias, 1);
    assert_true(cfg.routed_scale == 2.5);
    assert_true(cfg.topk_eps == 1e-20);
    assert_int_equal(cfg.is_moe[2], 0);
    assert_int_equal(cfg.is_moe[3], 1);
    assert_int_equal(cfg.n_moe_layers, 58);
    assert_int_equal(cfg.n_mtp, 1);
    assert_int_equal(cfg.quant, MOE_QUANT_FP8_BLOCK);
    assert_string_equal(cfg.dtype, "bfloat16");
    assert_int_equal(cfg.bos, 0);
    assert_int_equal(cfg.n_eos, 1);
    assert_int_equal(cfg.eos[0], 1);

    assert_int_equal(cfg.rope.type, MOE_ROPE_YARN);
    assert_int_equal(cfg.rope.interleave, 1);
    assert_int_equal(cfg.rope.dim, 64);
    assert_int_equal(cfg.rope.original_max_positions, 4096);
    assert_true(cfg.rope.factor == 40);
    assert_true(cfg.rope.attn_factor == 1);
    assert_true(cfg.rope.truncate == 1);

    m = 0.1 * log(40) + 1;
    assert_float_equal(cfg.attn_scale, m * m / sqrt(192), 1e-9);
    assert_int_equal(moe_config_kv_width(&cfg), 576);
}


static void
test_deepseek_v2(void **state)
{
    double  m;

    accepts(v2);
    assert_int_equal(cfg.family, MOE_FAMILY_DEEPSEEK_V2);
    assert_int_equal(cfg.score, MOE_SCORE_SOFTMAX);
    assert_int_equal(cfg.topk, MOE_TOPK_GROUP_LIMITED);
    assert_int_equal(cfg.n_group, 8);
    assert_int_equal(cfg.topk_group, 3);
    assert_int_equal(cfg.norm_topk, 0);
    assert_int_equal(cfg.router_bias, 0);
    assert_true(cfg.routed_scale == 16);
    assert_int_equal(cfg.shared_ffn, 3072);
    assert_int_equal(cfg.n_mtp, 0);
    assert_true(cfg.rms_eps == 1e-6);

    m = (0.1 * 0.707 * log(40) + 1) / (0.1 * 0.5 * log(40) + 1);
    assert_float_equal(cfg.rope.attn_factor, m, 1e-9);
    m = 0.1 * 0.5 * log(40) + 1;
    assert_float_equal(cfg.attn_scale, m * m / sqrt(192), 1e-9);

    accepts(v2_lite);
    assert_int_equal(cfg.q_lora_rank, 0);
    assert_int_equal(cfg.topk, MOE_TOPK_GREEDY);
    assert_int_equal(cfg.n_group, 1);
    assert_int_equal(cfg.bos, -1);
    assert_int_equal(cfg.n_eos, 0);

    /* null groups are as transformers writes them for greedy */
    assert_int_equal(parse_with(v2_lite, "n_group", "null"), 0);
    assert_int_equal(parse_with(v2_lite, "topk_group", "null"), 0);

    lists_unsupported(v2, "norm_topk_prob", "true", "norm_topk_prob");
    lists_unsupported(v2, "topk_method", "\"noaux_tc\"", "noaux_tc");
    lists_unsupported(v2, "scoring_func", "\"sigmoid\"", "sigmoid");
}


static void
test_gqa_families(void **state)
{
    accepts(qwen3);
    assert_int_equal(cfg.family, MOE_FAMILY_QWEN3_MOE);
    assert_int_equal(cfg.attn, MOE_ATTN_GQA);
    assert_int_equal(cfg.head_dim, 128);
    assert_int_equal(cfg.n_kv_heads, 4);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_HEAD);
    assert_int_equal(cfg.qkv_bias, 0);
    assert_int_equal(cfg.norm_topk, 1);
    assert_true(cfg.topk_eps == 0);
    assert_int_equal(cfg.rope.interleave, 0);
    assert_true(cfg.rope.theta == 1e6);
    assert_int_equal(cfg.dense_ffn, 0);
    assert_int_equal(moe_config_kv_width(&cfg), 1024);

    accepts(qwen2);
    assert_int_equal(cfg.qkv_bias, 1);
    assert_int_equal(cfg.shared_ffn, 5632);
    assert_int_equal(cfg.shared_gate, 1);
    assert_int_equal(cfg.norm_topk, 0);
    assert_int_equal(parse_with(qwen2, "qkv_bias", "false"), 0);
    assert_int_equal(cfg.qkv_bias, 0);

    accepts(mixtral);
    assert_int_equal(cfg.moe_ffn, 14336);
    assert_int_equal(cfg.norm_topk, 1);
    assert_int_equal(cfg.head_dim, 128);
    assert_int_equal(cfg.n_moe_layers, 32);
    assert_int_equal(parse_with(mixtral, "rope_theta", NULL), 0);
    assert_true(cfg.rope.theta == 1e6);

    accepts(olmoe);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_FULL);
    assert_int_equal(cfg.moe_ffn, 1024);
    assert_true(cfg.clip_qkv == 0);
    assert_true(cfg.rms_eps == 1e-5);
    assert_int_equal(parse_with(olmoe, "clip_qkv", "8.0"), 0);
    assert_true(cfg.clip_qkv == 8);
}


static void
test_glm4(void **state)
{
    accepts(glm4);
    assert_int_equal(cfg.family, MOE_FAMILY_GLM4_MOE);
    assert_int_equal(cfg.attn, MOE_ATTN_GQA);
    assert_int_equal(cfg.rope.dim, 64);
    assert_int_equal(cfg.rope.interleave, 0);
    assert_int_equal(cfg.qkv_bias, 1);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_HEAD);
    assert_int_equal(cfg.score, MOE_SCORE_SIGMOID);
    assert_int_equal(cfg.topk, MOE_TOPK_NOAUX_TC);
    assert_int_equal(cfg.router_bias, 1);
    assert_int_equal(cfg.norm_topk, 1);
    assert_true(cfg.topk_eps == 1e-20);
    assert_true(cfg.routed_scale == 2.5);
    assert_true(cfg.attn_scale == 1 / sqrt(128));
    assert_int_equal(cfg.is_moe[2], 0);
    assert_int_equal(cfg.is_moe[3], 1);
    assert_int_equal(cfg.shared_ffn, 1536);
    assert_int_equal(cfg.n_mtp, 1);
    assert_int_equal(cfg.n_eos, 3);

    /* GLM-4.5-Air has neither, and these are the defaults */
    assert_int_equal(parse_with(glm4, "use_qk_norm", "false"), 0);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_NONE);
    assert_int_equal(parse_with(glm4, "use_qk_norm", NULL), 0);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_NONE);
    assert_int_equal(parse_with(glm4, "attention_bias", NULL), 0);
    assert_int_equal(cfg.qkv_bias, 0);
    assert_int_equal(parse_with(glm4, "partial_rotary_factor", NULL), 0);
    assert_int_equal(cfg.rope.dim, 64);

    /* as transformers saves it; what it says there comes first */
    assert_int_equal(parse_with(glm4, "rope_parameters",
                                "{\"rope_type\": \"default\", "
                                "\"rope_theta\": 9, "
                                "\"partial_rotary_factor\": 0.25}"), 0);
    assert_int_equal(cfg.rope.dim, 32);

    refuses(glm4, "partial_rotary_factor", "0.01", "1 rotated dimensions");
    refuses(glm4, "partial_rotary_factor", "0.04", "5 rotated dimensions of a "
            "head are odd");
    refuses(glm4, "partial_rotary_factor", "1.5", "partial_rotary_factor");
    refuses(glm4, "partial_rotary_factor", "\"x\"", "partial_rotary_factor");
    refuses(glm4, "use_qk_norm", "1", "use_qk_norm");
    refuses(glm4, "attention_bias", "1", "attention_bias");
    refuses(glm4, "n_group", "7", "n_group");
    refuses(glm4, "n_routed_experts", NULL, "n_routed_experts");
    refuses(glm4, "moe_intermediate_size", NULL, "moe_intermediate_size");
    lists_unsupported(glm4, "scoring_func", "\"softmax\"", "scoring_func");
    lists_unsupported(glm4, "mlp_bias", "true", "mlp_bias");
}


static void
test_gpt_oss(void **state)
{
    accepts(gpt_oss);
    assert_int_equal(cfg.family, MOE_FAMILY_GPT_OSS);
    assert_int_equal(cfg.quant, MOE_QUANT_MXFP4);
    assert_int_equal(cfg.score, MOE_SCORE_CHOSEN);
    assert_int_equal(cfg.qkv_bias, 1);
    assert_int_equal(cfg.o_bias, 1);
    assert_int_equal(cfg.logit_bias, 1);
    assert_int_equal(cfg.ffn_bias, 1);
    assert_int_equal(cfg.sinks, 1);
    assert_int_equal(cfg.rope.truncate, 0);
    assert_true(cfg.swiglu_limit == 7 && cfg.swiglu_alpha == 1.702);
    assert_int_equal(cfg.window, 128);
    assert_int_equal(cfg.sliding[0], 1);
    assert_int_equal(cfg.sliding[1], 0);
    assert_int_equal(cfg.sliding[22], 1);

    assert_int_equal(parse_with(gpt_oss, "num_hidden_layers", "2"), 0);
    assert_int_equal(cfg.sliding[2], 0);
    assert_int_equal(parse_with(gpt_oss, "sliding_window", NULL), 0);
    assert_int_equal(cfg.window, 128);
    assert_int_equal(parse_with(gpt_oss, "swiglu_alpha", "2.5"), 0);
    assert_true(cfg.swiglu_alpha == 2.5);
    assert_int_equal(parse_with(gpt_oss, "attention_bias", "false"), 0);
    assert_int_equal(cfg.qkv_bias + cfg.o_bias, 0);

    refuses(gpt_oss, "sliding_window", "0", "sliding_window");
    refuses(gpt_oss, "swiglu_limit", "0", "swiglu_limit");
    refuses(gpt_oss, "layer_types", "[\"full_attention\"]",
            "not a list of 24");
    refuses(gpt_oss, "layer_types", "7", "not a list of 24");
    lists_unsupported(mixtral, "quantization_config",
                      "{\"quant_method\": \"mxfp4\"}", "mxfp4");
}


static void
test_minimax(void **state)
{
    accepts(minimax);
    assert_int_equal(cfg.family, MOE_FAMILY_MINIMAX_M2);
    assert_int_equal(cfg.rope.dim, 64);
    assert_int_equal(cfg.qk_norm, MOE_QK_NORM_FULL);
    assert_int_equal(cfg.qkv_bias, 0);
    assert_int_equal(cfg.score, MOE_SCORE_SIGMOID);
    assert_int_equal(cfg.topk, MOE_TOPK_NOAUX_TC);
    assert_int_equal(cfg.router_bias, 1);
    assert_int_equal(cfg.norm_topk, 1);
    assert_true(cfg.topk_eps == 0);
    assert_true(cfg.routed_scale == 1);
    assert_int_equal(cfg.n_group, 1);
    assert_int_equal(cfg.moe_ffn, 1536);
    assert_int_equal(cfg.shared_ffn, 0);
    assert_int_equal(cfg.n_moe_layers, 62);
    assert_int_equal(cfg.quant, MOE_QUANT_FP8_BLOCK);

    assert_int_equal(parse_with(minimax, "rope_theta", NULL), 0);
    assert_true(cfg.rope.theta == 5e6);
    assert_int_equal(parse_with(minimax, "rotary_dim", NULL), 0);
    assert_int_equal(cfg.rope.dim, 128);
    assert_int_equal(parse_with(minimax, "partial_rotary_factor", "0.25"), 0);
    assert_int_equal(cfg.rope.dim, 32);

    refuses(minimax, "rotary_dim", "130", "rotary_dim 130 of head_dim 128");
    refuses(minimax, "rotary_dim", "7", "7 rotated dimensions");
    refuses(minimax, "rotary_dim", "0", "rotary_dim");
    lists_unsupported(minimax, "attn_type_list", "[1, 0, 1]",
                      "attn_type_list[1] is not 1");
    lists_unsupported(minimax, "use_qk_norm", "false",
                      "use_qk_norm false with MiniMax-M2");
    lists_unsupported(minimax, "qk_norm_type", "\"per_head\"",
                      "qk_norm_type \"per_head\"");
    lists_unsupported(minimax, "use_routing_bias", "false",
                      "use_routing_bias false");
    lists_unsupported(minimax, "shared_intermediate_size", "512",
                      "shared_intermediate_size 512");
    lists_unsupported(minimax, "scoring_func", "\"softmax\"",
                      "scoring_func");

    /* MiniMax-Text-01 has another architecture by a name like it */
    refuses(minimax, "architectures", NULL, "\"minimax\" is not supported");
    refuses(minimax, "architectures", "[\"MiniMaxText01ForCausalLM\"]",
            "MiniMaxText01ForCausalLM");
}


static void
test_kimi(void **state)
{
    double  m;

    accepts(kimi);
    assert_int_equal(cfg.family, MOE_FAMILY_KIMI_K2);
    assert_int_equal(cfg.attn, MOE_ATTN_MLA);
    assert_int_equal(cfg.n_experts, 384);
    assert_int_equal(cfg.n_group, 1);
    assert_int_equal(cfg.topk_group, 1);
    assert_int_equal(cfg.n_moe_layers, 60);
    assert_int_equal(cfg.eos[0], 163585);
    assert_true(cfg.routed_scale == 2.827);
    assert_true(cfg.rope.beta_fast == 1 && cfg.rope.beta_slow == 1);

    m = 0.1 * log(32) + 1;
    assert_float_equal(cfg.attn_scale, m * m / sqrt(192), 1e-9);

    /* the type alone says it too; without it it is a DeepSeek-V3 */
    assert_int_equal(parse_with(kimi, "architectures", NULL), 0);
    assert_int_equal(cfg.family, MOE_FAMILY_KIMI_K2);
    assert_int_equal(parse_with(kimi, "model_type", NULL), 0);
    assert_int_equal(cfg.family, MOE_FAMILY_DEEPSEEK_V3);
    lists_unsupported(kimi, "quantization_config", "{\"quant_method\": "
                      "\"compressed-tensors\"}", "compressed-tensors");
}


static void
test_dense_layers(void **state)
{
    assert_int_equal(parse_with(qwen3, "mlp_only_layers", "[0, 5]"), 0);
    assert_int_equal(cfg.n_moe_layers, 46);
    assert_int_equal(cfg.is_moe[0], 0);
    assert_int_equal(cfg.is_moe[5], 0);
    assert_int_equal(cfg.dense_ffn, 6144);

    assert_int_equal(parse_with(qwen3, "decoder_sparse_step", "2"), 0);
    assert_int_equal(cfg.is_moe[0], 0);
    assert_int_equal(cfg.is_moe[1], 1);

    assert_int_equal(parse_with(v3, "moe_layer_freq", "2"), 0);
    assert_int_equal(cfg.is_moe[3], 0);
    assert_int_equal(cfg.is_moe[4], 1);

    assert_int_equal(parse_with(v3, "first_k_dense_replace", "100"), 0);
    assert_int_equal(cfg.n_moe_layers, 0);

    refuses(qwen3, "mlp_only_layers", "[48]", "mlp_only_layers[0]");
    refuses(qwen3, "mlp_only_layers", "[0, -1]", "mlp_only_layers[1]");
    refuses(qwen3, "mlp_only_layers", "[1.0]", "mlp_only_layers[0]");
    refuses(qwen3, "mlp_only_layers", "3", "mlp_only_layers");
    refuses(qwen3, "decoder_sparse_step", "0", "decoder_sparse_step");
    refuses(v3, "moe_layer_freq", "0", "moe_layer_freq");
    refuses(v3, "intermediate_size", NULL, "intermediate_size is missing");
}


/* what transformers 5 writes */
static void
test_new_spelling(void **state)
{
    assert_int_equal(parse_with(v3, "rope_scaling", NULL), 0);
    assert_int_equal(cfg.rope.type, MOE_ROPE_DEFAULT);
    assert_float_equal(cfg.attn_scale, 1 / sqrt(192), 1e-12);

    assert_int_equal(parse_with(qwen3, "rope_parameters",
                                "{\"rope_theta\": 5000.0, "
                                "\"rope_type\": \"default\"}"), 0);
    assert_true(cfg.rope.theta == 5000);

    assert_int_equal(parse_with(qwen3, "rope_parameters",
        "{\"rope_theta\": 10000.0, \"rope_type\": \"yarn\", \"factor\": 4.0,"
        "\"original_max_position_embeddings\": 10240}"), 0);
    assert_int_equal(cfg.rope.type, MOE_ROPE_YARN);
    assert_true(cfg.rope.beta_fast == 32 && cfg.rope.beta_slow == 1);
    assert_float_equal(cfg.rope.attn_factor, 0.1 * log(4) + 1, 1e-9);
    assert_float_equal(cfg.attn_scale, 1 / sqrt(128), 1e-12);

    assert_int_equal(parse_with(qwen3, "rope_scaling",
        "{\"type\": \"yarn\", \"factor\": null, \"attention_factor\": 2.0,"
        "\"truncate\": false,"
        "\"original_max_position_embeddings\": 20480}"), 0);
    assert_true(cfg.rope.factor == 2);
    assert_true(cfg.rope.attn_factor == 2);
    assert_int_equal(cfg.rope.truncate, 0);

    assert_int_equal(parse_with(qwen3, "dtype", "\"float32\""), 0);
    assert_string_equal(cfg.dtype, "float32");

    /* names that are not words are not shown to anybody */
    assert_int_equal(parse_with(olmoe, "dtype", "\"\\u001b[2J\""), 0);
    assert_string_equal(cfg.dtype, "");
}


static void
test_absurd_values(void **state)
{
    static const struct {
        const char  *text;
        const char  *key;
        const char  *value;
        const char  *message;
    } cases[] = {
        { v3, "num_hidden_layers", "0", "num_hidden_layers 0" },
        { v3, "num_hidden_layers", "-3", "num_hidden_layers -3" },
        { v3, "num_hidden_layers", "1000000", "num_hidden_layers 1000000" },
        { v3, "num_hidden_layers", "61.0", "not an integer" },
        { v3, "num_hidden_layers", "\"61\"", "not an integer" },
        { v3, "num_hidden_layers", "true", "not an integer" },
        { v3, "num_hidden_layers", NULL, "num_hidden_layers is missing" },
        { v3, "num_hidden_layers", "null", "num_hidden_layers is missing" },
        { v3, "hidden_size", "9223372036854775807", "hidden_size" },
        { v3, "vocab_size", "0", "vocab_size" },
        { v3, "max_position_embeddings", "0", "max_position_embeddings" },
        { v3, "num_attention_heads", "5000", "num_attention_heads" },
        { v3, "num_experts_per_tok", "257", "num_experts_per_tok" },
        { v3, "num_experts_per_tok", "0", "num_experts_per_tok" },
        { v3, "n_routed_experts", "4", "num_experts_per_tok 8 of only 4" },
        { v3, "n_routed_experts", NULL, "n_routed_experts is missing" },
        { v3, "n_routed_experts", "100000", "n_routed_experts" },
        { v3, "n_shared_experts", "-1", "n_shared_experts" },
        { v3, "n_shared_experts", "1000", "too wide" },
        { v3, "kv_lora_rank", "0", "kv_lora_rank" },
        { v3, "q_lora_rank", "0", "q_lora_rank" },
        { v3, "qk_rope_head_dim", "63", "odd" },
        { v3, "qk_rope_head_dim", "0", "qk_rope_head_dim" },
        { v3, "v_head_dim", NULL, "v_head_dim is missing" },
        { v3, "n_group", "7", "n_group 7 does not divide" },
        { v3, "n_group", "256", "groups of one" },
        { v3, "n_group", "0", "n_group" },
        { v3, "topk_group", "9", "topk_group 9" },
        { v2, "num_experts_per_tok", "32", NULL },
        { v2, "n_group", "80", NULL },
        { v2, "n_group", "160", "of only 3 experts" },
        { v3, "moe_intermediate_size", "0", "moe_intermediate_size" },
        { v3, "rms_norm_eps", "-1", "rms_norm_eps" },
        { v3, "rms_norm_eps", "\"small\"", "rms_norm_eps is not a number" },
        { v3, "norm_topk_prob", "1", "norm_topk_prob is not true" },
        { v3, "rope_theta", "0", "rope_theta" },
        { v3, "rope_theta", "1", "rope_theta" },
        { v3, "rope_scaling", "[]", "rope_scaling is not" },
        { v3, "rope_scaling", "{\"type\": 3}", "type is not a string" },
        { v3, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 0.5}",
          "factor 0.5" },
        { v3, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4, "
          "\"beta_fast\": 0.1}", "beta_fast" },
        { v3, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4, "
          "\"truncate\": 0}", "truncate" },
        { v3, "rope_scaling", "{\"type\": \"yarn\", \"factor\": 4, "
          "\"original_max_position_embeddings\": 0}", "original_max" },
        { v3, "routed_scaling_factor", "0", "routed_scaling_factor" },
        { v3, "quantization_config", "\"fp8\"", "quantization_config" },
        { v3, "num_nextn_predict_layers", "99", "num_nextn_predict_layers" },
        { v3, "architectures", "\"DeepseekV3ForCausalLM\"",
          "architectures is not a list" },
        { v3, "architectures", "[]", "architectures is not a list" },
        { v3, "architectures", "[\"LlamaForCausalLM\"]",
          "architecture \"LlamaForCausalLM\" is not supported" },
        { v3, "eos_token_id", "\"</s>\"", "eos_token_id" },
        { v3, "eos_token_id", "-1", "eos_token_id" },
        { v3, "eos_token_id", "[1, 2.5]", "eos_token_id" },
        { v3, "eos_token_id", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]",
          "lists 17 ids" },
        { v3, "bos_token_id", "[1]", "bos_token_id" },
        { v3, "tie_word_embeddings", "0", "tie_word_embeddings" },
        { v3, "hidden_act", "1", "hidden_act" },
        { qwen3, "num_key_value_heads", "5", "does not divide" },
        { qwen3, "head_dim", "127", "odd" },
        { qwen3, "head_dim", "100000", "head_dim" },
        { olmoe, "hidden_size", "2050", "no head_dim" },
        { olmoe, "clip_qkv", "-1", "clip_qkv" },
        { qwen2, "shared_expert_intermediate_size", NULL, "is missing" },
    };

    size_t  i;

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (cases[i].message == NULL) {
            assert_int_equal(parse_with(cases[i].text, cases[i].key,
                                        cases[i].value), 0);
            continue;
        }

        refuses(cases[i].text, cases[i].key, cases[i].value,
                cases[i].message);
    }
}


static void
test_not_json(void **state)
{
    size_t  i;

    static const char *const  texts[] = {
        "", "{", "[]", "null", "{\"a\": 1, \"a\": 2}",
        "{\"hidden_size\": 1e999}",
        "{}", "{\"architectures\": null}", "\xff\xfe",
        "{\"architectures\": [null]}", "{\"model_type\": []}",
    };

    for (i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(moe_config_parse(texts[i], strlen(texts[i]), NULL, 0,
                                          &cfg, &err), -1);
        assert_non_null(strstr(err.text, "config.json"));
    }

    /* model_type will do where architectures is missing */
    assert_int_equal(parse_with(v3, "architectures", NULL), 0);
    assert_int_equal(cfg.family, MOE_FAMILY_DEEPSEEK_V3);
}


static void
test_unsupported(void **state)
{
    lists_unsupported(v3, "attention_bias", "true", "attention_bias");
    lists_unsupported(v3, "mlp_bias", "true", "mlp_bias");
    lists_unsupported(v3, "hidden_act", "\"gelu\"", "hidden_act \"gelu\"");
    lists_unsupported(v3, "scoring_func", "\"softmax\"", "scoring_func");
    lists_unsupported(v3, "topk_method", "\"greedy\"", "topk_method");
    lists_unsupported(v3, "partial_rotary_factor", "0.5", "partial_rotary");
    lists_unsupported(v3, "rope_scaling",
                      "{\"type\": \"linear\", \"factor\": 2}", "\"linear\"");
    lists_unsupported(v3, "rope_scaling",
                      "{\"rope_type\": \"dynamic\", \"factor\": 2}",
                      "\"dynamic\"");
    lists_unsupported(v3, "quantization_config",
                      "{\"quant_method\": \"gptq\"}", "gptq");
    lists_unsupported(v3, "quantization_config", "{\"quant_method\": \"fp8\"}",
                      "blocks of 128");
    lists_unsupported(v3, "quantization_config", "{\"quant_method\": \"fp8\","
                      "\"weight_block_size\": [64, 128]}", "blocks of 128");
    lists_unsupported(mixtral, "sliding_window", "4096",
                      "sliding_window 4096");
    lists_unsupported(qwen2, "layer_types", "[\"sliding_attention\"]",
                      "sliding_attention");

    /* a window over all positions hides nothing */
    assert_int_equal(parse_with(mixtral, "sliding_window", "32768"), 0);
    assert_int_equal(cfg.n_unsupported, 0);
}


static void
test_generation(void **state)
{
    size_t  i;

    static const char  gen[] =
        "{\"do_sample\": true, \"temperature\": 0.6, \"top_p\": 0.95, "
        "\"top_k\": 20, \"eos_token_id\": [151645, 151643, 999999], "
        "\"bos_token_id\": 7, \"repetition_penalty\": 1.05}";

    static const char *const  bad[] = {
        "{\"temperature\": -1}", "{\"temperature\": \"hot\"}",
        "{\"top_p\": 1.5}", "{\"top_k\": 1.5}", "{\"do_sample\": 1}",
        "{\"repetition_penalty\": 0}", "{\"eos_token_id\": {}}", "[]", "x",
        "{\"max_new_tokens\": 0}", "{\"min_p\": 2}",
    };

    assert_int_equal(moe_config_parse(qwen3, strlen(qwen3), gen, strlen(gen),
                                      &cfg, &err), 0);

    assert_true(cfg.gen.has_temperature && cfg.gen.temperature == 0.6);
    assert_true(cfg.gen.has_top_p && cfg.gen.top_p == 0.95);
    assert_true(cfg.gen.has_top_k && cfg.gen.top_k == 20);
    assert_true(cfg.gen.has_repetition_penalty);
    assert_true(cfg.gen.has_do_sample && cfg.gen.do_sample);
    assert_false(cfg.gen.has_min_p);
    assert_false(cfg.gen.has_max_new_tokens);

    /* its ids count, and the one that is no token is dropped */
    assert_int_equal(cfg.bos, 7);
    assert_int_equal(cfg.n_eos, 2);
    assert_int_equal(cfg.eos[0], 151645);
    assert_int_equal(cfg.eos[1], 151643);

    assert_int_equal(moe_config_parse(qwen3, strlen(qwen3), "{}", 2, &cfg,
                                      &err), 0);
    assert_int_equal(cfg.n_eos, 1);
    assert_int_equal(cfg.eos[0], 151645);

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(moe_config_parse(qwen3, strlen(qwen3), bad[i],
                                          strlen(bad[i]), &cfg, &err), -1);
        assert_non_null(strstr(err.text, "generation_config.json"));
    }
}


static void
test_load(void **state)
{
    assert_int_equal(moe_config_load("/nonexistent", &cfg, &err), -1);
    assert_string_equal(err.text, "/nonexistent/config.json: no such file");

    assert_int_equal(moe_config_load("", &cfg, &err), -1);
    assert_string_equal(err.text, "the model's path is empty");

    /* a file that is there, and is none that can be read */
    {
        char  dir[] = "/tmp/moe-test-config-XXXXXX", path[64];

        assert_non_null(mkdtemp(dir));
        snprintf(path, sizeof(path), "%s/config.json", dir);
        assert_int_equal(mkdir(path, 0700), 0);
        assert_int_equal(moe_config_load(dir, &cfg, &err), -1);
        assert_non_null(strstr(err.text, "config.json: not a regular file"));
        rmdir(path);
        rmdir(dir);
    }
}


/* total: the counts that the models' publishers give */
static void
test_params(void **state)
{
    static const struct {
        const char  *text;
        double       total;
        double       active;
    } known[] = {
        { v3, 671026419200, 37552297472 },
        { v2, 235741434880, 0 },
        { v2_lite, 15706484224, 0 },
        { qwen3, 30532122624, 0 },
        { qwen2, 14315784192, 0 },
        { mixtral, 46702792704, 12879925248 },
        { olmoe, 6919161856, 0 },
        { gpt_oss, 20914757184, 0 },
        { glm4, 352797829024, 0 },
        { minimax, 228689764864, 0 },
        { kimi, 1026408232448, 0 },
    };

    size_t        i;
    moe_params_t  p;

    for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
        accepts(known[i].text);
        moe_params(&cfg, &p);
        assert_true((double) p.total == known[i].total);
        assert_true(known[i].active == 0
                    || (double) p.active == known[i].active);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_deepseek_v3),
        cmocka_unit_test(test_deepseek_v2),
        cmocka_unit_test(test_gqa_families),
        cmocka_unit_test(test_glm4),
        cmocka_unit_test(test_gpt_oss),
        cmocka_unit_test(test_minimax),
        cmocka_unit_test(test_kimi),
        cmocka_unit_test(test_dense_layers),
        cmocka_unit_test(test_new_spelling),
        cmocka_unit_test(test_absurd_values),
        cmocka_unit_test(test_not_json),
        cmocka_unit_test(test_unsupported),
        cmocka_unit_test(test_generation),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_params),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
