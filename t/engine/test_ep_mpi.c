/*
 * Experts spread over ranks that mpirun has started: every bit as on one rank
 * with the same row format; ranks that do not answer; peers that send
 * nonsense.
 *
 * The test starts itself by mpirun, once for every number of ranks; setups,
 * logits and reports are in a file that all map.  Run from the root of the
 * repository.
 */

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "ep/mpi.h"
#include "ep_test.h"
#include "mpi_test.h"


enum { MAX_CASES = 600, PATIENCE_MS = 20000 };


/* of a rank */
typedef struct {
    int       done;
    uint64_t  late;
    uint64_t  late_ms;
    char      error[300];
} report_t;

typedef struct {
    setup_t   s;
    char      dir[200];
    uint32_t  vocab;
    size_t    logits;       /* offset in the file */
    size_t    want;         /* offset in what the parent knows */
    report_t  reports[MAX_RANKS];
} case_t;

typedef struct {
    uint32_t  ncases;
    case_t    cases[MAX_CASES];
} file_t;

/* one case in one rank */
typedef struct {
    const moe_mpi_t  *mpi;
    file_t           *file;
    case_t           *c;
    setup_t           s;            /* the case's, with our own pointer */
    report_t         *report;
} run_t;


/* a rank */


static moe_exchange_t *
make_exchange(void *ctx, const moe_exchange_shape_t *shape,
    const moe_rows_memory_t *memory, moe_err_t *err)
{
    run_t              *r = ctx;
    const setup_t      *s = &r->s;
    moe_mpi_options_t   o = {
        .replica = s->choice,
        .overlap = s->overlap,
        .fixed_rows = s->counted ? 0 : MOE_PARCEL_FIXED_ROWS
    };

    if (s->replicas) {
        o.placement = scattered(shape, s, 7, s->replicas, err);
        if (o.placement == NULL) {
            return NULL;
        }
    }

    return moe_exchange_mpi(r->mpi, shape, &o, err);
}


/* a rank's fate in the midst of a step */
static void
fall_silent(void)
{
    for ( ;; ) {
        pause();
    }
}


static int
run_steps(run_t *r, moe_model_t *m, seq_t *q, moe_err_t *err)
{
    int                  rc;
    float               *logits;
    uint64_t             begun;
    uint32_t             t, n, list[SEQS];
    const setup_t       *s = &r->s;
    moe_ep_placement_t  *p;

    moe_overlap_figures_t  f;

    logits = (float *) (void *) ((char *) r->file + r->c->logits);

    for (t = 0; t < nsteps(); t++) {

        if (s->kill_rank == r->mpi->rank + 1 && s->kill_step == t) {
            arm(moe_model_exchange(m), s->kill_stage, fall_silent);
        }

        rc = placement_at(s, r->mpi->rank, t, &p, err);

        if (rc < 0
            || (rc > 0
                && moe_exchange_mpi_place(moe_model_exchange(m), p, err) != 0))
        {
            return -1;
        }

        n = active(s, r->mpi->rank, t, q, list);
        begun = now_ms();

        if (step(m, q, list, n, logits, r->c->vocab, err) != 0) {
            r->report->late = moe_model_late(m);
            r->report->late_ms = now_ms() - begun;
            return -1;
        }
    }

    if (last_placement(s)
        && moe_exchange_mpi_placed(moe_model_exchange(m))
           != last_placement(s))
    {
        return moe_err(err, "the placement was not changed");
    }

    moe_exchange_mpi_overlap(moe_model_exchange(m), &f);

    /* others may have no rows at all */
    if (r->mpi->rank == 0 && s->nranks > 1
        && (f.halved != 0) != (s->overlap != MOE_OVERLAP_OFF))
    {
        return moe_err(err, "%llu steps were in halves",
                       (unsigned long long) f.halved);
    }

    return 0;
}


static void
run_case(run_t *r)
{
    seq_t                *q;
    uint32_t              i;
    moe_err_t             err = { "" };
    moe_model_t          *m;
    moe_model_options_t   o;

    r->s = r->c->s;
    r->s.dir = r->c->dir;
    o = options(&r->s);
    o.exchange = make_exchange;
    o.exchange_ctx = r;

    m = moe_model_open(r->c->dir, &o, NULL, NULL, &err);
    q = calloc(SEQS, sizeof(seq_t));

    for (i = 0; i < SEQS; i++) {
        seq_init(&q[i], i, r->c->vocab);
    }

    if (m != NULL && run_steps(r, m, q, &err) == 0) {
        r->report->done = 1;
    }

    snprintf(r->report->error, sizeof(r->report->error), "%s", err.text);
    free(q);
    moe_model_close(m);
}


/* the others are to see it too, before all end */
static void
leave_late(const run_t *r)
{
    uint32_t  i;
    uint64_t  until;

    until = now_ms() + PATIENCE_MS;

    for (i = 0; i < r->mpi->nranks && now_ms() < until; ) {
        if (i + 1 == r->c->s.kill_rank
            || *(volatile uint64_t *) &r->c->reports[i].late != 0)
        {
            i++;
        } else {
            usleep(1000);
        }
    }

    r->mpi->link->abort(7);
}


static void *
map_file(const char *path)
{
    int          fd;
    void        *p;
    struct stat  st;

    fd = open(path, O_RDWR);

    if (fd == -1 || fstat(fd, &st) != 0) {
        return NULL;
    }

    p = mmap(NULL, (size_t) st.st_size, PROT_READ|PROT_WRITE, MAP_SHARED, fd,
             0);
    close(fd);

    return p == MAP_FAILED ? NULL : p;
}


static int
rank_main(const char *path)
{
    char       plugin[PATH_MAX];
    run_t      r;
    uint32_t   i, all[MAX_RANKS];
    moe_err_t  err;
    moe_mpi_t  mpi;

    beside(plugin, sizeof(plugin), "moe_mpi.so");
    r.file = map_file(path);
    r.mpi = &mpi;

    if (r.file == NULL || moe_mpi_open(&mpi, plugin, &err) != 0) {
        fprintf(stderr, "%s\n", r.file ? err.text : path);
        return 1;
    }

    for (i = 0; i < r.file->ncases; i++) {
        r.c = &r.file->cases[i];
        r.report = &r.c->reports[mpi.rank];

        if (r.c->s.nranks != mpi.nranks) {
            continue;
        }

        run_case(&r);

        if (r.c->s.kill_rank) {
            leave_late(&r);
        }

        /* nobody waits for one that has failed */
        if (!r.report->done) {
            mpi.link->abort(1);
        }
    }

    i = 0;

    if (moe_mpi_gather(&mpi, &i, all, sizeof(i), &err) != 0) {
        return 1;
    }

    mpi.link->close();

    return 0;
}


/* the test */


static file_t  *file;
static size_t   file_bytes;
static char     file_path[64];
static float   *wants[MAX_CASES];
static char     self[PATH_MAX];


static void
make_file(void)
{
    int  fd;

    snprintf(file_path, sizeof(file_path), "/tmp/moe-ep-mpi-%d",
             (int) getpid());
    fd = open(file_path, O_RDWR|O_CREAT|O_EXCL, 0600);
    assert_int_not_equal(fd, -1);
    file_bytes = sizeof(file_t);
    assert_int_equal(ftruncate(fd, 1 << 30), 0);
    close(fd);

    file = map_file(file_path);
    assert_non_null(file);
}


static void
add_case(const setup_t *s, const char *dir, float *want, uint32_t vocab)
{
    case_t  *c;

    assert_in_range(file->ncases, 0, MAX_CASES - 1);
    wants[file->ncases] = want;
    c = &file->cases[file->ncases++];
    c->s = *s;
    snprintf(c->dir, sizeof(c->dir), "%s", dir);
    c->vocab = vocab;
    c->logits = file_bytes;
    file_bytes += (size_t) SEQS * GREEDY * vocab * sizeof(float);
    assert_in_range(file_bytes, 0, 1 << 30);
}


/* args: more of mpirun's.  Its exit code */
static int
launch(uint32_t nranks, const char *const *args)
{
    int          n, status;
    char         np[16];
    pid_t        pid;
    const char  *argv[20];

    snprintf(np, sizeof(np), "%u", nranks);
    n = 0;
    argv[n++] = "timeout";
    argv[n++] = "1200";
    argv[n++] = "mpirun";
    argv[n++] = "-np";
    argv[n++] = np;

    while (args && *args) {
        argv[n++] = *args++;
    }

    argv[n++] = self;
    argv[n++] = "rank";
    argv[n++] = file_path;
    argv[n] = NULL;

    pid = fork();
    assert_int_not_equal(pid, -1);

    if (pid == 0) {
        if (getenv("TEST_VERBOSE") == NULL) {
            dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        }
        execvp(argv[0], (char *const *) (uintptr_t) argv);
        _exit(127);
    }

    assert_int_equal(waitpid(pid, &status, 0), pid);

    return WIFEXITED(status) ? WEXITSTATUS(status) : 128;
}


static void
compare_cases(void)
{
    case_t    *c;
    uint32_t   i, r;

    for (i = 0; i < file->ncases; i++) {
        c = &file->cases[i];
        c->s.dir = c->dir;

        for (r = 0; r < c->s.nranks; r++) {
            if (!c->reports[r].done) {
                fail_msg("%s, case %u: rank %u of %u: %s", c->dir, i, r,
                         c->s.nranks, c->reports[r].error);
            }
        }

        compare_logits(&c->s, c->vocab,
                       (float *) (void *) ((char *) file + c->logits),
                       wants[i]);
    }
}


static void
forget_file(void)
{
    uint32_t  i;

    for (i = 0; i < file->ncases; i++) {
        if (i == 0 || wants[i] != wants[i - 1]) {
            free(wants[i]);
        }
    }

    munmap(file, 1 << 30);
    unlink(file_path);
}


/* what the families' setups do not have; AUTO, as theirs, is whole steps and
 * halves in turns */
static const setup_t  more[] = {
    { .nranks = 2, .counted = 1, .replicas = 1, .replace = 30 },
    { .nranks = 3, .replicas = 2, .choice = MOE_REPLICA_NEAREST },
    { .nranks = 4, .counted = 1, .overlap = MOE_OVERLAP_OFF },
    { .nranks = 3, .threads = 2, .replicas = 1, .overlap = MOE_OVERLAP_ON },
    { .nranks = 8, .format = MOE_ROWS_BF16, .replicas = 1, .replace = 20 }
};


static void
add_dir(const char *dir, const setup_t *list, size_t n)
{
    float     *want;
    size_t     i;
    setup_t    s;
    uint32_t   vocab;

    want = NULL;

    for (i = 0; i < n; i++) {
        s = list[i];
        s.dir = dir;

        if (i == 0 || s.format != list[i - 1].format) {
            want = reference(&s, &vocab);
        }

        add_case(&s, dir, want, vocab);
    }
}


/* steps in halves alone, in both forms with MOE_MATRIX; then those that are
 * in halves now and then */
static void
add_family(const char *dir, uint32_t family)
{
    size_t    n;
    setup_t   setups[CELLS + 2];
    uint32_t  i;

    for (i = 0, n = 0; i < 2; i++) {
        setups[n] = (setup_t) {
            .nranks = 2,
            .counted = i,
            .turns = 1,
            .overlap = MOE_OVERLAP_ON
        };
        n += i == family % 2 || getenv("MOE_MATRIX") != NULL;
    }

    for (i = 0; i < CELLS; i++) {
        n += cell(i, family, &setups[n]) != 0;
    }

    add_dir(dir, setups, n);
}


static void
test_equal(void **state)
{
    size_t             i;
    const char *const  tcp[] = { "--mca", "btl", "tcp,self", NULL };
    static const uint32_t  counts[] = { 1, 2, 3, 4, 8 };

    if (!mpi_is_here()) {
        skip();
    }

    make_file();
    each_family(add_family);
    add_dir("t/golden/v3", more, sizeof(more) / sizeof(more[0]));

    /* over memory that a host's ranks share, and over its network */
    for (i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        (void) launch(counts[i], counts[i] == 3 ? tcp : NULL);
    }

    compare_cases();
    forget_file();
}


static void
test_silent(void **state)
{
    float     *want;
    case_t    *c;
    uint32_t   i, r, vocab;
    setup_t    s = { .dir = "t/golden/v3", .nranks = 3, .wait_ms = 1500 };

    if (!mpi_is_here()) {
        skip();
    }

    /* in whole steps, then in halves, in which begin is the same */
    for (i = 0; i < 5; i++) {
        make_file();
        s.kill_rank = i % 3 + 1;
        s.kill_step = 5 + i * 5;
        s.kill_stage = i % 3;
        s.overlap = i < 3 ? MOE_OVERLAP_OFF : MOE_OVERLAP_ON;
        want = reference(&s, &vocab);
        add_case(&s, s.dir, want, vocab);

        assert_int_equal(launch(s.nranks, NULL), 7);
        c = &file->cases[0];

        for (r = 0; r < s.nranks; r++) {
            assert_int_equal(c->reports[r].done, 0);

            if (r + 1 != s.kill_rank) {
                assert_int_equal(c->reports[r].late, 1u << i % 3);
                assert_in_range(c->reports[r].late_ms, s.wait_ms - 1,
                                s.wait_ms + 3000);
                assert_non_null(strstr(c->reports[r].error, "from rank "));
            }
        }

        forget_file();
    }
}


/* a peer that sends anything: a link that is at hand at once, in which rank 1
 * says what was drawn */


static uint32_t  seed;
static void     *asked_for[MOE_LINK_KINDS];
static size_t    room[MOE_LINK_KINDS];
static size_t    came[MOE_LINK_KINDS];
static int       wild;
static int       in_halves;
static uint32_t  slots;         /* of a rank; the fourth has no expert */


static uint32_t
draw(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;

    return (seed >> 8) % n;
}


static int
wild_recv(moe_link_kind_e kind, uint32_t from, void *buf, size_t bytes)
{
    asked_for[kind] = buf;
    room[kind] = bytes;

    return 0;
}


static int
wild_send(moe_link_kind_e kind, uint32_t to, const void *buf, size_t bytes)
{
    return 0;
}


/* number, rows, fixed_rows, placed, next, moved, leaves, halves */
static size_t
wild_step(uint32_t *word)
{
    word[0] = wild && draw(9) == 0 ? draw(5) : 1;
    word[1] = draw(wild ? 12 : 9);
    word[2] = draw(2) ? 0 : draw(40);
    word[3] = wild && draw(9) == 0 ? draw(3) : 0x80000001;
    word[4] = draw(2);
    word[5] = wild && draw(9) == 0 ? draw(3) : 0;
    word[6] = draw(2);

    word[7] = draw(2) ? UINT32_MAX : 0;

    return wild && draw(9) == 0 ? draw(32) : 32;
}


/* head: number, layer, capacity, nrows, n; rows of 64 bytes; the list */
static size_t
wild_rows(uint32_t *word, uint32_t half)
{
    size_t    at;
    uint32_t  i, n;

    word[0] = wild && draw(9) == 0 ? draw(5) : 1 + half;
    word[1] = wild && draw(9) == 0 ? draw(5) : 0;
    word[2] = draw(2) ? in_halves ? 4 : 8 : draw(9);
    word[3] = word[2] && draw(4) ? word[2] * slots : draw(9);
    word[4] = draw(wild ? 20 : 17);

    if (wild && draw(9) == 0) {
        word[3 + draw(2)] = draw(1u << 24);
        word[3] <<= draw(9);
    }

    n = word[2] ? slots : word[4] * 2;
    at = 64 + (size_t) word[3] * 64;

    for (i = 0; i < n && at + (i + 1) * 4 <= room[MOE_LINK_ROWS + half]; i++) {
        word[at / 4 + i] = wild && draw(9) == 0 ? draw(1u << 24) : draw(4);
    }

    at += (size_t) n * 4;

    return at <= room[MOE_LINK_ROWS + half] && (!wild || draw(9))
           ? at : draw((uint32_t) room[MOE_LINK_ROWS + half]);
}


static int
wild_pending(moe_link_way_e way, moe_link_kind_e kind, uint64_t *ranks)
{
    *ranks = 0;

    if (way == MOE_LINK_OUT || asked_for[kind] == NULL) {
        return 0;
    }

    came[kind] = kind == MOE_LINK_STEP ? wild_step(asked_for[kind])
                 : kind == MOE_LINK_ROWS ? wild_rows(asked_for[kind], 0)
                 : kind == MOE_LINK_ROWS_2 ? wild_rows(asked_for[kind], 1)
                 : wild && draw(9) == 0 ? draw((uint32_t) room[kind])
                 : room[kind];
    asked_for[kind] = NULL;

    return 0;
}


static size_t
wild_got(moe_link_kind_e kind, uint32_t from)
{
    return came[kind];
}


static int
wild_gather(const void *mine, void *all, size_t bytes)
{
    memcpy(all, mine, bytes);
    memcpy((char *) all + bytes, mine, bytes);

    return 0;
}


static int
wild_gathered(void)
{
    return 1;
}


static const char *
wild_why(void)
{
    return "";
}


static void
wild_cancel(void)
{
    memset(asked_for, 0, sizeof(asked_for));
}


static const moe_link_t  wild_link = {
    .version = MOE_LINK_VERSION,
    .recv = wild_recv,
    .send = wild_send,
    .pending = wild_pending,
    .got = wild_got,
    .gather = wild_gather,
    .gathered = wild_gathered,
    .why = wild_why,
    .cancel = wild_cancel
};


static void
check_work(const moe_expert_work_t *work)
{
    uint32_t  k;

    assert_true(work->nrows <= 2 * 8 * 2);

    for (k = 0; k < work->nexperts; k++) {
        assert_true(work->experts[k].expert < 6);
        assert_true(work->experts[k].first + work->experts[k].nrows
                    <= work->nrows);
    }

    memset(work->out, 0, work->nrows * 5 * sizeof(float));
}


/* one layer of a step in halves */
static int
hostile_halves(moe_exchange_t *x, const float *rows, const uint32_t *experts,
    moe_err_t *err)
{
    int                         rc;
    uint32_t                    h;
    uint64_t                    late, until;
    moe_expert_work_t           work;
    moe_expert_result_t         result;
    const moe_exchange_ops_t   *ops = x->ops;

    rc = MOE_EXCHANGE_OK;
    until = now_ms() + 1000;

    for (h = 0; h < 2 && rc == MOE_EXCHANGE_OK; h++) {
        rc = ops->dispatch_send(x, h, 0, 4, rows + h * 4 * 5,
                                experts + h * 4 * 2, until, &late, err);
        ops->move(x);
    }

    for (h = 0; h < 2 && rc == MOE_EXCHANGE_OK; h++) {
        rc = ops->dispatch_wait(x, h, until, &work, &late, err);

        if (rc == MOE_EXCHANGE_OK) {
            check_work(&work);
            rc = ops->combine_send(x, h, until, &late, err);
        }
    }

    for (h = 0; h < 2 && rc == MOE_EXCHANGE_OK; h++) {
        rc = ops->combine_wait(x, h, until, &result, &late, err);
    }

    return rc;
}


/* one step, one layer, with rank 1 as it comes */
static int
hostile_step(moe_exchange_t *x, uint32_t i, moe_err_t *err)
{
    int                   rc;
    float                 rows[8 * 5];
    uint64_t              late;
    uint32_t              k, experts[8 * 2];
    moe_expert_work_t     work;
    moe_expert_result_t   result;

    memset(rows, 0, sizeof(rows));

    for (k = 0; k < 16; k++) {
        experts[k] = (k / 2 + k % 2 * 3 + i) % 6;
    }

    rc = x->ops->begin(x, 8, now_ms() + 1000, &late, err);

    if (rc == MOE_EXCHANGE_OK && in_halves) {
        assert_true(x->halves);
        return hostile_halves(x, rows, experts, err);
    }

    if (rc == MOE_EXCHANGE_OK) {
        rc = x->ops->dispatch(x, 0, 8, rows, experts, now_ms() + 1000, &work,
                              &late, err);
    }

    if (rc == MOE_EXCHANGE_OK) {
        check_work(&work);
        rc = x->ops->combine(x, 0, now_ms() + 1000, &result, &late, err);
    }

    return rc;
}


/* as the plain one, with a slot a rank that nothing is in */
static moe_ep_placement_t *
with_gaps(const moe_exchange_shape_t *shape)
{
    moe_err_t              err;
    static const uint32_t  expert[] = { 0, 1, 2, MOE_SPREAD_NONE,
                                        3, 4, 5, MOE_SPREAD_NONE };

    return moe_ep_placement(0x80000001, 1, shape->n_experts, 2, 4, expert,
                            &err);
}


static void
test_hostile(void **state)
{
    int                   rc, ok[2], bad[2];
    uint32_t              i;
    moe_err_t             err;
    moe_mpi_t             mpi = { .link = &wild_link, .nranks = 2 };
    moe_exchange_t       *x;
    moe_mpi_options_t     o = { .fixed_rows = 32 };
    moe_exchange_shape_t  shape = {
        .max_rows = 8,
        .hidden = 5,
        .n_layers = 1,
        .n_experts = 6,
        .top_k = 2
    };

    seed = 1;
    memset(ok, 0, sizeof(ok));
    memset(bad, 0, sizeof(bad));

    for (i = 0; i < 20000; i++) {
        wild = i % 3 != 0;
        in_halves = i % 2;
        slots = i % 5 ? 3 : 4;
        o.placement = i % 5 ? NULL : with_gaps(&shape);
        o.overlap = in_halves ? MOE_OVERLAP_ON : MOE_OVERLAP_OFF;
        x = moe_exchange_mpi(&mpi, &shape, &o, &err);
        assert_non_null(x);

        rc = hostile_step(x, i, &err);
        assert_int_not_equal(rc, MOE_EXCHANGE_LATE);
        ok[in_halves] += rc == MOE_EXCHANGE_OK;
        bad[in_halves] += rc == MOE_EXCHANGE_ERROR;

        /* nothing is begun after what was wrong */
        if (rc == MOE_EXCHANGE_ERROR) {
            assert_int_equal(hostile_step(x, i, &err), MOE_EXCHANGE_ERROR);
        }

        x->ops->close(x);
    }

    assert_true(ok[0] > 100 && ok[1] > 20);
    assert_true(bad[0] > 1000 && bad[1] > 1000);
}


int
main(int argc, char **argv)
{
    ssize_t                  n;
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_equal),
        cmocka_unit_test(test_silent)
    };

    if (argc == 3 && strcmp(argv[1], "rank") == 0) {
        return rank_main(argv[2]);
    }

    n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    self[n > 0 ? n : 0] = '\0';
    mpi_environment();

    return cmocka_run_group_tests(tests, NULL, NULL);
}
