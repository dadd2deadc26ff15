// The largest of many scores, as sorted lists of records in UB (records.h). Among equal scores the smaller position
// comes first, because Sort32 and MrgSort prefer the earlier place and the earlier list, and positions ascend within a
// chunk and from list to list.
#ifndef MS_DSV32_ASCENDC_TOPK_H_
#define MS_DSV32_ASCENDC_TOPK_H_

#include "copy.h"
#include "indexer_tiling.h"
#include "records.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// The best scores of up to two tokens, chunk after chunk of each.
class TopK {
 public:
  static constexpr uint32_t kChunk = kSortChunk;
  static constexpr uint32_t kTokens = 2;
  static constexpr uint32_t kSamples = kMaxSamples;

  // Takes 2 * 16 + 8.5 KiB and three lists of keep + 2048 + 32 records of UB. Must begin at a multiple of 256
  // bytes, while nothing uses UB.
  __aicore__ MS_DSV32_NOINLINE void Place(UbArena& arena, uint32_t keep) {
    keep_ = keep;
    runs_[0] = arena.Take<float>(kChunk * 2);
    runs_[1] = arena.Take<float>(kChunk * 2);
    for (uint32_t i = 0; i < kTokens + 1; ++i) {
      sampled_lists_[i] = arena.Take<float>((kSamples + keep + kChunk) * 2);
      lists_[i] = sampled_lists_[i][kSamples * 2];
    }
    positions_ = arena.Take<int32_t>(kChunk);
    bits_ = arena.Take<uint8_t>(kChunk / 8);
    sampled_ = arena.Take<uint32_t>(64);  // so that what follows begins at a multiple of 256 bytes
    // Positions that pad those of kept scores are read too, so they must have been written.
    Duplicate(runs_[1], 0.0f, static_cast<int32_t>(kChunk * 2));
    for (const LocalTensor<float>& list : sampled_lists_) {
      Duplicate(list, 0.0f, static_cast<int32_t>((kSamples + keep + kChunk) * 2));
    }
    // The mask takes the last record of 32.
    Duplicate(sampled_.ReinterpretCast<int32_t>(), int32_t{0}, 8);
    PipeBarrier<PIPE_V>();
    uint64_t second[2] = {2, 0};
    Duplicate(sampled_.ReinterpretCast<int32_t>(), static_cast<int32_t>(0xc0000000u), second, static_cast<uint8_t>(1),
              static_cast<uint16_t>(1), static_cast<uint8_t>(8));
    // The positions are made once and moved from chunk to chunk, because on arch 2201 the scalar unit writes the first
    // block of a CreateVecIndex without waiting for the vector pipe.
    CreateVecIndex(positions_, int32_t{0}, kChunk);
    PipeBarrier<PIPE_V>();
    first_ = 0;
  }
  __aicore__ inline void Begin() {
    for (uint32_t i = 0; i < kTokens; ++i) {
      slot_[i] = i;
      held_[i] = 0;
      waiting_[i] = 0;
    }
    spare_ = kTokens;
  }

  // Does what can be done before the next scores are there. They begin at position `first`.
  __aicore__ inline void Expect(uint32_t first) { MovePositions(first); }
  // Adds `count` scores of token `i`. Their positions, from `first` on, follow all that the token has had. `scores` has
  // room for kChunk and is destroyed. With `more`, as many scores will follow, and sorting may wait for them. Both
  // counts are then multiples of 128.
  __aicore__ inline void Add(uint32_t i, const LocalTensor<float>& scores, uint32_t first, uint32_t count, bool more) {
    // Scores are compared in whole repeats.
    if (count % 64 != 0) {
      FillFrom(scores.ReinterpretCast<int32_t>(), count, RoundUp(count, 64), kMinusInfinity);
    }
    if (waiting_[i] > 0) {
      AddTwo(i, scores, first, count);
    } else if (held_[i] == 0 && more && keep_ > kChunk / 2) {
      // The list is empty, so the scores can wait in its place.
      PipeBarrier<PIPE_V>();
      DataCopy(lists_[slot_[i]], scores, count);
      waiting_[i] = count;
      waiting_first_ = first;
    } else if (held_[i] < keep_) {
      AddAll(i, scores, first, count);
    } else {
      // A score that is no larger than the last of a full list would come after it.
      WaitPipe<HardEvent::V_S>(kWaitFlag);
      const float last = lists_[slot_[i]].GetValue(keep_ * 2 - 2);
      WaitPipe<HardEvent::S_V>(kWaitFlag);
      const Kept kept = Keep(runs_[1], scores, first, count, CMPMODE::GT, last);
      if (kept.count > 0) {
        Insert(i, kept);
      }
    }
  }
  // The best `keep` records so far of token `i`, or as many as there are.
  __aicore__ inline RecordList List(uint32_t i) const { return {lists_[slot_[i]], held_[i]}; }

  // The list of token `i`, after up to kSamples samples: each `stride`th record of the list, with `id` instead of its
  // position. `stride` is a multiple of 32.
  __aicore__ inline LocalTensor<float> Sampled(uint32_t i, uint32_t id, uint32_t stride) const {
    const LocalTensor<float> dst = sampled_lists_[slot_[i]];
    const uint32_t samples = Min(held_[i] / stride, kSamples);
    if (samples == 0) {
      return dst;
    }
    uint64_t kept = 0;
    GatherMask(dst, lists_[slot_[i]][(stride - 32) * 2], sampled_, false, 0,
               GatherMaskParams(1, static_cast<uint16_t>(samples), static_cast<uint16_t>(stride / 4), 0), kept);
    PipeBarrier<PIPE_V>();
    uint64_t upper[2] = {0xaaaaaaaaaaaaaaaa, 0};
    Duplicate(dst.ReinterpretCast<int32_t>(), static_cast<int32_t>(id), upper, static_cast<uint8_t>(1),
              static_cast<uint16_t>(1), static_cast<uint8_t>(8));
    return dst;
  }

 private:
  static constexpr int32_t kWaitFlag = 0;  // of V_S and S_V

  // Scores and their positions, with room for kChunk.
  struct Kept {
    LocalTensor<float> scores;
    LocalTensor<int32_t> positions;
    uint32_t count;
  };

  // Copies the scores that compare as `mode` says with `bound`, and their positions, to `dst`. NaN never does.
  __aicore__ MS_DSV32_NOINLINE Kept Keep(const LocalTensor<float>& dst, const LocalTensor<float>& scores,
                                         uint32_t first, uint32_t count, CMPMODE mode, float bound) {
    MovePositions(first);
    CompareScalar(bits_, scores, bound, mode, RoundUp(count, 64));
    PipeBarrier<PIPE_V>();
    Kept kept{dst, dst[kChunk].ReinterpretCast<int32_t>(), 0};
    uint64_t unused = 0;
    const GatherMaskParams params(1, 1, 8, 0);
    const LocalTensor<uint32_t> bits = bits_.ReinterpretCast<uint32_t>();
    GatherMask(kept.positions, positions_, bits, true, count, params, unused);
    GatherMask(kept.scores, scores, bits, true, count, params, unused);
    WaitPipe<HardEvent::V_S>(kWaitFlag);
    PipeBarrier<PIPE_V>();
    // GatherMask's own output is of no use: it is the register's value at issue, before the instruction has run. The
    // register holds the count after the scalar unit has waited (asc-devkit, "asc_get_rsvd_count").
    kept.count = static_cast<uint32_t>(GetGatherMaskRemainCount());
    return kept;
  }
  __aicore__ inline void MovePositions(uint32_t first) {
    PipeBarrier<PIPE_V>();
    if (first == first_) {
      return;
    }
    Adds(positions_, positions_, static_cast<int32_t>(first - first_), static_cast<int32_t>(kChunk));
    first_ = first;
    PipeBarrier<PIPE_V>();
  }

  __aicore__ MS_DSV32_NOINLINE void AddAll(uint32_t i, const LocalTensor<float>& scores, uint32_t first,
                                           uint32_t count) {
    if (Keep(runs_[1], scores, first, count, CMPMODE::GE, -__builtin_inff()).count < count) {
      RankNanLast(scores, count);
    }
    Insert(i, {scores, positions_, count});
  }

  // Adds the scores that waited and `count` more. It guesses the last score that is needed, and leaves out those below
  // the guess. If too few remain, it adds all.
  __aicore__ MS_DSV32_NOINLINE void AddTwo(uint32_t i, const LocalTensor<float>& scores, uint32_t first,
                                           uint32_t count) {
    const LocalTensor<float> place = lists_[slot_[i]];
    const uint32_t waiting = waiting_[i];
    waiting_[i] = 0;
    // Sorts a sample of both, 8 scores of each 128: 256 scores at most.
    Duplicate(runs_[0].ReinterpretCast<int32_t>(), kMinusInfinity, 256);
    PipeBarrier<PIPE_V>();
    DataCopy(runs_[0], place, DataCopyParams(static_cast<uint16_t>(waiting / 128), 1, 15, 0));
    DataCopy(runs_[0][waiting / 16], scores, DataCopyParams(static_cast<uint16_t>(count / 128), 1, 15, 0));
    PipeBarrier<PIPE_V>();
    Sort32(runs_[1], runs_[0], positions_.ReinterpretCast<uint32_t>(), 8);
    PipeBarrier<PIPE_V>();
    MergeRuns(runs_[0], runs_[1], 32, 2);
    PipeBarrier<PIPE_V>();
    const RecordList halves[2] = {{runs_[0], 128}, {runs_[0][256], 128}};
    MergeLists(runs_[1], halves, 2);
    WaitPipe<HardEvent::V_S>(kWaitFlag);
    const float guess = runs_[1].GetValue((keep_ / 16 + kMargin) * 2);
    WaitPipe<HardEvent::S_V>(kWaitFlag);
    // `high` must lie in the second half of `place`: inserting `low` overwrites runs_[1], and may put a first list to
    // the begin of `place`.
    const Kept low = Keep(runs_[1], place, waiting_first_, waiting, CMPMODE::GE, guess);
    const Kept high = Keep(place[kChunk], scores, first, count, CMPMODE::GE, guess);
    if (low.count + high.count >= keep_) {
      if (low.count > 0) {
        Insert(i, low);
      }
      if (high.count > 0) {
        Insert(i, high);
      }
    } else {
      AddAll(i, place, waiting_first_, waiting);
      AddAll(i, scores, first, count);
    }
  }

  // NaN becomes the lowest score. Only broken data has NaN, so one element at a time is fast enough.
  __aicore__ MS_DSV32_NOINLINE void RankNanLast(const LocalTensor<float>& scores, uint32_t count) {
    const LocalTensor<int32_t> bits = scores.ReinterpretCast<int32_t>();
    for (uint32_t i = 0; i < count; ++i) {
      if ((static_cast<uint32_t>(bits.GetValue(i)) & 0x7fffffffu) > 0x7f800000u) {
        bits.SetValue(i, kMinusInfinity);
      }
    }
    WaitPipe<HardEvent::S_V>(kWaitFlag);
  }

  // Sorts scores and merges them with the list of token `i`.
  __aicore__ MS_DSV32_NOINLINE void Insert(uint32_t i, const Kept& kept) {
    const uint32_t count = kept.count;
    const uint32_t padded = RoundUp(count, 128), fours = padded / 512, left = padded % 512 / 128;
    if (count < padded) {
      FillFrom(kept.scores.ReinterpretCast<int32_t>(), count, padded, kMinusInfinity);
      PipeBarrier<PIPE_V>();
    }
    Sort32(runs_[0], kept.scores, kept.positions.ReinterpretCast<uint32_t>(), static_cast<int32_t>(padded / 32));
    PipeBarrier<PIPE_V>();
    MergeRuns(runs_[1], runs_[0], 32, padded / 128);
    PipeBarrier<PIPE_V>();
    // The list that the token holds is merged with runs of 512, and with a last run of the rest without its padding.
    RecordList lists[5];
    uint32_t n = 0;
    if (held_[i] > 0) {
      lists[n++] = {lists_[slot_[i]], held_[i]};
    }
    if (fours > 0) {
      MergeRuns(runs_[0], runs_[1], 128, fours);
    }
    for (uint32_t k = 0; k < fours; ++k) {
      lists[n++] = {runs_[0][k * 1024], Min(512, count - k * 512)};
    }
    if (left > 0) {
      const uint32_t done = fours * 512;
      RecordList rest[3];
      for (uint32_t k = 0; k < left; ++k) {
        rest[k] = {runs_[1][(done + k * 128) * 2], Min(128, count - done - k * 128)};
      }
      lists[n++] = {left == 1 ? rest[0].records : runs_[0][done * 2], count - done};
      if (left > 1) {
        MergeLists(lists[n - 1].records, rest, left);
      }
    }
    PipeBarrier<PIPE_V>();
    if (n > 4) {  // the list and four runs. runs_[1] is free but for what may be left after three runs of 512
      MergeLists(runs_[1], lists + 3, 2);
      PipeBarrier<PIPE_V>();
      lists[3] = {runs_[1], lists[3].count + lists[4].count};
      n = 4;
    }
    if (n == 1) {
      DataCopy(lists_[slot_[i]], lists[0].records, RoundUp(count, 4) * 2);
    } else {
      MergeLists(lists_[spare_], lists, n);
      const uint32_t before = slot_[i];
      slot_[i] = spare_;
      spare_ = before;
    }
    PipeBarrier<PIPE_V>();
    held_[i] = Min(keep_, held_[i] + count);
  }

  // Places in the sorted sample between the expected place of the last score that is needed and the guess: 2.5 standard
  // deviations, each sqrt(256 / 4) = 8 at most.
  static constexpr uint32_t kMargin = 20;

  uint32_t keep_ = 0;
  LocalTensor<float> runs_[2], sampled_lists_[kTokens + 1], lists_[kTokens + 1];
  LocalTensor<int32_t> positions_;
  LocalTensor<uint8_t> bits_;
  LocalTensor<uint32_t> sampled_;
  uint32_t first_ = 0;  // the first of positions_
  uint32_t slot_[kTokens] = {}, held_[kTokens] = {}, spare_ = 0;
  // Scores that wait to be sorted, in the place of the list.
  uint32_t waiting_[kTokens] = {}, waiting_first_ = 0;
};

// Merges many sorted lists.
class ListMerger {
 public:
  // Takes 8 bytes of UB for each record.
  __aicore__ inline void Place(UbArena& arena, uint32_t records) { area_ = arena.Take<float>(records * 2); }
  __aicore__ inline LocalTensor<float> At(uint32_t record) const { return area_[record * 2]; }
  // Lists are added in the order of their positions. Three parts of `part` records begin at record `begin`. The lists
  // are in the first part, and each pass of merging writes to the next part in turn.
  __aicore__ inline void Begin(uint32_t begin, uint32_t part) {
    begin_ = begin;
    part_ = part;
    count_ = 0;
  }
  // Adds a list at record `at`, a multiple of four, because records are read in blocks of 32 bytes.
  __aicore__ inline void Add(uint32_t at, uint32_t length) {
    if (length == 0) {
      return;
    }
    at_[count_] = at;
    length_[count_++] = length;
  }
  // Merges all lists to one, cut after `keep` records.
  __aicore__ MS_DSV32_NOINLINE RecordList Merge(uint32_t keep) {
    for (uint32_t part = 1; count_ > 1; part = part == 2 ? 0 : part + 1) {
      // The first pass leaves a power of four, and lists that it need not touch where they are.
      uint32_t left = 1;
      while (left * 4 < count_) {
        left *= 4;
      }
      uint32_t surplus = count_ - left, merged = 0, used = begin_ + part * part_;
      for (uint32_t i = 0; i < count_; ++merged) {
        const uint32_t n = surplus == 0 ? 1 : surplus % 3 == 0 ? 4 : surplus % 3 + 1;
        if (n == 1) {
          at_[merged] = at_[i];
          length_[merged] = length_[i];
        } else {
          RecordList lists[4];
          uint32_t sum = 0;
          for (uint32_t k = 0; k < n; ++k) {
            lists[k] = {At(at_[i + k]), length_[i + k]};
            sum += length_[i + k];
          }
          MergeLists(At(used), lists, n);
          at_[merged] = used;
          length_[merged] = Min(sum, keep);
          used += RoundUp(sum, 4);
        }
        i += n;
        surplus -= n - 1;
      }
      PipeBarrier<PIPE_V>();
      count_ = merged;
    }
    return {At(count_ == 0 ? begin_ : at_[0]), count_ == 0 ? 0 : Min(length_[0], keep)};
  }

 private:
  LocalTensor<float> area_;
  uint32_t at_[kMaxLists] = {}, length_[kMaxLists] = {};
  uint32_t begin_ = 0, part_ = 0, count_ = 0;
};

// Extracts the positions of `records` sorted records, a multiple of 32.
__aicore__ inline void RecordPositions(const LocalTensor<int32_t>& dst, const LocalTensor<float>& list,
                                       uint32_t records) {
  uint64_t kept = 0;
  GatherMask(dst, list.ReinterpretCast<int32_t>(), static_cast<uint8_t>(2), false, 0,
             GatherMaskParams(1, static_cast<uint16_t>(records / 32), 8, 0), kept);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_TOPK_H_
