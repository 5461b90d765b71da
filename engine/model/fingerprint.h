/* fingerprint: one hash over what decides the bits of an answer */

#ifndef MOE_FINGERPRINT_H
#define MOE_FINGERPRINT_H


#include "model/decoder.h"


/*
 * SHA-256 over program version, kernel set, KV and row formats, rotary
 * frequencies, configuration and weights.
 */
int moe_fingerprint(const moe_model_t *m, const char *dir, uint8_t out[32],
    moe_err_t *err);

/*
 * Of the weights alone: size of every file; name, type, shape, place and
 * content of every tensor.  Where the files together have at most limit
 * bytes the content is every byte.  Else it is all of a tensor of up to 4 KiB
 * and 4 KiB in the middle of every MiB of a longer one, every 16 MiB of a
 * routed expert's: so that weights which were trained on differ, and one
 * changed number in a large model may not.  Packed files bring a digest of
 * every byte, made by quantize, in addition.
 */
int moe_fingerprint_weights(const moe_st_t *st, uint64_t limit,
    uint8_t out[32], moe_err_t *err);


#endif /* MOE_FINGERPRINT_H */
