/*
 * What a model directory has besides its weights.
 */

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "model/gguf_model.h"
#include "model/gguf_text.h"
#include "model/quantize_files.h"


#define FILE_MAX   (256u << 20)
#define PATH_SIZE  4224             /* of a directory's path and a name */


static const char *const  small_files[] = {
    "config.json", "generation_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "tokenizer.model", "tiktoken.model",
    "chat_template.jinja", "chat_template.json", "README.md", "LICENSE"
};


static int
write_small(const char *out, const char *name, const char *text, size_t len,
    moe_err_t *err)
{
    int   fd, rc;
    char  to[PATH_SIZE];

    snprintf(to, sizeof(to), "%s/%s", out, name);

    fd = open(to, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    rc = fd < 0 || write(fd, text, len) != (ssize_t) len ? -1 : 0;

    if (rc != 0) {
        moe_err(err, "%s: cannot write: %s", to, strerror(errno));
    }

    if (fd >= 0) {
        close(fd);
    }

    return rc;
}


static int
copy_small(const char *dir, const char *out, const char *name, moe_err_t *err)
{
    int      rc, absent;
    char    *text, from[PATH_SIZE];
    size_t   len;

    snprintf(from, sizeof(from), "%s/%s", dir, name);
    absent = 0;

    text = moe_file_read(from, FILE_MAX, &len, &absent, err);
    if (text == NULL) {
        return absent ? 0 : -1;
    }

    rc = write_small(out, name, text, len, err);
    free(text);

    return rc;
}


/* json is released; NULL has its reason in err already */
static int
write_json(const char *out, const char *name, json_t *json, moe_err_t *err)
{
    int    rc;
    char  *text;

    if (json == NULL) {
        return -1;
    }

    text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(17));
    json_decref(json);

    if (text == NULL) {
        return moe_err(err, "%s: no memory", name);
    }

    rc = write_small(out, name, text, strlen(text), err);
    free(text);

    return rc;
}


static int
write_metadata(const char *path, const char *out, moe_err_t *err)
{
    int          rc;
    size_t       len;
    moe_gguf_t  *g;
    const char  *kind;

    g = moe_gguf_open(path, err);
    if (g == NULL) {
        return -1;
    }

    rc = write_json(out, "config.json", moe_gguf_config_json(g, err), err);

    if (rc == 0) {
        rc = moe_gguf_string(g, "tokenizer.ggml.model", &kind, &len, err);
    }

    /* 1: a file without a vocabulary */
    if (rc == 0) {
        rc = write_json(out, "tokenizer_config.json",
                        moe_gguf_tokenizer_config(g, err), err)
             || write_json(out, "tokenizer.json",
                           moe_gguf_tokenizer_json(g, err), err) ? -1 : 0;
    }

    moe_gguf_close(g);

    return rc < 0 ? -1 : 0;
}


int
moe_quantize_files(const char *dir, const char *out, moe_err_t *err)
{
    size_t  i;

    if (moe_gguf_is(dir)) {
        return write_metadata(dir, out, err);
    }

    for (i = 0; i < sizeof(small_files) / sizeof(small_files[0]); i++) {
        if (copy_small(dir, out, small_files[i], err) != 0) {
            return -1;
        }
    }

    return 0;
}
