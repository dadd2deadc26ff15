// Tiling that the three prologs share: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_PROLOG_TILING_H_
#define MS_DSV32_ASCENDC_PROLOG_TILING_H_

#include "dims.h"
#include "platform.h"

namespace ms_dsv32::ascendc {

// Tokens of one step. 128 x 1536 bytes of quantised latents and two 128 x 128 tiles of bfloat16 are the 256 KiB of L1
// that a kernel keeps left operands in; an accumulator of 128 x 128 is one half of L0C.
constexpr uint32_t kMaxTokenStep = 128;
// Results of a step that other cores read: while they are read, the next step's are written to the other slot.
constexpr uint32_t kStepSlots = 2;
// Heads of a core that are between the cube and the vector units.
constexpr uint32_t kHeadSlots = 2;

struct PrologShape {
  uint32_t t, n_q;      // n_q is 0 without the MLA half
  uint64_t cache_rows;  // block_num * block_size
  bool mla, indexer;
  float epsilon_cq, epsilon_ckv, epsilon_k;
};

// All offsets and sizes of the workspace are in bytes.
struct PrologTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, n_q, token_step;
  uint64_t cache_rows;
  float epsilon_cq, epsilon_ckv, epsilon_k;
  uint32_t reserved;
  // Results of the projections of x, of one step: bf16 [token_step, 1536], bf16 [token_step, 576], fp32 [token_step,
  // 128], bf16 [token_step, 64]. step_bytes leads to the next of kStepSlots slots.
  uint64_t latent_offset, key_value_offset, index_key_offset, weights_offset, step_bytes;
  // Where the fused operator keeps what mla_prolog_quant returns: int8 [t, 1536], fp32 [t].
  uint64_t q_norm_offset, q_norm_scale_offset;
  // From head_offset on, of each core kHeadSlots times: int32 [token_step, 192] and, query_offset and turned_offset
  // behind it, bf16 [token_step, 128] before and after the Hadamard product.
  uint64_t head_offset, query_offset, turned_offset, head_bytes;
  uint64_t workspace_bytes;
};

constexpr uint64_t AlignLine(uint64_t bytes) { return (bytes + 511) / 512 * 512; }  // GM lines have 512 bytes

// Fills `tiling`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakePrologTiling(const PrologShape& shape, const Platform& platform, PrologTiling& tiling) {
  if (platform.cores < 1) return "the device has no AI core";
  if (shape.mla && (shape.n_q < 1 || shape.n_q > 128)) return "n_q must be in [1, 128]";
  if (shape.t > 65536) return "t must be at most 65536: a call is one workspace";
  if (platform.l1 < 458752) return "L1 must hold 458752 bytes: left operands of 128 tokens and two slots of weights";
  if (platform.l0a < 65536 || platform.l0b < 65536) return "L0A and L0B must hold two slots of 32768 bytes";
  if (platform.l0c < 131072) return "L0C must hold two accumulators of 128 x 128";
  if (platform.ub < 196352) return "UB must hold 196352 bytes";
  tiling = PrologTiling{};
  tiling.cores = shape.t == 0 ? 1 : platform.cores;
  tiling.t = shape.t;
  tiling.n_q = shape.mla ? shape.n_q : 0;
  tiling.token_step = tiling::Smaller(kMaxTokenStep, tiling::RoundUp(shape.t, 16));
  tiling.cache_rows = shape.cache_rows;
  tiling.epsilon_cq = shape.epsilon_cq;
  tiling.epsilon_ckv = shape.epsilon_ckv;
  tiling.epsilon_k = shape.epsilon_k;

  const uint64_t step = tiling.token_step;
  tiling.latent_offset = 0;
  tiling.key_value_offset = tiling.latent_offset + (shape.mla ? AlignLine(step * kQLoraRank * 2) : 0);
  tiling.index_key_offset = tiling.key_value_offset + (shape.mla ? AlignLine(step * kLatentDim * 2) : 0);
  tiling.weights_offset = tiling.index_key_offset + (shape.indexer ? AlignLine(step * kIdxHeadDim * 4) : 0);
  tiling.step_bytes = tiling.weights_offset + (shape.indexer ? AlignLine(step * kIdxNHeads * 2) : 0);

  const bool fused = shape.mla && shape.indexer;
  tiling.q_norm_offset = kStepSlots * tiling.step_bytes;
  tiling.q_norm_scale_offset = tiling.q_norm_offset + (fused ? AlignLine(uint64_t{shape.t} * kQLoraRank) : 0);
  tiling.head_offset = tiling.q_norm_scale_offset + (fused ? AlignLine(uint64_t{shape.t} * 4) : 0);

  tiling.query_offset = AlignLine(step * kQHeadDim * 4);
  tiling.turned_offset = tiling.query_offset + AlignLine(step * kNopeDim * 2);
  tiling.head_bytes = tiling.turned_offset + (shape.indexer ? AlignLine(step * kIdxHeadDim * 2) : 0);
  tiling.workspace_bytes = tiling.head_offset + uint64_t{tiling.cores} * kHeadSlots * tiling.head_bytes;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_TILING_H_
