#include <stdlib.h>
#include <string.h>

#include "gen_draws.h"


int
moe_gen_draws_init(moe_gen_draws_t *g, uint32_t max, uint32_t context)
{
    g->draws.draws = calloc(max, sizeof(moe_draw_t));
    g->draws.out = calloc(max, sizeof(moe_drawn_t));
    g->history = calloc(context, sizeof(uint32_t));

    return g->draws.draws != NULL && g->draws.out != NULL
           && g->history != NULL ? 0 : -1;
}


void
moe_gen_draws_free(moe_gen_draws_t *g)
{
    free(g->draws.draws);
    free(g->draws.out);
    free(g->edits);
    free(g->history);
}


void
moe_gen_draws_begin(moe_gen_draws_t *g, uint32_t n)
{
    uint32_t  i;

    memset(g->draws.draws, 0, n * sizeof(moe_draw_t));
    g->draws.n = n;
    g->nedits = 0;

    for (i = 0; i < n; i++) {
        g->draws.draws[i].row = i;
    }
}


static int
room(moe_gen_draws_t *g, uint32_t more, moe_err_t *err)
{
    size_t       n;
    moe_edit_t  *edits;

    n = g->nedits + more;

    if (n <= g->max_edits) {
        return 0;
    }

    edits = n <= UINT32_MAX ? realloc(g->edits, n * sizeof(moe_edit_t))
                            : NULL;
    if (edits == NULL) {
        return moe_err(err, "no memory for %zu changes of logits", n);
    }

    g->edits = edits;
    g->max_edits = n;

    return 0;
}


/* generated ids follow on the prompt's */
static moe_history_t
with_drafts(moe_gen_draws_t *g, const moe_history_t *h,
    const uint32_t *drafts, uint32_t ndrafts)
{
    uint32_t  known;

    known = h->n_prompt + h->n_generated;
    memcpy(g->history, h->prompt, known * sizeof(uint32_t));
    memcpy(g->history + known, drafts, ndrafts * sizeof(uint32_t));

    return (moe_history_t) { .prompt = g->history, .n_prompt = h->n_prompt,
                             .generated = g->history + h->n_prompt,
                             .n_generated = h->n_generated + ndrafts };
}


int
moe_gen_draws_add(moe_gen_draws_t *g, uint32_t i, moe_sampler_t *s,
    const moe_sampling_t *p, const moe_history_t *h, const uint32_t *drafts,
    uint32_t ndrafts, uint64_t position, uint32_t choice, int ntop,
    moe_err_t *err)
{
    moe_draw_t     *d;
    moe_history_t   all;

    all = ndrafts ? with_drafts(g, h, drafts, ndrafts) : *h;

    if (room(g, moe_sampler_edits(p, &all), err) != 0) {
        return -1;
    }

    d = &g->draws.draws[i];
    moe_sampler_draw(s, p, &all, position, choice, g->edits + g->nedits, d);

    d->row = i;
    d->first = (uint32_t) g->nedits;
    d->logprobs = ntop >= 0;
    d->ntop = ntop >= 0 ? (uint32_t) ntop : 0;
    g->nedits += d->nedits;

    return 0;
}


void
moe_gen_draws_given(moe_gen_draws_t *g, uint32_t i, uint32_t id,
    uint32_t ntop)
{
    g->draws.draws[i].given = id;
    g->draws.draws[i].logprobs = 1;
    g->draws.draws[i].ntop = ntop;
}


void
moe_gen_draws_end(moe_gen_draws_t *g, moe_model_t *m)
{
    uint32_t     i, at;
    moe_draw_t  *d;

    /* rows without edits lie between others */
    for (i = 0, at = 0; i < g->draws.n; i++) {
        d = &g->draws.draws[i];
        d->first = d->nedits ? d->first : at;
        at = d->first + d->nedits;
    }

    g->draws.edits = g->edits;
    moe_model_set_draws(m, &g->draws);
}
