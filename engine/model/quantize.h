/*
 * quantize: a model directory into one with packed weights.
 *
 * Which tensor gets which format is a table of name patterns, made by the
 * family's names; rules of the caller come after it, and of all that match a
 * name the last one counts.  Vectors are never packed, nor is what the engine
 * does not read as a whole matrix (embedding, router, kv_b).  FP8 that is not
 * packed becomes bf16.  MXFP4 stays what it is where no rule says else.
 * Blocks of a GGUF file are packed as gguf_pack.h has it, all at once in
 * memory, and rules do not change them.
 */

#ifndef MOE_QUANTIZE_H
#define MOE_QUANTIZE_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


typedef enum {
    MOE_FORMAT_KEEP,            /* as it is */
    MOE_FORMAT_F32,
    MOE_FORMAT_BF16,
    MOE_FORMAT_INT8,            /* groups of 32, 8.5 bits a weight */
    MOE_FORMAT_INT4,            /* groups of 32, 4.5 bits a weight */
    MOE_FORMAT_MXFP4,           /* groups of 32, 4.25 bits a weight */
    MOE_FORMAT_NONE
} moe_format_e;

typedef struct {
    const char    *pattern;     /* of fnmatch(3), on a tensor's whole name */
    moe_format_e   format;
} moe_format_rule_t;

typedef struct {
    moe_format_e              format;   /* INT8 or INT4: which table */
    const moe_format_rule_t  *rules;
    size_t                    nrules;
    uint32_t                  threads;  /* 0: all */
} moe_quantize_t;

typedef struct {
    uint64_t  bytes_in;
    uint64_t  bytes_out;
    uint64_t  tensors[MOE_FORMAT_NONE];
    uint64_t  weights[MOE_FORMAT_NONE];     /* elements */
} moe_quantized_t;


/* called for every tensor; a return other than 0 gives up */
typedef int (*moe_quantize_progress_pt)(void *ctx, const char *name,
    uint64_t done, uint64_t total);


/* "int8"; MOE_FORMAT_NONE where there is no such format */
moe_format_e moe_format_find(const char *name);
const char *moe_format_name(moe_format_e format);

/*
 * Reads the model in DIR and writes OUT/model.moeq, with the small files that
 * a model directory has besides; OUT is made where it does not exist.  The
 * weight file is written under another name and renamed when it is whole.
 */
int moe_quantize(const char *dir, const char *out, const moe_quantize_t *q,
    moe_quantize_progress_pt progress, void *ctx, moe_quantized_t *done,
    moe_err_t *err);


#endif /* MOE_QUANTIZE_H */
