/*
 * kimi: a directory as Kimi-K2's, with a tiktoken.model made of Qwen3's
 * vocabulary, as tools/tokenizers/kimi.py does it for the goldens.
 */

#ifndef KIMI_H
#define KIMI_H


#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "text/tokenizer.h"


#define KIMI_RANKS   151643         /* the tokens before Qwen3's added ones */
#define KIMI_CONFIG  "t/golden/tokenizer/kimi/tokenizer_config.json"


static void
kimi_write(const char *dir, const char *name, const char *text, size_t len)
{
    char   path[512];
    FILE  *fp;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    fp = fopen(path, "wb");
    assert_non_null(fp);
    assert_int_equal(fwrite(text, 1, len, fp), len);
    fclose(fp);
}


/* the text of a tiktoken.model, to be freed */
static char *
kimi_ranks(const moe_tokenizer_t *qwen3, size_t *len)
{
    char        *text;
    size_t       n;
    uint32_t     id;
    const char  *s;

    text = malloc((size_t) KIMI_RANKS * 400);
    assert_non_null(text);
    *len = 0;

    for (id = 0; id < KIMI_RANKS; id++) {
        assert_int_equal(moe_tokenizer_piece(qwen3, id, &s, &n), 0);
        assert_true(n <= 256);

        *len += (size_t) EVP_EncodeBlock((uint8_t *) text + *len,
                                         (const uint8_t *) s, (int) n);
        *len += (size_t) sprintf(text + *len, " %u\n", id);
    }

    return text;
}


static moe_tokenizer_t *
kimi_load(const moe_tokenizer_t *qwen3)
{
    char              dir[] = "/tmp/moe-kimi.XXXXXX", path[256];
    char             *text;
    size_t            len;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    assert_non_null(mkdtemp(dir));

    text = kimi_ranks(qwen3, &len);
    kimi_write(dir, "tiktoken.model", text, len);
    free(text);

    text = moe_file_read(KIMI_CONFIG, 1 << 20, &len, NULL, &err);
    assert_non_null(text);
    kimi_write(dir, "tokenizer_config.json", text, len);
    free(text);

    t = moe_tokenizer_load(dir, &err);

    snprintf(path, sizeof(path), "%s/tiktoken.model", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/tokenizer_config.json", dir);
    unlink(path);
    rmdir(dir);

    if (t == NULL) {
        fail_msg("%s", err.text);
    }

    return t;
}


#endif /* KIMI_H */
