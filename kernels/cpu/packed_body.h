/* packed_body: what the sets of packed products share, compiled once a set
 * with its VL; see packed.h for what is computed */

#include <math.h>

#include "kernels/cpu/packed.h"
#include "kernels/cpu/vec.h"


/* magnitudes below are taken for 0, so that 127 / amax is finite */
#define AMAX_MIN  0x1p-100f


/* bits of the largest magnitude; a NaN's are above all, an infinity's above
 * all numbers' */
INLINE uint32_t
group_amax(const float *x)
{
    int       i, j;
    vu        m, u;
    uint32_t  lanes[VL], best;

    m = (vu) {0};

    for (i = 0; i < MOE_GROUP; i += VL) {
        u = (vu) vf_load(x + i) & 0x7fffffff;
        m = (vu) vf_select((vi) (u > m), (vf) u, (vf) m);
    }

    memcpy(lanes, &m, sizeof(lanes));
    best = lanes[0];

    for (j = 1; j < VL; j++) {
        best = lanes[j] > best ? lanes[j] : best;
    }

    return best;
}


/* 32 values into group g; what has no largest magnitude becomes a NaN */
INLINE void
group_quantize(const float *x, uint8_t *row, uint32_t groups, uint32_t g)
{
    int       i;
    vf        r;
    vi        q, sum;
    float     amax, scale, inverse;
    int8_t   *to;
    int32_t   lanes[VL], total;
    uint32_t  bits;

    typedef int8_t  vc __attribute__((vector_size(VL)));
    typedef vc      vc_mem __attribute__((aligned(1), may_alias));

    to = (int8_t *) row + g * MOE_GROUP;
    bits = group_amax(x);
    memcpy(&amax, &bits, 4);

    if (bits >= 0x7f800000 || amax < AMAX_MIN) {
        memset(to, 0, MOE_GROUP);
        moe_row_scales(row, groups)[g] = bits >= 0x7f800000 ? NAN : 0.0f;
        moe_row_sums(row, groups, MOE_W_I4_G32)[g] = 0;
        moe_row_sums(row, groups, MOE_W_MX4_G32)[g] = 0;
        moe_row_sums(row, groups, MOE_W_I8_G32)[g] = 0;
        return;
    }

    scale = amax / 127.0f;
    inverse = 127.0f / amax;
    sum = (vi) {0};

    for (i = 0; i < MOE_GROUP; i += VL) {
        /* the low bits of 1.5 * 2^23 + r are r, to the nearest, ties to
         * even */
        r = vf_load(x + i) * inverse + 0x1.8p23f;
        q = (vi) r - 0x4b400000;
        sum = sum + q;
        *(vc_mem *) (to + i) = __builtin_convertvector(q, vc);
    }

    memcpy(lanes, &sum, sizeof(lanes));
    total = 0;

    for (i = 0; i < VL; i++) {
        total += lanes[i];
    }

    moe_row_scales(row, groups)[g] = scale;
    moe_row_sums(row, groups, MOE_W_I4_G32)[g] = -8 * total;
    moe_row_sums(row, groups, MOE_W_MX4_G32)[g] = -12 * total;
    moe_row_sums(row, groups, MOE_W_I8_G32)[g] = -128 * total;
}


static void
op_quantize(const float *x, uint32_t n, uint8_t *row, uint32_t groups,
    uint32_t g)
{
    float  part[MOE_GROUP];

    if (n == MOE_GROUP) {
        group_quantize(x, row, groups, g);
        return;
    }

    memset(part, 0, sizeof(part));
    memcpy(part, x, n * sizeof(float));
    group_quantize(part, row, groups, g);
}


/* as silu_mul and clamped_mul of body_rows.h */
static void
op_glu(const moe_clamped_t *clamped, const float *gate, const float *up,
    uint8_t *row, uint32_t groups, uint32_t g)
{
    vf     x, u;
    int    i;
    float  h[MOE_GROUP];

    for (i = 0; i < MOE_GROUP; i += VL) {
        x = vf_load(gate + i);
        u = vf_load(up + i);

        vf_store(h + i, clamped == NULL
                        ? x / (vf_exp(-x) + 1.0f) * u
                        : vf_clamped_mul(x, u, clamped->alpha,
                                         clamped->limit));
    }

    group_quantize(h, row, groups, g);
}


/* the sum of n / 64 * 64 bytes as words, which nobody needs */
static uint64_t
op_probe_read(const void *p, size_t n)
{
    int             j;
    vu              sum[16 / VL * 4] = { 0 };
    size_t          i;
    const uint8_t  *b = p;

    for (i = 0; i + 256 <= n; i += 256) {
        UNROLL
        for (j = 0; j < 16 / VL * 4; j++) {
            sum[j] = sum[j] + *(const vu_mem *) (b + i + j * VL * 4);
        }
    }

    for (j = 1; j < 16 / VL * 4; j++) {
        sum[0] = sum[0] + sum[j];
    }

    return sum[0][0];
}


/* strip of nrows in tiles of at most max rows, as even as can be */
INLINE uint32_t
tile_of(uint32_t left, uint32_t max)
{
    uint32_t  tiles;

    tiles = (left + max - 1) / max;

    return (left + tiles - 1) / tiles;
}
