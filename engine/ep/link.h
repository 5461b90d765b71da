/*
 * link: messages between ranks that a launcher has started on any hosts.
 *
 * What carries them is a library that not every machine has, so it is loaded
 * when an engine is started as one of several ranks (engine/ep/mpi/plugin.c
 * is the one for MPI).  The plugin knows messages alone: what they say, and
 * how long one is waited for, is ep/mpi.c's.
 *
 * For every kind of message, and every rank, one can be under way in each
 * direction at a time; its memory is the caller's and is left alone until it
 * has come or gone.  Calls come from one thread and do not wait, but for open
 * and close.  -1 is an error, and why() says what.
 */

#ifndef MOE_LINK_H
#define MOE_LINK_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


enum {
    MOE_LINK_VERSION = 3,
    MOE_LINK_RANKS = 64
};

typedef enum {
    MOE_LINK_STEP,
    MOE_LINK_ROWS,          /* of the first half of a step, or of all */
    MOE_LINK_ROWS_2,        /* of the second */
    MOE_LINK_RESULTS,
    MOE_LINK_RESULTS_2,
    MOE_LINK_LOADS,
    MOE_LINK_PLACEMENT,
    MOE_LINK_MAP,
    MOE_LINK_KINDS
} moe_link_kind_e;

typedef enum {
    MOE_LINK_IN,
    MOE_LINK_OUT
} moe_link_way_e;

typedef struct {
    uint32_t  version;                  /* MOE_LINK_VERSION */

    /* Joins the others; waits until all are there.  what: the library, a
     * line for people. */
    int (*open)(uint32_t *rank, uint32_t *nranks, char *what, size_t size);

    int (*recv)(moe_link_kind_e kind, uint32_t from, void *buf,
                size_t bytes);
    int (*send)(moe_link_kind_e kind, uint32_t to, const void *buf,
                size_t bytes);

    /* Moves things on; ranks: those whose message of this kind has not come,
     * or not gone. */
    int (*pending)(moe_link_way_e way, moe_link_kind_e kind,
                   uint64_t *ranks);

    /* Bytes of the last message that came. */
    size_t (*got)(moe_link_kind_e kind, uint32_t from);

    /* Begins to bring mine[bytes] of all ranks to all[nranks][bytes]; one at
     * a time, by all ranks.  gathered: 1 once it is there, 0 before. */
    int (*gather)(const void *mine, void *all, size_t bytes);
    int (*gathered)(void);

    const char *(*why)(void);

    /* Ends all ranks; does not return. */
    void (*abort)(int code);

    /* Nothing is received any more into the memory that recv was given. */
    void (*cancel)(void);

    /* After the last message: leaves; waits for the others to do so. */
    void (*close)(void);
} moe_link_t;


/* what a plugin exports: moe_link_t *moe_link_plugin(void) */
#define MOE_LINK_SYMBOL  "moe_link_plugin"

typedef const moe_link_t *(*moe_link_plugin_pt)(void);


/*
 * Loads the plugin in path; NULL: the one for MPI, beside the program or
 * where make install puts it.  It stays loaded.  NULL and err on failure.
 */
const moe_link_t *moe_link_load(const char *path, moe_err_t *err);


#endif /* MOE_LINK_H */
