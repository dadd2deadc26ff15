#include "tensor.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <utility>

#include "memory.h"
#include "stream.h"

ASCEND_VIRTUAL_API size_t aclDataTypeSize(int dtype);
ASCEND_VIRTUAL_API int aclDestroyAclOpExecutor(aclOpExecutor* executor);

int64_t aclTensor::Elements() const {
  int64_t count = 1;
  for (const int64_t dim : view) count *= dim;
  return count;
}

size_t aclTensor::ElementBytes() const { return aclDataTypeSize(dtype); }

bool aclTensor::Contiguous() const {
  int64_t want = 1;
  for (size_t i = view.size(); i-- > 0;) {
    if (view[i] != 1 && strides[i] != want) return false;
    want *= view[i];
  }
  return true;
}

size_t aclTensor::Bytes() const {
  if (Elements() == 0) return 0;
  int64_t last = 0;
  for (size_t i = 0; i < view.size(); ++i) last += (view[i] - 1) * strides[i];
  return static_cast<size_t>(last + 1) * ElementBytes();
}

namespace ascend_virtual {
namespace {

// The objects of a kind that are alive. It compares pointers only, because a destroyed object must not be read.
class Living {
 public:
  explicit Living(const char* kind) : kind_(kind) {}
  void Insert(const void* object) {
    const std::lock_guard lock(mutex_);
    objects_.insert(object);
    Count(kind_, 1);
  }
  // False if it is not alive.
  bool Erase(const void* object) {
    const std::lock_guard lock(mutex_);
    if (objects_.erase(object) == 0) return false;
    Count(kind_, -1);
    return true;
  }
  bool Has(const void* object) {
    const std::lock_guard lock(mutex_);
    return objects_.count(object) != 0;
  }

 private:
  const char* kind_;
  std::mutex mutex_;
  std::set<const void*> objects_;
};

// Never destroyed: MindSpore destroys tensors and executors at exit.
Living& Tensors() {
  static Living* tensors = new Living("tensors");
  return *tensors;
}
Living& Executors() {
  static Living* executors = new Living("executors");
  return *executors;
}

int NoExecutor(const char* function) {
  return Fail(ACLNN_ERR_PARAM_INVALID,
              std::string(function) + ": the executor was destroyed, or has served its launch");
}

std::string Text(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

int64_t Product(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t dim : shape) count *= dim;
  return count;
}

// The bytes after a tensor's storage that belong to its allocation, and must not change. There are at least 32, because
// so many are added to what MindSpore asks for.
struct Redzone {
  const char* begin;
  std::string bytes;
};

std::vector<Redzone> Redzones(const std::vector<aclTensor>& tensors) {
  std::vector<Redzone> zones;
  for (const aclTensor& tensor : tensors) {
    const size_t bytes = static_cast<size_t>(Product(tensor.storage)) * tensor.ElementBytes();
    const auto end = reinterpret_cast<uintptr_t>(tensor.data) + bytes;
    const size_t rest = Granted(end) - end;
    const auto* address = reinterpret_cast<const char*>(end);
    if (tensor.data == nullptr || !Memory::Get().Mapped(address, rest)) continue;
    const char* begin = Memory::Get().Alias(address);
    zones.push_back({begin, std::string(begin, rest)});
  }
  return zones;
}

// A launch as the stream holds it. It has its own addresses, because the executor may have got others by then.
struct Execution {
  std::vector<aclTensor> tensors;
  std::vector<size_t> written;
  aclOpExecutor::Run run;
  char* workspace;
  size_t workspace_bytes;

  std::string operator()() const {
    // Poisons the results and the workspace before the operator begins, so that results must come from it.
    if (workspace_bytes > 0) std::memset(workspace, kPoison, workspace_bytes);
    for (const size_t index : written) {
      const aclTensor& tensor = tensors[index];
      if (tensor.Contiguous()) std::memset(Memory::Get().Alias(tensor.Begin()), kPoison, tensor.Bytes());
    }
    const std::vector<Redzone> zones = Redzones(tensors);
    const std::string failure = run(tensors, workspace);
    if (!failure.empty()) return failure;
    const auto changed = [](const Redzone& zone) {
      return std::memcmp(zone.begin, zone.bytes.data(), zone.bytes.size()) != 0;
    };
    return std::any_of(zones.begin(), zones.end(), changed) ? "bytes behind the end of a tensor have changed" : "";
  }
};

// Whether a test has asked for this launch to fail.
bool MustFail() { return Add("FAIL_LAUNCH", -1) == 0; }

}  // namespace

void ForEach(const std::vector<int64_t>& shape, const std::function<void(const std::vector<int64_t>&)>& visit) {
  if (Product(shape) == 0) return;
  std::vector<int64_t> index(shape.size(), 0);
  for (;;) {
    visit(index);
    size_t axis = shape.size();
    while (axis > 0 && ++index[axis - 1] == shape[axis - 1]) index[--axis] = 0;
    if (axis == 0) return;
  }
}

std::vector<char> Gather(const aclTensor& tensor) {
  const size_t element = tensor.ElementBytes();
  const char* from = Memory::Get().Alias(tensor.Begin());
  std::vector<char> gathered;
  gathered.reserve(static_cast<size_t>(tensor.Elements()) * element);
  ForEach(tensor.view, [&](const std::vector<int64_t>& index) {
    int64_t at = 0;
    for (size_t i = 0; i < index.size(); ++i) at += index[i] * tensor.strides[i];
    const char* begin = from + at * static_cast<int64_t>(element);
    gathered.insert(gathered.end(), begin, begin + element);
  });
  return gathered;
}

std::string Describe(const aclTensor& tensor) {
  return "dtype " + std::to_string(tensor.dtype) + " " + Text(tensor.view) + ", strides " + Text(tensor.strides) +
         ", offset " + std::to_string(tensor.offset) + ", storage " + Text(tensor.storage) + ", format " +
         std::to_string(tensor.format);
}

bool Alive(const aclTensor* tensor) { return Tensors().Has(tensor); }

std::string Refusal(const aclTensor& tensor) {
  if (tensor.ElementBytes() == 0) return "unknown dtype";
  if (tensor.view.size() > 8) return "more than 8 axes";
  for (const auto* shape : {&tensor.view, &tensor.storage}) {
    if (std::any_of(shape->begin(), shape->end(), [](int64_t dim) { return dim < 0; })) return "a negative axis";
  }
  static const std::set<int> kFormats = {ACL_FORMAT_NCHW, ACL_FORMAT_ND, ACL_FORMAT_FRACTAL_NZ, ACL_FORMAT_NCDHW,
                                         ACL_FORMAT_NCL};
  if (kFormats.count(tensor.format) == 0) return "unknown format";
  if (tensor.Elements() == 0) return "";
  if (std::any_of(tensor.strides.begin(), tensor.strides.end(), [](int64_t s) { return s < 0; })) {
    return "a negative stride";
  }
  const size_t element = tensor.ElementBytes();
  const size_t end = static_cast<size_t>(tensor.offset) * element + tensor.Bytes();
  if (tensor.offset < 0 || end > static_cast<size_t>(Product(tensor.storage)) * element) {
    return "the view is not inside its storage";
  }
  if (tensor.data != nullptr && !Memory::Get().Mapped(tensor.data, end)) return "its address is not the device's";
  return "";
}

int Prepare(std::unique_ptr<aclOpExecutor> executor, uint64_t* workspace_size, aclOpExecutor** out) {
  for (size_t i = 0; i < executor->tensors.size(); ++i) {
    const aclTensor* tensor = executor->tensors[i];
    const std::string where = executor->name + ": tensor " + std::to_string(i);
    if (tensor == nullptr) return Fail(ACLNN_ERR_PARAM_NULLPTR, where + " is null");
    if (!Alive(tensor)) return Fail(ACLNN_ERR_PARAM_INVALID, where + " was destroyed");
    const std::string refusal = Refusal(*tensor);
    Trace(where + ": " + Describe(*tensor));
    if (!refusal.empty()) return Fail(ACLNN_ERR_PARAM_INVALID, where + ", " + Describe(*tensor) + ": " + refusal);
  }
  *workspace_size = executor->workspace;
  *out = executor.release();
  Executors().Insert(*out);
  return ACL_SUCCESS;
}

int Launch(void* workspace, uint64_t workspace_size, aclOpExecutor* executor, aclrtStream stream) {
  if (!Executors().Has(executor)) return NoExecutor("a launch");
  const std::string name = executor->name;
  Execution execution{{}, executor->written, executor->run, Memory::Get().Alias(workspace), executor->workspace};
  for (size_t i = 0; i < executor->tensors.size(); ++i) {
    const std::string where = name + ": tensor " + std::to_string(i);
    if (!Alive(executor->tensors[i])) return Fail(ACLNN_ERR_PARAM_INVALID, where + " was destroyed");
    const aclTensor& tensor = *executor->tensors[i];
    if (tensor.data == nullptr && tensor.Elements() > 0)
      return Fail(ACLNN_ERR_PARAM_NULLPTR, where + " has no address");
    const std::string refusal = Refusal(tensor);
    if (!refusal.empty()) return Fail(ACLNN_ERR_PARAM_INVALID, where + ", " + Describe(tensor) + ": " + refusal);
    execution.tensors.push_back(tensor);
  }
  if (execution.workspace_bytes > 0 &&
      (workspace_size < execution.workspace_bytes || !Memory::Get().Mapped(workspace, execution.workspace_bytes))) {
    const std::string bytes = std::to_string(execution.workspace_bytes);
    return Fail(ACLNN_ERR_PARAM_INVALID, name + ": there is no workspace of " + bytes + " bytes");
  }
  const std::shared_ptr<Stream> on = Stream::Of(stream);
  if (on == nullptr) return Fail(ACL_ERROR_RT_STREAM_CONTEXT, name + ": there is no such stream");
  if (MustFail()) {
    execution.run = [](const auto&, char*) { return std::string("a fault that a test asked for"); };
  }
  Add("LAUNCHES", 1);
  on->Put(name, std::move(execution));
  if (!executor->repeatable) aclDestroyAclOpExecutor(executor);  // it serves one launch
  return ACL_SUCCESS;
}

// Gives a tensor of a repeatable executor its address for the next launch.
static int SetAddress(aclOpExecutor* executor, size_t place, aclTensor* tensor, void* address) {
  if (!executor->repeatable) return Fail(ACLNN_ERR_PARAM_INVALID, executor->name + ": the executor is not repeatable");
  if (place >= executor->tensors.size() || executor->tensors[place] != tensor) {
    return Fail(ACLNN_ERR_PARAM_INVALID, executor->name + ": tensor " + std::to_string(place) + " is another one");
  }
  if (!Alive(tensor)) return Fail(ACLNN_ERR_PARAM_INVALID, executor->name + ": the tensor was destroyed");
  tensor->data = address;
  return ACL_SUCCESS;
}

}  // namespace ascend_virtual

using namespace ascend_virtual;  // NOLINT: the functions below are this library's whole interface

ASCEND_VIRTUAL_API aclTensor* aclCreateTensor(const int64_t* view, uint64_t rank, int dtype, const int64_t* strides,
                                              int64_t offset, int format, const int64_t* storage, uint64_t storage_rank,
                                              void* data) {
  auto* tensor = new aclTensor;
  tensor->view.assign(view, view + rank);
  tensor->strides.assign(strides, strides + rank);
  tensor->storage.assign(storage, storage + storage_rank);
  tensor->offset = offset;
  tensor->dtype = dtype;
  tensor->format = format;
  tensor->data = data;
  Tensors().Insert(tensor);
  return tensor;
}
ASCEND_VIRTUAL_API int aclDestroyTensor(const aclTensor* tensor) {
  if (!Tensors().Erase(tensor))
    return Fail(ACLNN_ERR_PARAM_INVALID, "aclDestroyTensor: the tensor was destroyed before");
  delete tensor;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclScalar* aclCreateScalar(const void* value, int dtype) {
  Count("scalars", 1);
  return new aclScalar{dtype, ReadElement(value, dtype)};
}
ASCEND_VIRTUAL_API int aclDestroyScalar(const aclScalar* scalar) {
  Count("scalars", -1);
  delete scalar;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclIntArray* aclCreateIntArray(const int64_t* values, uint64_t count) {
  Count("lists", 1);
  return new aclIntArray{{values, values + count}};
}
ASCEND_VIRTUAL_API int aclDestroyIntArray(const aclIntArray* array) {
  Count("lists", -1);
  delete array;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclTensorList* aclCreateTensorList(const aclTensor* const* tensors, uint64_t count) {
  Count("lists", 1);
  auto* list = new aclTensorList;
  for (uint64_t i = 0; i < count; ++i) list->tensors.push_back(const_cast<aclTensor*>(tensors[i]));
  return list;
}
ASCEND_VIRTUAL_API int aclDestroyTensorList(const aclTensorList* list) {
  for (const aclTensor* tensor : list->tensors) aclDestroyTensor(tensor);
  Count("lists", -1);
  delete list;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API int aclGetViewShape(const aclTensor* tensor, int64_t** dims, uint64_t* count) {
  *count = tensor->view.size();
  *dims = new int64_t[*count];  // the caller deletes it
  std::copy(tensor->view.begin(), tensor->view.end(), *dims);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API int aclDestroyAclOpExecutor(aclOpExecutor* executor) {
  if (!Executors().Erase(executor)) return NoExecutor(__func__);
  delete executor;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API int aclSetAclOpExecutorRepeatable(aclOpExecutor* executor) {
  if (executor == nullptr) return Fail(ACLNN_ERR_PARAM_NULLPTR, "aclSetAclOpExecutorRepeatable: no executor");
  if (!Executors().Has(executor)) return NoExecutor(__func__);
  executor->repeatable = true;
  return ACL_SUCCESS;
}
// Sets one tensor of a parameter that is a list of tensors. `index` counts parameters.
ASCEND_VIRTUAL_API int aclSetDynamicTensorAddr(aclOpExecutor* executor, size_t index, size_t relative,
                                               aclTensorList* list, void* address) {
  if (!Executors().Has(executor)) return NoExecutor(__func__);
  if (relative >= list->tensors.size()) {
    return Fail(ACLNN_ERR_PARAM_INVALID, executor->name + ": the list has no tensor " + std::to_string(relative));
  }
  return SetAddress(executor, executor->Place(index, relative), list->tensors[relative], address);
}
ASCEND_VIRTUAL_API int aclSetTensorAddr(aclOpExecutor* executor, size_t index, aclTensor* tensor, void* address) {
  if (!Executors().Has(executor)) return NoExecutor(__func__);
  return SetAddress(executor, executor->Place(index, 0), tensor, address);
}
ASCEND_VIRTUAL_API int aclnnInit(const char*) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API int aclnnFinalize() { return ACL_SUCCESS; }
// CANN's cache of executors and its pool of host memory for them. MindSpore asks for both, and there is neither.
ASCEND_VIRTUAL_API int InitHugeMemThreadLocal(void*, bool) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API void UnInitHugeMemThreadLocal(void*, bool) {}
ASCEND_VIRTUAL_API void ReleaseHugeMem(void*, bool) {}
ASCEND_VIRTUAL_API void* PTAGetExecCache(uint64_t, uint64_t*) { return nullptr; }
ASCEND_VIRTUAL_API void InitPTACacheThreadLocal() {}
ASCEND_VIRTUAL_API void UnInitPTACacheThreadLocal() {}
ASCEND_VIRTUAL_API void SetPTAHashKey(uint64_t) {}
ASCEND_VIRTUAL_API bool CanUsePTACache(const char*) { return false; }
