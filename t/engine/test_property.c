/*
 * An answer depends on its request alone: random requests in random company
 * give what each gives alone in an empty engine.
 *
 * A world is a model, a scheduler's limits and some jobs that come, go on,
 * lack credit and are cancelled at random.  Its number is its seed.
 * MOE_PROPERTY_WORLDS says how many, MOE_PROPERTY_FIRST which is the first.
 *
 * Run from the root of the repository.
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


#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED  1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED  1
#endif
#endif

#ifdef SANITIZED
#define WORLDS     12
#else
#define WORLDS     100
#endif

#define JOBS       20          /* a world */
#define CONTEXT    192
#define MAX_TOP    4
#define RECORD     (2 * (MAX_TOP + 1))
#define PAGES      (CONTEXT / MOE_PAGE_SIZE)
#define MODELS     3


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
    uint32_t         nlp;                       /* words */
    uint32_t         nlp_echo;
    uint32_t         echo[CONTEXT];
    uint32_t         ids[CONTEXT];
    uint32_t         lp[CONTEXT * RECORD];      /* id, bits */
    uint32_t         lp_echo[CONTEXT * RECORD];
} answer_t;

typedef struct {
    uint32_t         nprompt;
    uint32_t         prompt[CONTEXT];
    uint32_t         stop_ids[3];
    moe_bias_t       bias[3];
    char             salt[8];
    moe_job_t        job;
    uint32_t         from;          /* ids of the answer it goes on from */
    uint32_t         cancel;        /* once it has so many ids; 0: never */
    uint32_t         least;         /* of its prompt in the cache, and */
    uint32_t         most;          /* at most, when it was begun */
    moe_gen_job_t   *handle;
    unsigned         submitted:1;
    answer_t         want;
    answer_t         got;
} job_t;

typedef struct {
    uint32_t         number;
    uint32_t         pages;
    uint32_t         salts;
    uint32_t         live;          /* jobs at a time, at most */
    uint32_t         alike;         /* prompts that begin alike, of 4 */
    int              mean;          /* with credit */
    job_t            jobs[JOBS];
    uint32_t         shared[4][CONTEXT / 2];
    uint32_t         nshared[4];
} world_t;


static const char *const  dirs[MODELS] = {
    "t/golden/v3-odd", "t/golden/qwen3-moe", "models/demo"
};

static moe_model_t  *models[MODELS];
static moe_model_t  *model;
static moe_gen_t    *gen;
static uint32_t      vocab;
static uint64_t      rng;
static world_t      *world;

/* seen in all worlds */
static struct {
    uint32_t         finished;
    uint32_t         cancelled;
    uint32_t         exact;
    uint32_t         hits;
    uint64_t         preempted;
    uint64_t         drafts;
    uint64_t         accepted;
} seen;


static uint32_t
draw(uint32_t n)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;

    return (uint32_t) ((rng >> 33) % n);
}


static float
draw_float(float from, float to)
{
    return from + (to - from) * (float) draw(1001) / 1000.0f;
}


/* ids, roles and salt of whole pages that both have in common, in tokens */
static uint32_t
in_common(const job_t *a, uint32_t na, const job_t *b, uint32_t nb)
{
    uint32_t  i, n, ida, idb;

    if (strcmp(a->salt, b->salt) != 0) {
        return 0;
    }

    n = na < nb ? na : nb;

    for (i = 0; i < n; i++) {
        if ((i < a->nprompt) != (i < b->nprompt)) {
            break;
        }

        ida = i < a->nprompt ? a->prompt[i] : a->want.ids[i - a->nprompt];
        idb = i < b->nprompt ? b->prompt[i] : b->want.ids[i - b->nprompt];

        if (ida != idb) {
            break;
        }
    }

    return i / MOE_PAGE_SIZE * MOE_PAGE_SIZE;
}


/*
 * What the cache can have of a job that begins now: what others are known to
 * have computed, if nothing was dropped, and all that they can have.
 */
static void
expect_cached(job_t *j)
{
    uint32_t  i, n, known, all, length;
    job_t    *other;

    j->least = 0;
    j->most = 0;

    length = j->nprompt + j->from - 1;

    /* all of it is computed, or, ended by what it goes on from, nothing */
    if (((j->job.flags & MOE_JOB_PROMPT_LOGPROBS) && j->from == 0)
        || j->handle == NULL)
    {
        return;
    }

    for (i = 0; i < JOBS; i++) {
        other = &world->jobs[i];

        if (!other->submitted || other == j) {
            continue;
        }

        all = other->nprompt + other->from + other->got.nids;
        known = other->got.nids ? all - 1 : 0;

        n = in_common(j, length, other, known);
        j->least = n > j->least ? n : j->least;
        n = in_common(j, length, other, all + 1 < CONTEXT ? all + 1 : all);
        j->most = n > j->most ? n : j->most;
    }

    j->least = j->least < j->nprompt ? j->least : j->nprompt;
    j->most = j->most < j->nprompt ? j->most : j->nprompt;
}


static answer_t *
answer_of(void *ctx, uint64_t tag)
{
    return ctx != NULL ? ctx : &world->jobs[tag].got;
}


static void
on_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
    answer_t  *a;

    a = answer_of(ctx, tag);
    assert_int_equal(a->started++, 0);
    a->cached = s->cached_tokens;

    if (ctx == NULL) {
        assert_int_equal(s->prompt_tokens, world->jobs[tag].nprompt);
        expect_cached(&world->jobs[tag]);
    }
}


static void
put_records(const moe_delta_t *d, uint32_t *to, uint32_t *n)
{
    moe_lp_t     lp;
    const void  *p, *end;

    p = d->lp;
    end = (const uint8_t *) d->lp + d->lp_size;

    while (p != end) {
        assert_int_equal(moe_lp_read(&lp, &p, end), MOE_JOBQ_OK);
        assert_true(*n + 2 <= CONTEXT * RECORD);
        to[*n] = lp.id;
        memcpy(&to[*n + 1], &lp.logprob, sizeof(uint32_t));
        *n += 2;
    }
}


static void
on_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    answer_t  *a;

    a = answer_of(ctx, tag);

    assert_int_equal(a->started, 1);
    assert_int_equal(a->ended, 0);
    assert_int_equal(a->finish, MOE_FINISH_NONE);
    assert_true(a->necho + a->nids + d->nids <= CONTEXT);

    a->finish = d->finish;

    if (d->flags & MOE_DELTA_ECHO) {
        memcpy(a->echo + a->necho, d->ids, d->nids * 4);
        a->necho += d->nids;
        put_records(d, a->lp_echo, &a->nlp_echo);
        return;
    }

    if (d->nids > 0) {
        memcpy(a->ids + a->nids, d->ids, d->nids * 4);
    }

    a->nids += d->nids;
    put_records(d, a->lp, &a->nlp);
    a->completion = d->completion_tokens;
    assert_int_equal(d->completion_tokens, d->total_tokens);
}


static void
on_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    answer_t  *a;

    a = answer_of(ctx, tag);
    assert_int_equal(a->ended++, 0);
    a->status = e->status;

    if (ctx == NULL) {
        world->jobs[tag].handle = NULL;
    }

    if (e->status == 200) {
        assert_int_not_equal(a->finish, MOE_FINISH_NONE);
        assert_int_equal(e->completion_tokens, a->completion);
        assert_int_equal(e->cached_tokens, a->cached);
    }
}


/* events go to a, or where it is NULL to the world's jobs */
static void
begin(const moe_gen_options_t *o, uint32_t pages, answer_t *a)
{
    moe_err_t                    err;
    static const moe_gen_sink_t  sink = { on_started, on_delta, on_end };

    if (moe_model_kv_resize(model, pages, &err) != 0) {
        fail_msg("%s", err.text);
    }

    gen = moe_gen_create(model, o, &sink, a, &err);
    if (gen == NULL) {
        fail_msg("%s", err.text);
    }
}


/* the answer in an empty engine, which has no other job */
static void
alone(job_t *j)
{
    int                rc;
    moe_err_t          err;
    moe_gen_options_t  o = { .max_context = CONTEXT,
                             .draft = MOE_DRAFT_OFF };

    memset(&j->want, 0, sizeof(answer_t));
    begin(&o, PAGES, &j->want);
    (void) moe_gen_submit(gen, &j->job, 0);

    do {
        rc = moe_gen_step(gen, &err);
        assert_true(rc >= 0);
    } while (rc > 0);

    moe_gen_destroy(gen);

    assert_int_equal(j->want.status, 200);
    assert_int_equal(j->want.ended, 1);
    assert_int_equal(j->want.cached, 0);
}


/* a beginning that others have too, or a turn that was answered, and more */
static void
make_prompt(job_t *j, uint32_t number)
{
    uint32_t      i, n;
    const job_t  *other;

    n = 0;

    if (number > 0 && draw(4) == 0) {
        other = &world->jobs[draw(number)];

        if (other->nprompt + other->want.nids < CONTEXT / 2) {
            memcpy(j->prompt, other->prompt, other->nprompt * 4);
            n = other->nprompt;
            memcpy(j->prompt + n, other->want.ids, other->want.nids * 4);
            n += other->want.nids;
        }

    } else if (draw(4) < world->alike) {
        i = draw(4);
        n = world->nshared[i];
        memcpy(j->prompt, world->shared[i], n * 4);
    }

    j->nprompt = n + 1 + draw(draw(3) ? 8 : CONTEXT / 3);

    for (i = n; i < j->nprompt; i++) {
        j->prompt[i] = draw(vocab);
    }
}


static void
make_sampling(job_t *j)
{
    uint32_t    i;
    moe_job_t  *job;

    job = &j->job;

    for (i = 0; i < 3; i++) {
        j->stop_ids[i] = draw(vocab);
        j->bias[i].id = draw(vocab);
        j->bias[i].bias = draw_float(-6.0f, 6.0f);
    }

    job->temperature = draw(3) ? draw_float(0.2f, 1.5f) : 0.0f;
    job->top_p = draw(3) ? 1.0f : draw_float(0.3f, 1.0f);
    job->min_p = draw(4) ? 0.0f : draw_float(0.0f, 0.2f);
    job->top_k = draw(3) ? 0 : (int32_t) draw(50);
    job->repetition = draw(3) ? 1.0f : draw_float(0.8f, 1.4f);
    job->presence = draw(3) ? 0.0f : draw_float(-1.0f, 1.0f);
    job->frequency = draw(3) ? 0.0f : draw_float(-1.0f, 1.0f);
    job->min_tokens = draw(3) ? 0 : draw(12);
    job->stop_ids = j->stop_ids;
    job->nstop_ids = draw(4);
    job->bias = j->bias;
    job->nbias = draw(2) ? 0 : draw(4);
    job->choice = draw(3);
    job->seed = draw(100);
}


static void
make_job(uint32_t number)
{
    job_t      *j;
    moe_job_t  *job;

    j = &world->jobs[number];
    job = &j->job;

    memset(j, 0, sizeof(job_t));
    make_prompt(j, number);
    make_sampling(j);
    snprintf(j->salt, sizeof(j->salt), "%.*u", (int) draw(2),
             draw(world->salts));

    job->kind = MOE_JOB_IDS;
    job->n = 1;
    job->max_tokens = draw(12) ? 1 + draw(draw(2) ? 8 : 48) : MOE_UNLIMITED;
    job->flags = draw(2) ? MOE_JOB_LOGPROBS : 0;
    job->flags |= draw(8) ? 0 : MOE_JOB_PROMPT_LOGPROBS;
    job->flags |= draw(8) ? 0 : MOE_JOB_IGNORE_EOS;
    job->top_logprobs = draw(MAX_TOP + 1);
    job->priority = (int32_t) draw(3) - 1;
    job->credit = 1u << 20;
    job->nprompts = 1;
    job->prompts[0].is_ids = 1;
    job->prompts[0].n = j->nprompt;
    job->prompts[0].data = j->prompt;
    job->salt.data = j->salt;
    job->salt.len = (uint32_t) strlen(j->salt);

    if ((job->flags & MOE_JOB_PROMPT_LOGPROBS) && draw(6) == 0) {
        job->max_tokens = 0;
    }

    alone(j);

    if (draw(6) == 0) {
        j->from = draw(j->want.nids + 1);
        job->nconts = 1;
        job->conts[0].choice = job->choice;
        job->conts[0].ids = j->want.ids;
        job->conts[0].nids = j->from;
    }

    if (world->mean) {
        job->credit = draw(4) * MOE_TOKEN_CREDIT;
    }

    j->cancel = draw(8) ? 0 : 1 + draw(10);
}


static void
make_world(moe_gen_options_t *o, uint32_t *threads)
{
    uint32_t  i, k;

    world->salts = 1 + draw(3);
    world->alike = draw(5);
    world->live = draw(5) ? 1 + draw(JOBS) : 1;
    world->mean = draw(3) == 0;
    world->pages = draw(2) ? PAGES + draw(PAGES * 2) : PAGES * (JOBS + 1);
    *threads = draw(8) ? 1 : 2;

    memset(o, 0, sizeof(*o));
    o->max_context = CONTEXT;
    o->max_running = draw(3) ? 1 + draw(12) : 0;
    o->step_tokens = draw(3) ? 1 + draw(90) : 0;
    o->prefill_chunk = draw(3) ? 1 + draw(70) : 0;
    o->step_ms = draw(2);
    o->draft = (moe_draft_e) draw(3);

    for (i = 0; i < 4; i++) {
        world->nshared[i] = draw(CONTEXT / 2);

        for (k = 0; k < world->nshared[i]; k++) {
            world->shared[i][k] = draw(vocab);
        }
    }

    for (i = 0; i < JOBS; i++) {
        make_job(i);
    }
}


/* what came of a job, be it cut short, is what it says alone */
static void
check_answer(const job_t *j)
{
    int              whole, echo;
    uint32_t         skip, record;
    const answer_t  *got, *want;

    got = &j->got;
    want = &j->want;
    whole = got->status == 200;
    echo = (j->job.flags & MOE_JOB_PROMPT_LOGPROBS) && j->from == 0;
    record = j->job.flags & MOE_JOB_LOGPROBS
             ? 2 * (1 + j->job.top_logprobs) : 0;
    skip = j->from * record;

    if (got->ended != 1
        || (!whole && (got->status != 499 || j->cancel == 0))
        || (whole && (got->finish != want->finish
                      || got->completion != want->completion
                      || got->nids + j->from != want->nids
                      || (echo && got->necho != want->necho)))
        || got->nids + j->from > want->nids
        || got->nlp != got->nids * record
        || (!echo && got->necho != 0)
        || got->necho > want->necho
        || got->nlp_echo > want->nlp_echo
        || memcmp(got->ids, want->ids + j->from, got->nids * 4) != 0
        || memcmp(got->lp, want->lp + skip, got->nlp * 4) != 0
        || memcmp(got->echo, want->echo, got->necho * 4) != 0
        || memcmp(got->lp_echo, want->lp_echo, got->nlp_echo * 4) != 0)
    {
        fail_msg("world %u, job %u: another answer than alone: status %u, "
                 "%u ids (and %u before) of %u, finish %u for %u",
                 world->number, (unsigned) (j - world->jobs), got->status,
                 got->nids, j->from, want->nids, got->finish, want->finish);
    }

    seen.finished += whole;
    seen.cancelled += !whole;
}


/* exact where nothing can have been dropped and others have come so far */
static void
check_cached(const job_t *j)
{
    const answer_t  *got;

    got = &j->got;

    if (!got->started) {
        return;
    }

    if (got->cached > j->most
        || (world->pages >= PAGES * JOBS && got->cached < j->least))
    {
        fail_msg("world %u, job %u: %u tokens cached, %u to %u can be",
                 world->number, (unsigned) (j - world->jobs), got->cached,
                 j->least, j->most);
    }

    seen.exact += world->pages >= PAGES * JOBS && j->least == j->most
                  && j->least > 0;
    seen.hits += got->cached > 0;
}


static void
submit(job_t *j)
{
    j->submitted = 1;
    j->handle = moe_gen_submit(gen, &j->job, (uint64_t) (j - world->jobs));
}


static void
live(void)
{
    uint32_t   i, next, alive, ended, turns;
    job_t     *j;
    moe_err_t  err;

    next = 0;
    ended = 0;

    for (turns = 0; ended < JOBS; turns++) {
        assert_true(turns < 100000);

        alive = 0;
        ended = 0;

        for (i = 0; i < next; i++) {
            j = &world->jobs[i];
            alive += j->handle != NULL;
            ended += j->got.ended;

            if (j->handle == NULL) {
                continue;
            }

            if (draw(4) == 0) {
                moe_gen_credit(gen, j->handle, draw(3) * MOE_TOKEN_CREDIT);
            }

            if (j->cancel && (j->got.nids >= j->cancel || draw(40) == 0)) {
                moe_gen_cancel(gen, j->handle);
            }
        }

        while (next < JOBS && alive < world->live && draw(3) > 0) {
            submit(&world->jobs[next++]);
            alive++;
        }

        if (moe_gen_step(gen, &err) < 0) {
            fail_msg("world %u: %s", world->number, err.text);
        }
    }
}


static void
run_world(uint32_t number)
{
    uint32_t           i, threads;
    moe_err_t          err;
    moe_stats_t        stats;
    moe_gen_options_t  o;

    rng = number * 7919ull;
    memset(world, 0, sizeof(*world));
    world->number = number;
    /* the last is by far the slowest */
    model = models[number % 5 == 4 ? MODELS - 1 : number % (MODELS - 1)];
    vocab = moe_model_vocab_size(model);

    make_world(&o, &threads);
    assert_int_equal(moe_model_set_threads(model, threads, &err), 0);

    begin(&o, world->pages, NULL);
    live();

    for (i = 0; i < JOBS; i++) {
        check_answer(&world->jobs[i]);
        check_cached(&world->jobs[i]);
    }

    memset(&stats, 0, sizeof(stats));
    moe_gen_stats(gen, &stats);
    assert_int_equal(stats.accepted, JOBS);
    assert_int_equal(stats.finished + stats.cancelled, JOBS);
    assert_int_equal(stats.kv_pages_used, 0);

    assert_true(stats.draft_accepted <= stats.draft_tokens);

    if (o.draft == MOE_DRAFT_OFF) {
        assert_int_equal(stats.draft_tokens, 0);
    }

    seen.drafts += stats.draft_tokens;
    seen.accepted += stats.draft_accepted;
    seen.preempted += moe_gen_preempted(gen);
    moe_gen_destroy(gen);
    assert_int_equal(moe_model_set_threads(model, 1, &err), 0);
}


static uint32_t
from_environment(const char *name, uint32_t value)
{
    const char  *text;

    text = getenv(name);

    return text != NULL ? (uint32_t) strtoul(text, NULL, 10) : value;
}


static void
test_random_requests(void **state)
{
    uint32_t             i, first, n;
    moe_err_t            err;
    moe_model_options_t  o = { .threads = 1, .mtp = 1 };

    first = from_environment("MOE_PROPERTY_FIRST", 0);
    n = from_environment("MOE_PROPERTY_WORLDS", WORLDS);

    world = malloc(sizeof(*world));
    assert_non_null(world);

    for (i = 0; i < MODELS; i++) {
        models[i] = moe_model_open(dirs[i], &o, NULL, NULL, &err);
        if (models[i] == NULL) {
            fail_msg("%s", err.text);
        }
    }

    for (i = first; i < first + n; i++) {
        run_world(i);
    }

    print_message("worlds %u to %u: %u answers whole, %u cut short, %u with "
                  "a cached beginning (%u of them known to the token), %llu "
                  "preemptions, %llu of %llu drafts right\n", first,
                   first + n - 1, seen.finished,
                  seen.cancelled, seen.hits, seen.exact,
                  (unsigned long long) seen.preempted,
                  (unsigned long long) seen.accepted,
                  (unsigned long long) seen.drafts);

    if (n >= WORLDS) {
        assert_true(seen.finished > n * JOBS / 2);
        assert_true(seen.cancelled > n);
        assert_true(seen.preempted > n);
        assert_true(seen.exact > n / 4);
        assert_true(seen.accepted > n);
        assert_true(seen.drafts - seen.accepted > n);
    }

    for (i = 0; i < MODELS; i++) {
        moe_model_close(models[i]);
    }

    free(world);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random_requests)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
