#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dmath.h"
#include "model/sampler.h"


#define N_BUCKETS   2048

/* weights that are added up by themselves, and then to those before */
#define BLOCK       256

/* of a count: the id is in the prompt */
#define IN_PROMPT   0x80000000u


typedef float    v4f __attribute__((vector_size(16)));
typedef int32_t  v4i __attribute__((vector_size(16)));


struct moe_sampler_s {
    uint32_t   vocab;
    uint32_t   n;               /* candidates left */
    float     *logits;          /* [vocab] as changed by the request */
    uint32_t  *counts;          /* [vocab] all 0 between calls */
    uint32_t  *ids;             /* [n] candidates, ascending */
    double    *weights;         /* [n] theirs, relative to the best */
    double     sums[N_BUCKETS];
    uint32_t   sizes[N_BUCKETS];
};

/*
 * Logits are put in order by three rounds over the bits of their keys, which
 * takes the same time whatever they are.
 */
static const struct {
    unsigned  shift;
    unsigned  buckets;
} rounds[] = {
    { 21, 2048 },
    { 10, 2048 },
    { 0, 1024 }
};


static void sampler_logits(moe_sampler_t *s, const float *logits,
    const moe_sampling_t *p, const moe_history_t *h);
static void sampler_penalties(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h);
static void sampler_penalty(moe_sampler_t *s, const moe_sampling_t *p,
    uint32_t id);
static void sampler_candidates(moe_sampler_t *s, const moe_sampling_t *p,
    float best);
static void sampler_top_k(moe_sampler_t *s, uint32_t k);
static void sampler_top_p(moe_sampler_t *s, double top_p);
static double sampler_tail(moe_sampler_t *s, double top_p);
static uint32_t sampler_draw(const moe_sampler_t *s, double u);
static double sampler_sum(const double *w, uint32_t n);


/* finite or -inf; a logit never compares as unordered after this */
static inline float
tidy(float x)
{
    x = x > FLT_MAX ? FLT_MAX : x;

    return x == x ? x : -INFINITY;
}


/* ascends with x; adding zero makes -0 and 0 the tie that they are */
static inline uint32_t
key_of(float x)
{
    uint32_t  u;

    x += 0.0f;
    memcpy(&u, &x, sizeof(u));

    return u & 0x80000000u ? ~u : u | 0x80000000u;
}


/* lse: log of the sum of e^(logit - best) */
static inline float
logprob(float logit, float best, double lse)
{
    double  x;

    x = (double) logit - (double) best - lse;

    return x > MOE_LOGPROB_MIN ? (float) x : MOE_LOGPROB_MIN;
}


moe_sampler_t *
moe_sampler_new(uint32_t vocab)
{
    moe_sampler_t  *s;

    s = calloc(1, sizeof(moe_sampler_t));
    if (s == NULL) {
        return NULL;
    }

    s->vocab = vocab;
    s->logits = calloc(vocab, sizeof(float));
    s->counts = calloc(vocab, sizeof(uint32_t));
    s->ids = calloc(vocab, sizeof(uint32_t));
    s->weights = calloc(vocab, sizeof(double));

    if (s->logits == NULL || s->counts == NULL || s->ids == NULL
        || s->weights == NULL)
    {
        moe_sampler_free(s);
        return NULL;
    }

    return s;
}


void
moe_sampler_free(moe_sampler_t *s)
{
    if (s == NULL) {
        return;
    }

    free(s->logits);
    free(s->counts);
    free(s->ids);
    free(s->weights);
    free(s);
}


void
moe_sampling_init(moe_sampling_t *p)
{
    memset(p, 0, sizeof(moe_sampling_t));

    p->temperature = 1;
    p->top_p = 1;
    p->repetition_penalty = 1;
}


int
moe_sample(moe_sampler_t *s, const float *logits, const moe_sampling_t *p,
    const moe_history_t *h, uint64_t position, uint32_t choice, uint32_t *id)
{
    uint32_t  best;

    sampler_logits(s, logits, p, h);

    best = moe_argmax(s->logits, s->vocab);

    if (s->logits[best] == -INFINITY) {
        return -1;
    }

    if (p->temperature < MOE_TEMPERATURE_MIN) {
        *id = best;
        return 0;
    }

    sampler_candidates(s, p, s->logits[best]);

    *id = sampler_draw(s, moe_uniform(p->seed, position, choice));

    return 0;
}


void
moe_logprobs(moe_sampler_t *s, const float *logits, uint32_t id,
    uint32_t n_top, moe_logprobs_t *out)
{
    float           x, best;
    double          sum;
    uint32_t        i, j, n;
    moe_logprob_t  *top;

    top = out->top;
    n = 0;

    if (n_top > MOE_MAX_TOP_LOGPROBS) {
        n_top = MOE_MAX_TOP_LOGPROBS;
    }

    best = tidy(logits[moe_argmax(logits, s->vocab)]);

    for (i = 0; i < s->vocab; i++) {
        x = tidy(logits[i]);
        s->weights[i] = (double) x - (double) best;

        if (n_top == 0 || (n == n_top && !(x > top[n - 1].logprob))) {
            continue;
        }

        /* behind those that are as large: their ids are lower */
        n += n < n_top;

        for (j = n - 1; j > 0 && x > top[j - 1].logprob; j--) {
            top[j] = top[j - 1];
        }

        top[j].id = i;
        top[j].logprob = x;
    }

    moe_dexp_array(s->weights, s->weights, (int) s->vocab);

    sum = 0;

    for (i = 0; i < s->vocab; i++) {
        sum += s->weights[i];
    }

    sum = moe_dlog(sum);

    for (i = 0; i < n; i++) {
        top[i].logprob = logprob(top[i].logprob, best, sum);
    }

    out->n_top = n;
    out->logprob = MOE_LOGPROB_MIN;

    if (id < s->vocab) {
        out->logprob = logprob(tidy(logits[id]), best, sum);
    }
}


/* the largest of BLOCK; what compares with nothing is not it */
static float
largest(const float *x)
{
    int   i, j;
    v4f   v, m[4];
    float best;

    for (j = 0; j < 4; j++) {
        m[j] = (v4f) { -INFINITY, -INFINITY, -INFINITY, -INFINITY };
    }

    for (i = 0; i < BLOCK; i += 16) {
        for (j = 0; j < 4; j++) {
            memcpy(&v, x + i + j * 4, sizeof(v));
            m[j] = (v4f) (((v4i) v & (v > m[j])) | ((v4i) m[j] & ~(v > m[j])));
        }
    }

    best = -INFINITY;

    for (i = 0; i < 16; i++) {
        best = m[i / 4][i % 4] > best ? m[i / 4][i % 4] : best;
    }

    return best;
}


uint32_t
moe_argmax(const float *logits, uint32_t vocab)
{
    float     best, here;
    uint32_t  i, at;

    at = 0;
    best = -INFINITY;

    for (i = 0; i + BLOCK <= vocab; i += BLOCK) {
        here = largest(logits + i);

        if (here > best) {
            best = here;
            for (at = i; logits[at] != best; at++) { /* void */ }
        }
    }

    for (; i < vocab; i++) {
        if (logits[i] > best) {
            best = logits[i];
            at = i;
        }
    }

    return at;
}


double
moe_uniform(uint64_t seed, uint64_t position, uint32_t choice)
{
    uint32_t  counter[4], key[2], out[4];

    counter[0] = (uint32_t) position;
    counter[1] = (uint32_t) (position >> 32);
    counter[2] = choice;
    counter[3] = 0;

    key[0] = (uint32_t) seed;
    key[1] = (uint32_t) (seed >> 32);

    moe_philox(counter, key, out);

    return (double) (((uint64_t) out[1] << 32 | out[0]) >> 11) * 0x1p-53;
}


void
moe_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4])
{
    int       i;
    uint32_t  c0, c1, c2, c3, k0, k1;
    uint64_t  a, b;

    c0 = counter[0];
    c1 = counter[1];
    c2 = counter[2];
    c3 = counter[3];
    k0 = key[0];
    k1 = key[1];

    for (i = 0; i < 10; i++) {
        a = (uint64_t) 0xd2511f53u * c0;
        b = (uint64_t) 0xcd9e8d57u * c2;

        c0 = (uint32_t) (b >> 32) ^ c1 ^ k0;
        c1 = (uint32_t) b;
        c2 = (uint32_t) (a >> 32) ^ c3 ^ k1;
        c3 = (uint32_t) a;

        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }

    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}


/* fills s->logits with what the request makes of them */
static void
sampler_logits(moe_sampler_t *s, const float *logits, const moe_sampling_t *p,
    const moe_history_t *h)
{
    float     *to;
    uint32_t   i, n, id;

    to = s->logits;
    n = s->vocab;

    for (i = 0; i < n; i++) {
        to[i] = tidy(logits[i]);
    }

    for (i = 0; h->n_generated < p->min_tokens && i < p->n_stop_ids; i++) {
        if (p->stop_ids[i] < s->vocab) {
            s->logits[p->stop_ids[i]] = -INFINITY;
        }
    }

    for (i = 0; i < p->n_bias; i++) {
        id = p->bias[i].id;

        if (id < s->vocab) {
            s->logits[id] = tidy(s->logits[id] + p->bias[i].bias);
        }
    }

    if (p->repetition_penalty != 1 || p->frequency_penalty != 0
        || p->presence_penalty != 0)
    {
        sampler_penalties(s, p, h);
    }
}


static void
sampler_penalties(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h)
{
    uint32_t  i;

    for (i = 0; i < h->n_generated; i++) {
        if (h->generated[i] < s->vocab) {
            s->counts[h->generated[i]]++;
        }
    }

    for (i = 0; i < h->n_prompt; i++) {
        if (h->prompt[i] < s->vocab) {
            s->counts[h->prompt[i]] |= IN_PROMPT;
        }
    }

    for (i = 0; i < h->n_generated; i++) {
        sampler_penalty(s, p, h->generated[i]);
    }

    for (i = 0; i < h->n_prompt; i++) {
        sampler_penalty(s, p, h->prompt[i]);
    }
}


/* once per id: its count is taken back to 0 */
static void
sampler_penalty(moe_sampler_t *s, const moe_sampling_t *p, uint32_t id)
{
    double    x;
    uint32_t  n;

    if (id >= s->vocab || s->counts[id] == 0) {
        return;
    }

    n = s->counts[id] & ~IN_PROMPT;
    s->counts[id] = 0;

    x = s->logits[id];
    x = x > 0 ? x / p->repetition_penalty : x * p->repetition_penalty;

    if (n != 0) {
        x -= p->frequency_penalty * n;
        x -= p->presence_penalty;
    }

    /* the cast of a double past the floats' range is not defined */
    x = x > FLT_MAX ? FLT_MAX : x;

    s->logits[id] = x < -FLT_MAX ? -INFINITY : tidy((float) x);
}


/* ids and weights of the tokens that may be drawn */
static void
sampler_candidates(moe_sampler_t *s, const moe_sampling_t *p, float best)
{
    double        least, scale, *weights;
    uint32_t      i, n, vocab, *ids;
    const float  *logits;

    scale = 1 / p->temperature;
    least = p->min_p > 0 ? moe_dlog(p->min_p) : -INFINITY;

    ids = s->ids;
    logits = s->logits;
    weights = s->weights;
    vocab = s->vocab;
    n = 0;

    /* without a branch, which nothing could foresee */
    for (i = 0; i < vocab; i++) {
        ids[n] = i;
        n += (logits[i] != -INFINITY)
             & (((double) logits[i] - (double) best) * scale >= least);
    }

    s->n = n;

    if (p->top_k > 0 && (uint32_t) p->top_k < s->n) {
        sampler_top_k(s, (uint32_t) p->top_k);
    }

    n = s->n;

    for (i = 0; i < n; i++) {
        weights[i] = ((double) logits[ids[i]] - (double) best) * scale;
    }

    moe_dexp_array(weights, weights, (int) n);

    if (p->top_p < 1) {
        sampler_top_p(s, p->top_p);
    }
}


/* keeps the k candidates with the largest logits, k < s->n */
static void
sampler_top_k(moe_sampler_t *s, uint32_t k)
{
    size_t    r;
    uint32_t  b, i, n, key, known, mask;

    known = 0;
    mask = 0;

    for (r = 0; r < sizeof(rounds) / sizeof(rounds[0]); r++) {

        memset(s->sizes, 0, sizeof(s->sizes));

        for (i = 0; i < s->n; i++) {
            key = key_of(s->logits[s->ids[i]]);

            if ((key & mask) == known) {
                s->sizes[key >> rounds[r].shift & (rounds[r].buckets - 1)]++;
            }
        }

        for (b = rounds[r].buckets - 1; s->sizes[b] < k; b--) {
            k -= s->sizes[b];
        }

        known |= b << rounds[r].shift;
        mask |= (rounds[r].buckets - 1) << rounds[r].shift;
    }

    /* known is the key of the last one kept; k of those with it are kept */
    n = 0;

    for (i = 0; i < s->n; i++) {
        key = key_of(s->logits[s->ids[i]]);

        if (key > known || (key == known && k > 0)) {
            k -= key == known;
            s->ids[n++] = s->ids[i];
        }
    }

    s->n = n;
}


/*
 * Keeps the fewest best candidates whose weights reach top_p of all; the
 * best one always.
 */
static void
sampler_top_p(moe_sampler_t *s, double top_p)
{
    int       b, full, last;
    double    need, above;
    size_t    r;
    uint32_t  i, n, key, known, mask;

    need = sampler_tail(s, top_p);
    above = 0;
    known = 0;
    mask = 0;

    for (r = 0; r < sizeof(rounds) / sizeof(rounds[0]); r++) {

        memset(s->sums, 0, sizeof(s->sums));

        for (i = 0; i < s->n; i++) {
            key = key_of(s->logits[s->ids[i]]);

            if ((key & mask) == known) {
                s->sums[key >> rounds[r].shift & (rounds[r].buckets - 1)] +=
                    s->weights[i];
            }
        }

        /* sums in another order may miss need by a hair: then the last */
        last = 0;

        for (b = (int) rounds[r].buckets - 1; b >= 0; b--) {
            if (s->sums[b] == 0) {
                continue;
            }

            last = b;

            if (above + s->sums[b] >= need) {
                break;
            }

            above += s->sums[b];
        }

        if (b < 0) {
            above -= s->sums[last];
        }

        known |= (uint32_t) last << rounds[r].shift;
        mask |= (rounds[r].buckets - 1) << rounds[r].shift;
    }

    n = 0;
    full = 0;

    for (i = 0; i < s->n; i++) {
        key = key_of(s->logits[s->ids[i]]);

        if (key < known || (key == known && full)) {
            continue;
        }

        if (key == known) {
            above += s->weights[i];
            full = above >= need;
        }

        s->ids[n] = s->ids[i];
        s->weights[n++] = s->weights[i];
    }

    s->n = n;
}


/*
 * Returns the weight that top_p must reach, and drops candidates so light
 * that all of them together cannot be needed for it; in a large vocabulary
 * that is nearly all.
 */
static double
sampler_tail(moe_sampler_t *s, double top_p)
{
    double    sum, light, *weights;
    uint32_t  i, n, all, *ids;

    sum = sampler_sum(s->weights, s->n);

    /* half of what they may weigh, so that rounding does not matter */
    light = (1 - top_p) * sum / s->n / 2;
    n = 0;

    ids = s->ids;
    weights = s->weights;
    all = s->n;

    /* without a branch, which nothing could foresee */
    for (i = 0; i < all; i++) {
        ids[n] = ids[i];
        weights[n] = weights[i];
        n += weights[i] > light;
    }

    s->n = n;

    return top_p * sum;
}


/* weights in four lanes; a block's last few one by one */
static double
block_sum(const double *w, uint32_t n)
{
    double    a[4] = { 0 };
    uint32_t  i;

    for (i = 0; i + 4 <= n; i += 4) {
        a[0] += w[i];
        a[1] += w[i + 1];
        a[2] += w[i + 2];
        a[3] += w[i + 3];
    }

    a[0] = (a[0] + a[1]) + (a[2] + a[3]);

    for (; i < n; i++) {
        a[0] += w[i];
    }

    return a[0];
}


static double
sampler_sum(const double *w, uint32_t n)
{
    double    sum;
    uint32_t  i;

    sum = 0;

    for (i = 0; i < n; i += BLOCK) {
        sum += block_sum(w + i, n - i < BLOCK ? n - i : BLOCK);
    }

    return sum;
}


/* u in [0, 1) */
static uint32_t
sampler_draw(const moe_sampler_t *s, double u)
{
    double    sum, block, at, to;
    uint32_t  i, j, n, last;

    to = u * sampler_sum(s->weights, s->n);
    sum = 0;
    last = 0;

    for (i = 0; i < s->n; i += n) {
        n = s->n - i < BLOCK ? s->n - i : BLOCK;
        block = block_sum(s->weights + i, n);

        if (sum + block > to || i + n == s->n) {
            at = sum;

            for (j = i; j < i + n; j++) {
                if (s->weights[j] == 0) {
                    continue;
                }

                at += s->weights[j];
                last = j;

                if (at > to) {
                    return s->ids[j];
                }
            }
        }

        sum += block;
    }

    return s->ids[last];
}
