#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/err.h"


static void err_one_line(moe_err_t *err);


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

    err_one_line(err);

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

    err_one_line(err);

    return -1;
}


/* names out of hostile files must not write on terminals or forge lines */
static void
err_one_line(moe_err_t *err)
{
    char  *p;

    for (p = err->text; *p != '\0'; p++) {
        if ((unsigned char) *p < ' ' || *p == 0x7f) {
            *p = '?';
        }
    }
}
