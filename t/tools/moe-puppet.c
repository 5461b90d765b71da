/*
 * moe-puppet: an engine on strings, for tests and benchmarks of the module.
 *
 * It speaks the job queue as the front does and computes nothing: what it
 * answers is written in the request's own text, as words "name=value":
 *
 *   tokens=N      deltas of a choice (3)         text=S    of each ("tok ")
 *   size=N        bytes of each delta's text     finish=S  stop or length
 *   start=MS      before STARTED                 first=MS  before the first
 *   delay=MS      between deltas                 tick=MS   at multiples of it
 *   status=N      END with it instead of STARTED (code=S message=S retry=N)
 *   fail=N        END with status 500 after N deltas
 *   cached=N      cached tokens of the prompt
 *   nostart=1     never STARTED                  stall=N   nothing after N
 *   nocancel=1    CANCEL is ignored              greedy=1  credit is ignored
 *   close=N       the lane is closed after N     die=N     the process ends
 *   bad=WORD      a violation: type slot head twice early choice garbage
 *   show=1        one delta that says what the job record had
 *   logprobs=N    each token has N alternatives
 *
 * With --sound it does not do what status, fail, stall, close, die and bad ask
 * for.  With --vandal N it spoils, in N of a hundred turns, up to four bytes
 * of what it is about to publish.
 */

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "engine/jobq.h"


#define PUPPET_LANES   64
#define PUPPET_NEVER   INT64_MAX


typedef struct {
    int          used;
    uint32_t     gen;
    int64_t      due;                  /* ms */
    int64_t      credit;
    int          started;
    int          cancelled;
    int          done;                 /* deltas of every choice */
    int          n;
    int          kind;
    int          prompt;

    int          tokens, size, start, first, delay, tick, status, retry;
    int          fail, cached, nostart, stall, nocancel, greedy, close, die;
    int          show, logprobs, finish;
    char         text[64], code[64], message[128], bad[16];
    char        *shown;
} puppet_job_t;


typedef struct {
    int           fd;
    int           up;
    moe_lane_t    lane;
    puppet_job_t *jobs;
    uint32_t      high;                /* slots ever used */
} puppet_lane_t;


static struct {
    const char   *socket;
    const char   *models[MOE_MODELS_MAX];
    unsigned      nmodels;
    unsigned      state;
    unsigned      progress;
    unsigned      refuse;
    unsigned      silent;
    unsigned      deaf;                /* probes do not come back */
    unsigned      sound;
    size_t        ring;
    unsigned      vandal;              /* turns in a hundred */
} opt;

static puppet_lane_t  lanes[PUPPET_LANES];
static moe_stats_t    stats;


static int64_t
puppet_ms(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (int64_t) ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}


static void
puppet_die(const char *what)
{
    fprintf(stderr, "moe-puppet: %s: %s\n", what, strerror(errno));
    exit(1);
}


/* the value of a word in the request's text, cut at what ends a word */

static int
puppet_word(const char *text, size_t len, const char *name, char *to,
    size_t size)
{
    size_t       i, n, k;

    n = strlen(name);

    for (i = 0; i + n < len; i++) {

        if ((i && text[i - 1] != ' ' && text[i - 1] != '"')
            || memcmp(text + i, name, n) != 0 || text[i + n] != '=')
        {
            continue;
        }

        i += n + 1;

        for (k = 0; i < len && k + 1 < size && text[i] != ' '
             && text[i] != '"' && text[i] != '\\'; i++)
        {
            to[k++] = text[i] == '_' ? ' ' : text[i];
        }

        to[k] = '\0';
        return 1;
    }

    return 0;
}


static int
puppet_int(const char *text, size_t len, const char *name, int value)
{
    char  buf[16];

    return puppet_word(text, len, name, buf, sizeof(buf)) ? atoi(buf) : value;
}


static void
puppet_script(puppet_job_t *j, const char *text, size_t len)
{
    char  finish[16];

    j->tokens = puppet_int(text, len, "tokens", 3);
    j->size = puppet_int(text, len, "size", 0);
    j->start = puppet_int(text, len, "start", 0);
    j->first = puppet_int(text, len, "first", 0);
    j->delay = puppet_int(text, len, "delay", 0);
    j->tick = puppet_int(text, len, "tick", 0);
    j->status = puppet_int(text, len, "status", 200);
    j->retry = puppet_int(text, len, "retry", 0);
    j->fail = puppet_int(text, len, "fail", -1);
    j->cached = puppet_int(text, len, "cached", 0);
    j->nostart = puppet_int(text, len, "nostart", 0);
    j->stall = puppet_int(text, len, "stall", -1);
    j->nocancel = puppet_int(text, len, "nocancel", 0);
    j->greedy = puppet_int(text, len, "greedy", 0);
    j->close = puppet_int(text, len, "close", -1);
    j->die = puppet_int(text, len, "die", -1);
    j->show = puppet_int(text, len, "show", 0);
    j->logprobs = puppet_int(text, len, "logprobs", -1);

    strcpy(j->text, "tok ");
    (void) puppet_word(text, len, "text", j->text, sizeof(j->text));
    (void) puppet_word(text, len, "code", j->code, sizeof(j->code));
    (void) puppet_word(text, len, "message", j->message,
                       sizeof(j->message));
    (void) puppet_word(text, len, "bad", j->bad, sizeof(j->bad));

    if (opt.sound) {
        j->status = 200;
        j->fail = j->stall = j->close = j->die = -1;
        j->bad[0] = '\0';
    }

    j->finish = MOE_FINISH_STOP;

    if (puppet_word(text, len, "finish", finish, sizeof(finish))
        && strcmp(finish, "length") == 0)
    {
        j->finish = MOE_FINISH_LENGTH;
    }
}


static void
puppet_show(puppet_job_t *p, const moe_job_t *j)
{
    FILE      *f;
    size_t     size;
    uint32_t   i;

    f = open_memstream(&p->shown, &size);
    if (f == NULL) {
        puppet_die("open_memstream()");
    }

    fprintf(f, "kind=%u flags=%u set=%u n=%u max=%d min=%u maxprompt=%d "
            "top=%u credit=%u timeout=%u topk=%d t=%.3f p=%.3f minp=%.3f "
            "pres=%.3f freq=%.3f rep=%.3f model=%.*s prompts=%u stops=%u "
            "bias=%u", j->kind, j->flags, j->set, j->n, (int) j->max_tokens,
            j->min_tokens, (int) j->max_prompt, j->top_logprobs, j->credit,
            j->timeout_ms, j->top_k, j->temperature, j->top_p, j->min_p,
            j->presence, j->frequency, j->repetition, (int) j->model.len,
            j->model.data ? j->model.data : "", j->nprompts, j->nstops,
            j->nbias);

    for (i = 0; i < j->nstops; i++) {
        fprintf(f, " stop=%.*s", (int) j->stops[i].len, j->stops[i].data);
    }

    for (i = 0; i < j->nbias; i++) {
        fprintf(f, " bias%u=%.2f", j->bias[i].id, j->bias[i].bias);
    }

    for (i = 0; i < j->nprompts && j->prompts[i].is_ids; i++) {
        fprintf(f, " ids=%u", j->prompts[i].n);
    }

    if (p->show == 4) {
        fprintf(f, " priority=%d weight=%u key=", j->priority, j->weight);

        for (i = 0; i < sizeof(j->key); i++) {
            fprintf(f, "%02x", j->key[i]);
        }
    }

    if (p->show == 2) {
        fprintf(f, " seed=%llu", (unsigned long long) j->seed);
    }

    if (p->show == 3 && j->messages.len) {
        fprintf(f, " messages=%.*s", (int) j->messages.len,
                j->messages.data);
    }

    if (j->kwargs.len) {
        fprintf(f, " kwargs=%.*s", (int) j->kwargs.len, j->kwargs.data);
    }

    fclose(f);
}


static void
puppet_take_job(puppet_lane_t *l, const moe_frame_t *f, const void *buf,
    size_t len)
{
    const char    *why;
    moe_job_t      job;
    puppet_job_t  *j;

    if (f->slot >= MOE_SLOTS || moe_job_read(&job, buf, len, &why) != 0) {
        fprintf(stderr, "moe-puppet: a job that is none\n");
        exit(1);
    }

    j = &l->jobs[f->slot];

    if (j->used) {
        fprintf(stderr, "moe-puppet: slot %u is taken\n", f->slot);
        exit(1);
    }

    if (f->slot >= l->high) {
        l->high = f->slot + 1;
    }

    memset(j, 0, sizeof(puppet_job_t));

    j->used = 1;
    j->gen = f->gen;
    j->credit = job.credit;
    j->kind = job.kind;
    j->n = job.n * (job.nprompts ? job.nprompts : 1);
    j->prompt = 7;

    if (job.messages.len) {
        puppet_script(j, job.messages.data, job.messages.len);
        j->prompt = (int) job.messages.len / 4;

    } else if (job.nprompts && !job.prompts[0].is_ids) {
        puppet_script(j, job.prompts[0].data, job.prompts[0].n);

    } else {
        puppet_script(j, "", 0);
    }

    if (j->show) {
        puppet_show(j, &job);
    }

    j->due = puppet_ms() + j->start;

    if (job.kind == MOE_JOB_PROBE && opt.deaf) {
        j->due = PUPPET_NEVER;
    }

    stats.accepted++;
    stats.running++;
}


static void
puppet_end(puppet_lane_t *l, uint32_t slot, unsigned status)
{
    moe_end_t      e;
    puppet_job_t  *j;

    j = &l->jobs[slot];

    memset(&e, 0, sizeof(moe_end_t));

    e.status = status;
    e.retry_after = j->retry;
    e.prompt_tokens = j->prompt;
    e.cached_tokens = j->cached;
    e.completion_tokens = j->done * j->n;
    e.code.data = j->code;
    e.code.len = strlen(j->code);
    e.message.data = j->message;
    e.message.len = strlen(j->message);

    while (moe_put_end(&l->lane, slot, j->gen, &e) == MOE_JOBQ_AGAIN) {
        moe_lane_flush(&l->lane);
        usleep(1000);
    }

    if (status == 200) {
        stats.finished++;

    } else if (status == 499) {
        stats.cancelled++;

    } else {
        stats.failed++;
    }

    stats.running--;
    stats.completion_tokens += e.completion_tokens;
    stats.prompt_tokens += e.prompt_tokens;

    free(j->shown);
    j->shown = NULL;
    j->used = 0;
}


/* what no engine should write */

static int
puppet_bad(puppet_lane_t *l, uint32_t slot)
{
    uint32_t        word;
    puppet_job_t   *j;
    moe_started_t   s;

    j = &l->jobs[slot];
    memset(&s, 0, sizeof(moe_started_t));

    if (strcmp(j->bad, "type") == 0) {
        moe_lane_put(&l->lane, 99, slot, j->gen, NULL, 0, NULL, 0);

    } else if (strcmp(j->bad, "slot") == 0) {
        moe_lane_put(&l->lane, MOE_FRAME_END, 12345678, 1, NULL, 0, NULL, 0);

    } else if (strcmp(j->bad, "late") == 0) {
        moe_put_started(&l->lane, slot, j->gen + 77, &s);
        return 0;

    } else if (strcmp(j->bad, "twice") == 0) {
        moe_put_started(&l->lane, slot, j->gen, &s);

    } else if (strcmp(j->bad, "garbage") == 0) {
        word = 0xdeadbeef;
        moe_lane_put(&l->lane, MOE_FRAME_DELTA, slot, j->gen, &word, 4,
                     NULL, 0);

    } else if (strcmp(j->bad, "head") == 0) {
        word = 0x7fffffff;
        memcpy(l->lane.own + 64, &word, 4);
        (void) send(l->fd, "k", 1, MSG_DONTWAIT);

    } else if (strcmp(j->bad, "kick") == 0) {
        (void) send(l->fd, "xyz", 3, MSG_DONTWAIT);

    } else {
        return 0;
    }

    moe_lane_flush(&l->lane);
    j->due = PUPPET_NEVER;

    return 1;
}


static size_t
puppet_lps(puppet_job_t *j, uint8_t *buf)
{
    int        i;
    void      *p;
    moe_lp_t   lp;

    p = buf;

    for (i = 0; i <= j->logprobs; i++) {
        lp.id = 100 + i;
        lp.logprob = -0.5f - i;
        lp.ntop = i ? 0 : j->logprobs;
        lp.bytes = j->text;
        lp.len = strlen(j->text);
        p = moe_lp_write(&lp, p);
    }

    return (uint8_t *) p - buf;
}


/* one delta for every choice; 0 when there is no room for them all now */

static int
puppet_deltas(puppet_lane_t *l, uint32_t slot)
{
    int            i, rc;
    char          *text;
    uint8_t        lps[4096];
    uint32_t       id, head;
    moe_delta_t    d;
    puppet_job_t  *j;
    static char    big[MOE_EVENT_MAX];

    j = &l->jobs[slot];
    text = j->text;
    id = 100;

    if (j->size > 0) {
        rc = j->size < MOE_EVENT_MAX - 1024 ? j->size : MOE_EVENT_MAX - 1024;
        memset(big, 'x', rc);
        big[rc] = '\0';
        text = big;
    }

    if (j->shown) {
        text = j->shown;
    }

    if (moe_lane_room(&l->lane) < (strlen(text) + 512) * (size_t) j->n) {
        return 0;
    }

    head = l->lane.head;

    for (i = 0; i < j->n; i++) {
        memset(&d, 0, sizeof(moe_delta_t));

        d.choice = strcmp(j->bad, "choice") == 0 ? 999 : i;
        d.completion_tokens = j->done + 1;
        d.total_tokens = j->done * j->n + i + 1;
        d.nids = 1;
        d.ids = &id;
        d.text = text;
        d.ntext = strlen(text);

        if (j->logprobs >= 0) {
            d.lp = lps;
            d.lp_size = puppet_lps(j, lps);
            d.nlp = 1;
        }

        if (j->done + 1 == j->tokens && j->fail < 0) {
            d.finish = j->finish;
        }

        rc = moe_put_delta(&l->lane, slot, j->gen, &d);

        if (rc != MOE_JOBQ_OK) {
            puppet_die("moe_put_delta()");
        }
    }

    j->credit -= (int64_t) (l->lane.head - head);
    j->done++;

    return 1;
}


static void
puppet_lane_close(puppet_lane_t *l)
{
    uint32_t  i;

    for (i = 0; i < l->high; i++) {
        if (l->jobs[i].used) {
            stats.running--;
            free(l->jobs[i].shown);
        }
    }

    if (l->up) {
        stats.lanes--;
    }

    moe_lane_destroy(&l->lane);
    close(l->fd);
    free(l->jobs);
    memset(l, 0, sizeof(puppet_lane_t));
    l->fd = -1;
}


/* 0: the lane is gone */

static int
puppet_step(puppet_lane_t *l, uint32_t slot, int64_t now)
{
    moe_started_t   s;
    puppet_job_t   *j;

    j = &l->jobs[slot];

    if (j->kind == MOE_JOB_PROBE) {
        puppet_end(l, slot, 200);
        return 1;
    }

    if (!j->started) {

        if (j->die == 0) {
            exit(0);
        }

        if (j->close == 0) {
            puppet_lane_close(l);
            return 0;
        }

        if (j->status != 200) {
            puppet_end(l, slot, j->status);
            return 1;
        }

        if (j->nostart) {
            j->due = PUPPET_NEVER;
            return 1;
        }

        if (strcmp(j->bad, "early") == 0) {
            puppet_deltas(l, slot);
            return 1;
        }

        memset(&s, 0, sizeof(moe_started_t));
        s.prompt_tokens = j->prompt;
        s.cached_tokens = j->cached;

        if (moe_put_started(&l->lane, slot, j->gen, &s) != MOE_JOBQ_OK) {
            return 1;
        }

        j->started = 1;
        j->due = now + j->first;

        if (puppet_bad(l, slot) || j->first) {
            return 1;
        }
    }

    if (j->fail == j->done) {
        puppet_end(l, slot, 500);
        return 1;
    }

    if (j->done >= j->tokens) {
        puppet_end(l, slot, 200);
        return 1;
    }

    if (j->stall == j->done) {
        j->due = PUPPET_NEVER;
        return 1;
    }

    if ((j->credit <= 0 && !j->greedy) || !puppet_deltas(l, slot)) {
        j->due = PUPPET_NEVER - 1;             /* until credit or room */
        return 1;
    }

    if (j->die == j->done) {
        moe_lane_flush(&l->lane);
        exit(0);
    }

    if (j->close == j->done) {
        moe_lane_flush(&l->lane);
        puppet_lane_close(l);
        return 0;
    }

    if (j->shown) {
        j->tokens = j->done;
    }

    if (j->done >= j->tokens && j->fail < 0) {
        puppet_end(l, slot, 200);
        return 1;
    }

    j->due = now + j->delay;

    if (j->tick) {
        j->due = (now / j->tick + 1) * j->tick;
    }

    return 1;
}


static void
puppet_frames(puppet_lane_t *l)
{
    int             rc;
    void           *buf;
    size_t          len;
    uint32_t        bytes;
    const char     *why;
    moe_frame_t     f;
    puppet_job_t   *j;

    for ( ;; ) {
        rc = moe_lane_next(&l->lane, &f);

        if (rc == MOE_JOBQ_AGAIN && moe_lane_sleep(&l->lane)) {
            continue;
        }

        if (rc != MOE_JOBQ_OK) {
            if (rc == MOE_JOBQ_ERROR) {
                fprintf(stderr, "moe-puppet: %s\n", l->lane.why);
                exit(1);
            }

            return;
        }

        len = f.size - sizeof(moe_frame_t);
        buf = malloc(len + 8);
        if (buf == NULL) {
            puppet_die("malloc()");
        }

        moe_lane_take(&l->lane, buf);

        if (f.type == MOE_FRAME_JOB) {
            puppet_take_job(l, &f, buf, len);

        } else if (f.slot < MOE_SLOTS && l->jobs[f.slot].used
                   && l->jobs[f.slot].gen == f.gen)
        {
            j = &l->jobs[f.slot];

            if (f.type == MOE_FRAME_CANCEL && !j->nocancel) {
                puppet_end(l, f.slot, 499);

            } else if (f.type == MOE_FRAME_CREDIT
                       && moe_credit_read(&bytes, buf, len, &why) == 0)
            {
                j->credit += bytes;

                if (j->due == PUPPET_NEVER - 1) {
                    j->due = 0;
                }
            }
        }

        free(buf);
    }
}


static void
puppet_hello(puppet_lane_t *l)
{
    unsigned     i;
    moe_hello_t  theirs, ours;

    switch (moe_lane_accept(&l->lane, &theirs)) {

    case MOE_JOBQ_AGAIN:
        return;

    case MOE_JOBQ_ERROR:
        puppet_lane_close(l);
        return;

    default:
        break;
    }

    memset(&ours, 0, sizeof(moe_hello_t));

    ours.status = 200;
    ours.nmodels = opt.nmodels;
    memset(ours.fingerprint, 0xab, sizeof(ours.fingerprint));

    for (i = 0; i < opt.nmodels; i++) {
        snprintf(ours.models[i].name, MOE_MODEL_NAME_MAX, "%s",
                 opt.models[i]);
        ours.models[i].created = 1700000000;
        ours.models[i].context = 4096;
    }

    stats.state = (uint64_t) opt.state;
    stats.progress = (uint64_t) opt.progress;
    stats.ranks = 1;
    stats.ranks_up = 1;
    moe_lane_stats_write(&l->lane, &stats);

    if (moe_lane_hello(&l->lane, &ours) != MOE_JOBQ_OK) {
        puppet_lane_close(l);
        return;
    }

    l->up = 1;
    stats.lanes++;
}


static void
puppet_accept(int ls)
{
    int             i, fd;
    puppet_lane_t  *l;

    fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK|SOCK_CLOEXEC);
    if (fd == -1) {
        return;
    }

    if (opt.refuse) {
        moe_hello_refuse(fd, opt.refuse, "the puppet refuses");
        close(fd);
        return;
    }

    for (i = 0; i < PUPPET_LANES && lanes[i].fd != -1; i++) { /* void */ }

    if (i == PUPPET_LANES) {
        close(fd);
        return;
    }

    l = &lanes[i];
    memset(l, 0, sizeof(puppet_lane_t));
    l->fd = fd;
    l->lane.memfd = -1;
    l->jobs = calloc(MOE_SLOTS, sizeof(puppet_job_t));

    if (l->jobs == NULL
        || moe_lane_create(&l->lane, fd, MOE_SIDE_ENGINE, opt.ring) != 0)
    {
        puppet_die("lane");
    }
}


/* takes what there is, or it would be said for ever that it is there */

static void
puppet_ignore(puppet_lane_t *l)
{
    char     buf[4096];
    ssize_t  n;

    n = recv(l->fd, buf, sizeof(buf), MSG_DONTWAIT);

    if (n == 0 || (n == -1 && errno != EAGAIN && errno != EINTR)) {
        puppet_lane_close(l);
    }
}


static void
puppet_read(puppet_lane_t *l)
{
    if (!l->up) {
        if (opt.silent) {
            puppet_ignore(l);

        } else {
            puppet_hello(l);
        }

        return;
    }

    if (moe_lane_drain(&l->lane) == MOE_JOBQ_ERROR) {
        puppet_lane_close(l);
        return;
    }

    puppet_frames(l);
}


/* frames' headers lie at multiples of eight: every third byte hits there */

static void
puppet_vandalize(moe_lane_t *l)
{
    int       i;
    uint8_t  *p;
    uint32_t  n, at;

    n = l->head - l->published;

    if (n == 0 || (unsigned) random() % 100 >= opt.vandal) {
        return;
    }

    for (i = random() % 4; i >= 0; i--) {
        at = (uint32_t) random() % n;
        at = l->published + (random() % 3 ? at : at & ~15u);
        p = &l->own[MOE_RING_OFFSET + (at & (l->own_size - 1))];
        *p = (uint8_t) (random() % 2 ? random() : 1 << random() % 8);
    }
}


/* all that is due; the time until more is, in ms, -1 for none */

static int
puppet_work(void)
{
    int             i, busy;
    int64_t         now, next;
    uint32_t        k;
    puppet_job_t   *j;
    puppet_lane_t  *l;

    next = PUPPET_NEVER;

    for (i = 0; i < PUPPET_LANES; i++) {
        l = &lanes[i];

        if (l->fd == -1 || !l->up) {
            continue;
        }

        puppet_frames(l);
        now = puppet_ms();
        busy = 1;

        for (k = 0; k < l->high && busy; k++) {
            j = &l->jobs[k];

            if (!j->used) {
                continue;
            }

            if (j->due == PUPPET_NEVER - 1
                && (j->credit > 0 || j->greedy))
            {
                j->due = now;
            }

            if (j->due <= now) {
                busy = puppet_step(l, k, now);
            }

            if (busy && j->used && j->due < next) {
                next = j->due;
            }
        }

        if (!busy) {
            continue;
        }

        stats.state = opt.state;
        stats.progress = opt.progress;
        stats.ranks = 1;
        stats.ranks_up = 1;
        stats.updated_us = now * 1000;

        moe_lane_stats_write(&l->lane, &stats);

        if (opt.vandal) {
            puppet_vandalize(&l->lane);
        }

        if (moe_lane_flush(&l->lane) != MOE_JOBQ_OK) {
            puppet_lane_close(l);
        }
    }

    if (next >= PUPPET_NEVER - 1) {
        return next == PUPPET_NEVER ? -1 : 10;
    }

    now = puppet_ms();

    return next <= now ? 0 : (int) (next - now < 1000 ? next - now : 1000);
}


static void
puppet_loop(int ls)
{
    int            i, n, wait;
    puppet_lane_t *of[PUPPET_LANES + 1];
    struct pollfd  fds[PUPPET_LANES + 1];

    for ( ;; ) {
        wait = puppet_work();

        fds[0].fd = ls;
        fds[0].events = POLLIN;
        n = 1;

        for (i = 0; i < PUPPET_LANES; i++) {
            if (lanes[i].fd != -1) {
                fds[n].fd = lanes[i].fd;
                fds[n].events = POLLIN;
                of[n++] = &lanes[i];
            }
        }

        if (poll(fds, n, wait) == -1 && errno != EINTR) {
            puppet_die("poll()");
        }

        if (fds[0].revents) {
            puppet_accept(ls);
        }

        for (i = 1; i < n; i++) {
            if (fds[i].revents && of[i]->fd == fds[i].fd) {
                puppet_read(of[i]);
            }
        }
    }
}


static int
puppet_listen(void)
{
    int                 s;
    struct sockaddr_un  sa;

    memset(&sa, 0, sizeof(sa));
    sa.sun_family = AF_UNIX;
    snprintf(sa.sun_path, sizeof(sa.sun_path), "%s", opt.socket);

    (void) unlink(opt.socket);
    s = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0);

    if (s == -1 || bind(s, (struct sockaddr *) &sa, sizeof(sa)) == -1
        || listen(s, 128) == -1)
    {
        puppet_die(opt.socket);
    }

    return s;
}


static const struct option  puppet_options[] = {
    { "socket", required_argument, NULL, 's' },
    { "model", required_argument, NULL, 'm' },
    { "loading", required_argument, NULL, 'l' },
    { "refuse", required_argument, NULL, 'r' },
    { "silent", no_argument, NULL, 'q' },
    { "deaf", no_argument, NULL, 'd' },
    { "sound", no_argument, NULL, 'S' },
    { "ring", required_argument, NULL, 'R' },
    { "vandal", required_argument, NULL, 'v' },
    { "halves", no_argument, NULL, 'h' },
    { NULL, 0, NULL, 0 }
};


int
main(int argc, char **argv)
{
    int  c, i;

    opt.state = MOE_STATE_READY;
    opt.progress = 1000;
    opt.ring = 8 * 1024 * 1024;

    while ((c = getopt_long(argc, argv, "", puppet_options, NULL)) != -1) {

        switch (c) {

        case 's':
            opt.socket = optarg;
            break;

        case 'm':
            if (opt.nmodels < MOE_MODELS_MAX) {
                opt.models[opt.nmodels++] = optarg;
            }

            break;

        case 'l':
            opt.state = MOE_STATE_LOADING;
            opt.progress = atoi(optarg);
            break;

        case 'r':
            opt.refuse = atoi(optarg);
            break;

        case 'q':
            opt.silent = 1;
            break;

        case 'd':
            opt.deaf = 1;
            break;

        case 'S':
            opt.sound = 1;
            break;

        case 'R':
            opt.ring = strtoul(optarg, NULL, 10);
            break;

        case 'v':
            opt.vandal = atoi(optarg);
            break;

        /* of 1000 steps 412 were in halves, and those of 16 to 31 rows are */
        case 'h':
            stats.steps = 1000;
            stats.halved = 412;
            stats.halves_sizes = 1 << 4;
            stats.halves_rows = 16;
            stats.halves_gain = 1080;
            break;

        default:
            return 1;
        }
    }

    if (opt.socket == NULL) {
        fprintf(stderr, "usage: moe-puppet --socket PATH [--model NAME]... "
                "[--loading 0..1000] [--refuse STATUS] [--silent] [--deaf] "
                "[--sound] [--ring BYTES] [--vandal PERCENT]\n");
        return 1;
    }

    if (opt.nmodels == 0) {
        opt.models[opt.nmodels++] = "puppet";
    }

    for (i = 0; i < PUPPET_LANES; i++) {
        lanes[i].fd = -1;
    }

    srandom((unsigned) (time(NULL) ^ getpid()));
    signal(SIGPIPE, SIG_IGN);
    puppet_loop(puppet_listen());

    return 0;
}
