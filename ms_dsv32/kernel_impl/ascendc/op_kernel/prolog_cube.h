// The cube half of the prologs: S1, S3 and S5 of prolog_plan.h.
//
// Weights stream through slots of L1 in chunks. The loader goes through the same phases, items and chunks as the
// products, and is as many chunks ahead as there are slots. So the next weights are on their way while the core waits
// for other cores or for its vector units.
#ifndef MS_DSV32_ASCENDC_PROLOG_CUBE_H_
#define MS_DSV32_ASCENDC_PROLOG_CUBE_H_

#include "cube_stream.h"
#include "prolog_plan.h"

namespace ms_dsv32::ascendc {

template <bool kMla, bool kIndexer>
class PrologCube {
 public:
  __aicore__ inline PrologCube(TPipe& pipe, const PrologArguments& arguments, const PrologTiling& tiling)
      : a_(arguments),
        t_(tiling),
        core_(static_cast<uint32_t>(GetBlockIdx())),
        steps_(CeilDiv(tiling.t, tiling.token_step)),
        unit_begin_(tiling.units.begin[core_]),
        unit_end_(tiling.units.begin[core_ + 1]),
        early_begin_(unit_begin_),
        late_group_(unit_begin_),
        items_(tiling, kIndexer, core_, steps_),
        workspace_(arguments.workspace, tiling, core_),
        stream_(pipe, tiling.left_bytes, tiling.stream_slots, tiling.stream_bytes) {
    if (WeightsLate<kMla>(t_)) {
      early_begin_ = unit_begin_ < kWeightPairs ? Min(unit_end_, kWeightPairs) : unit_begin_;
    }
    for (uint32_t begin = early_begin_; begin < unit_end_; begin = PassEnd(begin)) {
      x_chunks_ += kPartRows / kXChunk;
    }
  }

  // S1 of steps 0 and 1, S3 and S5 of step 0, S1 of step 2, S3 and S5 of step 1, ...
  __aicore__ inline void Run() {
    stream_.Begin();
    SetFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    if (Apart()) {
      SetFlag<HardEvent::MTE1_MTE2>(kOtherQueryFlag);
    }
    SetFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
    ahead_.group = early_begin_;
    if (steps_ > 0) {
      // The weights are asked for first, enough for the time that the AIVs take to bring x into L2.
      uint32_t slot = 0;
      while (slot < t_.stream_slots && (owed_ > 0 ? owed_ * PassBytes() : slot * t_.stream_bytes) < kAlone) {
        LoadNext();
        ++slot;
      }
      AwaitCore(kFetched);
      OpenX(0);
      if (!kMla && !Shared() && !Projects()) {
        if (Apart()) {
          LoadHadamard(Matrix(), a_.hadamard_q);  // before the latents, which S3 waits for
        }
        LoadLatent(0);  // an input
      }
      for (; slot < t_.stream_slots; ++slot) {
        LoadNext();
      }
      Project(0);
    }
    for (uint32_t step = 0; step < steps_; ++step) {
      if (step + 1 < steps_) {
        Project(step + 1);
      }
      if (!Projects()) {
        Heads(step);
      }
    }
    AwaitQueries(Projects() ? steps_ : items_.Total());
    WaitFlag<HardEvent::MTE1_MTE2>(kQueryFlag);
    if (Apart()) {
      WaitFlag<HardEvent::MTE1_MTE2>(kOtherQueryFlag);
    }
    WaitFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
    stream_.End();
  }

 private:
  static constexpr uint32_t kStep = 128;      // K of one product in bfloat16: 128 x 128 fill a slot of L0A
  static constexpr uint32_t kInt8Step = 192;  // K of one product in int8; divides every chunk
  static constexpr uint32_t kWide = kPassUnits / 2 * kUnitColumns;  // columns of one accumulator of S1
  static constexpr uint32_t kAbsorbColumns = 128;                   // columns of one accumulator of S5
  static constexpr uint32_t kAlone = 65536;                         // bytes of weights that are asked for before x
  static constexpr uint32_t kThirds = 3;  // copies of the latents that take the places of three chunks of x
  static constexpr uint32_t kThird = kQLoraRank / kThirds;
  // Flags of MTE2_MTE1 and MTE1_MTE2 after those of the stream.
  static constexpr int32_t kQueryFlag = CubeStream::kMostSlots, kLatentFlag = kQueryFlag + 1;
  static constexpr int32_t kLastThirdFlag = kLatentFlag + 1;  // of MTE2_MTE1 only
  // Where some cores do only S1, the stream has a slot less, and every other operand of S5 uses its flags.
  static constexpr int32_t kOtherQueryFlag = kQueryFlag - 1;

  // Units of each projection of x, in this order: w_dq, w_dkv_kr, wk, w_proj.
  static constexpr uint32_t kLatentUnits = kMla ? kQLoraRank / kUnitColumns : 0;
  static constexpr uint32_t kKeyValueEnd = kLatentUnits + (kMla ? kKeyDim / kUnitColumns : 0);
  static constexpr uint32_t kIndexKeyEnd = kKeyValueEnd + (kIndexer ? kIdxHeadDim / kUnitColumns : 0);
  static constexpr uint32_t kUnits = kIndexKeyEnd + (kIndexer ? kIdxNHeads / kUnitColumns : 0);

  // Tokens of a step, and their rows in L1. Left operands lie in columns of so many rows, each in an area of its own.
  // So the rows after the last token, which nothing loads, never mix with others, whatever they contain.
  __aicore__ inline uint32_t Tokens(uint32_t step) const { return Min(t_.token_step, t_.t - step * t_.token_step); }
  __aicore__ inline uint32_t Rows(uint32_t step) const { return RoundUp(Tokens(step), kFractal); }
  __aicore__ inline LocalTensor<int8_t> Latent(uint32_t step) {
    return stream_.Left<int8_t>(0, Rows(step) * kQLoraRank);
  }
  // The left operand of S5 of item i. If some cores do only S1, operands alternate between two places.
  __aicore__ inline LocalTensor<bfloat16_t> Query(uint32_t step, uint32_t i) {
    return stream_.Left<bfloat16_t>(t_.query_l1 + (IsOther(i) ? t_.token_step * kQkNopeHeadDim * 2 : 0),
                                    Rows(step) * kQkNopeHeadDim);
  }
  __aicore__ inline bool IsOther(uint32_t i) const { return Apart() && i % 2 == 1; }
  __aicore__ inline int32_t QueryFlag(uint32_t i) const { return IsOther(i) ? kOtherQueryFlag : kQueryFlag; }
  // The Hadamard matrix of the heads, after both places of operands.
  __aicore__ inline LocalTensor<bfloat16_t> Matrix() {
    return stream_.Left<bfloat16_t>(t_.query_l1 + 2 * t_.token_step * kQkNopeHeadDim * 2, kIdxHeadDim * kIdxHeadDim);
  }
  __aicore__ inline LocalTensor<bfloat16_t> XChunk(uint32_t step, uint32_t slot) {
    return stream_.Left<bfloat16_t>(t_.x_l1 + slot * t_.token_step * kXChunk * 2, Rows(step) * kXChunk);
  }
  __aicore__ inline uint32_t NextXSlot(uint32_t slot) const { return slot + 1 == t_.x_slots ? 0 : slot + 1; }

  // Whether some cores do only S1, and whether this is one of them.
  __aicore__ inline bool Apart() const { return !kMla && t_.projectors > 0; }
  __aicore__ inline bool Projects() const { return !kMla && core_ < t_.projectors; }
  // Whether the chunks of x have the place that the latents have between two S1.
  __aicore__ inline bool Shared() const { return t_.x_l1 < t_.query_l1 && x_chunks_ > 0 && !Apart(); }
  // The slot of the first chunk of x of a step. The last chunk before the latents come has the last slot, so that the
  // places of the latents' thirds become free in their order. S1 of steps 0 and 1 follow each other without latents.
  __aicore__ inline uint32_t FirstXSlot(uint32_t step) const {
    return (t_.x_slots - (step == 0 && steps_ > 1 ? 2 : 1) * x_chunks_ % t_.x_slots) % t_.x_slots;
  }

  // The chunks that stream. The widest ones fill a slot.

  // K of a chunk of the projections' weights, which has 192 columns at most; and the bytes of a chunk of the first pass
  __aicore__ inline uint32_t ProjectRows() const { return t_.stream_bytes / (kPassUnits * kUnitColumns * 2); }
  __aicore__ inline uint32_t PassBytes() const {
    return (PassEnd(early_begin_) - early_begin_) * kUnitColumns * ProjectRows() * 2;
  }
  // K of a chunk of int8 weights
  __aicore__ inline uint32_t HeadRows(uint32_t columns) const { return Min(t_.stream_bytes / columns, kQLoraRank); }
  // columns of a chunk of w_uk: 128 or 256 of the 512
  __aicore__ inline uint32_t AbsorbChunk() const {
    return Min(t_.stream_bytes / (kQkNopeHeadDim * 2) / kAbsorbColumns, 2) * kAbsorbColumns;
  }
  static __aicore__ inline uint32_t Columns(PrologKind kind) { return kind == PrologKind::kMlaRope ? kRopeDim : 128; }

  // K of S3 of an item
  static __aicore__ inline uint32_t AccumulateRows(const PrologItem& item) {
    return item.kind == PrologKind::kIndexerKeys ? 0 : kQLoraRank;
  }
  // K of the chunk of S3 of item i that begins at k. Where the latency of the last item counts, its last chunk is
  // halved again and again, so that few products remain when the last weights are there.
  __aicore__ inline uint32_t ChunkRows(uint32_t i, PrologKind kind, uint32_t k) const {
    const uint32_t rows = HeadRows(Columns(kind)), left = kQLoraRank - k;
    if (!items_.Few() || i + 1 != items_.Total() || left > rows) {
      return rows;
    }
    return left > kInt8Step ? left / 2 : left;
  }
  // Whether an item has S5, and the chunks that stream for it.
  __aicore__ inline bool Turns(const PrologItem& item) const {
    return item.kind != PrologKind::kMlaRope && TurnRows(item) > 0;
  }
  __aicore__ inline uint32_t TurnChunks(const PrologItem& item) const {
    switch (item.kind) {
      case PrologKind::kMlaNope:
        return kKvLoraRank / AbsorbChunk();
      case PrologKind::kMlaRope:
        return 0;
      case PrologKind::kIndexerHead:
        return Apart() ? 0 : 1;
      default:
        return KeyRows(item.step) > 0 ? 1 : 0;
    }
  }
  // Tokens whose keys this core's AIVs have.
  __aicore__ inline uint32_t KeyRows(uint32_t step) const {
    return OwnBegin(t_, Tokens(step), kVectorsPerCore * (core_ + 1)) -
           OwnBegin(t_, Tokens(step), kVectorsPerCore * core_);
  }

  // Pairs of a part of K and a unit, numbered part after part. Where the head weights come late, their pairs have the
  // first numbers.
  static constexpr uint32_t kWeightUnits = kUnits - kIndexKeyEnd, kWeightPairs = kProjectParts * kWeightUnits;
  __aicore__ inline bool IsWeightPair(uint32_t pair) const { return WeightsLate<kMla>(t_) && pair < kWeightPairs; }
  // Units of a part that are dealt one after the other.
  __aicore__ inline uint32_t UnitsBeside(uint32_t pair) const {
    return !WeightsLate<kMla>(t_) ? kUnits : IsWeightPair(pair) ? kWeightUnits : kIndexKeyEnd;
  }
  __aicore__ inline uint32_t PlaceOf(uint32_t pair) const {
    return WeightsLate<kMla>(t_) && !IsWeightPair(pair) ? pair - kWeightPairs : pair;
  }
  __aicore__ inline uint32_t PartOf(uint32_t pair) const { return PlaceOf(pair) / UnitsBeside(pair); }
  __aicore__ inline uint32_t UnitOf(uint32_t pair) const {
    return PlaceOf(pair) % UnitsBeside(pair) + (IsWeightPair(pair) ? kIndexKeyEnd : 0);
  }
  __aicore__ inline uint32_t PartEnd(uint32_t pair) const {
    return pair + UnitsBeside(pair) - PlaceOf(pair) % UnitsBeside(pair);
  }

  // The first pairs of [pair, end) that belong to one projection: `units` from unit `begin` on, at `column` of the
  // projection's `width` columns.
  struct UnitRun {
    uint32_t begin, units, column, width;
  };
  __aicore__ inline UnitRun RunAt(uint32_t pair, uint32_t end) const {
    const uint32_t unit = UnitOf(pair);
    const uint32_t first = unit < kLatentUnits   ? 0
                           : unit < kKeyValueEnd ? kLatentUnits
                           : unit < kIndexKeyEnd ? kKeyValueEnd
                                                 : kIndexKeyEnd;
    const uint32_t last = unit < kLatentUnits   ? kLatentUnits
                          : unit < kKeyValueEnd ? kKeyValueEnd
                          : unit < kIndexKeyEnd ? kIndexKeyEnd
                                                : kUnits;
    return {unit, Min(end - pair, last - unit), (unit - first) * kUnitColumns, (last - first) * kUnitColumns};
  }
  __aicore__ inline GmAddress ProjectionWeights(uint32_t unit) const {
    return unit < kLatentUnits ? a_.w_dq : unit < kKeyValueEnd ? a_.w_dkv_kr : unit < kIndexKeyEnd ? a_.wk : a_.w_proj;
  }
  __aicore__ inline GlobalTensor<float> ProjectionSums(uint32_t unit, uint32_t step, uint32_t part) const {
    return unit < kLatentUnits   ? workspace_.Latent(t_, step, part)
           : unit < kKeyValueEnd ? workspace_.KeyValue(t_, step, part)
           : unit < kIndexKeyEnd ? workspace_.IndexKey(t_, step, part)
                                 : workspace_.Weights(t_, step, part);
  }

  // A pass of S1: pairs of one part of K, from `begin` on, whose units are accumulated together.
  __aicore__ inline uint32_t PassEnd(uint32_t begin) const {
    return Min(Min(begin + kPassUnits, unit_end_), PartEnd(begin));
  }

  // Phases: S1 of step 0, S1 of step 1, S3 and S5 of step 0, S1 of step 2, S3 and S5 of step 1, ...
  static __aicore__ inline bool IsHeads(uint32_t phase) { return phase > 0 && phase % 2 == 0; }
  static __aicore__ inline uint32_t StepOf(uint32_t phase) { return IsHeads(phase) ? phase / 2 - 1 : (phase + 1) / 2; }

  // Fills the next slot. Returns false if all that the launch needs is on its way.
  __aicore__ MS_DSV32_NOINLINE bool LoadNext() {
    while (ahead_.phase <= 2 * steps_) {
      const uint32_t step = StepOf(ahead_.phase);
      if (IsHeads(ahead_.phase) ? LoadHeads(step) : LoadProjection(step)) {
        return true;
      }
      ++ahead_.phase;
      ahead_.group = IsHeads(ahead_.phase) ? items_.Begin(StepOf(ahead_.phase)) : early_begin_;
      // The latents take the place of x.
      x_open_ = x_open_ && !(Shared() && IsHeads(ahead_.phase));
    }
    return false;
  }

  // From here on x of a step may be loaded. Chunks of weights that are on their way without their x get it, and are
  // handed over.
  __aicore__ MS_DSV32_NOINLINE void OpenX(uint32_t step) {
    if (Shared()) {
      WaitFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
      held_ = true;
      x_filled_ = FirstXSlot(step);
    }
    x_open_ = true;
    for (uint32_t chunk = 0; chunk < owed_; ++chunk) {
      LoadX(step, PartOf(early_begin_) * kPartRows, chunk * ProjectRows());
      stream_.EndFill();
    }
    owed_ = 0;
  }

  // Loads the chunk of x of a step that begins at k0 + k, if one begins there.
  __aicore__ MS_DSV32_NOINLINE void LoadX(uint32_t step, uint32_t k0, uint32_t k) {
    if (k % kXChunk != 0) {
      return;
    }
    const GlobalTensor<bfloat16_t> x = Global<bfloat16_t>(a_.x, static_cast<uint64_t>(t_.t) * kH);
    CopyNdToL1(XChunk(step, x_filled_), x[static_cast<uint64_t>(step) * t_.token_step * kH + k0 + k], Tokens(step),
               kXChunk, kH, Rows(step));
    x_filled_ = NextXSlot(x_filled_);
  }

  // Loads the next chunk of a phase. Returns false if the phase has no more. The chunk of x goes to the area of left
  // operands, and is handed over with the weights.
  __aicore__ inline bool LoadProjection(uint32_t step) {
    return step < steps_ && LoadPairs(step, ahead_.group, ahead_.chunk, unit_end_);
  }
  // Loads the next chunk of the pairs from `group` on. Returns false at `last`.
  __aicore__ MS_DSV32_NOINLINE bool LoadPairs(uint32_t step, uint32_t& group, uint32_t& chunk, uint32_t last) {
    if (group >= last) {
      return false;
    }
    const uint32_t rows = ProjectRows(), end = PassEnd(group);
    const uint32_t k0 = PartOf(group) * kPartRows, k = chunk * rows;
    const LocalTensor<bfloat16_t> weights = stream_.BeginFill<bfloat16_t>();
    if (x_open_) {
      LoadX(step, k0, k);
    }
    for (uint32_t pair = group; pair < end;) {
      const UnitRun run = RunAt(pair, end);
      CopyNzToL1(weights[(pair - group) * kUnitColumns * rows],
                 Global<bfloat16_t>(ProjectionWeights(run.begin), uint64_t{kH} * run.width), kH, k0 + k, rows,
                 run.column, run.units * kUnitColumns);
      pair += run.units;
    }
    if (x_open_) {
      stream_.EndFill();
    } else {
      ++owed_;
    }
    if (++chunk * rows == kPartRows) {
      chunk = 0;
      group = end;
    }
    return true;
  }

  __aicore__ MS_DSV32_NOINLINE bool LoadHeads(uint32_t step) {
    for (; ahead_.group < HeadsEnd(step); ++ahead_.group) {
      if (ahead_.group + 1 == HeadsEnd(step) && LoadPairs(step, late_group_, late_chunk_, early_begin_)) {
        return true;
      }
      for (; ahead_.part < 3; ++ahead_.part) {
        if (ahead_.part == 1) {
          for (; ahead_.turn < TurnEnd(ahead_.group); ++ahead_.turn) {
            const PrologItem item = items_.At(ahead_.turn);
            if (ahead_.chunk < TurnChunks(item)) {
              LoadTurn(item, ahead_.chunk++);
              return true;
            }
            ahead_.chunk = 0;
          }
        } else if (ahead_.group < items_.Total()) {
          const PrologItem item = items_.At(ahead_.group);
          const uint32_t all = AccumulateRows(item);
          if (ahead_.k < (ahead_.part == 0 ? Min(TurnAt(ahead_.group), all) : all)) {
            const uint32_t rows = ChunkRows(ahead_.group, item.kind, ahead_.k);
            LoadUpProjection(item, ahead_.k, rows, Apart() && item.step > 0 && items_.IsFirst(ahead_.group));
            ahead_.k += rows;
            return true;
          }
        }
      }
      ahead_.part = 0;
      ahead_.k = 0;
    }
    return false;
  }
  // End of the items that S3 of a step goes through, counted over all steps. In the last step S5 of the last items
  // remains.
  __aicore__ inline uint32_t HeadsEnd(uint32_t step) const {
    return step + 1 < steps_ ? items_.Begin(step + 1) : items_.Total() + items_.Lag();
  }
  // K of S3 of item i that comes before the S5 that are due; with kQLoraRank, S5 comes after S3. S5 comes before the
  // first item of a step, because its operand is there before the last latents. Where the latents are there early, S5
  // comes in the middle: then the sums of S3 go to GM, and the operand of the next S5 comes, while the cube is at the
  // first half of the next S3.
  __aicore__ inline uint32_t TurnAt(uint32_t i) const {
    if (Apart()) {
      return HasSums(i) ? kQLoraRank / 2 : kQLoraRank;
    }
    return items_.IsFirst(i) ? 0 : kQLoraRank;
  }
  // S5 of the items before this one is done beside S3 of item i. If item i has no S3, its S5 are done in the middle of
  // the next S3, because both accumulators are in use until then.
  __aicore__ inline uint32_t TurnEnd(uint32_t i) const { return items_.DoneEnd(Defers(i) ? i - 1 : i); }
  __aicore__ inline bool Defers(uint32_t i) const {
    return Apart() && i > 0 && i < items_.Total() && !HasSums(i) && HasSums(i + 1);
  }
  // Whether there is an item i that has S3.
  __aicore__ inline bool HasSums(uint32_t i) const { return i < items_.Total() && AccumulateRows(items_.At(i)) > 0; }

  // Loads rows [k, k + rows) of the weights of S3 of an item. With `latents` it also loads the same columns of the
  // latents, which the first item of a step needs if nothing else comes between S3 of two steps. They overwrite the
  // columns of the step before. The products have read those by then: MTE2 waits for a free slot of the stream, and
  // since a head has as many chunks as the stream has slots, the slot's last chunk was this one of the head before, or
  // a later one.
  __aicore__ MS_DSV32_NOINLINE void LoadUpProjection(const PrologItem& item, uint32_t k, uint32_t rows, bool latents) {
    const uint32_t columns = Columns(item.kind);
    const LocalTensor<int8_t> weights = stream_.BeginFill<int8_t>();
    if (latents) {
      LoadLatents(item.step, k, rows);
    }
    if (item.kind == PrologKind::kIndexerHead) {
      CopyNzToL1(weights, Global<int8_t>(a_.w_qb, uint64_t{kQLoraRank} * kIdxNHeads * kIdxHeadDim), kQLoraRank, k, rows,
                 item.head * kIdxHeadDim, columns);
    } else {
      const uint32_t column = item.head * kQHeadDim + (item.kind == PrologKind::kMlaRope ? kQkNopeHeadDim : 0);
      CopyNzToL1(weights, Global<int8_t>(a_.w_uq_qr, uint64_t{kQLoraRank} * t_.n_q * kQHeadDim), kQLoraRank, k, rows,
                 column, columns);
    }
    stream_.EndFill();
  }

  __aicore__ MS_DSV32_NOINLINE void LoadTurn(const PrologItem& item, uint32_t chunk) {
    const LocalTensor<bfloat16_t> weights = stream_.BeginFill<bfloat16_t>();
    if (item.kind == PrologKind::kMlaNope) {
      const GlobalTensor<bfloat16_t> w_uk =
          Global<bfloat16_t>(a_.w_uk, uint64_t{t_.n_q} * kQkNopeHeadDim * kKvLoraRank);
      CopyNdToL1(weights, w_uk[static_cast<uint64_t>(item.head) * kQkNopeHeadDim * kKvLoraRank + chunk * AbsorbChunk()],
                 kQkNopeHeadDim, AbsorbChunk(), kKvLoraRank, kQkNopeHeadDim);
    } else {
      LoadHadamard(weights, item.kind == PrologKind::kIndexerHead ? a_.hadamard_q : a_.hadamard_k);
    }
    stream_.EndFill();
  }
  __aicore__ inline void LoadHadamard(const LocalTensor<bfloat16_t>& dst, GmAddress matrix) {
    CopyNdToL1(dst, Global<bfloat16_t>(matrix, kIdxHeadDim * kIdxHeadDim), kIdxHeadDim, kIdxHeadDim, kIdxHeadDim,
               kIdxHeadDim);
  }

  // S1: (1), (5) x @ w_dq and x @ w_dkv_kr of the MLA half; (2), (3) x @ wk and x @ w_proj of the indexer's.

  __aicore__ MS_DSV32_NOINLINE void Project(uint32_t step) {
    // The latents of the step before are loaded near the end of S1: they are ready by then, and S1 still has work.
    thirds_ = 0;
    thirds_step_ = step - 1;
    thirds_due_ = Shared() && step > 0;
    if (!kMla && Shared() && steps_ == 1) {
      thirds_step_ = 0;  // an input
      thirds_due_ = true;
    }
    x_left_ = x_chunks_;
    if (step != 1 && Shared()) {
      x_taken_ = FirstXSlot(step);
    }
    for (uint32_t begin = early_begin_; begin < unit_end_; begin = PassEnd(begin)) {
      ProjectPass(step, begin, PassEnd(begin));
    }
    if (thirds_due_) {
      LoadLatent(thirds_step_);
    }
    NotifyVectors(kProjected);
  }

  // S1 of the head weights where they come late: (3) x @ w_proj.
  __aicore__ MS_DSV32_NOINLINE void ProjectWeights(uint32_t step) {
    for (uint32_t begin = unit_begin_; begin < early_begin_; begin = PassEnd(begin)) {
      ProjectPass(step, begin, Min(PassEnd(begin), early_begin_));
    }
    NotifyVectors(kProjected);
  }

  __aicore__ MS_DSV32_NOINLINE void ProjectPass(uint32_t step, uint32_t begin, uint32_t end) {
    const uint32_t m16 = Rows(step), rows = ProjectRows(), columns = (end - begin) * kUnitColumns;
    const uint32_t low = stream_.Open();
    uint32_t high = low;
    for (uint32_t k = 0; k < kPartRows; k += rows) {
      if (Projects() && k == kPartRows / 2) {
        // Waits until x of the next step, which is about to be loaded, is in L2, and until the sums whose place its
        // sums will take have been read.
        AwaitQueries(step);
      }
      const LocalTensor<bfloat16_t> weights = stream_.Take<bfloat16_t>();
      const LocalTensor<bfloat16_t> x = XChunk(step, x_taken_);
      stream_.Add(low, x, Tokens(step), m16, k % kXChunk, weights, rows, rows, 0, Min(columns, kWide), kStep);
      if (k + rows == kPartRows) {
        // These sums go to GM while the cube is at the other columns.
        Store(step, low, begin, Min(begin + kPassUnits / 2, end));
      }
      if (columns > kWide) {
        if (k == 0) {
          high = stream_.Open();  // not before: it may still be on its way to GM
        }
        stream_.Add(high, x, Tokens(step), m16, k % kXChunk, weights, rows, rows, kWide, columns - kWide, kStep);
      }
      const bool used = (k + rows) % kXChunk == 0;
      if (used) {
        x_taken_ = NextXSlot(x_taken_);
        --x_left_;
      }
      stream_.Return();
      const bool filled = LoadNext();
      // LoadNext has filled a slot, so MTE2 comes after the products that have read this chunk of x.
      if (thirds_due_ && used && filled && x_left_ + thirds_ + 1 == kThirds) {
        LoadThird();
      }
    }
    if (columns > kWide) {
      Store(step, high, begin + kPassUnits / 2, end);
    }
  }

  __aicore__ MS_DSV32_NOINLINE void Store(uint32_t step, uint32_t product, uint32_t begin, uint32_t end) {
    const LocalTensor<float> sums = stream_.Close<float>(product);
    for (uint32_t pair = begin; pair < end;) {
      const UnitRun run = RunAt(pair, end);
      StoreC(ProjectionSums(run.begin, step, PartOf(pair))[run.column], sums, Tokens(step), Rows(step),
             (pair - begin) * kUnitColumns, run.units * kUnitColumns, run.width);
      pair += run.units;
    }
    stream_.Free(product);
  }

  // The quantised latents of a step stay in L1, because all heads use them.

  // Loads columns [k, k + columns) of the latents of a step.
  __aicore__ MS_DSV32_NOINLINE void LoadLatents(uint32_t step, uint32_t k, uint32_t columns) {
    const GlobalTensor<int8_t> q_norm = Global<int8_t>(a_.q_norm, static_cast<uint64_t>(t_.t) * kQLoraRank);
    CopyNdToL1(Latent(step)[k * Rows(step)], q_norm[static_cast<uint64_t>(step) * t_.token_step * kQLoraRank + k],
               Tokens(step), columns, kQLoraRank, Rows(step));
  }
  // Loads the next third of the latents of thirds_step_.
  __aicore__ MS_DSV32_NOINLINE void LoadThird() {
    if constexpr (kMla) {
      if (thirds_ == 0) {
        AwaitCore(kLatentReady);
      }
    }
    LoadLatents(thirds_step_, thirds_ * kThird, kThird);
    ++thirds_;
    if (thirds_ + 1 >= kThirds) {
      SetFlag<HardEvent::MTE2_MTE1>(thirds_ == kThirds ? kLastThirdFlag : kLatentFlag);
    }
  }
  // Waits for the last third, which comes while S3 of the first item is at the first two.
  __aicore__ inline void AwaitLastThird() {
    if (third_due_) {
      WaitFlag<HardEvent::MTE2_MTE1>(kLastThirdFlag);
      third_due_ = false;
    }
  }
  // Loads the thirds that did not come during S1.
  __aicore__ MS_DSV32_NOINLINE void LoadLatent(uint32_t step) {
    if (!thirds_due_) {
      thirds_ = 0;
    }
    thirds_step_ = step;
    if (thirds_ < kThirds) {
      if (held_) {  // x has the place
        SetFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
      }
      WaitFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
    }
    held_ = false;
    thirds_due_ = false;
    while (thirds_ < kThirds) {
      LoadThird();
    }
    latent_loaded_ = true;
  }
  // Gives back the place of the latents after S3 of all items of a step.
  __aicore__ MS_DSV32_NOINLINE void ReleaseLatent(uint32_t step) {
    if (Apart() && step + 1 < steps_) {
      return;  // the latents of the next step come with its first weights
    }
    AwaitLastThird();
    SetFlag<HardEvent::MTE1_MTE2>(kLatentFlag);
    latent_loaded_ = false;
    if (step + 2 < steps_) {
      if (Shared()) {
        OpenX(step + 2);
      }
    } else if (step + 1 < steps_) {
      LoadLatent(step + 1);
    }
  }

  // S3 and S5.

  __aicore__ MS_DSV32_NOINLINE void Heads(uint32_t step) {
    if (!latent_loaded_) {
      LoadLatent(step);
    }
    const uint32_t begin = items_.Begin(step), last = items_.Begin(step + 1);
    if (begin == last) {
      WaitFlag<HardEvent::MTE2_MTE1>(kLatentFlag);
      third_due_ = true;
      ReleaseLatent(step);
      return;
    }
    for (uint32_t i = begin; i < HeadsEnd(step); ++i) {
      if (i + 1 == HeadsEnd(step) && WeightsLate<kMla>(t_)) {
        ProjectWeights(step);
      }
      const uint32_t turn_at = TurnAt(i);
      if (turn_at == 0) {
        TurnAll(i);
      }
      if (i == begin && (!Apart() || step == 0)) {
        WaitFlag<HardEvent::MTE2_MTE1>(kLatentFlag);
        third_due_ = true;
      }
      if (i < items_.Total()) {
        Accumulate(i, turn_at);
      }
      if (i + 1 == last) {
        ReleaseLatent(step);
      }
      if (turn_at == kQLoraRank) {
        TurnAll(i);
      }
    }
  }

  // S3 of item i: (2) query up-projection of an MLA head, or (1) that of an indexer head. The S5 that are due come in
  // the middle of it.
  __aicore__ MS_DSV32_NOINLINE void Accumulate(uint32_t i, uint32_t turn_at) {
    const PrologItem item = items_.At(i);
    const uint32_t all = AccumulateRows(item);
    if (all > 0) {
      const uint32_t columns = Columns(item.kind), m16 = Rows(item.step);
      const uint32_t product = stream_.Open();
      // When the operand of S5 is loaded: with few items at once, because its S4 was done long before, and later MTE2
      // is busy with the chunks ahead.
      bool query_due = true;
      const uint32_t query_k = items_.Few() ? 0 : Apart() ? all / 4 * 3 : all / 2;
      for (uint32_t k = 0; k < all;) {
        const uint32_t rows = ChunkRows(i, item.kind, k);
        if (k > 0 && k == turn_at) {
          TurnAll(i);
        }
        if (query_due && k >= query_k) {
          if (Apart()) {
            // As late as the operand still comes in time for the middle of the next S3.
            LoadQueries(Defers(i + 1) ? i + 2 : i + 1);
          } else {
            LoadQueries(i);
          }
          query_due = false;
        }
        if (k + rows > (kThirds - 1) * kThird) {
          AwaitLastThird();
        }
        const LocalTensor<int8_t> weights = stream_.Take<int8_t>();
        stream_.Add(product, Latent(item.step), Tokens(item.step), m16, k, weights, rows, rows, 0, columns, kInt8Step);
        stream_.Return();
        LoadNext();
        k += rows;
      }
      AwaitQueries(i < kHeadSlots ? 0 : i - kHeadSlots + 1);  // S4 of the last of them has read the sums' place
      StoreC(workspace_.Sums(t_, i), stream_.Close<int32_t>(product), Tokens(item.step), m16, 0, columns, columns);
      stream_.Free(product);
    }
    // The keys have no sums, but the slot that S4 is about to write must have been read.
    NotifyVectors(kAccumulated);
  }

  // Rows of the operand of S5
  __aicore__ inline uint32_t TurnRows(const PrologItem& item) const {
    return item.kind == PrologKind::kIndexerKeys ? KeyRows(item.step) : Tokens(item.step);
  }

  // Waits for S4 of the first `count` items.
  __aicore__ MS_DSV32_NOINLINE void AwaitQueries(uint32_t count) {
    for (; heard_ < count; ++heard_) {
      AwaitCore(kQueryReady);
    }
  }

  // Loads the operands of the S5 that are due with S3 of item i, after S4 has written them. Each is loaded as soon as
  // the one before it is read, because weights that stream would delay it later.
  __aicore__ MS_DSV32_NOINLINE void LoadQueries(uint32_t i) {
    for (; query_next_ < items_.DoneEnd(i); ++query_next_) {
      const PrologItem item = items_.At(query_next_);
      if (!Turns(item)) {
        continue;
      }
      AwaitQueries(query_next_ + 1);
      WaitFlag<HardEvent::MTE1_MTE2>(QueryFlag(query_next_));
      CopyNdToL1(Query(item.step, query_next_), workspace_.Query(t_, query_next_), TurnRows(item), kQkNopeHeadDim,
                 kQkNopeHeadDim, Rows(item.step));
      SetFlag<HardEvent::MTE2_MTE1>(QueryFlag(query_next_));
    }
  }

  // Every S5 that is due with S3 of item i.
  __aicore__ MS_DSV32_NOINLINE void TurnAll(uint32_t i) {
    for (; turned_ < TurnEnd(i); ++turned_) {
      if (query_next_ <= turned_) {
        LoadQueries(i);
      }
      Turn(turned_, i);
    }
  }

  // S5 of item i, beside S3 of item `beside`: (3) the nope part of an MLA head times its w_uk [128, 512], or (1) an
  // indexer head, or (2) the indexer's keys, times the Hadamard matrix.
  __aicore__ MS_DSV32_NOINLINE void Turn(uint32_t i, uint32_t beside) {
    const PrologItem item = items_.At(i);
    const uint32_t chunks = TurnChunks(item);
    int32_t awaited = QueryFlag(i);
    const uint64_t row = static_cast<uint64_t>(t_.n_q) * kKvLoraRank;
    if (Apart() && item.kind == PrologKind::kIndexerHead) {
      TurnColumns(workspace_.Turned(t_, i), i, item, Matrix(), 0, kIdxHeadDim, awaited);
    }
    for (uint32_t chunk = 0; chunk < chunks; ++chunk) {
      const LocalTensor<bfloat16_t> weights = stream_.Take<bfloat16_t>();
      if (item.kind == PrologKind::kMlaNope) {
        const uint64_t place = static_cast<uint64_t>(item.step) * t_.token_step * row + item.head * kKvLoraRank;
        const GlobalTensor<bfloat16_t> out = Global<bfloat16_t>(a_.q_nope, t_.t * row)[place];
        for (uint32_t n = 0; n < AbsorbChunk(); n += kAbsorbColumns) {
          TurnColumns(out[chunk * AbsorbChunk() + n], i, item, weights, n, static_cast<uint32_t>(row), awaited);
          awaited = CubeStream::kNoFlag;
        }
      } else {
        TurnColumns(workspace_.Turned(t_, i), i, item, weights, 0, kIdxHeadDim, awaited);
      }
      stream_.Return();
      if (chunk + 1 < chunks) {
        LoadNext();
      }
    }
    if (item.kind == PrologKind::kIndexerHead || item.kind == PrologKind::kIndexerKeys) {
      NotifyVectors(kTurned);
    }
    if (Turns(item)) {
      SetFlag<HardEvent::MTE1_MTE2>(QueryFlag(i));
      // Where the head weights come next, the cube must not wait for the last S4 before them.
      if (!Apart() && (beside + 2 != HeadsEnd(item.step) || early_begin_ == unit_begin_)) {
        LoadQueries(beside + 1);
      }
    }
    if (chunks > 0) {
      LoadNext();
    }
  }

  __aicore__ MS_DSV32_NOINLINE void TurnColumns(const GlobalTensor<bfloat16_t>& dst, uint32_t i, const PrologItem& item,
                                                const LocalTensor<bfloat16_t>& weights, uint32_t n, uint32_t dst_row,
                                                int32_t awaited) {
    const uint32_t product = stream_.Open();
    const uint32_t m = TurnRows(item);
    stream_.Add(product, Query(item.step, i), m, Rows(item.step), 0, weights, kQkNopeHeadDim, kQkNopeHeadDim, n,
                kAbsorbColumns, kStep, awaited);
    StoreC(dst, stream_.Close<float>(product), m, RoundUp(m, kFractal), 0, kAbsorbColumns, dst_row);
    stream_.Free(product);
  }

  // Where the loader is. In S1, `group` is the begin of a pass. In S3 and S5 it is an item: the loader is at its S3 and
  // the S5 beside it, with `part` 0 before S5, 1 in S5 and 2 after it. `chunk` counts chunks, `k` is K of S3.
  struct Place {
    uint32_t phase, group, chunk, part, k, turn;
  };

  PrologArguments a_;
  PrologTiling t_;
  uint32_t core_, steps_, unit_begin_, unit_end_, early_begin_, late_group_;
  PrologItems items_;
  PrologWorkspace workspace_;
  CubeStream stream_;
  Place ahead_{0, 0, 0, 0, 0, 0};
  uint32_t late_chunk_ = 0, x_filled_ = 0, x_taken_ = 0;
  // Chunks of x of a step, how many of them S1 has left, and chunks of weights that are on their way without their x.
  uint32_t x_chunks_ = 0, x_left_ = 0, owed_ = 0;
  uint32_t heard_ = 0;       // items whose S4 the cube knows to be done
  uint32_t turned_ = 0;      // items whose S5 is done
  uint32_t query_next_ = 0;  // the item whose S5 has no operand yet
  uint32_t thirds_ = 0, thirds_step_ = 0;
  bool thirds_due_ = false, third_due_ = false, latent_loaded_ = false;
  bool x_open_ = false, held_ = false;  // x may be loaded; x has the place that it shares with the latents
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_CUBE_H_
