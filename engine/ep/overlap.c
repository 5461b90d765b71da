#include <stdlib.h>
#include <string.h>

#include "ep/overlap.h"


/* steps of a size from look to look */
#define REST       2000

/* what halves have to bring: less is not worth it, and may be chance */
#define LEAST_GAIN  1.02


static uint32_t
size_of(uint32_t most)
{
    uint32_t  i;

    for (i = 0; most > 1 && i < MOE_OVERLAP_SIZES - 1; i++) {
        most /= 2;
    }

    return i;
}


/* one of a pair comes first in one, the other in the next: what drifts, or
 * comes every other step, is in both */
static int
is_halves_turn(const moe_overlap_size_t *s)
{
    if (s->rest != 0) {
        return s->on;
    }

    return s->npairs % 2 == 0 ? s->us[0] != 0 : s->us[1] == 0;
}


uint32_t
moe_overlap_wish(const moe_overlap_t *o)
{
    uint32_t  i, wish;

    if (o->mode != MOE_OVERLAP_AUTO) {
        return o->mode == MOE_OVERLAP_ON ? UINT32_MAX : 0;
    }

    wish = 0;

    for (i = 0; i < MOE_OVERLAP_SIZES; i++) {
        wish |= (uint32_t) is_halves_turn(&o->sizes[i]) << i;
    }

    return wish;
}


moe_overlap_figures_t
moe_overlap_figures(const moe_overlap_t *o)
{
    uint32_t               i;
    moe_overlap_figures_t  f;

    f = o->figures;
    f.sizes = 0;

    for (i = 1; i < MOE_OVERLAP_SIZES; i++) {
        f.sizes |= (uint32_t) (o->mode == MOE_OVERLAP_AUTO
                               ? o->sizes[i].on : o->mode == MOE_OVERLAP_ON)
                   << i;
    }

    return f;
}


/* a row is no two halves */
int
moe_overlap_halves(uint32_t wish, uint32_t most)
{
    return most > 1 && (wish >> size_of(most) & 1);
}


static int
by_size(const void *a, const void *b)
{
    double  x = *(const double *) a, y = *(const double *) b;

    return (x > y) - (x < y);
}


static void
decide(moe_overlap_t *o, uint32_t size)
{
    moe_overlap_size_t  *s;

    s = &o->sizes[size];
    qsort(s->gains, MOE_OVERLAP_PAIRS, sizeof(double), by_size);

    o->figures.looks++;
    o->figures.rows = 1u << size;
    o->figures.gain = s->gains[MOE_OVERLAP_PAIRS / 2];

    s->on = o->figures.gain >= LEAST_GAIN;
    s->npairs = 0;
    s->rest = REST;
}


void
moe_overlap_seen(moe_overlap_t *o, uint32_t most, int halves, uint64_t us)
{
    uint32_t             size;
    moe_overlap_size_t  *s;

    if (o->mode != MOE_OVERLAP_AUTO || most < 2) {
        return;
    }

    size = size_of(most);
    s = &o->sizes[size];

    if (s->rest != 0) {
        s->rest--;
        return;
    }

    s->us[halves != 0] = us ? us : 1;

    if (s->us[0] == 0 || s->us[1] == 0) {
        return;
    }

    s->gains[s->npairs++] = (double) s->us[0] / (double) s->us[1];
    memset(s->us, 0, sizeof(s->us));

    if (s->npairs == MOE_OVERLAP_PAIRS) {
        decide(o, size);
    }
}
