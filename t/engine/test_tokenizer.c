/*
 * The tokenizer against what the reference library made of the same lines:
 * t/golden/tokenizer/, written by tools/tokenizers/.  The vocabularies are
 * looked for in $MOE_TOKENIZERS, or build/tokenizers.
 */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "kimi.h"
#include "text/detok.h"
#include "text/tokenizer.h"


#define GOLDEN  "t/golden/tokenizer/"


typedef struct {
    uint8_t  *data;
    size_t    len;
    size_t    at;
} test_file_t;


static void
test_open(test_file_t *f, const char *name, const char *ext)
{
    char   path[256];
    long   n;
    FILE  *fp;

    snprintf(path, sizeof(path), GOLDEN "%s%s", name, ext);

    fp = fopen(path, "rb");
    if (fp == NULL) {
        fail_msg("%s is missing (tests are run in the project's root)", path);
    }

    fseek(fp, 0, SEEK_END);
    n = ftell(fp);
    rewind(fp);

    f->len = (size_t) n;
    f->at = 0;
    f->data = malloc(f->len + 1);
    assert_non_null(f->data);
    assert_int_equal(fread(f->data, 1, f->len, fp), f->len);
    fclose(fp);
}


static uint32_t
test_number(test_file_t *f)
{
    int       shift;
    uint32_t  n = 0;

    for (shift = 0; shift < 32; shift += 7) {
        assert_true(f->at < f->len);
        n |= (uint32_t) (f->data[f->at] & 127) << shift;

        if (f->data[f->at++] < 128) {
            break;
        }
    }

    return n;
}


static const char *
test_bytes(test_file_t *f, size_t *n)
{
    const char  *s;

    *n = test_number(f);
    assert_true(*n <= f->len - f->at);
    s = (const char *) f->data + f->at;
    f->at += *n;

    return s;
}


/* loaded once for all tests */

static struct {
    const char       *name;
    moe_tokenizer_t  *t;
} test_loaded[8];


static moe_tokenizer_t *
test_load(const char *name)
{
    int               i;
    char              path[512];
    moe_err_t         err;
    const char       *dir;
    moe_tokenizer_t  *t;

    for (i = 0; test_loaded[i].name != NULL; i++) {
        if (strcmp(test_loaded[i].name, name) == 0) {
            return test_loaded[i].t;
        }
    }

    if (strcmp(name, "kimi") == 0) {
        t = kimi_load(test_load("qwen3"));

        for (i = 0; test_loaded[i].name != NULL; i++) { /* void */ }

        test_loaded[i].name = name;
        test_loaded[i].t = t;

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

    test_loaded[i].name = name;
    test_loaded[i].t = t;

    return t;
}


static int
test_unload(void **state)
{
    int  i;

    for (i = 0; test_loaded[i].name != NULL; i++) {
        moe_tokenizer_free(test_loaded[i].t);
    }

    return 0;
}


static double
test_now(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (double) ts.tv_sec + (double) ts.tv_nsec * 1e-9;
}


/* every line's ids are the reference's */

static void
test_golden(const char *name)
{
    double            t0, seconds = 0;
    size_t            i, n, len, lines = 0, tokens = 0, bytes = 0;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    const char       *s;
    test_file_t       text, gold;
    moe_tokenizer_t  *t;

    t = test_load(name);
    test_open(&text, "lines", ".bin");
    test_open(&gold, name, ".ids");

    for ( ; text.at < text.len; lines++) {
        s = test_bytes(&text, &len);
        ids.n = 0;

        t0 = test_now();
        assert_int_equal(moe_tokenizer_encode(t, s, len, NULL,
                                              MOE_TOK_SPECIAL, &ids, &err),
                         0);
        seconds += test_now() - t0;
        tokens += ids.n;
        bytes += len;

        n = test_number(&gold);

        if (n != ids.n) {
            fail_msg("%s: line %zu has %zu ids, not %zu: %.*s", name, lines,
                     ids.n, n, (int) len, s);
        }

        for (i = 0; i < n; i++) {
            if (test_number(&gold) != ids.ids[i]) {
                fail_msg("%s: line %zu: id %zu is %u: %.*s", name, lines, i,
                         ids.ids[i], (int) len, s);
            }
        }
    }

    assert_int_equal(gold.at, gold.len);
    assert_true(lines >= 10000);

    print_message("%s: %zu lines, %zu ids, %.1f M ids/s, %.1f MB/s\n", name,
                  lines, tokens, (double) tokens / seconds / 1e6,
                  (double) bytes / seconds / 1e6);

    moe_ids_free(&ids);
    free(text.data);
    free(gold.data);
}


static void
test_deepseek_v3(void **state)
{
    test_golden("deepseek_v3");
}


static void
test_deepseek_v2(void **state)
{
    test_golden("deepseek_v2");
}


static void
test_qwen3(void **state)
{
    test_golden("qwen3");
}


static void
test_gpt_oss(void **state)
{
    test_golden("gpt_oss");
}


static void
test_mixtral(void **state)
{
    test_golden("mixtral");
}


static void
test_demo(void **state)
{
    test_golden("demo");
}


static void
test_kimi(void **state)
{
    test_golden("kimi");
}


/* beyond the runs and lengths at which text for tiktoken is cut */

static void
test_kimi_long(void **state)
{
    char             *text;
    size_t            i, j, n, times, unit;
    uint64_t          hash;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    const char       *s;
    test_file_t       gold;
    moe_tokenizer_t  *t;

    t = test_load("kimi");
    test_open(&gold, "kimi", ".long");

    for (i = 0; gold.at < gold.len; i++) {
        s = test_bytes(&gold, &unit);
        times = test_number(&gold);
        n = test_number(&gold);
        text = malloc(unit * times);
        assert_non_null(text);

        for (j = 0; j < times; j++) {
            memcpy(text + j * unit, s, unit);
        }

        ids.n = 0;
        assert_int_equal(moe_tokenizer_encode(t, text, unit * times, NULL,
                                              MOE_TOK_SPECIAL, &ids, &err),
                         0);
        assert_int_equal(ids.n, n);

        hash = 0xCBF29CE484222325u;

        for (j = 0; j < n; j++) {
            hash = (hash ^ ids.ids[j]) * 0x100000001B3u;
        }

        assert_true(gold.len - gold.at >= sizeof(hash));
        assert_memory_equal(gold.data + gold.at, &hash, sizeof(hash));
        gold.at += sizeof(hash);
        free(text);
    }

    assert_true(i >= 10);
    moe_ids_free(&ids);
    free(gold.data);
}


static void
test_encode(const moe_tokenizer_t *t, const char *s, const char *trust,
    unsigned flags, moe_ids_t *ids)
{
    size_t     i, len = strlen(s);
    uint8_t   *trusted = NULL;
    moe_err_t  err;

    if (trust != NULL) {
        assert_int_equal(strlen(trust), len);
        trusted = malloc(len + 1);
        assert_non_null(trusted);

        for (i = 0; i < len; i++) {
            trusted[i] = trust[i] == '1';
        }
    }

    ids->n = 0;
    assert_int_equal(moe_tokenizer_encode(t, s, len, trusted, flags, ids,
                                          &err), 0);
    free(trusted);
}


static int
test_has(const moe_ids_t *ids, uint32_t id)
{
    size_t  i;

    for (i = 0; i < ids->n; i++) {
        if (ids->ids[i] == id) {
            return 1;
        }
    }

    return 0;
}


static void
test_bos(void **state)
{
    moe_ids_t         ids = { 0 };
    moe_tokenizer_t  *t;

    t = test_load("deepseek_v3");           /* by add_bos_token */
    assert_int_equal(moe_tokenizer_bos(t), 0);
    assert_int_equal(moe_tokenizer_eos(t), 1);
    assert_true(moe_tokenizer_adds_bos(t));
    assert_int_equal(moe_tokenizer_vocab_size(t), 128815);
    test_encode(t, "Hello", NULL, MOE_TOK_ADD_BOS, &ids);
    assert_int_equal(ids.n, 2);
    assert_int_equal(ids.ids[0], 0);
    assert_int_equal(ids.ids[1], 19923);
    test_encode(t, "Hello", NULL, 0, &ids);
    assert_int_equal(ids.n, 1);

    t = test_load("mixtral");               /* by its template */
    assert_int_equal(moe_tokenizer_bos(t), 1);
    test_encode(t, "", NULL, MOE_TOK_ADD_BOS, &ids);
    assert_int_equal(ids.n, 1);
    assert_int_equal(ids.ids[0], 1);

    t = test_load("qwen3");                 /* it has none */
    assert_int_equal(moe_tokenizer_bos(t), MOE_TOK_NONE);
    assert_int_equal(moe_tokenizer_eos(t), 151645);
    assert_false(moe_tokenizer_adds_bos(t));
    test_encode(t, "Hello", NULL, MOE_TOK_ADD_BOS, &ids);
    assert_int_equal(ids.n, 1);

    t = test_load("kimi");                  /* it adds none */
    assert_int_equal(moe_tokenizer_bos(t), KIMI_RANKS);
    assert_int_equal(moe_tokenizer_eos(t), KIMI_RANKS + 1);
    assert_false(moe_tokenizer_adds_bos(t));
    assert_int_equal(moe_tokenizer_vocab_size(t), KIMI_RANKS + 258);
    test_encode(t, "Hello", NULL, MOE_TOK_ADD_BOS, &ids);
    assert_int_equal(ids.n, 1);

    moe_ids_free(&ids);
}


static void
test_pieces(void **state)
{
    size_t            len;
    uint32_t          id;
    const char       *s;
    moe_tokenizer_t  *t;

    t = test_load("deepseek_v3");

    id = moe_tokenizer_id(t, "\xC4\xA0the", 5);     /* "Ġthe" */
    assert_int_not_equal(id, MOE_TOK_NONE);
    assert_int_equal(moe_tokenizer_piece(t, id, &s, &len), 0);
    assert_int_equal(len, 4);
    assert_memory_equal(s, " the", 4);
    assert_false(moe_tokenizer_is_special(t, id));

    id = moe_tokenizer_id(t, "<｜Assistant｜>", strlen("<｜Assistant｜>"));
    assert_int_equal(id, 128804);
    assert_int_equal(moe_tokenizer_piece(t, id, &s, &len), 0);
    assert_int_equal(len, strlen("<｜Assistant｜>"));
    assert_false(moe_tokenizer_is_special(t, id));

    assert_true(moe_tokenizer_is_special(t, 0));
    assert_int_equal(moe_tokenizer_id(t, "no such", 7), MOE_TOK_NONE);
    assert_int_equal(moe_tokenizer_piece(t, 128815, &s, &len), -1);
    assert_int_equal(moe_tokenizer_piece(t, UINT32_MAX, &s, &len), -1);
    assert_false(moe_tokenizer_is_special(t, UINT32_MAX));

    t = test_load("kimi");
    id = moe_tokenizer_id(t, "\xC4\xA0the", 5);
    assert_int_equal(moe_tokenizer_piece(t, id, &s, &len), 0);
    assert_int_equal(len, 4);
    id = moe_tokenizer_id(t, "<|im_end|>", 10);
    assert_int_equal(id, KIMI_RANKS + 2);
    assert_true(moe_tokenizer_is_special(t, id));
    assert_false(moe_tokenizer_is_special(t, KIMI_RANKS + 13));
    assert_int_equal(moe_tokenizer_piece(t, KIMI_RANKS + 257, &s, &len), 0);
    assert_int_equal(len, strlen("<|reserved_token_151900|>"));

    t = test_load("mixtral");
    id = moe_tokenizer_id(t, "<0xE2>", 6);
    assert_int_equal(moe_tokenizer_piece(t, id, &s, &len), 0);
    assert_int_equal(len, 1);
    assert_int_equal((uint8_t) s[0], 0xE2);
}


/* what a user writes never becomes an added token */

static void
test_trust(void **state)
{
    uint32_t          end;
    moe_ids_t         ids = { 0 }, all = { 0 };
    moe_tokenizer_t  *t;

    t = test_load("qwen3");                 /* raw added tokens, NFC */
    end = moe_tokenizer_id(t, "<|im_end|>", 10);

    test_encode(t, "a<|im_end|>b", "111111111111", MOE_TOK_SPECIAL, &ids);
    assert_true(test_has(&ids, end));
    assert_int_equal(ids.n, 3);

    test_encode(t, "a<|im_end|>b", "000000000000", MOE_TOK_SPECIAL, &ids);
    assert_false(test_has(&ids, end));

    /* the same as if there were no added tokens */

    test_encode(t, "a<|im_end|>b", NULL, 0, &all);
    assert_int_equal(ids.n, all.n);
    assert_memory_equal(ids.ids, all.ids, ids.n * sizeof(uint32_t));

    /* one byte of it that is the user's is enough */

    test_encode(t, "a<|im_end|>b", "111111111101", MOE_TOK_SPECIAL, &ids);
    assert_false(test_has(&ids, end));
    test_encode(t, "a<|im_end|>b", "101111111111", MOE_TOK_SPECIAL, &ids);
    assert_false(test_has(&ids, end));
    test_encode(t, "a<|im_end|>b", "011111111110", MOE_TOK_SPECIAL, &ids);
    assert_true(test_has(&ids, end));

    /* the user's before it, the template's behind it */

    test_encode(t, "<|im_end|><|im_end|>", "00000000001111111111",
                MOE_TOK_SPECIAL, &ids);
    assert_int_equal(ids.ids[ids.n - 1], end);
    assert_int_not_equal(ids.ids[0], end);

    t = test_load("deepseek_v3");           /* one found in normalized text */
    end = moe_tokenizer_id(t, "<|EOT|>", 7);
    assert_int_not_equal(end, MOE_TOK_NONE);
    test_encode(t, "x<|EOT|>y", "111111111", MOE_TOK_SPECIAL, &ids);
    assert_true(test_has(&ids, end));
    test_encode(t, "x<|EOT|>y", "111110111", MOE_TOK_SPECIAL, &ids);
    assert_false(test_has(&ids, end));
    test_encode(t, "x<|EOT|>\xFFy", "0111111100", MOE_TOK_SPECIAL, &ids);
    assert_true(test_has(&ids, end));
    test_encode(t, "\xFF\xFF<|EOT|>", "111101111", MOE_TOK_SPECIAL, &ids);
    assert_false(test_has(&ids, end));

    moe_ids_free(&ids);
    moe_ids_free(&all);
}


/* a refusal leaves the list as it was; appending goes on behind it */

static void
test_append(void **state)
{
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_tokenizer_t  *t;

    t = test_load("demo");

    assert_int_equal(moe_tokenizer_encode(t, "abc", 3, NULL, 0, &ids, &err),
                     0);
    assert_int_not_equal(ids.n, 0);
    assert_int_equal(moe_tokenizer_encode(t, "abc", (size_t) 1 << 40, NULL, 0,
                                          &ids, &err), -1);
    assert_non_null(strstr(err.text, "too long"));
    assert_int_equal(moe_tokenizer_encode(t, "", 0, NULL, 0, &ids, &err), 0);

    moe_ids_free(&ids);
}


/*
 * Long texts of one kind: what is quadratic anywhere shows here as minutes.
 * Decoding gives the text back where nothing normalizes it.
 */

static void
test_long(const char *name, int exact)
{
    char              out[MOE_DETOK_MAX];
    size_t            i, j, k, n, len, unit, m;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_detok_t       d;
    static char       text[256 * 1024], back[sizeof(text) + 16];
    moe_tokenizer_t  *t;

    static const char *const  units[] = {
        "a", " ", "\n", " \n", "=", "0", "ab", "\xE4\xB8\xAD", "\xC3\xA9",
        "\xCC\x81\xCC\xA3", "\xF0\x9F\x98\x80", "<", "<|im_start|", "'s", "\t",
        "The quick brown fox jumps over the lazy dog. ", "a\xCC\x81", "\x01"
    };

    t = test_load(name);

    for (i = 0; i < sizeof(units) / sizeof(units[0]); i++) {
        unit = strlen(units[i]);
        len = 0;

        while (len + unit <= sizeof(text)) {
            memcpy(text + len, units[i], unit);
            len += unit;
        }

        ids.n = 0;
        assert_int_equal(moe_tokenizer_encode(t, text, len, NULL,
                                              MOE_TOK_SPECIAL, &ids, &err),
                         0);
        assert_true(ids.n > 0 && ids.n <= len + 1);

        if (!exact) {
            continue;
        }

        moe_detok_init(&d, t, 0);

        for (j = 0, n = 0; j <= ids.n; j++) {
            m = j < ids.n ? moe_detok_push(&d, ids.ids[j], out)
                          : moe_detok_flush(&d, out);

            for (k = 0; k < m; k++) {
                assert_true(n < len);
                back[n++] = out[k];
            }
        }

        assert_int_equal(n, len);
        assert_memory_equal(back, text, len);
    }

    moe_ids_free(&ids);
}


static void
test_long_texts(void **state)
{
    test_long("deepseek_v3", 1);
    test_long("deepseek_v2", 1);
    test_long("qwen3", 0);
    test_long("gpt_oss", 1);
    test_long("kimi", 1);
    test_long("mixtral", 1);
    test_long("demo", 1);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_deepseek_v3),
        cmocka_unit_test(test_deepseek_v2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_gpt_oss),
        cmocka_unit_test(test_mixtral),
        cmocka_unit_test(test_demo),
        cmocka_unit_test(test_kimi),
        cmocka_unit_test(test_kimi_long),
        cmocka_unit_test(test_bos),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_trust),
        cmocka_unit_test(test_append),
        cmocka_unit_test(test_long_texts),
    };

    return cmocka_run_group_tests(tests, NULL, test_unload);
}
