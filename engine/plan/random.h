/*
 * random: the same numbers each time, from a seed.
 */

#ifndef MOE_PLAN_RANDOM_H
#define MOE_PLAN_RANDOM_H


#include <stdint.h>


/* splitmix64's finish: a hash of x */
uint64_t moe_plan_mix(uint64_t x);

/* in (0, 1) */
double moe_plan_uniform(uint64_t *seed);

/* mean 0, standard deviation 1 */
double moe_plan_normal(uint64_t *seed);

/* with this mean */
double moe_plan_exponential(uint64_t *seed, double mean);

/* lognormal with this mean; sigma is that of the logarithm */
double moe_plan_lognormal(uint64_t *seed, double mean, double sigma);

/* how many of n happen, each with probability p */
uint32_t moe_plan_binomial(uint64_t *seed, uint32_t n, double p);


#endif /* MOE_PLAN_RANDOM_H */
