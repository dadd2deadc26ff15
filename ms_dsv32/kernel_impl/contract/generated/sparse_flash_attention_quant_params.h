// Generated from op_info/sparse_flash_attention_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <stdint.h>

#include "ms_dsv32/kernel_impl/contract/query_token.h"

namespace ms_dsv32 {

// The arguments of a checked call. Pointers need the alignment of their element alone.
// What is not const is written, and overlaps nothing else.
struct SparseFlashAttentionQuantParams {
  int64_t t;
  int64_t n_q;
  int64_t selected_count;
  int64_t max_blocknum_perbatch;
  const uint16_t* query_nope;  // bf16 [t * n_q, kv_lora_rank]
  const uint16_t* query_rope;  // bf16 [t * n_q, rope_dim]
  const int8_t* key_nope_2d;  // [block_num * block_size, kv_lora_rank]
  const uint16_t* key_rope_2d;  // bf16 [block_num * block_size, rope_dim]
  const float* k_nope_scales;  // [block_num * block_size, k_scale_groups]
  const int32_t* topk_indices;  // [t, n_kv * selected_count]
  const int32_t* block_table;  // [b, max_blocknum_perbatch]
  const QueryToken* tokens;  // [t], of kv_act_seqs and query_act_seqs
  float softmax_scale;
  uint16_t* attention;  // bf16 [t, n_q, kv_lora_rank]
  float* lse;  // [t, n_q]
};

}  // namespace ms_dsv32
