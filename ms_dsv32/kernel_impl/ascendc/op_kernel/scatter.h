// Tells which cache row a token writes.
#ifndef MS_DSV32_ASCENDC_SCATTER_H_
#define MS_DSV32_ASCENDC_SCATTER_H_

#include "rows.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// cache_index of kTokens tokens at most in UB, ready for the vector unit and for scalar reads. If two tokens have the
// same row, the later one writes it. The class holds the tokens of all steps that cores may write at the same time, one
// step or two, so it finds every such pair: earlier steps are written before.
template <uint32_t kTokens>
class CacheRows {
 public:
  // Takes scratch that Of needs later: two times kTokens floats and a block.
  __aicore__ inline void Place(const LocalTensor<int64_t>& index, UbArena& arena) {
    index_ = index;
    values_ = arena.Take<float>(kTokens);
    work_ = arena.Take<float>(kTokens);
    others_ = arena.Take<float>(8);
  }

  __aicore__ inline void Load(uint32_t tokens, uint64_t cache_rows) {
    tokens_ = tokens;
    cache_rows_ = static_cast<int64_t>(cache_rows);
    // Keeps the lower words as float. Equal rows have equal words, but not the other way round.
    const LocalTensor<int32_t> words = work_.ReinterpretCast<int32_t>();
    uint64_t gathered = 0;
    const GatherMaskParams params(1, static_cast<uint16_t>(CeilDiv(tokens, kLanes / 2)), 8, 0);
    GatherMask(words, index_.ReinterpretCast<int32_t>(), static_cast<uint8_t>(1), false, static_cast<uint32_t>(0),
               params, gathered);
    Duplicate(values_, -1.0f, static_cast<int32_t>(kTokens));
    PipeBarrier<PIPE_V>();
    Cast(values_, words, RoundMode::CAST_NONE, tokens);
    WaitPipe<HardEvent::V_S>(kWaitFlag);
  }

  // Replaces the index of each token of [begin, end) by the result of Of, so that Resolved needs no vector unit.
  __aicore__ inline void Resolve(uint32_t begin, uint32_t end) const {
    for (uint32_t token = begin; token < end; ++token) {
      index_.SetValue(token, Of(token));  // Of looks at the rows of later tokens only
    }
  }
  __aicore__ inline int64_t Resolved(uint32_t token) const { return index_.GetValue(token); }

  // The row of `token`. -1 if it writes none: it is padding, its row is outside the cache, or a later token has the
  // same row.
  __aicore__ inline int64_t Of(uint32_t token) const {
    const int64_t row = index_.GetValue(token);
    if (row < 0 || row >= cache_rows_) {
      return -1;
    }
    if (IsUnique(token)) {
      return row;
    }
    for (uint32_t later = token + 1; later < tokens_; ++later) {
      if (index_.GetValue(later) == row) {
        return -1;
      }
    }
    return row;
  }

 private:
  static constexpr int32_t kWaitFlag = 2;  // of V_S and S_V

  // Whether the row of `token` differs from all others as float. The vector unit finds out faster than scalar reads
  // would. Values are whole numbers, so the sum of min(|difference|, 1) counts the tokens that differ.
  __aicore__ inline bool IsUnique(uint32_t token) const {
    const auto count = static_cast<int32_t>(kTokens);
    const float value = values_.GetValue(token);
    PipeBarrier<PIPE_V>();
    Adds(work_, values_, -value, count);
    PipeBarrier<PIPE_V>();
    Abs(work_, work_, count);
    PipeBarrier<PIPE_V>();
    Mins(work_, work_, 1.0f, count);
    PipeBarrier<PIPE_V>();
    WaitPipe<HardEvent::S_V>(kWaitFlag);  // the token before has read its count
    WholeReduceSum(others_, work_, static_cast<int32_t>(kLanes), static_cast<int32_t>(kRepeats), 1, 1, 8);
    WaitPipe<HardEvent::V_S>(kWaitFlag);
    float others = 0;
    for (uint32_t i = 0; i < kRepeats; ++i) {
      others += others_.GetValue(i);
    }
    return others == static_cast<float>(kTokens - 1);
  }

  LocalTensor<int64_t> index_;
  static constexpr uint32_t kRepeats = kTokens / kLanes;
  static_assert(kRepeats <= 8, "others_ is one block");

  LocalTensor<float> values_, work_, others_;
  uint32_t tokens_ = 0;
  int64_t cache_rows_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SCATTER_H_
