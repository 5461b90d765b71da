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
#include <unistd.h>
#include <cmocka.h>

#include "ep/overlap.h"
#include "ep/parcels.h"
#include "model/model.h"
#include "families.h"


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
    { 1, 12,  9,  9 },
    { 3, 16, 40,  7 }
};

typedef struct {
    const char        *dir;
    uint32_t           nranks;
    moe_row_format_e   format;
    uint32_t           counted;
    uint32_t           replicas;    /* slots a rank more than needed */
    moe_replica_e      choice;
    moe_overlap_e      overlap;     /* steps in halves, over MPI */
    uint32_t           threads;

    uint32_t           replace;     /* another placement at this step */
    uint32_t           turns;       /* several, with replicas and without */
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


/* tokens of each answer, and the steps in which all are through: the last one
 * begins at 16 with 6 chunks */


static inline uint32_t
greedy(void)
{
    return getenv("MOE_MATRIX") != NULL ? GREEDY : GREEDY / 2;
}


static inline uint32_t
nsteps(void)
{
    return 16 + 6 + greedy();
}


static inline uint64_t
now_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


/* slots in an order that has nothing to do with the experts'; replicas: slots
 * a rank more than are needed */
static inline moe_ep_placement_t *
scattered(const moe_exchange_shape_t *shape, const setup_t *s,
    uint32_t version, uint32_t replicas, moe_err_t *err)
{
    uint32_t             l, i, n, n_local, *expert;
    moe_ep_placement_t  *p;

    n_local = (shape->n_experts + s->nranks - 1) / s->nranks + replicas;
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


/* the placement, if any, that this rank changes to at this step, which is not
 * the same step in all ranks: 1, and p is the exchange's to be; 0: none */
static inline int
placement_at(const setup_t *s, uint32_t rank, uint32_t step,
    moe_ep_placement_t **p, moe_err_t *err)
{
    uint32_t              i, version, replicas;
    moe_model_options_t   o;
    moe_exchange_shape_t  shape;

    static const uint32_t  at[] = { 10, 22, 36 }, more[] = { 1, 2, 0 };

    version = 0;
    replicas = 0;

    for (i = 0; s->turns && i < 3; i++) {
        if (step == at[i] + rank) {
            version = 8 + i;
            replicas = more[i];
        }
    }

    if (s->replace && step == s->replace + rank * 3) {
        version = 8;
        replicas = s->replicas;
    }

    if (version == 0) {
        return 0;
    }

    o = options(s);

    if (moe_model_exchange_shape(s->dir, &o, &shape, err) != 0) {
        return -1;
    }

    *p = scattered(&shape, s, version, replicas, err);

    return *p != NULL ? 1 : -1;
}


/* the last one's version; 0: there was none */
static inline uint32_t
last_placement(const setup_t *s)
{
    return s->turns ? 10 : s->replace ? 8 : 0;
}


/*
 * All numbers of ranks, both forms and both row formats, in an order that
 * keeps the formats apart; experts move thrice, with replicas and without.
 * Without MOE_MATRIX in the environment a family has a seventh of them, each
 * family another.
 */

enum { CELLS = 20 };

static inline int
cell(uint32_t i, uint32_t family, setup_t *s)
{
    static const uint32_t  ranks[] = { 1, 2, 3, 4, 8 };

    memset(s, 0, sizeof(*s));
    s->nranks = ranks[i % 5];
    s->counted = i / 5 % 2;
    s->format = i / 10 ? MOE_ROWS_BF16 : MOE_ROWS_F32;
    s->turns = 1;

    return (i + family * 3) % 7 == 0 || getenv("MOE_MATRIX") != NULL;
}


/* every golden model and the demo, by number */
static inline void
each_family(void (*check)(const char *dir, uint32_t family))
{
    check("models/demo", each_golden(check));
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
            && q[i].done < plan[i].nprompt + greedy() - 1)
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

            if (k + 1 < greedy()) {
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

        while (q[i].done < plan[i].nprompt + greedy() - 1) {
            if (step(m, q, &i, 1, logits, *vocab, &err) != 0) {
                fail_msg("%s", err.text);
            }
        }
    }

    free(q);
    moe_model_close(m);

    return logits;
}


/* a rank that goes no further than into a stage of a step: fate does not come
 * back */


static struct {
    const moe_exchange_ops_t  *real;
    moe_exchange_ops_t         ops;
    uint32_t                   stage;
    void                     (*fate)(void);
} armed;


static inline int
armed_begin(moe_exchange_t *x, uint32_t nrows, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    if (armed.stage == 2) {
        armed.fate();
    }

    return armed.real->begin(x, nrows, deadline, late, err);
}


static inline int
armed_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    if (armed.stage == 0) {
        armed.fate();
    }

    return armed.real->dispatch(x, layer, nrows, rows, experts, deadline,
                                work, late, err);
}


static inline int
armed_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    armed.fate();

    return armed.real->combine(x, layer, deadline, result, late, err);
}


/* of a step in halves: with one half under way, and with both */


static inline int
armed_dispatch_send(moe_exchange_t *x, uint32_t half, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    if (armed.stage == 0 && half == 1) {
        armed.fate();
    }

    return armed.real->dispatch_send(x, half, layer, nrows, rows, experts,
                                     deadline, late, err);
}


static inline int
armed_combine_send(moe_exchange_t *x, uint32_t half, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    armed.fate();

    return armed.real->combine_send(x, half, deadline, late, err);
}


static inline void
arm(moe_exchange_t *x, uint32_t stage, void (*fate)(void))
{
    armed.real = x->ops;
    armed.ops = *x->ops;
    armed.ops.begin = armed_begin;
    armed.ops.dispatch = armed_dispatch;
    armed.ops.combine = armed_combine;
    armed.ops.dispatch_send = armed_dispatch_send;
    armed.ops.combine_send = armed_combine_send;
    armed.stage = stage;
    armed.fate = fate;
    x->ops = &armed.ops;
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
