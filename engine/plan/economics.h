/*
 * economics: what a token costs, and how full a fleet must be.
 *
 * A workload has so many prompt tokens for one that is made, a part of them
 * cached.  Prompts are computed on devices of their own, as many as the mix
 * asks for; the cost is that of both kinds of device, the price that of all
 * three kinds of token.  Any currency, the same in all figures.
 */

#ifndef MOE_PLAN_ECONOMICS_H
#define MOE_PLAN_ECONOMICS_H


typedef struct {
    double  prompt;         /* tokens of prompts for each one made */
    double  cached;         /* part of them, 0 to 1 */
    double  rent;           /* a device and hour */
    double  price_out;      /* a million tokens made */
    double  price_in;       /* a million of prompts, computed */
    double  price_cached;   /* a million of prompts, cached */
} moe_plan_market_t;

typedef struct {
    double  decode;         /* part of the devices that make tokens */
    double  cost;           /* a million tokens made, prompts with them */
    double  revenue;        /* the same */
    double  fill;           /* at which cost and revenue are equal; above 1:
                             * never */
} moe_plan_money_t;


/* decode and prefill: tokens a second and device, at full load */
void moe_plan_money(const moe_plan_market_t *m, double decode,
    double prefill, moe_plan_money_t *out);


#endif /* MOE_PLAN_ECONOMICS_H */
