#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>

#include "front/admission.h"
#include "front/choose.h"
#include "front/fair.h"
#include "front/front.h"
#include "pace.h"
#include "plan/fleet_parts.h"
#include "plan/random.h"
#include "sched/sched.h"


typedef struct job_s  job_t;

/* a request; its rank is none while it waits */
struct job_s {
    moe_fair_node_t    wait;            /* the first: a node is its job */
    moe_load_job_t     of;
    uint32_t           host;
    uint32_t           rank;            /* f->ranks: none */
    moe_seq_t         *seq;             /* NULL: not yet in a step */
    uint32_t           made;
    uint32_t           tries;
    double             first;           /* below 0: not yet */
    double             last;
    unsigned           begun:1;         /* a rank had it */
    TAILQ_ENTRY(job_s) link;            /* of all */
    TAILQ_ENTRY(job_s) line;            /* of a rank, or of not begun ones */
};

typedef TAILQ_HEAD(jobs_s, job_s)  jobs_t;

typedef struct {
    moe_sched_t       *sched;
    const moe_step_t  *step;
    moe_pace_t         pace;
    uint32_t           busy;
    uint32_t           prompts;         /* rows of them in the step */
    double             back;            /* when it comes back; 0: it is up */
    jobs_t             jobs;
} rank_t;

typedef struct {
    moe_fair_t         fair;
    moe_rate_t         rate;
    jobs_t             fresh;           /* not begun, by arrival */
} host_t;

typedef struct {
    const moe_fleet_options_t  *o;
    moe_load_t                 *load;
    moe_fleet_stats_t          *stats;
    moe_fleet_step_t           *step;
    double                      now;
    uint32_t                    nranks;
    rank_t                     *ranks;
    moe_fleet_part_t           *parts;      /* [nranks] */
    uint32_t                    nhosts;
    host_t                    **hosts;
    jobs_t                      jobs;
    uint32_t                   *ids;        /* [max_len] */
    moe_choose_t               *choice;     /* [ranks of a host] */
    uint32_t                    death;      /* the next */
    uint64_t                    moved;
    uint64_t                    preempted;  /* by schedulers that are gone */
    uint64_t                    cached;     /* tokens of prompts */
    uint64_t                    prompts;

    /* of the step that was formed */
    double                      running;
    double                      context;
} fleet_t;


static int check(const moe_fleet_options_t *o, moe_err_t *err);
static int create(fleet_t *f, moe_err_t *err);
static void destroy(fleet_t *f);
static int start(fleet_t *f, rank_t *r, moe_err_t *err);
static int run(fleet_t *f, moe_err_t *err);
static double next_event(const fleet_t *f);
static int advance(fleet_t *f, double to, moe_err_t *err);
static int arrive(fleet_t *f, moe_err_t *err);
static uint32_t host_of(const fleet_t *f, const moe_load_job_t *job);
static int enter(fleet_t *f, host_t *h, job_t *j, moe_err_t *err);
static int over(fleet_t *f, job_t *j, moe_fleet_end_e end, moe_err_t *err);
static int time_out(fleet_t *f, host_t *h, moe_err_t *err);
static void dispatch(fleet_t *f, host_t *h);
static uint32_t choose(fleet_t *f, const job_t *j);
static int form(fleet_t *f, moe_err_t *err);
static int add_sequences(fleet_t *f, rank_t *r, moe_err_t *err);
static void count(fleet_t *f, rank_t *r, moe_fleet_part_t *part);
static int commit(fleet_t *f, const moe_fleet_time_t *time, moe_err_t *err);
static int commit_entry(fleet_t *f, const moe_step_entry_t *e, double *made,
    moe_err_t *err);
static int die(fleet_t *f, const moe_fleet_death_t *d, moe_err_t *err);
static int come_back(fleet_t *f, moe_err_t *err);


void
moe_fleet_defaults(moe_fleet_options_t *o)
{
    memset(o, 0, sizeof(moe_fleet_options_t));
    moe_plan_defaults(&o->plan);

    o->host = 8;
    o->nodes = 1;
    o->seconds = 60;
    o->prefill_chunk = 256;
    o->step_s = 0.2;
    o->queue = 1024;
    o->may = 60;
    o->rebalance = 10;
    o->recover = 0.25;
    o->layers = 16;
    o->routing.kind = MOE_ROUTING_LOGNORMAL;
    o->routing.skew = 0.8;
    o->routing.drift = 300;
    o->routing.seed = 1;
    o->rows = 12;
}


int
moe_fleet_run(const moe_fleet_options_t *o, moe_load_t *load,
    moe_fleet_result_t *out, moe_err_t *err)
{
    int                   rc;
    job_t                *j;
    uint32_t              i;
    fleet_t               f;
    moe_fleet_record_t    r;
    moe_sched_counts_t    c;

    memset(out, 0, sizeof(moe_fleet_result_t));
    memset(&f, 0, sizeof(fleet_t));
    TAILQ_INIT(&f.jobs);
    f.o = o;
    f.load = load;

    rc = check(o, err);

    if (rc == 0) {
        rc = create(&f, err);
    }

    if (rc == 0) {
        rc = run(&f, err);
    }

    for (j = TAILQ_FIRST(&f.jobs); rc == 0 && j; j = TAILQ_NEXT(j, link)) {
        r = (moe_fleet_record_t) { j->of.at, j->first, j->last, j->made,
                                   MOE_FLEET_SERVED };
        rc = moe_fleet_stats_add(f.stats, &r, err);
    }

    if (rc == 0) {
        rc = moe_fleet_stats_result(f.stats, out, err);
    }

    if (rc == 0) {
        moe_fleet_step_figures(f.step, out);
        out->moved = f.moved;
        out->preempted = f.preempted;
        out->cached = f.prompts > 0 ? (double) f.cached / (double) f.prompts
                                    : 0;

        for (i = 0; i < f.nranks; i++) {
            if (f.ranks[i].sched != NULL) {
                moe_sched_counts(f.ranks[i].sched, &c);
                out->preempted += c.preempted;
            }
        }
    }

    destroy(&f);

    return rc;
}


void
moe_fleet_free(moe_fleet_result_t *out)
{
    free(out->rows);
    out->rows = NULL;
}


static int
check(const moe_fleet_options_t *o, moe_err_t *err)
{
    double    ranks, need;
    uint32_t  i;

    ranks = o->plan.devices;

    if (o->host == 0 || fmod(ranks, o->host) != 0) {
        return moe_err(err, "%.0f ranks are no whole hosts of %u", ranks,
                       o->host);
    }

    need = moe_plan_kv_token(&o->plan) * o->max_len;

    if (moe_plan_kv(&o->plan) < need) {
        return moe_err(err, "the model does not fit: %.3g GB a device are "
                       "left for KV, a sequence of %u tokens has %.3g",
                       moe_plan_kv(&o->plan) * 1e-9, o->max_len, need * 1e-9);
    }

    for (i = 0; i < o->nslow; i++) {
        if (o->slow[i].rank >= ranks) {
            return moe_err(err, "there is no rank %u to be slow",
                           o->slow[i].rank);
        }
    }

    for (i = 0; i < o->ndeaths; i++) {
        if (o->deaths[i].rank >= ranks) {
            return moe_err(err, "there is no rank %u to die",
                           o->deaths[i].rank);
        }

        if (i > 0 && o->deaths[i].at < o->deaths[i - 1].at) {
            return moe_err(err, "deaths are not in order of time");
        }
    }

    return 0;
}


static int
create(fleet_t *f, moe_err_t *err)
{
    uint32_t  i;

    f->nranks = (uint32_t) f->o->plan.devices;
    f->nhosts = f->nranks / f->o->host;

    f->ranks = calloc(f->nranks, sizeof(rank_t));
    f->parts = calloc(f->nranks, sizeof(moe_fleet_part_t));
    f->hosts = calloc(f->nhosts, sizeof(host_t *));
    f->choice = calloc(f->o->host, sizeof(moe_choose_t));
    f->ids = calloc(f->o->max_len, sizeof(uint32_t));

    if (f->ranks == NULL || f->parts == NULL || f->hosts == NULL
        || f->choice == NULL || f->ids == NULL)
    {
        return moe_err(err, "fleet: out of memory");
    }

    for (i = 0; i < f->nranks; i++) {
        TAILQ_INIT(&f->ranks[i].jobs);
        f->parts[i].slow = 1;
        f->parts[i].up = 1;

        if (start(f, &f->ranks[i], err) != 0) {
            return -1;
        }
    }

    for (i = 0; i < f->o->nslow; i++) {
        f->parts[f->o->slow[i].rank].slow = f->o->slow[i].times;
    }

    for (i = 0; i < f->nhosts; i++) {
        f->hosts[i] = calloc(1, sizeof(host_t));

        if (f->hosts[i] == NULL) {
            return moe_err(err, "fleet: out of memory");
        }

        TAILQ_INIT(&f->hosts[i]->fresh);
    }

    f->stats = moe_fleet_stats_create(f->o, err);
    f->step = f->stats ? moe_fleet_step_create(f->o, err) : NULL;

    if (f->step == NULL) {
        return -1;
    }

    return moe_fleet_step_members(f->step, f->parts, err);
}


static void
destroy(fleet_t *f)
{
    job_t     *j;
    uint32_t   i;

    while ((j = TAILQ_FIRST(&f->jobs)) != NULL) {
        TAILQ_REMOVE(&f->jobs, j, link);
        moe_fair_leave(&f->hosts[j->host]->fair, &j->wait);
        free(j);
    }

    for (i = 0; f->ranks && i < f->nranks; i++) {
        moe_sched_destroy(f->ranks[i].sched);
    }

    for (i = 0; f->hosts && i < f->nhosts; i++) {
        if (f->hosts[i] != NULL) {
            moe_fair_free(&f->hosts[i]->fair);
            free(f->hosts[i]);
        }
    }

    moe_fleet_step_free(f->step);
    moe_fleet_stats_free(f->stats);
    free(f->ranks);
    free(f->parts);
    free(f->hosts);
    free(f->choice);
    free(f->ids);
}


/* a rank's scheduler, with nothing in its cache */
static int
start(fleet_t *f, rank_t *r, moe_err_t *err)
{
    moe_sched_options_t  o;

    memset(&o, 0, sizeof(o));
    o.pages = (uint32_t) (moe_plan_kv(&f->o->plan)
                          / moe_plan_kv_token(&f->o->plan) / MOE_PAGE_SIZE);
    o.max_len = f->o->max_len;
    o.max_running = f->o->max_running;
    o.step_tokens = f->o->step_tokens;
    o.prefill_chunk = f->o->prefill_chunk;

    r->sched = moe_sched_create(&o, err);

    return r->sched ? 0 : -1;
}


static int
run(fleet_t *f, moe_err_t *err)
{
    int                       rc;
    double                    end;
    moe_fleet_time_t          time;
    const moe_fleet_death_t  *d;

    while (f->now < f->o->seconds) {
        d = f->death < f->o->ndeaths ? &f->o->deaths[f->death] : NULL;

        if (d != NULL && d->at <= f->now) {
            if (die(f, d, err) != 0) {
                return -1;
            }
            continue;
        }

        if (come_back(f, err) != 0
            || moe_fleet_step_turn(f->step, f->now, err) != 0)
        {
            return -1;
        }

        rc = form(f, err);
        if (rc < 0) {
            return -1;
        }

        if (rc == 0) {
            if (advance(f, fmin(next_event(f), f->o->seconds), err) != 0) {
                return -1;
            }
            continue;
        }

        moe_fleet_step_time(f->step, f->parts, f->now, &time);
        end = f->now + time.seconds;

        /* a step that a rank dies in has not been */
        if (d != NULL && d->at < end) {
            if (advance(f, d->at, err) != 0) {
                return -1;
            }
            continue;
        }

        if (advance(f, end, err) != 0 || commit(f, &time, err) != 0) {
            return -1;
        }
    }

    return 0;
}


/* the next time at which something is to be done without a step */
static double
next_event(const fleet_t *f)
{
    double    at;
    uint32_t  i;

    at = moe_load_at(f->load);

    if (f->death < f->o->ndeaths) {
        at = fmin(at, f->o->deaths[f->death].at);
    }

    for (i = 0; i < f->nranks; i++) {
        if (f->ranks[i].back > 0) {
            at = fmin(at, f->ranks[i].back);
        }
    }

    return at;
}


/* requests that come until then are admitted as they come */
static int
advance(fleet_t *f, double to, moe_err_t *err)
{
    double    at;
    uint32_t  i;

    while ((at = moe_load_at(f->load)) <= to) {
        f->now = fmax(f->now, at);

        if (arrive(f, err) != 0) {
            return -1;
        }
    }

    f->now = fmax(f->now, to);

    for (i = 0; i < f->nhosts; i++) {
        if (time_out(f, f->hosts[i], err) != 0) {
            return -1;
        }
    }

    return 0;
}


static int
arrive(fleet_t *f, moe_err_t *err)
{
    job_t  *j;

    j = calloc(1, sizeof(job_t));
    if (j == NULL) {
        return moe_err(err, "fleet: out of memory");
    }

    if (moe_load_take(f->load, &j->of, err) != 0) {
        free(j);
        return -1;
    }

    j->rank = f->nranks;
    j->first = -1;
    j->host = host_of(f, &j->of);
    TAILQ_INSERT_TAIL(&f->jobs, j, link);

    return enter(f, f->hosts[j->host], j, err);
}


/* as nginx's consistent hash over hosts that answer: a conversation stays */
static uint32_t
host_of(const fleet_t *f, const moe_load_job_t *job)
{
    uint32_t  h, i, k, n;

    n = f->nhosts;
    h = (uint32_t) (moe_plan_mix(job->chat) >> 33) % n;

    for (i = 0; i < n; i++) {
        for (k = 0; k < f->o->host; k++) {
            if (f->parts[(h + i) % n * f->o->host + k].up) {
                return (h + i) % n;
            }
        }
    }

    return h;
}


static int
enter(fleet_t *f, host_t *h, job_t *j, moe_err_t *err)
{
    uint8_t           id[MOE_FAIR_KEY];
    uint64_t          key;
    moe_fair_node_t  *victim;

    memset(id, 0, sizeof(id));
    key = moe_plan_mix(j->of.key + 1);
    memcpy(id, &key, sizeof(key));

    if (moe_fair_enter(&h->fair, &j->wait, id, 0, 1) != 0) {
        return moe_err(err, "fleet: out of memory");
    }

    if (moe_admission(&h->fair, &h->rate, &j->wait, f->o->queue,
                      (uint64_t) (f->o->may * 1e6), &victim)
        != MOE_ADMIT_YES)
    {
        return over(f, j, MOE_FLEET_REFUSED, err);
    }

    TAILQ_INSERT_TAIL(&h->fresh, j, line);

    if (victim != NULL
        && over(f, (job_t *) (void *) victim, MOE_FLEET_REFUSED, err) != 0)
    {
        return -1;
    }

    if (moe_fair_push(&h->fair, &j->wait, 0) != 0) {
        return moe_err(err, "fleet: out of memory");
    }

    dispatch(f, h);

    return 0;
}


/* frees it; it is in no step */
static int
over(fleet_t *f, job_t *j, moe_fleet_end_e end, moe_err_t *err)
{
    int                  rc;
    host_t              *h;
    rank_t              *r;
    moe_fleet_record_t   record;

    h = f->hosts[j->host];

    if (j->rank < f->nranks) {
        r = &f->ranks[j->rank];
        r->busy--;
        TAILQ_REMOVE(&r->jobs, j, line);

        if (j->seq != NULL) {
            moe_sched_remove(r->sched, j->seq);
        }

    } else if (!j->begun && j->wait.waits) {
        TAILQ_REMOVE(&h->fresh, j, line);
    }

    record = (moe_fleet_record_t) { j->of.at, j->first, j->last, j->made,
                                    end };
    rc = moe_fleet_stats_add(f->stats, &record, err);

    if (rc == 0) {
        rc = moe_load_ended(f->load, &j->of, f->now, end == MOE_FLEET_SERVED,
                            err);
    }

    moe_fair_leave(&h->fair, &j->wait);
    TAILQ_REMOVE(&f->jobs, j, link);
    free(j);

    return rc;
}


static int
time_out(fleet_t *f, host_t *h, moe_err_t *err)
{
    job_t  *j;

    while (f->o->may > 0 && (j = TAILQ_FIRST(&h->fresh)) != NULL
           && f->now > j->of.at + f->o->may)
    {
        if (over(f, j, MOE_FLEET_LATE, err) != 0) {
            return -1;
        }
    }

    dispatch(f, h);

    return 0;
}


static void
dispatch(fleet_t *f, host_t *h)
{
    job_t            *j;
    uint32_t          r, begun;
    moe_fair_node_t  *node;

    begun = 0;

    while ((node = moe_fair_first(&h->fair)) != NULL) {
        j = (job_t *) (void *) node;
        r = choose(f, j);

        if (r == f->nranks) {
            break;
        }

        if (!j->begun) {
            TAILQ_REMOVE(&h->fresh, j, line);
            moe_fair_charge(&h->fair, node,
                            (int64_t) j->of.prompt * MOE_FAIR_INPUT);
        }

        moe_fair_remove(&h->fair, node);
        begun++;

        j->begun = 1;
        j->rank = r;
        f->ranks[r].busy++;
        TAILQ_INSERT_TAIL(&f->ranks[r].jobs, j, line);
    }

    moe_rate_turn(&h->rate, (uint64_t) (f->now * 1e6), begun,
                  h->fair.n != 0);
}


static uint32_t
choose(fleet_t *f, const job_t *j)
{
    uint32_t       i, n, first, ids[64];
    const rank_t  *r;

    first = j->host * f->o->host;

    for (i = 0; i < f->o->host; i++) {
        r = &f->ranks[first + i];
        f->choice[i].up = f->parts[first + i].up != 0;
        f->choice[i].busy = r->busy;
        f->choice[i].takes = f->choice[i].up
                             && moe_choose_takes(r->busy, r->busy,
                                                 f->o->max_running);
    }

    n = j->of.prompt < 64 ? j->of.prompt : 64;

    for (i = 0; i < n; i++) {
        ids[i] = moe_load_id(&j->of, i);
    }

    i = moe_choose(f->choice, f->o->host, moe_choose_hash(ids, n));

    return i < f->o->host ? first + i : f->nranks;
}


/* 1: some rank has something to compute */
static int
form(fleet_t *f, moe_err_t *err)
{
    int       any;
    rank_t   *r;
    uint32_t  i;

    any = 0;
    f->running = 0;
    f->context = 0;

    for (i = 0; i < f->nranks; i++) {
        r = &f->ranks[i];
        r->step = NULL;
        r->prompts = 0;
        memset(&f->parts[i].rows, 0, sizeof(moe_plan_rows_t));
        f->parts[i].logits = 0;

        if (!f->parts[i].up) {
            continue;
        }

        if (add_sequences(f, r, err) != 0) {
            return -1;
        }

        if (!f->o->apart) {
            moe_sched_set_prefill(r->sched,
                                  moe_pace_rows(&r->pace,
                                                (uint64_t) (f->o->step_s
                                                            * 1e6)));
        }

        r->step = moe_sched_form(r->sched);

        if (r->step != NULL) {
            any = 1;
            count(f, r, &f->parts[i]);
        }
    }

    return any;
}


/* jobs that the rank was given since its last step */
static int
add_sequences(fleet_t *f, rank_t *r, moe_err_t *err)
{
    job_t                *j, *first;
    uint32_t              i;
    moe_sched_request_t   q;

    first = NULL;

    for (j = TAILQ_LAST(&r->jobs, jobs_s); j != NULL && j->seq == NULL;
         j = TAILQ_PREV(j, jobs_s, line))
    {
        first = j;
    }

    for (j = first; j != NULL; j = TAILQ_NEXT(j, line)) {
        memset(&q, 0, sizeof(q));
        q.ids = f->ids;
        q.nids = j->of.prompt + j->made;
        q.nprompt = j->of.prompt;
        q.data = j;

        for (i = 0; i < q.nids; i++) {
            f->ids[i] = moe_load_id(&j->of, i);
        }

        j->seq = moe_sched_add(r->sched, &q, err);

        if (j->seq == NULL) {
            return -1;
        }
    }

    return 0;
}


/* What the step asks of its rank.  Where prompts are computed elsewhere, their
 * last row is as one that decodes, and the others cost nothing. */
static void
count(fleet_t *f, rank_t *r, moe_fleet_part_t *part)
{
    double                   keys;
    uint32_t                 i;
    const moe_step_entry_t  *e;

    for (i = 0; i < r->step->n; i++) {
        e = &r->step->entries[i];
        keys = (double) e->pos + e->nrows;

        if (e->last) {
            f->running++;
            f->context += keys;
            part->logits++;
        }

        if (e->nrows == 1 || (f->o->apart && e->last)) {
            part->rows.rows++;
            part->rows.keys += keys;
            part->rows.pairs += keys;

        } else if (!f->o->apart) {
            r->prompts += e->nrows;
            part->rows.rows += e->nrows;
            part->rows.keys += keys;
            part->rows.prompts += (double) e->nrows
                                  * (e->pos + (e->nrows + 1) / 2.0);
        }
    }
}


static int
commit(fleet_t *f, const moe_fleet_time_t *time, moe_err_t *err)
{
    double    made, waiting, most;
    rank_t   *r;
    uint32_t  i, k, up;

    made = 0;
    waiting = 0;
    most = 0;
    up = 0;

    for (i = 0; i < f->nranks; i++) {
        most = fmax(most, f->parts[i].rows.rows);
    }

    for (i = 0; i < f->nranks; i++) {
        r = &f->ranks[i];
        up += f->parts[i].up != 0;

        if (r->step == NULL) {
            continue;
        }

        moe_sched_commit(r->sched);
        moe_pace_seen(&r->pace,
                      r->prompts + (uint32_t) (most - f->parts[i].rows.rows),
                      (uint64_t) (time->seconds * 1e6));

        for (k = 0; k < r->step->n; k++) {
            if (commit_entry(f, &r->step->entries[k], &made, err) != 0) {
                return -1;
            }
        }
    }

    for (i = 0; i < f->nhosts; i++) {
        dispatch(f, f->hosts[i]);
        waiting += f->hosts[i]->fair.n;
    }

    moe_fleet_stats_step(f->stats, f->now, time, made, f->running, f->context,
                         waiting, up);

    return 0;
}


static int
commit_entry(fleet_t *f, const moe_step_entry_t *e, double *made,
    moe_err_t *err)
{
    job_t    *j;
    host_t   *h;
    uint32_t  cached;

    j = e->data;
    h = f->hosts[j->host];

    if (e->first && j->tries == 0) {
        cached = moe_seq_cached(j->seq);
        f->cached += cached;
        f->prompts += j->of.prompt;
        moe_fair_charge(&h->fair, &j->wait,
                        -(int64_t) cached * MOE_FAIR_INPUT);
    }

    if (!e->last) {
        return 0;
    }

    if (j->first < 0) {
        j->first = f->now;
    }

    j->last = f->now;
    j->made++;
    *made += 1;
    moe_fair_charge(&h->fair, &j->wait, MOE_FAIR_OUTPUT);

    if (j->made == j->of.output) {
        return over(f, j, MOE_FLEET_SERVED, err);
    }

    if (moe_sched_append(f->ranks[j->rank].sched, j->seq,
                         moe_load_id(&j->of, j->of.prompt + j->made - 1))
        < 0)
    {
        return moe_err(err, "fleet: no memory for a sequence");
    }

    return 0;
}


/* Its jobs wait again, the first of all; everybody waits until the others
 * have agreed on who is left. */
static int
die(fleet_t *f, const moe_fleet_death_t *d, moe_err_t *err)
{
    job_t               *j;
    rank_t              *r;
    moe_sched_counts_t   c;

    f->death++;
    r = &f->ranks[d->rank];

    if (!f->parts[d->rank].up) {
        r->back = fmax(r->back, d->at + d->down);
        return 0;
    }

    f->parts[d->rank].up = 0;
    r->back = d->at + d->down;

    moe_sched_counts(r->sched, &c);
    f->preempted += c.preempted;
    moe_sched_destroy(r->sched);
    r->sched = NULL;
    r->step = NULL;
    memset(&r->pace, 0, sizeof(moe_pace_t));

    while ((j = TAILQ_LAST(&r->jobs, jobs_s)) != NULL) {
        j->seq = NULL;

        if (j->tries++ == MOE_FRONT_TRIES) {
            if (over(f, j, MOE_FLEET_FAILED, err) != 0) {
                return -1;
            }
            continue;
        }

        TAILQ_REMOVE(&r->jobs, j, line);
        j->rank = f->nranks;
        r->busy--;
        f->moved++;

        if (moe_fair_push(&f->hosts[j->host]->fair, &j->wait, 1) != 0) {
            return moe_err(err, "fleet: out of memory");
        }
    }

    if (moe_fleet_step_members(f->step, f->parts, err) != 0) {
        return -1;
    }

    return advance(f, f->now + f->o->recover, err);
}


static int
come_back(fleet_t *f, moe_err_t *err)
{
    int       any;
    rank_t   *r;
    uint32_t  i;

    any = 0;

    for (i = 0; i < f->nranks; i++) {
        r = &f->ranks[i];

        if (r->back > 0 && r->back <= f->now) {
            if (start(f, r, err) != 0) {
                return -1;
            }

            r->back = 0;
            f->parts[i].up = 1;
            any = 1;
        }
    }

    if (!any) {
        return 0;
    }

    if (moe_fleet_step_members(f->step, f->parts, err) != 0) {
        return -1;
    }

    for (i = 0; i < f->nhosts; i++) {
        dispatch(f, f->hosts[i]);
    }

    return 0;
}
