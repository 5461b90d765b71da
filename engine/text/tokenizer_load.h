/*
 * tokenizer_load: what the files that read tokenizer.json and tiktoken.model
 * share.
 *
 * Every function here returns 0, or -1 with a line that begins with the file's
 * name and the key at fault.
 */

#ifndef MOE_TEXT_TOKENIZER_LOAD_H
#define MOE_TEXT_TOKENIZER_LOAD_H


#include <jansson.h>

#include "text/tokenizer_parts.h"


#define MOE_TOK_MAX_REPLACES  4
#define MOE_TOK_MAX_NESTING   8


/* a literal replacement in the decoder */
typedef struct {
    const char  *from;
    size_t       from_len;
    const char  *to;
    size_t       to_len;
} moe_tok_replace_t;


/* one load; strings belong to the JSON that is being read */
typedef struct {
    moe_tokenizer_t    *t;
    moe_err_t          *err;
    const char         *file;
    moe_tok_replace_t   replaces[MOE_TOK_MAX_REPLACES];
    unsigned            nreplaces;
    moe_textbuf_t       normal;         /* texts that normalizing changed */
    uint32_t           *normal_at;      /* by id: where one ends there, or 0 */
    uint16_t           *normal_len;
    const float        *scores;         /* by id, or NULL: model.merges */
    size_t              nscores;
    unsigned            ranked:1;       /* by id, in place of model.merges */
    unsigned            has_fuse:1;
    unsigned            has_strip:1;
    unsigned            has_template:1;
} moe_tok_load_t;


/*
 * Builds a tokenizer from parsed files: tokenizer.json, and
 * tokenizer_config.json and special_tokens_map.json or NULL.
 */
moe_tokenizer_t *moe_tokenizer_build(json_t *root, json_t *config,
    json_t *map, moe_err_t *err);

/*
 * The same of a vocabulary without merges, but with a score for each id, by
 * which neighbours merge as in SentencePiece; NaN: the token takes no part.
 */
moe_tokenizer_t *moe_tokenizer_build_scored(json_t *root, json_t *config,
    const float *scores, size_t nscores, moe_err_t *err);

/*
 * The same of a vocabulary whose ids are ranks, by which any two neighbours
 * merge whose bytes together are a token.  Text that has no end of spaces or
 * of anything else is cut first, as tiktoken's users do.
 */
moe_tokenizer_t *moe_tokenizer_build_ranked(json_t *root, json_t *config,
    moe_err_t *err);

/* From the text of a tiktoken.model, and tokenizer_config.json or NULL. */
moe_tokenizer_t *moe_tokenizer_build_tiktoken(const char *text, size_t len,
    json_t *config, moe_err_t *err);

/* tokenizer.json's "normalizer", "pre_tokenizer", "decoder"; NULL is null */
int moe_tok_load_normalizer(moe_tok_load_t *l, json_t *step, int depth);
int moe_tok_load_pretok(moe_tok_load_t *l, json_t *step, int depth);
int moe_tok_load_decoder(moe_tok_load_t *l, json_t *step, int depth);

/* "post_processor"; to be read when all tokens are there */
int moe_tok_load_post(moe_tok_load_t *l, json_t *step, int depth);

/* "model"; what the pre-tokenizer is must be known by then */
int moe_tok_load_model(moe_tok_load_t *l, json_t *model);
int moe_tok_load_scores(moe_tok_load_t *l);
int moe_tok_load_ranks(moe_tok_load_t *l);

/* cuts of tiktoken's users, before the pre-tokenizer's */
int moe_tok_load_runs(moe_tok_load_t *l);

/* "added_tokens", behind the model; then the bytes of every token */
int moe_tok_load_added(moe_tok_load_t *l, json_t *list);
int moe_tok_load_pieces(moe_tok_load_t *l);

/* An id from JSON; path and name say in the error line whose. */
int moe_tok_id(moe_tok_load_t *l, json_t *v, const char *path,
    const char *name, uint32_t *id);

/* Enters a token's text under its id, which both must be new. */
int moe_tok_name(moe_tok_load_t *l, const char *path, uint32_t id,
    const char *s, size_t len);

/*
 * The bytes that a byte-level token's text stands for, never more than len.
 * Returns 0 where a character stands for none, else 1.
 */
int moe_tok_bytes(const char *s, size_t len, char *out, size_t *n);

/* A file's text in an error must not break the line or the terminal. */
void moe_tok_clean(moe_err_t *err);

/* The member of an object; JSON null and what is missing are NULL. */
json_t *moe_tok_get(json_t *object, const char *key);

/*
 * A member of a given type.  path names the object in the error line.  What is
 * missing is the default for booleans, an error for strings.
 */
int moe_tok_bool(moe_tok_load_t *l, json_t *object, const char *path,
    const char *key, int otherwise, int *value);
int moe_tok_string(moe_tok_load_t *l, json_t *object, const char *path,
    const char *key, const char **s, size_t *len);


#endif /* MOE_TEXT_TOKENIZER_LOAD_H */
