#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/launched.h"


static int
number(const char *name, uint32_t *n)
{
    char           *end;
    const char     *value;
    unsigned long   v;

    value = getenv(name);

    if (value == NULL || *value < '0' || *value > '9') {
        return -1;
    }

    v = strtoul(value, &end, 10);

    if (*end != '\0' || v > 1000000) {
        return -1;
    }

    *n = (uint32_t) v;

    return 0;
}


/* "4", or "2(x3),1": tasks of the first three nodes and of the fourth */
static int
slurm_local_size(uint32_t *n)
{
    char           *end;
    uint32_t        node;
    const char     *p;
    unsigned long   tasks, nodes;

    p = getenv("SLURM_STEP_TASKS_PER_NODE");

    if (p == NULL || number("SLURM_NODEID", &node) != 0) {
        return -1;
    }

    while (*p >= '0' && *p <= '9') {
        tasks = strtoul(p, &end, 10);
        nodes = 1;
        p = end;

        if (strncmp(p, "(x", 2) == 0) {
            nodes = strtoul(p + 2, &end, 10);
            p = *end == ')' ? end + 1 : end;
        }

        if (node < nodes) {
            *n = (uint32_t) tasks;
            return tasks > 0 && tasks < 1000000 ? 0 : -1;
        }

        node -= (uint32_t) nodes;
        p += *p == ',';
    }

    return -1;
}


static void
job_of(moe_launched_t *l, const char *a, const char *b)
{
    const char  *x, *y;

    x = getenv(a);
    y = b ? getenv(b) : NULL;

    snprintf(l->job, sizeof(l->job), "%s.%s", x ? x : "", y ? y : "");
}


int
moe_launched(moe_launched_t *l)
{
    memset(l, 0, sizeof(*l));

    if (number("OMPI_COMM_WORLD_SIZE", &l->size) == 0
        && number("OMPI_COMM_WORLD_LOCAL_RANK", &l->local_rank) == 0
        && number("OMPI_COMM_WORLD_LOCAL_SIZE", &l->local_size) == 0)
    {
        job_of(l, "PMIX_NAMESPACE", NULL);

    /* MPICH's starter, which has no name for a job: all of a host have the
     * same parent.  It may itself run in a step of Slurm's */
    } else if (number("PMI_SIZE", &l->size) == 0
               && number("MPI_LOCALRANKID", &l->local_rank) == 0
               && number("MPI_LOCALNRANKS", &l->local_size) == 0)
    {
        snprintf(l->job, sizeof(l->job), "%ld", (long) getppid());

    /* a batch script's own processes are no step's tasks */
    } else if (getenv("SLURM_STEP_ID") != NULL
               && number("SLURM_STEP_NUM_TASKS", &l->size) == 0
               && number("SLURM_LOCALID", &l->local_rank) == 0
               && slurm_local_size(&l->local_size) == 0)
    {
        job_of(l, "SLURM_JOB_ID", "SLURM_STEP_ID");

    } else {
        return 0;
    }

    return l->size > 0 && l->local_size > 0
           && l->local_rank < l->local_size && l->local_size <= l->size;
}


int
moe_launched_env(moe_launched_t *l, moe_rendezvous_t *r)
{
    const char        *host, *agent, *run;
    moe_rendezvous_t   none;

    r = r ? r : &none;
    memset(l, 0, sizeof(*l));
    host = getenv("MASTER_ADDR");
    agent = getenv("TORCHELASTIC_USE_AGENT_STORE");
    run = getenv("TORCHELASTIC_RUN_ID");

    if (host == NULL || *host == '\0' || strlen(host) >= sizeof(r->host)
        || number("MASTER_PORT", &r->port) != 0 || r->port == 0
        || r->port > 65534 || number("RANK", &r->rank) != 0
        || number("WORLD_SIZE", &r->size) != 0
        || number("LOCAL_RANK", &l->local_rank) != 0
        || number("LOCAL_WORLD_SIZE", &l->local_size) != 0)
    {
        return 0;
    }

    snprintf(r->host, sizeof(r->host), "%s", host);
    r->port += agent != NULL && strcmp(agent, "True") == 0;
    l->size = r->size;
    snprintf(l->job, sizeof(l->job), "%.60s.%u.%.40s", host, r->port,
             run ? run : "");

    return r->rank < r->size && l->local_size <= l->size
           && l->local_rank < l->local_size;
}


uint32_t
moe_launched_hosts(const moe_launched_t *l)
{
    return l->size % l->local_size == 0 ? l->size / l->local_size : 1;
}


uint32_t
moe_launched_threads(uint32_t local, int each)
{
    uint32_t   n;
    cpu_set_t  cpus;

    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0) {
        return 1;
    }

    n = (uint32_t) CPU_COUNT(&cpus);

    if (!each || (long) n == sysconf(_SC_NPROCESSORS_ONLN)) {
        n /= local;
    }

    return n > 0 ? n : 1;
}
