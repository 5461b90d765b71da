#include <stdlib.h>
#include <string.h>

#include <openssl/sha.h>

#include "model/model.h"
#include "sched/pages.h"


/*
 * prev and next link the list a page is on: free pages through next only,
 * cached ones both ways in the order of their last use.  chain links pages
 * with equal hash.
 */
typedef struct {
    uint32_t          users;
    uint32_t          prev;
    uint32_t          next;
    uint32_t          chain;
    uint32_t          keyed;
    moe_page_key_t    key;
} moe_page_t;


struct moe_pages_s {
    uint32_t          n;
    uint32_t          nfree;
    uint32_t          ncached;
    uint32_t          free;           /* head of the list */
    uint32_t          oldest;         /* of the cached */
    uint32_t          newest;
    uint32_t          mask;
    uint32_t         *buckets;
    moe_page_t       *pages;
};


static uint32_t *moe_pages_bucket(moe_pages_t *p, const moe_page_key_t *key);
static void moe_pages_cache(moe_pages_t *p, uint32_t page);
static void moe_pages_uncache(moe_pages_t *p, uint32_t page);
static void moe_pages_forget(moe_pages_t *p, uint32_t page);


moe_pages_t *
moe_pages_create(uint32_t n, moe_err_t *err)
{
    size_t        size;
    uint32_t      i;
    moe_pages_t  *p;

    for (size = 64; size < n; size *= 2) { /* void */ }

    p = calloc(1, sizeof(moe_pages_t));

    if (p != NULL) {
        p->pages = calloc((size_t) n + 1, sizeof(moe_page_t));
        p->buckets = malloc(size * sizeof(uint32_t));
    }

    if (p == NULL || p->pages == NULL || p->buckets == NULL) {
        moe_pages_destroy(p);
        moe_err(err, "no memory for a list of %u KV pages", n);
        return NULL;
    }

    p->n = n;
    p->nfree = n;
    p->mask = (uint32_t) (size - 1);
    p->free = n > 0 ? 0 : MOE_PAGE_NONE;
    p->oldest = MOE_PAGE_NONE;
    p->newest = MOE_PAGE_NONE;

    memset(p->buckets, 0xff, size * sizeof(uint32_t));

    for (i = 0; i < n; i++) {
        p->pages[i].next = (i + 1 < n) ? i + 1 : MOE_PAGE_NONE;
    }

    return p;
}


void
moe_pages_destroy(moe_pages_t *p)
{
    if (p != NULL) {
        free(p->pages);
        free(p->buckets);
        free(p);
    }
}


uint32_t
moe_pages_alloc(moe_pages_t *p)
{
    uint32_t  page;

    page = p->free;

    if (page != MOE_PAGE_NONE) {
        p->free = p->pages[page].next;
        p->nfree--;

    } else {
        page = p->oldest;

        if (page == MOE_PAGE_NONE) {
            return page;
        }

        moe_pages_uncache(p, page);
        moe_pages_forget(p, page);
    }

    p->pages[page].users = 1;

    return page;
}


uint32_t
moe_pages_find(moe_pages_t *p, const moe_page_key_t *key)
{
    uint32_t  page;

    for (page = *moe_pages_bucket(p, key);
         page != MOE_PAGE_NONE;
         page = p->pages[page].chain)
    {
        if (memcmp(&p->pages[page].key, key, sizeof(*key)) == 0) {
            break;
        }
    }

    if (page == MOE_PAGE_NONE) {
        return page;
    }

    if (p->pages[page].users == 0) {
        moe_pages_uncache(p, page);
    }

    p->pages[page].users++;

    return page;
}


void
moe_pages_publish(moe_pages_t *p, uint32_t page, const moe_page_key_t *key)
{
    uint32_t  *head, other;

    if (p->pages[page].keyed) {
        return;
    }

    head = moe_pages_bucket(p, key);

    for (other = *head;
         other != MOE_PAGE_NONE;
         other = p->pages[other].chain)
    {
        if (memcmp(&p->pages[other].key, key, sizeof(*key)) == 0) {
            return;
        }
    }

    p->pages[page].key = *key;
    p->pages[page].keyed = 1;
    p->pages[page].chain = *head;
    *head = page;
}


void
moe_pages_release(moe_pages_t *p, uint32_t page)
{
    if (--p->pages[page].users > 0) {
        return;
    }

    if (p->pages[page].keyed) {
        moe_pages_cache(p, page);
        return;
    }

    p->pages[page].next = p->free;
    p->free = page;
    p->nfree++;
}


uint32_t
moe_pages_total(const moe_pages_t *p)
{
    return p->n;
}


uint32_t
moe_pages_used(const moe_pages_t *p)
{
    return p->n - p->nfree - p->ncached;
}


uint32_t
moe_pages_cached(const moe_pages_t *p)
{
    return p->ncached;
}


uint32_t
moe_pages_users(const moe_pages_t *p, uint32_t page)
{
    return p->pages[page].users;
}


uint32_t
moe_pages_available(const moe_pages_t *p)
{
    return p->nfree + p->ncached;
}


static uint32_t *
moe_pages_bucket(moe_pages_t *p, const moe_page_key_t *key)
{
    uint32_t  hash;

    memcpy(&hash, key->b, sizeof(hash));

    return &p->buckets[hash & p->mask];
}


static void
moe_pages_cache(moe_pages_t *p, uint32_t page)
{
    p->pages[page].next = MOE_PAGE_NONE;
    p->pages[page].prev = p->newest;

    if (p->newest != MOE_PAGE_NONE) {
        p->pages[p->newest].next = page;

    } else {
        p->oldest = page;
    }

    p->newest = page;
    p->ncached++;
}


static void
moe_pages_uncache(moe_pages_t *p, uint32_t page)
{
    uint32_t  prev, next;

    prev = p->pages[page].prev;
    next = p->pages[page].next;

    if (prev != MOE_PAGE_NONE) {
        p->pages[prev].next = next;

    } else {
        p->oldest = next;
    }

    if (next != MOE_PAGE_NONE) {
        p->pages[next].prev = prev;

    } else {
        p->newest = prev;
    }

    p->ncached--;
}


static void
moe_pages_forget(moe_pages_t *p, uint32_t page)
{
    uint32_t  *link;

    link = moe_pages_bucket(p, &p->pages[page].key);

    while (*link != page) {
        link = &p->pages[*link].chain;
    }

    *link = p->pages[page].chain;
    p->pages[page].keyed = 0;
}


void
moe_page_key_root(moe_page_key_t *key, const uint8_t fingerprint[32],
    const void *salt, size_t n)
{
    moe_page_key_t  part[2];

    memcpy(part[0].b, fingerprint, sizeof(part[0].b));
    SHA256(n > 0 ? salt : "", n, part[1].b);
    SHA256(part[0].b, sizeof(part), key->b);
}


void
moe_page_key(moe_page_key_t *key, const moe_page_key_t *parent,
    const uint32_t *ids, const uint8_t *roles)
{
    struct {
        moe_page_key_t    parent;
        uint32_t          ids[MOE_PAGE_SIZE];
        uint8_t           roles[MOE_PAGE_SIZE];
    } text;

    text.parent = *parent;
    memcpy(text.ids, ids, sizeof(text.ids));
    memcpy(text.roles, roles, sizeof(text.roles));

    SHA256((const unsigned char *) &text, sizeof(text), key->b);
}
