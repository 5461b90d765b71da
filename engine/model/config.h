/*
 * config: what a model directory's config.json and generation_config.json
 * say, in the field's own terms, checked.
 *
 * One plain struct serves all families.  What a family does not have is zero
 * (or 1 where that is the neutral value, as n_group).  Every number has been
 * checked against the limits below and against the others, so that products
 * of any three sizes fit in 64 bits and no later code need check again.
 *
 * Keys are accepted as the hub's checkpoints write them and as newer
 * releases of transformers save them (rope_parameters for rope_theta and
 * rope_scaling, dtype for torch_dtype, num_local_experts for num_experts).
 */

#ifndef MOE_CONFIG_H
#define MOE_CONFIG_H


#include <stdint.h>
#include <stddef.h>

#include "base/err.h"


#define MOE_MAX_LAYERS       512
#define MOE_MAX_HIDDEN       65536
#define MOE_MAX_FFN          262144     /* any intermediate size */
#define MOE_MAX_HEADS        1024
#define MOE_MAX_HEAD_DIM     1024
#define MOE_MAX_LORA_RANK    16384
#define MOE_MAX_EXPERTS      1024
#define MOE_MAX_TOP_K        32
#define MOE_MAX_VOCAB        (1 << 22)
#define MOE_MAX_POSITIONS    (1 << 24)
#define MOE_MAX_EOS          16
#define MOE_MAX_UNSUPPORTED  8


typedef enum {
    MOE_FAMILY_DEEPSEEK_V2,         /* V2, V2.5, V2-Lite */
    MOE_FAMILY_DEEPSEEK_V3,         /* V3, R1 */
    MOE_FAMILY_QWEN3_MOE,
    MOE_FAMILY_QWEN2_MOE,
    MOE_FAMILY_MIXTRAL,
    MOE_FAMILY_OLMOE,
    MOE_FAMILY_GLM4_MOE,            /* GLM-4.5, 4.6 */
    MOE_FAMILY_MINIMAX_M2,
    MOE_FAMILY_KIMI_K2,             /* DeepSeek-V3's architecture */
    MOE_FAMILY_GPT_OSS,
    MOE_FAMILY_COUNT
} moe_family_e;

typedef enum {
    MOE_ATTN_GQA,                   /* q, k, v; n_kv_heads of head_dim */
    MOE_ATTN_MLA                    /* multi-head latent attention */
} moe_attn_e;

typedef enum {
    MOE_QK_NORM_NONE,
    MOE_QK_NORM_HEAD,               /* RMSNorm over head_dim, per head */
    MOE_QK_NORM_FULL                /* RMSNorm over all heads' width */
} moe_qk_norm_e;

typedef enum {
    MOE_SCORE_SOFTMAX,              /* over all experts, before top-k */
    MOE_SCORE_SIGMOID,
    MOE_SCORE_CHOSEN                /* softmax over the chosen alone */
} moe_score_e;

typedef enum {
    MOE_TOPK_GREEDY,                /* the top_k best of all */
    MOE_TOPK_GROUP_LIMITED,         /* group's score: its best expert */
    MOE_TOPK_NOAUX_TC               /* score + correction bias chooses, score
                                     * weighs; group's: its two best, added */
} moe_topk_e;

typedef enum {
    MOE_ROPE_DEFAULT,
    MOE_ROPE_YARN
} moe_rope_e;

typedef enum {
    MOE_QUANT_NONE,
    MOE_QUANT_FP8_BLOCK,            /* E4M3, float32 scale per 128 x 128 */
    MOE_QUANT_MXFP4                 /* experts in blocks, see fused.h */
} moe_quant_e;


typedef struct {
    moe_rope_e   type;
    int          interleave;        /* pairs (2i, 2i+1) as DeepSeek, else
                                     * halves (i, i + dim/2) */
    int          dim;               /* rotated width of a head, even: its
                                     * first ones, or qk_rope_head_dim */
    double       theta;

    /* yarn only */
    double       factor;            /* >= 1 */
    double       beta_fast;
    double       beta_slow;
    double       mscale;            /* as written, 0 where absent */
    double       mscale_all_dim;    /* as written, 0 where absent */
    int          original_max_positions;
    int          truncate;          /* floor and ceil the correction range */

    /* cos and sin are multiplied by this (1 unless yarn) */
    double       attn_factor;
} moe_rope_t;


/* generation_config.json: each value only where its has_ flag is set */
typedef struct {
    unsigned     has_temperature:1;
    unsigned     has_top_p:1;
    unsigned     has_top_k:1;
    unsigned     has_min_p:1;
    unsigned     has_repetition_penalty:1;
    unsigned     has_max_new_tokens:1;
    unsigned     has_do_sample:1;
    unsigned     do_sample:1;

    double       temperature;
    double       top_p;
    double       min_p;
    double       repetition_penalty;
    int          top_k;
    int          max_new_tokens;
} moe_generation_t;


typedef struct moe_config_s {
    moe_family_e      family;
    moe_attn_e        attn;

    int               n_layers;     /* without MTP layers */
    int               hidden;
    int               vocab;        /* rows of embedding and head; may exceed
                                     * the tokenizer's */
    int               max_positions;
    int               n_heads;

    /* GQA; for MLA n_kv_heads = n_heads, head_dim = nope + rope */
    int               n_kv_heads;
    int               head_dim;
    int               qkv_bias;
    int               o_bias;
    int               sinks;        /* a score of each head's that takes part
                                     * in the softmax, and nothing else */
    int               window;       /* keys that a sliding layer's row sees,
                                     * its own included; 0: no such layer */
    moe_qk_norm_e     qk_norm;
    double            clip_qkv;     /* clamp q, k, v to +-; 0: none */

    /* MLA */
    int               q_lora_rank;  /* 0: q is projected directly */
    int               kv_lora_rank;
    int               qk_nope_head_dim;
    int               qk_rope_head_dim;
    int               v_head_dim;   /* GQA: head_dim */

    double            attn_scale;   /* on q.k before softmax; with yarn's
                                     * mscale_all_dim squared for MLA */
    moe_rope_t        rope;

    /* feed-forward */
    int               dense_ffn;    /* width of dense layers, 0: none exist */
    int               moe_ffn;      /* width of one routed expert */
    int               n_experts;    /* routed experts per MoE layer */
    int               top_k;
    int               shared_ffn;   /* width of all shared experts together,
                                     * 0: none */
    int               n_shared;     /* how many experts that is */
    int               shared_gate;  /* sigmoid(gate . x) scales the shared */

    /* router */
    moe_score_e       score;
    moe_topk_e        topk;
    int               n_group;      /* 1: no groups; divides n_experts */
    int               topk_group;   /* 1..n_group */
    int               norm_topk;    /* weights of the chosen sum to 1 ... */
    double            topk_eps;  /* ... with this added to their sum */
    double            routed_scale; /* multiplies the weights, last */
    int               router_bias;  /* e_score_correction_bias exists */
    int               logit_bias;   /* the router's product has a bias */
    int               ffn_bias;     /* so have the experts' three */
    double            swiglu_limit; /* 0: silu(gate) * up; else clamped, see
                                     * moe_clamped_t */
    double            swiglu_alpha;

    double            rms_eps;
    double            lora_rms_eps; /* q_a_norm and kv_a_norm: 1e-6 always */

    int               tie_embeddings;
    int               n_mtp;        /* MTP layers that may follow the last
                                     * layer in the weights; recognised */
    moe_quant_e       quant;
    char              dtype[16];    /* as written: "bfloat16", or "" */

    int               bos;          /* -1: none */
    int               n_eos;
    int               eos[MOE_MAX_EOS];   /* generation_config.json's where it
                                           * has some, else config.json's;
                                           * those >= vocab are dropped */
    moe_generation_t  gen;

    uint8_t           is_moe[MOE_MAX_LAYERS];   /* 1: experts, 0: dense */
    int               n_moe_layers;
    uint8_t           sliding[MOE_MAX_LAYERS];  /* 1: sees window keys */

    int               n_unsupported;
    char              unsupported[MOE_MAX_UNSUPPORTED][160];
} moe_config_t;


/*
 * Reads DIR/config.json and, where it exists, DIR/generation_config.json; or
 * the metadata of a GGUF file, where dir is one.
 * An unreadable file, wrong type, absurd value or unknown architecture is an
 * error naming file and key.  What is well-formed but asks for something the
 * engine cannot do is not: it is listed in cfg->unsupported, for inspect to
 * print and moe_config_check() to refuse.
 */
int moe_config_load(const char *dir, moe_config_t *cfg, moe_err_t *err);

/*
 * The same from text: json[len] is config.json, gen[gen_len] is
 * generation_config.json or NULL.
 */
int moe_config_parse(const char *json, size_t len, const char *gen,
    size_t gen_len, moe_config_t *cfg, moe_err_t *err);

/* 0 if the decoder can run it, else -1 and err joins what is unsupported. */
int moe_config_check(const moe_config_t *cfg, moe_err_t *err);

/*
 * Elements of KV cache per token and layer: MLA the latent and the rotated
 * part (kv_lora_rank + qk_rope_head_dim), GQA k and v of all kv heads.
 */
size_t moe_config_kv_width(const moe_config_t *cfg);


#endif /* MOE_CONFIG_H */
