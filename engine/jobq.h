/*
 * jobq: the shared-memory job queue.
 *
 * The same code runs on both hops: nginx worker -> front, front -> rank.  It
 * includes nothing of either side.  "Submitter" is the side that submits jobs
 * (worker; front towards a rank), "engine" the side that takes them.
 *
 * A lane
 *
 *   One SOCK_SEQPACKET connection and two memfds, one made by each side.  The
 *   maker maps its half read-write and then seals it (SHRINK, GROW,
 *   FUTURE_WRITE, SEAL); the peer checks seals and size before it maps the
 *   half read-only.  So every word has one writer, and no side can make the
 *   other take a SIGBUS.
 *
 *       submitter's half                  engine's half
 *       ring of jobs         ------>      tail of the ring of jobs
 *       tail of events       <------      ring of events
 *                                         statistics page
 *
 * A half, to the byte (all little-endian, the machine's own order)
 *
 *       0   u32 magic       MOE_HALF_MAGIC
 *       4   u32 version     MOE_JOBQ_VERSION
 *       8   u32 side        moe_side_e
 *      12   u32 ring_size   bytes, a power of two, 64 KiB .. 1 GiB
 *      64   u32 head        bytes ever put into this half's ring, mod 2^32
 *     128   u32 tail        bytes ever taken from the peer's ring
 *     192   u32 wake        position in the peer's ring: kick me when your
 *                           head passes it (virtio's EVENT_IDX)
 *     256   u32 starved     1: kick me when you have taken something
 *    4096   u32 seq         statistics page: seqlock, odd while written
 *    4104   u64 [..]        moe_stats_t (the engine's half only)
 *    8192   u32 seq         experts page, likewise
 *    8200   u64 [..]        moe_experts_t (the engine's half only)
 *   65536   ring            ring_size bytes; frames wrap around its end
 *
 * A frame is a moe_frame_t and its payload; its size, a multiple of eight,
 * is at most half the ring (a job) and MOE_EVENT_MAX (an event).  What is
 * read from the peer's memory is copied once, and only the copy is checked
 * and used.  A frame for a (slot, gen) that is no longer live is dropped.
 *
 * Credit, in bytes and per job, is what the submitter can still hold: it
 * comes with the job and is returned by CREDIT as the client drains.  Between
 * worker and front a DELTA costs its frame's size, between front and rank
 * MOE_TOKEN_CREDIT a sampled token.  An engine whose job has no credit left
 * parks the job and goes on with the others.
 *
 * Wake-ups are one byte, 'k', on the socket, sent only to a side that sleeps;
 * a full socket buffer means that one is pending already.  The socket is also
 * the sign of life: when a side dies the other gets a hang-up at once.
 */

#ifndef MOE_JOBQ_H
#define MOE_JOBQ_H


#include <stddef.h>
#include <stdint.h>


#define MOE_JOBQ_VERSION     3
#define MOE_HALF_MAGIC       0x716a6f6d         /* "mojq" */
#define MOE_HELLO_MAGIC      0x686a6f6d         /* "mojh" */

#define MOE_RING_OFFSET      65536
#define MOE_RING_MIN         65536
#define MOE_RING_MAX         (1u << 30)
#define MOE_EVENT_MAX        32768

#define MOE_TOKEN_CREDIT     64

#define MOE_SLOTS            16384              /* live jobs a lane */
#define MOE_MODELS_MAX       16
#define MOE_MODEL_NAME_MAX   256
#define MOE_CHOICES_MAX      128                /* prompts x n */
#define MOE_STOPS_MAX        16
#define MOE_TOP_LOGPROBS     20

#define moe_align8(n)        (((size_t) (n) + 7) & ~(size_t) 7)

#define MOE_UNLIMITED        0xffffffffu        /* max_tokens: to the end */

#define MOE_PRIORITY_MAX     100                /* either way from 0 */
#define MOE_WEIGHT_MAX       1000


/* what the functions below return */

#define MOE_JOBQ_OK          0
#define MOE_JOBQ_AGAIN       1          /* nothing there, or no room */
#define MOE_JOBQ_ERROR       (-1)       /* errno; EPROTO: peer broke the
                                           protocol; ECONNRESET: it left */


typedef enum {
    MOE_SIDE_SUBMITTER = 1,
    MOE_SIDE_ENGINE = 2
} moe_side_e;


typedef struct {
    uint32_t    size;          /* of the whole frame, multiple of 8, >= 16 */
    uint16_t    type;
    uint16_t    reserved;
    uint32_t    slot;
    uint32_t    gen;
} moe_frame_t;


typedef enum {
    /* submitter to engine */
    MOE_FRAME_JOB = 1,         /* payload: moe_job_t as moe_job_write() */
    MOE_FRAME_CANCEL,          /* no payload */
    MOE_FRAME_CREDIT,          /* payload: u32 bytes drained, u32 zero */

    /* engine to submitter */
    MOE_FRAME_STARTED = 16,    /* first prefill chunk is scheduled */
    MOE_FRAME_DELTA,
    MOE_FRAME_END              /* exactly one a job, the last of it */
} moe_frame_e;


/*
 * Hello.  The submitter speaks first and sends its half's descriptor; the
 * engine answers with its own, or refuses: status is an HTTP-like code, 200
 * when the lane stands, and text says why not.
 */

typedef struct {
    char        name[MOE_MODEL_NAME_MAX];      /* NUL-terminated */
    uint64_t    created;                       /* seconds, Unix time */
    uint32_t    context;                       /* tokens */
    uint32_t    reserved;
} moe_hello_model_t;


typedef struct {
    uint32_t            magic;
    uint32_t            version;
    uint32_t            side;
    uint32_t            status;
    uint32_t            ring_size;             /* of the sender's half */
    uint32_t            slots;
    uint32_t            max_job;               /* bytes, payload of a JOB */
    uint32_t            nmodels;
    uint8_t             fingerprint[32];
    char                text[128];
    moe_hello_model_t   models[MOE_MODELS_MAX];
} moe_hello_t;


/*
 * Statistics: cumulative unless said otherwise; written by the engine only,
 * all words of 64 bits, so that a reader can copy it word by word.
 * Histogram buckets count values up to moe_stats_bounds_us[i], the last one
 * everything above.
 */

#define MOE_STATS_BUCKETS    20

typedef enum {
    MOE_STATE_LOADING = 0,
    MOE_STATE_READY,
    MOE_STATE_DRAINING,
    MOE_STATE_FAILED
} moe_state_e;

typedef struct {
    uint64_t    count[MOE_STATS_BUCKETS];
    uint64_t    sum_us;
} moe_histogram_t;

typedef struct {
    uint64_t           state;               /* moe_state_e, now */
    uint64_t           progress;            /* of loading, 0 .. 1000, now */
    uint64_t           started;             /* Unix time of the engine */
    uint64_t           updated_us;          /* CLOCK_MONOTONIC */
    uint64_t           last_token_us;       /* CLOCK_MONOTONIC */
    uint64_t           ranks;               /* configured */
    uint64_t           ranks_up;            /* now */
    uint64_t           rank_restarts;
    uint64_t           waiting;             /* jobs in the queue, now */
    uint64_t           running;             /* jobs in a rank, now */
    uint64_t           parked;              /* streams out of credit, now */
    uint64_t           accepted;
    uint64_t           finished;
    uint64_t           cancelled;
    uint64_t           failed;
    uint64_t           refused;             /* before they were accepted */
    uint64_t           refused_share;       /* of them: the key's share of the
                                             * queue was used up */
    uint64_t           refused_full;        /* the queue was full */
    uint64_t           refused_late;        /* it would have waited longer
                                             * than it may */
    uint64_t           refused_memory;      /* no room for its record */
    uint64_t           queue_timeouts;      /* jobs that waited too long */
    uint64_t           displaced;           /* waiting jobs that gave way to
                                             * another key or class */
    uint64_t           prompt_tokens;
    uint64_t           cached_tokens;
    uint64_t           completion_tokens;
    uint64_t           draft_tokens;        /* computed ahead on a guess */
    uint64_t           draft_accepted;      /* of them, those that were right */
    uint64_t           steps;
    uint64_t           kv_pages;            /* total, now */
    uint64_t           kv_pages_used;       /* by running jobs, now */
    uint64_t           kv_pages_cached;     /* prefixes nobody uses, now */
    uint64_t           lanes;               /* workers connected, now */
    uint64_t           lanes_broken;        /* closed for a violation */
    uint64_t           placements;          /* of experts, by their loads */
    uint64_t           skew_before;         /* thousandths: largest load of a
                                             * rank over the mean, now, as
                                             * experts were placed ... */
    uint64_t           skew;                /* ... and as they are */
    uint64_t           halved;              /* steps in two halves */
    uint64_t           halves_sizes;        /* at which they are now: bit i is
                                             * 2^i to 2^(i + 1) - 1 rows */
    uint64_t           halves_rows;         /* size of those last measured,
                                             * and thousandths: time of a
                                             * whole one over theirs */
    uint64_t           halves_gain;
    moe_histogram_t    queue;
    moe_histogram_t    ttft;
    moe_histogram_t    itl;
} moe_stats_t;

/*
 * Where the rows of spread experts go, at the last look: for each of layers
 * (which has experts) first the load of each expert, then that of each rank,
 * in thousandths of the mean, at most 65535.  A model of more layers than
 * there is room for shows the first ones.
 */

#define MOE_EXPERTS_CELLS    28640

typedef struct {
    uint32_t           layers;              /* 0: nothing is known */
    uint32_t           experts;             /* of a layer */
    uint32_t           ranks;
    uint32_t           version;             /* of the placement */
    uint64_t           rows;                /* that the look has counted */
    uint16_t           cells[MOE_EXPERTS_CELLS];
} moe_experts_t;

extern const uint64_t  moe_stats_bounds_us[MOE_STATS_BUCKETS - 1];

void moe_histogram_add(moe_histogram_t *h, uint64_t us);


/* One side's view of a lane. */

typedef struct {
    int            fd;             /* control socket; the caller closes it */
    moe_side_e     side;
    int            memfd;          /* own half, -1 once sent */
    uint8_t       *own;            /* own half, read-write */
    const uint8_t *peer;           /* peer's half, read-only; NULL before */
    uint32_t       own_size;       /* ring bytes */
    uint32_t       peer_size;
    uint32_t       head;           /* own ring: written, maybe unpublished */
    uint32_t       published;      /* own ring: published head */
    uint32_t       tail;           /* peer's ring: taken, maybe unpublished */
    uint32_t       released;       /* peer's ring: published tail */
    uint32_t       seen;           /* peer's ring: head last seen, checked */
    uint32_t       max_frame;      /* accepted from the peer */
    moe_frame_t    next;           /* checked copy, size 0 if none */
    const char    *why;            /* static text after MOE_JOBQ_ERROR */
} moe_lane_t;


/*
 * Creates and seals the own half.  size: ring bytes, rounded up to a power of
 * two within MOE_RING_MIN .. MOE_RING_MAX.  fd: the connected SOCK_SEQPACKET
 * socket, non-blocking.  OK or ERROR (errno is set, nothing to free).
 */
int moe_lane_create(moe_lane_t *l, int fd, moe_side_e side, size_t size);

/* Unmaps both halves and closes a memfd that was not sent; not the socket. */
void moe_lane_destroy(moe_lane_t *l);

/*
 * Sends the hello with the own half's descriptor.  The function fills in
 * magic, version, side, ring_size, slots and max_job.  OK, AGAIN or ERROR.
 */
int moe_lane_hello(moe_lane_t *l, moe_hello_t *hello);

/*
 * Receives the peer's hello, checks it and the descriptor that came with it
 * (seals, size, header) and maps the peer's half.  OK, AGAIN (nothing came
 * yet) or ERROR (l->why).  A refusal of the engine's is ERROR with
 * hello->status other than 200 and its text; hello->version may then differ.
 */
int moe_lane_accept(moe_lane_t *l, moe_hello_t *hello);

/*
 * Refuses a submitter before a lane exists: one hello with status and text.
 */
void moe_hello_refuse(int fd, uint32_t status, const char *text);


/*
 * Puts one frame of a header and up to two pieces of payload (b may be NULL)
 * into the own ring; not visible before moe_lane_flush().  OK, AGAIN (no
 * room now; the peer kicks when it has taken something) or ERROR (too large
 * for any ring, or the peer's tail is impossible).
 */
int moe_lane_put(moe_lane_t *l, unsigned type, uint32_t slot, uint32_t gen,
    const void *a, size_t na, const void *b, size_t nb);

/* Bytes of payload that a put would take now. */
size_t moe_lane_room(moe_lane_t *l);

/*
 * Publishes what was put and taken, and kicks the peer if it sleeps on either.
 * To be called once a turn of the event loop.  OK, or ERROR when the socket
 * is gone.
 */
int moe_lane_flush(moe_lane_t *l);

/*
 * The next frame of the peer's, header only, checked: OK, AGAIN or ERROR.
 * The payload is f->size - sizeof(moe_frame_t) bytes.
 */
int moe_lane_next(moe_lane_t *l, moe_frame_t *f);

/* Copies the payload of the frame last returned by next, and passes it;
 * buf may be NULL to skip it. */
void moe_lane_take(moe_lane_t *l, void *buf);

/*
 * Says that this side is going to sleep until a kick.  Returns 1 if it must
 * not, because something came in meanwhile; 0 otherwise.
 */
int moe_lane_sleep(moe_lane_t *l);

/*
 * Reads the kicks that are pending on the socket, at most 64 datagrams.
 * OK (socket drained), AGAIN (more may be there) or ERROR: the peer hung up
 * or sent something else.
 */
int moe_lane_drain(moe_lane_t *l);


/* Statistics page: engine's side writes, submitter's side reads.  A read is
 * OK, or AGAIN when no stable copy was seen in a bounded number of tries. */
void moe_lane_stats_write(moe_lane_t *l, const moe_stats_t *s);
int moe_lane_stats_read(const moe_lane_t *l, moe_stats_t *s);

/* Experts page, likewise; what is read fits its cells. */
void moe_lane_experts_write(moe_lane_t *l, const moe_experts_t *e);
int moe_lane_experts_read(const moe_lane_t *l, moe_experts_t *e);


/*
 * Job record.  Fixed fields, then sections; moe_job_read() leaves pointers
 * into the buffer that it parsed, which the caller keeps as long as the job.
 */

typedef enum {
    MOE_JOB_CHAT = 1,          /* messages */
    MOE_JOB_COMPLETION,        /* prompts, text or ids */
    MOE_JOB_TOKENIZE,          /* messages or one prompt -> ids */
    MOE_JOB_DETOKENIZE,        /* one prompt of ids -> text */
    MOE_JOB_PROBE,             /* through the scheduler and back */
    MOE_JOB_IDS                /* front to rank: one prompt of ids */
} moe_job_e;


#define MOE_JOB_STREAM           0x0001
#define MOE_JOB_ECHO             0x0002
#define MOE_JOB_IGNORE_EOS       0x0004
#define MOE_JOB_LOGPROBS         0x0008    /* of the sampled tokens */
#define MOE_JOB_NO_GEN_PROMPT    0x0010    /* add_generation_prompt false */
#define MOE_JOB_NO_SPECIAL       0x0020    /* tokenize: no BOS */
#define MOE_JOB_PROMPT_LOGPROBS  0x0040    /* echo with logprobs: the prompt's
                                              too, computed without cache */

/* which sampling fields the request or moe_default gave; the engine fills in
 * the others from generation_config.json, then OpenAI's defaults */

#define MOE_SET_TEMPERATURE      0x0001
#define MOE_SET_TOP_P            0x0002
#define MOE_SET_TOP_K            0x0004
#define MOE_SET_MIN_P            0x0008
#define MOE_SET_PRESENCE         0x0010
#define MOE_SET_FREQUENCY        0x0020
#define MOE_SET_REPETITION       0x0040


typedef struct {
    uint32_t         len;
    const char      *data;              /* not NUL-terminated */
} moe_str_t;

typedef struct {
    uint32_t         is_ids;
    uint32_t         n;                 /* bytes of text, or ids */
    const void      *data;              /* char, or uint32_t aligned to 4 */
} moe_prompt_t;

typedef struct {
    uint32_t         id;
    float            bias;
} moe_bias_t;

typedef struct {                        /* what a choice already delivered */
    uint32_t         choice;
    uint32_t         ntext;             /* bytes of text */
    uint32_t         nids;
    const uint32_t  *ids;
} moe_cont_t;


typedef struct {
    uint8_t          request_id[16];
    uint8_t          key[32];           /* SHA-256 of whom it counts for */
    uint64_t         seed;              /* always given: worker draws one */
    uint32_t         kind;              /* moe_job_e */
    uint32_t         flags;
    uint32_t         set;               /* MOE_SET_* */
    uint32_t         n;                 /* choices a prompt, >= 1 */
    uint32_t         choice;            /* IDS: which of the request's */
    uint32_t         max_tokens;        /* a choice; MOE_UNLIMITED */
    uint32_t         min_tokens;
    uint32_t         max_prompt;        /* tokens, MOE_UNLIMITED */
    uint32_t         top_logprobs;
    uint32_t         credit;            /* bytes the worker can hold now */
    uint32_t         timeout_ms;        /* in the queue; 0: none */
    int32_t          priority;          /* its class, larger goes first:
                                         * -MOE_PRIORITY_MAX to it */
    int32_t          top_k;             /* <= 0: all */
    float            temperature;
    float            top_p;
    float            min_p;
    float            presence;
    float            frequency;
    float            repetition;
    uint32_t         weight;            /* of the key, 1 to MOE_WEIGHT_MAX;
                                         * 0 is 1 */

    moe_str_t        model;             /* empty: the first */
    moe_str_t        messages;          /* JSON array */
    moe_str_t        tools;             /* JSON array, or empty */
    moe_str_t        kwargs;            /* chat_template_kwargs, or empty */
    moe_str_t        salt;              /* cache salt, or empty */

    uint32_t         nprompts;
    uint32_t         nstops;
    uint32_t         nstop_ids;
    uint32_t         nbias;
    uint32_t         nconts;

    moe_prompt_t     prompts[MOE_CHOICES_MAX];
    moe_str_t        stops[MOE_STOPS_MAX];
    const uint32_t  *stop_ids;
    const moe_bias_t *bias;
    moe_cont_t       conts[MOE_CHOICES_MAX];
} moe_job_t;


/* Bytes that moe_job_write() needs, or 0 when a count is over its limit. */
size_t moe_job_size(const moe_job_t *job);

/* buf: moe_job_size() bytes, aligned to 8. */
void moe_job_write(const moe_job_t *job, void *buf);

/*
 * Parses an untrusted record; buf is aligned to 8 and outlives the job.  OK,
 * or ERROR and *why, a static text.  Text is not checked for UTF-8, numbers
 * are checked for what the queue itself needs only (kind, n, counts).
 */
int moe_job_read(moe_job_t *job, const void *buf, size_t len,
    const char **why);


/* Event records. */

typedef struct {                        /* MOE_FRAME_STARTED */
    uint32_t         prompt_tokens;     /* over all prompts */
    uint32_t         cached_tokens;
    uint64_t         queue_us;
} moe_started_t;


typedef enum {
    MOE_FINISH_NONE = 0,
    MOE_FINISH_STOP,
    MOE_FINISH_LENGTH,
    MOE_FINISH_CANCELLED,
    MOE_FINISH_ERROR
} moe_finish_e;


#define MOE_DELTA_ECHO           0x01      /* of the prompt, not sampled */


typedef struct {                        /* MOE_FRAME_DELTA */
    uint16_t         choice;
    uint8_t          finish;            /* moe_finish_e: the choice's end */
    uint8_t          flags;
    uint32_t         completion_tokens; /* of this choice, so far */
    uint32_t         total_tokens;      /* sampled by the job, so far */
    uint32_t         nids;
    uint32_t         ntext;
    uint32_t         nlp;               /* log-probability records */
    uint32_t         lp_size;           /* their bytes, a multiple of 4 */
    const uint32_t  *ids;
    const char      *text;              /* whole UTF-8 characters */
    const void      *lp;
} moe_delta_t;


/*
 * A log-probability record: one token and its ntop alternatives, which follow
 * it as records with ntop 0.  len is 0 towards the front, which knows the
 * tokens' bytes; logprob is NaN for a prompt's first token.
 */

typedef struct {
    uint32_t         id;
    float            logprob;
    uint16_t         ntop;
    uint16_t         len;
    const char      *bytes;
} moe_lp_t;

size_t moe_lp_size(const moe_lp_t *lp);
void *moe_lp_write(const moe_lp_t *lp, void *p);       /* returns the end */

/* Reads the record at *p, before end, and moves *p past it.  OK or ERROR. */
int moe_lp_read(moe_lp_t *lp, const void **p, const void *end);


typedef struct {                        /* MOE_FRAME_END */
    uint32_t         status;            /* 200 finished, 499 cancelled, or
                                           the HTTP status of the error */
    uint32_t         retry_after;       /* seconds, with 429 and 503 */
    uint32_t         prompt_tokens;
    uint32_t         cached_tokens;
    uint32_t         completion_tokens; /* sampled by all choices */
    uint32_t         reserved;
    moe_str_t        code;              /* OpenAI's "code", or empty */
    moe_str_t        param;
    moe_str_t        message;
} moe_end_t;


/* Put one event each; results are moe_lane_put()'s. */
int moe_put_started(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_started_t *s);
int moe_put_delta(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_delta_t *d);
int moe_put_end(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_end_t *e);
int moe_put_job(moe_lane_t *l, uint32_t slot, uint32_t gen,
    const moe_job_t *job);      /* ERROR if over max_job or no memory */
int moe_put_cancel(moe_lane_t *l, uint32_t slot, uint32_t gen);
int moe_put_credit(moe_lane_t *l, uint32_t slot, uint32_t gen,
    uint32_t bytes);

/* Parse an event's payload, which stays the caller's; as moe_job_read(). */
int moe_started_read(moe_started_t *s, const void *buf, size_t len,
    const char **why);
int moe_delta_read(moe_delta_t *d, const void *buf, size_t len,
    const char **why);
int moe_end_read(moe_end_t *e, const void *buf, size_t len,
    const char **why);
int moe_credit_read(uint32_t *bytes, const void *buf, size_t len,
    const char **why);


#endif /* MOE_JOBQ_H */
