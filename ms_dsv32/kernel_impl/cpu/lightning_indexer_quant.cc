// Tokens are taken in waves whose score rows fit kWaveRowBytes. Within a wave the work items are (group of tokens of
// one sequence, range of keys): the keys of a range are read and widened once for the whole group, and a single token
// still occupies every thread. Scores exist only as order keys (topk.h) in the wave's rows; each item also counts them
// in the first histogram of the selection while they are in L1. A last stage selects, one token per item.
#include "ms_dsv32/kernel_impl/cpu/lightning_indexer_quant.h"

#include "ms_dsv32/kernel_impl/cpu/index_score.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/simd.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/topk.h"
#include "ms_dsv32/kernel_impl/generated/dims.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

using op_info::kBlockSize;

// Bounds of the scratch, besides 9..17 KiB for each packed token.
constexpr int64_t kWaveRowBytes = int64_t{32} << 20;  // 64 rows of 128K keys; one row if it is longer than that
constexpr int64_t kWaveHistograms = 8192;             // of 4 KiB, one for each token and range
constexpr int64_t kWaveTokens = 64;
constexpr int64_t kGroupTokens = 8;  // packed queries of a group: 128 KiB, a part of L2
// Keys of one range: enough for the dot products to outweigh its histogram, few enough for threads to end together.
constexpr int64_t kMinRange = 4 * kKeyRun;
constexpr int64_t kMaxRange = 48 * kKeyRun;
constexpr int64_t kRangeCost = 2;  // keys that could be scored while a histogram is cleared and added (4 KiB each)
constexpr int64_t kMaxRangesPerThread = 32;
static_assert(kMaxRange < 65536, "histogram counters are uint16");

struct Group {
  int64_t first;    // in the wave
  int64_t count;    // tokens of one sequence
  int64_t visible;  // of the last, which sees most
};

int64_t Visible(const LightningIndexerQuantParams& p, int64_t token) {
  return Max<int64_t>(p.kv_act_seqs[token / p.s1] - p.s1 + 1 + token % p.s1, 0);
}

// The length of a range, a multiple of kKeyRun, with which `threads` threads end first.
int64_t ChooseRange(int64_t keys, int64_t tokens, int64_t groups, int64_t threads) {
  const int64_t least = Max(RoundUp(CeilDiv(keys * tokens, kWaveHistograms), kKeyRun), kMinRange);
  int64_t best = kMaxRange, best_cost = INT64_MAX;
  for (int64_t cuts = 1; cuts <= kMaxRangesPerThread; ++cuts) {
    const int64_t range = Min(Max(RoundUp(CeilDiv(keys, cuts * threads), kKeyRun), least), kMaxRange);
    const int64_t ranges = CeilDiv(keys, range);
    const int64_t cost = CeilDiv(ranges * groups, threads) * range + ranges * kRangeCost;
    if (cost < best_cost) {
      best = range;
      best_cost = cost;
    }
  }
  return best;
}

// The cache rows of positions [begin, begin + kKeyRun) of a sequence, zeros from `end` on.
MS_DSV32_INLINE void LoadRun(const LightningIndexerQuantParams& p, const int32_t* block_table, int64_t begin,
                             int64_t end, IndexRun* run) {
  uint16_t k_scale[kKeyRun];
  for (int64_t key = 0; key < kKeyRun; ++key) {
    const int64_t position = begin + key;
    if (position < end) {
      const int64_t row = block_table[position / kBlockSize] * kBlockSize + position % kBlockSize;
      LoadIndexKey(p.k_cache + row * kIndexDim, run->keys + key * kIndexDim);
      k_scale[key] = p.k_cache_scale[row];
    } else {
      memset(run->keys + key * kIndexDim, 0, kIndexDim * sizeof(IndexKey));
      k_scale[key] = 0;
    }
    // Blocks lie anywhere in the cache, so that the hardware cannot foresee the next one.
    const int64_t ahead = position + kKeyRun;
    if (ahead < end) {
      const int64_t row = block_table[ahead / kBlockSize] * kBlockSize + ahead % kBlockSize;
      Prefetch(p.k_cache + row * kIndexDim);
      Prefetch(p.k_cache + row * kIndexDim + 64);
    }
  }
  for (int64_t key = 0; key < kKeyRun; key += kLanes) StoreF(run->k_scale + key, LoadFp16(k_scale + key));
}

}  // namespace

void LightningIndexerQuant(const LightningIndexerQuantParams& p) {
  const int64_t t = p.b * p.s1;
  const int64_t k = p.selected_count;
  if (t == 0) return;

  // A token that sees no more than selected_count keys takes them all, whatever their scores.
  int64_t scored = 0, max_visible = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (Visible(p, i) <= k) continue;
    ++scored;
    max_visible = Max(max_visible, Visible(p, i));
  }
  if (scored < t) {
    ParallelFor(t, [&](int64_t i, int) {
      const int64_t visible = Visible(p, i);
      if (visible > k) return;
      int32_t* positions = p.topk_indices + i * k;
      for (int64_t j = 0; j < k; ++j) positions[j] = j < visible ? static_cast<int32_t>(j) : -1;
    });
  }
  if (scored == 0) return;

  const int threads = NumThreads();
  const int64_t row_size = RoundUp(max_visible, kKeyRun);
  const int64_t wave_tokens = Max<int64_t>(
      1, Min(Min(scored, kWaveTokens), kWaveRowBytes / (row_size * static_cast<int64_t>(sizeof(uint32_t)))));
  const int64_t group_tokens = Min(p.s1, kGroupTokens);
  const int64_t range = ChooseRange(max_visible, wave_tokens, CeilDiv(wave_tokens, group_tokens), threads);
  const int64_t row_ranges = CeilDiv(row_size, range);

  Scratch scratch(ScratchSize<int64_t>(wave_tokens) + ScratchSize<Group>(wave_tokens) +
                  ScratchSize<IndexToken>(wave_tokens) + ScratchSize<uint32_t>(wave_tokens * row_size) +
                  ScratchSize<uint16_t>(wave_tokens * row_ranges * kTopKBins) + ScratchSize<IndexRun>(threads) +
                  ScratchSize<uint32_t>(threads * kTopKBins));
  int64_t* tokens = scratch.Take<int64_t>(wave_tokens);
  Group* groups = scratch.Take<Group>(wave_tokens);
  IndexToken* packed = scratch.Take<IndexToken>(wave_tokens);
  uint32_t* rows = scratch.Take<uint32_t>(wave_tokens * row_size);
  uint16_t* range_counts = scratch.Take<uint16_t>(wave_tokens * row_ranges * kTopKBins);
  IndexRun* runs = scratch.Take<IndexRun>(threads);
  uint32_t* histograms = scratch.Take<uint32_t>(threads * kTopKBins);

  for (int64_t next = 0; next < t;) {
    int64_t count = 0, group_count = 0;
    for (; next < t && count < wave_tokens; ++next) {
      const int64_t visible = Visible(p, next);
      if (visible <= k) continue;
      if (count > 0 && groups[group_count - 1].count < group_tokens && tokens[count - 1] / p.s1 == next / p.s1) {
        ++groups[group_count - 1].count;
        groups[group_count - 1].visible = visible;
      } else {
        groups[group_count++] = {count, 1, visible};
      }
      tokens[count++] = next;
    }

    // (2) one factor for each head; the query in the order of the dot products
    ParallelFor(count, [&](int64_t w, int) {
      const int64_t i = tokens[w];
      PackIndexToken(p.q_int8 + i * kIndexHeads * kIndexDim, p.q_scale + i * kIndexHeads, p.weights + i * kIndexHeads,
                     packed + w);
    });

    // (1) cache rows, (3) relu of the dot products, (4) weighted sum over the heads
    ParallelFor(group_count * row_ranges, [&](int64_t item, int thread) {
      const Group group = groups[item / row_ranges];
      const int64_t r = item % row_ranges;
      const int64_t begin = r * range, end = Min(begin + range, group.visible);
      if (begin >= end) return;
      const int32_t* block_table = p.block_table + tokens[group.first] / p.s1 * p.max_blocknum_perbatch;
      IndexRun* run = runs + thread;
      for (int64_t w = group.first; w < group.first + group.count; ++w) {
        memset(range_counts + (w * row_ranges + r) * kTopKBins, 0, kTopKBins * sizeof(uint16_t));
      }
      for (int64_t position = begin; position < end; position += kKeyRun) {
        LoadRun(p, block_table, position, end, run);
        for (int64_t w = group.first; w < group.first + group.count; ++w) {
          IndexScores(packed[w], run);
          uint32_t* keys = rows + w * row_size + position;
          uint16_t* counts = range_counts + (w * row_ranges + r) * kTopKBins;
          for (int64_t key = 0; key < kKeyRun; key += kLanes) StoreAs(keys + key, OrderKey(LoadF(run->scores + key)));
          const int64_t seen = Min<int64_t>(Min(Visible(p, tokens[w]), end) - position, kKeyRun);
          for (int64_t key = 0; key < seen; ++key) ++counts[keys[key] >> kTopKTopShift];
        }
      }
    });

    // (5) the largest scores
    ParallelFor(count, [&](int64_t w, int thread) {
      const int64_t visible = Visible(p, tokens[w]);
      uint32_t* histogram = histograms + thread * kTopKBins;
      memset(histogram, 0, kTopKBins * sizeof(uint32_t));
      for (int64_t r = 0; r * range < visible; ++r) {
        const uint16_t* counts = range_counts + (w * row_ranges + r) * kTopKBins;
        for (int i = 0; i < kTopKBins; ++i) histogram[i] += counts[i];
      }
      SelectTopK(rows + w * row_size, visible, static_cast<uint32_t>(k), histogram, p.topk_indices + tokens[w] * k);
    });
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
