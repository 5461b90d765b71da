/*
 * model: an open model and its forward pass.
 *
 * A model is weights (mapped, shared with other processes), the memory of KV
 * pages and the scratch of one step.  The caller (a rank's scheduler) decides
 * which page belongs to whom; the model reads and writes the pages it is told.
 * One thread drives a model; it has helpers of its own.  Open it after fork().
 *
 * A row's results depend on its sequence alone: on the ids, positions and
 * roles from position 0 up to the row, never on the other rows of the batch,
 * on how a prompt was cut into steps, on page numbers or on thread count.
 *
 *     open -> kv_resize -> { step } -> close
 */

#ifndef MOE_MODEL_H
#define MOE_MODEL_H


#include <stdint.h>

#include "base/err.h"
#include "ep/carrier.h"
#include "ep/exchange.h"
#include "kernels/sampling.h"
#include "model/config.h"


typedef struct moe_model_s  moe_model_t;


/* KV positions a page */
enum { MOE_PAGE_SIZE = 16 };

/* roles of a row; kept with the row for life, also when it is computed anew */
enum {
    MOE_ROLE_PROMPT,
    MOE_ROLE_GENERATED
};

typedef enum {
    MOE_KV_F32,
    MOE_KV_BF16,
    MOE_KV_I8           /* groups of 32 with a scale each, 9 bits a value */
} moe_kv_format_e;

/* "f32", "bf16", "int8" */
const char *moe_kv_format_name(moe_kv_format_e format);

/* -1: no such name */
int moe_kv_format_parse(const char *name, moe_kv_format_e *format);


/*
 * Called from within moe_model_open(): the exchange that the model's rows go
 * through, the model's from then on.  memory: where they are, good until it is
 * closed; NULL: in the process's own.  NULL and a line in err on failure.
 */
typedef moe_exchange_t *(*moe_model_exchange_pt)(void *ctx,
    const moe_exchange_shape_t *shape, const moe_rows_memory_t *memory,
    moe_err_t *err);


/* zeroed options are good defaults */
typedef struct {
    uint32_t          threads;     /* computing threads, the caller's own one
                                    * included; 0: as many as the process may
                                    * run on */
    uint32_t          max_rows;    /* most rows in a step; 0: 512 */
    uint32_t          kv_pages;    /* pages to have at once; 0: none before
                                    * moe_model_kv_resize() */
    moe_kv_format_e   kv_format;   /* in the fingerprint */
    const char       *kernels;     /* "plain", "avx2", "avx512", which give
                                    * equal bits, one with "-bf16", or "cuda"
                                    * where it was built; NULL: the fastest
                                    * of the first three that this machine
                                    * runs */
    uint32_t          device;      /* "cuda": which of those that the process
                                    * sees; not looked at where it is one */
    int               unrecorded;  /* a device is asked for every operation
                                    * of every step, also where it could have
                                    * recorded them; changes no answer */
    moe_row_format_e  row_format;  /* at the experts; in the fingerprint */
    int               mtp;         /* have the MTP layer ready, where there is
                                    * one: for moe_model_draft() */

    /* experts on several ranks: all of them step together; each has all
     * weights mapped and reads those of its own experts */
    moe_model_exchange_pt  exchange;     /* NULL: this rank has them all */
    void                  *exchange_ctx;
    uint32_t               exchange_ms;  /* most that a wait for the others
                                          * takes; 0: no end */
} moe_model_options_t;


/*
 * Called from within moe_model_open() with what is being done (static string)
 * and how much of all is done, 0 to 100.  A return other than 0 gives up
 * opening.
 */
typedef int (*moe_model_progress_pt)(void *ctx, const char *what,
    uint32_t percent);


/*
 * Opens a Hugging Face model directory: reads config.json, maps the weight
 * files, checks that every tensor the family needs is there with its shape.
 * A GGUF file stands for a directory.
 * options and progress may be NULL.  NULL and a line in err on failure.
 */
moe_model_t *moe_model_open(const char *dir,
    const moe_model_options_t *options, moe_model_progress_pt progress,
    void *ctx, moe_err_t *err);

void moe_model_close(moe_model_t *m);

/*
 * The shape of the exchange that a model opened with these options asks for.
 * -1 also for a model that has no experts.
 */
int moe_model_exchange_shape(const char *dir,
    const moe_model_options_t *options, moe_exchange_shape_t *shape,
    moe_err_t *err);

/* NULL where the model has no experts */
moe_exchange_t *moe_model_exchange(moe_model_t *m);

/* owned by the model, good until it is closed */
const moe_config_t *moe_model_config(const moe_model_t *m);

uint32_t moe_model_vocab_size(const moe_model_t *m);    /* logits a row */
uint32_t moe_model_max_position(const moe_model_t *m);  /* positions are
                                                         * below it */
uint32_t moe_model_max_rows(const moe_model_t *m);

/*
 * SHA-256 over what decides the bits of an answer: program version, kernel
 * set, identity of the weights (config.json, header and size of every weight
 * file), KV and row formats.
 */
void moe_model_fingerprint(const moe_model_t *m, uint8_t out[32]);


/* bytes of KV memory that one page takes over all layers */
uint64_t moe_model_kv_bytes_per_page(const moe_model_t *m);

uint32_t moe_model_kv_pages(const moe_model_t *m);

/*
 * Sets the number of pages; pages that exist before and after keep their
 * contents and numbers.  Memory is taken from the system as pages are first
 * written.  Not during a step.
 */
int moe_model_kv_resize(moe_model_t *m, uint32_t pages, moe_err_t *err);

/* may be called between steps; changes no answer */
int moe_model_set_threads(moe_model_t *m, uint32_t threads, moe_err_t *err);


/*
 * The rows of one step.  Rows of one sequence are contiguous and their
 * positions ascend by one; every position below the first of them is in the
 * sequence's pages already.  Position p of sequence s lives in page
 * tables[s][p / MOE_PAGE_SIZE]; a table need only reach to the last position
 * that the step has of its sequence.  A page that a row writes belongs to one
 * sequence; pages only read may be in many tables.
 */
typedef struct {
    uint32_t                nrows;
    const uint32_t         *ids;      /* [nrows] */
    const uint32_t         *pos;      /* [nrows] */
    const uint32_t         *seq;      /* [nrows], below nseqs */
    const uint8_t          *role;     /* [nrows], MOE_ROLE_* */

    uint32_t                nseqs;
    const uint32_t *const  *tables;   /* [nseqs] */

    uint32_t                nout;
    const uint32_t         *out;      /* [nout] rows whose logits are wanted,
                                       * ascending */
} moe_batch_t;


/*
 * One forward pass: writes K and V of every row into the pages and the logits
 * of the rows in out into logits[nout][vocab_size] (float32, caller's; may be
 * NULL when nout is 0).  -1 and a line in err where the batch does not fit
 * the model (id, position, page or counts out of range): then nothing was
 * written; or where other ranks failed or did not answer.
 *
 * With experts on several ranks, a batch of no rows is this rank's part in
 * the others' step; alone it is nothing.
 */
int moe_model_step(moe_model_t *m, const moe_batch_t *b, float *logits,
    moe_err_t *err);

/*
 * Drafts, by the MTP layer of a model opened with mtp: rows of the step last
 * computed together with the ids that follow them give logits of the ids
 * after those.  Every row whose next id is known should come by here once, for
 * the layer's own K and V, in the row's page: drafts are the better for it.
 * No answer hangs on them, and neither does the fingerprint.
 */
typedef struct {
    uint32_t         n;
    const uint32_t  *rows;    /* [n] of the batch, ascending */
    const uint32_t  *next;    /* [n] the id at the position after each */

    uint32_t         nout;
    const uint32_t  *out;     /* [nout] which of the n are wanted, ascending */
} moe_draft_t;

/*
 * b is that step's; of its tables only those of rows named in d are looked
 * at.  Logits as of moe_model_step().  -1 and a line in err where d does not
 * fit the step.
 */
int moe_model_draft(moe_model_t *m, const moe_batch_t *b,
    const moe_draft_t *d, float *logits, moe_err_t *err);

int moe_model_has_mtp(const moe_model_t *m);

/* Whether the next steps are to be followed by moe_model_draft(), as at first
 * they are where the model has an MTP layer; steps that are not are faster. */
void moe_model_set_draft(moe_model_t *m, int on);

/*
 * Draws on the device, in place of logits: one for each row that logits are
 * wanted of, in their order (row i is draw i's).
 */
typedef struct {
    uint32_t           n;
    moe_draw_t        *draws;   /* [n] written to by the step */
    const moe_edit_t  *edits;   /* those of draws, in their order */
    moe_drawn_t       *out;     /* [n] */
} moe_draws_t;

/* whether draws can be made, which is where logits are not in this process's
 * memory */
int moe_model_can_draw(const moe_model_t *m);

/* What the next steps and drafts are to give, caller's memory; NULL, as at
 * first: logits. */
void moe_model_set_draws(moe_model_t *m, const moe_draws_t *draws);

/* Which ranks did not answer in the last step, as a set; 0 if it did not fail
 * for that. */
uint64_t moe_model_late(const moe_model_t *m);


#endif /* MOE_MODEL_H */
