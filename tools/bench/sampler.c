/*
 * What drawing a token costs, beside the least that it can: the largest of
 * the same logits, for which each is read once.
 *
 *     build/bench-sampler [VOCAB [REPEATS]]
 *
 * Logits are normal with a standard deviation of 3, about as wide as a
 * model's, and other ones for each token.
 */

#include <math.h>
#include <stdio.h>

#include "batch.h"
#include "model/sampler.h"


enum { ROWS = 16, HISTORY = 2048, REPEATS = 21 };

typedef struct {
    const char  *name;
    double       temperature;
    double       top_p;
    double       min_p;
    int          top_k;
    double       penalty;
    uint32_t     top_logprobs;
} setting_t;

static const setting_t  settings[] = {
    { "the largest alone",            0,   1,    0,    0,  0,   0 },
    { "temperature 1",                1,   1,    0,    0,  0,   0 },
    { "temperature 1, top_p 0.95",    1,   0.95, 0,    0,  0,   0 },
    { "temperature 0.7, top_k 40",    0.7, 1,    0,    40, 0,   0 },
    { "temperature 1, min_p 0.05",    1,   1,    0.05, 0,  0,   0 },
    { "temperature 1, penalties of 2,048 tokens",
                                      1,   1,    0,    0,  0.5, 0 },
    { "temperature 1, 20 log-probabilities",
                                      1,   1,    0,    0,  0,   20 }
};

enum { SETTINGS = sizeof(settings) / sizeof(settings[0]) };


static float
normal(uint64_t i)
{
    double  a, b;

    a = ((double) moe_random(1, i, 0) + 1) / 9007199254740993.0;
    b = (double) moe_random(1, i, 1) / 9007199254740992.0;

    return (float) (3 * sqrt(-2 * log(a)) * cos(6.283185307179586 * b));
}


/* microseconds a token */
static double
draw(moe_sampler_t *s, const setting_t *set, const float *logits,
    uint32_t vocab, const uint32_t *history)
{
    double          start;
    uint32_t        i, id;
    moe_history_t   h = { .generated = history, .n_generated = HISTORY };
    moe_sampling_t  p;
    moe_logprobs_t  out;

    moe_sampling_init(&p);
    p.temperature = set->temperature;
    p.top_p = set->top_p;
    p.min_p = set->min_p;
    p.top_k = set->top_k;
    p.presence_penalty = set->penalty;
    p.seed = 1;

    start = now_us();

    for (i = 0; i < ROWS; i++) {
        if (moe_sample(s, logits + (size_t) i * vocab, &p, &h, i, 0, &id)
            != 0)
        {
            fprintf(stderr, "bench-sampler: no token can be drawn\n");
            exit(1);
        }

        if (set->top_logprobs) {
            moe_logprobs(s, logits + (size_t) i * vocab, id,
                         set->top_logprobs, &out);
        }
    }

    return (now_us() - start) / ROWS;
}


int
main(int argc, char **argv)
{
    float          *logits;
    double         *us, least;
    size_t          i;
    uint32_t        vocab, repeats, n, k, history[HISTORY];
    moe_sampler_t  *s;

    vocab = argc > 1 ? (uint32_t) strtoul(argv[1], NULL, 10) : 129280;
    repeats = argc > 2 ? (uint32_t) strtoul(argv[2], NULL, 10) : REPEATS;

    s = vocab ? moe_sampler_new(vocab) : NULL;
    logits = calloc((size_t) ROWS * vocab + 1, sizeof(float));
    us = calloc((size_t) SETTINGS * repeats + 1, sizeof(double));

    if (s == NULL || logits == NULL || us == NULL || repeats == 0) {
        fprintf(stderr, "usage: bench-sampler [VOCAB [REPEATS]]\n");
        return 2;
    }

    for (i = 0; i < (size_t) ROWS * vocab; i++) {
        logits[i] = normal(i);
    }

    for (k = 0; k < HISTORY; k++) {
        history[k] = k * 31 % vocab;
    }

    for (n = 0; n < repeats; n++) {
        for (k = 0; k < SETTINGS; k++) {
            us[k * repeats + n] = draw(s, &settings[k], logits, vocab,
                                       history);
        }
    }

    printf("vocabulary of %u, one thread, medians of %u rounds\n\n"
           "| a token | us | of the largest alone |\n|---|---:|---:|\n",
           vocab, repeats);

    least = median(us, repeats);

    for (k = 0; k < SETTINGS; k++) {
        double  each = median(us + (size_t) k * repeats, repeats);

        printf("| %s | %.0f | %.1f |\n", settings[k].name, each,
               each / least);
    }

    free(us);
    free(logits);
    moe_sampler_free(s);

    return 0;
}
