// Vector arithmetic on float rows [rows, kD] in UB. kD is a multiple of 64, and rows follow each other without a gap.
// Every function ends with a barrier of the vector pipe.
#ifndef MS_DSV32_ASCENDC_ROWS_H_
#define MS_DSV32_ASCENDC_ROWS_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

constexpr uint32_t kLanes = 64;  // floats of one repeat

struct MulOp {
  static __aicore__ inline void Apply(const LocalTensor<float>& x, const LocalTensor<float>& y, uint8_t repeat,
                                      const BinaryRepeatParams& params) {
    Mul(x, x, y, static_cast<uint64_t>(kLanes), repeat, params);
  }
};
struct DivOp {
  static __aicore__ inline void Apply(const LocalTensor<float>& x, const LocalTensor<float>& y, uint8_t repeat,
                                      const BinaryRepeatParams& params) {
    Div(x, x, y, static_cast<uint64_t>(kLanes), repeat, params);
  }
};
struct SubOp {
  static __aicore__ inline void Apply(const LocalTensor<float>& x, const LocalTensor<float>& y, uint8_t repeat,
                                      const BinaryRepeatParams& params) {
    Sub(x, x, y, static_cast<uint64_t>(kLanes), repeat, params);
  }
};
struct AddOp {
  static __aicore__ inline void Apply(const LocalTensor<float>& x, const LocalTensor<float>& y, uint8_t repeat,
                                      const BinaryRepeatParams& params) {
    Add(x, x, y, static_cast<uint64_t>(kLanes), repeat, params);
  }
};

// Spreads scalars [rows] to blocks [rows, 8], as WithRowScalar takes them. It reads and writes eight rows at a time.
template <typename T>
__aicore__ inline void SpreadScalars(const LocalTensor<T>& blocks, const LocalTensor<T>& scalars, uint32_t rows) {
  Brcb(blocks, scalars, static_cast<uint8_t>(CeilDiv(rows, 8)), BrcbRepeatParams(1, 8));
  PipeBarrier<PIPE_V>();
}

// x[r, :] = x[r, :] op scalar[r]. The scalars come as blocks.
template <typename Op, uint32_t kD>
__aicore__ inline void WithRowScalar(const LocalTensor<float>& x, const LocalTensor<float>& blocks, uint32_t rows) {
  constexpr uint32_t kParts = kD / kLanes;
  if (rows >= kParts) {
    for (uint32_t c = 0; c < kParts; ++c) {
      Op::Apply(x[c * kLanes], blocks, static_cast<uint8_t>(rows), BinaryRepeatParams(1, 1, 0, kD / 8, kD / 8, 1));
    }
  } else {
    for (uint32_t r = 0; r < rows; ++r) {
      Op::Apply(x[r * kD], blocks[r * 8], kParts, BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
  }
  PipeBarrier<PIPE_V>();
}

// x[r, :] = x[r, :] op column[:].
template <typename Op, uint32_t kD>
__aicore__ inline void WithColumns(const LocalTensor<float>& x, const LocalTensor<float>& columns, uint32_t rows) {
  constexpr uint32_t kParts = kD / kLanes;
  if (rows >= kParts) {
    for (uint32_t c = 0; c < kParts; ++c) {
      Op::Apply(x[c * kLanes], columns[c * kLanes], static_cast<uint8_t>(rows),
                BinaryRepeatParams(1, 1, 1, kD / 8, kD / 8, 0));
    }
  } else {
    for (uint32_t r = 0; r < rows; ++r) {
      Op::Apply(x[r * kD], columns, kParts, BinaryRepeatParams(1, 1, 1, 8, 8, 8));
    }
  }
  PipeBarrier<PIPE_V>();
}

// Sums and maxima of rows. kD is 128 or a multiple of 512. Destroys x. `partial` has rows * kD / 64 floats if kD > 128,
// and if kD is 128, rows * 8 floats for the maxima. rows * kD / 64 is at most 255, the most repeats of an instruction.
template <uint32_t kD>
__aicore__ inline void RowSum(const LocalTensor<float>& sum, const LocalTensor<float>& x,
                              const LocalTensor<float>& partial, uint32_t rows) {
  if constexpr (kD == 2 * kLanes) {
    Add(x, x, x[kLanes], static_cast<uint64_t>(kLanes), static_cast<uint8_t>(rows),
        BinaryRepeatParams(1, 1, 1, 16, 16, 16));
    PipeBarrier<PIPE_V>();
    WholeReduceSum(sum, x, static_cast<int32_t>(kLanes), static_cast<int32_t>(rows), 1, 1, 16);
  } else {
    static_assert(kD % 512 == 0, "the partial results of a row must be whole blocks");
    WholeReduceSum(partial, x, static_cast<int32_t>(kLanes), static_cast<int32_t>(rows * kD / kLanes), 1, 1, 8);
    PipeBarrier<PIPE_V>();
    WholeReduceSum(sum, partial, static_cast<int32_t>(kD / kLanes), static_cast<int32_t>(rows), 1, 1, kD / 512);
  }
  PipeBarrier<PIPE_V>();
}
template <uint32_t kD>
__aicore__ inline void RowMax(const LocalTensor<float>& largest, const LocalTensor<float>& x,
                              const LocalTensor<float>& partial, uint32_t rows) {
  if constexpr (kD == 2 * kLanes) {
    AscendC::Max(x, x, x[kLanes], static_cast<uint64_t>(kLanes), static_cast<uint8_t>(rows),
                 BinaryRepeatParams(1, 1, 1, 16, 16, 16));
    PipeBarrier<PIPE_V>();
    // Two reductions by blocks of 8, because a reduction of a whole repeat takes seven times as long as one by blocks.
    BlockReduceMax(partial, x, static_cast<int32_t>(rows), static_cast<int32_t>(kLanes), 1, 1, 16);
    PipeBarrier<PIPE_V>();
    constexpr uint32_t kRows = kLanes / 8;  // rows whose blocks are one repeat
    if (rows >= kRows) {
      BlockReduceMax(largest, partial, static_cast<int32_t>(rows / kRows), static_cast<int32_t>(kLanes), 1, 1, 8);
    }
    if (rows % kRows > 0) {
      const uint32_t done = rows / kRows * kRows;
      BlockReduceMax(largest[done], partial[done * 8], 1, static_cast<int32_t>(rows % kRows * 8), 1, 1, 8);
    }
  } else {
    static_assert(kD % 512 == 0, "the partial results of a row must be whole blocks");
    WholeReduceMax(partial, x, static_cast<int32_t>(kLanes), static_cast<int32_t>(rows * kD / kLanes), 1, 1, 8,
                   ReduceOrder::ORDER_ONLY_VALUE);
    PipeBarrier<PIPE_V>();
    WholeReduceMax(largest, partial, static_cast<int32_t>(kD / kLanes), static_cast<int32_t>(rows), 1, 1, kD / 512,
                   ReduceOrder::ORDER_ONLY_VALUE);
  }
  PipeBarrier<PIPE_V>();
}

// Rounds to bfloat16: `rounded` gets the rounded values, and x gets them back as float.
__aicore__ inline void RoundBf16(const LocalTensor<bfloat16_t>& rounded, const LocalTensor<float>& x, uint32_t count) {
  Cast(rounded, x, RoundMode::CAST_RINT, count);
  PipeBarrier<PIPE_V>();
  Cast(x, rounded, RoundMode::CAST_NONE, count);
  PipeBarrier<PIPE_V>();
}

// Scratch of the functions that need scalars of each row, for up to kMaxRows rows and 512 partial results.
struct RowScratch {
  static constexpr uint32_t kMaxRows = 64;
  LocalTensor<float> scalars;   // kMaxRows
  LocalTensor<float> constant;  // kMaxRows
  LocalTensor<float> ones;      // kMaxRows
  LocalTensor<float> blocks;    // kMaxRows * 8
  LocalTensor<float> partial;   // 512
  __aicore__ inline void Place(UbArena& arena) {
    scalars = arena.Take<float>(kMaxRows);
    constant = arena.Take<float>(kMaxRows);
    ones = arena.Take<float>(kMaxRows);
    blocks = arena.Take<float>(kMaxRows * 8);
    partial = arena.Take<float>(512);
  }
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ROWS_H_
