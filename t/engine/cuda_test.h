/*
 * cuda_test: what the tests of the GPU backend's operations share: the sets of
 * both sides, memory of the device, inputs in both memories, comparisons.
 * Inputs are made in the process's memory, copied to the device, and what was
 * computed is copied back.
 *
 * Where there is no device every test is counted as skipped.  With
 * MOE_CUDA_ROUNDS=N there are N times as many rounds, with MOE_CUDA_LARGE=1
 * sizes of real models too.
 */

#ifndef MOE_CUDA_TEST_H
#define MOE_CUDA_TEST_H


#include "kernels_test.h"

#include "kernels/cpu/packed.h"


enum { MAX_TAKEN = 400 };

/* of the set that quantizes nothing, and of the one with FP8 inputs */
static const moe_kernels_t  *cpu, *cpu_fp8;
static const moe_kernels_t  *gpu, *gpu_fp8;
static moe_kctx_t            device;
static uint32_t              rounds;
static int                   large;

static void                 *taken[MAX_TAKEN];
static uint32_t              ntaken;


static inline int
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


static inline int
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
static inline void *
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


static inline void *
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


static inline void
down(void *to, const void *from, size_t bytes)
{
    moe_err_t  err;

    if (gpu->memory->get(device.device, to, from, bytes, &err) != 0) {
        fail_msg("%s", err.text);
    }
}


static inline void
end(void)
{
    while (ntaken > 0) {
        gpu->memory->give(device.device, taken[--ntaken]);
    }
}


/* n floats of the device are those of want */
static inline void
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
        fail_msg("%s: %zu of %zu differ, the most by %.3g of its size; "
                 "element %zu: %.9g is not %.9g", what, wrong, n, (double) worst,
                 first, (double) is[first], (double) want[first]);
    }

    free(is);
}


static inline void
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


static inline float *
zeros(size_t n)
{
    return calloc(n, sizeof(float));
}


typedef struct {
    moe_matrix_t   host;
    moe_matrix_t   device;
} both_t;


static inline size_t
size_of(moe_wtype_e type)
{
    return type == MOE_W_F32 ? 4 : type == MOE_W_F8_E4M3 ? 1 : 2;
}


/* finite weights of every exponent that the type has */
static inline both_t
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


static inline both_t
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


static inline void
free_both(both_t *b)
{
    free((void *) b->host.data);
    free((void *) b->host.scale);
}


static inline void
need_device(void)
{
    if (gpu == NULL) {
        skip();
    }
}


#endif /* MOE_CUDA_TEST_H */
