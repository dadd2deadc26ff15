// Generated from op_info/lightning_indexer_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::lightning_indexer_quant {

enum Index : int {
  kQInt8,
  kQScale,
  kWeights,
  kKCache,
  kKCacheScale,
  kBlockTable,
  kKvActSeqs,
  kQueryActSeqs,
  kTopkIndices,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"q_int8", DType::kInt8, "t,idx_n_heads,idx_head_dim|b,s1,idx_n_heads,idx_head_dim", false, false},
    {"q_scale", DType::kFloat16, "t,idx_n_heads,1|b,s1,idx_n_heads,1", false, false},
    {"weights", DType::kFloat16, "t,idx_n_heads|b,s1,idx_n_heads", false, false},
    {"k_cache", DType::kInt8, "block_num,block_size,n_kv,idx_head_dim", false, false},
    {"k_cache_scale", DType::kFloat16, "block_num,block_size,n_kv,1", false, false},
    {"block_table", DType::kInt32, "b,max_blocknum_perbatch", false, false},
    {"kv_act_seqs", DType::kInt32, "b", false, false},
    {"query_act_seqs", DType::kInt32, "b", false, true},
};
inline constexpr ArgInfo kOutputs[] = {
    {"topk_indices", DType::kInt32, "t,selected_count", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"selected_count", AttrType::kInt, "selected_count", "", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"lightning_indexer_quant", "LightningIndexerQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::lightning_indexer_quant
