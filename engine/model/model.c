#include <fenv.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "model/decoder.h"
#include "model/exchange_device.h"
#include "model/expert_places.h"
#include "model/fingerprint.h"
#include "model/model.h"
#include "model/rope.h"


enum {
    DEFAULT_ROWS = 512,
    MAX_ROWS = 65536,
    MAX_THREADS = 1024
};


static int open_parts(moe_model_t *m, const char *dir,
    const moe_model_options_t *o, moe_model_progress_pt progress, void *ctx,
    moe_err_t *err);
static int open_device(moe_model_t *m, const moe_model_options_t *o,
    moe_err_t *err);
static int to_device(moe_model_t *m, moe_model_progress_pt progress,
    void *ctx, moe_err_t *err);
static moe_exchange_t *exchange_alone(moe_model_t *m,
    const moe_exchange_shape_t *shape, moe_err_t *err);
static int open_exchange(moe_model_t *m, const moe_model_options_t *o,
    moe_err_t *err);
static int open_mtp_exchange(moe_model_t *m, const moe_model_options_t *o,
    moe_err_t *err);
static int start_threads(moe_model_t *m, uint32_t threads, moe_err_t *err);
static int check_batch(moe_model_t *m, const moe_batch_t *b, moe_err_t *err);


moe_model_t *
moe_model_open(const char *dir, const moe_model_options_t *options,
    moe_model_progress_pt progress, void *ctx, moe_err_t *err)
{
    moe_model_t          *m;
    moe_model_options_t   none = { 0 };

    m = calloc(1, sizeof(moe_model_t));
    if (m == NULL) {
        moe_err(err, "model: out of memory");
        return NULL;
    }

    if (open_parts(m, dir, options ? options : &none, progress, ctx, err)
        != 0)
    {
        moe_model_close(m);
        return NULL;
    }

    return m;
}


static int
report(moe_model_progress_pt progress, void *ctx, const char *what,
    uint32_t percent, moe_err_t *err)
{
    if (progress != NULL && progress(ctx, what, percent) != 0) {
        return moe_err(err, "model: opening was given up");
    }

    return 0;
}


static int
open_parts(moe_model_t *m, const char *dir, const moe_model_options_t *o,
    moe_model_progress_pt progress, void *ctx, moe_err_t *err)
{
    m->max_rows = o->max_rows ? o->max_rows : DEFAULT_ROWS;
    m->row_format = o->row_format;
    m->exchange_ms = o->exchange_ms;

    if (m->max_rows > MAX_ROWS) {
        return moe_err(err, "model: %u rows in a step, at most %d",
                       m->max_rows, MAX_ROWS);
    }

    m->kernels = moe_kernels_get(o->kernels);
    if (m->kernels == NULL) {
        return moe_err(err, "model: this machine has no kernels \"%s\"",
                       o->kernels);
    }

    if (open_device(m, o, err) != 0
        || report(progress, ctx, "configuration", 0, err) != 0
        || moe_config_load(dir, &m->cfg, err) != 0
        || moe_config_check(&m->cfg, err) != 0
        || report(progress, ctx, "weights", 5, err) != 0)
    {
        return -1;
    }

    m->weights = moe_weights_load(dir, &m->cfg, err);
    if (m->weights == NULL) {
        return -1;
    }

    if (report(progress, ctx, "layers", 60, err) != 0
        || moe_decoder_bind(m, o->mtp, err) != 0
        || open_exchange(m, o, err) != 0
        || to_device(m, progress, ctx, err) != 0)
    {
        return -1;
    }

    m->freq = calloc((size_t) m->cfg.rope.dim / 2 + 1, sizeof(float));
    if (m->freq == NULL) {
        return moe_err(err, "model: out of memory");
    }

    /* where ranks exchange rows, a layer's operations hang on theirs */
    m->records = m->kernels->memory != NULL && o->exchange == NULL
                 && !o->unrecorded && moe_decoder_sorts(m);

    moe_rope_frequencies(&m->cfg.rope, m->freq);
    moe_kv_init(&m->kv, &m->cfg, moe_decoder_layers(m), o->kv_format);
    m->kv.memory = m->kernels->memory;
    m->kv.device = m->kctx.device;

    if (report(progress, ctx, "memory", 80, err) != 0
        || open_mtp_exchange(m, o, err) != 0
        || moe_decoder_memory(m, err) != 0
        || start_threads(m, o->threads, err) != 0
        || moe_model_kv_resize(m, o->kv_pages, err) != 0
        || moe_fingerprint(m, dir, m->fingerprint, err) != 0)
    {
        return -1;
    }

    return report(progress, ctx, "ready", 100, err);
}


/* where the kernels do not compute in this process's memory */
static int
open_device(moe_model_t *m, const moe_model_options_t *o, moe_err_t *err)
{
    const moe_device_ops_t  *d;

    if (m->kernels->memory == NULL) {
        return 0;
    }

    moe_exchange_memory(&m->rows_memory, m->kernels, &m->kctx);
    d = moe_kernels_device(m->kernels);
    m->kctx.device = d->open(d->count() > 1 ? o->device : 0, err);

    return m->kctx.device ? 0 : -1;
}


typedef struct {
    moe_model_progress_pt   fn;
    void                   *ctx;
} copying_t;


/* between layers and memory */
static int
report_copying(void *ctx, uint32_t percent)
{
    copying_t  *c = ctx;

    return c->fn(c->ctx, "copying to the device", 60 + percent / 5);
}


static int
to_device(moe_model_t *m, moe_model_progress_pt progress, void *ctx,
    moe_err_t *err)
{
    copying_t  c = { progress, ctx };

    if (m->kernels->memory == NULL) {
        return 0;
    }

    return moe_decoder_to_device(m, progress ? report_copying : NULL, &c,
                                 err);
}


static moe_exchange_shape_t
exchange_shape(const moe_config_t *c, const moe_model_options_t *o)
{
    return (moe_exchange_shape_t) {
        .max_rows = o->max_rows ? o->max_rows : DEFAULT_ROWS,
        .hidden = (uint32_t) c->hidden,
        .n_layers = (uint32_t) c->n_layers,
        .n_experts = (uint32_t) c->n_experts,
        .top_k = (uint32_t) c->top_k,
        .format = o->row_format,
        .n_groups = (uint32_t) c->n_group
    };
}


int
moe_model_exchange_shape(const char *dir, const moe_model_options_t *o,
    moe_exchange_shape_t *shape, moe_err_t *err)
{
    moe_config_t  c;

    if (moe_config_load(dir, &c, err) != 0
        || moe_config_check(&c, err) != 0)
    {
        return -1;
    }

    if (c.n_moe_layers == 0) {
        return moe_err(err, "%s: the model has no experts", dir);
    }

    *shape = exchange_shape(&c, o);

    return 0;
}


static int
open_exchange(moe_model_t *m, const moe_model_options_t *o, moe_err_t *err)
{
    moe_exchange_shape_t  shape;

    if (m->cfg.n_moe_layers == 0) {
        return 0;
    }

    shape = exchange_shape(&m->cfg, o);
    m->exchange = o->exchange
                  ? o->exchange(o->exchange_ctx, &shape,
                                m->kernels->memory ? &m->rows_memory.base
                                                   : NULL, err)
                  : exchange_alone(m, &shape, err);

    return m->exchange ? 0 : -1;
}


/* this rank's with itself */
static moe_exchange_t *
exchange_alone(moe_model_t *m, const moe_exchange_shape_t *shape,
    moe_err_t *err)
{
    if (m->kernels->memory != NULL) {
        return moe_exchange_device(shape, m->kernels, &m->kctx,
                                   moe_decoder_sorts(m), err);
    }

    return moe_exchange_local(shape, err);
}


static int
open_mtp_exchange(moe_model_t *m, const moe_model_options_t *o,
    moe_err_t *err)
{
    moe_exchange_shape_t  shape;

    if (m->mtp.eh_proj.data == NULL || m->cfg.n_moe_layers == 0) {
        return 0;
    }

    shape = exchange_shape(&m->cfg, o);
    m->mtp.exchange = exchange_alone(m, &shape, err);

    return m->mtp.exchange ? 0 : -1;
}


moe_exchange_t *
moe_model_exchange(moe_model_t *m)
{
    return m->exchange;
}


void
moe_model_close(moe_model_t *m)
{
    if (m == NULL) {
        return;
    }

    moe_pool_destroy(m->kctx.pool);

    if (m->exchange != NULL) {
        m->exchange->ops->close(m->exchange);
    }

    if (m->mtp.exchange != NULL) {
        m->mtp.exchange->ops->close(m->mtp.exchange);
    }

    moe_expert_places_free(m->places);
    moe_decoder_ladder_free(m);
    moe_decoder_memory_free(m);
    moe_kv_free(&m->kv);
    moe_weights_free(m->weights);

    if (m->device_weights != NULL) {
        m->kernels->memory->give(m->kctx.device, m->device_weights);
    }

    if (m->kctx.device != NULL) {
        m->kernels->memory->close(m->kctx.device);
    }

    free(m->kctx.scratch);
    free(m->layers);
    free(m->experts);
    free(m->vectors);
    free(m->freq);
    free(m);
}


const moe_config_t *
moe_model_config(const moe_model_t *m)
{
    return &m->cfg;
}


uint32_t
moe_model_vocab_size(const moe_model_t *m)
{
    return (uint32_t) m->cfg.vocab;
}


uint32_t
moe_model_max_position(const moe_model_t *m)
{
    return (uint32_t) m->cfg.max_positions;
}


int
moe_model_has_mtp(const moe_model_t *m)
{
    return m->mtp.eh_proj.data != NULL;
}


void
moe_model_set_draft(moe_model_t *m, int on)
{
    m->mtp.on = on && m->mtp.eh_proj.data != NULL;
}


int
moe_model_can_draw(const moe_model_t *m)
{
    return m->kernels->memory != NULL && m->kernels->sample != NULL;
}


void
moe_model_set_draws(moe_model_t *m, const moe_draws_t *draws)
{
    m->draws = draws;
}


uint32_t
moe_model_max_rows(const moe_model_t *m)
{
    return m->max_rows;
}


void
moe_model_fingerprint(const moe_model_t *m, uint8_t out[32])
{
    memcpy(out, m->fingerprint, 32);
}


uint64_t
moe_model_kv_bytes_per_page(const moe_model_t *m)
{
    return m->kv.page_bytes;
}


uint32_t
moe_model_kv_pages(const moe_model_t *m)
{
    return m->kv.pages;
}


int
moe_model_kv_resize(moe_model_t *m, uint32_t pages, moe_err_t *err)
{
    if (moe_kv_resize(&m->kv, pages, err) != 0) {
        return -1;
    }

    return moe_decoder_ladder(m, err);
}


int
moe_model_set_threads(moe_model_t *m, uint32_t threads, moe_err_t *err)
{
    return start_threads(m, threads, err);
}


/* replaces what threads there were; on failure they stay */
static int
start_threads(moe_model_t *m, uint32_t threads, moe_err_t *err)
{
    float       *scratch;
    size_t       each;
    cpu_set_t    set;
    moe_pool_t  *pool;

    if (m->kernels->memory != NULL) {
        threads = 1;
    }

    if (threads == 0) {
        threads = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? (uint32_t) CPU_COUNT(&set) : 1;
    }

    if (threads > MAX_THREADS) {
        return moe_err(err, "model: %u threads, at most %d", threads,
                       MAX_THREADS);
    }

    each = m->kernels->attention_scratch(m->kv.shape.k_dim,
                                         m->kv.shape.v_dim);
    each = (each + 15) / 16 * 16;

    scratch = aligned_alloc(64, threads * each * sizeof(float));
    if (scratch == NULL) {
        return moe_err(err, "model: out of memory for %u threads", threads);
    }

    pool = moe_pool_create(threads, err);
    if (pool == NULL) {
        free(scratch);
        return -1;
    }

    moe_pool_destroy(m->kctx.pool);
    free(m->kctx.scratch);

    m->kctx.pool = pool;
    m->kctx.scratch = scratch;
    m->kctx.scratch_each = each;
    m->kctx.quant = m->mem.quant;
    m->kctx.quant_size = m->mem.quant_size;

    return 0;
}


int
moe_model_step(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err)
{
    int     rc;
    fenv_t  env;

    if (check_batch(m, b, err) != 0) {
        return -1;
    }

    m->late = 0;

    if (b->nrows == 0 && (m->exchange == NULL || m->exchange->nranks == 1)) {
        return 0;
    }

    /* the helpers' mode, whatever the caller's is */
    fegetenv(&env);
    fesetenv(FE_DFL_ENV);

    rc = moe_decoder_run(m, b, logits, err);

    fesetenv(&env);

    return rc;
}


int
moe_model_draft(moe_model_t *m, const moe_batch_t *b, const moe_draft_t *d,
    float *logits, moe_err_t *err)
{
    int       rc;
    fenv_t    env;
    uint32_t  i;

    for (i = 0; i < d->n; i++) {
        if (d->rows[i] >= m->nhidden || d->next[i] >= (uint32_t) m->cfg.vocab
            || (i != 0 && d->rows[i] <= d->rows[i - 1]))
        {
            return moe_err(err, "model: nothing can follow row %u",
                           d->rows[i]);
        }
    }

    for (i = 0; i < d->nout; i++) {
        if (d->out[i] >= d->n || (i != 0 && d->out[i] <= d->out[i - 1])) {
            return moe_err(err, "model: drafts of row %u cannot be had",
                           d->out[i]);
        }
    }

    if (d->n == 0) {
        return 0;
    }

    fegetenv(&env);
    fesetenv(FE_DFL_ENV);

    rc = moe_decoder_draft(m, b, d, logits, err);

    fesetenv(&env);

    return rc;
}


uint64_t
moe_model_late(const moe_model_t *m)
{
    return m->late;
}


static int
check_row(moe_model_t *m, const moe_batch_t *b, uint32_t i, moe_err_t *err)
{
    if (b->ids[i] >= (uint32_t) m->cfg.vocab) {
        return moe_err(err, "model: row %u: no token %u, the vocabulary has "
                       "%d", i, b->ids[i], m->cfg.vocab);
    }

    if (b->pos[i] >= (uint32_t) m->cfg.max_positions) {
        return moe_err(err, "model: row %u: position %u, the model has %d",
                       i, b->pos[i], m->cfg.max_positions);
    }

    if (b->seq[i] >= b->nseqs) {
        return moe_err(err, "model: row %u: sequence %u of %u", i, b->seq[i],
                       b->nseqs);
    }

    if (b->role[i] > MOE_ROLE_GENERATED) {
        return moe_err(err, "model: row %u: no role %u", i, b->role[i]);
    }

    if (i != 0 && b->seq[i] == b->seq[i - 1]) {
        if (b->pos[i] != b->pos[i - 1] + 1) {
            return moe_err(err, "model: row %u: position %u after %u", i,
                           b->pos[i], b->pos[i - 1]);
        }
        return 0;
    }

    if (m->mem.seen[b->seq[i]]) {
        return moe_err(err, "model: row %u: sequence %u again", i, b->seq[i]);
    }

    m->mem.seen[b->seq[i]] = 1;

    return 0;
}


static int
check_tables(moe_model_t *m, const moe_batch_t *b, moe_err_t *err)
{
    uint32_t         i, t;
    const uint32_t  *table;

    for (i = 0; i < b->nrows; i++) {

        if (i + 1 < b->nrows && b->seq[i + 1] == b->seq[i]) {
            continue;
        }

        table = b->tables[b->seq[i]];

        for (t = 0; t <= b->pos[i] / MOE_PAGE_SIZE; t++) {
            if (table[t] >= m->kv.pages) {
                return moe_err(err, "model: sequence %u: page %u of %u",
                               b->seq[i], table[t], m->kv.pages);
            }
        }
    }

    return 0;
}


static int
check_batch(moe_model_t *m, const moe_batch_t *b, moe_err_t *err)
{
    uint32_t  i;

    if (b->nrows > m->max_rows || b->nseqs > m->max_rows) {
        return moe_err(err, "model: %u rows of %u sequences in a step, at "
                       "most %u", b->nrows, b->nseqs, m->max_rows);
    }

    memset(m->mem.seen, 0, b->nseqs);

    for (i = 0; i < b->nrows; i++) {
        if (check_row(m, b, i, err) != 0) {
            return -1;
        }
    }

    for (i = 0; i < b->nout; i++) {
        if (b->out[i] >= b->nrows || (i != 0 && b->out[i] <= b->out[i - 1])) {
            return moe_err(err, "model: logits of row %u cannot be had",
                           b->out[i]);
        }
    }

    return check_tables(m, b, err);
}
