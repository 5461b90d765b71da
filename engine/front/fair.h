/*
 * fair: whose job is next, and who may wait at all.
 *
 * A virtual token counter per key and class (Sheng et al., "Fairness in
 * Serving Large Language Models", 2024): what a key is given is charged to it,
 * in tokens over its weight, and the next job is the first one of the key with
 * the least counter among those that wait.  So of two keys that always wait
 * each gets tokens in proportion to its weight, however many jobs they send.
 * A key that begins to wait has its counter lifted to the least of those that
 * wait, or where none does to that of the last one that did: nothing is saved
 * up by not asking.  Classes are strict: while one of a higher class waits,
 * none of a lower is next.  A key has a counter in each class it uses.
 *
 * The queue has a number of places; a job takes one when it is admitted and
 * gives it up when all of it has gone to ranks.  While there are places all
 * may have them.  In a full queue a class takes those of lower ones, and a key
 * that has less than its share of its class's places takes one of the key that
 * has most for its weight.
 *
 * A key is the hash that came with the job.  Keys that neither wait nor run are
 * forgotten once they are even with those that do, and the longest unseen ones
 * when there are too many: who pays the least for that is who sends least.
 *
 * No clock, thread or I/O.
 */

#ifndef MOE_FAIR_H
#define MOE_FAIR_H


#include <stddef.h>
#include <stdint.h>

#include "jobq.h"


#define MOE_FAIR_BUCKETS  16384
#define MOE_FAIR_KEY      32
#define MOE_FAIR_CLASSES  (2 * MOE_PRIORITY_MAX + 1)

/* keys that are remembered for what they had, some 150 bytes each */
#define MOE_FAIR_IDLE     65536

/* a token of a key of weight 1 */
#define MOE_FAIR_TOKEN    65536

/* what a token costs, as in the paper */
#define MOE_FAIR_INPUT    1
#define MOE_FAIR_OUTPUT   2


typedef struct moe_fair_node_s   moe_fair_node_t;
typedef struct moe_fair_key_s    moe_fair_key_t;
typedef struct moe_fair_class_s  moe_fair_class_t;

/* part of what waits; zeroed before its first use */
struct moe_fair_node_s {
    moe_fair_node_t   *next;
    moe_fair_node_t   *prev;
    moe_fair_key_t    *key;            /* NULL: it has not entered */
    unsigned           waits:1;        /* is in its key's line */
    unsigned           placed:1;       /* has a place in the queue */
};

struct moe_fair_key_s {
    moe_fair_node_t   *head;           /* its line */
    moe_fair_node_t   *tail;
    moe_fair_class_t  *class;
    uint64_t           counter;
    uint64_t           order;          /* of beginning to wait: breaks ties */
    uint32_t           weight;         /* its last job's */
    uint32_t           refs;           /* nodes that have entered */
    uint32_t           places;
    uint32_t           heap;           /* where in its class's, + 1; 0: its
                                        * line is empty */
    moe_fair_key_t    *chain;          /* in its bucket */
    moe_fair_key_t    *next;           /* of those without refs, the longest
                                        * unseen first */
    moe_fair_key_t    *prev;
    uint8_t            id[MOE_FAIR_KEY];
};

struct moe_fair_class_s {
    int32_t            priority;
    uint64_t           last;           /* counter of who waited last */
    uint64_t           weights;        /* of keys that have places */
    uint32_t           places;
    uint32_t           n;
    uint32_t           size;
    moe_fair_key_t   **heap;           /* that wait, least counter first */
};

typedef struct {
    uint32_t           n;              /* jobs that wait */
    uint32_t           places;         /* that are taken */
    uint32_t           idle;           /* keys without refs */
    uint32_t           nkeys;
    uint64_t           orders;
    moe_fair_class_t  *classes[MOE_FAIR_CLASSES];      /* NULL: not used yet */
    moe_fair_key_t    *oldest;         /* without refs */
    moe_fair_key_t    *newest;
    moe_fair_key_t    *buckets[MOE_FAIR_BUCKETS];
} moe_fair_t;


typedef enum {
    MOE_FAIR_YES = 0,                  /* there is a place */
    MOE_FAIR_TAKE,                     /* there is if the victim goes */
    MOE_FAIR_SHARE,                    /* no: its key's share is used up */
    MOE_FAIR_FULL                      /* no: others have all places */
} moe_fair_answer_e;


/* Frees what is left: no node may be in it. */
void moe_fair_free(moe_fair_t *q);

/*
 * The node counts for this key now and has no place yet.  priority: beyond
 * +-MOE_PRIORITY_MAX it is taken as that; weight: 1 to MOE_WEIGHT_MAX, as
 * above.  -1: no memory.
 */
int moe_fair_enter(moe_fair_t *q, moe_fair_node_t *node,
    const uint8_t id[MOE_FAIR_KEY], int32_t priority, uint32_t weight);

/*
 * Whether a node that has entered may have a place where there are so many.
 * TAKE: *victim is a node that waits; it is to leave.
 */
moe_fair_answer_e moe_fair_ask(moe_fair_t *q, const moe_fair_node_t *node,
    uint32_t places, moe_fair_node_t **victim);

/* It has a place, also beyond what there is. */
void moe_fair_place(moe_fair_t *q, moe_fair_node_t *node);

/* Waits at the end of its key's line, or where first is set at its head; takes
 * a place if it has none.  -1: no memory. */
int moe_fair_push(moe_fair_t *q, moe_fair_node_t *node, int first);

/* Waits no more and gives up its place; its key is still charged. */
void moe_fair_remove(moe_fair_t *q, moe_fair_node_t *node);

/* Removes it, and it counts for nobody.  Both may be called at any time. */
void moe_fair_leave(moe_fair_t *q, moe_fair_node_t *node);

/* The next job, which stays; NULL: nothing waits. */
moe_fair_node_t *moe_fair_first(moe_fair_t *q);

/* Its key was given so much (MOE_FAIR_INPUT and OUTPUT a token), or less than
 * was charged. */
void moe_fair_charge(moe_fair_t *q, moe_fair_node_t *node, int64_t cost);

/*
 * How many jobs will be begun before this node's if it takes the last place
 * of its key's line, all jobs being alike.
 */
uint32_t moe_fair_ahead(const moe_fair_t *q, const moe_fair_node_t *node);

/* Whether others of its class have places and its key has more than its share
 * of the class's. */
int moe_fair_over(const moe_fair_node_t *node);


/*
 * How fast jobs are begun while others wait: measured over the last five to
 * ten seconds of such time, or as long as it takes to see sixteen.
 */

typedef struct {
    uint64_t           us;             /* of time in which jobs waited */
    uint64_t           n;              /* jobs begun in it */
    uint64_t           last_us;
    int                backlog;
} moe_rate_t;

/* A turn has begun so many jobs; backlog: and left some waiting. */
void moe_rate_turn(moe_rate_t *r, uint64_t now_us, uint32_t begun,
    int backlog);

/* Microseconds until so many more are begun; 0: it is not known yet. */
uint64_t moe_rate_wait(const moe_rate_t *r, uint64_t jobs);


#endif /* MOE_FAIR_H */
