#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "model/decoder.h"


static size_t
max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}


typedef struct {
    char    *base;              /* NULL: only counted */
    size_t   at;
    size_t   first;             /* row that is wanted */
} arena_t;


/* the next n of each bytes, which all rows share, on a cache line */
static void *
carve_all(arena_t *a, size_t n, size_t each)
{
    void  *p;

    p = a->base ? a->base + a->at : NULL;
    a->at += (n * each + 63) / 64 * 64;

    return p;
}


/* the next each bytes a row: the first row's that is wanted */
static void *
carve(arena_t *a, size_t rows, size_t each)
{
    char  *p;

    p = carve_all(a, rows, each);

    return p ? p + a->first * each : NULL;
}


/* most that one call of matmul or glu takes of quantized rows, a row of the
 * step */
static size_t
quant_bytes(const moe_model_t *m)
{
    size_t               n, experts, ffn, ranks;
    const moe_config_t  *c;

    c = &m->cfg;

    /* the attention's inputs, two products at once at most */
    n = moe_quant_row((uint32_t) c->hidden)
        + moe_quant_row((uint32_t) c->q_lora_rank)
        + moe_quant_row((uint32_t) (c->n_heads * c->v_head_dim));

    ffn = moe_quant_row((uint32_t) c->hidden)
          + moe_quant_row((uint32_t) (c->dense_ffn + c->shared_ffn));
    experts = moe_quant_row((uint32_t) c->hidden)
              + moe_quant_row((uint32_t) c->moe_ffn);

    ranks = m->exchange ? m->exchange->nranks : 1;

    return max_size(n, ffn + ranks * (size_t) c->top_k * experts);
}


static void
lay_out_in(const moe_model_t *m, moe_step_in_t *in, arena_t *a)
{
    size_t               r;
    const moe_config_t  *c;

    c = &m->cfg;
    r = m->max_rows;

    in->ids = carve(a, r, sizeof(uint32_t));
    in->pos = carve(a, r, sizeof(uint32_t));
    in->rows = carve(a, r, sizeof(uint32_t));
    in->slots = carve(a, r, sizeof(uint64_t));
    in->cos = carve(a, r, (size_t) c->rope.dim / 2 * sizeof(float));
    in->sin = carve(a, r, (size_t) c->rope.dim / 2 * sizeof(float));
    in->spans = carve(a, r, sizeof(moe_span_t));

    if (m->kernels->memory != NULL) {
        in->tables = carve(a, r, ((size_t) c->max_positions / MOE_PAGE_SIZE
                                  + 1) * sizeof(uint32_t));
    }
}


/* what the process alone reads and writes */
static void
lay_out_host(moe_model_t *m, arena_t *a)
{
    size_t               r, heads;
    moe_step_mem_t      *mem;
    const moe_config_t  *c;

    c = &m->cfg;
    mem = &m->mem;
    r = m->max_rows;
    heads = (size_t) c->n_heads;

    if (m->kernels->memory != NULL) {
        lay_out_in(m, &mem->host, a);
    } else {
        mem->host = mem->in;
    }

    if (m->mtp.eh_proj.data != NULL) {
        mem->draft_pos = carve(a, r, sizeof(uint32_t));
        mem->draft_seq = carve(a, r, sizeof(uint32_t));
    }

    mem->out = carve(a, r, sizeof(uint32_t));
    mem->seen = carve_all(a, r, 1);
    mem->tables = carve_all(a, r, sizeof(uint32_t *));

    mem->nparts = (uint32_t) max_size(2 * (size_t) c->n_experts + 4,
                         heads * (r / MOE_ABSORB_ROWS + 1));
    mem->parts = carve_all(a, mem->nparts, sizeof(moe_matmul_t));
    mem->glu = carve_all(a, (size_t) c->n_experts + 1, sizeof(moe_glu_t));
}


static void
lay_out(moe_model_t *m, arena_t *a)
{
    size_t               r, f, heads, kv_heads, latent, slots;
    moe_step_mem_t      *mem;
    const moe_config_t  *c;

    c = &m->cfg;
    mem = &m->mem;
    r = m->max_rows;
    f = sizeof(float);
    heads = (size_t) c->n_heads;
    kv_heads = (size_t) c->n_kv_heads;
    latent = (size_t) c->kv_lora_rank;

    /* every row of every rank may have all its experts here */
    slots = r * (size_t) c->top_k * (m->exchange ? m->exchange->nranks : 1);

    lay_out_in(m, &mem->in, a);

    mem->x = carve(a, r, (size_t) c->hidden * f);
    mem->xn = carve(a, r, (size_t) c->hidden * f);
    mem->y = carve(a, r, (size_t) c->hidden * f);

    if (m->mtp.eh_proj.data != NULL) {
        mem->h = carve(a, r, (size_t) c->hidden * f);
        mem->eh = carve(a, r, (size_t) c->hidden * 2 * f);
    }

    mem->q = carve(a, r, heads * (size_t) c->head_dim * f);
    mem->o = carve(a, r, heads * (size_t) c->v_head_dim * f);

    if (c->attn == MOE_ATTN_MLA) {
        mem->q_a = carve(a, r, (size_t) c->q_lora_rank * f);
        mem->q_lat = carve(a, r, heads * m->kv.shape.k_dim * f);
        mem->k = carve(a, r, m->kv.shape.k_dim * f);
        mem->o_lat = carve(a, r, heads * latent * f);

    } else {
        mem->k = carve(a, r, kv_heads * (size_t) c->head_dim * f);
        mem->v = carve(a, r, kv_heads * (size_t) c->head_dim * f);
    }

    mem->logits = carve(a, r, (size_t) c->n_experts * f);
    mem->weights = carve(a, r, (size_t) c->top_k * f);
    mem->chosen = carve(a, r, (size_t) c->top_k * sizeof(uint32_t));
    mem->gate = carve_all(a, slots, (size_t) c->moe_ffn * f);
    mem->up = carve_all(a, slots, (size_t) c->moe_ffn * f);
    mem->ffn_gate = carve(a, r, (size_t) (c->dense_ffn + c->shared_ffn) * f);
    mem->ffn_up = carve(a, r, (size_t) (c->dense_ffn + c->shared_ffn) * f);
    mem->shared_scale = carve(a, r, f);

    if (m->kernels->memory != NULL) {
        mem->vocab = carve_all(a, r < MOE_HEAD_ROWS ? r : MOE_HEAD_ROWS,
                               (size_t) c->vocab * f);
        mem->draws = carve_all(a, MOE_HEAD_ROWS, sizeof(moe_draw_t));
        mem->drawn = carve_all(a, r, sizeof(moe_drawn_t));
        mem->edits = carve_all(a, MOE_EDITS * (size_t) c->vocab,
                               sizeof(moe_edit_t));
    }

    mem->quant_size = r * quant_bytes(m);
    mem->quant = carve_all(a, mem->quant_size, 1);
}


static void *
map(size_t bytes)
{
    void  *p;

    p = mmap(NULL, bytes, PROT_READ|PROT_WRITE,
             MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}


static int
no_memory(const moe_model_t *m, size_t bytes, moe_err_t *err)
{
    return moe_err(err, "decoder: cannot map %zu bytes for %u rows: %s",
                   bytes, m->max_rows, strerror(errno));
}


int
moe_decoder_memory(moe_model_t *m, moe_err_t *err)
{
    arena_t          own = { NULL, 0, 0 }, host = { NULL, 0, 0 };
    moe_step_mem_t  *mem;

    mem = &m->mem;

    lay_out(m, &own);
    lay_out_host(m, &host);

    mem->host_base = map(host.at);
    if (mem->host_base == NULL) {
        return no_memory(m, host.at, err);
    }
    mem->host_bytes = host.at;

    if (m->kernels->memory != NULL) {
        mem->base = m->kernels->memory->take(m->kctx.device, own.at, err);
        if (mem->base == NULL) {
            return moe_err_prefix(err, "decoder: %u rows", m->max_rows);
        }

    } else {
        mem->base = map(own.at);
        if (mem->base == NULL) {
            return no_memory(m, own.at, err);
        }
        (void) madvise(mem->base, own.at, MADV_HUGEPAGE);
    }

    mem->bytes = own.at;
    moe_decoder_memory_from(m, 0);

    return 0;
}


void
moe_decoder_memory_from(moe_model_t *m, uint32_t row)
{
    arena_t  own = { m->mem.base, 0, row };
    arena_t  host = { m->mem.host_base, 0, row };

    lay_out(m, &own);
    lay_out_host(m, &host);
}


void
moe_decoder_memory_free(moe_model_t *m)
{
    moe_step_mem_t  *mem;

    mem = &m->mem;

    if (mem->base != NULL && m->kernels->memory != NULL) {
        m->kernels->memory->give(m->kctx.device, mem->base);
    } else if (mem->base != NULL) {
        munmap(mem->base, mem->bytes);
    }

    if (mem->host_base != NULL) {
        munmap(mem->host_base, mem->host_bytes);
    }
}
