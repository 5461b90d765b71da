#ifndef MOE_BENCH_PROC_H
#define MOE_BENCH_PROC_H


#include <stdio.h>
#include <stdlib.h>
#include <string.h>


/* the KB that a file of process pid's gives for name; ends this program if
 * the process is gone */

static inline long
proc_kb(const char *pid, const char *file, const char *name)
{
    char    path[64], line[256];
    long    kb;
    FILE   *f;
    size_t  len;

    snprintf(path, sizeof(path), "/proc/%s/%s", pid, file);

    f = fopen(path, "r");
    if (f == NULL) {
        fprintf(stderr, "process %s is gone\n", pid);
        exit(1);
    }

    kb = 0;
    len = strlen(name);

    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, name, len) == 0 && line[len] == ':') {
            kb = atol(line + len + 1);
            break;
        }
    }

    fclose(f);

    return kb;
}


/* memory that is process pid's own */

static inline long
proc_anon_kb(const char *pid)
{
    return proc_kb(pid, "status", "RssAnon");
}


/* of all its mappings; "Pss" shares out what others have too */

static inline long
proc_rollup_kb(const char *pid, const char *name)
{
    return proc_kb(pid, "smaps_rollup", name);
}


#endif /* MOE_BENCH_PROC_H */
