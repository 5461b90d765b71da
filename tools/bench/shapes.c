/*
 * shapes SHAPE TYPE FILE [SEED]
 *
 * Writes a GGUF file with random weights in the shape of a real model, for
 * measurements: the same bytes for the same seed.  TYPE is what matrices are;
 * norms and routers are F32, in 4-bit files the head and MLA's kv_b are Q8_0.
 * Values have a standard deviation of 1 / sqrt(inputs), so that activations
 * keep their size from layer to layer and no expert is preferred.
 *
 * Prints one line:
 *
 *     SHAPE TYPE weights bytes-of-the-file active-bytes kv-elements
 *
 * Active bytes are what one token reads: of the experts its share, of the
 * embedding one row, all else whole.  kv-elements is what a position keeps
 * over all layers.
 */

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>


enum {
    ALIGN = 32,
    MAX_TENSORS = 1024,
    BUFFER = 1 << 22,
    META = 1 << 26,
    CONTEXT = 32768             /* positions a file allows */
};

enum { F32 = 0, BF16 = 30, Q4_0 = 2, Q8_0 = 8, Q4_K = 12, Q5_K = 13,
       Q6_K = 14, MXFP4 = 39 };

enum { GGUF_U32 = 4, GGUF_I32 = 5, GGUF_F32 = 6, GGUF_BOOL = 7,
       GGUF_STRING = 8, GGUF_ARRAY = 9 };


typedef struct {
    const char  *name;
    const char  *arch;
    const char  *pre;           /* how text is split before merging */
    uint32_t     layers;
    uint32_t     dense;         /* layers without experts, the first ones */
    uint32_t     hidden;
    uint32_t     heads;
    uint32_t     kv_heads;
    uint32_t     head;          /* width */
    uint32_t     ffn;           /* of a dense layer */
    uint32_t     expert_ffn;
    uint32_t     experts;
    uint32_t     used;
    uint32_t     shared;
    uint32_t     vocab;
    uint32_t     latent;        /* 0: no MLA; rotated: 64, the others 128 */
    float        rope;
    float        epsilon;
} shape_t;

typedef struct {
    const char  *name;
    uint32_t     id;
    uint32_t     elems;         /* of a block */
    uint32_t     bytes;
} type_t;

typedef struct {
    char           name[64];
    const type_t  *type;
    uint64_t       dims[3];
    uint64_t       offset;
    uint64_t       size;
} tensor_t;

typedef struct {
    const shape_t  *shape;
    const type_t   *type;       /* of matrices */
    const type_t   *fine;       /* of those that are kept in more bits */
    tensor_t        tensors[MAX_TENSORS];
    uint32_t        n;
    uint64_t        data;
    uint64_t        weights;
    uint64_t        active;
    uint64_t        kv;
    uint8_t        *meta;
    size_t          len;
    uint64_t        keys;
    uint64_t        random[4];
    FILE           *f;
} file_t;


static const shape_t  shapes[] = {
    { "deepseek-v2-lite", "deepseek2", "deepseek-llm", 27, 1, 2048, 16, 16,
      192, 10944, 1408, 64, 6, 2, 102400, 512, 10000, 1e-6f },
    { "olmoe-1b-7b", "olmoe", "olmo", 16, 0, 2048, 16, 16, 128, 1024, 1024,
      64, 8, 0, 50304, 0, 10000, 1e-5f },
    { "qwen3-30b-a3b", "qwen3moe", "qwen2", 48, 0, 2048, 32, 4, 128, 6144,
      768, 128, 8, 0, 151936, 0, 1000000, 1e-6f },
    /* for agreement, not for speed; 27 layers are how llama.cpp knows a V2
     * without q-LoRA */
    { "small-deepseek2", "deepseek2", "deepseek-llm", 27, 1, 512, 4, 4, 192,
      1024, 256, 8, 2, 1, 2048, 256, 10000, 1e-6f },
    { "small-qwen3moe", "qwen3moe", "qwen2", 4, 0, 512, 8, 2, 64, 1024, 256,
      16, 4, 0, 2048, 0, 1000000, 1e-6f }
};

static const type_t  types[] = {
    { "f32", F32, 1, 4 },
    { "bf16", BF16, 1, 2 },
    { "q8_0", Q8_0, 32, 34 },
    { "q4_0", Q4_0, 32, 18 },
    { "q4_k", Q4_K, 256, 144 },
    { "q5_k", Q5_K, 256, 176 },
    { "q6_k", Q6_K, 256, 210 },
    { "mxfp4", MXFP4, 32, 17 }
};

#define COUNT(a)  (sizeof(a) / sizeof(a[0]))


static void
die(const char *format, ...)
{
    va_list  args;

    va_start(args, format);
    fprintf(stderr, "shapes: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    va_end(args);

    exit(1);
}


static const type_t *
type_find(const char *name)
{
    size_t  i;

    for (i = 0; i < COUNT(types); i++) {
        if (strcmp(types[i].name, name) == 0) {
            return &types[i];
        }
    }

    die("no type \"%s\"", name);

    return NULL;
}


static const shape_t *
shape_find(const char *name)
{
    size_t  i;

    for (i = 0; i < COUNT(shapes); i++) {
        if (strcmp(shapes[i].name, name) == 0) {
            return &shapes[i];
        }
    }

    die("no shape \"%s\"", name);

    return NULL;
}


/* ---- random numbers: xoshiro256++ ---- */


static uint64_t
rotated(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}


static uint64_t
next(file_t *f)
{
    uint64_t  t, r, *s;

    s = f->random;
    r = rotated(s[0] + s[3], 23) + s[0];
    t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotated(s[3], 45);

    return r;
}


static void
seed(file_t *f, uint64_t x)
{
    int       i;
    uint64_t  z;

    for (i = 0; i < 4; i++) {
        x += 0x9e3779b97f4a7c15u;
        z = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        f->random[i] = z ^ z >> 31;
    }
}


/* about normal, deviation 1 */
static float
normal(file_t *f)
{
    int       i;
    float     sum;
    uint64_t  r;

    r = next(f);
    sum = -2;

    for (i = 0; i < 4; i++) {
        sum += (float) (r >> (16 * i) & 0xffff) / 65536.0f;
    }

    return sum * 1.7320508f;
}


static void
random_bytes(file_t *f, uint8_t *p, size_t n)
{
    uint64_t  r;

    for ( ; n >= 8; n -= 8, p += 8) {
        r = next(f);
        memcpy(p, &r, 8);
    }

    r = next(f);
    memcpy(p, &r, n);
}


/* as float16, cut off; the smallest ones too */
static uint16_t
half(float x)
{
    uint32_t  u;

    memcpy(&u, &x, 4);

    if ((u >> 23 & 0xff) < 113) {
        return (uint16_t) ((u >> 16 & 0x8000)
                           | (uint32_t) (fabsf(x) * 16777216));
    }

    return (uint16_t) ((u >> 16 & 0x8000)
                       | (((u >> 23 & 0xff) - 112) << 10 & 0x7c00)
                       | (u >> 13 & 0x3ff));
}


/* ---- blocks ---- */


/* one block of values of deviation std; the divisors are the deviations of
 * uniform quants, of K quants times uniform scales */
static void
block(file_t *f, const type_t *t, float std, uint8_t *p)
{
    int       i;
    float     x;
    uint16_t  d, m;
    uint32_t  u;

    switch (t->id) {

    case F32:
        x = normal(f) * std;
        memcpy(p, &x, 4);
        return;

    case BF16:
        x = normal(f) * std;
        memcpy(&u, &x, 4);
        d = (uint16_t) (u >> 16);
        memcpy(p, &d, 2);
        return;

    default:
        break;
    }

    random_bytes(f, p, t->bytes);
    std *= (float) (0.75 + (double) (f->random[0] >> 40) / (1 << 25));

    switch (t->id) {

    case Q8_0:
        d = half(std / 73.6f);
        memcpy(p, &d, 2);

        for (i = 2; i < 34; i++) {
            p[i] = p[i] == 0x80 ? 0x81 : p[i];
        }

        break;

    case Q4_0:
        /* quants are -8 .. 7: either sign, lest every sum be negative */
        d = half(f->random[1] >> 63 ? std / 4.6f : -std / 4.6f);
        memcpy(p, &d, 2);
        break;

    case Q4_K:
        d = half(std / 258);
        m = half(std / 258 * 7.5f);
        memcpy(p, &d, 2);
        memcpy(p + 2, &m, 2);
        break;

    case Q5_K:
        d = half(std / 527);
        m = half(std / 527 * 15.5f);
        memcpy(p, &d, 2);
        memcpy(p + 2, &m, 2);
        break;

    case Q6_K:
        d = half(std / 1366);
        memcpy(p + 208, &d, 2);
        break;

    default:
        p[0] = (uint8_t) lrintf(127 + log2f(std / 2.93f));
    }
}


static void
put(file_t *f, const void *p, size_t n)
{
    if (fwrite(p, 1, n, f->f) != n) {
        die("cannot write");
    }
}


static void
put_zeros(file_t *f, size_t n)
{
    static const uint8_t  zeros[ALIGN];

    put(f, zeros, n);
}


static void
put_tensor(file_t *f, const tensor_t *t)
{
    float            std, one;
    size_t           n, i, left;
    static uint8_t   buf[BUFFER];

    one = 1;
    std = 1 / sqrtf((float) t->dims[0]);
    left = (size_t) (t->size / t->type->bytes);

    while (left > 0) {
        n = BUFFER / t->type->bytes;
        n = n < left ? n : left;

        for (i = 0; i < n; i++) {
            if (t->dims[1] == 0) {
                memcpy(buf + i * 4, &one, 4);

            } else {
                block(f, t->type, strncmp(t->name, "token_", 6) ? std : 1.0f,
                      buf + i * t->type->bytes);
            }
        }

        put(f, buf, n * t->type->bytes);
        left -= n;
    }

    put_zeros(f, (ALIGN - t->size % ALIGN) % ALIGN);
}


/* ---- metadata ---- */


static void
meta(file_t *f, const void *p, size_t n)
{
    if (n > META - f->len) {
        die("too many metadata");
    }

    memcpy(f->meta + f->len, p, n);
    f->len += n;
}


static void
meta_u32(file_t *f, uint32_t v)
{
    meta(f, &v, 4);
}


static void
meta_u64(file_t *f, uint64_t v)
{
    meta(f, &v, 8);
}


static void
meta_string(file_t *f, const char *s)
{
    meta_u64(f, strlen(s));
    meta(f, s, strlen(s));
}


/* a key; one that begins with a dot is the architecture's */
static void
key(file_t *f, const char *name, uint32_t type)
{
    char  text[96];

    snprintf(text, sizeof(text), "%s%s", name[0] == '.' ? f->shape->arch : "",
             name);
    meta_string(f, text);
    meta_u32(f, type);
    f->keys++;
}


static void
key_u32(file_t *f, const char *name, uint32_t v)
{
    key(f, name, GGUF_U32);
    meta_u32(f, v);
}


static void
key_f32(file_t *f, const char *name, float v)
{
    key(f, name, GGUF_F32);
    meta(f, &v, 4);
}


static void
key_bool(file_t *f, const char *name, uint8_t v)
{
    key(f, name, GGUF_BOOL);
    meta(f, &v, 1);
}


static void
key_string(file_t *f, const char *name, const char *v)
{
    key(f, name, GGUF_STRING);
    meta_string(f, v);
}


static void
key_array(file_t *f, const char *name, uint32_t type, uint64_t n)
{
    key(f, name, GGUF_ARRAY);
    meta_u32(f, type);
    meta_u64(f, n);
}


static void
model_keys(file_t *f)
{
    const shape_t  *s;

    s = f->shape;

    key_string(f, "general.architecture", s->arch);
    key_string(f, "general.name", s->name);
    key_u32(f, "general.quantization_version", 2);
    key_u32(f, ".vocab_size", s->vocab);
    key_u32(f, ".context_length", CONTEXT);
    key_u32(f, ".embedding_length", s->hidden);
    key_u32(f, ".block_count", s->layers);
    key_u32(f, ".feed_forward_length", s->ffn);
    key_u32(f, ".attention.head_count", s->heads);
    key_f32(f, ".attention.layer_norm_rms_epsilon", s->epsilon);
    key_f32(f, ".rope.freq_base", s->rope);
    key_u32(f, ".expert_count", s->experts);
    key_u32(f, ".expert_used_count", s->used);
    key_u32(f, ".expert_feed_forward_length", s->expert_ffn);

    if (s->latent == 0) {
        key_u32(f, ".attention.head_count_kv", s->kv_heads);
        key_u32(f, ".attention.key_length", s->head);
        key_u32(f, ".attention.value_length", s->head);
        key_u32(f, ".rope.dimension_count", s->head);
        return;
    }

    key_u32(f, ".attention.head_count_kv", 1);
    key_u32(f, ".attention.kv_lora_rank", s->latent);
    key_u32(f, ".attention.key_length", s->latent + 64);
    key_u32(f, ".attention.value_length", s->latent);
    key_u32(f, ".attention.key_length_mla", 192);
    key_u32(f, ".attention.value_length_mla", 128);
    key_u32(f, ".rope.dimension_count", 64);
    key_string(f, ".rope.scaling.type", "yarn");
    key_f32(f, ".rope.scaling.factor", 40);
    key_u32(f, ".rope.scaling.original_context_length", 4096);
    key_f32(f, ".rope.scaling.yarn_log_multiplier", 0.0707f);
    key_u32(f, ".leading_dense_block_count", s->dense);
    key_u32(f, ".expert_shared_count", s->shared);
    key_f32(f, ".expert_weights_scale", 1);
    key_bool(f, ".expert_weights_norm", 0);
    key_u32(f, ".expert_gating_func", 1);
}


/* a byte as byte-level vocabularies write it */
static void
byte_text(uint32_t b, char *out)
{
    uint32_t  c, i;

    c = b;

    if (b < 33 || (b > 126 && b < 161) || b == 173) {
        for (c = 256, i = 0; i < b; i++) {
            c += i < 33 || (i > 126 && i < 161) || i == 173;
        }
    }

    if (c < 128) {
        out[0] = (char) c;
        out[1] = '\0';

    } else {
        out[0] = (char) (0xc0 | c >> 6);
        out[1] = (char) (0x80 | (c & 63));
        out[2] = '\0';
    }
}


/* bytes, pairs of small letters, words that no text contains, the end */
static void
vocabulary_keys(file_t *f)
{
    char      text[32];
    uint32_t  i, n;

    n = f->shape->vocab;

    key_string(f, "tokenizer.ggml.model", "gpt2");
    key_string(f, "tokenizer.ggml.pre", f->shape->pre);
    key_array(f, "tokenizer.ggml.tokens", GGUF_STRING, n);

    for (i = 0; i < n; i++) {
        if (i < 256) {
            byte_text(i, text);

        } else if (i < 256 + 26 * 26) {
            snprintf(text, sizeof(text), "%c%c", 'a' + (i - 256) / 26,
                     'a' + (i - 256) % 26);

        } else if (i < n - 1) {
            snprintf(text, sizeof(text), "\xc4\xa0w%u", i);

        } else {
            strcpy(text, "<|endoftext|>");
        }

        meta_string(f, text);
    }

    key_array(f, "tokenizer.ggml.token_type", GGUF_I32, n);

    for (i = 0; i < n; i++) {
        meta_u32(f, i < n - 1 ? 1 : 3);
    }

    key_array(f, "tokenizer.ggml.merges", GGUF_STRING, 26 * 26);

    for (i = 0; i < 26 * 26; i++) {
        snprintf(text, sizeof(text), "%c %c", 'a' + i / 26, 'a' + i % 26);
        meta_string(f, text);
    }

    key_u32(f, "tokenizer.ggml.bos_token_id", n - 1);
    key_u32(f, "tokenizer.ggml.eos_token_id", n - 1);
    key_bool(f, "tokenizer.ggml.add_bos_token", 0);
}


/* ---- tensors ---- */


/* layer < 0: none; rows 0: a vector; n 0: one matrix */
static void
add(file_t *f, int layer, const char *name, const type_t *type, uint64_t cols,
    uint64_t rows, uint64_t n)
{
    tensor_t  *t;
    uint64_t   elements;

    if (f->n == MAX_TENSORS) {
        die("too many tensors");
    }

    t = &f->tensors[f->n++];

    if (layer < 0) {
        snprintf(t->name, sizeof(t->name), "%s", name);
    } else {
        snprintf(t->name, sizeof(t->name), "blk.%d.%s", layer, name);
    }

    if (cols % type->elems != 0) {
        die("%s: rows of %llu are not in blocks of %u", t->name,
            (unsigned long long) cols, type->elems);
    }

    elements = cols * (rows ? rows : 1) * (n ? n : 1);
    t->type = type;
    t->dims[0] = cols;
    t->dims[1] = rows;
    t->dims[2] = n;
    t->size = elements / type->elems * type->bytes;
    t->offset = f->data;
    f->data += (t->size + ALIGN - 1) / ALIGN * ALIGN;
    f->weights += elements;

    f->active += strncmp(name, "token_", 6) == 0 ? t->size / rows
                 : strstr(name, "_exps.") != NULL
                   ? t->size / n * f->shape->used
                 : t->size;
}


static void
add_attention(file_t *f, int layer)
{
    const type_t   *plain;
    const shape_t  *s;

    s = f->shape;
    plain = type_find("f32");

    add(f, layer, "attn_norm.weight", plain, s->hidden, 0, 0);
    add(f, layer, "attn_q.weight", f->type, s->hidden, s->heads * s->head, 0);

    if (s->latent) {
        add(f, layer, "attn_kv_a_mqa.weight", f->type, s->hidden,
            s->latent + 64, 0);
        add(f, layer, "attn_kv_a_norm.weight", plain, s->latent, 0, 0);
        add(f, layer, "attn_k_b.weight", f->fine, 128, s->latent, s->heads);
        add(f, layer, "attn_v_b.weight", f->fine, s->latent, 128, s->heads);
        add(f, layer, "attn_output.weight", f->type, s->heads * 128,
            s->hidden, 0);
        f->kv += s->latent + 64;
        return;
    }

    add(f, layer, "attn_k.weight", f->type, s->hidden, s->kv_heads * s->head,
        0);
    add(f, layer, "attn_v.weight", f->type, s->hidden, s->kv_heads * s->head,
        0);
    add(f, layer, "attn_output.weight", f->type, s->heads * s->head,
        s->hidden, 0);

    /* OLMoE's are as wide as all heads */
    add(f, layer, "attn_q_norm.weight", plain,
        strcmp(s->arch, "olmoe") ? s->head : s->heads * s->head, 0, 0);
    add(f, layer, "attn_k_norm.weight", plain,
        strcmp(s->arch, "olmoe") ? s->head : s->kv_heads * s->head, 0, 0);
    f->kv += 2 * s->kv_heads * s->head;
}


static void
add_layer(file_t *f, int layer)
{
    uint32_t        wide;
    const type_t   *plain;
    const shape_t  *s;

    s = f->shape;
    plain = type_find("f32");

    add_attention(f, layer);
    add(f, layer, "ffn_norm.weight", plain, s->hidden, 0, 0);

    if ((uint32_t) layer < s->dense) {
        add(f, layer, "ffn_gate.weight", f->type, s->hidden, s->ffn, 0);
        add(f, layer, "ffn_up.weight", f->type, s->hidden, s->ffn, 0);
        add(f, layer, "ffn_down.weight", f->type, s->ffn, s->hidden, 0);
        return;
    }

    add(f, layer, "ffn_gate_inp.weight", plain, s->hidden, s->experts, 0);
    add(f, layer, "ffn_gate_exps.weight", f->type, s->hidden, s->expert_ffn,
        s->experts);
    add(f, layer, "ffn_up_exps.weight", f->type, s->hidden, s->expert_ffn,
        s->experts);
    add(f, layer, "ffn_down_exps.weight", f->type, s->expert_ffn, s->hidden,
        s->experts);

    if (s->shared) {
        wide = s->shared * s->expert_ffn;
        add(f, layer, "ffn_gate_shexp.weight", f->type, s->hidden, wide, 0);
        add(f, layer, "ffn_up_shexp.weight", f->type, s->hidden, wide, 0);
        add(f, layer, "ffn_down_shexp.weight", f->type, wide, s->hidden, 0);
    }
}


static void
tensor_infos(file_t *f)
{
    int              ndim, j;
    uint32_t         i;
    const tensor_t  *t;

    for (i = 0; i < f->n; i++) {
        t = &f->tensors[i];
        ndim = t->dims[2] ? 3 : t->dims[1] ? 2 : 1;
        meta_string(f, t->name);
        meta_u32(f, (uint32_t) ndim);

        for (j = 0; j < ndim; j++) {
            meta_u64(f, t->dims[j]);
        }

        meta_u32(f, t->type->id);
        meta_u64(f, t->offset);
    }
}


int
main(int argc, char **argv)
{
    uint32_t       i;
    uint64_t       head[3];
    static file_t  f;

    if (argc < 4 || argc > 5) {
        fprintf(stderr, "usage: shapes SHAPE TYPE FILE [SEED]\n");
        return 2;
    }

    f.shape = shape_find(argv[1]);
    f.type = type_find(argv[2]);
    f.fine = f.type->bytes < f.type->elems ? type_find("q8_0") : f.type;
    f.meta = malloc(META);
    f.f = fopen(argv[3], "wb");

    if (f.meta == NULL || f.f == NULL) {
        die("cannot open %s", argv[3]);
    }

    seed(&f, argc > 4 ? strtoull(argv[4], NULL, 10) : 1);

    add(&f, -1, "token_embd.weight", f.type, f.shape->hidden, f.shape->vocab,
        0);

    for (i = 0; i < f.shape->layers; i++) {
        add_layer(&f, (int) i);
    }

    add(&f, -1, "output_norm.weight", type_find("f32"), f.shape->hidden, 0,
        0);
    add(&f, -1, "output.weight", f.fine, f.shape->hidden, f.shape->vocab, 0);

    model_keys(&f);
    vocabulary_keys(&f);
    tensor_infos(&f);

    put(&f, "GGUF\3\0\0\0", 8);
    head[0] = f.n;
    head[1] = f.keys;
    put(&f, head, 16);
    put(&f, f.meta, f.len);
    put_zeros(&f, (ALIGN - (24 + f.len) % ALIGN) % ALIGN);

    for (i = 0; i < f.n; i++) {
        put_tensor(&f, &f.tensors[i]);
    }

    printf("%s %s %llu %llu %llu %llu\n", f.shape->name, f.type->name,
           (unsigned long long) f.weights,
           (unsigned long long) ftello(f.f),
           (unsigned long long) f.active, (unsigned long long) f.kv);

    if (fclose(f.f) != 0) {
        die("cannot write %s", argv[3]);
    }

    free(f.meta);

    return 0;
}
