// The largest of many scores, as sorted lists of records in UB. A record is 8 bytes: the score, and its position above
// it. Equal scores keep the order of their positions: Sort32 and MrgSort prefer the earlier place and the earlier list,
// and later positions always come in later lists.
#ifndef MS_DSV32_ASCENDC_TOPK_H_
#define MS_DSV32_ASCENDC_TOPK_H_

#include "copy.h"

namespace ms_dsv32::ascendc {

// Merges sorted `first` and `second` to `dst`, which needs room for both. Positions of `first` come before those of
// `second`.
__aicore__ inline void MergeRecords(const LocalTensor<float>& dst, const LocalTensor<float>& first,
                                    uint32_t first_count, const LocalTensor<float>& second, uint32_t second_count) {
  MrgSort4Info info;
  info.elementLengths[0] = static_cast<uint16_t>(first_count);
  info.elementLengths[1] = static_cast<uint16_t>(second_count);
  info.elementLengths[2] = 0;
  info.elementLengths[3] = 0;
  info.ifExhaustedSuspension = false;
  info.validBit = 3;
  info.repeatTimes = 1;
  MrgSort(dst, MrgSortSrcList<float>(first, second, second, second), info);
}

// One level: groups of four sorted runs of `run` records each become one.
__aicore__ inline void MergeRuns(const LocalTensor<float>& dst, const LocalTensor<float>& src, uint32_t run,
                                 uint32_t groups) {
  MrgSort4Info info;
  for (uint32_t i = 0; i < 4; ++i) info.elementLengths[i] = static_cast<uint16_t>(run);
  info.ifExhaustedSuspension = false;
  info.validBit = 15;
  info.repeatTimes = static_cast<uint8_t>(groups);
  MrgSort(dst, MrgSortSrcList<float>(src, src[run * 2], src[run * 4], src[run * 6]), info);
}

// Keeps the best of chunk after chunk of 2048 scores.
class RunningTopK {
 public:
  static constexpr uint32_t kChunk = 2048;

  // Takes 2 * 16 + 8 KiB and two lists of keep + 2048 records of UB. Must begin at a multiple of 256 bytes, while
  // nothing uses UB.
  __aicore__ inline void Place(UbArena& arena, uint32_t keep) {
    keep_ = keep;
    runs_[0] = arena.Take<float>(kChunk * 2);
    runs_[1] = arena.Take<float>(kChunk * 2);
    for (uint32_t i = 0; i < 2; ++i) lists_[i] = arena.Take<float>((keep + kChunk) * 2);
    positions_ = arena.Take<int32_t>(kChunk);
    // On arch 2201 the scalar unit writes the first block of a CreateVecIndex, whatever the vector pipe is at: the
    // positions are made once and moved from chunk to chunk.
    CreateVecIndex(positions_, int32_t{0}, kChunk);
    PipeBarrier<PIPE_V>();
    first_ = 0;
  }
  __aicore__ inline void Begin() {
    empty_ = true;
    current_ = 0;
  }
  // 2048 scores of positions from `first` on, which follow all positions so far.
  __aicore__ inline void Add(const LocalTensor<float>& scores, uint32_t first) {
    Adds(positions_, positions_, static_cast<int32_t>(first - first_), static_cast<int32_t>(kChunk));
    first_ = first;
    PipeBarrier<PIPE_V>();
    Sort32(runs_[0], scores, positions_.ReinterpretCast<uint32_t>(), static_cast<int32_t>(kChunk / 32));
    PipeBarrier<PIPE_V>();
    MergeRuns(runs_[1], runs_[0], 32, 16);
    PipeBarrier<PIPE_V>();
    MergeRuns(runs_[0], runs_[1], 128, 4);
    PipeBarrier<PIPE_V>();
    if (empty_) {
      MergeRuns(lists_[current_], runs_[0], 512, 1);
      PipeBarrier<PIPE_V>();
      empty_ = false;
      return;
    }
    MergeRuns(runs_[1], runs_[0], 512, 1);
    PipeBarrier<PIPE_V>();
    Join(runs_[1], kChunk);
  }
  // A sorted list of positions that follow all positions so far; its records stay in use until the vector pipe is
  // through.
  __aicore__ inline void Join(const LocalTensor<float>& list, uint32_t count) {
    MergeRecords(lists_[current_ ^ 1], lists_[current_], keep_, list, count);
    PipeBarrier<PIPE_V>();
    current_ ^= 1;
  }
  // The best `keep` records so far.
  __aicore__ inline const LocalTensor<float>& List() const { return lists_[current_]; }

 private:
  uint32_t keep_ = 0;
  LocalTensor<float> runs_[2], lists_[2];
  LocalTensor<int32_t> positions_;
  uint32_t first_ = 0;  // of positions_
  bool empty_ = true;
  uint32_t current_ = 0;
};

// Positions of `records` sorted records, a multiple of 32.
__aicore__ inline void RecordPositions(const LocalTensor<int32_t>& dst, const LocalTensor<float>& list,
                                       uint32_t records) {
  uint64_t kept = 0;
  GatherMask(dst, list.ReinterpretCast<int32_t>(), static_cast<uint8_t>(2), false, 0,
             GatherMaskParams(1, static_cast<uint16_t>(records / 32), 8, 0), kept);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_TOPK_H_
