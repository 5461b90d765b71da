#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/dmath.h"
#include "kernels/sampling.h"
#include "model/sampler.h"


#define N_BUCKETS   2048

/* logits that are looked at, and weights that are made, at a time */
#define BLOCK       256


typedef float    v4f __attribute__((vector_size(16)));
typedef int32_t  v4i __attribute__((vector_size(16)));


struct moe_sampler_s {
    uint32_t     vocab;
    uint32_t     n;             /* candidates left */
    float       *logits;        /* [vocab] as changed by the request */
    uint32_t    *at;            /* [vocab] the last edit of an id, + 1; all 0
                                 * between calls */
    uint32_t    *ids;           /* [n] candidates, ascending */
    uint64_t    *weights;       /* [n] theirs, see kernels/sampling.h */
    moe_edit_t  *edits;
    uint32_t     max_edits;
    uint64_t     sums[N_BUCKETS];
    uint32_t     sizes[N_BUCKETS];
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


static int sampler_logits(moe_sampler_t *s, const float *logits,
    const moe_sampling_t *p, const moe_history_t *h);
static void sampler_candidates(moe_sampler_t *s, const moe_sampling_t *p,
    float best);
static void sampler_weights(moe_sampler_t *s, float best, double scale);
static void sampler_top_k(moe_sampler_t *s, uint32_t k);
static void sampler_top_p(moe_sampler_t *s, double top_p);
static void sampler_drop_light(moe_sampler_t *s, double top_p, uint64_t sum);
static uint32_t sampler_draw(const moe_sampler_t *s, uint64_t random);
static uint64_t sampler_sum(const uint64_t *w, uint32_t n);


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
    s->at = calloc(vocab, sizeof(uint32_t));
    s->ids = calloc(vocab, sizeof(uint32_t));
    s->weights = calloc(vocab, sizeof(uint64_t));

    if (s->logits == NULL || s->at == NULL || s->ids == NULL
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
    free(s->at);
    free(s->ids);
    free(s->weights);
    free(s->edits);
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

    if (sampler_logits(s, logits, p, h) != 0) {
        return -1;
    }

    best = moe_argmax(s->logits, s->vocab);

    if (s->logits[best] == -INFINITY) {
        return -1;
    }

    if (p->temperature < MOE_TEMPERATURE_MIN) {
        *id = best;
        return 0;
    }

    sampler_candidates(s, p, s->logits[best]);

    *id = sampler_draw(s, moe_random(p->seed, position, choice));

    return 0;
}


void
moe_logprobs(moe_sampler_t *s, const float *logits, uint32_t id,
    uint32_t n_top, moe_logprobs_t *out)
{
    float           x, best;
    double          lse;
    uint32_t        i, j, n;
    moe_logprob_t  *top;

    top = out->top;
    n = 0;

    if (n_top > MOE_MAX_TOP_LOGPROBS) {
        n_top = MOE_MAX_TOP_LOGPROBS;
    }

    best = moe_tidy(logits[moe_argmax(logits, s->vocab)]);

    for (i = 0; i < s->vocab; i++) {
        x = moe_tidy(logits[i]);
        s->logits[i] = x;
        s->ids[i] = i;

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

    s->n = s->vocab;
    sampler_weights(s, best, 1);

    /* 0 where nothing is finite */
    lse = best == -INFINITY ? 0
          : moe_dlog((double) sampler_sum(s->weights, s->n) * 0x1p-41);

    for (i = 0; i < n; i++) {
        top[i].logprob = moe_logprob_of(top[i].logprob, best, lse);
    }

    out->n_top = n;
    out->logprob = MOE_LOGPROB_MIN;

    if (id < s->vocab) {
        out->logprob = moe_logprob_of(moe_tidy(logits[id]), best, lse);
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


uint64_t
moe_random(uint64_t seed, uint64_t position, uint32_t choice)
{
    uint32_t  counter[4], key[2], out[4];

    counter[0] = (uint32_t) position;
    counter[1] = (uint32_t) (position >> 32);
    counter[2] = choice;
    counter[3] = 0;

    key[0] = (uint32_t) seed;
    key[1] = (uint32_t) (seed >> 32);

    moe_philox(counter, key, out);

    return ((uint64_t) out[1] << 32 | out[0]) >> 11;
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


/* the one of this kind of an id that is in the vocabulary; kinds come in
 * order, so that it is the last of the id's chain */
static moe_edit_t *
edit(moe_sampler_t *s, uint32_t id, moe_edit_e kind, moe_edit_t *edits,
    uint32_t *n)
{
    uint32_t     last;
    moe_edit_t  *e;

    last = s->at[id];

    if (last != 0 && edits[last - 1].kind == kind) {
        return &edits[last - 1];
    }

    e = &edits[*n];
    memset(e, 0, sizeof(*e));
    e->id = id;
    e->kind = kind;
    e->head = last == 0;

    if (last != 0) {
        edits[last - 1].next = *n;
    }

    s->at[id] = ++*n;

    return e;
}


static float
bounded(float x)
{
    return x > FLT_MAX ? FLT_MAX : x < -FLT_MAX ? -FLT_MAX : x;
}


static int
has_penalties(const moe_sampling_t *p)
{
    return p->repetition_penalty != 1 || p->frequency_penalty != 0
           || p->presence_penalty != 0;
}


static double
least_of(const moe_sampling_t *p)
{
    return p->min_p > 0 ? moe_dlog(p->min_p) : -INFINITY;
}


uint32_t
moe_sampler_edits(const moe_sampling_t *p, const moe_history_t *h)
{
    return p->n_bias
           + (h->n_generated < p->min_tokens ? p->n_stop_ids : 0)
           + (has_penalties(p) ? h->n_generated + h->n_prompt : 0);
}


uint32_t
moe_sampler_edit(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h, moe_edit_t *edits)
{
    int          penalties;
    uint32_t     i, n;
    moe_edit_t  *e;

    n = 0;
    penalties = has_penalties(p);

    for (i = 0; h->n_generated < p->min_tokens && i < p->n_stop_ids; i++) {
        if (p->stop_ids[i] < s->vocab) {
            (void) edit(s, p->stop_ids[i], MOE_EDIT_BAR, edits, &n);
        }
    }

    for (i = 0; i < p->n_bias; i++) {
        if (p->bias[i].id < s->vocab) {
            e = edit(s, p->bias[i].id, MOE_EDIT_BIAS, edits, &n);
            e->value = bounded(e->value + p->bias[i].bias);
        }
    }

    for (i = 0; penalties && i < h->n_generated; i++) {
        if (h->generated[i] < s->vocab) {
            edit(s, h->generated[i], MOE_EDIT_PENALTY, edits, &n)->count++;
        }
    }

    /* an id of the prompt alone is in the answer no times */
    for (i = 0; penalties && i < h->n_prompt; i++) {
        if (h->prompt[i] < s->vocab) {
            (void) edit(s, h->prompt[i], MOE_EDIT_PENALTY, edits, &n);
        }
    }

    for (i = 0; i < n; i++) {
        s->at[edits[i].id] = 0;
    }

    return n;
}


void
moe_sampler_draw(moe_sampler_t *s, const moe_sampling_t *p,
    const moe_history_t *h, uint64_t position, uint32_t choice,
    moe_edit_t *edits, moe_draw_t *d)
{
    memset(d, 0, sizeof(*d));

    d->given = UINT32_MAX;
    d->random = moe_random(p->seed, position, choice);
    d->scale = p->temperature < MOE_TEMPERATURE_MIN ? 0 : 1 / p->temperature;
    d->least = least_of(p);
    d->top_p = p->top_p;
    d->top_k = p->top_k > 0 ? (uint32_t) p->top_k : 0;
    d->repetition = p->repetition_penalty;
    d->frequency = p->frequency_penalty;
    d->presence = p->presence_penalty;
    d->nedits = moe_sampler_edit(s, p, h, edits);
}


/* fills s->logits with what the request makes of them */
static int
sampler_logits(moe_sampler_t *s, const float *logits, const moe_sampling_t *p,
    const moe_history_t *h)
{
    float       *to;
    uint32_t     i, n, id;
    moe_edit_t  *e;

    to = s->logits;
    n = s->vocab;

    for (i = 0; i < n; i++) {
        to[i] = moe_tidy(logits[i]);
    }

    n = moe_sampler_edits(p, h);

    if (n > s->max_edits) {
        e = realloc(s->edits, n * sizeof(moe_edit_t));
        if (e == NULL) {
            return -1;
        }

        s->edits = e;
        s->max_edits = n;
    }

    n = moe_sampler_edit(s, p, h, s->edits);

    for (i = 0; i < n; i++) {
        id = s->edits[i].id;

        if (s->edits[i].head) {
            to[id] = moe_edited(to[id], s->edits, i, p->repetition_penalty,
                                p->frequency_penalty, p->presence_penalty);
        }
    }

    return 0;
}


/* ids and weights of the tokens that may be drawn */
static void
sampler_candidates(moe_sampler_t *s, const moe_sampling_t *p, float best)
{
    double        least, scale;
    uint32_t      i, n, vocab, *ids;
    const float  *logits;

    scale = 1 / p->temperature;
    least = least_of(p);

    ids = s->ids;
    logits = s->logits;
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

    sampler_weights(s, best, scale);

    if (p->top_p < 1) {
        sampler_top_p(s, p->top_p);
    }
}


/* of all candidates */
static void
sampler_weights(moe_sampler_t *s, float best, double scale)
{
    double           e[BLOCK];
    uint32_t         i, j, n;
    uint64_t        *weights;
    const float     *logits;
    const uint32_t  *ids;

    logits = s->logits;

    for (i = 0; i < s->n; i += n) {
        n = s->n - i < BLOCK ? s->n - i : BLOCK;
        ids = s->ids + i;
        weights = s->weights + i;

        for (j = 0; j < n; j++) {
            e[j] = ((double) logits[ids[j]] - (double) best) * scale;
        }

        moe_dexp_array(e, e, (int) n);

        for (j = 0; j < n; j++) {
            weights[j] = moe_weight_fixed(e[j]);
        }
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
            key = moe_logit_key(s->logits[s->ids[i]]);

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
        key = moe_logit_key(s->logits[s->ids[i]]);

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
    size_t    r;
    uint32_t  b, i, n, key, known, mask;
    uint64_t  need, sum;

    sum = sampler_sum(s->weights, s->n);
    need = moe_weight_share(sum, top_p);
    sampler_drop_light(s, top_p, sum);
    known = 0;
    mask = 0;

    for (r = 0; r < sizeof(rounds) / sizeof(rounds[0]); r++) {

        memset(s->sums, 0, sizeof(s->sums));

        for (i = 0; i < s->n; i++) {
            key = moe_logit_key(s->logits[s->ids[i]]);

            if ((key & mask) == known) {
                s->sums[key >> rounds[r].shift & (rounds[r].buckets - 1)] +=
                    s->weights[i];
            }
        }

        for (b = rounds[r].buckets - 1; s->sums[b] < need; b--) {
            need -= s->sums[b];
        }

        known |= b << rounds[r].shift;
        mask |= (rounds[r].buckets - 1) << rounds[r].shift;
    }

    /* known is the key of the last one kept; of those with it, equally heavy
     * ones, as many as need takes */
    n = 0;

    for (i = 0; i < s->n; i++) {
        key = moe_logit_key(s->logits[s->ids[i]]);

        if (key < known || (key == known && need == 0)) {
            continue;
        }

        if (key == known) {
            need = need < s->weights[i] ? 0 : need - s->weights[i];
        }

        s->ids[n] = s->ids[i];
        s->weights[n++] = s->weights[i];
    }

    s->n = n;
}


/* Drops candidates so light that all of them together cannot be needed for
 * top_p; in a large vocabulary that is nearly all. */
static void
sampler_drop_light(moe_sampler_t *s, double top_p, uint64_t sum)
{
    uint32_t   i, n, all, *ids;
    uint64_t   light, *weights;

    /* half of what they may weigh, so that rounding does not matter */
    light = (uint64_t) ((1 - top_p) * (double) sum / s->n / 2);
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
}


static uint64_t
sampler_sum(const uint64_t *w, uint32_t n)
{
    uint32_t  i;
    uint64_t  sum;

    sum = 0;

    for (i = 0; i < n; i++) {
        sum += w[i];
    }

    return sum;
}


static uint32_t
sampler_draw(const moe_sampler_t *s, uint64_t random)
{
    uint32_t  i;
    uint64_t  place;

    place = moe_weight_place(random, sampler_sum(s->weights, s->n));

    /* less than the sum, so there is an end */
    for (i = 0; place >= s->weights[i]; i++) {
        place -= s->weights[i];
    }

    return s->ids[i];
}
