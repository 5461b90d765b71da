#include <dlfcn.h>
#include <string.h>

#include "ep/exchange.h"
#include "base/nap.h"
#include "ep/nccl.h"


#define LIBRARY  "libnccl.so.2"

/* what it may take until all have left */
#define CLOSE_MS  5000


const moe_nccl_api_t *
moe_nccl_load(moe_err_t *err)
{
    size_t                  i;
    void                   *so, *p;
    const char             *why;
    static moe_nccl_api_t   api;

#define SYMBOL(type, name, args)  { #name, &api.name },

    const struct {
        const char  *name;
        void        *at;
    } symbols[] = { MOE_NCCL_SYMBOLS(SYMBOL) };

#undef SYMBOL

    so = dlopen(LIBRARY, RTLD_NOW);

    if (so == NULL) {
        why = dlerror();
        moe_err(err, "NCCL cannot be loaded: %s", why ? why : LIBRARY);
        return NULL;
    }

    for (i = 0; i < sizeof(symbols) / sizeof(symbols[0]); i++) {
        p = dlsym(so, symbols[i].name);

        if (p == NULL) {
            moe_err(err, LIBRARY " has no %s", symbols[i].name);
            return NULL;
        }

        memcpy(symbols[i].at, &p, sizeof(p));
    }

    if (api.ncclGetVersion(&api.version) != ncclSuccess
        || api.version < NCCL_OLDEST)
    {
        moe_err(err, LIBRARY " is version %d, at least %d is needed",
                api.version, NCCL_OLDEST);
        return NULL;
    }

    return &api;
}


/* of a communicator, or of none */
static int
nccl_error(moe_nccl_t *n, const moe_nccl_api_t *api, const char *what,
    ncclResult_t rc, moe_err_t *err)
{
    const char  *more;

    more = api->ncclGetLastError(n ? n->comm : NULL);
    moe_err(err, "NCCL: %s: %s%s%s", what, api->ncclGetErrorString(rc),
            more && *more ? ": " : "", more ? more : "");

    if (n != NULL) {
        moe_nccl_abort(n);
    }

    return -1;
}


static int
accepted(ncclResult_t rc)
{
    return rc == ncclSuccess || rc == ncclInProgress;
}


int
moe_nccl_unique_id(const moe_nccl_api_t *api, ncclUniqueId *id,
    moe_err_t *err)
{
    ncclResult_t  rc;

    rc = api->ncclGetUniqueId(id);

    return rc == ncclSuccess ? 0
                             : nccl_error(NULL, api, "ncclGetUniqueId", rc,
                                          err);
}


/* whoever has gone does not come back */
static int
misses(moe_nccl_t *n, moe_err_t *err)
{
    if (n->gone == NULL || n->gone(n->gone_data, err) == 0) {
        return 0;
    }

    moe_nccl_abort(n);

    return -1;
}


/* until what was begun is done */
static int
settle(moe_nccl_t *n, const char *what, uint64_t deadline, moe_err_t *err)
{
    uint64_t      began;
    ncclResult_t  rc, state;

    began = moe_now_us();

    for ( ;; ) {
        rc = n->api->ncclCommGetAsyncError(n->comm, &state);
        rc = rc == ncclSuccess ? state : rc;

        if (rc == ncclSuccess) {
            return 0;
        }

        if (rc != ncclInProgress) {
            return nccl_error(n, n->api, what, rc, err);
        }

        if (misses(n, err)) {
            return -1;
        }

        if (deadline != UINT64_MAX && moe_exchange_now() >= deadline) {
            moe_nccl_abort(n);
            return moe_err(err, "NCCL: %s is not done by its deadline: "
                           "another rank does not answer", what);
        }

        moe_nap(moe_nap_us(moe_now_us() - began));
    }
}


int
moe_nccl_open(moe_nccl_t *n, const moe_nccl_api_t *api,
    const ncclUniqueId *id, uint32_t rank, uint32_t nranks,
    uint64_t deadline, moe_err_t *err)
{
    ncclResult_t  rc;
    ncclConfig_t  config = {
        .size = sizeof(ncclConfig_t),
        .magic = NCCL_CONFIG_MAGIC,
        .version = NCCL_OLDEST,
        .blocking = 0,
        .cgaClusterSize = INT32_MIN,
        .minCTAs = INT32_MIN,
        .maxCTAs = INT32_MIN,
        .netName = NULL,
        .splitShare = INT32_MIN
    };

    n->api = api;
    n->comm = NULL;
    n->failed = 0;

    rc = api->ncclCommInitRankConfig(&n->comm, (int) nranks, *id, (int) rank,
                                     &config);

    if (!accepted(rc)) {
        return nccl_error(n, api, "ncclCommInitRankConfig", rc, err);
    }

    return settle(n, "ncclCommInitRankConfig", deadline, err);
}


static int
is_failed(const moe_nccl_t *n, moe_err_t *err)
{
    return n->failed ? moe_err(err, "NCCL: it has failed before") : 0;
}


int
moe_nccl_begin(moe_nccl_t *n, moe_err_t *err)
{
    ncclResult_t  rc;

    if (is_failed(n, err)) {
        return -1;
    }

    rc = n->api->ncclGroupStart();

    return rc == ncclSuccess ? 0
                             : nccl_error(n, n->api, "ncclGroupStart", rc,
                                          err);
}


int
moe_nccl_send(moe_nccl_t *n, const void *buf, size_t bytes, uint32_t to,
    void *stream, moe_err_t *err)
{
    ncclResult_t  rc;

    rc = n->api->ncclSend(buf, bytes, NCCL_BYTES, (int) to, n->comm, stream);

    return accepted(rc) ? 0 : nccl_error(n, n->api, "ncclSend", rc, err);
}


int
moe_nccl_recv(moe_nccl_t *n, void *buf, size_t bytes, uint32_t from,
    void *stream, moe_err_t *err)
{
    ncclResult_t  rc;

    rc = n->api->ncclRecv(buf, bytes, NCCL_BYTES, (int) from, n->comm,
                          stream);

    return accepted(rc) ? 0 : nccl_error(n, n->api, "ncclRecv", rc, err);
}


int
moe_nccl_end(moe_nccl_t *n, uint64_t deadline, moe_err_t *err)
{
    ncclResult_t  rc;

    rc = n->api->ncclGroupEnd();

    if (!accepted(rc)) {
        return nccl_error(n, n->api, "ncclGroupEnd", rc, err);
    }

    return settle(n, "an exchange", deadline, err);
}


int
moe_nccl_check(moe_nccl_t *n, moe_err_t *err)
{
    ncclResult_t  rc, state;

    if (is_failed(n, err)) {
        return -1;
    }

    rc = n->api->ncclCommGetAsyncError(n->comm, &state);
    rc = rc == ncclSuccess ? state : rc;

    if (!accepted(rc)) {
        return nccl_error(n, n->api, "an exchange", rc, err);
    }

    return misses(n, err);
}


void
moe_nccl_abort(moe_nccl_t *n)
{
    if (!n->failed && n->comm != NULL) {
        (void) n->api->ncclCommAbort(n->comm);
    }

    n->comm = NULL;
    n->failed = 1;
}


void
moe_nccl_close(moe_nccl_t *n)
{
    moe_err_t  err;

    if (n->comm == NULL || n->failed) {
        return;
    }

    /* from here on others go as they should */
    n->gone = NULL;

    if (accepted(n->api->ncclCommFinalize(n->comm))
        && settle(n, "ncclCommFinalize", moe_exchange_now() + CLOSE_MS, &err)
           == 0)
    {
        (void) n->api->ncclCommDestroy(n->comm);
        n->comm = NULL;
        return;
    }

    moe_nccl_abort(n);
}
