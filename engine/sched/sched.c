#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "sched/sched.h"


typedef enum {
    MOE_SEQ_WAITING = 0,
    MOE_SEQ_RUNNING,
    MOE_SEQ_PARKED
} moe_seq_state_e;

enum { MOE_SEQ_STATES = 3 };


struct moe_seq_s {
    TAILQ_ENTRY(moe_seq_s)    link;
    moe_seq_state_e           state;
    int32_t                   priority;
    uint64_t                  number;       /* of arrival */

    uint32_t                 *ids;
    uint32_t                  len;
    uint32_t                  ids_size;
    uint32_t                  nprompt;
    uint32_t                  computed;
    uint32_t                  out_from;     /* first whose logits are due */
    uint32_t                  cached;

    uint32_t                  drafts[MOE_DRAFTS];
    uint32_t                  ndrafts;
    uint32_t                  accepted;     /* appended as they were drafted */
    uint32_t                  tried;        /* computed and not yet judged */

    uint32_t                 *table;
    uint32_t                  ntable;
    uint32_t                  table_size;
    uint32_t                  published;    /* pages of it */

    moe_page_key_t            root;
    moe_page_key_t           *keys;
    uint32_t                  nkeys;
    uint32_t                  keys_size;

    uint32_t                  entry;        /* in the step, + 1; 0: none */
    unsigned                  begun:1;
    void                     *data;
};

/* sorted, the most important first */
typedef TAILQ_HEAD(moe_seq_list_s, moe_seq_s)  moe_seq_list_t;


struct moe_sched_s {
    moe_sched_options_t       o;
    moe_pages_t              *pages;
    moe_seq_list_t            lists[MOE_SEQ_STATES];
    uint32_t                  count[MOE_SEQ_STATES];
    uint64_t                  arrivals;
    uint64_t                  preempted;

    uint32_t                  prefill;      /* rows beside those that decode */

    moe_step_t                step;
    uint32_t                  limit;        /* of its rows but for drafts */
    uint32_t                  nrows;        /* planned */
    uint32_t                  nout;
    uint32_t                 *row_ids;
    uint32_t                 *row_pos;
    uint32_t                 *row_seq;
    uint8_t                  *row_role;
    uint32_t                 *out;
    const uint32_t          **tables;
};


static void moe_sched_yield(moe_sched_t *s);
static void moe_sched_plan_decodes(moe_sched_t *s);
static void moe_sched_plan_prefills(moe_sched_t *s);
static void moe_sched_plan_waiting(moe_sched_t *s, int64_t above);
static void moe_sched_plan_drafts(moe_sched_t *s);
static void moe_sched_plan(moe_sched_t *s, moe_seq_t *seq, uint32_t nrows);
static void moe_sched_unplan(moe_sched_t *s, moe_seq_t *seq);
static uint32_t moe_sched_chunk(moe_sched_t *s, moe_seq_t *seq);
static void moe_sched_lay_out(moe_sched_t *s);
static int moe_sched_admit(moe_sched_t *s, moe_seq_t *seq);
static int moe_sched_make_room(moe_sched_t *s, const moe_seq_t *seq);
static uint32_t moe_sched_owed(moe_sched_t *s);
static int moe_sched_reserve(moe_sched_t *s, moe_seq_t *seq, uint32_t len);
static int moe_sched_preempt(moe_sched_t *s, moe_seq_state_e least);
static void moe_sched_move(moe_sched_t *s, moe_seq_t *seq,
    moe_seq_state_e state);
static void moe_sched_insert(moe_sched_t *s, moe_seq_t *seq,
    moe_seq_state_e state);
static void moe_sched_detach(moe_sched_t *s, moe_seq_t *seq);

static void moe_seq_match(moe_sched_t *s, moe_seq_t *seq);
static void moe_seq_publish(moe_sched_t *s, moe_seq_t *seq);
static void moe_seq_forget(moe_sched_t *s, moe_seq_t *seq);
static uint32_t moe_seq_lacks(const moe_seq_t *seq);
static const moe_page_key_t *moe_seq_key(moe_seq_t *seq, uint32_t page);
static void moe_seq_release(moe_sched_t *s, moe_seq_t *seq);
static int moe_seq_before(const moe_seq_t *a, const moe_seq_t *b);
static int moe_seq_table_grow(moe_seq_t *seq, uint32_t n);
static void moe_seq_free(moe_seq_t *seq);


static uint32_t
moe_sched_pages_for(uint32_t len)
{
    return len / MOE_PAGE_SIZE + (len % MOE_PAGE_SIZE != 0);
}


moe_sched_t *
moe_sched_create(const moe_sched_options_t *o, moe_err_t *err)
{
    uint32_t      i;
    uint64_t      fit;
    moe_sched_t  *s;

    if (o->pages == 0 || o->max_len == 0 || o->step_tokens == 0
        || o->prefill_chunk == 0 || o->max_running == 0)
    {
        moe_err(err, "a scheduler needs pages, ids, rows and sequences");
        return NULL;
    }

    s = calloc(1, sizeof(moe_sched_t));
    if (s == NULL) {
        goto failed;
    }

    for (i = 0; i < MOE_SEQ_STATES; i++) {
        TAILQ_INIT(&s->lists[i]);
    }

    s->o = *o;
    s->prefill = o->step_tokens;

    fit = (uint64_t) o->pages * MOE_PAGE_SIZE;
    if (s->o.max_len > fit) {
        s->o.max_len = (uint32_t) fit;
    }

    /* a row is left for who prefills, however many decode */
    if (s->o.max_running >= s->o.step_tokens) {
        s->o.max_running = s->o.step_tokens > 1 ? s->o.step_tokens - 1 : 1;
    }

    if (s->o.max_out < s->o.max_running) {
        s->o.max_out = s->o.max_running;
    }

    s->row_ids = calloc(s->o.step_tokens, sizeof(uint32_t));
    s->row_pos = calloc(s->o.step_tokens, sizeof(uint32_t));
    s->row_seq = calloc(s->o.step_tokens, sizeof(uint32_t));
    s->row_role = calloc(s->o.step_tokens, sizeof(uint8_t));
    s->out = calloc(s->o.max_out, sizeof(uint32_t));
    s->tables = calloc(s->o.max_running, sizeof(uint32_t *));
    s->step.entries = calloc(s->o.max_running, sizeof(moe_step_entry_t));

    if (s->row_ids == NULL || s->row_pos == NULL || s->row_seq == NULL
        || s->row_role == NULL || s->out == NULL || s->tables == NULL
        || s->step.entries == NULL)
    {
        goto failed;
    }

    s->pages = moe_pages_create(o->pages, err);
    if (s->pages == NULL) {
        moe_sched_destroy(s);
        return NULL;
    }

    return s;

failed:

    moe_sched_destroy(s);
    moe_err(err, "no memory for a scheduler");

    return NULL;
}


void
moe_sched_destroy(moe_sched_t *s)
{
    uint32_t    i;
    moe_seq_t  *seq;

    if (s == NULL) {
        return;
    }

    for (i = 0; i < MOE_SEQ_STATES; i++) {
        while ((seq = TAILQ_FIRST(&s->lists[i])) != NULL) {
            TAILQ_REMOVE(&s->lists[i], seq, link);
            moe_seq_free(seq);
        }
    }

    moe_pages_destroy(s->pages);
    free(s->row_ids);
    free(s->row_pos);
    free(s->row_seq);
    free(s->row_role);
    free(s->out);
    free(s->tables);
    free(s->step.entries);
    free(s);
}


uint32_t
moe_sched_max_len(const moe_sched_t *s)
{
    return s->o.max_len;
}


moe_seq_t *
moe_sched_add(moe_sched_t *s, const moe_sched_request_t *r, moe_err_t *err)
{
    moe_seq_t  *seq;

    if (r->nids == 0 || r->nids > s->o.max_len || r->nprompt == 0
        || r->nprompt > r->nids)
    {
        moe_err(err, "a sequence of %u ids, %u of the prompt, where %u fit",
                r->nids, r->nprompt, s->o.max_len);
        return NULL;
    }

    seq = calloc(1, sizeof(moe_seq_t));

    if (seq != NULL) {
        seq->ids = malloc((size_t) r->nids * sizeof(uint32_t));
    }

    if (seq == NULL || seq->ids == NULL) {
        free(seq);
        moe_err(err, "no memory for a sequence of %u ids", r->nids);
        return NULL;
    }

    memcpy(seq->ids, r->ids, (size_t) r->nids * sizeof(uint32_t));

    seq->len = r->nids;
    seq->ids_size = r->nids;
    seq->nprompt = r->nprompt;
    seq->out_from = r->all_logits ? 0 : r->nids - 1;
    seq->priority = r->priority;
    seq->number = s->arrivals++;
    seq->data = r->data;

    moe_page_key_root(&seq->root, s->o.fingerprint, r->salt, r->nsalt);
    moe_sched_insert(s, seq, MOE_SEQ_WAITING);

    return seq;
}


void
moe_sched_remove(moe_sched_t *s, moe_seq_t *seq)
{
    moe_sched_detach(s, seq);
    moe_seq_release(s, seq);
    moe_seq_free(seq);
}


void
moe_sched_set_prefill(moe_sched_t *s, uint32_t rows)
{
    s->prefill = rows;
}


void
moe_sched_park(moe_sched_t *s, moe_seq_t *seq)
{
    if (seq->state != MOE_SEQ_PARKED) {
        moe_sched_move(s, seq, MOE_SEQ_PARKED);
    }
}


void
moe_sched_unpark(moe_sched_t *s, moe_seq_t *seq)
{
    if (seq->state == MOE_SEQ_PARKED) {
        moe_sched_move(s, seq, MOE_SEQ_WAITING);
    }
}


const moe_step_t *
moe_sched_form(moe_sched_t *s)
{
    uint32_t  i;

    for (i = 0; i < s->step.n; i++) {
        s->step.entries[i].seq = NULL;
    }

    s->step.n = 0;
    s->nrows = 0;
    s->nout = 0;

    moe_sched_yield(s);
    moe_sched_plan_decodes(s);

    s->limit = s->o.step_tokens;

    if (s->nrows > 0 && s->limit - s->nrows > s->prefill) {
        s->limit = s->nrows + s->prefill;
    }

    moe_sched_plan_prefills(s);
    moe_sched_plan_waiting(s, INT64_MIN);
    moe_sched_plan_drafts(s);
    moe_sched_lay_out(s);

    return s->step.n > 0 ? &s->step : NULL;
}


void
moe_sched_commit(moe_sched_t *s)
{
    uint32_t           i;
    moe_seq_t         *seq;
    moe_step_entry_t  *e;

    for (i = 0; i < s->step.n; i++) {
        e = &s->step.entries[i];
        seq = e->seq;

        seq->begun = 1;
        seq->computed = e->pos + e->nrows - e->ndrafts;
        seq->tried = e->ndrafts;

        if (seq->out_from < seq->computed) {
            seq->out_from = seq->computed;
        }

        moe_seq_publish(s, seq);
    }
}


int
moe_sched_append(moe_sched_t *s, moe_seq_t *seq, uint32_t id)
{
    uint32_t  *ids, size;

    if (seq->len >= s->o.max_len) {
        return -1;
    }

    if (seq->len == seq->ids_size) {
        size = seq->ids_size + seq->ids_size / 2 + 64;

        ids = realloc(seq->ids, (size_t) size * sizeof(uint32_t));
        if (ids == NULL) {
            return -1;
        }

        seq->ids = ids;
        seq->ids_size = size;
    }

    seq->ids[seq->len++] = id;

    if (seq->tried > 0 && seq->drafts[seq->accepted] == id) {
        seq->tried--;
        seq->accepted++;
        seq->computed++;
        seq->out_from = seq->len;
        moe_seq_publish(s, seq);

        return 1;
    }

    seq->out_from = seq->len - 1;
    moe_seq_forget(s, seq);

    return 0;
}


void
moe_sched_draft(moe_sched_t *s, moe_seq_t *seq, const uint32_t *ids,
    uint32_t n)
{
    moe_seq_forget(s, seq);

    memcpy(seq->drafts, ids, n * sizeof(uint32_t));
    seq->ndrafts = n;
}


void
moe_sched_counts(const moe_sched_t *s, moe_sched_counts_t *counts)
{
    counts->waiting = s->count[MOE_SEQ_WAITING];
    counts->running = s->count[MOE_SEQ_RUNNING];
    counts->parked = s->count[MOE_SEQ_PARKED];
    counts->pages = moe_pages_total(s->pages);
    counts->pages_used = moe_pages_used(s->pages);
    counts->pages_cached = moe_pages_cached(s->pages);
    counts->preempted = s->preempted;
}


const uint32_t *
moe_seq_ids(const moe_seq_t *seq)
{
    return seq->ids;
}


uint32_t
moe_seq_len(const moe_seq_t *seq)
{
    return seq->len;
}


uint32_t
moe_seq_computed(const moe_seq_t *seq)
{
    return seq->computed;
}


uint32_t
moe_seq_cached(const moe_seq_t *seq)
{
    return seq->cached;
}


const uint32_t *
moe_seq_table(const moe_seq_t *seq, uint32_t *n)
{
    *n = seq->ntable;

    return seq->table;
}


/*
 * Where the batch is full, those of lower priority make place for those of
 * higher that wait.  They keep their pages while others need not have them.
 */
static void
moe_sched_yield(moe_sched_t *s)
{
    uint32_t    room;
    moe_seq_t  *seq, *last;

    room = s->o.max_running - s->count[MOE_SEQ_RUNNING];

    TAILQ_FOREACH(seq, &s->lists[MOE_SEQ_WAITING], link) {

        if (room > 0) {
            room--;
            continue;
        }

        last = TAILQ_LAST(&s->lists[MOE_SEQ_RUNNING], moe_seq_list_s);

        if (last == NULL || last->priority >= seq->priority) {
            return;
        }

        moe_sched_move(s, last, MOE_SEQ_WAITING);
    }
}


static void
moe_sched_plan_decodes(moe_sched_t *s)
{
    moe_seq_t  *seq, *next;

    for (seq = TAILQ_FIRST(&s->lists[MOE_SEQ_RUNNING]);
         seq != NULL;
         seq = next)
    {
        if (seq->computed + 1 == seq->len
            && moe_sched_reserve(s, seq, seq->len) == 0)
        {
            moe_sched_plan(s, seq, 1);
        }

        /* only the last of the list is ever preempted */
        next = seq->state == MOE_SEQ_RUNNING ? TAILQ_NEXT(seq, link) : NULL;
    }
}


static void
moe_sched_plan_prefills(moe_sched_t *s)
{
    uint32_t    n;
    moe_seq_t  *seq, *next;

    for (seq = TAILQ_FIRST(&s->lists[MOE_SEQ_RUNNING]);
         seq != NULL;
         seq = next)
    {
        n = 0;

        if (seq->entry == 0) {
            moe_sched_plan_waiting(s, seq->priority);
            n = moe_sched_chunk(s, seq);
        }

        if (seq->state == MOE_SEQ_RUNNING && n > 0
            && moe_sched_reserve(s, seq, seq->computed + n) == 0)
        {
            moe_sched_plan(s, seq, n);
        }

        next = seq->state == MOE_SEQ_RUNNING ? TAILQ_NEXT(seq, link) : NULL;
    }
}


/*
 * Those whose priority is above the given one, in strict order: a large prompt
 * that does not fit now is not passed by smaller ones for ever.
 */
static void
moe_sched_plan_waiting(moe_sched_t *s, int64_t above)
{
    uint32_t    n;
    moe_seq_t  *seq;

    while (s->count[MOE_SEQ_RUNNING] < s->o.max_running) {
        seq = TAILQ_FIRST(&s->lists[MOE_SEQ_WAITING]);

        if (seq == NULL || seq->priority <= above
            || s->nrows >= s->limit
            || moe_sched_admit(s, seq) != 0)
        {
            return;
        }

        n = moe_sched_chunk(s, seq);

        if (n == 0) {
            return;
        }

        moe_sched_move(s, seq, MOE_SEQ_RUNNING);

        /* cannot preempt: moe_sched_admit() saw that there are enough */
        if (moe_sched_reserve(s, seq, seq->computed + n) != 0) {
            return;
        }

        moe_sched_plan(s, seq, n);
    }
}


/*
 * Drafts take what is left.  A page for them is taken from nobody who runs
 * or waits; were they right, it is the one that comes next anyway.
 */
static void
moe_sched_plan_drafts(moe_sched_t *s)
{
    uint32_t           i, n, room, page;
    moe_seq_t         *seq;
    moe_step_entry_t  *e;

    for (i = 0; i < s->step.n; i++) {
        e = &s->step.entries[i];
        seq = e->seq;

        if (!e->last || seq->ndrafts == 0) {
            continue;
        }

        n = seq->ndrafts;

        room = s->o.step_tokens - s->nrows;
        n = n < room ? n : room;
        room = s->o.max_out - s->nout;
        n = n < room ? n : room;
        room = s->o.max_len - seq->len;
        n = n < room ? n : room;

        while (seq->ntable < moe_sched_pages_for(seq->len + n)) {

            page = moe_seq_table_grow(seq, seq->ntable + 1) == 0
                   ? moe_pages_alloc(s->pages) : MOE_PAGE_NONE;

            if (page == MOE_PAGE_NONE) {
                n = seq->ntable * MOE_PAGE_SIZE - seq->len;
                break;
            }

            seq->table[seq->ntable++] = page;
        }

        e->nrows += n;
        e->nout += n;
        e->ndrafts = n;
        s->nrows += n;
        s->nout += n;
    }
}


static void
moe_sched_plan(moe_sched_t *s, moe_seq_t *seq, uint32_t nrows)
{
    uint32_t           end;
    moe_step_entry_t  *e;

    e = &s->step.entries[s->step.n++];
    end = seq->computed + nrows;

    e->seq = seq;
    e->data = seq->data;
    e->pos = seq->computed;
    e->nrows = nrows;
    e->nout = 0;
    e->ndrafts = 0;
    e->first = !seq->begun;
    e->last = (end == seq->len);

    if (end > seq->out_from) {
        e->nout = end - (seq->out_from > e->pos ? seq->out_from : e->pos);
    }

    seq->entry = s->step.n;
    s->nrows += nrows;
    s->nout += e->nout;
}


static void
moe_sched_unplan(moe_sched_t *s, moe_seq_t *seq)
{
    moe_step_entry_t  *e;

    if (seq->entry == 0) {
        return;
    }

    e = &s->step.entries[seq->entry - 1];
    s->nrows -= e->nrows;
    s->nout -= e->nout;
    seq->entry = 0;

    *e = s->step.entries[--s->step.n];

    if (e != &s->step.entries[s->step.n]) {
        e->seq->entry = (uint32_t) (e - s->step.entries) + 1;
    }
}


/* rows that the sequence may have in what is left of the step */
static uint32_t
moe_sched_chunk(moe_sched_t *s, moe_seq_t *seq)
{
    uint32_t  n, skip, left;

    n = seq->len - seq->computed;

    if (n > s->o.prefill_chunk) {
        n = s->o.prefill_chunk;
    }

    left = s->limit > s->nrows ? s->limit - s->nrows : 0;
    if (n > left) {
        n = left;
    }

    skip = seq->out_from > seq->computed ? seq->out_from - seq->computed : 0;
    left = s->o.max_out - s->nout;

    if (n > skip && n - skip > left) {
        n = skip + left;
    }

    return n;
}


static void
moe_sched_lay_out(moe_sched_t *s)
{
    uint32_t           i, k, row, out, pos;
    moe_batch_t       *b;
    moe_step_entry_t  *e;

    row = 0;
    out = 0;

    for (i = 0; i < s->step.n; i++) {
        e = &s->step.entries[i];
        e->row = row;
        e->out = out;
        e->seq->entry = 0;
        s->tables[i] = e->seq->table;

        for (k = 0; k < e->nrows; k++, row++) {
            pos = e->pos + k;
            s->row_ids[row] = pos < e->seq->len
                              ? e->seq->ids[pos]
                              : e->seq->drafts[pos - e->seq->len];
            s->row_pos[row] = pos;
            s->row_seq[row] = i;
            s->row_role[row] = pos < e->seq->nprompt ? MOE_ROLE_PROMPT
                                                     : MOE_ROLE_GENERATED;

            if (k >= e->nrows - e->nout) {
                s->out[out++] = row;
            }
        }
    }

    b = &s->step.batch;
    b->nrows = row;
    b->ids = s->row_ids;
    b->pos = s->row_pos;
    b->seq = s->row_seq;
    b->role = s->row_role;
    b->nseqs = s->step.n;
    b->tables = s->tables;
    b->nout = out;
    b->out = s->out;
}


/*
 * Finds the cached beginning of a sequence that has no pages, and sees to it
 * that the rest of its known ids could be computed now without preempting
 * anyone who runs, but those of lower priority: who is admitted only to be
 * preempted does harm.
 */
static int
moe_sched_admit(moe_sched_t *s, moe_seq_t *seq)
{
    if (seq->ntable == 0) {
        moe_seq_match(s, seq);
    }

    while (moe_seq_lacks(seq) + moe_sched_owed(s)
           > moe_pages_available(s->pages))
    {
        /* keeps what it waits with from being taken as a victim's */
        moe_sched_detach(s, seq);

        if (moe_sched_make_room(s, seq) != 0) {
            moe_sched_insert(s, seq, MOE_SEQ_WAITING);
            moe_seq_release(s, seq);
            return -1;
        }

        moe_sched_insert(s, seq, MOE_SEQ_WAITING);
    }

    if (!seq->begun) {
        seq->cached = seq->computed < seq->nprompt ? seq->computed
                                                   : seq->nprompt;
    }

    return 0;
}


/* for one that is about to run: pages of somebody less important */
static int
moe_sched_make_room(moe_sched_t *s, const moe_seq_t *seq)
{
    moe_seq_t  *last;

    if (moe_sched_preempt(s, MOE_SEQ_WAITING) == 0) {
        return 0;
    }

    TAILQ_FOREACH_REVERSE(last, &s->lists[MOE_SEQ_RUNNING], moe_seq_list_s,
                          link)
    {
        if (last->ntable > 0) {
            break;
        }
    }

    if (last == NULL || last->priority >= seq->priority) {
        return -1;
    }

    return moe_sched_preempt(s, MOE_SEQ_RUNNING);
}


/* pages that running sequences will yet take for what is known of them */
static uint32_t
moe_sched_owed(moe_sched_t *s)
{
    uint32_t    n;
    moe_seq_t  *seq;

    n = 0;

    TAILQ_FOREACH(seq, &s->lists[MOE_SEQ_RUNNING], link) {
        n += moe_seq_lacks(seq);
    }

    return n;
}


/*
 * Pages for the first len ids of a running sequence.  -1 where it was itself
 * the one to be preempted for them.
 */
static int
moe_sched_reserve(moe_sched_t *s, moe_seq_t *seq, uint32_t len)
{
    uint32_t  n, page;

    n = moe_sched_pages_for(len);

    if (moe_seq_table_grow(seq, n) != 0) {
        return -1;
    }

    while (seq->ntable < n) {
        page = moe_pages_alloc(s->pages);

        if (page != MOE_PAGE_NONE) {
            seq->table[seq->ntable++] = page;
            continue;
        }

        if (moe_sched_preempt(s, MOE_SEQ_RUNNING) != 0
            || seq->state != MOE_SEQ_RUNNING)
        {
            return -1;
        }
    }

    return 0;
}


/*
 * Takes the pages of the least important sequence that has some; running ones
 * only where least says so.  -1 if there is none.
 */
static int
moe_sched_preempt(moe_sched_t *s, moe_seq_state_e least)
{
    size_t                        i;
    moe_seq_t                    *seq;
    static const moe_seq_state_e  order[] = {
        MOE_SEQ_PARKED, MOE_SEQ_WAITING, MOE_SEQ_RUNNING
    };

    for (i = 0; i < sizeof(order) / sizeof(order[0]); i++) {

        if (order[i] == MOE_SEQ_RUNNING && least != MOE_SEQ_RUNNING) {
            break;
        }

        TAILQ_FOREACH_REVERSE(seq, &s->lists[order[i]], moe_seq_list_s, link)
        {
            if (seq->ntable > 0) {
                break;
            }
        }

        if (seq == NULL) {
            continue;
        }

        moe_sched_unplan(s, seq);
        moe_seq_release(s, seq);
        s->preempted++;

        if (seq->state == MOE_SEQ_RUNNING) {
            moe_sched_move(s, seq, MOE_SEQ_WAITING);
        }

        return 0;
    }

    return -1;
}


static void
moe_sched_move(moe_sched_t *s, moe_seq_t *seq, moe_seq_state_e state)
{
    moe_sched_detach(s, seq);
    moe_sched_insert(s, seq, state);
}


static void
moe_sched_insert(moe_sched_t *s, moe_seq_t *seq, moe_seq_state_e state)
{
    moe_seq_t       *other;
    moe_seq_list_t  *list;

    list = &s->lists[state];

    TAILQ_FOREACH_REVERSE(other, list, moe_seq_list_s, link) {
        if (moe_seq_before(other, seq)) {
            break;
        }
    }

    if (other != NULL) {
        TAILQ_INSERT_AFTER(list, other, seq, link);

    } else {
        TAILQ_INSERT_HEAD(list, seq, link);
    }

    seq->state = state;
    s->count[state]++;
}


static void
moe_sched_detach(moe_sched_t *s, moe_seq_t *seq)
{
    TAILQ_REMOVE(&s->lists[seq->state], seq, link);
    s->count[seq->state]--;
}


static int
moe_seq_before(const moe_seq_t *a, const moe_seq_t *b)
{
    if (a->priority != b->priority) {
        return a->priority > b->priority;
    }

    return a->number < b->number;
}


/*
 * Takes the cached pages of its beginning.  The last known id is computed in
 * any case, as its logits are needed.
 */
static void
moe_seq_match(moe_sched_t *s, moe_seq_t *seq)
{
    uint32_t               n, page;
    const moe_page_key_t  *key;

    n = seq->out_from < seq->len ? seq->out_from : seq->len - 1;
    n /= MOE_PAGE_SIZE;

    if (moe_seq_table_grow(seq, n) != 0) {
        return;
    }

    while (seq->ntable < n) {
        key = moe_seq_key(seq, seq->ntable);
        if (key == NULL) {
            break;
        }

        page = moe_pages_find(s->pages, key);
        if (page == MOE_PAGE_NONE) {
            break;
        }

        seq->table[seq->ntable++] = page;
    }

    seq->published = seq->ntable;
    seq->computed = seq->ntable * MOE_PAGE_SIZE;
}


static void
moe_seq_publish(moe_sched_t *s, moe_seq_t *seq)
{
    const moe_page_key_t  *key;

    while (seq->published < seq->computed / MOE_PAGE_SIZE) {
        key = moe_seq_key(seq, seq->published);
        if (key == NULL) {
            return;
        }

        moe_pages_publish(s->pages, seq->table[seq->published++], key);
    }
}


/* what was drafted, and pages that only drafts needed */
static void
moe_seq_forget(moe_sched_t *s, moe_seq_t *seq)
{
    seq->ndrafts = 0;
    seq->accepted = 0;
    seq->tried = 0;

    while (seq->ntable > moe_sched_pages_for(seq->len)) {
        moe_pages_release(s->pages, seq->table[--seq->ntable]);
    }
}


/* pages for what is known of it; it may have one more, for drafts of a step
 * that was not committed */
static uint32_t
moe_seq_lacks(const moe_seq_t *seq)
{
    uint32_t  n;

    n = moe_sched_pages_for(seq->len);

    return n > seq->ntable ? n - seq->ntable : 0;
}


/* NULL without memory; a key once made stays true */
static const moe_page_key_t *
moe_seq_key(moe_seq_t *seq, uint32_t page)
{
    uint32_t               i, pos, size;
    uint8_t                roles[MOE_PAGE_SIZE];
    moe_page_key_t        *keys;
    const moe_page_key_t  *parent;

    if (page >= seq->keys_size) {
        size = page + page / 2 + 4;

        keys = realloc(seq->keys, (size_t) size * sizeof(moe_page_key_t));
        if (keys == NULL) {
            return NULL;
        }

        seq->keys = keys;
        seq->keys_size = size;
    }

    while (seq->nkeys <= page) {
        pos = seq->nkeys * MOE_PAGE_SIZE;

        for (i = 0; i < MOE_PAGE_SIZE; i++) {
            roles[i] = pos + i < seq->nprompt ? MOE_ROLE_PROMPT
                                              : MOE_ROLE_GENERATED;
        }

        parent = seq->nkeys > 0 ? &seq->keys[seq->nkeys - 1] : &seq->root;
        moe_page_key(&seq->keys[seq->nkeys], parent, seq->ids + pos, roles);
        seq->nkeys++;
    }

    return &seq->keys[page];
}


static void
moe_seq_release(moe_sched_t *s, moe_seq_t *seq)
{
    while (seq->ntable > 0) {
        moe_pages_release(s->pages, seq->table[--seq->ntable]);
    }

    seq->published = 0;
    seq->computed = 0;
}


static int
moe_seq_table_grow(moe_seq_t *seq, uint32_t n)
{
    uint32_t  *table, size;

    if (n <= seq->table_size) {
        return 0;
    }

    size = n + n / 2 + 4;

    table = realloc(seq->table, (size_t) size * sizeof(uint32_t));
    if (table == NULL) {
        return -1;
    }

    seq->table = table;
    seq->table_size = size;

    return 0;
}


static void
moe_seq_free(moe_seq_t *seq)
{
    free(seq->ids);
    free(seq->table);
    free(seq->keys);
    free(seq);
}
