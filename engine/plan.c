#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "main.h"
#include "model/config.h"
#include "plan.h"
#include "plan/calibrate.h"
#include "plan/capacity.h"
#include "plan/economics.h"
#include "plan/report.h"
#include "plan/simulate.h"


enum {
    CONFIG_MAX = 16 << 20,
    SKEW_TRIALS = 200,
    SIZES_MAX = 32
};


typedef struct {
    const char         *model;          /* NULL: DeepSeek-V3 */
    const char         *hardware;
    moe_plan_t          plan;
    moe_plan_market_t   market;
    double              tpot;           /* seconds */
    double              prompt_len;
    double              sizes[SIZES_MAX];
    uint32_t            nsizes;
    double              spare;          /* below 0: as DeepSeek does */
    double              users;          /* of an instance, 0: a few */
    int                 ep;             /* sizes were given */
    int                 calibration;
    int                 profiles;
    int                 json;
    moe_simulate_t      simulate;
} options_t;


static int parse(options_t *o, int argc, char **argv);
static int option(options_t *o, int c, const char *name);
static void usage(FILE *f);
static int report(const options_t *o, moe_err_t *err);
static int simulate(options_t *o, moe_err_t *err);
static int number(const char *name, double min, double max, double *out);
static int list(const char *name, double *out, uint32_t *n);
static int prices(moe_plan_market_t *m);
static int weights(double *bytes);
static int load(options_t *o, moe_err_t *err);
static void print_profiles(void);
static void print_calibration(void);
static void print_skews(void);
static void print_head(const options_t *o);
static void print_fleets(const options_t *o);
static double baseline(const options_t *o);
static void print_row(const options_t *o, const moe_plan_t *p,
    const char *name, double *base);
static void print_layers(const options_t *o);
static void print_filled(const options_t *o, double g);


static const char  help[] =
    "usage: moe-engine plan [options] [DIR | config.json]\n"
    "\n"
    "Says what a fleet would do with a model, from its config alone: whether it\n"
    "fits, tokens a second of a device and of a user, and what a token costs;\n"
    "for one instance that cuts every matrix (TP), for one with data-parallel\n"
    "attention, and for expert parallelism of several sizes (EP).  Without a\n"
    "model it is DeepSeek-V3.\n"
    "\n"
    "  --hardware NAME  h800, h100, h200, b200, gb200, cpu2, or a JSON file\n"
    "                   (default: h800)\n"
    "  --ep N,N,...     sizes of expert parallelism (default: 8,16,32,72,144,320)\n"
    "  --spare N        replicas of experts beyond one each (default: an eighth\n"
    "                   of the experts from EP32 on)\n"
    "  --context N      tokens of KV a sequence (default: 4989)\n"
    "  --tpot MS        most milliseconds a token of a user (default: 50)\n"
    "  --weights KIND   fp8, bf16 or int4 (default: fp8)\n"
    "  --drafts N       tokens of a sequence in a step, drafts with it\n"
    "  --accepted X     of which so many come out (default: 1)\n"
    "  --skew X         largest load of a rank over the mean (default: 1.2)\n"
    "  --overlap X      part of the exchange that is hidden (default: 0.6)\n"
    "  --users N        in the last table, one instance with N sequences in all\n"
    "\n"
    "  --rent X         price of a device and hour\n"
    "  --price O,I,C    price of a million tokens made, of prompts, of prompts\n"
    "                   that are cached\n"
    "  --prompt X       tokens of prompts for each one made (default: 3.6)\n"
    "  --prompt-len N   length of a prompt (default: 4000)\n"
    "  --cached X       part of prompts that is cached (default: 0.56)\n"
    "\n"
    "  --json           fleets and calibration, or the simulation, as JSON\n"
    "  --calibration    the model beside published measurements\n"
    "  --profiles       what is known of each kind of hardware\n"
    "\n";

enum {
    OPT_SPARE = 256,
    OPT_DRAFTS,
    OPT_ACCEPTED,
    OPT_SKEW,
    OPT_OVERLAP,
    OPT_USERS,
    OPT_RENT,
    OPT_PRICE,
    OPT_PROMPT,
    OPT_PROMPT_LEN,
    OPT_CACHED
};

static const struct option  longs[] = {
    { "hardware", required_argument, NULL, 'w' },
    { "ep", required_argument, NULL, 'e' },
    { "spare", required_argument, NULL, OPT_SPARE },
    { "context", required_argument, NULL, 'c' },
    { "tpot", required_argument, NULL, 't' },
    { "weights", required_argument, NULL, 'q' },
    { "drafts", required_argument, NULL, OPT_DRAFTS },
    { "accepted", required_argument, NULL, OPT_ACCEPTED },
    { "skew", required_argument, NULL, OPT_SKEW },
    { "overlap", required_argument, NULL, OPT_OVERLAP },
    { "users", required_argument, NULL, OPT_USERS },
    { "rent", required_argument, NULL, OPT_RENT },
    { "price", required_argument, NULL, OPT_PRICE },
    { "prompt", required_argument, NULL, OPT_PROMPT },
    { "prompt-len", required_argument, NULL, OPT_PROMPT_LEN },
    { "cached", required_argument, NULL, OPT_CACHED },
    { "calibration", no_argument, NULL, 'k' },
    { "profiles", no_argument, NULL, 'p' },
    { "json", no_argument, NULL, 'j' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
moe_plan_main(int argc, char **argv)
{
    int        rc;
    options_t  o;
    moe_err_t  err;

    rc = parse(&o, argc, argv);
    if (rc != 0) {
        return rc > 0 ? 0 : MOE_EXIT_USAGE;
    }

    if (o.profiles) {
        print_profiles();
        return 0;
    }

    if (o.calibration) {
        print_calibration();
        print_skews();
        return 0;
    }

    if (load(&o, &err) != 0) {
        fprintf(stderr, "moe-engine plan: %s\n", err.text);
        return MOE_EXIT_ERROR;
    }

    if (o.simulate.asked) {
        if (simulate(&o, &err) != 0) {
            fprintf(stderr, "moe-engine plan: %s\n", err.text);
            return MOE_EXIT_ERROR;
        }

        return 0;
    }

    if (o.json) {
        if (report(&o, &err) != 0) {
            fprintf(stderr, "moe-engine plan: %s\n", err.text);
            return MOE_EXIT_ERROR;
        }

        return 0;
    }

    print_head(&o);
    print_fleets(&o);
    print_layers(&o);

    return 0;
}


static int
report(const options_t *o, moe_err_t *err)
{
    moe_plan_report_t  r;

    r.model = o->model;
    r.plan = &o->plan;
    r.market = &o->market;
    r.tpot = o->tpot;
    r.prompt_len = o->prompt_len;
    r.baseline = baseline(o);
    r.sizes = o->sizes;
    r.nsizes = o->nsizes;
    r.spare = o->spare;

    return moe_plan_report(&r, err);
}


static int
simulate(options_t *o, moe_err_t *err)
{
    moe_plan_t  p;

    p = o->plan;
    p.devices = o->ep ? o->sizes[0] : 32;
    p.spare = o->spare >= 0 ? o->spare
                            : moe_plan_spare(p.model.experts, p.devices);

    if (o->ep && o->nsizes > 1) {
        return moe_err(err, "--simulate: one size at a time, not --ep of "
                       "several");
    }

    return moe_simulate(&o->simulate, &p, o->tpot, o->prompt_len, o->json,
                        err);
}


static void
usage(FILE *f)
{
    fputs(help, f);
    fputs(moe_simulate_help, f);
}


/* 0, 1 where there is nothing more to do, -1 on wrong usage */
static int
parse(options_t *o, int argc, char **argv)
{
    int            c, rc, index;
    size_t         n;
    moe_err_t      err;
    struct option  all[128];

    static const double  sizes[] = { 8, 16, 32, 72, 144, 320 };

    memset(o, 0, sizeof(options_t));
    moe_plan_defaults(&o->plan);
    moe_simulate_defaults(&o->simulate);

    o->hardware = "h800";
    o->plan.context = 4989;
    o->tpot = 50;
    o->spare = -1;
    o->market.prompt = 3.6;
    o->market.cached = 0.56;
    o->prompt_len = 4000;
    memcpy(o->sizes, sizes, sizeof(sizes));
    o->nsizes = sizeof(sizes) / sizeof(sizes[0]);

    for (n = 0; longs[n].name != NULL; n++) {
        all[n] = longs[n];
    }

    for (index = 0; moe_simulate_longs[index].name != NULL; index++) {
        all[n++] = moe_simulate_longs[index];
    }

    memset(&all[n], 0, sizeof(all[n]));
    optind = 1;
    rc = 0;

    while ((c = getopt_long(argc, argv, "h", all, &index)) != -1) {

        if (c == 'h') {
            usage(stdout);
            return 1;
        }

        if (c >= MOE_SIMULATE_OPTION) {
            if (moe_simulate_option(&o->simulate, c, all[index].name, optarg,
                                    &err) != 0)
            {
                fprintf(stderr, "moe-engine plan: %s\n", err.text);
                rc = -1;
            }
            continue;
        }

        rc |= option(o, c, c == '?' ? "" : all[index].name);
    }

    if (rc == 0 && o->plan.accepted > o->plan.drafts) {
        fputs("moe-engine plan: --accepted is more than --drafts\n", stderr);
        return -1;
    }

    if (rc != 0 || argc - optind > 1) {
        fputs("\"moe-engine plan --help\" says what there is\n", stderr);
        return -1;
    }

    o->tpot *= 1e-3;
    o->model = argv[optind];

    return 0;
}


static int
option(options_t *o, int c, const char *name)
{
    switch (c) {

    case 'w':
        o->hardware = optarg;
        return 0;

    case 'e':
        o->ep = 1;
        return list(name, o->sizes, &o->nsizes);

    case OPT_SPARE:
        return number(name, 0, 1e5, &o->spare);

    case 'c':
        if (number(name, 1, MOE_MAX_POSITIONS, &o->plan.context) != 0) {
            return -1;
        }

        o->simulate.context = o->plan.context;
        return 0;

    case 't':
        return number(name, 0.01, 1e6, &o->tpot);

    case 'q':
        return weights(&o->plan.w_bytes);

    case OPT_DRAFTS:
        return number(name, 1, 64, &o->plan.drafts);

    case OPT_ACCEPTED:
        return number(name, 1, 64, &o->plan.accepted);

    case OPT_SKEW:
        return number(name, 1, 1000, &o->plan.skew);

    case OPT_OVERLAP:
        return number(name, 0, 1, &o->plan.overlap);

    case OPT_USERS:
        return number(name, 1, 1e9, &o->users);

    case OPT_RENT:
        return number(name, 0, 1e9, &o->market.rent);

    case OPT_PRICE:
        return prices(&o->market);

    case OPT_PROMPT:
        return number(name, 0, 1e6, &o->market.prompt);

    case OPT_PROMPT_LEN:
        return number(name, 1, MOE_MAX_POSITIONS, &o->prompt_len);

    case OPT_CACHED:
        return number(name, 0, 1, &o->market.cached);

    case 'k':
        o->calibration = 1;
        return 0;

    case 'p':
        o->profiles = 1;
        return 0;

    case 'j':
        o->json = 1;
        return 0;

    default:
        return -1;
    }
}


static int
number(const char *name, double min, double max, double *out)
{
    char    *end;
    double   v;

    errno = 0;
    v = strtod(optarg, &end);

    if (errno || end == optarg || *end != '\0' || !(v >= min && v <= max)) {
        fprintf(stderr, "moe-engine plan: --%s: \"%s\" is not a number from "
                "%g to %g\n", name, optarg, min, max);
        return -1;
    }

    *out = v;

    return 0;
}


static int
list(const char *name, double *out, uint32_t *n)
{
    char        *end;
    long         v;
    const char  *s;

    *n = 0;

    for (s = optarg; *n < SIZES_MAX; s = end + 1) {
        v = strtol(s, &end, 10);

        if (end == s || (*end != ',' && *end != '\0') || v < 1 || v > 100000) {
            break;
        }

        out[(*n)++] = (double) v;

        if (*end == '\0') {
            return 0;
        }
    }

    fprintf(stderr, "moe-engine plan: --%s: \"%s\" is not a list of at most "
            "%d numbers\n", name, optarg, SIZES_MAX);

    return -1;
}


static int
prices(moe_plan_market_t *m)
{
    int  n;

    n = 0;

    if (sscanf(optarg, "%lf,%lf,%lf%n", &m->price_out, &m->price_in,
               &m->price_cached, &n) == 3
        && optarg[n] == '\0' && m->price_out >= 0 && m->price_in >= 0
        && m->price_cached >= 0)
    {
        return 0;
    }

    fprintf(stderr, "moe-engine plan: --price: \"%s\" is not three prices\n",
            optarg);

    return -1;
}


/* int4 is in groups with scales */
static int
weights(double *bytes)
{
    if (strcmp(optarg, "fp8") == 0) {
        *bytes = 1;
        return 0;
    }

    if (strcmp(optarg, "bf16") == 0) {
        *bytes = 2;
        return 0;
    }

    if (strcmp(optarg, "int4") == 0) {
        *bytes = 4.5 / 8;
        return 0;
    }

    fprintf(stderr, "moe-engine plan: --weights: \"%s\" is not fp8, bf16 or "
            "int4\n", optarg);

    return -1;
}


static int
load(options_t *o, moe_err_t *err)
{
    int           rc;
    char         *json;
    size_t        len;
    moe_config_t  cfg;
    struct stat   st;

    if (moe_plan_hardware(o->hardware, &o->plan.hw, err) != 0) {
        return -1;
    }

    if (o->model == NULL) {
        moe_plan_shape_v3(&o->plan.model);
        return 0;
    }

    if (stat(o->model, &st) == 0 && S_ISREG(st.st_mode)
        && strstr(o->model, ".json") != NULL)
    {
        json = moe_file_read(o->model, CONFIG_MAX, &len, NULL, err);
        if (json == NULL) {
            return -1;
        }

        rc = moe_config_parse(json, len, NULL, 0, &cfg, err);
        free(json);

        if (rc != 0) {
            return moe_err_prefix(err, "%s", o->model);
        }

    } else if (moe_config_load(o->model, &cfg, err) != 0) {
        return -1;
    }

    if (cfg.n_moe_layers == 0) {
        return moe_err(err, "%s: no layer has experts", o->model);
    }

    moe_plan_shape(&cfg, &o->plan.model);

    /* more devices than replicas make sense for */
    while (!o->ep && o->nsizes > 1
           && o->sizes[o->nsizes - 1] > 2 * cfg.n_experts)
    {
        o->nsizes--;
    }

    return 0;
}


static void
print_profiles(void)
{
    size_t                      i;
    const moe_plan_hardware_t  *h;

    printf("%-8s%10s%10s%12s%12s%10s%10s%8s\n", "", "memory GB", "GB/s",
           "8 bit T/s", "16 bit T/s", "link GB/s", "net GB/s", "domain");

    for (i = 0; (h = moe_plan_hardware_at(i)) != NULL; i++) {
        printf("%-8s%10.0f%10.0f%12.4g%12.4g%10.4g%10.4g%8.0f%s\n", h->name,
               h->mem * 1e-9, h->bw * 1e-9, h->gemm * 1e-12, h->wide * 1e-12,
               h->link * 1e-9, h->nic * 1e-9, h->domain,
               h->calibrated ? "" : "  not calibrated");
    }
}


static void
print_calibration(void)
{
    size_t          i;
    moe_plan_row_t  r;

    printf("tokens a second and device, DeepSeek-V3 on H800 and H100:\n\n"
           "%-48s%9s%9s%11s%8s\n", "", "step ms", "model", "published",
           "error");

    for (i = 0; moe_plan_calibration(i, &r) == 0; i++) {
        printf("%-48s", r.what);

        if (r.step > 0) {
            printf("%9.1f", r.step * 1e3);
        } else {
            printf("%9s", "");
        }

        printf("%9.0f%11.0f%+7.1f%%\n    %s\n", r.model, r.published,
               100 * (r.model / r.published - 1), r.source);
    }
}


static void
print_skews(void)
{
    size_t           i;
    uint32_t         ranks, spare;
    moe_err_t        err;
    moe_plan_skew_t  s;

    printf("\nlargest load of a rank over the mean, 256 experts, popularity "
           "lognormal (0.8):\n\n%-20s%12s%12s\n", "", "as they are",
           "placed");

    for (i = 0; moe_plan_skew_fleet(i, &ranks, &spare) == 0; i++) {
        if (moe_plan_skew(256, spare, ranks, 0.8, SKEW_TRIALS, &s, &err)
            != 0)
        {
            fprintf(stderr, "moe-engine plan: %s\n", err.text);
            return;
        }

        printf("EP%-4u %2u spare %17.2f%12.2f\n", ranks, spare, s.plain,
               s.placed);
    }
}


static void
print_head(const options_t *o)
{
    const moe_plan_t  *p;

    p = &o->plan;

    printf("%-12s%s: %.4g billion parameters, %.4g active; an expert %.4g "
           "million\n", "model", o->model != NULL ? o->model : "DeepSeek-V3",
           p->model.w_total * 1e-9, p->model.w_active * 1e-9,
           p->model.w_expert * 1e-6);
    printf("%-12s%.0f bytes a token, %.4g GB of %.0f tokens\n", "KV",
           moe_plan_kv_token(p), moe_plan_kv_token(p) * p->context * 1e-9,
           p->context);
    printf("%-12s%s, %.0f GB, %.4g TB/s%s\n", "hardware", p->hw.name,
           p->hw.mem * 1e-9, p->hw.bw * 1e-12,
           p->hw.calibrated ? "" : "; no fleet of it was measured: "
           "Hopper's efficiencies");
    printf("%-12s%.4g ms a token, %.4g tokens in a step, %.4g out; skew "
           "%.4g\n\n", "asked", o->tpot * 1e3, p->drafts, p->accepted,
           p->skew);
}


static void
print_fleets(const options_t *o)
{
    char        name[64];
    double      g, base;
    uint32_t    i;
    moe_plan_t  p;

    p = o->plan;
    g = baseline(o);

    printf("%-34s%9s%9s%9s%10s%9s%8s", "", "KV GB", "fit", "run",
           "tok/s", "a user", "times");

    if (o->market.rent > 0) {
        printf("%10s%8s", "cost 1M", "fill");
    }

    printf("\n");
    base = 0;

    if (g > 0) {
        p.devices = g;
        p.way = MOE_PLAN_TENSOR;
        snprintf(name, sizeof(name), "TP%.0f%s", g,
                 p.model.kv_heads == 1 && g > 1 ? ", KV on every device" : "");
        print_row(o, &p, name, &base);
    }

    if (g > 1) {
        p.way = MOE_PLAN_HYBRID;
        snprintf(name, sizeof(name), "TP%.0f, data-parallel attention", g);
        print_row(o, &p, name, &base);
    }

    p.way = MOE_PLAN_EXPERT;

    for (i = 0; i < o->nsizes; i++) {
        p.devices = o->sizes[i];

        p.spare = o->spare >= 0 ? o->spare
                                : moe_plan_spare(p.model.experts, p.devices);

        snprintf(name, sizeof(name), "EP%.0f, %.4g experts a device",
                 p.devices, (p.model.experts + p.spare) / p.devices);
        print_row(o, &p, name, &base);
    }

    printf("\nfit, run: sequences a device; tok/s: of a device; times: over "
           "the first line.\n");

    if (o->market.rent > 0) {
        printf("cost 1M: of a million tokens made and their prompts (%.4g "
               "each, %.0f %% cached); fill: how\nfull a fleet must be for "
               "its prices to pay for it.\n", o->market.prompt,
               o->market.cached * 100);
    }

    if (g > 0) {
        print_filled(o, g);
    }
}


/* the fewest devices, as a power of two, that hold weights and a sequence */
static double
baseline(const options_t *o)
{
    double      g;
    moe_plan_t  p;

    p = o->plan;
    p.way = MOE_PLAN_TENSOR;

    for (g = 1; g <= 1024 && g <= p.model.heads; g *= 2) {
        p.devices = g;

        if (moe_plan_kv(&p) >= p.context * moe_plan_kv_token(&p)) {
            return g;
        }
    }

    return 0;
}


static void
print_row(const options_t *o, const moe_plan_t *p, const char *name,
    double *base)
{
    double            prefill;
    moe_plan_money_t  money;
    moe_plan_point_t  at;

    moe_plan_solve(p, o->tpot, &at);

    printf("%-34s%9.1f%9.1f", name, at.kv * 1e-9, at.fit);

    if (at.kv < 0) {
        printf("  does not fit\n");
        return;
    }

    if (at.batch == 0) {
        printf("  too slow for one sequence, or no room for it\n");
        return;
    }

    if (*base == 0) {
        *base = at.rate;
    }

    printf("%9.1f%10.0f%9.1f%8.1f", at.batch, at.rate, at.user,
           at.rate / *base);

    if (o->market.rent > 0) {
        prefill = moe_plan_prefill(p, o->prompt_len);
        moe_plan_money(&o->market, at.rate, prefill, &money);

        printf("%10.3f", money.cost);

        if (isinf(money.fill)) {
            printf("%8s", "-");
        } else {
            printf("%7.0f%%", money.fill * 100);
        }
    }

    printf("\n");
}


/* where a step of the largest fleet goes */
static void
print_layers(const options_t *o)
{
    size_t            i;
    moe_plan_t        p;
    moe_plan_layer_t  l;

    static const double  batches[] = { 16, 32, 64, 128, 256 };

    p = o->plan;
    p.devices = o->sizes[o->nsizes - 1];
    p.spare = o->spare >= 0 ? o->spare
                            : moe_plan_spare(p.model.experts, p.devices);

    printf("\na layer of EP%.0f, microseconds, one batch:\n\n%-12s%10s%12s"
           "%10s%10s%8s%10s\n", p.devices, "sequences", "attention",
           "projections", "experts", "shared", "rest", "exchange");

    for (i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
        moe_plan_layer(&p, batches[i], &l);

        printf("%-12.0f%10.0f%12.0f%10.0f%10.0f%8.0f%10.0f\n", batches[i],
               l.attention * 1e6, l.projections * 1e6, l.experts * 1e6,
               l.shared * 1e6, l.rest * 1e6, l.exchange * 1e6);
    }
}


/* one instance of TP with few users against a full fleet: most of what is
 * said of expert parallelism's gain is the difference of these two */
static void
print_filled(const options_t *o, double g)
{
    double            users, step, rate, most;
    moe_plan_t        p;
    moe_plan_point_t  at;

    p = o->plan;
    p.devices = o->sizes[o->nsizes - 1];
    p.spare = o->spare >= 0 ? o->spare
                            : moe_plan_spare(p.model.experts, p.devices);
    moe_plan_solve(&p, o->tpot, &at);

    if (at.batch == 0) {
        return;
    }

    most = o->users > 0 ? o->users : 64;
    p.way = MOE_PLAN_TENSOR;
    p.devices = g;

    printf("\none TP%.0f instance that is not full, beside a full EP%.0f:\n\n"
           "%-12s%10s%10s%8s\n", g, o->sizes[o->nsizes - 1], "sequences",
           "ms", "tok/s", "times");

    for (users = o->users > 0 ? o->users : 1; users <= most; users *= 4) {
        step = moe_plan_step(&p, users / g);
        rate = users * p.accepted / step / g;

        printf("%-12.0f%10.1f%10.1f%8.0f\n", users, step * 1e3, rate,
               at.rate / rate);
    }
}
