/*
 * tokenizer_parts: what a tokenizer is made of, for the files that build one
 * (tokenizer_load*.c), run it (tokenizer.c) and undo it (detok.c).
 */

#ifndef MOE_TEXT_TOKENIZER_PARTS_H
#define MOE_TEXT_TOKENIZER_PARTS_H


#include "text/added.h"
#include "text/bpe.h"
#include "text/normal.h"
#include "text/pretok.h"
#include "text/tokenizer.h"


/* what a token is, one byte each */
#define MOE_TOKEN_SPECIAL  1
#define MOE_TOKEN_BYTE     2            /* "<0xE2>", where bytes fall back */
#define MOE_TOKEN_ADDED    4

#define MOE_TOK_MAX_AROUND  8


/* how pieces become text; the steps in the order in which they are done */
typedef struct {
    unsigned  byte_level:1;             /* all pieces are raw bytes */
    unsigned  byte_fallback:1;
    unsigned  drop_marks:1;             /* the first token's marks are none */
    char      mark[5];                  /* metaspace, becomes a space */
    char      strip[5];                 /* dropped at the beginning ... */
    uint8_t   nstrip;                   /* ... at most so many times */
} moe_tok_decoder_t;


struct moe_tokenizer_s {
    moe_vocab_t        names;           /* as the file writes them, all */
    moe_bpe_t          bpe;
    moe_pretok_t       pretok;
    moe_normal_t       normal;
    moe_added_t        raw;             /* added tokens, in the raw text */
    moe_added_t        normalized;      /* and in the normalized text */
    moe_tok_decoder_t  decoder;

    char              *bytes;           /* what tokens decode to */
    size_t            *at;              /* by id, nids + 1 offsets */
    uint8_t           *kind;            /* by id, MOE_TOKEN_* */

    uint32_t           before[MOE_TOK_MAX_AROUND];
    uint32_t           after[MOE_TOK_MAX_AROUND];
    unsigned           nbefore;
    unsigned           nafter;

    uint32_t           bos;
    uint32_t           eos;
};


#endif /* MOE_TEXT_TOKENIZER_PARTS_H */
