// Tiling of the three prologs: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_PROLOG_MAKE_TILING_H_
#define MS_DSV32_ASCENDC_PROLOG_MAKE_TILING_H_

#include <algorithm>

#include "ms_dsv32/kernel_impl/ascendc/op_host/platform.h"
#include "ms_dsv32/kernel_impl/ascendc/op_kernel/prolog_tiling.h"

namespace ms_dsv32::ascendc {

struct PrologShape {
  uint32_t t, n_q;      // n_q is 0 without the MLA half
  uint64_t cache_rows;  // block_num * block_size
  bool mla, indexer;
  float epsilon_cq, epsilon_ckv, epsilon_k;
};

// Deals `count` things of `bytes` each to the cores from `first` on. Each goes to the core with the least load, the
// first one of several.
constexpr void Deal(uint32_t count, uint32_t bytes, uint32_t cores, uint32_t (&load)[kMostCores], PrologShares& shares,
                    uint32_t first = 0) {
  uint16_t counts[kMostCores] = {};
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t least = first;
    for (uint32_t core = first + 1; core < cores; ++core) {
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
  if (const char* refusal = shape.mla ? HeadsRefusal(shape.n_q) : nullptr) return refusal;
  if (const char* refusal = StreamRefusal(shape.t, platform)) return refusal;
  tiling = PrologTiling{};
  tiling.cores = shape.t == 0 ? 1 : std::min(platform.cores, kMostCores);
  tiling.t = shape.t;
  tiling.n_q = shape.mla ? shape.n_q : 0;
  tiling.token_step = std::min(kMaxTokenStep, tiling::RoundUp(shape.t == 0 ? 1 : shape.t, 16));
  tiling.cache_rows = shape.cache_rows;
  tiling.epsilon_cq = shape.epsilon_cq;
  tiling.epsilon_ckv = shape.epsilon_ckv;
  tiling.epsilon_k = shape.epsilon_k;

  // L1. Weights that are under way hide latencies and the waits for other cores, so they have several slots: four long
  // ones if the tokens leave room. If they leave no room for x even beside three, three chunks of x have the place that
  // the latents have between two S1, and there are five short slots. Two chunks of weights then use one chunk of x, so
  // the chunk of x that the next one replaces has had its second use when a slot of weights is free.
  const uint32_t rows = tiling.token_step;
  tiling.query_l1 = rows * kQLoraRank;
  tiling.stream_bytes = kPassUnits * kUnitColumns * kXChunk * 2;
  const uint32_t fixed = tiling.query_l1 + rows * kQkNopeHeadDim * 2;
  for (uint32_t slots = 4; slots >= 3 && tiling.stream_slots == 0; --slots) {
    const uint32_t left = fixed + slots * rows * kXChunk * 2;
    if (left + slots * tiling.stream_bytes > platform.l1) continue;
    tiling.x_l1 = fixed;
    tiling.left_bytes = left;
    tiling.stream_slots = slots;
  }
  if (tiling.stream_slots == 0) {
    tiling.x_l1 = 0;
    tiling.left_bytes = fixed;
    tiling.stream_slots = 5;
    tiling.stream_bytes /= 2;
  }
  tiling.x_slots = tiling.stream_slots == 5 ? 3 : tiling.stream_slots;

  // With several steps and without the MLA half, weights come from L2, and to read a part of x takes as long as two
  // heads. So kProjectParts cores do only S1. Each has a part of K with all columns, and reads its part of x once,
  // which gives its cube as much work as three heads. On 20 cores and more the others then have at most four heads a
  // step. A second operand of S5 and the Hadamard matrix take the place of a slot. The remaining four hold all weights
  // of a head.
  if (!shape.mla && shape.t > tiling.token_step && tiling.cores >= 5 * kProjectParts) {
    tiling.projectors = kProjectParts;
    tiling.left_bytes = fixed + rows * kQkNopeHeadDim * 2 + kIdxHeadDim * kIdxHeadDim * 2;
    tiling.stream_slots = 4;
  }

  const uint64_t step = tiling.token_step;
  tiling.latent_offset = 0;
  tiling.key_value_offset = tiling.latent_offset + (shape.mla ? tiling::AlignLine(step * kQLoraRank * 4) : 0);
  tiling.index_key_offset = tiling.key_value_offset + (shape.mla ? tiling::AlignLine(step * kKeyDim * 4) : 0);
  tiling.weights_offset = tiling.index_key_offset + (shape.indexer ? tiling::AlignLine(step * kIdxHeadDim * 4) : 0);
  tiling.part_bytes = tiling.weights_offset + (shape.indexer ? tiling::AlignLine(step * kIdxNHeads * 4) : 0);
  tiling.step_bytes = kProjectParts * tiling.part_bytes;

  const bool fused = shape.mla && shape.indexer;
  tiling.q_norm_offset = kStepSlots * tiling.step_bytes;
  tiling.q_norm_scale_offset = tiling.q_norm_offset + (fused ? tiling::AlignLine(uint64_t{shape.t} * kQLoraRank) : 0);
  tiling.head_offset = tiling.q_norm_scale_offset + (fused ? tiling::AlignLine(uint64_t{shape.t} * 4) : 0);

  tiling.query_offset = tiling::AlignLine(step * kQkNopeHeadDim * 4);
  tiling.turned_offset = tiling.query_offset + tiling::AlignLine(step * kQkNopeHeadDim * 2);
  tiling.head_bytes = tiling.turned_offset + (shape.indexer ? tiling::AlignLine(step * kIdxHeadDim * 2) : 0);
  tiling.workspace_bytes = tiling.head_offset + uint64_t{tiling.cores} * kHeadSlots * tiling.head_bytes;

  // A core waits for its weights, and at 128 tokens the cube needs about a cycle for 64 bytes of any of them, so bytes
  // are dealt. The projections end with a wait for all cores, so they are dealt by themselves. Without the MLA half
  // nothing waits for them, and they go where the heads leave cores less to do.
  uint32_t load[kMostCores] = {};
  const uint32_t columns = (shape.mla ? kQLoraRank + kKeyDim : 0) + (shape.indexer ? kIdxHeadDim + kIdxNHeads : 0);
  if (tiling.projectors > 0) {
    for (uint32_t deal = 0; deal < kDeals; ++deal) {
      // The weights of the first step come from HBM and take twice as long. The second step makes up for that. From
      // then on all heads count alike. A sixteenth more for the first ones puts a core that had more of them last in
      // line for more of the others.
      const uint32_t bytes = kIdxHeadDim * kQLoraRank;
      Deal(kIdxNHeads, deal == 0 ? 2 * bytes + bytes / 16 : bytes, tiling.cores, load, tiling.indexer_heads[deal],
           tiling.projectors);
      for (uint32_t core = 0; deal == 1 && core < tiling.cores; ++core) {
        load[core] -= (tiling.indexer_heads[0].begin[core + 1] - tiling.indexer_heads[0].begin[core]) * bytes;
      }
    }
    for (uint32_t core = 0; core < tiling.cores; ++core) {
      tiling.units.begin[core + 1] =
          static_cast<uint16_t>(std::min(core + 1, tiling.projectors) * (columns / kUnitColumns));
    }
    return nullptr;
  }
  Deal(tiling.n_q, kQkNopeHeadDim * (kQLoraRank + kKvLoraRank * 2), tiling.cores, load, tiling.nopes);
  Deal(shape.indexer ? kIdxNHeads : 0, kIdxHeadDim * kQLoraRank, tiling.cores, load, tiling.indexer_heads[0]);
  for (uint32_t deal = 1; deal < kDeals; ++deal) {
    tiling.indexer_heads[deal] = tiling.indexer_heads[0];
  }
  Deal(tiling.n_q, kRopeDim * kQLoraRank, tiling.cores, load, tiling.ropes);
  if (shape.mla) {
    for (uint32_t& bytes : load) bytes = 0;
  }
  Deal(columns / kUnitColumns * kProjectParts, kPartRows * kUnitColumns * 2, tiling.cores, load, tiling.units);
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_PROLOG_MAKE_TILING_H_
