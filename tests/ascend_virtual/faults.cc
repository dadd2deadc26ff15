// Operators with faults, one for each thing that the device must notice: test_virtual.py calls them.
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "memory.h"
#include "tensor.h"

namespace ascend_virtual {
namespace {

std::string Run(const std::string& fault, const aclTensor& tensor, char* workspace) {
  char* data = Memory::Get().Alias(tensor.Begin());
  const size_t bytes = tensor.Bytes();
  if (fault == "overflow") {
    std::memset(data, 1, bytes + 1);
  } else if (fault == "workspace") {
    std::memcpy(data, workspace, bytes);  // what nobody has written
  } else if (fault == "fails") {
    return "the kernel has failed";
  } else if (fault == "throws") {
    throw std::runtime_error("the kernel has thrown");
  } else if (fault != "silent") {
    std::memset(data, 1, bytes);
  }
  return "";
}

}  // namespace
}  // namespace ascend_virtual

using namespace ascend_virtual;  // NOLINT: the functions below are this library's whole interface

ASCEND_VIRTUAL_API int aclnnFaultGetWorkspaceSize(const char* fault, aclTensor* out, uint64_t* workspace_size,
                                                  aclOpExecutor** executor) {
  auto call = std::make_unique<aclOpExecutor>();
  call->name = "Fault";
  call->tensors = {out};
  call->written = {0};
  call->workspace = 64;
  call->run = [fault = std::string(fault)](const auto& tensors, char* workspace) {
    return Run(fault, tensors[0], workspace);
  };
  return Prepare(std::move(call), workspace_size, executor);
}
ASCEND_VIRTUAL_API int aclnnFault(void* workspace, uint64_t bytes, aclOpExecutor* executor, aclrtStream stream) {
  return Launch(workspace, bytes, executor, stream);
}
