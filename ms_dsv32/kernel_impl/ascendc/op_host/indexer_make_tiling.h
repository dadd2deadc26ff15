// Tiling of lightning_indexer_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_INDEXER_MAKE_TILING_H_
#define MS_DSV32_ASCENDC_INDEXER_MAKE_TILING_H_

#include <algorithm>

#include "ms_dsv32/kernel_impl/ascendc/op_host/platform.h"
#include "ms_dsv32/kernel_impl/ascendc/op_kernel/indexer_tiling.h"

namespace ms_dsv32::ascendc {

struct IndexerShape {
  uint32_t t, b, selected_count, block_num, block_size, max_blocknum_perbatch;
  bool ragged;  // with query_act_seqs
};

// The most units of a ragged call. It has them if all sequences but one have a single token.
constexpr uint32_t MostUnits(uint64_t t, uint64_t b) {
  const uint64_t units = (t + (kUnitTokens - 1) * b) / kUnitTokens;
  return static_cast<uint32_t>(b == 0 ? 0 : units < t ? units : t);
}

// The most lists of a ragged call. `shared` units have at most shared * (ceil(cores / shared) + 1) parts together. A
// part makes a list for each of up to kUnitTokens tokens, or kVectorsPerCore lists for a single token.
constexpr uint32_t MostLists(uint32_t cores) {
  uint32_t most = 0;
  for (uint32_t shared = 1; shared < cores; ++shared) {
    most = std::max(most, shared * (tiling::CeilDiv(cores, shared) + 1) * kUnitTokens);
  }
  return most;
}
static_assert(kVectorsPerCore <= kUnitTokens);

// Fills `out`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeIndexerTiling(const IndexerShape& shape, const Platform& platform, IndexerTiling& out) {
  if (const char* refusal = Refusal(platform)) return refusal;
  if (!shape.ragged && (shape.b == 0 ? shape.t != 0 : shape.t % shape.b != 0)) return "t must be a multiple of b";
  if (shape.selected_count < 1 || shape.selected_count > kMaxSelected) {
    return "selected_count must be in [1, 2048]: the running lists are held in UB";
  }
  if (shape.block_size < 1 || shape.block_size % 16 != 0) {
    return "block_size must be a multiple of 16: the scales of a block begin on 32 bytes of UB";
  }
  out = IndexerTiling{};
  out.t = shape.t;
  out.b = shape.b;
  out.ragged = shape.ragged ? 1 : 0;
  out.selected_count = shape.selected_count;
  out.block_num = shape.block_num;
  out.block_size = shape.block_size;
  out.max_blocknum_perbatch = shape.max_blocknum_perbatch;
  const uint64_t capacity = static_cast<uint64_t>(shape.max_blocknum_perbatch) * shape.block_size;
  uint32_t units = 0;
  if (shape.ragged) {
    units = MostUnits(shape.t, shape.b);
  } else {
    out.s1 = shape.b == 0 ? 0 : shape.t / shape.b;
    const uint32_t sequence_units = tiling::CeilDiv(out.s1, kUnitTokens);
    out.unit_tokens = out.s1 == 0 ? 1 : tiling::CeilDiv(out.s1, sequence_units);
    units = shape.b * sequence_units;
  }
  const uint64_t most = units * (capacity / kSharedKeys + 1);
  out.rounds = units / platform.cores;
  out.shared = units % platform.cores;
  out.sharers = most < platform.cores ? static_cast<uint32_t>(most) : platform.cores;
  out.cores = out.rounds > 0 ? platform.cores : std::min(out.sharers + (units == 0), platform.cores);
  // The AIVs of a core share the keys of a single token, and have a list each.
  uint32_t parts = 0;
  for (uint32_t unit = 0; unit < out.shared; ++unit) {
    const uint32_t first = unit * out.sharers / out.shared;
    const uint32_t end = tiling::CeilDiv((unit + 1) * out.sharers, out.shared);
    parts = std::max(parts, end - first);
  }
  out.lists = parts * (out.s1 == 1 ? kVectorsPerCore : 1);
  if (shape.ragged) out.lists = out.cores * kVectorsPerCore;  // one single token on all cores
  if (out.lists > kMaxLists) return "a token's keys can be shared by 32 cores at most";
  out.list_records = tiling::RoundUp(shape.selected_count, 32);
  out.core_bytes =
      kWeightSlots * kUnitTokens * kWeightRows * kIdxNHeads * 2 + kScoreSlots * kUnitTokens * kSortChunk * 4;
  out.list_offset = out.core_bytes * out.cores;
  const uint64_t lists =
      shape.ragged ? MostLists(out.cores) : static_cast<uint64_t>(out.shared) * out.unit_tokens * out.lists;
  out.workspace_bytes = out.list_offset + lists * (kMaxSamples + out.list_records) * 8;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_INDEXER_MAKE_TILING_H_
