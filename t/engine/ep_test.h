/*
 * ep_test: sequences whose prompts and answers are computed by one rank or by
 * many, and the logits that come out, compared bit by bit.
 */

#ifndef MOE_EP_TEST_H
#define MOE_EP_TEST_H


#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "ep/parcels.h"
#include "model/model.h"


enum {
    SEQS = 7,
    GREEDY = 64,
    MAX_PROMPT = 80,
    MAX_RANKS = 8,
    PAGES_SEQ = (MAX_PROMPT + GREEDY) / MOE_PAGE_SIZE + 1,
    MAX_ROWS = 128
};

/* which sequence is where, when it begins, in what chunks its prompt comes */
static const struct {
    uint32_t  home;
    uint32_t  begin;
    uint32_t  nprompt;
    uint32_t  chunk;
} plan[SEQS] = {
    { 0,  0, 20, 20 },
    { 0,  3,  5,  2 },
    { 1,  0, 70, 50 },
    { 0,  9, 64, 64 },
    { 2,  6, 33, 11 },
    { 1, 20,  9,  9 },
    { 3, 40, 40,  7 }
};

typedef struct {
    const char        *dir;
    uint32_t           nranks;
    moe_row_format_e   format;
    uint32_t           counted;
    uint32_t           replicas;    /* slots a rank more than needed */
    moe_replica_e      choice;
    uint32_t           threads;

    uint32_t           replace;     /* another placement at this step */
    uint32_t           kill_rank;   /* + 1 */
    uint32_t           kill_step;
    uint32_t           kill_stage;  /* 0 dispatch, 1 combine, 2 begin */
    uint32_t           wait_ms;
} setup_t;

typedef struct {
    uint32_t    ids[MAX_PROMPT + GREEDY];
    uint32_t    done;
    uint32_t    n;
    uint32_t    table[PAGES_SEQ];
} seq_t;


static inline uint64_t
now_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


/* slots in an order that has nothing to do with the experts' */
static inline moe_ep_placement_t *
scattered(const moe_exchange_shape_t *shape, const setup_t *s,
    uint32_t version, moe_err_t *err)
{
    uint32_t             l, i, n, n_local, *expert;
    moe_ep_placement_t  *p;

    n_local = (shape->n_experts + s->nranks - 1) / s->nranks + s->replicas;
    n_local = n_local > shape->n_experts ? shape->n_experts : n_local;
    n = n_local * s->nranks;

    expert = malloc((size_t) shape->n_layers * n * sizeof(uint32_t));

    for (l = 0; l < shape->n_layers; l++) {
        for (i = 0; i < n; i++) {
            expert[l * n + i] = (n - 1 - i + l * 3 + version)
                                % shape->n_experts;
        }
    }

    p = moe_ep_placement(version, shape->n_layers, shape->n_experts,
                         s->nranks, n_local, expert, err);
    free(expert);

    return p;
}


static inline moe_model_options_t
options(const setup_t *s)
{
    return (moe_model_options_t) {
        .threads = s->threads ? s->threads : 1,
        .max_rows = MAX_ROWS,
        .kv_pages = SEQS * PAGES_SEQ,
        .row_format = s->format,
        .exchange_ms = s->wait_ms ? s->wait_ms : 60000
    };
}


static inline void
seq_init(seq_t *q, uint32_t s, uint32_t vocab)
{
    uint32_t  i, r;

    memset(q, 0, sizeof(*q));
    q->n = plan[s].nprompt;
    r = s * 7919 + 17;

    for (i = 0; i < q->n; i++) {
        r = r * 1664525 + 1013904223;
        q->ids[i] = (r >> 8) % vocab;
    }

    for (i = 0; i < PAGES_SEQ; i++) {
        q->table[i] = s * PAGES_SEQ + i;
    }
}


static inline uint32_t
argmax(const float *x, uint32_t n)
{
    uint32_t  i, best;

    best = 0;

    for (i = 1; i < n; i++) {
        best = x[i] > x[best] ? i : best;
    }

    return best;
}


/* sequences that rank home has at a step; home NONE: sequence only, alone */
static inline uint32_t
active(const setup_t *s, uint32_t rank, uint32_t step, const seq_t *q,
    uint32_t *list)
{
    uint32_t  i, n;

    n = 0;

    for (i = 0; i < SEQS; i++) {
        if (plan[i].home % s->nranks == rank && plan[i].begin <= step
            && q[i].done < plan[i].nprompt + GREEDY - 1)
        {
            list[n++] = i;
        }
    }

    return n;
}


/* one step of these sequences: 0, or the model's -1 */
static inline int
step(moe_model_t *m, seq_t *q, const uint32_t *list, uint32_t nlist,
    float *logits, uint32_t vocab, moe_err_t *err)
{
    seq_t           *p;
    float           *out;
    uint8_t          role[MAX_ROWS];
    uint32_t         i, k, n, nout, take, count[SEQS];
    uint32_t         ids[MAX_ROWS], pos[MAX_ROWS], seq[MAX_ROWS], rows[SEQS];
    moe_batch_t      b;
    const uint32_t  *tables[SEQS];

    n = 0;
    nout = 0;

    for (i = 0; i < nlist; i++) {
        p = &q[list[i]];
        take = p->n - p->done;

        if (p->done < plan[list[i]].nprompt && take > plan[list[i]].chunk) {
            take = plan[list[i]].chunk;
        }

        tables[i] = p->table;
        count[i] = take;

        for (k = 0; k < take; k++, n++) {
            ids[n] = p->ids[p->done + k];
            pos[n] = p->done + k;
            seq[n] = i;
            role[n] = pos[n] < plan[list[i]].nprompt ? MOE_ROLE_PROMPT
                                                     : MOE_ROLE_GENERATED;
        }

        if (p->done + take == p->n) {
            rows[nout++] = n - 1;
        }
    }

    out = malloc((nout + 1) * vocab * sizeof(float));
    b = (moe_batch_t) { n, ids, pos, seq, role, nlist, tables, nout, rows };

    if (moe_model_step(m, &b, out, err) != 0) {
        free(out);
        return -1;
    }

    if (moe_model_exchange(m)->most_rows < n) {
        free(out);
        return moe_err(err, "%u rows at most in a step, where one rank has "
                       "%u", moe_model_exchange(m)->most_rows, n);
    }

    nout = 0;

    for (i = 0; i < nlist; i++) {
        p = &q[list[i]];
        p->done += count[i];

        if (p->done == p->n) {
            k = p->n - plan[list[i]].nprompt;
            memcpy(logits + ((size_t) list[i] * GREEDY + k) * vocab,
                   out + (size_t) nout * vocab, vocab * sizeof(float));

            if (k + 1 < GREEDY) {
                p->ids[p->n++] = argmax(out + (size_t) nout * vocab, vocab);
            }
            nout++;
        }
    }

    free(out);

    return 0;
}


/* every sequence alone on one rank */
static inline float *
reference(const setup_t *s, uint32_t *vocab)
{
    seq_t                *q;
    float                *logits;
    uint32_t              i;
    moe_err_t             err;
    moe_model_t          *m;
    moe_model_options_t   o;

    o = options(s);
    m = moe_model_open(s->dir, &o, NULL, NULL, &err);
    if (m == NULL) {
        fail_msg("%s", err.text);
    }

    *vocab = moe_model_vocab_size(m);
    logits = calloc((size_t) SEQS * GREEDY * *vocab, sizeof(float));
    q = calloc(SEQS, sizeof(seq_t));

    for (i = 0; i < SEQS; i++) {
        seq_init(&q[i], i, *vocab);

        while (q[i].done < plan[i].nprompt + GREEDY - 1) {
            if (step(m, q, &i, 1, logits, *vocab, &err) != 0) {
                fail_msg("%s", err.text);
            }
        }
    }

    free(q);
    moe_model_close(m);

    return logits;
}


/* of the ranks that live, every bit */
static inline void
compare_logits(const setup_t *u, uint32_t vocab, const float *logits,
    const float *want)
{
    size_t        i, n;
    uint32_t      s;
    const float  *mine;

    n = (size_t) GREEDY * vocab;

    for (s = 0; s < SEQS; s++) {
        if (plan[s].home % u->nranks + 1 == u->kill_rank) {
            continue;
        }

        mine = logits + s * n;

        for (i = 0; i < n; i++) {
            if (memcmp(&mine[i], &want[s * n + i], sizeof(float)) != 0) {
                fail_msg("%s, %u ranks, %s, counted %u, replicas %u: "
                         "sequence %u: logit %zu of token %zu is %.9g, on "
                         "one rank %.9g", u->dir, u->nranks,
                         moe_row_format_name(u->format), u->counted,
                         u->replicas, s, i % vocab, i / vocab,
                         (double) mine[i], (double) want[s * n + i]);
            }
        }
    }
}


#endif /* MOE_EP_TEST_H */
