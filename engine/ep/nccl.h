/*
 * nccl: the GPUs' library of messages, NCCL 2.18 or later, loaded when it is
 * needed.
 *
 * What the engine uses of it is declared here, so that it compiles where there
 * is no CUDA; t/nccl/header.c compares that with the library's own header.
 * Memory is the device's, a stream is CUDA's.
 *
 * Nothing waits in the library: a communicator is one that does not block, and
 * what has been begun is asked after with naps between, until a deadline.
 * What has failed once is aborted, which ends what was under way on the device
 * too, and fails from then on.
 */

#ifndef MOE_NCCL_H
#define MOE_NCCL_H


#include <stddef.h>
#include <stdint.h>

#include "base/err.h"


/* the library's names and values */

typedef struct ncclComm  *ncclComm_t;
typedef void             *cudaStream_t;
typedef int               ncclDataType_t;

typedef enum {
    ncclSuccess = 0,
    ncclInProgress = 7
} ncclResult_t;

enum {
    NCCL_BYTES = 0,                 /* ncclInt8 */
    NCCL_CONFIG_MAGIC = 0xcafebeef,
    NCCL_OLDEST = 21800             /* 2.18.0, whose ncclConfig_t this is;
                                     * later ones take it for what it is */
};

typedef struct {
    char  internal[128];
} ncclUniqueId;

typedef struct {
    size_t       size;
    unsigned     magic;
    unsigned     version;
    int          blocking;
    int          cgaClusterSize;
    int          minCTAs;
    int          maxCTAs;
    const char  *netName;
    int          splitShare;
} ncclConfig_t;

/* X(what it returns, its name, its arguments) */
#define MOE_NCCL_SYMBOLS(X)                                                   \
    X(ncclResult_t, ncclGetVersion, (int *version))                           \
    X(const char *, ncclGetErrorString, (ncclResult_t result))                \
    X(const char *, ncclGetLastError, (ncclComm_t comm))                      \
    X(ncclResult_t, ncclGetUniqueId, (ncclUniqueId *id))                      \
    X(ncclResult_t, ncclCommInitRankConfig, (ncclComm_t *comm, int nranks,    \
        ncclUniqueId id, int rank, ncclConfig_t *config))                     \
    X(ncclResult_t, ncclCommGetAsyncError, (ncclComm_t comm,                  \
        ncclResult_t *result))                                                \
    X(ncclResult_t, ncclCommFinalize, (ncclComm_t comm))                      \
    X(ncclResult_t, ncclCommDestroy, (ncclComm_t comm))                       \
    X(ncclResult_t, ncclCommAbort, (ncclComm_t comm))                         \
    X(ncclResult_t, ncclGroupStart, (void))                                   \
    X(ncclResult_t, ncclGroupEnd, (void))                                     \
    X(ncclResult_t, ncclSend, (const void *buf, size_t count,                 \
        ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream)) \
    X(ncclResult_t, ncclRecv, (void *buf, size_t count, ncclDataType_t type,  \
        int peer, ncclComm_t comm, cudaStream_t stream))


#ifndef MOE_NCCL_DECLARATIONS

#define MOE_NCCL_POINTER(type, name, args)  type (*name) args;

typedef struct {
    MOE_NCCL_SYMBOLS(MOE_NCCL_POINTER)
    int       version;              /* as in 22809 */
} moe_nccl_api_t;

#undef MOE_NCCL_POINTER

typedef struct {
    const moe_nccl_api_t  *api;
    ncclComm_t             comm;
    int                    failed;  /* and aborted */

    /* asked while something is waited for: -1 and a line where another rank
     * has gone, whom the library may not miss; or NULL */
    int                  (*gone)(void *data, moe_err_t *err);
    void                  *gone_data;
} moe_nccl_t;


/* The library, loaded once; it stays.  NULL and a line in err that names the
 * file or the symbol that is missing, or the version that is too old. */
const moe_nccl_api_t *moe_nccl_load(moe_err_t *err);

/* What rank 0 gives all others. */
int moe_nccl_unique_id(const moe_nccl_api_t *api, ncclUniqueId *id,
    moe_err_t *err);

/* All ranks do so; the device is the current one, gone is filled in.  Deadlines
 * here are as in ep/exchange.h. */
int moe_nccl_open(moe_nccl_t *n, const moe_nccl_api_t *api,
    const ncclUniqueId *id, uint32_t rank, uint32_t nranks,
    uint64_t deadline, moe_err_t *err);

/* What is sent and received between the two goes at once; end returns when
 * it is on the stream, or has failed. */
int moe_nccl_begin(moe_nccl_t *n, moe_err_t *err);
int moe_nccl_send(moe_nccl_t *n, const void *buf, size_t bytes, uint32_t to,
    void *stream, moe_err_t *err);
int moe_nccl_recv(moe_nccl_t *n, void *buf, size_t bytes, uint32_t from,
    void *stream, moe_err_t *err);
int moe_nccl_end(moe_nccl_t *n, uint64_t deadline, moe_err_t *err);

/* Whether something has failed meanwhile: then it is aborted. */
int moe_nccl_check(moe_nccl_t *n, moe_err_t *err);

/* Ends what is under way, here and on the device. */
void moe_nccl_abort(moe_nccl_t *n);

/* Leaves; waits for the others to do so, but not for long. */
void moe_nccl_close(moe_nccl_t *n);

#endif


#endif /* MOE_NCCL_H */
