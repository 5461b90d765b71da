/*
 * What launchers say in the environment.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/launched.h"


/* "NAME=value ..." and nothing else */
static int
launched(const char *environment, moe_launched_t *l)
{
    char  *p, *copy, *value;

    copy = strdup(environment);
    assert_non_null(copy);
    clearenv();

    for (p = strtok(copy, " "); p != NULL; p = strtok(NULL, " ")) {
        value = strchr(p, '=');
        *value++ = '\0';
        setenv(p, value, 1);
    }

    free(copy);

    return moe_launched(l);
}


static void
assert_is(const char *environment, uint32_t size, uint32_t local_rank,
    uint32_t local_size, const char *job)
{
    moe_launched_t  l;

    assert_int_equal(launched(environment, &l), 1);
    assert_int_equal(l.size, size);
    assert_int_equal(l.local_rank, local_rank);
    assert_int_equal(l.local_size, local_size);
    assert_string_equal(l.job, job);
}


static void
test_launchers(void **state)
{
    char  parent[32];

    assert_is("OMPI_COMM_WORLD_SIZE=8 OMPI_COMM_WORLD_LOCAL_RANK=1 "
              "OMPI_COMM_WORLD_LOCAL_SIZE=4 PMIX_NAMESPACE=77", 8, 1, 4,
              "77.");

    assert_is("SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=5 "
              "SLURM_LOCALID=0 SLURM_NODEID=2 "
              "SLURM_STEP_TASKS_PER_NODE=2(x2),1", 5, 0, 1, "5.0");
    assert_is("SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=5 "
              "SLURM_LOCALID=1 SLURM_NODEID=1 "
              "SLURM_STEP_TASKS_PER_NODE=2(x2),1", 5, 1, 2, "5.0");

    /* MPICH's, which Slurm has started once a node */
    snprintf(parent, sizeof(parent), "%ld", (long) getppid());
    assert_is("PMI_SIZE=6 MPI_LOCALRANKID=2 MPI_LOCALNRANKS=3 "
              "SLURM_JOB_ID=5 SLURM_STEP_ID=0 SLURM_STEP_NUM_TASKS=2 "
              "SLURM_LOCALID=0 SLURM_NODEID=1 SLURM_STEP_TASKS_PER_NODE=1(x2)",
              6, 2, 3, parent);
}


static void
test_nobody(void **state)
{
    moe_launched_t  l;

    assert_int_equal(launched("PATH=/bin", &l), 0);

    /* a batch script's own process */
    assert_int_equal(launched("SLURM_JOB_ID=5 SLURM_NODEID=0 "
                              "SLURM_LOCALID=0", &l), 0);

    /* what does not fit together */
    assert_int_equal(launched("PMI_SIZE=2 MPI_LOCALRANKID=3 "
                              "MPI_LOCALNRANKS=2", &l), 0);
    assert_int_equal(launched("OMPI_COMM_WORLD_SIZE=-1 "
                              "OMPI_COMM_WORLD_LOCAL_RANK=0 "
                              "OMPI_COMM_WORLD_LOCAL_SIZE=1", &l), 0);
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_launchers),
        cmocka_unit_test(test_nobody)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
