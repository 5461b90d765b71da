#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/stream.h"


#define MODEL  "models/demo"


static moe_tokenizer_t  *tokenizer;


/* what a stream delivers, taken in deltas as large as they come */
typedef struct {
    char      text[65536];
    size_t    ntext;
    uint32_t  ids[8192];
    uint32_t  nids;
    uint32_t  nlp;
    uint32_t  deltas;
    uint32_t  finish;
} got_t;


static uint32_t
take(moe_stream_t *s, got_t *g, int echo)
{
    uint32_t      n, ids[MOE_STREAM_IDS];
    moe_delta_t   d;

    n = 0;

    while (moe_stream_ready(s)) {
        moe_stream_delta(s, &d, ids);

        assert_true(d.ntext + d.lp_size + d.nids * 4 < MOE_EVENT_MAX - 64);
        assert_int_equal(moe_utf8_cut(d.text, d.ntext), d.ntext);
        assert_int_equal(d.flags & MOE_DELTA_ECHO ? 1 : 0, echo);

        memcpy(g->text + g->ntext, d.text, d.ntext);
        memcpy(g->ids + g->nids, d.ids, d.nids * 4);
        g->ntext += d.ntext;
        g->nids += d.nids;
        g->nlp += d.nlp;
        g->deltas++;

        if (!echo) {
            assert_int_equal(d.completion_tokens, s->sent + d.nids);
        }

        assert_int_equal(g->finish, MOE_FINISH_NONE);
        g->finish = d.finish;

        n += moe_stream_taken(s);
    }

    return n;
}


static void
encode(const char *text, moe_ids_t *ids)
{
    moe_err_t  err;

    memset(ids, 0, sizeof(moe_ids_t));
    assert_int_equal(moe_tokenizer_encode(tokenizer, text, strlen(text), NULL,
                                          0, ids, &err), 0);
}


static const char  story[] =
    "One d\xc3\xa4y th\xe2\x82\xac cat \xf0\x9f\x90\x88 went home. The end. "
    "Then \xf0\x9f\x8c\x88\xf0\x9f\x8c\x88 came, and ST ST STO STOP it was.";


static void
test_text(void **unused)
{
    got_t         g;
    size_t        i;
    moe_ids_t     ids;
    moe_stream_t  s;

    encode(story, &ids);
    moe_stream_init(&s, tokenizer, NULL, 0, 0);
    memset(&g, 0, sizeof(g));

    for (i = 0; i < ids.n; i++) {
        assert_int_equal(moe_stream_push(&s, ids.ids[i], NULL, 0), 0);
        assert_int_equal(take(&s, &g, 0), 1);
    }

    assert_int_equal(moe_stream_finish(&s, MOE_FINISH_LENGTH), 0);
    take(&s, &g, 0);

    assert_int_equal(g.finish, MOE_FINISH_LENGTH);
    assert_int_equal(g.ntext, strlen(story));
    assert_memory_equal(g.text, story, g.ntext);
    assert_int_equal(g.nids, ids.n);

    moe_stream_free(&s);
    moe_ids_free(&ids);
}


/* half a character at the end is said to be missing, and nothing is left */

static void
test_half(void **unused)
{
    got_t         g;
    moe_ids_t     ids;
    moe_stream_t  s;

    encode("x\xf0\x9f\xa7\xbf", &ids);
    assert_true(ids.n > 2);

    moe_stream_init(&s, tokenizer, NULL, 0, 0);
    memset(&g, 0, sizeof(g));

    moe_stream_push(&s, ids.ids[0], NULL, 0);
    moe_stream_push(&s, ids.ids[1], NULL, 0);
    take(&s, &g, 0);
    assert_int_equal(g.ntext, 1);
    assert_int_equal(g.nids, 2);

    moe_stream_finish(&s, MOE_FINISH_STOP);
    take(&s, &g, 0);
    assert_int_equal(g.ntext, 4);
    assert_memory_equal(g.text, "x\xef\xbf\xbd", 4);

    moe_stream_free(&s);
    moe_ids_free(&ids);
}


static size_t
run(moe_stream_t *s, const moe_ids_t *ids, size_t from, got_t *g, int lazy)
{
    size_t  i;

    memset(g, 0, sizeof(got_t));

    for (i = from; i < ids->n && !s->stopped; i++) {
        moe_stream_push(s, ids->ids[i], NULL, 0);

        if (!lazy) {
            take(s, g, 0);
        }
    }

    moe_stream_finish(s, MOE_FINISH_LENGTH);
    take(s, g, 0);

    return i;
}


static void
test_stop(void **unused)
{
    got_t         g;
    size_t        used, lazily;
    moe_ids_t     ids;
    moe_str_t     str[2];
    moe_stops_t   stops;
    moe_stream_t  s;
    const char   *at;

    encode(story, &ids);

    str[0].data = "STOP it";
    str[0].len = 7;
    str[1].data = "\xf0\x9f\x8c\x88 c";
    str[1].len = 6;
    assert_int_equal(moe_stops_init(&stops, str, 1), 0);

    at = strstr(story, "STOP it");

    moe_stream_init(&s, tokenizer, &stops, 0, 0);
    used = run(&s, &ids, 0, &g, 0);
    moe_stream_free(&s);

    assert_true(used < ids.n);
    assert_int_equal(g.finish, MOE_FINISH_STOP);
    assert_int_equal(g.ntext, (size_t) (at - story));
    assert_memory_equal(g.text, story, g.ntext);

    moe_stream_init(&s, tokenizer, &stops, 0, 0);
    lazily = run(&s, &ids, 0, &g, 1);
    moe_stream_free(&s);

    assert_int_equal(lazily, used);
    assert_int_equal(g.ntext, (size_t) (at - story));
    assert_int_equal(g.deltas, 1);

    /* not looked at before min_tokens */

    moe_stream_init(&s, tokenizer, &stops, (uint32_t) used, 0);
    used = run(&s, &ids, 0, &g, 0);
    moe_stream_free(&s);

    assert_int_equal(used, ids.n);
    assert_int_equal(g.finish, MOE_FINISH_LENGTH);
    assert_int_equal(g.ntext, strlen(story));

    moe_stops_free(&stops);

    /* the second rainbow is the one that is followed by a space */

    assert_int_equal(moe_stops_init(&stops, str, 2), 0);
    at = strstr(story, str[1].data);
    moe_stream_init(&s, tokenizer, &stops, 0, 0);
    run(&s, &ids, 0, &g, 0);
    assert_int_equal(g.ntext, (size_t) (at - story));
    moe_stream_free(&s);
    moe_stops_free(&stops);

    moe_ids_free(&ids);
}


static void
test_replay(void **unused)
{
    got_t         g, whole, before;
    size_t        i, used;
    moe_ids_t     ids;
    moe_str_t     str;
    moe_stops_t   stops;
    moe_stream_t  s;

    encode(story, &ids);
    str.data = "STOP";
    str.len = 4;
    assert_int_equal(moe_stops_init(&stops, &str, 1), 0);

    moe_stream_init(&s, tokenizer, &stops, 0, 0);
    used = run(&s, &ids, 0, &whole, 0);
    moe_stream_free(&s);

    for (i = 0; i <= used; i++) {

        /* what an interrupted one had delivered */

        moe_stream_init(&s, tokenizer, &stops, 0, 0);
        memset(&before, 0, sizeof(before));

        while (s.ids.n < i) {
            moe_stream_push(&s, ids.ids[s.ids.n], NULL, 0);
        }

        take(&s, &before, 0);
        moe_stream_free(&s);

        moe_stream_init(&s, tokenizer, &stops, 0, 0);
        moe_stream_replay(&s, ids.ids, (uint32_t) i, before.ntext);
        assert_false(s.failed);
        run(&s, &ids, i, &g, 0);
        assert_int_equal(s.ids.n, used);
        moe_stream_free(&s);

        assert_int_equal(before.ntext + g.ntext, whole.ntext);
        assert_memory_equal(g.text, whole.text + before.ntext, g.ntext);
        assert_int_equal(g.finish, MOE_FINISH_STOP);
        assert_int_equal(g.nids, used - i);
    }

    moe_stops_free(&stops);
    moe_ids_free(&ids);
}


/* many tokens at once are few deltas, none larger than an event */

static void
test_backlog(void **unused)
{
    int           i;
    got_t         g;
    uint64_t      lp[64];
    moe_ids_t     ids;
    moe_lp_t      rec;
    const void   *end;
    moe_stream_t  s;

    encode("hello", &ids);
    moe_stream_init(&s, tokenizer, NULL, 0, 0);
    memset(&g, 0, sizeof(g));
    memset(&rec, 0, sizeof(rec));

    rec.id = ids.ids[0];
    rec.logprob = -1;
    rec.ntop = 2;
    end = moe_lp_write(&rec, lp);
    rec.ntop = 0;
    end = moe_lp_write(&rec, (void *) (uintptr_t) end);
    end = moe_lp_write(&rec, (void *) (uintptr_t) end);

    for (i = 0; i < 4000; i++) {
        assert_int_equal(moe_stream_push(&s, ids.ids[0], lp,
                                         (const char *) end
                                         - (const char *) lp), 0);
    }

    assert_int_equal(take(&s, &g, 0), 4000);
    assert_int_equal(g.nlp, 4000);
    assert_true(g.deltas > 3 && g.deltas < 100);

    /* a record that is cut short is refused */

    assert_int_equal(moe_stream_push(&s, ids.ids[0], lp,
                                     (const char *) end
                                     - (const char *) lp - 4), -1);
    moe_stream_free(&s);

    /* so is one with more alternatives than there can be */

    rec.ntop = MOE_TOP_LOGPROBS + 1;
    end = moe_lp_write(&rec, lp);
    moe_stream_init(&s, tokenizer, NULL, 0, 0);
    assert_int_equal(moe_stream_push(&s, ids.ids[0], lp, sizeof(lp)), -1);
    moe_stream_free(&s);

    moe_ids_free(&ids);
}


/* echo and answer are never in one delta; long text is cut at characters */

static void
test_echo(void **unused)
{
    got_t         g;
    char         *text;
    size_t        i, n;
    moe_ids_t     ids;
    moe_stream_t  s;

    n = 30000;
    text = malloc(n);
    assert_non_null(text);

    for (i = 0; i < n; i++) {
        text[i] = "\xe2\x82\xac"[i % 3];
    }

    encode("hello", &ids);
    moe_stream_init(&s, tokenizer, NULL, 0, 0);
    memset(&g, 0, sizeof(g));

    assert_int_equal(moe_stream_text(&s, text, n, 1), 0);
    assert_int_equal(moe_stream_id(&s, ids.ids[0], NULL, 0, 1), 0);
    take(&s, &g, 1);
    assert_int_equal(g.ntext, n);
    assert_memory_equal(g.text, text, n);
    assert_int_equal(g.nids, 1);
    assert_int_equal(s.sent, 0);

    moe_stream_push(&s, ids.ids[0], NULL, 0);
    assert_int_equal(take(&s, &g, 0), 1);

    moe_stream_free(&s);
    moe_ids_free(&ids);
    free(text);
}


static int
setup(void **unused)
{
    moe_err_t  err;

    tokenizer = moe_tokenizer_load(MODEL, &err);

    if (tokenizer == NULL) {
        print_error("%s\n", err.text);
        return -1;
    }

    return 0;
}


static int
teardown(void **unused)
{
    moe_tokenizer_free(tokenizer);
    return 0;
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_half),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_replay),
        cmocka_unit_test(test_backlog),
        cmocka_unit_test(test_echo),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
