/*
 * libFuzzer: a GGUF file, its metadata as a tokenizer and as a configuration,
 * and its tensors as that configuration's.
 */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/gguf_model.h"
#include "model/gguf_text.h"
#include "model/weights.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static volatile unsigned  sink;


/* every byte that a tensor claims to have can be read */
static void
read_tensors(const moe_st_t *st)
{
    size_t                  i, j;
    const moe_st_tensor_t  *t;

    for (i = 0; (t = moe_st_at(st, i)) != NULL; i++) {
        for (j = 0; j < t->size; j += 61) {
            sink += t->data[j];
        }

        if (t->size > 0) {
            sink += t->data[t->size - 1];
        }
    }
}


static void
use_text(const moe_gguf_t *g)
{
    json_t           *config;
    moe_err_t         err;
    moe_ids_t         ids = { 0 };
    moe_tokenizer_t  *t;

    static const char  text[] = " ab  12 don't <s>\n\xc3\xa9";

    config = moe_gguf_tokenizer_config(g, &err);
    json_decref(config);

    t = moe_gguf_tokenizer(g, &err);

    if (t != NULL) {
        (void) moe_tokenizer_encode(t, text, sizeof(text) - 1, NULL,
                                    MOE_TOK_SPECIAL | MOE_TOK_ADD_BOS, &ids,
                                    &err);
    }

    moe_ids_free(&ids);
    moe_tokenizer_free(t);
}


static void
use_model(moe_gguf_t *g, const uint8_t *data, size_t size)
{
    moe_st_t       *st;
    moe_err_t       err;
    moe_config_t    cfg;
    moe_weights_t  *w;

    if (moe_gguf_config(g, &cfg, &err) != 0
        || moe_config_check(&cfg, &err) != 0)
    {
        moe_gguf_close(g);
        return;
    }

    /* either way, by a byte of the file */
    st = moe_gguf_tensors(g, &cfg, data[size - 1] & 1 ? 0 : MOE_GGUF_WIDE,
                          &err);
    if (st == NULL) {
        return;
    }

    read_tensors(st);

    w = moe_weights_bind(st, &cfg, &err);
    moe_weights_free(w);
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t                    i, j;
    moe_err_t                 err;
    moe_gguf_t               *g;
    const moe_gguf_tensor_t  *t;

    err.text[0] = '\0';

    g = moe_gguf_open_memory(data, size, "fuzz", &err);

    if (g == NULL) {
        if (err.text[0] == '\0') {
            abort();
        }

        return 0;
    }

    for (i = 0; (t = moe_gguf_tensor_at(g, i)) != NULL; i++) {

        if (moe_gguf_tensor(g, t->name) != t) {
            abort();
        }

        for (j = 0; j < t->size; j++) {
            sink += t->data[j];
        }
    }

    use_text(g);
    use_model(g, data, size);

    return 0;
}
