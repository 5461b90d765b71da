/*
 * Every operation of the GPU backend against its plain C twin, bit for bit,
 * on fresh random inputs and odd sizes.  Inputs are made in the process's
 * memory, copied to the device, and what was computed is copied back.
 *
 * Where there is no device every test is counted as skipped.  With
 * MOE_CUDA_ROUNDS=N there are N times as many rounds, and with MOE_CUDA_LARGE=1
 * sizes of real models too.
 */

#include "kernels_test.h"

#include "ep/exchange.h"
#include "kernels/cpu/packed.h"
#include "kernels/device.h"
#include "model/sampler.h"


enum { MAX_TAKEN = 400 };

static const moe_wtype_e  packed[] = {
    MOE_W_I8_G32, MOE_W_I4_G32, MOE_W_MX4_G32
};


/* of the set that quantizes nothing, and of the one with FP8 inputs */
static const moe_kernels_t  *cpu, *cpu_fp8;
static const moe_kernels_t  *gpu, *gpu_fp8;
static moe_kctx_t            device;
static uint32_t              rounds;
static int                   large;

static void                 *taken[MAX_TAKEN];
static uint32_t              ntaken;


static int
cuda_setup(void **state)
{
    moe_err_t    err;
    const char  *s;

    setup(state);
    rng *= 2862933555777941757u;

    cpu = moe_kernels_get("plain");
    cpu_fp8 = moe_kernels_get("plain-fp8");
    gpu = moe_kernels_get("cuda");
    gpu_fp8 = moe_kernels_get("cuda-fp8");
    s = getenv("MOE_CUDA_ROUNDS");
    rounds = s ? (uint32_t) strtoul(s, NULL, 10) : 1;
    large = getenv("MOE_CUDA_LARGE") != NULL;

    ctx3.quant_size = 1 << 20;
    ctx3.quant = aligned_alloc(64, ctx3.quant_size);

    if (gpu == NULL) {
        print_message("no device: nothing is run\n");
        return 0;
    }

    device.device = gpu->memory->open(&err);
    if (device.device == NULL) {
        print_error("%s\n", err.text);
        return -1;
    }

    device.quant_size = 1 << 20;
    device.quant = gpu->memory->take(device.device, device.quant_size, &err);

    return device.quant ? 0 : -1;
}


static int
cuda_teardown(void **state)
{
    if (gpu != NULL) {
        gpu->memory->give(device.device, device.quant);
        gpu->memory->close(device.device);
    }

    free(ctx3.quant);

    return teardown(state);
}


/* memory of the device, given back by end() */
static void *
take(size_t bytes)
{
    void       *p;
    moe_err_t   err;

    assert_true(ntaken < MAX_TAKEN);

    p = gpu->memory->take(device.device, bytes, &err);
    if (p == NULL) {
        fail_msg("%s", err.text);
    }

    taken[ntaken++] = p;

    return p;
}


static void *
up(const void *from, size_t bytes)
{
    void  *p;

    if (from == NULL) {
        return NULL;
    }

    p = take(bytes);
    gpu->memory->put(device.device, p, from, bytes);

    return p;
}


static void
down(void *to, const void *from, size_t bytes)
{
    moe_err_t  err;

    if (gpu->memory->get(device.device, to, from, bytes, &err) != 0) {
        fail_msg("%s", err.text);
    }
}


static void
end(void)
{
    while (ntaken > 0) {
        gpu->memory->give(device.device, taken[--ntaken]);
    }
}


/* n floats of the device are those of want */
static void
assert_device(const float *want, const float *p, size_t n, const char *what)
{
    float   *is, worst, size;
    size_t   i, wrong, first;

    is = malloc(n * sizeof(float));
    down(is, p, n * sizeof(float));

    wrong = 0;
    first = 0;
    worst = 0;

    for (i = 0; i < n; i++) {
        if (memcmp(&is[i], &want[i], 4) != 0) {
            first = wrong++ ? first : i;
            size = fabsf(want[i]) > 1e-6f ? fabsf(want[i]) : 1e-6f;
            worst = fmaxf(worst, fabsf(is[i] - want[i]) / size);
        }
    }

    if (wrong != 0) {
        fail_msg("%s: %zu of %zu differ, the most by %.3g of its size; element "
                 "%zu: %.9g is not %.9g", what, wrong, n, (double) worst,
                 first, (double) is[first], (double) want[first]);
    }

    free(is);
}


static void
assert_device_u32(const uint32_t *want, const uint32_t *p, size_t n,
    const char *what)
{
    size_t     i;
    uint32_t  *is;

    is = malloc(n * 4);
    down(is, p, n * 4);

    for (i = 0; i < n; i++) {
        if (is[i] != want[i]) {
            fail_msg("%s: element %zu: %u is not %u", what, i, is[i],
                     want[i]);
        }
    }

    free(is);
}


static float *
zeros(size_t n)
{
    return calloc(n, sizeof(float));
}


typedef struct {
    moe_matrix_t   host;
    moe_matrix_t   device;
} both_t;


static size_t
size_of(moe_wtype_e type)
{
    return type == MOE_W_F32 ? 4 : type == MOE_W_F8_E4M3 ? 1 : 2;
}


/* finite weights of every exponent that the type has */
static both_t
random_both(moe_wtype_e type, uint32_t n, uint32_t k)
{
    float          *scale;
    size_t          i, bytes, scales;
    uint8_t        *p;
    both_t          b;
    moe_matrix_t   *w;

    w = &b.host;
    *w = (moe_matrix_t) { .type = type, .n = n, .k = k };
    bytes = (size_t) n * k * size_of(type);
    p = malloc(bytes);

    for (i = 0; i < (size_t) n * k; i++) {
        float     f = random_float();
        uint32_t  u;

        memcpy(&u, &f, 4);

        switch (type) {
        case MOE_W_F32:
            memcpy(p + i * 4, &f, 4);
            break;
        case MOE_W_BF16:
            ((uint16_t *) p)[i] = (uint16_t) (u >> 16);
            break;
        case MOE_W_F16:
            ((uint16_t *) p)[i] = (uint16_t) ((random_u32() & 0x83ff)
                                              | below(17) << 10);
            break;
        default:
            p[i] = (uint8_t) random_u32();
            p[i] = (p[i] & 0x7f) == 0x7f ? 0 : p[i];
        }
    }

    w->data = p;
    b.device = *w;
    b.device.data = up(p, bytes);

    if (type == MOE_W_F8_E4M3) {
        w->row0 = below(300);
        w->scale_cols = (k + 127) / 128;
        scales = ((size_t) n + w->row0 + 127) / 128 * w->scale_cols;
        scale = malloc(scales * sizeof(float));

        for (i = 0; i < scales; i++) {
            scale[i] = 0.001f + 0.001f * fabsf(random_float());
        }

        w->scale = scale;
        b.device.row0 = w->row0;
        b.device.scale_cols = w->scale_cols;
        b.device.scale = up(scale, scales * sizeof(float));
    }

    return b;
}


static both_t
random_packed(moe_wtype_e type, uint32_t n, uint32_t k)
{
    float     *w;
    size_t     strip, bytes;
    uint8_t   *data;
    uint32_t   i;
    both_t     b;

    w = random_rows(n, k, k);
    strip = moe_packed_strip(type, k);
    bytes = moe_packed_size(type, n, k);
    data = malloc(bytes);

    for (i = 0; i < n; i += 32) {
        assert_int_equal(moe_pack_strip(type, w + (size_t) i * k,
                                        n - i < 32 ? n - i : 32, k,
                                        data + i / 32 * strip), 0);
    }

    b.host = (moe_matrix_t) { .type = type, .n = n, .k = k, .data = data };
    b.device = b.host;
    b.device.data = up(data, bytes);
    free(w);

    return b;
}


static void
free_both(both_t *b)
{
    free((void *) b->host.data);
    free((void *) b->host.scale);
}


static void
need_device(void)
{
    if (gpu == NULL) {
        skip();
    }
}


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


static void
test_embed(void **state)
{
    float     *want, *out;
    both_t     w;
    uint32_t   i, n, rows, k, ids[64];

    need_device();

    for (n = 0; n < 8 * rounds; n++) {
        k = 1 + below(300);
        rows = 1 + below(64);
        w = random_both((moe_wtype_e) (n % 4), 50, k);

        for (i = 0; i < rows; i++) {
            ids[i] = below(50);
        }

        want = zeros((size_t) rows * k);
        out = take((size_t) rows * k * 4);
        cpu->embed(&ctx1, &w.host, ids, rows, want);
        gpu->embed(&device, &w.device, up(ids, rows * 4), rows, out);
        assert_device(want, out, (size_t) rows * k, "embed");

        free(want);
        free_both(&w);
        end();
    }
}


static void
norm_once(uint32_t rows, uint32_t groups, uint32_t n)
{
    float   *x, *w, *want, *dx, *out;
    size_t   ld, len;

    ld = (size_t) groups * n + below(4);
    len = rows * ld;
    x = random_rows(rows, ld, ld);
    w = random_rows(1, n, n);
    want = zeros(len);
    dx = up(x, len * 4);
    out = take(len * 4);

    cpu->rmsnorm(&ctx1, x, ld, groups, n, w, 1e-6f, rows, want, ld);
    gpu->rmsnorm(&device, dx, ld, groups, n, up(w, n * 4), 1e-6f, rows, out,
                 ld);
    assert_device(want, out, len, "rmsnorm");

    cpu->rmsnorm(&ctx1, x, ld, groups, n, w, 1e-5f, rows, x, ld);
    gpu->rmsnorm(&device, dx, ld, groups, n, up(w, n * 4), 1e-5f, rows, dx,
                 ld);
    assert_device(x, dx, len, "rmsnorm in place");

    free(x);
    free(w);
    free(want);
    end();
}


static void
test_rmsnorm(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 8 * rounds; i++) {
        norm_once(1 + below(9), 1 + below(4), 1 + below(300));
    }

    norm_once(2, 1, 5000 + below(3000));
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


static void
test_rope(void **state)
{
    float          *x, *cos, *sin, *dx;
    size_t          len;
    uint32_t        i, half;
    moe_rope_op_t   op;

    need_device();

    for (i = 0; i < 8 * rounds; i++) {
        half = 1 + below(40);
        op = (moe_rope_op_t) { .nrows = 1 + below(9), .heads = 1 + below(5),
                               .first = below(20), .dim = half * 2,
                               .interleave = i % 2 };
        op.head_ld = op.first + op.dim + below(5);
        op.ldx = op.heads * op.head_ld + below(5);
        len = op.nrows * op.ldx;

        x = random_rows(op.nrows, op.ldx, op.ldx);
        cos = random_rows(op.nrows, half, half);
        sin = random_rows(op.nrows, half, half);
        dx = up(x, len * 4);

        op.x = x;
        op.cos = cos;
        op.sin = sin;
        cpu->rope(&ctx1, &op);

        op.x = dx;
        op.cos = up(cos, (size_t) op.nrows * half * 4);
        op.sin = up(sin, (size_t) op.nrows * half * 4);
        gpu->rope(&device, &op);
        assert_device(x, dx, len, "rope");

        free(x);
        free(cos);
        free(sin);
        end();
    }
}


static void
test_elements(void **state)
{
    float          *a, *b, *da, *db;
    size_t          n, i;
    moe_clamped_t   c = { 1.702f, 3.0f };

    need_device();

    n = 5000 + below(1000);
    a = random_rows(1, n, n);
    b = random_rows(1, n, n);

    for (i = 0; i < n; i++) {
        a[i] *= i % 7 ? 9.0f : 120.0f;
    }

    da = up(a, n * 4);
    db = up(b, n * 4);

    cpu->silu_mul(&ctx1, a, b, n);
    gpu->silu_mul(&device, da, db, n);
    assert_device(a, da, n, "silu_mul");

    cpu->clamped_mul(&ctx1, &c, a, b, n);
    gpu->clamped_mul(&device, &c, da, db, n);
    assert_device(a, da, n, "clamped_mul");

    cpu->add(&ctx1, a, b, n);
    gpu->add(&device, da, db, n);
    assert_device(a, da, n, "add");

    cpu->clamp(&ctx1, a, 100, 40, 90, 0.3f);
    gpu->clamp(&device, da, 100, 40, 90, 0.3f);
    assert_device(a, da, n, "clamp");

    cpu->round_bf16(&ctx1, a, n);
    gpu->round_bf16(&device, da, n);
    assert_device(a, da, n, "round_bf16");

    cpu->copy(&ctx1, a + 3, 50, 60, 21, b + 5, 70);
    gpu->copy(&device, da + 3, 50, 60, 21, db + 5, 70);
    assert_device(b, db, n, "copy");

    free(a);
    free(b);
    end();
}


/* 19 rows on their way, some places left alone, and back */
static void
compare_packed(const float *x, uint32_t n)
{
    char                    *want, *out;
    float                   *back;
    size_t                   stride;
    uint32_t                 i, from[31];
    moe_pack_t               p;
    moe_row_format_e         format;
    const moe_device_ops_t  *d;

    d = moe_kernels_device(gpu);
    format = n % 2 ? MOE_ROWS_BF16 : MOE_ROWS_F32;
    stride = ((size_t) n * 4 + 63) / 64 * 64;
    want = calloc(31, stride);
    back = zeros((size_t) 31 * n);

    for (i = 0; i < 31; i++) {
        from[i] = i % 4 == 2 ? MOE_NO_ROW : (i * 11 + n) % 19;

        if (from[i] != MOE_NO_ROW) {
            moe_row_format_pack(format, want + i * stride, x + from[i] * n,
                                n);
        }
    }

    p = (moe_pack_t) { .x = up(x, (size_t) 19 * n * 4),
                       .out = out = take(31 * stride),
                       .from = up(from, sizeof(from)), .stride = stride,
                       .n = 31, .width = n, .bf16 = format == MOE_ROWS_BF16 };
    d->pack(&device, &p);
    assert_device((float *) (void *) want, (float *) (void *) out,
                  31 * stride / 4, "pack");

    for (i = 0; i < 31; i++) {
        from[i] = (i * 7 + 1) % 31;
        moe_row_format_unpack(format, back + i * n, want + from[i] * stride,
                              n);
    }

    p.x = out;
    p.out = take((size_t) 31 * n * 4);
    p.from = up(from, sizeof(from));
    d->unpack(&device, &p);
    assert_device(back, p.out, (size_t) 31 * n, "unpack");

    free(want);
    free(back);
}


static void
test_rows(void **state)
{
    float          *x, *want, *dx, *out;
    uint32_t        i, n, rows, at[40], *dat;
    moe_permute_t   p;

    need_device();

    for (n = 1; n < 400; n = n * 2 + below(9)) {
        rows = 1 + below(19);
        x = random_rows(rows, n, n);
        want = zeros((size_t) rows * n);
        dx = up(x, (size_t) rows * n * 4);
        out = take((size_t) rows * n * 4);

        for (i = 0; i < rows; i++) {
            at[i] = (i * 7 + 3) % rows;
        }

        cpu->gather(&ctx1, x, at, rows, n, want);
        gpu->gather(&device, dx, up(at, rows * 4), rows, n, out);
        assert_device(want, out, (size_t) rows * n, "gather");

        /* 19 and 7 have no common factor, so this is a permutation */
        for (i = 0; i < 38; i++) {
            at[i] = (i * 7 + 3) % 38;
        }

        free(x);
        free(want);
        x = random_rows(19, n, n);
        want = zeros((size_t) 38 * n);
        dat = up(at, sizeof(at));

        p = (moe_permute_t) { .x = x, .out = want, .at = at, .n = 38,
                              .per = 2, .width = n, .bf16 = (int) n % 2 };
        cpu->permute(&ctx1, &p);
        p.x = up(x, (size_t) 19 * n * 4);
        p.out = take((size_t) 38 * n * 4);
        p.at = dat;
        gpu->permute(&device, &p);
        assert_device(want, p.out, (size_t) 38 * n, "permute");

        compare_packed(x, n);

        /* up, in place */
        for (i = 0; i < 6; i++) {
            at[i] = i * 3 + (i > 2);
        }

        dx = up(x, (size_t) 19 * n * 4);
        cpu->gather(&ctx1, x, at, 6, n, x);
        gpu->gather(&device, dx, up(at, 24), 6, n, dx);
        assert_device(x, dx, (size_t) 6 * n, "gather in place");

        free(x);
        free(want);
        end();
    }
}


static void
test_combine(void **state)
{
    float          *x, *y, *shared, *gate, *weight;
    uint32_t        i, j, at[9 * 5];
    moe_combine_t   op;

    need_device();

    for (i = 0; i < 6 * rounds; i++) {
        op = (moe_combine_t) { .nrows = 1 + below(9), .n = 1 + below(300),
                               .top_k = 1 + below(5) };

        for (j = 0; j < op.nrows * op.top_k; j++) {
            at[j] = below(20);
        }

        x = random_rows(op.nrows, op.n, op.n);
        y = random_rows(20, op.n, op.n);
        weight = random_rows(op.nrows, op.top_k, op.top_k);
        shared = i % 3 ? random_rows(op.nrows, op.n, op.n) : NULL;
        gate = i % 3 == 2 ? random_rows(op.nrows, 1, 1) : NULL;
        op.x = up(x, (size_t) op.nrows * op.n * 4);
        op.y = up(y, (size_t) 20 * op.n * 4);
        op.at = up(at, sizeof(at));
        op.weight = up(weight, (size_t) op.nrows * op.top_k * 4);
        op.shared = up(shared, (size_t) op.nrows * op.n * 4);
        op.gate = up(gate, op.nrows * 4);
        gpu->combine(&device, &op);

        moe_combine_t  host = op;

        host.x = x;
        host.y = y;
        host.at = at;
        host.weight = weight;
        host.shared = shared;
        host.gate = gate;
        cpu->combine(&ctx1, &host);
        assert_device(x, op.x, (size_t) op.nrows * op.n, "combine");

        free(x);
        free(y);
        free(weight);
        free(shared);
        free(gate);
        end();
    }
}


static void
route_once(uint32_t round)
{
    float        *x, *w, *bias;
    uint32_t      i, rows, *e, *de;
    float        *dw;
    moe_route_t   r, dr;

    rows = 1 + below(9);
    r = (moe_route_t) { .score = (moe_route_score_e) (round % 3),
                        .group = (moe_route_group_e) below(3),
                        .norm = (int) below(2), .eps = 1e-20f,
                        .scale = 0.5f + fabsf(random_float()) };
    r.n_group = 1u << below(4);
    r.topk_group = 1 + below(r.n_group);
    r.n_experts = r.n_group * (1 + below(large ? 128 : 20));
    r.top_k = 1 + below(r.n_experts < 12 ? r.n_experts : 12);

    x = random_rows(rows, r.n_experts, r.n_experts);
    bias = below(2) && r.score != MOE_ROUTE_CHOSEN
           ? random_rows(1, r.n_experts, r.n_experts) : NULL;
    e = malloc((size_t) rows * r.top_k * 4);
    w = zeros((size_t) rows * r.top_k);

    /* ties */
    for (i = 0; i < rows * r.n_experts; i++) {
        x[i] = below(3) ? x[i] * 5 : (float) below(4);
    }

    dr = r;
    r.bias = bias;
    dr.bias = up(bias, r.n_experts * 4);
    de = take((size_t) rows * r.top_k * 4);
    dw = take((size_t) rows * r.top_k * 4);

    gpu->route(&device, &dr, up(x, (size_t) rows * r.n_experts * 4), rows,
               de, dw);
    cpu->route(&ctx1, &r, x, rows, e, w);
    assert_device_u32(e, de, (size_t) rows * r.top_k, "experts");
    assert_device(w, dw, (size_t) rows * r.top_k, "their weights");

    free(x);
    free(w);
    free(e);
    free(bias);
    end();
}


static void
test_route(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 40 * rounds; i++) {
        route_once(i);
    }
}


static void
test_argmax(void **state)
{
    float     *x;
    uint32_t   i, n, rows, want[9], *out;

    need_device();

    for (n = 1; n < 3000; n = n * 2 + below(9)) {
        rows = 1 + below(9);
        x = random_rows(rows, n, n + 2);

        for (i = 0; i < (rows - 1) * (n + 2) + n; i++) {
            x[i] = (float) (int) (x[i] * 5);
        }

        out = take(rows * 4);
        cpu->argmax(&ctx1, x, n + 2, rows, n, want);
        gpu->argmax(&device, up(x, ((rows - 1) * (n + 2) + n) * 4), n + 2,
                    rows, n, out);
        assert_device_u32(want, out, rows, "argmax");

        free(x);
        end();
    }
}


/* a few values only at times, so that ties are common; some are no numbers */
static float *
random_logits(uint32_t n)
{
    float     *x;
    uint32_t   i, kind;

    x = malloc(n * sizeof(float));
    kind = below(4);

    for (i = 0; i < n; i++) {
        x[i] = kind == 0 ? (float) below(7) - 3
               : kind == 1 ? 0.1f * random_float() : 12 * random_float();
    }

    for (i = 0; i < below(6); i++) {
        x[below(n)] = i % 3 == 0 ? NAN : i % 3 == 1 ? -INFINITY : -0.0f;
    }

    if (below(20) == 0) {
        x[below(n)] = INFINITY;
        x[below(n)] = 3e38f;
    }

    return x;
}


typedef struct {
    moe_sampling_t     p;
    moe_history_t      h;
    moe_logit_bias_t   bias[6];
    uint32_t           stops[3];
    uint32_t           prompt[50];
    uint32_t           generated[50];
} request_t;


static void
random_request(request_t *r, uint32_t vocab, const float *logits)
{
    uint32_t  i;

    memset(r, 0, sizeof(*r));
    moe_sampling_init(&r->p);
    r->p.seed = (uint64_t) random_u32() << 32 | random_u32();
    r->p.temperature = below(8) == 0 ? 0 : 0.05 + below(300) / 100.0;
    r->p.top_p = below(2) ? below(101) / 100.0 : 1;
    r->p.top_k = below(2) ? (int) below(70) - 1 : 0;
    r->p.min_p = below(3) == 0 ? 0.0001 + below(1000) / 1000.0 : 0;

    if (below(2)) {
        r->p.repetition_penalty = 0.5 + below(20) / 10.0;
        r->p.frequency_penalty = below(41) / 10.0 - 2;
        r->p.presence_penalty = below(41) / 10.0 - 2;
    }

    for (i = 0; i < 50; i++) {
        r->prompt[i] = below(vocab + 3);
        r->generated[i] = below(vocab < 30 ? vocab : 30);
    }

    for (i = 0; i < 6; i++) {
        r->bias[i].id = below(below(2) ? vocab + 2 : 8);
        r->bias[i].bias = (float) below(201) - 100;
    }

    r->stops[0] = moe_argmax(logits, vocab);
    r->stops[1] = r->stops[0];
    r->stops[2] = below(vocab + 5);

    r->p.bias = r->bias;
    r->p.n_bias = below(3) ? 0 : 6;
    r->p.stop_ids = r->stops;
    r->p.n_stop_ids = 3;
    r->p.min_tokens = below(30);
    r->h = (moe_history_t) { r->prompt, r->generated, below(50), below(50) };
}


/* draws of some rows, and the device's */
static void
sample_once(uint32_t vocab, uint32_t n)
{
    float           *x[8], *rows, *back;
    uint32_t         i, j, id, nedits, ok;
    request_t        r[8];
    moe_draw_t       draws[8];
    moe_edit_t      *edits;
    moe_drawn_t      out[8];
    moe_sampler_t   *s;
    moe_logprobs_t   lp;
    moe_sample_t     op;

    s = moe_sampler_new(vocab);
    edits = malloc(8 * 120 * sizeof(moe_edit_t));
    rows = malloc((size_t) n * vocab * sizeof(float));
    back = malloc((size_t) n * vocab * sizeof(float));
    nedits = 0;

    for (i = 0; i < n; i++) {
        x[i] = random_logits(vocab);
        memcpy(rows + (size_t) (n - 1 - i) * vocab, x[i], vocab * 4);
        random_request(&r[i], vocab, x[i]);
        moe_sampler_draw(s, &r[i].p, &r[i].h, 77 + i, i, edits + nedits,
                         &draws[i]);
        draws[i].row = n - 1 - i;
        draws[i].first = nedits;
        draws[i].logprobs = below(4) != 0;
        draws[i].ntop = below(21);
        draws[i].given = below(6) ? UINT32_MAX : below(vocab);
        nedits += draws[i].nedits;
    }

    op = (moe_sample_t) { .logits = up(rows, (size_t) n * vocab * 4),
                          .vocab = vocab, .n = n,
                          .draws = up(draws, n * sizeof(moe_draw_t)),
                          .edits = up(edits, (nedits + 1)
                                             * sizeof(moe_edit_t)),
                          .out = take(n * sizeof(moe_drawn_t)) };
    gpu->sample(&device, &op);
    down(out, op.out, n * sizeof(moe_drawn_t));
    down(back, op.logits, (size_t) n * vocab * 4);
    assert_memory_equal(rows, back, (size_t) n * vocab * 4);

    for (i = 0; i < n; i++) {
        ok = draws[i].given != UINT32_MAX
             || moe_sample(s, x[i], &r[i].p, &r[i].h, 77 + i, i, &id) == 0;
        id = draws[i].given != UINT32_MAX ? draws[i].given : id;
        assert_int_equal(out[i].none, !ok);

        if (ok && out[i].id != id) {
            fail_msg("sample: %u of %u, not %u; top_k %d, top_p %g, min_p %g",
                     out[i].id, vocab, id, r[i].p.top_k, r[i].p.top_p,
                     r[i].p.min_p);
        }

        if (ok && draws[i].logprobs) {
            moe_logprobs(s, x[i], id, draws[i].ntop, &lp);
            assert_memory_equal(&lp.logprob, &out[i].logprob, 4);
            assert_int_equal(lp.n_top, out[i].ntop);

            for (j = 0; j < lp.n_top; j++) {
                assert_int_equal(lp.top[j].id, out[i].top[j].id);
                assert_memory_equal(&lp.top[j].logprob,
                                    &out[i].top[j].logprob, 4);
            }
        }

        free(x[i]);
    }

    free(edits);
    free(rows);
    free(back);
    moe_sampler_free(s);
    end();
}


static void
test_sample(void **state)
{
    uint32_t  i;

    need_device();

    for (i = 0; i < 40 * rounds; i++) {
        sample_once(1 + below(i % 2 ? 40 : 3000), 1 + below(8));
    }

    for (i = 0; i < (large ? 20u : 2u); i++) {
        sample_once(100000 + below(31073), large ? 8 : 2);
    }
}


typedef struct {
    moe_kv_t      host;
    moe_kv_t      device;
    uint8_t      *mem;
    size_t        bytes;
    uint32_t      table[64];
    uint32_t     *dtable;
} pages_t;


enum { PAGES = 64 };


/* len positions stored, in pages in disorder, by both; same bytes */
static void
fill_pages(pages_t *p, uint32_t len)
{
    float     *k, *v;
    size_t     nk, nv;
    uint8_t   *is;
    uint32_t   i;
    uint64_t   slots[PAGES * MOE_KV_PAGE];
    moe_kv_t  *kv;

    kv = &p->host;
    kv->stride = (kv->heads * 16 * (moe_kv_row(kv->type, kv->k_dim)
                  + (kv->latent ? 0 : moe_kv_row(kv->type, kv->v_dim)))
                  + 3) / 4 * 4 + 32;
    p->bytes = PAGES * kv->stride + 64;
    p->mem = calloc(p->bytes, 1);

    for (i = 0; i < PAGES; i++) {
        p->table[i] = (i * 29 + 11) % PAGES;
    }

    for (i = 0; i < len; i++) {
        slots[i] = p->table[i / 16] * 16 + i % 16;
    }

    nk = (size_t) kv->heads * kv->k_dim;
    nv = (size_t) kv->heads * kv->v_dim;
    k = random_rows(len, nk, nk + 2);
    v = random_rows(len, nv, nv + 1);

    p->device = *kv;
    kv->base = p->mem;
    p->device.base = take(p->bytes);
    p->dtable = up(p->table, sizeof(p->table));

    cpu->kv_store(&ctx1, kv, slots, len, k, nk + 2, kv->latent ? NULL : v,
                  nv + 1);
    gpu->kv_store(&device, &p->device, up(slots, len * 8), len,
                  up(k, ((len - 1) * (nk + 2) + nk) * 4), nk + 2,
                  kv->latent ? NULL : up(v, ((len - 1) * (nv + 1) + nv) * 4),
                  nv + 1);

    is = malloc(p->bytes);
    down(is, p->device.base, p->bytes);
    assert_memory_equal(is, p->mem, p->bytes);

    free(is);
    free(k);
    free(v);
}


static void
attention_once(moe_wtype_e type, int latent, int real)
{
    float            *q, *want, sinks[512];
    size_t            ldq, ldo;
    pages_t           p;
    uint32_t          i, n, len, heads, nrows, pos[64];
    moe_span_t        spans[64], dspans[64];
    moe_attention_t   a, d;

    memset(&p, 0, sizeof(p));
    p.host.type = type;
    p.host.latent = latent;
    p.host.heads = latent ? 1 : 1 + below(3);
    p.host.v_dim = real ? (latent ? 512 : 128) : 1 + below(70);
    p.host.k_dim = real ? (latent ? 576 : 128)
                   : latent ? p.host.v_dim + 2 + below(20) : 1 + below(90);
    heads = p.host.heads * (1 + below(real ? 128 : 8));
    len = 1 + below(real ? 1000 : 200);
    nrows = 1 + below(len < 40 ? len : 40);
    ldq = (size_t) heads * p.host.k_dim + 3;
    ldo = (size_t) heads * p.host.v_dim;

    fill_pages(&p, len);
    q = random_rows(nrows, ldq, ldq);
    want = zeros(nrows * ldo);

    for (i = 0; i < nrows; i++) {
        pos[i] = len - nrows + i;
    }

    for (i = 0; i < heads; i++) {
        sinks[i] = random_float() * 6;
    }

    n = 0;
    for (i = 0; i < nrows; i += spans[n++].nrows) {
        spans[n].first = i;
        spans[n].nrows = 1 + below(MOE_SPAN_ROWS);
        spans[n].nrows = nrows - i < spans[n].nrows ? nrows - i
                                                    : spans[n].nrows;
        spans[n].table = p.table;
        dspans[n] = spans[n];
        dspans[n].table = p.dtable;
    }

    a = (moe_attention_t) {
        .kv = p.host, .n_heads = heads, .scale = 0.4f, .q = q, .out = want,
        .ldq = ldq, .ldo = ldo, .pos = pos, .spans = spans, .nspans = n,
        .window = below(2) ? 1 + below(40) : 0,
        .sinks = below(2) ? sinks : NULL
    };

    d = a;
    d.kv = p.device;
    d.q = up(q, nrows * ldq * 4);
    d.out = take(nrows * ldo * 4);
    d.pos = up(pos, nrows * 4);
    d.spans = up(dspans, n * sizeof(moe_span_t));
    d.sinks = up(a.sinks, heads * 4);

    cpu->attention(&ctx3, &a);
    gpu->attention(&device, &d);
    assert_device(want, d.out, nrows * ldo, "attention");

    free(p.mem);
    free(q);
    free(want);
    end();
}


static void
test_attention(void **state)
{
    uint32_t  i;

    static const moe_wtype_e  types[] = {
        MOE_W_F32, MOE_W_BF16, MOE_W_I8_KV
    };

    need_device();

    for (i = 0; i < 18 * rounds; i++) {
        attention_once(types[i % 3], (int) (i / 3 % 2), 0);
    }

    for (i = 0; i < 6 * (uint32_t) large; i++) {
        attention_once(types[i % 3], (int) (i / 3 % 2), 1);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_of_many_parts),
        cmocka_unit_test(test_matmul_t),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_fp8),
        cmocka_unit_test(test_glu),
        cmocka_unit_test(test_glu_fp8),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_elements),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_combine),
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_attention),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_sample)
    };

    return cmocka_run_group_tests_name("cuda", tests, cuda_setup,
                                       cuda_teardown);
}
