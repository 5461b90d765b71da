/*
 * The pure functions of kernels/cuda: work lists, permutation, places in
 * pages, the router's choice.  Compiled for the host they are tested everywhere.
 */

#include "kernels_test.h"

#include "kernels/cuda/pages.h"
#include "kernels/cuda/permute.h"
#include "kernels/cuda/router.h"
#include "kernels/cuda/tiles.h"


/* every tile of every part once, in order */
static void
test_tiles(void **state)
{
    uint32_t     i, p, n, r, c, round, rows[MOE_TILE_PARTS];
    uint32_t     cols[MOE_TILE_PARTS], tr, tc;
    moe_tile_t   at;
    moe_tiles_t  t;

    for (round = 0; round < 200; round++) {
        tr = 1 + below(40);
        tc = 1 + below(300);
        n = 1 + below(MOE_TILE_PARTS);
        t.nparts = 0;

        for (p = 0; p < n; p++) {
            rows[p] = below(3) ? below(200) : 0;
            cols[p] = 1 + below(1000);
            moe_tiles_add(&t, rows[p], cols[p], tr, tc);
        }

        i = 0;

        for (p = 0; p < n; p++) {
            for (r = 0; r * tr < rows[p]; r++) {
                for (c = 0; c * tc < cols[p]; c++, i++) {
                    at = moe_tiles_find(&t, i);
                    assert_int_equal(at.part, p);
                    assert_int_equal(at.row, r);
                    assert_int_equal(at.col, c);
                }
            }
        }

        assert_int_equal(moe_tiles_count(&t), i);
    }
}


/* a permutation that sorts by expert and keeps the order within one; who has
 * no expert goes nowhere */
static void
test_permutation(void **state)
{
    uint32_t  i, e, n, n_experts, round, before, there;
    uint32_t  experts[500], at[500], first[65], slot[500];

    for (round = 0; round < 300; round++) {
        n = below(500);
        n_experts = 1 + below(64);

        there = 0;

        for (i = 0; i < n; i++) {
            experts[i] = below(n_experts + round % 2);
            experts[i] = below(9) ? experts[i] : UINT32_MAX;
            there += experts[i] < n_experts;
        }

        assert_int_equal(moe_permutation(experts, n, n_experts, first, at),
                         there);
        assert_int_equal(first[0], 0);
        assert_int_equal(first[n_experts], there);
        memset(slot, 0xff, sizeof(slot));

        for (i = 0; i < n; i++) {
            if (experts[i] >= n_experts) {
                assert_int_equal(at[i], MOE_NO_ROW);
                continue;
            }

            assert_in_range(at[i], first[experts[i]],
                            first[experts[i] + 1] - 1);
            assert_int_equal(slot[at[i]], UINT32_MAX);
            slot[at[i]] = i;
        }

        for (e = 0; e < n_experts; e++) {
            before = 0;
            for (i = first[e]; i < first[e + 1]; i++) {
                assert_true(i == first[e] || slot[i] > before);
                before = slot[i];
            }
        }
    }
}


/* every row of every expert in one tile, in order, and no more tiles than are
 * said */
static void
test_tile_rows(void **state)
{
    uint32_t  round, n, e, t, i, expert, row, nrows, height, rows;
    uint32_t  first[41], tiles[41];

    for (round = 0; round < 300; round++) {
        n = 1 + below(40);
        height = round % 2 ? MOE_TILE_FEW : MOE_TILE_MANY;
        first[0] = 0;

        for (e = 0; e < n; e++) {
            rows = below(3) ? below(round % 3 ? 9 : 90) : 0;
            first[e + 1] = first[e] + rows;
        }

        moe_tiles_before(first, n, height, tiles);
        assert_true(tiles[n] <= moe_tiles_most(first[n], n, height));
        t = 0;
        expert = row = nrows = 0;

        for (e = 0; e < n; e++) {
            for (i = first[e]; i < first[e + 1]; i += nrows, t++) {
                assert_true(moe_tile_rows(first, tiles, n, height, t, &expert,
                                          &row, &nrows));
                assert_int_equal(expert, e);
                assert_int_equal(row, i);
                assert_in_range(nrows, 1, height);
                assert_true(row + nrows <= first[e + 1]);
            }
        }

        assert_int_equal(t, tiles[n]);
        assert_false(moe_tile_rows(first, tiles, n, height, t, &expert, &row,
                                   &nrows));
    }
}


/* as a block finds places: its slots' ranks beside those of slots before */
static void
test_equal_before(void **state)
{
    uint32_t  i, n, block, begin, experts[300], at[300], first[8], had[7];

    for (block = 1; block < 300; block += 1 + below(40)) {
        n = 1 + below(300);

        for (i = 0; i < n; i++) {
            experts[i] = below(7);
        }

        moe_permutation(experts, n, 7, first, at);
        memset(had, 0, sizeof(had));

        for (begin = 0; begin < n; begin += block) {
            for (i = begin; i < n && i < begin + block; i++) {
                assert_int_equal(at[i], first[experts[i]] + had[experts[i]]
                                 + moe_equal_before(experts + begin,
                                                    i - begin));
            }

            while (i > begin) {
                had[experts[--i]]++;
            }
        }
    }
}


/* keys and values of a page lie side by side without a gap, and nowhere else */
static void
test_pages(void **state)
{
    size_t    k_row, v_row, want;
    uint32_t  h, i, round;
    moe_kv_t  kv;

    static const moe_wtype_e  types[] = {
        MOE_W_F32, MOE_W_BF16, MOE_W_I8_KV
    };

    for (round = 0; round < 60; round++) {
        memset(&kv, 0, sizeof(kv));
        kv.type = types[round % 3];
        kv.latent = round / 3 % 2;
        kv.heads = kv.latent ? 1 : 1 + below(8);
        kv.k_dim = 1 + below(600);
        kv.v_dim = kv.latent ? 1 + below(kv.k_dim) : 1 + below(600);
        kv.stride = 1000003;

        k_row = moe_kv_row(kv.type, kv.k_dim);
        v_row = moe_kv_row(kv.type, kv.v_dim);
        want = 5 * kv.stride;

        for (h = 0; h < kv.heads; h++) {
            for (i = 0; i < MOE_KV_PAGE; i++, want += k_row) {
                assert_int_equal(moe_page_key(&kv, 5, h, i), want);

                if (kv.latent) {
                    assert_int_equal(moe_page_value(&kv, 5, h, i), want);
                }
            }
        }

        for (h = 0; !kv.latent && h < kv.heads; h++) {
            for (i = 0; i < MOE_KV_PAGE; i++, want += v_row) {
                assert_int_equal(moe_page_value(&kv, 5, h, i), want);
            }
        }
    }
}


/* the keys that are seen, one by one */
static void
test_page_sees(void **state)
{
    uint32_t  pos, window, t, key, from, end, sees, seen;

    for (window = 0; window < 40; window++) {
        for (pos = 0; pos < 100; pos++) {
            for (t = 0; t < 8; t++) {
                sees = (uint32_t) moe_page_sees(pos, window, t, &from, &end);

                for (key = 0; key < MOE_KV_PAGE; key++) {
                    seen = t * MOE_KV_PAGE + key <= pos
                           && (window == 0
                               || t * MOE_KV_PAGE + key + window > pos);
                    assert_int_equal(seen,
                                     sees && key >= from && key < end);
                }
            }

            t = moe_page_first_key(pos, window) / MOE_KV_PAGE;
            assert_true(moe_page_sees(pos, window, t, &from, &end));
        }
    }
}


/* as the plain set chooses, ties and groups and all */
static void
test_choice(void **state)
{
    float        x[64], weights[16], score[64];
    uint32_t     i, e, k, round, want[16], got[16], kept[64];
    moe_route_t  r;

    for (round = 0; round < 2000; round++) {
        memset(&r, 0, sizeof(r));
        r.score = MOE_ROUTE_CHOSEN;
        r.group = (moe_route_group_e) below(3);
        r.n_group = 1u << below(4);
        r.topk_group = 1 + below(r.n_group);
        r.n_experts = r.n_group * (1 + below(8));
        r.top_k = 1 + below(r.n_experts < 16 ? r.n_experts : 16);
        r.scale = 1;

        for (i = 0; i < r.n_experts; i++) {
            x[i] = below(2) ? (float) below(4) : random_float();
        }

        sets[0]->route(&ctx1, &r, x, 1, want, weights);

        if (r.group != MOE_ROUTE_PLAIN && r.topk_group < r.n_group) {
            moe_best_groups(&r, x, score, kept);
        }

        moe_best_of(x, r.n_experts, r.top_k, got);

        for (k = 0; k < r.top_k; k++) {
            e = got[k];
            assert_true(e < r.n_experts);
            assert_int_equal(e, want[k]);
        }
    }
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_permutation),
        cmocka_unit_test(test_tile_rows),
        cmocka_unit_test(test_equal_before),
        cmocka_unit_test(test_pages),
        cmocka_unit_test(test_page_sees),
        cmocka_unit_test(test_choice)
    };

    return cmocka_run_group_tests_name("cuda, indices", tests, setup,
                                       teardown);
}
