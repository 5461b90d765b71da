/*
 * tcp: messages between ranks (ep/link.h) over TCP, for launchers that say who
 * is who in the environment, as torchrun does:
 *
 *     RANK WORLD_SIZE            this process, and how many there are
 *     LOCAL_RANK LOCAL_WORLD_SIZE     the same on this host
 *     MASTER_ADDR MASTER_PORT    where rank 0 listens
 *     TORCHELASTIC_RUN_ID        the job; may be missing
 *
 * Where torchrun itself listens at that port
 * (TORCHELASTIC_USE_AGENT_STORE=True), rank 0 takes the next one.  Every rank
 * tells rank 0 where it listens, gets the list of all, and connects to those
 * before it.  A connection that does not begin as one of this job's ranks does
 * is dropped.  A rank that hangs up is an error of whoever waits for it, at
 * once.
 *
 * Nothing is encrypted, and who can reach the port and knows the job's name
 * can come as a rank: as for MPI and NCCL, the network between ranks is the
 * job's own.
 */

#ifndef MOE_TCP_H
#define MOE_TCP_H


#include "base/launched.h"
#include "ep/link.h"


/* one a process */
const moe_link_t *moe_link_tcp(void);


#endif /* MOE_TCP_H */
