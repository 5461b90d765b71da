/*
 * launched: what a launcher says to a process that it has started: Open MPI's
 * mpirun, MPICH's mpiexec, Slurm's srun, torchrun.
 */

#ifndef MOE_LAUNCHED_H
#define MOE_LAUNCHED_H


#include <stdint.h>


typedef struct {
    uint32_t  size;             /* processes of the job, on all hosts */
    uint32_t  local_rank;       /* among those of this host */
    uint32_t  local_size;
    char      job[128];         /* the same in all of them, and in no others */
} moe_launched_t;

/* where they find each other, where the environment says so */
typedef struct {
    uint32_t  rank;
    uint32_t  size;
    char      host[256];
    uint32_t  port;
} moe_rendezvous_t;


/* 1: one of several, or of one, that such a launcher has started; 0: this
 * process is nobody's, as far as its environment says. */
int moe_launched(moe_launched_t *l);

/* The same of one that was started as torchrun does it: RANK, WORLD_SIZE,
 * LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR and MASTER_PORT are set, all of
 * them, for nobody guesses here.  r may be NULL. */
int moe_launched_env(moe_launched_t *l, moe_rendezvous_t *r);

/* Hosts that the job is on, where all have as many of its processes as this
 * one; else 1. */
uint32_t moe_launched_hosts(const moe_launched_t *l);

/* Threads for one of local processes: its share of what it may run on; all
 * of that where it is bound to less than the host has, each to its own. */
uint32_t moe_launched_threads(uint32_t local, int each);


#endif /* MOE_LAUNCHED_H */
