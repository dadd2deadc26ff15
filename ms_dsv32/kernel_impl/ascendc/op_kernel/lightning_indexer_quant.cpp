// lightning_indexer_quant: scores of all visible keys of each token, and the positions of the largest.
//
// A task is a unit of up to four tokens of a sequence and all its keys, or a part of them, on one AI core. A tile of
// keys is read once for all tokens of the unit. While the AIC scores a step of up to 2048 keys, its AIVs sort those of
// the step before into the running lists of the tokens, of which each AIV has half.
//
// Where there are fewer units than cores, or some are left over, cores share them in equal parts. Of a single token the
// AIVs share the keys of the part, too, the first one the lower half, so that positions ascend from list to list. Of
// the lists that a token has then, samples tell how much of each can be among the best: no more is merged.
#include "copy.h"
#include "cube_tile.h"
#include "kernel_operator.h"
#include "lightning_indexer_quant_tiling.h"
#include "sequences.h"
#include "sync.h"
#include "topk.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Flags between cores.
constexpr int64_t kWeightsReady = 0;  // AIV to AIC, for each task
constexpr int64_t kScoresReady = 1;   // AIC to AIV, for each step
constexpr int64_t kScoresFree = 2;    // AIV to AIC: the step is read
constexpr int64_t kListsReady = 3;    // all AIVs
constexpr int64_t kGroupsReady = 4;   // all AIVs

// The cube's half cannot hold |q . k| <= 2^21: it is divided by 2048, which changes no bit of it. The weights of a
// token may be beyond its range at either end: they are multiplied by the power of two that brings the largest of them
// to 2^14 or more, below 2^15. It is one for all keys of the token, and their order remains.
constexpr uint32_t kWeightExponent = 14, kFloatBias = 127, kLeastExponent = 2 * kFloatBias + kWeightExponent - 254;
constexpr uint64_t kDotScaleBits = 0x3a000000;  // 1 / 2048 as float32

// A key without a block of the cache ranks below all others that have a score.
constexpr float kUnscored = -3.0e38f;

// Tiles of a step. Long steps take less time to sort; the AIVs need that where they have two rows each. Behind short
// ones less is left to be sorted at the end of a launch. While the last step is scored, the one before is sorted: with
// a full list of one row that takes as long as to score six tiles.
constexpr uint32_t kLastStep = 4, kFullListLastStep = 6, kShortStep = 8, kLongStep = kSortChunk / kKeyTile;

// What is scored together. A row is a token of the unit with all keys of the task, or half of the keys.
struct IndexerTask {
  uint32_t sequence, token, tokens;
  uint32_t visible;  // of the last token
  // Tiles of keys [begin[0], begin[2]); the second half begins at begin[1].
  uint32_t begin[3];
  bool shared;     // with other cores: a token's list is one of several
  bool halves;     // the AIVs share the keys of the only token
  uint32_t part;   // of the shared unit
  uint32_t round;  // of a whole unit

  __aicore__ inline bool Halves() const { return halves; }
  __aicore__ inline uint32_t Rows() const { return Halves() ? 2 : tokens; }
  // Rows of an AIV are [RowBegin, RowEnd). It has more and fewer in turn.
  __aicore__ inline uint32_t RowBegin(uint32_t sub) const { return (sub ^ (round & 1)) == 0 ? 0 : DivUp(Rows(), 2); }
  __aicore__ inline uint32_t RowEnd(uint32_t sub) const { return (sub ^ (round & 1)) == 0 ? DivUp(Rows(), 2) : Rows(); }
  __aicore__ inline uint32_t Token(uint32_t row) const { return Halves() ? token : token + row; }
  __aicore__ inline uint32_t Visible(uint32_t row) const {
    const uint32_t later = Halves() ? 0 : tokens - 1 - row;
    return visible > later ? visible - later : 0;
  }
  __aicore__ inline uint32_t FirstTile(uint32_t row) const { return begin[Halves() ? row : 0]; }
  __aicore__ inline uint32_t Tiles(uint32_t row) const { return begin[Halves() ? row + 1 : 2] - FirstTile(row); }
  // Keys of the row in its tiles [from, to).
  __aicore__ MS_DSV32_NOINLINE uint32_t Keys(uint32_t row, uint32_t from, uint32_t to) const {
    const uint32_t first = (FirstTile(row) + from) * kKeyTile;
    const uint32_t end = Smaller((FirstTile(row) + Smaller(to, Tiles(row))) * kKeyTile, Visible(row));
    return end > first ? end - first : 0;
  }
  __aicore__ inline uint32_t Keys(uint32_t row) const { return Keys(row, 0, Tiles(row)); }

  // Steps go over all rows at once; the first row has most tiles. Where an AIV has two rows, long steps come first, and
  // a short one before the last; else all but the last are short.
  __aicore__ inline bool Long() const { return Rows() > 2; }
  __aicore__ inline uint32_t LastStep() const { return Long() || Halves() ? kLastStep : kFullListLastStep; }
  __aicore__ inline uint32_t LongTiles() const {
    const uint32_t others = Long() ? kShortStep + LastStep() : LastStep();
    return Tiles(0) > others ? Tiles(0) - others : 0;
  }
  __aicore__ inline uint32_t LongSteps() const { return DivUp(LongTiles(), Long() ? kLongStep : kShortStep); }
  __aicore__ MS_DSV32_NOINLINE uint32_t Steps() const {
    if (Tiles(0) == 0) return 0;
    return LongSteps() + (Long() && Tiles(0) > LastStep() ? 2 : 1);
  }
  __aicore__ MS_DSV32_NOINLINE uint32_t StepBegin(uint32_t step) const {
    if (step < LongSteps()) return ShareBegin(LongTiles(), step, LongSteps());
    if (step == LongSteps()) return LongTiles();
    return step == Steps() ? Tiles(0) : Tiles(0) - LastStep();
  }
};

class IndexerPlan {
 public:
  __aicore__ inline IndexerPlan(const LightningIndexerTiling& tiling, uint32_t core, GM_ADDR block_table,
                                GM_ADDR kv_act_seqs, GM_ADDR query_act_seqs, GM_ADDR workspace)
      : tiling_(tiling),
        core_(core),
        workspace_(workspace),
        sequences_(tiling.t, tiling.b, tiling.s1, tiling.ragged, kv_act_seqs, query_act_seqs),
        rounds_(tiling.rounds),
        shared_(tiling.shared),
        sharers_(tiling.sharers),
        lists_(tiling.lists),
        unit_tokens_(tiling.unit_tokens) {
    block_table_ = Global<int32_t>(block_table, static_cast<uint64_t>(tiling.b) * tiling.max_blocknum_perbatch);
    if (tiling.ragged != 0) Deal();
    halves_ = sequences_.Singles() >= shared_;
    // A core's share of the shared units, in `sharers` parts of a unit: [core * shared, (core + 1) * shared).
    if (core < sharers_) {
      first_shared_ = core * shared_ / sharers_;
      shared_tasks_ = DivUp((core + 1) * shared_, sharers_) - first_shared_;
    }
  }

  // Tokens that are of a sequence.
  __aicore__ inline uint32_t Tokens() const { return sequences_.Tokens(); }
  __aicore__ inline uint32_t Rounds() const { return rounds_; }
  __aicore__ inline uint32_t Shared() const { return shared_; }
  __aicore__ inline uint32_t Lists() const { return lists_; }
  // Places of tokens of shared units, those of a unit one after the other. Some units of a ragged call may have fewer
  // tokens than others: there the units' first tokens come first, so that AIVs next to each other have one each.
  __aicore__ inline uint32_t Slots() const { return shared_ * unit_tokens_; }
  __aicore__ inline uint32_t SlotUnit(uint32_t slot) const {
    return tiling_.ragged != 0 ? slot % shared_ : slot / unit_tokens_;
  }
  __aicore__ inline uint32_t SlotToken(uint32_t slot) const {
    return tiling_.ragged != 0 ? slot / shared_ : slot % unit_tokens_;
  }

  // Tasks of this core: its parts of shared units, which are the last ones, then whole units. Those of a ragged call
  // come from the last one on, as each is looked up from the one before.
  __aicore__ inline uint32_t SharedTasks() const { return shared_tasks_; }
  __aicore__ inline uint32_t Tasks() const { return shared_tasks_ + rounds_; }
  __aicore__ MS_DSV32_NOINLINE IndexerTask Task(uint32_t index) const {
    if (index >= shared_tasks_) {
      const uint32_t round = index - shared_tasks_;
      return Unit(tiling_.ragged != 0 ? rounds_ - 1 - round : round, core_);
    }
    const uint32_t shared = first_shared_ + index;
    return Part(shared, core_ - FirstSharer(shared));
  }

  // All keys of the `index`th unit of a round.
  __aicore__ MS_DSV32_NOINLINE IndexerTask Unit(uint32_t round, uint32_t index) const {
    const TokenGroup unit = sequences_.Group(round * tiling_.cores + index);
    IndexerTask task;
    task.sequence = unit.sequence;
    task.token = unit.token;
    task.tokens = unit.tokens;
    task.visible = unit.visible;
    task.shared = false;
    task.halves = false;
    task.part = 0;
    task.round = round;
    Take(task, 0, 1, 1);
    return task;
  }
  // The part of a shared unit that the `part`th of its cores has.
  __aicore__ inline IndexerTask Part(uint32_t shared, uint32_t part) const {
    IndexerTask task = Unit(rounds_, shared);
    TakePart(task, shared, part);
    return task;
  }
  __aicore__ MS_DSV32_NOINLINE void TakePart(IndexerTask& task, uint32_t shared, uint32_t part) const {
    const uint32_t begin = (FirstSharer(shared) + part) * shared_, unit = shared * sharers_;
    Take(task, begin > unit ? begin - unit : 0, Smaller(begin + shared_ - unit, sharers_), sharers_);
    task.shared = true;
    task.halves = halves_;
    task.part = part;
    task.round = 0;
  }
  __aicore__ inline uint32_t Parts(uint32_t shared) const {
    return DivUp((shared + 1) * sharers_, shared_) - FirstSharer(shared);
  }

  // Entries of block_table from `column` on.
  __aicore__ inline GlobalTensor<int32_t> Blocks(uint32_t sequence, uint32_t column) const {
    return block_table_[static_cast<uint64_t>(sequence) * tiling_.max_blocknum_perbatch + column];
  }

  // Weights of a token of the core's `task`th task.
  __aicore__ inline GlobalTensor<half> Weights(uint32_t task, uint32_t token) const {
    const uint32_t index = task % kWeightSlots * kUnitTokens + token;
    return Global<half>(Own() + index * kWeightRows * kIdxNHeads * 2, kWeightRows * kIdxNHeads * kUnitTokens);
  }
  // Scores of a row in the core's `step`th step.
  __aicore__ inline GlobalTensor<float> Scores(uint32_t step, uint32_t row) const {
    const uint32_t index = step % kScoreSlots * kUnitTokens + row;
    return Global<float>(Own() + kWeightSlots * kUnitTokens * kWeightRows * kIdxNHeads * 2 + index * kSortChunk * 4,
                         kSortChunk);
  }
  // Sorted lists of a token of a shared unit from `list` on, in the order of the positions that they hold, each behind
  // its samples, ListStride records one after the other.
  __aicore__ inline uint32_t ListStride() const { return kMaxSamples + tiling_.list_records; }
  __aicore__ inline uint32_t SampleStride() const { return lists_ > kMergeWidth ? kDenseStride : kSampleStride; }
  __aicore__ MS_DSV32_NOINLINE GlobalTensor<float> Samples(uint32_t shared, uint32_t token, uint32_t list) const {
    const uint64_t index = (static_cast<uint64_t>(shared) * unit_tokens_ + token) * lists_ + list;
    return Global<float>(workspace_ + tiling_.list_offset + index * ListStride() * 8,
                         static_cast<uint64_t>(lists_ - list) * ListStride() * 2);
  }
  __aicore__ inline GlobalTensor<float> List(uint32_t shared, uint32_t token, uint32_t list) const {
    return Samples(shared, token, list)[kMaxSamples * 2];
  }
  __aicore__ inline uint32_t SharedUnit(uint32_t task) const { return first_shared_ + task; }

  const LightningIndexerTiling& tiling_;
  const uint32_t core_;

 private:
  __aicore__ inline GM_ADDR Own() const { return workspace_ + core_ * tiling_.core_bytes; }
  __aicore__ inline uint32_t FirstSharer(uint32_t shared) const { return shared * sharers_ / shared_; }
  // Tiles of the keys from share `from` to share `to` of `shares`. A unit that sees no more keys than it may select
  // needs no scores: it has no tiles.
  __aicore__ inline void Take(IndexerTask& task, uint32_t from, uint32_t to, uint32_t shares) const {
    const uint32_t tiles = task.visible > tiling_.selected_count ? DivUp(task.visible, kKeyTile) : 0;
    task.begin[0] = ShareBegin(tiles, from, shares);
    task.begin[2] = ShareBegin(tiles, to, shares);
    task.begin[1] = task.begin[0] + DivUp(task.begin[2] - task.begin[0], 2);
  }

  // Deals the units of a ragged call as the tiling function does those of others.
  __aicore__ MS_DSV32_NOINLINE void Deal() {
    const uint32_t units = sequences_.Groups();
    const uint64_t capacity = static_cast<uint64_t>(tiling_.max_blocknum_perbatch) * tiling_.block_size;
    const uint64_t most = units * (capacity / kSharedKeys + 1);
    rounds_ = units / tiling_.cores;
    shared_ = units % tiling_.cores;
    sharers_ = most < tiling_.cores ? static_cast<uint32_t>(most) : tiling_.cores;
    uint32_t parts = 0;
    for (uint32_t shared = 0; shared < shared_; ++shared) parts = Larger(parts, Parts(shared));
    sequences_.SeekLast();
    const bool single = sequences_.Singles() >= shared_;
    unit_tokens_ = single ? 1 : sequences_.MostTokens();
    lists_ = parts * (single ? kVectorsPerCore : 1);
  }

  GM_ADDR workspace_;
  Sequences<kUnitTokens> sequences_;
  GlobalTensor<int32_t> block_table_;
  // The tiling tells these; in a ragged call the kernel counts them.
  uint32_t rounds_, shared_, sharers_, lists_, unit_tokens_;
  bool halves_;  // every shared unit is a single token, of whose keys each AIV has a half
  uint32_t first_shared_ = 0, shared_tasks_ = 0;
};

// Keys that follow each other in the cache, or that have no block of it.
struct KeyRun {
  uint32_t count;
  int32_t row;  // cache row of the first, -1 without a block of the cache
};

// Goes over `count` keys of a sequence from `position` on, run by run. Blocks that are neighbours in the cache as they
// are in the sequence are one run. Table::At(column) is the entry of block_table, or any negative number after its
// end.
template <typename Table>
class KeyRuns {
 public:
  __aicore__ inline KeyRuns(const Table& table, const LightningIndexerTiling& tiling, uint32_t position, uint32_t count)
      : table_(table), block_size_(tiling.block_size), block_num_(tiling.block_num), left_(count) {
    column_ = position / block_size_;
    within_ = position - column_ * block_size_;
    if (count > 0) block_ = Block();
  }
  __aicore__ inline bool Done() const { return left_ == 0; }
  __aicore__ MS_DSV32_NOINLINE KeyRun Next() {
    KeyRun run{Smaller(block_size_ - within_, left_), -1};
    if (block_ >= 0) run.row = block_ * static_cast<int32_t>(block_size_) + static_cast<int32_t>(within_);
    left_ -= run.count;
    within_ = 0;
    while (left_ > 0) {
      ++column_;
      const int32_t before = block_;
      block_ = Block();
      if (block_ != (before < 0 ? before : before + 1)) break;
      const uint32_t count = Smaller(block_size_, left_);
      run.count += count;
      left_ -= count;
    }
    return run;
  }

 private:
  // -1 for whatever is no block.
  __aicore__ inline int32_t Block() const {
    const int32_t block = table_.At(column_);
    return block >= 0 && block < static_cast<int32_t>(block_num_) ? block : -1;
  }

  const Table& table_;
  uint32_t block_size_, block_num_, left_, column_, within_;
  int32_t block_ = -1;
};

// ---------------------------------------------------------------- AIV

// A window of a sequence's row of block_table in UB. Scalar reads of GM would stop the AIV for as long as a copy takes
// at each line of the data cache.
class TableWindow {
 public:
  __aicore__ inline void Place(UbArena& arena) { entries_ = arena.Take<int32_t>(kColumns); }
  // Entries of the task's keys from `position` on, at least for `count` keys; those may be as many as a step has.
  __aicore__ MS_DSV32_NOINLINE void Cover(const IndexerPlan& plan, const IndexerTask& task, uint32_t position,
                                          uint32_t count) {
    const LightningIndexerTiling& tiling = plan.tiling_;
    const uint32_t first = position / tiling.block_size, columns = tiling.max_blocknum_perbatch;
    const uint32_t end = Smaller(DivUp(position + count, tiling.block_size), columns);
    if (task.sequence == sequence_ && begin_ <= first && end <= end_) return;
    const uint32_t last = Smaller(task.begin[2] * kKeyTile, task.visible);
    sequence_ = task.sequence;
    begin_ = first;
    end_ = Smaller(Smaller(DivUp(last, tiling.block_size), columns), first + kColumns);
    if (end_ <= begin_) return;
    WaitPipe<HardEvent::S_MTE2>(kFlag);
    CopyIn(entries_, plan.Blocks(sequence_, begin_), end_ - begin_);
    WaitPipe<HardEvent::MTE2_S>(kFlag);
  }
  __aicore__ inline int32_t At(uint32_t column) const {
    return column < end_ ? entries_.GetValue(column - begin_) : -1;
  }

 private:
  // A step has 129 at most: kSortChunk keys in blocks of 16.
  static constexpr uint32_t kColumns = 1024;
  static constexpr int32_t kFlag = 0;
  LocalTensor<int32_t> entries_;
  uint32_t sequence_ = ~0u, begin_ = 0, end_ = 0;
};

class IndexerVector {
 public:
  __aicore__ inline IndexerVector(TPipe& pipe, const IndexerPlan& plan, uint32_t sub, GM_ADDR q_scale, GM_ADDR weights,
                                  GM_ADDR k_cache_scale, GM_ADDR topk_indices)
      : plan_(plan), tiling_(plan.tiling_), sub_(sub) {
    const uint64_t heads = static_cast<uint64_t>(tiling_.t) * kIdxNHeads;
    q_scale_ = Global<half>(q_scale, heads);
    weights_ = Global<half>(weights, heads);
    k_scale_ = Global<half>(k_cache_scale, static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size);
    topk_indices_ = Global<int32_t>(topk_indices, static_cast<uint64_t>(tiling_.t) * tiling_.selected_count);
    arena_.Init(pipe, kUbBytes);
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

  __aicore__ inline void Run(uint32_t vector, uint32_t vectors) {
    score_slots_.Begin();
    scale_slots_.Begin();
    SetFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
    uint32_t next = NextTask(0);
    if (next < plan_.Tasks()) MakeWeights(plan_.Task(next), 0);
    if (plan_.Tokens() < tiling_.t) WritePadding(vector, vectors);
    // Lists of shared units are merged behind the first whole unit, when those of other cores are there, too.
    const uint32_t merge_behind = plan_.Rounds() > 0 ? plan_.SharedTasks() : ~0u;
    for (uint32_t index = 0; index < plan_.Tasks(); ++index) {
      if (index == plan_.SharedTasks()) TellLists();
      const IndexerTask task = plan_.Task(index);
      if (task.Steps() > 0) {
        next = NextTask(index + 1);
        if (next < plan_.Tasks()) MakeWeights(plan_.Task(next), tasks_ + 1);
        Score(task, index);
        ++tasks_;
      }
      if (!task.shared) {
        for (uint32_t row = task.RowBegin(sub_); row < task.RowEnd(sub_); ++row) {
          if (task.Visible(row) <= tiling_.selected_count) SelectAll(task, row);
        }
      }
      if (index == merge_behind) MergeShared(vector, vectors);
    }
    if (plan_.Rounds() == 0) {
      TellLists();
      MergeShared(vector, vectors);
    }
    AwaitOut();
    WaitFlag<HardEvent::MTE3_MTE2>(kFactorFlag);
    score_slots_.End();
    scale_slots_.End();
  }

 private:
  // positions 8, window of block_table 4, topk 40.5 + 3 * 32, scores 16, scales 16, samples and weights 2.3 KiB.
  static constexpr uint32_t kUbBytes = 184 * 1024;
  static constexpr uint32_t kRows = kUnitTokens / 2;  // of an AIV
  // Flags beside those of the slots. A task's factors go round from MTE2 over V and MTE3 to MTE2, what V has written
  // for GM from V over MTE3 to V: no flag is set again before its wait. The merging has barriers.
  static constexpr int32_t kFactorFlag = 4, kOutFlag = 5, kMergeFlag = 5;
  // Records that are merged at once: those of all lists that the samples leave, and those of a group's lists. UB has
  // three times as many places, the samples in the second third.
  static constexpr uint32_t kMergedRecords = (kMaxSamples + kMaxLists) * kSampleStride;
  static_assert(kMergedRecords >= 3 * kMaxLists * kMaxSamples);
  static_assert(TopK::kChunk == kSortChunk && TopK::kSamples == kMaxSamples && ListMerger::kMaxLists == kMaxLists);
  // All dense samples may belong to two lists, which are needed as a whole then.
  static_assert(kMergedRecords >= kMaxSelected + kMaxLists * kDenseStride + 2 * (kMaxSelected / 2));

  __aicore__ MS_DSV32_NOINLINE uint32_t NextTask(uint32_t index) const {
    while (index < plan_.Tasks() && plan_.Task(index).Steps() == 0) ++index;
    return index;
  }

  // (2) one factor for each head, in half, of the tokens of this AIV. Of a single token the first AIV makes them.
  __aicore__ MS_DSV32_NOINLINE void MakeWeights(const IndexerTask& task, uint32_t index) {
    const uint32_t row = task.RowBegin(sub_), end = Smaller(task.RowEnd(sub_), task.tokens);
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
      // The rows twice, so that one copy takes them all. (A repeat is a row of 256 bytes in float, 128 in half.)
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

  // Around copies to GM of what V has written: BeginOut, the copies, EndOut. AwaitOut lets V overwrite their source.
  __aicore__ inline void BeginOut() {
    AwaitOut();
    WaitPipe<HardEvent::V_MTE3>(kOutFlag);
  }
  __aicore__ inline void EndOut() {
    SetFlag<HardEvent::MTE3_V>(kOutFlag);
    out_ = true;
  }
  __aicore__ inline void AwaitOut() {
    if (out_) WaitFlag<HardEvent::MTE3_V>(kOutFlag);
    out_ = false;
  }

  // Rows of kIdxNHeads weights, each by its power of two. Destroys `scratch`.
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
      scale.bits = (2 * kFloatBias + kWeightExponent - Larger(exponent, kLeastExponent)) << 23;
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
        if (task.Visible(row) <= tiling_.selected_count) continue;
        const uint32_t count = task.Keys(row, from, to);
        loaded[row - begin] = count;
        if (count == 0) continue;
        scored = true;
        DataCopy(scores_[score_slots_.Acquire()], plan_.Scores(steps_, row), RoundUp(count, 8));
        score_slots_.Publish();
      }
      // Scores are read by MTE2 alone.
      CrossCoreSetFlag<2, PIPE_MTE2>(kScoresFree);
      const LocalTensor<half> scales = scale16_[scale_slots_.Take()];
      // Only a row has the barriers that let the next step overwrite scale32_.
      if (scored && keys.missing < keys.count) Cast(scale32_, scales, RoundMode::CAST_NONE, keys.count);
      if (scored && !task.Long()) topk_.Expect(keys.first);
      scale_slots_.Release();
      // While the scalar unit waits for what sorting finds, it can ask for nothing.
      if (step + 1 < steps) next = LoadScales(task, step + 1);
      for (uint32_t row = begin; row < end; ++row) {
        if (loaded[row - begin] == 0) continue;
        const LocalTensor<float> scores = scores_[score_slots_.Take()];
        PipeBarrier<PIPE_V>();
        if (keys.missing < keys.count) Mul(scores, scores, scale32_, static_cast<int32_t>(loaded[row - begin]));
        PipeBarrier<PIPE_V>();
        if (keys.missing > 0) ReplaceUnscored(task, scores, keys.first, loaded[row - begin]);
        // (5) the largest scores of the token. Sorting the first ones may wait where the next step is a long one, too.
        topk_.Add(row - begin, scores, keys.first, loaded[row - begin], task.Long() && step + 1 < task.LongSteps());
        score_slots_.Release();
      }
    }
    for (uint32_t row = begin; row < end; ++row) {
      if (task.Visible(row) > tiling_.selected_count) Keep(task, row, index);
    }
  }

  // Keys that the rows of an AIV see in a step.
  struct StepKeys {
    uint32_t first, count;
    uint32_t missing;  // have no block of the cache
  };

  // Scales of the keys of a step.
  __aicore__ MS_DSV32_NOINLINE StepKeys LoadScales(const IndexerTask& task, uint32_t step) {
    const uint32_t begin = task.RowBegin(sub_), end = task.RowEnd(sub_), from = task.StepBegin(step);
    // The last row of an AIV sees most.
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

  // Scores of the keys without a block.
  __aicore__ MS_DSV32_NOINLINE void ReplaceUnscored(const IndexerTask& task, const LocalTensor<float>& scores,
                                                    uint32_t first, uint32_t count) {
    table_.Cover(plan_, task, first, count);
    KeyRuns<TableWindow> runs(table_, tiling_, first, count);
    for (uint32_t done = 0; !runs.Done();) {
      const KeyRun run = runs.Next();
      if (run.row < 0) Duplicate(scores[done], kUnscored, static_cast<int32_t>(run.count));
      done += run.count;
    }
    PipeBarrier<PIPE_V>();
  }

  // What becomes of a row's list: the result, or one of several lists of the token.
  __aicore__ MS_DSV32_NOINLINE void Keep(const IndexerTask& task, uint32_t row, uint32_t index) {
    const uint32_t own = row - task.RowBegin(sub_);
    const RecordList best = topk_.List(own);
    if (!task.shared) {
      WritePositions(task.Token(row), best.records);
      return;
    }
    if (best.count == 0) return;
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

  // A token that sees no more keys than it may select.
  __aicore__ MS_DSV32_NOINLINE void SelectAll(const IndexerTask& task, uint32_t row) {
    // The scalar unit writes the first block of a CreateVecIndex, whole and at once: -1 comes behind it.
    AwaitOut();
    PipeBarrier<PIPE_ALL>();
    CreateVecIndex(positions_, int32_t{0}, tiling_.selected_count);
    PipeBarrier<PIPE_V>();
    FillFrom(positions_, task.Visible(row), tiling_.selected_count, -1);
    WriteIndices(task.Token(row));
  }

  // The rows of tokens that are of no sequence, dealt to all AIVs: -1 throughout.
  __aicore__ MS_DSV32_NOINLINE void WritePadding(uint32_t vector, uint32_t vectors) {
    AwaitOut();
    Duplicate(positions_, -1, static_cast<int32_t>(tiling_.selected_count));
    BeginOut();
    for (uint32_t token = plan_.Tokens() + vector; token < tiling_.t; token += vectors) {
      CopyOut(topk_indices_[static_cast<uint64_t>(token) * tiling_.selected_count], positions_, tiling_.selected_count);
    }
    EndOut();
  }

  // ------------------------------------------------------------ lists of shared units

  __aicore__ inline void TellLists() {
    if (plan_.Shared() > 0) CrossCoreSetFlag<0, PIPE_MTE3>(kListsReady);
  }

  // The tokens of shared units, dealt to all AIVs: a token with few lists to one, one with many in groups.
  __aicore__ MS_DSV32_NOINLINE void MergeShared(uint32_t vector, uint32_t vectors) {
    if (plan_.Shared() == 0) return;
    CrossCoreWaitFlag(kListsReady);
    // Nothing of the scores is in use: their UB holds the lists.
    arena_.Reset(common_bytes_);
    merger_.Place(arena_, 3 * kMergedRecords);
    const uint32_t groups = plan_.Lists() > kMergeWidth ? kMergeGroups : 1;
    const uint32_t tokens = plan_.Slots();
    for (uint32_t index = vector; index < tokens * groups; index += vectors) {
      MergeGroup(index / groups, index % groups, groups);
    }
    if (groups > 1) {
      // There are fewer groups than AIVs: an AIV still knows the lengths of its token.
      AwaitAllVectors(kGroupsReady);
      if (vector < tokens * groups && vector % groups == 0) MergeGroups(vector / groups, groups);
    }
    if (plan_.Rounds() == 0) return;
    PipeBarrier<PIPE_ALL>();
    arena_.Reset(common_bytes_);
    topk_.Place(arena_, tiling_.list_records);
  }

  __aicore__ inline uint32_t FirstList(uint32_t group, uint32_t groups) const {
    return group * DivUp(plan_.Lists(), groups);
  }

  __aicore__ MS_DSV32_NOINLINE void MergeGroup(uint32_t index, uint32_t group, uint32_t groups) {
    const uint32_t shared = plan_.SlotUnit(index), token = plan_.SlotToken(index);
    const IndexerTask unit = plan_.Part(shared, 0);
    if (token >= unit.tokens) return;
    if (unit.Visible(token) <= tiling_.selected_count) {
      if (group == 0) SelectAll(unit, token);
      return;
    }
    PipeBarrier<PIPE_ALL>();
    CountLists(unit, shared, token);
    // The lists follow the samples before these have told how much of a list is needed: about as much as it has if all
    // lists are alike.
    const uint32_t first = FirstList(group, groups), end = Smaller(FirstList(group + 1, groups), lists_);
    const uint32_t stride = plan_.SampleStride(), enough = DivUp(tiling_.selected_count, stride);
    const uint32_t head = Smaller((DivUp(3 * enough, 2 * plan_.Lists()) + 2) * stride, tiling_.list_records);
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
    for (uint32_t list = first; list < end; ++list) more = more || lengths_[list] > head;
    if (more) PipeBarrier<PIPE_MTE2>();
    merger_.Begin(0, kMergedRecords);
    for (uint32_t list = first, at = 0; list < end; ++list) {
      const uint32_t length = lengths_[list];
      if (more && length > 0) CopyIn(merger_.At(at), plan_.List(shared, token, list), length * 2);
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

  // The groups of a token, each merged to its first list.
  __aicore__ MS_DSV32_NOINLINE void MergeGroups(uint32_t index, uint32_t groups) {
    const uint32_t shared = plan_.SlotUnit(index), token = plan_.SlotToken(index);
    const IndexerTask unit = plan_.Part(shared, 0);
    if (token >= unit.tokens || unit.Visible(token) <= tiling_.selected_count) return;
    PipeBarrier<PIPE_ALL>();
    merger_.Begin(0, kMergedRecords);
    uint32_t at = 0;
    for (uint32_t group = 0; group < groups; ++group) {
      uint32_t length = 0;
      const uint32_t first = FirstList(group, groups), end = Smaller(FirstList(group + 1, groups), lists_);
      for (uint32_t list = first; list < end; ++list) {
        length += lengths_[list];
      }
      length = Smaller(length, tiling_.selected_count);
      if (length == 0) continue;
      CopyIn(merger_.At(at), plan_.List(shared, token, first), length * 2);
      merger_.Add(at, length);
      at += RoundUp(length, 4);
    }
    WaitPipe<HardEvent::MTE2_V>(kMergeFlag);
    WritePositions(unit.token + token, merger_.Merge(tiling_.selected_count).records);
  }

  // The lists of a token of a shared unit, and their lengths.
  __aicore__ MS_DSV32_NOINLINE void CountLists(IndexerTask task, uint32_t shared, uint32_t token) {
    lists_ = 0;
    const uint32_t parts = plan_.Parts(shared);
    for (uint32_t part = 0; part < parts; ++part) {
      plan_.TakePart(task, shared, part);
      const uint32_t first = task.Halves() ? 0 : token, end = task.Halves() ? 2 : token + 1;
      for (uint32_t row = first; row < end; ++row) {
        lengths_[lists_++] = Smaller(task.Keys(row), tiling_.selected_count);
      }
    }
  }

  // How much of each list can be among the token's best. Each of the `enough` best samples has stride - 1
  // records of its list before it, so that what comes behind the next sample of a list comes behind selected_count
  // others.
  __aicore__ MS_DSV32_NOINLINE void Prune(uint32_t enough, uint32_t stride) {
    merger_.Begin(kMergedRecords, kMaxLists * kMaxSamples);
    for (uint32_t list = 0; list < lists_; ++list) {
      merger_.Add(kMergedRecords + list * kMaxSamples, Smaller(lengths_[list] / stride, kMaxSamples));
    }
    const RecordList best = merger_.Merge(enough);
    if (best.count < enough) return;
    const uint32_t padded = RoundUp(enough, 32);
    // Which lists they are of: four to a word, as the scalar unit takes long for each.
    if (enough % 4 != 0) FillFrom(best.records.ReinterpretCast<int32_t>(), 2 * enough, 2 * padded, 0);
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
      for (uint32_t k = 0; k < Smaller(4, enough - i); ++k) ++among[word >> (16 * k) & 0xffff];
    }
    WaitPipe<HardEvent::S_V>(kMergeFlag);
    for (uint32_t list = 0; list < lists_; ++list) {
      if (among[list] < kMaxSamples) lengths_[list] = Smaller(lengths_[list], (among[list] + 1) * stride);
    }
  }

  const IndexerPlan& plan_;
  const LightningIndexerTiling& tiling_;
  const uint32_t sub_;
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
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, 0> score_slots_;
  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, 2> scale_slots_;
  uint32_t lengths_[kMaxLists] = {}, lists_ = 0;
  uint32_t tasks_ = 0, steps_ = 0;
  bool out_ = false;  // copies to GM have ended with a flag that nobody has waited for
};

// ---------------------------------------------------------------- AIC

// Goes over the key tiles of a core's tasks.
class KeyCursor {
 public:
  // At the first tile.
  __aicore__ inline void Begin(const IndexerPlan& plan) {
    index_ = ~0u;
    NextTask(plan);
  }
  __aicore__ inline bool Valid(const IndexerPlan& plan) const { return index_ < plan.Tasks(); }
  __aicore__ inline const IndexerTask& Current() const { return task_; }
  __aicore__ inline uint32_t Position() const { return (task_.FirstTile(row_) + tile_) * kKeyTile; }
  __aicore__ inline void Next(const IndexerPlan& plan) {
    if (task_.Halves() && row_ == 0 && tile_ < task_.Tiles(1)) {
      row_ = 1;
      return;
    }
    row_ = 0;
    if (++tile_ == task_.Tiles(0)) NextTask(plan);
  }

 private:
  __aicore__ inline void NextTask(const IndexerPlan& plan) {
    tile_ = 0;
    row_ = 0;
    for (++index_; index_ < plan.Tasks(); ++index_) {
      task_ = plan.Task(index_);
      if (task_.Tiles(0) > 0) break;
    }
  }
  IndexerTask task_;
  uint32_t index_ = 0, tile_ = 0, row_ = 0;
};

// A sequence's row of block_table in GM: an AIC has no memory that its scalar unit could read but GM through the data
// cache. It reads column after column, so that one of 16 waits for GM, and four to six tiles ahead of the products.
struct TableRow {
  const IndexerPlan& plan;
  uint32_t sequence;
  __aicore__ inline int32_t At(uint32_t column) const {
    return column < plan.tiling_.max_blocknum_perbatch ? plan.Blocks(sequence, column).GetValue(0) : -1;
  }
};

class IndexerCube {
 public:
  __aicore__ inline IndexerCube(TPipe& pipe, const IndexerPlan& plan, GM_ADDR q_int8, GM_ADDR k_cache)
      : plan_(plan), tiling_(plan.tiling_) {
    q_int8_ = Global<int8_t>(q_int8, static_cast<uint64_t>(tiling_.t) * kIdxNHeads * kIdxHeadDim);
    k_cache_ = Global<int8_t>(k_cache, static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size * kIdxHeadDim);
    pipe.InitBuffer(query_, 2 * kUnitTokens * kQueryBytes);
    pipe.InitBuffer(weights_, 2 * kUnitTokens * kWeightBytes);
    pipe.InitBuffer(keys_, kKeySlots * kKeyBytes);
    pipe.InitBuffer(dots_, kDotSlots * kDotBytes);
    pipe.InitBuffer(l0a_, kLoadedTiles * kKeyBytes + 2 * kUnitTokens * kWeightBytes);
    pipe.InitBuffer(l0b_, kUnitTokens * kQueryBytes + 2 * kDotBytes);
    pipe.InitBuffer(l0c_, kProductSlots * kProductBytes + kSumSlots * kSumBytes);
  }

  __aicore__ inline void Run() {
    key_slots_.Begin();
    dot_slots_.Begin();
    l0b_slots_.Begin();
    product_slots_.Begin();
    sum_slots_.Begin();
    SetFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    SetFlag<HardEvent::M_MTE1>(kTileFlag + kLoadedTiles - 1);
    uint32_t next = NextTask(0);
    cursor_.Begin(plan_);
    if (next < plan_.Tasks()) FetchQuery(plan_.Task(next), 0);
    for (uint32_t i = 0; i < kKeySlots; ++i) FetchKeys();
    if (next < plan_.Tasks()) FetchWeights(plan_.Task(next), 0);
    for (uint32_t i = 0; i + 1 < kLoadedTiles; ++i) {
      LoadKeys();
      FetchKeys();
    }
    while (next < plan_.Tasks()) {
      const IndexerTask task = plan_.Task(next);
      next = NextTask(next + 1);
      Score(task, next);
      ++tasks_;
    }
    Drain();
    for (uint32_t i = 0; i < Smaller(steps_, kScoreSlots); ++i) AwaitCore(kScoresFree);
    WaitFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    WaitFlag<HardEvent::M_MTE1>(LastTileFlag());
    key_slots_.End();
    dot_slots_.End();
    l0b_slots_.End();
    product_slots_.End();
    sum_slots_.End();
  }

 private:
  static constexpr uint32_t kQueryBytes = kIdxNHeads * kIdxHeadDim;
  static constexpr uint32_t kKeyBytes = kKeyTile * kIdxHeadDim;
  static constexpr uint32_t kDotBytes = kIdxNHeads * kKeyTile * 2;
  static constexpr uint32_t kWeightBytes = kFractal * kIdxNHeads * 2;
  static constexpr uint32_t kProductBytes = kIdxNHeads * kKeyTile * 4;
  static constexpr uint32_t kSumBytes = kFractal * kKeyTile * 4;
  // Key tiles in L1 and L0A. The 64 KiB of L0A are three tiles and the weights of two tasks, those of L0B the queries
  // of a task and two tiles of dots; of 128 KiB of L0C three products and two sums take 112. L1: 64 + 16 + 64 + 64 KiB.
  static constexpr uint32_t kKeySlots = 4, kLoadedTiles = 3, kDotSlots = 4, kProductSlots = 3, kSumSlots = 2;
  // Sums run so many products behind: the way of a product through Fixpipe and L1 takes more than two.
  static constexpr uint32_t kLag = 3;
  // Flags beside those of the slots. Queries and weights of a task are in L1; the first dots of a task are on their
  // way, so that those of the next one may follow; the queries are in L0B; the products of a tile are done. The cube
  // may run as many tiles ahead as there are places in L0A: each has an id, as with one for all of them it would set a
  // flag that nobody has waited for. TPipe has 0 to 2 of M_MTE1, so that 6 and 7, which CANN advises against, are among
  // theirs.
  static constexpr int32_t kQueryFlag = 5, kWeightFlag = 4, kTaskFlag = 4, kLocalQueryFlag = 5, kTileFlag = 5;

  // A unit of work in flight: a row of a task and a tile of keys.
  struct Pending {
    GlobalTensor<float> scores;
    uint32_t step;
    bool first, last;  // of its step
    uint32_t weights;  // of the row's token, in L0A
    // The core's task, and how many tokens it has if this is its first.
    uint32_t task, tokens;
  };

  __aicore__ MS_DSV32_NOINLINE uint32_t NextTask(uint32_t index) const {
    while (index < plan_.Tasks() && plan_.Task(index).Tiles(0) == 0) ++index;
    return index;
  }

  // The products of the tile before the one that is to be multiplied. Where they are done, its place in L0A is free for
  // a tile two ahead, and the task's queries in L0B may be replaced.
  __aicore__ inline int32_t LastTileFlag() const {
    return kTileFlag + static_cast<int32_t>((tile_in_l0a_ + kLoadedTiles - 1) % kLoadedTiles);
  }

  __aicore__ inline void Score(const IndexerTask& task, uint32_t next) {
    const uint32_t place = tasks_ % 2, units = units_;
    bool fetched = next == plan_.Tasks();
    const uint32_t last_step = task.StepBegin(task.Steps() - 1);
    uint32_t step = 0, from = 0, to = task.StepBegin(1);
    for (uint32_t tile = 0; tile < task.Tiles(0); ++tile) {
      if (tile == to) {
        ++step;
        ++steps_;
        from = to;
        to = task.StepBegin(step + 1);
      }
      const uint32_t rows = task.Halves() && tile >= task.Tiles(1) ? 1 : task.Rows();
      for (uint32_t row = 0; row < rows; ++row) {
        if (row == 0 || task.Halves()) {
          WaitFlag<HardEvent::M_MTE1>(LastTileFlag());
          if (tile == 0 && row == 0) {
            WaitFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
            LoadFractals(LocalQuery(0), Query(place, 0), task.tokens * kQueryBytes);
            WaitPipe<HardEvent::MTE1_M>(kLocalQueryFlag);
          }
          LoadKeys();
          FetchKeys();
          WaitFlag<HardEvent::MTE1_M>(static_cast<int32_t>(tile_in_l0a_));
          key_ = tile_in_l0a_;
          tile_in_l0a_ = (tile_in_l0a_ + 1) % kLoadedTiles;
        }
        const uint32_t token = task.Token(row) - task.token;
        Product(token);
        if (row + 1 == rows || task.Halves()) SetFlag<HardEvent::M_MTE1>(kTileFlag + static_cast<int32_t>(key_));
        Scale();
        Advance();
        Pending& pending = pending_[units_ % kLag];
        pending.scores = plan_.Scores(steps_, row)[(tile - from) * kKeyTile];
        pending.weights = place * kUnitTokens + token;
        pending.step = steps_;
        pending.first = tile == from && row == 0;
        pending.last = tile + 1 == to && row + 1 == rows;
        pending.task = tasks_;
        pending.tokens = tile == 0 && row == 0 ? task.tokens : 0;
        ++units_;
        ++in_flight_;
      }
      // The AIVs make the next task's weights when they begin this one: they must have all scores of the one before.
      const bool behind = units_ - units < kLag;
      if (!fetched && tile >= last_step && (!behind || tile + 1 == task.Tiles(0))) {
        if (behind) Drain();
        FetchQuery(plan_.Task(next), tasks_ + 1);
        FetchWeights(plan_.Task(next), tasks_ + 1);
        fetched = true;
      }
    }
    ++steps_;
  }

  // Behind a product: sums of the oldest one in flight, and the load of the last one's dots.
  __aicore__ inline void Advance() {
    if (in_flight_ == kLag) Sums();
    if (in_flight_ > 0) LoadDots();
  }
  __aicore__ MS_DSV32_NOINLINE void Drain() {
    Advance();
    while (in_flight_ > 0) Sums();
  }

  // The tile of the cursor to L1: 16 keys after 16, as L0A has them, so that a tile is loaded at once. Rows behind the
  // last key of a sequence are what the cache has there; those without a block are what L1 held. The scores of both are
  // replaced before anybody looks.
  __aicore__ MS_DSV32_NOINLINE void FetchKeys() {
    if (!cursor_.Valid(plan_)) return;
    const IndexerTask& task = cursor_.Current();
    const LocalTensor<int8_t> keys = Keys(key_slots_.Acquire());
    const uint32_t position = cursor_.Position();
    const uint32_t count = RoundUp(Smaller(kKeyTile, task.visible - position), kFractal);
    const TableRow table{plan_, task.sequence};
    KeyRuns<TableRow> runs(table, tiling_, position, count);
    for (uint32_t done = 0; !runs.Done();) {
      const KeyRun run = runs.Next();
      if (run.row >= 0) {
        Nd2NzParams params;
        params.ndNum = static_cast<uint16_t>(run.count / kFractal);
        params.nValue = kFractal;
        params.dValue = kIdxHeadDim;
        params.srcNdMatrixStride = kFractal * kIdxHeadDim;
        params.srcDValue = kIdxHeadDim;
        params.dstNzC0Stride = kFractal;
        params.dstNzNStride = 1;
        params.dstNzMatrixStride = kFractal * kIdxHeadDim;
        DataCopy(keys[done * kIdxHeadDim], k_cache_[static_cast<uint64_t>(run.row) * kIdxHeadDim], params);
      }
      done += run.count;
    }
    key_slots_.Publish();
    cursor_.Next(plan_);
    ++fetched_;
  }

  // The oldest tile of L1 to L0A, two tiles ahead. Its place there held the tile whose products are done.
  __aicore__ MS_DSV32_NOINLINE void LoadKeys() {
    if (loaded_ == fetched_) return;
    const uint32_t place = loaded_++ % kLoadedTiles;
    LoadFractals(LocalKeys(place), Keys(key_slots_.Take()), kKeyBytes);
    SetFlag<HardEvent::MTE1_M>(static_cast<int32_t>(place));
    key_slots_.Release();
  }

  // What the core's `index`th task multiplies with, to L1.
  __aicore__ MS_DSV32_NOINLINE void FetchQuery(const IndexerTask& task, uint32_t index) {
    const uint32_t place = index % 2;
    WaitFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    CopyTokens(Query(place, 0), q_int8_[static_cast<uint64_t>(task.token) * kQueryBytes], task.tokens, kIdxNHeads,
               kIdxHeadDim, kIdxNHeads);
    SetFlag<HardEvent::MTE2_MTE1>(kQueryFlag);
  }
  __aicore__ MS_DSV32_NOINLINE void FetchWeights(const IndexerTask& task, uint32_t index) {
    const uint32_t place = index % 2;
    AwaitCore(kWeightsReady);
    CopyTokens(Weights(place, 0), plan_.Weights(index, 0), task.tokens, kWeightRows, kIdxNHeads, kFractal);
    SetFlag<HardEvent::MTE2_MTE1>(kWeightFlag);
  }
  // Matrices [rows, columns] of tokens in a row, each to NZ [columns/C0][l1_rows][C0].
  template <typename T>
  __aicore__ inline void CopyTokens(const LocalTensor<T>& dst, const GlobalTensor<T>& src, uint32_t tokens,
                                    uint32_t rows, uint32_t columns, uint32_t l1_rows) {
    Nd2NzParams params;
    params.ndNum = static_cast<uint16_t>(tokens);
    params.nValue = static_cast<uint16_t>(rows);
    params.dValue = static_cast<uint16_t>(columns);
    params.srcNdMatrixStride = static_cast<uint16_t>(rows * columns);
    params.srcDValue = static_cast<uint16_t>(columns);
    params.dstNzC0Stride = static_cast<uint16_t>(l1_rows);
    params.dstNzNStride = 1;
    params.dstNzMatrixStride = static_cast<uint16_t>(l1_rows * columns);
    DataCopy(dst, src, params);
  }

  // (1) int8 products of a tile of keys with the heads' queries.
  __aicore__ inline void Product(uint32_t token) {
    Product(l0c_.GetWithOffset<int32_t>(kProductBytes / 4, product_slots_.Acquire() * kProductBytes), LocalKeys(key_),
            LocalQuery(token), kKeyTile, kIdxNHeads, kIdxHeadDim);
    product_slots_.Publish();
  }

  // (3) relu of the oldest products, scaled to half.
  __aicore__ inline void Scale() {
    const LocalTensor<int32_t> c =
        l0c_.GetWithOffset<int32_t>(kProductBytes / 4, product_slots_.Take() * kProductBytes);
    FixpipeParamsV220 params;
    params.nSize = kIdxNHeads;
    params.mSize = kKeyTile;
    params.srcStride = kKeyTile;
    params.dstStride = kKeyTile;  // a column of 16 half is a block of 32 bytes a row
    params.quantPre = QuantMode_t::DEQF16;
    params.deqScalar = kDotScaleBits;
    params.reluEn = true;
    Fixpipe<half, int32_t, CFG_NZ>(Dots(dot_slots_.Acquire()), c, params);
    product_slots_.Release();
    dot_slots_.Publish();
  }

  // The dots of the last unit in flight to L0B, as [heads, keys]. With the first ones of a task
  // come its weights.
  __aicore__ inline void LoadDots() {
    LoadFractals(LocalDots(l0b_slots_.Acquire()), Dots(dot_slots_.Take()), kDotBytes);
    dot_slots_.Release();
    const Pending& pending = pending_[(units_ - 1) % kLag];
    if (pending.tokens > 0) {
      const uint32_t place = pending.task % 2;
      WaitFlag<HardEvent::MTE2_MTE1>(kWeightFlag);
      LoadFractals(LocalWeights(place * kUnitTokens), Weights(place, 0), pending.tokens * kWeightBytes);
      SetFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    }
    l0b_slots_.Publish();
  }

  // (4) weighted sum over the heads. The weights are the first rows of a fractal.
  __aicore__ inline void Sums() {
    const Pending& pending = pending_[(units_ - in_flight_--) % kLag];
    const uint32_t l0 = l0b_slots_.Take();
    const LocalTensor<float> c =
        l0c_.GetWithOffset<float>(kSumBytes / 4, kProductSlots * kProductBytes + sum_slots_.Acquire() * kSumBytes);
    Product(c, LocalWeights(pending.weights), LocalDots(l0), kWeightRows, kKeyTile, kIdxNHeads);
    l0b_slots_.Release();
    sum_slots_.Publish();
    sum_slots_.Take();
    if (pending.first && pending.step >= kScoreSlots) AwaitCore(kScoresFree);
    StoreC(pending.scores, c, 1, kFractal, 0, kKeyTile, kKeyTile);
    sum_slots_.Release();
    if (pending.last) NotifyVectors(kScoresReady);
  }

  // One product that nothing is added to: unlike Multiply it needs no barrier.
  template <typename C, typename T>
  __aicore__ inline void Product(const LocalTensor<C>& c, const LocalTensor<T>& a, const LocalTensor<T>& b, uint32_t m,
                                 uint32_t n, uint32_t k) {
    MmadParams params;
    params.m = static_cast<uint16_t>(m);
    params.n = static_cast<uint16_t>(n);
    params.k = static_cast<uint16_t>(k);
    params.cmatrixInitVal = true;
    Mmad(c, a, b, params);
  }
  // Whole fractals that lie in L1 in the order of L0.
  template <typename T>
  __aicore__ inline void LoadFractals(const LocalTensor<T>& l0, const LocalTensor<T>& l1, uint32_t bytes) {
    LoadData2DParams params;
    params.repeatTimes = static_cast<uint8_t>(bytes / 512);
    params.srcStride = 1;
    LoadData(l0, l1, params);
  }

  __aicore__ inline LocalTensor<int8_t> Query(uint32_t place, uint32_t token) {
    return query_.GetWithOffset<int8_t>((kUnitTokens - token) * kQueryBytes,
                                        (place * kUnitTokens + token) * kQueryBytes);
  }
  __aicore__ inline LocalTensor<half> Weights(uint32_t place, uint32_t token) {
    return weights_.GetWithOffset<half>((kUnitTokens - token) * kWeightBytes / 2,
                                        (place * kUnitTokens + token) * kWeightBytes);
  }
  __aicore__ inline LocalTensor<int8_t> Keys(uint32_t slot) {
    return keys_.GetWithOffset<int8_t>(kKeyBytes, slot * kKeyBytes);
  }
  __aicore__ inline LocalTensor<half> Dots(uint32_t slot) {
    return dots_.GetWithOffset<half>(kDotBytes / 2, slot * kDotBytes);
  }
  __aicore__ inline LocalTensor<int8_t> LocalKeys(uint32_t place) {
    return l0a_.GetWithOffset<int8_t>(kKeyBytes, place * kKeyBytes);
  }
  __aicore__ inline LocalTensor<half> LocalWeights(uint32_t index) {
    return l0a_.GetWithOffset<half>((kUnitTokens - index % kUnitTokens) * kWeightBytes / 2,
                                    kLoadedTiles * kKeyBytes + index * kWeightBytes);
  }
  __aicore__ inline LocalTensor<int8_t> LocalQuery(uint32_t token) {
    return l0b_.GetWithOffset<int8_t>((kUnitTokens - token) * kQueryBytes, token * kQueryBytes);
  }
  __aicore__ inline LocalTensor<half> LocalDots(uint32_t slot) {
    return l0b_.GetWithOffset<half>(kDotBytes / 2, kUnitTokens * kQueryBytes + slot * kDotBytes);
  }

  const IndexerPlan& plan_;
  const LightningIndexerTiling& tiling_;
  GlobalTensor<int8_t> q_int8_, k_cache_;
  TBuf<TPosition::B1> query_, dots_;
  TBuf<TPosition::A1> weights_, keys_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, 0, kKeySlots> key_slots_;
  Ring<HardEvent::FIX_MTE1, HardEvent::MTE1_FIX, 0, kDotSlots> dot_slots_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, 3> l0b_slots_;
  Ring<HardEvent::M_FIX, HardEvent::FIX_M, 0, kProductSlots> product_slots_;
  Ring<HardEvent::M_FIX, HardEvent::FIX_M, 3, kSumSlots> sum_slots_;
  KeyCursor cursor_;
  Pending pending_[kLag];
  uint32_t fetched_ = 0, loaded_ = 0, tile_in_l0a_ = 0, key_ = 0;
  // Units are rows of a task times tiles of keys; `in_flight_` of them have products, but no sums yet.
  uint32_t tasks_ = 0, steps_ = 0, units_ = 0, in_flight_ = 0;
};

}  // namespace ms_dsv32::ascendc

extern "C" __global__ __aicore__ void lightning_indexer_quant(GM_ADDR q_int8, GM_ADDR q_scale, GM_ADDR weights,
                                                              GM_ADDR k_cache, GM_ADDR k_cache_scale,
                                                              GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                              GM_ADDR query_act_seqs, GM_ADDR topk_indices,
                                                              GM_ADDR workspace, GM_ADDR tiling) {
  using namespace AscendC;
  using namespace ms_dsv32::ascendc;
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::LightningIndexerTiling);
  GET_TILING_DATA(data, tiling);
  if (data.t == 0) return;
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const IndexerPlan plan(data, static_cast<uint32_t>(GetBlockIdx()), block_table, kv_act_seqs, query_act_seqs, user);
    IndexerCube cube(pipe, plan, q_int8, k_cache);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const uint32_t vector = static_cast<uint32_t>(GetBlockIdx());
    const IndexerPlan plan(data, vector / kVectorsPerCore, block_table, kv_act_seqs, query_act_seqs, user);
    IndexerVector indexer(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), q_scale, weights, k_cache_scale,
                          topk_indices);
    indexer.Run(vector, data.cores * kVectorsPerCore);
  }
}
