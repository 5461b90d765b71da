/*
 * balance: from counts in the segment to a placement on the board.  Loads
 * here are Zipf's: the heaviest expert of 16 has three tenths of the rows.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "ep/balance.h"
#include "ep/board.h"
#include "ep/shm_parts.h"


enum {
    LAYERS = 11,            /* the first is dense: nobody counts there */
    EXPERTS = 16,
    RANKS = 4,
    TOP_K = 2,
    GROUPS = 8,
    SECOND = 1000000
};


static const moe_exchange_shape_t  shape = {
    32, 8, LAYERS, EXPERTS, TOP_K, MOE_ROWS_F32, GROUPS
};


static moe_shm_t *
segment(void)
{
    moe_err_t   err;
    moe_shm_t  *shm;

    shm = moe_shm_create(&shape, RANKS, &err);

    if (shm == NULL) {
        fail_msg("%s", err.text);
    }

    return shm;
}


static moe_balance_t *
create_nodes(moe_shm_t *shm, uint32_t spare, uint32_t nodes)
{
    moe_err_t             err;
    moe_balance_t        *b;
    moe_balance_board_t   board;
    moe_balance_shape_t   of;

    moe_board_balance(shm, &of, &board);
    of.n_nodes = nodes;
    b = moe_balance_create(&of, &board, spare, SECOND, &err);

    if (b == NULL) {
        fail_msg("%s", err.text);
    }

    return b;
}


static moe_balance_t *
create(moe_shm_t *shm, uint32_t spare)
{
    return create_nodes(shm, spare, 1);
}


/* expert (e + shift) of a layer is the e-th most popular; all ranks have
 * rows */
static void
load(moe_shm_t *shm, uint32_t rows, uint32_t shift)
{
    uint32_t  e, i, n, r, l, ids[1];

    for (l = 1; l < LAYERS; l++) {
        for (e = 0; e < EXPERTS; e++) {
            ids[0] = (e + shift + l) % EXPERTS;
            n = rows / (e + 1);

            for (i = 0; i < n; i++) {
                r = i % RANKS;
                moe_board_count(shm, r, l, ids, 1);
            }
        }
    }
}


/* a whole look that begins at *now; what the last turn said */
static int
look(moe_balance_t *b, uint64_t *now)
{
    int        i, rc;
    moe_err_t  err;

    *now += SECOND;
    rc = moe_balance_turn(b, *now, &err);
    assert_int_equal(rc, 0);

    for (i = 0; i < LAYERS && rc == 0; i++) {
        rc = moe_balance_turn(b, *now, &err);
    }

    if (rc < 0) {
        fail_msg("%s", err.text);
    }

    return rc;
}


static void
test_skewed(void **state)
{
    uint16_t               *cells;
    moe_balance_map_t      *map;
    uint32_t                i, l, r, seq, e, count[EXPERTS];
    uint64_t                now;
    moe_shm_t              *shm;
    moe_err_t               err;
    moe_balance_t          *b;
    moe_ep_placement_t     *p;
    moe_balance_figures_t   f;

    shm = segment();
    b = create(shm, 4);
    now = 0;

    /* nothing was asked for, and the first look only sets the clock */
    assert_int_equal(moe_balance_turn(b, now, &err), 0);
    assert_int_equal(look(b, &now), 0);
    assert_int_equal(moe_board_seq(shm), 0);
    assert_null(moe_board_get(shm, 1, &seq, &err));

    load(shm, 400, 0);
    assert_int_equal(look(b, &now), 1);

    moe_balance_figures(b, &f);
    assert_int_equal(f.version, 1);

    /* plain: four experts in a row; with four replicas all but even */
    assert_true(f.before > 1.5);
    assert_true(f.after >= 1 && f.after < 1.05);

    p = moe_board_get(shm, 1, &seq, &err);
    assert_non_null(p);
    assert_int_equal(p->version, 1);
    assert_int_equal(p->n_local, 5);
    assert_int_equal(seq, moe_board_seq(shm));

    /* the most popular one of each layer has replicas, and the figures that
     * status shows are those of the placement; the first layer has no rows */
    map = malloc(moe_balance_map_bytes(LAYERS, EXPERTS, RANKS));
    moe_balance_map(b, map);
    assert_int_equal(map->figures.version, 1);
    assert_int_equal(map->layers, LAYERS - 1);
    assert_int_equal(map->experts, EXPERTS);
    assert_int_equal(map->ranks, RANKS);

    for (l = 1; l < LAYERS; l++) {
        memset(count, 0, sizeof(count));

        for (i = 0; i < RANKS * 5; i++) {
            count[p->expert[l * RANKS * 5 + i]]++;
        }

        for (e = 0; e < EXPERTS; e++) {
            assert_in_range(count[e], 1, count[l % EXPERTS]);
        }

        assert_true(count[l % EXPERTS] >= 2);

        cells = map->cells + (l - 1) * (EXPERTS + RANKS);
        assert_in_range(cells[l % EXPERTS], 287 * EXPERTS, 307 * EXPERTS);

        for (r = 0; r < RANKS; r++) {
            assert_in_range(cells[EXPERTS + r], 900, 1100);
        }
    }

    /* another epoch knows nothing of it */
    assert_null(moe_board_get(shm, 2, &seq, &err));
    assert_int_equal(err.text[0], '\0');

    free(map);
    moe_ep_placement_free(p);
    moe_balance_free(b);
    moe_shm_free(shm);
}


/* the same loads move nothing, others do, few rows say nothing */
static void
test_again(void **state)
{
    uint64_t                now;
    moe_shm_t              *shm;
    moe_balance_t          *b;
    moe_balance_figures_t   f;

    shm = segment();
    b = create(shm, 4);
    now = 0;

    assert_int_equal(look(b, &now), 0);
    load(shm, 400, 0);
    assert_int_equal(look(b, &now), 1);

    load(shm, 400, 0);
    assert_int_equal(look(b, &now), 0);
    moe_balance_figures(b, &f);
    assert_int_equal(f.version, 1);
    assert_true(f.before < 1.05 && f.after == f.before);

    load(shm, 20, 7);
    assert_int_equal(look(b, &now), 0);

    load(shm, 4000, 7);
    assert_int_equal(look(b, &now), 1);
    moe_balance_figures(b, &f);
    assert_int_equal(f.version, 2);
    assert_true(f.before > 1.2 && f.after < 1.1);

    moe_balance_free(b);
    moe_shm_free(shm);
}


/* placed over those that are left, and anew when all are there */
static void
test_members(void **state)
{
    uint32_t             i, l, seq;
    uint64_t             now;
    moe_shm_t           *shm;
    moe_err_t            err;
    moe_balance_t       *b;
    moe_ep_placement_t  *p;

    shm = segment();
    b = create(shm, 8);
    now = 0;

    assert_int_equal(look(b, &now), 0);

    moe_shm_publish(shm, 0xd);
    load(shm, 400, 3);
    assert_int_equal(look(b, &now), 1);

    p = moe_board_get(shm, 2, &seq, &err);
    assert_non_null(p);

    for (l = 0; l < LAYERS; l++) {
        for (i = 0; i < RANKS * p->n_local; i++) {
            if (i / p->n_local == 1) {
                assert_int_equal(p->expert[l * RANKS * p->n_local + i],
                                 MOE_SPREAD_NONE);
            } else {
                assert_in_range(p->expert[l * RANKS * p->n_local + i], 0,
                                EXPERTS - 1);
            }
        }
    }

    moe_ep_placement_free(p);

    moe_shm_publish(shm, 0xf);
    load(shm, 400, 3);
    assert_int_equal(look(b, &now), 1);
    p = moe_board_get(shm, 3, &seq, &err);
    assert_non_null(p);
    assert_int_equal(p->version, 2);

    moe_ep_placement_free(p);
    moe_balance_free(b);
    moe_shm_free(shm);
}


/* of every layer, on how many nodes the experts of a group are at most */
static uint32_t
group_nodes(const moe_ep_placement_t *p, uint32_t nodes)
{
    uint32_t  e, g, i, l, n, most, on[GROUPS];

    most = 0;
    n = p->n_ranks * p->n_local;

    for (l = 0; l < LAYERS; l++) {
        memset(on, 0, sizeof(on));

        for (i = 0; i < n; i++) {
            e = p->expert[l * n + i];

            if (e != MOE_SPREAD_NONE) {
                on[e / (EXPERTS / GROUPS)] |= 1u << i / (n / nodes);
            }
        }

        for (g = 0; g < GROUPS; g++) {
            e = (uint32_t) __builtin_popcount(on[g]);
            most = e > most ? e : most;
        }
    }

    return most;
}


/* a group stays on one node of two, also when each has lost a rank; over one
 * rank and two everything is as on one node */
static void
test_nodes(void **state)
{
    uint32_t                i, seq;
    uint64_t                now;
    moe_shm_t              *shm;
    moe_err_t               err;
    moe_balance_t          *b;
    moe_ep_placement_t     *p;
    moe_balance_figures_t   f;

    static const struct {
        uint32_t  members;
        uint32_t  nodes;
    } epochs[] = { { 0xf, 2 }, { 0x5, 2 }, { 0x7, 1 }, { 0xc, 1 },
                   { 0xf, 2 } };

    shm = segment();
    b = create_nodes(shm, 4, 2);
    now = 0;
    assert_int_equal(look(b, &now), 0);

    for (i = 0; i < sizeof(epochs) / sizeof(epochs[0]); i++) {
        if (i > 0) {
            moe_shm_publish(shm, epochs[i].members);
        }

        load(shm, 4000, 3 * i);
        assert_int_equal(look(b, &now), 1);
        moe_balance_figures(b, &f);
        assert_int_equal(f.nodes, epochs[i].nodes);
        assert_true(f.after < f.before);

        p = moe_board_get(shm, i + 1, &seq, &err);
        assert_non_null(p);

        if (f.nodes == 2) {
            assert_int_equal(group_nodes(p, 2), 1);
            assert_true(f.after < 1.25);
        }

        moe_ep_placement_free(p);
    }

    moe_balance_free(b);
    moe_shm_free(shm);
}


/* without nodes the same loads are placed across them */
static void
test_global(void **state)
{
    uint32_t             seq;
    uint64_t             now;
    moe_shm_t           *shm;
    moe_err_t            err;
    moe_balance_t       *b;
    moe_ep_placement_t  *p;

    shm = segment();
    b = create(shm, 4);
    now = 0;
    assert_int_equal(look(b, &now), 0);
    load(shm, 4000, 0);
    assert_int_equal(look(b, &now), 1);
    p = moe_board_get(shm, 1, &seq, &err);
    assert_int_equal(group_nodes(p, 2), 2);

    moe_ep_placement_free(p);
    moe_balance_free(b);
    moe_shm_free(shm);
}


/* a rank trusts nothing of it */
static void
test_hostile(void **state)
{
    uint32_t     i, seq, n, expert[LAYERS * RANKS * 8];
    moe_shm_t   *shm;
    moe_err_t    err;

    shm = segment();
    n = moe_board_slots(shm);
    assert_int_equal(n, EXPERTS);

    for (i = 0; i < LAYERS * RANKS * 8; i++) {
        expert[i] = i % EXPERTS;
    }

    moe_board_put(shm, 1, 1, 8, expert);
    expert[77] = EXPERTS;
    moe_board_put(shm, 1, 2, 8, expert);
    assert_null(moe_board_get(shm, 1, &seq, &err));
    assert_non_null(strstr(err.text, "no expert 16"));

    for (i = 0; i < LAYERS * RANKS * 8; i++) {
        expert[i] = i % (EXPERTS - 1);
    }

    moe_board_put(shm, 1, 3, 8, expert);
    assert_null(moe_board_get(shm, 1, &seq, &err));
    assert_non_null(strstr(err.text, "nowhere"));

    atomic_store(&((moe_shm_board_t *) (shm->base + shm->board))->n_local,
                 1000000);
    assert_null(moe_board_get(shm, 1, &seq, &err));
    assert_non_null(strstr(err.text, "slots"));

    atomic_store(&((moe_shm_board_t *) (shm->base + shm->board))->seq, 7);
    assert_null(moe_board_get(shm, 1, &seq, &err));
    assert_int_equal(err.text[0], '\0');

    moe_shm_free(shm);
}


static void
test_too_many(void **state)
{
    moe_err_t            err;
    moe_shm_t           *shm;
    moe_balance_board_t  board;
    moe_balance_shape_t  of;

    shm = segment();
    moe_board_balance(shm, &of, &board);
    assert_int_equal(of.n_groups, GROUPS);
    assert_null(moe_balance_create(&of, &board, EXPERTS * 3 + 1, SECOND,
                                   &err));
    assert_non_null(strstr(err.text, "replicas"));

    of.n_nodes = 3;
    assert_null(moe_balance_create(&of, &board, 0, SECOND, &err));
    assert_non_null(strstr(err.text, "nodes"));

    moe_balance_free(create(shm, EXPERTS * 3));
    moe_shm_free(shm);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_skewed),
        cmocka_unit_test(test_again),
        cmocka_unit_test(test_members),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_global),
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_too_many)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
