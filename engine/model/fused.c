#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/packed.h"
#include "model/family.h"
#include "model/fused.h"


#define NAME  "\"%.160s\""

enum { BLOCK_BYTES = MOE_GROUP / 2 };


typedef struct {
    const moe_config_t  *cfg;
    moe_st_t            *st;
    moe_st_tensor_t     *list;
    size_t               n;
    size_t               cap;
    moe_err_t           *err;
} split_t;

/* one matrix, or vector, of every expert, in a tensor of all */
typedef struct {
    const char  *name;          /* behind "model.layers.N.mlp.experts." */
    const char  *to[2];         /* gate and up, or down and NULL */
    int          down;
    int          bias;
    int          mxfp4;
} fused_t;


static const fused_t  fused[] = {
    { "gate_up_proj", { "gate_proj.weight", "up_proj.weight" }, 0, 0, 0 },
    { "gate_up_proj_blocks", { "gate_proj.weight", "up_proj.weight" },
      0, 0, 1 },
    { "gate_up_proj_bias", { "gate_proj.bias", "up_proj.bias" }, 0, 1, 0 },
    { "down_proj", { "down_proj.weight", NULL }, 1, 0, 0 },
    { "down_proj_blocks", { "down_proj.weight", NULL }, 1, 0, 1 },
    { "down_proj_bias", { "down_proj.bias", NULL }, 1, 1, 0 }
};

#define COUNT(list)  (sizeof(list) / sizeof(list[0]))


/* name goes to the list, or is freed */
static int
add(split_t *s, const moe_st_tensor_t *t, char *name)
{
    size_t            cap;
    moe_st_tensor_t  *list;

    if (name == NULL) {
        return moe_err(s->err, "weights: no memory");
    }

    if (s->n == s->cap) {
        cap = s->cap ? s->cap * 2 : 256;
        list = realloc(s->list, cap * sizeof(moe_st_tensor_t));

        if (list == NULL) {
            free(name);
            return moe_err(s->err, "weights: no memory");
        }

        s->list = list;
        s->cap = cap;
    }

    s->list[s->n] = *t;
    s->list[s->n++].name = name;

    return 0;
}


static int
bad(split_t *s, const moe_st_tensor_t *f, const char *what)
{
    return moe_err(s->err, "%s: tensor " NAME " at offset %llu: %s", f->file,
                   f->name, (unsigned long long) f->offset, what);
}


/* dims[0 .. n - 1] are those, and no others */
static int
shape_is(const moe_st_tensor_t *f, int n, uint64_t a, uint64_t b, uint64_t c,
    uint64_t d)
{
    int             i;
    const uint64_t  want[] = { a, b, c, d };

    for (i = 0; i < n && f->ndim == n; i++) {
        if (f->dims[i] != want[i]) {
            return 0;
        }
    }

    return f->ndim == n;
}


/* the scales that belong to blocks */
static const moe_st_tensor_t *
find_scales(const split_t *s, const moe_st_tensor_t *f)
{
    char    name[256];
    size_t  len;

    len = strlen(f->name) - strlen("blocks");

    if (len + sizeof("scales") > sizeof(name)) {
        return NULL;
    }

    memcpy(name, f->name, len);
    memcpy(name + len, "scales", sizeof("scales"));

    return moe_st_find(s->st, name);
}


/* expert 0's first part of f, whose outputs are all there together */
static int
first_part(split_t *s, const fused_t *u, const moe_st_tensor_t *f,
    uint64_t out, uint64_t in, moe_st_tensor_t *t)
{
    uint64_t                n, parts;
    const moe_st_tensor_t  *scales;

    n = (uint64_t) s->cfg->n_experts;
    parts = u->down ? 1 : 2;
    *t = *f;
    t->ndim = u->bias ? 1 : 2;
    t->dims[0] = u->bias ? out / parts : out / parts;
    t->dims[1] = u->bias ? 0 : in;

    if (u->bias) {
        t->row_step = 1;
        t->col_step = parts;

        if (!shape_is(f, 2, n, out, 0, 0)) {
            return bad(s, f, "not the shape of all experts' biases");
        }

    } else if (u->mxfp4) {
        scales = find_scales(s, f);
        t->dtype = MOE_DTYPE_MXFP4;
        t->dtype_name = "MXFP4";
        t->row_step = parts;
        t->col_step = 1;

        if (in % MOE_GROUP != 0
            || !shape_is(f, 4, n, out, in / MOE_GROUP, BLOCK_BYTES)
            || f->size != n * out * in / 2)
        {
            return bad(s, f, "not the shape of all experts' blocks");
        }

        if (scales == NULL
            || !shape_is(scales, 3, n, out, in / MOE_GROUP, 0)
            || scales->size != n * out * in / MOE_GROUP)
        {
            return bad(s, f, "no scales of its shape");
        }

        t->scales = scales->data;
        t->size = out / parts * (in / 2);

        return 0;

    } else {
        t->row_step = parts;
        t->col_step = out;

        if (!shape_is(f, 3, n, in, out, 0)) {
            return bad(s, f, "not the shape of all experts' matrices");
        }
    }

    if (moe_dtype_size(f->dtype) < 2) {
        return bad(s, f, "a type that cannot be used here");
    }

    t->size = out / parts * (u->bias ? 1 : in) * moe_dtype_size(f->dtype);

    return 0;
}


static int
split(split_t *s, const fused_t *u, const moe_st_tensor_t *f, int layer)
{
    int               e, i;
    char             *name;
    uint64_t          out, in, elem, each;
    moe_st_tensor_t   first, t;

    out = (uint64_t) (u->down ? s->cfg->hidden : 2 * s->cfg->moe_ffn);
    in = (uint64_t) (u->down ? s->cfg->moe_ffn : s->cfg->hidden);

    if (first_part(s, u, f, out, in, &first) != 0) {
        return -1;
    }

    /* bytes from one part of an expert to the other, and to the next expert */
    elem = u->mxfp4 ? in / 2 : moe_dtype_size(f->dtype);
    each = u->mxfp4 ? out * elem : out * elem * (u->bias ? 1 : in);

    for (e = 0; e < s->cfg->n_experts; e++) {
        for (i = 0; i < 2 && u->to[i] != NULL; i++) {
            t = first;
            t.data = f->data + (uint64_t) e * each + (uint64_t) i * elem;
            t.offset = f->offset + (uint64_t) (t.data - f->data);

            if (u->mxfp4) {
                t.scales = first.scales
                           + ((uint64_t) e * out + (uint64_t) i)
                             * (in / MOE_GROUP);
            }

            if (asprintf(&name, "model.layers.%d.mlp.experts.%d.%s", layer,
                         e, u->to[i]) < 0)
            {
                name = NULL;
            }

            if (add(s, &t, name) != 0) {
                return -1;
            }
        }
    }

    return 0;
}


/* NULL: not fused, *skip: scales of blocks, which are with them */
static const fused_t *
find_fused(const split_t *s, const char *name, int *layer, int *skip)
{
    int     n;
    size_t  i;

    n = 0;
    *skip = 0;

    if (sscanf(name, "model.layers.%5d.mlp.experts.%n", layer, &n) != 1
        || n == 0 || *layer < 0 || *layer >= s->cfg->n_layers)
    {
        return NULL;
    }

    *skip = strcmp(name + n, "gate_up_proj_scales") == 0
            || strcmp(name + n, "down_proj_scales") == 0;

    for (i = 0; i < COUNT(fused); i++) {
        if (strcmp(name + n, fused[i].name) == 0) {
            return &fused[i];
        }
    }

    return NULL;
}


int
moe_fused_split(moe_st_t *st, const moe_config_t *cfg, moe_err_t *err)
{
    int                     rc, layer, skip;
    size_t                  i;
    split_t                 s = { cfg, st, NULL, 0, 0, err };
    const fused_t          *u;
    const moe_st_tensor_t  *f;

    if (!moe_family(cfg->family)->fused) {
        return 0;
    }

    rc = 0;

    for (i = 0; rc == 0 && (f = moe_st_at(st, i)) != NULL; i++) {
        u = find_fused(&s, f->name, &layer, &skip);

        if (u != NULL) {
            rc = split(&s, u, f, layer);

        } else if (!skip) {
            rc = add(&s, f, strdup(f->name));
        }
    }

    if (rc == 0) {
        rc = moe_st_replace(st, s.list, s.n, err);

    } else {
        for (i = 0; i < s.n; i++) {
            free((char *) s.list[i].name);
        }
    }

    free(s.list);

    return rc;
}


int
moe_is_part(const moe_st_tensor_t *f)
{
    return f->row_step != 0;
}


uint64_t
moe_part_extent(const moe_st_tensor_t *f)
{
    uint64_t  rows, cols;

    rows = f->ndim == 2 ? f->dims[0] : 1;
    cols = f->dims[f->ndim - 1];

    return f->dtype == MOE_DTYPE_MXFP4
           ? ((rows - 1) * f->row_step + 1) * (cols / 2)
           : ((rows - 1) * f->row_step + (cols - 1) * f->col_step + 1)
             * moe_dtype_size(f->dtype);
}


moe_tensor_t
moe_part_tensor(const moe_st_tensor_t *f)
{
    return (moe_tensor_t) {
        .data = f->data,
        .scales = f->scales,
        .dtype = f->dtype,
        .rows = f->ndim == 2 ? (int) f->dims[0] : 1,
        .cols = (int) f->dims[f->ndim - 1],
        .row_step = (size_t) f->row_step,
        .col_step = (size_t) f->col_step
    };
}


moe_dtype_e
moe_part_type(const moe_st_tensor_t *f, int wide, uint64_t *size)
{
    *size = f->size;

    if (f->dtype != MOE_DTYPE_MXFP4) {
        return f->dtype;
    }

    *size = wide ? f->dims[0] * f->dims[1] * 2
                 : moe_packed_size(MOE_W_MX4_G32, f->dims[0], f->dims[1]);

    return wide ? MOE_DTYPE_BF16 : MOE_DTYPE_MX4_G32;
}


/* n rows of blocks from row on as one strip */
static int
pack_strip(const moe_tensor_t *t, size_t row, uint32_t n, int8_t *q,
    uint16_t *scales, uint8_t *out)
{
    size_t          at, groups;
    uint32_t        i, g, j;
    const uint8_t  *in;

    groups = (size_t) t->cols / MOE_GROUP;

    for (i = 0; i < n; i++) {
        for (g = 0; g < groups; g++) {
            at = (row + i) * t->row_step * groups + g;
            in = (const uint8_t *) t->data + at * BLOCK_BYTES;

            for (j = 0; j < BLOCK_BYTES; j++) {
                *q++ = in[j] & 15;
                *q++ = in[j] >> 4;
            }

            /* not a number */
            if (t->scales[at] == 255) {
                return -1;
            }

            *scales++ = t->scales[at];
        }
    }

    moe_pack_quants(MOE_W_MX4_G32, q - (size_t) n * (size_t) t->cols,
                    scales - n * groups, n, (uint32_t) t->cols, out);

    return 0;
}


static int
pack(const moe_tensor_t *t, uint8_t *out)
{
    int       rc;
    int8_t   *q;
    size_t    row, rows, size;
    uint32_t  n;

    size = (size_t) MOE_STRIP * (size_t) t->cols;
    rows = (size_t) t->rows;
    q = malloc(size + size / MOE_GROUP * 2);
    rc = q != NULL ? 0 : -1;

    for (row = 0; rc == 0 && row < rows; row += n) {
        n = rows - row < MOE_STRIP ? (uint32_t) (rows - row) : MOE_STRIP;
        rc = pack_strip(t, row, n, q, (uint16_t *) (q + size), out);
        out += moe_packed_strip(MOE_W_MX4_G32, (uint32_t) t->cols);
    }

    free(q);

    return rc;
}


int
moe_part_fill(const moe_st_tensor_t *f, moe_dtype_e type, void *out)
{
    int             r, c;
    float          *row;
    size_t          size;
    uint32_t        u;
    uint16_t       *half;
    const uint8_t  *from;
    moe_tensor_t    t;

    t = moe_part_tensor(f);

    if (type == MOE_DTYPE_MX4_G32) {
        return pack(&t, out);
    }

    if (f->dtype == MOE_DTYPE_MXFP4) {
        row = malloc((size_t) t.cols * sizeof(float));
        half = out;

        for (r = 0; row != NULL && r < t.rows; r++) {
            moe_tensor_to_f32(&t, r, 1, row);

            for (c = 0; c < t.cols; c++) {
                memcpy(&u, &row[c], sizeof(u));
                *half++ = (uint16_t) (u >> 16);
            }
        }

        free(row);

        return row != NULL ? 0 : -1;
    }

    size = moe_dtype_size(type);

    for (r = 0; r < t.rows; r++) {
        from = f->data + (size_t) r * t.row_step * size;

        for (c = 0; c < t.cols; c++, from += t.col_step * size) {
            memcpy(out, from, size);
            out = (char *) out + size;
        }
    }

    return 0;
}
