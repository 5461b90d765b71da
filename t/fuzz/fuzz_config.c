/*
 * libFuzzer: config.json, and generation_config.json behind the first zero
 * byte.  What is accepted must be within the limits that the rest of the
 * engine relies on.
 */

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/config.h"
#include "model/weights.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void
check(int ok)
{
    if (!ok) {
        abort();
    }
}


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char                 *text, *gen;
    size_t                len;
    moe_err_t             err;
    moe_params_t          p;
    static moe_config_t   c;

    text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '\0';

    len = strlen(text);
    gen = len < size ? text + len + 1 : NULL;

    if (moe_config_parse(text, len, gen, gen ? size - len - 1 : 0, &c, &err)
        != 0)
    {
        check(strlen(err.text) != 0);
        free(text);
        return 0;
    }

    free(text);

    check(c.n_layers >= 1 && c.n_layers <= MOE_MAX_LAYERS);
    check(c.hidden >= 1 && c.hidden <= MOE_MAX_HIDDEN);
    check(c.top_k >= 1 && c.top_k <= MOE_MAX_TOP_K);
    check(c.top_k <= c.n_experts && c.n_experts <= MOE_MAX_EXPERTS);
    check(c.n_experts % c.n_group == 0);
    check(c.topk_group >= 1 && c.topk_group <= c.n_group);
    check(c.top_k <= c.topk_group * (c.n_experts / c.n_group));
    check(c.n_heads % c.n_kv_heads == 0);
    check(c.rope.dim >= 2 && c.rope.dim % 2 == 0);
    check(c.rope.dim <= c.head_dim);
    check(c.head_dim <= 2 * MOE_MAX_HEAD_DIM && c.v_head_dim >= 1);
    check(isfinite(c.attn_scale) && c.attn_scale > 0);
    check(isfinite(c.rope.attn_factor) && isfinite(c.rope.theta));
    check(c.n_eos <= MOE_MAX_EOS);
    check(c.n_moe_layers == c.n_layers || c.dense_ffn > 0);
    check(c.shared_ffn <= MOE_MAX_FFN && c.moe_ffn >= 1);

    moe_params(&c, &p);
    check(p.active <= p.total && p.embed <= p.total);
    check(moe_config_kv_width(&c) >= 1);
    (void) moe_config_check(&c, &err);

    return 0;
}
