// RmsNorm and LayerNorm of one row.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_NORM_H_
#define MS_DSV32_KERNEL_IMPL_CPU_NORM_H_

#include "ms_dsv32/kernel_impl/cpu/simd.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// out[n] = bf16(x / sqrt(mean(x^2) + epsilon) * gamma) of x rounded to bf16. n is a multiple of 64.
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
  const float root = __builtin_sqrtf(sum / static_cast<float>(n) + epsilon);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreBf16(out + i, RoundBf16(LoadF(x + i)) / root * LoadBf16(gamma + i));
  }
}

// out[n] = bf16((x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta), x not rounded. n is a multiple of 64.
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
  const float root = __builtin_sqrtf(ReduceAdd(squares) / static_cast<float>(n) + epsilon);
  for (int64_t i = 0; i < n; i += kLanes) {
    StoreBf16(out + i, (LoadF(x + i) - mean) / root * LoadBf16(gamma + i) + LoadBf16(beta + i));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_NORM_H_
