/*
 * Experts spread over GPUs, with NCCL between them: every bit as on one rank,
 * in whole steps and in halves, while experts move too; ranks that die or fall
 * silent, a library that is not there or not the right one.  The device is the
 * emulated one (t/cuda/simt.h) and the library a stub (t/nccl/stub.c), which
 * each rank, a process of its own, loads as it would load the real one.
 *
 * The test starts itself once for every rank.  Run from the root of the
 * repository.  With MOE_NCCL_REAL=N the library and the device are the real
 * ones, bits are compared with N ranks and that is all.  "test_ep_nccl
 * version" says which library there is.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "ep/mpi.h"
#include "ep/tcp.h"
#include "kernels/kernels.h"
#include "model/model.h"
#include "families.h"
#include "nccl_test.h"


enum {
    RANKS = 4,
    STEPS = 8,
    MOVES = 2,              /* placements after the first */
    CHUNK = 5,
    PAGES = 4,
    VOCAB = 4096,
    WAIT_MS = 4000,         /* enough on a busy machine */
    PATIENCE_MS = 8000,
    LONG_MS = 60000
};

typedef enum {
    NOTHING,
    DIES,                   /* at a step */
    SILENT_DISPATCH,        /* with its rows not said */
    SILENT_COMBINE,         /* with results not sent */
    BUSY                    /* its device does not finish */
} fault_e;

/* of all ranks */
typedef struct {
    char              dir[200];
    char              kernels[16];  /* "": the device's */
    uint32_t          nranks;
    moe_row_format_e  format;
    uint32_t          fixed_rows;
    uint32_t          replicas;     /* slots a rank more than needed */
    int               moves;        /* experts do, in the midst */
    moe_overlap_e     overlap;
    fault_e           fault;
    uint32_t          at;           /* step of rank 1's fault */
    uint32_t          half;         /* of it, where it is in halves */
    int               no_nccl;
} setup_t;

typedef struct {
    int       done;
    uint64_t  late;
    uint64_t  ms;                   /* that the step took which failed */
    char      error[512];
    float     logits[STEPS][VOCAB];
} report_t;

typedef struct {
    setup_t   s;
    report_t  reports[RANKS];
} file_t;


/* the emulated runtime's, where it is that */
extern unsigned  simt_busy __attribute__((weak));

static file_t     *file;
static moe_mpi_t   mpi;


static uint64_t
now_ms(void)
{
    return moe_exchange_now();
}


/* a rank */


static moe_exchange_shape_t  shape;     /* of the model */


static uint32_t
places(void)
{
    uint32_t  n;

    n = (shape.n_experts + mpi.nranks - 1) / mpi.nranks + file->s.replicas;

    return n < shape.n_experts ? n : shape.n_experts;
}


/* slots in an order that has nothing to do with the experts' */
static moe_ep_placement_t *
scattered(uint32_t version, uint32_t n_local, moe_err_t *err)
{
    uint32_t             i, l, n, *expert;
    moe_ep_placement_t  *p;

    n = mpi.nranks * n_local;
    expert = malloc((size_t) shape.n_layers * n * sizeof(uint32_t));

    for (l = 0; l < shape.n_layers; l++) {
        for (i = 0; i < n; i++) {
            expert[l * n + i] = (n - 1 - i + (l * 3 + version) * version)
                                % shape.n_experts;
        }
    }

    p = moe_ep_placement(version, shape.n_layers, shape.n_experts, mpi.nranks,
                         n_local, expert, err);
    free(expert);

    return p;
}


static moe_exchange_t *
make_exchange(void *ctx, const moe_exchange_shape_t *s,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    moe_mpi_options_t  o = {
        .fixed_rows = file->s.fixed_rows,
        .overlap = file->s.overlap,
        .memory = memory
    };

    shape = *s;
    o.places = file->s.moves ? places() : 0;

    return moe_exchange_mpi(&mpi, s, &o, err);
}


/* prompts come in chunks, then every id is known beforehand; rank r begins at
 * step r and has nothing to do before */
static uint32_t
rows_at(uint32_t rank, uint32_t step, uint32_t *first)
{
    uint32_t  k;

    if (step < rank) {
        return 0;
    }

    k = step - rank;
    *first = k < 2 ? k * (CHUNK + rank) : 2 * (CHUNK + rank) + k - 2;

    return k < 2 ? CHUNK + rank : 1;
}


static int
step(moe_model_t *m, uint32_t rank, uint32_t t, float *out, moe_err_t *err)
{
    uint8_t          role[32];
    uint32_t         i, n, first, ids[32], pos[32], seq[32], row, vocab;
    const uint32_t   table[] = { 2, 0, 3 };
    const uint32_t  *tables[] = { table };
    moe_batch_t      b = { .ids = ids, .pos = pos, .seq = seq, .role = role,
                           .nseqs = 1, .tables = tables, .nout = 1,
                           .out = &row };

    first = 0;
    n = rows_at(rank, t, &first);
    vocab = moe_model_vocab_size(m);

    for (i = 0; i < n; i++) {
        pos[i] = first + i;
        ids[i] = (rank * 7919 + pos[i] * 104729 + 17) % vocab;
        seq[i] = 0;
        role[i] = MOE_ROLE_PROMPT;
    }

    b.nrows = n;
    b.nout = n != 0;
    row = n - 1;

    return moe_model_step(m, &b, out, err);
}


static moe_model_t *
open_model(const char *kernels, int spread, moe_err_t *err)
{
    moe_model_options_t  o = {
        .threads = 1,
        .max_rows = 16,
        .kv_pages = PAGES,
        .kernels = kernels,
        .device = mpi.rank,
        .row_format = file->s.format,
        .exchange = spread ? make_exchange : NULL,

        /* whose device is busy is the first to give up */
        .exchange_ms = file->s.fault > DIES
                       && (file->s.fault != BUSY || mpi.rank == 1)
                       ? WAIT_MS : LONG_MS
    };

    return moe_model_open(file->s.dir, &o, NULL, NULL, err);
}


/* steps in which nobody has a row, until a placement is in use, which is after
 * as many for all ranks */
static int
settle(moe_model_t *m, uint32_t version, moe_err_t *err)
{
    uint64_t     until;
    moe_batch_t  none;

    memset(&none, 0, sizeof(none));
    until = now_ms() + LONG_MS;

    while (moe_exchange_mpi_placed(moe_model_exchange(m)) != version) {
        if (now_ms() > until) {
            return moe_err(err, "placement %u is not in use", version);
        }

        if (moe_model_step(m, &none, NULL, err) != 0) {
            return -1;
        }
    }

    return 0;
}


/* before step t: the next placement, which not all ranks have at once; steps
 * with rows go on meanwhile.  Then the one before the last has its end */
static int
move(moe_model_t *m, uint32_t t, moe_err_t *err)
{
    uint32_t             i;
    moe_exchange_t      *x;
    moe_ep_placement_t  *p;

    static const uint32_t  begins[] = { 1, 4 }, ends[] = { 4, 7 };

    x = moe_model_exchange(m);

    for (i = 0; i < MOVES; i++) {
        if (t == ends[i] && settle(m, i + 1, err) != 0) {
            return -1;
        }

        if (t != begins[i] + (mpi.rank + i) % 2) {
            continue;
        }

        /* more than there is memory for */
        p = scattered(9, places() + 1, err);

        if (p != NULL && moe_exchange_mpi_place(x, p, err) == 0) {
            return moe_err(err, "a placement that cannot be had is taken");
        }

        moe_ep_placement_free(p);
        p = scattered(i + 1, places(), err);

        if (p == NULL || moe_exchange_mpi_place(x, p, err) != 0) {
            return -1;
        }
    }

    return 0;
}


/* rank 1, in the midst of a step */

static const moe_exchange_ops_t  *real;
static moe_exchange_ops_t         silent;


static void __attribute__((noreturn))
fall_silent(void)
{
    if (file->s.fault == DIES) {
        kill(getpid(), SIGKILL);
    }

    for ( ;; ) {
        pause();
    }
}


static int
silent_dispatch(moe_exchange_t *x, uint32_t layer, uint32_t nrows,
    const float *rows, const uint32_t *experts, uint64_t deadline,
    moe_expert_work_t *work, uint64_t *late, moe_err_t *err)
{
    fall_silent();
}


static int
silent_combine(moe_exchange_t *x, uint32_t layer, uint64_t deadline,
    moe_expert_result_t *result, uint64_t *late, moe_err_t *err)
{
    fall_silent();
}


static int
silent_dispatch_send(moe_exchange_t *x, uint32_t half, uint32_t layer,
    uint32_t nrows, const float *rows, const uint32_t *experts,
    uint64_t deadline, uint64_t *late, moe_err_t *err)
{
    if (half == file->s.half) {
        fall_silent();
    }

    return real->dispatch_send(x, half, layer, nrows, rows, experts, deadline,
                               late, err);
}


static int
silent_combine_send(moe_exchange_t *x, uint32_t half, uint64_t deadline,
    uint64_t *late, moe_err_t *err)
{
    if (half == file->s.half) {
        fall_silent();
    }

    return real->combine_send(x, half, deadline, late, err);
}


static void
fault(moe_model_t *m)
{
    moe_exchange_t  *x;

    x = moe_model_exchange(m);
    real = x->ops;
    silent = *real;

    switch (file->s.fault) {

    case DIES:
    case SILENT_DISPATCH:
        silent.dispatch = silent_dispatch;
        silent.dispatch_send = silent_dispatch_send;
        x->ops = &silent;
        break;

    case SILENT_COMBINE:
        silent.combine = silent_combine;
        silent.combine_send = silent_combine_send;
        x->ops = &silent;
        break;

    case BUSY:
        simt_busy = UINT_MAX;
        break;

    case NOTHING:
        break;
    }
}


/* steps are in halves where they are to be: each rank has had some that can */
static int
check_halves(moe_model_t *m, moe_err_t *err)
{
    moe_overlap_figures_t  f;

    moe_exchange_mpi_overlap(moe_model_exchange(m), &f);

    return file->s.overlap != MOE_OVERLAP_AUTO
           && (f.halved != 0) != (file->s.overlap == MOE_OVERLAP_ON)
           ? moe_err(err, "%llu steps were in halves",
                     (unsigned long long) f.halved) : 0;
}


static int
run_rank(report_t *r, moe_err_t *err)
{
    uint32_t      t;
    uint64_t      begun;
    moe_model_t  *m;

    if (moe_mpi_open_link(&mpi, moe_link_tcp(), err) != 0) {
        return -1;
    }

    if (!file->s.no_nccl) {
        mpi.nccl = moe_nccl_load(err);

        if (mpi.nccl == NULL) {
            return -1;
        }
    }

    m = open_model(file->s.kernels[0] ? file->s.kernels : "cuda", 1, err);

    if (m == NULL) {
        return -1;
    }

    for (t = 0; t < STEPS; t++) {
        if (file->s.fault && mpi.rank == 1 && t == file->s.at) {
            fault(m);
        }

        if (file->s.moves && move(m, t, err) != 0) {
            moe_model_close(m);
            return -1;
        }

        begun = now_ms();

        if (step(m, mpi.rank, t, r->logits[t], err) != 0) {
            r->ms = now_ms() - begun;
            r->late = moe_model_late(m);
            moe_model_close(m);
            return -1;
        }
    }

    r->done = check_halves(m, err) == 0;
    moe_model_close(m);
    mpi.link->close();

    return r->done ? 0 : -1;
}


static file_t *
map_file(const char *path)
{
    int    fd;
    void  *p;

    fd = open(path, O_RDWR);
    p = fd == -1 ? MAP_FAILED : mmap(NULL, sizeof(file_t),
                                     PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    if (fd != -1) {
        close(fd);
    }

    return p == MAP_FAILED ? NULL : p;
}


static int
rank_main(const char *path, uint32_t rank)
{
    int        rc;
    moe_err_t  err = { "" };

    file = map_file(path);

    if (file == NULL) {
        return 2;
    }

    rc = run_rank(&file->reports[rank], &err);
    snprintf(file->reports[rank].error, sizeof(err.text), "%s", err.text);

    return rc != 0;
}


/* the test */


static char  self[PATH_MAX];
static char  path[64];


static int
is_real(void)
{
    return getenv("MOE_NCCL_REAL") != NULL;
}


static void
need_device(void)
{
    if (moe_kernels_get("cuda") == NULL) {
        skip();
    }
}


static void
begin(const setup_t *s)
{
    int  fd;

    snprintf(path, sizeof(path), "/tmp/moe-ep-nccl-%d", (int) getpid());
    fd = open(path, O_RDWR|O_CREAT|O_TRUNC, 0600);
    assert_int_not_equal(fd, -1);
    assert_int_equal(ftruncate(fd, sizeof(file_t)), 0);
    close(fd);

    file = map_file(path);
    assert_non_null(file);
    file->s = *s;
}


static void
end(void)
{
    munmap(file, sizeof(file_t));
    unlink(path);
}


/* somebody who has nothing to say to rank 0 comes before the others */
static void
disturb(uint32_t port)
{
    int                 fd, i, rc;
    char                noise[300];
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_port = htons((uint16_t) port);
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    memset(noise, 0x5a, sizeof(noise));
    rc = -1;

    for (i = 0; i < 3000 && rc != 0; i++) {
        fd = socket(AF_INET, SOCK_STREAM, 0);
        rc = connect(fd, (struct sockaddr *) &sin, sizeof(sin));

        if (rc == 0) {
            (void) send(fd, noise, sizeof(noise), MSG_NOSIGNAL);
        }

        close(fd);
        usleep(1000);
    }

    assert_int_equal(rc, 0);
}


/* all ranks; lib: the directory of the library beside this program, or NULL.
 * Ended are those that have to be */
static void
launch(const char *lib)
{
    char      rank[16];
    int       status;
    pid_t     pids[RANKS];
    uint32_t  r, port;

    port = free_port();

    for (r = 0; r < file->s.nranks; r++) {
        pids[r] = fork();
        assert_int_not_equal(pids[r], -1);

        if (pids[r] == 0) {
            rank_environment(r, file->s.nranks, port, self,
                             is_real() ? NULL : lib ? lib : "nothing");

            /* the noise is there first */
            if (r != 0) {
                usleep(200000);
            }

            snprintf(rank, sizeof(rank), "%u", r);
            alarm(120);
            execl(self, self, "rank", path, rank, (char *) NULL);
            _exit(127);
        }
    }

    if (file->s.nranks > 2) {
        disturb(port);
    }

    for (r = file->s.nranks; r > 0; r--) {

        /* one that is silent is silent until the others have ended */
        if (r - 1 == 1 && file->s.fault >= SILENT_DISPATCH
            && file->s.fault != BUSY)
        {
            continue;
        }

        assert_int_equal(waitpid(pids[r - 1], &status, 0), pids[r - 1]);
        pids[r - 1] = 0;

        if (WIFSIGNALED(status) && file->s.fault != DIES) {
            print_error("rank %u has ended by signal %d\n", r - 1,
                        WTERMSIG(status));
        }
    }

    for (r = 0; r < file->s.nranks; r++) {
        if (pids[r] != 0) {
            kill(pids[r], SIGKILL);
            assert_int_equal(waitpid(pids[r], &status, 0), pids[r]);
        }
    }
}


/* what every rank's sequence gives alone, by plain C */
static void
compare_all(void)
{
    float         *want;
    size_t         i, vocab;
    uint32_t       r, t, first;
    moe_err_t      err;
    moe_model_t   *m;
    const float   *is;

    for (r = 0; r < file->s.nranks; r++) {
        m = open_model(is_real() ? "cuda" : "plain", 0, &err);
        assert_non_null(m);
        vocab = moe_model_vocab_size(m);
        assert_true(vocab <= VOCAB);
        want = calloc(vocab, sizeof(float));

        for (t = 0; t < STEPS; t++) {
            assert_int_equal(step(m, r, t, want, &err), 0);
            is = file->reports[r].logits[t];

            for (i = 0; rows_at(r, t, &first) && i < vocab; i++) {
                if (memcmp(&is[i], &want[i], sizeof(float)) != 0) {
                    fail_msg("%s: rank %u of %u, step %u, logit %zu is %.9g, "
                             "on one rank %.9g", file->s.dir, r,
                             file->s.nranks, t, i, (double) is[i],
                             (double) want[i]);
                }
            }
        }

        free(want);
        moe_model_close(m);
    }
}


static void
check_equal(const setup_t *s)
{
    uint32_t  r;

    begin(s);
    launch("good");

    for (r = 0; r < s->nranks; r++) {
        if (!file->reports[r].done) {
            print_error("%s, capacity up to %u, overlap %u: rank %u of %u: "
                        "%s\n", s->dir, s->fixed_rows, s->overlap, r,
                        s->nranks, file->reports[r].error);
        }
    }

    for (r = 0; r < s->nranks; r++) {
        assert_int_equal(file->reports[r].done, 1);
    }

    compare_all();
    end();
}


static void
test_equal(void **state)
{
    size_t                i;
    setup_t               s;
    static const setup_t  setups[] = {
        { .dir = "t/golden/v3-odd", .nranks = 2, .format = MOE_ROWS_F32 },
        { .dir = "t/golden/v3-odd", .nranks = 3, .format = MOE_ROWS_BF16,
          .fixed_rows = 32 },
        { .dir = "t/golden/v3-odd", .nranks = 3, .format = MOE_ROWS_F32,
          .overlap = MOE_OVERLAP_ON, .replicas = 1, .moves = 1 },
        { .dir = "t/golden/v3-odd", .nranks = 2, .format = MOE_ROWS_BF16,
          .fixed_rows = 32, .replicas = 1, .moves = 1 },
        { .dir = "t/golden/gpt-oss", .nranks = 3, .format = MOE_ROWS_BF16,
          .replicas = 1, .moves = 1 },
        { .dir = "t/golden/qwen3-moe", .nranks = 4, .format = MOE_ROWS_F32,
          .fixed_rows = 32, .overlap = MOE_OVERLAP_ON, .replicas = 1,
          .moves = 1 },
        { .dir = "t/golden/qwen3-moe", .nranks = 4, .format = MOE_ROWS_BF16,
          .fixed_rows = 4, .replicas = 5, .moves = 1 },
        { .dir = "t/golden/v3-fp8", .nranks = 2, .format = MOE_ROWS_BF16,
          .fixed_rows = 4, .moves = 1 },
        { .dir = "t/golden/glm4-moe", .nranks = 1, .format = MOE_ROWS_F32 }
    };

    need_device();

    for (i = 0; i < sizeof(setups) / sizeof(setups[0]); i++) {
        s = setups[i];

        if (is_real()) {
            s.nranks = (uint32_t) atoi(getenv("MOE_NCCL_REAL"));
            assert_in_range(s.nranks, 1, RANKS);
        }

        check_equal(&s);
    }
}


/*
 * Whole steps and halves, both forms, 1 to 3 ranks, both row formats.  Without
 * MOE_MATRIX in the environment a family has one of the 24, each family
 * another.
 */
static void
check_family(const char *dir, uint32_t family)
{
    uint32_t  i;
    setup_t   s;

    for (i = 0; i < 24; i++) {
        if ((i + family * 5) % 24 != 0 && getenv("MOE_MATRIX") == NULL) {
            continue;
        }

        memset(&s, 0, sizeof(s));
        snprintf(s.dir, sizeof(s.dir), "%s", dir);
        s.nranks = 1 + i % 3;
        s.format = i / 3 % 2 ? MOE_ROWS_BF16 : MOE_ROWS_F32;
        s.fixed_rows = i / 6 % 2 ? 4 : 0;
        s.overlap = i / 12 ? MOE_OVERLAP_ON : MOE_OVERLAP_OFF;
        check_equal(&s);
    }
}


static void
test_families(void **state)
{
    need_device();
    (void) each_golden(check_family);
}


/* of a fault in rank 1 the others hear in time, and say so in one line */
static void
test_faults(void **state)
{
    int         heard;
    size_t      i;
    uint32_t    r;
    setup_t     s = { .dir = "t/golden/v3-odd", .nranks = 3,
                      .format = MOE_ROWS_BF16 };
    report_t   *p;

    static const struct {
        fault_e        fault;
        uint32_t       fixed_rows;
        moe_overlap_e  overlap;
        uint32_t       half;
        uint64_t       late;
        const char    *error;
        int            moves;
        int            matrix;      /* with MOE_MATRIX only */
    } faults[] = {
        { DIES, 0, MOE_OVERLAP_OFF, 0, 0, "rank 1 has hung up", 0, 0 },
        { DIES, 0, MOE_OVERLAP_ON, 1, 0, "rank 1 has hung up", 1, 0 },
        { SILENT_DISPATCH, 0, MOE_OVERLAP_OFF, 0, 1 << 1,
          "no rows from rank 1", 0, 0 },
        { SILENT_DISPATCH, 0, MOE_OVERLAP_ON, 0, 1 << 1,
          "no rows from rank 1", 0, 1 },
        { SILENT_DISPATCH, 32, MOE_OVERLAP_OFF, 0, 0,
          "NCCL: an exchange is not done by", 0, 1 },
        { SILENT_DISPATCH, 32, MOE_OVERLAP_ON, 1, 0,
          "NCCL: an exchange is not done by", 0, 0 },
        { SILENT_COMBINE, 0, MOE_OVERLAP_OFF, 0, 0,
          "NCCL: an exchange is not done by", 1, 0 },
        { SILENT_COMBINE, 0, MOE_OVERLAP_ON, 1, 0,
          "NCCL: an exchange is not done by", 0, 1 }
    };

    need_device();

    for (i = 0; i < sizeof(faults) / sizeof(faults[0]); i++) {

        if (faults[i].matrix && getenv("MOE_MATRIX") == NULL) {
            continue;
        }

        s.fault = faults[i].fault;
        s.fixed_rows = faults[i].fixed_rows;
        s.moves = faults[i].moves;
        s.replicas = 1;
        s.overlap = faults[i].overlap;
        s.half = faults[i].half;
        s.at = 3;
        begin(&s);
        launch("good");

        heard = 0;

        for (r = 0; r < s.nranks; r += 2) {
            p = &file->reports[r];
            assert_int_equal(p->done, 0);
            assert_in_range(p->ms, 0, s.fault == DIES
                                      ? LONG_MS / 2 : WAIT_MS + PATIENCE_MS);

            /* who waits for nothing of rank 1's half goes on to the next
             * layer, and whoever ends first hangs up on the other */
            if (strstr(p->error, faults[i].error) != NULL) {
                assert_int_equal(p->late, faults[i].late);
                heard = 1;

            } else if (s.fault == SILENT_COMBINE
                       && strstr(p->error, "no rows from rank 1") != NULL)
            {
                assert_true(p->late & 1 << 1);
                heard = 1;

            } else if (strstr(p->error, " has hung up") == NULL) {
                fail_msg("fault %zu, rank %u: %s", i, r, p->error);
            }
        }

        assert_true(heard);
        end();
    }
}


/* a device that never comes to what it was asked for */
static void
test_busy(void **state)
{
    setup_t  s = { .dir = "t/golden/v3-odd", .nranks = 2, .fault = BUSY,
                   .at = 3 };

    need_device();
    begin(&s);
    launch("good");
    assert_int_equal(file->reports[1].done, 0);
    assert_in_range(file->reports[1].ms, WAIT_MS - 1,
                    WAIT_MS + PATIENCE_MS);
    assert_non_null(strstr(file->reports[1].error,
                           "NCCL: rows have not come by their deadline"));
    end();
}


static void
test_refused(void **state)
{
    size_t  i;

    static const struct {
        const char  *lib;
        const char  *kernels;
        int          no_nccl;
        const char  *error;
    } wrongs[] = {
        { NULL, "", 0, "NCCL cannot be loaded: libnccl.so.2" },
        { "short", "", 0, "libnccl.so.2 has no ncclCommAbort" },
        { "old", "", 0,
          "libnccl.so.2 is version 21705, at least 21800 is needed" },
        { "good", "plain", 0, "NCCL carries rows between GPUs" },
        { "good", "", 1, "does not carry rows between GPUs" }
    };

    need_device();

    for (i = 0; i < sizeof(wrongs) / sizeof(wrongs[0]); i++) {
        setup_t  s = { .dir = "t/golden/v3-odd", .nranks = 1 };

        snprintf(s.kernels, sizeof(s.kernels), "%s", wrongs[i].kernels);
        s.no_nccl = wrongs[i].no_nccl;
        begin(&s);
        launch(wrongs[i].lib);
        assert_int_equal(file->reports[0].done, 0);

        if (strstr(file->reports[0].error, wrongs[i].error) == NULL) {
            fail_msg("%s, not \"%s\"", file->reports[0].error,
                     wrongs[i].error);
        }

        end();
    }
}


static int
say_version(void)
{
    moe_err_t              err;
    const moe_nccl_api_t  *api;

    api = moe_nccl_load(&err);
    printf("%d %s\n", api ? api->version : 0, api ? "" : err.text);

    return api == NULL;
}


int
main(int argc, char **argv)
{
    ssize_t                  n;
    const struct CMUnitTest  bits[] = {
        cmocka_unit_test(test_equal)
    };
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_families),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_busy)
    };

    if (argc == 4 && strcmp(argv[1], "rank") == 0) {
        return rank_main(argv[2], (uint32_t) atoi(argv[3]));
    }

    if (argc == 2 && strcmp(argv[1], "version") == 0) {
        return say_version();
    }

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';

    if (is_real()) {
        return cmocka_run_group_tests_name("experts over NCCL itself", bits,
                                           NULL, NULL);
    }

    return cmocka_run_group_tests_name("experts over NCCL", tests, NULL,
                                       NULL);
}
