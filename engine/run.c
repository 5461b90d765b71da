#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/rand.h>

#include "front/text.h"
#include "gen.h"
#include "main.h"
#include "model/model.h"
#include "run.h"
#include "run_ranks.h"
#include "text/detok.h"


/* the longest prompt that is read from standard input */
#define MOE_RUN_PROMPT_MAX  (16u << 20)

#define MOE_RUN_TOKENS      256

enum {
    MOE_RUN_OPT_TEMP = 256,
    MOE_RUN_OPT_SEED,
    MOE_RUN_OPT_CHAT,
    MOE_RUN_OPT_THREADS,
    MOE_RUN_OPT_KERNELS,
    MOE_RUN_OPT_RANKS,
    MOE_RUN_OPT_NO_DRAFTS
};


typedef struct {
    const char        *dir;
    const char        *prompt;
    const char        *kernels;
    uint64_t           seed;
    double             temperature;
    uint32_t           tokens;
    uint32_t           threads;
    uint32_t           ranks;
    unsigned           chat:1;
    unsigned           no_drafts:1;
    unsigned           has_seed:1;
    unsigned           has_temperature:1;
} moe_run_options_t;


typedef struct {
    moe_run_options_t  o;
    moe_text_t         text;
    moe_run_ranks_t    ranks;
    moe_model_t       *model;
    moe_gen_t         *gen;
    moe_ids_t          ids;
    char              *input;         /* the prompt, where it was read */
    moe_detok_t        detok;
    uint64_t           began_us;
    uint64_t           first_us;
    uint64_t           last_us;
    moe_end_t          end;
    char               message[256];
    moe_finish_e       finish;
    unsigned           ended:1;
    unsigned           closed:1;      /* nobody reads standard output */
} moe_run_t;


static int moe_run_parse(moe_run_options_t *o, int argc, char **argv);
static int moe_run_number(const char *name, const char *value, uint64_t max,
    uint64_t *n);
static int moe_run_ranks(moe_run_t *r, moe_err_t *err);
static int moe_run_open(moe_run_t *r, const moe_model_options_t *mo,
    moe_err_t *err);
static int moe_run_progress(void *ctx, const char *what, uint32_t percent);
static int moe_run_prompt(moe_run_t *r, moe_err_t *err);
static int moe_run_input(moe_run_t *r, moe_err_t *err);
static int moe_run_answer(moe_run_t *r, moe_err_t *err);
static void moe_run_job(moe_run_t *r, moe_job_t *job);
static void moe_run_summary(const moe_run_t *r);
static void moe_run_write(moe_run_t *r, const char *text, size_t len);
static uint64_t moe_run_now(void);

static void moe_run_started(void *ctx, uint64_t tag, const moe_started_t *s);
static void moe_run_delta(void *ctx, uint64_t tag, const moe_delta_t *d);
static void moe_run_end(void *ctx, uint64_t tag, const moe_end_t *e);


static const char  moe_run_help[] =
    "usage: moe-engine run -m DIR -p PROMPT [options]\n"
    "\n"
    "Answers one prompt with the model in DIR.  The text goes to standard\n"
    "output as it is made, everything else to standard error.\n"
    "\n"
    "  -m, --model DIR      Hugging Face directory: config.json,\n"
    "                       safetensors, tokenizer.json or tiktoken.model;\n"
    "                       or a GGUF file\n"
    "  -p, --prompt PROMPT  text to go on from, or with --chat a message to\n"
    "                       answer; \"-\" reads it from standard input\n"
    "  -n, --tokens N       at most N tokens (default: 256)\n"
    "  --chat               put the prompt through the model's chat template\n"
    "  --temp T             temperature; 0 takes the likeliest token (default:\n"
    "                       the model's)\n"
    "  --seed S             of the random numbers (default: a new one, which\n"
    "                       is printed); the same seed gives the same answer\n"
    "  --threads N          computing threads (default: all cores)\n"
    "  --kernels NAME       plain, avx2, avx512, plain-bf16, avx512-bf16,\n"
    "                       plain-fp8, cuda or cuda-fp8 (default: the fastest\n"
    "                       of the first three)\n"
    "  --ranks N            processes that the model's experts are spread\n"
    "                       over, up to 16 (default: 1; under mpirun or srun\n"
    "                       as many as those have started; so with torchrun\n"
    "                       and --kernels cuda)\n"
    "  --no-drafts          one token a step, also where the model has an MTP\n"
    "                       layer; the answer is the same\n"
    "\n"
    "Exit codes: 0 answered, 1 error, 2 wrong options.\n"
    "\n"
    "Example\n"
    "  moe-engine run -m models/demo --chat -p \"Tell me a story.\"\n";


static const struct option  moe_run_long[] = {
    { "model", required_argument, NULL, 'm' },
    { "prompt", required_argument, NULL, 'p' },
    { "tokens", required_argument, NULL, 'n' },
    { "temp", required_argument, NULL, MOE_RUN_OPT_TEMP },
    { "seed", required_argument, NULL, MOE_RUN_OPT_SEED },
    { "chat", no_argument, NULL, MOE_RUN_OPT_CHAT },
    { "threads", required_argument, NULL, MOE_RUN_OPT_THREADS },
    { "kernels", required_argument, NULL, MOE_RUN_OPT_KERNELS },
    { "ranks", required_argument, NULL, MOE_RUN_OPT_RANKS },
    { "no-drafts", no_argument, NULL, MOE_RUN_OPT_NO_DRAFTS },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
moe_run_main(int argc, char **argv)
{
    int        rc;
    moe_err_t  err;
    moe_run_t  r;

    memset(&r, 0, sizeof(r));

    rc = moe_run_parse(&r.o, argc, argv);
    if (rc != 0) {
        return rc > 0 ? 0 : MOE_EXIT_USAGE;
    }

    rc = moe_run_ranks(&r, &err);

    if (rc < 0) {
        fprintf(stderr, "moe-engine run: %s\n", err.text);
    }

    moe_gen_destroy(r.gen);
    moe_model_close(r.model);
    moe_text_free(&r.text);
    moe_ids_free(&r.ids);
    free(r.input);

    return moe_run_ranks_stop(&r.ranks, rc < 0 ? MOE_EXIT_ERROR : 0);
}


/* what this process is to do, of all that compute */
static int
moe_run_ranks(moe_run_t *r, moe_err_t *err)
{
    int                  rc;
    moe_model_options_t  mo;

    memset(&mo, 0, sizeof(mo));
    mo.threads = r->o.threads;
    mo.kernels = r->o.kernels;
    mo.mtp = !r->o.no_drafts;

    rc = moe_run_ranks_start(&r->ranks, r->o.ranks, r->o.dir, &mo, err);

    if (rc == 1) {
        return moe_run_ranks_follow(&r->ranks, r->o.dir, &mo, err);
    }

    if (rc != 0
        || moe_run_open(r, &mo, err) != 0
        || moe_run_prompt(r, err) != 0
        || moe_run_answer(r, err) != 0)
    {
        return -1;
    }

    return moe_run_ranks_leave(&r->ranks, r->model, err);
}


/* 0, 1 where there is nothing more to do, -1 on wrong usage */
static int
moe_run_parse(moe_run_options_t *o, int argc, char **argv)
{
    int       c;
    char     *end;
    uint64_t  n;

    n = 0;
    o->tokens = MOE_RUN_TOKENS;
    optind = 1;

    while ((c = getopt_long(argc, argv, "m:p:n:h", moe_run_long, NULL)) != -1)
    {
        switch (c) {

        case 'm':
            o->dir = optarg;
            break;

        case 'p':
            o->prompt = optarg;
            break;

        case 'n':
            if (moe_run_number("tokens", optarg, UINT32_MAX - 1, &n) != 0) {
                return -1;
            }

            o->tokens = (uint32_t) n;
            break;

        case MOE_RUN_OPT_TEMP:
            errno = 0;
            o->temperature = strtod(optarg, &end);
            o->has_temperature = 1;

            if (errno || end == optarg || *end || !(o->temperature >= 0.0)
                || o->temperature > 100.0)
            {
                fprintf(stderr, "moe-engine run: --temp: \"%s\" is not a "
                        "number from 0 to 100\n", optarg);
                return -1;
            }

            break;

        case MOE_RUN_OPT_SEED:
            if (moe_run_number("seed", optarg, UINT64_MAX, &o->seed) != 0) {
                return -1;
            }

            o->has_seed = 1;
            break;

        case MOE_RUN_OPT_CHAT:
            o->chat = 1;
            break;

        case MOE_RUN_OPT_THREADS:
            if (moe_run_number("threads", optarg, 1024, &n) != 0) {
                return -1;
            }

            o->threads = (uint32_t) n;
            break;

        case MOE_RUN_OPT_KERNELS:
            o->kernels = optarg;
            break;

        case MOE_RUN_OPT_RANKS:
            if (moe_run_number("ranks", optarg, MOE_LINK_RANKS, &n) != 0) {
                return -1;
            }

            o->ranks = (uint32_t) n;
            break;

        case MOE_RUN_OPT_NO_DRAFTS:
            o->no_drafts = 1;
            break;

        case 'h':
            fputs(moe_run_help, stdout);
            return 1;

        default:
            fputs("\"moe-engine run --help\" says what there is\n", stderr);
            return -1;
        }
    }

    if (optind != argc) {
        fprintf(stderr, "moe-engine run: unexpected \"%s\"; \"moe-engine run "
                "--help\" says what there is\n", argv[optind]);
        return -1;
    }

    if (o->dir == NULL || o->prompt == NULL) {
        fputs("moe-engine run: -m DIR and -p PROMPT are needed\n\n", stderr);
        fputs(moe_run_help, stderr);
        return -1;
    }

    return 0;
}


static int
moe_run_number(const char *name, const char *value, uint64_t max, uint64_t *n)
{
    char                *end;
    unsigned long long   v;

    errno = 0;
    v = strtoull(value, &end, 10);

    if (errno || end == value || *end || strchr(value, '-') != NULL
        || v > max)
    {
        fprintf(stderr, "moe-engine run: --%s: \"%s\" is not a number from 0 "
                "to %llu\n", name, value, (unsigned long long) max);
        return -1;
    }

    *n = v;

    return 0;
}


static int
moe_run_open(moe_run_t *r, const moe_model_options_t *mo, moe_err_t *err)
{
    if (moe_text_load(&r->text, r->o.dir, NULL, 0, err) != 0) {
        return -1;
    }

    r->model = moe_model_open(r->o.dir, mo, moe_run_progress, NULL, err);

    return r->model != NULL ? 0 : -1;
}


/* only where someone is there to see it */
static int
moe_run_progress(void *ctx, const char *what, uint32_t percent)
{
    if (isatty(STDERR_FILENO)) {
        fprintf(stderr, "\rloading %3u%% %-20s%s", percent, what,
                percent == 100 ? "\r                             \r" : "");
    }

    return 0;
}


static int
moe_run_prompt(moe_run_t *r, moe_err_t *err)
{
    int  rc;

    if (strcmp(r->o.prompt, "-") == 0 && moe_run_input(r, err) != 0) {
        return -1;
    }

    if (r->o.chat) {
        rc = moe_text_ask(&r->text, r->o.prompt, &r->ids, err);

    } else {
        rc = moe_tokenizer_encode(r->text.tokenizer, r->o.prompt,
                                  strlen(r->o.prompt), NULL,
                                  MOE_TOK_ADD_BOS|MOE_TOK_SPECIAL, &r->ids,
                                  err);
    }

    if (rc == 0 && r->ids.n == 0) {
        return moe_err(err, "the prompt is empty");
    }

    return rc;
}


static int
moe_run_input(moe_run_t *r, moe_err_t *err)
{
    size_t  n, size;
    char   *p;

    n = 0;
    size = 0;

    do {
        if (n + 1 >= size) {
            size = size * 2 + 4096;

            p = realloc(r->input, size);
            if (p == NULL) {
                return moe_err(err, "no memory for the prompt");
            }

            r->input = p;
        }

        n += fread(r->input + n, 1, size - n - 1, stdin);

        if (n > MOE_RUN_PROMPT_MAX) {
            return moe_err(err, "the prompt is longer than %u bytes",
                           MOE_RUN_PROMPT_MAX);
        }

    } while (!feof(stdin) && !ferror(stdin));

    r->input[n] = '\0';
    r->o.prompt = r->input;

    return 0;
}


static int
moe_run_answer(moe_run_t *r, moe_err_t *err)
{
    int                          rc;
    char                         text[MOE_DETOK_MAX];
    uint64_t                     n;
    moe_job_t                    job;
    moe_gen_options_t            go;
    static const moe_gen_sink_t  sink = {
        moe_run_started, moe_run_delta, moe_run_end
    };

    n = (uint64_t) r->ids.n + r->o.tokens;

    if (n > moe_model_max_position(r->model)) {
        n = moe_model_max_position(r->model);
    }

    if (moe_model_kv_resize(r->model, (uint32_t) (n / MOE_PAGE_SIZE + 1), err)
        != 0)
    {
        return -1;
    }

    memset(&go, 0, sizeof(go));
    go.max_running = 1;

    r->gen = moe_gen_create(r->model, &go, &sink, r, err);
    if (r->gen == NULL) {
        return -1;
    }

    moe_run_job(r, &job);
    moe_detok_init(&r->detok, r->text.tokenizer, MOE_DETOK_SKIP_SPECIAL);

    r->began_us = moe_run_now();
    (void) moe_gen_submit(r->gen, &job, 0);

    while (!r->ended && !r->closed) {
        rc = moe_gen_step(r->gen, err);

        if (rc < 0) {
            return -1;
        }
    }

    if (r->closed) {
        return moe_err(err, "standard output: %s", strerror(errno));
    }

    if (r->end.status != 200) {
        return moe_err(err, "%s", r->message);
    }

    moe_run_write(r, text, moe_detok_flush(&r->detok, text));
    moe_run_write(r, "\n", 1);
    moe_run_summary(r);

    return 0;
}


static void
moe_run_job(moe_run_t *r, moe_job_t *job)
{
    const moe_generation_t  *g;

    g = &r->text.config.gen;
    memset(job, 0, sizeof(moe_job_t));

    if (!r->o.has_seed) {
        RAND_bytes((unsigned char *) &r->o.seed, sizeof(r->o.seed));

        /* short enough to be typed again */
        r->o.seed %= 1000000000;
    }

    job->kind = MOE_JOB_IDS;
    job->n = 1;
    job->seed = r->o.seed;
    job->max_tokens = r->o.tokens;
    job->credit = UINT32_MAX;

    job->temperature = g->has_temperature ? (float) g->temperature : 1.0f;
    job->top_p = g->has_top_p ? (float) g->top_p : 1.0f;
    job->top_k = g->has_top_k ? g->top_k : 0;
    job->min_p = g->has_min_p ? (float) g->min_p : 0.0f;
    job->repetition = g->has_repetition_penalty
                      ? (float) g->repetition_penalty : 1.0f;

    if (g->has_do_sample && !g->do_sample) {
        job->temperature = 0.0f;
    }

    if (r->o.has_temperature) {
        job->temperature = (float) r->o.temperature;
    }

    job->nprompts = 1;
    job->prompts[0].is_ids = 1;
    job->prompts[0].n = (uint32_t) r->ids.n;
    job->prompts[0].data = r->ids.ids;
    job->nstop_ids = r->text.neos;
    job->stop_ids = r->text.eos;
}


static void
moe_run_summary(const moe_run_t *r)
{
    double  prefill, decode;

    prefill = (double) (r->first_us - r->began_us) / 1e6;
    decode = (double) (r->last_us - r->first_us) / 1e6;

    fprintf(stderr, "\n[%s; %u prompt tokens in %.2f s, %u sampled",
            r->finish == MOE_FINISH_STOP ? "stop" : "length",
            r->end.prompt_tokens, r->first_us ? prefill : 0.0,
            r->end.completion_tokens);

    if (r->end.completion_tokens > 1 && decode > 0.0) {
        fprintf(stderr, ", %.1f tokens/s",
                (r->end.completion_tokens - 1) / decode);
    }

    fprintf(stderr, "; seed %llu]\n", (unsigned long long) r->o.seed);
}


static void
moe_run_write(moe_run_t *r, const char *text, size_t len)
{
    if (fwrite(text, 1, len, stdout) != len || fflush(stdout) != 0) {
        r->closed = 1;
    }
}


static uint64_t
moe_run_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


static void
moe_run_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
}


static void
moe_run_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    char        text[MOE_DETOK_MAX];
    uint32_t    i, n;
    moe_run_t  *r;

    r = ctx;
    r->finish = d->finish;

    if (d->nids > 0) {
        r->last_us = moe_run_now();

        if (r->first_us == 0) {
            r->first_us = r->last_us;
        }
    }

    /* the id that ended it is no text */
    n = d->finish == MOE_FINISH_STOP && d->nids > 0 ? d->nids - 1 : d->nids;

    for (i = 0; i < n; i++) {
        moe_run_write(r, text, moe_detok_push(&r->detok, d->ids[i], text));
    }
}


static void
moe_run_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    moe_run_t  *r;

    r = ctx;
    r->end = *e;
    r->ended = 1;

    snprintf(r->message, sizeof(r->message), "%.*s", (int) e->message.len,
             e->message.data);
}
