/*
 * mpi_test: tests that start themselves, or the program, by mpirun.
 */

#ifndef MOE_MPI_TEST_H
#define MOE_MPI_TEST_H


#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>


/* NAME beside the directory that this program is in */
static inline void
beside(char *path, size_t size, const char *name)
{
    char     self[PATH_MAX];
    ssize_t  n;

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';

    *strrchr(self, '/') = '\0';
    *strrchr(self, '/') = '\0';

    if (snprintf(path, size, "%s/%s", self, name) >= (int) size) {
        abort();
    }
}


/* whether there are a plugin and an mpirun to test */
static inline int
mpi_is_here(void)
{
    char  path[PATH_MAX];

    beside(path, sizeof(path), "moe_mpi.so");

    return access(path, R_OK) == 0
           && system("command -v mpirun >/dev/null") == 0;
}


/* ranks share two cores with each other and with whatever else is tested */
static inline void
mpi_environment(void)
{
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
    setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
    setenv("OMPI_MCA_hwloc_base_binding_policy", "none", 1);
    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 1);
    setenv("OMPI_MCA_orte_base_help_aggregate", "0", 1);
    setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);

    /* what an MPI library keeps to its end is its own business */
    setenv("ASAN_OPTIONS", "detect_leaks=0", 0);
}


#endif /* MOE_MPI_TEST_H */
