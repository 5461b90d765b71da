/*
 * libFuzzer: a weight file.  The first byte chooses between the file as it is
 * and a header for which length and data are made up, which gets further.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/safetensors.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
use(const uint8_t *file, size_t size)
{
    size_t                  i, j, sum;
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

    sum = 0;

    for (i = 0; (t = moe_st_at(st, i)) != NULL; i++) {

        if (moe_st_find(st, t->name) != t) {
            abort();
        }

        for (j = 0; j < t->size; j++) {
            sum += t->data[j];
        }

        sum += t->size;
    }

    /* every byte of the data is in exactly one tensor */
    if (i != moe_st_count(st) || (i == 0 && sum != 0)) {
        abort();
    }

    moe_st_close(st);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t    i, tail, n;
    uint8_t  *file;

    if (size == 0) {
        return 0;
    }

    tail = data[0];
    data++;
    size--;

    if (tail == 255) {
        tail = 0;
        n = size;
        file = malloc(n ? n : 1);
        memcpy(file, data, n);

    } else {
        n = 8 + size + tail;
        file = calloc(1, n);

        for (i = 0; i < 8; i++) {
            file[i] = (uint8_t) ((uint64_t) size >> (8 * i));
        }

        memcpy(file + 8, data, size);
    }

    use(file, n);
    free(file);

    return 0;
}
