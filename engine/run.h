/*
 * run: one prompt in the terminal.  No nginx, no front, no sockets.
 */

#ifndef MOE_RUN_H
#define MOE_RUN_H


/*
 * moe-engine run -m DIR -p PROMPT [options]; argv[0] is "run".  The text goes
 * to standard output as it is made, everything else to standard error.
 * Returns 0, 1 after an error, 2 on wrong usage.
 */
int moe_run_main(int argc, char **argv);


#endif /* MOE_RUN_H */
