// Generated from op_info/lightning_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::lightning_indexer_prolog_quant {

enum Index : int {
  kX,
  kQNorm,
  kQNormScale,
  kWQb,
  kWQbScale,
  kWk,
  kWProj,
  kLnGammaK,
  kLnBetaK,
  kCosIdxRope,
  kSinIdxRope,
  kHadamardQ,
  kHadamardK,
  kKCache,
  kKCacheScale,
  kKCacheIndex,
  kQInt8Out,
  kQScaleOut,
  kWeightsOut,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"x", DType::kBFloat16, "t,h|b,s1,h", false, false},
    {"q_norm", DType::kInt8, "t,q_lora_rank|b,s1,q_lora_rank", false, false},
    {"q_norm_scale", DType::kFloat32, "t,1|b,s1,1", false, false},
    {"w_qb", DType::kInt8, "q_lora_rank,idx_n_heads*idx_head_dim", false, false},
    {"w_qb_scale", DType::kFloat32, "idx_n_heads*idx_head_dim,1", false, false},
    {"wk", DType::kBFloat16, "h,idx_head_dim", false, false},
    {"w_proj", DType::kBFloat16, "h,idx_n_heads", false, false},
    {"ln_gamma_k", DType::kBFloat16, "idx_head_dim", false, false},
    {"ln_beta_k", DType::kBFloat16, "idx_head_dim", false, false},
    {"cos_idx_rope", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"sin_idx_rope", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"hadamard_q", DType::kBFloat16, "idx_head_dim,idx_head_dim", false, false},
    {"hadamard_k", DType::kBFloat16, "idx_head_dim,idx_head_dim", false, false},
    {"k_cache", DType::kInt8, "block_num,block_size,n_kv,idx_head_dim", true, false},
    {"k_cache_scale", DType::kFloat16, "block_num,block_size,n_kv,1", true, false},
    {"k_cache_index", DType::kInt64, "t|b,s1", false, false},
};
inline constexpr ArgInfo kOutputs[] = {
    {"q_int8_out", DType::kInt8, "t,idx_n_heads,idx_head_dim", false, false},
    {"q_scale_out", DType::kFloat16, "t,idx_n_heads,1", false, false},
    {"weights_out", DType::kFloat16, "t,idx_n_heads", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"layernorm_epsilon_k", AttrType::kFloat, "", "", 0.0, false},
    {"layout_query", AttrType::kStr, "", "TND", kNoMinimum, false},
    {"layout_key", AttrType::kStr, "", "PA_BSND", kNoMinimum, false},
    {"weight_format", AttrType::kStr, "", "ND|PACKED", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"lightning_indexer_prolog_quant", "LightningIndexerPrologQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::lightning_indexer_prolog_quant
