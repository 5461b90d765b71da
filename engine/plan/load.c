#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "plan/load.h"
#include "plan/random.h"


enum { LINE = 65536, JOBS_MAX = 20000000 };

/* who always asks and was refused asks again after it */
#define REFUSED_S  1.0

/* so far from 0 that no rate is asked for beyond it */
#define FOREVER  1e12


struct moe_load_s {
    moe_load_options_t   o;
    uint64_t             seed;
    uint64_t             streams;
    double               arrival;       /* of the next conversation */
    double               keys;          /* sum of their parts */

    moe_load_job_t      *jobs;          /* a heap by time, or as recorded */
    size_t               n;
    size_t               size;
    size_t               next;          /* recorded: to be taken */
    int                  recorded;
};


static double next_arrival(moe_load_t *l, double at);
static double rate_at(const moe_load_t *l, double at, double *until);
static void begin(moe_load_t *l, double at, moe_load_job_t *job);
static uint64_t key_of(moe_load_t *l);
static uint32_t tokens(moe_load_t *l, double mean, uint32_t most);
static int add(moe_load_t *l, const moe_load_job_t *job, moe_err_t *err);
static void sink(moe_load_t *l);
static int read_lines(moe_load_t *l, FILE *f, moe_err_t *err);
static int read_job(const moe_load_t *l, json_t *root, moe_load_job_t *job,
    moe_err_t *err);
static int read_count(json_t *root, const char *name, uint32_t min,
    uint32_t max, uint32_t *n, moe_err_t *err);
static uint64_t name_hash(const char *s);


moe_load_t *
moe_load_create(const moe_load_options_t *o, moe_err_t *err)
{
    uint32_t         i;
    moe_load_t      *l;
    moe_load_job_t   job;

    l = calloc(1, sizeof(moe_load_t));
    if (l == NULL) {
        moe_err(err, "load: out of memory");
        return NULL;
    }

    l->o = *o;
    l->seed = moe_plan_mix(o->seed + 1);
    l->streams = moe_plan_mix(o->seed);

    for (i = 0; i < o->keys; i++) {
        l->keys += 1.0 / (i + 1);
    }

    l->arrival = o->users > 0 ? INFINITY : next_arrival(l, 0);

    /* the first answers are cut short, else all would go on in step */
    for (i = 0; i < o->users; i++) {
        begin(l, 0, &job);
        job.output = 1 + (uint32_t) (moe_plan_uniform(&l->seed)
                                     * job.output);

        if (add(l, &job, err) != 0) {
            moe_load_free(l);
            return NULL;
        }
    }

    return l;
}


void
moe_load_free(moe_load_t *l)
{
    if (l != NULL) {
        free(l->jobs);
        free(l);
    }
}


double
moe_load_at(const moe_load_t *l)
{
    if (l->recorded) {
        return l->next < l->n ? l->jobs[l->next].at : INFINITY;
    }

    return l->n > 0 && l->jobs[0].at <= l->arrival ? l->jobs[0].at
                                                   : l->arrival;
}


int
moe_load_take(moe_load_t *l, moe_load_job_t *job, moe_err_t *err)
{
    if (l->recorded) {
        if (l->next == l->n) {
            return moe_err(err, "load: there is no more");
        }

        *job = l->jobs[l->next++];
        return 0;
    }

    if (l->n > 0 && l->jobs[0].at <= l->arrival) {
        *job = l->jobs[0];
        sink(l);
        return 0;
    }

    if (isinf(l->arrival)) {
        return moe_err(err, "load: nothing comes");
    }

    begin(l, l->arrival, job);
    l->arrival = next_arrival(l, l->arrival);

    return 0;
}


int
moe_load_ended(moe_load_t *l, const moe_load_job_t *job, double at,
    int served, moe_err_t *err)
{
    uint32_t         fresh;
    uint64_t         length;
    moe_load_job_t   next;

    if (l->recorded || (l->o.users == 0 && (!served || job->turns == 0))) {
        return 0;
    }

    at += l->o.think > 0 ? moe_plan_exponential(&l->seed, l->o.think) : 0;
    at += served ? 0 : REFUSED_S;
    fresh = tokens(l, l->o.prompt, l->o.most);
    length = (uint64_t) job->prompt + job->output + fresh;

    if (served && job->turns > 0 && length < l->o.most) {
        next = *job;
        next.at = at;
        next.turns--;
        next.prompt = (uint32_t) length;
        next.output = tokens(l, l->o.output, l->o.most - next.prompt);

    } else if (l->o.users > 0) {
        begin(l, at, &next);

    } else {
        return 0;
    }

    return add(l, &next, err);
}


uint32_t
moe_load_id(const moe_load_job_t *job, uint32_t position)
{
    uint64_t  stream;

    stream = position < job->shared ? job->prefix : job->own;

    return (uint32_t) (moe_plan_mix(stream + position
                                             * 0x9e3779b97f4a7c15ull) >> 33);
}


/* conversations come by Poisson's law at a rate that changes in steps */
static double
next_arrival(moe_load_t *l, double at)
{
    double  left, rate, until;

    left = moe_plan_exponential(&l->seed, 1);

    while (at < FOREVER) {
        rate = rate_at(l, at, &until);

        if (left <= rate * (until - at)) {
            return at + left / rate;
        }

        left -= rate * (until - at);
        at = until;
    }

    return INFINITY;
}


/* and when it changes; the n requests of a conversation count as n */
static double
rate_at(const moe_load_t *l, double at, double *until)
{
    double                   rate;
    uint32_t                 i;
    const moe_load_surge_t  *s;

    rate = l->o.rate / l->o.turns;
    *until = FOREVER;

    for (i = 0; i < l->o.nsurges; i++) {
        s = &l->o.surges[i];

        if (at < s->from) {
            *until = fmin(*until, s->from);

        } else if (at < s->from + s->seconds) {
            rate *= s->times;
            *until = fmin(*until, s->from + s->seconds);
        }
    }

    return rate;
}


static void
begin(moe_load_t *l, double at, moe_load_job_t *job)
{
    memset(job, 0, sizeof(moe_load_job_t));

    job->at = at;
    job->key = key_of(l);
    job->prefix = moe_plan_mix(l->o.seed ^ moe_plan_mix(job->key + 77));
    job->own = moe_plan_mix(l->streams++);
    job->chat = job->own;
    job->shared = (uint32_t) fmin(l->o.system, l->o.most - 2);
    job->prompt = job->shared + tokens(l, l->o.prompt,
                                       l->o.most - job->shared - 1);
    job->output = tokens(l, l->o.output, l->o.most - job->prompt);

    /* geometric, with the mean asked for */
    while (moe_plan_uniform(&l->seed) > 1 / l->o.turns) {
        job->turns++;
    }
}


static uint64_t
key_of(moe_load_t *l)
{
    double    u;
    uint32_t  i;

    u = moe_plan_uniform(&l->seed) * l->keys;

    for (i = 0; i + 1 < l->o.keys; i++) {
        u -= 1.0 / (i + 1);

        if (u < 0) {
            break;
        }
    }

    return i;
}


static uint32_t
tokens(moe_load_t *l, double mean, uint32_t most)
{
    double  n;

    n = l->o.spread > 0 ? moe_plan_lognormal(&l->seed, mean, l->o.spread)
                        : mean;
    n = floor(n + 0.5);

    return n < 1 ? 1 : n > most ? most : (uint32_t) n;
}


/* the heap: the first one comes first */
static int
add(moe_load_t *l, const moe_load_job_t *job, moe_err_t *err)
{
    size_t           i, size;
    moe_load_job_t  *jobs;

    if (l->n == l->size) {
        size = l->size > 0 ? 2 * l->size : 256;
        jobs = realloc(l->jobs, size * sizeof(moe_load_job_t));

        if (jobs == NULL) {
            return moe_err(err, "load: no memory for %zu requests", size);
        }

        l->jobs = jobs;
        l->size = size;
    }

    for (i = l->n++; i > 0 && job->at < l->jobs[(i - 1) / 2].at;
         i = (i - 1) / 2)
    {
        l->jobs[i] = l->jobs[(i - 1) / 2];
    }

    l->jobs[i] = *job;

    return 0;
}


static void
sink(moe_load_t *l)
{
    size_t                 i, child;
    const moe_load_job_t  *last;

    last = &l->jobs[--l->n];

    for (i = 0; (child = 2 * i + 1) < l->n; i = child) {
        if (child + 1 < l->n && l->jobs[child + 1].at < l->jobs[child].at) {
            child++;
        }

        if (last->at <= l->jobs[child].at) {
            break;
        }

        l->jobs[i] = l->jobs[child];
    }

    l->jobs[i] = *last;
}


moe_load_t *
moe_load_open(const char *path, uint32_t most, moe_err_t *err)
{
    int          rc;
    FILE        *f;
    moe_load_t  *l;

    f = fopen(path, "r");
    if (f == NULL) {
        moe_err(err, "%s: cannot be read", path);
        return NULL;
    }

    l = calloc(1, sizeof(moe_load_t));

    if (l == NULL) {
        rc = moe_err(err, "out of memory");

    } else {
        l->recorded = 1;
        l->o.most = most;
        rc = read_lines(l, f, err);
    }

    fclose(f);

    if (rc != 0) {
        (void) moe_err_prefix(err, "%s", path);
        moe_load_free(l);
        return NULL;
    }

    return l;
}


static int
read_lines(moe_load_t *l, FILE *f, moe_err_t *err)
{
    int              rc;
    char             line[LINE];
    size_t           n;
    double           first, last;
    json_t          *root;
    json_error_t     error;
    moe_load_job_t   job;

    first = 0;
    last = 0;

    for (n = 1; fgets(line, sizeof(line), f) != NULL; n++) {
        if (line[strspn(line, " \t\r\n")] == '\0') {
            continue;
        }

        if (strchr(line, '\n') == NULL && !feof(f)) {
            return moe_err(err, "line %zu: longer than %d bytes", n, LINE);
        }

        root = json_loads(line, JSON_REJECT_DUPLICATES, &error);
        if (root == NULL) {
            return moe_err(err, "line %zu: %s", n, error.text);
        }

        job.own = moe_plan_mix(n);
        rc = read_job(l, root, &job, err);
        json_decref(root);

        if (rc == 0 && job.at < last) {
            rc = moe_err(err, "at: before the line above");
        }

        if (rc == 0 && l->n == JOBS_MAX) {
            rc = moe_err(err, "more than %d requests", JOBS_MAX);
        }

        if (rc != 0) {
            return moe_err_prefix(err, "line %zu", n);
        }

        last = job.at;
        first = l->n > 0 ? first : job.at;
        job.at -= first;

        if (add(l, &job, err) != 0) {
            return -1;
        }
    }

    if (ferror(f)) {
        return moe_err(err, "cannot be read");
    }

    return l->n > 0 ? 0 : moe_err(err, "has no requests");
}


/* job->own is the line's */
static int
read_job(const moe_load_t *l, json_t *root, moe_load_job_t *job,
    moe_err_t *err)
{
    json_t      *at, *key, *prefix;
    const char  *name;

    job->turns = 0;
    job->shared = 0;
    job->prefix = job->own;
    job->chat = job->own;

    if (!json_is_object(root)) {
        return moe_err(err, "is not an object");
    }

    at = json_object_get(root, "at");
    job->at = json_number_value(at);

    if (!json_is_number(at) || !(job->at >= 0 && job->at < FOREVER)) {
        return moe_err(err, "at: must be a number of seconds");
    }

    key = json_object_get(root, "key");
    name = json_string_value(key);

    if (key != NULL && name == NULL) {
        return moe_err(err, "key: must be a string");
    }

    job->key = name_hash(name ? name : "");

    if (read_count(root, "prompt", 1, l->o.most, &job->prompt, err) != 0
        || read_count(root, "output", 1, l->o.most, &job->output, err) != 0)
    {
        return -1;
    }

    if ((uint64_t) job->prompt + job->output > l->o.most) {
        return moe_err(err, "prompt and output: more than %u tokens",
                       l->o.most);
    }

    prefix = json_object_get(root, "prefix");

    if (prefix == NULL) {
        return 0;
    }

    if (!json_is_string(prefix)) {
        return moe_err(err, "prefix: must be a string");
    }

    if (read_count(root, "shared", 0, job->prompt, &job->shared, err) != 0) {
        return -1;
    }

    job->prefix = moe_plan_mix(name_hash(json_string_value(prefix)));
    job->chat = job->prefix;

    if (job->shared == job->prompt) {
        job->own = job->prefix;
    }

    return 0;
}


static int
read_count(json_t *root, const char *name, uint32_t min, uint32_t max,
    uint32_t *n, moe_err_t *err)
{
    json_t  *v;

    v = json_object_get(root, name);

    if (!json_is_integer(v) || json_integer_value(v) < min
        || json_integer_value(v) > max)
    {
        return moe_err(err, "%s: must be a number from %u to %u", name, min,
                       max);
    }

    *n = (uint32_t) json_integer_value(v);

    return 0;
}


/* FNV-1a */
static uint64_t
name_hash(const char *s)
{
    uint64_t  h;

    for (h = 14695981039346656037ull; *s != '\0'; s++) {
        h = (h ^ (uint8_t) *s) * 1099511628211ull;
    }

    return h;
}
