#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/indexer_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

void RunChunk(const LightningIndexerPrologQuantParams& p) {
  constexpr int64_t kWeightColumn = op_info::kIdxHeadDim;
  const int threads = NumThreads();
  TokenProjection projection(p.x, p.t, p.packed);
  projection.Add(p.wk, op_info::kIdxHeadDim);
  projection.Add(p.w_proj, op_info::kIdxNHeads);

  const size_t thread_bytes = Max(TokenProjection::ThreadParts().bytes, IndexerHeads::ThreadParts(p.packed).bytes);
  ScratchPlan plan;
  const auto sums = plan.Add<float>(projection.SumsSize());
  const auto table = plan.Add<int64_t>(CacheRowTableSize(p.t));
  const auto writers = plan.Add<uint8_t>(p.t);
  const auto packed_q = plan.Add<uint16_t>(kHadamardSize);
  const auto packed_k = plan.Add<uint16_t>(kHadamardSize);
  const auto of_threads = plan.Add<char>(static_cast<int64_t>(thread_bytes) * threads);
  const Scratch scratch(plan);
  projection.Plan(scratch[sums], threads);
  uint8_t* writes = scratch[writers];
  uint16_t* hadamard_q = scratch[packed_q];
  uint16_t* hadamard_k = scratch[packed_k];
  char* thread_scratch = scratch[of_threads];
  const IndexerHeads heads(p, hadamard_q, threads);
  FindCacheWriters(p.k_cache_index, p.t, scratch[table], writes);

  if (kVerbose) {
    const PlanItem items[] = {{"packed", p.packed},
                              {"depth_parts", projection.Parts()},
                              {"panels", projection.Panels()},
                              {"token_blocks", heads.tasks / op_info::kIdxNHeads},
                              {"int8_tiles", Int8OnTiles(Min(kIndexerRows, p.t))}};
    TellPlan("lightning_indexer_prolog_quant", items);
  }

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
