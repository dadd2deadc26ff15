// The cube half of mla_epilog_quant: S1 and S3 of epilog_plan.h.
//
// Weights stream through slots of L1 in chunks, each beside a left operand that lies in a place of its own. The loader
// goes through the same phases and chunks as the products and is as many chunks ahead as there are slots. A left
// operand may have to wait for other cores or for its place. Its weights are loaded meanwhile, and their chunk is
// handed over when the left operand is there.
#ifndef MS_DSV32_ASCENDC_EPILOG_CUBE_H_
#define MS_DSV32_ASCENDC_EPILOG_CUBE_H_

#include "cube_tile.h"
#include "epilog_plan.h"

namespace ms_dsv32::ascendc {

class EpilogCube {
 public:
  __aicore__ inline EpilogCube(TPipe& pipe, const EpilogArguments& arguments, const EpilogTiling& tiling)
      : a_(arguments),
        plan_(arguments.workspace, tiling, static_cast<uint32_t>(GetBlockIdx())),
        slots_(tiling.slots),
        slot_bytes_(tiling.slot_bytes) {
    pipe.InitBuffer(left_, tiling.left_bytes);
    pipe.InitBuffer(weights_, slots_ * slot_bytes_);
    pipe.InitBuffer(l0a_, kL0Slots * kL0Bytes);
    pipe.InitBuffer(l0b_, kL0Slots * kL0Bytes);
    pipe.InitBuffer(l0c_, 2 * kHalfBytes);
  }

  // S1 of steps 0 and 1, S3 of step 0, S1 of step 2, S3 of step 1, ...
  __aicore__ inline void Run() {
    Begin();
    const uint32_t steps = plan_.Steps();
    if (steps > 0) {
      Load();
      Heads(0);
      if (steps == 1) {
        Warm();
      }
    }
    for (uint32_t step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        Heads(step + 1);
      }
      Outputs(step);
    }
    End();
  }

 private:
  // Four short slots each of L0A and L0B: with two, a load that waits for a product would not be done before the next
  // product is. K of a product of heads is the same for all shapes, because its sums are in float.
  static constexpr uint32_t kL0Slots = 4, kL0Bytes = 16384;
  static constexpr uint32_t kHalfBytes = 65536;  // of L0C
  static constexpr uint32_t kHeadStep = kL0Bytes / kHeadRowBytes;
  static constexpr uint32_t kAhead = 2;  // chunks of weights that may be loaded before an older left operand
  // Bytes that HBM gives a core, at 22 to 32 bytes a cycle: in the 1900 cycles in which an AIV quantises a token, and
  // in the 2500 cycles of the copies and barriers before and after that.
  static constexpr uint32_t kQuantiseBytes = 49152, kWaitBytes = 65536;
  static constexpr uint32_t kRing = 8;  // chunks that are remembered: more than there are slots

  // Where the loader is in a phase: a head or a span, a block of columns, a part of K.
  struct Place {
    uint32_t item, block, part;
  };
  // A chunk of weights that is on its way, or there.
  struct Chunk {
    bool output, left;  // of S3; with a left operand that comes beside it
    uint32_t step, head, k0, rows, place;
    uint32_t free;  // the place of its left operand is free after so many chunks are returned
  };

  // Blocks of tokens, each with an accumulator of its own, and their rows.
  __aicore__ inline uint32_t TokenBlocks(uint32_t step) const { return CeilDiv(plan_.Tokens(step), kEpilogRows); }
  __aicore__ inline uint32_t BlockRows(uint32_t step, uint32_t block) const {
    return Min(kEpilogRows, plan_.Tokens(step) - block * kEpilogRows);
  }
  __aicore__ inline uint32_t HeadRows() const { return slot_bytes_ / kHeadRowBytes; }
  __aicore__ inline uint32_t OutputRows() const { return slot_bytes_ / kBlockColumns; }
  __aicore__ inline uint32_t Parts(uint32_t span) const { return CeilDiv(plan_.SpanRows(span), OutputRows()); }

  // Memories.

  template <typename T>
  __aicore__ inline LocalTensor<T> Weights(uint32_t chunk) {
    return weights_.GetWithOffset<T>(slot_bytes_ / sizeof(T), chunk % slots_ * slot_bytes_);
  }
  // The left operand [rows of a block of tokens, k] of a chunk in NZ. Blocks lie in areas of their own, so that the
  // rows after the last token, which nothing loads, stay apart from the others.
  template <typename T>
  __aicore__ inline LocalTensor<T> Left(const Chunk& chunk, uint32_t block) {
    const uint32_t rows = chunk.output ? OutputRows() : HeadRows() * 2;  // K in bytes
    const uint32_t offset = (chunk.place * plan_.Tiling().token_step + block * kEpilogRows) * rows;
    const uint32_t m16 = RoundUp(BlockRows(chunk.step, block), kFractal);
    return left_.GetWithOffset<T>(m16 * rows / sizeof(T), offset);
  }
  template <typename C>
  __aicore__ inline LocalTensor<C> L0c(uint32_t offset) {
    return l0c_.GetWithOffset<C>(kHalfBytes / sizeof(C) - offset % kHalfBytes / sizeof(C), offset);
  }

  // Loader. Its phases are S1 of step 0, S1 of step 1, S3 of step 0, S1 of step 2, S3 of step 1, ...

  static __aicore__ inline bool IsOutput(uint32_t phase) { return phase > 0 && phase % 2 == 0; }
  static __aicore__ inline uint32_t StepOf(uint32_t phase) { return IsOutput(phase) ? phase / 2 - 1 : (phase + 1) / 2; }

  // Fills the slots that are returned, and hands over the chunks that are complete. If a left operand's place is still
  // in use, at most kAhead chunks are loaded before it: MTE2 would load the left operand after all of them, and the
  // cube has nothing else to do.
  __aicore__ MS_DSV32_NOINLINE void Load() {
    HandOver();
    while (filled_ < taken_ + slots_ && !(IsOpen() && filled_ >= handed_ + kAhead) && LoadNext()) {
      HandOver();
    }
  }
  // Whether the oldest chunk that is not handed over waits for this core only.
  __aicore__ inline bool IsOpen() const {
    const Chunk& chunk = chunks_[handed_ % kRing];
    return handed_ < filled_ && !(chunk.output && chunk.step >= opened_);
  }
  // Fills the next slot. Returns false if all that the launch needs is on its way.
  __aicore__ inline bool LoadNext() {
    while (phase_ <= 2 * plan_.Steps()) {
      const uint32_t step = StepOf(phase_);
      if (step < plan_.Steps() && (IsOutput(phase_) ? LoadOutput(step) : LoadHead(step))) {
        return true;
      }
      ++phase_;
      at_ = Place{0, 0, 0};
      first_place_ = 0;
      // Phases divide the places differently, so all places of the phase before must have been used.
      for (uint32_t place = 0; place < kMostLeftPlaces; ++place) {
        last_use_[place] = filled_;
      }
    }
    return false;
  }
  // Waits until the products have read so many chunks from L1. The flag of a slot tells it of the slot's last chunk.
  __aicore__ inline void AwaitReturned(uint32_t chunks) {
    for (; awaited_ < chunks; ++awaited_) {
      WaitFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(awaited_ % slots_));
    }
  }
  __aicore__ inline void AwaitSlot() {
    if (filled_ >= slots_) {
      AwaitReturned(filled_ + 1 - slots_);
    }
  }

  __aicore__ inline bool LoadHead(uint32_t step) {
    const uint32_t head = plan_.HeadBegin() + at_.item, rows = HeadRows();
    if (head == plan_.HeadEnd()) {
      return false;
    }
    AwaitSlot();
    const uint32_t k0 = at_.part * rows, place = first_place_;
    const GlobalTensor<bfloat16_t> w_uv =
        Global<bfloat16_t>(a_.w_uv, uint64_t{kKvLoraRank} * kVHeadDim * plan_.Tiling().n_q);
    CopyNdToL1(Weights<bfloat16_t>(filled_), w_uv[(static_cast<uint64_t>(head) * kKvLoraRank + k0) * kVHeadDim], rows,
               kVHeadDim, kVHeadDim, rows);
    chunks_[filled_ % kRing] = {false, true, step, head, k0, rows, place, last_use_[place]};
    last_use_[place] = ++filled_;
    first_place_ = place + 1 == plan_.Tiling().head_places ? 0 : place + 1;
    if (++at_.part * rows == kKvLoraRank) {
      at_ = Place{at_.item + 1, 0, 0};
    }
    return true;
  }

  // Loads a span, block after block. Its left operand comes with the first block, in as many parts as the weights.
  __aicore__ inline bool LoadOutput(uint32_t step) {
    if (!HasChunk(at_)) {
      return false;
    }
    AwaitSlot();
    const uint32_t k0 = CopyWeights(Weights<int8_t>(filled_), at_), rows = PartRows(at_);
    const uint32_t places = plan_.Tiling().output_places, place = (first_place_ + at_.part) % places;
    chunks_[filled_ % kRing] = {true, at_.block == 0, step, 0, k0, rows, place, last_use_[place]};
    last_use_[place] = ++filled_;
    const uint32_t parts = Parts(at_.item);
    if (Advance(at_)) {
      first_place_ = (first_place_ + parts) % places;
    }
    return true;
  }
  // Whether there is a chunk of S3 at a place. Groups become fewer from span to span.
  __aicore__ inline bool HasChunk(const Place& at) const {
    return at.item < plan_.Spans() && plan_.SpanGroups(at.item) > 0;
  }
  __aicore__ inline uint32_t PartRows(const Place& at) const {
    return Min(OutputRows(), plan_.SpanRows(at.item) - at.part * OutputRows());
  }
  // Goes to the next place. Returns whether that is in another span.
  __aicore__ inline bool Advance(Place& at) const {
    if (++at.part < Parts(at.item)) {
      return false;
    }
    at.part = 0;
    if (++at.block < plan_.SpanBlocks(at.item)) {
      return false;
    }
    at = Place{at.item + 1, 0, 0};
    return true;
  }
  // Copies the weights of a chunk of S3. Returns where its K begins.
  __aicore__ MS_DSV32_NOINLINE uint32_t CopyWeights(const LocalTensor<int8_t>& dst, const Place& at) const {
    const uint32_t k0 = plan_.SpanBegin(at.item) + at.part * OutputRows(), rows = PartRows(at);
    const uint32_t first = at.block * kBlockGroups;
    const uint32_t end = Min(first + kBlockGroups, plan_.SpanGroups(at.item));
    const uint32_t own = Min(end, plan_.Groups()) - Min(first, plan_.Groups());
    const GlobalTensor<int8_t> w_o = Global<int8_t>(a_.w_o, uint64_t{plan_.K()} * kH);
    if (own > 0) {
      CopyNzToL1(dst, w_o, plan_.K(), k0, rows, (plan_.FirstGroup() + first) * kGroupColumns, own * kGroupColumns);
    }
    if (first + own < end) {
      CopyNzToL1(dst[own * kGroupColumns * rows], w_o, plan_.K(), k0, rows, plan_.PieceGroup() * kGroupColumns,
                 kGroupColumns);
    }
    return k0;
  }

  // Uses the wait for S2, when all slots are full: brings the weights that come next from HBM into L2, by way of the
  // places of left operands, which nothing else needs then. It brings as many bytes as HBM gives this core while it
  // waits for cores with more heads and for S2, less what the slots hold.
  __aicore__ MS_DSV32_NOINLINE void Warm() {
    const EpilogTiling& tiling = plan_.Tiling();
    const uint32_t heads = CeilDiv(tiling.n_q, tiling.cores) - (plan_.HeadEnd() - plan_.HeadBegin());
    const uint32_t tokens = CeilDiv(tiling.t, kVectorsPerCore * tiling.cores);
    const uint32_t bytes = heads * kKvLoraRank * (kHeadRowBytes + tiling.t * 2) + tokens * kQuantiseBytes + kWaitBytes;
    const uint32_t chunks = bytes / slot_bytes_, places = tiling.left_bytes / slot_bytes_;
    if (chunks <= slots_ || !IsOutput(phase_)) {
      return;
    }
    AwaitReturned(taken_);
    Place at = at_;
    for (uint32_t i = 0; i < chunks - slots_ && HasChunk(at); ++i) {
      if (i > 0 && i % places == 0) {
        PipeBarrier<PIPE_MTE2>();
      }
      CopyWeights(left_.GetWithOffset<int8_t>(slot_bytes_, i % places * slot_bytes_), at);
      Advance(at);
    }
    PipeBarrier<PIPE_MTE2>();
  }

  // Loads the left operands whose turn it is and whose places were returned, and hands their chunks over.
  __aicore__ inline void HandOver() {
    for (; handed_ < filled_; ++handed_) {
      const Chunk& chunk = chunks_[handed_ % kRing];
      if (chunk.left) {
        if (!IsOpen() || chunk.free > taken_) {
          return;
        }
        AwaitReturned(chunk.free);
        for (uint32_t block = 0; block < TokenBlocks(chunk.step); ++block) {
          LoadLeft(chunk, block);
        }
      }
      SetFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(handed_ % slots_));
    }
  }
  __aicore__ inline void LoadLeft(const Chunk& chunk, uint32_t block) {
    const uint32_t m = BlockRows(chunk.step, block), m16 = RoundUp(m, kFractal), token = block * kEpilogRows;
    if (chunk.output) {
      CopyNdToL1(Left<int8_t>(chunk, block),
                 plan_.Quantised(chunk.step)[static_cast<uint64_t>(token) * plan_.K() + chunk.k0], m, chunk.rows,
                 plan_.K(), m16);
      return;
    }
    // Copies words of two values, because with 128 heads a token's row has 65536 bfloat16 values, one more than the
    // copy's field for its length holds. The bytes land in the same places.
    const uint32_t row = plan_.Tiling().n_q * kKvLoraRank / 2;
    const uint64_t first = static_cast<uint64_t>(chunk.step) * plan_.Tiling().token_step + token;
    const GlobalTensor<float> words = Global<float>(a_.attention_out, static_cast<uint64_t>(plan_.Tiling().t) * row);
    CopyNdToL1(Left<float>(chunk, block), words[first * row + (chunk.head * kKvLoraRank + chunk.k0) / 2], m,
               chunk.rows / 2, row, m16);
  }

  // The oldest chunk that is not returned. Waits until it is handed over, with its left operand.
  __aicore__ inline const Chunk& Take() {
    WaitFlag<HardEvent::MTE2_MTE1>(static_cast<int32_t>(taken_ % slots_));
    return chunks_[taken_ % kRing];
  }
  __aicore__ inline void Return() {
    SetFlag<HardEvent::MTE1_MTE2>(static_cast<int32_t>(taken_ % slots_));
    ++taken_;
    Load();
  }
  __aicore__ inline void Begin() {
    l0_slots_.Begin();
    SetFlag<HardEvent::FIX_M>(kFirstHalf);
    SetFlag<HardEvent::FIX_M>(kSecondHalf);
  }
  __aicore__ inline void End() {
    AwaitReturned(taken_);
    l0_slots_.End();
    WaitFlag<HardEvent::FIX_M>(kFirstHalf);
    WaitFlag<HardEvent::FIX_M>(kSecondHalf);
  }

  // C (+)= left * weights of the oldest chunk, for all blocks of tokens. C of the first block lies at `offset` of L0C,
  // the next one `stride` after it. Weights go to L0B once for all blocks. L0B has as many slots as L0A, and needs no
  // flags of its own: a slot of L0A is free when the product that used it is done. Then the products before it are done
  // too, among them all that used the weights in the next slot of L0B.
  template <typename T>
  __aicore__ MS_DSV32_NOINLINE void Add(uint32_t offset, uint32_t stride, uint32_t n, uint32_t k_step, bool first) {
    const Chunk& chunk = Take();
    const LocalTensor<T> weights = Weights<T>(taken_);
    for (uint32_t done = 0; done < chunk.rows; done += k_step) {
      const uint32_t k = Min(k_step, chunk.rows - done);
      l0b_slot_ = (l0b_slot_ + 1) % kL0Slots;
      const LocalTensor<T> l0b = l0b_.GetWithOffset<T>(kL0Bytes / sizeof(T), l0b_slot_ * kL0Bytes);
      for (uint32_t block = 0; block < TokenBlocks(chunk.step); ++block) {
        const uint32_t m = BlockRows(chunk.step, block);
        const uint32_t slot = l0_slots_.Acquire();
        const LocalTensor<T> l0a = l0a_.GetWithOffset<T>(kL0Bytes / sizeof(T), slot * kL0Bytes);
        if (block == 0) {
          LoadB(l0b, weights, chunk.rows, done, k, 0, n);
        }
        LoadA(l0a, Left<T>(chunk, block), RoundUp(m, kFractal), done, k);
        l0_slots_.Publish();
        l0_slots_.Take();
        Multiply(L0c<Accumulator<T>>(offset + block * stride), l0a, l0b, m, n, k, first && done == 0);
        l0_slots_.Release();
      }
    }
    Return();
  }

  // Returns the next half of L0C when it is empty.
  __aicore__ inline uint32_t Open() {
    half_ ^= 1;
    WaitFlag<HardEvent::FIX_M>(static_cast<int32_t>(half_));
    return half_;
  }
  static __aicore__ inline void Close(uint32_t half) { WaitPipe<HardEvent::M_FIX>(static_cast<int32_t>(half)); }
  static __aicore__ inline void Free(uint32_t half) { SetFlag<HardEvent::FIX_M>(static_cast<int32_t>(half)); }

  // S1 (1) value up-projection of each head. A block of tokens takes a half of L0C.
  __aicore__ inline void Heads(uint32_t step) {
    const GlobalTensor<bfloat16_t> values = plan_.Values(step);
    const uint32_t blocks = TokenBlocks(step);
    for (uint32_t head = plan_.HeadBegin(); head < plan_.HeadEnd(); ++head) {
      const uint32_t half = Open();
      if (blocks > 1) {
        Open();
      }
      // A second block lies in the other half, before or after the first one.
      const uint32_t offset = half * kHalfBytes, stride = kHalfBytes - 2 * offset;
      for (uint32_t k = 0; k < kKvLoraRank; k += HeadRows()) {
        Add<bfloat16_t>(offset, stride, kVHeadDim, kHeadStep, k == 0);
      }
      for (uint32_t block = 0; block < blocks; ++block) {
        const uint32_t m = BlockRows(step, block), of_block = half ^ block;
        Close(of_block);
        StoreC(values[static_cast<uint64_t>(block) * kEpilogRows * plan_.K() + head * kVHeadDim],
               L0c<float>(of_block * kHalfBytes), m, RoundUp(m, kFractal), 0, kVHeadDim, plan_.K());
        Free(of_block);
      }
    }
    NotifyVectors(kHeadsDone);
  }

  // S3 (3) output projection in int8. A block of columns takes a half of L0C, and each of its blocks of tokens half of
  // that.
  __aicore__ inline void Outputs(uint32_t step) {
    // The largest K with which both operands fit into their slots of L0A and L0B.
    const uint32_t k_step = kL0Bytes / Max(kBlockColumns, RoundUp(BlockRows(step, 0), kFractal)) / 32 * 32;
    AwaitCore(kQuantised);
    opened_ = step + 1;
    Load();
    for (uint32_t span = 0; span < plan_.Spans(); ++span) {
      const bool last = span + 1 == plan_.Spans();
      const uint32_t blocks = plan_.SpanBlocks(span), groups = plan_.SpanGroups(span), parts = Parts(span);
      for (uint32_t block = 0; block < blocks; ++block) {
        const uint32_t columns = Min(kBlockGroups, groups - block * kBlockGroups) * kGroupColumns;
        const uint32_t half = Open();
        for (uint32_t part = 0; part < parts; ++part) {
          Add<int8_t>(half * kHalfBytes, kHalfBytes / 2, columns, k_step, part == 0);
        }
        Close(half);
        StoreSums(step, block, half, columns, span > 0);
        Free(half);
        if (last && block < plan_.OwnBlocks() &&
            ((block + 1) % plan_.PartBlocks() == 0 || block + 1 == plan_.OwnBlocks())) {
          NotifyVectors(kColumnsSummed);
        }
      }
      if (span + 1 == plan_.PieceSpans(plan_.Core())) {
        NotifyVectors(kPieceSummed);
      }
    }
  }
  __aicore__ MS_DSV32_NOINLINE void StoreSums(uint32_t step, uint32_t block, uint32_t half, uint32_t columns,
                                              bool add) {
    const GlobalTensor<int32_t> sums = plan_.Sums(step, plan_.Core(), block);
    if (add) {
      // Copies of one pipe may overtake each other, and what the first span wrote without adding has to be there first.
      // Where a core has several blocks of columns, the halves of L0C order the copies. With one block only this
      // barrier does.
      PipeBarrier<PIPE_FIX>();
      SetAtomicAdd<int32_t>();
    }
    for (uint32_t tokens = 0; tokens < TokenBlocks(step); ++tokens) {
      const uint32_t m = BlockRows(step, tokens);
      StoreC(sums[tokens * kEpilogRows * kBlockColumns], L0c<int32_t>(half * kHalfBytes + tokens * kHalfBytes / 2), m,
             RoundUp(m, kFractal), 0, columns, kBlockColumns);
    }
    if (add) {
      SetAtomicNone();
    }
  }

  EpilogArguments a_;
  EpilogPlan plan_;
  TBuf<TPosition::A1> left_;
  TBuf<TPosition::B1> weights_;
  TBuf<TPosition::A2> l0a_;
  TBuf<TPosition::B2> l0b_;
  TBuf<TPosition::CO1> l0c_;
  Ring<HardEvent::MTE1_M, HardEvent::M_MTE1, kFirstL0Flag, kL0Slots> l0_slots_;
  uint32_t slots_, slot_bytes_;
  uint32_t half_ = 0, l0b_slot_ = 0;
  Place at_{0, 0, 0};  // where the loader is
  uint32_t phase_ = 0, first_place_ = 0;
  // Counts of chunks over the launch: known to be read from L1, filled, handed over, taken.
  uint32_t awaited_ = 0, filled_ = 0, handed_ = 0, taken_ = 0;
  uint32_t opened_ = 0;                      // steps whose int8 values are there
  uint32_t last_use_[kMostLeftPlaces] = {};  // for each place, the count of chunks with the last one that uses it
  Chunk chunks_[kRing] = {};
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_EPILOG_CUBE_H_
