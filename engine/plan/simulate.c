#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "plan/simulate.h"


enum {
    OPT_SIMULATE = MOE_SIMULATE_OPTION,
    OPT_SECONDS,
    OPT_WARM,
    OPT_RATE,
    OPT_USERS,
    OPT_TURNS,
    OPT_THINK,
    OPT_KEYS,
    OPT_SYSTEM,
    OPT_OUTPUT,
    OPT_SPREAD,
    OPT_LOAD,
    OPT_SURGE,
    OPT_SLOW,
    OPT_FAIL,
    OPT_RECOVER,
    OPT_EXPERTS,
    OPT_DRIFT,
    OPT_LAYERS,
    OPT_REBALANCE,
    OPT_NODES,
    OPT_HOST,
    OPT_QUEUE,
    OPT_MAY,
    OPT_RUNNING,
    OPT_MAX_LEN,
    OPT_STEP_TOKENS,
    OPT_CHUNK,
    OPT_STEP_TIME,
    OPT_APART,
    OPT_ROWS,
    OPT_SEED
};

/* of what the closed form says a fleet can do, where no rate is given */
#define FILL  0.7


static int number(const char *name, const char *arg, double min, double max,
    double *out, moe_err_t *err);
static int count(const char *name, const char *arg, double min, double max,
    uint32_t *out, moe_err_t *err);
static int experts(moe_routing_options_t *r, const char *arg,
    moe_err_t *err);
static int surge(moe_load_options_t *l, const char *arg, moe_err_t *err);
static int slow(moe_fleet_options_t *f, const char *arg, moe_err_t *err);
static int death(moe_fleet_options_t *f, const char *arg, moe_err_t *err);
static int fill_in(moe_simulate_t *s, const moe_plan_t *plan, double tpot,
    double prompt, moe_err_t *err);
static double usual_rate(const moe_simulate_t *s);
static void print(const moe_simulate_t *s, const moe_fleet_result_t *r);
static void print_row(const char *name, const moe_fleet_row_t *row);
static int print_json(const moe_simulate_t *s, const moe_fleet_result_t *r,
    moe_err_t *err);
static json_t *json_row(const moe_fleet_row_t *row);


const struct option  moe_simulate_longs[] = {
    { "simulate", no_argument, NULL, OPT_SIMULATE },
    { "seconds", required_argument, NULL, OPT_SECONDS },
    { "warm", required_argument, NULL, OPT_WARM },
    { "rate", required_argument, NULL, OPT_RATE },
    { "always", required_argument, NULL, OPT_USERS },
    { "turns", required_argument, NULL, OPT_TURNS },
    { "think", required_argument, NULL, OPT_THINK },
    { "keys", required_argument, NULL, OPT_KEYS },
    { "system", required_argument, NULL, OPT_SYSTEM },
    { "output", required_argument, NULL, OPT_OUTPUT },
    { "spread", required_argument, NULL, OPT_SPREAD },
    { "load", required_argument, NULL, OPT_LOAD },
    { "surge", required_argument, NULL, OPT_SURGE },
    { "slow", required_argument, NULL, OPT_SLOW },
    { "fail", required_argument, NULL, OPT_FAIL },
    { "recover", required_argument, NULL, OPT_RECOVER },
    { "experts", required_argument, NULL, OPT_EXPERTS },
    { "drift", required_argument, NULL, OPT_DRIFT },
    { "layers", required_argument, NULL, OPT_LAYERS },
    { "rebalance", required_argument, NULL, OPT_REBALANCE },
    { "nodes", required_argument, NULL, OPT_NODES },
    { "host", required_argument, NULL, OPT_HOST },
    { "queue", required_argument, NULL, OPT_QUEUE },
    { "may", required_argument, NULL, OPT_MAY },
    { "max-running", required_argument, NULL, OPT_RUNNING },
    { "max-len", required_argument, NULL, OPT_MAX_LEN },
    { "step-tokens", required_argument, NULL, OPT_STEP_TOKENS },
    { "prefill-chunk", required_argument, NULL, OPT_CHUNK },
    { "step-time", required_argument, NULL, OPT_STEP_TIME },
    { "prompts-apart", no_argument, NULL, OPT_APART },
    { "rows", required_argument, NULL, OPT_ROWS },
    { "seed", required_argument, NULL, OPT_SEED },
    { NULL, 0, NULL, 0 }
};


const char  moe_simulate_help[] =
    "  --simulate       a fleet of EP ranks in virtual time: queue, scheduler,\n"
    "                   cache and placement of experts are the engine's own,\n"
    "                   a step's time is the model's.  --ep N ranks (default:\n"
    "                   32), and of the above --prompt-len\n"
    "  --seconds S      that are simulated (default: 60)\n"
    "  --warm S         that are not in the totals (default: a quarter)\n"
    "  --rate X         requests a second (default: 70 % of the most)\n"
    "  --always N       instead, N users that always ask\n"
    "  --turns X        of a conversation, mean (default: 1)\n"
    "  --think S        between turns, mean (default: 10; --always: 0)\n"
    "  --keys N         clients, the n-th with 1/n of the first one's\n"
    "                   conversations (default: 100)\n"
    "  --system N       tokens that a client's prompts all begin with\n"
    "  --output N       tokens of an answer, mean (default: 500)\n"
    "  --spread X       sigma of lengths' logarithms (default: 0.5)\n"
    "  --load FILE      a recorded load instead: JSON lines, docs/plan.md\n"
    "  --surge T:S:K    from second T for S seconds K times the rate\n"
    "  --slow R:K       rank R is K times slower\n"
    "  --fail T:R:S     rank R dies in second T and is back S later\n"
    "  --recover S      that a death stops all ranks for (default: 0.25)\n"
    "  --experts KIND   popularity: even, lognormal:SIGMA or zipf:EXPONENT\n"
    "                   (default: lognormal:0.8)\n"
    "  --drift S        in which it changes; 0: never (default: 300)\n"
    "  --layers N       that are drawn, for all with experts (default: 16)\n"
    "  --rebalance S    as in serve; 0: never (default: 10)\n"
    "  --nodes N        as in serve (default: 1)\n"
    "  --host N         ranks of a host, each with a front (default: 8)\n"
    "  --queue N        as in serve, of a host (default: 1024)\n"
    "  --may S          a request waits at most (default: 60; 0: for ever)\n"
    "  --max-running N  as in serve (default: what the closed form runs)\n"
    "  --max-len N      tokens of prompt and answer at most (default: 32768)\n"
    "  --step-tokens N, --prefill-chunk N, --step-time MS  as in serve\n"
    "                   (default: 512 or twice --max-running, 256, 200)\n"
    "  --prompts-apart  other devices compute them; here they take no time\n"
    "  --rows N         of the table of time (default: 12)\n"
    "  --seed N         of all that is drawn (default: 1)\n";


void
moe_simulate_defaults(moe_simulate_t *s)
{
    memset(s, 0, sizeof(moe_simulate_t));
    moe_fleet_defaults(&s->fleet);

    s->fleet.max_len = 32768;
    s->fleet.warm = -1;
    s->load.turns = 1;
    s->load.think = 10;
    s->load.keys = 100;
    s->load.output = 500;
    s->load.spread = 0.5;
    s->load.seed = 1;
}


int
moe_simulate_option(moe_simulate_t *s, int c, const char *name,
    const char *arg, moe_err_t *err)
{
    double                v;
    moe_load_options_t   *l;
    moe_fleet_options_t  *f;

    f = &s->fleet;
    l = &s->load;

    switch (c) {

    case OPT_SIMULATE:
        s->asked = 1;
        return 0;

    case OPT_SECONDS:
        return number(name, arg, 0.1, 1e6, &f->seconds, err);

    case OPT_WARM:
        return number(name, arg, 0, 1e6, &f->warm, err);

    case OPT_RATE:
        s->rate = 1;
        return number(name, arg, 1e-6, 1e7, &l->rate, err);

    case OPT_USERS:
        return count(name, arg, 1, 1e7, &l->users, err);

    case OPT_TURNS:
        return number(name, arg, 1, 1000, &l->turns, err);

    case OPT_THINK:
        s->think = 1;
        return number(name, arg, 0, 1e6, &l->think, err);

    case OPT_KEYS:
        return count(name, arg, 1, 1e6, &l->keys, err);

    case OPT_SYSTEM:
        return number(name, arg, 0, 1e6, &l->system, err);

    case OPT_OUTPUT:
        return number(name, arg, 1, 1e6, &l->output, err);

    case OPT_SPREAD:
        return number(name, arg, 0, 3, &l->spread, err);

    case OPT_LOAD:
        s->path = arg;
        return 0;

    case OPT_SURGE:
        return surge(l, arg, err);

    case OPT_SLOW:
        return slow(f, arg, err);

    case OPT_FAIL:
        return death(f, arg, err);

    case OPT_RECOVER:
        return number(name, arg, 0, 1e5, &f->recover, err);

    case OPT_EXPERTS:
        return experts(&f->routing, arg, err);

    case OPT_DRIFT:
        return number(name, arg, 0, 1e6, &f->routing.drift, err);

    case OPT_LAYERS:
        return count(name, arg, 1, 1000, &f->layers, err);

    case OPT_REBALANCE:
        return number(name, arg, 0, 86400, &f->rebalance, err);

    case OPT_NODES:
        return count(name, arg, 1, 4096, &f->nodes, err);

    case OPT_HOST:
        return count(name, arg, 1, 4096, &f->host, err);

    case OPT_QUEUE:
        return count(name, arg, 1, 1e6, &f->queue, err);

    case OPT_MAY:
        return number(name, arg, 0, 1e6, &f->may, err);

    case OPT_RUNNING:
        return number(name, arg, 1, 65536, &s->running, err);

    case OPT_MAX_LEN:
        return count(name, arg, 16, 1 << 20, &f->max_len, err);

    case OPT_STEP_TOKENS:
        return count(name, arg, 1, 1 << 20, &f->step_tokens, err);

    case OPT_CHUNK:
        return count(name, arg, 1, 1 << 20, &f->prefill_chunk, err);

    case OPT_STEP_TIME:
        if (number(name, arg, 0, 60000, &f->step_s, err) != 0) {
            return -1;
        }

        f->step_s *= 1e-3;
        return 0;

    case OPT_APART:
        f->apart = 1;
        return 0;

    case OPT_ROWS:
        return count(name, arg, 1, 1000, &f->rows, err);

    default:
        if (number(name, arg, 0, 1e15, &v, err) != 0) {
            return -1;
        }

        l->seed = (uint64_t) v;
        f->routing.seed = l->seed;
        return 0;
    }
}


static int
number(const char *name, const char *arg, double min, double max,
    double *out, moe_err_t *err)
{
    char    *end;
    double   v;

    errno = 0;
    v = strtod(arg, &end);

    if (errno || end == arg || *end != '\0' || !(v >= min && v <= max)) {
        return moe_err(err, "--%s: \"%s\" is not a number from %g to %g",
                       name, arg, min, max);
    }

    *out = v;

    return 0;
}


static int
count(const char *name, const char *arg, double min, double max,
    uint32_t *out, moe_err_t *err)
{
    double  v;

    if (number(name, arg, min, max, &v, err) != 0) {
        return -1;
    }

    *out = (uint32_t) v;

    return 0;
}


static int
experts(moe_routing_options_t *r, const char *arg, moe_err_t *err)
{
    if (strcmp(arg, "even") == 0) {
        r->kind = MOE_ROUTING_EVEN;
        return 0;
    }

    if (strncmp(arg, "lognormal:", 10) == 0) {
        r->kind = MOE_ROUTING_LOGNORMAL;
        return number("experts", arg + 10, 0, 5, &r->skew, err);
    }

    if (strncmp(arg, "zipf:", 5) == 0) {
        r->kind = MOE_ROUTING_ZIPF;
        return number("experts", arg + 5, 0, 5, &r->skew, err);
    }

    return moe_err(err, "--experts: \"%s\" is not even, lognormal:X or "
                   "zipf:X", arg);
}


static int
surge(moe_load_options_t *l, const char *arg, moe_err_t *err)
{
    int                n;
    moe_load_surge_t  *s;

    if (l->nsurges == MOE_LOAD_SURGES) {
        return moe_err(err, "--surge: at most %d", MOE_LOAD_SURGES);
    }

    n = 0;
    s = &l->surges[l->nsurges++];

    if (sscanf(arg, "%lf:%lf:%lf%n", &s->from, &s->seconds, &s->times, &n)
        != 3
        || arg[n] != '\0' || !(s->from >= 0 && s->from < 1e9)
        || !(s->seconds > 0 && s->seconds < 1e9)
        || !(s->times >= 0 && s->times < 1e6))
    {
        return moe_err(err, "--surge: \"%s\" is not SECOND:SECONDS:TIMES",
                       arg);
    }

    return 0;
}


static int
slow(moe_fleet_options_t *f, const char *arg, moe_err_t *err)
{
    int                n;
    moe_fleet_slow_t  *s;

    if (f->nslow == MOE_FLEET_EVENTS) {
        return moe_err(err, "--slow: at most %d", MOE_FLEET_EVENTS);
    }

    n = 0;
    s = &f->slow[f->nslow++];

    if (sscanf(arg, "%u:%lf%n", &s->rank, &s->times, &n) != 2
        || arg[n] != '\0' || !(s->times > 0 && s->times < 1e4))
    {
        return moe_err(err, "--slow: \"%s\" is not RANK:TIMES", arg);
    }

    return 0;
}


static int
death(moe_fleet_options_t *f, const char *arg, moe_err_t *err)
{
    int                 n;
    moe_fleet_death_t  *d;

    if (f->ndeaths == MOE_FLEET_EVENTS) {
        return moe_err(err, "--fail: at most %d", MOE_FLEET_EVENTS);
    }

    n = 0;
    d = &f->deaths[f->ndeaths++];

    if (sscanf(arg, "%lf:%u:%lf%n", &d->at, &d->rank, &d->down, &n) != 3
        || arg[n] != '\0' || !(d->at >= 0 && d->at < 1e9)
        || !(d->down > 0 && d->down < 1e9))
    {
        return moe_err(err, "--fail: \"%s\" is not SECOND:RANK:SECONDS", arg);
    }

    return 0;
}


int
moe_simulate(moe_simulate_t *s, const moe_plan_t *plan, double tpot,
    double prompt, int json, moe_err_t *err)
{
    int                  rc;
    moe_load_t          *load;
    moe_fleet_result_t   result;

    if (fill_in(s, plan, tpot, prompt, err) != 0) {
        return -1;
    }

    load = s->path ? moe_load_open(s->path, s->fleet.max_len, err)
                   : moe_load_create(&s->load, err);
    if (load == NULL) {
        return -1;
    }

    rc = moe_fleet_run(&s->fleet, load, &result, err);

    if (rc == 0) {
        if (json) {
            rc = print_json(s, &result, err);

        } else {
            print(s, &result);
        }
    }

    moe_fleet_free(&result);
    moe_load_free(load);

    return rc;
}


/* what depends on the rest of what was asked */
static int
fill_in(moe_simulate_t *s, const moe_plan_t *plan, double tpot,
    double prompt, moe_err_t *err)
{
    moe_plan_point_t      at;
    moe_load_options_t   *l;
    moe_fleet_options_t  *f;

    f = &s->fleet;
    l = &s->load;
    f->plan = *plan;
    f->plan.way = MOE_PLAN_EXPERT;
    f->plan.drafts = 1;
    f->plan.accepted = 1;
    l->prompt = prompt;
    l->most = f->max_len;

    if (l->system + 2 > f->max_len) {
        return moe_err(err, "--system is more than --max-len");
    }

    if (f->host > f->plan.devices) {
        f->host = (uint32_t) f->plan.devices;
    }

    if (f->layers > f->plan.model.moe_layers) {
        f->layers = (uint32_t) f->plan.model.moe_layers;
    }

    if (f->warm < 0) {
        f->warm = f->seconds / 4;
    }

    if (f->warm >= f->seconds) {
        return moe_err(err, "--warm leaves nothing of --seconds");
    }

    if (l->users > 0 && !s->think) {
        l->think = 0;
    }

    f->plan.context = s->context > 0
                      ? s->context
                      : l->system - l->output / 2
                        + (l->prompt + l->output) * (l->turns + 1) / 2;

    moe_plan_solve(&f->plan, tpot, &at);

    f->max_running = (uint32_t) (s->running > 0 ? s->running : at.batch);

    if (f->max_running == 0) {
        return moe_err(err, "%.0f devices of %s do not run a sequence of "
                       "%.0f tokens within %g ms a token", f->plan.devices,
                       f->plan.hw.name, f->plan.context, tpot * 1e3);
    }

    if (f->step_tokens == 0) {
        f->step_tokens = f->max_running > 256 ? 2 * f->max_running : 512;
    }

    if (f->apart) {
        f->step_tokens = f->max_len + f->max_running + 1;
        f->prefill_chunk = f->max_len;
    }

    if (!s->rate && l->users == 0 && s->path == NULL) {
        l->rate = usual_rate(s);
    }

    return 0;
}


/* a request takes its tokens' part of a device, and its prompt's */
static double
usual_rate(const moe_simulate_t *s)
{
    double                      each;
    moe_plan_t                  p;
    const moe_fleet_options_t  *f;

    f = &s->fleet;
    p = f->plan;
    each = s->load.output * moe_plan_step(&p, f->max_running)
           / f->max_running;

    if (!f->apart) {
        each += s->load.prompt / moe_plan_prefill(&p, s->load.prompt);
    }

    return FILL * p.devices / each;
}


static void
print(const moe_simulate_t *s, const moe_fleet_result_t *r)
{
    char                        name[32];
    uint32_t                    i;
    const moe_fleet_options_t  *f;

    f = &s->fleet;

    printf("%-12s%.0f ranks of %s on %.0f hosts, up to %u sequences each; "
           "%.4g expert slots a rank\n", "fleet", f->plan.devices,
           f->plan.hw.name, f->plan.devices / f->host, f->max_running,
           (f->plan.model.experts + f->plan.spare) / f->plan.devices);

    if (s->path != NULL) {
        printf("%-12s%s\n", "load", s->path);

    } else if (s->load.users > 0) {
        printf("%-12s%u users that always ask\n", "load", s->load.users);

    } else {
        printf("%-12s%.4g requests a second, %.4g turns a conversation\n",
               "load", s->load.rate, s->load.turns);
    }

    if (s->path == NULL) {
        printf("%-12sprompts %.0f + %.0f tokens, answers %.0f\n", "",
               s->load.system, s->load.prompt, s->load.output);
    }

    printf("\n%-12s%8s%8s%6s%8s%7s%8s%7s%8s%8s%7s%7s%7s%6s\n", "seconds",
           "asked", "refused", "late", "tok/s", "run", "wait", "step",
           "first", "99 %", "token", "99 %", "skew", "up");

    for (i = 0; i < r->nrows; i++) {
        snprintf(name, sizeof(name), "%.4g-%.4g", r->rows[i].from,
                 r->rows[i].to);
        print_row(name, &r->rows[i]);
    }

    snprintf(name, sizeof(name), "%.4g-%.4g", r->all.from, r->all.to);
    printf("\n");
    print_row(name, &r->all);

    printf("\ntok/s: of a device; run: sequences a rank; wait: requests in all"
           " queues; step: ms;\nfirst: seconds until the first token, median; "
           "token: ms each after it, median; skew:\nlargest load of a rank's "
           "experts over the mean; of requests that came in that time.\n\n");

    if (r->placements > 0) {
        printf("%-12sskew of the loads seen was %.2f, %.2f once placed;"
               " placed %u times, groups\n%-12skept on %u node%s\n", "experts",
               r->before, r->after, r->placements, "", r->nodes,
               r->nodes == 1 ? "" : "s");
    }

    printf("%-12s%.0f %% of the steps' time is waiting for the slowest rank\n",
           "stragglers", r->straggling * 100);
    printf("%-12s%.0f %% of prompts came from it; %llu sequences lost their "
           "pages\n", "cache", r->cached * 100,
           (unsigned long long) r->preempted);

    if (f->ndeaths > 0) {
        printf("%-12s%u; %llu jobs went on elsewhere, %llu failed\n",
               "deaths", f->ndeaths, (unsigned long long) r->moved,
               (unsigned long long) r->all.failed);
    }

    if (r->model_step > 0) {
        printf("%-12sof %.1f sequences of %.0f tokens, skew %.2f, decode "
               "alone: step %.1f ms, %.0f tok/s\n", "closed form", r->all.running,
               r->context, r->all.skew, r->model_step * 1e3, r->model_rate);
    }
}


static void
print_row(const char *name, const moe_fleet_row_t *w)
{
    printf("%-12s%8llu%8llu%6llu%8.0f%7.1f%8.0f%7.1f%8.2f%8.2f%7.1f%7.1f"
           "%7.2f%6u\n", name, (unsigned long long) w->asked,
           (unsigned long long) w->refused, (unsigned long long) w->late,
           w->rate, w->running, w->waiting, w->step * 1e3, w->first50,
           w->first99, w->token50 * 1e3, w->token99 * 1e3, w->skew, w->ranks);
}


static int
print_json(const moe_simulate_t *s, const moe_fleet_result_t *r,
    moe_err_t *err)
{
    int                         rc;
    json_t                     *root, *rows;
    uint32_t                    i;
    const moe_fleet_options_t  *f;

    f = &s->fleet;
    rows = json_array();

    for (i = 0; i < r->nrows; i++) {
        json_array_append_new(rows, json_row(&r->rows[i]));
    }

    root = json_pack("{s:{s:f,s:s,s:i,s:i,s:f,s:f,s:i,s:I},"
                     "s:o,s:o,s:{s:f,s:f,s:i,s:i},s:f,s:f,s:I,s:I,"
                     "s:{s:f,s:f,s:f}}",
                     "fleet", "ranks", f->plan.devices,
                     "hardware", f->plan.hw.name,
                     "host", (int) f->host,
                     "max_running", (int) f->max_running,
                     "rate", s->path ? 0.0 : s->load.rate,
                     "spare", f->plan.spare,
                     "users", (int) s->load.users,
                     "seed", (json_int_t) s->load.seed,
                     "rows", rows,
                     "all", json_row(&r->all),
                     "experts", "before", r->before, "after", r->after,
                     "placements", (int) r->placements,
                     "nodes", (int) r->nodes,
                     "straggling", r->straggling,
                     "cached", r->cached,
                     "preempted", (json_int_t) r->preempted,
                     "moved", (json_int_t) r->moved,
                     "closed_form", "context", r->context,
                     "step", r->model_step, "rate", r->model_rate);

    if (root == NULL) {
        return moe_err(err, "no memory for the output");
    }

    rc = json_dumpf(root, stdout, JSON_INDENT(1) | JSON_REAL_PRECISION(9));
    json_decref(root);
    printf("\n");

    return rc == 0 ? 0 : moe_err(err, "the output cannot be written");
}


static json_t *
json_row(const moe_fleet_row_t *w)
{
    return json_pack("{s:f,s:f,s:I,s:I,s:I,s:I,s:I,s:f,s:f,s:f,s:f,s:I,s:f,"
                     "s:f,s:f,s:f,s:f,s:i}",
                     "from", w->from, "to", w->to,
                     "asked", (json_int_t) w->asked,
                     "refused", (json_int_t) w->refused,
                     "late", (json_int_t) w->late,
                     "failed", (json_int_t) w->failed,
                     "began", (json_int_t) w->began,
                     "first_p50", w->first50, "first_p99", w->first99,
                     "token_p50", w->token50, "token_p99", w->token99,
                     "steps", (json_int_t) w->steps,
                     "step", w->step, "rate", w->rate,
                     "running", w->running, "waiting", w->waiting,
                     "skew", w->skew, "up", (int) w->ranks);
}
