#ifndef MOE_BENCH_PROC_H
#define MOE_BENCH_PROC_H


#include <stdio.h>
#include <stdlib.h>


/* memory that is process pid's own, in KB; ends this program if it is gone */

static inline long
proc_anon_kb(const char *pid)
{
    char   path[64], line[256];
    long   kb;
    FILE  *f;

    snprintf(path, sizeof(path), "/proc/%s/status", pid);

    f = fopen(path, "r");
    if (f == NULL) {
        fprintf(stderr, "process %s is gone\n", pid);
        exit(1);
    }

    kb = 0;

    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "RssAnon: %ld", &kb) == 1) {
            break;
        }
    }

    fclose(f);

    return kb;
}


#endif /* MOE_BENCH_PROC_H */
