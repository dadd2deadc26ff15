// Intel's AMX, which multiplies tiles several times as fast as AVX-512 multiplies vectors.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_AMX_H_
#define MS_DSV32_KERNEL_IMPL_CPU_AMX_H_

namespace ms_dsv32::cpu {

// Whether this process may use AMX's products of int8 and bfloat16. The first call asks the kernel for the permission,
// which then holds for all threads. The kernel refuses it if a thread's alternate signal stack could not hold the
// tiles.
__attribute__((visibility("hidden"))) bool HasAmx();

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_AMX_H_
