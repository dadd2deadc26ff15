// Which cache row a token writes.
#ifndef MS_DSV32_ASCENDC_SCATTER_H_
#define MS_DSV32_ASCENDC_SCATTER_H_

#include "rows.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// cache_index of kTokens tokens at most, of one step or of two, in UB and ready for the vector unit and for scalar
// reads. Steps follow each other across all cores, or the next but one does, so two tokens of one row can only meet
// among these: there the later one writes.
template <uint32_t kTokens>
class CacheRows {
 public:
  // Scratch, kept for Of: two times kTokens floats and a block.
  __aicore__ inline void Place(const LocalTensor<int64_t>& index, UbArena& arena) {
    index_ = index;
    values_ = arena.Take<float>(kTokens);
    work_ = arena.Take<float>(kTokens);
    others_ = arena.Take<float>(8);
  }

  __aicore__ inline void Load(uint32_t tokens, uint64_t cache_rows) {
    tokens_ = tokens;
    cache_rows_ = static_cast<int64_t>(cache_rows);
    // The lower words as float: equal rows have equal ones, though not the other way round.
    const LocalTensor<int32_t> words = work_.ReinterpretCast<int32_t>();
    uint64_t gathered = 0;
    const GatherMaskParams params(1, static_cast<uint16_t>(CeilDiv(tokens, kLanes / 2)), 8, 0);
    GatherMask(words, index_.ReinterpretCast<int32_t>(), static_cast<uint8_t>(1), false, static_cast<uint32_t>(0),
               params, gathered);
    Duplicate(values_, -1.0f, static_cast<int32_t>(kTokens));
    PipeBarrier<PIPE_V>();
    Cast(values_, words, RoundMode::CAST_NONE, tokens);
    WaitPipe<HardEvent::V_S>(kFlag);
  }

  // Puts what Of says into the place of each token of [begin, end), where Resolved finds it without the vector unit.
  __aicore__ inline void Resolve(uint32_t begin, uint32_t end) const {
    for (uint32_t token = begin; token < end; ++token) {
      index_.SetValue(token, Of(token));  // which looks at the rows of later tokens only
    }
  }
  __aicore__ inline int64_t Resolved(uint32_t token) const { return index_.GetValue(token); }

  // The row of `token`, or -1 if it writes none: padding, a row outside the cache, or a later token has the same row.
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
  static constexpr int32_t kFlag = 2;  // of V_S and S_V

  // Whether the vector unit tells `token` from all others, which a scalar read of each would take long to find out:
  // values are whole numbers, so min(|difference|, 1) counts the others.
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
    WaitPipe<HardEvent::S_V>(kFlag);  // the token before has read its count
    WholeReduceSum(others_, work_, static_cast<int32_t>(kLanes), static_cast<int32_t>(kRepeats), 1, 1, 8);
    WaitPipe<HardEvent::V_S>(kFlag);
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
