#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "front/front.h"


enum {
    MOE_OPT_MODEL = 'm',
    MOE_OPT_HELP = 'h',
    MOE_OPT_NAME = 256,
    MOE_OPT_SOCKET,
    MOE_OPT_MODE,
    MOE_OPT_GROUP,
    MOE_OPT_TEMPLATE,
    MOE_OPT_RANKS,
    MOE_OPT_THREADS,
    MOE_OPT_CONTEXT,
    MOE_OPT_RUNNING,
    MOE_OPT_STEP,
    MOE_OPT_CHUNK,
    MOE_OPT_STEP_TIME,
    MOE_OPT_DRAFTS,
    MOE_OPT_KV,
    MOE_OPT_KV_FORMAT,
    MOE_OPT_KERNELS,
    MOE_OPT_QUEUE,
    MOE_OPT_DRAIN,
    MOE_OPT_EXPERTS,
    MOE_OPT_TRANSPORT,
    MOE_OPT_REPLICAS,
    MOE_OPT_REBALANCE,
    MOE_OPT_NODES,
    MOE_OPT_OVERLAP,
    MOE_OPT_ROW_FORMAT,
    MOE_OPT_EXCHANGE,
    MOE_OPT_PARK,
    MOE_OPT_RANK_TIMEOUT,
    MOE_OPT_IDLE,
    MOE_OPT_LOG
};


static const struct option  moe_serve_long[] = {
    { "model", required_argument, NULL, MOE_OPT_MODEL },
    { "model-name", required_argument, NULL, MOE_OPT_NAME },
    { "socket", required_argument, NULL, MOE_OPT_SOCKET },
    { "socket-mode", required_argument, NULL, MOE_OPT_MODE },
    { "socket-group", required_argument, NULL, MOE_OPT_GROUP },
    { "chat-template", required_argument, NULL, MOE_OPT_TEMPLATE },
    { "ranks", required_argument, NULL, MOE_OPT_RANKS },
    { "threads", required_argument, NULL, MOE_OPT_THREADS },
    { "context", required_argument, NULL, MOE_OPT_CONTEXT },
    { "max-running", required_argument, NULL, MOE_OPT_RUNNING },
    { "step-tokens", required_argument, NULL, MOE_OPT_STEP },
    { "prefill-chunk", required_argument, NULL, MOE_OPT_CHUNK },
    { "step-time", required_argument, NULL, MOE_OPT_STEP_TIME },
    { "drafts", required_argument, NULL, MOE_OPT_DRAFTS },
    { "kv-memory", required_argument, NULL, MOE_OPT_KV },
    { "kv-format", required_argument, NULL, MOE_OPT_KV_FORMAT },
    { "kernels", required_argument, NULL, MOE_OPT_KERNELS },
    { "experts", required_argument, NULL, MOE_OPT_EXPERTS },
    { "transport", required_argument, NULL, MOE_OPT_TRANSPORT },
    { "replicas", required_argument, NULL, MOE_OPT_REPLICAS },
    { "rebalance", required_argument, NULL, MOE_OPT_REBALANCE },
    { "nodes", required_argument, NULL, MOE_OPT_NODES },
    { "overlap", required_argument, NULL, MOE_OPT_OVERLAP },
    { "row-format", required_argument, NULL, MOE_OPT_ROW_FORMAT },
    { "exchange-timeout", required_argument, NULL, MOE_OPT_EXCHANGE },
    { "queue", required_argument, NULL, MOE_OPT_QUEUE },
    { "drain-timeout", required_argument, NULL, MOE_OPT_DRAIN },
    { "park-timeout", required_argument, NULL, MOE_OPT_PARK },
    { "rank-timeout", required_argument, NULL, MOE_OPT_RANK_TIMEOUT },
    { "idle-exit", required_argument, NULL, MOE_OPT_IDLE },
    { "log-level", required_argument, NULL, MOE_OPT_LOG },
    { "help", no_argument, NULL, MOE_OPT_HELP },
    { NULL, 0, NULL, 0 }
};


/* where nobody says how often */
#define MOE_SERVE_REBALANCE_S  10


static const char  moe_serve_help[] =
    "usage: moe-engine serve -m DIR --socket PATH [options]\n"
    "\n"
    "Serves the model in DIR to nginx workers that connect to the Unix\n"
    "socket at PATH (moe_pass unix:PATH).  It stays in the foreground, logs\n"
    "one line an event on standard error and never listens on a network.\n"
    "\n"
    "The model\n"
    "  -m, --model DIR        Hugging Face directory: config.json,\n"
    "                         safetensors, tokenizer.json or tiktoken.model;\n"
    "                         or a GGUF file\n"
    "  --model-name NAME      what clients call it (default: DIR's last\n"
    "                         name); more than one may be given, the first\n"
    "                         is meant where a request names none\n"
    "  --chat-template FILE   Jinja template instead of the model's own\n"
    "  --context N            at most N tokens of prompt and answer\n"
    "                         (default: the model's)\n"
    "\n"
    "The socket\n"
    "  --socket PATH          where to listen; what a dead engine left there\n"
    "                         is replaced, a living one is not\n"
    "  --socket-mode MODE     permissions, octal (default: 0660)\n"
    "  --socket-group GROUP   its group: the one that nginx's workers run in\n"
    "\n"
    "Computing\n"
    "  --ranks N              processes that compute (default: 1)\n"
    "  --threads N            threads of each (default: the cores, shared\n"
    "                         among the ranks; or what the launcher has\n"
    "                         bound the rank to)\n"
    "  --experts WHERE        each: every rank has all experts (default);\n"
    "                         spread: over the ranks, up to 16, which then\n"
    "                         step together\n"
    "  --transport HOW        of spread experts: shm, between processes\n"
    "                         that serve starts; mpi, between those that\n"
    "                         mpirun or srun has started, on any hosts (up\n"
    "                         to 64); nccl: between GPUs, one for each of\n"
    "                         such processes, or of those that torchrun has\n"
    "                         started; auto: mpi where mpirun or srun has\n"
    "                         started serve (default)\n"
    "  --replicas N           spread experts: places for more than one of\n"
    "                         each, for those with most rows (default: an\n"
    "                         eighth of the experts)\n"
    "  --rebalance S          spread experts are placed anew by their loads\n"
    "                         every S seconds; 0: never (default: 10)\n"
    "  --nodes N              the ranks are on N nodes, equal runs of them;\n"
    "                         a group of experts, where the router chooses\n"
    "                         among groups, stays on one (default: 1,\n"
    "                         or the hosts that a launcher uses)\n"
    "  --overlap WHEN         over mpi or nccl, a step in two halves, one\n"
    "                         computed while the other's rows travel: auto\n"
    "                         (at sizes where that was seen to be faster,\n"
    "                         the default), off or on; rank 0's word\n"
    "                         counts, no answer changes\n"
    "  --row-format FORMAT    of rows on their way to experts and back: f32\n"
    "                         or bf16 (default: f32)\n"
    "  --max-running N        sequences in a batch of one rank (default: 64)\n"
    "  --step-tokens N        rows in a step (default: 512)\n"
    "  --prefill-chunk N      rows of one prompt in a step (default: 256)\n"
    "  --step-time MS         prompts take so few rows that a step in which\n"
    "                         others get tokens lasts about that long; 0: as\n"
    "                         many as there are (default: 200)\n"
    "  --drafts WHEN          tokens drafted ahead by the model's MTP layer,\n"
    "                         if it has one: auto (where it is faster, the\n"
    "                         default), off or always; no answer changes\n"
    "  --kv-memory SIZE       for the KV cache of one rank, as in 800m or\n"
    "                         16g (default: from the machine's memory)\n"
    "  --kv-format FORMAT     f32, bf16, or int8 in groups of 32 (default:\n"
    "                         f32)\n"
    "  --kernels NAME         plain, avx2 or avx512 (default: the fastest);\n"
    "                         avx512-bf16, plain-bf16: bf16 weights by inputs\n"
    "                         rounded to bf16; plain-fp8: FP8 weights by\n"
    "                         inputs in FP8; cuda, cuda-fp8, in a program\n"
    "                         made with CUDA=1\n"
    "\n"
    "Limits; times are in seconds\n"
    "  --queue N              requests that may wait; more are answered with\n"
    "                         429 or 503 (default: 1024)\n"
    "  --drain-timeout S      after SIGTERM, how long running requests may\n"
    "                         take to finish (default: 30)\n"
    "  --park-timeout S       a client that takes nothing for so long loses\n"
    "                         its request (default: 300)\n"
    "  --rank-timeout S       a rank that has jobs and does not move for so\n"
    "                         long is started again (default: 300)\n"
    "  --exchange-timeout S   spread experts: a rank that does not answer\n"
    "                         the others in a step for so long, 1 to 3600,\n"
    "                         is taken for dead; more than a layer of the\n"
    "                         largest step takes one rank (default: 10)\n"
    "  --idle-exit S          leave, with code 3, when no worker has been\n"
    "                         connected for so long (default: never)\n"
    "  --log-level LEVEL      error, warn, notice, info, debug (default: "
    "info)\n"
    "\n"
    "Signals: SIGTERM or SIGINT finishes what runs and leaves, a second one\n"
    "leaves at once; SIGHUP does nothing.\n"
    "Exit codes: 0 told to stop, 1 error, 2 wrong options, 3 idle.\n"
    "\n"
    "Example\n"
    "  moe-engine serve -m models/demo --socket /run/moe/engine.sock \\\n"
    "      --socket-group www-data --kv-memory 2g\n";


static int
moe_option_number(const char *name, const char *value, uint32_t min,
    uint32_t max, uint32_t *n, moe_err_t *err)
{
    char           *end;
    unsigned long   v;

    errno = 0;
    v = strtoul(value, &end, 10);

    if (errno || end == value || *end || value[0] == '-' || v < min || v > max)
    {
        return moe_err(err, "--%s: \"%s\" is not a number from %u to %u",
                       name, value, min, max);
    }

    *n = (uint32_t) v;

    return 0;
}


static int
moe_option_size(const char *name, const char *value, uint64_t *size,
    moe_err_t *err)
{
    int                  shift;
    char                *end;
    unsigned long long   v;

    errno = 0;
    v = strtoull(value, &end, 10);

    switch (*end) {
    case 'k': case 'K': shift = 10; end++; break;
    case 'm': case 'M': shift = 20; end++; break;
    case 'g': case 'G': shift = 30; end++; break;
    default: shift = 0;
    }

    if (errno || end == value || *end || value[0] == '-' || v == 0
        || v > UINT64_MAX >> (shift + 8))
    {
        return moe_err(err, "--%s: \"%s\" is not a size such as 800m or 16g",
                       name, value);
    }

    *size = (uint64_t) v << shift;

    return 0;
}


static int
moe_option_choice(const char *name, const char *value,
    const char *const *choices, int *choice, moe_err_t *err)
{
    int  i;

    for (i = 0; choices[i]; i++) {
        if (strcmp(value, choices[i]) == 0) {
            *choice = i;
            return 0;
        }
    }

    return moe_err(err, "--%s: \"%s\" is not known here", name, value);
}


static int
moe_option_name(moe_serve_options_t *o, const char *value, moe_err_t *err)
{
    if (o->nnames == MOE_MODELS_MAX) {
        return moe_err(err, "--model-name: at most %d can be given",
                       MOE_MODELS_MAX);
    }

    if (value[0] == '\0' || strlen(value) >= MOE_MODEL_NAME_MAX) {
        return moe_err(err, "--model-name: 1 to %d characters are needed",
                       MOE_MODEL_NAME_MAX - 1);
    }

    o->names[o->nnames++] = value;

    return 0;
}


static int
moe_option_mode(moe_serve_options_t *o, const char *value, moe_err_t *err)
{
    char           *end;
    unsigned long   v;

    v = strtoul(value, &end, 8);

    if (end == value || *end || v > 0777) {
        return moe_err(err, "--socket-mode: \"%s\" is not as 0660 is", value);
    }

    o->mode = (uint32_t) v;

    return 0;
}


static int
moe_option_set(moe_serve_options_t *o, int c, const char *name,
    const char *value, moe_err_t *err)
{
    static const char *const  formats[] = { "f32", "bf16", NULL };
    static const char *const  kv_formats[] = { "f32", "bf16", "int8", NULL };
    static const char *const  drafts[] = { "auto", "off", "always", NULL };
    static const char *const  overlaps[] = { "auto", "off", "on", NULL };
    static const char *const  wheres[] = { "each", "spread", NULL };
    static const char *const  hows[] = { "auto", "shm", "mpi", "nccl", NULL };
    static const char *const  kernels[] = {
        "plain", "avx2", "avx512", "plain-bf16", "avx512-bf16", "plain-fp8",
        "cuda", "cuda-fp8", NULL
    };
    static const char *const  levels[] = { "error", "warn", "notice", "info",
                                           "debug", NULL };

    int       rc, i;
    uint32_t  n;

    i = 0;
    n = 0;
    rc = 0;

    switch (c) {

    case MOE_OPT_MODEL:
        o->rank.model_dir = value;
        break;

    case MOE_OPT_NAME:
        return moe_option_name(o, value, err);

    case MOE_OPT_SOCKET:
        o->socket = value;
        break;

    case MOE_OPT_MODE:
        return moe_option_mode(o, value, err);

    case MOE_OPT_GROUP:
        o->group = value;
        break;

    case MOE_OPT_TEMPLATE:
        o->template = value;
        break;

    case MOE_OPT_RANKS:
        return moe_option_number(name, value, 1, MOE_RANKS_MAX,
                                 &o->rank.nranks, err);

    case MOE_OPT_THREADS:
        return moe_option_number(name, value, 1, 4096, &o->rank.threads, err);

    case MOE_OPT_CONTEXT:
        return moe_option_number(name, value, 1, MOE_MAX_POSITIONS,
                                 &o->rank.max_context, err);

    case MOE_OPT_RUNNING:
        return moe_option_number(name, value, 1, MOE_SLOTS / 4,
                                 &o->rank.max_running, err);

    case MOE_OPT_STEP:
        return moe_option_number(name, value, 1, 65536, &o->rank.step_tokens,
                                 err);

    case MOE_OPT_CHUNK:
        return moe_option_number(name, value, 1, 65536,
                                 &o->rank.prefill_chunk, err);

    case MOE_OPT_STEP_TIME:
        return moe_option_number(name, value, 0, 60000, &o->rank.step_ms,
                                 err);

    case MOE_OPT_DRAFTS:
        rc = moe_option_choice(name, value, drafts, &i, err);
        o->rank.draft = (moe_draft_e) i;
        break;

    case MOE_OPT_KV:
        return moe_option_size(name, value, &o->rank.kv_bytes, err);

    case MOE_OPT_KV_FORMAT:
        rc = moe_option_choice(name, value, kv_formats, &i, err);
        o->rank.kv_format = (moe_kv_format_e) i;
        break;

    case MOE_OPT_EXPERTS:
        return moe_option_choice(name, value, wheres, &o->spread, err);

    case MOE_OPT_TRANSPORT:
        return moe_option_choice(name, value, hows, &o->transport, err);

    case MOE_OPT_REPLICAS:
        return moe_option_number(name, value, 0, MOE_MAX_EXPERTS,
                                 &o->replicas, err);

    case MOE_OPT_REBALANCE:
        return moe_option_number(name, value, 0, 86400, &o->rebalance_s, err);

    case MOE_OPT_NODES:
        return moe_option_number(name, value, 1, MOE_RANKS_MAX, &o->nodes,
                                 err);

    case MOE_OPT_OVERLAP:
        rc = moe_option_choice(name, value, overlaps, &i, err);
        o->rank.overlap = (moe_overlap_e) i;
        break;

    case MOE_OPT_ROW_FORMAT:
        rc = moe_option_choice(name, value, formats, &i, err);
        o->rank.row_format = i ? MOE_ROWS_BF16 : MOE_ROWS_F32;
        break;

    case MOE_OPT_KERNELS:
        rc = moe_option_choice(name, value, kernels, &i, err);
        o->rank.kernels = value;
        break;

    case MOE_OPT_QUEUE:
        return moe_option_number(name, value, 1, 1000000, &o->queue, err);

    case MOE_OPT_DRAIN:
        return moe_option_number(name, value, 0, 86400, &o->drain_s, err);

    case MOE_OPT_PARK:
        return moe_option_number(name, value, 1, 86400, &o->park_s, err);

    case MOE_OPT_RANK_TIMEOUT:
        return moe_option_number(name, value, 1, 86400, &o->rank_s, err);

    case MOE_OPT_EXCHANGE:
        rc = moe_option_number(name, value, 1, 3600, &n, err);
        o->rank.exchange_ms = n * 1000;
        break;

    case MOE_OPT_IDLE:
        return moe_option_number(name, value, 0, 86400, &o->idle_s, err);

    case MOE_OPT_LOG:
        rc = moe_option_choice(name, value, levels, &i, err);
        o->level = (moe_log_level_e) i;
        break;
    }

    return rc;
}


/* rows go from GPU to GPU */

static int
moe_serve_nccl(moe_serve_options_t *o, moe_err_t *err)
{
    if (o->rank.kernels == NULL || strncmp(o->rank.kernels, "cuda", 4) != 0) {
        return moe_err(err, "--transport nccl is between GPUs: --kernels "
                       "cuda is needed");
    }

    o->by_env = moe_launched_env(&o->launched, NULL);

    if (!o->by_env && !moe_launched(&o->launched)) {
        return moe_err(err, "--transport nccl: neither mpirun nor srun has "
                       "started this process, nor are RANK, WORLD_SIZE, "
                       "LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and "
                       "MASTER_PORT all set");
    }

    o->rank.device = o->launched.local_rank;

    return 0;
}


/* whether a launcher has started the ranks, and one that will do */

static int
moe_serve_launcher(moe_serve_options_t *o, moe_err_t *err)
{
    if (o->rebalance_s == UINT32_MAX) {
        o->rebalance_s = MOE_SERVE_REBALANCE_S;
    }

    if (o->transport == MOE_TRANSPORT_NCCL) {
        return moe_serve_nccl(o, err);
    }

    if (o->transport == MOE_TRANSPORT_SHM || !moe_launched(&o->launched)) {
        memset(&o->launched, 0, sizeof(moe_launched_t));

        return o->transport == MOE_TRANSPORT_MPI
               ? moe_err(err, "--transport mpi: neither mpirun nor srun has "
                         "started this process")
               : 0;
    }

    return 0;
}


/* what is so and what is not where a launcher starts the ranks */

static int
moe_serve_launched(moe_serve_options_t *o, moe_err_t *err)
{
    if (moe_serve_launcher(o, err) != 0) {
        return -1;
    }

    if (o->launched.size == 0) {
        return 0;
    }

    if (o->rank.nranks > 1) {
        return moe_err(err, "--ranks is for ranks that serve starts itself: "
                       "here the launcher has started %u",
                       o->launched.size);
    }

    if (o->spread == 0) {
        return moe_err(err, "--experts each: what a launcher starts "
                       "together has its experts spread");
    }

    if (o->idle_s) {
        return moe_err(err, "--idle-exit is for an engine that nginx starts");
    }

    o->spread = 1;
    o->rank.nranks = o->launched.local_size;

    if (o->rank.threads == 0) {
        o->rank.threads = moe_launched_threads(o->rank.nranks, 1);
    }

    return 0;
}


/* 1: help was asked for */

static int
moe_serve_options(moe_serve_options_t *o, int argc, char **argv,
    moe_err_t *err)
{
    int  c, index;

    memset(o, 0, sizeof(moe_serve_options_t));

    o->rank.nranks = 1;
    o->rank.max_running = 64;
    o->rank.step_ms = 200;
    o->mode = 0660;
    o->queue = 1024;
    o->drain_s = 30;
    o->replicas = UINT32_MAX;
    o->rebalance_s = UINT32_MAX;
    o->park_s = 300;
    o->rank_s = 300;
    o->spread = -1;
    o->level = MOE_LOG_INFO;

    optind = 1;
    opterr = 0;

    while ((c = getopt_long(argc, argv, "+:m:h", moe_serve_long, &index))
           != -1)
    {
        if (c == MOE_OPT_HELP) {
            return 1;
        }

        if (c == ':') {
            return moe_err(err, "%s needs a value", argv[optind - 1]);
        }

        if (c == '?') {
            return moe_err(err, "%s is no option of serve",
                           argv[optind - 1]);
        }

        if (moe_option_set(o, c, c == 'm' ? "model"
                                          : moe_serve_long[index].name,
                           optarg, err)
            == -1)
        {
            return -1;
        }
    }

    if (optind < argc) {
        return moe_err(err, "\"%s\" is no option", argv[optind]);
    }

    if (o->rank.model_dir == NULL) {
        return moe_err(err, "-m DIR is needed: the model's directory");
    }

    if (o->socket == NULL) {
        return moe_err(err, "--socket PATH is needed: where to listen");
    }

    if (moe_serve_launched(o, err) == -1) {
        return -1;
    }

    o->spread = o->spread > 0;

    if (o->rank.overlap == MOE_OVERLAP_ON && o->launched.size == 0) {
        return moe_err(err, "--overlap on: only between ranks that mpirun "
                       "or srun has started do rows travel by themselves");
    }

    if (o->rank.threads == 0 && o->rank.nranks > 1) {
        o->rank.threads = moe_launched_threads(o->rank.nranks, 0);
    }

    return 0;
}


int
moe_serve_main(int argc, char **argv)
{
    int                  rc;
    moe_err_t            err;
    moe_serve_options_t  o;

    rc = moe_serve_options(&o, argc, argv, &err);

    if (rc == 1) {
        fputs(moe_serve_help, stdout);
        return 0;
    }

    if (rc == -1) {
        fprintf(stderr, "moe-engine serve: %s; \"moe-engine serve --help\" "
                "says more\n", err.text);
        return MOE_EXIT_USAGE;
    }

    moe_log_init("front", o.level);

    return o.launched.size ? moe_launch_main(&o) : moe_front_run(&o);
}
