// Tiling of lightning_indexer_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_

#include "dims.h"
#include "platform.h"

namespace ms_dsv32::ascendc {

// Keys of one sorted run: Sort32 and three levels of 4-way MrgSort, 32 * 4^3.
constexpr uint32_t kSortChunk = 2048;
// MrgSort takes lists of up to 4095 records; two running lists of selected_count + 2048 records of 8 bytes share UB
// with the sort.
constexpr uint32_t kMaxSelected = 2048;
// Two tokens of a sequence share the reading of its keys: a unit is two of them, each for one AIV of a core, or a
// single token, whose keys the AIVs share. A unit's keys are scored by several cores if there are more cores than
// units. The lists of a token are merged by fours, in rounds, each group by one AIV.
constexpr uint32_t kMergeWidth = 4;
// Chunks of scores in the workspace between AIC and AIVs.
constexpr uint32_t kScoreSlots = 2;

struct LightningIndexerShape {
  uint32_t t, b, selected_count, block_num, block_size, max_blocknum_perbatch;
};

struct LightningIndexerTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, s1, selected_count, block_num, block_size, max_blocknum_perbatch;
  uint32_t parts;         // cores that share a unit's keys
  uint32_t list_records;  // selected_count in whole repeats of GatherMask
  uint32_t part_lists;    // lists that a part may make of a token: 1 where all units are two tokens, else 2
  // Byte offsets in the workspace: for each core, the weights and the slots of scores; then the lists of each token and
  // part.
  uint64_t core_bytes, list_offset, workspace_bytes;
};

// Fills `out`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeTiling(const LightningIndexerShape& shape, const Platform& platform,
                                 LightningIndexerTiling& out) {
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
  out.parts = 1;
  out.part_lists = out.s1 % 2 == 0 ? 1 : 2;
  const uint32_t units = shape.b * tiling::CeilDiv(out.s1, 2);
  const uint64_t capacity = static_cast<uint64_t>(shape.max_blocknum_perbatch) * shape.block_size;
  while (units * (out.parts + 1) <= platform.cores && capacity > out.part_lists * kSortChunk * out.parts) {
    ++out.parts;
  }
  const uint32_t tasks = units * out.parts;
  out.cores = tasks == 0 ? 1 : tiling::Smaller(tasks, platform.cores);
  out.list_records = tiling::RoundUp(shape.selected_count, 32);
  out.core_bytes = 512 + kScoreSlots * 2 * kSortChunk * 4;
  out.list_offset = out.core_bytes * out.cores;
  out.workspace_bytes =
      out.list_offset + static_cast<uint64_t>(shape.t) * out.parts * out.part_lists * out.list_records * 8;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
