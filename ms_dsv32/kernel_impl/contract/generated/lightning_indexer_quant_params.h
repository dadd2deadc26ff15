// Generated from op_info/lightning_indexer_quant.json by `python -m ms_dsv32.op_info --write`. Do not edit.
// clang-format off
#pragma once

#include <stdint.h>

#include "ms_dsv32/kernel_impl/contract/query_token.h"

namespace ms_dsv32 {

// The arguments of a checked call. Pointers need the alignment of their element alone.
// What is not const is written, and overlaps nothing else.
struct LightningIndexerQuantParams {
  int64_t t;
  int64_t selected_count;
  int64_t max_blocknum_perbatch;
  const int8_t* q_int8;  // [t, idx_n_heads, idx_head_dim]
  const uint16_t* q_scale;  // fp16 [t, idx_n_heads, 1]
  const uint16_t* weights;  // fp16 [t, idx_n_heads]
  const int8_t* k_cache;  // [block_num, block_size, n_kv, idx_head_dim]
  const uint16_t* k_cache_scale;  // fp16 [block_num, block_size, n_kv, 1]
  const int32_t* block_table;  // [b, max_blocknum_perbatch]
  const QueryToken* tokens;  // [t], of kv_act_seqs and query_act_seqs
  int32_t* topk_indices;  // [t, selected_count]
};

}  // namespace ms_dsv32
