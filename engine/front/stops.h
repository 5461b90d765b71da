/*
 * stops: stop strings, looked for in text that comes in pieces.
 *
 * All of a job's strings are followed at once, byte for byte, so that where
 * text was cut into pieces changes nothing: the string whose last byte comes
 * first wins, and of several that end there the longest.  What may yet become
 * a stop string is held back by the caller, and moe_stops_held() says how
 * much that is.
 */

#ifndef MOE_STOPS_H
#define MOE_STOPS_H


#include <stddef.h>
#include <stdint.h>

#include "jobq.h"


typedef struct {
    uint32_t    n;
    uint32_t    len[MOE_STOPS_MAX];
    char       *text[MOE_STOPS_MAX];
    uint32_t   *fail[MOE_STOPS_MAX];      /* longest border of each prefix */
} moe_stops_t;


/* Bytes of each string that the text ends with; begins with zeros. */
typedef struct {
    uint32_t    at[MOE_STOPS_MAX];
} moe_stops_state_t;


/* Copies n <= MOE_STOPS_MAX strings; empty ones stop nothing.  -1: no
 * memory. */
int moe_stops_init(moe_stops_t *s, const moe_str_t *stops, uint32_t n);

void moe_stops_free(moe_stops_t *s);

/*
 * Goes on with n bytes of text.  0: no string is complete.  Otherwise the
 * number of those bytes up to the end of the one that is, whose length goes
 * to *len; nothing may be fed after that.
 */
size_t moe_stops_feed(const moe_stops_t *s, moe_stops_state_t *state,
    const char *text, size_t n, size_t *len);

/* How many bytes at the end of the text a stop string may begin with. */
size_t moe_stops_held(const moe_stops_t *s, const moe_stops_state_t *state);


#endif /* MOE_STOPS_H */
