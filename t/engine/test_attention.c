/*
 * Attention over pages of every set that this machine runs, against softmax
 * in double precision; and sets, spans and threads against each other, bit for
 * bit.
 */

#include "kernels_test.h"


typedef struct {
    uint8_t     *mem;
    uint32_t     npages;
    uint32_t     len;
    uint32_t     table[32];
    float       *k;             /* as stored, [len][heads][k_dim] */
    float       *v;
    moe_kv_t     kv;
} paged_t;


/* what kv_store makes of n values of a position */
static void
stored(moe_wtype_e type, const float *x, size_t n, float *out)
{
    float     amax;
    size_t    i, j, end;
    uint32_t  u;

    memcpy(out, x, n * sizeof(float));

    for (i = 0; type == MOE_W_BF16 && i < n; i++) {
        memcpy(&u, &x[i], 4);
        u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
        memcpy(&out[i], &u, 4);
    }

    for (i = 0; type == MOE_W_I8_KV && i < n; i = end) {
        end = n - i < 32 ? n : i + 32;
        amax = 0;

        for (j = i; j < end; j++) {
            amax = fmaxf(amax, fabsf(x[j]));
        }

        for (j = i; j < end && amax > 0; j++) {
            out[j] = nearbyintf(x[j] * (127.0f / amax)) * (amax / 127.0f);
        }
    }
}


/* random keys and values put into pages in disorder, by kv_store; what was in
 * the pages before is not a number */
static void
fill_pages(paged_t *p, const moe_kernels_t *set, uint32_t len)
{
    size_t     i, nk, nv, bytes;
    float     *k, *v;
    uint32_t   r, swap;
    uint64_t   slots[512];
    moe_kv_t  *kv;

    kv = &p->kv;
    bytes = kv->heads * 16 * (moe_kv_row(kv->type, kv->k_dim)
                              + (kv->latent ? 0 : moe_kv_row(kv->type,
                                                             kv->v_dim)));
    kv->stride = bytes + 32;
    p->npages = 32;
    p->len = len;
    p->mem = malloc(p->npages * kv->stride + 64);
    memset(p->mem, 0xff, p->npages * kv->stride + 64);
    kv->base = p->mem;

    for (i = 0; i < 32; i++) {
        p->table[i] = (uint32_t) i;
    }

    for (i = 31; i > 0; i--) {
        r = below((uint32_t) i + 1);
        swap = p->table[i];
        p->table[i] = p->table[r];
        p->table[r] = swap;
    }

    nk = (size_t) kv->heads * kv->k_dim;
    nv = (size_t) kv->heads * kv->v_dim;
    k = random_rows(len, nk, nk + 2);
    v = random_rows(len, nv, nv + 1);

    for (r = 0; r < len; r++) {
        slots[r] = p->table[r / 16] * 16 + r % 16;
    }

    set->kv_store(&ctx1, kv, slots, len, k, nk + 2, kv->latent ? NULL : v,
                  nv + 1);

    p->k = malloc(len * nk * sizeof(float));
    p->v = malloc(len * nv * sizeof(float));

    for (r = 0; r < len; r++) {
        for (i = 0; i < kv->heads; i++) {
            stored(kv->type, k + r * (nk + 2) + i * kv->k_dim, kv->k_dim,
                   p->k + r * nk + i * kv->k_dim);

            if (kv->latent) {
                memcpy(p->v + r * nv, p->k + r * nk, nv * sizeof(float));
            } else {
                stored(kv->type, v + r * (nv + 1) + i * kv->v_dim, kv->v_dim,
                       p->v + r * nv + i * kv->v_dim);
            }
        }
    }

    free(k);
    free(v);
}


static void
attention_row(const paged_t *p, const moe_attention_t *a, uint32_t pos,
    const float *out)
{
    double        s[512], max, sum, want, size, scale;
    size_t        h, kh, j, d, nk, nv, n_heads, from;
    const float  *q;

    q = a->q;
    n_heads = a->n_heads;
    scale = (double) a->scale;
    from = a->window && pos >= a->window ? pos + 1 - a->window : 0;
    nk = (size_t) p->kv.heads * p->kv.k_dim;
    nv = (size_t) p->kv.heads * p->kv.v_dim;

    for (h = 0; h < n_heads; h++) {
        kh = h / (n_heads / p->kv.heads);
        max = a->sinks ? (double) a->sinks[h] : -1e30;

        for (j = from; j <= pos; j++) {
            s[j] = 0;
            for (d = 0; d < p->kv.k_dim; d++) {
                s[j] += (double) q[h * p->kv.k_dim + d]
                        * (double) p->k[j * nk + kh * p->kv.k_dim + d];
            }
            s[j] *= scale;
            max = s[j] > max ? s[j] : max;
        }

        sum = a->sinks ? exp((double) a->sinks[h] - max) : 0;

        for (j = from; j <= pos; j++) {
            s[j] = exp(s[j] - max);
            sum += s[j];
        }

        for (d = 0; d < p->kv.v_dim; d++) {
            want = 0;
            size = 0;
            for (j = from; j <= pos; j++) {
                want += s[j] / sum
                        * (double) p->v[j * nv + kh * p->kv.v_dim + d];
                size += s[j] / sum;
            }
            assert_near((double) out[h * p->kv.v_dim + d], want, size * 2,
                        "attention");
        }
    }
}


static void
attention_once(moe_wtype_e type, int latent)
{
    int               s;
    float            *q, *out, *first, *one, sinks[36];
    paged_t           p;
    uint32_t          i, len, heads, nrows, n, pos[512], window, sunk;
    moe_span_t        spans[64];
    moe_attention_t   a;

    memset(&p, 0, sizeof(p));
    p.kv.type = type;
    p.kv.latent = latent;
    p.kv.heads = latent ? 1 : 1 + below(3);
    p.kv.v_dim = 1 + below(70);
    p.kv.k_dim = latent ? p.kv.v_dim + 2 + below(20) : 1 + below(90);
    heads = p.kv.heads * (1 + below(12));
    len = 1 + below(300);
    nrows = 1 + below(len < 60 ? len : 60);

    fill_pages(&p, sets[below((uint32_t) nsets)], len);
    q = random_rows(nrows, (size_t) heads * p.kv.k_dim,
                    (size_t) heads * p.kv.k_dim + 3);
    out = calloc(nrows, heads * p.kv.v_dim * sizeof(float));
    first = calloc(nrows, heads * p.kv.v_dim * sizeof(float));
    one = calloc(heads * p.kv.v_dim, sizeof(float));

    for (i = 0; i < nrows; i++) {
        pos[i] = len - nrows + i;
    }

    window = below(2) ? 1 + below(40) : 0;
    sunk = below(2);

    for (i = 0; i < heads; i++) {
        sinks[i] = random_float() * 6;
    }

    for (s = 0; s < nsets; s++) {
        n = 0;
        for (i = 0; i < nrows; i += spans[n++].nrows) {
            spans[n].first = i;
            spans[n].nrows = 1 + below(MOE_SPAN_ROWS);
            spans[n].nrows = nrows - i < spans[n].nrows ? nrows - i
                                                        : spans[n].nrows;
            spans[n].table = p.table;
        }

        a = (moe_attention_t) {
            .kv = p.kv, .n_heads = heads, .scale = 0.4f, .q = q,
            .out = s ? out : first, .ldq = (size_t) heads * p.kv.k_dim + 3,
            .ldo = (size_t) heads * p.kv.v_dim, .pos = pos, .spans = spans,
            .nspans = n, .window = window, .sinks = sunk ? sinks : NULL
        };
        sets[s]->attention(s % 2 ? &ctx1 : &ctx3, &a);
        if (s) {
            assert_same(first, out, (size_t) nrows * heads * p.kv.v_dim,
                        "attention");
        }
    }

    /* each row alone, and what it should be */
    for (i = 0; i < nrows; i++) {
        spans[0] = (moe_span_t) { 0, 1, p.table };
        a.q = q + i * a.ldq;
        a.out = one;
        a.pos = &pos[i];
        a.nspans = 1;
        sets[0]->attention(&ctx1, &a);
        assert_same(first + i * a.ldo, one, a.ldo, "attention of one row");
        attention_row(&p, &a, pos[i], one);
    }

    free(p.mem);
    free(p.k);
    free(p.v);
    free(q);
    free(out);
    free(first);
    free(one);
}


static void
test_attention(void **state)
{
    int  i;

    static const moe_wtype_e  types[] = {
        MOE_W_F32, MOE_W_BF16, MOE_W_I8_KV
    };

    for (i = 0; i < 120; i++) {
        attention_once(types[i % 3], i / 3 % 2);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_attention)
    };

    return cmocka_run_group_tests_name("attention", tests, setup, teardown);
}
