// Generated from op_info/mla_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::mla_prolog_quant {

enum Index : int {
  kTokenX,
  kWDq,
  kWUqQr,
  kDequantScale,
  kWUk,
  kWDkvKr,
  kGammaCq,
  kGammaCkv,
  kCos,
  kSin,
  kCacheIndex,
  kKvCache,
  kKrCache,
  kKScaleCache,
  kQNormOut,
  kQNormScaleOut,
  kQueryNopeOut,
  kQueryRopeOut,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"token_x", DType::kBFloat16, "t,h|b,s1,h", false, false},
    {"w_dq", DType::kBFloat16, "h,q_lora_rank", false, false},
    {"w_uq_qr", DType::kInt8, "q_lora_rank,n_q*q_head_dim", false, false},
    {"dequant_scale", DType::kFloat32, "n_q*q_head_dim,1", false, false},
    {"w_uk", DType::kBFloat16, "n_q,qk_nope_head_dim,kv_lora_rank", false, false},
    {"w_dkv_kr", DType::kBFloat16, "h,kv_lora_rank+rope_dim", false, false},
    {"gamma_cq", DType::kBFloat16, "q_lora_rank", false, false},
    {"gamma_ckv", DType::kBFloat16, "kv_lora_rank", false, false},
    {"cos", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"sin", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"cache_index", DType::kInt64, "t|b,s1", false, false},
    {"kv_cache", DType::kInt8, "block_num,block_size,n_kv,kv_lora_rank", true, false},
    {"kr_cache", DType::kBFloat16, "block_num,block_size,n_kv,rope_dim", true, false},
    {"k_scale_cache", DType::kFloat32, "block_num,block_size,n_kv,k_scale_groups", true, false},
};
inline constexpr ArgInfo kOutputs[] = {
    {"q_norm_out", DType::kInt8, "t,q_lora_rank", false, false},
    {"q_norm_scale_out", DType::kFloat32, "t,1", false, false},
    {"query_nope_out", DType::kBFloat16, "t,n_q,kv_lora_rank", false, false},
    {"query_rope_out", DType::kBFloat16, "t,n_q,rope_dim", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"epsilon_cq", AttrType::kFloat, "", "", 0.0, false},
    {"epsilon_ckv", AttrType::kFloat, "", "", 0.0, false},
    {"cache_mode", AttrType::kStr, "", "PA_BSND", kNoMinimum, false},
    {"weight_format", AttrType::kStr, "", "ND|PACKED", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"mla_prolog_quant", "MlaPrologQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::mla_prolog_quant
