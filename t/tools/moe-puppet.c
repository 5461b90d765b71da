/*
 * moe-puppet --socket PATH [options]: an engine on strings, for the tests of
 * the nginx module.  It computes nothing: what it says of a job is written in
 * the job's own prompt, as words "key=value":
 *
 *   tokens=5      how many tokens a choice has
 *   size=0        bytes of each token's text; 0: the text is "t1 ", "t2 ", ..
 *   burst=1       tokens at once
 *   start=0       ms until STARTED
 *   first=0       ms from STARTED to the first token
 *   delay=0       ms between bursts
 *   tick=1        tokens come at whole multiples of this many ms, those of
 *                 all jobs together, as an engine's steps do
 *   finish=stop   or length
 *   refuse=503    an END of this status instead of STARTED
 *   end=500       an END of this status after the tokens
 *   exit=3        the process ends after that many tokens (0: before STARTED)
 *   hangup=3      it closes the lane after that many tokens
 *   mute          nothing is ever said of the job
 *   deaf          CANCEL is not obeyed
 *   greedy        credit is not obeyed
 *   wrong=NAME    a frame that no engine may send: see puppet_wrong()
 *
 * Options: --name NAME (of a model, up to 16), --loading N (in thousandths;
 * jobs get 503), --stuck (probes are not answered), --mute (the hello is not
 * answered), --refuse (the hello is answered with 503), --context N.
 */

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "jobq.h"


#define PUPPET_LANES  64
#define PUPPET_JOBS   MOE_SLOTS


typedef struct {
    int           used;
    uint32_t      slot;
    uint32_t      gen;
    uint32_t      kind;
    uint32_t      n;
    uint32_t      prompt;
    int64_t       credit;
    uint64_t      at;              /* of what comes next, ms */
    int           started;
    int           cancelled;
    uint32_t      done;            /* tokens said, of each choice */
    uint32_t      choice;          /* whose turn within a token it is */
    char          script[512];
} puppet_job_t;

typedef struct {
    int           open;            /* 1: hello, 2: stands */
    moe_lane_t    lane;
    puppet_job_t *jobs;
} puppet_lane_t;


static puppet_lane_t  lanes[PUPPET_LANES];
static moe_stats_t    stats;
static const char    *names[MOE_MODELS_MAX] = { "puppet" };
static uint32_t       nnames = 1, context = 4096;
static int            loading = -1, stuck, mute, refuse;


static uint64_t
puppet_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000 + (uint64_t) ts.tv_nsec / 1000000;
}


static const char *
puppet_word(const puppet_job_t *j, const char *key)
{
    size_t       len;
    const char  *p;

    len = strlen(key);

    for (p = j->script; (p = strstr(p, key)); p += len) {
        if ((p == j->script || p[-1] == ' ')
            && (p[len] == '=' || p[len] == ' ' || p[len] == '\0'))
        {
            return p[len] == '=' ? p + len + 1 : p + len;
        }
    }

    return NULL;
}


static uint32_t
puppet_number(const puppet_job_t *j, const char *key, uint32_t otherwise)
{
    const char  *p;

    p = puppet_word(j, key);

    return p ? (uint32_t) strtoul(p, NULL, 10) : otherwise;
}


static void
puppet_later(puppet_job_t *j, uint32_t ms)
{
    uint32_t  tick;

    tick = puppet_number(j, "tick", 1);
    j->at += ms;

    if (tick > 1) {
        j->at += tick - 1 - (j->at + tick - 1) % tick;
    }
}


static void
puppet_close(puppet_lane_t *l)
{
    close(l->lane.fd);
    moe_lane_destroy(&l->lane);
    free(l->jobs);
    memset(l, 0, sizeof(puppet_lane_t));
}


static void
puppet_end(puppet_lane_t *l, puppet_job_t *j, uint32_t status)
{
    char       message[64];
    moe_end_t  e;

    memset(&e, 0, sizeof(e));
    e.status = status;
    e.prompt_tokens = j->prompt;
    e.completion_tokens = j->done * j->n;

    if (status != 200 && status != 499) {
        e.message.data = message;
        e.message.len = (uint32_t) snprintf(message, sizeof(message),
                                            "The puppet says %u.", status);
        e.code.data = "puppet";
        e.code.len = 6;
        e.retry_after = (status == 503 || status == 429) ? 7 : 0;
    }

    stats.running--;
    stats.finished += status == 200;
    stats.cancelled += status == 499;
    stats.failed += status != 200 && status != 499;
    stats.completion_tokens += e.completion_tokens;

    (void) moe_put_end(&l->lane, j->slot, j->gen, &e);
    j->used = 0;
}


/* what a worker must not take from an engine */

static void
puppet_wrong(puppet_lane_t *l, puppet_job_t *j, const char *name)
{
    uint64_t     junk[4];
    moe_delta_t  d;

    memset(junk, 0xff, sizeof(junk));
    memset(&d, 0, sizeof(d));
    d.text = "x";
    d.ntext = 1;

    if (strncmp(name, "type", 4) == 0) {
        (void) moe_lane_put(&l->lane, 77, j->slot, j->gen, junk, 32, NULL, 0);

    } else if (strncmp(name, "delta", 5) == 0) {
        (void) moe_lane_put(&l->lane, MOE_FRAME_DELTA, j->slot, j->gen, junk,
                            32, NULL, 0);

    } else if (strncmp(name, "choice", 6) == 0) {
        d.choice = 99;
        (void) moe_put_delta(&l->lane, j->slot, j->gen, &d);

    } else if (strncmp(name, "end", 3) == 0) {
        (void) moe_lane_put(&l->lane, MOE_FRAME_END, j->slot, j->gen, junk,
                            32, NULL, 0);

    } else if (strncmp(name, "slot", 4) == 0) {
        (void) moe_put_delta(&l->lane, 0xfffffff0, j->gen, &d);

    } else if (strncmp(name, "head", 4) == 0) {
        l->lane.head += 0x7fffff00;
        *(volatile uint32_t *) (void *) (l->lane.own + 64) = l->lane.head;
        (void) send(l->lane.fd, "k", 1, MSG_DONTWAIT|MSG_NOSIGNAL);

    } else if (strncmp(name, "frame", 5) == 0) {
        memset(l->lane.own + MOE_RING_OFFSET
               + (l->lane.head & (l->lane.own_size - 1)), 0xff, 16);
        l->lane.head += 16;

    } else if (strncmp(name, "socket", 6) == 0) {
        (void) send(l->lane.fd, "nonsense", 8, MSG_DONTWAIT|MSG_NOSIGNAL);
    }
}


/* one token of one choice; 0: no credit, or no room */

static int
puppet_token(puppet_lane_t *l, puppet_job_t *j, uint32_t total, uint32_t n)
{
    char         text[16384];
    uint32_t     id, size;
    moe_delta_t  d;
    const char  *finish;

    memset(&d, 0, sizeof(d));

    size = puppet_number(j, "size", 0);

    if (size == 0) {
        size = (uint32_t) snprintf(text, sizeof(text), "t%u ", n);

    } else {
        size = size < sizeof(text) ? size : sizeof(text);
        memset(text, 'a' + (int) (n % 26), size);
    }

    if (j->credit < (int64_t) size + 128 && !puppet_word(j, "greedy")) {
        return 0;
    }

    id = n;
    d.choice = (uint16_t) j->choice;
    d.completion_tokens = n;
    d.total_tokens = j->done * j->n + j->choice + 1;
    d.nids = 1;
    d.ids = &id;
    d.text = text;
    d.ntext = size;

    if (n == total) {
        finish = puppet_word(j, "finish");
        d.finish = finish && strncmp(finish, "length", 6) == 0
                   ? MOE_FINISH_LENGTH : MOE_FINISH_STOP;
    }

    if (moe_lane_room(&l->lane) < size + 256
        || moe_put_delta(&l->lane, j->slot, j->gen, &d) != MOE_JOBQ_OK)
    {
        return 0;
    }

    j->credit -= (int64_t) moe_align8(size) + 64;
    stats.last_token_us = puppet_now() * 1000;

    return 1;
}


/* returns 1 if the lane was closed */

static int
puppet_tokens(puppet_lane_t *l, puppet_job_t *j)
{
    uint32_t     total, burst, status;
    const char  *word;

    total = puppet_number(j, "tokens", 5);
    burst = puppet_number(j, "burst", 1);

    for ( ;; ) {

        if (puppet_word(j, "exit") && puppet_number(j, "exit", 0) <= j->done)
        {
            (void) moe_lane_flush(&l->lane);
            _exit(9);
        }

        if (puppet_word(j, "hangup")
            && puppet_number(j, "hangup", 0) <= j->done)
        {
            (void) moe_lane_flush(&l->lane);
            puppet_close(l);
            return 1;
        }

        word = puppet_word(j, "wrong");

        if (word && j->done) {
            puppet_wrong(l, j, word);
            (void) moe_lane_flush(&l->lane);
            j->at = puppet_now() + 1000;
            return 0;
        }

        if (j->done == total) {
            status = puppet_number(j, "end", 200);
            puppet_end(l, j, status);
            return 0;
        }

        for ( /* void */ ; j->choice < j->n; j->choice++) {
            if (!puppet_token(l, j, puppet_word(j, "end") ? 0 : total,
                              j->done + 1))
            {
                j->at = puppet_now() + 5;
                return 0;
            }
        }

        j->choice = 0;
        j->done++;
        stats.steps++;

        if (j->done % burst == 0 && j->done < total) {
            puppet_later(j, puppet_number(j, "delay", 0));

            if (j->at > puppet_now()) {
                return 0;
            }
        }
    }
}


static int
puppet_step(puppet_lane_t *l, puppet_job_t *j)
{
    moe_started_t  s;

    if (j->cancelled) {
        puppet_end(l, j, 499);
        return 0;
    }

    if (puppet_word(j, "mute")) {
        j->at = puppet_now() + 3600000;
        return 0;
    }

    if (!j->started) {

        if (puppet_word(j, "refuse")) {
            puppet_end(l, j, puppet_number(j, "refuse", 503));
            return 0;
        }

        if (puppet_word(j, "exit") && puppet_number(j, "exit", 0) == 0) {
            _exit(9);
        }

        memset(&s, 0, sizeof(s));
        s.prompt_tokens = j->prompt;
        j->started = 1;
        puppet_later(j, puppet_number(j, "first", 0));
        (void) moe_put_started(&l->lane, j->slot, j->gen, &s);

        if (j->at > puppet_now()) {
            return 0;
        }
    }

    return puppet_tokens(l, j);
}


/* the script is the prompt's text, or the last "content" of the messages */

static void
puppet_script(puppet_job_t *j, const moe_job_t *job)
{
    size_t       i, len;
    const char  *p, *next, *end;

    if (job->nprompts && !job->prompts[0].is_ids) {
        p = job->prompts[0].data;
        len = job->prompts[0].n;

    } else {
        p = job->messages.data;
        end = p + job->messages.len;

        while (p && (next = memmem(p, (size_t) (end - p), "\"content\":\"",
                                   11)))
        {
            p = next + 11;
        }

        next = p ? memchr(p, '"', (size_t) (end - p)) : NULL;
        len = next ? (size_t) (next - p) : 0;
    }

    len = len < sizeof(j->script) - 1 ? len : sizeof(j->script) - 1;
    memcpy(j->script, p ? p : "", len);
    j->prompt = 1;

    for (i = 0; i < len; i++) {
        j->prompt += j->script[i] == ' ';
    }
}


static void
puppet_job(puppet_lane_t *l, const moe_frame_t *f, void *buf)
{
    uint32_t       i;
    moe_job_t      job;
    const char    *why;
    puppet_job_t  *j;

    if (moe_job_read(&job, buf, f->size - sizeof(moe_frame_t), &why)
        != MOE_JOBQ_OK)
    {
        fprintf(stderr, "puppet: %s\n", why);
        puppet_close(l);
        return;
    }

    for (i = 0; l->jobs[i].used; i++) {
        if (i == PUPPET_JOBS - 1) {
            fprintf(stderr, "puppet: too many jobs\n");
            _exit(1);
        }
    }

    j = &l->jobs[i];

    memset(j, 0, sizeof(puppet_job_t));
    j->used = 1;
    j->slot = f->slot;
    j->gen = f->gen;
    j->kind = job.kind;
    j->n = job.n;
    j->credit = job.credit;
    puppet_script(j, &job);
    j->at = puppet_now() + puppet_number(j, "start", 0);

    stats.accepted++;
    stats.running++;
    stats.prompt_tokens += j->prompt;

    if (loading >= 0) {
        puppet_end(l, j, 503);

    } else if (job.kind == MOE_JOB_PROBE) {

        if (stuck) {
            snprintf(j->script, sizeof(j->script), "mute");

        } else {
            puppet_end(l, j, 200);
        }
    }
}


static void
puppet_frames(puppet_lane_t *l)
{
    int            rc;
    void          *buf;
    uint32_t       i, bytes;
    moe_frame_t    f;
    const char    *why;
    puppet_job_t  *j;

    while (l->open && (rc = moe_lane_next(&l->lane, &f)) != MOE_JOBQ_AGAIN) {

        if (rc == MOE_JOBQ_ERROR) {
            fprintf(stderr, "puppet: %s\n", l->lane.why);
            puppet_close(l);
            return;
        }

        buf = malloc(f.size);
        if (buf == NULL) {
            _exit(1);
        }

        moe_lane_take(&l->lane, buf);

        if (f.type == MOE_FRAME_JOB) {
            puppet_job(l, &f, buf);
            free(buf);
            continue;
        }

        for (i = 0; i < PUPPET_JOBS; i++) {
            j = &l->jobs[i];

            if (!j->used || j->slot != f.slot || j->gen != f.gen) {
                continue;
            }

            if (f.type == MOE_FRAME_CANCEL) {
                j->cancelled = !puppet_word(j, "deaf");
                j->at = j->cancelled ? 0 : j->at;

            } else if (moe_credit_read(&bytes, buf,
                                       f.size - sizeof(moe_frame_t), &why)
                       == MOE_JOBQ_OK)
            {
                j->credit += bytes;
            }
        }

        free(buf);
    }
}


static void
puppet_hello(puppet_lane_t *l)
{
    int          rc;
    uint32_t     i;
    moe_hello_t  h;

    rc = moe_lane_accept(&l->lane, &h);

    if (rc == MOE_JOBQ_AGAIN || mute) {
        return;
    }

    if (rc != MOE_JOBQ_OK || refuse) {
        moe_hello_refuse(l->lane.fd, 503, "the puppet takes no worker");
        puppet_close(l);
        return;
    }

    memset(&h, 0, sizeof(h));
    h.status = 200;
    h.nmodels = nnames;
    memset(h.fingerprint, 0xab, sizeof(h.fingerprint));

    for (i = 0; i < nnames; i++) {
        snprintf(h.models[i].name, sizeof(h.models[i].name), "%s", names[i]);
        h.models[i].created = 1700000000;
        h.models[i].context = context;
    }

    if (moe_lane_hello(&l->lane, &h) != MOE_JOBQ_OK) {
        puppet_close(l);
        return;
    }

    l->open = 2;
}


static void
puppet_accept(int listener)
{
    int  i, fd;

    fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK|SOCK_CLOEXEC);

    for (i = 0; fd != -1 && i < PUPPET_LANES; i++) {

        if (lanes[i].open) {
            continue;
        }

        lanes[i].jobs = calloc(PUPPET_JOBS, sizeof(puppet_job_t));

        if (lanes[i].jobs == NULL
            || moe_lane_create(&lanes[i].lane, fd, MOE_SIDE_ENGINE, 1 << 20)
               != MOE_JOBQ_OK)
        {
            _exit(1);
        }

        lanes[i].open = 1;
        return;
    }

    close(fd);
}


/* returns the milliseconds until something is due */

static int
puppet_turn(puppet_lane_t *l)
{
    int            wait;
    uint32_t       i;
    uint64_t       now;
    puppet_job_t  *j;

    wait = 1000;
    puppet_frames(l);

    for (i = 0; l->open && i < PUPPET_JOBS; i++) {
        j = &l->jobs[i];
        now = puppet_now();

        if (!j->used) {
            continue;
        }

        if (j->at <= now && puppet_step(l, j)) {
            return 0;
        }

        if (j->used) {
            wait = j->at <= now ? 1 : (j->at - now < (uint64_t) wait
                                       ? (int) (j->at - now) : wait);
        }
    }

    if (l->open) {
        stats.updated_us = puppet_now() * 1000;
        moe_lane_stats_write(&l->lane, &stats);

        if (moe_lane_flush(&l->lane) != MOE_JOBQ_OK) {
            puppet_close(l);
            return 0;
        }

        if (moe_lane_sleep(&l->lane)) {
            wait = 0;
        }
    }

    return wait;
}


static void
puppet_loop(int listener)
{
    int            i, n, wait, which[PUPPET_LANES], rc;
    struct pollfd  pfd[PUPPET_LANES + 1];

    for ( ;; ) {
        pfd[0].fd = listener;
        pfd[0].events = POLLIN;
        n = 1;
        wait = 1000;
        stats.lanes = 0;

        for (i = 0; i < PUPPET_LANES; i++) {

            if (lanes[i].open == 2) {
                stats.lanes++;
                rc = puppet_turn(&lanes[i]);
                wait = rc < wait ? rc : wait;
            }

            if (lanes[i].open) {
                which[n] = i;
                pfd[n].fd = lanes[i].lane.fd;
                pfd[n++].events = POLLIN;
            }
        }

        if (poll(pfd, (nfds_t) n, wait) == -1 && errno != EINTR) {
            _exit(1);
        }

        for (i = 1; i < n; i++) {
            if (pfd[i].revents == 0) {
                continue;
            }

            if (lanes[which[i]].open == 1) {
                puppet_hello(&lanes[which[i]]);

            } else if (moe_lane_drain(&lanes[which[i]].lane)
                       == MOE_JOBQ_ERROR)
            {
                puppet_close(&lanes[which[i]]);
            }
        }

        if (pfd[0].revents) {
            puppet_accept(listener);
        }
    }
}


int
main(int argc, char **argv)
{
    int                 c, fd, named;
    const char         *path;
    struct sockaddr_un  sun;

    static const struct option  options[] = {
        { "socket", required_argument, NULL, 's' },
        { "name", required_argument, NULL, 'n' },
        { "context", required_argument, NULL, 'c' },
        { "loading", required_argument, NULL, 'l' },
        { "stuck", no_argument, NULL, 'k' },
        { "mute", no_argument, NULL, 'm' },
        { "refuse", no_argument, NULL, 'r' },
        { NULL, 0, NULL, 0 }
    };

    path = NULL;
    named = 0;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's': path = optarg; break;
        case 'c': context = (uint32_t) atoi(optarg); break;
        case 'l': loading = atoi(optarg); break;
        case 'k': stuck = 1; break;
        case 'm': mute = 1; break;
        case 'r': refuse = 1; break;
        case 'n':
            nnames = (uint32_t) ++named;
            names[(named - 1) % MOE_MODELS_MAX] = optarg;
            break;
        default: return 2;
        }
    }

    if (path == NULL || strlen(path) >= sizeof(sun.sun_path)) {
        fprintf(stderr, "moe-puppet: --socket PATH is needed\n");
        return 2;
    }

    signal(SIGPIPE, SIG_IGN);

    stats.state = loading >= 0 ? MOE_STATE_LOADING : MOE_STATE_READY;
    stats.progress = loading >= 0 ? (uint64_t) loading : 1000;
    stats.started = (uint64_t) time(NULL);
    stats.ranks = 1;
    stats.ranks_up = loading < 0;
    stats.kv_pages = 100;

    memset(&sun, 0, sizeof(sun));
    sun.sun_family = AF_UNIX;
    strcpy(sun.sun_path, path);
    unlink(path);

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0);

    if (fd == -1
        || bind(fd, (struct sockaddr *) &sun, sizeof(sun)) == -1
        || listen(fd, 64) == -1)
    {
        fprintf(stderr, "moe-puppet: %s: %s\n", path, strerror(errno));
        return 1;
    }

    puppet_loop(fd);

    return 0;
}
