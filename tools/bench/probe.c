/*
 * probe THREADS [MB]
 *
 * Prints how many GB/s so many threads read together from memory: the median
 * of nine passes over MB (default 512) for each thread.
 */

#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>


enum { PASSES = 9, MAX_THREADS = 256 };


static size_t             words;            /* of a thread */
static pthread_barrier_t  barrier;
static uint64_t           sums[MAX_THREADS];


static double
now(void)
{
    struct timespec  t;

    clock_gettime(CLOCK_MONOTONIC, &t);

    return (double) t.tv_sec + (double) t.tv_nsec * 1e-9;
}


static void *
reader(void *arg)
{
    int        i;
    size_t     k, n;
    uint64_t   s0, s1, s2, s3, *w;

    n = words;
    w = mmap(NULL, n * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
             -1, 0);

    if (w == MAP_FAILED) {
        fprintf(stderr, "probe: out of memory\n");
        exit(1);
    }

    (void) madvise(w, n * 8, MADV_HUGEPAGE);
    memset(w, 1, n * 8);

    for (i = 0; i < PASSES; i++) {
        pthread_barrier_wait(&barrier);

        s0 = s1 = s2 = s3 = 0;

        for (k = 0; k < n; k += 16) {
            s0 += w[k] ^ w[k + 1] ^ w[k + 2] ^ w[k + 3];
            s1 += w[k + 4] ^ w[k + 5] ^ w[k + 6] ^ w[k + 7];
            s2 += w[k + 8] ^ w[k + 9] ^ w[k + 10] ^ w[k + 11];
            s3 += w[k + 12] ^ w[k + 13] ^ w[k + 14] ^ w[k + 15];
        }

        *(uint64_t *) arg += s0 + s1 + s2 + s3;
        pthread_barrier_wait(&barrier);
    }

    munmap(w, n * 8);

    return NULL;
}


static int
by_value(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


int
main(int argc, char **argv)
{
    int        i, threads;
    double     t, rates[PASSES];
    pthread_t  id;

    threads = argc > 1 ? atoi(argv[1]) : 0;
    words = (size_t) (argc > 2 ? atoi(argv[2]) : 512) << 17;

    if (threads < 1 || threads > MAX_THREADS || words == 0) {
        fprintf(stderr, "usage: probe THREADS [MB]\n");
        return 2;
    }

    pthread_barrier_init(&barrier, NULL, (unsigned) threads + 1);

    for (i = 0; i < threads; i++) {
        if (pthread_create(&id, NULL, reader, &sums[i]) != 0) {
            fprintf(stderr, "probe: no thread\n");
            return 1;
        }
    }

    for (i = 0; i < PASSES; i++) {
        pthread_barrier_wait(&barrier);
        t = now();
        pthread_barrier_wait(&barrier);
        rates[i] = (double) words * 8 * threads / (now() - t) / 1e9;
    }

    qsort(rates, PASSES, sizeof(double), by_value);
    printf("%.1f\n", rates[PASSES / 2]);

    return 0;
}
