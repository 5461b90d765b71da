#include <stdlib.h>
#include <string.h>

#include "text/onig.h"
#include "text/utf8.h"


#define ONIG_MAX_PATTERN  65536

/* what one match may cost before it is given up */
#define ONIG_MATCH_LIMIT  50000000
#define ONIG_HEAP_KIB     65536
#define ONIG_STACK_MAX    (1024 * 1024)

#define ONIG_OPTIONS                                                          \
    (PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_MULTILINE             \
     | PCRE2_NEVER_BACKSLASH_C)


static pcre2_code *
onig_pcre(const char *pattern, size_t len, uint32_t options, moe_err_t *err)
{
    int                     code;
    PCRE2_SIZE              at;
    pcre2_code             *re;
    PCRE2_UCHAR             text[128];
    pcre2_compile_context  *ctx;

    ctx = pcre2_compile_context_create(NULL);
    if (ctx == NULL) {
        moe_err(err, "out of memory");
        return NULL;
    }

    pcre2_set_newline(ctx, PCRE2_NEWLINE_LF);

    re = pcre2_compile((PCRE2_SPTR) pattern, len, options, &code, &at, ctx);

    pcre2_compile_context_free(ctx);

    if (re == NULL) {
        pcre2_get_error_message(code, text, sizeof(text));
        moe_err(err, "pattern: %s near offset %zu", (char *) text,
                (size_t) at);
    }

    return re;
}


int
moe_onig_compile(moe_onig_t *re, const char *pattern, size_t len, int literal,
    moe_err_t *err)
{
    int    rc;
    char  *out;

    re->code = NULL;

    if (len > ONIG_MAX_PATTERN) {
        return moe_err(err, "pattern of %zu bytes is too long", len);
    }

    if (moe_utf8_valid(pattern, len) != len) {
        return moe_err(err, "pattern is not valid UTF-8");
    }

    if (literal) {
        re->code = onig_pcre(pattern, len, PCRE2_LITERAL | PCRE2_UTF
                             | PCRE2_NO_UTF_CHECK, err);

    } else {
        out = malloc(ONIG_MAX_PATTERN * 2);
        if (out == NULL) {
            return moe_err(err, "out of memory");
        }

        rc = moe_onig_translate(pattern, len, out, ONIG_MAX_PATTERN * 2, err);
        if (rc == 0) {
            re->code = onig_pcre(out, strlen(out), ONIG_OPTIONS, err);
        }

        free(out);
    }

    if (re->code == NULL) {
        return -1;
    }

    /* where this fails, the interpreter runs the pattern */

    (void) pcre2_jit_compile(re->code, PCRE2_JIT_COMPLETE);

    return 0;
}


void
moe_onig_free(moe_onig_t *re)
{
    pcre2_code_free(re->code);
    re->code = NULL;
}


static int
onig_scratch(moe_onig_scratch_t *s)
{
    if (s->match == NULL) {
        s->match = pcre2_match_data_create(1, NULL);
    }

    if (s->context == NULL) {
        s->context = pcre2_match_context_create(NULL);

        if (s->context != NULL) {
            pcre2_set_match_limit(s->context, ONIG_MATCH_LIMIT);
            pcre2_set_depth_limit(s->context, ONIG_MATCH_LIMIT);
            pcre2_set_heap_limit(s->context, ONIG_HEAP_KIB);
        }
    }

    return s->match == NULL || s->context == NULL ? -1 : 0;
}


static int
onig_match(const moe_onig_iter_t *it)
{
    int                  rc;
    moe_onig_scratch_t  *s = it->scratch;

    if (onig_scratch(s) == -1) {
        return PCRE2_ERROR_NOMEMORY;
    }

    rc = pcre2_match(it->re->code, (PCRE2_SPTR) it->text, it->len, it->from,
                     PCRE2_NO_UTF_CHECK, s->match, s->context);

    /* the machine's stack has room for all but the strangest: more, then */

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT && s->stack == NULL) {
        s->stack = pcre2_jit_stack_create(32 * 1024, ONIG_STACK_MAX, NULL);

        if (s->stack != NULL) {
            pcre2_jit_stack_assign(s->context, NULL, s->stack);
            rc = pcre2_match(it->re->code, (PCRE2_SPTR) it->text, it->len,
                             it->from, PCRE2_NO_UTF_CHECK, s->match,
                             s->context);
        }
    }

    if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
        rc = pcre2_match(it->re->code, (PCRE2_SPTR) it->text, it->len,
                         it->from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                         s->match, s->context);
    }

    return rc;
}


int
moe_onig_next(moe_onig_iter_t *it, size_t *start, size_t *end, moe_err_t *err)
{
    int          rc;
    PCRE2_SIZE  *at;
    PCRE2_UCHAR  text[128];

    while (it->from <= it->len) {

        rc = onig_match(it);

        if (rc == PCRE2_ERROR_NOMATCH) {
            break;
        }

        if (rc < 0) {
            pcre2_get_error_message(rc, text, sizeof(text));
            return moe_err(err, "pattern: %s on text of %zu bytes",
                           (char *) text, it->len);
        }

        at = pcre2_get_ovector_pointer(it->scratch->match);

        if (at[0] == at[1] && it->last == at[1] + 1) {
            it->from += it->from < it->len
                        ? moe_utf8_len(it->text[it->from]) : 1;
            continue;
        }

        it->from = at[1];
        it->last = at[1] + 1;

        *start = at[0];
        *end = at[1];

        return 1;
    }

    it->from = it->len + 1;

    return 0;
}


void
moe_onig_scratch_free(moe_onig_scratch_t *s)
{
    pcre2_match_data_free(s->match);
    pcre2_match_context_free(s->context);
    pcre2_jit_stack_free(s->stack);
    memset(s, 0, sizeof(*s));
}
