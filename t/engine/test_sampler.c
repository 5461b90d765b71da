#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/dmath.h"
#include "model/sampler.h"


#define VOCAB  500


static const moe_history_t  nothing;


static uint32_t
draw(moe_sampler_t *s, const float *logits, const moe_sampling_t *p,
    const moe_history_t *h, uint64_t position)
{
    uint32_t  id;

    assert_int_equal(moe_sample(s, logits, p, h, position, 0, &id), 0);

    return id;
}


/* a few values only, so that ties are common; some are not numbers */
static void
random_logits(float *logits, uint32_t n, uint32_t kind)
{
    uint32_t  i;

    for (i = 0; i < n; i++) {
        logits[i] = kind % 3 == 0 ? (float) (rand() % 7) - 3
                                  : (float) (rand() % 20000) / 1000 - 10;
    }

    if (kind % 5 == 0) {
        logits[rand() % (int) n] = NAN;
        logits[rand() % (int) n] = -INFINITY;
    }
}


/* --- the naive twin: sorts everything, libm's exp --- */

static double  naive_logit[VOCAB];


static int
naive_cmp(const void *a, const void *b)
{
    uint32_t  x = *(const uint32_t *) a, y = *(const uint32_t *) b;

    if (naive_logit[x] != naive_logit[y]) {
        return naive_logit[x] > naive_logit[y] ? -1 : 1;
    }

    return x < y ? -1 : 1;
}


static void
naive_logits(const float *logits, const moe_sampling_t *p,
    const moe_history_t *h)
{
    float     bias;
    double    x;
    uint32_t  i, j, n, seen;

    for (i = 0; i < VOCAB; i++) {
        x = isnan(logits[i]) ? -INFINITY : (double) logits[i];

        for (j = 0; j < p->n_stop_ids; j++) {
            if (p->stop_ids[j] == i && h->n_generated < p->min_tokens) {
                x = -INFINITY;
            }
        }

        for (j = 0, bias = 0; j < p->n_bias; j++) {
            bias += p->bias[j].id == i ? p->bias[j].bias : 0;
        }

        x = (float) (x + (double) bias);

        n = 0;
        seen = 0;

        for (j = 0; j < h->n_prompt; j++) {
            seen |= h->prompt[j] == i;
        }

        for (j = 0; j < h->n_generated; j++) {
            n += h->generated[j] == i;
        }

        if (seen || n) {
            x = x > 0 ? x / p->repetition_penalty
                      : x * p->repetition_penalty;
        }

        if (n) {
            x -= p->frequency_penalty * n;
            x -= p->presence_penalty;
        }

        naive_logit[i] = (float) x;
    }
}


static uint32_t
naive_sample(const float *logits, const moe_sampling_t *p,
    const moe_history_t *h, uint64_t position)
{
    double    w[VOCAB], sum, above, best, to;
    uint32_t  i, k, n, last, order[VOCAB];
    uint8_t   keep[VOCAB];

    naive_logits(logits, p, h);

    for (i = 0; i < VOCAB; i++) {
        order[i] = i;
    }

    qsort(order, VOCAB, sizeof(uint32_t), naive_cmp);

    if (p->temperature < MOE_TEMPERATURE_MIN) {
        return order[0];
    }

    best = naive_logit[order[0]];
    memset(keep, 0, sizeof(keep));

    for (i = 0; i < VOCAB; i++) {
        w[i] = exp((naive_logit[i] - best) * (1 / p->temperature));
    }

    n = VOCAB;

    for (k = 0; k < n && naive_logit[order[k]] != -INFINITY
         && w[order[k]] >= p->min_p * (1 - 1e-14); k++)
    {
        /* void */
    }

    n = k;
    n = p->top_k > 0 && (uint32_t) p->top_k < n ? (uint32_t) p->top_k : n;

    for (sum = 0, k = 0; k < n; k++) {
        sum += w[order[k]];
    }

    for (above = 0, k = 0; k < n; k++) {
        if (k > 0 && p->top_p < 1 && above >= p->top_p * sum) {
            break;
        }

        above += w[order[k]];
        keep[order[k]] = 1;
    }

    for (sum = 0, i = 0; i < VOCAB; i++) {
        sum += keep[i] ? w[i] : 0;
    }

    to = (double) moe_random(p->seed, position, 0) * 0x1p-53 * sum;
    last = 0;

    for (sum = 0, i = 0; i < VOCAB; i++) {
        if (keep[i]) {
            sum += w[i];
            last = i;

            if (sum > to) {
                break;
            }
        }
    }

    return last;
}


static void
test_against_naive(void **state)
{
    int                i, j;
    float              logits[VOCAB], before[VOCAB];
    uint32_t           prompt[40], gen[40], stops[3], id, want, other;
    moe_history_t      h;
    moe_sampler_t     *s;
    moe_sampling_t     p;
    moe_logit_bias_t   bias[4];

    srand(7);
    s = moe_sampler_new(VOCAB);
    assert_non_null(s);
    other = 0;

    for (i = 0; i < 6000; i++) {
        random_logits(logits, VOCAB, (uint32_t) rand());
        memcpy(before, logits, sizeof(logits));
        moe_sampling_init(&p);
        memset(&h, 0, sizeof(h));

        p.seed = (uint64_t) rand() << 33 ^ (uint64_t) rand();
        p.temperature = i % 9 == 0 ? 0 : 0.1 + rand() % 30 / 10.0;

        if (rand() % 2) {
            p.top_p = rand() % 101 / 100.0;
        }

        if (rand() % 2) {
            p.top_k = rand() % 60 - 1;
        }

        if (rand() % 3 == 0) {
            p.min_p = rand() % 1000 / 3000.0 + 0.0001;
        }

        for (j = 0; j < 40; j++) {
            prompt[j] = (uint32_t) rand() % (VOCAB + 3);
            gen[j] = (uint32_t) rand() % 30;
        }

        h.prompt = prompt;
        h.generated = gen;
        h.n_prompt = (uint32_t) rand() % 40;
        h.n_generated = (uint32_t) rand() % 40;

        if (rand() % 2) {
            p.repetition_penalty = 0.5 + rand() % 20 / 10.0;
            p.frequency_penalty = rand() % 41 / 10.0 - 2;
            p.presence_penalty = rand() % 41 / 10.0 - 2;
        }

        for (j = 0; j < 4; j++) {
            bias[j].id = (uint32_t) rand() % (VOCAB + 2);
            bias[j].bias = (float) (rand() % 201 - 100);
        }

        p.bias = bias;
        p.n_bias = rand() % 3 == 0 ? 4 : 0;

        stops[0] = (uint32_t) rand() % VOCAB;
        stops[1] = moe_argmax(logits, VOCAB);
        stops[2] = VOCAB + 5;
        p.stop_ids = stops;
        p.n_stop_ids = 3;
        p.min_tokens = (uint32_t) rand() % 30;

        id = draw(s, logits, &p, &h, (uint64_t) i);
        want = naive_sample(logits, &p, &h, (uint64_t) i);

        assert_int_equal(id, want);
        assert_memory_equal(before, logits, sizeof(logits));
        other += id != moe_argmax(logits, VOCAB);
    }

    /* most draws are not simply the largest logit */
    assert_true(other > 3000);
    moe_sampler_free(s);
}


static void
test_distribution(void **state)
{
    int             n;
    float           logits[8];
    double          p[8], chi, e, sum;
    uint32_t        i, count[8];
    moe_sampler_t  *s;
    moe_sampling_t  q;

    s = moe_sampler_new(8);
    moe_sampling_init(&q);
    q.temperature = 0.7;
    q.seed = 20261122;
    sum = 0;
    memset(count, 0, sizeof(count));

    for (i = 0; i < 8; i++) {
        logits[i] = (float) i * 0.3f - 1;
        p[i] = exp((double) logits[i] / 0.7);
        sum += p[i];
    }

    n = 200000;

    for (i = 0; i < (uint32_t) n; i++) {
        count[draw(s, logits, &q, &nothing, i)]++;
    }

    chi = 0;

    for (i = 0; i < 8; i++) {
        e = p[i] / sum * n;
        chi += (count[i] - e) * (count[i] - e) / e;
    }

    /* 7 degrees of freedom: 1 in 10,000 is above 29.9 */
    assert_true(chi < 29.9);
    moe_sampler_free(s);
}


/* each top_* leaves exactly the tokens that it should */
static void
test_support(void **state)
{
    int             k;
    float           logits[64];
    uint32_t        i, id, seen;
    moe_sampler_t  *s;
    moe_sampling_t  p;

    s = moe_sampler_new(64);

    for (i = 0; i < 64; i++) {
        logits[i] = 1;              /* all tie: the lowest ids stay */
    }

    for (k = 1; k <= 5; k++) {
        moe_sampling_init(&p);
        p.top_k = k;
        seen = 0;

        for (i = 0; i < 400; i++) {
            id = draw(s, logits, &p, &nothing, i);
            assert_true(id < (uint32_t) k);
            seen |= 1u << id;
        }

        assert_int_equal(seen, (1u << k) - 1);
    }

    moe_sampling_init(&p);
    p.top_p = 0.1;                  /* 6.4 of 64 */
    seen = 0;

    for (i = 0; i < 800; i++) {
        id = draw(s, logits, &p, &nothing, i);
        assert_true(id < 7);
        seen |= 1u << id;
    }

    assert_int_equal(seen, 0x7f);

    p.top_p = 0;
    assert_int_equal(draw(s, logits, &p, &nothing, 3), 0);

    logits[9] = 3;
    logits[11] = 2.5;
    moe_sampling_init(&p);
    p.min_p = 0.5;                  /* e^-0.5 = 0.61 stays, e^-2 goes */
    seen = 0;

    for (i = 0; i < 200; i++) {
        seen |= 1u << draw(s, logits, &p, &nothing, i);
    }

    assert_int_equal(seen, 1u << 9 | 1u << 11);

    p.min_p = 1;
    assert_int_equal(draw(s, logits, &p, &nothing, 5), 9);

    moe_sampler_free(s);
}


static void
test_extremes(void **state)
{
    float           logits[6] = { NAN, -INFINITY, 2, NAN, 2, -INFINITY };
    uint32_t        i, id, stop[2] = { 2, 4 };
    moe_sampler_t  *s;
    moe_logprobs_t  lp;
    moe_sampling_t  p;

    s = moe_sampler_new(6);
    moe_sampling_init(&p);

    for (i = 0; i < 100; i++) {
        id = draw(s, logits, &p, &nothing, i);
        assert_true(id == 2 || id == 4);
    }

    p.temperature = 0;
    assert_int_equal(draw(s, logits, &p, &nothing, 0), 2);
    p.temperature = 1e-6;
    assert_int_equal(draw(s, logits, &p, &nothing, 0), 2);

    /* nothing is left to draw */
    p.stop_ids = stop;
    p.n_stop_ids = 2;
    p.min_tokens = 1;
    assert_int_equal(moe_sample(s, logits, &p, &nothing, 0, 0, &id), -1);
    p.temperature = 1;
    assert_int_equal(moe_sample(s, logits, &p, &nothing, 0, 0, &id), -1);

    moe_logprobs(s, logits, 2, 6, &lp);
    assert_float_equal(lp.logprob, -0.693147f, 1e-6);
    assert_int_equal(lp.n_top, 6);
    assert_int_equal(lp.top[0].id, 2);
    assert_int_equal(lp.top[1].id, 4);
    assert_int_equal(lp.top[2].id, 0);
    assert_true(lp.top[2].logprob == MOE_LOGPROB_MIN);

    moe_logprobs(s, logits, 0, 0, &lp);
    assert_true(lp.logprob == MOE_LOGPROB_MIN);

    /* infinite ones share everything; huge ones do not overflow */
    logits[0] = FLT_MAX;
    logits[3] = INFINITY;
    p.min_tokens = 0;
    p.temperature = 100;
    p.repetition_penalty = 0.001;

    for (i = 0; i < 100; i++) {
        id = draw(s, logits, &p, &nothing, i);
        assert_true(id == 0 || id == 3);
    }

    moe_logprobs(s, logits, 3, 1, &lp);
    assert_float_equal(lp.logprob, -0.693147f, 1e-6);
    assert_int_equal(lp.top[0].id, 0);

    for (i = 0; i < 6; i++) {
        logits[i] = i % 2 ? NAN : -INFINITY;
    }

    assert_int_equal(moe_sample(s, logits, &p, &nothing, 0, 0, &id), -1);
    moe_logprobs(s, logits, 3, 2, &lp);
    assert_int_equal(lp.n_top, 2);
    assert_true(lp.top[1].logprob == MOE_LOGPROB_MIN);
    assert_true(lp.logprob == MOE_LOGPROB_MIN);

    /* -0 and 0 are a tie */
    for (i = 0; i < 6; i++) {
        logits[i] = i % 2 ? 0.0f : -0.0f;
    }

    moe_sampling_init(&p);
    p.top_k = 2;

    for (i = 0; i < 100; i++) {
        assert_true(draw(s, logits, &p, &nothing, i) < 2);
    }

    moe_sampler_free(s);
}


static void
test_logprobs(void **state)
{
    int             i, k;
    float           logits[VOCAB];
    double          sum;
    uint32_t        order[VOCAB], j, id, n;
    moe_sampler_t  *s;
    moe_logprobs_t  lp;
    moe_sampling_t  p;

    srand(11);
    s = moe_sampler_new(VOCAB);
    moe_sampling_init(&p);

    for (i = 0; i < 300; i++) {
        random_logits(logits, VOCAB, (uint32_t) i % 3 + 1);
        naive_logits(logits, &p, &nothing);

        for (sum = 0, j = 0; j < VOCAB; j++) {
            order[j] = j;
            sum += exp(naive_logit[j]);
        }

        qsort(order, VOCAB, sizeof(uint32_t), naive_cmp);

        id = (uint32_t) rand() % VOCAB;
        n = (uint32_t) rand() % 25;
        moe_logprobs(s, logits, id, n, &lp);

        assert_float_equal(lp.logprob, naive_logit[id] - log(sum), 1e-5);
        assert_int_equal(lp.n_top, n > 20 ? 20 : n);

        for (k = 0; k < (int) lp.n_top; k++) {
            assert_int_equal(lp.top[k].id, order[k]);
            assert_float_equal(lp.top[k].logprob,
                               naive_logit[order[k]] - log(sum), 1e-5);
        }
    }

    moe_sampler_free(s);
}


static void
test_keys(void **state)
{
    float           logits[100];
    uint32_t        i, id, same;
    moe_sampler_t  *s, *t;
    moe_sampling_t  p;

    s = moe_sampler_new(100);
    t = moe_sampler_new(100);
    moe_sampling_init(&p);
    p.seed = 5;
    memset(logits, 0, sizeof(logits));
    same = 0;

    for (i = 0; i < 300; i++) {

        /* scratch memory that was used otherwise before draws the same */
        id = draw(s, logits, &p, &nothing, i);
        assert_int_equal(id, draw(t, logits, &p, &nothing, i));
        p.top_k = 3;
        (void) draw(t, logits, &p, &nothing, i);
        p.top_k = 0;

        assert_int_equal(moe_sample(s, logits, &p, &nothing, i, 1, &id), 0);
        same += id == draw(t, logits, &p, &nothing, i);
    }

    /* choices are independent */
    assert_true(same < 20);
    assert_true(moe_random(1, 2, 3) != moe_random(1, 3, 2));
    assert_true(moe_random(1, 2, 3) != moe_random(1ull << 32, 2, 3));
    assert_true(moe_random(1, 2, 3) != moe_random(1, 2 + (1ull << 32), 3));

    moe_sampler_free(s);
    moe_sampler_free(t);
}


/* the vectors that the authors published */
static void
test_philox(void **state)
{
    static const struct {
        uint32_t  counter[4];
        uint32_t  key[2];
        uint32_t  out[4];
    } known[] = {
        { { 0, 0, 0, 0 }, { 0, 0 },
          { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 } },
        { { 0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff },
          { 0xffffffff, 0xffffffff },
          { 0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd } },
        { { 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344 },
          { 0xa4093822, 0x299f31d0 },
          { 0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1 } },
    };

    size_t    i;
    uint32_t  out[4];

    for (i = 0; i < 3; i++) {
        moe_philox(known[i].counter, known[i].key, out);
        assert_memory_equal(out, known[i].out, sizeof(out));
    }
}


static void
test_dmath(void **state)
{
    int     i;
    double  x, y, in[3] = { -1, 0, 1 }, out[3];

    srand(3);

    for (i = 0; i < 200000; i++) {
        x = -708 + rand() / (double) RAND_MAX * 1417;
        y = exp(x);
        assert_true(fabs(moe_dexp(x) - y) <= y * 0x1p-51);

        x /= 700;
        y = exp(x);
        assert_true(fabs(moe_dexp(x) - y) <= y * 0x1p-51);

        y = log(1 + x * x * 1000);
        assert_true(fabs(moe_dlog(1 + x * x * 1000) - y) <= y * 0x1p-51);
        y = log(x * x);
        assert_true(fabs(moe_dlog(x * x) - y) <= fabs(y) * 0x1p-51);
    }

    assert_true(moe_dexp(0) == 1);
    assert_true(moe_dlog(1) == 0);
    assert_true(moe_dexp(-INFINITY) == 0);
    assert_true(moe_dexp(-709) == 0);
    assert_true(isfinite(moe_dexp(1e9)));
    assert_true(isnan(moe_dexp(NAN)));
    assert_true(isnan(moe_dlog(NAN)));
    assert_true(isnan(moe_dlog(0)));
    assert_true(isnan(moe_dlog(-1)));

    moe_dexp_array(in, out, 3);
    assert_true(out[0] == moe_dexp(-1) && out[2] == moe_dexp(1));
}


/* the same bits from every compiler and machine: FNV-1a over them */
static void
test_dmath_bits(void **state)
{
    int       i;
    double    x;
    uint64_t  u, hash;

    hash = 14695981039346656037u;

    for (i = -20000; i < 20000; i++) {
        x = moe_dexp(i * 0.0353) + moe_dlog(1 + fabs(i * 0.77));
        memcpy(&u, &x, sizeof(u));
        hash = (hash ^ u) * 1099511628211u;
    }

    assert_int_equal(hash, 0x7a60ad7fa084c3e6u);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_against_naive),
        cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_support),
        cmocka_unit_test(test_extremes),
        cmocka_unit_test(test_logprobs),
        cmocka_unit_test(test_keys),
        cmocka_unit_test(test_philox),
        cmocka_unit_test(test_dmath),
        cmocka_unit_test(test_dmath_bits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
