// The arguments of a kernel for some of its tokens, for kernels that take many tokens in chunks.
#ifndef MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_RANGE_H_
#define MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_RANGE_H_

#include "ms_dsv32/kernel_impl/contract/generated/dims.h"
#include "ms_dsv32/kernel_impl/contract/generated/lightning_indexer_prolog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_epilog_quant_params.h"
#include "ms_dsv32/kernel_impl/contract/generated/mla_prolog_quant_params.h"

namespace ms_dsv32::cpu::MS_DSV32_ISA {

// The arguments for tokens [first, first + count).
inline MlaPrologQuantParams TokenRange(MlaPrologQuantParams p, int64_t first, int64_t count) {
  p.t = count;
  p.token_x += first * op_info::kH;
  p.cos += first * op_info::kRopeDim;
  p.sin += first * op_info::kRopeDim;
  p.cache_index += first;
  if (p.q_norm != nullptr) {  // the fused operator keeps the latents of the chunk at hand only
    p.q_norm += first * op_info::kQLoraRank;
    p.q_norm_scale += first;
  }
  p.q_nope += first * p.n_q * op_info::kKvLoraRank;
  p.q_rope += first * p.n_q * op_info::kRopeDim;
  return p;
}

inline LightningIndexerPrologQuantParams TokenRange(LightningIndexerPrologQuantParams p, int64_t first, int64_t count) {
  p.t = count;
  p.x += first * op_info::kH;
  if (p.q_norm != nullptr) {  // the fused operator keeps the latents of the chunk at hand only
    p.q_norm += first * op_info::kQLoraRank;
    p.q_norm_scale += first;
  }
  p.cos_idx_rope += first * op_info::kRopeDim;
  p.sin_idx_rope += first * op_info::kRopeDim;
  p.k_cache_index += first;
  p.q_int8 += first * op_info::kIdxNHeads * op_info::kIdxHeadDim;
  p.q_scale += first * op_info::kIdxNHeads;
  p.weights += first * op_info::kIdxNHeads;
  return p;
}

inline MlaEpilogQuantParams TokenRange(MlaEpilogQuantParams p, int64_t first, int64_t count) {
  p.t = count;
  p.attention_out += first * p.n_q * op_info::kKvLoraRank;
  p.hidden += first * op_info::kH;
  return p;
}

}  // namespace ms_dsv32::cpu::MS_DSV32_ISA

#endif  // MS_DSV32_KERNEL_IMPL_CPU_ISA_TOKEN_RANGE_H_
