/*
 * libFuzzer: a packed weight file.  The first byte chooses between the file
 * as it is and a header for which preamble, length and data are made up, which
 * gets further.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/packed.h"
#include "model/safetensors.h"
#include "model/weights.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* every value of a packed matrix */
static void
unpack(const moe_st_tensor_t *f)
{
    float         *row;
    uint64_t       i;
    moe_tensor_t   t;

    if (f->dims[1] > 1 << 20) {
        return;
    }

    memset(&t, 0, sizeof(t));
    t.data = f->data;
    t.dtype = f->dtype;
    t.rows = (int) f->dims[0];
    t.cols = (int) f->dims[1];
    row = malloc(f->dims[1] * sizeof(float));

    for (i = 0; i < f->dims[0]; i++) {
        moe_tensor_to_f32(&t, (int) i, 1, row);
    }

    free(row);
}


static void
use(const uint8_t *file, size_t size)
{
    size_t                  i;
    moe_err_t               err;
    moe_st_t               *st;
    const moe_st_tensor_t  *t;

    st = moe_st_open_memory(file, size, "fuzz", &err);

    if (st == NULL) {
        if (strlen(err.text) == 0) {
            abort();
        }
        return;
    }

    for (i = 0; (t = moe_st_at(st, i)) != NULL; i++) {
        if (moe_dtype_is_packed(t->dtype)) {
            unpack(t);
        }
    }

    moe_st_close(st);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int       i;
    size_t    tail, n, at;
    uint8_t  *file, sum[32] = { 0 };

    if (size == 0) {
        return 0;
    }

    tail = data[0];
    data++;
    size--;

    if (tail == 255) {
        file = malloc(size + 1);
        memcpy(file, data, size);
        use(file, size);
        free(file);
        return 0;
    }

    /* multiples of 64, of which packed tensors are made */
    tail *= 64;
    at = MOE_PACKED_PREAMBLE;
    n = at + 8 + size + tail;
    file = calloc(1, n);

    for (i = 0; i < 8; i++) {
        file[at + (size_t) i] = (uint8_t) ((uint64_t) size >> (8 * i));
    }

    memcpy(file + at + 8, data, size);
    memset(file + at + 8 + size, 0xa5, tail);
    moe_packed_preamble(file, n, sum, sum, file + at, 8 + size);

    use(file, n);
    free(file);

    return 0;
}
