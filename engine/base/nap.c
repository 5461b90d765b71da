#include <sched.h>
#include <stddef.h>
#include <time.h>

#include "base/nap.h"


#define AWAKE_US    50
#define NAP_SHARE   16
#define NAP_MIN_US  20
#define NAP_MAX_US  5000


uint64_t
moe_now_us(void)
{
    struct timespec  ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);

    return (uint64_t) ts.tv_sec * 1000000 + (uint64_t) ts.tv_nsec / 1000;
}


uint64_t
moe_nap_us(uint64_t waited)
{
    uint64_t  us;

    if (waited < AWAKE_US) {
        return 0;
    }

    us = waited / NAP_SHARE;

    return us < NAP_MIN_US ? NAP_MIN_US : us > NAP_MAX_US ? NAP_MAX_US : us;
}


void
moe_nap(uint64_t us)
{
    struct timespec  ts;

    if (us == 0) {
        sched_yield();
        return;
    }

    ts.tv_sec = 0;
    ts.tv_nsec = (long) us * 1000;
    nanosleep(&ts, NULL);
}
