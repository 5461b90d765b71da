/* body_router: which experts a row goes to, one body for all VL */

enum { ROUTE_MAX = 1024 };      /* experts; groups are no more */


typedef struct {
    const moe_route_t  *route;
    float              *logits;
    uint32_t           *experts;
    float              *weights;
} route_ctx_t;


/* x[n] become e^(x - max) */
INLINE void
route_exp(float *x, uint32_t n, float max)
{
    vf        v;
    float     buf[VL];
    size_t    part;
    uint32_t  i;

    for (i = 0; i < n; i += VL) {
        part = n - i < VL ? n - i : VL;
        v = load_part_as_f32(MOE_W_F32, (const uint8_t *) (x + i), part);
        vf_store(buf, vf_exp(v - max));
        memcpy(x + i, buf, part * 4);
    }
}


/* logits become scores in place */
static void
route_scores(const moe_route_t *p, float *x)
{
    vf        v;
    float     max, sum, buf[VL], lanes[MOE_LANES];
    size_t    part;
    uint32_t  i, j;

    max = 0;

    if (p->score == MOE_ROUTE_SOFTMAX) {
        max = x[0];
        for (i = 1; i < p->n_experts; i++) {
            max = x[i] > max ? x[i] : max;
        }
    }

    for (i = 0; i < p->n_experts; i += VL) {
        part = p->n_experts - i < VL ? p->n_experts - i : VL;
        v = load_part_as_f32(MOE_W_F32, (const uint8_t *) (x + i), part);

        v = p->score == MOE_ROUTE_SOFTMAX ? vf_exp(v - max)
                                          : 1.0f / (vf_exp(-v) + 1.0f);
        vf_store(buf, v);
        memcpy(x + i, buf, part * 4);
    }

    if (p->score != MOE_ROUTE_SOFTMAX) {
        return;
    }

    memset(lanes, 0, sizeof(lanes));
    for (i = 0; i < p->n_experts; i += MOE_LANES) {
        for (j = 0; j < MOE_LANES && i + j < p->n_experts; j++) {
            lanes[j] = lanes[j] + x[i + j];
        }
    }

    sum = lanes_sum(lanes);
    for (i = 0; i < p->n_experts; i++) {
        x[i] = x[i] / sum;
    }
}


/* the n best of m, best first, the lower index of equals first */
static void
best_of(const float *x, uint32_t m, uint32_t n, uint32_t *out)
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


/* takes the experts of all but the best groups out of the choice */
static void
route_groups(const moe_route_t *p, float *choice)
{
    float     score[ROUTE_MAX];
    uint32_t  g, i, size, best[2], kept[ROUTE_MAX];
    uint8_t   keep[ROUTE_MAX];

    size = p->n_experts / p->n_group;

    for (g = 0; g < p->n_group; g++) {
        best_of(choice + g * size, size, size < 2 ? 1 : 2, best);

        score[g] = choice[g * size + best[0]];
        if (p->group == MOE_ROUTE_GROUP_TOP2 && size > 1) {
            score[g] = score[g] + choice[g * size + best[1]];
        }
    }

    best_of(score, p->n_group, p->topk_group, kept);

    memset(keep, 0, p->n_group);
    for (i = 0; i < p->topk_group; i++) {
        keep[kept[i]] = 1;
    }

    for (i = 0; i < p->n_experts; i++) {
        if (!keep[i / size]) {
            choice[i] = -__builtin_inff();
        }
    }
}


static void
route_row(const void *op, uint32_t row)
{
    float               sum, *x, *w, choice[ROUTE_MAX];
    uint32_t            i, *e;
    const moe_route_t  *p;
    const route_ctx_t  *c = op;

    p = c->route;
    x = c->logits + (size_t) row * p->n_experts;
    e = c->experts + (size_t) row * p->top_k;
    w = c->weights + (size_t) row * p->top_k;

    if (p->slots != NULL && p->slots[row] == MOE_NO_SLOT) {
        for (i = 0; i < p->top_k; i++) {
            e[i] = MOE_NO_ROW;
            w[i] = 0;
        }
        return;
    }

    if (p->score != MOE_ROUTE_CHOSEN) {
        route_scores(p, x);
    }

    for (i = 0; i < p->n_experts; i++) {
        choice[i] = p->bias ? x[i] + p->bias[i] : x[i];
    }

    if (p->group != MOE_ROUTE_PLAIN && p->topk_group < p->n_group) {
        route_groups(p, choice);
    }

    best_of(choice, p->n_experts, p->top_k, e);

    for (i = 0; i < p->top_k; i++) {
        w[i] = x[e[i]];
    }

    if (p->score == MOE_ROUTE_CHOSEN) {
        route_exp(w, p->top_k, w[0]);
    }

    sum = 0;
    for (i = 0; i < p->top_k; i++) {
        sum = sum + w[i];
    }

    for (i = 0; i < p->top_k; i++) {
        w[i] = (p->norm ? w[i] / (sum + p->eps) : w[i]) * p->scale;
    }
}


static void
op_route(const moe_kctx_t *c, const moe_route_t *route, float *logits,
    uint32_t nrows, uint32_t *experts, float *weights)
{
    route_ctx_t  r = { route, logits, experts, weights };

    rows_run(c, nrows, (size_t) route->n_experts * 8, route_row, &r);
}
