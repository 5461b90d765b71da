#include <math.h>
#include <string.h>

#include "plan/capacity.h"


/* what the exchange of one batch asks of the network */
typedef struct {
    double  devices;
    double  dispatch;       /* seconds of 128 rows */
    double  combine;
} link_t;


/* DeepEP's low-latency kernels on H800 over NVLink and InfiniBand: 128 rows a
 * rank of 7168 values to 8 experts each, FP8 out and bf16 back */
static const link_t  deepep[] = {
    {   8,  77e-6, 114e-6 },
    {  16, 118e-6, 195e-6 },
    {  32, 155e-6, 273e-6 },
    {  64, 173e-6, 314e-6 },
    { 128, 192e-6, 369e-6 },
    { 256, 194e-6, 360e-6 }
};

#define DEEPEP        (sizeof(deepep) / sizeof(deepep[0]))
#define DEEPEP_ROWS   128.0
#define DEEPEP_WORK   (8 * 7168.0)      /* values that a row sends */

/* of it, what the first row waits for */
#define DISPATCH_MIN  25e-6
#define COMBINE_MIN   30e-6

/* narrow slices of experts are streamed at so much of the full rate */
#define SLICE_EFF     0.75

/* multiplications of a head with one key of a prompt, expanded: score and
 * value of a head, not of the latent */
#define EXPANDED      320.0

/* rows of a prompt's chunk in every device, and what counted kernels reach
 * of the network, as DeepEP's normal kernels do */
#define PREFILL_ROWS  4096.0
#define PREFILL_NET   0.9

/* ranks of other nodes that a row is sent to: groups are limited to four */
#define PREFILL_NODES 4.0


static double step_expert(const moe_plan_t *p, double batch);
static double step_tensor(const moe_plan_t *p, double batch);
static double gemm(const moe_plan_t *p, double params, double rows,
    double bytes);
static double gemm_rate(const moe_plan_t *p, double rows);
static double attention(const moe_plan_t *p, double heads,
    const moe_plan_rows_t *rows);
static moe_plan_rows_t decoding(const moe_plan_t *p, double batch);
static double experts(const moe_plan_t *p, double rows);
static void exchange_times(const moe_plan_t *p, link_t *t);
static double compute(const moe_plan_layer_t *l);
static double max2(double a, double b);


void
moe_plan_defaults(moe_plan_t *p)
{
    memset(p, 0, sizeof(moe_plan_t));

    p->way = MOE_PLAN_EXPERT;
    p->devices = 1;
    p->context = 4096;
    p->drafts = 1;
    p->accepted = 1;
    p->skew = 1.2;
    p->kernels = 1;
    p->overlap = 0.6;
    p->w_bytes = 1;
    p->head_bytes = 2;
    p->kv_bytes = 2;
}


double
moe_plan_spare(double n, double devices)
{
    double  spare;

    spare = devices >= 32 ? floor(n / 8) : 0;

    return ceil((n + spare) / devices) * devices - n;
}


double
moe_plan_distinct(const moe_plan_shape_t *s, double n, double rows)
{
    return n * (1 - pow(1 - s->top_k / s->experts, rows));
}


double
moe_plan_step(const moe_plan_t *p, double batch)
{
    return p->way == MOE_PLAN_EXPERT ? step_expert(p, batch)
                                     : step_tensor(p, batch);
}


static double
step_expert(const moe_plan_t *p, double batch)
{
    double             layer, whole, half;
    moe_plan_rows_t    rows;
    moe_plan_layer_t   l, h;

    rows = decoding(p, batch);
    moe_plan_layer(p, batch, &l);
    whole = compute(&l);
    layer = whole + l.exchange;

    if (batch >= 2) {
        moe_plan_layer(p, batch / 2, &h);
        half = compute(&h);
        layer = moe_plan_overlapped(p, whole, l.exchange, half, h.exchange);
    }

    return p->model.moe_layers * layer + moe_plan_outside(p, &rows, rows.rows);
}


double
moe_plan_overlapped(const moe_plan_t *p, double compute, double move,
    double half_compute, double half_move)
{
    double  both;

    if (p->overlap <= 0) {
        return compute + move;
    }

    half_compute *= 2;
    half_move *= 2;

    both = max2(half_compute, half_move)
           + (1 - p->overlap) * fmin(half_compute, half_move);

    return fmin(compute + move, both);
}


double
moe_plan_outside(const moe_plan_t *p, const moe_plan_rows_t *rows,
    double logits)
{
    const moe_plan_shape_t  *m;

    m = &p->model;

    return (m->layers - m->moe_layers)
           * (attention(p, m->heads, rows)
              + gemm(p, m->w_attn, rows->rows, p->w_bytes)
              + gemm(p, m->w_dense, rows->rows, p->w_bytes)
              + p->hw.layer_s)
           + gemm(p, m->vocab * m->hidden, logits, p->head_bytes)
           + p->hw.step_s;
}


double
moe_plan_attend(const moe_plan_t *p, const moe_plan_rows_t *rows)
{
    return attention(p, p->model.heads, rows)
           + gemm(p, p->model.w_attn, rows->rows, p->w_bytes)
           + p->hw.layer_s + p->hw.row_s * rows->rows;
}


double
moe_plan_shared(const moe_plan_t *p, double rows)
{
    return gemm(p, p->model.w_shared, rows, p->w_bytes);
}


void
moe_plan_layer(const moe_plan_t *p, double batch, moe_plan_layer_t *l)
{
    moe_plan_rows_t  rows;

    rows = decoding(p, batch);

    l->attention = attention(p, p->model.heads, &rows);
    l->projections = gemm(p, p->model.w_attn, rows.rows, p->w_bytes);
    l->experts = experts(p, rows.rows);
    l->shared = moe_plan_shared(p, rows.rows);
    l->rest = p->hw.layer_s + p->hw.row_s * rows.rows;
    l->exchange = moe_plan_exchange(p, p->skew * rows.rows);
}


static moe_plan_rows_t
decoding(const moe_plan_t *p, double batch)
{
    return (moe_plan_rows_t) {
        .rows = batch * p->drafts,
        .keys = batch * p->context,
        .pairs = batch * p->context * p->drafts
    };
}


static double
compute(const moe_plan_layer_t *l)
{
    return l->attention + l->projections + l->experts + l->shared + l->rest;
}


/* One instance of all devices cuts every matrix; between the parts of a layer
 * its rows are gathered and reduced. */
static double
step_tensor(const moe_plan_t *p, double batch)
{
    double                      rows, all, g, lat, move, att, moe, shared, n;
    moe_plan_rows_t             of;
    const moe_plan_shape_t     *m;
    const moe_plan_hardware_t  *hw;

    m = &p->model;
    hw = &p->hw;
    g = p->devices;
    n = batch * g;
    all = n * p->drafts;
    lat = g <= hw->domain ? hw->lat_in : hw->lat_out;
    move = all * m->hidden * 2 * (g - 1) / g / hw->link;

    moe = max2(moe_plan_distinct(m, m->experts, all) * m->w_expert * p->w_bytes
               / g / (hw->bw * hw->mem_eff * SLICE_EFF),
               2 * m->w_expert * all * m->top_k / g
               / (gemm_rate(p, max2(1, all * m->top_k / m->experts))
                  * SLICE_EFF));
    shared = gemm(p, m->w_shared / g, all, p->w_bytes);

    if (p->way == MOE_PLAN_HYBRID) {
        rows = batch * p->drafts;
        of = decoding(p, batch);
        att = attention(p, m->heads, &of)
              + gemm(p, m->w_attn, rows, p->w_bytes);
        move = 2 * (lat + move);

    } else {
        rows = all;
        of = decoding(p, n);
        att = attention(p, m->heads / g, &of)
              + gemm(p, m->w_attn / g, rows, p->w_bytes);
        move = 2 * (lat + 2 * move);
    }

    return m->layers * ((att + moe + shared) / p->kernels
                        + (g > 1 ? move : 0)
                        + hw->layer_s + hw->row_s * rows)
           + gemm(p, m->vocab * m->hidden / g, all, p->head_bytes)
           + hw->step_s;
}


/* rows through a matrix of so many parameters */
static double
gemm(const moe_plan_t *p, double params, double rows, double bytes)
{
    if (rows <= 0) {
        return 0;
    }

    return max2(params * bytes / (p->hw.bw * p->hw.mem_eff),
                2 * params * rows / gemm_rate(p, rows));
}


/* weights of more than 8 bits are multiplied at the wider rate */
static double
gemm_rate(const moe_plan_t *p, double rows)
{
    return (p->w_bytes > 1 ? p->hw.wide : p->hw.gemm) * p->hw.gemm_eff
           * rows / (rows + p->hw.m_half);
}


/* The KV of a sequence is read once for all its tokens of a step; a latent
 * cache is read whole by every slice of the heads, others by theirs. */
static double
attention(const moe_plan_t *p, double heads, const moe_plan_rows_t *rows)
{
    double                   bytes, ops;
    const moe_plan_shape_t  *m;

    m = &p->model;
    bytes = rows->keys * m->kv_width * p->kv_bytes;
    ops = 2 * heads * (m->attn_ops * rows->pairs
                       + fmin(m->attn_ops, EXPANDED) * rows->prompts);

    if (m->kv_heads > 1) {
        bytes *= max2(heads / m->heads, 1 / m->kv_heads);
    }

    return max2(bytes / (p->hw.bw * p->hw.attn_bw),
                ops / (p->hw.wide * p->hw.attn_eff));
}


/* Rows of every device are routed over all of them.  A replica gets its part
 * of its expert's rows. */
static double
experts(const moe_plan_t *p, double rows)
{
    double                   slots, share, all;
    moe_plan_experts_t       e;
    const moe_plan_shape_t  *m;

    m = &p->model;
    slots = m->experts + p->spare;
    all = rows * p->devices;
    share = m->experts / slots;

    e.touched = moe_plan_distinct(m, slots / p->devices, all * share);
    e.rows = p->skew * rows * m->top_k;
    e.each = all * m->top_k / slots;

    return moe_plan_expert(p, &e);
}


double
moe_plan_expert(const moe_plan_t *p, const moe_plan_experts_t *e)
{
    return max2(e->touched * p->model.w_expert * p->w_bytes
                / (p->hw.bw * p->hw.mem_eff),
                2 * p->model.w_expert * e->rows
                / gemm_rate(p, max2(1, e->each)));
}


/* there and back */
double
moe_plan_exchange(const moe_plan_t *p, double rows)
{
    double  part, dispatch, combine;
    link_t  t;

    if (p->devices <= 1) {
        return 0;
    }

    exchange_times(p, &t);

    part = rows / DEEPEP_ROWS * p->model.top_k * p->model.hidden / DEEPEP_WORK;

    dispatch = DISPATCH_MIN + (t.dispatch - DISPATCH_MIN) * part;
    combine = COMBINE_MIN + (t.combine - COMBINE_MIN) * part;

    return dispatch + combine;
}


/*
 * Of 128 rows of DeepSeek's size.  Where the devices stand in one domain of
 * a link other than Hopper's eight, its bandwidth decides: no table of such a
 * machine is published.
 */
static void
exchange_times(const moe_plan_t *p, link_t *t)
{
    double                      f, n, rate;
    size_t                      i;
    const moe_plan_hardware_t  *hw;

    hw = &p->hw;
    n = fmin(fmax(p->devices, deepep[0].devices), deepep[DEEPEP - 1].devices);

    if (hw->link < 100e9 || hw->domain > 8 || p->devices <= 1) {
        rate = p->devices <= hw->domain ? hw->link : hw->nic;

        t->dispatch = DISPATCH_MIN + DEEPEP_ROWS * DEEPEP_WORK * 1.03 / rate;
        t->combine = COMBINE_MIN + DEEPEP_ROWS * DEEPEP_WORK * 2 / rate;

        return;
    }

    for (i = 0; i + 2 < DEEPEP && n > deepep[i + 1].devices; i++) {
        /* void */
    }

    f = (log2(n) - log2(deepep[i].devices))
        / (log2(deepep[i + 1].devices) - log2(deepep[i].devices));

    t->dispatch = deepep[i].dispatch * (1 - f) + deepep[i + 1].dispatch * f;
    t->combine = deepep[i].combine * (1 - f) + deepep[i + 1].combine * f;
}


double
moe_plan_kv_token(const moe_plan_t *p)
{
    return p->model.layers * p->model.kv_width * p->kv_bytes;
}


double
moe_plan_weights(const moe_plan_t *p)
{
    double                   attn, dense, shared, routed, head, g;
    const moe_plan_shape_t  *m;

    m = &p->model;
    g = p->devices;

    attn = m->layers * m->w_attn * p->w_bytes;
    dense = (m->layers - m->moe_layers) * m->w_dense * p->w_bytes;
    shared = m->moe_layers * m->w_shared * p->w_bytes;
    routed = m->moe_layers * m->experts * m->w_expert * p->w_bytes;
    head = 2 * m->vocab * m->hidden * p->head_bytes;

    switch (p->way) {

    case MOE_PLAN_TENSOR:
        return (attn + dense + shared + routed + head) / g;

    case MOE_PLAN_HYBRID:
        return (shared + routed) / g + attn + dense + head;

    default:
        return attn + dense + shared + head
               + routed * (m->experts + p->spare) / m->experts / g;
    }
}


double
moe_plan_kv(const moe_plan_t *p)
{
    return p->hw.mem * p->hw.util - p->hw.reserve - moe_plan_weights(p);
}


/* A device's part of an instance's sequences: with a cache that is on every
 * device the same, all of them have room for as many as one. */
void
moe_plan_solve(const moe_plan_t *p, double tpot, moe_plan_point_t *out)
{
    double  lo, hi, mid, unit, copies;

    memset(out, 0, sizeof(moe_plan_point_t));

    copies = 1;

    if (p->way == MOE_PLAN_TENSOR) {
        copies = p->devices / fmin(p->devices, p->model.kv_heads);
    }

    out->kv = moe_plan_kv(p);
    out->fit = max2(0, out->kv) / (p->context * moe_plan_kv_token(p)) / copies;

    /* whole sequences: of a device, or of an instance */
    unit = p->way == MOE_PLAN_EXPERT ? 1 : 1 / p->devices;
    lo = 0;
    hi = floor(out->fit / unit);

    while (lo < hi) {
        mid = floor((lo + hi + 1) / 2);

        if (moe_plan_step(p, mid * unit) / p->accepted <= tpot) {
            lo = mid;

        } else {
            hi = mid - 1;
        }
    }

    out->batch = lo * unit;

    if (lo > 0) {
        out->step = moe_plan_step(p, out->batch);
        out->rate = out->batch * p->accepted / out->step;
        out->user = p->accepted / out->step;
    }
}


double
moe_plan_prefill(const moe_plan_t *p, double len)
{
    double                      comp, move, bytes, peers;
    const moe_plan_shape_t     *m;
    const moe_plan_hardware_t  *hw;

    m = &p->model;
    hw = &p->hw;

    /* a key is met by half of the prompt's rows, expanded: the score and the
     * value of a head, not of the latent */
    comp = 2 * m->w_active
           / gemm_rate(p, PREFILL_ROWS * p->devices * m->top_k
                           / (m->experts + p->spare))
           + 2 * m->layers * m->heads * fmin(m->attn_ops, EXPANDED) * len / 2
             / (hw->wide * hw->attn_eff);

    if (p->way == MOE_PLAN_EXPERT) {
        comp += m->moe_layers * m->top_k * 2 * m->w_expert * (p->skew - 1)
                / gemm_rate(p, PREFILL_ROWS);
    }

    peers = p->devices <= hw->domain
            ? fmin(m->top_k, p->devices - 1)
            : fmin(PREFILL_NODES, p->devices / hw->domain);

    /* there in 8 bits with scales, back in 16 */
    bytes = m->moe_layers * peers * m->hidden * (1.03 + 2);
    move = bytes / ((p->devices <= hw->domain ? hw->link : hw->nic)
                    * PREFILL_NET);

    if (p->way == MOE_PLAN_HYBRID) {
        move = m->layers * 2 * m->hidden * 2 / hw->link;
    }

    return 1 / (max2(comp, move) + (1 - p->overlap) * fmin(comp, move));
}


static double
max2(double a, double b)
{
    return a > b ? a : b;
}
