// The vector half of lightning_indexer_quant: weights of the heads, and the largest scores. See indexer_plan.h.
#ifndef MS_DSV32_ASCENDC_INDEXER_VECTOR_H_
#define MS_DSV32_ASCENDC_INDEXER_VECTOR_H_

#include "copy.h"
#include "indexer_plan.h"
#include "sync.h"
#include "topk.h"

namespace ms_dsv32::ascendc {

// The cube takes weights in half. The weights of a token may be beyond the range of half at either end. Therefore they
// are multiplied by the power of two that brings the largest of them into [2^14, 2^15). All keys of the token have the
// same factor, so that their order stays as it is.
constexpr uint32_t kWeightExponent = 14, kFloatBias = 127, kLeastExponent = 2 * kFloatBias + kWeightExponent - 254;

// The score of a key without a block of the cache: it ranks after all keys that have a score.
constexpr float kUnscored = -3.0e38f;

// A window of a sequence's row of block_table in UB. If the scalar unit read GM, the AIV would stop for as long as a
// copy takes, at each line of the data cache.
class TableWindow {
 public:
  __aicore__ inline void Place(UbArena& arena) { entries_ = arena.Take<int32_t>(kColumns); }
  // Makes the window hold the entries of the task's keys from `position` on, of at least `count` keys. `count` is at
  // most what a step has.
  __aicore__ MS_DSV32_NOINLINE void Cover(const IndexerPlan& plan, const IndexerTask& task, uint32_t position,
                                          uint32_t count) {
    const IndexerTiling& tiling = plan.Tiling();
    const uint32_t first = position / tiling.block_size, columns = tiling.max_blocknum_perbatch;
    const uint32_t end = Min(CeilDiv(position + count, tiling.block_size), columns);
    if (task.sequence == sequence_ && begin_ <= first && end <= end_) {
      return;
    }
    const uint32_t last = Min(task.begin[2] * kKeyTile, task.visible);
    sequence_ = task.sequence;
    begin_ = first;
    end_ = Min(Min(CeilDiv(last, tiling.block_size), columns), first + kColumns);
    if (end_ <= begin_) {
      return;
    }
    WaitPipe<HardEvent::S_MTE2>(kWaitFlag);
    CopyIn(entries_, plan.Blocks(sequence_, begin_), end_ - begin_);
    WaitPipe<HardEvent::MTE2_S>(kWaitFlag);
  }
  __aicore__ inline int32_t At(uint32_t column) const {
    return column < end_ ? entries_.GetValue(column - begin_) : -1;
  }

 private:
  // Columns of the window. A step needs 129 at most: 2048 keys in blocks of 16 that begin within a block.
  static constexpr uint32_t kColumns = 1024;
  static constexpr int32_t kWaitFlag = 0;
  LocalTensor<int32_t> entries_;
  uint32_t sequence_ = ~0u, begin_ = 0, end_ = 0;
};

class IndexerVector {
 public:
  __aicore__ inline IndexerVector(TPipe& pipe, const IndexerArguments& arguments, const IndexerTiling& tiling)
      : vector_(static_cast<uint32_t>(GetBlockIdx())),
        sub_(static_cast<uint32_t>(GetSubBlockIdx())),
        plan_(arguments, tiling, vector_ / kVectorsPerCore),
        tiling_(tiling),
        arena_(pipe, kArenaBytes) {
    const uint64_t heads = static_cast<uint64_t>(tiling_.t) * kIdxNHeads;
    q_scale_ = Global<half>(arguments.q_scale, heads);
    weights_ = Global<half>(arguments.weights, heads);
    k_scale_ = Global<half>(arguments.k_cache_scale, static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size);
    topk_indices_ = Global<int32_t>(arguments.topk_indices, static_cast<uint64_t>(tiling_.t) * tiling_.selected_count);
    positions_ = arena_.Take<int32_t>(RoundUp(tiling_.list_records, 64));
    table_.Place(arena_);
    common_bytes_ = arena_.Used();
    topk_.Place(arena_, tiling_.list_records);
    for (uint32_t i = 0; i < 2; ++i) {
      scores_[i] = arena_.Take<float>(kSortChunk);
      scale16_[i] = arena_.Take<half>(kSortChunk);
    }
    scale32_ = arena_.Take<float>(kSortChunk);
    factors16_ = arena_.Take<half>(2 * kRows * kIdxNHeads);
    factors32_ = arena_.Take<float>(2 * kRows * kIdxNHeads);
    largest_ = arena_.Take<float>(kRows);
  }

  __aicore__ inline void Run() {
    score_slots_.Begin();
    scale_slots_.Begin();
    SetFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
    uint32_t next = NextTask(0);
    if (next < plan_.Tasks()) {
      MakeWeights(plan_.Task(next), 0);
    }
    if (plan_.Tokens() < tiling_.t) {
      WritePadding();
    }
    // The lists of shared units are merged after the first whole unit, when the lists of other cores are there too.
    const uint32_t merge_after = plan_.Rounds() > 0 ? plan_.SharedTasks() : ~0u;
    for (uint32_t index = 0; index < plan_.Tasks(); ++index) {
      if (index == plan_.SharedTasks()) {
        TellLists();
      }
      const IndexerTask task = plan_.Task(index);
      if (task.Steps() > 0) {
        next = NextTask(index + 1);
        if (next < plan_.Tasks()) {
          MakeWeights(plan_.Task(next), tasks_ + 1);
        }
        Score(task, index);
        ++tasks_;
      }
      if (!task.shared) {
        for (uint32_t row = task.RowBegin(sub_); row < task.RowEnd(sub_); ++row) {
          if (task.Visible(row) <= tiling_.selected_count) {
            SelectAll(task, row);
          }
        }
      }
      if (index == merge_after) {
        MergeShared();
      }
    }
    if (plan_.Rounds() == 0) {
      TellLists();
      MergeShared();
    }
    AwaitOut();
    WaitFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
    score_slots_.End();
    scale_slots_.End();
  }

 private:
  // KiB of UB: positions 8, window of block_table 4, TopK 40.5 and three lists of 32.25, scores 16, scales 16, factors
  // of the heads 1.5. Together they are 182.75, and a block for largest_.
  static constexpr uint32_t kArenaBytes = 184 * 1024;
  static_assert(kArenaBytes <= kUbBytes);
  static constexpr uint32_t kRows = kUnitTokens / kVectorsPerCore;  // of an AIV
  // Flags of events between two pipes: two for the slots of scores, and two for those of scales. The factors of a task
  // go round from MTE2 to V, to MTE3 and back to MTE2, and what V has written for GM goes from V to MTE3 and back: no
  // flag is set again before its wait. Merging has barriers.
  static constexpr int32_t kScoreFlag = 0, kScaleFlag = 2, kFactorFlag = 4, kOutFlag = 5, kMergeFlag = 5;
  // Records that are merged at once: those of all lists that the samples leave, or those of the lists of a group. UB
  // has three times as many places, because merging goes from one third to the next. The samples are in the second
  // third.
  static constexpr uint32_t kMergedRecords = (kMaxSamples + kMaxLists) * kSampleStride;
  static_assert(kMergedRecords >= 3 * kMaxLists * kMaxSamples);
  static_assert(TopK::kTokens == kRows);
  // All dense samples may belong to two lists, which are then needed as a whole.
  static_assert(kMergedRecords >= kMaxSelected + kMaxLists * kDenseStride + 2 * (kMaxSelected / 2));

  __aicore__ MS_DSV32_NOINLINE uint32_t NextTask(uint32_t index) const {
    while (index < plan_.Tasks() && plan_.Task(index).Steps() == 0) {
      ++index;
    }
    return index;
  }

  // (2) one factor for each head, in half, for the tokens of this AIV. AIV 0 makes those of a single token.
  __aicore__ MS_DSV32_NOINLINE void MakeWeights(const IndexerTask& task, uint32_t index) {
    const uint32_t row = task.RowBegin(sub_), end = Min(task.RowEnd(sub_), task.tokens);
    if (row < end) {
      const uint32_t count = (end - row) * kIdxNHeads;
      const uint64_t head = static_cast<uint64_t>(task.token + row) * kIdxNHeads;
      const LocalTensor<float> left = factors32_, right = factors32_[count];
      WaitFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
      CopyIn(factors16_, q_scale_[head], count);
      CopyIn(factors16_[count], weights_[head], count);
      WaitPipe<HardEvent::MTE2_V>(kFactorFlag);
      Cast(left, factors16_, RoundMode::CAST_NONE, 2 * count);
      PipeBarrier<PIPE_V>();
      Mul(left, left, right, static_cast<int32_t>(count));
      PipeBarrier<PIPE_V>();
      ScaleWeights(left, right, end - row);
      // Writes each row twice, so that one copy takes them all. A repeat is a row: 256 bytes in float, and 128 in half.
      static_assert(kWeightRows == 2, "a row of weights and its copy");
      const UnaryRepeatParams twice(1, 1, kWeightRows * kIdxNHeads / kC0<half>, kIdxNHeads / kC0<float>);
      for (uint32_t i = 0; i < kWeightRows; ++i) {
        Cast(factors16_[i * kIdxNHeads], left, RoundMode::CAST_RINT, uint64_t{kIdxNHeads},
             static_cast<uint8_t>(end - row), twice);
      }
      WaitPipe<HardEvent::V_MTE3>(kFactorFlag);
      CopyOut(plan_.Weights(index, row), factors16_, kWeightRows * count);
      SetFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
      PipeBarrier<PIPE_V>();
    }
    NotifyCube(kWeightsReady);
  }

  // What V has written goes to GM by BeginOut, the copies, and EndOut. After AwaitOut, V may overwrite the source of
  // the copies.
  __aicore__ inline void BeginOut() {
    AwaitOut();
    WaitPipe<HardEvent::V_MTE3>(kOutFlag);
  }
  __aicore__ inline void EndOut() {
    SetFlag<HardEvent::MTE3_V>(kOutFlag);
    out_ = true;
  }
  __aicore__ inline void AwaitOut() {
    if (out_) {
      WaitFlag<HardEvent::MTE3_V>(kOutFlag);
    }
    out_ = false;
  }

  // Multiplies rows of kIdxNHeads weights, each by its own power of two. Destroys `scratch`.
  __aicore__ inline void ScaleWeights(const LocalTensor<float>& weights, const LocalTensor<float>& scratch,
                                      uint32_t rows) {
    Abs(scratch, weights, static_cast<int32_t>(rows * kIdxNHeads));
    PipeBarrier<PIPE_V>();
    WholeReduceMax(largest_, scratch, static_cast<int32_t>(kIdxNHeads), static_cast<int32_t>(rows), 1, 1, 8,
                   ReduceOrder::ORDER_ONLY_VALUE);
    WaitPipe<HardEvent::V_S>(kFactorFlag);
    const LocalTensor<int32_t> bits = largest_.ReinterpretCast<int32_t>();
    for (uint32_t row = 0; row < rows; ++row) {
      const uint32_t exponent = static_cast<uint32_t>(bits.GetValue(row)) >> 23;
      union {
        uint32_t bits;
        float value;
      } scale;
      scale.bits = (2 * kFloatBias + kWeightExponent - Max(exponent, kLeastExponent)) << 23;
      const LocalTensor<float> own = weights[row * kIdxNHeads];
      Muls(own, own, scale.value, static_cast<int32_t>(kIdxNHeads));
    }
    WaitPipe<HardEvent::S_V>(kFactorFlag);
    PipeBarrier<PIPE_V>();
  }

  __aicore__ MS_DSV32_NOINLINE void Score(const IndexerTask& task, uint32_t index) {
    AwaitOut();  // the lists are free
    topk_.Begin();
    const uint32_t begin = task.RowBegin(sub_), end = task.RowEnd(sub_), steps = task.Steps();
    StepKeys next = LoadScales(task, 0);
    for (uint32_t step = 0; step < steps; ++step, ++steps_) {
      const uint32_t from = task.StepBegin(step), to = task.StepBegin(step + 1);
      const StepKeys keys = next;
      AwaitCore(kScoresReady);
      uint32_t loaded[kRows] = {};
      bool scored = false;
      for (uint32_t row = begin; row < end; ++row) {
        if (task.Visible(row) <= tiling_.selected_count) {
          continue;
        }
        const uint32_t count = task.Keys(row, from, to);
        loaded[row - begin] = count;
        if (count == 0) {
          continue;
        }
        scored = true;
        DataCopy(scores_[score_slots_.Acquire()], plan_.Scores(steps_, row), RoundUp(count, 8));
        score_slots_.Publish();
      }
      // Only MTE2 reads scores, so that its flag suffices.
      CrossCoreSetFlag<2, PIPE_MTE2>(kScoresFree);
      const LocalTensor<half> scales = scale16_[scale_slots_.Take()];
      // Only rows with keys have the barriers that let the next step overwrite scale32_.
      if (scored && keys.missing < keys.count) {
        Cast(scale32_, scales, RoundMode::CAST_NONE, keys.count);
      }
      if (scored && !task.Long()) {
        topk_.Expect(keys.first);
      }
      scale_slots_.Release();
      // Asks for the next step before sorting this one, because sorting makes the scalar unit wait for its results.
      if (step + 1 < steps) {
        next = LoadScales(task, step + 1);
      }
      for (uint32_t row = begin; row < end; ++row) {
        if (loaded[row - begin] == 0) {
          continue;
        }
        const LocalTensor<float> scores = scores_[score_slots_.Take()];
        PipeBarrier<PIPE_V>();
        if (keys.missing < keys.count) {
          Mul(scores, scores, scale32_, static_cast<int32_t>(loaded[row - begin]));
        }
        PipeBarrier<PIPE_V>();
        if (keys.missing > 0) {
          ReplaceUnscored(task, scores, keys.first, loaded[row - begin]);
        }
        // (5) the largest scores of the token. The first scores may wait to be sorted if the next step is a long one
        // too.
        topk_.Add(row - begin, scores, keys.first, loaded[row - begin], task.Long() && step + 1 < task.LongSteps());
        score_slots_.Release();
      }
    }
    for (uint32_t row = begin; row < end; ++row) {
      if (task.Visible(row) > tiling_.selected_count) {
        Keep(task, row, index);
      }
    }
  }

  // Keys that the rows of an AIV see in a step.
  struct StepKeys {
    uint32_t first, count;
    uint32_t missing;  // how many of them have no block of the cache
  };

  // Asks for the scales of the keys of a step.
  __aicore__ MS_DSV32_NOINLINE StepKeys LoadScales(const IndexerTask& task, uint32_t step) {
    const uint32_t begin = task.RowBegin(sub_), end = task.RowEnd(sub_), from = task.StepBegin(step);
    // The last row of an AIV sees the most keys.
    StepKeys keys{(task.FirstTile(begin) + from) * kKeyTile,
                  begin < end ? task.Keys(end - 1, from, task.StepBegin(step + 1)) : 0, 0};
    const LocalTensor<half> scales = scale16_[scale_slots_.Acquire()];
    table_.Cover(plan_, task, keys.first, keys.count);
    KeyRuns<TableWindow> runs(table_, tiling_, keys.first, keys.count);
    for (uint32_t done = 0; !runs.Done();) {
      const KeyRun run = runs.Next();
      if (run.row >= 0) {
        CopyIn(scales[done], k_scale_[run.row], run.count);
      } else {
        keys.missing += run.count;
      }
      done += run.count;
    }
    scale_slots_.Publish();
    return keys;
  }

  // Replaces the scores of keys without a block.
  __aicore__ MS_DSV32_NOINLINE void ReplaceUnscored(const IndexerTask& task, const LocalTensor<float>& scores,
                                                    uint32_t first, uint32_t count) {
    table_.Cover(plan_, task, first, count);
    KeyRuns<TableWindow> runs(table_, tiling_, first, count);
    for (uint32_t done = 0; !runs.Done();) {
      const KeyRun run = runs.Next();
      if (run.row < 0) {
        Duplicate(scores[done], kUnscored, static_cast<int32_t>(run.count));
      }
      done += run.count;
    }
    PipeBarrier<PIPE_V>();
  }

  // Writes the list of a row: as the result, or as one of several lists of the token.
  __aicore__ MS_DSV32_NOINLINE void Keep(const IndexerTask& task, uint32_t row, uint32_t index) {
    const uint32_t own = row - task.RowBegin(sub_);
    const RecordList best = topk_.List(own);
    if (!task.shared) {
      WritePositions(task.Token(row), best.records);
      return;
    }
    if (best.count == 0) {
      return;
    }
    const uint32_t shared = plan_.SharedUnit(index), token = task.Token(row) - task.token;
    const uint32_t list = task.Halves() ? task.part * 2 + row : task.part;
    AwaitOut();
    const LocalTensor<float> sampled = topk_.Sampled(own, list, plan_.SampleStride());
    BeginOut();
    CopyOut(plan_.Samples(shared, token, list), sampled, (kMaxSamples + best.count) * 2);
    EndOut();
  }

  __aicore__ MS_DSV32_NOINLINE void WritePositions(uint32_t token, const LocalTensor<float>& records) {
    AwaitOut();
    RecordPositions(positions_, records, tiling_.list_records);
    WriteIndices(token);
  }
  __aicore__ MS_DSV32_NOINLINE void WriteIndices(uint32_t token) {
    BeginOut();
    CopyOut(topk_indices_[static_cast<uint64_t>(token) * tiling_.selected_count], positions_, tiling_.selected_count);
    EndOut();
  }

  // The result of a token that sees no more keys than it may select: all of them, then -1.
  __aicore__ MS_DSV32_NOINLINE void SelectAll(const IndexerTask& task, uint32_t row) {
    // The scalar unit writes the first block of a CreateVecIndex, whole and at once. Therefore -1 comes after it.
    AwaitOut();
    PipeBarrier<PIPE_ALL>();
    CreateVecIndex(positions_, int32_t{0}, tiling_.selected_count);
    PipeBarrier<PIPE_V>();
    FillFrom(positions_, task.Visible(row), tiling_.selected_count, -1);
    WriteIndices(task.Token(row));
  }

  // AIVs of the launch.
  __aicore__ inline uint32_t Vectors() const { return tiling_.cores * kVectorsPerCore; }

  // Writes -1 to the results of tokens that belong to no sequence. All AIVs share these rows.
  __aicore__ MS_DSV32_NOINLINE void WritePadding() {
    AwaitOut();
    Duplicate(positions_, -1, static_cast<int32_t>(tiling_.selected_count));
    BeginOut();
    for (uint32_t token = plan_.Tokens() + vector_; token < tiling_.t; token += Vectors()) {
      CopyOut(topk_indices_[static_cast<uint64_t>(token) * tiling_.selected_count], positions_, tiling_.selected_count);
    }
    EndOut();
  }

  // Tells all AIVs that the lists of this one are written.
  __aicore__ inline void TellLists() {
    if (plan_.Shared() > 0) {
      CrossCoreSetFlag<0, PIPE_MTE3>(kListsReady);
    }
  }

  // Merges the lists of the tokens of shared units, which are dealt to all AIVs. One AIV merges a token with few lists.
  // The lists of a token with many are merged in groups, one by each AIV.
  __aicore__ MS_DSV32_NOINLINE void MergeShared() {
    if (plan_.Shared() == 0) {
      return;
    }
    CrossCoreWaitFlag(kListsReady);
    // The scores are used up, and their UB holds the lists.
    arena_.Reset(common_bytes_);
    merger_.Place(arena_, 3 * kMergedRecords);
    const uint32_t groups = plan_.Lists() > kMergeWidth ? kMergeGroups : 1;
    const uint32_t tokens = plan_.Slots();
    for (uint32_t index = vector_; index < tokens * groups; index += Vectors()) {
      MergeGroup(index / groups, index % groups, groups);
    }
    if (groups > 1) {
      // There are fewer groups than AIVs: each AIV has one group at most, so that it still knows the lengths of its
      // token's lists.
      AwaitAllVectors(kGroupsReady);
      if (vector_ < tokens * groups && vector_ % groups == 0) {
        MergeGroups(vector_ / groups, groups);
      }
    }
    if (plan_.Rounds() == 0) {
      return;
    }
    PipeBarrier<PIPE_ALL>();
    arena_.Reset(common_bytes_);
    topk_.Place(arena_, tiling_.list_records);
  }

  __aicore__ inline uint32_t FirstList(uint32_t group, uint32_t groups) const {
    return group * CeilDiv(plan_.Lists(), groups);
  }

  __aicore__ MS_DSV32_NOINLINE void MergeGroup(uint32_t index, uint32_t group, uint32_t groups) {
    const uint32_t shared = plan_.SlotUnit(index), token = plan_.SlotToken(index);
    const IndexerTask unit = plan_.Part(shared, 0);
    if (token >= unit.tokens) {
      return;
    }
    if (unit.Visible(token) <= tiling_.selected_count) {
      if (group == 0) {
        SelectAll(unit, token);
      }
      return;
    }
    PipeBarrier<PIPE_ALL>();
    CountLists(unit, shared, token);
    // The heads of the lists are asked for together with the samples, before these have told how much of each list is
    // needed. A head is about as much as a list needs if all lists are alike.
    const uint32_t first = FirstList(group, groups), end = Min(FirstList(group + 1, groups), lists_);
    const uint32_t stride = plan_.SampleStride(), enough = CeilDiv(tiling_.selected_count, stride);
    const uint32_t head = Min((CeilDiv(3 * enough, 2 * plan_.Lists()) + 2) * stride, tiling_.list_records);
    const DataCopyParams samples(static_cast<uint16_t>(lists_), kMaxSamples / 4,
                                 static_cast<uint16_t>(tiling_.list_records / 4), 0);
    DataCopy(merger_.At(kMergedRecords), plan_.Samples(shared, token, 0), samples);
    SetFlag<HardEvent::MTE2_V>(kMergeFlag);
    if (first < end) {
      const DataCopyParams heads(static_cast<uint16_t>(end - first), static_cast<uint16_t>(head / 4),
                                 static_cast<uint16_t>((plan_.ListStride() - head) / 4), 0);
      DataCopy(merger_.At(0), plan_.List(shared, token, first), heads);
    }
    WaitFlag<HardEvent::MTE2_V>(kMergeFlag);
    Prune(enough, stride);
    bool more = false;
    for (uint32_t list = first; list < end; ++list) {
      more = more || lengths_[list] > head;
    }
    if (more) {
      PipeBarrier<PIPE_MTE2>();
    }
    merger_.Begin(0, kMergedRecords);
    for (uint32_t list = first, at = 0; list < end; ++list) {
      const uint32_t length = lengths_[list];
      if (more && length > 0) {
        CopyIn(merger_.At(at), plan_.List(shared, token, list), length * 2);
      }
      merger_.Add(at, length);
      at += more ? RoundUp(length, 4) : head;
    }
    WaitPipe<HardEvent::MTE2_V>(kFactorFlag);
    const RecordList best = merger_.Merge(tiling_.selected_count);
    if (groups == 1) {
      WritePositions(unit.token + token, best.records);
    } else if (best.count > 0) {
      BeginOut();
      CopyOut(plan_.List(shared, token, first), best.records, best.count * 2);
      EndOut();
    }
  }

  // Merges the groups of a token. Each group has been merged to the place of its first list.
  __aicore__ MS_DSV32_NOINLINE void MergeGroups(uint32_t index, uint32_t groups) {
    const uint32_t shared = plan_.SlotUnit(index), token = plan_.SlotToken(index);
    const IndexerTask unit = plan_.Part(shared, 0);
    if (token >= unit.tokens || unit.Visible(token) <= tiling_.selected_count) {
      return;
    }
    PipeBarrier<PIPE_ALL>();
    merger_.Begin(0, kMergedRecords);
    uint32_t at = 0;
    for (uint32_t group = 0; group < groups; ++group) {
      uint32_t length = 0;
      const uint32_t first = FirstList(group, groups), end = Min(FirstList(group + 1, groups), lists_);
      for (uint32_t list = first; list < end; ++list) {
        length += lengths_[list];
      }
      length = Min(length, tiling_.selected_count);
      if (length == 0) {
        continue;
      }
      CopyIn(merger_.At(at), plan_.List(shared, token, first), length * 2);
      merger_.Add(at, length);
      at += RoundUp(length, 4);
    }
    WaitPipe<HardEvent::MTE2_V>(kMergeFlag);
    WritePositions(unit.token + token, merger_.Merge(tiling_.selected_count).records);
  }

  // Counts the lists of a token of a shared unit, and their lengths.
  __aicore__ MS_DSV32_NOINLINE void CountLists(IndexerTask task, uint32_t shared, uint32_t token) {
    lists_ = 0;
    const uint32_t parts = plan_.Parts(shared);
    for (uint32_t part = 0; part < parts; ++part) {
      plan_.TakePart(task, shared, part);
      const uint32_t first = task.Halves() ? 0 : token, end = task.Halves() ? 2 : token + 1;
      for (uint32_t row = first; row < end; ++row) {
        lengths_[lists_++] = Min(task.Keys(row), tiling_.selected_count);
      }
    }
  }

  // Cuts each list after what can be among the token's best. Each of the `enough` best samples has stride - 1 records
  // of its list before it. So selected_count records come before whatever comes after the next sample of a list.
  __aicore__ MS_DSV32_NOINLINE void Prune(uint32_t enough, uint32_t stride) {
    merger_.Begin(kMergedRecords, kMaxLists * kMaxSamples);
    for (uint32_t list = 0; list < lists_; ++list) {
      merger_.Add(kMergedRecords + list * kMaxSamples, Min(lengths_[list] / stride, kMaxSamples));
    }
    const RecordList best = merger_.Merge(enough);
    if (best.count < enough) {
      return;
    }
    const uint32_t padded = RoundUp(enough, 32);
    // Counts how many of these samples each list has. Four ids are read as one word, because each read takes the scalar
    // unit long.
    if (enough % 4 != 0) {
      FillFrom(best.records.ReinterpretCast<int32_t>(), 2 * enough, 2 * padded, 0);
    }
    AwaitOut();
    PipeBarrier<PIPE_V>();
    RecordPositions(positions_, best.records, padded);
    PipeBarrier<PIPE_V>();
    const LocalTensor<int16_t> narrow = positions_[padded].ReinterpretCast<int16_t>();
    Cast(narrow, positions_, RoundMode::CAST_NONE, padded);
    WaitPipe<HardEvent::V_S>(kMergeFlag);
    const LocalTensor<uint64_t> words = narrow.ReinterpretCast<uint64_t>();
    uint32_t among[kMaxLists] = {};
    for (uint32_t i = 0; i < enough; i += 4) {
      const uint64_t word = words.GetValue(i / 4);
      for (uint32_t k = 0; k < Min(4, enough - i); ++k) {
        ++among[word >> (16 * k) & 0xffff];
      }
    }
    WaitPipe<HardEvent::S_V>(kMergeFlag);
    for (uint32_t list = 0; list < lists_; ++list) {
      if (among[list] < kMaxSamples) {
        lengths_[list] = Min(lengths_[list], (among[list] + 1) * stride);
      }
    }
  }

  const uint32_t vector_, sub_;  // among all AIVs, and among those of the core
  const IndexerPlan plan_;
  const IndexerTiling& tiling_;
  GlobalTensor<half> q_scale_, weights_, k_scale_;
  GlobalTensor<int32_t> topk_indices_;
  UbArena arena_;
  uint32_t common_bytes_ = 0;
  TableWindow table_;
  TopK topk_;
  ListMerger merger_;
  LocalTensor<float> scores_[2], scale32_, factors32_, largest_;
  LocalTensor<half> scale16_[2], factors16_;
  LocalTensor<int32_t> positions_;
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kScoreFlag> score_slots_;
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kScaleFlag> scale_slots_;
  uint32_t lengths_[kMaxLists] = {}, lists_ = 0;
  uint32_t tasks_ = 0, steps_ = 0;
  bool out_ = false;  // EndOut has set a flag for which nobody has waited
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_INDEXER_VECTOR_H_
