// How the parts of the core check report errors, and the checks that its main file calls.
#ifndef MS_DSV32_TESTS_KERNELS_CORE_CHECK_H_
#define MS_DSV32_TESTS_KERNELS_CORE_CHECK_H_

#include <cstdarg>
#include <cstdio>

namespace ms_dsv32::cpu::MS_DSV32_ISA {

inline int failures = 0;

__attribute__((format(printf, 2, 3))) inline void Expect(bool ok, const char* format, ...) {
  if (ok) return;
  ++failures;
  va_list args;
  va_start(args, format);
  std::vprintf(format, args);
  va_end(args);
  std::printf("\n");
}

void CheckThreads();
void CheckScratch();
void CheckQuotas();
void CheckGroups();

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_TESTS_KERNELS_CORE_CHECK_H_
