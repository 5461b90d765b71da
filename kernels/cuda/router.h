/*
 * router: the choice among scores, as kernels/cpu/body_router.h makes it.
 * Pure, for host and device.
 */

#ifndef MOE_CUDA_ROUTER_H
#define MOE_CUDA_ROUTER_H


#include <math.h>
#include <stdint.h>

#include "kernels/cuda/host.h"
#include "kernels/kernels.h"


/* the n best of m, best first, the lower index of equals first */
MOE_HOST_DEVICE static inline void
moe_best_of(const float *x, uint32_t m, uint32_t n, uint32_t *out)
{
    uint32_t  i, j, have;

    have = 0;

    for (i = 0; i < m; i++) {

        if (have == n && !(x[i] > x[out[n - 1]])) {
            continue;
        }

        j = have < n ? have++ : n - 1;

        while (j > 0 && x[i] > x[out[j - 1]]) {
            out[j] = out[j - 1];
            j--;
        }

        out[j] = i;
    }
}


/*
 * Takes the experts of all but the best groups out of the choice.  score
 * [n_group] and kept [topk_group] are memory to work in.
 */
MOE_HOST_DEVICE static inline void
moe_best_groups(const moe_route_t *p, float *choice, float *score,
    uint32_t *kept)
{
    int       keep;
    uint32_t  g, i, size, best[2];

    size = p->n_experts / p->n_group;

    for (g = 0; g < p->n_group; g++) {
        moe_best_of(choice + g * size, size, size < 2 ? 1 : 2, best);

        score[g] = choice[g * size + best[0]];
        if (p->group == MOE_ROUTE_GROUP_TOP2 && size > 1) {
            score[g] = score[g] + choice[g * size + best[1]];
        }
    }

    moe_best_of(score, p->n_group, p->topk_group, kept);

    for (g = 0; g < p->n_group; g++) {
        keep = 0;
        for (i = 0; i < p->topk_group; i++) {
            keep |= kept[i] == g;
        }

        for (i = g * size; !keep && i < (g + 1) * size; i++) {
            choice[i] = -INFINITY;
        }
    }
}


#endif /* MOE_CUDA_ROUTER_H */
