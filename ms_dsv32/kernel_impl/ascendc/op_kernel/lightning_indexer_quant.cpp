// lightning_indexer_quant: scores of all visible keys of each token, and the positions of the largest.
//
// A task is a unit of two tokens of a sequence, or of one, and a part of its keys, on one AI core. The AIC scores a
// chunk of 2048 keys for each of its AIVs, and while the AIVs sort those into their running lists it scores the next.
// Of two tokens each AIV has one, and a tile of keys is read once for both. Of a single token the first AIV takes the
// lower half of the task's chunks, so that positions ascend from list to list. When all lists are in the workspace, the
// AIVs merge those of a token by fours.
#include "copy.h"
#include "cube_tile.h"
#include "kernel_operator.h"
#include "lightning_indexer_quant_tiling.h"
#include "sync.h"
#include "topk.h"

namespace ms_dsv32::ascendc {

using namespace AscendC;

// Flags between cores.
constexpr int64_t kWeightsReady = 0;  // AIV to AIC, for each task
constexpr int64_t kScoresReady = 1;   // AIC to AIV, for each pair of chunks
constexpr int64_t kScoresFree = 2;    // AIV to AIC: the pair is read
constexpr int64_t kListsReady = 3;    // all AIVs

// The cube's half cannot hold |q . k| <= 2^21, and the weights' product may be below its normal range: the one is
// divided by 2048 and the other multiplied, which changes no bit of either.
constexpr float kDotScale = 1.0f / 2048;
constexpr float kWeightScale = 2048.0f;
constexpr uint64_t kDotScaleBits = 0x3a000000;  // of kDotScale

// A key without a block of the cache ranks below all others, and what pads a chunk below that.
constexpr float kUnscored = -3.0e38f;
constexpr int32_t kPadding = static_cast<int32_t>(0xff800000u);  // bits of minus infinity

struct IndexerTask {
  uint32_t token, tokens;  // the first of one or two
  uint32_t sequence, part;
  uint32_t visible[2];  // of the token of each AIV
  // Chunks [begin[0], begin[2]) of two tokens; of one token, the first AIV's end and the second one's begin at
  // begin[1].
  uint32_t begin[3];
  __aicore__ inline uint32_t Token(uint32_t sub) const { return tokens == 2 ? token + sub : token; }
  __aicore__ inline uint32_t First(uint32_t sub) const { return tokens == 2 ? begin[0] : begin[sub]; }
  __aicore__ inline uint32_t Chunks(uint32_t sub) const {
    return tokens == 2 ? begin[2] - begin[0] : begin[sub + 1] - begin[sub];
  }
  __aicore__ inline uint32_t Pairs() const { return Chunks(1) > Chunks(0) ? Chunks(1) : Chunks(0); }
  // Keys of an AIV's chunk. The last chunk of two tokens may hold one key, which only the second one sees.
  __aicore__ inline uint32_t Keys(uint32_t chunk, uint32_t sub) const {
    const uint32_t first = chunk * kSortChunk;
    return visible[sub] > first ? Smaller(kSortChunk, visible[sub] - first) : 0;
  }
  __aicore__ inline bool HasList(uint32_t sub) const { return Chunks(sub) > 0 && Keys(First(sub), sub) > 0; }
};

// A run of keys within one block of the cache.
struct KeyRun {
  uint32_t count;
  int32_t row;  // cache row of the first, -1 without a block of the cache
};

class IndexerPlan {
 public:
  __aicore__ inline IndexerPlan(const LightningIndexerTiling& tiling, uint32_t core, GM_ADDR block_table,
                                GM_ADDR kv_act_seqs, GM_ADDR workspace)
      : tiling_(tiling), core_(core), workspace_(workspace) {
    const uint32_t b = tiling.t / tiling.s1;
    lengths_ = Global<int32_t>(kv_act_seqs, b);
    block_table_ = Global<int32_t>(block_table, static_cast<uint64_t>(b) * tiling.max_blocknum_perbatch);
  }
  __aicore__ inline uint32_t Tasks() const { return tiling_.t / tiling_.s1 * SequenceUnits() * tiling_.parts; }
  __aicore__ inline uint32_t SequenceUnits() const { return DivUp(tiling_.s1, 2); }
  // Lists of a token, if none is missing.
  __aicore__ inline uint32_t Lists() const { return tiling_.parts * tiling_.part_lists; }

  __aicore__ inline uint32_t Visible(uint32_t token) const {
    const int32_t length = lengths_.GetValue(token / tiling_.s1);
    const int32_t visible = length - static_cast<int32_t>(tiling_.s1) + 1 + static_cast<int32_t>(token % tiling_.s1);
    return visible > 0 ? static_cast<uint32_t>(visible) : 0;
  }
  // A unit that sees no more keys than it may select needs no scores: it has no chunks.
  __aicore__ inline IndexerTask Task(uint32_t unit, uint32_t part) const {
    IndexerTask task;
    task.sequence = unit / SequenceUnits();
    const uint32_t within = unit % SequenceUnits() * 2;
    task.token = task.sequence * tiling_.s1 + within;
    task.tokens = Smaller(2, tiling_.s1 - within);
    task.part = part;
    for (uint32_t sub = 0; sub < 2; ++sub) task.visible[sub] = Visible(task.Token(sub));
    const uint32_t visible = task.visible[1];
    const uint32_t chunks = visible > tiling_.selected_count ? DivUp(visible, kSortChunk) : 0;
    const uint32_t begin = ShareBegin(chunks, part, tiling_.parts);
    const uint32_t count = ShareBegin(chunks, part + 1, tiling_.parts) - begin;
    task.begin[0] = begin;
    task.begin[1] = begin + DivUp(count, 2);
    task.begin[2] = begin + count;
    return task;
  }

  // The keys of `sequence` from `position` on that lie in one block, `most` at most.
  __aicore__ inline KeyRun Run(uint32_t sequence, uint32_t position, uint32_t most) const {
    const uint32_t column = position / tiling_.block_size, within = position - column * tiling_.block_size;
    KeyRun run;
    run.count = Smaller(tiling_.block_size - within, most);
    run.row = -1;
    if (column < tiling_.max_blocknum_perbatch) {
      const int32_t block =
          block_table_.GetValue(static_cast<uint64_t>(sequence) * tiling_.max_blocknum_perbatch + column);
      if (block >= 0 && block < static_cast<int32_t>(tiling_.block_num)) {
        run.row = block * static_cast<int32_t>(tiling_.block_size) + static_cast<int32_t>(within);
      }
    }
    return run;
  }

  __aicore__ inline GlobalTensor<half> Weights(uint32_t sub) const {
    return Global<half>(workspace_ + core_ * tiling_.core_bytes + sub * kIdxNHeads * 2, kIdxNHeads);
  }
  __aicore__ inline GlobalTensor<float> Scores(uint32_t slot, uint32_t sub) const {
    return Global<float>(workspace_ + core_ * tiling_.core_bytes + 512 + (slot * 2 + sub) * kSortChunk * 4, kSortChunk);
  }
  // Sorted lists of a token, part by part, in the order of the positions that they hold.
  __aicore__ inline uint32_t ListIndex(const IndexerTask& task, uint32_t sub) const {
    return task.part * tiling_.part_lists + (task.tokens == 2 ? 0 : sub);
  }
  __aicore__ inline GlobalTensor<float> List(uint32_t token, uint32_t list) const {
    const uint64_t index = static_cast<uint64_t>(token) * Lists() + list;
    return Global<float>(workspace_ + tiling_.list_offset + index * tiling_.list_records * 8, tiling_.list_records * 2);
  }
  // Whether any of `span` lists has been made.
  __aicore__ inline bool HasList(uint32_t token, uint32_t list, uint32_t span) const {
    const uint32_t unit = token / tiling_.s1 * SequenceUnits() + token % tiling_.s1 / 2;
    for (uint32_t i = list; i < Smaller(list + span, Lists()); ++i) {
      const IndexerTask task = Task(unit, i / tiling_.part_lists);
      const uint32_t which = i % tiling_.part_lists;
      if (task.tokens == 1 ? task.HasList(which) : which == 0 && task.HasList(token - task.token)) return true;
    }
    return false;
  }

  const LightningIndexerTiling& tiling_;
  const uint32_t core_;

 private:
  GM_ADDR workspace_;
  GlobalTensor<int32_t> lengths_, block_table_;
};

// ---------------------------------------------------------------- AIV

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
    topk_.Place(arena_, tiling_.list_records);
    for (uint32_t i = 0; i < 2; ++i) {
      scores_[i] = arena_.Take<float>(kSortChunk);
      scale16_[i] = arena_.Take<half>(kSortChunk);
    }
    scale32_ = arena_.Take<float>(kSortChunk);
    list_ = arena_.Take<float>(tiling_.list_records * 2);
    positions_ = arena_.Take<int32_t>(RoundUp(tiling_.list_records, 64));
  }

  __aicore__ inline void Run(uint32_t vector, uint32_t vectors) {
    for (uint32_t index = plan_.core_; index < plan_.Tasks(); index += tiling_.cores) {
      const IndexerTask task = plan_.Task(index / tiling_.parts, index % tiling_.parts);
      if (task.Pairs() > 0) Score(task);
    }
    // One list has to become positions, too: there is a round at least.
    const uint32_t lists = plan_.Lists();
    for (uint32_t span = 1; span == 1 || span < lists; span *= kMergeWidth) {
      const uint32_t groups = DivUp(lists, span * kMergeWidth);
      AwaitAllVectors(kListsReady);
      for (uint32_t index = vector; index < tiling_.t * groups; index += vectors) {
        Merge(index / groups, index % groups * span * kMergeWidth, span, groups == 1);
      }
    }
  }

 private:
  // topk 40 + 2 * 32 KiB, scores 2 * 12, scales 8, list 16, positions 8 KiB.
  static constexpr uint32_t kUbBytes = 176 * 1024;
  static constexpr int32_t kFlag = 2;  // ids 0 and 1 belong to the slots

  // (2) one factor for each head, in half.
  __aicore__ inline void MakeWeights(const IndexerTask& task) {
    const LocalTensor<float> left = scale32_, right = scale32_[kIdxNHeads];
    const LocalTensor<half> narrow = scale16_[0];
    const uint64_t head = static_cast<uint64_t>(task.Token(sub_)) * kIdxNHeads;
    CopyIn(narrow, q_scale_[head], kIdxNHeads);
    CopyIn(narrow[kIdxNHeads], weights_[head], kIdxNHeads);
    WaitPipe<HardEvent::MTE2_V>(kFlag);
    Cast(left, narrow, RoundMode::CAST_NONE, 2 * kIdxNHeads);
    PipeBarrier<PIPE_V>();
    Mul(left, left, right, static_cast<int32_t>(kIdxNHeads));
    PipeBarrier<PIPE_V>();
    Muls(left, left, kWeightScale, static_cast<int32_t>(kIdxNHeads));
    PipeBarrier<PIPE_V>();
    Cast(narrow, left, RoundMode::CAST_RINT, kIdxNHeads);
    WaitPipe<HardEvent::V_MTE3>(kFlag);
    CopyOut(plan_.Weights(sub_), narrow, kIdxNHeads);
    PipeBarrier<PIPE_V>();
    WaitPipe<HardEvent::MTE3_MTE2>(kFlag);
  }

  __aicore__ inline void Score(const IndexerTask& task) {
    PipeBarrier<PIPE_ALL>();
    if (sub_ < task.tokens) MakeWeights(task);
    NotifyCube(kWeightsReady);
    topk_.Begin();
    in_.Begin();
    for (uint32_t pair = 0; pair < task.Pairs(); ++pair, ++pairs_) {
      AwaitCore(kScoresReady);
      const uint32_t chunk = task.First(sub_) + pair;
      if (pair < task.Chunks(sub_) && task.Keys(chunk, sub_) > 0) Chunk(task, chunk);
      // Scores are read by MTE2 alone.
      CrossCoreSetFlag<2, PIPE_MTE2>(kScoresFree);
    }
    in_.End();
    if (task.HasList(sub_)) {
      WaitPipe<HardEvent::V_MTE3>(kFlag);
      DataCopy(plan_.List(task.Token(sub_), plan_.ListIndex(task, sub_)), topk_.List(), tiling_.list_records * 2);
    }
  }

  // The scores of a chunk times the keys' scales, into the running list.
  __aicore__ inline void Chunk(const IndexerTask& task, uint32_t chunk) {
    const uint32_t first = chunk * kSortChunk, count = task.Keys(chunk, sub_);
    const uint32_t slot = in_.Acquire();
    const LocalTensor<float> scores = scores_[slot];
    DataCopy(scores, plan_.Scores(pairs_ % kScoreSlots, sub_), RoundUp(count, 8));
    bool all = true, any = false;
    for (uint32_t done = 0; done < count;) {
      const KeyRun run = plan_.Run(task.sequence, first + done, count - done);
      if (run.row >= 0) {
        CopyIn(scale16_[slot][done], k_scale_[run.row], run.count);
        any = true;
      } else {
        all = false;
      }
      done += run.count;
    }
    in_.Publish();
    in_.Take();
    if (any) {
      Cast(scale32_, scale16_[slot], RoundMode::CAST_NONE, count);
      PipeBarrier<PIPE_V>();
      Mul(scores, scores, scale32_, static_cast<int32_t>(count));
      PipeBarrier<PIPE_V>();
    }
    if (!all) {
      for (uint32_t done = 0; done < count;) {
        const KeyRun run = plan_.Run(task.sequence, first + done, count - done);
        if (run.row < 0) Duplicate(scores[done], kUnscored, static_cast<int32_t>(run.count));
        done += run.count;
      }
      PipeBarrier<PIPE_V>();
    }
    if (count < kSortChunk) {
      FillFrom(scores.ReinterpretCast<int32_t>(), count, kSortChunk, kPadding);
      PipeBarrier<PIPE_V>();
    }
    // (5) the largest scores of the token
    topk_.Add(scores, first);
    in_.Release();
  }

  // Elements [from, to) of x become `value`, and perhaps others behind `to` in the 64 that `from` lies in.
  static __aicore__ inline void FillFrom(const LocalTensor<int32_t>& x, uint32_t from, uint32_t to, int32_t value) {
    const uint32_t whole = RoundUp(from, 64);
    if (from % 64 != 0) {
      uint64_t lanes[2] = {~uint64_t{0} << (from % 64), 0};
      Duplicate(x[whole - 64], value, lanes, static_cast<uint8_t>(1), static_cast<uint16_t>(1),
                static_cast<uint8_t>(8));
    }
    if (whole < to) Duplicate(x[whole], value, static_cast<int32_t>(to - whole));
  }

  // Merges up to kMergeWidth lists of a token, `span` apart, into the first of them. The last round writes
  // topk_indices.
  __aicore__ inline void Merge(uint32_t token, uint32_t first, uint32_t span, bool last) {
    PipeBarrier<PIPE_ALL>();
    const uint32_t visible = plan_.Visible(token);
    if (visible <= tiling_.selected_count) {
      if (!last) return;
      // The scalar unit writes the first block of a CreateVecIndex, whole and at once: -1 comes behind it.
      CreateVecIndex(positions_, int32_t{0}, tiling_.selected_count);
      PipeBarrier<PIPE_V>();
      FillFrom(positions_, visible, tiling_.selected_count, -1);
    } else {
      uint32_t found = 0;
      for (uint32_t list = first; list < Smaller(first + kMergeWidth * span, plan_.Lists()); list += span) {
        if (!plan_.HasList(token, list, span)) continue;
        if (found == 0) {
          topk_.Begin();
        } else {
          WaitPipe<HardEvent::V_MTE2>(kFlag);
        }
        DataCopy(found == 0 ? topk_.List() : list_, plan_.List(token, list), tiling_.list_records * 2);
        WaitPipe<HardEvent::MTE2_V>(kFlag);
        if (found > 0) topk_.Join(list_, tiling_.list_records);
        ++found;
      }
      if (!last) {
        if (found == 0) return;
        WaitPipe<HardEvent::V_MTE3>(kFlag);
        DataCopy(plan_.List(token, first), topk_.List(), tiling_.list_records * 2);
        return;
      }
      RecordPositions(positions_, topk_.List(), tiling_.list_records);
    }
    WaitPipe<HardEvent::V_MTE3>(kFlag);
    CopyOut(topk_indices_[static_cast<uint64_t>(token) * tiling_.selected_count], positions_, tiling_.selected_count);
  }

  const IndexerPlan& plan_;
  const LightningIndexerTiling& tiling_;
  const uint32_t sub_;
  GlobalTensor<half> q_scale_, weights_, k_scale_;
  GlobalTensor<int32_t> topk_indices_;
  UbArena arena_;
  RunningTopK topk_;
  LocalTensor<float> scores_[2], scale32_, list_;
  LocalTensor<half> scale16_[2];
  LocalTensor<int32_t> positions_;
  PingPong<HardEvent::MTE2_V, HardEvent::V_MTE2, 0> in_;
  uint32_t pairs_ = 0;
};

// ---------------------------------------------------------------- AIC

class IndexerCube {
 public:
  __aicore__ inline IndexerCube(TPipe& pipe, const IndexerPlan& plan, GM_ADDR q_int8, GM_ADDR k_cache)
      : plan_(plan), tiling_(plan.tiling_) {
    q_int8_ = Global<int8_t>(q_int8, static_cast<uint64_t>(tiling_.t) * kIdxNHeads * kIdxHeadDim);
    k_cache_ = Global<int8_t>(k_cache, static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size * kIdxHeadDim);
    pipe.InitBuffer(query_, 2 * kIdxNHeads * kIdxHeadDim);
    pipe.InitBuffer(weights_, 2 * kFractal * kIdxNHeads * 2);
    pipe.InitBuffer(keys_, 2 * kKeyTile * kIdxHeadDim);
    pipe.InitBuffer(dots_, 2 * kIdxNHeads * kKeyTile * 2);
    pipe.InitBuffer(l0a_, 2 * kL0Bytes);
    pipe.InitBuffer(l0b_, 2 * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * (kDotBytes + kScoreBytes));
  }

  __aicore__ inline void Run() {
    key_slots_.Begin();
    dot_slots_.Begin();
    l0_slots_.Begin();
    dot_l0c_.Begin();
    score_l0c_.Begin();
    SetFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    for (uint32_t index = plan_.core_; index < plan_.Tasks(); index += tiling_.cores) {
      const IndexerTask task = plan_.Task(index / tiling_.parts, index % tiling_.parts);
      if (task.Pairs() > 0) Score(task);
    }
    for (uint32_t i = 0; i < Smaller(pairs_, kScoreSlots); ++i) AwaitCore(kScoresFree);
    WaitFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    key_slots_.End();
    dot_slots_.End();
    l0_slots_.End();
    dot_l0c_.End();
    score_l0c_.End();
  }

 private:
  static constexpr uint32_t kKeyTile = 128;
  static constexpr uint32_t kL0Bytes = 32768;
  static constexpr uint32_t kDotBytes = kIdxNHeads * kKeyTile * 4;
  static constexpr uint32_t kScoreBytes = kFractal * kKeyTile * 4;
  static constexpr int32_t kTaskFlag = 2;  // ids 0 and 1 belong to the slots

  __aicore__ inline void Score(const IndexerTask& task) {
    WaitFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
    for (uint32_t i = 0; i < task.tokens; ++i) {
      CopyNdToL1(Query(i), q_int8_[static_cast<uint64_t>(task.token + i) * kIdxNHeads * kIdxHeadDim], kIdxNHeads,
                 kIdxHeadDim, kIdxHeadDim, kIdxNHeads);
    }
    AwaitCore(kWeightsReady);
    for (uint32_t i = 0; i < task.tokens; ++i) {
      CopyNdToL1(Weights(i), plan_.Weights(i), 1, kIdxNHeads, kIdxNHeads, kFractal);
    }
    WaitPipe<HardEvent::MTE2_MTE1>(kTaskFlag);
    for (uint32_t pair = 0; pair < task.Pairs(); ++pair, ++pairs_) {
      if (pairs_ >= kScoreSlots) AwaitCore(kScoresFree);
      // Of two tokens the second one sees more keys.
      const uint32_t slot = pairs_ % kScoreSlots;
      if (task.tokens == 2) {
        const uint32_t chunk = task.begin[0] + pair;
        Chunk(task, chunk, task.Keys(chunk, 1), plan_.Scores(slot, 0), plan_.Scores(slot, 1));
      } else {
        for (uint32_t sub = 0; sub < 2; ++sub) {
          const uint32_t chunk = task.begin[sub] + pair;
          const GlobalTensor<float> scores = plan_.Scores(slot, sub);
          if (pair < task.Chunks(sub)) Chunk(task, chunk, task.Keys(chunk, sub), scores, scores);
        }
      }
      NotifyVectors(kScoresReady);
    }
    SetFlag<HardEvent::MTE1_MTE2>(kTaskFlag);
  }

  // The products of a tile and a token run while those before them are summed over the heads.
  __aicore__ inline void Chunk(const IndexerTask& task, uint32_t chunk, uint32_t count,
                               const GlobalTensor<float>& first, const GlobalTensor<float>& second) {
    const uint32_t last = task.tokens - 1;
    for (uint32_t done = 0; done < count; done += kKeyTile) {
      Products(task, chunk * kSortChunk + done, Smaller(kKeyTile, count - done));
      Scale();
      if (done > 0) Sums(last, (last == 0 ? first : second)[done - kKeyTile]);
      if (last == 1) {
        Scale();
        Sums(0, first[done]);
      }
    }
    Sums(last, (last == 0 ? first : second)[(count - 1) / kKeyTile * kKeyTile]);
  }

  // (1) the keys by the block table, and their int8 products with the queries of each token. Keys beyond `count` and
  // those without a block are what L1 held: their scores are replaced before anybody looks.
  __aicore__ inline void Products(const IndexerTask& task, uint32_t position, uint32_t count) {
    const LocalTensor<int8_t> keys =
        keys_.GetWithOffset<int8_t>(kKeyTile * kIdxHeadDim, key_slots_.Acquire() * kKeyTile * kIdxHeadDim);
    for (uint32_t done = 0; done < count;) {
      const KeyRun run = plan_.Run(task.sequence, position + done, count - done);
      if (run.row >= 0) {
        CopyNdToL1(keys[done * kC0<int8_t>], k_cache_[static_cast<uint64_t>(run.row) * kIdxHeadDim], run.count,
                   kIdxHeadDim, kIdxHeadDim, kKeyTile);
      }
      done += run.count;
    }
    key_slots_.Publish();
    key_slots_.Take();
    const uint32_t l0 = l0_slots_.Acquire();
    const LocalTensor<int8_t> left = L0<int8_t>(l0a_, l0), right = L0<int8_t>(l0b_, l0);
    for (uint32_t i = 0; i < task.tokens; ++i) {
      LoadA(left[i * kIdxNHeads * kIdxHeadDim], Query(i), kIdxNHeads, 0, kIdxHeadDim);
    }
    LoadBTransposed(right, keys, kKeyTile, 0, kIdxHeadDim, 0, kKeyTile);
    l0_slots_.Publish();
    key_slots_.Release();
    l0_slots_.Take();
    for (uint32_t i = 0; i < task.tokens; ++i) {
      const LocalTensor<int32_t> c = l0c_.GetWithOffset<int32_t>(kDotBytes / 4, dot_l0c_.Acquire() * kDotBytes);
      Multiply(c, left[i * kIdxNHeads * kIdxHeadDim], right, kIdxNHeads, kKeyTile, kIdxHeadDim, true);
      dot_l0c_.Publish();
    }
    l0_slots_.Release();
  }

  // (3) relu of the oldest products, scaled to half.
  __aicore__ inline void Scale() {
    const LocalTensor<int32_t> c = l0c_.GetWithOffset<int32_t>(kDotBytes / 4, dot_l0c_.Take() * kDotBytes);
    const LocalTensor<half> dots = Dots(dot_slots_.Acquire());
    FixpipeParamsV220 params;
    params.nSize = kKeyTile;
    params.mSize = kIdxNHeads;
    params.srcStride = kIdxNHeads;
    params.dstStride = kIdxNHeads;  // a column of 16 half is a block of 32 bytes a row
    params.quantPre = QuantMode_t::DEQF16;
    params.deqScalar = kDotScaleBits;
    params.reluEn = true;
    Fixpipe<half, int32_t, CFG_NZ>(dots, c, params);
    dot_l0c_.Release();
    dot_slots_.Publish();
  }

  // (4) weighted sum over the heads, with the weights of the task's token `token`.
  __aicore__ inline void Sums(uint32_t token, const GlobalTensor<float>& scores) {
    const LocalTensor<half> dots = Dots(dot_slots_.Take());
    const uint32_t l0 = l0_slots_.Acquire();
    const LocalTensor<half> left = L0<half>(l0a_, l0), right = L0<half>(l0b_, l0);
    LoadA(left, Weights(token), kFractal, 0, kIdxNHeads);
    LoadB(right, dots, kIdxNHeads, 0, kIdxNHeads, 0, kKeyTile);
    l0_slots_.Publish();
    dot_slots_.Release();
    l0_slots_.Take();
    const LocalTensor<float> c =
        l0c_.GetWithOffset<float>(kScoreBytes / 4, 2 * kDotBytes + score_l0c_.Acquire() * kScoreBytes);
    Multiply(c, left, right, kFractal, kKeyTile, kIdxNHeads, true);
    l0_slots_.Release();
    score_l0c_.Publish();
    score_l0c_.Take();
    StoreC(scores, c, 1, kFractal, 0, kKeyTile, kKeyTile);
    score_l0c_.Release();
  }

  // Of the task's token.
  __aicore__ inline LocalTensor<int8_t> Query(uint32_t token) {
    return query_.GetWithOffset<int8_t>(kIdxNHeads * kIdxHeadDim, token * kIdxNHeads * kIdxHeadDim);
  }
  __aicore__ inline LocalTensor<half> Weights(uint32_t token) {
    return weights_.GetWithOffset<half>(kFractal * kIdxNHeads, token * kFractal * kIdxNHeads * 2);
  }
  __aicore__ inline LocalTensor<half> Dots(uint32_t slot) {
    return dots_.GetWithOffset<half>(kIdxNHeads * kKeyTile, slot * kIdxNHeads * kKeyTile * 2);
  }
  template <typename T, typename Buffer>
  __aicore__ inline LocalTensor<T> L0(Buffer& buffer, uint32_t slot) const {
    return buffer.template GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
  }

  const IndexerPlan& plan_;
  const LightningIndexerTiling& tiling_;
  GlobalTensor<int8_t> q_int8_, k_cache_;
  TBuf<TPosition::A1> query_, weights_;
  TBuf<TPosition::B1> keys_, dots_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  PingPong<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, 0> key_slots_;
  PingPong<HardEvent::FIX_MTE1, HardEvent::MTE1_FIX, 0> dot_slots_;
  PingPong<HardEvent::MTE1_M, HardEvent::M_MTE1, 3> l0_slots_;
  PingPong<HardEvent::M_FIX, HardEvent::FIX_M, 0> dot_l0c_;
  PingPong<HardEvent::M_FIX, HardEvent::FIX_M, 2> score_l0c_;
  uint32_t pairs_ = 0;
};

}  // namespace ms_dsv32::ascendc

extern "C" __global__ __aicore__ void lightning_indexer_quant(GM_ADDR q_int8, GM_ADDR q_scale, GM_ADDR weights,
                                                              GM_ADDR k_cache, GM_ADDR k_cache_scale,
                                                              GM_ADDR block_table, GM_ADDR kv_act_seqs,
                                                              GM_ADDR topk_indices, GM_ADDR workspace, GM_ADDR tiling) {
  using namespace AscendC;
  using namespace ms_dsv32::ascendc;
  KERNEL_TASK_TYPE_DEFAULT(KERNEL_TYPE_MIX_AIC_1_2);
  REGISTER_TILING_DEFAULT(ms_dsv32::ascendc::LightningIndexerTiling);
  GET_TILING_DATA(data, tiling);
  if (data.t == 0) return;
  TPipe pipe;
  GM_ADDR user = GetUserWorkspace(workspace);
  if ASCEND_IS_AIC {
    const IndexerPlan plan(data, static_cast<uint32_t>(GetBlockIdx()), block_table, kv_act_seqs, user);
    IndexerCube cube(pipe, plan, q_int8, k_cache);
    cube.Run();
  }
  if ASCEND_IS_AIV {
    const uint32_t vector = static_cast<uint32_t>(GetBlockIdx());
    const IndexerPlan plan(data, vector / kVectorsPerCore, block_table, kv_act_seqs, user);
    IndexerVector indexer(pipe, plan, static_cast<uint32_t>(GetSubBlockIdx()), q_scale, weights, k_cache_scale,
                          topk_indices);
    indexer.Run(vector, data.cores * kVectorsPerCore);
  }
}
