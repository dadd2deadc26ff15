#include "ms_dsv32/kernel_impl/cpu/call_wait.h"

#include <pthread.h>

#include <atomic>
#include <optional>

#include "ms_dsv32/kernel_impl/cpu/futex.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32 {
namespace {

// MindSpore begins a call within a millisecond; this is how late an error is raised that keeps it from doing so.
constexpr timespec kPatience{0, 100'000'000};

std::atomic<uint32_t> ended_calls{0};
std::atomic<int> running_calls{0};
std::atomic<int> sleeping{0};

// The threads that run calls and sleep do not exist in the child.
const int at_fork = pthread_atfork(nullptr, nullptr, [] {
  running_calls.store(0);
  sleeping.store(0);
});

thread_local std::optional<cpu::Helper> helper;

}  // namespace

RunningCall::RunningCall() {
  helper.reset();  // the call has come to the very thread that expects it: mindspore.runtime.launch_blocking
  running_calls.fetch_add(1);
}

RunningCall::~RunningCall() {
  running_calls.fetch_sub(1);
  ended_calls.fetch_add(1);
  // Each side writes its word before it reads the other's, so at least one of them sees the other.
  if (sleeping.load() > 0) cpu::FutexWake(ended_calls, INT32_MAX);
}

uint32_t ExpectCall() {
  helper.emplace();
  return ended_calls.load();
}

void WaitForCall(uint32_t expected) {
  if (helper.has_value()) helper->Work(ended_calls, expected);
  helper.reset();
  sleeping.fetch_add(1);
  while (ended_calls.load() == expected) {
    const bool woken = cpu::FutexWait(ended_calls, expected, &kPatience);
    if (!woken && running_calls.load() == 0) break;
  }
  sleeping.fetch_sub(1);
}

void ForgetCall() { helper.reset(); }

}  // namespace ms_dsv32
