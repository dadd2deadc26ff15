// Generated from op_info/mla_indexer_prolog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::mla_indexer_prolog_quant {

enum Index : int {
  kTokenX,
  kMlaWDq,
  kMlaWUqQr,
  kMlaDequantScale,
  kMlaWUk,
  kMlaWDkvKr,
  kMlaGammaCq,
  kMlaGammaCkv,
  kCos,
  kSin,
  kCacheIndex,
  kMlaKvCache,
  kMlaKrCache,
  kMlaKScaleCache,
  kIpWQbIn,
  kIpWQbScaleIn,
  kIpWkIn,
  kIpWProjIn,
  kIpLnGammaKIn,
  kIpLnBetaKIn,
  kIpHadamardQIn,
  kIpHadamardKIn,
  kIpKCache,
  kIpKCacheScale,
  kMlaQueryNopeOut,
  kMlaQueryRopeOut,
  kIpQInt8Out,
  kIpQScaleOut,
  kIpWeightsOut,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"token_x", DType::kBFloat16, "t,h|b,s1,h", false, false},
    {"mla_w_dq", DType::kBFloat16, "h,q_lora_rank", false, false},
    {"mla_w_uq_qr", DType::kInt8, "q_lora_rank,n_q*q_head_dim", false, false},
    {"mla_dequant_scale", DType::kFloat32, "n_q*q_head_dim,1", false, false},
    {"mla_w_uk", DType::kBFloat16, "n_q,qk_nope_head_dim,kv_lora_rank", false, false},
    {"mla_w_dkv_kr", DType::kBFloat16, "h,kv_lora_rank+rope_dim", false, false},
    {"mla_gamma_cq", DType::kBFloat16, "q_lora_rank", false, false},
    {"mla_gamma_ckv", DType::kBFloat16, "kv_lora_rank", false, false},
    {"cos", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"sin", DType::kBFloat16, "t,rope_dim|b,s1,rope_dim", false, false},
    {"cache_index", DType::kInt64, "t|b,s1", false, false},
    {"mla_kv_cache", DType::kInt8, "block_num,block_size,n_kv,kv_lora_rank", true, false},
    {"mla_kr_cache", DType::kBFloat16, "block_num,block_size,n_kv,rope_dim", true, false},
    {"mla_k_scale_cache", DType::kFloat32, "block_num,block_size,n_kv,k_scale_groups", true, false},
    {"ip_w_qb_in", DType::kInt8, "q_lora_rank,idx_n_heads*idx_head_dim", false, false},
    {"ip_w_qb_scale_in", DType::kFloat32, "idx_n_heads*idx_head_dim,1", false, false},
    {"ip_wk_in", DType::kBFloat16, "h,idx_head_dim", false, false},
    {"ip_w_proj_in", DType::kBFloat16, "h,idx_n_heads", false, false},
    {"ip_ln_gamma_k_in", DType::kBFloat16, "idx_head_dim", false, false},
    {"ip_ln_beta_k_in", DType::kBFloat16, "idx_head_dim", false, false},
    {"ip_hadamard_q_in", DType::kBFloat16, "idx_head_dim,idx_head_dim", false, false},
    {"ip_hadamard_k_in", DType::kBFloat16, "idx_head_dim,idx_head_dim", false, false},
    {"ip_k_cache", DType::kInt8, "block_num,block_size,n_kv,idx_head_dim", true, false},
    {"ip_k_cache_scale", DType::kFloat16, "block_num,block_size,n_kv,1", true, false},
};
inline constexpr ArgInfo kOutputs[] = {
    {"mla_query_nope_out", DType::kBFloat16, "t,n_q,kv_lora_rank", false, false},
    {"mla_query_rope_out", DType::kBFloat16, "t,n_q,rope_dim", false, false},
    {"ip_q_int8_out", DType::kInt8, "t,idx_n_heads,idx_head_dim", false, false},
    {"ip_q_scale_out", DType::kFloat16, "t,idx_n_heads,1", false, false},
    {"ip_weights_out", DType::kFloat16, "t,idx_n_heads", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"mla_epsilon_cq", AttrType::kFloat, "", "", 0.0, false},
    {"mla_epsilon_ckv", AttrType::kFloat, "", "", 0.0, false},
    {"mla_cache_mode", AttrType::kStr, "", "PA_BSND", kNoMinimum, false},
    {"ip_attrs.layernorm_epsilon_k", AttrType::kFloat, "", "", 0.0, false},
    {"ip_attrs.layout_query", AttrType::kStr, "", "TND", kNoMinimum, false},
    {"ip_attrs.layout_key", AttrType::kStr, "", "PA_BSND", kNoMinimum, false},
    {"weight_format", AttrType::kStr, "", "ND|PACKED", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"mla_indexer_prolog_quant", "MlaIndexerPrologQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::mla_indexer_prolog_quant
