/*
 * An answer depends on its request alone: ids, logprobs to the bit, finish
 * and counts, on small models of several families.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "gen.h"


#define MAX_IDS    256
#define MAX_JOBS   12
#define MAX_TOP    5


/* all that was said of one job */
typedef struct {
    uint32_t         started;
    uint32_t         ended;
    uint32_t         status;
    uint32_t         finish;
    uint32_t         completion;
    uint32_t         cached;
    uint32_t         necho;
    uint32_t         nids;
    uint32_t         nlp;
    uint32_t         ids[MAX_IDS];
    uint32_t         echo[MAX_IDS];
    uint32_t         lp[MAX_IDS * (MAX_TOP + 1) * 2];    /* id, bits */
    moe_gen_job_t   *job;
} answer_t;

typedef struct {
    uint32_t         nprompt;
    uint32_t         prompt[MAX_IDS];
    uint32_t         stop_id;
    moe_bias_t       bias;
    moe_job_t        job;
} request_t;

/* how a run is set up; zero is the default */
typedef struct {
    uint32_t         threads;
    uint32_t         chunk;
    uint32_t         step;
    uint32_t         running;
    uint32_t         pages;
    uint32_t         credit;      /* given after each step, in tokens */
} setup_t;


static const char *const  models[] = {
    "t/golden/v3-odd",
    "t/golden/v2-lite",
    "t/golden/qwen3-moe",
    "t/golden/qwen2-moe",
    "t/golden/mixtral",
    "t/golden/v3-bf16",
    "t/golden/glm4-moe",
    "t/golden/minimax-m2-odd",
    "t/golden/kimi-k2",
    "t/golden/gpt-oss",
    "t/golden/gpt-oss-mxfp4",
    "models/demo"
};

static const char   *dir;
static uint32_t      vocab;
static moe_model_t  *model;
static moe_gen_t    *gen;
static uint64_t      rng;


static uint32_t
draw(uint32_t n)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;

    return (uint32_t) ((rng >> 33) % n);
}


static void
on_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
    answer_t  *a;

    a = (answer_t *) ctx + tag;
    assert_int_equal(a->started++, 0);
    a->cached = s->cached_tokens;
}


static void
on_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    uint32_t     i, n, bits;
    answer_t    *a;
    moe_lp_t     lp;
    const void  *p, *end;

    a = (answer_t *) ctx + tag;

    assert_int_equal(a->started, 1);
    assert_int_equal(a->ended, 0);
    assert_int_equal(a->finish, MOE_FINISH_NONE);

    a->finish = d->finish;

    for (i = 0; i < d->nids; i++) {
        if (d->flags & MOE_DELTA_ECHO) {
            a->echo[a->necho++] = d->ids[i];

        } else {
            a->ids[a->nids++] = d->ids[i];
        }
    }

    if (!(d->flags & MOE_DELTA_ECHO)) {
        a->completion = d->completion_tokens;
        assert_int_equal(d->completion_tokens, d->total_tokens);
    }

    p = d->lp;
    end = (const uint8_t *) d->lp + d->lp_size;
    n = 0;

    while (p != end) {
        assert_int_equal(moe_lp_read(&lp, &p, end), MOE_JOBQ_OK);
        memcpy(&bits, &lp.logprob, sizeof(bits));
        a->lp[a->nlp++] = lp.id;
        a->lp[a->nlp++] = bits;

        if (n == 0) {
            n = lp.ntop + 1;
        }

        n--;
    }

    assert_int_equal(n, 0);
}


static void
on_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    answer_t  *a;

    a = (answer_t *) ctx + tag;
    assert_int_equal(a->ended++, 0);
    a->status = e->status;
    a->job = NULL;

    if (e->status == 200) {
        assert_int_not_equal(a->finish, MOE_FINISH_NONE);
        assert_int_equal(e->completion_tokens, a->completion);
        assert_int_equal(e->cached_tokens, a->cached);
    }
}


static void
open_model(const setup_t *s, answer_t *answers)
{
    moe_err_t                    err = { "" };
    moe_gen_options_t            go;
    moe_model_options_t          mo;
    static const moe_gen_sink_t  sink = { on_started, on_delta, on_end };

    memset(&mo, 0, sizeof(mo));
    mo.threads = s->threads ? s->threads : 1;
    mo.kv_pages = s->pages ? s->pages : 200;

    model = moe_model_open(dir, &mo, NULL, NULL, &err);
    assert_string_equal(err.text, "");
    assert_non_null(model);
    vocab = moe_model_vocab_size(model);

    memset(&go, 0, sizeof(go));
    go.prefill_chunk = s->chunk;
    go.step_tokens = s->step;
    go.max_running = s->running;

    gen = moe_gen_create(model, &go, &sink, answers, &err);
    assert_non_null(gen);
}


static void
close_model(void)
{
    moe_gen_destroy(gen);
    moe_model_close(model);
}


/* the model of what follows; requests need its vocabulary */
static void
use_model(const char *name)
{
    setup_t  s = { 0 };

    dir = name;
    open_model(&s, NULL);
    close_model();
}


/* number n of the requests, always the same */
static void
make_request(request_t *r, uint32_t n)
{
    uint32_t  i;

    rng = n * 77 + 5;
    memset(r, 0, sizeof(*r));

    r->nprompt = 20 + draw(60);

    /* the first 40 ids are everyone's */
    rng = 99;
    for (i = 0; i < 40; i++) {
        r->prompt[i] = draw(vocab);
    }

    rng = n * 77 + 6;
    for (i = 40; i < r->nprompt; i++) {
        r->prompt[i] = draw(vocab);
    }

    r->stop_id = draw(vocab);
    r->bias.id = draw(vocab);
    r->bias.bias = 2.0f;

    r->job.kind = MOE_JOB_IDS;
    r->job.n = 1;
    r->job.choice = n % 3;
    r->job.seed = n * 1000003ull;
    r->job.max_tokens = 24 + draw(20);
    r->job.flags = MOE_JOB_LOGPROBS;
    r->job.top_logprobs = n % (MAX_TOP + 1);
    r->job.credit = 1u << 20;
    r->job.temperature = n % 4 == 1 ? 0.0f : 0.9f;
    r->job.top_p = n % 3 == 0 ? 0.8f : 1.0f;
    r->job.top_k = n % 5 == 2 ? 7 : 0;
    r->job.repetition = n % 2 ? 1.1f : 1.0f;
    r->job.presence = n % 3 == 1 ? 0.4f : 0.0f;
    r->job.frequency = n % 3 == 2 ? 0.3f : 0.0f;
    r->job.min_tokens = n % 4;
    r->job.nprompts = 1;
    r->job.prompts[0].is_ids = 1;
    r->job.prompts[0].n = r->nprompt;
    r->job.prompts[0].data = r->prompt;
    r->job.stop_ids = &r->stop_id;
    r->job.nstop_ids = 1;
    r->job.bias = &r->bias;
    r->job.nbias = 1;
}


static void
submit(request_t *r, answer_t *answers, uint32_t tag)
{
    memset(&answers[tag], 0, sizeof(answer_t));
    answers[tag].job = moe_gen_submit(gen, &r->job, tag);
}


static void
run_all(answer_t *answers, const setup_t *s)
{
    int        i, rc, steps;
    moe_err_t  err;

    for (steps = 0; steps < 20000; steps++) {
        rc = moe_gen_step(gen, &err);
        assert_true(rc >= 0);

        for (i = 0; i < MAX_JOBS; i++) {
            if (s->credit && answers[i].job) {
                moe_gen_credit(gen, answers[i].job,
                               s->credit * MOE_TOKEN_CREDIT);
                rc = 1;
            }
        }

        if (rc == 0) {
            return;
        }
    }

    fail_msg("the jobs do not come to an end");
}


static void
assert_same(const answer_t *a, const answer_t *b, const char *what)
{
    if (a->status != 200 || b->status != 200 || a->ended != 1
        || b->ended != 1 || a->finish != b->finish || a->nids != b->nids
        || a->completion != b->completion || a->nlp != b->nlp
        || a->necho != b->necho
        || memcmp(a->ids, b->ids, a->nids * 4) != 0
        || memcmp(a->echo, b->echo, a->necho * 4) != 0
        || memcmp(a->lp, b->lp, a->nlp * 4) != 0)
    {
        fail_msg("%s: %s: another answer (%u and %u ids, %u and %u records,"
                 " status %u and %u)", dir, what, a->nids, b->nids, a->nlp,
                 b->nlp, a->status, b->status);
    }
}


static void
alone(request_t *r, answer_t *a)
{
    setup_t   s = { 0 };
    answer_t  *answers;

    answers = calloc(MAX_JOBS, sizeof(answer_t));
    open_model(&s, answers);
    submit(r, answers, 0);
    run_all(answers, &s);
    *a = answers[0];
    close_model();
    free(answers);

    assert_int_equal(a->status, 200);
    assert_int_equal(a->ended, 1);
    assert_int_equal(a->cached, 0);
    assert_true(a->nids > 0);
}


/* eight strangers and the one, in this setup, twice: the second time what is
 * cached of it is used */
static void
crowd(const setup_t *s, const answer_t *want, const char *what, int preempt)
{
    int        i, round;
    answer_t  *answers;
    request_t  r;

    answers = calloc(MAX_JOBS, sizeof(answer_t));
    open_model(s, answers);

    for (round = 0; round < 2; round++) {
        for (i = 0; i < 9; i++) {
            make_request(&r, (i + 5) % 9);

            if (s->credit) {
                r.job.credit = 0;
            }

            submit(&r, answers, (i + 5) % 9);
        }

        run_all(answers, s);

        for (i = 0; i < 9; i++) {
            assert_same(&answers[i], &want[i], what);
        }
    }

    assert_true(preempt ? moe_gen_preempted(gen) > 0
                        : answers[0].cached >= 32);

    close_model();
    free(answers);
}


/* what came before and what came now are to be the whole answer */
static void
assert_whole(const answer_t *want, const answer_t *got, uint32_t n,
    uint32_t top)
{
    uint32_t          skip;
    static answer_t   whole;

    skip = n * (1 + top) * 2;
    whole = *got;

    assert_true(n + got->nids <= MAX_IDS);
    memcpy(whole.ids, want->ids, n * 4);
    memcpy(whole.ids + n, got->ids, got->nids * 4);
    memcpy(whole.lp, want->lp, skip * 4);
    memcpy(whole.lp + skip, got->lp, got->nlp * 4);
    whole.nids += n;
    whole.nlp += skip;

    assert_same(&whole, want, "continued");
}


static void
continued(request_t *r, const answer_t *want)
{
    uint32_t   n;
    setup_t    s = { 0 };
    answer_t  *answers;

    answers = calloc(MAX_JOBS, sizeof(answer_t));
    open_model(&s, answers);

    for (n = 0; n <= want->nids; n++) {
        r->job.nconts = 1;
        r->job.conts[0].choice = r->job.choice;
        r->job.conts[0].ids = want->ids;
        r->job.conts[0].nids = n;

        submit(r, answers, 0);
        run_all(answers, &s);

        assert_int_equal(answers[0].nids, want->nids - n);
        assert_whole(want, &answers[0], n, r->job.top_logprobs);
    }

    r->job.nconts = 0;
    close_model();
    free(answers);
}


static void
test_one_answer(void **state)
{
    uint32_t         i, m;
    answer_t        *want;
    request_t        r;
    static const struct {
        const char  *what;
        int          preempt;
        setup_t      s;
    } setups[] = {
        { "a crowd", 0, { 0 } },
        { "chunks of 1", 0, { 1, 1, 0, 0, 0, 0 } },
        { "chunks of 7", 0, { 1, 7, 0, 0, 0, 0 } },
        { "chunks of 64", 0, { 1, 64, 0, 0, 0, 0 } },
        { "two threads", 0, { 2, 0, 0, 0, 0, 0 } },
        { "small steps", 0, { 1, 0, 13, 3, 0, 0 } },
        { "few pages", 1, { 1, 0, 0, 0, 14, 0 } },
        { "few pages, small steps, two threads", 1, { 2, 5, 9, 8, 12, 0 } },
        { "little credit", 0, { 1, 0, 0, 0, 0, 1 } },
        { "little credit, few pages", 1, { 1, 33, 0, 0, 12, 1 } }
    };

    want = calloc(9, sizeof(answer_t));

    for (m = 0; m < sizeof(models) / sizeof(models[0]); m++) {
        use_model(models[m]);

        for (i = 0; i < 9; i++) {
            make_request(&r, i);
            alone(&r, &want[i]);
        }

        for (i = 0; i < sizeof(setups) / sizeof(setups[0]); i++) {
            crowd(&setups[i].s, want, setups[i].what, setups[i].preempt);
        }

        for (i = 0; i < 3; i++) {
            make_request(&r, i);
            continued(&r, &want[i]);
        }
    }

    free(want);
}


/* a prompt's own log-probabilities, in chunks, preempted, and what follows */
static void
test_prompt_logprobs(void **state)
{
    uint32_t   i, m;
    setup_t    s = { 1, 7, 0, 0, 12, 0 };
    answer_t  *answers, *want;
    request_t  r;

    answers = calloc(MAX_JOBS, sizeof(answer_t));
    want = calloc(1, sizeof(answer_t));

    for (m = 0; m < 3; m++) {
        use_model(models[m]);

        make_request(&r, 4);
        r.job.flags |= MOE_JOB_PROMPT_LOGPROBS;
        alone(&r, want);

        assert_int_equal(want->necho, r.nprompt);
        assert_memory_equal(want->echo, r.prompt, r.nprompt * 4);
        assert_int_equal(want->nlp,
                         (2 + (want->necho - 1 + want->nids)
                          * (1 + r.job.top_logprobs) * 2));

        open_model(&s, answers);

        for (i = 0; i < 9; i++) {
            make_request(&r, i);
            r.job.flags |= MOE_JOB_PROMPT_LOGPROBS;
            submit(&r, answers, i);
        }

        run_all(answers, &s);
        assert_same(&answers[4], want, "prompt's log-probabilities");
        assert_true(moe_gen_preempted(gen) > 0);

        /* alone, with no token to follow */
        make_request(&r, 4);
        r.job.flags |= MOE_JOB_PROMPT_LOGPROBS;
        r.job.max_tokens = 0;
        submit(&r, answers, 0);
        run_all(answers, &s);
        assert_int_equal(answers[0].status, 200);
        assert_int_equal(answers[0].finish, MOE_FINISH_LENGTH);
        assert_int_equal(answers[0].nids, 0);
        assert_int_equal(answers[0].cached, 0);
        assert_int_equal(answers[0].nlp,
                         want->nlp - want->nids
                         * (1 + r.job.top_logprobs) * 2);
        assert_memory_equal(answers[0].lp, want->lp, answers[0].nlp * 4);
        close_model();
    }

    free(answers);
    free(want);
}


/* jobs come, go on from anywhere, lack credit, are cancelled: each ends once,
 * and who was let finish gave its answer */
static void
test_random_life(void **state)
{
    uint32_t    i, n, ops, dice, finished, cancelled, kind[MAX_JOBS],
                from[MAX_JOBS];
    uint64_t    ops_rng;
    setup_t     s = { 1, 24, 40, 5, 14, 0 };
    answer_t   *answers, *want;
    request_t   r;
    moe_err_t   err;

    use_model(models[0]);
    answers = calloc(MAX_JOBS, sizeof(answer_t));
    want = calloc(9, sizeof(answer_t));

    for (i = 0; i < 9; i++) {
        make_request(&r, i);
        alone(&r, &want[i]);
    }

    open_model(&s, answers);
    ops_rng = 4;
    finished = 0;
    cancelled = 0;

    for (ops = 0; ops < 6000; ops++) {
        rng = ops_rng;
        dice = draw(20);
        i = draw(MAX_JOBS);
        n = draw(9);
        ops_rng = rng;

        if (answers[i].ended) {
            if (answers[i].status == 200) {
                make_request(&r, kind[i]);
                assert_whole(&want[kind[i]], &answers[i], from[i],
                             r.job.top_logprobs);
                finished++;

            } else {
                assert_int_equal(answers[i].status, 499);
                cancelled++;
            }

            memset(&answers[i], 0, sizeof(answer_t));
        }

        if (answers[i].job == NULL) {
            if (dice < 4) {
                make_request(&r, n);
                r.job.credit = dice * MOE_TOKEN_CREDIT;
                r.job.priority = (int32_t) dice % 2;
                kind[i] = n;
                from[i] = (uint32_t) (ops_rng >> 40) % (want[n].nids + 1);
                r.job.nconts = 1;
                r.job.conts[0].ids = want[n].ids;
                r.job.conts[0].nids = from[i];
                submit(&r, answers, i);
            }

        } else if (dice == 0 && n == 0) {
            moe_gen_cancel(gen, answers[i].job);

        } else if (dice < 6) {
            moe_gen_credit(gen, answers[i].job, (n + 2) * MOE_TOKEN_CREDIT);
        }

        if (dice > 6) {
            assert_true(moe_gen_step(gen, &err) >= 0);
        }
    }

    assert_true(finished > 100);
    assert_true(cancelled > 5);
    assert_true(moe_gen_preempted(gen) > 10);

    close_model();
    free(answers);
    free(want);
}


/* ends, refusals and cancels */
static void
test_ends(void **state)
{
    uint32_t      n;
    setup_t       s = { 0 };
    answer_t     *answers, want;
    request_t     r;
    moe_err_t     err;
    moe_stats_t   stats;

    use_model(models[0]);
    answers = calloc(MAX_JOBS, sizeof(answer_t));

    /* a stop id is sampled, counted and told */
    make_request(&r, 0);
    alone(&r, &want);
    open_model(&s, answers);
    r.stop_id = want.ids[5];
    r.job.min_tokens = 0;
    submit(&r, answers, 0);
    run_all(answers, &s);

    for (n = 0; want.ids[n] != want.ids[5]; n++) { /* void */ }

    assert_int_equal(answers[0].finish, MOE_FINISH_STOP);
    assert_int_equal(answers[0].nids, n + 1);

    /* but for ignore_eos */
    r.job.flags |= MOE_JOB_IGNORE_EOS;
    submit(&r, answers, 0);
    run_all(answers, &s);
    assert_int_equal(answers[0].finish, MOE_FINISH_LENGTH);
    assert_int_equal(answers[0].nids, r.job.max_tokens);

    /* nothing to generate */
    make_request(&r, 0);
    r.job.max_tokens = 0;
    submit(&r, answers, 0);
    assert_int_equal(answers[0].ended, 1);
    assert_int_equal(answers[0].finish, MOE_FINISH_LENGTH);
    assert_int_equal(answers[0].started, 1);

    /* to the end of the context */
    make_request(&r, 0);
    r.job.max_tokens = MOE_UNLIMITED;
    r.job.flags = MOE_JOB_IGNORE_EOS;
    close_model();
    s.pages = 6;
    open_model(&s, answers);
    submit(&r, answers, 0);
    run_all(answers, &s);
    assert_int_equal(answers[0].finish, MOE_FINISH_LENGTH);
    assert_int_equal(answers[0].nids, moe_gen_context(gen) - r.nprompt);

    /* a longer prompt is refused */
    r.job.prompts[0].n = moe_gen_context(gen);
    submit(&r, answers, 0);
    assert_int_equal(answers[0].status, 400);
    assert_int_equal(answers[0].started, 0);

    /* and one of ids that are none */
    make_request(&r, 0);
    r.prompt[3] = vocab;
    submit(&r, answers, 0);
    assert_int_equal(answers[0].status, 400);

    /* cancelled before and after it began, and without credit */
    make_request(&r, 0);
    submit(&r, answers, 0);
    moe_gen_cancel(gen, answers[0].job);
    assert_int_equal(answers[0].status, 499);

    submit(&r, answers, 0);
    assert_int_equal(moe_gen_step(gen, &err), 1);
    assert_int_equal(moe_gen_step(gen, &err), 1);
    moe_gen_cancel(gen, answers[0].job);
    assert_int_equal(answers[0].status, 499);
    assert_int_equal(answers[0].nids, 2);

    r.job.credit = MOE_TOKEN_CREDIT;
    submit(&r, answers, 0);
    assert_int_equal(moe_gen_step(gen, &err), 1);
    assert_int_equal(moe_gen_step(gen, &err), 0);
    assert_int_equal(answers[0].nids, 1);
    moe_gen_cancel(gen, answers[0].job);

    memset(&stats, 0, sizeof(stats));
    moe_gen_stats(gen, &stats);
    assert_int_equal(stats.cancelled, 3);
    assert_int_equal(stats.refused, 2);
    assert_int_equal(stats.finished, 1);
    assert_int_equal(stats.accepted, 4);
    assert_int_equal(stats.kv_pages_used, 0);

    close_model();
    free(answers);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_answer),
        cmocka_unit_test(test_prompt_logprobs),
        cmocka_unit_test(test_random_life),
        cmocka_unit_test(test_ends)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
