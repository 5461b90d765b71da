#include <stdlib.h>
#include <string.h>

#include "front/fair.h"


/* the id is a SHA-256, any of its bytes are a good hash */

static moe_fair_key_t **
moe_fair_bucket(moe_fair_t *q, const uint8_t *id)
{
    return &q->buckets[(id[0] | id[1] << 8) % MOE_FAIR_BUCKETS];
}


static moe_fair_key_t *
moe_fair_key(moe_fair_t *q, const uint8_t *id)
{
    moe_fair_key_t  *key, **bucket;

    bucket = moe_fair_bucket(q, id);

    for (key = *bucket; key; key = key->chain) {
        if (memcmp(key->id, id, MOE_FAIR_KEY) == 0) {
            return key;
        }
    }

    key = calloc(1, sizeof(moe_fair_key_t));
    if (key == NULL) {
        return NULL;
    }

    memcpy(key->id, id, MOE_FAIR_KEY);
    key->chain = *bucket;
    *bucket = key;

    if (q->turn == NULL) {
        key->next = key;
        key->prev = key;
        q->turn = key;

    } else {
        /* the end of the circle is just before whose turn it is */
        key->next = q->turn;
        key->prev = q->turn->prev;
        key->prev->next = key;
        key->next->prev = key;
    }

    return key;
}


static void
moe_fair_forget(moe_fair_t *q, moe_fair_key_t *key)
{
    moe_fair_key_t  **p;

    for (p = moe_fair_bucket(q, key->id); *p != key; p = &(*p)->chain) {
        /* void */
    }

    *p = key->chain;

    if (key->next == key) {
        q->turn = NULL;

    } else {
        key->next->prev = key->prev;
        key->prev->next = key->next;

        if (q->turn == key) {
            q->turn = key->next;
        }
    }

    free(key);
}


int
moe_fair_push(moe_fair_t *q, const uint8_t id[MOE_FAIR_KEY],
    moe_fair_node_t *node, int first)
{
    moe_fair_key_t  *key;

    key = moe_fair_key(q, id);
    if (key == NULL) {
        return -1;
    }

    node->key = key;
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

    q->n++;

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

    node->key = NULL;
    node->next = NULL;
    node->prev = NULL;
    q->n--;

    if (key->head == NULL) {
        moe_fair_forget(q, key);
    }
}


moe_fair_node_t *
moe_fair_first(moe_fair_t *q)
{
    return q->turn ? q->turn->head : NULL;
}


void
moe_fair_turn(moe_fair_t *q)
{
    if (q->turn) {
        q->turn = q->turn->next;
    }
}
