#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/version.h"
#include "kernels/cpu/packed.h"
#include "model/fingerprint.h"
#include "model/fused.h"
#include "model/gguf.h"


/* the number changes with every change that may move a bit of a logit */
#define PROGRAM  "ngx_moe " MOE_VERSION " numerics 2"

enum {
    CONFIG_MAX = 1 << 24,

    BLOCK = 4096,               /* what is read of a stretch */
    STRETCH = 1 << 20,
    EXPERT_STRETCH = 1 << 24    /* experts are nearly all of a large model */
};

/* the bytes of weights that are read to the last one: below a second */
#define WHOLE  (256u << 20)


static void
add(EVP_MD_CTX *md, const void *p, size_t n)
{
    uint64_t  len = n;

    EVP_DigestUpdate(md, &len, sizeof(len));
    EVP_DigestUpdate(md, p, n);
}


static void
add_text(EVP_MD_CTX *md, const char *s)
{
    add(md, s, strlen(s));
}


/* the middle of each stretch, and all of what is no longer than a block */
static void
add_blocks(EVP_MD_CTX *md, const char *name, const uint8_t *data,
    uint64_t size)
{
    uint64_t  at, n, stretch;

    stretch = strstr(name, ".experts.") ? EXPERT_STRETCH : STRETCH;

    for (at = 0; at < size; at += stretch) {
        n = size - at < stretch ? size - at : stretch;

        if (n <= BLOCK) {
            add(md, data + at, (size_t) n);

        } else {
            add(md, data + at + (n - BLOCK) / 2, BLOCK);
        }
    }
}


static void
add_data(EVP_MD_CTX *md, const char *name, const uint8_t *data, uint64_t size,
    int whole)
{
    if (whole) {
        add(md, data, (size_t) size);

    } else {
        add_blocks(md, name, data, size);
    }
}


static void
add_tensor(EVP_MD_CTX *md, const moe_st_tensor_t *t, int whole)
{
    add_text(md, t->name);
    add_text(md, t->dtype_name);
    add(md, t->dims, (size_t) t->ndim * sizeof(t->dims[0]));
    add(md, &t->offset, sizeof(t->offset));
    add(md, &t->size, sizeof(t->size));

    add_data(md, t->name, t->data,
             moe_is_part(t) ? moe_part_extent(t) : t->size, whole);

    if (t->scales != NULL) {
        add_data(md, t->name, t->scales,
                 moe_part_extent(t) / (MOE_GROUP / 2), whole);
    }
}


static void
add_weights(EVP_MD_CTX *md, const moe_st_t *st, uint64_t limit)
{
    int                   whole;
    size_t                i;
    const moe_st_file_t  *file;

    whole = moe_st_file_bytes(st) <= limit;

    for (i = 0; (file = moe_st_file(st, i)) != NULL; i++) {
        add(md, &file->size, sizeof(file->size));

        if (file->digest != NULL) {
            add(md, file->digest, 32);
        }
    }

    /* or each block would have the pages around it read from the disk too */
    moe_st_scattered(st, !whole);

    for (i = 0; i < moe_st_count(st); i++) {
        add_tensor(md, moe_st_at(st, i), whole);
    }

    moe_st_scattered(st, 0);
}


int
moe_fingerprint_weights(const moe_st_t *st, uint64_t limit, uint8_t out[32],
    moe_err_t *err)
{
    EVP_MD_CTX  *md;

    md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return moe_err(err, "fingerprint: no SHA-256");
    }

    add_weights(md, st, limit);

    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);

    return 0;
}


static int
add_config(EVP_MD_CTX *md, const char *dir, moe_err_t *err)
{
    int      n;
    char    *text, path[4096];
    size_t   len;

    n = snprintf(path, sizeof(path), "%s/config.json", dir);
    if (n < 0 || (size_t) n >= sizeof(path)) {
        return moe_err(err, "%.200s: path is too long", dir);
    }

    text = moe_file_read(path, CONFIG_MAX, &len, NULL, err);
    if (text == NULL) {
        return -1;
    }

    add(md, text, len);
    free(text);

    return 0;
}


/* a GGUF file's metadata stand before its tensors */
static void
add_header(EVP_MD_CTX *md, const moe_st_file_t *f)
{
    add(md, f->header, (size_t) f->header_size);
}


int
moe_fingerprint(const moe_model_t *m, const char *dir, uint8_t out[32],
    moe_err_t *err)
{
    uint8_t      weights[32];
    EVP_MD_CTX  *md;

    if (moe_fingerprint_weights(m->weights->st, WHOLE, weights, err) != 0) {
        return -1;
    }

    md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return moe_err(err, "fingerprint: no SHA-256");
    }

    add_text(md, PROGRAM);
    add_text(md, m->kernels->set);
    add_text(md, "kv");
    add_text(md, moe_kv_format_name(m->kv.format));
    add_text(md, moe_row_format_name(m->row_format));
    add(md, m->freq, (size_t) m->cfg.rope.dim / 2 * sizeof(float));

    if (moe_gguf_is(dir)) {
        add_header(md, moe_st_file(m->weights->st, 0));

    } else if (add_config(md, dir, err) != 0) {
        EVP_MD_CTX_free(md);
        return -1;
    }

    add(md, weights, sizeof(weights));

    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);

    return 0;
}
