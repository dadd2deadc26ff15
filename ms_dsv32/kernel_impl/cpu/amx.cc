#include "ms_dsv32/kernel_impl/cpu/amx.h"

#include <cstdlib>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ms_dsv32::cpu {
namespace {

bool Request() {
  // Whoever forces an instruction set gets that one alone: so its own products can be tested on a CPU with AMX.
  const char* forced = std::getenv("MS_DSV32_CPU_ISA");
  if (forced != nullptr && *forced != '\0') return false;
#if defined(__x86_64__) && defined(__linux__)
  // CPUID 7.0, EDX: bit 24 is AMX-TILE, bit 25 AMX-INT8.
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx >> 24 & 3) != 3) return false;
  // From <asm/prctl.h> and the processor's manual, as older headers lack them; older kernels refuse the call.
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // state component XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool HasAmxInt8() {
  static const bool has = Request();
  return has;
}

}  // namespace ms_dsv32::cpu
