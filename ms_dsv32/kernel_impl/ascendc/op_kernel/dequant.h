// Turns int32 products of quantised operands back into float.
#ifndef MS_DSV32_ASCENDC_DEQUANT_H_
#define MS_DSV32_ASCENDC_DEQUANT_H_

#include "rows.h"

namespace ms_dsv32::ascendc {

// sums [rows, kD] becomes float(sums) * token_scale * channel_scale, multiplied in this order and in place. Returns the
// place as floats. The token scales come as blocks of 8.
template <uint32_t kD>
__aicore__ inline LocalTensor<float> DequantRows(const LocalTensor<int32_t>& sums,
                                                 const LocalTensor<float>& token_blocks,
                                                 const LocalTensor<float>& channel_scale, uint32_t rows) {
  LocalTensor<float> x = sums.template ReinterpretCast<float>();
  Cast(x, sums, RoundMode::CAST_NONE, rows * kD);
  PipeBarrier<PIPE_V>();
  WithRowScalar<MulOp, kD>(x, token_blocks, rows);
  WithColumns<MulOp, kD>(x, channel_scale, rows);
  return x;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_DEQUANT_H_
