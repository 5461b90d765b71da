/*
 * normal: what is done to a text before it is cut.
 *
 * A list of steps over a text: the Unicode forms (utf8proc), a prefix,
 * replacements.  Beside the text runs one trust byte per byte; a byte that
 * comes out is trusted if all that it was made of is.
 */

#ifndef MOE_TEXT_NORMAL_H
#define MOE_TEXT_NORMAL_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "text/onig.h"
#include "text/textbuf.h"


#define MOE_NORMAL_MAX_STEPS  16


typedef enum {
    MOE_NORMAL_NFC,
    MOE_NORMAL_NFD,
    MOE_NORMAL_NFKC,
    MOE_NORMAL_NFKD,
    MOE_NORMAL_PREPEND,
    MOE_NORMAL_REPLACE
} moe_normal_kind_t;


typedef struct {
    moe_normal_kind_t  kind;
    moe_onig_t         re;              /* REPLACE */
    char              *content;         /* PREPEND, REPLACE; owned */
    size_t             len;
} moe_normal_step_t;


typedef struct {
    moe_normal_step_t  steps[MOE_NORMAL_MAX_STEPS];
    unsigned           nsteps;
} moe_normal_t;


/*
 * Writes the normalized form of s[0 .. len) (valid UTF-8) to out, whose
 * content is replaced; other is a second buffer for its use.  trust belongs to
 * s and may be NULL; out->keep_trust says whether it is carried over.  Returns
 * 0 or -1.
 */
int moe_normal_run(const moe_normal_t *n, moe_onig_scratch_t *scratch,
    const char *s, size_t len, const uint8_t *trust, moe_textbuf_t *out,
    moe_textbuf_t *other, moe_err_t *err);

void moe_normal_free(moe_normal_t *n);


#endif /* MOE_TEXT_NORMAL_H */
