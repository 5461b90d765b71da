/*
 * plan_sim: the fleet in virtual time beside the closed form where the two
 * should agree, and what happens to it where there is none: uneven experts,
 * slow and dead ranks, surges, recorded loads.
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
#include "plan/fleet.h"
#include "plan/random.h"


static void
near(double got, double want, double part, const char *what)
{
    if (!(fabs(got - want) <= part * fabs(want))) {
        fail_msg("%s: %g, not %g", what, got, want);
    }
}


/* DeepSeek-V3, experts even and at rest, prompts computed elsewhere */
static void
fleet(moe_fleet_options_t *o, const char *hw, uint32_t ranks, uint32_t spare)
{
    moe_err_t  err;

    moe_fleet_defaults(o);
    moe_plan_shape_v3(&o->plan.model);
    assert_int_equal(moe_plan_hardware(hw, &o->plan.hw, &err), 0);

    o->plan.devices = ranks;
    o->plan.spare = spare;
    o->max_len = 4096;
    o->max_running = 64;
    o->apart = 1;
    o->step_tokens = o->max_len + o->max_running + 1;
    o->prefill_chunk = o->max_len;
    o->rebalance = 0;
    o->layers = 4;
    o->routing.kind = MOE_ROUTING_EVEN;
    o->rows = 4;
}


static void
load_defaults(moe_load_options_t *l, double prompt, double output)
{
    memset(l, 0, sizeof(moe_load_options_t));
    l->turns = 1;
    l->keys = 10;
    l->prompt = prompt;
    l->output = output;
    l->most = 4096;
    l->seed = 1;
}


static void
run(const moe_fleet_options_t *o, const moe_load_options_t *l,
    moe_fleet_result_t *r)
{
    moe_err_t    err;
    moe_load_t  *load;

    load = moe_load_create(l, &err);

    if (load == NULL || moe_fleet_run(o, load, r, &err) != 0) {
        fail_msg("%s", err.text);
    }

    moe_load_free(load);
}


/* Users that always ask: a step is as long as the closed form says for as
 * many sequences with as long a context, within 3 %, where experts are
 * even. */
static void
test_steady(void **state)
{
    size_t               i;
    moe_plan_t           p;
    moe_load_options_t   l;
    moe_fleet_result_t   r;
    moe_fleet_options_t  o;

    static const struct {
        uint32_t  ranks;
        uint32_t  spare;
        uint32_t  batch;        /* of a rank */
    } runs[] = { { 32, 0, 4 }, { 32, 32, 16 }, { 16, 0, 24 } };

    for (i = 0; i < sizeof(runs) / sizeof(runs[0]); i++) {
        fleet(&o, runs[i].ranks == 16 ? "h200" : "h800", runs[i].ranks,
              runs[i].spare);

        /* replicas are used once experts were placed */
        o.rebalance = runs[i].spare ? 0.5 : 0;
        o.host = runs[i].ranks;
        o.seconds = 6;
        o.warm = 2;

        load_defaults(&l, 1000, 100);
        l.users = runs[i].ranks * runs[i].batch;
        run(&o, &l, &r);

        /* who asks again is in the next step but one */
        near(r.all.running, runs[i].batch, 0.02, "sequences a rank");
        near(r.context, 1050, 0.02, "context");
        near(r.all.step, r.model_step, 0.03, "a step");
        near(r.all.rate, r.model_rate, 0.03, "tokens a second");
        near(r.all.rate, r.all.running / r.all.step, 0.01, "its rate");
        near(r.all.token50, r.all.step, 0.02, "a token");
        assert_int_equal(r.all.refused + r.all.late + r.all.failed, 0);

        /* rows choose at random: even experts are not quite even ranks */
        p = o.plan;
        p.context = r.context;
        p.skew = 1;
        near(r.all.step, moe_plan_step(&p, runs[i].batch), 0.06,
             "the most even step");
        assert_true(r.all.skew > 1 && r.all.skew < 1.6);

        moe_fleet_free(&r);
    }
}


/* the balance rises with the placement, and what is made with it */
static void
test_balance(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   plain, placed, nodes;
    moe_fleet_options_t  o;

    fleet(&o, "h800", 32, 32);
    o.seconds = 12;
    o.warm = 6;
    o.routing.kind = MOE_ROUTING_LOGNORMAL;
    o.routing.skew = 0.8;
    o.routing.drift = 0;

    load_defaults(&l, 200, 100);
    l.users = 32 * 32;
    run(&o, &l, &plain);
    assert_int_equal(plain.placements, 0);
    assert_true(plain.all.skew > 1.5);

    o.rebalance = 2;
    run(&o, &l, &placed);
    assert_true(placed.placements >= 1);
    assert_true(placed.before > 1.5 && placed.after < 1.1);
    assert_true(placed.rows[0].skew > 1.5);
    assert_true(placed.all.skew < 1.25);
    assert_true(placed.all.skew < plain.all.skew - 0.3);
    assert_true(placed.all.step < plain.all.step);
    assert_int_equal(placed.nodes, 1);

    /* groups on their nodes: not as even, but far from plain */
    o.nodes = 4;
    run(&o, &l, &nodes);
    assert_int_equal(nodes.nodes, 4);
    assert_true(nodes.after >= placed.after - 0.01);
    assert_true(nodes.all.skew < plain.all.skew - 0.3);

    moe_fleet_free(&plain);
    moe_fleet_free(&placed);
    moe_fleet_free(&nodes);
}


/* forty times what comes else: most is refused at once, who is let in gets
 * an answer in time, and afterwards all is as before */
static void
test_surge(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   r;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 8, 0);
    o.max_running = 16;
    o.queue = 100;
    o.may = 10;
    o.seconds = 60;
    o.rows = 6;

    load_defaults(&l, 200, 100);
    l.rate = 20;
    l.surges[l.nsurges++] = (moe_load_surge_t) { 20, 10, 40 };
    run(&o, &l, &r);

    assert_int_equal(r.rows[0].refused + r.rows[1].refused, 0);
    near((double) r.rows[2].asked, 20 * 40 * 10, 0.05, "asked");
    assert_true(r.rows[2].refused > r.rows[2].asked * 8 / 10);
    assert_int_equal(r.rows[2].late, 0);
    assert_true(r.rows[2].began > 200);

    /* not longer than it may, and the batch is no slower for those in it */
    assert_true(r.rows[2].first99 < 10);
    assert_true(r.rows[2].token99 < 2 * r.rows[1].token99);

    assert_int_equal(r.rows[4].refused + r.rows[5].refused, 0);
    near(r.rows[5].first50, r.rows[1].first50, 0.2, "the first token");
    assert_int_equal(r.all.asked, r.all.refused + r.all.late + r.all.failed
                                  + r.all.began);

    moe_fleet_free(&r);
}


static void
test_same(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   a, b;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 16, 0);
    o.seconds = 5;
    o.rebalance = 1;
    o.routing.kind = MOE_ROUTING_ZIPF;
    o.routing.skew = 0.7;
    o.routing.drift = 10;
    o.deaths[o.ndeaths++] = (moe_fleet_death_t) { 2, 5, 1 };

    load_defaults(&l, 300, 50);
    l.rate = 50;
    l.spread = 0.7;
    l.turns = 3;
    l.think = 0.5;
    l.system = 100;

    run(&o, &l, &a);
    run(&o, &l, &b);

    assert_memory_equal(a.rows, b.rows, a.nrows * sizeof(moe_fleet_row_t));
    assert_memory_equal(&a.all, &b.all, sizeof(moe_fleet_row_t));
    assert_true(a.cached > 0.2);
    moe_fleet_free(&b);

    l.seed = 2;
    run(&o, &l, &b);
    assert_memory_not_equal(a.rows, b.rows,
                            a.nrows * sizeof(moe_fleet_row_t));

    moe_fleet_free(&a);
    moe_fleet_free(&b);
}


/* a rank of twice the time makes everyone wait: at most twice as long, and
 * for as much of it as the others have nothing to do */
static void
test_slow(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   even, slow;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 16, 0);
    o.seconds = 5;
    load_defaults(&l, 200, 50);
    l.users = 16 * 32;

    run(&o, &l, &even);
    o.slow[o.nslow++] = (moe_fleet_slow_t) { 7, 2 };
    run(&o, &l, &slow);

    assert_true(slow.all.step > 1.4 * even.all.step);
    assert_true(slow.all.step < 2 * even.all.step);
    assert_true(even.straggling < 0.1 && slow.straggling > 0.3);

    moe_fleet_free(&even);
    moe_fleet_free(&slow);
}


/* two ranks of one host die, one of them while the other is away: nobody is
 * failed, their jobs go on elsewhere, and all come back */
static void
test_deaths(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   r;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 16, 16);
    o.seconds = 20;
    o.warm = 0;
    o.rows = 10;
    o.rebalance = 1;
    o.recover = 0.5;
    o.deaths[o.ndeaths++] = (moe_fleet_death_t) { 6.1, 3, 6 };
    o.deaths[o.ndeaths++] = (moe_fleet_death_t) { 8.2, 4, 5 };

    load_defaults(&l, 200, 100);
    l.rate = 40;
    run(&o, &l, &r);

    assert_int_equal(r.rows[2].ranks, 16);
    assert_int_equal(r.rows[3].ranks, 15);
    assert_int_equal(r.rows[4].ranks, 14);
    assert_int_equal(r.rows[9].ranks, 16);
    assert_true(r.moved >= 4);
    assert_int_equal(r.all.failed, 0);
    assert_int_equal(r.all.refused + r.all.late, 0);
    assert_true(r.all.began + 8 >= r.all.asked);

    /* a pause of half a second is seen, and no more */
    assert_true(r.all.first99 > 0.3 && r.all.first99 < 1.2);

    /* all placed anew after each change */
    assert_true(r.placements >= 4);

    moe_fleet_free(&r);
}


/* prompts take time where they are computed here, less those that the cache
 * has */
static void
test_prompts(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   apart, here, cached;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 8, 0);
    o.seconds = 10;
    load_defaults(&l, 1000, 50);
    l.rate = 10;
    run(&o, &l, &apart);

    o.apart = 0;
    o.step_tokens = 512;
    o.prefill_chunk = 256;
    run(&o, &l, &here);

    l.system = 900;
    l.prompt = 100;
    l.keys = 2;
    run(&o, &l, &cached);

    assert_true(here.all.first50 > 2 * apart.all.first50);
    assert_true(here.all.step > apart.all.step);
    assert_true(cached.cached > 0.7 && here.cached < 0.01);
    assert_true(cached.all.first50 < here.all.first50);

    moe_fleet_free(&apart);
    moe_fleet_free(&here);
    moe_fleet_free(&cached);
}


/* A rank's pace knows whose rows made a step long: where prompts come to one
 * of 16 ranks at a time, steps of a bounded time make about as much as those
 * without a bound. */
static void
test_pace(void **state)
{
    moe_load_options_t   l;
    moe_fleet_result_t   any, bounded;
    moe_fleet_options_t  o;

    fleet(&o, "h200", 16, 0);
    o.apart = 0;
    o.step_tokens = 512;
    o.prefill_chunk = 256;
    o.seconds = 30;
    load_defaults(&l, 2000, 50);
    l.rate = 12;

    o.step_s = 0;
    run(&o, &l, &any);
    o.step_s = 0.08;
    run(&o, &l, &bounded);

    assert_true(bounded.all.rate > 0.85 * any.all.rate);
    assert_true(bounded.all.token99 < 0.1);

    moe_fleet_free(&any);
    moe_fleet_free(&bounded);
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
test_recorded(void **state)
{
    char                 path[64];
    size_t               i;
    moe_err_t            err;
    moe_load_t          *load;
    moe_load_job_t       a, b, c;
    moe_fleet_result_t   r;
    moe_fleet_options_t  o;

    static const char *const  lines =
        "{\"at\": 1000, \"prompt\": 100, \"output\": 20, \"key\": \"a\", "
        "\"prefix\": \"x\", \"shared\": 100}\n"
        "\n"
        "{\"at\": 1003, \"prompt\": 160, \"output\": 20, \"key\": \"a\", "
        "\"prefix\": \"x\", \"shared\": 120}\n"
        "{\"at\": 1003.5, \"prompt\": 160, \"output\": 20}\n";

    static const struct {
        const char  *text;
        const char  *says;
    } bad[] = {
        { "", "no requests" },
        { "{", "line 1: " },
        { "[]\n", "line 1: is not an object" },
        { "{\"prompt\": 1, \"output\": 1}\n", "at: must be" },
        { "{\"at\": 1, \"prompt\": 0, \"output\": 1}\n", "prompt: must be" },
        { "{\"at\": 1, \"prompt\": 1, \"output\": 2.5}\n",
          "output: must be" },
        { "{\"at\": 1, \"prompt\": 3000, \"output\": 2000}\n",
          "more than 4096" },
        { "{\"at\": 1, \"prompt\": 5, \"output\": 1, \"prefix\": \"x\", "
          "\"shared\": 6}\n", "shared: must be a number from 0 to 5" },
        { "{\"at\": 1, \"prompt\": 5, \"output\": 1, \"prefix\": 7}\n",
          "prefix: must be" },
        { "{\"at\": 1, \"prompt\": 5, \"output\": 1, \"key\": 7}\n",
          "key: must be" },
        { "{\"at\": 2, \"prompt\": 5, \"output\": 1}\n"
          "{\"at\": 1, \"prompt\": 5, \"output\": 1}\n", "line 2: at: before" }
    };

    snprintf(path, sizeof(path), "/tmp/moe-load-%d.json", (int) getpid());

    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        write_file(path, bad[i].text);
        assert_null(moe_load_open(path, 4096, &err));
        assert_non_null(strstr(err.text, path));

        if (strstr(err.text, bad[i].says) == NULL) {
            fail_msg("\"%s\" does not say \"%s\"", err.text, bad[i].says);
        }
    }

    write_file(path, lines);
    load = moe_load_open(path, 4096, &err);
    assert_non_null(load);
    assert_int_equal(moe_load_take(load, &a, &err), 0);
    assert_int_equal(moe_load_take(load, &b, &err), 0);
    assert_int_equal(moe_load_take(load, &c, &err), 0);
    assert_true(isinf(moe_load_at(load)));
    assert_int_equal(moe_load_take(load, &c, &err), -1);
    moe_load_free(load);

    /* prompt and answer of the first are what the second begins with */
    for (i = 0; i < 120; i++) {
        assert_int_equal(moe_load_id(&a, (uint32_t) i),
                         moe_load_id(&b, (uint32_t) i));
        assert_int_not_equal(moe_load_id(&a, (uint32_t) i),
                             moe_load_id(&c, (uint32_t) i));
    }

    assert_int_not_equal(moe_load_id(&a, 120), moe_load_id(&b, 120));
    assert_int_equal(a.key, b.key);
    assert_true(a.at == 0 && b.at == 3);

    load = moe_load_open(path, 4096, &err);
    fleet(&o, "h200", 8, 0);
    o.seconds = 10;
    assert_int_equal(moe_fleet_run(&o, load, &r, &err), 0);

    /* six full pages of 96 positions, of 420 in all: the next one was in part
     * decoded, which is another role than a prompt's */
    near(r.cached, 96.0 / 420, 1e-9, "cached");
    assert_int_equal(r.all.began, 3);
    near(r.all.rate * 8 * 10, 60, 1e-9, "tokens");

    moe_fleet_free(&r);
    moe_load_free(load);
    unlink(path);
}


/* what is drawn has the means it should */
static void
test_random(void **state)
{
    double     sum, square, v;
    size_t     i, k;
    uint64_t   seed;

    static const struct {
        uint32_t  n;
        double    p;
    } b[] = { { 20, 0.3 }, { 1000, 0.01 }, { 1000, 0.5 }, { 50, 0.9 },
              { 100000, 0.03 } };

    seed = 1;

    for (k = 0; k < sizeof(b) / sizeof(b[0]); k++) {
        sum = 0;
        square = 0;

        for (i = 0; i < 20000; i++) {
            v = moe_plan_binomial(&seed, b[k].n, b[k].p);
            assert_true(v >= 0 && v <= b[k].n);
            sum += v / 20000;
            square += v * v / 20000;
        }

        near(sum, b[k].n * b[k].p, 0.02, "mean");
        near(square - sum * sum, b[k].n * b[k].p * (1 - b[k].p), 0.1,
             "variance");
    }

    assert_int_equal(moe_plan_binomial(&seed, 7, 1), 7);
    assert_int_equal(moe_plan_binomial(&seed, 7, 0), 0);
}


static void
test_refused(void **state)
{
    moe_err_t            err;
    moe_load_t          *load;
    moe_load_options_t   l;
    moe_fleet_result_t   r;
    moe_fleet_options_t  o;

    load_defaults(&l, 100, 10);
    l.rate = 1;
    load = moe_load_create(&l, &err);

    fleet(&o, "h800", 8, 0);
    assert_int_equal(moe_fleet_run(&o, load, &r, &err), -1);
    assert_non_null(strstr(err.text, "does not fit"));

    fleet(&o, "h200", 12, 0);
    assert_int_equal(moe_fleet_run(&o, load, &r, &err), -1);
    assert_non_null(strstr(err.text, "hosts"));

    fleet(&o, "h200", 16, 0);
    o.slow[o.nslow++].rank = 16;
    assert_int_equal(moe_fleet_run(&o, load, &r, &err), -1);
    assert_non_null(strstr(err.text, "no rank 16"));

    moe_load_free(load);
}


static int
plan(const char *line)
{
    int    argc;
    char   copy[256], *argv[32];

    argc = 0;
    snprintf(copy, sizeof(copy), "plan --simulate %s", line);

    for (argv[argc] = strtok(copy, " "); argv[argc] != NULL;
         argv[argc] = strtok(NULL, " "))
    {
        argc++;
    }

    return moe_plan_main(argc, argv);
}


static void
test_command(void **state)
{
    assert_int_equal(plan("--ep 16 --hardware h200 --seconds 2 --rate 5"), 0);
    assert_int_equal(plan("--ep 16 --hardware h200 --seconds 2 --rate 5 "
                          "--json --experts zipf:1 --slow 1:2 --fail 1:2:1 "
                          "--surge 0.5:1:10"), 0);
    assert_int_equal(plan("--ep 8,16"), 1);
    assert_int_equal(plan("--ep 1"), 1);
    assert_int_equal(plan("--load /nowhere"), 1);
    assert_int_equal(plan("--surge 1:2"), 2);
    assert_int_equal(plan("--slow 1"), 2);
    assert_int_equal(plan("--fail 1:2"), 2);
    assert_int_equal(plan("--experts odd"), 2);
    assert_int_equal(plan("--seconds x"), 2);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_steady),
        cmocka_unit_test(test_balance),
        cmocka_unit_test(test_surge),
        cmocka_unit_test(test_same),
        cmocka_unit_test(test_slow),
        cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_pace),
        cmocka_unit_test(test_recorded),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_command)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
