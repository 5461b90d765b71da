#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/added.h"
#include "text/tokenizer.h"
#include "text/utf8.h"


static uint32_t
added_child(const moe_added_t *a, uint32_t node, uint8_t byte)
{
    uint32_t  n;

    if (node == 0) {
        return a->first[byte];
    }

    n = a->nodes[node].child;

    while (n != 0 && a->nodes[n].byte != byte) {
        n = a->nodes[n].sibling;
    }

    return n;
}


static uint32_t
added_new(moe_added_t *a, uint32_t parent, uint8_t byte)
{
    uint32_t           cap;
    moe_added_node_t  *p;

    if (a->n + 1 >= a->cap) {
        cap = a->cap < 256 ? 256 : a->cap * 2;

        if (cap > 1u << 28) {
            return 0;
        }

        p = realloc(a->nodes, cap * sizeof(moe_added_node_t));
        if (p == NULL) {
            return 0;
        }

        a->nodes = p;
        a->cap = cap;
    }

    if (a->n == 0) {
        memset(&a->nodes[0], 0, sizeof(moe_added_node_t));
        a->n = 1;
    }

    memset(&a->nodes[a->n], 0, sizeof(moe_added_node_t));
    a->nodes[a->n].byte = byte;

    if (parent == 0) {
        a->first[byte] = a->n;

    } else {
        a->nodes[a->n].sibling = a->nodes[parent].child;
        a->nodes[parent].child = a->n;
    }

    return a->n++;
}


int
moe_added_add(moe_added_t *a, const char *s, size_t len, uint32_t id,
    unsigned flags)
{
    size_t    i;
    uint32_t  node = 0, next;

    for (i = 0; i < len; i++) {
        next = added_child(a, node, (uint8_t) s[i]);

        if (next == 0) {
            next = added_new(a, node, (uint8_t) s[i]);
        }

        if (next == 0) {
            return -1;
        }

        node = next;
    }

    if (a->nodes[node].token == 0) {
        a->nodes[node].token = id + 1;
        a->nodes[node].flags = (uint8_t) flags;
    }

    return 0;
}


/* the longest trusted token that begins at i: its last node, or 0 */

static uint32_t
added_at(const moe_added_t *a, const moe_added_iter_t *it, size_t i,
    size_t *end)
{
    uint32_t  node = 0, found = 0;

    for ( ; i < it->len; i++) {
        node = added_child(a, node, (uint8_t) it->text[i]);

        if (node == 0 || (it->trust != NULL && it->trust[i] == 0)) {
            break;
        }

        if (a->nodes[node].token != 0) {
            found = node;
            *end = i + 1;
        }
    }

    return found;
}


/* White_Space, Rust's \s */

static int
added_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == ' ' || cp == 0x85 || cp == 0xA0
           || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028
           || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}


/* Rust's \w, but for the few symbols and numbers that are alphabetic */

static int
added_is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t) cp)) {

    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
        return 1;

    default:
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9)
               || (cp >= 0x1F130 && cp <= 0x1F149)
               || (cp >= 0x1F150 && cp <= 0x1F169)
               || (cp >= 0x1F170 && cp <= 0x1F189);
    }
}


static size_t
added_before(const moe_added_iter_t *it, size_t i, uint32_t *cp)
{
    size_t  n, start;

    for (start = i - 1; start > 0 && ((uint8_t) it->text[start] & 0xC0)
                                     == 0x80; start--)
    {
        /* void */
    }

    (void) moe_utf8_next(it->text + start, i - start, cp, &n);

    return start;
}


static int
added_alone(const moe_added_iter_t *it, size_t start, size_t end)
{
    size_t    n;
    uint32_t  cp;

    if (start > 0) {
        (void) added_before(it, start, &cp);

        if (added_is_word(cp)) {
            return 0;
        }
    }

    if (end < it->len) {
        (void) moe_utf8_next(it->text + end, it->len - end, &cp, &n);

        if (added_is_word(cp)) {
            return 0;
        }
    }

    return 1;
}


static void
added_strip(moe_added_iter_t *it, unsigned flags, moe_added_part_t *part)
{
    size_t    i, n;
    uint32_t  cp;

    if (flags & MOE_ADDED_LSTRIP) {
        while (part->start > it->done) {
            i = added_before(it, part->start, &cp);

            if (!added_is_space(cp) || i < it->done) {
                break;
            }

            part->start = i;
        }
    }

    if (flags & MOE_ADDED_RSTRIP) {
        while (part->end < it->len) {
            (void) moe_utf8_next(it->text + part->end, it->len - part->end,
                                 &cp, &n);

            if (!added_is_space(cp)) {
                break;
            }

            part->end += n;
        }
    }
}


/* the next token, as next; what is refused is passed over whole */

static int
added_find(const moe_added_t *a, moe_added_iter_t *it)
{
    size_t    i, end;
    uint32_t  node;

    if (a->n == 0) {
        return 0;
    }

    for (i = it->from; i < it->len; i++) {

        if (a->first[(uint8_t) it->text[i]] == 0) {
            continue;
        }

        node = added_at(a, it, i, &end);

        if (node == 0) {
            continue;
        }

        if ((a->nodes[node].flags & MOE_ADDED_SINGLE_WORD)
            && !added_alone(it, i, end))
        {
            i = end - 1;
            continue;
        }

        it->from = end;
        it->next.id = a->nodes[node].token - 1;
        it->next.start = i;
        it->next.end = end;
        added_strip(it, a->nodes[node].flags, &it->next);

        return 1;
    }

    it->from = it->len;

    return 0;
}


int
moe_added_next(const moe_added_t *a, moe_added_iter_t *it,
    moe_added_part_t *part)
{
    if (!it->have) {
        it->have = added_find(a, it);
    }

    if (it->have && it->done >= it->next.start) {
        *part = it->next;
        it->have = 0;
        it->done = part->end;
        return 1;
    }

    part->start = it->done;
    part->end = it->have ? it->next.start : it->len;
    part->id = MOE_TOK_NONE;
    it->done = part->end;

    return part->start < part->end;
}


void
moe_added_free(moe_added_t *a)
{
    free(a->nodes);
    memset(a, 0, sizeof(*a));
}
