// Tiling of lightning_indexer_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_

#include "dims.h"
#include "platform.h"

namespace ms_dsv32::ascendc {

// Keys that are sorted at a time: Sort32 and three levels of 4-way MrgSort, 32 * 4^3.
constexpr uint32_t kSortChunk = 2048;
// MrgSort takes lists of up to 4095 records; three lists of selected_count + 2048 records of 8 bytes share UB with the
// sort.
constexpr uint32_t kMaxSelected = 2048;
// Keys of one product: rows of L0A.
constexpr uint32_t kKeyTile = 128;
// A unit is up to four tokens of a sequence, which share the reading of its keys: their queries take half of L0B.
constexpr uint32_t kUnitTokens = 4;
// A core that shares a unit with others should have this many of its keys: fewer cost more in merging than they save.
constexpr uint32_t kSharedKeys = 1024;
// Steps of scores in the workspace between AIC and AIVs: sorting takes longer for some than for others.
constexpr uint32_t kScoreSlots = 4;
// Weights of tasks in the workspace: of the one that is scored and of the next.
constexpr uint32_t kWeightSlots = 2;
// Of a sorted list that waits to be merged with others, each 64th record is a sample of it.
constexpr uint32_t kSampleStride = 64;
constexpr uint32_t kMaxSamples = kMaxSelected / kSampleStride;
// Lists that one AIV merges; there are two rounds where a token has more, see kMaxLists.
constexpr uint32_t kMergeWidth = 16;
constexpr uint32_t kMaxLists = 4 * kMergeWidth;

struct LightningIndexerShape {
  uint32_t t, b, selected_count, block_num, block_size, max_blocknum_perbatch;
};

struct LightningIndexerTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, s1, selected_count, block_num, block_size, max_blocknum_perbatch;
  uint32_t sequence_units;  // units of a sequence
  uint32_t unit_tokens;     // tokens of a unit, or one less
  // Units in rounds of one for each core; the `shared` units that are left are dealt to `sharers` cores in equal shares
  // of their keys.
  uint32_t rounds, shared, sharers;
  uint32_t lists;         // sorted lists that a token of a shared unit may have
  uint32_t list_records;  // selected_count in whole repeats of GatherMask
  // Byte offsets in the workspace: for each core, the weights and the slots of scores; then the lists of the tokens of
  // shared units, and their samples.
  uint64_t core_bytes, list_offset, sample_offset, workspace_bytes;
};

// Fills `out`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeTiling(const LightningIndexerShape& shape, const Platform& platform,
                                 LightningIndexerTiling& out) {
  if (const char* refusal = Refusal(platform)) return refusal;
  if (shape.b == 0 ? shape.t != 0 : shape.t % shape.b != 0) return "t must be a multiple of b";
  if (shape.selected_count < 1 || shape.selected_count > kMaxSelected) {
    return "selected_count must be in [1, 2048]: the running lists are held in UB";
  }
  if (shape.block_size < 1 || shape.block_size % 16 != 0) {
    return "block_size must be a multiple of 16: the scales of a block begin on 32 bytes of UB";
  }
  out = LightningIndexerTiling{};
  out.t = shape.t;
  out.s1 = shape.b == 0 ? 0 : shape.t / shape.b;
  out.selected_count = shape.selected_count;
  out.block_num = shape.block_num;
  out.block_size = shape.block_size;
  out.max_blocknum_perbatch = shape.max_blocknum_perbatch;
  out.sequence_units = tiling::CeilDiv(out.s1, kUnitTokens);
  out.unit_tokens = out.s1 == 0 ? 1 : tiling::CeilDiv(out.s1, out.sequence_units);
  const uint32_t units = shape.b * out.sequence_units;
  const uint64_t capacity = static_cast<uint64_t>(shape.max_blocknum_perbatch) * shape.block_size;
  const uint64_t most = units * (capacity / kSharedKeys + 1);
  out.rounds = units / platform.cores;
  out.shared = units % platform.cores;
  out.sharers = most < platform.cores ? static_cast<uint32_t>(most) : platform.cores;
  out.cores = out.rounds > 0 ? platform.cores : tiling::Smaller(out.sharers + (units == 0), platform.cores);
  // The AIVs of a core share the keys of a single token, and have a list each.
  uint32_t parts = 0;
  for (uint32_t unit = 0; unit < out.shared; ++unit) {
    const uint32_t first = unit * out.sharers / out.shared;
    const uint32_t end = tiling::CeilDiv((unit + 1) * out.sharers, out.shared);
    parts = end - first > parts ? end - first : parts;
  }
  out.lists = parts * (out.s1 == 1 ? kVectorsPerCore : 1);
  if (out.lists > kMaxLists) return "a token's keys can be shared by 32 cores at most";
  out.list_records = tiling::RoundUp(shape.selected_count, 32);
  out.core_bytes = kWeightSlots * kUnitTokens * kIdxNHeads * 2 + kScoreSlots * kUnitTokens * kSortChunk * 4;
  out.list_offset = out.core_bytes * out.cores;
  const uint64_t lists = static_cast<uint64_t>(out.shared) * out.unit_tokens * out.lists;
  out.sample_offset = out.list_offset + lists * out.list_records * 8;
  out.workspace_bytes = out.sample_offset + lists * kMaxSamples * 8;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
