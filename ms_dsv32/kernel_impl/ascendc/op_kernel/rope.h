// RoPE of float rows of 64.
#ifndef MS_DSV32_ASCENDC_ROPE_H_
#define MS_DSV32_ASCENDC_ROPE_H_

#include "rows.h"

namespace ms_dsv32::ascendc {

constexpr uint32_t kRopeHalf = 32;

// Converts sin [rows, 64] to float, with the halves of each row exchanged.
__aicore__ inline void SpreadSin(const LocalTensor<float>& sin, const LocalTensor<bfloat16_t>& raw, uint32_t rows) {
  const UnaryRepeatParams params(1, 1, 8, 4);
  const uint64_t mask = kRopeHalf;
  Cast(sin, raw[kRopeHalf], RoundMode::CAST_NONE, mask, static_cast<uint8_t>(rows), params);
  Cast(sin[kRopeHalf], raw, RoundMode::CAST_NONE, mask, static_cast<uint8_t>(rows), params);
}

// turned[r] = [first * cos_lo - second * sin_lo, second * cos_hi + first * sin_hi], each product rounded before the
// sum. `first` and `second` are the 32 first and second members of the pairs of each row, rows source_blocks * 32 bytes
// apart; cos, sin, turned and work are [rows, 64], sin with its halves exchanged, as SpreadSin writes them.
__aicore__ inline void RopePairs(const LocalTensor<float>& turned, const LocalTensor<float>& work,
                                 const LocalTensor<float>& first, const LocalTensor<float>& second,
                                 uint32_t source_blocks, const LocalTensor<float>& cos, const LocalTensor<float>& sin,
                                 uint32_t rows) {
  const auto repeat = static_cast<uint8_t>(rows);
  const uint64_t mask = kRopeHalf;
  const BinaryRepeatParams products(1, 1, 1, 8, static_cast<uint8_t>(source_blocks), 8);
  const BinaryRepeatParams sums(1, 1, 1, 8, 8, 8);
  Mul(turned, first, cos, mask, repeat, products);
  Mul(turned[kRopeHalf], second, cos[kRopeHalf], mask, repeat, products);
  Mul(work, second, sin[kRopeHalf], mask, repeat, products);
  Mul(work[kRopeHalf], first, sin, mask, repeat, products);
  PipeBarrier<PIPE_V>();
  Sub(turned, turned, work, mask, repeat, sums);
  Add(turned[kRopeHalf], turned[kRopeHalf], work[kRopeHalf], mask, repeat, sums);
  PipeBarrier<PIPE_V>();
}

// Pairs (x[2i], x[2i + 1]), as MLA has them; the output is in half-split order. `pairs` has rows * 64 floats of
// scratch.
__aicore__ inline void RopeInterleaved(const LocalTensor<float>& turned, const LocalTensor<float>& work,
                                       const LocalTensor<float>& pairs, const LocalTensor<float>& x,
                                       const LocalTensor<float>& cos, const LocalTensor<float>& sin, uint32_t rows) {
  const LocalTensor<float> even = pairs;
  const LocalTensor<float> odd = pairs[rows * kRopeHalf];
  uint64_t gathered = 0;
  const GatherMaskParams params(1, static_cast<uint16_t>(rows), 8, 0);
  GatherMask(even, x, static_cast<uint8_t>(1), false, static_cast<uint32_t>(0), params, gathered);
  GatherMask(odd, x, static_cast<uint8_t>(2), false, static_cast<uint32_t>(0), params, gathered);
  PipeBarrier<PIPE_V>();
  RopePairs(turned, work, even, odd, kRopeHalf / 8, cos, sin, rows);
}

// Pairs (x[i], x[i + 32]), as the indexer has them. Rows of x begin x_blocks * 32 bytes apart. Each product is one
// instruction, because both members of a pair lie in one repeat and the halves of sin are exchanged. So the halves of
// the second product are exchanged too.
__aicore__ inline void RopeHalfSplit(const LocalTensor<float>& turned, const LocalTensor<float>& work,
                                     const LocalTensor<float>& x, uint32_t x_blocks, const LocalTensor<float>& cos,
                                     const LocalTensor<float>& sin, uint32_t rows) {
  const auto repeat = static_cast<uint8_t>(rows);
  const BinaryRepeatParams products(1, 1, 1, 8, static_cast<uint8_t>(x_blocks), 8);
  const BinaryRepeatParams sums(1, 1, 1, 8, 8, 8);
  Mul(turned, x, cos, static_cast<uint64_t>(2 * kRopeHalf), repeat, products);
  Mul(work, x, sin, static_cast<uint64_t>(2 * kRopeHalf), repeat, products);
  PipeBarrier<PIPE_V>();
  const uint64_t mask = kRopeHalf;
  Sub(turned, turned, work[kRopeHalf], mask, repeat, sums);
  Add(turned[kRopeHalf], turned[kRopeHalf], work, mask, repeat, sums);
  PipeBarrier<PIPE_V>();
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ROPE_H_
