/*
 * added: tokens that are found in a text as they are written, before anything
 * else is cut ("<|im_start|>").
 *
 * A trie over their bytes.  At each place the longest wins, from left to
 * right, as the reference's automaton finds them.
 */

#ifndef MOE_TEXT_ADDED_H
#define MOE_TEXT_ADDED_H


#include <stddef.h>
#include <stdint.h>


/* how a token takes its surroundings */
#define MOE_ADDED_SINGLE_WORD  1        /* only where no word touches it */
#define MOE_ADDED_LSTRIP       2        /* takes the spaces before it */
#define MOE_ADDED_RSTRIP       4        /* and after it */


typedef struct {
    uint32_t  child;                    /* 0: none */
    uint32_t  sibling;                  /* 0: none */
    uint32_t  token;                    /* id + 1, 0: no token ends here */
    uint8_t   flags;
    uint8_t   byte;
} moe_added_node_t;


typedef struct {
    moe_added_node_t  *nodes;           /* node 0 is the root */
    uint32_t           n;
    uint32_t           cap;
    uint32_t           first[256];      /* the root's children, by byte */
} moe_added_t;


/* a part of a text: a token, or text between tokens */
typedef struct {
    size_t    start;
    size_t    end;
    uint32_t  id;                       /* MOE_TOK_NONE: text */
} moe_added_part_t;


/* where a walk over a text is; begin with zeros but text, len and trust */
typedef struct {
    const char        *text;
    const uint8_t     *trust;           /* NULL: all is */
    size_t             len;
    size_t             from;            /* matches begin here or later */
    size_t             done;            /* parts before it are out */
    moe_added_part_t   next;
    int                have;            /* next is a token that waits */
} moe_added_iter_t;


/* Adds a token of len > 0 bytes; the first one of a text wins.  0 or -1. */
int moe_added_add(moe_added_t *a, const char *s, size_t len, uint32_t id,
    unsigned flags);

/* The next part of the text (valid UTF-8).  Returns 0 at its end, else 1. */
int moe_added_next(const moe_added_t *a, moe_added_iter_t *it,
    moe_added_part_t *part);

void moe_added_free(moe_added_t *a);


#endif /* MOE_TEXT_ADDED_H */
