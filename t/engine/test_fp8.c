/*
 * Inputs in FP8: codes are the nearest there are, a product is what
 * kernels/fp8.h says, the same for any number of rows and threads, and what
 * has no FP8 weights is as it was.
 */

#include "kernels/fp8.h"
#include "kernels_test.h"


static const moe_kernels_t  *fp8;


static int
setup_fp8(void **state)
{
    int  rc;

    rc = setup(state);

    fp8 = moe_kernels_get("plain-fp8");
    ctx1.quant_size = ctx3.quant_size = 1 << 18;
    ctx1.quant = aligned_alloc(64, ctx1.quant_size);
    ctx3.quant = aligned_alloc(64, ctx3.quant_size);

    return rc;
}


static int
teardown_fp8(void **state)
{
    free(ctx1.quant);
    free(ctx3.quant);

    return teardown(state);
}


/* of a code, by its definition */
static double
value(uint32_t code)
{
    double    v;
    uint32_t  e, m;

    e = code >> 3 & 15;
    m = code & 7;
    v = e == 0 ? ldexp(m, -9) : ldexp(8 + m, (int) e - 10);

    return code & 0x80 ? -v : v;
}


/* the nearest code, of two the even one */
static uint32_t
nearest(float x)
{
    double    d, least;
    uint32_t  c, best, sign;

    sign = signbit(x) ? 0x80 : 0;
    best = 0;
    least = INFINITY;

    for (c = 0; c < 0x7f; c++) {
        d = fabs(fabs((double) x) - value(c));

        if (d < least || (d == least && c % 2 == 0)) {
            least = d;
            best = c;
        }
    }

    return sign | best;
}


static void
test_codes(void **state)
{
    float     x;
    uint32_t  i, u;

    for (i = 0; i < 256; i++) {
        if ((i & 0x7f) == 0x7f) {
            assert_true(isnan(moe_fp8_value((uint8_t) i)));
            continue;
        }

        assert_true((double) moe_fp8_value((uint8_t) i) == value(i));
        assert_int_equal(moe_fp8_code(moe_fp8_value((uint8_t) i)), i);

        /* halfway to the next, and one bit to either side */
        if ((i & 0x7f) < 0x7e) {
            x = (float) (value(i) + value(i + 1)) / 2;
            assert_int_equal(moe_fp8_code(x), nearest(x));
            x = nextafterf(x, INFINITY);
            assert_int_equal(moe_fp8_code(x), nearest(x));
            x = nextafterf(nextafterf(x, -INFINITY), -INFINITY);
            assert_int_equal(moe_fp8_code(x), nearest(x));
        }
    }

    for (i = 0; i < 200000; i++) {
        u = (random_u32() & 0x807fffff) | (110 + below(30)) << 23;
        memcpy(&x, &u, 4);

        if (moe_fp8_code(x) != nearest(x)) {
            fail_msg("%a becomes %u, not %u", (double) x, moe_fp8_code(x),
                     nearest(x));
        }
    }

    assert_int_equal(moe_fp8_code(1e30f), 0x7e);
    assert_int_equal(moe_fp8_code(-INFINITY), 0xfe);
}


static void
test_scales(void **state)
{
    float     x, by, scale;
    uint32_t  u;

    x = 3.5f;
    memcpy(&u, &x, 4);
    by = moe_fp8_scale(u, &scale);
    assert_true(by == 128 && scale == 3.5f / 448);

    by = moe_fp8_scale(0, &scale);
    assert_true(by == 0 && scale == 0);

    by = moe_fp8_scale(0x7f800000, &scale);
    assert_true(by == 0 && isnan(scale));

    /* the least and the largest that are not zero */
    x = MOE_FP8_AMAX_MIN;
    memcpy(&u, &x, 4);
    by = moe_fp8_scale(u, &scale);
    assert_true(isfinite(by) && scale > 0);
    x = 0x1.fffffep127f;
    memcpy(&u, &x, 4);
    by = moe_fp8_scale(u, &scale);
    assert_true(by > 0 && isfinite(scale));
}


typedef struct {
    uint8_t       *codes;
    float         *scale;
    moe_matrix_t   w;
} weights_t;


static void
random_weights(weights_t *t, uint32_t n, uint32_t k)
{
    size_t    i, scales;
    uint32_t  row0;

    row0 = below(200);
    t->codes = malloc((size_t) n * k);
    scales = ((size_t) n + row0 + 127) / 128 * ((k + 127) / 128);
    t->scale = malloc(scales * sizeof(float));

    for (i = 0; i < (size_t) n * k; i++) {
        t->codes[i] = (uint8_t) random_u32();
        t->codes[i] = (t->codes[i] & 0x7f) == 0x7f ? 0 : t->codes[i];
    }

    for (i = 0; i < scales; i++) {
        t->scale[i] = 0.001f + 0.001f * fabsf(random_float());
    }

    t->w = (moe_matrix_t) { .data = t->codes, .scale = t->scale,
                            .type = MOE_W_F8_E4M3, .n = n, .k = k,
                            .scale_cols = (k + 127) / 128, .row0 = row0 };
}


static void
free_weights(weights_t *t)
{
    free(t->codes);
    free(t->scale);
}


/* a product by the words of fp8.h, the sum in integers */
static float
by_hand(const weights_t *t, const float *x, uint32_t col)
{
    float     acc, amax, scale;
    int64_t   sum;
    uint32_t  g, i, end, k;

    k = t->w.k;
    acc = 0;

    for (g = 0; g * 128 < k; g++) {
        end = (g + 1) * 128 < k ? (g + 1) * 128 : k;
        amax = 0;
        sum = 0;

        for (i = g * 128; i < end; i++) {
            amax = fmaxf(amax, fabsf(x[i]));
        }

        for (i = g * 128; i < end; i++) {
            sum += (int64_t) ldexp(value(t->codes[(size_t) col * k + i]), 9)
                   * (int64_t) ldexp(value(nearest(x[i] * (448 / amax))), 9);
        }

        scale = t->scale[(col + t->w.row0) / 128 * t->w.scale_cols + g]
                * (amax / 448);
        acc = fmaf((float) ((double) sum * 0x1p-18), scale, acc);
    }

    return acc;
}


static void
matmul(const moe_kernels_t *set, const moe_kctx_t *c, const weights_t *t,
    const float *x, uint32_t rows, float *out, int keep_x)
{
    moe_matmul_t  p = { .w = t->w, .x = x, .ldx = t->w.k, .nrows = rows,
                        .out = out, .ldo = t->w.n, .keep_x = keep_x };

    set->matmul(c, &p, 1);
}


static void
test_products(void **state)
{
    size_t      size;
    float      *x, *out, *again;
    uint32_t    round, i, j, n, k, rows;
    weights_t   t;

    size = ctx3.quant_size;

    for (round = 0; round < 20; round++) {
        n = 1 + below(60);
        k = 1 + below(500);
        rows = 1 + below(20);
        random_weights(&t, n, k);
        x = random_rows(rows, k, k);
        out = malloc((size_t) rows * n * sizeof(float));
        again = malloc((size_t) rows * n * sizeof(float));

        matmul(fp8, &ctx1, &t, x, rows, out, 0);

        for (i = 0; i < rows; i++) {
            for (j = 0; j < n; j++) {
                again[i * n + j] = by_hand(&t, x + (size_t) i * k, j);
            }
        }

        assert_same(out, again, (size_t) rows * n, "by hand");

        /* rows in turns, threads */
        ctx3.quant_size = 3 * moe_quant_row(k);
        matmul(fp8, &ctx3, &t, x, rows, again, 0);
        ctx3.quant_size = size;
        assert_same(out, again, (size_t) rows * n, "in turns");

        i = below(rows);
        matmul(fp8, &ctx1, &t, x + (size_t) i * k, 1, again, 0);
        assert_same(out + (size_t) i * n, again, n, "one row");

        /* inputs as they are */
        matmul(fp8, &ctx1, &t, x, rows, out, 1);
        matmul(sets[0], &ctx1, &t, x, rows, again, 0);
        assert_same(out, again, (size_t) rows * n, "as they are");

        free(x);
        free(out);
        free(again);
        free_weights(&t);
    }
}


/* what is no number spoils its row alone */
static void
test_no_number(void **state)
{
    float      x[3 * 150], out[3 * 20];
    uint32_t   i;
    weights_t  t;

    for (i = 0; i < 3 * 150; i++) {
        x[i] = random_float();
    }

    x[150 + 140] = INFINITY;
    random_weights(&t, 20, 150);
    matmul(fp8, &ctx1, &t, x, 3, out, 0);

    for (i = 0; i < 20; i++) {
        assert_true(isfinite(out[i]));
        assert_true(isnan(out[20 + i]));
        assert_true(isfinite(out[40 + i]));
    }

    free_weights(&t);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_codes),
        cmocka_unit_test(test_scales),
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_no_number)
    };

    return cmocka_run_group_tests_name("fp8", tests, setup_fp8, teardown_fp8);
}
