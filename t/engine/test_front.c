#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "front/stops.h"


/* stop strings */


typedef struct {
    size_t  end;            /* of the text, 0: no stop string is in it */
    size_t  len;
} found_t;


/* by looking at every end of every prefix, as the header says it */

static found_t
find_plainly(const moe_str_t *stops, uint32_t n, const char *text,
    size_t len)
{
    size_t    end;
    uint32_t  j;
    found_t   f;

    memset(&f, 0, sizeof(f));

    for (end = 1; end <= len && f.end == 0; end++) {
        for (j = 0; j < n; j++) {
            if (stops[j].len && stops[j].len <= end && stops[j].len > f.len
                && memcmp(text + end - stops[j].len, stops[j].data,
                          stops[j].len) == 0)
            {
                f.end = end;
                f.len = stops[j].len;
            }
        }
    }

    return f;
}


static size_t
held_plainly(const moe_str_t *stops, uint32_t n, const char *text, size_t len)
{
    size_t    k, held;
    uint32_t  j;

    held = 0;

    for (j = 0; j < n; j++) {
        for (k = 1; k < stops[j].len && k <= len; k++) {
            if (memcmp(text + len - k, stops[j].data, k) == 0 && k > held) {
                held = k;
            }
        }
    }

    return held;
}


static found_t
find_in_pieces(const moe_stops_t *s, const moe_str_t *stops, uint32_t n,
    const char *text, size_t len, unsigned seed)
{
    size_t             at, k, end, found;
    found_t            f;
    moe_stops_state_t  state;

    memset(&f, 0, sizeof(f));
    memset(&state, 0, sizeof(state));

    for (at = 0; at < len; at += k) {
        seed = seed * 1103515245 + 12345;
        k = 1 + (seed >> 16) % 5;

        if (k > len - at) {
            k = len - at;
        }

        found = 0;
        end = moe_stops_feed(s, &state, text + at, k, &found);

        if (end) {
            f.end = at + end;
            f.len = found;
            break;
        }

        assert_int_equal(moe_stops_held(s, &state),
                         held_plainly(stops, n, text, at + k));
    }

    return f;
}


static void
test_stops_random(void **unused)
{
    char         text[64], strings[4][8];
    int          round, hits;
    size_t       i;
    found_t      a, b;
    uint32_t     j, n;
    moe_str_t    stops[4];
    moe_stops_t  s;

    srand(7);
    hits = 0;

    for (round = 0; round < 20000; round++) {

        n = 1 + rand() % 4;

        for (j = 0; j < n; j++) {
            stops[j].len = rand() % 7;
            stops[j].data = strings[j];

            for (i = 0; i < stops[j].len; i++) {
                strings[j][i] = "ab"[rand() % 2];
            }
        }

        for (i = 0; i < sizeof(text); i++) {
            text[i] = "abc"[rand() % 16 == 0 ? 2 : rand() % 2];
        }

        assert_int_equal(moe_stops_init(&s, stops, n), 0);

        a = find_plainly(stops, n, text, sizeof(text));
        b = find_in_pieces(&s, stops, n, text, sizeof(text), rand());

        assert_int_equal(a.end, b.end);
        assert_int_equal(a.len, b.len);

        hits += a.end != 0;
        moe_stops_free(&s);
    }

    assert_true(hits > 1000 && hits < 20000);
}


int
main(void)
{
    const struct CMUnitTest  tests[] = {
        cmocka_unit_test(test_stops_random),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
