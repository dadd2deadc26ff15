#include "ms_dsv32/kernel_impl/cpu/isa/lightning_indexer_prolog_quant.h"

#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/indexer_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

void RunChunk(const LightningIndexerPrologQuantParams& p) {
  constexpr int64_t kWeightColumn = op_info::kIdxHeadDim;
  const int threads = NumThreads();
  TokenProjection projection(p.x, p.t, p.packed);
  projection.Add(p.wk, op_info::kIdxHeadDim);
  projection.Add(p.w_proj, op_info::kIdxNHeads);

  const size_t thread_bytes = Max(TokenProjection::ThreadBytes(), IndexerHeads::ThreadBytes(p.packed));
  Scratch scratch(ScratchSize<float>(projection.SumsSize()) + ScratchSize<int64_t>(CacheRowTableSize(p.t)) +
                  ScratchSize<uint8_t>(p.t) + 2 * ScratchSize<uint16_t>(kHadamardSize) +
                  thread_bytes * static_cast<size_t>(threads));
  projection.Plan(scratch.Take<float>(projection.SumsSize()), threads);
  int64_t* table = scratch.Take<int64_t>(CacheRowTableSize(p.t));
  uint8_t* writes = scratch.Take<uint8_t>(p.t);
  uint16_t* hadamard_q = scratch.Take<uint16_t>(kHadamardSize);
  uint16_t* hadamard_k = scratch.Take<uint16_t>(kHadamardSize);
  char* thread_scratch = scratch.Take<char>(static_cast<int64_t>(thread_bytes) * threads);
  const IndexerHeads heads(p, hadamard_q, threads);
  FindCacheWriters(p.k_cache_index, p.t, table, writes);

  // (2), (3) x @ wk and x @ w_proj
  ParallelFor(projection.tasks + 1, [&](int64_t task, int thread) {
    if (task < projection.tasks) {
      projection.Run(task, thread_scratch + thread * thread_bytes);
    } else {
      PackHadamard(p.hadamard_q, hadamard_q);
      PackHadamard(p.hadamard_k, hadamard_k);
    }
  });
  // (1) queries per head; (2) keys and cache rows, (3) head weights
  ParallelFor(heads.tasks + CeilDiv(p.t, kIndexerKeyRows), [&](int64_t task, int thread) {
    if (task < heads.tasks) {
      heads.Run(task, thread_scratch + thread * thread_bytes);
    } else {
      IndexerKeys(p, projection, 0, kWeightColumn, hadamard_k, writes, task - heads.tasks);
    }
  });
}

}  // namespace

void LightningIndexerPrologQuant(const LightningIndexerPrologQuantParams& p) {
  for (int64_t first = 0; first < p.t; first += kPrologTokens) {
    RunChunk(TokenRange(p, first, Min(kPrologTokens, p.t - first)));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
