#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "bench.h"
#include "bench_drafts.h"
#include "bench_products.h"
#include "gen.h"
#include "main.h"
#include "model/model.h"


#define MOE_BENCH_BATCH   16
#define MOE_BENCH_PROMPT  128
#define MOE_BENCH_TOKENS  64

#define MOE_BENCH_WARM    512

enum {
    MOE_BENCH_OPT_BATCH = 256,
    MOE_BENCH_OPT_PROMPT,
    MOE_BENCH_OPT_TOKENS,
    MOE_BENCH_OPT_THREADS,
    MOE_BENCH_OPT_KERNELS,
    MOE_BENCH_OPT_KV_FORMAT,
    MOE_BENCH_OPT_PRODUCTS,
    MOE_BENCH_OPT_DRAFTS
};


typedef struct {
    const char        *dir;
    const char        *kernels;
    moe_kv_format_e    kv_format;
    uint32_t           batch;          /* the largest */
    uint32_t           prompt;
    uint32_t           tokens;
    uint32_t           threads;
    int                products;
    const char        *drafts;         /* what is asked; NULL: not these */
} moe_bench_options_t;


typedef struct {
    moe_bench_options_t   o;
    moe_model_t          *model;
    moe_gen_t            *gen;
    uint32_t             *ids;
    uint64_t              random;
    uint32_t              begun;       /* jobs with a token */
    uint32_t              ended;
    uint32_t              failed;
    uint64_t              sampled;
} moe_bench_t;


static int moe_bench_parse(moe_bench_options_t *o, int argc, char **argv);
static int moe_bench_option(moe_bench_options_t *o, int c);
static int moe_bench_number(const char *name, uint32_t min, uint32_t max,
    uint32_t *n);
static int moe_bench_drafts_run(const moe_bench_options_t *o, moe_err_t *err);
static int moe_bench_open(moe_bench_t *b, moe_err_t *err);
static int moe_bench_warm(moe_bench_t *b, moe_err_t *err);
static int moe_bench_round(moe_bench_t *b, uint32_t batch, moe_err_t *err);
static void moe_bench_submit(moe_bench_t *b, uint32_t tag, uint32_t prompt);
static uint64_t moe_bench_now(void);

static void moe_bench_started(void *ctx, uint64_t tag,
    const moe_started_t *s);
static void moe_bench_delta(void *ctx, uint64_t tag, const moe_delta_t *d);
static void moe_bench_end(void *ctx, uint64_t tag, const moe_end_t *e);


static const char  moe_bench_help[] =
    "usage: moe-engine bench -m DIR [options]\n"
    "       moe-engine bench -m DIR --drafts TEXT [options]\n"
    "       moe-engine bench --products [--threads N] [--kernels NAME]\n"
    "\n"
    "Measures the model in DIR on this machine: prompts of random tokens, all\n"
    "begun at once, in batches of 1, 2, 4 and so on.\n"
    "\n"
    "  -m, --model DIR   Hugging Face directory or GGUF file\n"
    "  --batch N         the largest batch (default: 16)\n"
    "  --prompt N        tokens of each prompt (default: 128)\n"
    "  --tokens N        tokens sampled for each (default: 64)\n"
    "  --threads N       computing threads (default: all cores)\n"
    "  --kernels NAME    plain, avx2, avx512, plain-bf16, avx512-bf16,\n"
    "                    plain-fp8, cuda or cuda-fp8\n"
    "                    (default: the fastest of the first three)\n"
    "  --kv-format F     f32, bf16 or int8 (default: f32)\n"
    "\n"
    "With --drafts, answers to TEXT at temperature 1, without drafts by the\n"
    "model's MTP layer, with them always, and where they were seen to pay.\n"
    "\n"
    "With --products, no model: feed-forward parts of experts with packed\n"
    "weights, against what the same threads can read and multiply.\n"
    "\n"
    "prefill is tokens of prompts a second until every sequence has its first\n"
    "token; decode is tokens sampled a second after that, step the time of\n"
    "one step then.\n";


static const struct option  moe_bench_long[] = {
    { "model", required_argument, NULL, 'm' },
    { "batch", required_argument, NULL, MOE_BENCH_OPT_BATCH },
    { "prompt", required_argument, NULL, MOE_BENCH_OPT_PROMPT },
    { "tokens", required_argument, NULL, MOE_BENCH_OPT_TOKENS },
    { "threads", required_argument, NULL, MOE_BENCH_OPT_THREADS },
    { "kernels", required_argument, NULL, MOE_BENCH_OPT_KERNELS },
    { "kv-format", required_argument, NULL, MOE_BENCH_OPT_KV_FORMAT },
    { "drafts", required_argument, NULL, MOE_BENCH_OPT_DRAFTS },
    { "products", no_argument, NULL, MOE_BENCH_OPT_PRODUCTS },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
moe_bench_main(int argc, char **argv)
{
    int          rc;
    uint32_t     batch;
    moe_err_t    err;
    moe_bench_t  b;

    memset(&b, 0, sizeof(b));
    b.o.batch = MOE_BENCH_BATCH;
    b.o.prompt = MOE_BENCH_PROMPT;
    b.o.tokens = MOE_BENCH_TOKENS;

    rc = moe_bench_parse(&b.o, argc, argv);
    if (rc != 0) {
        return rc > 0 ? 0 : MOE_EXIT_USAGE;
    }

    if (b.o.drafts) {
        rc = moe_bench_drafts_run(&b.o, &err);

        if (rc != 0) {
            fprintf(stderr, "moe-engine bench: %s\n", err.text);
        }

        return rc != 0 ? MOE_EXIT_ERROR : 0;
    }

    rc = b.o.products ? moe_bench_products(b.o.threads, b.o.kernels, &err)
                      : moe_bench_open(&b, &err);

    if (rc == 0 && !b.o.products) {
        rc = moe_bench_warm(&b, &err);
    }

    for (batch = b.o.products ? UINT32_MAX : 1; rc == 0 && batch <= b.o.batch;
         batch *= 2)
    {
        rc = moe_bench_round(&b, batch, &err);
    }

    if (rc != 0) {
        fprintf(stderr, "moe-engine bench: %s\n", err.text);
    }

    moe_gen_destroy(b.gen);
    moe_model_close(b.model);
    free(b.ids);

    return rc != 0 ? MOE_EXIT_ERROR : 0;
}


/* 0, 1 where there is nothing more to do, -1 on wrong usage */
static int
moe_bench_parse(moe_bench_options_t *o, int argc, char **argv)
{
    int  c;

    optind = 1;

    while ((c = getopt_long(argc, argv, "m:h", moe_bench_long, NULL)) != -1) {

        if (c == 'h') {
            fputs(moe_bench_help, stdout);
            return 1;
        }

        if (moe_bench_option(o, c) != 0) {
            return -1;
        }
    }

    if (optind != argc) {
        fprintf(stderr, "moe-engine bench: unexpected \"%s\"; \"moe-engine "
                "bench --help\" says what there is\n", argv[optind]);
        return -1;
    }

    if (o->dir == NULL && !o->products) {
        fputs("moe-engine bench: -m DIR or --products is needed\n\n", stderr);
        fputs(moe_bench_help, stderr);
        return -1;
    }

    return 0;
}


static int
moe_bench_option(moe_bench_options_t *o, int c)
{
    switch (c) {

    case 'm':
        o->dir = optarg;
        return 0;

    case MOE_BENCH_OPT_DRAFTS:
        o->drafts = optarg;
        return 0;

    case MOE_BENCH_OPT_PRODUCTS:
        o->products = 1;
        return 0;

    case MOE_BENCH_OPT_KERNELS:
        o->kernels = optarg;
        return 0;

    case MOE_BENCH_OPT_KV_FORMAT:
        if (moe_kv_format_parse(optarg, &o->kv_format) != 0) {
            fprintf(stderr, "moe-engine bench: --kv-format: \"%s\" is not "
                    "f32, bf16 or int8\n", optarg);
            return -1;
        }
        return 0;

    case MOE_BENCH_OPT_BATCH:
        return moe_bench_number("batch", 1, 4096, &o->batch);

    case MOE_BENCH_OPT_PROMPT:
        return moe_bench_number("prompt", 1, 1u << 20, &o->prompt);

    case MOE_BENCH_OPT_TOKENS:
        return moe_bench_number("tokens", 2, 1u << 20, &o->tokens);

    case MOE_BENCH_OPT_THREADS:
        return moe_bench_number("threads", 0, 1024, &o->threads);

    default:
        fputs("\"moe-engine bench --help\" says what there is\n", stderr);
        return -1;
    }
}


static int
moe_bench_number(const char *name, uint32_t min, uint32_t max, uint32_t *n)
{
    char           *end;
    unsigned long   v;

    errno = 0;
    v = strtoul(optarg, &end, 10);

    if (errno || end == optarg || *end || optarg[0] == '-' || v < min
        || v > max)
    {
        fprintf(stderr, "moe-engine bench: --%s: \"%s\" is not a number from "
                "%u to %u\n", name, optarg, min, max);
        return -1;
    }

    *n = (uint32_t) v;

    return 0;
}


static int
moe_bench_drafts_run(const moe_bench_options_t *o, moe_err_t *err)
{
    moe_bench_drafts_t  d;

    d.dir = o->dir;
    d.kernels = o->kernels;
    d.text = o->drafts;
    d.threads = o->threads;
    d.batch = o->batch;
    d.tokens = o->tokens;

    return moe_bench_drafts(&d, err);
}


static int
moe_bench_open(moe_bench_t *b, moe_err_t *err)
{
    uint64_t                     pages;
    moe_gen_options_t            go;
    moe_model_options_t          mo;
    static const moe_gen_sink_t  sink = {
        moe_bench_started, moe_bench_delta, moe_bench_end
    };

    memset(&mo, 0, sizeof(mo));
    mo.threads = b->o.threads;
    mo.kernels = b->o.kernels;
    mo.kv_format = b->o.kv_format;
    mo.max_rows = b->o.batch < 512 ? 512 : b->o.batch + 1;

    b->model = moe_model_open(b->o.dir, &mo, NULL, NULL, err);
    if (b->model == NULL) {
        return -1;
    }

    if ((uint64_t) b->o.prompt + b->o.tokens
        > moe_model_max_position(b->model))
    {
        return moe_err(err, "--prompt and --tokens are more than the model's "
                       "context of %u", moe_model_max_position(b->model));
    }

    pages = ((uint64_t) b->o.prompt + b->o.tokens) / MOE_PAGE_SIZE + 1;
    pages *= b->o.batch;

    if (pages > UINT32_MAX / 2) {
        return moe_err(err, "this needs too many KV pages");
    }

    if (moe_model_kv_resize(b->model, (uint32_t) pages, err) != 0) {
        return -1;
    }

    memset(&go, 0, sizeof(go));
    go.max_running = b->o.batch;
    go.step_tokens = mo.max_rows;

    b->gen = moe_gen_create(b->model, &go, &sink, b, err);
    b->ids = malloc((size_t) b->o.prompt * sizeof(uint32_t));

    if (b->gen == NULL) {
        return -1;
    }

    if (b->ids == NULL) {
        return moe_err(err, "no memory for a prompt");
    }

    printf("%s: prompts of %u tokens, %u sampled for each\n\n"
           "| batch | prefill, tokens/s | decode, tokens/s | step, ms |\n"
           "|---:|---:|---:|---:|\n", b->o.dir, b->o.prompt, b->o.tokens);

    return 0;
}


/* prompts of so many tokens that every expert was read and its pages found */
static int
moe_bench_warm(moe_bench_t *b, moe_err_t *err)
{
    uint32_t  n, prompt;

    prompt = b->o.prompt < MOE_BENCH_WARM ? b->o.prompt : MOE_BENCH_WARM;

    for (n = 0; n < MOE_BENCH_WARM; n += prompt) {

        b->ended = 0;
        moe_bench_submit(b, 0, prompt);

        while (b->ended == 0) {
            if (moe_gen_step(b->gen, err) < 0) {
                return -1;
            }
        }
    }

    return 0;
}


static int
moe_bench_round(moe_bench_t *b, uint32_t batch, moe_err_t *err)
{
    uint32_t  i, steps;
    uint64_t  start, middle, end, sampled;

    b->begun = 0;
    b->ended = 0;
    b->sampled = 0;
    steps = 0;

    start = moe_bench_now();

    for (i = 0; i < batch; i++) {
        moe_bench_submit(b, i, b->o.prompt);
    }

    while (b->begun < batch && b->ended < batch) {
        if (moe_gen_step(b->gen, err) < 0) {
            return -1;
        }
    }

    middle = moe_bench_now();
    sampled = b->sampled;

    while (b->ended < batch) {
        if (moe_gen_step(b->gen, err) < 0) {
            return -1;
        }

        steps++;
    }

    end = moe_bench_now();

    if (b->failed) {
        return moe_err(err, "%u of the sequences failed", b->failed);
    }

    printf("| %u | %.1f | %.1f | %.2f |\n", batch,
           (double) batch * b->o.prompt * 1e6 / (double) (middle - start + 1),
           (double) (b->sampled - sampled) * 1e6 / (double) (end - middle + 1),
           (double) (end - middle) / 1e3 / (steps ? steps : 1));
    fflush(stdout);

    return 0;
}


static void
moe_bench_submit(moe_bench_t *b, uint32_t tag, uint32_t prompt)
{
    uint32_t   i;
    moe_job_t  job;

    for (i = 0; i < prompt; i++) {
        b->random = b->random * 6364136223846793005ull
                    + 1442695040888963407ull;
        b->ids[i] = (uint32_t) ((b->random >> 33)
                                % moe_model_vocab_size(b->model));
    }

    memset(&job, 0, sizeof(job));
    job.kind = MOE_JOB_IDS;
    job.n = 1;
    job.max_tokens = b->o.tokens;
    job.credit = UINT32_MAX;
    job.top_p = 1.0f;
    job.repetition = 1.0f;
    job.nprompts = 1;
    job.prompts[0].is_ids = 1;
    job.prompts[0].n = prompt;
    job.prompts[0].data = b->ids;

    (void) moe_gen_submit(b->gen, &job, tag);
}


static uint64_t
moe_bench_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


static void
moe_bench_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static void
moe_bench_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    moe_bench_t  *b;

    b = ctx;
    b->sampled += d->nids;
    b->begun += d->completion_tokens == 1;
}


static void
moe_bench_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    moe_bench_t  *b;

    b = ctx;
    b->ended++;
    b->failed += e->status != 200;
}
