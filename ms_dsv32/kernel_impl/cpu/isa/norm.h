// RmsNorm and LayerNorm of one row.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_NORM_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_NORM_H_

#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// Whether float32 holds this mean of squares: no square has overflowed, and the squares that matter are above 2^-126,
// where subnormals begin. It does not hold a NaN. With the usual epsilon it fails only for rows beyond 1e17.
MS_DSV32_INLINE bool HoldsMean(float mean) { return mean >= 0x1p-90f && mean <= __FLT_MAX__; }

// sqrt(mean(x^2) + epsilon) of x rounded to bf16, which is at most the largest |x|.
__attribute__((noinline)) inline float WideRoot(const float* x, float epsilon, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    const double v = Bf16ToF32(F32ToBf16(x[i]));
    sum += v * v;
  }
  return static_cast<float>(__builtin_sqrt(sum / static_cast<double>(n) + static_cast<double>(epsilon)));
}

// out[n] = bf16(x / sqrt(mean(x^2) + epsilon) * gamma) of x rounded to bf16. n is a multiple of 64. It is right for all
// finite x. An infinity makes the other values 0 and itself NaN.
inline void RmsNormRow(const float* x, const uint16_t* gamma, float epsilon, int64_t n, uint16_t* out) {
  VecF squares[4] = {};  // four chains: one alone would wait for each addition
  for (int64_t i = 0; i < n; i += 4 * kLanes) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      const VecF v = RoundBf16(LoadF(x + i + j * kLanes));
      squares[j] += v * v;
    }
  }
  const float sum = ReduceAdd((squares[0] + squares[1]) + (squares[2] + squares[3]));
  const float mean = sum / static_cast<float>(n) + epsilon;
  const float root = HoldsMean(mean) ? __builtin_sqrtf(mean) : WideRoot(x, epsilon, n);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreBf16(out + i, RoundBf16(LoadF(x + i)) / root * LoadBf16(gamma + i));
  }
}

// LayerNormRow in double.
__attribute__((noinline)) inline void WideLayerNorm(const float* x, const uint16_t* gamma, const uint16_t* beta,
                                                    float epsilon, int64_t n, uint16_t* out) {
  double total = 0, squares = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]);
  const double mean = total / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    const double centred = static_cast<double>(x[i]) - mean;
    squares += centred * centred;
  }
  const double root = __builtin_sqrt(squares / static_cast<double>(n) + static_cast<double>(epsilon));
  for (int64_t i = 0; i < n; ++i) {
    const auto normed = static_cast<float>((static_cast<double>(x[i]) - mean) / root);
    out[i] = F32ToBf16(normed * Bf16ToF32(gamma[i]) + Bf16ToF32(beta[i]));
  }
}

// out[n] = bf16((x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta), x not rounded. n is a multiple of 64.
// It is right for all finite x. An infinity makes all values NaN.
inline void LayerNormRow(const float* x, const uint16_t* gamma, const uint16_t* beta, float epsilon, int64_t n,
                         uint16_t* out) {
  VecF total{};
  for (int64_t i = 0; i < n; i += kLanes) total += LoadF(x + i);
  const float mean = ReduceAdd(total) / static_cast<float>(n);
  VecF squares{};
  for (int64_t i = 0; i < n; i += kLanes) {
    const VecF centred = LoadF(x + i) - mean;
    squares += centred * centred;
  }
  const float variance = ReduceAdd(squares) / static_cast<float>(n) + epsilon;
  if (!HoldsMean(variance)) return WideLayerNorm(x, gamma, beta, epsilon, n, out);
  const float root = __builtin_sqrtf(variance);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreBf16(out + i, (LoadF(x + i) - mean) / root * LoadBf16(gamma + i) + LoadBf16(beta + i));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_NORM_H_
