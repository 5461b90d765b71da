#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/text.h"
#include "inspect.h"
#include "model/family.h"
#include "model/weights.h"


#define MAX_BATCH  (1 << 20)


typedef struct {
    const char  *dir;
    int          ctx;           /* 0: all that the model has */
    int          batch;
} options_t;


static int inspect_options(options_t *o, int argc, char **argv);
static int inspect_number(const char *s, int max, int *out);
static void inspect_usage(FILE *f);
static void print_layers(const moe_config_t *cfg);
static void print_attention(const moe_config_t *cfg);
static void print_rope(const moe_config_t *cfg);
static void print_experts(const moe_config_t *cfg);
static void print_router(const moe_config_t *cfg);
static void print_params(const moe_config_t *cfg);
static void print_weights(const moe_weights_t *w);
static void print_memory(const moe_config_t *cfg, const options_t *o,
    const moe_weights_t *w);
static int print_text(const char *dir, const moe_config_t *cfg);
static void print_bytes(uint64_t n);


int
moe_inspect_main(int argc, char **argv)
{
    int             rc;
    moe_err_t       err;
    options_t       o;
    moe_config_t    cfg;
    moe_weights_t  *w;

    rc = inspect_options(&o, argc, argv);
    if (rc != 0) {
        return rc < 0 ? 2 : 0;
    }

    if (moe_config_load(o.dir, &cfg, &err) != 0) {
        fprintf(stderr, "moe-engine inspect: %s\n", err.text);
        return 1;
    }

    if (o.ctx == 0) {
        o.ctx = cfg.max_positions;
    }

    print_layers(&cfg);
    print_attention(&cfg);
    print_rope(&cfg);
    print_experts(&cfg);
    print_router(&cfg);
    print_params(&cfg);

    rc = moe_config_check(&cfg, &err);

    if (rc != 0) {
        fprintf(stderr, "moe-engine inspect: %s: %s\n", o.dir, err.text);

    } else {
        rc = print_text(o.dir, &cfg);
    }

    w = moe_weights_load(o.dir, &cfg, &err);

    if (w == NULL) {
        fprintf(stderr, "moe-engine inspect: %s\n", err.text);
        rc = -1;

    } else {
        print_weights(w);
    }

    print_memory(&cfg, &o, w);

    printf("%-13s%s\n", "supported", rc == 0 ? "yes" : "no");

    moe_weights_free(w);

    return rc == 0 ? 0 : 1;
}


/* 0: go on, 1: help was printed, -1: an error was */
static int
inspect_options(options_t *o, int argc, char **argv)
{
    int          i, max, *value;
    const char  *arg;

    memset(o, 0, sizeof(options_t));
    o->batch = 1;

    for (i = 1; i < argc; i++) {
        arg = argv[i];

        if (strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0) {
            inspect_usage(stdout);
            return 1;
        }

        if (strcmp(arg, "--ctx") == 0 || strcmp(arg, "--batch") == 0) {
            value = arg[2] == 'c' ? &o->ctx : &o->batch;
            max = arg[2] == 'c' ? MOE_MAX_POSITIONS : MAX_BATCH;
            i++;

            if (i == argc || inspect_number(argv[i], max, value) != 0) {
                fprintf(stderr, "moe-engine inspect: %s takes a number from "
                        "1 to %d\n",
                        arg, max);
                return -1;
            }

            continue;
        }

        if (arg[0] == '-' || o->dir != NULL) {
            fprintf(stderr, "moe-engine inspect: unexpected \"%s\"\n", arg);
            inspect_usage(stderr);
            return -1;
        }

        o->dir = arg;
    }

    if (o->dir == NULL) {
        inspect_usage(stderr);
        return -1;
    }

    return 0;
}


static int
inspect_number(const char *s, int max, int *out)
{
    char  *end;
    long   n;

    errno = 0;
    n = strtol(s, &end, 10);

    if (errno != 0 || end == s || *end != '\0' || n < 1 || n > max) {
        return -1;
    }

    *out = (int) n;

    return 0;
}


static void
inspect_usage(FILE *f)
{
    fputs("usage: moe-engine inspect DIR [--ctx N] [--batch N]\n"
          "\n"
          "Says what model is in DIR (config.json and safetensors, or a GGUF\n"
          "file in its place), checks every tensor, tokenizer and chat\n"
          "template, and counts the memory that BATCH sequences of CTX tokens\n"
          "take (by default one sequence as long as the model allows).\n"
          "Exits with 1 where the engine cannot serve it, 2 for wrong options.\n",
          f);
}


static void
print_layers(const moe_config_t *cfg)
{
    const moe_family_t  *fam;

    fam = moe_family(cfg->family);

    printf("%-13s%s (%s)%s%s\n", "family", fam->name, fam->architecture,
           cfg->dtype[0] != '\0' ? ", " : "", cfg->dtype);
    printf("%-13s%d: %d dense, %d with experts", "layers", cfg->n_layers,
           cfg->n_layers - cfg->n_moe_layers, cfg->n_moe_layers);

    if (cfg->n_mtp > 0) {
        printf("; %d for multi-token prediction", cfg->n_mtp);
    }

    printf("\n%-13s%d", "hidden", cfg->hidden);

    if (cfg->dense_ffn > 0) {
        printf(", dense feed-forward %d", cfg->dense_ffn);
    }

    printf("\n%-13s%d%s\n", "vocabulary", cfg->vocab,
           cfg->tie_embeddings ? ", embedding and head tied" : "");
}


static int
sliding(const moe_config_t *cfg)
{
    int  i, n;

    n = 0;

    for (i = 0; i < cfg->n_layers; i++) {
        n += cfg->sliding[i];
    }

    return n;
}


static void
print_attention(const moe_config_t *cfg)
{
    if (cfg->attn == MOE_ATTN_MLA) {
        printf("%-13sMLA: %d heads of %d + %d rotated, values %d; kv rank %d",
               "attention", cfg->n_heads, cfg->qk_nope_head_dim,
               cfg->qk_rope_head_dim, cfg->v_head_dim, cfg->kv_lora_rank);

        if (cfg->q_lora_rank > 0) {
            printf(", q rank %d", cfg->q_lora_rank);
        }

        printf("\n");
        return;
    }

    printf("%-13sGQA: %d heads of %d, %d for keys and values%s%s%s",
           "attention", cfg->n_heads, cfg->head_dim, cfg->n_kv_heads,
           cfg->qkv_bias ? ", biases" : "",
           cfg->qk_norm == MOE_QK_NORM_HEAD ? ", norm per head" : "",
           cfg->qk_norm == MOE_QK_NORM_FULL ? ", norm over all heads" : "");

    if (cfg->clip_qkv > 0) {
        printf(", clipped at %g", cfg->clip_qkv);
    }

    if (cfg->sinks) {
        printf(", sinks");
    }

    if (cfg->window > 0) {
        printf(", a window of %d in %d layers", cfg->window, sliding(cfg));
    }

    printf("\n");
}


static void
print_rope(const moe_config_t *cfg)
{
    printf("%-13s%d positions, rotary base %g", "context",
           cfg->max_positions, cfg->rope.theta);

    if (cfg->attn == MOE_ATTN_GQA && cfg->rope.dim != cfg->head_dim) {
        printf(", %d of %d dimensions rotated", cfg->rope.dim, cfg->head_dim);
    }

    if (cfg->rope.type == MOE_ROPE_YARN) {
        printf(", YaRN by %g from %d", cfg->rope.factor,
               cfg->rope.original_max_positions);
    }

    printf("\n");
}


static void
print_experts(const moe_config_t *cfg)
{
    printf("%-13s%d of width %d, %d a token", "experts", cfg->n_experts,
           cfg->moe_ffn, cfg->top_k);

    if (cfg->shared_ffn > 0) {
        printf("; %d shared, width %d%s", cfg->n_shared, cfg->shared_ffn,
               cfg->shared_gate ? ", gated" : "");
    }

    if (cfg->swiglu_limit > 0) {
        printf("; clamped at %g", cfg->swiglu_limit);
    }

    printf("%s\n", cfg->ffn_bias ? ", biases" : "");
}


static void
print_router(const moe_config_t *cfg)
{
    printf("%-13s%s%s", "router",
           cfg->score == MOE_SCORE_SIGMOID ? "sigmoid"
           : cfg->score == MOE_SCORE_CHOSEN ? "softmax over the chosen"
           : "softmax",
           cfg->router_bias ? " with correction bias" : "");

    if (cfg->n_group > 1) {
        printf(", best %d of %d groups", cfg->topk_group, cfg->n_group);
    }

    printf("%s", cfg->norm_topk && cfg->score != MOE_SCORE_CHOSEN
                 ? ", normalized" : "");

    if (cfg->routed_scale != 1) {
        printf(", scaled by %g", cfg->routed_scale);
    }

    printf("\n");
}


static void
print_params(const moe_config_t *cfg)
{
    moe_params_t  p;

    moe_params(cfg, &p);

    printf("%-13s%.4g million total, %.4g million active a token; "
           "%.3g %% in experts\n", "parameters", (double) p.total * 1e-6,
           (double) p.active * 1e-6,
           (double) p.experts * 100 / (double) p.total);
}


/* -1: there is nothing that makes text of ids, and an error was printed */
static int
print_text(const char *dir, const moe_config_t *cfg)
{
    uint32_t     n;
    moe_err_t    err;
    moe_text_t  *t;

    t = calloc(1, sizeof(moe_text_t));

    if (t == NULL || moe_text_load(t, dir, NULL, 0, &err) != 0) {
        fprintf(stderr, "moe-engine inspect: %s\n",
                t != NULL ? err.text : "no memory");
        free(t);
        return -1;
    }

    n = moe_tokenizer_vocab_size(t->tokenizer);
    printf("%-13s%u tokens, %s chat template\n", "tokenizer", n,
           t->template != NULL ? "a" : "no");

    if (n > (uint32_t) cfg->vocab) {
        printf("%-13sprompts with tokens from %d on are refused\n", "",
               cfg->vocab);
    }

    moe_text_free(t);
    free(t);

    return 0;
}


static void
print_weights(const moe_weights_t *w)
{
    int                     i;
    size_t                  j;
    uint64_t                bytes[MOE_DTYPE_OTHER + 1];
    const moe_st_tensor_t  *t;

    memset(bytes, 0, sizeof(bytes));

    for (j = 0; (t = moe_st_at(w->st, j)) != NULL; j++) {
        bytes[t->dtype] += t->size;
    }

    printf("%-13s", "weights");
    print_bytes(w->bytes);
    printf(" in use, files ");
    print_bytes(moe_st_file_bytes(w->st));
    printf(" (%zu)\n", moe_st_files(w->st));

    for (i = 0; i <= MOE_DTYPE_OTHER; i++) {
        if (bytes[i] > 0) {
            printf("%-13s%-8s ", "", moe_dtype_name((moe_dtype_e) i));
            print_bytes(bytes[i]);
            printf("\n");
        }
    }

    printf("%-13s%zu used, %zu of multi-token prediction, %zu unused\n",
           "tensors", w->n_used, w->n_mtp, w->n_unused);
}


static void
print_memory(const moe_config_t *cfg, const options_t *o,
    const moe_weights_t *w)
{
    uint64_t  values, tokens;

    values = moe_config_kv_width(cfg) * (uint64_t) cfg->n_layers;
    tokens = (uint64_t) o->ctx * (uint64_t) o->batch;

    printf("%-13s%" PRIu64 " bytes a token in bf16, %" PRIu64
           " in float32\n", "KV cache", values * 2, values * 4);

    printf("%-13s%d x %d tokens: KV ", "memory", o->batch, o->ctx);
    print_bytes(tokens * values * 2);
    printf(" in bf16, ");
    print_bytes(tokens * values * 4);
    printf(" in float32");

    if (w != NULL) {
        printf("; with weights ");
        print_bytes(tokens * values * 2 + w->bytes);
        printf(" or ");
        print_bytes(tokens * values * 4 + w->bytes);
    }

    printf("\n");

    if (o->ctx > cfg->max_positions) {
        printf("%-13s--ctx %d is beyond the model's %d positions\n", "",
               o->ctx, cfg->max_positions);
    }
}


static void
print_bytes(uint64_t n)
{
    static const char *const  units[] = { "B", "KiB", "MiB", "GiB", "TiB" };

    int     i;
    double  x;

    x = (double) n;

    for (i = 0; x >= 1024 && i < 4; i++) {
        x /= 1024;
    }

    printf(i == 0 ? "%.0f %s" : "%.2f %s", x, units[i]);
}
