#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "ep/nccl_rows.h"
#include "gen.h"
#include "heat.h"
#include "jobq.h"
#include "rank.h"
#include "sched/pages.h"


#define MOE_RANK_LANE       (8u << 20)

/* how long the front may leave its ring full, and its hello out */
#define MOE_RANK_PATIENCE   60000

/* KV memory where none was asked for: a share of the machine's, but no more
 * than every sequence of a batch could fill at this length */
#define MOE_RANK_KV_SHARE   4
#define MOE_RANK_KV_TOKENS  8192
#define MOE_RANK_RUNNING    64

#define MOE_RANK_PROBES     64

/* how long another rank may take to answer within a step, where nothing else
 * was asked for, and then the front to say who goes on */
#define MOE_RANK_EXCHANGE   10000
#define MOE_RANK_REGROUP    10000


typedef struct {
    uint32_t                    slot;
    uint32_t                    gen;
} moe_rank_probe_t;


typedef struct {
    const moe_rank_options_t   *o;
    moe_model_t                *model;
    moe_exchange_t             *exchange;     /* the model's; NULL: alone */
    moe_gen_t                  *gen;
    moe_lane_t                  lane;
    moe_stats_t                 stats;
    moe_rank_probe_t            probes[MOE_RANK_PROBES];
    uint32_t                    nprobes;
    uint32_t                    tried;        /* sizes of steps, in halves */
    int                         fd;
    int                         failed;       /* the lane; nothing is put */
    uint64_t                    looks;        /* at the experts' loads */
    moe_experts_t               page;         /* of the last one */

    /* by slot; NULL: no job.  gens is of the last one */
    moe_gen_job_t              *jobs[MOE_SLOTS];
    uint32_t                    gens[MOE_SLOTS];
} moe_rank_t;


static int moe_rank_open(moe_rank_t *r, moe_err_t *err);
static void moe_rank_model_options(moe_rank_t *r, moe_model_options_t *mo);
static moe_exchange_t *moe_rank_exchange(void *ctx,
    const moe_exchange_shape_t *shape, const moe_rows_memory_t *memory,
    moe_err_t *err);
static uint64_t moe_rank_kv_bytes(const moe_rank_t *r);
static int moe_rank_progress(void *ctx, const char *what, uint32_t percent);
static void moe_rank_decline(moe_rank_t *r, const char *why);
static int moe_rank_join(moe_rank_t *r, moe_err_t *err);
static int moe_rank_loop(moe_rank_t *r, moe_err_t *err);
static int moe_rank_receive(moe_rank_t *r);
static void moe_rank_job(moe_rank_t *r, const moe_frame_t *f,
    const void *buf, size_t len);
static void moe_rank_refuse(moe_rank_t *r, const moe_frame_t *f,
    uint32_t status, const char *why);
static void moe_rank_probes(moe_rank_t *r);
static void moe_rank_stats(moe_rank_t *r);
static int moe_rank_wait(moe_rank_t *r, int timeout);
static int moe_rank_follow(moe_rank_t *r, moe_err_t *err);
static int moe_rank_regroup(moe_rank_t *r, moe_err_t *err);
static int moe_rank_same(moe_rank_t *r, moe_err_t *err);
static int moe_rank_leave(moe_rank_t *r, moe_err_t *err);
static int moe_rank_doze(moe_rank_t *r);
static int moe_rank_alone(const moe_rank_t *r);
static int moe_rank_again(moe_rank_t *r, int rc, uint64_t *deadline);
static uint64_t moe_rank_now(void);

static void moe_rank_put_end(moe_rank_t *r, uint32_t slot, uint32_t gen,
    const moe_end_t *e);
static void moe_rank_started(void *ctx, uint64_t tag, const moe_started_t *s);
static void moe_rank_delta(void *ctx, uint64_t tag, const moe_delta_t *d);
static void moe_rank_end(void *ctx, uint64_t tag, const moe_end_t *e);


static const moe_gen_sink_t  moe_rank_sink = {
    moe_rank_started,
    moe_rank_delta,
    moe_rank_end
};


int
moe_rank_main(const moe_rank_options_t *o, int fd)
{
    int          rc;
    moe_err_t    err;
    moe_rank_t  *r;

    r = calloc(1, sizeof(moe_rank_t));
    if (r == NULL) {
        moe_log(MOE_LOG_ERROR, "no memory for a rank");
        close(fd);
        return 1;
    }

    r->o = o;
    r->fd = fd;
    r->lane.memfd = -1;
    r->lane.fd = fd;

    rc = fcntl(fd, F_SETFL, O_NONBLOCK);

    if (rc != 0) {
        moe_err(&err, "the front's socket: %s", strerror(errno));

    } else if ((rc = moe_rank_open(r, &err)) != 0) {
        moe_rank_decline(r, err.text);

    } else if ((rc = moe_rank_join(r, &err)) == 0
               && (rc = moe_rank_loop(r, &err)) == 0 && o->mpi != NULL)
    {
        rc = moe_rank_leave(r, &err);
    }

    if (rc != 0) {
        moe_log(MOE_LOG_ERROR, "%s", err.text);
    }

    moe_gen_destroy(r->gen);
    moe_model_close(r->model);
    moe_lane_destroy(&r->lane);
    close(fd);
    free(r);

    return rc != 0;
}


static int
moe_rank_open(moe_rank_t *r, moe_err_t *err)
{
    uint64_t              bytes, pages;
    moe_gen_options_t     go;
    moe_model_options_t   mo;

    moe_rank_model_options(r, &mo);

    r->model = moe_model_open(r->o->model_dir, &mo, moe_rank_progress, r,
                              err);
    if (r->model == NULL) {
        return -1;
    }

    if (r->o->mpi != NULL && r->exchange == NULL) {
        return moe_err(err, "%s: the model has no experts to be spread",
                       r->o->model_dir);
    }

    bytes = r->o->kv_bytes ? r->o->kv_bytes : moe_rank_kv_bytes(r);
    pages = bytes / moe_model_kv_bytes_per_page(r->model);

    if (pages == 0 || pages >= MOE_PAGE_NONE) {
        return moe_err(err, "%llu bytes of KV memory are %llu pages of %llu",
                       (unsigned long long) bytes, (unsigned long long) pages,
                       (unsigned long long)
                       moe_model_kv_bytes_per_page(r->model));
    }

    if (moe_model_kv_resize(r->model, (uint32_t) pages, err) != 0) {
        return -1;
    }

    memset(&go, 0, sizeof(go));
    go.max_context = r->o->max_context;
    go.max_running = r->o->max_running;
    go.step_tokens = r->o->step_tokens;
    go.prefill_chunk = r->o->prefill_chunk;
    go.step_ms = r->o->step_ms;
    go.draft = r->o->draft;

    r->gen = moe_gen_create(r->model, &go, &moe_rank_sink, r, err);

    return r->gen != NULL ? 0 : -1;
}


static void
moe_rank_model_options(moe_rank_t *r, moe_model_options_t *mo)
{
    memset(mo, 0, sizeof(moe_model_options_t));
    mo->threads = r->o->threads;
    mo->device = r->o->device;
    mo->max_rows = r->o->step_tokens;
    mo->kv_format = r->o->kv_format;
    mo->kernels = r->o->kernels;
    mo->row_format = r->o->row_format;
    mo->mtp = r->o->draft != MOE_DRAFT_OFF;

    if (r->o->shm || r->o->mpi) {
        mo->exchange = moe_rank_exchange;
        mo->exchange_ctx = r;
        mo->exchange_ms = r->o->exchange_ms ? r->o->exchange_ms
                                            : MOE_RANK_EXCHANGE;
    }
}


static moe_exchange_t *
moe_rank_exchange(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    moe_rank_t         *r;
    moe_mpi_options_t   mo;
    moe_shm_options_t   so;

    r = ctx;
    memset(&mo, 0, sizeof(mo));
    memset(&so, 0, sizeof(so));
    so.rank = r->o->rank;
    so.memory = memory;
    mo.balance = r->o->balance;
    mo.overlap = r->o->overlap;
    mo.memory = memory;
    mo.fixed_rows = r->o->mpi && r->o->mpi->nccl
                    ? moe_nccl_fixed_rows(shape, r->o->mpi->nranks) : 0;

    r->exchange = r->o->mpi
                  ? moe_exchange_mpi(r->o->mpi, shape, &mo, err)
                  : moe_exchange_shm(r->o->shm, shape, &so, err);

    return r->exchange;
}


static uint64_t
moe_rank_kv_bytes(const moe_rank_t *r)
{
    long      pages, size;
    uint64_t  most, share, tokens, page;

    page = moe_model_kv_bytes_per_page(r->model);
    tokens = moe_model_max_position(r->model);

    if (tokens > MOE_RANK_KV_TOKENS) {
        tokens = MOE_RANK_KV_TOKENS;
    }

    most = (tokens / MOE_PAGE_SIZE + 1) * page
           * (r->o->max_running ? r->o->max_running : MOE_RANK_RUNNING);

    pages = sysconf(_SC_PHYS_PAGES);
    size = sysconf(_SC_PAGESIZE);

    if (pages <= 0 || size <= 0) {
        return most;
    }

    share = (uint64_t) pages * (uint64_t) size / MOE_RANK_KV_SHARE
            / (r->o->nranks ? r->o->nranks : 1);

    return most < share ? most : share;
}


static int
moe_rank_progress(void *ctx, const char *what, uint32_t percent)
{
    moe_rank_t     *r;
    struct pollfd   pfd;

    r = ctx;
    moe_log(MOE_LOG_INFO, "loading model=%s percent=%u: %s",
            r->o->model_dir, percent, what);

    if (r->o->progress) {
        atomic_store_explicit(r->o->progress, percent * 10,
                              memory_order_relaxed);
    }

    pfd.fd = r->fd;
    pfd.events = 0;
    pfd.revents = 0;

    /* nobody is left to load it for */
    return poll(&pfd, 1, 0) > 0;
}


/* a socket closed with something unread would lose what was sent on it */
static void
moe_rank_decline(moe_rank_t *r, const char *why)
{
    char     buf[1];
    ssize_t  n;

    if (moe_rank_wait(r, MOE_RANK_PATIENCE) == 0) {
        n = recv(r->fd, buf, sizeof(buf), MSG_DONTWAIT);
        (void) n;
    }

    moe_hello_refuse(r->fd, 500, why);
}


static int
moe_rank_join(moe_rank_t *r, moe_err_t *err)
{
    int           rc;
    char         *end;
    size_t        n;
    const char   *name;
    moe_hello_t   hello;

    rc = moe_lane_create(&r->lane, r->fd, MOE_SIDE_ENGINE,
                         r->o->lane_size ? r->o->lane_size : MOE_RANK_LANE);

    if (rc != MOE_JOBQ_OK) {
        return moe_err(err, "%s: %s", r->lane.why, strerror(errno));
    }

    while ((rc = moe_lane_accept(&r->lane, &hello)) == MOE_JOBQ_AGAIN) {
        if (moe_rank_wait(r, MOE_RANK_PATIENCE) != 0) {
            return moe_err(err, "the front sends no hello");
        }
    }

    if (rc != MOE_JOBQ_OK) {
        return moe_err(err, "the front's hello: %s", r->lane.why);
    }

    if (r->o->mpi != NULL && moe_rank_same(r, err) != 0) {
        return -1;
    }

    memset(&hello, 0, sizeof(hello));
    hello.status = 200;
    hello.nmodels = 1;
    moe_model_fingerprint(r->model, hello.fingerprint);

    /* the last name of the directory's path */
    n = strlen(r->o->model_dir);
    while (n > 1 && r->o->model_dir[n - 1] == '/') {
        n--;
    }

    end = memrchr(r->o->model_dir, '/', n);
    name = end != NULL && n > 1 ? end + 1 : r->o->model_dir;
    n -= (size_t) (name - r->o->model_dir);

    if (n >= MOE_MODEL_NAME_MAX) {
        n = MOE_MODEL_NAME_MAX - 1;
    }

    memcpy(hello.models[0].name, name, n);
    hello.models[0].created = (uint64_t) time(NULL);
    hello.models[0].context = moe_gen_context(r->gen);

    r->stats.state = MOE_STATE_READY;
    r->stats.progress = 1000;
    r->stats.started = (uint64_t) time(NULL);
    r->stats.ranks = r->o->nranks;
    r->stats.ranks_up = 1;
    r->stats.lanes = 1;
    moe_rank_stats(r);

    if (moe_lane_hello(&r->lane, &hello) != MOE_JOBQ_OK) {
        return moe_err(err, "the hello to the front: %s", strerror(errno));
    }

    moe_log(MOE_LOG_NOTICE, "ready context=%u kv_pages=%u",
            moe_gen_context(r->gen), moe_model_kv_pages(r->model));

    return 0;
}


/* until the front hangs up: 0, or -1 and a line */
static int
moe_rank_loop(moe_rank_t *r, moe_err_t *err)
{
    int  rc;

    for ( ;; ) {

        if (moe_rank_receive(r) != MOE_JOBQ_OK) {
            break;
        }

        rc = moe_gen_step(r->gen, err);

        if (rc == 0) {
            rc = moe_rank_follow(r, err);
        }

        if (rc < 0) {
            if (r->o->mpi == NULL && moe_rank_alone(r)) {
                break;
            }

            if (moe_rank_regroup(r, err) != 0) {
                return -1;
            }

            continue;
        }

        moe_rank_probes(r);
        moe_rank_stats(r);

        if (r->failed || moe_lane_flush(&r->lane) != MOE_JOBQ_OK) {
            break;
        }

        if (rc == 0 && moe_lane_sleep(&r->lane) == 0
            && moe_rank_doze(r) != 0)
        {
            break;
        }

        if (moe_lane_drain(&r->lane) == MOE_JOBQ_ERROR) {
            break;
        }
    }

    if (r->failed) {
        return moe_err(err, "the front's lane: %s", r->lane.why);
    }

    moe_log(MOE_LOG_INFO, "the front has gone: %s",
            r->lane.why ? r->lane.why : "hang-up");

    return 0;
}


/* takes all frames that are there: OK, or ERROR where the lane is broken */
static int
moe_rank_receive(moe_rank_t *r)
{
    int             rc;
    void           *buf;
    size_t          len;
    uint32_t        bytes;
    const char     *why;
    moe_frame_t     f;
    moe_gen_job_t  *j;

    while ((rc = moe_lane_next(&r->lane, &f)) == MOE_JOBQ_OK) {

        len = f.size - sizeof(moe_frame_t);
        buf = len ? malloc(len) : NULL;

        if (len && buf == NULL) {
            moe_lane_take(&r->lane, NULL);
            moe_rank_refuse(r, &f, 503, "the engine has no memory for this");
            continue;
        }

        moe_lane_take(&r->lane, buf);

        if (f.slot >= MOE_SLOTS) {
            free(buf);
            r->lane.why = "a slot out of range";
            r->failed = 1;
            return MOE_JOBQ_ERROR;
        }

        j = r->gens[f.slot] == f.gen ? r->jobs[f.slot] : NULL;

        switch (f.type) {

        case MOE_FRAME_JOB:
            moe_rank_job(r, &f, buf, len);
            break;

        case MOE_FRAME_CANCEL:
            if (j != NULL) {
                moe_gen_cancel(r->gen, j);
            }

            break;

        case MOE_FRAME_CREDIT:
            if (j != NULL
                && moe_credit_read(&bytes, buf, len, &why) == MOE_JOBQ_OK)
            {
                moe_gen_credit(r->gen, j, bytes);
            }

            break;
        }

        free(buf);
    }

    return rc == MOE_JOBQ_AGAIN ? MOE_JOBQ_OK : MOE_JOBQ_ERROR;
}


static void
moe_rank_job(moe_rank_t *r, const moe_frame_t *f, const void *buf, size_t len)
{
    uint64_t        tag;
    moe_job_t       job;
    const char     *why;
    moe_gen_job_t  *j;

    if (r->jobs[f->slot] != NULL) {
        moe_rank_refuse(r, f, 500, "the slot has a job already");
        return;
    }

    if (moe_job_read(&job, buf, len, &why) != MOE_JOBQ_OK) {
        moe_rank_refuse(r, f, 400, why);
        return;
    }

    if (job.kind == MOE_JOB_PROBE) {

        if (r->nprobes == MOE_RANK_PROBES) {
            moe_rank_refuse(r, f, 503, "too many probes");
            return;
        }

        r->probes[r->nprobes].slot = f->slot;
        r->probes[r->nprobes].gen = f->gen;
        r->nprobes++;
        return;
    }

    tag = (uint64_t) f->slot << 32 | f->gen;
    j = moe_gen_submit(r->gen, &job, tag);

    r->jobs[f->slot] = j;
    r->gens[f->slot] = f->gen;
}


static void
moe_rank_refuse(moe_rank_t *r, const moe_frame_t *f, uint32_t status,
    const char *why)
{
    moe_end_t  e;

    if (f->type != MOE_FRAME_JOB) {
        return;
    }

    memset(&e, 0, sizeof(e));
    e.status = status;
    e.code.data = "";
    e.param.data = "";
    e.message.data = why;
    e.message.len = (uint32_t) strlen(why);

    moe_rank_put_end(r, f->slot, f->gen, &e);
}


static void
moe_rank_probes(moe_rank_t *r)
{
    uint32_t   i;
    moe_end_t  e;

    memset(&e, 0, sizeof(e));
    e.status = 200;
    e.code.data = "";
    e.param.data = "";
    e.message.data = "";

    for (i = 0; i < r->nprobes; i++) {
        moe_rank_put_end(r, r->probes[i].slot, r->probes[i].gen, &e);
    }

    r->nprobes = 0;
}


/* what the ranks' own balance has seen and done; a front has its own
 * otherwise */
static void
moe_rank_balance(moe_rank_t *r)
{
    const moe_balance_map_t      *map;
    const moe_balance_figures_t  *b;

    map = moe_exchange_mpi_map(r->exchange);

    if (map == NULL || map->figures.looks == r->looks) {
        return;
    }

    b = &map->figures;
    r->looks = b->looks;

    if (b->version != r->stats.placements && r->o->rank == 0) {
        moe_log(MOE_LOG_NOTICE, "experts placed version=%u nodes=%u "
                "rows=%llu skew_before=%.3f skew=%.3f", b->version, b->nodes,
                (unsigned long long) b->rows, b->before, b->after);
    }

    r->stats.placements = b->version;
    r->stats.skew_before = (uint64_t) (b->before * 1000 + 0.5);
    r->stats.skew = (uint64_t) (b->after * 1000 + 0.5);

    moe_heat_page(&r->page, map);
    moe_lane_experts_write(&r->lane, &r->page);
}


/* what steps in halves have brought */
static void
moe_rank_overlap(moe_rank_t *r)
{
    moe_overlap_figures_t  o;

    moe_exchange_mpi_overlap(r->exchange, &o);

    if (o.looks != r->tried) {
        moe_log(MOE_LOG_INFO, "steps in halves rows=%u-%u gain=%.3f", o.rows,
                2 * o.rows - 1, o.gain);
        r->tried = o.looks;
    }

    r->stats.halved = o.halved;
    r->stats.halves_sizes = o.sizes;
    r->stats.halves_rows = o.rows;
    r->stats.halves_gain = (uint64_t) (o.gain * 1000 + 0.5);
}


static void
moe_rank_stats(moe_rank_t *r)
{
    moe_gen_stats(r->gen, &r->stats);

    if (r->o->mpi != NULL) {
        moe_rank_balance(r);
        moe_rank_overlap(r);
    }

    r->stats.updated_us = moe_rank_now();
    moe_lane_stats_write(&r->lane, &r->stats);
}


/* 0 when the socket has something, -1 after timeout ms (-1: none) */
static int
moe_rank_wait(moe_rank_t *r, int timeout)
{
    int             n;
    struct pollfd   pfd;

    pfd.fd = r->fd;
    pfd.events = POLLIN;
    pfd.revents = 0;

    do {
        n = poll(&pfd, 1, timeout);
    } while (n == -1 && errno == EINTR);

    return n > 0 ? 0 : -1;
}


/* its part in the others' step: 1, 0 when there is none, or -1 */
static int
moe_rank_follow(moe_rank_t *r, moe_err_t *err)
{
    moe_batch_t  none;

    if (r->exchange == NULL || !r->exchange->ops->asked(r->exchange)) {
        return 0;
    }

    memset(&none, 0, sizeof(none));

    return moe_model_step(r->model, &none, NULL, err) == 0 ? 1 : -1;
}


/*
 * After a step that failed: where that was for another rank, until the front
 * has said who goes on.  The scheduler forms the step again, and it writes
 * what it wrote before.
 */
static int
moe_rank_regroup(moe_rank_t *r, moe_err_t *err)
{
    if (r->exchange == NULL || r->o->mpi != NULL
        || moe_model_late(r->model) == 0)
    {
        return -1;
    }

    moe_log(MOE_LOG_WARN, "%s", err->text);

    if (moe_exchange_shm_moved(r->exchange, r->fd, MOE_RANK_REGROUP) < 0) {
        return moe_err_prefix(err, "nobody says who goes on: ");
    }

    return 0;
}


/* ranks on several hosts: the same files, or none of them joins */
static int
moe_rank_same(moe_rank_t *r, moe_err_t *err)
{
    int        rc;
    uint8_t    mine[32], *all;
    uint32_t   i, n;

    n = r->o->mpi->nranks;
    all = malloc((size_t) n * sizeof(mine));

    if (all == NULL) {
        return moe_err(err, "no memory for %u ranks", n);
    }

    moe_model_fingerprint(r->model, mine);
    rc = moe_mpi_gather(r->o->mpi, mine, all, sizeof(mine), err);

    for (i = 0; rc == 0 && i < n; i++) {
        if (memcmp(all + i * sizeof(mine), mine, sizeof(mine)) != 0) {
            rc = moe_err(err, "rank %u has another fingerprint than rank %u: "
                         "other model files, or another moe-engine", i,
                         r->o->rank);
        }
    }

    free(all);

    return rc;
}


/* the front has gone, others may not have: their steps need this rank's
 * experts until all have left */
static int
moe_rank_leave(moe_rank_t *r, moe_err_t *err)
{
    moe_batch_t  none;

    if (!r->o->ended(r->o->ended_ctx)) {
        return moe_err(err, "the front has failed");
    }

    moe_log(MOE_LOG_INFO, "the front has left, steps go on for others");

    memset(&none, 0, sizeof(none));
    moe_exchange_mpi_leave(r->exchange);

    for ( ;; ) {
        if (moe_model_step(r->model, &none, NULL, err) != 0) {
            return -1;
        }

        if (moe_exchange_mpi_over(r->exchange)) {
            return 0;
        }

        (void) r->exchange->ops->doze(r->exchange, -1, -1);
    }
}


/* whether the front has hung up, which ends the others too */
static int
moe_rank_alone(const moe_rank_t *r)
{
    struct pollfd  pfd;

    pfd.fd = r->fd;
    pfd.events = 0;
    pfd.revents = 0;

    return poll(&pfd, 1, 0) > 0;
}


/* until the front or another rank has something */
static int
moe_rank_doze(moe_rank_t *r)
{
    if (r->exchange == NULL) {
        return moe_rank_wait(r, -1);
    }

    return r->exchange->ops->doze(r->exchange, r->fd, -1);
}


/*
 * After a put: whether to try it once more.  Where the ring is full the front
 * is waited for; it empties its rings always, unless something is wrong.
 */
static int
moe_rank_again(moe_rank_t *r, int rc, uint64_t *deadline)
{
    uint64_t  now;

    if (rc == MOE_JOBQ_OK || r->failed) {
        return 0;
    }

    if (rc == MOE_JOBQ_AGAIN) {
        now = moe_rank_now() / 1000;

        if (*deadline == 0) {
            *deadline = now + MOE_RANK_PATIENCE;
        }

        if (now >= *deadline) {
            r->lane.why = "the front does not take its events";

        } else if (moe_lane_flush(&r->lane) == MOE_JOBQ_OK
                   && moe_rank_wait(r, (int) (*deadline - now)) == 0
                   && moe_lane_drain(&r->lane) != MOE_JOBQ_ERROR)
        {
            return 1;
        }
    }

    r->failed = 1;

    return 0;
}


static uint64_t
moe_rank_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


static void
moe_rank_put_end(moe_rank_t *r, uint32_t slot, uint32_t gen,
    const moe_end_t *e)
{
    int       rc;
    uint64_t  deadline;

    deadline = 0;

    do {
        rc = moe_put_end(&r->lane, slot, gen, e);
    } while (moe_rank_again(r, rc, &deadline));
}


static void
moe_rank_started(void *ctx, uint64_t tag, const moe_started_t *s)
{
    int          rc;
    uint64_t     deadline;
    moe_rank_t  *r;

    r = ctx;
    deadline = 0;

    do {
        rc = moe_put_started(&r->lane, (uint32_t) (tag >> 32),
                             (uint32_t) tag, s);
    } while (moe_rank_again(r, rc, &deadline));
}


static void
moe_rank_delta(void *ctx, uint64_t tag, const moe_delta_t *d)
{
    int          rc;
    uint64_t     deadline;
    moe_rank_t  *r;

    r = ctx;
    deadline = 0;

    do {
        rc = moe_put_delta(&r->lane, (uint32_t) (tag >> 32), (uint32_t) tag,
                           d);
    } while (moe_rank_again(r, rc, &deadline));
}


static void
moe_rank_end(void *ctx, uint64_t tag, const moe_end_t *e)
{
    moe_rank_t  *r;

    r = ctx;
    r->jobs[tag >> 32] = NULL;

    moe_rank_put_end(r, (uint32_t) (tag >> 32), (uint32_t) tag, e);
}
