/*
 * launch: serve in a process that mpirun or srun has started.
 *
 * The process is the rank, for that is whom the launcher watches and whom MPI
 * knows.  The first of a host forks the front before MPI is begun, into a
 * session of its own: a launcher that ends the job ends its ranks, and the
 * front then has something to say to its clients.
 */

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "front/arrive.h"
#include "ep/nccl_join.h"
#include "front/front.h"


/* how long a front may take to listen */
#define MOE_LAUNCH_MS  60000


/* the front, where it is this process's child; 0: it is not */
static pid_t  moe_launch_front;


static int
moe_launch_gone(void)
{
    siginfo_t  info;

    info.si_pid = 0;

    return moe_launch_front != 0
           && waitid(P_PID, (id_t) moe_launch_front, &info,
                     WEXITED|WNOHANG|WNOWAIT) == 0
           && info.si_pid != 0;
}


/* what the launcher tells its ranks is the front's to answer: it drains, and
 * hangs up.  mpirun hands SIGUSR1 on and waits, while after a SIGTERM it kills
 * before long.  The pid is good until it was waited for */

static void
moe_launch_signal(int signo)
{
    static volatile sig_atomic_t  drains;

    /* one may come from the launcher and from whoever told the launcher */
    if (signo == SIGUSR1 && drains) {
        return;
    }

    drains = 1;

    if (moe_launch_front != 0) {
        kill(moe_launch_front, SIGTERM);
    }
}


static void
moe_launch_signals(void)
{
    struct sigaction  sa;

    memset(&sa, 0, sizeof(sa));
    sa.sa_handler = moe_launch_signal;
    sa.sa_flags = SA_RESTART;

    sigaction(SIGTERM, &sa, NULL);
    sigaction(SIGINT, &sa, NULL);
    sigaction(SIGUSR1, &sa, NULL);

    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
}


/* the front's process: it may run wherever it likes, for the launcher has
 * bound this one to the rank's processors */

static int
moe_launch_child(moe_serve_options_t *o)
{
    long       i, n;
    cpu_set_t  cpus;

    setsid();

    n = sysconf(_SC_NPROCESSORS_CONF);
    CPU_ZERO(&cpus);

    for (i = 0; i < n && i < CPU_SETSIZE; i++) {
        CPU_SET((int) i, &cpus);
    }

    (void) sched_setaffinity(0, sizeof(cpus), &cpus);

    moe_log_init("front", o->level);

    return moe_front_run(o);
}


static int
moe_launch_fork(moe_serve_options_t *o, moe_err_t *err)
{
    int       fds[2];
    pid_t     pid;
    sigset_t  set, old;

    if (pipe2(fds, O_CLOEXEC) == -1) {
        return moe_err(err, "pipe2() failed: %s", strerror(errno));
    }

    /* a signal now is for whoever is there to take it afterwards */

    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &old);

    pid = fork();

    if (pid == 0) {
        close(fds[1]);
        o->leash = fds[0];
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        signal(SIGUSR1, SIG_IGN);
        sigprocmask(SIG_SETMASK, &old, NULL);
        _exit(moe_launch_child(o));
    }

    moe_launch_front = pid > 0 ? pid : 0;
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(fds[0]);

    return pid > 0 ? 0 : moe_err(err, "fork() failed: %s", strerror(errno));
}


/* 1: the front has ended as it should */

static int
moe_launch_ended(void *ctx)
{
    int    status;
    pid_t  pid;

    if (moe_launch_front == 0) {
        return 1;
    }

    do {
        pid = waitpid(moe_launch_front, &status, 0);
    } while (pid == -1 && errno == EINTR);

    moe_launch_front = 0;

    return pid > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}


static int
moe_launch_rank(moe_serve_options_t *o, moe_mpi_t *mpi, moe_err_t *err)
{
    int   fd;
    char  name[16];

    if (moe_mpi_join(mpi, o->by_env,
                     o->transport == MOE_TRANSPORT_NCCL, err)
        != 0)
    {
        return -1;
    }

    snprintf(name, sizeof(name), "rank %u", mpi->rank);
    moe_log_init(name, o->level);
    moe_log(MOE_LOG_NOTICE, "rank %u of %u, %u of %u on this host: %s",
            mpi->rank, mpi->nranks, o->launched.local_rank,
            o->launched.local_size, mpi->library);

    fd = moe_arrive(o->socket, &o->launched, MOE_LAUNCH_MS, moe_launch_gone,
                    err);
    if (fd == -1) {
        return -1;
    }

    o->rank.rank = mpi->rank;
    o->rank.mpi = mpi;
    o->rank.ended = moe_launch_ended;
    o->rank.balance.period_us = o->rebalance_s * MOE_SECOND;
    o->rank.balance.spare = o->replicas;
    o->rank.balance.nodes = o->nodes ? o->nodes
                                     : moe_launched_hosts(&o->launched);

    return moe_rank_main(&o->rank, fd);
}


int
moe_launch_main(moe_serve_options_t *o)
{
    int        rc;
    moe_err_t  err;
    moe_mpi_t  mpi;

    memset(&mpi, 0, sizeof(mpi));
    moe_launch_signals();

    rc = o->launched.local_rank == 0 ? moe_launch_fork(o, &err) : 0;

    if (rc == 0) {
        rc = moe_launch_rank(o, &mpi, &err);
    }

    if (rc == -1) {
        moe_log(MOE_LOG_ERROR, "%s", err.text);
    }

    if (rc != 0) {
        if (mpi.link != NULL) {
            mpi.link->abort(MOE_EXIT_ERROR);
        }

        return MOE_EXIT_ERROR;
    }

    mpi.link->close();

    return 0;
}
