/*
 * GGUF tensors under the checkpoint's names.
 */

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"
#include "model/gguf_model.h"
#include "model/gguf_pack.h"


#define NAME_SIZE  256

/* a GGUF tensor as plain numbers, in the file or in memory of our own */
typedef struct {
    const uint8_t  *data;
    moe_dtype_e     dtype;
    uint64_t        each;       /* bytes of a packed matrix */
} plain_t;

typedef struct {
    moe_gguf_t          *g;
    const moe_config_t  *cfg;
    const moe_family_t  *fam;
    moe_err_t           *err;
    int                  pack;      /* matrices of blocks */
    moe_dtype_e          decoded;   /* what other blocks become */
    moe_pool_t          *pool;      /* NULL before it is needed */

    moe_st_tensor_t     *list;      /* names are malloc'ed */
    size_t               n;
    size_t               cap;

    void               **copies;
    size_t               ncopies;
    size_t               cap_copies;
} tensors_t;

/*
 * One name behind "blk.N." and what it is under "model.layers.N."; {moe},
 * {shared}, {gate}, {up}, {down} are the family's words, {n} an expert.
 */
typedef struct {
    const char  *from;
    const char  *to;
    int          pack;              /* read as a whole matrix, by products */
} rename_t;


static const rename_t  top_names[] = {
    { "token_embd.weight", "model.embed_tokens.weight", 0 },
    { "output_norm.weight", "model.norm.weight", 0 },
    { "output.weight", "lm_head.weight", 1 }
};

static const rename_t  layer_names[] = {
    { "attn_norm.weight", "input_layernorm.weight", 0 },
    { "ffn_norm.weight", "post_attention_layernorm.weight", 0 },
    { "attn_q.weight", "self_attn.q_proj.weight", 1 },
    { "attn_k.weight", "self_attn.k_proj.weight", 1 },
    { "attn_v.weight", "self_attn.v_proj.weight", 1 },
    { "attn_q.bias", "self_attn.q_proj.bias", 0 },
    { "attn_k.bias", "self_attn.k_proj.bias", 0 },
    { "attn_v.bias", "self_attn.v_proj.bias", 0 },
    { "attn_q_norm.weight", "self_attn.q_norm.weight", 0 },
    { "attn_k_norm.weight", "self_attn.k_norm.weight", 0 },
    { "attn_output.weight", "self_attn.o_proj.weight", 1 },
    { "attn_output.bias", "self_attn.o_proj.bias", 0 },
    { "attn_sinks.weight", "self_attn.sinks", 0 },
    { "post_attention_norm.weight", "post_attention_layernorm.weight", 0 },
    { "attn_q_a.weight", "self_attn.q_a_proj.weight", 1 },
    { "attn_q_a_norm.weight", "self_attn.q_a_layernorm.weight", 0 },
    { "attn_q_b.weight", "self_attn.q_b_proj.weight", 1 },
    { "attn_kv_a_mqa.weight", "self_attn.kv_a_proj_with_mqa.weight", 1 },
    { "attn_kv_a_norm.weight", "self_attn.kv_a_layernorm.weight", 0 },
    { "attn_kv_b.weight", "self_attn.kv_b_proj.weight", 0 },
    { "ffn_gate.weight", "mlp.gate_proj.weight", 1 },
    { "ffn_up.weight", "mlp.up_proj.weight", 1 },
    { "ffn_down.weight", "mlp.down_proj.weight", 1 },
    { "ffn_gate_inp.weight", "{moe}.{router}.weight", 0 },
    { "ffn_gate_inp.bias", "{moe}.{router}.bias", 0 },
    { "exp_probs_b.bias", "{moe}.gate.e_score_correction_bias", 0 },
    { "ffn_gate_shexp.weight", "{moe}.{shared}.{gate}.weight", 1 },
    { "ffn_up_shexp.weight", "{moe}.{shared}.{up}.weight", 1 },
    { "ffn_down_shexp.weight", "{moe}.{shared}.{down}.weight", 1 },
    { "ffn_gate_inp_shexp.weight", "{moe}.shared_expert_gate.weight", 0 },
};

/* of biases all rows of a tensor are vectors, one an expert */
static const rename_t  fused_biases[] = {
    { "ffn_gate_exps.bias", "{moe}.experts.{n}.{gate}.bias", 0 },
    { "ffn_up_exps.bias", "{moe}.experts.{n}.{up}.bias", 0 },
    { "ffn_down_exps.bias", "{moe}.experts.{n}.{down}.bias", 0 }
};

static const rename_t  fused_names[] = {
    { "ffn_gate_exps.weight", "{moe}.experts.{n}.{gate}.weight", 1 },
    { "ffn_up_exps.weight", "{moe}.experts.{n}.{up}.weight", 1 },
    { "ffn_down_exps.weight", "{moe}.experts.{n}.{down}.weight", 1 }
};

#define COUNT(list)  (sizeof(list) / sizeof(list[0]))


static void
tensors_release(void *data)
{
    size_t      i;
    tensors_t  *t = data;

    moe_pool_destroy(t->pool);

    for (i = 0; i < t->n; i++) {
        free((char *) t->list[i].name);
    }

    for (i = 0; i < t->ncopies; i++) {
        free(t->copies[i]);
    }

    moe_gguf_close(t->g);
    free(t->copies);
    free(t->list);
    free(t);
}


static int
no_memory(tensors_t *t)
{
    return moe_err(t->err, "%s: no memory", moe_gguf_path(t->g));
}


/* memory that lives as long as the tensors */
static void *
copy_new(tensors_t *t, uint64_t size)
{
    void    *p, **copies;
    size_t   cap;

    if (t->ncopies == t->cap_copies) {
        cap = t->cap_copies ? t->cap_copies * 2 : 64;
        copies = realloc(t->copies, cap * sizeof(void *));

        if (copies == NULL) {
            no_memory(t);
            return NULL;
        }

        t->copies = copies;
        t->cap_copies = cap;
    }

    p = aligned_alloc(64, (size_t) (size + 63) / 64 * 64);

    if (p == NULL) {
        no_memory(t);
        return NULL;
    }

    t->copies[t->ncopies++] = p;

    return p;
}


static uint64_t
elements(const moe_gguf_tensor_t *s)
{
    return s->dims[0] * s->dims[1] * s->dims[2] * s->dims[3];
}


/* blocks of one type, a part at a time where they become bfloat16 */
static void
decode(const moe_gguf_tensor_t *s, moe_dtype_e to, void *out)
{
    float            part[1024];
    size_t           i, n, step;
    uint64_t         left;
    uint16_t        *half;
    const uint8_t   *in;

    left = elements(s) / s->type->elems;

    if (to == MOE_DTYPE_F32) {
        s->type->decode(s->data, (size_t) left, out);
        return;
    }

    in = s->data;
    half = out;
    step = COUNT(part) / s->type->elems;

    while (left > 0) {
        n = left < step ? (size_t) left : step;
        s->type->decode(in, n, part);

        for (i = 0; i < n * s->type->elems; i++) {
            *half++ = moe_bf16_of(part[i]);
        }

        in += n * s->type->bytes;
        left -= n;
    }
}


static int
plain_of(tensors_t *t, const moe_gguf_tensor_t *s, plain_t *p)
{
    void  *out;

    p->data = s->data;

    switch (s->ggml) {

    case MOE_GGML_F32:
        p->dtype = MOE_DTYPE_F32;
        return 0;

    case MOE_GGML_F16:
        p->dtype = MOE_DTYPE_F16;
        return 0;

    case MOE_GGML_BF16:
        p->dtype = MOE_DTYPE_BF16;
        return 0;

    default:
        break;
    }

    p->dtype = MOE_DTYPE_OTHER;

    if (s->type->decode == NULL) {
        return 0;
    }

    out = copy_new(t, elements(s) * moe_dtype_size(t->decoded));
    if (out == NULL) {
        return -1;
    }

    decode(s, t->decoded, out);
    moe_gguf_forget(t->g, s);

    p->data = out;
    p->dtype = t->decoded;

    return 0;
}


/* threads only as long as there is something to pack */
static int
pool_of(tensors_t *t)
{
    uint32_t   threads;
    cpu_set_t  set;

    if (t->pool == NULL) {
        threads = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? (uint32_t) CPU_COUNT(&set) : 1;
        t->pool = moe_pool_create(threads, t->err);
    }

    return t->pool != NULL ? 0 : -1;
}


/* n matrices of rows; head: see moe_gguf_pack() */
static int
packed_of(tensors_t *t, const moe_gguf_tensor_t *s, uint64_t n, uint64_t rows,
    uint64_t head, plain_t *p)
{
    uint8_t  *out;

    p->dtype = moe_gguf_packed_type(s);
    p->each = moe_gguf_packed_size(s, rows, s->dims[0]);

    out = copy_new(t, n * p->each);
    if (out == NULL || pool_of(t) != 0) {
        return -1;
    }

    p->data = out;

    if (moe_gguf_pack(s, n, rows, head, t->pool, out, t->err) != 0) {
        return moe_err_prefix(t->err, "%s", moe_gguf_path(t->g));
    }

    moe_gguf_forget(t->g, s);

    return 0;
}


/* blocks that the kernels can have in their own layout; dims are what the
 * engine has room for at all */
static int
is_packable(const tensors_t *t, const moe_gguf_tensor_t *s)
{
    return t->pack && s->type->elems > 1 && s->type->decode != NULL
           && s->dims[0] <= MOE_MAX_FFN && s->dims[1] <= MOE_MAX_VOCAB;
}


/* one tensor [rows, cols] (rows 0: a vector) of the checkpoint */
static int
add_tensor(tensors_t *t, const char *name, const moe_gguf_tensor_t *s,
    moe_dtype_e dtype, const uint8_t *data, uint64_t rows, uint64_t cols)
{
    size_t            cap;
    moe_st_tensor_t  *list, *to;

    if (t->n == t->cap) {
        cap = t->cap ? t->cap * 2 : 256;
        list = realloc(t->list, cap * sizeof(moe_st_tensor_t));

        if (list == NULL) {
            return no_memory(t);
        }

        t->list = list;
        t->cap = cap;
    }

    to = &t->list[t->n];
    memset(to, 0, sizeof(*to));

    to->name = strdup(name);
    if (to->name == NULL) {
        return no_memory(t);
    }

    to->file = moe_gguf_path(t->g);
    to->dtype = dtype;
    to->dtype_name = s->type->name;
    to->data = data;
    to->size = moe_dtype_is_packed(dtype)
               ? moe_gguf_packed_size(s, rows, cols)
               : (rows ? rows : 1) * cols * moe_dtype_size(dtype);
    to->offset = s->offset;
    to->ndim = rows ? 2 : 1;
    to->dims[0] = rows ? rows : cols;
    to->dims[1] = rows ? cols : 0;

    t->n++;

    return 0;
}


/* as it is, whatever its shape, for the binder to judge */
static int
add_whole(tensors_t *t, const char *name, const moe_gguf_tensor_t *s,
    const plain_t *p)
{
    uint32_t          i;
    moe_st_tensor_t  *to;

    if (moe_dtype_is_packed(p->dtype)) {
        return add_tensor(t, name, s, p->dtype, p->data, s->dims[1],
                          s->dims[0]);
    }

    if (add_tensor(t, name, s, p->dtype, p->data, 1, elements(s)) != 0) {
        return -1;
    }

    to = &t->list[t->n - 1];
    to->ndim = (int) s->ndim;

    for (i = 0; i < s->ndim; i++) {
        to->dims[i] = s->dims[s->ndim - 1 - i];
    }

    if (p->dtype == MOE_DTYPE_OTHER) {
        to->size = s->size;
    }

    return 0;
}


/* packed where it can be */
static int
add_matrix(tensors_t *t, const char *name, const moe_gguf_tensor_t *s)
{
    int      rc;
    plain_t  p;

    rc = s->ndim == 2 && is_packable(t, s)
         ? packed_of(t, s, 1, s->dims[1], 0, &p) : plain_of(t, s, &p);

    return rc != 0 ? -1 : add_whole(t, name, s, &p);
}


static void
layer_name(const tensors_t *t, char name[NAME_SIZE], int layer,
    const char *tmpl, int expert)
{
    char         number[16];
    size_t       i, n;
    const char  *word;

    const struct {
        const char  *key;
        const char  *word;
    } words[] = {
        { "{moe}", t->fam->moe_prefix },
        { "{router}", t->fam->router ? t->fam->router : "gate" },
        { "{gate}", t->fam->gate },
        { "{up}", t->fam->up },
        { "{down}", t->fam->down },
        { "{shared}", t->fam->shared ? t->fam->shared : "shared" },
        { "{n}", number }
    };

    snprintf(number, sizeof(number), "%d", expert);
    n = (size_t) snprintf(name, NAME_SIZE, "model.layers.%d.", layer);

    while (*tmpl != '\0' && n + 1 < NAME_SIZE) {

        for (i = 0; *tmpl == '{' && i < COUNT(words); i++) {
            if (strncmp(tmpl, words[i].key, strlen(words[i].key)) == 0) {
                break;
            }
        }

        if (*tmpl != '{' || i == COUNT(words)) {
            name[n++] = *tmpl++;
            continue;
        }

        word = words[i].word;
        tmpl += strlen(words[i].key);

        while (*word != '\0' && n + 1 < NAME_SIZE) {
            name[n++] = *word++;
        }
    }

    name[n] = '\0';
}


static int
bad_shape(tensors_t *t, const moe_gguf_tensor_t *s, const char *want)
{
    return moe_err(t->err, "%s: tensor %s at offset %llu: shape [%llu, %llu, "
                   "%llu, %llu] is not %s", moe_gguf_path(t->g), s->name,
                   (unsigned long long) s->offset,
                   (unsigned long long) s->dims[3],
                   (unsigned long long) s->dims[2],
                   (unsigned long long) s->dims[1],
                   (unsigned long long) s->dims[0], want);
}


/*
 * llama.cpp turns the pairs (i, i + dim / 2) of a llama's rotated heads into
 * neighbours (2i, 2i + 1); row 2i + j of a head goes back to j * dim / 2 + i.
 */
static int
unpermute(tensors_t *t, const moe_gguf_tensor_t *s, plain_t *p, int heads)
{
    uint8_t        *out;
    uint64_t        h, i, j, row, half;

    half = (uint64_t) t->cfg->head_dim / 2;
    row = s->dims[0] * moe_dtype_size(p->dtype);

    out = copy_new(t, row * s->dims[1]);
    if (out == NULL) {
        return -1;
    }

    for (h = 0; h < (uint64_t) heads; h++) {
        for (i = 0; i < half; i++) {
            for (j = 0; j < 2; j++) {
                memcpy(out + ((h * 2 + j) * half + i) * row,
                       p->data + ((h * half + i) * 2 + j) * row, row);
            }
        }
    }

    p->data = out;

    return 0;
}


static int
add_renamed(tensors_t *t, int layer, const rename_t *r,
    const moe_gguf_tensor_t *s)
{
    int      heads;
    char     name[NAME_SIZE];
    plain_t  p;

    heads = 0;

    if (t->cfg->family == MOE_FAMILY_MIXTRAL) {
        heads = strcmp(r->from, "attn_q.weight") == 0 ? t->cfg->n_heads
                : strcmp(r->from, "attn_k.weight") == 0 ? t->cfg->n_kv_heads
                : 0;
    }

    layer_name(t, name, layer, r->to, 0);

    if (heads != 0 && (s->ndim != 2 || s->dims[1] != (uint64_t) heads
                                                * (uint64_t) t->cfg->head_dim))
    {
        return bad_shape(t, s, "that of the heads");
    }

    if (r->pack && s->ndim == 2 && is_packable(t, s)) {
        return packed_of(t, s, 1, s->dims[1],
                         heads ? (uint64_t) t->cfg->head_dim : 0, &p) != 0
               ? -1 : add_whole(t, name, s, &p);
    }

    if (plain_of(t, s, &p) != 0
        || (heads != 0 && p.dtype != MOE_DTYPE_OTHER
            && unpermute(t, s, &p, heads) != 0))
    {
        return -1;
    }

    /* one row, which is a vector here */
    if (strcmp(r->from, "ffn_gate_inp_shexp.weight") == 0 && s->ndim == 1) {
        return add_tensor(t, name, s, p.dtype, p.data, 1, s->dims[0]);
    }

    return add_whole(t, name, s, &p);
}


/* rows first .. first + rows of every expert's part */
static int
add_experts(tensors_t *t, int layer, const char *to,
    const moe_gguf_tensor_t *s, const plain_t *p, uint64_t first,
    uint64_t rows)
{
    int       e;
    char      name[NAME_SIZE];
    uint64_t  at, width;

    width = moe_dtype_size(p->dtype);

    for (e = 0; e < t->cfg->n_experts; e++) {
        layer_name(t, name, layer, to, e);
        at = moe_dtype_is_packed(p->dtype)
             ? (uint64_t) e * p->each
             : ((uint64_t) e * s->dims[1] + first) * s->dims[0] * width;

        if (add_tensor(t, name, s, p->dtype, p->data + at, rows, s->dims[0])
            != 0)
        {
            return -1;
        }
    }

    return 0;
}


/* part: 0 gate, 1 up, 2 down; 3: gate and up in one */
static int
add_fused(tensors_t *t, int layer, int part, const moe_gguf_tensor_t *s)
{
    plain_t   p;
    uint64_t  half;

    if (s->dims[2] != (uint64_t) t->cfg->n_experts || s->dims[3] != 1) {
        return bad_shape(t, s, "one part an expert");
    }

    if (part < 3 && is_packable(t, s)) {
        return packed_of(t, s, s->dims[2], s->dims[1], 0, &p) != 0
               ? -1 : add_experts(t, layer, fused_names[part].to, s, &p, 0,
                                  s->dims[1]);
    }

    if (plain_of(t, s, &p) != 0) {
        return -1;
    }

    if (part < 3) {
        return add_experts(t, layer, fused_names[part].to, s, &p, 0,
                           s->dims[1]);
    }

    half = s->dims[1] / 2;

    if (s->dims[1] % 2 != 0) {
        return bad_shape(t, s, "gate and up");
    }

    if (add_experts(t, layer, fused_names[0].to, s, &p, 0, half) != 0) {
        return -1;
    }

    return add_experts(t, layer, fused_names[1].to, s, &p, half, half);
}


static int
add_biases(tensors_t *t, int layer, const char *to, const moe_gguf_tensor_t *s)
{
    int      e;
    char     name[NAME_SIZE];
    size_t   each;
    plain_t  p;

    if (s->ndim != 2 || s->dims[1] != (uint64_t) t->cfg->n_experts) {
        return bad_shape(t, s, "one row an expert");
    }

    if (plain_of(t, s, &p) != 0) {
        return -1;
    }

    each = (size_t) s->dims[0] * moe_dtype_size(p.dtype);

    for (e = 0; e < t->cfg->n_experts; e++) {
        layer_name(t, name, layer, to, e);

        if (add_tensor(t, name, s, p.dtype, p.data + (size_t) e * each, 0,
                       s->dims[0])
            != 0)
        {
            return -1;
        }
    }

    return 0;
}


/* "ffn_gate.7.weight", as the first Mixtral files have their experts */
static int
single_expert(const char *name, int *part, int *expert)
{
    int   n;
    char  word[8];

    static const char *const  words[] = { "gate", "up", "down" };

    n = 0;

    if (sscanf(name, "ffn_%4[a-z].%4d.weight%n", word, expert, &n) != 2
        || n == 0 || name[n] != '\0' || *expert < 0)
    {
        return 0;
    }

    for (*part = 0; *part < 3; (*part)++) {
        if (strcmp(word, words[*part]) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
same_types(tensors_t *t, const moe_gguf_tensor_t *k, plain_t *pk,
    const moe_gguf_tensor_t *v, plain_t *pv)
{
    int                       i;
    void                     *out;
    plain_t                  *p[2] = { pk, pv };
    const moe_gguf_tensor_t  *s[2] = { k, v };

    if (plain_of(t, k, pk) != 0 || plain_of(t, v, pv) != 0) {
        return -1;
    }

    for (i = 0; i < 2; i++) {
        if (p[i]->dtype == MOE_DTYPE_OTHER) {
            return moe_err(t->err, "%s: tensor %s: type %s cannot be used",
                           moe_gguf_path(t->g), s[i]->name, s[i]->type->name);
        }
    }

    for (i = 0; pk->dtype != pv->dtype && i < 2; i++) {
        out = copy_new(t, elements(s[i]) * sizeof(float));
        if (out == NULL) {
            return -1;
        }

        decode(s[i], MOE_DTYPE_F32, out);
        p[i]->data = out;
    }

    if (pk->dtype != pv->dtype) {
        pk->dtype = MOE_DTYPE_F32;
        pv->dtype = MOE_DTYPE_F32;
    }

    return 0;
}


/*
 * kv_b from its halves: k_b[head][latent][nope], transposed for the absorbed
 * form, and v_b[head][v][latent].
 */
static int
add_kv_b(tensors_t *t, int layer, const moe_gguf_tensor_t *k,
    const moe_gguf_tensor_t *v)
{
    char            name[NAME_SIZE];
    uint8_t        *out, *head;
    plain_t         pk, pv;
    uint64_t        h, i, j, w, nope, vdim, rank, heads;
    const uint8_t  *from;

    heads = (uint64_t) t->cfg->n_heads;
    nope = (uint64_t) t->cfg->qk_nope_head_dim;
    vdim = (uint64_t) t->cfg->v_head_dim;
    rank = (uint64_t) t->cfg->kv_lora_rank;

    if (k->dims[0] != nope || k->dims[1] != rank || k->dims[2] != heads
        || k->dims[3] != 1)
    {
        return bad_shape(t, k, "[heads, kv_lora_rank, nope]");
    }

    if (v->dims[0] != rank || v->dims[1] != vdim || v->dims[2] != heads
        || v->dims[3] != 1)
    {
        return bad_shape(t, v, "[heads, v, kv_lora_rank]");
    }

    if (same_types(t, k, &pk, v, &pv) != 0) {
        return -1;
    }

    w = moe_dtype_size(pk.dtype);

    out = copy_new(t, heads * (nope + vdim) * rank * w);
    if (out == NULL) {
        return -1;
    }

    for (h = 0; h < heads; h++) {
        head = out + h * (nope + vdim) * rank * w;
        from = pk.data + h * nope * rank * w;

        for (i = 0; i < nope; i++) {
            for (j = 0; j < rank; j++) {
                memcpy(head + (i * rank + j) * w, from + (j * nope + i) * w,
                       w);
            }
        }

        memcpy(head + nope * rank * w, pv.data + h * vdim * rank * w,
               vdim * rank * w);
    }

    layer_name(t, name, layer, "self_attn.kv_b_proj.weight", 0);

    return add_tensor(t, name, k, pk.dtype, out, heads * (nope + vdim), rank);
}


/* 1: halves of kv_b; the k half stands for both */
static int
add_kv_half(tensors_t *t, int layer, const char *name,
    const moe_gguf_tensor_t *s, int *done)
{
    char                      other[64];
    const moe_gguf_tensor_t  *v;

    *done = t->cfg->attn == MOE_ATTN_MLA
            && (strcmp(name, "attn_k_b.weight") == 0
                || strcmp(name, "attn_v_b.weight") == 0);

    if (!*done || name[5] == 'v') {
        return 0;
    }

    snprintf(other, sizeof(other), "blk.%d.attn_kv_b.weight", layer);

    if (moe_gguf_tensor(t->g, other) != NULL) {
        return 0;
    }

    snprintf(other, sizeof(other), "blk.%d.attn_v_b.weight", layer);
    v = moe_gguf_tensor(t->g, other);

    if (v == NULL) {
        return moe_err(t->err, "%s: tensor %s is missing",
                       moe_gguf_path(t->g), other);
    }

    return add_kv_b(t, layer, s, v);
}


/* what nothing here knows keeps its name, and is counted as not used */
static int
add_unknown(tensors_t *t, const moe_gguf_tensor_t *s)
{
    plain_t  p;

    p = (plain_t) { s->data, MOE_DTYPE_OTHER, 0 };

    return add_whole(t, s->name, s, &p);
}


static int
add_of_layer(tensors_t *t, int layer, const char *name,
    const moe_gguf_tensor_t *s)
{
    int       done, part, expert;
    char      to[NAME_SIZE];
    size_t    i;

    for (i = 0; i < COUNT(layer_names); i++) {
        if (strcmp(name, layer_names[i].from) == 0) {
            return add_renamed(t, layer, &layer_names[i], s);
        }
    }

    for (i = 0; i < COUNT(fused_names); i++) {
        if (strcmp(name, fused_names[i].from) == 0) {
            return add_fused(t, layer, (int) i, s);
        }
    }

    for (i = 0; i < COUNT(fused_biases); i++) {
        if (strcmp(name, fused_biases[i].from) == 0) {
            return add_biases(t, layer, fused_biases[i].to, s);
        }
    }

    if (strcmp(name, "ffn_gate_up_exps.weight") == 0) {
        return add_fused(t, layer, 3, s);
    }

    if (single_expert(name, &part, &expert)) {
        layer_name(t, to, layer, fused_names[part].to, expert);

        return add_matrix(t, to, s);
    }

    if (add_kv_half(t, layer, name, s, &done) != 0) {
        return -1;
    }

    return done ? 0 : add_unknown(t, s);
}


static int
add_one(tensors_t *t, const moe_gguf_tensor_t *s)
{
    int      n, layer;
    size_t   i;
    plain_t  p;

    for (i = 0; i < COUNT(top_names); i++) {
        if (strcmp(s->name, top_names[i].from) == 0) {
            return top_names[i].pack ? add_matrix(t, top_names[i].to, s)
                   : plain_of(t, s, &p) != 0
                     ? -1 : add_whole(t, top_names[i].to, s, &p);
        }
    }

    n = 0;

    if (sscanf(s->name, "blk.%5d.%n", &layer, &n) == 1 && n > 0
        && layer >= 0 && layer < t->cfg->n_layers)
    {
        return add_of_layer(t, layer, s->name + n, s);
    }

    return add_unknown(t, s);
}


/* whether the elements of all blocks are at most so many */
static int
is_small(const moe_gguf_t *g, uint64_t max)
{
    size_t                    i;
    uint64_t                  sum;
    const moe_gguf_tensor_t  *s;

    sum = 0;

    for (i = 0; (s = moe_gguf_tensor_at(g, i)) != NULL; i++) {
        if (s->type->elems > 1) {
            if (elements(s) > max - sum) {
                return 0;
            }

            sum += elements(s);
        }
    }

    return 1;
}


moe_st_t *
moe_gguf_tensors(moe_gguf_t *g, const moe_config_t *cfg, uint64_t wide,
    moe_err_t *err)
{
    size_t                    i;
    tensors_t                *t;
    moe_st_file_t             file = { 0 };
    const moe_gguf_tensor_t  *s;

    t = calloc(1, sizeof(tensors_t));
    if (t == NULL) {
        moe_err(err, "%s: no memory", moe_gguf_path(g));
        moe_gguf_close(g);
        return NULL;
    }

    t->g = g;
    t->cfg = cfg;
    t->fam = moe_family(cfg->family);
    t->err = err;
    t->pack = !is_small(g, wide);
    t->decoded = t->pack ? MOE_DTYPE_BF16 : MOE_DTYPE_F32;

    for (i = 0; (s = moe_gguf_tensor_at(g, i)) != NULL; i++) {
        if (add_one(t, s) != 0) {
            tensors_release(t);
            return NULL;
        }
    }

    moe_pool_destroy(t->pool);
    t->pool = NULL;

    file.path = moe_gguf_path(g);
    file.header = moe_gguf_header(g, &file.header_size);
    file.size = moe_gguf_size(g);

    return moe_st_adopt(&file, t->list, t->n, tensors_release, t, err);
}


moe_st_t *
moe_gguf_tensors_open(const char *path, const moe_config_t *cfg,
    moe_err_t *err)
{
    moe_gguf_t  *g;

    g = moe_gguf_open(path, err);

    return g != NULL ? moe_gguf_tensors(g, cfg, MOE_GGUF_WIDE, err) : NULL;
}
