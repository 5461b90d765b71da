#include <stdlib.h>
#include <string.h>

#include "front/fair.h"


#define MOE_RATE_WINDOW_US   10000000ull
#define MOE_RATE_LONGEST_US  600000000ull
#define MOE_RATE_JOBS        16

/* with less than this nothing is said: jobs come in bursts, and the first only
 * when the first have ended */
#define MOE_RATE_SEEN        (MOE_RATE_JOBS / 2)
#define MOE_RATE_SEEN_US     120000000ull


/* keys */


static int32_t
moe_fair_clamp(int32_t priority)
{
    return priority > MOE_PRIORITY_MAX ? MOE_PRIORITY_MAX
           : priority < -MOE_PRIORITY_MAX ? -MOE_PRIORITY_MAX : priority;
}


static moe_fair_class_t *
moe_fair_class(moe_fair_t *q, int32_t priority)
{
    moe_fair_class_t  **c;

    c = &q->classes[priority + MOE_PRIORITY_MAX];

    if (*c == NULL) {
        *c = calloc(1, sizeof(moe_fair_class_t));

        if (*c) {
            (*c)->priority = priority;
        }
    }

    return *c;
}


/* the id is a SHA-256, any of its bytes are a good hash */

static moe_fair_key_t **
moe_fair_bucket(moe_fair_t *q, const uint8_t *id)
{
    return &q->buckets[(id[0] | id[1] << 8) % MOE_FAIR_BUCKETS];
}


/* what who begins to wait has at least */

static uint64_t
moe_fair_floor(const moe_fair_class_t *c)
{
    return c->n ? c->heap[0]->counter : c->last;
}


static void
moe_fair_idle_unlink(moe_fair_t *q, moe_fair_key_t *key)
{
    if (key->prev) {
        key->prev->next = key->next;

    } else {
        q->oldest = key->next;
    }

    if (key->next) {
        key->next->prev = key->prev;

    } else {
        q->newest = key->prev;
    }

    key->next = NULL;
    key->prev = NULL;
    q->idle--;
}


static void
moe_fair_forget(moe_fair_t *q, moe_fair_key_t *key)
{
    moe_fair_key_t  **p;

    for (p = moe_fair_bucket(q, key->id); *p != key; p = &(*p)->chain) {
        /* void */
    }

    *p = key->chain;
    q->nkeys--;

    free(key);
}


/* nobody counts for it: it is remembered as long as it has had more than
 * those that wait */

static void
moe_fair_idle(moe_fair_t *q, moe_fair_key_t *key)
{
    int              i;
    moe_fair_key_t  *old, *next;

    if (key->counter <= moe_fair_floor(key->class)) {
        moe_fair_forget(q, key);

    } else {
        key->prev = q->newest;

        if (q->newest) {
            q->newest->next = key;

        } else {
            q->oldest = key;
        }

        q->newest = key;
        q->idle++;
    }

    /* two for each one that comes: so they do not gather */

    for (i = 0, old = q->oldest; i < 2 && old; i++, old = next) {
        next = old->next;

        if (q->idle > MOE_FAIR_IDLE
            || old->counter <= moe_fair_floor(old->class))
        {
            moe_fair_idle_unlink(q, old);
            moe_fair_forget(q, old);
        }
    }
}


static moe_fair_key_t *
moe_fair_key(moe_fair_t *q, const uint8_t *id, int32_t priority)
{
    moe_fair_key_t    *key, **bucket;
    moe_fair_class_t  *class;

    class = moe_fair_class(q, priority);
    if (class == NULL) {
        return NULL;
    }

    bucket = moe_fair_bucket(q, id);

    for (key = *bucket; key; key = key->chain) {
        if (key->class == class && memcmp(key->id, id, MOE_FAIR_KEY) == 0) {
            return key;
        }
    }

    key = calloc(1, sizeof(moe_fair_key_t));
    if (key == NULL) {
        return NULL;
    }

    memcpy(key->id, id, MOE_FAIR_KEY);
    key->class = class;
    key->weight = 1;
    key->chain = *bucket;
    *bucket = key;
    q->nkeys++;

    return key;
}


int
moe_fair_enter(moe_fair_t *q, moe_fair_node_t *node,
    const uint8_t id[MOE_FAIR_KEY], int32_t priority, uint32_t weight)
{
    moe_fair_key_t  *key;

    key = moe_fair_key(q, id, moe_fair_clamp(priority));
    if (key == NULL) {
        return -1;
    }

    if (key->refs++ == 0 && (key->prev || q->oldest == key)) {
        moe_fair_idle_unlink(q, key);
    }

    weight = weight == 0 ? 1
             : weight > MOE_WEIGHT_MAX ? MOE_WEIGHT_MAX : weight;

    if (key->places) {
        key->class->weights += weight;
        key->class->weights -= key->weight;
    }

    key->weight = weight;
    node->key = key;

    return 0;
}


void
moe_fair_leave(moe_fair_t *q, moe_fair_node_t *node)
{
    moe_fair_key_t  *key;

    key = node->key;

    if (key == NULL) {
        return;
    }

    moe_fair_remove(q, node);
    node->key = NULL;

    if (--key->refs == 0) {
        moe_fair_idle(q, key);
    }
}


void
moe_fair_free(moe_fair_t *q)
{
    uint32_t         i;
    moe_fair_key_t  *key;

    while ((key = q->oldest) != NULL) {
        moe_fair_idle_unlink(q, key);
        moe_fair_forget(q, key);
    }

    for (i = 0; i < MOE_FAIR_CLASSES; i++) {
        if (q->classes[i]) {
            free(q->classes[i]->heap);
            free(q->classes[i]);
            q->classes[i] = NULL;
        }
    }
}


/* the keys of a class that wait: a binary heap, least counter first */


static int
moe_fair_before(const moe_fair_key_t *a, const moe_fair_key_t *b)
{
    return a->counter != b->counter ? a->counter < b->counter
                                    : a->order < b->order;
}


static void
moe_fair_set(moe_fair_class_t *c, uint32_t i, moe_fair_key_t *key)
{
    c->heap[i] = key;
    key->heap = i + 1;
}


/* to where it belongs, from place i */

static void
moe_fair_sift(moe_fair_class_t *c, uint32_t i, moe_fair_key_t *key)
{
    uint32_t  child;

    while (i && moe_fair_before(key, c->heap[(i - 1) / 2])) {
        moe_fair_set(c, i, c->heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }

    while ((child = 2 * i + 1) < c->n) {

        if (child + 1 < c->n
            && moe_fair_before(c->heap[child + 1], c->heap[child]))
        {
            child++;
        }

        if (!moe_fair_before(c->heap[child], key)) {
            break;
        }

        moe_fair_set(c, i, c->heap[child]);
        i = child;
    }

    moe_fair_set(c, i, key);
}


static int
moe_fair_wait(moe_fair_t *q, moe_fair_key_t *key)
{
    uint32_t           size;
    uint64_t           least;
    moe_fair_key_t   **heap;
    moe_fair_class_t  *c;

    c = key->class;

    if (c->n == c->size) {
        size = c->size ? c->size * 2 : 16;

        heap = realloc(c->heap, size * sizeof(moe_fair_key_t *));
        if (heap == NULL) {
            return -1;
        }

        c->heap = heap;
        c->size = size;
    }

    least = moe_fair_floor(c);

    if (key->counter < least) {
        key->counter = least;
    }

    key->order = q->orders++;
    moe_fair_sift(c, c->n++, key);

    return 0;
}


static void
moe_fair_unwait(moe_fair_key_t *key)
{
    uint32_t           i;
    moe_fair_key_t    *moved;
    moe_fair_class_t  *c;

    c = key->class;
    i = key->heap - 1;

    key->heap = 0;
    moved = c->heap[--c->n];

    if (moved != key) {
        moe_fair_sift(c, i, moved);
    }

    if (c->n == 0 && c->last < key->counter) {
        c->last = key->counter;
    }
}


/* places */


void
moe_fair_place(moe_fair_t *q, moe_fair_node_t *node)
{
    moe_fair_key_t  *key;

    key = node->key;

    if (node->placed) {
        return;
    }

    node->placed = 1;

    if (key->places++ == 0) {
        key->class->weights += key->weight;
    }

    key->class->places++;
    q->places++;
}


static void
moe_fair_unplace(moe_fair_t *q, moe_fair_node_t *node)
{
    moe_fair_key_t  *key;

    key = node->key;

    if (!node->placed) {
        return;
    }

    node->placed = 0;

    if (--key->places == 0) {
        key->class->weights -= key->weight;
    }

    key->class->places--;
    q->places--;
}


/* weights of the class's keys that have places, this one's among them */

static uint64_t
moe_fair_weights(const moe_fair_key_t *key)
{
    return key->class->weights + (key->places ? 0 : key->weight);
}


int
moe_fair_over(const moe_fair_node_t *node)
{
    uint64_t               weights;
    const moe_fair_key_t  *key;

    key = node->key;
    weights = moe_fair_weights(key);

    return key->places && weights > key->weight
           && (key->places + 1) * weights
              > (uint64_t) key->class->places * key->weight;
}


/* the youngest job of who has most for its weight, but not of one's own */

static moe_fair_node_t *
moe_fair_victim(const moe_fair_class_t *c, const moe_fair_key_t *own)
{
    uint32_t               i;
    const moe_fair_key_t  *key, *most;

    most = NULL;

    for (i = 0; i < c->n; i++) {
        key = c->heap[i];

        if (key != own
            && (most == NULL || (uint64_t) key->places * most->weight
                                > (uint64_t) most->places * key->weight))
        {
            most = key;
        }
    }

    return most ? most->tail : NULL;
}


moe_fair_answer_e
moe_fair_ask(moe_fair_t *q, const moe_fair_node_t *node, uint32_t places,
    moe_fair_node_t **victim)
{
    uint32_t               i;
    uint64_t               weights;
    const moe_fair_key_t  *key, *other;

    if (q->places < places) {
        return MOE_FAIR_YES;
    }

    key = node->key;
    *victim = NULL;

    for (i = 0; q->classes[i] != key->class; i++) {
        if (q->classes[i] && q->classes[i]->n) {
            *victim = moe_fair_victim(q->classes[i], NULL);
            return MOE_FAIR_TAKE;
        }
    }

    if (moe_fair_over(node)) {
        return MOE_FAIR_SHARE;
    }

    /* its share, rounded down, is what it has: nobody gives way to it */

    weights = moe_fair_weights(key);

    if ((key->places + 1) * weights
        > (uint64_t) key->class->places * key->weight)
    {
        return MOE_FAIR_FULL;
    }

    *victim = moe_fair_victim(key->class, key);

    if (*victim == NULL) {
        return MOE_FAIR_FULL;
    }

    /* others may have theirs where jobs cannot be taken from */

    other = (*victim)->key;

    return other->places * weights
           > (uint64_t) key->class->places * other->weight
           ? MOE_FAIR_TAKE : MOE_FAIR_FULL;
}


/* waiting */


int
moe_fair_push(moe_fair_t *q, moe_fair_node_t *node, int first)
{
    moe_fair_key_t  *key;

    key = node->key;

    if (key->heap == 0 && moe_fair_wait(q, key) == -1) {
        return -1;
    }

    node->prev = first ? NULL : key->tail;
    node->next = first ? key->head : NULL;

    if (node->prev) {
        node->prev->next = node;

    } else {
        key->head = node;
    }

    if (node->next) {
        node->next->prev = node;

    } else {
        key->tail = node;
    }

    node->waits = 1;
    q->n++;
    moe_fair_place(q, node);

    return 0;
}


void
moe_fair_remove(moe_fair_t *q, moe_fair_node_t *node)
{
    moe_fair_key_t  *key;

    key = node->key;

    if (key == NULL) {
        return;
    }

    moe_fair_unplace(q, node);

    if (!node->waits) {
        return;
    }

    if (node->prev) {
        node->prev->next = node->next;

    } else {
        key->head = node->next;
    }

    if (node->next) {
        node->next->prev = node->prev;

    } else {
        key->tail = node->prev;
    }

    node->waits = 0;
    node->next = NULL;
    node->prev = NULL;
    q->n--;

    if (key->head == NULL) {
        moe_fair_unwait(key);
    }
}


moe_fair_node_t *
moe_fair_first(moe_fair_t *q)
{
    int                i;
    moe_fair_class_t  *c;

    if (q->n == 0) {
        return NULL;
    }

    for (i = MOE_FAIR_CLASSES - 1; i >= 0; i--) {
        c = q->classes[i];

        if (c && c->n) {
            return c->heap[0]->head;
        }
    }

    return NULL;
}


void
moe_fair_charge(moe_fair_t *q, moe_fair_node_t *node, int64_t cost)
{
    uint64_t         units;
    moe_fair_key_t  *key;

    key = node->key;

    if (key == NULL) {
        return;
    }

    units = (uint64_t) (cost < 0 ? -cost : cost) * MOE_FAIR_TOKEN
            / key->weight;

    if (cost > 0) {
        key->counter += units;

    } else {
        key->counter = key->counter > units ? key->counter - units : 0;
    }

    if (key->heap) {
        moe_fair_sift(key->class, key->heap - 1, key);
    }
}


uint32_t
moe_fair_ahead(const moe_fair_t *q, const moe_fair_node_t *node)
{
    int                      i;
    uint32_t                 k;
    uint64_t                 n, turns;
    const moe_fair_key_t    *key, *other;
    const moe_fair_class_t  *c;

    key = node->key;
    c = key->class;
    n = key->places;

    for (i = MOE_FAIR_CLASSES - 1; q->classes[i] != c; i--) {
        n += q->classes[i] ? q->classes[i]->places : 0;
    }

    for (k = 0; k < c->n; k++) {
        other = c->heap[k];

        if (other != key) {
            turns = (uint64_t) (key->places + 1) * other->weight / key->weight;
            n += turns < other->places ? turns : other->places;
        }
    }

    return n < UINT32_MAX ? (uint32_t) n : UINT32_MAX;
}


/* the rate */


void
moe_rate_turn(moe_rate_t *r, uint64_t now_us, uint32_t begun, int backlog)
{
    if (r->backlog) {
        r->us += now_us - r->last_us;
        r->n += begun;

        if ((r->us > MOE_RATE_WINDOW_US && r->n >= MOE_RATE_JOBS)
            || r->us > MOE_RATE_LONGEST_US)
        {
            r->us /= 2;
            r->n /= 2;
        }
    }

    r->backlog = backlog;
    r->last_us = now_us;
}


uint64_t
moe_rate_wait(const moe_rate_t *r, uint64_t jobs)
{
    if (r->n < MOE_RATE_SEEN && r->us < MOE_RATE_SEEN_US) {
        return 0;
    }

    return r->us / (r->n ? r->n : 1) * jobs;
}
