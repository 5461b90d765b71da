/*
 * decoder: a model opened, and the layer loop.  For files of model/ alone.
 */

#ifndef MOE_DECODER_H
#define MOE_DECODER_H


#include <stddef.h>
#include <stdint.h>

#include "ep/exchange.h"
#include "model/exchange_memory.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/kv.h"
#include "model/model.h"
#include "model/weights.h"


enum {
    MOE_ABSORB_ROWS = 32,       /* rows of a task, see decoder_attn.c */
    MOE_HEAD_ROWS = 256,        /* rows of logits that a device has at once */
    MOE_LADDER_ROWS = 256,      /* most of a step that is recorded */
    MOE_LADDER = 16             /* most rungs */
};


typedef moe_expert_t  moe_ffn_mats_t;

/* a layer as kernels take it: matrices in the mapped files, vectors copied
 * to float32; data or pointer NULL where the layer has none */
typedef struct {
    const float      *attn_norm;
    const float      *ffn_norm;
    const float      *q_a_norm;
    const float      *kv_a_norm;
    const float      *q_norm;
    const float      *k_norm;
    const float      *q_bias;
    const float      *k_bias;
    const float      *v_bias;
    const float      *o_bias;
    const float      *sinks;
    const float      *router_bias;
    const float      *logit_bias;

    moe_matrix_t      q_a;
    moe_matrix_t      q_b;
    moe_matrix_t      q;
    moe_matrix_t      kv_a;
    moe_matrix_t      kv_b;
    moe_matrix_t      k;
    moe_matrix_t      v;
    moe_matrix_t      o;
    moe_matrix_t      router;
    moe_matrix_t      shared_gate;

    moe_ffn_mats_t    ffn;          /* dense, or shared expert */
    moe_ffn_mats_t   *experts;      /* [n_experts]; NULL: a dense layer */
} moe_layer_t;


/* what operations are told of a step's rows */
typedef struct {
    uint32_t      *ids;             /* [1] */
    uint32_t      *pos;             /* [1] */
    uint32_t      *rows;            /* [1] some rows of the step */
    uint64_t      *slots;           /* [1] page * 16 + place */
    float         *cos;             /* [rope.dim / 2] */
    float         *sin;
    moe_span_t    *spans;           /* [1] */
    uint32_t      *tables;          /* [pages of the longest sequence]; NULL
                                     * but for a device */
} moe_step_in_t;


/*
 * Memory of one step, all of it max_rows rows.  Rows are the backend's memory;
 * what they are told is written in host and sent to in, which without a
 * device is the same.
 */
typedef struct {
    moe_step_in_t  in;
    moe_step_in_t  host;
    float         *x;               /* [hidden] the residual stream */
    float         *xn;              /* [hidden] */
    float         *y;               /* [hidden] */
    float         *h;               /* [hidden] after the last norm; with an
                                     * MTP layer */
    float         *eh;              /* [2 * hidden] its input */
    uint32_t      *draft_pos;       /* [1] */
    uint32_t      *draft_seq;       /* [1] */

    float         *q;               /* [n_heads * head_dim] */
    float         *q_a;             /* [q_lora_rank] */
    float         *q_lat;           /* [n_heads * (latent + rope)] */
    float         *k;               /* GQA [n_kv_heads * head_dim]; MLA
                                     * [latent + rope] */
    float         *v;               /* [n_kv_heads * head_dim] */
    float         *o_lat;           /* [n_heads * latent] */
    float         *o;               /* [n_heads * v_head_dim] */

    float         *logits;          /* [n_experts] */
    float         *weights;         /* [top_k] */
    uint32_t      *chosen;          /* [top_k] */
    float         *gate;            /* [top_k * moe_ffn] */
    float         *up;
    float         *ffn_gate;        /* [max(dense_ffn, shared_ffn)] */
    float         *ffn_up;
    float         *shared_scale;    /* [1] */
    float         *vocab;           /* [vocab] of MOE_HEAD_ROWS at most; with
                                     * a device alone, as what follows */
    moe_draw_t    *draws;           /* [1] of MOE_HEAD_ROWS at most */
    moe_drawn_t   *drawn;           /* [1] */
    moe_edit_t    *edits;           /* MOE_EDITS * vocab in all */
    uint8_t       *quant;           /* rows for packed weights */
    size_t         quant_size;

    /* the process's memory */
    uint32_t      *out;             /* [1] of those whose logits are wanted */
    uint8_t       *seen;            /* [1] */
    const uint32_t **tables;        /* [1] of each sequence, see moe_span_t */
    moe_matmul_t  *parts;           /* nparts */
    uint32_t       nparts;
    moe_glu_t     *glu;             /* n_experts + 1 */

    void          *base;            /* one mapping, or the device's */
    size_t         bytes;
    void          *host_base;       /* one mapping */
    size_t         host_bytes;
} moe_step_mem_t;


typedef struct {
    const float      *enorm;
    const float      *hnorm;
    const float      *norm;
    moe_matrix_t      eh_proj;      /* data NULL: it is not used */
    moe_exchange_t   *exchange;     /* with itself; NULL: no experts */
    int               on;           /* hidden states are kept for it */
} moe_mtp_t;


typedef struct moe_expert_places_s  moe_expert_places_t;


/* steps that a device has recorded, by their numbers of rows, ascending */
typedef struct {
    uint32_t          n;
    uint32_t          rows[MOE_LADDER];
    moe_recording_t  *steps[MOE_LADDER];
} moe_ladder_t;


struct moe_model_s {
    moe_config_t          cfg;
    moe_weights_t        *weights;
    const moe_kernels_t  *kernels;
    moe_kctx_t            kctx;
    moe_kv_mem_t          kv;
    moe_exchange_t       *exchange;     /* NULL: no experts */
    moe_exchange_memory_t rows_memory;  /* for it, where there is a device */
    moe_row_format_e      row_format;
    uint32_t              exchange_ms;

    moe_matrix_t          embed;
    moe_matrix_t          head;
    const float          *norm;
    moe_layer_t          *layers;   /* [n_layers], and the MTP layer */
    moe_mtp_t             mtp;
    moe_ffn_mats_t       *experts;  /* of all layers */
    const moe_expert_t   *device_experts;   /* the same as of load, on the
                                             * device; for layers that have
                                             * all of them here */
    float                *vectors;  /* what the pointers above point into,
                                     * or with a device its copy */
    size_t                nvectors; /* floats */
    void                 *device_weights;   /* NULL without a device */
    moe_expert_places_t  *places;   /* in there; NULL: of all experts */
    float                *freq;     /* [rope.dim / 2] */
    moe_clamped_t         clamped;  /* of experts; limit 0: they have silu */

    moe_step_mem_t        mem;
    uint32_t              max_rows;
    int                   records;  /* steps of those who decode */
    moe_ladder_t          ladder;

    /* of the step */
    int                   filled;   /* some rows may be nobody's */
    uint32_t              nrows;    /* left in it */
    uint32_t              nspans;
    uint32_t              nhidden;  /* rows in mem.h */
    const moe_draws_t    *draws;    /* NULL: logits are wanted */
    uint64_t              late;

    uint8_t               fingerprint[32];
};


/* fills in layers from weights, the MTP layer where mtp says so and there is
 * one; the model has cfg and weights */
int moe_decoder_bind(moe_model_t *m, int mtp, moe_err_t *err);

/* makes layers point to where the vectors are: base[nvectors], or NULL */
void moe_decoder_bind_vectors(moe_model_t *m, const float *base);

/*
 * Copies all that layers point to into the device's memory, and makes them
 * point there.  progress, which may be NULL, is told the percentage that is
 * copied; it returns not 0 to give up.
 */
int moe_decoder_to_device(moe_model_t *m,
    int (*progress)(void *ctx, uint32_t percent), void *ctx, moe_err_t *err);

/* What it takes there: bytes of a matrix and, FP8 only, of its scales; of all
 * three matrices of an expert, each of their parts aligned. */
size_t moe_decoder_matrix_bytes(const moe_matrix_t *w);
size_t moe_decoder_scale_bytes(const moe_matrix_t *w);
size_t moe_decoder_aligned(size_t bytes);
size_t moe_decoder_ffn_bytes(const moe_ffn_mats_t *f);

/* memory of a step for max_rows */
int moe_decoder_memory(moe_model_t *m, moe_err_t *err);

/* What is in mem a row begins with this one from now on. */
void moe_decoder_memory_from(moe_model_t *m, uint32_t row);
void moe_decoder_memory_free(moe_model_t *m);

/* when to give up waiting for other ranks, for the exchange */
uint64_t moe_decoder_deadline(const moe_model_t *m);

/* The layers of a step that the exchange has in two halves; as if it had been
 * one, rows that go on to the head are together then. */
int moe_decoder_halves(moe_model_t *m, const moe_batch_t *b, moe_err_t *err);

/*
 * Has the device record the steps of decoding, where it is to and there is KV
 * memory; what it had recorded before is forgotten.  To be called again when
 * memory has moved.
 */
int moe_decoder_ladder(moe_model_t *m, moe_err_t *err);
void moe_decoder_ladder_free(moe_model_t *m);

/* Everything of a batch but the head, by a recording: 0 where there is none
 * that fits it, and nothing was done. */
int moe_decoder_ladder_run(moe_model_t *m, const moe_batch_t *b);

/* From the embedding to the last layer, of rows that have been placed.  b:
 * NULL while a step is recorded. */
int moe_decoder_layers_run(moe_model_t *m, const moe_batch_t *b,
    moe_err_t *err);

/* x = norm(x): what attention and the feed-forward part read, in mem->xn */
void moe_decoder_norm(moe_model_t *m, const float *w);

/* From the embedding on, and attention with the residual: mem->xn is ready for
 * the feed-forward part. */
void moe_decoder_mix(moe_model_t *m, uint32_t l, const moe_batch_t *b);

/* runs a batch that has been checked */
int moe_decoder_run(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err);

/* rows that follow on a step, checked */
int moe_decoder_draft(moe_model_t *m, const moe_batch_t *b,
    const moe_draft_t *d, float *logits, moe_err_t *err);

/* where each row's keys go, its angles, and the runs of rows of a sequence */
void moe_decoder_place(moe_model_t *m, const moe_batch_t *b);

/* The same for a step that is filled up to so many rows with rows that are
 * nobody's, each row a run of its own. */
void moe_decoder_fill(moe_model_t *m, const moe_batch_t *b, uint32_t rows);

/* layers that there are weights and KV for, the MTP layer's too */
uint32_t moe_decoder_layers(const moe_model_t *m);

/*
 * Attention of layer l: reads mem->xn, leaves what is to be added to the
 * residual stream in mem->y.
 */
void moe_decoder_attention(moe_model_t *m, uint32_t l, const moe_batch_t *b);

/* rows[n] for operations that take some rows of the step; good until the next
 * call */
const uint32_t *moe_decoder_rows(moe_model_t *m, const uint32_t *rows,
    uint32_t n);

/* logits of all rows that are left in the step */
int moe_decoder_logits(moe_model_t *m, float *logits, moe_err_t *err);

/*
 * Once the last layer has stored keys and values, only the rows whose logits
 * are wanted go on; they move to the front.  Where hidden states are kept that
 * is the MTP layer.
 */
void moe_decoder_narrow(moe_model_t *m, const moe_batch_t *b);

/* The feed-forward part: reads mem->xn, adds to mem->x. */
int moe_decoder_ffn(moe_model_t *m, uint32_t l, moe_err_t *err);

/* Whether the device can sort rows by expert, and compute them, unwatched. */
int moe_decoder_sorts(const moe_model_t *m);

/* The same of a layer with experts, for half a step: rows go out; experts
 * compute what came in, and results go out; what came back is added. */
int moe_decoder_ffn_out(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err);
int moe_decoder_ffn_experts(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err);
int moe_decoder_ffn_back(moe_model_t *m, uint32_t l, uint32_t half,
    moe_err_t *err);

/* one product of nrows rows of x; out is as wide as w.n where ldo is 0, and
 * x as w.k where ldx is 0 */
moe_matmul_t moe_part(const moe_matrix_t *w, const float *x, size_t ldx,
    uint32_t nrows, float *out, size_t ldo);


#endif /* MOE_DECODER_H */
