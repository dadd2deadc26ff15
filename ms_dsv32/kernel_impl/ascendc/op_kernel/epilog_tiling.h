// Tiling data of mla_epilog_quant, and the numbers that its kernel and its tiling function share.
#ifndef MS_DSV32_ASCENDC_EPILOG_TILING_H_
#define MS_DSV32_ASCENDC_EPILOG_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Tokens of one step. All weights are read once a step, so more tokens are better. 1024 values of each of 256 tokens
// take half of L1.
constexpr uint32_t kEpilogTokens = 256;
// Tokens of one accumulator: 128 x 128 of the heads' values fill one half of L0C, 128 x 64 of the outputs a quarter.
constexpr uint32_t kEpilogRows = 128;
// Columns of w_o are dealt in groups that FRACTAL_NZ keeps together (c0 of int8), and multiplied in blocks of two.
constexpr uint32_t kGroupColumns = 32;
constexpr uint32_t kGroups = kH / kGroupColumns;
constexpr uint32_t kBlockGroups = 2;
constexpr uint32_t kBlockColumns = kBlockGroups * kGroupColumns;
// K of w_o that a core goes through with all of its columns while the left operand stays in L1. The sums of such a span
// are added to those in the workspace. int32 sums are exact, so the result does not depend on their order or on the
// division of K.
constexpr uint32_t kSpanRows = 1024;
// Slots for the weights that stream, and places for their left operands, at most.
constexpr uint32_t kMostWeightSlots = 7;
constexpr uint32_t kMostLeftPlaces = 8;
// Bytes of a row of w_uv's 128 columns. A slot's bytes divided by it are the K of a slot of w_uv. A slot of w_o's
// blocks has four times that K.
constexpr uint32_t kHeadRowBytes = kVHeadDim * 2;
// The last span is handed to the vector units in so many parts at most. The parts of two steps that follow each other
// stay below the 15 that a CrossCore flag counts.
constexpr uint32_t kMostParts = 6;
// A part of K of one group that several cores share: spans [begin, end) of group `group`; none if they are equal.
struct EpilogPiece {
  uint16_t group;
  uint8_t begin, end;
};

// All offsets and sizes are in bytes.
struct EpilogTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, n_q, token_step;
  // L1 of an AIC: left_bytes of places for left operands, and `slots` slots of slot_bytes for weights. The heads'
  // values divide left_bytes into head_places, the output's int8 values into output_places.
  uint32_t left_bytes, head_places, output_places, slots, slot_bytes;
  uint32_t shared_groups;  // so many groups, the last ones, are shared: several cores have a piece of each
  // The workspace has step_bytes for each of two steps: values bf16 [token_step, n_q * 128], the same quantised to
  // int8, their scales fp32 [token_step], and for each core sums_bytes with its blocks int32 [token_step, 64].
  uint64_t quantised_offset, scale_offset, sums_offset, sums_bytes, step_bytes, workspace_bytes;
  // Groups [groups[core], groups[core + 1]) are a core's own; its piece comes beside them.
  uint16_t groups[kMostCores + 1];
  EpilogPiece pieces[kMostCores + 1];
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_EPILOG_TILING_H_
