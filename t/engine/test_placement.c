/*
 * placement: the published algorithm.  The expected placements of the small
 * cases are worked out by hand from its steps; on random loads what it
 * promises is checked, and that replicas bring the skew down.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "ep/placement.h"


#define MAX  512


static uint64_t  seed = 0x2545f4914f6cdd1du;


static double
rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;

    return (double) (seed >> 11) / 9007199254740992.0;
}


static void
balance(const moe_placement_shape_t *s, const double *load, uint32_t *phy2log,
    uint32_t *replica, uint32_t *count)
{
    moe_err_t  err;

    if (moe_placement_balance(s, load, phy2log, replica, count, &err) != 0) {
        fail_msg("%s", err.text);
    }
}


/*
 * Global: 4 experts of loads 8 4 2 2 in 6 slots on 2 ranks.  Replicas: 8/1 is
 * the largest, then 8/2 = 4/1 and the lower index wins: expert 0 gets both.
 * Slots by load: 1 (4), 0a 0b 0c (8/3), 2 (2), 3 (2).  Rank 0 takes 1; rank 1
 * 0a and then, still the lighter with 2.67, 0b (5.33); rank 0 0c (6.67); rank
 * 1 2 (7.33) and is full; rank 0 3 (8.67).
 */

static void
test_global_by_hand(void **state)
{
    uint32_t                phy[6], rep[6], cnt[4];
    moe_placement_shape_t   s = { 4, 6, 1, 1, 2 };

    static const double     load[] = { 8, 4, 2, 2 };
    static const uint32_t   want[] = { 1, 0, 3, 0, 0, 2 };
    static const uint32_t   reps[] = { 0, 2, 0, 0, 1, 0 };

    balance(&s, load, phy, rep, cnt);

    assert_memory_equal(phy, want, sizeof(want));
    assert_memory_equal(rep, reps, sizeof(reps));
    assert_int_equal(cnt[0], 3);
    assert_int_equal(cnt[1] + cnt[2] + cnt[3], 3);
}


/*
 * Hierarchical: 8 experts in 4 groups on 2 nodes of 2 ranks, 12 slots.
 * Groups weigh 10 (0,1), 6 (2,3), 6 (4,5), 2 (6,7): node 0 takes group 0,
 * node 1 groups 1 and 2, node 0 group 3.  Node 0: experts 0 1 6 7 of loads
 * 9 1 1 1 in 6 slots, both replicas to expert 0: three of 3.
 */

static void
test_hierarchical_by_hand(void **state)
{
    uint32_t                i, phy[12], rep[12], cnt[8];
    moe_placement_shape_t   s = { 8, 12, 4, 2, 4 };

    static const double     load[] = { 9, 1, 3, 3, 3, 3, 1, 1 };

    balance(&s, load, phy, rep, cnt);

    assert_int_equal(cnt[0], 3);

    for (i = 0; i < 12; i++) {
        if (i < 6) {
            assert_true(phy[i] <= 1 || phy[i] >= 6);
        } else {
            assert_true(phy[i] >= 2 && phy[i] <= 5);
        }
    }

    /* node 1: 3 3 3 3, replicas to 2 and 3, packed 3 + 3/2 + 3/2 a rank */

    assert_int_equal(cnt[2], 2);
    assert_int_equal(cnt[3], 2);
    assert_true(fabs(moe_placement_skew(&s, load, phy, cnt)
                     - 7.0 / 6.0) < 1e-9);
}


static void
valid(const moe_placement_shape_t *s, const uint32_t *phy,
    const uint32_t *rep, const uint32_t *cnt)
{
    uint32_t  i, seen[MAX], sum;

    memset(seen, 0, sizeof(seen));
    sum = 0;

    for (i = 0; i < s->n_logical; i++) {
        assert_true(cnt[i] >= 1);
        sum += cnt[i];
    }

    assert_int_equal(sum, s->n_physical);

    for (i = 0; i < s->n_physical; i++) {
        assert_true(phy[i] < s->n_logical);
        assert_true(rep[i] < cnt[phy[i]]);
        seen[phy[i]]++;
    }

    for (i = 0; i < s->n_logical; i++) {
        assert_int_equal(seen[i], cnt[i]);
    }
}


static void
test_random_loads(void **state)
{
    double     load[MAX], was, now, sum_was, sum_now;
    uint32_t   i, k, phy[MAX], rep[MAX], cnt[MAX], plain[MAX], one[MAX];

    static const moe_placement_shape_t  shapes[] = {
        { 256, 288, 8, 4, 32 },     /* DeepSeek's prefill, 32 spares */
        { 256, 288, 8, 18, 144 },   /* its decode: groups do not divide */
        { 64, 64, 1, 1, 8 },
        { 64, 72, 8, 2, 8 },
        { 7, 12, 1, 1, 3 },
        { 1, 4, 1, 1, 4 },
    };

    for (k = 0; k < sizeof(shapes) / sizeof(shapes[0]); k++) {

        moe_placement_shape_t  flat = shapes[k];

        sum_was = sum_now = 0;

        for (i = 0; i < 50 * MAX; i++) {

            if (i % MAX == 0 && i) {
                balance(&shapes[k], load, phy, rep, cnt);
                valid(&shapes[k], phy, rep, cnt);

                now = moe_placement_skew(&shapes[k], load, phy, cnt);
                assert_true(now >= 1 - 1e-9);

                /* beside it: experts in order, no replicas */

                flat.n_physical = flat.n_logical;

                if (flat.n_logical % flat.n_ranks == 0) {
                    was = moe_placement_skew(&flat, load, plain, one);
                    sum_was += was;
                    sum_now += now;
                }
            }

            /* log-normal, a few experts far above the rest */

            load[i % MAX] = exp(2 * (rnd() + rnd() + rnd() - 1.5));
            plain[i % MAX] = i % MAX;
            one[i % MAX] = 1;
        }

        assert_true(sum_now <= sum_was || sum_was == 0);
    }
}


static void
test_no_load(void **state)
{
    double                  load[8] = { 0 };
    uint32_t                phy[12], rep[12], cnt[8];
    moe_placement_shape_t   s = { 8, 12, 2, 2, 4 };

    balance(&s, load, phy, rep, cnt);
    valid(&s, phy, rep, cnt);
    assert_true(moe_placement_skew(&s, load, phy, cnt) == 1);
}


static void
test_refused(void **state)
{
    double       load[8] = { 1, 1, 1, 1, 1, 1, 1, 1 };
    size_t       i;
    uint32_t     phy[16], rep[16], cnt[8];
    moe_err_t    err;

    static const moe_placement_shape_t  bad[] = {
        { 8, 7, 1, 1, 7 }, { 8, 10, 1, 1, 4 }, { 8, 8, 3, 1, 4 },
        { 8, 8, 2, 3, 4 }, { 0, 8, 1, 1, 4 }, { 8, 8, 1, 1, 0 },
        { 8, 8, 0, 1, 4 }, { 8, 8, 1, 0, 4 },
    };

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(moe_placement_balance(&bad[i], load, phy, rep, cnt,
                                               &err), -1);
    }

    moe_placement_shape_t  s = { 8, 8, 1, 1, 4 };

    load[3] = NAN;
    assert_int_equal(moe_placement_balance(&s, load, phy, rep, cnt, &err),
                     -1);
    assert_non_null(strstr(err.text, "expert 3"));

    load[3] = -1;
    assert_int_equal(moe_placement_balance(&s, load, phy, rep, cnt, &err),
                     -1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_global_by_hand),
        cmocka_unit_test(test_hierarchical_by_hand),
        cmocka_unit_test(test_random_loads),
        cmocka_unit_test(test_no_load),
        cmocka_unit_test(test_refused),
    };

    seed ^= (uint64_t) time(NULL);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
