#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "front/front.h"


#define MOE_LISTEN_BACKLOG  256


static int
moe_listen_address(const char *path, struct sockaddr_un *sun, moe_err_t *err)
{
    size_t  len;

    len = strlen(path);

    if (len == 0 || len >= sizeof(sun->sun_path)) {
        return moe_err(err, "%s: a socket's path has 1 to %zu characters",
                       path, sizeof(sun->sun_path) - 1);
    }

    memset(sun, 0, sizeof(struct sockaddr_un));
    sun->sun_family = AF_UNIX;
    memcpy(sun->sun_path, path, len);

    return 0;
}


/* what a dead engine left behind is removed, a living one is not disturbed */

static int
moe_listen_stale(const struct sockaddr_un *sun, moe_err_t *err)
{
    int          fd, rc, saved;
    struct stat  st;

    if (lstat(sun->sun_path, &st) == -1) {
        return errno == ENOENT ? 0 : moe_err(err, "%s: %s", sun->sun_path,
                                             strerror(errno));
    }

    if (!S_ISSOCK(st.st_mode)) {
        return moe_err(err, "%s: exists and is not a socket", sun->sun_path);
    }

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return moe_err(err, "socket() failed: %s", strerror(errno));
    }

    rc = connect(fd, (const struct sockaddr *) sun,
                 sizeof(struct sockaddr_un));
    saved = errno;
    close(fd);

    if (rc == 0 || saved != ECONNREFUSED) {
        return moe_err(err, "%s: another process listens there",
                       sun->sun_path);
    }

    if (unlink(sun->sun_path) == -1 && errno != ENOENT) {
        return moe_err(err, "%s: unlink() failed: %s", sun->sun_path,
                       strerror(errno));
    }

    return 0;
}


static int
moe_listen_owner(const moe_serve_options_t *o, moe_err_t *err)
{
    char          *end;
    gid_t          gid;
    struct group  *gr;

    if (chmod(o->socket, o->mode) == -1) {
        return moe_err(err, "%s: chmod() failed: %s", o->socket,
                       strerror(errno));
    }

    if (o->group == NULL) {
        return 0;
    }

    gr = getgrnam(o->group);

    if (gr) {
        gid = gr->gr_gid;

    } else {
        gid = (gid_t) strtoul(o->group, &end, 10);

        if (*end || end == o->group) {
            return moe_err(err, "--socket-group: there is no group \"%s\"",
                           o->group);
        }
    }

    if (chown(o->socket, (uid_t) -1, gid) == -1) {
        return moe_err(err, "%s: chown() to group %s failed: %s", o->socket,
                       o->group, strerror(errno));
    }

    return 0;
}


/* two engines that start at once must not both find the socket stale */

static int
moe_listen_bind(int fd, const struct sockaddr_un *sun, moe_err_t *err)
{
    int     rc, dir;
    char    path[sizeof(sun->sun_path)], *slash;
    mode_t  mask;

    memcpy(path, sun->sun_path, sizeof(path));
    slash = strrchr(path, '/');

    if (slash) {
        slash[slash == path] = '\0';
    }

    dir = open(slash ? path : ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);
    if (dir == -1) {
        return moe_err(err, "%s: %s", slash ? path : ".", strerror(errno));
    }

    (void) flock(dir, LOCK_EX);

    rc = moe_listen_stale(sun, err);

    if (rc == 0) {

        /* nobody connects before the mode is set */
        mask = umask(0177);
        rc = bind(fd, (const struct sockaddr *) sun,
                  sizeof(struct sockaddr_un));
        umask(mask);

        if (rc == -1) {
            (void) moe_err(err, "%s: bind() failed: %s", sun->sun_path,
                           strerror(errno));

        } else if (listen(fd, MOE_LISTEN_BACKLOG) == -1) {
            rc = moe_err(err, "%s: listen() failed: %s", sun->sun_path,
                         strerror(errno));
        }
    }

    close(dir);

    return rc;
}


int
moe_listen(moe_front_t *f, const moe_serve_options_t *o, moe_err_t *err)
{
    int                 fd;
    struct stat         st;
    struct sockaddr_un  sun;

    if (moe_listen_address(o->socket, &sun, err) == -1) {
        return -1;
    }

    fd = socket(AF_UNIX, SOCK_SEQPACKET|SOCK_CLOEXEC|SOCK_NONBLOCK, 0);
    if (fd == -1) {
        return moe_err(err, "socket() failed: %s", strerror(errno));
    }

    if (moe_listen_bind(fd, &sun, err) == -1) {
        close(fd);
        return -1;
    }

    if (moe_listen_owner(o, err) == -1) {
        close(fd);
        unlink(o->socket);
        return -1;
    }

    if (lstat(o->socket, &st) == 0) {
        f->socket_dev = st.st_dev;
        f->socket_ino = st.st_ino;
    }

    f->listener = fd;

    return 0;
}


/* a newer engine may listen at the same path by now */

void
moe_listen_close(moe_front_t *f)
{
    struct stat  st;

    if (f->listener == -1) {
        return;
    }

    if (lstat(f->options->socket, &st) == 0
        && st.st_dev == f->socket_dev && st.st_ino == f->socket_ino)
    {
        unlink(f->options->socket);
    }

    close(f->listener);
    f->listener = -1;
}
