// sparse_flash_attention_quant: attention of each token over its selected keys of the quantised paged latent cache.
//
// A task is one token, on a team of AI cores. Each core's AIVs gather and dequantise a part of the keys to the
// workspace, and its AIC multiplies them with the query. Then the AIVs make probabilities of the scores, each of a part
// of the heads, and the AICs multiply those with the keys, each for a part of the heads and columns of the output.
// Several tasks are under way at a time, so that the AIVs gather the keys of one while the AICs work on another. Few
// tokens have large teams; with many tokens a team is one core.
#include "copy.h"
#include "cube_tile.h"
#include "gather.h"
#include "kernel_operator.h"
#include "records.h"
#include "sequences.h"
#include "softmax.h"
#include "sparse_flash_attention_quant_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Flags between the AIC and its AIVs.
constexpr int64_t kKeysReady = 0;           // AIV to AIC, for each chunk of keys
constexpr int64_t kScoresReady = 1;         // AIC to AIV
constexpr int64_t kProbabilitiesReady = 2;  // AIV to AIC
constexpr int64_t kSlotFree = 3;            // AIC to AIV: the team has read all of a task's part of the workspace
// The same between all cores, where a team is more than one.
constexpr int64_t kScoresShared = 4;         // AIC to AIC: with the scores, all keys of the team are there
constexpr int64_t kProbabilitiesShared = 5;  // AIC to AIC
static_assert(kFractal == kFractalRows);

struct AttentionTask {
  uint32_t token, sequence, heads;
  uint32_t offset, sequence_tokens;  // of the token in its sequence, and how many that has
  uint32_t length;                   // positions of the sequence
  uint32_t count;                    // entries of topk_indices that are read
  uint32_t keys;                     // the same in whole fractals: rows of keys in the workspace, zeros from count on
  uint32_t key_begin, key_end;       // the part of them that this core gathers and scores
  uint32_t early;                    // entries that each AIV takes as they come, while the others are sorted
};

// What AIC and AIVs share: the tasks of this core and the workspace.
class AttentionPlan {
 public:
  __aicore__ inline AttentionPlan(const SparseFlashAttentionTiling& tiling, uint32_t core, GM_ADDR kv_act_seqs,
                                  GM_ADDR query_act_seqs, GM_ADDR workspace)
      : tiling_(tiling),
        team_(core / tiling.team),
        member_(core % tiling.team),
        workspace_(workspace),
        sequences_(tiling.t, tiling.b, tiling.s1, tiling.ragged, kv_act_seqs, query_act_seqs) {
    tasks_ = Larger(DivUp(sequences_.Tokens(), tiling.cores / tiling.team), 1);
  }
  // Tokens that are of a sequence.
  __aicore__ inline uint32_t Tokens() const { return sequences_.Tokens(); }
  // Every core takes part in as many tasks.
  __aicore__ inline uint32_t Tasks() const { return tasks_; }

  // Task `index` of this team. One behind the last token has neither heads nor keys.
  __aicore__ inline AttentionTask Task(uint32_t index) const {
    AttentionTask task{};
    task.token = index * (tiling_.cores / tiling_.team) + team_;
    if (task.token >= sequences_.Tokens()) return task;
    const TokenGroup token = sequences_.Group(task.token);
    task.heads = tiling_.n_q;
    task.sequence = token.sequence;
    task.offset = token.offset;
    task.sequence_tokens = token.sequence_tokens;
    task.length = token.length;
    task.count = Smaller(token.visible, tiling_.topk);
    const uint32_t fractals = DivUp(task.count, kFractal);
    task.keys = fractals * kFractal;
    task.key_begin = ShareBegin(fractals, member_, tiling_.team) * kFractal;
    task.key_end = ShareBegin(fractals, member_ + 1, tiling_.team) * kFractal;
    // While the entries of the only task are sorted, an AIV has nothing else to do. Its share of the first chunk must
    // hold as many. How much padding a call has must not decide on the order of sums.
    const bool enough = task.count / kFractal / tiling_.team * kFractal >= tiling_.key_chunk;
    const bool only = tiling_.t <= tiling_.cores / tiling_.team;
    if (tiling_.sort_offset > 0 && only && enough) task.early = kEarlyEntries;
    return task;
  }

  // Part of the workspace of task `index`.
  template <typename T>
  __aicore__ inline GlobalTensor<T> Slot(uint32_t index, uint64_t offset, uint64_t elements) const {
    return Global<T>(workspace_ + (team_ * tiling_.slots + index % tiling_.slots) * tiling_.slot_bytes + offset,
                     elements);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Latent(uint32_t index) const {
    return Slot<bfloat16_t>(index, 0, tiling_.key_rows * kKvLoraRank);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Rope(uint32_t index) const {
    return Slot<bfloat16_t>(index, tiling_.rope_offset, tiling_.key_rows * kRopeDim);
  }
  // 1 for an entry that is skipped, else 0.
  __aicore__ inline GlobalTensor<float> Skipped(uint32_t index) const {
    return Slot<float>(index, tiling_.skipped_offset, tiling_.key_rows);
  }
  __aicore__ inline GlobalTensor<float> Scores(uint32_t index) const {
    return Slot<float>(index, tiling_.score_offset, tiling_.key_rows * tiling_.n_q);
  }
  __aicore__ inline GlobalTensor<bfloat16_t> Probabilities(uint32_t index) const {
    return Slot<bfloat16_t>(index, tiling_.probability_offset, tiling_.key_rows * tiling_.n_q);
  }

  const SparseFlashAttentionTiling& tiling_;
  const uint32_t team_, member_;  // this core's team, and its number there

 private:
  GM_ADDR workspace_;
  Sequences<1> sequences_;
  uint32_t tasks_ = 0;
};

// ---------------------------------------------------------------- AIV

class AttentionVector {
 public:
  __aicore__ inline AttentionVector(TPipe& pipe, const AttentionPlan& plan, uint32_t sub, GM_ADDR key_nope_2d,
                                    GM_ADDR key_rope_2d, GM_ADDR k_nope_scales, GM_ADDR topk_indices,
                                    GM_ADDR block_table, GM_ADDR attention_out, GM_ADDR lse)
      : plan_(plan), tiling_(plan.tiling_), sub_(sub), together_(plan.tiling_.softmax_offset > 0) {
    const uint64_t rows = static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size;
    keys_.Init(Global<int8_t>(key_nope_2d, rows * kKvLoraRank), Global<bfloat16_t>(key_rope_2d, rows * kRopeDim),
               Global<float>(k_nope_scales, rows * kKScaleGroups));
    topk_indices_ = Global<int32_t>(topk_indices, static_cast<uint64_t>(tiling_.t) * tiling_.topk);
    block_table_ = Global<int32_t>(block_table, static_cast<uint64_t>(tiling_.b) * tiling_.max_blocknum_perbatch);
    attention_out_ = Global<bfloat16_t>(attention_out, static_cast<uint64_t>(tiling_.t) * tiling_.n_q * kKvLoraRank);
    lse_ = Global<float>(lse, static_cast<uint64_t>(tiling_.t) * tiling_.n_q);
    arena_.Init(pipe, kUbBytes);
    // At the begin of UB, as Sort32 takes them at multiples of 128 bytes, and in whole runs, as what pads them is
    // sorted.
    if (tiling_.sort_offset > 0) unsorted_ = arena_.Take<int32_t>(RoundUp(tiling_.topk, kSortedRun));
    for (uint32_t i = 0; i < (together_ ? 2 : 1); ++i) {
      entries_[i] = arena_.Take<int32_t>(tiling_.list_rows);
      skipped_[i] = arena_.Take<float>(tiling_.list_rows);
      table_[i] = arena_.Take<int32_t>(RoundUp(tiling_.max_blocknum_perbatch, 8));
    }
    keys_.Place(arena_, tiling_.stage_rows);
  }

  __aicore__ inline void Run() {
    const uint32_t tasks = plan_.Tasks();
    keys_.Begin();
    rows_.Begin();
    SetFlag<HardEvent::V_MTE2>(kMaskFlag);
    results_.Begin();
    AttentionTask task = plan_.Task(0);
    if (together_) LoadLists(task, 0);
    if (together_ && tiling_.sort_offset > 0) SortEntries(task, 0);
    for (uint32_t index = 0; index < tasks; ++index) {
      next_ = index + 1 < tasks ? plan_.Task(index + 1) : AttentionTask{};
      if (index >= tiling_.slots) AwaitCore(kSlotFree);
      if (!together_) {
        PipeBarrier<PIPE_ALL>();
        LoadLists(task, 0);
        if (tiling_.sort_offset > 0) SortEntries(task, 0);
      }
      Gather(task, index);
      if (!together_ && index > 0) Softmax();
      softmax_task_ = task;
      softmax_index_ = index;
      task = next_;
    }
    Softmax();
    keys_.End();
    rows_.End();
    WaitFlag<HardEvent::V_MTE2>(kMaskFlag);
    results_.End();
    AwaitMarks(0);
    AwaitMarks(1);
    // A team of cores is told of a task's slot with the next task, one core at the end of each.
    const uint32_t told = tiling_.team > 1 ? tasks - 1 : tasks;
    for (uint32_t i = tasks > tiling_.slots ? tasks - tiling_.slots : 0; i < told; ++i) AwaitCore(kSlotFree);
    if (plan_.Tokens() < tiling_.t) WritePadding();
  }

 private:
  static constexpr uint32_t kUbBytes = 192 * 1024 - 256;
  // Flags of the events between two pipes: 0 to 2 belong to the gather's slots, 3 to the softmax's mask, 3 and 4 to its
  // results, 4 to 6 to its batches of scores, 5 and 6 to the lists; kFlag is for what has no other.
  static constexpr int32_t kFlag = 2, kResultFlag = 3, kMaskFlag = 3, kListFlag = 5, kSortFlag = 0;
  static constexpr uint32_t kSortSteps = 4;    // Sort32, two levels of merging, the merge of what they have sorted
  static constexpr uint32_t kSortedRun = 512;  // records that Sort32 and two levels of merging sort
  // Batches of a gather before the softmax of the task before it begins: until then the scores of the slowest core of
  // all are not there, and the scalar unit would wait for them instead of asking for more keys.
  static constexpr uint32_t kSoftmaxLag = 8;
  // Rows of an AIV's softmax that are one batch: the instructions of a second one take longer than its copy.
  static constexpr uint32_t kFewHeads = 4;
  static constexpr uint32_t kPaddingRows = 64;  // rows of results of padding that are copied at once: 64 KiB of UB
  static_assert(kEarlyEntries % KeyGather::kBatch == 0);
  static_assert(KeyGather::kBytes == kKeyGatherBytes && KeyGather::kStageBytes == kKeyStageBytes);
  static_assert(KeyGather::kFewestStageRows == kFewestStageRows && RowSoftmax::kBytes == kRowSoftmaxBytes);

  // Begin of the heads of this AIV, or of the one behind it.
  __aicore__ inline uint32_t HeadBegin(const AttentionTask& task, uint32_t next = 0) const {
    return ShareBegin(task.heads, plan_.member_ * kVectorsPerCore + sub_ + next, tiling_.team * kVectorsPerCore);
  }

  // Pages and entries of a task; none is skipped yet. An AIV takes its share of every chunk: those of whole chunks come
  // in one copy. A chunk whose last fractal has fewer entries is not whole. To be sorted, all entries of the task come.
  __aicore__ MS_DSV32_NOINLINE void LoadLists(const AttentionTask& task, uint32_t list) {
    AwaitSorted();  // an AIV without a share of the task before has not
    WaitPipe<HardEvent::S_MTE2>(kFlag);
    if (tiling_.sort_offset > 0) {
      const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.topk;
      const uint32_t vector = plan_.member_ * kVectorsPerCore + sub_, early = AllEarly(task);
      if (task.early > 0) CopyIn(entries_[list], topk_indices_[row + vector * task.early], task.early);
      if (task.count > early) CopyIn(unsorted_, topk_indices_[row + early], task.count - early);
    } else {
      LoadEntries(task, list);
    }
    if (task.key_begin < task.key_end) {
      CopyIn(table_[list], block_table_[static_cast<uint64_t>(task.sequence) * tiling_.max_blocknum_perbatch],
             tiling_.max_blocknum_perbatch);
    }
    SetFlag<HardEvent::MTE2_S>(static_cast<int32_t>(list));
    AwaitMarks(list);
    Duplicate(skipped_[list], 0.0f, static_cast<int32_t>(tiling_.list_rows));
    PipeBarrier<PIPE_V>();
  }
  __aicore__ inline void LoadEntries(const AttentionTask& task, uint32_t list) {
    const uint32_t half = tiling_.key_chunk / kVectorsPerCore;
    const uint32_t whole = (Smaller(task.key_end, task.count) - task.key_begin) / tiling_.key_chunk;
    const uint32_t chunk = task.key_begin + whole * tiling_.key_chunk, blocks = (task.key_end - chunk) / kFractal;
    const uint32_t begin = chunk + ShareBegin(blocks, sub_, kVectorsPerCore) * kFractal;
    const uint32_t end = Smaller(chunk + ShareBegin(blocks, sub_ + 1, kVectorsPerCore) * kFractal, task.count);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.topk;
    if (whole > 0) {
      CopyRowsIn(entries_[list], topk_indices_[row + task.key_begin + sub_ * half], whole, half, tiling_.key_chunk,
                 half);
    }
    if (begin < end) CopyIn(entries_[list][whole * half], topk_indices_[row + begin], end - begin);
  }

  // Sorts the entries of a task by position, and keeps this AIV's share of every chunk: rows of one block come one
  // after the other then, with few between them. Beside the gather, the scores of the softmax lend their UB, and a step
  // takes the vector pipe about as long as a batch of the gather: one of each in turn. The order of positions that
  // float cannot tell apart does not matter.
  __aicore__ MS_DSV32_NOINLINE void SortEntries(const AttentionTask& task, uint32_t list) {
    for (uint32_t step = 0; step < kSortSteps; ++step) SortStep(task, list, step);
  }
  __aicore__ MS_DSV32_NOINLINE void SortStep(const AttentionTask& task, uint32_t list, uint32_t step) {
    if (step == 0) {
      AwaitSorted();
      WaitFlag<HardEvent::MTE2_S>(static_cast<int32_t>(list));
      // The scalar unit has read the entries that lay there.
      WaitPipe<HardEvent::S_V>(kSortFlag);
    }
    const uint32_t count = task.count - AllEarly(task);
    if (task.key_begin < task.key_end && count > 0) {
      arena_.Reset(tiling_.sort_offset);
      const LocalTensor<float> even = arena_.Take<float>(2 * kMostSorted), odd = arena_.Take<float>(2 * kMostSorted);
      const uint32_t padded = RoundUp(count, kSortedRun), n = padded / kSortedRun;
      if (step == 0) {
        SortRuns(even, arena_.Take<float>(kMostSorted), count, padded);
      } else if (step == 1) {
        MergeRuns(odd, even, 32, padded / 128);
      } else if (step == 2) {
        MergeRuns(even, odd, 128, n);
      } else {
        RecordList lists[4];
        for (uint32_t i = 0; i < n; ++i) lists[i] = {even[i * 2 * kSortedRun], kSortedRun};
        if (n > 1) MergeLists(odd, lists, n);
        PipeBarrier<PIPE_V>();
        TakeShares(task, list, n > 1 ? odd : even, count);
      }
      PipeBarrier<PIPE_V>();
    }
    if (step + 1 == kSortSteps) {
      SetFlag<HardEvent::V_S>(kSortFlag);
      sorting_ = true;
    }
  }
  // The first step: runs of 32.
  __aicore__ inline void SortRuns(const LocalTensor<float>& runs, const LocalTensor<float>& keys, uint32_t count,
                                  uint32_t padded) {
    Duplicate(keys.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(padded));
    FillFrom(unsorted_, count, padded, -1);
    PipeBarrier<PIPE_V>();
    Cast(keys, unsorted_, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    Muls(keys, keys, -1.0f, static_cast<int32_t>(count));
    PipeBarrier<PIPE_V>();
    Sort32(runs, keys, unsorted_.ReinterpretCast<uint32_t>(), static_cast<int32_t>(padded / 32));
  }
  // The last step: this AIV's share of every chunk, of `count` sorted records.
  __aicore__ inline void TakeShares(const AttentionTask& task, uint32_t list, const LocalTensor<float>& sorted,
                                    uint32_t count) {
    const LocalTensor<int32_t> records = sorted.ReinterpretCast<int32_t>();
    uint32_t entry = 0;
    for (uint32_t chunk = task.key_begin; chunk < task.key_end; chunk += tiling_.key_chunk) {
      const uint32_t end = ShareOfChunk(task, chunk, 1);
      uint32_t begin = ShareOfChunk(task, chunk, 0);
      entry += end - begin;
      if (chunk == task.key_begin) begin += task.early;
      if (begin == end) continue;
      // The early entries of the cores before come before, and those of this core too after its first share.
      uint32_t before = (plan_.member_ + 1) * kVectorsPerCore * task.early;
      if (chunk == task.key_begin && sub_ == 0) before -= task.early;
      TakeSorted(entries_[list][entry - (end - begin)], records, task, begin - before, end - before, count);
    }
  }
  // Sorted entries [begin, end) of `count`, from one that the token has for itself on, and round: tokens of a sequence
  // read the same part of the cache at different times, each some of it from HBM and what the others have read from L2.
  __aicore__ inline void TakeSorted(const LocalTensor<int32_t>& dst, const LocalTensor<int32_t>& records,
                                    const AttentionTask& task, uint32_t begin, uint32_t end, uint32_t count) {
    const uint32_t round = count / kFractal * kFractal;
    const uint32_t first = ShareBegin(count / tiling_.team / kFractal, task.offset, task.sequence_tokens) * kFractal;
    for (uint32_t at = begin; at < end;) {
      uint32_t from = at, to = end;
      if (at < round) {
        from = (at + first) % round;
        to = Smaller(Smaller(end, round), at + round - from);
      }
      uint64_t kept = 0;
      GatherMask(dst[at - begin], records[from * 2], static_cast<uint8_t>(2), true, (to - at) * 2,
                 GatherMaskParams(1, 1, 8, 0), kept);
      at = to;
    }
  }
  // The entries that were sorted last are there, and the UB is free.
  __aicore__ inline void AwaitSorted() {
    if (sorting_) WaitFlag<HardEvent::V_S>(kSortFlag);
    sorting_ = false;
  }
  // Entries of a task that are not sorted.
  __aicore__ inline uint32_t AllEarly(const AttentionTask& task) const {
    return tiling_.team * kVectorsPerCore * task.early;
  }
  // Begin of this AIV's keys of the chunk at `chunk`, or of the keys after them.
  __aicore__ inline uint32_t ShareOfChunk(const AttentionTask& task, uint32_t chunk, uint32_t next) const {
    const uint32_t blocks = Smaller(tiling_.key_chunk, task.key_end - chunk) / kFractal;
    return chunk + ShareBegin(blocks, sub_ + next, kVectorsPerCore) * kFractal;
  }

  // (1) the valid entries of the token and their cache rows, (2) the keys, dequantised and rounded to bf16. With the
  // softmax of the task before it, batch by batch, if both have room in UB.
  __aicore__ MS_DSV32_NOINLINE void Gather(const AttentionTask& task, uint32_t index) {
    const uint32_t list = together_ ? index % 2 : 0;
    const LocalTensor<int32_t> entries = entries_[list];
    const LocalTensor<uint64_t> pairs = entries.ReinterpretCast<uint64_t>();
    const LocalTensor<float> skipped = skipped_[list];
    if (tiling_.sort_offset == 0) WaitFlag<HardEvent::MTE2_S>(static_cast<int32_t>(list));
    PagedSequence sequence;
    sequence.table = table_[list];
    sequence.length = static_cast<int32_t>(task.length);
    sequence.table_columns = static_cast<int32_t>(tiling_.max_blocknum_perbatch);
    sequence.block_size = static_cast<int32_t>(tiling_.block_size);
    sequence.block_num = static_cast<int32_t>(tiling_.block_num);

    const GlobalTensor<bfloat16_t> latent = plan_.Latent(index), rope = plan_.Rope(index);
    const GlobalTensor<float> skipped_out = plan_.Skipped(index);
    stage_ = together_ && index > 0 ? kIdle : kDone;
    next_lists_ = together_ && index + 1 < plan_.Tasks() ? kUnloaded : kReady;
    uint32_t entry = 0, batches = 0;
    for (uint32_t chunk = task.key_begin; chunk < task.key_end; chunk += tiling_.key_chunk) {
      const uint32_t begin = ShareOfChunk(task, chunk, 0), end = ShareOfChunk(task, chunk, 1), first = entry;
      for (uint32_t key = begin; key < end; key += KeyGather::kBatch) {
        int32_t rows[KeyGather::kBatch];
        if (entry == task.early) AwaitSorted();
        keys_.Acquire();
        for (uint32_t half = 0; half < 2; ++half) {
          uint64_t marks = 0;  // a block of 32 bytes
          uint64_t pair = 0;
          for (uint32_t i = half * KeyGather::kHalf; i < (half + 1) * KeyGather::kHalf; ++i, ++entry) {
            rows[i] = kNoRow;
            if (key + i >= task.count) continue;
            if (i % 2 != 0) {
              pair >>= 32;
            } else if (key + i + 1 < task.count) {
              pair = pairs.GetValue(entry / 2);
            } else {
              pair = static_cast<uint32_t>(entries.GetValue(entry));
            }
            rows[i] = sequence.Row(static_cast<int32_t>(static_cast<uint32_t>(pair)));
            if (rows[i] == kNoRow) marks |= uint64_t{1} << (entry % 8);
          }
          if (marks != 0) MarkSkipped(skipped[entry - KeyGather::kHalf], marks);
          keys_.Fetch(rows, half);
        }
        keys_.FetchRest(rows);
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t row = key + half * KeyGather::kHalf;
          keys_.Dequantise(rows, half, latent[row * kKvLoraRank], rope[row * kRopeDim]);
          // MTE3 has waited for the vector pipe's marks with those keys.
          if (half == 0 && key + KeyGather::kBatch >= end) CopyOut(skipped_out[begin], skipped[first], end - begin);
        }
        keys_.Release();
        ++batches;
        if (next_lists_ != kReady) {
          PrepareLists(list ^ 1);
        } else if (stage_ != kDone && batches >= kSoftmaxLag) {
          StepSoftmax();
        }
      }
      NotifyCube(kKeysReady);
    }
    if (entry > 0) {
      SetFlag<HardEvent::MTE3_V>(kListFlag + static_cast<int32_t>(list));
      marks_leave_[list] = true;
    }
    while (next_lists_ != kReady) PrepareLists(list ^ 1);
    FinishSoftmax();
  }
  // One step of what the next task's lists need. They are sorted before the softmax needs its UB.
  __aicore__ inline void PrepareLists(uint32_t list) {
    if (next_lists_ == kUnloaded) {
      LoadLists(next_, list);
      next_lists_ = tiling_.sort_offset > 0 ? kUnsorted : kReady;
      sort_step_ = 0;
    } else {
      SortStep(next_, list, sort_step_);
      if (++sort_step_ == kSortSteps) next_lists_ = kReady;
    }
  }
  // Those of 8 entries whose bits are set.
  __aicore__ inline void MarkSkipped(const LocalTensor<float>& skipped, uint64_t marks) {
    uint64_t lanes[2] = {marks, 0};
    Duplicate(skipped, 1.0f, lanes, static_cast<uint8_t>(1), static_cast<uint16_t>(1), static_cast<uint8_t>(8));
  }
  // The marks of a list that are on their way out.
  __aicore__ inline void AwaitMarks(uint32_t list) {
    if (marks_leave_[list]) WaitFlag<HardEvent::MTE3_V>(kListFlag + static_cast<int32_t>(list));
    marks_leave_[list] = false;
  }

  // (4) softmax over the valid entries, normalised in float32, then rounded to bf16, a batch of rows at a time. Softmax
  // has all of UB, the steps beside a gather their part of it: two slots of scores suffice without a gather, and its
  // probabilities have two as well, so that those of a batch leave while those of the next one are rounded.
  __aicore__ inline void Softmax() {
    PipeBarrier<PIPE_ALL>();
    if (!alone_) {
      rows_.Shrink();
      SetFlag<HardEvent::MTE3_V>(kResultFlag + 1);
      results_.Grow();
    }
    alone_ = true;
    stage_ = kIdle;
    FinishSoftmax();
  }
  __aicore__ inline void FinishSoftmax() {
    while (stage_ != kDone) StepSoftmax();
  }
  // What may be done without waiting for what was asked for in the step before.
  __aicore__ MS_DSV32_NOINLINE void StepSoftmax() {
    if (stage_ == kIdle) {
      BeginSoftmax();
    } else if (stage_ == kLoaded) {
      SumSkipped();
    } else if (stage_ == kRows) {
      NextRows();
    }
  }

  __aicore__ MS_DSV32_NOINLINE void BeginSoftmax() {
    AwaitSorted();
    AwaitCore(kScoresReady);
    head_ = HeadBegin(softmax_task_);
    head_end_ = HeadBegin(softmax_task_, 1);
    first_batch_ = true;
    if (head_ == head_end_) return EndSoftmax();
    arena_.Reset(alone_ ? 0 : tiling_.softmax_offset);
    mask_ = arena_.Take<float>(tiling_.key_rows);
    softmax_.Place(arena_);
    for (uint32_t i = 0; i < kLogSums; ++i) log_sum_[i] = arena_.Take<float>(RowSoftmax::kRows);
    const uint32_t batch = (alone_ ? (kUbBytes - arena_.Used()) / 192 * 64 : kScoreBatchBytes) / 4;
    for (uint32_t i = 0; i < rows_.Slots(); ++i) scores_[i] = arena_.Take<float>(batch);
    for (uint32_t i = 0; i < results_.Slots(); ++i) probabilities_[i] = arena_.Take<bfloat16_t>(batch);
    if (softmax_task_.count == 0) return Empty();
    width_ = RoundUp(softmax_task_.keys, 64);
    step_ = Smaller(RowSoftmax::kRows, batch / width_);
    // Alone, two batches that arrive one after the other are better than a larger one, unless it is small; and equal
    // ones, as the last one is on its way out while nothing else is to do.
    const uint32_t heads = head_end_ - head_;
    if (alone_ && heads > kFewHeads) step_ = DivUp(heads, Larger(2, DivUp(heads, step_)));
    softmax_.Begin();
    load_head_ = head_;
    WaitFlag<HardEvent::V_MTE2>(kMaskFlag);
    CopyIn(mask_, plan_.Skipped(softmax_index_), softmax_task_.keys);
    SetFlag<HardEvent::MTE2_V>(kMaskFlag);
    LoadScores();
    LoadScores();
    stage_ = kLoaded;
  }

  // A token without a key: zeros, and the logarithm of 0.
  __aicore__ inline void Empty() {
    const LocalTensor<bfloat16_t> zeros = probabilities_[results_.Acquire()];
    const LocalTensor<float> log_sum = NextLogSum();
    Zero(zeros, log_sum, RowSoftmax::kRows * kKvLoraRank);
    results_.Publish();
    results_.Take();
    for (; head_ < head_end_; head_ += RowSoftmax::kRows) {
      const uint32_t rows = Smaller(RowSoftmax::kRows, head_end_ - head_);
      CopyOut(attention_out_[OutputRow() * kKvLoraRank], zeros, rows * kKvLoraRank);
      CopyOut(lse_[OutputRow()], log_sum, rows);
    }
    results_.Release();
    EndSoftmax();
  }

  // Results of tokens that are of no sequence, as of tokens without a key. All AIVs share their rows.
  __aicore__ MS_DSV32_NOINLINE void WritePadding() {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
    const LocalTensor<bfloat16_t> zeros = arena_.Take<bfloat16_t>(kPaddingRows * kKvLoraRank);
    const LocalTensor<float> log_sum = arena_.Take<float>(kPaddingRows);
    Duplicate(zeros.ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
              static_cast<int32_t>(kPaddingRows * kKvLoraRank));
    Duplicate(log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(kPaddingRows));
    WaitPipe<HardEvent::V_MTE3>(kFlag);
    const uint32_t vectors = tiling_.cores * kVectorsPerCore;
    const uint32_t vector = (plan_.team_ * tiling_.team + plan_.member_) * kVectorsPerCore + sub_;
    const uint64_t first = static_cast<uint64_t>(plan_.Tokens()) * tiling_.n_q;
    const uint64_t rows = static_cast<uint64_t>(tiling_.t) * tiling_.n_q - first;
    const uint64_t end = first + rows * (vector + 1) / vectors;
    for (uint64_t row = first + rows * vector / vectors; row < end; row += kPaddingRows) {
      const uint32_t count = end - row < kPaddingRows ? static_cast<uint32_t>(end - row) : kPaddingRows;
      CopyOut(attention_out_[row * kKvLoraRank], zeros, count * kKvLoraRank);
      CopyOut(lse_[row], log_sum, count);
    }
  }

  // Copies the next batch of scores, if there is one. Two are on their way or worked on. Beside a gather, a third slot
  // is one that was released a step before it is needed: MTE2 has keys to fetch, and must not wait for the vector pipe.
  __aicore__ inline void LoadScores() {
    if (load_head_ >= head_end_) return;
    const uint32_t slot = rows_.Acquire();
    CopyRowsIn(scores_[slot], plan_.Scores(softmax_index_)[static_cast<uint64_t>(load_head_) * tiling_.key_rows],
               Smaller(step_, head_end_ - load_head_), softmax_task_.keys, tiling_.key_rows, width_);
    rows_.Publish();
    load_head_ += step_;
  }

  // Of the marks of skipped entries: their number, and what to add to the scores.
  __aicore__ inline void SumSkipped() {
    WaitFlag<HardEvent::MTE2_V>(kMaskFlag);
    skipped_sum_ = softmax_.Sum(mask_, softmax_task_.keys);
    SetFlag<HardEvent::V_S>(kFlag);
    Muls(mask_, mask_, kMasked, static_cast<int32_t>(softmax_task_.keys));
    PipeBarrier<PIPE_V>();
    stage_ = kRows;
  }

  __aicore__ inline void NextRows() {
    if (first_batch_) {
      WaitFlag<HardEvent::V_S>(kFlag);
      skipped_count_ = static_cast<uint32_t>(skipped_sum_.GetValue(0));
      WaitPipe<HardEvent::S_V>(kFlag);
    }
    const uint32_t head = head_, rows = Smaller(step_, head_end_ - head);
    const uint64_t output_row = OutputRow();
    head_ = head + rows;
    if (!first_batch_) LoadScores();
    slot_ = rows_.Take();
    first_batch_ = false;
    const LocalTensor<float> scores = scores_[slot_], log_sum = NextLogSum();
    const bool none = skipped_count_ == softmax_task_.count;
    if (!none) {
      softmax_.Run(scores, rows, width_, softmax_task_.count, tiling_.softmax_scale, mask_, skipped_count_ > 0,
                   log_sum);
    }
    const LocalTensor<bfloat16_t> probabilities = probabilities_[results_.Acquire()];
    if (none) {
      Zero(probabilities, log_sum, rows * width_);
    } else {
      Cast(probabilities, scores, RoundMode::CAST_RINT, rows * width_);
    }
    PipeBarrier<PIPE_V>();
    rows_.Release();
    results_.Publish();
    results_.Take();
    CopyRowsOut(plan_.Probabilities(softmax_index_)[static_cast<uint64_t>(head) * tiling_.key_rows], probabilities,
                rows, softmax_task_.keys, tiling_.key_rows, width_);
    if (head_ == head_end_) {
      SetFlag<HardEvent::V_MTE2>(kMaskFlag);
      EndSoftmax();
    }
    // The cube does not need these.
    CopyOut(lse_[output_row], log_sum, rows);
    results_.Release();
  }

  // Log-sums of the next batch, before it has a slot of results_. Those of the third batch before it are out: the last
  // one has waited for that.
  __aicore__ inline LocalTensor<float> NextLogSum() {
    log_slot_ = (log_slot_ + 1) % kLogSums;
    return log_sum_[log_slot_];
  }

  // Results of rows without a key: `count` zeros, and the logarithm of 0.
  __aicore__ inline void Zero(const LocalTensor<bfloat16_t>& probabilities, const LocalTensor<float>& log_sum,
                              uint32_t count) {
    Duplicate(probabilities.ReinterpretCast<int16_t>(), static_cast<int16_t>(0), static_cast<int32_t>(count));
    Duplicate(log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(RowSoftmax::kRows));
  }

  __aicore__ inline void EndSoftmax() {
    NotifyCube(kProbabilitiesReady);
    stage_ = kDone;
  }

  // Row of the outputs of head_.
  __aicore__ inline uint64_t OutputRow() const {
    return static_cast<uint64_t>(softmax_task_.token) * tiling_.n_q + head_;
  }

  const AttentionPlan& plan_;
  const SparseFlashAttentionTiling& tiling_;
  const uint32_t sub_;
  const bool together_;  // the softmax has room in UB beside the gather
  GlobalTensor<int32_t> topk_indices_, block_table_;
  GlobalTensor<bfloat16_t> attention_out_;
  GlobalTensor<float> lse_;
  UbArena arena_;
  KeyGather keys_;
  AttentionTask next_;
  LocalTensor<int32_t> entries_[2], table_[2], unsorted_;
  // Lists of the next task.
  enum ListStage : uint32_t { kUnloaded, kUnsorted, kReady };
  ListStage next_lists_ = kReady;
  uint32_t sort_step_ = 0;
  bool sorting_ = false;
  LocalTensor<float> skipped_[2];
  bool marks_leave_[2] = {false, false};

  // The softmax that is under way, or the next one: its task, how far it is, the next head, the batch of rows.
  enum SoftmaxStage : uint32_t { kIdle, kLoaded, kRows, kDone };
  SoftmaxStage stage_ = kDone;
  AttentionTask softmax_task_;
  uint32_t softmax_index_ = 0, head_ = 0, load_head_ = 0, head_end_ = 0, width_ = 0, step_ = 0, slot_ = 0,
           log_slot_ = 0, skipped_count_ = 0;
  bool first_batch_ = true, alone_ = false;
  RowSoftmax softmax_;
  LocalTensor<float> mask_, skipped_sum_, scores_[kScoreBatches], log_sum_[kLogSums];
  LocalTensor<bfloat16_t> probabilities_[2];
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, 4, kScoreBatches> rows_;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kResultFlag, 1> results_;
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
    pipe.InitBuffer(l1_, kQueryBytes + kStreamSlots * kStreamBytes);
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
    const uint32_t tasks = plan_.Tasks();
    AttentionTask previous{}, task = plan_.Task(0);
    LoadQuery(task);
    for (uint32_t index = 0; index < tasks; ++index) {
      const AttentionTask next = index + 1 < tasks ? plan_.Task(index + 1) : AttentionTask{};
      Scores(task, index);
      if (index > 0) Output(previous, index - 1);
      LoadQuery(next);
      previous = task;
      task = next;
    }
    // No query comes any more.
    stream_slots_.Grow();
    Output(previous, tasks - 1);
    WaitFlag<HardEvent::FIX_M>(0);
    WaitFlag<HardEvent::FIX_M>(1);
    stream_slots_.End();
    l0_slots_.End();
  }

 private:
  // L1: 147456 + 3 * 125440 = 523776 of 524032 bytes. L0A, L0B: 2 * 32768. L0C: 2 * 65536.
  static constexpr uint32_t kQueryBytes = 128 * kLatentDim * 2;
  static constexpr uint32_t kStreamSlots = 3;
  static constexpr uint32_t kStreamBytes = 125440;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kL0CBytes = 65536;
  static constexpr int32_t kQueryFlag = kStreamSlots;  // where the query lies is one more slot in the end
  static constexpr uint32_t kScoreStep = 96;           // of the 576 that a score sums over: 128 x 96 are 24 KiB of L0A
  static constexpr uint32_t kOutputColumns = 256;      // 128 x 256 floats fill L0C
  static_assert(kScoreTile * kLatentDim * 2 <= kStreamBytes && kStreamBytes <= kQueryBytes &&
                128 * kScoreTile * 4 <= kL0CBytes);

  // The query of a task, as soon as that of the task before it is no longer read.
  __aicore__ inline void LoadQuery(const AttentionTask& task) {
    if (task.key_begin == task.key_end) return;
    const uint32_t m16 = RoundUp(task.heads, kFractal);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q;
    const LocalTensor<bfloat16_t> query = l1_.GetWithOffset<bfloat16_t>(kQueryBytes / 2, 0);
    WaitFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    CopyNdToL1(query, query_nope_[row * kKvLoraRank], task.heads, kKvLoraRank, kKvLoraRank, m16);
    CopyNdToL1(query[kKvLoraRank * m16], query_rope_[row * kRopeDim], task.heads, kRopeDim, kRopeDim, m16);
    SetFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
  }

  // (3) scores in float32 of this core's keys: nope and rope parts together. The AIVs scale them.
  __aicore__ inline void Scores(const AttentionTask& task, uint32_t index) {
    if (task.key_begin < task.key_end) {
      const uint32_t m16 = RoundUp(task.heads, kFractal);
      const LocalTensor<bfloat16_t> query = l1_.GetWithOffset<bfloat16_t>(kQueryBytes / 2, 0);
      const GlobalTensor<bfloat16_t> latent = plan_.Latent(index), rope = plan_.Rope(index);
      const GlobalTensor<float> scores = plan_.Scores(index);
      WaitFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
      for (uint32_t key0 = task.key_begin; key0 < task.key_end; key0 += tiling_.score_tile) {
        if ((key0 - task.key_begin) % tiling_.key_chunk == 0) AwaitCore(kKeysReady);
        const uint32_t n = Smaller(tiling_.score_tile, task.key_end - key0);
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
    // AICs tell each other: a flag of an AIV would wait for what its MTE3 writes of the next task.
    if (tiling_.team > 1) {
      CrossCoreSetFlag<0, PIPE_FIX>(kScoresShared);
      CrossCoreWaitFlag(kScoresShared);
    }
    NotifyVectors(kScoresReady);
  }

  // What this core computes of a token's output. The columns go by tiles of `columns`.
  struct OutputPart {
    uint32_t head, heads, m16;
    uint32_t column, columns, column_end;
    uint32_t tile;  // keys of which the probabilities fit into a slot of L1
    uint32_t deep;  // tiles of keys that come to a slot before the probabilities
    uint32_t step;  // keys that fit into a slot of L0A and of L0B
  };

  // (5) weighted sum of the dequantised keys in float32, rounded to bf16: this core's part.
  __aicore__ inline void Output(const AttentionTask& task, uint32_t index) {
    const uint32_t head_part = plan_.member_ / tiling_.column_parts, column_part = plan_.member_ % tiling_.column_parts;
    OutputPart part{};
    if (task.keys > 0 && head_part < tiling_.head_parts) {
      const uint32_t fractals = DivUp(task.heads, kFractal), columns = kKvLoraRank / kFractal;
      part.head = ShareBegin(fractals, head_part, tiling_.head_parts) * kFractal;
      part.heads = Smaller(ShareBegin(fractals, head_part + 1, tiling_.head_parts) * kFractal, task.heads) - part.head;
      part.column = ShareBegin(columns, column_part, tiling_.column_parts) * kFractal;
      part.column_end = ShareBegin(columns, column_part + 1, tiling_.column_parts) * kFractal;
      part.columns = Smaller(kOutputColumns, part.column_end - part.column);
      part.m16 = RoundUp(part.heads, kFractal);
      part.deep = 2;
      part.tile = TileKeys(part);
      if (index + 1 < plan_.Tasks() || !WaitsForCopies(part, task.keys)) {
        part.deep = 1;
        part.tile = TileKeys(part);
      }
      const uint32_t most = kL0Bytes / 2 / Larger(part.m16, part.columns);
      part.step = RoundUp(DivUp(part.tile, DivUp(part.tile, most / kFractal * kFractal)), kFractal);
    }
    // Keys come before the probabilities; many of them only for the last task, as those of others seldom wait.
    uint32_t loaded = 0;
    const uint32_t ahead = index + 1 == plan_.Tasks() ? stream_slots_.Slots() : 1;
    for (; loaded < ahead && loaded * part.deep * part.tile < task.keys && part.heads > 0; ++loaded) {
      LoadKeys(task, index, part, loaded * part.deep * part.tile, part.deep);
    }
    AwaitCore(kProbabilitiesReady);
    if (tiling_.team > 1) {
      // Behind this, all probabilities of the team are there, and all cores have read what they need of the last task.
      CrossCoreSetFlag<0, PIPE_MTE2>(kProbabilitiesShared);
      CrossCoreWaitFlag(kProbabilitiesShared);
      if (index > 0) NotifySlotFree();
    }
    if (part.heads > 0) {
      for (; part.column < part.column_end; part.column += kOutputColumns) {
        OutputTile(task, index, part, loaded);
        loaded = 0;
      }
    }
    if (tiling_.team == 1) NotifySlotFree();
  }

  // Keys whose probabilities share a slot of L1 with `part.deep` times as many keys.
  static __aicore__ inline uint32_t TileKeys(const OutputPart& part) {
    return kStreamBytes / 2 / (part.m16 + part.deep * part.columns) / kFractal * kFractal;
  }
  // Whether two tiles of keys in each slot spare the cube a wait: during the softmax of the last task, L1 has room for
  // more keys if fewer probabilities are on their way. A fractal takes the cube a cycle with each of the other operand,
  // and MTE2 512 bytes at 110 a cycle. All slots must have keys, and all columns be one pass.
  __aicore__ inline bool WaitsForCopies(const OutputPart& part, uint32_t keys) const {
    return part.m16 * part.columns < 4 * kFractal * (part.m16 + part.columns) &&
           part.column + part.columns == part.column_end && keys > (stream_slots_.Slots() - 1) * part.deep * part.tile;
  }
  // `tiles` tiles of keys to the next slot.
  __aicore__ inline void LoadKeys(const AttentionTask& task, uint32_t index, const OutputPart& part, uint32_t key0,
                                  uint32_t tiles) {
    const uint32_t keys = Smaller(tiles * part.tile, task.keys - key0);
    CopyNdToL1(Stream(stream_slots_.Acquire())[part.m16 * part.tile],
               plan_.Latent(index)[key0 * kKvLoraRank + part.column], keys, part.columns, kKvLoraRank, keys);
  }

  // Columns [part.column, part.column + part.columns), of which keys are on their way to `loaded` slots.
  __aicore__ inline void OutputTile(const AttentionTask& task, uint32_t index, const OutputPart& part,
                                    uint32_t loaded) {
    const GlobalTensor<bfloat16_t> probabilities = plan_.Probabilities(index)[part.head * tiling_.key_rows];
    const LocalTensor<float> c = l0c_.Get<float>();
    const uint32_t m16 = part.m16, columns = part.columns;
    WaitFlag<HardEvent::FIX_M>(0);
    WaitFlag<HardEvent::FIX_M>(1);
    for (uint32_t i = 0;; ++i) {
      // Slots that have keys take turns: the first tile of each, then the second one.
      const bool here = i < loaded * part.deep;
      const uint32_t tile = here ? i % loaded * part.deep : i, nth = here ? i / loaded : 0;
      const uint32_t key0 = (tile + nth) * part.tile;
      if (key0 >= task.keys) break;
      const uint32_t keys = Smaller(part.tile, task.keys - key0);
      const uint32_t rows = Smaller((here ? part.deep : 1) * part.tile, task.keys - tile * part.tile);
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
        const uint32_t step = Smaller(part.step, keys - k);
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
    WaitPipe<HardEvent::M_FIX>(0);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.n_q + part.head;
    StoreC(attention_out_[row * kKvLoraRank + part.column], c, part.heads, m16, 0, columns, kKvLoraRank);
    SetFlag<HardEvent::FIX_M>(0);
    SetFlag<HardEvent::FIX_M>(1);
  }

  // The workspace of the oldest task is read, by MTE2 alone.
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

  const AttentionPlan& plan_;
  const SparseFlashAttentionTiling& tiling_;
  GlobalTensor<bfloat16_t> query_nope_, query_rope_, attention_out_;
  TBuf<TPosition::A1> l1_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, 0, kStreamSlots> stream_slots_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, 3> l0_slots_;
  uint32_t l0c_slot_ = 0;
};

}  // namespace ms_dsv32::ascendc

extern "C" __global__ __aicore__ void sparse_flash_attention_quant(GM_ADDR query_nope, GM_ADDR query_rope,
                                                                   GM_ADDR key_nope_2d, GM_ADDR key_rope_2d,
                                                                   GM_ADDR k_nope_scales, GM_ADDR topk_indices,
                                                                   GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                                   GM_ADDR query_act_seqs, GM_ADDR attention_out,
                                                                   GM_ADDR lse, GM_ADDR workspace, GM_ADDR tiling) {
  using namespace AscendC;
  using namespace ms_dsv32::ascendc;
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::SparseFlashAttentionTiling);
  GET_TILING_DATA(data, tiling);
  if (data.t == 0) return;
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const AttentionPlan plan(data, static_cast<uint32_t>(GetBlockIdx()), kv_act_seqs, query_act_seqs, user);
    AttentionCube cube(pipe, plan, query_nope, query_rope, attention_out);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const AttentionPlan plan(data, static_cast<uint32_t>(GetBlockIdx()) / kVectorsPerCore, kv_act_seqs, query_act_seqs,
                             user);
    AttentionVector vector(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), key_nope_2d, key_rope_2d, k_nope_scales,
                           topk_indices, block_table, attention_out, lse);
    vector.Run();
  }
}
