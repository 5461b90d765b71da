/*
 * main: the program's subcommands.
 *
 * Each is called with its own name as argv[0] and returns the exit code: 0;
 * 1 after an error, which it has printed or logged; 2 for a wrong command
 * line.
 */

#ifndef MOE_MAIN_H
#define MOE_MAIN_H


#include "base/version.h"


#define MOE_EXIT_ERROR     1
#define MOE_EXIT_USAGE     2

/* serve: no worker has been connected for the time of --idle-exit */
#define MOE_EXIT_IDLE      3


int moe_serve_main(int argc, char **argv);
int moe_supervise_main(int argc, char **argv);

/* the others have headers of their own */


#endif /* MOE_MAIN_H */
