/*
 * fair: who is next.
 *
 * Jobs wait in order of arrival within their key, and the keys take turns: a
 * key with a thousand jobs waiting delays another key's job by one turn.  A
 * key is the hash that came with the job; the queue forgets it with its last
 * job.
 */

#ifndef MOE_FAIR_H
#define MOE_FAIR_H


#include <stddef.h>
#include <stdint.h>


#define MOE_FAIR_BUCKETS  1024
#define MOE_FAIR_KEY      32


typedef struct moe_fair_node_s  moe_fair_node_t;
typedef struct moe_fair_key_s   moe_fair_key_t;

/* part of what waits */
struct moe_fair_node_s {
    moe_fair_node_t   *next;
    moe_fair_node_t   *prev;
    moe_fair_key_t    *key;            /* NULL: not in the queue */
};

struct moe_fair_key_s {
    moe_fair_node_t   *head;
    moe_fair_node_t   *tail;
    moe_fair_key_t    *next;           /* in the circle of turns */
    moe_fair_key_t    *prev;
    moe_fair_key_t    *chain;          /* in its bucket */
    uint8_t            id[MOE_FAIR_KEY];
};

typedef struct {
    moe_fair_key_t    *turn;           /* whose turn it is, NULL: empty */
    size_t             n;
    moe_fair_key_t    *buckets[MOE_FAIR_BUCKETS];
} moe_fair_t;


/* Adds at the end of the key's line, or where first is set at its head.
 * -1: no memory. */
int moe_fair_push(moe_fair_t *q, const uint8_t id[MOE_FAIR_KEY],
    moe_fair_node_t *node, int first);

/* Takes a node out, wherever it is; a node that is not in is left alone. */
void moe_fair_remove(moe_fair_t *q, moe_fair_node_t *node);

/* The first of the key whose turn it is, which stays; NULL: nothing waits. */
moe_fair_node_t *moe_fair_first(moe_fair_t *q);

/* The turn goes to the next key. */
void moe_fair_turn(moe_fair_t *q);


#endif /* MOE_FAIR_H */
