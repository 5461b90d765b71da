/*
 * Token ids to text: the reference's decode() of whole sequences, and what may
 * never be seen in between.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kimi.h"
#include "text/detok.h"
#include "text/utf8.h"


static moe_tokenizer_t *
test_load(const char *name)
{
    char              path[512];
    moe_err_t         err;
    const char       *dir;
    moe_tokenizer_t  *t, *qwen3;

    if (strcmp(name, "kimi") == 0) {
        qwen3 = test_load("qwen3");
        t = kimi_load(qwen3);
        moe_tokenizer_free(qwen3);

        return t;
    }

    dir = getenv("MOE_TOKENIZERS");
    snprintf(path, sizeof(path), "%s/%s", dir ? dir : "build/tokenizers",
             name);

    if (strcmp(name, "demo") == 0) {
        snprintf(path, sizeof(path), "models/demo");
    }

    t = moe_tokenizer_load(path, &err);
    if (t == NULL) {
        fail_msg("%s\n(tools/tokenizers/fetch.sh fetches the vocabularies)",
                 err.text);
    }

    return t;
}


/* decodes ids, checking every release, into all; returns the length */

static size_t
test_decode(const moe_tokenizer_t *t, const uint32_t *ids, size_t n,
    unsigned flags, char *all, size_t size)
{
    char         out[MOE_DETOK_MAX];
    size_t       i, k, len = 0;
    moe_detok_t  d;

    moe_detok_init(&d, t, flags);

    for (i = 0; i <= n; i++) {
        k = i < n ? moe_detok_push(&d, ids[i], out)
                  : moe_detok_flush(&d, out);

        /* never half a character */

        assert_int_equal(moe_utf8_valid(out, k), k);
        assert_true(k <= size - len);
        memcpy(all + len, out, k);
        len += k;
    }

    return len;
}


static uint32_t
test_number(FILE *fp)
{
    int       c, shift;
    uint32_t  n = 0;

    for (shift = 0; shift < 32; shift += 7) {
        c = fgetc(fp);
        assert_int_not_equal(c, EOF);
        n |= (uint32_t) (c & 127) << shift;

        if (c < 128) {
            break;
        }
    }

    return n;
}


static void
test_golden(const char *name)
{
    int               c, flags;
    char              path[256];
    FILE             *fp;
    size_t            i, n, len, cases;
    uint32_t          ids[64];
    static char       text[65536], want[65536];
    moe_tokenizer_t  *t;

    t = test_load(name);
    snprintf(path, sizeof(path), "t/golden/tokenizer/%s.text", name);
    fp = fopen(path, "rb");
    assert_non_null(fp);

    for (cases = 0; (c = fgetc(fp)) != EOF; cases++) {
        ungetc(c, fp);
        n = test_number(fp);
        assert_true(n <= 64);

        for (i = 0; i < n; i++) {
            ids[i] = test_number(fp);
        }

        for (flags = 0; flags <= MOE_DETOK_SKIP_SPECIAL; flags++) {
            len = test_number(fp);
            assert_true(len <= sizeof(want));
            assert_int_equal(fread(want, 1, len, fp), len);

            i = test_decode(t, ids, n, flags, text, sizeof(text));

            if (i != len || memcmp(text, want, len) != 0) {
                fail_msg("%s: case %zu: \"%.*s\", not \"%.*s\"", name, cases,
                         (int) i, text, (int) len, want);
            }
        }
    }

    assert_int_equal(cases, 200);
    fclose(fp);
    moe_tokenizer_free(t);
}


static void
test_random_ids(void **state)
{
    test_golden("deepseek_v3");
    test_golden("qwen3");
    test_golden("gpt_oss");
    test_golden("mixtral");
    test_golden("kimi");
    test_golden("demo");
}


/* a character of several tokens comes out with its last, at once */

static void
test_held(void **state)
{
    char              out[MOE_DETOK_MAX];
    size_t            i, n;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_detok_t       d, copy;
    moe_tokenizer_t  *t;

    t = test_load("demo");
    assert_int_equal(moe_tokenizer_encode(t, "\xF0\x9F\xAB\xA8", 4, NULL, 0,
                                          &ids, &err), 0);
    assert_true(ids.n > 1);
    moe_detok_init(&d, t, 0);

    for (i = 0; i + 1 < ids.n; i++) {
        assert_int_equal(moe_detok_push(&d, ids.ids[i], out), 0);
    }

    copy = d;
    n = moe_detok_push(&d, ids.ids[i], out);
    assert_int_equal(n, 4);
    assert_memory_equal(out, "\xF0\x9F\xAB\xA8", 4);
    assert_int_equal(moe_detok_flush(&d, out), 0);

    /* without its end it is one U+FFFD */

    n = moe_detok_flush(&copy, out);
    assert_int_equal(n, 3);
    assert_memory_equal(out, "\xEF\xBF\xBD", 3);
    assert_int_equal(moe_detok_flush(&copy, out), 0);

    moe_ids_free(&ids);
    moe_tokenizer_free(t);
}


/* an id that no token has (models have spare rows) gives no text */

static void
test_no_such_id(void **state)
{
    char              out[MOE_DETOK_MAX];
    moe_detok_t       d;
    moe_tokenizer_t  *t;

    t = test_load("deepseek_v3");
    moe_detok_init(&d, t, 0);
    assert_int_equal(moe_detok_push(&d, 128815, out), 0);
    assert_int_equal(moe_detok_push(&d, 129279, out), 0);
    assert_int_equal(moe_detok_push(&d, UINT32_MAX, out), 0);
    assert_int_equal(moe_detok_flush(&d, out), 0);
    moe_tokenizer_free(t);
}


/*
 * Byte fallback: a leading space is dropped once, byte tokens gather to
 * characters, an unfinished run becomes one U+FFFD for each of its bytes.
 */

static void
test_fallback(void **state)
{
    char              text[256];
    size_t            n;
    uint32_t          e2, x82, xac, space, hello, bos;
    moe_tokenizer_t  *t;

    t = test_load("mixtral");
    e2 = moe_tokenizer_id(t, "<0xE2>", 6);
    x82 = moe_tokenizer_id(t, "<0x82>", 6);
    xac = moe_tokenizer_id(t, "<0xAC>", 6);
    space = moe_tokenizer_id(t, "\xE2\x96\x81", 3);
    hello = moe_tokenizer_id(t, "\xE2\x96\x81Hello", 8);
    bos = moe_tokenizer_bos(t);

    uint32_t  euro[] = { bos, space, e2, x82, xac, hello };
    uint32_t  cut[] = { hello, e2, x82, hello, e2 };

    n = test_decode(t, euro, 6, MOE_DETOK_SKIP_SPECIAL, text, sizeof(text));
    assert_int_equal(n, 9);
    assert_memory_equal(text, "\xE2\x82\xAC Hello", 9);

    n = test_decode(t, euro, 6, 0, text, sizeof(text));
    assert_int_equal(n, 13);
    assert_memory_equal(text, "<s> \xE2\x82\xAC Hello", 13);

    n = test_decode(t, cut, 5, 0, text, sizeof(text));
    assert_int_equal(n, 5 + 6 + 6 + 3);
    assert_memory_equal(text, "Hello\xEF\xBF\xBD\xEF\xBF\xBD Hello"
                        "\xEF\xBF\xBD", n);

    moe_tokenizer_free(t);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_random_ids),
        cmocka_unit_test(test_held),
        cmocka_unit_test(test_no_such_id),
        cmocka_unit_test(test_fallback),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
