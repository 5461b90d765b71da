/*
 * run_ranks: further processes that compute for run, which has a front and
 * sockets no more with them than alone.
 *
 * Either run forks them and they exchange rows over shared memory, or mpirun
 * or srun have started all and rows go over MPI; between GPUs over NCCL, and
 * torchrun will do as well (ep/tcp.h).  Rank 0 answers the prompt;
 * the others have experts.
 */

#ifndef MOE_RUN_RANKS_H
#define MOE_RUN_RANKS_H


#include <stdint.h>
#include <sys/types.h>

#include "ep/mpi.h"
#include "ep/shm.h"
#include "model/model.h"


typedef struct {
    uint32_t         rank;
    uint32_t         nranks;
    moe_shm_t       *shm;               /* NULL: over MPI, or alone */
    moe_mpi_t        mpi;               /* link NULL: over shared memory */
    moe_exchange_t  *exchange;          /* the model's, or NULL */
    int              parent;            /* hangs up when rank 0 has gone */
} moe_run_ranks_t;


/*
 * In memory that was zeroed.  nranks: as many as run was told, 0 where it was
 * not told.  dir and o say what exchange they will need; o gets it, and its
 * share of the threads where it has none.  Returns 0 in rank 0; 1 in a rank
 * that is to call moe_run_ranks_follow(); -1 and err.
 */
int moe_run_ranks_start(moe_run_ranks_t *r, uint32_t nranks, const char *dir,
    moe_model_options_t *o, moe_err_t *err);

/* Opens the model and computes in the others' steps until rank 0 has done
 * all of its own. */
int moe_run_ranks_follow(moe_run_ranks_t *r, const char *dir,
    moe_model_options_t *o, moe_err_t *err);

/* Rank 0's end: while the model is still open, where all went well. */
int moe_run_ranks_leave(moe_run_ranks_t *r, moe_model_t *m, moe_err_t *err);

/* Every rank's, after its model was closed; rc: its exit code, which is
 * returned.  One that failed ends the others. */
int moe_run_ranks_stop(moe_run_ranks_t *r, int rc);


#endif /* MOE_RUN_RANKS_H */
