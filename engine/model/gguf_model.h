/*
 * gguf_model: a GGUF file in place of a model directory.
 *
 * Metadata become the config.json that the checkpoint had, tensors get the
 * names and shapes that they had there; from then on nothing knows the
 * difference.  Architectures: deepseek2, qwen3moe, qwen2moe, olmoe, gpt-oss,
 * and llama with experts (Mixtral).
 *
 * F32, F16 and BF16 stay in the mapped file, but for what llama.cpp's
 * converter rearranged (q and k of llama, the halves of kv_b), which is put
 * back in memory.  Blocks are decoded at open: to float32 where that is at
 * most a gigabyte; else matrices are packed (gguf_pack.h) and the rest, which
 * is read by rows, becomes bfloat16.
 */

#ifndef MOE_GGUF_MODEL_H
#define MOE_GGUF_MODEL_H


#include <jansson.h>

#include "model/config.h"
#include "model/gguf.h"
#include "model/safetensors.h"


/* config.json's object, a new reference; NULL and err where a key is missing
 * or of another kind, or the architecture is unknown */
json_t *moe_gguf_config_json(const moe_gguf_t *g, moe_err_t *err);

/* the same, read: as moe_config_load() */
int moe_gguf_config(const moe_gguf_t *g, moe_config_t *cfg, moe_err_t *err);
int moe_gguf_config_load(const char *path, moe_config_t *cfg,
    moe_err_t *err);

/* most elements of blocks that are decoded to float32 */
#define MOE_GGUF_WIDE  (1u << 28)

/* the file's tensors under the checkpoint's names, wide as MOE_GGUF_WIDE; g
 * belongs to the result, or is closed where this fails */
moe_st_t *moe_gguf_tensors(moe_gguf_t *g, const moe_config_t *cfg,
    uint64_t wide, moe_err_t *err);

/* the same from a path */
moe_st_t *moe_gguf_tensors_open(const char *path, const moe_config_t *cfg,
    moe_err_t *err);


#endif /* MOE_GGUF_MODEL_H */
