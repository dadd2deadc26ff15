// sparse_flash_attention_quant: attention of each token over its selected keys of the quantised paged latent cache.
//
// A task is one token and a group of its heads, on one AI core. The AIVs gather and dequantise the keys to the
// workspace, the AIC multiplies them with the query, the AIVs make probabilities of the scores, and the AIC multiplies
// those with the same keys. Several tasks are under way at a time, so that the AIVs gather the keys of one while
// the AIC works on another. Where the heads of a token are several tasks, each core has one of them, and the cores of a
// token gather its keys together.
#include "copy.h"
#include "cube_tile.h"
#include "gather.h"
#include "kernel_operator.h"
#include "softmax.h"
#include "sparse_flash_attention_quant_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Flags between the AIC and its AIVs.
constexpr int64_t kKeysReady = 0;           // AIV to AIC, for each chunk of keys
constexpr int64_t kScoresReady = 1;         // AIC to AIV
constexpr int64_t kProbabilitiesReady = 2;  // AIV to AIC
constexpr int64_t kSlotFree = 3;            // AIC to AIV: the task's part of the workspace is read
constexpr int64_t kChunkGathered = 4;       // all AIVs, for each chunk of keys that cores share

struct AttentionTask {
  uint32_t token, sequence, head0, heads;
  uint32_t length;  // positions of the sequence
  uint32_t count;   // entries of topk_indices that are read
  uint32_t keys;    // the same in whole fractals: rows of keys in the workspace, zeros from count on
};

// What AIC and AIVs share: the tasks of this core and the workspace.
class AttentionPlan {
 public:
  __aicore__ inline AttentionPlan(const SparseFlashAttentionTiling& tiling, uint32_t core, GM_ADDR kv_act_seqs,
                                  GM_ADDR workspace)
      : tiling_(tiling), core_(core), workspace_(workspace) {
    lengths_ = Global<int32_t>(kv_act_seqs, tiling.s1 == 0 ? 1 : tiling.t / tiling.s1);
  }
  __aicore__ inline uint32_t Tasks() const { return tiling_.t * tiling_.groups; }

  __aicore__ inline AttentionTask Task(uint32_t index) const {
    AttentionTask task;
    task.token = index / tiling_.groups;
    task.head0 = index % tiling_.groups * tiling_.group_heads;
    task.heads = Smaller(tiling_.group_heads, tiling_.n_q - task.head0);
    task.sequence = task.token / tiling_.s1;
    const int32_t length = lengths_.GetValue(task.sequence);
    task.length = static_cast<uint32_t>(length > 0 ? length : 0);
    const int32_t visible =
        length - static_cast<int32_t>(tiling_.s1) + 1 + static_cast<int32_t>(task.token % tiling_.s1);
    task.count = visible > 0 ? Smaller(static_cast<uint32_t>(visible), tiling_.topk) : 0;
    task.keys = RoundUp(task.count, kFractal);
    return task;
  }

  // AIVs that gather the keys of a task, and the number of AIV `sub` of this core among them.
  __aicore__ inline uint32_t Gatherers() const { return tiling_.groups * kVectorsPerCore; }
  __aicore__ inline uint32_t Gatherer(uint32_t sub) const { return core_ % tiling_.groups * kVectorsPerCore + sub; }
  // Chunks of the longest possible task.
  __aicore__ inline uint32_t MaxChunks() const { return DivUp(tiling_.key_rows, tiling_.key_chunk); }

  template <typename T>
  __aicore__ inline GlobalTensor<T> Slot(uint32_t core, uint32_t slot, uint64_t offset, uint64_t elements) const {
    return Global<T>(workspace_ + (core * kTaskSlots + slot) * tiling_.slot_bytes + offset, elements);
  }
  // The keys are in the workspace of the first of the cores that share them.
  __aicore__ inline uint32_t KeyCore() const { return core_ - core_ % tiling_.groups; }
  __aicore__ inline GlobalTensor<bfloat16_t> Latent(uint32_t slot) const {
    return Slot<bfloat16_t>(KeyCore(), slot, 0, tiling_.key_rows * kKvLoraRank);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Rope(uint32_t slot) const {
    return Slot<bfloat16_t>(KeyCore(), slot, tiling_.rope_offset, tiling_.key_rows * kRopeDim);
  }
  // 0 for a key that counts, kMasked for one that is skipped.
  __aicore__ inline GlobalTensor<float> Mask(uint32_t slot) const {
    return Slot<float>(KeyCore(), slot, tiling_.mask_offset, tiling_.key_rows);
  }
  // Keys that count among those that each AIV gathered, on a block of 8 each.
  __aicore__ inline GlobalTensor<int32_t> Valid(uint32_t slot) const {
    return Slot<int32_t>(KeyCore(), slot, tiling_.valid_offset, Gatherers() * 8);
  }
  __aicore__ inline GlobalTensor<float> Scores(uint32_t slot) const {
    return Slot<float>(core_, slot, tiling_.score_offset, tiling_.key_rows * tiling_.group_heads);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Probabilities(uint32_t slot) const {
    return Slot<bfloat16_t>(core_, slot, tiling_.probability_offset, tiling_.key_rows * tiling_.group_heads);
  }

  const SparseFlashAttentionTiling& tiling_;
  const uint32_t core_;

 private:
  GM_ADDR workspace_;
  GlobalTensor<int32_t> lengths_;
};

// ---------------------------------------------------------------- AIV

class AttentionVector {
 public:
  __aicore__ inline AttentionVector(TPipe& pipe, const AttentionPlan& plan, uint32_t sub, GM_ADDR key_nope_2d,
                                    GM_ADDR key_rope_2d, GM_ADDR k_nope_scales, GM_ADDR topk_indices,
                                    GM_ADDR block_table, GM_ADDR attention_out, GM_ADDR lse)
      : plan_(plan), tiling_(plan.tiling_), sub_(sub) {
    const uint64_t rows = static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size;
    keys_.Init(Global<int8_t>(key_nope_2d, rows * kKvLoraRank), Global<bfloat16_t>(key_rope_2d, rows * kRopeDim),
               Global<float>(k_nope_scales, rows * kKScaleGroups));
    topk_indices_ = Global<int32_t>(topk_indices, static_cast<uint64_t>(tiling_.t) * tiling_.topk);
    block_table_ =
        Global<int32_t>(block_table, static_cast<uint64_t>(tiling_.t / tiling_.s1) * tiling_.max_blocknum_perbatch);
    attention_out_ = Global<bfloat16_t>(attention_out, static_cast<uint64_t>(tiling_.t) * tiling_.n_q * kKvLoraRank);
    lse_ = Global<float>(lse, static_cast<uint64_t>(tiling_.t) * tiling_.n_q);
    arena_.Init(pipe, kUbBytes);
  }

  __aicore__ inline void Run() {
    uint32_t started = 0;
    for (uint32_t index = plan_.core_; index < plan_.Tasks(); index += tiling_.cores) {
      const AttentionTask task = plan_.Task(index);
      if (task.count == 0) {
        Empty(task);
        if (tiling_.groups > 1) {
          for (uint32_t chunk = 0; chunk < plan_.MaxChunks(); ++chunk) AwaitAllVectors(kChunkGathered);
        }
        continue;
      }
      if (started >= kTaskSlots) AwaitCore(kSlotFree);
      const bool together = tiling_.softmax_offset > 0 && started > 0;
      Gather(task, started % kTaskSlots, together);
      if (!together && started > 0) Softmax();
      softmax_task_ = task;
      softmax_slot_ = started % kTaskSlots;
      ++started;
    }
    if (started > 0) Softmax();
    for (uint32_t i = 0; i < Smaller(started, kTaskSlots); ++i) AwaitCore(kSlotFree);
  }

 private:
  // Empty, Gather and a Softmax that is not part of a Gather begin when UB is no longer in use.
  static constexpr uint32_t kUbBytes = 192 * 1024 - 256;
  // Flags 0 to 3 belong to the gather's slots, 4 and 5 to the softmax's, kFlag to events that neither uses with it.
  static constexpr int32_t kFlag = 2;
  static_assert(KeyGather::kBytes == kKeyGatherBytes && RowSoftmax::kBytes == kRowSoftmaxBytes);

  // Heads of the task that are this AIV's.
  __aicore__ inline uint32_t HeadBegin(const AttentionTask& task) const { return ShareBegin(task.heads, sub_, 2); }
  __aicore__ inline uint32_t HeadEnd(const AttentionTask& task) const { return ShareBegin(task.heads, sub_ + 1, 2); }

  // A row without a key: zeros, and the logarithm of 0.
  __aicore__ inline void Empty(const AttentionTask& task) {
    const uint32_t begin = HeadBegin(task), heads = HeadEnd(task) - begin;
    if (heads == 0) return;
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
    const LocalTensor<int16_t> zero = arena_.Take<int16_t>(heads * kKvLoraRank);
    const LocalTensor<float> log_sum = arena_.Take<float>(RoundUp(heads, 8));
    Duplicate(zero, static_cast<int16_t>(0), static_cast<int32_t>(heads * kKvLoraRank));
    Duplicate(log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(heads));
    WaitPipe<HardEvent::V_MTE3>(kFlag);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q + task.head0 + begin;
    CopyOut(attention_out_[row * kKvLoraRank], zero.ReinterpretCast<bfloat16_t>(), heads * kKvLoraRank);
    CopyOut(lse_[row], log_sum, heads);
  }

  // (1) the valid entries of the token and their cache rows, (2) the keys, dequantised and rounded to bf16. Each AIV
  // takes its share of every chunk.
  // `together`: with the softmax of softmax_task_, batch by batch, from the second chunk on: until then the cube is
  // busy with the scores.
  __aicore__ inline void Gather(const AttentionTask& task, uint32_t slot, bool together) {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
    const LocalTensor<int32_t> entries = arena_.Take<int32_t>(tiling_.key_rows);
    const LocalTensor<int32_t> table = arena_.Take<int32_t>(RoundUp(tiling_.max_blocknum_perbatch, 8));
    const LocalTensor<float> mask = arena_.Take<float>(tiling_.key_rows);
    const LocalTensor<int32_t> valid = arena_.Take<int32_t>(8);
    keys_.Place(arena_);
    CopyIn(entries, topk_indices_[static_cast<uint64_t>(task.token) * tiling_.topk], task.count);
    CopyIn(table, block_table_[static_cast<uint64_t>(task.sequence) * tiling_.max_blocknum_perbatch],
           tiling_.max_blocknum_perbatch);
    Duplicate(mask, 0.0f, static_cast<int32_t>(tiling_.key_rows));
    Duplicate(valid, 0, 8);
    WaitPipe<HardEvent::MTE2_S>(kFlag);
    WaitPipe<HardEvent::V_S>(kFlag);
    PagedSequence sequence;
    sequence.table = table;
    sequence.length = static_cast<int32_t>(task.length);
    sequence.table_columns = static_cast<int32_t>(tiling_.max_blocknum_perbatch);
    sequence.block_size = static_cast<int32_t>(tiling_.block_size);
    sequence.block_num = static_cast<int32_t>(tiling_.block_num);

    const GlobalTensor<bfloat16_t> latent = plan_.Latent(slot), rope = plan_.Rope(slot);
    const GlobalTensor<float> mask_out = plan_.Mask(slot);
    const uint32_t own = plan_.Gatherer(sub_);
    int32_t valid_count = 0;
    uint32_t gathered = 0, batches = 0;
    keys_.Begin();
    for (uint32_t chunk = 0; chunk < task.keys; chunk += tiling_.key_chunk) {
      const uint32_t blocks = Smaller(tiling_.key_chunk, task.keys - chunk) / kFractal;
      const uint32_t begin = chunk + ShareBegin(blocks, own, plan_.Gatherers()) * kFractal;
      const uint32_t end = chunk + ShareBegin(blocks, own + 1, plan_.Gatherers()) * kFractal;
      for (uint32_t key = begin; key < end; key += KeyGather::kBatch) {
        int32_t rows[KeyGather::kBatch];
        for (uint32_t i = 0; i < KeyGather::kBatch; ++i) {
          rows[i] = key + i < task.count ? sequence.Row(entries.GetValue(key + i)) : kNoRow;
          if (rows[i] == kNoRow) {
            mask.SetValue(key + i, kMasked);
          } else {
            ++valid_count;
          }
        }
        keys_.Batch(rows, KeyGather::kBatch, latent[key * kKvLoraRank], rope[key * kRopeDim]);
        if (together && gathered > 0 && ++batches % 2 == 0) StepSoftmax();
      }
      if (together && gathered == 0) BeginSoftmax();
      WaitPipe<HardEvent::S_MTE3>(kFlag);
      if (begin < end) CopyOut(mask_out[begin], mask[begin], end - begin);
      if (chunk + tiling_.key_chunk >= task.keys) {
        valid.SetValue(0, valid_count);
        WaitPipe<HardEvent::S_MTE3>(kFlag);
        CopyOut(plan_.Valid(slot)[own * 8], valid, 8);
      }
      if (tiling_.groups == 1) {
        NotifyCube(kKeysReady);
      } else {
        // All AIVs come here as often, whatever the length of their tasks. A chunk is waited for behind the copies of
        // the next one.
        CrossCoreSetFlag<0, PIPE_MTE3>(kChunkGathered);
        if (chunk > 0) ShareChunk();
      }
      ++gathered;
    }
    if (tiling_.groups > 1) {
      ShareChunk();
      for (; gathered < plan_.MaxChunks(); ++gathered) AwaitAllVectors(kChunkGathered);
    }
    if (together) FinishSoftmax();
    keys_.End();
  }

  // The AIC may begin with the oldest chunk that it was not told of.
  __aicore__ inline void ShareChunk() {
    AwaitCore(kChunkGathered);
    NotifyCube(kKeysReady);
  }

  // (4) softmax over the valid entries, normalised in float32, then rounded to bf16, a batch of rows at a time.
  __aicore__ inline void Softmax() {
    PipeBarrier<PIPE_ALL>();
    BeginSoftmax();
    FinishSoftmax();
  }

  __aicore__ inline void BeginSoftmax() {
    AwaitCore(kScoresReady);
    head_ = HeadBegin(softmax_task_);
    batch_ = 0;
    if (head_ == HeadEnd(softmax_task_)) return;
    arena_.Reset(tiling_.softmax_offset);
    const uint32_t gatherers = plan_.Gatherers();
    width_ = RoundUp(softmax_task_.keys, 64);
    step_ = Smaller(RowSoftmax::kRows, kScoreBatchBytes / 4 / width_);
    const LocalTensor<int32_t> valid = arena_.Take<int32_t>(gatherers * 8);
    score_mask_ = arena_.Take<float>(width_);
    log_sum_ = arena_.Take<float>((DivUp(HeadEnd(softmax_task_) - head_, step_) + 1) * RowSoftmax::kRows);
    for (uint32_t i = 0; i < 2; ++i) scores_[i] = arena_.Take<float>(kScoreBatchBytes / 4);
    softmax_.Place(arena_);
    softmax_.Begin();
    CopyIn(valid, plan_.Valid(softmax_slot_), gatherers * 8);
    CopyIn(score_mask_, plan_.Mask(softmax_slot_), softmax_task_.keys);
    WaitPipe<HardEvent::MTE2_S>(kFlag);
    WaitPipe<HardEvent::MTE2_V>(kSoftmaxFlag);
    valid_count_ = 0;
    for (uint32_t i = 0; i < gatherers; ++i) valid_count_ += static_cast<uint32_t>(valid.GetValue(i * 8));
    rows_.Begin();
    LoadScores();
  }

  // Copies the next batch of scores, so that it arrives while the batch before it is worked on.
  __aicore__ inline void LoadScores() {
    const uint32_t slot = rows_.Acquire();
    CopyRowsIn(scores_[slot], plan_.Scores(softmax_slot_)[static_cast<uint64_t>(head_) * tiling_.key_rows],
               Smaller(step_, HeadEnd(softmax_task_) - head_), softmax_task_.keys, tiling_.key_rows, width_);
    rows_.Publish();
  }

  // One batch; nothing if there is none left.
  __aicore__ inline void StepSoftmax() {
    const uint32_t end = HeadEnd(softmax_task_), head = head_;
    if (head == end) return;
    const uint32_t rows = Smaller(step_, end - head);
    head_ = head + rows;
    if (head_ < end) LoadScores();
    const LocalTensor<float> scores = scores_[rows_.Take()];
    const LocalTensor<bfloat16_t> probabilities = scores.ReinterpretCast<bfloat16_t>();
    const LocalTensor<float> batch_log_sum = log_sum_[batch_ * RowSoftmax::kRows];
    ++batch_;
    if (valid_count_ == 0) {
      Duplicate(probabilities.ReinterpretCast<int16_t>(), static_cast<int16_t>(0), static_cast<int32_t>(rows * width_));
      Duplicate(batch_log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(RowSoftmax::kRows));
    } else {
      softmax_.Run(scores, rows, width_, softmax_task_.count, tiling_.softmax_scale, score_mask_,
                   valid_count_ != softmax_task_.count, batch_log_sum);
      Cast(probabilities, scores, RoundMode::CAST_RINT, rows * width_);
    }
    PipeBarrier<PIPE_V>();
    WaitPipe<HardEvent::V_MTE3>(kSoftmaxFlag);
    CopyRowsOut(plan_.Probabilities(softmax_slot_)[static_cast<uint64_t>(head) * tiling_.key_rows], probabilities, rows,
                softmax_task_.keys, tiling_.key_rows, width_);
    rows_.Release();
  }

  __aicore__ inline void FinishSoftmax() {
    const uint32_t begin = HeadBegin(softmax_task_), end = HeadEnd(softmax_task_);
    while (head_ < end) StepSoftmax();
    if (begin < end) {
      rows_.End();
      // Whole batches lie on blocks of 8; the last one may be shorter.
      const uint64_t row = static_cast<uint64_t>(softmax_task_.token) * tiling_.n_q + softmax_task_.head0 + begin;
      const uint32_t whole = (end - begin) / step_, rest = (end - begin) % step_;
      WaitPipe<HardEvent::V_MTE3>(kSoftmaxFlag);
      if (whole > 0) CopyRowsOut(lse_[row], log_sum_, whole, step_, step_, RowSoftmax::kRows);
      if (rest > 0) CopyOut(lse_[row + whole * step_], log_sum_[whole * RowSoftmax::kRows], rest);
    }
    NotifyCube(kProbabilitiesReady);
  }

  static constexpr int32_t kSoftmaxFlag = 4;
  static constexpr int32_t kMinusInfinity = static_cast<int32_t>(0xff800000u);  // bits of the float

  const AttentionPlan& plan_;
  const SparseFlashAttentionTiling& tiling_;
  const uint32_t sub_;
  GlobalTensor<int32_t> topk_indices_, block_table_;
  GlobalTensor<bfloat16_t> attention_out_;
  GlobalTensor<float> lse_;
  UbArena arena_;
  KeyGather keys_;

  // The softmax that is under way: its task, the next head, and the batches of rows so far.
  AttentionTask softmax_task_;
  uint32_t softmax_slot_ = 0, head_ = 0, batch_ = 0, width_ = 0, step_ = 0, valid_count_ = 0;
  RowSoftmax softmax_;
  LocalTensor<float> score_mask_, log_sum_, scores_[2];
  PingPong<HardEvent::MTE2_V, HardEvent::MTE3_MTE2, 4> rows_;
};

// ---------------------------------------------------------------- AIC

class AttentionCube {
 public:
  __aicore__ inline AttentionCube(TPipe& pipe, const AttentionPlan& plan, GM_ADDR query_nope, GM_ADDR query_rope,
                                  GM_ADDR attention_out)
      : plan_(plan), tiling_(plan.tiling_) {
    const uint64_t rows = static_cast<uint64_t>(tiling_.t) * tiling_.n_q;
    query_nope_ = Global<bfloat16_t>(query_nope, rows * kKvLoraRank);
    query_rope_ = Global<bfloat16_t>(query_rope, rows * kRopeDim);
    attention_out_ = Global<bfloat16_t>(attention_out, rows * kKvLoraRank);
    pipe.InitBuffer(query_, kQueryBytes);
    pipe.InitBuffer(stream_, 2 * kStreamBytes);
    pipe.InitBuffer(l0a_, 2 * kL0Bytes);
    pipe.InitBuffer(l0b_, 2 * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * kL0CBytes);
  }

  __aicore__ inline void Run() {
    stream_slots_.Begin();
    l0_slots_.Begin();
    SetFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    SetFlag<HardEvent::FIX_M>(0);
    SetFlag<HardEvent::FIX_M>(1);
    uint32_t started = 0;
    AttentionTask previous;
    for (uint32_t index = plan_.core_; index < plan_.Tasks(); index += tiling_.cores) {
      const AttentionTask task = plan_.Task(index);
      if (task.count == 0) continue;
      Scores(task, started % kTaskSlots);
      if (started > 0) Output(previous, (started - 1) % kTaskSlots);
      previous = task;
      ++started;
    }
    if (started > 0) Output(previous, (started - 1) % kTaskSlots);
    WaitFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    WaitFlag<HardEvent::FIX_M>(0);
    WaitFlag<HardEvent::FIX_M>(1);
    stream_slots_.End();
    l0_slots_.End();
  }

 private:
  // L1: 147456 + 2 * 147456 = 442368 of 524032 bytes. L0A, L0B: 2 * 32768. L0C: 2 * 65536.
  static constexpr uint32_t kQueryBytes = 128 * kLatentDim * 2;
  static constexpr uint32_t kStreamBytes = kKeyTile * kLatentDim * 2;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kL0CBytes = 65536;
  static constexpr int32_t kQueryFlag = 2;
  static constexpr uint32_t kScoreStep =
      96;  // of the 576 that a score sums over: 128 x 96 are 24 KiB of L0A and of L0B
  static constexpr uint32_t kOutputColumns = 256;  // 128 x 256 floats fill L0C
  static constexpr uint32_t kOutputKeys = 192;     // 192 x (128 + 256) bfloat16 fill an L1 slot
  static constexpr uint32_t kOutputStep = 64;      // 64 x 256 bfloat16 fill an L0B slot

  // (3) scores in float32: nope and rope parts together. The AIVs scale them.
  __aicore__ inline void Scores(const AttentionTask& task, uint32_t slot) {
    const uint32_t m16 = RoundUp(task.heads, kFractal);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q + task.head0;
    const LocalTensor<bfloat16_t> query = query_.Get<bfloat16_t>();
    WaitFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    CopyNdToL1(query, query_nope_[row * kKvLoraRank], task.heads, kKvLoraRank, kKvLoraRank, m16);
    CopyNdToL1(query[kKvLoraRank * m16], query_rope_[row * kRopeDim], task.heads, kRopeDim, kRopeDim, m16);
    WaitPipe<HardEvent::MTE2_MTE1>(kQueryFlag);

    const GlobalTensor<bfloat16_t> latent = plan_.Latent(slot), rope = plan_.Rope(slot);
    const GlobalTensor<float> scores = plan_.Scores(slot);
    for (uint32_t key0 = 0; key0 < task.keys; key0 += kKeyTile) {
      if (key0 % tiling_.key_chunk == 0) AwaitCore(kKeysReady);
      const uint32_t n = Smaller(kKeyTile, task.keys - key0);
      const LocalTensor<bfloat16_t> keys = Stream(stream_slots_.Acquire());
      CopyNdToL1(keys, latent[key0 * kKvLoraRank], n, kKvLoraRank, kKvLoraRank, n);
      CopyNdToL1(keys[kKvLoraRank * n], rope[key0 * kRopeDim], n, kRopeDim, kRopeDim, n);
      stream_slots_.Publish();
      stream_slots_.Take();
      WaitFlag<HardEvent::FIX_M>(static_cast<int32_t>(l0c_slot_));
      const LocalTensor<float> c = l0c_.GetWithOffset<float>(kL0CBytes / 4, l0c_slot_ * kL0CBytes);
      for (uint32_t k = 0; k < kLatentDim; k += kScoreStep) {
        const uint32_t l0 = l0_slots_.Acquire();
        LoadA(L0a(l0), query, m16, k, kScoreStep);
        LoadBTransposed(L0b(l0), keys, n, k, kScoreStep, 0, n);
        l0_slots_.Publish();
        l0_slots_.Take();
        Multiply(c, L0a(l0), L0b(l0), m16, n, kScoreStep, k == 0);
        l0_slots_.Release();
      }
      stream_slots_.Release();
      WaitPipe<HardEvent::M_FIX>(0);
      StoreC(scores[key0], c, task.heads, m16, 0, n, tiling_.key_rows);
      SetFlag<HardEvent::FIX_M>(static_cast<int32_t>(l0c_slot_));
      l0c_slot_ ^= 1;
    }
    SetFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    NotifyVectors(kScoresReady);
  }

  // (5) weighted sum of the dequantised keys in float32, rounded to bf16.
  __aicore__ inline void Output(const AttentionTask& task, uint32_t slot) {
    AwaitCore(kProbabilitiesReady);
    const uint32_t m16 = RoundUp(task.heads, kFractal);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q + task.head0;
    const GlobalTensor<bfloat16_t> latent = plan_.Latent(slot), probabilities = plan_.Probabilities(slot);
    const LocalTensor<float> c = l0c_.Get<float>();
    for (uint32_t column = 0; column < kKvLoraRank; column += kOutputColumns) {
      WaitFlag<HardEvent::FIX_M>(0);
      WaitFlag<HardEvent::FIX_M>(1);
      for (uint32_t key0 = 0; key0 < task.keys; key0 += kOutputKeys) {
        const uint32_t keys = Smaller(kOutputKeys, task.keys - key0);
        const LocalTensor<bfloat16_t> left = Stream(stream_slots_.Acquire());
        const LocalTensor<bfloat16_t> right = left[m16 * kOutputKeys];
        CopyNdToL1(left, probabilities[key0], task.heads, keys, tiling_.key_rows, m16);
        CopyNdToL1(right, latent[key0 * kKvLoraRank + column], keys, kOutputColumns, kKvLoraRank, keys);
        stream_slots_.Publish();
        stream_slots_.Take();
        for (uint32_t k = 0; k < keys; k += kOutputStep) {
          const uint32_t step = Smaller(kOutputStep, keys - k);
          const uint32_t l0 = l0_slots_.Acquire();
          LoadA(L0a(l0), left, m16, k, step);
          LoadB(L0b(l0), right, keys, k, step, 0, kOutputColumns);
          l0_slots_.Publish();
          l0_slots_.Take();
          Multiply(c, L0a(l0), L0b(l0), m16, kOutputColumns, step, key0 + k == 0);
          l0_slots_.Release();
        }
        stream_slots_.Release();
      }
      WaitPipe<HardEvent::M_FIX>(0);
      StoreC(attention_out_[row * kKvLoraRank + column], c, task.heads, m16, 0, kOutputColumns, kKvLoraRank);
      SetFlag<HardEvent::FIX_M>(0);
      SetFlag<HardEvent::FIX_M>(1);
    }
    // The workspace is read by MTE2 alone.
    CrossCoreSetFlag<2, PIPE_MTE2>(kSlotFree);
  }

  __aicore__ inline LocalTensor<bfloat16_t> Stream(uint32_t slot) {
    return stream_.GetWithOffset<bfloat16_t>(kStreamBytes / 2, slot * kStreamBytes);
  }
  __aicore__ inline LocalTensor<bfloat16_t> L0a(uint32_t slot) {
    return l0a_.GetWithOffset<bfloat16_t>(kL0Bytes / 2, slot * kL0Bytes);
  }
  __aicore__ inline LocalTensor<bfloat16_t> L0b(uint32_t slot) {
    return l0b_.GetWithOffset<bfloat16_t>(kL0Bytes / 2, slot * kL0Bytes);
  }

  const AttentionPlan& plan_;
  const SparseFlashAttentionTiling& tiling_;
  GlobalTensor<bfloat16_t> query_nope_, query_rope_, attention_out_;
  TBuf<TPosition::A1> query_;
  TBuf<TPosition::B1> stream_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  PingPong<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, 0> stream_slots_;
  PingPong<HardEvent::MTE1_M, HardEvent::M_MTE1, 3> l0_slots_;
  uint32_t l0c_slot_ = 0;
};

}  // namespace ms_dsv32::ascendc

extern "C" __global__ __aicore__ void sparse_flash_attention_quant(GM_ADDR query_nope, GM_ADDR query_rope,
                                                                   GM_ADDR key_nope_2d, GM_ADDR key_rope_2d,
                                                                   GM_ADDR k_nope_scales, GM_ADDR topk_indices,
                                                                   GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                                   GM_ADDR attention_out, GM_ADDR lse,
                                                                   GM_ADDR workspace, GM_ADDR tiling) {
  using namespace AscendC;
  using namespace ms_dsv32::ascendc;
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::SparseFlashAttentionTiling);
  GET_TILING_DATA(data, tiling);
  if (data.t == 0) return;
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const AttentionPlan plan(data, static_cast<uint32_t>(GetBlockIdx()), kv_act_seqs, user);
    AttentionCube cube(pipe, plan, query_nope, query_rope, attention_out);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const AttentionPlan plan(data, static_cast<uint32_t>(GetBlockIdx()) / kVectorsPerCore, kv_act_seqs, user);
    AttentionVector vector(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), key_nope_2d, key_rope_2d, k_nope_scales,
                           topk_indices, block_table, attention_out, lse);
    vector.Run();
  }
}
