// The vector half of mla_epilog_quant: S2 and S4 of epilog_plan.h.
#ifndef MS_DSV32_ASCENDC_EPILOG_VECTOR_H_
#define MS_DSV32_ASCENDC_EPILOG_VECTOR_H_

#include "dequant.h"
#include "epilog_plan.h"
#include "rows.h"

namespace ms_dsv32::ascendc {

class EpilogVector {
 public:
  __aicore__ inline EpilogVector(TPipe& pipe, const EpilogArguments& arguments, const EpilogTiling& tiling)
      : a_(arguments),
        vector_(static_cast<uint32_t>(GetBlockIdx())),
        sub_(static_cast<uint32_t>(GetSubBlockIdx())),
        plan_(arguments.workspace, tiling, vector_ / kVectorsPerCore),
        arena_(pipe, kUbBytes) {}

  // S2 is one step ahead, as S1 of the cube is.
  __aicore__ inline void Run() {
    const uint32_t steps = plan_.Steps();
    if (steps > 0) {
      Quantise(0);
    }
    for (uint32_t step = 0; step < steps; ++step) {
      if (step + 1 < steps) {
        Quantise(step + 1);
      }
      Outputs(step);
    }
  }

 private:
  static constexpr uint32_t kMostValues = 128 * kVHeadDim;  // values of a token with the most heads, 128
  static constexpr uint32_t kHalfLanes = 128;               // 2-byte values of one repeat
  static constexpr uint32_t kMaskValues = 2048;             // copies of the mask of bits, because And takes no scalar
  static constexpr uint32_t kMostRepeats = 128;             // repeats of one instruction, which takes 255
  static constexpr uint32_t kRows = 64;                     // rows of sums at a time: 16 KiB
  static constexpr uint32_t kSumsInSlot = kRows * kBlockColumns;
  static constexpr uint32_t kInSlots = 3, kOutSlots = 3;

  // Flags of events between two pipes: kSlotFlag is the first one of the slots, kWaitFlag is for waits that follow at
  // once.
  static constexpr int32_t kWaitFlag = 2, kSlotFlag = 3;

  // Starts a phase with all of UB: nothing of the phase before is under way.
  __aicore__ inline void BeginPhase() {
    PipeBarrier<PIPE_ALL>();
    arena_.Reset();
  }

  // S2 (2) quantisation by token, over all heads; tokens are dealt to all AIVs
  __aicore__ MS_DSV32_NOINLINE void Quantise(uint32_t step) {
    const uint32_t vectors = kVectorsPerCore * plan_.Tiling().cores, k = plan_.K();
    const uint32_t begin = ShareBegin(plan_.Tokens(step), vector_, vectors);
    const uint32_t end = ShareBegin(plan_.Tokens(step), vector_ + 1, vectors);
    BeginPhase();
    const LocalTensor<bfloat16_t> raw = arena_.Take<bfloat16_t>(2 * kMostValues);
    const LocalTensor<float> x = arena_.Take<float>(kMostValues);
    const LocalTensor<int16_t> work = arena_.Take<int16_t>(kMostValues);
    const LocalTensor<int8_t> quantised = arena_.Take<int8_t>(kMostValues);
    const LocalTensor<int16_t> magnitude = arena_.Take<int16_t>(kMaskValues);
    const LocalTensor<float> scalars = arena_.Take<float>(2 * kLanes);
    const LocalTensor<float> blocks = arena_.Take<float>(kLanes);
    const LocalTensor<float> scale_blocks = arena_.Take<float>(kEpilogRows * 8);  // with one core, half of the tokens
    Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kSlotFlag> in_slots;
    Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kSlotFlag, 1> out_slots;
    in_slots.Begin();
    out_slots.Begin();
    Duplicate(magnitude, static_cast<int16_t>(0x7fff), static_cast<int32_t>(kMaskValues));
    PipeBarrier<PIPE_V>();
    AwaitCore(kHeadsDone);
    AwaitAllVectors(kAllHeads);
    const GlobalTensor<bfloat16_t> values = plan_.Values(step);
    if (begin < end) {
      CopyIn(raw[in_slots.Acquire() * kMostValues], values[static_cast<uint64_t>(begin) * k], k);
      in_slots.Publish();
    }
    for (uint32_t token = begin; token < end; ++token) {
      if (token + 1 < end) {
        CopyIn(raw[in_slots.Acquire() * kMostValues], values[static_cast<uint64_t>(token + 1) * k], k);
        in_slots.Publish();
      }
      const LocalTensor<bfloat16_t> of_token = raw[in_slots.Take() * kMostValues];
      Cast(x, of_token, RoundMode::CAST_NONE, k);
      LargestMagnitude(scalars, work, of_token, magnitude, k);
      in_slots.Release();
      const LocalTensor<float> scale = scale_blocks[(token - begin) * 8];
      QuantRow(quantised, scale, x, work.ReinterpretCast<half>(), scalars, blocks, k, out_slots);
      out_slots.Publish();
      out_slots.Take();
      CopyOut(plan_.Quantised(step)[static_cast<uint64_t>(token) * k], quantised, k);
      if (token + 1 == end) {
        CopyRowsOut(plan_.Scales(step)[begin], scale_blocks, end - begin, 1, 1, 8);
      }
      out_slots.Release();
    }
    in_slots.End();
    out_slots.End();
    AwaitAllVectors(kAllQuantised);
    NotifyCube(kQuantised);
  }

  // largest[64] = max |x| of `count` bfloat16 values. The search compares bits, which takes half as long as comparing
  // floats: without signs, bits are ordered as values are, and a NaN comes above all. Destroys `work`, which has the
  // size of x.
  __aicore__ inline void LargestMagnitude(const LocalTensor<float>& largest, const LocalTensor<int16_t>& work,
                                          const LocalTensor<bfloat16_t>& x, const LocalTensor<int16_t>& magnitude,
                                          uint32_t count) {
    const LocalTensor<int16_t> bits = x.ReinterpretCast<int16_t>();
    for (uint32_t at = 0; at < count; at += kMaskValues) {
      And(work[at], bits[at], magnitude, static_cast<int32_t>(Min(kMaskValues, count - at)));
    }
    PipeBarrier<PIPE_V>();
    for (uint32_t parts = count / kHalfLanes; parts > 1;) {
      const uint32_t half = parts / 2;
      AscendC::Max(work, work, work[(parts - half) * kHalfLanes], static_cast<int32_t>(half * kHalfLanes));
      PipeBarrier<PIPE_V>();
      parts -= half;
    }
    Cast(largest, work.ReinterpretCast<bfloat16_t>(), RoundMode::CAST_NONE, kHalfLanes);
    PipeBarrier<PIPE_V>();
    AscendC::Max(largest, largest, largest[kLanes], static_cast<int32_t>(kLanes));
    PipeBarrier<PIPE_V>();
    WholeReduceMax(largest[kLanes], largest, static_cast<int32_t>(kLanes), 1, 1, 1, 8, ReduceOrder::ORDER_ONLY_VALUE);
    PipeBarrier<PIPE_V>();
  }

  // amax = max(largest[64], 1e-30), q = int8(rint(x * (127 / amax))), scale[0] = 1 / (127 / amax). This is QuantRows
  // for one row of `count` values, a number that is known only at the launch. Destroys x. `halves` has its size.
  template <typename Slots>
  __aicore__ inline void QuantRow(const LocalTensor<int8_t>& q, const LocalTensor<float>& scale,
                                  const LocalTensor<float>& x, const LocalTensor<half>& halves,
                                  const LocalTensor<float>& largest, const LocalTensor<float>& blocks, uint32_t count,
                                  Slots& out_slots) {
    const LocalTensor<float> constant = largest, factor = largest[kLanes];
    Maxs(factor, factor, 1e-30f, 8);
    Duplicate(constant, 127.0f, 8);
    PipeBarrier<PIPE_V>();
    Div(factor, constant, factor, 8);
    PipeBarrier<PIPE_V>();
    Duplicate(constant, 1.0f, 8);
    PipeBarrier<PIPE_V>();
    SpreadScalars(blocks, factor, 8);
    for (uint32_t at = 0; at < count; at += kMostRepeats * kLanes) {
      MulOp::Apply(x[at], blocks, static_cast<uint8_t>(Min(kMostRepeats, (count - at) / kLanes)),
                   BinaryRepeatParams(1, 1, 0, 8, 8, 0));
    }
    PipeBarrier<PIPE_V>();
    const LocalTensor<int32_t> integers = x.ReinterpretCast<int32_t>();
    Cast(integers, x, RoundMode::CAST_RINT, count);
    PipeBarrier<PIPE_V>();
    SetDeqScale(static_cast<half>(1.0f));
    Cast(halves, integers, RoundMode::CAST_NONE, count);
    PipeBarrier<PIPE_V>();
    out_slots.Acquire();
    Div(scale, constant, factor, 8);
    Cast(q, halves, RoundMode::CAST_TRUNC, count);
    PipeBarrier<PIPE_V>();
  }

  // S4 (3) dequantisation. Both AIVs work on a core's own columns: AIV 0 on the first half of the tokens, AIV 1 on the
  // second.
  __aicore__ MS_DSV32_NOINLINE void Outputs(uint32_t step) {
    const uint32_t m = plan_.Tokens(step), middle = CeilDiv(m, kVectorsPerCore);
    const uint32_t begin = sub_ == 0 ? 0 : middle, end = sub_ == 0 ? middle : m;
    const EpilogTiling& tiling = plan_.Tiling();
    BeginPhase();
    in_ = arena_.Take<int32_t>(kInSlots * kSumsInSlot);
    out_ = arena_.Take<bfloat16_t>(kOutSlots * kSumsInSlot);
    sum_ = arena_.Take<int32_t>(kSumsInSlot);
    raw_scales_ = arena_.Take<float>(kEpilogRows);
    token_blocks_ = arena_.Take<float>(kEpilogRows * 8);
    piece_blocks_ = arena_.Take<float>(kEpilogRows * 8);
    piece_channel_ = arena_.Take<float>(kBlockColumns);
    channel_ = arena_.Take<float>(kGroups * kGroupColumns);
    const GlobalTensor<float> channel_scale = Global<float>(a_.w_o_scale, kH);
    if (plan_.Groups() > 0) {
      CopyIn(channel_, channel_scale[plan_.FirstGroup() * kGroupColumns], plan_.Groups() * kGroupColumns);
    }
    CopyIn(piece_channel_, channel_scale[plan_.PieceGroup() * kGroupColumns], kGroupColumns);
    LoadTokenBlocks(token_blocks_, step, begin, end);
    in_slots_.Begin();
    out_slots_.Begin();
    if (tiling.shared_groups > 0) {
      SharedGroup(step);
    }
    for (uint32_t block = 0; block < plan_.OwnBlocks(); ++block) {
      if (block % plan_.PartBlocks() == 0) {
        AwaitCore(kColumnsSummed);
      }
      const uint32_t columns = Min(kBlockGroups, plan_.Groups() - block * kBlockGroups) * kGroupColumns;
      for (uint32_t row = begin; row < end; row += kRows) {
        const uint32_t rows = Min(kRows, end - row);
        const LocalTensor<int32_t> sums = in_[in_slots_.Acquire() * kSumsInSlot];
        CopyRowsIn(sums, plan_.Sums(step, plan_.Core(), block)[row * kBlockColumns], rows, columns, kBlockColumns,
                   kBlockColumns);
        in_slots_.Publish();
        in_slots_.Take();
        Store(step, row, plan_.FirstGroup() + block * kBlockGroups, columns,
              DequantRows<kBlockColumns>(sums, token_blocks_[(row - begin) * 8], channel_[block * kBlockColumns], rows),
              rows);
        in_slots_.Release();
      }
    }
    in_slots_.End();
    out_slots_.End();
  }

  // Loads the scales of tokens [begin, end) of a step as blocks. Waits for all copies that MTE2 has under way.
  __aicore__ MS_DSV32_NOINLINE void LoadTokenBlocks(const LocalTensor<float>& blocks, uint32_t step, uint32_t begin,
                                                    uint32_t end) {
    if (begin == end) {
      return;
    }
    WaitPipe<HardEvent::V_MTE2>(kWaitFlag);
    CopyIn(raw_scales_, plan_.Scales(step)[begin], end - begin);
    WaitPipe<HardEvent::MTE2_V>(kWaitFlag);
    SpreadScalars(blocks, raw_scales_, end - begin);
  }

  // S4 of the group that this core has a piece of, if it has one. The AIVs of all cores that have a piece of the group
  // share its tokens.
  __aicore__ MS_DSV32_NOINLINE void SharedGroup(uint32_t step) {
    const EpilogTiling& tiling = plan_.Tiling();
    const bool has_piece = plan_.PieceSpans(plan_.Core()) > 0;
    if (has_piece) {
      AwaitCore(kPieceSummed);
    }
    AwaitAllVectors(kAllPieces);
    if (!has_piece) {
      return;
    }
    uint32_t sharers = 0, own = 0;
    for (uint32_t core = 0; core < tiling.cores; ++core) {
      if (SharesWith(core)) {
        own = core < plan_.Core() ? own + 1 : own;
        ++sharers;
      }
    }
    const uint32_t part = kVectorsPerCore * own + sub_, parts = kVectorsPerCore * sharers;
    const uint32_t begin = ShareBegin(plan_.Tokens(step), part, parts);
    const uint32_t end = ShareBegin(plan_.Tokens(step), part + 1, parts);
    LoadTokenBlocks(piece_blocks_, step, begin, end);
    for (uint32_t row = begin; row < end; row += kRows) {
      const uint32_t rows = Min(kRows, end - row);
      bool first = true;
      for (uint32_t core = 0; core < tiling.cores; ++core) {
        if (!SharesWith(core)) {
          continue;
        }
        const LocalTensor<int32_t> sums = in_[in_slots_.Acquire() * kSumsInSlot];
        CopyRowsIn(sums, plan_.PieceSums(step, core)[row * kBlockColumns], rows, kGroupColumns, kBlockColumns,
                   kBlockColumns);
        in_slots_.Publish();
        in_slots_.Take();
        // Rows have room for two groups, and hold one.
        if (first) {
          DataCopy(sum_, sums, rows * kBlockColumns);
        } else {
          Add(sum_, sum_, sums, static_cast<uint64_t>(kGroupColumns), static_cast<uint8_t>(rows),
              BinaryRepeatParams(1, 1, 1, kBlockColumns / 8, kBlockColumns / 8, kBlockColumns / 8));
        }
        PipeBarrier<PIPE_V>();
        in_slots_.Release();
        first = false;
      }
      Store(step, row, plan_.PieceGroup(), kGroupColumns,
            DequantRows<kBlockColumns>(sum_, piece_blocks_[(row - begin) * 8], piece_channel_, rows), rows);
    }
  }
  __aicore__ inline bool SharesWith(uint32_t core) const {
    return plan_.PieceSpans(core) > 0 && plan_.Tiling().pieces[core].group == plan_.PieceGroup();
  }

  // Rounds rows of a block of columns, and copies the first `columns` of each to the result.
  __aicore__ MS_DSV32_NOINLINE void Store(uint32_t step, uint32_t row, uint32_t group, uint32_t columns,
                                          const LocalTensor<float>& x, uint32_t rows) {
    const LocalTensor<bfloat16_t> out = out_[out_slots_.Acquire() * kSumsInSlot];
    Cast(out, x, RoundMode::CAST_RINT, rows * kBlockColumns);
    PipeBarrier<PIPE_V>();
    out_slots_.Publish();
    out_slots_.Take();
    const uint64_t token = static_cast<uint64_t>(step) * plan_.Tiling().token_step + row;
    CopyRowsOut(Global<bfloat16_t>(a_.hidden_out,
                                   static_cast<uint64_t>(plan_.Tiling().t) * kH)[token * kH + group * kGroupColumns],
                out, rows, columns, kH, kBlockColumns);
    out_slots_.Release();
  }

  EpilogArguments a_;
  uint32_t vector_, sub_;
  EpilogPlan plan_;
  UbArena arena_;

  Ring<HardEvent::MTE2_V, HardEvent::V_MTE2, kSlotFlag, kInSlots> in_slots_;
  Ring<HardEvent::V_MTE3, HardEvent::MTE3_V, kSlotFlag, kOutSlots> out_slots_;
  LocalTensor<int32_t> in_, sum_;
  LocalTensor<bfloat16_t> out_;
  LocalTensor<float> raw_scales_, token_blocks_, piece_blocks_, piece_channel_, channel_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_EPILOG_VECTOR_H_
