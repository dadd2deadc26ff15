#include "ms_dsv32/kernel_impl/cpu/dispatch.h"

#include <array>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#if defined(__x86_64__)
#include <cpuid.h>

#include "ms_dsv32/kernel_impl/cpu/amx.h"
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace ms_dsv32::cpu {
namespace {

[[maybe_unused]] bool Has_portable() { return true; }

#if defined(__x86_64__)
// F16C and AVX512_BF16 are read from CPUID's bits, because gcc before 11 and clang 14 do not know their names in
// __builtin_cpu_supports. The bits tell about the CPU only. avx2 and avx512f are required as well, and tell whether the
// system saves the registers.
bool HasF16c() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(1, 0, &eax, &ebx, &ecx, &edx) != 0 && (ecx >> 29 & 1) != 0;
}

bool Has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && HasF16c(); }
#if defined(MS_DSV32_SIMDE)
// The AVX-512 sources are compiled to AVX2 instructions here, to be tested on a CPU without AVX-512.
[[maybe_unused]] bool Has_avx512() { return Has_avx2(); }
[[maybe_unused]] bool Has_avx512_bf16() { return Has_avx2(); }
#else
bool Has_avx512() {
  return Has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
[[maybe_unused]] bool Has_avx512_bf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return Has_avx512() && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 5 & 1) != 0;
}
[[maybe_unused]] bool Has_amx() { return Has_avx512_bf16() && HasAmx(); }
#endif
#elif defined(__aarch64__)
// Bits of <asm/hwcap.h>, written out because older kernel headers lack some of the names.
bool Has_neon_dotprod() {
  constexpr unsigned long kFphp = 1UL << 9, kAsimdhp = 1UL << 10, kAsimddp = 1UL << 20;
  constexpr unsigned long kNeeded = kFphp | kAsimdhp | kAsimddp;
  return (getauxval(AT_HWCAP) & kNeeded) == kNeeded;
}
[[maybe_unused]] bool Has_neon_bf16() {
  constexpr unsigned long kI8mm = 1UL << 13, kBf16 = 1UL << 14, kNeeded = kI8mm | kBf16;
  return Has_neon_dotprod() && (getauxval(AT_HWCAP2) & kNeeded) == kNeeded;
}
#endif

}  // namespace

// Each instruction set is a namespace with the kernels, which the <op>.cc files compiled for it define. Has_<isa> tells
// whether this CPU has it. MS_DSV32_ISAS(F), which applies F to those that are compiled, newest first, comes from
// setup.py.
#define MS_DSV32_DECLARE(Entry, name) void Entry(const Entry##Params&);
#define MS_DSV32_ADDRESS(Entry, name) Entry,
#define MS_DSV32_TABLE(isa)                                                          \
  namespace isa {                                                                    \
  MS_DSV32_KERNELS(MS_DSV32_DECLARE)                                                 \
  constexpr KernelTable kTable{#isa, Has_##isa, MS_DSV32_KERNELS(MS_DSV32_ADDRESS)}; \
  }
#define MS_DSV32_TABLE_OF(isa) isa::kTable,

MS_DSV32_ISAS(MS_DSV32_TABLE)

namespace {

constexpr std::array kTables = {MS_DSV32_ISAS(MS_DSV32_TABLE_OF)};

// Whether vdpbf16ps does fewer products than the float32 units, as on Intel's cores: 44 against 72 GMAC/s were measured
// on one of Sapphire Rapids' generation, where attention takes 7.5 ms a token with it and 4.6 without
// (docs/performance.md). On AMD's it does twice as many.
bool HasSlowBf16Dots() {
#if defined(__x86_64__)
  return __builtin_cpu_is("intel");
#else
  return false;
#endif
}

bool IsNamed(const KernelTable& table, const char* isa) { return std::strcmp(table.isa, isa) == 0; }

// All tables, best first on this CPU.
const auto& Tables() {
  static const auto tables = [] {
    auto order = kTables;
    for (size_t i = 1; i < order.size() && HasSlowBf16Dots(); ++i) {
      if (IsNamed(order[i - 1], "avx512_bf16") && IsNamed(order[i], "avx512")) std::swap(order[i - 1], order[i]);
    }
    return order;
  }();
  return tables;
}

const KernelTable& Choose() {
  const char* forced = std::getenv("MS_DSV32_CPU_ISA");
  for (const KernelTable& table : Tables()) {
    if (forced == nullptr || *forced == '\0') {
      if (table.supported()) return table;
    } else if (IsNamed(table, forced)) {
      if (table.supported()) return table;
      throw std::runtime_error(std::string("MS_DSV32_CPU_ISA=") + forced +
                               ": this CPU lacks its instructions; it has " + IsaNames(true));
    }
  }
  if (forced == nullptr || *forced == '\0') {
    throw std::runtime_error("this CPU has none of the instruction sets of this library, " +
                             std::string(IsaNames(false)));
  }
  throw std::runtime_error(std::string("MS_DSV32_CPU_ISA=") + forced + " is unknown; this library has " +
                           IsaNames(false));
}

std::string JoinNames(bool supported_only) {
  std::string names;
  for (const KernelTable& table : Tables()) {
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
