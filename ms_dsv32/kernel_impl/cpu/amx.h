// Intel's AMX, which multiplies int8 tiles several times as fast as AVX-512 does, for kernels that find it at run time.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_AMX_H_
#define MS_DSV32_KERNEL_IMPL_CPU_AMX_H_

namespace ms_dsv32::cpu {

// Whether this process may use AMX's int8 products. The first call asks the kernel for the permission, which then holds
// for all threads; it is refused where a thread's alternate signal stack could not hold the tiles. Where
// MS_DSV32_CPU_ISA forces an instruction set the answer is no.
__attribute__((visibility("hidden"))) bool HasAmxInt8();

}  // namespace ms_dsv32::cpu

#endif  // MS_DSV32_KERNEL_IMPL_CPU_AMX_H_
