#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "compare.h"
#include "inspect.h"
#include "main.h"
#include "plan.h"
#include "quantize.h"
#include "run.h"


typedef struct {
    const char  *name;
    int        (*main)(int argc, char **argv);
    const char  *what;
} moe_command_t;


static const moe_command_t  moe_commands[] = {
    { "serve", moe_serve_main,
      "serve a model to nginx's workers over a Unix socket" },
    { "supervise", moe_supervise_main,
      "keep a serve alive; what nginx's moe_engine block starts" },
    { "run", moe_run_main,
      "answer one prompt in the terminal" },
    { "inspect", moe_inspect_main,
      "say what is in a model directory, and whether it will fit" },
    { "quantize", moe_quantize_main,
      "write a model with packed weights, int8 or int4" },
    { "compare", moe_compare_main,
      "how far quantized models are from their source" },
    { "bench", moe_bench_main,
      "how fast a model runs here" },
    { "plan", moe_plan_main,
      "what a fleet would do with a model, and what a token would cost" }
};

#define MOE_COMMANDS  (sizeof(moe_commands) / sizeof(moe_commands[0]))


static void
moe_usage(FILE *out)
{
    size_t  i;

    fprintf(out,
        "moe-engine " MOE_VERSION
        ": the engine behind nginx's moe_pass\n\n"
        "usage: moe-engine COMMAND [options]\n\n"
        "commands:\n");

    for (i = 0; i < MOE_COMMANDS; i++) {
        fprintf(out, "  %-10s %s\n", moe_commands[i].name,
                moe_commands[i].what);
    }

    fprintf(out,
        "\n\"moe-engine COMMAND --help\" says more of each.  To begin with:\n\n"
        "  moe-engine serve -m DIR --socket /run/moe/engine.sock\n\n"
        "and in nginx.conf:\n\n"
        "  location /v1/ { moe_pass unix:/run/moe/engine.sock; }\n");
}


int
main(int argc, char **argv)
{
    size_t  i;

    if (argc < 2) {
        moe_usage(stderr);
        return MOE_EXIT_USAGE;
    }

    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0
        || strcmp(argv[1], "help") == 0)
    {
        moe_usage(stdout);
        return 0;
    }

    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        printf("moe-engine %s\n", MOE_VERSION);
        return 0;
    }

    for (i = 0; i < MOE_COMMANDS; i++) {
        if (strcmp(argv[1], moe_commands[i].name) == 0) {
            return moe_commands[i].main(argc - 1, argv + 1);
        }
    }

    fprintf(stderr, "moe-engine: there is no command \"%s\"; "
            "\"moe-engine --help\" lists them\n", argv[1]);

    return MOE_EXIT_USAGE;
}
