/*
 * inspect: what is in this model directory, and will it fit?
 */

#ifndef MOE_INSPECT_H
#define MOE_INSPECT_H


/*
 * moe-engine inspect DIR [--ctx N] [--batch N]; argv[0] is "inspect".
 * Prints to standard output, errors to standard error.  Returns 0 where the
 * engine can serve the model, 1 where the directory is broken or something in
 * it is not supported, 2 on wrong usage.
 */
int moe_inspect_main(int argc, char **argv);


#endif /* MOE_INSPECT_H */
