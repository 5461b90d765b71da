#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <stdarg.h>
#include <string.h>

#include "base/dmath.h"
#include "base/file.h"
#include "model/config.h"
#include "model/family.h"
#include "model/gguf_model.h"


#define CONFIG_NAME        "config.json"
#define GENERATION_NAME    "generation_config.json"
#define CONFIG_MAX_SIZE    (16 << 20)

#define LORA_RMS_EPS       1e-6


/* one JSON file that is being read */
typedef struct {
    const char          *file;
    json_t              *root;
    moe_config_t        *cfg;
    const moe_family_t  *fam;
    moe_err_t           *err;
} reader_t;

/* what a key_*() function found; an error is -1 */
enum {
    KEY_OK,
    KEY_ABSENT
};

typedef struct {
    const char  *key;
    size_t       offset;        /* of an int in moe_config_t */
    int          min;
    int          max;
} int_key_t;


static int config_read(const char *dir, const char *name, char **text,
    size_t *len, moe_err_t *err);
static json_t *config_json(const char *file, const char *text, size_t len,
    moe_err_t *err);
static int config_root(reader_t *r);
static int config_family(reader_t *r);
static int config_keys(reader_t *r, const int_key_t *k);
static int config_sizes(reader_t *r);
static int config_gqa(reader_t *r);
static int config_mla(reader_t *r);
static int config_attention(reader_t *r);
static int config_rope(reader_t *r);
static int config_rope_type(reader_t *r, json_t *obj);
static int config_yarn(reader_t *r, json_t *obj);
static double config_mscale(double factor, double mscale);
static int config_experts(reader_t *r);
static int config_shared(reader_t *r);
static int config_router(reader_t *r);
static int config_groups(reader_t *r);
static int config_layers(reader_t *r);
static int config_dense_first(reader_t *r);
static int config_dense_step(reader_t *r);
static int config_quant(reader_t *r);
static int config_window(reader_t *r);
static int config_misc(reader_t *r);
static int config_tokens(reader_t *r, json_t *root, int first);
static int config_generation(reader_t *r);

static int key_int(reader_t *r, json_t *obj, const char *key, int min,
    int max, int *out);
static int key_need(reader_t *r, const char *key, int min, int max, int *out);
static int key_double(reader_t *r, json_t *obj, const char *key, double min,
    double max, double *out);
static int key_bool(reader_t *r, const char *key, int *out);
static int key_string(reader_t *r, json_t *obj, const char *key,
    const char **out);
static void unsupported(moe_config_t *cfg, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));


static const int_key_t  size_keys[] = {
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

static const int_key_t  mla_keys[] = {
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
moe_config_load(const char *dir, moe_config_t *cfg, moe_err_t *err)
{
    int      rc;
    char    *text, *gen;
    size_t   len, gen_len;

    if (moe_gguf_is(dir)) {
        return moe_gguf_config_load(dir, cfg, err);
    }

    gen = NULL;
    gen_len = 0;

    rc = config_read(dir, CONFIG_NAME, &text, &len, err);
    if (rc != 0) {
        return -1;
    }

    if (text == NULL) {
        return moe_err(err, "%s/%s: no such file", dir, CONFIG_NAME);
    }

    rc = config_read(dir, GENERATION_NAME, &gen, &gen_len, err);

    if (rc == 0) {
        rc = moe_config_parse(text, len, gen, gen_len, cfg, err);

        if (rc != 0) {
            moe_err_prefix(err, "%s", dir);
        }
    }

    free(text);
    free(gen);

    return rc;
}


int
moe_config_parse(const char *json, size_t len, const char *gen,
    size_t gen_len, moe_config_t *cfg, moe_err_t *err)
{
    int       rc;
    reader_t  r;

    memset(cfg, 0, sizeof(moe_config_t));
    memset(&r, 0, sizeof(reader_t));

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


/* an absent file is no error: *text is NULL */
static int
config_read(const char *dir, const char *name, char **text, size_t *len,
    moe_err_t *err)
{
    int   n, absent;
    char  path[4096];

    n = snprintf(path, sizeof(path), "%s/%s", dir, name);

    if (n < 0 || (size_t) n >= sizeof(path)) {
        return moe_err(err, "%.200s...: path too long", dir);
    }

    *text = moe_file_read(path, CONFIG_MAX_SIZE, len, &absent, err);

    return *text != NULL || absent ? 0 : -1;
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
config_root(reader_t *r)
{
    static int (*const  parts[])(reader_t *) = {
        config_family,
        config_sizes,
        config_attention,
        config_rope,
        config_experts,
        config_shared,
        config_router,
        config_layers,
        config_quant,
        config_window,
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
config_family(reader_t *r)
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

    if (key_string(r, r->root, "model_type", &type) < 0) {
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
config_keys(reader_t *r, const int_key_t *k)
{
    int  *out;

    for ( /* void */ ; k->key != NULL; k++) {
        out = (int *) ((char *) r->cfg + k->offset);

        if (key_need(r, k->key, k->min, k->max, out) != 0) {
            return -1;
        }
    }

    return 0;
}


static int
config_sizes(reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (config_keys(r, size_keys) != 0) {
        return -1;
    }

    cfg->rms_eps = r->fam->rms_eps;
    cfg->lora_rms_eps = LORA_RMS_EPS;

    return key_double(r, r->root, "rms_norm_eps", 0, 1, &cfg->rms_eps) < 0
           ? -1 : 0;
}


static int
config_attention(reader_t *r)
{
    int  bias;

    bias = 0;

    if (key_bool(r, "attention_bias", &bias) < 0) {
        return -1;
    }

    if (bias) {
        unsupported(r->cfg, "attention_bias true");
    }

    return r->cfg->attn == MOE_ATTN_MLA ? config_mla(r) : config_gqa(r);
}


static int
config_gqa(reader_t *r)
{
    int            rc;
    moe_config_t  *cfg;

    cfg = r->cfg;

    cfg->n_kv_heads = cfg->n_heads;
    cfg->qk_norm = r->fam->qk_norm;
    cfg->qkv_bias = r->fam->qkv_bias;

    if (key_int(r, r->root, "num_key_value_heads", 1, MOE_MAX_HEADS,
                &cfg->n_kv_heads) < 0)
    {
        return -1;
    }

    if (cfg->n_heads % cfg->n_kv_heads != 0) {
        return moe_err(r->err, "%s: num_key_value_heads %d does not divide "
                       "num_attention_heads %d", r->file, cfg->n_kv_heads,
                       cfg->n_heads);
    }

    rc = key_int(r, r->root, "head_dim", 2, MOE_MAX_HEAD_DIM,
                 &cfg->head_dim);
    if (rc < 0) {
        return -1;
    }

    if (rc == KEY_ABSENT) {
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

    if (r->fam->qkv_bias && key_bool(r, "qkv_bias", &cfg->qkv_bias) < 0) {
        return -1;
    }

    if (cfg->family == MOE_FAMILY_OLMOE
        && key_double(r, r->root, "clip_qkv", 1e-6, 1e9, &cfg->clip_qkv) < 0)
    {
        return -1;
    }

    return 0;
}


static int
config_mla(reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    /* null: q has no low rank, as in V2-Lite */
    if (config_keys(r, mla_keys) != 0
        || key_int(r, r->root, "q_lora_rank", 1, MOE_MAX_LORA_RANK,
                   &cfg->q_lora_rank) < 0)
    {
        return -1;
    }

    cfg->n_kv_heads = cfg->n_heads;
    cfg->head_dim = cfg->qk_nope_head_dim + cfg->qk_rope_head_dim;
    cfg->rope.dim = cfg->qk_rope_head_dim;

    return 0;
}


static int
config_rope(reader_t *r)
{
    double         m;
    json_t        *obj, *scaling;
    moe_rope_t    *rope;
    moe_config_t  *cfg;

    cfg = r->cfg;
    rope = &cfg->rope;

    if (rope->dim % 2 != 0) {
        return moe_err(r->err, "%s: %s %d is odd", r->file,
                       cfg->attn == MOE_ATTN_MLA ? "qk_rope_head_dim"
                                                 : "head_dim", rope->dim);
    }

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

    if (key_double(r, r->root, "rope_theta", 1.001, 1e15, &rope->theta) < 0
        || key_double(r, obj, "rope_theta", 1.001, 1e15, &rope->theta) < 0
        || (rope->interleave
            && key_bool(r, "rope_interleave", &rope->interleave) < 0)
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


static int
config_rope_type(reader_t *r, json_t *obj)
{
    double       partial;
    const char  *type;

    type = "default";
    partial = 1;

    if (key_string(r, obj, "type", &type) < 0
        || key_string(r, obj, "rope_type", &type) < 0
        || key_double(r, obj, "partial_rotary_factor", 0, 1, &partial) < 0
        || key_double(r, r->root, "partial_rotary_factor", 0, 1, &partial) < 0)
    {
        return -1;
    }

    if (partial != 1) {
        unsupported(r->cfg, "partial_rotary_factor %g", partial);
    }

    if (strcmp(type, "default") == 0) {
        return 0;
    }

    if (strcmp(type, "yarn") == 0) {
        return config_yarn(r, obj);
    }

    unsupported(r->cfg, "rope type \"%.40s\"", type);

    return 0;
}


static int
config_yarn(reader_t *r, json_t *obj)
{
    int          rc, trunc;
    json_t      *val;
    moe_rope_t  *rope;

    rope = &r->cfg->rope;

    rope->type = MOE_ROPE_YARN;
    rope->original_max_positions = r->cfg->max_positions;

    if (key_int(r, obj, "original_max_position_embeddings", 1,
                MOE_MAX_POSITIONS, &rope->original_max_positions) < 0
        || key_int(r, r->root, "original_max_position_embeddings", 1,
                   MOE_MAX_POSITIONS, &rope->original_max_positions) < 0
        || key_double(r, obj, "beta_fast", 0, 1e6, &rope->beta_fast) < 0
        || key_double(r, obj, "beta_slow", 0, 1e6, &rope->beta_slow) < 0
        || key_double(r, obj, "mscale", 0, 1e3, &rope->mscale) < 0
        || key_double(r, obj, "mscale_all_dim", 0, 1e3,
                      &rope->mscale_all_dim) < 0)
    {
        return -1;
    }

    rope->factor = (double) r->cfg->max_positions
                   / rope->original_max_positions;

    if (key_double(r, obj, "factor", 1, 1e6, &rope->factor) < 0) {
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

    rc = key_double(r, obj, "attention_factor", 0, 1e3, &rope->attn_factor);

    if (rc == KEY_ABSENT) {
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


static int
config_experts(reader_t *r)
{
    int            rc;
    const char    *key;
    moe_config_t  *cfg;

    cfg = r->cfg;
    key = r->fam->key_experts[0];

    rc = key_int(r, r->root, key, 1, MOE_MAX_EXPERTS, &cfg->n_experts);

    if (rc == KEY_ABSENT) {
        rc = key_int(r, r->root, r->fam->key_experts[1], 1, MOE_MAX_EXPERTS,
                     &cfg->n_experts);
    }

    if (rc != KEY_OK) {
        return rc < 0 ? -1 : moe_err(r->err, "%s: %s is missing", r->file,
                                     key);
    }

    if (cfg->top_k > cfg->n_experts) {
        return moe_err(r->err, "%s: num_experts_per_tok %d of only %d experts",
                       r->file, cfg->top_k, cfg->n_experts);
    }

    return key_need(r, r->fam->key_moe_ffn, 1, MOE_MAX_FFN, &cfg->moe_ffn);
}


static int
config_shared(reader_t *r)
{
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (r->fam->key_n_shared != NULL) {

        if (key_int(r, r->root, r->fam->key_n_shared, 0, MOE_MAX_EXPERTS,
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

        if (key_need(r, r->fam->key_shared_ffn, 0, MOE_MAX_FFN,
                     &cfg->shared_ffn) != 0)
        {
            return -1;
        }

        cfg->n_shared = cfg->shared_ffn > 0;
    }

    cfg->shared_gate = r->fam->shared_gate && cfg->shared_ffn > 0;

    return 0;
}


static int
config_router(reader_t *r)
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
    if (key_bool(r, "norm_topk_prob", &cfg->norm_topk) < 0) {
        return -1;
    }

    if (!r->fam->norm_topk_key) {

        if (cfg->norm_topk && !r->fam->norm_topk) {
            unsupported(cfg, "norm_topk_prob true with %s", r->fam->name);
        }

        cfg->norm_topk = r->fam->norm_topk;
    }

    cfg->topk_eps = r->fam->topk_eps;

    if (!r->fam->groups) {
        return 0;
    }

    cfg->routed_scale = r->fam->routed_scale;

    if (key_double(r, r->root, "routed_scaling_factor", 1e-6, 1e6,
                   &cfg->routed_scale) < 0)
    {
        return -1;
    }

    want = cfg->score == MOE_SCORE_SIGMOID ? "sigmoid" : "softmax";
    s = want;

    if (key_string(r, r->root, "scoring_func", &s) < 0) {
        return -1;
    }

    if (strcmp(s, want) != 0) {
        unsupported(cfg, "scoring_func \"%.40s\" with %s", s, r->fam->name);
    }

    return config_groups(r);
}


static int
config_groups(reader_t *r)
{
    int            size;
    const char    *s;
    moe_config_t  *cfg;

    cfg = r->cfg;
    s = NULL;

    if (key_string(r, r->root, "topk_method", &s) < 0) {
        return -1;
    }

    if (cfg->topk == MOE_TOPK_NOAUX_TC) {
        cfg->router_bias = 1;

        if (s != NULL && strcmp(s, "noaux_tc") != 0) {
            unsupported(cfg, "topk_method \"%.40s\" with %s", s,
                        r->fam->name);
        }

    } else if (s != NULL && strcmp(s, "group_limited_greedy") == 0) {
        cfg->topk = MOE_TOPK_GROUP_LIMITED;

    } else {

        if (s != NULL && strcmp(s, "greedy") != 0) {
            unsupported(cfg, "topk_method \"%.40s\" with %s", s,
                        r->fam->name);
        }

        /* groups may be written, but plain greedy does not look at them */
        return 0;
    }

    if (key_int(r, r->root, "n_group", 1, MOE_MAX_EXPERTS,
                &cfg->n_group) < 0)
    {
        return -1;
    }

    cfg->topk_group = cfg->n_group;

    if (key_int(r, r->root, "topk_group", 1, cfg->n_group,
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


static int
config_layers(reader_t *r)
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

    return key_need(r, r->fam->key_dense_ffn, 1, MOE_MAX_FFN,
                    &cfg->dense_ffn);
}


static int
config_dense_first(reader_t *r)
{
    int            i, first, freq;
    moe_config_t  *cfg;

    cfg = r->cfg;
    first = r->fam->first_dense;
    freq = 1;

    if (key_int(r, r->root, "first_k_dense_replace", 0, MOE_MAX_LAYERS,
                &first) < 0
        || key_int(r, r->root, "moe_layer_freq", 1, MOE_MAX_LAYERS,
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
config_dense_step(reader_t *r)
{
    int            i, step;
    size_t         j;
    json_t        *list, *val;
    json_int_t     n;
    moe_config_t  *cfg;

    cfg = r->cfg;
    step = 1;

    if (key_int(r, r->root, "decoder_sparse_step", 1, MOE_MAX_LAYERS,
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


static int
config_quant(reader_t *r)
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

    if (key_string(r, q, "quant_method", &method) < 0) {
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

    unsupported(r->cfg, "quant_method \"%.40s\"%s", method,
                strcmp(method, "fp8") == 0 ? " without blocks of 128 x 128"
                                           : "");

    return 0;
}


static int
config_window(reader_t *r)
{
    int         use, window;
    size_t      i;
    json_t     *list, *val;

    use = 1;
    window = 0;

    if (key_bool(r, "use_sliding_window", &use) < 0
        || key_int(r, r->root, "sliding_window", 0, 1 << 30, &window) < 0)
    {
        return -1;
    }

    /* a window that reaches over all positions hides nothing */
    if (use && window > 0 && window < r->cfg->max_positions) {
        unsupported(r->cfg, "sliding_window %d", window);
        return 0;
    }

    list = json_object_get(r->root, "layer_types");

    json_array_foreach(list, i, val) {
        if (json_is_string(val)
            && strcmp(json_string_value(val), "full_attention") != 0)
        {
            unsupported(r->cfg, "layer_types \"%.40s\"",
                        json_string_value(val));
            break;
        }
    }

    return 0;
}


static int
config_misc(reader_t *r)
{
    int            bias;
    const char    *act, *dtype;
    moe_config_t  *cfg;

    cfg = r->cfg;
    bias = 0;
    act = "silu";
    dtype = "";

    if (key_bool(r, "tie_word_embeddings", &cfg->tie_embeddings) < 0
        || key_bool(r, "mlp_bias", &bias) < 0
        || key_string(r, r->root, "hidden_act", &act) < 0
        || key_string(r, r->root, "torch_dtype", &dtype) < 0
        || key_string(r, r->root, "dtype", &dtype) < 0
        || key_int(r, r->root, "num_mtp_layers", 0, 16, &cfg->n_mtp) < 0
        || key_int(r, r->root, "num_nextn_predict_layers", 0, 16,
                   &cfg->n_mtp) < 0)
    {
        return -1;
    }

    if (bias) {
        unsupported(cfg, "mlp_bias true");
    }

    if (strcmp(act, "silu") != 0) {
        unsupported(cfg, "hidden_act \"%.40s\"", act);
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
config_tokens(reader_t *r, json_t *root, int first)
{
    size_t         i, n;
    json_t        *eos, *val;
    moe_config_t  *cfg;

    cfg = r->cfg;

    if (first) {
        cfg->bos = -1;
    }

    if (key_int(r, root, "bos_token_id", 0, INT32_MAX, &cfg->bos) < 0) {
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
config_generation(reader_t *r)
{
    int                rc, flag;
    moe_generation_t  *gen;

    gen = &r->cfg->gen;

    if (config_tokens(r, r->root, 0) != 0) {
        return -1;
    }

    flag = 0;

    if ((rc = key_bool(r, "do_sample", &flag)) < 0) {
        return -1;
    }

    gen->has_do_sample = rc == KEY_OK;
    gen->do_sample = flag != 0;

    if ((rc = key_double(r, r->root, "temperature", 0, 100,
                         &gen->temperature)) < 0)
    {
        return -1;
    }

    gen->has_temperature = rc == KEY_OK;

    if ((rc = key_double(r, r->root, "top_p", 0, 1, &gen->top_p)) < 0) {
        return -1;
    }

    gen->has_top_p = rc == KEY_OK;

    if ((rc = key_double(r, r->root, "min_p", 0, 1, &gen->min_p)) < 0) {
        return -1;
    }

    gen->has_min_p = rc == KEY_OK;

    if ((rc = key_double(r, r->root, "repetition_penalty", 1e-3, 1e3,
                         &gen->repetition_penalty)) < 0)
    {
        return -1;
    }

    gen->has_repetition_penalty = rc == KEY_OK;

    if ((rc = key_int(r, r->root, "top_k", -1, INT32_MAX, &gen->top_k)) < 0) {
        return -1;
    }

    gen->has_top_k = rc == KEY_OK;

    if ((rc = key_int(r, r->root, "max_new_tokens", 1, INT32_MAX,
                      &gen->max_new_tokens)) < 0)
    {
        return -1;
    }

    gen->has_max_new_tokens = rc == KEY_OK;

    return 0;
}


/* absent or null: *out stays */
static int
key_int(reader_t *r, json_t *obj, const char *key, int min, int max, int *out)
{
    json_t      *val;
    json_int_t   n;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return KEY_ABSENT;
    }

    if (!json_is_integer(val)) {
        return moe_err(r->err, "%s: %s is not an integer", r->file, key);
    }

    n = json_integer_value(val);

    if (n < min || n > max) {
        return moe_err(r->err, "%s: %s %lld is not in %d..%d", r->file, key,
                       (long long) n, min, max);
    }

    *out = (int) n;

    return KEY_OK;
}


static int
key_need(reader_t *r, const char *key, int min, int max, int *out)
{
    int  rc;

    rc = key_int(r, r->root, key, min, max, out);

    if (rc == KEY_ABSENT) {
        return moe_err(r->err, "%s: %s is missing", r->file, key);
    }

    return rc;
}


static int
key_double(reader_t *r, json_t *obj, const char *key, double min, double max,
    double *out)
{
    double   d;
    json_t  *val;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return KEY_ABSENT;
    }

    if (!json_is_number(val)) {
        return moe_err(r->err, "%s: %s is not a number", r->file, key);
    }

    d = json_number_value(val);

    if (!(d >= min && d <= max)) {
        return moe_err(r->err, "%s: %s %g is not in %g..%g", r->file, key, d,
                       min, max);
    }

    *out = d;

    return KEY_OK;
}


static int
key_bool(reader_t *r, const char *key, int *out)
{
    json_t  *val;

    val = json_object_get(r->root, key);

    if (val == NULL || json_is_null(val)) {
        return KEY_ABSENT;
    }

    if (!json_is_boolean(val)) {
        return moe_err(r->err, "%s: %s is not true or false", r->file, key);
    }

    *out = json_is_true(val);

    return KEY_OK;
}


static int
key_string(reader_t *r, json_t *obj, const char *key, const char **out)
{
    json_t  *val;

    val = json_object_get(obj, key);

    if (val == NULL || json_is_null(val)) {
        return KEY_ABSENT;
    }

    if (!json_is_string(val)) {
        return moe_err(r->err, "%s: %s is not a string", r->file, key);
    }

    *out = json_string_value(val);

    return KEY_OK;
}


/* those that do not fit are as good as said by those that do */
static void
unsupported(moe_config_t *cfg, const char *fmt, ...)
{
    va_list  args;

    if (cfg->n_unsupported == MOE_MAX_UNSUPPORTED) {
        return;
    }

    va_start(args, fmt);
    vsnprintf(cfg->unsupported[cfg->n_unsupported],
              sizeof(cfg->unsupported[0]), fmt, args);
    va_end(args);

    cfg->n_unsupported++;
}
