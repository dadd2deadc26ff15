// Generated from op_info/sparse_flash_attention_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::sparse_flash_attention_quant {

enum Index : int {
  kQueryNope,
  kQueryRope,
  kKeyNope2d,
  kKeyRope2d,
  kKNopeScales,
  kTopkIndices,
  kBlockTable,
  kKvActSeqs,
  kQueryActSeqs,
  kAttentionOut,
  kLse,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"query_nope", DType::kBFloat16, "t*n_q,kv_lora_rank|t,n_q,kv_lora_rank|b,s1,n_q,kv_lora_rank", false, false},
    {"query_rope", DType::kBFloat16, "t*n_q,rope_dim|t,n_q,rope_dim|b,s1,n_q,rope_dim", false, false},
    {"key_nope_2d", DType::kInt8, "block_num*block_size,kv_lora_rank|block_num,block_size,n_kv,kv_lora_rank", false, false},
    {"key_rope_2d", DType::kBFloat16, "block_num*block_size,rope_dim|block_num,block_size,n_kv,rope_dim", false, false},
    {"k_nope_scales", DType::kFloat32, "block_num*block_size,k_scale_groups|block_num,block_size,n_kv,k_scale_groups", false, false},
    {"topk_indices", DType::kInt32, "t,n_kv*selected_count|b,s1,n_kv*selected_count", false, false},
    {"block_table", DType::kInt32, "b,max_blocknum_perbatch", false, false},
    {"kv_act_seqs", DType::kInt32, "b", false, false},
    {"query_act_seqs", DType::kInt32, "b", false, true},
};
inline constexpr ArgInfo kOutputs[] = {
    {"attention_out", DType::kBFloat16, "b,s1,n_q,kv_lora_rank|t,n_q,kv_lora_rank", false, false},
    {"lse", DType::kFloat32, "b,s1,n_q|t,n_q", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"nq", AttrType::kInt, "n_q", "", kNoMinimum, false},
    {"n_kv", AttrType::kInt, "n_kv", "", kNoMinimum, false},
    {"softmax_scale", AttrType::kFloat, "", "", kNoMinimum, false},
    {"topk", AttrType::kInt, "selected_count", "", kNoMinimum, false},
    {"block_size", AttrType::kInt, "block_size", "", kNoMinimum, false},
    {"max_blocknum_perbatch", AttrType::kInt, "max_blocknum_perbatch", "", kNoMinimum, true},
    {"return_lse", AttrType::kBool, "", "", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"sparse_flash_attention_quant", "SparseFlashAttentionQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::sparse_flash_attention_quant
