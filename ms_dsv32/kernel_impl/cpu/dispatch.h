// The kernels of one instruction set, chosen once when the library is first used.
#pragma once

#include "ms_dsv32/kernel_impl/contract/generated/operators.h"

namespace ms_dsv32 {

#define MS_DSV32_DECLARE_PARAMS(Entry, name) struct Entry##Params;
MS_DSV32_KERNELS(MS_DSV32_DECLARE_PARAMS)
#undef MS_DSV32_DECLARE_PARAMS

}  // namespace ms_dsv32

namespace ms_dsv32::cpu {

// The kernel of an operator is the member of its name.
struct KernelTable {
  const char* isa;
  bool (*supported)();
#define MS_DSV32_POINTER(Entry, name) void (*name)(const Entry##Params&);
  MS_DSV32_KERNELS(MS_DSV32_POINTER)
#undef MS_DSV32_POINTER
};

// The best table that this CPU supports, or the one that MS_DSV32_CPU_ISA names. Throws std::runtime_error if that name
// is unknown or the CPU lacks its instructions: a forced path is never replaced silently.
const KernelTable& Kernels();

// Names of all tables in this library, best first, separated by ','. `supported_only` leaves out what this CPU lacks.
const char* IsaNames(bool supported_only);

}  // namespace ms_dsv32::cpu
