#include <string.h>

#include "text/onig_young.h"
#include "text/pretok.h"
#include "text/utf8.h"


/* one run through the stages */
typedef struct {
    const moe_pretok_t    *pretok;
    moe_pretok_scratch_t  *scratch;
    moe_pretok_emit_t      emit;
    void                  *ctx;
    moe_err_t             *err;
    int                    young;       /* the text may need a shadow */
} pretok_run_t;


/* what a split has found and not yet handed on */
typedef struct {
    pretok_run_t  *run;
    unsigned       stage;
    const char    *s;
    int            first;

    size_t         start;
    size_t         end;
    int            have;
    int            is_match;
} pretok_split_t;


static int pretok_stage(pretok_run_t *r, unsigned stage, const char *s,
    size_t len, int first);


static int
pretok_flush(pretok_split_t *p)
{
    if (!p->have) {
        return 0;
    }

    p->have = 0;

    return pretok_stage(p->run, p->stage + 1, p->s + p->start,
                        p->end - p->start, p->first && p->start == 0);
}


/*
 * Takes the next stretch of the text, matched or between matches.  is_match of
 * the stretch before it decides, with the behavior, whether they are one.
 */

static int
pretok_stretch(pretok_split_t *p, const moe_pretok_stage_t *st, size_t start,
    size_t end, int is_match)
{
    int  join = 0;

    is_match ^= st->invert;

    switch (st->behavior) {

    case MOE_PRETOK_ISOLATED:
        break;

    case MOE_PRETOK_REMOVED:
        if (is_match) {
            return pretok_flush(p);
        }

        break;

    case MOE_PRETOK_WITH_PREVIOUS:
        join = is_match && !p->is_match;
        break;

    case MOE_PRETOK_WITH_NEXT:
        join = !is_match && p->is_match;
        break;

    case MOE_PRETOK_CONTIGUOUS:
        join = is_match == p->is_match;
        break;
    }

    if (p->have && join) {
        p->end = end;
        p->is_match = is_match;
        return 0;
    }

    if (pretok_flush(p) == -1) {
        return -1;
    }

    p->start = start;
    p->end = end;
    p->have = 1;
    p->is_match = is_match;

    return 0;
}


static int
pretok_split(pretok_run_t *r, unsigned stage, const char *s, size_t len,
    int first)
{
    int                        rc;
    size_t                     start, end, prev;
    pretok_split_t             p = { r, stage, s, first, 0, 0, 0, 0 };
    moe_onig_iter_t            it = { 0 };
    const moe_pretok_stage_t  *st = &r->pretok->stages[stage];

    it.re = &st->re;
    it.scratch = &r->scratch->onig;
    it.text = s;
    it.len = len;
    prev = 0;

    if (r->young && moe_onig_young(s, len)) {
        if (moe_onig_shadow(s, len, &r->scratch->bufs[stage]) == -1) {
            return moe_err(r->err, "out of memory");
        }

        it.text = r->scratch->bufs[stage].data;
    }

    while ((rc = moe_onig_next(&it, &start, &end, r->err)) == 1) {

        if (start > prev && pretok_stretch(&p, st, prev, start, 0) == -1) {
            return -1;
        }

        if (pretok_stretch(&p, st, start, end, 1) == -1) {
            return -1;
        }

        prev = end;
    }

    if (rc == -1) {
        return -1;
    }

    if (prev < len && pretok_stretch(&p, st, prev, len, 0) == -1) {
        return -1;
    }

    return pretok_flush(&p);
}


static int
pretok_prefix(pretok_run_t *r, unsigned stage, const char *s, size_t len,
    int first)
{
    moe_textbuf_t  *b = &r->scratch->bufs[stage];

    if (s[0] == ' ') {
        return pretok_stage(r, stage + 1, s, len, first);
    }

    b->len = 0;

    if (moe_textbuf_add(b, " ", 1, NULL, 1) == -1
        || moe_textbuf_add(b, s, len, NULL, 1) == -1)
    {
        return moe_err(r->err, "out of memory");
    }

    return pretok_stage(r, stage + 1, b->data, b->len, first);
}


static int
pretok_metaspace(pretok_run_t *r, unsigned stage, const char *s, size_t len,
    int first)
{
    int                        rc = 0;
    size_t                     i, n, from, mark;
    moe_textbuf_t             *b = &r->scratch->bufs[stage];
    const moe_pretok_stage_t  *st = &r->pretok->stages[stage];

    mark = strlen(st->mark);
    b->len = 0;

    if ((st->scheme == MOE_PRETOK_ALWAYS
         || (st->scheme == MOE_PRETOK_FIRST && first))
        && s[0] != ' '
        && (len < mark || memcmp(s, st->mark, mark) != 0))
    {
        rc |= moe_textbuf_add(b, st->mark, mark, NULL, 1);
    }

    for (i = 0, from = 0; i <= len; i++) {
        if (i == len || s[i] == ' ') {
            n = i - from;
            rc |= moe_textbuf_add(b, s + from, n, NULL, 1);

            if (i < len) {
                rc |= moe_textbuf_add(b, st->mark, mark, NULL, 1);
            }

            from = i + 1;
        }
    }

    if (rc != 0) {
        return moe_err(r->err, "out of memory");
    }

    return pretok_stage(r, stage + 1, b->data, b->len, first);
}


/* Python's str.isspace() */

static int
pretok_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 28 && cp <= 32) || cp == 0x85
           || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A)
           || cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F
           || cp == 0x3000;
}


/* cuts where a run would become longer than it may, and text as well */

static int
pretok_runs(pretok_run_t *r, unsigned stage, const char *s, size_t len,
    int first)
{
    int                        space, was = 0;
    size_t                     i, n, from, run, chars;
    uint32_t                   cp;
    const moe_pretok_stage_t  *st = &r->pretok->stages[stage];

    from = 0;
    run = 0;
    chars = 0;

    for (i = 0; i < len; i += n) {
        (void) moe_utf8_next(s + i, len - i, &cp, &n);

        space = pretok_is_space(cp);
        run = space == was ? run + 1 : 1;
        was = space;

        if (run > st->max_run || chars == st->max_text) {
            if (pretok_stage(r, stage + 1, s + from, i - from,
                             first && from == 0) == -1)
            {
                return -1;
            }

            chars = chars == st->max_text ? 0 : chars;
            from = i;
            run = 1;
        }

        chars++;
    }

    return pretok_stage(r, stage + 1, s + from, len - from,
                        first && from == 0);
}


static int
pretok_stage(pretok_run_t *r, unsigned stage, const char *s, size_t len,
    int first)
{
    if (len == 0) {
        return 0;
    }

    if (stage == r->pretok->nstages) {
        return r->emit(r->ctx, s, len, r->err);
    }

    switch (r->pretok->stages[stage].kind) {

    case MOE_PRETOK_SPLIT:
        return pretok_split(r, stage, s, len, first);

    case MOE_PRETOK_PREFIX:
        return pretok_prefix(r, stage, s, len, first);

    case MOE_PRETOK_RUNS:
        return pretok_runs(r, stage, s, len, first);

    default:
        return pretok_metaspace(r, stage, s, len, first);
    }
}


int
moe_pretok_run(const moe_pretok_t *p, moe_pretok_scratch_t *scratch,
    const char *s, size_t len, int first, moe_pretok_emit_t emit, void *ctx,
    moe_err_t *err)
{
    pretok_run_t  r = { p, scratch, emit, ctx, err, moe_onig_young(s, len) };

    return pretok_stage(&r, 0, s, len, first);
}


void
moe_pretok_free(moe_pretok_t *p)
{
    unsigned  i;

    for (i = 0; i < p->nstages; i++) {
        moe_onig_free(&p->stages[i].re);
    }

    p->nstages = 0;
}


void
moe_pretok_scratch_free(moe_pretok_scratch_t *s)
{
    unsigned  i;

    for (i = 0; i < MOE_PRETOK_MAX_STAGES; i++) {
        moe_textbuf_free(&s->bufs[i]);
    }

    moe_onig_scratch_free(&s->onig);
}
