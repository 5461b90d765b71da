/*
 * fused: a checkpoint's tensors that hold one matrix of all experts, taken
 * apart.
 *
 * gpt-oss keeps gate and up of all experts in one tensor, a column of one
 * beside a column of the other, with inputs before outputs; or in MXFP4,
 * outputs before inputs.  Here each expert's gate, up and down get a name and
 * a shape of their own, as other families have them, and are a part: numbers
 * in the mapped file that lie some steps apart.  Nothing is copied before
 * somebody asks for it.
 */

#ifndef MOE_FUSED_H
#define MOE_FUSED_H


#include "model/config.h"
#include "model/safetensors.h"
#include "model/weights.h"


/* most elements of MXFP4 that become bfloat16; more are packed */
#define MOE_FUSED_WIDE  (1u << 28)


/* Takes the experts of a family that has them so apart; st keeps the rest as
 * it is. */
int moe_fused_split(moe_st_t *st, const moe_config_t *cfg, moe_err_t *err);

/* whether a tensor is a part */
int moe_is_part(const moe_st_tensor_t *f);

/* bytes from a part's first element to the end of its last one */
uint64_t moe_part_extent(const moe_st_tensor_t *f);

/* a part as moe_tensor_to_f32() reads it */
moe_tensor_t moe_part_tensor(const moe_st_tensor_t *f);

/*
 * What a part becomes in memory: its own type, or of MXFP4 BF16 where wide,
 * else MX4_G32; the values are the same.  The size in bytes goes to *size.
 */
moe_dtype_e moe_part_type(const moe_st_tensor_t *f, int wide, uint64_t *size);

/* Writes that, at a multiple of 64.  -1: no memory, or a scale
 * that is not a number. */
int moe_part_fill(const moe_st_tensor_t *f, moe_dtype_e type, void *out);


#endif /* MOE_FUSED_H */
