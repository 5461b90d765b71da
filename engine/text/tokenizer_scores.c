/*
 * Merges from scores, as SentencePiece has them: of all neighbours that are a
 * piece together the one with the highest score is merged first, the leftmost
 * of equals.  That is BPE with every split of every piece a merge, and its
 * piece's place among the scores the rank.
 */

#include <math.h>
#include <stdlib.h>

#include "text/tokenizer_load.h"


/* splitting takes time by the square of the length; real pieces are short */
#define SCORES_MAX_PIECE  512


typedef struct {
    float     score;
    uint32_t  id;
} scored_t;


static int
scores_compare(const void *a, const void *b)
{
    const scored_t  *x = a, *y = b;

    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }

    return (x->id > y->id) - (x->id < y->id);
}


static uint32_t
scores_find(moe_tok_load_t *l, const char *s, size_t len)
{
    uint32_t  id;

    id = moe_vocab_find(&l->t->names, s, len);

    return id != MOE_VOCAB_NONE && id < l->nscores && !isnan(l->scores[id])
           ? id : MOE_VOCAB_NONE;
}


static int
scores_split(moe_tok_load_t *l, uint32_t id, uint32_t rank)
{
    size_t       i, len;
    uint32_t     left, right;
    const char  *s;

    s = moe_vocab_get(&l->t->names, id, &len);

    if (len > SCORES_MAX_PIECE) {
        return moe_err(l->err, "%s: piece %u has %zu bytes", l->file, id, len);
    }

    for (i = 1; i < len; i++) {

        if (((uint8_t) s[i] & 0xC0) == 0x80) {
            continue;
        }

        left = scores_find(l, s, i);
        right = left == MOE_VOCAB_NONE
                ? left : scores_find(l, s + i, len - i);

        if (right != MOE_VOCAB_NONE
            && moe_bpe_add_merge(&l->t->bpe, left, right, rank, id) == -1)
        {
            return moe_err(l->err, "%s: out of memory", l->file);
        }
    }

    return 0;
}


int
moe_tok_load_scores(moe_tok_load_t *l)
{
    int        rc = 0;
    size_t     i, n, len;
    uint32_t   rank = 0;
    scored_t  *list;

    list = malloc((l->nscores + 1) * sizeof(scored_t));

    if (list == NULL) {
        return moe_err(l->err, "%s: out of memory", l->file);
    }

    for (i = 0, n = 0; i < l->nscores; i++) {
        if (!isnan(l->scores[i])
            && moe_vocab_get(&l->t->names, (uint32_t) i, &len) != NULL)
        {
            list[n].score = l->scores[i];
            list[n++].id = (uint32_t) i;
        }
    }

    qsort(list, n, sizeof(scored_t), scores_compare);

    for (i = 0; rc == 0 && i < n; i++) {
        rank += i > 0 && list[i].score != list[i - 1].score;
        rc = scores_split(l, list[i].id, rank);
    }

    free(list);

    return rc;
}
