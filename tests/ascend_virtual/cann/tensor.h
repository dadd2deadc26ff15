// The arguments of an aclnn function (libnnopbase): descriptors of tensors, scalars, lists, and executors.
#ifndef ASCEND_VIRTUAL_TENSOR_H_
#define ASCEND_VIRTUAL_TENSOR_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "acl.h"
#include "device.h"
#include "element.h"

// A view of a storage: element (i, j, ..) is at offset + i * strides[0] + j * strides[1] + .. elements from `data`.
struct aclTensor {
  std::vector<int64_t> view, strides, storage;
  int64_t offset = 0;
  int dtype = 0, format = 0;
  void* data = nullptr;  // an address of the device, or null while an executor waits for its addresses

  int64_t Elements() const;
  size_t ElementBytes() const;
  bool Contiguous() const;
  // Bytes from the first element of the view up to the end of the last.
  size_t Bytes() const;
  const char* Begin() const { return static_cast<const char*>(data) + offset * static_cast<int64_t>(ElementBytes()); }
};

struct aclScalar {
  int dtype;
  ascend_virtual::Element value;
};
struct aclIntArray {
  std::vector<int64_t> values;
};
struct aclTensorList {
  std::vector<aclTensor*> tensors;
};

// A prepared call. One that is repeatable gets new addresses for each launch.
struct aclOpExecutor {
  // Runs on the device, which reaches the tensors through Memory::Alias. Returns what went wrong, or nothing.
  using Run = std::function<std::string(const std::vector<aclTensor>& tensors, char* workspace)>;

  std::string name;
  std::vector<const aclTensor*> tensors;  // tensors of the call, in the order of the function's parameters
  std::vector<size_t> first;              // the first tensor of each parameter; empty if none is a list
  std::vector<size_t> written;            // the indices of tensors that are results only
  uint64_t workspace = 0;                 // bytes
  Run run;
  bool repeatable = false;

  // The place among `tensors` of the tensor `relative` of a parameter.
  size_t Place(size_t parameter, size_t relative) const {
    return relative + (parameter < first.size() ? first[parameter] : parameter);
  }
};

namespace ascend_virtual {

// Whether a tensor was made and is not destroyed. Only its pointer is used.
bool Alive(const aclTensor* tensor);

// The error of a descriptor whose address is known, or nothing.
std::string Refusal(const aclTensor& tensor);

// Calls `visit` with the index of each element of a shape, the last axis fastest.
void ForEach(const std::vector<int64_t>& shape, const std::function<void(const std::vector<int64_t>&)>& visit);

// The elements of a tensor of the device in the order of ForEach, whatever its strides.
std::vector<char> Gather(const aclTensor& tensor);

// A tensor as text, for messages: int8 [2, 128] of [256] + 0, format 2.
std::string Describe(const aclTensor& tensor);

// The two halves of every aclnn function.
int Prepare(std::unique_ptr<aclOpExecutor> executor, uint64_t* workspace_size, aclOpExecutor** out);
int Launch(void* workspace, uint64_t workspace_size, aclOpExecutor* executor, aclrtStream stream);

}  // namespace ascend_virtual

#endif  // ASCEND_VIRTUAL_TENSOR_H_
