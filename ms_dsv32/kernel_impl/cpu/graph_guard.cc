#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"

#include <sys/prctl.h>

#include <cstdio>
#include <cstring>

// Python's, for the loader to find: the library is not linked against it, and serves processes without it.
extern "C" void* PyGILState_GetThisThreadState() __attribute__((weak));

namespace ms_dsv32 {
namespace {

constexpr int kNameSize = 16;  // of a Linux thread name, its end included

bool IsPythonThread() { return PyGILState_GetThisThreadState == nullptr || PyGILState_GetThisThreadState() != nullptr; }

bool HasProcessName() {
  char thread[kNameSize] = {};
  char process[kNameSize + 1] = {};
  if (prctl(PR_GET_NAME, thread) != 0) return true;
  std::FILE* file = std::fopen("/proc/self/comm", "r");
  if (file == nullptr) return true;
  const bool read = std::fgets(process, sizeof(process), file) != nullptr;
  std::fclose(file);
  process[std::strcspn(process, "\n")] = '\0';
  return !read || std::strcmp(thread, process) == 0;
}

}  // namespace

bool InRunTimeBranch() { return !IsPythonThread() && HasProcessName(); }

}  // namespace ms_dsv32
