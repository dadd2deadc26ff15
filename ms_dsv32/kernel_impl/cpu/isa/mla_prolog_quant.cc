#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/cpu/isa/cache_rows.h"
#include "ms_dsv32/kernel_impl/cpu/isa/mla_prolog_stages.h"
#include "ms_dsv32/kernel_impl/cpu/threading.h"
#include "ms_dsv32/kernel_impl/cpu/verbose.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {
namespace {

void RunChunk(const MlaPrologQuantParams& p) {
  constexpr int64_t kKeyColumn = op_info::kQLoraRank;
  const int threads = NumThreads();
  TokenProjection projection(p.token_x, p.t, p.packed);
  projection.Add(p.w_dq, op_info::kQLoraRank);
  projection.Add(p.w_dkv_kr, op_info::kKvLoraRank + op_info::kRopeDim);
  const MlaHeads heads(p, threads);

  const size_t thread_bytes = Max(TokenProjection::ThreadParts().bytes, MlaHeads::ThreadParts(p.packed).bytes);
  ScratchPlan plan;
  const auto sums = plan.Add<float>(projection.SumsSize());
  const auto table = plan.Add<int64_t>(CacheRowTableSize(p.t));
  const auto writers = plan.Add<uint8_t>(p.t);
  const auto of_threads = plan.Add<char>(static_cast<int64_t>(thread_bytes) * threads);
  const Scratch scratch(plan);
  projection.Plan(scratch[sums], threads);
  uint8_t* writes = scratch[writers];
  char* thread_scratch = scratch[of_threads];
  FindCacheWriters(p.cache_index, p.t, scratch[table], writes);

  if (kVerbose) {
    const PlanItem items[] = {{"packed", p.packed},
                              {"depth_parts", projection.Parts()},
                              {"panels", projection.Panels()},
                              {"token_blocks", heads.tasks / p.n_q},
                              {"int8_tiles", Int8OnTiles(Min(kHeadRows, p.t))}};
    TellPlan("mla_prolog_quant", items);
  }

  // (1), (5) token_x @ w_dq and token_x @ w_dkv_kr
  ParallelFor(projection.tasks,
              [&](int64_t task, int thread) { projection.Run(task, thread_scratch + thread * thread_bytes); });
  // (1) query latent; (5), (6) key latent and cache rows
  ParallelFor(2 * p.t, [&](int64_t i, int) {
    if (i < p.t) {
      MlaQueryLatent(p, projection, 0, i);
    } else if (writes[i - p.t]) {
      MlaKeyLatent(p, projection, kKeyColumn, i - p.t);
    }
  });
  // (2) to (4) per head
  ParallelFor(heads.tasks, [&](int64_t task, int thread) { heads.Run(task, thread_scratch + thread * thread_bytes); });
}

}  // namespace

void MlaPrologQuant(const MlaPrologQuantParams& p) {
  for (int64_t first = 0; first < p.t; first += kPrologTokens) {
    RunChunk(TokenRange(p, first, Min(kPrologTokens, p.t - first)));
  }
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA
