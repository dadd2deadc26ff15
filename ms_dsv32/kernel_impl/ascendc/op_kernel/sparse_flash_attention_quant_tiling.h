// Tiling of sparse_flash_attention_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_SPARSE_FLASH_ATTENTION_QUANT_TILING_H_
#define MS_DSV32_ASCENDC_SPARSE_FLASH_ATTENTION_QUANT_TILING_H_

#include "dims.h"
#include "platform.h"

namespace ms_dsv32::ascendc {

// Keys of one tile of scores: 128 x 576 bfloat16 are 144 KiB of L1, two of them beside the query's 144 KiB.
constexpr uint32_t kKeyTile = 128;
// The cube begins with the keys of a task chunk by chunk. Two tasks of 7 chunks stay below the 15 that a cross-core
// counter holds.
constexpr uint32_t kMaxChunks = 7;
// Tasks whose keys, scores and probabilities are in the workspace at one time: the cube turns the probabilities of one
// into its output after the scores of the next, while the gather is at the one behind that.
constexpr uint32_t kTaskSlots = 3;
// Longest list of positions. A row of scores is 4 bytes a position, and two batches of rows share UB with the mask.
constexpr uint32_t kMaxTopk = 4096;
// Bytes of UB of the gather and of the softmax apart from what depends on the shape: see KeyGather and RowSoftmax. The
// softmax has two batches of scores, and a block of 32 bytes for the log-sums of each and the counts of each AIV.
constexpr uint32_t kKeyGatherBytes = 96256;
constexpr uint32_t kRowSoftmaxBytes = 2688;
constexpr uint32_t kScoreBatchBytes = 24576;
// Columns of block_table that fit into UB beside the gather's buffers.
constexpr uint32_t kMaxTableColumns = 8192;

struct SparseFlashAttentionShape {
  uint32_t t, b, n_q, topk, block_num, block_size, max_blocknum_perbatch;
  float softmax_scale;
};

struct SparseFlashAttentionTiling {
  uint32_t cores;  // AI cores of the launch
  uint32_t t, s1, n_q, topk, block_num, block_size, max_blocknum_perbatch;
  uint32_t group_heads;     // heads of one task
  uint32_t groups;          // tasks of one token
  uint32_t key_rows;        // topk in whole blocks of 64: rows of keys and columns of scores in the workspace
  uint32_t key_chunk;       // keys that are gathered before the cube may begin with them, whole tiles
  uint32_t softmax_offset;  // where the softmax has its part of UB; 0 if it takes turns with the gather
  float softmax_scale;
  // Byte offsets within one slot of the workspace; slot_bytes leads to the next, kTaskSlots of them to the next core's.
  uint64_t rope_offset, score_offset, probability_offset, mask_offset, valid_offset, slot_bytes;
  uint64_t workspace_bytes;
};

// Fills `out`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeTiling(const SparseFlashAttentionShape& shape, const Platform& platform,
                                 SparseFlashAttentionTiling& out) {
  if (shape.n_q < 1 || shape.n_q > 128) return "n_q must be in [1, 128]";
  if (shape.b == 0 ? shape.t != 0 : shape.t % shape.b != 0) return "t must be a multiple of b";
  if (shape.topk < 1 || shape.topk > kMaxTopk) return "topk must be in [1, 4096]: a row of scores is held in UB";
  if (shape.block_size < 1) return "block_size must be at least 1";
  if (shape.max_blocknum_perbatch > kMaxTableColumns) {
    return "max_blocknum_perbatch must be at most 8192: a row of block_table is held in UB";
  }
  out = SparseFlashAttentionTiling{};
  out.t = shape.t;
  out.s1 = shape.b == 0 ? 0 : shape.t / shape.b;
  out.n_q = shape.n_q;
  out.topk = shape.topk;
  out.block_num = shape.block_num;
  out.block_size = shape.block_size;
  out.max_blocknum_perbatch = shape.max_blocknum_perbatch;
  out.softmax_scale = shape.softmax_scale;
  // Fewer tokens than cores: split the heads, in whole fractals. The cores of a token share the gather of its keys.
  out.group_heads = shape.n_q;
  for (uint32_t heads = tiling::RoundUp(shape.n_q, 16); heads >= 16; heads -= 16) {
    if (shape.t * tiling::CeilDiv(shape.n_q, heads) <= platform.cores) {
      out.group_heads = tiling::Smaller(heads, shape.n_q);
    }
  }
  out.groups = tiling::CeilDiv(shape.n_q, out.group_heads);
  const uint32_t tasks = shape.t * out.groups;
  out.cores = tasks == 0 ? 1 : tiling::Smaller(tasks, platform.cores);
  out.key_rows = tiling::RoundUp(shape.topk, 64);
  // A chunk is whole tiles, and whole fractals for each AIV that gathers.
  uint32_t unit = kKeyTile;
  while (unit % (2 * out.groups * 16) != 0) {
    unit += kKeyTile;
  }
  out.key_chunk = tiling::RoundUp(tiling::CeilDiv(out.key_rows, kMaxChunks), unit);
  // With several tasks a core, the gather of a task and the softmax of the one before it share the time, if they fit
  // into UB together.
  const uint32_t gather_bytes =
      2 * out.key_rows * 4 + tiling::RoundUp(shape.max_blocknum_perbatch, 8) * 4 + 32 + kKeyGatherBytes;
  const uint32_t softmax_bytes = out.key_rows * 4 + 2 * kScoreBatchBytes + kRowSoftmaxBytes + 65 * 32 + 2 * 32;
  out.softmax_offset = out.groups == 1 && gather_bytes + softmax_bytes <= platform.ub ? gather_bytes : 0;
  const uint64_t keys = out.key_rows;
  out.rope_offset = keys * kKvLoraRank * 2;
  out.score_offset = out.rope_offset + keys * kRopeDim * 2;
  out.probability_offset = out.score_offset + keys * out.group_heads * 4;
  out.mask_offset = out.probability_offset + keys * out.group_heads * 2;
  out.valid_offset = out.mask_offset + keys * 4;
  out.slot_bytes = (out.valid_offset + out.groups * 64 + 511) / 512 * 512;
  out.workspace_bytes = out.slot_bytes * kTaskSlots * out.cores;
  return nullptr;
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_SPARSE_FLASH_ATTENTION_QUANT_TILING_H_
