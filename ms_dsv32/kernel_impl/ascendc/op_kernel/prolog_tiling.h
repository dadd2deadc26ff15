// Tiling data that the three prologs share, and the numbers that their kernels and their tiling function share.
#ifndef MS_DSV32_ASCENDC_PROLOG_TILING_H_
#define MS_DSV32_ASCENDC_PROLOG_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Tokens of one step: an accumulator of 128 x 128 is one half of L0C.
constexpr uint32_t kMaxTokenStep = 128;
// K of the projections of x is split, so that a core reads only a part of x, for more columns. Each part is a sum of
// its own, and the parts are added in their order. K is divided alike for every shape and operator, because the fused
// operator must give the bits of the two single ones.
constexpr uint32_t kProjectParts = 4;
constexpr uint32_t kPartRows = kH / kProjectParts;
constexpr uint32_t kXChunk = 256;      // K of one copy of x: 512 bytes of a row
constexpr uint32_t kUnitColumns = 16;  // columns of an NZ weight in bfloat16 that lie together: the projections' unit
constexpr uint32_t kPassUnits = 12;    // units whose accumulators of 128 tokens fit into L0C
// Steps whose sums of S1 are in the workspace. AIVs of all cores read them, and a core may be three steps ahead of the
// slowest.
constexpr uint32_t kStepSlots = 4;
// Items of a core that are between the cube and the vector units at one time.
constexpr uint32_t kHeadSlots = 5;
// Step s deals the indexer's heads as deal s % kDeals says. 64 heads do not divide evenly among 20 cores; those of five
// steps, 320, do.
constexpr uint32_t kDeals = 5;
// What each core owns: [begin[core], begin[core + 1]).
struct PrologShares {
  uint16_t begin[kMostCores + 1];
};

// All offsets and sizes are in bytes.
struct PrologTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, n_q, token_step;
  uint64_t cache_rows;
  float epsilon_cq, epsilon_ckv, epsilon_k;
  // L1 of an AIC. First come left_bytes of left operands: at 0 the quantised latents of a step, at query_l1 the operand
  // of S5, and at x_l1 x_slots chunks of x. x_l1 is 0 where x shares the place of the latents. Then come stream_slots
  // slots of stream_bytes for the weights that stream.
  uint32_t query_l1, x_l1, x_slots, left_bytes, stream_slots, stream_bytes;
  uint32_t projectors;  // so many cores, the first ones, do only S1 and have no items; 0 where all cores do both
  // Results of the projections of x of one step, in kProjectParts parts: fp32 [token_step, 1536], [token_step, 576],
  // [token_step, 128], [token_step, 64]. part_bytes leads to the next part, step_bytes to the next of kStepSlots slots.
  uint64_t latent_offset, key_value_offset, index_key_offset, weights_offset, part_bytes, step_bytes;
  // Where the fused operator keeps what mla_prolog_quant returns: int8 [t, 1536], fp32 [t].
  uint64_t q_norm_offset, q_norm_scale_offset;
  // From head_offset on each core has kHeadSlots slots of head_bytes: at 0 int32 [token_step, 128], at query_offset and
  // turned_offset bf16 [token_step, 128] before and after the Hadamard product.
  uint64_t head_offset, query_offset, turned_offset, head_bytes;
  uint64_t workspace_bytes;
  // How the units of the projections, kProjectParts times each, and the items of S3 are dealt: nope and rope parts of
  // the MLA heads, and heads of the indexer.
  PrologShares units, nopes, ropes, indexer_heads[kDeals];
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_TILING_H_
