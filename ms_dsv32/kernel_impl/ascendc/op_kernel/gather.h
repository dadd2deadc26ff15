// Keys of the paged caches by position: cache rows, the gather of many rows, and their dequantisation.
#ifndef MS_DSV32_ASCENDC_GATHER_H_
#define MS_DSV32_ASCENDC_GATHER_H_

#include "copy.h"
#include "dims.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

constexpr int32_t kNoRow = -1;

// The pages of one sequence. `table` is its row of block_table, in UB, readable by the scalar unit.
struct PagedSequence {
  LocalTensor<int32_t> table;
  int32_t length = 0;  // positions
  int32_t table_columns = 0, block_size = 1, block_num = 0;
  // The block that was looked up last: its first position, and the cache row of that.
  int32_t first = 0, first_row = kNoRow;

  // Cache row of a position. kNoRow for a position outside the sequence or without a block of the cache. Neighbours are
  // often in one block, which is looked up once for them.
  __aicore__ inline int32_t Row(int32_t position) {
    if (position < 0 || position >= length) {
      return kNoRow;
    }
    if (first_row == kNoRow || position < first || position - first >= block_size) {
      first_row = kNoRow;
      const int32_t column = position / block_size;
      if (column >= table_columns) {
        return kNoRow;
      }
      const int32_t block = table.GetValue(column);
      if (block < 0 || block >= block_num) {
        return kNoRow;
      }
      first = column * block_size;
      first_row = block * block_size;
    }
    return first_row + (position - first);
  }
};

// Copies `count` rows of a cache of `width` columns to UB. The first is `row`, and each next one is `distance` > 0
// after the one before. Each begins on a block of 32 bytes, with `gap` elements, also whole blocks, between them. The
// bytes between two rows of the cache must fit in 32 bits.
template <typename T>
__aicore__ inline void CopyCacheRows(const LocalTensor<T>& dst, const GlobalTensor<T>& cache, uint32_t width,
                                     int32_t row, uint32_t count, uint32_t distance, uint32_t gap) {
  constexpr uint32_t kSize = sizeof(T);
  const DataCopyExtParams params(static_cast<uint16_t>(count), width * kSize, (distance - 1) * width * kSize,
                                 gap * kSize / 32, 0);
  const DataCopyPadExtParams<T> pad{};
  DataCopyPad(dst, cache[static_cast<uint64_t>(row) * width], params, pad);
}

// Gathers rows of the int8 latent cache, the bf16 rope cache and the scales, and dequantises the latent part to bf16.
// The issue of a copy costs more than its bytes, so the class makes few copies. One copy takes latents of rows at equal
// distances, which two rows in ascending order always are. Rope parts and scales are short. One copy takes those of all
// rows from the first to the last of a stretch that ascends slowly, whether they are asked for or not. They come to a
// stage in UB.
class KeyGather {
 public:
  static constexpr uint32_t kBatch = 16;         // rows in flight in one slot
  static constexpr uint32_t kHalf = kBatch / 2;  // rows that are looked up, dequantised and copied out at a time
  // A slot of the input is taken from its copies in until the arithmetic, and a slot of the output, half a batch, from
  // there until it is copied out. Each is taken about a latency of GM longer than MTE2 needs for a batch, or the vector
  // pipe for half a batch.
  static constexpr uint32_t kInSlots = 3, kOutSlots = 3;
  // Rows of a slot's stage. A row that comes alone or in a pair takes two, because its scales take a block of 32 bytes.
  static constexpr uint32_t kFewestStageRows = 2 * kBatch;
  static constexpr uint32_t kStageBytes =
      kInSlots * (kRopeDim * 2 + kKScaleGroups * 4) + kKScaleGroups * 32;  // of a row
  static constexpr uint32_t kBytes = kInSlots * kBatch * kKvLoraRank +
                                     kOutSlots * kHalf * (kKvLoraRank + kRopeDim) * 2 +
                                     kHalf * (kKvLoraRank * 4 + kKScaleGroups * 32);

  __aicore__ inline KeyGather(const GlobalTensor<int8_t>& latent, const GlobalTensor<bfloat16_t>& rope,
                              const GlobalTensor<float>& scales)
      : latent_(latent), rope_(rope), scales_(scales) {}
  // Takes kBytes of UB, and kStageBytes for each row of the stage.
  __aicore__ inline void Place(UbArena& arena, uint32_t stage_rows) {
    stage_rows_ = stage_rows;
    for (uint32_t slot = 0; slot < kInSlots; ++slot) {
      k8_[slot] = arena.Take<int8_t>(kBatch * kKvLoraRank);
      rope_stage_[slot] = arena.Take<bfloat16_t>(stage_rows * kRopeDim);
      scale_stage_[slot] = arena.Take<float>(stage_rows * kKScaleGroups);
    }
    for (uint32_t slot = 0; slot < kOutSlots; ++slot) {
      k_[slot] = arena.Take<bfloat16_t>(kHalf * kKvLoraRank);
      kr_[slot] = arena.Take<bfloat16_t>(kHalf * kRopeDim);
    }
    spread_ = arena.Take<float>(stage_rows * kKScaleGroups * 8);
    k32_ = arena.Take<float>(kHalf * kKvLoraRank);
    row_scales_ = arena.Take<float>(kHalf * kKScaleGroups * 8);
  }
  __aicore__ inline void Begin() {
    for (uint32_t slot = 0; slot < kInSlots; ++slot) {
      SetFlag<HardEvent::V_MTE2>(static_cast<int32_t>(slot));
    }
    slot_ = 0;
    out_.Begin();
  }
  __aicore__ inline void End() {
    for (uint32_t slot = 0; slot < kInSlots; ++slot) {
      WaitFlag<HardEvent::V_MTE2>(static_cast<int32_t>(slot));
    }
    out_.End();
  }

  // A batch: Acquire, Fetch of its halves, FetchRest, Dequantise of its halves, Release. Row i of the batch is
  // `rows[i]` of the caches, or zeros for kNoRow. Fetch may exchange neighbours.
  __aicore__ inline void Acquire() {
    slot_ = (slot_ + 1) % kInSlots;
    WaitFlag<HardEvent::V_MTE2>(static_cast<int32_t>(slot_));
  }
  __aicore__ MS_DSV32_NOINLINE void Fetch(int32_t* rows, uint32_t half) {
    const uint32_t end = (half + 1) * kHalf;
    for (uint32_t i = half * kHalf; i < end;) {
      if (rows[i] == kNoRow) {
        ++i;
        continue;
      }
      uint32_t count = 1;
      if (i + 1 < end && rows[i + 1] != kNoRow && rows[i + 1] != rows[i]) {
        if (rows[i + 1] < rows[i]) {
          const int32_t row = rows[i];
          rows[i] = rows[i + 1];
          rows[i + 1] = row;
        }
        if (Near(rows[i], rows[i + 1])) {
          count = 2;
        }
      }
      const int32_t distance = count == 2 ? rows[i + 1] - rows[i] : 1;
      while (count > 1 && i + count < end && rows[i + count] - rows[i + count - 1] == distance) {
        ++count;
      }
      CopyCacheRows(k8_[slot_][i * kKvLoraRank], latent_, kKvLoraRank, rows[i], count, static_cast<uint32_t>(distance),
                    0);
      i += count;
    }
  }

  // Fetches the rope parts and scales, which Fetch leaves out.
  __aicore__ MS_DSV32_NOINLINE void FetchRest(const int32_t* rows) {
    const int32_t flag = static_cast<int32_t>(slot_);
    const uint32_t stage_rows = FetchShort(rows);
    SetFlag<HardEvent::MTE2_V>(flag);
    WaitFlag<HardEvent::MTE2_V>(flag);
    if (stage_rows > 0) {
      Brcb(spread_, scale_stage_[slot_], static_cast<uint8_t>(stage_rows / 2), BrcbRepeatParams(1, 8));
    }
  }
  // Dequantises half `part` of the batch, and copies it to rows of `latent_out` and `rope_out`.
  __aicore__ MS_DSV32_NOINLINE void Dequantise(const int32_t* rows, uint32_t part,
                                               const GlobalTensor<bfloat16_t>& latent_out,
                                               const GlobalTensor<bfloat16_t>& rope_out) {
    const uint32_t first = part * kHalf, out = out_.Acquire();
    bool any = false;
    for (uint32_t i = first; i < first + kHalf; ++i) {
      any = any || rows[i] != kNoRow;
    }
    if (any) {
      // int8 goes to float through half, which holds it exactly. The halves lie where the result will.
      const LocalTensor<half> k16 = k_[out].template ReinterpretCast<half>();
      Cast(k16, k8_[slot_][first * kKvLoraRank], RoundMode::CAST_NONE, kHalf * kKvLoraRank);
      PipeBarrier<PIPE_V>();
      Cast(k32_, k16, RoundMode::CAST_NONE, kHalf * kKvLoraRank);
      TakeStaged(rows, first, kr_[out]);
      PipeBarrier<PIPE_V>();
      // Two repeats share a scale. One instruction takes the even repeats of all rows, and one the odd ones.
      for (uint32_t c = 0; c < kScaleGroup; c += 64) {
        Mul(k32_[c], k32_[c], row_scales_, static_cast<uint64_t>(64), static_cast<uint8_t>(kHalf * kKScaleGroups),
            BinaryRepeatParams(1, 1, 0, kScaleGroup / 8, kScaleGroup / 8, 1));
      }
      PipeBarrier<PIPE_V>();
      Cast(k_[out], k32_, RoundMode::CAST_RINT, kHalf * kKvLoraRank);
      PipeBarrier<PIPE_V>();
    }
    for (uint32_t i = first; i < first + kHalf; ++i) {
      if (rows[i] != kNoRow) {
        continue;
      }
      Duplicate(k_[out][(i - first) * kKvLoraRank].ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
                static_cast<int32_t>(kKvLoraRank));
      Duplicate(kr_[out][(i - first) * kRopeDim].ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
                static_cast<int32_t>(kRopeDim));
    }
    out_.Publish();
    out_.Take();
    DataCopy(latent_out, k_[out], kHalf * kKvLoraRank);
    DataCopy(rope_out, kr_[out], kHalf * kRopeDim);
    out_.Release();
  }
  // Returns the slot of Acquire.
  __aicore__ inline void Release() { SetFlag<HardEvent::V_MTE2>(static_cast<int32_t>(slot_)); }

 private:
  static constexpr int32_t kOutFlag = 0;  // the first flag of out_
  // A stretch with so many rows for each one that is asked for is still copied as a whole. With more, the bytes between
  // would cost as much as the copies that are saved.
  static constexpr uint32_t kWidestStretch = 6;

  // Whether one copy can fetch both rows, a < b.
  static __aicore__ inline bool Near(int32_t a, int32_t b) {
    return b - a <= static_cast<int32_t>(0xffffffffu / kKvLoraRank);
  }

  // Takes rows [first, first + kHalf) of the batch from the stage: rope parts to `rope`, spread scales to row_scales_.
  // Both have 128 bytes a row. One instruction takes rows at equal distances in the stage, as those of a pair are.
  __aicore__ inline void TakeStaged(const int32_t* rows, uint32_t first, const LocalTensor<bfloat16_t>& rope) {
    constexpr uint32_t kBlocks = kRopeDim * 2 / 32;
    static_assert(kBlocks == kKScaleGroups);
    const uint32_t end = first + kHalf;
    for (uint32_t i = first; i < end;) {
      if (rows[i] == kNoRow) {
        ++i;
        continue;
      }
      uint32_t count = 1, distance = 1;
      if (i + 1 < end && rows[i + 1] != kNoRow && staged_[i + 1] > staged_[i]) {
        distance = staged_[i + 1] - staged_[i];
        for (count = 2; i + count < end && rows[i + count] != kNoRow; ++count) {
          if (staged_[i + count] != staged_[i + count - 1] + distance) {
            break;
          }
        }
      }
      const DataCopyParams params(static_cast<uint16_t>(count), static_cast<uint16_t>(kBlocks),
                                  static_cast<uint16_t>((distance - 1) * kBlocks), 0);
      DataCopy(rope[(i - first) * kRopeDim], rope_stage_[slot_][staged_[i] * kRopeDim], params);
      DataCopy(row_scales_[(i - first) * kKScaleGroups * 8], spread_[staged_[i] * kKScaleGroups * 8], params);
      i += count;
    }
  }

  // Fetches the rope parts and scales of `rows`. Those of rows[i] come to row staged_[i] of the stage. Returns how many
  // rows of the stage are used, an even number.
  __aicore__ MS_DSV32_NOINLINE uint32_t FetchShort(const int32_t* rows) {
    const LocalTensor<bfloat16_t> rope = rope_stage_[slot_];
    const LocalTensor<float> scales = scale_stage_[slot_];
    uint32_t used = 0;
    for (uint32_t i = 0; i < kBatch;) {
      if (rows[i] == kNoRow) {
        ++i;
        continue;
      }
      // Looks for the longest stretch that ascends slowly from here and leaves two rows of the stage for each row after
      // it.
      uint32_t count = 1, span = 1;
      for (uint32_t k = 1; i + k < kBatch && rows[i + k] > rows[i + k - 1]; ++k) {
        const uint32_t wider = static_cast<uint32_t>(rows[i + k] - rows[i]) + 1;
        if (used + RoundUp(wider, 2) + 2 * (kBatch - i - k - 1) > stage_rows_) {
          break;
        }
        if (wider > kWidestStretch * (k + 1)) {
          continue;
        }
        count = k + 1;
        span = wider;
      }
      if (count > 2) {
        CopyIn(rope[used * kRopeDim], rope_[static_cast<uint64_t>(rows[i]) * kRopeDim], span * kRopeDim);
        CopyIn(scales[used * kKScaleGroups], scales_[static_cast<uint64_t>(rows[i]) * kKScaleGroups],
               span * kKScaleGroups);
        for (uint32_t k = i; k < i + count; ++k) {
          staged_[k] = used + static_cast<uint32_t>(rows[k] - rows[i]);
        }
        used += RoundUp(span, 2);
      } else {
        const bool two = i + 1 < kBatch && rows[i + 1] > rows[i] && Near(rows[i], rows[i + 1]);
        count = two ? 2 : 1;
        const uint32_t distance = two ? static_cast<uint32_t>(rows[i + 1] - rows[i]) : 1;
        CopyCacheRows(rope[used * kRopeDim], rope_, kRopeDim, rows[i], count, distance, kRopeDim);
        CopyCacheRows(scales[used * kKScaleGroups], scales_, kKScaleGroups, rows[i], count, distance, 0);
        for (uint32_t k = 0; k < count; ++k) {
          staged_[i + k] = used + 2 * k;
        }
        used += 2 * count;
      }
      i += count;
    }
    return used;
  }

  GlobalTensor<int8_t> latent_;
  GlobalTensor<bfloat16_t> rope_;
  GlobalTensor<float> scales_;
  LocalTensor<int8_t> k8_[kInSlots];
  LocalTensor<bfloat16_t> rope_stage_[kInSlots], k_[kOutSlots], kr_[kOutSlots];
  LocalTensor<float> scale_stage_[kInSlots], spread_, k32_, row_scales_;
  uint32_t staged_[kBatch];
  uint32_t slot_ = 0, stage_rows_ = 0;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kOutFlag, kOutSlots> out_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_GATHER_H_
