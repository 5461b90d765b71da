/*
 * kv: the memory of KV pages.
 *
 * A page holds MOE_PAGE_SIZE positions of all layers, layer after layer, so
 * that it can be given away, moved or dropped as one run of bytes.  Memory
 * comes from the system zeroed and as it is first written; a device's is taken
 * at once.
 */

#ifndef MOE_KV_H
#define MOE_KV_H


#include "kernels/kernels.h"
#include "model/config.h"
#include "model/model.h"


typedef struct {
    uint8_t          *base;
    uint64_t          page_bytes;
    uint64_t          layer_bytes;
    uint32_t          pages;
    moe_kv_format_e   format;
    moe_kv_t          shape;        /* of every layer; base is of layer 0 */
    const moe_memory_t  *memory;    /* NULL: the process's own */
    moe_device_t     *device;
} moe_kv_mem_t;


/* no pages yet; layers: that have KV, an MTP layer too.  The caller sets memory
 * and device. */
void moe_kv_init(moe_kv_mem_t *kv, const moe_config_t *cfg, uint32_t layers,
    moe_kv_format_e format);

void moe_kv_free(moe_kv_mem_t *kv);

/* pages that stay keep their contents; base may move.  On a device old and new
 * pages are there together for a moment. */
int moe_kv_resize(moe_kv_mem_t *kv, uint32_t pages, moe_err_t *err);

/* one layer as kernels see it */
moe_kv_t moe_kv_layer(const moe_kv_mem_t *kv, uint32_t layer);


#endif /* MOE_KV_H */
