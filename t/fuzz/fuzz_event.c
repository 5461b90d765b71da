/* libFuzzer: the submitter's side of the queue, event records. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "jobq.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static volatile uint32_t  sink;


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    void           *buf;
    size_t          i;
    moe_lp_t        lp;
    moe_end_t       e;
    moe_delta_t     d;
    const char     *why;
    const void     *p, *end;
    moe_started_t   s;

    buf = malloc(size ? size : 1);
    memcpy(buf, data, size);

    (void) moe_started_read(&s, buf, size, &why);

    if (moe_delta_read(&d, buf, size, &why) == MOE_JOBQ_OK) {

        for (i = 0; i < d.nids; i++) {
            sink += d.ids[i];
        }

        for (i = 0; i < d.ntext; i++) {
            sink += (uint8_t) d.text[i];
        }

        p = d.lp;
        end = (const uint8_t *) d.lp + d.lp_size;

        while (moe_lp_read(&lp, &p, end) == MOE_JOBQ_OK) {
            for (i = 0; i < lp.len; i++) {
                sink += (uint8_t) lp.bytes[i];
            }
        }
    }

    if (moe_end_read(&e, buf, size, &why) == MOE_JOBQ_OK) {
        for (i = 0; i < e.message.len; i++) {
            sink += (uint8_t) e.message.data[i];
        }
    }

    free(buf);

    return 0;
}
