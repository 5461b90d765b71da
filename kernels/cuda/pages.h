/*
 * pages: where keys and values lie in KV memory, see moe_kv_t.  Pure, for host
 * and device.
 */

#ifndef MOE_CUDA_PAGES_H
#define MOE_CUDA_PAGES_H


#include <stddef.h>
#include <stdint.h>

#include "kernels/cuda/host.h"
#include "kernels/kernels.h"


/* moe_kv_row() for both sides */
MOE_HOST_DEVICE static inline size_t
moe_page_row(moe_wtype_e type, uint32_t n)
{
    return type == MOE_W_F32 ? (size_t) n * 4
           : type == MOE_W_BF16 ? (size_t) n * 2
           : ((size_t) n + 31) / 32 * 36;
}


/* bytes from the KV memory's base to a head's key at place i of a page */
MOE_HOST_DEVICE static inline size_t
moe_page_key(const moe_kv_t *kv, uint64_t page, uint32_t head, uint32_t i)
{
    return page * kv->stride
           + ((size_t) head * MOE_KV_PAGE + i)
             * moe_page_row(kv->type, kv->k_dim);
}


/* the same of its value, which of latents is the beginning of the key */
MOE_HOST_DEVICE static inline size_t
moe_page_value(const moe_kv_t *kv, uint64_t page, uint32_t head, uint32_t i)
{
    if (kv->latent) {
        return moe_page_key(kv, page, 0, i);
    }

    return page * kv->stride
           + (size_t) kv->heads * MOE_KV_PAGE
             * moe_page_row(kv->type, kv->k_dim)
           + ((size_t) head * MOE_KV_PAGE + i)
             * moe_page_row(kv->type, kv->v_dim);
}


/* the first key that a row at this position sees */
MOE_HOST_DEVICE static inline uint32_t
moe_page_first_key(uint32_t pos, uint32_t window)
{
    return window != 0 && pos + 1 > window ? pos + 1 - window : 0;
}


/* keys *from .. *end - 1 of page t are seen; 0: none */
MOE_HOST_DEVICE static inline int
moe_page_sees(uint32_t pos, uint32_t window, uint32_t t, uint32_t *from,
    uint32_t *end)
{
    uint32_t  at, first;

    at = t * MOE_KV_PAGE;
    first = moe_page_first_key(pos, window);

    if (pos < at || first >= at + MOE_KV_PAGE) {
        return 0;
    }

    *from = first > at ? first - at : 0;
    *end = pos - at + 1 < MOE_KV_PAGE ? pos - at + 1
                                     : (uint32_t) MOE_KV_PAGE;

    return 1;
}


#endif /* MOE_CUDA_PAGES_H */
