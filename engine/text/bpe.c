#include <stdlib.h>
#include <string.h>

#include "text/bpe.h"
#include "text/utf8.h"


/* up to so many symbols an array is scanned; beyond, a heap is kept */
#define BPE_SHORT  48

#define BPE_NO_RANK  UINT32_MAX


int
moe_ids_add(moe_ids_t *ids, uint32_t id)
{
    size_t     cap;
    uint32_t  *p;

    if (ids->n == ids->cap) {
        cap = ids->cap < 64 ? 64 : ids->cap * 2;

        p = realloc(ids->ids, cap * sizeof(uint32_t));
        if (p == NULL) {
            return -1;
        }

        ids->ids = p;
        ids->cap = cap;
    }

    ids->ids[ids->n++] = id;

    return 0;
}


void
moe_ids_free(moe_ids_t *ids)
{
    free(ids->ids);
    memset(ids, 0, sizeof(*ids));
}


/* the slot of a pair, or the empty one where it belongs */

static moe_bpe_merge_t *
bpe_slot(const moe_bpe_t *b, uint64_t pair)
{
    uint32_t  i;
    uint64_t  h;

    h = (pair ^ pair >> 29) * 0x9E3779B97F4A7C15u;
    i = (uint32_t) (h >> 32) & (b->nslots - 1);

    while (b->merges[i].id != 0 && b->merges[i].pair != pair) {
        i = (i + 1) & (b->nslots - 1);
    }

    return &b->merges[i];
}


static const moe_bpe_merge_t *
bpe_merge(const moe_bpe_t *b, uint32_t left, uint32_t right)
{
    const moe_bpe_merge_t  *m;

    if (b->nslots == 0) {
        return NULL;
    }

    m = bpe_slot(b, (uint64_t) left << 32 | right);

    return m->id == 0 ? NULL : m;
}


static int
bpe_rehash(moe_bpe_t *b)
{
    uint32_t          i, n;
    moe_bpe_merge_t  *was;

    was = b->merges;
    n = b->nslots;

    b->nslots = n == 0 ? 1024 : n * 2;
    b->merges = calloc(b->nslots, sizeof(moe_bpe_merge_t));

    if (b->merges == NULL) {
        b->merges = was;
        b->nslots = n;
        return -1;
    }

    for (i = 0; i < n; i++) {
        if (was[i].id != 0) {
            *bpe_slot(b, was[i].pair) = was[i];
        }
    }

    free(was);

    return 0;
}


int
moe_bpe_add_merge(moe_bpe_t *b, uint32_t left, uint32_t right, uint32_t rank,
    uint32_t id)
{
    moe_bpe_merge_t  *m;

    if (b->nmerges * 2 >= b->nslots && bpe_rehash(b) == -1) {
        return -1;
    }

    m = bpe_slot(b, (uint64_t) left << 32 | right);
    b->nmerges += m->id == 0;

    m->pair = (uint64_t) left << 32 | right;
    m->rank = rank;
    m->id = id + 1;

    return 0;
}


static int
bpe_add_symbol(moe_bpe_scratch_t *w, uint32_t id)
{
    size_t             cap;
    moe_bpe_symbol_t  *p;

    if (w->nsymbols == w->cap) {
        cap = w->cap < 256 ? 256 : w->cap * 2;

        p = realloc(w->symbols, cap * sizeof(moe_bpe_symbol_t));
        if (p == NULL) {
            return -1;
        }

        w->symbols = p;
        w->cap = cap;
    }

    w->symbols[w->nsymbols++].id = id;

    return 0;
}


static int
bpe_start_bytes(const moe_bpe_t *b, moe_bpe_scratch_t *w, const char *s,
    size_t len)
{
    size_t    i;
    uint32_t  id;

    for (i = 0; i < len; i++) {
        id = b->byte_id[(uint8_t) s[i]];

        if (id != MOE_VOCAB_NONE && bpe_add_symbol(w, id) == -1) {
            return -1;
        }
    }

    return 0;
}


/* the bytes of one character as "<0xE2>" tokens, if all of them exist */

static int
bpe_fallback(const moe_bpe_t *b, moe_bpe_scratch_t *w, const char *s, size_t n)
{
    size_t  i;

    if (!b->byte_fallback) {
        return 1;
    }

    for (i = 0; i < n; i++) {
        if (b->byte_id[(uint8_t) s[i]] == MOE_VOCAB_NONE) {
            return 1;
        }
    }

    return bpe_start_bytes(b, w, s, n);
}


/*
 * One symbol a character.  The order is the reference's: an unknown token
 * waits until a known character follows, and bytes pass it by.
 */

static int
bpe_start_chars(const moe_bpe_t *b, moe_bpe_scratch_t *w, const char *s,
    size_t len)
{
    int       rc, waits = 0;
    size_t    i, n;
    uint32_t  id;

    for (i = 0; i < len; i += n) {
        n = moe_utf8_len(s[i]);
        n = n > len - i ? len - i : n;
        id = moe_vocab_find(&b->vocab, s + i, n);

        if (id != MOE_VOCAB_NONE) {
            if (waits && bpe_add_symbol(w, b->unk) == -1) {
                return -1;
            }

            if (bpe_add_symbol(w, id) == -1) {
                return -1;
            }

            waits = 0;
            continue;
        }

        rc = bpe_fallback(b, w, s + i, n);

        if (rc == -1) {
            return -1;
        }

        if (rc == 1 && b->unk != MOE_VOCAB_NONE) {
            if (waits && !b->fuse_unk && bpe_add_symbol(w, b->unk) == -1) {
                return -1;
            }

            waits = 1;
        }
    }

    return waits ? bpe_add_symbol(w, b->unk) : 0;
}


static int
bpe_merge_short(const moe_bpe_t *b, moe_bpe_scratch_t *w, moe_ids_t *out)
{
    size_t                  i, n, best;
    uint32_t                ids[BPE_SHORT], ranks[BPE_SHORT];
    const moe_bpe_merge_t  *m;

    n = w->nsymbols;

    for (i = 0; i < n; i++) {
        ids[i] = w->symbols[i].id;
    }

    for (i = 0; i + 1 < n; i++) {
        m = bpe_merge(b, ids[i], ids[i + 1]);
        ranks[i] = m == NULL ? BPE_NO_RANK : m->rank;
    }

    while (n > 1) {
        best = 0;

        for (i = 1; i + 1 < n; i++) {
            if (ranks[i] < ranks[best]) {
                best = i;
            }
        }

        if (ranks[best] == BPE_NO_RANK) {
            break;
        }

        ids[best] = bpe_merge(b, ids[best], ids[best + 1])->id - 1;
        n--;
        memmove(&ids[best + 1], &ids[best + 2],
                (n - best - 1) * sizeof(uint32_t));
        memmove(&ranks[best], &ranks[best + 1],
                (n - best - 1) * sizeof(uint32_t));

        if (best + 1 < n) {
            m = bpe_merge(b, ids[best], ids[best + 1]);
            ranks[best] = m == NULL ? BPE_NO_RANK : m->rank;
        }

        if (best > 0) {
            m = bpe_merge(b, ids[best - 1], ids[best]);
            ranks[best - 1] = m == NULL ? BPE_NO_RANK : m->rank;
        }
    }

    for (i = 0; i < n; i++) {
        if (moe_ids_add(out, ids[i]) == -1) {
            return -1;
        }
    }

    return 0;
}


static int
bpe_heap_push(moe_bpe_scratch_t *w, uint64_t key, uint32_t id)
{
    size_t            i, up, cap;
    moe_bpe_entry_t  *p;

    if (w->nheap == w->heap_cap) {
        cap = w->heap_cap < 256 ? 256 : w->heap_cap * 2;

        p = realloc(w->heap, cap * sizeof(moe_bpe_entry_t));
        if (p == NULL) {
            return -1;
        }

        w->heap = p;
        w->heap_cap = cap;
    }

    for (i = w->nheap++; i > 0; i = up) {
        up = (i - 1) / 2;

        if (w->heap[up].key <= key) {
            break;
        }

        w->heap[i] = w->heap[up];
    }

    w->heap[i].key = key;
    w->heap[i].id = id;

    return 0;
}


static moe_bpe_entry_t
bpe_heap_pop(moe_bpe_scratch_t *w)
{
    size_t           i, down;
    moe_bpe_entry_t  top, last;

    top = w->heap[0];
    last = w->heap[--w->nheap];

    for (i = 0; (down = 2 * i + 1) < w->nheap; i = down) {
        down += down + 1 < w->nheap
                && w->heap[down + 1].key < w->heap[down].key;

        if (w->heap[down].key >= last.key) {
            break;
        }

        w->heap[i] = w->heap[down];
    }

    w->heap[i] = last;

    return top;
}


/* puts the pair that begins at a position on the heap, if it merges */

static int
bpe_offer(const moe_bpe_t *b, moe_bpe_scratch_t *w, int32_t pos)
{
    int32_t                 next;
    const moe_bpe_merge_t  *m;

    if (pos < 0 || (next = w->symbols[pos].next) < 0) {
        return 0;
    }

    m = bpe_merge(b, w->symbols[pos].id, w->symbols[next].id);

    if (m == NULL) {
        return 0;
    }

    return bpe_heap_push(w, (uint64_t) m->rank << 32 | (uint32_t) pos,
                         m->id - 1);
}


static int
bpe_merge_long(const moe_bpe_t *b, moe_bpe_scratch_t *w, moe_ids_t *out)
{
    int32_t                 i, n, next;
    moe_bpe_entry_t         e;
    moe_bpe_symbol_t       *s;
    const moe_bpe_merge_t  *m;

    s = w->symbols;
    n = (int32_t) w->nsymbols;
    w->nheap = 0;

    for (i = 0; i < n; i++) {
        s[i].prev = i - 1;
        s[i].next = i + 1 < n ? i + 1 : -1;
        s[i].live = 1;
    }

    for (i = 0; i < n; i++) {
        if (bpe_offer(b, w, i) == -1) {
            return -1;
        }
    }

    while (w->nheap > 0) {
        e = bpe_heap_pop(w);
        i = (int32_t) (e.key & 0xFFFFFFFF);
        next = s[i].next;

        if (!s[i].live || next < 0) {
            continue;
        }

        /* the pair has changed since the entry was made */

        m = bpe_merge(b, s[i].id, s[next].id);
        if (m == NULL || m->id - 1 != e.id) {
            continue;
        }

        s[i].id = e.id;
        s[i].next = s[next].next;
        s[next].live = 0;

        if (s[i].next >= 0) {
            s[s[i].next].prev = i;
        }

        if (bpe_offer(b, w, s[i].prev) == -1 || bpe_offer(b, w, i) == -1) {
            return -1;
        }
    }

    for (i = 0; i >= 0 && i < n; i = s[i].next) {
        if (moe_ids_add(out, s[i].id) == -1) {
            return -1;
        }
    }

    return 0;
}


static int
bpe_encode_slow(const moe_bpe_t *b, moe_bpe_scratch_t *w, const char *s,
    size_t len, moe_ids_t *out)
{
    int  rc;

    w->nsymbols = 0;
    rc = b->byte_level ? bpe_start_bytes(b, w, s, len)
                       : bpe_start_chars(b, w, s, len);

    if (rc == -1 || w->nsymbols == 0) {
        return rc;
    }

    return w->nsymbols <= BPE_SHORT ? bpe_merge_short(b, w, out)
                                    : bpe_merge_long(b, w, out);
}


int
moe_bpe_encode(const moe_bpe_t *b, moe_bpe_scratch_t *scratch, const char *s,
    size_t len, moe_ids_t *out)
{
    uint32_t  id;

    if (len <= MOE_TOK_MAX_PIECE) {
        id = moe_vocab_find(&b->vocab, s, len);

        if (id != MOE_VOCAB_NONE && (b->ignore_merges || b->whole[id])) {
            return moe_ids_add(out, id);
        }
    }

    return bpe_encode_slow(b, scratch, s, len, out);
}


/*
 * Merging depends on the piece alone, so a token that its own text merges to
 * is the answer for every piece of that text; most pieces of real text end at
 * this one look-up.
 */

int
moe_bpe_finish(moe_bpe_t *b)
{
    int                rc = 0;
    size_t             len;
    uint32_t           id;
    moe_ids_t          ids = { 0 };
    const char        *s;
    moe_bpe_scratch_t  w = { 0 };

    b->whole = calloc(b->vocab.nids + 1, 1);
    if (b->whole == NULL) {
        return -1;
    }

    for (id = 0; rc == 0 && id < b->vocab.nids; id++) {
        s = moe_vocab_get(&b->vocab, id, &len);

        if (s == NULL) {
            continue;
        }

        ids.n = 0;
        rc = bpe_encode_slow(b, &w, s, len, &ids);
        b->whole[id] = ids.n == 1 && ids.ids[0] == id;
    }

    moe_ids_free(&ids);
    moe_bpe_scratch_free(&w);

    return rc;
}


void
moe_bpe_free(moe_bpe_t *b)
{
    moe_vocab_free(&b->vocab);
    free(b->merges);
    free(b->whole);
    b->merges = NULL;
    b->whole = NULL;
}


void
moe_bpe_scratch_free(moe_bpe_scratch_t *s)
{
    free(s->symbols);
    free(s->heap);
    memset(s, 0, sizeof(*s));
}
