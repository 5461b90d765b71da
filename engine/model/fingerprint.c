#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/version.h"
#include "model/fingerprint.h"
#include "model/gguf.h"


/* the number changes with every change that may move a bit of a logit */
#define PROGRAM  "ngx_moe " MOE_VERSION " numerics 1"

enum {
    CONFIG_MAX = 1 << 24,
    SAMPLE = 256            /* bytes of a tensor, at each of three places */
};


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


/*
 * Name, type, shape and place of every tensor, which is what the files'
 * headers say; and, as tuned variants of a model differ in nothing else, some
 * bytes of each tensor but the experts', which are many: reading them all
 * would cost a large model minutes.
 */
static void
add_tensor(EVP_MD_CTX *md, const moe_st_tensor_t *t)
{
    size_t  i, n, at;

    add_text(md, t->name);
    add_text(md, t->dtype_name);
    add(md, t->dims, (size_t) t->ndim * sizeof(t->dims[0]));
    add(md, &t->offset, sizeof(t->offset));
    add(md, &t->size, sizeof(t->size));

    if (strstr(t->name, ".experts.") != NULL) {
        return;
    }

    for (i = 0; i < 3; i++) {
        at = t->size / 3 * i;
        n = t->size - at < SAMPLE ? t->size - at : SAMPLE;
        add(md, t->data + at, n);
    }
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
    size_t                i;
    uint64_t              bytes;
    EVP_MD_CTX           *md;
    const moe_st_file_t  *file;

    md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return moe_err(err, "fingerprint: no SHA-256");
    }

    add_text(md, PROGRAM);
    add_text(md, m->kernels->set);
    add_text(md, m->kv.format == MOE_KV_BF16 ? "kv bf16" : "kv f32");
    add_text(md, moe_row_format_name(m->row_format));
    add(md, m->freq, (size_t) m->cfg.rope.dim / 2 * sizeof(float));

    if (moe_gguf_is(dir)) {
        add_header(md, moe_st_file(m->weights->st, 0));

    } else if (add_config(md, dir, err) != 0) {
        EVP_MD_CTX_free(md);
        return -1;
    }

    bytes = moe_st_file_bytes(m->weights->st);
    add(md, &bytes, sizeof(bytes));

    for (i = 0; (file = moe_st_file(m->weights->st, i)) != NULL; i++) {
        if (file->digest != NULL) {
            add(md, file->digest, 32);
        }
    }

    for (i = 0; i < moe_st_count(m->weights->st); i++) {
        add_tensor(md, moe_st_at(m->weights->st, i));
    }

    EVP_DigestFinal_ex(md, out, NULL);
    EVP_MD_CTX_free(md);

    return 0;
}
