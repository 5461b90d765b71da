/*
 * When steps are run in two halves.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "ep/overlap.h"


static uint32_t  seed = 1;


static uint32_t
draw(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;

    return (seed >> 8) % n;
}


/* steps of so many rows, where halves take share of a whole one's time, both
 * with a tenth of noise, and now and then ten times that long; how many of
 * them were in halves */
static uint32_t
run(moe_overlap_t *o, uint32_t steps, uint32_t rows, double share)
{
    int       halves;
    double    us;
    uint32_t  i, n;

    n = 0;

    for (i = 0; i < steps; i++) {
        halves = moe_overlap_halves(moe_overlap_wish(o), rows);
        us = 10000 * (halves ? share : 1) * (1 + draw(100) / 1000.0);
        us *= draw(20) == 0 ? 10 : 1;
        n += halves;
        moe_overlap_seen(o, rows, halves, (uint64_t) us);
    }

    return n;
}


static void
test_chooses(void **state)
{
    uint32_t       n;
    moe_overlap_t  o;

    memset(&o, 0, sizeof(o));

    /* a look: as many of a kind as of the other */
    assert_int_equal(run(&o, 2 * MOE_OVERLAP_PAIRS, 20, 0.8),
                     MOE_OVERLAP_PAIRS);
    assert_int_equal(o.figures.looks, 1);
    assert_int_equal(o.figures.rows, 16);
    assert_true(o.figures.gain > 1.15 && o.figures.gain < 1.35);

    assert_int_equal(moe_overlap_figures(&o).sizes, 1 << 4);

    /* other sizes know nothing of it; one row is never in halves */
    assert_int_equal(run(&o, 1000, 16, 0.8), 1000);
    assert_int_equal(run(&o, 1000, 1, 0.8), 0);
    assert_int_equal(run(&o, 2 * MOE_OVERLAP_PAIRS, 32, 1.3),
                     MOE_OVERLAP_PAIRS);
    assert_int_equal(run(&o, 500, 63, 1.3), 0);
    assert_int_equal(run(&o, 500, 31, 0.8), 500);

    /* the network becomes faster: seen at the next look, which comes */
    n = run(&o, 5000, 31, 1.3);
    assert_true(n > 400 && n < 700);
    assert_int_equal(moe_overlap_halves(moe_overlap_wish(&o), 31), 0);
    assert_int_equal(moe_overlap_figures(&o).sizes, 0);

    /* halves that bring nothing are not worth it */
    memset(&o, 0, sizeof(o));
    n = run(&o, 100, 8, 1.0);
    assert_int_equal(n, MOE_OVERLAP_PAIRS);

    /* sizes without end are one */
    assert_int_equal(run(&o, 100, UINT32_MAX, 0.5), 100 - MOE_OVERLAP_PAIRS);
}


static void
test_told(void **state)
{
    moe_overlap_t  o;

    memset(&o, 0, sizeof(o));
    o.mode = MOE_OVERLAP_ON;
    assert_int_equal(run(&o, 100, 2, 2), 100);
    assert_int_equal(run(&o, 100, 1, 2), 0);
    assert_int_equal(run(&o, 100, 100000, 2), 100);
    assert_int_equal(moe_overlap_figures(&o).sizes, 0xfffe);

    o.mode = MOE_OVERLAP_OFF;
    assert_int_equal(run(&o, 100, 2, 0.5), 0);
    assert_int_equal(moe_overlap_figures(&o).sizes, 0);
    assert_int_equal(o.figures.looks, 0);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_chooses),
        cmocka_unit_test(test_told)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
