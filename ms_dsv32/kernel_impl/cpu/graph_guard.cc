#include "ms_dsv32/kernel_impl/cpu/graph_guard.h"

#include <sys/prctl.h>

#include <cstdio>
#include <cstring>

// Python's functions. The loader finds them if they are there: the library is not linked against Python, and also
// serves processes without it.
#define MS_DSV32_OPTIONAL __attribute__((weak, visibility("default")))
extern "C" {
MS_DSV32_OPTIONAL int PyGILState_Check();
MS_DSV32_OPTIONAL void* PyGILState_GetThisThreadState();
MS_DSV32_OPTIONAL void* PyEval_GetFrame();
}

namespace ms_dsv32 {
namespace {

constexpr int kNameSize = 16;  // bytes of a Linux thread name, with the terminating zero

bool RunsPythonCode() {
  if (PyGILState_Check == nullptr || PyGILState_GetThisThreadState == nullptr || PyEval_GetFrame == nullptr)
    return true;
  if (PyGILState_Check()) return PyEval_GetFrame() != nullptr;
  return PyGILState_GetThisThreadState() != nullptr;  // one of Python's threads that has released the lock for a while
}

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

bool InRunTimeBranch() { return !RunsPythonCode() && HasProcessName(); }

}  // namespace ms_dsv32
