#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "compare.h"
#include "compare_base.h"
#include "main.h"
#include "model/model.h"
#include "text/tokenizer.h"


enum {
    MAX_MODELS = 16,
    TEXT_MAX = 64 << 20,
    WINDOW = 256
};


typedef struct {
    const char   *dir;
    moe_model_t  *model;
    float        *logits;       /* [window][vocab] */
    double        nll;          /* sums over all tokens */
    double        kl;
    double        kl_max;
    uint64_t      same;         /* likeliest token as the reference's */
} side_t;

typedef struct {
    const char           *text;
    const char           *base;
    const char           *noise;
    const char           *kernels;
    moe_kv_format_e       kv_format;    /* of all but the first */
    uint32_t              window;
    uint32_t              limit;        /* tokens; 0: all */
    uint32_t              threads;
    uint32_t              n;
    side_t                sides[MAX_MODELS];
    uint32_t              vocab;
    uint64_t              tokens;       /* judged */
    moe_ids_t             ids;
} compare_t;


static int parse(compare_t *c, int argc, char **argv);
static int with_base(const compare_t *c, moe_err_t *err);
static int open_all(compare_t *c, moe_err_t *err);
static int run(compare_t *c, moe_err_t *err);
static void print(const compare_t *c);
static void close_all(compare_t *c);


static const char  help[] =
    "usage: moe-engine compare --text FILE [options] REFERENCE DIR...\n"
    "       moe-engine compare --base FILE [--noise FILE] [options] DIR...\n"
    "\n"
    "Reads FILE with every model, the right token always given, and says how\n"
    "likely each finds it and how far each is from the first one.  For what\n"
    "quantization costs: the source first, then what quantize wrote.\n"
    "\n"
    "With --base, the reference is what llama.cpp made of the same model, as\n"
    "\"llama-perplexity --kl-divergence-base FILE\" writes it; tokens are those\n"
    "in FILE.  --noise is another such file, of the same values in float32: how\n"
    "far that program is from itself by its rounding of activations.\n"
    "\n"
    "  --text FILE      UTF-8; split by the first model's tokenizer\n"
    "  --window N       tokens read at a time, each time anew (default: 256)\n"
    "  --tokens N       only the first N tokens of FILE\n"
    "  --threads N      computing threads (default: all cores)\n"
    "  --kernels NAME   plain, avx2, avx512, plain-bf16, avx512-bf16,\n"
    "                   plain-fp8, cuda or cuda-fp8\n"
    "                   (default: the fastest of the first three)\n"
    "  --kv-format F    f32, bf16 or int8, of all but the first (default:\n"
    "                   f32)\n";

static const struct option  longs[] = {
    { "text", required_argument, NULL, 'f' },
    { "base", required_argument, NULL, 'b' },
    { "noise", required_argument, NULL, 'z' },
    { "window", required_argument, NULL, 'w' },
    { "tokens", required_argument, NULL, 'n' },
    { "threads", required_argument, NULL, 't' },
    { "kernels", required_argument, NULL, 'k' },
    { "kv-format", required_argument, NULL, 'v' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
moe_compare_main(int argc, char **argv)
{
    int        rc;
    compare_t  c;
    moe_err_t  err;

    memset(&c, 0, sizeof(c));
    c.window = WINDOW;

    rc = parse(&c, argc, argv);
    if (rc != 0) {
        return rc > 0 ? 0 : MOE_EXIT_USAGE;
    }

    if (c.base != NULL) {
        rc = with_base(&c, &err);
    } else {
        rc = open_all(&c, &err) != 0 || run(&c, &err) != 0;
    }

    if (rc != 0) {
        fprintf(stderr, "moe-engine compare: %s\n", err.text);
    } else if (c.base == NULL) {
        print(&c);
    }

    close_all(&c);

    return rc != 0 ? MOE_EXIT_ERROR : 0;
}


static int
number(const char *name, uint32_t min, uint32_t *n)
{
    char           *end;
    unsigned long   v;

    errno = 0;
    v = strtoul(optarg, &end, 10);

    if (errno || end == optarg || *end != '\0' || optarg[0] == '-' || v < min
        || v > INT32_MAX)
    {
        fprintf(stderr, "moe-engine compare: --%s: \"%s\" is not a number of "
                "at least %u\n", name, optarg, min);
        return -1;
    }

    *n = (uint32_t) v;

    return 0;
}


/* 0, 1 where there is nothing more to do, -1 on wrong usage */
static int
parse(compare_t *c, int argc, char **argv)
{
    int  o, rc;

    optind = 1;
    rc = 0;

    while ((o = getopt_long(argc, argv, "h", longs, NULL)) != -1) {

        switch (o) {
        case 'h':
            fputs(help, stdout);
            return 1;
        case 'f':
            c->text = optarg;
            break;
        case 'b':
            c->base = optarg;
            break;
        case 'z':
            c->noise = optarg;
            break;
        case 'k':
            c->kernels = optarg;
            break;

        case 'v':
            rc = moe_kv_format_parse(optarg, &c->kv_format);
            if (rc != 0) {
                fprintf(stderr, "moe-engine compare: --kv-format: \"%s\" is "
                        "not f32, bf16 or int8\n", optarg);
            }
            break;
        case 'w':
            rc |= number("window", 2, &c->window);
            break;
        case 'n':
            rc |= number("tokens", 2, &c->limit);
            break;
        case 't':
            rc |= number("threads", 1, &c->threads);
            break;
        default:
            rc = -1;
        }
    }

    if (rc != 0) {
        fputs("\"moe-engine compare --help\" says what there is\n", stderr);
        return -1;
    }

    if ((c->text == NULL) == (c->base == NULL)
        || (c->noise != NULL && c->base == NULL) || optind == argc
        || argc - optind > MAX_MODELS)
    {
        fprintf(stderr, "moe-engine compare: --text or --base FILE and one "
                "to %d model "
                "directories are needed\n\n%s", (int) MAX_MODELS, help);
        return -1;
    }

    for (o = optind; o < argc; o++) {
        c->sides[c->n++].dir = argv[o];
    }

    return 0;
}


static int
with_base(const compare_t *c, moe_err_t *err)
{
    uint32_t             i;
    const char          *dirs[MAX_MODELS];
    moe_compare_base_t   o = { c->base, c->noise, c->kernels, c->threads,
                               c->n, dirs };

    for (i = 0; i < c->n; i++) {
        dirs[i] = c->sides[i].dir;
    }

    return moe_compare_base(&o, err);
}


static int
read_text(compare_t *c, moe_err_t *err)
{
    int               rc;
    char             *text;
    size_t            len;
    moe_tokenizer_t  *t;

    text = moe_file_read(c->text, TEXT_MAX, &len, NULL, err);
    if (text == NULL) {
        return -1;
    }

    t = moe_tokenizer_load(c->sides[0].dir, err);
    rc = t == NULL ? -1 : moe_tokenizer_encode(t, text, len, NULL,
                                               MOE_TOK_SPECIAL, &c->ids, err);
    moe_tokenizer_free(t);
    free(text);

    if (rc == 0 && c->ids.n < 2) {
        return moe_err(err, "%s: too little text", c->text);
    }

    return rc;
}


static int
open_all(compare_t *c, moe_err_t *err)
{
    side_t               *s;
    uint32_t              i;
    moe_model_options_t   o = { 0 };

    if (read_text(c, err) != 0) {
        return -1;
    }

    o.threads = c->threads;
    o.kernels = c->kernels;
    o.max_rows = c->window;
    o.kv_pages = c->window / MOE_PAGE_SIZE + 1;

    for (i = 0; i < c->n; i++) {
        s = &c->sides[i];
        o.kv_format = i == 0 ? MOE_KV_F32 : c->kv_format;

        s->model = moe_model_open(s->dir, &o, NULL, NULL, err);
        if (s->model == NULL) {
            return -1;
        }

        c->vocab = i == 0 ? moe_model_vocab_size(s->model) : c->vocab;

        if (moe_model_vocab_size(s->model) != c->vocab
            || moe_model_max_position(s->model) < c->window)
        {
            return moe_err(err, "%s: another vocabulary than %s, or a "
                           "context of less than %u", s->dir,
                           c->sides[0].dir, c->window);
        }

        s->logits = malloc((size_t) c->window * c->vocab * sizeof(float));
        if (s->logits == NULL) {
            return moe_err(err, "no memory for %u rows of logits",
                           c->window);
        }
    }

    return 0;
}


static int
step(compare_t *c, side_t *s, const uint32_t *ids, uint32_t n,
    const uint32_t *count, moe_err_t *err)
{
    int               rc;
    uint8_t          *role;
    uint32_t         *seq;
    moe_batch_t       b;
    const uint32_t   *tables[1] = { count };

    role = calloc(n, 1);
    seq = calloc(n, sizeof(uint32_t));

    if (role == NULL || seq == NULL) {
        rc = moe_err(err, "out of memory");

    } else {
        b = (moe_batch_t) { n, ids, count, seq, role, 1, tables, n, count };
        rc = moe_model_step(s->model, &b, s->logits, err);
    }

    free(role);
    free(seq);

    return rc;
}


/* log of the sum of e^x, and the index of the largest */
static double
log_sum(const float *x, uint32_t n, uint32_t *best)
{
    double    sum;
    uint32_t  i;

    *best = 0;
    for (i = 1; i < n; i++) {
        *best = x[i] > x[*best] ? i : *best;
    }

    sum = 0;
    for (i = 0; i < n; i++) {
        sum += exp((double) x[i] - x[*best]);
    }

    return log(sum) + x[*best];
}


static void
judge(compare_t *c, uint32_t row, uint32_t next)
{
    double        ref_log, own_log, kl, p;
    side_t       *s;
    uint32_t      i, j, ref_best, best;
    const float  *ref, *own;

    ref = c->sides[0].logits + (size_t) row * c->vocab;
    ref_log = log_sum(ref, c->vocab, &ref_best);

    for (i = 0; i < c->n; i++) {
        s = &c->sides[i];
        own = s->logits + (size_t) row * c->vocab;
        own_log = log_sum(own, c->vocab, &best);
        kl = 0;

        for (j = 0; j < c->vocab; j++) {
            p = (double) ref[j] - ref_log;
            kl += exp(p) * (p - ((double) own[j] - own_log));
        }

        s->nll += own_log - own[next];
        s->kl += kl;
        s->kl_max = kl > s->kl_max ? kl : s->kl_max;
        s->same += best == ref_best;
    }

    c->tokens++;
}


static int
run(compare_t *c, moe_err_t *err)
{
    size_t     at, end, n;
    uint32_t   i, *count;

    end = c->limit && c->limit < c->ids.n ? c->limit : c->ids.n;
    count = malloc(c->window * sizeof(uint32_t));

    if (count == NULL) {
        return moe_err(err, "out of memory");
    }

    for (i = 0; i < c->window; i++) {
        count[i] = i;
    }

    for (at = 0; at + 1 < end; at += n) {
        n = end - at < c->window ? end - at : c->window;

        for (i = 0; i < c->n; i++) {
            if (step(c, &c->sides[i], c->ids.ids + at, (uint32_t) n, count,
                     err)
                != 0)
            {
                free(count);
                return -1;
            }
        }

        for (i = 0; i + 1 < n; i++) {
            judge(c, i, c->ids.ids[at + i + 1]);
        }
    }

    free(count);

    return 0;
}


static void
print(const compare_t *c)
{
    double         n;
    uint32_t       i;
    const side_t  *s;

    n = (double) c->tokens;

    printf("%llu tokens of %s, windows of %u\n\n"
           "| model | perplexity | same likeliest token | mean KL | "
           "largest KL |\n"
           "|---|---:|---:|---:|---:|\n",
           (unsigned long long) c->tokens, c->text, c->window);

    for (i = 0; i < c->n; i++) {
        s = &c->sides[i];

        printf("| %s | %.4f | %.2f %% | %.6f | %.4f |\n", s->dir,
               exp(s->nll / n), 100.0 * (double) s->same / n, s->kl / n,
               s->kl_max);
    }
}


static void
close_all(compare_t *c)
{
    uint32_t  i;

    for (i = 0; i < c->n; i++) {
        moe_model_close(c->sides[i].model);
        free(c->sides[i].logits);
    }

    moe_ids_free(&c->ids);
}
