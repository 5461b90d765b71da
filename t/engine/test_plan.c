/*
 * plan: the capacity model beside the tables that its study prints, of which
 * these are the figures, and what a planner must never say.
 */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "plan.h"
#include "plan/calibrate.h"
#include "plan/capacity.h"
#include "plan/economics.h"


static void
near(double got, double want, double part, const char *what)
{
    if (!(fabs(got - want) <= part * fabs(want))) {
        fail_msg("%s: %g, not %g", what, got, want);
    }
}


static void
fleet(moe_plan_t *p, const char *hw, moe_plan_way_e way, double devices,
    double spare, double context)
{
    moe_err_t  err;

    moe_plan_defaults(p);
    moe_plan_shape_v3(&p->model);
    assert_int_equal(moe_plan_hardware(hw, &p->hw, &err), 0);

    p->way = way;
    p->devices = devices;
    p->spare = spare;
    p->context = context;
}


static void
test_shape(void **state)
{
    moe_plan_t  p;

    fleet(&p, "h800", MOE_PLAN_EXPERT, 144, 32, 4989);

    near(p.model.w_total, 670.9e9, 0.001, "parameters");
    near(p.model.w_expert, 44.04e6, 0.001, "an expert");
    near(p.model.w_attn, 187.1e6, 0.001, "attention");
    near(moe_plan_kv_token(&p), 70272, 0, "KV a token");
}


/* the study's step times, milliseconds, and rates */
static void
test_calibration(void **state)
{
    size_t          i;
    moe_plan_row_t  r;

    static const double  want[][2] = {
        { 47.4, 1857 }, { 53.0, 2417 }, { 91.1, 2249 }, { 88.8, 2882 },
        { 95.1, 2154 }, { 49.7, 1288 }
    };

    for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        assert_int_equal(moe_plan_calibration(i, &r), 0);
        near(r.step * 1e3, want[i][0], 0.005, r.what);
        near(r.model, want[i][1], 0.005, r.what);
    }

    /* those that it is fitted to, and one that it is known to miss */
    for (i = 0; i < 5; i++) {
        assert_int_equal(moe_plan_calibration(i, &r), 0);
        near(r.model, r.published, 0.05, r.what);
    }

    assert_int_equal(moe_plan_calibration(5, &r), 0);
    assert_true(r.model > 2 * r.published);

    while (moe_plan_calibration(i, &r) == 0) {
        assert_true(r.model > 0 && r.published > 0);
        i++;
    }
}


/* the study's tables: what fits, what runs, tokens a second and device */
static void
test_tables(void **state)
{
    size_t            i;
    char              what[64];
    moe_plan_t        p;
    moe_plan_point_t  at;

    static const struct {
        const char      *hw;
        moe_plan_way_e   way;
        double           devices;
        double           context;
        double           tpot;
        double           fit;
        double           run;
        double           rate;
    } want[] = {
        { "h800", MOE_PLAN_TENSOR,  16, 4989,  0.05, 4.6,   4.5,   115 },
        { "h800", MOE_PLAN_HYBRID,  16, 4989,  0.05, 29.3,  29.2,  665 },
        { "h800", MOE_PLAN_EXPERT,  16, 4989,  0.05, 22.4,  22,    634 },
        { "h800", MOE_PLAN_EXPERT,  32, 4989,  0.05, 73.4,  73,    1544 },
        { "h800", MOE_PLAN_EXPERT,  72, 4989,  0.05, 109.9, 91,    1821 },
        { "h800", MOE_PLAN_EXPERT, 144, 4989,  0.05, 124.4, 96,    1928 },
        { "h800", MOE_PLAN_EXPERT, 320, 4989,  0.05, 131.7, 98,    1969 },
        { "h800", MOE_PLAN_EXPERT,  72, 4989,  0.10, 109.9, 109,   2004 },
        { "h800", MOE_PLAN_EXPERT, 144, 4989,  0.10, 124.4, 124,   2098 },
        { "h800", MOE_PLAN_TENSOR,  16, 2000,  0.05, 11.4,  11.3,  256 },
        { "h800", MOE_PLAN_HYBRID,  16, 2000,  0.05, 73.0,  65.4,  1308 },
        { "h800", MOE_PLAN_EXPERT, 144, 2000,  0.10, 310.4, 265,   2657 },
        { "h800", MOE_PLAN_EXPERT, 320, 16000, 0.05, 41.1,  41,    911 },
        { "h200", MOE_PLAN_TENSOR,   8, 4989,  0.05, 14.1,  14.1,  308 },
        { "h200", MOE_PLAN_HYBRID,   8, 4989,  0.10, 72.3,  72.2,  1400 },
        { "h200", MOE_PLAN_EXPERT,   8, 4989,  0.05, 65.9,  65,    1386 },
        { "h200", MOE_PLAN_EXPERT,  16, 4989,  0.10, 182.5, 182,   2416 },
        { "h200", MOE_PLAN_EXPERT, 144, 4989,  0.10, 284.5, 242,   2421 }
    };

    for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        fleet(&p, want[i].hw, want[i].way, want[i].devices,
              want[i].way == MOE_PLAN_EXPERT
              ? moe_plan_spare(256, want[i].devices) : 0, want[i].context);

        moe_plan_solve(&p, want[i].tpot, &at);
        snprintf(what, sizeof(what), "%s %d of %.0f, %.0f tokens",
                 want[i].hw, want[i].way, want[i].devices, want[i].context);

        near(at.fit, want[i].fit, 0.01, what);
        near(at.batch, want[i].run, 0.02, what);
        near(at.rate, want[i].rate, 0.01, what);
        assert_true(at.step / p.accepted <= want[i].tpot);
    }
}


/* EP1 and TP8 of an H800 cannot hold 671 GB */
static void
test_does_not_fit(void **state)
{
    moe_plan_t        p;
    moe_plan_point_t  at;

    fleet(&p, "h800", MOE_PLAN_TENSOR, 8, 0, 4989);
    moe_plan_solve(&p, 0.05, &at);
    assert_true(at.kv < 0 && at.batch == 0 && at.rate == 0);

    fleet(&p, "h800", MOE_PLAN_EXPERT, 1, 0, 4989);
    moe_plan_solve(&p, 0.05, &at);
    assert_true(at.kv < 0 && at.batch == 0);

    /* fits, and no sequence is fast enough */
    fleet(&p, "h800", MOE_PLAN_EXPERT, 144, 32, 4989);
    moe_plan_solve(&p, 0.001, &at);
    assert_true(at.kv > 0 && at.batch == 0 && at.rate == 0);
}


/* of a layer of EP144: attention, projections, experts, shared, rest, the
 * exchange, as the study prints them */
static void
test_layer(void **state)
{
    size_t            i;
    moe_plan_t        p;
    moe_plan_layer_t  l;

    static const double  want[][7] = {
        { 32, 74, 70, 33, 16, 49, 206 },
        { 64, 148, 70, 54, 16, 53, 358 },
        { 88, 204, 70, 71, 16, 56, 471 },
        { 128, 296, 70, 100, 16, 60, 661 }
    };

    fleet(&p, "h800", MOE_PLAN_EXPERT, 144, 32, 4989);

    for (i = 0; i < 4; i++) {
        moe_plan_layer(&p, want[i][0], &l);

        near(l.attention * 1e6, want[i][1], 0.01, "attention");
        near(l.projections * 1e6, want[i][2], 0.01, "projections");
        near(l.experts * 1e6, want[i][3], 0.03, "experts");
        near(l.shared * 1e6, want[i][4], 0.04, "shared");
        near(l.rest * 1e6, want[i][5], 0.02, "rest");
        near(l.exchange * 1e6, want[i][6], 0.01, "exchange");
    }
}


static void
test_ablation(void **state)
{
    size_t            i;
    moe_plan_t        p;
    moe_plan_point_t  at;

    static const double  want[][3] = {
        { 1.0, 2122, 1771 }, { 1.2, 1928, 1567 }, { 1.5, 1625, 1332 },
        { 2.5, 1025, 887 }
    };

    fleet(&p, "h800", MOE_PLAN_EXPERT, 144, 32, 4989);

    for (i = 0; i < 4; i++) {
        p.skew = want[i][0];

        p.overlap = 0.6;
        moe_plan_solve(&p, 0.05, &at);
        near(at.rate, want[i][1], 0.005, "overlapped");

        p.overlap = 0;
        moe_plan_solve(&p, 0.05, &at);
        near(at.rate, want[i][2], 0.005, "one batch");
    }
}


/* as many trials as make the means steady to a few percent; the study's own
 * means over 150 */
static void
test_skew(void **state)
{
    size_t           i;
    moe_err_t        err;
    moe_plan_skew_t  s;

    static const struct {
        uint32_t  ranks;
        double    plain;
        double    placed;
    } want[] = {
        { 32, 1.87, 1.01 }, { 72, 2.92, 1.02 }, { 144, 4.69, 1.18 }
    };

    for (i = 0; i < sizeof(want) / sizeof(want[0]); i++) {
        assert_int_equal(moe_plan_skew(256, 32, want[i].ranks, 0.8, 200, &s,
                                       &err), 0);
        near(s.plain, want[i].plain, 0.05, "as they are");
        near(s.placed, want[i].placed, 0.05, "placed");
    }

    assert_int_equal(moe_plan_skew(256, 1, 32, 0.8, 1, &s, &err), -1);
}


/* 40 nodes of 8, DeepSeek's mix, its rent of a month and its first prices */
static void
test_money(void **state)
{
    moe_plan_money_t   out;
    moe_plan_market_t  m;

    memset(&m, 0, sizeof(m));
    m.prompt = 73.7 * 95.5 / (14.8 * 131);
    m.cached = 0.563;
    m.rent = 3.5e6 / (320 * 720);
    m.price_out = 16;
    m.price_in = 4;
    m.price_cached = 1;

    moe_plan_money(&m, 14800.0 / 8, 73700.0 * (1 - m.cached) / 8, &out);

    near(out.decode, 131 / 226.5, 0.001, "decode's part");
    near(out.fill, 0.16, 0.03, "break-even");

    m.price_out = 3;
    m.price_in = 2;
    m.price_cached = 0.2;

    moe_plan_money(&m, 14800.0 / 8, 73700.0 * (1 - m.cached) / 8, &out);
    near(out.fill, 0.60, 0.02, "break-even at lower prices");
}


static void
write_file(const char *path, const char *text)
{
    FILE  *f;

    f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}


static void
test_profile_files(void **state)
{
    size_t               i;
    char                 path[64];
    moe_err_t            err;
    moe_plan_hardware_t  hw;

    static const struct {
        const char  *text;
        const char  *says;
    } bad[] = {
        { "{", "line 1" },
        { "[]", "\"base\" must name" },
        { "{\"base\": \"z80\"}", "base: no hardware profile \"z80\"" },
        { "{\"base\": \"h800\", \"bw\": -1}", "bw: must be a positive" },
        { "{\"base\": \"h800\", \"bw\": \"x\"}", "bw: must be a positive" },
        { "{\"base\": \"h800\", \"speed\": 1}", "there is no \"speed\"" },
        { "{\"base\": \"h800\", \"bw\": 1, \"bw\": 2}", "line 1" }
    };

    snprintf(path, sizeof(path), "/tmp/moe-plan-%d.json", (int) getpid());

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_file(path, bad[i].text);
        assert_int_equal(moe_plan_hardware(path, &hw, &err), -1);
        assert_non_null(strstr(err.text, path));

        if (strstr(err.text, bad[i].says) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
        }
    }

    write_file(path, "{\"base\": \"h800\", \"name\": \"ours\", "
                     "\"mem\": 96e9}");
    assert_int_equal(moe_plan_hardware(path, &hw, &err), 0);
    assert_string_equal(hw.name, "ours");
    near(hw.mem, 96e9, 0, "mem");
    near(hw.bw, 3.35e12, 0, "bw");
    assert_int_equal(hw.calibrated, 0);
    unlink(path);

    assert_int_equal(moe_plan_hardware("h801", &hw, &err), -1);
    assert_non_null(strstr(err.text, "\"h801\""));
    assert_int_equal(moe_plan_hardware("/nowhere.json", &hw, &err), -1);
}


static int
plan(const char *a, const char *b)
{
    int    argc;
    char  *argv[4];

    argc = 0;
    argv[argc++] = "plan";

    if (a != NULL) {
        argv[argc++] = (char *) a;
    }

    if (b != NULL) {
        argv[argc++] = (char *) b;
    }

    argv[argc] = NULL;

    return moe_plan_main(argc, argv);
}


static void
test_command(void **state)
{
    assert_int_equal(plan(NULL, NULL), 0);
    assert_int_equal(plan("--hardware=cpu2", "models/demo"), 0);
    assert_int_equal(plan("--hardware=cpu2", "models/demo/config.json"), 0);
    assert_int_equal(plan("--weights=bf16", "--rent=2"), 0);
    assert_int_equal(plan("--ep=1", "--users=8"), 0);
    assert_int_equal(plan("--json", "--rent=2"), 0);
    assert_int_equal(plan("--json", "models/demo"), 0);
    assert_int_equal(plan("/nowhere", NULL), 1);
    assert_int_equal(plan("--hardware=z80", NULL), 1);
    assert_int_equal(plan("--ep=8,x", NULL), 2);
    assert_int_equal(plan("--accepted=2", NULL), 2);
    assert_int_equal(plan("--tpot=0", NULL), 2);
    assert_int_equal(plan("--price=1,2", NULL), 2);
    assert_int_equal(plan("a", "b"), 2);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_shape),
        cmocka_unit_test(test_calibration),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_does_not_fit),
        cmocka_unit_test(test_layer),
        cmocka_unit_test(test_ablation),
        cmocka_unit_test(test_skew),
        cmocka_unit_test(test_money),
        cmocka_unit_test(test_profile_files),
        cmocka_unit_test(test_command)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
