/*
 * onig: the regular expressions of tokenizer.json, run by PCRE2.
 *
 * The reference runs them with Oniguruma in its Ruby syntax, in Unicode mode.
 * Most of what tokenizers use means the same to PCRE2 (UTF, UCP); the rest is
 * rewritten when an expression is compiled, and what cannot be is refused:
 *
 *   \s \w \b          Oniguruma's (PCRE2's \s has U+180E, its \w no marks)
 *   \h \v             a hex digit, a vertical tab
 *   \uHHHH            a code point
 *   \p{Han}           the script, not PCRE2's script extensions
 *   [a[b]] [a&&[^b]]  nested sets and intersections
 *   x{2,3}+ x{2}?     a repeated, an optional group: not possessive, not lazy
 *   {,3}              zero to three
 *   (?m:)             the dot matches newlines
 *   ^ $               at every line, always
 *
 * Unicode versions differ too; see onig_young.h.
 */

#ifndef MOE_TEXT_ONIG_H
#define MOE_TEXT_ONIG_H


#define PCRE2_CODE_UNIT_WIDTH  8

#include <pcre2.h>
#include <stddef.h>

#include "base/err.h"


typedef struct {
    pcre2_code  *code;
} moe_onig_t;


/* what one thread needs to run expressions; all zeros before the first use */
typedef struct {
    pcre2_match_data     *match;
    pcre2_match_context  *context;
    pcre2_jit_stack      *stack;
} moe_onig_scratch_t;


/* where a search is in its text; all zeros but for re, text and len */
typedef struct {
    const moe_onig_t    *re;
    moe_onig_scratch_t  *scratch;
    const char          *text;
    size_t               len;
    size_t               from;
    size_t               last;         /* end of the last match + 1, 0 none */
} moe_onig_iter_t;


/*
 * Compiles a pattern (valid UTF-8); literal: its characters stand for
 * themselves.  Returns 0, or -1 with a line that says what is not supported.
 */
int moe_onig_compile(moe_onig_t *re, const char *pattern, size_t len,
    int literal, moe_err_t *err);

void moe_onig_free(moe_onig_t *re);

/*
 * The next match in valid UTF-8, as Oniguruma's find_iter gives them: not
 * overlapping, no empty one right after another.  Returns 1 with the match,
 * 0 at the end, -1 when a limit is exceeded or memory is short.
 */
int moe_onig_next(moe_onig_iter_t *it, size_t *start, size_t *end,
    moe_err_t *err);

void moe_onig_scratch_free(moe_onig_scratch_t *s);

/*
 * The pattern as PCRE2 gets it, written to out (NUL-terminated).  Used by
 * moe_onig_compile(); open to tests.  Returns 0 or -1.
 */
int moe_onig_translate(const char *pattern, size_t len, char *out,
    size_t size, moe_err_t *err);


#endif /* MOE_TEXT_ONIG_H */
