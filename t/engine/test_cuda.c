/*
 * The GPU backend's memory and its products against their plain C twins, bit
 * for bit, on fresh random inputs and odd sizes.
 */

#include "cuda_test.h"

#include "kernels/cuda/permute.h"


static const moe_wtype_e  packed[] = {
    MOE_W_I8_G32, MOE_W_I4_G32, MOE_W_MX4_G32
};


static void
test_memory(void **state)
{
    size_t     i, n;
    uint8_t   *a, *b, *x, *y;

    need_device();

    n = 100000 + below(1000);
    a = malloc(n);
    b = malloc(n);

    x = take(n);
    down(b, x, n);
    for (i = 0; i < n; i++) {
        assert_int_equal(b[i], 0);
        a[i] = (uint8_t) random_u32();
    }

    y = up(a, n);
    gpu->memory->move(device.device, x + 5, y + 3, n - 5);
    down(b, x, n);
    assert_memory_equal(b + 5, a + 3, n - 5);
    assert_int_equal((uintptr_t) x % 256, 0);

    end();
    free(a);
    free(b);
}


/* parts [n] of random sizes; what all give, and each row alone */
static void
matmul_by(const moe_kernels_t *c, const moe_kernels_t *g, moe_wtype_e type,
    uint32_t n, uint32_t k, uint32_t rows, uint32_t nparts, int packed)
{
    float         *x, *want[40], *out, *dx, *bias;
    size_t         ldx, ldo, len;
    both_t         w[40];
    uint32_t       i, r;
    moe_matmul_t   host[40], dev[40], one;

    for (i = 0; i < nparts; i++) {
        r = nparts == 1 ? rows : below(rows + 1);
        ldx = k + below(5);
        ldo = n + below(5);
        len = (r ? r : 1) * ldo;
        w[i] = packed ? random_packed(type, n, k) : random_both(type, n, k);
        x = random_rows(r ? r : 1, k, ldx);
        bias = below(2) ? random_rows(1, n, n) : NULL;
        want[i] = zeros(len);
        out = take(len * 4);
        dx = up(x, (((r ? r : 1) - 1) * ldx + k) * 4);

        host[i] = (moe_matmul_t) { .w = w[i].host, .bias = bias, .x = x,
                                   .ldx = ldx, .nrows = r, .out = want[i],
                                   .ldo = ldo };
        host[i].keep_x = below(4) == 0;
        dev[i] = host[i];
        dev[i].w = w[i].device;
        dev[i].bias = up(bias, n * 4);
        dev[i].x = dx;
        dev[i].out = out;
    }

    c->matmul(&ctx3, host, nparts);
    g->matmul(&device, dev, nparts);

    for (i = 0; i < nparts; i++) {
        r = dev[i].nrows;
        assert_device(want[i], dev[i].out, (r ? r : 1) * dev[i].ldo,
                      "matmul");

        if (nparts == 1) {
            r = below(rows);
            one = dev[0];
            one.nrows = 1;
            one.x += r * one.ldx;
            one.out = take(n * 4);
            g->matmul(&device, &one, 1);
            assert_device(want[0] + r * dev[0].ldo, one.out, n,
                          "one row of a matmul");
        }
    }

    for (i = 0; i < nparts; i++) {
        free((void *) host[i].x);
        free((void *) host[i].bias);
        free(want[i]);
        free_both(&w[i]);
    }

    end();
}


static void
matmul_once(moe_wtype_e type, uint32_t n, uint32_t k, uint32_t rows,
    uint32_t nparts, int packed)
{
    matmul_by(cpu, gpu, type, n, k, rows, nparts, packed);
}


static void
test_matmul(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 24 * rounds; i++) {
        matmul_once((moe_wtype_e) (i % 4), 1 + below(70), 1 + below(300),
                    i % 8 < 4 ? 1 + below(8) : 9 + below(60), 1, 0);
    }

    for (i = 0; i < 4 * (uint32_t) large; i++) {
        matmul_once((moe_wtype_e) (i % 4), 2048, 7168, 1 + below(300), 1, 0);
    }
}


static void
test_matmul_of_many_parts(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 4 * rounds; i++) {
        matmul_once((moe_wtype_e) (i % 4), 1 + below(40), 1 + below(100),
                    i < 2 ? 6 : 40, 2 + below(38), 0);
    }
}


static void
test_matmul_t(void **state)
{
    float         *x, *want, *out;
    size_t         ldx, ldo;
    both_t         w;
    uint32_t       i, n, k, rows;
    moe_matmul_t   host, dev;

    need_device();

    for (i = 0; i < 12 * rounds; i++) {
        n = 1 + below(150);
        k = 1 + below(300);
        rows = 1 + below(20);
        ldx = n + below(5);
        ldo = k + below(5);
        w = random_both((moe_wtype_e) (i % 4), n, k);
        x = random_rows(rows, n, ldx);
        want = zeros(rows * ldo);
        out = take(rows * ldo * 4);

        host = (moe_matmul_t) { .w = w.host, .x = x, .ldx = ldx,
                                .nrows = rows, .out = want, .ldo = ldo };
        dev = host;
        dev.w = w.device;
        dev.x = up(x, ((rows - 1) * ldx + n) * 4);
        dev.out = out;

        cpu->matmul_t(&ctx3, &host, 1);
        gpu->matmul_t(&device, &dev, 1);
        assert_device(want, out, rows * ldo, "matmul_t");

        free(x);
        free(want);
        free_both(&w);
        end();
    }
}


static void
test_packed(void **state)
{
    size_t    size;
    uint32_t  i;

    need_device();
    size = device.quant_size;

    for (i = 0; i < 12 * rounds; i++) {
        matmul_once(packed[i % 3], 1 + below(80),
                    1 + below(200), 1 + below(20), 1, 1);
    }

    /* memory for three rows at a time */
    for (i = 0; i < 3; i++) {
        device.quant_size = 3 * moe_quant_row(150);
        matmul_once(packed[i % 3], 40, 150, 11, 1, 1);
        device.quant_size = size;
    }

    for (i = 0; i < 3 * (uint32_t) large; i++) {
        matmul_once(packed[i], 2048, 7168, 70, 1, 1);
    }
}


/* inputs in FP8; with other weights nothing is quantized */
static void
test_fp8(void **state)
{
    size_t    size;
    uint32_t  i;

    need_device();
    size = device.quant_size;

    for (i = 0; i < 16 * rounds; i++) {
        matmul_by(cpu_fp8, gpu_fp8, MOE_W_F8_E4M3, 1 + below(70),
                  1 + below(400), 1 + below(20), i % 4 ? 1 : 1 + below(20),
                  0);
    }

    matmul_by(cpu_fp8, gpu_fp8, MOE_W_BF16, 40, 70, 5, 20, 0);

    /* memory for three rows at a time */
    device.quant_size = 3 * moe_quant_row(150);
    matmul_by(cpu_fp8, gpu_fp8, MOE_W_F8_E4M3, 40, 150, 11, 1, 0);
    device.quant_size = size;

    for (i = 0; i < 3 * (uint32_t) large; i++) {
        matmul_by(cpu_fp8, gpu_fp8, MOE_W_F8_E4M3, 2048, 7168,
                  1 + below(70), 1, 0);
    }
}


static void
glu_once(uint32_t nparts, int clamped)
{
    float          *want[40];
    both_t          gate[40], u[40], d[40];
    uint32_t        i, k, f, n, r;
    moe_glu_t       host[40], dev[40], *h;
    moe_wtype_e     type;
    moe_clamped_t   c = { 1.702f, 7.0f };

    type = packed[below(3)];
    k = 1 + below(100);
    f = 1 + below(100);
    n = 1 + below(100);

    for (i = 0; i < nparts; i++) {
        r = nparts == 1 ? 1 + below(20) : below(6);
        gate[i] = random_packed(type, f, k);
        u[i] = random_packed(type, f, k);
        d[i] = random_packed(type, n, f);
        want[i] = zeros((size_t) (r ? r : 1) * n);

        h = &host[i];
        *h = (moe_glu_t) {
            .gate = gate[i].host, .up = u[i].host, .down = d[i].host,
            .x = random_rows(r ? r : 1, k, k), .out = want[i], .nrows = r,
            .gate_bias = clamped ? random_rows(1, f, f) : NULL,
            .up_bias = clamped ? random_rows(1, f, f) : NULL,
            .down_bias = clamped ? random_rows(1, n, n) : NULL,
            .clamped = clamped ? &c : NULL
        };

        dev[i] = *h;
        dev[i].gate = gate[i].device;
        dev[i].up = u[i].device;
        dev[i].down = d[i].device;
        dev[i].x = up(h->x, (size_t) (r ? r : 1) * k * 4);
        dev[i].gate_bias = up(h->gate_bias, f * 4);
        dev[i].up_bias = up(h->up_bias, f * 4);
        dev[i].down_bias = up(h->down_bias, n * 4);
        dev[i].out = take((size_t) (r ? r : 1) * n * 4);
    }

    cpu->glu(&ctx3, host, nparts);
    gpu->glu(&device, dev, nparts);

    for (i = 0; i < nparts; i++) {
        assert_device(want[i], dev[i].out, (size_t) dev[i].nrows * n, "glu");
    }

    for (i = 0; i < nparts; i++) {
        free((void *) host[i].x);
        free((void *) host[i].gate_bias);
        free((void *) host[i].up_bias);
        free((void *) host[i].down_bias);
        free(want[i]);
        free_both(&gate[i]);
        free_both(&u[i]);
        free_both(&d[i]);
    }

    end();
}


static void
test_glu(void **state)
{
    size_t    size;
    uint32_t  i;

    need_device();
    size = device.quant_size;

    for (i = 0; i < 8 * rounds; i++) {
        glu_once(1, i % 2);
    }

    glu_once(20, 0);
    glu_once(20, 1);

    /* in turns */
    device.quant_size = 4 * (moe_quant_row(100) + moe_quant_row(100));
    glu_once(1, 0);
    glu_once(20, 1);
    device.quant_size = size;
}


/* the fused form on the device, products and silu one by one in plain C */
static void
glu_fp8_once(uint32_t nparts, uint32_t most)
{
    float         *want[20], *g, *u;
    both_t         gate[20], up_[20], d[20];
    uint32_t       i, k, f, n, r;
    moe_glu_t      dev[20];
    moe_matmul_t   part;

    k = 1 + below(300);
    f = 1 + below(300);
    n = 1 + below(100);

    for (i = 0; i < nparts; i++) {
        r = below(most + 1);
        gate[i] = random_both(MOE_W_F8_E4M3, f, k);
        up_[i] = random_both(MOE_W_F8_E4M3, f, k);
        d[i] = random_both(MOE_W_F8_E4M3, n, f);

        dev[i] = (moe_glu_t) { .gate = gate[i].device, .up = up_[i].device,
                               .down = d[i].device, .nrows = r,
                               .x = random_rows(r + 1, k, k) };

        want[i] = zeros((size_t) (r + 1) * n);
        g = zeros((size_t) (r + 1) * f);
        u = zeros((size_t) (r + 1) * f);

        part = (moe_matmul_t) { .w = gate[i].host, .x = dev[i].x, .ldx = k,
                                .nrows = r, .out = g, .ldo = f };
        cpu_fp8->matmul(&ctx3, &part, 1);
        part.w = up_[i].host;
        part.out = u;
        cpu_fp8->matmul(&ctx3, &part, 1);
        cpu_fp8->silu_mul(&ctx3, g, u, (size_t) r * f);
        part = (moe_matmul_t) { .w = d[i].host, .x = g, .ldx = f, .nrows = r,
                                .out = want[i], .ldo = n };
        cpu_fp8->matmul(&ctx3, &part, 1);

        part.x = dev[i].x;
        dev[i].x = up(part.x, (size_t) (r + 1) * k * 4);
        dev[i].out = take((size_t) (r + 1) * n * 4);
        free((void *) part.x);
        free(g);
        free(u);
    }

    gpu_fp8->glu(&device, dev, nparts);

    for (i = 0; i < nparts; i++) {
        assert_device(want[i], dev[i].out, (size_t) (dev[i].nrows + 1) * n,
                      "glu, fp8");
        free(want[i]);
        free_both(&gate[i]);
        free_both(&up_[i]);
        free_both(&d[i]);
    }

    end();
}


static void
test_glu_fp8(void **state)
{
    size_t    size;
    uint32_t  i;

    need_device();
    size = device.quant_size;

    for (i = 0; i < 6 * rounds; i++) {
        glu_fp8_once(1 + below(3), 1 + i * 3);
    }

    glu_fp8_once(20, 2);

    /* in turns */
    device.quant_size = 4 * (moe_quant_row(300) + moe_quant_row(300));
    glu_fp8_once(2, 20);
    device.quant_size = size;
}


/* rows of one expert in plain C, product by product where it is not fused */
static void
expert_rows(const moe_kernels_t *c, const moe_expert_t *e, const float *x,
    uint32_t nrows, const moe_clamped_t *clamped, float *out)
{
    float         *g, *u;
    moe_glu_t      glu;
    moe_matmul_t   p;

    if (moe_is_packed(e->gate.type)) {
        glu = (moe_glu_t) { .gate = e->gate, .up = e->up, .down = e->down,
                            .gate_bias = e->gate_bias,
                            .up_bias = e->up_bias,
                            .down_bias = e->down_bias, .clamped = clamped,
                            .x = x, .out = out, .nrows = nrows };
        c->glu(&ctx3, &glu, 1);
        return;
    }

    g = zeros((size_t) (nrows + 1) * e->gate.n);
    u = zeros((size_t) (nrows + 1) * e->gate.n);

    p = (moe_matmul_t) { .w = e->gate, .bias = e->gate_bias, .x = x,
                         .ldx = e->gate.k, .nrows = nrows, .out = g,
                         .ldo = e->gate.n };
    c->matmul(&ctx3, &p, 1);
    p.w = e->up;
    p.bias = e->up_bias;
    p.out = u;
    c->matmul(&ctx3, &p, 1);

    if (clamped != NULL) {
        c->clamped_mul(&ctx3, clamped, g, u, (size_t) nrows * e->gate.n);
    } else {
        c->silu_mul(&ctx3, g, u, (size_t) nrows * e->gate.n);
    }

    p = (moe_matmul_t) { .w = e->down, .bias = e->down_bias, .x = g,
                         .ldx = e->down.k, .nrows = nrows, .out = out,
                         .ldo = e->down.n };
    c->matmul(&ctx3, &p, 1);

    free(g);
    free(u);
}


typedef struct {
    both_t         w[3];            /* gate, up, down */
    moe_expert_t   host;
    moe_expert_t   device;
} expert_t;


static expert_t
random_expert(moe_wtype_e type, uint32_t k, uint32_t f, uint32_t n, int bias)
{
    int        i;
    uint32_t   rows, cols;
    expert_t   e;

    memset(&e, 0, sizeof(e));

    for (i = 0; i < 3; i++) {
        rows = i < 2 ? f : n;
        cols = i < 2 ? k : f;
        e.w[i] = moe_is_packed(type) ? random_packed(type, rows, cols)
                                     : random_both(type, rows, cols);
    }

    e.host = (moe_expert_t) {
        .gate = e.w[0].host, .up = e.w[1].host, .down = e.w[2].host,
        .gate_bias = bias ? random_rows(1, f, f) : NULL,
        .up_bias = bias ? random_rows(1, f, f) : NULL,
        .down_bias = bias ? random_rows(1, n, n) : NULL
    };

    e.device = (moe_expert_t) {
        .gate = e.w[0].device, .up = e.w[1].device, .down = e.w[2].device,
        .gate_bias = up(e.host.gate_bias, f * 4),
        .up_bias = up(e.host.up_bias, f * 4),
        .down_bias = up(e.host.down_bias, n * 4)
    };

    return e;
}


static void
free_expert(expert_t *e)
{
    int  i;

    for (i = 0; i < 3; i++) {
        free_both(&e->w[i]);
    }

    free((void *) e->host.gate_bias);
    free((void *) e->host.up_bias);
    free((void *) e->host.down_bias);
}


enum { EXPERTS = 20 };


/* experts on rows that the device has sorted; some slots go nowhere, and the
 * places that are left behind all rows stay as they were */
static void
experts_once(const moe_kernels_t *c, const moe_kernels_t *g,
    moe_wtype_e type, uint32_t n_experts, uint32_t slots, int clamped)
{
    float             *x, *want;
    uint32_t           i, k, f, n, chosen[300], at[300], first[EXPERTS + 1];
    expert_t           e[EXPERTS];
    moe_expert_t       there[EXPERTS];
    moe_clamped_t      limit = { 1.702f, 7.0f };
    moe_sort_t         sort;
    moe_experts_op_t   op;

    k = 1 + below(150);
    f = 1 + below(150);
    n = 1 + below(100);

    for (i = 0; i < n_experts; i++) {
        e[i] = random_expert(type, k, f, n, clamped);
        there[i] = e[i].device;
    }

    for (i = 0; i < slots; i++) {
        chosen[i] = below(10) ? below(n_experts) : UINT32_MAX;
        chosen[i] = below(4) ? chosen[i] : n_experts / 3;
    }

    moe_permutation(chosen, slots, n_experts, first, at);
    x = random_rows(slots, k, k);
    want = zeros((size_t) slots * n);

    for (i = 0; i < n_experts; i++) {
        expert_rows(c, &e[i].host, x + (size_t) first[i] * k,
                    first[i + 1] - first[i], clamped ? &limit : NULL,
                    want + (size_t) first[i] * n);
    }

    sort = (moe_sort_t) {
        .experts = up(chosen, slots * 4), .n = slots,
        .n_experts = n_experts, .at = take(slots * 4),
        .first = take((n_experts + 1) * 4),
        .tiles = take(2 * (n_experts + 1) * 4)
    };
    g->sort(&device, &sort);

    op = (moe_experts_op_t) {
        .experts = up(there, n_experts * sizeof(moe_expert_t)),
        .like = &e[0].host, .first = sort.first, .tiles = sort.tiles,
        .n_experts = n_experts, .slots = slots,
        .x = up(x, (size_t) slots * k * 4),
        .out = take((size_t) slots * n * 4),
        .gate = take((size_t) slots * f * 4),
        .up = take((size_t) slots * f * 4),
        .clamped = clamped ? &limit : NULL
    };
    g->experts(&device, &op);
    assert_device(want, op.out, (size_t) slots * n, "experts");

    for (i = 0; i < n_experts; i++) {
        free_expert(&e[i]);
    }

    free(x);
    free(want);
    end();
}


/* few rows an expert and many, one alone, some with none */
static void
test_experts(void **state)
{
    uint32_t     i, n, slots;
    moe_wtype_e  type;

    need_device();

    for (i = 0; i < 14 * rounds; i++) {
        n = i % 3 ? 1 + below(EXPERTS) : 1 + below(4);
        slots = 1 + below(i % 2 ? 40 : 300);
        type = i % 7 < 4 ? (moe_wtype_e) (i % 7) : packed[i % 7 - 4];
        experts_once(cpu, gpu, type, n, slots, (int) below(2));
    }

    for (i = 0; i < 4 * rounds; i++) {
        experts_once(cpu_fp8, gpu_fp8, MOE_W_F8_E4M3, 1 + below(8),
                     1 + below(i % 2 ? 20 : 100), 0);
    }

    experts_once(cpu_fp8, gpu_fp8, MOE_W_BF16, 5, 30, 1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_of_many_parts),
        cmocka_unit_test(test_matmul_t),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_glu),
        cmocka_unit_test(test_glu_fp8),
        cmocka_unit_test(test_experts)
    };

    return cmocka_run_group_tests_name("cuda", tests, cuda_setup,
                                       cuda_teardown);
}
