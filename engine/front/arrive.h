/*
 * arrive: how ranks that mpirun or srun has started come to their host's
 * front.
 *
 * The front listens for them at a socket of its own beside the workers', for
 * its own user alone.  A rank says which of the host's it is and what job it
 * belongs to, gets the same back, and from there on the socket is as one that
 * the front would have made for a rank it had forked.
 */

#ifndef MOE_ARRIVE_H
#define MOE_ARRIVE_H


#include <stddef.h>
#include <stdint.h>
#include <sys/un.h>

#include "base/err.h"
#include "base/launched.h"


#define MOE_ARRIVAL_MAGIC  0x454f4d52

typedef struct {
    uint32_t  magic;
    uint32_t  local;            /* among this host's ranks */
    uint32_t  nlocal;
    char      job[128];         /* moe_launched_t's */
} moe_arrival_t;


/* where ranks arrive at the front that listens at path */
int moe_arrival_address(const char *path, struct sockaddr_un *sun,
    moe_err_t *err);

/* what the rank that is launched so says */
void moe_arrival_fill(moe_arrival_t *a, const moe_launched_t *l);

/*
 * The rank's side.  Waits for the front to be there, ms milliseconds; gone()
 * is asked meanwhile whether there is any sense in it.  A connected socket,
 * or -1 and err.
 */
int moe_arrive(const char *path, const moe_launched_t *l, uint32_t ms,
    int (*gone)(void), moe_err_t *err);


#endif /* MOE_ARRIVE_H */
