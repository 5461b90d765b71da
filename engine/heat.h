/*
 * heat: where the rows of spread experts go, from the balance of the ranks
 * (ep/balance.h) to the page that a lane has of it (jobq.h).
 */

#ifndef MOE_HEAT_H
#define MOE_HEAT_H


#include "ep/balance.h"
#include "jobq.h"


/* As many layers as the page has room for. */
void moe_heat_page(moe_experts_t *page, const moe_balance_map_t *map);


#endif /* MOE_HEAT_H */
