/*
 * pretok: cutting a text into the pieces that BPE works on.
 *
 * A list of stages; each cuts every piece that the one before it made.  Pieces
 * are handed on one at a time, so no list of them is ever kept.
 */

#ifndef MOE_TEXT_PRETOK_H
#define MOE_TEXT_PRETOK_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/onig.h"
#include "text/textbuf.h"


#define MOE_PRETOK_MAX_STAGES  16


/* what becomes of the matches of a pattern */
typedef enum {
    MOE_PRETOK_ISOLATED,
    MOE_PRETOK_REMOVED,
    MOE_PRETOK_WITH_PREVIOUS,
    MOE_PRETOK_WITH_NEXT,
    MOE_PRETOK_CONTIGUOUS
} moe_pretok_behavior_t;


typedef enum {
    MOE_PRETOK_SPLIT,           /* by a pattern */
    MOE_PRETOK_PREFIX,          /* a space in front, where there is none */
    MOE_PRETOK_METASPACE,       /* spaces become a mark, one in front */
    MOE_PRETOK_RUNS             /* no endless runs, no endless text */
} moe_pretok_kind_t;


/* when the mark is put in front */
typedef enum {
    MOE_PRETOK_NEVER,
    MOE_PRETOK_FIRST,           /* at the beginning of the whole text */
    MOE_PRETOK_ALWAYS
} moe_pretok_scheme_t;


typedef struct {
    moe_pretok_kind_t      kind;
    moe_onig_t             re;
    moe_pretok_behavior_t  behavior;
    int                    invert;
    char                   mark[5];     /* one character, NUL-terminated */
    moe_pretok_scheme_t    scheme;
    size_t                 max_run;     /* characters, all spaces or none */
    size_t                 max_text;    /* characters */
} moe_pretok_stage_t;


typedef struct {
    moe_pretok_stage_t  stages[MOE_PRETOK_MAX_STAGES];
    unsigned            nstages;
} moe_pretok_t;


/* one thread's memory; all zeros before the first use */
typedef struct {
    moe_onig_scratch_t  onig;
    moe_textbuf_t       bufs[MOE_PRETOK_MAX_STAGES];
} moe_pretok_scratch_t;


/* Takes one piece; returns 0, or -1 with a line in err to stop. */
typedef int (*moe_pretok_emit_t)(void *ctx, const char *s, size_t len,
    moe_err_t *err);


/*
 * Cuts s[0 .. len) (valid UTF-8) and calls emit for every piece, in order,
 * none of them empty.  first: s is the beginning of the whole text.  Returns
 * 0, or -1: emit failed, a pattern exceeded its limits, no memory.
 */
int moe_pretok_run(const moe_pretok_t *p, moe_pretok_scratch_t *scratch,
    const char *s, size_t len, int first, moe_pretok_emit_t emit, void *ctx,
    moe_err_t *err);

void moe_pretok_free(moe_pretok_t *p);
void moe_pretok_scratch_free(moe_pretok_scratch_t *s);


#endif /* MOE_TEXT_PRETOK_H */
