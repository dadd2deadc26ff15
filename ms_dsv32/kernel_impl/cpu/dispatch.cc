#include "ms_dsv32/kernel_impl/cpu/dispatch.h"

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ms_dsv32::cpu {

// Each instruction set is a namespace with the five kernels, defined by the <op>.cc files compiled for it.
#define MS_DSV32_DECLARE_ISA(isa)                                             \
  namespace isa {                                                             \
  void MlaPrologQuant(const MlaPrologQuantParams&);                           \
  void LightningIndexerPrologQuant(const LightningIndexerPrologQuantParams&); \
  void MlaIndexerPrologQuant(const MlaIndexerPrologQuantParams&);             \
  void SparseFlashAttentionQuant(const SparseFlashAttentionQuantParams&);     \
  void LightningIndexerQuant(const LightningIndexerQuantParams&);             \
  }
#define MS_DSV32_TABLE(isa, supported)                                                                  \
  {                                                                                                     \
#isa, supported, isa::MlaPrologQuant, isa::LightningIndexerPrologQuant, isa::MlaIndexerPrologQuant, \
        isa::SparseFlashAttentionQuant, isa::LightningIndexerQuant                                      \
  }

MS_DSV32_DECLARE_ISA(portable)
#if defined(__x86_64__)
MS_DSV32_DECLARE_ISA(avx2)
MS_DSV32_DECLARE_ISA(avx512)
MS_DSV32_DECLARE_ISA(avx512_bf16)
#elif defined(__aarch64__)
MS_DSV32_DECLARE_ISA(neon_dotprod)
MS_DSV32_DECLARE_ISA(neon_bf16)
#endif

namespace {

bool Always() { return true; }

#if defined(__x86_64__)
// F16C and AVX512_BF16 from CPUID's bits: gcc before 11 or clang 14 know no such names in __builtin_cpu_supports. The
// bits speak for the CPU alone; avx2 and avx512f, asked for as well, tell whether the system saves the registers.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}

bool HasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c(); }
#if defined(MS_DSV32_SIMDE)
// The AVX-512 sources were compiled to AVX2 instructions (to be tested on a CPU without AVX-512).
bool HasAvx512() { return HasAvx2(); }
bool HasAvx512Bf16() { return HasAvx2(); }
#else
bool HasAvx512() {
  return HasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
bool HasAvx512Bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return HasAvx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 5 & 1) != 0;
}
#endif
#elif defined(__aarch64__)
// Bits of <asm/hwcap.h>, written out because older kernel headers lack some of the names.
bool HasNeonDotprod() {
  constexpr unsigned long kFphp = 1UL << 9, kAsimdhp = 1UL << 10, kAsimddp = 1UL << 20;
  constexpr unsigned long kNeeded = kFphp | kAsimdhp | kAsimddp;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
}
bool HasNeonBf16() {
  constexpr unsigned long kBf16 = 1UL << 14;
  return HasNeonDotprod() && (getauxval(AT_HWCAP2) & kBf16) != 0;
}
#endif

// Best first.
constexpr KernelTable kTables[] = {
#if defined(__x86_64__)
    MS_DSV32_TABLE(avx512_bf16, HasAvx512Bf16),
    MS_DSV32_TABLE(avx512, HasAvx512),
    MS_DSV32_TABLE(avx2, HasAvx2),
#elif defined(__aarch64__)
    MS_DSV32_TABLE(neon_bf16, HasNeonBf16),
    MS_DSV32_TABLE(neon_dotprod, HasNeonDotprod),
#endif
    MS_DSV32_TABLE(portable, Always),
};

const KernelTable& Choose() {
  const char* forced = std::getenv("MS_DSV32_CPU_ISA");
  for (const KernelTable& table : kTables) {
    if (forced == nullptr || *forced == '\0') {
      if (table.supported()) return table;
    } else if (std::strcmp(forced, table.isa) == 0) {
      if (table.supported()) return table;
      throw std::runtime_error(std::string("MS_DSV32_CPU_ISA=") + forced +
                               ": this CPU lacks its instructions; it has " + IsaNames(true));
    }
  }
  throw std::runtime_error(std::string("MS_DSV32_CPU_ISA=") + forced + " is unknown; this library has " +
                           IsaNames(false));
}

std::string JoinNames(bool supported_only) {
  std::string names;
  for (const KernelTable& table : kTables) {
    if (!supported_only || table.supported()) names += (names.empty() ? "" : ",") + std::string(table.isa);
  }
  return names;
}

}  // namespace

const KernelTable& Kernels() {
  static const KernelTable& table = Choose();
  return table;
}

const char* IsaNames(bool supported_only) {
  static const std::string all = JoinNames(false);
  static const std::string supported = JoinNames(true);
  return (supported_only ? supported : all).c_str();
}

}  // namespace ms_dsv32::cpu
