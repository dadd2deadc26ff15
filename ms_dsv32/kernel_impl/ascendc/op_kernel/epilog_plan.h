// What the cube and the vector half of mla_epilog_quant agree on: arguments, shares, workspace, flags.
//
// A step is up to 256 tokens. In each step
//   S1  cube    attention times w_uv, head by head, heads dealt to the cores             -> values
//   S2  vector  quantisation, tokens dealt to all AIVs                                   -> int8 values, scales
//   S3  cube    int8 values times a core's own columns of w_o, one span of K after the other; the first spans also
//               for a piece of a shared group's K                                       -> sums of the core
//   S4  vector  dequantisation: a core's AIVs share the tokens; the AIVs of a shared group's cores add its pieces
// All cores wait for one another before S2, before S3, and before S4 of the shared groups. Weights stream meanwhile,
// because S3 needs its left operand only after the first weights have come. S1 of step s + 1 comes before S3 of step s.
#ifndef MS_DSV32_ASCENDC_EPILOG_PLAN_H_
#define MS_DSV32_ASCENDC_EPILOG_PLAN_H_

#include "copy.h"
#include "epilog_tiling.h"
#include "sync.h"

namespace ms_dsv32::ascendc {

// CrossCore flags. An id is only ever used in one mode.
enum EpilogFlag : int64_t {
  kHeadsDone = 0,      // S1 of this core is done
  kQuantised = 1,      // S2 of all cores is done
  kPieceSummed = 2,    // S3 of this core's piece is done
  kColumnsSummed = 3,  // S3 of a part of this core's columns is done
  // kAll... are barriers of all AIVs.
  kAllHeads = 5,      // S1 of all cores is done
  kAllQuantised = 6,  // S2 of all AIVs is done
  kAllPieces = 7,     // S3 of all pieces is done
};

struct EpilogArguments {
  GmAddress attention_out, w_uv, w_o, w_o_scale, hidden_out;
  GmAddress workspace;  // after the part that CANN keeps for itself
};

// What one AI core has to do, and where it is in the workspace.
class EpilogPlan {
 public:
  __aicore__ inline EpilogPlan(GM_ADDR workspace, const EpilogTiling& tiling, uint32_t core)
      : t_(tiling),
        base_(workspace),
        core_(core),
        k_(tiling.n_q * kVHeadDim),
        spans_(CeilDiv(k_, kSpanRows)),
        steps_(CeilDiv(tiling.t, tiling.token_step)) {}
  __aicore__ inline const EpilogTiling& Tiling() const { return t_; }
  __aicore__ inline uint32_t Core() const { return core_; }
  __aicore__ inline uint32_t K() const { return k_; }
  __aicore__ inline uint32_t Steps() const { return steps_; }
  __aicore__ inline uint32_t Tokens(uint32_t step) const { return Min(t_.token_step, t_.t - step * t_.token_step); }

  __aicore__ inline uint32_t HeadBegin() const { return ShareBegin(t_.n_q, core_, t_.cores); }
  __aicore__ inline uint32_t HeadEnd() const { return ShareBegin(t_.n_q, core_ + 1, t_.cores); }

  // This core's own groups of columns, and their blocks.
  __aicore__ inline uint32_t FirstGroup() const { return t_.groups[core_]; }
  __aicore__ inline uint32_t Groups() const { return t_.groups[core_ + 1] - t_.groups[core_]; }
  __aicore__ inline uint32_t OwnBlocks() const { return CeilDiv(Groups(), kBlockGroups); }
  // A piece comes after the own groups: in their last block if that has room, else in one more block.
  __aicore__ inline uint32_t PieceSpans(uint32_t core) const { return t_.pieces[core].end - t_.pieces[core].begin; }
  __aicore__ inline uint32_t PieceGroup() const { return t_.pieces[core_].group; }

  // Spans in the core's own order, which begins with its piece.
  __aicore__ inline uint32_t Spans() const { return spans_; }
  __aicore__ inline uint32_t SpanBegin(uint32_t i) const { return (t_.pieces[core_].begin + i) % spans_ * kSpanRows; }
  __aicore__ inline uint32_t SpanRows(uint32_t i) const { return Min(kSpanRows, k_ - SpanBegin(i)); }
  __aicore__ inline uint32_t SpanGroups(uint32_t i) const { return Groups() + (i < PieceSpans(core_) ? 1 : 0); }
  __aicore__ inline uint32_t SpanBlocks(uint32_t i) const { return CeilDiv(SpanGroups(i), kBlockGroups); }

  // Blocks of a part of the last span that is handed to the AIVs at once.
  __aicore__ inline uint32_t PartBlocks() const { return CeilDiv(OwnBlocks(), kMostParts); }

  __aicore__ inline GlobalTensor<bfloat16_t> Values(uint32_t step) const {
    return Global<bfloat16_t>(Slot(step), static_cast<uint64_t>(t_.token_step) * k_);
  }
  __aicore__ inline GlobalTensor<int8_t> Quantised(uint32_t step) const {
    return Global<int8_t>(Slot(step) + t_.quantised_offset, static_cast<uint64_t>(t_.token_step) * k_);
  }
  __aicore__ inline GlobalTensor<float> Scales(uint32_t step) const {
    return Global<float>(Slot(step) + t_.scale_offset, t_.token_step);
  }
  // Sums [token_step, 64] of a block of a core. The sums of its piece are the columns after its last group.
  __aicore__ inline GlobalTensor<int32_t> Sums(uint32_t step, uint32_t core, uint32_t block) const {
    const uint32_t elements = t_.token_step * kBlockColumns;
    return Global<int32_t>(Slot(step) + t_.sums_offset + core * t_.sums_bytes + block * elements * 4, elements);
  }
  __aicore__ inline GlobalTensor<int32_t> PieceSums(uint32_t step, uint32_t core) const {
    const uint32_t place = t_.groups[core + 1] - t_.groups[core];
    return Sums(step, core, place / kBlockGroups)[place % kBlockGroups * kGroupColumns];
  }

 private:
  __aicore__ inline GM_ADDR Slot(uint32_t step) const { return base_ + step % 2 * t_.step_bytes; }

  EpilogTiling t_;
  GM_ADDR base_;
  uint32_t core_, k_, spans_, steps_;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_EPILOG_PLAN_H_
