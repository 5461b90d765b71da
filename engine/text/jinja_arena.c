/*
 * jinja_arena: memory, limits, and the one way out when something fails.
 */

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/jinja.h"


#define CHUNK       (32u << 10)
#define CHUNK_MAX   (1u << 20)
#define HEAD        16          /* of a chunk, keeps what follows aligned */


struct jchunk_s {
    jchunk_t  *next;
};


/* --- failing ---------------------------------------------------------- */

void
j_fail(jx_t *x, const char *fmt, ...)
{
    char     text[400];
    va_list  ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);

    moe_err(x->err, "chat template: line %u: %s", x->line, text);

    x->status = MOE_TEMPLATE_FAILED;
    longjmp(x->fail, 1);
}


void
j_raise(jx_t *x, const jstr_t *message)
{
    size_t  n;

    n = message->len;

    /* the line is cut where a character begins */
    if (n >= sizeof(x->err->text)) {
        n = sizeof(x->err->text) - 1;
        while (n > 0 && (message->p[n] & 0xc0) == 0x80) {
            n--;
        }
    }

    moe_err(x->err, "%.*s", (int) n, message->p);

    x->status = MOE_TEMPLATE_RAISED;
    longjmp(x->fail, 1);
}


void
j_limit(jx_t *x, const char *what)
{
    moe_err(x->err, "chat template: line %u: limit of %s reached", x->line,
            what);

    x->status = MOE_TEMPLATE_LIMIT;
    longjmp(x->fail, 1);
}


/* --- arena ------------------------------------------------------------ */

void
j_arena_free(jarena_t *a)
{
    jchunk_t  *c, *next;

    for (c = a->chunks; c != NULL; c = next) {
        next = c->next;
        free(c);
    }

    a->chunks = NULL;
}


void
j_charge(jx_t *x, size_t bytes)
{
    if (bytes > x->arena.limit - x->arena.total) {
        j_limit(x, "memory");
    }

    x->arena.total += bytes;
}


void *
j_alloc(jx_t *x, size_t size)
{
    char      *p;
    size_t     want;
    jarena_t  *a;
    jchunk_t  *c;

    a = &x->arena;

    if (size > a->limit) {
        j_limit(x, "memory");
    }

    size = (size + 15) & ~(size_t) 15;

    if (size > (size_t) (a->end - a->p)) {
        want = a->total < CHUNK_MAX ? a->total : CHUNK_MAX;
        want = want < CHUNK ? CHUNK : want;
        want = (want < size ? size : want) + HEAD;

        j_charge(x, want);

        c = malloc(want);
        if (c == NULL) {
            j_limit(x, "memory");
        }

        c->next = a->chunks;
        a->chunks = c;
        want -= HEAD;
        a->p = (char *) c + HEAD;
        a->end = a->p + want;
    }

    p = a->p;
    a->p += size;
    return memset(p, 0, size);
}


void *
j_array(jx_t *x, size_t n, size_t size)
{
    if (n > SIZE_MAX / 2 / size) {
        j_limit(x, "memory");
    }

    return j_alloc(x, n * size);
}


/* Makes room for one more than n; the old array stays as it is. */
void *
j_grow(jx_t *x, void *old, size_t n, size_t *cap, size_t size)
{
    void  *p;

    if (n < *cap) {
        return old;
    }

    *cap = n < 4 ? 4 : n * 2;
    p = j_array(x, *cap, size);
    if (n > 0) {
        memcpy(p, old, n * size);
    }

    return p;
}


/* One unit of work, and what handling so many bytes costs. */
void
j_step(jx_t *x, size_t bytes)
{
    size_t  cost;

    cost = 1 + bytes / 64;

    if (x->steps < cost) {
        j_limit(x, "steps");
    }

    x->steps -= cost;
}


void
j_enter(jx_t *x)
{
    if (x->depth >= x->max_depth) {
        j_limit(x, "depth");
    }

    x->depth++;
}


void
j_leave(jx_t *x)
{
    x->depth--;
}
