/*
 * A model's configuration from where it lies: two files of a directory, or the
 * metadata of a GGUF file.
 */

#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "model/config.h"
#include "model/gguf_model.h"


#define MAX_SIZE  (16 << 20)


/* an absent file is no error: *text is NULL */
static int
config_read(const char *dir, const char *name, char **text, size_t *len,
    moe_err_t *err)
{
    int   n, absent;
    char  path[4096];

    n = snprintf(path, sizeof(path), "%s/%s", dir, name);

    if (n < 0 || (size_t) n >= sizeof(path)) {
        return moe_err(err, "%.200s...: path too long", dir);
    }

    *text = moe_file_read(path, MAX_SIZE, len, &absent, err);

    return *text != NULL || absent ? 0 : -1;
}


int
moe_config_load(const char *dir, moe_config_t *cfg, moe_err_t *err)
{
    int      rc;
    char    *text, *gen;
    size_t   len, gen_len;

    if (dir[0] == '\0') {
        return moe_err(err, "the model's path is empty");
    }

    if (moe_gguf_is(dir)) {
        return moe_gguf_config_load(dir, cfg, err);
    }

    gen = NULL;
    gen_len = 0;

    rc = config_read(dir, "config.json", &text, &len, err);
    if (rc != 0) {
        return -1;
    }

    if (text == NULL) {
        return moe_err(err, "%s/config.json: no such file", dir);
    }

    rc = config_read(dir, "generation_config.json", &gen, &gen_len, err);

    if (rc == 0) {
        rc = moe_config_parse(text, len, gen, gen_len, cfg, err);

        if (rc != 0) {
            moe_err_prefix(err, "%s", dir);
        }
    }

    free(text);
    free(gen);

    return rc;
}
