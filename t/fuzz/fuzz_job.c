/* libFuzzer: the engine's side of the queue, a job record. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "jobq.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    void              *buf, *again;
    size_t             n;
    const char        *why;
    static moe_job_t   job;

    buf = malloc(size ? size : 1);
    memcpy(buf, data, size);

    if (moe_job_read(&job, buf, size, &why) == MOE_JOBQ_OK) {

        /* what was read can be written, and reads back */

        n = moe_job_size(&job);
        again = malloc(n ? n : 1);

        if (n) {
            moe_job_write(&job, again);

            if (moe_job_read(&job, again, n, &why) != MOE_JOBQ_OK) {
                abort();
            }
        }

        free(again);
    }

    free(buf);

    return 0;
}
