/*
 * bpe: a piece of text to token ids by ranked merges.
 *
 * A piece starts as one symbol a byte (byte-level) or a character, and the
 * pair with the lowest rank, leftmost first, is merged until none is left.
 * Short pieces scan an array, long ones use a heap: n log n.
 */

#ifndef MOE_TEXT_BPE_H
#define MOE_TEXT_BPE_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/tokenizer.h"
#include "text/vocab.h"


typedef struct {
    uint64_t  pair;             /* left << 32 | right */
    uint32_t  rank;
    uint32_t  id;               /* + 1; 0: the slot is empty */
} moe_bpe_merge_t;


typedef struct {
    moe_vocab_t       vocab;            /* bytes of tokens that text can be */
    moe_bpe_merge_t  *merges;
    uint32_t          nslots;           /* a power of two, or 0 */
    uint32_t          nmerges;

    uint32_t          byte_id[256];     /* symbols of bytes, or fallbacks */
    uint8_t          *whole;            /* by id: its text becomes it alone */
    uint32_t          unk;              /* or MOE_VOCAB_NONE */

    unsigned          byte_level:1;
    unsigned          byte_fallback:1;
    unsigned          fuse_unk:1;
    unsigned          ignore_merges:1;
} moe_bpe_t;


typedef struct {
    uint32_t  id;
    int32_t   prev;
    int32_t   next;
    uint32_t  live;
} moe_bpe_symbol_t;


typedef struct {
    uint64_t  key;              /* rank << 32 | position */
    uint32_t  id;
} moe_bpe_entry_t;


/* one thread's memory; all zeros before the first use */
typedef struct {
    moe_bpe_symbol_t  *symbols;
    size_t             nsymbols;
    size_t             cap;
    moe_bpe_entry_t   *heap;
    size_t             nheap;
    size_t             heap_cap;
} moe_bpe_scratch_t;


/*
 * Adds the merge of two ids to a third.  A pair that comes again takes the
 * later rank, as in the reference.  Returns 0, or -1 without memory.
 */
int moe_bpe_add_merge(moe_bpe_t *b, uint32_t left, uint32_t right,
    uint32_t rank, uint32_t id);

/*
 * To be called once vocabulary, merges and flags are there: finds the tokens
 * that whole pieces may be looked up as.  Returns 0, or -1 without memory.
 */
int moe_bpe_finish(moe_bpe_t *b);

void moe_bpe_free(moe_bpe_t *b);

/*
 * Appends the ids of a piece (valid UTF-8 unless byte-level, under 1 GiB) to
 * out.  Returns 0, or -1 without memory.
 */
int moe_bpe_encode(const moe_bpe_t *b, moe_bpe_scratch_t *scratch,
    const char *s, size_t len, moe_ids_t *out);

void moe_bpe_scratch_free(moe_bpe_scratch_t *s);

/* Appends one id.  Returns 0, or -1 without memory. */
int moe_ids_add(moe_ids_t *ids, uint32_t id);


#endif /* MOE_TEXT_BPE_H */
