// Tokens are taken in waves whose score rows fit kWaveRowBytes. Within a wave a work item is a group of tokens of one
// sequence and a range of keys. So the keys of a range are read and prepared once for the whole group, and a single
// token still occupies every thread. Scores exist only as order keys (topk.h) in the wave's rows. Each thread also
// counts them in the first histogram of the selection while they are in L1. A last stage selects, one token per item.
//
// Tokens of one sequence stand together in the table, and the last of them sees most. The blocks of all positions that
// a token sees are in the cache. The other entries of block_table are not read.
#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/index_score.h"
#include "ms_dsv32/kernel_impl/cpu/isa/simd.h"
#include "ms_dsv32/kernel_impl/cpu/isa/topk.h"
#include "ms_dsv32/kernel_impl/cpu/scratch.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

using op_info::kBlockSize;

// Bounds of the scratch, besides 8 to 33 KiB for each packed token.
constexpr int64_t kWaveRowBytes = int64_t{32} << 20;  // 64 rows of 128K keys; one row if it is longer than that
constexpr int64_t kWaveHistograms = 4096;             // histograms of 8 KiB, one for each token and thread
constexpr int64_t kWaveTokens = 64;
constexpr int64_t kGroupTokens = 8;  // packed queries of a group: 64 to 264 KiB, a part of L2
// Ranges for each thread: so many that a thread that starts late, or is interrupted, finds less to do. A range has no
// more keys than are scored in a fraction of a millisecond.
constexpr int64_t kRangesPerThread = 16;
constexpr int64_t kMaxRange = 32 * kKeyRun;
constexpr int kTokenParts = kIndexHeads / kPackHeads;

struct Group {
  int64_t first;    // its first token in the wave
  int64_t count;    // tokens, all of one sequence
  int64_t visible;  // keys that the last token sees, which sees most
};

// The cache row of a position. The next positions follow it up to the end of the block.
MS_DSV32_INLINE int64_t CacheRow(const int32_t* block_table, int64_t position) {
  const auto at = static_cast<uint64_t>(position);
  return block_table[at / kBlockSize] * kBlockSize + static_cast<int64_t>(at % kBlockSize);
}

constexpr int8_t kNoKey[kIndexDim] = {};

// Finds the keys of positions [begin, begin + kKeyRun) of a sequence, kNoKey from `end` on. Prefetches the scales.
MS_DSV32_INLINE void LocateRun(const LightningIndexerQuantParams& p, const int32_t* block_table, int64_t begin,
                               int64_t end, const int8_t** keys) {
  const int64_t seen = Min(begin + kKeyRun, end);
  for (int64_t position = begin; position < seen;) {
    const int64_t stop = Min(RoundUp(position + 1, kBlockSize), seen);
    const int64_t row = CacheRow(block_table, position);
    Prefetch(p.k_cache_scale + row);
    Prefetch(p.k_cache_scale + row + stop - position - 1);
    const int8_t* key = p.k_cache + row * kIndexDim;
    for (; position < stop; ++position, key += kIndexDim) keys[position - begin] = key;
  }
  for (int64_t key = Max<int64_t>(end - begin, 0); key < kKeyRun; ++key) keys[key] = kNoKey;
}

// Loads the cache rows of positions [begin, begin + kKeyRun) of a sequence, zeros from `end` on.
MS_DSV32_INLINE void LoadRun(const LightningIndexerQuantParams& p, const int32_t* block_table, int64_t begin,
                             int64_t end, IndexRun* run) {
  uint16_t k_scale[kKeyRun] = {};
  const int64_t seen = Min(begin + kKeyRun, end);
  for (int64_t position = begin; position < seen;) {
    const int64_t stop = Min(RoundUp(position + 1, kBlockSize), seen);
    const int64_t row = CacheRow(block_table, position);
    memcpy(k_scale + position - begin, p.k_cache_scale + row, static_cast<size_t>(stop - position) * sizeof(uint16_t));
    const int8_t* key = p.k_cache + row * kIndexDim;
    for (; position < stop; ++position, key += kIndexDim) LoadIndexKey(key, position - begin, run);
  }
  for (int64_t key = seen - begin; key < kKeyRun; ++key) LoadIndexKey(kNoKey, key, run);
  for (int64_t key = 0; key < kKeyRun; key += kLanes) StoreF(run->k_scale + key, LoadFp16(k_scale + key));
}

}  // namespace

void LightningIndexerQuant(const LightningIndexerQuantParams& p) {
  const int64_t t = p.t;
  const int64_t k = p.selected_count;
  if (t == 0) return;

  // A token that sees no more than selected_count keys takes them all, whatever their scores.
  int64_t scored = 0, max_visible = 0;
  for (int64_t i = 0; i < t; ++i) {
    if (p.tokens[i].visible <= k) continue;
    ++scored;
    max_visible = Max<int64_t>(max_visible, p.tokens[i].visible);
  }
  if (scored < t) {
    ParallelFor(t, [&](int64_t i, int) {
      const int64_t visible = p.tokens[i].visible;
      if (visible > k) return;
      int32_t* positions = p.topk_indices + i * k;
      for (int64_t j = 0; j < k; ++j) positions[j] = j < visible ? static_cast<int32_t>(j) : -1;
    });
  }
  if (scored == 0) return;

  const int threads = NumThreads();
  const int64_t row_size = RoundUp(max_visible, kKeyRun);
  const int64_t wave_tokens = Max<int64_t>(1, Min(Min(Min(scored, kWaveTokens), kWaveHistograms / threads),
                                                  kWaveRowBytes / (row_size * static_cast<int64_t>(sizeof(uint32_t)))));

  ScratchPlan plan;
  const auto token_part = plan.Add<int64_t>(wave_tokens);
  const auto group_part = plan.Add<Group>(wave_tokens);
  const auto packed_part = plan.Add<IndexToken>(wave_tokens);
  const auto row_part = plan.Add<uint32_t>(wave_tokens * row_size + kTopKLanes);
  const auto histogram_part = plan.Add<uint32_t>(wave_tokens * threads * kTopKBins);
  const auto counted_part = plan.Add<bool>(wave_tokens * threads);
  const auto run_part = plan.Add<IndexRun>(threads);
  const Scratch scratch(plan);
  int64_t* tokens = scratch[token_part];
  Group* groups = scratch[group_part];
  IndexToken* packed = scratch[packed_part];
  uint32_t* rows = scratch[row_part];
  uint32_t* histograms = scratch[histogram_part];
  bool* counted = scratch[counted_part];  // histograms that have been begun
  IndexRun* runs = scratch[run_part];

  for (int64_t next = 0; next < t;) {
    int64_t count = 0, group_count = 0, wave_keys = 0;
    for (; next < t && count < wave_tokens; ++next) {
      const int64_t visible = p.tokens[next].visible, sequence = p.tokens[next].sequence;
      if (visible <= k) continue;
      if (count > 0 && groups[group_count - 1].count < kGroupTokens &&
          p.tokens[tokens[count - 1]].sequence == sequence) {
        ++groups[group_count - 1].count;
        groups[group_count - 1].visible = visible;
      } else {
        groups[group_count++] = {count, 1, visible};
        wave_keys += visible;
      }
      tokens[count++] = next;
    }
    if (count == 0) return;  // the last tokens see too few keys to be scored
    const int64_t range = Min(RoundUp(CeilDiv(wave_keys, threads * kRangesPerThread), kKeyRun), kMaxRange);
    const int64_t row_ranges = CeilDiv(row_size, range);
    if (kVerbose) {
      const PlanItem items[] = {{"wave_tokens", wave_tokens}, {"group_tokens", kGroupTokens}, {"item_keys", range}};
      TellPlan("lightning_indexer_quant", items);
    }

    // (2) one factor for each head; the query in the order of the dot products. A token is cut into parts, so that a
    // single token wakes the other threads now.
    ParallelFor(count * kTokenParts, [&](int64_t item, int) {
      const int64_t w = item / kTokenParts, i = tokens[w], head = item % kTokenParts * kPackHeads;
      PackIndexHeads(p.q_int8 + i * kIndexHeads * kIndexDim, p.q_scale + i * kIndexHeads, p.weights + i * kIndexHeads,
                     static_cast<int>(head), packed + w);
    });
    memset(counted, 0, static_cast<size_t>(count * threads) * sizeof(bool));

    // (1) cache rows, (3) relu of the dot products, (4) weighted sum over the heads
    ParallelFor(group_count * row_ranges, [&](int64_t item, int thread) {
      const Group group = groups[item / row_ranges];
      const int64_t begin = item % row_ranges * range, end = Min(begin + range, group.visible);
      if (begin >= end) return;
      const int32_t* block_table = p.block_table + p.tokens[tokens[group.first]].sequence * p.max_blocknum_perbatch;
      IndexRun* run = runs + thread;
      LocateRun(p, block_table, begin, end, run->next);
      PrefetchNext(*run, 0, kKeyRun);
      for (int64_t position = begin; position < end; position += kKeyRun) {
        LoadRun(p, block_table, position, end, run);
        // The next run. After the last one of the range it is the first one of the range that this thread will take
        // next if all threads are equally fast.
        const bool last = position + kKeyRun >= end;
        LocateRun(p, block_table, last ? begin + threads * range : position + kKeyRun, last ? group.visible : end,
                  run->next);
        for (int64_t w = group.first; w < group.first + group.count; ++w) {
          IndexScores(packed[w], run);
          uint32_t* keys = rows + w * row_size + position;
          for (int64_t key = 0; key < kKeyRun; key += kLanes) StoreAs(keys + key, OrderKey(LoadF(run->scores + key)));
          uint32_t* histogram = histograms + (w * threads + thread) * kTopKBins;
          if (!counted[w * threads + thread]) {
            memset(histogram, 0, kTopKBins * sizeof(uint32_t));
            counted[w * threads + thread] = true;
          }
          const int64_t seen = Min<int64_t>(Min<int64_t>(p.tokens[tokens[w]].visible, end) - position, kKeyRun);
          for (int64_t key = 0; key < seen; ++key) ++histogram[keys[key] >> kTopKTopShift];
        }
      }
    });

    // (5) the largest scores
    ParallelFor(count, [&](int64_t w, int) {
      uint32_t* histogram = histograms + w * threads * kTopKBins;
      if (!counted[w * threads]) memset(histogram, 0, kTopKBins * sizeof(uint32_t));
      // Adds the threads' histograms from the top down to where the selection will stop.
      constexpr int kStep = 128;
      int64_t above = 0;
      for (int bin = kTopKBins - kStep; bin >= 0 && above < k; bin -= kStep) {
        for (int64_t thread = 1; thread < threads; ++thread) {
          if (!counted[w * threads + thread]) continue;
          const uint32_t* counts = histogram + thread * kTopKBins;
          for (int i = bin; i < bin + kStep; ++i) histogram[i] += counts[i];
        }
        for (int i = bin; i < bin + kStep; ++i) above += histogram[i];
      }
      SelectTopK(rows + w * row_size, p.tokens[tokens[w]].visible, static_cast<uint32_t>(k), histogram,
                 p.topk_indices + tokens[w] * k);
    });
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
