// Tiling data of lightning_indexer_quant, and the numbers that its kernel and its tiling function share.
#ifndef MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Keys that are sorted at a time: runs of Sort32, and three levels of MrgSort, each of which merges four runs to one.
constexpr uint32_t kSortChunk = 32 * 4 * 4 * 4;
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
// The weights of a token are two equal rows: the cube would read a single row as a vector, and must be given no row
// that nobody wrote.
constexpr uint32_t kWeightRows = 2;
// Of a sorted list that waits to be merged with others, each 64th record is a sample of it.
constexpr uint32_t kSampleStride = 64;
constexpr uint32_t kMaxSamples = kMaxSelected / kSampleStride;
// Where a token has more than kMergeWidth lists, less of each is needed: samples of the first half are twice as dense.
constexpr uint32_t kDenseStride = kSampleStride / 2;
// Lists that one AIV merges; where a token has more, so many AIVs merge a part each, and one of them their lists.
constexpr uint32_t kMergeWidth = 16, kMergeGroups = 4;
constexpr uint32_t kMaxLists = kMergeGroups * kMergeWidth;

struct LightningIndexerTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, b, s1, selected_count, block_num, block_size, max_blocknum_perbatch;
  uint32_t ragged;  // 1: query_act_seqs tells the tokens of each sequence, and the kernel what s1 to lists here are
  uint32_t unit_tokens;  // tokens of a unit, or one less
  // Units in rounds of one for each core; the `shared` units that are left are dealt to `sharers` cores in equal shares
  // of their keys.
  uint32_t rounds, shared, sharers;
  uint32_t lists;         // sorted lists that a token of a shared unit may have
  uint32_t list_records;  // selected_count in whole repeats of GatherMask
  // Byte offsets in the workspace: for each core, the weights and the slots of scores; then the lists of the tokens of
  // shared units, each behind its samples.
  uint64_t core_bytes, list_offset, workspace_bytes;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_LIGHTNING_INDEXER_QUANT_TILING_H_
