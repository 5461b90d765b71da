#include "front/choose.h"


/* ids that say where a prompt's prefix may be cached */
#define MOE_CHOOSE_HASHED  64


/* FNV-1a is enough: an unlucky hash costs balance, and load bounds that */

uint32_t
moe_choose_hash(const uint32_t *ids, size_t n)
{
    size_t    i;
    uint32_t  h;

    h = 2166136261u;

    for (i = 0; i < n && i < MOE_CHOOSE_HASHED; i++) {
        h = (h ^ ids[i]) * 16777619u;
    }

    return h ^ h >> 15;
}


int
moe_choose_takes(uint32_t busy, uint32_t above, uint32_t max)
{
    return busy < max || (busy < 2 * max && above < max);
}


uint32_t
moe_choose(const moe_choose_t *ranks, uint32_t n, uint32_t hash)
{
    uint32_t  i, k, up, total, bound, least;

    up = 0;
    total = 0;
    least = n;

    for (i = 0; i < n; i++) {
        if (!ranks[i].up) {
            continue;
        }

        up++;
        total += ranks[i].busy;

        if (ranks[i].takes
            && (least == n || ranks[i].busy < ranks[least].busy))
        {
            least = i;
        }
    }

    if (least == n) {
        return n;
    }

    bound = (total + 1) * 5 / (up * 4) + 1;

    for (i = 0; i < n; i++) {
        k = (hash + i) % n;

        if (ranks[k].takes && ranks[k].busy < bound) {
            return k;
        }
    }

    return least;
}
