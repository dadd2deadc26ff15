// The cube half of sparse_flash_attention_quant: scores and weighted sums of keys. See attention_plan.h.
#ifndef MS_DSV32_ASCENDC_ATTENTION_CUBE_H_
#define MS_DSV32_ASCENDC_ATTENTION_CUBE_H_

#include "attention_plan.h"
#include "copy.h"
#include "cube_tile.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

class AttentionCube {
 public:
  __aicore__ inline AttentionCube(TPipe& pipe, const AttentionArguments& arguments, const AttentionTiling& tiling)
      : plan_(arguments, tiling, static_cast<uint32_t>(GetBlockIdx())), tiling_(tiling) {
    const uint64_t rows = static_cast<uint64_t>(tiling_.t) * tiling_.n_q;
    query_nope_ = Global<bfloat16_t>(arguments.query_nope, rows * kKvLoraRank);
    query_rope_ = Global<bfloat16_t>(arguments.query_rope, rows * kRopeDim);
    attention_out_ = Global<bfloat16_t>(arguments.attention_out, rows * kKvLoraRank);
    pipe.InitBuffer(l1_, kQueryBytes + kStreamSlots * kStreamBytes);
    pipe.InitBuffer(l0a_, 2 * kL0Bytes);
    pipe.InitBuffer(l0b_, 2 * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * kL0CBytes);
  }

  __aicore__ inline void Run() {
    stream_slots_.Begin();
    l0_slots_.Begin();
    SetFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    SetFlag<HardEvent::FIX_M>(kFirstHalf);
    SetFlag<HardEvent::FIX_M>(kSecondHalf);
    const uint32_t tasks = plan_.Tasks();
    AttentionTask previous{}, task = plan_.Task(0);
    LoadQuery(task);
    for (uint32_t index = 0; index < tasks; ++index) {
      const AttentionTask next = index + 1 < tasks ? plan_.Task(index + 1) : AttentionTask{};
      Scores(task, index);
      if (index > 0) {
        Output(previous, index - 1);
      }
      LoadQuery(next);
      previous = task;
      task = next;
    }
    // No query comes after this one, so that its place is one more slot.
    stream_slots_.Grow();
    Output(previous, tasks - 1);
    WaitFlag<HardEvent::FIX_M>(kFirstHalf);
    WaitFlag<HardEvent::FIX_M>(kSecondHalf);
    stream_slots_.End();
    l0_slots_.End();
  }

 private:
  // L1 takes 147456 + 3 * 125440 = 523776 of 524032 bytes, L0A and L0B 2 * 32768 each, and L0C 2 * 65536.
  static constexpr uint32_t kQueryBytes = 128 * kKeyDim * 2;
  static constexpr uint32_t kStreamSlots = 3;
  static constexpr uint32_t kStreamBytes = 125440;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kL0CBytes = 65536;
  static constexpr int32_t kStreamFlag = 0;
  static constexpr int32_t kQueryFlag = kStreamFlag + kStreamSlots;  // the place of the query becomes one more slot
  static constexpr uint32_t kScoreStep = 96;       // K of a product, of 576: 128 x 96 are 24 KiB of L0A
  static constexpr uint32_t kOutputColumns = 256;  // 128 x 256 floats fill L0C
  static_assert(kScoreTile * kKeyDim * 2 <= kStreamBytes && kStreamBytes <= kQueryBytes &&
                128 * kScoreTile * 4 <= kL0CBytes);

  // Loads the query of a task as soon as the query of the task before it is used up.
  __aicore__ inline void LoadQuery(const AttentionTask& task) {
    if (task.key_begin == task.key_end) {
      return;
    }
    const uint32_t m16 = RoundUp(task.heads, kFractal);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q;
    const LocalTensor<bfloat16_t> query = l1_.GetWithOffset<bfloat16_t>(kQueryBytes / 2, 0);
    WaitFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    CopyNdToL1(query, query_nope_[row * kKvLoraRank], task.heads, kKvLoraRank, kKvLoraRank, m16);
    CopyNdToL1(query[kKvLoraRank * m16], query_rope_[row * kRopeDim], task.heads, kRopeDim, kRopeDim, m16);
    SetFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
  }

  // (3) scores of this core's keys in float32, over nope and rope parts together. The AIVs scale them.
  __aicore__ inline void Scores(const AttentionTask& task, uint32_t index) {
    if (task.key_begin < task.key_end) {
      const uint32_t m16 = RoundUp(task.heads, kFractal);
      const LocalTensor<bfloat16_t> query = l1_.GetWithOffset<bfloat16_t>(kQueryBytes / 2, 0);
      const GlobalTensor<bfloat16_t> latent = plan_.Latent(index), rope = plan_.Rope(index);
      const GlobalTensor<float> scores = plan_.Scores(index);
      WaitFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
      for (uint32_t key0 = task.key_begin; key0 < task.key_end; key0 += tiling_.score_tile) {
        if ((key0 - task.key_begin) % tiling_.key_chunk == 0) {
          AwaitCore(kKeysReady);
        }
        const uint32_t n = Min(tiling_.score_tile, task.key_end - key0);
        const LocalTensor<bfloat16_t> keys = Stream(stream_slots_.Acquire());
        CopyNdToL1(keys, latent[key0 * kKvLoraRank], n, kKvLoraRank, kKvLoraRank, n);
        CopyNdToL1(keys[kKvLoraRank * n], rope[key0 * kRopeDim], n, kRopeDim, kRopeDim, n);
        stream_slots_.Publish();
        stream_slots_.Take();
        WaitFlag<HardEvent::FIX_M>(static_cast<int32_t>(l0c_slot_));
        const LocalTensor<float> c = l0c_.GetWithOffset<float>(kL0CBytes / 4, l0c_slot_ * kL0CBytes);
        for (uint32_t k = 0; k < kKeyDim; k += kScoreStep) {
          const uint32_t l0 = l0_slots_.Acquire();
          LoadA(L0a(l0), query, m16, k, kScoreStep);
          LoadBTransposed(L0b(l0), keys, n, k, kScoreStep, 0, n);
          l0_slots_.Publish();
          l0_slots_.Take();
          Multiply(c, L0a(l0), L0b(l0), task.heads, n, kScoreStep, k == 0);
          l0_slots_.Release();
        }
        stream_slots_.Release();
        WaitPipe<HardEvent::M_FIX>(static_cast<int32_t>(l0c_slot_));
        StoreC(scores[key0], c, task.heads, m16, 0, n, tiling_.key_rows);
        SetFlag<HardEvent::FIX_M>(static_cast<int32_t>(l0c_slot_));
        l0c_slot_ ^= 1;
      }
      SetFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    }
    // The AICs tell each other. If the AIVs did, their flag would wait for what MTE3 writes of the next task.
    if (tiling_.team > 1) {
      CrossCoreSetFlag<0, PIPE_FIX>(kScoresShared);
      CrossCoreWaitFlag(kScoresShared);
    }
    NotifyVectors(kScoresReady);
  }

  // What this core computes of a token's output. The columns are computed in tiles of `columns`.
  struct OutputPart {
    uint32_t head, heads, m16;
    uint32_t column, columns, column_end;
    uint32_t tile;  // keys of a tile: their probabilities and `deep` tiles of keys fit into a slot of L1
    uint32_t deep;  // tiles of keys that are loaded to a slot before the probabilities
    uint32_t step;  // keys that fit into a slot of L0A and of L0B
  };

  // (5) this core's part of the weighted sum of the dequantised keys, in float32, rounded to bf16.
  __aicore__ inline void Output(const AttentionTask& task, uint32_t index) {
    const uint32_t head_part = plan_.Member() / tiling_.column_parts,
                   column_part = plan_.Member() % tiling_.column_parts;
    OutputPart part{};
    if (task.keys > 0 && head_part < tiling_.head_parts) {
      const uint32_t fractals = CeilDiv(task.heads, kFractal), columns = kKvLoraRank / kFractal;
      part.head = ShareBegin(fractals, head_part, tiling_.head_parts) * kFractal;
      part.heads = Min(ShareBegin(fractals, head_part + 1, tiling_.head_parts) * kFractal, task.heads) - part.head;
      part.column = ShareBegin(columns, column_part, tiling_.column_parts) * kFractal;
      part.column_end = ShareBegin(columns, column_part + 1, tiling_.column_parts) * kFractal;
      part.columns = Min(kOutputColumns, part.column_end - part.column);
      part.m16 = RoundUp(part.heads, kFractal);
      part.deep = 2;
      part.tile = TileKeys(part);
      if (index + 1 < plan_.Tasks() || !WaitsForCopies(part, task.keys)) {
        part.deep = 1;
        part.tile = TileKeys(part);
      }
      const uint32_t most = kL0Bytes / 2 / Max(part.m16, part.columns);
      part.step = RoundUp(CeilDiv(part.tile, CeilDiv(part.tile, most / kFractal * kFractal)), kFractal);
    }
    // Keys are loaded before the probabilities are there. Only the last task loads many of them, because the others
    // seldom wait.
    uint32_t loaded = 0;
    const uint32_t ahead = index + 1 == plan_.Tasks() ? stream_slots_.Slots() : 1;
    for (; loaded < ahead && loaded * part.deep * part.tile < task.keys && part.heads > 0; ++loaded) {
      LoadKeys(task, index, part, loaded * part.deep * part.tile, part.deep);
    }
    AwaitCore(kProbabilitiesReady);
    if (tiling_.team > 1) {
      // After this, all probabilities of the team are there, and all of its cores have read what they need of the task
      // before.
      CrossCoreSetFlag<0, PIPE_MTE2>(kProbabilitiesShared);
      CrossCoreWaitFlag(kProbabilitiesShared);
      if (index > 0) {
        NotifySlotFree();
      }
    }
    if (part.heads > 0) {
      for (; part.column < part.column_end; part.column += kOutputColumns) {
        OutputTile(task, index, part, loaded);
        loaded = 0;
      }
    }
    if (tiling_.team == 1) {
      NotifySlotFree();
    }
  }

  // Keys of a tile, where the probabilities of a tile share a slot of L1 with `part.deep` tiles of keys.
  static __aicore__ inline uint32_t TileKeys(const OutputPart& part) {
    return kStreamBytes / 2 / (part.m16 + part.deep * part.columns) / kFractal * kFractal;
  }
  // Whether two tiles of keys in each slot spare the cube a wait. While the softmax of the last task runs, L1 has room
  // for more keys if fewer probabilities are on their way. The cube multiplies a pair of fractals in one cycle, and
  // MTE2 loads the 512 bytes of a fractal at 110 bytes a cycle, in more than 4 cycles. All slots must have keys, and
  // all columns must be one pass.
  __aicore__ inline bool WaitsForCopies(const OutputPart& part, uint32_t keys) const {
    return part.m16 * part.columns < 4 * kFractal * (part.m16 + part.columns) &&
           part.column + part.columns == part.column_end && keys > (stream_slots_.Slots() - 1) * part.deep * part.tile;
  }
  // Loads `tiles` tiles of keys to the next slot.
  __aicore__ inline void LoadKeys(const AttentionTask& task, uint32_t index, const OutputPart& part, uint32_t key0,
                                  uint32_t tiles) {
    const uint32_t keys = Min(tiles * part.tile, task.keys - key0);
    CopyNdToL1(Stream(stream_slots_.Acquire())[part.m16 * part.tile],
               plan_.Latent(index)[key0 * kKvLoraRank + part.column], keys, part.columns, kKvLoraRank, keys);
  }

  // Computes columns [part.column, part.column + part.columns). Their first keys are on their way to `loaded` slots.
  __aicore__ inline void OutputTile(const AttentionTask& task, uint32_t index, const OutputPart& part,
                                    uint32_t loaded) {
    const GlobalTensor<bfloat16_t> probabilities = plan_.Probabilities(index)[part.head * tiling_.key_rows];
    const LocalTensor<float> c = l0c_.Get<float>();
    const uint32_t m16 = part.m16, columns = part.columns;
    WaitFlag<HardEvent::FIX_M>(kFirstHalf);
    WaitFlag<HardEvent::FIX_M>(kSecondHalf);
    for (uint32_t i = 0;; ++i) {
      // The slots that have keys take turns: first the first tile of each, then the second one.
      const bool here = i < loaded * part.deep;
      const uint32_t tile = here ? i % loaded * part.deep : i, nth = here ? i / loaded : 0;
      const uint32_t key0 = (tile + nth) * part.tile;
      if (key0 >= task.keys) {
        break;
      }
      const uint32_t keys = Min(part.tile, task.keys - key0);
      const uint32_t rows = Min((here ? part.deep : 1) * part.tile, task.keys - tile * part.tile);
      if (!here) {
        LoadKeys(task, index, part, key0, 1);
      } else if (nth > 0) {
        stream_slots_.Acquire();
      }
      const LocalTensor<bfloat16_t> left = Stream(stream_slots_.Oldest());
      const LocalTensor<bfloat16_t> right = left[m16 * part.tile];
      CopyNdToL1(left, probabilities[key0], part.heads, keys, tiling_.key_rows, m16);
      stream_slots_.Publish();
      stream_slots_.Take();
      for (uint32_t k = 0; k < keys; k += part.step) {
        const uint32_t step = Min(part.step, keys - k);
        const uint32_t l0 = l0_slots_.Acquire();
        LoadA(L0a(l0), left, m16, k, step);
        LoadB(L0b(l0), right, rows, nth * part.tile + k, step, 0, columns);
        l0_slots_.Publish();
        l0_slots_.Take();
        Multiply(c, L0a(l0), L0b(l0), part.heads, columns, step, key0 + k == 0);
        l0_slots_.Release();
      }
      stream_slots_.Release();
    }
    WaitPipe<HardEvent::M_FIX>(kFirstHalf);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q + part.head;
    StoreC(attention_out_[row * kKvLoraRank + part.column], c, part.heads, m16, 0, columns, kKvLoraRank);
    SetFlag<HardEvent::FIX_M>(kFirstHalf);
    SetFlag<HardEvent::FIX_M>(kSecondHalf);
  }

  // Only MTE2 reads the workspace, so that its flag tells that the oldest task's part is read.
  __aicore__ inline void NotifySlotFree() { CrossCoreSetFlag<2, PIPE_MTE2>(kSlotFree); }

  __aicore__ inline LocalTensor<bfloat16_t> Stream(uint32_t slot) {
    return l1_.GetWithOffset<bfloat16_t>(kStreamBytes / 2, slot < kStreamSlots ? kQueryBytes + slot * kStreamBytes : 0);
  }
  __aicore__ inline LocalTensor<bfloat16_t> L0a(uint32_t slot) {
    return l0a_.GetWithOffset<bfloat16_t>(kL0Bytes / 2, slot * kL0Bytes);
  }
  __aicore__ inline LocalTensor<bfloat16_t> L0b(uint32_t slot) {
    return l0b_.GetWithOffset<bfloat16_t>(kL0Bytes / 2, slot * kL0Bytes);
  }

  const AttentionPlan plan_;
  const AttentionTiling& tiling_;
  GlobalTensor<bfloat16_t> query_nope_, query_rope_, attention_out_;
  TBuf<TPosition::A1> l1_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, kStreamFlag, kStreamSlots> stream_slots_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, kFirstL0Flag> l0_slots_;
  uint32_t l0c_slot_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ATTENTION_CUBE_H_
