/*
 * bench: how fast a model runs here, without nginx.
 */

#ifndef MOE_BENCH_H
#define MOE_BENCH_H


/*
 * moe-engine bench -m DIR [options]; argv[0] is "bench".  Prints a table to
 * standard output.  Returns 0, 1 after an error, 2 on wrong usage.
 */
int moe_bench_main(int argc, char **argv);


#endif /* MOE_BENCH_H */
