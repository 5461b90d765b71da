#include "model/exchange_memory.h"


static void *
memory_take(void *ctx, size_t bytes, moe_err_t *err)
{
    moe_exchange_memory_t  *m = ctx;

    return m->k->memory->take(m->c->device, bytes, err);
}


static void
memory_give(void *ctx, void *p)
{
    moe_exchange_memory_t  *m = ctx;

    m->k->memory->give(m->c->device, p);
}


static void
memory_put(void *ctx, void *to, const void *from, size_t bytes)
{
    moe_exchange_memory_t  *m = ctx;

    m->k->memory->put(m->c->device, to, from, bytes);
}


static int
memory_get(void *ctx, void *to, const void *from, size_t bytes,
    moe_err_t *err)
{
    moe_exchange_memory_t  *m = ctx;

    return m->k->memory->get(m->c->device, to, from, bytes, err);
}


static moe_pack_t
pack_of(moe_row_format_e format, const void *x, const uint32_t *from,
    uint32_t n, uint32_t width, void *out, size_t stride)
{
    return (moe_pack_t) {
        .x = x,
        .out = out,
        .from = from,
        .stride = stride,
        .n = n,
        .width = width,
        .bf16 = format == MOE_ROWS_BF16
    };
}


static void
memory_pack(void *ctx, moe_row_format_e format, const float *x,
    const uint32_t *from, uint32_t n, uint32_t width, void *out,
    size_t stride)
{
    moe_pack_t              op;
    moe_exchange_memory_t  *m = ctx;

    op = pack_of(format, x, from, n, width, out, stride);
    m->d->pack(m->c, &op);
}


static void
memory_unpack(void *ctx, moe_row_format_e format, const void *x,
    size_t stride, const uint32_t *from, uint32_t n, uint32_t width,
    float *out)
{
    moe_pack_t              op;
    moe_exchange_memory_t  *m = ctx;

    op = pack_of(format, x, from, n, width, out, stride);
    m->d->unpack(m->c, &op);
}


static void *
memory_stream(void *ctx)
{
    moe_exchange_memory_t  *m = ctx;

    return m->d->stream(m->c->device);
}


static void *
memory_messages(void *ctx)
{
    moe_exchange_memory_t  *m = ctx;

    return m->d->messages(m->c->device);
}


static void
memory_depart(void *ctx)
{
    moe_exchange_memory_t  *m = ctx;

    m->d->depart(m->c->device);
}


static void
memory_mark(void *ctx, uint32_t half)
{
    moe_exchange_memory_t  *m = ctx;

    m->d->mark(m->c->device, half);
}


static void
memory_await(void *ctx, uint32_t half)
{
    moe_exchange_memory_t  *m = ctx;

    m->d->await(m->c->device, half);
}


static void
memory_clock(void *ctx, int ends)
{
    moe_exchange_memory_t  *m = ctx;

    m->d->clock(m->c->device, ends);
}


static uint64_t
memory_took(void *ctx)
{
    moe_exchange_memory_t  *m = ctx;

    return m->d->took(m->c->device);
}


static void
memory_watch(void *ctx,
    int (*alive)(void *data, uint64_t waited_us, moe_err_t *err), void *data)
{
    moe_exchange_memory_t  *m = ctx;

    m->d->watch(m->c->device, alive, data);
}


void
moe_exchange_memory(moe_exchange_memory_t *m, const moe_kernels_t *k,
    const moe_kctx_t *c)
{
    m->k = k;
    m->d = moe_kernels_device(k);
    m->c = c;
    m->base = (moe_rows_memory_t) {
        .ctx = m,
        .take = memory_take,
        .give = memory_give,
        .put = memory_put,
        .get = memory_get,
        .pack = memory_pack,
        .unpack = memory_unpack,
        .stream = memory_stream,
        .messages = memory_messages,
        .depart = memory_depart,
        .mark = memory_mark,
        .await = memory_await,
        .clock = memory_clock,
        .took = memory_took,
        .watch = memory_watch
    };
}
