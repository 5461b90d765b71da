#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "text/normal.h"
#include "text/utf8.h"


/* no character decomposes to more (U+FDFA: 18) */
#define NORMAL_MAX_PARTS  32


/*
 * The reference's tables are those of Unicode 9: to it, what came later is a
 * plain starter that neither decomposes nor combines.  These are the later
 * characters that do, up to Unicode 15.1.
 */

static const struct {
    uint32_t  first;
    uint32_t  last;
} normal_young[] = {
    { 0x07FD, 0x07FD }, { 0x0898, 0x089F }, { 0x08CA, 0x08D3 },
    { 0x09FE, 0x09FE }, { 0x0C3C, 0x0C3C }, { 0x0D3B, 0x0D3C },
    { 0x0EBA, 0x0EBA }, { 0x1715, 0x1715 }, { 0x1ABF, 0x1ACE },
    { 0x1DF6, 0x1DFA }, { 0x32FF, 0x32FF }, { 0xA7F2, 0xA7F4 },
    { 0xA82C, 0xA82C }, { 0xAB69, 0xAB69 }, { 0x10781, 0x10785 },
    { 0x10787, 0x107B0 }, { 0x107B2, 0x107BA }, { 0x10D24, 0x10D27 },
    { 0x10EAB, 0x10EAC }, { 0x10EFD, 0x10EFF }, { 0x10F46, 0x10F50 },
    { 0x10F82, 0x10F85 }, { 0x11070, 0x11070 }, { 0x1133B, 0x1133B },
    { 0x1145E, 0x1145E }, { 0x11839, 0x1183A }, { 0x11930, 0x11930 },
    { 0x11935, 0x11935 }, { 0x11938, 0x11938 }, { 0x1193D, 0x1193E },
    { 0x11943, 0x11943 }, { 0x119E0, 0x119E0 }, { 0x11A34, 0x11A34 },
    { 0x11A47, 0x11A47 }, { 0x11A99, 0x11A99 }, { 0x11D42, 0x11D42 },
    { 0x11D44, 0x11D45 }, { 0x11D97, 0x11D97 }, { 0x11F41, 0x11F42 },
    { 0x16FF0, 0x16FF1 }, { 0x1E030, 0x1E06D }, { 0x1E08F, 0x1E08F },
    { 0x1E130, 0x1E136 }, { 0x1E2AE, 0x1E2AE }, { 0x1E2EC, 0x1E2EF },
    { 0x1E4EC, 0x1E4EF }, { 0x1F16C, 0x1F16C }, { 0x1FBF0, 0x1FBF9 },
};


static int
normal_is_young(uint32_t cp)
{
    size_t  lo = 0, hi = sizeof(normal_young) / sizeof(normal_young[0]), mid;

    while (lo < hi) {
        mid = (lo + hi) / 2;

        if (cp > normal_young[mid].last) {
            lo = mid + 1;

        } else if (cp < normal_young[mid].first) {
            hi = mid;

        } else {
            return 1;
        }
    }

    return 0;
}


static utf8proc_option_t
normal_options(moe_normal_kind_t kind)
{
    int  o = UTF8PROC_STABLE;

    if (kind == MOE_NORMAL_NFKC || kind == MOE_NORMAL_NFKD) {
        o |= UTF8PROC_COMPAT;
    }

    o |= kind == MOE_NORMAL_NFC || kind == MOE_NORMAL_NFKC
         ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;

    return (utf8proc_option_t) o;
}


static int
normal_class(utf8proc_int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}


/*
 * Puts runs of combining marks in canonical order, in linear time: utf8proc's
 * own exchange sort needs the square of a run that an attacker may make as
 * long as the text.
 */

static int
normal_order(utf8proc_int32_t *cps, size_t n)
{
    int                c;
    size_t             i, j, k, at, count[256];
    utf8proc_int32_t  *tmp;

    for (i = 0; i < n; i = j + 1) {

        for (j = i; j < n && normal_class(cps[j]) != 0; j++) { /* void */ }

        if (j - i < 2) {
            continue;
        }

        tmp = malloc((j - i) * sizeof(utf8proc_int32_t));
        if (tmp == NULL) {
            return -1;
        }

        memcpy(tmp, cps + i, (j - i) * sizeof(utf8proc_int32_t));
        memset(count, 0, sizeof(count));

        for (k = 0; k < j - i; k++) {
            count[normal_class(tmp[k])]++;
        }

        for (c = 0, at = i; c < 256; c++) {
            k = count[c];
            count[c] = at;
            at += k;
        }

        for (k = 0; k < j - i; k++) {
            cps[count[normal_class(tmp[k])]++] = tmp[k];
        }

        free(tmp);
    }

    return 0;
}


/* the form of one stretch, as code points in *cps, which is grown */

static int
normal_stretch(moe_normal_kind_t kind, const char *s, size_t len,
    utf8proc_int32_t **cps, size_t *cap, size_t *count)
{
    int                last = 0;
    size_t             i, n, used = 0;
    uint32_t           cp;
    utf8proc_ssize_t   k;
    utf8proc_int32_t  *p;
    utf8proc_option_t  o = normal_options(kind);

    for (i = 0; i < len; i += n) {
        (void) moe_utf8_next(s + i, len - i, &cp, &n);

        if (*cap - used < NORMAL_MAX_PARTS) {
            *cap = *cap < 256 ? 256 : *cap * 2;

            p = realloc(*cps, *cap * sizeof(utf8proc_int32_t));
            if (p == NULL) {
                return -1;
            }

            *cps = p;
        }

        k = utf8proc_decompose_char((utf8proc_int32_t) cp, *cps + used,
                                    NORMAL_MAX_PARTS,
                                    (o & ~UTF8PROC_COMPOSE)
                                    | UTF8PROC_DECOMPOSE, &last);

        if (k < 0 || k > NORMAL_MAX_PARTS) {
            return -1;
        }

        used += k;
    }

    if (normal_order(*cps, used) == -1) {
        return -1;
    }

    k = utf8proc_normalize_utf32(*cps, used, o);
    if (k < 0) {
        return -1;
    }

    *count = k;

    return 0;
}


/*
 * Where a stretch may end that nothing after it can change: before an ASCII
 * character, after one that no mark follows (what composes with ASCII from
 * behind always has a combining class), before and after a young one.
 */

static size_t
normal_stretch_len(const char *s, size_t len, int *young)
{
    size_t    i, n;
    uint32_t  cp;

    (void) moe_utf8_next(s, len, &cp, &i);

    *young = normal_is_young(cp);

    if (*young) {
        return i;
    }

    for ( ; i < len && (uint8_t) s[i] >= 0x80; i += n) {
        (void) moe_utf8_next(s + i, len - i, &cp, &n);

        if (normal_is_young(cp)
            || (i == 1 && normal_class((utf8proc_int32_t) cp) == 0))
        {
            break;
        }
    }

    return i;
}


static int
normal_form(moe_normal_kind_t kind, const char *s, size_t len,
    const uint8_t *trust, moe_textbuf_t *out)
{
    char               utf8[4];
    int                rc = 0, young;
    size_t             i, j, n, m, start, cap = 0, count = 0;
    uint8_t            all;
    utf8proc_int32_t  *cps = NULL;

    for (i = 0; rc == 0 && i < len; i += n) {

        /* ASCII is every form of itself */

        for (n = 0; i + n < len && (uint8_t) s[i + n] < 0x80; n++) {
            /* void */
        }

        if (n > 0 && i + n < len) {
            n--;                        /* the last may take a mark */
        }

        if (n > 0) {
            rc = moe_textbuf_add(out, s + i, n, trust ? trust + i : NULL, 1);
            continue;
        }

        n = normal_stretch_len(s + i, len - i, &young);

        if (young) {
            rc = moe_textbuf_add(out, s + i, n, trust ? trust + i : NULL, 1);
            continue;
        }

        if (normal_stretch(kind, s + i, n, &cps, &cap, &count) == -1) {
            rc = -1;
            break;
        }

        all = moe_trust_all(trust ? trust + i : NULL, n);
        start = out->len;

        for (j = 0; rc == 0 && j < count; j++) {
            m = moe_utf8_put((uint32_t) cps[j], utf8);
            rc = moe_textbuf_add(out, utf8, m, NULL, all);
        }

        /* what did not change keeps its own trust */

        if (rc == 0 && out->trust != NULL && trust != NULL
            && out->len - start == n && memcmp(out->data + start, s + i, n)
                                        == 0)
        {
            memcpy(out->trust + start, trust + i, n);
        }
    }

    free(cps);

    return rc;
}


static int
normal_replace(const moe_normal_step_t *st, moe_onig_scratch_t *scratch,
    const char *s, size_t len, const uint8_t *trust, moe_textbuf_t *out,
    moe_err_t *err)
{
    int              rc;
    size_t           start, end, prev = 0;
    uint8_t          all;
    moe_onig_iter_t  it = { 0 };

    it.re = &st->re;
    it.scratch = scratch;
    it.text = s;
    it.len = len;

    while ((rc = moe_onig_next(&it, &start, &end, err)) == 1) {
        all = trust == NULL
              || (end > start && moe_trust_all(trust + start, end - start));

        if (moe_textbuf_add(out, s + prev, start - prev,
                            trust ? trust + prev : NULL, 1) == -1
            || moe_textbuf_add(out, st->content, st->len, NULL, all) == -1)
        {
            return moe_err(err, "out of memory");
        }

        prev = end;
    }

    if (rc == 0 && moe_textbuf_add(out, s + prev, len - prev,
                                   trust ? trust + prev : NULL, 1) == -1)
    {
        return moe_err(err, "out of memory");
    }

    return rc;
}


static int
normal_step(const moe_normal_step_t *st, moe_onig_scratch_t *scratch,
    const char *s, size_t len, const uint8_t *trust, moe_textbuf_t *out,
    moe_err_t *err)
{
    int  rc;

    switch (st->kind) {

    case MOE_NORMAL_PREPEND:
        rc = 0;

        if (len > 0) {
            rc |= moe_textbuf_add(out, st->content, st->len, NULL,
                                  trust ? trust[0] : 1);
            rc |= moe_textbuf_add(out, s, len, trust, 1);
        }

        break;

    case MOE_NORMAL_REPLACE:
        return normal_replace(st, scratch, s, len, trust, out, err);

    default:
        rc = normal_form(st->kind, s, len, trust, out);
    }

    return rc == 0 ? 0 : moe_err(err, "out of memory");
}


int
moe_normal_run(const moe_normal_t *n, moe_onig_scratch_t *scratch,
    const char *s, size_t len, const uint8_t *trust, moe_textbuf_t *out,
    moe_textbuf_t *other, moe_err_t *err)
{
    unsigned       i;
    moe_textbuf_t  swap;

    out->len = 0;
    other->keep_trust = out->keep_trust;

    if (n->nsteps == 0 && moe_textbuf_add(out, s, len, trust, 1) == -1) {
        return moe_err(err, "out of memory");
    }

    for (i = 0; i < n->nsteps; i++) {

        if (i > 0) {
            swap = *out;
            *out = *other;
            *other = swap;
            out->len = 0;

            s = other->data;
            len = other->len;
            trust = other->trust;
        }

        if (normal_step(&n->steps[i], scratch, s, len, trust, out, err)
            == -1)
        {
            return -1;
        }
    }

    return 0;
}


void
moe_normal_free(moe_normal_t *n)
{
    unsigned  i;

    for (i = 0; i < n->nsteps; i++) {
        moe_onig_free(&n->steps[i].re);
        free(n->steps[i].content);
    }

    n->nsteps = 0;
}
