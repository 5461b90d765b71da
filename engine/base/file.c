#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"


static char *file_read_fd(int fd, const char *path, size_t max, size_t *len,
    moe_err_t *err);


char *
moe_file_read(const char *path, size_t max, size_t *len, int *absent,
    moe_err_t *err)
{
    int    fd;
    char  *buf;

    if (absent != NULL) {
        *absent = 0;
    }

    /* without O_NONBLOCK a fifo of that name would block here for ever */
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

    if (fd < 0) {
        if (errno == ENOENT && absent != NULL) {
            *absent = 1;
            return NULL;
        }

        moe_err(err, "%s: %s", path, strerror(errno));
        return NULL;
    }

    buf = file_read_fd(fd, path, max, len, err);
    close(fd);

    return buf;
}


static char *
file_read_fd(int fd, const char *path, size_t max, size_t *len,
    moe_err_t *err)
{
    char         *buf;
    size_t        size, n;
    ssize_t       got;
    struct stat   st;

    if (fstat(fd, &st) != 0) {
        moe_err(err, "%s: %s", path, strerror(errno));
        return NULL;
    }

    if (!S_ISREG(st.st_mode)) {
        moe_err(err, "%s: not a regular file", path);
        return NULL;
    }

    if ((unsigned long long) st.st_size > max) {
        moe_err(err, "%s: %lld bytes, more than the %zu allowed", path,
                (long long) st.st_size, max);
        return NULL;
    }

    size = (size_t) st.st_size;

    buf = malloc(size + 1);
    if (buf == NULL) {
        moe_err(err, "%s: no memory for %zu bytes", path, size);
        return NULL;
    }

    for (n = 0; n < size; n += (size_t) got) {
        got = read(fd, buf + n, size - n);

        if (got < 0 && errno == EINTR) {
            got = 0;
            continue;
        }

        if (got <= 0) {
            moe_err(err, "%s: %s at byte %zu", path,
                    got < 0 ? strerror(errno) : "ends early", n);
            free(buf);
            return NULL;
        }
    }

    buf[size] = '\0';
    *len = size;

    return buf;
}
