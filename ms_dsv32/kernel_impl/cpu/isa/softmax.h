// Softmax of one row of scores, in place.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_SOFTMAX_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_SOFTMAX_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// e^v for v <= 0: 0 below -87.33 (no subnormal results), NaN for NaN. Relative error below 2e-7.
// v = n ln2 + r, |r| <= ln2/2; e^r by its Taylor polynomial of degree 7 (remainder r^8/8! <= 5.2e-9); times 2^n.
MS_DSV32_INLINE VecF ExpNonPositive(VecF v) {
  const VecI small = (VecI)(v < -0x1.5d58ap6f);  // e^-87.336 = 2^-126, the least normal number
  const VecF x = (VecF)((VecI)v & ~small);       // any value will do: the result becomes 0
  const VecF n = Rint(x * 1.44269504088896341f);
  // ln2 as 0x1.62e4p-1 (its 15-bit head, exact times n) and the rest.
  const VecF r = Fma(n, Set1(-0x1.7f7d1cp-20f), Fma(n, Set1(-0x1.62e4p-1f), x));
  VecF p = Set1(1.0f / 5040.0f);
  p = Fma(p, r, Set1(1.0f / 720.0f));
  p = Fma(p, r, Set1(1.0f / 120.0f));
  p = Fma(p, r, Set1(1.0f / 24.0f));
  p = Fma(p, r, Set1(1.0f / 6.0f));
  p = Fma(p, r, Set1(0.5f));
  p = Fma(p, r, Set1(1.0f));
  p = Fma(p, r, Set1(1.0f));
  // n >= -126, so 2^n is normal. A NaN leaves p NaN whatever the conversion gives.
  const VecF power = (VecF)((__builtin_convertvector(n, VecI) + 127) << 23);
  return (VecF)((VecI)(p * power) & ~small);
}

// p[i] = bf16(exp(s[i] * scale - top) / sum), top = max(s * scale), for i < count; 0 for count <= i < padded (a
// multiple of 64). p takes the first half of the row's bytes. Returns top + ln(sum). count > 0. NaN or +infinity in a
// score makes the row NaN. It normalises by a multiplication with float32(1 / sum), 1 <= sum <= count, which is at most
// one float32 rounding from the quotient.
inline float SoftmaxRow(float* s, int64_t count, int64_t padded, float scale) {
  VecF best = Set1(-__builtin_inff());
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const VecF v = LoadF(s + i) * scale;
    StoreF(s + i, v);
    best = Max(best, v);
  }
  float top = ReduceMax(best);
  for (; i < count; ++i) {
    s[i] *= scale;
    top = s[i] > top ? s[i] : top;
  }
  for (; i < padded; ++i) s[i] = -__builtin_inff();

  VecF sums[2] = {};
  for (i = 0; i < padded; i += 2 * kLanes) {
#pragma GCC unroll 2
    for (int u = 0; u < 2; ++u) {
      const VecF e = ExpNonPositive(LoadF(s + i + u * kLanes) - top);
      StoreF(s + i + u * kLanes, e);
      sums[u] += e;
    }
  }
  const float sum = ReduceAdd(sums[0] + sums[1]);
  const float inverse = 1.0f / sum;
  uint16_t* p = reinterpret_cast<uint16_t*>(s);
  if (sum == sum) {
    for (i = 0; i < padded; i += kLanes) StoreU16(p + i, RoundToUpperHalf(LoadF(s + i) * inverse) >> 16);
  } else {
    for (i = 0; i < padded; i += kLanes) StoreBf16(p + i, LoadF(s + i) * inverse);
  }
  return OneNan(top + __builtin_logf(sum));
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_SOFTMAX_H_
