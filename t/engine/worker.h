/*
 * worker: a worker of nginx's as the tests play it, against a real serve.
 *
 * The engine runs in a child process of the test, by the same function that
 * the program's "serve" calls.  One worker has one lane and any number of
 * jobs; what comes back of each is kept whole, and checked as it comes: one
 * STARTED, then DELTAs, one END, nothing after it.
 */

#ifndef MOE_TEST_WORKER_H
#define MOE_TEST_WORKER_H


#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobq.h"
#include "main.h"


#define TEST_MODEL     "models/demo"
#define PROMPT         "Once upon a time there was a little"
#define TEST_CHOICES   8
#define TEST_JOBS      64
#define TEST_PATIENCE  60000           /* ms */
#define TEST_CREDIT    (1u << 20)


typedef struct {
    char           *text;
    size_t          ntext;
    char           *echo;
    size_t          necho;
    uint32_t       *ids;
    uint32_t        nids;
    uint32_t        counted;           /* completion_tokens said last */
    uint32_t        nlp;               /* tokens with a record */
    uint32_t        necho_ids;
    uint32_t        necho_lp;
    float          *logprobs;          /* of the sampled ones */
    char           *lp_text;           /* bytes of the sampled ones */
    size_t          nlp_text;
    uint32_t        ntop;              /* alternatives of the last one */
    uint32_t        finish;
} answer_t;

typedef struct {
    uint32_t        gen;
    int             live;
    int             started;
    int             ended;
    uint32_t        deltas;
    uint32_t        used;              /* bytes of DELTA frames */
    moe_started_t   start;
    moe_end_t       end;
    char            message[1024];
    char            code[160];
    char            param[160];
    answer_t        choices[TEST_CHOICES];
} reply_t;

typedef struct {
    int             fd;
    int             closed;
    uint32_t        gen;
    moe_lane_t      lane;
    moe_hello_t     hello;
    reply_t         jobs[TEST_JOBS];
} worker_t;


static inline uint64_t
test_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


static inline void
test_sleep(unsigned ms)
{
    usleep(ms * 1000);
}


/* the engine */


static inline void
socket_name(char *path, size_t size, const char *name)
{
    snprintf(path, size, "/tmp/moe-test-%d.%s", (int) getpid(), name);
}


/* serve -m TEST_MODEL --socket PATH and args, which end with NULL */

static inline pid_t
engine_start(const char *socket, const char *const *args)
{
    int          n;
    pid_t        pid;
    const char  *argv[32];

    n = 0;
    argv[n++] = "serve";
    argv[n++] = "-m";
    argv[n++] = TEST_MODEL;
    argv[n++] = "--socket";
    argv[n++] = socket;
    argv[n++] = "--kv-memory";
    argv[n++] = "64m";

    while (args && *args) {
        argv[n++] = *args++;
    }

    if (getenv("TEST_VERBOSE") == NULL) {
        argv[n++] = "--log-level";
        argv[n++] = "error";
    }

    argv[n] = NULL;

    fflush(stdout);
    pid = fork();
    assert_int_not_equal(pid, -1);

    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(moe_serve_main(n, (char **) (uintptr_t) argv));
    }

    return pid;
}


/* the exit code, or 128 and the signal */

static inline int
engine_wait(pid_t pid)
{
    int       status;
    uint64_t  until;

    until = test_ms() + TEST_PATIENCE;

    while (waitpid(pid, &status, WNOHANG) == 0) {

        if (test_ms() > until) {
            kill(pid, SIGKILL);
            fail_msg("the engine does not end");
        }

        test_sleep(5);
    }

    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}


static inline int
engine_stop(pid_t pid)
{
    kill(pid, SIGTERM);
    return engine_wait(pid);
}


/* the pids of its ranks, at most max; how many */
static inline int
engine_ranks(pid_t pid, pid_t *pids, int max)
{
    int    n, child;
    char   path[64];
    FILE  *f;

    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", (int) pid,
             (int) pid);

    f = fopen(path, "r");
    assert_non_null(f);

    for (n = 0; n < max && fscanf(f, "%d", &child) == 1; n++) {
        pids[n] = child;
    }

    fclose(f);

    return n;
}


/* pid of a rank, 0: there is none now */
static inline pid_t
engine_rank(pid_t pid)
{
    pid_t  child;

    return engine_ranks(pid, &child, 1) ? child : 0;
}


/* never to pid 0, which is the test's own process group */
static inline void
signal_rank(pid_t pid, int signo)
{
    pid_t  rank;

    rank = engine_rank(pid);
    assert_int_not_equal(rank, 0);
    assert_int_equal(kill(rank, signo), 0);
}


/* clock ticks that the process has computed */
static inline unsigned long
process_ticks(pid_t pid)
{
    char           path[64];
    FILE          *f;
    unsigned long  user, sys;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int) pid);
    f = fopen(path, "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u "
                            "%*u %*u %*u %lu %lu", &user, &sys), 2);
    fclose(f);

    return user + sys;
}


/* the lane */


static inline int
worker_connect(const char *path)
{
    int                 fd;
    struct sockaddr_un  sun;

    memset(&sun, 0, sizeof(sun));
    sun.sun_family = AF_UNIX;
    snprintf(sun.sun_path, sizeof(sun.sun_path), "%s", path);

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0);
    assert_int_not_equal(fd, -1);

    if (connect(fd, (struct sockaddr *) &sun, sizeof(sun)) == -1) {
        close(fd);
        return -1;
    }

    return fd;
}


static inline int
worker_poll(worker_t *w, int ms)
{
    struct pollfd  p;

    p.fd = w->fd;
    p.events = POLLIN;

    return poll(&p, 1, ms);
}


/* -1: no lane; the hello says why if there was one */

static inline int
worker_try(worker_t *w, const char *path)
{
    int          rc;
    moe_hello_t  hello;

    memset(w, 0, sizeof(worker_t));

    w->fd = worker_connect(path);

    if (w->fd == -1) {
        return -1;
    }

    memset(&hello, 0, sizeof(hello));

    assert_int_equal(moe_lane_create(&w->lane, w->fd, MOE_SIDE_SUBMITTER,
                                     8u << 20), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_hello(&w->lane, &hello), MOE_JOBQ_OK);

    do {
        (void) worker_poll(w, 5000);
        rc = moe_lane_accept(&w->lane, &w->hello);
    } while (rc == MOE_JOBQ_AGAIN);

    if (rc != MOE_JOBQ_OK) {
        moe_lane_destroy(&w->lane);
        close(w->fd);
        return -1;
    }

    return 0;
}


static inline void
reply_free(reply_t *r)
{
    int  i;

    for (i = 0; i < TEST_CHOICES; i++) {
        free(r->choices[i].text);
        free(r->choices[i].echo);
        free(r->choices[i].ids);
        free(r->choices[i].logprobs);
        free(r->choices[i].lp_text);
    }

    memset(r, 0, sizeof(reply_t));
}


static inline void
worker_close(worker_t *w)
{
    int  i;

    for (i = 0; i < TEST_JOBS; i++) {
        reply_free(&w->jobs[i]);
    }

    moe_lane_destroy(&w->lane);
    close(w->fd);
}


static inline void
worker_stats(worker_t *w, moe_stats_t *s)
{
    while (moe_lane_stats_read(&w->lane, s) != MOE_JOBQ_OK) { /* void */ }
}


/* connects until the engine is ready and says who it is */

static inline void
worker_ready(worker_t *w, const char *path)
{
    uint64_t     until;
    moe_stats_t  s;

    static const uint8_t  none[32];

    until = test_ms() + TEST_PATIENCE;

    while (test_ms() < until) {

        if (worker_try(w, path) == 0) {
            worker_stats(w, &s);

            if (s.state == MOE_STATE_READY
                && memcmp(w->hello.fingerprint, none, 32) != 0)
            {
                return;
            }

            worker_close(w);
        }

        test_sleep(20);
    }

    fail_msg("the engine does not become ready");
}


/* jobs */


static inline void
job_init(moe_job_t *job, moe_job_e kind)
{
    memset(job, 0, sizeof(moe_job_t));

    job->kind = kind;
    job->n = 1;
    job->seed = 7;
    job->max_tokens = 24;
    job->max_prompt = MOE_UNLIMITED;
    job->credit = TEST_CREDIT;
}


static inline void
job_chat(moe_job_t *job, const char *messages)
{
    job_init(job, MOE_JOB_CHAT);
    job->messages.data = messages;
    job->messages.len = strlen(messages);
}


static inline void
job_text(moe_job_t *job, const char *prompt)
{
    job_init(job, MOE_JOB_COMPLETION);
    job->nprompts = 1;
    job->prompts[0].data = prompt;
    job->prompts[0].n = strlen(prompt);
}


static inline void
job_stop(moe_job_t *job, const char *stop)
{
    job->stops[job->nstops].data = stop;
    job->stops[job->nstops].len = strlen(stop);
    job->nstops++;
}


static inline void
worker_flush(worker_t *w)
{
    if (moe_lane_flush(&w->lane) != MOE_JOBQ_OK) {
        w->closed = 1;
    }
}


static inline void
worker_cancel(worker_t *w, int slot)
{
    assert_int_equal(moe_put_cancel(&w->lane, slot, w->jobs[slot].gen),
                     MOE_JOBQ_OK);
    worker_flush(w);
}


static inline void
worker_credit(worker_t *w, int slot, uint32_t bytes)
{
    assert_int_equal(moe_put_credit(&w->lane, slot, w->jobs[slot].gen, bytes),
                     MOE_JOBQ_OK);
    worker_flush(w);
}


/* events */


static inline void *
test_append(void *old, size_t n, const void *data, size_t more)
{
    char  *p;

    p = realloc(old, n + more + 1);
    assert_non_null(p);

    if (more) {
        memcpy(p + n, data, more);
    }

    p[n + more] = '\0';

    return p;
}


static inline void
reply_records(answer_t *a, const moe_delta_t *d, int echo)
{
    int          i;
    uint32_t     n;
    moe_lp_t     rec, top;
    const void  *p, *end;

    p = d->lp;
    end = (const char *) d->lp + d->lp_size;

    for (n = 0; p < end; n++) {
        assert_int_equal(moe_lp_read(&rec, &p, end), MOE_JOBQ_OK);

        for (i = 0; i < rec.ntop; i++) {
            assert_int_equal(moe_lp_read(&top, &p, end), MOE_JOBQ_OK);
            assert_int_equal(top.ntop, 0);
        }

        if (echo) {
            a->necho_lp++;
            continue;
        }

        a->ntop = rec.ntop;
        a->logprobs = test_append(a->logprobs, a->nlp * sizeof(float),
                                  &rec.logprob, sizeof(float));
        a->lp_text = test_append(a->lp_text, a->nlp_text, rec.bytes, rec.len);
        a->nlp_text += rec.len;
        a->nlp++;
    }

    assert_int_equal(n, d->nlp);
}


static inline void
reply_delta(reply_t *r, const moe_delta_t *d)
{
    answer_t  *a;

    assert_in_range(d->choice, 0, TEST_CHOICES - 1);

    a = &r->choices[d->choice];
    r->deltas++;

    assert_int_equal(a->finish, MOE_FINISH_NONE);

    if (d->flags & MOE_DELTA_ECHO) {
        a->echo = test_append(a->echo, a->necho, d->text, d->ntext);
        a->necho += d->ntext;
        a->necho_ids += d->nids;
        reply_records(a, d, 1);

    } else {
        a->text = test_append(a->text, a->ntext, d->text, d->ntext);
        a->ntext += d->ntext;
        a->ids = test_append(a->ids, a->nids * 4, d->ids, d->nids * 4);
        a->nids += d->nids;
        a->counted = d->completion_tokens;
        reply_records(a, d, 0);
    }

    a->finish = d->finish;
}


static inline void
reply_end(reply_t *r, const moe_end_t *e)
{
    r->ended = 1;
    r->end = *e;

    snprintf(r->message, sizeof(r->message), "%.*s", (int) e->message.len,
             e->message.data);
    snprintf(r->code, sizeof(r->code), "%.*s", (int) e->code.len,
             e->code.data);
    snprintf(r->param, sizeof(r->param), "%.*s", (int) e->param.len,
             e->param.data);
}


static inline void
worker_event(worker_t *w, const moe_frame_t *f)
{
    size_t         len;
    reply_t       *r;
    uint64_t       buf[MOE_EVENT_MAX / 8];
    moe_end_t      e;
    const char    *why;
    moe_delta_t    d;

    len = f->size - sizeof(moe_frame_t);
    moe_lane_take(&w->lane, buf);

    assert_in_range(f->slot, 0, TEST_JOBS - 1);

    r = &w->jobs[f->slot];

    assert_true(r->live && !r->ended);
    assert_int_equal(r->gen, f->gen);

    switch (f->type) {

    case MOE_FRAME_STARTED:
        assert_false(r->started);
        r->started = 1;
        assert_int_equal(moe_started_read(&r->start, buf, len, &why), 0);
        break;

    case MOE_FRAME_DELTA:
        assert_true(r->started);
        r->used += f->size;
        assert_int_equal(moe_delta_read(&d, buf, len, &why), 0);
        reply_delta(r, &d);
        break;

    case MOE_FRAME_END:
        assert_int_equal(moe_end_read(&e, buf, len, &why), 0);
        reply_end(r, &e);
        break;

    default:
        fail_msg("a frame of type %u", f->type);
    }
}


/* takes what there is; waits up to ms where there is nothing */

static inline void
worker_pump(worker_t *w, int ms)
{
    int          rc, n;
    moe_frame_t  f;

    for (n = 0; ; ) {

        while ((rc = moe_lane_next(&w->lane, &f)) == MOE_JOBQ_OK) {
            worker_event(w, &f);
            n++;
        }

        if (rc == MOE_JOBQ_ERROR || w->closed) {
            w->closed = 1;
            return;
        }

        worker_flush(w);

        if (moe_lane_sleep(&w->lane)) {
            continue;
        }

        if (n || worker_poll(w, ms) == 0) {
            return;
        }

        if (moe_lane_drain(&w->lane) == MOE_JOBQ_ERROR) {

            while (moe_lane_next(&w->lane, &f) == MOE_JOBQ_OK) {
                worker_event(w, &f);
            }

            w->closed = 1;
            return;
        }

        n = 1;
    }
}


/* waits for room where there is none */

static inline int
worker_submit(worker_t *w, const moe_job_t *job)
{
    int  slot, rc;

    for (slot = 0; slot < TEST_JOBS && w->jobs[slot].live; slot++) {
        /* void */
    }

    assert_in_range(slot, 0, TEST_JOBS - 1);

    w->jobs[slot].live = 1;
    w->jobs[slot].gen = ++w->gen;

    while ((rc = moe_put_job(&w->lane, slot, w->gen, job)) == MOE_JOBQ_AGAIN) {
        worker_pump(w, 10);
    }

    assert_int_equal(rc, MOE_JOBQ_OK);
    worker_flush(w);

    return slot;
}


/* until END; the reply stays until worker_forget() */

static inline reply_t *
worker_wait(worker_t *w, int slot)
{
    uint64_t  until;

    until = test_ms() + TEST_PATIENCE;

    while (!w->jobs[slot].ended && !w->closed) {

        if (test_ms() > until) {
            fail_msg("no END comes");
        }

        worker_pump(w, 100);
    }

    assert_true(w->jobs[slot].ended);

    return &w->jobs[slot];
}


static inline void
worker_forget(worker_t *w, int slot)
{
    assert_true(w->jobs[slot].ended);
    reply_free(&w->jobs[slot]);
}


static inline reply_t *
worker_ask(worker_t *w, const moe_job_t *job, int *slot)
{
    *slot = worker_submit(w, job);

    return worker_wait(w, *slot);
}


static inline void
assert_sound(const reply_t *r, uint32_t status)
{
    if (r->end.status != status) {
        fail_msg("END %u \"%s\" where %u is expected", r->end.status,
                 r->message, status);
    }

    if (status == 200) {
        assert_true(r->started);
        assert_int_equal(r->start.prompt_tokens, r->end.prompt_tokens);
    }
}


static inline void
assert_same(const answer_t *a, const answer_t *b)
{
    assert_int_equal(a->nids, b->nids);
    assert_memory_equal(a->ids, b->ids, a->nids * 4);
    assert_int_equal(a->ntext, b->ntext);
    assert_memory_equal(a->text, b->text, a->ntext);
    assert_int_equal(a->finish, b->finish);
}


#endif /* MOE_TEST_WORKER_H */
