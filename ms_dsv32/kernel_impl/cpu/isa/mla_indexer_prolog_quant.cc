#include "ms_dsv32/kernel_impl/cpu/isa/mla_indexer_prolog_quant.h"

#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/indexer_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

void RunChunk(MlaPrologQuantParams mla, LightningIndexerPrologQuantParams indexer) {
  constexpr int64_t kKeyColumn = op_info::kQLoraRank;
  constexpr int64_t kIndexerKeyColumn = kKeyColumn + op_info::kKvLoraRank + op_info::kRopeDim;
  constexpr int64_t kWeightColumn = kIndexerKeyColumn + op_info::kIdxHeadDim;
  const int64_t t = mla.t;
  const int threads = NumThreads();
  TokenProjection projection(mla.token_x, t, mla.packed);
  projection.Add(mla.w_dq, op_info::kQLoraRank);
  projection.Add(mla.w_dkv_kr, op_info::kKvLoraRank + op_info::kRopeDim);
  projection.Add(indexer.wk, op_info::kIdxHeadDim);
  projection.Add(indexer.w_proj, op_info::kIdxNHeads);

  const size_t thread_bytes = Max(TokenProjection::ThreadBytes(),
                                  Max(MlaHeads::ThreadBytes(mla.packed), IndexerHeads::ThreadBytes(mla.packed)));
  Scratch scratch(ScratchSize<float>(projection.SumsSize()) + ScratchSize<int64_t>(CacheRowTableSize(t)) +
                  ScratchSize<uint8_t>(t) + ScratchSize<int8_t>(t * op_info::kQLoraRank) + ScratchSize<float>(t) +
                  2 * ScratchSize<uint16_t>(kHadamardSize) + thread_bytes * static_cast<size_t>(threads));
  projection.Plan(scratch.Take<float>(projection.SumsSize()), threads);
  int64_t* table = scratch.Take<int64_t>(CacheRowTableSize(t));
  uint8_t* writes = scratch.Take<uint8_t>(t);
  indexer.q_norm = mla.q_norm = scratch.Take<int8_t>(t * op_info::kQLoraRank);
  indexer.q_norm_scale = mla.q_norm_scale = scratch.Take<float>(t);
  uint16_t* hadamard_q = scratch.Take<uint16_t>(kHadamardSize);
  uint16_t* hadamard_k = scratch.Take<uint16_t>(kHadamardSize);
  char* thread_scratch = scratch.Take<char>(static_cast<int64_t>(thread_bytes) * threads);
  const MlaHeads mla_heads(mla, threads);
  const IndexerHeads indexer_heads(indexer, hadamard_q, threads);
  FindCacheWriters(mla.cache_index, t, table, writes);

  // token_x times the four weights that it meets, in one go
  ParallelFor(projection.tasks + 1, [&](int64_t task, int thread) {
    if (task < projection.tasks) {
      projection.Run(task, thread_scratch + thread * thread_bytes);
    } else {
      PackHadamard(indexer.hadamard_q, hadamard_q);
      PackHadamard(indexer.hadamard_k, hadamard_k);
    }
  });
  // query latents, key latents, indexer keys and head weights; all cache rows
  ParallelFor(2 * t + CeilDiv(t, kIndexerKeyRows), [&](int64_t i, int) {
    if (i < t) {
      MlaQueryLatent(mla, projection, 0, i);
    } else if (i >= 2 * t) {
      IndexerKeys(indexer, projection, kIndexerKeyColumn, kWeightColumn, hadamard_k, writes, i - 2 * t);
    } else if (writes[i - t]) {
      MlaKeyLatent(mla, projection, kKeyColumn, i - t);
    }
  });
  // all heads of both
  ParallelFor(mla_heads.tasks + indexer_heads.tasks, [&](int64_t task, int thread) {
    if (task < mla_heads.tasks) {
      mla_heads.Run(task, thread_scratch + thread * thread_bytes);
    } else {
      indexer_heads.Run(task - mla_heads.tasks, thread_scratch + thread * thread_bytes);
    }
  });
}

}  // namespace

void MlaIndexerPrologQuant(const MlaIndexerPrologQuantParams& p) {
  MlaPrologQuantParams mla = p.mla;
  mla.q_norm = nullptr;  // set for each chunk
  mla.q_norm_scale = nullptr;
  LightningIndexerPrologQuantParams indexer = p.indexer;
  indexer.t = mla.t;
  indexer.packed = mla.packed;
  indexer.x = mla.token_x;
  indexer.q_norm = nullptr;
  indexer.q_norm_scale = nullptr;
  indexer.cos_idx_rope = mla.cos;
  indexer.sin_idx_rope = mla.sin;
  indexer.k_cache_index = mla.cache_index;
  for (int64_t first = 0; first < mla.t; first += kPrologTokens) {
    const int64_t count = Min(kPrologTokens, mla.t - first);
    RunChunk(TokenRange(mla, first, count), TokenRange(indexer, first, count));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
