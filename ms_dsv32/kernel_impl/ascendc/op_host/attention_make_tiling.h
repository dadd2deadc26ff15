// Tiling of sparse_flash_attention_quant: a pure function of the shapes and the device.
#ifndef MS_DSV32_ASCENDC_ATTENTION_MAKE_TILING_H_
#define MS_DSV32_ASCENDC_ATTENTION_MAKE_TILING_H_

#include <algorithm>

#include "ms_dsv32/kernel_impl/ascendc/op_host/platform.h"
#include "ms_dsv32/kernel_impl/ascendc/op_kernel/attention_tiling.h"

namespace ms_dsv32::ascendc {

struct AttentionShape {
  uint32_t t, b, n_q, topk, block_num, block_size, max_blocknum_perbatch;
  float softmax_scale;
  bool ragged;  // with query_act_seqs
};

// How a team divides a token's output, and what the busiest core pays for each fractal of keys, in cycles. Its cube
// needs one cycle for each fractal of output. Its MTE2 copies the probabilities, once for each 256 columns, and the
// keys.
struct OutputGrid {
  uint32_t head_parts, column_parts;
  uint32_t cube, copies;
  constexpr uint32_t Cycles() const { return std::max(cube, copies); }
};
constexpr uint32_t kFractalCopy = 512;                   // bytes
constexpr uint32_t kL2Rate = 110;                        // bytes a cycle from L2 to a core
constexpr uint32_t kScoreFractals = kKeyDim / kFractal;  // fractals along the sum of a score

constexpr OutputGrid MakeOutputGrid(uint32_t n_q, uint32_t team) {
  const uint32_t heads = tiling::CeilDiv(n_q, kFractal), columns = kKvLoraRank / kFractal;
  OutputGrid best{0, 0, ~0u, ~0u};
  for (uint32_t parts = 1; parts <= std::min(team, heads); ++parts) {
    const uint32_t column_parts = std::min(team / parts, columns);
    const uint32_t h = tiling::CeilDiv(heads, parts), c = tiling::CeilDiv(columns, column_parts);
    const OutputGrid grid{parts, column_parts, h * c, (h * tiling::CeilDiv(c, 16) + c) * kFractalCopy / kL2Rate};
    if (grid.Cycles() < best.Cycles()) best = grid;
  }
  return best;
}

// What a call costs with teams of `team` cores, in cycles at the documented rates: gather, softmax and output of one
// task, the busiest unit for each further task, and the waits between cores.
constexpr uint64_t TeamCycles(const AttentionShape& shape, uint32_t cores, uint32_t team) {
  constexpr uint64_t kGatherRow = 57;  // unsorted: 1.5 copies of 24 cycles, and 656 bytes from HBM at 32 a cycle
  constexpr uint64_t kWaits = 3000;    // for each task: two barriers between cores with the latencies of GM around them
  const OutputGrid grid = MakeOutputGrid(shape.n_q, team);
  const uint64_t tasks = tiling::CeilDiv(shape.t, cores / team), heads = tiling::CeilDiv(shape.n_q, kFractal);
  const uint64_t fractals = tiling::CeilDiv(shape.topk, kFractal), own = tiling::CeilDiv(fractals, uint64_t{team});
  const uint64_t vectors = uint64_t{kVectorsPerCore} * team;
  const uint64_t gather = tiling::CeilDiv(fractals, vectors) * kFractal * kGatherRow;
  // A row takes 8 instructions for 64 columns, and a third more between them.
  const uint64_t softmax = tiling::CeilDiv(uint64_t{shape.n_q}, vectors) * shape.topk / 6;
  const uint64_t output = fractals * grid.Cycles();
  const uint64_t cube = own * heads * kScoreFractals + fractals * grid.cube;
  const uint64_t copies = (heads + own) * kScoreFractals * kFractalCopy / kL2Rate + fractals * grid.copies;
  uint64_t busiest = gather + softmax;
  if (cube > busiest) busiest = cube;
  if (copies > busiest) busiest = copies;
  return gather + softmax + output + (tasks - 1) * busiest + tasks * kWaits;
}

// UB of sorting: two runs of 8 bytes an entry, and keys of 4.
constexpr uint32_t kSortBytes = kMostSorted * 20;
// Keys of one product of scores, if a core has few keys.
constexpr uint32_t kShortTile = 64;
static_assert(kShortTile / kVectorsPerCore >= kEarlyEntries && kScoreTile / kVectorsPerCore >= kEarlyEntries);
// The most rows of a stage: so many hold 16 keys if a third of all positions is selected.
constexpr uint32_t kMostStageRows = 64;
// An AIV sorts its entries if it has at least so many. They are eight batches of a gather, and the third that sorting
// saves of them takes longer than sorting.
constexpr uint32_t kFewestSorted = 128;

// MakeAttentionTiling with teams of `team` cores.
constexpr const char* MakeTeamTiling(const AttentionShape& shape, const Platform& platform, uint32_t team,
                                     AttentionTiling& out) {
  out = AttentionTiling{};
  out.t = shape.t;
  out.b = shape.b;
  out.s1 = shape.ragged || shape.b == 0 ? 0 : shape.t / shape.b;
  out.ragged = shape.ragged ? 1 : 0;
  out.n_q = shape.n_q;
  out.topk = shape.topk;
  out.block_num = shape.block_num;
  out.block_size = shape.block_size;
  out.max_blocknum_perbatch = shape.max_blocknum_perbatch;
  out.softmax_scale = shape.softmax_scale;
  out.team = team;
  const uint32_t teams = shape.t == 0 ? 1 : std::min(shape.t, platform.cores / team);
  out.cores = teams * team;
  // The output of a task follows the scores of the next one, while the gather is at the one after that. A team knows
  // one task later that all of its cores have read a slot.
  out.slots = team == 1 ? 3 : 4;
  const OutputGrid grid = MakeOutputGrid(shape.n_q, team);
  out.head_parts = grid.head_parts;
  out.column_parts = grid.column_parts;
  out.key_rows = tiling::RoundUp(shape.topk, 64);
  const uint32_t core_fractals = tiling::CeilDiv(out.key_rows / kFractal, team);
  // With one task, chunks may be twice as many, so that the last one takes the cube a short time.
  const bool one_task = shape.t <= teams;
  const uint32_t most_chunks = one_task ? 2 * kMaxChunks : kMaxChunks, core_keys = core_fractals * kFractal;
  out.score_tile = core_keys <= most_chunks * kShortTile ? kShortTile : kScoreTile;
  out.key_chunk = tiling::RoundUp(tiling::CeilDiv(core_keys, most_chunks), out.score_tile);
  out.list_rows = tiling::CeilDiv(core_fractals, kVectorsPerCore) * kFractal;
  // The gather of a task and the softmax of the one before it run together, if UB has room for both: for the lists of
  // the next task beside those of this one, and for the softmax.
  const uint32_t list_bytes = 2 * out.list_rows * 4 + tiling::RoundUp(shape.max_blocknum_perbatch, 8) * 4;
  const uint32_t softmax_bytes =
      out.key_rows * 4 + kScoreBatchBytes * (2 * kScoreBatches + 1) / 2 + kRowSoftmaxBytes + kLogSums * 32;
  const uint32_t gather_bytes = kKeyGatherBytes + kFewestStageRows * kKeyStageBytes;
  const uint32_t unsorted_bytes = tiling::RoundUp(shape.topk, kSortedRun) * 4;
  const bool together = !one_task && 2 * list_bytes + gather_bytes + softmax_bytes <= platform.ub;
  uint32_t bytes = (together ? 2 : 1) * list_bytes + gather_bytes + (together ? softmax_bytes : 0);
  // Sorting all entries of a task takes an AIV 4000 cycles, and saves a third of its gather.
  const uint32_t sort_bytes = unsorted_bytes + 256 + (together ? 0 : kSortBytes);
  const bool sorted = (together || one_task) && shape.topk <= kMostSorted && out.list_rows >= kFewestSorted &&
                      bytes + sort_bytes <= platform.ub;
  if (sorted) bytes += sort_bytes;
  // Rows of an unsorted list are far apart, so a larger stage would not help.
  const uint32_t more = sorted ? std::min((platform.ub - bytes) / kKeyStageBytes / 2 * 2, kMostStageRows) : 0;
  out.stage_rows = kFewestStageRows + more;
  const uint32_t gather_end = (together ? 2 : 1) * list_bytes + (sorted ? unsorted_bytes : 0) + kKeyGatherBytes +
                              out.stage_rows * kKeyStageBytes;
  if (together) out.softmax_offset = gather_end;
  // Beside the gather, sorting uses the place of the softmax's scores.
  const uint32_t before_scores = together ? out.key_rows * 4 + kRowSoftmaxBytes + kLogSums * 32 : 0;
  if (sorted) out.sort_offset = tiling::RoundUp(gather_end + before_scores, 256);
  const uint64_t keys = out.key_rows;
  out.rope_offset = keys * kKvLoraRank * 2;
  out.score_offset = out.rope_offset + keys * kRopeDim * 2;
  out.probability_offset = out.score_offset + keys * shape.n_q * 4;
  out.skipped_offset = out.probability_offset + keys * shape.n_q * 2;
  out.slot_bytes = tiling::AlignLine(out.skipped_offset + keys * 4);
  out.workspace_bytes = out.slot_bytes * out.slots * teams;
  return nullptr;
}

// Fills `out`, or returns why the shape does not fit. A null result means success.
constexpr const char* MakeAttentionTiling(const AttentionShape& shape, const Platform& platform, AttentionTiling& out) {
  if (const char* refusal = Refusal(platform)) return refusal;
  if (const char* refusal = HeadsRefusal(shape.n_q)) return refusal;
  if (!shape.ragged && (shape.b == 0 ? shape.t != 0 : shape.t % shape.b != 0)) return "t must be a multiple of b";
  if (shape.topk < 1 || shape.topk > kMaxTopk) return "topk must be in [1, 4096]: a row of scores is held in UB";
  if (shape.block_size < 1) return "block_size must be at least 1";
  if (shape.max_blocknum_perbatch > kMaxTableColumns) {
    return "max_blocknum_perbatch must be at most 8192: a row of block_table is held in UB";
  }
  uint32_t best = 1;
  for (uint32_t team = 2; shape.t > 0 && team <= platform.cores; ++team) {
    if (TeamCycles(shape, platform.cores, team) < TeamCycles(shape, platform.cores, best)) best = team;
  }
  return MakeTeamTiling(shape, platform, best, out);
}

}  // namespace ms_dsv32::ascendc

#endif  // MS_DSV32_ASCENDC_ATTENTION_MAKE_TILING_H_
