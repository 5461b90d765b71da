#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "kernels/cpu/packed.h"
#include "model/config.h"
#include "model/fused.h"
#include "model/gguf_model.h"
#include "model/packed.h"
#include "model/quantize.h"
#include "model/quantize_files.h"
#include "model/weights.h"


#define FILE_MAX   (256u << 20)     /* of a small file that is copied */
#define CHUNK      (16u << 20)      /* bytes written at a time, about */
#define SCALES     "_scale_inv"
#define NAME       "\"%.160s\""


typedef struct {
    const moe_st_tensor_t  *from;
    const moe_st_tensor_t  *scales; /* F8 */
    moe_format_e            format;
    uint64_t                rows;   /* a vector: 1 */
    uint64_t                cols;
    uint64_t                size;   /* as it will be */
    uint64_t                offset;
} plan_t;

typedef struct {
    const char            *dir;
    const char            *out;
    const moe_quantize_t  *q;
    moe_st_t              *st;
    moe_config_t           cfg;
    moe_pool_t            *pool;
    plan_t                *plan;
    size_t                 n;
    uint64_t               data;    /* bytes of all tensors */
    char                  *header;  /* with its length */
    size_t                 header_len;
    int                    fd;
    EVP_MD_CTX            *md;      /* of the data */
    moe_err_t             *err;
} quantize_t;

/* a run of strips or rows that is made at once */
typedef struct {
    const plan_t   *p;
    moe_tensor_t    t;
    uint64_t        first;          /* row */
    uint64_t        nrows;
    uint8_t        *out;
    _Atomic int     bad;            /* a value that cannot be packed */
} chunk_t;


static int quantize(quantize_t *z, moe_quantize_progress_pt progress,
    void *ctx, moe_quantized_t *done);


static const char *const  format_names[] = {
    "keep", "f32", "bf16", "int8", "int4", "mxfp4"
};

/* the last that matches; what none matches is kept.  What every token passes
 * costs few bytes a token and much accuracy: docs/benchmarks/accuracy.md */
static const struct {
    const char    *pattern;
    moe_format_e   int8;
    moe_format_e   int4;
} format_table[] = {
    { "*.mlp.*_proj.weight", MOE_FORMAT_INT8, MOE_FORMAT_INT8 },
    { "*.experts.*.weight", MOE_FORMAT_INT8, MOE_FORMAT_INT4 },
    { "*.shared_expert*.*_proj.weight", MOE_FORMAT_INT8, MOE_FORMAT_INT8 },
    { "*.self_attn.*_proj.weight", MOE_FORMAT_INT8, MOE_FORMAT_INT8 },
    { "*.self_attn.kv_a_proj_with_mqa.weight", MOE_FORMAT_INT8,
      MOE_FORMAT_INT8 },
    { "*.self_attn.kv_b_proj.weight", MOE_FORMAT_KEEP, MOE_FORMAT_KEEP },
    { "lm_head.weight", MOE_FORMAT_INT8, MOE_FORMAT_INT8 },
};

/* matrices that are read by rows, or whose sums are to be exact */
static const char *const  format_never[] = {
    "model.embed_tokens.weight", "*.self_attn.kv_b_proj.weight",
    "*.gate.weight", "*.shared_expert_gate.weight", "*norm*", "*.eh_proj.*",
    "*embed_tokens*"
};

#define COUNT(a)  (sizeof(a) / sizeof(a[0]))


moe_format_e
moe_format_find(const char *name)
{
    int  i;

    for (i = 0; i < MOE_FORMAT_NONE; i++) {
        if (strcmp(name, format_names[i]) == 0) {
            break;
        }
    }

    return (moe_format_e) i;
}


const char *
moe_format_name(moe_format_e format)
{
    return format_names[format];
}


int
moe_quantize(const char *dir, const char *out, const moe_quantize_t *q,
    moe_quantize_progress_pt progress, void *ctx, moe_quantized_t *done,
    moe_err_t *err)
{
    int         rc;
    quantize_t  z;

    memset(&z, 0, sizeof(quantize_t));
    memset(done, 0, sizeof(moe_quantized_t));
    z.dir = dir;
    z.out = out;
    z.q = q;
    z.err = err;
    z.fd = -1;

    rc = quantize(&z, progress, ctx, done);

    if (z.fd >= 0) {
        close(z.fd);
    }

    EVP_MD_CTX_free(z.md);
    moe_pool_destroy(z.pool);
    moe_st_close(z.st);
    free(z.header);
    free(z.plan);

    return rc;
}


static int
is_packed(moe_format_e f)
{
    return f == MOE_FORMAT_INT8 || f == MOE_FORMAT_INT4
           || f == MOE_FORMAT_MXFP4;
}


static moe_wtype_e
wtype(moe_format_e f)
{
    return f == MOE_FORMAT_INT8 ? MOE_W_I8_G32
           : f == MOE_FORMAT_INT4 ? MOE_W_I4_G32 : MOE_W_MX4_G32;
}


static int
never_packed(const char *name)
{
    size_t  i;

    for (i = 0; i < COUNT(format_never); i++) {
        if (fnmatch(format_never[i], name, 0) == 0) {
            return 1;
        }
    }

    return 0;
}


static int
plan_format(const quantize_t *z, plan_t *p)
{
    int                      asked;
    size_t                   i;
    const moe_quantize_t    *q;

    q = z->q;
    asked = 0;
    p->format = MOE_FORMAT_KEEP;

    for (i = 0; i < COUNT(format_table); i++) {
        if (fnmatch(format_table[i].pattern, p->from->name, 0) == 0) {
            p->format = q->format == MOE_FORMAT_INT8 ? format_table[i].int8
                                                     : format_table[i].int4;
        }
    }

    if (p->from->dtype == MOE_DTYPE_MXFP4) {
        p->format = MOE_FORMAT_MXFP4;
    }

    for (i = 0; i < q->nrules; i++) {
        if (fnmatch(q->rules[i].pattern, p->from->name, 0) == 0) {
            p->format = q->rules[i].format;
            asked = 1;
        }
    }

    if (moe_dtype_is_packed(p->from->dtype)) {
        if (asked && p->format != MOE_FORMAT_KEEP) {
            return moe_err(z->err, "tensor " NAME " is packed as it comes and "
                           "cannot be %s", p->from->name,
                           format_names[p->format]);
        }
        p->format = MOE_FORMAT_KEEP;
        return 0;
    }

    if (is_packed(p->format)
        && (p->from->ndim != 2 || never_packed(p->from->name)))
    {
        if (asked) {
            return moe_err(z->err, "tensor " NAME " cannot be %s",
                           p->from->name, format_names[p->format]);
        }
        p->format = MOE_FORMAT_KEEP;
    }

    if (p->format == MOE_FORMAT_KEEP
        && (p->from->dtype == MOE_DTYPE_F8_E4M3 || moe_is_part(p->from)))
    {
        p->format = p->from->dtype == MOE_DTYPE_F32
                    || p->from->dtype == MOE_DTYPE_F16 ? MOE_FORMAT_F32
                                                       : MOE_FORMAT_BF16;
    }

    if (p->from->dtype == MOE_DTYPE_OTHER && p->format != MOE_FORMAT_KEEP) {
        return moe_err(z->err, "tensor " NAME " of type %s cannot be %s",
                       p->from->name, p->from->dtype_name,
                       format_names[p->format]);
    }

    return 0;
}


static int
plan_scales(const quantize_t *z, plan_t *p)
{
    char      name[512];
    uint64_t  rows, cols;

    if (p->from->dtype != MOE_DTYPE_F8_E4M3) {
        return 0;
    }

    if (snprintf(name, sizeof(name), "%s" SCALES, p->from->name)
        >= (int) sizeof(name))
    {
        return moe_err(z->err, "tensor " NAME ": the name is too long",
                       p->from->name);
    }

    p->scales = moe_st_find(z->st, name);
    rows = (p->rows + MOE_FP8_BLOCK - 1) / MOE_FP8_BLOCK;
    cols = (p->cols + MOE_FP8_BLOCK - 1) / MOE_FP8_BLOCK;

    if (p->scales == NULL || p->scales->ndim != 2
        || p->scales->dims[0] != rows || p->scales->dims[1] != cols
        || moe_dtype_size(p->scales->dtype) < 2)
    {
        return moe_err(z->err, "tensor " NAME ": no scales of its shape for "
                       "FP8 in " NAME, p->from->name, name);
    }

    return 0;
}


static int
plan_tensor(const quantize_t *z, plan_t *p)
{
    int       i;
    uint64_t  n;

    p->rows = p->from->ndim > 1 ? p->from->dims[0] : 1;
    p->cols = p->from->ndim ? p->from->dims[p->from->ndim - 1] : 1;
    n = 1;

    for (i = 0; i < p->from->ndim; i++) {
        n *= p->from->dims[i];
    }

    if (plan_format(z, p) != 0 || plan_scales(z, p) != 0) {
        return -1;
    }

    if (p->format == MOE_FORMAT_KEEP) {
        p->size = p->from->size;
        return 0;
    }

    if (n != p->rows * p->cols || p->rows > INT32_MAX || p->cols > INT32_MAX
        || p->cols == 0)
    {
        return moe_err(z->err, "tensor " NAME ": only vectors and matrices "
                       "can be %s", p->from->name, format_names[p->format]);
    }

    p->size = is_packed(p->format)
              ? moe_packed_size(wtype(p->format), p->rows, p->cols)
              : n * (p->format == MOE_FORMAT_F32 ? 4 : 2);

    return 0;
}


/* packed tensors first, so that they begin at a multiple of 64, or of 32 those
 * whose blocks are no more; then by size of their elements, so that none needs
 * a gap to be aligned */
static int
plan_rank(const plan_t *p)
{
    switch (p->format) {

    case MOE_FORMAT_INT8:
    case MOE_FORMAT_INT4:
        return 0;

    case MOE_FORMAT_MXFP4:
        return 1;

    case MOE_FORMAT_F32:
        return 2;

    case MOE_FORMAT_BF16:
        return 3;

    default:
        return p->from->dtype == MOE_DTYPE_MX4_G32 ? 1
               : moe_dtype_is_packed(p->from->dtype) ? 0
               : p->from->dtype == MOE_DTYPE_F32 ? 2
               : moe_dtype_size(p->from->dtype) == 2 ? 3 : 4;
    }
}


static int
plan_cmp(const void *a, const void *b)
{
    int            x, y;
    const plan_t  *p = a, *q = b;

    x = plan_rank(p);
    y = plan_rank(q);

    return x != y ? x - y : strcmp(p->from->name, q->from->name);
}


static int
is_scales(const quantize_t *z, const char *name)
{
    char                    base[512];
    size_t                  len;
    const moe_st_tensor_t  *t;

    len = strlen(name);

    if (len <= strlen(SCALES) || len >= sizeof(base)
        || strcmp(name + len - strlen(SCALES), SCALES) != 0)
    {
        return 0;
    }

    memcpy(base, name, len);
    base[len - strlen(SCALES)] = '\0';
    t = moe_st_find(z->st, base);

    return t != NULL && t->dtype == MOE_DTYPE_F8_E4M3;
}


static void
plan_head(quantize_t *z)
{
    size_t   i;
    plan_t  *p;

    /* a tied head is the embedding's matrix once more, packed */
    p = &z->plan[z->n];
    p->from = moe_st_find(z->st, "model.embed_tokens.weight");

    if (!z->cfg.tie_embeddings || p->from == NULL || p->from->ndim != 2
        || moe_st_find(z->st, "lm_head.weight") != NULL)
    {
        return;
    }

    p->format = MOE_FORMAT_INT8;

    for (i = 0; i < z->q->nrules; i++) {
        if (fnmatch(z->q->rules[i].pattern, "lm_head.weight", 0) == 0) {
            p->format = z->q->rules[i].format;
        }
    }

    if (!is_packed(p->format) || moe_dtype_size(p->from->dtype) < 2) {
        return;
    }

    p->rows = p->from->dims[0];
    p->cols = p->from->dims[1];
    p->size = moe_packed_size(wtype(p->format), p->rows, p->cols);
    z->n++;
}


static const char *
plan_name(const quantize_t *z, const plan_t *p)
{
    return is_packed(p->format) && z->cfg.tie_embeddings
           && strcmp(p->from->name, "model.embed_tokens.weight") == 0
           ? "lm_head.weight" : p->from->name;
}


/* a rule that no tensor's name matches was meant for one */
static int
check_rules(const quantize_t *z)
{
    size_t       i, j;
    const char  *pattern;

    for (i = 0; i < z->q->nrules; i++) {
        pattern = z->q->rules[i].pattern;

        for (j = 0; j < z->n; j++) {
            if (fnmatch(pattern, plan_name(z, &z->plan[j]), 0) == 0) {
                break;
            }
        }

        if (j == z->n && !(z->cfg.tie_embeddings
                           && fnmatch(pattern, "lm_head.weight", 0) == 0))
        {
            return moe_err(z->err, "no tensor's name is like \"%s\"",
                           pattern);
        }
    }

    return 0;
}


static int
plan(quantize_t *z)
{
    size_t                  i, n;
    const moe_st_tensor_t  *t;

    n = moe_st_count(z->st);
    z->plan = calloc(n + 1, sizeof(plan_t));

    if (z->plan == NULL) {
        return moe_err(z->err, "quantize: out of memory");
    }

    for (i = 0; (t = moe_st_at(z->st, i)) != NULL; i++) {
        if (is_scales(z, t->name)
            || (t->dtype == MOE_DTYPE_OTHER && moe_gguf_is(z->dir)))
        {
            continue;
        }

        z->plan[z->n].from = t;
        if (plan_tensor(z, &z->plan[z->n]) != 0) {
            return -1;
        }
        z->n++;
    }

    plan_head(z);

    if (check_rules(z) != 0) {
        return -1;
    }

    qsort(z->plan, z->n, sizeof(plan_t), plan_cmp);

    for (i = 0; i < z->n; i++) {
        z->plan[i].offset = z->data;
        z->data += z->plan[i].size;
    }

    return 0;
}


static const char *
plan_dtype(const plan_t *p)
{
    switch (p->format) {

    case MOE_FORMAT_INT8:
        return "I8_G32";

    case MOE_FORMAT_INT4:
        return "I4_G32";

    case MOE_FORMAT_MXFP4:
        return "MX4_G32";

    case MOE_FORMAT_BF16:
        return "BF16";

    case MOE_FORMAT_F32:
        return "F32";

    default:
        return p->from->dtype == MOE_DTYPE_OTHER
               ? p->from->dtype_name : moe_dtype_name(p->from->dtype);
    }
}


/* what was packed before counts as what it is */
static moe_format_e
plan_counted(const plan_t *p)
{
    return p->from->dtype == MOE_DTYPE_I8_G32 ? MOE_FORMAT_INT8
           : p->from->dtype == MOE_DTYPE_I4_G32 ? MOE_FORMAT_INT4
           : p->from->dtype == MOE_DTYPE_MX4_G32 ? MOE_FORMAT_MXFP4
           : p->format;
}


/* length and JSON, with spaces behind it so that data begins at 64 */
static int
make_header(quantize_t *z)
{
    int       j;
    char     *text;
    size_t    i, len, pad;
    json_t   *root, *shape, *t;
    plan_t   *p;

    root = json_object();

    for (i = 0; i < z->n; i++) {
        p = &z->plan[i];
        shape = json_array();

        for (j = 0; j < p->from->ndim; j++) {
            json_array_append_new(shape,
                                  json_integer((json_int_t)
                                               p->from->dims[j]));
        }

        t = json_pack("{s:s, s:o, s:[I, I]}", "dtype", plan_dtype(p),
                      "shape", shape, "data_offsets",
                      (json_int_t) p->offset,
                      (json_int_t) (p->offset + p->size));
        json_object_set_new(root, plan_name(z, p), t);
    }

    text = json_dumps(root, JSON_COMPACT);
    json_decref(root);

    if (text == NULL) {
        return moe_err(z->err, "quantize: out of memory");
    }

    len = strlen(text);
    pad = (64 - (MOE_PACKED_PREAMBLE + 8 + len) % 64) % 64;
    z->header_len = 8 + len + pad;
    z->header = malloc(z->header_len);

    if (z->header == NULL || len + pad > MOE_ST_MAX_HEADER) {
        free(text);
        return moe_err(z->err, "quantize: a header of %zu bytes", len);
    }

    for (j = 0; j < 8; j++) {
        z->header[j] = (char) ((uint64_t) (len + pad) >> (8 * j));
    }

    memcpy(z->header + 8, text, len);
    memset(z->header + 8 + len, ' ', pad);
    free(text);

    return 0;
}


static int
put(quantize_t *z, const void *data, size_t n, uint64_t at)
{
    ssize_t      k;
    const char  *p = data;

    while (n != 0) {
        k = pwrite(z->fd, p, n, (off_t) at);

        if (k < 0 && errno == EINTR) {
            continue;
        }

        if (k <= 0) {
            return moe_err(z->err, "%s/" MOE_PACKED_FILE ": cannot write: %s",
                           z->out, strerror(k < 0 ? errno : ENOSPC));
        }

        p += k;
        at += (uint64_t) k;
        n -= (size_t) k;
    }

    return 0;
}


/* 32 rows as float32, then what becomes of them */
static void
chunk_task(void *ctx, uint32_t task, uint32_t thread)
{
    float         *rows;
    size_t         i, n, cols;
    uint32_t       u;
    uint64_t       at;
    uint16_t      *half;
    chunk_t       *c = ctx;

    cols = (size_t) c->p->cols;
    at = c->first + (uint64_t) task * MOE_STRIP;
    n = c->first + c->nrows - at;
    n = n > MOE_STRIP ? MOE_STRIP : n;

    rows = malloc(n * cols * sizeof(float));
    if (rows == NULL) {
        atomic_store(&c->bad, 2);
        return;
    }

    moe_tensor_to_f32(&c->t, (int) at, (int) n, rows);

    if (is_packed(c->p->format)) {
        if (moe_pack_strip(wtype(c->p->format), rows, (uint32_t) n,
                           (uint32_t) cols,
                           c->out + task * moe_packed_strip(
                                        wtype(c->p->format),
                                        (uint32_t) cols))
            != 0)
        {
            atomic_store(&c->bad, 1);
        }

    } else if (c->p->format == MOE_FORMAT_F32) {
        memcpy(c->out + (size_t) task * MOE_STRIP * cols * 4, rows,
               n * cols * 4);

    } else {
        half = (uint16_t *) c->out + (size_t) task * MOE_STRIP * cols;

        for (i = 0; i < n * cols; i++) {
            memcpy(&u, &rows[i], 4);
            half[i] = (u & 0x7fffffff) > 0x7f800000
                      ? (uint16_t) (u >> 16 | 0x40)
                      : (uint16_t) ((u + 0x7fff + (u >> 16 & 1)) >> 16);
        }
    }

    free(rows);
}


/* a copy of what a tensor has that is aligned, and float32 where it is
 * scales; the caller frees it */
static void *
aligned_copy(const moe_st_tensor_t *f, int to_f32)
{
    void          *p, *q;
    uint64_t       n;
    moe_tensor_t   t;

    p = malloc(f->size + 1);
    if (p == NULL) {
        return NULL;
    }

    memcpy(p, f->data, f->size);

    if (!to_f32 || f->dtype == MOE_DTYPE_F32) {
        return p;
    }

    n = f->size / moe_dtype_size(f->dtype);
    memset(&t, 0, sizeof(moe_tensor_t));
    t.data = p;
    t.dtype = f->dtype;
    t.rows = 1;
    t.cols = (int) n;

    q = malloc(n * sizeof(float) + 1);
    if (q != NULL) {
        moe_tensor_to_f32(&t, 0, 1, q);
    }
    free(p);

    return q;
}


static int
convert_chunks(quantize_t *z, chunk_t *c, uint64_t base, uint64_t each)
{
    int            bad;
    uint64_t       at, size, row;
    const plan_t  *p;

    p = c->p;
    at = base + p->offset;

    for (row = 0; row < p->rows; row += c->nrows) {
        c->first = row;
        c->nrows = p->rows - row < each ? p->rows - row : each;

        moe_pool_run(z->pool, (uint32_t) ((c->nrows + MOE_STRIP - 1)
                                          / MOE_STRIP), chunk_task, c);
        bad = atomic_load(&c->bad);

        if (bad != 0) {
            return moe_err(z->err, "%s: tensor " NAME ": %s", p->from->file,
                           p->from->name, bad == 2 ? "out of memory"
                           : "a value is too large, or not a number");
        }

        size = is_packed(p->format)
               ? moe_packed_size(wtype(p->format), c->nrows, p->cols)
               : c->nrows * p->cols * (p->format == MOE_FORMAT_F32 ? 4 : 2);

        EVP_DigestUpdate(z->md, c->out, size);

        if (put(z, c->out, size, at) != 0) {
            return -1;
        }
        at += size;
    }

    return 0;
}


static int
convert(quantize_t *z, const plan_t *p, uint64_t base)
{
    int       rc;
    void     *copy, *scales;
    chunk_t   c;
    uint64_t  each;

    memset(&c, 0, sizeof(chunk_t));
    c.p = p;
    c.t.dtype = p->from->dtype;
    c.t.rows = (int) p->rows;
    c.t.cols = (int) p->cols;
    c.t.data = p->from->data;
    copy = NULL;
    scales = NULL;

    if (moe_is_part(p->from)) {
        c.t = moe_part_tensor(p->from);

    } else if ((uintptr_t) p->from->data % moe_dtype_size(p->from->dtype)
               != 0)
    {
        copy = aligned_copy(p->from, 0);
        c.t.data = copy;
    }

    if (p->scales != NULL) {
        scales = aligned_copy(p->scales, 1);
        c.t.scale_inv = scales;
        c.t.scale_cols = (int) p->scales->dims[1];
    }

    each = (CHUNK / (p->cols * 4) + 1) * MOE_STRIP;
    each = each > p->rows ? (p->rows + MOE_STRIP - 1) / MOE_STRIP * MOE_STRIP
                          : each;
    c.out = malloc(each * ((p->cols + MOE_GROUP - 1) / MOE_GROUP * MOE_GROUP)
                   * 4);

    if (c.t.data == NULL || c.out == NULL
        || (p->scales != NULL && scales == NULL))
    {
        rc = moe_err(z->err, "quantize: out of memory");
    } else {
        rc = convert_chunks(z, &c, base, each);
    }

    free(c.out);
    free(copy);
    free(scales);

    return rc;
}


static int
write_data(quantize_t *z, moe_quantize_progress_pt progress, void *ctx,
    moe_quantized_t *done)
{
    size_t    i;
    plan_t   *p;
    uint64_t  base;

    base = MOE_PACKED_PREAMBLE + z->header_len;

    for (i = 0; i < z->n; i++) {
        p = &z->plan[i];

        if (progress != NULL
            && progress(ctx, plan_name(z, p), p->offset, z->data) != 0)
        {
            return moe_err(z->err, "quantize: given up");
        }

        done->tensors[plan_counted(p)]++;
        done->weights[plan_counted(p)] += p->rows * p->cols;

        if (p->format != MOE_FORMAT_KEEP) {
            if (convert(z, p, base) != 0) {
                return -1;
            }
            continue;
        }

        EVP_DigestUpdate(z->md, p->from->data, p->from->size);

        if (put(z, p->from->data, p->from->size, base + p->offset) != 0) {
            return -1;
        }
    }

    return 0;
}


/* SHA-256 of config.json, which a GGUF file has in its header, and of the
 * headers and sizes of the weight files */
static int
source_identity(quantize_t *z, uint8_t out[32])
{
    char                 *text, path[4096];
    size_t                i, len;
    EVP_MD_CTX           *md;
    const moe_st_file_t  *f;

    text = NULL;
    len = 0;

    if (!moe_gguf_is(z->dir)) {
        snprintf(path, sizeof(path), "%s/config.json", z->dir);

        text = moe_file_read(path, FILE_MAX, &len, NULL, z->err);
        if (text == NULL) {
            return -1;
        }
    }

    md = EVP_MD_CTX_new();

    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        free(text);
        return moe_err(z->err, "quantize: no SHA-256");
    }

    EVP_DigestUpdate(md, text, len);

    for (i = 0; (f = moe_st_file(z->st, i)) != NULL; i++) {
        EVP_DigestUpdate(md, f->header, f->header_size);
        EVP_DigestUpdate(md, &f->size, sizeof(f->size));
    }

    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);
    free(text);

    return 0;
}


static int
write_file(quantize_t *z, moe_quantize_progress_pt progress, void *ctx,
    moe_quantized_t *done)
{
    uint8_t    sum[32], source[32], preamble[MOE_PACKED_PREAMBLE];
    uint64_t   size;

    size = MOE_PACKED_PREAMBLE + z->header_len + z->data;
    z->md = EVP_MD_CTX_new();

    if (z->md == NULL || EVP_DigestInit_ex(z->md, EVP_sha256(), NULL) != 1) {
        return moe_err(z->err, "quantize: no SHA-256");
    }

    if (source_identity(z, source) != 0
        || put(z, z->header, z->header_len, MOE_PACKED_PREAMBLE) != 0
        || write_data(z, progress, ctx, done) != 0)
    {
        return -1;
    }

    EVP_DigestFinal_ex(z->md, sum, NULL);
    moe_packed_preamble(preamble, size, sum, source,
                        (const uint8_t *) z->header, z->header_len);

    if (put(z, preamble, sizeof(preamble), 0) != 0) {
        return -1;
    }

    if (fsync(z->fd) != 0) {
        return moe_err(z->err, "%s/" MOE_PACKED_FILE ": %s", z->out,
                       strerror(errno));
    }

    done->bytes_in = moe_st_file_bytes(z->st);
    done->bytes_out = size;

    return 0;
}


static int
open_source(quantize_t *z)
{
    moe_gguf_t  *g;

    if (moe_config_load(z->dir, &z->cfg, z->err) != 0) {
        return -1;
    }

    if (!moe_gguf_is(z->dir)) {
        z->st = moe_st_open(z->dir, z->err);

        if (z->st != NULL && moe_fused_split(z->st, &z->cfg, z->err) != 0) {
            return -1;
        }

    } else {
        g = moe_gguf_open(z->dir, z->err);

        /* blocks packed, however few there are */
        z->st = g ? moe_gguf_tensors(g, &z->cfg, 0, z->err) : NULL;
    }

    return z->st != NULL ? 0 : -1;
}


static int
quantize(quantize_t *z, moe_quantize_progress_pt progress, void *ctx,
    moe_quantized_t *done)
{
    char         path[4096], part[4096];
    uint32_t     threads;
    cpu_set_t    set;
    struct stat  from, to;

    if (snprintf(path, sizeof(path), "%s/" MOE_PACKED_FILE, z->out) > 4000
        || snprintf(part, sizeof(part), "%s.part", path) > 4000
        || strlen(z->dir) > 4000)
    {
        return moe_err(z->err, "%.200s: path is too long", z->out);
    }

    if (open_source(z) != 0) {
        return -1;
    }

    if (moe_st_files(z->st) != 0 && moe_st_file(z->st, 0)->digest != NULL) {
        return moe_err(z->err, "%s: is packed already; quantize its source",
                       z->dir);
    }

    threads = z->q->threads;
    if (threads == 0) {
        threads = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? (uint32_t) CPU_COUNT(&set) : 1;
    }

    z->pool = moe_pool_create(threads, z->err);

    if (z->pool == NULL || plan(z) != 0 || make_header(z) != 0) {
        return -1;
    }

    if (mkdir(z->out, 0777) != 0 && errno != EEXIST) {
        return moe_err(z->err, "%s: %s", z->out, strerror(errno));
    }

    if (stat(z->dir, &from) == 0 && stat(z->out, &to) == 0
        && from.st_dev == to.st_dev && from.st_ino == to.st_ino)
    {
        return moe_err(z->err, "%s: is the source itself; " MOE_PACKED_FILE
                       " goes to a directory of its own", z->out);
    }

    z->fd = open(part, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (z->fd < 0) {
        return moe_err(z->err, "%s: %s", part, strerror(errno));
    }

    if (write_file(z, progress, ctx, done) != 0) {
        unlink(part);
        return -1;
    }

    if (moe_quantize_files(z->dir, z->out, z->err) != 0) {
        unlink(part);
        return -1;
    }

    if (rename(part, path) != 0) {
        unlink(part);
        return moe_err(z->err, "%s: %s", path, strerror(errno));
    }

    return 0;
}
