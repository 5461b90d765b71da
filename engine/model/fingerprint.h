/* fingerprint: one hash over what decides the bits of an answer */

#ifndef MOE_FINGERPRINT_H
#define MOE_FINGERPRINT_H


#include "model/decoder.h"


int moe_fingerprint(const moe_model_t *m, const char *dir, uint8_t out[32],
    moe_err_t *err);


#endif /* MOE_FINGERPRINT_H */
