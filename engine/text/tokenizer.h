/*
 * tokenizer: text to token ids, exactly as the reference library.
 *
 * A tokenizer is read from a model directory's tokenizer.json (byte-level BPE,
 * or BPE with byte fallback and metaspace), or Kimi-K2's tiktoken.model, and
 * tokenizer_config.json.  What the files ask for and this program does
 * not have is refused at load, by name; nothing is approximated.  After load a
 * tokenizer never changes: any number of threads may use it at once, each call
 * brings its own scratch.
 *
 * Text that is not valid UTF-8 is read as Python's
 * bytes.decode("utf-8", "replace") reads it: each maximal invalid part becomes
 * one U+FFFD.  NUL is a character as any other.
 */

#ifndef MOE_TEXT_TOKENIZER_H
#define MOE_TEXT_TOKENIZER_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


/* there is no such token */
#define MOE_TOK_NONE       UINT32_MAX

/*
 * Surround the ids with what the model's post-processor or add_bos_token asks
 * for (mostly one bos in front), as the reference's add_special_tokens=True.
 */
#define MOE_TOK_ADD_BOS    1

/*
 * Added tokens written out in the text ("<|im_start|>") are recognised,
 * special or not.  Without this flag all text is only text.
 */
#define MOE_TOK_SPECIAL    2

/* no token is longer than this many bytes; a file with a longer one fails */
#define MOE_TOK_MAX_PIECE  4096


typedef struct moe_tokenizer_s  moe_tokenizer_t;


/*
 * A growing list of ids, owned by the caller: begin with all zeros, end with
 * moe_ids_free().  It may be used again after setting n to 0.
 */
typedef struct {
    uint32_t  *ids;
    size_t     n;
    size_t     cap;
} moe_ids_t;


/*
 * Reads DIR/tokenizer.json, or where there is none DIR/tiktoken.model, and,
 * where they exist, DIR/tokenizer_config.json and DIR/special_tokens_map.json.
 * Returns a tokenizer that the caller frees, or NULL with a line that names
 * file and key.
 */
moe_tokenizer_t *moe_tokenizer_load(const char *dir, moe_err_t *err);

/* Frees it; NULL is allowed. */
void moe_tokenizer_free(moe_tokenizer_t *t);

/*
 * Appends the ids of text[0 .. len) to out.  trust, when not NULL, is one byte
 * per byte of text: an added token is recognised only where all of its bytes
 * are trusted (non-zero), so that what a user wrote never becomes one; the
 * splitting of everything else is that of the whole text.  flags: MOE_TOK_*.
 *
 * The number of ids is at most a small multiple of len.  Time is about linear
 * in len for any text.  Returns 0; or -1 with out as it was: no memory, or a
 * pattern of the file that exceeds its matching limits on this text.
 */
int moe_tokenizer_encode(const moe_tokenizer_t *t, const char *text,
    size_t len, const uint8_t *trust, unsigned flags, moe_ids_t *out,
    moe_err_t *err);

void moe_ids_free(moe_ids_t *ids);

/*
 * The bytes that a token stands for (" the", not "Ġthe"), which may be part
 * of a character; an added token's are its text.  They live as long as the
 * tokenizer.  Returns 0, or -1 where no token has this id (models often have
 * more rows than their tokenizer has tokens).  moe_detok_t makes text of them.
 */
int moe_tokenizer_piece(const moe_tokenizer_t *t, uint32_t id,
    const char **bytes, size_t *len);

/*
 * The id of a token by its text as tokenizer.json writes it ("Ġthe",
 * "<|im_end|>"), or MOE_TOK_NONE.
 */
uint32_t moe_tokenizer_id(const moe_tokenizer_t *t, const char *text,
    size_t len);

/* The highest id plus one, added tokens included. */
uint32_t moe_tokenizer_vocab_size(const moe_tokenizer_t *t);

/* tokenizer_config.json's bos_token and eos_token, or MOE_TOK_NONE. */
uint32_t moe_tokenizer_bos(const moe_tokenizer_t *t);
uint32_t moe_tokenizer_eos(const moe_tokenizer_t *t);

/* Whether MOE_TOK_ADD_BOS puts bos in front. */
int moe_tokenizer_adds_bos(const moe_tokenizer_t *t);

/* Whether a detokenizer that skips special tokens skips this one. */
int moe_tokenizer_is_special(const moe_tokenizer_t *t, uint32_t id);


#endif /* MOE_TEXT_TOKENIZER_H */
