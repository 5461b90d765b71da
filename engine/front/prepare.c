/*
 * prepare: prompts that would hold up the loop are made in a thread.
 *
 * A long prompt takes milliseconds to render and tokenize, and a hostile one
 * as long as the template's limits allow; all that time no stream would move.
 * So the loop hands such tasks to one thread, in order of their class and then
 * of arrival, and takes them back
 * by an eventfd.  Meanwhile a task may be cancelled but is not freed.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "front/front.h"


/* a record up to this size is prepared at once: a millisecond at most */
#define MOE_PREPARE_SHORT  16384


static void *
moe_prepare_thread(void *arg)
{
    ssize_t         n;
    uint64_t        one;
    moe_task_t     *t;
    moe_front_t    *f;
    moe_prepare_t  *p;

    f = arg;
    p = &f->prepare;
    one = 1;

    pthread_mutex_lock(&p->mutex);

    for ( ;; ) {

        while ((p->todo == NULL || p->hold) && !p->stop) {
            pthread_cond_wait(&p->cond, &p->mutex);
        }

        if (p->stop) {
            break;
        }

        t = p->todo;
        p->todo = t->prep_next;

        p->busy = 1;
        pthread_mutex_unlock(&p->mutex);

        moe_prompt_make(t);

        pthread_mutex_lock(&p->mutex);
        p->busy = 0;

        t->prep_next = p->done;
        p->done = t;

        n = write(p->watch.fd, &one, sizeof(one));
        (void) n;
    }

    pthread_mutex_unlock(&p->mutex);

    return NULL;
}


static void
moe_prepare_done(moe_front_t *f, moe_watch_t *watch, uint32_t events)
{
    ssize_t      n;
    uint64_t     count;
    moe_task_t  *t, *next, *list;

    n = read(watch->fd, &count, sizeof(count));
    (void) n;

    pthread_mutex_lock(&f->prepare.mutex);
    t = f->prepare.done;
    f->prepare.done = NULL;
    pthread_mutex_unlock(&f->prepare.mutex);

    /* in order of arrival */

    for (list = NULL; t; t = next) {
        next = t->prep_next;
        t->prep_next = list;
        list = t;
    }

    for (t = list; t; t = next) {
        next = t->prep_next;
        t->preparing = 0;
        f->npreparing--;
        f->prepare.prepared(t);
    }
}


int
moe_prepare(moe_task_t *t)
{
    moe_task_t    **at;
    moe_front_t    *f;
    moe_prepare_t  *p;

    f = t->front;
    p = &f->prepare;

    if (t->size <= MOE_PREPARE_SHORT) {
        moe_prompt_make(t);
        return 1;
    }

    t->preparing = 1;
    f->npreparing++;

    pthread_mutex_lock(&p->mutex);

    for (at = &p->todo;
         *at && (*at)->job.priority >= t->job.priority;
         at = &(*at)->prep_next)
    {
        /* void */
    }

    t->prep_next = *at;
    *at = t;

    pthread_cond_signal(&p->cond);
    pthread_mutex_unlock(&p->mutex);

    return 0;
}


int
moe_prepare_hold(moe_front_t *f)
{
    moe_prepare_t  *p;

    p = &f->prepare;

    if (!p->running) {
        return 0;
    }

    pthread_mutex_lock(&p->mutex);
    p->hold = 1;

    if (p->busy) {
        pthread_mutex_unlock(&p->mutex);
        return -1;
    }

    return 0;
}


void
moe_prepare_release(moe_front_t *f)
{
    moe_prepare_t  *p;

    p = &f->prepare;

    if (p->running) {
        p->hold = 0;
        pthread_cond_signal(&p->cond);
        pthread_mutex_unlock(&p->mutex);
    }
}


int
moe_prepare_start(moe_front_t *f, void (*prepared)(moe_task_t *t),
    moe_err_t *err)
{
    int             rc;
    moe_prepare_t  *p;

    p = &f->prepare;

    p->prepared = prepared;
    p->watch.handler = moe_prepare_done;
    p->watch.fd = eventfd(0, EFD_NONBLOCK|EFD_CLOEXEC);

    if (p->watch.fd == -1 || moe_front_watch(f, &p->watch, EPOLLIN) == -1) {
        return moe_err(err, "eventfd() failed: %s", strerror(errno));
    }

    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->cond, NULL);

    rc = pthread_create(&p->thread, NULL, moe_prepare_thread, f);

    if (rc) {
        return moe_err(err, "pthread_create() failed: %s", strerror(rc));
    }

    p->running = 1;

    return 0;
}


/* what it has not begun stays as it is, and may be freed after this */

void
moe_prepare_stop(moe_front_t *f)
{
    moe_prepare_t  *p;

    p = &f->prepare;

    if (p->running) {
        pthread_mutex_lock(&p->mutex);
        p->stop = 1;
        pthread_cond_signal(&p->cond);
        pthread_mutex_unlock(&p->mutex);

        pthread_join(p->thread, NULL);
        pthread_mutex_destroy(&p->mutex);
        pthread_cond_destroy(&p->cond);
    }

    if (p->watch.fd != -1) {
        close(p->watch.fd);
    }
}
