// Keys of the paged caches by position: cache rows, the gather of many rows, and their dequantisation.
#ifndef MS_DSV32_ASCENDC_GATHER_H_
#define MS_DSV32_ASCENDC_GATHER_H_

#include "copy.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

constexpr int32_t kNoRow = -1;

// The pages of one sequence. `table` is its row of block_table, in UB, readable by the scalar unit.
struct PagedSequence {
  LocalTensor<int32_t> table;
  int32_t length = 0;  // positions
  int32_t table_columns = 0, block_size = 1, block_num = 0;

  // Cache row of a position, kNoRow for one outside the sequence or without a block of the cache.
  __aicore__ inline int32_t Row(int32_t position) const {
    if (position < 0 || position >= length) return kNoRow;
    const int32_t column = position / block_size;
    if (column >= table_columns) return kNoRow;
    const int32_t block = table.GetValue(column);
    if (block < 0 || block >= block_num) return kNoRow;
    return block * block_size + (position - column * block_size);
  }
};

// Rows `row0` and, unless it is kNoRow, `row1` (> row0) of a cache of `width` columns to UB, each on whole blocks of 32
// bytes. The bytes between them must fit in 32 bits.
template <typename T>
__aicore__ inline void CopyCacheRows(const LocalTensor<T>& dst, const GlobalTensor<T>& cache, uint32_t width,
                                     int32_t row0, int32_t row1) {
  constexpr uint32_t kSize = sizeof(T);
  DataCopyExtParams params;
  params.blockCount = row1 == kNoRow ? 1 : 2;
  params.blockLen = width * kSize;
  params.srcStride = row1 == kNoRow ? 0 : static_cast<uint32_t>(row1 - row0 - 1) * width * kSize;
  params.dstStride = 0;
  const DataCopyPadExtParams<T> pad{};
  DataCopyPad(dst, cache[static_cast<uint64_t>(row0) * width], params, pad);
}

// Gathers rows of the int8 latent cache, the bf16 rope cache and the scales, and dequantises the latent part to bf16.
class KeyGather {
 public:
  static constexpr uint32_t kLatent = 512, kRope = 64, kGroups = 4, kGroup = kLatent / kGroups;
  static constexpr uint32_t kBatch = 16;  // rows in flight in one slot
  // A slot is taken from its copies in to its copies out: two latencies of GM and the arithmetic. Four keep MTE2 busy.
  static constexpr uint32_t kInSlots = 4;
  static constexpr uint32_t kScaleStride = 8;  // a row's 4 scales arrive on a block of 8

  __aicore__ inline void Init(const GlobalTensor<int8_t>& latent, const GlobalTensor<bfloat16_t>& rope,
                              const GlobalTensor<float>& scales) {
    latent_ = latent;
    rope_ = rope;
    scales_ = scales;
  }
  static constexpr uint32_t kHalf = kBatch / 2;  // rows that are dequantised at a time
  static constexpr uint32_t kBytes = kInSlots * kBatch * (kLatent + kRope * 2 + kScaleStride * 4) +
                                     2 * kBatch * kLatent * 2 + kBatch * kScaleStride * 8 * 4 + kHalf * kLatent * 4;

  // Takes kBytes of UB.
  __aicore__ inline void Place(UbArena& arena) {
    for (uint32_t slot = 0; slot < kInSlots; ++slot) {
      k8_[slot] = arena.Take<int8_t>(kBatch * kLatent);
      kr_[slot] = arena.Take<bfloat16_t>(kBatch * kRope);
      scale_[slot] = arena.Take<float>(kBatch * kScaleStride);
    }
    for (uint32_t slot = 0; slot < 2; ++slot) k_[slot] = arena.Take<bfloat16_t>(kBatch * kLatent);
    spread_ = arena.Take<float>(kBatch * kScaleStride * 8);
    k32_ = arena.Take<float>(kHalf * kLatent);
  }
  __aicore__ inline void Begin() {
    for (uint32_t slot = 0; slot < kInSlots; ++slot) SetFlag<HardEvent::MTE3_MTE2>(static_cast<int32_t>(slot));
    in_slot_ = 0;
    out_.Begin();
  }
  __aicore__ inline void End() {
    for (uint32_t slot = 0; slot < kInSlots; ++slot) WaitFlag<HardEvent::MTE3_MTE2>(static_cast<int32_t>(slot));
    out_.End();
  }

  // The keys of `count` <= kBatch cache rows to rows of `latent_out` and `rope_out`; kNoRow gives zeros. Two
  // neighbouring rows may change places: in ascending order one copy fetches both.
  __aicore__ inline void Batch(const int32_t* rows, uint32_t count, const GlobalTensor<bfloat16_t>& latent_out,
                               const GlobalTensor<bfloat16_t>& rope_out) {
    bool any[2] = {false, false};  // of each half
    const uint32_t in = in_slot_;
    const int32_t flag = static_cast<int32_t>(in);
    in_slot_ = (in_slot_ + 1) % kInSlots;
    WaitFlag<HardEvent::MTE3_MTE2>(flag);
    for (uint32_t i = 0; i < count; ++i) {
      if (rows[i] == kNoRow) continue;
      any[i / kHalf] = true;
      if (i + 1 < count && rows[i + 1] != kNoRow && rows[i + 1] != rows[i] && Near(rows[i], rows[i + 1])) {
        const bool ascend = rows[i + 1] > rows[i];
        CopyRows(in, i, ascend ? rows[i] : rows[i + 1], ascend ? rows[i + 1] : rows[i]);
        ++i;
        any[i / kHalf] = true;
      } else {
        CopyRows(in, i, rows[i], kNoRow);
      }
    }
    SetFlag<HardEvent::MTE2_V>(flag);
    const uint32_t out = out_.Acquire();
    WaitFlag<HardEvent::MTE2_V>(flag);
    // int8 reaches float through half, which holds it exactly and lies where the result will.
    if (any[0] || any[1]) {
      const LocalTensor<half> k16 = k_[out].template ReinterpretCast<half>();
      Cast(k16, k8_[in], RoundMode::CAST_NONE, count * kLatent);
      Brcb(spread_, scale_[in], static_cast<uint8_t>(count), BrcbRepeatParams(1, 8));
      PipeBarrier<PIPE_V>();
      for (uint32_t row = 0; row < count; row += kHalf) {
        if (!any[row / kHalf]) continue;
        const uint32_t part = Smaller(kHalf, count - row);
        Cast(k32_, k16[row * kLatent], RoundMode::CAST_NONE, part * kLatent);
        PipeBarrier<PIPE_V>();
        for (uint32_t c = 0; c < kLatent / 64; ++c) {
          Mul(k32_[c * 64], k32_[c * 64], spread_[row * kScaleStride * 8 + c * 64 / kGroup * 8],
              static_cast<uint64_t>(64), static_cast<uint8_t>(part),
              BinaryRepeatParams(1, 1, 0, kLatent / 8, kLatent / 8, kScaleStride));
        }
        PipeBarrier<PIPE_V>();
        Cast(k_[out][row * kLatent], k32_, RoundMode::CAST_RINT, part * kLatent);
        PipeBarrier<PIPE_V>();
      }
    }
    for (uint32_t i = 0; i < count; ++i) {
      if (rows[i] != kNoRow) continue;
      Duplicate(k_[out][i * kLatent].ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
                static_cast<int32_t>(kLatent));
      Duplicate(kr_[in][i * kRope].ReinterpretCast<int16_t>(), static_cast<int16_t>(0), static_cast<int32_t>(kRope));
    }
    out_.Publish();
    out_.Take();
    DataCopy(latent_out, k_[out], count * kLatent);
    DataCopy(rope_out, kr_[in], count * kRope);
    out_.Release();
    // What was copied in is free when this batch is out: kr_ goes out as it came.
    SetFlag<HardEvent::MTE3_MTE2>(flag);
  }

 private:
  // Whether one copy can fetch both rows.
  static __aicore__ inline bool Near(int32_t a, int32_t b) {
    return (a < b ? b - a : a - b) <= static_cast<int32_t>(0xffffffffu / kLatent);
  }
  __aicore__ inline void CopyRows(uint32_t slot, uint32_t i, int32_t row0, int32_t row1) {
    CopyCacheRows(k8_[slot][i * kLatent], latent_, kLatent, row0, row1);
    CopyCacheRows(kr_[slot][i * kRope], rope_, kRope, row0, row1);
    CopyCacheRows(scale_[slot][i * kScaleStride], scales_, kGroups, row0, row1);
  }

  GlobalTensor<int8_t> latent_;
  GlobalTensor<bfloat16_t> rope_;
  GlobalTensor<float> scales_;
  LocalTensor<int8_t> k8_[kInSlots];
  LocalTensor<bfloat16_t> kr_[kInSlots], k_[2];
  LocalTensor<float> scale_[kInSlots], spread_, k32_;
  uint32_t in_slot_ = 0;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, 0> out_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_GATHER_H_
