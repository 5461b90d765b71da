/*
 * GGUF metadata to config.json.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"


#define KEY_SIZE  160


typedef struct {
    const moe_gguf_t  *g;
    const char        *arch;
    json_t            *out;
    moe_err_t         *err;
} convert_t;

typedef struct {
    const char  *arch;
    int        (*convert)(convert_t *c);
} arch_t;


static int convert_common(convert_t *c);
static int convert_tokens(convert_t *c);
static int convert_deepseek2(convert_t *c);
static int convert_qwen3moe(convert_t *c);
static int convert_qwen2moe(convert_t *c);
static int convert_olmoe(convert_t *c);
static int convert_llama(convert_t *c);
static int convert_gpt_oss(convert_t *c);


static const arch_t  archs[] = {
    { "deepseek2", convert_deepseek2 },
    { "qwen3moe", convert_qwen3moe },
    { "qwen2moe", convert_qwen2moe },
    { "olmoe", convert_olmoe },
    { "llama", convert_llama },
    { "gpt-oss", convert_gpt_oss }
};


static const arch_t *
find_arch(const moe_gguf_t *g, moe_err_t *err)
{
    char         show[MOE_GGUF_SHOW];
    size_t       i, len;
    const char  *s;

    if (moe_gguf_string(g, "general.architecture", &s, &len, err) != 0) {
        moe_err(err, "%s: general.architecture is missing or not a string",
                moe_gguf_path(g));
        return NULL;
    }

    for (i = 0; i < sizeof(archs) / sizeof(archs[0]); i++) {
        if (strlen(archs[i].arch) == len && memcmp(archs[i].arch, s, len) == 0)
        {
            return &archs[i];
        }
    }

    moe_err(err, "%s: architecture \"%s\" is not supported",
            moe_gguf_path(g), moe_gguf_show(s, len, show));

    return NULL;
}


json_t *
moe_gguf_config_json(const moe_gguf_t *g, moe_err_t *err)
{
    convert_t      c;
    const arch_t  *a;

    a = find_arch(g, err);
    if (a == NULL) {
        return NULL;
    }

    c = (convert_t) { g, a->arch, json_object(), err };

    if (convert_common(&c) != 0 || a->convert(&c) != 0
        || convert_tokens(&c) != 0)
    {
        json_decref(c.out);
        return NULL;
    }

    return c.out;
}


int
moe_gguf_config(const moe_gguf_t *g, moe_config_t *cfg, moe_err_t *err)
{
    int      rc;
    char    *text;
    json_t  *json;

    json = moe_gguf_config_json(g, err);
    if (json == NULL) {
        return -1;
    }

    text = json_dumps(json, JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(json);

    if (text == NULL) {
        return moe_err(err, "%s: no memory", moe_gguf_path(g));
    }

    rc = moe_config_parse(text, strlen(text), NULL, 0, cfg, err);
    free(text);

    return rc == 0 ? 0 : moe_err_prefix(err, "%s, as", moe_gguf_path(g));
}


int
moe_gguf_config_load(const char *path, moe_config_t *cfg, moe_err_t *err)
{
    int          rc;
    moe_gguf_t  *g;

    g = moe_gguf_open(path, err);
    if (g == NULL) {
        return -1;
    }

    rc = moe_gguf_config(g, cfg, err);
    moe_gguf_close(g);

    return rc;
}


static const char *
arch_key(const convert_t *c, const char *name, char key[KEY_SIZE])
{
    snprintf(key, KEY_SIZE, "%s.%s", c->arch, name);

    return key;
}


/* 0; 1: absent; -1 */
static int
get_u32(convert_t *c, const char *name, uint32_t *v)
{
    char  key[KEY_SIZE];

    return moe_gguf_u32(c->g, arch_key(c, name, key), v, c->err);
}


static int
get_double(convert_t *c, const char *name, double *v)
{
    char  key[KEY_SIZE];

    return moe_gguf_double(c->g, arch_key(c, name, key), v, c->err);
}


static int
missing(convert_t *c, const char *name)
{
    return moe_err(c->err, "%s: %s.%s is missing", moe_gguf_path(c->g),
                   c->arch, name);
}


static int
need_u32(convert_t *c, const char *name, uint32_t *v)
{
    int  rc;

    *v = 0;
    rc = get_u32(c, name, v);

    return rc == 1 ? missing(c, name) : rc;
}


static void
set_int(convert_t *c, const char *to, uint64_t v)
{
    json_object_set_new(c->out, to, json_integer((json_int_t) v));
}


/* copies a key where it is there */
static int
copy_int(convert_t *c, const char *name, const char *to)
{
    int       rc;
    uint32_t  v;

    rc = get_u32(c, name, &v);

    if (rc == 0) {
        set_int(c, to, v);
    }

    return rc;
}


static int
need_int(convert_t *c, const char *name, const char *to)
{
    int  rc;

    rc = copy_int(c, name, to);

    return rc == 1 ? missing(c, name) : rc;
}


static int
copy_double(convert_t *c, const char *name, json_t *out, const char *to)
{
    int     rc;
    double  v;

    rc = get_double(c, name, &v);

    if (rc == 0) {
        json_object_set_new(out, to, json_real(v));
    }

    return rc;
}


/* how an architecture weighs the chosen where no key says so */
static int
set_norm(convert_t *c, int otherwise)
{
    int   v;
    char  key[KEY_SIZE];

    v = otherwise;

    if (moe_gguf_bool(c->g, arch_key(c, "expert_weights_norm", key), &v,
                      c->err) < 0)
    {
        return -1;
    }

    json_object_set_new(c->out, "norm_topk_prob", json_boolean(v));

    return 0;
}


static void
set_names(convert_t *c, const char *architecture)
{
    json_object_set_new(c->out, "architectures",
                        json_pack("[s]", architecture));
}


/*
 * yarn_log_multiplier is a tenth of mscale_all_dim; mscale, of which nothing
 * is kept, is the same in all models that have the two.
 */
static int
convert_yarn(convert_t *c, json_t *scaling)
{
    int     rc;
    char    text[32];
    double  v;

    rc = copy_double(c, "rope.scaling.factor", scaling, "factor");

    if (rc != 0) {
        return rc < 0 ? -1 : missing(c, "rope.scaling.factor");
    }

    rc = get_double(c, "rope.scaling.yarn_log_multiplier", &v);

    if (rc == 0 && v != 0) {

        if (strcmp(c->arch, "deepseek2") != 0) {
            return moe_err(c->err, "%s: %s.rope.scaling.yarn_log_multiplier "
                           "is not supported", moe_gguf_path(c->g), c->arch);
        }

        snprintf(text, sizeof(text), "%.7g", v * 10);
        v = strtod(text, NULL);
        json_object_set_new(scaling, "mscale", json_real(v));
        json_object_set_new(scaling, "mscale_all_dim", json_real(v));
    }

    if (rc < 0
        || copy_double(c, "rope.scaling.yarn_beta_fast", scaling,
                       "beta_fast") < 0
        || copy_double(c, "rope.scaling.yarn_beta_slow", scaling,
                       "beta_slow") < 0)
    {
        return -1;
    }

    return 0;
}


static int
convert_rope(convert_t *c)
{
    int          rc;
    char         key[KEY_SIZE];
    double       factor;
    size_t       len;
    json_t      *scaling;
    uint32_t     v;
    const char  *type;

    /* what stands for an absent one in llama.cpp */
    json_object_set_new(c->out, "rope_theta", json_real(10000));

    if (copy_double(c, "rope.freq_base", c->out, "rope_theta") < 0) {
        return -1;
    }

    rc = moe_gguf_string(c->g, arch_key(c, "rope.scaling.type", key), &type,
                         &len, c->err);

    if (rc < 0) {
        return -1;
    }

    if (rc == 1 || (len == 4 && memcmp(type, "none", 4) == 0)) {
        return 0;
    }

    factor = 1;

    if (get_double(c, "rope.scaling.attn_factor", &factor) < 0) {
        return -1;
    }

    if (factor != 1) {
        return moe_err(c->err, "%s: %s.rope.scaling.attn_factor %g is not "
                       "supported", moe_gguf_path(c->g), c->arch, factor);
    }

    scaling = json_object();
    json_object_set_new(c->out, "rope_scaling", scaling);
    json_object_set_new(scaling, "type", json_stringn(type, len));

    rc = get_u32(c, "rope.scaling.original_context_length", &v);

    if (rc == 0) {
        json_object_set_new(scaling, "original_max_position_embeddings",
                            json_integer(v));
    }

    if (rc < 0) {
        return -1;
    }

    return len == 4 && memcmp(type, "yarn", 4) == 0 ? convert_yarn(c, scaling)
                                                    : 0;
}


static int
convert_common(convert_t *c)
{
    int                       rc;
    uint32_t                  n, nextn;
    const moe_gguf_tensor_t  *t;

    nextn = 0;

    if (need_u32(c, "block_count", &n) != 0
        || get_u32(c, "nextn_predict_layers", &nextn) < 0)
    {
        return -1;
    }

    if (nextn >= n) {
        return moe_err(c->err, "%s: %s.nextn_predict_layers %u of %u blocks",
                       moe_gguf_path(c->g), c->arch, nextn, n);
    }

    set_int(c, "num_hidden_layers", n - nextn);
    set_int(c, "num_nextn_predict_layers", nextn);

    t = moe_gguf_tensor(c->g, "token_embd.weight");

    if (t == NULL || t->ndim != 2 || t->dims[1] > MOE_MAX_VOCAB) {
        return moe_err(c->err, "%s: tensor token_embd.weight is missing, or "
                       "not a matrix", moe_gguf_path(c->g));
    }

    set_int(c, "vocab_size", t->dims[1]);

    json_object_set_new(c->out, "tie_word_embeddings",
        json_boolean(moe_gguf_tensor(c->g, "output.weight") == NULL));

    if (need_int(c, "embedding_length", "hidden_size") != 0
        || need_int(c, "attention.head_count", "num_attention_heads") != 0
        || need_int(c, "context_length", "max_position_embeddings") != 0
        || need_int(c, "expert_used_count", "num_experts_per_tok") != 0
        || copy_int(c, "feed_forward_length", "intermediate_size") < 0)
    {
        return -1;
    }

    rc = copy_double(c, "attention.layer_norm_rms_epsilon", c->out,
                     "rms_norm_eps");

    if (rc != 0) {
        return rc < 0 ? -1 : missing(c, "attention.layer_norm_rms_epsilon");
    }

    return convert_rope(c);
}


/* the width of an expert: as written, else as the first one's tensor is */
static int
set_expert_width(convert_t *c, const char *to)
{
    int                       i, rc;
    char                      name[64];
    uint32_t                  n;
    const moe_gguf_tensor_t  *t;

    rc = copy_int(c, "expert_feed_forward_length", to);

    for (i = 0; rc == 1 && i < MOE_MAX_LAYERS; i++) {
        snprintf(name, sizeof(name), "blk.%d.ffn_down_exps.weight", i);
        t = moe_gguf_tensor(c->g, name);

        if (t != NULL && t->dims[0] <= MOE_MAX_FFN) {
            set_int(c, to, t->dims[0]);
            return 0;
        }
    }

    if (rc == 1) {
        rc = get_u32(c, "feed_forward_length", &n);

        if (rc == 0) {
            set_int(c, to, n);
        }
    }

    return rc == 1 ? missing(c, "expert_feed_forward_length") : rc;
}


/* all but DeepSeek: heads of one width, wholly rotated */
static int
convert_gqa(convert_t *c)
{
    int       rc;
    uint32_t  heads, hidden, k, v, rot;

    if (need_int(c, "attention.head_count_kv", "num_key_value_heads") != 0
        || need_u32(c, "attention.head_count", &heads) != 0
        || need_u32(c, "embedding_length", &hidden) != 0)
    {
        return -1;
    }

    if (heads == 0) {
        return moe_err(c->err, "%s: %s.attention.head_count is 0",
                       moe_gguf_path(c->g), c->arch);
    }

    k = hidden / heads;
    rc = get_u32(c, "attention.key_length", &k);

    if (rc == 0) {
        set_int(c, "head_dim", k);
    }

    v = k;
    rot = k;

    if (rc < 0 || get_u32(c, "attention.value_length", &v) < 0
        || get_u32(c, "rope.dimension_count", &rot) < 0)
    {
        return -1;
    }

    if (v != k || rot != k) {
        return moe_err(c->err, "%s: %s: heads with %u elements of k, %u of v, "
                       "%u of them rotated, are not supported",
                       moe_gguf_path(c->g), c->arch, k, v, rot);
    }

    return copy_int(c, "attention.sliding_window", "sliding_window") < 0
           ? -1 : 0;
}


/* layers without a router are dense */
static void
set_dense_layers(convert_t *c)
{
    char        name[64];
    json_int_t  i, n;
    json_t     *list;

    list = json_array();
    n = json_integer_value(json_object_get(c->out, "num_hidden_layers"));

    for (i = 0; i < n && i < MOE_MAX_LAYERS; i++) {
        snprintf(name, sizeof(name), "blk.%d.ffn_gate_inp.weight", (int) i);

        if (moe_gguf_tensor(c->g, name) == NULL) {
            json_array_append_new(list, json_integer(i));
        }
    }

    json_object_set_new(c->out, "mlp_only_layers", list);
}


static int
convert_qwen3moe(convert_t *c)
{
    set_names(c, "Qwen3MoeForCausalLM");
    set_dense_layers(c);

    if (convert_gqa(c) != 0
        || need_int(c, "expert_count", "num_experts") != 0)
    {
        return -1;
    }

    if (set_expert_width(c, "moe_intermediate_size") != 0) {
        return -1;
    }

    return set_norm(c, 1);
}


static int
convert_qwen2moe(convert_t *c)
{
    int  rc;

    set_names(c, "Qwen2MoeForCausalLM");
    set_dense_layers(c);

    rc = copy_int(c, "expert_shared_feed_forward_length",
                  "shared_expert_intermediate_size");

    if (rc == 1) {
        rc = need_int(c, "feed_forward_length",
                      "shared_expert_intermediate_size");
    }

    if (rc != 0 || convert_gqa(c) != 0
        || need_int(c, "expert_count", "num_experts") != 0
        || set_expert_width(c, "moe_intermediate_size") != 0)
    {
        return -1;
    }

    return set_norm(c, 0);
}


static int
convert_olmoe(convert_t *c)
{
    set_names(c, "OlmoeForCausalLM");

    if (convert_gqa(c) != 0
        || need_int(c, "expert_count", "num_experts") != 0
        || set_expert_width(c, "intermediate_size") != 0
        || copy_double(c, "attention.clamp_kqv", c->out, "clip_qkv") < 0)
    {
        return -1;
    }

    return set_norm(c, 0);
}


static int
convert_llama(convert_t *c)
{
    uint32_t  n;

    set_names(c, "MixtralForCausalLM");

    n = 0;

    if (get_u32(c, "expert_count", &n) < 0) {
        return -1;
    }

    if (n == 0) {
        return moe_err(c->err, "%s: a llama without experts is not supported",
                       moe_gguf_path(c->g));
    }

    if (moe_gguf_tensor(c->g, "rope_freqs.weight") != NULL) {
        return moe_err(c->err, "%s: tensor rope_freqs.weight (rope type "
                       "llama3) is not supported", moe_gguf_path(c->g));
    }

    set_int(c, "num_local_experts", n);

    return convert_gqa(c) != 0 ? -1
                               : set_expert_width(c, "intermediate_size");
}


/* the correction range of its YaRN is not rounded, which no key says */
static int
convert_gpt_oss(convert_t *c)
{
    json_t  *scaling;

    set_names(c, "GptOssForCausalLM");

    scaling = json_object_get(c->out, "rope_scaling");

    if (scaling != NULL) {
        json_object_set_new(scaling, "truncate", json_false());
    }

    if (convert_gqa(c) != 0
        || need_int(c, "expert_count", "num_local_experts") != 0)
    {
        return -1;
    }

    return set_expert_width(c, "intermediate_size");
}


/*
 * Widths of MLA heads: written under _mla since llama.cpp keeps the two halves
 * of kv_b apart, before that plainly.
 */
static int
convert_mla(convert_t *c)
{
    int       rk, rv;
    uint32_t  k, v, rot;

    rk = get_u32(c, "attention.key_length_mla", &k);
    rv = get_u32(c, "attention.value_length_mla", &v);

    if (rk == 1 && rv == 1) {
        rk = need_u32(c, "attention.key_length", &k);
        rv = rk == 0 ? need_u32(c, "attention.value_length", &v) : -1;
    }

    if (rk != 0 || rv != 0) {
        return rk < 0 || rv < 0 ? -1 : missing(c, rk ? "attention."
                                               "key_length_mla" : "attention."
                                               "value_length_mla");
    }

    if (need_u32(c, "rope.dimension_count", &rot) != 0) {
        return -1;
    }

    if (rot >= k) {
        return moe_err(c->err, "%s: %s.rope.dimension_count %u of %u",
                       moe_gguf_path(c->g), c->arch, rot, k);
    }

    set_int(c, "qk_rope_head_dim", rot);
    set_int(c, "qk_nope_head_dim", k - rot);
    set_int(c, "v_head_dim", v);

    /* zero is what some write for no low rank */
    if (get_u32(c, "attention.q_lora_rank", &v) == 0 && v != 0) {
        set_int(c, "q_lora_rank", v);
    }

    return need_int(c, "attention.kv_lora_rank", "kv_lora_rank");
}


/* expert_gating_func: 1 softmax, 2 sigmoid, absent in the first files */
static int
convert_deepseek_router(convert_t *c)
{
    double    scale;
    uint32_t  gating, groups, used, experts;

    gating = 1;
    groups = 0;
    used = 0;

    if (need_u32(c, "expert_count", &experts) != 0
        || get_u32(c, "expert_gating_func", &gating) < 0
        || get_u32(c, "expert_group_count", &groups) < 0
        || get_u32(c, "expert_group_used_count", &used) < 0)
    {
        return -1;
    }

    if (gating > 2) {
        return moe_err(c->err, "%s: %s.expert_gating_func %u is not "
                       "supported", moe_gguf_path(c->g), c->arch, gating);
    }

    /* files of DeepSeek-V3 from before the keys existed */
    if (gating == 2 && groups == 0 && experts == 256) {
        groups = 8;
        used = 4;
    }

    set_names(c, gating == 2 ? "DeepseekV3ForCausalLM"
                             : "DeepseekV2ForCausalLM");
    set_int(c, "n_routed_experts", experts);
    set_int(c, "n_group", groups ? groups : 1);
    set_int(c, "topk_group", used ? used : groups ? groups : 1);

    if (gating != 2) {
        json_object_set_new(c->out, "topk_method",
            json_string(groups > 1 ? "group_limited_greedy" : "greedy"));
    }

    scale = 1;

    if (get_double(c, "expert_weights_scale", &scale) < 0) {
        return -1;
    }

    json_object_set_new(c->out, "routed_scaling_factor",
                        json_real(scale != 0 ? scale : 1));

    return set_norm(c, 0);
}


static int
convert_deepseek2(convert_t *c)
{
    if (convert_mla(c) != 0
        || convert_deepseek_router(c) != 0
        || set_expert_width(c, "moe_intermediate_size") != 0
        || copy_int(c, "expert_shared_count", "n_shared_experts") < 0)
    {
        return -1;
    }

    set_int(c, "first_k_dense_replace", 0);

    return copy_int(c, "leading_dense_block_count", "first_k_dense_replace")
           < 0 ? -1 : 0;
}


static void
add_end(json_t *ends, json_int_t id)
{
    size_t  i;

    for (i = 0; i < json_array_size(ends); i++) {
        if (json_integer_value(json_array_get(ends, i)) == id) {
            return;
        }
    }

    if (i < MOE_MAX_EOS) {
        json_array_append_new(ends, json_integer(id));
    }
}


/* control tokens that end a turn, whatever the metadata's one eos is */
static void
add_known_ends(convert_t *c, json_t *ends)
{
    size_t                 i, len;
    int64_t                kind;
    uint64_t               at, id;
    const char            *s;
    const moe_gguf_kv_t   *tokens, *kinds;

    static const char *const  known[] = {
        "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>",
        "<|end_of_text|>", "<|return|>", "<|call|>"
    };

    tokens = moe_gguf_find(c->g, "tokenizer.ggml.tokens");
    kinds = moe_gguf_find(c->g, "tokenizer.ggml.token_type");

    if (tokens == NULL || tokens->elem != MOE_GGUF_STRING || kinds == NULL
        || kinds->type != MOE_GGUF_ARRAY || kinds->count < tokens->count)
    {
        return;
    }

    at = 0;

    for (id = 0; id < tokens->count; id++) {
        s = moe_gguf_next(tokens, &at, &len);

        for (i = 0; i < sizeof(known) / sizeof(known[0]); i++) {
            if (len == strlen(known[i]) && memcmp(s, known[i], len) == 0
                && moe_gguf_int_at(kinds, id, &kind) == 0 && kind == 3)
            {
                add_end(ends, (json_int_t) id);
            }
        }
    }
}


static int
convert_tokens(convert_t *c)
{
    int       rc;
    size_t    i;
    json_t   *ends;
    uint32_t  id;

    static const char *const  keys[] = {
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.eot_token_id",
        "tokenizer.ggml.eom_token_id"
    };

    rc = moe_gguf_u32(c->g, "tokenizer.ggml.bos_token_id", &id, c->err);

    if (rc == 0) {
        set_int(c, "bos_token_id", id);
    }

    if (rc < 0) {
        return -1;
    }

    ends = json_array();
    json_object_set_new(c->out, "eos_token_id", ends);

    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        rc = moe_gguf_u32(c->g, keys[i], &id, c->err);

        if (rc < 0) {
            return -1;
        }

        if (rc == 0) {
            add_end(ends, id);
        }
    }

    add_known_ends(c, ends);

    return 0;
}
