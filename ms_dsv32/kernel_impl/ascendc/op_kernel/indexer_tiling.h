// Tiling data of lightning_indexer_quant, and the numbers that its kernel and its tiling function share.
#ifndef MS_DSV32_ASCENDC_INDEXER_TILING_H_
#define MS_DSV32_ASCENDC_INDEXER_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Keys that are sorted at a time: runs of Sort32, 32 keys, and three levels of MrgSort, each of which merges four runs.
constexpr uint32_t kSortChunk = 32 * 4 * 4 * 4;
// The largest selected_count. MrgSort takes lists of up to 4095 records, and three lists of selected_count + 2048
// records of 8 bytes share UB with the sort.
constexpr uint32_t kMaxSelected = 2048;
// Keys of one product: rows of L0A.
constexpr uint32_t kKeyTile = 128;
// A unit is up to four tokens of a sequence, which share the reading of its keys: their queries take half of L0B.
constexpr uint32_t kUnitTokens = 4;
// A core that shares a unit with others should have this many of its keys: fewer cost more in merging than they save.
constexpr uint32_t kSharedKeys = 1024;
// Steps of scores in the workspace between AIC and AIVs. Several, because sorting takes longer for some steps than for
// others.
constexpr uint32_t kScoreSlots = 4;
// Tasks whose weights are in the workspace: the one that is scored, and the next.
constexpr uint32_t kWeightSlots = 2;
// The weights of a token are two equal rows: the cube would read a single row as a vector, and must not read a row that
// nobody wrote.
constexpr uint32_t kWeightRows = 2;
// Each 64th record of a sorted list that waits to be merged with others is a sample of the list.
constexpr uint32_t kSampleStride = 64;
constexpr uint32_t kMaxSamples = kMaxSelected / kSampleStride;
// If a token has more than kMergeWidth lists, less of each is needed, and only the first half of a list is sampled, at
// twice the density.
constexpr uint32_t kDenseStride = kSampleStride / 2;
// Lists that one AIV merges. If a token has more, kMergeGroups AIVs merge a part each, and one of them merges the
// results.
constexpr uint32_t kMergeWidth = 16, kMergeGroups = 4;
constexpr uint32_t kMaxLists = kMergeGroups * kMergeWidth;

struct IndexerTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, b, s1, selected_count, block_num, block_size, max_blocknum_perbatch;
  uint32_t ragged;  // 1: query_act_seqs tells the tokens of each sequence, and the kernel computes unit_tokens to lists
  uint32_t unit_tokens;  // tokens of a unit, or one less
  // Units go in rounds of one for each core. The `shared` units that are left are dealt to `sharers` cores in equal
  // shares of their keys.
  uint32_t rounds, shared, sharers;
  uint32_t lists;         // sorted lists that a token of a shared unit may have
  uint32_t list_records;  // selected_count in whole repeats of GatherMask
  // Byte offsets in the workspace. First come the weights and the slots of scores of each core, then the lists of the
  // tokens of shared units, each after its samples.
  uint64_t core_bytes, list_offset, workspace_bytes;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_INDEXER_TILING_H_
