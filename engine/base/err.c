#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"


int
moe_err(moe_err_t *err, const char *fmt, ...)
{
    va_list  args;

    if (err == NULL) {
        return -1;
    }

    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);

    return -1;
}


int
moe_err_prefix(moe_err_t *err, const char *fmt, ...)
{
    int        n;
    va_list    args;
    moe_err_t  was;

    if (err == NULL) {
        return -1;
    }

    was = *err;

    va_start(args, fmt);
    n = vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);

    if (n >= 0 && (size_t) n < sizeof(err->text)) {
        snprintf(err->text + n, sizeof(err->text) - n, ": %s", was.text);
    }

    return -1;
}
