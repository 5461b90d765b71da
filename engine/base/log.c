#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"


static const char       *moe_log_component = "moe-engine";
static moe_log_level_e   moe_log_least = MOE_LOG_INFO;

static const char *const  moe_log_names[] = {
    "error", "warn", "notice", "info", "debug"
};


void
moe_log_init(const char *component, moe_log_level_e level)
{
    moe_log_component = component;
    moe_log_least = level;
}


void
moe_log(moe_log_level_e level, const char *fmt, ...)
{
    int              n, m;
    char             line[1024];
    va_list          args;
    ssize_t          rc;
    struct tm        tm;
    struct timespec  ts;

    if (level > moe_log_least) {
        return;
    }

    clock_gettime(CLOCK_REALTIME, &ts);
    gmtime_r(&ts.tv_sec, &tm);

    n = (int) strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
    n += snprintf(line + n, sizeof(line) - n, ".%03dZ %s %s %d ",
                  (int) (ts.tv_nsec / 1000000), moe_log_names[level],
                  moe_log_component, (int) getpid());

    va_start(args, fmt);
    m = vsnprintf(line + n, sizeof(line) - n - 1, fmt, args);
    va_end(args);

    if (m > 0) {
        n += m;
    }

    if (n > (int) sizeof(line) - 2) {
        n = sizeof(line) - 2;
    }

    line[n++] = '\n';

    /* a log that cannot be written has nowhere to say so */
    rc = write(STDERR_FILENO, line, n);
    (void) rc;
}
