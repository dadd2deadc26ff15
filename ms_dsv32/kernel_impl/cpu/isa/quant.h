// Dynamic symmetric int8 quantisation of one row, and dequantisation of int32 products.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_QUANT_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_QUANT_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// q[n] = int8(rint(x * (127 / amax))), amax = max(max|x|, 1e-30). n is a multiple of 64. Returns the scale 1 / (127 /
// amax). A NaN in x gives zeros and scale NaN. An infinity gives zeros and scale infinity.
inline float QuantRow(const uint16_t* x, int64_t n, int8_t* q) {
  VecF largest = Set1(1e-30f);
  VecI nan{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const VecF v = LoadBf16(x + i);
    largest = Max(largest, Abs(v));
    nan |= NanMask(v);
  }
  const float amax = AnySet(nan) ? __builtin_nanf("") : ReduceMax(largest);
  const float inverse = 127.0f / amax;
  for (int64_t i = 0; i < n; i += kLanes) {
    const VecF v = Rint(LoadBf16(x + i) * inverse);  // |v| <= 127: at most two roundings beyond 127, which Rint removes
    // Converting a NaN is undefined, so it becomes 0 first.
    StoreInt8(q + i, __builtin_convertvector(Select(NanMask(v), Set1(0.0f), v), VecI));
  }
  return 1.0f / inverse;
}

// out[n] = bf16((sums * token_scale) * channel_scale[n]), in this order. n is a multiple of 64.
inline void DequantRow(const int32_t* sums, float token_scale, const float* channel_scale, int64_t n, uint16_t* out) {
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreBf16(out + i, ToFloat(LoadI(sums + i)) * token_scale * LoadF(channel_scale + i));
  }
}

inline void RoundRow(const float* x, int64_t n, uint16_t* out) {  // out[n] = bf16(x); n is a multiple of 64
#pragma GCC unroll 4
  for (int64_t i = 0; i < n; i += kLanes) StoreBf16(out + i, LoadF(x + i));
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_QUANT_H_
