/*
 * What engine/ep/nccl.h says of NCCL beside what NCCL's own header says: only
 * compiled.
 */

#include <stddef.h>
#include <nccl.h>

/* types of the same names are put aside */
#define ncclComm_t      own_comm_t
#define ncclResult_t    own_result_t
#define ncclDataType_t  own_data_type_t
#define ncclSuccess     own_success
#define ncclInProgress  own_in_progress
#define ncclUniqueId    own_id_t
#define ncclConfig_t    own_config_t
#define cudaStream_t    own_stream_t

#include "ep/nccl.h"

#undef ncclComm_t
#undef ncclResult_t
#undef ncclDataType_t
#undef ncclSuccess
#undef ncclInProgress
#undef ncclUniqueId
#undef ncclConfig_t
#undef cudaStream_t


/* every call once more, with its header's types: what differs conflicts */
#define DECLARE(type, name, args)  type name args;

MOE_NCCL_SYMBOLS(DECLARE)


#define SAME(a, b)  _Static_assert((a) == (b), #a " is not " #b)

#define FIELD(name)                                                           \
    SAME(offsetof(own_config_t, name), offsetof(ncclConfig_t, name));         \
    SAME(sizeof(((own_config_t *) 0)->name),                                  \
         sizeof(((ncclConfig_t *) 0)->name))

SAME((int) own_success, (int) ncclSuccess);
SAME((int) own_in_progress, (int) ncclInProgress);
SAME(sizeof(own_result_t), sizeof(ncclResult_t));
SAME(sizeof(own_comm_t), sizeof(ncclComm_t));
SAME(sizeof(own_stream_t), sizeof(cudaStream_t));
SAME(sizeof(own_data_type_t), sizeof(ncclDataType_t));
SAME(sizeof(own_id_t), sizeof(ncclUniqueId));
SAME((int) NCCL_BYTES, (int) ncclInt8);
SAME(INT32_MIN, NCCL_CONFIG_UNDEF_INT);
SAME(NCCL_OLDEST, NCCL_VERSION(2, 18, 0));

FIELD(size);
FIELD(magic);
FIELD(version);
FIELD(blocking);
FIELD(cgaClusterSize);
FIELD(minCTAs);
FIELD(maxCTAs);
FIELD(netName);
FIELD(splitShare);
