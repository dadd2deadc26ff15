// The floating-point environment in which kernels run.
#pragma once

#include <cfenv>

namespace ms_dsv32::cpu {

// Rounds to nearest and keeps subnormals in its scope, and restores the thread's own environment after it. MindSpore's
// actor threads flush subnormals to zero, so a graph would give other bits than a direct call. A thread also starts
// with the environment of the thread that made it.
//
// Dot products of bfloat16 ignore the environment: vdpbf16ps, AMX's tdpbf16ps and Arm's BFDOT and BFMMLA round to
// nearest, take subnormal factors for zero and make subnormal sums zero (docs/accuracy.md).
class DefaultFpEnv {
 public:
  DefaultFpEnv() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~DefaultFpEnv() { std::fesetenv(&saved_); }
  DefaultFpEnv(const DefaultFpEnv&) = delete;
  DefaultFpEnv& operator=(const DefaultFpEnv&) = delete;

 private:
  std::fenv_t saved_;
};

}  // namespace ms_dsv32::cpu
