// The floating-point environment in which kernels run.
#pragma once

#include <cfenv>

namespace ms_dsv32::cpu {

// Rounding to nearest, subnormals kept, for the time of its scope; then the thread's own environment again. MindSpore's
// actor threads flush subnormals to zero (a graph would give other bits than a direct call), and a thread starts with
// the environment of the thread that made it.
//
// Dot products of bfloat16 heed no environment: vdpbf16ps, AMX's tdpbf16ps and Arm's BFDOT and BFMMLA round to nearest,
// take subnormal factors for zero and make subnormal sums zero (docs/accuracy.md).
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
