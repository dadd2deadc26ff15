// RmsNorm and LayerNorm of float rows, in float32. They use Sqrt and Div, because Rsqrt is approximate on arch 2201.
#ifndef MS_DSV32_ASCENDC_NORM_H_
#define MS_DSV32_ASCENDC_NORM_H_

#include "rows.h"

namespace ms_dsv32::ascendc {

// x /= sqrt(mean(x^2) + epsilon). `squares` has the size of x and is destroyed.
template <uint32_t kD>
__aicore__ inline void DivideByRms(const LocalTensor<float>& x, const LocalTensor<float>& squares, float epsilon,
                                   const RowScratch& scratch, uint32_t rows) {
  Mul(squares, x, x, static_cast<int32_t>(rows * kD));
  // Divides by kD instead of multiplying by 1 / kD, which is exact only for powers of two.
  Duplicate(scratch.constant, static_cast<float>(kD), static_cast<int32_t>(rows));
  PipeBarrier<PIPE_V>();
  RowSum<kD>(scratch.scalars, squares, scratch.partial, rows);
  Div(scratch.scalars, scratch.scalars, scratch.constant, static_cast<int32_t>(rows));
  PipeBarrier<PIPE_V>();
  Adds(scratch.scalars, scratch.scalars, epsilon, static_cast<int32_t>(rows));
  PipeBarrier<PIPE_V>();
  Sqrt(scratch.scalars, scratch.scalars, static_cast<int32_t>(rows));
  PipeBarrier<PIPE_V>();
  SpreadScalars(scratch.blocks, scratch.scalars, rows);
  WithRowScalar<DivOp, kD>(x, scratch.blocks, rows);
}

// x = x / sqrt(mean(x^2) + epsilon) * gamma.
template <uint32_t kD>
__aicore__ inline void RmsNorm(const LocalTensor<float>& x, const LocalTensor<float>& squares,
                               const LocalTensor<float>& gamma, float epsilon, const RowScratch& scratch,
                               uint32_t rows) {
  DivideByRms<kD>(x, squares, epsilon, scratch, rows);
  WithColumns<MulOp, kD>(x, gamma, rows);
}

// x = (x - mean) / sqrt(mean((x - mean)^2) + epsilon) * gamma + beta.
template <uint32_t kD>
__aicore__ inline void LayerNorm(const LocalTensor<float>& x, const LocalTensor<float>& squares,
                                 const LocalTensor<float>& gamma, const LocalTensor<float>& beta, float epsilon,
                                 const RowScratch& scratch, uint32_t rows) {
  static_assert((kD & (kD - 1)) == 0, "1 / kD must be exact");
  DataCopy(squares, x, rows * kD);
  PipeBarrier<PIPE_V>();
  RowSum<kD>(scratch.scalars, squares, scratch.partial, rows);
  Muls(scratch.scalars, scratch.scalars, 1.0f / kD, static_cast<int32_t>(rows));
  PipeBarrier<PIPE_V>();
  SpreadScalars(scratch.blocks, scratch.scalars, rows);
  WithRowScalar<SubOp, kD>(x, scratch.blocks, rows);
  DivideByRms<kD>(x, squares, epsilon, scratch, rows);
  WithColumns<MulOp, kD>(x, gamma, rows);
  WithColumns<AddOp, kD>(x, beta, rows);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_NORM_H_
