// Waiting for a call that MindSpore runs on another thread. MindSpore's own wait polls without a pause: it keeps a core
// busy that the kernel's threads need. Here the waiting thread is one of the kernel's threads, and sleeps where there
// is nothing for it to do.
#pragma once

#include <cstdint>

namespace ms_dsv32 {

// A call of a kernel, from its beginning to its end.
class RunningCall {
 public:
  RunningCall();
  ~RunningCall();
  RunningCall(const RunningCall&) = delete;
  RunningCall& operator=(const RunningCall&) = delete;
};

// To be called before a call is given to MindSpore. Returns what WaitForCall wants, or nothing is wanted of:
uint32_t ExpectCall();

// Returns when a call has ended since ExpectCall, or when none runs and none has begun for a while: one that failed
// before it reached the library never will. It is a way to spend the time and promises nothing, as the call that ended
// may be one of yet another thread: MindSpore still has to be asked for the result.
void WaitForCall(uint32_t expected);

// Instead of WaitForCall: MindSpore did not take the call.
void ForgetCall();

}  // namespace ms_dsv32
