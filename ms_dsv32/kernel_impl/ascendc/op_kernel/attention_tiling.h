// Tiling data of sparse_flash_attention_quant, and the numbers that its kernel and its tiling function share.
#ifndef MS_DSV32_ASCENDC_ATTENTION_TILING_H_
#define MS_DSV32_ASCENDC_ATTENTION_TILING_H_

#include "dims.h"

namespace ms_dsv32::ascendc {

// Keys of one tile of scores: 96 x 576 bfloat16 are 108 KiB of L1, three of them beside the query's 144 KiB.
constexpr uint32_t kScoreTile = 96;
// The cube begins with the keys of a task chunk by chunk. Two tasks of 7 chunks stay below the 15 that a cross-core
// counter holds.
constexpr uint32_t kMaxChunks = 7;
// Longest list of positions. A row of scores takes 4 bytes a position, and a batch of scores, 16 KiB, has at least one.
constexpr uint32_t kMaxTopk = 4096;
// Bytes of UB of the gather without its stage, and of a row of the stage: see KeyGather.
constexpr uint32_t kKeyGatherBytes = 69632;
constexpr uint32_t kKeyStageBytes = 560;
constexpr uint32_t kFewestStageRows = 32;
// Bytes of UB of the softmax that do not depend on the shape: see RowSoftmax. Beside the gather it also has three
// batches of scores, one of probabilities, of half their size, and blocks of 32 bytes for log-sums.
constexpr uint32_t kRowSoftmaxBytes = 2688;
constexpr uint32_t kScoreBatches = 3;
constexpr uint32_t kLogSums = 3;
constexpr uint32_t kScoreBatchBytes = 16384;
// Longest list that the AIVs sort. Sorting takes two times 8 bytes, and 4, for each entry: 40 KiB of the softmax's 48
// KiB of scores, or of UB that is left.
constexpr uint32_t kMostSorted = 2048;
// Entries are sorted in runs: 32 of Sort32, and two levels of MrgSort, each of which merges four runs.
constexpr uint32_t kSortedRun = 32 * 4 * 4;
// Entries that an AIV gathers unsorted: two batches, which take it as long as sorting.
constexpr uint32_t kEarlyEntries = 32;
// Columns of block_table that fit into UB beside the gather's buffers.
constexpr uint32_t kMaxTableColumns = 8192;

struct AttentionTiling {
  uint32_t cores;  // AI cores of the launch: whole teams
  uint32_t t, b, s1, n_q, topk, block_num, block_size, max_blocknum_perbatch;
  uint32_t ragged;          // 1: not s1 but query_act_seqs tells the tokens of each sequence
  uint32_t team;            // AI cores that work on one token
  uint32_t slots;           // tasks whose keys, scores and probabilities are in the workspace at one time
  uint32_t head_parts;      // a core of the team computes one of head_parts x column_parts parts of a token's output,
  uint32_t column_parts;    // in whole fractals of heads and columns
  uint32_t key_rows;        // topk in whole blocks of 64: rows of keys and columns of scores in the workspace
  uint32_t key_chunk;       // keys of one core that are gathered before the cube may begin with them, whole tiles
  uint32_t list_rows;       // entries of topk_indices that one AIV gathers
  uint32_t softmax_offset;  // where the softmax has its part of UB; 0 if it takes turns with the gather
  uint32_t sort_offset;     // where entries are sorted by position before they are gathered; 0 if they are not
  uint32_t stage_rows;      // of the gather: see KeyGather
  uint32_t score_tile;      // keys of one product of scores
  float softmax_scale;
  // Byte offsets within one slot of the workspace. slot_bytes leads to the next slot, `slots` of them to the next team.
  uint64_t rope_offset, score_offset, probability_offset, skipped_offset, slot_bytes;
  uint64_t workspace_bytes;
};

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ATTENTION_TILING_H_
