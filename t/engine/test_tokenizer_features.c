/*
 * What the big vocabularies do not use, on small tokenizers, against the
 * reference: t/golden/tokenizer/features.json, by tools/tokenizers/features.py.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "text/detok.h"
#include "text/tokenizer_load.h"


#define FEATURES  "t/golden/tokenizer/features.json"


typedef struct {
    json_t      *pieces;                /* an array to compare with */
    size_t       n;
    const char  *pattern;
    const char  *text;
} test_pieces_t;


static json_t *
test_features(void)
{
    json_t        *root;
    json_error_t   e;

    root = json_load_file(FEATURES, JSON_ALLOW_NUL, &e);
    if (root == NULL) {
        fail_msg("%s: line %d: %s", FEATURES, e.line, e.text);
    }

    return root;
}


/* the smallest tokenizer with a given pre-tokenizer */

static moe_tokenizer_t *
test_pretok(json_t *step)
{
    char             *text;
    json_t           *root;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    root = json_pack("{s:O, s:{s:s}, s:{s:s, s:{}, s:[]}}", "pre_tokenizer",
                     step, "decoder", "type", "Fuse", "model", "type", "BPE",
                     "vocab", "merges");
    assert_non_null(root);

    t = moe_tokenizer_build(root, NULL, NULL, &err);
    json_decref(root);

    if (t == NULL) {
        text = json_dumps(step, 0);
        fail_msg("%s: %s", text, err.text);
    }

    return t;
}


static int
test_piece(void *ctx, const char *s, size_t len, moe_err_t *err)
{
    json_t         *want;
    test_pieces_t  *p = ctx;

    want = json_array_get(p->pieces, p->n++);

    if (want == NULL || json_string_length(want) != len
        || memcmp(json_string_value(want), s, len) != 0)
    {
        fail_msg("%s on \"%s\": piece %zu is \"%.*s\", not \"%s\"",
                 p->pattern, p->text, p->n - 1, (int) len, s,
                 want ? json_string_value(want) : "(none)");
    }

    return 0;
}


static void
test_pretokenizers(void **state)
{
    json_t                *root, *item, *one, *text;
    size_t                 i, j;
    moe_err_t              err;
    test_pieces_t          p;
    moe_tokenizer_t       *t;
    moe_pretok_scratch_t   scratch;

    root = test_features();

    json_array_foreach(json_object_get(root, "pieces"), i, item) {
        t = test_pretok(json_object_get(item, "pre_tokenizer"));
        memset(&scratch, 0, sizeof(scratch));
        p.pattern = json_dumps(json_object_get(item, "pre_tokenizer"), 0);

        json_array_foreach(json_object_get(item, "cases"), j, one) {
            text = json_array_get(one, 0);
            p.pieces = json_array_get(one, 1);
            p.text = json_string_value(text);
            p.n = 0;

            assert_int_equal(
                moe_pretok_run(&t->pretok, &scratch, json_string_value(text),
                               json_string_length(text), 1, test_piece, &p,
                               &err), 0);

            if (p.n != json_array_size(p.pieces)) {
                fail_msg("%s on \"%s\": %zu pieces, not %zu", p.pattern,
                         p.text, p.n, json_array_size(p.pieces));
            }
        }

        free((char *) p.pattern);
        moe_pretok_scratch_free(&scratch);
        moe_tokenizer_free(t);
    }

    assert_true(i > 80);
    json_decref(root);
}


static void
test_ids(moe_tokenizer_t *t, json_t *text, json_t *want, unsigned flags,
    size_t number)
{
    size_t     i, n;
    moe_err_t  err;
    moe_ids_t  ids = { 0 };

    assert_int_equal(moe_tokenizer_encode(t, json_string_value(text),
                                          json_string_length(text), NULL,
                                          MOE_TOK_SPECIAL | flags, &ids,
                                          &err), 0);
    n = json_array_size(want);

    for (i = 0; i < n || i < ids.n; i++) {
        if (i >= n || i >= ids.n
            || json_integer_value(json_array_get(want, i)) != ids.ids[i])
        {
            fail_msg("tokenizer %zu: \"%s\": id %zu of %zu is %ld, not %ld",
                     number, json_string_value(text), i, n,
                     i < ids.n ? (long) ids.ids[i] : -1,
                     i < n ? (long) json_integer_value(json_array_get(want, i))
                           : -1);
        }
    }

    moe_ids_free(&ids);
}


static void
test_text(moe_tokenizer_t *t, json_t *ids, json_t *want, unsigned flags,
    size_t number)
{
    char         out[MOE_DETOK_MAX], all[16384];
    size_t       i, n, len = 0;
    moe_detok_t  d;

    moe_detok_init(&d, t, flags);

    for (i = 0; i <= json_array_size(ids); i++) {
        if (i < json_array_size(ids)) {
            n = moe_detok_push(&d, (uint32_t) json_integer_value(
                                   json_array_get(ids, i)), out);

        } else {
            n = moe_detok_flush(&d, out);
        }

        assert_true(n <= sizeof(all) - len);
        memcpy(all + len, out, n);
        len += n;
    }

    if (len != json_string_length(want)
        || memcmp(all, json_string_value(want), len) != 0)
    {
        fail_msg("tokenizer %zu: text \"%.*s\", not \"%s\"", number,
                 (int) len, all, json_string_value(want));
    }
}


static void
test_tokenizers(void **state)
{
    json_t           *root, *item, *one, *doc, *model;
    size_t            i, j;
    moe_err_t         err;
    moe_tokenizer_t  *t;

    root = test_features();

    json_array_foreach(json_object_get(root, "ids"), i, item) {
        doc = json_object_get(item, "tokenizer");
        model = json_object_get(doc, "model");
        json_object_set(model, "vocab", json_object_get(root, "vocab"));
        json_object_set(model, "merges", json_object_get(root, "merges"));

        t = moe_tokenizer_build(doc, NULL, NULL, &err);
        if (t == NULL) {
            fail_msg("tokenizer %zu: %s", i, err.text);
        }

        json_array_foreach(json_object_get(item, "cases"), j, one) {
            test_ids(t, json_array_get(one, 0), json_array_get(one, 1), 0, i);
            test_ids(t, json_array_get(one, 0), json_array_get(one, 2),
                     MOE_TOK_ADD_BOS, i);
            test_text(t, json_array_get(one, 1), json_array_get(one, 3),
                      MOE_DETOK_SKIP_SPECIAL, i);
            test_text(t, json_array_get(one, 2), json_array_get(one, 4), 0,
                      i);
        }

        moe_tokenizer_free(t);
    }

    assert_true(i > 15);
    json_decref(root);
}


static void
test_refused(const char *pattern, const char *why)
{
    moe_err_t   err;
    moe_onig_t  re;

    assert_int_equal(moe_onig_compile(&re, pattern, strlen(pattern), 0, &err),
                     -1);

    if (strstr(err.text, why) == NULL) {
        fail_msg("%s: \"%s\" does not say \"%s\"", pattern, err.text, why);
    }
}


/* what would mean something else to PCRE2 is refused, not run */

static void
test_patterns_refused(void **state)
{
    moe_err_t   err;
    moe_onig_t  re;

    test_refused("(?i:ss)", "caseless");
    test_refused("(?i:\xC3\x9F)", "caseless");
    test_refused("a(?i)b", "middle of a group");
    test_refused("(?x:a b)", "not supported");
    test_refused("(?<name>a)", "not supported");
    test_refused("(?P<name>a)", "not supported");
    test_refused("(?~abc)", "not supported");
    test_refused("(*UTF)a", "group");
    test_refused("\\xE9", "byte");
    test_refused("\\Qa\\E", "\\Q");
    test_refused("\\R", "\\R");
    test_refused("\\G", "\\G");
    test_refused("[[:alpha:]]", "[:name:]");
    test_refused("[]", "empty set");
    test_refused("[a&&]", "empty set");
    test_refused("[a", "no end");
    test_refused("(a", "no end");
    test_refused("a)", "too many");
    test_refused("\\", "backslash");
    test_refused("\\p{NoSuchScript}", "unknown property");
    test_refused("\\pL", "braces");
    test_refused("\\u12", "four digits");
    test_refused("{2}", "repeat");
    test_refused("[[[[[[[[[[[a]]]]]]]]]]]", "nest");
    test_refused("\xFF", "UTF-8");

    assert_int_equal(moe_onig_compile(&re, "a\0b", 3, 0, &err), -1);
    assert_non_null(strstr(err.text, "NUL"));
}


/* a pattern that needs exponential time ends with an error, and soon */

static void
test_pattern_limits(void **state)
{
    int                  rc;
    char                 text[64];
    size_t               start, end;
    moe_err_t            err;
    moe_onig_t           re;
    moe_onig_iter_t      it = { 0 };
    moe_onig_scratch_t   scratch = { 0 };

    memset(text, 'a', sizeof(text));
    assert_int_equal(moe_onig_compile(&re, "(?:a|aa|a+)+b|(a*)*c", 20, 0,
                                      &err), 0);

    it.re = &re;
    it.scratch = &scratch;
    it.text = text;
    it.len = sizeof(text);

    rc = moe_onig_next(&it, &start, &end, &err);
    assert_int_equal(rc, -1);
    assert_non_null(strstr(err.text, "limit"));

    moe_onig_scratch_free(&scratch);
    moe_onig_free(&re);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_pretokenizers),
        cmocka_unit_test(test_tokenizers),
        cmocka_unit_test(test_patterns_refused),
        cmocka_unit_test(test_pattern_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
