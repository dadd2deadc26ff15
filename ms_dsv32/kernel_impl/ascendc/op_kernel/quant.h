// Dynamic symmetric int8 quantisation of float rows.
#ifndef MS_DSV32_ASCENDC_QUANT_H_
#define MS_DSV32_ASCENDC_QUANT_H_

#include "rows.h"

namespace ms_dsv32::ascendc {

// The scales of rows in half: one of each row, and the same as blocks, as SpreadScalars gives them.
struct HalfScales {
  LocalTensor<half> scale, blocks;
};

// amax = max(max|x|, 1e-30), q = int8(rint(x * (127 / amax))), scale = 1 / (127 / amax), for each row. Destroys x and
// `work`, which has the size of x. `scale` has `rows` floats, rounded up to a multiple of 8. kHalf asks for the scales
// in half too. They take no time of their own, because each of the other steps waits for the one before it.
template <uint32_t kD, bool kHalf = false>
__aicore__ inline void QuantRows(const LocalTensor<int8_t>& q, const LocalTensor<float>& scale,
                                 const LocalTensor<float>& x, const LocalTensor<float>& work, const RowScratch& scratch,
                                 uint32_t rows, const HalfScales& halves_of = {}) {
  const uint32_t count = rows * kD;
  const auto row_count = static_cast<int32_t>(rows);
  Abs(work, x, static_cast<int32_t>(count));
  Duplicate(scratch.constant, 127.0f, row_count);
  Duplicate(scratch.ones, 1.0f, row_count);
  PipeBarrier<PIPE_V>();
  RowMax<kD>(scratch.scalars, work, scratch.partial, rows);
  Maxs(scratch.scalars, scratch.scalars, 1e-30f, row_count);
  PipeBarrier<PIPE_V>();
  Div(scratch.scalars, scratch.constant, scratch.scalars, row_count);
  PipeBarrier<PIPE_V>();
  Div(scale, scratch.ones, scratch.scalars, row_count);
  SpreadScalars(scratch.blocks, scratch.scalars, rows);
  if constexpr (kHalf) {
    Cast(halves_of.scale, scale, RoundMode::CAST_RINT, rows);
  }
  WithRowScalar<MulOp, kD>(x, scratch.blocks, rows);
  if constexpr (kHalf) {
    Brcb(halves_of.blocks, halves_of.scale, static_cast<uint8_t>(CeilDiv(rows, 8)), BrcbRepeatParams(1, 8));
  }
  // A cast to int8 exists only from half, so the values go through int32 and half. Integers of at most 127 are exact in
  // half, so nothing is rounded twice. A NaN becomes 0 in int32.
  const LocalTensor<int32_t> integers = x.template ReinterpretCast<int32_t>();
  Cast(integers, x, RoundMode::CAST_RINT, count);
  PipeBarrier<PIPE_V>();
  const LocalTensor<half> halves = work.template ReinterpretCast<half>();
  SetDeqScale(static_cast<half>(1.0f));
  Cast(halves, integers, RoundMode::CAST_NONE, count);
  PipeBarrier<PIPE_V>();
  Cast(q, halves, RoundMode::CAST_TRUNC, count);
  PipeBarrier<PIPE_V>();
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_QUANT_H_
