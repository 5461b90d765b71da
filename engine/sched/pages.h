/*
 * pages: who has which page of KV, and which prefix a page holds.
 *
 * A page is in one of three states: free; used by one or more sequences; or
 * cached, which is used by none but still holds a known prefix.  A cached
 * page is found again by its key until its memory is needed: then the least
 * recently used one goes first.
 *
 * The key of a page is a SHA-256 over its parent's key, the ids and roles of
 * its rows; the root's is one over cache salt and fingerprint.  So equal keys
 * mean equal contents, to the bit, and only full pages have one.
 *
 * Pure bookkeeping: no clock, thread or I/O.  Not thread-safe.
 */

#ifndef MOE_PAGES_H
#define MOE_PAGES_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


#define MOE_PAGE_NONE  0xffffffffu


typedef struct moe_pages_s  moe_pages_t;

typedef struct {
    uint8_t    b[32];
} moe_page_key_t;


/* n pages, all free.  NULL without memory. */
moe_pages_t *moe_pages_create(uint32_t n, moe_err_t *err);
void moe_pages_destroy(moe_pages_t *p);

/* A page used once: a free one, else the cached one longest unused, which is
 * forgotten; MOE_PAGE_NONE where all are used. */
uint32_t moe_pages_alloc(moe_pages_t *p);

/* The page with this key, used once more than before, or MOE_PAGE_NONE. */
uint32_t moe_pages_find(moe_pages_t *p, const moe_page_key_t *key);

/* Gives a used page its key.  Where another page has it already, that one
 * keeps it and this one stays without. */
void moe_pages_publish(moe_pages_t *p, uint32_t page,
    const moe_page_key_t *key);

/* One user less; the last one leaves the page cached, or free if it has no
 * key.  Pages of a prefix are to be released from its end, so that parents
 * outlive their children in the cache. */
void moe_pages_release(moe_pages_t *p, uint32_t page);

uint32_t moe_pages_total(const moe_pages_t *p);
uint32_t moe_pages_used(const moe_pages_t *p);
uint32_t moe_pages_cached(const moe_pages_t *p);
uint32_t moe_pages_users(const moe_pages_t *p, uint32_t page);

/* what moe_pages_alloc() can give: free and cached */
uint32_t moe_pages_available(const moe_pages_t *p);


/* salt may be NULL when n is 0 */
void moe_page_key_root(moe_page_key_t *key, const uint8_t fingerprint[32],
    const void *salt, size_t n);

/* key of a page of MOE_PAGE_SIZE rows; roles are MOE_ROLE_* */
void moe_page_key(moe_page_key_t *key, const moe_page_key_t *parent,
    const uint32_t *ids, const uint8_t *roles);


#endif /* MOE_PAGES_H */
