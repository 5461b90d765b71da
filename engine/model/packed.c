#include <openssl/evp.h>
#include <string.h>

#include "model/packed.h"
#include "model/safetensors.h"


static const uint8_t  packed_magic[8] = "MOEQ\r\n\x1a\n";


static void
put(uint8_t *p, uint64_t v, int n)
{
    int  i;

    for (i = 0; i < n; i++) {
        p[i] = (uint8_t) (v >> (8 * i));
    }
}


static uint64_t
get(const uint8_t *p, int n)
{
    int       i;
    uint64_t  v;

    v = 0;

    for (i = n - 1; i >= 0; i--) {
        v = v << 8 | p[i];
    }

    return v;
}


static void
packed_sum(const uint8_t *preamble, const uint8_t *header, size_t len,
    uint8_t out[32])
{
    EVP_MD_CTX  *md;

    memset(out, 0, 32);
    md = EVP_MD_CTX_new();

    if (md == NULL) {
        return;
    }

    if (EVP_DigestInit_ex(md, EVP_sha256(), NULL) == 1) {
        EVP_DigestUpdate(md, preamble, MOE_PACKED_SUM);
        EVP_DigestUpdate(md, header, len);
        EVP_DigestFinal_ex(md, out, NULL);
    }

    EVP_MD_CTX_free(md);
}


int
moe_packed_is(const uint8_t *data, uint64_t size)
{
    return size >= sizeof(packed_magic)
           && memcmp(data, packed_magic, sizeof(packed_magic)) == 0;
}


/* the length of the header with its own 8 bytes, 0: not within the file */
static uint64_t
header_size(const uint8_t *data, uint64_t size)
{
    uint64_t  n;

    if (size < MOE_PACKED_PREAMBLE + 8) {
        return 0;
    }

    n = get(data + MOE_PACKED_PREAMBLE, 8);

    return n > MOE_ST_MAX_HEADER || n > size - MOE_PACKED_PREAMBLE - 8
           ? 0 : n + 8;
}


int
moe_packed_check(const uint8_t *data, uint64_t size, const char *path,
    moe_err_t *err)
{
    uint8_t   sum[32];
    uint64_t  n;

    n = header_size(data, size);
    if (n == 0) {
        return moe_err(err, "%s: %llu bytes are too few for its header",
                       path, (unsigned long long) size);
    }

    if (get(data + 8, 4) != MOE_PACKED_VERSION) {
        return moe_err(err, "%s: version %llu of the format, this engine "
                       "reads %d: quantize the model again", path,
                       (unsigned long long) get(data + 8, 4),
                       MOE_PACKED_VERSION);
    }

    if (get(data + 16, 8) != size) {
        return moe_err(err, "%s: %llu bytes, but it was written with %llu",
                       path, (unsigned long long) size,
                       (unsigned long long) get(data + 16, 8));
    }

    packed_sum(data, data + MOE_PACKED_PREAMBLE, (size_t) n, sum);

    if (memcmp(sum, data + MOE_PACKED_SUM, sizeof(sum)) != 0) {
        return moe_err(err, "%s: the header's checksum is wrong", path);
    }

    return 0;
}


int
moe_packed_verify(const uint8_t *data, uint64_t size, const char *path,
    moe_err_t *err)
{
    uint8_t   sum[32];
    uint64_t  at;

    if (!moe_packed_is(data, size)) {
        return moe_err(err, "%s: not a packed weight file", path);
    }

    if (moe_packed_check(data, size, path, err) != 0) {
        return -1;
    }

    at = MOE_PACKED_PREAMBLE + header_size(data, size);

    if (EVP_Digest(data + at, size - at, sum, NULL, EVP_sha256(), NULL) != 1
        || memcmp(sum, data + MOE_PACKED_DATA_SUM, sizeof(sum)) != 0)
    {
        return moe_err(err, "%s: the checksum of the data is wrong", path);
    }

    return 0;
}


void
moe_packed_preamble(uint8_t out[MOE_PACKED_PREAMBLE], uint64_t size,
    const uint8_t data_sum[32], const uint8_t source[32],
    const uint8_t *header, size_t len)
{
    memset(out, 0, MOE_PACKED_PREAMBLE);
    memcpy(out, packed_magic, sizeof(packed_magic));
    put(out + 8, MOE_PACKED_VERSION, 4);
    put(out + 16, size, 8);
    memcpy(out + MOE_PACKED_DATA_SUM, data_sum, 32);
    memcpy(out + MOE_PACKED_SOURCE, source, 32);
    packed_sum(out, header, len, out + MOE_PACKED_SUM);
}
