/*
 * stream: what of one choice goes to the client, between rank and worker.
 *
 * Token ids go in, one at a time, with their log-probability records; whole
 * UTF-8 characters come out.  Text in which a stop string may be beginning is
 * held back; a stop string that is complete ends the stream, and neither it
 * nor what follows comes out.  What came out is kept in small pieces until
 * the worker has room, and many pieces make one delta.
 */

#ifndef MOE_STREAM_H
#define MOE_STREAM_H


#include <stddef.h>
#include <stdint.h>

#include "jobq.h"
#include "front/stops.h"
#include "text/detok.h"
#include "text/tokenizer.h"


/* at most as many bytes of text in a piece, and bytes of a token in a
 * record */
#define MOE_STREAM_PIECE     4096
#define MOE_STREAM_LP_BYTES  256

/* the payload of a delta is cut here, its ids there */
#define MOE_STREAM_DELTA     16384
#define MOE_STREAM_IDS       1024


/* a queue of bytes: what is taken at the head makes room in time */
typedef struct {
    uint8_t                 *data;
    size_t                   head;
    size_t                   n;          /* bytes after head */
    size_t                   cap;
} moe_buf_t;


/* one token, or more text of the one before */
typedef struct {
    uint32_t                 id;
    uint32_t                 ntext;
    uint32_t                 lp_size;
    uint8_t                  has_id;
    uint8_t                  nlp;
    uint8_t                  echo;
    uint8_t                  reserved;
} moe_piece_t;


typedef struct {
    const moe_tokenizer_t   *tokenizer;
    const moe_stops_t       *stops;      /* NULL: none */
    moe_stops_state_t        state;
    moe_detok_t              detok;
    moe_ids_t                ids;        /* sampled, for a continuation */
    uint64_t                 skip;       /* bytes that were delivered before */
    uint32_t                 min_tokens; /* stop strings count after these */
    uint32_t                 sent;       /* sampled ids that are delivered */
    moe_finish_e             finish;
    uint8_t                  finish_sent;
    uint8_t                  stopped;    /* by a stop string */
    uint8_t                  failed;     /* no memory */
    moe_buf_t                held;
    moe_buf_t                text;
    moe_buf_t                lp;
    moe_buf_t                pieces;     /* of moe_piece_t */
    uint32_t                 cut;        /* text of the piece being made */

    struct {                             /* what the last delta has of it */
        size_t               pieces;
        size_t               text;
        size_t               lp;
        uint32_t             ids;
    } taken;
} moe_stream_t;


/* All zeros is a stream that moe_stream_free() takes.  flags: MOE_DETOK_*. */
void moe_stream_init(moe_stream_t *s, const moe_tokenizer_t *t,
    const moe_stops_t *stops, uint32_t min_tokens, unsigned flags);

void moe_stream_free(moe_stream_t *s);

/*
 * Continues: n ids and ntext bytes of their text were delivered before.  The
 * ids may end the stream by a stop string, as they did when they were new.
 */
void moe_stream_replay(moe_stream_t *s, const uint32_t *ids, uint32_t n,
    uint64_t ntext);

/*
 * Takes a sampled id.  lp is the token's record as a rank writes it, followed
 * by its alternatives, lp_size bytes or 0; it is given the tokens' bytes.  1:
 * a stop string ended the stream, 0: it goes on, -1: no memory or a record
 * that is not one.
 */
int moe_stream_push(moe_stream_t *s, uint32_t id, const void *lp,
    size_t lp_size);

/* The text ends, for this reason unless a stop string was first. */
int moe_stream_finish(moe_stream_t *s, moe_finish_e why);

/* Text that is not sampled: of the prompt where echo is set. */
int moe_stream_text(moe_stream_t *s, const char *text, size_t len, int echo);

/* An id without text: of the prompt, with its record, where echo is set. */
int moe_stream_id(moe_stream_t *s, uint32_t id, const void *lp,
    size_t lp_size, int echo);

/* Whether there is something to deliver. */
int moe_stream_ready(const moe_stream_t *s);

/*
 * Makes a delta of what is there, up to the limits above; its choice and
 * total_tokens are the caller's.  ids is room for MOE_STREAM_IDS.  The delta
 * points into the stream; it is gone from it after moe_stream_taken(), which
 * returns how many sampled ids it had.
 */
void moe_stream_delta(moe_stream_t *s, moe_delta_t *d, uint32_t *ids);
uint32_t moe_stream_taken(moe_stream_t *s);

/* Forgets what was not delivered. */
void moe_stream_drop(moe_stream_t *s);


/* The end of the last character in text[0 .. n) that is whole. */
size_t moe_utf8_cut(const char *text, size_t n);


#endif /* MOE_STREAM_H */
