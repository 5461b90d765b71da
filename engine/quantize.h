/*
 * quantize: the subcommand.  What it does is in model/quantize.h.
 */

#ifndef MOE_QUANTIZE_MAIN_H
#define MOE_QUANTIZE_MAIN_H


int moe_quantize_main(int argc, char **argv);


#endif /* MOE_QUANTIZE_MAIN_H */
