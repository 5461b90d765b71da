/*
 * family: the table of model families.
 *
 * An entry says how a family's checkpoints are spelled (architecture, keys
 * that differ, names of tensors) and what its keys mean where they are
 * absent.  A new family is an entry here plus what is truly new.
 */

#ifndef MOE_FAMILY_H
#define MOE_FAMILY_H


#include "model/config.h"


typedef struct {
    moe_family_e    id;
    const char     *name;           /* for people: "DeepSeek-V3" */
    const char     *architecture;   /* config.json: architectures[0] */
    const char     *model_type;     /* config.json: model_type */

    moe_attn_e      attn;
    moe_qk_norm_e   qk_norm;        /* where no key says otherwise */
    moe_score_e     score;
    moe_topk_e      topk;           /* where no key says otherwise */
    int             rope_interleave;
    int             qkv_bias;       /* where no key says otherwise */
    double          partial_rotary; /* share of a head that is rotated, where
                                     * no key says otherwise; 0: always all */
    int             biases;         /* of o, the router and experts too */
    int             sinks;
    int             window;         /* layer_types is read; sliding_window
                                     * where no key says otherwise */
    double          swiglu_limit;   /* where no key says otherwise; 0: the
                                     * family has silu */
    double          swiglu_alpha;
    int             shared_gate;
    int             norm_topk;      /* where no key says otherwise */
    int             norm_topk_key;  /* norm_topk_prob is read at all */
    double          topk_eps;
    double          routed_scale;   /* where no key says otherwise */
    double          rope_theta;     /* where no key says otherwise */
    double          rms_eps;        /* where no key says otherwise */

    /* keys of config.json; NULL: the family has no such thing */
    const char     *key_qkv_bias;
    const char     *key_qk_norm;    /* true: norm per head */
    const char     *key_experts[2]; /* either */
    const char     *key_moe_ffn;
    const char     *key_dense_ffn;
    const char     *key_shared_ffn; /* width of the shared expert, or ... */
    const char     *key_n_shared;   /* ... their number */
    int             groups;         /* n_group, topk_group */
    int             first_dense;    /* where no key says otherwise */
    int             dense_first;    /* first_k_dense_replace, moe_layer_freq */
    int             dense_step;     /* decoder_sparse_step, mlp_only_layers */

    /* keys that have one value only, as JSON, where they are there */
    const char     *fixed[4][2];

    /* tensors, under "model.layers.N." */
    const char     *moe_prefix;     /* "mlp" */
    const char     *router;         /* under moe_prefix; NULL: "gate" */
    int             fused;          /* experts are in one tensor, fused.h */
    const char     *gate;           /* an expert's "gate_proj" */
    const char     *up;
    const char     *down;
    const char     *shared;         /* "shared_experts" */
    const char     *router_bias;    /* under moe_prefix */
} moe_family_t;


const moe_family_t *moe_family(moe_family_e id);

/* By architecture, model_type deciding where several have the same; or where
 * that is NULL by model_type.  NULL: unknown. */
const moe_family_t *moe_family_find(const char *architecture,
    const char *model_type);


#endif /* MOE_FAMILY_H */
