// The part of AscendCL's C interface that MindSpore 2.10 uses. The declarations are our own, from the signatures in
// MindSpore's headers (plugin/ascend/res_manager/symbol_interface/*.h, kernel/ascend/acl_ir/op_api_convert.h) and the
// values in the public documentation. An enumeration is an int here, and a structure whose members nobody reads is
// opaque.
#ifndef ASCEND_VIRTUAL_ACL_H_
#define ASCEND_VIRTUAL_ACL_H_

#include <cstddef>
#include <cstdint>

using aclError = int;
using aclrtContext = void*;
using aclrtStream = void*;
using aclrtEvent = void*;
using aclrtDrvMemHandle = void*;
using aclrtCallback = void (*)(void*);
struct aclrtPhysicalMemProp;

// Error codes: documentation of aclError.
constexpr aclError ACL_SUCCESS = 0;
constexpr aclError ACL_ERROR_RT_PARAM_INVALID = 107000;
constexpr aclError ACL_ERROR_RT_CONTEXT_NULL = 107002;
constexpr aclError ACL_ERROR_RT_STREAM_CONTEXT = 107003;
constexpr aclError ACL_ERROR_RT_MEMORY_ALLOCATION = 207001;
constexpr aclError ACL_ERROR_RT_AICORE_EXCEPTION = 507015;
// Status of an aclnn function: documentation of "aclnn return codes".
constexpr int ACLNN_ERR_PARAM_NULLPTR = 161001;
constexpr int ACLNN_ERR_PARAM_INVALID = 161002;
constexpr int ACLNN_ERR_INNER_TILING_ERROR = 561103;

constexpr int ACL_HOST = 1;                             // aclrtRunMode
constexpr int ACL_HBM_MEM = 1;                          // aclrtMemAttr
constexpr int ACL_MEMCPY_HOST_TO_HOST = 0;              // aclrtMemcpyKind
constexpr int ACL_MEMCPY_HOST_TO_DEVICE = 1;            //
constexpr int ACL_MEMCPY_DEVICE_TO_HOST = 2;            //
constexpr int ACL_MEMCPY_DEVICE_TO_DEVICE = 3;          //
constexpr int ACL_STREAM_STATUS_COMPLETE = 0;           // aclrtStreamStatus
constexpr int ACL_STREAM_STATUS_NOT_READY = 1;          //
constexpr int ACL_EVENT_RECORDED_STATUS_NOT_READY = 0;  // aclrtEventRecordedStatus
constexpr int ACL_EVENT_RECORDED_STATUS_COMPLETE = 1;   //
constexpr int ACL_RT_DEV_RES_CUBE_CORE = 0;             // aclrtDevResLimitType
constexpr int ACL_RT_DEV_RES_VECTOR_CORE = 1;           //

// aclDataType
constexpr int ACL_FLOAT = 0, ACL_FLOAT16 = 1, ACL_INT8 = 2, ACL_INT32 = 3, ACL_UINT8 = 4, ACL_INT16 = 6, ACL_UINT16 = 7,
              ACL_UINT32 = 8, ACL_INT64 = 9, ACL_UINT64 = 10, ACL_DOUBLE = 11, ACL_BOOL = 12, ACL_BF16 = 27;
// aclFormat
constexpr int ACL_FORMAT_NCHW = 0, ACL_FORMAT_ND = 2, ACL_FORMAT_FRACTAL_NZ = 29, ACL_FORMAT_NCDHW = 30,
              ACL_FORMAT_NCL = 47;

struct aclCANNPackageVersion {
  char version[128], majorVersion[64], minorVersion[64], releaseVersion[64], patchVersion[64], reserved[128];
};

#endif  // ASCEND_VIRTUAL_ACL_H_
