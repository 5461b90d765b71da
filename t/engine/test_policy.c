/*
 * What is decided by measured times, on times that are made up: how many rows
 * prompts have, and whether to draft.
 */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "draft.h"
#include "pace.h"


/* steps of a machine that takes 20 ms, and 1 ms for each row of a prompt at
 * first, more as its context grows */
static void
test_pace(void **state)
{
    int         i;
    double      ms;
    uint32_t    rows, context;
    moe_pace_t  p;

    memset(&p, 0, sizeof(p));
    assert_int_equal(moe_pace_rows(&p, 0), UINT32_MAX);
    assert_int_equal(moe_pace_rows(&p, 100000), MOE_PACE_FIRST);

    for (i = 0; i < 20; i++) {
        moe_pace_seen(&p, 0, 20000);
    }

    context = 0;

    for (i = 0; i < 400; i++) {
        rows = moe_pace_rows(&p, 100000);
        ms = 20 + rows * (1 + context / 10000.0);

        assert_true(rows >= MOE_PACE_LEAST);
        assert_true(ms < 110);
        assert_true(i < 40 || ms > 80);

        moe_pace_seen(&p, rows, (uint64_t) (ms * 1000));
        context += rows;
    }

    /* prompts go on also where the step is too slow without them */
    for (i = 0; i < 100; i++) {
        moe_pace_seen(&p, 0, 300000);
    }

    assert_int_equal(moe_pace_rows(&p, 100000), MOE_PACE_LEAST);

    /* and few rows, whose step is not theirs, are not what is learned from */
    ms = p.row;
    moe_pace_seen(&p, 3, 300000);
    assert_true(p.row == ms);
}


/* of so many steps those with drafts; a step takes us, with drafts more, and
 * then gives more ids */
static uint32_t
drafted(moe_draft_policy_t *p, uint32_t n, uint32_t steps, double more_us,
    uint32_t more_ids)
{
    int       on;
    uint32_t  i, count;

    count = 0;
    on = 0;

    for (i = 0; i < steps; i++) {
        count += (uint32_t) on;

        if (moe_draft_rests(p)) {
            on = 0;
            continue;
        }

        moe_draft_seen(p, n, (uint64_t) (1000 * (on ? more_us : 1)),
                       n * 10 + (on ? more_ids * n : 0));
        on = moe_draft_wanted(p, n);
    }

    return count;
}


static void
test_draft(void **state)
{
    moe_draft_policy_t  p;

    memset(&p, 0, sizeof(p));

    /* 1.5 times as long for 1.9 times as many */
    assert_true(drafted(&p, 1, 10000, 1.5, 9) > 9500);

    /* apart from that, 1.5 times as long for 1.2 times as many */
    assert_true(drafted(&p, 4, 500, 1.5, 2) < 50);
    assert_true(drafted(&p, 1, 1000, 1.5, 9) > 950);

    /* after some looks it rests */
    assert_true(drafted(&p, 4, 10000, 1.5, 2) < 100);
    assert_true(moe_draft_rests(&p));

    /* and looks again: it pays after all, and then no longer */
    assert_true(drafted(&p, 3, 50000, 1.5, 9) > 30000);
    assert_true(drafted(&p, 3, 100000, 1.5, 2) < 5000);

    /* not for many, nor for none */
    memset(&p, 0, sizeof(p));
    assert_int_equal(drafted(&p, MOE_DRAFT_BATCH, 100, 1, 9) > 0, 1);
    assert_int_equal(drafted(&p, MOE_DRAFT_BATCH + 1, 1000, 1, 9), 0);
    assert_int_equal(moe_draft_wanted(&p, 0), 0);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_draft)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
