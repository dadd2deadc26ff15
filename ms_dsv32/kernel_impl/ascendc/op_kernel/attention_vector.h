// The vector half of sparse_flash_attention_quant: gather of keys, and softmax. See attention_plan.h.
#ifndef MS_DSV32_ASCENDC_ATTENTION_VECTOR_H_
#define MS_DSV32_ASCENDC_ATTENTION_VECTOR_H_

#include "attention_plan.h"
#include "copy.h"
#include "gather.h"
#include "records.h"
#include "softmax.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

class AttentionVector {
 public:
  __aicore__ inline AttentionVector(TPipe& pipe, const AttentionArguments& arguments, const AttentionTiling& tiling)
      : plan_(arguments, tiling, static_cast<uint32_t>(GetBlockIdx()) / kVectorsPerCore),
        tiling_(tiling),
        sub_(static_cast<uint32_t>(GetSubBlockIdx())),
        together_(tiling.softmax_offset > 0),
        arena_(pipe, kUbBytes),
        keys_(Global<int8_t>(arguments.key_nope_2d, plan_.CacheRows() * kKvLoraRank),
              Global<bfloat16_t>(arguments.key_rope_2d, plan_.CacheRows() * kRopeDim),
              Global<float>(arguments.k_nope_scales, plan_.CacheRows() * kKScaleGroups)) {
    const uint64_t rows = static_cast<uint64_t>(tiling_.t) * tiling_.n_q;
    topk_indices_ = Global<int32_t>(arguments.topk_indices, static_cast<uint64_t>(tiling_.t) * tiling_.topk);
    block_table_ =
        Global<int32_t>(arguments.block_table, static_cast<uint64_t>(tiling_.b) * tiling_.max_blocknum_perbatch);
    attention_out_ = Global<bfloat16_t>(arguments.attention_out, rows * kKvLoraRank);
    lse_ = Global<float>(arguments.lse, rows);
    // Unsorted entries lie at the begin of UB, because Sort32 takes them at multiples of 128 bytes. They fill whole
    // runs, because what pads them is sorted too.
    if (tiling_.sort_offset > 0) {
      unsorted_ = arena_.Take<int32_t>(RoundUp(tiling_.topk, kSortedRun));
    }
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
    if (together_) {
      LoadLists(task, 0);
    }
    if (together_ && tiling_.sort_offset > 0) {
      SortEntries(task, 0);
    }
    for (uint32_t index = 0; index < tasks; ++index) {
      next_ = index + 1 < tasks ? plan_.Task(index + 1) : AttentionTask{};
      if (index >= tiling_.slots) {
        AwaitCore(kSlotFree);
      }
      if (!together_) {
        PipeBarrier<PIPE_ALL>();
        LoadLists(task, 0);
        if (tiling_.sort_offset > 0) {
          SortEntries(task, 0);
        }
      }
      Gather(task, index);
      if (!together_ && index > 0) {
        Softmax();
      }
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
    // A team of several cores hears that a slot is free with the next task. A single core hears it at the end of each
    // task.
    const uint32_t told = tiling_.team > 1 ? tasks - 1 : tasks;
    for (uint32_t i = tasks > tiling_.slots ? tasks - tiling_.slots : 0; i < told; ++i) {
      AwaitCore(kSlotFree);
    }
    if (plan_.Tokens() < tiling_.t) {
      WritePadding();
    }
  }

 private:
  // Flags of events between two pipes: 0 to 2 belong to the slots of the gather, 3 to the softmax's mask, 3 and 4 to
  // its results, 4 to 6 to its batches of scores, and 5 and 6 to the lists. kWaitFlag is for waits that have no other.
  static constexpr int32_t kWaitFlag = 2, kResultFlag = 3, kMaskFlag = 3, kBatchFlag = 4, kListFlag = 5, kSortFlag = 0;
  // Sorting takes Sort32, two levels of merging four runs, and the merge of the runs that are left.
  static constexpr uint32_t kSortSteps = 4;
  // Batches of a gather before the softmax of the task before it begins. Until then the slowest core of all has not
  // written its scores, and the scalar unit would wait for them instead of asking for more keys.
  static constexpr uint32_t kSoftmaxLag = 8;
  // So many rows of an AIV's softmax are one batch: the instructions of a second batch would take longer than its copy.
  static constexpr uint32_t kFewHeads = 4;
  static constexpr uint32_t kPaddingRows = 64;  // rows of results of padding that are copied at once: 64 KiB of UB
  static_assert(kEarlyEntries % KeyGather::kBatch == 0);
  static_assert(KeyGather::kBytes == kKeyGatherBytes && KeyGather::kStageBytes == kKeyStageBytes);
  static_assert(KeyGather::kFewestStageRows == kFewestStageRows && RowSoftmax::kBytes == kRowSoftmaxBytes);

  // Begin of the heads of this AIV or, with `next` 1, of the next AIV.
  __aicore__ inline uint32_t HeadBegin(const AttentionTask& task, uint32_t next = 0) const {
    return ShareBegin(task.heads, plan_.Member() * kVectorsPerCore + sub_ + next, tiling_.team * kVectorsPerCore);
  }

  // Loads pages and entries of a task, and marks no entry as skipped. An AIV has a share of each chunk. One copy loads
  // its shares of whole chunks. A chunk whose last fractal has fewer entries is not whole. If the entries are to be
  // sorted, each AIV loads all entries of the task.
  __aicore__ MS_DSV32_NOINLINE void LoadLists(const AttentionTask& task, uint32_t list) {
    AwaitSorted();  // an AIV without a share of the task before has not waited yet
    WaitPipe<HardEvent::S_MTE2>(kWaitFlag);
    if (tiling_.sort_offset > 0) {
      const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.topk;
      const uint32_t vector = plan_.Member() * kVectorsPerCore + sub_, early = AllEarly(task);
      if (task.early > 0) {
        CopyIn(entries_[list], topk_indices_[row + vector * task.early], task.early);
      }
      if (task.count > early) {
        CopyIn(unsorted_, topk_indices_[row + early], task.count - early);
      }
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
    const uint32_t whole = (Min(task.key_end, task.count) - task.key_begin) / tiling_.key_chunk;
    const uint32_t chunk = task.key_begin + whole * tiling_.key_chunk, blocks = (task.key_end - chunk) / kFractal;
    const uint32_t begin = chunk + ShareBegin(blocks, sub_, kVectorsPerCore) * kFractal;
    const uint32_t end = Min(chunk + ShareBegin(blocks, sub_ + 1, kVectorsPerCore) * kFractal, task.count);
    const uint64_t row = static_cast<uint64_t>(task.token) * tiling_.topk;
    if (whole > 0) {
      CopyRowsIn(entries_[list], topk_indices_[row + task.key_begin + sub_ * half], whole, half, tiling_.key_chunk,
                 half);
    }
    if (begin < end) {
      CopyIn(entries_[list][whole * half], topk_indices_[row + begin], end - begin);
    }
  }

  // Sorts the entries of a task by position, and keeps this AIV's share of each chunk. Then rows of one block follow
  // each other, with few rows between them. Beside the gather, sorting borrows the UB of the softmax's scores. A step
  // of sorting takes the vector pipe about as long as a batch of the gather, so that one of each is done in turn.
  // Positions that float cannot tell apart may come in any order.
  __aicore__ MS_DSV32_NOINLINE void SortEntries(const AttentionTask& task, uint32_t list) {
    for (uint32_t step = 0; step < kSortSteps; ++step) {
      SortStep(task, list, step);
    }
  }
  __aicore__ MS_DSV32_NOINLINE void SortStep(const AttentionTask& task, uint32_t list, uint32_t step) {
    if (step == 0) {
      AwaitSorted();
      WaitFlag<HardEvent::MTE2_S>(static_cast<int32_t>(list));
      // The scalar unit must have read the entries that lie where the sorted ones will.
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
        for (uint32_t i = 0; i < n; ++i) {
          lists[i] = {even[i * 2 * kSortedRun], kSortedRun};
        }
        if (n > 1) {
          MergeLists(odd, lists, n);
        }
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
  // The first step sorts runs of 32 records.
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
  // The last step takes this AIV's share of each chunk from `count` sorted records.
  __aicore__ inline void TakeShares(const AttentionTask& task, uint32_t list, const LocalTensor<float>& sorted,
                                    uint32_t count) {
    const LocalTensor<int32_t> records = sorted.ReinterpretCast<int32_t>();
    uint32_t entry = 0;
    for (uint32_t chunk = task.key_begin; chunk < task.key_end; chunk += tiling_.key_chunk) {
      const uint32_t end = ShareOfChunk(task, chunk, 1);
      uint32_t begin = ShareOfChunk(task, chunk, 0);
      entry += end - begin;
      if (chunk == task.key_begin) {
        begin += task.early;
      }
      if (begin == end) {
        continue;
      }
      // The early entries of this core and of the cores before it come before its sorted ones, except that AIV 1's
      // early entries come after AIV 0's share of the first chunk.
      uint32_t before = (plan_.Member() + 1) * kVectorsPerCore * task.early;
      if (chunk == task.key_begin && sub_ == 0) {
        before -= task.early;
      }
      TakeSorted(entries_[list][entry - (end - begin)], records, task, begin - before, end - before, count);
    }
  }
  // Takes sorted entries [begin, end) of `count`, counted from an entry that depends on the token and going round at
  // the end. So the tokens of a sequence read the same part of the cache at different times: each reads some of it from
  // HBM, and what the others have read from L2.
  __aicore__ inline void TakeSorted(const LocalTensor<int32_t>& dst, const LocalTensor<int32_t>& records,
                                    const AttentionTask& task, uint32_t begin, uint32_t end, uint32_t count) {
    const uint32_t round = count / kFractal * kFractal;
    const uint32_t first = ShareBegin(count / tiling_.team / kFractal, task.offset, task.sequence_tokens) * kFractal;
    for (uint32_t at = begin; at < end;) {
      uint32_t from = at, to = end;
      if (at < round) {
        from = (at + first) % round;
        to = Min(Min(end, round), at + round - from);
      }
      uint64_t kept = 0;
      GatherMask(dst[at - begin], records[from * 2], static_cast<uint8_t>(2), true, (to - at) * 2,
                 GatherMaskParams(1, 1, 8, 0), kept);
      at = to;
    }
  }
  // Waits until the entries that were sorted last are there, and the UB of sorting is free.
  __aicore__ inline void AwaitSorted() {
    if (sorting_) {
      WaitFlag<HardEvent::V_S>(kSortFlag);
    }
    sorting_ = false;
  }
  // Entries of a task that are not sorted.
  __aicore__ inline uint32_t AllEarly(const AttentionTask& task) const {
    return tiling_.team * kVectorsPerCore * task.early;
  }
  // Begin of this AIV's keys of the chunk at `chunk` or, with `next` 1, their end.
  __aicore__ inline uint32_t ShareOfChunk(const AttentionTask& task, uint32_t chunk, uint32_t next) const {
    const uint32_t blocks = Min(tiling_.key_chunk, task.key_end - chunk) / kFractal;
    return chunk + ShareBegin(blocks, sub_ + next, kVectorsPerCore) * kFractal;
  }

  // (1) the valid entries of the token and their cache rows, (2) the keys, dequantised and rounded to bf16. If both
  // have room in UB, a step of the softmax of the task before follows each batch.
  __aicore__ MS_DSV32_NOINLINE void Gather(const AttentionTask& task, uint32_t index) {
    const uint32_t list = together_ ? index % 2 : 0;
    const LocalTensor<int32_t> entries = entries_[list];
    const LocalTensor<uint64_t> pairs = entries.ReinterpretCast<uint64_t>();
    const LocalTensor<float> skipped = skipped_[list];
    if (tiling_.sort_offset == 0) {
      WaitFlag<HardEvent::MTE2_S>(static_cast<int32_t>(list));
    }
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
        if (entry == task.early) {
          AwaitSorted();
        }
        keys_.Acquire();
        for (uint32_t half = 0; half < 2; ++half) {
          uint64_t marks = 0;  // a block of 32 bytes
          uint64_t pair = 0;
          for (uint32_t i = half * KeyGather::kHalf; i < (half + 1) * KeyGather::kHalf; ++i, ++entry) {
            rows[i] = kNoRow;
            if (key + i >= task.count) {
              continue;
            }
            if (i % 2 != 0) {
              pair >>= 32;
            } else if (key + i + 1 < task.count) {
              pair = pairs.GetValue(entry / 2);
            } else {
              pair = static_cast<uint32_t>(entries.GetValue(entry));
            }
            rows[i] = sequence.Row(static_cast<int32_t>(static_cast<uint32_t>(pair)));
            if (rows[i] == kNoRow) {
              marks |= uint64_t{1} << (entry % 8);
            }
          }
          if (marks != 0) {
            MarkSkipped(skipped[entry - KeyGather::kHalf], marks);
          }
          keys_.Fetch(rows, half);
        }
        keys_.FetchRest(rows);
        for (uint32_t half = 0; half < 2; ++half) {
          const uint32_t row = key + half * KeyGather::kHalf;
          keys_.Dequantise(rows, half, latent[row * kKvLoraRank], rope[row * kRopeDim]);
          // With those keys, MTE3 has waited for what the vector pipe has marked.
          if (half == 0 && key + KeyGather::kBatch >= end) {
            CopyOut(skipped_out[begin], skipped[first], end - begin);
          }
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
    while (next_lists_ != kReady) {
      PrepareLists(list ^ 1);
    }
    FinishSoftmax();
  }
  // One step of preparing the next task's lists. They are sorted before the softmax needs its UB.
  __aicore__ inline void PrepareLists(uint32_t list) {
    if (next_lists_ == kUnloaded) {
      LoadLists(next_, list);
      next_lists_ = tiling_.sort_offset > 0 ? kUnsorted : kReady;
      sort_step_ = 0;
    } else {
      SortStep(next_, list, sort_step_);
      if (++sort_step_ == kSortSteps) {
        next_lists_ = kReady;
      }
    }
  }
  // Marks those of 8 entries whose bits are set.
  __aicore__ inline void MarkSkipped(const LocalTensor<float>& skipped, uint64_t marks) {
    uint64_t lanes[2] = {marks, 0};
    Duplicate(skipped, 1.0f, lanes, static_cast<uint8_t>(1), static_cast<uint16_t>(1), static_cast<uint8_t>(8));
  }
  // Waits until the marks of a list have been written to GM.
  __aicore__ inline void AwaitMarks(uint32_t list) {
    if (marks_leave_[list]) {
      WaitFlag<HardEvent::MTE3_V>(kListFlag + static_cast<int32_t>(list));
    }
    marks_leave_[list] = false;
  }

  // (4) softmax over the valid entries, normalised in float32, then rounded to bf16, a batch of rows at a time.
  // Softmax() has all of UB. The steps beside a gather have their own part of it. Without a gather two slots of scores
  // suffice. Then the probabilities have two slots as well: those of one batch leave while those of the next are
  // rounded.
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
    while (stage_ != kDone) {
      StepSoftmax();
    }
  }
  // Does the next step of the softmax. A step waits for nothing that was asked for in the same step.
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
    if (head_ == head_end_) {
      return EndSoftmax();
    }
    arena_.Reset(alone_ ? 0 : tiling_.softmax_offset);
    mask_ = arena_.Take<float>(tiling_.key_rows);
    softmax_.Place(arena_);
    for (uint32_t i = 0; i < kLogSums; ++i) {
      log_sum_[i] = arena_.Take<float>(RowSoftmax::kRows);
    }
    const uint32_t batch = (alone_ ? (kUbBytes - arena_.Used()) / 192 * 64 : kScoreBatchBytes) / 4;
    for (uint32_t i = 0; i < rows_.Slots(); ++i) {
      scores_[i] = arena_.Take<float>(batch);
    }
    for (uint32_t i = 0; i < results_.Slots(); ++i) {
      probabilities_[i] = arena_.Take<bfloat16_t>(batch);
    }
    if (softmax_task_.count == 0) {
      return Empty();
    }
    width_ = RoundUp(softmax_task_.keys, 64);
    step_ = Min(RowSoftmax::kRows, batch / width_);
    // Without a gather, two batches that arrive one after the other are better than one larger batch, unless that is
    // small. Batches are equal, because nothing else is left to do while the last one is on its way out.
    const uint32_t heads = head_end_ - head_;
    if (alone_ && heads > kFewHeads) {
      step_ = CeilDiv(heads, Max(2, CeilDiv(heads, step_)));
    }
    softmax_.Begin();
    load_head_ = head_;
    WaitFlag<HardEvent::V_MTE2>(kMaskFlag);
    CopyIn(mask_, plan_.Skipped(softmax_index_), softmax_task_.keys);
    SetFlag<HardEvent::MTE2_V>(kMaskFlag);
    LoadScores();
    LoadScores();
    stage_ = kLoaded;
  }

  // Writes the results of a token without a key: zeros, and the logarithm of 0 as its log-sum.
  __aicore__ inline void Empty() {
    const LocalTensor<bfloat16_t> zeros = probabilities_[results_.Acquire()];
    const LocalTensor<float> log_sum = NextLogSum();
    Zero(zeros, log_sum, RowSoftmax::kRows * kKvLoraRank);
    results_.Publish();
    results_.Take();
    for (; head_ < head_end_; head_ += RowSoftmax::kRows) {
      const uint32_t rows = Min(RowSoftmax::kRows, head_end_ - head_);
      CopyOut(attention_out_[OutputRow() * kKvLoraRank], zeros, rows * kKvLoraRank);
      CopyOut(lse_[OutputRow()], log_sum, rows);
    }
    results_.Release();
    EndSoftmax();
  }

  // Writes the results of tokens that belong to no sequence, which are those of a token without a key. All AIVs share
  // their rows.
  __aicore__ MS_DSV32_NOINLINE void WritePadding() {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
    const LocalTensor<bfloat16_t> zeros = arena_.Take<bfloat16_t>(kPaddingRows * kKvLoraRank);
    const LocalTensor<float> log_sum = arena_.Take<float>(kPaddingRows);
    Duplicate(zeros.ReinterpretCast<int16_t>(), static_cast<int16_t>(0),
              static_cast<int32_t>(kPaddingRows * kKvLoraRank));
    Duplicate(log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(kPaddingRows));
    WaitPipe<HardEvent::V_MTE3>(kWaitFlag);
    const uint32_t vectors = tiling_.cores * kVectorsPerCore;
    const uint32_t vector = (plan_.Team() * tiling_.team + plan_.Member()) * kVectorsPerCore + sub_;
    const uint64_t first = static_cast<uint64_t>(plan_.Tokens()) * tiling_.n_q;
    const uint64_t rows = static_cast<uint64_t>(tiling_.t) * tiling_.n_q - first;
    const uint64_t end = first + rows * (vector + 1) / vectors;
    for (uint64_t row = first + rows * vector / vectors; row < end; row += kPaddingRows) {
      const uint32_t count = end - row < kPaddingRows ? static_cast<uint32_t>(end - row) : kPaddingRows;
      CopyOut(attention_out_[row * kKvLoraRank], zeros, count * kKvLoraRank);
      CopyOut(lse_[row], log_sum, count);
    }
  }

  // Asks for the next batch of scores, if there is one. Two batches are on their way or in work. Beside a gather there
  // is a third slot, which was released a step before it is needed: MTE2 has keys to fetch, and must not wait for the
  // vector pipe.
  __aicore__ inline void LoadScores() {
    if (load_head_ >= head_end_) {
      return;
    }
    const uint32_t slot = rows_.Acquire();
    CopyRowsIn(scores_[slot], plan_.Scores(softmax_index_)[static_cast<uint64_t>(load_head_) * tiling_.key_rows],
               Min(step_, head_end_ - load_head_), softmax_task_.keys, tiling_.key_rows, width_);
    rows_.Publish();
    load_head_ += step_;
  }

  // Makes two things of the marks of skipped entries: their number, and what is added to the scores.
  __aicore__ inline void SumSkipped() {
    WaitFlag<HardEvent::MTE2_V>(kMaskFlag);
    skipped_sum_ = softmax_.Sum(mask_, softmax_task_.keys);
    SetFlag<HardEvent::V_S>(kWaitFlag);
    Muls(mask_, mask_, kMasked, static_cast<int32_t>(softmax_task_.keys));
    PipeBarrier<PIPE_V>();
    stage_ = kRows;
  }

  __aicore__ inline void NextRows() {
    if (first_batch_) {
      WaitFlag<HardEvent::V_S>(kWaitFlag);
      skipped_count_ = static_cast<uint32_t>(skipped_sum_.GetValue(0));
      WaitPipe<HardEvent::S_V>(kWaitFlag);
    }
    const uint32_t head = head_, rows = Min(step_, head_end_ - head);
    const uint64_t output_row = OutputRow();
    head_ = head + rows;
    if (!first_batch_) {
      LoadScores();
    }
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
    // The cube has been told already, as it does not need these.
    CopyOut(lse_[output_row], log_sum, rows);
    results_.Release();
  }

  // The place of the next batch's log-sums, which is needed before the batch has a slot of results_. It is free: the
  // batch before this one has waited until those of the third batch before this one were out.
  __aicore__ inline LocalTensor<float> NextLogSum() {
    log_slot_ = (log_slot_ + 1) % kLogSums;
    return log_sum_[log_slot_];
  }

  // Makes the results of rows without a key: `count` zeros, and the logarithm of 0.
  __aicore__ inline void Zero(const LocalTensor<bfloat16_t>& probabilities, const LocalTensor<float>& log_sum,
                              uint32_t count) {
    Duplicate(probabilities.ReinterpretCast<int16_t>(), static_cast<int16_t>(0), static_cast<int32_t>(count));
    Duplicate(log_sum.ReinterpretCast<int32_t>(), kMinusInfinity, static_cast<int32_t>(RowSoftmax::kRows));
  }

  __aicore__ inline void EndSoftmax() {
    NotifyCube(kProbabilitiesReady);
    stage_ = kDone;
  }

  // The row of head_ in the outputs.
  __aicore__ inline uint64_t OutputRow() const {
    return static_cast<uint64_t>(softmax_task_.token) * tiling_.n_q + head_;
  }

  const AttentionPlan plan_;
  const AttentionTiling& tiling_;
  const uint32_t sub_;
  const bool together_;  // the softmax has room in UB beside the gather
  GlobalTensor<int32_t> topk_indices_, block_table_;
  GlobalTensor<bfloat16_t> attention_out_;
  GlobalTensor<float> lse_;
  UbArena arena_;
  KeyGather keys_;
  AttentionTask next_;
  LocalTensor<int32_t> entries_[2], table_[2], unsorted_;
  // How far the lists of the next task are.
  enum ListStage : uint32_t { kUnloaded, kUnsorted, kReady };
  ListStage next_lists_ = kReady;
  uint32_t sort_step_ = 0;
  bool sorting_ = false;
  LocalTensor<float> skipped_[2];
  bool marks_leave_[2] = {false, false};

  // The softmax that is under way, or else the next one: how far it is, its task, its next head, and its batch of rows.
  enum SoftmaxStage : uint32_t { kIdle, kLoaded, kRows, kDone };
  SoftmaxStage stage_ = kDone;
  AttentionTask softmax_task_;
  uint32_t softmax_index_ = 0, head_ = 0, load_head_ = 0, head_end_ = 0, width_ = 0, step_ = 0, slot_ = 0,
           log_slot_ = 0, skipped_count_ = 0;
  bool first_batch_ = true, alone_ = false;
  RowSoftmax softmax_;
  LocalTensor<float> mask_, skipped_sum_, scores_[kScoreBatches], log_sum_[kLogSums];
  LocalTensor<bfloat16_t> probabilities_[2];
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kBatchFlag, kScoreBatches> rows_;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kResultFlag, 1> results_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ATTENTION_VECTOR_H_
