#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "model/decoder.h"


static size_t
max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}


/* the next each bytes a row, on a cache line; with base NULL only counted */
static void *
carve(moe_step_mem_t *mem, size_t *at, size_t rows, size_t each)
{
    void  *p;

    p = mem->base ? (char *) mem->base + *at : NULL;
    *at += (rows * each + 63) / 64 * 64;

    return p;
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


static size_t
lay_out(moe_model_t *m)
{
    size_t               at, r, f, heads, kv_heads, latent, slots;
    moe_step_mem_t      *mem;
    const moe_config_t  *c;

    c = &m->cfg;
    mem = &m->mem;
    at = 0;
    r = m->max_rows;
    f = sizeof(float);
    heads = (size_t) c->n_heads;
    kv_heads = (size_t) c->n_kv_heads;
    latent = (size_t) c->kv_lora_rank;

    /* every row of every rank may have all its experts here */
    slots = r * (size_t) c->top_k * (m->exchange ? m->exchange->nranks : 1);

    mem->x = carve(mem, &at, r, (size_t) c->hidden * f);
    mem->xn = carve(mem, &at, r, (size_t) c->hidden * f);
    mem->y = carve(mem, &at, r, (size_t) c->hidden * f);

    if (m->mtp.eh_proj.data != NULL) {
        mem->h = carve(mem, &at, r, (size_t) c->hidden * f);
        mem->eh = carve(mem, &at, r, (size_t) c->hidden * 2 * f);
        mem->draft_pos = carve(mem, &at, r, sizeof(uint32_t));
        mem->draft_seq = carve(mem, &at, r, sizeof(uint32_t));
    }

    mem->q = carve(mem, &at, r, heads * (size_t) c->head_dim * f);
    mem->o = carve(mem, &at, r, heads * (size_t) c->v_head_dim * f);
    mem->cos = carve(mem, &at, r, (size_t) c->rope.dim / 2 * f);
    mem->sin = carve(mem, &at, r, (size_t) c->rope.dim / 2 * f);

    if (c->attn == MOE_ATTN_MLA) {
        mem->q_a = carve(mem, &at, r, (size_t) c->q_lora_rank * f);
        mem->q_lat = carve(mem, &at, r, heads * m->kv.shape.k_dim * f);
        mem->k = carve(mem, &at, r, m->kv.shape.k_dim * f);
        mem->o_lat = carve(mem, &at, r, heads * latent * f);

    } else {
        mem->k = carve(mem, &at, r, kv_heads * (size_t) c->head_dim * f);
        mem->v = carve(mem, &at, r, kv_heads * (size_t) c->head_dim * f);
    }

    mem->logits = carve(mem, &at, r, (size_t) c->n_experts * f);
    mem->weights = carve(mem, &at, r, (size_t) c->top_k * f);
    mem->chosen = carve(mem, &at, r, (size_t) c->top_k * sizeof(uint32_t));
    mem->gate = carve(mem, &at, slots, (size_t) c->moe_ffn * f);
    mem->up = carve(mem, &at, slots, (size_t) c->moe_ffn * f);
    mem->ffn_gate = carve(mem, &at, r,
                          (size_t) (c->dense_ffn + c->shared_ffn) * f);
    mem->ffn_up = carve(mem, &at, r,
                        (size_t) (c->dense_ffn + c->shared_ffn) * f);
    mem->shared_scale = carve(mem, &at, r, f);

    mem->slots = carve(mem, &at, r, sizeof(uint64_t));
    mem->pos = carve(mem, &at, r, sizeof(uint32_t));
    mem->spans = carve(mem, &at, r, sizeof(moe_span_t));
    mem->seen = carve(mem, &at, r, 1);

    mem->nparts = (uint32_t) max_size(2 * (size_t) c->n_experts + 4,
                         heads * (r / MOE_ABSORB_ROWS + 1));
    mem->parts = carve(mem, &at, mem->nparts, sizeof(moe_matmul_t));
    mem->glu = carve(mem, &at, (size_t) c->n_experts + 1, sizeof(moe_glu_t));

    mem->quant_size = r * quant_bytes(m);
    mem->quant = carve(mem, &at, mem->quant_size, 1);

    return at;
}


int
moe_decoder_memory(moe_model_t *m, moe_err_t *err)
{
    m->mem.base = NULL;
    m->mem.bytes = lay_out(m);

    m->mem.base = mmap(NULL, m->mem.bytes, PROT_READ|PROT_WRITE,
                       MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);

    if (m->mem.base == MAP_FAILED) {
        m->mem.base = NULL;
        return moe_err(err, "decoder: cannot map %zu bytes for %u rows: %s",
                       m->mem.bytes, m->max_rows, strerror(errno));
    }

    (void) madvise(m->mem.base, m->mem.bytes, MADV_HUGEPAGE);

    lay_out(m);

    return 0;
}
