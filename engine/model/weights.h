/*
 * weights: the tensors that a configuration needs, found in the weight
 * files by the family's names and checked for shape and type.
 *
 * Matrices are as the checkpoints have them: [rows = outputs, cols = inputs],
 * row-major, so y = W x is one dot product a row.  Data points into the
 * mapped files: read-only, never freed alone, aligned to the element's size
 * (a tensor that is not in the file is copied once at load, as are scales
 * that are not float32).  Matrices of a packed file are as the kernels take
 * them (kernels/cpu/packed.h).
 */

#ifndef MOE_WEIGHTS_H
#define MOE_WEIGHTS_H


#include "model/config.h"
#include "model/safetensors.h"


#define MOE_FP8_BLOCK  128


/*
 * A vector is rows = 1.  data NULL: the model has no such tensor.
 *
 * For F8_E4M3 the value of [r, c] is data[r, c] * scale_inv[(r / 128) *
 * scale_cols + c / 128]; scale_inv is float32 [ceil(rows / 128),
 * scale_cols = ceil(cols / 128)].  NULL for other types.
 */
typedef struct {
    const void     *data;
    const float    *scale_inv;
    moe_dtype_e     dtype;
    int             rows;
    int             cols;
    int             scale_cols;

    /* parts as they are in a file, see moe_st_tensor_t; never in a
     * moe_weights_t, where parts have become matrices of their own */
    size_t          row_step;
    size_t          col_step;
    const uint8_t  *scales;
} moe_tensor_t;


/* down(silu(gate x) * (up x)) */
typedef struct {
    moe_tensor_t  gate;             /* [ffn, hidden] */
    moe_tensor_t  up;               /* [ffn, hidden] */
    moe_tensor_t  down;             /* [hidden, ffn] */
    moe_tensor_t  gate_bias;        /* [ffn] */
    moe_tensor_t  up_bias;          /* [ffn] */
    moe_tensor_t  down_bias;        /* [hidden] */
} moe_ffn_t;


typedef struct {
    moe_tensor_t  attn_norm;        /* [hidden] */
    moe_tensor_t  ffn_norm;         /* [hidden] */

    /* MLA: q_a, q_a_norm, q_b where q_lora_rank > 0, else q */
    moe_tensor_t  q_a;              /* [q_lora, hidden] */
    moe_tensor_t  q_a_norm;         /* [q_lora] */
    moe_tensor_t  q_b;              /* [n_heads * (nope + rope), q_lora] */
    moe_tensor_t  kv_a;             /* [kv_lora + rope, hidden] */
    moe_tensor_t  kv_a_norm;        /* [kv_lora] */
    moe_tensor_t  kv_b;             /* [n_heads * (nope + v), kv_lora],
                                     * a head's nope rows, then its v rows */

    /* q: MLA without LoRA [n_heads * (nope + rope), hidden]; GQA */
    moe_tensor_t  q;                /* [n_heads * head_dim, hidden] */
    moe_tensor_t  k;                /* [n_kv_heads * head_dim, hidden] */
    moe_tensor_t  v;                /* [n_kv_heads * head_dim, hidden] */
    moe_tensor_t  q_bias;           /* [n_heads * head_dim] */
    moe_tensor_t  k_bias;           /* [n_kv_heads * head_dim] */
    moe_tensor_t  v_bias;           /* [n_kv_heads * head_dim] */
    moe_tensor_t  q_norm;           /* per head: [head_dim]; full width:
                                     * [n_heads * head_dim] */
    moe_tensor_t  k_norm;           /* ... or [n_kv_heads * head_dim] */

    moe_tensor_t  o;                /* [hidden, n_heads * v_head_dim] */
    moe_tensor_t  o_bias;           /* [hidden] */
    moe_tensor_t  sinks;            /* [n_heads] */

    moe_ffn_t     dense;            /* where !cfg->is_moe[layer] */

    moe_tensor_t  router;           /* [n_experts, hidden] */
    moe_tensor_t  router_bias;      /* [n_experts] for the choice */
    moe_tensor_t  logit_bias;       /* [n_experts] of the router's product */
    moe_ffn_t    *experts;          /* [n_experts], NULL in a dense layer */
    moe_ffn_t     shared;           /* ffn = shared_ffn */
    moe_tensor_t  shared_gate;      /* [1, hidden] */
} moe_layer_weights_t;


/* what the first MTP layer has beside a layer; its head and embedding are
 * the model's own, of which a checkpoint has copies */
typedef struct {
    moe_tensor_t  enorm;            /* [hidden] of the embedding */
    moe_tensor_t  hnorm;            /* [hidden] of the hidden state */
    moe_tensor_t  eh_proj;          /* [hidden, 2 hidden], on both, in this
                                     * order */
    moe_tensor_t  norm;             /* [hidden] before the head */
} moe_mtp_weights_t;


typedef struct {
    moe_tensor_t          embed;    /* [vocab, hidden] */
    moe_tensor_t          norm;     /* [hidden] */
    moe_tensor_t          head;     /* [vocab, hidden]; tied: embed itself */
    moe_layer_weights_t  *layers;   /* [n_layers + 1], the last for mtp */
    moe_mtp_weights_t     mtp;      /* no data: the files have none */

    uint64_t              bytes;    /* of all tensors but mtp, scales too */
    size_t                n_used;   /* tensors of the files in use, no mtp */
    size_t                n_unused; /* neither used nor of the MTP layers */
    size_t                n_mtp;    /* tensors of MTP layers; those of the
                                     * first are bound */

    int                   n_layers;

    /* private, but st may be asked about its files */
    moe_st_t             *st;
    void                **copies;   /* unaligned ones, scales */
    size_t                n_copies;
} moe_weights_t;


typedef struct {
    uint64_t  total;                /* parameters; tied ones once; no MTP */
    uint64_t  active;               /* total less the experts that a token
                                     * does not choose */
    uint64_t  embed;                /* of total: embedding and head */
    uint64_t  experts;              /* of total: routed experts */
} moe_params_t;


/*
 * Opens DIR's weight files and finds every tensor that cfg needs.  A missing
 * one, a wrong shape or a type that the engine cannot use is an error that
 * names tensor and file.  The result owns the mapping.
 */
moe_weights_t *moe_weights_load(const char *dir, const moe_config_t *cfg,
    moe_err_t *err);

/* The same from files already open; st belongs to the result, or is closed
 * where this fails. */
moe_weights_t *moe_weights_bind(moe_st_t *st, const moe_config_t *cfg,
    moe_err_t *err);

void moe_weights_free(moe_weights_t *w);

/* Counts from cfg alone, without files. */
void moe_params(const moe_config_t *cfg, moe_params_t *p);

/* Writes rows first .. first + n - 1 as float32, out[n * cols]; scales of
 * FP8 applied. */
void moe_tensor_to_f32(const moe_tensor_t *t, int first, int n, float *out);


#endif /* MOE_WEIGHTS_H */
