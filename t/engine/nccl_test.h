/*
 * nccl_test: tests that start themselves as torchrun would start them, with
 * the stub of NCCL that lies beside them.
 */

#ifndef MOE_NCCL_TEST_H
#define MOE_NCCL_TEST_H


#include <arpa/inet.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>


/* one that nobody has at the moment */
static inline uint32_t
free_port(void)
{
    int                 fd;
    socklen_t           len;
    struct sockaddr_in  sin;

    memset(&sin, 0, sizeof(sin));
    sin.sin_family = AF_INET;
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    len = sizeof(sin);

    fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *) &sin, len), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *) &sin, &len), 0);
    close(fd);

    return ntohs(sin.sin_port);
}


static inline void
set_number(const char *name, uint32_t value)
{
    char  text[16];

    snprintf(text, sizeof(text), "%u", value);
    setenv(name, text, 1);
}


/* of rank r of n on this host; stub: the one of this name beside self, or
 * NULL: whatever the loader finds */
static inline void
rank_environment(uint32_t r, uint32_t n, uint32_t port, const char *self,
    const char *stub)
{
    char  dir[PATH_MAX + 32];

    set_number("RANK", r);
    set_number("LOCAL_RANK", r);
    set_number("WORLD_SIZE", n);
    set_number("LOCAL_WORLD_SIZE", n);
    set_number("MASTER_PORT", port);
    setenv("MASTER_ADDR", "127.0.0.1", 1);

    if (stub != NULL) {
        snprintf(dir, sizeof(dir), "%.*s/nccl/%s",
                 (int) (strrchr(self, '/') - self), self, stub);
        setenv("LD_LIBRARY_PATH", dir, 1);
    }
}


#endif /* MOE_NCCL_TEST_H */
