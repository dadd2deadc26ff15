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

// Why a kernel that takes all of UB cannot use the device.
constexpr char kTooLittleUb[] = "UB must hold 196352 bytes";
static_assert(kUbBytes == 196352, "kTooLittleUb names it");

// Why no tiling function can use the device, or null. They divide by the number of cores.
constexpr const char* Refusal(const Platform& platform) {
  return platform.cores < 1 ? "the device has no AI core" : nullptr;
}

// op_kernel/copy.h has these for the device, with __aicore__, which a host compiler does not know.
namespace tiling {
constexpr uint32_t CeilDiv(uint32_t a, uint32_t b) { return (a + b - 1) / b; }
constexpr uint32_t RoundUp(uint32_t a, uint32_t b) { return CeilDiv(a, b) * b; }
}  // namespace tiling

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_OP_HOST_PLATFORM_H_
