// Softmax of rows of float scores in UB.
#ifndef MS_DSV32_ASCENDC_SOFTMAX_H_
#define MS_DSV32_ASCENDC_SOFTMAX_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

// The value of a score that does not count. It is finite, so that the difference of two of them is not NaN. Its exp is
// 0 beside any score that counts.
constexpr float kMasked = -3.0e38f;

// Up to 8 rows at a time, `width` columns each (a multiple of 64, at most 255 * 64).
class RowSoftmax {
 public:
  static constexpr uint32_t kRows = 8;  // Brcb spreads 8 scalars at a time

  static constexpr uint32_t kBytes = (kRows * 64 + 2 * kRows * 8 + 4 * kRows) * 4;

  // Takes kBytes of UB.
  __aicore__ inline void Place(UbArena& arena) {
    lanes_ = arena.Take<float>(kRows * 64);
    max_ = arena.Take<float>(kRows);
    sum_ = arena.Take<float>(kRows);
    spread_max_ = arena.Take<float>(kRows * 8);
    spread_inverse_ = arena.Take<float>(kRows * 8);
    inverse_ = arena.Take<float>(kRows);
    one_ = arena.Take<float>(kRows);
  }
  __aicore__ inline void Begin() {
    Duplicate(max_, 0.0f, static_cast<int32_t>(kRows));
    Duplicate(sum_, 1.0f, static_cast<int32_t>(kRows));
    Duplicate(one_, 1.0f, static_cast<int32_t>(kRows));
    PipeBarrier<PIPE_V>();
  }

  // Sums the first `count` values. The sum is the first element of the result, and stays until the next Run.
  __aicore__ inline LocalTensor<float> Sum(const LocalTensor<float>& values, uint32_t count) {
    Duplicate(lanes_, 0.0f, 64);
    PipeBarrier<PIPE_V>();
    if (count >= 64) {
      Add(lanes_, values, lanes_, kAll, static_cast<uint8_t>(count / 64), BinaryRepeatParams(1, 1, 1, 0, 8, 0));
      PipeBarrier<PIPE_V>();
    }
    if (count % 64 > 0) {
      Add(lanes_, values[count / 64 * 64], lanes_, static_cast<uint64_t>(count % 64), static_cast<uint8_t>(1),
          BinaryRepeatParams(1, 1, 1, 0, 8, 0));
      PipeBarrier<PIPE_V>();
    }
    WholeReduceSum(inverse_, lanes_, 64, 1, 1, 1, 8);
    return inverse_;
  }

  // Multiplies scores by `scale`, adds `mask` if `masked`, sets the columns from `count` on to kMasked, and turns each
  // row into its softmax. log_sum gets log(sum(exp(row))) of each row, kRows floats.
  __aicore__ MS_DSV32_NOINLINE void Run(const LocalTensor<float>& scores, uint32_t rows, uint32_t width, uint32_t count,
                                        float scale, const LocalTensor<float>& mask, bool masked,
                                        const LocalTensor<float>& log_sum) {
    const uint8_t repeats = static_cast<uint8_t>(width / 64);
    Muls(scores, scores, scale, static_cast<int32_t>(rows * width));
    Duplicate(lanes_, kMasked, static_cast<int32_t>(rows * 64));
    PipeBarrier<PIPE_V>();
    if (masked) {
      for (uint32_t r = 0; r < rows; ++r) {
        Add(scores[r * width], scores[r * width], mask, static_cast<int32_t>(width));
      }
      PipeBarrier<PIPE_V>();
    }
    if (count % 64 != 0) {
      uint64_t lanes[2] = {LanesFrom(count % 64), 0};
      for (uint32_t r = 0; r < rows; ++r) {
        Duplicate(scores[r * width + count / 64 * 64], kMasked, lanes, static_cast<uint8_t>(1),
                  static_cast<uint16_t>(1), static_cast<uint8_t>(8));
      }
      PipeBarrier<PIPE_V>();
    }
    // Takes the maxima of 64 lanes, then of a row. The first instruction accumulates over its repeats, because its
    // result is one of its sources.
    for (uint32_t r = 0; r < rows; ++r) {
      AscendC::Max(lanes_[r * 64], scores[r * width], lanes_[r * 64], kAll, repeats,
                   BinaryRepeatParams(1, 1, 1, 0, 8, 0));
    }
    PipeBarrier<PIPE_V>();
    WholeReduceMax(max_, lanes_, 64, static_cast<int32_t>(rows), 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
    PipeBarrier<PIPE_V>();
    Brcb(spread_max_, max_, static_cast<uint8_t>(1), BrcbRepeatParams(1, 8));
    Duplicate(lanes_, 0.0f, static_cast<int32_t>(rows * 64));
    PipeBarrier<PIPE_V>();
    for (uint32_t r = 0; r < rows; ++r) {
      Sub(scores[r * width], scores[r * width], spread_max_[r * 8], kAll, repeats,
          BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
    PipeBarrier<PIPE_V>();
    Exp(scores, scores, static_cast<int32_t>(rows * width));
    PipeBarrier<PIPE_V>();
    for (uint32_t r = 0; r < rows; ++r) {
      Add(lanes_[r * 64], scores[r * width], lanes_[r * 64], kAll, repeats, BinaryRepeatParams(1, 1, 1, 0, 8, 0));
    }
    PipeBarrier<PIPE_V>();
    WholeReduceSum(sum_, lanes_, 64, static_cast<int32_t>(rows), 1, 1, 8);
    PipeBarrier<PIPE_V>();
    Ln(log_sum, sum_, static_cast<int32_t>(kRows));
    Div(inverse_, one_, sum_, static_cast<int32_t>(kRows));
    PipeBarrier<PIPE_V>();
    Add(log_sum, log_sum, max_, static_cast<int32_t>(kRows));
    Brcb(spread_inverse_, inverse_, static_cast<uint8_t>(1), BrcbRepeatParams(1, 8));
    PipeBarrier<PIPE_V>();
    for (uint32_t r = 0; r < rows; ++r) {
      Mul(scores[r * width], scores[r * width], spread_inverse_[r * 8], kAll, repeats,
          BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
    PipeBarrier<PIPE_V>();
  }

 private:
  static constexpr uint64_t kAll = 64;
  LocalTensor<float> lanes_, max_, sum_, inverse_, spread_max_, spread_inverse_, one_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SOFTMAX_H_
