// What a tiling function knows of the device. No header of CANN: tests include it too.
#ifndef MS_DSV32_ASCENDC_OP_HOST_PLATFORM_H_
#define MS_DSV32_ASCENDC_OP_HOST_PLATFORM_H_

#include <cstdint>

#include "ms_dsv32/kernel_impl/ascendc/op_kernel/dims.h"

namespace ms_dsv32::ascendc {

// AI cores of the device (each one AIC and two AIVs) and the bytes that a kernel may use of each memory of a core.
struct Platform {
  uint32_t cores;
  uint32_t ub, l1, l0a, l0b, l0c;
};

// NPU arch 2201. The runtime takes 256 bytes of L1 from MIX kernels, as of UB.
constexpr Platform Arch2201(uint32_t cores) { return {cores, kUbBytes, 524288 - 256, 65536, 65536, 131072}; }

// Why no tiling function can use the device, or null. They divide by the number of cores.
constexpr const char* Refusal(const Platform& platform) {
  return platform.cores < 1 ? "the device has no AI core" : nullptr;
}

// Why no kernel takes so many query heads, or null.
constexpr const char* HeadsRefusal(uint32_t n_q) { return n_q < 1 || n_q > 128 ? "n_q must be in [1, 128]" : nullptr; }

// Why a kernel that streams weights, a prolog or the epilog, takes no such call, or null.
constexpr uint32_t kStreamL1Bytes = 491520, kStreamL0Bytes = 65536, kStreamL0CBytes = 131072;
static_assert(kUbBytes == 196352, "the last text names it, and the texts before it the three numbers above");
constexpr const char* StreamRefusal(uint32_t t, const Platform& platform) {
  if (t > 65536) return "t must be at most 65536: a call is one workspace";
  if (platform.l1 < kStreamL1Bytes) return "L1 must hold 491520 bytes: left operands and slots of weights";
  if (platform.l0a < kStreamL0Bytes || platform.l0b < kStreamL0Bytes) return "L0A and L0B must hold 65536 bytes each";
  if (platform.l0c < kStreamL0CBytes) return "L0C must hold 131072 bytes: two halves";
  return platform.ub < kUbBytes ? "UB must hold 196352 bytes" : nullptr;
}

// op_kernel/copy.h has CeilDiv and RoundUp for the device, with __aicore__, which a host compiler does not know.
namespace tiling {
constexpr uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
constexpr uint64_t CeilDiv(uint64_t a, uint64_t b) { return (a + b - 1) / b; }
constexpr uint32_t RoundUp(uint32_t a, uint32_t b) { return CeilDiv(a, b) * b; }
// GM lines have 512 bytes.
constexpr uint64_t AlignLine(uint64_t bytes) { return CeilDiv(bytes, uint64_t{512}) * 512; }
}  // namespace tiling

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_OP_HOST_PLATFORM_H_
