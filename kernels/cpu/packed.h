/*
 * packed: weights in groups of 32 along k, laid out for integer dot products.
 *
 * A matrix W[n][k] is cut into strips of 32 rows (outputs) and each strip
 * into blocks of 32 columns (inputs); n and k are padded with zeros.  A block
 * holds 32 x 32 quants and one scale for each of its rows:
 *
 *   I8_G32   1024 bytes of q + 128, then 32 scales, float16
 *   I4_G32    512 bytes of q + 8, two to a byte, then 32 scales, float16
 *   MX4_G32   512 bytes of codes, two to a byte, then 32 scales of one byte
 *
 * The last is MXFP4 (OCP): a code is a number e2m1, whose double is an
 * integer from -12 to 12, which counts as q; a scale e is a power of two,
 * 2^(e - 127), and 2^(e - 128) that of q.
 *
 * Quants are in the order in which vpdpbusd takes them: for each four inputs
 * 16 outputs of 4 bytes, then 16 more.  Of 4 bits the low halves of 64 bytes
 * are four inputs, the high halves the next four.  So strips are read from
 * front to end, for one row of x and for many.
 *
 * A row of x is quantized on its own, 32 inputs at a time: scale = amax / 127,
 * q = round(x * (127 / amax)), ties to even.  A block gives
 *
 *   acc = fma((float) sum of q(w) * q(x), scale(w) * scale(x), acc)
 *
 * blocks in ascending order.  The sums are exact and the rest is IEEE single
 * with one fused operation, so plain C, AVX2 and AVX-512 give equal bits,
 * whatever the number of rows.  Where the processor has no fma, fmaf() of the
 * C library does the same, slowly.
 */

#ifndef MOE_PACKED_H
#define MOE_PACKED_H


#include <stddef.h>
#include <stdint.h>

#include "kernels/kernels.h"


enum {
    MOE_GROUP = 32,             /* inputs that share a scale */
    MOE_STRIP = 32,             /* outputs of a strip */
    MOE_STRIP_ROWS = 48,        /* most rows that it is used for at a time */
    MOE_I8_BLOCK = 1088,        /* bytes */
    MOE_I4_BLOCK = 576,
    MOE_MX4_BLOCK = 544
};


/* one strip against some rows: out[i][0 .. 31], nrows * 32 floats */
typedef struct {
    const uint8_t  *w;
    const uint8_t  *x;          /* quantized rows, moe_packed_row() apart */
    uint32_t        groups;
    uint32_t        nrows;      /* at most MOE_STRIP_ROWS */
    float          *out;
} moe_strip_t;

/* what differs from set to set */
typedef struct {
    void (*strip_i8)(const moe_strip_t *s);
    void (*strip_i4)(const moe_strip_t *s);
    void (*strip_mx4)(const moe_strip_t *s);

    /* n <= 32 values into group g of a row */
    void (*quantize)(const float *x, uint32_t n, uint8_t *row,
                     uint32_t groups, uint32_t g);

    uint64_t (*probe_int8)(uint64_t rounds);
    uint64_t (*probe_read)(const void *p, size_t n);

    /* silu(gate[i]) * up[i], or what clamped says, 32 of them, into
     * group g */
    void (*glu)(const moe_clamped_t *clamped, const float *gate,
                const float *up, uint8_t *row, uint32_t groups, uint32_t g);
} moe_packed_ops_t;


extern const moe_packed_ops_t  moe_packed_plain;
extern const moe_packed_ops_t  moe_packed_avx2;
extern const moe_packed_ops_t  moe_packed_avx512;


static inline int
moe_is_packed(moe_wtype_e type)
{
    return type == MOE_W_I8_G32 || type == MOE_W_I4_G32
           || type == MOE_W_MX4_G32;
}


/* bytes of a block, and of its quants */

static inline size_t
moe_packed_block(moe_wtype_e type)
{
    return type == MOE_W_I8_G32 ? MOE_I8_BLOCK
           : type == MOE_W_I4_G32 ? MOE_I4_BLOCK : MOE_MX4_BLOCK;
}


static inline size_t
moe_packed_quants(moe_wtype_e type)
{
    return type == MOE_W_I8_G32 ? 1024 : 512;
}


static inline uint32_t
moe_groups(uint32_t k)
{
    return k / MOE_GROUP + (k % MOE_GROUP != 0);
}


/*
 * Bytes of a quantized row: groups * 32 quants, then for each group its
 * float32 scale, then -8, -12 and -128 times the sum of its quants, which undo
 * the offsets that weights have in integer products.
 */
static inline size_t
moe_packed_row(uint32_t groups)
{
    return ((size_t) groups * (MOE_GROUP + 16) + 63) / 64 * 64;
}


static inline float *
moe_row_scales(const uint8_t *row, uint32_t groups)
{
    return (float *) (row + (size_t) groups * MOE_GROUP);
}


static inline int32_t *
moe_row_sums(const uint8_t *row, uint32_t groups, moe_wtype_e type)
{
    return (int32_t *) (row + (size_t) groups
                              * (type == MOE_W_I4_G32 ? MOE_GROUP + 4
                                 : type == MOE_W_MX4_G32 ? MOE_GROUP + 8
                                                         : MOE_GROUP + 12));
}


/* bytes of a strip, and of a whole matrix */
size_t moe_packed_strip(moe_wtype_e type, uint32_t k);
uint64_t moe_packed_size(moe_wtype_e type, uint64_t n, uint64_t k);

/*
 * Packs rows w[nrows][k], at most 32, as one strip.  I8: the scale is the
 * largest magnitude over 127.  I4: of some scales about the largest value
 * over -8 the one with the least square error.  MX4: of two powers of two
 * likewise.  Scales that a float16 cannot hold, where it is to, and values
 * that are no numbers: -1.
 */
int moe_pack_strip(moe_wtype_e type, const float *w, uint32_t nrows,
    uint32_t k, uint8_t *out);

/*
 * The same of quants that are there already: q[nrows][groups * 32], of I4 -8
 * to 7, of MX4 codes, and scales[nrows][groups], the bits of a float16 or e.
 */
void moe_pack_quants(moe_wtype_e type, const int8_t *q,
    const uint16_t *scales, uint32_t nrows, uint32_t k, uint8_t *out);

/* twice the value of a code of e2m1 */
extern const int8_t  moe_e2m1[16];

/* the scale of those, 2^(e - 128), exact; 255 is not a number */
float moe_e8m0(uint8_t e);

/* The values of row i of a packed matrix, out[k]. */
void moe_unpack_row(const moe_matrix_t *w, uint32_t i, float *out);


/*
 * Quantizes x of every packed part into c->quant, where parts that follow on
 * each other with the same x share it, and sets q.  Returns for how many of
 * the parts there was room; 0: not even for all rows of the first.
 */
uint32_t moe_packed_rows(const moe_kctx_t *c, const moe_packed_ops_t *ops,
    moe_matmul_t *parts, uint32_t nparts);

/* columns [begin, end) of a part whose q is set; begin a multiple of 32 */
void moe_packed_columns(const moe_packed_ops_t *ops, const moe_matmul_t *p,
    uint32_t begin, uint32_t end);

/* glu of kernels.h */
void moe_packed_glu(const moe_kctx_t *c, const moe_packed_ops_t *ops,
    moe_glu_t *parts, uint32_t nparts);


#endif /* MOE_PACKED_H */
