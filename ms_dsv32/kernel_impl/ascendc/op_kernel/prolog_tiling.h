// Tiling data that the three prologs share, and the numbers that their kernels and their tiling function share.
#ifndef MS_DSV32_ASCENDC_PROLOG_TILING_H_
#define MS_DSV32_ASCENDC_PROLOG_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Tokens of one step: an accumulator of 128 x 128 is one half of L0C.
constexpr uint32_t kMaxTokenStep = 128;
// K of the projections of x is split for the cores, so that a core reads this part of x only, for more columns. Each
// part is a sum of its own, and the parts are added in their order: one division of K for every shape and operator, for
// the fused operator must have the bits of the pair.
constexpr uint32_t kProjectParts = 4;
constexpr uint32_t kPartRows = kH / kProjectParts;
constexpr uint32_t kXChunk = 256;      // K of one copy of x: 512 bytes of a row
constexpr uint32_t kUnitColumns = 16;  // columns of an NZ weight in bfloat16 that lie together: the projections' unit
constexpr uint32_t kPassUnits = 12;    // units whose accumulators of 128 tokens fit into L0C
// Sums of S1 of a step, which AIVs of all cores read: a core may be three steps ahead of the slowest of them.
constexpr uint32_t kStepSlots = 4;
// Items of a core that are between the cube and the vector units.
constexpr uint32_t kHeadSlots = 5;
// Step s deals the indexer's heads as deal s % kDeals says. 64 heads do not go evenly to 20 cores, five times 64 do.
constexpr uint32_t kDeals = 5;
// More AI cores than any device of arch 2201 has. A multiple of 4, less 1, for the alignment of PrologTiling.
constexpr uint32_t kMostCores = 31;

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
  // L1 of an AIC: left operands, from the begin the quantised latents of a step, at query_l1 the operand of S5 and at
  // x_l1 x_slots chunks of x, which is 0 where they have the place of the latents; and stream_slots slots of
  // stream_bytes for what streams.
  uint32_t query_l1, x_l1, x_slots, left_bytes, stream_slots, stream_bytes;
  uint32_t projectors;  // the first cores that have S1 to themselves, and no items; 0 where all cores share both
  // Results of the projections of x, of one step, kProjectParts times: fp32 [token_step, 1536], [token_step, 576],
  // [token_step, 128], [token_step, 64]. part_bytes leads to the next part, step_bytes to the next of kStepSlots slots.
  uint64_t latent_offset, key_value_offset, index_key_offset, weights_offset, part_bytes, step_bytes;
  // Where the fused operator keeps what mla_prolog_quant returns: int8 [t, 1536], fp32 [t].
  uint64_t q_norm_offset, q_norm_scale_offset;
  // From head_offset on, of each core kHeadSlots times: int32 [token_step, 128] and, query_offset and turned_offset
  // behind it, bf16 [token_step, 128] before and after the Hadamard product.
  uint64_t head_offset, query_offset, turned_offset, head_bytes;
  uint64_t workspace_bytes;
  // Units of the projections, kProjectParts times, and the items of S3: nope and rope parts of the MLA heads, indexer
  // heads.
  PrologShares units, nopes, ropes, indexer_heads[kDeals];
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_TILING_H_
