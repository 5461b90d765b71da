#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "front/front.h"


#define MOE_PROC_BACKOFF_MIN  (MOE_SECOND / 10)
#define MOE_PROC_BACKOFF_MAX  (10 * MOE_SECOND)

/* up for so long, a rank's next death is a new story */
#define MOE_PROC_STEADY       (30 * MOE_SECOND)

/* deaths in a row after which waiting jobs are told */
#define MOE_PROC_DEATHS       5


static void  moe_proc_died(moe_proc_t *p, const char *why);


/* the child */


static int
moe_proc_by_number(const void *a, const void *b)
{
    return *(const int *) a - *(const int *) b;
}


/* all descriptors but the standard ones, the socket and what ranks wake each
 * other with */

static int
moe_proc_keep(const moe_front_t *f, int fd)
{
    int       fds[MOE_SHM_RANKS + 1];
    uint32_t  i, n, from;

    n = f->shm ? moe_shm_fds(f->shm, fds) : 0;
    fds[n++] = fd;
    qsort(fds, n, sizeof(int), moe_proc_by_number);
    from = STDERR_FILENO + 1;

    for (i = 0; i < n; i++) {
        if ((uint32_t) fds[i] > from
            && close_range(from, (uint32_t) fds[i] - 1, 0) == -1)
        {
            return -1;
        }

        from = (uint32_t) fds[i] + 1;
    }

    return close_range(from, ~0u, 0);
}


static void
moe_proc_child(moe_proc_t *p, int fd)
{
    uint32_t      k;
    sigset_t      set;
    moe_front_t  *f;

    static char   name[16];

    f = p->front;

    snprintf(name, sizeof(name), "rank %u", p->index);
    moe_log_init(name, f->options->level);
    prctl(PR_SET_NAME, name);

    /* a terminal's ^C and a service manager's SIGTERM to all processes are
     * the front's to answer: it drains, and hangs up */

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);

    sigemptyset(&set);
    sigprocmask(SIG_SETMASK, &set, NULL);

    for (k = 0; k < f->nworkers; k++) {
        if (f->workers[k]->state != MOE_WORKER_CLOSED) {
            moe_lane_destroy(&f->workers[k]->lane);
        }
    }

    for (k = 0; k < f->nranks; k++) {
        if (f->ranks[k].state != MOE_PROC_DOWN) {
            moe_lane_destroy(&f->ranks[k].lane);
        }
    }

    if (moe_proc_keep(f, fd) == -1) {
        _exit(MOE_EXIT_ERROR);
    }

    _exit(moe_rank_main(&p->options, fd));
}


/* start and death */


static void
moe_proc_close(moe_proc_t *p)
{
    moe_front_unwatch(p->front, &p->watch);
    moe_lane_destroy(&p->lane);
    close(p->watch.fd);
    p->watch.fd = -1;
}


/* what it ran waits again, but for what was being stopped anyway */

static void
moe_proc_orphan(moe_choice_t *c)
{
    moe_task_t  *t;

    t = c->task;

    c->rank = NULL;
    c->state = MOE_CHOICE_WAITING;

    if (t->status || c->out.finish) {
        moe_choice_done(c, c->out.ids.n);
        return;
    }

    if (c->tries++ == MOE_FRONT_TRIES) {
        moe_task_fail(t, 500, "engine_lost", NULL,
                      "The process that computed the answer died.");
        return;
    }

    moe_task_wait(t);
}


static void
moe_proc_orphans(moe_proc_t *p)
{
    uint32_t       i;
    moe_task_t    *t;
    moe_choice_t  *c;

    for (i = 0; i < p->nslots; i++) {

        if (!p->slots[i].busy) {
            continue;
        }

        c = p->slots[i].choice;
        t = p->slots[i].probe;

        p->slots[i].listed = 0;
        moe_slot_release(p, i);

        if (t) {
            t->probing = 0;
            moe_task_fail(t, 503, "engine_lost", NULL,
                          "The rank died while it was probed.");
        }

        if (c) {
            moe_proc_orphan(c);
        }
    }

    for (i = 0; i < p->ntodo; i++) {
        p->slots[p->todo[i]].listed = 0;
    }

    p->ntodo = 0;
}


static void
moe_proc_give_up(moe_front_t *f)
{
    moe_task_t  *t, *next;

    if (f->failed) {
        return;
    }

    f->failed = 1;

    moe_log(MOE_LOG_ERROR, "ranks do not stay up, requests are refused until "
            "one does");

    for (t = f->tasks; t; t = next) {
        next = t->next;

        if (t->wait.waits) {
            moe_task_fail(t, 503, "engine_failed", NULL,
                          "The engine's ranks do not stay up.");
        }
    }
}


/*
 * Spread experts: the ranks that are there, as a new epoch.  What was under
 * way in the last one ends, and is done again in this one; experts of a rank
 * that is gone are with the others then, who have all weights mapped.
 */

static void
moe_ranks_epoch(moe_front_t *f, uint32_t members)
{
    f->members = members;
    moe_shm_publish(f->shm, members);

    moe_log(MOE_LOG_NOTICE, "experts are spread over %d of %u ranks",
            __builtin_popcount(members), f->nranks);
}


/* those whom others wait for in vain */

static void
moe_ranks_missing(moe_front_t *f)
{
    uint32_t  i, missing;

    missing = moe_shm_missing(f->shm) & f->members;

    for (i = 0; i < f->nranks && !f->quit; i++) {
        if (missing >> i & 1) {
            moe_proc_died(&f->ranks[i], "it does not answer the others");
        }
    }
}


static void
moe_proc_died(moe_proc_t *p, const char *why)
{
    uint32_t      running;
    moe_front_t  *f;

    if (p->state == MOE_PROC_DOWN) {
        return;
    }

    f = p->front;
    running = p->running;

    moe_proc_close(p);

    if (p->state == MOE_PROC_READY && f->now - p->since_us > MOE_PROC_STEADY)
    {
        p->backoff_us = 0;
        p->deaths = 0;
    }

    p->state = MOE_PROC_DOWN;
    p->deaths++;
    p->backoff_us = p->backoff_us ? p->backoff_us * 2 : MOE_PROC_BACKOFF_MIN;

    if (p->backoff_us > MOE_PROC_BACKOFF_MAX) {
        p->backoff_us = MOE_PROC_BACKOFF_MAX;
    }

    p->start_us = f->now + p->backoff_us;

    f->stats.rank_restarts++;
    f->lost_steps += p->stats.steps;
    f->lost_drafts += p->stats.draft_tokens;
    f->lost_accepted += p->stats.draft_accepted;
    memset(&p->stats, 0, sizeof(moe_stats_t));
    f->dirty = 1;

    moe_log(f->quit ? MOE_LOG_INFO : MOE_LOG_ERROR,
            "rank %u is gone pid=%d running=%u restart_ms=%u: %s", p->index,
            (int) p->pid, running, (unsigned) (p->backoff_us / 1000),
            why ? why : "hang-up");

    moe_proc_orphans(p);

    /* the others go with it, and their launcher starts all again */

    if (f->options->launched.size) {
        f->lost = 1;
        return;
    }

    kill(p->pid, SIGKILL);

    if (p->deaths >= MOE_PROC_DEATHS) {
        moe_proc_give_up(f);
    }

    if (f->shm && f->members >> p->index & 1 && !f->quit) {
        moe_ranks_epoch(f, f->members & ~(1u << p->index));
    }
}


/* a rank has said what is wrong with the model or the options, and would say
 * it again */

static void
moe_proc_hopeless(moe_front_t *f)
{
    if (f->ready || f->quit) {
        return;
    }

    moe_log(MOE_LOG_ERROR, "the model cannot be served");

    f->status = MOE_EXIT_ERROR;
    f->quit = 1;
}


static void
moe_proc_reaped(moe_proc_t *p, const siginfo_t *info)
{
    moe_front_t  *f;

    f = p->front;

    if (info->si_code == CLD_EXITED) {
        moe_log(MOE_LOG_INFO, "rank %u pid=%d exited with code %d", p->index,
                (int) p->pid, info->si_status);

        if (info->si_status == MOE_EXIT_ERROR) {
            moe_proc_hopeless(f);
        }

    } else {
        moe_log(MOE_LOG_WARN, "rank %u pid=%d was ended by signal %d (%s)",
                p->index, (int) p->pid, info->si_status,
                strsignal(info->si_status));
    }

    if (p->death.fd != -1) {
        moe_front_unwatch(f, &p->death);
        close(p->death.fd);
        p->death.fd = -1;
    }

    p->pid = 0;
}


static void
moe_proc_death(moe_front_t *f, moe_watch_t *watch, uint32_t events)
{
    siginfo_t    info;
    moe_proc_t  *p;

    p = watch->data;
    memset(&info, 0, sizeof(siginfo_t));

    if (p->pid == 0
        || waitid(P_PID, (id_t) p->pid, &info, WEXITED|WNOHANG) == -1
        || info.si_pid == 0)
    {
        return;
    }

    /* what it said before it died is good */

    if (p->state >= MOE_PROC_LOADING) {
        (void) moe_proc_read(p);
    }

    moe_proc_died(p, "its process ended");
    moe_proc_reaped(p, &info);
}


/* its hello, its state */


static void
moe_proc_ready(moe_proc_t *p)
{
    moe_front_t  *f;

    f = p->front;

    p->state = MOE_PROC_READY;
    p->deaths = 0;
    p->since_us = f->now;
    f->failed = 0;
    f->dirty = 1;
    f->tick_us = 0;

    moe_log(MOE_LOG_NOTICE, "rank %u is ready pid=%d kv_pages=%llu "
            "load_ms=%llu", p->index, (int) p->pid,
            (unsigned long long) p->stats.kv_pages,
            (unsigned long long) ((f->now - p->begun_us) / 1000));

    if (f->shm && !(f->members >> p->index & 1)) {
        moe_ranks_epoch(f, f->members | 1u << p->index);
    }
}


static void
moe_proc_look(moe_proc_t *p)
{
    moe_stats_t  stats;

    if (moe_lane_stats_read(&p->lane, &stats) != MOE_JOBQ_OK) {
        return;
    }

    if (stats.steps != p->stats.steps) {
        p->sign_us = p->front->now;
        p->front->dirty = 1;
    }

    p->stats = stats;

    if (p->state == MOE_PROC_LOADING && stats.state == MOE_STATE_READY) {
        moe_proc_ready(p);
    }
}


static void
moe_proc_hello(moe_proc_t *p)
{
    int           rc;
    moe_front_t  *f;
    moe_hello_t   hello;

    f = p->front;
    rc = moe_lane_accept(&p->lane, &hello);

    if (rc == MOE_JOBQ_AGAIN) {
        return;
    }

    if (rc != MOE_JOBQ_OK) {
        moe_proc_died(p, hello.text[0] ? hello.text : p->lane.why);

        if (hello.text[0]) {
            moe_proc_hopeless(f);
        }

        return;
    }

    if (f->named && memcmp(f->fingerprint, hello.fingerprint,
                           sizeof(f->fingerprint)) != 0)
    {
        moe_proc_died(p, "it has another fingerprint: the model's files have "
                         "changed, restart the engine");
        return;
    }

    f->named = 1;
    memcpy(f->fingerprint, hello.fingerprint, sizeof(f->fingerprint));

    if (hello.nmodels && hello.models[0].context
        && hello.models[0].context < f->text.context)
    {
        f->text.context = hello.models[0].context;
    }

    moe_text_fingerprint(&f->text, f->fingerprint, f->answers);

    p->state = MOE_PROC_LOADING;
    moe_proc_look(p);
}


static void
moe_proc_event(moe_front_t *f, moe_watch_t *watch, uint32_t events)
{
    moe_proc_t  *p;

    p = watch->data;

    if (p->state == MOE_PROC_HELLO) {
        moe_proc_hello(p);
        return;
    }

    if (p->state == MOE_PROC_DOWN) {
        return;
    }

    if (moe_lane_drain(&p->lane) == MOE_JOBQ_ERROR) {
        (void) moe_proc_read(p);
        moe_proc_died(p, p->lane.why);
        return;
    }

    if (p->state == MOE_PROC_LOADING) {
        moe_proc_look(p);
    }
}


/* the front's ring holds the longest job twice */

static size_t
moe_proc_ring(const moe_front_t *f)
{
    return 2 * ((size_t) f->text.config.max_positions * 8 + (1u << 20));
}


static int
moe_proc_lane(moe_proc_t *p, int fd)
{
    moe_hello_t  hello;

    if (moe_lane_create(&p->lane, fd, MOE_SIDE_SUBMITTER,
                        moe_proc_ring(p->front))
        != MOE_JOBQ_OK)
    {
        return -1;
    }

    memset(&hello, 0, sizeof(moe_hello_t));
    hello.status = 200;

    p->watch.fd = fd;
    p->watch.data = p;
    p->watch.handler = moe_proc_event;

    if (moe_lane_hello(&p->lane, &hello) != MOE_JOBQ_OK
        || moe_front_watch(p->front, &p->watch, EPOLLIN) == -1)
    {
        moe_lane_destroy(&p->lane);
        return -1;
    }

    return 0;
}


static void
moe_proc_begun(moe_proc_t *p)
{
    p->state = MOE_PROC_HELLO;
    p->sign_us = p->front->now;
    p->begun_us = p->front->now;
    atomic_store_explicit(p->progress, 0, memory_order_relaxed);
}


int
moe_proc_attach(moe_proc_t *p, int fd)
{
    if (moe_proc_lane(p, fd) == -1) {
        moe_log(MOE_LOG_ERROR, "rank %u cannot be watched: %s", p->index,
                strerror(errno));
        return -1;
    }

    moe_proc_begun(p);

    return 0;
}


static int
moe_proc_start(moe_proc_t *p)
{
    int           fds[2];
    moe_front_t  *f;

    f = p->front;

    if (moe_prepare_hold(f) == -1) {
        return -1;
    }

    p->start_us = f->now + MOE_SECOND;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0,
                   fds)
        == -1)
    {
        moe_log(MOE_LOG_ERROR, "socketpair() failed: %s", strerror(errno));
        moe_prepare_release(f);
        return -1;
    }

    p->pid = fork();

    if (p->pid == 0) {
        moe_proc_child(p, fds[1]);
    }

    moe_prepare_release(f);
    close(fds[1]);

    if (p->pid == -1) {
        p->pid = 0;
        moe_log(MOE_LOG_ERROR, "fork() failed: %s", strerror(errno));
        close(fds[0]);
        return -1;
    }

    p->death.fd = (int) syscall(SYS_pidfd_open, p->pid, 0);
    p->death.data = p;
    p->death.handler = moe_proc_death;

    /* where there is no pidfd the socket says it, and the tick reaps */

    if ((p->death.fd == -1 && errno != ENOSYS)
        || (p->death.fd != -1
            && moe_front_watch(f, &p->death, EPOLLIN) == -1)
        || moe_proc_lane(p, fds[0]) == -1)
    {
        moe_log(MOE_LOG_ERROR, "rank %u cannot be watched: %s", p->index,
                strerror(errno));

        if (p->death.fd != -1) {
            moe_front_unwatch(f, &p->death);
            close(p->death.fd);
            p->death.fd = -1;
        }

        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
        close(fds[0]);
        p->pid = 0;
        return -1;
    }

    moe_proc_begun(p);

    moe_log(MOE_LOG_INFO, "rank %u started pid=%d", p->index, (int) p->pid);

    return 0;
}


static int
moe_proc_init(moe_front_t *f, moe_proc_t *p, uint32_t index)
{
    uint32_t  i;

    p->front = f;
    p->index = index;
    p->watch.fd = -1;
    p->death.fd = -1;
    p->options = f->options->rank;
    p->options.rank = index;
    p->options.shm = f->shm;

    /* those that were left are busy for a step yet, and probes come on top */
    p->nslots = f->options->rank.max_running * 2 + 64;

    p->progress = mmap(NULL, sizeof(uint32_t), PROT_READ|PROT_WRITE,
                       MAP_SHARED|MAP_ANONYMOUS, -1, 0);

    if (p->progress == MAP_FAILED) {
        p->progress = NULL;
        return -1;
    }

    p->options.progress = p->progress;

    p->slots = calloc(p->nslots, sizeof(moe_slot_t));
    p->free = calloc(p->nslots, sizeof(uint32_t));
    p->todo = calloc(p->nslots, sizeof(uint32_t));

    if (p->slots == NULL || p->free == NULL || p->todo == NULL) {
        return -1;
    }

    for (i = 0; i < p->nslots; i++) {
        p->free[p->nfree++] = p->nslots - 1 - i;
    }

    return 0;
}


int
moe_ranks_start(moe_front_t *f, moe_err_t *err)
{
    uint32_t  i;

    f->ranks = calloc(f->options->rank.nranks, sizeof(moe_proc_t));

    if (f->ranks == NULL) {
        return moe_err(err, "no memory for %u ranks",
                       f->options->rank.nranks);
    }

    if (f->options->spread && moe_experts_start(f, err) == -1) {
        return -1;
    }

    f->nranks = f->options->rank.nranks;

    for (i = 0; i < f->nranks; i++) {
        if (moe_proc_init(f, &f->ranks[i], i) == -1) {
            return moe_err(err, "no memory for rank %u", i);
        }
    }

    for (i = 0; i < f->nranks && !f->options->launched.size; i++) {
        if (moe_proc_start(&f->ranks[i]) == -1) {
            return moe_err(err, "rank %u cannot be started", i);
        }
    }

    return 0;
}


/* a hang-up ends a rank within its step; what does not end is ended */

void
moe_ranks_stop(moe_front_t *f)
{
    int          i, left;
    uint32_t     k;
    moe_proc_t  *p;

    for (k = 0; k < f->nranks; k++) {
        p = &f->ranks[k];

        if (p->state != MOE_PROC_DOWN) {
            moe_proc_close(p);
            p->state = MOE_PROC_DOWN;
        }
    }

    /* nobody waits for one that has seen it first */
    if (f->shm) {
        moe_shm_lost(f->shm, 0);
    }

    for (i = 0; i < 200; i++) {
        left = 0;

        for (k = 0; k < f->nranks; k++) {
            p = &f->ranks[k];

            if (p->pid && i == 199) {
                kill(p->pid, SIGKILL);
                waitpid(p->pid, NULL, 0);
                p->pid = 0;
            }

            if (p->pid && waitpid(p->pid, NULL, WNOHANG) == p->pid) {
                p->pid = 0;
            }

            left += (p->pid != 0);
        }

        if (left == 0) {
            break;
        }

        usleep(10000);
    }

    for (k = 0; k < f->nranks; k++) {
        p = &f->ranks[k];

        if (p->death.fd != -1) {
            close(p->death.fd);
        }

        if (p->progress) {
            munmap((void *) p->progress, sizeof(uint32_t));
        }

        free(p->slots);
        free(p->free);
        free(p->todo);
    }

    free(f->ranks);
    f->ranks = NULL;
    f->nranks = 0;

    moe_experts_stop(f);
}


void
moe_ranks_tick(moe_front_t *f)
{
    int          all;
    uint32_t     i;
    moe_proc_t  *p;

    all = 1;

    if (f->shm) {
        moe_ranks_missing(f);
    }

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];

        if (p->state >= MOE_PROC_LOADING) {
            moe_proc_look(p);
        }

        if (p->state == MOE_PROC_READY && p->busy
            && f->now - p->sign_us > f->options->rank_s * MOE_SECOND)
        {
            moe_proc_died(p, "it has jobs and no longer moves");
        }

        if (p->pid && p->death.fd == -1) {
            moe_proc_death(f, &p->death, 0);
        }

        if (p->state == MOE_PROC_DOWN && p->pid == 0
            && f->now >= p->start_us && !f->quit
            && !f->options->launched.size)
        {
            (void) moe_proc_start(p);
        }

        all &= p->state == MOE_PROC_READY;
    }

    if (all && !f->ready) {
        f->ready = 1;
        f->alone_us = f->now;
        moe_log(MOE_LOG_NOTICE, "ready model=%s context=%u ranks=%u",
                f->text.names[0], f->text.context, f->nranks);
    }
}


void
moe_ranks_read(moe_front_t *f)
{
    uint32_t     i;
    moe_proc_t  *p;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];

        if (p->state >= MOE_PROC_LOADING
            && moe_proc_read(p) == MOE_JOBQ_ERROR)
        {
            moe_proc_died(p, p->lane.why);
        }
    }
}


void
moe_ranks_flush(moe_front_t *f)
{
    uint32_t     i;
    moe_proc_t  *p;

    for (i = 0; i < f->nranks; i++) {
        p = &f->ranks[i];

        if (p->state >= MOE_PROC_LOADING
            && moe_slots_flush(p) != MOE_JOBQ_OK)
        {
            moe_proc_died(p, p->lane.why);
        }
    }
}


int
moe_ranks_sleep(moe_front_t *f)
{
    int       busy;
    uint32_t  i;

    busy = 0;

    for (i = 0; i < f->nranks; i++) {
        if (f->ranks[i].state >= MOE_PROC_LOADING) {
            busy |= moe_lane_sleep(&f->ranks[i].lane);
        }
    }

    return busy;
}
