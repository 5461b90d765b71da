/*
 * rope: the frequencies of a configuration and the angles of positions.
 *
 * Angles are float32 products of position and frequency, as the reference
 * takes them; sine and cosine are our own, so that every machine has the same
 * bits.
 */

#ifndef MOE_ROPE_H
#define MOE_ROPE_H


#include <stdint.h>

#include "model/config.h"


/* writes rope->dim / 2 frequencies, YaRN applied */
void moe_rope_frequencies(const moe_rope_t *rope, float *freq);

/* cos and sin of pos * freq[i], times factor: [nrows][n] each */
void moe_rope_angles(const float *freq, uint32_t n, double factor,
    const uint32_t *pos, uint32_t nrows, float *cos, float *sin);


#endif /* MOE_ROPE_H */
