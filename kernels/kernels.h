/*
 * kernels: the operations of a forward pass, at the granularity of a batch.
 *
 * A backend fills in moe_kernels_t.  Rows are row-major float32 with a
 * leading dimension (ld, in elements) where a row may be wider than what is
 * used of it; weights stay as the checkpoint has them.
 *
 * What a row gives depends on that row alone: sums run over fixed lanes
 * (element i goes to lane i mod 16, lanes are added in a fixed tree) or one by
 * one in ascending order; work is divided among threads by rows, columns,
 * heads or experts, never within a sum.  Backends of one "set" give equal
 * bits.
 *
 * Arguments (the structures and arrays of parts that are passed, moe_route_t,
 * moe_clamped_t) are the caller's memory.  All that their pointers lead to,
 * weights, vectors, rows, positions, spans and page tables, is memory of the
 * backend: the process's own where memory is NULL, else what take() gave.
 */

#ifndef MOE_KERNELS_H
#define MOE_KERNELS_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "kernels/cpu/pool.h"
#include "kernels/sampling.h"


enum {
    MOE_LANES = 16,
    MOE_KV_PAGE = 16,           /* positions a page */
    MOE_SPAN_ROWS = 16          /* most rows of a span, see below */
};


typedef struct moe_device_s  moe_device_t;

/*
 * Memory of a backend that does not compute in the process's own, and the
 * device that has it.  Operations and copies happen in the order in which
 * they were asked for; only get() waits.  An operation that fails
 * says so at the next get().
 */
typedef struct {
    /* the device that this process computes on; NULL and a line in err */
    moe_device_t *(*open)(moe_err_t *err);
    void (*close)(moe_device_t *d);

    /* zeroed, 256-byte aligned; not within a step */
    void *(*take)(moe_device_t *d, size_t bytes, moe_err_t *err);
    void (*give)(moe_device_t *d, void *p);

    /* from is free again on return */
    void (*put)(moe_device_t *d, void *to, const void *from, size_t bytes);

    /* both of the device */
    void (*move)(moe_device_t *d, void *to, const void *from, size_t bytes);

    /* waits for all that was asked for before; -1 where any of it failed */
    int (*get)(moe_device_t *d, void *to, const void *from, size_t bytes,
               moe_err_t *err);
} moe_memory_t;


/* what the operations of one model run with */
typedef struct {
    moe_device_t  *device;      /* NULL where memory is NULL */
    moe_pool_t    *pool;
    float         *scratch;     /* threads * scratch_each, 64-byte aligned */
    size_t         scratch_each;    /* floats, at least what
                                     * attention_scratch() says */
    uint8_t       *quant;       /* 64-byte aligned; rows for packed weights */
    size_t         quant_size;  /* bytes, see moe_quant_row() */
} moe_kctx_t;


typedef enum {
    MOE_W_F32,
    MOE_W_F16,
    MOE_W_BF16,
    MOE_W_F8_E4M3,
    MOE_W_I8_G32,               /* packed, see kernels/cpu/packed.h */
    MOE_W_I4_G32,
    MOE_W_MX4_G32,
    MOE_W_I8_KV                 /* keys and values only, see moe_kv_row() */
} moe_wtype_e;

/*
 * W[n][k], row-major, at any alignment.  F8 only: element [i][j] is
 * multiplied by scale[((i + row0) / 128) * scale_cols + j / 128]; row0 is for
 * a matrix that is some rows of a larger one.  Packed weights are laid out for
 * the kernels, and only matmul and glu take them; a product with them rounds
 * x to 8 bits, each row on its own.
 */
typedef struct {
    const void   *data;
    const float  *scale;
    moe_wtype_e   type;
    uint32_t      n;
    uint32_t      k;
    uint32_t      scale_cols;
    uint32_t      row0;
} moe_matrix_t;

/* out[r][i] = sum over j of x[r][j] * w[i][j], then + bias[i] */
typedef struct {
    moe_matrix_t  w;
    const float  *bias;         /* [n] or NULL */
    const float  *x;            /* [nrows][k], ldx */
    float        *out;          /* [nrows][n], ldo */
    size_t        ldx;
    size_t        ldo;
    uint32_t      nrows;        /* may be 0 */
    int           keep_x;       /* not quantized, see kernels/fp8.h */

    /* the kernel's own */
    const uint8_t *q;           /* x quantized, for packed w */
    uint32_t      strip;
    uint32_t      task_end;
} moe_matmul_t;


/*
 * Of gate and up, with g = min(gate, limit) and u = clamp(up, +-limit):
 * g * sigmoid(alpha * g) * (u + 1).
 */
typedef struct {
    float  alpha;
    float  limit;
} moe_clamped_t;

/* out[r] = down(silu(gate x[r]) * (up x[r])), all three packed, or all of FP8
 * where the set says so (glu_fp8); biases are added to what each of the three
 * gives */
typedef struct {
    moe_matrix_t  gate;         /* [f][k] */
    moe_matrix_t  up;           /* [f][k] */
    moe_matrix_t  down;         /* [n][f] */
    const float  *x;            /* [nrows][k] */
    float        *out;          /* [nrows][n] */
    uint32_t      nrows;        /* may be 0 */
    const float  *gate_bias;    /* [f] or NULL */
    const float  *up_bias;
    const float  *down_bias;    /* [n] or NULL */
    const moe_clamped_t *clamped;   /* in place of silu; or NULL */

    /* the kernel's own */
    const uint8_t *q;           /* x quantized */
    uint8_t       *h;           /* what down takes, quantized */
    uint32_t       strips;      /* of a task */
    uint32_t       task_end;
} moe_glu_t;


/* the matrices of an expert */
typedef struct {
    moe_matrix_t  gate;         /* [f][k] */
    moe_matrix_t  up;           /* [f][k] */
    moe_matrix_t  down;         /* [n][f] */
    const float  *gate_bias;    /* all three may be NULL */
    const float  *up_bias;
    const float  *down_bias;
} moe_expert_t;

/*
 * The feed-forward of experts on rows that are sorted by expert, where the
 * device alone knows which rows are whose: nobody waits for that.  Matrices
 * are all packed; or none is, and where the set has glu_fp8 all or none of
 * FP8.  The context's quant has room for x and what is between of all slots.
 */
typedef struct {
    const moe_expert_t  *experts;   /* [n_experts], of the backend */
    const moe_expert_t  *like;      /* one of them, the caller's: all have its
                                     * sizes */
    const uint32_t      *first;     /* of moe_sort_t */
    const uint32_t      *tiles;
    uint32_t             n_experts;
    uint32_t             slots;     /* rows there is room for */
    const float         *x;         /* [slots][k] */
    float               *out;       /* [slots][n]; behind the last expert's
                                     * rows it is as it was */
    float               *gate;      /* [slots][f], both, where matrices are
                                     * multiplied one after the other */
    float               *up;
    const moe_clamped_t *clamped;   /* in place of silu; or NULL */
} moe_experts_op_t;


/*
 * KV memory of one layer.  Page p begins at base + p * stride.
 *
 * Grouped: keys [heads][16][k_dim], then values [heads][16][v_dim].
 * Latent: heads is 1, one row of k_dim = latent + rope elements for each of
 * 16 positions, whose first v_dim = latent elements are the value too.
 */
typedef struct {
    uint8_t      *base;
    size_t        stride;       /* bytes */
    moe_wtype_e   type;         /* F32, BF16 or I8_KV */
    uint32_t      heads;
    uint32_t      k_dim;
    uint32_t      v_dim;
    int           latent;
} moe_kv_t;

/*
 * Bytes of n elements of a position.  I8_KV: quants in groups of 32, the last
 * one filled up with zeros, then a float32 scale for each group, the largest
 * magnitude over 127; a value is quant * scale.
 */
static inline size_t
moe_kv_row(moe_wtype_e type, uint32_t n)
{
    switch (type) {
    case MOE_W_F32:
        return (size_t) n * 4;
    case MOE_W_BF16:
        return (size_t) n * 2;
    default:
        return ((size_t) n + 31) / 32 * 36;
    }
}

/* of a row that a step is filled up with: it is nobody's */
#define MOE_NO_SLOT  UINT64_MAX

/* consecutive rows of one sequence, at most MOE_SPAN_ROWS, positions
 * ascending by one; it may have none */
typedef struct {
    uint32_t         first;     /* row */
    uint32_t         nrows;
    const uint32_t  *table;     /* pages of the sequence from position 0 */
} moe_span_t;

typedef struct {
    moe_kv_t           kv;
    uint32_t           n_heads;     /* of queries; a multiple of kv.heads */
    float              scale;
    const float       *q;           /* [nrows][n_heads][k_dim], ldq a row */
    float             *out;         /* [nrows][n_heads][v_dim], ldo a row */
    size_t             ldq;
    size_t             ldo;
    const uint32_t    *pos;         /* [nrows]; keys 0 .. pos are seen */
    uint32_t           window;      /* ... the last so many; 0: all */
    const float       *sinks;       /* [n_heads]: the score of one more key,
                                     * whose value is zero; or NULL */
    const moe_span_t  *spans;
    uint32_t           nspans;
} moe_attention_t;


/* x[r][h * head_ld + first .. + dim): rotated in place, dim even */
typedef struct {
    float        *x;
    size_t        ldx;
    size_t        head_ld;
    uint32_t      nrows;
    uint32_t      heads;
    uint32_t      first;
    uint32_t      dim;
    int           interleave;   /* pairs (2i, 2i+1), else (i, i + dim/2) */
    const float  *cos;          /* [nrows][dim / 2] */
    const float  *sin;
} moe_rope_op_t;


typedef enum {
    MOE_ROUTE_SOFTMAX,          /* over all experts */
    MOE_ROUTE_SIGMOID,
    MOE_ROUTE_CHOSEN            /* logits choose; softmax over the chosen */
} moe_route_score_e;

typedef enum {
    MOE_ROUTE_PLAIN,
    MOE_ROUTE_GROUP_MAX,        /* a group's score: its best expert */
    MOE_ROUTE_GROUP_TOP2        /* its two best, added */
} moe_route_group_e;

/*
 * Chooses top_k experts a row by score + bias among the topk_group best
 * groups; weights are the scores alone.  Slots are in order of the choosing
 * score, descending; ties go to the lower index.
 */
typedef struct {
    moe_route_score_e   score;
    moe_route_group_e   group;
    uint32_t            n_experts;
    uint32_t            top_k;
    uint32_t            n_group;
    uint32_t            topk_group;
    const float        *bias;       /* [n_experts] or NULL, always NULL where
                                     * CHOSEN */
    int                 norm;       /* divide by (sum + eps) */
    float               eps;
    float               scale;      /* then multiply */
    const uint64_t     *slots;      /* [nrows]: a row of MOE_NO_SLOT goes
                                     * nowhere, its experts are MOE_NO_ROW;
                                     * NULL: there is none */
} moe_route_t;


/* a place that there is not */
#define MOE_NO_ROW  UINT32_MAX

/*
 * Places of slots among rows sorted by expert, those of one expert in order of
 * slot: at[i] is slot i's, MOE_NO_ROW where there is no such expert, and it
 * goes nowhere.  Rows first[e] .. first[e + 1] - 1 are expert e's; cut into
 * tiles of a height (kernels/cuda/permute.h), those from tiles[e] on.
 */
typedef struct {
    const uint32_t  *experts;       /* [n] */
    uint32_t        *at;            /* [n] */
    uint32_t        *first;         /* [n_experts + 1] */
    uint32_t        *tiles;         /* [2][n_experts + 1], of either height */
    uint32_t         n;
    uint32_t         n_experts;
} moe_sort_t;


/*
 * out[at[i]] = x[i / per], n rows of width, each rounded to bfloat16 where
 * bf16 is set: rows to their places among those of their experts
 */
typedef struct {
    const float     *x;             /* [n / per][width] */
    float           *out;           /* [n][width] */
    const uint32_t  *at;            /* [n], each of 0 .. n - 1 once at most;
                                     * MOE_NO_ROW: it goes nowhere */
    uint32_t         n;
    uint32_t         per;
    uint32_t         width;
    int              bf16;
} moe_permute_t;


/*
 * x[r] += (sum over slots s, ascending, of weight[r][s] * y[at[r][s]])
 *         + g * shared[r], g = sigmoid(gate[r]) or 1; nothing of a slot whose
 *         place is MOE_NO_ROW
 */
typedef struct {
    float           *x;             /* [nrows][n] */
    const float     *y;             /* rows of n */
    const uint32_t  *at;            /* [nrows][top_k] */
    const float     *weight;        /* [nrows][top_k] */
    const float     *shared;        /* [nrows][n] or NULL */
    const float     *gate;          /* [nrows] or NULL */
    uint32_t         nrows;
    uint32_t         n;
    uint32_t         top_k;
} moe_combine_t;


/* one token of each draw's row, see model/sampler.h */
typedef struct {
    float             *logits;      /* rows of vocab; the same again after it */
    uint32_t           vocab;
    uint32_t           n;
    const moe_draw_t  *draws;       /* [n], each of a row of its own */
    moe_edit_t        *edits;
    moe_drawn_t       *out;         /* [n] */
} moe_sample_t;


typedef struct {
    const char          *name;      /* "plain", "avx2", "avx512", "cuda" */
    const char          *set;       /* backends of one set give equal bits */
    const moe_memory_t  *memory;    /* NULL: the process's own */
    int                  glu_fp8;   /* glu takes FP8 weights, and quantizes
                                     * inputs as matmul does */

    /* out[r][0 .. k) = row ids[r] of w */
    void (*embed)(const moe_kctx_t *c, const moe_matrix_t *w,
                  const uint32_t *ids, uint32_t nrows, float *out);

    /* every group of n in a row on its own: x / sqrt(mean(x^2) + eps) * w;
     * out may be x */
    void (*rmsnorm)(const moe_kctx_t *c, const float *x, size_t ldx,
                    uint32_t groups, uint32_t n, const float *w, float eps,
                    uint32_t nrows, float *out, size_t ldo);

    /* all parts at once; a part's own fields are written */
    void (*matmul)(const moe_kctx_t *c, moe_matmul_t *parts,
                   uint32_t nparts);

    /* all parts at once, all packed or all of FP8; reads each of their
     * matrices once */
    void (*glu)(const moe_kctx_t *c, moe_glu_t *parts, uint32_t nparts);

    /* as matmul with W transposed: x[nrows][w.n], out[nrows][w.k], out[r][j]
     * = sum over i, ascending, of x[r][i] * w[i][j]; no bias */
    void (*matmul_t)(const moe_kctx_t *c, moe_matmul_t *parts,
                     uint32_t nparts);

    void (*rope)(const moe_kctx_t *c, const moe_rope_op_t *op);

    /* clamps x[nrows][n] to -limit .. limit */
    void (*clamp)(const moe_kctx_t *c, float *x, size_t ldx, uint32_t nrows,
                  uint32_t n, float limit);

    /*
     * Stores row r at position slots[r] % 16 of page slots[r] / 16, of
     * MOE_NO_SLOT nowhere.  Grouped: k[nrows][heads][k_dim],
     * v[nrows][heads][v_dim].  Latent: k[nrows][k_dim] alone.
     */
    void (*kv_store)(const moe_kctx_t *c, const moe_kv_t *kv,
                     const uint64_t *slots, uint32_t nrows, const float *k,
                     size_t ldk, const float *v, size_t ldv);

    /* pages in ascending order, 16 keys at a time, running softmax */
    void (*attention)(const moe_kctx_t *c, const moe_attention_t *a);

    /* floats of scratch that attention takes a thread */
    size_t (*attention_scratch)(uint32_t k_dim, uint32_t v_dim);

    /* logits[nrows][n_experts] -> experts, weights [nrows][top_k] */
    void (*route)(const moe_kctx_t *c, const moe_route_t *route,
                  float *logits, uint32_t nrows, uint32_t *experts,
                  float *weights);

    /* gate[r][i] = silu(gate[r][i]) * up[r][i]; contiguous, n elements */
    void (*silu_mul)(const moe_kctx_t *c, float *gate, const float *up,
                     size_t n);

    /* the same with moe_clamped_t's in place of silu */
    void (*clamped_mul)(const moe_kctx_t *c, const moe_clamped_t *p,
                        float *gate, const float *up, size_t n);

    void (*permute)(const moe_kctx_t *c, const moe_permute_t *op);

    /* rounds n elements to bfloat16 in place */
    void (*round_bf16)(const moe_kctx_t *c, float *x, size_t n);

    void (*combine)(const moe_kctx_t *c, const moe_combine_t *op);

    /* out[r][0 .. n) = x[r][0 .. n) */
    void (*copy)(const moe_kctx_t *c, const float *x, size_t ldx,
                 uint32_t nrows, uint32_t n, float *out, size_t ldo);

    /* out[r] = x[at[r]], rows of n; out may be x where at ascends */
    void (*gather)(const moe_kctx_t *c, const float *x, const uint32_t *at,
                   uint32_t nrows, uint32_t n, float *out);

    /* x += y; contiguous, n elements */
    void (*add)(const moe_kctx_t *c, float *x, const float *y, size_t n);

    /* for benchmarks, one thread's limits: the number of operations done on
     * int8, two a multiplication, with nothing from memory (0: there is no
     * instruction for it); and n bytes read.  NULL where memory is not */
    uint64_t (*probe_int8)(uint64_t rounds);
    uint64_t (*probe_read)(const void *p, size_t n);

    /* index of the largest of each row, the lowest of equals */
    void (*argmax)(const moe_kctx_t *c, const float *x, size_t ldx,
                   uint32_t nrows, uint32_t n, uint32_t *out);

    /* NULL both: the process sorts, and lists what glu and matmul compute */
    void (*sort)(const moe_kctx_t *c, const moe_sort_t *op);
    void (*experts)(const moe_kctx_t *c, const moe_experts_op_t *op);

    /* NULL: logits are sampled by the process */
    void (*sample)(const moe_kctx_t *c, const moe_sample_t *op);
} moe_kernels_t;


/* bytes of quant that a row of k inputs takes: matmul wants that many for every
 * row of every packed part, glu for its x and for the f in between.  With less
 * they go on in several turns; with less than for one row, nothing works. */
size_t moe_quant_row(uint32_t k);

/*
 * A backend by name, or with NULL the fastest set for this machine's
 * processor; a GPU computes only where it is named.  NULL where the name is
 * unknown, was left out of this program, or the machine cannot run it.
 */
const moe_kernels_t *moe_kernels_get(const char *name);


#endif /* MOE_KERNELS_H */
