#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "model/kv.h"


/* vector loads of a page's last row reach this far beyond it */
enum { KV_SLACK = 64 };

_Static_assert((int) MOE_PAGE_SIZE == (int) MOE_KV_PAGE,
               "one page size for scheduler and kernels");


static const struct {
    const char   *name;
    moe_wtype_e   type;
} formats[] = {
    [MOE_KV_F32] = { "f32", MOE_W_F32 },
    [MOE_KV_BF16] = { "bf16", MOE_W_BF16 },
    [MOE_KV_I8] = { "int8", MOE_W_I8_KV }
};


const char *
moe_kv_format_name(moe_kv_format_e format)
{
    return formats[format].name;
}


int
moe_kv_format_parse(const char *name, moe_kv_format_e *format)
{
    size_t  i;

    for (i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
        if (strcmp(formats[i].name, name) == 0) {
            *format = (moe_kv_format_e) i;
            return 0;
        }
    }

    return -1;
}


static uint64_t
kv_bytes(const moe_kv_mem_t *kv, uint32_t pages)
{
    return pages ? pages * kv->page_bytes + KV_SLACK : 0;
}


void
moe_kv_init(moe_kv_mem_t *kv, const moe_config_t *cfg, uint32_t layers,
    moe_kv_format_e format)
{
    uint64_t   width;
    moe_kv_t  *s;

    memset(kv, 0, sizeof(*kv));

    kv->format = format;
    s = &kv->shape;
    s->type = formats[format].type;

    if (cfg->attn == MOE_ATTN_MLA) {
        s->latent = 1;
        s->heads = 1;
        s->k_dim = (uint32_t) (cfg->kv_lora_rank + cfg->qk_rope_head_dim);
        s->v_dim = (uint32_t) cfg->kv_lora_rank;
        width = moe_kv_row(s->type, s->k_dim);

    } else {
        s->heads = (uint32_t) cfg->n_kv_heads;
        s->k_dim = (uint32_t) cfg->head_dim;
        s->v_dim = (uint32_t) cfg->head_dim;
        width = s->heads * (moe_kv_row(s->type, s->k_dim)
                            + moe_kv_row(s->type, s->v_dim));
    }

    kv->layer_bytes = width * MOE_PAGE_SIZE;
    kv->page_bytes = kv->layer_bytes * layers;
    s->stride = kv->page_bytes;
}


void
moe_kv_free(moe_kv_mem_t *kv)
{
    if (kv->base == NULL) {
        return;
    }

    if (kv->memory != NULL) {
        kv->memory->give(kv->device, kv->base);
    } else {
        munmap(kv->base, kv_bytes(kv, kv->pages));
    }

    kv->base = NULL;
    kv->pages = 0;
}


static int
resize_device(moe_kv_mem_t *kv, uint32_t pages, moe_err_t *err)
{
    void      *p;
    uint32_t   keep;

    p = kv->memory->take(kv->device, kv_bytes(kv, pages), err);
    if (p == NULL) {
        return moe_err_prefix(err, "kv: %u pages of %llu bytes", pages,
                              (unsigned long long) kv->page_bytes);
    }

    keep = pages < kv->pages ? pages : kv->pages;
    if (keep != 0) {
        kv->memory->move(kv->device, p, kv->base, keep * kv->page_bytes);
    }

    moe_kv_free(kv);
    kv->base = p;
    kv->pages = pages;

    return 0;
}


int
moe_kv_resize(moe_kv_mem_t *kv, uint32_t pages, moe_err_t *err)
{
    void  *p;

    if (pages == kv->pages) {
        return 0;
    }

    if (pages == 0) {
        moe_kv_free(kv);
        return 0;
    }

    if (pages > (UINT64_C(1) << 46) / kv->page_bytes) {
        return moe_err(err, "kv: %u pages of %llu bytes are too many", pages,
                       (unsigned long long) kv->page_bytes);
    }

    if (kv->memory != NULL) {
        return resize_device(kv, pages, err);
    }

    if (kv->base == NULL) {
        p = mmap(NULL, kv_bytes(kv, pages), PROT_READ|PROT_WRITE,
                 MAP_PRIVATE|MAP_ANONYMOUS|MAP_NORESERVE, -1, 0);
    } else {
        p = mremap(kv->base, kv_bytes(kv, kv->pages), kv_bytes(kv, pages),
                   MREMAP_MAYMOVE);
    }

    if (p == MAP_FAILED) {
        return moe_err(err, "kv: cannot map %u pages of %llu bytes: %s",
                       pages, (unsigned long long) kv->page_bytes,
                       strerror(errno));
    }

    (void) madvise(p, kv_bytes(kv, pages), MADV_HUGEPAGE);

    kv->base = p;
    kv->pages = pages;

    return 0;
}


moe_kv_t
moe_kv_layer(const moe_kv_mem_t *kv, uint32_t layer)
{
    moe_kv_t  s;

    s = kv->shape;
    s.base = kv->base + layer * kv->layer_bytes;

    return s;
}
