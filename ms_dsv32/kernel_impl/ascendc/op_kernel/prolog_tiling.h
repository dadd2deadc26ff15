// Tiling that the three prologs share: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_PROLOG_TILING_H_
#define MS_DSV32_ASCENDC_PROLOG_TILING_H_

#include "dims.h"
#include "platform.h"

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
constexpr uint32_t kHeadSlots = 3;
// More AI cores than any device of arch 2201 has. A multiple of 4, less 1, for the alignment of PrologTiling.
constexpr uint32_t kMostCores = 31;

struct PrologShape {
  uint32_t t, n_q;      // n_q is 0 without the MLA half
  uint64_t cache_rows;  // block_num * block_size
  bool mla, indexer;
  float epsilon_cq, epsilon_ckv, epsilon_k;
};

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
  // x_l1 x_slots chunks of x; and stream_slots slots of stream_bytes for what streams.
  uint32_t query_l1, x_l1, x_slots, left_bytes, stream_slots, stream_bytes;
  uint32_t reserved;
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
  PrologShares units, nopes, ropes, indexer_heads;
};

constexpr uint64_t AlignLine(uint64_t bytes) { return (bytes + 511) / 512 * 512; }  // GM lines have 512 bytes

// Deals `count` things of `bytes` each: one after another to the core with the least load, in the order of the cores.
constexpr void Deal(uint32_t count, uint32_t bytes, uint32_t cores, uint32_t (&load)[kMostCores],
                    PrologShares& shares) {
  uint16_t counts[kMostCores] = {};
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t least = 0;
    for (uint32_t core = 1; core < cores; ++core) {
      if (load[core] < load[least]) least = core;
    }
    load[least] += bytes;
    ++counts[least];
  }
  shares.begin[0] = 0;
  for (uint32_t core = 0; core < cores; ++core) {
    shares.begin[core + 1] = static_cast<uint16_t>(shares.begin[core] + counts[core]);
  }
}

// Fills `tiling`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakePrologTiling(const PrologShape& shape, const Platform& platform, PrologTiling& tiling) {
  if (const char* refusal = Refusal(platform)) return refusal;
  if (shape.mla && (shape.n_q < 1 || shape.n_q > 128)) return "n_q must be in [1, 128]";
  if (shape.t > 65536) return "t must be at most 65536: a call is one workspace";
  if (platform.l1 < 507904) return "L1 must hold 507904 bytes: left operands of 128 tokens and three slots of weights";
  if (platform.l0a < 65536 || platform.l0b < 65536) return "L0A and L0B must hold two slots of 32768 bytes";
  if (platform.l0c < 131072) return "L0C must hold two accumulators of 128 x 128";
  if (platform.ub < 196352) return "UB must hold 196352 bytes";
  tiling = PrologTiling{};
  tiling.cores = shape.t == 0 ? 1 : tiling::Smaller(platform.cores, kMostCores);
  tiling.t = shape.t;
  tiling.n_q = shape.mla ? shape.n_q : 0;
  tiling.token_step = tiling::Smaller(kMaxTokenStep, tiling::RoundUp(shape.t == 0 ? 1 : shape.t, 16));
  tiling.cache_rows = shape.cache_rows;
  tiling.epsilon_cq = shape.epsilon_cq;
  tiling.epsilon_ckv = shape.epsilon_ckv;
  tiling.epsilon_k = shape.epsilon_k;

  // L1. More and longer slots for what streams where the tokens leave room: what is under way hides the waits for other
  // cores. A chunk of x is used by the two chunks of weights of the shorter slots, and must outlive the second one.
  const uint32_t rows = tiling.token_step;
  tiling.query_l1 = rows * kQLoraRank;
  tiling.x_l1 = tiling.query_l1 + rows * kNopeDim * 2;
  for (uint32_t k = kXChunk; k >= kXChunk / 2; k /= 2) {
    for (uint32_t slots = 4; slots >= 3 && tiling.stream_slots == 0; --slots) {
      const uint32_t x_slots = k == kXChunk ? slots : slots / 2 + 1;
      const uint32_t left = tiling.x_l1 + x_slots * rows * kXChunk * 2;
      const uint32_t bytes = kPassUnits * kUnitColumns * k * 2;
      if (left + slots * bytes > platform.l1) continue;
      tiling.x_slots = x_slots;
      tiling.left_bytes = left;
      tiling.stream_slots = slots;
      tiling.stream_bytes = bytes;
    }
  }

  const uint64_t step = tiling.token_step;
  tiling.latent_offset = 0;
  tiling.key_value_offset = tiling.latent_offset + (shape.mla ? AlignLine(step * kQLoraRank * 4) : 0);
  tiling.index_key_offset = tiling.key_value_offset + (shape.mla ? AlignLine(step * kLatentDim * 4) : 0);
  tiling.weights_offset = tiling.index_key_offset + (shape.indexer ? AlignLine(step * kIdxHeadDim * 4) : 0);
  tiling.part_bytes = tiling.weights_offset + (shape.indexer ? AlignLine(step * kIdxNHeads * 4) : 0);
  tiling.step_bytes = kProjectParts * tiling.part_bytes;

  const bool fused = shape.mla && shape.indexer;
  tiling.q_norm_offset = kStepSlots * tiling.step_bytes;
  tiling.q_norm_scale_offset = tiling.q_norm_offset + (fused ? AlignLine(uint64_t{shape.t} * kQLoraRank) : 0);
  tiling.head_offset = tiling.q_norm_scale_offset + (fused ? AlignLine(uint64_t{shape.t} * 4) : 0);

  tiling.query_offset = AlignLine(step * kNopeDim * 4);
  tiling.turned_offset = tiling.query_offset + AlignLine(step * kNopeDim * 2);
  tiling.head_bytes = tiling.turned_offset + (shape.indexer ? AlignLine(step * kIdxHeadDim * 2) : 0);
  tiling.workspace_bytes = tiling.head_offset + uint64_t{tiling.cores} * kHeadSlots * tiling.head_bytes;

  // Weights are what a core waits for, and at 128 tokens the cube needs about a cycle for 64 bytes of any of them, so
  // bytes are dealt. The projections end with a wait for all cores, and are dealt by themselves; without the MLA half
  // nothing waits, and they fill up what the heads leave uneven.
  uint32_t load[kMostCores] = {};
  Deal(tiling.n_q, kNopeDim * (kQLoraRank + kKvLoraRank * 2), tiling.cores, load, tiling.nopes);
  Deal(shape.indexer ? kIdxNHeads : 0, kIdxHeadDim * kQLoraRank, tiling.cores, load, tiling.indexer_heads);
  Deal(tiling.n_q, kRopeDim * kQLoraRank, tiling.cores, load, tiling.ropes);
  if (shape.mla) {
    for (uint32_t& bytes : load) bytes = 0;
  }
  const uint32_t columns = (shape.mla ? kQLoraRank + kLatentDim : 0) + (shape.indexer ? kIdxHeadDim + kIdxNHeads : 0);
  Deal(columns / kUnitColumns * kProjectParts, kPartRows * kUnitColumns * 2, tiling.cores, load, tiling.units);
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_TILING_H_
