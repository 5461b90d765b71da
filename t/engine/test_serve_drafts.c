#include "worker.h"


/*
 * Two engines, one that drafts whenever it can and one that never does, say
 * the same: text, ids, log-probabilities, finish and counts.
 */


static char      paths[2][64];
static pid_t     engines[2];
static worker_t  workers[2];


/* both answers, which are to be equal; the first stays the caller's */
static reply_t *
ask_both(moe_job_t *job, int *slot)
{
    int       other;
    uint32_t  i;
    reply_t  *a, *b;

    a = worker_ask(&workers[0], job, slot);
    b = worker_ask(&workers[1], job, &other);

    assert_sound(a, 200);
    assert_sound(b, 200);
    assert_int_equal(a->end.prompt_tokens, b->end.prompt_tokens);
    assert_int_equal(a->end.completion_tokens, b->end.completion_tokens);

    for (i = 0; i < job->n; i++) {
        assert_same(&a->choices[i], &b->choices[i]);
        assert_int_equal(a->choices[i].nlp, b->choices[i].nlp);
        assert_memory_equal(a->choices[i].logprobs, b->choices[i].logprobs,
                            a->choices[i].nlp * sizeof(float));
    }

    worker_forget(&workers[1], other);

    return a;
}


static void
make_job(moe_job_t *job, uint32_t i)
{
    job_chat(job, "[{\"role\":\"user\",\"content\":\"Tell me a story.\"}]");

    job->seed = i;
    job->max_tokens = i % 3 == 0 ? 7 + i : 60;
    job->n = 1 + i % 4;
    job->temperature = i % 2 ? 1.0f : 0.0f;
    job->presence = i % 5 == 1 ? 0.5f : 0.0f;
    job->repetition = i % 5 == 2 ? 1.2f : 1.0f;
    job->set |= MOE_SET_TEMPERATURE | MOE_SET_PRESENCE | MOE_SET_REPETITION;
    job->flags |= MOE_JOB_LOGPROBS;
    job->top_logprobs = i % 3;
}


static void
test_same(void **unused)
{
    int          slot, again;
    char         stop[2][8];
    size_t       at;
    uint32_t     i;
    reply_t     *r;
    moe_job_t    job;
    moe_stats_t  stats[2];

    for (i = 0; i < 10; i++) {
        make_job(&job, i);
        r = ask_both(&job, &slot);

        /* and stopped by what it says itself, in the midst of a step */
        make_job(&job, i);
        at = r->choices[0].ntext / 2;
        snprintf(stop[0], sizeof(stop[0]), "%.3s", r->choices[0].text + at);
        snprintf(stop[1], sizeof(stop[1]), "%.2s",
                 r->choices[0].text + at / 2);
        job_stop(&job, stop[0]);
        job_stop(&job, stop[1]);
        (void) ask_both(&job, &again);

        worker_forget(&workers[0], slot);
        worker_forget(&workers[0], again);
    }

    worker_stats(&workers[0], &stats[0]);
    worker_stats(&workers[1], &stats[1]);
    assert_int_equal(stats[0].draft_tokens, 0);
    assert_true(stats[1].draft_accepted > 100);
    assert_true(stats[1].draft_accepted <= stats[1].draft_tokens);
    assert_true(stats[1].steps < stats[0].steps);
}


static int
setup(void **unused)
{
    int                i;
    const char *const  args[2][3] = {
        { "--drafts", "off", NULL },
        { "--drafts", "always", NULL }
    };

    for (i = 0; i < 2; i++) {
        socket_name(paths[i], sizeof(paths[i]), i ? "always" : "off");
        engines[i] = engine_start(paths[i], args[i]);
        worker_ready(&workers[i], paths[i]);
    }

    return 0;
}


static int
teardown(void **unused)
{
    int  i, rc;

    for (i = 0, rc = 0; i < 2; i++) {
        worker_close(&workers[i]);
        rc |= engine_stop(engines[i]);
    }

    return rc;
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_same)
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
