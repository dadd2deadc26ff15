// The functions of AscendCL's runtime (libascendcl) whose effect MindSpore needs. stand_in.py adds a stub for each
// other name that MindSpore looks up. Source: CANN's public documentation of each function.
#include <algorithm>
#include <chrono>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "acl.h"
#include "device.h"
#include "memory.h"
#include "stream.h"

namespace ascend_virtual {
namespace {

int g_context;
thread_local void* t_context = nullptr;  // each thread of the host chooses its own

std::string Text(const void* address) {
  char text[32];
  snprintf(text, sizeof(text), "%p", address);
  return text;
}

// Memory of the host that the device reaches by itself. A copy from it reads it when the stream gets there.
struct Pinned {
  std::mutex mutex;
  std::map<char*, size_t> ranges;
};

Pinned& PinnedMemory() {
  static Pinned* pinned = new Pinned;
  return *pinned;
}

bool IsPinned(const void* address, size_t bytes) {
  Pinned& pinned = PinnedMemory();
  const std::lock_guard lock(pinned.mutex);
  const char* begin = static_cast<const char*>(address);
  auto next = pinned.ranges.upper_bound(const_cast<char*>(begin));
  if (next == pinned.ranges.begin()) return false;
  --next;
  return begin + bytes <= next->first + next->second;
}

// What is wrong with a copy, or nothing.
std::string Refusal(const void* to, size_t capacity, const void* from, size_t bytes, int kind) {
  Memory& memory = Memory::Get();
  if (bytes > capacity) return std::to_string(bytes) + " bytes into " + std::to_string(capacity);
  if (kind < ACL_MEMCPY_HOST_TO_HOST || kind > ACL_MEMCPY_DEVICE_TO_DEVICE) return "kind " + std::to_string(kind);
  const bool to_device = kind == ACL_MEMCPY_HOST_TO_DEVICE || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  const bool from_device = kind == ACL_MEMCPY_DEVICE_TO_HOST || kind == ACL_MEMCPY_DEVICE_TO_DEVICE;
  if (bytes == 0) return "";
  if (memory.Owns(to) != to_device || memory.Owns(from) != from_device) {
    return "kind " + std::to_string(kind) + " from " + Text(from) + " to " + Text(to);
  }
  if (to_device && !memory.Mapped(to, bytes)) return "no memory at " + Text(to);
  if (from_device && !memory.Mapped(from, bytes)) return "no memory at " + Text(from);
  return "";
}

aclError Set(void* address, size_t capacity, int value, size_t bytes, Stream* stream) {
  if (bytes > capacity || (bytes > 0 && !Memory::Get().Mapped(address, bytes))) {
    return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemset: no memory at " + Text(address));
  }
  char* data = Memory::Get().Alias(address);
  if (stream == nullptr) {
    std::memset(data, value, bytes);
  } else {
    stream->Put("memset", [=]() -> std::string {
      std::memset(data, value, bytes);
      return "";
    });
  }
  return ACL_SUCCESS;
}

using EventHandle = std::shared_ptr<Event>;

EventHandle& Handle(aclrtEvent event) { return *static_cast<EventHandle*>(event); }

aclError CreateEvent(aclrtEvent* event) {
  *event = new EventHandle(std::make_shared<Event>());
  Count("events", 1);
  return ACL_SUCCESS;
}

uint32_t Cores(int type) {
  const auto cores = static_cast<uint32_t>(Option("CORES"));
  return type == ACL_RT_DEV_RES_CUBE_CORE ? cores : 2 * cores;
}

}  // namespace
}  // namespace ascend_virtual

using namespace ascend_virtual;  // NOLINT: the functions below are this library's whole interface

// Finds the stream of a handle, or returns from the function.
#define FIND_STREAM(found, handle)                                                                            \
  const std::shared_ptr<Stream> found = Stream::Of(handle);                                                   \
  if (found == nullptr) {                                                                                     \
    return Fail(ACL_ERROR_RT_STREAM_CONTEXT, std::string(__func__) + ": there is no stream " + Text(handle)); \
  }
#define REQUIRE_CONTEXT()                                                                              \
  if (t_context == nullptr) {                                                                          \
    return Fail(ACL_ERROR_RT_CONTEXT_NULL, std::string(__func__) + ": this thread has set no device"); \
  }

ASCEND_VIRTUAL_API aclError aclInit(const char*) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API aclError aclFinalize() { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API const char* aclGetRecentErrMsg() {
  thread_local std::string text;
  text = TakeErrors();
  return text.empty() ? nullptr : text.c_str();
}
ASCEND_VIRTUAL_API const char* aclrtGetSocName() { return "Ascend910B1"; }
ASCEND_VIRTUAL_API aclError aclsysGetCANNVersion(int, aclCANNPackageVersion* version) {
  *version = {"9.0.0", "9", "0", "0", "0", ""};
  return ACL_SUCCESS;
}

// Devices and contexts.
ASCEND_VIRTUAL_API aclError aclrtGetDeviceCount(uint32_t* count) {
  *count = 1;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtSetDevice(int32_t device) {
  if (device != 0) return Fail(ACL_ERROR_RT_PARAM_INVALID, "there is no device " + std::to_string(device));
  t_context = &g_context;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtResetDevice(int32_t) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API aclError aclrtGetDevice(int32_t* device) {
  *device = 0;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtGetRunMode(int* mode) {
  *mode = ACL_HOST;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtCreateContext(aclrtContext* context, int32_t) {
  *context = t_context = &g_context;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtDestroyContext(aclrtContext) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API aclError aclrtGetCurrentContext(aclrtContext* context) {
  *context = t_context;
  return t_context != nullptr ? ACL_SUCCESS : ACL_ERROR_RT_CONTEXT_NULL;
}
ASCEND_VIRTUAL_API aclError aclrtSetCurrentContext(aclrtContext context) {
  t_context = context;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtDeviceGetStreamPriorityRange(int32_t* least, int32_t* greatest) {
  *least = 7;
  *greatest = 0;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtDeviceGetBareTgid(int32_t* process) {
  *process = 1;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtDeviceCanAccessPeer(int32_t* can, int32_t, int32_t) {
  *can = 0;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtGetDeviceResLimit(int32_t, int type, uint32_t* value) {
  *value = Cores(type);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtGetStreamResLimit(aclrtStream, int type, uint32_t* value) {
  *value = Cores(type);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtGetResInCurrentThread(int type, uint32_t* value) {
  *value = Cores(type);
  return ACL_SUCCESS;
}

// Memory.
ASCEND_VIRTUAL_API aclError aclrtGetMemInfo(int, size_t* available, size_t* total) {
  *total = Memory::Get().Capacity();
  *available = *total - std::min(*total, Memory::Get().Used());
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtMalloc(void** address, size_t bytes, int) {
  REQUIRE_CONTEXT();
  *address = Memory::Get().Allocate(bytes);
  if (*address != nullptr) return ACL_SUCCESS;
  return Fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "aclrtMalloc: no " + std::to_string(bytes) + " bytes of memory");
}
ASCEND_VIRTUAL_API aclError aclrtMallocAlign32(void** address, size_t bytes, int policy) {
  return aclrtMalloc(address, bytes, policy);
}
ASCEND_VIRTUAL_API aclError aclrtFree(void* address) {
  if (Memory::Get().Free(address)) return ACL_SUCCESS;
  return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtFree: nothing was allocated at " + Text(address));
}
ASCEND_VIRTUAL_API aclError aclrtMallocHost(void** address, size_t bytes) {
  const size_t rounded = (bytes + 63) / 64 * 64;
  *address = aligned_alloc(64, rounded);
  if (*address == nullptr) return ACL_ERROR_RT_MEMORY_ALLOCATION;
  const std::lock_guard lock(PinnedMemory().mutex);
  PinnedMemory().ranges[static_cast<char*>(*address)] = rounded;
  Count("host allocations", 1);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtFreeHost(void* address) {
  {
    const std::lock_guard lock(PinnedMemory().mutex);
    if (PinnedMemory().ranges.erase(static_cast<char*>(address)) == 0) {
      return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtFreeHost: nothing was allocated at " + Text(address));
    }
  }
  std::free(address);
  Count("host allocations", -1);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtReserveMemAddress(void** address, size_t bytes, size_t, void*, uint64_t) {
  *address = Memory::Get().Reserve(bytes);
  return *address != nullptr ? ACL_SUCCESS : ACL_ERROR_RT_MEMORY_ALLOCATION;
}
ASCEND_VIRTUAL_API aclError aclrtReleaseMemAddress(void* address) {
  return Memory::Get().Release(address) ? ACL_SUCCESS : ACL_ERROR_RT_PARAM_INVALID;
}
ASCEND_VIRTUAL_API aclError aclrtMallocPhysical(aclrtDrvMemHandle* handle, size_t bytes, const aclrtPhysicalMemProp*,
                                                uint64_t) {
  *handle = Memory::Get().AllocatePhysical(bytes);
  if (*handle != nullptr) return ACL_SUCCESS;
  return Fail(ACL_ERROR_RT_MEMORY_ALLOCATION, "aclrtMallocPhysical: no " + std::to_string(bytes) + " bytes of memory");
}
ASCEND_VIRTUAL_API aclError aclrtFreePhysical(aclrtDrvMemHandle handle) {
  return Memory::Get().FreePhysical(handle) ? ACL_SUCCESS : ACL_ERROR_RT_PARAM_INVALID;
}
ASCEND_VIRTUAL_API aclError aclrtMapMem(void* address, size_t bytes, size_t, aclrtDrvMemHandle handle, uint64_t) {
  if (Memory::Get().Map(address, bytes, handle)) return ACL_SUCCESS;
  return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMapMem: cannot map memory to " + Text(address));
}
ASCEND_VIRTUAL_API aclError aclrtUnmapMem(void* address) {
  return Memory::Get().Unmap(address) ? ACL_SUCCESS : ACL_ERROR_RT_PARAM_INVALID;
}
ASCEND_VIRTUAL_API aclError aclrtMemcpy(void* to, size_t capacity, const void* from, size_t bytes, int kind) {
  REQUIRE_CONTEXT();
  const std::string refusal = Refusal(to, capacity, from, bytes, kind);
  if (!refusal.empty()) return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemcpy: " + refusal);
  std::memmove(Memory::Get().Alias(to), Memory::Get().Alias(from), bytes);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtMemcpyAsync(void* to, size_t capacity, const void* from, size_t bytes, int kind,
                                             aclrtStream stream) {
  REQUIRE_CONTEXT();
  const std::string refusal = Refusal(to, capacity, from, bytes, kind);
  if (!refusal.empty()) return Fail(ACL_ERROR_RT_PARAM_INVALID, "aclrtMemcpyAsync: " + refusal);
  FIND_STREAM(found, stream);
  char* target = Memory::Get().Alias(to);
  std::shared_ptr<std::string> copied;  // CANN takes a copy of the host's memory that is not pinned before it returns
  const char* source = Memory::Get().Alias(from);
  if (!Memory::Get().Owns(from) && !IsPinned(from, bytes)) {
    copied = std::make_shared<std::string>(static_cast<const char*>(from), bytes);
    source = copied->data();
  }
  found->Put("copy of " + std::to_string(bytes) + " bytes", [=]() -> std::string {
    std::memmove(target, source, bytes);
    (void)copied;
    return "";
  });
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtMemset(void* address, size_t capacity, int32_t value, size_t bytes) {
  return Set(address, capacity, value, bytes, nullptr);
}
ASCEND_VIRTUAL_API aclError aclrtMemsetAsync(void* address, size_t capacity, int32_t value, size_t bytes,
                                             aclrtStream stream) {
  FIND_STREAM(found, stream);
  return Set(address, capacity, value, bytes, found.get());
}

// Streams.
ASCEND_VIRTUAL_API aclError aclrtCreateStream(aclrtStream* stream) {
  REQUIRE_CONTEXT();
  *stream = Stream::Create();
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtCreateStreamWithConfig(aclrtStream* stream, uint32_t, uint32_t) {
  return aclrtCreateStream(stream);
}
ASCEND_VIRTUAL_API aclError aclrtDestroyStream(aclrtStream stream) {
  if (Stream::Destroy(stream)) return ACL_SUCCESS;
  return Fail(ACL_ERROR_RT_STREAM_CONTEXT, "aclrtDestroyStream: there is no stream " + Text(stream));
}
ASCEND_VIRTUAL_API aclError aclrtDestroyStreamForce(aclrtStream stream) { return aclrtDestroyStream(stream); }
ASCEND_VIRTUAL_API aclError aclrtSynchronizeStream(aclrtStream stream) {
  FIND_STREAM(found, stream);
  return found->Synchronize();
}
ASCEND_VIRTUAL_API aclError aclrtSynchronizeStreamWithTimeout(aclrtStream stream, int32_t) {
  return aclrtSynchronizeStream(stream);
}
ASCEND_VIRTUAL_API aclError aclrtSynchronizeDevice() { return Stream::SynchronizeAll(); }
ASCEND_VIRTUAL_API aclError aclrtSynchronizeDeviceWithTimeout(int32_t) { return Stream::SynchronizeAll(); }
ASCEND_VIRTUAL_API aclError aclrtStreamQuery(aclrtStream stream, int* status) {
  FIND_STREAM(found, stream);
  *status = found->Idle() ? ACL_STREAM_STATUS_COMPLETE : ACL_STREAM_STATUS_NOT_READY;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtLaunchCallback(aclrtCallback function, void* data, int, aclrtStream stream) {
  FIND_STREAM(found, stream);
  found->Put(
      "callback",
      [=]() -> std::string {
        function(data);
        return "";
      },
      true);
  return ACL_SUCCESS;
}
// For each stream a thread of MindSpore asks for callbacks, again and again until the stream ends. Callbacks run on the
// stream's own thread here, so there are none to return. The function waits, because these threads would take all CPUs.
ASCEND_VIRTUAL_API aclError aclrtProcessReport(int32_t milliseconds) {
  constexpr int32_t kLongest = 20;
  std::this_thread::sleep_for(
      std::chrono::milliseconds(milliseconds < 0 ? kLongest : std::min(milliseconds, kLongest)));
  return ACL_SUCCESS;
}

// Events.
ASCEND_VIRTUAL_API aclError aclrtCreateEventWithFlag(aclrtEvent* event, uint32_t) { return CreateEvent(event); }
ASCEND_VIRTUAL_API aclError aclrtCreateEventExWithFlag(aclrtEvent* event, uint32_t) { return CreateEvent(event); }
ASCEND_VIRTUAL_API aclError aclrtDestroyEvent(aclrtEvent event) {
  delete &Handle(event);  // a stream that has not reached the event yet holds the event itself
  Count("events", -1);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtRecordEvent(aclrtEvent event, aclrtStream stream) {
  FIND_STREAM(found, stream);
  Event::Record(Handle(event), *found);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtStreamWaitEvent(aclrtStream stream, aclrtEvent event) {
  FIND_STREAM(found, stream);
  Event::Wait(Handle(event), *found);
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtSynchronizeEvent(aclrtEvent event) {
  Handle(event)->Synchronize();
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtResetEvent(aclrtEvent, aclrtStream) { return ACL_SUCCESS; }
ASCEND_VIRTUAL_API aclError aclrtQueryEventStatus(aclrtEvent event, int* status) {
  *status = Handle(event)->Complete() ? ACL_EVENT_RECORDED_STATUS_COMPLETE : ACL_EVENT_RECORDED_STATUS_NOT_READY;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtEventElapsedTime(float* milliseconds, aclrtEvent from, aclrtEvent to) {
  *milliseconds = static_cast<float>(Handle(to)->Microseconds() - Handle(from)->Microseconds()) / 1000;
  return ACL_SUCCESS;
}
ASCEND_VIRTUAL_API aclError aclrtEventGetTimestamp(aclrtEvent event, uint64_t* microseconds) {
  *microseconds = Handle(event)->Microseconds();
  return ACL_SUCCESS;
}

ASCEND_VIRTUAL_API size_t aclDataTypeSize(int dtype) {
  switch (dtype) {
    case ACL_INT8:
    case ACL_UINT8:
    case ACL_BOOL:
      return 1;
    case ACL_FLOAT16:
    case ACL_BF16:
    case ACL_INT16:
    case ACL_UINT16:
      return 2;
    case ACL_FLOAT:
    case ACL_INT32:
    case ACL_UINT32:
      return 4;
    case ACL_INT64:
    case ACL_UINT64:
    case ACL_DOUBLE:
      return 8;
    default:
      return 0;
  }
}
