/*
 * Packed weights: what is packed comes back, every set gives the bits of
 * plain C, a row gives the same bits in any company, and all of it is what
 * double precision makes of the same quants.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "kernels/cpu/packed.h"
#include "kernels/kernels.h"


enum { QUANT_BYTES = 1 << 22 };


static const moe_kernels_t  *sets[3];
static int                   nsets;
static moe_kctx_t            ctx1, ctx3;
static uint64_t              rng;

static const moe_wtype_e     types[] = {
    MOE_W_I8_G32, MOE_W_I4_G32, MOE_W_MX4_G32
};

enum { NTYPES = 3 };


static uint32_t
random_u32(void)
{
    rng = rng * 6364136223846793005u + 1442695040888963407u;

    return (uint32_t) (rng >> 32);
}


static uint32_t
below(uint32_t n)
{
    return (uint32_t) ((uint64_t) random_u32() * n >> 32);
}


static float
random_float(void)
{
    return (float) (int32_t) random_u32() * 0x1p-31f;
}


static float *
random_floats(size_t n)
{
    float   *x;
    size_t   i;

    x = malloc(n * sizeof(float));

    for (i = 0; i < n; i++) {
        x[i] = random_float();
    }

    return x;
}


static uint8_t *
pack(moe_wtype_e type, const float *w, uint32_t n, uint32_t k)
{
    size_t    strip;
    uint8_t  *data;
    uint32_t  i;

    strip = moe_packed_strip(type, k);
    data = malloc(moe_packed_size(type, n, k));

    for (i = 0; i < n; i += 32) {
        assert_int_equal(moe_pack_strip(type, w + (size_t) i * k,
                                        n - i < 32 ? n - i : 32, k,
                                        data + i / 32 * strip), 0);
    }

    return data;
}


/* values that are what packing makes of others, so that the test knows them */
static moe_matrix_t
random_packed(moe_wtype_e type, uint32_t n, uint32_t k)
{
    float         *w;
    moe_matrix_t   m = { .type = type, .n = n, .k = k };

    w = random_floats((size_t) n * k);
    m.data = pack(type, w, n, k);
    free(w);

    return m;
}


static int
setup(void **state)
{
    int                         i;
    moe_err_t                   err;
    static const char *const    names[] = { "plain", "avx2", "avx512" };

    rng = (uint64_t) time(NULL);
    print_message("seed %llu\n", (unsigned long long) rng);

    for (i = 0; i < 3; i++) {
        sets[nsets] = moe_kernels_get(names[i]);

        if (sets[nsets] != NULL) {
            print_message("%s\n", names[i]);
            nsets++;
        }
    }

    ctx1.pool = moe_pool_create(1, &err);
    ctx3.pool = moe_pool_create(3, &err);
    ctx1.quant_size = ctx3.quant_size = QUANT_BYTES;
    ctx1.quant = aligned_alloc(64, QUANT_BYTES);
    ctx3.quant = aligned_alloc(64, QUANT_BYTES);

    return 0;
}


static int
teardown(void **state)
{
    moe_pool_destroy(ctx1.pool);
    moe_pool_destroy(ctx3.pool);
    free(ctx1.quant);
    free(ctx3.quant);

    return 0;
}


static void
test_pack_error(void **state)
{
    float         *w, *back, amax, e, bound;
    size_t         i;
    uint32_t       t, r, j, g, n, k;
    moe_matrix_t   m;

    for (t = 0; t < NTYPES; t++) {
        n = 1 + below(70);
        k = 1 + below(100);
        w = random_floats((size_t) n * k);
        back = malloc(k * sizeof(float));

        /* groups of all sizes, and one of zeros */
        for (i = 0; i < (size_t) n * k; i++) {
            w[i] *= exp2f((float) (i / 7 % 12) - 6.0f);
        }
        memset(w, 0, (k < 32 ? k : 32) * sizeof(float));

        m = (moe_matrix_t) { .type = types[t], .n = n, .k = k };
        m.data = pack(types[t], w, n, k);

        for (r = 0; r < n; r++) {
            moe_unpack_row(&m, r, back);

            for (g = 0; g < k; g += 32) {
                amax = 0;
                for (j = g; j < k && j < g + 32; j++) {
                    amax = fmaxf(amax, fabsf(w[(size_t) r * k + j]));
                }

                bound = t == 0 ? amax / 254 * 1.01f
                        : t == 1 ? amax / 6.5f : amax / 4;

                for (j = g; j < k && j < g + 32; j++) {
                    e = fabsf(back[j] - w[(size_t) r * k + j]);
                    assert_true(e <= bound + 1e-7f);
                }
            }
        }

        free((void *) m.data);
        free(back);
        free(w);
    }
}


/* packed once more, nothing changes: int8 of int8, values -8 .. 7, and codes
 * of e2m1, of which the largest is any */
static void
test_pack_exact(void **state)
{
    int            q;
    float          w[32 * 32], back[32];
    uint8_t        data[MOE_I8_BLOCK];
    uint32_t       t, i, j;
    moe_matrix_t   m;

    for (t = 0; t < NTYPES; t++) {
        for (i = 0; i < 32; i++) {
            for (j = 0; j < 32; j++) {
                q = t == 0 ? (int) below(255) - 127 : (int) below(16) - 8;
                q = j == i ? (t == 0 ? 127 : -8) : q;
                q = t == 2 ? moe_e2m1[below(2) * 8 + below(1 + i % 8)] : q;
                w[i * 32 + j] = (float) q * exp2f(-(float) (i % 10));
            }
        }

        assert_int_equal(moe_pack_strip(types[t], w, 32, 32, data), 0);
        m = (moe_matrix_t) { data, NULL, types[t], 32, 32, 0, 0 };

        for (i = 0; i < 32; i++) {
            moe_unpack_row(&m, i, back);
            assert_memory_equal(back, w + i * 32, sizeof(back));
        }
    }
}


static void
test_pack_refuses(void **state)
{
    int       t;
    float     w[32];
    uint8_t   data[MOE_I8_BLOCK];

    for (t = 0; t < NTYPES; t++) {
        memset(w, 0, sizeof(w));
        w[7] = NAN;
        assert_int_equal(moe_pack_strip(types[t], w, 1, 32, data), -1);
        w[7] = INFINITY;
        assert_int_equal(moe_pack_strip(types[t], w, 1, 32, data), -1);
        w[7] = 1e30f;
        assert_int_equal(moe_pack_strip(types[t], w, 1, 32, data),
                         t == 2 ? 0 : -1);
    }
}


/* all scales against powers of two, and what a row is unpacked to */
static void
test_scales(void **state)
{
    int            e;
    float          row[32];
    int8_t         q[32];
    uint8_t        data[MOE_MX4_BLOCK];
    uint16_t       scale;
    uint32_t       i;
    moe_matrix_t   w = { data, NULL, MOE_W_MX4_G32, 1, 32, 0, 0 };

    static const double  values[] = { 0, 0.5, 1, 1.5, 2, 3, 4, 6 };

    for (i = 0; i < 32; i++) {
        q[i] = (int8_t) (i / 2);
    }

    for (e = 0; e < 255; e++) {
        assert_true((double) moe_e8m0((uint8_t) e) == ldexp(1, e - 128));

        scale = (uint16_t) e;
        moe_pack_quants(MOE_W_MX4_G32, q, &scale, 1, 32, data);
        moe_unpack_row(&w, 0, row);

        for (i = 0; i < 32; i++) {
            /* the largest is infinite where float32 ends */
            assert_true(row[i] == (float) ldexp(values[i / 2 % 8], e - 127)
                                  * (i < 16 ? 1 : -1));
        }
    }

    assert_true(isnan(moe_e8m0(255)));
}


/* what a product is of the quants as they are, in double */
static double
reference(const moe_matrix_t *w, const uint8_t *row, uint32_t col)
{
    float          *v;
    double          sum;
    uint32_t        j;
    const float    *scales;
    const int8_t   *q;

    v = malloc(w->k * sizeof(float));
    moe_unpack_row(w, col, v);
    scales = moe_row_scales(row, moe_groups(w->k));
    q = (const int8_t *) row;
    sum = 0;

    for (j = 0; j < w->k; j++) {
        sum += (double) v[j] * q[j] * (double) scales[j / 32];
    }

    free(v);

    return sum;
}


static void
fill_rows(float *x, uint32_t nrows, uint32_t k, size_t ldx)
{
    uint32_t  r, j;

    for (r = 0; r < nrows; r++) {
        for (j = 0; j < k; j++) {
            x[r * ldx + j] = random_float();

            switch (r % 5) {
            case 1:             /* only the extremes */
                x[r * ldx + j] = below(2) ? 1.0f : -1.0f;
                break;
            case 2:             /* groups far apart */
                x[r * ldx + j] *= exp2f((float) (j / 32 * 37 % 60) - 30.0f);
                break;
            case 3:             /* many halves: ties */
                x[r * ldx + j] = j % 32 == 0 ? 127.0f
                                 : (float) ((int) below(253) - 126) + 0.5f;
                break;
            }
        }
    }
}


static void
test_matmul_plain(void **state)
{
    float          *x, *out, *bias;
    double          ref;
    uint32_t        t, n, k, r, c, rows;
    moe_matmul_t    p;
    moe_matrix_t    w;
    const uint8_t  *row;

    for (t = 0; t < 12; t++) {
        n = 1 + below(80);
        k = 1 + below(200);
        rows = 1 + below(9);
        w = random_packed(types[t % NTYPES], n, k);
        x = random_floats((size_t) rows * k);
        fill_rows(x, rows, k, k);
        bias = random_floats(n);
        out = malloc((size_t) rows * n * sizeof(float));

        p = (moe_matmul_t) { .w = w, .bias = t & 1 ? bias : NULL, .x = x,
                             .out = out, .ldx = k, .ldo = n, .nrows = rows };
        sets[0]->matmul(&ctx1, &p, 1);

        for (r = 0; r < rows; r++) {
            row = p.q + r * moe_quant_row(k);

            for (c = 0; c < k; c++) {
                assert_float_equal(((const int8_t *) row)[c]
                                   * moe_row_scales(row, moe_groups(k))
                                     [c / 32], x[r * k + c],
                                   moe_row_scales(row, moe_groups(k))[c / 32]
                                   * 0.501f);
            }

            for (c = 0; c < n; c++) {
                ref = reference(&w, row, c) + (p.bias ? bias[c] : 0);
                assert_float_equal(out[r * n + c], ref,
                                   1e-4 * (1 + fabs(ref)));
            }
        }

        free((void *) w.data);
        free(x);
        free(out);
        free(bias);
    }
}


/* with room for few quantized rows it goes on in turns */
static void
test_room(void **state)
{
    int            s;
    float         *x, *want, *out;
    uint32_t       i, room;
    moe_glu_t      g[3];
    moe_kctx_t     c;
    moe_matmul_t   p[3];
    moe_matrix_t   w, up;

    x = random_floats(3 * 20 * 64);
    want = malloc(3 * 20 * 64 * sizeof(float));
    out = malloc(3 * 20 * 64 * sizeof(float));
    w = random_packed(MOE_W_I8_G32, 64, 64);
    up = random_packed(MOE_W_I4_G32, 64, 64);

    for (s = 0; s < nsets; s++) {
        for (room = 0; room < 80; room = room * 2 + 1) {
            c = ctx3;
            c.quant_size = room == 0 ? ctx3.quant_size
                                     : room * 2 * moe_quant_row(64);

            for (i = 0; i < 3; i++) {
                p[i] = (moe_matmul_t) { .w = i == 1 ? up : w,
                                        .x = x + i * 20 * 64,
                                        .out = out + i * 20 * 64,
                                        .ldx = 64, .ldo = 64, .nrows = 20 };
                g[i] = (moe_glu_t) { .gate = w, .up = up, .down = w,
                                     .x = out + i * 20 * 64,
                                     .out = out + i * 20 * 64,
                                     .nrows = 20 };
            }

            sets[s]->matmul(&c, p, 3);
            sets[s]->glu(&c, g, 3);

            if (room == 0 && s == 0) {
                memcpy(want, out, 3 * 20 * 64 * sizeof(float));
            }
            assert_memory_equal(out, want, 3 * 20 * 64 * sizeof(float));
        }
    }

    free((void *) w.data);
    free((void *) up.data);
    free(x);
    free(want);
    free(out);
}


/* every set, every number of rows from 1 to 64, two numbers of threads */
static void
test_matmul_bits(void **state)
{
    int            s;
    float         *x, *want, *out;
    size_t         ldx, ldo;
    uint32_t       t, n, k, rows, first;
    moe_matrix_t   w;
    moe_matmul_t   p;

    for (t = 0; t < 2 * NTYPES; t++) {
        n = t < NTYPES ? 1 + below(200) : 32 * (1 + below(6));
        k = t < NTYPES ? 1 + below(300) : 32 * (1 + below(12));
        ldx = k + 3;
        ldo = n + 5;
        w = random_packed(types[t % NTYPES], n, k);
        x = random_floats(64 * ldx);
        fill_rows(x, 64, k, ldx);
        want = calloc(64 * ldo, sizeof(float));
        out = calloc(64 * ldo, sizeof(float));

        /* each row alone, in plain C */
        for (rows = 0; rows < 64; rows++) {
            p = (moe_matmul_t) { .w = w, .x = x + rows * ldx,
                                 .out = want + rows * ldo, .ldx = ldx,
                                 .ldo = ldo, .nrows = 1 };
            sets[0]->matmul(&ctx1, &p, 1);
        }

        for (s = 0; s < nsets; s++) {
            for (rows = 1; rows <= 64; rows++) {
                first = below(65 - rows);
                memset(out, 0, 64 * ldo * sizeof(float));

                p = (moe_matmul_t) { .w = w, .x = x + first * ldx,
                                     .out = out + first * ldo, .ldx = ldx,
                                     .ldo = ldo, .nrows = rows };
                sets[s]->matmul(rows % 2 ? &ctx1 : &ctx3, &p, 1);

                assert_memory_equal(out + first * ldo, want + first * ldo,
                                    ((rows - 1) * ldo + n) * sizeof(float));
            }
        }

        free((void *) w.data);
        free(x);
        free(want);
        free(out);
    }
}


/* sums as large as they become: all quants, and all of x, of one sign or of
 * two; of codes also with the least and the largest scales */
static void
test_extremes(void **state)
{
    int            s, c;
    float          x[7 * 64], out[7 * 32], want[7 * 32];
    int8_t         q[32 * 64];
    uint8_t        data[2 * MOE_I8_BLOCK];
    uint16_t       scales[32 * 2];
    uint32_t       t, i, r;
    moe_matmul_t   p;

    static const int  most[] = { 127, 7, 7 }, least[] = { -127, -8, 15 };
    static const uint8_t  exps[] = { 0, 1, 2, 3, 126, 127, 253, 254 };

    for (t = 0; t < NTYPES; t++) {
        for (c = 0; c < 4; c++) {
            for (i = 0; i < 32 * 64; i++) {
                q[i] = (int8_t) ((c == 2 ? i / 4 % 2 : c == 3 ? below(2)
                                  : (uint32_t) c) ? most[t] : least[t]);
                x[i % (7 * 64)] = i / 64 % 2 ? 1.0f : -1.0f;
            }

            for (i = 0; i < 64; i++) {
                scales[i] = (uint16_t) (t == 2 ? exps[i / 2 % 8]
                                        : 0x3c00 + i);
                x[64 * 6 + i] = below(2) ? 1e-30f : -1e-30f;
            }

            moe_pack_quants(types[t], q, scales, 32, 64, data);

            for (s = 0; s < nsets; s++) {
                for (r = 1; r <= 7; r++) {
                    p = (moe_matmul_t) {
                        .w = { data, NULL, types[t], 32, 64, 0, 0 },
                        .x = x + 64 * (7 - r), .ldx = 64, .ldo = 32,
                        .out = (s ? out : want) + 32 * (7 - r), .nrows = r
                    };
                    sets[s]->matmul(&ctx1, &p, 1);

                    if (s) {
                        assert_memory_equal(out + 32 * (7 - r),
                                            want + 32 * (7 - r), r * 32 * 4);
                    }
                }
            }

            for (i = 0; t == 2 && c < 2 && i < 32 * 6; i++) {
                assert_true(i % 8 < 6 ? isnormal(want[i]) : isinf(want[i]));
            }
        }
    }
}


/* glu of every number of rows from 1 to 64 against each row alone */
static void
test_glu_rows(void **state)
{
    int            s;
    float         *x, *want, *out;
    uint32_t       t, i, f, n, k, rows, first;
    moe_glu_t      g;
    moe_matrix_t   w[3];
    moe_clamped_t  clamped = { 1.702f, 1.5f };

    for (t = 0; t < 2 * NTYPES; t++) {
        k = t < NTYPES ? 1 + below(100) : 32 * (1 + below(4));
        f = t < NTYPES ? 1 + below(100) : 32 * (1 + below(4));
        n = t < NTYPES ? 1 + below(100) : 32 * (1 + below(4));
        x = random_floats(64 * k);
        fill_rows(x, 64, k, k);
        want = malloc(64 * n * sizeof(float));
        out = malloc(64 * n * sizeof(float));
        w[0] = random_packed(types[t % NTYPES], f, k);
        w[1] = random_packed(types[t % NTYPES], f, k);
        w[2] = random_packed(types[t % NTYPES], n, f);
        g = (moe_glu_t) { .gate = w[0], .up = w[1], .down = w[2],
                          .clamped = t % 2 ? &clamped : NULL };

        for (rows = 0; rows < 64; rows++) {
            g.x = x + rows * k;
            g.out = want + rows * n;
            g.nrows = 1;
            sets[0]->glu(&ctx1, &g, 1);
        }

        for (s = 0; s < nsets; s++) {
            for (rows = 1; rows <= 64; rows++) {
                first = below(65 - rows);
                g.x = x + first * k;
                g.out = out + first * n;
                g.nrows = rows;
                sets[s]->glu(rows % 2 ? &ctx1 : &ctx3, &g, 1);
                assert_memory_equal(g.out, want + first * n,
                                    rows * n * sizeof(float));
            }
        }

        for (i = 0; i < 3; i++) {
            free((void *) w[i].data);
        }
        free(x);
        free(want);
        free(out);
    }
}


/* packed and other parts of one call; what has no scale is a NaN alone */
static void
test_matmul_parts(void **state)
{
    int            s;
    float         *x, *plain, *out[3], *want[3];
    uint32_t       i, k, r;
    moe_matmul_t   p[3];
    moe_matrix_t   w[3];

    k = 96;
    x = random_floats(5 * k);
    x[2 * k + 40] = INFINITY;
    memset(x + 3 * k, 0, k * sizeof(float));
    plain = random_floats(33 * k);

    w[0] = random_packed(MOE_W_I8_G32, 70, k);
    w[1] = (moe_matrix_t) { plain, NULL, MOE_W_F32, 33, k, 0, 0 };
    w[2] = random_packed(MOE_W_I4_G32, 64, k);

    for (i = 0; i < 3; i++) {
        out[i] = malloc(5 * w[i].n * sizeof(float));
        want[i] = malloc(5 * w[i].n * sizeof(float));
    }

    for (s = 0; s < nsets; s++) {
        for (i = 0; i < 3; i++) {
            p[i] = (moe_matmul_t) { .w = w[i], .x = x, .out = out[i],
                                    .ldx = k, .ldo = w[i].n, .nrows = 5 };
        }

        sets[s]->matmul(&ctx3, p, 3);

        for (i = 0; i < 3; i++) {
            if (s == 0) {
                memcpy(want[i], out[i], 5 * w[i].n * sizeof(float));
            }

            for (r = 0; r < 5 * w[i].n; r++) {
                if (r / w[i].n == 2) {
                    assert_false(isfinite(out[i][r]));
                    continue;
                }
                assert_memory_equal(&out[i][r], &want[i][r], 4);
                assert_true(r / w[i].n != 3 || out[i][r] == 0);
            }
        }
    }

    for (i = 0; i < 3; i++) {
        free(out[i]);
        free(want[i]);
    }
    free((void *) w[0].data);
    free((void *) w[2].data);
    free(plain);
    free(x);
}


/* glu against its three products and silu between them, bit for bit */
static void
test_glu(void **state)
{
    int            s;
    float         *x, *gate, *up, *want, *out;
    float         *bias[3];
    uint32_t       t, i, f, n, k, rows[3], at, plain;
    moe_glu_t      g[3];
    moe_matmul_t   p[2];
    moe_matrix_t   w[3][3];
    moe_clamped_t  clamped = { 1.702f, 1.5f };

    for (t = 0; t < 12; t++) {
        plain = t < 6;
        k = 1 + below(150);
        f = 1 + below(150);
        n = 1 + below(150);
        x = random_floats(60 * k);
        fill_rows(x, 60, k, k);
        gate = malloc(60 * f * sizeof(float));
        up = malloc(60 * f * sizeof(float));
        want = malloc(60 * n * sizeof(float));
        out = malloc(60 * n * sizeof(float));

        bias[0] = random_floats(f);
        bias[1] = random_floats(f);
        bias[2] = random_floats(n);

        rows[0] = 1 + below(20);
        rows[1] = t == 0 ? 0 : 1 + below(9);
        rows[2] = 60 - rows[0] - rows[1];
        at = 0;

        for (i = 0; i < 3; i++) {
            w[i][0] = random_packed(types[t % NTYPES], f, k);
            w[i][1] = random_packed(types[t % NTYPES], f, k);
            w[i][2] = random_packed(types[(t + i) % NTYPES], n, f);

            p[0] = (moe_matmul_t) { .w = w[i][0], .x = x + at * k,
                                    .out = gate, .ldx = k, .ldo = f,
                                    .nrows = rows[i] };
            p[1] = (moe_matmul_t) { .w = w[i][1], .x = x + at * k, .out = up,
                                    .ldx = k, .ldo = f, .nrows = rows[i] };
            p[0].bias = plain ? NULL : bias[0];
            p[1].bias = plain ? NULL : bias[1];
            sets[0]->matmul(&ctx1, p, 2);

            if (plain) {
                sets[0]->silu_mul(&ctx1, gate, up, (size_t) rows[i] * f);
            } else {
                sets[0]->clamped_mul(&ctx1, &clamped, gate, up,
                                     (size_t) rows[i] * f);
            }
            p[0] = (moe_matmul_t) { .w = w[i][2], .x = gate,
                                    .out = want + at * n, .ldx = f, .ldo = n,
                                    .nrows = rows[i],
                                    .bias = plain ? NULL : bias[2] };
            sets[0]->matmul(&ctx1, p, 1);
            at += rows[i];
        }

        for (s = 0; s < nsets; s++) {
            at = 0;
            for (i = 0; i < 3; i++) {
                g[i] = (moe_glu_t) { .gate = w[i][0], .up = w[i][1],
                                     .down = w[i][2], .x = x + at * k,
                                     .out = out + at * n,
                                     .nrows = rows[i] };
                if (!plain) {
                    g[i].gate_bias = bias[0];
                    g[i].up_bias = bias[1];
                    g[i].down_bias = bias[2];
                    g[i].clamped = &clamped;
                }
                at += rows[i];
            }

            memset(out, 0, 60 * n * sizeof(float));
            sets[s]->glu(s ? &ctx3 : &ctx1, g, 3);
            assert_memory_equal(out, want, 60 * n * sizeof(float));
        }

        for (i = 0; i < 9; i++) {
            free((void *) w[i / 3][i % 3].data);
        }
        for (i = 0; i < 3; i++) {
            free(bias[i]);
        }
        free(x);
        free(gate);
        free(up);
        free(want);
        free(out);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_pack_error),
        cmocka_unit_test(test_pack_exact),
        cmocka_unit_test(test_pack_refuses),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_matmul_plain),
        cmocka_unit_test(test_matmul_bits),
        cmocka_unit_test(test_matmul_parts),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_room),
        cmocka_unit_test(test_glu_rows),
        cmocka_unit_test(test_glu)
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
