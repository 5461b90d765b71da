/*
 * What ranks tell each other of their experts' loads: counts, placements and
 * maps as they should be, and as a peer sends them that is broken or hostile.
 * The link is one whose messages are written here.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "ep/mpi_balance.h"


enum { RANKS = 2, LAYERS = 3, EXPERTS = 4, SLOTS = 3, MOST = 4096 };


/* one message of each kind, from the other rank */
static struct {
    uint8_t  *buf;                      /* where it is to come; NULL: nowhere */
    size_t    room;
    uint8_t   bytes[MOST];
    size_t    n;                        /* 0: none comes */
    size_t    got;
} in[MOE_LINK_KINDS];


static int
test_recv(moe_link_kind_e kind, uint32_t from, void *buf, size_t bytes)
{
    in[kind].buf = buf;
    in[kind].room = bytes;

    return 0;
}


static int
test_send(moe_link_kind_e kind, uint32_t to, const void *buf, size_t bytes)
{
    return 0;
}


/* as much of it as there is room for, as both links do it */
static int
test_pending(moe_link_way_e way, moe_link_kind_e kind, uint64_t *ranks)
{
    *ranks = 0;

    if (way == MOE_LINK_OUT) {
        return 0;
    }

    if (in[kind].buf == NULL || in[kind].n == 0) {
        *ranks = 3;
        return 0;
    }

    in[kind].got = in[kind].n < in[kind].room ? in[kind].n : in[kind].room;
    memcpy(in[kind].buf, in[kind].bytes, in[kind].got);
    in[kind].buf = NULL;
    in[kind].n = 0;

    return 0;
}


static size_t
test_got(moe_link_kind_e kind, uint32_t from)
{
    return in[kind].got;
}


static const char *
test_why(void)
{
    return "";
}


static const moe_link_t  link_ = {
    .version = MOE_LINK_VERSION,
    .recv = test_recv,
    .send = test_send,
    .pending = test_pending,
    .got = test_got,
    .why = test_why
};


static const moe_exchange_shape_t  shape = {
    .max_rows = 8,
    .hidden = 5,
    .n_layers = LAYERS,
    .n_experts = EXPERTS,
    .top_k = 2
};


static moe_mpi_balance_t *
create(uint32_t rank)
{
    moe_err_t                  err;
    moe_mpi_balance_t         *b;
    moe_mpi_balance_options_t  o = { .period_us = 1000000, .spare = 2 };

    memset(in, 0, sizeof(in));
    assert_int_equal(moe_mpi_balance_slots(&shape, RANKS, &o), SLOTS);
    b = moe_mpi_balance_create(&link_, rank, RANKS, &shape, &o, &err);
    assert_non_null(b);

    return b;
}


static int
turn(moe_mpi_balance_t *b, moe_ep_placement_t **next, moe_err_t *err)
{
    snprintf(err->text, sizeof(err->text), "%s", "");

    return moe_mpi_balance_turn(b, 0, 0, next, err);
}


/* a map as rank 0 sends it */
static moe_balance_map_t *
good_map(void)
{
    uint32_t            i;
    moe_balance_map_t  *map;

    map = (moe_balance_map_t *) (void *) in[MOE_LINK_MAP].bytes;
    memset(map, 0, MOST);
    map->figures.version = 1;
    map->figures.nodes = 1;
    map->figures.before = 1.5;
    map->figures.after = 1.01;
    map->figures.rows = 100;
    map->figures.looks = 2;
    map->layers = 2;
    map->experts = EXPERTS;
    map->ranks = RANKS;

    for (i = 0; i < 2 * (EXPERTS + RANKS); i++) {
        map->cells[i] = (uint16_t) (1000 + i);
    }

    in[MOE_LINK_MAP].n = moe_balance_map_bytes(2, EXPERTS, RANKS);

    return map;
}


static void
test_map(void **state)
{
    size_t                    i;
    moe_err_t                 err;
    moe_balance_map_t        *map;
    moe_mpi_balance_t        *b;
    moe_ep_placement_t       *next;
    const moe_balance_map_t  *is;

    static const struct {
        uint32_t     layers;
        uint32_t     experts;
        uint32_t     ranks;
        uint32_t     nodes;
        double       before;
        double       after;
        int          more;              /* bytes of the message */
        const char  *error;
    } bad[] = {
        { 4, 4, 2, 1, 1.5, 1, 0, "a map of 4 layers, 4 experts and 2 ranks "
          "where there are 3, 4 and 2" },
        { UINT32_MAX, 4, 2, 1, 1.5, 1, 0, "a map of 4294967295 layers" },
        { 2, 5, 2, 1, 1.5, 1, 0, "5 experts and 2 ranks where" },
        { 2, 4, 0, 1, 1.5, 1, 0, "4 experts and 0 ranks where" },
        { 3, 4, 2, 1, 1.5, 1, 0, "bytes that says it has" },
        { 2, 4, 2, 1, 1.5, 1, -1, "bytes that says it has" },
        { 2, 4, 2, 1, 1.5, 1, 2, "bytes that says it has" },
        { 2, 4, 2, 1, 1.5, 1, -1000, "a map of 1 bytes, whose beginning" },
        { 2, 4, 2, 1, 2.5, 1, 0, "a map with skews of 2.5 and 1 on 1 nodes, "
          "which 2 ranks cannot have" },
        { 2, 4, 2, 1, 1.5, -1, 0, "a map with skews of 1.5 and -1" },
        { 2, 4, 2, 1, 1.5, 1e300, 0, "a map with skews of 1.5 and 1e+300" },
        { 2, 4, 2, 0, 1.5, 1, 0, "on 0 nodes" },
        { 2, 4, 2, 3, 1.5, 1, 0, "on 3 nodes" }
    };

    /* as it should be */
    b = create(1);
    map = good_map();
    assert_int_equal(turn(b, &next, &err), 0);
    assert_null(next);
    is = moe_mpi_balance_map(b);
    assert_memory_equal(is, map, moe_balance_map_bytes(2, EXPERTS, RANKS));

    /* and what there was stays with what is none */
    good_map()->figures.before = NAN;
    assert_int_equal(turn(b, &next, &err), -1);
    assert_non_null(strstr(err.text, "skews of "));
    assert_true(moe_mpi_balance_map(b)->figures.before == 1.5);
    moe_mpi_balance_free(b);

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        b = create(1);
        map = good_map();
        map->layers = bad[i].layers;
        map->experts = bad[i].experts;
        map->ranks = bad[i].ranks;
        map->figures.nodes = bad[i].nodes;
        map->figures.before = bad[i].before;
        map->figures.after = bad[i].after;
        in[MOE_LINK_MAP].n = bad[i].more == -1000
                             ? 1 : in[MOE_LINK_MAP].n + (size_t) bad[i].more;

        assert_int_equal(turn(b, &next, &err), -1);

        if (strncmp(err.text, "exchange: rank 0 sends: ", 24) != 0
            || strstr(err.text, bad[i].error) == NULL)
        {
            fail_msg("\"%s\", not \"%s\"", err.text, bad[i].error);
        }

        assert_int_equal(moe_mpi_balance_map(b)->layers, 0);
        moe_mpi_balance_free(b);
    }
}


/* version, slots, and every slot's expert */
static uint32_t *
good_placement(void)
{
    uint32_t   i, *word;

    word = (uint32_t *) (void *) in[MOE_LINK_PLACEMENT].bytes;
    word[0] = 5;
    word[1] = SLOTS;

    for (i = 0; i < LAYERS * RANKS * SLOTS; i++) {
        word[2 + i] = i % EXPERTS;
    }

    in[MOE_LINK_PLACEMENT].n = (2 + LAYERS * RANKS * SLOTS)
                               * sizeof(uint32_t);

    return word;
}


static void
test_placement(void **state)
{
    size_t               i;
    uint32_t            *word;
    moe_err_t            err;
    moe_mpi_balance_t   *b;
    moe_ep_placement_t  *next;

    static const struct {
        uint32_t     at;
        uint32_t     word;
        int          more;
        const char  *error;
    } bad[] = {
        { 0, 0, 0, "rank 0 sends a placement of 80 bytes" },
        { 1, 0, 0, "rank 0 sends a placement of 80 bytes" },
        { 1, SLOTS + 1, 0, "rank 0 sends a placement of 80 bytes" },
        { 1, SLOTS - 1, 0, "rank 0 sends a placement of 80 bytes" },
        { 0, 5, -4, "rank 0 sends a placement of 76 bytes" },
        { 0, 5, -77, "rank 0 sends a placement of 3 bytes" },
        { 2, EXPERTS, 0, "layer 0, slot 0: no expert 4" },
        { 6, 0, 0, NULL },
        { 5, 0, 0, "layer 0: expert 3 is nowhere" }
    };

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        b = create(1);
        word = good_placement();
        word[bad[i].at] = bad[i].word;
        in[MOE_LINK_PLACEMENT].n += (size_t) bad[i].more;
        assert_int_equal(turn(b, &next, &err), bad[i].error ? -1 : 0);

        if (bad[i].error == NULL) {
            assert_non_null(next);
            assert_int_equal(next->version, 5);

        } else if (strstr(err.text, bad[i].error) == NULL) {
            fail_msg("\"%s\", not \"%s\"", err.text, bad[i].error);
        }

        moe_ep_placement_free(next);
        moe_mpi_balance_free(b);
    }
}


static void
test_counts(void **state)
{
    moe_err_t            err;
    moe_mpi_balance_t   *b;
    moe_ep_placement_t  *next;

    b = create(0);
    in[MOE_LINK_LOADS].n = LAYERS * EXPERTS * sizeof(uint64_t);
    assert_int_equal(turn(b, &next, &err), 0);

    in[MOE_LINK_LOADS].n = LAYERS * EXPERTS * sizeof(uint64_t) - 8;
    assert_int_equal(turn(b, &next, &err), -1);
    assert_string_equal(err.text,
                        "exchange: rank 1 sends 88 bytes of counts");
    moe_mpi_balance_free(b);
}


/* any bytes: refused, or a map that a page can be made of */
static void
test_any_map(void **state)
{
    int                       ok;
    uint32_t                  i, k, seed;
    moe_err_t                 err;
    moe_mpi_balance_t        *b;
    moe_ep_placement_t       *next;
    const moe_balance_map_t  *is;

    seed = 1;
    ok = 0;

    for (i = 0; i < 20000; i++) {
        b = create(1);
        good_map();

        for (k = 0; k < i % 4; k++) {
            seed = seed * 1664525 + 1013904223;
            in[MOE_LINK_MAP].bytes[(seed >> 8) % sizeof(moe_balance_map_t)]
                = (uint8_t) (seed >> 24);
        }

        if (turn(b, &next, &err) == 0) {
            is = moe_mpi_balance_map(b);
            assert_true(is->layers <= LAYERS);
            assert_true(is->figures.before <= RANKS + 0.001);
            assert_true(is->figures.after >= 0.999);
            ok++;
        }

        moe_mpi_balance_free(b);
    }

    assert_in_range(ok, 5000, 19000);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_map),
        cmocka_unit_test(test_placement),
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_any_map)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
