/*
 * rank: one computing process.
 *
 * It takes jobs of token ids from its lane, forms one batch a step of all
 * that run, and gives token ids back.  It knows no text and no keys.
 *
 *     front (submitter)  --- MOE_JOB_IDS, MOE_JOB_PROBE, CANCEL, CREDIT -->
 *                        <-- STARTED, DELTA, END ---------------------  rank
 *
 * The front makes a SOCK_SEQPACKET socketpair, forks, and calls
 * moe_rank_main() in the child with one end; the other end is the front's as
 * MOE_SIDE_SUBMITTER of a lane.  The rank opens its model, which maps the
 * weights, and only then answers the front's hello: its fingerprint covers
 * them.  So a rank whose hello is outstanding is loading; one that answered
 * is ready; one that cannot open its model refuses the hello with status 500
 * and the reason, and exits.  The hello has one model: the directory's last
 * name, and as its context the most positions that one sequence can have
 * here (the model's, the option's, or what the KV pages hold).
 *
 * A job (MOE_JOB_IDS)
 *
 *   prompts[0]   ids, one prompt, not empty, below the vocabulary's size.
 *   conts[0]     where nconts is 1: ids already generated.  They count in
 *                every max_tokens, min_tokens and completion_tokens, and are
 *                not sent again; ntext is not looked at.
 *   n            1; choice is the generator's choice number, DELTA's too.
 *   sampling     every field is used as it is, set is not looked at.
 *   stop_ids     ids that end the answer with MOE_FINISH_STOP; not looked at
 *                with MOE_JOB_IGNORE_EOS.  Below min_tokens they cannot be
 *                sampled.
 *   credit       each sampled token takes MOE_TOKEN_CREDIT of it; with less
 *                than that the job is parked until MOE_FRAME_CREDIT.
 *   priority     larger goes first; front's order where equal.
 *
 *   STARTED comes when the first chunk of the prompt is scheduled, once.
 *   DELTA comes with each sampled token: its id, running counts and, with
 *   MOE_JOB_LOGPROBS, one record of it with top_logprobs alternatives.  With
 *   MOE_JOB_PROMPT_LOGPROBS and no continuation, DELTAs with MOE_DELTA_ECHO
 *   come first, which have all ids of the prompt and a record of each.  The
 *   last DELTA has finish; a stop id is sampled, counted and among its ids.
 *   END comes exactly once, also after CANCEL (499, within one step).  A
 *   prompt that does not fit the context is END 400 with code
 *   "context_length_exceeded"; at the context's end finish is LENGTH.
 *
 * A probe is answered by END 200 once a step of the scheduler has passed.
 *
 * With spread experts the ranks of an engine step together: one that has
 * nothing to compute joins the others' steps, and all of them sleep when none
 * has.  One that misses another waits until the front has published an epoch
 * without it, and does its step again.  Ranks that a launcher has started do
 * not: one that misses another ends, and so do all.  One whose front has gone
 * computes for the others until all fronts have.
 */

#ifndef MOE_RANK_H
#define MOE_RANK_H


#include <stddef.h>
#include <stdint.h>

#include "ep/mpi.h"
#include "ep/shm.h"
#include "gen.h"
#include "model/model.h"


/* zero is a good default everywhere but in model_dir and nranks */
typedef struct {
    const char       *model_dir;
    uint32_t          rank;
    uint32_t          nranks;         /* that the front has */
    uint32_t          threads;        /* computing; 0: all it may run on */
    uint64_t          kv_bytes;       /* of KV pages; 0: from the memory of
                                       * the machine */
    uint32_t          max_context;    /* tokens a sequence; 0: the model's */
    uint32_t          max_running;    /* sequences in a batch; 0: 64 */
    uint32_t          step_tokens;    /* rows in a step; 0: 512 */
    uint32_t          prefill_chunk;  /* rows of one prompt in a step; 0:
                                       * 256 */
    uint32_t          step_ms;        /* that a step with prompts takes while
                                       * others decode; 0: no end */
    size_t            lane_size;      /* of the ring of events; 0: 8 MiB */
    moe_draft_e       draft;          /* by the model's MTP layer, if any */
    moe_kv_format_e   kv_format;
    const char       *kernels;        /* moe_model_options_t's */
    uint32_t          device;         /* likewise */
    moe_row_format_e  row_format;
    moe_shm_t        *shm;            /* the segment of spread experts; NULL:
                                       * the rank has them all */
    const moe_mpi_t  *mpi;            /* or the ranks that a launcher has
                                       * started, and that have joined; NULL:
                                       * none */
    moe_overlap_e     overlap;        /* mpi: of steps in halves */
    moe_mpi_balance_options_t
                      balance;        /* mpi: of the experts */
    int             (*ended)(void *ctx); /* mpi: asked once after the front
                                       * has hung up: 1, it has done all it
                                       * had to; 0, it has failed */
    void             *ended_ctx;
    uint32_t          exchange_ms;    /* most that it waits for another rank;
                                       * 0: 10 s */
    _Atomic uint32_t *progress;       /* in shared memory: how much is loaded
                                       * is stored there, 0 to 1000; or NULL */
} moe_rank_options_t;


/*
 * Runs a rank until the front hangs up; to be called in a child process that
 * has closed what it inherited and does not need, and has set up its log and
 * signals.  fd becomes non-blocking and is closed.  Returns the exit code: 0
 * after a hang-up, 1 after an error, which the log has.
 */
int moe_rank_main(const moe_rank_options_t *o, int fd);


#endif /* MOE_RANK_H */
