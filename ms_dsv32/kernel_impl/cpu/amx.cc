#include "ms_dsv32/kernel_impl/cpu/amx.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ms_dsv32::cpu {
namespace {

bool Request() {
#if defined(__x86_64__) && defined(__linux__)
  // CPUID 7.0, EDX: bit 22 is AMX-BF16, bit 24 AMX-TILE, bit 25 AMX-INT8.
  constexpr unsigned kNeeded = 1U << 22 | 1U << 24 | 1U << 25;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kNeeded) != kNeeded) return false;
  // From <asm/prctl.h> and the processor's manual, because older headers lack them. Older kernels refuse the call.
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // state component XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool HasAmx() {
  static const bool has = Request();
  return has;
}

}  // namespace ms_dsv32::cpu
