// Runs a call by the kernel of the best instruction set that the CPU has.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_KERNEL_CALLS_H_
#define MS_DSV32_KERNEL_IMPL_CPU_KERNEL_CALLS_H_

#include "ms_dsv32/kernel_impl/contract/call.h"

namespace ms_dsv32 {

// The values of the call's arguments have been checked too.
void RunKernel(const Call& call);

}  // namespace ms_dsv32

#endif  // MS_DSV32_KERNEL_IMPL_CPU_KERNEL_CALLS_H_
