/*
 * Every operation of every set that this machine runs, against what it says
 * it computes in double precision, on fresh random inputs and odd sizes; and
 * sets, batches and threads against each other, bit for bit.
 */

#include "kernels_test.h"


static float
to_float(const moe_matrix_t *w, size_t r, size_t c)
{
    float          f;
    size_t         i;
    uint8_t        e;
    uint16_t       h;
    uint32_t       u;
    const uint8_t  *p;

    i = r * w->k + c;
    p = w->data;

    switch (w->type) {

    case MOE_W_F32:
        memcpy(&f, p + i * 4, 4);
        return f;

    case MOE_W_BF16:
        memcpy(&h, p + i * 2, 2);
        u = (uint32_t) h << 16;
        memcpy(&f, &u, 4);
        return f;

    case MOE_W_F16:
        memcpy(&h, p + i * 2, 2);
        f = h >> 10 & 31
            ? ldexpf((float) (1024 + (h & 1023)), (h >> 10 & 31) - 25)
            : ldexpf((float) (h & 1023), -24);
        return h & 0x8000 ? -f : f;

    default:
        e = p[i];
        f = e >> 3 & 15 ? ldexpf((float) (8 + (e & 7)), (e >> 3 & 15) - 10)
                        : ldexpf((float) (e & 7), -9);
        f = e & 0x80 ? -f : f;
        return f * w->scale[(r + w->row0) / 128 * w->scale_cols + c / 128];
    }
}


/* finite random weights at an odd address */
static moe_matrix_t
random_matrix(moe_wtype_e type, uint32_t n, uint32_t k)
{
    float         f, *scale;
    size_t        i, size;
    uint8_t      *p;
    uint32_t      u;
    uint16_t      h;
    moe_matrix_t  w = { .type = type, .n = n, .k = k };

    size = type == MOE_W_F32 ? 4 : type == MOE_W_F8_E4M3 ? 1 : 2;
    p = malloc((size_t) n * k * size + 1);
    w.data = p + 1;
    w.row0 = type == MOE_W_F8_E4M3 ? below(300) : 0;
    w.scale_cols = (k + 127) / 128;

    for (i = 0; i < (size_t) n * k; i++) {
        f = random_float();
        memcpy(&u, &f, 4);

        switch (type) {

        case MOE_W_F32:
            memcpy(p + 1 + i * 4, &f, 4);
            break;

        case MOE_W_BF16:
            h = (uint16_t) (u >> 16);
            memcpy(p + 1 + i * 2, &h, 2);
            break;

        case MOE_W_F16:
            h = (uint16_t) ((random_u32() & 0x83ff) | below(17) << 10);
            memcpy(p + 1 + i * 2, &h, 2);
            break;

        default:
            p[1 + i] = (uint8_t) random_u32();
            if ((p[1 + i] & 0x7f) == 0x7f) {
                p[1 + i] = 0;
            }
        }
    }

    if (type == MOE_W_F8_E4M3) {
        i = ((size_t) n + w.row0 + 127) / 128 * w.scale_cols;
        scale = malloc(i * sizeof(float));
        w.scale = scale;
        while (i-- > 0) {
            scale[i] = 0.001f + 0.001f * fabsf(random_float());
        }
    }

    return w;
}


static void
free_matrix(moe_matrix_t *w)
{
    free((char *) w->data - 1);
    free((void *) w->scale);
}


static moe_matmul_t
part_of(const moe_matrix_t *w, const float *bias, const float *x, size_t ldx,
    uint32_t nrows, float *out, size_t ldo)
{
    return (moe_matmul_t) { .w = *w, .bias = bias, .x = x, .ldx = ldx,
                            .nrows = nrows, .out = out, .ldo = ldo };
}


static void
matmul_once(moe_wtype_e type, uint32_t n, uint32_t k, uint32_t rows)
{
    int            s;
    float         *x, *bias, *out, *first, *one;
    double         want, size, a;
    size_t         i, j, c, ldx, ldo;
    moe_matrix_t   w;
    moe_matmul_t   part;

    ldx = k + below(5);
    ldo = n + below(5);
    w = random_matrix(type, n, k);
    x = random_rows(rows, k, ldx);
    bias = below(2) ? random_rows(1, n, n) : NULL;
    out = calloc(rows * ldo, sizeof(float));
    first = calloc(rows * ldo, sizeof(float));
    one = calloc(n, sizeof(float));

    for (s = 0; s < nsets; s++) {
        part = part_of(&w, bias, x, ldx, rows, s ? out : first, ldo);
        sets[s]->matmul(s % 2 ? &ctx3 : &ctx1, &part, 1);
        if (s) {
            assert_same(first, out, rows * ldo, sets[s]->name);
        }

        /* each row alone */
        for (i = 0; i < rows; i++) {
            part = part_of(&w, bias, x + i * ldx, ldx, 1, one, n);
            sets[s]->matmul(&ctx1, &part, 1);
            assert_same(first + i * ldo, one, n, "one row");
        }
    }

    for (i = 0; i < rows; i++) {
        for (j = 0; j < n; j++) {
            want = 0;
            size = 0;
            for (c = 0; c < k; c++) {
                a = (double) x[i * ldx + c] * (double) to_float(&w, j, c);
                want += a;
                size += fabs(a);
            }
            want += bias ? (double) bias[j] : 0;
            assert_near((double) first[i * ldo + j], want, size + fabs(want),
                        "matmul");
        }
    }

    free_matrix(&w);
    free(x);
    free(bias);
    free(out);
    free(first);
    free(one);
}


static void
test_matmul(void **state)
{
    uint32_t  i;

    for (i = 0; i < 60; i++) {
        matmul_once((moe_wtype_e) (i % 4), 1 + below(70), 1 + below(300),
                    1 + below(64));
    }

    /* every type at every number of rows */
    for (i = 4; i < 65 * 4; i++) {
        matmul_once((moe_wtype_e) (i % 4), 13, 144, i / 4);
    }

    /* enough work for the pool */
    matmul_once(MOE_W_BF16, 300, 256, 50);
    matmul_once(MOE_W_F8_E4M3, 300, 271, 11);
}


static void
test_matmul_of_many_parts(void **state)
{
    int            s;
    float         *x, *out, *first, *one;
    size_t         at;
    uint32_t       i, r, rows[9], total;
    moe_matrix_t   w[9];
    moe_matmul_t   parts[9], alone;

    total = 0;
    for (i = 0; i < 9; i++) {
        rows[i] = i == 3 ? 0 : 1 + below(9);
        total += rows[i];
        w[i] = random_matrix(i % 2 ? MOE_W_BF16 : MOE_W_F32, 40 + i * 8, 96);
    }

    x = random_rows(total, 96, 96);
    first = calloc((size_t) total * 128, sizeof(float));
    out = calloc((size_t) total * 128, sizeof(float));
    one = calloc(128, sizeof(float));

    for (s = 0; s < nsets; s++) {
        at = 0;
        for (i = 0; i < 9; i++) {
            parts[i] = part_of(&w[i], NULL, x + at * 96, 96, rows[i],
                               (s ? out : first) + at * 128, 128);
            at += rows[i];
        }

        sets[s]->matmul(s % 2 ? &ctx1 : &ctx3, parts, 9);
        if (s) {
            assert_same(first, out, (size_t) total * 128, sets[s]->name);
        }
    }

    at = 0;
    for (i = 0; i < 9; i++) {
        for (r = 0; r < rows[i]; r++, at++) {
            alone = part_of(&w[i], NULL, x + at * 96, 96, 1, one, 128);
            sets[0]->matmul(&ctx1, &alone, 1);
            assert_same(first + at * 128, one, w[i].n, "a part's row");
        }
        free_matrix(&w[i]);
    }

    free(x);
    free(out);
    free(first);
    free(one);
}


static void
matmul_t_once(moe_wtype_e type, uint32_t n, uint32_t k, uint32_t rows)
{
    int            s;
    float         *x, *out, *first, *one;
    double         want, size, a;
    size_t         i, j, c, ldx, ldo;
    moe_matrix_t   w;
    moe_matmul_t   part;

    ldx = n + below(5);
    ldo = k + below(5);
    w = random_matrix(type, n, k);
    x = random_rows(rows, n, ldx);
    out = calloc(rows * ldo, sizeof(float));
    first = calloc(rows * ldo, sizeof(float));
    one = calloc(k, sizeof(float));

    for (s = 0; s < nsets; s++) {
        part = part_of(&w, NULL, x, ldx, rows, s ? out : first, ldo);
        sets[s]->matmul_t(s % 2 ? &ctx3 : &ctx1, &part, 1);
        if (s) {
            assert_same(first, out, rows * ldo, sets[s]->name);
        }

        for (i = 0; i < rows; i++) {
            part = part_of(&w, NULL, x + i * ldx, ldx, 1, one, k);
            sets[s]->matmul_t(&ctx1, &part, 1);
            assert_same(first + i * ldo, one, k, "one row, transposed");
        }
    }

    for (i = 0; i < rows; i++) {
        for (j = 0; j < k; j++) {
            want = 0;
            size = 0;
            for (c = 0; c < n; c++) {
                a = (double) x[i * ldx + c] * (double) to_float(&w, c, j);
                want += a;
                size += fabs(a);
            }
            assert_near((double) first[i * ldo + j], want, size,
                        "matmul_t");
        }
    }

    free_matrix(&w);
    free(x);
    free(out);
    free(first);
    free(one);
}


static void
test_matmul_t(void **state)
{
    uint32_t  i;

    for (i = 0; i < 60; i++) {
        matmul_t_once((moe_wtype_e) (i % 4), 1 + below(150), 1 + below(300),
                      1 + below(20));
    }

    for (i = 4; i < 65 * 4; i++) {
        matmul_t_once((moe_wtype_e) (i % 4), 21, 40, i / 4);
    }
}


static void
test_embed(void **state)
{
    int            s;
    float         *out;
    size_t         i, j;
    uint32_t       t, ids[5];
    moe_matrix_t   w;

    for (t = 0; t < 16; t++) {
        w = random_matrix((moe_wtype_e) (t % 4), 40, 1 + below(200));
        out = malloc(5 * w.k * sizeof(float));

        for (i = 0; i < 5; i++) {
            ids[i] = i == 0 ? 39 : below(40);
        }

        for (s = 0; s < nsets; s++) {
            sets[s]->embed(&ctx3, &w, ids, 5, out);
            for (i = 0; i < 5; i++) {
                for (j = 0; j < w.k; j++) {
                    assert_true(out[i * w.k + j]
                                == to_float(&w, ids[i], j));
                }
            }
        }

        free(out);
        free_matrix(&w);
    }
}


static void
test_rmsnorm(void **state)
{
    int      s, t;
    float   *x, *w, *out, *first;
    double   sum;
    size_t   i, g, r, n, groups, rows, ld;

    for (t = 0; t < 40; t++) {
        n = 1 + below(200);
        groups = 1 + below(4);
        rows = 1 + below(30);
        ld = n * groups + below(3);
        x = random_rows(rows, n * groups, ld);
        w = random_rows(1, n, n);
        out = calloc(rows * ld, sizeof(float));
        first = calloc(rows * ld, sizeof(float));

        for (s = 0; s < nsets; s++) {
            sets[s]->rmsnorm(s % 2 ? &ctx3 : &ctx1, x, ld, (uint32_t) groups,
                             (uint32_t) n, w, 1e-5f, (uint32_t) rows,
                             s ? out : first, ld);
            if (s) {
                assert_same(first, out, rows * ld, "rmsnorm");
            }
        }

        for (r = 0; r < rows; r++) {
            for (g = 0; g < groups; g++) {
                sum = 0;
                for (i = 0; i < n; i++) {
                    sum += pow((double) x[r * ld + g * n + i], 2);
                }
                for (i = 0; i < n; i++) {
                    assert_near((double) first[r * ld + g * n + i],
                                (double) x[r * ld + g * n + i]
                                / sqrt(sum / (double) n + 1e-5)
                                * (double) w[i], 2, "rmsnorm");
                }
            }
        }

        free(x);
        free(w);
        free(out);
        free(first);
    }
}


static void
test_rope(void **state)
{
    int            s, t;
    float         *x, *got, *first, *cos, *sin;
    double         a, b, wa, wb;
    size_t         ia, ib, i, h, r, len, ld, half, heads, head_ld, first_d;
    moe_rope_op_t  op;

    for (t = 0; t < 20; t++) {
        half = 1 + below(20);
        heads = 1 + below(4);
        first_d = below(9);
        head_ld = first_d + 2 * half + below(3);
        ld = heads * head_ld + below(3);
        x = random_rows(7, ld, ld);
        cos = random_rows(7, half, half);
        sin = random_rows(7, half, half);
        len = 7 * ld;
        got = malloc(len * sizeof(float));
        first = malloc(len * sizeof(float));

        for (s = 0; s < nsets; s++) {
            memcpy(s ? got : first, x, len * sizeof(float));
            op = (moe_rope_op_t) {
                .x = s ? got : first, .ldx = ld, .head_ld = head_ld,
                .nrows = 7, .heads = (uint32_t) heads,
                .first = (uint32_t) first_d, .dim = (uint32_t) half * 2,
                .interleave = t % 2, .cos = cos, .sin = sin
            };
            sets[s]->rope(&ctx3, &op);
            if (s) {
                assert_same(first, got, len, "rope");
            }
        }

        for (r = 0; r < 7; r++) {
            for (h = 0; h < heads; h++) {
                for (i = 0; i < half; i++) {
                    ia = r * ld + h * head_ld + first_d
                         + (t % 2 ? 2 * i : i);
                    ib = t % 2 ? ia + 1 : ia + half;
                    a = (double) x[ia];
                    b = (double) x[ib];
                    wa = a * (double) cos[r * half + i]
                         - b * (double) sin[r * half + i];
                    wb = b * (double) cos[r * half + i]
                         + a * (double) sin[r * half + i];
                    assert_near((double) first[ia], wa, 2, "rope");
                    assert_near((double) first[ib], wb, 2, "rope");
                    x[ia] = first[ia];
                    x[ib] = first[ib];
                }
            }
        }

        /* nothing else has changed */
        assert_same(first, x, len, "beside rope");

        free(x);
        free(got);
        free(first);
        free(cos);
        free(sin);
    }
}


static void
test_clamp(void **state)
{
    int    s;
    float  x[10];

    for (s = 0; s < nsets; s++) {
        x[0] = -3;
        x[1] = 3;
        x[2] = 0.5f;
        x[3] = 9;
        x[4] = 7;
        sets[s]->clamp(&ctx1, x, 4, 2, 1, 1.0f);
        assert_true(x[0] == -1 && x[1] == 3 && x[2] == 0.5f && x[3] == 9
                    && x[4] == 1);
    }
}


/* scores in double; the choice is checked by taking the best again and again,
 * but where two are too near to each other for single precision */
static void
route_check(const moe_route_t *r, const float *logits, const uint32_t *e,
    const float *w)
{
    double    score[64], choice[64], group[64], best, sum;
    uint32_t  i, j, g, size, at;
    int       out[64] = { 0 };

    sum = 0;
    for (i = 0; i < r->n_experts; i++) {
        score[i] = r->score == MOE_ROUTE_SIGMOID
                   ? 1 / (1 + exp(-(double) logits[i]))
                   : exp((double) logits[i]);
        sum += score[i];
    }

    for (i = 0; i < r->n_experts; i++) {
        score[i] /= r->score != MOE_ROUTE_SOFTMAX ? 1 : sum;
        choice[i] = score[i] + (r->bias ? (double) r->bias[i] : 0);
    }

    size = r->n_experts / r->n_group;
    if (r->group != MOE_ROUTE_PLAIN) {
        for (g = 0; g < r->n_group; g++) {
            double  a = -1e9, b = -1e9;

            for (i = g * size; i < (g + 1) * size; i++) {
                if (choice[i] > a) {
                    b = a;
                    a = choice[i];
                } else if (choice[i] > b) {
                    b = choice[i];
                }
            }
            group[g] = r->group == MOE_ROUTE_GROUP_TOP2 && size > 1 ? a + b
                                                                    : a;
        }

        for (i = 0; i < r->n_group; i++) {
            for (g = 0; g < i; g++) {
                if (fabs(group[g] - group[i]) < 1e-5) {
                    return;
                }
            }
        }

        for (i = r->topk_group; i < r->n_group; i++) {
            at = UINT32_MAX;
            for (g = 0; g < r->n_group; g++) {
                if (group[g] < 1e8
                    && (at == UINT32_MAX || group[g] <= group[at]))
                {
                    at = g;
                }
            }
            group[at] = 1e9;
            for (j = at * size; j < (at + 1) * size; j++) {
                out[j] = 1;
            }
        }
    }

    sum = 0;
    for (i = 0; i < r->top_k; i++) {
        at = UINT32_MAX;
        best = -1e9;
        for (j = 0; j < r->n_experts; j++) {
            if (!out[j] && choice[j] > best) {
                best = choice[j];
                at = j;
            }
        }
        assert_true(e[i] < r->n_experts && !out[e[i]]);
        assert_true(e[i] == at || choice[e[i]] > best - 1e-5);
        out[e[i]] = 1;
        sum += score[e[i]];
    }

    for (i = 0; i < r->top_k; i++) {
        best = score[e[i]];
        best = r->norm || r->score == MOE_ROUTE_CHOSEN
               ? best / (sum + (double) r->eps) : best;
        assert_near((double) w[i], best * (double) r->scale, 2, "route");
    }
}


static void
test_route(void **state)
{
    int          s, t;
    float        logits[6 * 64], scratch[6 * 64], bias[64], w[6 * 8];
    float        wfirst[6 * 8];
    uint32_t     i, e[6 * 8], efirst[6 * 8], n;
    moe_route_t  r;

    for (t = 0; t < 200; t++) {
        memset(&r, 0, sizeof(r));
        r.n_group = 1 + below(5);
        r.n_experts = r.n_group * (1 + below(12));
        r.topk_group = 1 + below(r.n_group);
        r.score = t % 2 ? MOE_ROUTE_SIGMOID : MOE_ROUTE_SOFTMAX;
        r.group = (moe_route_group_e) (t / 2 % 3);
        r.norm = (int) below(2);
        r.eps = 1e-20f;
        r.scale = 2.5f;

        if (t % 5 == 0) {
            r.score = MOE_ROUTE_CHOSEN;
            r.group = MOE_ROUTE_PLAIN;
            r.norm = 1;
        }

        n = r.group == MOE_ROUTE_PLAIN ? r.n_experts
            : r.n_experts / r.n_group * r.topk_group;
        r.top_k = 1 + below(n < 8 ? n : 8);

        for (i = 0; i < 64; i++) {
            bias[i] = random_float() * 0.1f;
        }
        r.bias = r.score != MOE_ROUTE_CHOSEN && below(2) ? bias : NULL;

        for (i = 0; i < 6 * 64; i++) {
            logits[i] = random_float() * 3;
        }

        for (s = 0; s < nsets; s++) {
            memcpy(scratch, logits, sizeof(logits));
            sets[s]->route(&ctx3, &r, scratch, 6, s ? e : efirst,
                           s ? w : wfirst);
            if (s) {
                assert_memory_equal(e, efirst, 6 * r.top_k * 4);
                assert_same(wfirst, w, 6 * r.top_k, "route");
            }
        }

        for (i = 0; i < 6; i++) {
            route_check(&r, logits + i * r.n_experts, efirst + i * r.top_k,
                        wfirst + i * r.top_k);
        }
    }
}


/* equal scores: lower indices first; not-a-number: still valid indices */
static void
test_route_ties(void **state)
{
    int          s;
    float        logits[16], w[4];
    uint32_t     i, j, e[4];
    moe_route_t  r = {
        .score = MOE_ROUTE_SOFTMAX, .group = MOE_ROUTE_GROUP_MAX,
        .n_experts = 16, .top_k = 4, .n_group = 4, .topk_group = 2,
        .scale = 1
    };

    for (s = 0; s < nsets; s++) {
        memset(logits, 0, sizeof(logits));
        logits[13] = 1;
        sets[s]->route(&ctx1, &r, logits, 1, e, w);
        assert_int_equal(e[0], 13);
        assert_int_equal(e[1], 0);
        assert_int_equal(e[2], 1);
        assert_int_equal(e[3], 2);

        for (i = 0; i < 16; i++) {
            logits[i] = i % 3 ? NAN : 1;
        }
        sets[s]->route(&ctx1, &r, logits, 1, e, w);
        for (i = 0; i < 4; i++) {
            assert_true(e[i] < 16);
            for (j = 0; j < i; j++) {
                assert_int_not_equal(e[i], e[j]);
            }
        }
    }
}


/* gate and up as silu_mul and clamped_mul take them, against doubles */
static void
glu_once(const moe_clamped_t *clamped)
{
    int      s;
    float   *gate, *up, *got, *first;
    double   g, u, x, limit, near;
    size_t   i, n;

    for (n = 1; n < 5000; n = n * 3 + 1) {
        gate = random_rows(1, n, n);
        up = random_rows(1, n, n);
        got = malloc(n * sizeof(float));
        first = malloc(n * sizeof(float));

        for (i = 0; i < n; i++) {
            gate[i] *= i % 7 ? 8 : 200;
            up[i] *= i % 5 ? 1 : 30;
        }

        for (s = 0; s < nsets; s++) {
            memcpy(s ? got : first, gate, n * sizeof(float));

            if (clamped == NULL) {
                sets[s]->silu_mul(&ctx3, s ? got : first, up, n);
            } else {
                sets[s]->clamped_mul(&ctx3, clamped, s ? got : first, up, n);
            }

            if (s) {
                assert_same(first, got, n, "silu_mul");
            }
        }

        for (i = 0; i < n; i++) {
            g = (double) gate[i];
            u = (double) up[i];
            near = 1e-30;

            if (clamped == NULL) {
                g = g / (1 + exp(-g)) * u;

            } else {
                limit = (double) clamped->limit;
                g = fmin(g, limit);
                u = fmax(fmin(u, limit), -limit);

                /* alpha * g is rounded before it is an exponent, so is u + 1;
                 * e^88 is where the exponential ends */
                x = g * (double) clamped->alpha;
                g = g / (1 + exp(-x));
                near = 1.2e-7 * fabs(g) * (1 + fabs(x) * fabs(u + 1))
                       + 1e-33;
                g = (u + 1) * g;
            }

            if (!(fabs((double) first[i] - g) <= 1e-6 * fabs(g) + near)) {
                fail_msg("silu(%g) * %g is not %g", (double) gate[i],
                         (double) up[i], (double) first[i]);
            }
        }

        free(gate);
        free(up);
        free(got);
        free(first);
    }
}


static void
test_silu_mul(void **state)
{
    moe_clamped_t  clamped = { 1.702f, 7.0f };

    glu_once(NULL);
    glu_once(&clamped);
}


static void
test_combine_and_add(void **state)
{
    int             s;
    float          *x, *y, *shared, *got, *first, w[5 * 3], gate[5];
    double          want;
    size_t          i, r, k, n;
    uint32_t        at[5 * 3];
    moe_combine_t   c;

    for (n = 1; n < 400; n = n * 2 + 3) {
        x = random_rows(5, n, n);
        shared = random_rows(5, n, n);
        y = random_rows(15, n, n);
        got = malloc(5 * n * sizeof(float));
        first = malloc(5 * n * sizeof(float));

        for (i = 0; i < 15; i++) {
            at[i] = below(15);
            w[i] = random_float();
            gate[i % 5] = random_float();
        }

        for (s = 0; s < nsets; s++) {
            memcpy(s ? got : first, x, 5 * n * sizeof(float));
            c = (moe_combine_t) {
                .x = s ? got : first, .y = y, .at = at, .weight = w,
                .shared = shared, .gate = gate, .nrows = 5,
                .n = (uint32_t) n, .top_k = 3
            };
            sets[s]->combine(&ctx3, &c);
            sets[s]->add(&ctx3, c.x, shared, 5 * n);
            if (s) {
                assert_same(first, got, 5 * n, "combine");
            }
        }

        for (r = 0; r < 5; r++) {
            for (i = 0; i < n; i++) {
                want = (double) x[r * n + i] + (double) shared[r * n + i]
                       + (double) shared[r * n + i]
                         / (1 + exp(-(double) gate[r]));
                for (k = 0; k < 3; k++) {
                    want += (double) w[r * 3 + k]
                            * (double) y[at[r * 3 + k] * n + i];
                }
                assert_near((double) first[r * n + i], want, 4, "combine");
            }
        }

        free(x);
        free(y);
        free(shared);
        free(got);
        free(first);
    }
}


static void
test_argmax(void **state)
{
    int       s;
    float     x[3][8] = { { 1, 2, 2, 0 }, { -1, -2, -3, -4 },
                          { NAN, 1, 5, 2 } };
    uint32_t  out[3];

    for (s = 0; s < nsets; s++) {
        sets[s]->argmax(&ctx1, &x[0][0], 8, 2, 4, out);
        assert_int_equal(out[0], 1);
        assert_int_equal(out[1], 0);
    }
}


static void
count_task(void *ctx, uint32_t task, uint32_t thread)
{
    assert_true(thread < 3);
    __atomic_fetch_add(&((uint32_t *) ctx)[task], 1, __ATOMIC_RELAXED);
}


/* every task once, also when runs follow on each other's heels */
static void
test_pool(void **state)
{
    uint32_t  i, t, n, done[64];

    for (i = 0; i < 3000; i++) {
        n = below(64);
        memset(done, 0, sizeof(done));
        moe_pool_run(ctx3.pool, n, count_task, done);
        for (t = 0; t < 64; t++) {
            assert_int_equal(done[t], t < n);
        }
    }
}


/* rows copied, chosen, put to their places, rounded */
static void
test_moves(void **state)
{
    int             s;
    float          *x, *out, want;
    uint32_t        i, j, n, u, at[12], *row;
    moe_permute_t   p;

    for (s = 0; s < nsets; s++) {
        n = 1 + below(70);
        x = random_rows(12, n, n);
        out = calloc(12 * (size_t) (n + 3), sizeof(float));

        sets[s]->copy(&ctx3, x, n, 12, n, out, n + 3);
        for (i = 0; i < 12; i++) {
            assert_same(out + i * (n + 3), x + i * n, n, "copy");
            at[i] = (i * 5 + 2) % 12;
        }

        sets[s]->gather(&ctx3, x, at, 12, n, out);
        for (i = 0; i < 12; i++) {
            assert_same(out + i * n, x + at[i] * n, n, "gather");
        }

        p = (moe_permute_t) { .x = x, .out = out, .at = at, .n = 12,
                              .per = 3, .width = n, .bf16 = 1 };
        sets[s]->permute(&ctx3, &p);

        for (i = 0; i < 12; i++) {
            for (j = 0; j < n; j++) {
                row = (uint32_t *) x + i / 3 * n;
                u = (row[j] + 0x7fff + (row[j] >> 16 & 1)) & 0xffff0000;
                memcpy(&want, &u, 4);
                assert_same(&out[at[i] * n + j], &want, 1, "permute");
            }
        }

        memcpy(out, x, (size_t) 12 * n * 4);
        sets[s]->round_bf16(&ctx3, out, n);
        for (j = 0; j < n; j++) {
            u = ((uint32_t *) x)[j];
            u = (u + 0x7fff + (u >> 16 & 1)) & 0xffff0000;
            memcpy(&want, &u, 4);
            assert_same(&out[j], &want, 1, "round_bf16");
        }

        /* up, in place */
        for (i = 0; i < 4; i++) {
            at[i] = i * 3 + (i > 1);
        }

        memcpy(out, x, (size_t) 12 * n * 4);
        sets[s]->gather(&ctx3, out, at, 4, n, out);
        for (i = 0; i < 4; i++) {
            assert_same(out + i * n, x + at[i] * n, n, "gather in place");
        }

        free(x);
        free(out);
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_pool),
        cmocka_unit_test(test_matmul),
        cmocka_unit_test(test_matmul_of_many_parts),
        cmocka_unit_test(test_matmul_t),
        cmocka_unit_test(test_embed),
        cmocka_unit_test(test_rmsnorm),
        cmocka_unit_test(test_rope),
        cmocka_unit_test(test_clamp),
        cmocka_unit_test(test_route),
        cmocka_unit_test(test_route_ties),
        cmocka_unit_test(test_silu_mul),
        cmocka_unit_test(test_combine_and_add),
        cmocka_unit_test(test_argmax),
        cmocka_unit_test(test_moves)
    };

    return cmocka_run_group_tests_name("kernels", tests, setup, teardown);
}
