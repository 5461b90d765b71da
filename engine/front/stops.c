#include <stdlib.h>
#include <string.h>

#include "front/stops.h"


/* Knuth, Morris and Pratt: fail[i] is the border of the first i + 1 bytes */

static void
moe_stops_compile(const char *text, uint32_t len, uint32_t *fail)
{
    uint32_t  i, k;

    fail[0] = 0;
    k = 0;

    for (i = 1; i < len; i++) {

        while (k > 0 && text[i] != text[k]) {
            k = fail[k - 1];
        }

        if (text[i] == text[k]) {
            k++;
        }

        fail[i] = k;
    }
}


int
moe_stops_init(moe_stops_t *s, const moe_str_t *stops, uint32_t n)
{
    uint32_t  i, len;

    memset(s, 0, sizeof(moe_stops_t));

    for (i = 0; i < n && i < MOE_STOPS_MAX; i++) {

        len = stops[i].len;

        if (len == 0) {
            continue;
        }

        s->text[s->n] = malloc(len);
        s->fail[s->n] = malloc((size_t) len * sizeof(uint32_t));
        s->len[s->n] = len;
        s->n++;

        if (s->text[s->n - 1] == NULL || s->fail[s->n - 1] == NULL) {
            moe_stops_free(s);
            return -1;
        }

        memcpy(s->text[s->n - 1], stops[i].data, len);
        moe_stops_compile(s->text[s->n - 1], len, s->fail[s->n - 1]);
    }

    return 0;
}


void
moe_stops_free(moe_stops_t *s)
{
    uint32_t  i;

    for (i = 0; i < s->n; i++) {
        free(s->text[i]);
        free(s->fail[i]);
    }

    s->n = 0;
}


static uint32_t
moe_stops_step(const char *text, const uint32_t *fail, uint32_t k, char c)
{
    while (k > 0 && text[k] != c) {
        k = fail[k - 1];
    }

    return text[k] == c ? k + 1 : 0;
}


size_t
moe_stops_feed(const moe_stops_t *s, moe_stops_state_t *state,
    const char *text, size_t n, size_t *len)
{
    size_t    i;
    uint32_t  j, longest;

    for (i = 0; i < n; i++) {
        longest = 0;

        for (j = 0; j < s->n; j++) {
            state->at[j] = moe_stops_step(s->text[j], s->fail[j],
                                          state->at[j], text[i]);

            if (state->at[j] == s->len[j] && s->len[j] > longest) {
                longest = s->len[j];
            }
        }

        if (longest) {
            *len = longest;
            return i + 1;
        }
    }

    return 0;
}


size_t
moe_stops_held(const moe_stops_t *s, const moe_stops_state_t *state)
{
    uint32_t  j, longest;

    longest = 0;

    for (j = 0; j < s->n; j++) {
        if (state->at[j] > longest) {
            longest = state->at[j];
        }
    }

    return longest;
}
