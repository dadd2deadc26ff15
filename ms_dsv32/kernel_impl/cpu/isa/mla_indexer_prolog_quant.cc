#include "ms_dsv32/kernel_impl/contract/generated/mla_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/indexer_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

// The latent queries, q_norm and q_norm_scale, are null in both parts until here: they are those of the chunk at hand.
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

  const size_t thread_bytes =
      Max(TokenProjection::ThreadParts().bytes,
          Max(MlaHeads::ThreadParts(mla.packed).bytes, IndexerHeads::ThreadParts(mla.packed).bytes));
  ScratchPlan plan;
  const auto sums = plan.Add<float>(projection.SumsSize());
  const auto table = plan.Add<int64_t>(CacheRowTableSize(t));
  const auto writers = plan.Add<uint8_t>(t);
  const auto q_norm = plan.Add<int8_t>(t * op_info::kQLoraRank);
  const auto q_norm_scale = plan.Add<float>(t);
  const auto packed_q = plan.Add<uint16_t>(kHadamardSize);
  const auto packed_k = plan.Add<uint16_t>(kHadamardSize);
  const auto of_threads = plan.Add<char>(static_cast<int64_t>(thread_bytes) * threads);
  const Scratch scratch(plan);
  projection.Plan(scratch[sums], threads);
  uint8_t* writes = scratch[writers];
  indexer.q_norm = mla.q_norm = scratch[q_norm];
  indexer.q_norm_scale = mla.q_norm_scale = scratch[q_norm_scale];
  uint16_t* hadamard_q = scratch[packed_q];
  uint16_t* hadamard_k = scratch[packed_k];
  char* thread_scratch = scratch[of_threads];
  const MlaHeads mla_heads(mla, threads);
  const IndexerHeads indexer_heads(indexer, hadamard_q, threads);
  FindCacheWriters(mla.cache_index, t, scratch[table], writes);

  if (kVerbose) {
    const PlanItem items[] = {{"packed", mla.packed},
                              {"depth_parts", projection.Parts()},
                              {"panels", projection.Panels()},
                              {"token_blocks", mla_heads.tasks / mla.n_q},
                              {"indexer_token_blocks", indexer_heads.tasks / op_info::kIdxNHeads},
                              {"int8_tiles", Int8OnTiles(Min(Min(kHeadRows, kIndexerRows), t))}};
    TellPlan("mla_indexer_prolog_quant", items);
  }

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
  for (int64_t first = 0; first < p.mla.t; first += kPrologTokens) {
    const int64_t count = Min(kPrologTokens, p.mla.t - first);
    RunChunk(TokenRange(p.mla, first, count), TokenRange(p.indexer, first, count));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
