/*
 * quantize_files: the small files of a model directory, beside packed
 * weights; copied, or written from a GGUF file's metadata.
 */

#ifndef MOE_QUANTIZE_FILES_H
#define MOE_QUANTIZE_FILES_H


#include "base/err.h"


/* dir and out: at most 4000 bytes each */
int moe_quantize_files(const char *dir, const char *out, moe_err_t *err);


#endif /* MOE_QUANTIZE_FILES_H */
