#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "text/tokenizer_load.h"


/* the largest vocabularies are 30 MB of JSON */
#define LOAD_MAX_FILE  ((off_t) 256 << 20)

/* and 4 MB of ranks */
#define LOAD_MAX_RANKS  ((size_t) 64 << 20)


json_t *
moe_tok_get(json_t *object, const char *key)
{
    json_t  *value;

    value = json_object_get(object, key);

    return json_is_null(value) ? NULL : value;
}


int
moe_tok_bool(moe_tok_load_t *l, json_t *object, const char *path,
    const char *key, int otherwise, int *value)
{
    json_t  *v;

    v = moe_tok_get(object, key);
    *value = v == NULL ? otherwise : json_is_true(v);

    if (v != NULL && !json_is_boolean(v)) {
        return moe_err(l->err, "%s: %s.%s is not a boolean", l->file, path,
                       key);
    }

    return 0;
}


int
moe_tok_string(moe_tok_load_t *l, json_t *object, const char *path,
    const char *key, const char **s, size_t *len)
{
    json_t  *v;

    v = moe_tok_get(object, key);

    if (!json_is_string(v)) {
        return moe_err(l->err, "%s: %s.%s is not a string", l->file, path,
                       key);
    }

    *s = json_string_value(v);
    *len = json_string_length(v);

    return 0;
}


/* "bos_token": "<s>" or {"content": "<s>", ...}, in either file */

static uint32_t
load_config_token(moe_tok_load_t *l, json_t *config, json_t *map,
    const char *key)
{
    json_t  *v;

    v = moe_tok_get(config, key);

    if (v == NULL) {
        v = moe_tok_get(map, key);
    }

    if (json_is_object(v)) {
        v = moe_tok_get(v, "content");
    }

    if (!json_is_string(v)) {
        return MOE_TOK_NONE;
    }

    return moe_vocab_find(&l->t->names, json_string_value(v),
                          json_string_length(v));
}


/* has one id at the front (or the back) of a list or not, as key says */

static int
load_config_add(moe_tok_load_t *l, json_t *config, const char *key,
    uint32_t id, uint32_t *list, unsigned *n, int front)
{
    int       add, has;
    unsigned  at;

    at = front || *n == 0 ? 0 : *n - 1;
    has = *n > 0 && list[at] == id;

    if (moe_tok_bool(l, config, "tokenizer", key, has, &add) == -1) {
        return -1;
    }

    if (add == has) {
        return 0;
    }

    if (!add) {
        (*n)--;
        memmove(list + at, list + at + 1, (*n - at) * sizeof(uint32_t));
        return 0;
    }

    if (id == MOE_TOK_NONE || *n == MOE_TOK_MAX_AROUND) {
        return moe_err(l->err, "%s: %s is true, and the token is not known",
                       l->file, key);
    }

    at = front ? 0 : *n;
    memmove(list + at + 1, list + at, (*n - at) * sizeof(uint32_t));
    list[at] = id;
    (*n)++;

    return 0;
}


static int
load_config(moe_tok_load_t *l, json_t *config, json_t *map)
{
    moe_tokenizer_t  *t = l->t;

    l->file = "tokenizer_config.json";

    t->bos = load_config_token(l, config, map, "bos_token");
    t->eos = load_config_token(l, config, map, "eos_token");

    if (config == NULL) {
        return 0;
    }

    if (load_config_add(l, config, "add_bos_token", t->bos, t->before,
                        &t->nbefore, 1) == -1)
    {
        return -1;
    }

    return load_config_add(l, config, "add_eos_token", t->eos, t->after,
                           &t->nafter, 0);
}


static int
load_all(moe_tok_load_t *l, json_t *root, json_t *config, json_t *map)
{
    if (!json_is_object(root)) {
        return moe_err(l->err, "%s: not an object", l->file);
    }

    /* pre-tokenizer and normalizer decide how the tokens are to be read */

    if (moe_tok_load_normalizer(l, moe_tok_get(root, "normalizer"), 0) == -1
        || (l->ranked && moe_tok_load_runs(l) == -1)
        || moe_tok_load_pretok(l, moe_tok_get(root, "pre_tokenizer"), 0) == -1
        || moe_tok_load_decoder(l, moe_tok_get(root, "decoder"), 0) == -1)
    {
        return -1;
    }

    if (moe_tok_load_model(l, moe_tok_get(root, "model")) == -1
        || moe_tok_load_added(l, moe_tok_get(root, "added_tokens")) == -1
        || moe_tok_load_pieces(l) == -1
        || moe_tok_load_post(l, moe_tok_get(root, "post_processor"), 0) == -1)
    {
        return -1;
    }

    return load_config(l, config, map);
}


void
moe_tok_clean(moe_err_t *err)
{
    char  *p;

    for (p = err->text; *p != '\0'; p++) {
        if ((uint8_t) *p < ' ' || *p == 127) {
            *p = '?';
        }
    }
}


static moe_tokenizer_t *
load_build(moe_tok_load_t *l, json_t *root, json_t *config, json_t *map)
{
    l->file = l->ranked ? "tokenizer_config.json" : "tokenizer.json";
    l->t = calloc(1, sizeof(moe_tokenizer_t));

    if (l->t == NULL) {
        moe_err(l->err, "%s: out of memory", l->file);
        return NULL;
    }

    if (load_all(l, root, config, map) == -1) {
        moe_tok_clean(l->err);
        moe_tokenizer_free(l->t);
        l->t = NULL;
    }

    moe_textbuf_free(&l->normal);
    free(l->normal_at);
    free(l->normal_len);

    return l->t;
}


moe_tokenizer_t *
moe_tokenizer_build(json_t *root, json_t *config, json_t *map, moe_err_t *err)
{
    moe_tok_load_t  l = { .err = err };

    return load_build(&l, root, config, map);
}


moe_tokenizer_t *
moe_tokenizer_build_scored(json_t *root, json_t *config, const float *scores,
    size_t nscores, moe_err_t *err)
{
    moe_tok_load_t  l = { .err = err, .scores = scores, .nscores = nscores };

    return load_build(&l, root, config, NULL);
}


moe_tokenizer_t *
moe_tokenizer_build_ranked(json_t *root, json_t *config, moe_err_t *err)
{
    moe_tok_load_t  l = { .err = err, .ranked = 1 };

    return load_build(&l, root, config, NULL);
}


static int
load_read(int fd, const char *path, char **data, size_t *size, moe_err_t *err)
{
    size_t       n;
    ssize_t      k;
    struct stat  st;

    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)
        || st.st_size > LOAD_MAX_FILE)
    {
        return moe_err(err, "%s: not a file of at most %lld bytes", path,
                       (long long) LOAD_MAX_FILE);
    }

    *size = st.st_size;
    *data = malloc(*size + 1);

    if (*data == NULL) {
        return moe_err(err, "%s: out of memory", path);
    }

    for (n = 0; n < *size; n += k) {
        k = read(fd, *data + n, *size - n);

        if (k == -1 && errno == EINTR) {
            k = 0;
            continue;
        }

        if (k <= 0) {
            free(*data);
            return moe_err(err, "%s: read: %s", path,
                           k == 0 ? "the file is shorter than it was"
                                  : strerror(errno));
        }
    }

    return 0;
}


/* parses DIR/name; 0 without a file leaves *root NULL */

static int
load_json(const char *dir, const char *name, size_t flags, json_t **root,
    moe_err_t *err)
{
    int           n, fd, rc;
    char          path[4096];
    char         *data = NULL;
    size_t        size = 0;
    json_error_t  e;

    *root = NULL;

    n = snprintf(path, sizeof(path), "%s/%s", dir, name);
    if (n < 0 || (size_t) n >= sizeof(path)) {
        return moe_err(err, "%s: the path is too long", name);
    }

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd == -1) {
        if (errno == ENOENT) {
            return 0;
        }

        return moe_err(err, "%s: %s", path, strerror(errno));
    }

    rc = load_read(fd, path, &data, &size, err);
    close(fd);

    if (rc == -1) {
        return -1;
    }

    *root = json_loadb(data, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL
                       | flags, &e);
    free(data);

    if (*root == NULL) {
        moe_err(err, "%s: line %d: %s", path, e.line, e.text);
        moe_tok_clean(err);
        return -1;
    }

    return 0;
}


/* DIR/tiktoken.model, where there is no tokenizer.json */

static moe_tokenizer_t *
load_ranks(const char *dir, json_t *config, moe_err_t *err)
{
    int               n, absent;
    char              path[4096];
    char             *text;
    size_t            len;
    moe_tokenizer_t  *t;

    n = snprintf(path, sizeof(path), "%s/tiktoken.model", dir);
    if (n < 0 || (size_t) n >= sizeof(path)) {
        moe_err(err, "tiktoken.model: the path is too long");
        return NULL;
    }

    text = moe_file_read(path, LOAD_MAX_RANKS, &len, &absent, err);

    if (text == NULL) {
        if (absent) {
            moe_err(err, "%s/tokenizer.json: No such file, and no "
                    "tiktoken.model", dir);
        }

        return NULL;
    }

    t = moe_tokenizer_build_tiktoken(text, len, config, err);
    free(text);

    if (t == NULL) {
        moe_err_prefix(err, "%s", dir);
    }

    return t;
}


moe_tokenizer_t *
moe_tokenizer_load(const char *dir, moe_err_t *err)
{
    json_t           *root = NULL, *config = NULL, *map = NULL;
    moe_err_t         local;
    moe_tokenizer_t  *t = NULL;

    err = err == NULL ? &local : err;

    /* model_max_length is often 10^30, which is no integer to jansson */

    if (load_json(dir, "tokenizer.json", 0, &root, err) == 0
        && load_json(dir, "tokenizer_config.json", JSON_DECODE_INT_AS_REAL,
                     &config, err) == 0
        && load_json(dir, "special_tokens_map.json", JSON_DECODE_INT_AS_REAL,
                     &map, err) == 0)
    {
        if (root == NULL) {
            t = load_ranks(dir, config, err);

        } else {
            t = moe_tokenizer_build(root, config, map, err);

            if (t == NULL) {
                moe_err_prefix(err, "%s", dir);
            }
        }
    }

    json_decref(root);
    json_decref(config);
    json_decref(map);

    return t;
}
