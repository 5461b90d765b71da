#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/packed.h"
#include "model/gguf_pack.h"


/* what went wrong in a strip */
enum {
    PACK_OK,
    PACK_VALUE,
    PACK_MEMORY
};

typedef struct {
    const moe_gguf_tensor_t  *s;
    moe_wtype_e               type;
    uint64_t                  rows;
    uint64_t                  strips;       /* of a matrix */
    uint64_t                  head;
    uint64_t                  first;        /* strip of task 0 */
    size_t                    row_bytes;
    uint64_t                  size;         /* of a packed matrix */
    uint8_t                  *out;
    _Atomic int               bad;
} pack_t;


static moe_wtype_e
pack_type(const moe_gguf_tensor_t *s)
{
    return s->ggml == MOE_GGML_Q4_0 ? MOE_W_I4_G32
           : s->ggml == MOE_GGML_MXFP4 ? MOE_W_MX4_G32 : MOE_W_I8_G32;
}


moe_dtype_e
moe_gguf_packed_type(const moe_gguf_tensor_t *s)
{
    return s->ggml == MOE_GGML_Q4_0 ? MOE_DTYPE_I4_G32
           : s->ggml == MOE_GGML_MXFP4 ? MOE_DTYPE_MX4_G32
           : MOE_DTYPE_I8_G32;
}


uint64_t
moe_gguf_packed_size(const moe_gguf_tensor_t *s, uint64_t rows, uint64_t cols)
{
    return moe_packed_size(pack_type(s), rows, cols);
}


static int
is_direct(const moe_gguf_tensor_t *s)
{
    return s->ggml == MOE_GGML_Q4_0 || s->ggml == MOE_GGML_Q8_0
           || s->ggml == MOE_GGML_MXFP4;
}


/* one block of 32 as it is */
static int
direct_block(const moe_gguf_tensor_t *s, const uint8_t *in, int8_t *q,
    uint16_t *scale)
{
    int  i;

    if (s->ggml == MOE_GGML_MXFP4) {

        for (i = 0; i < 16; i++) {
            q[i] = in[1 + i] & 15;
            q[i + 16] = in[1 + i] >> 4;
        }

        *scale = in[0];

        return in[0] == 255 ? -1 : 0;
    }

    memcpy(scale, in, 2);

    if (s->ggml == MOE_GGML_Q8_0) {
        memcpy(q, in + 2, 32);

    } else {
        for (i = 0; i < 16; i++) {
            q[i] = (int8_t) ((in[2 + i] & 15) - 8);
            q[i + 16] = (int8_t) ((in[2 + i] >> 4) - 8);
        }
    }

    /* infinite, or no number */
    return (*scale & 0x7c00) == 0x7c00 ? -1 : 0;
}


static const uint8_t *
row_at(const pack_t *p, uint64_t matrix, uint64_t row)
{
    uint64_t  at, half;

    if (p->head != 0) {
        half = p->head / 2;
        at = row % p->head;
        row = row - at + at % half * 2 + at / half;
    }

    return p->s->data + (matrix * p->rows + row) * p->row_bytes;
}


static int
pack_direct(const pack_t *p, uint64_t matrix, uint64_t row, uint32_t n,
    uint8_t *out)
{
    int             rc;
    int8_t         *q;
    uint16_t       *scales;
    uint32_t        i, g, groups;
    const uint8_t  *in;

    groups = (uint32_t) (p->s->dims[0] / MOE_GROUP);
    q = malloc((size_t) MOE_STRIP * groups * (MOE_GROUP + 2));

    if (q == NULL) {
        return PACK_MEMORY;
    }

    scales = (uint16_t *) (q + (size_t) MOE_STRIP * groups * MOE_GROUP);
    rc = PACK_OK;

    for (i = 0; i < n; i++) {
        in = row_at(p, matrix, row + i);

        for (g = 0; g < groups; g++) {
            if (direct_block(p->s, in + g * p->s->type->bytes,
                             q + ((size_t) i * groups + g) * MOE_GROUP,
                             scales + (size_t) i * groups + g) != 0)
            {
                rc = PACK_VALUE;
            }
        }
    }

    if (rc == PACK_OK) {
        moe_pack_quants(p->type, q, scales, n, groups * MOE_GROUP, out);
    }

    free(q);

    return rc;
}


static int
pack_rounded(const pack_t *p, uint64_t matrix, uint64_t row, uint32_t n,
    uint8_t *out)
{
    int        rc;
    float     *w;
    size_t     k;
    uint32_t   i;

    k = (size_t) p->s->dims[0];
    w = malloc(MOE_STRIP * k * sizeof(float));

    if (w == NULL) {
        return PACK_MEMORY;
    }

    for (i = 0; i < n; i++) {
        p->s->type->decode(row_at(p, matrix, row + i), k / p->s->type->elems,
                           w + i * k);
    }

    rc = moe_pack_strip(p->type, w, n, (uint32_t) k, out) == 0 ? PACK_OK
                                                               : PACK_VALUE;
    free(w);

    return rc;
}


static void
pack_task(void *ctx, uint32_t task, uint32_t thread)
{
    int        rc;
    pack_t    *p = ctx;
    uint8_t   *out;
    uint32_t   n;
    uint64_t   matrix, strip, row;

    (void) thread;

    strip = p->first + task;
    matrix = strip / p->strips;
    strip %= p->strips;
    row = strip * MOE_STRIP;
    n = p->rows - row < MOE_STRIP ? (uint32_t) (p->rows - row) : MOE_STRIP;

    out = p->out + matrix * p->size
          + strip * moe_packed_strip(p->type, (uint32_t) p->s->dims[0]);

    rc = is_direct(p->s) ? pack_direct(p, matrix, row, n, out)
                         : pack_rounded(p, matrix, row, n, out);

    if (rc != PACK_OK) {
        atomic_store(&p->bad, rc);
    }
}


int
moe_gguf_pack(const moe_gguf_tensor_t *s, uint64_t n, uint64_t rows,
    uint64_t head, moe_pool_t *pool, uint8_t *out, moe_err_t *err)
{
    pack_t    p;
    uint64_t  left;
    uint32_t  tasks;

    p = (pack_t) {
        .s = s,
        .type = pack_type(s),
        .rows = rows,
        .strips = (rows + MOE_STRIP - 1) / MOE_STRIP,
        .head = head,
        .row_bytes = (size_t) (s->dims[0] / s->type->elems) * s->type->bytes,
        .size = moe_gguf_packed_size(s, rows, s->dims[0]),
        .out = out
    };

    for (left = n * p.strips; left > 0; left -= tasks) {
        tasks = left < 1 << 20 ? (uint32_t) left : 1 << 20;
        moe_pool_run(pool, tasks, pack_task, &p);
        p.first += tasks;
    }

    switch (atomic_load(&p.bad)) {

    case PACK_OK:
        return 0;

    case PACK_MEMORY:
        return moe_err(err, "tensor %s: no memory to pack it", s->name);

    default:
        return moe_err(err, "tensor %s at offset %llu: a value is too large, "
                       "or not a number", s->name,
                       (unsigned long long) s->offset);
    }
}
