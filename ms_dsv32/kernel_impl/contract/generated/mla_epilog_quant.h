// Generated from op_info/mla_epilog_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include "ms_dsv32/kernel_impl/contract/tables.h"

namespace ms_dsv32::op_info::mla_epilog_quant {

enum Index : int {
  kAttentionOut,
  kWUv,
  kWO,
  kWOScale,
  kHiddenOut,
  kArgCount,
};
inline constexpr ArgInfo kInputs[] = {
    {"attention_out", DType::kBFloat16, "t,n_q,kv_lora_rank|b,s1,n_q,kv_lora_rank", false, false},
    {"w_uv", DType::kBFloat16, "n_q,kv_lora_rank,v_head_dim", false, false},
    {"w_o", DType::kInt8, "n_q*v_head_dim,h", false, false},
    {"w_o_scale", DType::kFloat32, "h,1", false, false},
};
inline constexpr ArgInfo kOutputs[] = {
    {"hidden_out", DType::kBFloat16, "t,h", false, false},
};
inline constexpr AttrInfo kAttrs[] = {
    {"weight_format", AttrType::kStr, "", "ND|PACKED", kNoMinimum, false},
};
inline constexpr OpInfo kOp{"mla_epilog_quant", "MlaEpilogQuant", kInputs, std::size(kInputs), kOutputs,
                             std::size(kOutputs), kAttrs, std::size(kAttrs)};

}  // namespace ms_dsv32::op_info::mla_epilog_quant
