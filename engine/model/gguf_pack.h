/*
 * gguf_pack: matrices of blocks into the groups that the kernels take.
 *
 * Q4_0 becomes I4_G32, Q8_0 I8_G32 and MXFP4 MX4_G32, value for value.
 * Everything else is rounded to I8_G32.
 */

#ifndef MOE_GGUF_PACK_H
#define MOE_GGUF_PACK_H


#include "kernels/cpu/pool.h"
#include "model/gguf.h"
#include "model/safetensors.h"


/* I8_G32, I4_G32 or MX4_G32 */
moe_dtype_e moe_gguf_packed_type(const moe_gguf_tensor_t *s);

/* bytes of a matrix */
uint64_t moe_gguf_packed_size(const moe_gguf_tensor_t *s, uint64_t rows,
    uint64_t cols);

/*
 * Packs s, n matrices of rows [rows, dims[0]] one behind the other, into
 * out[n * size], aligned to 64.  head 0: rows in their order; else the rows
 * of every head of that many are to be put back from neighbours (2i, 2i + 1)
 * to (i, i + head / 2), and divides rows.  -1: out of memory, or values too
 * large, or no numbers.
 */
int moe_gguf_pack(const moe_gguf_tensor_t *s, uint64_t n, uint64_t rows,
    uint64_t head, moe_pool_t *pool, uint8_t *out, moe_err_t *err);


#endif /* MOE_GGUF_PACK_H */
