/*
 * What llama-perplexity wrote of a text is read and judged against what a
 * model here makes of the same tokens.  The file, little-endian:
 *
 *     "_logits_", then 32-bit numbers: window, vocabulary, windows
 *     token ids, 32 bits each, window * windows
 *     for each window, for its positions window / 2 .. window - 2, a row:
 *         scale and least log-probability as float32, then a 16-bit number
 *         for each token of the vocabulary (one more where that is odd);
 *         log-probability = number * scale + least
 *
 * What is less likely than e^-16 of the likeliest has the least value and is
 * left out here.  Every window begins with the beginning-of-text token in
 * place of its first where the vocabulary wants one.
 */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "compare_base.h"
#include "model/gguf_text.h"
#include "model/model.h"
#include "text/tokenizer.h"


enum {
    HEAD = 20,
    MAX_WINDOW = 65536,
    MAX_VOCAB = 1 << 22
};

#define MAX_FILE  ((size_t) 4 << 30)


typedef struct {
    uint8_t   *data;
    size_t     size;
    uint32_t   window;
    uint32_t   vocab;
    uint32_t   windows;
    uint32_t   rows;            /* of a window */
    size_t     row_size;
} base_t;

typedef struct {
    const moe_compare_base_t  *o;
    base_t                     base;
    base_t                     noise;
    moe_model_t               *model;
    uint32_t                  *ids;         /* of a window */
    uint32_t                  *count;       /* 0, 1, 2 .. */
    uint32_t                  *wanted;      /* rows with logits */
    uint32_t                  *seq;
    uint8_t                   *role;
    float                     *logits;

    uint64_t                   tokens;
    uint64_t                   same;
    uint64_t                   clear;       /* margin above the noise */
    uint64_t                   clear_same;
    double                     kl;
    double                     kl_max;
    double                     noise_kl;
    double                     noise_sum;
} state_t;


static uint32_t
u32_at(const uint8_t *p)
{
    return p[0] | (uint32_t) p[1] << 8 | (uint32_t) p[2] << 16
           | (uint32_t) p[3] << 24;
}


static int
base_open(base_t *b, const char *path, moe_err_t *err)
{
    b->data = (uint8_t *) moe_file_read(path, MAX_FILE, &b->size, NULL, err);

    if (b->data == NULL) {
        return -1;
    }

    if (b->size < HEAD || memcmp(b->data, "_logits_", 8) != 0) {
        return moe_err(err, "%s: is no file of log-probabilities", path);
    }

    b->window = u32_at(b->data + 8);
    b->vocab = u32_at(b->data + 12);
    b->windows = u32_at(b->data + 16);

    if (b->window < 4 || b->window > MAX_WINDOW || b->vocab < 2
        || b->vocab > MAX_VOCAB || b->windows == 0)
    {
        return moe_err(err, "%s: %u windows of %u, %u tokens in the "
                       "vocabulary", path, b->windows, b->window, b->vocab);
    }

    b->rows = b->window - 1 - b->window / 2;
    b->row_size = ((size_t) b->vocab + 1) / 2 * 4 + 8;

    if ((b->size - HEAD) / b->windows
        != (size_t) b->window * 4 + b->rows * b->row_size
        || (b->size - HEAD) % b->windows != 0)
    {
        return moe_err(err, "%s: %zu bytes are not what it says it has",
                       path, b->size);
    }

    return 0;
}


/* the token every window begins with, or -1; err->text where that fails */
static int64_t
first_token(const char *dir, moe_err_t *err)
{
    int               rc;
    int64_t           id;
    moe_ids_t         ids = { 0 };
    moe_gguf_t       *g;
    moe_tokenizer_t  *t;

    if (moe_gguf_is(dir)) {
        g = moe_gguf_open(dir, err);
        t = g != NULL ? moe_gguf_tokenizer(g, err) : NULL;
        moe_gguf_close(g);

    } else {
        t = moe_tokenizer_load(dir, err);
    }

    rc = t == NULL ? -1 : moe_tokenizer_encode(t, "", 0, NULL,
                                               MOE_TOK_ADD_BOS, &ids,
                                               err);
    id = rc == 0 && ids.n > 0 ? (int64_t) ids.ids[0] : -1;
    moe_ids_free(&ids);
    moe_tokenizer_free(t);

    return rc == 0 ? id : -2;
}


static int
prepare(state_t *s, const char *dir, moe_err_t *err)
{
    uint32_t             i, n;
    moe_model_options_t  o = { 0 };

    n = s->base.window;
    o.threads = s->o->threads;
    o.kernels = s->o->kernels;
    o.max_rows = n;
    o.kv_pages = n / MOE_PAGE_SIZE + 1;

    s->model = moe_model_open(dir, &o, NULL, NULL, err);
    if (s->model == NULL) {
        return -1;
    }

    if (moe_model_vocab_size(s->model) != s->base.vocab
        || moe_model_max_position(s->model) < n)
    {
        return moe_err(err, "%s: another vocabulary than %s, or a context of "
                       "less than %u", dir, s->o->base, n);
    }

    s->ids = malloc(n * sizeof(uint32_t));
    s->count = malloc(n * sizeof(uint32_t));
    s->wanted = malloc(n * sizeof(uint32_t));
    s->seq = calloc(n, sizeof(uint32_t));
    s->role = calloc(n, 1);
    s->logits = malloc((size_t) s->base.rows * s->base.vocab
                       * sizeof(float));

    if (s->ids == NULL || s->count == NULL || s->wanted == NULL
        || s->seq == NULL || s->role == NULL || s->logits == NULL)
    {
        return moe_err(err, "out of memory");
    }

    for (i = 0; i < n; i++) {
        s->count[i] = i;
    }

    for (i = 0; i < s->base.rows; i++) {
        s->wanted[i] = n / 2 + i;
    }

    return 0;
}


static int
step(state_t *s, uint32_t window, int64_t first, moe_err_t *err)
{
    uint32_t         i, n;
    moe_batch_t      b;
    const uint8_t   *p;
    const uint32_t  *tables[1] = { s->count };

    n = s->base.window;
    p = s->base.data + HEAD + (size_t) window * n * 4;

    for (i = 0; i < n; i++) {
        s->ids[i] = u32_at(p + (size_t) i * 4);

        if (s->ids[i] >= s->base.vocab) {
            return moe_err(err, "%s: token %u", s->o->base, s->ids[i]);
        }
    }

    if (first >= 0) {
        s->ids[0] = (uint32_t) first;
    }

    b = (moe_batch_t) { n, s->ids, s->count, s->seq, s->role, 1, tables,
                        s->base.rows, s->wanted };

    return moe_model_step(s->model, &b, s->logits, err);
}


static const uint8_t *
row_of(const base_t *b, uint32_t window, uint32_t row)
{
    return b->data + HEAD + (size_t) b->windows * b->window * 4
           + ((size_t) window * b->rows + row) * b->row_size;
}


/* NAN where the file has no more than that it is unlikely */
static double
log_prob(const uint8_t *row, uint32_t token)
{
    float           scale, least;
    const uint8_t  *p;

    memcpy(&scale, row, 4);
    memcpy(&least, row + 4, 4);
    p = row + 8 + (size_t) token * 2;

    return (p[0] | p[1]) == 0 ? NAN
           : (double) scale * (p[0] | p[1] << 8) + least;
}


/* the two files at one row: the largest difference, and KL */
static double
noise_at(const state_t *s, const uint8_t *a, const uint8_t *b, double *kl)
{
    double    x, y, max;
    uint32_t  i;

    max = 0;

    for (i = 0; i < s->base.vocab; i++) {
        x = log_prob(a, i);
        y = log_prob(b, i);

        if (!isnan(x) && !isnan(y)) {
            max = fabs(x - y) > max ? fabs(x - y) : max;
            *kl += exp(x) * (x - y);
        }
    }

    return max;
}


static void
judge(state_t *s, uint32_t window, uint32_t row)
{
    double          x, sum, kl, noise, best, second;
    uint32_t        i, own, theirs;
    const float    *l;
    const uint8_t  *b;

    l = s->logits + (size_t) row * s->base.vocab;
    b = row_of(&s->base, window, row);
    own = 0;
    theirs = 0;
    best = -INFINITY;
    second = -INFINITY;

    for (i = 0; i < s->base.vocab; i++) {
        own = l[i] > l[own] ? i : own;
        x = log_prob(b, i);

        if (x > best) {
            second = best;
            best = x;
            theirs = i;

        } else if (x > second) {
            second = x;
        }
    }

    sum = 0;
    kl = 0;

    for (i = 0; i < s->base.vocab; i++) {
        sum += exp((double) l[i] - l[own]);
    }

    sum = log(sum) + l[own];

    for (i = 0; i < s->base.vocab; i++) {
        x = log_prob(b, i);
        kl += isnan(x) ? 0 : exp(x) * (x - (l[i] - sum));
    }

    s->tokens++;
    s->same += own == theirs;
    s->kl += kl;
    s->kl_max = kl > s->kl_max ? kl : s->kl_max;

    if (s->noise.data != NULL) {
        noise = noise_at(s, b, row_of(&s->noise, window, row), &s->noise_kl);
        s->noise_sum += noise;

        /* each of the two may be off by it */
        if (best - second > 2 * noise) {
            s->clear++;
            s->clear_same += own == theirs;
        }
    }
}


static void
print(const state_t *s, const char *dir)
{
    double  n;

    n = (double) s->tokens;

    printf("| %s | %.6f | %.4f | %.2f %% |", dir, s->kl / n, s->kl_max,
           100.0 * (double) s->same / n);

    if (s->noise.data != NULL) {
        printf(" %.6f | %.4f | %.1f %% | %llu |", s->noise_kl / n,
               s->noise_sum / n, 100.0 * (double) s->clear / n,
               (unsigned long long) (s->clear - s->clear_same));
    }

    printf("\n");
    fflush(stdout);
}


static int
model(state_t *s, const char *dir, moe_err_t *err)
{
    int64_t   first;
    uint32_t  i, j;

    s->tokens = s->same = s->clear = s->clear_same = 0;
    s->kl = s->kl_max = s->noise_kl = s->noise_sum = 0;

    first = first_token(dir, err);

    if (first == -2 || prepare(s, dir, err) != 0) {
        return -1;
    }

    for (i = 0; i < s->base.windows; i++) {

        if (step(s, i, first, err) != 0) {
            return -1;
        }

        for (j = 0; j < s->base.rows; j++) {
            judge(s, i, j);
        }
    }

    print(s, dir);

    return 0;
}


static void
release(state_t *s)
{
    moe_model_close(s->model);
    free(s->ids);
    free(s->count);
    free(s->wanted);
    free(s->seq);
    free(s->role);
    free(s->logits);
    s->model = NULL;
    s->ids = s->count = s->wanted = s->seq = NULL;
    s->role = NULL;
    s->logits = NULL;
}


int
moe_compare_base(const moe_compare_base_t *o, moe_err_t *err)
{
    int       rc;
    state_t   s;
    uint32_t  i;

    memset(&s, 0, sizeof(s));
    s.o = o;
    rc = base_open(&s.base, o->base, err);

    if (rc == 0 && o->noise != NULL) {
        rc = base_open(&s.noise, o->noise, err);

        if (rc == 0
            && (s.noise.size != s.base.size
                || memcmp(s.noise.data, s.base.data, HEAD
                          + (size_t) s.base.window * s.base.windows * 4)
                   != 0))
        {
            rc = moe_err(err, "%s: other tokens than %s", o->noise, o->base);
        }
    }

    if (rc == 0) {
        printf("%u positions of %s\n\n| model | mean KL | largest KL | same "
               "likeliest token |%s\n|---|---:|---:|---:|%s\n",
               s.base.windows * s.base.rows, o->base,
               o->noise != NULL ? " noise, mean KL | noise, largest "
               "difference | margin above twice that | of these another "
               "likeliest token |" : "",
               o->noise != NULL ? "---:|---:|---:|---:|" : "");
    }

    for (i = 0; rc == 0 && i < o->n; i++) {
        rc = model(&s, o->models[i], err);
        release(&s);
    }

    free(s.base.data);
    free(s.noise.data);

    return rc;
}
