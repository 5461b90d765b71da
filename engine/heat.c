#include <string.h>

#include "heat.h"


void
moe_heat_page(moe_experts_t *page, const moe_balance_map_t *map)
{
    uint32_t  n;

    n = map->experts + map->ranks;

    memset(page, 0, sizeof(*page));
    page->layers = map->layers < MOE_EXPERTS_CELLS / n
                   ? map->layers : MOE_EXPERTS_CELLS / n;
    page->experts = map->experts;
    page->ranks = map->ranks;
    page->version = map->figures.version;
    page->rows = map->figures.rows;

    memcpy(page->cells, map->cells,
           (size_t) page->layers * n * sizeof(uint16_t));
}
