#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ep/nccl_join.h"
#include "ep/nccl_rows.h"
#include "ep/tcp.h"


/* how long NCCL may take to bring all ranks together, once all are there */
#define JOIN_MS  120000


/* rank 0's, or what it has to say instead */
typedef struct {
    int           rc;
    ncclUniqueId  id;
} ticket_t;


int
moe_mpi_join(moe_mpi_t *mpi, int by_env, int nccl, moe_err_t *err)
{
    int                    rc;
    size_t                 n;
    const moe_nccl_api_t  *api;

    api = nccl ? moe_nccl_load(err) : NULL;

    if (nccl && api == NULL) {
        return -1;
    }

    rc = by_env ? moe_mpi_open_link(mpi, moe_link_tcp(), err)
                : moe_mpi_open(mpi, NULL, err);

    if (rc == 0 && nccl) {
        mpi->nccl = api;
        n = strlen(mpi->library);
        snprintf(mpi->library + n, sizeof(mpi->library) - n,
                 "; rows by NCCL %d.%d.%d", api->version / 10000,
                 api->version / 100 % 100, api->version % 100);
    }

    return rc;
}


static int
share_id(const moe_mpi_t *mpi, ncclUniqueId *id, moe_err_t *err)
{
    int        rc;
    ticket_t   mine, *all;
    moe_err_t  why;

    memset(&mine, 0, sizeof(mine));
    all = calloc(mpi->nranks, sizeof(ticket_t));

    if (all == NULL) {
        return moe_err(err, "exchange: out of memory");
    }

    if (mpi->rank == 0) {
        mine.rc = moe_nccl_unique_id(mpi->nccl, &mine.id, &why);
    }

    rc = moe_mpi_gather(mpi, &mine, all, sizeof(mine), err);

    if (rc == 0 && all[0].rc != 0) {
        rc = moe_err(err, "exchange: %s", mpi->rank == 0
                     ? why.text : "rank 0 has no NCCL to begin with");
    }

    *id = all[0].id;
    free(all);

    return rc;
}


/* one that has hung up is missed wherever a step of it is waited for, which
 * is always */
static int
has_gone(void *data, moe_err_t *err)
{
    uint64_t           ranks;
    const moe_link_t  *link = data;

    return link->pending(MOE_LINK_IN, MOE_LINK_STEP, &ranks) == 0
           ? 0 : moe_err(err, "%s", link->why());
}


moe_carrier_t *
moe_nccl_join(const moe_mpi_t *mpi, const moe_rows_memory_t *memory,
    const moe_exchange_shape_t *shape, uint32_t fixed_rows, moe_err_t *err)
{
    uint64_t      deadline;
    moe_nccl_t    n;
    ncclUniqueId  id;

    if (share_id(mpi, &id, err) != 0) {
        return NULL;
    }

    deadline = moe_exchange_now() + JOIN_MS;
    n.gone = has_gone;
    n.gone_data = (void *) (uintptr_t) mpi->link;

    if (moe_nccl_open(&n, mpi->nccl, &id, mpi->rank, mpi->nranks, deadline,
                      err)
        != 0)
    {
        moe_err_prefix(err, "exchange");
        return NULL;
    }

    return moe_nccl_carrier(&n, memory, shape, mpi->nranks, mpi->rank,
                            fixed_rows, deadline, err);
}
