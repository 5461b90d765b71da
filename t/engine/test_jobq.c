/*
 * jobq: two sides of a lane in one process, as two processes would use it.
 * The hostile tests write random bytes into everything that a peer may write
 * and into its datagrams; what counts is that the other side neither crashes
 * nor reads past its copy (run under ASan) and says what is wrong.
 */

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <poll.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "jobq.h"


#define RING  MOE_RING_MIN


typedef struct {
    int          sv[2];
    moe_lane_t   sub;
    moe_lane_t   eng;
} pair_t;


static uint64_t  seed = 0x9e3779b97f4a7c15u;


static uint32_t
rnd(uint32_t n)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;

    return (uint32_t) (seed >> 32) % n;
}


static void
pair_open(pair_t *p, size_t ring)
{
    moe_hello_t  hello;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0,
                                p->sv), 0);

    assert_int_equal(moe_lane_create(&p->sub, p->sv[0], MOE_SIDE_SUBMITTER,
                                     ring), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_create(&p->eng, p->sv[1], MOE_SIDE_ENGINE,
                                     ring), MOE_JOBQ_OK);

    assert_int_equal(moe_lane_accept(&p->eng, &hello), MOE_JOBQ_AGAIN);

    memset(&hello, 0, sizeof(hello));
    assert_int_equal(moe_lane_hello(&p->sub, &hello), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_accept(&p->eng, &hello), MOE_JOBQ_OK);
    assert_int_equal(hello.ring_size, ring);

    memset(&hello, 0, sizeof(hello));
    hello.status = 200;
    hello.nmodels = 1;
    strcpy(hello.models[0].name, "demo");
    assert_int_equal(moe_lane_hello(&p->eng, &hello), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_accept(&p->sub, &hello), MOE_JOBQ_OK);
    assert_string_equal(hello.models[0].name, "demo");
    assert_int_equal(hello.slots, MOE_SLOTS);
    assert_int_equal(hello.max_job, ring / 2 - sizeof(moe_frame_t));
}


static void
pair_close(pair_t *p)
{
    moe_lane_destroy(&p->sub);
    moe_lane_destroy(&p->eng);
    close(p->sv[0]);
    close(p->sv[1]);
}


static int
readable(int fd)
{
    struct pollfd  pfd;

    pfd.fd = fd;
    pfd.events = POLLIN;

    return poll(&pfd, 1, 0) == 1;
}


static void
test_peer_cannot_write(void **state)
{
    int          memfd;
    void        *p;
    moe_lane_t   l;

    assert_int_equal(moe_lane_create(&l, -1, MOE_SIDE_SUBMITTER, RING), 0);

    memfd = l.memfd;

    assert_ptr_equal(mmap(NULL, 4096, PROT_READ|PROT_WRITE, MAP_SHARED,
                          memfd, 0), MAP_FAILED);
    assert_int_equal(ftruncate(memfd, 0), -1);
    assert_int_equal(write(memfd, "x", 1), -1);
    assert_int_equal(fallocate(memfd, FALLOC_FL_PUNCH_HOLE
                                      |FALLOC_FL_KEEP_SIZE, 0, 4096), -1);

    p = mmap(NULL, 4096, PROT_READ, MAP_SHARED, memfd, 0);
    assert_ptr_not_equal(p, MAP_FAILED);
    assert_int_equal(mprotect(p, 4096, PROT_READ|PROT_WRITE), -1);
    munmap(p, 4096);

    moe_lane_destroy(&l);
}


static void
test_ring_wraps(void **state)
{
    pair_t       p;
    size_t       n, i, in, out, got;
    uint8_t     *a, *b;
    moe_frame_t  f;

    pair_open(&p, RING);

    a = malloc(RING);
    b = malloc(RING);
    in = out = 0;

    /* the same generator on both sides: sizes and bytes follow from it */

    for (i = 0; i < 20000; i++) {

        n = (in * 7919) % 5000;
        memset(a, (int) (in * 31), n);

        if (moe_lane_put(&p.sub, MOE_FRAME_JOB, in, ~(uint32_t) in, a, n / 3,
                         a + n / 3, n - n / 3) == MOE_JOBQ_OK)
        {
            in++;
            continue;
        }

        assert_int_equal(moe_lane_flush(&p.sub), MOE_JOBQ_OK);

        while (moe_lane_next(&p.eng, &f) == MOE_JOBQ_OK) {

            n = (out * 7919) % 5000;
            got = f.size - sizeof(moe_frame_t);

            assert_int_equal(f.slot, out);
            assert_int_equal(f.gen, ~(uint32_t) out);
            assert_int_equal(got, moe_align8(n));

            moe_lane_take(&p.eng, b);
            memset(a, (int) (out * 31), n);
            assert_memory_equal(a, b, n);
            out++;
        }

        assert_int_equal(moe_lane_flush(&p.eng), MOE_JOBQ_OK);
    }

    assert_true(out > 1000);

    free(a);
    free(b);
    pair_close(&p);
}


static void
test_kicks_only_a_sleeper(void **state)
{
    int          i;
    pair_t       p;
    moe_frame_t  f;

    pair_open(&p, RING);

    assert_int_equal(moe_lane_sleep(&p.eng), 0);
    assert_false(readable(p.sv[1]));

    for (i = 0; i < 100; i++) {
        assert_int_equal(moe_put_cancel(&p.sub, i, 0), MOE_JOBQ_OK);
        assert_int_equal(moe_lane_flush(&p.sub), MOE_JOBQ_OK);
    }

    /* one wake-up for a hundred frames */

    assert_true(readable(p.sv[1]));
    assert_int_equal(moe_lane_drain(&p.eng), MOE_JOBQ_OK);
    assert_false(readable(p.sv[1]));

    for (i = 0; i < 100; i++) {
        assert_int_equal(moe_lane_next(&p.eng, &f), MOE_JOBQ_OK);
        assert_int_equal(f.slot, i);
        moe_lane_take(&p.eng, NULL);
    }

    assert_int_equal(moe_lane_next(&p.eng, &f), MOE_JOBQ_AGAIN);
    assert_int_equal(moe_lane_sleep(&p.eng), 0);

    /* something came between the look and the sleep */

    assert_int_equal(moe_put_cancel(&p.sub, 1, 0), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_flush(&p.sub), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_sleep(&p.eng), 1);

    pair_close(&p);
}


static void
test_full_ring_kicks_when_drained(void **state)
{
    int          n;
    char         text[1024];
    pair_t       p;
    moe_frame_t  f;
    moe_delta_t  d;

    pair_open(&p, RING);

    memset(&d, 0, sizeof(d));
    memset(text, 'x', sizeof(text));
    d.text = text;
    d.ntext = sizeof(text);

    n = 0;
    while (moe_put_delta(&p.eng, 1, 1, &d) == MOE_JOBQ_OK) {
        n++;
    }

    assert_true(n > 50);
    assert_int_equal(moe_lane_flush(&p.eng), MOE_JOBQ_OK);
    assert_true(moe_lane_room(&p.eng) < 2048);

    assert_int_equal(moe_lane_drain(&p.sub), MOE_JOBQ_OK);

    while (moe_lane_next(&p.sub, &f) == MOE_JOBQ_OK) {
        moe_lane_take(&p.sub, NULL);
        n--;
    }

    assert_int_equal(n, 0);
    assert_false(readable(p.sv[1]));
    assert_int_equal(moe_lane_flush(&p.sub), MOE_JOBQ_OK);
    assert_true(readable(p.sv[1]));
    assert_int_equal(moe_put_delta(&p.eng, 1, 1, &d), MOE_JOBQ_OK);

    pair_close(&p);
}


static void
test_too_large(void **state)
{
    pair_t    p;
    uint8_t  *buf;

    pair_open(&p, RING);
    buf = calloc(1, RING);

    assert_int_equal(moe_lane_put(&p.sub, 1, 0, 0, buf, RING / 2, NULL, 0),
                     MOE_JOBQ_ERROR);
    assert_int_equal(moe_lane_put(&p.sub, 1, 0, 0, buf,
                                  RING / 2 - sizeof(moe_frame_t), NULL, 0),
                     MOE_JOBQ_OK);
    assert_int_equal(moe_lane_put(&p.eng, 1, 0, 0, buf, MOE_EVENT_MAX, NULL,
                                  0), MOE_JOBQ_ERROR);

    free(buf);
    pair_close(&p);
}


static void
test_hang_up(void **state)
{
    pair_t  p;

    pair_open(&p, RING);

    moe_lane_destroy(&p.sub);
    close(p.sv[0]);

    assert_int_equal(moe_lane_drain(&p.eng), MOE_JOBQ_ERROR);
    assert_int_equal(errno, ECONNRESET);
    assert_non_null(p.eng.why);

    moe_lane_destroy(&p.eng);
    close(p.sv[1]);
}


static void
test_other_version(void **state)
{
    int          sv[2];
    moe_lane_t   l;
    moe_hello_t  hello;

    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
    assert_int_equal(moe_lane_create(&l, sv[0], MOE_SIDE_SUBMITTER, RING), 0);

    memset(&hello, 0, sizeof(hello));
    hello.magic = MOE_HELLO_MAGIC;
    hello.version = MOE_JOBQ_VERSION + 1;
    hello.side = MOE_SIDE_ENGINE;
    hello.status = 200;
    assert_int_equal(send(sv[1], &hello, sizeof(hello), 0), sizeof(hello));
    assert_int_equal(moe_lane_accept(&l, &hello), MOE_JOBQ_ERROR);
    assert_non_null(strstr(l.why, "version"));
    assert_int_equal(hello.version, MOE_JOBQ_VERSION + 1);

    moe_hello_refuse(sv[1], 503, "no more lanes");
    assert_int_equal(moe_lane_accept(&l, &hello), MOE_JOBQ_ERROR);
    assert_int_equal(hello.status, 503);
    assert_string_equal(hello.text, "no more lanes");

    moe_lane_destroy(&l);
    close(sv[0]);
    close(sv[1]);
}


/* memory that is not sealed, or smaller than it says, is not mapped */

static void
test_unsealed_memory(void **state)
{
    int             i, sv[2], memfd;
    moe_lane_t      l;
    moe_hello_t     hello;
    struct iovec    iov;
    struct msghdr   msg;

    union {
        struct cmsghdr  hdr;
        char            buf[CMSG_SPACE(sizeof(int))];
    } ctl;

    for (i = 0; i < 3; i++) {

        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sv), 0);
        assert_int_equal(moe_lane_create(&l, sv[0], MOE_SIDE_SUBMITTER,
                                         RING), 0);

        memfd = memfd_create("hostile", MFD_ALLOW_SEALING);

        assert_int_equal(ftruncate(memfd, i == 1 ? 4096
                                               : MOE_RING_OFFSET + RING), 0);

        if (i == 1) {
            assert_int_equal(fcntl(memfd, F_ADD_SEALS,
                                   F_SEAL_SHRINK|F_SEAL_GROW|0x10
                                   |F_SEAL_SEAL), 0);

        } else if (i == 2) {
            assert_int_equal(fcntl(memfd, F_ADD_SEALS,
                                   F_SEAL_GROW|0x10|F_SEAL_SEAL), 0);
        }

        memset(&hello, 0, sizeof(hello));
        hello.magic = MOE_HELLO_MAGIC;
        hello.version = MOE_JOBQ_VERSION;
        hello.side = MOE_SIDE_ENGINE;
        hello.status = 200;
        hello.ring_size = RING;

        memset(&msg, 0, sizeof(msg));
        memset(&ctl, 0, sizeof(ctl));
        iov.iov_base = &hello;
        iov.iov_len = sizeof(hello);
        msg.msg_iov = &iov;
        msg.msg_iovlen = 1;
        msg.msg_control = ctl.buf;
        msg.msg_controllen = sizeof(ctl.buf);
        ctl.hdr.cmsg_level = SOL_SOCKET;
        ctl.hdr.cmsg_type = SCM_RIGHTS;
        ctl.hdr.cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(&ctl.hdr), &memfd, sizeof(int));

        assert_int_equal(sendmsg(sv[1], &msg, 0), sizeof(hello));
        assert_int_equal(moe_lane_accept(&l, &hello), MOE_JOBQ_ERROR);
        assert_null(l.peer);

        close(memfd);
        moe_lane_destroy(&l);
        close(sv[0]);
        close(sv[1]);
    }
}


static void
test_stats(void **state)
{
    pair_t       p;
    moe_stats_t  s, got;

    pair_open(&p, RING);

    memset(&s, 0, sizeof(s));
    s.state = MOE_STATE_READY;
    s.completion_tokens = 12345678901;
    moe_histogram_add(&s.ttft, 0);
    moe_histogram_add(&s.ttft, 1000);
    moe_histogram_add(&s.ttft, 1001);
    moe_histogram_add(&s.ttft, UINT64_MAX / 2);
    assert_int_equal(s.ttft.count[0], 2);
    assert_int_equal(s.ttft.count[1], 1);
    assert_int_equal(s.ttft.count[MOE_STATS_BUCKETS - 1], 1);

    moe_lane_stats_write(&p.eng, &s);
    assert_int_equal(moe_lane_stats_read(&p.sub, &got), MOE_JOBQ_OK);
    assert_memory_equal(&s, &got, sizeof(s));

    /* an engine that died while it wrote */

    *(uint32_t *) (void *) (p.eng.own + 4096) |= 1;
    assert_int_equal(moe_lane_stats_read(&p.sub, &got), MOE_JOBQ_AGAIN);

    pair_close(&p);
}


static void
test_experts(void **unused)
{
    int             i;
    pair_t          p;
    moe_experts_t  *e, *got;

    static const uint32_t  wrong[][3] = {
        { 3000, 8, 2 }, { 1, MOE_EXPERTS_CELLS, 1 },
        { 1, 1, MOE_EXPERTS_CELLS }, { UINT32_MAX, UINT32_MAX, UINT32_MAX },
        { 2, UINT32_MAX, 1 }
    };

    e = calloc(1, sizeof(*e));
    got = malloc(sizeof(*got));
    assert_non_null(e);
    assert_non_null(got);

    pair_open(&p, RING);

    /* nothing yet */
    assert_int_equal(moe_lane_experts_read(&p.sub, got), MOE_JOBQ_OK);
    assert_int_equal(got->layers, 0);

    e->layers = 58;
    e->experts = 256;
    e->ranks = 16;
    e->version = 7;
    e->rows = 123456;

    for (i = 0; i < MOE_EXPERTS_CELLS; i++) {
        e->cells[i] = (uint16_t) rnd(65536);
    }

    moe_lane_experts_write(&p.eng, e);
    assert_int_equal(moe_lane_experts_read(&p.sub, got), MOE_JOBQ_OK);
    assert_memory_equal(e, got, sizeof(*e));

    /* no reader goes beyond the cells, whatever an engine writes */

    for (i = 0; i < (int) (sizeof(wrong) / sizeof(wrong[0])); i++) {
        e->layers = wrong[i][0];
        e->experts = wrong[i][1];
        e->ranks = wrong[i][2];
        moe_lane_experts_write(&p.eng, e);
        assert_int_equal(moe_lane_experts_read(&p.sub, got), MOE_JOBQ_OK);
        assert_int_equal(got->layers, 0);
    }

    /* the statistics are another page */

    *(uint32_t *) (void *) (p.eng.own + 8192) |= 1;
    assert_int_equal(moe_lane_experts_read(&p.sub, got), MOE_JOBQ_AGAIN);

    pair_close(&p);
    free(e);
    free(got);
}


/* records */


static void
job_random(moe_job_t *job, uint8_t *pool, size_t size)
{
    size_t  i;

    memset(job, 0, sizeof(moe_job_t));

    for (i = 0; i < size; i++) {
        pool[i] = (uint8_t) rnd(256);
    }

    job->kind = 1 + rnd(6);
    job->n = 1 + rnd(2);
    job->seed = ((uint64_t) rnd(~0u) << 32) | rnd(~0u);
    job->flags = rnd(256);
    job->max_tokens = rnd(~0u);
    job->top_logprobs = rnd(21);
    job->temperature = (float) rnd(1000) / 500;
    job->top_k = (int32_t) rnd(100) - 1;
    memcpy(job->request_id, pool, 16);
    memcpy(job->key, pool + 16, 32);
    job->priority = (int32_t) rnd(201) - 100;
    job->weight = rnd(1001);

    job->model = (moe_str_t) { 1 + rnd(30), (char *) pool };

    if (rnd(2)) {
        job->messages = (moe_str_t) { 1 + rnd(3000), (char *) pool };
    }

    if (rnd(2)) {
        job->salt = (moe_str_t) { 1 + rnd(30), (char *) pool + 5 };
    }

    job->nprompts = rnd(6);

    for (i = 0; i < job->nprompts; i++) {
        job->prompts[i] = (moe_prompt_t) { rnd(2), rnd(500), pool };
    }

    job->nstops = rnd(MOE_STOPS_MAX + 1);

    for (i = 0; i < job->nstops; i++) {
        job->stops[i] = (moe_str_t) { 1 + rnd(20), (char *) pool + i };
    }

    job->nstop_ids = rnd(5);
    job->stop_ids = (uint32_t *) (void *) pool;
    job->nbias = rnd(5);
    job->bias = (moe_bias_t *) (void *) pool;
    job->nconts = rnd(4);

    for (i = 0; i < job->nconts; i++) {
        job->conts[i] = (moe_cont_t) { rnd(9), rnd(999), rnd(100),
                                       (uint32_t *) (void *) pool };
    }
}


static void
str_equal(const moe_str_t *a, const moe_str_t *b)
{
    assert_int_equal(a->len, b->len);

    if (a->len) {
        assert_memory_equal(a->data, b->data, a->len);
    }
}


static void
test_job_round_trip(void **state)
{
    void        *buf;
    size_t       i, k, size;
    uint8_t     *pool;
    moe_job_t   *a, *b;
    const char  *why;

    a = malloc(sizeof(moe_job_t));
    b = malloc(sizeof(moe_job_t));
    pool = malloc(4096);

    for (k = 0; k < 500; k++) {

        job_random(a, pool, 4096);
        size = moe_job_size(a);
        assert_true(size > 0 && size % 8 == 0);

        buf = malloc(size);
        moe_job_write(a, buf);
        assert_int_equal(moe_job_read(b, buf, size, &why), MOE_JOBQ_OK);

        assert_memory_equal(a, b, offsetof(moe_job_t, model));
        str_equal(&a->model, &b->model);
        str_equal(&a->messages, &b->messages);
        str_equal(&a->salt, &b->salt);
        assert_int_equal(a->nprompts, b->nprompts);

        for (i = 0; i < a->nprompts; i++) {
            assert_int_equal(a->prompts[i].n, b->prompts[i].n);
            assert_int_equal(a->prompts[i].is_ids, b->prompts[i].is_ids);
            assert_memory_equal(a->prompts[i].data, b->prompts[i].data,
                                a->prompts[i].n
                                * (a->prompts[i].is_ids ? 4 : 1));
        }

        assert_int_equal(a->nstops, b->nstops);

        for (i = 0; i < a->nstops; i++) {
            str_equal(&a->stops[i], &b->stops[i]);
        }

        assert_int_equal(a->nstop_ids, b->nstop_ids);
        assert_int_equal(a->nbias, b->nbias);
        assert_int_equal(a->nconts, b->nconts);

        for (i = 0; i < a->nconts; i++) {
            assert_int_equal(a->conts[i].choice, b->conts[i].choice);
            assert_int_equal(a->conts[i].ntext, b->conts[i].ntext);
            assert_int_equal(a->conts[i].nids, b->conts[i].nids);
            assert_memory_equal(a->conts[i].ids, b->conts[i].ids,
                                a->conts[i].nids * 4);
        }

        free(buf);
    }

    free(pool);
    free(a);
    free(b);
}


/* every cut and every flipped byte is read or refused, never read past */

static void
test_job_hostile(void **state)
{
    void        *buf, *cut;
    size_t       i, k, n, size, refused;
    uint8_t     *pool;
    moe_job_t   *a, *b;
    const char  *why;

    a = malloc(sizeof(moe_job_t));
    b = malloc(sizeof(moe_job_t));
    pool = malloc(4096);
    refused = 0;

    for (k = 0; k < 300; k++) {

        job_random(a, pool, 4096);
        size = moe_job_size(a);
        buf = malloc(size);
        moe_job_write(a, buf);

        for (i = 0; i < 100; i++) {

            n = rnd(2) ? size : rnd(size + 1);
            cut = malloc(n ? n : 1);
            memcpy(cut, buf, n);

            if (n && rnd(4)) {
                ((uint8_t *) cut)[rnd(n)] = (uint8_t) rnd(256);
            }

            why = NULL;

            if (moe_job_read(b, cut, n, &why) != MOE_JOBQ_OK) {
                assert_non_null(why);
                refused++;
            }

            free(cut);
        }

        free(buf);
    }

    assert_true(refused > 1000);

    free(pool);
    free(a);
    free(b);
}


static void
test_events_round_trip(void **state)
{
    pair_t         p;
    uint8_t       *at, lps[256], buf[MOE_EVENT_MAX];
    moe_lp_t       lp, got;
    moe_end_t      e, e2;
    moe_delta_t    d, d2;
    moe_frame_t    f;
    const char    *why;
    const void    *cur;
    moe_started_t  s, s2;

    static const uint32_t  ids[] = { 5, 7, 9 };

    pair_open(&p, RING);

    s.prompt_tokens = 11;
    s.cached_tokens = 5;
    s.queue_us = 123456789012;
    assert_int_equal(moe_put_started(&p.eng, 3, 4, &s), MOE_JOBQ_OK);

    lp = (moe_lp_t) { 5, -0.5f, 1, 3, "abc" };
    at = moe_lp_write(&lp, lps);
    lp = (moe_lp_t) { 6, -1.5f, 0, 0, NULL };
    at = moe_lp_write(&lp, at);

    memset(&d, 0, sizeof(d));
    d.choice = 2;
    d.finish = MOE_FINISH_LENGTH;
    d.flags = MOE_DELTA_ECHO;
    d.completion_tokens = 3;
    d.total_tokens = 8;
    d.nids = 3;
    d.ids = ids;
    d.text = "hello";
    d.ntext = 5;
    d.nlp = 1;
    d.lp = lps;
    d.lp_size = (uint32_t) (at - lps);
    assert_int_equal(moe_put_delta(&p.eng, 3, 4, &d), MOE_JOBQ_OK);

    memset(&e, 0, sizeof(e));
    e.status = 503;
    e.retry_after = 7;
    e.completion_tokens = 8;
    e.message = (moe_str_t) { 4, "full" };
    e.code = (moe_str_t) { 5, "queue" };
    assert_int_equal(moe_put_end(&p.eng, 3, 4, &e), MOE_JOBQ_OK);
    assert_int_equal(moe_lane_flush(&p.eng), MOE_JOBQ_OK);

    assert_int_equal(moe_lane_next(&p.sub, &f), MOE_JOBQ_OK);
    assert_int_equal(f.type, MOE_FRAME_STARTED);
    moe_lane_take(&p.sub, buf);
    assert_int_equal(moe_started_read(&s2, buf, f.size - 16, &why), 0);
    assert_memory_equal(&s, &s2, sizeof(s));

    assert_int_equal(moe_lane_next(&p.sub, &f), MOE_JOBQ_OK);
    moe_lane_take(&p.sub, buf);
    assert_int_equal(moe_delta_read(&d2, buf, f.size - 16, &why), 0);
    assert_int_equal(d2.choice, 2);
    assert_int_equal(d2.finish, MOE_FINISH_LENGTH);
    assert_int_equal(d2.total_tokens, 8);
    assert_memory_equal(d2.ids, ids, sizeof(ids));
    assert_int_equal(d2.ntext, 5);
    assert_memory_equal(d2.text, "hello", 5);

    cur = d2.lp;
    assert_int_equal(moe_lp_read(&got, &cur, (const uint8_t *) d2.lp
                                             + d2.lp_size), 0);
    assert_int_equal(got.len, 3);
    assert_memory_equal(got.bytes, "abc", 3);
    assert_int_equal(moe_lp_read(&got, &cur, (const uint8_t *) d2.lp
                                             + d2.lp_size), 0);
    assert_true(got.logprob == -1.5f);
    assert_int_equal(moe_lp_read(&got, &cur, (const uint8_t *) d2.lp
                                             + d2.lp_size), MOE_JOBQ_ERROR);

    assert_int_equal(moe_lane_next(&p.sub, &f), MOE_JOBQ_OK);
    moe_lane_take(&p.sub, buf);
    assert_int_equal(moe_end_read(&e2, buf, f.size - 16, &why), 0);
    assert_int_equal(e2.status, 503);
    assert_int_equal(e2.retry_after, 7);
    str_equal(&e.message, &e2.message);
    str_equal(&e.code, &e2.code);

    pair_close(&p);
}


/* a peer that writes random bytes into everything that it may write */

static void
hostile_half(pair_t *p, moe_lane_t *bad, moe_lane_t *good, int sv)
{
    int           i, k, rc;
    size_t        n;
    uint8_t      *buf, junk[64];
    uint32_t      word;
    moe_job_t    *job;
    moe_end_t     e;
    moe_delta_t   d;
    moe_frame_t   f;
    const char   *why;

    static const size_t  words[] = { 0, 4, 8, 12, 64, 128, 192, 256, 4096 };

    buf = malloc(RING);
    job = malloc(sizeof(moe_job_t));

    for (i = 0; i < 200; i++) {

        for (k = 0; k < 40; k++) {
            word = rnd(3) ? rnd(2 * RING) & ~7u : rnd(~0u);
            memcpy(bad->own + words[rnd(9)], &word, 4);
        }

        for (k = 0; k < 2000; k++) {
            bad->own[MOE_RING_OFFSET + rnd(RING)] = (uint8_t) rnd(256);
        }

        for (k = 0; k < 50; k++) {

            /* small sizes in the ring, so that some frames are read */

            word = 16 + 8 * rnd(40);
            memcpy(bad->own + MOE_RING_OFFSET
                   + ((good->tail + 0) & (RING - 1)), &word, 4);

            rc = moe_lane_next(good, &f);

            if (rc != MOE_JOBQ_OK) {
                break;
            }

            n = f.size - sizeof(moe_frame_t);
            moe_lane_take(good, buf);

            if (good->side == MOE_SIDE_ENGINE) {
                (void) moe_job_read(job, buf, n, &why);

            } else {
                (void) moe_delta_read(&d, buf, n, &why);
                (void) moe_end_read(&e, buf, n, &why);
            }
        }

        (void) moe_lane_put(good, MOE_FRAME_CANCEL, 1, 1, NULL, 0, NULL, 0);
        (void) moe_lane_flush(good);
        (void) moe_lane_sleep(good);
        (void) moe_lane_room(good);

        for (k = 0; k < 3; k++) {
            junk[0] = (uint8_t) rnd(256);
            (void) send(sv, junk, rnd(sizeof(junk)), MSG_DONTWAIT);
        }

        (void) moe_lane_drain(good);

        while (recv(good->fd, junk, sizeof(junk), MSG_DONTWAIT) > 0) {
            /* void */
        }

        while (recv(sv, junk, sizeof(junk), MSG_DONTWAIT) > 0) {
            /* void */
        }
    }

    free(buf);
    free(job);
}


static void
test_hostile_submitter(void **state)
{
    int     i;
    pair_t  p;

    for (i = 0; i < 20; i++) {
        pair_open(&p, RING);
        hostile_half(&p, &p.sub, &p.eng, p.sv[0]);
        pair_close(&p);
    }
}


static void
test_hostile_engine(void **state)
{
    int          i;
    pair_t       p;
    moe_stats_t  s;

    for (i = 0; i < 20; i++) {
        pair_open(&p, RING);
        hostile_half(&p, &p.eng, &p.sub, p.sv[1]);
        (void) moe_lane_stats_read(&p.sub, &s);
        pair_close(&p);
    }
}


/* two threads, each with its own side: frames in order, none lost, no side
 * asleep while the other waits; meant for TSan as well */

#define STRESS_FRAMES  200000


static void
stress_wait(moe_lane_t *l)
{
    struct pollfd  pfd;

    if (moe_lane_sleep(l)) {
        return;
    }

    pfd.fd = l->fd;
    pfd.events = POLLIN;

    /* a lost wake-up shows as a time-out here */

    assert_int_equal(poll(&pfd, 1, 10000), 1);
    assert_int_not_equal(moe_lane_drain(l), MOE_JOBQ_ERROR);
}


static void *
stress_engine(void *data)
{
    int           rc;
    uint8_t       buf[4096];
    uint32_t      n, next;
    pair_t       *p = data;
    moe_frame_t   f;
    moe_stats_t   s;

    memset(&s, 0, sizeof(s));
    next = 0;

    while (next < STRESS_FRAMES) {

        while ((rc = moe_lane_next(&p->eng, &f)) == MOE_JOBQ_OK) {

            assert_int_equal(f.slot, next);
            moe_lane_take(&p->eng, buf);
            memcpy(&n, buf, 4);
            assert_int_equal(n, next);

            /* every frame is echoed; a full ring is waited out */

            while ((rc = moe_lane_put(&p->eng, MOE_FRAME_DELTA, next, 0, buf,
                                      8 + next % 200, NULL, 0))
                   == MOE_JOBQ_AGAIN)
            {
                assert_int_equal(moe_lane_flush(&p->eng), MOE_JOBQ_OK);
                sched_yield();
            }

            assert_int_equal(rc, MOE_JOBQ_OK);
            next++;
        }

        assert_int_equal(rc, MOE_JOBQ_AGAIN);
        s.steps++;
        moe_lane_stats_write(&p->eng, &s);
        assert_int_equal(moe_lane_flush(&p->eng), MOE_JOBQ_OK);

        if (next < STRESS_FRAMES) {
            stress_wait(&p->eng);
        }
    }

    return NULL;
}


static void
test_stress(void **state)
{
    int          rc;
    pair_t       p;
    uint8_t      buf[4096];
    uint32_t     in, out, n;
    uint64_t     steps;
    pthread_t    thread;
    moe_stats_t  s;
    moe_frame_t  f;

    pair_open(&p, RING);
    assert_int_equal(pthread_create(&thread, NULL, stress_engine, &p), 0);

    memset(buf, 0, sizeof(buf));
    in = out = 0;
    steps = 0;

    while (out < STRESS_FRAMES) {

        while (in < STRESS_FRAMES) {
            memcpy(buf, &in, 4);

            rc = moe_lane_put(&p.sub, MOE_FRAME_JOB, in, 0, buf,
                              8 + in % 300, NULL, 0);

            if (rc == MOE_JOBQ_AGAIN) {
                break;
            }

            assert_int_equal(rc, MOE_JOBQ_OK);
            in++;

            if (in % 64 == 0) {
                break;
            }
        }

        while ((rc = moe_lane_next(&p.sub, &f)) == MOE_JOBQ_OK) {
            assert_int_equal(f.slot, out);
            assert_int_equal(f.size, 16 + moe_align8(8 + out % 200));
            moe_lane_take(&p.sub, buf);
            memcpy(&n, buf, 4);
            assert_int_equal(n, out);
            out++;
        }

        assert_int_equal(rc, MOE_JOBQ_AGAIN);
        assert_int_equal(moe_lane_flush(&p.sub), MOE_JOBQ_OK);

        if (moe_lane_stats_read(&p.sub, &s) == MOE_JOBQ_OK) {
            assert_true(s.steps >= steps);
            steps = s.steps;
        }

        if (in == STRESS_FRAMES && out < STRESS_FRAMES) {
            stress_wait(&p.sub);
        }
    }

    pthread_join(thread, NULL);
    pair_close(&p);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_peer_cannot_write),
        cmocka_unit_test(test_ring_wraps),
        cmocka_unit_test(test_kicks_only_a_sleeper),
        cmocka_unit_test(test_full_ring_kicks_when_drained),
        cmocka_unit_test(test_too_large),
        cmocka_unit_test(test_hang_up),
        cmocka_unit_test(test_other_version),
        cmocka_unit_test(test_unsealed_memory),
        cmocka_unit_test(test_stats),
        cmocka_unit_test(test_experts),
        cmocka_unit_test(test_job_round_trip),
        cmocka_unit_test(test_job_hostile),
        cmocka_unit_test(test_events_round_trip),
        cmocka_unit_test(test_hostile_submitter),
        cmocka_unit_test(test_hostile_engine),
        cmocka_unit_test(test_stress),
    };

    seed ^= (uint64_t) time(NULL);
    print_message("seed %llu\n", (unsigned long long) seed);

    return cmocka_run_group_tests(tests, NULL, NULL);
}
