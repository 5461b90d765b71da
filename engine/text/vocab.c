#include <stdlib.h>
#include <string.h>

#include "text/vocab.h"


#define VOCAB_MAX_LEN    65535
#define VOCAB_MAX_ARENA  ((size_t) 1 << 31)


/* eight bytes a step, each step a multiply and a fold */

uint32_t
moe_vocab_hash(const char *s, size_t len)
{
    uint64_t  h, w;

    h = 0x9E3779B97F4A7C15u ^ len;

    for ( ; len >= 8; s += 8, len -= 8) {
        memcpy(&w, s, 8);
        h = (h ^ w) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }

    w = 0;

    while (len > 0) {
        w = w << 8 | (uint8_t) s[--len];
    }

    h = (h ^ w) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    h *= 0xD6E8FEB86659FD93u;

    return (uint32_t) (h >> 32);
}


const char *
moe_vocab_get(const moe_vocab_t *v, uint32_t id, size_t *len)
{
    if (id >= v->nids || v->at[id] == 0) {
        *len = 0;
        return NULL;
    }

    *len = (v->at[id] & 0xFFFFFF) - 1;

    return v->arena + (v->at[id] >> 24);
}


/* the slot that holds the string, or the empty one where it belongs */

static uint32_t *
vocab_slot(const moe_vocab_t *v, const char *s, size_t len)
{
    size_t       n;
    uint32_t     i;
    const char  *p;

    i = moe_vocab_hash(s, len) & (v->nslots - 1);

    while (v->slots[i] != 0) {
        p = moe_vocab_get(v, v->slots[i] - 1, &n);

        if (n == len && (n == 0 || memcmp(p, s, n) == 0)) {
            break;
        }

        i = (i + 1) & (v->nslots - 1);
    }

    return &v->slots[i];
}


uint32_t
moe_vocab_find(const moe_vocab_t *v, const char *s, size_t len)
{
    uint32_t  slot;

    if (v->nslots == 0) {
        return MOE_VOCAB_NONE;
    }

    slot = *vocab_slot(v, s, len);

    return slot == 0 ? MOE_VOCAB_NONE : slot - 1;
}


static int
vocab_rehash(moe_vocab_t *v)
{
    size_t       len;
    uint32_t     i;
    moe_vocab_t  was = *v;
    const char  *s;

    v->nslots = was.nslots == 0 ? 1024 : was.nslots * 2;
    v->slots = calloc(v->nslots, sizeof(uint32_t));

    if (v->slots == NULL) {
        *v = was;
        return -1;
    }

    for (i = 0; i < was.nslots; i++) {
        if (was.slots[i] != 0) {
            s = moe_vocab_get(v, was.slots[i] - 1, &len);
            *vocab_slot(v, s, len) = was.slots[i];
        }
    }

    free(was.slots);

    return 0;
}


static int
vocab_grow(moe_vocab_t *v, uint32_t id, size_t len)
{
    char      *arena;
    size_t     cap;
    uint64_t  *at;

    if (id >= v->cap) {
        cap = v->cap < 1024 ? 1024 : v->cap;

        while (cap <= id) {
            cap *= 2;
        }

        at = realloc(v->at, cap * sizeof(uint64_t));
        if (at == NULL) {
            return -1;
        }

        memset(at + v->cap, 0, (cap - v->cap) * sizeof(uint64_t));
        v->at = at;
        v->cap = (uint32_t) cap;
    }

    if (len > v->arena_cap - v->arena_len) {
        cap = v->arena_cap < 65536 ? 65536 : v->arena_cap * 2;

        if (cap > VOCAB_MAX_ARENA) {
            return -1;
        }

        arena = realloc(v->arena, cap);
        if (arena == NULL) {
            return -1;
        }

        v->arena = arena;
        v->arena_cap = cap;
    }

    if (v->used * 2 >= v->nslots && vocab_rehash(v) == -1) {
        return -1;
    }

    return 0;
}


int
moe_vocab_add(moe_vocab_t *v, uint32_t id, const char *s, size_t len)
{
    uint32_t  *slot;

    if (id >= MOE_VOCAB_MAX_IDS || len > VOCAB_MAX_LEN
        || vocab_grow(v, id, len) == -1)
    {
        return -1;
    }

    if (v->at[id] != 0) {
        return 1;
    }

    slot = vocab_slot(v, s, len);

    if (*slot != 0) {
        return 2;
    }

    if (len > 0) {
        memcpy(v->arena + v->arena_len, s, len);
    }

    v->at[id] = (uint64_t) v->arena_len << 24 | (len + 1);
    v->arena_len += len;
    v->used++;

    if (id >= v->nids) {
        v->nids = id + 1;
    }

    *slot = id + 1;

    return 0;
}


void
moe_vocab_free(moe_vocab_t *v)
{
    free(v->arena);
    free(v->at);
    free(v->slots);
    memset(v, 0, sizeof(*v));
}
