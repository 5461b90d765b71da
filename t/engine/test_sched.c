#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "sched/sched.h"


#define MAX_PAGES  64
#define MAX_SEQS   40
#define MAX_LEN    400


/* what a sequence should be, kept apart from the scheduler */
typedef struct {
    moe_seq_t   *seq;
    uint32_t     nprompt;
    uint32_t     len;
    uint32_t     want;          /* ids to end with */
    uint32_t     salt;
    uint32_t     logits;        /* rows of logits seen */
    int          all_logits;
    int          parked;
    int          begun;
    uint32_t     ids[MAX_LEN];
    uint32_t     ndrafts;
    uint32_t     drafts[MOE_DRAFTS];
} shadow_t;

/* a page's rows: a hash of all that the row depends on */
static uint64_t      memory[MAX_PAGES][MOE_PAGE_SIZE];
static shadow_t      shadows[MAX_SEQS];
static moe_sched_t  *sched;
static uint64_t      rng;
static uint32_t      salt;       /* of what is added */
static int           drafting;   /* sequences have drafts */
static uint32_t      right;      /* drafts, so far */
static uint32_t      wrong;


static uint32_t
draw(uint32_t n)
{
    rng = rng * 6364136223846793005ull + 1442695040888963407ull;

    return (uint32_t) ((rng >> 33) % n);
}


static void
create(moe_sched_options_t *o)
{
    moe_err_t  err;

    memset(memory, 0, sizeof(memory));
    memset(shadows, 0, sizeof(shadows));
    memset(o->fingerprint, 7, sizeof(o->fingerprint));

    sched = moe_sched_create(o, &err);
    assert_non_null(sched);
}


/* alike: prompts begin with the same ids, so that prefixes are shared */
static shadow_t *
add(uint32_t nprompt, uint32_t ngen, uint32_t want, int all_logits,
    int32_t priority, uint32_t alike)
{
    uint32_t             i;
    shadow_t            *sh;
    moe_err_t            err;
    moe_sched_request_t  r;

    for (sh = shadows; sh->seq != NULL; sh++) { /* void */ }

    memset(sh, 0, sizeof(*sh));

    sh->nprompt = nprompt;
    sh->len = nprompt + ngen;
    sh->want = want;
    sh->salt = salt;
    sh->all_logits = all_logits;

    for (i = 0; i < sh->len; i++) {
        sh->ids[i] = i < alike ? i : draw(3);
    }

    memset(&r, 0, sizeof(r));
    r.ids = sh->ids;
    r.nids = sh->len;
    r.nprompt = nprompt;
    r.salt = &sh->salt;
    r.nsalt = sizeof(sh->salt);
    r.priority = priority;
    r.all_logits = all_logits;
    r.data = sh;

    sh->seq = moe_sched_add(sched, &r, &err);
    assert_non_null(sh->seq);

    return sh;
}


static void
drop(shadow_t *sh)
{
    moe_sched_remove(sched, sh->seq);
    sh->seq = NULL;
}


static uint64_t
row_hash(uint64_t before, uint32_t id, int role)
{
    return (before ^ (id * 2u + (uint32_t) role + 1)) * 0x9e3779b97f4a7c15ull;
}


/*
 * Plays the model: checks that what each row depends on is in the pages, and
 * writes the rows.
 */
static void
play(const moe_step_t *step)
{
    int                      role;
    uint32_t                 i, j, k, pos, page, n, owners, row, out, id;
    uint64_t                 h;
    shadow_t                *sh;
    const uint32_t          *table;
    const moe_batch_t       *b;
    const moe_step_entry_t  *e;

    b = &step->batch;
    row = 0;
    out = 0;

    assert_int_equal(b->nseqs, step->n);

    for (i = 0; i < step->n; i++) {
        e = &step->entries[i];
        sh = e->data;
        h = sh->salt;

        assert_false(sh->parked);
        assert_int_equal(e->row, row);
        assert_int_equal(e->out, out);
        assert_int_equal(e->first, !sh->begun);
        assert_true(e->nrows > 0);
        assert_true(e->ndrafts <= (e->last ? sh->ndrafts : 0));
        assert_true(e->pos + e->nrows - e->ndrafts <= sh->len);
        assert_int_equal(e->last, e->pos + e->nrows - e->ndrafts == sh->len);

        table = b->tables[i];

        for (pos = 0; pos < e->pos + e->nrows; pos++) {
            page = table[pos / MOE_PAGE_SIZE];
            role = pos < sh->nprompt ? MOE_ROLE_PROMPT : MOE_ROLE_GENERATED;
            id = pos < sh->len ? sh->ids[pos] : sh->drafts[pos - sh->len];
            h = row_hash(h, id, role);

            if (pos < e->pos) {
                assert_true(memory[page][pos % MOE_PAGE_SIZE] == h);
                continue;
            }

            assert_int_equal(b->ids[row], id);
            assert_int_equal(b->pos[row], pos);
            assert_int_equal(b->seq[row], i);
            assert_int_equal(b->role[row], role);
            row++;

            owners = 0;

            for (j = 0; j < MAX_SEQS; j++) {
                if (shadows[j].seq == NULL) {
                    continue;
                }

                table = moe_seq_table(shadows[j].seq, &n);

                for (k = 0; k < n; k++) {
                    owners += table[k] == page;
                }
            }

            assert_int_equal(owners, 1);

            table = b->tables[i];
            memory[page][pos % MOE_PAGE_SIZE] = h;
        }

        for (k = 0; k < e->nout; k++, out++) {
            assert_int_equal(b->out[out], row - e->nout + k);
        }

        assert_true(!e->last || e->nout > e->ndrafts);

        if (e->first) {
            assert_int_equal(moe_seq_cached(sh->seq),
                             e->pos < sh->nprompt ? e->pos : sh->nprompt);
        }
    }

    assert_int_equal(b->nrows, row);
    assert_int_equal(b->nout, out);
}


/* pages used are those in tables; every table reaches what is computed */
static void
check_pages(void)
{
    uint8_t              used[MAX_PAGES];
    uint32_t             i, j, n, count;
    const uint32_t      *table;
    moe_sched_counts_t   c;

    memset(used, 0, sizeof(used));
    count = 0;

    for (i = 0; i < MAX_SEQS; i++) {
        if (shadows[i].seq == NULL) {
            continue;
        }

        table = moe_seq_table(shadows[i].seq, &n);

        for (j = 0; j < n; j++) {
            count += !used[table[j]];
            used[table[j]] = 1;
        }
    }

    moe_sched_counts(sched, &c);
    assert_int_equal(c.pages_used, count);
    assert_true(c.pages_used + c.pages_cached <= c.pages);
}


/* ids after the last known one, drafted right or wrong, and new drafts */
static void
go_on(shadow_t *sh, uint32_t ndrafts)
{
    int       rc;
    uint32_t  i, n;

    for (i = 0; sh->len < sh->want; i++) {

        sh->ids[sh->len] = i < ndrafts && draw(3) ? sh->drafts[i] : draw(3);
        rc = moe_sched_append(sched, sh->seq, sh->ids[sh->len]);
        assert_int_equal(rc, i < ndrafts
                             && sh->ids[sh->len] == sh->drafts[i]);
        sh->len++;
        assert_int_equal(moe_seq_len(sh->seq), sh->len);
        assert_int_equal(moe_seq_computed(sh->seq), sh->len - (rc == 0));

        sh->logits += (uint32_t) rc;
        right += rc;
        wrong += i < ndrafts && !rc;

        if (rc == 0) {
            /* pages of wrong drafts went back */
            (void) moe_seq_table(sh->seq, &n);
            assert_true(n <= (sh->len + MOE_PAGE_SIZE - 1) / MOE_PAGE_SIZE);
            break;
        }
    }

    if (moe_seq_computed(sh->seq) == sh->len) {
        /* nobody asks for the logits that are there */
        drop(sh);
        return;
    }

    if (!drafting) {
        return;
    }

    sh->ndrafts = draw(3) ? 0 : draw(MOE_DRAFTS + 1);

    for (i = 0; i < sh->ndrafts; i++) {
        sh->drafts[i] = draw(3);
    }

    if (sh->ndrafts > 0 || draw(2)) {
        moe_sched_draft(sched, sh->seq, sh->drafts, sh->ndrafts);
    }
}


/* one step and what a rank does after it; 0 if there was none */
static int
step_once(void)
{
    uint32_t           i;
    shadow_t          *sh;
    const moe_step_t  *step;

    step = moe_sched_form(sched);
    check_pages();

    if (step == NULL) {
        return 0;
    }

    play(step);
    moe_sched_commit(sched);

    for (i = 0; i < step->n; i++) {
        sh = step->entries[i].data;
        sh->begun = 1;
        sh->logits += step->entries[i].nout - step->entries[i].ndrafts;

        if (!step->entries[i].last) {
            continue;
        }

        if (sh->len == sh->want) {
            /* every logit came once, however often it was preempted */
            if (sh->all_logits) {
                assert_int_equal(sh->logits, sh->len);
            }

            drop(sh);
            continue;
        }

        go_on(sh, step->entries[i].ndrafts);
    }

    return 1;
}


static int
live(void)
{
    int  i, n;

    for (i = 0, n = 0; i < MAX_SEQS; i++) {
        n += shadows[i].seq != NULL;
    }

    return n;
}


static void
test_random(void **state)
{
    int                  i, round, preempted, cached;
    uint32_t             nprompt, ngen;
    shadow_t            *sh;
    moe_sched_counts_t   c;
    moe_sched_options_t  o;

    preempted = 0;
    cached = 0;
    drafting = 1;

    for (round = 0; round < 60; round++) {
        rng = round;
        memset(&o, 0, sizeof(o));
        o.pages = 8 + draw(MAX_PAGES - 8);
        o.max_len = 1 + draw(MAX_LEN - 1);
        o.max_running = 1 + draw(10);
        o.step_tokens = 1 + draw(100);
        o.prefill_chunk = 1 + draw(70);
        o.max_out = draw(20);
        create(&o);

        o.max_len = moe_sched_max_len(sched);
        assert_true(o.max_len <= o.pages * MOE_PAGE_SIZE);

        for (i = 0; i < 400; i++) {
            sh = &shadows[draw(MAX_SEQS)];

            switch (draw(8)) {
            case 0:
            case 1:
                if (live() == MAX_SEQS) {
                    break;
                }

                salt = draw(2);
                nprompt = 1 + draw(o.max_len);
                ngen = draw(3) ? 0 : draw(o.max_len - nprompt + 1);
                sh = add(nprompt, ngen,
                         nprompt + ngen + draw(o.max_len - nprompt - ngen + 1),
                         draw(4) == 0, (int32_t) draw(3), draw(200));
                break;

            case 2:
                if (sh->seq != NULL && draw(3) == 0) {
                    drop(sh);
                }

                break;

            case 3:
                if (sh->seq != NULL) {
                    moe_sched_park(sched, sh->seq);
                    sh->parked = 1;
                }

                break;

            case 4:
                if (sh->seq != NULL) {
                    moe_sched_unpark(sched, sh->seq);
                    sh->parked = 0;
                }

                break;

            case 5:
                /* a step that the model refused leaves nothing behind */
                (void) moe_sched_form(sched);
                check_pages();
                break;

            default:
                (void) step_once();
            }

            for (sh = shadows; sh < shadows + MAX_SEQS; sh++) {
                cached += sh->seq != NULL && moe_seq_cached(sh->seq) > 0;
            }
        }

        for (sh = shadows; sh < shadows + MAX_SEQS; sh++) {
            if (sh->seq != NULL) {
                moe_sched_unpark(sched, sh->seq);
                sh->parked = 0;
            }
        }

        /* whoever is left comes to an end */
        for (i = 0; step_once(); i++) {
            assert_true(i < 200000);
        }

        assert_int_equal(live(), 0);

        moe_sched_counts(sched, &c);
        assert_int_equal(c.pages_used, 0);
        assert_int_equal(c.waiting + c.running + c.parked, 0);
        preempted += c.preempted > 0;

        moe_sched_destroy(sched);
    }

    assert_true(preempted > 10);
    assert_true(cached > 100);
    drafting = 0;
    assert_true(right > 1000);
    assert_true(wrong > 1000);
}


static void
test_budget(void **state)
{
    uint32_t             i, rows;
    const moe_step_t    *step;
    moe_sched_options_t  o = { 60, 300, 4, 20, 8, 4, { 0 } };

    create(&o);

    for (i = 0; i < 6; i++) {
        add(30, 0, 40, 0, 0, 0);
    }

    while ((step = moe_sched_form(sched)) != NULL) {
        rows = step->batch.nrows;
        assert_true(rows <= 20);
        assert_true(step->n <= 4);

        for (i = 0; i < step->n; i++) {
            assert_true(step->entries[i].nrows <= 8);
        }

        assert_true(step_once());
    }

    assert_int_equal(live(), 0);
    moe_sched_destroy(sched);
}


/* while some decode prompts have few rows, and all who decode one each */
static void
test_prefill_rows(void **state)
{
    uint32_t             i, decode, prefill, mixed, running;
    const moe_step_t    *step;
    moe_sched_options_t  o = { 60, 300, 6, 64, 32, 8, { 0 } };

    create(&o);
    moe_sched_set_prefill(sched, 5);

    for (i = 0; i < 3; i++) {
        add(10, 0, 60, 0, 0, 0);
    }

    /* nobody decodes yet */
    step = moe_sched_form(sched);
    assert_int_equal(step->batch.nrows, 30);
    assert_true(step_once());

    add(100, 0, 110, 0, 0, 0);
    add(80, 0, 90, 0, 0, 0);
    mixed = 0;

    while ((step = moe_sched_form(sched)) != NULL) {
        decode = 0;
        prefill = 0;

        for (i = 0; i < step->n; i++) {
            if (step->entries[i].nrows > 1 || !step->entries[i].last) {
                prefill += step->entries[i].nrows;
            } else {
                decode++;
            }
        }

        for (i = 0, running = 0; i < MAX_SEQS; i++) {
            running += shadows[i].seq != NULL
                       && moe_seq_computed(shadows[i].seq) + 1
                          == shadows[i].len;
        }

        assert_true(decode >= running);
        assert_true(prefill <= 5 || running == 0);
        mixed += prefill > 0 && running > 0;

        assert_true(step_once());
    }

    assert_true(mixed > 10);
    assert_int_equal(live(), 0);
    moe_sched_destroy(sched);
}


/* adds one that begins as all others here, steps, and says what was cached */
static uint32_t
cached_of(uint32_t nprompt, uint32_t ngen, int all_logits)
{
    uint32_t   n;
    shadow_t  *sh;

    sh = add(nprompt, ngen, 100, all_logits, 0, 300);
    assert_true(step_once());
    n = moe_seq_cached(sh->seq);
    drop(sh);

    return n;
}


static void
test_prefix(void **state)
{
    uint32_t             n;
    shadow_t            *a, *b;
    const uint32_t      *ta, *tb;
    moe_sched_options_t  o = { 60, 300, 8, 200, 200, 8, { 0 } };

    create(&o);
    salt = 0;

    a = add(56, 0, 100, 0, 0, 300);
    assert_true(step_once());

    /* full pages are shared while they are in use ... */
    b = add(50, 0, 100, 0, 0, 300);
    assert_true(step_once());
    assert_int_equal(moe_seq_cached(b->seq), 48);

    ta = moe_seq_table(a->seq, &n);
    tb = moe_seq_table(b->seq, &n);
    assert_int_equal(ta[0], tb[0]);
    assert_int_equal(ta[2], tb[2]);
    assert_int_not_equal(ta[3], tb[3]);

    drop(a);
    drop(b);

    /* ... and after, but never the last id, */
    assert_int_equal(cached_of(49, 0, 0), 48);
    assert_int_equal(cached_of(48, 0, 0), 32);
    assert_int_equal(cached_of(1, 0, 0), 0);

    /* nor where all logits are wanted, */
    assert_int_equal(cached_of(49, 0, 1), 0);

    /* nor in another role, */
    assert_int_equal(cached_of(32, 17, 0), 32);
    assert_int_equal(cached_of(33, 17, 0), 32);
    assert_int_equal(cached_of(15, 30, 0), 0);

    /* nor under another salt */
    salt = 1;
    assert_int_equal(cached_of(49, 0, 0), 0);
    assert_int_equal(cached_of(49, 0, 0), 48);

    moe_sched_destroy(sched);
}


/* cached pages are found by their keys until memory is needed: then the one
 * longest unused goes first */
static void
test_lru(void **state)
{
    uint32_t         i, page[4], ids[MOE_PAGE_SIZE];
    uint8_t          roles[MOE_PAGE_SIZE], fingerprint[32];
    moe_err_t        err;
    moe_pages_t     *p;
    moe_page_key_t   root, other, key[4];

    memset(ids, 0, sizeof(ids));
    memset(roles, 0, sizeof(roles));
    memset(fingerprint, 0, sizeof(fingerprint));
    moe_page_key_root(&root, fingerprint, "a", 1);
    moe_page_key_root(&other, fingerprint, "b", 1);
    assert_memory_not_equal(&root, &other, sizeof(root));

    p = moe_pages_create(4, &err);
    assert_non_null(p);

    for (i = 0; i < 4; i++) {
        ids[0] = i;
        moe_page_key(&key[i], &root, ids, roles);
        page[i] = moe_pages_alloc(p);
        moe_pages_publish(p, page[i], &key[i]);
    }

    assert_int_equal(moe_pages_alloc(p), MOE_PAGE_NONE);

    /* 2, 0, 1, 3 go unused; then 0 is used again for a while */
    moe_pages_release(p, page[2]);
    moe_pages_release(p, page[0]);
    moe_pages_release(p, page[1]);
    moe_pages_release(p, page[3]);
    assert_int_equal(moe_pages_cached(p), 4);
    assert_int_equal(moe_pages_find(p, &key[0]), page[0]);
    moe_pages_release(p, page[0]);

    assert_int_equal(moe_pages_alloc(p), page[2]);
    assert_int_equal(moe_pages_find(p, &key[2]), MOE_PAGE_NONE);
    assert_int_equal(moe_pages_alloc(p), page[1]);
    assert_int_equal(moe_pages_alloc(p), page[3]);
    assert_int_equal(moe_pages_find(p, &key[0]), page[0]);
    assert_int_equal(moe_pages_alloc(p), MOE_PAGE_NONE);

    /* the same ids under another salt are another page */
    ids[0] = 0;
    moe_page_key(&key[1], &other, ids, roles);
    assert_int_equal(moe_pages_find(p, &key[1]), MOE_PAGE_NONE);

    moe_pages_destroy(p);
}


static void
test_preempt_order(void **state)
{
    uint32_t             n;
    shadow_t            *a, *b, *c;
    moe_sched_options_t  o = { 8, 128, 8, 200, 200, 8, { 0 } };

    create(&o);

    /* three pages each: the third waits, then the younger gives way */
    a = add(33, 0, 100, 0, 0, 0);
    b = add(33, 0, 100, 0, 0, 0);
    c = add(33, 0, 100, 0, 0, 0);
    step_once();

    moe_seq_table(a->seq, &n);
    assert_int_equal(n, 3);
    moe_seq_table(b->seq, &n);
    assert_int_equal(n, 3);
    moe_seq_table(c->seq, &n);
    assert_int_equal(n, 0);

    while (a->len < 82) {
        step_once();
    }

    moe_seq_table(b->seq, &n);
    assert_int_equal(n, 0);

    /* a parked one gives way, however old */
    moe_sched_park(sched, a->seq);
    a->parked = 1;
    step_once();
    moe_seq_table(a->seq, &n);
    assert_int_equal(n, 0);
    moe_seq_table(b->seq, &n);
    assert_true(n > 0);

    moe_sched_unpark(sched, a->seq);
    a->parked = 0;

    /* a higher priority goes before who came first */
    drop(b);
    drop(c);
    drop(a);
    a = add(100, 0, 110, 0, 0, 0);
    b = add(100, 0, 110, 0, 5, 0);
    step_once();
    moe_seq_table(b->seq, &n);
    assert_true(n > 0);
    moe_seq_table(a->seq, &n);
    assert_int_equal(n, 0);

    moe_sched_destroy(sched);
}


/* who is in the next step, and with how many rows */
static uint32_t
rows_of(const moe_step_t *step, const shadow_t *sh)
{
    uint32_t  i;

    for (i = 0; i < step->n; i++) {
        if (step->entries[i].data == sh) {
            return step->entries[i].nrows;
        }
    }

    return 0;
}


static void
test_priorities(void **state)
{
    uint32_t             i, n;
    shadow_t            *low[4], *high, *long_low;
    const moe_step_t    *step;
    moe_sched_counts_t   c;
    moe_sched_options_t  o = { 16, 256, 4, 64, 48, 8, { 0 } };

    create(&o);

    /* a full batch: the youngest gives its place and keeps its pages */
    for (i = 0; i < 4; i++) {
        low[i] = add(4, 0, 100, 0, 0, 0);
    }

    step_once();
    high = add(20, 0, 22, 0, 1, 0);
    step = moe_sched_form(sched);
    assert_int_equal(step->n, 4);
    assert_int_equal(rows_of(step, high), 20);
    assert_int_equal(rows_of(step, low[2]), 1);
    assert_int_equal(rows_of(step, low[3]), 0);
    moe_seq_table(low[3]->seq, &n);
    assert_int_equal(n, 1);

    /* an equal one does not take a place */
    i = low[3]->len;
    step_once();
    step_once();
    assert_int_equal(high->len, 22);
    assert_int_equal(low[3]->len, i);
    drop(high);
    step_once();
    assert_int_equal(low[3]->len, i + 1);
    moe_sched_counts(sched, &c);
    assert_int_equal(c.preempted, 0);

    for (i = 0; i < 4; i++) {
        drop(low[i]);
    }

    /* a prompt of a higher class goes before the rest of a lower one's */
    long_low = add(200, 0, 210, 0, 0, 0);
    low[0] = add(100, 0, 110, 0, 0, 0);
    step_once();
    high = add(40, 0, 50, 0, 1, 0);
    step = moe_sched_form(sched);
    assert_int_equal(rows_of(step, high), 40);
    assert_int_equal(rows_of(step, long_low), 24);
    assert_int_equal(rows_of(step, low[0]), 0);
    step_once();
    drop(high);
    drop(low[0]);

    /* pages too: what runs gives up its own */
    while (long_low->len < 201) {
        step_once();
    }

    high = add(150, 0, 160, 0, 1, 0);
    step_once();
    moe_seq_table(long_low->seq, &n);
    assert_int_equal(n, 0);
    moe_seq_table(high->seq, &n);
    assert_true(n > 0);

    /* but not for an equal one */
    low[0] = add(150, 0, 160, 0, 1, 0);
    step_once();
    moe_seq_table(low[0]->seq, &n);
    assert_int_equal(n, 0);
    moe_seq_table(high->seq, &n);
    assert_true(n > 0);

    moe_sched_destroy(sched);
}


static void
test_refusals(void **state)
{
    uint32_t             ids[200] = { 0 };
    moe_err_t            err;
    moe_sched_request_t  r;
    moe_sched_options_t  o = { 8, 1000, 8, 200, 200, 8, { 0 } };

    create(&o);
    assert_int_equal(moe_sched_max_len(sched), 128);

    memset(&r, 0, sizeof(r));
    r.ids = ids;

    r.nids = 0;
    r.nprompt = 0;
    assert_null(moe_sched_add(sched, &r, &err));

    r.nids = 129;
    r.nprompt = 1;
    assert_null(moe_sched_add(sched, &r, &err));

    r.nids = 10;
    r.nprompt = 11;
    assert_null(moe_sched_add(sched, &r, &err));

    assert_null(moe_sched_form(sched));
    moe_sched_destroy(sched);

    o.pages = 0;
    assert_null(moe_sched_create(&o, &err));
}


int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_budget),
        cmocka_unit_test(test_prefill_rows),
        cmocka_unit_test(test_prefix),
        cmocka_unit_test(test_lru),
        cmocka_unit_test(test_preempt_order),
        cmocka_unit_test(test_priorities),
        cmocka_unit_test(test_refusals)
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
