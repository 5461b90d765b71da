/*
 * supervise: keeps a serve alive for nginx.
 *
 * nginx's workers start it by the moe_engine block: the one that gets the
 * lock beside the socket forks it twice.  It holds that lock as long as it
 * lives, so that there is one; starts serve again when it ends, later each
 * time; and leaves when serve does because no worker has been connected for
 * the grace period.  So a reload keeps the engine and a stop ends it.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "main.h"


#define MOE_SUPERVISE_MIN_MS   100
#define MOE_SUPERVISE_MAX_MS   10000
#define MOE_SUPERVISE_STEADY   60
#define MOE_SUPERVISE_TRIES    30


typedef struct {
    int           lock_fd;             /* -1: none */
    const char   *socket;
    const char   *grace;
    char        **argv;                /* of serve, ended by NULL */
    int           argc;
} moe_supervise_t;


static const char  moe_supervise_help[] =
    "usage: moe-engine supervise --socket PATH [--lock-fd N]\n"
    "           [--grace SECONDS] -- OPTIONS\n"
    "\n"
    "Runs \"moe-engine serve --socket PATH --idle-exit SECONDS OPTIONS\" and\n"
    "starts it again when it ends, after 0.1 s at first and up to 10 s when\n"
    "it keeps ending.  It is what nginx starts for a moe_engine block; a\n"
    "service manager does not need it.\n"
    "\n"
    "  --lock-fd N      a descriptor with the lock that says who supervises;\n"
    "                   kept open until the end\n"
    "  --socket PATH    where serve listens\n"
    "  --grace SECONDS  it ends when no worker of nginx has been connected\n"
    "                   for so long (default: 10)\n"
    "\n"
    "SIGTERM or SIGINT stops serve, which finishes what runs, and then\n"
    "this.\n";


static const struct option  moe_supervise_long[] = {
    { "lock-fd", required_argument, NULL, 'l' },
    { "socket", required_argument, NULL, 's' },
    { "grace", required_argument, NULL, 'g' },
    { "help", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


static int
moe_supervise_options(moe_supervise_t *s, int argc, char **argv)
{
    int    c;
    char  *end;
    long   v;

    s->lock_fd = -1;
    s->socket = NULL;
    s->grace = "10";

    optind = 1;
    opterr = 1;

    while ((c = getopt_long(argc, argv, "+h", moe_supervise_long, NULL))
           != -1)
    {
        switch (c) {

        case 'l':
            v = strtol(optarg, &end, 10);

            if (*end || end == optarg || v < 0 || v > INT16_MAX
                || fcntl((int) v, F_SETFD, FD_CLOEXEC) == -1)
            {
                fprintf(stderr, "moe-engine supervise: --lock-fd: \"%s\" is "
                        "no open descriptor\n", optarg);
                return -1;
            }

            s->lock_fd = (int) v;
            break;

        case 's':
            s->socket = optarg;
            break;

        case 'g':
            v = strtol(optarg, &end, 10);

            if (*end || end == optarg || v < 1 || v > 86400) {
                fprintf(stderr, "moe-engine supervise: --grace: \"%s\" is "
                        "not a number of seconds\n", optarg);
                return -1;
            }

            s->grace = optarg;
            break;

        case 'h':
            fputs(moe_supervise_help, stdout);
            return 1;

        default:
            return -1;
        }
    }

    if (s->socket == NULL) {
        fprintf(stderr, "moe-engine supervise: --socket PATH is needed\n");
        return -1;
    }

    s->argv = argv + optind;
    s->argc = argc - optind;

    return 0;
}


static void
moe_supervise_exec(const moe_supervise_t *s, const sigset_t *mask)
{
    int     i, n;
    char  **argv;

    argv = calloc((size_t) s->argc + 8, sizeof(char *));
    if (argv == NULL) {
        _exit(MOE_EXIT_ERROR);
    }

    n = 0;
    argv[n++] = (char *) (uintptr_t) "moe-engine";
    argv[n++] = (char *) (uintptr_t) "serve";
    argv[n++] = (char *) (uintptr_t) "--socket";
    argv[n++] = (char *) (uintptr_t) s->socket;
    argv[n++] = (char *) (uintptr_t) "--idle-exit";
    argv[n++] = (char *) (uintptr_t) s->grace;

    for (i = 0; i < s->argc; i++) {
        argv[n++] = s->argv[i];
    }

    /* nobody is left to hold the lock for a serve that outlives this */
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    sigprocmask(SIG_SETMASK, mask, NULL);

    execv("/proc/self/exe", argv);

    moe_log(MOE_LOG_ERROR, "/proc/self/exe: %s", strerror(errno));
    _exit(MOE_EXIT_ERROR);
}


/* waits for serve's end and passes signals on; *stop: one has come */

static int
moe_supervise_wait(pid_t pid, const sigset_t *set, int *stop)
{
    int    sig, status;
    pid_t  rc;

    for ( ;; ) {
        rc = waitpid(pid, &status, WNOHANG);

        if (rc == pid) {
            return status;
        }

        if (rc == -1 && errno == ECHILD) {
            return 0;
        }

        sig = sigwaitinfo(set, NULL);

        if (sig == SIGTERM || sig == SIGINT) {
            *stop = 1;
            kill(pid, SIGTERM);
        }
    }
}


/* 1: told to stop meanwhile */

static int
moe_supervise_sleep(unsigned ms)
{
    int              sig;
    sigset_t         stop;
    struct timespec  ts;

    sigemptyset(&stop);
    sigaddset(&stop, SIGTERM);
    sigaddset(&stop, SIGINT);

    ts.tv_sec = ms / 1000;
    ts.tv_nsec = (long) (ms % 1000) * 1000000;

    sig = sigtimedwait(&stop, NULL, &ts);

    return sig == SIGTERM || sig == SIGINT;
}


static int
moe_supervise_loop(const moe_supervise_t *s, const sigset_t *set,
    const sigset_t *mask)
{
    int       status, stop;
    pid_t     pid;
    time_t    begun;
    unsigned  delay, tries;

    stop = 0;
    delay = 0;
    tries = 0;

    for ( ;; ) {
        begun = time(NULL);
        pid = fork();

        if (pid == 0) {
            moe_supervise_exec(s, mask);
        }

        if (pid == -1) {
            moe_log(MOE_LOG_ERROR, "fork() failed: %s", strerror(errno));

        } else {
            moe_log(MOE_LOG_INFO, "serve started pid=%d", (int) pid);

            status = moe_supervise_wait(pid, set, &stop);

            moe_log(MOE_LOG_INFO, "serve ended pid=%d code=%d signal=%d",
                    (int) pid, WIFEXITED(status) ? WEXITSTATUS(status) : -1,
                    WIFSIGNALED(status) ? WTERMSIG(status) : 0);

            if (stop || (WIFEXITED(status)
                         && (WEXITSTATUS(status) == MOE_EXIT_IDLE
                             || WEXITSTATUS(status) == 0)))
            {
                return 0;
            }

            if (WIFEXITED(status) && WEXITSTATUS(status) == MOE_EXIT_USAGE) {
                return MOE_EXIT_USAGE;
            }
        }

        if (time(NULL) - begun > MOE_SUPERVISE_STEADY) {
            delay = 0;
            tries = 0;
        }

        if (++tries == MOE_SUPERVISE_TRIES) {
            moe_log(MOE_LOG_ERROR, "serve does not stay up: giving up");
            return MOE_EXIT_ERROR;
        }

        delay = delay ? delay * 2 : MOE_SUPERVISE_MIN_MS;

        if (delay > MOE_SUPERVISE_MAX_MS) {
            delay = MOE_SUPERVISE_MAX_MS;
        }

        moe_log(MOE_LOG_WARN, "serve is started again in %u ms", delay);

        if (moe_supervise_sleep(delay)) {
            return 0;
        }
    }
}


int
moe_supervise_main(int argc, char **argv)
{
    int              rc;
    sigset_t         set, mask;
    moe_supervise_t  s;

    rc = moe_supervise_options(&s, argc, argv);

    if (rc) {
        return rc == 1 ? 0 : MOE_EXIT_USAGE;
    }

    moe_log_init("supervise", MOE_LOG_INFO);

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGCHLD);

    signal(SIGHUP, SIG_IGN);
    signal(SIGCHLD, SIG_DFL);

    if (sigprocmask(SIG_BLOCK, &set, &mask) == -1) {
        moe_log(MOE_LOG_ERROR, "sigprocmask() failed: %s", strerror(errno));
        return MOE_EXIT_ERROR;
    }

    return moe_supervise_loop(&s, &set, &mask);
}
