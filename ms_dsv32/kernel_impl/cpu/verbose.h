// What MS_DSV32_VERBOSE tells on standard error: the library, and the choices that kernels make from the sizes of a
// call.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_VERBOSE_H_
#define MS_DSV32_KERNEL_IMPL_CPU_VERBOSE_H_

#include <stdint.h>

namespace ms_dsv32::cpu {

// Whether MS_DSV32_VERBOSE is set, to anything but 0. Read when the library is loaded, so that a call has one branch.
__attribute__((visibility("hidden"))) extern const bool kVerbose;

// Tells the instruction set, the number of threads and where it is from, and the path of the library; again only when
// one of them has changed.
__attribute__((visibility("hidden"))) void TellLibrary();

// A choice of a kernel. docs/environment.md explains the names.
struct PlanItem {
  const char* name;
  int64_t value;
};

__attribute__((visibility("hidden"))) void TellPlan(const char* op, const PlanItem* items, int count);

// Tells what an operator's kernel has chosen, unless it has told the same before. Kernels pass the variables that they
// work by, so that the text is true, and ask kVerbose first.
template <int kCount>
__attribute__((always_inline)) inline void TellPlan(const char* op, const PlanItem (&items)[kCount]) {
  TellPlan(op, items, kCount);
}

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_VERBOSE_H_
