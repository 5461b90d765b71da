/*
 * sample: one token of each row's logits, by the rules of model/sampler.h and
 * with its bits, for weights and their sums are whole numbers.
 *
 * A block has a row.  What a request changes in the logits is changed in place
 * and put back; nothing else is written but the result.  Which token is the
 * last of the best k, of the best with a share of the weight, or at the place
 * of a random number, is found a few binary digits at a time: weights are
 * added up in buckets of those digits, the bucket with the place is looked
 * for, and what is in it is told apart by the next digits.
 */

#include "kernels/cuda/device.cuh"

extern "C" {
#include "kernels/sampling.h"
}


enum {
    THREADS = 256,
    DIGITS = 11,                /* of a round */
    BUCKETS = 1 << DIGITS,
    EACH = BUCKETS / THREADS    /* buckets of a thread */
};

static const uint32_t  NONE = 0xffffffff;


/* what a block's threads share */
typedef struct {
    unsigned long long  buckets[BUCKETS];
    unsigned long long  parts[THREADS];
    unsigned long long  sum;
    uint32_t            found;
    float               values[THREADS];
    uint32_t            ids[THREADS];
} shared_t;

/* the last one that is kept; of equals those up to an id */
typedef struct {
    uint32_t  key;
    uint32_t  id;
} cut_t;


__device__ static inline int
within(const cut_t &c, uint32_t key, uint32_t id)
{
    return key > c.key || (key == c.key && id <= c.id);
}


/* sum over the vocabulary of weight(i) */
template <typename W>
__device__ static inline uint64_t
sum_of(shared_t *s, uint32_t vocab, W weight)
{
    uint32_t            i;
    unsigned long long  own;

    __syncthreads();

    if (threadIdx.x == 0) {
        s->sum = 0;
    }

    __syncthreads();
    own = 0;

    for (i = threadIdx.x; i < vocab; i += THREADS) {
        own += weight(i);
    }

    atomicAdd(&s->sum, own);
    __syncthreads();

    return s->sum;
}


/* the first bucket, or from the last one down, at which the sum reaches *need,
 * of which then is left what the bucket has to give */
__device__ static inline uint32_t
bucket_of(shared_t *s, int down, uint64_t *need)
{
    uint32_t            i, at;
    unsigned long long  left;

    __syncthreads();
    s->parts[threadIdx.x] = 0;

    for (i = 0; i < EACH; i++) {
        s->parts[threadIdx.x] += s->buckets[threadIdx.x * EACH + i];
    }

    __syncthreads();

    if (threadIdx.x == 0) {
        left = *need;

        for (i = 0; i < THREADS - 1; i++) {
            at = down ? THREADS - 1 - i : i;
            if (s->parts[at] >= left) {
                break;
            }
            left -= s->parts[at];
        }

        at = (down ? THREADS - 1 - i : i) * EACH + (down ? EACH - 1 : 0);

        for (i = 0; i < EACH - 1 && s->buckets[at] < left; i++) {
            left -= s->buckets[at];
            at += down ? -1 : 1;
        }

        s->found = at;
        s->sum = left;
    }

    __syncthreads();
    *need = s->sum;

    return s->found;
}


/*
 * The number(i) at which the sum of weight(i) reaches *need, from the largest
 * down or from the least up; what is left of need for those that have it.
 */
template <typename N, typename W>
__device__ static inline uint32_t
place_of(shared_t *s, uint32_t vocab, int down, uint64_t *need, N number,
    W weight)
{
    int       shift;
    uint32_t  i, n, known, mask;
    uint64_t  w;

    known = 0;
    mask = 0;

    for (shift = 2 * DIGITS; shift >= 0; shift -= DIGITS) {
        __syncthreads();

        for (i = 0; i < EACH; i++) {
            s->buckets[threadIdx.x * EACH + i] = 0;
        }

        __syncthreads();

        for (i = threadIdx.x; i < vocab; i += THREADS) {
            n = number(i);

            if ((n & mask) == known) {
                w = weight(i);

                if (w != 0) {
                    atomicAdd(&s->buckets[n >> shift & (BUCKETS - 1)],
                              (unsigned long long) w);
                }
            }
        }

        known |= bucket_of(s, down, need) << shift;
        mask |= (uint32_t) (BUCKETS - 1) << shift;
    }

    return known;
}


/* the index of the largest logit that comes after (value, id) in descending
 * order, the lower id first; id NONE: of all; NONE: there is none */
__device__ static inline uint32_t
best_after(shared_t *s, const float *x, uint32_t vocab, float value,
    uint32_t id, float *best)
{
    float     v, top;
    uint32_t  i, at, step, tid;

    tid = threadIdx.x;
    at = NONE;
    top = -INFINITY;

    for (i = tid; i < vocab; i += THREADS) {
        v = moe_tidy(x[i]);

        if (id != NONE && !(v < value || (v == value && i > id))) {
            continue;
        }

        if (at == NONE || v > top) {
            top = v;
            at = i;
        }
    }

    __syncthreads();
    s->values[tid] = top;
    s->ids[tid] = at;
    __syncthreads();

    for (step = THREADS / 2; step > 0; step /= 2) {

        if (tid < step
            && (s->values[tid + step] > s->values[tid]
                || (s->values[tid + step] == s->values[tid]
                    && s->ids[tid + step] < s->ids[tid])))
        {
            s->values[tid] = s->values[tid + step];
            s->ids[tid] = s->ids[tid + step];
        }

        __syncthreads();
    }

    *best = s->values[0];

    return s->ids[0];
}


/* of edited logits, the best of which is finite and temperature not 0 */
__device__ static inline uint32_t
draw(shared_t *s, const float *x, uint32_t vocab, const moe_draw_t &d,
    float best)
{
    cut_t     k, p;
    uint64_t  need, sum;

    k.key = 0;
    k.id = NONE;
    p = k;

    auto key = [&](uint32_t i) -> uint32_t {
        return moe_logit_key(moe_tidy(x[i]));
    };

    auto number = [&](uint32_t i) -> uint32_t {
        return i;
    };

    auto may = [&](uint32_t i) -> uint64_t {
        float  v = moe_tidy(x[i]);

        return v != -INFINITY
               && ((double) v - (double) best) * d.scale >= d.least;
    };

    if (d.top_k != 0 && d.top_k < sum_of(s, vocab, may)) {
        need = d.top_k;
        k.key = place_of(s, vocab, 1, &need, key, may);
        k.id = place_of(s, vocab, 0, &need, number,
                        [&](uint32_t i) -> uint64_t {
                            return key(i) == k.key ? may(i) : 0;
                        });
    }

    auto weight = [&](uint32_t i) -> uint64_t {
        float     v = moe_tidy(x[i]);
        uint32_t  u = moe_logit_key(v);

        return may(i) && within(k, u, i) && within(p, u, i)
               ? moe_weight(((double) v - (double) best) * d.scale) : 0;
    };

    if (d.top_p < 1) {
        need = moe_weight_share(sum_of(s, vocab, weight), d.top_p);

        cut_t  last;

        last.key = place_of(s, vocab, 1, &need, key, weight);
        last.id = place_of(s, vocab, 0, &need, number,
                           [&](uint32_t i) -> uint64_t {
                               return key(i) == last.key ? weight(i) : 0;
                           });
        p = last;
    }

    sum = sum_of(s, vocab, weight);
    need = moe_weight_place(d.random, sum) + 1;

    return place_of(s, vocab, 0, &need, number, weight);
}


/* of raw logits */
__device__ static inline void
logprobs(shared_t *s, const float *x, uint32_t vocab, const moe_draw_t &d,
    uint32_t id, moe_drawn_t *out)
{
    float     best, v;
    double    lse;
    uint32_t  i, n, at;
    uint64_t  sum;

    (void) best_after(s, x, vocab, 0, NONE, &best);

    sum = sum_of(s, vocab, [&](uint32_t i) -> uint64_t {
        return moe_weight((double) moe_tidy(x[i]) - (double) best);
    });

    lse = best == -INFINITY ? 0 : moe_dlog_body((double) sum * 0x1p-41);
    n = d.ntop < vocab ? d.ntop : vocab;
    at = NONE;
    v = 0;

    for (i = 0; i < n; i++) {
        at = best_after(s, x, vocab, v, at, &v);

        if (threadIdx.x == 0) {
            out->top[i].id = at;
            out->top[i].logprob = moe_logprob_of(v, best, lse);
        }
    }

    if (threadIdx.x == 0) {
        out->ntop = n;
        out->logprob = id < vocab
                       ? moe_logprob_of(moe_tidy(x[id]), best, lse)
                       : MOE_LOGPROB_MIN;
    }
}


__global__ void
sample_kernel(moe_sample_t p)
{
    float        *x, best;
    uint32_t      i, id;
    moe_draw_t    d;
    moe_edit_t   *e;
    moe_drawn_t  *out;

    __shared__ shared_t  s;

    d = p.draws[blockIdx.x];
    out = &p.out[blockIdx.x];
    x = p.logits + (size_t) d.row * p.vocab;
    e = p.edits + d.first;
    id = d.given;

    if (id == NONE) {
        for (i = threadIdx.x; i < d.nedits; i += THREADS) {
            if (e[i].head) {
                e[i].raw = x[e[i].id];
                x[e[i].id] = moe_edited(moe_tidy(e[i].raw), e, i,
                                        d.repetition, d.frequency,
                                        d.presence);
            }
        }

        __syncthreads();
        id = best_after(&s, x, p.vocab, 0, NONE, &best);

        if (best == -INFINITY) {
            id = NONE;
        } else if (d.scale != 0) {
            id = draw(&s, x, p.vocab, d, best);
        }

        __syncthreads();

        for (i = threadIdx.x; i < d.nedits; i += THREADS) {
            if (e[i].head) {
                x[e[i].id] = e[i].raw;
            }
        }

        __syncthreads();
    }

    if (d.logprobs) {
        logprobs(&s, x, p.vocab, d, id, out);
    }

    if (threadIdx.x == 0) {
        out->id = id == NONE ? 0 : id;
        out->none = id == NONE;
    }
}


void
cuda_sample(const moe_kctx_t *c, const moe_sample_t *op)
{
    launch(c, "sample", sample_kernel, op->n, THREADS, 0, *op);
}
