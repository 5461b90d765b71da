/*
 * gguf_text: the tokenizer and the chat template in a GGUF file's metadata.
 *
 * Two kinds of vocabulary: "gpt2", byte-level BPE, whose way of cutting text
 * has a name (tokenizer.ggml.pre) and is here as the models' own files have
 * it; and "llama", SentencePiece pieces with scores.  What the metadata leave
 * out (does a token take the spaces beside it, is it looked for in normalized
 * text) is no.
 */

#ifndef MOE_GGUF_TEXT_H
#define MOE_GGUF_TEXT_H


#include <jansson.h>

#include "model/gguf.h"
#include "text/tokenizer.h"


/*
 * As tokenizer_config.json: bos_token, eos_token, unk_token, pad_token,
 * add_bos_token, add_eos_token, chat_template, as far as they are there.  A
 * new reference, or NULL and err.
 */
json_t *moe_gguf_tokenizer_config(const moe_gguf_t *g, moe_err_t *err);

/* As tokenizer.json, a new reference; NULL and err also for a vocabulary with
 * scores, which it has no room for. */
json_t *moe_gguf_tokenizer_json(const moe_gguf_t *g, moe_err_t *err);

/* As moe_tokenizer_load(). */
moe_tokenizer_t *moe_gguf_tokenizer(const moe_gguf_t *g, moe_err_t *err);


#endif /* MOE_GGUF_TEXT_H */
