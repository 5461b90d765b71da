/*
 * compare: how far one model's next tokens are from another's.
 */

#ifndef MOE_COMPARE_H
#define MOE_COMPARE_H


int moe_compare_main(int argc, char **argv);


#endif /* MOE_COMPARE_H */
