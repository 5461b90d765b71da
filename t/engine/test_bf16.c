/*
 * Products of bfloat16 by bfloat16: the plain twin does what the manual says
 * of vdpbf16ps, sets with it agree with each other bit for bit at every number
 * of rows, and what is not of bfloat16 is as it was.
 */

#include "kernels/cpu/bf16.h"
#include "kernels_test.h"


static const moe_kernels_t  *bf16[2];
static int                   nbf16;


static int
setup_bf16(void **state)
{
    int  rc;

    rc = setup(state);

    bf16[nbf16++] = moe_kernels_get("plain-bf16");
    bf16[nbf16] = moe_kernels_get("avx512-bf16");

    if (bf16[nbf16] != NULL) {
        print_message("avx512-bf16\n");
        nbf16++;
    }

    return rc;
}


/* what the twin gives for the elements of one lane, pair by pair */
static float
lane(const double *x, const double *w, uint32_t n)
{
    float            a[64] = { 0 }, f, dots[MOE_BF16_ROWS][MOE_BF16_COLS];
    uint16_t         b[64] = { 0 };
    uint32_t         i, u;
    moe_bf16_tile_t  t = { .x = { a }, .k = 64, .rows = 1 };

    for (i = 0; i < n; i++) {
        a[i / 2 * 32 + i % 2] = (float) x[i];
        f = (float) w[i];
        memcpy(&u, &f, 4);
        b[i / 2 * 32 + i % 2] = (uint16_t) (u >> 16);
    }

    for (i = 0; i < MOE_BF16_COLS; i++) {
        t.w[i] = (const uint8_t *) b;
    }

    moe_bf16_tile_plain(&t, dots);

    return dots[0][0];
}


static void
test_twin(void **state)
{
    float   f;
    size_t  i;

    static const struct {
        double  x[4];           /* even, odd, even, odd */
        double  w[4];
        double  sum;
    } cases[] = {
        { { 3 }, { 5 }, 15 },
        /* inputs: ties to even, and beyond them */
        { { 1 + 0x1p-8 }, { 1 }, 1 },
        { { 1 + 0x3p-8 }, { 1 }, 1 + 0x1p-6 },
        { { 1 + 0x1p-8 + 0x1p-20 }, { 1 }, 1 + 0x1p-7 },
        { { -0x1.fep127 - 0x1p119 }, { 1 }, -INFINITY },
        /* nothing is less than 2^-126 but zero */
        { { 0x1.fep-127 }, { 0x1p20 }, 0 },
        { { 0x1.fffffp-127 }, { 0x1p20 }, 0 },
        { { 0x1p20 }, { 0x1p-127 }, 0 },
        { { 0x1p-63 }, { 0x1p-63 }, 0x1p-126 },
        { { 0x1p-63 }, { 0x1.fep-64 }, 0 },
        { { 0x1p-75, 0x1p-63 }, { -0x1p-75, 0x1p-63 }, 0 },
        { { 0x1p-75, 0x1p-63 }, { -0x1p-76, 0x1p-63 }, 0x1p-126 },
        { { 0x1p-75, 0x1p-63 }, { -0x1.02p-76, 0x1p-63 }, 0 },
        /* each product is rounded for itself, the odd one first */
        { { 0, 1, 0x1p-24, 0x1p-24 }, { 0, 1, 1, 1 }, 1 },
        { { 0, 1, 0x1p-24, 0x1.04p-24 }, { 0, 1, 1, 1 }, 1 + 0x1p-22 },
        { { 0, 1, 0x1.04p-24, 0x1p-24 }, { 0, 1, 1, 1 }, 1 + 0x1p-23 },
        /* no range between a product and its sum, but beyond a sum */
        { { 0, -0x1p127, 0x1p100 }, { 0, 1, 0x1p28 }, 0x1p127 },
        { { 0x1p127, 0x1p127 }, { 1, 1 }, INFINITY },
        { { INFINITY }, { -1 }, -INFINITY },
        { { INFINITY }, { 0 }, NAN },
        { { INFINITY }, { 0x1p-127 }, NAN },
        { { INFINITY, INFINITY }, { 1, -1 }, NAN },
        { { 1, NAN }, { 1, 1 }, NAN }
    };

    for (i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        f = lane(cases[i].x, cases[i].w, 4);

        if (!(isnan(cases[i].sum) ? isnan(f)
                                  : (double) f == cases[i].sum))
        {
            fail_msg("case %zu: %a, not %a", i, (double) f, cases[i].sum);
        }
    }
}


/* the even product first; inputs as they are; lanes in halves */

static void
tile_even(const moe_bf16_tile_t *t, float dots[][MOE_BF16_COLS])
{
    float            x[MOE_BF16_ROWS][72] = { { 0 } };
    uint8_t          w[MOE_BF16_COLS][144] = { { 0 } };
    uint32_t         i, j;
    moe_bf16_tile_t  s = *t;

    s.k += t->k % 2;

    for (j = 0; j < t->k; j++) {
        for (i = 0; i < t->rows; i++) {
            x[i][j ^ 1] = t->x[i][j];
            s.x[i] = x[i];
        }

        for (i = 0; i < MOE_BF16_COLS; i++) {
            memcpy(w[i] + (j ^ 1) * 2, t->w[i] + j * 2, 2);
            s.w[i] = w[i];
        }
    }

    moe_bf16_tile_plain(&s, dots);
}


static void
tile_wide(const moe_bf16_tile_t *t, float dots[][MOE_BF16_COLS])
{
    float     w, f;
    uint32_t  i, j, c, u;
    uint16_t  h;

    for (i = 0; i < t->rows; i++) {
        for (c = 0; c < MOE_BF16_COLS; c++) {
            f = 0;

            for (j = 0; j < t->k; j++) {
                memcpy(&h, t->w[c] + j * 2, 2);
                u = (uint32_t) h << 16;
                memcpy(&w, &u, 4);
                f = fmaf(t->x[i][j], w, f);
            }

            dots[i][c] = f;
        }
    }
}


static void
test_agrees(void **state)
{
    assert_true(moe_bf16_agrees(moe_bf16_tile_plain));
    assert_false(moe_bf16_agrees(tile_even));
    assert_false(moe_bf16_agrees(tile_wide));
}


/* weights at an odd address, some denormal */
static uint8_t *
random_weights(size_t n)
{
    float     f;
    size_t    i;
    uint8_t  *w;
    uint32_t  u;

    w = malloc(n * 2 + 1);

    for (i = 0; i < n; i++) {
        f = random_float();
        memcpy(&u, &f, 4);
        u = below(50) ? u : u & 0x807fffff;
        w[1 + i * 2] = (uint8_t) (u >> 16);
        w[2 + i * 2] = (uint8_t) (u >> 24);
    }

    return w;
}


static double
rounded(float x)
{
    float     f;
    uint32_t  u;

    memcpy(&u, &x, 4);
    u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
    memcpy(&f, &u, 4);

    return (double) f;
}


static double
reference(const float *x, const uint8_t *w, uint32_t k)
{
    float     f;
    double    sum;
    uint32_t  j, u;

    sum = 0;

    for (j = 0; j < k; j++) {
        u = (uint32_t) w[j * 2] << 16 | (uint32_t) w[j * 2 + 1] << 24;
        memcpy(&f, &u, 4);
        sum += rounded(x[j]) * (double) f;
    }

    return sum;
}


static void
matmul_once(uint32_t n, uint32_t k, uint32_t rows)
{
    int            s;
    float         *x, *bias, *want, *out;
    size_t         ldx, ldo;
    uint8_t       *w;
    uint32_t       i, j;
    moe_matmul_t   p;

    ldx = k + below(5);
    ldo = n + below(5);
    w = random_weights((size_t) n * k);
    x = random_rows(rows, k, ldx);
    bias = below(2) ? random_rows(1, n, n) : NULL;
    want = calloc(rows * ldo, sizeof(float));
    out = calloc(rows * ldo, sizeof(float));

    p = (moe_matmul_t) { .w = { w + 1, NULL, MOE_W_BF16, n, k, 0, 0 },
                         .bias = bias, .ldx = ldx, .ldo = ldo };

    /* each row alone */
    for (i = 0; i < rows; i++) {
        p.x = x + i * ldx;
        p.out = want + i * ldo;
        p.nrows = 1;
        bf16[0]->matmul(&ctx1, &p, 1);

        for (j = 0; j < n; j++) {
            assert_near((double) p.out[j],
                        reference(p.x, w + 1 + (size_t) j * k * 2, k)
                        + (bias ? (double) bias[j] : 0), k, "bf16");
        }
    }

    p.x = x;
    p.out = out;
    p.nrows = rows;

    for (s = 0; s < nbf16; s++) {
        bf16[s]->matmul(&ctx1, &p, 1);
        assert_same(want, out, rows * ldo, bf16[s]->name);
        bf16[s]->matmul(&ctx3, &p, 1);
        assert_same(want, out, rows * ldo, bf16[s]->name);
    }

    free(w);
    free(x);
    free(bias);
    free(want);
    free(out);
}


static void
test_matmul(void **state)
{
    uint32_t  rows;

    for (rows = 1; rows <= 64; rows++) {
        matmul_once(1 + below(40), 1 + below(100), rows);
    }

    /* enough for the pool */
    matmul_once(200, 160, 33);
}


/* parts of several kinds: those of bfloat16 as they are alone, the others as
 * the set has them that this one is made of */
static void
test_parts(void **state)
{
    int            s;
    float         *x, *out[5], *want[5], *plain;
    uint8_t       *w;
    uint32_t       i;
    moe_matmul_t   p[5], one;

    x = random_rows(7, 50, 50);
    w = random_weights(70 * 50);
    plain = random_rows(70, 50, 50);

    for (i = 0; i < 5; i++) {
        out[i] = calloc(7 * 70, sizeof(float));
        want[i] = calloc(7 * 70, sizeof(float));
    }

    for (s = -1; s < nbf16; s++) {
        for (i = 0; i < 5; i++) {
            p[i] = (moe_matmul_t) {
                .w = { w + 1, NULL, MOE_W_BF16, 70, 50, 0, 0 }, .x = x,
                .out = s < 0 ? want[i] : out[i], .ldx = 50, .ldo = 70,
                .nrows = i == 3 ? 0 : 7 - i
            };

            if (i % 4 == 0) {
                p[i].w.type = MOE_W_F32;
                p[i].w.data = plain;
            }

            if (s < 0) {
                one = p[i];
                (i % 4 ? bf16 : sets)[0]->matmul(&ctx1, &one, 1);
            }
        }

        if (s >= 0) {
            bf16[s]->matmul(&ctx3, p, 5);

            for (i = 0; i < 5; i++) {
                assert_same(want[i], out[i], 7 * 70, "parts");
            }
        }
    }

    for (i = 0; i < 5; i++) {
        free(out[i]);
        free(want[i]);
    }
    free(x);
    free(w);
    free(plain);
}


/* never chosen but by name, and never taken for another kind */
static void
test_names(void **state)
{
    int  s;

    assert_string_not_equal(bf16[0]->set, sets[0]->set);
    assert_string_equal(bf16[0]->set, bf16[nbf16 - 1]->set);
    assert_string_equal(moe_kernels_get(NULL)->set, sets[0]->set);

    for (s = 0; s < nbf16; s++) {
        assert_true(strstr(bf16[s]->name, "-bf16") != NULL);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_twin),
        cmocka_unit_test(test_agrees),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_names)
    };

    return cmocka_run_group_tests_name("bf16", tests, setup_bf16, teardown);
}
