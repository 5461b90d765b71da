/*
 * text: what the front knows of a model: names, tokenizer, chat template,
 * defaults of generation.  Read once, at start; it never changes.
 */

#ifndef MOE_FRONT_TEXT_H
#define MOE_FRONT_TEXT_H


#include <jansson.h>

#include "base/err.h"
#include "jobq.h"
#include "model/config.h"
#include "text/template.h"
#include "text/tokenizer.h"


/* special tokens that a template may name, and an end */
#define MOE_TEXT_TOKENS   9


typedef struct {
    moe_config_t        config;
    moe_tokenizer_t    *tokenizer;
    moe_template_t     *template;        /* NULL: the model has none */
    json_t             *tokens;          /* {"bos_token": "<s>", ...} */
    const char         *trusted[MOE_TEXT_TOKENS];

    char                names[MOE_MODELS_MAX][MOE_MODEL_NAME_MAX];
    uint32_t            nnames;
    uint64_t            created;         /* of config.json, Unix time */
    uint32_t            context;         /* tokens */
    uint32_t            bos;             /* MOE_TOK_NONE: none */
    uint32_t            neos;
    uint32_t            eos[MOE_MAX_EOS + 1];
    uint8_t             digest[32];      /* of the files that all this is
                                          * from */
} moe_text_t;


/*
 * Reads the directory, or a GGUF file.  template: a file with the chat
 * template to use instead of the directory's, or NULL.  context: at most so
 * many tokens, 0: the model's.  The name is the directory's last one unless
 * names were set before.  -1: err has the line and t needs no moe_text_free().
 */
int moe_text_load(moe_text_t *t, const char *dir, const char *template,
    uint32_t context, moe_err_t *err);

void moe_text_free(moe_text_t *t);

/*
 * The engine's fingerprint: the model's, the text's and the context's length
 * as one.  Equal ones give equal answers to equal requests.
 */
void moe_text_fingerprint(const moe_text_t *t, const uint8_t model[32],
    uint8_t out[32]);

/* A user's message through the chat template, added to ids. */
int moe_text_ask(const moe_text_t *t, const char *message, moe_ids_t *ids,
    moe_err_t *err);

/* Which of the names it is, the first for an empty one, or -1. */
int moe_text_name(const moe_text_t *t, const moe_str_t *name);


#endif /* MOE_FRONT_TEXT_H */
