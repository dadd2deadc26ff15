// Generated from op_info/internal/sparse_attention_step.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::sparse_attention_step {

enum Index : int {
  kCacheIndex,
  kKCache,
  kBlockTable,
  kKvActSeqs,
  kQueryActSeqs,
  kChecked,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"cache_index", DType::kInt64, "t|b,s1", false, false},
    {"k_cache", DType::kInt8, "block_num,block_size,n_kv,idx_head_dim", false, false},
    {"block_table", DType::kInt32, "b,max_blocknum_perbatch", false, false},
    {"kv_act_seqs", DType::kInt32, "b", false, false},
    {"query_act_seqs", DType::kInt32, "b", false, true},
};
inline constexpr ArgInfo kOutputs[] = {
    {"checked", DType::kInt32, "0", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"max_blocknum_perbatch", AttrType::kInt, "max_blocknum_perbatch", "", kNoMinimum, true},
};
inline constexpr OpInfo kOp{"sparse_attention_step", "SparseAttentionStep", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::sparse_attention_step
