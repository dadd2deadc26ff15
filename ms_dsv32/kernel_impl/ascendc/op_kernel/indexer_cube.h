// The cube half of lightning_indexer_quant: scores. See indexer_plan.h.
#ifndef MS_DSV32_ASCENDC_INDEXER_CUBE_H_
#define MS_DSV32_ASCENDC_INDEXER_CUBE_H_

#include "copy.h"
#include "cube_tile.h"
#include "indexer_plan.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// The cube takes dots in half, which cannot hold |q . k| <= 128 * 127 * 127 < 2^21. A dot is divided by 2048, so that
// it is below 2^10. That changes no bit of its mantissa.
constexpr uint64_t kDotScaleBits = 0x3a000000;  // 1 / 2048 as float32

// Goes over the key tiles of a core's tasks.
class KeyCursor {
 public:
  // Goes to the first tile.
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
    if (++tile_ == task_.Tiles(0)) {
      NextTask(plan);
    }
  }

 private:
  __aicore__ inline void NextTask(const IndexerPlan& plan) {
    tile_ = 0;
    row_ = 0;
    for (++index_; index_ < plan.Tasks(); ++index_) {
      task_ = plan.Task(index_);
      if (task_.Tiles(0) > 0) {
        break;
      }
    }
  }
  IndexerTask task_;
  uint32_t index_ = 0, tile_ = 0, row_ = 0;
};

// A sequence's row of block_table in GM. The scalar unit of an AIC can read no memory but GM, through the data cache.
// It reads one column after another, so that one read of 16 waits for GM, and it reads four to six tiles ahead of the
// products.
struct TableRow {
  const IndexerPlan& plan;
  uint32_t sequence;
  __aicore__ inline int32_t At(uint32_t column) const {
    return column < plan.Tiling().max_blocknum_perbatch ? plan.Blocks(sequence, column).GetValue(0) : -1;
  }
};

class IndexerCube {
 public:
  __aicore__ inline IndexerCube(TPipe& pipe, const IndexerArguments& arguments, const IndexerTiling& tiling)
      : plan_(arguments, tiling, static_cast<uint32_t>(GetBlockIdx())), tiling_(tiling) {
    q_int8_ = Global<int8_t>(arguments.q_int8, static_cast<uint64_t>(tiling_.t) * kIdxNHeads * kIdxHeadDim);
    k_cache_ =
        Global<int8_t>(arguments.k_cache, static_cast<uint64_t>(tiling_.block_num) * tiling_.block_size * kIdxHeadDim);
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
    if (next < plan_.Tasks()) {
      FetchQuery(plan_.Task(next), 0);
    }
    for (uint32_t i = 0; i < kKeySlots; ++i) {
      FetchKeys();
    }
    if (next < plan_.Tasks()) {
      FetchWeights(plan_.Task(next), 0);
    }
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
    for (uint32_t i = 0; i < Min(steps_, kScoreSlots); ++i) {
      AwaitCore(kScoresFree);
    }
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
  // Slots of each memory. L0A has 64 KiB: three tiles of keys take 48, and the weights of two tasks 16. L0B has 64 KiB:
  // the queries of a task take 32, and two tiles of dots 32. L0C has 128 KiB, of which three products and two sums take
  // 112. L1 holds queries (64 KiB), weights (16), keys (64) and dots (64).
  static constexpr uint32_t kKeySlots = 4, kLoadedTiles = 3, kDotSlots = 4, kProductSlots = 3, kSumSlots = 2;
  // A sum comes so many products after its own: the way of a product through Fixpipe and L1 takes longer than two
  // products.
  static constexpr uint32_t kLag = 3;
  // The first flags of the slots.
  static constexpr int32_t kKeyFlag = 0, kDotFlag = 0, kProductFlag = 0, kSumFlag = kProductFlag + kProductSlots;
  // MTE2_MTE1: the weights of a task are in L1, or its queries are. MTE1_MTE2: the first dots of a task are on their
  // way, so that those of the next task may follow. MTE1_M: the queries of a task are in L0B.
  static constexpr int32_t kWeightFlag = kKeyFlag + kKeySlots, kQueryFlag = kWeightFlag + 1;
  static constexpr int32_t kTaskFlag = kKeyFlag + kKeySlots;
  static constexpr int32_t kLocalQueryFlag = kFirstL0Flag + 2;
  // M_MTE1: the products of a tile are done. The cube may run as many tiles ahead as there are places in L0A, and each
  // place has a flag: with one for all of them, the cube would set a flag that nobody has waited for. They come after
  // the flags of L0B's two slots, so that 6 and 7, which CANN advises against, are among them.
  static constexpr int32_t kTileFlag = kFirstL0Flag + 2;

  // A unit of work in flight: a row of a task and a tile of keys.
  struct Pending {
    GlobalTensor<float> scores;
    uint32_t step;
    bool first, last;  // of its step
    uint32_t weights;  // place of the token's weights in L0A
    // Which task of the core this is, and how many tokens the task has if this is its first unit of work, else 0.
    uint32_t task, tokens;
  };

  __aicore__ MS_DSV32_NOINLINE uint32_t NextTask(uint32_t index) const {
    while (index < plan_.Tasks() && plan_.Task(index).Tiles(0) == 0) {
      ++index;
    }
    return index;
  }

  // The flag of the tile before the one that is to be multiplied. Once its products are done, its place in L0A is free
  // for the tile after the next, and the queries of the task in L0B may be replaced.
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
        if (row + 1 == rows || task.Halves()) {
          SetFlag<HardEvent::M_MTE1>(kTileFlag + static_cast<int32_t>(key_));
        }
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
      // The AIVs make the weights of the next task when they begin this one. For that they must have all scores of the
      // task before.
      const bool unfinished = units_ - units < kLag;
      if (!fetched && tile >= last_step && (!unfinished || tile + 1 == task.Tiles(0))) {
        if (unfinished) {
          Drain();
        }
        FetchQuery(plan_.Task(next), tasks_ + 1);
        FetchWeights(plan_.Task(next), tasks_ + 1);
        fetched = true;
      }
    }
    ++steps_;
  }

  // After a product: makes the sums of the oldest product in flight, and loads the dots of the newest.
  __aicore__ inline void Advance() {
    if (in_flight_ == kLag) {
      Sums();
    }
    if (in_flight_ > 0) {
      LoadDots();
    }
  }
  __aicore__ MS_DSV32_NOINLINE void Drain() {
    Advance();
    while (in_flight_ > 0) {
      Sums();
    }
  }

  // Loads the cursor's tile to L1, 16 keys after 16, as L0A has them, so that one instruction moves the tile to L0A.
  // Rows after the last key of a sequence hold what the cache has there, and rows of keys without a block hold what L1
  // had there. The AIVs replace or leave out the scores of both.
  __aicore__ MS_DSV32_NOINLINE void FetchKeys() {
    if (!cursor_.Valid(plan_)) {
      return;
    }
    const IndexerTask& task = cursor_.Current();
    const LocalTensor<int8_t> keys = Keys(key_slots_.Acquire());
    const uint32_t position = cursor_.Position();
    const uint32_t count = RoundUp(Min(kKeyTile, task.visible - position), kFractal);
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

  // Moves the oldest tile of L1 to L0A, two tiles ahead of the products. It takes the place of a tile whose products
  // are done.
  __aicore__ MS_DSV32_NOINLINE void LoadKeys() {
    if (loaded_ == fetched_) {
      return;
    }
    const uint32_t place = loaded_++ % kLoadedTiles;
    LoadFractals(LocalKeys(place), Keys(key_slots_.Take()), kKeyBytes);
    SetFlag<HardEvent::MTE1_M>(static_cast<int32_t>(place));
    key_slots_.Release();
  }

  // Loads to L1 what task `index` of the core multiplies the keys with.
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
  // Copies one matrix [rows, columns] for each of `tokens` tokens, which follow each other, to NZ
  // [columns/C0][l1_rows][C0].
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

  // (1) int8 products of a tile of keys with the queries of all heads.
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

  // Loads the dots of the newest unit of work to L0B, as [heads, keys]. The first dots of a task bring its weights
  // along.
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

  // (4) weighted sum over the heads. The weights are the first rows of a fractal, and the cube reads no others.
  __aicore__ inline void Sums() {
    const Pending& pending = pending_[(units_ - in_flight_--) % kLag];
    const uint32_t l0 = l0b_slots_.Take();
    const LocalTensor<float> c =
        l0c_.GetWithOffset<float>(kSumBytes / 4, kProductSlots * kProductBytes + sum_slots_.Acquire() * kSumBytes);
    Product(c, LocalWeights(pending.weights), LocalDots(l0), kWeightRows, kKeyTile, kIdxNHeads);
    l0b_slots_.Release();
    sum_slots_.Publish();
    sum_slots_.Take();
    if (pending.first && pending.step >= kScoreSlots) {
      AwaitCore(kScoresFree);
    }
    StoreC(pending.scores, c, 1, kFractal, 0, kKeyTile, kKeyTile);
    sum_slots_.Release();
    if (pending.last) {
      NotifyVectors(kScoresReady);
    }
  }

  // One product to which nothing is added. Therefore it needs no barrier, unlike Multiply.
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
  // Loads whole fractals, which lie in L1 in the order of L0.
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

  const IndexerPlan plan_;
  const IndexerTiling& tiling_;
  GlobalTensor<int8_t> q_int8_, k_cache_;
  TBuf<TPosition::B1> query_, dots_;
  TBuf<TPosition::A1> weights_, keys_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE2_MTE1, HardEvent::MTE1_MTE2, kKeyFlag, kKeySlots> key_slots_;
  Ring<HardEvent::FIX_MTE1, HardEvent::MTE1_FIX, kDotFlag, kDotSlots> dot_slots_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, kFirstL0Flag> l0b_slots_;
  Ring<HardEvent::M_FIX, HardEvent::FIX_M, kProductFlag, kProductSlots> product_slots_;
  Ring<HardEvent::M_FIX, HardEvent::FIX_M, kSumFlag, kSumSlots> sum_slots_;
  KeyCursor cursor_;
  Pending pending_[kLag];
  uint32_t fetched_ = 0, loaded_ = 0, tile_in_l0a_ = 0, key_ = 0;
  // A unit of work is one row of a task with one tile of keys. `in_flight_` of them have products, but no sums yet.
  uint32_t tasks_ = 0, steps_ = 0, units_ = 0, in_flight_ = 0;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_INDEXER_CUBE_H_
