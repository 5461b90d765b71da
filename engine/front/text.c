#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <openssl/evp.h>
#include <openssl/sha.h>

#include "front/text.h"
#include "model/gguf_text.h"


#define MOE_TEXT_FILE_MAX  (64u << 20)


static const char *const  moe_text_tokens[] = {
    "bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
    "cls_token", "mask_token", "additional_special_tokens"
};

_Static_assert(sizeof(moe_text_tokens) / sizeof(moe_text_tokens[0])
               == MOE_TEXT_TOKENS - 1, "special tokens");


/* 1: there is no such file; the text is the caller's, with a zero after it */

static int
moe_text_read(const char *dir, const char *name, char **text, size_t *len,
    moe_err_t *err)
{
    int          rc;
    char         path[PATH_MAX];
    FILE        *f;
    struct stat  st;

    *text = NULL;

    if (snprintf(path, sizeof(path), "%s%s%s", dir, *dir ? "/" : "", name)
        >= (int) sizeof(path))
    {
        return moe_err(err, "%s: the path is too long", name);
    }

    f = fopen(path, "rb");

    if (f == NULL) {
        return errno == ENOENT || errno == ENOTDIR ? 1
                               : moe_err(err, "%s: %s", path, strerror(errno));
    }

    rc = -1;

    if (fstat(fileno(f), &st) == -1) {
        (void) moe_err(err, "%s: %s", path, strerror(errno));

    } else if (!S_ISREG(st.st_mode) || st.st_size > MOE_TEXT_FILE_MAX) {
        (void) moe_err(err, "%s: not a file of at most %u bytes", path,
                       MOE_TEXT_FILE_MAX);

    } else {
        *len = (size_t) st.st_size;
        *text = malloc(*len + 1);

        if (*text == NULL) {
            (void) moe_err(err, "%s: no memory", path);

        } else if (fread(*text, 1, *len, f) != *len) {
            (void) moe_err(err, "%s: cannot be read", path);
            free(*text);
            *text = NULL;

        } else {
            (*text)[*len] = '\0';
            rc = 0;
        }
    }

    fclose(f);

    return rc;
}


/* NULL: no such file, and then err is empty */

static json_t *
moe_text_json(const char *dir, const char *name, moe_err_t *err)
{
    int            rc;
    char          *text;
    size_t         len;
    json_t        *json;
    json_error_t   je;

    err->text[0] = '\0';

    rc = moe_text_read(dir, name, &text, &len, err);
    if (rc != 0) {
        return NULL;
    }

    /* model_max_length is often 10^30, which is no integer to jansson */
    json = json_loadb(text, len, JSON_ALLOW_NUL | JSON_DECODE_INT_AS_REAL,
                      &je);
    free(text);

    if (json == NULL) {
        (void) moe_err(err, "%s/%s: line %d: %s", dir, name, je.line,
                       je.text);

    } else if (!json_is_object(json)) {
        json_decref(json);
        (void) moe_err(err, "%s/%s: not an object", dir, name);
        json = NULL;
    }

    return json;
}


/* a special token is written as a string or as an object with content */

static json_t *
moe_text_token(json_t *value)
{
    size_t   i;
    json_t  *list, *item;

    if (json_is_object(value)) {
        value = json_object_get(value, "content");
    }

    if (json_is_string(value)) {
        return json_incref(value);
    }

    if (!json_is_array(value)) {
        return NULL;
    }

    list = json_array();

    json_array_foreach(value, i, item) {

        if (json_is_object(item)) {
            item = json_object_get(item, "content");
        }

        if (json_is_string(item)) {
            json_array_append(list, item);
        }
    }

    return list;
}


static void
moe_text_add_tokens(moe_text_t *t, json_t *config)
{
    size_t       i;
    json_t      *value;
    const char  *name;

    for (i = 0; config && i < MOE_TEXT_TOKENS - 1; i++) {
        name = moe_text_tokens[i];

        if (json_object_get(t->tokens, name)) {
            continue;
        }

        value = moe_text_token(json_object_get(config, name));

        if (value) {
            json_object_set_new(t->tokens, name, value);
        }
    }
}


/* a string, or a list of named ones of which "default" is meant */

static const json_t *
moe_text_default_template(const json_t *config)
{
    size_t   i;
    json_t  *value, *item;

    value = json_object_get(config, "chat_template");

    if (!json_is_array(value)) {
        return json_is_string(value) ? value : NULL;
    }

    json_array_foreach(value, i, item) {
        const char  *name;

        name = json_string_value(json_object_get(item, "name"));

        if (name && strcmp(name, "default") == 0) {
            item = json_object_get(item, "template");
            return json_is_string(item) ? item : NULL;
        }
    }

    return NULL;
}


static int
moe_text_template(moe_text_t *t, const char *dir, const char *file,
    const json_t *config, moe_err_t *err)
{
    int            rc;
    char          *text;
    size_t         len;
    const char    *name;
    const json_t  *value;

    name = file ? file : "chat_template.jinja";

    rc = moe_text_read(file ? "" : dir, name, &text, &len, err);

    if (rc == -1) {
        return -1;
    }

    if (rc == 1 && file) {
        return moe_err(err, "%s: no such file", file);
    }

    if (rc == 0) {
        t->template = moe_template_compile(text, len, err);
        free(text);

    } else {
        value = moe_text_default_template(config);

        if (value == NULL) {
            return 0;
        }

        name = "tokenizer_config.json: chat_template";
        t->template = moe_template_compile(json_string_value(value),
                                           json_string_length(value), err);
    }

    if (t->template == NULL) {
        return moe_err_prefix(err, "%s", name);
    }

    return 0;
}


/* the tokenizer, and the two files that are about it, or what says the same in
 * a GGUF file */

static int
moe_text_files(moe_text_t *t, const char *dir, json_t **config, json_t **map,
    moe_err_t *err)
{
    moe_gguf_t  *g;

    *map = NULL;

    if (moe_gguf_is(dir)) {
        g = moe_gguf_open(dir, err);
        if (g == NULL) {
            return -1;
        }

        t->tokenizer = moe_gguf_tokenizer(g, err);
        *config = t->tokenizer ? moe_gguf_tokenizer_config(g, err) : NULL;
        moe_gguf_close(g);

        return *config ? 0 : -1;
    }

    t->tokenizer = moe_tokenizer_load(dir, err);
    if (t->tokenizer == NULL) {
        return -1;
    }

    *config = moe_text_json(dir, "tokenizer_config.json", err);
    if (*config == NULL && err->text[0]) {
        return -1;
    }

    *map = moe_text_json(dir, "special_tokens_map.json", err);
    if (*map == NULL && err->text[0]) {
        json_decref(*config);
        return -1;
    }

    return 0;
}


static int
moe_text_tokenizer(moe_text_t *t, const char *dir, const char *template,
    moe_err_t *err)
{
    int      rc;
    size_t   i;
    json_t  *config, *map;

    if (moe_text_files(t, dir, &config, &map, err) == -1) {
        return -1;
    }

    t->tokens = json_object();

    moe_text_add_tokens(t, config);
    moe_text_add_tokens(t, map);

    for (i = 0; i < MOE_TEXT_TOKENS - 1; i++) {
        t->trusted[i] = moe_text_tokens[i];
    }

    rc = moe_text_template(t, dir, template, config, err);

    json_decref(config);
    json_decref(map);

    return rc;
}


/* what ends an answer: the model's list, else the tokenizer's one */

static void
moe_text_ends(moe_text_t *t)
{
    int       i;
    uint32_t  eos;

    t->bos = moe_tokenizer_bos(t->tokenizer);

    if (t->bos == MOE_TOK_NONE && t->config.bos >= 0) {
        t->bos = (uint32_t) t->config.bos;
    }

    for (i = 0; i < t->config.n_eos; i++) {
        t->eos[t->neos++] = (uint32_t) t->config.eos[i];
    }

    eos = moe_tokenizer_eos(t->tokenizer);

    if (t->neos == 0 && eos != MOE_TOK_NONE
        && eos < (uint32_t) t->config.vocab)
    {
        t->eos[t->neos++] = eos;
    }
}


static int
moe_text_default_name(moe_text_t *t, const char *dir, moe_err_t *err)
{
    char        path[PATH_MAX];
    size_t      len;
    const char *base;

    if (t->nnames) {
        return 0;
    }

    if (realpath(dir, path) == NULL) {
        return moe_err(err, "%s: %s", dir, strerror(errno));
    }

    base = strrchr(path, '/');
    base = base && base[1] ? base + 1 : "model";
    len = strlen(base);

    if (len > 5 && strcmp(base + len - 5, ".gguf") == 0) {
        path[base + len - 5 - path] = '\0';
    }

    snprintf(t->names[0], MOE_MODEL_NAME_MAX, "%s", base);
    t->nnames = 1;

    return 0;
}


/* a file that is not there is another thing than an empty one */

static int
moe_text_digest_file(EVP_MD_CTX *md, const char *dir, const char *name,
    moe_err_t *err)
{
    int        rc;
    char      *text;
    size_t     len;
    uint64_t   n;

    rc = moe_text_read(dir, name, &text, &len, err);
    if (rc == -1) {
        return -1;
    }

    n = rc == 0 ? len : UINT64_MAX;
    EVP_DigestUpdate(md, &n, sizeof(n));

    if (rc == 0) {
        EVP_DigestUpdate(md, text, len);
        free(text);
    }

    return 0;
}


/* what a GGUF file says of text is in its header, which is the model's */

static int
moe_text_digest(moe_text_t *t, const char *dir, const char *template,
    moe_err_t *err)
{
    int          rc;
    size_t       i;
    EVP_MD_CTX  *md;

    static const char *const  names[] = {
        "tokenizer.json", "tiktoken.model", "tokenizer_config.json",
        "special_tokens_map.json", "generation_config.json",
        "chat_template.jinja"
    };

    md = EVP_MD_CTX_new();
    if (md == NULL || EVP_DigestInit_ex(md, EVP_sha256(), NULL) != 1) {
        EVP_MD_CTX_free(md);
        return moe_err(err, "%s: no SHA-256", dir);
    }

    rc = 0;
    for (i = 0; i < sizeof(names) / sizeof(names[0]) && rc == 0; i++) {
        rc = moe_text_digest_file(md, dir, names[i], err);
    }

    if (rc == 0 && template) {
        rc = moe_text_digest_file(md, "", template, err);
    }

    EVP_DigestFinal_ex(md, t->digest, NULL);
    EVP_MD_CTX_free(md);

    return rc;
}


void
moe_text_fingerprint(const moe_text_t *t, const uint8_t model[32],
    uint8_t out[32])
{
    uint8_t  all[64 + sizeof(t->context)];

    memcpy(all, model, 32);
    memcpy(all + 32, t->digest, 32);
    memcpy(all + 64, &t->context, sizeof(t->context));
    SHA256(all, sizeof(all), out);
}


int
moe_text_load(moe_text_t *t, const char *dir, const char *template,
    uint32_t context, moe_err_t *err)
{
    char         path[PATH_MAX];
    struct stat  st;

    if (moe_config_load(dir, &t->config, err) == -1
        || moe_config_check(&t->config, err) == -1
        || moe_text_default_name(t, dir, err) == -1
        || moe_text_tokenizer(t, dir, template, err) == -1)
    {
        moe_text_free(t);
        return -1;
    }

    snprintf(path, sizeof(path), "%s%s", dir,
             moe_gguf_is(dir) ? "" : "/config.json");

    if (stat(path, &st) == 0) {
        t->created = (uint64_t) st.st_mtime;
    }

    t->context = (uint32_t) t->config.max_positions;

    if (context && context < t->context) {
        t->context = context;
    }

    moe_text_ends(t);

    if (moe_text_digest(t, dir, template, err) == -1) {
        moe_text_free(t);
        return -1;
    }

    return 0;
}


void
moe_text_free(moe_text_t *t)
{
    moe_tokenizer_free(t->tokenizer);
    moe_template_free(t->template);
    json_decref(t->tokens);

    t->tokenizer = NULL;
    t->template = NULL;
    t->tokens = NULL;
}


int
moe_text_name(const moe_text_t *t, const moe_str_t *name)
{
    uint32_t  i;

    if (name->len == 0) {
        return 0;
    }

    for (i = 0; i < t->nnames; i++) {
        if (strlen(t->names[i]) == name->len
            && memcmp(t->names[i], name->data, name->len) == 0)
        {
            return (int) i;
        }
    }

    return -1;
}


int
moe_text_ask(const moe_text_t *t, const char *message, moe_ids_t *ids,
    moe_err_t *err)
{
    int                  rc;
    json_t              *vars, *messages, *content;
    moe_rendered_t       out;
    moe_template_env_t   env;

    if (t->template == NULL) {
        return moe_err(err, "the model has no chat template");
    }

    content = json_string(message);
    messages = json_pack("[{s:s, s:o}]", "role", "user", "content", content);
    vars = json_copy(t->tokens);

    if (content == NULL || messages == NULL || vars == NULL) {
        json_decref(messages);
        json_decref(vars);
        return moe_err(err, "the prompt is not UTF-8");
    }

    json_object_set_new(vars, "messages", messages);
    json_object_set_new(vars, "documents", json_null());
    json_object_set_new(vars, "tools", json_null());
    json_object_set_new(vars, "add_generation_prompt", json_true());

    memset(&env, 0, sizeof(env));
    env.now = time(NULL);
    env.trusted = t->trusted;

    rc = moe_template_render(t->template, vars, &env, &out, err);
    json_decref(vars);

    if (rc != 0) {
        return moe_err_prefix(err, "the chat template");
    }

    rc = moe_tokenizer_encode(t->tokenizer, out.text, out.len, out.trust,
                              MOE_TOK_SPECIAL, ids, err);
    moe_rendered_free(&out);

    return rc;
}
