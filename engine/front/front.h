/*
 * front: the engine's parent process, from within.
 *
 * One process, one loop, and a thread for long prompts.  Every turn the loop
 * takes what workers and ranks sent, hands waiting choices to ranks, writes
 * what workers have room for, and sleeps unless a peer has more.  It computes
 * nothing but text.
 *
 *     worker --- job ---> task: prompts, choices, queue
 *                           choice ---> slot of a rank: one job of ids
 *     worker <-- events --  choice's stream <--- ids
 *
 * A task is one job of a worker's; it ends exactly once, when all its choices
 * are done, with one END if the worker is still there.  A choice is done when
 * its rank said so, when a stop string ended it, or when its task failed.  A
 * rank's death makes its choices wait again, with the ids they have.
 *
 *     options.c   command line
 *     serve.c     loop, signals, draining
 *     ranks.c     rank processes: start, death, restart
 *     experts.c   where spread experts are
 *     workers.c   lanes of workers: frames in, events out
 *     listen.c    the socket
 *     begin.c     from job to task
 *     prepare.c   long prompts, in a thread
 *     prompt.c    job to token ids
 *     messages.c  what a chat template sees of a job
 *     dispatch.c  choices to ranks, time-outs; choose.c which rank
 *     events.c    what ranks say of choices
 *     admit.c     whether a task may wait: what admission.c and fair.c say
 *     tasks.c     its end: stopping, failing, END
 *     slots.c     places in ranks: cancel, credit
 *     stats.c watch.c
 */

#ifndef MOE_FRONT_H
#define MOE_FRONT_H


#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "base/launched.h"
#include "base/log.h"
#include "ep/balance.h"
#include "front/fair.h"
#include "front/stops.h"
#include "front/stream.h"
#include "front/text.h"
#include "jobq.h"
#include "main.h"
#include "rank.h"


typedef struct moe_front_s   moe_front_t;
typedef struct moe_worker_s  moe_worker_t;
typedef struct moe_task_s    moe_task_t;
typedef struct moe_choice_s  moe_choice_t;
typedef struct moe_proc_s    moe_proc_t;
typedef struct moe_watch_s   moe_watch_t;


#define MOE_SECOND           1000000ull      /* times are microseconds */

#define MOE_WORKERS_MAX      256
#define MOE_RANKS_MAX        64

/* a rank's event ring and the front's at a worker */
#define MOE_FRONT_RING       (4u << 20)

/* sampled tokens that a rank may be ahead of its worker, and how many are
 * given back at once */
#define MOE_FRONT_AHEAD      512
#define MOE_FRONT_REFILL     128

/* how often a choice is continued after its rank died */
#define MOE_FRONT_TRIES      3

/* what jobs may take of the front's memory, all workers' together */
#define MOE_FRONT_BYTES      (1ull << 30)


typedef enum {
    MOE_TRANSPORT_AUTO = 0,
    MOE_TRANSPORT_SHM,
    MOE_TRANSPORT_MPI,
    MOE_TRANSPORT_NCCL
} moe_transport_e;


/* how a server is to be run; what command line gives */
typedef struct {
    moe_rank_options_t   rank;
    const char          *names[MOE_MODELS_MAX];
    uint32_t             nnames;
    const char          *template;
    const char          *socket;
    const char          *group;              /* of the socket, or NULL */
    uint32_t             mode;               /* of the socket */
    uint32_t             queue;              /* jobs that may wait */
    uint32_t             drain_s;
    uint32_t             idle_s;             /* exit without workers, 0: no */
    uint32_t             park_s;
    uint32_t             rank_s;             /* a rank's silence, in a step */
    int                  spread;             /* the experts, over the ranks */
    int                  transport;          /* moe_transport_e */
    uint32_t             replicas;           /* of them; UINT32_MAX: some */
    uint32_t             rebalance_s;        /* 0: never */
    uint32_t             nodes;              /* that ranks are on; 0: hosts */
    moe_launched_t       launched;           /* size 0: it starts its ranks */
    int                  by_env;             /* launched: as torchrun does it,
                                              * without MPI */
    int                  leash;              /* launched: hangs up when the
                                              * host's first rank is gone */
    moe_log_level_e      level;
} moe_serve_options_t;


/* a descriptor in the loop */
struct moe_watch_s {
    void               (*handler)(moe_front_t *f, moe_watch_t *w,
                                  uint32_t events);
    void                *data;
    int                  fd;
};


typedef enum {
    MOE_CHOICE_WAITING = 0,
    MOE_CHOICE_RUNNING,                      /* has a slot of a rank */
    MOE_CHOICE_DONE
} moe_choice_state_e;


struct moe_choice_s {
    moe_task_t          *task;
    uint32_t             index;
    uint32_t             prompt;             /* which of the task's */
    moe_choice_state_e   state;
    moe_proc_t          *rank;
    uint32_t             slot;
    uint32_t             tries;
    uint32_t             sampled;            /* exact count when done */
    uint32_t             echo_seen;          /* ids of the prompt that came */
    uint32_t             echo_skip;          /* that come once more */
    uint32_t             owed;               /* tokens of credit to return */
    uint64_t             last_us;            /* last token */
    uint32_t             begun;              /* its rank has STARTED it */
    moe_stream_t         out;
};


struct moe_task_s {
    moe_front_t         *front;
    moe_worker_t        *worker;             /* NULL: it has gone */
    uint32_t             slot;
    uint32_t             gen;

    moe_job_t            job;                /* points into record */
    void                *record;
    uint64_t             size;               /* counted in the front's */

    moe_stops_t          stops;
    moe_ids_t           *prompts;
    uint32_t            *cached;             /* tokens, of each prompt */
    uint32_t             nprompts;
    uint32_t            *stop_ids;
    uint32_t             nstop_ids;
    uint32_t             prompt_tokens;
    moe_choice_t        *choices;
    uint32_t             nchoices;
    uint32_t             ndone;
    uint32_t             turn;               /* choice to write next */

    int64_t              credit;
    uint64_t             arrived_us;
    uint64_t             started_us;
    uint64_t             deadline_us;        /* in the queue, 0: none */
    uint64_t             parked_us;          /* since when, 0: is not */
    uint64_t             cancel_us;          /* since when, 0: is not */

    /* what is wrong with its prompt; status 0: nothing */
    struct {
        uint32_t         status;
        const char      *code;
        const char      *param;
        char             message[512];
    } wrong;

    /* its end; status 0: none yet */
    uint32_t             status;
    uint32_t             retry_after;
    const char          *code;
    const char          *param;
    char                 message[512];

    moe_fair_node_t      wait;               /* whom it counts for, and its
                                              * place in the queue */
    moe_task_t          *next;               /* of all tasks */
    moe_task_t          *prev;
    moe_task_t          *out_next;           /* of a worker's to write */
    moe_task_t          *prep_next;          /* of those being prepared */

    unsigned             accepted:1;
    unsigned             in_out:1;
    unsigned             started:1;          /* STARTED is due or sent */
    unsigned             started_sent:1;
    unsigned             first:1;            /* a token has come */
    unsigned             probing:1;          /* a rank is to answer */
    unsigned             preparing:1;        /* the thread has it */
};


#define moe_task_of(node)                                                     \
    ((moe_task_t *) (void *) ((char *) (node) - offsetof(moe_task_t, wait)))


typedef enum {
    MOE_WORKER_HELLO = 0,                    /* its hello is awaited */
    MOE_WORKER_OPEN,
    MOE_WORKER_CLOSED                        /* freed at the turn's end */
} moe_worker_state_e;


struct moe_worker_s {
    moe_watch_t          watch;
    moe_front_t         *front;
    moe_lane_t           lane;
    moe_worker_state_e   state;
    pid_t                pid;
    uint64_t             since_us;
    int                  unnamed;            /* hello had no fingerprint */
    uint32_t             live;
    moe_task_t         **slots;              /* MOE_SLOTS */
    moe_task_t          *out_head;
    moe_task_t          *out_tail;
};


/* one of a rank's slots */
typedef struct {
    moe_choice_t        *choice;             /* NULL: nobody waits for it */
    moe_task_t          *probe;
    uint32_t             gen;
    uint32_t             credit;             /* tokens to return */
    uint8_t              busy;               /* until its END */
    uint8_t              cancel;             /* CANCEL is to be sent */
    uint8_t              listed;             /* in todo */
} moe_slot_t;


typedef enum {
    MOE_PROC_DOWN = 0,                       /* to be started at start_us */
    MOE_PROC_HELLO,                          /* its hello is awaited */
    MOE_PROC_LOADING,
    MOE_PROC_READY
} moe_proc_state_e;


struct moe_proc_s {
    moe_watch_t          watch;              /* its socket */
    moe_watch_t          death;              /* its pidfd */
    moe_front_t         *front;
    uint32_t             index;
    moe_proc_state_e     state;
    pid_t                pid;
    moe_lane_t           lane;
    moe_stats_t          stats;
    moe_rank_options_t   options;
    uint64_t             start_us;           /* when to start it */
    uint64_t             begun_us;           /* when it was started */
    uint64_t             since_us;           /* when it was ready */
    uint64_t             sign_us;            /* last sign of progress */
    uint64_t             backoff_us;
    uint32_t             deaths;             /* in a row */
    _Atomic uint32_t    *progress;           /* 0 to 1000; shared with it */
    uint32_t             running;            /* slots with a choice */
    uint32_t             busy;               /* slots until END */
    uint32_t             nslots;
    uint32_t             gen;
    moe_slot_t          *slots;
    uint32_t            *free;               /* stack of free slots */
    uint32_t             nfree;
    uint32_t            *todo;               /* slots with credit, cancel */
    uint32_t             ntodo;
};


/* the thread of prepare.c; todo and done are under the mutex */
typedef struct {
    moe_watch_t          watch;              /* an eventfd: there is done */
    pthread_t            thread;
    void               (*prepared)(moe_task_t *t);
    pthread_mutex_t      mutex;
    pthread_cond_t       cond;
    moe_task_t          *todo;
    moe_task_t          *done;
    int                  busy;
    int                  hold;
    int                  stop;
    int                  running;
} moe_prepare_t;


struct moe_front_s {
    const moe_serve_options_t  *options;
    moe_text_t           text;
    int                  epoll;
    int                  listener;
    int                  signals;
    moe_watch_t          listen_watch;
    moe_watch_t          signal_watch;
    moe_watch_t          arrivals;           /* of launched ranks */
    moe_watch_t          leash;
    dev_t                socket_dev;
    ino_t                socket_ino;

    uint64_t             now;                /* CLOCK_MONOTONIC */
    uint64_t             tick_us;            /* last */
    uint64_t             stats_us;           /* last written */
    uint64_t             alone_us;           /* since when without worker */
    uint64_t             drain_us;           /* until when, 0: serving */
    unsigned             again:1;            /* there is more to read */
    unsigned             dirty:1;            /* statistics have changed */
    unsigned             ready:1;            /* has been, at least once */
    unsigned             named:1;            /* fingerprint is known */
    unsigned             failed:1;
    unsigned             orphans:1;          /* tasks that no worker awaits */
    unsigned             quit:1;
    unsigned             lost:1;             /* a launched rank; all end */
    int                  status;             /* exit code */

    uint8_t              fingerprint[32];    /* the ranks' */
    uint8_t              answers[32];        /* the workers': with the text's,
                                              * zero until it is known */

    moe_worker_t        *workers[MOE_WORKERS_MAX];
    uint32_t             nworkers;

    moe_proc_t          *ranks;
    uint32_t             nranks;
    moe_shm_t           *shm;                /* of spread experts, or NULL */
    uint32_t             members;            /* of its epoch */
    moe_balance_t       *balance;            /* NULL: they stay in place */
    moe_balance_map_t   *map;                /* of its last look */
    moe_experts_t       *experts;            /* for the workers; or NULL */
    uint64_t             looks;
    uint32_t             probe_turn;

    moe_task_t          *tasks;              /* all, newest first */
    uint32_t             ntasks;
    uint64_t             bytes;              /* that they take, about */
    uint32_t             npreparing;
    moe_fair_t           fair;
    moe_prepare_t        prepare;
    moe_rate_t           rate;               /* at which tasks are begun */
    uint64_t             lost_steps;         /* of ranks that died */
    uint64_t             lost_drafts;
    uint64_t             lost_accepted;

    moe_stats_t          stats;
    void                *scratch;            /* MOE_EVENT_MAX bytes */
};


/*
 * Calls go down this list: a file calls those under it only.
 */

/* serve.c */

/* Serves until it is told to stop; returns the exit code. */
int moe_front_run(const moe_serve_options_t *o);


/* launch.c */

/* The same in a process that a launcher has started: as a rank, and where it
 * is the first of its host with a front as its child. */
int moe_launch_main(moe_serve_options_t *o);


/* arrivals.c: ranks that a launcher has started; after ranks_start */

int moe_arrivals_open(moe_front_t *f, moe_err_t *err);
void moe_arrivals_close(moe_front_t *f);


/* ranks.c */

/* The rank is at this socket, which becomes its own. */
int moe_proc_attach(moe_proc_t *p, int fd);

int moe_ranks_start(moe_front_t *f, moe_err_t *err);
void moe_ranks_stop(moe_front_t *f);
void moe_ranks_read(moe_front_t *f);
void moe_ranks_flush(moe_front_t *f);
int moe_ranks_sleep(moe_front_t *f);
void moe_ranks_tick(moe_front_t *f);


/* experts.c; start before ranks are, stop after */

int moe_experts_start(moe_front_t *f, moe_err_t *err);
void moe_experts_stop(moe_front_t *f);
void moe_experts_tick(moe_front_t *f);

/* what is known of them, for a lane that has just been opened */
void moe_experts_first(moe_front_t *f, moe_lane_t *lane);


/* workers.c */

void moe_workers_accept(moe_front_t *f, moe_watch_t *w, uint32_t events);
void moe_workers_read(moe_front_t *f);
void moe_workers_write(moe_front_t *f);
void moe_workers_flush(moe_front_t *f);
int moe_workers_sleep(moe_front_t *f);
void moe_workers_tick(moe_front_t *f);
void moe_worker_close(moe_worker_t *w, const char *why, int broken);


/* listen.c: -1 and err, or a listening descriptor */

int moe_listen(moe_front_t *f, const moe_serve_options_t *o, moe_err_t *err);
void moe_listen_close(moe_front_t *f);


/* begin.c */

/*
 * Owns the record, NULL where there was no room for it.  0, or the worker is
 * to be closed and *why says why: -1 for want of memory, 1 for what it sent.
 */
int moe_task_begin(moe_worker_t *w, uint32_t slot, uint32_t gen,
    void *record, size_t size, const char **why);

/* The task's prompt is made. */
void moe_task_prepared(moe_task_t *t);


/* prepare.c */

/* prepared: called in the loop for each task that the thread has made. */
int moe_prepare_start(moe_front_t *f, void (*prepared)(moe_task_t *t),
    moe_err_t *err);
void moe_prepare_stop(moe_front_t *f);

/*
 * For a fork: 0, and the thread holds no lock of any library's until the
 * release; -1: it is busy, and begins nothing new before that was tried again.
 */
int moe_prepare_hold(moe_front_t *f);
void moe_prepare_release(moe_front_t *f);

/* Makes the task's prompt: 1, it is made; 0, it will be called prepared. */
int moe_prepare(moe_task_t *t);


/* prompt.c: the ids of every prompt, or what is wrong */

void moe_prompt_make(moe_task_t *t);


/* dispatch.c */

void moe_tasks_dispatch(moe_front_t *f);
void moe_tasks_tick(moe_front_t *f);
void moe_slot_probe(moe_front_t *f, moe_task_t *t);


/* events.c */

int moe_proc_read(moe_proc_t *p);               /* as moe_lane_next() */


/* admit.c: 0, or -1 and the task has failed with 429 or 503 */

int moe_admit(moe_task_t *t);                   /* a place in the queue */
int moe_admit_text(moe_task_t *t);              /* of those being prepared */
void moe_admit_memory(moe_task_t *t);           /* fails: there is no room */
void moe_admit_timeout(moe_task_t *t);          /* fails: it waited too long */
int moe_task_grow(moe_task_t *t, uint64_t n);   /* it takes n more bytes */


/* tasks.c */

void moe_task_cancel(moe_task_t *t);

/* Ends it with an error, as soon as its choices have stopped. */
void moe_task_fail(moe_task_t *t, uint32_t status, const char *code,
    const char *param, const char *fmt, ...)
    __attribute__((format(printf, 5, 6)));

void moe_task_wait(moe_task_t *t);              /* again, after a rank died */
void moe_task_started(moe_task_t *t);
void moe_task_wants(moe_task_t *t);             /* may have what to write */
void moe_choice_done(moe_choice_t *c, uint32_t sampled);

int moe_task_over(const moe_task_t *t);         /* END is all that is due */
void moe_task_check(moe_task_t *t);             /* see to its END if it is */
void moe_task_end(const moe_task_t *t, moe_end_t *e);
void moe_task_free(moe_task_t *t);

void moe_tasks_reap(moe_front_t *f);
uint32_t moe_tasks_sampled(const moe_task_t *t);
uint32_t moe_choice_max_tokens(const moe_choice_t *c);


/* slots.c */

/* One that is free, which there must be. */
uint32_t moe_slot_take(moe_proc_t *p);

/* The slot is free again; nothing is said to the rank. */
void moe_slot_release(moe_proc_t *p, uint32_t slot);

void moe_slot_cancel(moe_choice_t *c);          /* and await its END */
void moe_slot_leave(moe_choice_t *c);           /* cancel, await nothing */
void moe_slot_credit(moe_choice_t *c, uint32_t tokens);
void moe_slot_forget_probe(moe_task_t *t);

/* Tells the rank what is due, and all that was put; as moe_lane_flush(). */
int moe_slots_flush(moe_proc_t *p);


/* stats.c */

void moe_front_stats(moe_front_t *f);

/* A new lane's page is true before its worker can look at it. */
void moe_front_stats_first(moe_front_t *f, moe_lane_t *lane);


/* watch.c */

int moe_front_watch(moe_front_t *f, moe_watch_t *w, uint32_t events);
void moe_front_unwatch(moe_front_t *f, moe_watch_t *w);
uint64_t moe_front_clock(void);


#endif /* MOE_FRONT_H */
