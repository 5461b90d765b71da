/*
 * ggml_quants: the element types of GGUF tensors, and their values.
 *
 * A type stores its elements in blocks.  The decoders give exactly what the
 * reference (gguf.quants, ggml) gives: float32 arithmetic in its order.
 * Blocks of F16 scales that are no numbers give values that are none.
 */

#ifndef MOE_GGML_QUANTS_H
#define MOE_GGML_QUANTS_H


#include <stddef.h>
#include <stdint.h>


/* numbers are the format's */
typedef enum {
    MOE_GGML_F32 = 0,
    MOE_GGML_F16 = 1,
    MOE_GGML_Q4_0 = 2,
    MOE_GGML_Q4_1 = 3,
    MOE_GGML_Q5_0 = 6,
    MOE_GGML_Q5_1 = 7,
    MOE_GGML_Q8_0 = 8,
    MOE_GGML_Q4_K = 12,
    MOE_GGML_Q5_K = 13,
    MOE_GGML_Q6_K = 14,
    MOE_GGML_BF16 = 30,
    MOE_GGML_MXFP4 = 39
} moe_ggml_type_e;


typedef struct {
    const char  *name;          /* "Q4_K" */
    uint32_t     elems;         /* of a block */
    uint32_t     bytes;         /* of a block */

    /* nblocks blocks at any alignment into out[nblocks * elems]; NULL: the
     * engine does not read this type */
    void (*decode)(const uint8_t *in, size_t nblocks, float *out);
} moe_ggml_type_t;


/* NULL: no such type is known */
const moe_ggml_type_t *moe_ggml_type(uint32_t type);

/* the bits of a bfloat16, nearest, ties to even; a NaN stays one */
uint16_t moe_bf16_of(float x);


#endif /* MOE_GGML_QUANTS_H */
