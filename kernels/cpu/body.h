/* body: all operations, compiled once a set; VL, ROW_TILE, MOE_SET,
 * MOE_SET_NAME and MOE_PACKED are given */

#include "kernels/cpu/sets.h"
#include "kernels/cpu/packed.h"
#include "kernels/cpu/vec.h"
#include "kernels/cpu/body_matmul.h"
#include "kernels/cpu/body_attention.h"
#include "kernels/cpu/body_rows.h"
#include "kernels/cpu/body_router.h"


const moe_kernels_t  MOE_SET = {
    .name = MOE_SET_NAME,
    .set = "lanes16-fma",

    .embed = op_embed,
    .rmsnorm = op_rmsnorm,
    .matmul = op_matmul,
    .glu = op_glu,
    .matmul_t = op_matmul_t,
    .rope = op_rope,
    .clamp = op_clamp,
    .kv_store = op_kv_store,
    .attention = op_attention,
    .attention_scratch = op_attention_scratch,
    .route = op_route,
    .silu_mul = op_silu_mul,
    .clamped_mul = op_clamped_mul,
    .permute = op_permute,
    .round_bf16 = op_round_bf16,
    .combine = op_combine,
    .copy = op_copy,
    .gather = op_gather,
    .add = op_add,
    .probe_int8 = op_probe_int8,
    .probe_read = op_probe_read,
    .argmax = op_argmax
};
