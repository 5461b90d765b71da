/*
 * vocab: byte strings and their ids.
 *
 * Built once at load, then only read.  Strings lie in one arena, found by id
 * or, through an open-addressed table, by content.
 */

#ifndef MOE_TEXT_VOCAB_H
#define MOE_TEXT_VOCAB_H


#include <stddef.h>
#include <stdint.h>


#define MOE_VOCAB_NONE     UINT32_MAX

/* ids lie below this, so that no file can ask for a table of four billion */
#define MOE_VOCAB_MAX_IDS  (1u << 22)


typedef struct {
    char      *arena;
    size_t     arena_len;
    size_t     arena_cap;

    uint64_t  *at;              /* by id: offset << 24 | length + 1, 0 none */
    uint32_t   nids;            /* highest id + 1 */
    uint32_t   cap;

    uint32_t  *slots;           /* id + 1, 0 empty */
    uint32_t   nslots;          /* a power of two */
    uint32_t   used;
} moe_vocab_t;


/*
 * Adds a string of at most 65,535 bytes under id.  Returns 0; 1 when the id
 * has a string already; 2 when the string has another id; -1 without memory
 * or with an id or length beyond the limits.  Nothing is changed but for 0.
 */
int moe_vocab_add(moe_vocab_t *v, uint32_t id, const char *s, size_t len);

/* The id of a string, or MOE_VOCAB_NONE. */
uint32_t moe_vocab_find(const moe_vocab_t *v, const char *s, size_t len);

/* The string of an id, or NULL and a length of 0. */
const char *moe_vocab_get(const moe_vocab_t *v, uint32_t id, size_t *len);

void moe_vocab_free(moe_vocab_t *v);

/* A hash of bytes; not secret, for tables filled from files and looked up. */
uint32_t moe_vocab_hash(const char *s, size_t len);


#endif /* MOE_TEXT_VOCAB_H */
