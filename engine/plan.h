/*
 * plan: what a fleet would do with a model, before anyone rents it.
 */

#ifndef MOE_PLAN_H
#define MOE_PLAN_H


int moe_plan_main(int argc, char **argv);


#endif /* MOE_PLAN_H */
