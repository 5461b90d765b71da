/*
 * packed: the container of our own weight file, model.moeq.
 *
 * A preamble of 128 bytes, then what a safetensors file has: the length of a
 * JSON header, the header, the data.  In it three more dtypes, I8_G32,
 * I4_G32 and MX4_G32, whose bytes are laid out for the kernels.  The data
 * section begins at a multiple of 64.  Numbers are little-endian.
 *
 *     0  "MOEQ\r\n\x1a\n"
 *     8  version, 32 bits, now 1; then 32 bits of 0
 *    16  size of the file, 64 bits
 *    24  SHA-256 of the data section
 *    56  SHA-256 of the source: its config.json and the headers and sizes of
 *        its weight files
 *    88  SHA-256 of bytes 0 .. 87 and of the header with its length
 *   120  zeros
 *
 * Opening a file checks all but the data, which would have to be read; that
 * is what moe_packed_verify() is for.
 */

#ifndef MOE_MODEL_PACKED_H
#define MOE_MODEL_PACKED_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


#define MOE_PACKED_FILE  "model.moeq"

enum {
    MOE_PACKED_VERSION = 1,
    MOE_PACKED_PREAMBLE = 128,
    MOE_PACKED_DATA_SUM = 24,       /* offsets in the preamble */
    MOE_PACKED_SOURCE = 56,
    MOE_PACKED_SUM = 88
};


/* whether data begins as such a file does */
int moe_packed_is(const uint8_t *data, uint64_t size);

/* Checks version, size and sum; path is for the message. */
int moe_packed_check(const uint8_t *data, uint64_t size, const char *path,
    moe_err_t *err);

/* The same, and the data too. */
int moe_packed_verify(const uint8_t *data, uint64_t size, const char *path,
    moe_err_t *err);

/*
 * Fills in the preamble of a file of that size, whose header is header[len],
 * its 8 bytes of length included.
 */
void moe_packed_preamble(uint8_t out[MOE_PACKED_PREAMBLE], uint64_t size,
    const uint8_t data_sum[32], const uint8_t source[32],
    const uint8_t *header, size_t len);


#endif /* MOE_MODEL_PACKED_H */
