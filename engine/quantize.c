#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "main.h"
#include "model/packed.h"
#include "model/quantize.h"
#include "quantize.h"


enum { MAX_RULES = 64 };


typedef struct {
    const char         *dir;
    const char         *out;
    const char         *verify;
    int                 quiet;
    moe_quantize_t      q;
    moe_format_rule_t   rules[MAX_RULES];
} options_t;


static int parse(options_t *o, int argc, char **argv);
static int option(options_t *o, int c);
static int verify(const char *path);
static int progress(void *ctx, const char *name, uint64_t done,
    uint64_t total);
static void summary(const options_t *o, const moe_quantized_t *done);


static const char  help[] =
    "usage: moe-engine quantize -m DIR -o OUT [options]\n"
    "       moe-engine quantize --verify FILE\n"
    "\n"
    "Writes OUT, a model directory with packed weights that every other\n"
    "command takes as it takes DIR; they are mapped, so it starts at once.\n"
    "\n"
    "  -m, --model DIR      Hugging Face directory or GGUF file, whose blocks\n"
    "                       keep their bits\n"
    "  -o, --output OUT     directory to be written\n"
    "  --format NAME        int8, or int4: routed experts in 4 bits, what\n"
    "                       every token passes in 8 (default: int8)\n"
    "  --set PATTERN=NAME   tensors whose name matches: int8, int4, mxfp4,\n"
    "                       bf16, f32 or keep; given often, the last counts\n"
    "  --threads N          computing threads (default: all cores)\n"
    "  -q, --quiet          do not say how far it is\n"
    "  --verify FILE        reads a model.moeq and compares its checksums\n"
    "\n"
    "Router, norms, embedding and kv_b are never packed.  For example:\n"
    "  --format int4 --set '*.shared_experts.*=int4'\n"
    "Exit codes: 0 done, 1 error, 2 wrong options.\n";

static const struct option  longs[] = {
    { "model", required_argument, NULL, 'm' },
    { "output", required_argument, NULL, 'o' },
    { "format", required_argument, NULL, 'f' },
    { "set", required_argument, NULL, 's' },
    { "threads", required_argument, NULL, 't' },
    { "verify", required_argument, NULL, 'v' },
    { "quiet", no_argument, NULL, 'q' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
moe_quantize_main(int argc, char **argv)
{
    int              rc;
    options_t        o;
    moe_err_t        err;
    moe_quantized_t  done;

    memset(&o, 0, sizeof(o));
    o.q.format = MOE_FORMAT_INT8;
    o.q.rules = o.rules;

    rc = parse(&o, argc, argv);
    if (rc != 0) {
        return rc > 0 ? 0 : MOE_EXIT_USAGE;
    }

    if (o.verify != NULL) {
        return verify(o.verify);
    }

    rc = moe_quantize(o.dir, o.out, &o.q,
                      o.quiet || !isatty(2) ? NULL : progress, NULL, &done,
                      &err);

    if (rc != 0) {
        fprintf(stderr, "moe-engine quantize: %s\n", err.text);
        return MOE_EXIT_ERROR;
    }

    summary(&o, &done);

    return 0;
}


/* 0, 1 where there is nothing more to do, -1 on wrong usage */
static int
parse(options_t *o, int argc, char **argv)
{
    int  c;

    optind = 1;

    while ((c = getopt_long(argc, argv, "m:o:qh", longs, NULL)) != -1) {

        if (c == 'h') {
            fputs(help, stdout);
            return 1;
        }

        if (option(o, c) != 0) {
            return -1;
        }
    }

    if (optind != argc) {
        fprintf(stderr, "moe-engine quantize: unexpected \"%s\"; "
                "\"moe-engine quantize --help\" says what there is\n",
                argv[optind]);
        return -1;
    }

    if (o->verify == NULL && (o->dir == NULL || o->out == NULL)) {
        fputs("moe-engine quantize: -m DIR and -o OUT, or --verify FILE, are "
              "needed\n\n", stderr);
        fputs(help, stderr);
        return -1;
    }

    return 0;
}


static int
option_set(options_t *o)
{
    char          *eq;
    moe_format_e   f;

    eq = strrchr(optarg, '=');
    f = eq != NULL ? moe_format_find(eq + 1) : MOE_FORMAT_NONE;

    if (f == MOE_FORMAT_NONE || o->q.nrules == MAX_RULES) {
        fprintf(stderr, "moe-engine quantize: --set %s: %s\n", optarg,
                f == MOE_FORMAT_NONE ? "not PATTERN=FORMAT" : "too many");
        return -1;
    }

    *eq = '\0';
    o->rules[o->q.nrules++] = (moe_format_rule_t) { optarg, f };

    return 0;
}


static int
option(options_t *o, int c)
{
    char           *end;
    unsigned long   n;

    switch (c) {

    case 'm':
        o->dir = optarg;
        return 0;

    case 'o':
        o->out = optarg;
        return 0;

    case 'v':
        o->verify = optarg;
        return 0;

    case 'q':
        o->quiet = 1;
        return 0;

    case 's':
        return option_set(o);

    case 'f':
        o->q.format = moe_format_find(optarg);
        if (o->q.format == MOE_FORMAT_INT8 || o->q.format == MOE_FORMAT_INT4) {
            return 0;
        }
        fprintf(stderr, "moe-engine quantize: --format \"%s\" is neither "
                "int8 nor int4\n", optarg);
        return -1;

    case 't':
        n = strtoul(optarg, &end, 10);
        if (end != optarg && *end == '\0' && n <= 1024) {
            o->q.threads = (uint32_t) n;
            return 0;
        }
        fprintf(stderr, "moe-engine quantize: --threads \"%s\"\n", optarg);
        return -1;

    default:
        fputs("\"moe-engine quantize --help\" says what there is\n", stderr);
        return -1;
    }
}


static int
verify(const char *path)
{
    int          fd, rc;
    void        *p;
    moe_err_t    err;
    struct stat  sb;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    p = MAP_FAILED;

    if (fd >= 0 && fstat(fd, &sb) == 0) {
        p = mmap(NULL, (size_t) sb.st_size, PROT_READ, MAP_SHARED, fd, 0);
    }

    if (p == MAP_FAILED) {
        rc = moe_err(&err, "%s: %s", path, strerror(errno));
    } else {
        rc = moe_packed_verify(p, (uint64_t) sb.st_size, path, &err);
        munmap(p, (size_t) sb.st_size);
    }

    if (fd >= 0) {
        close(fd);
    }

    if (rc != 0) {
        fprintf(stderr, "moe-engine quantize: %s\n", err.text);
        return MOE_EXIT_ERROR;
    }

    printf("%s: good\n", path);

    return 0;
}


static int
progress(void *ctx, const char *name, uint64_t done, uint64_t total)
{
    fprintf(stderr, "\r%3.0f %% %-60.60s",
            100.0 * (double) done / (double) (total + 1), name);

    return 0;
}


static void
summary(const options_t *o, const moe_quantized_t *done)
{
    int  f;

    if (!o->quiet && isatty(2)) {
        fprintf(stderr, "\r%66s\r", "");
    }

    for (f = 0; f < MOE_FORMAT_NONE; f++) {
        if (done->tensors[f] != 0) {
            printf("%-5s %8llu tensors, %.3f M weights\n",
                   moe_format_name((moe_format_e) f),
                   (unsigned long long) done->tensors[f],
                   (double) done->weights[f] / 1e6);
        }
    }

    printf("%s/" MOE_PACKED_FILE ": %.1f MB of %.1f MB\n", o->out,
           (double) done->bytes_out / 1e6, (double) done->bytes_in / 1e6);
}
