// Rotary position embedding of one row of rope_dim bf16 values. cos and sin hold rope_dim values each, shared by all
// heads of a token.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_ROPE_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_ROPE_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

constexpr int kRopeHalf = op_info::kRopeDim / 2;

// kLanes pairs: out[i] = a cos[i] - b sin[i], out[i + half] = b cos[i + half] + a sin[i + half].
MS_DSV32_INLINE void RotatePairs(VecF a, VecF b, const uint16_t* cos, const uint16_t* sin, uint16_t* out) {
  StoreBf16(out, a * LoadBf16(cos) - b * LoadBf16(sin));
  StoreBf16(out + kRopeHalf, b * LoadBf16(cos + kRopeHalf) + a * LoadBf16(sin + kRopeHalf));
}

// The MLA's RoPE. The pairs are (x[2i], x[2i + 1]), and the output is in half-split order. `out` must not overlap `x`.
inline void RopeInterleavedRow(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, uint16_t* out) {
#pragma GCC unroll 2
  for (int i = 0; i < kRopeHalf; i += kLanes) {
    const VecU pair = LoadAs<VecU>(x + 2 * i);  // little-endian: x[2i] is the low half
    RotatePairs((VecF)(pair << 16), (VecF)(pair & 0xffff0000u), cos + i, sin + i, out + i);
  }
}

// The indexer's RoPE. The pairs are (x[i], x[i + half]). `out` may be `x`.
inline void RopeHalfSplitRow(const uint16_t* x, const uint16_t* cos, const uint16_t* sin, uint16_t* out) {
#pragma GCC unroll 2
  for (int i = 0; i < kRopeHalf; i += kLanes) {
    RotatePairs(LoadBf16(x + i), LoadBf16(x + kRopeHalf + i), cos + i, sin + i, out + i);
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_ROPE_H_
