#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "front/arrive.h"


#define MOE_ARRIVE_AGAIN_MS  20


int
moe_arrival_address(const char *path, struct sockaddr_un *sun, moe_err_t *err)
{
    int  n;

    memset(sun, 0, sizeof(struct sockaddr_un));
    sun->sun_family = AF_UNIX;

    n = snprintf(sun->sun_path, sizeof(sun->sun_path), "%s.ranks", path);

    if (n >= (int) sizeof(sun->sun_path)) {
        return moe_err(err, "%s.ranks: a socket's path has 1 to %zu "
                       "characters", path, sizeof(sun->sun_path) - 1);
    }

    return 0;
}


void
moe_arrival_fill(moe_arrival_t *a, const moe_launched_t *l)
{
    memset(a, 0, sizeof(*a));
    a->magic = MOE_ARRIVAL_MAGIC;
    a->local = l->local_rank;
    a->nlocal = l->local_size;
    memcpy(a->job, l->job, sizeof(a->job));
}


/* a front of another job, or one that is going, hangs up: -1 */
static int
moe_arrive_once(const struct sockaddr_un *sun, const moe_arrival_t *mine)
{
    int             fd;
    moe_arrival_t   theirs;
    struct pollfd   pfd;

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC, 0);

    if (fd == -1) {
        return -1;
    }

    pfd.fd = fd;
    pfd.events = POLLIN;

    if (connect(fd, (const struct sockaddr *) sun, sizeof(*sun)) == 0
        && send(fd, mine, sizeof(*mine), MSG_NOSIGNAL) == sizeof(*mine)
        && poll(&pfd, 1, 5000) == 1
        && recv(fd, &theirs, sizeof(theirs), MSG_DONTWAIT) == sizeof(theirs)
        && memcmp(&theirs, mine, sizeof(theirs)) == 0)
    {
        return fd;
    }

    close(fd);

    return -1;
}


int
moe_arrive(const char *path, const moe_launched_t *l, uint32_t ms,
    int (*gone)(void), moe_err_t *err)
{
    int                 fd;
    uint32_t            waited;
    moe_arrival_t       mine;
    struct sockaddr_un  sun;

    moe_arrival_fill(&mine, l);

    if (moe_arrival_address(path, &sun, err) != 0) {
        return -1;
    }

    for (waited = 0; waited < ms; waited += MOE_ARRIVE_AGAIN_MS) {
        fd = moe_arrive_once(&sun, &mine);

        if (fd != -1) {
            return fd;
        }

        if (gone()) {
            return moe_err(err, "the front has ended");
        }

        usleep(MOE_ARRIVE_AGAIN_MS * 1000);
    }

    return moe_err(err, "%s: no front of this job listens there",
                   sun.sun_path);
}
