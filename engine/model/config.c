#include <jansson.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/config_parts.h"
#include "model/family.h"


#define CONFIG_NAME        "config.json"
#define GENERATION_NAME    "generation_config.json"

#define LORA_RMS_EPS       1e-6


static json_t *config_json(const char *file, const char *text, size_t len,
    moe_err_t *err);
static int config_root(moe_reader_t *r);
static int config_family(moe_reader_t *r);
static int config_sizes(moe_reader_t *r);
static int config_quant(moe_reader_t *r);
static int config_fixed(moe_reader_t *r);
static int config_misc(moe_reader_t *r);
static int config_tokens(moe_reader_t *r, json_t *root, int first);
static int config_generation(moe_reader_t *r);


static const moe_int_key_t  size_keys[] = {
    { "num_hidden_layers", offsetof(moe_config_t, n_layers), 1,
      MOE_MAX_LAYERS },
    { "hidden_size", offsetof(moe_config_t, hidden), 1, MOE_MAX_HIDDEN },
    { "vocab_size", offsetof(moe_config_t, vocab), 1, MOE_MAX_VOCAB },
    { "num_attention_heads", offsetof(moe_config_t, n_heads), 1,
      MOE_MAX_HEADS },
    { "max_position_embeddings", offsetof(moe_config_t, max_positions), 1,
      MOE_MAX_POSITIONS },
    { "num_experts_per_tok", offsetof(moe_config_t, top_k), 1,
      MOE_MAX_TOP_K },
    { NULL, 0, 0, 0 }
};


int
moe_config_parse(const char *json, size_t len, const char *gen,
    size_t gen_len, moe_config_t *cfg, moe_err_t *err)
{
    int       rc;
    moe_reader_t  r;

    memset(cfg, 0, sizeof(moe_config_t));
    memset(&r, 0, sizeof(moe_reader_t));

    r.file = CONFIG_NAME;
    r.cfg = cfg;
    r.err = err;
    r.root = config_json(r.file, json, len, err);

    if (r.root == NULL) {
        return -1;
    }

    rc = config_root(&r);
    json_decref(r.root);

    if (rc != 0 || gen == NULL) {
        return rc;
    }

    r.file = GENERATION_NAME;
    r.root = config_json(r.file, gen, gen_len, err);

    if (r.root == NULL) {
        return -1;
    }

    rc = config_generation(&r);
    json_decref(r.root);

    return rc;
}


int
moe_config_check(const moe_config_t *cfg, moe_err_t *err)
{
    int     i;
    char    line[sizeof(err->text)];
    size_t  n;

    if (cfg->n_unsupported == 0) {
        return 0;
    }

    n = 0;

    for (i = 0; i < cfg->n_unsupported && n < sizeof(line); i++) {
        n += (size_t) snprintf(line + n, sizeof(line) - n, "%s%s",
                               i == 0 ? "" : "; ", cfg->unsupported[i]);
    }

    return moe_err(err, "%s: not supported: %s", CONFIG_NAME, line);
}


size_t
moe_config_kv_width(const moe_config_t *cfg)
{
    if (cfg->attn == MOE_ATTN_MLA) {
        return (size_t) cfg->kv_lora_rank + (size_t) cfg->qk_rope_head_dim;
    }

    return 2 * (size_t) cfg->n_kv_heads * (size_t) cfg->head_dim;
}


static json_t *
config_json(const char *file, const char *text, size_t len, moe_err_t *err)
{
    json_t        *root;
    json_error_t   je;

    root = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);

    if (root == NULL) {
        moe_err(err, "%s: line %d: %s", file, je.line, je.text);
        return NULL;
    }

    if (!json_is_object(root)) {
        moe_err(err, "%s: not an object", file);
        json_decref(root);
        return NULL;
    }

    return root;
}


static int
config_root(moe_reader_t *r)
{
    static int (*const  parts[])(moe_reader_t *) = {
        config_family,
        config_sizes,
        moe_config_attention,
        moe_config_rope,
        moe_config_experts,
        moe_config_shared,
        moe_config_router,
        moe_config_layers,
        config_quant,
        moe_config_window,
        config_fixed,
        config_misc
    };

    size_t  i;

    for (i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i](r) != 0) {
            return -1;
        }
    }

    return config_tokens(r, r->root, 1);
}


static int
config_family(moe_reader_t *r)
{
    json_t      *list;
    const char  *arch, *type;

    list = json_object_get(r->root, "architectures");

    if (list != NULL && !json_is_null(list)
        && (!json_is_array(list)
            || !json_is_string(json_array_get(list, 0))))
    {
        return moe_err(r->err, "%s: architectures is not a list of names",
                       r->file);
    }

    arch = json_string_value(json_array_get(list, 0));
    type = NULL;

    if (moe_key_string(r, r->root, "model_type", &type) < 0) {
        return -1;
    }

    r->fam = moe_family_find(arch, type);

    if (r->fam == NULL) {
        if (arch == NULL && type == NULL) {
            return moe_err(r->err, "%s: neither architectures nor model_type "
                           "says what model this is", r->file);
        }

        return moe_err(r->err, "%s: architecture \"%.80s\" is not supported",
                       r->file, arch ? arch : type);
    }

    r->cfg->family = r->fam->id;
    r->cfg->attn = r->fam->attn;

    return 0;
}


static int
config_sizes(moe_reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (moe_config_keys(r, size_keys) != 0) {
        return -1;
    }

    cfg->rms_eps = r->fam->rms_eps;
    cfg->lora_rms_eps = LORA_RMS_EPS;

    return moe_key_double(r, r->root, "rms_norm_eps", 0, 1, &cfg->rms_eps) < 0
           ? -1 : 0;
}


static int
config_quant(moe_reader_t *r)
{
    json_t      *q, *block;
    const char  *method;

    q = json_object_get(r->root, "quantization_config");

    if (q == NULL || json_is_null(q)) {
        return 0;
    }

    if (!json_is_object(q)) {
        return moe_err(r->err, "%s: quantization_config is not an object",
                       r->file);
    }

    method = "";

    if (moe_key_string(r, q, "quant_method", &method) < 0) {
        return -1;
    }

    block = json_object_get(q, "weight_block_size");

    if (strcmp(method, "fp8") == 0 && json_array_size(block) == 2
        && json_integer_value(json_array_get(block, 0)) == 128
        && json_integer_value(json_array_get(block, 1)) == 128)
    {
        r->cfg->quant = MOE_QUANT_FP8_BLOCK;
        return 0;
    }

    if (strcmp(method, "mxfp4") == 0 && r->fam->fused) {
        r->cfg->quant = MOE_QUANT_MXFP4;
        return 0;
    }

    moe_unsupported(r->cfg, "quant_method \"%.40s\"%s", method,
                    strcmp(method, "fp8") == 0 ? " without blocks of 128 x 128"
                                           : "");

    return 0;
}


static int
config_fixed(moe_reader_t *r)
{
    char        *text;
    size_t       i;
    json_t      *val;
    const char  *key;

    for (i = 0; i < sizeof(r->fam->fixed) / sizeof(r->fam->fixed[0]); i++) {

        key = r->fam->fixed[i][0];
        val = key ? json_object_get(r->root, key) : NULL;

        if (val == NULL || json_is_null(val)) {
            continue;
        }

        text = json_dumps(val, JSON_ENCODE_ANY | JSON_ENSURE_ASCII);
        if (text == NULL) {
            return moe_err(r->err, "%s: out of memory", r->file);
        }

        if (strcmp(text, r->fam->fixed[i][1]) != 0) {
            moe_unsupported(r->cfg, "%s %.60s with %s", key, text,
                            r->fam->name);
        }

        free(text);
    }

    return 0;
}


static int
config_misc(moe_reader_t *r)
{
    int            bias;
    const char    *act, *dtype;
    moe_config_t  *cfg;

    cfg = r->cfg;
    bias = 0;
    act = "silu";
    dtype = "";

    if (moe_key_bool(r, "tie_word_embeddings", &cfg->tie_embeddings) < 0
        || moe_key_bool(r, "mlp_bias", &bias) < 0
        || moe_key_string(r, r->root, "hidden_act", &act) < 0
        || moe_key_string(r, r->root, "torch_dtype", &dtype) < 0
        || moe_key_string(r, r->root, "dtype", &dtype) < 0
        || moe_key_int(r, r->root, "num_mtp_layers", 0, 16, &cfg->n_mtp) < 0
        || moe_key_int(r, r->root, "num_nextn_predict_layers", 0, 16,
                       &cfg->n_mtp) < 0)
    {
        return -1;
    }

    if (bias) {
        moe_unsupported(cfg, "mlp_bias true");
    }

    if (strcmp(act, "silu") != 0) {
        moe_unsupported(cfg, "hidden_act \"%.40s\"", act);
    }

    /* only for people; what is not a word is not shown to them */
    if (strspn(dtype, "abcdefghijklmnopqrstuvwxyz0123456789_")
        == strlen(dtype))
    {
        snprintf(cfg->dtype, sizeof(cfg->dtype), "%s", dtype);
    }

    return 0;
}


/*
 * bos_token_id and eos_token_id of either file.  An eos outside the
 * vocabulary can never be drawn; configurations of cut-down models have them.
 */
static int
config_tokens(moe_reader_t *r, json_t *root, int first)
{
    size_t         i, n;
    json_t        *eos, *val;
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (first) {
        cfg->bos = -1;
    }

    if (moe_key_int(r, root, "bos_token_id", 0, INT32_MAX, &cfg->bos) < 0) {
        return -1;
    }

    eos = json_object_get(root, "eos_token_id");

    if (eos == NULL || json_is_null(eos)) {
        return 0;
    }

    n = json_is_array(eos) ? json_array_size(eos) : 1;

    if (n > MOE_MAX_EOS) {
        return moe_err(r->err, "%s: eos_token_id lists %zu ids, more than %d",
                       r->file, n, MOE_MAX_EOS);
    }

    cfg->n_eos = 0;

    for (i = 0; i < n; i++) {
        val = json_is_array(eos) ? json_array_get(eos, i) : eos;

        if (!json_is_integer(val) || json_integer_value(val) < 0) {
            return moe_err(r->err, "%s: eos_token_id is not an id or a list "
                           "of ids", r->file);
        }

        if (json_integer_value(val) < cfg->vocab) {
            cfg->eos[cfg->n_eos++] = (int) json_integer_value(val);
        }
    }

    return 0;
}


static int
config_generation(moe_reader_t *r)
{
    int                rc, flag;
    moe_generation_t  *gen;

    gen = &r->cfg->gen;

    if (config_tokens(r, r->root, 0) != 0) {
        return -1;
    }

    flag = 0;

    if ((rc = moe_key_bool(r, "do_sample", &flag)) < 0) {
        return -1;
    }

    gen->has_do_sample = rc == MOE_KEY_OK;
    gen->do_sample = flag != 0;

    if ((rc = moe_key_double(r, r->root, "temperature", 0, 100,
                             &gen->temperature)) < 0)
    {
        return -1;
    }

    gen->has_temperature = rc == MOE_KEY_OK;

    if ((rc = moe_key_double(r, r->root, "top_p", 0, 1, &gen->top_p)) < 0) {
        return -1;
    }

    gen->has_top_p = rc == MOE_KEY_OK;

    if ((rc = moe_key_double(r, r->root, "min_p", 0, 1, &gen->min_p)) < 0) {
        return -1;
    }

    gen->has_min_p = rc == MOE_KEY_OK;

    if ((rc = moe_key_double(r, r->root, "repetition_penalty", 1e-3, 1e3,
                             &gen->repetition_penalty)) < 0)
    {
        return -1;
    }

    gen->has_repetition_penalty = rc == MOE_KEY_OK;

    if ((rc = moe_key_int(r, r->root, "top_k", -1, INT32_MAX,
                          &gen->top_k)) < 0)
    {
        return -1;
    }

    gen->has_top_k = rc == MOE_KEY_OK;

    if ((rc = moe_key_int(r, r->root, "max_new_tokens", 1, INT32_MAX,
                          &gen->max_new_tokens)) < 0)
    {
        return -1;
    }

    gen->has_max_new_tokens = rc == MOE_KEY_OK;

    return 0;
}
