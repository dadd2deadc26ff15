// What the cube and the vector half of lightning_indexer_quant agree on: tasks, workspace, flags.
//
// A unit is up to four neighbouring tokens of a sequence. A task is a unit and all of its keys, or a part of them, on
// one AI core. A tile of keys is read once for all tokens of the unit. While the AIC scores a step of up to 2048 keys,
// its AIVs sort the scores of the step before into the running lists of the tokens. Each AIV has half of the tokens.
//
// Where there are fewer units than cores, or some units are left over, several cores share a unit: each of them gets an
// equal part of its keys. If the unit is a single token, the two AIVs of a core share the keys of the part as well. AIV
// 0 has the lower half, so that positions ascend from list to list. A shared token then has several lists, which have
// to be merged. Samples of the lists tell how many records of each can be among the best, and no more are merged.
#ifndef MS_DSV32_ASCENDC_INDEXER_PLAN_H_
#define MS_DSV32_ASCENDC_INDEXER_PLAN_H_

#include "copy.h"
#include "indexer_tiling.h"
#include "sequences.h"

namespace ms_dsv32::ascendc {

// Flags between cores.
constexpr int64_t kWeightsReady = 0;  // AIV to AIC, for each task
constexpr int64_t kScoresReady = 1;   // AIC to AIV, for each step
constexpr int64_t kScoresFree = 2;    // AIV to AIC: the step is read
constexpr int64_t kListsReady = 3;    // barrier of all AIVs: the lists of shared units are written
constexpr int64_t kGroupsReady = 4;   // barrier of all AIVs: groups of lists are merged

// Tiles of a step. A long step takes less time to sort per key, which the AIVs need where they have two rows each.
// After a short last step, less is left to be sorted at the end of a launch. The AIVs sort the step before the last one
// while the AIC scores the last one: with one row and a full list, that takes as long as to score six tiles.
constexpr uint32_t kLastStep = 4, kFullListLastStep = 6, kShortStep = 8, kLongStep = kSortChunk / kKeyTile;

// What is scored together. A row is a token of the unit with all keys of the task, or with half of the keys.
struct IndexerTask {
  uint32_t sequence, token, tokens;
  uint32_t visible;  // of the last token
  // Tiles of keys [begin[0], begin[2]); the second half begins at begin[1].
  uint32_t begin[3];
  bool shared;     // other cores have other keys of the unit, and a token has several lists
  bool halves;     // the two AIVs share the keys of the only token
  uint32_t part;   // which part of the shared unit this is
  uint32_t round;  // the round in which a whole unit is dealt

  __aicore__ inline bool Halves() const { return halves; }
  __aicore__ inline uint32_t Rows() const { return Halves() ? 2 : tokens; }
  // An AIV has the rows [RowBegin, RowEnd). Where they are odd in number, the AIVs take turns from round to round in
  // having one more.
  __aicore__ inline uint32_t RowBegin(uint32_t sub) const { return (sub ^ (round & 1)) == 0 ? 0 : CeilDiv(Rows(), 2); }
  __aicore__ inline uint32_t RowEnd(uint32_t sub) const {
    return (sub ^ (round & 1)) == 0 ? CeilDiv(Rows(), 2) : Rows();
  }
  __aicore__ inline uint32_t Token(uint32_t row) const { return Halves() ? token : token + row; }
  __aicore__ inline uint32_t Visible(uint32_t row) const {
    return VisibleKeys(visible, Halves() ? 0 : tokens - 1 - row);
  }
  __aicore__ inline uint32_t FirstTile(uint32_t row) const { return begin[Halves() ? row : 0]; }
  __aicore__ inline uint32_t Tiles(uint32_t row) const { return begin[Halves() ? row + 1 : 2] - FirstTile(row); }
  // Keys of the row in its tiles [from, to).
  __aicore__ MS_DSV32_NOINLINE uint32_t Keys(uint32_t row, uint32_t from, uint32_t to) const {
    const uint32_t first = (FirstTile(row) + from) * kKeyTile;
    const uint32_t end = Min((FirstTile(row) + Min(to, Tiles(row))) * kKeyTile, Visible(row));
    return end > first ? end - first : 0;
  }
  __aicore__ inline uint32_t Keys(uint32_t row) const { return Keys(row, 0, Tiles(row)); }

  // A step covers all rows. The first row has the most tiles. Where an AIV has two rows, long steps come first, then a
  // short one, then the last one. Otherwise all steps but the last one are short.
  __aicore__ inline bool Long() const { return Rows() > 2; }
  __aicore__ inline uint32_t LastStep() const { return Long() || Halves() ? kLastStep : kFullListLastStep; }
  __aicore__ inline uint32_t LongTiles() const {
    const uint32_t others = Long() ? kShortStep + LastStep() : LastStep();
    return Tiles(0) > others ? Tiles(0) - others : 0;
  }
  __aicore__ inline uint32_t LongSteps() const { return CeilDiv(LongTiles(), Long() ? kLongStep : kShortStep); }
  __aicore__ MS_DSV32_NOINLINE uint32_t Steps() const {
    if (Tiles(0) == 0) {
      return 0;
    }
    return LongSteps() + (Long() && Tiles(0) > LastStep() ? 2 : 1);
  }
  __aicore__ MS_DSV32_NOINLINE uint32_t StepBegin(uint32_t step) const {
    if (step < LongSteps()) {
      return ShareBegin(LongTiles(), step, LongSteps());
    }
    if (step == LongSteps()) {
      return LongTiles();
    }
    return step == Steps() ? Tiles(0) : Tiles(0) - LastStep();
  }
};

struct IndexerArguments {
  GmAddress q_int8, q_scale, weights, k_cache, k_cache_scale, block_table, kv_act_seqs, query_act_seqs, topk_indices;
  GmAddress workspace;  // after the part that CANN keeps for itself
};

// What one AI core has to do, and where it is in the workspace.
class IndexerPlan {
 public:
  __aicore__ inline IndexerPlan(const IndexerArguments& arguments, const IndexerTiling& tiling, uint32_t core)
      : tiling_(tiling),
        core_(core),
        workspace_(arguments.workspace),
        sequences_(tiling.t, tiling.b, tiling.s1, tiling.ragged, arguments.kv_act_seqs, arguments.query_act_seqs),
        rounds_(tiling.rounds),
        shared_(tiling.shared),
        sharers_(tiling.sharers),
        lists_(tiling.lists),
        unit_tokens_(tiling.unit_tokens) {
    block_table_ =
        Global<int32_t>(arguments.block_table, static_cast<uint64_t>(tiling.b) * tiling.max_blocknum_perbatch);
    if (tiling.ragged != 0) {
      Deal();
    }
    halves_ = sequences_.Singles() >= shared_;
    // Each shared unit is cut into `sharers` parts. Counted over all shared units, core `core` has the parts [core *
    // shared, (core + 1) * shared).
    if (core < sharers_) {
      first_shared_ = core * shared_ / sharers_;
      shared_tasks_ = CeilDiv((core + 1) * shared_, sharers_) - first_shared_;
    }
  }

  __aicore__ inline const IndexerTiling& Tiling() const { return tiling_; }
  // Tokens that belong to a sequence. The others are padding.
  __aicore__ inline uint32_t Tokens() const { return sequences_.Tokens(); }
  __aicore__ inline uint32_t Rounds() const { return rounds_; }
  __aicore__ inline uint32_t Shared() const { return shared_; }
  __aicore__ inline uint32_t Lists() const { return lists_; }
  // Slots of the tokens of shared units. The tokens of a unit follow each other. In a ragged call some units may have
  // fewer tokens than others: there the first tokens of all units come first, so that neighbouring AIVs have one token
  // each.
  __aicore__ inline uint32_t Slots() const { return shared_ * unit_tokens_; }
  __aicore__ inline uint32_t SlotUnit(uint32_t slot) const {
    return tiling_.ragged != 0 ? slot % shared_ : slot / unit_tokens_;
  }
  __aicore__ inline uint32_t SlotToken(uint32_t slot) const {
    return tiling_.ragged != 0 ? slot / shared_ : slot % unit_tokens_;
  }

  // The tasks of this core are its parts of shared units, which are the last units of the call, and then its whole
  // units. A ragged call goes through its whole units from the last one on, because each unit is looked up from the one
  // before it.
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

  // Unit `index` of a round, with all of its keys.
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
  // Part `part` of a shared unit. Each core that shares the unit has one part.
  __aicore__ inline IndexerTask Part(uint32_t shared, uint32_t part) const {
    IndexerTask task = Unit(rounds_, shared);
    TakePart(task, shared, part);
    return task;
  }
  __aicore__ MS_DSV32_NOINLINE void TakePart(IndexerTask& task, uint32_t shared, uint32_t part) const {
    const uint32_t begin = (FirstSharer(shared) + part) * shared_, unit = shared * sharers_;
    Take(task, begin > unit ? begin - unit : 0, Min(begin + shared_ - unit, sharers_), sharers_);
    task.shared = true;
    task.halves = halves_;
    task.part = part;
    task.round = 0;
  }
  __aicore__ inline uint32_t Parts(uint32_t shared) const {
    return CeilDiv((shared + 1) * sharers_, shared_) - FirstSharer(shared);
  }

  // Entries of block_table from `column` on.
  __aicore__ inline GlobalTensor<int32_t> Blocks(uint32_t sequence, uint32_t column) const {
    return block_table_[static_cast<uint64_t>(sequence) * tiling_.max_blocknum_perbatch + column];
  }

  // Weights of a token of task `task` of this core.
  __aicore__ inline GlobalTensor<half> Weights(uint32_t task, uint32_t token) const {
    const uint32_t index = task % kWeightSlots * kUnitTokens + token;
    return Global<half>(Own() + index * kWeightRows * kIdxNHeads * 2, kWeightRows * kIdxNHeads * kUnitTokens);
  }
  // Scores of a row in step `step` of this core.
  __aicore__ inline GlobalTensor<float> Scores(uint32_t step, uint32_t row) const {
    const uint32_t index = step % kScoreSlots * kUnitTokens + row;
    return Global<float>(Own() + kWeightSlots * kUnitTokens * kWeightRows * kIdxNHeads * 2 + index * kSortChunk * 4,
                         kSortChunk);
  }
  // Sorted lists of a token of a shared unit, from list `list` on, in the order of the positions that they hold. Each
  // list comes after its samples, and ListStride() records after the list before it.
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

 private:
  __aicore__ inline GM_ADDR Own() const { return workspace_ + core_ * tiling_.core_bytes; }
  __aicore__ inline uint32_t FirstSharer(uint32_t shared) const { return shared * sharers_ / shared_; }
  // The tiles of shares [from, to) of the keys, which have `shares` equal shares. A unit that sees no more keys than it
  // may select needs no scores: it has no tiles.
  __aicore__ inline void Take(IndexerTask& task, uint32_t from, uint32_t to, uint32_t shares) const {
    const uint32_t tiles = task.visible > tiling_.selected_count ? CeilDiv(task.visible, kKeyTile) : 0;
    task.begin[0] = ShareBegin(tiles, from, shares);
    task.begin[2] = ShareBegin(tiles, to, shares);
    task.begin[1] = task.begin[0] + CeilDiv(task.begin[2] - task.begin[0], 2);
  }

  // Deals the units of a ragged call. The tiling function does the same for the other calls.
  __aicore__ MS_DSV32_NOINLINE void Deal() {
    const uint32_t units = sequences_.Groups();
    const uint64_t capacity = static_cast<uint64_t>(tiling_.max_blocknum_perbatch) * tiling_.block_size;
    const uint64_t most = units * (capacity / kSharedKeys + 1);
    rounds_ = units / tiling_.cores;
    shared_ = units % tiling_.cores;
    sharers_ = most < tiling_.cores ? static_cast<uint32_t>(most) : tiling_.cores;
    uint32_t parts = 0;
    for (uint32_t shared = 0; shared < shared_; ++shared) {
      parts = Max(parts, Parts(shared));
    }
    sequences_.SeekLast();
    const bool single = sequences_.Singles() >= shared_;
    unit_tokens_ = single ? 1 : sequences_.MostTokens();
    lists_ = parts * (single ? kVectorsPerCore : 1);
  }

  const IndexerTiling& tiling_;
  const uint32_t core_;
  GM_ADDR workspace_;
  Sequences<kUnitTokens> sequences_;
  GlobalTensor<int32_t> block_table_;
  // The tiling tells these numbers. In a ragged call the kernel counts them itself.
  uint32_t rounds_, shared_, sharers_, lists_, unit_tokens_;
  bool halves_;  // every shared unit is a single token, and each AIV has half of its keys
  uint32_t first_shared_ = 0, shared_tasks_ = 0;
};

// Keys that follow each other in the cache, or that all have no block of the cache.
struct KeyRun {
  uint32_t count;
  int32_t row;  // cache row of the first key, or -1 if the keys have no block
};

// Goes over `count` keys of a sequence from `position` on, run by run. If blocks that are neighbours in the sequence
// are neighbours in the cache too, their keys are one run. Table::At(column) is the entry of block_table, or any
// negative number after the end of the table.
template <typename Table>
class KeyRuns {
 public:
  __aicore__ inline KeyRuns(const Table& table, const IndexerTiling& tiling, uint32_t position, uint32_t count)
      : table_(table), block_size_(tiling.block_size), block_num_(tiling.block_num), left_(count) {
    column_ = position / block_size_;
    within_ = position - column_ * block_size_;
    if (count > 0) {
      block_ = Block();
    }
  }
  __aicore__ inline bool Done() const { return left_ == 0; }
  __aicore__ MS_DSV32_NOINLINE KeyRun Next() {
    KeyRun run{Min(block_size_ - within_, left_), -1};
    if (block_ >= 0) {
      run.row = block_ * static_cast<int32_t>(block_size_) + static_cast<int32_t>(within_);
    }
    left_ -= run.count;
    within_ = 0;
    while (left_ > 0) {
      ++column_;
      const int32_t before = block_;
      block_ = Block();
      if (block_ != (before < 0 ? before : before + 1)) {
        break;
      }
      const uint32_t count = Min(block_size_, left_);
      run.count += count;
      left_ -= count;
    }
    return run;
  }

 private:
  // The block of column_, or -1 if the entry is no block of the cache.
  __aicore__ inline int32_t Block() const {
    const int32_t block = table_.At(column_);
    return block >= 0 && block < static_cast<int32_t>(block_num_) ? block : -1;
  }

  const Table& table_;
  uint32_t block_size_, block_num_, left_, column_, within_;
  int32_t block_ = -1;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_INDEXER_PLAN_H_
