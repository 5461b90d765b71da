/*
 * mxfp4: numbers of 4 bits, 32 of which share a power of two.
 */

#ifndef MOE_MXFP4_H
#define MOE_MXFP4_H


#include <stdint.h>


enum { MOE_MXFP4_BLOCK = 32 };


/* twice the value of a code, so that it is an integer */
extern const int8_t  moe_mxfp4_values[16];

/* The scale of the doubled values, 2^(e - 128), as float16; what is too small
 * for it is 0.  -1: too large. */
int moe_mxfp4_scale(uint8_t e, uint16_t *scale);

/* the same as float32, exact; all bits set is not a number */
float moe_mxfp4_scale_f32(uint8_t e);


#endif /* MOE_MXFP4_H */
